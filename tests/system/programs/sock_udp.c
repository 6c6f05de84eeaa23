/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * UDP sockets of both families: bound, connected, with options; datagrams of the program's own that
 * wait, with their senders and boundaries; membership in multicast groups. A socket of rtnetlink
 * that holds nothing.
 */
#define _GNU_SOURCE
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/udp.h>

#include "sock_check.h"

static int box, sender, connected, box6, four, any, group, group6, ports[8], netlink, unbound;
static struct sockaddr_nl netlink_address;

static void send_to(int fd, const char *text, const char *address, int port) {
  struct sockaddr_storage a;
  socklen_t n = sock_address(address, port, &a);
  REQUIRE(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a, n) == (ssize_t)strlen(text));
}

static void build_queues(void) {
  box = sock_bound(AF_INET, SOCK_DGRAM, "127.0.0.1", 0);
  sender = sock_bound(AF_INET, SOCK_DGRAM, "*", 0);
  connected = sock_bound(AF_INET, SOCK_DGRAM, "127.0.0.1", 0);
  sock_connect(connected, "127.0.0.1", sock_port(box));
  send_to(sender, "first", "127.0.0.1", sock_port(box));
  REQUIRE(send(connected, "second one", 10, 0) == 10);
  send_to(sender, "third", "127.0.0.1", sock_port(box));
  box6 = sock_bound(AF_INET6, SOCK_DGRAM, "::", 0);
  four = sock_bound(AF_INET, SOCK_DGRAM, "127.0.0.1", 0);
  send_to(four, "from IPv4", "127.0.0.1", sock_port(box6));
  any = sock_bound(AF_INET, SOCK_DGRAM, "*", 0);
  sock_connect(any, "127.0.0.1", sock_port(sender));
  send_to(sender, "to anybody", "127.0.0.1", sock_port(any));
  unbound = socket(AF_INET6, SOCK_DGRAM, 0);
  int i = 0;
  for (const int *fd = (int[]){box, sender, connected, box6, four, any, -1}; *fd >= 0; fd++)
    ports[i++] = sock_port(*fd);
}

static void build_groups(void) {
  struct ip_mreqn join = {.imr_ifindex = 1};
  struct ipv6_mreq join6 = {.ipv6mr_interface = 1};
  group = sock_bound(AF_INET, SOCK_DGRAM, "*", 0);
  group6 = sock_bound(AF_INET6, SOCK_DGRAM, "::", 0);
  inet_pton(AF_INET, "239.1.2.3", &join.imr_multiaddr);
  inet_pton(AF_INET6, "ff02::1234", &join6.ipv6mr_multiaddr);
  REQUIRE(setsockopt(group, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join) == 0);
  REQUIRE(setsockopt(group6, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &join6, sizeof join6) == 0);
  sock_set(group, IPPROTO_IP, IP_MULTICAST_TTL, 3);
  sock_set(group, SOL_SOCKET, SO_REUSEADDR, 1);
  sock_set(box, IPPROTO_IP, IP_PKTINFO, 1);
  sock_set(box6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  sock_set(sender, SOL_SOCKET, SO_BROADCAST, 1);
  sock_set(any, SOL_SOCKET, SO_RCVBUF, 40000);
  sock_set(unbound, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9);
}

static void build_netlink(void) {
  netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_NOTIFY};
  socklen_t n = sizeof netlink_address;
  REQUIRE(bind(netlink, (struct sockaddr *)&a, sizeof a) == 0);
  REQUIRE(getsockname(netlink, (struct sockaddr *)&netlink_address, &n) == 0);
}

static void check_from(const char *what, int fd, const char *text, int from_port) {
  char got[64] = "";
  struct sockaddr_storage from;
  socklen_t n = sizeof from;
  CHECK_EQ(what, strlen(text),
           recvfrom(fd, got, sizeof got, MSG_DONTWAIT, (struct sockaddr *)&from, &n));
  CHECK_STR(what, text, got);
  CHECK_EQ(what, from_port, ntohs(((struct sockaddr_in *)&from)->sin_port));
}

static void check_queues(void) {
  int i = 0;
  for (const int *fd = (int[]){box, sender, connected, box6, four, any, -1}; *fd >= 0; fd++)
    CHECK_EQ("port", ports[i++], sock_port(*fd));
  check_from("datagram 1", box, "first", ports[1]);
  check_from("datagram 2", box, "second one", ports[2]);
  check_from("datagram 3", box, "third", ports[1]);
  sock_check_empty("no more", box);
  check_from("from IPv4 to IPv6", box6, "from IPv4", ports[4]);
  check_from("to a connected one", any, "to anybody", ports[1]);
  CHECK_EQ("its peer", ports[1], sock_peer_port(any));
  CHECK_EQ("the other's peer", ports[0], sock_peer_port(connected));
  CHECK_EQ("no peer", -1, sock_peer_port(box));
  CHECK_EQ("send again", 3, send(connected, "new", 3, 0));
  check_from("what comes", box, "new", ports[2]);
  CHECK_EQ("the unbound one's port", 0, sock_port(unbound));
}

static void check_options(void) {
  struct ip_mreqn join = {.imr_ifindex = 1};
  struct ipv6_mreq join6 = {.ipv6mr_interface = 1};
  inet_pton(AF_INET, "239.1.2.3", &join.imr_multiaddr);
  inet_pton(AF_INET6, "ff02::1234", &join6.ipv6mr_multiaddr);
  CHECK_EQ("member of the group", 0,
           setsockopt(group, IPPROTO_IP, IP_DROP_MEMBERSHIP, &join, sizeof join));
  CHECK_EQ("member of the IPv6 group", 0,
           setsockopt(group6, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &join6, sizeof join6));
  CHECK_EQ("no member", -1, setsockopt(box, IPPROTO_IP, IP_DROP_MEMBERSHIP, &join, sizeof join));
  CHECK_EQ("IP_MULTICAST_TTL", 3, sock_get(group, IPPROTO_IP, IP_MULTICAST_TTL));
  CHECK_EQ("SO_REUSEADDR", 1, sock_get(group, SOL_SOCKET, SO_REUSEADDR));
  CHECK_EQ("without SO_REUSEADDR", 0, sock_get(box, SOL_SOCKET, SO_REUSEADDR));
  CHECK_EQ("IP_PKTINFO", 1, sock_get(box, IPPROTO_IP, IP_PKTINFO));
  CHECK_EQ("IPV6_RECVPKTINFO", 1, sock_get(box6, IPPROTO_IPV6, IPV6_RECVPKTINFO));
  CHECK_EQ("SO_BROADCAST", 1, sock_get(sender, SOL_SOCKET, SO_BROADCAST));
  CHECK_EQ("SO_RCVBUF", 80000, sock_get(any, SOL_SOCKET, SO_RCVBUF));
  CHECK_EQ("IPV6_UNICAST_HOPS", 9, sock_get(unbound, IPPROTO_IPV6, IPV6_UNICAST_HOPS));
}

static void check_netlink(void) {
  struct {
    struct nlmsghdr head;
    struct rtgenmsg body;
  } ask = {.head = {.nlmsg_len = sizeof ask,
                    .nlmsg_type = RTM_GETLINK,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
  char answer[4096];
  struct sockaddr_nl a;
  socklen_t n = sizeof a;
  CHECK_EQ("netlink address", 0, getsockname(netlink, (struct sockaddr *)&a, &n));
  CHECK_BYTES("netlink address", &netlink_address, &a, sizeof a);
  CHECK_EQ("ask the kernel", sizeof ask, send(netlink, &ask, sizeof ask, 0));
  CHECK("its answer", recv(netlink, answer, sizeof answer, 0) > 0);
}

int main(void) {
  build_queues();
  build_groups();
  build_netlink();
  test_ready();
  test_wait();
  check_queues();
  check_options();
  check_netlink();
  test_finish();
}
