// SPDX-License-Identifier: MIT
// quick.h - the agent's side of the quick path: when a program may capture itself, and committing
// what it has captured.
// Invariant: between withdraw() and offer() no attempt of the program's counts; checkpoints are
// committed in the order in which they were captured, and after one that failed everything is
// copied anew.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "The quick path".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/address_set.h"
#include "agent/world.h"
#include "format/quick.h"
#include "store/delta.h"
#include "store/model.h"

namespace cr::agent {

class Session;

class QuickPath {
 public:
  explicit QuickPath(Session& session) : s_(session) {}

  // checkpoint() was called, and not by the quick path.
  void asked();
  // Before the stop of an ordinary checkpoint: allocates what may be needed, once.
  void make_room();
  // In the stop, when its segments are known: the control thread shall
  // note what the quick ones must know.
  void prepare(const store::Model& model);
  // An ordinary checkpoint is whole: from now on the program may capture itself, if it is simple
  // enough. map: text of its memory map; status: of /proc/PID/status; both in the stop.
  void offer(const store::Model& model, const std::string& map, const std::string& status);
  // Nothing is captured any more, and what was is committed. To be called before anything that
  // relies on it: a stop, an answer, the end of the program.
  void withdraw();
  // Gives up what was kept for when it is offered again, if it was not.
  void clean_up();
  // Commits what was captured, so many at most; then waits a little for more to come. True: there
  // is more.
  bool serve(size_t most);
  bool waiting() const;
  // So many have become whole.
  uint64_t whole() const { return whole_; }
  // The program may capture itself, and no attempt has been none since it was last offered.
  bool is_open() const;
  // The agent goes to sleep for timeout_ns at most (~0: for ever). So long it may, and who has
  // something for it will wake it, unless it is so short that nobody needs to.
  uint64_t sleep(uint64_t timeout_ns);
  void wake();
  // A control thread has attached.
  void reset();

 private:
  format::QuickHead* head() const;
  bool wanted() const;
  bool is_simple(const store::Model& model) const;
  bool note_ranges(const store::Model& model);
  bool fill_plan(const store::Model& model, const std::string& map, const std::string& status);
  bool fill_files(const store::Model& model);
  void fill_thread(const store::Model& model);
  uint64_t add_path(const std::string& text);
  bool read_slot(uint64_t number, format::QuickSlot* slot);
  uint64_t begin_here(const format::QuickSlot& slot) const;
  Trouble commit(const format::QuickSlot& slot);
  Trouble commit_pages(format::SuperBlock* super);
  Trouble commit_anew(format::SuperBlock* super);
  std::vector<format::Run> all_runs() const;
  bool drops_pages() const;
  void commit_next();
  // True: the program had asked.
  bool help();
  bool looks_same();
  bool map_is_same();
  void note_mappings();
  bool names_are_same() const;
  bool note_journal();
  bool journal_is_same() const;
  void note_arrival();
  static void step_aside(uint32_t cpu);
  void fail(const Trouble& bad);
  void put_away();

  Session& s_;
  uint64_t asked_ns_ = 0;  // when checkpoint() was called the last time, by the ordinary way
  bool often_ = false;
  bool memory_ = false;           // is allocated
  uint64_t failed_attempts_ = 0;  // of marking without a slot: at some number it is given up
  int64_t ahead_ns_ = 0;          // how far the program's clock is ahead of this process's
  uint64_t offered_ns_ = 0, whole_ = 0;
  uint64_t generation_ = 0;
  uint64_t finished_ = 0;  // as QuickHead says; what the program may write to is not read back
  bool ranges_noted_ = false;
  bool broken_ = false;  // a slot could not be committed: those behind it cannot either
  store::Model model_;   // of the newest checkpoint
  std::unique_ptr<store::DeltaWriter> delta_, old_delta_;
  // The slot under way.
  std::vector<format::Run> runs_;  // ascending
  std::vector<store::DeltaPage> pages_;
  std::vector<format::QuickRange> ranges_;  // of both kinds, ascending
  std::vector<format::QuickRange> files_, private_;
  uint64_t private_split_ = ~uint64_t{0};
  size_t paths_used_ = 0;
  struct MappedFile {
    os::Fd fd;
    uint64_t bytes;
    int64_t mtime_ns;
    bool is_same() const;
  };
  // A regular file or directory that the program has open.
  struct NamedFile {
    os::Fd info;       // /proc/PID/fdinfo/N
    char number[12];   // N
    std::string path;  // as the newest image has it
  };
  bool open_mapped(const store::Model& model);
  bool open_names(const store::Model& model);
  uint64_t split_files();
  bool is_plain(const store::Model& model) const;
  std::vector<MappedFile> mapped_;
  // For help().
  std::string map_, map_now_;
  std::vector<format::QuickMapping> mappings_;  // of map_; none: the text is compared
  os::Fd maps_fd_, timers_fd_, pagemap_fd_, tasks_fd_, descriptors_fd_;
  std::vector<NamedFile> names_;
  os::Fd journal_fd_;  // its directory
  std::string journal_log_;
  std::vector<uint8_t> scratch_;
  uint64_t arrived_ns_ = 0, gap_ns_ = ~uint64_t{0};  // the newest slot, and how long since the last
};

}  // namespace cr::agent
