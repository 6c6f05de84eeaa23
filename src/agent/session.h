// SPDX-License-Identifier: MIT
// session.h - one session as its agent sees it: image directory, socket, shared memory, the
// program.
// Invariant: at most one live agent per image directory (a lock); buffers and counters agree with
// what is on disk.
// Context: N (agent).
#pragma once

#include <errno.h>
#include <sched.h>
#include <sys/types.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/describe_files.h"
#include "agent/describe_memory.h"
#include "agent/file_keeper.h"
#include "agent/help_scan.h"
#include "agent/history.h"
#include "agent/interval.h"
#include "agent/overhead.h"
#include "agent/page_tracker.h"
#include "agent/quick.h"
#include "agent/semaphores.h"
#include "agent/tracking.h"
#include "agent/world.h"
#include "format/channel.h"
#include "os/fd.h"
#include "store/buffer.h"

namespace cr::agent {

// A session of the heap alone: its images have no process, and nothing else is looked at.
enum class HeapMode { kNone, kOpen, kCreate, kRead };

struct SessionOptions {
  std::string dir;                 // absolute
  double interval_seconds = 10;    // in force; 0: none
  IntervalPolicy policy;           // how it changes
  bool interval_of_image = false;  // for a restore: both as the image says
  uint64_t staging_bytes = 0;      // 0: half of the available memory at most
  bool durable = true;
  format::Tracker tracking = format::kTrackerUnknown;  // unknown: whichever is best
  HeapMode heap = HeapMode::kNone;
  FilesOptions files;
  std::string restore_env;   // ChannelHeader::restore_env
  uint64_t known_epoch = 0;  // for a restore: the highest one that anybody has seen of the session
};

// In a Trouble: the program has children, and was looked at as one process.
inline constexpr int kHasChildrenErrno = ECHILD;

class Session {
 public:
  // Makes the directory if needed, locks it, listens. `fresh`: a new program starts, so whole
  // images of an interrupted earlier run are moved aside (ret_text says where); otherwise they are
  // kept.
  static Result<std::unique_ptr<Session>> create(const SessionOptions& options, bool fresh,
                                                 std::string* ret_text);
  // Of another process of the tree that `first` is the session of: it has that one's lock, socket
  // and settings, and images in a directory of its own.
  static Result<std::unique_ptr<Session>> create_member(Session& first, const std::string& dir);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const SessionOptions& options() const { return options_; }
  // The program's wish: seconds, or kIntervalAuto.
  void set_interval(double seconds);
  int listen_fd() const { return listen_.get(); }
  int control_fd() const { return control_.get(); }
  bool attached() const { return static_cast<bool>(control_); }
  // Looks whether its connection still is: it goes with an exec.
  bool still_attached();
  // Its end of the connection is closed: an exec, or it has ended.
  bool control_is_gone() const;
  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }

  // In the namespaces of this process a restore would start the program.
  void set_home(pid_t home) { home_ = home; }
  // The program, in this process's pid namespace.
  void set_program(pid_t pid);
  void program_ended();
  bool has_ended() const;
  // A control thread said hello on `connection`. false: not our program.
  bool attach(os::Fd connection, const format::Hello& hello, std::string* ret_text);
  void detach();
  // Ends the control thread if it is the only one left. A program whose last thread ends alone (by
  // the system call exit, which is no exit_group) has come to its end, and ours would keep it.
  void leave_if_last();

  // Sessions of a heap: finds it in the directory's newest image and tells the program where it
  // will lie (channel: heap_base, heap_bytes, ranges) ...
  Trouble open_heap();
  // ... and fills it in, when the program has made room.
  Trouble load_heap();
  // The program gives the session up: its control thread ends.
  void close_heap();

  // Take a checkpoint. ret_report is filled in any case. then: 0 continue, 1 stop, 2 kill.
  // captured: called when the program runs again and all that is left is writing.
  Trouble checkpoint(uint32_t then, const std::function<void()>& captured,
                     format::Report* ret_report);
  // The quick path of checkpoint() (quick.h).
  QuickPath& quick() { return quick_; }
  // What became of the newest checkpoint that was captured; kNotFound: there was none.
  const Trouble& last_captured() const { return last_captured_; }
  // Is told how far a checkpoint is, some ten times a second; {} nobody.
  using ProgressSink =
      std::function<void(format::ProgressPhase phase, uint64_t done, uint64_t total)>;
  void set_progress(ProgressSink sink) { progress_ = std::move(sink); }
  // Run the program's hooks (enum crhook_when) before or after a checkpoint it did not ask for.
  void run_hooks(uint32_t when);
  // Answer API request `id`.
  using Answer = format::Ask;
  void answer(uint64_t id, Answer kind, const Trouble& result);
  // It would come at once: the control thread is there, and has done what it was told.
  bool takes_answers() const;
  // Rises when a control thread attaches: ids of requests are those of one such time.
  uint64_t attachments() const { return attachments_; }
  // What crstatus() and crtop are to show from now on. version: larger when they differ.
  void show_levels(const format::Levels& levels, uint64_t version);
  // A checkpoint has got to level 2 or 3: for the history. window_ns 0: since it was whole.
  void note_level(int level, uint64_t epoch, uint64_t sequence, uint64_t window_ns);
  // restore() in place (rollback.cc). in_place: it was done; else why it could not be, and the
  // program runs on unchanged. An error: it had to be killed.
  Trouble roll_back(bool* ret_in_place);
  // What restore() has to exec.
  bool offer_exec(const std::string& path, const std::string& argv, const std::string& env);

  // After a restore: counters go on from the image.
  void adopt(const store::LoadedImage& image);
  void set_leftover(Leftover l) { leftover_ = l; }
  const uint8_t (&session_id() const)[16] { return session_id_; }
  uint64_t epoch() const { return epoch_; }
  void set_epoch(uint64_t e) { epoch_ = e; }
  uint64_t sequence() const { return sequence_; }
  // That of the checkpoint sequence(): an earlier one until there is one of this life.
  uint64_t newest_epoch() const { return newest_epoch_; }
  // Of a checkpoint's name. Two restores that cannot know of each other may have one epoch; the
  // same attempt they have not.
  uint64_t attempt_number() const { return first_attempt_ + attempts_; }
  int newest_buffer() const { return newest_; }
  void count_rollback() { rollbacks_++; }
  void count_rollback(const std::string& why_not_in_place) {
    rollbacks_++;
    rollback_reason_ = why_not_in_place;
  }
  // Deals with threads that could not be let go when a checkpoint's stop ended. To be called after
  // SIGCHLD, before anybody else waits for the program.
  void finish_stop() {
    if (finish_threads(unfinished_, pid_, &died_status_)) died_ = true;
  }
  // The program's first thread is among those.
  bool holds_leader() const { return std::ranges::count(unfinished_, pid_) != 0; }
  // The wait status if the program ended while a checkpoint held it.
  bool died(int* ret_status) const {
    if (died_) *ret_status = died_status_;
    return died_;
  }
  bool said_goodbye() const { return channel()->exited != 0; }
  // The session's part of what crtop shows.
  void describe(format::Details* ret) const;
  // What is to be said once about the last checkpoint's surroundings, else "".
  std::string take_notice() {
    return notice_.empty() ? files_.take_notice() : std::exchange(notice_, "");
  }
  const FileKeeper& files() const { return files_; }
  // Of all processes of a tree: the first one's.
  FileKeeper& keeper() { return keeper_ != nullptr ? *keeper_ : files_; }
  // Was the newest checkpoint one of several processes?
  bool in_tree() const { return in_tree_; }
  bool frozen() const { return frozen_; }
  void set_frozen(bool f) { frozen_ = f; }

 private:
  friend class Rollback;
  friend class QuickPath;
  friend class Tree;
  explicit Session(SessionOptions o)
      : options_(std::move(o)),
        quick_(*this),
        history_(options_.dir),
        files_(options_.dir, options_.durable) {
    files_.set(options_.files);
  }
  bool lock_directory();
  bool program_is_alive();
  Result<void> lock_and_listen(std::string* ret_text);
  Result<void> make_channel();
  Result<void> move_aside(std::string* ret_text);
  // The memory map when `text` was read.
  struct MapDescription {
    std::string text;
    std::vector<uint64_t> among_processes;
    store::Model model;  // segments and strings
    MemoryPlan plan;
  };
  // What stays as it is while the program is the same, and is read before the stop.
  struct LastingFacts {
    std::string cmdline, environ, auxv, hostname, kernel_release;
  };
  // One checkpoint under way.
  struct Attempt {
    uint32_t then = 0;
    std::unique_ptr<World> world;  // once it is stopped
    uint64_t stop_begin_ns = 0, cpu_at_stop_ns = 0;
    uint64_t lazy_free = 0;
    uint64_t begin_ns = 0;
    MapDescription map;
    std::string status;  // of /proc/PID
    store::Model model;
    format::SuperBlock super{};
    std::vector<format::Run> runs;  // not written yet
    uint64_t copied_pages = 0;      // in the stop
    uint64_t portions_pages = 0;    // written in the stop, because staging was full
    AddressSet without;             // not looked at
    AddressSet free_ranges;         // without a block, left out
    bool free_known = false;
    uint64_t next_staging_page = 0;  // for what is copied behind the program's own pages
    std::optional<format::FilesHead> files_before;  // once it has begun a generation
  };
  Trouble take(uint32_t then, const std::function<void()>& captured);
  // Its steps, and what goes before and behind.
  void begin_checkpoint();
  Trouble before_stop(Attempt& a, bool stands_still);
  // stopped: it stands still already, since it has joined.
  Trouble stop(Attempt& a, std::unique_ptr<World> stopped);
  void let_go(Attempt& a, bool failed);
  void after_stop(const Attempt& a);
  void accept(Attempt& a);
  void tell_full_staging(const Attempt& a);
  // The image was whole, and shall not count: others of the tree have none.
  void revoke(const Attempt& a);
  // Of a process that has ended, for the sake of those that go on.
  Trouble write_ended(Attempt& a, int status);
  void follow(const Session& first);
  void end_checkpoint(const Trouble& result);
  format::Report report_of(const Trouble& result) const;
  Trouble prepare_staging();
  bool set_aside(uint64_t pages);
  void trim_staging(bool failed);
  uint64_t likely_pages() const;
  uint64_t likely_late_pages() const;
  Trouble reserve_staging(bool stands_still);
  bool few_are_expected() const;
  Trouble copy_early(Attempt& a);
  Trouble early_passes(Attempt& a, format::Tracker how, AddressSet* ret_unseen);
  Trouble track_mappings(MapDescription& map);
  Trouble describe_map(pid_t tid, bool stopped, MapDescription& map);
  AddressSet ranges_without_pages() const;
  AddressSet excluded_ranges() const;
  AddressSet heap_ranges() const;
  MemoryReader live_reader() const;
  void prepare(World& world) const;
  Trouble begin_generation(Attempt& a, bool later);
  Trouble capture(World& world, Attempt& a);
  Trouble capture_heap(World& world, Attempt& a);
  void begin_capture();
  void give_ranges(format::RangesGiven what);
  Trouble begin_copy(World& world, Attempt& a, const MemoryPlan& plan);
  Trouble abandon_capture(World& world, const Trouble& why);
  Trouble end_copy(World& world, Attempt& a, const Trouble& worse);
  Trouble write_portion(World& world, Attempt& a);
  Trouble copy_objects(World& world, Attempt& a);
  Trouble stage(Attempt& a, uint64_t addr, const uint8_t* data, uint64_t pages);
  void read_vm_flags(const std::string& map_text);
  void find_free_ranges(const MemoryReader& read, Attempt& a) const;
  Trouble write_image(Attempt& a);
  Trouble write_ranges(const std::vector<format::Range>& ranges);
  const format::Range* answered_ranges() const;
  Trouble read_runs(std::vector<format::Run>* ret) const;
  AddressSet spoiled() const;
  format::Tracker back_end() const;
  bool tracks() const { return back_end() > format::kTrackerEverything; }
  Trouble choose_back_end();
  bool early_pays() const;
  size_t most_ranges() const;
  size_t most_holes() const;
  Trouble append(Attempt& a);
  Trouble open_writer(const format::SuperBlock& super);
  static constexpr uint64_t kCommandTimeoutNs = 600ull * 1000000000;
  // world: the stop in which the command is given; nullptr: the program runs.
  Trouble command(format::CommandKind kind, uint64_t timeout_ns, World* world) {
    begin_command(kind);
    return end_command(timeout_ns, world);
  }
  void begin_command(format::CommandKind kind);
  void keep_apart();
  void let_together();
  void share_processors();
  Trouble end_command(uint64_t timeout_ns, World* world);
  Trouble await_command(bool described_is_enough, uint64_t timeout_ns, World* world);
  // childless: that is known already. ret_status: /proc/PID/status.
  Trouble check_process(bool childless, std::string* ret_status);
  // Asks the control thread, which must be idle.
  Trouble begin_threads(World& world, std::vector<format::ThreadTraitsRecord>* ret_traits,
                        Attempt& a);
  Trouble describe_posix_timers(World& world, store::Model& model);
  void read_lasting();
  Trouble describe_process(World& world, const std::string& status, const MemoryPlan& plan,
                           store::Model& model);
  void publish(const std::string& error);
  static uint64_t agent_cpu_ns();
  void begin_measuring();
  void begin_attempt();
  void end_attempt(const Trouble& result);
  void adapt_interval(bool whole);
  void tell_progress(format::ProgressPhase phase, uint64_t done, uint64_t total);
  void tell_copied();
  void describe_interval(format::SuperBlock* super) const;
  void adopt_interval(const format::ImageView& image);
  format::ScanHelp* scan_help() const {
    return reinterpret_cast<format::ScanHelp*>(channel_map_.data() + scan_off_);
  }
  format::ChannelHeader* channel() const {
    return reinterpret_cast<format::ChannelHeader*>(channel_map_.data());
  }

  SessionOptions options_;
  os::Fd lock_, listen_, control_, channel_fd_, staging_fd_, pidfd_, mem_, pagemap_;
  os::Mapping channel_map_, staging_map_;
  pid_t pid_ = 0, control_tid_ = 0;
  format::Hello hello_{};
  Trouble describe_heap(World& world, const std::vector<os::MapEntry>& maps, store::Model& model,
                        MemoryPlan* ret_plan);

  std::unique_ptr<store::LoadedImage> heap_image_;  // between open_heap and load_heap
  Leftover leftover_;
  uint64_t epoch_ = 1, sequence_ = 0, attempts_ = 0, failures_ = 0;
  uint64_t first_attempt_ = 0;
  uint64_t newest_epoch_ = 0;
  uint64_t rollbacks_ = 0, rollbacks_in_place_ = 0, rollback_ns_ = 0;
  std::string rollback_reason_;  // why the newest one was not in place
  uint64_t image_bytes_ = 0, pause_ns_ = 0, commit_ns_ = 0, realtime_ns_ = 0;
  int newest_ = -1;  // buffer of the newest whole checkpoint, -1 none
  uint8_t session_id_[16] = {};
  store::BufferIndex buffers_[2];
  PageTracker pages_;
  QuickPath quick_;
  uint64_t memory_bytes_ = 0;  // of the newest checkpoint's accessible mappings
  Trouble last_captured_ = trouble(Errc::kNotFound, ENOENT, "no checkpoint was taken yet");
  uint64_t untrackable_bytes_ = 0;   // of mappings that cannot be tracked
  std::vector<os::MapEntry> smaps_;  // as it was when the map had the text smaps_of_
  std::string smaps_of_;
  uint64_t smaps_ns_ = 0, smaps_cost_ns_ = 0;
  bool lasting_known_ = false;
  LastingFacts lasting_;
  pid_t home_ = 0;
  std::string entered_;                // kind of a namespace that is not home_'s
  std::string own_status_, own_root_;  // of this process: they do not change
  uint64_t embedded_bytes_ = 0;        // of mapped files, to be captured whole
  uint64_t staging_kept_pages_ = 0;    // from its beginning, in memory
  uint64_t staged_bytes_ = 0;          // by the checkpoint under way, or the last one
  uint64_t staging_pages_ = 0;         // bound of this checkpoint
  uint64_t early_pages_ = 0;           // of them, used before the stop
  uint64_t last_lazy_free_ = 0;        // lazy_free_count() before the last checkpoint began
  uint64_t last_copied_pages_ = 0;     // by the last checkpoint, early and in the stop
  uint64_t last_found_pages_ = 0;      // by the last early pass
  uint64_t first_found_pages_ = 0;     // by the first one of this checkpoint
  // Copied behind the first early pass of the last checkpoint that had one.
  std::optional<uint64_t> last_late_pages_;
  uint64_t looked_at_pages_ = 0;  // in the program's memory when this checkpoint began
  std::unique_ptr<store::BufferWriter> writer_;
  uint64_t runs_off_ = 0;  // in the channel
  uint64_t vdso_start_ = 0, vdso_end_ = 0;
  SemaphoreUsers semaphore_users_;
  // Those of the control thread, while it is kept off ours, which was this one.
  std::optional<cpu_set_t> control_cpus_;
  int kept_off_ = -1;
  bool may_help_ = true;  // copy pages in the stop
  ScanHelper scan_helper_;
  uint64_t scan_off_ = 0;          // in the channel, 0: it is too small
  uint64_t last_resume_ns_ = 0;    // when the threads were last let go, 0: never
  std::vector<pid_t> unfinished_;  // threads that are still traced by us
  // The attempt under way or the last one (attempt.cc).
  format::HistoryRecord attempt_{};
  Effort effort_;
  uint64_t attempt_begin_ns_ = 0, cpu_begin_ns_ = 0, cpu_in_stop_ns_ = 0;
  uint64_t last_end_ns_ = 0;  // when one had ended, or the program had attached
  uint64_t attachments_ = 0, levels_version_ = 0;
  uint32_t tracker_ = format::kTrackerUnknown;
  ProgressSink progress_;
  format::ProgressPhase told_phase_ = format::kPhaseCopying;
  uint64_t told_ns_ = 0;  // when progress_ was last called
  OverheadMeter meter_;
  IntervalChooser chooser_;
  uint64_t whole_in_row_ = 0;  // checkpoints since the program attached or one failed
  History history_;
  FileKeeper files_;
  FileKeeper* keeper_ = nullptr;  // of the first process
  bool begins_later_ = false;     // another process has begun this checkpoint
  std::string notice_;
  uint64_t told_full_ns_ = 0;  // the longest pause of which was said that staging was full
  bool in_tree_ = false;       // there are other processes
  bool is_member_ = false;     // of another's session
  AmongOthers others_;
  std::vector<uint64_t> among_processes_;  // inodes of memory that several processes share
  uint64_t staging_share_ = 1;             // so many sessions share the memory that there is
  bool died_ = false, frozen_ = false;
  bool failed_before_ = false;  // the last attempt
  bool nested_ = true;          // the program has a pid namespace of its own
  int died_status_ = 0;
};

}  // namespace cr::agent
