// SPDX-License-Identifier: MIT
// progress.cc - see progress.h. Invariant: as there. Context: N.
#include "tools/progress.h"

#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "rawsys/rawsys.h"
#include "tools/cli_common.h"

namespace cr::tools {
namespace {

constexpr uint64_t kRedrawNs = 100000000, kLineNs = 1000000000;
constexpr int kBar = 20, kLeastBar = 5, kDefaultColumns = 80;

std::string duration(double seconds) {
  char t[32];
  if (seconds >= 5400) {
    snprintf(t, sizeof(t), "%.1f h", seconds / 3600);
  } else if (seconds >= 90) {
    snprintf(t, sizeof(t), "%.0f min", seconds / 60);
  } else {
    snprintf(t, sizeof(t), "%.*f s", seconds < 9.5 ? 1 : 0, seconds);
  }
  return t;
}

}  // namespace

std::string progress_words(uint64_t done, uint64_t total, double seconds) {
  const double part = total == 0 ? 0 : static_cast<double>(done) / static_cast<double>(total);
  std::string out = total == 0 ? "" : std::to_string(static_cast<int>(part * 100)) + " %, ";
  out += human_bytes(done);
  if (total != 0) out += " of " + human_bytes(total);
  if (seconds > 0.01 && done > 0) {
    out += ", " + human_bytes(static_cast<uint64_t>(static_cast<double>(done) / seconds)) + "/s";
  }
  if (total == 0 || done >= total) return out + ", " + duration(seconds);
  if (seconds > 0.3 && done > 0) out += ", " + duration(seconds * (1 - part) / part) + " left";
  return out;
}

Progress::Progress(const char* tool, FILE* stream)
    : tool_(tool),
      stream_(stream),
      terminal_(isatty(fileno(stream)) == 1),
      shown_ns_(rawsys::now_ns()) {}

std::string Progress::text(uint64_t now, int columns) const {
  const double seconds = static_cast<double>(now - begun_ns_) / 1e9;
  const std::string head = std::string(tool_) + ": " + phase_;
  const std::string words = progress_words(done_, total_, seconds);
  std::string bar = ": ";
  const int room = columns - static_cast<int>(head.size() + words.size()) - 5;
  if (terminal_ && total_ != 0 && room >= kLeastBar) {
    const auto width = static_cast<uint64_t>(std::min(kBar, room));
    const uint64_t full = std::min(done_, total_) * width / total_;
    bar = " [" + std::string(full, '#') + std::string(width - full, '-') + "] ";
  }
  std::string line = head + bar + words;
  if (static_cast<int>(line.size()) >= columns) line.resize(static_cast<size_t>(columns - 1));
  return line;
}

int Progress::columns() const {
  winsize w{};
  if (!terminal_) return 1 << 20;
  const bool known = ioctl(fileno(stream_), TIOCGWINSZ, &w) == 0 && w.ws_col >= 20;
  return known ? w.ws_col : kDefaultColumns;
}

// Blanks instead of an escape sequence: any terminal knows them.
void Progress::draw(const std::string& line, uint64_t now) {
  const std::string rest(drawn_ > line.size() ? drawn_ - line.size() : 0, ' ');
  fprintf(stream_, "\r%s%s", line.c_str(), rest.c_str());
  fflush(stream_);
  drawn_ = line.size();
  shown_ns_ = now;
}

void Progress::update(const std::string& phase, uint64_t done, uint64_t total) {
  const uint64_t now = rawsys::now_ns();
  const bool other = phase != phase_;
  if (other) {
    phase_ = phase;
    begun_ns_ = now;
  }
  done_ = done;
  total_ = total;
  if (total != 0 && done >= total) closing_ = text(now, columns());
  if (terminal_) {
    if (other || now - shown_ns_ >= kRedrawNs) draw(text(now, columns()), now);
  } else if (now - shown_ns_ >= kLineNs) {
    fprintf(stream_, "%s\n", text(now, columns()).c_str());
    fflush(stream_);
    shown_ns_ = now;
  }
}

void Progress::end() {
  if (phase_.empty()) return;
  const uint64_t now = rawsys::now_ns();
  const std::string line = total_ == 0 && !closing_.empty() ? closing_ : text(now, columns());
  if (terminal_) {
    draw(line, now);
    fputc('\n', stream_);
  } else {
    fprintf(stream_, "%s\n", line.c_str());
  }
  fflush(stream_);
  phase_.clear();
  closing_.clear();
  drawn_ = 0;
}

}  // namespace cr::tools
