// SPDX-License-Identifier: MIT
// channel.h - what the control thread (in the program) and the agent (outside) share: one memfd
// with a header and tables, and messages on a SOCK_SEQPACKET socket. Same machine, same build.
// Invariant: only fixed-width fields; the agent never trusts a length from the program without a
// bound, because the program's memory may be corrupt.
// Context: N, H, S, R. Doc: docs/ARCHITECTURE.md, "One checkpoint".
#pragma once

#include <stdint.h>

#include "format/file_journal.h"
#include "format/image.h"

namespace cr::format {

inline constexpr uint32_t kChannelVersion = 16;
inline constexpr char kAgentSocketName[] = "agent.sock";
// Shared mappings of a memfd with this name belong to the session and are not saved: the channel,
// and what the control thread remembers about pages.
inline constexpr char kChannelMemfdName[] = "cr-channel";
// Locked (shared) by the control thread while the program lives, with or without an agent, so that
// a
// second copy of it is never brought to life.
inline constexpr char kProgramLockName[] = "program.lock";

// ---- messages: program -> agent ---------------------------------------------------------------
enum MessageKind : uint32_t {
  kMessageHello = 1,       // first message of a control thread
  kMessageTake = 2,        // restored process: asks for plan and descriptors
  kMessageCheckpoint = 3,  // checkpoint() was called
  kMessageRollback = 4,    // restore() was called
  kMessageCaptured = 5,    // answer to kCommandCapture (also in the header)
  kMessageSetInterval = 6,
  kMessageClose = 9,         // crheap_close()
  kMessageWait = 12,         // checkpoint_wait() was called, for level 0 or 1
  kMessageQuick = 13,        // there is a slot (quick.h)
  kMessageWaitSafe = 14,     // ... for level 2
  kMessageWaitFlushed = 15,  // ... for level 3
  // crckpt -> agent
  kMessageAskCheckpoint = 7,
  kMessageAskStatus = 8,
  kMessageAskWithProgress = 10,  // as AskCheckpoint; Progress messages come before the Report
  kMessageAskDetails = 11,       // crtop -> agent
  // agent -> program or tool
  kMessageWelcome = 20,
  kMessageRefused = 21,
  kMessagePlan = 22,
  kMessageReport = 23,
  kMessageFds = 24,
  kMessageProgress = 25,
  kMessageDetails = 26,
};

struct Hello {
  uint32_t kind;  // kMessageHello
  uint32_t version;
  int32_t pid, tid;       // in the program's own pid namespace
  uint64_t report_entry;  // function a stopped thread is made to run (control::report_thread)
  uint64_t report_stack_top;
  uint64_t resume_entry;  // continues an interrupted timed call (crcontrol_resume_call)
  uint64_t control_entry, control_stack_top;
  uint64_t state, state_bytes;
  uint64_t exclusions;   // Exclusions
  uint64_t calls_entry;  // makes the calls of a CallList
  uint32_t restored;     // 1: after a restore
  uint32_t reserved;
  uint64_t heap_words[2];  // addresses of words with the addresses of HeapDirectories; 0: none
  uint64_t join_entry;     // makes the control thread of a process that has none
  uint64_t plugins;        // PluginTable (plugins.h)
  uint64_t semaphores;     // SemaphoreTable (semaphores.h)
  // The library as it was loaded, whole pages. What the program maps right behind it is joined with
  // the library's last mapping by the kernel.
  uint64_t library_start, library_end;
};
CR_ON_DISK(Hello, 152);

// crexclude(): read by the agent from the program's memory.
struct Exclusions {
  uint64_t count;
  struct {
    uint64_t start, end;
  } ranges[256];
};
CR_ON_DISK(Exclusions, 8 + 256 * 16);

// What the control thread's state in the program begins with: the part that a restore writes.
struct ControlHead {
  uint32_t status;         // futex: control::kDetached...
  uint32_t answer_word;    // futex: raised when an answer has come
  int32_t start_errno;     // why the control thread did not attach
  uint32_t ready;          // kReadyToJoin when the library has been initialised
  char session_dir[4096];  // where agent.sock is; absolute. Of a restore: where the image is now
  uint32_t joining;        // 1: join_entry makes the control thread; 2: it is made, or could not be
  int32_t join_errno;
  FilesHead files;  // written by the agent at each stop
};
CR_ON_DISK(ControlHead, 4168);
inline constexpr uint32_t kReadyToJoin = 0x4a4f494e;

// What a program asks its agent and waits for. Requests of one kind are answered in the order of
// their ids, and an answer is one to all earlier requests of its kind, to none of another.
enum class Ask : uint32_t {
  kCheckpoint = 0,
  kRollback = 1,
  kWait = 2,         // the newest that was captured: is it whole?
  kWaitSafe = 3,     // ... do other nodes keep it (level 2)?
  kWaitFlushed = 4,  // ... is it on the shared file system (level 3)?
};
inline constexpr uint32_t kAskKinds = 5;

inline constexpr double kIntervalAuto = -1;  // CR_INTERVAL_AUTO

struct Request {
  uint32_t kind;
  uint32_t then;  // AskCheckpoint: 0 continue, 1 stop, 2 kill
  uint64_t id;
  double interval_seconds;  // SetInterval: kIntervalAuto, or as crattr's
};
static_assert(sizeof(Request) == 24);

// To crckpt, and as refusal text.
struct Report {
  uint32_t kind;  // kMessageReport, kMessageRefused, kMessageWelcome
  int32_t code;   // Errc
  int32_t sys_errno;
  uint32_t reserved;
  uint64_t epoch, sequence, image_bytes, pause_ns, commit_ns;
  char text[512];
};
static_assert(sizeof(Report) == 568);

enum ProgressPhase : uint32_t {
  kPhaseCopying = 1,    // the program stands still; bytes copied so far
  kPhaseWriting = 2,    // bytes compared or written, of those the image has
  kPhaseSyncing = 3,    // metadata, and waiting for the disk
  kPhaseVerifying = 4,  // of a restore: bytes whose checksums are right
  kPhaseFilling = 5,    // of a restore: bytes of memory that are there
};

// To whoever asked for it. Never waited for: if the receiver does not read, some are missing.
struct Progress {
  uint32_t kind;         // kMessageProgress
  uint32_t phase;        // ProgressPhase
  uint64_t done, total;  // bytes; total 0: not known
};
static_assert(sizeof(Progress) == 24);

// How far checkpoints have got beyond their image directory (docs/store.md). Sequence 0: none.
struct Levels {
  uint64_t safe_epoch, safe_sequence;        // newest of level 2
  uint64_t flushed_epoch, flushed_sequence;  // newest of level 3
  uint64_t window_ns;   // of the newest of level 2: from its commit until it was that
  uint32_t is_kept;     // 1: crstored has taken the session up
  uint32_t degraded;    // bits, 1 << level: see `trouble`
  char protect[32];     // "replica:2"; "": the session is not protected
  char holders[256];    // nodes that keep the parts, by number, separated by spaces
  char flush_dir[256];  // "": nothing is flushed
  char trouble[512];    // what keeps checkpoints from getting farther
};
CR_ON_DISK(Levels, 48 + 32 + 256 + 256 + 512);

enum SessionState : uint32_t {
  kSessionStarting = 0,  // the program has not attached yet
  kSessionRunning = 1,
  kSessionFrozen = 2,  // by --then=stop
};

// What crtop shows of a live session.
struct Details {
  uint32_t kind;   // kMessageDetails
  uint32_t state;  // SessionState
  int32_t pid;     // in the agent's pid namespace
  uint32_t tracker;
  uint32_t interval_automatic;
  uint32_t level;  // HistoryLevel of a checkpoint that succeeds
  uint64_t epoch, sequence, attempts, failures;
  uint64_t uptime_ns;      // of the program under this agent
  uint64_t until_next_ns;  // ~0: no automatic checkpoints
  double interval_seconds, overhead_percent;
  char program[256];  // its command line, cut off to fit
  char last_error[512];
  Levels levels;
};
static_assert(sizeof(Details) == 856 + sizeof(Levels));

// Descriptors of a restored process follow the plan in batches, by SCM_RIGHTS.
inline constexpr uint32_t kFdsPerMessage = 128;

// ---- the shared memfd -------------------------------------------------------------------------
enum CommandKind : uint32_t {
  kCommandNone = 0,
  kCommandCapture = 1,    // describe the process, and copy pages by the table of ranges
  kCommandReply = 2,      // answers to API requests are in the header
  kCommandUnmap = 3,      // munmap [arg0, arg0 + arg1): leftovers of a restore
  kCommandExit = 4,       // end the control thread, with status arg0
  kCommandDescribe = 5,   // fill in `process`
  kCommandHooks = 6,      // run the hooks of kind arg0 (enum crhook_when)
  kCommandTrack = 7,      // count writes to the mappings of the table of ranges from now on
  kCommandEarly = 8,      // copy pages by the table of ranges while the program runs
  kCommandCalls = 9,      // make the system calls of the CallList at offset arg0
  kCommandRollback = 10,  // stand still while the agent puts memory back: `rollback`
  kCommandReserve = 11,  // make room to remember about arg0 pages (kTrackerSoftDirty, kTrackerHash)
};

inline constexpr uint32_t kRangeAnon = 0;   // no file: pages that are not zero
inline constexpr uint32_t kRangeEmbed = 1;  // all pages of [start, limit), read through mem
inline constexpr uint32_t kRangeAll = 2;    // all pages in memory, mapped or not (shared anonymous)
inline constexpr uint32_t kRangeFile =
    3;  // private mapping of a file: pages that are not the file's

struct Range {
  uint64_t start, end;
  uint32_t mode;
  uint32_t readable;
  uint64_t limit;               // kRangeEmbed: end of the file; kRangeAll: 1: take every page
  uint64_t map_start, map_end;  // the mapping that the range is part of
  uint32_t fresh;               // 1: the last checkpoint does not have it, all pages are wanted
  uint32_t has_private;         // out, kRangeEmbed: 1 if pages below limit are not the file's
};
CR_ON_DISK(Range, 56);

// Pages [addr, +pages) were copied to staging page number `staging_page`, or were not written since
// they were last copied, early or for the last checkpoint (kPagesSame).
struct Run {
  uint64_t addr;
  uint64_t pages;
  uint64_t staging_page;
};
CR_ON_DISK(Run, 24);
inline constexpr uint64_t kPagesSame = ~uint64_t{0};
// In Run.pages while the stop lasts: not copied yet. Whoever copies it, the control thread or the
// agent, takes the flag away; both may, the bytes are the same.
inline constexpr uint64_t kRunToCopy = uint64_t{1} << 63;
inline constexpr uint64_t kRunsAtOnce = 8;  // are claimed

constexpr uint32_t tracking_bit(Tracker t) { return 1u << t; }

// kCommandEarly: of these nobody knows any more what was written; more than fit: of nothing.
struct Spoiled {
  uint64_t count;
  struct {
    uint64_t start, end;
  } ranges[256];
};
CR_ON_DISK(Spoiled, 8 + 256 * 16);

inline constexpr uint32_t kMostDescriptors = 512;  // of modify_ldt(2)
struct Process {                                   // what only the program itself can ask
  SigactionRecord sigactions[64];
  TimerRecord itimers[3];
  uint32_t dumpable, thp_disabled, child_subreaper;
  uint32_t membarrier;  // registrations
  uint64_t brk;
  uint64_t monotonic_ns, boottime_ns;
  uint32_t deny_exec_gain, merge_memory;
  uint32_t protection_keys;     // that the program has allocated
  uint32_t descriptor_entries;  // of its local descriptor table, which may be more than fit here
  uint32_t childless;           // 1: it has no child
  uint32_t reserved;
  uint64_t descriptors[kMostDescriptors];
  RlimitRecord rlimits[16];
};
CR_ON_DISK(Process, 64 * 32 + 48 + 24 + 40 + 8 * kMostDescriptors + 16 * 16);

enum ReportState : uint32_t {
  kReportBegun = 0,
  kReportDone = 1,
  kReportLeft = 2,  // the agent did not come back in time, and the thread goes on
};
inline constexpr int64_t kReportPatienceSeconds = 1;

// Filled by a stopped thread itself.
struct ThreadReport {
  uint64_t altstack_sp, altstack_bytes;
  uint32_t altstack_flags;
  uint32_t done;  // ReportState; the agent looks at it
  uint64_t clear_child_tid;
  uint64_t timer_slack_ns;
  uint64_t robust_list, robust_list_bytes;
  char name[16];
  int32_t pdeathsig;
  uint32_t no_new_privs, keepcaps;
  uint32_t securebits, machine_check, tsc, io_flusher, store_bypass, indirect_branch;
  uint32_t no_cpuid;  // the instruction is a fault
  uint32_t personality;
  uint32_t call_plugins;  // in: 1: have them save what they claim, too
};
CR_ON_DISK(ThreadReport, 120);

// Below report_stack_top (Hello): room for the frame by which a thread takes its registers back by
// itself if the agent dies meanwhile.
inline constexpr uint64_t kReportFrameRoom = 16384;
inline constexpr uint64_t kReportStackBytes = 32768;
// So many threads report at a time, each on a stack of its own: report_stack_top is the first's,
// the others' lie above.
inline constexpr uint64_t kReportSlots = 8;
inline constexpr uint64_t kControlStackBytes = 65536;  // below control_stack_top

// Of ChannelHeader::rollback, during kCommandRollback: the control thread says kRollbackHeld when
// all it needs lies on its stack, the agent kRollbackFilled when memory is as it was.
enum RollbackPhase : uint32_t { kRollbackNone = 0, kRollbackHeld = 1, kRollbackFilled = 2 };

// kCommandCapture begins before the table of ranges is written.
enum RangesGiven : uint32_t {
  kRangesAwaited = 0,
  kRangesGiven = 1,
  kRangesNone = 2,  // the capture has failed
};

struct ChannelHeader {
  uint32_t version;
  uint32_t doorbell;  // futex: raised by the agent and by API calls; the control thread waits on it
  uint32_t command;   // CommandKind
  uint32_t command_seq;  // raised with every command
  uint32_t done_seq;     // futex: = command_seq when the command is done
  int32_t result_errno;  // 0 or an errno
  uint64_t arg0, arg1;
  uint64_t bytes;  // of the memfd
  // capture
  uint64_t range_count, cursor_range, cursor_addr;  // in/out: where to go on
  uint64_t staging_first, staging_pages;            // room: [first, pages)
  uint64_t staging_used;                            // out: up to here
  uint64_t run_count;                               // out
  uint64_t untracked_bytes;    // out, kCommandEarly: present in mappings that are not tracked
  uint64_t untrackable_bytes;  // out, kCommandTrack: address space of mappings that cannot be
  uint32_t more;               // out: 1 when staging or the run table is full before the end
  uint32_t use_pagemap_scan;   // 0 forces the portable path
  uint32_t tracking;           // Tracker, of this and the last checkpoint, or of the first
  uint32_t protect;            // kCommandCapture: 0: what is written stays so for the next capture
  uint32_t quick_ready;        // 1: QuickHead (quick.h) may be used
  uint32_t can_track;          // out, when attached: tracking_bit() of what can be had
  uint64_t stamp;              // kTrackerHash: of this checkpoint's early copies; see PageHashes
  uint64_t ranges_off, runs_off, runs_cap;
  uint64_t scan_off;      // of ScanHelp (scan_help.h); 0: nobody helps
  Spoiled spoiled;        // out, kCommandEarly
  uint32_t described;     // futex. kCommandCapture: 1 when `process` is filled in
  uint32_t ranges_given;  // futex. kCommandCapture: RangesGiven
  uint32_t apart;  // kCommandCapture: 1: the agent and the control thread have a processor each
  uint32_t reserved3;
  // kCommandCapture: the first copy_count runs may be copied by whoever claims them by adding
  // kRunsAtOnce to copy_next. copy_count 0: nothing may be claimed (any more).
  uint64_t copy_count, copy_next;
  Process process;
  ThreadReport reports[kReportSlots];
  uint64_t reports_addr;  // of `reports` in the program
  // answers to API requests
  uint64_t answered_id;
  uint32_t answer_kind;  // Ask
  uint32_t durable;      // 1: whole means on stable storage (SessionOptions)
  int32_t answer_code;   // Errc
  int32_t answer_errno;
  char answer_text[512];
  // status, under a sequence lock (odd: being written)
  uint32_t status_lock;
  uint32_t status_reserved;
  uint64_t epoch, sequence, attempts, failures, image_bytes, pause_ns, commit_ns, realtime_ns;
  double interval_seconds;
  char image_dir[4096];
  char last_error[512];
  uint32_t interval_automatic;
  uint32_t tracker;  // enum Tracker, of the newest checkpoint
  double overhead_percent;
  uint64_t staged_bytes;
  // A session of the heap alone: where it will lie, 0: it is new. Its mappings are `ranges`.
  uint64_t heap_base, heap_bytes;
  uint32_t exited;  // the program called exit(): its images are not needed for a restart
  uint32_t reserved1;
  uint32_t rollback;   // futex: RollbackPhase
  int32_t tracker_fd;  // out, when attached: the control thread's userfaultfd, or negative
  // restore() calls since the session began; under the sequence lock
  uint64_t rollbacks, rollbacks_in_place, rollback_ns;
  uint64_t quick;             // whole checkpoints by the quick path
  char rollback_reason[256];  // why the newest one began the program anew
  // restore(): the program to exec, with its arguments and environment as NUL-separated strings
  char exec_path[4096];
  uint32_t exec_argv_bytes, exec_env_bytes;
  uint64_t exec_strings_off;  // arguments, then environment, in the memfd
  char restore_env[4096];     // crrestore --env: NAME=VALUE, NUL-separated, an empty one at the end
  Levels levels;              // under the sequence lock
};
inline constexpr uint64_t kChannelBytes = 64ull << 20;  // less under a file size limit
inline constexpr uint64_t kChannelLeastBytes = 256ull << 10;
inline constexpr uint64_t kChannelRangesOff = 64ull << 10;
inline constexpr uint64_t kChannelRangesShare = 16;  // 1/16 of the tables is ranges, the rest runs
static_assert(sizeof(ChannelHeader) <= kChannelRangesOff);

}  // namespace cr::format
