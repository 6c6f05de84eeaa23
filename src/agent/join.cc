// SPDX-License-Identifier: MIT
// join.cc - see join.h. Invariant: as there. Context: N (agent).
#include "agent/join.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "agent/process_tree.h"
#include "os/fd.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

const os::MapEntry* first_of_file(const std::vector<os::MapEntry>& maps, uint64_t dev,
                                  uint64_t ino) {
  for (const os::MapEntry& m : maps) {
    if (m.ino == ino && m.dev == dev && ino != 0) return &m;
  }
  return nullptr;
}

// tid: a living thread.
std::vector<os::MapEntry> maps_of(pid_t pid, pid_t tid) {
  auto maps = os::parse_maps(os::read_or_empty(os::task_path(pid, tid, "maps")));
  return maps ? *maps : std::vector<os::MapEntry>();
}

}  // namespace

void LibraryPlace::learn(pid_t pid, const format::Hello& hello) {
  hello_ = hello;
  dev_ = ino_ = base_ = 0;
  const auto maps = maps_of(pid, os::living_task(pid));
  for (const os::MapEntry& m : maps) {
    if (hello.join_entry < m.start || hello.join_entry >= m.end || m.ino == 0) continue;
    const os::MapEntry* first = first_of_file(maps, m.dev, m.ino);
    dev_ = m.dev;
    ino_ = m.ino;
    base_ = first->start;
  }
}

bool LibraryPlace::find(pid_t pid, format::Hello* ret) const {
  const pid_t tid = os::living_task(pid);
  const auto maps = maps_of(pid, tid);
  const os::MapEntry* first = first_of_file(maps, dev_, ino_);
  // Restored from the image, because the file is another now: a fork child has it where its parent
  // does.
  const uint64_t by = first != nullptr ? first->start - base_ : 0;
  format::Hello h = hello_;
  for (uint64_t* address : {&h.report_entry, &h.report_stack_top, &h.resume_entry, &h.control_entry,
                            &h.control_stack_top, &h.state, &h.exclusions, &h.calls_entry,
                            &h.join_entry, &h.library_start, &h.library_end}) {
    *address += by;
  }
  auto mem = os::open_file(os::task_path(pid, tid, "mem"), O_RDONLY);
  format::ControlHead head{};
  if (!mem || rawsys::read_all_at(mem->get(), &head, sizeof(head), h.state) != 0) return false;
  *ret = h;
  return head.ready == format::kReadyToJoin;
}

bool is_ending(pid_t pid) {
  const pid_t tid = os::living_task(pid);
  const auto stat = os::read_stat(pid, tid);
  return !stat || stat->state == 'Z' || stat->state == 'X' || maps_of(pid, tid).empty();
}

namespace {

// It may not have got to its constructors yet.
bool is_young(pid_t pid) {
  constexpr double kYoungSeconds = 2;
  return age_of(pid) < kYoungSeconds;
}

Trouble no_library(pid_t pid) {
  if (is_ending(pid)) {
    return trouble(Errc::kCannotStop, EAGAIN, name_of_process(pid) + " is ending; try again");
  }
  return trouble(Errc::kUnsupported, 0,
                 name_of_process(pid) +
                     " has not loaded the checkpoint library: it is a static or setuid program, or "
                     "was started with another environment (LD_PRELOAD, CR_SESSION); checkpoint "
                     "when it has ended");
}

}  // namespace

Trouble join_process(pid_t pid, const LibraryPlace& place, const std::string& session_dir,
                     std::vector<pid_t>& unfinished, Joining* ret, bool* ret_transient) {
  *ret_transient = is_young(pid) || is_ending(pid);
  format::Hello hello{}, now{};
  if (!place.find(pid, &hello)) return no_library(pid);
  auto mem = os::open_file(os::task_path(pid, os::living_task(pid), "mem"), O_RDWR);
  ret->pidfd = os::Fd(static_cast<int>(syscall(__NR_pidfd_open, pid, 0)));
  if (!mem || !ret->pidfd) return no_library(pid);
  ret->mem = std::move(*mem);
  ret->world =
      std::make_unique<World>(pid, 0, hello, ret->pidfd.get(), ret->mem.get(), nullptr, unfinished);
  World& world = *ret->world;
  for (const os::MapEntry& m : maps_of(pid, os::living_task(pid))) {
    if (m.name == "[vdso]") world.set_vdso(m.start, m.end);
  }
  Trouble bad = world.stop();
  if (bad.bad()) {
    *ret_transient = bad.error.code == Errc::kCannotStop;
    return bad;
  }
  *ret_transient = true;
  auto stat = os::read_stat(pid, pid);
  if (stat && share_memory(pid, stat->ppid)) {
    return trouble(Errc::kCannotStop, EAGAIN,
                   name_of_process(pid) + " shares the memory of its parent (vfork)");
  }
  if (!place.find(pid, &now) || now.state != hello.state) {
    return trouble(Errc::kCannotStop, EAGAIN, name_of_process(pid) + " has just called exec");
  }
  const size_t n = std::min(session_dir.size() + 1, sizeof(format::ControlHead::session_dir));
  if (!world.write_memory(hello.state + offsetof(format::ControlHead, session_dir),
                          session_dir.c_str(), n)) {
    return no_library(pid);
  }
  *ret_transient = false;
  return world.join();
}

}  // namespace cr::agent
