// SPDX-License-Identifier: MIT
// drop_parts.cc - removing a part that others have by now; see part_store.h.
// Invariant: neither a part that is newer nor one that is being taken in is touched.
// Context: N; a thread of the store.
#include <errno.h>
#include <unistd.h>

#include <algorithm>

#include "node/part_store.h"

namespace cr::node {

Result<unsigned> PartStore::drop(const SessionId& id, unsigned holder,
                                 const format::Triple& newest) {
  if (holder >= format::kMostPartHolders || !begin_part(id, holder)) return 0U;
  auto dropped = drop_files(id, holder, newest);
  end_part(id, holder);
  // An empty directory goes as well, but not while a part of the session may be on its way into it.
  const std::lock_guard held(mutex_);
  const bool busy = std::ranges::any_of(busy_, [&](const auto& b) { return b.first == id; });
  if (!busy && rmdir(session_dir(id).c_str()) == 0) synced_.erase(id);
  return dropped;
}

Result<unsigned> PartStore::drop_files(const SessionId& id, unsigned holder,
                                       const format::Triple& newest) {
  const std::string dir = session_dir(id);
  store::PartState states[2];
  bool newer = false;
  for (int b = 0; b < 2; b++) {
    states[b] = store::load_part(store::part_path(dir, holder, b));
    if (states[b].exists && states[b].error.code == Errc::kSystem) return states[b].error;
    newer |= states[b].part && is_newer(states[b].part->view.header.triple, newest);
  }
  unsigned files = 0;
  for (int b = 0; b < 2; b++) {
    // What is not whole is the other buffer's room.
    const bool old =
        states[b].part ? !is_newer(states[b].part->view.header.triple, newest) : !newer;
    if (!states[b].exists || !old) continue;
    CR_TRYV(store::remove_file(store::part_path(dir, holder, b)));
    files++;
  }
  if (durable_ && files > 0) CR_TRYV(store::sync_directory(dir));
  return files;
}

}  // namespace cr::node
