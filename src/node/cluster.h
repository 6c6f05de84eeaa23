// SPDX-License-Identifier: MIT
// cluster.h - asking all nodes and waiting for their answers: which parts they have, their rows,
// their removal. For requests of people, in a thread of their own, with links of their own.
// Invariant: every wait ends, by an answer, by the end of the link, or at the deadline; and a node
// that let a deadline pass is not asked again, so it costs one wait however much is asked of it.
// Context: N; one thread each at a time. Doc: docs/store.md.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "node/link.h"
#include "node/members.h"
#include "node/node_states.h"
#include "node/part_store.h"
#include "node/resolver.h"

namespace cr::node {

// A part, and where it is.
struct FoundPart {
  std::string node;
  format::PartEntry entry;
};

class Cluster : private LinkHandler {
 public:
  struct Options {
    LinkOptions link;
    std::string key_file;  // "": this node is alone
    Members members;
    PartStore* store = nullptr;  // this node's own
    uint64_t connect_ns = 3'000'000'000, answer_ns = 20'000'000'000;
    std::shared_ptr<Resolver> resolver;  // nullptr: one of its own
    // false: nobody waits any more, and every call fails soon. Empty: somebody does.
    std::function<bool()> wanted;
  };
  // Connects to all members that can be reached; see unreachable().
  static Result<std::unique_ptr<Cluster>> open(Options options, std::string* ret_text);
  ~Cluster() override;

  const std::function<bool()>& wanted() const { return options_.wanted; }
  // "NODE: why", of members that could not be asked, or did not answer in time.
  const std::map<std::string, std::string>& unreachable() const { return unreachable_; }

  // Parts of all nodes that can be reached, or of one session. All are asked at once: where
  // a session runs the answers of some moments apart do not fit together.
  std::vector<FoundPart> list(const SessionId* only);
  // The same of one node.
  std::vector<FoundPart> list_on(const std::string& node, const SessionId* only);
  // Rows [first, first + count) of a part into `ret` (count * 4096 bytes), each good. On kDamaged
  // *ret_row is the first row that is not. kNotFound: the part is not there any more, as is usual
  // where the session runs and newer checkpoints take its place.
  Result<void> fetch_rows(const FoundPart& part, uint64_t first, uint64_t count, uint8_t* ret,
                          uint64_t* ret_row);
  Result<std::vector<uint8_t>> fetch_description(const FoundPart& part);
  // How many files were removed on all nodes together.
  Result<unsigned> remove(const SessionId& id, uint32_t uid, std::string* ret_text);
  // All that can be reached, and this node, know of the same nodes' states afterwards.
  void share(NodeStates& states);
  // The sessions that `node`, not this one, sees to, and whether `about` is one of their holders.
  Result<std::vector<format::SessionEntry>> sessions(const std::string& node,
                                                     const std::string& about);

  // The most rows of one fetch_rows().
  static constexpr uint64_t kMostRows = 1024;

 private:
  struct Peer {
    LinkId link = LinkId::kNone;
    bool up = false, down = false;
    bool silent = false;  // an answer did not come in time
    // What it puts rows into. No other peer's: what it sends too late falls on nothing.
    os::Mapping window;
    std::optional<Region> region;
    Result<void> may_ask() const;
  };
  explicit Cluster(Options options) : options_(std::move(options)) {}
  void on_up(LinkId id, const std::string& peer) override;
  void on_message(LinkId id, uint16_t type, std::span<const uint8_t> payload) override;
  void on_down(LinkId id, const Error& error, const std::string& text) override;
  void on_refused(format::WireReason reason, const std::string& address,
                  const std::string& text) override;
  bool is_wanted() const { return !options_.wanted || options_.wanted(); }
  void connect_to_all();
  Result<void> make_window(Peer& peer);
  template <typename Condition>
  bool wait(uint64_t ns, const Condition& condition);
  struct Question {
    std::string node;
    uint64_t until_ns;
    std::optional<std::vector<uint8_t>> answer;
  };
  // Sends. Returns the number that the message gets in its first 8 bytes, and its answer has there.
  Result<uint64_t> send_bytes(const std::string& node, uint16_t type, std::span<uint8_t> message);
  template <typename T>
  Result<uint64_t> send(const std::string& node, uint16_t type, T& message) {
    static_assert(offsetof(T, request) == 0);
    return send_bytes(node, type, {reinterpret_cast<uint8_t*>(&message), sizeof(message)});
  }
  // Waits for the answer, once for each number.
  Result<std::vector<uint8_t>> answer_to(uint64_t request);
  template <typename T>
  Result<std::vector<uint8_t>> ask(const std::string& node, uint16_t type, T& message) {
    CR_TRY(const uint64_t request, send(node, type, message));
    return answer_to(request);
  }
  Result<PartCache::Part> own_part(const FoundPart& part);
  Result<void> fetch(const FoundPart& part, uint32_t kind, uint64_t off, uint64_t count,
                     uint8_t* ret, uint64_t bytes, uint64_t* ret_row);
  uint64_t ask_for_list(const std::string& node, format::ListParts l);
  void list_of(const std::string& node, format::ListParts l, uint64_t request,
               std::vector<FoundPart>* ret);

  Options options_;
  PartCache cache_;  // of own parts
  std::unique_ptr<LinkHub> hub_;
  std::map<std::string, Peer> peers_;
  std::map<std::string, std::string> unreachable_;
  uint64_t request_ = 0;  // the last one
  std::map<uint64_t, Question> questions_;
};

}  // namespace cr::node
