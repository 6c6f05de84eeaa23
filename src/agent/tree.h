// SPDX-License-Identifier: MIT
// tree.h - all processes of a session: the one that was started, those that it and its children
// have made, and one checkpoint of all of them.
// Invariant: a checkpoint counts when the image of the first process is whole, which is written
// last; before that each of the others has one of the same number. While n is being written n-1 is
// touched by nobody.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Process trees".
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/join.h"
#include "agent/session.h"

namespace cr::agent {

class Tree {
 public:
  // first: of the process that was started. serve: takes connections and messages of control
  // threads, waiting for some so many milliseconds.
  Tree(Session& first, std::function<void(int milliseconds)> serve);
  ~Tree();

  // Where the tree hangs: its processes are the descendants of `top`, which is not one of them. 0:
  // there is no such process, and one that outlives its parent is lost.
  void set_top(pid_t top) { top_ = top; }
  // Not of the tree: the process that fills a lazily restored one.
  void set_helper(pid_t pid) { helper_ = pid; }
  // Neither: the child of `top` that starts a private crstored, with all below it.
  void set_apart(pid_t pid) { apart_ = pid; }
  // A process has attached: where the library lies is the same in all.
  void learn(pid_t pid, const format::Hello& hello);
  // The first process has no control thread, and can be given one: its own has given way.
  bool can_join_first() const;
  // As Session::finish_stop(), of the other processes, and of those that were being joined.
  void finish_stop();
  // The first process has ended, with this wait status.
  void first_ended(int status);
  int first_status() const { return first_status_; }

  // Takes a checkpoint of everything; as Session::checkpoint.
  Trouble checkpoint(uint32_t then, const std::function<void()>& captured,
                     format::Report* ret_report);

  // That process wants to join; nothing if it is not one of the tree.
  void welcome(pid_t pid);
  // A control thread has said Hello. False: it is not one of ours.
  bool attach(pid_t pid, os::Fd connection, const format::Hello& hello, std::string* ret_text);
  // A member's session that has a control thread, nullptr: none. Not the first.
  Session* find(pid_t pid);
  std::vector<Session*> others();  // that are attached
  // Some process lives, besides the first.
  bool others_live();
  // Ends all of them, and the first.
  void kill_all();
  void signal_all(int signal) const;

  // Another incarnation begins.
  void clear();
  // After a restore: this member was brought back, as process `pid`.
  Trouble adopt(const format::TreeRecord& record, const store::LoadedImage& image, pid_t pid);
  void adopt_first(const format::TreeRecord& record);

 private:
  struct Member {
    uint32_t number = 0;
    pid_t pid = 0;  // 0: it has ended
    std::unique_ptr<Session> session;
    uint64_t listed_in = 0;  // newest checkpoint that it is part of
  };
  struct Part {  // of a checkpoint under way
    Session* session;
    uint32_t number;
    pid_t pid;
    Session::Attempt attempt;
    bool begun = false, stopped = false, committed = false;
  };
  struct Process {
    pid_t pid, parent;
    bool zombie;
  };

  std::vector<Process> list() const;
  bool alone() const;
  Member* member(pid_t pid);
  Trouble add_member(pid_t pid, Member** ret);
  Session* session_of(pid_t pid, uint32_t* ret_number);
  void forget_ended();
  void remove_directories();
  std::string directory(uint32_t number) const;
  uint32_t highest_directory() const;

  Trouble take(uint32_t then, const std::function<void()>& captured);
  Trouble attempt(uint32_t then, const std::function<void()>& captured, bool* ret_again);
  Trouble join_all(const std::vector<Process>& processes);
  Trouble join(pid_t pid, Joining* ret, bool* ret_again);
  void let_go(pid_t pid, Joining& joining);
  Trouble prepare_all(const std::vector<Process>& processes, uint32_t then);
  bool has_come_to_its_end(pid_t pid);
  Trouble stop_all(uint32_t then, bool* ret_again);
  Trouble stop_one(pid_t pid, uint32_t then, bool* ret_again);
  Trouble join_in_stop(pid_t pid, uint32_t then, bool* ret_again);
  Part& add_part(pid_t pid, uint32_t then);
  void drop_part(pid_t pid);
  Trouble check_shared_tables() const;
  Trouble capture_all();
  void share_memory_facts();
  Trouble describe_tree(std::vector<format::TreeRecord>* ret);
  Trouble commit_all();
  void let_all_go(bool failed);
  void end_all(const Trouble& result);
  Part* part(pid_t pid);

  Session& first_;
  std::function<void(int)> serve_;
  LibraryPlace library_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<std::unique_ptr<Part>> parts_;  // the first process's, if it lives, and all others'
  std::vector<Process> stopped_;              // as found in the stop
  std::vector<pid_t> unfinished_;
  std::unique_ptr<TreeFiles> files_;
  pid_t top_ = 0, helper_ = 0, apart_ = 0;
  bool first_gone_ = false;
  int first_status_ = 0;
  format::TreeRecord first_record_{};  // as it was when it lived
  uint32_t next_number_ = 1;
};

}  // namespace cr::agent
