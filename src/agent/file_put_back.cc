// SPDX-License-Identifier: MIT
// file_put_back.cc - see file_put_back.h. Invariant: as there. Context: N (agent).
#include "agent/file_put_back.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "os/fd.h"
#include "os/file_journal.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr char kNewSuffix[] = ".cr-back";   // of a name that is about to take the other's place
constexpr char kOldSuffix[] = ".cr-aside";  // of what has the place of a directory

struct Now {
  bool there = false;
  uint32_t was = 0;  // FileWas
  FileId id{};
  struct statx st {};
};

Now look_at(const std::string& path) {
  Now n;
  n.there = statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME,
                  &n.st) == 0;
  if (!n.there) return n;
  n.was = os::kind_of_file(n.st.stx_mode);
  n.id = id_of_file(n.st);
  return n;
}

// Paths have no symbolic link in them when they are written down.
bool leads_elsewhere(const std::string& path) {
  char real[PATH_MAX];
  const std::string parent = path.substr(0, path.find_last_of('/'));
  return !parent.empty() && realpath(parent.c_str(), real) != nullptr && parent != real;
}

class Putter {
 public:
  Putter(const std::string& dir, const JournalState& state, bool only_look, PutBack& out)
      : dir_(dir), state_(state), only_look_(only_look), out_(out) {}
  Trouble run();

 private:
  using Entry = std::pair<const std::string, Change>;
  void look_at_moves();
  void make_parents(const std::string& path);
  void move_back(size_t i);
  Trouble move_directories();
  void make_directories();
  void find_files();
  Trouble place_files();
  Trouble place(const std::string& path, const Change& c);
  Trouble make_again(const std::string& fresh, const Change& c);
  void swap_in();
  void put_others_back();
  void remove_new();
  Trouble write_content();
  Trouble write_content(const std::string& path, const Change& c);
  void set_attributes();
  bool differs(const std::string& path, const std::string& how) {
    out_.changed.push_back(path + " " + how);
    return !only_look_;
  }
  void warn(const std::string& path, const std::string& what) {
    out_.warnings.push_back(path + ": " + what);
  }
  void failed(const std::string& path, const char* what) {
    warn(path, std::string(what) + ": " + strerror(errno));
  }

  const std::string& dir_;
  const JournalState& state_;
  const bool only_look_;
  PutBack& out_;
  std::map<FileId, std::string> where_;  // files that are wanted, by a name that they have now
  std::vector<std::string> fresh_;       // paths whose file waits beside them
  std::set<std::string> made_again_;     // directories, while others are moved back into them
};

// A directory that was there, and was renamed or replaced.
void Putter::look_at_moves() {
  for (const Move& m : state_.moves.all) {
    const auto it = state_.paths.find(m.before);
    const bool was_there = it != state_.paths.end() &&
                           it->second.record.was == format::kWasDirectory &&
                           id_of(it->second.record) == m.id;
    if (!m.elsewhere && was_there && look_at(m.before).id != m.id) {
      (void)differs(m.before, "was renamed to " + m.target);
    }
  }
}

// One that was removed since: what was moved out of it needs it.
void Putter::make_parents(const std::string& path) {
  for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
    const std::string parent = path.substr(0, at);
    if (mkdir(parent.c_str(), 0700) == 0) made_again_.insert(parent);
  }
}

// The newest first. What has got the path since goes aside; but if this was broken off, that may be
// a directory that was moved before, and is back already.
void Putter::move_back(size_t i) {
  const auto& all = state_.moves.all;
  const Move& m = all[i];
  const Now from = look_at(m.path), to = look_at(m.target);
  if (m.elsewhere || (from.there && from.id == m.id)) return;
  const bool in_the_way =
      from.there && std::none_of(all.begin(), all.begin() + static_cast<long>(i),
                                 [&](const Move& o) { return o.id == from.id; });
  if (in_the_way &&
      renameat2(AT_FDCWD, m.path.c_str(), AT_FDCWD, m.aside.c_str(), RENAME_NOREPLACE) != 0) {
    return failed(m.path, "putting aside what is in the way of a directory that was renamed");
  }
  if (!to.there || (to.id != m.id && !made_again_.contains(m.target))) return;
  if (from.there && !in_the_way) return warn(m.path, "another directory is in the way");
  make_parents(m.path);
  if (rename(m.target.c_str(), m.path.c_str()) != 0) return failed(m.target, "renaming it back");
  if (made_again_.erase(m.target) != 0) made_again_.insert(m.path);
}

Trouble Putter::move_directories() {
  look_at_moves();
  if (only_look_) return {};
  Trouble bad = note_found(dir_, state_);
  if (bad.bad()) return bad;
  for (size_t i = state_.moves.all.size(); i > 0; i--) move_back(i - 1);
  return note_moved_back(dir_, state_);
}

// Those above come first, by the order of paths.
void Putter::make_directories() {
  for (const auto& [path, c] : state_.paths) {
    if (c.record.was != format::kWasDirectory) continue;
    const Now n = look_at(path);
    struct stat led {};
    const bool leads_there = c.elsewhere && stat(path.c_str(), &led) == 0 && S_ISDIR(led.st_mode);
    if ((n.there && n.was == format::kWasDirectory) || leads_there) continue;
    if (!differs(path, n.there ? "was replaced" : "was removed")) continue;
    if (n.there && rename(path.c_str(), (path + kOldSuffix).c_str()) != 0) {
      failed(path, "putting aside what has the place of a directory");
    } else if (mkdir(path.c_str(), 0700) != 0) {
      failed(path, "making the directory again");
    }
  }
}

void Putter::find_files() {
  for (const Entry& e : state_.paths) {
    for (const std::string& path : {e.first, e.first + kNewSuffix, e.first + kOldSuffix}) {
      const Now n = look_at(path);
      if (n.there && n.was == format::kWasRegular) where_.emplace(n.id, path);
    }
  }
  for (const auto& [id, c] : state_.kept) {
    const std::string path = copy_path(dir_, c.record.generation, c.record.copy);
    if (look_at(path).id == id) where_.emplace(id, path);
  }
}

Trouble Putter::make_again(const std::string& fresh, const Change& c) {
  const auto it = state_.content.find(id_of(c.record));
  if (it == state_.content.end() || it->second.record.copy_kind != format::kCopyContent) {
    warn(c.path, "it was removed, and there is no copy of it" +
                     std::string(it == state_.content.end() ? ""
                                 : it->second.record.copy_kind == format::kCopyTooLarge
                                     ? " (it is larger than --files-limit allows)"
                                     : " (copying it had failed)"));
    return {};
  }
  const format::FileChange& r = it->second.record;
  const std::string copy = copy_path(dir_, r.generation, r.copy);
  const os::Fd source(open(copy.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  uint64_t spent = 0;
  unlink(fresh.c_str());
  const long e = source ? os::copy_content(source.get(), fresh.c_str(), r.file_bytes, ~uint64_t{0},
                                           false, &spent)
                        : -errno;
  if (e != 0) {
    return trouble(Errc::kSystem, static_cast<int>(-e),
                   c.path + " cannot be made again from " + copy + ": " +
                       strerror(static_cast<int>(-e)) + "; mend that and restore again");
  }
  where_[id_of(c.record)] = fresh;
  fresh_.push_back(c.path);
  return {};
}

// Its own file, under whatever name it is now, else a new one, beside the path.
Trouble Putter::place(const std::string& path, const Change& c) {
  const Now n = look_at(path);
  if (n.there && n.was == format::kWasRegular && (n.id == id_of(c.record) || c.elsewhere))
    return {};
  if (!differs(path, n.there ? "was replaced" : "was removed or renamed")) return {};
  const std::string fresh = path + kNewSuffix;
  const auto it = where_.find(id_of(c.record));
  if (it == where_.end()) return make_again(fresh, c);
  if (it->second != fresh) unlink(fresh.c_str());  // of an attempt that was broken off
  if (it->second == fresh || link(it->second.c_str(), fresh.c_str()) == 0) {
    fresh_.push_back(path);
    return {};
  }
  // Not ours to link (protected_hardlinks), or on another file system.
  return make_again(fresh, c);
}

Trouble Putter::place_files() {
  for (const Entry& e : state_.paths) {
    if (e.second.record.was != format::kWasRegular) continue;
    Trouble bad = place(e.first, e.second);
    if (bad.bad()) return bad;
  }
  return {};
}

// Only when each has a second name: they may have changed places.
void Putter::swap_in() {
  for (const std::string& path : fresh_) {
    const std::string fresh = path + kNewSuffix;
    const Now n = look_at(path);
    if (n.there && n.was == format::kWasDirectory && rmdir(path.c_str()) != 0) {
      failed(path, "a directory that is in the way cannot be removed");
      continue;
    }
    if (rename(fresh.c_str(), path.c_str()) != 0) failed(path, "renaming it back");
  }
  // rename() leaves two names of one file alone, and an attempt may have been broken off.
  for (const Entry& e : state_.paths) {
    if (e.second.record.was == format::kWasRegular) unlink((e.first + kNewSuffix).c_str());
    if (e.second.record.was == format::kWasDirectory) unlink((e.first + kOldSuffix).c_str());
  }
}

void Putter::put_others_back() {
  for (const auto& [path, c] : state_.paths) {
    const uint32_t was = c.record.was;
    if (was != format::kWasSymlink && was != format::kWasFifo && was != format::kWasOther) continue;
    const Now n = look_at(path);
    char text[format::kJournalPathBytes] = "";
    const bool same_link = was != format::kWasSymlink ||
                           (readlink(path.c_str(), text, sizeof(text) - 1) > 0 && c.target == text);
    if (n.there && n.was == was && same_link) continue;
    if (!differs(path, "was removed or replaced")) continue;
    if (was == format::kWasOther) {
      warn(path, "a socket or device is not made again");
      continue;
    }
    n.was == format::kWasDirectory ? rmdir(path.c_str()) : unlink(path.c_str());
    const int r = was == format::kWasFifo ? mkfifo(path.c_str(), 0600)
                                          : symlink(c.target.c_str(), path.c_str());
    if (r != 0) failed(path, "making it again");
  }
}

// Those below come first. What is wanted has a second name by now.
void Putter::remove_new() {
  for (auto e = state_.paths.rbegin(); e != state_.paths.rend(); ++e) {
    const std::string& path = e->first;
    if (e->second.record.was != format::kWasAbsent) continue;
    const Now n = look_at(path);
    if (!n.there || (!e->second.elsewhere && leads_elsewhere(path))) continue;
    if (!differs(path, "is new")) continue;
    const bool directory = n.was == format::kWasDirectory;
    if (directory && rmdir(path.c_str()) != 0) {
      warn(path,
           "the directory was made since the checkpoint, and is left because " +
               std::string(errno == ENOTEMPTY ? "others have put files there" : strerror(errno)));
    } else if (!directory && unlink(path.c_str()) != 0) {
      failed(path, "removing it");
    }
  }
}

// Blocks that differ are written: a file that is as it was is not touched.
Trouble Putter::write_content(const std::string& path, const Change& c) {
  const format::FileChange& r = c.record;
  if (r.copy_kind != format::kCopyContent) {
    const Now n = look_at(path);
    const int64_t mtime = n.st.stx_mtime.tv_sec * 1000000000 + n.st.stx_mtime.tv_nsec;
    if (n.there && n.st.stx_size == r.file_bytes && mtime == r.mtime_ns) return {};
    if ((r.flags & format::kChangeOpen) == 0) out_.changed.push_back(path + " was written to");
    warn(path, r.copy_kind == format::kCopyTooLarge
                   ? "bytes that were overwritten in it since the checkpoint are not put back: it "
                     "is larger than --files-limit allows"
                   : "what was overwritten in it is not put back: it could not be copied: " +
                         std::string(strerror(r.error)));
    return {};
  }
  const std::string copy = copy_path(dir_, r.generation, r.copy);
  const os::Fd from(open(copy.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  const Now now = look_at(path);
  bool opened_up = false;
  os::Fd to(open(path.c_str(), (only_look_ ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW));
  if (!to && errno == EACCES && !only_look_) {  // its mode is put back later
    opened_up = chmod(path.c_str(), (now.st.stx_mode & 07777) | 0600) == 0;
    to = os::Fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  }
  const auto broken = [&](const std::string& what, int e) {
    return trouble(Errc::kSystem, e,
                   path + " cannot be put back: " + what + ": " + strerror(e) +
                       "; mend that and restore again, or use --files=keep");
  };
  if (!from) return broken(copy, errno);
  if (!to && only_look_) return {};
  if (!to) return broken("opening it", errno);
  constexpr uint64_t kBlock = 256 << 10;
  std::string want(kBlock, '\0'), have(kBlock, '\0');
  bool told = false;
  struct stat st {};
  fstat(to.get(), &st);
  const auto bytes_now = static_cast<uint64_t>(st.st_size);
  for (uint64_t at = 0; at < r.file_bytes;) {
    const ssize_t n =
        pread(from.get(), want.data(), std::min(kBlock, r.file_bytes - at), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return broken(copy, n < 0 ? errno : EIO);
    const ssize_t k = pread(to.get(), have.data(), static_cast<size_t>(n), static_cast<off_t>(at));
    if (k != n || memcmp(want.data(), have.data(), static_cast<size_t>(n)) != 0) {
      if (!told && !differs(path, "was written to")) return {};
      told = true;
      const long e = rawsys::write_all_at(to.get(), want.data(), static_cast<size_t>(n), at);
      if (e != 0) return broken("writing", static_cast<int>(-e));
    }
    at += static_cast<uint64_t>(n);
  }
  // One that was open is cut back by the restorer, to its size in the image.
  const bool longer = bytes_now > r.file_bytes && (r.flags & format::kChangeOpen) == 0;
  if (bytes_now < r.file_bytes || longer) {
    if (!told && !differs(path, "has another size")) return {};
    if (ftruncate(to.get(), static_cast<off_t>(r.file_bytes)) != 0) {
      return broken("setting its size", errno);
    }
  }
  if (opened_up) fchmod(to.get(), now.st.stx_mode & 07777);
  return {};
}

Trouble Putter::write_content() {
  std::map<FileId, bool> done;
  for (const auto& [path, c] : state_.paths) {
    const auto it = state_.content.find(id_of(c.record));
    if (c.record.was != format::kWasRegular || it == state_.content.end() || done[it->first] ||
        !look_at(path).there) {
      continue;
    }
    done[it->first] = true;
    Trouble bad = write_content(path, it->second);
    if (bad.bad()) return bad;
  }
  return {};
}

void Putter::set_attributes() {
  for (const auto& [path, c] : state_.paths) {
    const format::FileChange& r = c.record;
    const bool file = r.was == format::kWasRegular;
    if (!file && r.was != format::kWasDirectory && r.was != format::kWasFifo) continue;
    const Now n = look_at(path);
    if (!n.there || n.was != r.was) continue;
    const bool other_mode = (n.st.stx_mode & 07777) != (r.mode & 07777);
    if (other_mode && !differs(path, "has another mode")) continue;
    if (only_look_) continue;
    if ((n.st.stx_uid != r.uid || n.st.stx_gid != r.gid) && geteuid() == 0) {
      (void)!lchown(path.c_str(), r.uid, r.gid);
    }
    if (other_mode && chmod(path.c_str(), r.mode & 07777) != 0) failed(path, "setting its mode");
    const timespec times[2] = {{0, UTIME_OMIT}, {r.mtime_ns / 1000000000, r.mtime_ns % 1000000000}};
    if (file) (void)!utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW);
  }
}

Trouble Putter::run() {
  Trouble bad = move_directories();
  if (bad.bad()) return bad;
  make_directories();
  find_files();
  bad = place_files();
  if (bad.bad()) return bad;
  remove_new();
  if (!only_look_) swap_in();
  put_others_back();
  bad = write_content();
  if (!bad.bad()) set_attributes();
  return bad;
}

}  // namespace

Trouble put_files_back(const std::string& image_dir, const JournalState& state, bool only_look,
                       PutBack* ret) {
  return Putter(image_dir, state, only_look, *ret).run();
}

}  // namespace cr::agent
