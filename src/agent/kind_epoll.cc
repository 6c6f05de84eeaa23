// SPDX-License-Identifier: MIT
// kind_epoll.cc - epoll instances and what they watch.
// Invariant: as kinds.h. An edge that the program was told of may be told once more, never less:
// the kernel does not say which edges are still to be reported.
// Context: N (agent).
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>

#include "agent/kinds.h"

namespace cr::agent {
namespace {

constexpr uint32_t kHow = EPOLLONESHOT | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE;

// An entry is of an open file, under the number that it had when it was added. nth: of the entries
// with that number. 0: it has it still; else as kcmp(2), or -errno.
long compare(const Program& program, int epoll, uint32_t tfd, uint32_t nth, int fd) {
  const kcmp_epoll_slot slot{static_cast<uint32_t>(epoll), tfd, nth};
  const long r = syscall(__NR_kcmp, program.tid, program.tid, KCMP_EPOLL_TFD, fd, &slot);
  return r < 0 ? -errno : r;
}

Trouble check_entry(const Program& program, const Descriptor& d, int fd, uint32_t nth) {
  const auto tfd = static_cast<uint32_t>(fd);
  const long r = compare(program, d.fd, tfd, nth, fd);
  if (r == 0) return {};
  const std::string what = name_of(d) + ": it watches ";
  if (r < 0 && r != -EBADF) {
    return trouble(
        Errc::kUnsupported, static_cast<int>(-r),
        what + "fd " + std::to_string(fd) +
            ", of which kcmp(2) does not tell the file: " + strerror(static_cast<int>(-r)));
  }
  std::string open_as = "another process has it open";
  for (const Descriptor& o : program.all) {
    if (compare(program, d.fd, tfd, nth, o.fd) == 0) open_as = "it is still open as " + name_of(o);
  }
  return trouble(Errc::kUnsupported, 0,
                 what + "a file whose descriptor " + std::to_string(fd) +
                     " was closed or used again, but " + open_as +
                     ": that cannot be saved; take it out of the set (EPOLL_CTL_DEL) before its "
                     "descriptor is closed");
}

Trouble describe_epoll(const Program& program, const Descriptor& d, format::FileRecord& f) {
  std::vector<format::EpollEntry> entries;
  std::map<int, uint32_t> count;
  const std::string& text = d.info.extra;
  for (size_t at = text.find("\ntfd:"); at != std::string::npos; at = text.find("\ntfd:", at + 1)) {
    format::EpollEntry e{};
    unsigned long long data = 0;
    if (sscanf(text.c_str() + at + 1, "tfd: %d events: %x data: %llx", &e.fd, &e.events, &data) !=
        3) {
      return trouble(Errc::kUnsupported, 0, name_of(d) + ": /proc does not tell what it watches");
    }
    e.data = data;
    Trouble bad = check_entry(program, d, e.fd, count[e.fd]++);
    if (bad.bad()) return bad;
    entries.push_back(e);
  }
  f.content = program.model.add_blob(entries.data(), entries.size() * sizeof(entries[0]));
  return {};
}

void make_epoll(const SavedFile& f, Recipe& recipe) {
  recipe.call(f.name, __NR_epoll_create1, {EPOLL_CLOEXEC});
}

// Those that have fired and are disarmed first, while the set reports nothing else.
void furnish_epoll(const SavedFile& f, Recipes& recipes) {
  const auto entries = f.image.states<format::EpollEntry>(f.file.content);
  const auto what = [&](const format::EpollEntry& e) {
    return f.name + ": watching fd " + std::to_string(e.fd);
  };
  for (const format::EpollEntry& e : entries) {
    if ((e.events & ~kHow) != 0) continue;
    recipes.early.call(what(e), format::kCallAddDisarmed, {f.fd, e.fd, e.events, e.data});
  }
  for (const format::EpollEntry& e : entries) {
    if ((e.events & ~kHow) == 0) continue;
    epoll_event event{};
    event.events = e.events;
    event.data.u64 = e.data;
    recipes.early.call(what(e), __NR_epoll_ctl,
                       {f.fd, EPOLL_CTL_ADD, e.fd, recipes.early.data(&event, sizeof(event))});
  }
}

}  // namespace

const KindOfFile kEpollKind = {
    .kind = format::kFileEpoll,
    .link = "anon_inode:[eventpoll]",
    .last = true,
    .describe = describe_epoll,
    .make = make_epoll,
    .furnish = furnish_epoll,
};

}  // namespace cr::agent
