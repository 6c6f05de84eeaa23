// SPDX-License-Identifier: MIT
// crinspect_summary.cc - the summary of both buffers, their verification, and the core file.
// Invariant: as crinspect_commands.h; the text says nothing that the JSON does not.
// Context: N.
#include <string.h>

#include <nlohmann/json.hpp>

#include "agent/core_file.h"
#include "agent/supervisor.h"
#include "agent/verify.h"
#include "tools/cli_common.h"
#include "tools/crinspect_commands.h"
#include "tools/crinspect_words.h"

namespace cr::tools {
namespace {

using Json = nlohmann::ordered_json;

std::string state_word(const store::BufferState& b) {
  switch (b.error.code) {
    case Errc::kOk:
      return "whole";
    case Errc::kNotWhole:
      if (!b.exists) return "missing";
      return b.super.format_version == 0 ? "empty" : "being written";
    case Errc::kForeign:
      return "foreign";
    case Errc::kDamaged:
      return "damaged";
    case Errc::kTooNew:
      return "too new";
    case Errc::kWrongMachine:
      return "wrong machine";
    default:
      return "unreadable";
  }
}

std::string words_of(std::span<const uint8_t> nul_separated) {
  std::string out(reinterpret_cast<const char*>(nul_separated.data()), nul_separated.size());
  while (!out.empty() && out.back() == '\0') out.pop_back();
  for (char& c : out) {
    if (c == '\0') c = ' ';
  }
  return out;
}

// What the superblock says; it is there also while the buffer is being written.
void add_superblock(const format::SuperBlock& sb, Json& j) {
  j["epoch"] = sb.epoch;
  j["sequence"] = sb.sequence;
  j["attempt"] = sb.attempt;
  j["write_lock"] = sb.write_lock;
  j["realtime_ns"] = sb.realtime_ns;
  j["time"] = local_time(sb.realtime_ns);
  j["age"] = age(sb.realtime_ns);
  std::string id;
  for (const uint8_t b : sb.session_id) id += text_of("%02x", b);
  j["session"] = id;
}

void add_image(const store::LoadedImage& image, Json& j) {
  const format::ImageView& v = image.view;
  const format::ProcessRecord& p = *v.process;
  j["program"] = v.string(p.program);
  j["command_line"] = words_of(v.blob(p.cmdline));
  j["directory"] = v.string(p.cwd);
  j["pid"] = p.pid;
  j["uid"] = p.uid;
  j["gid"] = p.gid;
  j["host"] = v.string(p.hostname);
  j["kernel"] = v.string(p.kernel_release);
  j["threads"] = v.threads.size();
  j["segments"] = v.segments.size();
  j["memory_bytes"] = v.super.memory_bytes;
  j["pages_stored"] = v.super.payload_slots;
  j["pages_bytes"] = v.super.payload_slots * v.super.page_bytes;
  j["metadata_bytes"] = v.super.metadata_bytes;
  j["pause_ns"] = v.super.pause_ns;
  j["tracker"] = tracker_word(v.super.tracker);
  j["interval_seconds"] = p.interval_ms / 1000.0;
  const bool automatic = v.super.interval_mode == format::kIntervalAutomatic;
  j["interval_automatic"] = automatic;
  if (!automatic) return;
  j["overhead_budget_ppm"] = v.super.overhead_ppm;
  j["mtbf_seconds"] = static_cast<double>(v.super.mtbf_ms) / 1000;
  j["min_interval_seconds"] = v.super.min_interval_ms / 1000.0;
  j["max_interval_seconds"] = v.super.max_interval_ms / 1000.0;
}

Json describe_buffer(const std::string& dir, int index, const store::BufferState& b) {
  Json j;
  j["file"] = store::buffer_path(dir, index);
  j["state"] = state_word(b);
  if (b.error.code != Errc::kOk) j["reason"] = describe(b.error);
  const bool readable =
      b.error.code == Errc::kOk || (b.error.code == Errc::kNotWhole && b.super.format_version != 0);
  if (readable) add_superblock(b.super, j);
  if (b.image == nullptr) return j;
  add_image(*b.image, j);
  j["file_bytes"] = b.image->view.file_bytes;
  return j;
}

std::string get(const Json& j, const char* key) { return printable(j[key].get<std::string>()); }
uint64_t number(const Json& j, const char* key) { return j[key].get<uint64_t>(); }

std::string interval_words(const Json& j) {
  const double seconds = j["interval_seconds"].get<double>();
  if (!j["interval_automatic"].get<bool>()) {
    return seconds == 0 ? "no automatic checkpoints" : text_of("%g s", seconds);
  }
  std::string out = text_of("%g s, by what checkpoints cost", seconds);
  if (number(j, "overhead_budget_ppm") != 0) {
    out += text_of("; at most %g %% of the time",
                   static_cast<double>(number(j, "overhead_budget_ppm")) / 1e4);
  }
  const double mtbf = j["mtbf_seconds"].get<double>();
  if (mtbf != 0) out += text_of("; a failure every %g s is expected", mtbf);
  return out;
}

std::string text_of_buffer(const Json& j, bool chosen) {
  const std::string file = get(j, "file");
  std::string out = file.substr(file.find_last_of('/') + 1) + ": " + get(j, "state");
  if (j.contains("reason")) out += " (" + get(j, "reason") + ")";
  out += chosen ? "; crrestore takes this one\n" : "\n";
  auto line = [&](const char* label, const std::string& value) {
    out += text_of("  %-13s %s\n", label, value.c_str());
  };
  if (!j.contains("sequence")) return out;
  line("checkpoint",
       text_of("sequence %lu, epoch %lu, attempt %lu, WRITE_LOCK %lu", number(j, "sequence"),
               number(j, "epoch"), number(j, "attempt"), number(j, "write_lock")));
  line("taken", get(j, "time") + ", " + get(j, "age"));
  line("session", get(j, "session"));
  if (!j.contains("program")) return out;
  line("program", get(j, "program"));
  line("command line", get(j, "command_line"));
  line("directory", get(j, "directory"));
  line("process", text_of("pid %lu, user id %lu, group id %lu, %lu thread%s", number(j, "pid"),
                          number(j, "uid"), number(j, "gid"), number(j, "threads"),
                          number(j, "threads") == 1 ? "" : "s"));
  line("host", get(j, "host") + ", Linux " + get(j, "kernel"));
  line("memory", human_bytes(number(j, "memory_bytes")) +
                     text_of(" described in %lu segments", number(j, "segments")));
  line("stored",
       text_of("%lu pages, ", number(j, "pages_stored")) + human_bytes(number(j, "pages_bytes")));
  line("file size", human_bytes(number(j, "file_bytes")));
  line("pause", text_of("%.3f ms", static_cast<double>(number(j, "pause_ns")) / 1e6));
  line("changes by", get(j, "tracker"));
  line("interval", interval_words(j));
  return out;
}

}  // namespace

Output print_summary(const Settings& settings) {
  Json j;
  j["directory"] = settings.dir;
  j["buffers"] = Json::array();
  for (int i = 0; i < 2; i++) {
    j["buffers"].push_back(describe_buffer(settings.dir, i, store::load_buffer(settings.dir, i)));
  }
  std::unique_ptr<store::LoadedImage> image;
  const agent::Trouble bad = agent::choose_image(settings.dir, 0, &image);
  j["crrestore_takes"] = bad.bad() ? Json(nullptr) : Json(image->index);
  if (bad.bad()) j["crrestore_says"] = bad.text;
  Output output;
  output.status = bad.bad() ? kExitBad : 0;
  if (settings.json) {
    output.out = j.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    return output;
  }
  for (int i = 0; i < 2; i++) {
    output.out += text_of_buffer(j["buffers"][static_cast<size_t>(i)], image && image->index == i);
  }
  output.err = bad.text;
  return output;
}

Output print_verdicts(const Settings& settings) {
  Output output;
  bool damaged = false, right = false;
  for (int i = 0; i < 2; i++) {
    std::string text;
    const agent::Verdict v =
        agent::verify_buffer(settings.dir, i, store::load_buffer(settings.dir, i), &text);
    output.out += printable(text) + "\n";
    damaged = damaged || v == agent::Verdict::kDamaged;
    right = right || v == agent::Verdict::kRight;
  }
  if (!damaged && !right) output.err = settings.dir + ": there is no whole checkpoint";
  output.status = damaged || !right ? kExitBad : 0;
  return output;
}

Output write_core_file(const Settings& settings, Checkpoint& c) {
  const agent::Trouble bad = agent::write_core(c.memory, settings.out_path);
  if (bad.error.code == Errc::kDamaged) {
    return {kExitBad, "", c.image.path + ": damaged: " + bad.text};
  }
  if (bad.bad()) return {kExitOwnFailure, "", bad.text};
  const format::ImageView& v = c.image.view;
  return {0,
          "wrote " + printable(settings.out_path) +
              text_of(": sequence %lu, %zu threads; look at it with: gdb %s %s\n", v.super.sequence,
                      v.threads.size(), printable(v.string(v.process->program)).c_str(),
                      printable(settings.out_path).c_str()),
          ""};
}

}  // namespace cr::tools
