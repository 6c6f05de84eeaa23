// SPDX-License-Identifier: MIT
// early_files.cc - see early_files.h. Invariant: as there. Context: N (agent).
#include "agent/early_files.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/base.h"
#include "os/fd.h"

namespace cr::agent {
namespace {

// Behind the file's end a page is zeros.
bool read_page_of(int fd, uint64_t off, uint8_t* page) {
  uint64_t done = 0;
  while (done < kPageSize) {
    const ssize_t n = pread(fd, page + done, kPageSize - done, static_cast<off_t>(off + done));
    if (n < 0) return false;
    if (n == 0) break;
    done += static_cast<uint64_t>(n);
  }
  memset(page + done, 0, kPageSize - done);
  return true;
}

}  // namespace

bool is_as_in_file(const format::SegmentRecord& m, const char* path,
                   const std::vector<format::Run>& runs, const uint8_t* staging) {
  const os::Fd fd(open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat st;
  if (!fd || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || st.st_ino != m.ino) return false;
  const uint64_t left = m.file_bytes > m.file_off ? m.file_bytes - m.file_off : 0;
  const uint64_t end = std::min(m.end, m.start + page_ceil(left));
  uint64_t at = m.start;
  uint8_t page[kPageSize];
  for (const format::Run& r : runs) {
    if (r.staging_page == format::kPagesSame) continue;
    const uint64_t run_end = r.addr + r.pages * kPageSize;
    if (r.addr > at || run_end <= at) continue;  // each mapping's lie in their order
    for (; at < std::min(run_end, end); at += kPageSize) {
      const uint8_t* copy = staging + (r.staging_page * kPageSize + at - r.addr);
      if (!read_page_of(fd.get(), m.file_off + at - m.start, page) ||
          memcmp(page, copy, kPageSize) != 0) {
        return false;
      }
    }
  }
  return at >= end;
}

}  // namespace cr::agent
