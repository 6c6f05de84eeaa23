// SPDX-License-Identifier: MIT
// restore_plan.h - from an image to the steps that bring the process back.
// Invariant: everything that can be known to fail is found here, before anything is started or any
// file is changed; but for damaged pages, which the restorer may find while it reads them (Verify),
// and even then no instruction of the program is executed and no file is changed.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One restore".
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/path_map.h"
#include "agent/sysv_segment.h"
#include "agent/time_namespace.h"
#include "agent/world.h"
#include "format/file_journal.h"
#include "format/image_reader.h"
#include "format/plan.h"
#include "os/fd.h"
#include "store/buffer.h"

namespace cr::agent {

struct PendingFile {                    // changes to be made when the process exists
  int fd = -1;                          // index into RestorePlan::fds
  bool truncate = false, seek = false;  // by the restorer, when all else is done
  uint64_t bytes = 0;
  std::string path;       // for messages
  std::string proc_path;  // opened below /proc/<pid> then
  uint32_t proc_flags = 0;
  uint64_t position = 0;
};

// What is taken back unless the program is restored.
class Undo {
 public:
  Undo() = default;
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;
  ~Undo() { run(); }
  void run() {
    for (const auto& step : steps_) step();
    steps_.clear();
  }
  void add(std::function<void()> step) { steps_.push_back(std::move(step)); }
  void keep() { steps_.clear(); }

 private:
  std::vector<std::function<void()>> steps_;
};

struct PendingSegment {  // System V, attached here until the program has it
  SysvSegment segment;
  bool fill;        // its content is still to be put back
  uint32_t object;  // of the image
};

struct RestorePlan {
  std::vector<uint8_t> bytes;  // PlanHeader and what it refers to
  std::vector<os::Fd> fds;     // sent in this order
  std::vector<PendingFile> pending;
  std::vector<PendingSegment> segments;
  std::vector<format::PlanObjectChange> object_changes;
  std::vector<std::string> changed_names;  // of those, for messages
  std::vector<uint64_t> sockets_to_fill;   // by the process
  Undo undo;
  std::vector<std::string> call_names;  // of the plan's calls and then of its late ones
  std::string program;                  // executable
  std::vector<std::string> argv, environment;
  std::vector<std::string> warnings;
  bool own_session = false;  // it leads one, with a terminal of its own
  SavedClocks clocks;
  std::set<std::string> put_back_later;  // paths that a restore would put back, and this does not
  std::function<Trouble()> at_take;      // when the process is alone; empty: nothing
  uint64_t eager_bytes = 0, lazy_bytes = 0;  // filled before the program starts, and afterwards
  store::VerifyProgress on_verify;           // in: who is told how far verification is
  format::PlanHeader* header() { return reinterpret_cast<format::PlanHeader*>(bytes.data()); }
};

// Who checks the pages that the plan brings into memory; all others are checked while planning.
enum class Verify {
  kNow,       // the planner, so that a damaged page is found before anything is started
  kWithFill,  // the restorer, as it reads them
};

// Files that the session has changed.
struct FilesPlan {
  format::FilesPolicy policy = format::kFilesKeep;
  bool only_look = false;
  const PathMapper* paths = nullptr;  // where they lie now; nullptr: where they did
  // Of a tree: checks the other processes' pages, before any file is changed.
  std::function<Trouble()> verify_others;
};

class PtyMaker;
class SocketMaker;

// What the processes of a tree share, from plan to plan: the one that is planned first makes it.
struct SharedMakings {
  struct Pipe {
    os::Fd read_end, write_end;
    bool filled = false;
  };
  struct Object {
    os::Fd fd;
    uint64_t bytes = 0;
  };
  std::map<std::pair<uint32_t, uint32_t>, os::Fd> files;  // by member and number of the file
  using Unnamed = std::map<std::pair<uint64_t, uint64_t>, os::Fd>;  // by device and inode
  std::map<uint32_t, Pipe> pipes;
  Unnamed unnamed;
  std::map<std::pair<uint64_t, uint64_t>, Object> objects;  // by device and inode
  std::shared_ptr<SocketMaker> sockets;                     // of all their images
  std::shared_ptr<PtyMaker> ptys;
  std::map<const format::ImageView*, uint32_t> member_of;
  std::set<int32_t> semaphores;      // sets that have their values
  std::map<uint64_t, int> segments;  // System V: the id that it has by the one that it had
};

struct PlanOptions {
  int live_pidfd = -1;  // see open_files()
  Verify verify = Verify::kNow;
  bool lazy = false;  // fill large memory while the program runs, where that is possible
  FilesPlan files;
  SharedMakings* shared = nullptr;  // of a tree
  uint32_t member = 0;              // of the tree
};

// image_dir: for unnamed files that need a place.
Trouble make_restore_plan(const store::LoadedImage& image, const std::string& image_dir,
                          const PlanOptions& options, RestorePlan* ret_plan);

Trouble damaged_page(const store::LoadedImage& image, uint64_t addr, uint64_t slot);

// Opens files of /proc/PID, once process `pid` exists. Part of taking over, not of planning.
Trouble open_proc_files(RestorePlan& plan, pid_t pid);

}  // namespace cr::agent
