// SPDX-License-Identifier: MIT
// holder.h - what a node does for its neighbours: takes in their parts, lists and returns them.
// Invariant: a transfer that ends in any other way than by PartCommitted leaves no part that
// counts; memory for what is under way never exceeds the bound.
// Context: N; one thread, beside which the store's threads read and write. Doc: docs/store.md.
#pragma once

#include <string.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "format/node_messages_reader.h"
#include "node/link.h"
#include "node/part_store.h"
#include "node/store_threads.h"
#include "os/fd.h"

namespace cr::node {

class Holder {
 public:
  // most_bytes: of windows that are lent to all peers.
  // threads: their daemon's thread is that which calls the functions of this class.
  Holder(LinkHub& hub, PartStore& store, StoreThreads& threads, uint64_t most_bytes,
         std::function<void(std::string)> log)
      : hub_(hub),
        store_(store),
        threads_(threads),
        most_bytes_(most_bytes),
        log_(std::move(log)) {}
  ~Holder();

  // true: the message was one for a holder.
  bool on_message(LinkId link, uint16_t type, std::span<const uint8_t> payload);
  void on_down(LinkId link);
  // Tells sources for which something is being written since long that it is. When again.
  uint64_t tick(uint64_t now_ns);

  uint64_t lent_bytes() const { return lent_; }
  size_t transfers() const { return transfers_.size(); }

 private:
  struct Transfer {
    uint64_t serial = 0;                     // no other one has it
    std::shared_ptr<os::Mapping> windows;    // a put that has begun keeps them
    std::shared_ptr<PartReceiver> receiver;  // nullptr: the offer is being looked at
    RegionId region = RegionId::kNone;
    uint32_t window_count = 0;
    StoreThreads::Key part;
    unsigned jobs = 0;  // under way
    uint64_t told_ns = 0;
  };
  using Key = std::pair<LinkId, uint64_t>;
  // How a job ended, for both threads in turn.
  struct Outcome {
    Error error;
    std::shared_ptr<PartReceiver> receiver;
  };
  // Rows that a peer asks for.
  struct Fetch {
    LinkId link = LinkId::kNone;
    format::FetchRows asked{};
    format::Fetched answer{};
    Error error;
    std::vector<uint8_t> block;
  };
  void on_offer(LinkId link, const format::PartOffer& offer);
  void on_chunk(LinkId link, const format::PartChunk& chunk);
  void on_commit(LinkId link, const format::PartCommit& commit);
  void on_list(LinkId link, const format::ListParts& list);
  void on_fetch(LinkId link, const format::FetchRows& fetch);
  void answer(const std::shared_ptr<Fetch>& fetch);
  void on_remove(LinkId link, const format::RemoveSession& remove);
  void accept(const Key& key, Transfer& t);
  void run(const Key& key, Transfer& t, std::function<Error(PartReceiver*)> job,
           std::function<void(Transfer&)> done);
  Result<void> fill_block(const format::FetchRows& fetch, std::vector<uint8_t>* ret,
                          uint64_t* ret_damaged_row);
  void fail(LinkId link, uint64_t transfer, const Error& error);
  void end(const Key& key);
  void end_older(LinkId link, const StoreThreads::Key& part);
  void prepare(const StoreThreads::Key& part);

  LinkHub& hub_;
  PartStore& store_;
  StoreThreads& threads_;
  const uint64_t most_bytes_;
  std::function<void(std::string)> log_;
  std::map<Key, Transfer> transfers_;
  PartCache cache_;                              // of parts that are fetched
  std::vector<std::shared_ptr<Fetch>> waiting_;  // for which the links had no room
  uint64_t lent_ = 0;
  uint64_t last_serial_ = 0;
  unsigned listings_ = 0;  // under way
};

// Sends a message that is one struct.
template <typename T>
Result<void> send_struct(LinkHub& hub, LinkId link, uint16_t type, const T& message) {
  return hub.send(link, type, {reinterpret_cast<const uint8_t*>(&message), sizeof(message)});
}
// Answers with so many of the entries as go into one message, from `skip` on.
template <typename Head, typename Entry>
void send_list(LinkHub& hub, LinkId link, uint16_t type, uint64_t request,
               const std::vector<Entry>& all, uint64_t skip, uint64_t most) {
  const size_t from = std::min<size_t>(skip, all.size());
  const size_t count = std::min<size_t>(all.size() - from, most);
  Head head{};
  head.request = request;
  head.entries = static_cast<uint32_t>(count);
  head.more = from + count < all.size() ? 1 : 0;
  std::vector<uint8_t> message(sizeof(head) + count * sizeof(Entry));
  memcpy(message.data(), &head, sizeof(head));
  if (count > 0) memcpy(&message[sizeof(head)], &all[from], count * sizeof(Entry));
  (void)hub.send(link, type, message);
}
// Reads one; false: it is of another size, or breaks a rule.
template <typename T>
bool read_struct(std::span<const uint8_t> payload, T* ret) {
  const auto message = format::read_message<T>(payload.data(), payload.size());
  if (message) *ret = *message;
  return message.has_value();
}

}  // namespace cr::node
