// SPDX-License-Identifier: MIT
// crinspect_objects.cc - the state of descriptors that are made anew, in words.
// Invariant: as crinspect_words.h. Context: N.
#include <time.h>

#include "tools/crinspect_words.h"

namespace cr::tools {
namespace {

std::string clock_word(int32_t clock) {
  switch (clock) {
    case CLOCK_REALTIME:
      return "CLOCK_REALTIME";
    case CLOCK_MONOTONIC:
      return "CLOCK_MONOTONIC";
    case CLOCK_BOOTTIME:
      return "CLOCK_BOOTTIME";
    default:
      return text_of("clock %d", clock);
  }
}

std::string seconds(uint64_t ns) {
  return text_of("%lu.%06lu s", ns / 1000000000, ns / 1000 % 1000000);
}

std::string timer_words(const format::TimerfdState& s) {
  std::string out = clock_word(s.clock);
  if (s.wall_ns != 0) {
    out += ", due " + local_time(s.wall_ns);
  } else {
    out += s.left_ns != 0 ? ", " + seconds(s.left_ns) + " left" : ", not running";
  }
  if (s.interval_ns != 0) out += ", every " + seconds(s.interval_ns);
  if (s.ticks != 0) out += text_of(", %lu expirations unread", s.ticks);
  return out;
}

std::string epoll_words(std::span<const format::EpollEntry> entries) {
  std::string out;
  for (const format::EpollEntry& e : entries) {
    out += text_of("%sfd %d for 0x%x with 0x%lx", out.empty() ? "watches " : ", ", e.fd, e.events,
                   e.data);
  }
  return out.empty() ? "watches nothing" : out;
}

std::string watch_words(const format::ImageView& image,
                        std::span<const format::InotifyWatch> watches) {
  std::string out;
  for (const format::InotifyWatch& w : watches) {
    out += text_of("%s%d: %s for 0x%x", out.empty() ? "watches " : ", ", w.wd,
                   printable(image.string(w.path)).c_str(), w.mask);
  }
  return out.empty() ? "watches nothing" : out;
}

}  // namespace

std::string object_words(const format::ImageView& image, const format::FileRecord& file) {
  switch (file.kind) {
    case format::kFileEventfd: {
      const auto& s = image.states<format::EventfdState>(file.content).front();
      return text_of("count %lu", s.count) + (s.semaphore != 0 ? ", semaphore" : "");
    }
    case format::kFileTimerfd:
      return timer_words(image.states<format::TimerfdState>(file.content).front());
    case format::kFileSignalfd:
      return signal_set_words(image.states<format::SignalfdState>(file.content).front().mask);
    case format::kFileEpoll:
      return epoll_words(image.states<format::EpollEntry>(file.content));
    case format::kFileInotify:
      return watch_words(image, image.states<format::InotifyWatch>(file.content));
    case format::kFilePidfd:
      return text_of("of %d", image.states<format::PidfdState>(file.content).front().id);
    default:
      return "";
  }
}

}  // namespace cr::tools
