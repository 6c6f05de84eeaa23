// SPDX-License-Identifier: MIT
// supervisor.h - the agent's loop: timer, requests, signals, the program's end, restarts.
// Invariant: single-threaded; ptrace is only used from here.
// Context: N (agent).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/launch.h"
#include "agent/level_waits.h"
#include "agent/outer_terminal.h"
#include "agent/path_map.h"
#include "agent/protector.h"
#include "agent/restore_session.h"
#include "agent/session.h"
#include "agent/tree.h"

namespace cr::agent {

struct SupervisorOptions {
  std::string tool;  // name in messages
  StartOptions start;
  Ids ids = Ids::kAuto;
  bool restart_on_failure = false;
  bool lazy = false;      // restores fill large memory while the program runs
  bool own_child = true;  // false: the program is somebody else's child (cragent)
  bool forward_signals = true;
  PathMapper paths;  // of a restore: where files lie now
  ProtectOptions protect;
  Session::ProgressSink progress;  // is told how far a restore is; {}: nobody
  std::function<void()> progress_ends;
};

class Supervisor {
 public:
  Supervisor(Session& session, SupervisorOptions options);
  ~Supervisor();

  // Serve until the program has ended. Returns its wait status.
  int run(Launched launched);

  // Restore the newest whole checkpoint (or `sequence` if not 0) and start it. On success call
  // run().
  Trouble restore(uint64_t sequence, Launched* ret);

  // Did a signal end the program that was not asked for through us?
  bool wants_restart() const;

  // What restore() has begun.
  uint64_t eager_bytes() const;
  uint64_t lazy_bytes() const;
  std::string clock_words(pid_t pid) const;

  // Says something once.
  void say(const std::string& text);

 private:
  struct Client {
    os::Fd fd;
    bool is_control = false;
    bool fills = false;     // the process that is restored, then the one that fills it lazily
    pid_t restores = 0;     // that process, until it runs
    bool waits = false;     // asks for a checkpoint, while the program is being restored
    bool stranger = false;  // another user's process
  };
  void accept_clients();
  void serve_client(size_t i);
  void serve_control(Session& session);
  void serve_for(int milliseconds);
  bool serve_quick(size_t most);
  void on_hello(size_t i, const format::Hello& hello);
  void on_take(size_t i);
  void on_ask(int fd, const format::Request& q);
  void on_rollback(Session& session, uint64_t id);
  Trouble take(uint32_t then, bool asked_by_program, const std::function<void()>& captured,
               format::Report* ret);
  void tell_delay(uint64_t took_ns);
  void on_checkpoint(Session& session, uint64_t id);
  void on_signals();
  void on_timer();
  void on_wait(Session& session, uint64_t id, format::Ask kind);
  uint64_t follow_levels();
  void look_for_last_threads();
  bool reap();
  void note_death();
  void tell_filled();
  void on_ask_details(int fd);
  void read_namespace_status();
  bool stays_stopped() const;
  void stop_like_program();
  Trouble prepare(uint64_t sequence, int live_pidfd);
  Trouble launch_others(Launched* ret);
  void note_home(const Launched& launched);
  Returning* returning(pid_t pid) const;
  bool all_are_here() const;
  Trouble finish_all();
  Trouble let_in(Returning& r);
  void give_up_restoring();
  void reap_orphans();
  bool finished();
  void after_end(int status);
  void on_filler_end();
  void wait_until_filled();
  bool several_live();
  std::string describe_failure(pid_t pid, const format::Report& report);
  void roll_back_tree(Session& session, uint64_t id);

  Session& session_;
  SupervisorOptions options_;
  OuterTerminal terminal_;
  Protector protector_;
  LevelWaits level_waits_;
  CheckpointId noted_safe_, noted_flushed_;  // in the history
  Launched launched_;
  os::Fd signals_;
  std::vector<Client> clients_;
  Tree tree_;
  bool restoring_ = false, rollback_wanted_ = false;
  std::unique_ptr<store::LoadedImage> filling_image_;  // of what is filled lazily
  ReturningSession returning_;
  // Lazily: pages are still to come; all have come; they won't, and the program was killed.
  pid_t filler_pid_ = 0;  // our child, to be waited for
  bool filling_ = false, filled_ = false, fill_failed_ = false;
  bool newest_wanted_ = true;  // and not one by its number
  int taking_ = -1;            // index of the client that restores
  bool ended_ = false, killed_by_us_ = false, warned_unattached_ = false;
  bool program_gone_ = false;
  int status_ = 0;
  double told_delay_ = 0;  // seconds
  uint64_t next_ns_ = 0, started_ns_ = 0;
  uint64_t look_ns_ = 0;  // look_for_last_threads()
  std::string last_said_;
};

// 128+N or the exit status.
int exit_status_of(int wait_status);

// ". The other buffer holds ..." if it is whole, else "".
std::string name_other_buffer(const std::string& dir, int index);

// Of a process of a tree, besides the first: the image that belongs to the chosen one of that.
Trouble choose_member(const std::string& dir, const format::SuperBlock& first,
                      const format::TreeRecord& record,
                      std::unique_ptr<store::LoadedImage>* ret_image);
// Where the images of such a process are.
std::string member_directory(const std::string& dir, uint32_t member);
// An image that is one process's of a tree alone is not to be restored.
Trouble check_is_first(const format::ImageView& image, const std::string& dir);

// Chooses the image to restore; words on failure. `sequence` 0: the newest whole one.
Trouble choose_image(const std::string& dir, uint64_t sequence,
                     std::unique_ptr<store::LoadedImage>* ret_image);

}  // namespace cr::agent
