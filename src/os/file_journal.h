// SPDX-License-Identifier: MIT
// file_journal.h - writes down what is at a path before it is changed, with a copy of its content.
// Invariant: raw system calls only, no allocation and no lock of libc's, so that a signal handler
// of the program may come here; errno stays as it was. Never waits for a FIFO or device.
// Context: N, H. Doc: docs/ARCHITECTURE.md, "Files that the session writes".
#pragma once

#include <fcntl.h>

#include "format/file_journal.h"

namespace cr::os {

struct At {
  int dir = AT_FDCWD;
  const char* path = nullptr;
};

// mode: st_mode. A format::FileWas.
uint32_t kind_of_file(uint32_t mode);

// Memory for one change; too large for the stack of a handler.
struct JournalScratch {
  alignas(16) uint8_t stack[16384];  // of the copier
  char path[format::kJournalPathBytes];
  char target[format::kJournalPathBytes];
  char name[format::kJournalPathBytes + 64];
  uint8_t record[format::kMostChangeBytes + 8];
};

// Makes copies. In the program by a process with descriptors of its own: closing a descriptor of a
// file would drop the program's record locks on it.
using RunAside = bool (*)(void (*function)(void*), void* argument, JournalScratch& scratch);

// A file; or a path, by its checksum. Inode numbers are used again, birth times are not.
struct JournalKey {
  uint64_t dev, ino;
  int64_t made_ns;
};

struct Journal {
  const char* image_dir;
  format::FilesHead* head;
  RunAside aside;  // nullptr: it is called here
  // Which files were dealt with in a generation already: it may forget, it must not invent.
  bool (*seen)(uint64_t generation, const JournalKey& key, uint32_t level) = nullptr;
  void (*note)(uint64_t generation, const JournalKey& key, uint32_t level) = nullptr;
};
inline constexpr uint32_t kSeenAttributes = 1, kSeenContent = 2, kSeenNew = 3;

// Returns what is there: a FileWas; 0: nothing is kept of that place. moved_to: with kTouchMove,
// where it goes.
uint32_t journal_before(const Journal& journal, JournalScratch& scratch, uint64_t generation, At at,
                        format::FileTouch touch, bool follow, const At* moved_to = nullptr);

// A change that nothing is known of, for want of something.
void count_left_out(const Journal& journal, int error);

// A directory has been moved, or, with `swapped`, what was at two places has changed places.
void journal_moved(const Journal& journal, JournalScratch& scratch, uint64_t generation, At from,
                   At to, bool swapped);

// The absolute path of a name; the last part need not exist. follow: of what a symbolic link at the
// end leads to. False: it cannot be known.
bool absolute_path(At at, bool follow, char* ret_path, char* scratch);

// The file behind `source`, of which these are the bytes, is copied to `name`. 0 or -errno.
long copy_content(int source, const char* name, uint64_t bytes, uint64_t allowed, bool durable,
                  uint64_t* ret_spent);

}  // namespace cr::os
