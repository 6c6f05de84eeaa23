// SPDX-License-Identifier: MIT
// settle_tcp.cc - see settle_tcp.h. Invariant: as there. Context: N (agent).
#include "agent/settle_tcp.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "agent/socket_diag.h"

namespace cr::agent {
namespace {

size_t count(int fd, unsigned long what) {
  int bytes = 0;
  return ioctl(fd, what, &bytes) == 0 && bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

bool set(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

// Until all is acknowledged, or, if so wished, nothing moves because there is no room.
size_t wait(int from, int ms, bool until_full) {
  for (int i = 0; i < ms && count(from, SIOCOUTQ) != 0; i++) {
    if (until_full && count(from, SIOCOUTQNSD) != 0) break;
    poll(nullptr, 0, 1);
  }
  return count(from, SIOCOUTQ);
}

// Has the sender ask for room at once, by a door that is meant for something else: CAP_NET_ADMIN.
void prompt(int from) {
  const int reuse = int_option(from, SOL_SOCKET, SO_REUSEADDR);
  if (!set(from, IPPROTO_TCP, TCP_REPAIR, 1)) return;
  set(from, IPPROTO_TCP, TCP_REPAIR, 0);
  set(from, SOL_SOCKET, SO_REUSEADDR, reuse);
}

// The other end is given room for the rest for a moment. By itself the sender asks for room after a
// fifth of a second, or later the longer it has waited.
size_t give_room(int from, int to) {
  constexpr int kPatienceMs = 2000;
  const int low = int_option(to, SOL_SOCKET, SO_RCVLOWAT);
  const int size = int_option(to, SOL_SOCKET, SO_RCVBUF) / 2;
  const bool locked = (int_option(to, SOL_SOCKET, 72 /* SO_BUF_LOCK */) & 2) != 0;
  const auto room = static_cast<int>(2 * (count(from, SIOCOUTQ) + count(to, SIOCINQ)));
  if (locked) {
    if (!set(to, SOL_SOCKET, SO_RCVBUFFORCE, room)) set(to, SOL_SOCKET, SO_RCVBUF, room);
  } else {
    set(to, SOL_SOCKET, SO_RCVLOWAT, room);
  }
  prompt(from);
  const size_t left = wait(from, kPatienceMs, /*until_full=*/false);
  if (locked) {
    set(to, SOL_SOCKET, SO_RCVBUF, size);
  } else {
    set(to, SOL_SOCKET, SO_RCVLOWAT, low);
  }
  return left;
}

}  // namespace

size_t settle_tcp(int from, int to) {
  constexpr int kAcknowledgedMs = 50;
  if (count(from, SIOCOUTQ) == 0) return 0;
  // Acknowledged at once, by the other end as it is or as it was not.
  constexpr int kOnce = 2;
  const bool quick = int_option(to, IPPROTO_TCP, TCP_QUICKACK) != 0;
  set(to, IPPROTO_TCP, TCP_QUICKACK, quick ? 1 : kOnce);
  return wait(from, kAcknowledgedMs, /*until_full=*/true) == 0 ? 0 : give_room(from, to);
}

}  // namespace cr::agent
