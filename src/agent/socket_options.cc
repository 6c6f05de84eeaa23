// SPDX-License-Identifier: MIT
// socket_options.cc - see socket_options.h. Invariant: as there. Context: N (agent).
#include "agent/socket_options.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>

#include "agent/socket_diag.h"
#include "os/proc.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72  // Linux 5.15
#endif

namespace cr::agent {
namespace {

enum Of : unsigned {
  kAny = 1,
  kUnix = 2,
  kInet = 4,   // IPv4 and IPv6
  kInet6 = 8,  // IPv6 only
  kTcp = 16,
  kUdp = 32,
  kNetlink = 64,
  kUdp6 = 128,
};

struct Option {
  unsigned of;
  int level, name;
  bool last = false;
};

// Those by number are newer than Debian 12's headers.
constexpr Option kOptions[] = {
    {kAny, SOL_SOCKET, SO_REUSEPORT},
    {kAny, SOL_SOCKET, SO_REUSEADDR, true},
    {kAny, SOL_SOCKET, SO_KEEPALIVE},
    {kAny, SOL_SOCKET, SO_BROADCAST},
    {kAny, SOL_SOCKET, SO_OOBINLINE},
    {kAny, SOL_SOCKET, SO_DONTROUTE},
    {kAny, SOL_SOCKET, SO_PRIORITY},
    {kAny, SOL_SOCKET, SO_LINGER, true},
    {kAny, SOL_SOCKET, SO_RCVLOWAT, true},
    {kAny, SOL_SOCKET, SO_RCVTIMEO},
    {kAny, SOL_SOCKET, SO_SNDTIMEO},
    {kAny, SOL_SOCKET, SO_TIMESTAMP},
    {kAny, SOL_SOCKET, SO_TIMESTAMPNS},
    {kAny, SOL_SOCKET, SO_TIMESTAMPING},
    {kAny, SOL_SOCKET, SO_MARK},
    {kAny, SOL_SOCKET, SO_BINDTODEVICE},
    {kAny, SOL_SOCKET, SO_BUSY_POLL},
    {kAny, SOL_SOCKET, SO_NO_CHECK},
    {kAny, SOL_SOCKET, SO_RXQ_OVFL},
    {kAny, SOL_SOCKET, SO_WIFI_STATUS},
    {kAny, SOL_SOCKET, SO_NOFCS},
    {kAny, SOL_SOCKET, SO_SELECT_ERR_QUEUE},
    {kAny, SOL_SOCKET, SO_MAX_PACING_RATE},
    {kAny, SOL_SOCKET, SO_TXTIME},
    {kAny, SOL_SOCKET, SO_ZEROCOPY},
    {kAny, SOL_SOCKET, SO_PEEK_OFF, true},
    {kUnix | kNetlink, SOL_SOCKET, SO_PASSCRED, true},
    {kUnix | kNetlink, SOL_SOCKET, SO_PASSSEC},
    {kUnix, SOL_SOCKET, 76 /* SO_PASSPIDFD */},
    {kInet6, IPPROTO_IPV6, IPV6_V6ONLY},
    {kInet, IPPROTO_IP, IP_FREEBIND},
    {kInet, IPPROTO_IP, IP_TRANSPARENT},
    {kInet, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
    {kInet, IPPROTO_IP, IP_TOS},
    {kInet, IPPROTO_IP, IP_TTL},
    {kInet, IPPROTO_IP, IP_MINTTL},
    {kInet, IPPROTO_IP, IP_RECVTTL},
    {kInet, IPPROTO_IP, IP_RECVTOS},
    {kInet, IPPROTO_IP, IP_RECVOPTS},
    {kInet, IPPROTO_IP, IP_RETOPTS},
    {kInet, IPPROTO_IP, IP_PKTINFO},
    {kInet, IPPROTO_IP, IP_RECVORIGDSTADDR},
    {kInet, IPPROTO_IP, IP_RECVERR},
    {kInet, IPPROTO_IP, IP_MTU_DISCOVER},
    {kUdp, IPPROTO_IP, IP_MULTICAST_TTL},
    {kUdp, IPPROTO_IP, IP_MULTICAST_LOOP},
    {kUdp, IPPROTO_IP, IP_MULTICAST_ALL},
    {kUdp, IPPROTO_IP, IP_MULTICAST_IF},
    {kInet, IPPROTO_IP, IP_UNICAST_IF},
    {kInet6, IPPROTO_IPV6, IPV6_UNICAST_HOPS},
    {kInet6, IPPROTO_IPV6, IPV6_MINHOPCOUNT},
    {kUdp6, IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    {kUdp6, IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    {kUdp6, IPPROTO_IPV6, IPV6_MULTICAST_IF},
    {kUdp6, IPPROTO_IPV6, IPV6_MULTICAST_ALL},
    {kInet6, IPPROTO_IPV6, IPV6_UNICAST_IF},
    {kInet6, IPPROTO_IPV6, IPV6_RECVPKTINFO},
    {kInet6, IPPROTO_IPV6, IPV6_RECVHOPLIMIT},
    {kInet6, IPPROTO_IPV6, IPV6_RECVTCLASS},
    {kInet6, IPPROTO_IPV6, IPV6_RECVERR},
    {kInet6, IPPROTO_IPV6, IPV6_TCLASS},
    {kInet6, IPPROTO_IPV6, IPV6_DONTFRAG},
    {kInet6, IPPROTO_IPV6, IPV6_MTU_DISCOVER},
    {kInet6, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL},
    {kInet6, IPPROTO_IPV6, IPV6_FREEBIND},
    {kInet6, IPPROTO_IPV6, IPV6_TRANSPARENT},
    {kTcp, IPPROTO_TCP, TCP_CONGESTION},
    {kTcp, IPPROTO_TCP, TCP_NODELAY},
    {kTcp, IPPROTO_TCP, TCP_CORK, true},
    {kTcp, IPPROTO_TCP, TCP_KEEPIDLE},
    {kTcp, IPPROTO_TCP, TCP_KEEPINTVL},
    {kTcp, IPPROTO_TCP, TCP_KEEPCNT},
    {kTcp, IPPROTO_TCP, TCP_SYNCNT},
    {kTcp, IPPROTO_TCP, TCP_LINGER2},
    {kTcp, IPPROTO_TCP, TCP_DEFER_ACCEPT, true},
    {kTcp, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS},
    {kTcp, IPPROTO_TCP, TCP_USER_TIMEOUT},
    {kTcp, IPPROTO_TCP, TCP_FASTOPEN, true},
    {kTcp, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, true},
    {kTcp, IPPROTO_TCP, TCP_SAVE_SYN, true},
    {kTcp, IPPROTO_TCP, TCP_NOTSENT_LOWAT, true},
    {kTcp, IPPROTO_TCP, TCP_INQ},
    {kUdp, IPPROTO_UDP, UDP_NO_CHECK6_TX},
    {kUdp, IPPROTO_UDP, UDP_NO_CHECK6_RX},
    {kUdp, IPPROTO_UDP, UDP_SEGMENT, true},
    {kUdp, IPPROTO_UDP, UDP_GRO, true},
    {kNetlink, SOL_NETLINK, NETLINK_PKTINFO},
    {kNetlink, SOL_NETLINK, NETLINK_BROADCAST_ERROR},
    {kNetlink, SOL_NETLINK, NETLINK_NO_ENOBUFS},
    {kNetlink, SOL_NETLINK, NETLINK_CAP_ACK},
    {kNetlink, SOL_NETLINK, NETLINK_EXT_ACK},
    {kNetlink, SOL_NETLINK, NETLINK_GET_STRICT_CHK},
};

unsigned kinds_of(const SocketKey& k) {
  unsigned of = kAny;
  if (k.family == AF_UNIX) of |= kUnix;
  if (k.family == AF_NETLINK) of |= kNetlink;
  if (k.family == AF_INET || k.family == AF_INET6) {
    of |= kInet | (k.type == SOCK_STREAM ? kTcp : kUdp);
  }
  if (k.family == AF_INET6) of |= kInet6;
  if (k.family == AF_INET6 && k.type == SOCK_DGRAM) of |= kUdp6;
  return of;
}

bool get(int fd, int level, int name, std::string* ret) {
  char value[256];
  socklen_t n = sizeof(value);
  if (getsockopt(fd, level, name, value, &n) != 0) return false;
  ret->assign(value, n);
  return true;
}

const std::string& int_bytes(int value) {
  static std::string bytes;
  bytes.assign(reinterpret_cast<const char*>(&value), sizeof(value));
  return bytes;
}

int int_of(const std::string& bytes) {
  int value = 0;
  memcpy(&value, bytes.data(), std::min(sizeof(value), bytes.size()));
  return value;
}

// The values of a new socket; nullptr: none can be made.
const std::vector<std::string>* defaults_of(const SocketKey& key) {
  static std::map<SocketKey, std::vector<std::string>> known;
  const auto it = known.find(key);
  if (it != known.end()) return &it->second;
  const os::Fd fresh(socket(key.family, key.type | SOCK_CLOEXEC, key.protocol));
  if (!fresh) return nullptr;
  std::vector<std::string> values;
  for (const Option& o : kOptions) {
    std::string value;
    if ((o.of & kinds_of(key)) != 0) get(fresh.get(), o.level, o.name, &value);
    values.push_back(value);
  }
  for (const int name : {SO_RCVBUF, SO_SNDBUF}) {
    values.push_back(int_bytes(int_option(fresh.get(), SOL_SOCKET, name)));
  }
  return &known.emplace(key, std::move(values)).first->second;
}

// The sizes of buffers are the program's only if it has set them; else TCP chooses them as it goes.
void read_buffers(int fd, const std::vector<std::string>& usual, std::vector<OptionValue>* ret) {
  std::string locked;
  const bool known = get(fd, SOL_SOCKET, SO_BUF_LOCK, &locked);
  for (const bool receive : {false, true}) {
    const int name = receive ? SO_RCVBUF : SO_SNDBUF;
    const int value = int_option(fd, SOL_SOCKET, name);
    const bool set = known ? (int_of(locked) & (receive ? 2 : 1)) != 0
                           : int_of(usual[std::size(kOptions) + (receive ? 0 : 1)]) != value;
    if (set) ret->push_back({SOL_SOCKET, name, int_bytes(value / 2)});
  }
}

std::string read_filter(int fd, std::vector<OptionValue>* ret) {
  socklen_t blocks = 0;
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &blocks) != 0) {
    return errno == EACCES ? "a socket with an eBPF filter" : "";
  }
  if (blocks == 0) return "";
  std::string code(blocks * sizeof(sock_filter), '\0');
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, code.data(), &blocks) != 0) {
    return "a socket with a filter that cannot be read";
  }
  ret->push_back({SOL_SOCKET, SO_ATTACH_FILTER, code});
  if (int_option(fd, SOL_SOCKET, SO_LOCK_FILTER) != 0) {
    ret->push_back({SOL_SOCKET, SO_LOCK_FILTER, int_bytes(1)});
  }
  return "";
}

struct Group {
  uint32_t interface;
  sockaddr_storage address;
};

void add_group(uint32_t interface, int family, const void* address, std::vector<Group>* ret) {
  Group g{interface, {}};
  g.address.ss_family = static_cast<sa_family_t>(family);
  const bool v4 = family == AF_INET;
  auto* bytes = reinterpret_cast<char*>(&g.address);
  memcpy(bytes + (v4 ? offsetof(sockaddr_in, sin_addr) : offsetof(sockaddr_in6, sin6_addr)),
         address, v4 ? 4 : 16);
  ret->push_back(g);
}

// All groups that anybody on this machine has joined.
std::vector<Group> joined_groups(int family, pid_t pid) {
  std::vector<Group> all;
  const std::string dir = "/proc/" + std::to_string(pid) + "/net/";
  const std::string text = os::read_or_empty(dir + (family == AF_INET ? "igmp" : "igmp6"));
  uint32_t interface = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    unsigned value = 0;
    char hex[40] = "";
    if (family == AF_INET6) {
      unsigned char address[16] = {};
      if (sscanf(line.c_str(), "%u %*s %32s", &interface, hex) != 2) continue;
      for (unsigned i = 0; i < 16 && sscanf(hex + size_t{2} * i, "%2x", &value) == 1; i++) {
        address[i] = static_cast<unsigned char>(value);
      }
      add_group(interface, family, address, &all);
    } else if (line.starts_with("\t")) {
      if (sscanf(line.c_str(), " %8x", &value) == 1) add_group(interface, family, &value, &all);
    } else {
      (void)sscanf(line.c_str(), "%u", &interface);
    }
  }
  return all;
}

// A socket does not tell its groups, but for each one whether it is a member.
std::string read_groups(int fd, const SocketKey& key, pid_t pid, std::vector<OptionValue>* ret) {
  const int level = key.family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
  for (const Group& g : joined_groups(key.family, pid)) {
    group_filter filter{};
    filter.gf_interface = g.interface;
    filter.gf_group = g.address;
    socklen_t n = sizeof(filter);
    if (getsockopt(fd, level, MCAST_MSFILTER, &filter, &n) != 0) continue;
    if (filter.gf_fmode != MCAST_EXCLUDE || filter.gf_numsrc != 0) {
      return "a socket that receives a multicast group from chosen senders";
    }
    group_req join{};
    join.gr_interface = g.interface;
    join.gr_group = g.address;
    ret->push_back({level, MCAST_JOIN_GROUP, {reinterpret_cast<const char*>(&join), sizeof(join)}});
  }
  return "";
}

std::string why_not(int fd, const SocketKey& key) {
  std::string value;
  if (key.family != AF_INET && key.family != AF_INET6) return "";
  if (key.type == SOCK_STREAM && get(fd, IPPROTO_TCP, TCP_ULP, &value) && !value.empty() &&
      value[0] != '\0') {
    return std::string("a socket whose stream the kernel changes (TCP_ULP, ") + value.c_str() + ")";
  }
  if (key.type == SOCK_DGRAM && int_option(fd, IPPROTO_UDP, UDP_CORK) != 0) {
    return "a socket that holds back a datagram (UDP_CORK)";
  }
  if (key.type == SOCK_DGRAM && int_option(fd, IPPROTO_UDP, UDP_ENCAP) != 0) {
    return "a socket of a tunnel (UDP_ENCAP)";
  }
  return "";
}

bool is_last(const OptionValue& v) {
  if (v.level == SOL_SOCKET && (v.name == SO_RCVBUF || v.name == SO_SNDBUF ||
                                v.name == SO_ATTACH_FILTER || v.name == SO_LOCK_FILTER)) {
    return true;
  }
  return std::ranges::any_of(
      kOptions, [&](const Option& o) { return o.level == v.level && o.name == v.name && o.last; });
}

bool set(int fd, const OptionValue& v) {
  if (v.level == SOL_SOCKET && v.name == SO_ATTACH_FILTER) {
    std::string code = v.value;
    const sock_fprog program{static_cast<uint16_t>(code.size() / sizeof(sock_filter)),
                             reinterpret_cast<sock_filter*>(code.data())};
    return setsockopt(fd, v.level, v.name, &program, sizeof(program)) == 0;
  }
  const auto bytes = static_cast<socklen_t>(v.value.size());
  if (v.level == SOL_SOCKET && (v.name == SO_RCVBUF || v.name == SO_SNDBUF)) {
    const int force = v.name == SO_RCVBUF ? SO_RCVBUFFORCE : SO_SNDBUFFORCE;
    if (setsockopt(fd, v.level, force, v.value.data(), bytes) == 0) return true;
    return setsockopt(fd, v.level, v.name, v.value.data(), bytes) == 0 &&
           int_option(fd, v.level, v.name) == int_of(v.value) * 2;
  }
  std::string now;  // an accepted one has some already, and cannot be given them
  if (get(fd, v.level, v.name, &now) && now == v.value) return true;
  return setsockopt(fd, v.level, v.name, v.value.data(), bytes) == 0;
}

}  // namespace

std::string read_options(int fd, const SocketKey& key, pid_t pid, std::vector<OptionValue>* ret) {
  std::string why = why_not(fd, key);
  const std::vector<std::string>* usual = defaults_of(key);
  if (!why.empty()) return why;
  if (usual == nullptr) return std::string("a socket as cannot be made here: ") + strerror(errno);
  const unsigned of = kinds_of(key);
  for (size_t i = 0; i < std::size(kOptions); i++) {
    const Option& o = kOptions[i];
    std::string value;
    if ((o.of & of) == 0 || !get(fd, o.level, o.name, &value) || value == (*usual)[i]) continue;
    ret->push_back({o.level, o.name, value});
  }
  read_buffers(fd, *usual, ret);
  if ((of & kUdp) != 0) why = read_groups(fd, key, pid, ret);
  return why.empty() ? read_filter(fd, ret) : why;
}

std::string set_options(int fd, const std::vector<OptionValue>& options, OptionTime when) {
  std::string failed;
  for (const OptionValue& v : options) {
    if (is_last(v) != (when == OptionTime::kLast) || set(fd, v)) continue;
    failed += (failed.empty() ? "option " : ", ") + std::to_string(v.level) + "/" +
              std::to_string(v.name) + " (" + strerror(errno) + ")";
  }
  return failed;
}

}  // namespace cr::agent
