// SPDX-License-Identifier: MIT
// pagemap_abi.h - ioctl(PAGEMAP_SCAN) of linux/fs.h and what userfaultfd needs for counting writes,
// both since Linux 6.7, and ioctl(PROCMAP_QUERY); Debian 12's headers do not have them.
// Invariant: the kernel's layout and values. Context: any.
#pragma once

#include <stdint.h>

namespace cr::rawsys {

struct PmScanArg {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct PageRegion {
  uint64_t start, end, categories;
};
static_assert(sizeof(PmScanArg) == 96);
// The kernel allocates room for the regions at each call, for which it takes whole pages if they
// are more than this: that would be a third of what the call costs where there are few.
inline constexpr uint64_t kFewRegions = 4096 / sizeof(PageRegion);
inline constexpr unsigned long kPagemapScan = 0xc0606610;  // _IOWR('f', 16, struct pm_scan_arg)

// What a page is.
inline constexpr uint64_t kIsWritten = 1u << 1, kIsFile = 1u << 2, kIsPresent = 1u << 3,
                          kIsSwapped = 1u << 4, kIsPfnZero = 1u << 5;
// Flags of the call.
inline constexpr uint64_t kScanWriteProtect = 1u << 0, kScanCheckAsync = 1u << 1;

// Of tracked anonymous memory: pages that were written, or are not there (any more).
inline PmScanArg scan_of_differences(uint64_t start, uint64_t end) {
  PmScanArg arg{};
  arg.size = sizeof(arg);
  arg.start = start;
  arg.end = end;
  arg.flags = kScanCheckAsync;
  arg.category_inverted = kIsPresent;
  arg.category_anyof_mask = kIsWritten | kIsPresent;  // inverted: written, or not present
  arg.return_mask = kIsWritten | kIsPresent | kIsSwapped | kIsPfnZero;
  return arg;
}

// userfaultfd: ioctls and structs of linux/userfaultfd.h.
struct UffdioApi {
  uint64_t api, features, ioctls;
};
struct UffdioRegister {
  uint64_t start, len, mode, ioctls;
};
struct UffdioWriteprotect {
  uint64_t start, len, mode;
};
inline constexpr uint64_t kUffdApi = 0xaa, kUffdFeatureWpAsync = 1u << 15, kUffdRegisterWp = 2;
inline constexpr unsigned long kUffdioApi = 0xc018aa3f;       // _IOWR(0xaa, 0x3f, uffdio_api)
inline constexpr unsigned long kUffdioRegister = 0xc020aa00;  // _IOWR(0xaa, 0, uffdio_register)
// _IOWR(0xaa, 6, uffdio_writeprotect)
inline constexpr unsigned long kUffdioWriteprotect = 0xc018aa06;

// PROCMAP_QUERY of /proc/PID/maps (Linux 6.11): the mapping at query_addr, or the next one if that
// is asked for.
inline constexpr unsigned long kProcmapQuery = 0xC0686611;
inline constexpr uint64_t kProcmapCoveringOrNext = 0x10;
inline constexpr uint64_t kProcmapReadable = 1, kProcmapWritable = 2, kProcmapExecutable = 4,
                          kProcmapShared = 8;
struct ProcmapQuery {
  uint64_t size, query_flags, query_addr;
  uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset;
  uint64_t inode;
  uint32_t dev_major, dev_minor;
  uint32_t vma_name_size, build_id_size;
  uint64_t vma_name_addr, build_id_addr;
};
static_assert(sizeof(ProcmapQuery) == 104);

}  // namespace cr::rawsys
