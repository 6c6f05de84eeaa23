// SPDX-License-Identifier: MIT
// node_states.cc - see node_states.h. Invariant: as there. Context: N; any thread.
#include "node/node_states.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "format/node_states_reader.h"
#include "format/wire_reader.h"
#include "node/disk_words.h"
#include "os/fd.h"
#include "rawsys/rawsys.h"
#include "store/replace_file.h"

namespace cr::node {
namespace {

using format::NodeStateRecord;

std::string name_of(const NodeStateRecord& r) { return {r.node, strnlen(r.node, sizeof(r.node))}; }

}  // namespace

NodeStates::NodeStates(const std::string& dir, bool durable,
                       std::function<void(const std::string&)> log)
    : path_(dir + "/" + format::kNodeStatesFileName), durable_(durable), log_(std::move(log)) {
  const auto loaded = load();
  if (loaded) return;
  const std::string aside = path_ + ".damaged";
  rename(path_.c_str(), aside.c_str());
  log_(path_ + ": " + words_of(loaded.error()) + "; it is now " + aside +
       ", and which nodes are drained is asked from the others");
}

Result<void> NodeStates::load() {
  auto text = os::read_file(path_);
  if (!text && text.error().sys_errno == ENOENT) return {};
  if (!text) return text.error();
  std::vector<uint64_t> aligned((text->size() + 7) / 8);
  memcpy(aligned.data(), text->data(), text->size());
  CR_TRY(const auto records,
         format::read_node_states(reinterpret_cast<const uint8_t*>(aligned.data()), text->size()));
  std::map<std::string, NodeStateRecord> known;
  for (const NodeStateRecord& r : records) known[name_of(r)] = r;
  take(std::move(known));
  return {};
}

Result<void> NodeStates::save(const std::map<std::string, NodeStateRecord>& records) const {
  std::vector<NodeStateRecord> all;
  for (const auto& [name, r] : records) all.push_back(r);
  format::NodeStatesHeader header;
  format::seal(&header, all);
  return store::replace_file_of(path_, header, all, durable_);
}

std::map<std::string, NodeStateRecord> NodeStates::records() const {
  const std::lock_guard held(mutex_);
  return records_;
}

void NodeStates::take(std::map<std::string, NodeStateRecord> changed) {
  const std::lock_guard held(mutex_);
  records_ = std::move(changed);
  version_++;
  uint64_t sum = 0;
  for (const auto& [_, r] : records_) sum += r.version;
  epoch_ = sum;
}

bool NodeStates::is_draining(const std::string& node) const {
  const std::lock_guard held(mutex_);
  const auto at = records_.find(node);
  return at != records_.end() && at->second.draining != 0;
}

void NodeStates::apply(std::vector<Member>* members) const {
  const std::lock_guard held(mutex_);
  if (records_.empty()) return;
  for (Member& m : *members) {
    const auto at = records_.find(m.name);
    if (at != records_.end() && at->second.draining != 0) m.state = NodeState::kDraining;
  }
}

Result<bool> NodeStates::set(const std::string& node, bool draining) {
  if (!format::is_wire_name(node.data(), node.size())) {
    return Error{Errc::kInvalid, EINVAL, "not a node's name"};
  }
  const std::lock_guard held(saving_);
  auto changed = records();
  const auto at = changed.find(node);
  const bool is = at != changed.end() && at->second.draining != 0;
  if (is == draining) return false;
  NodeStateRecord r{};
  format::set_wire_name(r.node, node.data(), node.size());
  r.version = at == changed.end() ? 1 : at->second.version + 1;
  r.realtime_ns = rawsys::clock_ns(CLOCK_REALTIME);
  r.draining = draining ? 1 : 0;
  changed[node] = r;
  CR_TRYV(save(changed));
  take(std::move(changed));
  return true;
}

bool NodeStates::merge(const format::NodeStatesView& theirs) {
  const std::lock_guard held(saving_);
  auto changed = records();
  std::string said;
  for (uint32_t i = 0; i < theirs.head.count; i++) {
    const NodeStateRecord r = theirs.entry(i);
    const std::string name = name_of(r);
    const auto at = changed.find(name);
    if (at == changed.end() && changed.size() == format::kMostNodeStates) continue;
    if (at != changed.end() && !format::is_newer_state(r, at->second)) continue;
    said += (said.empty() ? "" : ", ") + name + (r.draining != 0 ? " is" : " is no longer") +
            " to be drained";
    changed[name] = r;
  }
  if (said.empty()) return false;
  const auto saved = save(changed);
  take(std::move(changed));  // it is so, also if this node will have to ask again
  log_(said + (saved ? "" : "; " + path_ + ": " + words_of(saved.error())));
  return true;
}

std::vector<uint8_t> NodeStates::message(uint64_t request, uint32_t skip, bool* ret_more) const {
  const std::lock_guard held(mutex_);
  format::NodeStatesMessage head{};
  head.request = request;
  head.skip = skip;
  std::vector<uint8_t> message(sizeof(head));
  uint32_t at = 0;
  for (const auto& [name, r] : records_) {
    if (at++ < skip || head.count == format::kMostStatesAtOnce) continue;
    head.count++;
    const auto* bytes = reinterpret_cast<const uint8_t*>(&r);
    message.insert(message.end(), bytes, bytes + sizeof(r));
  }
  head.more = uint64_t{skip} + head.count < records_.size() ? 1 : 0;
  memcpy(message.data(), &head, sizeof(head));
  *ret_more = head.more != 0;
  return message;
}

}  // namespace cr::node
