// SPDX-License-Identifier: MIT
// recovery.h - which checkpoints of a session can be had from the parts that were found, and making
// an image directory of one.
// Invariant: an image gets WRITE_LOCK = 1 only when every byte of it came from rows whose checksums
// are right, or was decoded from such rows and has the checksum that METADATA says.
// Context: N; one thread each. Doc: docs/store.md.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "node/cluster.h"
#include "store/erasure.h"

namespace cr::node {

struct Available {
  format::Triple triple{};
  format::PartEntry like{};  // any of its parts
  store::Protection protection;
  std::vector<std::vector<FoundPart>> holders;  // by holder number: where that part is

  unsigned parts() const;  // how many different ones there are
  bool is_whole() const { return parts() >= protection.data; }
  // "3 of 4 parts, 3 needed; missing: part 2"
  std::string words() const;
};
// Of the parts of one session; newest first. Parts whose numbers make no sense are left out.
std::vector<Available> available(const std::vector<FoundPart>& parts);

struct RecoveryProgress {
  uint64_t done_bytes = 0, total_bytes = 0;
};
struct RecoveryResult {
  uint64_t bytes = 0;
  uint64_t decoded_rows = 0;         // that had to be computed from others
  std::vector<std::string> damaged;  // "NODE: part 1, row 7: why"
};
// Makes `dir`, which must not be there yet, an image directory with that checkpoint in image.0. On
// failure the text says what is missing, and what was made is removed. kNotFound: newer checkpoints
// were written over its parts meanwhile; look again for what there is.
Result<RecoveryResult> make_image(Cluster& cluster, const Available& from, const std::string& dir,
                                  bool durable,
                                  const std::function<void(const RecoveryProgress&)>& progress,
                                  std::string* ret_text);

// Reads every row of each of the parts of a session; what is damaged, a line each. Where a newer
// checkpoint is written over a part, it goes on with that one. kTimeout: that happened again and
// again before any row could be read.
Result<std::vector<std::string>> verify_parts(
    Cluster& cluster, const std::vector<FoundPart>& parts,
    const std::function<void(const RecoveryProgress&)>& progress, std::string* ret_text);

}  // namespace cr::node
