// SPDX-License-Identifier: MIT
// resolver.h - the addresses of hosts, looked up beside everybody who needs them: a name service
// may take ten seconds to say that it does not answer.
// Invariant: find() never waits; a host that had an address keeps it until there is another one.
// Context: N; any thread. A thread that looks up may outlive this object, and then tells nobody.
// Doc: docs/store.md, "What happens when".
#pragma once

#include <stdint.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "node/address.h"

namespace cr::node {

class Resolver {
 public:
  struct Answer {
    std::optional<Address> address;  // the last one that was good
    std::string trouble;             // of the last look: for people, with the next step; else ""
    uint64_t looking_ns = 0;         // since when it is being looked up, 0: it is not
  };
  // As look_up() with port 0; *ret_why: for people.
  using LookUp = std::function<Result<Address>(const std::string& host, std::string* ret_why)>;

  // news: something was looked up; called by another thread, and must not call back.
  explicit Resolver(std::function<void()> news = {}, LookUp look_up = {});
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // What is known, at once. Digits are known always; a name is looked up anew, beside.
  Answer find(const std::string& host, uint16_t port);
  // The same, but waits until then (CLOCK_MONOTONIC) for the first answer.
  Answer wait(const std::string& host, uint16_t port, uint64_t until_ns);

 private:
  struct Shared;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace cr::node
