// SPDX-License-Identifier: MIT
// nvheap.cc - reserves the range and joins slabs (small blocks) and page runs (large ones).
// Invariant: outside the range there is only the pointer to it; see nvheap.h.
// Context: N.
#include "nvheap/nvheap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "nvheap/bad_use.h"
#include "nvheap/debug_blocks.h"
#include "nvheap/fast.h"
#include "nvheap/heap_layout.h"
#include "nvheap/page_heap.h"
#include "nvheap/small_heap.h"
#include "rawsys/rawsys.h"

namespace cr::nvheap {
namespace {

constexpr uint32_t kMostRoots = 256;
struct Root {
  char name[kRootNameBytes];  // "" : not in use
  uint64_t address;
};

// At the beginning of the range.
struct HeapHeader {
  HeapDirectory directory;
  PageHeap pages;
  SmallHeap small;
  DebugBlocks debug;
  HeapLock roots_lock;
  Root roots[kMostRoots];
};
constexpr uint64_t kHeaderBytes = page_ceil(sizeof(HeapHeader));

// Threads beyond this number share a heap.
constexpr uint32_t thread_heaps(uint64_t reserve_bytes) {
  constexpr uint32_t kFew = 256;
  return reserve_bytes < uint64_t{1} << 30 ? kFew : kMostThreadHeaps;
}

constinit std::atomic<HeapHeader*> g_heap{nullptr};
constinit HeapLock g_init_lock;
constinit uint64_t g_first_base = kPreferredBase;
constinit bool g_debug = false;  // CR_HEAP_DEBUG=1, since the first allocation

// A mapping without access: costs address space only. Returns 0 if no place has room.
uint64_t reserve_at_fixed_place(uint64_t bytes) {
  for (uint64_t at = g_first_base; at + bytes <= kBaseLimit; at += kBaseStepBytes) {
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
      kChunkBytes + kPagesPerChunk * sizeof(PageEntry) + sizeof(Slab) + sizeof(RemoteFrees);
  const uint32_t heaps = thread_heaps(reserve_bytes);
  const uint64_t heaps_bytes = page_ceil(heaps * sizeof(ThreadHeap));
  // The header, the threads' heaps, and rounding of four parts to their alignment.
  const uint64_t fixed_bytes = kHeaderBytes + heaps_bytes + 3 * kPageSize + kChunkBytes;
  const uint64_t chunks = (reserve_bytes - fixed_bytes) / kBytesPerChunk;
  const uint64_t threads_at = base + kHeaderBytes;
  const uint64_t slabs_at = threads_at + heaps_bytes;
  const uint64_t remotes_at = page_ceil(slabs_at + chunks * sizeof(Slab));
  const uint64_t entries_at = page_ceil(remotes_at + chunks * sizeof(RemoteFrees));
  const uint64_t entries_end = entries_at + chunks * kPagesPerChunk * sizeof(PageEntry);
  const uint64_t data_at = (entries_end + kChunkBytes - 1) & ~(kChunkBytes - 1);

  if (rawsys::sys_mprotect(base, kHeaderBytes + heaps_bytes, PROT_READ | PROT_WRITE) != 0) {
    return nullptr;
  }
  auto* heap = new (reinterpret_cast<void*>(base)) HeapHeader{};
  auto* slabs = reinterpret_cast<Slab*>(slabs_at);
  auto* remotes = reinterpret_cast<RemoteFrees*>(remotes_at);
  heap->pages.set_up(reinterpret_cast<PageEntry*>(entries_at), slabs, remotes, data_at,
                     static_cast<uint32_t>(chunks * kPagesPerChunk));
  heap->small.set_up(reinterpret_cast<ThreadHeap*>(threads_at), heaps, slabs, remotes,
                     &heap->pages);
  heap->directory = {kHeapMagic,
                     kHeapVersion,
                     sizeof(HeapHeader),
                     base,
                     reserve_bytes,
                     data_at,
                     slabs_at,
                     remotes_at,
                     entries_at,
                     reinterpret_cast<uint64_t>(heap->pages.grown_word()),
                     reinterpret_cast<uint64_t>(heap->pages.lock_word()),
                     reinterpret_cast<uint64_t>(heap->pages.root_word())};
  return heap;
}

// The environment as the kernel has it: the first allocation may come before libc knows it.
bool debug_wanted() {
  static constexpr char kWanted[] = "CR_HEAP_DEBUG=1";
  const long fd = rawsys::sys_openat(AT_FDCWD, "/proc/self/environ", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char buf[4096];
  size_t matched = 0;  // of the variable that is being read; npos-like if it differs already
  bool found = false, differs = false;
  for (long n; !found && (n = rawsys::sys_read(static_cast<int>(fd), buf, sizeof(buf))) > 0;) {
    for (long i = 0; i < n && !found; i++) {
      if (buf[i] == 0) {
        found = !differs && matched == sizeof(kWanted) - 1;
        matched = 0;
        differs = false;
      } else if (!differs) {
        differs = matched >= sizeof(kWanted) - 1 || buf[i] != kWanted[matched];
        matched++;
      }
    }
  }
  rawsys::sys_close(static_cast<int>(fd));
  return found;
}

// A fork while another thread is inside the allocator must not leave the child with its locks held
// and its metadata half changed.
void before_fork() {
  g_init_lock.lock();
  if (HeapHeader* heap = g_heap.load(std::memory_order_acquire)) {
    heap->roots_lock.lock();
    heap->debug.lock_for_fork().lock();
    heap->small.lock_for_fork();
    heap->pages.lock_for_fork().lock();
  }
  // Handlers that run after this one may allocate.
  t_holds_heap = true;
}
void after_fork_in_parent() {
  t_holds_heap = false;
  if (HeapHeader* heap = g_heap.load(std::memory_order_acquire)) {
    heap->pages.lock_for_fork().unlock();
    heap->small.unlock_in_parent();
    heap->debug.lock_for_fork().unlock();
    heap->roots_lock.unlock();
  }
  g_init_lock.unlock();
}
void after_fork_in_child() {
  t_holds_heap = false;
  if (HeapHeader* heap = g_heap.load(std::memory_order_acquire)) {
    heap->pages.lock_for_fork().reset_in_child();
    heap->debug.lock_for_fork().reset_in_child();
    heap->roots_lock.reset_in_child();
    heap->small.recover(/*keep_own=*/true);
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
  const int saved_errno = errno;
  const bool ok = static_cast<bool>(init(0));
  errno = saved_errno;
  return ok ? g_heap.load(std::memory_order_relaxed) : nullptr;
}

uint32_t page_of(const HeapHeader* heap, uint64_t address) {
  return static_cast<uint32_t>((address - heap->pages.data_address()) / kPageSize);
}

bool in_grown_data(const HeapHeader* heap, uint64_t address) {
  const uint64_t offset = address - heap->pages.data_address();
  return offset < heap->pages.grown_pages() * kPageSize;
}

void* allocate_large(HeapHeader* heap, size_t bytes, size_t align_bytes, bool* ret_zeroed) {
  const uint64_t most = heap->directory.reserve_bytes;
  if (bytes > most || align_bytes > most) return nullptr;
  auto pages = static_cast<uint32_t>(page_ceil(bytes) / kPageSize);
  const auto align_pages = static_cast<uint32_t>(page_ceil(align_bytes) / kPageSize);
  if (pages <= kMostKeptPages) {  // of few lengths, so that freed ones fit again
    pages = pages_of_run_class(run_class(pages));
    const uint32_t kept = align_pages <= 1 ? heap->small.take_run(pages) : kNil;
    if (kept != kNil && heap->pages.change_kind(kept, RunKind::kKept, RunKind::kLarge)) {
      return reinterpret_cast<void*>(heap->pages.data_address() + kept * kPageSize);
    }
  }
  const uint32_t page = heap->pages.allocate(pages, align_pages, RunKind::kLarge, ret_zeroed);
  if (page == kNil) return nullptr;
  return reinterpret_cast<void*>(heap->pages.data_address() + page * kPageSize);
}

void* allocate_raw(HeapHeader* heap, size_t bytes) {
  if (bytes <= kMaxSmallBytes) [[likely]]
    return heap->small.allocate(class_of_bytes(bytes));
  return allocate_large(heap, bytes, kPageSize, nullptr);
}

void* allocate_aligned_raw(HeapHeader* heap, size_t bytes, size_t align_bytes) {
  if (bytes <= kMaxSmallBytes && align_bytes <= kMaxSmallBytes) {
    // Slabs are aligned to 64 KiB: a class whose size is a multiple of the alignment has only
    // aligned blocks. The powers of two are classes, so one is found.
    uint32_t c = class_of_bytes(bytes > align_bytes ? bytes : align_bytes);
    while (bytes_of_class(c) % align_bytes != 0) c++;
    return heap->small.allocate(c);
  }
  return allocate_large(heap, bytes == 0 ? 1 : bytes, align_bytes, nullptr);
}

uint64_t large_bytes(const HeapHeader* heap) {
  const uint64_t all = heap->pages.used_bytes(), kept = heap->small.kept_bytes();
  return all > kept ? all - kept : 0;
}

// Why a pointer that is no live block is none.
const char* reason(BlockState state) {
  if (state == BlockState::kFree) return "this block is free already (freed twice?)";
  return "not the beginning of a block (pointer into the middle of one?)";
}
constexpr const char* kForeign = "not memory of this heap (foreign pointer)";
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
  const BlockState state = heap->small.look_up(address, &small_bytes);
  if (state == BlockState::kLive) return {small_bytes, true};
  if (state != BlockState::kNoSlab) die(call, block, reason(state));
  uint32_t pages = 0;
  if (address % kPageSize == 0) pages = heap->pages.length(page_of(heap, address), RunKind::kLarge);
  if (pages == 0) die(call, block, kNoLargeBlock);
  return {pages * kPageSize, false};
}

void deallocate_raw(HeapHeader* heap, void* block, const char* call) {
  const auto address = reinterpret_cast<uint64_t>(block);
  if (heap == nullptr || !in_grown_data(heap, address)) [[unlikely]]
    die(call, block, kForeign);
  const BlockState state = heap->small.release(address);
  if (state == BlockState::kLive) [[likely]]
    return;
  if (state != BlockState::kNoSlab) die(call, block, reason(state));
  const uint32_t page = page_of(heap, address);
  if (address % kPageSize != 0) die(call, block, kNoLargeBlock);
  if (heap->pages.own_length(page) <= kMostKeptPages &&
      heap->pages.change_kind(page, RunKind::kLarge, RunKind::kKept)) {
    if (heap->small.keep_run(page, heap->pages.own_length(page))) return;
    if (heap->pages.release(page, RunKind::kKept)) return;
  }
  if (!heap->pages.release(page, RunKind::kLarge)) die(call, block, kNoLargeBlock);
}

// Tries to give the block its new size where it is.
bool resize_in_place(HeapHeader* heap, void* block, const Block& old, size_t bytes) {
  if (old.small) return bytes <= old.bytes && (bytes * 2 > old.bytes || old.bytes <= 64);
  if (bytes <= kMaxSmallBytes || bytes > heap->directory.reserve_bytes) return false;
  // Room that was taken for its growth stays, as long as it is not most of it.
  if (bytes <= old.bytes && bytes > old.bytes / 2) return true;
  const auto pages = static_cast<uint32_t>(page_ceil(bytes) / kPageSize);
  return heap->pages.resize(page_of(heap, reinterpret_cast<uint64_t>(block)), pages);
}

// Another place for a block that grows. A large one gets room to grow in: pages that are not
// touched cost nothing.
void* allocate_to_grow(HeapHeader* heap, size_t old_bytes, size_t bytes) {
  if (bytes > old_bytes && bytes > kMaxSmallBytes && old_bytes > kMaxSmallBytes / 2) {
    size_t more = bytes + bytes / 4;
    if (void* block = allocate_large(heap, more, kPageSize, nullptr)) return block;
  }
  return allocate_raw(heap, bytes);
}

// ---- CR_HEAP_DEBUG: each block has guard bytes and its size behind it ---------------------------

void* allocate_debug(HeapHeader* heap, size_t bytes, size_t align_bytes) {
  size_t all;
  if (__builtin_add_overflow(bytes, DebugBlocks::kExtraBytes, &all)) return nullptr;
  void* block =
      align_bytes <= 16 ? allocate_raw(heap, all) : allocate_aligned_raw(heap, all, align_bytes);
  if (block == nullptr) return nullptr;
  uint32_t small_bytes = 0;
  const auto address = reinterpret_cast<uint64_t>(block);
  const uint64_t usable =
      heap->small.look_up(address, &small_bytes) == BlockState::kLive
          ? small_bytes
          : heap->pages.length(page_of(heap, address), RunKind::kLarge) * kPageSize;
  DebugBlocks::arm(block, usable, bytes);
  return block;
}

void deallocate_debug(HeapHeader* heap, void* block, const char* call) {
  const Block b = look_up_or_die(heap, block, call);
  const DebugBlocks::Entry old = heap->debug.retire(block, b.bytes, call);
  if (old.block == nullptr) return;
  DebugBlocks::check_untouched(old, call);
  deallocate_raw(heap, old.block, call);
}

// ---- the long ways ------------------------------------------------------------------------------

[[gnu::noinline]] void* allocate_slowly(size_t bytes) {
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr) return nullptr;
  return g_debug ? allocate_debug(heap, bytes, 16) : allocate_raw(heap, bytes);
}

void publish(HeapHeader* heap) {
  g_debug = debug_wanted();
  heap->small.set_fast(!g_debug);
  g_heap.store(heap, std::memory_order_release);
}

}  // namespace

[[gnu::noinline]] void deallocate_slowly(void* block, const char* call) {
  if (block == nullptr) return;
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr) die(call, block, kForeign);
  return g_debug ? deallocate_debug(heap, block, call) : deallocate_raw(heap, block, call);
}

void set_first_step(uint32_t step) { g_first_base = kPreferredBase + step * kBaseStepBytes; }

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
    publish(heap);
  }
  return {};
}

Result<void> open_at(uint64_t base) {
  LockGuard guard(g_init_lock);
  if (g_heap.load(std::memory_order_relaxed) != nullptr) {
    return Error{Errc::kAlready, EBUSY, "there is a heap in use"};
  }
  auto* heap = reinterpret_cast<HeapHeader*>(base);
  const HeapDirectory& d = heap->directory;
  if (d.magic != kHeapMagic || d.base != base) {
    return Error{Errc::kDamaged, EBADMSG, "the heap's directory"};
  }
  if (d.version != kHeapVersion || d.header_bytes != sizeof(HeapHeader)) {
    return Error{Errc::kTooNew, ENOTSUP, "the heap was made by another version of the library"};
  }
  heap->pages.lock_for_fork().reset_in_child();
  heap->debug.lock_for_fork().reset_in_child();
  heap->roots_lock.reset_in_child();
  heap->small.recover(/*keep_own=*/false);
  publish(heap);
  return {};
}

void lock_all() { before_fork(); }
void unlock_all() { after_fork_in_parent(); }

void* allocate(size_t bytes) {
  if (void* block = allocate_recent(bytes)) return block;
  if (void* block = allocate_next(bytes)) [[likely]]
    return block;
  return allocate_slowly(bytes);
}

void* allocate_zeroed(size_t count, size_t bytes_each) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(count, bytes_each, &bytes)) return nullptr;
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr) return nullptr;
  bool zeroed = false;
  void* block = g_debug                   ? allocate_debug(heap, bytes, 16)
                : bytes <= kMaxSmallBytes ? heap->small.allocate(class_of_bytes(bytes))
                                          : allocate_large(heap, bytes, kPageSize, &zeroed);
  if (block != nullptr && !zeroed) memset(block, 0, bytes);
  return block;
}

void* allocate_aligned(size_t bytes, size_t align_bytes) {
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr) return nullptr;
  if (g_debug) return allocate_debug(heap, bytes, align_bytes);
  return allocate_aligned_raw(heap, bytes, align_bytes);
}

void* reallocate(void* block, size_t bytes, const char* call) {
  if (block == nullptr) return allocate(bytes);
  if (bytes == 0) {
    deallocate(block, call);
    return nullptr;
  }
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  Block old = look_up_or_die(heap, block, call);
  if (g_debug) [[unlikely]] {
    old.bytes = DebugBlocks::check(block, old.bytes, call);
  } else if (resize_in_place(heap, block, old, bytes)) {
    return block;
  }
  void* moved = g_debug ? allocate(bytes) : allocate_to_grow(heap, old.bytes, bytes);
  if (moved == nullptr) return bytes <= old.bytes && !g_debug ? block : nullptr;
  memcpy(moved, block, bytes < old.bytes ? bytes : old.bytes);
  deallocate(block, call);
  return moved;
}

void deallocate(void* block, const char* call) {
  if (deallocate_fast(block)) [[likely]]
    return;
  deallocate_slowly(block, call);
}

size_t usable_bytes(const void* block, const char* call) {
  if (block == nullptr) return 0;
  const Block b = look_up_or_die(g_heap.load(std::memory_order_acquire), block, call);
  return g_debug ? DebugBlocks::check(block, b.bytes, call) : b.bytes;
}

uint64_t trim(uint64_t keep_bytes) {
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr) return 0;
  heap->small.trim();
  return heap->pages.trim(keep_bytes);
}

bool contains(const void* address) {
  const RangeInfo r = range_info();
  const auto a = reinterpret_cast<uint64_t>(address);
  return a >= r.begin && a < r.end;
}

void* alloc_stack(size_t bytes) {
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr || bytes == 0 || bytes > heap->directory.reserve_bytes) return nullptr;
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
  *ret_in_use_bytes = heap == nullptr ? 0 : large_bytes(heap) + heap->small.used_bytes();
  *ret_reserve_bytes = heap == nullptr ? 0 : heap->directory.reserve_bytes;
}

Stats all_stats() {
  Stats s{};
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr) return s;
  const PageHeap::Totals t = heap->pages.totals();
  s.reserve_bytes = heap->directory.reserve_bytes;
  s.grown_bytes = heap->pages.grown_pages() * kPageSize;
  s.large_bytes = large_bytes(heap);
  s.small_bytes = heap->small.used_bytes();
  const uint64_t kept = heap->small.kept_bytes();
  s.slab_bytes = s.grown_bytes - t.free_bytes - heap->pages.used_bytes();
  s.free_bytes = t.free_bytes + kept;
  s.free_dirty_bytes = t.dirty_bytes + kept;
  return s;
}

void walk(bool (*each)(void* context, void* block, size_t bytes), void* context) {
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr) return;
  struct Call {
    HeapHeader* heap;
    bool (*each)(void*, void*, size_t);
    void* context;
    static bool small(void* self, uint64_t address, uint64_t bytes) {
      const auto* c = static_cast<Call*>(self);
      if (g_debug) {
        const auto* block = reinterpret_cast<const void*>(address);
        if (DebugBlocks::is_retired(block, bytes)) return true;
        bytes = DebugBlocks::check(block, bytes, "crheap_walk");
      }
      return c->each(c->context, reinterpret_cast<void*>(address), bytes);
    }
  } call{heap, each, context};
  heap->pages.walk(
      [](void* self, uint32_t page, const PageEntry& entry) {
        const auto* c = static_cast<Call*>(self);
        if (entry.kind == RunKind::kSlab) {
          return c->heap->small.walk_slab(page / kPagesPerChunk, Call::small, self);
        }
        if (entry.kind != RunKind::kLarge) return true;
        return Call::small(self, c->heap->pages.data_address() + page * kPageSize,
                           entry.pages * kPageSize);
      },
      &call);
}

const char* check() {
  const HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr) return nullptr;
  const char* bad = heap->pages.check();
  return bad != nullptr ? bad : heap->small.check();
}

Errc set_root(const char* name, void* address) {
  if (strnlen(name, kRootNameBytes) >= kRootNameBytes || name[0] == 0) return Errc::kInvalid;
  HeapHeader* heap = heap_or_null();
  if (heap == nullptr) return Errc::kNoMemory;
  if (address != nullptr && !in_grown_data(heap, reinterpret_cast<uint64_t>(address))) {
    return Errc::kInvalid;
  }
  LockGuard guard(heap->roots_lock);
  Root* place = nullptr;
  for (Root& r : heap->roots) {
    if (strcmp(r.name, name) == 0) {
      place = &r;
      break;
    }
    if (r.name[0] == 0 && place == nullptr) place = &r;
  }
  if (address == nullptr) {
    if (place == nullptr || place->name[0] == 0) return Errc::kNotFound;
    *place = {};
    return Errc::kOk;
  }
  if (place == nullptr) return Errc::kNoMemory;
  place->address = reinterpret_cast<uint64_t>(address);
  rawsys::str_copy(place->name, name, sizeof(place->name));
  return Errc::kOk;
}

void* get_root(const char* name) {
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr || name[0] == 0) return nullptr;
  LockGuard guard(heap->roots_lock);
  for (const Root& r : heap->roots) {
    if (strcmp(r.name, name) == 0) return reinterpret_cast<void*>(r.address);
  }
  return nullptr;
}

uint32_t list_roots(const char* ret_names[], void* ret_addresses[], uint32_t most) {
  HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr) return 0;
  LockGuard guard(heap->roots_lock);
  uint32_t n = 0;
  for (const Root& r : heap->roots) {
    if (r.name[0] == 0) continue;
    if (n < most) {
      ret_names[n] = r.name;
      ret_addresses[n] = reinterpret_cast<void*>(r.address);
    }
    n++;
  }
  return n;
}

const void* directory_word() { return &g_heap; }

RangeInfo range_info() {
  const HeapHeader* heap = g_heap.load(std::memory_order_acquire);
  if (heap == nullptr) return {0, 0, 0, 0};
  const auto begin = reinterpret_cast<uint64_t>(heap);
  const uint64_t data = heap->pages.data_address();
  return {begin, begin + heap->directory.reserve_bytes, data,
          data + heap->pages.grown_pages() * kPageSize};
}

}  // namespace cr::nvheap
