// SPDX-License-Identifier: MIT
// holder.cc - see holder.h. Invariant: as there. Context: N.
#include "node/holder.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

namespace cr::node {
namespace {

using namespace format;

constexpr uint32_t kWindows = 4;
constexpr uint64_t kMostFetchBytes = 8 << 20;

bool is_good(const PartOffer& o) {
  const uint64_t parts = uint64_t{o.data_parts} + o.parity_parts;
  return o.kind >= kProtectNone && o.kind <= kProtectRs && o.data_parts > 0 &&
         parts <= kMostPartHolders && o.holder < parts &&
         memchr(o.name, 0, sizeof(o.name)) != nullptr &&
         memchr(o.origin, 0, sizeof(o.origin)) != nullptr;
}

}  // namespace

Holder::~Holder() {
  while (!transfers_.empty()) end(transfers_.begin()->first);
}

bool Holder::on_message(LinkId link, uint16_t type, std::span<const uint8_t> payload) {
  const auto with = [&](auto message, void (Holder::*handle)(LinkId, const decltype(message)&)) {
    if (read_struct(payload, &message)) {
      (this->*handle)(link, message);
    } else {
      log_("a message of type " + std::to_string(type) + " has the wrong size; it was ignored");
    }
    return true;
  };
  switch (type) {
    case kPartOffer:
      return with(PartOffer{}, &Holder::on_offer);
    case kPartChunk:
      return with(PartChunk{}, &Holder::on_chunk);
    case kPartCommit:
      return with(PartCommit{}, &Holder::on_commit);
    case kListParts:
      return with(ListParts{}, &Holder::on_list);
    case kFetchRows:
      return with(FetchRows{}, &Holder::on_fetch);
    case kRemoveSession:
      return with(RemoveSession{}, &Holder::on_remove);
    case kPartFailed: {
      PartFailed f;
      if (!read_struct(payload, &f)) return false;
      const auto at = transfers_.find({link, f.transfer});
      if (at == transfers_.end()) return false;  // of one of which we are the source
      end(at->first);
      return true;
    }
    default:
      return false;
  }
}

void Holder::on_down(LinkId link) {
  for (auto i = transfers_.begin(); i != transfers_.end();) {
    const Key key = (i++)->first;
    if (key.first == link) end(key);
  }
}

void Holder::end(const Key& key) {
  const auto at = transfers_.find(key);
  if (at == transfers_.end()) return;
  if (at->second.region != RegionId::kNone) hub_.unregister_region(at->second.region);
  lent_ -= at->second.windows->size();
  transfers_.erase(at);
}

void Holder::fail(LinkId link, uint64_t transfer, const Error& error) {
  PartFailed f{};
  f.transfer = transfer;
  f.code = static_cast<uint32_t>(error.code);
  f.sys_errno = error.sys_errno;
  std::string text = store_.dir() + ": " + error.what;
  if (error.sys_errno != 0) text += std::string(": ") + strerror(error.sys_errno);
  memcpy(f.text, text.data(), std::min(text.size(), sizeof(f.text) - 1));
  (void)send_struct(hub_, link, kPartFailed, f);
  end({link, transfer});
}

void Holder::on_offer(LinkId link, const PartOffer& offer) {
  const Key key{link, offer.transfer};
  end(key);
  if (!is_good(offer)) return fail(link, offer.transfer, {Errc::kDamaged, 0, "an offer is wrong"});
  uint32_t windows = kWindows;
  while (windows > 0 && lent_ + windows * kChunkBytes > most_bytes_) windows--;
  if (windows == 0) {
    return fail(link, offer.transfer,
                {Errc::kBusy, EBUSY, "all memory that may be lent (--dram) is in use"});
  }
  auto receiver = PartReceiver::begin(store_, offer);
  if (!receiver) return fail(link, offer.transfer, receiver.error());
  Transfer t;
  t.receiver = std::move(*receiver);
  t.window_count = windows;
  auto memory = os::Mapping::map(-1, windows * kChunkBytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS);
  if (!memory) return fail(link, offer.transfer, memory.error());
  t.windows = std::make_shared<os::Mapping>(std::move(*memory));
  auto region = hub_.register_region(t.windows->data(), t.windows->size(), t.windows);
  if (!region) return fail(link, offer.transfer, region.error());
  t.region = region->id;
  PartAccept a{};
  a.transfer = offer.transfer;
  a.windows = windows;
  a.has_base = t.receiver->has_base() ? 1 : 0;
  a.region = region->wire;
  lent_ += t.windows->size();
  transfers_.emplace(key, std::move(t));
  if (!send_struct(hub_, link, kPartAccept, a)) end(key);
}

void Holder::on_chunk(LinkId link, const PartChunk& c) {
  const auto at = transfers_.find({link, c.transfer});
  if (at == transfers_.end()) return;  // it has failed, and the source was told
  Transfer& t = at->second;
  if (c.window >= t.window_count || c.seal.bytes > kChunkBytes) {
    return fail(link, c.transfer, {Errc::kDamaged, 0, "a chunk breaks the rules"});
  }
  uint8_t* data = t.windows->data() + c.window * kChunkBytes;
  const std::span<const uint8_t> bytes{data, c.seal.bytes};
  const uint64_t digest = hub_.has_tags(link) ? 0 : chunk_digest(c, bytes);
  auto done = hub_.open_block(link, c.seal, data, c.seal.bytes, &digest);
  if (done && c.kind == kChunkOfRows) done = verify_rows(bytes, c.rows);
  if (done) done = finish_rows(link, c.transfer, t);
  if (done && c.kind == kChunkOfRows) {
    done = t.receiver->add_rows(bytes, c.rows);
  } else if (done) {
    done = t.receiver->add_description(c.off, bytes);
  }
  if (!done) {
    log_("a chunk could not be taken in: " + std::string(done.error().what));
    return fail(link, c.transfer, done.error());
  }
  t.writing = static_cast<int>(c.window);
  if (c.kind != kChunkOfRows) (void)finish_rows(link, c.transfer, t);
}

// The rows that are being written; then their window is free again.
Result<void> Holder::finish_rows(LinkId link, uint64_t transfer, Transfer& t) {
  if (t.writing < 0) return {};
  CR_TRYV(t.receiver->finish_rows());
  PartChunkDone d{};
  d.transfer = transfer;
  d.window = static_cast<uint32_t>(std::exchange(t.writing, -1));
  (void)send_struct(hub_, link, kPartChunkDone, d);
  return {};
}

void Holder::settle() {
  std::vector<std::pair<Key, Error>> failed;
  for (auto& [key, t] : transfers_) {
    if (auto done = finish_rows(key.first, key.second, t); !done)
      failed.push_back({key, done.error()});
  }
  for (const auto& [key, error] : failed) {
    log_("a chunk could not be written: " + std::string(error.what));
    fail(key.first, key.second, error);
  }
}

void Holder::on_commit(LinkId link, const PartCommit& c) {
  const auto at = transfers_.find({link, c.transfer});
  if (at == transfers_.end()) return;
  const auto done = at->second.receiver->commit(c);
  if (!done) {
    log_("a part could not be committed: " + std::string(done.error().what));
    return fail(link, c.transfer, done.error());
  }
  PartCommitted d{};
  d.transfer = c.transfer;
  d.triple = c.triple;
  d.bytes_written = at->second.receiver->bytes_written();
  end(at->first);
  (void)send_struct(hub_, link, kPartCommitted, d);
}

void Holder::on_list(LinkId link, const ListParts& l) {
  const SessionId from = session_id_of(l.session_id);
  std::vector<PartEntry> all = store_.list(l.one_session != 0 ? &from : nullptr);
  if (l.one_session == 0) {
    std::erase_if(all, [&](const PartEntry& e) { return session_id_of(e.session_id) < from; });
  }
  const size_t skip = std::min<size_t>(l.skip, all.size());
  const size_t count = std::min<size_t>(all.size() - skip, kMostEntries);
  PartList head{};
  head.request = l.request;
  head.entries = static_cast<uint32_t>(count);
  head.more = skip + count < all.size() ? 1 : 0;
  std::vector<uint8_t> message(sizeof(head) + count * sizeof(PartEntry));
  memcpy(message.data(), &head, sizeof(head));
  if (count > 0) memcpy(message.data() + sizeof(head), &all[skip], count * sizeof(PartEntry));
  (void)hub_.send(link, kPartList, message);
}

Result<void> Holder::fill_block(const FetchRows& f, std::vector<uint8_t>* ret,
                                uint64_t* ret_damaged_row) {
  auto part = store_.load(session_id_of(f.session_id), f.holder, f.triple, f.layout);
  if (!part) return part.error();
  const PartView& v = (*part)->view;
  const Error range{Errc::kInvalid, 0, "what is asked for is out of range"};
  if (f.kind == kChunkOfDescription) {
    if (f.off > v.description_bytes.size() || f.count > v.description_bytes.size() - f.off ||
        f.count > kMostFetchBytes) {
      return range;
    }
    const auto bytes = v.description_bytes.subspan(f.off, f.count);
    ret->assign(bytes.begin(), bytes.end());
    return {};
  }
  if (f.count > kMostFetchBytes / kPageSize || f.off > v.header.rows ||
      f.count > v.header.rows - f.off) {
    return range;
  }
  ret->resize(f.count * kPageSize);
  return read_rows(**part, f.off, f.count, ret->data(), ret_damaged_row);
}

void Holder::on_fetch(LinkId link, const FetchRows& f) {
  Fetched answer{};
  answer.request = f.request;
  auto block = std::make_shared<std::vector<uint8_t>>();
  const auto refuse = [&](const Error& e) {
    answer.code = static_cast<uint32_t>(e.code);
    answer.sys_errno = e.sys_errno;
    (void)send_struct(hub_, link, kFetched, answer);
  };
  if (auto filled = fill_block(f, block.get(), &answer.damaged_row); !filled) {
    return refuse(filled.error());
  }
  auto region = hub_.import_region(link, f.region);
  if (!region) return refuse(region.error());
  auto answer_later = std::make_shared<Fetched>(answer);
  const RemoteRegionId remote = *region;
  auto seal = hub_.put_block(link, *block, remote, f.window_off,
                             [this, link, remote, block, answer_later](const Result<void>& done) {
                               hub_.drop_region(remote);
                               if (done) (void)send_struct(hub_, link, kFetched, *answer_later);
                             });
  if (!seal) {
    hub_.drop_region(remote);
    return refuse(seal.error());
  }
  answer_later->seal = *seal;
}

void Holder::on_remove(LinkId link, const RemoveSession& r) {
  Removed answer{};
  answer.request = r.request;
  const auto done = store_.remove(session_id_of(r.session_id), r.uid);
  if (done) {
    answer.files = *done;
  } else {
    answer.code = static_cast<uint32_t>(done.error().code);
  }
  (void)send_struct(hub_, link, kRemoved, answer);
}

}  // namespace cr::node
