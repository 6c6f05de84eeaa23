// SPDX-License-Identifier: MIT
// files_names.cc - the C library's calls that make, move and remove names, cut files off, take
// bytes out of them, and change modes.
// Invariant: to the caller each is the C library's.
// Context: N, H. Doc: docs/ARCHITECTURE.md, "Files that the session writes".
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interpose/journal.h"
#include "rawsys/rawsys.h"

#define CR_EXPORT __attribute__((visibility("default")))

using cr::interpose::Changing;
using cr::interpose::Step;
using namespace cr::format;

namespace {

constexpr unsigned kNoReplace = 1, kExchange = 2;  // of renameat2

Step gone(int dir, const char* path) { return {{dir, path}, kTouchRemove, false}; }
Step made(int dir, const char* path) { return {{dir, path}, kTouchNew, false}; }
Step moved(int dir, const char* path) { return {{dir, path}, kTouchMove, false}; }
Step replaced(int dir, const char* path) { return {{dir, path}, kTouchReplace, false}; }

Step target(int dir, const char* path, unsigned flags) {
  if ((flags & kExchange) != 0) return moved(dir, path);
  return (flags & kNoReplace) != 0 ? made(dir, path) : replaced(dir, path);
}

// The path of an open file.
struct Opened {
  cr::rawsys::LineBuffer<40> path;
  explicit Opened(int fd) { path.text("/proc/self/fd/").dec(static_cast<uint64_t>(fd)); }
};

// The agent has copied what was open at the checkpoint, but for what only grows: files that are
// open for appending.
Step shortened(int fd, const Opened& file) {
  const int saved_errno = errno;
  const int flags = cr::interpose::generation_now() != 0 ? fcntl(fd, F_GETFL) : 0;
  errno = saved_errno;
  if (flags < 0 || (flags & O_APPEND) == 0) return {};
  return {{AT_FDCWD, file.path.c_str()}, kTouchContent, true};
}

bool loses_bytes(int mode) {
  return (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE |
                  FALLOC_FL_INSERT_RANGE)) != 0;
}

// That a directory goes is written down before, that it has gone afterwards: the call may fail.
template <typename Call>
int renaming(const Step& from, const Step& to, Call call) {
  const Changing changing(from, to);
  return changing.renamed(call(), from, to);
}

}  // namespace

extern "C" {

CR_EXPORT int rename(const char* from, const char* to) {
  return renaming(moved(AT_FDCWD, from), replaced(AT_FDCWD, to),
                  [&] { return CR_NEXT(rename)(from, to); });
}
CR_EXPORT int renameat(int from_dir, const char* from, int to_dir, const char* to) {
  return renaming(moved(from_dir, from), replaced(to_dir, to),
                  [&] { return CR_NEXT(renameat)(from_dir, from, to_dir, to); });
}
CR_EXPORT int renameat2(int from_dir, const char* from, int to_dir, const char* to,
                        unsigned flags) {
  return renaming(moved(from_dir, from), target(to_dir, to, flags),
                  [&] { return CR_NEXT(renameat2)(from_dir, from, to_dir, to, flags); });
}

CR_EXPORT int unlink(const char* path) {
  const Changing changing(gone(AT_FDCWD, path));
  return CR_NEXT(unlink)(path);
}
CR_EXPORT int unlinkat(int dir, const char* path, int flags) {
  const Changing changing(gone(dir, path));
  return CR_NEXT(unlinkat)(dir, path, flags);
}
CR_EXPORT int remove(const char* path) {
  const Changing changing(gone(AT_FDCWD, path));
  return CR_NEXT(remove)(path);
}
CR_EXPORT int rmdir(const char* path) {
  const Changing changing(gone(AT_FDCWD, path));
  return CR_NEXT(rmdir)(path);
}

// What is written by the new name is the old one's content too: that is known by its path.
CR_EXPORT int link(const char* from, const char* to) {
  const Changing changing(moved(AT_FDCWD, from), made(AT_FDCWD, to));
  return CR_NEXT(link)(from, to);
}
CR_EXPORT int linkat(int from_dir, const char* from, int to_dir, const char* to, int flags) {
  const Changing changing({{from_dir, from}, kTouchMove, (flags & AT_SYMLINK_FOLLOW) != 0},
                          made(to_dir, to));
  return CR_NEXT(linkat)(from_dir, from, to_dir, to, flags);
}
CR_EXPORT int symlink(const char* text, const char* path) {
  const Changing changing(made(AT_FDCWD, path));
  return CR_NEXT(symlink)(text, path);
}
CR_EXPORT int symlinkat(const char* text, int dir, const char* path) {
  const Changing changing(made(dir, path));
  return CR_NEXT(symlinkat)(text, dir, path);
}
CR_EXPORT int mkdir(const char* path, mode_t mode) {
  const Changing changing(made(AT_FDCWD, path));
  return CR_NEXT(mkdir)(path, mode);
}
CR_EXPORT int mkdirat(int dir, const char* path, mode_t mode) {
  const Changing changing(made(dir, path));
  return CR_NEXT(mkdirat)(dir, path, mode);
}
CR_EXPORT int mkfifo(const char* path, mode_t mode) {
  const Changing changing(made(AT_FDCWD, path));
  return CR_NEXT(mkfifo)(path, mode);
}
CR_EXPORT int mkfifoat(int dir, const char* path, mode_t mode) {
  const Changing changing(made(dir, path));
  return CR_NEXT(mkfifoat)(dir, path, mode);
}

CR_EXPORT int truncate(const char* path, off_t bytes) {
  const Changing changing({{AT_FDCWD, path}, kTouchContent, true});
  return CR_NEXT(truncate)(path, bytes);
}
CR_EXPORT int truncate64(const char* path, off64_t bytes) {
  const Changing changing({{AT_FDCWD, path}, kTouchContent, true});
  return CR_NEXT(truncate64)(path, bytes);
}

CR_EXPORT int ftruncate(int fd, off_t bytes) {
  const Opened file(fd);
  const Changing changing(shortened(fd, file));
  return CR_NEXT(ftruncate)(fd, bytes);
}
CR_EXPORT int ftruncate64(int fd, off64_t bytes) {
  const Opened file(fd);
  const Changing changing(shortened(fd, file));
  return CR_NEXT(ftruncate64)(fd, bytes);
}
CR_EXPORT int fallocate(int fd, int mode, off_t from, off_t bytes) {
  const Opened file(fd);
  const Changing changing(loses_bytes(mode) ? shortened(fd, file) : Step());
  return CR_NEXT(fallocate)(fd, mode, from, bytes);
}
CR_EXPORT int fallocate64(int fd, int mode, off64_t from, off64_t bytes) {
  const Opened file(fd);
  const Changing changing(loses_bytes(mode) ? shortened(fd, file) : Step());
  return CR_NEXT(fallocate64)(fd, mode, from, bytes);
}

CR_EXPORT int chmod(const char* path, mode_t mode) {
  const Changing changing({{AT_FDCWD, path}, kTouchAttributes, true});
  return CR_NEXT(chmod)(path, mode);
}
CR_EXPORT int fchmodat(int dir, const char* path, mode_t mode, int flags) {
  const Changing changing({{dir, path}, kTouchAttributes, (flags & AT_SYMLINK_NOFOLLOW) == 0});
  return CR_NEXT(fchmodat)(dir, path, mode, flags);
}
CR_EXPORT int fchmod(int fd, mode_t mode) {
  const Opened file(fd);
  const Changing changing({{AT_FDCWD, file.path.c_str()}, kTouchAttributes, fd >= 0});
  return CR_NEXT(fchmod)(fd, mode);
}

}  // extern "C"
