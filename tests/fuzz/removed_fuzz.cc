// SPDX-License-Identifier: MIT
// removed_fuzz.cc - the reader of the file of removed sessions, with hostile bytes.
// Invariant under test: nothing outside the file is read, and each record that is given out names a
// checkpoint.
//
// Input: one file; it is read as it is, and with its header made right.
#include <string.h>

#include <cstdlib>
#include <vector>

#include "format/removed_reader.h"

namespace {

using namespace cr::format;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

void check(bool holds) {
  if (!holds) abort();
}

void read(const std::vector<uint8_t>& file) {
  const auto records = read_removed(file.data(), file.size());
  if (!records) return;
  check(sizeof(RemovedHeader) + records->size_bytes() == file.size());
  for (const RemovedRecord& r : *records) {
    check(r.newest.epoch != 0 && r.newest.sequence != 0);
    for (const uint8_t byte : r.session_id) g_sum += byte;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> file(data, data + size);
  file.shrink_to_fit();
  read(file);
  if (size < sizeof(RemovedHeader)) return 0;
  const size_t count = (size - sizeof(RemovedHeader)) / sizeof(RemovedRecord);
  file.resize(sizeof(RemovedHeader) + count * sizeof(RemovedRecord));
  std::vector<RemovedRecord> records(count);
  if (count > 0) {
    memcpy(records.data(), &file[sizeof(RemovedHeader)], count * sizeof(RemovedRecord));
  }
  RemovedHeader h;
  seal(&h, records);
  memcpy(file.data(), &h, sizeof(h));
  read(file);
  return 0;
}
