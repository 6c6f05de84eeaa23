// SPDX-License-Identifier: MIT
// describe_peers.cc - see describe_sockets.h: to whom each socket is connected.
// Invariant: as there. Context: N (agent), while the program is stopped.
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#include <algorithm>

#include "agent/describe_sockets.h"
#include "agent/settle_tcp.h"

namespace cr::agent {
namespace {

enum TcpState : uint32_t {
  kEstablished = 1,
  kSynSent = 2,
  kSynReceived = 3,
  kFinWait1 = 4,
  kFinWait2 = 5,
  kTimeWait = 6,
  kClose = 7,
  kCloseWait = 8,
  kLastAck = 9,
  kListen = 10,
  kClosing = 11,
};

Trouble cannot(const std::string& name, const std::string& why) {
  return trouble(Errc::kUnsupported, 0, name + ": " + why);
}

int unread_by_peer(int fd) {
  int bytes = 0;
  return ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

Trouble outside(const std::string& name, const std::string& what) {
  return cannot(name, what +
                          " cannot be saved; only descriptors that the program was started with "
                          "may lead outside: close it before the checkpoint");
}

Trouble not_accepted(const std::string& name) {
  return cannot(name,
                "something was sent through a connection that was not accepted yet, where nobody "
                "can read it; checkpoint when the program has accepted it");
}

}  // namespace

SocketDescriber::Socket* SocketDescriber::find(uint64_t ino) {
  for (Socket& s : all_) {
    if (s.ino == ino && ino != 0) return &s;
  }
  return nullptr;
}

// Stream and seqpacket.
Trouble SocketDescriber::find_unix_place(Socket& s) {
  format::SocketState& t = s.state;
  t.shutdown = s.info.shutdown & 3;
  if (s.info.state == kListen) {
    t.phase = format::kSocketListening;
    t.backlog = s.info.backlog;
    return {};
  }
  if (s.info.state != kEstablished) return {};
  if (s.info.peer_ino != 0) {
    if (find(s.info.peer_ino) == nullptr) return outside(s.name, "a connection to another process");
    t.phase = format::kSocketConnected;
    t.peer_ino = s.info.peer_ino;
    return {};
  }
  for (const Socket& l : all_) {
    const auto at = std::ranges::find(l.info.waiting, s.ino);
    if (at == l.info.waiting.end()) continue;
    if (unread_by_peer(s.copy.get()) > 0) return not_accepted(s.name);
    t.phase = format::kSocketWaiting;
    t.peer_ino = l.ino;
    t.order = static_cast<uint32_t>(at - l.info.waiting.begin());
    return {};
  }
  if (t.shutdown != 3) {
    return outside(s.name, "a connection that another process has not accepted yet");
  }
  t.phase = format::kSocketPeerGone;
  if ((s.polled & POLLERR) != 0) t.flags |= format::kSocketPeerFailed;
  return {};
}

Trouble SocketDescriber::find_datagram_place(Socket& s) {
  format::SocketState& t = s.state;
  t.shutdown = s.info.shutdown & 3;
  if (!s.info.has_peer) return {};
  const bool named = s.remote.size() > offsetof(sockaddr_un, sun_path);
  const Socket* peer = find(s.info.peer_ino);
  if (peer != nullptr && peer->info.peer_ino == s.ino && peer != &s) {
    t.phase = format::kSocketConnected;
    t.peer_ino = peer->ino;
  } else if (s.info.peer_ino == 0) {
    t.phase = format::kSocketPeerGone;
  } else if (named) {
    t.phase = format::kSocketAddressed;
  } else {
    return outside(s.name, "a connection to another process");
  }
  return {};
}

SocketDescriber::Socket* SocketDescriber::tcp_peer(const Socket& s) {
  if (s.remote.empty()) return nullptr;
  for (Socket& o : all_) {
    if (o.tcp_state == 0 || o.remote.empty()) continue;
    if (plain_address(o.local) == plain_address(s.remote) &&
        plain_address(o.remote) == plain_address(s.local)) {
      return &o;
    }
  }
  return nullptr;
}

Trouble SocketDescriber::find_tcp_place(Socket& s) {
  format::SocketState& t = s.state;
  const uint32_t now = s.tcp_state;
  const bool hung_up = (s.polled & POLLRDHUP) != 0;
  if (now == kListen) {
    t.phase = format::kSocketListening;
    t.backlog = s.info.backlog;
    return {};
  }
  if (now == kClose) {
    if (!hung_up) return {};
    t.phase = format::kSocketReset;
    if ((s.polled & POLLERR) == 0) t.flags |= format::kSocketErrorSeen;
    return {};
  }
  if (now == kSynSent || now == kSynReceived) {
    if (!s.waits) t.phase = format::kSocketConnecting;
    return {};
  }
  const bool has_ended = now == kCloseWait || now == kLastAck || now == kClosing;
  if (now != kEstablished && now != kCloseWait) t.shutdown |= format::kSocketShutWrite;
  if (hung_up && !has_ended) t.shutdown |= format::kSocketShutRead;
  const Socket* peer = tcp_peer(s);
  if (peer == nullptr) {
    if (!tcp_listed_) tcp_ = list_tcp(s.holder->pid);
    tcp_listed_ = true;
    if (has_ended) t.flags |= format::kSocketPeerEnded;
    return find_lost_place(s, tcp_);
  }
  if (peer == &s) return cannot(s.name, "a socket that is connected to itself cannot be saved yet");
  t.phase = format::kSocketConnected;
  t.peer_ino = peer->ino;
  return {};
}

// Each end's queue gets what is on its way to it.
Trouble SocketDescriber::settle(Socket& s) {
  Socket* peer = find(s.state.peer_ino);
  const size_t left = settle_tcp(s.copy.get(), peer->copy.get());
  if (left != 0) {
    return cannot(s.name,
                  std::to_string(left) +
                      " bytes are on their way, because what it is connected to has no room for "
                      "them: they cannot be saved; checkpoint when it has read some");
  }
  return read_queue(*peer);
}

// Its peer is no socket of the program: not accepted yet, or outside.
Trouble SocketDescriber::find_lost_place(Socket& s, const std::vector<TcpEntry>& all) {
  format::SocketState& t = s.state;
  t.phase = format::kSocketReset;
  const std::string local = plain_address(s.local), remote = plain_address(s.remote);
  const auto other = std::ranges::find_if(all, [&](const TcpEntry& e) {
    return e.local == remote && e.remote == local && e.ino == 0 &&
           (e.state == kEstablished || e.state == kCloseWait);
  });
  if (other == all.end()) return {};
  for (const Socket& l : all_) {
    if (l.tcp_state != kListen || port_of(l.local) != port_of(s.remote)) continue;
    if (!is_any_address(l.local) && plain_address(l.local) != remote) continue;
    if (other->unread > 0) return not_accepted(s.name);
    t.phase = format::kSocketWaiting;
    t.flags = 0;
    t.peer_ino = l.ino;
    t.order = static_cast<uint32_t>(s.ino);
    return {};
  }
  return {};
}

}  // namespace cr::agent
