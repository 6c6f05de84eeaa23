// SPDX-License-Identifier: MIT
// crinspect_objects.cc - the state of descriptors that are made anew, in words.
// Invariant: as crinspect_words.h. Context: N.
#include <signal.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>

#include "agent/socket_diag.h"
#include "format/sockets.h"
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

// Behind what it is of.
std::string time_words(uint64_t left_ns, uint64_t interval_ns) {
  std::string out = left_ns != 0 ? seconds(left_ns) + " left" : "not running";
  if (interval_ns != 0) out += ", every " + seconds(interval_ns);
  return out;
}

std::string timer_words(const format::TimerfdState& s) {
  std::string out = clock_word(s.clock);
  if (s.wall_ns != 0) {
    out += ", due " + local_time(s.wall_ns);
  } else {
    out += ", " + time_words(s.left_ns, 0);
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

std::string fifo_words(const format::FileRecord& file) {
  static constexpr const char* kPeers[] = {"the process has both ends", "nobody at the other end",
                                           "read by another process", "written by others, if any"};
  return text_of("%s, %lu bytes unread", kPeers[file.file_bytes - format::kFifoInside],
                 file.content.bytes);
}

std::string address_of(const format::ImageView& image, format::BlobRef r) {
  const auto bytes = image.blob(r);
  return agent::address_words({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

std::string socket_words(const format::ImageView& image, const format::SocketState& s) {
  static constexpr const char* kPhases[] = {"unconnected",        "listening",       "connected",
                                            "waiting for accept", "its peer closed", "to be reset",
                                            "connecting",         "to an address"};
  const bool unix = s.family == AF_UNIX, stream = s.type == SOCK_STREAM;
  const char* kind = unix                     ? (stream                 ? "unix stream"
                                                 : s.type == SOCK_DGRAM ? "unix dgram"
                                                                        : "unix seqpacket")
                     : s.family == AF_NETLINK ? "netlink"
                     : stream                 ? "tcp"
                                              : "udp";
  std::string out = std::string(kind) + " " + kPhases[s.phase - format::kSocketUnconnected];
  if (s.family != AF_NETLINK && s.local.bytes > 2) out += ", " + address_of(image, s.local);
  if (s.remote.bytes > 2) out += " to " + address_of(image, s.remote);
  if (s.peer_ino != 0) out += text_of(", socket:[%lu]", s.peer_ino);
  uint64_t bytes = 0;
  const auto queue = image.states<format::SocketMessage>(s.queue);
  for (const format::SocketMessage& m : queue) bytes += m.bytes.bytes;
  return queue.empty() ? out : out + text_of(", %lu bytes unread", bytes);
}

}  // namespace

std::string posix_timer_words(const format::PosixTimerRecord& timer) {
  std::string out = text_of("%d (", timer.id) + clock_word(timer.clock) + ", ";
  if ((timer.notify & ~SIGEV_THREAD_ID) == SIGEV_NONE) {
    out += "no signal";
  } else {
    out += signal_word(timer.signal);
    if (timer.tid != 0) out += text_of(" to thread %d", timer.tid);
  }
  out += ") " + time_words(timer.left_ns, timer.interval_ns);
  return out + (timer.overrun != 0 ? text_of(", %d overruns", timer.overrun) : "");
}

std::string lock_words(const format::LockRecord& lock) {
  static constexpr const char* kKinds[] = {"", "flock", "record lock",
                                           "record lock of the open file", "lease"};
  std::string out = std::string(kKinds[lock.kind]) + (lock.type == 0 ? " to read" : " to write");
  if (lock.start != 0 || lock.bytes != 0) out += text_of(" from %lu", lock.start);
  return out + (lock.bytes != 0 ? text_of(", %lu bytes", lock.bytes) : "");
}

std::string terminal_words(const format::TerminalState& s) {
  const bool lines = (s.local_modes & ICANON) != 0;
  return text_of("%ux%u, reads %s", s.rows, s.columns, lines ? "lines" : "single keys") +
         ((s.flags & format::kTerminalForeground) != 0 ? ", in front" : "");
}

std::string pty_words(const format::PtyState& s) {
  struct Flag {
    uint32_t bit;
    const char* word;
  };
  static constexpr Flag kFlags[] = {{format::kPtyLocked, ", locked"},
                                    {format::kPtyPacket, ", packet mode"},
                                    {format::kPtyMasterExclusive, ", exclusive"},
                                    {format::kPtySlaveExclusive, ", slave exclusive"},
                                    {format::kPtyNeverOpened, ", slave never opened"},
                                    {format::kPtyStopped, ", stopped"},
                                    {format::kPtyHeld, ", held"},
                                    {format::kPtyControlling, ", controlling"}};
  std::string out = text_of("pseudoterminal %u, ", s.number) + terminal_words(s.terminal);
  for (const Flag& f : kFlags) {
    if ((s.flags & f.bit) != 0) out += f.word;
  }
  return out +
         text_of(", %lu bytes for the slave and %lu for the master", s.input.bytes, s.output.bytes);
}

std::string object_words(const format::ImageView& image, const format::FileRecord& file) {
  switch (file.kind) {
    case format::kFileTerminal:
      return file.content.bytes != 0
                 ? terminal_words(image.states<format::TerminalState>(file.content).front())
                 : "";
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
      if (image.states<format::PidfdState>(file.content).front().id == 0) return "of an ended one";
      return text_of("of %d", image.states<format::PidfdState>(file.content).front().id);
    case format::kFileFifo:
      return fifo_words(file);
    case format::kFileSocket:
      return socket_words(image, image.states<format::SocketState>(file.content).front());
    case format::kFilePtyMaster:
      return pty_words(image.states<format::PtyState>(file.content).front());
    case format::kFilePtySlave:
      return file.file_bytes != 0 ? "hung up" : text_of("of pseudoterminal %u", file.pair);
    default:
      return "";
  }
}

}  // namespace cr::tools
