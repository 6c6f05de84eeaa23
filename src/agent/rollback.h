// SPDX-License-Identifier: MIT
// rollback.h - restore() in place: the running program goes back to the newest whole checkpoint by
// putting back only what has changed since.
// Invariant: until it is certain that everything can be put back nothing is changed; from then on
// nothing of the program runs before all of it is as it was, and should that fail, or this process
// die, the program is killed. The images are only read.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "restore() in place".
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/rollback_files.h"
#include "agent/rollback_memory.h"
#include "agent/rollback_objects.h"
#include "agent/session.h"
#include "agent/session_files.h"

namespace cr::agent {

class Rollback {
 public:
  enum class Outcome {
    kDone,     // the program runs on from its checkpoint
    kRefused,  // the program runs on unchanged: it must begin anew instead
    kHalf,     // it had to be killed
  };
  explicit Rollback(Session& session) : s_(session) {}
  // text: why not.
  Outcome run(std::string* ret_text);

 private:
  using Calls = std::vector<format::Call>;
  struct Pair {  // a thread that is there then and now, or that is to be made
    const format::ThreadRecord* record;
    pid_t tid = 0;              // here; 0: to be made
    std::vector<uint8_t> rseq;  // what the kernel keeps up to date there
    std::vector<format::SiginfoRecord> pending;
    uint64_t list = 0;  // CallList in the channel
  };

  // Finding out. They return why it cannot be done, or "".
  std::string load();
  std::string find_out();
  std::string check_process_state();
  std::string match_threads();
  std::string plan_signals();
  void plan_process();
  void plan_timers(Calls& first);
  std::string plan_posix_timers();
  std::string plan_mm();
  void plan_thread(Pair& p);
  // Preparing: the last steps that may fail, and taking them back.
  std::string prepare();
  std::string reopen_files();
  void take_back();
  // From here on "" or what went wrong.
  std::string carry_out();
  std::string end_threads();
  std::string put_memory_back();
  std::string join_pieces();
  void resolve_tracking(MemoryChange& change);
  std::string put_files_back();
  std::string furnish();
  std::string make_thread(Pair& p);
  std::string settle_thread(Pair& p);
  std::string give_registers(const Pair& p);
  void put_limits_back();
  void put_schedule_back(const Pair& p);

  // The channel's tables serve as scratch memory that the program sees too.
  uint64_t put(const void* data, uint64_t bytes);
  uint64_t put_calls(const Calls& calls);
  format::CallList* list_at(uint64_t offset) const;
  format::Call* calls_at(uint64_t offset) const;
  uint64_t address(uint64_t offset) const { return channel_address_ + offset; }
  // A recipe's calls, in the channel; their ids are filled in when they are known.
  uint64_t put_recipe(const Recipe& recipe);
  void fill_in_ids(uint64_t list);
  std::string control_calls(uint64_t list);
  std::string thread_calls(Thread& t, uint64_t list);
  Thread* thread(pid_t tid);
  bool set_thread(const Thread& t, user_regs_struct regs, uint64_t sigmask);

  Session& s_;
  std::unique_ptr<World> world_;
  std::unique_ptr<store::LoadedImage> image_;
  os::Fd pagemap_;
  std::vector<os::MapEntry> maps_;
  std::vector<AddressRange> without_;
  std::unique_ptr<MemoryNow> memory_now_;
  MemoryChange memory_;
  FileChange files_;
  JournalState journal_;  // of files that are put back here
  ObjectChange objects_;
  std::vector<Pair> threads_;
  std::vector<pid_t> extra_;  // made since
  pid_t carrier_ = 0;         // makes what only a thread of the program can
  bool carrier_used_ = false;
  uint64_t epoch_ = 0;
  uint64_t channel_address_ = 0, used_ = 0;
  bool full_ = false;
  std::vector<format::SiginfoRecord> shared_pending_;
  std::vector<int32_t> timers_;  // POSIX timers that are to be deleted
  uint64_t flush_ = 0;           // signals of which none shall stay pending, as a mask
  Calls first_, last_;           // for the control thread
  uint64_t list_first_ = 0, list_last_ = 0, list_open_ = 0, list_carrier_ = 0, list_end_ = 0;
  uint64_t list_after_ = 0;
  Recipes recipes_;  // by the carrier, when all descriptors and threads are there
  uint64_t list_early_ = 0, list_late_ = 0;
};

}  // namespace cr::agent
