// SPDX-License-Identifier: MIT
// plan.h - the list of steps by which the restorer turns a fresh process into the saved one.
// Invariant: everything was validated by the planner (src/agent/restore_plan.cc); the restorer only
// carries out. Offsets are from the beginning of the plan. Same machine, same build: not durable.
// Context: N, R. Doc: docs/ARCHITECTURE.md, "One restore".
#pragma once

#include <stdint.h>

#include "format/calls.h"
#include "format/image.h"

namespace cr::format {

struct PlanArray {
  uint64_t off, count;
};

// How a mapping is made.
enum PlanMapHow : uint32_t {
  kMapMake = 0,      // mmap
  kMapAttach = 1,    // shmat of sysv_id, with `flags`; all of it
  kMapAttached = 2,  // a part of what was attached, that gets its protection
  kMapHole = 3,      // a part of what was attached, that goes
};

struct PlanMap {
  uint64_t addr, bytes;
  uint32_t prot;   // final protection
  uint32_t flags;  // MAP_*
  int32_t file;    // index of a received descriptor (PlanHeader.extra_fds), -1 anonymous
  uint32_t fill;   // 1: something will be written, map writable first
  uint64_t file_off;
  uint32_t segment_flags;  // kSegment... advice
  uint32_t userfault;      // PlanUserfault
  uint32_t how;            // PlanMapHow
  int32_t sysv_id;
};
CR_ON_DISK(PlanMap, 56);

// How pages get into the memory.
enum PlanFillHow : uint32_t {
  kFillRead = 0,  // pread into the memory, which the kernel fills with zeros first
  kFillCopy = 1,  // by way of a buffer and UFFDIO_COPY, which takes fresh pages; else as kFillRead
  kFillLazy = 2,  // while the program runs, or when it comes to need them
};

// Which mappings are registered with userfaultfd.
enum PlanUserfault : uint32_t {
  kUserfaultNone = 0,
  kUserfaultFill = 1,  // while they are filled
  kUserfaultLazy = 2,  // until the last page of all has come
};

// Pages that come from the image, each of which must have its checksum.
struct PlanFill {
  uint64_t addr, bytes, image_off;
  uint64_t first_page;  // pages in the fills before it
  uint32_t how;         // PlanFillHow
  uint32_t reserved;
};
CR_ON_DISK(PlanFill, 40);

struct PlanZero {  // zeros that shadow a file's content
  uint64_t addr, bytes;
};
CR_ON_DISK(PlanZero, 16);

struct PlanOverlay {
  uint64_t addr, bytes, off;
};
CR_ON_DISK(PlanOverlay, 24);

struct PlanThread {
  ThreadRecord record;
  uint64_t frame_off;  // 64-byte aligned copy of the frame in the plan
  uint64_t frame_bytes;
  uint64_t stack_top_off;  // a small stack inside the plan region
  uint64_t siginfo_first, siginfo_count;
  uint64_t affinity_off;  // record.affinity.bytes long
  int32_t tid_now;        // out: its id in the new process
  uint32_t reserved;
  // What it does to itself when it needs no privilege any more, and last of all.
  PlanArray traits, filters;
  uint64_t traits_data_off, filters_data_off;
  uint64_t traits_name;  // index of the first one's name, as of kStepCalls
};
CR_ON_DISK(PlanThread, 256);

struct PlanFd {
  int32_t fd;       // number in the restored process
  uint32_t source;  // index among the received descriptors
  uint32_t cloexec;
  uint32_t reserved;
};
CR_ON_DISK(PlanFd, 16);

// What a restore changes of a file: the last thing it does before the program is let go, so that
// an image that turns out to be damaged has changed nothing.
struct PlanFileChange {
  int32_t fd;         // in the restored process
  uint32_t truncate;  // 1: cut back to `bytes`
  uint64_t bytes, position;
};
CR_ON_DISK(PlanFileChange, 24);

// What a restore does to files that were mapped shared, behind all of those.
enum PlanObjectChangeWhat : uint32_t {
  kObjectChangeWrite = 0,  // bytes of the image, from offset `value` of it
  kObjectChangeZero = 1,
  kObjectChangeSeal = 2,  // memfds: F_ADD_SEALS, `value`
  kObjectChangeSize = 3,  // to `value` bytes
};
struct PlanObjectChange {
  uint32_t source;  // index among the received descriptors
  uint32_t what;    // PlanObjectChangeWhat
  uint64_t off, bytes, value;
};
CR_ON_DISK(PlanObjectChange, 32);

// Where the program's own C library runs with another vDSO than its own: the old entry points jump.
struct PlanVdsoPatch {
  uint64_t old_off;  // in the image's vDSO
  uint64_t new_off;  // in this kernel's vDSO
};
CR_ON_DISK(PlanVdsoPatch, 16);

enum PlanIds : uint32_t {
  kIdsSame = 0,  // thread ids as they were, or fail
  kIdsNew = 1,   // new ones; the words that libc reads its ids from are rewritten
  kIdsTry = 2,   // as they were where allowed
};

// Where a frame (ThreadRecord.frame) has its XSAVE area, and its pointer to it (x86_64).
inline constexpr uint64_t kFrameXstateOff = 320;
inline constexpr uint64_t kFrameFpstatePointerOff = 224;

struct PlanHeader {
  uint64_t magic;
  uint64_t bytes;  // of the whole plan
  ProcessRecord process;
  PlanArray maps, fills, lazy_fills, zeros, overlays, threads, fds, file_changes, object_changes;
  PlanArray patches;
  PlanArray sigactions, siginfos;
  // Made by the process itself: before any file is changed, and when everything else is done.
  PlanArray calls, late_calls;
  uint64_t calls_data_off, late_data_off;
  uint64_t auxv_off, auxv_bytes;
  uint64_t cwd_off;        // a string
  uint32_t received_fds;   // descriptors that follow (after image)
  uint32_t ids;            // PlanIds
  uint32_t drop_caps;      // 1: the process was given a capability for the restore only
  uint32_t fill_workers;   // threads that fill, the calling one included
  uint64_t fill_area_off;  // kFillAreaBytes for each of them, behind the plan
  uint64_t payload_off;    // of the image
  uint64_t fill_pages;     // of `fills`
  // Room behind the plan for the image's table of checksums, which is not copied but mapped: what
  // is wrong in it makes right pages wrong, but no wrong one right.
  uint64_t sums_area_off, sums_map_bytes;
  uint64_t sums_file_off;  // of the first page of the table, which begins sums_skip behind
  uint64_t sums_skip;
  uint64_t lazy_area_off;  // kLazyAreaBytes and the tables (lazy_room for each context)
  uint64_t lazy_room;
  uint64_t lazy_pause_ns;  // before each piece that nobody has asked for: for tests, else 0
  uint64_t vdso_patch;     // 1: image's vDSO is mapped as data and patched
  uint64_t vdso_parking;   // patch: address for this kernel's vvar and vDSO
  uint64_t region_bytes;   // plan + stacks
  // written by the restorer
  uint32_t barrier;  // futex: 0 wait, 1 go
  uint32_t threads_ready;
  uint32_t failed;        // 1: somebody has told the agent already
  uint32_t filler_ready;  // futex
  uint64_t filler_forks;  // forks of the program that it fills now
  uint64_t next_page;     // of all fills: the first that nobody has taken yet
  char program[256];
};
inline constexpr uint64_t kPlanMagic = 0x314e414c50524331ull;

// What the failing step of a restore was, for messages.
enum RestoreStep : int32_t {
  kStepNone = 0,
  kStepUnmap,
  kStepMap,
  kStepFill,
  kStepProtect,
  kStepVdso,
  kStepMm,
  kStepSignals,
  kStepThread,
  kStepControl,
  kStepTimers,
  kStepDone,
  kStepFiles,
  kStepFilled,  // no failure: a lazy restore has all its pages
  kStepCalls,   // at: index in `calls` and, behind them, `late_calls`; then those of threads
};

inline constexpr uint64_t kRestorerStackBytes = 16384;  // per thread
inline constexpr uint64_t kFillBufferBytes = 256 << 10;
inline constexpr uint64_t kFillAreaBytes = kRestorerStackBytes + kFillBufferBytes;
// Of the process that fills lazily: what it knows, its stack, its buffer.
inline constexpr uint64_t kLazyStateBytes = 64 << 10, kLazyStackBytes = 64 << 10;
inline constexpr uint64_t kLazyAreaBytes = kLazyStateBytes + kLazyStackBytes + kFillBufferBytes;
inline constexpr uint64_t kMostLazyContexts = 128;  // the program, and forks of it meanwhile
inline constexpr uint64_t kSpareLazyRuns = 4096;    // a run is cut in two where the program unmaps
inline constexpr uint32_t kMostFillWorkers = 16;    // they share one memory bus

// Passed to the blob's entry.
struct RestorerArgs {
  uint64_t region, region_bytes;  // kept mapped; everything else goes
  uint64_t plan;                  // PlanHeader*
  int32_t image_fd;
  int32_t report_fd;                               // socket to the agent: failures are told here
  uint64_t rseq_addr, rseq_bytes, rseq_signature;  // of the calling thread, 0: none
  // [vvar*] and [vdso] of this process now, in address order; the last one is the vDSO.
  uint64_t vdso_piece_start[4], vdso_piece_bytes[4];
  uint32_t vdso_pieces;
  int32_t extra_fd_base;  // received descriptor i sits at extra_fd_base + i until installed
  uint64_t vdso_temp;     // room inside the region for all pieces
};

}  // namespace cr::format
