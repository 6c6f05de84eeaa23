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

// From here on: descriptors of ours. They wait in a socket of the program (SCM_RIGHTS), and have no
// number there.
inline constexpr int kFlying = 1 << 30;

// A descriptor of the stopped program.
struct Descriptor {
  int fd = -1;
  std::string aliases;  // other numbers of the same open file, " 7 9"
  std::string link;     // what /proc/PID/fd/N leads to
  bool deleted = false;
  struct stat st {};
  os::FdInfo info;
  bool flies() const { return fd >= kFlying; }
};

// "fd 3 (...)"
std::string name_of(const Descriptor& d);
// A kind, or a state of it, that cannot be saved.
Trouble refuse(const Descriptor& d, const std::string& kind, const std::string& next);

class TreeFiles;

// The stopped program.
struct Program {
  pid_t pid, tid;  // tid: a living thread
  int pidfd;
  store::Model& model;
  const std::vector<Descriptor>& all;
  const TreeFiles* others = nullptr;  // of the processes of its tree, if there are several
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
  uint32_t kind = 0;      // format::FileKind
  const char* link = "";  // what /proc/PID/fd/N begins with
  bool last = false;      // to be furnished when the others have been
  // Such a one only the process itself can make, not the agent. nullptr: there are none.
  bool (*by_process)(const SavedFile& f) = nullptr;
  Trouble (*describe)(const Program& program, const Descriptor& d, format::FileRecord& f) = nullptr;
  // One call, which returns the descriptor.
  void (*make)(const SavedFile& f, Recipe& recipe) = nullptr;
  // Such a one takes more than a call: the agent makes it, and no program in its place. nullptr:
  // there are none.
  bool (*by_agent)(const SavedFile& f) = nullptr;
  os::Fd (*make_here)(const SavedFile& f) = nullptr;  // errno
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
