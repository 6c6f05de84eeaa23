// SPDX-License-Identifier: MIT
// plugins.cc - registration of plug-ins, and the calls of their callbacks.
// Invariant: save_all() and restore_one() change nothing of the program's but what the callbacks
// do; they run in a stop, so they take no lock.
// Context: N (registration); S, on a thread of the program (the others).
#include <checkpoint_restore_plugin.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "api/error.h"
#include "control/control.h"
#include "control/quick.h"
#include "format/plugins.h"

namespace cr::api {
namespace {

constinit pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;

void save_all() {
  const int before = errno;
  format::PluginTable& t = control::plugins();
  t.failed = 0;
  for (uint32_t i = 0; i < t.count && t.failed == 0; i++) {
    const format::PluginEntry& e = t.entries[i];
    t.why[0] = '\0';
    const auto save = reinterpret_cast<int (*)(void*, char*, size_t)>(e.save);
    t.error = save(reinterpret_cast<void*>(e.context), t.why, sizeof(t.why));
    if (t.error != 0) t.failed = i + 1;
  }
  errno = before;
}

long restore_one(uint64_t number) {
  const int before = errno;
  const format::PluginEntry& e = control::plugins().entries[number];
  const auto restore = reinterpret_cast<int (*)(void*)>(e.restore);
  const int r = restore(reinterpret_cast<void*>(e.context));
  errno = before;
  return -static_cast<long>(r);
}

bool ends(const char* text, size_t size) { return memchr(text, 0, size) != nullptr; }

// What the engine saves by itself is not to be taken from it.
bool may_claim(const char* begin) {
  return begin[0] == '\0' || strncmp(begin, "anon_inode:", 11) == 0 ||
         strncmp(begin, "/dev/", 5) == 0;
}

int check(const crplugin* p) {
  if (p == nullptr || p->version != CRPLUGIN_VERSION || p->size != sizeof(*p)) return EINVAL;
  if (!ends(p->name, sizeof(p->name)) || p->name[0] == '\0' || p->save == nullptr ||
      p->restore == nullptr || !ends(p->descriptors, sizeof(p->descriptors)) ||
      !ends(p->mappings, sizeof(p->mappings)) || !may_claim(p->descriptors) ||
      !may_claim(p->mappings)) {
    return EINVAL;
  }
  return p->probe == nullptr ? 0 : p->probe(p->context);
}

int add(const crplugin& p) {
  format::PluginTable& t = control::plugins();
  for (uint32_t i = 0; i < t.count; i++) {
    if (strcmp(t.entries[i].name, p.name) == 0) return EEXIST;
  }
  if (t.count == format::kMostPlugins) return ENOSPC;
  format::PluginEntry& e = t.entries[t.count];
  memcpy(e.name, p.name, sizeof(e.name));
  memcpy(e.descriptors, p.descriptors, sizeof(e.descriptors));
  memcpy(e.mappings, p.mappings, sizeof(e.mappings));
  e.save = reinterpret_cast<uint64_t>(p.save);
  e.restore = reinterpret_cast<uint64_t>(p.restore);
  e.context = reinterpret_cast<uint64_t>(p.context);
  t.save_all = reinterpret_cast<uint64_t>(&save_all);
  t.restore_one = reinterpret_cast<uint64_t>(&restore_one);
  __atomic_store_n(&t.count, t.count + 1, __ATOMIC_RELEASE);
  return 0;
}

}  // namespace
}  // namespace cr::api

extern "C" __attribute__((visibility("default"))) int crplugin_register(const crplugin* plugin) {
  using namespace cr::api;
  static_assert(CRPLUGIN_MOST == cr::format::kMostPlugins);
  int r = check(plugin);
  if (r == 0) {
    pthread_mutex_lock(&g_lock);
    cr::control::forbid_quick();
    r = add(*plugin);
    pthread_mutex_unlock(&g_lock);
  }
  if (r == 0) return 0;
  errno = r;
  return -1;
}
