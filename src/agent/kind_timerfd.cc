// SPDX-License-Identifier: MIT
// kind_timerfd.cc - timerfd.
// Invariant: as kinds.h. A timer goes on with the time that was left; one that was set to a time of
// the wall clock keeps that.
// Context: N (agent).
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "agent/kinds.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr uint64_t kSecond = 1000000000;
constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS

bool info_time(const std::string& text, const char* name, uint64_t* ret_ns) {
  unsigned long long s = 0, ns = 0;
  if (sscanf(os::status_field(text, name).c_str(), "(%llu, %llu)", &s, &ns) != 2) return false;
  *ret_ns = s * kSecond + ns;
  return true;
}

bool read_state(const Program& program, Descriptor& now, format::TimerfdState* ret) {
  auto info = os::read_fdinfo(program.pid, program.tid, now.fd);
  uint64_t clock = 0, flags = 0;
  if (!info) return false;
  now.info = std::move(*info);
  ret->wall_ns = rawsys::clock_ns(CLOCK_REALTIME);
  if (!info_number(now, "clockid", 10, &clock) || !info_number(now, "ticks", 10, &ret->ticks) ||
      !info_number(now, "settime flags", 8, &flags) ||
      !info_time(now.info.extra, "it_value", &ret->left_ns) ||
      !info_time(now.info.extra, "it_interval", &ret->interval_ns)) {
    return false;
  }
  ret->clock = static_cast<int32_t>(clock);
  ret->flags = static_cast<uint32_t>(flags);
  return true;
}

Trouble describe_timerfd(const Program& program, const Descriptor& d, format::FileRecord& f) {
  const os::Fd copy = program.copy_of(d.fd);
  // Expirations of a periodic one are counted when somebody asks.
  itimerspec asked{};
  Descriptor now = d;
  format::TimerfdState s{};
  bool good = copy && timerfd_gettime(copy.get(), &asked) == 0 && read_state(program, now, &s);
  // Expiring just now?
  if (good && s.left_ns == 0 && s.ticks == 0) good = read_state(program, now, &s);
  if (!good) {
    return trouble(Errc::kUnsupported, errno, name_of(d) + ": /proc does not tell its state");
  }
  const bool wall = s.clock == CLOCK_REALTIME || s.clock == CLOCK_REALTIME_ALARM;
  const bool keeps_wall = wall && (s.flags & TFD_TIMER_ABSTIME) != 0 && s.left_ns != 0;
  s.wall_ns = keeps_wall ? s.wall_ns + s.left_ns : 0;
  set_state(program, f, s);
  return {};
}

void make_timerfd(const SavedFile& f, Recipe& recipe) {
  recipe.call(f.name, __NR_timerfd_create, {state_of<format::TimerfdState>(f).clock, TFD_CLOEXEC});
}

void furnish_timerfd(const SavedFile& f, Recipes& recipes) {
  const auto& s = state_of<format::TimerfdState>(f);
  const uint64_t value = s.wall_ns != 0 ? s.wall_ns : s.left_ns;
  const uint64_t spec[4] = {s.interval_ns / kSecond, s.interval_ns % kSecond, value / kSecond,
                            value % kSecond};
  recipes.late.call(
      f.name + ": setting the timer", __NR_timerfd_settime,
      {f.fd, s.wall_ns != 0 ? s.flags : 0u, recipes.late.data(spec, sizeof(spec)), 0});
  if (s.ticks == 0) return;
  recipes.late.call(f.name + ": its expirations that were not read", __NR_ioctl,
                    {f.fd, kSetTicks, recipes.late.data(&s.ticks, sizeof(s.ticks))});
}

}  // namespace

const KindOfFile kTimerfdKind = {
    .kind = format::kFileTimerfd,
    .link = "anon_inode:[timerfd]",
    .describe = describe_timerfd,
    .make = make_timerfd,
    .furnish = furnish_timerfd,
};

}  // namespace cr::agent
