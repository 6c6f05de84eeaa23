// SPDX-License-Identifier: MIT
// client.h - talking to this node's crstored over its UNIX socket: lines of JSON.
// Invariant: never waits longer than it is told to; the other side runs as us or as root.
// Context: N. Doc: docs/store.md, "The control socket".
#pragma once

#include <optional>
#include <string>

#include "base/base.h"
#include "node/json.h"
#include "os/fd.h"

namespace cr::node {

// Where a crstored listens that is told nothing else: $CR_STORE_SOCKET, else
// $XDG_RUNTIME_DIR/crstored.sock if that is there or we are not root, else /run/crstored.sock.
// Which one a session or a tool talks to: StoreFinder.
std::string default_socket_path();

class Client {
 public:
  // The text names the socket, the cause and the next step.
  static Result<Client> connect(const std::string& path, std::string* ret_text);

  int fd() const { return fd_.get(); }
  // Sends without waiting. false: the connection is gone, or it takes no more now.
  bool send(const Json& message);
  // The next message; nullopt: none within that time (0: that has arrived), or gone().
  std::optional<Json> receive(int milliseconds);
  bool gone() const { return gone_; }

 private:
  explicit Client(os::Fd fd) : fd_(std::move(fd)) {}
  os::Fd fd_;
  std::string in_, out_;
  bool gone_ = false;
};

}  // namespace cr::node
