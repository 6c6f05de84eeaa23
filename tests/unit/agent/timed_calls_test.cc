// SPDX-License-Identifier: MIT
// timed_calls_test.cc - what becomes of an interrupted system call.
#include "agent/timed_calls.h"

#include <asm/unistd.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

using cr::agent::CallContext;
using cr::agent::Continuation;
using cr::agent::Deliverable;

namespace {

constexpr uint64_t kStub = 0x700000000000;

user_regs_struct interrupted(long nr, long result) {
  user_regs_struct r{};
  r.orig_rax = static_cast<unsigned long long>(nr);
  r.rax = static_cast<unsigned long long>(result);
  r.rip = 0x401002;
  r.rsp = 0x7fff0000ff00;
  return r;
}

CallContext asleep(long nr, uint64_t ns) {
  CallContext x;
  x.before.syscall_nr = nr;
  x.before.asleep_known = true;
  x.before.asleep_ns = ns;
  x.resume_entry = kStub;
  x.read = [](void* context, uint64_t, void* to, size_t n) {
    memcpy(to, context, n);
    return true;
  };
  return x;
}

}  // namespace

Test(timed_calls, a_thread_outside_system_calls_is_left_alone) {
  const auto regs = interrupted(-1, -EINTR);
  const Continuation c = cr::agent::continue_call(regs, CallContext{});
  cr_assert_not(c.live_changed);
  cr_assert_eq(memcmp(&c.saved, &regs, sizeof(regs)), 0);
}

Test(timed_calls, the_kernel_restarts_live_and_the_image_makes_the_call_again) {
  const Continuation c = cr::agent::continue_call(interrupted(__NR_read, -512), CallContext{});
  cr_assert_not(c.live_changed);
  cr_assert_eq(c.saved.rip, 0x401000u);
  cr_assert_eq(c.saved.rax, static_cast<unsigned long long>(__NR_read));
}

Test(timed_calls, epoll_wait_goes_on_with_the_time_left) {
  auto regs = interrupted(__NR_epoll_wait, -EINTR);
  regs.r10 = 5000;  // milliseconds
  const Continuation c = cr::agent::continue_call(regs, asleep(__NR_epoll_wait, 2000000000));
  cr_assert(c.live_changed);
  cr_assert_eq(c.live.rip, kStub);
  cr_assert_eq(c.pokes.size(), 1u);
  cr_assert_eq(c.pokes[0].addr, c.live.rsp);
  cr_assert_leq(c.live.rsp + 128, regs.rsp, "the red zone must stay untouched");
  uint64_t frame[18];
  cr_assert_geq(c.pokes[0].bytes.size(), sizeof(frame));
  memcpy(frame, c.pokes[0].bytes.data(), sizeof(frame));
  cr_assert_eq(frame[1], static_cast<uint64_t>(__NR_epoll_wait));
  cr_assert_eq(frame[2 + 3], 3000u, "remaining milliseconds, got %lu", frame[5]);
  cr_assert_eq(frame[8 + 3], 5000u, "r10 as the program had it");
  cr_assert_eq(frame[14], regs.rsp);
  cr_assert_eq(frame[15], regs.rip);
}

Test(timed_calls, an_endless_wait_is_simply_made_again) {
  auto regs = interrupted(__NR_epoll_wait, -EINTR);
  regs.r10 = static_cast<unsigned long long>(-1);
  const Continuation c = cr::agent::continue_call(regs, asleep(__NR_epoll_wait, 2000000000));
  cr_assert(c.live_changed && c.pokes.empty());
  cr_assert_eq(c.live.rip, 0x401000u);
}

Test(timed_calls, a_handler_of_the_programs_own_still_gives_eintr) {
  CallContext x = asleep(__NR_epoll_wait, 1000000000);
  x.signal = Deliverable::kInterrupting;
  auto regs = interrupted(__NR_epoll_wait, -EINTR);
  regs.r10 = 5000;
  const Continuation c = cr::agent::continue_call(regs, x);
  cr_assert_not(c.live_changed);
  cr_assert_eq(c.saved.rax, static_cast<unsigned long long>(-EINTR));
  const Continuation p = cr::agent::continue_call(interrupted(__NR_pause, -514), x);
  cr_assert_eq(p.saved.rax, static_cast<unsigned long long>(-EINTR));
  cr_assert_eq(p.saved.rip, 0x401002u);
}

Test(timed_calls, a_nanosleep_in_the_image_has_the_time_left) {
  int64_t wanted[2] = {10, 0};
  CallContext x = asleep(__NR_nanosleep, 4000000000);
  x.read_context = wanted;
  auto regs = interrupted(__NR_nanosleep, -516);
  regs.rdi = 0x5000;
  const Continuation c = cr::agent::continue_call(regs, x);
  cr_assert_not(c.live_changed, "the kernel itself goes on with the running one");
  cr_assert_eq(c.pokes.size(), 1u);
  int64_t left[2];
  memcpy(left, c.pokes[0].bytes.data() + 128, sizeof(left));
  cr_assert_eq(left[0], 6);
  cr_assert_eq(left[1], 0);
}

// The second stop in one sleep finds the thread in restart_syscall.
Test(timed_calls, a_sleep_that_was_stopped_before_goes_on_with_the_time_left_of_the_whole) {
  int64_t ten[2] = {10, 0};
  CallContext x = asleep(__NR_clock_nanosleep, 3000000000);
  x.before.tid = 77;
  x.read_context = ten;
  auto regs = interrupted(__NR_clock_nanosleep, -516);
  regs.rdx = 0x5000;
  Continuation c = cr::agent::continue_call(regs, x);
  cr_assert_eq(c.pokes.size(), 1u);
  regs.orig_rax = __NR_restart_syscall;
  x.before.syscall_nr = __NR_restart_syscall;
  x.before.asleep_ns = 1000;  // since the first stop
  c = cr::agent::continue_call(regs, x);
  cr_assert_not(c.live_changed, "the kernel restarts it");
  cr_assert_eq(c.live.orig_rax, static_cast<unsigned long long>(__NR_restart_syscall));
  cr_assert_eq(c.saved.rip, kStub);
  cr_assert_eq(c.pokes.size(), 1u);
  uint64_t frame[19];
  memcpy(frame, c.pokes[0].bytes.data(), sizeof(frame));
  cr_assert_eq(frame[1], static_cast<uint64_t>(__NR_clock_nanosleep));
  const double left = static_cast<double>(frame[16]) + static_cast<double>(frame[17]) / 1e9;
  cr_assert(left > 6.0 && left <= 7.0, "%f s left", left);
}

// Stopped by SIGSTOP before: the agent has not seen the call.
Test(timed_calls, the_number_of_a_restarted_call_is_read_from_the_code) {
  uint8_t memory[16] = {0xb8, __NR_poll, 0, 0, 0, 0x0f, 0x05};
  CallContext x = asleep(__NR_restart_syscall, 1000000000);
  x.before.tid = 78;
  x.read_context = memory;
  auto regs = interrupted(__NR_restart_syscall, -516);
  regs.rdx = 5000;
  Continuation c = cr::agent::continue_call(regs, x);
  cr_assert_eq(c.pokes.size(), 1u);
  uint64_t frame[19];
  memcpy(frame, c.pokes[0].bytes.data(), sizeof(frame));
  cr_assert_eq(frame[1], static_cast<uint64_t>(__NR_poll));
  memory[0] = 0x90;
  x.before.tid = 79;
  c = cr::agent::continue_call(regs, x);
  cr_assert_eq(c.saved.rax, static_cast<unsigned long long>(-EINTR));
}
