// SPDX-License-Identifier: MIT
// recovery.cc - see recovery.h. Invariant: as there. Context: N.
#include "node/recovery.h"

#include <string.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "format/part_reader.h"
#include "node/disk_words.h"
#include "node/image_maker.h"
#include "store/slot_map.h"

namespace cr::node {
namespace {

using namespace format;
using store::Stripe;

constexpr uint64_t kNowhere = ~uint64_t{0};
constexpr size_t kMostWays = 512;       // of reading without some of the copies
constexpr unsigned kMostLooks = 30;     // for a part that was written over, without any progress
constexpr size_t kMostDamageWords = 4;  // rows that an error message names

// What there is to be said of the node, not of the part: others take its place from here on.
bool is_of_node(const Error& e) { return e.code == Errc::kTimeout || e.code == Errc::kAgentGone; }

// A newer checkpoint was written over the part, or it was removed.
bool is_superseded(const Error& e) { return e.code == Errc::kNotFound; }

// Blocks of rows in which every holder keeps one logical part, with what is missing decoded.
class BlockReader {
 public:
  BlockReader(Cluster& cluster, const Available& from, const store::Erasure& erasure)
      : cluster_(cluster), from_(from), erasure_(erasure), stripe_(erasure.stripe()) {
    memory_.resize(stripe_.parts() * store::kRotateRows * kPageSize);
  }

  // Rows [first, first + count), all of one rotation: data column c is at column(c).
  Result<void> read(uint64_t first, uint64_t count, std::string* ret_text);
  const uint8_t* column(unsigned c) const { return memory_of(stripe_.data == 1 ? have_one_ : c); }
  // Reads without some of the copies from now on: way 0 with all of them, the first ones without
  // one, then without two, ... false: there is no such way.
  bool take_way(unsigned way);
  // Those that are left out now are wrong.
  void blame();

  uint64_t decoded_rows() const { return decoded_; }
  const std::vector<std::string>& damaged() const { return damaged_; }
  bool was_superseded() const { return superseded_; }

 private:
  uint8_t* memory_of(unsigned part) const {
    return const_cast<uint8_t*>(memory_.data()) + part * store::kRotateRows * kPageSize;
  }
  bool fetch(uint64_t first, uint64_t count, unsigned part);
  void plan_ways();

  // Node and holder number: both buffers of one are not to be told apart.
  using Copy = std::pair<std::string, uint32_t>;
  using Copies = std::set<Copy>;
  static Copy copy_of(const FoundPart& p) { return {p.node, p.entry.holder}; }
  Cluster& cluster_;
  const Available& from_;
  const store::Erasure& erasure_;
  const Stripe stripe_;
  std::vector<uint8_t> memory_;  // of each logical part
  unsigned have_one_ = 0;
  uint64_t decoded_ = 0;
  std::vector<std::string> damaged_;
  std::set<std::string> gone_;  // nodes that do not answer any more
  std::vector<Copies> ways_;    // what each leaves out
  Copies left_out_, blamed_;
  bool superseded_ = false;  // some part
};

void BlockReader::plan_ways() {
  Copies sorted;
  for (const auto& holder : from_.holders) {
    for (const FoundPart& p : holder) sorted.insert(copy_of(p));
  }
  const std::vector<Copy> all(sorted.begin(), sorted.end());
  ways_.push_back({});
  for (size_t without = 1; without + stripe_.data <= all.size(); without++) {
    std::vector<bool> is_out(all.size());
    std::fill_n(is_out.begin(), without, true);
    do {
      if (ways_.size() == kMostWays) return;
      Copies out;
      for (size_t i = 0; i < all.size(); i++) {
        if (is_out[i]) out.insert(all[i]);
      }
      ways_.push_back(std::move(out));
    } while (std::prev_permutation(is_out.begin(), is_out.end()));
  }
}

bool BlockReader::take_way(unsigned way) {
  if (ways_.empty()) plan_ways();
  if (way >= ways_.size()) return false;
  left_out_ = ways_[way];
  return true;
}

void BlockReader::blame() {
  for (const Copy& copy : left_out_) {
    if (!blamed_.insert(copy).second) continue;
    damaged_.push_back(copy.first + ": part " + std::to_string(copy.second) +
                       ": rows that are not of this checkpoint, though their checksums fit; "
                       "others took their place");
  }
}

bool BlockReader::fetch(uint64_t first, uint64_t count, unsigned part) {
  for (const FoundPart& p : from_.holders[stripe_.holder(first, part)]) {
    if (gone_.contains(p.node) || left_out_.contains(copy_of(p))) continue;
    uint64_t row = 0;
    const auto done = cluster_.fetch_rows(p, first, count, memory_of(part), &row);
    if (done) return true;
    if (is_of_node(done.error())) {
      gone_.insert(p.node);
      damaged_.push_back(p.node + ": " + words_of(done.error()) + "; passed over from row " +
                         std::to_string(first) + " on");
      continue;
    }
    if (is_superseded(done.error())) {
      superseded_ = true;
      continue;
    }
    damaged_.push_back(p.node + ": part " + std::to_string(p.entry.holder) + ", row " +
                       std::to_string(row) + ": " + words_of(done.error()));
  }
  return false;
}

Result<void> BlockReader::read(uint64_t first, uint64_t count, std::string* ret_text) {
  store::PartSet have = 0, want = 0;
  unsigned got = 0;
  for (unsigned part = 0; part < stripe_.parts() && got < stripe_.data; part++) {
    if (!fetch(first, count, part)) continue;
    have |= store::PartSet{1} << part;
    have_one_ = part;
    got++;
  }
  if (stripe_.data == 1 && got == 1) return {};  // every part is all of it
  for (unsigned c = 0; c < stripe_.data; c++) {
    if ((have >> c & 1) == 0) want |= store::PartSet{1} << c;
  }
  if (want == 0) return {};
  std::vector<const uint8_t*> in(stripe_.parts());
  std::vector<uint8_t*> out(stripe_.parts());
  for (unsigned p = 0; p < stripe_.parts(); p++) in[p] = out[p] = memory_of(p);
  decoded_ += count;
  return erasure_.decode(have, in.data(), want, out.data(), count * kPageSize, ret_text);
}

// The slots of a checkpoint, from the parts that were found.
class PartSource : public SlotSource {
 public:
  PartSource(Cluster& cluster, const Available& from, const store::Erasure& erasure)
      : cluster_(cluster),
        from_(from),
        stripe_(erasure.stripe()),
        reader_(cluster, from, erasure) {}
  Result<void> describe(std::string* ret_text);

  uint64_t slots() const override { return from_.like.slots; }
  const DescriptionView& description() const override { return view_; }
  Result<void> read(uint64_t slot, uint8_t* page, std::string* ret_text) override;
  Result<std::vector<SlotPages>> next(std::string* ret_text) override;
  bool take_way(unsigned way) override;
  void blame() { reader_.blame(); }
  const BlockReader& reader() const { return reader_; }
  // Of a failure: parts that it needs have a newer checkpoint now.
  bool was_superseded() const { return superseded_ || reader_.was_superseded(); }

 private:
  Result<void> load(uint64_t first, std::string* ret_text);

  Cluster& cluster_;
  const Available& from_;
  const Stripe stripe_;
  BlockReader reader_;
  std::vector<uint64_t> description_;  // aligned
  DescriptionView view_;
  uint64_t block_ = kNowhere, count_ = 0;  // the rows that reader_ has
  uint64_t next_ = 0;                      // row
  unsigned way_ = 0;
  bool superseded_ = false;
};

Result<void> PartSource::describe(std::string* ret_text) {
  Error why{Errc::kNotWhole, 0, "no part's description can be read"};
  for (const auto& holder : from_.holders) {
    for (const FoundPart& p : holder) {
      auto bytes = cluster_.fetch_description(p);
      if (!bytes) {
        why = bytes.error();
        superseded_ |= is_superseded(why);
        *ret_text = p.node + ": " + words_of(why);
        continue;
      }
      description_.assign((bytes->size() + 7) / 8, 0);
      memcpy(description_.data(), bytes->data(), bytes->size());
      auto view = read_description(
          {reinterpret_cast<const uint8_t*>(description_.data()), bytes->size()}, p.entry.slots);
      store::SlotMap map;
      if (view && map.adopt(view->extents, p.entry.slots)) {
        view_ = *view;
        return {};
      }
      why = {Errc::kDamaged, 0, "a description is damaged"};
      *ret_text = p.node + ": its part's description is damaged";
    }
  }
  return why;
}

// The rows of one rotation, `first` the first of them.
Result<void> PartSource::load(uint64_t first, std::string* ret_text) {
  if (first == block_) return {};
  block_ = kNowhere;
  count_ = std::min(store::kRotateRows, stripe_.rows(slots()) - first);
  CR_TRYV(reader_.read(first, count_, ret_text));
  block_ = first;
  return {};
}

Result<void> PartSource::read(uint64_t slot, uint8_t* page, std::string* ret_text) {
  const Stripe::Place at = stripe_.place(slot);
  CR_TRYV(load(at.row / store::kRotateRows * store::kRotateRows, ret_text));
  memcpy(page, reader_.column(at.column) + (at.row - block_) * kPageSize, kPageSize);
  return {};
}

bool PartSource::take_way(unsigned way) {
  if (way == way_) return true;
  if (!reader_.take_way(way)) return false;
  way_ = way;
  block_ = kNowhere;
  return true;
}

Result<std::vector<SlotPages>> PartSource::next(std::string* ret_text) {
  std::vector<SlotPages> batch;
  if (next_ >= stripe_.rows(slots())) return batch;
  reader_.blame();  // this way was good until here
  CR_TRYV(load(next_, ret_text));
  next_ += count_;
  for (unsigned c = 0; c < stripe_.data; c++) {
    SlotPages* last = nullptr;
    for (uint64_t r = 0; r < count_; r++) {
      const uint64_t slot = stripe_.slot(block_ + r, c);
      if (slot >= slots()) continue;
      if (last != nullptr && slot == last->slot + last->pages) {
        last->pages++;
        continue;
      }
      batch.push_back({slot, 1, reader_.column(c) + r * kPageSize});
      last = &batch.back();
    }
  }
  return batch;
}

}  // namespace

unsigned Available::parts() const {
  return static_cast<unsigned>(
      std::ranges::count_if(holders, [](const auto& h) { return !h.empty(); }));
}

std::string Available::words() const {
  std::string text = std::to_string(parts()) + " of " + std::to_string(holders.size()) +
                     (holders.size() == 1 ? " part, " : " parts, ") +
                     std::to_string(protection.data) + " needed";
  std::string missing;
  for (size_t i = 0; i < holders.size(); i++) {
    if (holders[i].empty()) missing += (missing.empty() ? "" : ", ") + std::to_string(i);
  }
  return missing.empty() ? text : text + "; missing: part " + missing;
}

std::vector<Available> available(const std::vector<FoundPart>& parts) {
  std::vector<Available> all;
  for (const FoundPart& p : parts) {
    const PartEntry& e = p.entry;
    const uint64_t count = uint64_t{e.data_parts} + e.parity_parts;
    if (e.data_parts == 0 || count > kMostPartHolders || e.holder >= count || e.kind > kProtectRs) {
      continue;
    }
    auto at = std::ranges::find_if(all, [&](const Available& a) {
      return a.triple == e.triple && a.like.kind == e.kind && a.like.data_parts == e.data_parts &&
             a.like.parity_parts == e.parity_parts && a.like.slots == e.slots &&
             a.like.layout == e.layout;
    });
    if (at == all.end()) {
      Available a;
      a.triple = e.triple;
      a.like = e;
      a.protection = {static_cast<store::Protection::Kind>(e.kind), e.data_parts, e.parity_parts};
      a.holders.resize(count);
      at = all.insert(all.end(), std::move(a));
    }
    at->holders[e.holder].push_back(p);
  }
  std::ranges::sort(all, [](const Available& a, const Available& b) {
    return a.triple == b.triple ? a.parts() > b.parts() : is_newer(a.triple, b.triple);
  });
  return all;
}

Result<RecoveryResult> make_image(Cluster& cluster, const Available& from, const std::string& dir,
                                  bool durable,
                                  const std::function<void(const RecoveryProgress&)>& progress,
                                  std::string* ret_text) {
  auto erasure = store::Erasure::make(from.protection);
  if (!erasure) return erasure.error();
  if (!from.is_whole()) {
    *ret_text = from.words();
    return Error{Errc::kNotWhole, 0, "too few parts were found"};
  }
  PartSource source(cluster, from, **erasure);
  const auto failed = [&](const Error& error) {
    if (ret_text->empty()) *ret_text = words_of(error);
    const std::vector<std::string>& damaged = source.reader().damaged();
    for (size_t i = 0; i < std::min(damaged.size(), kMostDamageWords); i++) {
      *ret_text += "; " + damaged[i];
    }
    return source.was_superseded() ? Error{Errc::kNotFound, 0, "its parts are newer now"} : error;
  };
  ret_text->clear();
  if (auto described = source.describe(ret_text); !described) return failed(described.error());
  const auto in_rows = [&](const MakeProgress& p) {
    const uint64_t row = kPageSize * from.protection.data;
    if (progress) progress({p.done_bytes / row, p.total_bytes / row});
  };
  const auto bytes = make_image_of(source, dir, durable, in_rows, ret_text);
  if (!bytes) return failed(bytes.error());
  source.blame();
  RecoveryResult r;
  r.bytes = *bytes;
  r.decoded_rows = source.reader().decoded_rows();
  r.damaged = source.reader().damaged();
  return r;
}

namespace {

// What the node keeps as that holder of the session now.
std::optional<FoundPart> look_again(Cluster& cluster, const FoundPart& old) {
  const SessionId id = session_id_of(old.entry.session_id);
  std::optional<FoundPart> newest;
  for (FoundPart& p : cluster.list_on(old.node, &id)) {
    if (p.entry.holder != old.entry.holder) continue;
    if (!newest || is_newer(p.entry.triple, newest->entry.triple)) newest = std::move(p);
  }
  return newest;
}

// "": every row is right. on_rows: so many were looked at.
Result<std::string> verify_part(Cluster& cluster, FoundPart p, std::vector<uint8_t>* memory,
                                const std::function<void(uint64_t)>& on_rows,
                                std::string* ret_text) {
  unsigned looks = 0;
  for (uint64_t row = 0; row < p.entry.rows;) {
    const uint64_t count = std::min(Cluster::kMostRows, p.entry.rows - row);
    const std::string part = p.node + ": part " + std::to_string(p.entry.holder);
    uint64_t wrong = row;
    const auto done = cluster.fetch_rows(p, row, count, memory->data(), &wrong);
    on_rows(done ? count : 0);
    if (done) {
      row += count;
      looks = 0;
      continue;
    }
    if (!is_superseded(done.error())) {
      return part + " of checkpoint " + std::to_string(p.entry.triple.sequence) + ": row " +
             std::to_string(wrong) + ": " + words_of(done.error());
    }
    if (++looks > kMostLooks) {
      *ret_text = part + " is written over faster than it can be read; try again, or while the " +
                  "program takes fewer checkpoints";
      return Error{Errc::kTimeout, 0, "a part does not stay"};
    }
    auto newer = look_again(cluster, p);
    if (!newer) return std::string();  // it is no longer kept there
    p = std::move(*newer);
  }
  return std::string();
}

}  // namespace

Result<std::vector<std::string>> verify_parts(
    Cluster& cluster, const std::vector<FoundPart>& parts,
    const std::function<void(const RecoveryProgress&)>& progress, std::string* ret_text) {
  std::vector<std::string> bad;
  RecoveryProgress now;
  for (const FoundPart& p : parts) now.total_bytes += p.entry.rows * kPageSize;
  const auto on_rows = [&](uint64_t rows) {
    now.done_bytes = std::min(now.done_bytes + rows * kPageSize, now.total_bytes);
    if (progress) progress(now);
  };
  std::vector<uint8_t> memory(Cluster::kMostRows * kPageSize);
  for (const FoundPart& p : parts) {
    CR_TRY(std::string line, verify_part(cluster, p, &memory, on_rows, ret_text));
    if (!line.empty() && std::ranges::find(bad, line) == bad.end()) bad.push_back(std::move(line));
  }
  return bad;
}

}  // namespace cr::node
