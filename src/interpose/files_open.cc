// SPDX-License-Identifier: MIT
// files_open.cc - the C library's calls that open files, for those that may change or make one.
// Invariant: to the caller each is the C library's. A call that only reads goes straight there.
// Context: N, H. Doc: docs/ARCHITECTURE.md, "Files that the session writes".
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "interpose/journal.h"
#include "rawsys/rawsys.h"

#define CR_EXPORT __attribute__((visibility("default")))

using cr::interpose::Changing;
using cr::interpose::next_function;
using cr::interpose::Step;

namespace {

constexpr int kUnnamed = O_TMPFILE & ~O_DIRECTORY;

bool only_reads(int flags) {
  return (flags & (O_ACCMODE | O_CREAT | O_TRUNC)) == O_RDONLY ||
         (flags & (kUnnamed | O_PATH)) != 0;
}

Step opening(int dir, const char* path, int flags) {
  const bool fresh = (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
  return {{dir, path},
          fresh ? cr::format::kTouchNew : cr::format::kTouchContent,
          !fresh && (flags & O_NOFOLLOW) == 0};
}

bool only_reads(const char* mode) { return mode[0] == 'r' && strchr(mode, '+') == nullptr; }

Step opening(const char* path, const char* mode) {
  const bool fresh = mode[0] != 'r' && strchr(mode, 'x') != nullptr;
  return {{AT_FDCWD, path}, fresh ? cr::format::kTouchNew : cr::format::kTouchContent, !fresh};
}

template <typename Open>
FILE* open_stream(Open next, const char* path, const char* mode) {
  if (only_reads(mode)) return next(path, mode);
  const Changing changing(opening(path, mode));
  FILE* stream = next(path, mode);
  if (stream != nullptr) (void)changing.opened(fileno(stream));
  return stream;
}

template <typename Open>
FILE* reopen_stream(Open next, const char* path, const char* mode, FILE* stream) {
  if (path == nullptr || only_reads(mode)) return next(path, mode, stream);
  const Changing changing(opening(path, mode));
  return next(path, mode, stream);
}

// Puts six new letters before the last `end` characters of the name, until make() does not find it
// taken. The names are chosen here, so that each is written down before it is made.
template <typename Make>
auto make_named(char* name, int end, Make make) {
  constexpr char kLetters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  constexpr int kPlaces = 6, kTries = 62 * 62 * 62;
  const int saved_errno = errno, length = static_cast<int>(strlen(name));
  char* places = name + length - end - kPlaces;
  if (end < 0 || length < end + kPlaces || memcmp(places, "XXXXXX", kPlaces) != 0) {
    errno = EINVAL;
    return decltype(make())(-1);
  }
  for (int i = 0; i < kTries; i++) {
    uint64_t random = cr::rawsys::now_ns() * 0x9e3779b97f4a7c15ull;
    (void)cr::rawsys::sys(__NR_getrandom, &random, sizeof(random), GRND_NONBLOCK);
    for (int k = 0; k < kPlaces; k++, random /= 62) places[k] = kLetters[random % 62];
    const auto made = make();
    if (made >= 0 || errno != EEXIST) {
      if (made >= 0) errno = saved_errno;
      return made;
    }
  }
  return decltype(make())(-1);
}

int make_file(char* name, int end, int flags) {
  flags = (flags & ~O_ACCMODE) | O_RDWR | O_CREAT | O_EXCL;
  return make_named(name, end, [&] { return open(name, flags, 0600); });
}

bool keeps_files() { return cr::interpose::generation_now() != 0; }

}  // namespace

// The last argument need not be there: it is passed on as it is, as the C library does. (Taking it
// as a variable one would cost what the rest of the wrapper costs.) What only reads goes on by a
// jump.
#define CR_OPEN(name, parameters, arguments, dir)                        \
  static constinit std::atomic<void*> g_##name{nullptr};                 \
  [[gnu::noinline]] static int name##_changing parameters {              \
    const auto next = CR_FUNCTION(name, next_function(g_##name, #name)); \
    if (only_reads(flags)) return next arguments;                        \
    const Changing changing(opening(dir, path, flags));                  \
    return changing.opened(next arguments);                              \
  }                                                                      \
  CR_EXPORT int cr_##name parameters __asm__(#name);                     \
  CR_EXPORT int cr_##name parameters {                                   \
    void* const next = g_##name.load(std::memory_order_relaxed);         \
    if (next == nullptr || !only_reads(flags)) [[unlikely]]              \
      return name##_changing arguments;                                  \
    return CR_FUNCTION(name, next) arguments;                            \
  }
#define CR_FUNCTION(name, pointer) reinterpret_cast<decltype(&::name)>(pointer)

extern "C" {

// What _FORTIFY_SOURCE makes of open without a mode.
int __open_2(const char* path, int flags);
int __open64_2(const char* path, int flags);
int __openat_2(int dir, const char* path, int flags);
int __openat64_2(int dir, const char* path, int flags);

#define CR_OPEN_PATH(name) \
  CR_OPEN(name, (const char* path, int flags, mode_t mode), (path, flags, mode), AT_FDCWD)
#define CR_OPEN_AT(name) \
  CR_OPEN(name, (int dir, const char* path, int flags, mode_t mode), (dir, path, flags, mode), dir)
CR_OPEN_PATH(open)
CR_OPEN_PATH(open64)
CR_OPEN_AT(openat)
CR_OPEN_AT(openat64)

CR_EXPORT int __open_2(const char* path, int flags) {
  if (only_reads(flags)) return CR_NEXT(__open_2)(path, flags);
  const Changing changing(opening(AT_FDCWD, path, flags));
  return CR_NEXT(__open_2)(path, flags);
}
CR_EXPORT int __open64_2(const char* path, int flags) {
  if (only_reads(flags)) return CR_NEXT(__open64_2)(path, flags);
  const Changing changing(opening(AT_FDCWD, path, flags));
  return CR_NEXT(__open64_2)(path, flags);
}
CR_EXPORT int __openat_2(int dir, const char* path, int flags) {
  if (only_reads(flags)) return CR_NEXT(__openat_2)(dir, path, flags);
  const Changing changing(opening(dir, path, flags));
  return CR_NEXT(__openat_2)(dir, path, flags);
}
CR_EXPORT int __openat64_2(int dir, const char* path, int flags) {
  if (only_reads(flags)) return CR_NEXT(__openat64_2)(dir, path, flags);
  const Changing changing(opening(dir, path, flags));
  return CR_NEXT(__openat64_2)(dir, path, flags);
}

CR_EXPORT int creat(const char* path, mode_t mode) {
  const Changing changing(opening(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC));
  return changing.opened(CR_NEXT(creat)(path, mode));
}
CR_EXPORT int creat64(const char* path, mode_t mode) {
  const Changing changing(opening(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC));
  return changing.opened(CR_NEXT(creat64)(path, mode));
}

CR_EXPORT FILE* fopen(const char* path, const char* mode) {
  return open_stream(CR_NEXT(fopen), path, mode);
}
CR_EXPORT FILE* fopen64(const char* path, const char* mode) {
  return open_stream(CR_NEXT(fopen64), path, mode);
}
CR_EXPORT FILE* freopen(const char* path, const char* mode, FILE* stream) {
  return reopen_stream(CR_NEXT(freopen), path, mode, stream);
}
CR_EXPORT FILE* freopen64(const char* path, const char* mode, FILE* stream) {
  return reopen_stream(CR_NEXT(freopen64), path, mode, stream);
}

CR_EXPORT int mkstemp(char* name) {
  return keeps_files() ? make_file(name, 0, 0) : CR_NEXT(mkstemp)(name);
}
CR_EXPORT int mkstemp64(char* name) {
  return keeps_files() ? make_file(name, 0, 0) : CR_NEXT(mkstemp64)(name);
}
CR_EXPORT int mkostemp(char* name, int flags) {
  return keeps_files() ? make_file(name, 0, flags) : CR_NEXT(mkostemp)(name, flags);
}
CR_EXPORT int mkostemp64(char* name, int flags) {
  return keeps_files() ? make_file(name, 0, flags) : CR_NEXT(mkostemp64)(name, flags);
}
CR_EXPORT int mkstemps(char* name, int end) {
  return keeps_files() ? make_file(name, end, 0) : CR_NEXT(mkstemps)(name, end);
}
CR_EXPORT int mkstemps64(char* name, int end) {
  return keeps_files() ? make_file(name, end, 0) : CR_NEXT(mkstemps64)(name, end);
}
CR_EXPORT int mkostemps(char* name, int end, int flags) {
  return keeps_files() ? make_file(name, end, flags) : CR_NEXT(mkostemps)(name, end, flags);
}
CR_EXPORT int mkostemps64(char* name, int end, int flags) {
  return keeps_files() ? make_file(name, end, flags) : CR_NEXT(mkostemps64)(name, end, flags);
}
CR_EXPORT char* mkdtemp(char* name) {
  if (!keeps_files()) return CR_NEXT(mkdtemp)(name);
  return make_named(name, 0, [&] { return mkdir(name, 0700); }) == 0 ? name : nullptr;
}

}  // extern "C"
