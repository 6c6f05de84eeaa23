// SPDX-License-Identifier: MIT
// restore_sockets.h - makes the sockets of a session again: of one image or of several, whose
// sockets may be connected to one another's. They are known by their inode numbers then.
// Invariant: all that may fail because of others (an address in use, a name that is taken) is done
// by make() and finish(), before the program exists; what was bound is removed by `undo`.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Sockets".
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "agent/kinds.h"
#include "agent/restore_plan.h"
#include "agent/socket_options.h"
#include "format/sockets.h"

namespace cr::agent {

struct SavedSocket {
  const format::ImageView* image = nullptr;
  uint64_t ino = 0;
  std::string name;  // for messages
  format::SocketState state{};
  std::string local, remote;  // struct sockaddr
  std::vector<OptionValue> options;
  os::Fd fd;
  os::Fd other;  // what is at the other end until finish(), where that is no socket of the session
  bool kept = false;
  bool is_awaited = false;  // a thread goes on with its connect(2) of this one

  bool is(uint32_t phase) const { return state.phase == phase; }
  bool is_inet() const;
  bool is_tcp() const;
  bool has_name() const;     // UNIX
  std::string path() const;  // UNIX; "": it is not bound to one
  std::string cwd() const { return image->string(image->process->cwd); }
};

class SocketMaker {
 public:
  SocketMaker(std::vector<std::string>& warnings, Undo& undo) : warnings_(warnings), undo_(undo) {}

  // Before make(). The image must outlive this object.
  void add(const format::ImageView& image);
  // A process still has this one, as it was: it is used as it is. Before make().
  void keep(uint64_t ino, os::Fd fd);

  // Sockets, names and connections.
  Trouble make();
  // The descriptor of such a socket; a new number of it each time.
  os::Fd get(uint64_t ino) const;
  // The rest, when all files that may wait in queues are open: what is in the queues, and what
  // would keep it from getting there.
  using FdOf = std::function<int(const format::ImageView& image, uint32_t file)>;
  Trouble finish(const FdOf& fd_of);

  // After finish(): what is in these is sent by the process itself, because it says who sent it.
  const std::vector<uint64_t>& filled_by_process() const { return by_process_; }

  // Instead of all that, of one that was kept and holds something else by now: "" if its senders
  // are there and can send.
  std::string why_not_refilled(uint64_t ino);
  // It holds what it held.
  Trouble refill(uint64_t ino);

 private:
  using Item = SavedSocket;
  struct Listener {  // own: for the time of making
    std::string address;
    int type, fd;
    os::Fd own;
  };

  Trouble create(Item& i, os::Fd* ret);
  Trouble make_single(Item& i);
  Trouble make_connected(bool tcp);
  Trouble bind_one(Item& i);
  Trouble bind_path(const Item& i, int fd, bool gone);
  Trouble listen_all();

  Trouble make_tcp_pair(Item& a, Item& b);
  Trouble make_reset(Item& i);
  Trouble connect_from(Item& i, const std::string& to);
  bool listens_at(uint16_t port) const;
  bool is_served(const Item& b, const Item& a) const;

  Trouble make_unix_pair(Item& a, Item* b);
  Trouble connect_by_name(Item* from, Item& accepted, os::Fd* ret_other);
  Trouble listen_for(Item& like, int* ret);

  bool is_filled_by_process(const Item& to);
  Trouble send_queue(Item& to, const FdOf& fd_of);
  Trouble send_message(Item& to, const format::SocketMessage& m, int from, const FdOf& fd_of);
  int sender_of(Item& to, const format::SocketMessage& m);
  Trouble connect_rest(Item& i);
  void end_other(Item& i);
  void settle(Item& i);

  Item* find(uint64_t ino);
  void warn(const Item& i, const std::string& what) { warnings_.push_back(i.name + ": " + what); }

  std::vector<std::string>& warnings_;
  Undo& undo_;
  std::vector<Item> items_;
  std::vector<Listener> listeners_;
  std::vector<uint64_t> by_process_;
  std::vector<std::pair<std::string, std::string>> gone_;      // directory and name, to be removed
  std::map<std::pair<uint32_t, uint32_t>, os::Fd> strangers_;  // senders, by family and type
};

// "fd 3 (...): " and what went wrong.
Trouble socket_trouble(const SavedSocket& s, const std::string& what, int error);

// For the process itself, when it has its descriptors: what waits in those sockets, sent by it.
void fill_sockets(const format::ImageView& image, const std::vector<uint64_t>& sockets,
                  Recipe& recipe);
// The same, of all others.
void furnish_sockets(const format::ImageView& image, Recipe& recipe);

}  // namespace cr::agent
