// SPDX-License-Identifier: MIT
// quick.cc - see quick.h. Invariant: as there. Context: N.
#include "control/quick.h"

#include <errno.h>
#include <time.h>

#include "capture/quick_pages.h"
#include "control/control.h"
#include "control/quick_state.h"
#include "format/quick_scan.h"
#include "rawsys/rawsys.h"

extern "C" __attribute__((returns_twice)) int cr_save_registers(cr::format::QuickContext*);

namespace cr::control {
namespace {

using namespace rawsys;
using namespace format;

uint32_t load(const uint32_t& w) { return __atomic_load_n(&w, __ATOMIC_SEQ_CST); }
uint64_t load(const uint64_t& w) { return __atomic_load_n(&w, __ATOMIC_SEQ_CST); }
void store(uint32_t& w, uint32_t v) { __atomic_store_n(&w, v, __ATOMIC_SEQ_CST); }

QuickHead* available() {
  if (!attached()) return nullptr;
  ChannelHeader* channel = state().channel;
  if (load(channel->quick_ready) == 0) return nullptr;
  QuickHead* head = quick_head(channel);
  return load(head->enabled) != 0 ? head : nullptr;
}

void ring(ChannelHeader* channel) {
  __atomic_add_fetch(&channel->doorbell, 1, __ATOMIC_ACQ_REL);
  sys_futex(&channel->doorbell, FUTEX_WAKE, 0x7fffffff);
}

// Where `pages` of the ring are free in one piece; kQuickRingPages: nowhere.
uint64_t find_room(const QuickHead& h, uint64_t pages) {
  const uint64_t finished = load(h.finished);
  if (h.published - finished >= kQuickSlots) return kQuickRingPages;
  if (h.published == finished) return 0;
  const uint64_t tail = h.slots[finished % kQuickSlots].ring_first;
  if (h.ring_used > tail) {
    if (h.ring_used + pages <= kQuickRingPages) return h.ring_used;
    return pages < tail ? 0 : kQuickRingPages;
  }
  return h.ring_used + pages < tail ? h.ring_used : kQuickRingPages;
}

// Waits until the agent has made room. kQuickRingPages: it will not.
uint64_t wait_for_room(QuickHead& h, uint64_t pages) {
  constexpr int kSpins = 2000, kSlices = 100;
  for (int i = 0; i < kSpins + kSlices && load(h.enabled) != 0; i++) {
    const uint32_t word = load(h.finished_word);
    const uint64_t at = find_room(h, pages);
    if (at != kQuickRingPages) return at;
    if (i < kSpins) {
      __builtin_ia32_pause();
      continue;
    }
    if (load(state().status) != kAttached) break;
    if (i == kSpins) ring(state().channel);  // the control thread shall see to it that it lives
    const timespec slice{0, 100 * 1000 * 1000};
    store(h.program_waits, 1);
    sys_futex(&h.finished_word, FUTEX_WAIT, word, &slice);
    store(h.program_waits, 0);
  }
  return kQuickRingPages;
}

// Asks the agent to look at the map, if it would see it at once.
uint64_t ask_for_help(QuickHead& h) {
  const uint64_t number = (h.help / kHelpStates + 1) * kHelpStates;
  const bool wanted = load(h.agent_spins) != 0;
  __atomic_store_n(&h.help, number + (wanted ? kHelpWanted : kHelpNone), __ATOMIC_SEQ_CST);
  return number;
}

bool same_private(QuickHead& h, QuickRange part, int pagemap) {
  return compare_private(file_ranges(h), part, {h.private_runs, h.plan.private_count}, h.scratch,
                         pagemap) == 0;
}

// The agent looks at the map, and at files below a certain address; we at those above. If it has no
// answer in time we do its part too.
bool map_is_same(QuickHead& h, uint64_t number, int pagemap) {
  constexpr int kSpins = 3000;
  if (!same_private(h, {h.plan.private_split, ~uint64_t{0}}, pagemap)) return false;
  for (int i = 0; i < kSpins; i++) {
    uint64_t now = load(h.help);
    if (now == number + kHelpSame) return true;
    if (now == number + kHelpDiffers) return false;
    if (now == number + kHelpNone) break;
    if (now == number + kHelpWanted &&
        __atomic_compare_exchange_n(&h.help, &now, number + kHelpNone, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST)) {
      break;
    }
    __builtin_ia32_pause();
  }
  return compare_map(h) == kQuickDone && same_private(h, {0, h.plan.private_split}, pagemap);
}

QuickRefusal capture_pages(QuickHead& h, uint64_t help, QuickSlot& slot) {
  const long pagemap = sys_openat(AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return kQuickPages;
  const int fd = static_cast<int>(pagemap);
  capture::QuickFound found;
  QuickRefusal why = capture::quick_find(h, fd, &found) == 0 ? kQuickDone : kQuickPages;
  if (why == kQuickDone && !map_is_same(h, help, fd)) why = kQuickMap;
  uint64_t first = kQuickRingPages;
  if (why == kQuickDone) {
    first = wait_for_room(h, found.pages + capture::quick_table_pages(kQuickMostRuns));
    if (first == kQuickRingPages) why = kQuickRoom;
  }
  if (why == kQuickDone && capture::quick_mark(h, fd, &found) != 0) why = kQuickPages;
  sys_close(fd);
  if (why == kQuickDone && capture::quick_copy(h, first, &found, slot) != 0) why = kQuickPages;
  return why;
}

void publish(QuickHead& h, ChannelHeader* channel) {
  h.ring_used =
      h.slots[h.published % kQuickSlots].ring_first + h.slots[h.published % kQuickSlots].ring_pages;
  if (h.copies == kCopiesNext) h.copies = kCopiesLast;
  __atomic_store_n(&h.published, h.published + 1, __ATOMIC_SEQ_CST);
  h.marking = 0;
  if (__atomic_exchange_n(&h.agent_sleeps, 0u, __ATOMIC_SEQ_CST) == 0) return;
  store(h.announce, 1);
  ring(channel);
}

// Of the processor's protection keys; only where the plan says that there are any.
uint32_t read_pkru() {
  uint32_t value, high;
  __asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(value), "=d"(high) : "c"(0));
  return value;
}

// As the kernel keeps it in the thread's rseq area.
uint32_t current_cpu(const QuickPlan& plan) {
  constexpr uint64_t kCpuOff = 4;  // of struct rseq's cpu_id
  if (plan.rseq_addr == 0) return ~0u;
  return *reinterpret_cast<const volatile uint32_t*>(plan.rseq_addr + kCpuOff);
}

}  // namespace

Quick quick_checkpoint() {
  QuickHead* const h = available();
  if (h == nullptr) return Quick::kNone;
  ChannelHeader* const channel = state().channel;
  uint64_t all = ~0ull, mask = 0;
  sys(__NR_rt_sigprocmask, SIG_SETMASK, &all, &mask, 8);
  store(h->busy, 1);
  Quick result = Quick::kNone;
  QuickSlot& slot = h->slots[h->published % kQuickSlots];
  if (wait_for_room(*h, 1) == kQuickRingPages) {
    store(h->refused, kQuickRoom);
  } else if (cr_save_registers(&slot.context) != 0) {
    return Quick::kRestored;  // with the signal mask that was the thread's own
  } else {
    const uint64_t begin = clock_ns(CLOCK_MONOTONIC);
    slot.generation = load(h->generation);
    slot.context.pkru = h->plan.has_pkru != 0 ? read_pkru() : 0;
    const uint64_t help = ask_for_help(*h);
    QuickRefusal why = compare_state(*h, mask, slot);
    if (why == kQuickDone) why = capture_pages(*h, help, slot);
    store(h->refused, why);
    if (why == kQuickDone) {
      slot.cpu = current_cpu(h->plan);
      slot.begin_ns = begin;
      slot.realtime_ns = clock_ns(CLOCK_REALTIME);
      slot.pause_ns = clock_ns(CLOCK_MONOTONIC) - begin;
      publish(*h, channel);
      result = Quick::kCaptured;
    }
  }
  store(h->busy, 0);
  sys(__NR_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, 8);
  return result;
}

void forbid_quick() {
  QuickHead* const h = available();
  if (h != nullptr) store(h->enabled, 0);
}

}  // namespace cr::control
