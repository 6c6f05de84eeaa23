// SPDX-License-Identifier: MIT
// file_journal.h - the journal of changed files in an image directory, as the agent reads it.
// Invariant: what is asked for a checkpoint is made of all changes since it, the first of each path
// and of each file counts.
// Context: N (agent). Doc: docs/format/files.md.
#pragma once

#include <stdint.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "agent/file_moves.h"
#include "agent/world.h"

namespace cr::agent {

// Where things lie now (crrestore --map).
using PathMap = std::function<std::string(const std::string&)>;

std::string journal_dir(const std::string& image_dir);
std::string copy_path(const std::string& image_dir, uint64_t generation, uint64_t number);

// What there was when the checkpoint of `generation` was taken, of all that was changed since.
struct JournalState {
  std::map<std::string, Change> paths;
  std::map<FileId, Change> content;  // with a copy of the content, or the reason why there is none
  std::map<FileId, Change> kept;     // by a second name
  Moves moves;                       // of directories
  uint64_t generation = 0;
};
Trouble read_journal(const std::string& image_dir, uint64_t generation, const PathMap& map,
                     JournalState* ret);

// Each record since then, in order; for people.
Trouble list_journal(const std::string& image_dir, uint64_t generation, std::vector<Change>* ret);

// The highest generation that anything in the journal is of; 0: there is none.
uint64_t newest_generation(const std::string& image_dir);
// Removes what only checkpoints before `generation` need.
void purge_journal(const std::string& image_dir, uint64_t generation);
void remove_journal(const std::string& image_dir);
// An earlier run's, to where its images go.
void move_journal(const std::string& image_dir, const std::string& to);

// Before moves are undone: which of them were found to be made.
Trouble note_found(const std::string& image_dir, const JournalState& state);
// All are undone: what comes next is written down by the checkpoint's paths.
Trouble note_moved_back(const std::string& image_dir, const JournalState& state);

// The files go back to `generation`, so those of later checkpoints cannot be had any more.
// newest: that there are, whatever the journal has.
Trouble note_going_back(const std::string& image_dir, uint64_t generation, uint64_t newest);
// "": the files of that checkpoint can be had.
std::string why_gone(const std::string& image_dir, uint64_t generation);

}  // namespace cr::agent
