// SPDX-License-Identifier: MIT
// copy_objects.cc - shared memory on its way to the image, behind the program's own pages.
// Invariant: as read_objects.h; staging is used from where the control thread left off, and written
// out in portions when it is full.
// Context: N (agent), while the program is stopped. Doc: docs/ARCHITECTURE.md, "Shared memory".
#include <errno.h>
#include <string.h>

#include <algorithm>

#include "agent/read_objects.h"
#include "agent/session.h"
#include "rawsys/rawsys.h"

namespace cr::agent {

// Some pages, all of which fit.
Trouble Session::stage(Attempt& a, uint64_t addr, const uint8_t* data, uint64_t pages) {
  const uint64_t first = a.next_staging_page;
  const long e =
      rawsys::write_all_at(staging_fd_.get(), data, pages * kPageSize, first * kPageSize);
  if (e != 0) {
    return trouble(
        Errc::kNoMemory, static_cast<int>(-e),
        std::string("no memory for staging shared memory: ") + strerror(static_cast<int>(-e)));
  }
  a.next_staging_page += pages;
  staging_kept_pages_ = std::max(staging_kept_pages_, a.next_staging_page);
  staged_bytes_ += pages * kPageSize;
  format::Run* last = a.runs.empty() ? nullptr : &a.runs.back();
  if (last != nullptr && last->addr + last->pages * kPageSize == addr &&
      last->staging_page + last->pages == first) {
    last->pages += pages;
  } else {
    a.runs.push_back({addr, pages, first});
  }
  return {};
}

Trouble Session::copy_objects(World& world, Attempt& a) {
  if (a.model.objects.empty()) return {};
  auto maps = os::parse_maps(a.map.text);
  if (!maps) return trouble(Errc::kSystem, EIO, "the memory map cannot be read");
  a.next_staging_page = std::clamp(channel()->staging_used, early_pages_, staging_pages_);
  const ObjectSink sink = [&](uint64_t addr, const uint8_t* data, uint64_t bytes) {
    for (uint64_t done = 0; done < bytes;) {
      if (a.next_staging_page == staging_pages_) {
        Trouble bad = write_portion(world, a);
        if (bad.bad()) return bad;
        a.next_staging_page = early_pages_;
      }
      const uint64_t room = staging_pages_ - a.next_staging_page;
      const uint64_t pages = std::min((bytes - done) / kPageSize, room);
      Trouble bad = stage(a, addr + done, data + done, pages);
      if (bad.bad()) return bad;
      done += pages * kPageSize;
    }
    return Trouble{};
  };
  const MemoryReader read = live_reader();
  const ObjectOwner owner{pid_, world.threads()[0].tid, pidfd_.get(), *maps, read};
  return read_objects(owner, a.model, sink);
}

}  // namespace cr::agent
