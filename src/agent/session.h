// SPDX-License-Identifier: MIT
// session.h - one session as its agent sees it: image directory, socket, shared memory, the
// program.
// Invariant: at most one live agent per image directory (a lock); buffers and counters agree with
// what is on disk.
// Context: N (agent).
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "agent/describe_memory.h"
#include "agent/world.h"
#include "format/channel.h"
#include "os/fd.h"
#include "store/buffer.h"

namespace cr::agent {

// A session of the heap alone: its images have no process, and nothing else is looked at.
enum class HeapMode { kNone, kOpen, kCreate, kRead };

// Which pages a checkpoint copies: those written since the last one where the kernel tells, or all.
enum class TrackMode { kAuto, kAll };

struct SessionOptions {
  std::string dir;               // absolute
  double interval_seconds = 10;  // 0: none; < 0, only for a restore: as the image says
  uint64_t staging_bytes = 0;    // 0: half of the available memory at most
  bool durable = true;
  TrackMode tracking = TrackMode::kAuto;
  HeapMode heap = HeapMode::kNone;
};

class Session {
 public:
  // Makes the directory if needed, locks it, listens. `fresh`: a new program starts, so whole
  // images of an interrupted earlier run are moved aside (ret_text says where); otherwise they are
  // kept.
  static Result<std::unique_ptr<Session>> create(const SessionOptions& options, bool fresh,
                                                 std::string* ret_text);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const SessionOptions& options() const { return options_; }
  void set_interval(double seconds);
  int listen_fd() const { return listen_.get(); }
  int control_fd() const { return control_.get(); }
  bool attached() const { return static_cast<bool>(control_); }
  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }

  // The program, in this process's pid namespace.
  void set_program(pid_t pid);
  void program_ended();
  // A control thread said hello on `connection`. false: not our program.
  bool attach(os::Fd connection, const format::Hello& hello, std::string* ret_text);
  void detach();

  // Sessions of a heap: finds it in the directory's newest image and tells the program where it
  // will lie (channel: heap_base, heap_bytes, ranges) ...
  Trouble open_heap();
  // ... and fills it in, when the program has made room.
  Trouble load_heap();
  // The program gives the session up: its control thread ends.
  void close_heap();

  // Take a checkpoint. ret_report is filled in any case. then: 0 continue, 1 stop, 2 kill.
  Trouble checkpoint(uint32_t then, format::Report* ret_report);
  // Run the program's hooks (enum crhook_when) before or after a checkpoint it did not ask for.
  void run_hooks(uint32_t when);
  // Answer API request `id`.
  void answer(uint64_t id, bool rollback, const Trouble& result);
  // restore() in place (rollback.cc). in_place: it was done; else why it could not be, and the
  // program runs on unchanged. An error: it had to be killed.
  Trouble roll_back(bool* ret_in_place);
  // What restore() has to exec.
  bool offer_exec(const std::string& path, const std::string& argv, const std::string& env);

  // After a restore: counters go on from the image.
  void adopt(const store::LoadedImage& image);
  void set_leftover(Leftover l) { leftover_ = l; }
  uint64_t epoch() const { return epoch_; }
  void set_epoch(uint64_t e) { epoch_ = e; }
  uint64_t sequence() const { return sequence_; }
  int newest_buffer() const { return newest_; }
  void count_rollback() { rollbacks_++; }
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
  bool frozen() const { return frozen_; }
  void set_frozen(bool f) { frozen_ = f; }

 private:
  friend class Rollback;
  explicit Session(SessionOptions o) : options_(std::move(o)) {}
  bool lock_directory();
  bool program_is_alive();
  Result<void> lock_and_listen(std::string* ret_text);
  Result<void> make_channel();
  Result<void> move_aside(std::string* ret_text);
  Trouble copy_pages(World& world, MemoryPlan& plan, store::Model& model, format::SuperBlock* super,
                     std::vector<format::Run>* last_runs);
  Trouble capture(World& world, store::Model& model, format::SuperBlock* super,
                  std::vector<format::Run>* last_runs);
  Trouble prepare_staging(uint64_t* ret_pages);
  // world: the stop in which the command is given; nullptr: the program runs.
  Trouble command(format::CommandKind kind, uint64_t timeout_ns, World* world);
  Trouble append(store::Model& model, uint64_t run_count, std::vector<format::Run>* keep);
  Trouble open_writer(const format::SuperBlock& super);
  Trouble check_process(const World& world) const;
  Trouble describe_process(World& world, const MemoryPlan& plan, store::Model& model);
  void publish(const std::string& error);
  format::ChannelHeader* channel() const {
    return reinterpret_cast<format::ChannelHeader*>(channel_map_.data());
  }

  SessionOptions options_;
  os::Fd lock_, listen_, control_, channel_fd_, staging_fd_, pidfd_, mem_;
  os::Mapping channel_map_, staging_map_;
  pid_t pid_ = 0, control_tid_ = 0;
  format::Hello hello_{};
  Trouble capture_heap(World& world, store::Model& model, const std::vector<os::MapEntry>& maps,
                       MemoryPlan* ret_plan);

  std::unique_ptr<store::LoadedImage> heap_image_;  // between open_heap and load_heap
  Leftover leftover_;
  uint64_t epoch_ = 1, sequence_ = 0, attempts_ = 0, failures_ = 0;
  uint64_t rollbacks_ = 0, rollbacks_in_place_ = 0, rollback_ns_ = 0;
  std::string rollback_reason_;  // why the newest one was not in place
  uint64_t image_bytes_ = 0, pause_ns_ = 0, commit_ns_ = 0, realtime_ns_ = 0;
  int newest_ = -1;  // buffer of the newest whole checkpoint, -1 none
  uint8_t session_id_[16] = {};
  store::BufferIndex buffers_[2];
  // The last checkpoint that was committed: pages since then are tracked.
  bool last_is_basis_ = false;  // false: the next capture takes all pages
  bool has_basis_ = false;      // the capture under way has one
  uint64_t staged_bytes_ = 0;   // by the last capture
  struct {
    std::vector<FreeRange> without;                 // left out of it
    std::vector<format::SegmentRecord> file_parts;  // of these it has the file's own pages only
    uint64_t realtime_ns = 0;
    uint64_t lazy_free = 0;  // lazy_free_count() before it
  } last_, taken_;           // taken_: what is being captured
  void plan_tracking(MemoryPlan& plan, const store::Model& model);
  bool last_has_file_part(const store::Model& model, const format::Range& r) const;
  void note_file_parts(const store::Model& model);
  size_t most_ranges() const;
  std::unique_ptr<store::BufferWriter> writer_;
  uint64_t runs_off_ = 0;  // in the channel
  uint64_t vdso_start_ = 0, vdso_end_ = 0;
  uint64_t last_resume_ns_ = 0;    // when the threads were last let go, 0: never
  std::vector<pid_t> unfinished_;  // threads that are still traced by us
  bool died_ = false, frozen_ = false;
  int died_status_ = 0;
};

}  // namespace cr::agent
