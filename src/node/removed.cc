// SPDX-License-Identifier: MIT
// removed.cc - see removed.h. Invariant: as there. Context: N; any thread.
#include "node/removed.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <vector>

#include "format/removed_reader.h"
#include "node/disk_words.h"
#include "node/part_store.h"
#include "os/fd.h"
#include "rawsys/rawsys.h"
#include "store/replace_file.h"

namespace cr::node {
namespace {

using format::RemovedRecord;
using format::Triple;

constexpr uint64_t kKeptNs = 30ull * 24 * 3600 * 1'000'000'000;

}  // namespace

RemovedSessions::RemovedSessions(const std::string& dir, bool durable, std::string* ret_text)
    : path_(dir + "/" + format::kRemovedFileName), durable_(durable) {
  const auto loaded = load();
  if (loaded) return;
  const std::string aside = path_ + ".damaged";
  rename(path_.c_str(), aside.c_str());
  *ret_text = disk_words(path_, loaded.error()) + "; it is now " + aside +
              ", and parts of removed sessions that come back stay until they are removed again";
}

Result<void> RemovedSessions::load() {
  auto text = os::read_file(path_);
  if (!text && text.error().sys_errno == ENOENT) return {};
  if (!text) return text.error();
  std::vector<uint64_t> aligned((text->size() + 7) / 8);
  memcpy(aligned.data(), text->data(), text->size());
  CR_TRY(const auto records,
         format::read_removed(reinterpret_cast<const uint8_t*>(aligned.data()), text->size()));
  for (const RemovedRecord& r : records) records_[session_id_of(r.session_id)] = r;
  return {};
}

Result<void> RemovedSessions::save(const Records& records) const {
  std::vector<RemovedRecord> all;
  for (const auto& [_, r] : records) all.push_back(r);
  format::RemovedHeader header;
  format::seal(&header, all);
  return store::replace_file_of(path_, header, all, durable_);
}

Result<void> RemovedSessions::note(const SessionId& id, const Triple& newest) {
  if (newest.epoch == 0 || newest.sequence == 0) return {};  // no part was found
  const std::lock_guard held(mutex_);
  const uint64_t now = rawsys::clock_ns(CLOCK_REALTIME);
  const auto known = records_.find(id);
  if (known != records_.end() && !is_newer(newest, known->second.newest)) return {};
  Records changed = records_;
  std::erase_if(changed, [&](const auto& r) { return r.second.realtime_ns + kKeptNs < now; });
  if (changed.size() >= format::kMostRemoved && !changed.contains(id)) {
    changed.erase(
        std::ranges::min_element(changed, {}, [](const auto& r) { return r.second.realtime_ns; }));
  }
  RemovedRecord& r = changed[id];
  memcpy(r.session_id, id.data(), id.size());
  r.newest = newest;
  r.realtime_ns = now;
  CR_TRYV(save(changed));
  records_ = std::move(changed);
  return {};
}

Result<void> RemovedSessions::forget(const SessionId& id) {
  const std::lock_guard held(mutex_);
  if (!records_.contains(id)) return {};
  Records changed = records_;
  changed.erase(id);
  CR_TRYV(save(changed));
  records_ = std::move(changed);
  return {};
}

Triple RemovedSessions::covers(const SessionId& id, const Triple& part) const {
  const std::lock_guard held(mutex_);
  const auto at = records_.find(id);
  return at == records_.end() || is_newer(part, at->second.newest) ? Triple{} : at->second.newest;
}

}  // namespace cr::node
