// SPDX-License-Identifier: MIT
// node_states.h - which nodes are being drained, as this node knows it: remembered in its store,
// and brought up to date by every other node that it talks to.
// Invariant: of two records of one node the newer one is kept, the same on all nodes; what was
// asked for here is in the store before anybody is told. Records of nodes that are in no list harm
// nobody.
// Context: N; any thread. Doc: docs/store.md, docs/format/nodes.md.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/base.h"
#include "format/node_messages_reader.h"
#include "node/members.h"

namespace cr::node {

class NodeStates {
 public:
  // dir: the store, which must be there. A file that cannot be read is moved to `nodes.damaged`:
  // the other nodes know the same.
  NodeStates(const std::string& dir, bool durable, std::function<void(const std::string&)> log);

  // Another one whenever something has changed.
  uint64_t version() const { return version_; }
  bool is_draining(const std::string& node) const;
  // Those that are drained are kDraining then.
  void apply(std::vector<Member>* members) const;
  // true: it was not so before. An error: it could not be remembered, and is not so now.
  Result<bool> set(const std::string& node, bool draining);
  // What another node knows. true: something of it was new.
  bool merge(const format::NodeStatesView& theirs);
  // How many changes are known here, of all nodes together; never falls, and is the same where the
  // same is known. The links' messages carry it as the cluster's epoch (LinkHub::set_epoch()).
  uint64_t epoch() const { return epoch_; }
  // A message with what is known here, from the nth record on; *ret_more: there are others.
  std::vector<uint8_t> message(uint64_t request, uint32_t skip, bool* ret_more) const;

 private:
  Result<void> load();
  std::map<std::string, format::NodeStateRecord> records() const;
  void take(std::map<std::string, format::NodeStateRecord> changed);
  Result<void> save(const std::map<std::string, format::NodeStateRecord>& records) const;

  const std::string path_;
  const bool durable_;
  const std::function<void(const std::string&)> log_;
  std::mutex saving_;         // who changes something has it meanwhile, and then mutex_
  mutable std::mutex mutex_;  // of what follows, and never for as long as a disk takes
  std::atomic<uint64_t> version_ = 0;
  std::map<std::string, format::NodeStateRecord> records_;
  std::atomic<uint64_t> epoch_ = 0;
};

}  // namespace cr::node
