// SPDX-License-Identifier: MIT
// crinspect_plot.cc - the history of checkpoints as a picture: panels over one time axis, in
// SVG 1.1 without scripts, so that any browser shows it and any editor takes it.
// Invariant: as crinspect_commands.h; every attempt is a point in each panel, with its numbers as a
// tooltip; text of a program cannot break the XML.
// Context: N. Format: docs/format/history.md.
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "os/fd.h"
#include "tools/cli_common.h"
#include "tools/crinspect_history.h"
#include "tools/crinspect_words.h"

namespace cr::tools {
namespace {

using format::HistoryRecord;
using Records = std::vector<HistoryRecord>;

constexpr double kWidth = 960, kLeft = 84, kRight = 24, kTop = 58, kPanel = 170, kGap = 40;
constexpr double kInner = kWidth - kLeft - kRight;
constexpr double kFoot = 56;

// Characters that XML does not allow, and bytes that are no UTF-8, as a question mark.
std::string xml_text(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xef ? 3 : 0;
    bool good = n == 1 ? c >= 0x20 && c != 0x7f : n != 0 && i + n <= text.size();
    for (size_t k = 1; good && k < n; k++) good = (text[i + k] & 0xc0) == 0x80;
    const auto second = good && n == 3 ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (good && n == 3) good = !(c == 0xe0 && second < 0xa0) && !(c == 0xed && second >= 0xa0);
    if (!good) {
      out += '?';
      i++;
      continue;
    }
    const std::string one = text.substr(i, n);
    out += one == "&"    ? "&amp;"
           : one == "<"  ? "&lt;"
           : one == ">"  ? "&gt;"
           : one == "\"" ? "&quot;"
                         : one;
    i += n;
  }
  return out;
}

// A step of 1, 2 or 5 times a power of ten, so that about `count` of them make `span`.
double nice_step(double span, int count) {
  const double raw = span / count, power = pow(10, floor(log10(raw)));
  for (const double m : {1.0, 2.0, 5.0}) {
    if (raw <= m * power * (1 + 1e-9)) return m * power;
  }
  return 10 * power;
}

struct Unit {
  const char* name;
  double per;  // of the base unit
};

// The largest unit of which the largest value has at least one; else the smallest.
Unit unit_for(double most, std::initializer_list<Unit> ascending) {
  Unit best = *ascending.begin();
  for (const Unit& u : ascending) {
    if (most >= u.per) best = u;
  }
  return best;
}

struct Series {
  const char* name;
  const char* colour;
  std::vector<double> values;  // in the panel's base unit
  bool may_lack = false;       // 0: there is no value
};

struct Panel {
  const char* id;
  const char* title;
  Unit unit;
  std::vector<Series> series;
};

// Seconds since the first attempt; a clock that was set back stands still.
std::vector<double> times_of(const Records& records) {
  std::vector<double> x(records.size(), 0);
  for (size_t i = 1; i < records.size(); i++) {
    const uint64_t a = records[i - 1].realtime_ns, b = records[i].realtime_ns;
    x[i] = x[i - 1] + (b > a ? static_cast<double>(b - a) / 1e9 : 0);
  }
  return x;
}

std::vector<Panel> panels_of(const Records& records) {
  auto values = [&](auto field) {
    std::vector<double> v;
    for (const HistoryRecord& r : records) v.push_back(static_cast<double>(field(r)));
    return v;
  };
  auto pause = values([](const HistoryRecord& r) { return r.pause_ns; });
  auto staged = values([](const HistoryRecord& r) { return r.staged_bytes; });
  auto written = values([](const HistoryRecord& r) { return r.written_bytes; });
  auto overhead = values([](const HistoryRecord& r) { return r.overhead_ppm; });
  const auto most = [](const std::vector<double>& v) { return *std::ranges::max_element(v); };
  const Unit time = unit_for(most(pause), {{"\u00b5s", 1e3}, {"ms", 1e6}, {"s", 1e9}});
  const Unit bytes = unit_for(std::max(most(staged), most(written)),
                              {{"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}});
  std::vector<Panel> panels = {
      {"pause", "Pause", time, {{"pause", "#1f5fa8", pause}}},
      {"bytes",
       "Bytes of a checkpoint",
       bytes,
       {{"changed", "#b5651d", staged}, {"written", "#5b8c2a", written}}},
      {"overhead", "Overhead", {"%", 1e4}, {{"overhead", "#7a3b9a", overhead}}}};
  auto safe = values([](const HistoryRecord& r) { return r.safe_ns; });
  auto flushed = values([](const HistoryRecord& r) { return r.flushed_ns; });
  const double latest = std::max(most(safe), most(flushed));
  if (latest > 0) {  // it was protected
    const Unit until = unit_for(latest, {{"\u00b5s", 1e3}, {"ms", 1e6}, {"s", 1e9}});
    panels.push_back({"levels",
                      "Until safe, flushed",
                      until,
                      {{"safe", "#117799", safe, true}, {"flushed", "#997711", flushed, true}}});
  }
  return panels;
}

// Draws into one string.
class Picture {
 public:
  Picture(const Records& records, const std::string& dir)
      : records_(records),
        panels_(panels_of(records)),
        bottom_(kTop - kGap + static_cast<double>(panels_.size()) * (kPanel + kGap)),
        x_(times_of(records)),
        span_(std::max(x_.back(), 1e-3)) {
    const double height = bottom_ + kFoot;
    out_ = text_of(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g "
        "%g\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
        kWidth, height, kWidth, height);
    text(kLeft, 22, "start", "Checkpoints of " + dir, " font-size=\"16\"");
    const HistoryRecord &a = records.front(), &b = records.back();
    text(kLeft, 40, "start",
         text_of("%zu attempts, %s to %s", records.size(), local_time(a.realtime_ns).c_str(),
                 local_time(b.realtime_ns).c_str()));
    double top = kTop;
    for (const Panel& p : panels_) {
      draw(p, top);
      top += kPanel + kGap;
    }
    draw_time_axis();
    draw_marks();
    out_ += "</svg>\n";
  }
  const std::string& svg() const { return out_; }

 private:
  double at(size_t i) const { return kLeft + x_[i] / span_ * kInner; }

  void text(double x, double y, const char* anchor, const std::string& words,
            const char* more = "") {
    out_ += text_of("<text x=\"%.2f\" y=\"%.2f\" text-anchor=\"%s\"%s>", x, y, anchor, more) +
            xml_text(words) + "</text>\n";
  }

  void line(double x1, double y1, double x2, double y2, const char* style) {
    out_ += text_of("<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" %s/>\n", x1, y1, x2, y2,
                    style);
  }

  void draw(const Panel& p, double top) {
    double most = 0;
    for (const Series& s : p.series) most = std::max(most, *std::ranges::max_element(s.values));
    most = most / p.unit.per;
    const double step = nice_step(most > 0 ? most : 1, 4);
    const double high = std::max(ceil(most / step - 1e-9), 1.0) * step;
    const double bottom = top + kPanel;
    out_ += text_of("<g id=\"%s\">\n", p.id);
    for (int i = 0; i * step <= high * (1 + 1e-9); i++) {
      const double y = bottom - i * step / high * kPanel;
      line(kLeft, y, kLeft + kInner, y, "stroke=\"#dddddd\"");
      text(kLeft - 6, y + 4, "end", text_of("%g", i * step), " class=\"tick\"");
    }
    out_ += text_of("<text transform=\"translate(18 %.2f) rotate(-90)\" text-anchor=\"middle\">",
                    top + kPanel / 2) +
            xml_text(text_of("%s (%s)", p.title, p.unit.name)) + "</text>\n";
    double legend = kLeft + kInner;
    for (auto s = p.series.rbegin(); s != p.series.rend(); ++s) {
      text(legend, top - 6, "end", s->name,
           text_of(" fill=\"%s\" class=\"legend\"", s->colour).c_str());
      legend -= 7.0 * static_cast<double>(strlen(s->name)) + 24;
      line(legend + 4, top - 10, legend + 20, top - 10,
           text_of("stroke=\"%s\" stroke-width=\"2\"", s->colour).c_str());
    }
    for (const Series& s : p.series) draw(s, bottom, kPanel / (high * p.unit.per), p.unit);
    line(kLeft, top, kLeft, bottom, "stroke=\"#333333\"");
    line(kLeft, bottom, kLeft + kInner, bottom, "stroke=\"#333333\"");
    out_ += "</g>\n";
  }

  // Lines join attempts of one epoch; over a restore there is none.
  void draw(const Series& s, double bottom, double scale, const Unit& unit) {
    out_ += text_of("<g class=\"series\" data-name=\"%s\" stroke=\"%s\" fill=\"none\">\n", s.name,
                    s.colour);
    for (size_t i = 0; i < records_.size();) {
      out_ += "<polyline points=\"";
      const uint64_t epoch = records_[i].epoch;
      for (; i < records_.size() && records_[i].epoch == epoch; i++) {
        if (s.may_lack && s.values[i] == 0) continue;
        out_ += text_of("%.2f,%.2f ", at(i), bottom - s.values[i] * scale);
      }
      out_ += "\"/>\n";
    }
    for (size_t i = 0; i < records_.size(); i++) {
      const HistoryRecord& r = records_[i];
      if (s.may_lack && s.values[i] == 0) continue;
      out_ += text_of(
          "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"2\" fill=\"%s\" data-number=\"%lu\"><title>sequence "
          "%lu, epoch %lu: %s %.6g %s</title></circle>\n",
          at(i), bottom - s.values[i] * scale, s.colour, r.number, r.sequence, r.epoch, s.name,
          s.values[i] / unit.per, unit.name);
    }
    out_ += "</g>\n";
  }

  void draw_time_axis() {
    const Unit unit = unit_for(span_ / 3, {{"ms", 1e-3}, {"s", 1}, {"min", 60}, {"h", 3600}});
    const double step = nice_step(span_ / unit.per, 8);
    out_ += "<g id=\"time\">\n";
    for (int i = 0; i * step <= span_ / unit.per * (1 + 1e-9); i++) {
      const double x = kLeft + i * step * unit.per / span_ * kInner;
      line(x, bottom_, x, bottom_ + 5, "stroke=\"#333333\"");
      text(x, bottom_ + 19, "middle", text_of("%g", i * step), " class=\"tick\"");
    }
    text(kLeft + kInner / 2, bottom_ + 38, "middle",
         text_of("time since the first of these attempts (%s)", unit.name));
    out_ += "</g>\n";
  }

  // Failures and restores, through all panels.
  void draw_marks() {
    bool failed = false, restored = false;
    out_ += "<g id=\"marks\">\n";
    for (size_t i = 0; i < records_.size(); i++) {
      const HistoryRecord& r = records_[i];
      if (i > 0 && r.epoch != records_[i - 1].epoch) {
        restored = true;
        const double x = (at(i - 1) + at(i)) / 2;
        out_ += text_of(
            "<line class=\"restore\" data-epoch=\"%lu\" x1=\"%.2f\" y1=\"%.2f\" "
            "x2=\"%.2f\" y2=\"%.2f\" stroke=\"#118877\" stroke-dasharray=\"5 3\"/>\n",
            r.epoch, x, kTop, x, bottom_);
      }
      if (r.error_code == 0) continue;
      failed = true;
      for (size_t k = 0; k < panels_.size(); k++) {
        const double x = at(i), y = kTop + kPanel + static_cast<double>(k) * (kPanel + kGap);
        out_ += text_of(
                    "<path class=\"failed\" data-number=\"%lu\" d=\"M%.2f %.2f l8 8 m0 -8 l-8 8\" "
                    "stroke=\"#cc1111\" stroke-width=\"2\" fill=\"none\"><title>failed: ",
                    r.number, x - 4, y - 4) +
                xml_text(r.error_text) + "</title></path>\n";
      }
    }
    out_ += "</g>\n";
    const double y = bottom_ + 38;
    if (failed) text(kLeft, y, "start", "\u00d7 failed", " fill=\"#cc1111\" class=\"legend\"");
    if (restored) {
      text(kLeft + kInner, y, "end", "\u2506 restored", " fill=\"#118877\" class=\"legend\"");
    }
  }

  const Records& records_;
  const std::vector<Panel> panels_;
  const double bottom_;  // of the last one
  std::vector<double> x_;
  double span_;
  std::string out_;
};

// It may be a pipe. Returns 0 or an errno.
int write_all(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno != EINTR) return errno;
    if (n > 0) done += static_cast<size_t>(n);
  }
  return 0;
}

}  // namespace

Output plot_history(const Settings& settings) {
  Records records;
  Output output = read_history(settings, &records);
  if (records.empty()) return output;
  const std::string svg = Picture(records, settings.dir).svg();
  auto fd = os::open_file(settings.out_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (!fd) return {kExitOwnFailure, "", settings.out_path + ": " + describe(fd.error())};
  int failed = write_all(fd->get(), svg);
  auto closed = fd->close();
  if (failed == 0 && !closed) failed = closed.error().sys_errno;
  if (failed != 0) {
    return {kExitOwnFailure, "", settings.out_path + ": writing: " + strerror(failed)};
  }
  return {0,
          "wrote " + printable(settings.out_path) +
              text_of(": %zu attempt%s\n", records.size(), records.size() == 1 ? "" : "s"),
          ""};
}

}  // namespace cr::tools
