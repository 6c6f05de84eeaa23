// SPDX-License-Identifier: MIT
// cpu_clock_test.cc - the scheduler's clock of each processor, as a thread reads it there itself.
#include "agent/cpu_clock.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <time.h>

#include "rawsys/rawsys.h"

using cr::agent::last_ran;
using cr::agent::scheduler_now_ns;

namespace {

constexpr uint64_t kMillisecond = 1'000'000;

// On the processor itself. 0: it may not be used, or this kernel does not tell.
uint64_t read_on(int cpu) {
  cpu_set_t all, one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(cpu), &one);
  if (sched_getaffinity(0, sizeof(all), &all) != 0 || !CPU_ISSET(static_cast<size_t>(cpu), &all) ||
      sched_setaffinity(0, sizeof(one), &one) != 0) {
    return 0;
  }
  (void)cr::rawsys::clock_ns(CLOCK_THREAD_CPUTIME_ID);
  uint64_t ns = 0, switches = 0;
  if (!last_ran("/proc/thread-self/sched", &ns, &switches)) ns = 0;
  sched_setaffinity(0, sizeof(all), &all);
  return ns;
}

}  // namespace

Test(cpu_clock, agrees_with_who_reads_it_there) {
  int seen = 0;
  for (int cpu = 0; cpu < 8; cpu++) {
    const uint64_t there = read_on(cpu);
    if (there == 0) continue;
    seen++;
    uint64_t now = 0, later = 0;
    // A busy processor may not answer in time; it does when it is asked again.
    bool known = false;
    for (int i = 0; i < 1000 && !known; i++) known = scheduler_now_ns(cpu, &now);
    cr_assert(known, "processor %d does not answer", cpu);
    const uint64_t again = read_on(cpu);
    // Not before the first reading, nor behind the second by more than can have been stolen.
    cr_expect(now + kMillisecond >= there, "processor %d, expected at least %lu, got %lu", cpu,
              there, now);
    cr_expect(now <= again + 20 * kMillisecond, "processor %d, expected at most %lu, got %lu", cpu,
              again, now);
    cr_assert(scheduler_now_ns(cpu, &later));
    cr_expect(later >= now || now - later < 20 * kMillisecond);
  }
  uint64_t ns = 0, switches = 0;
  cr_expect(seen > 0 || !last_ran("/proc/thread-self/sched", &ns, &switches));
}

Test(cpu_clock, goes_on_between_two_readings) {
  uint64_t before = 0, after = 0;
  const int cpu = sched_getcpu();
  if (read_on(cpu) == 0) return;  // this kernel does not tell
  cr_assert(scheduler_now_ns(cpu, &before));
  const timespec pause{0, 5 * 1000000};
  nanosleep(&pause, nullptr);
  cr_assert(scheduler_now_ns(cpu, &after));
  cr_expect(after >= before + 4 * kMillisecond, "expected 4 ms at least, got %lu ns",
            after - before);
}

Test(cpu_clock, no_such_processor) {
  uint64_t ns = 0;
  cr_expect(not(scheduler_now_ns(-1, &ns)));
  cr_expect(not(scheduler_now_ns(CPU_SETSIZE, &ns)));
  cr_expect(not(scheduler_now_ns(CPU_SETSIZE - 1, &ns)));
}
