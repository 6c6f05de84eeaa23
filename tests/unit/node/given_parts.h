// SPDX-License-Identifier: MIT
// given_parts.h - a store in a directory of its own, and small parts for it, as a source would send
// them.
// Invariant: all parts have the description of SyntheticPart; the directory is gone with the store.
// Context: N.
#pragma once

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "node/part_store.h"
#include "tests/unit/format/synthetic_part.h"

namespace cr_test {

using cr::Errc;
using cr::kPageSize;
using cr::format::PartCommit;
using cr::format::PartOffer;
using cr::format::RowRecord;
using cr::node::PartReceiver;
using cr::node::PartStore;
using cr::node::SessionId;

inline SessionId session(uint8_t n) {
  SessionId id{};
  id[0] = n;
  id[15] = 7;
  return id;
}

class Store {
 public:
  Store() {
    char name[] = "/tmp/cr-store-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    root_ = name;
    std::string text;
    auto opened = PartStore::open(dir(), false, &text);
    cr_assert(opened.has_value(), "%s", text.c_str());
    store_ = std::move(*opened);
  }
  ~Store() { std::filesystem::remove_all(root_); }
  PartStore* operator->() { return store_.get(); }
  PartStore& operator*() { return *store_; }
  std::string dir() const { return root_ + "/store"; }
  const std::string& root() const { return root_; }

 private:
  std::string root_;
  std::unique_ptr<PartStore> store_;
};

// Of all parts that are made here.
inline uint64_t layout() {
  const auto d = SyntheticPart().description();
  std::vector<uint64_t> aligned((d.size() + 7) / 8);
  memcpy(aligned.data(), d.data(), d.size());
  const auto view = cr::format::read_description(
      {reinterpret_cast<const uint8_t*>(aligned.data()), d.size()}, 1 << 20);
  cr_assert(view.has_value());
  return cr::node::layout_of(d, view->holders.size());
}

inline PartOffer offer(uint8_t n, uint64_t sequence, unsigned holder = 0) {
  PartOffer o{};
  memcpy(o.session_id, session(n).data(), 16);
  o.triple = {1, sequence, sequence};
  o.kind = cr::format::kProtectXor;
  o.data_parts = 2;
  o.parity_parts = 1;
  o.holder = holder;
  o.rows = 40;
  o.uid = 1000;
  memcpy(o.name, "prog", 4);
  o.base_layout = o.keep_layout = layout();
  return o;
}

struct Chunk {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(cr::format::kChunkPagesOff);
  uint32_t rows = 0;

  Chunk& add(uint64_t row, uint64_t what) {
    RowRecord r{row, 0};
    if (what != 0) {
      std::vector<uint8_t> page(kPageSize, static_cast<uint8_t>(what));
      r.check = cr::format::row_check(page.data());
      bytes.insert(bytes.end(), page.begin(), page.end());
    }
    memcpy(&bytes[rows++ * sizeof(r)], &r, sizeof(r));
    return *this;
  }
  // check: 0: zeros, no page.
  Chunk& add_page(uint64_t row, uint64_t check, const uint8_t* page) {
    const RowRecord r{row, check};
    if (check != 0) bytes.insert(bytes.end(), page, page + kPageSize);
    memcpy(&bytes[rows++ * sizeof(r)], &r, sizeof(r));
    return *this;
  }
  Errc give_to(PartReceiver& receiver) const {
    const std::vector<uint8_t> memory(bytes);  // of just this length
    const auto added = receiver.add_rows(memory, rows);
    const auto finished = receiver.finish_rows();  // the memory ends here
    return (added ? finished : added).error().code;
  }
};

inline PartCommit commit_of(uint64_t sequence, uint64_t rows,
                            const std::vector<uint8_t>& description) {
  PartCommit c{};
  c.triple = {1, sequence, sequence};
  c.slots = c.rows = rows;
  c.description_bytes = description.size();
  return c;
}

}  // namespace cr_test
