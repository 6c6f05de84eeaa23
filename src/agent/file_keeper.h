// SPDX-License-Identifier: MIT
// file_keeper.h - the agent's part in keeping what files were: copies of those that the program has
// open for writing at a checkpoint, and the generations of the journal.
// Invariant: a record says what a file was when the program stood still; what could not be kept is
// told, once. No error here makes a checkpoint fail, but for the journal's own writing.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Files that the session writes".
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "agent/file_journal.h"
#include "format/channel.h"
#include "os/fd.h"
#include "store/model.h"

namespace cr::agent {

struct FilesOptions {
  format::FilesPolicy policy = format::kFilesKeep;
  uint64_t limit_bytes = 64ull << 20;
  // For a restore: as the image says.
  bool of_image = false, limit_of_image = false;
};

format::FilesPolicy policy_of(const format::SuperBlock& super);

class FileKeeper {
 public:
  FileKeeper(std::string image_dir, bool durable) : dir_(std::move(image_dir)), durable_(durable) {}
  void set(const FilesOptions& options) { options_ = options; }
  const FilesOptions& options() const { return options_; }
  // At a restore of that image.
  format::FilesPolicy policy_for(const format::SuperBlock& super) const;
  void adopt(const format::SuperBlock& super);
  void describe(format::SuperBlock* super) const;

  // One checkpoint. While the program runs:
  // Of a tree, one process after the other; another: not the first of them.
  void begin(pid_t pid, pid_t control_tid, bool another = false);
  // It stands still: begins a generation. mem: /proc/PID/mem. ret_before: for not_captured().
  Trouble stopped(pid_t pid, pid_t tid, int mem, uint64_t control_state, bool another,
                  format::FilesHead* ret_before);
  // The checkpoint failed, and it has not run since: it goes on in the generation before.
  void not_captured(int mem, uint64_t control_state, const format::FilesHead& before) const;
  // ... and its descriptors are described.
  void describe_open(pid_t pid, pid_t tid, store::Model& model);
  // It runs again; before the commit.
  Trouble write();
  void committed();
  // The program is what it was at that image, the newest, without having begun anew.
  void rolled_back(const format::SuperBlock& super) const;
  // Of the newest stop's generation, and what of it is of the agent; "": nothing is kept.
  std::string log_path() const;
  uint64_t log_bytes() const { return log_bytes_; }
  // Of a file that was copied at the newest stop; -1: it was not, or its time says nothing.
  int64_t copied_ctime_ns(uint64_t st_dev, uint64_t ino) const;
  // What is to be told once, else "".
  std::string take_notice();

 private:
  struct Stamp {
    uint64_t bytes = 0;
    int64_t mtime_ns = 0, ctime_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  struct Copy {
    Stamp stamp;
    uint64_t generation = 0, number = 0;
    bool settled = false;  // any later change would have another time
    uint64_t cost = 0;     // bytes that the file system had to store
    int error = 0;         // why there is none
  };
  struct Open {
    int fd = -1;  // one of the program's
    std::string path;
    bool only_appends = true;
  };
  void look_at_slots(pid_t pid, pid_t tid, int mem, format::FilesHead& head);
  void tell_left_out(const format::FilesHead& head);
  const Copy& up_to_date(const std::string& source, const FileId& id, const Stamp& now,
                         bool stopped);
  Copy copy_anew(const std::string& source, const FileId& id, const Stamp& now,
                 uint64_t generation);
  bool bring_up_to_date(const std::string& source, const FileId& id, const Stamp& now, Copy& c);
  bool settles(const FileId& id, const Stamp& now) const;
  void note_mapped(uint64_t ino);
  bool is_kept(const std::string& path) const;
  void add_record(const std::string& path, const struct statx& st, const Copy& copy);
  void write_state(const format::FilesHead& head) const;
  format::FilesHead head_of(uint64_t generation) const;
  bool on() const { return options_.policy != format::kFilesKeep; }

  const std::string dir_;
  const bool durable_;
  std::string real_dir_;  // as the kernel names what is in it
  FilesOptions options_;
  uint64_t generation_ = 0;      // of the newest stop
  uint64_t last_committed_ = 0;  // of the newest whole checkpoint
  uint64_t spent_ = 0, numbers_ = 0;
  bool several_ = false;  // processes, in this checkpoint
  std::map<FileId, Copy> copies_;
  std::set<uint64_t> mapped_;  // inodes: shared and writable, in this checkpoint
  std::string records_;        // of this generation, to be written
  uint64_t log_bytes_ = 0;
  std::set<std::string> unsynced_, told_;
  std::string notice_;
};

}  // namespace cr::agent
