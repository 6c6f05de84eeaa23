// SPDX-License-Identifier: MIT
// node_states_fuzz.cc - the reader of the file of nodes' states, with hostile bytes.
// Invariant under test: nothing outside the file is read, and each record that is given out has a
// name that ends, a version and a state.
//
// Input: one file; it is read as it is, and with its header made right.
#include <string.h>

#include <cstdlib>
#include <vector>

#include "format/node_states_reader.h"

namespace {

using namespace cr::format;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

void check(bool holds) {
  if (!holds) abort();
}

void read(const std::vector<uint8_t>& file) {
  const auto records = read_node_states(file.data(), file.size());
  if (!records) return;
  check(sizeof(NodeStatesHeader) + records->size_bytes() == file.size());
  for (const NodeStateRecord& r : *records) {
    check(r.version != 0 && r.draining <= 1 && r.reserved == 0);
    const size_t length = strnlen(r.node, sizeof(r.node));
    check(length > 0 && length < sizeof(r.node));
    for (size_t i = 0; i < length; i++) g_sum += static_cast<uint8_t>(r.node[i]);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> file(data, data + size);
  file.shrink_to_fit();
  read(file);
  if (size < sizeof(NodeStatesHeader)) return 0;
  const size_t count = (size - sizeof(NodeStatesHeader)) / sizeof(NodeStateRecord);
  file.resize(sizeof(NodeStatesHeader) + count * sizeof(NodeStateRecord));
  std::vector<NodeStateRecord> records(count);
  if (count > 0) {
    memcpy(records.data(), &file[sizeof(NodeStatesHeader)], count * sizeof(NodeStateRecord));
  }
  NodeStatesHeader h;
  seal(&h, records);
  memcpy(file.data(), &h, sizeof(h));
  read(file);
  return 0;
}
