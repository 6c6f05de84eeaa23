// SPDX-License-Identifier: MIT
// history_test.cc - the agent's history: a ring that survives everything and fails nothing.
#include "agent/history.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "agent/overhead.h"
#include "format/history_reader.h"

namespace {

using namespace cr::agent;
using cr::format::HistoryRecord;

struct Directory {
  std::string path;
  Directory() {
    char name[] = "/tmp/crtest-history-XXXXXX";
    cr_assert(mkdtemp(name) != nullptr);
    path = name;
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::string file() const { return path + "/history"; }
};

HistoryRecord record_of(uint64_t attempt) {
  HistoryRecord r{};
  r.attempt = attempt;
  r.pause_ns = attempt * 3;
  return r;
}

std::vector<HistoryRecord> load(const Directory& d) {
  auto r = load_history(d.path);
  cr_assert(r.has_value());
  return *r;
}

}  // namespace

Test(agent_history, none_is_empty) {
  const Directory d;
  cr_expect(load(d).empty());
  std::ofstream(d.file()).close();
  cr_expect(load(d).empty());
}

Test(agent_history, the_last_thousand_are_kept) {
  const Directory d;
  {
    History h(d.path);
    for (uint64_t i = 0; i < 2345; i++) cr_assert(h.append(record_of(i)).empty());
  }
  auto r = load(d);
  cr_assert(r.size() == 1000);
  for (size_t i = 0; i < r.size(); i++) {
    cr_expect(r[i].number == 1345 + i && r[i].attempt == 1345 + i &&
              r[i].pause_ns == r[i].attempt * 3);
  }
  struct stat st;
  cr_assert(stat(d.file().c_str(), &st) == 0);
  cr_expect(st.st_size == 256 + 1000 * 256 && (st.st_mode & 0777) == 0600);
  History again(d.path);  // another agent goes on
  cr_assert(again.append(record_of(7)).empty());
  r = load(d);
  cr_expect(r.size() == 1000 && r.back().number == 2345 && r.front().number == 1346);
}

Test(agent_history, one_damaged_record_is_missing) {
  const Directory d;
  History h(d.path);
  for (uint64_t i = 0; i < 10; i++) cr_assert(h.append(record_of(i)).empty());
  std::fstream(d.file(), std::ios::in | std::ios::out | std::ios::binary)
      .seekp(256 + 4 * 256 + 40)
      .put(1);
  const auto r = load(d);
  cr_assert(r.size() == 9);
  cr_expect(r[3].number == 3 && r[4].number == 5);
}

// In slots that could not be written lie records of the round before.
Test(agent_history, what_a_full_disk_left_is_not_shown) {
  const Directory d;
  History h(d.path);
  for (uint64_t i = 0; i < 1500; i++) cr_assert(h.append(record_of(i)).empty());
  std::ifstream in(d.file(), std::ios::binary);
  std::vector<char> old(256);
  in.seekg(256 + 499 * 256).read(old.data(), 256);  // number 1499
  for (uint64_t i = 1500; i < 2600; i++) cr_assert(h.append(record_of(i)).empty());
  std::fstream(d.file(), std::ios::in | std::ios::out | std::ios::binary)
      .seekp(256 + 499 * 256)
      .write(old.data(), 256);
  const auto r = load(d);
  cr_expect(r.size() == 999 && r.front().number == 1600);
}

Test(agent_history, a_damaged_file_is_begun_anew) {
  const Directory d;
  std::ofstream(d.file()) << std::string(5000, 'x');
  History h(d.path);
  const std::string said = h.append(record_of(5));
  cr_expect(said.find("begun anew") != std::string::npos, "%s", said.c_str());
  cr_expect(h.append(record_of(6)).empty(), "said once");
  cr_expect(load(d).size() == 2);
  cr_expect(std::filesystem::file_size(d.file() + ".damaged") == 5000);
}

Test(agent_history, a_later_versions_file_is_left_alone) {
  const Directory d;
  {
    History h(d.path);
    cr_assert(h.append(record_of(1)).empty());
  }
  std::fstream(d.file(), std::ios::in | std::ios::out | std::ios::binary).seekp(8).put(9);
  History h(d.path);
  const std::string said = h.append(record_of(2));
  cr_expect(said.find("later version") != std::string::npos, "%s", said.c_str());
  cr_expect(h.append(record_of(3)).empty());
  cr_expect(std::filesystem::file_size(d.file()) == 512);
  cr_expect(!load_history(d.path).has_value());
}

Test(agent_history, no_room_is_said_once_and_got_over) {
  const Directory d;
  signal(SIGXFSZ, SIG_IGN);
  History h(d.path);
  cr_assert(h.append(record_of(0)).empty());
  rlimit old{}, tight{};
  getrlimit(RLIMIT_FSIZE, &old);
  tight = {600, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  const std::string said = h.append(record_of(1));
  cr_expect(said.find("checkpoints go on") != std::string::npos, "%s", said.c_str());
  cr_expect(h.append(record_of(2)).empty(), "said once");
  setrlimit(RLIMIT_FSIZE, &old);
  cr_expect(h.append(record_of(3)).empty());
  const auto r = load(d);
  cr_expect(r.size() == 2 && r[1].attempt == 3);
}

Test(agent_history, no_room_for_the_first) {
  const Directory d;
  signal(SIGXFSZ, SIG_IGN);
  rlimit old{}, tight{};
  getrlimit(RLIMIT_FSIZE, &old);
  tight = {100, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  History h(d.path);
  cr_expect(!h.append(record_of(1)).empty());
  setrlimit(RLIMIT_FSIZE, &old);
  cr_expect(h.append(record_of(2)).empty());
  cr_expect(load(d).size() == 1);
}

Test(agent_history, a_removed_file_is_made_again) {
  const Directory d;
  History h(d.path);
  cr_assert(h.append(record_of(0)).empty());
  unlink(d.file().c_str());
  cr_expect(h.append(record_of(1)).empty());
  const auto r = load(d);
  cr_expect(r.size() == 1 && r[0].attempt == 1);
}

// Where a checkpoint has got to is filled in later, once, and harms nothing else.
Test(agent_history, levels_are_filled_in) {
  const Directory d;
  {
    History h(d.path);
    for (uint64_t i = 1; i <= 5; i++) {
      HistoryRecord r = record_of(i);
      r.epoch = i < 4 ? 1 : 2;
      r.sequence = i < 4 ? i : i - 1;  // the last of epoch 1 has the number of the first of 2
      r.error_code = i == 5 ? 1 : 0;
      cr_assert(h.append(r).empty());
    }
    h.note_level(2, 1, 2, 777);
    h.note_level(2, 1, 2, 888);  // the first time counts
    h.note_level(3, 1, 3, 0);
    h.note_level(2, 2, 4, 999);  // failed
    h.note_level(2, 1, 9, 999);  // there is none
  }
  History again(d.path);  // of the agent after a restore
  again.note_level(2, 2, 3, 555);
  const auto r = load(d);
  cr_assert(r.size() == 5);
  cr_expect(r[0].safe_ns == 0 && r[0].flushed_ns == 0);
  cr_expect(r[1].safe_ns == 777 && r[1].flushed_ns == 0);
  cr_expect(r[2].safe_ns == 0 && r[2].flushed_ns != 0);
  cr_expect(r[3].safe_ns == 555 && r[3].flushed_ns == 0);
  cr_expect(r[4].safe_ns == 0 && r[4].attempt == 5);
  cr_expect(again.append(record_of(6)).empty());
  cr_expect(load(d).size() == 6);
}

Test(agent_history, no_file_is_made_for_a_level) {
  const Directory d;
  History h(d.path);
  h.note_level(2, 1, 1, 5);
  cr_expect(!std::filesystem::exists(d.file()));
}

// A file of version 1 is gone on with, and is one of this version then.
Test(agent_history, an_earlier_versions_file_is_taken_over) {
  const Directory d;
  {
    History h(d.path);
    cr_assert(h.append(record_of(1)).empty());
  }
  cr::format::HistoryHeader header;
  std::fstream f(d.file(), std::ios::in | std::ios::out | std::ios::binary);
  f.read(reinterpret_cast<char*>(&header), sizeof(header));
  header.format_version = 1;
  cr::format::seal(&header);
  f.seekp(0).write(reinterpret_cast<const char*>(&header), sizeof(header));
  f.close();
  History h(d.path);
  cr_expect(h.append(record_of(2)).empty());
  cr_expect(load(d).size() == 2);
  std::ifstream(d.file(), std::ios::binary).read(reinterpret_cast<char*>(&header), sizeof(header));
  cr_expect(header.format_version == cr::format::kHistoryVersion);
}

// A FIFO must not make the agent wait, a link must not lead it elsewhere.
Test(agent_history, strange_files, .timeout = 20) {
  {
    const Directory d;
    cr_assert(mkfifo(d.file().c_str(), 0600) == 0);
    cr_expect(!load_history(d.path).has_value());
    History h(d.path);
    cr_expect(!h.append(record_of(0)).empty());
    cr_expect(load(d).size() == 1);
  }
  const Directory d;
  cr_assert(symlink("/tmp/crtest-history-elsewhere", d.file().c_str()) == 0);
  History h(d.path);
  cr_expect(!h.append(record_of(0)).empty());
  cr_expect(access("/tmp/crtest-history-elsewhere", F_OK) != 0);
}

Test(overhead, cost_is_pause_and_shared_processor_time) {
  cr_expect(cost_of({.pause_ns = 1000}) == 1000);
  cr_expect(cost_of({.pause_ns = 1000, .precopy_ns = 500, .agent_ns = 300, .processors = 1}) ==
            1800);
  cr_expect(cost_of({.pause_ns = 1000, .precopy_ns = 500, .agent_ns = 300, .processors = 8}) ==
            1100);
  cr_expect(cost_of({.pause_ns = 10, .agent_ns = 4, .processors = 0}) == 14);
}

Test(overhead, meter_follows) {
  OverheadMeter m;
  cr_expect(m.ppm() == 0);
  for (int i = 0; i < 50; i++) m.add(1000, 100000);
  cr_expect(m.ppm() == 10000, "%u", m.ppm());
  for (int i = 0; i < 60; i++) m.add(5000, 100000);
  cr_expect(m.ppm() > 49500 && m.ppm() <= 50000, "%u", m.ppm());
  m.reset();
  cr_expect(m.ppm() == 0);
  m.add(7, 1);  // a clock that stood still
  cr_expect(m.ppm() == 1000000);
}
