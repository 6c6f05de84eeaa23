// SPDX-License-Identifier: MIT
// describe_sockets.h - the sockets of the stopped program.
// Invariant: what is described comes back, but for connections to the outside, which come back as
// reset, and datagrams from there; what cannot refuses the checkpoint with its name.
// Context: N (agent), while the program is stopped. Doc: docs/ARCHITECTURE.md, "Sockets".
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/kinds.h"
#include "agent/socket_diag.h"
#include "agent/socket_options.h"
#include "agent/socket_queue.h"
#include "format/sockets.h"

namespace cr::agent {

// The process through which sockets are looked at.
struct SocketHolder {
  pid_t pid, tid;
  int pidfd;
  store::Model* model;
  std::map<int, uint32_t> files;  // records of descriptors that wait in queues; before describe()
};

// Of one process, or of several, whose sockets are connected to one another's.
class SocketDescriber {
 public:
  // One of the program's open files. Where descriptors wait in its queue, they are open here while
  // this object lives: ret_flying.
  Trouble look(const Program& program, const std::shared_ptr<SocketHolder>& holder,
               const Descriptor& d, std::vector<int>* ret_flying);
  // When all were looked at: the content of their records, in the models of their holders.
  Trouble describe();

 private:
  struct Socket {
    std::shared_ptr<SocketHolder> holder;
    std::string name;  // for messages
    uint64_t ino = 0;
    bool waits = false;  // no O_NONBLOCK
    os::Fd copy;
    SocketKey key{};
    std::string local, remote;
    UnixInfo info;
    uint32_t tcp_state = 0;
    int polled = 0;
    std::vector<QueuedMessage> queue;
    std::vector<OptionValue> options;
    format::SocketState state{};
  };
  Trouble look_unix(const Program& program, Socket& s);
  Trouble find_unix_place(Socket& s);
  Trouble find_datagram_place(Socket& s);
  Trouble find_tcp_place(Socket& s);
  Trouble find_lost_place(Socket& s, const std::vector<TcpEntry>& all);
  Trouble read_name(Socket& s);
  Trouble check_netlink(Socket& s);
  Trouble read_queue(Socket& s);
  Trouble settle(Socket& s);
  Trouble check_senders(Socket& s);
  Socket* find(uint64_t ino);
  Socket* tcp_peer(const Socket& s);
  Socket* sender(const Socket& to, const std::string& from);
  void write(Socket& s);

  std::vector<Socket> all_;
  std::vector<TcpEntry> tcp_;
  bool tcp_listed_ = false;
};

// Inode of the socket that this one is connected to; 0: it is none of UNIX, or not connected.
uint64_t peer_inode(const Descriptor& d);

}  // namespace cr::agent
