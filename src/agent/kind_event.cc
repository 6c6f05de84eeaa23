// SPDX-License-Identifier: MIT
// kind_event.cc - eventfd, signalfd, pidfd.
// Invariant: as kinds.h. Context: N (agent).
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/kind_event.h"
#include "agent/kinds.h"
#include "agent/tree_files.h"

namespace cr::agent {

// Of two or more a semaphore gives one, a counter all.
bool find_semaphore(int fd, uint64_t count, bool* ret) {
  const auto add = [fd](uint64_t n) { return n == 0 || write(fd, &n, sizeof(n)) == sizeof(n); };
  const auto take = [fd](uint64_t* n) { return read(fd, n, sizeof(*n)) == sizeof(*n); };
  const uint64_t added = count < 2 ? 2 - count : 0;
  uint64_t got = 0;
  if (!add(added) || !take(&got)) return false;
  *ret = got == 1;
  const uint64_t left = count + added - got;
  return left > count ? take(&got) : add(count - left);
}

namespace {

Trouble describe_eventfd(const Program& program, const Descriptor& d, format::FileRecord& f) {
  format::EventfdState s{};
  uint64_t semaphore = 0;
  if (!info_number(d, "eventfd-count", 16, &s.count)) {
    return trouble(Errc::kUnsupported, 0, name_of(d) + ": /proc does not tell its count");
  }
  bool is_semaphore = false;
  if (info_number(d, "eventfd-semaphore", 10, &semaphore)) {
    is_semaphore = semaphore != 0;
  } else {  // before Linux 6.5
    const os::Fd copy = program.copy_of(d.fd);
    if (!copy || !find_semaphore(copy.get(), s.count, &is_semaphore)) {
      return trouble(Errc::kUnsupported, errno,
                     name_of(d) + ": it cannot be found out whether it is a semaphore");
    }
  }
  s.semaphore = is_semaphore ? 1 : 0;
  set_state(program, f, s);
  return {};
}

void make_eventfd(const SavedFile& f, Recipe& recipe) {
  const auto& s = state_of<format::EventfdState>(f);
  recipe.call(f.name, __NR_eventfd2, {0, EFD_CLOEXEC | (s.semaphore != 0 ? EFD_SEMAPHORE : 0)});
}

// By a write, for eventfd() takes 32 bits only. Nobody can have it as its count but ~0 - 1 at most.
void furnish_eventfd(const SavedFile& f, Recipes& recipes) {
  const uint64_t count = state_of<format::EventfdState>(f).count;
  if (count == 0) return;
  recipes.early.call(f.name + ": its count", __NR_write,
                     {f.fd, recipes.early.data(&count, sizeof(count)), sizeof(count)});
}

Trouble describe_signalfd(const Program& program, const Descriptor& d, format::FileRecord& f) {
  format::SignalfdState s{};
  if (!info_number(d, "sigmask", 16, &s.mask)) {
    return trouble(Errc::kUnsupported, 0, name_of(d) + ": /proc does not tell its signals");
  }
  set_state(program, f, s);
  return {};
}

void make_signalfd(const SavedFile& f, Recipe& recipe) {
  const uint64_t mask = state_of<format::SignalfdState>(f).mask;
  recipe.call(f.name, __NR_signalfd4,
              {-1, recipe.data(&mask, sizeof(mask)), sizeof(mask), SFD_CLOEXEC});
}

constexpr uint32_t kPidfdThread = O_EXCL;

// The id of another process of the tree as that sees it; 0: it is none.
pid_t id_in_tree(const Program& program, pid_t id) {
  if (program.others == nullptr) return 0;
  const std::string status = os::read_or_empty(os::task_path(id, id, "status"));
  if (os::innermost_id(status, "Tgid") != id) return 0;
  // Who waits to be waited for has no image, and is made again by its parent.
  const bool zombie = os::status_field(status, "State").starts_with("Z");
  const pid_t parent = os::innermost_id(status, "PPid");
  if (!program.others->has_process(id) && !(zombie && program.others->has_process(parent))) {
    return 0;
  }
  return os::innermost_id(status, "NStgid");
}

Trouble describe_pidfd(const Program& program, const Descriptor& d, format::FileRecord& f) {
  const std::string text = os::status_field(d.info.extra, "Pid");
  const auto id = static_cast<pid_t>(strtol(text.c_str(), nullptr, 10));
  format::PidfdState s{};
  if (id > 0) s.id = program.own_id(id);
  if (id > 0 && s.id == 0) s.id = id_in_tree(program, id);
  const bool ended = text == "-1";
  if (s.id == 0 && !ended) {
    return refuse(d, "a pidfd of a process outside of the session (" + text + ")",
                  "close it before the checkpoint");
  }
  set_state(program, f, s);
  return {};
}

// A process of the agent's namespace: in another one a signal to it is EINVAL instead of ESRCH.
bool is_of_living(const SavedFile& f) { return state_of<format::PidfdState>(f).id != 0; }
bool is_of_ended(const SavedFile& f) { return !is_of_living(f); }

os::Fd make_ended_pidfd(const SavedFile& f) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  if (child < 0) return {};
  os::Fd fd(static_cast<int>(syscall(__NR_pidfd_open, child, f.file.open_flags & kPidfdThread)));
  const int e = errno;
  waitpid(child, nullptr, 0);
  errno = e;
  return fd;
}

void make_pidfd(const SavedFile& f, Recipe& recipe) {
  recipe.call(f.name, __NR_pidfd_open,
              {Recipe::id(state_of<format::PidfdState>(f).id),
               f.file.open_flags & (kPidfdThread | O_NONBLOCK)});
}

}  // namespace

const KindOfFile kEventfdKind = {
    .kind = format::kFileEventfd,
    .link = "anon_inode:[eventfd]",
    .describe = describe_eventfd,
    .make = make_eventfd,
    .furnish = furnish_eventfd,
};
const KindOfFile kSignalfdKind = {
    .kind = format::kFileSignalfd,
    .link = "anon_inode:[signalfd]",
    .describe = describe_signalfd,
    .make = make_signalfd,
};
const KindOfFile kPidfdKind = {
    .kind = format::kFilePidfd,
    .link = "anon_inode:[pidfd]",
    .by_process = is_of_living,
    .describe = describe_pidfd,
    .make = make_pidfd,
    .by_agent = is_of_ended,
    .make_here = make_ended_pidfd,
};

}  // namespace cr::agent
