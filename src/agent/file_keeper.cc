// SPDX-License-Identifier: MIT
// file_keeper.cc - see file_keeper.h. Invariant: as there. Context: N (agent).
#include "agent/file_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "format/file_journal_reader.h"
#include "os/file_journal.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"
#include "store/file.h"

namespace cr::agent {
namespace {

using format::FileChange;
using format::FilesHead;

// A change within one tick of the kernel's clock may leave the times as they are.
constexpr int64_t kTickNs = 20000000;

bool look(const std::string& path, struct statx* ret) {
  const os::Fd fd(open(path.c_str(), O_PATH | O_CLOEXEC));
  return fd && statx(fd.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, ret) == 0;
}

int64_t nanoseconds(const statx_timestamp& t) { return t.tv_sec * 1000000000 + t.tv_nsec; }

FileId id_of(const struct statx& st) {
  return {uint64_t{st.stx_dev_major} << 32 | st.stx_dev_minor, st.stx_ino,
          (st.stx_mask & STATX_BTIME) != 0 ? nanoseconds(st.stx_btime) : 0};
}

// The program, while it runs, may open another by the same number.
bool is_file(int fd, const FileId& id) {
  struct statx st {};
  return statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) == 0 && id_of(st) == id;
}

bool writes(uint64_t flags) { return (flags & O_ACCMODE) != O_RDONLY; }

std::string fd_path(pid_t pid, pid_t tid, int fd) {
  return os::task_path(pid, tid, "fd/") + std::to_string(fd);
}

// A string of the program's.
std::string read_string(int mem, uint64_t addr) {
  std::string text;
  char block[256];
  while (addr != 0 && text.size() < format::kJournalPathBytes) {
    const uint64_t n = sizeof(block) - addr % sizeof(block);
    if (rawsys::read_all_at(mem, block, n, addr) != 0) return "";
    const size_t end = strnlen(block, n);
    text.append(block, end);
    if (end < n) return text;
    addr += n;
  }
  return "";
}

}  // namespace

format::FilesPolicy policy_of(const format::SuperBlock& super) {
  return static_cast<format::FilesPolicy>(
      std::min<uint32_t>(super.files_policy, format::kFilesRefuse));
}

format::FilesPolicy FileKeeper::policy_for(const format::SuperBlock& super) const {
  return options_.of_image ? policy_of(super) : options_.policy;
}

void FileKeeper::adopt(const format::SuperBlock& super) {
  options_.policy = policy_for(super);
  if (options_.limit_of_image && super.files_limit_bytes != 0) {
    options_.limit_bytes = super.files_limit_bytes;
  }
  options_.of_image = options_.limit_of_image = false;  // from here on it is the session's
  last_committed_ = super.files_generation;
  generation_ = std::max(super.files_generation, newest_generation(dir_));
  copies_.clear();
  write_state(head_of(last_committed_));
}

FilesHead FileKeeper::head_of(uint64_t generation) const {
  FilesHead head{};
  head.generation = generation;
  head.limit_bytes = options_.limit_bytes;
  head.flags = durable_ ? format::kFilesDurable : 0;
  return head;
}

void FileKeeper::rolled_back(const format::SuperBlock& super) const {
  write_state(head_of(super.files_generation));
}

std::string FileKeeper::log_path() const {
  return on() ? journal_dir(dir_) + "/log." + std::to_string(generation_) : "";
}

// For programs that the session's execute; they have no agent that would tell them.
void FileKeeper::write_state(const FilesHead& head) const {
  const std::string path = journal_dir(dir_) + "/state";
  if (!on()) {
    unlink(path.c_str());
    return;
  }
  const os::Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (fd) (void)rawsys::write_all_at(fd.get(), &head, sizeof(head), 0);
}

void FileKeeper::describe(format::SuperBlock* super) const {
  super->files_policy = options_.policy;
  super->files_generation = on() ? generation_ : 0;
  super->files_limit_bytes = options_.limit_bytes;
}

// Neither what is made up by the kernel nor devices, nor our own.
bool FileKeeper::is_kept(const std::string& path) const {
  return path.starts_with("/") && !path.starts_with("/proc/") && !path.starts_with("/sys/") &&
         !path.starts_with("/dev/") && !path.starts_with("/memfd:") &&
         !path.starts_with(real_dir_ + "/");
}

// Will a later change show in the file's times?
bool FileKeeper::settles(const FileId& id, const Stamp& now) const {
  return !mapped_.contains(std::get<1>(id)) &&
         static_cast<int64_t>(rawsys::clock_ns(CLOCK_REALTIME)) - now.ctime_ns > kTickNs;
}

// A store to a page that was stored to before moves no time of the file.
void FileKeeper::note_mapped(uint64_t ino) {
  mapped_.insert(ino);
  for (auto& [id, c] : copies_) {
    if (std::get<1>(id) == ino) c.settled = false;
  }
}

FileKeeper::Copy FileKeeper::copy_anew(const std::string& source, const FileId& id,
                                       const Stamp& now, uint64_t generation) {
  Copy c;
  c.stamp = now;
  c.generation = generation;
  c.number = ++numbers_;
  c.settled = settles(id, now);
  const uint64_t left = spent_ < options_.limit_bytes ? options_.limit_bytes - spent_ : 0;
  const os::Fd fd(open(source.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  const std::string to = copy_path(dir_, c.generation, c.number);
  unlink(to.c_str());  // of an attempt at this checkpoint that failed
  const long e = !fd ? -errno
                 : !is_file(fd.get(), id)
                     ? -ESTALE
                     : os::copy_content(fd.get(), to.c_str(), now.bytes, left, false, &c.cost);
  c.error = static_cast<int>(-e);
  if (e != 0) {
    c.number = 0;
  } else {
    spent_ += c.cost;
    unsynced_.insert(to);
  }
  return c;
}

// Only what differs is written. Not into a copy that an earlier checkpoint has too.
bool FileKeeper::bring_up_to_date(const std::string& source, const FileId& id, const Stamp& now,
                                  Copy& c) {
  constexpr uint64_t kBlock = 64 << 10;
  const os::Fd from(open(source.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  const std::string path = copy_path(dir_, c.generation, c.number);
  const os::Fd to(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  struct stat st {};
  if (!from || !to || !is_file(from.get(), id) || fstat(to.get(), &st) != 0 || st.st_nlink > 1)
    return false;
  if (now.bytes > c.stamp.bytes) {
    const uint64_t more = now.bytes - c.stamp.bytes;
    if (spent_ + more > options_.limit_bytes) return false;
    spent_ += more;
  }
  std::string want(kBlock, '\0'), have(kBlock, '\0');
  for (uint64_t at = 0; at < now.bytes;) {
    const ssize_t n =
        pread(from.get(), want.data(), std::min(kBlock, now.bytes - at), static_cast<off_t>(at));
    if (n <= 0) return false;
    const auto bytes = static_cast<size_t>(n);
    const ssize_t k = pread(to.get(), have.data(), bytes, static_cast<off_t>(at));
    if ((k != n || memcmp(want.data(), have.data(), bytes) != 0) &&
        rawsys::write_all_at(to.get(), want.data(), bytes, at) != 0) {
      return false;
    }
    at += bytes;
  }
  c.stamp = now;
  c.settled = settles(id, now);
  unsynced_.insert(path);
  return ftruncate(to.get(), static_cast<off_t>(now.bytes)) == 0;
}

// Before the stop a copy is made of what has changed since the last checkpoint's; in the stop what
// was written since is brought up to date.
const FileKeeper::Copy& FileKeeper::up_to_date(const std::string& source, const FileId& id,
                                               const Stamp& now, bool stopped) {
  const uint64_t generation = generation_ + (stopped ? 0 : 1);
  const auto it = copies_.find(id);
  const bool same = it != copies_.end() && it->second.settled && it->second.stamp == now;
  if (same && it->second.error == 0) {
    Copy& c = it->second;
    if (c.generation != generation) {
      const std::string from = copy_path(dir_, c.generation, c.number);
      const uint64_t number = ++numbers_;
      const std::string to = copy_path(dir_, generation, number);
      unlink(to.c_str());
      if (link(from.c_str(), to.c_str()) == 0) {
        c.generation = generation;
        c.number = number;
        unsynced_.insert(to);
        return c;
      }
    } else {
      return c;
    }
  }
  if (stopped && it != copies_.end() && it->second.generation == generation &&
      it->second.error == 0 && bring_up_to_date(source, id, now, it->second)) {
    return it->second;
  }
  return copies_[id] = copy_anew(source, id, now, generation);
}

void FileKeeper::begin(pid_t pid, pid_t control_tid, bool another) {
  if (!another) {
    records_.clear();
    mapped_.clear();
    spent_ = 0;
    several_ = false;
  }
  several_ = several_ || another;
  if (!on()) return;
  // What is wrong with it is found when it is written to.
  (void)store::make_directory(journal_dir(dir_));
  char real[PATH_MAX];
  real_dir_ = realpath(dir_.c_str(), real) != nullptr ? real : dir_;
  pid_t tid = 0;
  auto tasks = os::list_tasks(pid);
  for (const pid_t t : tasks ? *tasks : std::vector<pid_t>()) {
    if (t != control_tid && tid == 0 && os::list_fds(pid, t)) tid = t;
  }
  auto fds = os::list_fds(pid, tid);
  std::map<FileId, std::pair<Open, Stamp>> open_files;
  for (const int fd : fds ? *fds : std::vector<int>()) {
    struct statx st {};
    const std::string path = fd_path(pid, tid, fd);
    auto link = os::read_link(path);
    auto info = os::read_fdinfo(pid, tid, fd);
    if (!link || !info || !writes(info->flags) || !is_kept(*link) || !look(path, &st) ||
        !S_ISREG(st.stx_mode) || st.stx_nlink == 0) {
      continue;
    }
    auto& [o, stamp] = open_files[id_of(st)];
    o.fd = fd;
    o.only_appends = o.only_appends && (info->flags & O_APPEND) != 0;
    stamp = {st.stx_size, nanoseconds(st.stx_mtime), nanoseconds(st.stx_ctime)};
  }
  if (!several_) {  // else committed() forgets what nobody has open any more
    std::erase_if(copies_, [&](const auto& c) { return !open_files.contains(c.first); });
  }
  const std::string text =
      open_files.empty() ? "" : os::read_or_empty(os::task_path(pid, control_tid, "maps"));
  auto maps = os::parse_maps(text);
  for (const os::MapEntry& m : maps ? *maps : std::vector<os::MapEntry>()) {
    if (m.shared && m.ino != 0 && (m.prot & PROT_WRITE) != 0) note_mapped(m.ino);
  }
  for (const auto& [id, o] : open_files) {
    if (!o.first.only_appends) (void)up_to_date(fd_path(pid, tid, o.first.fd), id, o.second, false);
  }
}

void FileKeeper::tell_left_out(const FilesHead& head) {
  if (head.left_out == 0 || !told_.insert("").second) return;
  notice_ = std::to_string(head.left_out) + (head.left_out == 1 ? " file was" : " files were") +
            " changed without being kept: a restore would not put back everything (" +
            (head.error != 0 ? strerror(head.error) : "larger than --files-limit allows") + ")";
}

Trouble FileKeeper::stopped(pid_t pid, pid_t tid, int mem, uint64_t control_state, bool another,
                            FilesHead* ret_before) {
  FilesHead head{};
  const uint64_t at = control_state + offsetof(format::ControlHead, files);
  if (rawsys::read_all_at(mem, &head, sizeof(head), at) != 0) {
    return trouble(Errc::kSystem, EIO, "the program's journal of changed files cannot be read");
  }
  *ret_before = head;
  const bool was_off = head.generation == 0;
  if (!on() && was_off) return {};
  if (!was_off) tell_left_out(head);
  if (!another) generation_++;
  const uint64_t slots = head.slots;
  head = head_of(on() ? generation_ : 0);
  head.slots = slots;
  log_bytes_ = 0;
  write_state(head);
  if (on()) look_at_slots(pid, tid, mem, head);
  if (rawsys::write_all_at(mem, &head, sizeof(head), at) != 0) {
    return trouble(Errc::kSystem, EIO, "the program's journal of changed files cannot be written");
  }
  return {};
}

// Else other processes of its tree, which were not stopped for it or not captured any more, would
// write down what they change as if it had come before.
void FileKeeper::not_captured(int mem, uint64_t control_state, const FilesHead& before) const {
  const uint64_t at = control_state + offsetof(format::ControlHead, files);
  if (rawsys::write_all_at(mem, &before, sizeof(before), at) == 0 && on()) write_state(before);
}

// Changes that threads are about to make, or have made in this very moment. They count as the
// program's own.
void FileKeeper::look_at_slots(pid_t pid, pid_t tid, int mem, FilesHead& head) {
  if (head.slots == 0) return;
  format::FilesSlot slots[format::kFilesSlots] = {};
  if (rawsys::read_all_at(mem, slots, sizeof(slots), head.slots) != 0) return;
  for (const format::FilesSlot& s : slots) {
    if (s.busy == 0 || s.what == 0) continue;
    const os::Journal journal{dir_.c_str(), &head, nullptr};
    auto scratch = std::make_unique<os::JournalScratch>();
    os::At at[2];
    os::Fd base[2];
    std::string path[2];
    for (int k = 0; k < 2; k++) {
      path[k] = read_string(mem, s.path[k]);
      if (path[k].starts_with("/proc/self/")) {
        path[k] = "/proc/" + std::to_string(pid) + path[k].substr(strlen("/proc/self"));
      }
      const std::string from =
          s.dir[k] == AT_FDCWD ? os::task_path(pid, tid, "cwd") : fd_path(pid, tid, s.dir[k]);
      base[k] = os::Fd(open(from.c_str(), O_PATH | O_CLOEXEC));
      at[k] = {base[k].get(), path[k].empty() ? nullptr : path[k].c_str()};
    }
    for (int k = 0; k < 2; k++) {
      const auto touch = static_cast<format::FileTouch>(s.what >> (8 * k) & 0xff);
      if (touch == format::kTouchNone) continue;
      (void)os::journal_before(journal, *scratch, generation_, at[k], touch,
                               (s.what >> (16 + k) & 1) != 0, &at[1 - k]);
    }
  }
}

void FileKeeper::add_record(const std::string& path, const struct statx& st, const Copy& copy) {
  FileChange c{};
  c.generation = generation_;
  c.was = format::kWasRegular;
  c.flags = format::kChangeOpen;
  std::tie(c.dev, c.ino, c.made_ns) = id_of(st);
  c.mtime_ns = nanoseconds(st.stx_mtime);
  c.file_bytes = st.stx_size;
  c.mode = st.stx_mode;
  c.uid = st.stx_uid;
  c.gid = st.stx_gid;
  c.copy = copy.number;
  c.error = copy.error;
  c.copy_kind = copy.error == 0       ? format::kCopyContent
                : copy.error == EFBIG ? format::kCopyTooLarge
                                      : format::kCopyFailed;
  std::string room(format::kMostChangeBytes + 8, '\0');
  const uint64_t n =
      format::build_change(c, path.c_str(), "", reinterpret_cast<uint8_t*>(room.data()));
  records_.append(room.data(), n);
  if (copy.error == 0 || !told_.insert(path).second) return;
  notice_ =
      path + " is open for writing and could not be copied (" +
      (copy.error == EFBIG ? std::to_string(c.file_bytes >> 20) + " MiB; --files-limit allows " +
                                 std::to_string(options_.limit_bytes >> 20) + " MiB"
                           : strerror(copy.error)) +
      "): bytes that are overwritten in it would not be put back";
}

void FileKeeper::describe_open(pid_t pid, pid_t tid, store::Model& model) {
  const auto name = [&](const format::FileRecord& f) {
    return std::string(model.strings.c_str() + f.path);
  };
  // A wrapper's own, in the middle of its work: the record is made anew.
  for (format::FileRecord& f : model.files) {
    if (f.kind != format::kFileRegular || !name(f).starts_with(journal_dir(real_dir_) + "/"))
      continue;
    f.kind = format::kFileDevice;
    f.path = model.add_string("/dev/null");
  }
  if (!on()) return;
  for (const format::SegmentRecord& s : model.segments) {
    const bool shared = s.kind == format::kSegmentFileShared || s.kind == format::kSegmentObject;
    if (shared && (s.prot & PROT_WRITE) != 0) note_mapped(s.ino);
  }
  std::map<std::pair<uint64_t, uint64_t>, Open> all;
  for (const format::FdRecord& d : model.fds) {
    const format::FileRecord& f = model.files[d.file];
    if (f.kind != format::kFileRegular || !writes(f.open_flags) || !is_kept(name(f))) continue;
    Open& o = all[{f.dev, f.ino}];
    if (o.fd < 0) o.fd = d.fd;
    o.path = name(f);
    o.only_appends = o.only_appends && (f.open_flags & O_APPEND) != 0;
  }
  for (const auto& [file, o] : all) {
    struct statx st {};
    const std::string source = fd_path(pid, tid, o.fd);
    if (o.only_appends || !look(source, &st)) continue;
    const Stamp now{st.stx_size, nanoseconds(st.stx_mtime), nanoseconds(st.stx_ctime)};
    add_record(o.path, st, up_to_date(source, id_of(st), now, true));
  }
}

Trouble FileKeeper::write() {
  if (!on() || records_.empty()) return {};
  const std::string path = log_path();
  const os::Fd log(
      open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  const ssize_t n = log ? ::write(log.get(), records_.data(), records_.size()) : -1;
  if (n != static_cast<ssize_t>(records_.size())) {
    const int e = n < 0 ? errno : ENOSPC;
    return trouble(Errc::kSystem, e,
                   path + ": what open files were cannot be written down: " + strerror(e) +
                       "; make room, or run with --files=keep");
  }
  log_bytes_ += records_.size();
  records_.clear();
  unsynced_.insert(path);
  for (const std::string& file : std::exchange(unsynced_, {})) {
    auto synced = durable_ ? store::sync_file(file) : Result<void>{};
    if (!synced) {
      const int e = synced.error().sys_errno;
      return trouble(Errc::kSystem, e, file + ": " + synced.error().what + ": " + strerror(e));
    }
  }
  auto named = durable_ ? store::sync_directory(journal_dir(dir_)) : Result<void>{};
  return named ? Trouble{}
               : trouble(named.error().code, named.error().sys_errno, named.error().what);
}

void FileKeeper::committed() {
  if (!on()) return;
  if (last_committed_ != 0) purge_journal(dir_, last_committed_);
  last_committed_ = generation_;
  std::erase_if(copies_, [&](const auto& c) { return c.second.generation < generation_; });
}

int64_t FileKeeper::copied_ctime_ns(uint64_t st_dev, uint64_t ino) const {
  const uint64_t dev = uint64_t{major(st_dev)} << 32 | minor(st_dev);
  for (const auto& [id, c] : copies_) {
    const bool same = std::get<0>(id) == dev && std::get<1>(id) == ino;
    if (same && c.settled && c.error == 0) return c.stamp.ctime_ns;
  }
  return -1;
}

std::string FileKeeper::take_notice() { return std::exchange(notice_, ""); }

}  // namespace cr::agent
