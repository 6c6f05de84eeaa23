// SPDX-License-Identifier: MIT
// history_reader_fuzz.cc - the reader of history files, with hostile bytes.
// Invariant under test: nothing outside the file is read, and what is given out is in its slot and
// has a text that ends.
//
// Input: the file. It is read as it is, and again with the checksums made right.
#include <string.h>

#include <cstdlib>
#include <vector>

#include "format/history_reader.h"

namespace {

using namespace cr::format;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

void read(const std::vector<uint8_t>& file) {
  auto header = read_history_header(file.data(), file.size());
  if (header && header->capacity != kHistoryCapacity) abort();
  HistoryRecord r;
  for (uint32_t slot = 0; slot < kHistoryCapacity + 2; slot++) {
    if (!read_history_record(file.data(), file.size(), slot, &r)) continue;
    if (r.number % kHistoryCapacity != slot) abort();
    g_sum += strlen(r.error_text) + r.pause_ns;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> file(data, data + size);
  file.shrink_to_fit();
  read(file);
  HistoryHeader h;
  HistoryRecord r;
  for (size_t at = 0; at + sizeof(r) <= file.size(); at += sizeof(r)) {
    if (at == 0) {
      memcpy(&h, file.data(), sizeof(h));
      seal(&h);
      memcpy(file.data(), &h, sizeof(h));
      continue;
    }
    memcpy(&r, file.data() + at, sizeof(r));
    seal(&r);
    memcpy(file.data() + at, &r, sizeof(r));
  }
  read(file);
  return 0;
}
