// SPDX-License-Identifier: MIT
// quick.h - the quick path of checkpoint(): a program with one thread captures itself, without
// being stopped, and leaves the pages that were written in a ring from which the agent commits
// them. This is the memory that both share, behind the channel's tables in the same memfd.
// Invariant: the program publishes a slot when all of it is there; the agent gives its room back
// when it is whole in a buffer, or has failed. What is in `plan` was true when the newest image was
// captured, and an attempt that finds anything else is none.
// Context: N. Doc: docs/ARCHITECTURE.md, "The quick path".
#pragma once

#include "format/channel.h"

namespace cr::format {

inline constexpr uint64_t kQuickOff = kChannelBytes;
inline constexpr uint64_t kQuickSlots = 16;
inline constexpr uint64_t kQuickRingPages = 4096;
inline constexpr uint64_t kQuickMostPages = kQuickRingPages / 2;  // of one checkpoint
inline constexpr uint64_t kQuickCopyPages = 512;  // private pages of files of which a copy is kept
inline constexpr uint64_t kQuickMostRanges = 1024;
inline constexpr uint64_t kQuickMostRuns = 4096;  // of one checkpoint, and private ones
inline constexpr uint64_t kQuickMostFds = 64;
inline constexpr uint64_t kQuickMostMappings = 1024;
inline constexpr uint64_t kQuickMapsBytes = 128ull << 10;
// Links of /proc/PID/task: ".", "..", the program's thread, the control thread.
inline constexpr uint64_t kQuickTaskLinks = 4;
// Of a run: the pages are not there (any more).
inline constexpr uint64_t kPagesGone = ~uint64_t{0} - 1;

struct QuickRange {
  uint64_t start, end;
};

// One line of the memory map.
struct QuickMapping {
  uint64_t start, end, offset, ino;
  uint32_t dev_major, dev_minor;
  uint32_t flags;     // kProcmapReadable and so on
  uint32_t ask_name;  // 0: the mapping before this one is of the same file
  uint64_t name_off, name_bytes;
};

struct QuickFd {
  int32_t fd;
  uint32_t file;  // index into the image's files
  uint32_t kind;  // FileKind
  uint32_t open_flags, cloexec, mode;
  uint64_t dev, ino, position, bytes;
  int64_t copied_ctime_ns;  // st_ctime when the journal of changed files got its copy; -1: no copy
  uint64_t path_bytes, path_off;  // in QuickHead::paths; regular files and directories
  uint32_t has_modes;             // of a terminal: the first bytes of its TerminalState
  uint8_t modes[offsetof(TerminalState, rows)];
};

// What the newest image says of the process.
struct QuickPlan {
  uint64_t anon_count, file_count;  // of ranges: first the anonymous ones
  uint64_t private_count;           // runs of pages in the files' ranges that are not the files'
  uint64_t fd_count;                // the size of /proc/PID/fd (Linux 6.2)
  uint64_t private_split;           // files below: the agent looks at them, above: the program
  uint64_t maps_bytes, cwd_bytes, cwd_off;  // cwd: in QuickHead::paths
  uint64_t mapping_count;                   // 0: the map's text is compared
  uint64_t journal_off, journal_bytes;      // the log of changed files, and its size; ~0: none
  int32_t pid, tid, ppid, pgid, sid;
  uint32_t umask, personality, dumpable, thp_disabled, child_subreaper;
  uint32_t uid[3], gid[3];  // real, effective, saved
  uint64_t caps[3];         // effective, permitted, inheritable
  uint64_t brk;
  RlimitRecord rlimits[16];
  SigactionRecord sigactions[64];
  uint64_t sigmask, fs_base, gs_base;
  uint64_t altstack_sp, altstack_bytes;
  uint32_t altstack_flags;
  int32_t pdeathsig;
  uint64_t clear_child_tid, robust_list, robust_list_bytes, timer_slack_ns;
  uint64_t rseq_addr;
  uint32_t rseq_bytes, rseq_signature;
  char name[16];
  uint32_t no_new_privs, keepcaps, has_pkru;
  uint32_t agent_sees_names;  // 1: paths and locks of open files, when it looks at the map
  uint32_t plain;             // 1: all pages may be read by the program itself, whatever others do
  int32_t sched_policy, sched_priority, nice;
  uint32_t affinity_bytes, reserved;
  uint8_t affinity[128];
};

// The registers that a function call must keep.
struct QuickContext {
  uint64_t rbx, rbp, r12, r13, r14, r15, rsp, rip;
  uint32_t mxcsr;
  uint16_t fpu_control, reserved;
  uint32_t pkru, reserved1;
};

struct QuickSlot {
  QuickContext context;
  uint64_t ring_first, ring_pages;  // in the ring: first the runs, then the pages
  uint64_t run_count;               // Run::staging_page counts from the ring's beginning
  uint64_t begin_ns, realtime_ns, pause_ns;
  uint64_t file_count;
  uint64_t generation;  // QuickHead's at its beginning
  uint32_t cpu;         // on which the program is; ~0: it does not know
  uint32_t reserved;
  struct {
    uint32_t file, reserved;
    uint64_t position, bytes;
  } files[kQuickMostFds];
};

struct QuickHead {
  // The program works only while `busy` is 1 and `enabled` was 1 after that; the agent, to take a
  // checkpoint itself, clears `enabled` and waits until `busy` is 0.
  uint32_t enabled;
  uint32_t busy;
  uint32_t marking;  // pages are being marked as not written; stays 1 if it never came to a slot
  uint32_t refused;  // QuickRefusal of the newest attempt that was none
  uint64_t published, finished;  // slots, counted from 0; in the ring: [finished, published)
  uint32_t finished_word;        // futex: raised with `finished`
  uint32_t program_waits;        // 1: for finished_word
  uint32_t agent_sleeps;         // 1: must be told of a slot, by ringing the doorbell
  uint32_t announce;             // 1: the control thread shall tell the agent
  uint32_t list_private;         // agent: 1: kCommandCapture fills private_runs
  int32_t private_errno;         // out
  uint32_t reserved;
  // The agent, on another processor, looks at what is slow to look at: the memory map, timers, the
  // paths and locks of open files, the private pages of mapped ones. A number that the program
  // raises with each attempt, and a QuickHelp.
  uint64_t help;
  uint32_t agent_spins;  // 1: it looks out for slots and for `help`
  uint32_t reserved2;
  uint64_t generation;  // raised when the agent did not wait for an attempt to end
  uint64_t ring_used;   // by the program: where the next slot begins
  // Hot pages; see capture/quick_pages.h.
  uint32_t unmarked;  // checkpoints since pages were marked as not written
  uint32_t hot;       // 1: they need not be marked at each
  uint64_t last_pages, last_run_count;
  uint32_t copies;  // QuickCopies
  uint32_t reserved3;
  QuickPlan plan;
  QuickSlot slots[kQuickSlots];
  QuickRange ranges[kQuickMostRanges];
  QuickRange private_runs[kQuickMostRuns];
  QuickFd fds[kQuickMostFds];
  char paths[64 << 10];
  char maps[kQuickMapsBytes];  // text of /proc/self/maps
  uint8_t maps_now[kQuickMapsBytes];
  QuickMapping mappings[kQuickMostMappings];  // the names are in `maps`
  // Room for the program's own work, so that an attempt writes to no page that is saved.
  Run runs[kQuickMostRuns], marked_runs[kQuickMostRuns];
  QuickRange last_runs[kQuickMostRuns];  // that were written at the checkpoint before
  uint8_t scratch[64 << 10];
};

enum QuickHelp : uint64_t {
  kHelpNone = 0,
  kHelpWanted = 1,
  kHelpBegun = 2,
  kHelpSame = 3,
  kHelpDiffers = 4,
  kHelpStates = 8,  // the number counts in these
};

// What the copies of the files' private pages are, all of them together.
enum QuickCopies : uint32_t {
  kCopiesNone = 0,
  kCopiesLast = 1,  // as the newest slot has them
  kCopiesNext = 2,  // as the slot has them that is being filled
};

enum QuickRefusal : uint32_t {
  kQuickDone = 0,
  kQuickThreads = 1,  // another thread, a child, another process id
  kQuickSignals = 2,  // mask, pending signals, dispositions, alternate stack
  kQuickTimers = 3,
  kQuickProcess = 4,  // credentials, limits, working directory and the like
  kQuickFiles = 5,
  kQuickMap = 6,
  kQuickPages = 7,  // too many, or memory that is not tracked
  kQuickRoom = 8,   // none in the ring, and the agent made none
};

inline constexpr uint64_t kQuickHeadBytes = 2ull << 20;
static_assert(sizeof(QuickHead) <= kQuickHeadBytes);
inline constexpr uint64_t kQuickCopiesOff = kQuickHeadBytes + kQuickRingPages * kPageSize;
inline constexpr uint64_t kQuickBytes = kQuickCopiesOff + kQuickCopyPages * kPageSize;
inline constexpr uint64_t kSharedBytes = kChannelBytes + kQuickBytes;

inline QuickHead* quick_head(ChannelHeader* channel) {
  return reinterpret_cast<QuickHead*>(reinterpret_cast<uint8_t*>(channel) + kQuickOff);
}
inline uint8_t* quick_ring(QuickHead* head) {
  return reinterpret_cast<uint8_t*>(head) + kQuickHeadBytes;
}
inline uint8_t* quick_copies(QuickHead* head) {
  return reinterpret_cast<uint8_t*>(head) + kQuickCopiesOff;
}

}  // namespace cr::format
