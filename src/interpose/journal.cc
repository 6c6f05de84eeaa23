// SPDX-License-Identifier: MIT
// journal.cc - see journal.h. Invariant: as there. Context: N, H.
#include "interpose/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "format/checksum.h"
#include "rawsys/rawsys.h"

extern "C" long cr_call_aside(void (*function)(void*), void* argument, void* stack_top);

namespace cr::interpose {
namespace {

using format::FilesSlot;
using format::kFilesSlots;
using rawsys::sys;

// Who has the slot: its thread's pointer, which a fork child's thread has too, and where on the
// stack its call is.
struct Holder {
  uint64_t thread, frame;
};
constinit FilesSlot g_slots[kFilesSlots] = {};  // the agent looks at them
constinit Holder g_holders[kFilesSlots] = {};
constinit os::JournalScratch g_scratch[kFilesSlots] = {};  // the lowest are used first

// What was dealt with, by a number of its own that has the generation in it; its two lowest bits
// are the level. An entry that is overwritten is forgotten.
constexpr uint64_t kSeenEntries = 4096;
constinit std::atomic<uint64_t> g_seen[kSeenEntries] = {};

uint64_t number_of(uint64_t generation, const os::JournalKey& k) {
  const uint64_t parts[4] = {k.dev, k.ino, static_cast<uint64_t>(k.made_ns), generation};
  return format::checksum(parts, sizeof(parts)) & ~uint64_t{3};
}

std::atomic<uint64_t>& entry_of(uint64_t number) { return g_seen[(number >> 20) % kSeenEntries]; }

bool seen(uint64_t generation, const os::JournalKey& key, uint32_t level) {
  const uint64_t number = number_of(generation, key);
  const uint64_t entry = entry_of(number).load(std::memory_order_relaxed);
  return (entry & ~uint64_t{3}) == number && (entry & 3) >= level;
}

void note(uint64_t generation, const os::JournalKey& key, uint32_t level) {
  if (seen(generation, key, level)) return;
  const uint64_t number = number_of(generation, key);
  entry_of(number).store(number | level, std::memory_order_relaxed);
}

bool run_aside(void (*function)(void*), void* argument, os::JournalScratch& scratch) {
  const uint64_t all = ~uint64_t{0};
  uint64_t before = 0;
  sys(__NR_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof(all));
  const long pid = cr_call_aside(function, argument, scratch.stack + sizeof(scratch.stack));
  if (pid > 0) sys(__NR_wait4, pid, nullptr, static_cast<int>(__WCLONE), nullptr);
  sys(__NR_rt_sigprocmask, SIG_SETMASK, &before, nullptr, sizeof(before));
  return pid > 0;
}

os::Journal journal() {
  control::State& st = control::state();
  return {st.session_dir, &st.files, run_aside, seen, note};
}

int claim_free(uint32_t tid, const Holder& holder) {
  for (uint32_t i = 0; i < kFilesSlots; i++) {
    uint32_t free = 0;
    if (__atomic_compare_exchange_n(&g_slots[i].busy, &free, tid, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED)) {
      g_holders[i] = holder;
      return static_cast<int>(i);
    }
  }
  return -1;
}

bool on_another_stack() {
  struct {
    uint64_t sp;
    uint32_t flags, pad;
    uint64_t bytes;
  } now{};
  return sys(__NR_sigaltstack, nullptr, &now) != 0 || (now.flags & SS_ONSTACK) != 0;
}

// Gives back what nobody else will: of threads that were cancelled, and of calls of this thread
// that were left by longjmp: below us on the same stack nothing is under way.
void free_abandoned(uint32_t tid, const Holder& self) {
  constexpr uint64_t kOneStack = 1 << 20;
  const bool other_stack = on_another_stack();
  for (uint32_t i = 0; i < kFilesSlots; i++) {
    uint32_t holder = __atomic_load_n(&g_slots[i].busy, __ATOMIC_ACQUIRE);
    if (holder == 0) continue;
    const uint64_t below = self.frame - g_holders[i].frame;
    const bool left = holder == tid && !other_stack && below != 0 && below < kOneStack;
    if (!left && sys(__NR_tkill, holder, 0) != -ESRCH) continue;
    __atomic_compare_exchange_n(&g_slots[i].busy, &holder, 0u, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
  }
}

// -1: all are in use, and stay so.
int claim(uint32_t tid, const Holder& self) {
  constexpr uint64_t kPatienceNs = 3000000000, kFirstNs = 20000, kMostNs = 10000000;
  int slot = claim_free(tid, self);
  if (slot >= 0) return slot;
  const uint64_t begin = rawsys::now_ns();
  for (uint64_t step = kFirstNs; slot < 0 && rawsys::now_ns() - begin < kPatienceNs;) {
    const timespec moment{0, static_cast<long>(step)};
    sys(__NR_clock_nanosleep, CLOCK_MONOTONIC, 0, &moment, nullptr);
    if (step < kMostNs) step *= 2;
    slot = claim_free(tid, self);
  }
  if (slot >= 0) return slot;
  free_abandoned(tid, self);
  return claim_free(tid, self);
}

// The threads that had the others are not in this process.
void forget_slots_of_parent() {
  const auto self = reinterpret_cast<uint64_t>(__builtin_thread_pointer());
  for (uint32_t i = 0; i < kFilesSlots; i++) {
    if (g_holders[i].thread != self) g_slots[i] = {};
  }
}

bool look(int dir, const char* path, int flags, struct statx* ret) {
  constexpr unsigned kWanted = STATX_TYPE | STATX_INO | STATX_BTIME;
  return sys(__NR_statx, dir, path, flags | AT_NO_AUTOMOUNT, kWanted, ret) == 0;
}

os::JournalKey key_of(const struct statx& st) {
  const bool born = (st.stx_mask & STATX_BTIME) != 0;
  return {uint64_t{st.stx_dev_major} << 32 | st.stx_dev_minor, st.stx_ino,
          born ? st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec : 0};
}

// Of a file that will be opened for writing: was it dealt with, or is there nothing to keep?
bool is_done(uint64_t generation, const Step& step, uint32_t* ret_was) {
  struct statx st {};
  if (step.touch != format::kTouchContent ||
      !look(step.at.dir, step.at.path, step.follow ? 0 : AT_SYMLINK_NOFOLLOW, &st)) {
    return false;
  }
  *ret_was = S_ISREG(st.stx_mode) ? format::kWasRegular : format::kWasOther;
  return !S_ISREG(st.stx_mode) || seen(generation, key_of(st), os::kSeenContent);
}

uint32_t word_of(const Step& a, const Step& b) {
  return a.touch | b.touch << 8 | (a.follow ? 1u << 16 : 0) | (b.follow ? 1u << 17 : 0);
}

void show(FilesSlot& slot, const Step& a, const Step& b) {
  slot.dir[0] = a.at.dir;
  slot.dir[1] = b.at.dir;
  slot.path[0] = reinterpret_cast<uint64_t>(a.at.path);
  slot.path[1] = reinterpret_cast<uint64_t>(b.at.path);
  __atomic_store_n(&slot.what, word_of(a, b), __ATOMIC_RELEASE);
}

}  // namespace

uint64_t generation_now() {
  return __atomic_load_n(&control::state().files.generation, __ATOMIC_ACQUIRE);
}

void Changing::begin(const Step& first, const Step& second) {
  if (first.touch == format::kTouchNone) return;
  const int saved_errno = errno;
  tid_ = static_cast<uint32_t>(rawsys::sys_gettid());
  const Holder self{reinterpret_cast<uint64_t>(__builtin_thread_pointer()),
                    reinterpret_cast<uint64_t>(this)};
  slot_ = claim(tid_, self);
  const os::Journal j = journal();
  if (slot_ < 0) {
    os::count_left_out(j, EBUSY);
    errno = saved_errno;
    return;
  }
  os::JournalScratch& scratch = g_scratch[slot_];
  show(g_slots[slot_], first, second);
  for (uint64_t g = generation_now(), after = 0; g != after; g = after) {
    generation_ = g;
    const bool done = is_done(g, first, &was_);
    if (!done)
      was_ = os::journal_before(j, scratch, g, first.at, first.touch, first.follow, &second.at);
    if (second.touch != format::kTouchNone) {
      other_was_ =
          os::journal_before(j, scratch, g, second.at, second.touch, second.follow, &first.at);
    }
    after = generation_now();
    if (after == g) break;
  }
  // The call may wait, for whoever opens the other end of a FIFO.
  const bool may_wait = was_ != format::kWasRegular && was_ != format::kWasAbsent;
  if (first.touch == format::kTouchContent && may_wait) {
    end();
    slot_ = -1;
  }
  errno = saved_errno;
}

void Changing::end() {
  FilesSlot& s = g_slots[slot_];
  if (__atomic_load_n(&s.busy, __ATOMIC_RELAXED) != tid_) return;
  s.what = 0;
  __atomic_store_n(&s.busy, 0u, __ATOMIC_RELEASE);
}

// If a checkpoint was taken since begin(), the file may be older than that: it is not new then.
void Changing::note_new(int fd) const {
  struct statx st {};
  if (look(fd, "", AT_EMPTY_PATH, &st)) note(generation_, key_of(st), os::kSeenNew);
}

// In the generation of what was written before: a later one has the change, or a record of its own.
void Changing::note_move(const Step& from, const Step& to) const {
  const int saved_errno = errno;
  os::journal_moved(journal(), g_scratch[slot_], generation_, from.at, to.at,
                    to.touch == format::kTouchMove);
  errno = saved_errno;
}

void join_journal(const char* image_dir) {
  control::State& st = control::state();
  rawsys::LineBuffer<sizeof(st.session_dir) + 16> path;
  path.text(image_dir).text("/").text(format::kJournalDirName).text("/state");
  const long fd = rawsys::sys_openat(AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return;
  format::FilesHead head{};
  const long n = rawsys::sys_read(static_cast<int>(fd), &head, sizeof(head));
  rawsys::sys_close(static_cast<int>(fd));
  if (n != sizeof(head)) return;
  rawsys::str_copy(st.session_dir, image_dir, sizeof(st.session_dir));
  head.slots = st.files.slots;  // the head is of another process
  st.files = head;
}

void begin_journal() {
  format::FilesHead& head = control::state().files;
  head.slots = reinterpret_cast<uint64_t>(g_slots);
  (void)pthread_atfork(nullptr, nullptr, forget_slots_of_parent);
}

}  // namespace cr::interpose
