// SPDX-License-Identifier: MIT
// protector.h - the session's connection to its node's crstored: tells it of each checkpoint, and
// hears how far that has got.
// Invariant: nobody waits for crstored, and no checkpoint fails for it.
// Context: N (agent). Doc: docs/store.md.
#pragma once

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>

#include "node/client.h"

namespace cr::agent {

struct ProtectOptions {
  std::string spec;    // --protect; "": not at all
  std::string name;    // of the session, for people
  std::string socket;  // crstored's
  // Which checkpoints are flushed (level 3); both 0: those that crstored was told to.
  uint64_t flush_every = 0, flush_interval_ns = 0;

  bool has_flush() const { return flush_every != 0 || flush_interval_ns != 0; }
};

class Protector {
 public:
  using Say = std::function<void(const std::string&)>;
  Protector(ProtectOptions options, Say say) : options_(std::move(options)), say_(std::move(say)) {}

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

  // The newest checkpoint that survives the loss of this node; 0: none.
  uint64_t safe_sequence() const { return safe_sequence_; }
  // The newest one that is flushed to a shared file system; 0: none.
  uint64_t flushed_sequence() const { return flushed_sequence_; }
  // "2 of 3 parts; b: the node cannot be reached"; "" if nothing is wrong.
  const std::string& trouble() const { return trouble_; }
  // The same of flushing: "PATH: cause; next step".
  const std::string& flush_trouble() const { return flush_trouble_; }

 private:
  void connect();
  void fail(const std::string& why);
  void on_flushed(const node::Json& event);

  ProtectOptions options_;
  Say say_;
  std::string dir_, session_;
  std::unique_ptr<node::Client> client_;
  uint64_t told_epoch_ = 0, told_sequence_ = 0;
  uint64_t retry_ns_ = 0;
  uint64_t safe_sequence_ = 0, flushed_sequence_ = 0;
  bool accepted_ = false;
  std::string trouble_, flush_trouble_;
};

}  // namespace cr::agent
