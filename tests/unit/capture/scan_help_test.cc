// SPDX-License-Identifier: MIT
// scan_help_test.cc - two processors look for written pages together, on real memory of this
// process and with the kernel's own count of writes.
// Invariant under test: whoever helps, and whatever becomes of it, the same pages are found as the
// control thread finds alone, and their content is what is in memory.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "agent/help_scan.h"
#include "capture/capture.h"
#include "capture/pagemap.h"
#include "format/scan_help.h"
#include "rawsys/rawsys.h"
#include "tests/unit/nvheap/random.h"

using cr::kPageSize;
using cr::format::ChannelHeader;
using cr::format::Range;
using cr::format::Run;
using cr::format::ScanHelp;
using cr_test::Random;

namespace {

constexpr uint64_t kBytes = 224ull << 20, kPages = kBytes / kPageSize;
constexpr uint64_t kRangesOff = 64 << 10, kRunsOff = 128 << 10, kScanOff = 8 << 20;
constexpr uint64_t kChannel = kScanOff + cr::format::kScanHelpBytes;

enum class Helper { kNone, kHelps, kClaimsInVain, kComesAndGoes };

uint8_t* map(uint64_t bytes) {
  void* r = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  cr_assert(r != MAP_FAILED);
  return static_cast<uint8_t*>(r);
}

class Machine {
 public:
  explicit Machine(uint64_t seed) : random_(seed) {
    channel_ = map(kChannel);
    ch().ranges_off = kRangesOff;
    ch().runs_off = kRunsOff;
    ch().runs_cap = (kScanOff - kRunsOff) / sizeof(Run);
    ch().tracking = cr::format::kTrackerUserfaultfd;
    ch().use_pagemap_scan = 1;
    files_.staging = memfd_create("staging", MFD_CLOEXEC);
    files_.mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    files_.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    files_.tracker = static_cast<int>(cr::capture::open_tracker());
    memory_ = map(kBytes);
    cr_assert(madvise(memory_, kBytes, MADV_NOHUGEPAGE) == 0);
    cr_assert(ftruncate(files_.staging, kBytes) == 0);
  }
  ~Machine() {
    for (const int fd : {files_.staging, files_.mem, files_.pagemap, files_.tracker}) close(fd);
    munmap(memory_, kBytes);
    munmap(channel_, kChannel);
  }
  bool can_track() const {
    return files_.tracker >= 0 && cr::capture::has_pagemap_scan(files_.pagemap);
  }

  // All of it is known from here on.
  void begin() {
    for (uint64_t p = 0; p < kPages; p++) memory_[p * kPageSize] = 1;
    write_range(/*fresh=*/1);
    cr_assert_eq(cr::capture::track_ranges(scope_.proof(), ch(), files_, known_), 0);
    write_range(/*fresh=*/1);
    ch().staging_pages = kPages;
    cr_assert_eq(cr::capture::copy_pages(scope_.proof(), ch(), files_, known_), 0);
    cr_assert_eq(ch().staging_used, kPages);
  }

  void change(bool many) {
    for (uint64_t n = many ? 60000 : random_.below(300); n > 0; n--) {
      const uint64_t p = random_.below(kPages);
      if (random_.below(8) == 0) {
        cr_assert(madvise(memory_ + p * kPageSize, kPageSize, MADV_DONTNEED) == 0);
      } else {
        memory_[p * kPageSize + random_.below(kPageSize)]++;
      }
    }
  }

  // By page: 's' the same, 'c' copied, ' ' not named.
  std::string look(Helper how) {
    ScanHelp& help = *reinterpret_cast<ScanHelp*>(channel_ + kScanOff);
    ch().scan_off = how == Helper::kNone ? 0 : kScanOff;
    write_range(/*fresh=*/0);
    std::atomic<bool> begun{false}, ends{false};
    std::thread other;
    const auto job = [&] { return __atomic_load_n(&help.open, __ATOMIC_ACQUIRE) >> 32; };
    const uint64_t last_job = job();
    if (how != Helper::kNone) {
      other = std::thread([&] {
        uint64_t of = 0;
        begun = true;
        while (!ends) {
          if (how == Helper::kHelps) helper_.help(files_.pagemap, help);
          if (how == Helper::kClaimsInVain) {
            in_vain_ += claim_piece(help, /*at_front=*/false, &of) != cr::format::kNoPiece;
          }
          if (how == Helper::kComesAndGoes && job() != last_job) {
            helper_.help(files_.pagemap, help);
            break;
          }
        }
      });
      while (!begun) sched_yield();
    }
    ch().staging_first = 0;
    ch().staging_pages = kPages;
    cr_assert_eq(cr::capture::copy_pages(scope_.proof(), ch(), files_, known_), 0);
    ends = true;
    if (other.joinable()) other.join();
    cr_assert_eq(ch().more, 0);
    if (how == Helper::kHelps) {
      for (const cr::format::ScanPiece& p : help.pieces) {
        helped_ += job() != last_job && p.job == job();
      }
    }
    std::string found(kPages, ' ');
    std::vector<uint8_t> copy(kPageSize);
    for (uint64_t i = 0; i < ch().run_count; i++) {
      const Run& r = runs()[i];
      for (uint64_t k = 0; k < r.pages; k++) {
        const uint64_t p = (r.addr - address()) / kPageSize + k;
        cr_assert(p < kPages && found[p] == ' ', "page %lu twice", p);
        found[p] = r.staging_page == cr::format::kPagesSame ? 's' : 'c';
        if (found[p] == 's') continue;
        const auto off = static_cast<off_t>((r.staging_page + k) * kPageSize);
        cr_assert(pread(files_.staging, copy.data(), kPageSize, off) == ssize_t{kPageSize});
        cr_assert(memcmp(copy.data(), memory_ + p * kPageSize, kPageSize) == 0);
      }
    }
    return found;
  }

  uint64_t helped() const { return helped_; }
  uint64_t in_vain() const { return in_vain_; }

 private:
  ChannelHeader& ch() { return *reinterpret_cast<ChannelHeader*>(channel_); }
  const Run* runs() { return reinterpret_cast<const Run*>(channel_ + kRunsOff); }
  uint64_t address() const { return reinterpret_cast<uint64_t>(memory_); }

  void write_range(uint32_t fresh) {
    Range r{};
    r.start = r.map_start = address();
    r.end = r.map_end = address() + kBytes;
    r.mode = cr::format::kRangeAnon;
    r.readable = 1;
    r.fresh = fresh;
    memcpy(channel_ + kRangesOff, &r, sizeof(r));
    ch().range_count = 1;
    ch().cursor_range = ch().cursor_addr = 0;
    ch().protect = 0;
  }

  Random random_;
  uint8_t *channel_ = nullptr, *memory_ = nullptr;
  cr::capture::Files files_;
  cr::capture::Memory known_;
  cr::capture::StoppedScope scope_;
  cr::agent::ScanHelper helper_;
  uint64_t helped_ = 0, in_vain_ = 0;
};

}  // namespace

Test(scan_help, finds_what_is_found_alone) {
  Machine machine(1);
  if (!machine.can_track()) cr_skip_test("writes cannot be counted here");
  machine.begin();
  for (int round = 0; round < 12; round++) {
    machine.change(/*many=*/round == 11);  // more than the table holds
    const std::string alone = machine.look(Helper::kNone);
    cr_assert(alone.find('c') != std::string::npos && alone.find('s') != std::string::npos);
    for (const Helper how : {Helper::kHelps, Helper::kComesAndGoes}) {
      cr_assert(machine.look(how) == alone, "round %d", round);
    }
  }
  // On a busy machine the other one may have had no processor at the time.
  for (int round = 0; round < 1000 && machine.helped() == 0; round++) {
    machine.change(/*many=*/false);
    cr_assert(machine.look(Helper::kHelps) == machine.look(Helper::kNone));
  }
  cr_assert(machine.helped() > 0, "nobody ever helped");
}

Test(scan_help, a_helper_that_never_answers_is_not_waited_for) {
  Machine machine(2);
  if (!machine.can_track()) cr_skip_test("writes cannot be counted here");
  machine.begin();
  machine.change(/*many=*/false);
  const std::string alone = machine.look(Helper::kNone);
  for (int round = 0; round < 1000 && machine.in_vain() == 0; round++) {
    cr_assert(machine.look(Helper::kClaimsInVain) == alone);
  }
  cr_assert(machine.look(Helper::kHelps) == alone);
  cr_assert(machine.in_vain() > 0, "nothing was ever claimed");
}
