// SPDX-License-Identifier: MIT
// side_memory.cc - see side_memory.h. Invariant: as there. Context: N, control thread.
#include "capture/side_memory.h"

#include <errno.h>
#include <linux/memfd.h>
#include <sys/mman.h>

#include "format/channel.h"
#include "rawsys/rawsys.h"

namespace cr::capture {

using rawsys::sys;

namespace {

// While the program runs it may count on a place that it has just left, by mremap or munmap, and
// maps something there with MAP_FIXED a moment later. So what is mapped behind its back must not
// come to lie where the kernel puts mappings: here, below the heap's range, nobody else is.
constexpr uint64_t kPlaces = 0x1e0000000000, kPlaceStep = uint64_t{1} << 36;
constexpr int kMostPlaces = 16;

long map_apart(uint64_t bytes, int fd) {
  long r = -ENOMEM;
  for (int i = 0; i < kMostPlaces; i++) {
    const uint64_t at = kPlaces + static_cast<uint64_t>(i) * kPlaceStep;
    r = rawsys::sys_mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd,
                         0);
    if (r == static_cast<long>(at)) return r;
    if (!rawsys::is_error(r)) {  // a kernel that does not know the flag
      rawsys::sys_munmap(static_cast<uint64_t>(r), bytes);
      return -ENOMEM;
    }
    if (r != -EEXIST) return r;
  }
  return r;
}

}  // namespace

long make_side_memory(uint64_t bytes, SideMemory* ret) {
  bytes = (bytes + kPageSize - 1) / kPageSize * kPageSize;
  const long fd = sys(__NR_memfd_create, format::kChannelMemfdName, MFD_CLOEXEC);
  if (fd < 0) return fd;
  long r = sys(__NR_fallocate, fd, 0, 0, bytes);
  if (r == 0) r = map_apart(bytes, static_cast<int>(fd));
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
