// SPDX-License-Identifier: MIT
// time_namespace.cc - see time_namespace.h. Invariant: as there. Context: N (agent).
#include "agent/time_namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "os/fd.h"
#include "rawsys/rawsys.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

namespace cr::agent {
namespace {

constexpr int64_t kSecond = 1000000000;

// As late as the coarse clock is (a tick at most): what a program was told by any of its clocks was
// at most what the exact one said then, and none may say less afterwards.
SavedClocks clocks_here() {
  const uint64_t coarse = rawsys::clock_ns(CLOCK_MONOTONIC_COARSE);
  const uint64_t exact = rawsys::now_ns();
  return {coarse, rawsys::clock_ns(CLOCK_BOOTTIME) - (exact - coarse)};
}

std::string offset_line(const char* clock, uint64_t then, uint64_t now) {
  const auto offset = static_cast<int64_t>(then) - static_cast<int64_t>(now);
  int64_t seconds = offset / kSecond, rest = offset % kSecond;
  if (rest < 0) {
    seconds--;
    rest += kSecond;
  }
  return std::string(clock) + " " + std::to_string(seconds) + " " + std::to_string(rest) + "\n";
}

// How far the clocks of the children of a process are ahead of the machine's.
SavedClocks offsets_of(const std::string& pid) {
  long long s[2] = {}, ns[2] = {};
  const os::Fd file(open(("/proc/" + pid + "/timens_offsets").c_str(), O_RDONLY | O_CLOEXEC));
  char text[256] = "";
  if (file && read(file.get(), text, sizeof(text) - 1) > 0) {
    sscanf(text, "monotonic %lld %lld boottime %lld %lld", &s[0], &ns[0], &s[1], &ns[1]);
  }
  return {static_cast<uint64_t>(s[0] * kSecond + ns[0]),
          static_cast<uint64_t>(s[1] * kSecond + ns[1])};
}

// Of this process itself, as the file says before it makes a namespace for its children.
const SavedClocks& own_offsets() {
  static const SavedClocks own = offsets_of("self");
  return own;
}

}  // namespace

// Images of earlier writers have this machine's monotonic clock, which was the program's too.
SavedClocks saved_clocks(const format::ImageView& image) {
  if (!image.process_traits.empty() && image.process_traits[0].monotonic_ns != 0) {
    return {image.process_traits[0].monotonic_ns, image.process_traits[0].boottime_ns};
  }
  return {image.super.monotonic_ns, image.super.monotonic_ns};
}

std::string clock_offsets(const SavedClocks& saved, const SavedClocks& now) {
  return offset_line("monotonic", saved.monotonic_ns, now.monotonic_ns) +
         offset_line("boottime", saved.boottime_ns, now.boottime_ns);
}

int continue_clocks(const SavedClocks& saved) {
  const SavedClocks own = own_offsets();  // before there is another
  if (unshare(CLONE_NEWTIME) != 0) return errno;
  // Offsets are against the machine's clocks; this process may see others itself.
  SavedClocks now = clocks_here();
  now.monotonic_ns -= own.monotonic_ns;
  now.boottime_ns -= own.boottime_ns;
  const std::string text = clock_offsets(saved, now);
  const os::Fd file(open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC));
  const bool written =
      file && write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  return written ? 0 : errno;
}

int64_t clock_ahead(pid_t pid) {
  const SavedClocks own = own_offsets(), theirs = offsets_of(std::to_string(pid));
  return static_cast<int64_t>(theirs.monotonic_ns - own.monotonic_ns);
}

std::string clock_words(const SavedClocks& saved, pid_t pid) {
  struct stat ours, theirs;
  const std::string path = "/proc/" + std::to_string(pid) + "/ns/time";
  const bool known = stat("/proc/self/ns/time", &ours) == 0 && stat(path.c_str(), &theirs) == 0;
  if (known && ours.st_ino != theirs.st_ino) {
    return "its monotonic clock goes on from where it was";
  }
  const auto jump = static_cast<int64_t>(rawsys::now_ns() - saved.monotonic_ns);
  char text[160];
  snprintf(text, sizeof(text), "its monotonic clock has jumped by %.3f s, to this machine's",
           static_cast<double>(jump) / static_cast<double>(kSecond));
  return text;
}

}  // namespace cr::agent
