// SPDX-License-Identifier: MIT
// agent_messages.cc - see agent_messages.h. Invariant: as there. Context: N (agent).
#include "agent/agent_messages.h"

#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "rawsys/rawsys.h"

namespace cr::agent {

bool send_with_fds(int sock, const format::Report& r, const int* fds, size_t n) {
  iovec iov{const_cast<format::Report*>(&r), sizeof(r)};
  std::vector<char> control(CMSG_SPACE(std::max<size_t>(n, 1) * sizeof(int)));
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  if (n > 0) {
    m.msg_control = control.data();
    m.msg_controllen = CMSG_SPACE(n * sizeof(int));
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
  }
  return sendmsg(sock, &m, MSG_NOSIGNAL) >= 0;
}

format::Report refusal(const Trouble& t) {
  format::Report r{};
  r.kind = format::kMessageRefused;
  r.code = static_cast<int32_t>(t.error.code);
  r.sys_errno = t.error.sys_errno;
  rawsys::str_copy(r.text, t.text.c_str(), sizeof(r.text));
  return r;
}

pid_t peer_of(int sock) {
  ucred c{};
  socklen_t n = sizeof(c);
  return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &c, &n) == 0 ? c.pid : 0;
}

}  // namespace cr::agent
