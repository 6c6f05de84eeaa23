// SPDX-License-Identifier: MIT
// page_hashes_stopped.cc - see page_hashes.h: a hash table with linear probing, of groups of 16
// pages, from which single groups are never removed.
// Invariant: at least an eighth of the places is empty, so that every search ends. Context: S;
// reserve N.
#include "capture/page_hashes.h"

namespace cr::capture {

// Where the group is, or where it would have to be.
PageHashes::Group* PageHashes::place(Group* groups, uint64_t capacity, uint64_t key) {
  uint64_t i = (key / kGroupBytes * 0x9e3779b97f4a7c15ull) >> 20;
  for (;; i++) {
    Group* g = &groups[i & (capacity - 1)];
    if (g->key == key || g->key == 0) return g;
  }
}

PageHashes::Group* PageHashes::find(uint64_t addr) {
  const uint64_t key = key_of(addr);
  if (last_ != nullptr && last_->key == key) return last_;
  if (capacity_ == 0) return nullptr;
  Group* g = place(groups_, capacity_, key);
  if (g->key == 0) return nullptr;
  last_ = g;
  return g;
}

PageHashes::Group* PageHashes::find_or_make(uint64_t addr) {
  Group* g = find(addr);
  if (g != nullptr || used_ >= capacity_ / 8 * 7) return g;
  g = place(groups_, capacity_, key_of(addr));
  g->key = key_of(addr);
  used_++;
  last_ = g;
  return g;
}

bool PageHashes::is_live(const Group& g, uint64_t least_stamp) const {
  if (g.key == 0) return false;
  for (const uint64_t s : g.stamp) {
    if (s >= least_stamp) return true;
  }
  return false;
}

long PageHashes::reserve(uint64_t pages, uint64_t least_stamp) {
  uint64_t live = 0;
  for (uint64_t i = 0; i < capacity_; i++) live += is_live(groups_[i], least_stamp) ? 1 : 0;
  const uint64_t most_bytes =
      pages * kPageSize / 16 > kLeastBytes ? pages * kPageSize / 16 : kLeastBytes;
  // Half full when every page lies beside others; what is there may be less crowded than that.
  const uint64_t dense = pages / kGroupPages * 2, sparse = live * 2;
  const uint64_t wanted = dense > sparse ? dense : sparse;
  uint64_t capacity = 256;
  while (capacity < wanted && capacity * 2 * sizeof(Group) <= most_bytes) capacity *= 2;
  if (capacity <= capacity_ && (used_ <= capacity_ / 2 || live == used_)) return 0;
  SideMemory fresh;
  const long e = make_side_memory(kWindowBytes + capacity * sizeof(Group), &fresh);
  if (e != 0) return e;
  auto* groups = reinterpret_cast<Group*>(fresh.data + kWindowBytes);
  uint64_t used = 0;
  for (uint64_t i = 0; i < capacity_ && used < capacity / 8 * 7; i++) {
    if (!is_live(groups_[i], least_stamp)) continue;
    *place(groups, capacity, groups_[i].key) = groups_[i];
    used++;
  }
  free_side_memory(memory_);
  memory_ = fresh;
  groups_ = groups;
  capacity_ = capacity;
  used_ = used;
  last_ = nullptr;
  return 0;
}

void PageHashes::clear() {
  free_side_memory(memory_);
  groups_ = last_ = nullptr;
  capacity_ = used_ = 0;
}

bool PageHashes::is_same(uint64_t addr, uint64_t hash, uint64_t least_stamp) {
  const Group* g = find(addr);
  if (g == nullptr) return false;
  const uint64_t i = index_in(addr);
  return g->stamp[i] >= least_stamp && g->hash[i] == hash;
}

void PageHashes::note(uint64_t addr, uint64_t hash, uint64_t stamp) {
  Group* g = find_or_make(addr);
  if (g == nullptr) return;
  g->hash[index_in(addr)] = hash;
  g->stamp[index_in(addr)] = stamp;
}

void PageHashes::forget(uint64_t start, uint64_t end) {
  for (uint64_t at = start; at < end; at += kPageSize) {
    Group* g = find(at);
    if (g != nullptr) g->stamp[index_in(at)] = 0;
  }
}

}  // namespace cr::capture
