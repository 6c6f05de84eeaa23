// SPDX-License-Identifier: MIT
// early_files.h - may what was copied early of a mapped file be relied on?
// Invariant: yes only for what the file has. While the program runs it may map something else over
// a file, and the file again, between our look at the map, the copy and the stop; nobody counts
// that, so a copy of memory proves nothing.
// Context: N (agent), while the program runs. Doc: docs/ARCHITECTURE.md, "One checkpoint".
#pragma once

#include <vector>

#include "format/channel.h"
#include "format/image.h"

namespace cr::agent {

// The clean pages of that mapping, of the file at `path`, as they lie in staging.
bool is_as_in_file(const format::SegmentRecord& mapping, const char* path,
                   const std::vector<format::Run>& runs, const uint8_t* staging);

}  // namespace cr::agent
