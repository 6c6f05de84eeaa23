// SPDX-License-Identifier: MIT
// file_moves.cc - see file_moves.h. Invariant: as there. Context: N (agent).
#include "agent/file_moves.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace cr::agent {
namespace {

constexpr uint64_t kNow = ~uint64_t{0};

bool is_below(const std::string& path, const std::string& dir) {
  return path.starts_with(dir) && (path.size() == dir.size() || path[dir.size()] == '/');
}

bool has(const Change& c, uint32_t flag) { return (c.record.flags & flag) != 0; }
bool is_made(const Change& c) { return has(c, format::kChangeMoved); }

// A path that was recorded when these moves had been made. True: it is a place that was free then.
bool before(const std::vector<Move>& moves, std::string* path) {
  bool is_new = false;
  for (auto m = moves.rbegin(); m != moves.rend(); ++m) {
    if (is_below(*path, m->target)) {
      *path = m->path + path->substr(m->target.size());
    } else if (is_below(*path, m->path)) {
      *path = m->aside + path->substr(m->path.size());
      is_new = true;
    }
  }
  return is_new;
}

bool is_there(const std::string& path, const FileId& id) {
  struct statx st {};
  constexpr unsigned kWanted = STATX_BASIC_STATS | STATX_BTIME;
  return statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, kWanted, &st) == 0 &&
         id_of_file(st) == id;
}

// What was written down in one generation between two restores. Programs that go on after a restore
// write into the log of that checkpoint, while logs of later generations are those of the time
// before: a record is of paths as the moves of its own time have left them.
struct Life {
  uint64_t generation;
  uint64_t from = 0, to = kNow;  // the restores; kNow: it goes on
  std::vector<Change> records;
  std::vector<Move> moves = {};
};

// Its moves had been made, and were not undone, when that was written down.
bool comes_before(const Life& a, const Life& b) {
  return a.generation < b.generation && a.from < b.to && b.to <= a.to;
}

std::vector<Life> lives_of(std::vector<Change>& all) {
  std::vector<Life> lives;
  for (Change& c : all) {
    const uint64_t generation = c.record.generation;
    if (lives.empty() || lives.back().generation != generation) {
      lives.push_back({.generation = generation, .records = {}});
    }
    if (has(c, format::kChangeBack)) {
      lives.back().to = c.record.copy;
      lives.push_back({.generation = generation, .from = c.record.copy, .records = {}});
    } else {
      lives.back().records.push_back(std::move(c));
    }
  }
  return lives;
}

class Reader {
 public:
  Reader(std::vector<Life>& lives, size_t i, std::vector<Change>& out, std::vector<Change>& found)
      : lives_(lives), life_(lives[i]), out_(out), found_(found) {
    for (const Life& l : lives_) {
      if (comes_before(l, life_)) moves_.insert(moves_.end(), l.moves.begin(), l.moves.end());
    }
    earlier_ = moves_.size();
  }
  void run();

 private:
  void read(size_t i);
  bool was_made(size_t i);
  bool was_made_later(const Change& c) const;
  bool is_at_target(const Change& c) const;
  void apply(const Change& c);
  void apply_waiting(const std::string& but_not_to);
  void add(const FileId& id, const std::string& path, const std::string& target, bool elsewhere);

  const std::vector<Life>& lives_;
  Life& life_;
  std::vector<Move> moves_;  // of earlier generations too
  size_t earlier_ = 0;
  std::vector<Change>& out_;
  std::vector<Change>& found_;
  std::vector<Change> waiting_;  // moves that were made, after what else the call has written down
};

bool Reader::is_at_target(const Change& c) const {
  const FileId id = id_of(c.record);
  const auto last =
      std::find_if(moves_.rbegin(), moves_.rend(), [&](const Move& m) { return m.id == id; });
  return last != moves_.rend() && last->target == c.target;
}

// A move of which it was not written down afterwards that it was made: its thread has ended in
// between, or a checkpoint was taken, or it was not made.
bool Reader::was_made(size_t i) {
  const Change& c = life_.records[i];
  const FileId id = id_of(c.record);
  for (size_t k = i + 1; k < life_.records.size(); k++) {
    const Change& next = life_.records[k];
    if (next.record.was != format::kWasDirectory || id_of(next.record) != id) continue;
    if (is_made(next) && next.path == c.path && next.target == c.target) {
      return has(next, format::kChangeFound);
    }
    return next.path == c.target;  // there it was when it was changed again
  }
  if (life_.to != kNow || c.elsewhere || !is_there(c.target, id) || is_there(c.path, id)) {
    return false;
  }
  found_.push_back(c);
  found_.back().record.flags = format::kChangeMoved | format::kChangeFound;
  return true;
}

// A checkpoint was taken during the call, and the directory was still there.
bool Reader::was_made_later(const Change& c) const {
  const FileId id = id_of(c.record);
  for (const Life& l : lives_) {
    if (!comes_before(life_, l)) continue;
    const auto next = std::ranges::find_if(
        l.records, [&](const Change& o) { return is_move(o) && id_of(o.record) == id; });
    if (next != l.records.end()) return next->path == c.path;
  }
  return false;
}

// Its name is the same whatever is read before it.
void Reader::add(const FileId& id, const std::string& path, const std::string& target,
                 bool elsewhere) {
  const size_t number = moves_.size() - earlier_;
  Move m{id, path, target, path, "", elsewhere};
  m.aside = path + ".cr-new-" + std::to_string(life_.generation) + "." + std::to_string(number);
  (void)before(moves_, &m.before);
  Change free{};
  free.record.was = format::kWasAbsent;
  free.record.generation = life_.generation;
  free.path = m.aside;
  (void)before(moves_, &free.path);
  free.is_new = true;
  out_.push_back(std::move(free));
  moves_.push_back(std::move(m));
}

void Reader::apply(const Change& c) {
  if (is_at_target(c)) return;
  const FileId id = id_of(c.record);
  if (!has(c, format::kChangeSwapped)) return add(id, c.path, c.target, c.elsewhere);
  const FileId other{c.record.dev, c.record.file_bytes, c.record.mtime_ns};
  const std::string between = c.path + ".cr-swapped";
  add(id, c.path, between, c.elsewhere);
  add(other, c.target, c.path, c.elsewhere);
  add(id, between, c.target, c.elsewhere);
}

void Reader::apply_waiting(const std::string& but_not_to) {
  std::erase_if(waiting_, [&](const Change& c) {
    if (c.target == but_not_to) return false;
    apply(c);
    return true;
  });
}

void Reader::read(size_t i) {
  Change c = life_.records[i];
  apply_waiting(c.path);
  if (is_made(c)) {
    if (!has(c, format::kChangeFound) && !was_made_later(c)) apply(c);
    return;
  }
  if (is_move(c) && was_made(i)) {
    // Two that have changed places say so of each other.
    const auto other = std::ranges::find_if(
        waiting_, [&](const Change& w) { return w.path == c.target && w.target == c.path; });
    if (other != waiting_.end()) {
      other->record.flags |= format::kChangeSwapped;
      other->record.file_bytes = c.record.ino;
      other->record.mtime_ns = c.record.made_ns;
    } else {
      waiting_.push_back(c);
    }
  }
  c.is_new = before(moves_, &c.path);
  out_.push_back(std::move(c));
}

void Reader::run() {
  for (size_t i = 0; i < life_.records.size(); i++) read(i);
  apply_waiting("");
  life_.moves.assign(moves_.begin() + static_cast<long>(earlier_), moves_.end());
}

}  // namespace

FileId id_of_file(const struct statx& st) {
  const bool born = (st.stx_mask & STATX_BTIME) != 0;
  return {uint64_t{st.stx_dev_major} << 32 | st.stx_dev_minor, st.stx_ino,
          born ? st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec : 0};
}

bool is_move(const Change& c) { return c.record.was == format::kWasDirectory && !c.target.empty(); }

Moves before_moves(std::vector<Change>& all) {
  Moves moves;
  std::vector<Change> out;
  const auto changes =
      std::ranges::find_if_not(all, [](const Change& c) { return has(c, format::kChangeOpen); });
  std::move(all.begin(), changes, std::back_inserter(out));
  all.erase(all.begin(), changes);
  std::vector<Life> lives = lives_of(all);
  for (size_t i = 0; i < lives.size(); i++) {
    Reader(lives, i, out, moves.found).run();
    moves.undone = std::max(moves.undone, lives[i].from);
    if (lives[i].to != kNow) continue;
    moves.all.insert(moves.all.end(), lives[i].moves.begin(), lives[i].moves.end());
    moves.is_new = moves.is_new || !lives[i].records.empty();
  }
  all = std::move(out);
  return moves;
}

}  // namespace cr::agent
