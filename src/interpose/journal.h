// SPDX-License-Identifier: MIT
// journal.h - what the wrappers of calls that change files do before and after the call.
// Invariant: the program sees no difference: errno, descriptors, locks and results are the C
// library's. Before the first checkpoint nothing happens here.
// Context: N, H. Doc: docs/ARCHITECTURE.md, "Files that the session writes".
#pragma once

#include <dlfcn.h>

#include <atomic>

#include "control/control.h"
#include "os/file_journal.h"

namespace cr::interpose {

struct Step {
  os::At at;
  format::FileTouch touch = format::kTouchNone;
  bool follow = false;
};

// Lives while the call is under way.
class Changing {
 public:
  explicit Changing(const Step& first, const Step& second = {}) {
    if (control::state().files.generation != 0) [[unlikely]]
      begin(first, second);
  }
  Changing(const Changing&) = delete;
  Changing& operator=(const Changing&) = delete;
  ~Changing() {
    if (slot_ >= 0) end();
  }
  // The result of a call that opens, which is given back.
  int opened(int fd) const {
    if (was_ == format::kWasAbsent && fd >= 0) note_new(fd);
    return fd;
  }
  // The result of a call that renames, which is given back.
  int renamed(int result, const Step& from, const Step& to) const {
    const bool directory = was_ == format::kWasDirectory || other_was_ == format::kWasDirectory;
    if (result == 0 && directory) note_move(from, to);
    return result;
  }

 private:
  void begin(const Step& first, const Step& second);
  void end();
  void note_new(int fd) const;
  void note_move(const Step& from, const Step& to) const;
  int slot_ = -1;
  uint32_t tid_ = 0;
  uint32_t was_ = 0, other_was_ = 0;  // at the first and the second place
  uint64_t generation_ = 0;           // in which the change was written down
};

uint64_t generation_now();  // 0: nothing is kept

// Announces the slots to the agent.
void begin_journal();
// In a program that one of the session's executes: goes on with the session's generation.
void join_journal(const char* image_dir);

// The C library's function of that name, or another preloaded library's.
inline void* next_function(std::atomic<void*>& known, const char* name) {
  void* f = known.load(std::memory_order_relaxed);
  if (f == nullptr) [[unlikely]] {
    f = dlsym(RTLD_NEXT, name);
    known.store(f, std::memory_order_relaxed);
  }
  return f;
}

}  // namespace cr::interpose

#define CR_NEXT(name)                                                                       \
  ([]() {                                                                                   \
    static constinit std::atomic<void*> known{nullptr};                                     \
    return reinterpret_cast<decltype(&::name)>(cr::interpose::next_function(known, #name)); \
  }())
