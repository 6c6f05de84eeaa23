// SPDX-License-Identifier: MIT
// flush_file.h - the flushed checkpoints of sessions in a directory that all nodes share: their
// names, finding them, and reading them back.
// Invariant: what is given out of a file has the checksums that the file says; an image that is
// made of it also those that METADATA says.
// Context: N; may block as long as the shared file system does. Doc: docs/format/flush.md.
//
//   DIR/NAME-IDENTITY/EPOCH.SEQUENCE.flush    a whole checkpoint
//   DIR/NAME-IDENTITY/NODE.new                one that this node is writing
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string>
#include <vector>

#include "format/flush_reader.h"
#include "node/image_maker.h"
#include "node/part_store.h"
#include "os/fd.h"
#include "store/protection.h"

namespace cr::node {

// A session that is flushed. dir: its image directory, absolute. protection: how it is kept
// besides; a flushed file says so, and whoever brings the session back goes on like that. uid:
// whose it is.
struct FlushedSession {
  SessionId id{};
  std::string name;
  std::string dir;
  store::Protection protection;
  uint32_t uid = 0;
};

// Names within DIR. Characters of names that a path should not have are replaced. folder_of(): of
// such a file.
std::string flush_directory(const std::string& dir, const std::string& name, const SessionId& id);
std::string folder_of(const std::string& path);
std::string flush_name(const format::Triple& triple);
std::string flush_temporary(const std::string& node);

// Whom this user trusts to own files in the directory that `path` is in: itself, root; and root,
// whom a server may take for somebody else (root_squash), whoever owns DIR.
bool is_trusted_owner(const std::string& dir, uid_t owner);
// DIR/FOLDER/FILE, which nobody else can have written: a regular file of a trusted owner, which
// others may not write. flags: O_RDONLY, O_RDWR. kPermission, kForeign, kSystem.
Result<os::Fd> open_trusted(const std::string& path, int flags, struct stat* ret_stat);
// Bytes at an offset; kDamaged: the file ends before.
Result<void> read_at(int fd, void* to, uint64_t bytes, uint64_t off);
// The pages of a frame whose head was read, into `pages`. stored: behind the head.
Result<void> decode_frame(const format::FlushFrame& frame, const uint8_t* stored, uint8_t* pages);

// A whole flushed file, opened for reading.
class FlushFile : public SlotSource {
 public:
  static Result<std::unique_ptr<FlushFile>> open(const std::string& path);

  const format::FlushHeader& header() const { return header_; }
  // next() reads also frames that do not count any more, so that every byte of the file is checked.
  void read_all() { read_all_ = true; }
  uint64_t slots() const override { return header_.slots; }
  const format::DescriptionView& description() const override { return tail_.description; }
  Result<void> read(uint64_t slot, uint8_t* page, std::string* ret_text) override;
  Result<std::vector<SlotPages>> next(std::string* ret_text) override;

 private:
  Result<void> load(uint64_t number);
  Result<void> live_pages(std::vector<SlotPages>* ret, std::string* ret_text);

  os::Fd fd_;
  format::FlushHeader header_{};
  std::vector<uint64_t> tail_bytes_;  // aligned
  format::FlushTail tail_;
  std::vector<uint32_t> live_;  // by frame: how many of its pages count
  std::vector<uint8_t> stored_, pages_;
  format::FlushFrame frame_{};
  uint64_t loaded_ = ~uint64_t{0};  // the number of the frame in pages_
  uint64_t next_ = 0;
  uint64_t named_ = 0, delivered_ = 0;  // slots that are in a frame
  bool read_all_ = false;
};

struct FlushedFile {
  std::string path, name;
  std::string node;  // that wrote it
  SessionId id{};
  format::Triple triple{};
  uint64_t realtime_ns = 0, image_bytes = 0, file_bytes = 0;
  uint32_t uid = 0;
  store::Protection protection;
  bool compressed = false;
};
// Whole as far as its header says.
Result<FlushedFile> read_flushed(const std::string& path);
// Those of all sessions, by name and session, newest first. ret_bad, if not nullptr, gets a line
// for each file and folder that cannot be read; it begins with the path.
std::vector<FlushedFile> list_flushed(const std::string& dir,
                                      std::vector<std::string>* ret_bad = nullptr);
// The same of one session's folder.
std::vector<FlushedFile> list_folder(const std::string& folder, std::vector<std::string>* ret_bad);
// Removes those of the session in that folder, what nodes have left unfinished, and the folder if
// nothing else is in it; how many files that were.
Result<unsigned> remove_flushed(const std::string& folder, const SessionId& id,
                                std::string* ret_text);
// Removes what nodes have begun to write of the session in epochs before that one.
void remove_stale(const std::string& folder, const SessionId& id, uint64_t epoch);

// Reads every byte, and compares every page with METADATA. The text names the file, the cause and
// the next step. wanted: as of WantedSource.
Result<FlushedFile> verify_flush(const std::string& path, std::string* ret_text,
                                 const OnMakeProgress& progress = {},
                                 const std::function<bool()>& wanted = {});
// An error with a flushed file for people: the path, the cause, the next step.
std::string explain_flush(const std::string& path, const Error& error,
                          const std::string& what = "");

// What a node was writing when its crstored ended. Not what another one is writing now.
struct UnfinishedFlush {
  std::string path;
  FlushedSession session;
};
std::vector<UnfinishedFlush> unfinished_flushes(const std::string& dir, const std::string& node);

}  // namespace cr::node
