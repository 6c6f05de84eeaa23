// SPDX-License-Identifier: MIT
// socket_diag.h - what the kernel tells of sockets from outside: NETLINK_SOCK_DIAG of UNIX sockets,
// /proc/net of TCP connections; and addresses.
// Invariant: looking changes nothing. Context: N (agent).
#pragma once

#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "os/fd.h"

namespace cr::agent {

struct UnixInfo {
  uint32_t state = 0;  // as TCP's
  uint32_t shutdown = 0;
  bool has_peer = false;
  uint64_t peer_ino = 0;          // 0: closed, or not accepted yet
  uint32_t backlog = 0;           // of one that listens
  uint64_t file_ino = 0;          // of the path
  std::vector<uint64_t> waiting;  // inodes of those whose connections were not accepted yet
};

// false: the kernel does not tell (errno).
bool unix_info(uint64_t ino, UnixInfo* ret);

// One end of a TCP connection, by its addresses.
struct TcpEntry {
  std::string local, remote;  // plain_address()
  uint32_t state = 0;
  uint64_t unread = 0;
  uint64_t ino = 0;  // 0: nobody has it open
};
// Of the network namespace of that process.
std::vector<TcpEntry> list_tcp(pid_t pid);

// "" for an address without family; of IPv4 and IPv6 the same form, address and port, so that they
// can be compared.
std::string plain_address(const std::string& sockaddr);
uint16_t port_of(const std::string& sockaddr);
bool is_any_address(const std::string& sockaddr);
// The same address in that family, with that port.
std::string make_address(int family, const std::string& sockaddr, uint16_t port);
// For messages.
std::string address_words(const std::string& sockaddr);

std::string local_address(int fd);
std::string peer_address(int fd);  // "": it has none
// An int option; 0 if there is none.
int int_option(int fd, int level, int name);

}  // namespace cr::agent
