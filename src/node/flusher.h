// SPDX-License-Identifier: MIT
// flusher.h - takes chosen checkpoints of one session to a directory that all nodes share: level 3.
// Invariant: a file gets its final name only when it holds one whole checkpoint, every page of
// which has the checksum that METADATA says; while that is not so, older ones are not removed.
// Context: N; one thread. Its calls block as long as the shared file system does, so that thread
// should not be one that others wait for. Doc: docs/store.md.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "node/flush_file.h"
#include "node/flush_writer.h"
#include "node/retention.h"
#include "node/session_image.h"
#include "store/rate_limit.h"

namespace cr::node {

struct FlushOptions {
  std::string dir;         // absolute; must be there
  uint64_t every = 0;      // when the sequence reaches or passes a multiple of it; 0: not so
  uint64_t period_ns = 0;  // so long after the last one was begun; 0: not so
  bool compress = false;
  Retention keep;
  bool durable = true;
  std::string node;  // this one's name: two nodes do not write the same temporary file
};

struct FlushStatus {
  format::Triple newest{};  // that is whole there, also by an earlier run
  std::string path;         // its file
  uint64_t flushed_ns = 0;  // when; 0: by an earlier run
  uint64_t flushes = 0;
  uint64_t traffic_bytes = 0;  // that were written and read there
  format::Triple current{};    // that is under way
  uint64_t done_bytes = 0, total_bytes = 0;
  std::string trouble;  // "": none; else path, cause, next step
  // The last request that has an answer, and that: "": what was the newest then is whole there;
  // else why it is not (yet).
  uint64_t answered = 0;
  std::string answer;
};

class Flusher {
 public:
  // Touches no file. rate: of all Flushers that share it, nullptr: no bound. kInvalid: an option is
  // wrong.
  static Result<std::unique_ptr<Flusher>> make(FlushedSession session, FlushOptions options,
                                               std::shared_ptr<store::RateLimit> rate,
                                               std::function<void(const std::string&)> log,
                                               std::string* ret_text);

  // The session has a new checkpoint.
  void wake();
  // The newest checkpoint is to be flushed, whether it is a chosen one or not. number: larger than
  // before; see FlushStatus::answered.
  void request(uint64_t number);
  // Nothing is under way, owed or waited with.
  bool is_idle() const { return phase_ == Phase::kIdle && !owed_ && !wanted_; }

  // Does a bounded piece of work, of about 2 MiB. true: there is more that need not wait.
  bool step(uint64_t now_ns);
  // When step() is to be called again; 0: now, ~0: only when woken.
  uint64_t next_ns() const;

  const FlushedSession& session() const { return session_; }
  const FlushStatus& status() const { return status_; }
  // From now on it is chosen so.
  void choose_by(uint64_t every, uint64_t period_ns);
  // Its images may be elsewhere after a restore.
  void move_to(FlushedSession session);

 private:
  enum class Phase {
    kIdle,    // nothing is to be done, or it is waited with it
    kRecall,  // what an earlier writer left is read back
    kCopy,    // pages are written, until one pass was not overtaken
    kTail,    // description and tables are written
    kCommit,  // WRITE_LOCK, barrier, name; then older files are removed
  };
  Flusher(FlushedSession session, FlushOptions options, std::shared_ptr<store::RateLimit> rate,
          std::function<void(const std::string&)> log);

  void choose(uint64_t now_ns);
  bool is_due(const format::Triple& now, uint64_t now_ns);
  void begin(uint64_t now_ns);
  bool begin_look(uint64_t now_ns);
  Result<void> learn();
  Result<void> make_folder();
  Result<void> sync_folder_name();
  bool has_room(uint64_t now_ns);
  Result<void> look();
  void work(uint64_t now_ns);
  void recall(uint64_t now_ns);
  void copy(uint64_t now_ns);
  void end_pass(uint64_t now_ns);
  void look_again(uint64_t now_ns);
  std::vector<uint8_t> describe() const;
  void begin_tail(uint64_t now_ns);
  void write_tail(uint64_t now_ns);
  void commit(uint64_t now_ns);
  void remove_old();
  void end_work();
  void account(uint64_t now_ns);
  void fail(uint64_t now_ns, const std::string& path, const Error& error);
  void give_up(uint64_t now_ns, const std::string& why);
  void abandon(const std::string& why);
  void answer(uint64_t requests, const std::string& text);
  void tell(const std::string& trouble);

  FlushedSession session_;
  FlushOptions options_;
  std::function<void(const std::string&)> log_;
  const std::string folder_, temporary_;
  const std::shared_ptr<store::RateLimit> rate_;
  FlushStatus status_;
  Phase phase_ = Phase::kIdle;
  bool wanted_ = false;             // there is a checkpoint that was not looked at
  bool requested_ = false;          // ... and is to be flushed in any case
  bool owed_ = false;               // a chosen one is not flushed yet
  bool learned_ = false;            // status_.newest is what the directory has
  bool is_folder_durable_ = false;  // its name
  uint64_t requests_ = 0;           // number of the last one
  uint64_t begun_requests_ = 0;     // ... before what is under way was begun
  format::Triple first_{};          // of the epoch that was seen last
  bool has_begun_ = false;
  uint64_t begun_ns_ = 0;  // the last one, successful or under way
  uint64_t poll_ns_ = 0;   // until then a wanted one waits for its time
  uint64_t retry_ns_ = 0;  // until then what failed waits
  unsigned failures_ = 0;  // in a row
  unsigned busy_ = 0;      // looks in a row that came at the wrong moment

  std::unique_ptr<FlushWriter> writer_;
  std::vector<SeenMetadata> seen_;
  store::SlotMap map_;
  std::unique_ptr<SessionImage> image_;
  SlotContent content_;
  uint64_t slot_ = 0;
  bool overtaken_ = false;
  unsigned passes_ = 0;
};

// Another node has flushed a checkpoint of that session, of no earlier epoch, that is younger than
// the newest image in its directory here: who left this one here is not where it went on.
bool was_overtaken(const FlushedSession& session, const FlushOptions& options);

}  // namespace cr::node
