// SPDX-License-Identifier: MIT
// supervisor.cc - see supervisor.h. Invariant: as there. Context: N (agent).
#include "agent/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "os/fault.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using os::fault_point;
using os::FaultPoint;

uint64_t now_ns() { return rawsys::clock_ns(CLOCK_MONOTONIC); }

constexpr int kForwarded[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2};

bool send_with_fds(int sock, const format::Report& r, const int* fds, size_t n) {
  iovec iov{const_cast<format::Report*>(&r), sizeof(r)};
  std::vector<char> control(CMSG_SPACE(std::max<size_t>(n, 1) * sizeof(int)));
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  if (n > 0) {
    m.msg_control = control.data();
    m.msg_controllen = CMSG_SPACE(n * sizeof(int));
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
  }
  return sendmsg(sock, &m, MSG_NOSIGNAL) >= 0;
}

format::Report refusal(const Trouble& t) {
  format::Report r{};
  r.kind = format::kMessageRefused;
  r.code = static_cast<int32_t>(t.error.code);
  r.sys_errno = t.error.sys_errno;
  rawsys::str_copy(r.text, t.text.c_str(), sizeof(r.text));
  return r;
}

const char* step_name(int step) {
  static constexpr const char* kNames[] = {"",
                                           "unmapping",
                                           "mapping memory",
                                           "reading the image",
                                           "protecting memory",
                                           "placing the vDSO",
                                           "describing the memory map (prctl PR_SET_MM_MAP)",
                                           "setting signals",
                                           "making a thread",
                                           "starting the control thread",
                                           "setting timers",
                                           "installing descriptors"};
  return step >= 0 && step < static_cast<int>(sizeof(kNames) / sizeof(kNames[0])) ? kNames[step]
                                                                                  : "?";
}

}  // namespace

int exit_status_of(int s) {
  if (WIFEXITED(s)) return WEXITSTATUS(s);
  if (WIFSIGNALED(s)) return 128 + WTERMSIG(s);
  return 125;
}

Supervisor::Supervisor(Session& session, SupervisorOptions options)
    : session_(session), options_(std::move(options)) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  if (options_.forward_signals) {
    for (const int sig : kForwarded) sigaddset(&set, sig);
  }
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = os::Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file size limit hurts the checkpoint, with an error
}

Supervisor::~Supervisor() = default;

void Supervisor::say(const std::string& text) {
  if (text == last_said_) return;
  last_said_ = text;
  fprintf(stderr, "%s: %s\n", options_.tool.c_str(), text.c_str());
}

bool Supervisor::peer_is_program(int fd) const {
  ucred c{};
  socklen_t n = sizeof(c);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) == 0 && c.pid == session_.pid();
}

void Supervisor::accept_clients() {
  for (;;) {
    os::Fd fd(accept4(session_.listen_fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) return;
    ucred c{};
    socklen_t n = sizeof(c);
    if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &c, &n) != 0 ||
        (c.uid != geteuid() && c.uid != 0)) {
      continue;  // nobody else's business
    }
    clients_.push_back({std::move(fd), false});
  }
}

void Supervisor::on_hello(size_t i, const format::Hello& hello) {
  os::Fd fd = std::move(clients_[i].fd);
  std::string why = "another process's control thread";
  const int raw = fd.get();
  const bool restored = hello.restored != 0;
  os::Fd keep(fcntl(raw, F_DUPFD_CLOEXEC, 0));
  if (peer_is_program(raw) && session_.attach(std::move(fd), hello, &why)) {
    if (restored) {
      fault_point(FaultPoint::kRestoreAttached);
      unlink((session_.options().dir + "/finished").c_str());  // it lives again
      plan_.reset();
      plan_image_.reset();
    }
    next_ns_ = now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
    return;
  }
  const format::Report r = refusal(trouble(Errc::kPermission, EPERM, why));
  (void)send_with_fds(keep.get(), r, nullptr, 0);
  say("the program could not attach: " + why);
}

// The process that will be the restored program asks for the plan.
void Supervisor::on_take(size_t i) {
  const int sock = clients_[i].fd.get();
  if (plan_ == nullptr || !peer_is_program(sock)) {
    (void)send_with_fds(
        sock, refusal(trouble(Errc::kPermission, EPERM, "nothing to restore for this process")),
        nullptr, 0);
    return;
  }
  Trouble bad = finish_files(*plan_, session_.pid());
  auto memfd = os::make_memfd("cr-plan");
  if (!bad.bad() && !memfd)
    bad = trouble(Errc::kNoMemory, memfd.error().sys_errno, "memory for the plan");
  if (!bad.bad() &&
      rawsys::write_all_at(memfd->get(), plan_->bytes.data(), plan_->bytes.size(), 0) != 0) {
    bad = trouble(Errc::kNoMemory, ENOMEM, "memory for the plan");
  }
  if (bad.bad()) {
    (void)send_with_fds(sock, refusal(bad), nullptr, 0);
    return;
  }
  format::Report r{};
  r.kind = format::kMessagePlan;
  r.image_bytes = plan_->bytes.size();
  const int first[2] = {memfd->get(), plan_image_->fd.get()};
  bool ok = send_with_fds(sock, r, first, 2);
  r.kind = format::kMessageFds;
  std::vector<int> fds;
  for (const os::Fd& fd : plan_->fds) fds.push_back(fd.get());
  for (size_t at = 0; ok && at < fds.size(); at += format::kFdsPerMessage) {
    ok = send_with_fds(sock, r, fds.data() + at,
                       std::min<size_t>(format::kFdsPerMessage, fds.size() - at));
  }
  fault_point(FaultPoint::kRestoreTaken);
  plan_->fds.clear();  // the program's pipes must not be held open here
}

void Supervisor::on_ask(int fd, const format::Request& q) {
  format::Report r{};
  if (q.kind == format::kMessageAskCheckpoint) {
    (void)take(q.then, false, &r);
    if (q.then == 0 && r.code == 0 && session_.frozen()) {
      session_.set_frozen(false);
      kill(session_.pid(), SIGCONT);
    }
  } else {
    // Whoever wants the directory asks this way: without a program we are about to leave it.
    if (program_gone_) return;
    r.kind = format::kMessageReport;
    r.epoch = session_.epoch();
    r.sequence = session_.sequence();
  }
  (void)send_with_fds(fd, r, nullptr, 0);
}

Trouble Supervisor::take(uint32_t then, bool asked_by_program, format::Report* ret) {
  constexpr uint32_t kBefore = 0, kAfter = 1;  // enum crhook_when; checkpoint() runs them itself
  if (!asked_by_program) session_.run_hooks(kBefore);
  Trouble bad = session_.checkpoint(then, ret);
  if (!asked_by_program && then == 0) session_.run_hooks(kAfter);
  if (!bad.bad() && then == 2) killed_by_us_ = true;
  next_ns_ = now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
  note_death();
  return bad;
}

// The program may have ended, and been waited for, in a checkpoint's stop.
void Supervisor::note_death() {
  int status;
  if (session_.died(&status) && options_.own_child && launched_.waiter == launched_.pid) {
    ended_ = true;
    status_ = status;
  }
}

Trouble Supervisor::prepare(uint64_t sequence, int live_pidfd) {
  std::unique_ptr<store::LoadedImage> image;
  Trouble bad = choose_image(session_.options().dir, sequence, &image);
  if (bad.bad()) return bad;
  auto plan = std::make_unique<RestorePlan>();
  bad = make_restore_plan(*image, session_.options().dir, live_pidfd, plan.get());
  if (bad.error.code == Errc::kDamaged && sequence == 0) {
    bad.text += name_other_buffer(session_.options().dir, image->index);
  }
  if (bad.bad()) return bad;
  for (const std::string& w : plan->warnings) say(w);
  plan_ = std::move(plan);
  plan_image_ = std::move(image);
  last_said_.clear();
  return {};
}

Trouble Supervisor::restore(uint64_t sequence, Launched* ret) {
  Trouble bad = prepare(sequence, -1);
  if (bad.bad()) return bad;
  session_.adopt(*plan_image_);
  fault_point(FaultPoint::kRestorePlanned);
  bad = launch_restored(options_.start, *plan_, options_.ids, ret);
  if (bad.bad()) return bad;
  session_.set_program(ret->pid);
  fault_point(FaultPoint::kRestoreExec);
  return {};
}

// restore(): what has changed is put back. Where that cannot be done, the running process execs
// itself and takes over as a restored one would.
void Supervisor::on_rollback(uint64_t id) {
  if (session_.options().heap != HeapMode::kNone) {
    session_.answer(id, true, session_.load_heap());
    return;
  }
  bool in_place = false;
  const Trouble half = session_.roll_back(&in_place);
  note_death();
  if (half.bad()) return say(half.text);
  if (in_place) {
    next_ns_ = now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
    return;
  }
  Trouble bad = prepare(0, session_.pidfd());
  if (!bad.bad()) {
    format::PlanHeader& h = *plan_->header();
    h.ids = format::kIdsTry;
    h.drop_caps = 0;
    auto join = [](const std::vector<std::string>& v) {
      std::string s;
      for (const std::string& x : v) s.append(x).push_back('\0');
      return s;
    };
    const auto env = restore_environment(options_.start, plan_->environment, h.process.pid);
    if (access(plan_->program.c_str(), X_OK) != 0) {
      bad = trouble(Errc::kNotFound, ENOENT, "the program " + plan_->program + " is gone");
    } else if (!session_.offer_exec(plan_->program, join(plan_->argv), join(env))) {
      bad = trouble(Errc::kNoMemory, E2BIG, "the environment is too large");
    } else {
      session_.count_rollback();
      session_.adopt(*plan_image_);
    }
  }
  if (bad.bad()) plan_.reset();
  session_.answer(id, true, bad);
}

void Supervisor::serve_control() {
  for (;;) {
    format::Request q{};
    const ssize_t n = recv(session_.control_fd(), &q, sizeof(q), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
      session_.detach();  // it ended, or called exec
      return;
    }
    if (n != sizeof(q)) continue;
    format::Report r{};
    switch (q.kind) {
      case format::kMessageClose:
        session_.close_heap();
        ended_ = true;
        return;
      case format::kMessageCheckpoint: {
        if (session_.options().heap == HeapMode::kRead) {
          session_.answer(q.id, false,
                          trouble(Errc::kPermission, EROFS, "the heap was opened read-only"));
          break;
        }
        const Trouble t = take(0, true, &r);
        session_.answer(q.id, false, t);
        break;
      }
      case format::kMessageRollback:
        on_rollback(q.id);
        break;
      case format::kMessageSetInterval:
        session_.set_interval(q.interval_seconds);
        next_ns_ = now_ns() + static_cast<uint64_t>(q.interval_seconds * 1e9);
        break;
      default:
        break;
    }
    if (!session_.attached()) return;
  }
}

void Supervisor::serve_client(size_t i) {
  union {
    format::Hello hello;
    format::Request request;
    format::Report report;
    uint32_t kind;
  } m{};
  const ssize_t n = recv(clients_[i].fd.get(), &m, sizeof(m), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    clients_[i].fd.reset();
    return;
  }
  if (m.kind == format::kMessageHello && n == sizeof(m.hello)) {
    on_hello(i, m.hello);
  } else if (m.kind == format::kMessageTake && n == sizeof(m.request)) {
    on_take(i);
  } else if (m.kind == format::kMessageReport && n == sizeof(m.report)) {
    if (m.report.code == 0) {
      session_.set_leftover({m.report.epoch, m.report.sequence});
    } else {
      char at[32] = "";
      if (m.report.code != format::kStepControl) {
        snprintf(at, sizeof(at), " at 0x%lx", static_cast<unsigned long>(m.report.sequence));
      }
      say(std::string("restoring failed while ") + step_name(m.report.code) + at + ": " +
          strerror(m.report.sys_errno));
    }
  } else if ((m.kind == format::kMessageAskCheckpoint || m.kind == format::kMessageAskStatus) &&
             n == sizeof(m.request)) {
    on_ask(clients_[i].fd.get(), m.request);
  } else {
    clients_[i].fd.reset();
  }
}

// The program was stopped (Ctrl-Z reaches us by itself; this is SIGSTOP for it alone): the shell
// shall see its job stopped, and fg must wake both.
void Supervisor::stop_like_program() {
  if (session_.frozen()) return;
  raise(SIGSTOP);
  kill(session_.pid(), SIGCONT);
}

// true when the program is gone.
bool Supervisor::reap() {
  if (ended_) return true;
  session_.finish_stop();
  note_death();
  if (ended_ || !options_.own_child || session_.holds_leader()) return ended_;
  for (;;) {
    int status = 0;
    const pid_t r = waitpid(launched_.waiter, &status, WNOHANG | WUNTRACED | WCONTINUED);
    if (r == 0 || (r < 0 && errno != ECHILD)) return false;
    if (r < 0) {
      ended_ = true;
      return true;
    }
    if (WIFSTOPPED(status)) {
      stop_like_program();
      continue;
    }
    if (WIFCONTINUED(status)) {
      session_.set_frozen(false);
      continue;
    }
    ended_ = true;
    if (launched_.waiter == launched_.pid) {
      status_ = status;
    } else {
      read_namespace_status();
    }
    return true;
  }
}

// The first process of a namespace tells how the program ended; nothing: all of it was killed.
void Supervisor::read_namespace_status() {
  int status = 0;
  ended_ = true;
  status_ = SIGKILL;
  if (read(launched_.status.get(), &status, sizeof(status)) == sizeof(status)) status_ = status;
}

void Supervisor::on_signals() {
  for (;;) {
    signalfd_siginfo s{};
    if (read(signals_.get(), &s, sizeof(s)) != sizeof(s)) return;
    if (s.ssi_signo == SIGCHLD) continue;  // reap() looks anyway
    // The terminal's own signals reached the program as well, if it is in our group.
    const bool from_terminal = s.ssi_code == SI_KERNEL;
    const bool same_group = session_.pid() != 0 && getpgid(session_.pid()) == getpgrp();
    if (from_terminal && same_group) continue;
    if (session_.pid() != 0) kill(session_.pid(), static_cast<int>(s.ssi_signo));
  }
}

void Supervisor::on_timer() {
  const double interval = session_.options().interval_seconds;
  if (!session_.attached()) {
    if (!warned_unattached_ && options_.own_child && now_ns() - started_ns_ > 5000000000ull &&
        interval > 0 && plan_ == nullptr) {
      warned_unattached_ = true;
      say("the program runs but has not loaded the checkpoint library; no checkpoints are taken "
          "(it may have replaced itself by a static or setuid program)");
    }
    next_ns_ = now_ns() + 1000000000ull;
    return;
  }
  if (session_.frozen()) {
    next_ns_ = now_ns() + 1000000000ull;
    return;
  }
  format::Report r{};
  const Trouble bad = take(0, false, &r);
  if (bad.bad() && bad.error.sys_errno == ESRCH) {
    // it ended just now
  } else if (bad.bad()) {
    say("checkpoint failed: " + bad.text + "; the program runs on");
  } else {
    last_said_.clear();
  }
}

int Supervisor::run(Launched launched) {
  launched_ = std::move(launched);
  ended_ = killed_by_us_ = program_gone_ = false;
  status_ = 0;
  started_ns_ = now_ns();
  session_.set_program(launched_.pid);
  os::Fd pidfd(static_cast<int>(syscall(__NR_pidfd_open, launched_.pid, 0)));
  if (!options_.own_child && !pidfd) ended_ = true;  // it died before we could look
  const auto interval_ns = [&] {
    return static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
  };
  next_ns_ = now_ns() + interval_ns();
  while (!reap()) {
    std::vector<pollfd> p;
    p.push_back({signals_.get(), POLLIN, 0});
    p.push_back({session_.listen_fd(), POLLIN, 0});
    p.push_back({session_.attached() ? session_.control_fd() : -1, POLLIN, 0});
    p.push_back({launched_.status ? launched_.status.get() : -1, POLLIN, 0});
    p.push_back({options_.own_child ? -1 : pidfd.get(), POLLIN, 0});
    const size_t fixed = p.size();
    for (const Client& c : clients_) p.push_back({c.fd.get(), POLLIN, 0});
    int timeout = -1;
    if (session_.options().interval_seconds > 0) {
      const uint64_t now = now_ns();
      timeout = now >= next_ns_
                    ? 0
                    : static_cast<int>(std::min<uint64_t>((next_ns_ - now) / 1000000 + 1, 3600000));
    }
    const int n = poll(p.data(), p.size(), timeout);
    if (n < 0 && errno != EINTR) break;
    if (n > 0) {
      if (p[0].revents != 0) on_signals();
      if (p[3].revents != 0) {
        read_namespace_status();
        break;
      }
      if (p[4].revents != 0) break;
      if (p[2].revents != 0) serve_control();
      for (size_t i = 0; i < clients_.size() && fixed + i < p.size(); i++) {
        if (p[fixed + i].revents != 0) serve_client(i);
      }
      std::erase_if(clients_, [](const Client& c) { return !c.fd; });
      if (p[1].revents != 0) accept_clients();
    }
    if (session_.options().interval_seconds > 0 && now_ns() >= next_ns_ && !ended_) on_timer();
  }
  program_gone_ = true;
  // What the last words of a failed restore were.
  for (size_t i = 0; i < clients_.size(); i++) serve_client(i);
  clients_.clear();
  if (!plan_) {
    // ended as itself
  } else if (options_.own_child && exit_status_of(status_) != 125) {
    say("the restored program ended before it was complete");
  }
  session_.program_ended();
  after_end(status_);
  return status_;
}

bool Supervisor::wants_restart() const { return ended_ && !killed_by_us_ && WIFSIGNALED(status_); }

// A program that came to its end needs its images no more; a new run may overwrite them.
void Supervisor::after_end(int status) {
  const bool finished = options_.own_child ? WIFEXITED(status) : session_.said_goodbye();
  if (killed_by_us_ || !finished || plan_ != nullptr) return;
  if (session_.options().heap != HeapMode::kNone) return;  // a heap is made to be kept
  const std::string path = session_.options().dir + "/finished";
  os::Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

}  // namespace cr::agent
