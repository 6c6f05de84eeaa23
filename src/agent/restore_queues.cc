// SPDX-License-Identifier: MIT
// restore_queues.cc - see restore_sockets.h: what waits in the sockets is sent to them again.
// Invariant: as there; nothing waits for room. Context: N (agent).
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>

#include "agent/restore_sockets.h"
#include "agent/socket_diag.h"

namespace cr::agent {
namespace {

// Fits what a sender may have on its way by default.
constexpr uint64_t kMostByProcess = 200000;

// As what is sent is accounted for with what the kernel needs to keep it.
void set_send_buffer(int fd, uint64_t bytes) {
  const int size = static_cast<int>(std::min<uint64_t>(bytes, 1 << 29));
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) != 0) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
  }
}

// For the time of filling; the kernel goes on choosing the size afterwards, if it did before.
class SendBuffer {
 public:
  SendBuffer(int fd, uint64_t bytes)
      : fd_(fd),
        before_(int_option(fd, SOL_SOCKET, SO_SNDBUF) / 2),
        lock_(int_option(fd, SOL_SOCKET, kBufLock)) {
    if (static_cast<uint64_t>(before_) < bytes) set_send_buffer(fd, bytes);
  }
  SendBuffer(const SendBuffer&) = delete;
  SendBuffer& operator=(const SendBuffer&) = delete;
  ~SendBuffer() {
    set_send_buffer(fd_, static_cast<uint64_t>(before_));
    setsockopt(fd_, SOL_SOCKET, kBufLock, &lock_, sizeof(lock_));
  }

 private:
  static constexpr int kBufLock = 72;  // SO_BUF_LOCK
  int fd_, before_, lock_;
};

ssize_t send_once(int from, const std::string& to, std::string_view bytes,
                  const std::vector<int>& fds) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  std::string name = to;
  std::vector<char> control(fds.empty() ? 0 : CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr h{};
  h.msg_name = name.empty() ? nullptr : name.data();
  h.msg_namelen = static_cast<socklen_t>(name.size());
  h.msg_iov = &part;
  h.msg_iovlen = 1;
  if (!fds.empty()) {
    h.msg_control = control.data();
    h.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(c), fds.data(), fds.size() * sizeof(int));
  }
  return sendmsg(from, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// From there, with the addresses of that family: one that is bound to all addresses is reached
// where the message came from, which is this machine.
std::string reachable(const SavedSocket& to, const format::SocketMessage& m, int from) {
  const auto blob = to.image->blob(m.from);
  const std::string sender(reinterpret_cast<const char*>(blob.data()), blob.size());
  const std::string& at = is_any_address(to.local) ? sender : to.local;
  return make_address(int_option(from, SOL_SOCKET, SO_DOMAIN), at, port_of(to.local));
}

}  // namespace

// Whose send() it was; a stranger without a name if that one is gone.
int SocketMaker::sender_of(Item& to, const format::SocketMessage& m) {
  if (to.other) return to.other.get();
  if (to.is(format::kSocketConnected)) {
    const Item* peer = find(to.state.peer_ino);
    return peer != nullptr ? peer->fd.get() : -1;
  }
  const Item* sender = find(m.sender_ino);
  if (sender != nullptr) return sender->fd.get();
  os::Fd& stranger = strangers_[{to.state.family, to.state.type}];
  if (!stranger) {
    stranger = os::Fd(socket(static_cast<int>(to.state.family),
                             static_cast<int>(to.state.type) | SOCK_CLOEXEC, 0));
  }
  return stranger.get();
}

Trouble SocketMaker::send_message(Item& to, const format::SocketMessage& m, int from,
                                  const FdOf& fd_of) {
  std::vector<int> fds;
  for (const uint32_t file : to.image->states<uint32_t>(m.files)) {
    fds.push_back(fd_of(*to.image, file));
  }
  const auto blob = to.image->blob(m.bytes);
  std::string_view bytes(reinterpret_cast<const char*>(blob.data()), blob.size());
  std::string address;
  if (to.state.type == SOCK_DGRAM && !to.other && !to.is(format::kSocketConnected)) {
    address = to.is_inet() ? reachable(to, m, from) : to.local;
  }
  constexpr int kStepMs = 20, kTries = 100;
  for (int tries = 0; tries < kTries; tries++) {
    const ssize_t n = send_once(from, address, bytes, fds);
    if (n >= 0) {
      bytes.remove_prefix(std::min(static_cast<size_t>(n), bytes.size()));
      fds.clear();
      if (bytes.empty() || to.state.type != SOCK_STREAM) return {};
      tries = 0;
    } else if (errno != EAGAIN || !to.is_tcp()) {
      break;
    } else {
      poll(nullptr, 0, kStepMs);
    }
  }
  if (to.is_inet() && to.state.type == SOCK_DGRAM) return {};  // may be lost
  return socket_trouble(to, "what it held cannot be sent to it again", errno);
}

Trouble SocketMaker::send_queue(Item& to, const FdOf& fd_of) {
  const auto queue = to.image->states<format::SocketMessage>(to.state.queue);
  if (queue.empty()) return {};
  uint64_t bytes = 0;
  constexpr uint64_t kEach = 4096;
  for (const format::SocketMessage& m : queue) bytes += m.bytes.bytes + kEach;
  // A TCP window opens as its reader reads; here nobody does, so it is asked for at once.
  const int room_wanted = static_cast<int>(std::min<uint64_t>(bytes, 1 << 29));
  if (to.is_tcp()) {
    setsockopt(to.fd.get(), SOL_SOCKET, SO_RCVLOWAT, &room_wanted, sizeof(room_wanted));
  }
  const bool says_who = std::ranges::any_of(queue, [](const format::SocketMessage& m) {
    return (m.flags & format::kMessageCredentials) != 0;
  });
  const int on = 1;
  if (says_who) setsockopt(to.fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
  for (const format::SocketMessage& m : queue) {
    const int from = sender_of(to, m);
    if (from < 0) return socket_trouble(to, "nobody can send it what it held", 0);
    const SendBuffer room(from, bytes * 2);
    Trouble bad = send_message(to, m, from, fd_of);
    if (bad.bad()) return bad;
  }
  if (!to.is_tcp()) return {};
  const int once = 1;
  int there = 0;
  for (int tries = 0; tries < 100; tries++) {  // until it is on the right side
    uint64_t all = 0;
    for (const format::SocketMessage& m : queue) all += m.bytes.bytes;
    if (ioctl(to.fd.get(), SIOCINQ, &there) != 0 || static_cast<uint64_t>(there) >= all) break;
    poll(nullptr, 0, 5);
  }
  setsockopt(to.fd.get(), SOL_SOCKET, SO_RCVLOWAT, &once, sizeof(once));
  return {};
}

namespace {

// The file that is this socket, -1 if the program has no number for it.
int number_of(const format::ImageView& image, uint64_t ino) {
  for (const format::FdRecord& r : image.fds) {
    const format::FileRecord& f = image.files[r.file];
    if (f.kind == format::kFileSocket && f.ino == ino) return r.fd;
  }
  return -1;
}

uint64_t sender_ino(const format::SocketState& to, const format::SocketMessage& m) {
  return to.phase == format::kSocketConnected ? to.peer_ino : m.sender_ino;
}

}  // namespace

// Where all of it came from the process, which has what it sent it by, and room there.
bool SocketMaker::is_filled_by_process(const Item& to) {
  const auto queue = to.image->states<format::SocketMessage>(to.state.queue);
  const bool gone = (to.state.flags & format::kSocketPathGone) != 0 ||
                    (to.state.shutdown & format::kSocketShutRead) != 0;
  if (queue.empty() || gone || to.state.family != AF_UNIX) return false;
  return std::ranges::all_of(queue, [&](const format::SocketMessage& m) {
    const Item* from = find(sender_ino(to.state, m));
    constexpr uint64_t kEach = 1024;
    const int own = to.image->process->pid;
    return (m.flags & format::kMessageCredentials) != 0 && m.pid == own && m.files.bytes == 0 &&
           from != nullptr && from->image == to.image && number_of(*to.image, from->ino) >= 0 &&
           (from->state.shutdown & format::kSocketShutWrite) == 0 &&
           (m.bytes.bytes + kEach) * 2 * queue.size() < kMostByProcess;
  });
}

void fill_sockets(const format::ImageView& image, const std::vector<uint64_t>& sockets,
                  Recipe& recipe) {
  for (uint32_t n = 0; n < image.files.size(); n++) {
    const format::FileRecord& file = image.files[n];
    if (file.kind != format::kFileSocket || !std::ranges::count(sockets, file.ino)) continue;
    const SavedFile f = saved_file(image, n);
    const auto& s = state_of<format::SocketState>(f);
    const auto name = image.blob(s.local);
    const bool addressed = s.phase != format::kSocketConnected;
    for (const auto& m : image.states<format::SocketMessage>(s.queue)) {
      const auto bytes = image.blob(m.bytes);
      const Arg none = 0;
      recipe.call(
          f.name + ": what it held", __NR_sendto,
          {number_of(image, sender_ino(s, m)), recipe.data(bytes.data(), bytes.size()),
           bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
           addressed ? recipe.data(name.data(), name.size()) : none, addressed ? name.size() : 0},
          format::kCallReturns, static_cast<int64_t>(bytes.size()));
    }
  }
}

std::string SocketMaker::why_not_refilled(uint64_t ino) {
  Item* to = find(ino);
  if (to == nullptr || !to->kept) return "is not there";
  const auto queue = to->image->states<format::SocketMessage>(to->state.queue);
  if (queue.empty()) return "";
  if ((queue.front().flags & format::kMessageCredentials) != 0) {
    return "held messages that say who sent them";
  }
  const Item* peer = find(to->state.peer_ino);
  if (to->is(format::kSocketConnected)) {
    const bool open = peer != nullptr && peer->kept && (to->state.shutdown & 1) == 0 &&
                      (peer->state.shutdown & format::kSocketShutWrite) == 0;
    return open ? "" : "cannot be sent again what it held";
  }
  const bool reachable = to->state.type == SOCK_DGRAM && !to->is(format::kSocketPeerGone) &&
                         (to->is_inet() || to->has_name());
  return reachable ? "" : "cannot be sent again what it held";
}

Trouble SocketMaker::refill(uint64_t ino) {
  Item& to = *find(ino);
  std::vector<char> buffer(1 << 16);
  const bool stream = to.state.type == SOCK_STREAM;
  for (;;) {  // descriptors that came since are closed
    int more = 0;
    if (stream && (ioctl(to.fd.get(), SIOCINQ, &more) != 0 || more == 0)) break;
    if (recv(to.fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT) < 0) break;
  }
  Trouble bad = send_queue(to, [](const format::ImageView&, uint32_t) { return -1; });
  if (!bad.bad()) (void)set_options(to.fd.get(), to.options, OptionTime::kLast);
  return bad;
}

}  // namespace cr::agent
