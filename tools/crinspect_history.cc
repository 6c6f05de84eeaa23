// SPDX-License-Identifier: MIT
// crinspect_history.cc - the history of checkpoints as a table or JSON.
// Invariant: as crinspect_commands.h; the table says nothing that the JSON does not.
// Context: N. Format: docs/format/history.md.
#include "agent/history.h"

#include <nlohmann/json.hpp>

#include "tools/cli_common.h"
#include "tools/crinspect_commands.h"
#include "tools/crinspect_history.h"
#include "tools/crinspect_words.h"

namespace cr::tools {
namespace {

using format::HistoryRecord;
using Json = nlohmann::ordered_json;

double ms(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

Json json_of(const HistoryRecord& r) {
  Json j;
  j["number"] = r.number;
  j["epoch"] = r.epoch;
  j["sequence"] = r.sequence;
  j["attempt"] = r.attempt;
  j["realtime_ns"] = r.realtime_ns;
  j["pause_ns"] = r.pause_ns;
  j["whole_ns"] = r.whole_ns;
  j["precopy_ns"] = r.precopy_ns;
  j["cost_ns"] = r.cost_ns;
  j["staged_bytes"] = r.staged_bytes;
  j["written_bytes"] = r.written_bytes;
  j["memory_bytes"] = r.memory_bytes;
  j["interval_ns"] = r.interval_ns;
  j["interval_automatic"] = (r.flags & format::kHistoryAutomatic) != 0;
  j["quick"] = (r.flags & format::kHistoryQuick) != 0;
  j["overhead_ppm"] = r.overhead_ppm;
  j["tracker"] = tracker_word(r.tracker);
  j["level"] = level_word(r.level);
  j["safe_ns"] = r.safe_ns;
  j["flushed_ns"] = r.flushed_ns;
  j["whole"] = r.error_code == 0;
  j["error_code"] = r.error_code;
  j["errno"] = r.sys_errno;
  j["error"] = r.error_text;
  return j;
}

std::string interval_words(const HistoryRecord& r) {
  if (r.interval_ns == 0) return "off";
  const bool automatic = (r.flags & format::kHistoryAutomatic) != 0;
  return text_of("%.4g%s", static_cast<double>(r.interval_ns) / 1e9, automatic ? "a" : "");
}

constexpr char kTitle[] =
    "  epoch  sequence  time                       pause ms   whole ms  pre-copy ms     changed    "
    " "
    "written      memory  interval s  overhead %     safe ms  flushed s  tracking     level\n";

// Of what was not seen to get so far, a dash.
std::string after_words(uint64_t ns, double per_unit) {
  return ns != 0 ? text_of("%.3f", static_cast<double>(ns) / per_unit) : "-";
}

std::string line_of(const HistoryRecord& r) {
  std::string out = text_of(
      "%7lu  %8lu  %s %10.3f %10.3f %12.3f %11s %11s %11s  %10s  %10.4f  %10s %10s  %-11s  %s\n",
      r.epoch, r.sequence, local_time(r.realtime_ns).c_str(), ms(r.pause_ns), ms(r.whole_ns),
      ms(r.precopy_ns), human_bytes(r.staged_bytes).c_str(), human_bytes(r.written_bytes).c_str(),
      human_bytes(r.memory_bytes).c_str(), interval_words(r).c_str(), r.overhead_ppm / 1e4,
      after_words(r.safe_ns, 1e6).c_str(), after_words(r.flushed_ns, 1e9).c_str(),
      tracker_word(r.tracker).c_str(), level_word(r.level).c_str());
  if (r.error_code != 0) out += text_of("         failed: %s\n", printable(r.error_text).c_str());
  return out;
}

}  // namespace

Output read_history(const Settings& settings, std::vector<HistoryRecord>* ret) {
  auto all = agent::load_history(settings.dir);
  if (!all) {
    return {kExitBad, "",
            settings.dir + "/" + format::kHistoryFileName + ": " + describe(all.error()) +
                "; the next checkpoint begins a new one where that is possible"};
  }
  if (all->empty()) {
    return {kExitBad, "",
            settings.dir + ": no checkpoint has been tried here: there is no history"};
  }
  const size_t skip =
      settings.last != 0 && settings.last < all->size() ? all->size() - settings.last : 0;
  ret->assign(all->begin() + static_cast<ptrdiff_t>(skip), all->end());
  return {};
}

Output print_history(const Settings& settings) {
  std::vector<HistoryRecord> records;
  Output output = read_history(settings, &records);
  if (settings.json) {
    Json j;
    j["directory"] = settings.dir;
    j["attempts"] = Json::array();
    for (const HistoryRecord& r : records) j["attempts"].push_back(json_of(r));
    output.out = j.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    return output;
  }
  if (records.empty()) return output;
  output.out = kTitle;
  for (size_t i = 0; i < records.size(); i++) {
    if (i > 0 && records[i].epoch != records[i - 1].epoch) output.out += "  -- restored --\n";
    output.out += line_of(records[i]);
  }
  return output;
}

}  // namespace cr::tools
