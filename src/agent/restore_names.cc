// SPDX-License-Identifier: MIT
// restore_names.cc - see restore_sockets.h: addresses, and connections of UNIX sockets.
// Invariant: as there; a path at which somebody listens is never taken away.
// Context: N (agent).
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "agent/left_over.h"
#include "agent/restore_sockets.h"
#include "agent/socket_diag.h"

namespace cr::agent {
namespace {

// Relative names are relative to where the program was.
class InDirectory {
 public:
  explicit InDirectory(const std::string& dir)
      : before_(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)), ok_(chdir(dir.c_str()) == 0) {}
  InDirectory(const InDirectory&) = delete;
  InDirectory& operator=(const InDirectory&) = delete;
  ~InDirectory() {
    if (before_ && fchdir(before_.get()) != 0) ok_ = false;
  }
  bool ok() const { return ok_; }

 private:
  os::Fd before_;
  bool ok_;
};

int bind_to(int fd, const std::string& address) {
  return bind(fd, reinterpret_cast<const sockaddr*>(address.data()),
              static_cast<socklen_t>(address.size()));
}

int connect_to(int fd, const std::string& address) {
  return connect(fd, reinterpret_cast<const sockaddr*>(address.data()),
                 static_cast<socklen_t>(address.size()));
}

// A socket's file that nobody has open any more.
bool is_stale(const std::string& address) {
  const os::Fd probe(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return probe && connect_to(probe.get(), address) != 0 && errno == ECONNREFUSED;
}

bool has_gone(const SavedSocket& i) { return (i.state.flags & format::kSocketPathGone) != 0; }

}  // namespace

Trouble SocketMaker::bind_path(const Item& i, int fd, bool gone) {
  const std::string path = i.path();
  const InDirectory there(i.cwd());
  struct stat st {};
  if (!there.ok())
    return socket_trouble(i, "its directory " + i.cwd() + " cannot be entered", errno);
  if (lstat(path.c_str(), &st) == 0) {
    if (!S_ISSOCK(st.st_mode) || !is_stale(i.local)) {
      return socket_trouble(i,
                            "its name " + path +
                                " is in use by another program; end that, or "
                                "move the file away, then try again",
                            0);
    }
    (void)unlink(path.c_str());
  }
  if (bind_to(fd, i.local) != 0) {
    return socket_trouble(i, "its name " + path + " cannot be made again", errno);
  }
  const std::string dir = path[0] == '/' ? "/" : i.cwd();
  if (gone) {
    gone_.emplace_back(dir, path);
    return {};
  }
  (void)chmod(path.c_str(), i.state.mode);
  if (geteuid() == 0 && chown(path.c_str(), i.state.uid, i.state.gid) != 0) {
    warn(i, "the owner of " + path + " could not be set: " + strerror(errno));
  }
  undo_.add([dir, path] {
    const os::Fd at(open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    (void)unlinkat(at.get(), path.c_str(), 0);
  });
  return {};
}

Trouble SocketMaker::bind_one(Item& i) {
  if (i.state.family == AF_UNIX) {
    if (!i.has_name()) return {};
    if (!i.path().empty()) return bind_path(i, i.fd.get(), has_gone(i));
  } else if (i.is_inet() &&
             (port_of(i.local) == 0 || (i.is_tcp() && i.is(format::kSocketWaiting)))) {
    return {};  // not bound, or by connect_from()
  }
  constexpr int kPatience = 1400, kStepMs = 50;  // TIME_WAIT is 60 s
  for (int tries = 0; bind_to(i.fd.get(), i.local) != 0; tries++) {
    const int error = errno;
    if (error == EADDRINUSE && i.is_tcp() && tries < kPatience && is_left_over(port_of(i.local))) {
      clear_left_over(port_of(i.local));
      if (tries == 1) warn(i, "waits for " + address_words(i.local) + ", which was used just now");
      if (tries > 0) poll(nullptr, 0, kStepMs);
      continue;
    }
    // connect(2) may have chosen it, and chooses another one.
    const bool chosen =
        i.is(format::kSocketAddressed) || (i.is_tcp() && i.is(format::kSocketUnconnected));
    if (error == EADDRNOTAVAIL && i.is_inet() && chosen) {
      warn(i, "the address " + address_words(i.local) + " cannot be had here; it has none");
      return {};
    }
    const std::string what = i.state.family == AF_NETLINK ? "its netlink address"
                                                          : "the address " + address_words(i.local);
    return socket_trouble(
        i,
        what + (error == EADDRINUSE ? " is in use by another program; end that, then try again"
                                    : " cannot be had here"),
        error);
  }
  return {};
}

// Somebody who listens at this one's name: a socket of the session, or one for this purpose.
Trouble SocketMaker::listen_for(Item& like, int* ret) {
  const int type = static_cast<int>(like.state.type);
  for (const Listener& l : listeners_) {
    if (l.address != like.local || l.type != type) continue;
    *ret = l.fd;
    return {};
  }
  constexpr int kBacklog = 16;
  Listener l{
      like.local, type, -1,
      os::Fd(socket(static_cast<int>(like.state.family), type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0))};
  l.fd = l.own.get();
  const int on = 1;
  Trouble bad;
  if (like.is_inet()) {
    setsockopt(l.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    std::swap(like.fd, l.own);
    bad = bind_one(like);
    std::swap(like.fd, l.own);
  } else if (!like.path().empty()) {
    bad = bind_path(like, l.fd, has_gone(like));
  } else if (bind_to(l.fd, like.local) != 0) {
    bad = socket_trouble(like, "its name " + address_words(like.local) + " cannot be had", errno);
  }
  if (bad.bad()) return bad;
  if (listen(l.fd, kBacklog) != 0) {
    return socket_trouble(like, "nobody can listen at " + address_words(like.local), errno);
  }
  *ret = l.fd;
  listeners_.push_back(std::move(l));
  return {};
}

// `accepted` gets its name by being accepted at it. from: the socket that connects; nullptr: one
// without a name, *ret_other.
Trouble SocketMaker::connect_by_name(Item* from, Item& accepted, os::Fd* ret_other) {
  int at = -1;
  Trouble bad = listen_for(accepted, &at);
  if (bad.bad()) return bad;
  os::Fd fd;
  if (from != nullptr) {
    bad = create(*from, &from->fd);
    if (!bad.bad()) bad = bind_one(*from);
  } else {
    fd = os::Fd(socket(AF_UNIX, static_cast<int>(accepted.state.type) | SOCK_CLOEXEC, 0));
  }
  if (bad.bad()) return bad;
  const InDirectory there(accepted.cwd());
  if (connect_to(from != nullptr ? from->fd.get() : fd.get(), accepted.local) != 0) {
    return socket_trouble(accepted, "its connection cannot be made", errno);
  }
  // Somebody else may have been faster: he is told that he was reset.
  for (;;) {
    os::Fd got(accept4(at, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!got) return socket_trouble(accepted, "its connection cannot be made", errno);
    ucred who{};
    socklen_t n = sizeof(who);
    getsockopt(got.get(), SOL_SOCKET, SO_PEERCRED, &who, &n);
    if (who.pid != getpid()) continue;
    accepted.fd = std::move(got);
    break;
  }
  const std::string failed = set_options(accepted.fd.get(), accepted.options, OptionTime::kFirst);
  if (!failed.empty()) warn(accepted, "could not be set: " + failed);
  if (from == nullptr) *ret_other = std::move(fd);
  return {};
}

// b: nullptr, its peer was closed.
Trouble SocketMaker::make_unix_pair(Item& a, Item* b) {
  const bool datagrams = a.state.type == SOCK_DGRAM;
  const bool b_listened = b != nullptr && std::ranges::any_of(listeners_, [&](const Listener& l) {
                            return l.address == b->local;
                          });
  if (!datagrams && b != nullptr && b->has_name() && (b_listened || !a.has_name())) {
    return connect_by_name(&a, *b, nullptr);
  }
  if (!datagrams && a.has_name()) return connect_by_name(b, a, &a.other);
  int ends[2];
  if (socketpair(AF_UNIX, static_cast<int>(a.state.type) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) !=
      0) {
    return socket_trouble(a, "such a pair cannot be made", errno);
  }
  a.fd = os::Fd(ends[0]);
  (b != nullptr ? b->fd : a.other) = os::Fd(ends[1]);
  for (Item* i : {&a, b}) {
    if (i == nullptr) continue;
    const std::string failed = set_options(i->fd.get(), i->options, OptionTime::kFirst);
    if (!failed.empty()) warn(*i, "could not be set: " + failed);
    Trouble bad = bind_one(*i);
    if (bad.bad()) return bad;
  }
  return {};
}

// Datagrams to an address, and connections that wait to be accepted.
Trouble SocketMaker::connect_rest(Item& i) {
  if (i.is(format::kSocketWaiting)) {
    const Item* l = find(i.state.peer_ino);
    if (l == nullptr || !l->fd) return socket_trouble(i, "nobody listens for it", 0);
    if (i.is_tcp()) return connect_from(i, i.remote);
    const InDirectory there(l->cwd());
    if (connect_to(i.fd.get(), l->local) == 0) return {};
    return socket_trouble(i, "it cannot be connected to " + address_words(l->local), errno);
  }
  if (!i.is(format::kSocketAddressed)) return {};
  const InDirectory there(i.cwd());
  if (connect_to(i.fd.get(), i.remote) == 0) return {};
  const int error = errno;
  warn(i, "it cannot be connected to " + address_words(i.remote) + " (" + strerror(error) +
              "); its peer counts as closed");
  if (i.is_inet()) return {};
  const os::Fd closed(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const sa_family_t any = AF_UNIX;
  if (bind(closed.get(), reinterpret_cast<const sockaddr*>(&any), sizeof(any)) == 0) {
    (void)connect_to(i.fd.get(), local_address(closed.get()));
  }
  return {};
}

}  // namespace cr::agent
