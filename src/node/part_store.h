// SPDX-License-Identifier: MIT
// part_store.h - the parts that this node keeps, of its own sessions and of its neighbours', and
// taking in new ones.
// Invariant: what is told of the store is read from the parts themselves, so nothing is lost with
// this process; a part counts when its WRITE_LOCK does (part_file.h).
// Context: N; a PartStore from several threads, everything else from one. Doc: docs/store.md.
//
//   STORE/sessions/SESSION-ID/part.HOLDER.BUFFER
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "format/node_messages.h"
#include "node/part_listing.h"
#include "node/removed.h"
#include "store/part_file.h"

namespace cr::node {

using SessionId = std::array<uint8_t, 16>;
// PartEntry::layout.
uint64_t layout_of(std::span<const uint8_t> description, size_t holders);
SessionId session_id_of(const uint8_t (&bytes)[16]);
std::string to_hex(const SessionId& id);
// false: not 32 hexadecimal digits.
bool from_hex(const std::string& text, SessionId* ret);

bool operator==(const format::Triple& a, const format::Triple& b);
inline bool is_none(const format::Triple& t) { return t == format::Triple{}; }
// By epoch, then sequence, then attempt.
bool is_newer(const format::Triple& a, const format::Triple& b);

class PartStore {
 public:
  // Makes the directories if they are not there. The text names the object and the next step.
  static Result<std::unique_ptr<PartStore>> open(const std::string& dir, bool durable,
                                                 std::string* ret_text);

  const std::string& dir() const { return dir_; }
  bool durable() const { return durable_; }
  std::string session_dir(const SessionId& id) const;

  // All whole parts, or those of one session, in the order of session, holder, triple. Files that
  // are no whole parts are left out; ret_bad, if not nullptr, gets a line for each that is neither
  // whole nor being written.
  // wanted: may be empty; when it is false the rest is left out.
  std::vector<format::PartEntry> list(const SessionId* only = nullptr,
                                      std::vector<std::string>* ret_bad = nullptr,
                                      const std::function<bool()>& wanted = {}) const;
  // kNotFound: not here.
  Result<std::unique_ptr<store::LoadedPart>> load(const SessionId& id, unsigned holder,
                                                  const format::Triple& triple,
                                                  uint64_t layout) const;
  // Names of the holders, by number, as the newest part says that is here; none: there is no part.
  std::vector<std::string> holders_of(const SessionId& id) const;
  // Where the session's own images are, on this node; "" if that is not known.
  Result<void> note_source(const SessionId& id, const std::string& dir);
  std::string source_of(const SessionId& id) const;
  // Removes everything of the session, and notes that; how many files that were. kPermission: it is
  // another user's (uid 0 may).
  Result<unsigned> remove(const SessionId& id, uint32_t uid);
  // Removes that holder's part, both buffers, as far as it is not newer and not being taken in; how
  // many files that were (drop_parts.cc).
  Result<unsigned> drop(const SessionId& id, unsigned holder, const format::Triple& newest);
  // Where only one buffer has a part, the other gets the same: so that the next checkpoint need not
  // bring all of it over while the session waits for its safety (prepare_part.cc). Nothing happens
  // to a part that is being taken in, or whose buffers both have something.
  Result<void> prepare_other(const SessionId& id, unsigned holder);
  // What was removed; see removed.h.
  RemovedSessions& removed() { return removed_; }
  // What was wrong when the store was opened, "" nothing.
  const std::string& trouble() const { return trouble_; }
  // prepare_other() comes to its end soon, having done nothing. Any thread.
  void leave() { leaving_ = true; }

 private:
  friend class PartReceiver;
  PartStore(std::string dir, bool durable)
      : dir_(std::move(dir)), durable_(durable), removed_(dir_, durable, &trouble_) {}
  Result<void> make_session(const SessionId& id);
  Result<void> copy_to_other(const SessionId& id, unsigned holder);
  Result<unsigned> drop_files(const SessionId& id, unsigned holder, const format::Triple& newest);
  // false: the part is being taken in already.
  bool begin_part(const SessionId& id, unsigned holder);
  void end_part(const SessionId& id, unsigned holder);
  // Into which buffer a part was taken in last; 0 if none was since this store was opened.
  int newest_buffer(const SessionId& id, unsigned holder) const;
  void note_buffer(const SessionId& id, unsigned holder, int buffer);
  // Until it is written over it is no base any more, so that the next transfer brings all.
  void note_bad_buffer(const SessionId& id, unsigned holder, int buffer);
  bool is_bad_buffer(const SessionId& id, unsigned holder, int buffer) const;

  std::string dir_, trouble_;
  bool durable_;
  RemovedSessions removed_;
  mutable PartListing listing_;
  std::atomic<bool> leaving_ = false;
  mutable std::mutex mutex_;                       // of what follows
  std::set<SessionId> synced_;                     // whose files' names are durable
  std::set<std::pair<SessionId, unsigned>> busy_;  // parts that are being taken in
  std::map<std::pair<SessionId, unsigned>, int> newest_buffers_;
  // Buffers that could not be read when they were to be a base.
  std::set<std::pair<std::pair<SessionId, unsigned>, int>> bad_buffers_;
};

// The parts that were read last, so that whoever reads one from beginning to end loads it once. Any
// thread.
class PartCache {
 public:
  using Part = std::shared_ptr<const store::LoadedPart>;
  // As PartStore::load().
  Result<Part> load(const PartStore& store, const SessionId& id, unsigned holder,
                    const format::Triple& triple, uint64_t layout);
  // Lets go what was not used since then; CLOCK_MONOTONIC in nanoseconds.
  void forget_before(uint64_t ns);

 private:
  static constexpr size_t kMost = 2;
  struct Entry {
    std::pair<SessionId, unsigned> key;
    uint64_t layout, used_ns;
    Part part;
  };
  std::mutex mutex_;
  std::vector<Entry> entries_;  // the newest use last
};

// Rows [first, first + count), which the part has, each good. On kDamaged *ret_row is the first
// that is not.
Result<void> read_current_rows(const store::LoadedPart& part, uint64_t first, uint64_t count,
                               uint8_t* ret, uint64_t* ret_row);

// The digest that such a chunk is sealed with (BlockSeal::xxh3). Of a chunk of rows it is that of
// the RowRecords, because these have a checksum of each page.
uint64_t chunk_digest(const format::PartChunk& chunk, std::span<const uint8_t> data);
// Whether the pages are what the RowRecords say. kDamaged: they are not, or a rule is broken.
Result<void> verify_rows(std::span<const uint8_t> chunk, uint32_t rows);

// Takes in one checkpoint's part.
class PartReceiver {
 public:
  // The store must stay. kBusy: this part is being taken in already; kPermission: the session is
  // another user's; kDamaged: the offer is impossible; kNoMemory: it has more rows than this
  // machine's memory can account for.
  static Result<std::unique_ptr<PartReceiver>> begin(PartStore& store,
                                                     const format::PartOffer& offer);
  ~PartReceiver();
  PartReceiver(const PartReceiver&) = delete;
  PartReceiver& operator=(const PartReceiver&) = delete;
  bool has_base() const { return base_ != nullptr; }

  // A chunk (node_messages.h) of so many rows, in memory that must not change until finish_rows().
  // kDamaged: it breaks a rule. After an error the transfer is over.
  Result<void> add_rows(std::span<const uint8_t> chunk, uint32_t rows);
  // Before the next add_rows().
  Result<void> finish_rows();
  // A chunk that came from another node: it is compared with its checksums, and added. The memory
  // may change again afterwards.
  Result<void> take_in(const format::PartChunk& chunk, std::span<const uint8_t> bytes);
  Result<void> add_description(uint64_t off, std::span<const uint8_t> bytes);
  // Afterwards nothing more may be added.
  Result<void> commit(const format::PartCommit& commit);
  uint64_t bytes_written() const { return writer_->bytes_written(); }
  uint64_t rows_taken() const { return rows_taken_; }  // of all chunks

 private:
  PartReceiver(PartStore& store, const format::PartOffer& offer);
  SessionId id() const { return session_id_of(offer_.session_id); }
  format::PartHeader header() const;
  Result<int> choose_buffer(store::PartState (&old)[2]);
  void release();

  PartStore& store_;
  format::PartOffer offer_;
  bool released_ = false;   // others may take the part in
  int buffer_ = 0;          // that is written
  uint64_t most_rows_ = 0;  // of chunks and of the commit
  uint64_t rows_taken_ = 0;
  std::unique_ptr<store::LoadedPart> base_;
  std::unique_ptr<store::PartWriter> writer_;
  bool writing_ = false;  // rows that finish_rows() was not called for yet
  std::vector<uint8_t> description_;
};

}  // namespace cr::node
