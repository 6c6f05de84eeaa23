// SPDX-License-Identifier: MIT
// gate.h - the port of the member list. Who connects there says that it is a crstored, and is told
// at which port UCX listens.
// Invariant: what comes from outside is at most 16 bytes of each connection, which are compared and
// no more; UCX hears only of who is of this protocol. (UCX 1.13 ends the process when some garbage
// comes to a port at which it listens itself.)
// Context: N; one thread. Never blocks. The handler is called from progress() only, which is to be
// called once in a second at least: where no descriptor is free, who connects waits, and is looked
// at again then. Reads no clock:
// who takes too long is pushed out by newer ones, or forgotten by the caller.
// Doc: docs/format/wire.md.
#pragma once

#include <stdint.h>

#include <map>
#include <memory>
#include <string>

#include "base/base.h"
#include "format/wire.h"
#include "node/address.h"
#include "os/fd.h"

namespace cr::node {

class GateHandler {
 public:
  virtual ~GateHandler() = default;
  // To each ask() one of these, unless it was forgotten. port: of the peer's UCX.
  virtual void on_door(uint64_t asked, uint16_t port) = 0;
  virtual void on_no_door(uint64_t asked, const Error& error) = 0;
  // Somebody was refused who connected to us. address: "host:port" in digits.
  virtual void on_stranger(format::WireReason reason, const std::string& address) = 0;
};

class Gate {
 public:
  // handler: must live longer than the gate. Errors: kSystem.
  static Result<std::unique_ptr<Gate>> create(GateHandler* handler);

  // Answers at this address from now on: UCX is at ucx_port. Returns the own port. Once only.
  // Errors: kBusy (the port is in use), kSystem.
  Result<uint16_t> listen(const Address& address, uint16_t ucx_port);
  // Begins to ask the peer at this address where its UCX is.
  void ask(uint64_t number, const Address& peer);
  void forget(uint64_t number);

  // Readable when there is something to do. Owned by the gate.
  int event_fd() const { return epoll_.get(); }
  // Something is to be told that event_fd() does not know of.
  bool has_news() const { return news_; }
  // Does what can be done now; returns how much that was.
  unsigned progress();

 private:
  struct Visitor {
    os::Fd fd;
    uint64_t asked = 0;  // 0: it has connected to us
    std::string address;
    bool spoken = false;  // our message is sent
    uint32_t have = 0;
    uint8_t bytes[sizeof(format::WireDoor)] = {};
    Error error{};  // told by the next progress()
  };
  explicit Gate(GateHandler* handler) : handler_(handler) {}

  Result<void> watch(int fd, uint64_t number, uint32_t events, int how);
  Result<void> begin(uint64_t number, Visitor* v, const Address& peer);
  void tell_failures();
  void accept_all();
  void make_room();
  void serve(uint64_t number, Visitor* v);
  Result<void> speak(uint64_t number, Visitor* v);
  void take_knock(uint64_t number, Visitor* v);
  void take_answer(uint64_t number, const Visitor& v);
  void fail(uint64_t number, const Error& error);

  GateHandler* handler_;
  os::Fd epoll_, listen_;
  uint16_t ucx_port_ = 0;
  uint64_t last_number_ = 0;
  std::map<uint64_t, Visitor> visitors_;  // the oldest first
  bool news_ = false;
  bool some_wait_ = false;  // to be accepted, without a word from event_fd()
};

}  // namespace cr::node
