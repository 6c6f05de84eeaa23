// SPDX-License-Identifier: MIT
// posix_timers.cc - see posix_timers.h. Invariant: as there. Context: N (agent).
#include "agent/posix_timers.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>

#include "agent/session.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

constexpr uint64_t kSecond = 1000000000;
constexpr size_t kTidOff = 16;         // in struct sigevent
constexpr uint64_t kKernelEvent = 64;  // bytes of the kernel's
constexpr int kCpuClockThread = 4;     // bits of a clock id that has a process or thread id
constexpr int kCpuClockIdShift = 3;

std::string name_of_timer(int32_t id) { return "POSIX timer " + std::to_string(id); }

// The id of a thread as the program sees it; 0: it is not the program's.
int32_t inner_id(pid_t pid, pid_t tid) {
  const std::string status = os::read_or_empty(os::task_path(pid, tid, "status"));
  const std::string ids = os::status_field(status, "NSpid");
  return static_cast<int32_t>(strtol(ids.substr(ids.find_last_of(" \t") + 1).c_str(), nullptr, 10));
}

// Clocks of a processor's time. The kernel does not tell which thread's it is.
Trouble check_clock(size_t threads, format::PosixTimerRecord& t) {
  const bool named = t.clock < 0;
  const int32_t owner = named ? ~(t.clock >> kCpuClockIdShift) : 0;
  const bool of_thread =
      named ? (t.clock & kCpuClockThread) != 0 : t.clock == CLOCK_THREAD_CPUTIME_ID;
  if (owner != 0) {
    return trouble(Errc::kUnsupported, 0,
                   name_of_timer(t.id) + " is of the processor time of process or thread " +
                       std::to_string(owner) +
                       ": that cannot be saved yet; delete it before the checkpoint");
  }
  if (!of_thread || threads == 1) return {};
  return trouble(Errc::kUnsupported, 0,
                 name_of_timer(t.id) +
                     " is of the processor time of one of several threads, and the kernel does not "
                     "tell which: that cannot be saved; delete it before the checkpoint");
}

}  // namespace

Trouble list_posix_timers(pid_t pid, size_t threads,
                          std::vector<format::PosixTimerRecord>* ret_timers) {
  const std::string text = os::read_or_empty("/proc/" + std::to_string(pid) + "/timers");
  for (size_t at = text.find("ID:"); at != std::string::npos; at = text.find("ID:", at + 1)) {
    if (at > 0 && text[at - 1] != '\n') continue;  // "ClockID:"
    format::PosixTimerRecord t{};
    char how[8] = "", whom[4] = "";
    int to = 0;
    unsigned long long value = 0;
    if (sscanf(text.c_str() + at, "ID: %d signal: %d/%llx notify: %7[a-z]/%3[a-z].%d ClockID: %d",
               &t.id, &t.signal, &value, how, whom, &to, &t.clock) != 7) {
      return trouble(Errc::kUnsupported, EIO, "POSIX timers: /proc/PID/timers cannot be read");
    }
    t.value = value;
    const std::string word = how;
    t.notify = word == "none" ? SIGEV_NONE : word == "thread" ? SIGEV_THREAD : SIGEV_SIGNAL;
    if (strcmp(whom, "tid") == 0) {
      t.notify |= SIGEV_THREAD_ID;
      t.tid = inner_id(pid, to);
      if (t.tid == 0) {
        return trouble(Errc::kUnsupported, 0,
                       name_of_timer(t.id) +
                           ": the thread that it signals has ended; delete it before the "
                           "checkpoint");
      }
    }
    Trouble bad = check_clock(threads, t);
    if (bad.bad()) return bad;
    ret_timers->push_back(t);
  }
  std::ranges::sort(*ret_timers, {}, &format::PosixTimerRecord::id);
  return {};
}

Trouble Session::describe_posix_timers(World& world, store::Model& model) {
  constexpr uint64_t kTimeoutNs = 10 * kSecond;
  std::vector<format::PosixTimerRecord>& timers = model.posix_timers;
  Trouble bad = list_posix_timers(pid_, world.threads().size(), &timers);
  if (bad.bad() || timers.empty()) return bad;
  // What was found is not in the tables yet, so their room is free.
  struct Asked {
    format::Call time, overrun;
  };
  const uint64_t bytes =
      sizeof(format::CallList) + timers.size() * sizeof(Asked) + timers.size() * sizeof(itimerspec);
  if (bytes > channel_map_.size() - runs_off_) {
    return trouble(Errc::kUnsupported, ENOMEM, "more POSIX timers than the shared tables hold");
  }
  auto* list = reinterpret_cast<format::CallList*>(channel_map_.data() + runs_off_);
  auto* asked = reinterpret_cast<Asked*>(list + 1);
  auto* times = reinterpret_cast<itimerspec*>(asked + timers.size());
  const uint64_t channel_there = channel()->reports_addr - offsetof(format::ChannelHeader, reports);
  const auto there = [&](const void* p) {
    return channel_there +
           static_cast<uint64_t>(static_cast<const uint8_t*>(p) - channel_map_.data());
  };
  for (size_t i = 0; i < timers.size(); i++) {
    const auto id = static_cast<uint64_t>(timers[i].id);
    asked[i].time = {__NR_timer_gettime, {id, there(&times[i])}, 0, 0, 0};
    asked[i].overrun = {__NR_timer_getoverrun, {id}, 0, format::kCallMayFail, 0};
  }
  *list = {0, 0, 2 * timers.size()};
  channel()->arg0 = runs_off_;
  bad = command(format::kCommandCalls, kTimeoutNs, &world);
  if (bad.bad()) return trouble(bad.error.code, bad.error.sys_errno, "POSIX timers: " + bad.text);
  for (size_t i = 0; i < timers.size(); i++) {
    const itimerspec& t = times[i];
    const auto ns = [](const timespec& s) {
      return static_cast<uint64_t>(s.tv_sec) * kSecond + static_cast<uint64_t>(s.tv_nsec);
    };
    timers[i].left_ns = ns(t.it_value);
    timers[i].interval_ns = ns(t.it_interval);
    timers[i].overrun = static_cast<int32_t>(std::max<int64_t>(0, asked[i].overrun.result));
  }
  return {};
}

void settle_posix_timers(uint64_t elapsed_ns, store::Model& model) {
  for (format::PosixTimerRecord& t : model.posix_timers) {
    const bool pending = std::ranges::any_of(model.siginfos, [&](const auto& r) {
      siginfo_t s;
      memcpy(&s, r.info, sizeof(r.info));
      return s.si_code == SI_TIMER && s.si_timerid == t.id && s.si_signo == t.signal;
    });
    if (!pending || t.left_ns == 0 || t.left_ns > elapsed_ns) continue;
    // Of a periodic one the next is still to come.
    t.left_ns = t.interval_ns == 0 ? 0 : t.left_ns + t.interval_ns;
  }
}

void make_posix_timers(const format::ImageView& image, Recipe& recipe) {
  for (const format::PosixTimerRecord& t : image.posix_timers) {
    const std::string what = name_of_timer(t.id);
    char event[kKernelEvent] = {};
    memcpy(event, &t.value, sizeof(t.value));
    memcpy(event + 8, &t.signal, sizeof(t.signal));
    memcpy(event + 12, &t.notify, sizeof(t.notify));
    const Arg data = recipe.data(event, sizeof(event));
    if (t.tid != 0) {
      recipe.call(what, format::kCallStoreId,
                  {Recipe::id(t.tid), Arg(data.value + kTidOff, format::kArgData)});
    }
    recipe.call(what + " cannot have its id", format::kCallMakeTimer, {t.clock, data, t.id});
    const uint64_t spec[4] = {t.interval_ns / kSecond, t.interval_ns % kSecond, t.left_ns / kSecond,
                              t.left_ns % kSecond};
    // Only the process as a whole can take its signal here, and only if no other is pending.
    const bool taken = t.notify == SIGEV_SIGNAL && t.left_ns != 0 && t.signal > 0 &&
                       std::ranges::none_of(image.siginfos, [&](const auto& s) {
                         int32_t number;
                         memcpy(&number, s.info, sizeof(number));
                         return number == t.signal;
                       });
    recipe.call(what + " cannot be set", format::kCallSetTimer,
                {t.id, recipe.data(spec, sizeof(spec)), taken ? t.overrun : 0, t.signal, t.clock});
  }
}

bool timer_ids_can_be_chosen() {
  constexpr int kRestoreIds = 77, kGet = 2;  // PR_TIMER_CREATE_RESTORE_IDS
  return prctl(kRestoreIds, kGet, 0, 0, 0) >= 0;
}

}  // namespace cr::agent
