// SPDX-License-Identifier: MIT
// quick.cc - see quick.h. Invariant: as there. Context: N.
#include "control/quick.h"

#include <errno.h>
#include <time.h>

#include "capture/quick_pages.h"
#include "control/control.h"
#include "control/quick_state.h"
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
    const timespec slice{0, 100 * 1000 * 1000};
    store(h.program_waits, 1);
    sys_futex(&h.finished_word, FUTEX_WAIT, word, &slice);
    store(h.program_waits, 0);
  }
  return kQuickRingPages;
}

QuickRefusal capture_pages(QuickHead& h, QuickSlot& slot) {
  const long pagemap = sys_openat(AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return kQuickPages;
  const int fd = static_cast<int>(pagemap);
  capture::QuickFound found;
  long e = capture::quick_find(h, fd, &found);
  uint64_t first = kQuickRingPages;
  if (e == 0) {
    const uint64_t tables = capture::quick_table_pages(kQuickMostRuns);
    first = wait_for_room(h, found.pages + tables);
    if (first == kQuickRingPages) e = -ENOSPC;
  }
  if (e == 0) e = capture::quick_mark(h, fd, &found);
  sys_close(fd);
  if (e == 0) e = capture::quick_copy(h, first, found, slot);
  return e == 0 ? kQuickDone : kQuickPages;
}

void publish(QuickHead& h, ChannelHeader* channel) {
  h.ring_used =
      h.slots[h.published % kQuickSlots].ring_first + h.slots[h.published % kQuickSlots].ring_pages;
  __atomic_store_n(&h.published, h.published + 1, __ATOMIC_SEQ_CST);
  h.marking = 0;
  if (__atomic_exchange_n(&h.agent_sleeps, 0u, __ATOMIC_SEQ_CST) == 0) return;
  store(h.announce, 1);
  __atomic_add_fetch(&channel->doorbell, 1, __ATOMIC_ACQ_REL);
  sys_futex(&channel->doorbell, FUTEX_WAKE, 0x7fffffff);
}

// Of the processor's protection keys; only where the plan says that there are any.
uint32_t read_pkru() {
  uint32_t value, high;
  __asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(value), "=d"(high) : "c"(0));
  return value;
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
    QuickRefusal why = compare_state(*h, mask, slot);
    if (why == kQuickDone) why = capture_pages(*h, slot);
    store(h->refused, why);
    if (why == kQuickDone) {
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
