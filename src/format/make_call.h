// SPDX-License-Identifier: MIT
// make_call.h - carries out one entry of a table of system calls (calls.h).
// Invariant: touches no floating-point or vector register by itself; nothing but the call's own
// effect, its result and its resolved arguments is changed.
// Context: N, S, R.
#pragma once

#include <errno.h>
#include <sys/epoll.h>

#include "format/calls.h"
#include "rawsys/rawsys.h"

namespace cr::format {

// Where a list's data lies, and what an id has become.
struct CallSurroundings {
  uint64_t data = 0;
  uint64_t (*id_now)(const void* context, uint64_t id) = nullptr;
  const void* context = nullptr;
};

inline uint64_t call_argument(const Call* first, const Call& c, uint32_t i,
                              const CallSurroundings& s) {
  const uint64_t value = c.args[i];
  switch (c.arg_kinds >> (i * kArgKindBits) & ((1u << kArgKindBits) - 1)) {
    case kArgData:
      return s.data + value;
    case kArgResult:
      return static_cast<uint64_t>(first[value].result);
    case kArgId:
      return s.id_now != nullptr ? s.id_now(s.context, value) : value;
    default:
      return value;
  }
}

// The entry has fired and waits for EPOLL_CTL_MOD. Nobody can add such a one, so it is let fire. If
// its file is not ready for anything just now, an error or a hang-up can still be reported, once.
inline long add_disarmed(uint64_t epoll, uint64_t fd, uint64_t events, uint64_t data) {
  constexpr uint32_t kAny = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDNORM | EPOLLRDBAND |
                            EPOLLWRNORM | EPOLLWRBAND | EPOLLMSG | EPOLLRDHUP;
  epoll_event e{}, fired{};
  e.events = static_cast<uint32_t>(events) | kAny;
  e.data.u64 = data;
  const long r = rawsys::sys(__NR_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &e);
  if (r < 0) return r;
  if (rawsys::sys(__NR_epoll_wait, epoll, &fired, 1, 0) == 1) return 0;
  e.events = static_cast<uint32_t>(events);
  return rawsys::sys(__NR_epoll_ctl, epoll, EPOLL_CTL_MOD, fd, &e);
}

// In a process-id namespace that the group is not in nobody can name it; the agent has done it.
inline long signal_group(uint64_t fd) {
  constexpr int kSetOwner = 8;  // F_SETOWN
  const long group = rawsys::sys(__NR_getpgid, 0);
  return group == 0 ? 0 : rawsys::sys(__NR_fcntl, fd, kSetOwner, -group);
}

// Ids rise by one with each timer where they cannot be chosen (before Linux 6.15).
inline long make_timer(uint64_t clock, uint64_t event, int32_t id, bool choose = true) {
  constexpr int kRestoreIds = 77;  // PR_TIMER_CREATE_RESTORE_IDS
  constexpr int32_t kMostTries = 1 << 20;
  const bool chosen = choose && rawsys::sys(__NR_prctl, kRestoreIds, 1, 0, 0, 0) == 0;
  int32_t got = id;
  long r = rawsys::sys(__NR_timer_create, clock, event, &got);
  if (chosen) rawsys::sys(__NR_prctl, kRestoreIds, 0, 0, 0, 0);
  if (r >= 0 && got != id && (got > id || id - got > kMostTries)) {
    rawsys::sys(__NR_timer_delete, got);
    return -EBUSY;
  }
  while (r >= 0 && got < id) {
    rawsys::sys(__NR_timer_delete, got);
    r = rawsys::sys(__NR_timer_create, clock, event, &got);
  }
  return r;
}

// Overruns are counted when a signal is taken: so it is set to where it would be had it expired so
// often, and its signal taken here. Signals are blocked.
inline bool set_timer_overrun(uint64_t id, const int64_t* spec, uint64_t overrun, uint64_t signal,
                              uint64_t clock) {
  constexpr int64_t kSecond = 1000000000;
  struct {
    int32_t signo, error, code, pad, timer, overrun;
    uint64_t rest[13];
  } info{};
  timespec now{};
  if (rawsys::sys(__NR_clock_gettime, clock, &now) < 0) return false;
  const int64_t interval = spec[0] * kSecond + spec[1], left = spec[2] * kSecond + spec[3];
  const int64_t first =
      now.tv_sec * kSecond + now.tv_nsec + left - (static_cast<int64_t>(overrun) + 1) * interval;
  if (interval == 0 || first <= 0) return false;
  const int64_t at[4] = {spec[0], spec[1], first / kSecond, first % kSecond};
  constexpr int kAbsolute = 1;
  if (rawsys::sys(__NR_timer_settime, id, kAbsolute, at, nullptr) < 0) return false;
  const uint64_t mask = uint64_t{1} << (signal - 1);
  const timespec patience{1, 0};
  return rawsys::sys(__NR_rt_sigtimedwait, &mask, &info, &patience, 8) ==
             static_cast<long>(signal) &&
         info.timer == static_cast<int32_t>(id) && info.overrun == static_cast<int32_t>(overrun);
}

inline long set_timer(uint64_t id, const int64_t* spec, uint64_t overrun, uint64_t signal,
                      uint64_t clock) {
  if (overrun != 0 && set_timer_overrun(id, spec, overrun, signal, clock)) return 0;
  return rawsys::sys(__NR_timer_settime, id, 0, spec, nullptr);
}

inline long install_filter(uint64_t flags, uint64_t instructions, uint64_t count) {
  constexpr int kSetModeFilter = 1;
  struct {
    uint16_t count;
    uint16_t pad[3];
    uint64_t instructions;
  } program{static_cast<uint16_t>(count), {}, instructions};
  return rawsys::sys(__NR_seccomp, kSetModeFilter, flags, &program);
}

inline long make_call(Call* first, Call& c, const CallSurroundings& s) {
  uint64_t a[6];
  for (uint32_t i = 0; i < 6; i++) a[i] = call_argument(first, c, i, s);
  const int64_t wanted = c.result;
  switch (c.nr) {
    case kCallStoreId:
      *reinterpret_cast<int32_t*>(a[1]) = static_cast<int32_t>(a[0]);
      c.result = 0;
      break;
    case kCallAddDisarmed:
      c.result = add_disarmed(a[0], a[1], a[2], a[3]);
      break;
    case kCallSignalGroup:
      c.result = signal_group(a[0]);
      break;
    case kCallMakeTimer:
      c.result = make_timer(a[0], a[1], static_cast<int32_t>(a[2]));
      break;
    case kCallSetTimer:
      c.result = set_timer(a[0], reinterpret_cast<const int64_t*>(a[1]), a[2], a[3], a[4]);
      break;
    case kCallFunction:
      c.result = reinterpret_cast<long (*)(uint64_t)>(a[0])(a[1]);
      break;
    case kCallFilter:
      c.result = install_filter(a[0], a[1], a[2]);
      break;
    default:
      c.result = rawsys::sys(static_cast<long>(c.nr), a[0], a[1], a[2], a[3], a[4], a[5]);
  }
  if ((c.flags & kCallReturns) != 0 && !rawsys::is_error(c.result) && c.result != wanted) {
    return -EBUSY;
  }
  return rawsys::is_error(c.result) && (c.flags & kCallMayFail) == 0 ? c.result : 0;
}

}  // namespace cr::format
