// SPDX-License-Identifier: MIT
// tracking.cc - see tracking.h. Invariant: as there. Context: N (agent).
#include "agent/tracking.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "os/fd.h"
#include "rawsys/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::tracking_bit;

struct Name {
  const char* word;
  TrackMode mode;
  format::Tracking tracking;
};
constexpr Name kNames[] = {{"auto", TrackMode::kAuto, format::kTrackUnknown},
                           {"uffd", TrackMode::kUserfault, format::kTrackUserfault},
                           {"softdirty", TrackMode::kSoftDirty, format::kTrackSoftDirty},
                           {"hash", TrackMode::kHash, format::kTrackHash},
                           {"all", TrackMode::kAll, format::kTrackEverything}};

const Name& name_of(TrackMode mode) {
  for (const Name& n : kNames) {
    if (n.mode == mode) return n;
  }
  return kNames[0];
}

bool scan_is_forbidden() { return getenv("CR_NO_PAGEMAP_SCAN") != nullptr; }

}  // namespace

bool tracking_of_word(const std::string& word, TrackMode* ret) {
  for (const Name& n : kNames) {
    if (word != n.word) continue;
    *ret = n.mode;
    return true;
  }
  return false;
}

bool try_userfault() {
  constexpr unsigned long kUserModeOnly = 1;
  const os::Fd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  rawsys::PmScanArg nothing{};
  nothing.size = sizeof(nothing);
  nothing.start = nothing.end = 0x10000;
  if (!pagemap || rawsys::sys(__NR_ioctl, pagemap.get(), rawsys::kPagemapScan, &nothing) < 0) {
    return false;
  }
  const os::Fd fd(
      static_cast<int>(rawsys::sys(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly)));
  rawsys::UffdioApi api{rawsys::kUffdApi, rawsys::kUffdFeatureWpAsync, 0};
  return fd && rawsys::sys(__NR_ioctl, fd.get(), rawsys::kUffdioApi, &api) == 0;
}

bool try_soft_dirty() {
  constexpr uint64_t kMark = 1ull << 55;
  const os::Fd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  const os::Fd clear_refs(open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC));
  auto page = os::Mapping::map(-1, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  if (!pagemap || !clear_refs || !page) return false;
  auto* byte = reinterpret_cast<volatile unsigned char*>(page->data());
  const auto is_marked = [&](bool* ret) {
    uint64_t entry = 0;
    const auto off = static_cast<off_t>(reinterpret_cast<uint64_t>(byte) / kPageSize * 8);
    if (pread(pagemap.get(), &entry, sizeof(entry), off) != sizeof(entry)) return false;
    *ret = (entry & kMark) != 0;
    return true;
  };
  bool fresh = false, cleared = true, written = false;
  *byte = 1;
  if (!is_marked(&fresh) || write(clear_refs.get(), "4", 1) != 1 || !is_marked(&cleared)) {
    return false;
  }
  *byte = 2;
  return is_marked(&written) && fresh && !cleared && written;
}

uint32_t possible_tracking() {
  static const uint32_t possible = [] {
    uint32_t bits = tracking_bit(format::kTrackEverything) | tracking_bit(format::kTrackHash);
    if (!scan_is_forbidden() && try_userfault()) bits |= tracking_bit(format::kTrackUserfault);
    if (try_soft_dirty()) bits |= tracking_bit(format::kTrackSoftDirty);
    return bits;
  }();
  return possible;
}

std::string why_not(TrackMode mode) {
  utsname u{};
  uname(&u);
  return std::string("--track=") + name_of(mode).word + " cannot be had on Linux " + u.release +
         " ";
}

std::string check_tracking(TrackMode mode) {
  if (mode == TrackMode::kAuto || choose_tracking(mode, possible_tracking()) != 0) return "";
  std::string why = "here";
  if (mode == TrackMode::kUserfault) {
    why = scan_is_forbidden() ? "while CR_NO_PAGEMAP_SCAN is set"
                              : "(userfaultfd with asynchronous write protection and PAGEMAP_SCAN "
                                "need Linux 6.7, and no seccomp filter against them)";
  } else if (mode == TrackMode::kSoftDirty) {
    why =
        "(a page that was written after /proc/self/clear_refs has no soft-dirty mark; the kernel "
        "is built without CONFIG_MEM_SOFT_DIRTY)";
  }
  const format::Tracking best = choose_tracking(TrackMode::kAuto, possible_tracking());
  std::string other = "all";
  for (const Name& n : kNames) {
    if (n.tracking == best) other = n.word;
  }
  return why_not(mode) + why + "; leave the choice to --track=auto (here: " + other +
         "), or use --track=hash, which every kernel has";
}

format::Tracking choose_tracking(TrackMode mode, uint32_t possible) {
  const auto has = [&](format::Tracking t) { return (possible & tracking_bit(t)) != 0; };
  if (mode != TrackMode::kAuto) {
    const format::Tracking wanted = name_of(mode).tracking;
    return has(wanted) ? wanted : format::kTrackUnknown;
  }
  for (const format::Tracking t :
       {format::kTrackUserfault, format::kTrackSoftDirty, format::kTrackHash}) {
    if (has(t)) return t;
  }
  return format::kTrackEverything;
}

}  // namespace cr::agent
