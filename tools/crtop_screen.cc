// SPDX-License-Identifier: MIT
// crtop_screen.cc - see crtop_screen.h. Invariant: as there. Context: N.
#include "tools/crtop_screen.h"

#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "tools/cli_common.h"

namespace cr::tools {
namespace {

constexpr char kEnter[] = "\x1b[?1049h\x1b[?25l";  // the other screen, no cursor
constexpr char kLeave[] = "\x1b[?25h\x1b[?1049l";
constexpr char kHome[] = "\x1b[H", kRestOfLine[] = "\x1b[K", kRestOfScreen[] = "\x1b[J";

std::string text_of(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text_of(const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  return text;
}

// From a program: nothing but printable ASCII goes to a terminal.
std::string plain(const std::string& text) {
  std::string out = text;
  for (char& c : out) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return out;
}

double ms(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

std::string rate(double bytes) { return human_bytes(static_cast<uint64_t>(bytes)) + "/s"; }

std::string clock_words(uint64_t realtime_ns, const char* format) {
  const auto seconds = static_cast<time_t>(realtime_ns / 1000000000);
  tm parts{};
  char text[64] = "";
  if (localtime_r(&seconds, &parts) != nullptr) strftime(text, sizeof(text), format, &parts);
  return text;
}

uint64_t realtime_now() {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

std::string uptime_words(double seconds) {
  const auto s = static_cast<unsigned long>(seconds);
  return s >= 86400
             ? text_of("%lu d %lu:%02lu:%02lu", s / 86400, s / 3600 % 24, s / 60 % 60, s % 60)
             : text_of("%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
}

std::string interval_words(const View& v) {
  if (v.interval == 0) return "off";
  return text_of("%.4g s%s", v.interval, v.automatic ? " (auto)" : "");
}

// The newest attempts, and what is typical and worst of the pauses shown.
std::string pause_words(const View& v) {
  std::vector<uint64_t> pauses;
  for (const auto& r : v.recent) {
    if (r.error_code == 0) pauses.push_back(r.pause_ns);
  }
  if (pauses.empty()) return "no checkpoint yet";
  const uint64_t last = pauses.back();
  std::ranges::sort(pauses);
  return text_of("%.3f ms last, %.3f ms median, %.3f ms longest of %zu", ms(last),
                 ms(pauses[pauses.size() / 2]), ms(pauses.back()), pauses.size());
}

// Level 2: what crstored keeps on other nodes.
std::string safe_words(const View& v) {
  std::string out = v.safe != 0
                        ? text_of("sequence %lu, %.3f ms after its commit", v.safe, ms(v.window_ns))
                        : "none yet";
  out += " (" + plain(v.protect);
  if (!v.holders.empty()) out += " on " + plain(v.holders);
  return out + (v.is_kept ? ")" : ", crstored does not keep it)");
}

// Level 3.
std::string flushed_words(const View& v) {
  if (v.flush_dir.empty()) return "not here: crstored has no directory for that";
  const std::string to = " (" + plain(v.flush_dir) + ")";
  return (v.flushed != 0 ? text_of("sequence %lu", v.flushed) : "none yet") + to;
}

// On a line.
std::string levels_words(const View& v) {
  if (v.protect.empty()) return "";
  std::string out =
      text_of(" safe %lu window %.3f ms flushed %lu protect ", v.safe, ms(v.window_ns), v.flushed) +
      plain(v.protect);
  if (!v.trouble.empty()) out += " degraded: " + plain(v.trouble);
  return out;
}

}  // namespace

std::string sparkline(const std::vector<format::HistoryRecord>& records, size_t width,
                      bool unicode) {
  static constexpr const char* kBlocks[] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                            "\u2585", "\u2586", "\u2587", "\u2588"};
  static constexpr const char* kAscii[] = {"_", ".", ":", "-", "=", "+", "*", "#"};
  const size_t n = std::min(width, records.size());
  const auto first = records.end() - static_cast<ptrdiff_t>(n);
  uint64_t most = 1;
  for (auto r = first; r != records.end(); ++r) {
    if (r->error_code == 0) most = std::max(most, r->pause_ns);
  }
  std::string out;
  for (auto r = first; r != records.end(); ++r) {
    const double share = static_cast<double>(r->pause_ns) / static_cast<double>(most);
    const size_t step = share < 1 ? static_cast<size_t>(lround(share * 7)) : 7;
    out += r->error_code != 0 ? "x" : (unicode ? kBlocks : kAscii)[step];
  }
  return out;
}

std::string line_of(const View& v) {
  std::string out = clock_words(realtime_now(), "%Y-%m-%dT%H:%M:%S%z") + " " + v.state;
  if (!v.program.empty()) {
    const std::string words = plain(v.program);
    out += " program " + words.substr(0, words.find(' '));
  }
  if (v.pid != 0) out += text_of(" pid %d", v.pid);
  if (v.uptime >= 0) out += text_of(" up %.0f s", v.uptime);
  out += text_of(" epoch %lu sequence %lu interval %s", v.epoch, v.sequence,
                 interval_words(v).c_str());
  if (!v.recent.empty()) {
    const format::HistoryRecord& r = v.recent.back();
    out += text_of(" pause %.3f ms whole %.3f ms changed %s", ms(r.pause_ns), ms(r.whole_ns),
                   human_bytes(r.staged_bytes).c_str()) +
           text_of(" %s written %s %s overhead %.3f %%", rate(v.changed_rate).c_str(),
                   human_bytes(r.written_bytes).c_str(), rate(v.written_rate).c_str(),
                   v.overhead_percent) +
           " tracker " + v.tracker + " level " + v.level +
           text_of(" failed %lu of %zu", v.failures, v.recent.size());
  }
  out += levels_words(v);
  if (!v.last_error.empty()) out += " error: " + plain(v.last_error);
  return out;
}

std::vector<std::string> lines_of(const View& v, int columns, bool unicode) {
  std::vector<std::string> lines;
  auto add = [&](const char* label, const std::string& words) {
    std::string line = text_of("%-11s", label) + words;
    if (static_cast<int>(line.size()) > columns) line.resize(static_cast<size_t>(columns));
    lines.push_back(line);
  };
  add("crtop", plain(v.dir) + "   " + clock_words(realtime_now(), "%H:%M:%S"));
  lines.emplace_back();
  add("program", v.program.empty() ? "not known" : plain(v.program));
  std::string process = v.pid != 0 ? text_of("pid %d", v.pid) : "none";
  if (v.uptime >= 0) process += ", up " + uptime_words(v.uptime);
  add("process", process);
  add("state", v.state);
  std::string at = v.realtime_ns != 0 ? ", last tried " + clock_words(v.realtime_ns, "%F %T") : "";
  add("checkpoint", text_of("epoch %lu, sequence %lu", v.epoch, v.sequence) + at);
  const std::string next = v.until_next >= 0 ? text_of(", next in %.1f s", v.until_next) : "";
  add("interval", interval_words(v) + next);
  add("pause", pause_words(v));
  if (!v.recent.empty()) {
    const format::HistoryRecord& r = v.recent.back();
    add("whole", text_of("%.3f ms after its beginning", ms(r.whole_ns)));
    add("changed", human_bytes(r.staged_bytes) + ", " + rate(v.changed_rate));
    add("written", human_bytes(r.written_bytes) + ", " + rate(v.written_rate));
    add("overhead", text_of("%.3f %% of the program's time", v.overhead_percent));
    add("tracker", v.tracker);
    add("level", v.level);
    add("failed", text_of("%lu of the last %zu", v.failures, v.recent.size()));
  }
  if (!v.protect.empty()) {
    add("safe", safe_words(v));
    add("flushed", flushed_words(v));
    if (!v.trouble.empty()) add("degraded", plain(v.trouble));
  }
  if (!v.last_error.empty()) add("error", plain(v.last_error));
  lines.emplace_back();
  const int width = std::max(columns - 11, 1);
  lines.push_back("pauses     " + sparkline(v.recent, static_cast<size_t>(width), unicode));
  return lines;
}

bool Screen::usable() {
  const char* term = getenv("TERM");
  return isatty(1) == 1 && term != nullptr && *term != 0 && strcmp(term, "dumb") != 0;
}

void Screen::enter() {
  setlocale(LC_CTYPE, "");
  fputs(kEnter, stdout);
  fflush(stdout);
  entered_ = true;
  keys_ = isatty(0) == 1 && tcgetattr(0, &old_) == 0;
  if (!keys_) return;
  termios now = old_;
  now.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  tcsetattr(0, TCSANOW, &now);
}

void Screen::leave() {
  if (!entered_) return;
  entered_ = false;
  fputs(kLeave, stdout);
  fflush(stdout);
  if (keys_) tcsetattr(0, TCSANOW, &old_);
}

void Screen::draw(const View& view) {
  winsize w{};
  const bool known = ioctl(1, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 && w.ws_row > 0;
  const int columns = known ? w.ws_col : 80, rows = known ? w.ws_row : 24;
  const bool unicode = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
  std::string out = kHome;
  int row = 0;
  for (const std::string& line : lines_of(view, columns, unicode)) {
    if (row++ == rows) break;
    out += (row > 1 ? "\n" : "") + line + kRestOfLine;
  }
  out += kRestOfScreen;
  fwrite(out.data(), 1, out.size(), stdout);
  fflush(stdout);
}

}  // namespace cr::tools
