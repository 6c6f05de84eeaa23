// SPDX-License-Identifier: MIT
// protector.h - the session's connection to its node's crstored: tells it of each checkpoint, and
// hears how far that has got.
// Invariant: nobody waits for crstored, and no checkpoint fails for it.
// Context: N (agent). Doc: docs/store.md.
#pragma once

#include <stdint.h>

#include <compare>
#include <functional>
#include <memory>
#include <string>

#include "format/channel.h"
#include "node/client.h"
#include "node/private_start.h"
#include "store/protection.h"

namespace cr::agent {

struct ProtectOptions {
  std::string spec;    // --protect; "": not at all
  std::string name;    // of the session, for people
  std::string socket;  // crstored's; "": this node's, else the private one
  std::shared_ptr<node::PrivateStarter> starter;  // by which a private one is started; may be null
  // Nodes that had parts of it when it was brought back; they are asked what is to be kept.
  std::vector<std::string> held_by;
  // Which checkpoints are flushed (level 3); both 0: those that crstored was told to.
  uint64_t flush_every = 0, flush_interval_ns = 0;

  bool has_flush() const { return flush_every != 0 || flush_interval_ns != 0; }
};

// Which of one session's, by when it was taken.
struct CheckpointId {
  uint64_t epoch = 0, sequence = 0;
  auto operator<=>(const CheckpointId&) const = default;
};

class Protector {
 public:
  using Say = std::function<void(const std::string&)>;
  Protector(ProtectOptions options, Say say);

  bool wanted() const { return !options_.spec.empty(); }
  // Of this session; to be called for each life of its program.
  void begin(const std::string& dir, const uint8_t (&session_id)[16]);
  int fd() const { return client_ ? client_->fd() : -1; }
  // Something has arrived.
  void serve();
  // The newest checkpoint that is whole; says so if it is a new one. Connects again now and then.
  void look(uint64_t epoch, uint64_t sequence);
  // When look() is to be called if nothing happens; ~0: never.
  uint64_t next_ns() const;

  // Of a checkpoint that is whole, on its way to level 2 or 3.
  struct Standing {
    bool reached = false, never = false;
    std::string why;        // what keeps it from getting there; "": nothing, it is on its way
    uint64_t since_ns = 0;  // ... and since when
  };
  Standing standing(int level, const CheckpointId& id) const;
  // The newest checkpoint is to be flushed, whether it is a chosen one or not. To be called again
  // until it is, or nobody wants it any more.
  void flush(const CheckpointId& id);
  // ... at once, although it has just failed.
  void flush_anew() { flush_retry_ns_ = 0; }
  uint64_t flush_failures() const { return flush_failures_; }  // of flush(), so far
  // Somebody waits: finds out whether crstored still lives. Returns when to be called again.
  uint64_t look_for_life();

  // The newest checkpoints of levels 2 and 3; sequence 0: none.
  const CheckpointId& safe() const { return safe_; }
  const CheckpointId& flushed() const { return flushed_; }
  uint64_t window_ns() const { return window_ns_; }
  // All of it, for people; the number rises when something is different.
  format::Levels levels() const;
  uint64_t version() const { return version_; }

 private:
  void connect(bool has_checkpoint);
  bool ask(bool has_checkpoint);
  void fail(const std::string& why);
  void on_answer(const node::Json& answer);
  void on_level(const node::Json& event);
  void on_flushed(const node::Json& event);
  void on_flush_answer(const node::Json& answer);
  std::string no_flush_words() const;
  void set_flush_trouble(const std::string& why);

  ProtectOptions options_;
  store::Protection protection_;
  Say say_;
  node::StoreFinder finder_;
  std::string dir_, session_;
  std::unique_ptr<node::Client> client_;
  uint64_t told_epoch_ = 0, told_sequence_ = 0;
  uint64_t retry_ns_ = 0;
  bool asked_ = false;  // the connection's crstored was asked to take the session up
  uint64_t version_ = 1;
  uint64_t heard_ns_ = 0, asked_ns_ = 0;  // of look_for_life()
  // Level 2.
  CheckpointId safe_;
  bool is_lost_ = false;  // holders of the newest safe one have gone since, too many of them
  uint64_t window_ns_ = 0;
  CheckpointId tried_;      // the newest of which crstored has said that it is not safe
  uint64_t unsafe_ns_ = 0;  // since when checkpoints do not get there; 0: they do
  bool accepted_ = false;   // crstored has taken the session up
  uint64_t away_ns_ = 0;    // since when it has not
  std::string holders_;
  std::string trouble_;  // "b: the node cannot be reached"; "" if nothing is wrong
  // Level 3.
  CheckpointId flushed_;
  std::string flush_dir_;
  std::string flush_trouble_;  // "PATH: cause; next step"
  uint64_t flush_trouble_ns_ = 0;
  bool flush_asked_ = false;     // and not answered
  uint64_t flush_retry_ns_ = 0;  // not asked again before
  uint64_t flush_failures_ = 0;
};

}  // namespace cr::agent
