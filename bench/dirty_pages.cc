// SPDX-License-Identifier: MIT
// dirty_pages.cc - how many pages an allocator dirties: with 200,000 live objects, 10,000 are freed
// and allocated anew, and the pages that were written meanwhile are counted. That is what an
// incremental checkpoint has to save.
// Invariant: the objects, their sizes and the order of operations are the same for every allocator;
// the program's own tables lie in a mapping of their own and are not counted, nor are stacks and
// mappings of files. A page of a mapping made after the reset counts if it is there at the end.
// Context: an ordinary program; LD_PRELOAD decides whose malloc it is. bench/alloc/run.py --dirty.
//
// src/capture/pagemap.h finds pages that exist, not pages that were written, so the tracker is in
// here: userfaultfd with WP_ASYNC (Linux 6.7; UFFD_USER_MODE_ONLY, so no privileges) on each
// mapping, and the ioctl PAGEMAP_SCAN, whose PM_SCAN_WP_MATCHING resets and whose PAGE_IS_WRITTEN
// counts.
// With UFFD_FEATURE_WP_UNPOPULATED pages that are not there yet are tracked too.
//
//   dirty_pages VARIANT     prints "VARIANT WRITTEN of THERE" in pages: THERE is at the reset
//   dirty_pages list        the variants
//
//   nothing         no operation: what the program itself writes, a check of the tracker
//   random          10,000 times: free a random object, allocate another; nothing is touched
//   lifo, fifo      free the 10,000 newest (newest first) or oldest (oldest first), then allocate
//                   10,000; nothing is touched
//   ..._touched     the same, and one byte of each new object is written
//   free_only       free 10,000 random objects
//
// Exit status: 0; 1 failed; 2 misuse; 77 this kernel has no such tracking.
// CR_BUILD: -Isrc
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rawsys/pagemap_abi.h"

namespace {

using namespace cr::rawsys;

constexpr uint64_t kPage = 4096;
constexpr uint32_t kObjects = 200000, kOperations = 10000;
constexpr uint32_t kSmallest = 16, kLargest = 1024;

[[noreturn]] void fail(const char* what, int status = 1) {
  fprintf(stderr, "dirty_pages: %s: %s\n", what, strerror(errno));
  exit(status);
}

// ------------------------------------------------------------------------------------ tracker ----

// linux/userfaultfd.h of 6.7; Debian 12's headers do not have them.
constexpr uint64_t kFeatureUnpopulated = 1u << 13, kFeatureAsync = 1u << 15;

struct Range {
  uint64_t start, end;
  bool tracked;
};

// Everything that the program needs while it counts, in one mapping that is not counted.
struct Book {
  void* objects[kObjects];
  uint32_t new_sizes[kOperations], victims[kOperations];
  Range ranges[4096], ranges_after[4096];
  PageRegion regions[512];
  char maps[1 << 20];
};

class Tracker {
 public:
  explicit Tracker(Book* book) : book_(book) {
    pagemap_ = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap_ < 0) fail("/proc/self/pagemap");
    uffd_ =
        static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY));
    if (uffd_ < 0) fail("userfaultfd", 77);
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | kFeatureUnpopulated | kFeatureAsync;
    if (ioctl(uffd_, UFFDIO_API, &api) != 0) fail("userfaultfd without WP_ASYNC", 77);
  }

  // From here on pages that are written count. Returns the pages that are there.
  uint64_t reset() {
    count_ = read_maps(book_->ranges);
    uint64_t there = 0;
    for (size_t i = 0; i < count_; i++) {
      Range& range = book_->ranges[i];
      uffdio_register request{};
      request.range = {range.start, range.end - range.start};
      request.mode = UFFDIO_REGISTER_MODE_WP;
      if (ioctl(uffd_, UFFDIO_REGISTER, &request) != 0) fail("UFFDIO_REGISTER");
      range.tracked = true;
      there += scan(range.start, range.end, kIsPresent | kIsSwapped, 0);
    }
    for (size_t i = 0; i < count_; i++) {
      // Also the pages that are not there get their mark, else reading them would count.
      uffdio_writeprotect protect{};
      protect.range = {book_->ranges[i].start, book_->ranges[i].end - book_->ranges[i].start};
      protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
      if (ioctl(uffd_, UFFDIO_WRITEPROTECT, &protect) != 0) fail("UFFDIO_WRITEPROTECT");
    }
    for (size_t i = 0; i < count_; i++) {
      scan(book_->ranges[i].start, book_->ranges[i].end, kIsWritten,
           kScanWriteProtect | kScanCheckAsync);
    }
    return there;
  }

  // The pages written since. In memory that was mapped since, every page that is there was.
  uint64_t written() {
    const size_t now = read_maps(book_->ranges_after);
    uint64_t pages = 0;
    for (size_t i = 0; i < now; i++) {
      uint64_t at = book_->ranges_after[i].start;
      const uint64_t end = book_->ranges_after[i].end;
      while (at < end) {  // piece by piece: tracked, or new
        uint64_t piece = end;
        bool tracked = false;
        for (size_t j = 0; j < count_; j++) {
          const Range& old = book_->ranges[j];
          if (old.start <= at && at < old.end) {
            tracked = true;
            if (old.end < piece) piece = old.end;
          } else if (at < old.start && old.start < piece) {
            piece = old.start;
          }
        }
        pages += scan(at, piece, tracked ? kIsWritten : kIsPresent | kIsSwapped, 0);
        at = piece;
      }
    }
    return pages;
  }

 private:
  // Pages in [start, end) with one of the categories.
  uint64_t scan(uint64_t start, uint64_t end, uint64_t categories, uint64_t flags) {
    uint64_t pages = 0;
    while (start < end) {
      PmScanArg arg{};
      arg.size = sizeof(arg);
      arg.flags = flags;
      arg.start = start;
      arg.end = end;
      arg.vec = reinterpret_cast<uint64_t>(book_->regions);
      arg.vec_len = sizeof(book_->regions) / sizeof(book_->regions[0]);
      arg.category_anyof_mask = categories;
      arg.return_mask = categories;
      const long found = ioctl(pagemap_, kPagemapScan, &arg);
      if (found < 0) fail("PAGEMAP_SCAN", errno == ENOTTY ? 77 : 1);
      for (long i = 0; i < found; i++) {
        pages += (book_->regions[i].end - book_->regions[i].start) / kPage;
      }
      start = arg.walk_end;
    }
    return pages;
  }

  // The writable private anonymous mappings but the stack and the book; without malloc.
  size_t read_maps(Range (&ranges)[4096]) {
    const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    for (;;) {
      const ssize_t got = read(maps, book_->maps + length, sizeof(book_->maps) - 1 - length);
      if (got < 0) fail("/proc/self/maps");
      if (got == 0) break;
      length += static_cast<size_t>(got);
    }
    close(maps);
    book_->maps[length] = '\0';
    size_t count = 0;
    for (char* line = book_->maps; *line != '\0';) {
      char* next = strchr(line, '\n');
      *next = '\0';
      Range range{};
      if (wanted(line, &range)) {
        if (count == sizeof(ranges) / sizeof(ranges[0])) fail("too many mappings");
        ranges[count++] = range;
      }
      line = next + 1;
    }
    return count;
  }

  bool wanted(const char* line, Range* ret_range) {
    char* at = nullptr;
    const uint64_t start = strtoull(line, &at, 16);
    const uint64_t end = strtoull(at + 1, &at, 16);
    const char* protection = at + 1;
    if (protection[0] != 'r' || protection[1] != 'w' || protection[3] != 'p') return false;
    strtoull(protection + 5, &at, 16);  // offset, then device, inode, name
    at = strchr(at + 1, ' ');
    if (strtoull(at, &at, 10) != 0) return false;
    while (*at == ' ') at++;
    if (strcmp(at, "[stack]") == 0) return false;
    const auto book = reinterpret_cast<uint64_t>(book_);
    if (start < book + sizeof(Book) && book < end) return false;
    *ret_range = {start, end, false};
    return true;
  }

  Book* book_;
  int pagemap_ = -1, uffd_ = -1;
  size_t count_ = 0;
};

// ---------------------------------------------------------------------------------- workloads ----

class Random {  // xorshift64*
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t below(uint32_t limit) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    const uint64_t high = (state_ * 0x2545f4914f6cdd1du) >> 32;
    return static_cast<uint32_t>((high * limit) >> 32);
  }
  uint32_t size() { return kSmallest + below(kLargest - kSmallest + 1); }

 private:
  uint64_t state_;
};

void* allocate(uint32_t size, bool touch) {
  auto* at = static_cast<volatile char*>(malloc(size));
  if (at == nullptr) fail("malloc");
  if (touch) at[size / 2] = 1;
  return const_cast<char*>(at);
}

void random_pairs(Book* book, bool touch) {
  for (uint32_t i = 0; i < kOperations; i++) {
    void*& object = book->objects[book->victims[i]];
    free(object);
    object = allocate(book->new_sizes[i], touch);
  }
}
void lifo(Book* book, bool touch) {
  constexpr uint32_t kFirst = kObjects - kOperations;
  for (uint32_t i = kOperations; i > 0; i--) free(book->objects[kFirst + i - 1]);
  for (uint32_t i = 0; i < kOperations; i++) {
    book->objects[kFirst + i] = allocate(book->new_sizes[i], touch);
  }
}
void fifo(Book* book, bool touch) {
  for (uint32_t i = 0; i < kOperations; i++) free(book->objects[i]);
  for (uint32_t i = 0; i < kOperations; i++) {
    book->objects[i] = allocate(book->new_sizes[i], touch);
  }
}
void free_only(Book* book, bool) {
  for (uint32_t i = 0; i < kOperations; i++) {
    void*& object = book->objects[book->victims[i]];
    free(object);  // the second time it is none
    object = nullptr;
  }
}
void nothing(Book*, bool) {}

struct Variant {
  const char* name;
  void (*run)(Book*, bool touch);
  bool touch;
};
constexpr Variant kVariants[] = {
    {"nothing", nothing, false},     {"random", random_pairs, false},
    {"lifo", lifo, false},           {"fifo", fifo, false},
    {"free_only", free_only, false}, {"random_touched", random_pairs, true},
    {"lifo_touched", lifo, true},    {"fifo_touched", fifo, true},
};

void measure(const Variant& variant) {
  // Between two unusable pages, so that the kernel does not make it one mapping with a heap.
  constexpr uint64_t kBook = (sizeof(Book) + kPage - 1) / kPage * kPage;
  void* memory = mmap(nullptr, kBook + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  auto* book = reinterpret_cast<Book*>(static_cast<char*>(memory) + kPage);
  if (mprotect(book, kBook, PROT_READ | PROT_WRITE) != 0) fail("mprotect");
  Random random(42);
  for (uint32_t i = 0; i < kOperations; i++) {
    book->victims[i] = random.below(kObjects);
    book->new_sizes[i] = random.size();
  }
  for (void*& object : book->objects) {
    const uint32_t size = random.size();
    object = allocate(size, true);
    memset(object, 1, size);
  }
  Tracker tracker(book);
  const uint64_t there = tracker.reset();
  variant.run(book, variant.touch);
  const uint64_t pages = tracker.written();
  printf("%s %lu of %lu\n", variant.name, pages, there);
}

}  // namespace

int main(int argc, char** argv) {
  for (const Variant& variant : kVariants) {
    if (argc == 2 && strcmp(argv[1], "list") == 0) puts(variant.name);
    if (argc == 2 && strcmp(argv[1], variant.name) == 0) {
      measure(variant);
      return 0;
    }
  }
  if (argc == 2 && strcmp(argv[1], "list") == 0) return 0;
  fprintf(stderr, "usage: dirty_pages VARIANT | list\n");
  return 2;
}
