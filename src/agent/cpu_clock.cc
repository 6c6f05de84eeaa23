// SPDX-License-Identifier: MIT
// cpu_clock.cc - see cpu_clock.h. Invariant: as there. Context: N (agent).
// The clock of another processor can only be read there. This process itself does not go: who may
// run on one processor only, and that is busy with other sessions' threads, was seen to wait for
// seconds (up to 26 s with two pairs of threads that compute, Linux 6.18; never, if it may run on
// the other one too). A thread of its own goes, and is not waited for beyond kPatienceNs.
#include "agent/cpu_clock.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>

#include "os/fd.h"
#include "os/proc.h"
#include "os/slice.h"
#include "rawsys/rawsys.h"

namespace cr::agent {

namespace {

constexpr uint64_t kFreshNs = 20'000'000, kPatienceNs = 3'000'000;

// "name   :   value"
bool sched_value(const std::string& text, const char* name, double* ret) {
  const size_t at = text.find(name);
  const size_t colon = at == std::string::npos ? at : text.find(':', at);
  if (colon == std::string::npos) return false;
  *ret = strtod(text.c_str() + colon + 1, nullptr);
  return true;
}

struct Reading {
  uint64_t scheduler_ns = 0, monotonic_ns = 0;  // 0: none
};

// Of the processor that the caller runs on. Nothing: it had to leave it again and again.
Reading read_here() {
  constexpr uint64_t kAtOnceNs = 200'000;
  for (int round = 0; round < 10; round++) {
    Reading r;
    uint64_t switches;
    (void)rawsys::clock_ns(CLOCK_THREAD_CPUTIME_ID);  // brings the figure up to date
    r.monotonic_ns = rawsys::now_ns();
    if (!last_ran("/proc/thread-self/sched", &r.scheduler_ns, &switches)) return {};
    if (rawsys::now_ns() - r.monotonic_ns < kAtOnceNs) return r;
  }
  return {};
}

class Reader {  // is never destroyed: its thread ends with the process
 public:
  // What that processor answers, now or the last time.
  Reading ask(int cpu);

 private:
  void start();
  static void* begin(void* self);
  [[noreturn]] void run();

  std::mutex lock_;
  std::condition_variable changed_;
  pid_t tid_ = 0;  // 0: it does not run yet
  bool started_ = false, pending_ = false;
  int cpu_ = -1;  // that was asked for
  std::map<int, Reading> read_;
};

void* Reader::begin(void* self) { static_cast<Reader*>(self)->run(); }

void Reader::run() {
  os::set_slice(0, os::Slice::kShort);
  std::unique_lock lock(lock_);
  tid_ = static_cast<pid_t>(rawsys::sys_gettid());
  for (;;) {
    changed_.notify_all();
    changed_.wait(lock, [this] { return pending_; });
    lock.unlock();
    const Reading r = read_here();  // it may only run on the processor that is asked for
    lock.lock();
    if (r.monotonic_ns != 0) read_[cpu_] = r;
    pending_ = false;
  }
}

// No signal is for it. If there are too many threads: perhaps another time.
void Reader::start() {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  started_ = pthread_create(&thread, nullptr, &Reader::begin, this) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (started_) pthread_detach(thread);
}

Reading Reader::ask(int cpu) {
  constexpr auto kPatience = std::chrono::nanoseconds(kPatienceNs);
  std::unique_lock lock(lock_);
  if (!started_) start();
  if (tid_ == 0 && started_) changed_.wait_for(lock, kPatience, [this] { return tid_ != 0; });
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(cpu), &one);
  // Pending: it still waits for a processor. That was waited for already.
  if (tid_ != 0 && !pending_ && sched_setaffinity(tid_, sizeof(one), &one) == 0) {
    cpu_ = cpu;
    pending_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, kPatience, [this] { return !pending_; });
  }
  return read_[cpu];
}

}  // namespace

bool last_ran(const std::string& path, uint64_t* ret_ns, uint64_t* ret_switches) {
  auto text = os::read_file(path);
  double milliseconds, switches;
  if (!text || !sched_value(*text, "se.exec_start", &milliseconds) ||
      !sched_value(*text, "nr_voluntary_switches", &switches)) {
    return false;
  }
  *ret_ns = static_cast<uint64_t>(milliseconds * 1e6);
  *ret_switches = static_cast<uint64_t>(switches);
  return true;
}

bool scheduler_now_ns(int cpu, uint64_t* ret) {
  static std::map<int, Reading> known;
  static Reader& reader = *new Reader;
  if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
  Reading& k = known[cpu];
  if (k.monotonic_ns == 0 || rawsys::now_ns() - k.monotonic_ns > kFreshNs) {
    Reading r;
    if (sched_getcpu() == cpu) r = read_here();
    if (sched_getcpu() != cpu || r.monotonic_ns == 0) r = reader.ask(cpu);
    if (r.monotonic_ns == 0) return false;
    k = r;
  }
  *ret = k.scheduler_ns + (rawsys::now_ns() - k.monotonic_ns);
  return true;
}

}  // namespace cr::agent
