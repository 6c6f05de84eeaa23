// SPDX-License-Identifier: MIT
// private_start.h - starting the private crstored of this user on this host, and finding the
// crstored that a session or a tool is to talk to.
// Invariant: what is started is no child that a checkpointed program could see, and has none of the
// starter's descriptors, terminal, signals, LD_* and CR_* variables.
// Context: N; one thread. Doc: docs/store.md, "A private crstored".
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "node/client.h"

namespace cr::node {

// Runs `program --private`, which ends when a private crstored serves; 30 s at most. The text says
// why none does.
Result<void> start_private(const std::string& program, std::string* ret_text);

// Starts private crstored for a process that is a subreaper: such a one would inherit what it
// starts. A small process, made before, does it; it ends with us.
class PrivateStarter {
 public:
  // To be called before there are threads, and before the process becomes a subreaper.
  static Result<std::shared_ptr<PrivateStarter>> make(const std::string& program);

  // Its process if that is a child of ours, because we are the first process of a container say;
  // what it starts stays below it. Else 0.
  pid_t child() const { return child_; }
  // Asks for one, without waiting.
  void start();
  bool is_starting() const { return starting_; }
  // "": it serves, else why not; nullopt: nobody knows yet, or nobody has asked.
  std::optional<std::string> outcome();

 private:
  PrivateStarter(os::Fd fd, pid_t child) : fd_(std::move(fd)), child_(child) {}
  os::Fd fd_;
  pid_t child_;
  bool starting_ = false;
};

// $CR_STORE_SOCKET; "" if it is not set.
std::string socket_of_environment();
// That one is named instead of a socket: the private crstored.
inline constexpr char kPrivateSocket[] = "private";

// Which crstored? The one that is named; else this node's; else the private one.
class StoreFinder {
 public:
  StoreFinder() = default;
  // socket: as in CR_STORE_SOCKET; "": none is named.
  explicit StoreFinder(std::string socket, std::shared_ptr<PrivateStarter> starter = nullptr)
      : given_(std::move(socket)), starter_(std::move(starter)) {}

  // Doesn't wait. kBusy: a private one is being started; call again in a moment.
  Result<Client> connect(std::string* ret_text);
  // For tools: program: if nobody is there a private one is started by it; "": none is.
  Result<Client> connect_or_start(const std::string& program, std::string* ret_text);
  // This one is kept to: it has taken the session.
  void keep();
  // The one that connect() has reached or tried last.
  const std::string& socket() const { return socket_; }
  bool is_private() const { return is_private_; }
  bool may_start() const { return starter_ != nullptr && given_.find('/') == std::string::npos; }

 private:
  Result<Client> try_all(std::string* ret_text);

  std::string given_, socket_;
  bool is_private_ = false;  // the one at socket_
  std::shared_ptr<PrivateStarter> starter_;
  uint64_t started_ns_ = 0, next_start_ns_ = 0, pause_ns_ = 0;
  std::string start_failure_;
};

}  // namespace cr::node
