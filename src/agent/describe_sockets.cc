// SPDX-License-Identifier: MIT
// describe_sockets.cc - see describe_sockets.h: what is read of each socket, and what is written.
// Invariant: as there. Context: N (agent), while the program is stopped.
#include "agent/describe_sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

namespace cr::agent {
namespace {

constexpr size_t kPathOff = offsetof(sockaddr_un, sun_path);

bool is_inet(int family) { return family == AF_INET || family == AF_INET6; }

const char* name_of_family(const SocketKey& k) {
  if (is_inet(k.family)) {
    if (k.type == SOCK_RAW) return "a raw socket";
    return "a socket of a protocol other than TCP and UDP";
  }
  switch (k.family) {
    case AF_PACKET:
      return "a packet socket";
    case AF_VSOCK:
      return "a vsock socket";
    case AF_ALG:
      return "a socket of the kernel's cryptography";
    case AF_BLUETOOTH:
      return "a Bluetooth socket";
    case AF_CAN:
      return "a CAN socket";
    case AF_XDP:
      return "an XDP socket";
    default:
      return "a socket of an unusual family";
  }
}

bool is_supported(const SocketKey& k) {
  if (k.family == AF_UNIX || k.family == AF_NETLINK) return true;
  if (!is_inet(k.family)) return false;
  return (k.type == SOCK_STREAM && k.protocol == IPPROTO_TCP) ||
         (k.type == SOCK_DGRAM && k.protocol == IPPROTO_UDP);
}

Trouble cannot(const std::string& name, const std::string& why) {
  return trouble(Errc::kUnsupported, 0, name + ": " + why);
}

Trouble unreadable(const Descriptor& d) {
  return trouble(
      Errc::kUnsupported, errno,
      name_of(d) + ": the kernel does not tell about the socket (sock_diag): " + strerror(errno));
}

bool same_network(pid_t pid) {
  auto theirs = os::read_link("/proc/" + std::to_string(pid) + "/ns/net");
  auto ours = os::read_link("/proc/self/ns/net");
  return !theirs || !ours || *theirs == *ours;
}

}  // namespace

uint64_t peer_inode(const Descriptor& d) {
  UnixInfo info;
  return unix_info(d.st.st_ino, &info) ? info.peer_ino : 0;
}

Trouble SocketDescriber::look(const Program& program, const std::shared_ptr<SocketHolder>& holder,
                              const Descriptor& d, std::vector<int>* ret_flying) {
  Socket s;
  s.holder = holder;
  s.name = name_of(d);
  s.ino = d.st.st_ino;
  s.waits = (d.info.flags & O_NONBLOCK) == 0;
  s.copy = program.copy_of(d.fd);
  if (!s.copy) return unreadable(d);
  const int fd = s.copy.get();
  s.key = {int_option(fd, SOL_SOCKET, SO_DOMAIN), int_option(fd, SOL_SOCKET, SO_TYPE),
           int_option(fd, SOL_SOCKET, SO_PROTOCOL)};
  if (!is_supported(s.key)) {
    return refuse(d, name_of_family(s.key), "close it before the checkpoint");
  }
  if (!same_network(program.pid)) {
    return refuse(d, "a socket of another network namespace", "close it before the checkpoint");
  }
  s.local = local_address(fd);
  s.remote = peer_address(fd);
  pollfd p{fd, POLLIN | POLLPRI | POLLRDHUP, 0};
  if (poll(&p, 1, 0) > 0) s.polled = p.revents;
  if ((s.polled & POLLPRI) != 0 && s.key.family != AF_NETLINK) {
    return cannot(s.name,
                  "urgent data (MSG_OOB) that was not read cannot be saved; checkpoint "
                  "when the program has read it");
  }
  tcp_info tcp{};
  socklen_t n = sizeof(tcp);
  if (is_inet(s.key.family) && s.key.type == SOCK_STREAM &&
      getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &n) == 0) {
    s.tcp_state = tcp.tcpi_state;
    s.info.backlog = tcp.tcpi_sacked;  // if it listens
  }
  if (s.key.family == AF_UNIX) {
    if (!unix_info(s.ino, &s.info)) return unreadable(d);
    Trouble bad = read_queue(s);
    if (bad.bad()) return bad;
  }
  const std::string why = read_options(fd, s.key, program.pid, &s.options);
  if (!why.empty()) return refuse(d, why, "close it before the checkpoint");
  for (const QueuedMessage& m : s.queue) {
    for (const os::Fd& f : m.fds) ret_flying->push_back(f.get());
  }
  all_.push_back(std::move(s));
  return {};
}

Trouble SocketDescriber::read_queue(Socket& s) {
  const std::string why = peek_queue(s.copy.get(), s.key.type, s.ino, &s.queue);
  return why.empty() ? Trouble{} : cannot(s.name, "the socket " + why);
}

// The file that it is bound to.
Trouble SocketDescriber::read_name(Socket& s) {
  if (s.key.family != AF_UNIX || s.local.size() <= kPathOff || s.local[kPathOff] == '\0') return {};
  const std::string path = s.local.substr(kPathOff).c_str();
  const std::string cwd = os::task_path(s.holder->pid, s.holder->tid, "cwd/");
  struct stat st {};
  const bool there = stat((path[0] == '/' ? path : cwd + path).c_str(), &st) == 0 &&
                     S_ISSOCK(st.st_mode) && st.st_ino == s.info.file_ino;
  if (there) {
    s.state.mode = st.st_mode & 07777;
    s.state.uid = st.st_uid;
    s.state.gid = st.st_gid;
    return {};
  }
  const bool connected = s.state.phase == format::kSocketConnected;
  if (path[0] != '/' && !connected) {
    return cannot(s.name, "it is bound to the relative name " + path +
                              ", which is not in the working directory: that cannot be saved; "
                              "bind it by an absolute path");
  }
  s.state.flags |= format::kSocketPathGone;
  return {};
}

// It must hold nothing: what the kernel has sent, or still sends, cannot be made again.
Trouble SocketDescriber::check_netlink(Socket& s) {
  const std::string text =
      os::read_or_empty("/proc/" + std::to_string(s.holder->pid) + "/net/netlink");
  for (size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1)) {
    unsigned long read_bytes = 0, written = 0, dump = 0, ino = 0;
    if (sscanf(text.c_str() + at + 1, "%*s %*d %*u %*x %lu %lu %lu %*d %*u %lu", &read_bytes,
               &written, &dump, &ino) != 4 ||
        ino != s.ino) {
      continue;
    }
    if (read_bytes == 0 && written == 0 && dump == 0) break;
    return cannot(s.name,
                  "answers of the kernel wait in the netlink socket, and cannot be saved; "
                  "checkpoint when the program has read them");
  }
  uint32_t groups[32] = {};
  socklen_t n = sizeof(groups);
  if (getsockopt(s.copy.get(), SOL_NETLINK, 9 /* NETLINK_LIST_MEMBERSHIPS */, groups, &n) != 0) {
    return {};
  }
  for (uint32_t g = 0; g < std::min<uint32_t>(n, sizeof(groups)) * 8; g++) {
    if ((groups[g / 32] >> (g % 32) & 1) == 0) continue;
    const uint32_t number = g + 1;
    s.options.push_back({SOL_NETLINK,
                         1 /* NETLINK_ADD_MEMBERSHIP */,
                         {reinterpret_cast<const char*>(&number), sizeof(number)}});
  }
  return {};
}

// Where a message came from must be there at the restore, to send it again.
Trouble SocketDescriber::check_senders(Socket& s) {
  if (s.key.type == SOCK_STREAM) {
    for (QueuedMessage& m : s.queue) m.from.clear();
    return {};
  }
  if (is_inet(s.key.family)) {  // datagrams may be lost
    std::erase_if(s.queue, [&](const QueuedMessage& m) { return sender(s, m.from) == nullptr; });
    return {};
  }
  const bool paired = s.state.phase == format::kSocketConnected ||
                      s.state.phase == format::kSocketPeerGone || s.key.type == SOCK_SEQPACKET;
  for (const QueuedMessage& m : s.queue) {
    const bool named = m.from.size() > kPathOff;
    if (!named || s.key.type == SOCK_SEQPACKET) continue;
    const Socket* from = sender(s, m.from);
    if (from != nullptr && (!paired || from->ino == s.state.peer_ino)) continue;
    return cannot(s.name, "a message from " + address_words(m.from) +
                              ", which is not a socket of the program (any more), was not read: it "
                              "cannot be saved; checkpoint when it has been");
  }
  return {};
}

SocketDescriber::Socket* SocketDescriber::sender(const Socket& to, const std::string& from) {
  for (Socket& s : all_) {
    if (s.key.type != to.key.type || is_inet(s.key.family) != is_inet(to.key.family)) continue;
    if (!is_inet(s.key.family)) {
      if (from.size() > kPathOff && s.local == from) return &s;
      continue;
    }
    if (port_of(s.local) != port_of(from) || port_of(from) == 0) continue;
    if (is_any_address(s.local) || plain_address(s.local) == plain_address(from)) return &s;
  }
  return nullptr;
}

Trouble SocketDescriber::describe() {
  for (Socket& s : all_) {
    s.state.phase = format::kSocketUnconnected;
    Trouble bad;
    if (s.key.family == AF_NETLINK) {
      bad = check_netlink(s);
    } else if (s.key.family == AF_UNIX) {
      bad = s.key.type == SOCK_DGRAM ? find_datagram_place(s) : find_unix_place(s);
    } else if (s.key.type == SOCK_DGRAM) {
      if (!s.remote.empty()) s.state.phase = format::kSocketAddressed;
      if ((s.polled & POLLRDHUP) != 0) s.state.shutdown = format::kSocketShutRead;
    } else {
      bad = find_tcp_place(s);
    }
    if (bad.bad()) return bad;
  }
  for (Socket& s : all_) {
    Trouble bad;
    if (s.tcp_state != 0 && s.state.phase == format::kSocketConnected) {
      bad = settle(s);  // and reads the other's queue
    } else if (is_inet(s.key.family)) {
      bad = read_queue(s);
    }
    if (!bad.bad()) bad = check_senders(s);
    if (!bad.bad()) bad = read_name(s);
    if (bad.bad()) return bad;
  }
  for (Socket& s : all_) write(s);
  return {};
}

void SocketDescriber::write(Socket& s) {
  const SocketHolder& holder = *s.holder;
  store::Model& model = *holder.model;
  const auto blob = [&](const std::string& bytes) {
    return bytes.empty() ? format::BlobRef{} : model.add_blob(bytes.data(), bytes.size());
  };
  std::vector<format::SocketMessage> queue;
  for (const QueuedMessage& m : s.queue) {
    format::SocketMessage r{};
    r.bytes = blob(m.bytes);
    r.from = blob(m.from);
    std::vector<uint32_t> files;
    for (const os::Fd& f : m.fds) files.push_back(holder.files.at(f.get()));
    if (!files.empty()) r.files = model.add_blob(files.data(), files.size() * sizeof(files[0]));
    const Socket* from = m.from.empty() ? nullptr : sender(s, m.from);
    if (from != nullptr && s.key.type == SOCK_DGRAM) r.sender_ino = from->ino;
    if (m.has_credentials) {
      r.flags = format::kMessageCredentials;
      r.pid = m.credentials.pid == holder.pid ? os::inner_tid(holder.pid, holder.pid) : 0;
      r.uid = m.credentials.uid;
      r.gid = m.credentials.gid;
    }
    queue.push_back(r);
  }
  std::vector<format::SocketOption> options;
  for (const OptionValue& o : s.options) options.push_back({o.level, o.name, blob(o.value)});
  format::SocketState& t = s.state;
  t.family = static_cast<uint32_t>(s.key.family);
  t.type = static_cast<uint32_t>(s.key.type);
  t.protocol = static_cast<uint32_t>(s.key.protocol);
  t.local = blob(s.local);
  t.remote = blob(s.remote);
  t.options = model.add_blob(options.data(), options.size() * sizeof(format::SocketOption));
  t.queue = model.add_blob(queue.data(), queue.size() * sizeof(format::SocketMessage));
  const format::BlobRef content = model.add_blob(&t, sizeof(t));
  for (format::FileRecord& f : model.files) {
    if (f.kind == format::kFileSocket && f.ino == s.ino) f.content = content;
  }
}

}  // namespace cr::agent
