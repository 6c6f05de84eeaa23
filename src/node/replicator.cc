// SPDX-License-Identifier: MIT
// replicator.cc - see replicator.h. Invariant: as there. Context: N.
#include "node/replicator.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "format/part_reader.h"
#include "node/holder.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint64_t kUnknown = ~uint64_t{0};  // a check that no row has
constexpr uint64_t kRowsOfStep = 512;
constexpr unsigned kMostPasses = 12;
constexpr uint64_t kSecond = 1'000'000'000, kLeastRetryNs = kSecond / 4,
                   kMostRetryNs = 30 * kSecond;
constexpr uint64_t kTransferNs = 60 * kSecond;  // without any progress

uint64_t g_transfer = 0;  // numbers are unique in this process

std::string words(const Error& e) {
  return std::string(e.what) + (e.sys_errno != 0 ? std::string(": ") + strerror(e.sys_errno) : "");
}

}  // namespace

Replicator::Replicator(Node node, ProtectedSession session, std::unique_ptr<store::Erasure> erasure)
    : node_(std::move(node)),
      session_(std::move(session)),
      erasure_(std::move(erasure)),
      stripe_(erasure_->stripe()) {
  scratch_.resize(stripe_.parts() * kPageSize);
}

Result<std::unique_ptr<Replicator>> Replicator::make(Node node, ProtectedSession session,
                                                     std::vector<std::string> holders) {
  auto erasure = store::Erasure::make(session.protection);
  if (!erasure) return erasure.error();
  auto r = std::unique_ptr<Replicator>(
      new Replicator(std::move(node), std::move(session), std::move(*erasure)));
  if (holders.size() != r->stripe_.parts()) {
    return Error{Errc::kInvalid, 0, "as many holders are needed as there are parts"};
  }
  r->set_holders(std::move(holders));
  return r;
}

Replicator::~Replicator() {
  *alive_ = false;
  for (Target& t : targets_) leave(t);
}

void Replicator::set_holders(std::vector<std::string> holders) {
  holders_ = std::move(holders);
  targets_.resize(holders_.size());
  for (size_t i = 0; i < holders_.size(); i++) {
    Target& t = targets_[i];
    if (t.node == holders_[i]) continue;
    if (t.takes_part) drop(t, "another node keeps the part now");
    t = Target{};
    t.node = holders_[i];
    t.holder = static_cast<unsigned>(i);
    t.own = t.node == node_.own;
  }
  if (!is_none(safety_.triple)) wanted_ = true;
}

void Replicator::wake(uint64_t now_ns) {
  wanted_ = true;
  woken_ns_ = now_ns;
}

void Replicator::on_up(const std::string& node) {
  for (Target& t : targets_) {
    if (t.node != node || t.takes_part) continue;
    if (is_none(safety_.triple) || t.whole == safety_.triple) continue;
    wanted_ = true;
    retry_ns_ = 0;
  }
}

unsigned Replicator::participants() const {
  return static_cast<unsigned>(
      std::ranges::count_if(targets_, [](const Target& t) { return t.takes_part; }));
}

// Forgets the transfer; buffers under way stay with their callbacks.
void Replicator::leave(Target& t) {
  if (t.region != RemoteRegionId::kNone && node_.hub != nullptr) {
    const auto busy = [](const std::shared_ptr<Buffer>& b) { return b.use_count() > 1; };
    if (std::ranges::none_of(t.buffers, busy)) node_.hub->drop_region(t.region);
  }
  t.region = RemoteRegionId::kNone;
  t.takes_part = t.accepted = t.committed = t.full = false;
  t.link = LinkId::kNone;
  t.receiver.reset();
  t.buffers.clear();
  t.filling = 0;
  t.rows = t.pages = 0;
  t.described = 0;
}

void Replicator::drop(Target& t, const std::string& why) {
  if (t.trouble != why) {
    node_.log("session " + session_.name + ": part " + std::to_string(t.holder) + " on " + t.node +
              ": " + why + "; it is tried again");
  }
  t.trouble = why;
  if (t.takes_part && !t.own && node_.hub != nullptr) {
    PartFailed f{};
    f.transfer = t.transfer;
    f.code = static_cast<uint32_t>(Errc::kAgentGone);
    (void)send_struct(*node_.hub, t.link, kPartFailed, f);
  }
  leave(t);
}

// The checkpoint that is now the newest, and what differs from what was sent.
Result<void> Replicator::look() {
  CR_TRY(image_, SessionImage::open(session_.dir));
  if (session_id_of(image_->super().session_id) != session_.id) {
    return Error{Errc::kNotFound, 0, "the image directory is another session's now"};
  }
  if (session_.uid != 0 && session_.origin.empty() && image_->uid() != session_.uid) {
    return Error{Errc::kPermission, EPERM, "the images belong to another user"};
  }
  image_->place(seen_, map_, &content_);
  rows_ = stripe_.rows(map_.slots());
  row_ = 0;
  overtaken_ = false;
  return {};
}

void Replicator::begin(uint64_t now_ns) {
  wanted_ = false;
  begin_woken_ns_ = woken_ns_;
  const Triple before = safety_.triple;
  if (auto seen = look(); !seen) return give_up(now_ns, words(seen.error()));
  const Triple now = image_->triple();
  if (!(now == before)) {
    safety_ = Safety{};
    safety_.triple = now;
    safety_.committed_ns = begin_woken_ns_;
  }
  sent_ = base_checks_;
  pass_ = 0;
  for (Target& t : targets_) {
    if (t.whole == now) continue;
    offer(t);
  }
  if (participants() == 0) {
    settle(now_ns);
    return;
  }
  deadline_ns_ = now_ns + kTransferNs;
  phase_ = Phase::kOffer;
}

void Replicator::offer(Target& t) {
  PartOffer o{};
  o.transfer = t.transfer = ++g_transfer;
  memcpy(o.session_id, session_.id.data(), session_.id.size());
  o.triple = image_->triple();
  o.keep = keep_;
  o.keep_layout = keep_layout_;
  o.base = base_;
  o.base_layout = base_layout_;
  o.kind = static_cast<uint32_t>(session_.protection.kind);
  o.data_parts = session_.protection.data;
  o.parity_parts = session_.protection.parity;
  o.holder = t.holder;
  o.rows = rows_;
  o.uid = session_.uid;
  memcpy(o.name, session_.name.data(), std::min(session_.name.size(), sizeof(o.name) - 1));
  const std::string& origin = session_.origin.empty() ? node_.own : session_.origin;
  memcpy(o.origin, origin.data(), std::min(origin.size(), sizeof(o.origin) - 1));
  if (t.own) return offer_own(t, o);
  t.link = node_.hub != nullptr ? node_.link_to(t.node) : LinkId::kNone;
  if (t.link == LinkId::kNone) {
    if (t.trouble.empty()) drop(t, "the node cannot be reached");
    return;
  }
  if (auto sent = send_struct(*node_.hub, t.link, kPartOffer, o); !sent) {
    return drop(t, words(sent.error()));
  }
  t.takes_part = true;
}

void Replicator::offer_own(Target& t, const PartOffer& o) {
  auto receiver = PartReceiver::begin(*node_.store, o);
  if (!receiver) return drop(t, words(receiver.error()));
  auto memory =
      os::Mapping::map(-1, kChunkBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  if (!memory) return drop(t, words(memory.error()));
  t.receiver = std::move(*receiver);
  t.full = !t.receiver->has_base();
  t.buffers.push_back(std::make_shared<Buffer>(Buffer{std::move(*memory), false}));
  t.takes_part = t.accepted = true;
}

bool Replicator::has_room(const Target& t) const {
  return !t.takes_part || !t.buffers[t.filling]->busy;
}

bool Replicator::all_have_room() const {
  return std::ranges::all_of(targets_, [this](const Target& t) { return has_room(t); });
}

bool Replicator::row_has_changed(uint64_t row, bool* ret_nonzero) const {
  bool changed = false;
  *ret_nonzero = false;
  for (unsigned c = 0; c < stripe_.data; c++) {
    const uint64_t slot = stripe_.slot(row, c), check = check_of(slot);
    changed |= check != sent_check(slot);
    *ret_nonzero |= check != 0;
  }
  return changed;
}

// Reads the row's data into scratch_: of all columns, or of those that have changed. false: some
// page is not what it was any more.
bool Replicator::read_columns(uint64_t row, bool all) {
  for (unsigned c = 0; c < stripe_.data; c++) {
    const uint64_t slot = stripe_.slot(row, c), check = check_of(slot);
    uint8_t* page = scratch_.data() + c * kPageSize;
    if (!all && check == sent_check(slot)) continue;
    if (check == 0) {
      memset(page, 0, kPageSize);
      continue;
    }
    const auto read = image_->read(content_.where[slot], check, page);
    if (!read || !*read) return false;
  }
  return true;
}

void Replicator::put_row(Target& t, uint64_t row, uint64_t check, const uint8_t* page) {
  if (!t.takes_part) return;
  uint8_t* memory = t.buffers[t.filling]->memory.data();
  const RowRecord r{row, check};
  memcpy(memory + t.rows * sizeof(r), &r, sizeof(r));
  t.rows++;
  if (check != 0) {
    memcpy(memory + kChunkPagesOff + t.pages * kPageSize, page, kPageSize);
    t.pages++;
  }
  if (t.rows == kChunkRows) flush(t);
}

void Replicator::flush(Target& t) {
  if (!t.takes_part || t.rows == 0) return;
  hand_over(t, kChunkOfRows, 0, kChunkPagesOff + t.pages * kPageSize);
  t.rows = t.pages = 0;
}

// buffers[filling] goes to the holder; afterwards that is another one.
void Replicator::hand_over(Target& t, uint32_t kind, uint64_t off, uint64_t bytes) {
  handed_bytes_ += bytes;
  if (!t.own) sent_bytes_ += bytes;
  const std::shared_ptr<Buffer> buffer = t.buffers[t.filling];
  const std::span<const uint8_t> data{buffer->memory.data(), bytes};
  if (t.own) {
    const auto done = kind == kChunkOfRows ? t.receiver->add_rows(data, t.rows)
                                           : t.receiver->add_description(off, data);
    if (!done) drop(t, words(done.error()));
    return;
  }
  PartChunk chunk{};
  chunk.transfer = t.transfer;
  chunk.window = static_cast<uint32_t>(t.filling);
  chunk.kind = kind;
  chunk.rows = kind == kChunkOfRows ? t.rows : 0;
  chunk.off = off;
  auto message = std::make_shared<PartChunk>(chunk);
  auto seal = node_.hub->put_block(
      t.link, data, t.region, t.filling * kChunkBytes,
      [hub = node_.hub, link = t.link, buffer, message](const Result<void>& done) {
        if (done) (void)send_struct(*hub, link, kPartChunk, *message);
      });
  if (!seal) return drop(t, words(seal.error()));
  message->seal = *seal;
  buffer->busy = true;
  t.filling = (t.filling + 1) % t.buffers.size();
}

// false: it has to wait for a window.
bool Replicator::send_row(uint64_t row) {
  bool nonzero = false;
  const bool changed = row_has_changed(row, &nonzero);
  const auto wants = [&](const Target& t) { return t.takes_part && t.full && nonzero; };
  const bool for_full = std::ranges::any_of(targets_, wants);
  if (!changed && !for_full) return true;
  if (!all_have_room()) return false;
  const bool parity = stripe_.data > 1 && stripe_.parity > 0;
  if (!read_columns(row, parity || for_full)) {
    overtaken_ = true;
    if (sent_.size() < content_.checks.size()) sent_.resize(content_.checks.size());
    for (unsigned c = 0; c < stripe_.data; c++) {
      if (const uint64_t slot = stripe_.slot(row, c); slot < sent_.size()) sent_[slot] = kUnknown;
    }
    return true;
  }
  if (parity) {
    const uint8_t* data[kMostPartHolders];
    uint8_t* coded[kMostPartHolders];
    for (unsigned c = 0; c < stripe_.data; c++) data[c] = scratch_.data() + c * kPageSize;
    for (unsigned m = 0; m < stripe_.parity; m++) {
      coded[m] = scratch_.data() + (stripe_.data + m) * kPageSize;
    }
    erasure_->encode(data, coded, kPageSize);
  }
  for (unsigned part = 0; part < stripe_.parts(); part++) {
    Target& t = targets_[stripe_.holder(row, part)];
    if (!t.takes_part) continue;
    const unsigned column = stripe_.data == 1 ? 0 : part;
    if (column < stripe_.data) {
      const uint64_t slot = stripe_.slot(row, column), check = check_of(slot);
      if (check != sent_check(slot) || (t.full && check != 0)) {
        put_row(t, row, check, scratch_.data() + column * kPageSize);
      }
    } else if (changed || t.full) {
      const uint8_t* page = scratch_.data() + part * kPageSize;
      put_row(t, row, row_check(page), page);
    }
  }
  if (sent_.size() < content_.checks.size()) sent_.resize(content_.checks.size());
  for (unsigned c = 0; c < stripe_.data; c++) {
    if (const uint64_t slot = stripe_.slot(row, c); slot < sent_.size()) {
      sent_[slot] = check_of(slot);
    }
  }
  return true;
}

bool Replicator::send_rows() {
  for (uint64_t i = 0; i < kRowsOfStep && row_ < rows_; row_++) {
    const uint64_t before = handed_bytes_;
    if (!send_row(row_)) return false;
    i += before != handed_bytes_ ? 16 : 0;
    if (row_ % 64 == 0) i++;
  }
  if (row_ < rows_) return true;
  end_pass();
  return true;
}

// What was overwritten while it was read is read again, from the checkpoint that did it.
void Replicator::end_pass() {
  for (Target& t : targets_) flush(t);
  if (!overtaken_) {
    sent_ = content_.checks;
    describe();
    phase_ = Phase::kDescribe;
    return;
  }
  const uint64_t now = node_.now_ns();
  for (Target& t : targets_) t.full = false;
  if (++pass_ >= kMostPasses) {
    return give_up(now, "its checkpoints follow each other faster than they can be copied");
  }
  begin_woken_ns_ = woken_ns_;
  wanted_ = false;
  if (auto seen = look(); !seen) return give_up(now, words(seen.error()));
  if (!(image_->triple() == safety_.triple)) {
    safety_ = Safety{};
    safety_.triple = image_->triple();
    safety_.committed_ns = begin_woken_ns_;
  }
}

void Replicator::describe() {
  const auto& volumes = image_->volumes();
  const auto& extents = map_.extents();
  DescriptionHeader h{};
  h.volumes = static_cast<uint32_t>(volumes.size());
  h.holders = static_cast<uint32_t>(holders_.size());
  h.extents = extents.size();
  description_.clear();
  const auto add = [this](const void* data, size_t bytes) {
    const auto* at = static_cast<const uint8_t*>(data);
    description_.insert(description_.end(), at, at + bytes);
  };
  add(&h, sizeof(h));
  add(volumes.data(), volumes.size() * sizeof(volumes[0]));
  add(extents.data(), extents.size() * sizeof(extents[0]));
  for (const std::string& name : holders_) {
    HolderRecord r{};
    memcpy(r.node, name.data(), std::min(name.size(), sizeof(r.node) - 1));
    add(&r, sizeof(r));
  }
  layout_ = layout_of(description_, holders_.size());
}

void Replicator::send_description() {
  for (Target& t : targets_) {
    while (t.takes_part && t.described < description_.size() && has_room(t)) {
      const uint64_t bytes = std::min<uint64_t>(kChunkBytes, description_.size() - t.described);
      memcpy(t.buffers[t.filling]->memory.data(), description_.data() + t.described, bytes);
      const uint64_t off = t.described;
      t.described += bytes;
      hand_over(t, kChunkOfDescription, off, bytes);
    }
  }
}

// The others first: they write while this node does.
void Replicator::commit(uint64_t now_ns) {
  PartCommit c{};
  c.triple = image_->triple();
  c.realtime_ns = image_->super().realtime_ns;
  c.slots = map_.slots();
  c.rows = rows_;
  c.description_bytes = description_.size();
  c.image_bytes = image_->image_bytes();
  for (Target& t : targets_) {
    if (!t.takes_part || t.own) continue;
    c.transfer = t.transfer;
    if (auto sent = send_struct(*node_.hub, t.link, kPartCommit, c); !sent) {
      drop(t, words(sent.error()));
    }
  }
  for (Target& t : targets_) {
    if (!t.takes_part || !t.own) continue;
    c.transfer = t.transfer;
    if (auto done = t.receiver->commit(c); !done) {
      drop(t, words(done.error()));
    } else {
      t.committed = true;
    }
  }
  phase_ = Phase::kCommit;
  deadline_ns_ = now_ns + kTransferNs;
}

// Every participant has committed or failed.
void Replicator::settle(uint64_t now_ns) {
  phase_ = Phase::kIdle;
  const Triple now = safety_.triple;
  bool committed = false;
  for (Target& t : targets_) {
    if (!t.takes_part) continue;
    if (t.committed) {
      committed = true;
      t.whole = now;
      t.trouble.clear();
    }
    leave(t);
  }
  gave_up_.clear();
  const Safety before = safety_;
  safety_.parts = safety_.elsewhere = 0;
  for (const Target& t : targets_) {
    if (!(t.whole == now)) continue;
    safety_.parts++;
    if (!t.own) safety_.elsewhere++;
  }
  const bool safe = safety_.elsewhere >= stripe_.data;
  if (safe && safety_.safe_ns == 0) safety_.safe_ns = now_ns;
  if (committed && (safe || is_none(keep_))) {
    base_ = now;
    base_layout_ = layout_;
    base_checks_ = sent_;
    if (safe) {
      keep_ = now;
      keep_layout_ = layout_;
    }
  }
  image_.reset();
  if (safety_.parts < targets_.size()) {
    failures_++;
    wanted_ = true;
    retry_ns_ = now_ns + std::min(kMostRetryNs, kLeastRetryNs << std::min(failures_, 8u));
  } else {
    failures_ = 0;
    retry_ns_ = 0;
  }
  if (safety_.parts != before.parts || safety_.safe_ns != before.safe_ns || safe) {
    node_.on_safety(*this);
  }
}

void Replicator::give_up(uint64_t now_ns, const std::string& why) {
  if (why != gave_up_) {
    node_.log("session " + session_.name + ": " + session_.dir + ": " + why +
              "; it is tried again");
  }
  gave_up_ = why;
  for (Target& t : targets_) {
    if (t.takes_part) drop(t, why);
  }
  image_.reset();
  phase_ = Phase::kIdle;
  failures_++;
  wanted_ = !ended_ || failures_ < 3;
  retry_ns_ = now_ns + std::min(kMostRetryNs, kLeastRetryNs << std::min(failures_, 8u));
}

uint64_t Replicator::next_ns() const {
  if (phase_ != Phase::kIdle) return deadline_ns_;
  return wanted_ ? retry_ns_ : ~uint64_t{0};
}

bool Replicator::step(uint64_t now_ns) {
  if (phase_ == Phase::kIdle) {
    // A new checkpoint need not wait for the retry of an old one: the others may have it at once.
    const bool fresh = woken_ns_ != begin_woken_ns_;
    if (!wanted_ || (now_ns < retry_ns_ && !fresh)) return false;
    const bool wait = std::ranges::any_of(targets_, [this](const Target& t) {
      return !t.own && node_.link_to(t.node) == LinkId::kNone && node_.may_come(t.node);
    });
    if (wait) {
      retry_ns_ = now_ns + kSecond / 50;
      return false;
    }
    begin(now_ns);
    return phase_ != Phase::kIdle;
  }
  if (participants() == 0) {
    settle(now_ns);
    return wanted_ && now_ns >= retry_ns_;
  }
  if (now_ns > deadline_ns_) {
    give_up(now_ns, "no progress for a minute");
    return false;
  }
  const auto all = [this](bool Target::*is) {
    return std::ranges::all_of(targets_, [is](const Target& t) { return !t.takes_part || t.*is; });
  };
  switch (phase_) {
    case Phase::kIdle:
      return false;
    case Phase::kOffer:
      if (!all(&Target::accepted)) return false;
      phase_ = Phase::kSend;
      return true;
    case Phase::kSend:
      return send_rows();
    case Phase::kDescribe: {
      send_description();
      const bool handed = std::ranges::all_of(targets_, [this](const Target& t) {
        const auto busy = [](const std::shared_ptr<Buffer>& b) { return b->busy; };
        return !t.takes_part ||
               (t.described == description_.size() && std::ranges::none_of(t.buffers, busy));
      });
      if (handed) commit(now_ns);
      return handed;
    }
    case Phase::kCommit:
      if (!all(&Target::committed)) return false;
      settle(now_ns);
      return wanted_ && now_ns >= retry_ns_;
  }
  return false;
}

bool Replicator::on_message(LinkId link, uint16_t type, std::span<const uint8_t> payload) {
  uint64_t transfer = 0;
  if (type < kPartAccept || type > kPartFailed || payload.size() < sizeof(transfer)) return false;
  memcpy(&transfer, payload.data(), sizeof(transfer));
  const auto at = std::ranges::find_if(targets_, [&](const Target& t) {
    return t.takes_part && t.link == link && t.transfer == transfer;
  });
  if (at == targets_.end()) return false;
  Target& t = *at;
  deadline_ns_ = node_.now_ns() + kTransferNs;
  if (PartAccept a; type == kPartAccept && read_struct(payload, &a) && !t.accepted) {
    auto region = node_.hub->import_region(link, a.region);
    if (!region || a.windows == 0 || a.windows > kMostWindows) {
      drop(t, "it offered windows that cannot be used");
      return true;
    }
    t.region = *region;
    for (uint32_t i = 0; i < a.windows; i++) {
      auto memory =
          os::Mapping::map(-1, kChunkBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
      if (!memory) {
        drop(t, words(memory.error()));
        return true;
      }
      t.buffers.push_back(std::make_shared<Buffer>(Buffer{std::move(*memory), false}));
    }
    t.full = a.has_base == 0;
    t.accepted = true;
  } else if (PartChunkDone d; type == kPartChunkDone && read_struct(payload, &d)) {
    if (d.window < t.buffers.size()) t.buffers[d.window]->busy = false;
  } else if (PartCommitted c; type == kPartCommitted && read_struct(payload, &c)) {
    t.committed = phase_ == Phase::kCommit;
  } else if (PartFailed f; type == kPartFailed && read_struct(payload, &f)) {
    const std::string text(f.text, strnlen(f.text, sizeof(f.text)));
    leave(t);
    drop(t, text);
  }
  return true;
}

void Replicator::on_down(LinkId link, const std::string& why) {
  for (Target& t : targets_) {
    if (t.takes_part && t.link == link) drop(t, why);
  }
}

}  // namespace cr::node
