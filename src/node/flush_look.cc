// SPDX-License-Identifier: MIT
// flush_look.cc - see flush_look.h. Invariant: as there. Context: N.
#include "node/flush_look.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

namespace cr::node {
namespace {

constexpr unsigned kMostLooks = 8;

}  // namespace

struct FlushLook::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  unsigned looks = 0;  // under way
};

FlushLook::FlushLook(std::string dir) : dir_(std::move(dir)), shared_(std::make_shared<Shared>()) {}

std::optional<FlushListing> FlushLook::list(uint64_t ns) const {
  std::unique_lock held(shared_->mutex);
  if (shared_->looks >= kMostLooks) return std::nullopt;  // these wait already
  shared_->looks++;
  const auto found = std::make_shared<std::optional<FlushListing>>();
  std::thread([shared = shared_, found, dir = dir_] {
    FlushListing listing;
    listing.files = list_flushed(dir, &listing.bad);
    const std::lock_guard again(shared->mutex);
    *found = std::move(listing);
    shared->looks--;
    shared->changed.notify_all();
  }).detach();
  shared_->changed.wait_for(held, std::chrono::nanoseconds(ns), [&] { return found->has_value(); });
  return std::exchange(*found, std::nullopt);
}

}  // namespace cr::node
