// SPDX-License-Identifier: MIT
// captured_memory.cc - see captured_memory.h. Invariant: as there. Context: N (agent).
#include "agent/captured_memory.h"

#include <string.h>

#include <algorithm>

namespace cr::agent {

// A page that was not found in the stop, though its mapping was captured, reads as zeros: such a
// page was never touched.
bool CapturedMemory::read(uint64_t addr, void* to, size_t bytes) const {
  auto* out = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    const uint64_t page = addr & ~(kPageSize - 1), off = addr - page;
    const size_t n = std::min<size_t>(bytes, kPageSize - off);
    const auto after = std::ranges::upper_bound(runs_, page, {}, &format::Run::addr);
    const uint8_t* data = nullptr;
    if (after != runs_.begin()) {
      const format::Run& r = *(after - 1);
      if (page - r.addr < r.pages * kPageSize) {
        data = r.staging_page == format::kPagesSame
                   ? writer_.last_page(page)
                   : staging_ + r.staging_page * kPageSize + (page - r.addr);
      }
    }
    if (data != nullptr) {
      memcpy(out, data + off, n);
    } else {
      memset(out, 0, n);
    }
    out += n;
    addr += n;
    bytes -= n;
  }
  return true;
}

std::vector<format::Run> without(const std::vector<format::Run>& runs, const AddressSet& set) {
  std::vector<format::Run> out;
  size_t hint = 0;
  for (const format::Run& r : runs) {
    split(
        set.ranges(), r.addr, r.addr + r.pages * kPageSize, &hint, [](uint64_t, uint64_t) {},
        [&](uint64_t from, uint64_t to) { out.push_back(part(r, from, to)); });
  }
  return out;
}

}  // namespace cr::agent
