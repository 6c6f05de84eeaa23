// SPDX-License-Identifier: MIT
// replicator.h - takes the checkpoints of one session to all that keep parts of it, this node among
// them: only what differs from what they have, cut up and coded as its protection says.
// Invariant: a holder's part counts only when all of it arrived; until a newer checkpoint can
// survive this node's loss, nobody overwrites the newest one that can.
// Context: N; one thread. Doc: docs/store.md.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node/keep_search.h"
#include "node/link.h"
#include "node/part_store.h"
#include "node/row_source.h"
#include "node/store_threads.h"

namespace cr::node {

struct ProtectedSession {
  SessionId id{};
  std::string name;
  std::string dir;  // the image directory
  store::Protection protection;
  uint32_t uid = 0;    // whose session it is
  std::string origin;  // of a repair: where it ran; the images are this node's copy
  // Of a repair: the newest checkpoint of which any part was found, also of one that is not whole.
  format::Triple newest{};
  // Other nodes that had parts of it: they may know what is to be kept.
  std::vector<std::string> held_by;
};

// How well a checkpoint is kept. parts: of how many holders; elsewhere: without this node.
struct Safety {
  format::Triple triple{};
  uint64_t committed_ns = 0;  // CLOCK_MONOTONIC, when the session was told to have it
  uint64_t safe_ns = 0;       // ... when it could survive this node's loss; 0: it cannot
  unsigned parts = 0, elsewhere = 0;
};

class Replicator {
 public:
  struct Node {
    LinkHub* hub;  // nullptr: there are no other nodes
    PartStore* store;
    StoreThreads* threads;
    std::string own;
    std::function<LinkId(const std::string&)> link_to;  // kNone: not connected now
    std::function<bool(const std::string&)> may_come;   // ... but perhaps in a moment
    std::function<void(const std::string&)> log;
    std::function<void(const Replicator&)> on_safety;  // safety() has changed
    uint64_t (*now_ns)();
  };
  // holders: names of K + M nodes, by holder number.
  static Result<std::unique_ptr<Replicator>> make(Node node, ProtectedSession session,
                                                  std::vector<std::string> holders);
  ~Replicator();

  // The session has a new checkpoint.
  void wake(uint64_t now_ns);
  // All parts are to be written anew, in both buffers of each holder, whatever these have: then
  // nothing that was damaged is left. If some holder fails it is over.
  void rewrite(uint64_t now_ns);
  bool is_rewriting() const { return rewrites_ > 0; }
  // The session's program is gone: what is under way is finished, then is_idle().
  void end() { ended_ = true; }
  bool is_idle() const { return phase_ == Phase::kIdle && !wanted_; }
  bool has_ended() const { return ended_; }
  bool is_sending() const { return phase_ != Phase::kIdle; }

  // Does a bounded piece of work. true: there is more that need not wait.
  bool step(uint64_t now_ns);
  // When step() is to be called again if nothing happens; ~0: only when woken.
  uint64_t next_ns() const;

  // true: the message was for this session.
  bool on_message(LinkId link, uint16_t type, std::span<const uint8_t> payload);
  void on_up(const std::string& node);
  void on_down(LinkId link, const std::string& why);

  const ProtectedSession& session() const { return session_; }
  const std::vector<std::string>& holders() const { return holders_; }
  // A link to that node is wanted.
  bool needs(const std::string& node) const;
  // Other nodes keep some of the parts from now on.
  void set_holders(std::vector<std::string> holders);
  const Safety& safety() const { return safety_; }
  // Of what rewrite() wants, both transfers: rows of each part that were looked at, in bytes.
  void rewritten(uint64_t* ret_done, uint64_t* ret_total) const;
  uint64_t sent_bytes() const { return sent_bytes_; }  // to other nodes
  // Of each holder that has not the newest checkpoint: what is wrong with it; "": nothing yet.
  std::string trouble(unsigned holder) const { return targets_[holder].trouble; }
  // Why the newest checkpoint could not be sent to anybody; "": it could.
  const std::string& trouble() const { return gave_up_; }
  format::Triple whole(unsigned holder) const { return targets_[holder].whole; }

 private:
  enum class Phase {
    kIdle,      // nothing is to be done, or it is waited with it until retry_ns_
    kAsk,       // the holders are asked what they have; until each has answered or is gone
    kOffer,     // offers are sent; until each participant has accepted or failed
    kSend,      // rows are sent; until all passes are done
    kDescribe,  // the description is sent
    kCommit,    // until each participant has committed or failed
  };
  // Memory of one window's size; on its way, or free if nobody else has a pointer to it.
  using Buffer = std::shared_ptr<os::Mapping>;
  // A chunk in a window, for which the links have no room at the moment (LinkHub::put_block()).
  struct Waiting {
    Buffer buffer;
    std::shared_ptr<format::PartChunk> message;
    uint64_t bytes = 0;
  };
  struct Target {
    std::string node;
    unsigned holder = 0;
    bool own = false;
    format::Triple whole{};  // the newest checkpoint that it has committed
    std::string trouble;
    // Of the transfer under way.
    bool takes_part = false, accepted = false, committed = false;
    bool full = false;  // has no base: gets everything that is not zeros
    LinkId link = LinkId::kNone;
    uint64_t transfer = 0;
    RemoteRegionId region = RemoteRegionId::kNone;
    std::shared_ptr<unsigned> puts;          // to the region, under way
    std::vector<bool> window_busy;           // of the region; own: of so many chunks
    std::shared_ptr<PartReceiver> receiver;  // own
    unsigned jobs = 0;                       // own: of it, under way
    uint64_t described = 0;                  // bytes of the description that were handed over
    uint64_t handed_rows = 0;
    std::optional<Waiting> waiting;
    uint64_t told_ns = 0;   // when it last said something; own: or is at work
    uint64_t moved_ns = 0;  // when it last finished something, or was first asked for it
    // Beyond transfers: how often in a row it stood still, and until when it is not asked again.
    unsigned stalls = 0;
    uint64_t excused_until_ns = 0;
  };
  // What one target gets, or all targets if it is the same for them.
  struct Stream {
    std::vector<size_t> targets;
    Buffer filling;
    uint32_t rows = 0, pages = 0;  // in it
    bool full = false;             // they have no base
  };
  Replicator(Node node, ProtectedSession session, std::unique_ptr<store::Erasure> erasure);

  std::vector<std::string> whom_to_ask() const;
  void ask(uint64_t now_ns);
  void ask_own();
  void take_list(LinkId link, std::span<const uint8_t> payload);
  void begin(uint64_t now_ns);
  Result<void> look();
  bool is_busy(uint64_t now_ns, const Error& error);
  void offer(Target& t);
  void offer_own(Target& t, const format::PartOffer& offer);
  void make_streams();
  bool send_rows();
  bool send_unit();
  void put_unit(const RowSource::Unit& unit);
  void put_row(Stream& s, uint64_t row, const RowSource::Row& content);
  void flush(Stream& s);
  Result<Buffer> take_buffer();
  void hand_over(Target& t, const Buffer& buffer, const format::PartChunk& like, uint64_t bytes);
  void put_waiting(Target& t);
  int taker_of(const Stream& s) const;
  uint64_t patience_ns(const Target& t) const;
  void drop_stalled(uint64_t now_ns);
  void run_own(Target& t, std::function<Error(PartReceiver*)> job,
               std::function<void(Target&)> done);
  void end_pass();
  std::string why_not_to_send() const;
  void send_description();
  void commit(uint64_t now_ns);
  void settle(uint64_t now_ns);
  void prepare_own(unsigned holder);
  void give_up(uint64_t now_ns, const std::string& why);
  std::string all_troubles() const;
  void drop(Target& t, const std::string& why);
  void leave(Target& t);
  void cancel(Target& t);
  void release();
  bool has_room(const Target& t) const;
  bool all_have_room() const;
  unsigned participants() const;

  Node node_;
  ProtectedSession session_;
  std::vector<std::string> holders_;
  std::vector<Target> targets_;  // by holder
  Phase phase_ = Phase::kIdle;
  bool wanted_ = false, ended_ = false;
  unsigned rewrites_ = 0;   // transfers that rewrite() still wants
  bool rewriting_ = false;  // the one under way is of these
  uint64_t woken_ns_ = 0, begin_woken_ns_ = 0;
  uint64_t retry_ns_ = 0;
  unsigned failures_ = 0;     // in a row
  std::string gave_up_;       // why, said already
  std::string told_trouble_;  // of all holders, when on_safety was last called
  uint64_t deadline_ns_ = 0;

  // What must not be overwritten: what the holders had when this process took the session up, then
  // what it has made safe.
  KeepSearch keep_;

  RowSource source_;
  // What is sent is what differs from this.
  KeptCheckpoint base_;
  std::vector<uint64_t> base_checks_;
  uint64_t layout_ = 0;  // of description_
  uint64_t row_ = 0;     // the next one
  unsigned pass_ = 0;
  // The images were being written each time since then; 0: they were not.
  uint64_t busy_since_ns_ = 0;
  uint64_t look_again_ns_ = 0;  // between passes
  std::vector<uint8_t> description_;
  std::vector<Stream> streams_;
  std::vector<Buffer> buffers_;
  Safety safety_;
  uint64_t handed_bytes_ = 0, sent_bytes_ = 0;  // to all holders; to other nodes
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cr::node
