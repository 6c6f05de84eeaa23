// SPDX-License-Identifier: MIT
// file_journal.cc - see file_journal.h. Invariant: as there. Context: N, H.
#include "os/file_journal.h"

#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/checksum.h"
#include "format/file_journal_reader.h"
#include "rawsys/rawsys.h"

namespace cr::os {
namespace {

using format::FileChange;
using format::FileTouch;
using rawsys::is_error;
using rawsys::sys;

constexpr uint64_t kSmallBytes = 1 << 20;  // not worth a second name
constexpr uint64_t kPathDevice = ~uint64_t{0};
constexpr int kLook = O_PATH | O_CLOEXEC;

bool begins_with(const char* s, const char* prefix) {
  while (*prefix != 0) {
    if (*s++ != *prefix++) return false;
  }
  return true;
}

// Appends to a string of at most `room` bytes. False: it does not fit.
bool append(char* to, uint64_t room, const char* text) {
  const uint64_t at = rawsys::str_len(to), n = rawsys::str_len(text);
  if (at + n + 1 > room) return false;
  __builtin_memcpy(to + at, text, n + 1);
  return true;
}

// Of a file that has lost the name by which it was opened, the kernel says that name and this.
bool is_no_path(const char* path) {
  constexpr char kGone[] = " (deleted)";
  const uint64_t n = rawsys::str_len(path), end = sizeof(kGone) - 1;
  struct stat st {};
  return n > end && begins_with(path + n - end, kGone) &&
         sys(__NR_newfstatat, AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) != 0;
}

// Where the open file lies.
bool path_of(int fd, char* ret_path) {
  rawsys::LineBuffer<40> link;
  link.text("/proc/self/fd/").dec(static_cast<uint64_t>(fd));
  const long n =
      sys(__NR_readlinkat, AT_FDCWD, link.c_str(), ret_path, format::kJournalPathBytes - 1);
  if (n <= 0 || n >= static_cast<long>(format::kJournalPathBytes) - 1) return false;
  ret_path[n] = 0;
  return ret_path[0] == '/' && !is_no_path(ret_path);
}

// The directory that the path's last part is in, as an open descriptor; `last`: that part.
long open_parent(At at, char* scratch, const char** ret_last) {
  uint64_t n = rawsys::str_len(at.path);
  if (n == 0 || n >= format::kJournalPathBytes) return -ENAMETOOLONG;
  __builtin_memcpy(scratch, at.path, n + 1);
  while (n > 1 && scratch[n - 1] == '/') scratch[--n] = 0;
  uint64_t slash = n;
  while (slash > 0 && scratch[slash - 1] != '/') slash--;
  *ret_last = scratch + slash;
  if (slash == 0) return sys(__NR_openat, at.dir, ".", kLook | O_DIRECTORY);
  if (slash == 1) return sys(__NR_openat, AT_FDCWD, "/", kLook | O_DIRECTORY);
  scratch[slash - 1] = 0;
  return sys(__NR_openat, at.dir, scratch, kLook | O_DIRECTORY);
}

// One that is not there.
bool path_by_parent(At at, char* ret_path, char* scratch) {
  const char* last = nullptr;
  const long dir = open_parent(at, scratch, &last);
  if (is_error(dir)) return false;
  const bool known = path_of(static_cast<int>(dir), ret_path);
  sys(__NR_close, dir);
  if (!known || last[0] == 0) return false;
  const bool root = ret_path[0] == '/' && ret_path[1] == 0;
  return (root || append(ret_path, format::kJournalPathBytes, "/")) &&
         append(ret_path, format::kJournalPathBytes, last);
}

long copy_range(int from, int to, uint64_t at, uint64_t end) {
  auto in = static_cast<long>(at), out = static_cast<long>(at);
  while (static_cast<uint64_t>(in) < end) {
    const uint64_t left = end - static_cast<uint64_t>(in);
    long n = sys(__NR_copy_file_range, from, &in, to, &out, left, 0);
    if (n == -EXDEV || n == -EINVAL || n == -ENOSYS || n == -EOPNOTSUPP) {
      sys(__NR_lseek, to, in, SEEK_SET);
      n = sys(__NR_sendfile, to, from, &in, left);
      out = in;
    }
    if (n == -EINTR) continue;
    if (is_error(n)) return n;
    if (n == 0) return 0;  // it became shorter
  }
  return 0;
}

// Holes stay holes.
long copy_data(int from, int to, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes;) {
    const long data = sys(__NR_lseek, from, at, SEEK_DATA);
    if (data == -ENXIO) break;
    if (is_error(data)) return copy_range(from, to, at, bytes);
    long hole = sys(__NR_lseek, from, data, SEEK_HOLE);
    if (is_error(hole) || static_cast<uint64_t>(hole) > bytes) hole = static_cast<long>(bytes);
    const long r = copy_range(from, to, static_cast<uint64_t>(data), static_cast<uint64_t>(hole));
    if (r != 0) return r;
    at = static_cast<uint64_t>(hole);
  }
  return sys(__NR_ftruncate, to, bytes);
}

struct CopyTask {
  char source[40];
  const char* name;
  uint64_t bytes, allowed;
  bool durable;
  long result;
  uint64_t spent;
};

void run_copy(void* argument) {
  auto* t = static_cast<CopyTask*>(argument);
  const long from = sys(__NR_openat, AT_FDCWD, t->source, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  t->result = from;
  if (is_error(from)) return;
  t->result =
      copy_content(static_cast<int>(from), t->name, t->bytes, t->allowed, t->durable, &t->spent);
  sys(__NR_close, from);
}

// One change on its way into the journal.
class Recorder {
 public:
  Recorder(const Journal& journal, JournalScratch& scratch, uint64_t generation)
      : j_(journal), s_(scratch) {
    c_.generation = generation;
  }
  uint32_t run(At at, FileTouch touch, bool follow, const At* moved_to);
  uint32_t again_aside(At at, FileTouch touch, bool follow, const At* moved_to);
  void moved(At from, At to, bool swapped);

 private:
  bool is_ours() const;
  void know_path();
  bool path_is_known() const { return path_key_.dev != 0 && seen(path_key_, 1); }
  void look(const struct statx& st);
  bool keep(int fd, FileTouch touch, uint32_t links);
  void make_copy(int fd);
  bool make_link(int fd);
  void name_copy();
  void give_up(long error);
  void write();
  void note() const;
  uint32_t level() const;
  JournalKey file() const { return {c_.dev, c_.ino, c_.made_ns}; }
  bool seen(const JournalKey& key, uint32_t level) const {
    return j_.seen != nullptr && j_.seen(c_.generation, key, level);
  }

  const Journal& j_;
  JournalScratch& s_;
  FileChange c_{};
  JournalKey path_key_{};
};

bool look_at(int fd, const char* path, int flags, struct statx* ret) {
  return sys(__NR_statx, fd, path, flags, STATX_BASIC_STATS | STATX_BTIME, ret) == 0;
}

uint64_t device_of(const struct statx& st) {
  return uint64_t{st.stx_dev_major} << 32 | st.stx_dev_minor;
}

int64_t made_ns_of(const struct statx& st) {
  if ((st.stx_mask & STATX_BTIME) == 0) return 0;
  return st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec;
}

// What the kernel makes up, devices and our own files are not kept.
bool Recorder::is_ours() const {
  const char* const kNot[] = {"/proc/", "/sys/", "/dev/"};
  for (const char* prefix : kNot) {
    if (begins_with(s_.path, prefix)) return false;
  }
  const uint64_t n = rawsys::str_len(j_.image_dir);
  return !(begins_with(s_.path, j_.image_dir) && (s_.path[n] == '/' || s_.path[n] == 0));
}

// By the directory that it is in: another may have that name later.
void Recorder::know_path() {
  if (j_.seen == nullptr) return;
  uint64_t n = rawsys::str_len(s_.path);
  const uint64_t end = n;
  while (n > 1 && s_.path[n - 1] != '/') n--;
  const char first = s_.path[n];
  struct statx st {};
  s_.path[n] = 0;
  const bool good = look_at(AT_FDCWD, s_.path, 0, &st);
  s_.path[n] = first;
  const uint64_t parts[] = {device_of(st), st.stx_ino, format::checksum(s_.path + n, end - n)};
  if (good) path_key_ = {kPathDevice, format::checksum(parts, sizeof(parts)), made_ns_of(st)};
}

uint32_t Recorder::level() const {
  // A second name keeps the file, but not what is in it.
  const bool saved = c_.copy_kind != format::kCopyNone && c_.copy_kind != format::kCopyLink;
  return saved ? kSeenContent : kSeenAttributes;
}

void Recorder::note() const {
  if (j_.note == nullptr) return;
  if (path_key_.dev != 0) j_.note(c_.generation, path_key_, 1);
  if (c_.was == format::kWasRegular || c_.was == format::kWasDirectory) {
    j_.note(c_.generation, file(), level());
  }
}

void Recorder::look(const struct statx& st) {
  c_.was = kind_of_file(st.stx_mode);
  c_.dev = device_of(st);
  c_.ino = st.stx_ino;
  c_.made_ns = made_ns_of(st);
  c_.mtime_ns = st.stx_mtime.tv_sec * 1000000000 + st.stx_mtime.tv_nsec;
  c_.file_bytes = st.stx_size;
  c_.mode = st.stx_mode;
  c_.uid = st.stx_uid;
  c_.gid = st.stx_gid;
}

void Recorder::give_up(long error) {
  c_.copy = 0;
  c_.copy_kind = error == -EFBIG ? format::kCopyTooLarge : format::kCopyFailed;
  c_.error = static_cast<int32_t>(-error);
  count_left_out(j_, error == -EFBIG ? 0 : c_.error);
}

void Recorder::name_copy() {
  c_.copy = rawsys::now_ns() << 8 | (static_cast<uint64_t>(rawsys::sys_gettid()) & 0xff);
  rawsys::LineBuffer<80> last;
  last.text("/").text(format::kJournalDirName).text("/copy.").dec(c_.generation).text(".");
  last.dec(c_.copy);
  rawsys::str_copy(s_.name, j_.image_dir, sizeof(s_.name));
  (void)append(s_.name, sizeof(s_.name), last.c_str());
}

void Recorder::make_copy(int fd) {
  name_copy();
  CopyTask task{};
  rawsys::LineBuffer<40> source;
  source.text("/proc/self/fd/").dec(static_cast<uint64_t>(fd));
  rawsys::str_copy(task.source, source.c_str(), sizeof(task.source));
  task.name = s_.name;
  task.bytes = c_.file_bytes;
  const uint64_t spent = __atomic_load_n(&j_.head->spent_bytes, __ATOMIC_RELAXED);
  const uint64_t limit = j_.head->limit_bytes;
  task.allowed = spent < limit ? limit - spent : 0;
  task.durable = (j_.head->flags & format::kFilesDurable) != 0;
  task.result = -ECHILD;
  if (j_.aside == nullptr) {
    run_copy(&task);
  } else if (!j_.aside(run_copy, &task, s_)) {
    task.result = -ECHILD;
  }
  if (task.result != 0) return give_up(task.result);
  __atomic_add_fetch(&j_.head->spent_bytes, task.spent, __ATOMIC_RELAXED);
  c_.copy_kind = format::kCopyContent;
}

// Of a file that goes: it stays, under a second name.
bool Recorder::make_link(int fd) {
  name_copy();
  rawsys::LineBuffer<40> source;
  source.text("/proc/self/fd/").dec(static_cast<uint64_t>(fd));
  if (sys(__NR_linkat, AT_FDCWD, source.c_str(), AT_FDCWD, s_.name, AT_SYMLINK_FOLLOW) != 0) {
    return false;
  }
  c_.copy_kind = format::kCopyLink;
  return true;
}

// False: nothing has to be written down.
bool Recorder::keep(int fd, FileTouch touch, uint32_t links) {
  const bool known = path_is_known();
  if (c_.was == format::kWasDirectory && touch == format::kTouchContent) return false;
  if (c_.was != format::kWasRegular) {
    if (c_.was == format::kWasDirectory && touch == format::kTouchAttributes) {
      return !seen(file(), kSeenAttributes);
    }
    const bool goes = touch == format::kTouchMove || touch == format::kTouchRemove;
    if (c_.was == format::kWasDirectory && goes) return true;  // it says where it was
    return !known && touch != format::kTouchContent;
  }
  if (seen(file(), kSeenNew)) {  // made since the checkpoint
    return !known && touch != format::kTouchContent && touch != format::kTouchAttributes;
  }
  const bool saved = seen(file(), kSeenContent);
  switch (touch) {
    case format::kTouchContent:
      if (saved) return false;
      make_copy(fd);
      return true;
    case format::kTouchRemove:
    case format::kTouchReplace:
      if (saved && links == 1) return !known;
      if ((links > 1 || c_.file_bytes > kSmallBytes) && make_link(fd)) return true;
      if (!saved) make_copy(fd);
      return true;
    case format::kTouchAttributes:
      return !seen(file(), kSeenAttributes);
    default:
      return !known;
  }
}

void Recorder::write() {
  rawsys::LineBuffer<64> last;
  last.text("/").text(format::kJournalDirName).text("/log.").dec(c_.generation);
  rawsys::str_copy(s_.name, j_.image_dir, sizeof(s_.name));
  (void)append(s_.name, sizeof(s_.name), last.c_str());
  const uint64_t bytes = format::build_change(c_, s_.path, s_.target, s_.record);
  const long log = sys(__NR_openat, AT_FDCWD, s_.name,
                       O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  long r = bytes == 0 ? -ENAMETOOLONG : log;
  if (!is_error(r)) r = sys(__NR_write, log, s_.record, bytes);
  if (!is_error(r) && static_cast<uint64_t>(r) != bytes) r = -ENOSPC;
  const bool content = c_.copy_kind == format::kCopyContent || c_.copy_kind == format::kCopyLink;
  if (!is_error(r) && content && (j_.head->flags & format::kFilesDurable) != 0) {
    r = sys(__NR_fsync, log);
  }
  if (!is_error(log)) sys(__NR_close, log);
  if (is_error(r)) return give_up(r);
  __atomic_add_fetch(&j_.head->changes, 1, __ATOMIC_RELAXED);
  note();
}

struct Again {
  const Journal& journal;
  JournalScratch& scratch;
  uint64_t generation;
  At at;
  FileTouch touch;
  bool follow;
  const At* moved_to;
  uint32_t was;
};

// A process of its own has limits of its own.
void run_again(void* argument) {
  auto* a = static_cast<Again*>(argument);
  constexpr uint64_t kMore = 16;
  struct {
    uint64_t soft, hard;
  } limit{};
  sys(__NR_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit);
  limit.soft = limit.soft < limit.hard ? limit.hard : limit.soft + kMore;
  if (limit.hard < limit.soft) limit.hard = limit.soft;
  sys(__NR_prlimit64, 0, RLIMIT_NOFILE, &limit, nullptr);
  Journal here = a->journal;
  here.aside = nullptr;
  a->was = journal_before(here, a->scratch, a->generation, a->at, a->touch, a->follow, a->moved_to);
}

// The program has no descriptor left.
uint32_t Recorder::again_aside(At at, FileTouch touch, bool follow, const At* moved_to) {
  Again again{j_, s_, c_.generation, at, touch, follow, moved_to, 0};
  if (!j_.aside(run_again, &again, s_)) count_left_out(j_, EMFILE);
  return again.was;
}

uint32_t Recorder::run(At at, FileTouch touch, bool follow, const At* moved_to) {
  const long fd = sys(__NR_openat, at.dir, at.path, kLook | (follow ? 0 : O_NOFOLLOW));
  s_.target[0] = 0;
  if (fd == -ENOENT) {
    const bool makes = touch == format::kTouchContent || touch == format::kTouchNew ||
                       touch == format::kTouchReplace;
    if (!makes || !absolute_path(at, follow, s_.path, s_.name) || !is_ours()) return 0;
    c_.was = format::kWasAbsent;
    know_path();
    if (!path_is_known()) write();
    return c_.was;
  }
  if (fd == -EMFILE && j_.aside != nullptr) return again_aside(at, touch, follow, moved_to);
  if (is_error(fd)) {
    // A call that opens will say why itself; others need no descriptor.
    const bool opens = touch == format::kTouchContent || touch == format::kTouchNew;
    if (!opens && (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)) {
      count_left_out(j_, static_cast<int>(-fd));
    }
    return 0;
  }
  const int file = static_cast<int>(fd);
  struct statx st {};
  const bool good = look_at(file, "", AT_EMPTY_PATH, &st) && st.stx_nlink != 0 &&
                    path_of(file, s_.path) && is_ours();
  if (good) {
    look(st);
    know_path();
    if (touch != format::kTouchNew && keep(file, touch, st.stx_nlink)) {
      if (c_.was == format::kWasSymlink) {
        const long n = sys(__NR_readlinkat, file, "", s_.target, sizeof(s_.target) - 1);
        s_.target[n > 0 ? n : 0] = 0;
      } else if (c_.was == format::kWasDirectory && touch == format::kTouchMove &&
                 moved_to != nullptr && moved_to->path != nullptr) {
        (void)absolute_path(*moved_to, false, s_.target, s_.name);
      }
      write();
    }
  }
  sys(__NR_close, file);
  return good ? c_.was : 0;
}

// Of two directories that have changed places there is one record, so that none is without the
// other. They are on one file system.
void Recorder::moved(At from, At to, bool swapped) {
  struct statx st {
  }, other{};
  constexpr int kSame = AT_SYMLINK_NOFOLLOW;
  if (!look_at(to.dir, to.path, kSame, &st)) return;
  const bool both = swapped && look_at(from.dir, from.path, kSame, &other) &&
                    kind_of_file(other.stx_mode) == format::kWasDirectory;
  look(st);
  if (c_.was != format::kWasDirectory) {
    if (both) moved(to, from, false);
    return;
  }
  if (!absolute_path(from, false, s_.path, s_.name) || !is_ours() ||
      !absolute_path(to, false, s_.target, s_.name)) {
    return;
  }
  c_.flags = format::kChangeMoved;
  if (both) {
    c_.flags |= format::kChangeSwapped;
    c_.file_bytes = other.stx_ino;
    c_.mtime_ns = made_ns_of(other);
  }
  write();
}

}  // namespace

uint32_t kind_of_file(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return format::kWasRegular;
    case S_IFLNK:
      return format::kWasSymlink;
    case S_IFDIR:
      return format::kWasDirectory;
    case S_IFIFO:
      return format::kWasFifo;
    default:
      return format::kWasOther;
  }
}

void count_left_out(const Journal& journal, int error) {
  if (error != 0) journal.head->error = error;
  __atomic_add_fetch(&journal.head->left_out, 1, __ATOMIC_RELAXED);
}

bool absolute_path(At at, bool follow, char* ret_path, char* scratch) {
  const long fd = sys(__NR_openat, at.dir, at.path, kLook | (follow ? 0 : O_NOFOLLOW));
  if (!is_error(fd)) {
    const bool known = path_of(static_cast<int>(fd), ret_path);
    sys(__NR_close, fd);
    return known;
  }
  if (fd != -ENOENT || !path_by_parent(at, ret_path, scratch)) return false;
  // A symbolic link that leads nowhere yet: once, by its own text.
  if (!follow) return true;
  const long n = sys(__NR_readlinkat, AT_FDCWD, ret_path, scratch, format::kJournalPathBytes - 1);
  if (n <= 0) return true;
  scratch[n] = 0;
  if (scratch[0] == '/') {
    rawsys::str_copy(ret_path, scratch, format::kJournalPathBytes);
    return true;
  }
  uint64_t end = rawsys::str_len(ret_path);
  while (end > 1 && ret_path[end - 1] != '/') end--;
  ret_path[end] = 0;
  return append(ret_path, format::kJournalPathBytes, scratch);
}

long copy_content(int source, const char* name, uint64_t bytes, uint64_t allowed, bool durable,
                  uint64_t* ret_spent) {
  *ret_spent = 0;
  const long to =
      sys(__NR_openat, AT_FDCWD, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (is_error(to)) return to;
  const int copy = static_cast<int>(to);
  long r = sys(__NR_ioctl, copy, FICLONE, source);
  if (r != 0) {
    struct stat st {};
    sys(__NR_fstat, source, &st);
    const auto stored = static_cast<uint64_t>(st.st_blocks) * 512;
    const uint64_t cost = stored < bytes ? stored : bytes;
    *ret_spent = cost;
    r = cost > allowed ? -EFBIG : copy_data(source, copy, bytes);
  }
  if (r == 0 && durable) r = sys(__NR_fsync, copy);
  sys(__NR_close, copy);
  if (r != 0) sys(__NR_unlinkat, AT_FDCWD, name, 0);
  return r;
}

uint32_t journal_before(const Journal& journal, JournalScratch& scratch, uint64_t generation, At at,
                        FileTouch touch, bool follow, const At* moved_to) {
  if (at.path == nullptr || at.path[0] == 0) return 0;
  return Recorder(journal, scratch, generation).run(at, touch, follow, moved_to);
}

void journal_moved(const Journal& journal, JournalScratch& scratch, uint64_t generation, At from,
                   At to, bool swapped) {
  Recorder(journal, scratch, generation).moved(from, to, swapped);
}

}  // namespace cr::os
