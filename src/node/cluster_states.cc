// SPDX-License-Identifier: MIT
// cluster_states.cc - asking nodes what they know of each other, and which sessions they see to;
// see cluster.h. Invariant: an answer that breaks a rule counts as none. Context: N; one thread.
#include <string.h>

#include <algorithm>

#include "node/cluster.h"

namespace cr::node {

using namespace format;

void Cluster::share(NodeStates& states) {
  for (auto& [name, peer] : peers_) {
    bool more = true, theirs_more = true;
    for (uint32_t skip = 0; peer.up && (more || theirs_more); skip += kMostStatesAtOnce) {
      std::vector<uint8_t> message = states.message(0, skip, &more);
      const auto sent = send_bytes(name, kShareStates, message);
      const auto answer = sent ? answer_to(*sent) : Result<std::vector<uint8_t>>(sent.error());
      if (!answer) break;
      const auto theirs = read_node_states_message(answer->data(), answer->size());
      if (!theirs) break;
      states.merge(*theirs);
      theirs_more = theirs->head.more != 0;
    }
  }
}

Result<std::vector<SessionEntry>> Cluster::sessions(const std::string& node,
                                                    const std::string& about) {
  std::vector<SessionEntry> all;
  AskSessions question{};
  memcpy(question.node, about.data(), std::min(about.size(), sizeof(question.node) - 1));
  for (bool more = true; more;) {
    CR_TRY(const auto answer, ask(node, kAskSessions, question));
    CR_TRY(const auto list, read_session_list(answer.data(), answer.size()));
    for (uint32_t i = 0; i < list.head.entries; i++) all.push_back(list.entry(i));
    question.skip += list.head.entries;
    more = list.head.more != 0 && list.head.entries > 0;
  }
  return all;
}

}  // namespace cr::node
