// SPDX-License-Identifier: MIT
// flush_look.cc - see flush_look.h. Invariant: as there. Context: N.
#include "node/flush_look.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "os/thread.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

constexpr unsigned kMostLooks = 8;
constexpr uint64_t kAskNs = 200'000'000;  // whether somebody still waits

}  // namespace

struct FlushLook::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  unsigned looks = 0;  // under way
};

FlushLook::FlushLook(std::string dir) : dir_(std::move(dir)), shared_(std::make_shared<Shared>()) {}

std::optional<FlushListing> FlushLook::list(uint64_t ns,
                                            const std::function<bool()>& wanted) const {
  std::unique_lock held(shared_->mutex);
  if (shared_->looks >= kMostLooks) return std::nullopt;  // these wait already
  const auto found = std::make_shared<std::optional<FlushListing>>();
  auto thread = os::Thread::start([shared = shared_, found, dir = dir_] {
    FlushListing listing;
    listing.files = list_flushed(dir, &listing.bad);
    const std::lock_guard again(shared->mutex);
    *found = std::move(listing);
    shared->looks--;
    shared->changed.notify_all();
  });
  if (!thread) {
    return FlushListing{{},
                        {dir_ + ": it cannot be looked at, as no thread can be made; try again"}};
  }
  thread->detach();
  shared_->looks++;  // before it can take it back, as it has to wait for the mutex
  const uint64_t end_ns = rawsys::now_ns() + ns;
  for (uint64_t now; !*found && (now = rawsys::now_ns()) < end_ns && (!wanted || wanted());) {
    shared_->changed.wait_for(held, std::chrono::nanoseconds(std::min(end_ns - now, kAskNs)),
                              [&] { return found->has_value(); });
  }
  return std::exchange(*found, std::nullopt);
}

}  // namespace cr::node
