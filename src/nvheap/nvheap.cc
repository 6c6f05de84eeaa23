// SPDX-License-Identifier: MIT
// nvheap.cc - reserves the range and joins slabs (small blocks) and page runs (large ones).
// Invariant: outside the range there is only the pointer to it; see nvheap.h.
// Context: N.
#include "nvheap/nvheap.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "nvheap/heap_layout.h"
#include "nvheap/page_heap.h"
#include "nvheap/slab_heap.h"
#include "rawsys/rawsys.h"

namespace cr::nvheap {
namespace {

// At the beginning of the range.
struct HeapHeader {
  uint64_t reserve_bytes;
  PageHeap pages;
  SlabHeap slabs;
};
constexpr uint64_t kHeaderBytes = page_ceil(sizeof(HeapHeader));

constinit std::atomic<HeapHeader*> g_heap{nullptr};
constinit FutexLock g_init_lock;

[[noreturn]] void die(const char* call, const void* block, const char* why) {
  rawsys::LineBuffer<200> line;
  line.text("checkpoint_restore: ").text(call).text("(").hex(reinterpret_cast<uint64_t>(block));
  line.text("): ").text(why).text("\n");
  rawsys::sys_write(2, line.c_str(), line.size());
  abort();
}

// A mapping without access: costs address space only. Returns 0 if no place has room.
uint64_t reserve_at_fixed_place(uint64_t bytes) {
  for (uint64_t at = kPreferredBase; at + bytes <= kBaseLimit; at += kBaseStepBytes) {
    const long r =
        rawsys::sys_mmap(at, bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (r == static_cast<long>(at)) return at;
    if (r == -ENOMEM) return 0;  // address space limit: another place would not help
    // A kernel before 4.17 takes the address as a mere hint.
    if (!rawsys::is_error(r)) rawsys::sys_munmap(static_cast<uint64_t>(r), bytes);
  }
  return 0;
}

uint64_t first_reserve_to_try(uint64_t wanted_bytes) {
  if (wanted_bytes != 0) {
    if (wanted_bytes < kMinReserveBytes) return kMinReserveBytes;
    return wanted_bytes < kMaxReserveBytes ? page_ceil(wanted_bytes) : kMaxReserveBytes;
  }
  uint64_t bytes = kDefaultReserveBytes;
  if (bytes > kBaseLimit - kPreferredBase) bytes = kBaseStepBytes;  // only under ThreadSanitizer
  rlimit64 limit{};
  if (rawsys::sys(__NR_prlimit64, 0, RLIMIT_AS, nullptr, &limit) == 0 &&
      limit.rlim_cur != RLIM64_INFINITY) {
    while (bytes > limit.rlim_cur / 2 && bytes > kMinReserveBytes) bytes /= 2;
  }
  return bytes;
}

HeapHeader* make_heap(uint64_t base, uint64_t reserve_bytes) {
  constexpr uint64_t kBytesPerChunk =
      kChunkBytes + kPagesPerChunk * sizeof(PageEntry) + sizeof(SlabRecord);
  // The header, and rounding of three parts to their alignment.
  constexpr uint64_t kFixedBytes = kHeaderBytes + 2 * kPageSize + kChunkBytes;
  const uint64_t chunks = (reserve_bytes - kFixedBytes) / kBytesPerChunk;
  const uint64_t entries_at = base + kHeaderBytes;
  const uint64_t slabs_at = page_ceil(entries_at + chunks * kPagesPerChunk * sizeof(PageEntry));
  const uint64_t slabs_end = slabs_at + chunks * sizeof(SlabRecord);
  const uint64_t data_at = (slabs_end + kChunkBytes - 1) & ~(kChunkBytes - 1);

  if (rawsys::sys_mprotect(base, kHeaderBytes, PROT_READ | PROT_WRITE) != 0) return nullptr;
  auto* heap = new (reinterpret_cast<void*>(base)) HeapHeader{};
  heap->reserve_bytes = reserve_bytes;
  auto* slabs = reinterpret_cast<SlabRecord*>(slabs_at);
  heap->pages.set_up(reinterpret_cast<PageEntry*>(entries_at), slabs, data_at,
                     static_cast<uint32_t>(chunks * kPagesPerChunk));
  heap->slabs.set_up(slabs, &heap->pages);
  return heap;
}

// A fork while another thread is inside the allocator must not leave the child with its locks held
// and its metadata half changed.
void before_fork() {
  g_init_lock.lock();
  if (HeapHeader* heap = g_heap.load(std::memory_order_acquire)) {
    heap->slabs.lock_all_for_fork();
    heap->pages.lock_for_fork().lock();
  }
}
void after_fork_in_parent() {
  if (HeapHeader* heap = g_heap.load(std::memory_order_acquire)) {
    heap->pages.lock_for_fork().unlock();
    heap->slabs.unlock_all_in_parent();
  }
  g_init_lock.unlock();
}
void after_fork_in_child() {
  if (HeapHeader* heap = g_heap.load(std::memory_order_acquire)) {
    heap->pages.lock_for_fork().reset_in_child();
    heap->slabs.reset_locks_in_child();
  }
  g_init_lock.reset_in_child();
}
// At load time, so that ours come before any of the program's: their "before" calls, which run in
// reverse order, may then still allocate. It cannot fail this early: libc has room for the first.
__attribute__((constructor(101))) void set_fork_handlers() {
  (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

HeapHeader* heap_or_null() {
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap != nullptr) [[likely]]
    return heap;
  if (!init(0)) return nullptr;
  return g_heap.load(std::memory_order_relaxed);
}

uint32_t page_of(const HeapHeader* heap, uint64_t address) {
  return static_cast<uint32_t>((address - heap->pages.data_address()) / kPageSize);
}

bool in_grown_data(const HeapHeader* heap, uint64_t address) {
  const uint64_t offset = address - heap->pages.data_address();
  return offset < heap->pages.grown_pages() * kPageSize;
}

void* allocate_large(HeapHeader* heap, size_t bytes, size_t align_bytes, bool* ret_zeroed) {
  if (bytes > heap->reserve_bytes || align_bytes > heap->reserve_bytes) return nullptr;
  const auto pages = static_cast<uint32_t>(page_ceil(bytes) / kPageSize);
  const auto align_pages = static_cast<uint32_t>(page_ceil(align_bytes) / kPageSize);
  const uint32_t page = heap->pages.allocate(pages, align_pages, RunKind::kLarge, ret_zeroed);
  if (page == kNil) return nullptr;
  return reinterpret_cast<void*>(heap->pages.data_address() + page * kPageSize);
}

// Why a pointer that is no live block is none.
const char* reason(BlockState state) {
  if (state == BlockState::kFree) return "this block is free already (freed twice?)";
  return "not the beginning of a block (pointer into the middle of one?)";
}
constexpr const char* kForeign = "not memory of crmalloc (foreign pointer)";
constexpr const char* kNoLargeBlock =
    "not a live block (freed twice, or a pointer into the middle of one?)";

struct Block {
  uint64_t bytes;  // usable
  bool small;
};
Block look_up_or_die(HeapHeader* heap, const void* block, const char* call) {
  const auto address = reinterpret_cast<uint64_t>(block);
  if (heap == nullptr || !in_grown_data(heap, address)) die(call, block, kForeign);
  uint32_t small_bytes = 0;
  const BlockState state = heap->slabs.look_up(address, &small_bytes);
  if (state == BlockState::kLive) return {small_bytes, true};
  if (state != BlockState::kNoSlab) die(call, block, reason(state));
  uint32_t pages = 0;
  if (address % kPageSize == 0) pages = heap->pages.length(page_of(heap, address), RunKind::kLarge);
  if (pages == 0) die(call, block, kNoLargeBlock);
  return {pages * kPageSize, false};
}

// Tries to give the block its new size where it is.
bool resize_in_place(HeapHeader* heap, void* block, const Block& old, size_t bytes) {
  if (old.small) return bytes <= old.bytes && bytes * 2 > old.bytes;
  if (bytes <= kMaxSmallBytes || bytes > heap->reserve_bytes) return false;
  const auto pages = static_cast<uint32_t>(page_ceil(bytes) / kPageSize);
  return heap->pages.resize(page_of(heap, reinterpret_cast<uint64_t>(block)), pages);
}

}  // namespace

Result<void> init(uint64_t reserve_bytes) {
  LockGuard guard(g_init_lock);
  if (g_heap.load(std::memory_order_relaxed) == nullptr) {
    HeapHeader* heap = nullptr;
    for (uint64_t bytes = first_reserve_to_try(reserve_bytes); heap == nullptr; bytes /= 2) {
      if (bytes < kMinReserveBytes) {
        return Error{Errc::kNoMemory, ENOMEM, "no room to reserve the nvheap"};
      }
      bytes = page_floor(bytes);
      const uint64_t base = reserve_at_fixed_place(bytes);
      if (base == 0) continue;
      heap = make_heap(base, bytes);
      if (heap == nullptr) rawsys::sys_munmap(base, bytes);
    }
    g_heap.store(heap, std::memory_order_release);
  }
  return {};
}

void* allocate(size_t bytes) {
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr) return nullptr;
  if (bytes <= kMaxSmallBytes) return heap->slabs.allocate(class_of_bytes(bytes));
  return allocate_large(heap, bytes, kPageSize, nullptr);
}

void* allocate_zeroed(size_t count, size_t bytes_each) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(count, bytes_each, &bytes)) return nullptr;
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr) return nullptr;
  bool zeroed = false;
  void* block = bytes <= kMaxSmallBytes ? heap->slabs.allocate(class_of_bytes(bytes))
                                        : allocate_large(heap, bytes, kPageSize, &zeroed);
  if (block != nullptr && !zeroed) memset(block, 0, bytes);
  return block;
}

void* allocate_aligned(size_t bytes, size_t align_bytes) {
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr) return nullptr;
  if (bytes <= kMaxSmallBytes && align_bytes <= kMaxSmallBytes) {
    // Slabs are aligned to 64 KiB: a class whose size is a multiple of the alignment has only
    // aligned blocks. The powers of two are classes, so one is found.
    uint32_t c = class_of_bytes(bytes > align_bytes ? bytes : align_bytes);
    while (bytes_of_class(c) % align_bytes != 0) c++;
    return heap->slabs.allocate(c);
  }
  return allocate_large(heap, bytes == 0 ? 1 : bytes, align_bytes, nullptr);
}

void* reallocate(void* block, size_t bytes) {
  if (block == nullptr) return allocate(bytes);
  if (bytes == 0) {
    deallocate(block, "crrealloc");
    return nullptr;
  }
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  const Block old = look_up_or_die(heap, block, "crrealloc");
  if (resize_in_place(heap, block, old, bytes)) return block;
  void* moved = allocate(bytes);
  if (moved == nullptr) return bytes <= old.bytes ? block : nullptr;
  memcpy(moved, block, bytes < old.bytes ? bytes : old.bytes);
  deallocate(block, "crrealloc");
  return moved;
}

void deallocate(void* block, const char* call) {
  if (block == nullptr) return;
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  const auto address = reinterpret_cast<uint64_t>(block);
  if (heap == nullptr || !in_grown_data(heap, address)) die(call, block, kForeign);
  const BlockState state = heap->slabs.release(address);
  if (state == BlockState::kLive) return;
  if (state != BlockState::kNoSlab) die(call, block, reason(state));
  if (address % kPageSize != 0 || !heap->pages.release(page_of(heap, address), RunKind::kLarge)) {
    die(call, block, kNoLargeBlock);
  }
}

size_t usable_bytes(const void* block, const char* call) {
  if (block == nullptr) return 0;
  return look_up_or_die(g_heap.load(std::memory_order_acquire), block, call).bytes;
}

bool contains(const void* address) {
  const RangeInfo r = range_info();
  const auto a = reinterpret_cast<uint64_t>(address);
  return a >= r.begin && a < r.end;
}

void* alloc_stack(size_t bytes) {
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr || bytes == 0 || bytes > heap->reserve_bytes) return nullptr;
  const auto pages = static_cast<uint32_t>(page_ceil(bytes) / kPageSize);
  const uint32_t page = heap->pages.allocate(pages, 1, RunKind::kStack);
  if (page == kNil) return nullptr;
  return reinterpret_cast<void*>(heap->pages.data_address() + page * kPageSize);
}

void free_stack(void* stack) {
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  const auto address = reinterpret_cast<uint64_t>(stack);
  if (heap == nullptr || !in_grown_data(heap, address) ||
      !heap->pages.release(page_of(heap, address), RunKind::kStack)) {
    die("free_stack", stack, "not a stack");
  }
}

void stats(uint64_t* ret_in_use_bytes, uint64_t* ret_reserve_bytes) {
  const HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  *ret_in_use_bytes = heap == nullptr ? 0 : heap->pages.used_bytes() + heap->slabs.used_bytes();
  *ret_reserve_bytes = heap == nullptr ? 0 : heap->reserve_bytes;
}

RangeInfo range_info() {
  const HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr) return {0, 0, 0, 0};
  const auto begin = reinterpret_cast<uint64_t>(heap);
  const uint64_t data = heap->pages.data_address();
  return {begin, begin + heap->reserve_bytes, data, data + heap->pages.grown_pages() * kPageSize};
}

}  // namespace cr::nvheap
