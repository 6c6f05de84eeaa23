// SPDX-License-Identifier: MIT
// file_journal_fuzz.cc - the reader of the journal of changed files, with hostile bytes.
// Invariant under test: nothing outside the log is read, it comes to an end, and the strings that
// are given out end.
//
// Input: the log. It is read as it is; and as a record's parts, with the checksum made right.
#include <string.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "format/file_journal_reader.h"

namespace {

using namespace cr::format;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

size_t read(const std::vector<uint8_t>& log) {
  size_t n = 0;
  ChangeView v{};
  for (uint64_t at = 0, before = 0; next_change(log.data(), log.size(), &at, &v); before = at) {
    if (at <= before || at > log.size() || v.path[0] != '/') abort();
    g_sum += strlen(v.path) + strlen(v.target) + v.change.file_bytes;
    n++;
  }
  return n;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> log(data, data + size);
  log.shrink_to_fit();
  (void)read(log);
  FileChange c{};
  if (size < sizeof(c)) return 0;
  memcpy(&c, data, sizeof(c));
  const std::string rest(reinterpret_cast<const char*>(data) + sizeof(c), size - sizeof(c));
  const std::string path = "/" + rest.substr(0, rest.size() / 2),
                    target = rest.substr(rest.size() / 2);
  std::vector<uint8_t> record(kMostChangeBytes + 8);
  c.was = 1 + c.was % 6;
  c.copy_kind %= 5;
  record.resize(build_change(c, path.c_str(), target.c_str(), record.data()));
  record.shrink_to_fit();
  if (!record.empty() && strlen(path.c_str()) > 0 && read(record) != 1) abort();
  return 0;
}
