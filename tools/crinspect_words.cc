// SPDX-License-Identifier: MIT
// crinspect_words.cc - see crinspect_words.h. Invariant: as there. Context: N.
#include "tools/crinspect_words.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <span>

#include "format/image.h"

namespace cr::tools {
namespace {

struct Word {
  uint64_t bits;
  const char* word;
};

// Every bit of `value`; those without a word as one number at the end.
std::string words(uint64_t value, std::span<const Word> table, const char* separator) {
  std::string out;
  auto add = [&](const std::string& w) { out += (out.empty() ? "" : separator) + w; };
  for (const Word& w : table) {
    if ((value & w.bits) != w.bits) continue;
    add(w.word);
    value &= ~w.bits;
  }
  if (value != 0) add(hex(value));
  return out;
}

}  // namespace

std::string text_of(const char* format, ...) {
  va_list args;
  va_start(args, format);
  char* text = nullptr;
  const int n = vasprintf(&text, format, args);
  va_end(args);
  if (n < 0) return "";
  std::string out(text, static_cast<size_t>(n));
  free(text);
  return out;
}

std::string hex(uint64_t v) { return text_of("0x%lx", static_cast<unsigned long>(v)); }

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f) {
      out += text_of("\\x%02x", u);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

std::string protection_words(uint32_t prot, bool shared) {
  std::string s = "---p";
  if ((prot & 1) != 0) s[0] = 'r';
  if ((prot & 2) != 0) s[1] = 'w';
  if ((prot & 4) != 0) s[2] = 'x';
  if (shared) s[3] = 's';
  return s;
}

const char* segment_kind_word(uint32_t kind) {
  switch (kind) {
    case format::kSegmentAnon:
      return "anonymous";
    case format::kSegmentFile:
      return "file";
    case format::kSegmentFileShared:
      return "shared-file";
    case format::kSegmentAnonShared:
      return "shared-anonymous";
    case format::kSegmentObject:
      return "shared-object";
    case format::kSegmentStack:
      return "stack";
    case format::kSegmentVdso:
      return "vdso";
    case format::kSegmentVvar:
      return "vvar";
    default:
      return "unknown";
  }
}

std::string segment_flag_words(uint32_t flags) {
  static constexpr Word kWords[] = {
      {format::kSegmentEmbedded, "embedded"},   {format::kSegmentDeleted, "deleted"},
      {format::kSegmentDontFork, "dontfork"},   {format::kSegmentWipeOnFork, "wipeonfork"},
      {format::kSegmentDontDump, "dontdump"},   {format::kSegmentHuge, "hugepage"},
      {format::kSegmentNoHuge, "nohugepage"},   {format::kSegmentLocked, "locked"},
      {format::kSegmentNoReserve, "noreserve"}, {format::kSegmentSequential, "sequential"},
      {format::kSegmentRandom, "random"},       {format::kSegmentMergeable, "mergeable"},
      {format::kSegmentOfObject, "of-object"},  {format::kSegmentMayWrite, "maywrite"}};
  return words(flags, kWords, ",");
}

const char* file_kind_word(uint32_t kind) {
  switch (kind) {
    case format::kFileRegular:
      return "regular";
    case format::kFileDeleted:
      return "unnamed";
    case format::kFileDirectory:
      return "directory";
    case format::kFileDevice:
      return "device";
    case format::kFileTerminal:
      return "terminal";
    case format::kFileStdPipe:
      return "inherited";
    case format::kFilePipe:
      return "pipe";
    case format::kFileOpath:
      return "path-only";
    case format::kFileProc:
      return "proc";
    case format::kFileObject:
      return "shared-object";
    case format::kFileShared:
      return "of-another-process";
    case format::kFileEventfd:
      return "eventfd";
    case format::kFileTimerfd:
      return "timerfd";
    case format::kFileSignalfd:
      return "signalfd";
    case format::kFileEpoll:
      return "epoll";
    case format::kFileInotify:
      return "inotify";
    case format::kFilePidfd:
      return "pidfd";
    case format::kFileFifo:
      return "fifo";
    case format::kFileSocket:
      return "socket";
    case format::kFilePtyMaster:
      return "pty-master";
    case format::kFilePtySlave:
      return "pty-slave";
    case format::kFilePlugin:
      return "plug-in";
    default:
      return "unknown";
  }
}

std::string open_flag_words(uint32_t flags) {
  // O_SYNC and O_TMPFILE contain the bits of others, so they come first.
  static constexpr Word kWords[] = {
      {O_SYNC, "O_SYNC"},         {O_TMPFILE, "O_TMPFILE"}, {O_APPEND, "O_APPEND"},
      {O_NONBLOCK, "O_NONBLOCK"}, {O_DSYNC, "O_DSYNC"},     {O_ASYNC, "O_ASYNC"},
      {O_DIRECT, "O_DIRECT"},     {0100000, "O_LARGEFILE"}, {O_DIRECTORY, "O_DIRECTORY"},
      {O_NOFOLLOW, "O_NOFOLLOW"}, {O_NOATIME, "O_NOATIME"}, {O_CLOEXEC, "O_CLOEXEC"},
      {O_PATH, "O_PATH"},         {O_CREAT, "O_CREAT"},     {O_EXCL, "O_EXCL"},
      {O_NOCTTY, "O_NOCTTY"},     {O_TRUNC, "O_TRUNC"}};
  static constexpr const char* kAccess[] = {"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"};
  const std::string rest = words(flags & ~static_cast<uint32_t>(O_ACCMODE), kWords, "|");
  return kAccess[flags & O_ACCMODE] + (rest.empty() ? "" : "|" + rest);
}

std::string signal_word(int number) {
  if (number >= SIGRTMIN && number <= SIGRTMAX) {
    return number == SIGRTMIN ? "SIGRTMIN" : text_of("SIGRTMIN+%d", number - SIGRTMIN);
  }
  const char* name = sigabbrev_np(number);
  return name != nullptr ? std::string("SIG") + name : text_of("signal %d", number);
}

std::string signal_set_words(uint64_t mask) {
  if (mask == 0) return "none";
  if (mask == ~0ull) return "all";
  // Almost all: name the others.
  const bool most = __builtin_popcountll(mask) > 48;
  std::string out = most ? "all but" : "";
  for (int i = 1; i <= 64; i++) {
    if (((mask >> (i - 1) & 1) != 0) == most) continue;
    out += (out.empty() ? "" : " ") + signal_word(i);
  }
  return out;
}

std::string sigaction_flag_words(uint64_t flags) {
  static constexpr Word kWords[] = {{SA_NOCLDSTOP, "SA_NOCLDSTOP"},
                                    {SA_NOCLDWAIT, "SA_NOCLDWAIT"},
                                    {SA_SIGINFO, "SA_SIGINFO"},
                                    {SA_ONSTACK, "SA_ONSTACK"},
                                    {SA_RESTART, "SA_RESTART"},
                                    {SA_NODEFER, "SA_NODEFER"},
                                    {static_cast<uint32_t>(SA_RESETHAND), "SA_RESETHAND"},
                                    {0x04000000, "SA_RESTORER"}};
  return words(flags, kWords, "|");
}

std::string thread_flag_words(uint32_t flags) {
  static constexpr Word kWords[] = {{format::kThreadLeader, "main"},
                                    {format::kThreadNoNewPrivs, "no_new_privs"},
                                    {format::kThreadKeepCaps, "keep_caps"}};
  return words(flags, kWords, ", ");
}

std::string eflags_words(uint64_t eflags) {
  static constexpr Word kWords[] = {{1, "CF"},       {4, "PF"},       {0x10, "AF"},
                                    {0x40, "ZF"},    {0x80, "SF"},    {0x100, "TF"},
                                    {0x200, "IF"},   {0x400, "DF"},   {0x800, "OF"},
                                    {0x10000, "RF"}, {0x40000, "AC"}, {0x200000, "ID"}};
  return words(eflags & ~2ull, kWords, " ");
}

std::string local_time(uint64_t realtime_ns) {
  const auto seconds = static_cast<time_t>(realtime_ns / 1000000000);
  tm parts;
  char text[64];
  if (localtime_r(&seconds, &parts) == nullptr) return hex(realtime_ns) + " ns";
  strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &parts);
  return text;
}

std::string age(uint64_t realtime_ns) {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const long s = now.tv_sec - static_cast<long>(realtime_ns / 1000000000);
  if (s < 0) return "in the future by this machine's clock";
  if (s < 120) return text_of("%ld s ago", s);
  if (s < 2 * 3600) return text_of("%ld min ago", s / 60);
  if (s < 2 * 86400) return text_of("%ld h ago", s / 3600);
  return text_of("%ld days ago", s / 86400);
}

}  // namespace cr::tools
