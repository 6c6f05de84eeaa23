// SPDX-License-Identifier: MIT
// staging.cc - memory that a checkpoint is copied to: how much, and how much of it is set aside.
// Invariant: never more than the bound (--staging); what the stop needs is in memory before it.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One checkpoint".

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "agent/session.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

constexpr uint64_t kKeepStagingBytes = 64ull << 20;  // from one checkpoint to the next
constexpr uint64_t kLeastForStopBytes = 16ull << 20;

uint64_t kilobytes(const std::string& text, const char* field) {
  return strtoull(os::status_field(text, field).c_str(), nullptr, 10) << 10;
}

// What a process has in memory or in swap, by its status file.
uint64_t resident_bytes(const std::string& status) {
  return kilobytes(status, "RssAnon") + kilobytes(status, "RssShmem") + kilobytes(status, "VmSwap");
}

uint64_t available_memory() {
  return kilobytes(os::read_or_empty("/proc/meminfo"), "MemAvailable");
}

}  // namespace

// How much staging memory this checkpoint may take, as address space; it is filled by writing to
// the memory file, which fails where memory is short.
Trouble Session::prepare_staging() {
  const std::string status = os::read_or_empty(os::task_path(pid_, control_tid_, "status"));
  looked_at_pages_ = resident_bytes(status) / kPageSize;
  uint64_t need = kilobytes(status, "VmRSS") + kilobytes(status, "VmSwap") + embedded_bytes_;
  if (embedded_bytes_ == 0) {  // nothing is known of the map yet
    auto maps = os::parse_maps(os::read_or_empty(os::task_path(pid_, control_tid_, "maps")));
    for (const os::MapEntry& m : maps ? *maps : std::vector<os::MapEntry>()) {
      if (m.ino != 0 && !m.shared) need += std::min(m.end - m.start, 4 * kEmbedFileBytes);
    }
  }
  // Everything may be copied early, early again, and once more in the stop.
  if (tracks()) need *= 3;
  need += need / 16 + kLeastForStopBytes;
  constexpr uint64_t kSmallBytes = 256ull << 20;
  uint64_t bound = options_.staging_bytes;
  if (bound == 0) bound = need <= kSmallBytes ? need : available_memory() / 2 / staging_share_;
  bound = std::max<uint64_t>(bound, 4ull << 20);
  need = page_ceil(std::min(need, bound));
  if (staging_map_.size() < need) {
    // More than is needed now: it is address space only, and to map it anew takes milliseconds.
    const uint64_t bytes = page_ceil(need + need / 4);
    staging_map_.reset();
    if (ftruncate(staging_fd_.get(), static_cast<off_t>(bytes)) != 0) {
      return trouble(Errc::kNoMemory, errno,
                     std::string("staging memory cannot grow: ") + strerror(errno));
    }
    auto m = os::Mapping::map(staging_fd_.get(), bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
    if (!m) return trouble(Errc::kNoMemory, m.error().sys_errno, "mapping staging memory");
    staging_map_ = std::move(*m);
  }
  staging_pages_ = need / kPageSize;
  early_pages_ = first_found_pages_ = staged_bytes_ = 0;
  return {};
}

// So many pages behind those in use are in memory from now on. Takes long if there are many.
bool Session::set_aside(uint64_t pages) {
  if (early_pages_ + pages <= staging_kept_pages_) return true;
  if (fallocate(staging_fd_.get(), 0, static_cast<off_t>(early_pages_ * kPageSize),
                static_cast<off_t>(pages * kPageSize)) != 0) {
    return false;
  }
  // For what help_copy() will write; without it each page costs a fault, no more.
  (void)madvise(staging_map_.data() + early_pages_ * kPageSize, pages * kPageSize,
                MADV_POPULATE_WRITE);
  staging_kept_pages_ = early_pages_ + pages;
  return true;
}

// Room for what the stop is likely to produce. More of it would take longer to set aside than it
// saves, and the program writes meanwhile.
uint64_t Session::likely_pages() const {
  uint64_t likely = 2 * last_found_pages_;
  if (!pages_.any_early()) likely = std::max(2 * last_copied_pages_, looked_at_pages_ / 16);
  return std::clamp(likely, kLeastForStopBytes / kPageSize, kKeepStagingBytes / kPageSize);
}

// What an early pass that is not the first, and the stop behind it, are likely to find.
uint64_t Session::likely_late_pages() const {
  if (!last_late_pages_) return 2 * likely_pages();
  return std::clamp(2 * *last_late_pages_, kLeastForStopBytes / kPageSize,
                    2 * kKeepStagingBytes / kPageSize);
}

// What the stop will need is set aside before it; all that it may need if that is everything.
// Beyond that it takes memory as it goes. Should it produce more than the bound of staging, it is
// captured in portions, and the pause includes writing.
Trouble Session::reserve_staging(bool stands_still) {
  const uint64_t left = staging_pages_ - early_pages_;
  const uint64_t pages = pages_.knows_most() ? std::min(left, likely_pages()) : left;
  channel()->staging_first = early_pages_;
  channel()->staging_pages = staging_pages_;
  // In the stop it would only take longer.
  if (stands_still || set_aside(pages)) return {};
  return trouble(Errc::kNoMemory, errno,
                 "no memory for staging " + std::to_string(pages * kPageSize >> 20) +
                     " MiB; use --staging to bound it");
}

// Gives back what the next checkpoint is not likely to need; failed: the last one took it in vain.
void Session::trim_staging(bool failed) {
  if (!failed && staging_kept_pages_ * kPageSize <= kKeepStagingBytes) return;
  fallocate(staging_fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
            static_cast<off_t>(kKeepStagingBytes),
            static_cast<off_t>(staging_map_.size() - kKeepStagingBytes));
  staging_kept_pages_ = std::min(staging_kept_pages_, kKeepStagingBytes / kPageSize);
}

}  // namespace cr::agent
