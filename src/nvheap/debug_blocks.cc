// SPDX-License-Identifier: MIT
// debug_blocks.cc - see debug_blocks.h.
// Invariant: as there. Context: N.
#include "nvheap/debug_blocks.h"

#include <string.h>

#include "nvheap/bad_use.h"

namespace cr::nvheap {
namespace {

constexpr uint64_t kLiveMark = 0xb10c11fe00000000, kRetiredMark = 0xdeadb10c00000000;
constexpr uint64_t kMarkMask = 0xffffff0000000000;  // sizes stay below 1 TiB
constexpr unsigned char kGuard = 0xfd, kRetired = 0xdb;

uint64_t load_tail(const void* block, uint64_t usable) {
  uint64_t tail;
  memcpy(&tail, static_cast<const char*>(block) + usable - sizeof(tail), sizeof(tail));
  return tail;
}
void store_tail(void* block, uint64_t usable, uint64_t tail) {
  memcpy(static_cast<char*>(block) + usable - sizeof(tail), &tail, sizeof(tail));
}
bool has_mark(uint64_t tail, uint64_t mark) { return ((tail ^ mark) & kMarkMask) == 0; }

}  // namespace

void DebugBlocks::arm(void* block, uint64_t usable, uint64_t bytes) {
  memset(static_cast<char*>(block) + bytes, kGuard, usable - bytes - sizeof(uint64_t));
  store_tail(block, usable, bytes ^ kLiveMark);
}

bool DebugBlocks::is_retired(const void* block, uint64_t usable) {
  return has_mark(load_tail(block, usable), kRetiredMark);
}

uint64_t DebugBlocks::check(const void* block, uint64_t usable, const char* call) {
  const uint64_t tail = load_tail(block, usable);
  if (has_mark(tail, kRetiredMark)) {
    die(call, block, "this block is free already (freed twice?)");
  }
  const uint64_t bytes = tail ^ kLiveMark;
  bool whole = has_mark(tail, kLiveMark) && bytes <= usable - kExtraBytes;
  const auto* at = static_cast<const unsigned char*>(block);
  for (uint64_t i = bytes; whole && i < usable - sizeof(tail); i++) whole = at[i] == kGuard;
  if (!whole) die(call, block, "the bytes behind this block were overwritten");
  return bytes;
}

DebugBlocks::Entry DebugBlocks::retire(void* block, uint64_t usable, const char* call) {
  const uint64_t bytes = check(block, usable, call);
  memset(block, kRetired, bytes);
  store_tail(block, usable, bytes ^ kRetiredMark);
  const Entry entry{block, usable, bytes};
  if (usable > kMostBytes / 4) return entry;
  LockGuard guard(lock_);
  Entry out{nullptr, 0, 0};
  if (count_ == kEntries || (count_ > 0 && held_bytes_ + usable > kMostBytes)) {
    out = ring_[first_];
    first_ = (first_ + 1) % kEntries;
    count_--;
    held_bytes_ -= out.usable;
  }
  ring_[(first_ + count_) % kEntries] = entry;
  count_++;
  held_bytes_ += usable;
  return out;
}

void DebugBlocks::check_untouched(const Entry& entry, const char* call) {
  const auto* at = static_cast<const unsigned char*>(entry.block);
  uint64_t i = 0;
  while (i < entry.bytes && at[i] == kRetired) i++;
  if (i < entry.bytes || !is_retired(entry.block, entry.usable)) {
    die(call, entry.block, "this block was written to after it was freed");
  }
}

}  // namespace cr::nvheap
