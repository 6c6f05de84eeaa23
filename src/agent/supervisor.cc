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

#include "agent/file_owners.h"
#include "agent/restore_objects.h"
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

// A client that does not read misses some; the checkpoint never waits for it.
Session::ProgressSink progress_to(int fd) {
  return [fd](format::ProgressPhase phase, uint64_t done, uint64_t total) {
    const format::Progress p{format::kMessageProgress, phase, done, total};
    (void)send(fd, &p, sizeof(p), MSG_NOSIGNAL | MSG_DONTWAIT);
  };
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
                                           "installing descriptors",
                                           "setting files' offsets and sizes"};
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
  if (restored && options_.progress && plan_image_ != nullptr) {
    const uint64_t all = plan_image_->view.super.payload_slots * kPageSize;
    options_.progress(format::kPhaseFilling, all, all);
    options_.progress_ends();  // the program speaks next
  }
  bool good = peer_is_program(raw);
  if (good && restored && plan_ != nullptr && plan_image_ != nullptr) {
    const Trouble bad = finish_segments(*plan_, *plan_image_);
    good = !bad.bad();
    if (bad.bad()) why = bad.text;
  }
  if (good && session_.attach(std::move(fd), hello, &why)) {
    if (restored) {
      if (plan_ != nullptr) plan_->undo.keep();
      fault_point(FaultPoint::kRestoreAttached);
      (void)store::remove_file(session_.options().dir + "/finished");  // it lives again
      plan_.reset();
      if (!filling_) plan_image_.reset();
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
  Trouble bad = open_proc_files(*plan_, session_.pid());
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
  filling_ = clients_[i].fills = plan_->lazy_bytes > 0;
  plan_->fds.clear();  // the program's pipes must not be held open here
}

// The process that fills a lazily restored one is gone; its socket was its alone since the program
// runs.
void Supervisor::on_filler_end() {
  filling_ = false;
  plan_image_.reset();
  if (filled_ || fill_failed_ || session_.pidfd() < 0) return;
  pollfd p{session_.pidfd(), POLLIN, 0};
  if (poll(&p, 1, 0) != 0) return;  // it ended because the program has
  const std::string status =
      os::read_or_empty("/proc/" + std::to_string(session_.pid()) + "/status");
  syscall(__NR_pidfd_send_signal, session_.pidfd(), SIGKILL, nullptr, 0);
  if (status.empty() || os::is_killed(status)) return;  // both were killed, by one and the same
  fill_failed_ = true;
  say("the process that brought the program's memory (cr-fill) was ended; so is the program");
}

// A checkpoint is of all memory, and the image may be written to only when nothing is missing.
void Supervisor::wait_until_filled() {
  while (filling_) {
    for (size_t i = 0; i < clients_.size(); i++) {
      if (!clients_[i].fills || !clients_[i].fd) continue;
      pollfd p{clients_[i].fd.get(), POLLIN, 0};
      if (poll(&p, 1, -1) > 0) serve_client(i);
    }
  }
}

void Supervisor::on_ask(int fd, const format::Request& q) {
  format::Report r{};
  if (q.kind == format::kMessageAskCheckpoint || q.kind == format::kMessageAskWithProgress) {
    if (q.kind == format::kMessageAskWithProgress) session_.set_progress(progress_to(fd));
    (void)take(q.then, false, {}, &r);
    session_.set_progress({});
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

// A client that does not read gets nothing; nobody waits for it.
void Supervisor::on_ask_details(int fd) {
  format::Details d{};
  session_.describe(&d);
  const uint64_t now = now_ns();
  d.uptime_ns = now - started_ns_;
  d.until_next_ns = d.interval_seconds > 0 ? (next_ns_ > now ? next_ns_ - now : 0) : ~0ull;
  auto words = os::read_file("/proc/" + std::to_string(d.pid) + "/cmdline");
  if (words) {
    while (!words->empty() && words->back() == 0) words->pop_back();
    std::ranges::replace(*words, '\0', ' ');
    rawsys::str_copy(d.program, words->c_str(), sizeof(d.program));
  }
  (void)send(fd, &d, sizeof(d), MSG_NOSIGNAL | MSG_DONTWAIT);
}

Trouble Supervisor::take(uint32_t then, bool asked_by_program,
                         const std::function<void()>& captured, format::Report* ret) {
  constexpr uint32_t kBefore = 0, kAfter = 1;  // enum crhook_when; checkpoint() runs them itself
  wait_until_filled();
  if (!asked_by_program) session_.run_hooks(kBefore);
  Trouble bad = session_.checkpoint(then, captured, ret);
  if (!asked_by_program && then == 0) session_.run_hooks(kAfter);
  if (!bad.bad() && then == 2) killed_by_us_ = true;
  const std::string notice = session_.take_notice();
  if (!notice.empty()) say(notice);
  next_ns_ = now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
  note_death();
  return bad;
}

// How much memory the process has that is becoming the restored program.
void Supervisor::tell_filled() {
  auto status = os::read_file("/proc/" + std::to_string(session_.pid()) + "/status");
  if (!status || plan_image_ == nullptr) return;
  uint64_t bytes = 0;
  for (const char* field : {"RssAnon", "RssShmem"}) {
    bytes += strtoull(os::status_field(*status, field).c_str(), nullptr, 10) << 10;
  }
  const uint64_t total = plan_image_->view.super.payload_slots * kPageSize;
  options_.progress(format::kPhaseFilling, std::min(bytes, total), total);
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
  if (options_.progress) {
    plan->on_verify = [this](uint64_t done, uint64_t total) {
      options_.progress(format::kPhaseVerifying, done, total);
    };
  }
  // In place, the process is lost once it has begun: then nothing may be found to be damaged.
  const bool in_place = live_pidfd >= 0;
  const PlanOptions how{live_pidfd, in_place ? Verify::kNow : Verify::kWithFill,
                        options_.lazy && !in_place};
  bad = make_restore_plan(*image, session_.options().dir, how, plan.get());
  if (bad.error.code == Errc::kDamaged && sequence == 0) {
    bad.text += name_other_buffer(session_.options().dir, image->index);
  }
  if (bad.bad()) return bad;
  for (const std::string& w : plan->warnings) say(w);
  plan_ = std::move(plan);
  plan_image_ = std::move(image);
  newest_wanted_ = sequence == 0;
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
    session_.answer(id, Session::Answer::kRollback, session_.load_heap());
    return;
  }
  wait_until_filled();
  session_.quick().withdraw();
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
      silence_owners(session_.pid(), session_.pidfd());
      session_.count_rollback();
      session_.adopt(*plan_image_);
    }
  }
  if (bad.bad()) plan_.reset();
  session_.answer(id, Session::Answer::kRollback, bad);
}

// checkpoint() returns when everything is captured; crheap_commit() when it is whole.
void Supervisor::on_checkpoint(uint64_t id) {
  constexpr auto kKind = Session::Answer::kCheckpoint;
  const HeapMode heap = session_.options().heap;
  if (heap == HeapMode::kRead) {
    session_.answer(id, kKind, trouble(Errc::kPermission, EROFS, "the heap was opened read-only"));
    return;
  }
  session_.quick().asked();
  if (session_.quick().is_open()) {  // it asked just before it was offered
    session_.answer(id, kKind, trouble(Errc::kBusy, EBUSY, "the quick path is open"));
    return;
  }
  bool answered = false;
  const auto captured = [&] {
    answered = true;
    session_.answer(id, kKind, {});
  };
  format::Report r{};
  const Trouble bad =
      take(0, true, heap == HeapMode::kNone ? std::function<void()>(captured) : nullptr, &r);
  if (!answered) {
    session_.answer(id, kKind, bad);
  } else if (bad.bad()) {
    say("checkpoint failed: " + bad.text + "; the program runs on");
  }
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
    switch (q.kind) {
      case format::kMessageClose:
        session_.close_heap();
        ended_ = true;
        return;
      case format::kMessageCheckpoint:
        on_checkpoint(q.id);
        break;
      case format::kMessageWait:
        serve_quick(~size_t{0});
        session_.answer(q.id, Session::Answer::kWait, session_.last_captured());
        break;
      case format::kMessageRollback:
        on_rollback(q.id);
        break;
      case format::kMessageSetInterval:
        session_.set_interval(q.interval_seconds);
        next_ns_ = now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
        break;
      default:
        break;
    }
    if (!session_.attached()) return;
  }
}

// True: there is more to commit.
bool Supervisor::serve_quick(size_t most) {
  if (!session_.quick().waiting()) return false;
  const bool more = session_.quick().serve(most);
  const std::string notice = session_.take_notice();
  if (!notice.empty()) say(notice);
  next_ns_ = now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
  return more;
}

// What the restorer says before it ends.
std::string Supervisor::describe_failure(const format::Report& r) const {
  if (r.code == format::kStepFill && r.sys_errno == EBADMSG && plan_image_ != nullptr) {
    return damaged_page(*plan_image_, r.sequence, r.epoch).text +
           (newest_wanted_ ? name_other_buffer(session_.options().dir, plan_image_->index) : "");
  }
  char at[32] = "";
  if (r.code == format::kStepFiles && plan_ != nullptr) {
    std::vector<std::string> paths;
    for (const PendingFile& p : plan_->pending) {
      if (p.seek) paths.push_back(p.path);
    }
    const std::vector<std::string>& more = plan_->changed_names;
    paths.insert(paths.end(), more.begin(), more.end());
    if (r.sequence < paths.size()) {
      return "restoring failed: " + paths[r.sequence] +
             " cannot be put back to its offset, size and content at the checkpoint: " +
             strerror(r.sys_errno);
    }
  }
  if (r.code == format::kStepCalls && plan_ != nullptr && r.sequence < plan_->call_names.size()) {
    return "restoring failed: " + plan_->call_names[r.sequence] + ": " + strerror(r.sys_errno);
  }
  if (r.code != format::kStepControl) {
    snprintf(at, sizeof(at), " at 0x%lx", static_cast<unsigned long>(r.sequence));
  }
  return std::string("restoring failed while ") + step_name(r.code) + at + ": " +
         strerror(r.sys_errno);
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
    if (clients_[i].fills) on_filler_end();
    return;
  }
  if (m.kind == format::kMessageHello && n == sizeof(m.hello)) {
    on_hello(i, m.hello);
  } else if (m.kind == format::kMessageTake && n == sizeof(m.request)) {
    on_take(i);
  } else if (m.kind == format::kMessageReport && n == sizeof(m.report)) {
    if (m.report.code == 0) {
      session_.set_leftover({m.report.epoch, m.report.sequence});
    } else if (m.report.code == format::kStepFilled) {
      filled_ = true;
      if (launched_.waiter == launched_.pid) filler_pid_ = static_cast<pid_t>(m.report.epoch);
    } else {
      fill_failed_ = filling_;
      say(describe_failure(m.report));
    }
  } else if ((m.kind == format::kMessageAskCheckpoint ||
              m.kind == format::kMessageAskWithProgress || m.kind == format::kMessageAskStatus) &&
             n == sizeof(m.request)) {
    on_ask(clients_[i].fd.get(), m.request);
  } else if (m.kind == format::kMessageAskDetails && n == sizeof(m.request)) {
    on_ask_details(clients_[i].fd.get());
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
  if (filler_pid_ > 0 && waitpid(filler_pid_, nullptr, WNOHANG) != 0) filler_pid_ = 0;
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
  const Trouble bad = take(0, false, {}, &r);
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
  ended_ = killed_by_us_ = program_gone_ = filled_ = fill_failed_ = false;
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
    constexpr int kTellMs = 100;
    const bool filling = options_.progress && plan_ != nullptr;
    if (filling) timeout = timeout < 0 ? kTellMs : std::min(timeout, kTellMs);
    constexpr size_t kQuickAtOnce = 16;
    constexpr uint64_t kNever = ~uint64_t{0};
    uint64_t wait_ns = timeout < 0 ? kNever : static_cast<uint64_t>(timeout) * 1000000;
    wait_ns = serve_quick(kQuickAtOnce) ? 0 : session_.quick().sleep(wait_ns);
    const timespec wait{static_cast<time_t>(wait_ns / 1000000000),
                        static_cast<long>(wait_ns % 1000000000)};
    const int n = ppoll(p.data(), p.size(), wait_ns == kNever ? nullptr : &wait, nullptr);
    session_.quick().wake();
    if (filling) tell_filled();
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
  if (plan_ && options_.own_child && launched_.waiter != launched_.pid) {
    kill(launched_.waiter, SIGKILL);  // nothing that was started shall outlive a failed restore
    waitpid(launched_.waiter, nullptr, 0);
  }
  session_.program_ended();
  if (fill_failed_) status_ = 125 << 8;
  after_end(status_);
  return status_;
}

bool Supervisor::wants_restart() const { return ended_ && !killed_by_us_ && WIFSIGNALED(status_); }

// A program that came to its end needs its images no more; a new run may overwrite them.
void Supervisor::after_end(int status) {
  const bool finished = options_.own_child ? WIFEXITED(status) : session_.said_goodbye();
  if (killed_by_us_ || !finished || plan_ != nullptr || fill_failed_) return;
  if (session_.options().heap != HeapMode::kNone) return;  // a heap is made to be kept
  (void)store::make_empty_file(session_.options().dir + "/finished");
}

}  // namespace cr::agent
