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
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "agent/agent_messages.h"
#include "agent/process_tree.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr int kForwarded[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2};

// A client that does not read misses some; the checkpoint never waits for it.
Session::ProgressSink progress_to(int fd) {
  return [fd](format::ProgressPhase phase, uint64_t done, uint64_t total) {
    const format::Progress p{format::kMessageProgress, phase, done, total};
    (void)send(fd, &p, sizeof(p), MSG_NOSIGNAL | MSG_DONTWAIT);
  };
}

}  // namespace

int exit_status_of(int s) {
  if (WIFEXITED(s)) return WEXITSTATUS(s);
  if (WIFSIGNALED(s)) return 128 + WTERMSIG(s);
  return 125;
}

Supervisor::Supervisor(Session& session, SupervisorOptions options)
    : session_(session),
      options_(std::move(options)),
      terminal_(options_.own_child),
      protector_(options_.protect, [this](const std::string& text) { say(text); }),
      level_waits_(protector_,
                   [this](const Session* s) {
                     const auto others = tree_.others();
                     return s == &session_ || std::ranges::count(others, s) != 0;
                   }),
      tree_(session, [this](int milliseconds) { serve_for(milliseconds); }) {
  if (options_.protect.starter) tree_.set_apart(options_.protect.starter->child());
  // A process that outlives its parent stays in reach.
  if (options_.own_child) prctl(PR_SET_CHILD_SUBREAPER, 1);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  if (options_.own_child) sigaddset(&set, SIGCONT);
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

void Supervisor::accept_clients() {
  for (;;) {
    os::Fd fd(accept4(session_.listen_fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) return;
    ucred c{};
    socklen_t n = sizeof(c);
    if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &c, &n) != 0 ||
        (c.uid != geteuid() && c.uid != 0)) {
      // Told why when it has asked: what is sent before may get lost. Nobody can hold many.
      constexpr auto kMostStrangers = 16;
      if (std::ranges::count_if(clients_, &Client::stranger) >= kMostStrangers) continue;
      clients_.push_back({.fd = std::move(fd), .stranger = true});
      continue;
    }
    clients_.push_back({.fd = std::move(fd)});
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
      tree_.signal_all(SIGCONT);
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
  const uint64_t now = rawsys::now_ns();
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
  const uint64_t begin = rawsys::now_ns();
  Trouble bad = tree_.checkpoint(then, captured, ret);
  if (!asked_by_program && then == 0) session_.run_hooks(kAfter);
  if (!bad.bad() && then == 2) killed_by_us_ = true;
  const std::string notice = session_.take_notice();
  if (!notice.empty()) say(notice);
  if (!bad.bad()) tell_delay(rawsys::now_ns() - begin);
  next_ns_ = rawsys::now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
  note_death();
  return bad;
}

// The interval begins when a checkpoint is whole, so they never pile up; but then they come less
// often than somebody who wrote a number expects. Said again only when it has become twice as bad.
void Supervisor::tell_delay(uint64_t took_ns) {
  const SessionOptions& o = session_.options();
  const double took = static_cast<double>(took_ns) / 1e9;
  if (o.policy.automatic || o.interval_seconds <= 0 ||
      took <= std::max(o.interval_seconds, 2 * told_delay_)) {
    return;
  }
  told_delay_ = took;
  char text[200];
  snprintf(text, sizeof(text),
           "a checkpoint took %.3g s, longer than the interval of %.3g s, so the next ones are "
           "delayed; a longer interval, or -i auto, costs the program less",
           took, o.interval_seconds);
  say(text);
}

// The program may have ended, and been waited for, in a checkpoint's stop.
void Supervisor::note_death() {
  int status;
  if (session_.died(&status) && options_.own_child && launched_.waiter == launched_.pid) {
    ended_ = true;
    status_ = status;
  }
}

// checkpoint() returns when everything is captured; crheap_commit() when it is whole.
void Supervisor::on_checkpoint(Session& session, uint64_t id) {
  constexpr auto kKind = Session::Answer::kCheckpoint;
  const bool is_first = &session == &session_;
  const HeapMode heap = session_.options().heap;
  if (heap == HeapMode::kRead) {
    session.answer(id, kKind, trouble(Errc::kPermission, EROFS, "the heap was opened read-only"));
    return;
  }
  if (is_first) session_.quick().asked();
  if (is_first && session_.quick().is_open()) {  // it asked just before it was offered
    session.answer(id, kKind, trouble(Errc::kBusy, EBUSY, "the quick path is open"));
    return;
  }
  bool answered = false;
  const auto captured = [&] {
    answered = true;
    session.answer(id, kKind, {});
  };
  format::Report r{};
  const Trouble bad =
      take(0, true, heap == HeapMode::kNone ? std::function<void()>(captured) : nullptr, &r);
  if (!answered) {
    session.answer(id, kKind, bad);
  } else if (bad.bad()) {
    say("checkpoint failed: " + bad.text + "; the program runs on");
  }
}

void Supervisor::serve_control(Session& session) {
  for (;;) {
    format::Request q{};
    const ssize_t n = recv(session.control_fd(), &q, sizeof(q), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
      session.detach();  // it ended, or called exec
      return;
    }
    if (n != sizeof(q)) continue;
    switch (q.kind) {
      case format::kMessageClose:
        session_.close_heap();
        ended_ = true;
        return;
      case format::kMessageCheckpoint:
        on_checkpoint(session, q.id);
        break;
      case format::kMessageWait:
        on_wait(session, q.id, format::Ask::kWait);
        break;
      case format::kMessageWaitSafe:
        on_wait(session, q.id, format::Ask::kWaitSafe);
        break;
      case format::kMessageWaitFlushed:
        on_wait(session, q.id, format::Ask::kWaitFlushed);
        break;
      case format::kMessageRollback:
        on_rollback(session, q.id);
        break;
      case format::kMessageSetInterval:
        session_.set_interval(q.interval_seconds);
        next_ns_ =
            rawsys::now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
        break;
      default:
        break;
    }
    if (!session.attached()) return;
  }
}

void Supervisor::on_wait(Session& session, uint64_t id, format::Ask kind) {
  if (kind != format::Ask::kWait && level_waits_.refuse(session, id, kind)) return;
  serve_quick(~size_t{0});
  const Trouble& whole = session_.last_captured();
  if (whole.bad() || kind == format::Ask::kWait) return session.answer(id, kind, whole);
  level_waits_.add(session, id, kind, {session_.newest_epoch(), session_.sequence()});
}

// Passes on what crstored has said. Returns when to be called again if nothing happens.
uint64_t Supervisor::follow_levels() {
  if (protector_.wanted()) {
    const format::Levels levels = protector_.levels();
    session_.show_levels(levels, protector_.version());
    for (Session* s : tree_.others()) s->show_levels(levels, protector_.version());
    if (const CheckpointId id = protector_.safe(); id != noted_safe_) {
      noted_safe_ = id;
      session_.note_level(2, id.epoch, id.sequence, protector_.window_ns());
    }
    if (const CheckpointId id = protector_.flushed(); id != noted_flushed_) {
      noted_flushed_ = id;
      session_.note_level(3, id.epoch, id.sequence, 0);
    }
  }
  return level_waits_.settle();
}

// While a checkpoint waits for control threads. Other requests wait for its end.
void Supervisor::serve_for(int milliseconds) {
  std::vector<pollfd> p;
  p.push_back({session_.listen_fd(), POLLIN, 0});
  for (const Client& c : clients_) p.push_back({c.fd.get(), POLLIN, 0});
  if (poll(p.data(), p.size(), milliseconds) <= 0) return;
  for (size_t i = 0; i < clients_.size() && i + 1 < p.size(); i++) {
    uint32_t kind = 0;
    if (p[i + 1].revents == 0) continue;
    if (recv(clients_[i].fd.get(), &kind, sizeof(kind), MSG_PEEK | MSG_DONTWAIT) < 4) continue;
    if (kind == format::kMessageHello) serve_client(i);
  }
  accept_clients();
}

// True: there is more to commit.
bool Supervisor::serve_quick(size_t most) {
  if (!session_.quick().waiting()) return false;
  const bool more = session_.quick().serve(most);
  const std::string notice = session_.take_notice();
  if (!notice.empty()) say(notice);
  next_ns_ = rawsys::now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
  return more;
}

void Supervisor::serve_client(size_t i) {
  union {
    format::Hello hello;
    format::Request request;
    format::Report report;
    uint32_t kind;
  } m{};
  // A checkpoint can be had when all processes are back, not before.
  if (restoring_ && !clients_[i].stranger &&
      recv(clients_[i].fd.get(), &m, sizeof(m), MSG_PEEK | MSG_DONTWAIT) > 0 &&
      (m.kind == format::kMessageAskCheckpoint || m.kind == format::kMessageAskWithProgress)) {
    clients_[i].waits = true;
    return;
  }
  const ssize_t n = recv(clients_[i].fd.get(), &m, sizeof(m), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    clients_[i].fd.reset();
    if (clients_[i].restores != 0) give_up_restoring();
    if (clients_[i].fills) on_filler_end();
    return;
  }
  if (clients_[i].stranger) {
    const std::string why = "only its own user and root may talk to this session";
    (void)send_with_fds(clients_[i].fd.get(), refusal(trouble(Errc::kPermission, EPERM, why)),
                        nullptr, 0);
    clients_[i].fd.reset();
    return;
  }
  if (m.kind == format::kMessageHello && n == sizeof(m.hello)) {
    on_hello(i, m.hello);
  } else if (m.kind == format::kMessageTake && n == sizeof(m.request)) {
    on_take(i);
  } else if (m.kind == format::kMessageReport && n == sizeof(m.report)) {
    const pid_t pid = peer_of(clients_[i].fd.get());
    if (Returning* r = returning(pid); m.report.code == 0 && r != nullptr) {
      r->session->set_leftover({m.report.epoch, m.report.sequence});
    } else if (m.report.code == 0) {
      // nobody's
    } else if (m.report.code == format::kStepFilled) {
      filled_ = true;
      if (launched_.waiter == launched_.pid) filler_pid_ = static_cast<pid_t>(m.report.epoch);
      tree_.set_helper(filler_pid_);
    } else {
      fill_failed_ = filling_;
      say(describe_failure(pid, m.report));
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

// For so long. What wakes both wakes one after the other: who was woken first must not stop itself
// for good because the other one is about to be.
bool Supervisor::stays_stopped() const {
  constexpr int kLooks = 10;
  for (int look = 0;; look++) {
    const auto stat = os::read_stat(session_.pid(), session_.pid());
    if (!stat || (stat->state != 'T' && stat->state != 't')) return false;
    if (look == kLooks) return true;  // nothing comes between this look and the stop
    const timespec pause{0, 5'000'000};
    nanosleep(&pause, nullptr);
  }
}

// The program was stopped (Ctrl-Z reaches us by itself; this is SIGSTOP for it alone): the shell
// shall see its job stopped, and fg must wake both.
void Supervisor::stop_like_program() {
  if (session_.frozen() || !stays_stopped()) return;
  terminal_.stopping(session_.pid());
  raise(SIGSTOP);
  terminal_.continued(session_.pid());
  kill(session_.pid(), SIGCONT);
}

// true when the program is gone.
bool Supervisor::reap() {
  if (ended_) return true;
  if (filler_pid_ > 0 && waitpid(filler_pid_, nullptr, WNOHANG) != 0) filler_pid_ = 0;
  session_.finish_stop();
  tree_.finish_stop();
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
  if (!launched_.status) return;
  ended_ = true;
  int status = 0;
  const bool told = read(launched_.status.get(), &status, sizeof(status)) == sizeof(status);
  status_ = told ? status : SIGKILL;
  launched_.status.reset();
}

// Processes of the tree that have outlived their parents are our children.
void Supervisor::reap_orphans() {
  if (!options_.own_child) return;
  for (const pid_t pid : children_of(getpid())) {
    if (pid != launched_.waiter && pid != filler_pid_ && is_zombie(pid)) {
      waitpid(pid, nullptr, WNOHANG);
    }
  }
}

// The program and all that it has started.
bool Supervisor::finished() {
  if (!reap()) return false;
  if (!options_.own_child) return true;
  if (session_.pid() != 0) {
    tree_.first_ended(status_);
    session_.program_ended();
    if (options_.restart_on_failure && wants_restart()) tree_.kill_all();
  }
  return !tree_.others_live();
}

void Supervisor::on_signals() {
  for (;;) {
    signalfd_siginfo s{};
    if (read(signals_.get(), &s, sizeof(s)) != sizeof(s)) return;
    if (s.ssi_signo == SIGCHLD) {  // reap() looks for the program anyway
      reap_orphans();
      continue;
    }
    if (s.ssi_signo == SIGCONT) {  // with the program, if it is in our group
      terminal_.continued(session_.pid());
      continue;
    }
    // The terminal's own signals reached the program as well, if it is in our group.
    const bool from_terminal = s.ssi_code == SI_KERNEL;
    const bool same_group = session_.pid() != 0 && getpgid(session_.pid()) == getpgrp();
    if (from_terminal && same_group) continue;
    if (session_.pid() != 0) kill(session_.pid(), static_cast<int>(s.ssi_signo));
  }
}

void Supervisor::on_timer() {
  const double interval = session_.options().interval_seconds;
  if (!session_.attached() && !ended_ && !tree_.can_join_first()) {
    if (!warned_unattached_ && options_.own_child &&
        rawsys::now_ns() - started_ns_ > 5000000000ull && interval > 0 && !restoring_) {
      warned_unattached_ = true;
      say("the program runs but has not loaded the checkpoint library; no checkpoints are taken "
          "(it may have replaced itself by a static or setuid program)");
    }
    next_ns_ = rawsys::now_ns() + 1000000000ull;
    return;
  }
  if (session_.frozen()) {
    next_ns_ = rawsys::now_ns() + 1000000000ull;
    return;
  }
  format::Report r{};
  const Trouble bad = take(0, false, {}, &r);
  if (bad.bad() && (bad.error.sys_errno == ESRCH || bad.error.code == Errc::kAgentGone ||
                    (session_.has_ended() && !tree_.others_live()))) {
    // it ended just now, or executed another program, which can be checkpointed soon
  } else if (bad.bad()) {
    say("checkpoint failed: " + bad.text + "; the program runs on");
  } else {
    last_said_.clear();
  }
}

void Supervisor::note_home(const Launched& launched) {
  const bool own_namespace = launched.waiter != launched.pid && launched.waiter != 0;
  session_.set_home(own_namespace ? launched.waiter : getpid());
}

// The kernel tells nobody that a thread has ended while others live (a pidfd neither, since Linux
// 6.16), so they are looked at four times a second, or in a thousandth of a processor's time.
void Supervisor::look_for_last_threads() {
  constexpr uint64_t kOftenNs = 250000000, kSeldomNs = 5000000000, kShare = 1000;
  const uint64_t begin = rawsys::clock_ns(CLOCK_THREAD_CPUTIME_ID);
  session_.leave_if_last();
  for (Session* s : tree_.others()) s->leave_if_last();
  const uint64_t took = rawsys::clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin;
  look_ns_ = rawsys::now_ns() + std::clamp(kShare * took, kOftenNs, kSeldomNs);
}

int Supervisor::run(Launched launched) {
  launched_ = std::move(launched);
  ended_ = killed_by_us_ = program_gone_ = filled_ = fill_failed_ = false;
  status_ = 0;
  started_ns_ = rawsys::now_ns();
  note_home(launched_);
  if (launched_.pid != 0) {
    session_.set_program(launched_.pid);
  } else {  // a tree whose first process had ended
    ended_ = true;
    status_ = tree_.first_status();
  }
  protector_.begin(session_.options().dir, session_.session_id());
  tree_.set_top(!options_.own_child                 ? 0
                : launched_.waiter == launched_.pid ? getpid()
                                                    : launched_.waiter);
  os::Fd pidfd(static_cast<int>(syscall(__NR_pidfd_open, launched_.pid, 0)));
  if (!options_.own_child && !pidfd) ended_ = true;  // it died before we could look
  const auto interval_ns = [&] {
    return static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
  };
  next_ns_ = rawsys::now_ns() + interval_ns();
  while (!finished()) {
    protector_.look(session_.epoch(), session_.sequence());
    const uint64_t levels_ns = follow_levels();
    const std::vector<Session*> others = tree_.others();
    std::vector<pollfd> p;
    p.push_back({signals_.get(), POLLIN, 0});
    p.push_back({session_.listen_fd(), POLLIN, 0});
    p.push_back({session_.attached() ? session_.control_fd() : -1, POLLIN, 0});
    p.push_back({launched_.status ? launched_.status.get() : -1, POLLIN, 0});
    p.push_back({options_.own_child ? -1 : pidfd.get(), POLLIN, 0});
    p.push_back({protector_.fd(), POLLIN, 0});
    const size_t fixed = p.size();
    for (const Session* s : others) p.push_back({s->control_fd(), POLLIN, 0});
    const size_t first_client = p.size();
    for (const Client& c : clients_) {
      const bool later = c.waits && restoring_;
      p.push_back({c.fd.get(), static_cast<short>(later ? 0 : POLLIN), 0});
    }
    uint64_t until_ns = std::min({look_ns_, protector_.next_ns(), levels_ns});
    if (session_.options().interval_seconds > 0) until_ns = std::min(until_ns, next_ns_);
    const uint64_t now = rawsys::now_ns();
    int timeout =
        now >= until_ns
            ? 0
            : static_cast<int>(std::min<uint64_t>((until_ns - now) / 1000000 + 1, 3600000));
    constexpr int kTellMs = 100;
    constexpr uint64_t kNever = ~uint64_t{0};
    const bool filling = options_.progress && restoring_;
    if (filling) timeout = timeout < 0 ? kTellMs : std::min(timeout, kTellMs);
    timeout = terminal_.timeout_ms(timeout);
    constexpr size_t kQuickAtOnce = 16;
    uint64_t wait_ns = timeout < 0 ? kNever : static_cast<uint64_t>(timeout) * 1000000;
    wait_ns = serve_quick(kQuickAtOnce) ? 0 : session_.quick().sleep(wait_ns);
    const timespec wait{static_cast<time_t>(wait_ns / 1000000000),
                        static_cast<long>(wait_ns % 1000000000)};
    const int n = ppoll(p.data(), p.size(), wait_ns == kNever ? nullptr : &wait, nullptr);
    session_.quick().wake();
    if (filling) tell_filled();
    if (terminal_.timeout_ms(1) == 0) terminal_.step();
    if (n < 0 && errno != EINTR) break;
    if (n > 0) {
      if (p[0].revents != 0) on_signals();
      if (p[3].revents != 0) read_namespace_status();
      if (p[4].revents != 0) break;
      if (p[5].revents != 0) protector_.serve();
      if (p[2].revents != 0) serve_control(session_);
      for (size_t i = 0; i < others.size(); i++) {
        // A checkpoint that one of them asked for may have found that another is gone.
        const auto still = tree_.others();
        const bool there = std::ranges::count(still, others[i]) != 0;
        if (p[fixed + i].revents != 0 && there) serve_control(*others[i]);
      }
      for (size_t i = 0; i < clients_.size() && first_client + i < p.size(); i++) {
        if (p[first_client + i].revents != 0) serve_client(i);
      }
      std::erase_if(clients_, [](const Client& c) { return !c.fd; });
      if (p[1].revents != 0) accept_clients();
    }
    if (rawsys::now_ns() >= look_ns_) look_for_last_threads();
    if (session_.options().interval_seconds > 0 && rawsys::now_ns() >= next_ns_ && !finished())
      on_timer();
  }
  protector_.look(session_.epoch(), session_.sequence());
  program_gone_ = true;
  reap_orphans();  // their ids are wanted again
  // What the last words of a failed restore were.
  for (size_t i = 0; i < clients_.size(); i++) serve_client(i);
  clients_.clear();
  if (restoring_ && options_.own_child && exit_status_of(status_) != 125) {
    say("the restored program ended before it was complete");
  }
  if (options_.own_child && launched_.waiter != launched_.pid) {
    // Nothing that was started shall outlive a failed restore.
    if (restoring_) kill(launched_.waiter, SIGKILL);
    waitpid(launched_.waiter, nullptr, restoring_ ? 0 : WNOHANG);
  }
  session_.program_ended();
  terminal_.ended(WIFSIGNALED(status_));
  if (killed_by_us_ && WIFEXITED(status_)) status_ = SIGKILL;  // others were left of it
  if (fill_failed_) status_ = 125 << 8;
  if (rollback_wanted_) {
    rollback_wanted_ = false;
    Launched again;
    const Trouble bad = restore(0, &again);
    if (!bad.bad()) return run(std::move(again));
    say("restore() failed, and the program has ended: " + bad.text);
    return status_;
  }
  after_end(status_);
  return status_;
}

bool Supervisor::wants_restart() const { return ended_ && !killed_by_us_ && WIFSIGNALED(status_); }

// A program that came to its end needs its images no more; a new run may overwrite them.
void Supervisor::after_end(int status) {
  const bool finished = options_.own_child ? WIFEXITED(status) : session_.said_goodbye();
  if (killed_by_us_ || !finished || restoring_ || fill_failed_) return;
  if (session_.options().heap != HeapMode::kNone) return;  // a heap is made to be kept
  (void)store::make_empty_file(session_.options().dir + "/finished");
}

}  // namespace cr::agent
