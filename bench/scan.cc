// SPDX-License-Identifier: MIT
// scan.cc - how long one bare PAGEMAP_SCAN takes that finds the pages written in so much memory:
// what no checkpoint that looks for them can undercut.
// Invariant: the memory is private, present and tracked by userfaultfd as a checkpointed program's.
// Context: an ordinary program; nothing of ours is linked to it but the kernel's structures.
//
//   scan MIB DIRTY_PERCENT RUNS     prints nanoseconds, a line for each run
// CR_BUILD: -Isrc
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <memory>

#include "rawsys/pagemap_abi.h"

using namespace cr::rawsys;

namespace {

constexpr uint64_t kPageBytes = 4096, kRegions = 65536;

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

[[noreturn]] void die(const char* what) {
  fprintf(stderr, "scan: %s: %s\n", what, strerror(errno));
  exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: scan MIB DIRTY_PERCENT RUNS\n");
    return 2;
  }
  const uint64_t bytes = strtoull(argv[1], nullptr, 0) << 20;
  const double percent = strtod(argv[2], nullptr);
  const int runs = atoi(argv[3]);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) die("memory");
  auto* memory = static_cast<unsigned char*>(at);
  const auto start = reinterpret_cast<uint64_t>(at);
  for (uint64_t i = 0; i < bytes; i += kPageBytes) memory[i] = 1;
  const auto tracker =
      static_cast<int>(syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* user mode only */));
  UffdioApi api{kUffdApi, kUffdFeatureWpAsync, 0};
  UffdioRegister whole{start, bytes, kUffdRegisterWp, 0};
  if (tracker < 0 || ioctl(tracker, kUffdioApi, &api) != 0 ||
      ioctl(tracker, kUffdioRegister, &whole) != 0) {
    die("userfaultfd with asynchronous write protection (Linux 6.7)");
  }
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) die("/proc/self/pagemap");
  auto regions = std::make_unique<PageRegion[]>(kRegions);
  const uint64_t pages = bytes / kPageBytes;
  const auto dirty = static_cast<uint64_t>(static_cast<double>(pages) * percent / 100);
  for (int run = -1; run < runs; run++) {  // the first one marks everything
    for (uint64_t i = 0; i < dirty; i++) memory[i * kPageBytes]++;
    const uint64_t begin = now_ns();
    for (uint64_t from = start; from < start + bytes;) {
      PmScanArg scan{};
      scan.size = sizeof(scan);
      scan.flags = kScanWriteProtect | kScanCheckAsync;
      scan.start = from;
      scan.end = start + bytes;
      scan.vec = reinterpret_cast<uint64_t>(regions.get());
      scan.vec_len = kRegions;
      scan.category_mask = kIsWritten | kIsPresent;
      scan.return_mask = kIsWritten;
      if (ioctl(pagemap, kPagemapScan, &scan) < 0) die("PAGEMAP_SCAN");
      from = scan.walk_end;
    }
    if (run >= 0) printf("%llu\n", static_cast<unsigned long long>(now_ns() - begin));
  }
  return 0;
}
