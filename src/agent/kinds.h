// SPDX-License-Identifier: MIT
// kinds.h - descriptors that are made anew, by kind: how one is recognised and described in the
// stopped program, how it is made and furnished in a restored one or in one that is rolled back.
// A group of kinds has a file of its own (kind_*.cc) and a row for each in kinds.cc; nothing else
// of the agent knows them.
// Invariant: describing changes nothing that the program could see.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One restore".
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "agent/recipe.h"
#include "agent/world.h"
#include "format/image_reader.h"
#include "os/fd.h"
#include "os/proc.h"
#include "store/model.h"

namespace cr::agent {

// A descriptor of the stopped program.
struct Descriptor {
  int fd = -1;
  std::string aliases;  // other numbers of the same open file, " 7 9"
  std::string link;     // what /proc/PID/fd/N leads to
  bool deleted = false;
  struct stat st {};
  os::FdInfo info;
};

// "fd 3 (...)"
std::string name_of(const Descriptor& d);
// A kind, or a state of it, that cannot be saved.
Trouble refuse(const Descriptor& d, const std::string& kind, const std::string& next);

// The stopped program.
struct Program {
  pid_t pid, tid;  // tid: a living thread
  int pidfd;
  store::Model& model;
  const std::vector<Descriptor>& all;
  os::Fd copy_of(int fd) const;
  // A process or thread id here as the program sees it; 0: it is not the program's.
  pid_t own_id(pid_t id) const;
};

// A descriptor of an image.
struct SavedFile {
  const format::ImageView& image;
  const format::FileRecord& file;
  int fd;            // its lowest number
  std::string name;  // "fd 3 (...)"
};

struct KindOfFile {
  uint32_t kind = 0;        // format::FileKind
  const char* link = "";    // what /proc/PID/fd/N begins with
  bool by_process = false;  // only the process itself can make it, not the agent
  bool last = false;        // to be furnished when the others have been
  Trouble (*describe)(const Program& program, const Descriptor& d, format::FileRecord& f) = nullptr;
  // One call, which returns the descriptor.
  void (*make)(const SavedFile& f, Recipe& recipe) = nullptr;
  // The rest, when all descriptors are in their places. nullptr: nothing.
  void (*furnish)(const SavedFile& f, Recipes& recipes) = nullptr;
  // Why it cannot come back here and now, "" if it can. nullptr: always.
  std::string (*why_not)(const SavedFile& f) = nullptr;
};

const KindOfFile* kind_of_link(const std::string& link);
const KindOfFile* kind_of_file(uint32_t kind);  // nullptr: not one of those

SavedFile saved_file(const format::ImageView& image, uint32_t file);

// What brings the kinds of this table back in a process that has all descriptors of the image in
// their places; make: those too that only the process itself can make.
void furnish_files(const format::ImageView& image, bool make, Recipes& recipes);

extern const KindOfFile kEventfdKind, kSignalfdKind, kPidfdKind, kTimerfdKind, kEpollKind,
    kInotifyKind;

// For describe(): the kind's state as the record's content.
template <typename T>
void set_state(const Program& program, format::FileRecord& f, const T& state) {
  f.content = program.model.add_blob(&state, sizeof(state));
}
// For the others: what describe() left.
template <typename T>
const T& state_of(const SavedFile& f) {
  return f.image.states<T>(f.file.content).front();
}
// A number behind "name:" in the text of fdinfo; false: there is no such line.
bool info_number(const Descriptor& d, const char* name, int base, uint64_t* ret);

}  // namespace cr::agent
