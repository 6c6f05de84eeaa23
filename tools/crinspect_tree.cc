// SPDX-License-Identifier: MIT
// crinspect_tree.cc - the processes of a checkpoint as a tree.
// Invariant: as crinspect_commands.h. Context: N.
#include <sys/wait.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "agent/supervisor.h"
#include "tools/crinspect_commands.h"
#include "tools/crinspect_words.h"

namespace cr::tools {
using Json = nlohmann::ordered_json;
namespace {

// An image without a tree is of one process.
std::vector<format::TreeRecord> rows_of(const format::ImageView& v) {
  if (!v.tree.empty()) return {v.tree.begin(), v.tree.end()};
  format::TreeRecord t{};
  t.pid = v.process->pid;
  t.pgid = v.process->pgid;
  t.sid = v.process->sid;
  t.uid = v.process->uid;
  const std::string name = v.string(v.process->exe_name);
  name.copy(t.name, sizeof(t.name) - 1);
  return {t};
}

class TreePrinter {
 public:
  TreePrinter(const Settings& settings, const store::LoadedImage& first)
      : settings_(settings), first_(first), rows_(rows_of(first.view)) {
    for (const format::TreeRecord& t : rows_) facts_.push_back(facts_of(t));
  }
  Output print();

 private:
  struct Facts {
    bool image = false;
    std::string command, error;
    uint64_t threads = 0, memory_bytes = 0, stored_bytes = 0;
  };
  Facts facts_of(const format::TreeRecord& t) const;
  std::string line(size_t i) const;
  void print_below(int32_t ppid, const std::string& indent, std::string* out) const;
  bool is_top(const format::TreeRecord& t) const;
  Output print_json() const;

  const Settings& settings_;
  const store::LoadedImage& first_;
  std::vector<format::TreeRecord> rows_;
  std::vector<Facts> facts_;
};

TreePrinter::Facts TreePrinter::facts_of(const format::TreeRecord& t) const {
  Facts f;
  if (t.member == format::kTreeNoImage || (t.flags & format::kTreeEnded) != 0) return f;
  std::unique_ptr<store::LoadedImage> own;
  if (t.member != 0 && first_.view.tree.size() > 1) {
    const agent::Trouble bad = agent::choose_member(settings_.dir, first_.view.super, t, &own);
    if (bad.bad()) f.error = bad.text;
    if (bad.bad()) return f;
  }
  const format::ImageView& v = own != nullptr ? own->view : first_.view;
  f.image = true;
  f.threads = v.threads.size();
  f.memory_bytes = v.super.memory_bytes;
  f.stored_bytes = v.super.payload_slots * kPageSize;
  for (const uint8_t c : v.blob(v.process->cmdline))
    f.command += c != 0 ? static_cast<char>(c) : ' ';
  while (!f.command.empty() && f.command.back() == ' ') f.command.pop_back();
  return f;
}

bool TreePrinter::is_top(const format::TreeRecord& t) const {
  return std::ranges::none_of(rows_, [&](const auto& o) { return o.pid == t.ppid; });
}

std::string status_words(int32_t status) {
  if (WIFSIGNALED(status)) return text_of("ended by signal %d", WTERMSIG(status));
  return text_of("exited with %d", WEXITSTATUS(status));
}

std::string TreePrinter::line(size_t i) const {
  const format::TreeRecord& t = rows_[i];
  const Facts& f = facts_[i];
  std::string out = text_of("%d %s", t.pid, printable(t.name).c_str());
  if ((t.flags & (format::kTreeZombie | format::kTreeEnded)) != 0) {
    out += ", " + status_words(t.status);
    out += (t.flags & format::kTreeZombie) != 0 ? ", not waited for" : "";
  }
  const bool own_group = t.pgid == t.pid, own_session = t.sid == t.pid;
  if (own_session) {
    out += ", leads a session";
  } else if (own_group) {
    out += ", leads a group";
  }
  if (!own_group) out += text_of(", group %d", t.pgid);
  if (!own_session) out += text_of(", session %d", t.sid);
  if ((t.flags & format::kTreeSubreaper) != 0) out += ", subreaper";
  if (f.image) {
    out += text_of(", %lu thread%s, %lu KiB stored", f.threads, f.threads == 1 ? "" : "s",
                   f.stored_bytes >> 10);
    if (t.member != 0) out += text_of(", members/%u", t.member);
    out += ": " + printable(f.command);
  }
  if (!f.error.empty()) out += ": " + f.error;
  return out + "\n";
}

void TreePrinter::print_below(int32_t ppid, const std::string& indent, std::string* out) const {
  std::vector<size_t> children;
  for (size_t i = 0; i < rows_.size(); i++) {
    if (ppid == 0 ? is_top(rows_[i]) : rows_[i].ppid == ppid && rows_[i].pid != ppid) {
      children.push_back(i);
    }
  }
  for (const size_t i : children) {
    const bool last = i == children.back();
    const std::string branch = ppid == 0 ? "" : last ? "`- " : "|- ";
    *out += indent + branch + line(i);
    print_below(rows_[i].pid, indent + (ppid == 0 ? "" : last ? "   " : "|  "), out);
  }
}

Output TreePrinter::print_json() const {
  Json all = Json::array();
  for (size_t i = 0; i < rows_.size(); i++) {
    const format::TreeRecord& t = rows_[i];
    const Facts& f = facts_[i];
    Json j;
    j["pid"] = t.pid;
    j["parent"] = t.ppid;
    j["group"] = t.pgid;
    j["session"] = t.sid;
    j["name"] = t.name;
    j["uid"] = t.uid;
    if ((t.flags & (format::kTreeZombie | format::kTreeEnded)) != 0) j["status"] = t.status;
    if (f.image) {
      j["member"] = t.member;
      j["command"] = f.command;
      j["threads"] = f.threads;
      j["memory_bytes"] = f.memory_bytes;
      j["stored_bytes"] = f.stored_bytes;
    }
    if (!f.error.empty()) j["error"] = f.error;
    all.push_back(std::move(j));
  }
  return {0, all.dump(2) + "\n", ""};
}

Output TreePrinter::print() {
  Output out = settings_.json ? print_json() : Output{};
  if (!settings_.json) print_below(0, "", &out.out);
  for (const Facts& f : facts_) {
    if (f.error.empty()) continue;
    out.status = kExitBad;
    out.err = f.error;
  }
  return out;
}

}  // namespace

Output print_tree(const Settings& settings, Checkpoint& c) {
  return TreePrinter(settings, c.image).print();
}

}  // namespace cr::tools
