// SPDX-License-Identifier: MIT
// socket_queue.cc - see socket_queue.h.
// Invariant: as there; SO_PEEK_OFF, which walks through the queue, is put back.
// Context: N (agent), while the program is stopped.
#include "agent/socket_queue.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "agent/socket_diag.h"

namespace cr::agent {
namespace {

constexpr size_t kPeekBytes = 256 << 10;
constexpr size_t kMostFds = 253;  // of one message

void take_control(msghdr& h, QueuedMessage* m) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&h); c != nullptr; c = CMSG_NXTHDR(&h, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    const auto* data = CMSG_DATA(c);
    const size_t bytes = c->cmsg_len - CMSG_LEN(0);
    if (c->cmsg_type == SCM_RIGHTS) {
      for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
        int fd;
        memcpy(&fd, data + at, sizeof(fd));
        m->fds.emplace_back(fd);
      }
    } else if (c->cmsg_type == SCM_CREDENTIALS && bytes >= sizeof(ucred)) {
      m->has_credentials = true;
      memcpy(&m->credentials, data, sizeof(ucred));
    }
  }
}

// The length, or -1. cut: there is more of this message.
ssize_t peek_once(int fd, size_t room, QueuedMessage* m, bool* ret_cut, bool* ret_control_cut) {
  static std::vector<char> buffer;
  if (buffer.size() < room) buffer.resize(room);
  sockaddr_storage from{};
  alignas(cmsghdr) char control[CMSG_SPACE(kMostFds * sizeof(int)) + 512];
  iovec part{buffer.data(), room};
  msghdr h{};
  h.msg_name = &from;
  h.msg_namelen = sizeof(from);
  h.msg_iov = &part;
  h.msg_iovlen = 1;
  h.msg_control = control;
  h.msg_controllen = sizeof(control);
  const ssize_t n = recvmsg(fd, &h, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) return -1;
  m->bytes.append(buffer.data(), static_cast<size_t>(n));
  if (h.msg_namelen > 0) m->from.assign(reinterpret_cast<const char*>(&from), h.msg_namelen);
  QueuedMessage with;
  take_control(h, &with);
  if (m->fds.empty()) m->fds = std::move(with.fds);
  m->has_credentials = with.has_credentials;
  m->credentials = with.credentials;
  *ret_cut = (h.msg_flags & MSG_TRUNC) != 0;
  *ret_control_cut = (h.msg_flags & MSG_CTRUNC) != 0;
  return n;
}

// The end of the stream, not an empty message.
bool is_end(int fd, int type, ssize_t n) {
  UnixInfo info;
  struct stat st;
  if (n != 0 || type == SOCK_DGRAM) return false;
  if (type == SOCK_STREAM) return true;
  return fstat(fd, &st) != 0 || !unix_info(st.st_ino, &info) || (info.shutdown & 1) != 0;
}

// An empty datagram that was looked at in the middle of a queue is passed over the next time. Those
// are remembered, as long as they may be there.
std::set<uint64_t>& hidden() {
  static std::set<uint64_t> inodes;
  return inodes;
}

void set_offset(int fd, size_t at) {
  const int value = static_cast<int>(at);
  setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof(value));
}

// A stream's bytes in front of those that descriptors came along with: they were sent by calls of
// their own. A peek passes from one to the next; but where the last byte cannot be written it ends
// before the part that has that byte. start: where the message begins in the queue.
size_t bytes_before_fds(int fd, size_t start, size_t bytes) {
  static void* const nowhere =
      mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::vector<char> rest(bytes);
  iovec parts[2] = {{rest.data(), bytes - 1}, {nowhere, 1}};
  msghdr h{};
  h.msg_iov = parts;
  h.msg_iovlen = 2;
  set_offset(fd, start);
  const ssize_t n = recvmsg(fd, &h, MSG_PEEK | MSG_DONTWAIT);
  set_offset(fd, start + bytes);
  return n > 0 ? static_cast<size_t>(n) : 0;
}

// Every message behind one another: SO_PEEK_OFF is 0 when it begins. Of a stream so many bytes: to
// look behind them would take an error away that is to be reported.
std::string walk(int fd, int type, uint64_t ino, bool first_is_empty, size_t bytes,
                 std::vector<QueuedMessage>* ret) {
  size_t done = 0;
  while (type != SOCK_STREAM || done < bytes) {
    QueuedMessage m;
    bool cut = true, control_cut = false, any = false;
    while (cut) {
      const ssize_t n = peek_once(fd, kPeekBytes, &m, &cut, &control_cut);
      if (control_cut) return "carries more control data than fits";
      if (n < 0 && errno != EAGAIN) return std::string("cannot be read: ") + strerror(errno);
      if (n < 0 || is_end(fd, type, n)) return "";
      any = true;
      if (type == SOCK_STREAM) cut = false;
    }
    if (!any) return "";
    if (m.bytes.empty() && (!ret->empty() || first_is_empty)) hidden().insert(ino);
    const size_t start = done, read = m.bytes.size();
    done += read;
    if (type == SOCK_STREAM && !m.fds.empty() && read > 1) {
      const size_t before = bytes_before_fds(fd, start, read);
      QueuedMessage plain;
      plain.bytes = m.bytes.substr(0, before);
      m.bytes.erase(0, before);
      if (before > 0) ret->push_back(std::move(plain));
    }
    ret->push_back(std::move(m));
  }
  return "";
}

bool has_error(int fd) {
  pollfd p{fd, 0, 0};
  return poll(&p, 1, 0) > 0 && (p.revents & POLLERR) != 0;
}

// The program may walk by SO_PEEK_OFF itself.
class PeekOffset {
 public:
  explicit PeekOffset(int fd) : fd_(fd), before_(int_option(fd, SOL_SOCKET, SO_PEEK_OFF)) {
    if (before_ >= 0) set(-1);
  }
  PeekOffset(const PeekOffset&) = delete;
  PeekOffset& operator=(const PeekOffset&) = delete;
  ~PeekOffset() {
    if (now_ != before_) set(before_);
  }
  bool set(int value) {
    now_ = value;
    return setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof(value)) == 0;
  }

 private:
  int fd_, before_;
  int now_ = before_;
};

std::string peek(int fd, int type, uint64_t ino, size_t waiting, std::vector<QueuedMessage>* ret) {
  const bool stream = type == SOCK_STREAM;
  PeekOffset offset(fd);
  QueuedMessage head;
  bool cut = false, control_cut = false;
  const ssize_t n = peek_once(fd, stream ? waiting : kPeekBytes, &head, &cut, &control_cut);
  if (n < 0 || is_end(fd, type, n)) {
    if (n < 0 && errno != EAGAIN && errno != ENOTCONN && errno != EINVAL) {
      return std::string("cannot be read: ") + strerror(errno);
    }
    hidden().erase(ino);
    return "";
  }
  if (hidden().contains(ino)) {
    return "has empty datagrams that can be looked at only once; checkpoint when they are read";
  }
  if (stream && n == static_cast<ssize_t>(waiting) && head.fds.empty() && !head.has_credentials) {
    ret->push_back(std::move(head));
    return "";
  }
  const bool empty = n == 0;
  if (empty) ret->push_back(std::move(head));  // the walk passes over it
  if (!offset.set(0)) return std::string("cannot be looked through: ") + strerror(errno);
  return walk(fd, type, ino, empty, waiting, ret);
}

}  // namespace

std::string peek_queue(int fd, int type, uint64_t ino, std::vector<QueuedMessage>* ret) {
  int waiting = 0;
  const bool stream = type == SOCK_STREAM;
  const bool error = !stream && has_error(fd);
  if ((stream || error) && ioctl(fd, SIOCINQ, &waiting) != 0) return "";  // it listens
  if ((stream || error) && waiting == 0) return "";
  if (error) {
    return "has an error to report in front of what was received; checkpoint when that is read";
  }
  return peek(fd, type, ino, static_cast<size_t>(waiting), ret);
}

}  // namespace cr::agent
