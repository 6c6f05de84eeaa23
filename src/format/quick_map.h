// SPDX-License-Identifier: MIT
// quick_map.h - is a memory map as it was? Asked mapping by mapping (PROCMAP_QUERY, Linux 6.11),
// for both sides of the quick path: to print the map as text takes the kernel twice as long, most
// of it for the paths of files, of which one is enough for all mappings of a file.
// Invariant: allocates nothing; answers "same" only where the text would be the same, but for the
// path of a file that has another name (and the same inode) in two mappings side by side.
// Context: N, S.
#pragma once

#include "format/quick.h"
#include "format/quick_scan.h"
#include "rawsys/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace cr::format {

struct QuickMappings {
  const QuickMapping* data;
  uint64_t count;
  const char* names;  // QuickMapping::name_off counts from here
};

// maps: /proc/PID/maps, open.
inline bool same_mappings(const QuickMappings& known, int maps, QuickScratch& scratch) {
  uint64_t at = 0;
  rawsys::ProcmapQuery q;
  for (uint64_t i = 0; i < known.count; i++) {
    const QuickMapping& m = known.data[i];
    __builtin_memset(&q, 0, sizeof(q));
    q.size = sizeof(q);
    q.query_flags = rawsys::kProcmapCoveringOrNext;
    q.query_addr = at;
    if (m.ask_name != 0) {
      q.vma_name_addr = reinterpret_cast<uint64_t>(scratch);
      q.vma_name_size = 4096;
    }
    if (rawsys::sys(__NR_ioctl, maps, rawsys::kProcmapQuery, &q) != 0 || q.vma_start != m.start ||
        q.vma_end != m.end || q.vma_flags != m.flags || q.vma_offset != m.offset ||
        q.inode != m.ino || q.dev_major != m.dev_major || q.dev_minor != m.dev_minor) {
      return false;
    }
    // The size that is told counts the zero at the end; 0: it has none.
    const uint64_t told = q.vma_name_size == 0 ? 0 : q.vma_name_size - 1;
    if (m.ask_name != 0 &&
        (told != m.name_bytes || __builtin_memcmp(scratch, known.names + m.name_off, told) != 0)) {
      return false;
    }
    at = m.end;
  }
  __builtin_memset(&q, 0, sizeof(q));
  q.size = sizeof(q);
  q.query_flags = rawsys::kProcmapCoveringOrNext;
  q.query_addr = at;
  return rawsys::sys(__NR_ioctl, maps, rawsys::kProcmapQuery, &q) == -ENOENT;
}

}  // namespace cr::format
