// SPDX-License-Identifier: MIT
// resolver.cc - see resolver.h. Invariant: as there. Context: N.
#include "node/resolver.h"

#include <string.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <utility>

#include "os/thread.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using rawsys::now_ns;

constexpr unsigned kMostThreads = 8;
constexpr uint64_t kFreshNs = 1'000'000'000;  // so long an answer is not asked for again

Result<Address> look_up_name(const std::string& host, std::string* ret_why) {
  return look_up(host, 0, ret_why);
}

}  // namespace

struct Resolver::Shared {
  struct Host {
    Answer answer;
    bool waits = false;  // for a thread
    uint64_t looked_ns = 0;
  };

  LookUp look_up;
  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  std::function<void()> news;
  std::map<std::string, Host> hosts;
  unsigned threads = 0;
  bool stop = false;

  void begin(const std::string& host);
  void work();
};

// mutex is held. In its own thread, as each may stand still for long.
void Resolver::Shared::begin(const std::string& host) {
  Host& h = hosts[host];
  const uint64_t now = now_ns();
  if (h.answer.looking_ns != 0 || (h.looked_ns != 0 && now - h.looked_ns < kFreshNs)) return;
  h.answer.looking_ns = now;
  h.waits = true;
}

void Resolver::Shared::work() {
  std::unique_lock held(mutex);
  for (;;) {
    const auto next =
        std::ranges::find_if(hosts, [](const auto& host) { return host.second.waits; });
    if (stop || next == hosts.end()) break;
    Host& h = next->second;  // none is ever removed
    h.waits = false;
    std::string why;
    held.unlock();
    const auto found = look_up(next->first, &why);
    held.lock();
    h.answer.looking_ns = 0;
    h.looked_ns = now_ns();
    if (found) h.answer.address = *found;
    h.answer.trouble =
        found ? ""
              : next->first + ": the host's name cannot be resolved (" + why +
                    "); see this node's name service and /etc/hosts, or give the address in "
                    "digits in the member list";
    changed.notify_all();
    if (news && !stop) news();
  }
  threads--;
}

Resolver::Resolver(std::function<void()> news, LookUp look_up)
    : shared_(std::make_shared<Shared>()) {
  shared_->news = std::move(news);
  shared_->look_up = look_up ? std::move(look_up) : look_up_name;
}

Resolver::~Resolver() {
  const std::lock_guard held(shared_->mutex);
  shared_->stop = true;
  shared_->news = nullptr;
}

Resolver::Answer Resolver::find(const std::string& host, uint16_t port) {
  return wait(host, port, 0);
}

Resolver::Answer Resolver::wait(const std::string& host, uint16_t port, uint64_t until_ns) {
  if (const auto digits = address_of_digits(host, port)) return {*digits, "", 0};
  std::unique_lock held(shared_->mutex);
  shared_->begin(host);
  Shared::Host& h = shared_->hosts[host];
  if (h.waits && shared_->threads < kMostThreads) {
    auto thread = os::Thread::start([shared = shared_] { shared->work(); });
    if (thread) {
      thread->detach();
      shared_->threads++;
    } else if (shared_->threads == 0) {
      h.waits = false;
      h.answer.looking_ns = 0;
      h.answer.trouble = host + ": the host's name cannot be resolved, as no thread can be made; " +
                         "raise the limit of processes (ulimit -u, TasksMax)";
    }
  }
  for (uint64_t now; !h.answer.address && h.answer.looking_ns != 0 && (now = now_ns()) < until_ns;)
    shared_->changed.wait_for(held, std::chrono::nanoseconds(until_ns - now));
  Answer answer = h.answer;
  if (answer.address) answer.address->set_port(port);
  return answer;
}

}  // namespace cr::node
