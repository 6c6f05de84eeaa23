// SPDX-License-Identifier: MIT
// side_memory.cc - see side_memory.h. Invariant: as there. Context: N, control thread.
#include "capture/side_memory.h"

#include <linux/memfd.h>
#include <sys/mman.h>

#include "format/channel.h"
#include "rawsys/rawsys.h"

namespace cr::capture {

using rawsys::sys;

long make_side_memory(uint64_t bytes, SideMemory* ret) {
  bytes = (bytes + kPageSize - 1) / kPageSize * kPageSize;
  const long fd = sys(__NR_memfd_create, format::kChannelMemfdName, MFD_CLOEXEC);
  if (fd < 0) return fd;
  long r = sys(__NR_fallocate, fd, 0, 0, bytes);
  if (r == 0) {
    r = rawsys::sys_mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, static_cast<int>(fd), 0);
  }
  if (rawsys::is_error(r)) {
    rawsys::sys_close(static_cast<int>(fd));
    return r;
  }
  sys(__NR_madvise, r, bytes, MADV_DONTFORK);
  sys(__NR_madvise, r, bytes, MADV_DONTDUMP);
  *ret = {reinterpret_cast<uint8_t*>(r), bytes, static_cast<int>(fd)};
  return 0;
}

void free_side_memory(SideMemory& memory) {
  if (memory.bytes != 0) {
    rawsys::sys_munmap(reinterpret_cast<uint64_t>(memory.data), memory.bytes);
    rawsys::sys_close(memory.fd);
  }
  memory = {};
}

}  // namespace cr::capture
