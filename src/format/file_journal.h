// SPDX-License-Identifier: MIT
// file_journal.h - the folder `files` of an image directory: what the files that a session changes
// were before, and the structs by which program and agent talk about it.
// Invariant: fixed width, little endian, explicit padding; a record has its own checksum, so that
// one that was cut off harms no other. The spec is docs/format/files.md.
// Context: N, H, S, R.
#pragma once

#include "format/image.h"

namespace cr::format {

inline constexpr char kJournalDirName[] = "files";
inline constexpr uint32_t kChangeMagic = 0x43465243;  // "CRFC"

// What the session shall do with files at a restore; of the session, in the superblock.
enum FilesPolicy : uint32_t {
  kFilesKeep = 0,     // leave them as they are
  kFilesRestore = 1,  // put them back
  kFilesRefuse = 2,   // fail if any has changed
};

// What there was at a path.
enum FileWas : uint32_t {
  kWasAbsent = 1,
  kWasRegular = 2,
  kWasSymlink = 3,    // target: where it led
  kWasDirectory = 4,  // with a target: it was to be moved there
  kWasFifo = 5,
  kWasOther = 6,  // a socket or device: cannot be made again
};

enum FileCopy : uint32_t {
  kCopyNone = 0,     // its content was not touched by this change
  kCopyContent = 1,  // a file with the same content
  kCopyLink = 2,     // the very file, by another name
  kCopyTooLarge = 3,
  kCopyFailed = 4,  // error: why
};

inline constexpr uint32_t kChangeOpen = 1;  // open for writing at the checkpoint; of the agent
// Not of what was before a change, but of what has become of it:
inline constexpr uint32_t kChangeMoved = 2;    // the directory has been moved to the target
inline constexpr uint32_t kChangeSwapped = 4;  // ... and the one there to the path
inline constexpr uint32_t kChangeFound = 8;    // ... as a restore found out; of the agent
inline constexpr uint32_t kChangeBack = 16;    // all moves above are undone; of the agent

// Followed by the path and the target, each with its NUL, and zeros up to a multiple of 8.
struct FileChange {
  uint32_t magic;
  uint32_t bytes;       // of the record with its strings
  uint64_t generation;  // it is of what was first changed after this checkpoint
  uint32_t was;         // FileWas
  uint32_t copy_kind;   // FileCopy
  uint64_t copy;        // number of the copy, 0: none
  uint64_t dev, ino;
  int64_t made_ns;  // stx_btime; 0: not known
  int64_t mtime_ns;
  uint64_t file_bytes;
  uint32_t mode, uid, gid;  // mode: st_mode
  uint32_t flags;           // kChange...
  int32_t error;            // kCopyFailed: errno
  uint32_t path_bytes, target_bytes;
  uint32_t reserved;
  uint64_t checksum;  // XXH3-64 of the record with this as 0
};
CR_ON_DISK(FileChange, 112);

inline constexpr uint64_t kJournalPathBytes = 4096;
inline constexpr uint64_t kMostChangeBytes = sizeof(FileChange) + 2 * kJournalPathBytes;

// ---- in the program's memory: written by the agent while the program is stopped ----------------
inline constexpr uint32_t kFilesDurable = 1;  // copies survive a power failure

struct FilesHead {
  uint64_t slots;        // address of FilesSlot[kFilesSlots]; 0: the program has no wrappers
  uint64_t generation;   // 0: nothing is to be kept
  uint64_t limit_bytes;  // of all copies since the checkpoint
  uint64_t spent_bytes;
  uint32_t flags;     // kFiles...
  uint32_t changes;   // records written since the checkpoint
  uint32_t left_out;  // files that could not be kept since
  int32_t error;      // why, 0: for their size
};
CR_ON_DISK(FilesHead, 48);

// A change under way. At the stop the agent looks at what it is about to change: if the thread has
// not come to it yet, that is the state of the new checkpoint.
struct FilesSlot {
  uint32_t busy;  // its thread's id, 0: free
  uint32_t what;  // FileTouch of each path, 8 bits; bits 16 and 17: what the path leads to
  int32_t dir[2];
  uint64_t path[2];  // addresses; 0: none
};
CR_ON_DISK(FilesSlot, 32);
inline constexpr uint32_t kFilesSlots = 64;

// How a call will change what is at a path.
enum FileTouch : uint32_t {
  kTouchNone = 0,
  kTouchContent = 1,     // of the file that the path leads to, or makes it
  kTouchNew = 2,         // makes something, if nothing is there
  kTouchRemove = 3,      // takes the name away, and perhaps the file
  kTouchMove = 4,        // the name goes, the file stays
  kTouchAttributes = 5,  // mode of what the path leads to
  kTouchReplace = 6,     // as kTouchRemove, and something else gets the name
};

}  // namespace cr::format
