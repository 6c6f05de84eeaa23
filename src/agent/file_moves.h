// SPDX-License-Identifier: MIT
// file_moves.h - directories that were moved after a checkpoint, and what paths that were written
// down since were at the checkpoint.
// Invariant: a move counts when it was made: that is written down after the call. Where only what
// was written down before it is there, what came later and the disk decide.
// Context: N (agent). Doc: docs/format/files.md, "Directories that are moved".
#pragma once

#include <stdint.h>
#include <sys/stat.h>

#include <string>
#include <tuple>
#include <vector>

#include "format/file_journal.h"

namespace cr::agent {

struct Change {
  format::FileChange record;
  std::string path, target;
  bool elsewhere = false;  // files lie elsewhere now, and are others: only paths tell them
  bool is_new = false;     // of a place that was free, because a directory had been moved away
};

// A file whatever its names. Inode numbers are used again, birth times are not.
using FileId = std::tuple<uint64_t, uint64_t, int64_t>;
inline FileId id_of(const format::FileChange& c) { return {c.dev, c.ino, c.made_ns}; }

FileId id_of_file(const struct statx& st);

struct Move {
  FileId id;
  std::string path, target;  // by names of that moment
  std::string before;        // the path, as it was at the checkpoint
  std::string aside;         // where what has got the path since goes
  bool elsewhere = false;
};

struct Moves {
  std::vector<Move> all;      // still to be undone, in the order in which they were made
  std::vector<Change> found;  // records of those that were only written down before they were made
  uint64_t undone = 0;        // when moves were last undone, as records say
  bool is_new = false;        // anything was written down since
};

// It says that a directory is about to be moved, or was.
bool is_move(const Change& c);

// In: all records, those of what was open first, then those of each generation in order. Out: those
// of changes, by the paths of the checkpoint, and one of each place that a move has left free.
Moves before_moves(std::vector<Change>& all);

}  // namespace cr::agent
