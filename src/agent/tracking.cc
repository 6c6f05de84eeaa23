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
  format::Tracker tracker;
};
constexpr Name kNames[] = {{"auto", format::kTrackerUnknown},
                           {"uffd", format::kTrackerUserfaultfd},
                           {"softdirty", format::kTrackerSoftDirty},
                           {"hash", format::kTrackerHash},
                           {"all", format::kTrackerEverything}};

const char* word_of(format::Tracker tracker) {
  const char* word = "all";
  for (const Name& n : kNames) {
    if (n.tracker == tracker) word = n.word;
  }
  return word;
}

bool scan_is_forbidden() { return getenv("CR_NO_PAGEMAP_SCAN") != nullptr; }

}  // namespace

bool tracking_of_word(const std::string& word, format::Tracker* ret) {
  for (const Name& n : kNames) {
    if (word != n.word) continue;
    *ret = n.tracker;
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
    uint32_t bits = tracking_bit(format::kTrackerEverything) | tracking_bit(format::kTrackerHash);
    if (!scan_is_forbidden() && try_userfault()) bits |= tracking_bit(format::kTrackerUserfaultfd);
    if (try_soft_dirty()) bits |= tracking_bit(format::kTrackerSoftDirty);
    return bits;
  }();
  return possible;
}

std::string why_not(format::Tracker wanted) {
  utsname u{};
  uname(&u);
  return std::string("--track=") + word_of(wanted) + " cannot be had on Linux " + u.release + " ";
}

std::string check_tracking(format::Tracker wanted) {
  if (wanted == format::kTrackerUnknown || choose_tracking(wanted, possible_tracking()) != 0)
    return "";
  std::string why = "here";
  if (wanted == format::kTrackerUserfaultfd) {
    why = scan_is_forbidden() ? "while CR_NO_PAGEMAP_SCAN is set"
                              : "(userfaultfd with asynchronous write protection and PAGEMAP_SCAN "
                                "need Linux 6.7, and no seccomp filter against them)";
  } else if (wanted == format::kTrackerSoftDirty) {
    why =
        "(a page that was written after /proc/self/clear_refs has no soft-dirty mark; the kernel "
        "is built without CONFIG_MEM_SOFT_DIRTY)";
  }
  const format::Tracker best = choose_tracking(format::kTrackerUnknown, possible_tracking());
  return why_not(wanted) + why + "; leave the choice to --track=auto (here: " + word_of(best) +
         "), or use --track=hash, which every kernel has";
}

format::Tracker choose_tracking(format::Tracker wanted, uint32_t possible) {
  const auto has = [&](format::Tracker t) { return (possible & tracking_bit(t)) != 0; };
  if (wanted != format::kTrackerUnknown) return has(wanted) ? wanted : format::kTrackerUnknown;
  for (const format::Tracker t :
       {format::kTrackerUserfaultfd, format::kTrackerSoftDirty, format::kTrackerHash}) {
    if (has(t)) return t;
  }
  return format::kTrackerEverything;
}

}  // namespace cr::agent
