// SPDX-License-Identifier: MIT
// socket_diag.cc - see socket_diag.h. Invariant: as there. Context: N (agent).
#include "agent/socket_diag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include <algorithm>

#include "os/proc.h"

namespace cr::agent {
namespace {

constexpr uint32_t kAnyCookie = ~0u;

struct Question {
  nlmsghdr head;
  unix_diag_req body;
};

template <typename T>
T value_of(const nlattr* a) {
  T v{};
  memcpy(&v, a + 1, sizeof(v));
  return v;
}

void take_attribute(const nlattr* a, UnixInfo* info) {
  const size_t bytes = a->nla_len - sizeof(nlattr);
  const auto* words = reinterpret_cast<const uint32_t*>(a + 1);
  switch (a->nla_type) {
    case UNIX_DIAG_PEER:
      info->has_peer = true;
      info->peer_ino = value_of<uint32_t>(a);
      break;
    case UNIX_DIAG_VFS:
      info->file_ino = value_of<unix_diag_vfs>(a).udiag_vfs_ino;
      break;
    case UNIX_DIAG_ICONS:
      info->waiting.assign(words, words + bytes / sizeof(uint32_t));
      break;
    case UNIX_DIAG_RQLEN:
      info->backlog = value_of<unix_diag_rqlen>(a).udiag_wqueue;
      break;
    case UNIX_DIAG_SHUTDOWN:
      info->shutdown = value_of<uint8_t>(a);
      break;
    default:
      break;
  }
}

bool take_answer(const uint8_t* data, size_t bytes, UnixInfo* info) {
  nlmsghdr head;
  if (bytes < sizeof(head)) return false;
  memcpy(&head, data, sizeof(head));
  if (head.nlmsg_type == NLMSG_ERROR) {
    nlmsgerr e{};
    memcpy(&e, data + NLMSG_HDRLEN, std::min(sizeof(e), bytes - NLMSG_HDRLEN));
    errno = -e.error;
    return false;
  }
  size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(unix_diag_msg));
  if (head.nlmsg_len > bytes || head.nlmsg_len < at) return false;
  unix_diag_msg body;
  memcpy(&body, data + NLMSG_HDRLEN, sizeof(body));
  info->state = body.udiag_state;
  while (at + sizeof(nlattr) <= head.nlmsg_len) {
    const auto* a = reinterpret_cast<const nlattr*>(data + at);
    if (a->nla_len < sizeof(nlattr) || at + a->nla_len > head.nlmsg_len) return false;
    take_attribute(a, info);
    at += NLA_ALIGN(a->nla_len);
  }
  return true;
}

}  // namespace

bool unix_info(uint64_t ino, UnixInfo* ret) {
  const os::Fd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd) return false;
  Question q{};
  q.head.nlmsg_len = sizeof(q);
  q.head.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  q.head.nlmsg_flags = NLM_F_REQUEST;
  q.body.sdiag_family = AF_UNIX;
  q.body.udiag_states = ~0u;
  q.body.udiag_ino = static_cast<uint32_t>(ino);
  q.body.udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN;
  q.body.udiag_cookie[0] = q.body.udiag_cookie[1] = kAnyCookie;
  if (send(fd.get(), &q, sizeof(q), 0) != sizeof(q)) return false;
  std::vector<uint8_t> answer(size_t{1} << 16);
  const ssize_t n = recv(fd.get(), answer.data(), answer.size(), 0);
  UnixInfo info;
  if (n <= 0 || !take_answer(answer.data(), static_cast<size_t>(n), &info)) return false;
  *ret = std::move(info);
  return true;
}

namespace {

// Words of the address as /proc/net shows them, each in the order of this machine.
std::string address_of(const char* hex, size_t digits, unsigned port) {
  std::string out(18, '\0');
  const size_t first = digits == 8 ? 12 : 0;
  if (digits == 8) out[10] = out[11] = '\xff';
  for (size_t i = 0; i < digits / 8; i++) {
    unsigned word = 0;
    (void)sscanf(hex + i * 8, "%8x", &word);
    memcpy(out.data() + first + i * 4, &word, sizeof(word));
  }
  const uint16_t p = htons(static_cast<uint16_t>(port));
  memcpy(out.data() + 16, &p, sizeof(p));
  return out;
}

void take_line(const char* line, std::vector<TcpEntry>* ret) {
  char local[40], remote[40];
  unsigned local_port, remote_port, state, unread;
  unsigned long ino;
  if (sscanf(line, " %*d: %39[0-9A-F]:%x %39[0-9A-F]:%x %x %*x:%x %*x:%*x %*x %*u %*u %lu", local,
             &local_port, remote, &remote_port, &state, &unread, &ino) != 7) {
    return;
  }
  ret->push_back({address_of(local, strlen(local), local_port),
                  address_of(remote, strlen(remote), remote_port), state, unread, ino});
}

}  // namespace

std::vector<TcpEntry> list_tcp(pid_t pid) {
  std::vector<TcpEntry> all;
  for (const char* name : {"/net/tcp", "/net/tcp6"}) {
    const std::string text = os::read_or_empty("/proc/" + std::to_string(pid) + name);
    for (size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1)) {
      take_line(text.c_str() + at + 1, &all);
    }
  }
  return all;
}

std::string plain_address(const std::string& sockaddr) {
  std::string out(18, '\0');
  sa_family_t family = 0;
  if (sockaddr.size() >= sizeof(family)) memcpy(&family, sockaddr.data(), sizeof(family));
  if (family == AF_INET && sockaddr.size() >= sizeof(sockaddr_in)) {
    out[10] = out[11] = '\xff';
    memcpy(out.data() + 12, sockaddr.data() + offsetof(sockaddr_in, sin_addr), 4);
    memcpy(out.data() + 16, sockaddr.data() + offsetof(sockaddr_in, sin_port), 2);
    return out;
  }
  if (family == AF_INET6 && sockaddr.size() >= sizeof(sockaddr_in6)) {
    memcpy(out.data(), sockaddr.data() + offsetof(sockaddr_in6, sin6_addr), 16);
    memcpy(out.data() + 16, sockaddr.data() + offsetof(sockaddr_in6, sin6_port), 2);
    return out;
  }
  return "";
}

uint16_t port_of(const std::string& sockaddr) {
  const std::string plain = plain_address(sockaddr);
  uint16_t port = 0;
  if (!plain.empty()) memcpy(&port, plain.data() + 16, sizeof(port));
  return ntohs(port);
}

bool is_any_address(const std::string& sockaddr) {
  std::string address = plain_address(sockaddr).substr(0, 16);
  if (address.compare(10, 2, "\xff\xff") == 0) address[10] = address[11] = '\0';
  return address == std::string(16, '\0');
}

std::string make_address(int family, const std::string& sockaddr, uint16_t port) {
  const std::string plain = plain_address(sockaddr);
  if (plain.empty()) return "";
  if (family == AF_INET) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(port);
    memcpy(&a.sin_addr, plain.data() + 12, sizeof(a.sin_addr));
    return {reinterpret_cast<const char*>(&a), sizeof(a)};
  }
  sockaddr_in6 a{};
  if (sockaddr.size() == sizeof(a)) memcpy(&a, sockaddr.data(), sizeof(a));  // with its scope
  a.sin6_family = AF_INET6;
  a.sin6_port = htons(port);
  memcpy(&a.sin6_addr, plain.data(), sizeof(a.sin6_addr));
  return {reinterpret_cast<const char*>(&a), sizeof(a)};
}

std::string address_words(const std::string& sockaddr) {
  const std::string plain = plain_address(sockaddr);
  if (!plain.empty()) {
    char text[INET6_ADDRSTRLEN] = "";
    const bool v4 = plain.compare(0, 12, std::string(10, '\0') + "\xff\xff") == 0;
    inet_ntop(v4 ? AF_INET : AF_INET6, plain.data() + (v4 ? 12 : 0), text, sizeof(text));
    return (v4 ? text : "[" + std::string(text) + "]") + ":" + std::to_string(port_of(sockaddr));
  }
  constexpr size_t kPath = offsetof(sockaddr_un, sun_path);
  if (sockaddr.size() <= kPath) return "without a name";
  std::string name = sockaddr.substr(kPath);
  if (name[0] != '\0') return name.c_str();
  name[0] = '@';
  return name;
}

std::string local_address(int fd) {
  sockaddr_storage a{};
  socklen_t n = sizeof(a);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&a), &n) != 0) return "";
  return {reinterpret_cast<const char*>(&a), std::min<size_t>(n, sizeof(a))};
}

std::string peer_address(int fd) {
  sockaddr_storage a{};
  socklen_t n = sizeof(a);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&a), &n) != 0) return "";
  return {reinterpret_cast<const char*>(&a), std::min<size_t>(n, sizeof(a))};
}

int int_option(int fd, int level, int name) {
  int value = 0;
  socklen_t n = sizeof(value);
  return getsockopt(fd, level, name, &value, &n) == 0 ? value : 0;
}

}  // namespace cr::agent
