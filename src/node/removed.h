// SPDX-License-Identifier: MIT
// removed.h - which sessions' parts were removed by request, as this node knows it: so that those
// on a node that was away then are removed when it comes back, instead of being taken for what is
// left of a session that lost parts.
// Invariant: what is noted is in the store before a part is removed; a part counts as removed only
// if it is not newer than the newest checkpoint that was.
// Context: N; any thread. Doc: docs/store.md, docs/format/removed.md.
#pragma once

#include <array>
#include <map>
#include <mutex>
#include <string>

#include "base/base.h"
#include "format/removed.h"

namespace cr::node {

class RemovedSessions {
 public:
  using SessionId = std::array<uint8_t, 16>;
  // dir: the store, which must be there. A file that cannot be read is moved to `removed.damaged`;
  // then the text says so.
  RemovedSessions(const std::string& dir, bool durable, std::string* ret_text);

  // Checkpoints of the session up to this one are removed. Notes that are too old go.
  Result<void> note(const SessionId& id, const format::Triple& newest);
  // The session is kept again, so nothing of it is removed any more.
  Result<void> forget(const SessionId& id);
  // The newest checkpoint that was removed, if that of the part is among them; none: it is not.
  format::Triple covers(const SessionId& id, const format::Triple& part) const;

 private:
  using Records = std::map<SessionId, format::RemovedRecord>;
  Result<void> load();
  Result<void> save(const Records& records) const;

  const std::string path_;
  const bool durable_;
  mutable std::mutex mutex_;  // of what follows
  Records records_;
};

}  // namespace cr::node
