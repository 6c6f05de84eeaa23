// SPDX-License-Identifier: MIT
// kind_event.cc - eventfd, signalfd, and a pidfd of the process itself.
// Invariant: as kinds.h. Context: N (agent).
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/kind_event.h"
#include "agent/kinds.h"

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

Trouble describe_pidfd(const Program& program, const Descriptor& d, format::FileRecord& f) {
  const std::string text = os::status_field(d.info.extra, "Pid");
  const auto id = static_cast<pid_t>(strtol(text.c_str(), nullptr, 10));
  format::PidfdState s{};
  s.id = id > 0 ? program.own_id(id) : 0;
  if (s.id == 0) {
    return refuse(d, "a pidfd of another process (" + text + ")", "close it before the checkpoint");
  }
  set_state(program, f, s);
  return {};
}

void make_pidfd(const SavedFile& f, Recipe& recipe) {
  recipe.call(f.name, __NR_pidfd_open,
              {Recipe::id(state_of<format::PidfdState>(f).id), f.file.open_flags & kPidfdThread});
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
    .by_process = true,
    .describe = describe_pidfd,
    .make = make_pidfd,
};

}  // namespace cr::agent
