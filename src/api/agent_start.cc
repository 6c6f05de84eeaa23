// SPDX-License-Identifier: MIT
// agent_start.cc - see agent_start.h.
// Invariant: as there. The helper is cloned without an exit signal and waited for with __WCLONE, so
// neither a SIGCHLD handler nor a wait() of the program ever notices it. Context: N.
#include "api/agent_start.h"

#include <checkpoint_restore.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rawsys/rawsys.h"

namespace cr::api {
namespace {

extern "C" char** environ;

struct Child {
  char* argv[28];
  char** envp;
  int ready_write;
};

// In the child of the child. Only raw calls: other threads' locks were copied as they were.
[[noreturn]] void become_agent(const Child& c) {
  using rawsys::sys;
  sys(__NR_setsid);
  uint64_t none = 0;
  sys(__NR_rt_sigprocmask, SIG_SETMASK, &none, nullptr, 8);
  sys(__NR_dup3, c.ready_write, 3, 0);
  if (c.ready_write == 3) sys(__NR_fcntl, 3, F_SETFD, 0);
  const long null = rawsys::sys_openat(AT_FDCWD, "/dev/null", O_RDWR);
  if (null >= 0 && null != 3) {
    sys(__NR_dup3, null, 0, 0);
    sys(__NR_dup3, null, 1, 0);
  }
  sys(__NR_close_range, 4, ~0u, 0);
  sys(__NR_execve, c.argv[0], c.argv, c.envp);
  const char text[] = "E2 the agent program could not be executed (is CR_AGENT right?)";
  rawsys::sys_write(3, text, sizeof(text) - 1);
  rawsys::sys_exit_group(127);
}

Result<void> spawn(const Child& c) {
  using rawsys::sys;
  const long child = sys(__NR_clone, 0ul, 0ul, 0ul, 0ul, 0ul);  // as fork, but no exit signal
  if (child < 0) return Error{Errc::kSystem, static_cast<int>(-child), "starting the agent"};
  if (child == 0) {
    const long grandchild = sys(__NR_clone, 0ul, 0ul, 0ul, 0ul, 0ul);
    if (grandchild == 0) become_agent(c);
    rawsys::sys_exit_group(grandchild < 0 ? 1 : 0);
  }
  int status = 0;
  long r;
  do {
    r = sys(__NR_wait4, child, &status, __WCLONE, 0);
  } while (r == -EINTR);
  if (r != child || status != 0) return Error{Errc::kSystem, EAGAIN, "starting the agent"};
  return {};
}

// The agent writes "O<pid>" when it listens, or "E<reason>".
Result<void> wait_until_ready(int fd, char* ret_text, size_t cap) {
  char buf[600];
  size_t n = 0;
  for (;;) {
    const long r = rawsys::sys_read(fd, buf + n, sizeof(buf) - 1 - n);
    if (r == -EINTR) continue;
    if (r <= 0) break;
    n += static_cast<size_t>(r);
    if (n + 1 >= sizeof(buf)) break;
  }
  buf[n] = 0;
  if (n == 0 || buf[0] != 'O') {
    char* text = buf + 1;
    const long number = n > 1 ? strtol(buf + 1, &text, 10) : 0;
    while (*text == ' ') text++;
    rawsys::str_copy(ret_text, n > 1 ? text : "it ended without a word", cap);
    const int code = number > 0 ? static_cast<int>(number) : EIO;
    return Error{Errc::kAgentStart, code, "the agent did not start"};
  }
  // Under Yama only an ancestor may stop our threads, unless we name it.
  prctl(PR_SET_PTRACER, strtol(buf + 1, nullptr, 10), 0, 0, 0);
  return {};
}

}  // namespace

bool beside_library(const char* relative, char* out, size_t cap) {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&beside_library), &info) == 0) return false;
  char resolved[PATH_MAX];
  if (realpath(info.dli_fname, resolved) == nullptr) return false;
  char* slash = strrchr(resolved, '/');  // .../lib/libx.so -> ...
  if (slash == nullptr) return false;
  *slash = 0;
  if (static_cast<size_t>(snprintf(out, cap, "%s/../%s", resolved, relative)) >= cap) return false;
  return access(out, X_OK) == 0;
}

Result<void> start_agent(const AgentOptions& o, char* ret_text, size_t text_cap) {
  char program[PATH_MAX + 64];
  const char* forced = getenv("CR_AGENT");
  if (forced != nullptr) {
    rawsys::str_copy(program, forced, sizeof(program));
  } else if (!beside_library("libexec/checkpoint_restore/cragent", program, sizeof(program))) {
    rawsys::str_copy(ret_text, "not found beside the library; set CR_AGENT to its path", text_cap);
    return Error{Errc::kNotFound, ENOENT, "the agent program cragent"};
  }
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) return Error{Errc::kSystem, errno, "making a pipe"};
  char pid[24], interval[32], staging[24], durable[8], track[8], every[24], flush_interval[40];
  snprintf(pid, sizeof(pid), "%d", static_cast<int>(getpid()));
  if (o.interval_seconds == CR_INTERVAL_AUTO) {
    rawsys::str_copy(interval, "auto", sizeof(interval));
  } else {
    snprintf(interval, sizeof(interval), "%.6f", o.interval_seconds);
  }
  snprintf(staging, sizeof(staging), "%llu", static_cast<unsigned long long>(o.staging_bytes));
  snprintf(durable, sizeof(durable), "%u", o.durable);
  snprintf(track, sizeof(track), "%u", o.track);
  snprintf(every, sizeof(every), "%llu", static_cast<unsigned long long>(o.flush_every));
  snprintf(flush_interval, sizeof(flush_interval), "%.9f", o.flush_interval_seconds);
  Child c{};
  const char* args[] = {program,
                        "--pid",
                        pid,
                        "--dir",
                        o.image_dir,
                        "--interval",
                        interval,
                        "--staging",
                        staging,
                        "--durable",
                        durable,
                        "--ready-fd",
                        "3",
                        "--heap",
                        o.heap,
                        "--track",
                        track,
                        "--protect",
                        o.protect,
                        "--name",
                        o.name,
                        "--flush-every",
                        every,
                        "--flush-interval",
                        flush_interval,
                        "--store-socket",
                        o.store_socket,
                        nullptr};
  static_assert(sizeof(args) <= sizeof(c.argv));
  memcpy(c.argv, args, sizeof(args));
  c.envp = environ;
  c.ready_write = ready[1];
  auto spawned = spawn(c);
  close(ready[1]);
  if (!spawned) {
    close(ready[0]);
    return spawned.error();
  }
  auto r = wait_until_ready(ready[0], ret_text, text_cap);
  close(ready[0]);
  if (!r) return r.error();
  return {};
}

}  // namespace cr::api
