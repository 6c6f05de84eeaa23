// SPDX-License-Identifier: MIT
// launch.cc - see launch.h. Invariant: as there. Context: N (agent).
#include "agent/launch.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/launch_steps.h"
#include "agent/process_tree.h"
#include "agent/skeleton.h"
#include "os/proc.h"
#include "os/slice.h"

namespace cr::agent {
namespace {

constexpr unsigned kCapCheckpointRestore = 40;

std::vector<char*> pointers(const std::vector<std::string>& v) {
  std::vector<char*> p;
  for (const std::string& s : v) p.push_back(const_cast<char*>(s.c_str()));
  p.push_back(nullptr);
  return p;
}

bool is_ours(const std::string& variable) {
  return variable.starts_with("CR_SESSION=") || variable.starts_with("CR_SESSION_PID=") ||
         variable.starts_with("CR_SESSION_RESTORE=");
}

// The original environment with the preload library first in LD_PRELOAD.
std::vector<std::string> session_environment(const StartOptions& o,
                                             const std::vector<std::string>& original,
                                             pid_t inner_pid) {
  std::vector<std::string> env;
  std::string preload = "LD_PRELOAD=" + o.preload + o.plugins;
  for (const std::string& v : original) {
    if (is_ours(v)) continue;
    if (v.starts_with("LD_PRELOAD=")) {
      std::string rest = v.substr(strlen("LD_PRELOAD="));
      for (size_t at; (at = rest.find(o.preload)) != std::string::npos;)
        rest.erase(at, o.preload.size());
      while (!rest.empty() && (rest[0] == ':' || rest[0] == ' ')) rest.erase(0, 1);
      if (!rest.empty()) preload += ":" + rest;
      continue;
    }
    env.push_back(v);
  }
  env.push_back(preload);
  env.push_back("CR_SESSION=" + o.session_dir);
  env.push_back("CR_SESSION_PID=" + std::to_string(inner_pid));
  return env;
}

}  // namespace

// In the child; ends in exec or death. fail_fd gets errno if exec fails.
[[noreturn]] static void exec_program(const StartOptions& o, const std::string& path,
                                      const std::vector<std::string>& argv,
                                      const std::vector<std::string>& env, int fail_fd) {
  restore_signal_state(o.signals);
  syscall(__NR_close_range, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */);
  execve(path.c_str(), pointers(argv).data(), pointers(env).data());
  const int e = errno;
  (void)!write(fail_fd, &e, sizeof(e));
  _exit(127);
}

pid_t fork_with_id(pid_t id, uint64_t flags) {
  os::set_slice(0, os::Slice::kUsual);  // is inherited
  clone_args a{};
  pid_t want = id;
  a.flags = flags;
  a.exit_signal = SIGCHLD;
  if (id != 0) {
    a.set_tid = reinterpret_cast<uint64_t>(&want);
    a.set_tid_size = 1;
  }
  return static_cast<pid_t>(syscall(__NR_clone3, &a, sizeof(a)));
}

namespace {

// Lets the threads made by the restorer have their ids; dropped by it afterwards.
void keep_restore_capability() {
  __user_cap_header_struct h{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct d[2] = {};
  if (syscall(__NR_capget, &h, d) != 0) return;
  const unsigned word = kCapCheckpointRestore / 32, bit = 1u << (kCapCheckpointRestore % 32);
  d[word].inheritable |= d[word].permitted & bit;
  if (syscall(__NR_capset, &h, d) != 0) return;
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kCapCheckpointRestore, 0, 0);
}

bool id_is_free(pid_t id) {
  struct stat st;
  return kill(id, 0) != 0 && errno == ESRCH &&
         stat(("/proc/" + std::to_string(id)).c_str(), &st) != 0;
}

// 0: they all are.
pid_t taken_id(RestorePlan& plan) {
  const format::PlanHeader& h = *plan.header();
  const auto* t = reinterpret_cast<const format::PlanThread*>(plan.bytes.data() + h.threads.off);
  if (!id_is_free(h.process.pid)) return h.process.pid;
  for (uint64_t i = 0; i < h.threads.count; i++) {
    if (!id_is_free(t[i].record.tid)) return t[i].record.tid;
  }
  return 0;
}

void write_text(const std::string& path, const std::string& text, bool* ok) {
  os::Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd || write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    *ok = false;
}

// A process that is to be a restored one.
struct Becoming {
  const RestorePlan* plan;
  std::vector<std::string> env;
  bool own_group, own_session;  // of one that is alone
  int row;                      // of the tree
};
struct Prepared {
  const StartOptions& options;
  std::vector<Becoming> all;
  std::vector<Bone> bones;  // empty: one process
  pid_t main_id = 0;        // 0: any
};

[[noreturn]] void become_restored(const StartOptions& options, const Becoming& b, int fail_fd) {
  if (b.own_session) {
    setsid();
  } else if (b.own_group) {
    setpgid(0, 0);
  }
  if (geteuid() != 0) keep_restore_capability();  // root has it in the new program anyway
  exec_program(options, b.plan->program, b.plan->argv, b.env, fail_fd);
}

// Makes the process, or all of a tree; each becomes what it was. 0: errno says why not.
pid_t make_processes(const Prepared& p, int fail_fd) {
  if (p.bones.empty()) {
    const pid_t pid = fork_with_id(p.main_id, 0);
    if (pid != 0) return std::max(pid, 0);
    Becoming b = p.all[0];
    b.env = restore_environment(p.options, b.plan->environment,
                                static_cast<pid_t>(syscall(__NR_getpid)));
    become_restored(p.options, b, fail_fd);
  }
  const Trouble bad = make_skeleton(p.bones, [&](int row) {
    for (const Becoming& b : p.all) {
      if (b.row == row) become_restored(p.options, b, fail_fd);
    }
  });
  for (const Bone& b : p.bones) {  // they end by themselves
    if (bad.bad() && b.parent == kTop && b.pid != 0) waitpid(b.pid, nullptr, 0);
  }
  errno = bad.error.sys_errno;
  return bad.bad() ? 0 : p.main_id;
}

// First process of the private namespace: starts the program with its old id, reaps, tells.
[[noreturn]] void namespace_init(const Prepared& p, int go_read, int status_write, int fail_fd) {
  char c;
  if (read(go_read, &c, 1) != 1) _exit(125);
  const int late = p.options.clock == Clock::kHost ? 0 : continue_clocks(p.all[0].plan->clocks);
  if (late != 0 && p.options.clock == Clock::kContinue) {
    (void)!write(fail_fd, &late, sizeof(late));
    _exit(125);
  }
  prctl(PR_SET_NAME, "cr-init");
  // A /proc of this namespace, seen by the program only; without it /proc/self still works.
  if (mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0) {
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
  }
  const pid_t child = make_processes(p, fail_fd);
  if (child == 0) {
    const int e = errno;
    (void)!write(fail_fd, &e, sizeof(e));
    _exit(125);
  }
  close(fail_fd);
  for (int sig = 1; sig < 32; sig++) {
    if (sig != SIGKILL && sig != SIGSTOP && sig != SIGCHLD) signal(sig, SIG_IGN);
  }
  syscall(__NR_close_range, 0, static_cast<unsigned>(status_write) - 1, 0);
  syscall(__NR_close_range, static_cast<unsigned>(status_write) + 1, ~0u, 0);
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(-1, &status, 0);
    if (ended < 0 && errno == EINTR) continue;
    if (ended < 0) _exit(0);
    if (ended == child) {
      (void)!write(status_write, &status, sizeof(status));
      close(status_write);
    }
  }
}

// Waits for the exec: EOF on success, else errno.
int exec_errno(os::Fd& fail_read) {
  int e = 0;
  ssize_t n;
  do {
    n = read(fail_read.get(), &e, sizeof(e));
  } while (n < 0 && errno == EINTR);
  return n == sizeof(e) ? e : 0;
}

struct Pipe {
  os::Fd r, w;
};
bool make_pipe(Pipe* p) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  p->r = os::Fd(ends[0]);
  p->w = os::Fd(ends[1]);
  return true;
}

Trouble launch_direct(const Prepared& p, Launched* ret, int* ret_errno) {
  Pipe fail;
  if (!make_pipe(&fail)) return trouble(Errc::kSystem, errno, "making a pipe");
  const int late = p.options.clock == Clock::kHost ? 0 : continue_clocks(p.all[0].plan->clocks);
  if (late != 0 && p.options.clock == Clock::kContinue) {
    *ret_errno = 0;
    return trouble(Errc::kPermission, late,
                   std::string("its clocks cannot go on here (a time namespace: ") +
                       strerror(late) + "); use --clock=auto, or --ids=namespace, or run as root");
  }
  const pid_t pid = make_processes(p, fail.w.get());
  *ret_errno = errno;
  if (pid == 0) return trouble(Errc::kPermission, errno, "making a process");
  fail.w.reset();
  const int e = exec_errno(fail.r);
  if (e != 0) {
    for (const Bone& b : p.bones) {
      if (b.row >= 0 && !b.zombie) kill(b.pid, SIGKILL);
    }
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    *ret_errno = 0;
    return trouble(Errc::kSystem, e,
                   p.all[0].plan->program + " cannot be executed: " + strerror(e));
  }
  ret->pid = ret->waiter = pid;
  return {};
}

Trouble launch_in_namespace(const Prepared& p, Launched* ret) {
  Pipe fail, go, status;
  if (!make_pipe(&fail) || !make_pipe(&go) || !make_pipe(&status)) {
    return trouble(Errc::kSystem, errno, "making a pipe");
  }
  const uid_t uid = geteuid();
  const gid_t gid = getegid();
  const bool user_namespace = uid != 0;
  const uint64_t flags = CLONE_NEWPID | CLONE_NEWNS | (user_namespace ? CLONE_NEWUSER : 0);
  const pid_t init = fork_with_id(0, flags);
  if (init == 0) {
    go.w.reset();
    status.r.reset();
    fail.r.reset();
    namespace_init(p, go.r.get(), status.w.get(), fail.w.get());
  }
  if (init < 0) {
    return trouble(
        Errc::kPermission, errno,
        std::string("a private process-id namespace is not allowed here: ") + strerror(errno));
  }
  fail.w.reset();
  status.w.reset();
  const std::string proc = "/proc/" + std::to_string(init);
  bool ok = true;
  if (user_namespace) {
    bool ignored = true;
    write_text(proc + "/setgroups", "deny", &ignored);
    write_text(proc + "/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1", &ok);
    write_text(proc + "/gid_map", std::to_string(gid) + " " + std::to_string(gid) + " 1", &ok);
  }
  const int map_errno = errno;
  if (ok) (void)!write(go.w.get(), "g", 1);
  go.w.reset();
  const int e = ok ? exec_errno(fail.r) : map_errno;
  if (e != 0) {
    kill(init, SIGKILL);
    waitpid(init, nullptr, 0);
    return trouble(ok ? Errc::kSystem : Errc::kPermission, e,
                   (ok ? p.all[0].plan->program + " cannot be started: "
                       : std::string("the user namespace's id map: ")) +
                       strerror(e));
  }
  const auto kids = children_of(init);
  if (kids.empty()) return trouble(Errc::kSystem, ESRCH, "the program ended at once");
  ret->pid = kids[0];
  ret->waiter = init;
  ret->status = std::move(status.r);
  return {};
}

struct ElfFacts {
  bool elf = false, dynamic = false, right_machine = false;
};
ElfFacts look_at_elf(const std::string& path) {
  ElfFacts f;
  os::Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  Elf64_Ehdr eh;
  if (!fd || pread(fd.get(), &eh, sizeof(eh), 0) != sizeof(eh) ||
      memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0) {
    return f;
  }
  f.elf = true;
  f.right_machine = eh.e_machine == EM_X86_64 && eh.e_ident[EI_CLASS] == ELFCLASS64;
  for (unsigned i = 0; i < eh.e_phnum; i++) {
    Elf64_Phdr ph;
    const auto off = static_cast<off_t>(eh.e_phoff + i * sizeof(ph));
    if (pread(fd.get(), &ph, sizeof(ph), off) == sizeof(ph) && ph.p_type == PT_INTERP)
      f.dynamic = true;
  }
  return f;
}

// The interpreter of a script, "" if it is none.
std::string script_interpreter(const std::string& path) {
  os::Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char line[256] = "";
  if (!fd || pread(fd.get(), line, sizeof(line) - 1, 0) < 3 || line[0] != '#' || line[1] != '!')
    return "";
  char* at = line + 2;
  while (*at == ' ' || *at == '\t') at++;
  at[strcspn(at, " \t\n")] = 0;
  return at;
}

std::string find_in_path(const std::string& name, bool* ret_found_unusable) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = getenv("PATH");
  std::string rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (true) {
    const size_t colon = rest.find(':');
    std::string dir = rest.substr(0, colon);
    if (dir.empty()) dir = ".";
    const std::string full = dir + "/" + name;
    struct stat st;
    if (stat(full.c_str(), &st) == 0 && S_ISREG(st.st_mode)) {
      if (access(full.c_str(), X_OK) == 0) return full;
      *ret_found_unusable = true;
    }
    if (colon == std::string::npos) return "";
    rest.erase(0, colon + 1);
  }
}

}  // namespace

void save_signal_state(SignalState* ret) {
  sigprocmask(SIG_SETMASK, nullptr, &ret->mask);
  for (int sig = 1; sig < 65; sig++) sigaction(sig, nullptr, &ret->actions[sig]);
  signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error to report, not our death
}

void restore_signal_state(const SignalState& s) {
  for (int sig = 1; sig < 65; sig++) {
    if (sig == SIGKILL || sig == SIGSTOP || sig == 32 || sig == 33) continue;
    sigaction(sig, &s.actions[sig], nullptr);
  }
  sigprocmask(SIG_SETMASK, &s.mask, nullptr);
}

std::string beside_tool(const char* relative) {
  auto exe = os::read_link("/proc/self/exe");
  if (!exe) return "";
  for (const char* up : {"/../", "/../../"}) {  // bin/crrun, libexec/checkpoint_restore/cragent
    const std::string path = exe->substr(0, exe->find_last_of('/')) + up + relative;
    char resolved[PATH_MAX];
    if (realpath(path.c_str(), resolved) != nullptr) return resolved;
  }
  return "";
}

Trouble check_program(const std::string& argv0, std::string* ret_path, int* ret_status) {
  bool unusable = false;
  const std::string path = find_in_path(argv0, &unusable);
  struct stat st;
  if (path.empty() || stat(path.c_str(), &st) != 0) {
    *ret_status = unusable || (errno == EACCES && !path.empty()) ? 126 : 127;
    return trouble(Errc::kNotFound, ENOENT,
                   argv0 + (unusable ? ": found but not executable" : ": no such program"));
  }
  *ret_status = 126;
  if (!S_ISREG(st.st_mode) || access(path.c_str(), X_OK) != 0) {
    return trouble(Errc::kPermission, EACCES, path + ": not an executable file");
  }
  std::string elf = path;
  for (int depth = 0; depth < 4; depth++) {
    const std::string interpreter = script_interpreter(elf);
    if (interpreter.empty()) break;
    elf = interpreter;
  }
  struct stat est;
  if (stat(elf.c_str(), &est) != 0) {
    *ret_status = 126;
    return trouble(Errc::kNotFound, ENOENT, path + ": its interpreter " + elf + " is missing");
  }
  const ElfFacts facts = look_at_elf(elf);
  *ret_status = 125;
  if (facts.elf && !facts.right_machine) {
    return trouble(Errc::kUnsupported, 0,
                   elf + ": not a program for 64-bit x86; it cannot be checkpointed");
  }
  if (facts.elf && !facts.dynamic) {
    return trouble(Errc::kUnsupported, 0,
                   elf +
                       ": statically linked programs cannot be checkpointed (the library cannot be "
                       "loaded into them); link it dynamically");
  }
  const bool other_user = ((est.st_mode & S_ISUID) != 0 && est.st_uid != geteuid()) ||
                          ((est.st_mode & S_ISGID) != 0 && est.st_gid != getegid());
  if (other_user) {
    return trouble(
        Errc::kUnsupported, 0,
        elf +
            ": setuid and setgid programs cannot be checkpointed (the loader ignores the "
            "library in them)");
  }
  *ret_path = path;
  return {};
}

Trouble launch_fresh(const StartOptions& o, const std::string& path,
                     const std::vector<std::string>& argv, Launched* ret) {
  Pipe fail;
  if (!make_pipe(&fail)) return trouble(Errc::kSystem, errno, "making a pipe");
  std::vector<std::string> original;
  for (char** e = environ; *e != nullptr; e++) original.emplace_back(*e);
  os::set_slice(0, os::Slice::kUsual);  // is inherited
  const pid_t pid = fork();
  if (pid == 0) {
    exec_program(o, path, argv, session_environment(o, original, getpid()), fail.w.get());
  }
  if (pid < 0) return trouble(Errc::kSystem, errno, "starting a process");
  fail.w.reset();
  const int e = exec_errno(fail.r);
  if (e != 0) {
    waitpid(pid, nullptr, 0);
    return trouble(Errc::kSystem, e, path + ": " + strerror(e));
  }
  ret->pid = ret->waiter = pid;
  return {};
}

std::vector<std::string> restore_environment(const StartOptions& o,
                                             const std::vector<std::string>& original,
                                             pid_t inner_pid) {
  std::vector<std::string> env = session_environment(o, original, inner_pid);
  env.push_back("CR_SESSION_RESTORE=1");
  return env;
}

// The same executable, so that /proc/self/exe is right; without it any program can host.
static Trouble choose_host(RestorePlan& plan) {
  if (access(plan.program.c_str(), X_OK) == 0) return {};
  const std::string host = beside_tool("libexec/checkpoint_restore/crhost");
  if (host.empty()) {
    return trouble(
        Errc::kNotFound, ENOENT,
        "the program " + plan.program + " is gone, and so is libexec/checkpoint_restore/crhost");
  }
  plan.warnings.push_back("the program " + plan.program + " is gone; /proc/self/exe will show " +
                          host);
  plan.program = host;
  return {};
}

static Trouble launch(Prepared& p, const std::vector<RestorePlan*>& plans, pid_t taken, Ids ids,
                      Launched* ret) {
  const bool tree = !p.bones.empty();
  const auto set_ids = [&](uint32_t how) {
    for (RestorePlan* plan : plans) plan->header()->ids = how;
  };
  set_ids(format::kIdsSame);
  std::string why;
  // Without root only a user namespace has one of time in it.
  const bool elsewhere = p.options.clock == Clock::kContinue && geteuid() != 0;
  if (ids == Ids::kSame || (ids == Ids::kAuto && !elsewhere)) {
    if (taken == 0) {
      int e = 0;
      Trouble bad = launch_direct(p, ret, &e);
      if (!bad.bad() || e == 0) return bad;
      why = e == EPERM ? "not permitted" : strerror(e);
    } else {
      why = "process id " + std::to_string(taken) + " is in use";
    }
    if (ids == Ids::kSame) {
      return trouble(Errc::kPermission, EPERM,
                     "the program's process id" +
                         (tree ? std::string("s") : " " + std::to_string(p.main_id)) +
                         " cannot be had: " + why);
    }
  }
  if (ids == Ids::kAuto || ids == Ids::kNamespace) {
    Trouble bad = launch_in_namespace(p, ret);
    if (!bad.bad() || bad.error.code != Errc::kPermission || ids == Ids::kNamespace) return bad;
    return trouble(
        Errc::kPermission, EPERM,
        "the program's process ids cannot be had: " + why + "; " + bad.text +
            ". Run as root, or give crrestore the capability (setcap cap_checkpoint_restore+ep), "
            "or allow user namespaces" +
            (tree ? "" : ", or accept new ids: --ids=new"));
  }
  if (tree) {
    return trouble(Errc::kUnsupported, EINVAL,
                   "--ids=new: several processes know each other by their ids; use --ids=same or "
                   "--ids=namespace");
  }
  set_ids(format::kIdsNew);
  p.main_id = 0;
  int e = 0;
  return launch_direct(p, ret, &e);
}

Trouble launch_restored(const StartOptions& o, RestorePlan& plan, Ids ids, Launched* ret) {
  Trouble bad = choose_host(plan);
  if (bad.bad()) return bad;
  format::PlanHeader& h = *plan.header();
  const pid_t inner = h.process.pid;
  h.drop_caps = geteuid() != 0 ? 1 : 0;
  Prepared p{o, {}, {}, inner};
  p.all.push_back({&plan, {}, h.process.pgid == inner, plan.own_session, 0});
  return launch(p, {&plan}, taken_id(plan), ids, ret);
}

Trouble launch_tree(const StartOptions& o, std::span<const format::TreeRecord> rows,
                    const std::vector<RestorePlan*>& plans, const TerminalOf& terminal_of, Ids ids,
                    Launched* ret) {
  Prepared p{o, {}, {}, 0};
  Trouble bad = plan_skeleton(rows, &p.bones);
  for (Bone& b : p.bones) {
    if (b.row < 0 || !b.new_session) continue;
    const format::TreeRecord& t = rows[static_cast<size_t>(b.row)];
    if (t.terminal >= 0) b.terminal_fd = terminal_of(static_cast<uint32_t>(t.terminal));
    b.foreground = t.foreground;
  }
  pid_t taken = 0;
  std::vector<RestorePlan*> all;
  for (size_t i = 0; i < rows.size() && !bad.bad(); i++) {
    RestorePlan* plan = plans[i];
    if (plan == nullptr) {
      const bool ended = (rows[i].flags & format::kTreeEnded) != 0;
      if (!ended && taken == 0 && !id_is_free(rows[i].pid)) taken = rows[i].pid;
      continue;
    }
    bad = choose_host(*plan);
    plan->header()->drop_caps = geteuid() != 0 ? 1 : 0;
    all.push_back(plan);
    p.all.push_back({plan, restore_environment(o, plan->environment, rows[i].pid), false, false,
                     static_cast<int>(i)});
    if (p.main_id == 0) p.main_id = rows[i].pid;
    if (taken == 0) taken = taken_id(*plan);
  }
  if (bad.bad()) return bad;
  return launch(p, all, taken, ids, ret);
}

}  // namespace cr::agent
