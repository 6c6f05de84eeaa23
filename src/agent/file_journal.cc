// SPDX-License-Identifier: MIT
// file_journal.cc - see file_journal.h. Invariant: as there. Context: N (agent).
#include "agent/file_journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "format/file_journal_reader.h"
#include "os/fd.h"
#include "rawsys/rawsys.h"
#include "store/file.h"

namespace cr::agent {
namespace {

// "log.G", "copy.G.N" and "undone.A.B".
struct Name {
  std::string text;
  enum Kind { kLog, kCopy, kUndone } kind;
  uint64_t first = 0, second = 0;
};

std::vector<Name> names_in(const std::string& dir) {
  std::vector<Name> names;
  DIR* d = opendir(dir.c_str());
  if (d == nullptr) return names;
  while (const dirent* e = readdir(d)) {
    Name n{e->d_name, Name::kLog, 0, 0};
    int end = 0;
    if (sscanf(e->d_name, "log.%lu%n", &n.first, &end) == 1) {
      n.kind = Name::kLog;
    } else if (sscanf(e->d_name, "copy.%lu.%lu%n", &n.first, &n.second, &end) == 2) {
      n.kind = Name::kCopy;
    } else if (sscanf(e->d_name, "undone.%lu.%lu%n", &n.first, &n.second, &end) == 2) {
      n.kind = Name::kUndone;
    }
    if (end > 0 && n.text.size() == static_cast<size_t>(end)) names.push_back(std::move(n));
  }
  closedir(d);
  return names;
}

Trouble cannot(const std::string& what, const std::string& path) {
  return trouble(Errc::kSystem, errno,
                 path + ": " + what + ": " + strerror(errno) +
                     "; --files=keep goes on without putting files back");
}

Trouble read_log(const std::string& path, uint64_t generation, std::vector<Change>* ret) {
  auto text = os::read_file(path);
  if (!text) {
    errno = text.error().sys_errno;
    return cannot("the journal of changed files cannot be read", path);
  }
  const auto* log = reinterpret_cast<const uint8_t*>(text->data());
  format::ChangeView v{};
  for (uint64_t at = 0; format::next_change(log, text->size(), &at, &v);) {
    if (v.change.generation == generation) ret->push_back({v.change, v.path, v.target});
  }
  return {};
}

bool is_open(const Change& c) { return (c.record.flags & format::kChangeOpen) != 0; }

bool has_content(const format::FileChange& c) {
  return c.copy_kind == format::kCopyContent || c.copy_kind == format::kCopyTooLarge ||
         c.copy_kind == format::kCopyFailed;
}

Trouble append_record(const std::string& image_dir, const Change& c, bool sync) {
  std::string record(format::kMostChangeBytes + 8, '\0');
  record.resize(format::build_change(c.record, c.path.c_str(), c.target.c_str(),
                                     reinterpret_cast<uint8_t*>(record.data())));
  const std::string path = journal_dir(image_dir) + "/log." + std::to_string(c.record.generation);
  const os::Fd log(
      open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  const ssize_t n = log ? write(log.get(), record.data(), record.size()) : -1;
  const bool whole = n == static_cast<ssize_t>(record.size());
  if (n >= 0 && !whole) errno = ENOSPC;
  if (whole && (!sync || fsync(log.get()) == 0)) return {};
  return cannot("that files are put back cannot be written down", path);
}

}  // namespace

std::string journal_dir(const std::string& image_dir) {
  return image_dir + "/" + format::kJournalDirName;
}

std::string copy_path(const std::string& image_dir, uint64_t generation, uint64_t number) {
  return journal_dir(image_dir) + "/copy." + std::to_string(generation) + "." +
         std::to_string(number);
}

Trouble list_journal(const std::string& image_dir, uint64_t generation, std::vector<Change>* ret) {
  std::vector<Name> names = names_in(journal_dir(image_dir));
  std::ranges::sort(names, {}, &Name::first);
  for (const Name& n : names) {
    if (n.kind != Name::kLog || n.first < generation) continue;
    Trouble bad = read_log(journal_dir(image_dir) + "/" + n.text, n.first, ret);
    if (bad.bad()) return bad;
  }
  return {};
}

Trouble read_journal(const std::string& image_dir, uint64_t generation, const PathMap& map,
                     JournalState* ret) {
  std::vector<Change> all;
  Trouble bad = list_journal(image_dir, generation, &all);
  if (bad.bad()) return bad;
  // What was open at a later checkpoint is of that one.
  std::erase_if(all,
                [&](const Change& c) { return is_open(c) && c.record.generation != generation; });
  // What was open at this one comes before all changes, though it may stand behind some: it was
  // found in the stop, and written down when the program ran again.
  std::ranges::stable_partition(all, is_open);
  for (Change& c : all) {
    const std::string recorded = std::exchange(c.path, map(c.path));
    c.elsewhere = recorded != c.path;
    if (is_move(c)) c.target = map(c.target);
  }
  ret->generation = generation;
  ret->moves = before_moves(all);
  for (const Change& c : all) {
    const format::FileChange& r = c.record;
    if (r.was == format::kWasRegular) {
      if (has_content(r)) ret->content.emplace(id_of(r), c);
      if (r.copy_kind == format::kCopyLink) ret->kept.emplace(id_of(r), c);
    }
    const auto at = ret->paths.emplace(c.path, c).first;
    // What lies where something was moved away from was not there, wherever it comes from.
    if (c.is_new) at->second.record.was = format::kWasAbsent;
  }
  return {};
}

Trouble note_found(const std::string& image_dir, const JournalState& state) {
  Trouble bad;
  for (const Change& c : state.moves.found) {
    if (bad.bad()) break;
    bad = append_record(image_dir, c, /*sync=*/false);
  }
  return bad;
}

// In each log whose changes are undone. The program goes on with that of the checkpoint.
Trouble note_moved_back(const std::string& image_dir, const JournalState& state) {
  if (!state.moves.is_new) return {};
  std::set<uint64_t> logs = {state.generation};
  for (const Name& n : names_in(journal_dir(image_dir))) {
    if (n.kind == Name::kLog && n.first > state.generation) logs.insert(n.first);
  }
  Change c{{}, "/", ""};
  c.record.was = format::kWasOther;
  c.record.flags = format::kChangeBack;
  c.record.copy = std::max(rawsys::clock_ns(CLOCK_REALTIME), state.moves.undone + 1);
  Trouble bad;
  for (const uint64_t generation : logs) {
    if (bad.bad()) break;
    c.record.generation = generation;
    // The program's own records go to the disk with the first that has a copy.
    bad = append_record(image_dir, c, /*sync=*/generation != state.generation);
  }
  // Where nothing has moved the mark parts what is the same on both sides.
  return state.moves.all.empty() && logs.size() == 1 ? Trouble{} : bad;
}

uint64_t newest_generation(const std::string& image_dir) {
  uint64_t newest = 0;
  for (const Name& n : names_in(journal_dir(image_dir))) {
    newest = std::max({newest, n.first, n.kind == Name::kUndone ? n.second : 0});
  }
  return newest;
}

void purge_journal(const std::string& image_dir, uint64_t generation) {
  const std::string dir = journal_dir(image_dir);
  for (const Name& n : names_in(dir)) {
    const uint64_t last = n.kind == Name::kUndone ? n.second : n.first;
    if (last < generation) unlink((dir + "/" + n.text).c_str());
  }
}

void remove_journal(const std::string& image_dir) {
  purge_journal(image_dir, ~uint64_t{0});
  unlink((journal_dir(image_dir) + "/state").c_str());
  rmdir(journal_dir(image_dir).c_str());
}

void move_journal(const std::string& image_dir, const std::string& to) {
  (void)store::rename_file(journal_dir(image_dir), journal_dir(to));
}

Trouble note_going_back(const std::string& image_dir, uint64_t generation, uint64_t newest) {
  newest = std::max(newest, newest_generation(image_dir));
  if (newest <= generation) return {};
  const std::string path = journal_dir(image_dir) + "/undone." + std::to_string(generation) + "." +
                           std::to_string(newest);
  const os::Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  return fd ? Trouble{} : cannot("a mark in the journal of changed files cannot be made", path);
}

std::string why_gone(const std::string& image_dir, uint64_t generation) {
  for (const Name& n : names_in(journal_dir(image_dir))) {
    if (n.kind == Name::kUndone && n.first < generation && generation <= n.second) {
      return "the checkpoint before this one was restored, and the files are those of that one "
             "since; its program has perhaps written to them. Restore that one again, or use "
             "--files=keep";
    }
  }
  return "";
}

}  // namespace cr::agent
