// SPDX-License-Identifier: MIT
// slab_heap.cc - small blocks.
// Invariant: as slab_heap.h. Context: N.
#include "nvheap/slab_heap.h"

#include "nvheap/treap.h"

namespace cr::nvheap {

void SlabHeap::set_up(SlabRecord* records, PageHeap* pages) {
  records_ = records;
  pages_ = pages;
  data_address_ = pages->data_address();
  for (uint32_t i = 0; i < kSizeClasses; i++) {
    SizeClass& c = classes_[i];
    c.block_bytes = bytes_of_class(i);
    c.blocks_per_slab = static_cast<uint32_t>(kChunkBytes / c.block_bytes);
    c.reciprocal = static_cast<uint32_t>(((uint64_t{1} << 32) + c.block_bytes - 1) / c.block_bytes);
  }
}

void* SlabHeap::allocate(uint32_t size_class) {
  SizeClass& c = classes_[size_class];
  LockGuard guard(c.lock);
  uint32_t chunk = c.lowest;
  if (chunk == kNil) {
    chunk = add_slab(size_class);
    if (chunk == kNil) return nullptr;
  }
  SlabRecord& s = records_[chunk];
  uint32_t word = s.first_word;
  while (~s.used[word] == 0) word++;  // ends: free_blocks > 0
  const auto bit = static_cast<uint32_t>(__builtin_ctzll(~s.used[word]));
  s.used[word] |= uint64_t{1} << bit;
  s.first_word = static_cast<uint16_t>(word);
  if (chunk == c.empty) c.empty = kNil;
  if (--s.free_blocks == 0) erase(c, chunk);
  c.used_blocks.store(c.used_blocks.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  const uint64_t offset = uint64_t{word * 64 + bit} * c.block_bytes;
  return reinterpret_cast<void*>(data_address_ + chunk * kChunkBytes + offset);
}

BlockState SlabHeap::release(uint64_t address) {
  const auto chunk = static_cast<uint32_t>((address - data_address_) / kChunkBytes);
  const uint32_t tag = records_[chunk].size_class.load(std::memory_order_acquire);
  if (tag == 0) return BlockState::kNoSlab;
  SizeClass& c = classes_[tag - 1];
  uint32_t spare = kNil;
  {
    LockGuard guard(c.lock);
    SlabRecord& s = records_[chunk];
    // A live block keeps its slab; only a wrong pointer can find the class changed meanwhile.
    if (s.size_class.load(std::memory_order_relaxed) != tag) return BlockState::kFree;
    const Place p = place_of(c, address);
    if (p.state != BlockState::kLive) return p.state;
    const uint32_t word = p.block / 64;
    s.used[word] &= ~(uint64_t{1} << (p.block % 64));
    if (word < s.first_word) s.first_word = static_cast<uint16_t>(word);
    if (s.free_blocks++ == 0) insert(c, chunk);
    c.used_blocks.store(c.used_blocks.load(std::memory_order_relaxed) - 1,
                        std::memory_order_relaxed);
    if (s.free_blocks == c.blocks_per_slab) spare = retire_if_spare(c, chunk);
  }
  if (spare != kNil) (void)pages_->release(spare * kPagesPerChunk, RunKind::kSlab);
  return BlockState::kLive;
}

BlockState SlabHeap::look_up(uint64_t address, uint32_t* ret_bytes) {
  const auto chunk = static_cast<uint32_t>((address - data_address_) / kChunkBytes);
  const uint32_t tag = records_[chunk].size_class.load(std::memory_order_acquire);
  if (tag == 0) return BlockState::kNoSlab;
  SizeClass& c = classes_[tag - 1];
  LockGuard guard(c.lock);
  if (records_[chunk].size_class.load(std::memory_order_relaxed) != tag) return BlockState::kFree;
  const Place p = place_of(c, address);
  if (p.state == BlockState::kLive) *ret_bytes = c.block_bytes;
  return p.state;
}

uint64_t SlabHeap::used_bytes() const {
  uint64_t sum = 0;
  for (const SizeClass& c : classes_) {
    sum += c.used_blocks.load(std::memory_order_relaxed) * c.block_bytes;
  }
  return sum;
}

SlabHeap::Place SlabHeap::place_of(const SizeClass& c, uint64_t address) const {
  const uint64_t offset = address - data_address_;
  const auto chunk = static_cast<uint32_t>(offset / kChunkBytes);
  const auto in_chunk = static_cast<uint32_t>(offset % kChunkBytes);
  // Exact for in_chunk < 2^16: the rounding of the reciprocal adds less than one part in 2^16.
  const auto block = static_cast<uint32_t>((uint64_t{in_chunk} * c.reciprocal) >> 32);
  if (block * c.block_bytes != in_chunk || block >= c.blocks_per_slab) {
    return {chunk, block, BlockState::kInterior};
  }
  const bool used = (records_[chunk].used[block / 64] >> (block % 64) & 1) != 0;
  return {chunk, block, used ? BlockState::kLive : BlockState::kFree};
}

uint32_t SlabHeap::add_slab(uint32_t size_class) {
  SizeClass& c = classes_[size_class];
  const uint32_t page = pages_->allocate(kPagesPerChunk, kPagesPerChunk, RunKind::kSlab);
  if (page == kNil) return kNil;
  const uint32_t chunk = page / kPagesPerChunk;
  SlabRecord& s = records_[chunk];
  const uint32_t words = (c.blocks_per_slab + 63) / 64;
  for (uint32_t i = 0; i < words; i++) s.used[i] = 0;
  // Bits beyond the last block count as used, so that they are never found free.
  if (c.blocks_per_slab % 64 != 0) s.used[words - 1] = ~uint64_t{0} << (c.blocks_per_slab % 64);
  s.free_blocks = static_cast<uint16_t>(c.blocks_per_slab);
  s.first_word = 0;
  s.size_class.store(size_class + 1, std::memory_order_release);
  insert(c, chunk);
  return chunk;
}

void SlabHeap::insert(SizeClass& c, uint32_t chunk) {
  c.root = Treap(Slabs{records_}).insert(c.root, chunk);
  if (c.lowest == kNil || chunk < c.lowest) c.lowest = chunk;
}

void SlabHeap::erase(SizeClass& c, uint32_t chunk) {
  Treap<Slabs> tree(Slabs{records_});
  c.root = tree.erase(c.root, chunk);
  if (c.lowest == chunk) c.lowest = tree.lowest(c.root);
}

// The slab has no used block any more. One such slab is kept per class, the lowest, lest a program
// that allocates and frees one block makes and unmakes a slab each time. Returns the slab to give
// back, already forgotten by the class, or kNil.
uint32_t SlabHeap::retire_if_spare(SizeClass& c, uint32_t chunk) {
  if (c.empty == kNil) {
    c.empty = chunk;
    return kNil;
  }
  const uint32_t spare = chunk > c.empty ? chunk : c.empty;
  c.empty = chunk > c.empty ? c.empty : chunk;
  erase(c, spare);
  records_[spare].size_class.store(0, std::memory_order_release);
  return spare;
}

void SlabHeap::lock_all_for_fork() {
  for (SizeClass& c : classes_) c.lock.lock();
}
void SlabHeap::unlock_all_in_parent() {
  for (SizeClass& c : classes_) c.lock.unlock();
}
void SlabHeap::reset_locks_in_child() {
  for (SizeClass& c : classes_) c.lock.reset_in_child();
}

}  // namespace cr::nvheap
