// SPDX-License-Identifier: MIT
// mode.cc - see mode.h.
// Invariant: as there. Two threads that ask at once compute the same.
// Context: N, also before libc has read the environment; allocates nothing.
#include "interpose/mode.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <atomic>

#include "rawsys/rawsys.h"

namespace cr::interpose {
namespace {

constexpr char kName[] = "CR_MODE=";
constexpr size_t kNameBytes = sizeof(kName) - 1;
constexpr size_t kMostBytes = 40;  // of a value; a longer one is cut, and unknown anyway

constinit std::atomic<int> g_mode{-1};

// Copies the value from environ, which libc has filled in.
bool value_from_libc(char* ret_value) {
  for (char** e = environ; *e != nullptr; e++) {
    if (strncmp(*e, kName, kNameBytes) != 0) continue;
    rawsys::str_copy(ret_value, *e + kNameBytes, kMostBytes);
    return true;
  }
  return false;
}

// The loader may allocate before libc knows its environment: the kernel knows it.
bool value_from_kernel(char* ret_value) {
  const long fd = rawsys::sys_openat(AT_FDCWD, "/proc/self/environ", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char buf[4096], variable[kNameBytes + kMostBytes] = "";
  size_t used = 0;
  bool found = false;
  for (long n; !found && (n = rawsys::sys_read(static_cast<int>(fd), buf, sizeof(buf))) > 0;) {
    for (long i = 0; i < n && !found; i++) {
      if (used < sizeof(variable) - 1) variable[used++] = buf[i];
      if (buf[i] != 0) continue;
      variable[used] = 0;
      found = strncmp(variable, kName, kNameBytes) == 0;
      used = 0;
    }
  }
  rawsys::sys_close(static_cast<int>(fd));
  if (found) rawsys::str_copy(ret_value, variable + kNameBytes, kMostBytes);
  return found;
}

struct Value {
  char text[kMostBytes] = "";
  Mode mode = Mode::kAll;
  bool known = true;
};

Value read_value() {
  Value v;
  const bool set = environ != nullptr ? value_from_libc(v.text) : value_from_kernel(v.text);
  if (!set || v.text[0] == 0) return v;
  if (strcmp(v.text, "heap") == 0) {
    v.mode = Mode::kHeap;
  } else if (strcmp(v.text, "engine") == 0) {
    v.mode = Mode::kEngine;
  } else {
    v.known = false;
  }
  return v;
}

}  // namespace

Mode mode() {
  int known = g_mode.load(std::memory_order_relaxed);
  if (known < 0) {
    known = static_cast<int>(read_value().mode);
    g_mode.store(known, std::memory_order_relaxed);
  }
  return static_cast<Mode>(known);
}

void warn_of_unknown_mode() {
  const Value v = read_value();
  if (v.known) return;
  rawsys::LineBuffer<200> line;
  line.text("checkpoint_restore: CR_MODE=").text(v.text);
  line.text(" means nothing: it may be heap, engine or not set; taken as not set\n");
  rawsys::sys_write(2, line.c_str(), line.size());
}

}  // namespace cr::interpose
