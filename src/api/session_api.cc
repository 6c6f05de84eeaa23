// SPDX-License-Identifier: MIT
// session_api.cc - crinit, checkpoint, restore, hooks, exclusions, status: the C face of the
// engine.
// Invariant: no exported function prints; errors go through errno and crerror().
// Context: N. Doc: docs/man/checkpoint_restore.3.
#include <checkpoint_restore.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/agent_start.h"
#include "api/error.h"
#include "api/session.h"
#include "control/control.h"
#include "control/quick.h"
#include "crthreads/crthreads.h"
#include "nvheap/nvheap.h"
#include "rawsys/rawsys.h"

namespace cr::api {
namespace {

constexpr int kMaxHooks = 64;
constexpr int kMostTries = 3;  // of the quick path, in one checkpoint()
struct Hook {
  crhook_when when;
  crhook_fn fn;
  void* arg;
};
struct Hooks {
  pthread_mutex_t lock;
  int count;
  Hook table[kMaxHooks];
};
constinit Hooks g_hooks = {PTHREAD_MUTEX_INITIALIZER, 0, {}};
constinit pthread_mutex_t g_init_lock = PTHREAD_MUTEX_INITIALIZER;
constinit pthread_mutex_t g_exclude_lock = PTHREAD_MUTEX_INITIALIZER;
__thread bool t_in_hook;

bool has_hook(crhook_when when) {
  pthread_mutex_lock(&g_hooks.lock);
  bool any = false;
  for (int i = 0; i < g_hooks.count; i++) any = any || g_hooks.table[i].when == when;
  pthread_mutex_unlock(&g_hooks.lock);
  return any;
}

void run_hooks(crhook_when when) {
  Hook copy[kMaxHooks];
  pthread_mutex_lock(&g_hooks.lock);
  const int n = g_hooks.count;
  memcpy(copy, g_hooks.table, sizeof(Hook) * static_cast<size_t>(n));
  pthread_mutex_unlock(&g_hooks.lock);
  t_in_hook = true;
  for (int i = 0; i < n; i++) {
    const Hook& h = copy[when == CR_HOOK_BEFORE_CHECKPOINT ? n - 1 - i : i];
    if (h.when == when) h.fn(h.arg);
  }
  t_in_hook = false;
}

// Runs hooks for checkpoints and restores that the program did not ask for. A thread of the program
// like any other, made when the first hook is registered.
void* hook_thread(void*) {
  control::State& st = control::state();
  pthread_setname_np(pthread_self(), "cr-hooks");
  uint32_t done = st.hooks_done;
  for (;;) {
    const uint32_t wanted = __atomic_load_n(&st.hooks_wanted, __ATOMIC_ACQUIRE);
    if (wanted == done) {
      rawsys::sys_futex(&st.hooks_wanted, FUTEX_WAIT_PRIVATE, wanted);
      continue;
    }
    run_hooks(static_cast<crhook_when>(st.hook_when));
    done = wanted;
    __atomic_store_n(&st.hooks_done, wanted, __ATOMIC_RELEASE);
    rawsys::sys_futex(&st.hooks_done, FUTEX_WAKE_PRIVATE, 0x7fffffff);
  }
  return nullptr;
}

int start_hook_thread() {
  control::State& st = control::state();
  if (st.hook_threads != 0) return 0;
  st.hooks_done = st.hooks_wanted;
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_t t;
  const int r = pthread_create(&t, nullptr, hook_thread, nullptr);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (r == 0) {
    pthread_detach(t);
    st.hook_threads = 1;
  }
  return r;
}

// What the words mean the agent finds out.
Result<void> check_protection(const crattr& a) {
  const bool rest = a.name != nullptr || a.store_socket != nullptr || a.flush_every != 0 ||
                    a.flush_interval_seconds != 0;
  if (a.protect == nullptr && rest) {
    return Error{
        Errc::kInvalid, EINVAL,
        "crinit: crattr.name, flush_every, flush_interval_seconds and store_socket go with "
        "crattr.protect"};
  }
  if (a.flush_interval_seconds != 0 &&
      !(a.flush_interval_seconds >= 0.001 && a.flush_interval_seconds < 1e9)) {
    return Error{Errc::kInvalid, EINVAL,
                 "crinit: crattr.flush_interval_seconds must be 0 or 0.001..1e9"};
  }
  return {};
}

// The defaults, overlaid by what the caller's (possibly older, shorter) struct says.
Result<crattr> read_attr(const crattr* given) {
  crattr a{};
  a.size = sizeof(a);
  if (given == nullptr) return a;
  if (given->size < 16 || given->size > 4096) {
    return Error{Errc::kInvalid, EINVAL, "crinit: crattr.size is not set (use CRATTR_INIT)"};
  }
  const size_t known = given->size < sizeof(a) ? given->size : sizeof(a);
  memcpy(&a, given, known);
  for (size_t i = sizeof(a); i < given->size; i++) {
    if (reinterpret_cast<const char*>(given)[i] != 0) {
      return Error{Errc::kInvalid, EINVAL,
                   "crinit: crattr has fields that this version of the library does not know"};
    }
  }
  if ((a.flags & ~(CR_RESUME | CR_RESUME_LENIENT)) != 0) {
    return Error{Errc::kInvalid, EINVAL, "crinit: unknown bit in crattr.flags"};
  }
  if (!(a.interval_seconds == 0 || a.interval_seconds == CR_INTERVAL_AUTO ||
        (a.interval_seconds >= 0.001 && a.interval_seconds < 1e9))) {
    return Error{Errc::kInvalid, EINVAL,
                 "crinit: crattr.interval_seconds must be 0, CR_INTERVAL_AUTO or 0.001..1e9"};
  }
  if (a.durable > CR_DURABLE_CRASH || a.track > CR_TRACKER_HASH) {
    return Error{Errc::kInvalid, EINVAL, "crinit: crattr.durable or crattr.track out of range"};
  }
  CR_TRYV(check_protection(a));
  return a;
}

// Absolute path of the image directory, which need not exist yet.
Result<void> image_dir_path(const char* given, char* out, size_t cap) {
  char name[PATH_MAX];
  if (given == nullptr) given = getenv("CR_IMAGE_DIR");
  if (given == nullptr) {
    snprintf(name, sizeof(name), "%s.image", program_invocation_short_name);
    given = name;
  }
  if (given[0] == '/') {
    if (strlen(given) >= cap) return Error{Errc::kInvalid, ENAMETOOLONG, "crinit: image_dir"};
    rawsys::str_copy(out, given, cap);
    return {};
  }
  char cwd[PATH_MAX];
  if (getcwd(cwd, sizeof(cwd)) == nullptr) return Error{Errc::kSystem, errno, "crinit: getcwd"};
  if (static_cast<size_t>(snprintf(out, cap, "%s/%s", cwd, given)) >= cap) {
    return Error{Errc::kInvalid, ENAMETOOLONG, "crinit: image_dir"};
  }
  return {};
}

// The session goes on being protected. Returns if it cannot be.
void exec_restore(const crattr& a, const char* program, const char* dir) {
  char protect[64], name[96], every[64], period[80];
  const char* argv[8] = {program};
  int n = 1;
  if (a.protect != nullptr) {
    snprintf(protect, sizeof(protect), "--protect=%s", a.protect);
    argv[n++] = protect;
  }
  if (a.name != nullptr) {
    snprintf(name, sizeof(name), "--name=%s", a.name);
    argv[n++] = name;
  }
  if (a.flush_every != 0) {
    snprintf(every, sizeof(every), "--flush-every=%llu",
             static_cast<unsigned long long>(a.flush_every));
    argv[n++] = every;
  }
  if (a.flush_interval_seconds != 0) {
    snprintf(period, sizeof(period), "--flush-interval=%.9f", a.flush_interval_seconds);
    argv[n++] = period;
  }
  argv[n++] = "--";
  argv[n++] = dir;
  if (a.store_socket != nullptr) setenv("CR_STORE_SOCKET", a.store_socket, 1);
  execv(program, const_cast<char**>(argv));
}

// CR_RESUME: crrestore checks the image; if it is whole we become crrestore, which brings the
// program back and gives its exit status.
int resume(const crattr& a, const char* dir) {
  const bool lenient = (a.flags & CR_RESUME_LENIENT) != 0;
  char path[PATH_MAX + 8];
  struct stat st;
  bool any = false;
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof(path), "%s/image.%d", dir, i);
    any = any || stat(path, &st) == 0;
  }
  if (!any) return 0;
  char program[PATH_MAX + 64];
  if (!beside_library("bin/crrestore", program, sizeof(program))) {
    return fail(Error{Errc::kNotFound, ENOENT, "crinit: CR_RESUME needs bin/crrestore"});
  }
  char command[3 * PATH_MAX];
  if (strchr(dir, '\'') != nullptr || strchr(program, '\'') != nullptr) {
    return fail(Error{Errc::kInvalid, EINVAL, "crinit: CR_RESUME: a path contains a quote"});
  }
  snprintf(command, sizeof(command), "unset LD_PRELOAD; '%s' --check-only '%s'%s", program, dir,
           lenient ? "" : " 2>/dev/null");
  const int status = system(command);
  if (status == 0) {
    fflush(nullptr);
    unsetenv("LD_PRELOAD");
    exec_restore(a, program, dir);
    return fail(Error{Errc::kSystem, errno, "crinit: CR_RESUME: exec of crrestore"});
  }
  constexpr int kNoWholeImage = 4;  // documented exit status of --check-only
  if (lenient || (WIFEXITED(status) && WEXITSTATUS(status) == kNoWholeImage)) return 0;
  return fail(Error{Errc::kDamaged, EBADMSG, "crinit: CR_RESUME: the image is unusable"},
              "run crrestore --check-only for the reason");
}

// A process that one under crrun has made belongs to its session, and joins it when it says so, or
// when a checkpoint is taken. False: there is none.
bool join_tree() {
  if (control::state().ready == 0 || control::state().status == control::kAgentGone) return false;
  static char dir[PATH_MAX];
  const char* from = control::state().session_dir;  // of the process that it was forked from
  if (from[0] == 0) from = getenv("CR_SESSION");
  if (from == nullptr || getenv("CR_SESSION") == nullptr) return false;
  rawsys::str_copy(dir, from, sizeof(dir));
  return static_cast<bool>(join_session(dir));
}

int init_locked(const crattr& a) {
  auto heap = nvheap::init(a.heap_reserve_bytes);
  if (!heap) return fail(heap.error());
  if (a.stack_bytes != 0) crthreads::set_default_stack_bytes(a.stack_bytes);
  if (control::attached() || join_tree()) {  // under crrun
    if (a.interval_seconds != 0) control::set_interval(a.interval_seconds);
    return 0;
  }
  static char dir[PATH_MAX];
  auto where = image_dir_path(a.image_dir, dir, sizeof(dir));
  if (!where) return fail(where.error());
  if ((a.flags & CR_RESUME) != 0 && resume(a, dir) != 0) return -1;
  char text[512] = "";
  AgentOptions o{dir, a.interval_seconds, a.staging_bytes, a.durable, a.track};
  if (a.protect != nullptr) o.protect = a.protect;
  if (a.name != nullptr) o.name = a.name;
  if (a.store_socket != nullptr) o.store_socket = a.store_socket;
  o.flush_every = a.flush_every;
  o.flush_interval_seconds = a.flush_interval_seconds;
  auto agent = start_agent(o, text, sizeof(text));
  if (!agent) return fail(agent.error(), text);
  auto joined = join_session(dir);
  if (!joined) return fail(joined.error());
  return 0;
}

constinit bool g_initialised = false;
constinit bool g_heap_session = false;  // crheap_open()

// An agent that is not the parent learns from this alone that the program came to its end.
__attribute__((destructor)) void say_goodbye() {
  if (control::attached()) control::state().channel->exited = 1;
}

void forget_in_child() {
  g_initialised = false;
  control::state().status = control::kDetached;
  control::state().hook_threads = 0;
}

int ask(control::Ask what) {
  if (t_in_hook) return fail(Error{Errc::kDeadlock, 0, "called from a hook"});
  if (!control::attached() && what == control::Ask::kCheckpoint) {
    pthread_mutex_lock(&g_init_lock);
    if (!control::attached()) join_tree();
    pthread_mutex_unlock(&g_init_lock);
  }
  if (!control::attached()) {
    const bool gone = control::state().status == control::kAgentGone;
    return fail(gone ? Error{Errc::kAgentGone, 0, control::gone_text()}
                     : Error{Errc::kNotInitialised, 0, "no session: call crinit() first"});
  }
  char text[512] = "";
  const control::Answer a = control::ask(what, text, sizeof(text));
  if (a.restored) return CR_RESTORED;
  if (a.code == Errc::kOk) return 0;
  return fail(Error{a.code, a.sys_errno, text[0] != 0 ? text : name_of(a.code)});
}

// restore(): the agent has prepared everything; this process begins anew as the restorer's host.
int exec_into_restore() {
  format::ChannelHeader* ch = control::state().channel;
  char* strings = reinterpret_cast<char*>(ch) + ch->exec_strings_off;
  auto split = [](char* from, uint32_t bytes) {
    size_t n = 0;
    for (uint32_t i = 0; i < bytes; i++) n += from[i] == 0 ? 1 : 0;
    auto** list = static_cast<char**>(calloc(n + 1, sizeof(char*)));
    if (list == nullptr) return list;
    size_t k = 0;
    for (uint32_t i = 0; i < bytes && k < n; i += static_cast<uint32_t>(strlen(from + i)) + 1) {
      list[k++] = from + i;
    }
    return list;
  };
  char** argv = split(strings, ch->exec_argv_bytes);
  char** envp = split(strings + ch->exec_argv_bytes, ch->exec_env_bytes);
  if (argv != nullptr && envp != nullptr) execve(ch->exec_path, argv, envp);
  return fail(Error{Errc::kSystem, errno, "restore: exec"}, ch->exec_path);
}

// One heap per process, and no session beside it.
int heap_open_locked(const char* image_dir, uint32_t flags) {
  if (g_initialised || control::state().status != control::kDetached ||
      nvheap::range_info().begin != 0) {
    return fail(Error{Errc::kBusy, EBUSY,
                      "crheap_open: this process has a session or a heap in use already (crrun, "
                      "crinit, crmalloc)"});
  }
  static char dir[PATH_MAX];
  auto where = image_dir_path(image_dir, dir, sizeof(dir));
  if (!where) return fail(where.error());
  const char* mode = (flags & CR_HEAP_READ_ONLY) != 0 ? "read"
                     : (flags & CR_HEAP_CREATE) != 0  ? "create"
                                                      : "open";
  const uint32_t durable =
      (flags & CR_HEAP_DURABLE_CRASH) != 0 ? CR_DURABLE_CRASH : CR_DURABLE_POWER;
  char text[512] = "";
  auto agent = start_agent({dir, 0, 0, durable, 0, mode}, text, sizeof(text));
  if (!agent) return fail(agent.error(), text);
  auto joined = join_session(dir);
  if (!joined) return fail(joined.error());
  format::ChannelHeader* ch = control::state().channel;
  Result<void> r;
  if (ch->heap_base == 0) {
    r = nvheap::init(0);
  } else {
    const long at =
        rawsys::sys_mmap(ch->heap_base, ch->heap_bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != static_cast<long>(ch->heap_base)) {
      r = Error{Errc::kNoMemory, ENOMEM, "crheap_open: the heap's address range is not free"};
    }
    const auto* ranges = reinterpret_cast<const format::Range*>(
        reinterpret_cast<const uint8_t*>(ch) + ch->ranges_off);
    for (uint64_t i = 0; r && i < ch->range_count; i++) {
      if (rawsys::sys_mprotect(ranges[i].start, ranges[i].end - ranges[i].start,
                               PROT_READ | PROT_WRITE) != 0) {
        r = Error{Errc::kNoMemory, ENOMEM, "crheap_open: memory for the heap"};
      }
    }
    if (r && ask(control::Ask::kRollback) != 0) {
      control::close();
      rawsys::sys_munmap(ch->heap_base, ch->heap_bytes);
      return -1;
    }
    if (r) r = nvheap::open_at(ch->heap_base);
    if (!r && !rawsys::is_error(at)) rawsys::sys_munmap(ch->heap_base, ch->heap_bytes);
  }
  if (!r) {
    control::close();
    return fail(r.error());
  }
  g_heap_session = true;
  return 0;
}

}  // namespace

void prepare_to_join() {
  control::state().heap_words[0] = reinterpret_cast<uint64_t>(nvheap::directory_word());
  control::allow_joining();
}

Result<void> join_session(const char* dir) {
  prepare_to_join();
  CR_TRYV(control::start(dir));
  static constinit bool registered = false;
  if (!registered) {
    registered = true;
    pthread_atfork(nullptr, nullptr, forget_in_child);
  }
  return {};
}

}  // namespace cr::api

using namespace cr;
using namespace cr::api;

int crinit(struct crattr* attr) {
  auto a = read_attr(attr);
  if (!a) return fail(a.error());
  pthread_mutex_lock(&g_init_lock);
  int r;
  if (g_initialised) {
    r = fail(Error{Errc::kAlready, EALREADY, "crinit was called before"});
  } else {
    r = init_locked(*a);
    g_initialised = r == 0;
  }
  pthread_mutex_unlock(&g_init_lock);
  return r;
}

int crcheckpoint(void) {
  if (t_in_hook) return fail(Error{Errc::kDeadlock, 0, "checkpoint() called from a hook"});
  const bool simple = __atomic_load_n(&g_hooks.count, __ATOMIC_RELAXED) == 0;
  const int saved_errno = errno;
  for (int tries = 0; simple; tries++) {
    const control::Quick quick = control::quick_checkpoint();
    if (quick != control::Quick::kNone) return quick == control::Quick::kRestored ? CR_RESTORED : 0;
    const int asked = ask(control::Ask::kCheckpoint);
    if (asked >= 0 || errno != EBUSY || tries == kMostTries) return asked;
    errno = saved_errno;
  }
  control::forbid_quick();
  run_hooks(CR_HOOK_BEFORE_CHECKPOINT);
  int r = ask(control::Ask::kCheckpoint);
  // If the process comes back in this wait, from a checkpoint of somebody else's, ours is whole.
  if (r == 0 && has_hook(CR_HOOK_AFTER_CHECKPOINT)) r = ask(control::Ask::kWait) < 0 ? -1 : 0;
  const int saved = errno;
  run_hooks(r == CR_RESTORED ? CR_HOOK_AFTER_RESTORE : CR_HOOK_AFTER_CHECKPOINT);
  errno = saved;
  return r;
}

// Who comes back in this wait, from whatever checkpoint, waits for that one.
static int wait_beyond(int level) {
  const auto what = level == CR_LEVEL_NODES ? control::Ask::kWaitSafe : control::Ask::kWaitFlushed;
  int r;
  while ((r = ask(what)) == CR_RESTORED) control::await_attached();
  return r;
}

int crcheckpoint_wait(int level) {
  if (level < CR_LEVEL_MEMORY || level > CR_LEVEL_SHARED) {
    return fail(Error{Errc::kInvalid, EINVAL, "checkpoint_wait: level"});
  }
  if (level > CR_LEVEL_DISK) return wait_beyond(level);
  const bool attached = control::attached();
  if (attached && level == CR_LEVEL_DISK && control::state().channel->durable == 0) {
    return fail(Error{Errc::kUnsupported, ENOTSUP,
                      "checkpoint_wait: the session does not make checkpoints durable "
                      "(CR_DURABLE_CRASH, --durable=crash)"});
  }
  return ask(control::Ask::kWait) < 0 ? -1 : 0;
}

int crrestore_self(void) {
  const int r = ask(control::Ask::kRollback);
  if (r == CR_RESTORED) return r;  // another thread's checkpoint, taken while we waited, came back
  if (r != 0) return -1;
  return exec_into_restore();
}

int crhook(enum crhook_when when, crhook_fn fn, void* arg) {
  if (fn == nullptr || when > CR_HOOK_AFTER_RESTORE) {
    return fail(Error{Errc::kInvalid, EINVAL, "crhook"});
  }
  pthread_mutex_lock(&g_hooks.lock);
  const bool room = g_hooks.count < kMaxHooks;
  const int thread_error = start_hook_thread();
  if (room && thread_error == 0) g_hooks.table[g_hooks.count++] = {when, fn, arg};
  pthread_mutex_unlock(&g_hooks.lock);
  if (thread_error != 0) {
    return fail(Error{Errc::kSystem, thread_error, "crhook: making the hook thread"});
  }
  return room ? 0 : fail(Error{Errc::kNoMemory, ENOSPC, "crhook: at most 64 hooks"});
}

int crexclude(void* ptr, size_t len) {
  const auto p = reinterpret_cast<uint64_t>(ptr);
  uint64_t end;
  if (ptr == nullptr || __builtin_add_overflow(p, len, &end)) {
    return fail(Error{Errc::kInvalid, EINVAL, "crexclude"});
  }
  pthread_mutex_lock(&g_exclude_lock);
  control::forbid_quick();
  format::Exclusions& x = control::exclusions();
  uint64_t i = 0;
  while (i < x.count && x.ranges[i].start != page_ceil(p)) i++;
  int r = 0;
  if (len == 0) {
    if (i == x.count) {
      r = fail(Error{Errc::kNotFound, ENOENT, "crexclude: nothing to remove"});
    } else {
      x.ranges[i] = x.ranges[x.count - 1];
      x.count--;
    }
  } else if (i == x.count && x.count == 256) {
    r = fail(Error{Errc::kNoMemory, ENOSPC, "crexclude: at most 256 ranges"});
  } else if (page_ceil(p) < page_floor(end)) {
    x.ranges[i].start = page_ceil(p);
    x.ranges[i].end = page_floor(end);
    if (i == x.count) x.count++;
  }
  pthread_mutex_unlock(&g_exclude_lock);
  return r;
}

int crheap_open(const char* image_dir, unsigned flags) {
  constexpr unsigned kKnown = CR_HEAP_CREATE | CR_HEAP_READ_ONLY | CR_HEAP_DURABLE_CRASH;
  if ((flags & ~kKnown) != 0 ||
      (flags & (CR_HEAP_CREATE | CR_HEAP_READ_ONLY)) == (CR_HEAP_CREATE | CR_HEAP_READ_ONLY)) {
    return fail(Error{Errc::kInvalid, EINVAL, "crheap_open: flags"});
  }
  pthread_mutex_lock(&g_init_lock);
  const int r = heap_open_locked(image_dir, flags);
  const int saved_errno = errno;
  pthread_mutex_unlock(&g_init_lock);
  errno = saved_errno;
  return r;
}

int crheap_commit(void) {
  if (!g_heap_session) {
    return fail(Error{Errc::kNotInitialised, 0, "crheap_commit: no heap is open (crheap_open)"});
  }
  nvheap::lock_all();
  const int r = ask(control::Ask::kCheckpoint);
  const int saved_errno = errno;
  nvheap::unlock_all();
  errno = saved_errno;
  return r;
}

int crheap_close(void) {
  pthread_mutex_lock(&g_init_lock);
  const bool open = g_heap_session;
  g_heap_session = false;
  if (open) control::close();
  pthread_mutex_unlock(&g_init_lock);
  if (open) return 0;
  return fail(Error{Errc::kNotInitialised, 0, "crheap_close: no heap is open (crheap_open)"});
}

int crstatus(struct crstatus* st) {
  if (st == nullptr || st->size < 16) return fail(Error{Errc::kInvalid, EINVAL, "crstatus: size"});
  struct crstatus s {};
  s.size = st->size < sizeof(s) ? st->size : static_cast<uint32_t>(sizeof(s));
  if (control::state().owner_pid != rawsys::sys_getpid() || control::state().channel == nullptr) {
    return fail(Error{Errc::kNotInitialised, 0, "no session: call crinit() first"});
  }
  const format::ChannelHeader* ch = control::state().channel;
  uint32_t before, after;
  int tries = 1000000;  // the agent may have died while it wrote
  do {
    before = __atomic_load_n(&ch->status_lock, __ATOMIC_ACQUIRE);
    s.epoch = ch->epoch;
    s.sequence = ch->sequence;
    s.attempts = ch->attempts;
    s.failures = ch->failures;
    s.image_bytes = ch->image_bytes;
    s.pause_ns = ch->pause_ns;
    s.commit_ns = ch->commit_ns;
    s.realtime_ns = ch->realtime_ns;
    s.interval_seconds = ch->interval_seconds;
    memcpy(s.image_dir, ch->image_dir, sizeof(s.image_dir));
    memcpy(s.last_error, ch->last_error, sizeof(s.last_error));
    s.interval_auto = ch->interval_automatic;
    s.tracker = ch->tracker;
    s.overhead_percent = ch->overhead_percent;
    s.changed_bytes = ch->staged_bytes;
    s.rollbacks = ch->rollbacks;
    s.rollbacks_in_place = ch->rollbacks_in_place;
    s.rollback_ns = ch->rollback_ns;
    s.quick = ch->quick;
    s.safe_sequence = ch->levels.safe_sequence;
    s.flushed_sequence = ch->levels.flushed_sequence;
    s.window_ns = ch->levels.window_ns;
    s.is_kept = ch->levels.is_kept;
    s.degraded = ch->levels.degraded;
    memcpy(s.protect, ch->levels.protect, sizeof(s.protect));
    memcpy(s.degraded_text, ch->levels.trouble, sizeof(s.degraded_text));
    memcpy(s.rollback_reason, ch->rollback_reason, sizeof(s.rollback_reason));
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    after = __atomic_load_n(&ch->status_lock, __ATOMIC_ACQUIRE);
  } while ((before != after || (before & 1) != 0) && --tries > 0);
  s.attached = control::attached() ? 1 : 0;
  nvheap::stats(&s.heap_bytes_in_use, &s.heap_reserve_bytes);
  memcpy(st, &s, s.size);
  return 0;
}
