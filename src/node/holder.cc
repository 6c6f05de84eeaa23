// SPDX-License-Identifier: MIT
// holder.cc - see holder.h. Invariant: as there. Context: N.
#include "node/holder.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "node/disk_words.h"
#include "os/fault.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint32_t kWindows = 4;
constexpr uint64_t kMostFetchBytes = 8 << 20;
constexpr unsigned kMostListings = 256;  // that wait
constexpr uint64_t kStillNs = 5'000'000'000;

}  // namespace

Holder::~Holder() {
  while (!transfers_.empty()) end(transfers_.begin()->first);
}

bool Holder::on_message(LinkId link, uint16_t type, std::span<const uint8_t> payload) {
  const auto with = [&](auto message, void (Holder::*handle)(LinkId, const decltype(message)&)) {
    const auto read = read_message<decltype(message)>(payload.data(), payload.size());
    if (read) {
      (this->*handle)(link, *read);
    } else {
      log_("a message of type " + std::to_string(type) + ": " + read.error().what);
      // Who sent it need not wait for an answer.
      if (type <= kPartFailed) {
        fail(link, number_of_message(payload.data(), payload.size()), read.error());
      }
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
  std::erase_if(waiting_, [link](const auto& fetch) { return fetch->link == link; });
}

void Holder::end(const Key& key) {
  const auto at = transfers_.find(key);
  if (at == transfers_.end()) return;
  if (at->second.region != RegionId::kNone) hub_.unregister_region(at->second.region);
  lent_ -= at->second.windows->size();
  transfers_.erase(at);
}

// A source that offers a part anew has given up what it sent of it before.
void Holder::end_older(LinkId link, const StoreThreads::Key& part) {
  for (auto i = transfers_.begin(); i != transfers_.end();) {
    const Key key = i->first;
    const bool is_older = key.first == link && i->second.part == part;
    ++i;
    if (is_older) end(key);
  }
}

void Holder::fail(LinkId link, uint64_t transfer, const Error& error) {
  PartFailed f{};
  f.transfer = transfer;
  f.code = static_cast<uint32_t>(error.code);
  f.sys_errno = error.sys_errno;
  const std::string text = disk_words(store_.dir(), error);
  memcpy(f.text, text.data(), std::min(text.size(), sizeof(f.text) - 1));
  (void)send_struct(hub_, link, kPartFailed, f);
  end({link, transfer});
}

// Does the job in a thread of the store; then, if the transfer still goes on, fails or does `done`.
void Holder::run(const Key& key, Transfer& t, std::function<Error(PartReceiver*)> job,
                 std::function<void(Transfer&)> done) {
  auto outcome = std::make_shared<Outcome>();
  t.jobs++;
  t.told_ns = rawsys::now_ns();
  threads_.run(
      t.part,
      [outcome, job = std::move(job), receiver = t.receiver, windows = t.windows] {
        outcome->error = job(receiver.get());
      },
      [this, outcome, key, serial = t.serial, done = std::move(done)] {
        const auto at = transfers_.find(key);
        if (at == transfers_.end() || at->second.serial != serial) return;
        at->second.jobs--;
        if (outcome->error.code == Errc::kOk) return done(at->second);
        log_("a part could not be taken in: " + disk_words(store_.dir(), outcome->error));
        fail(key.first, key.second, outcome->error);
      });
}

void Holder::on_offer(LinkId link, const PartOffer& offer) {
  const Key key{link, offer.transfer};
  end(key);
  end_older(link, {session_id_of(offer.session_id), offer.holder});
  uint32_t windows = kWindows;
  while (windows > 0 && lent_ + windows * kChunkBytes > most_bytes_) windows--;
  if (windows == 0) {
    return fail(link, offer.transfer,
                {Errc::kBusy, EBUSY, "all memory that may be lent (--dram) is in use"});
  }
  auto memory = os::Mapping::map(-1, windows * kChunkBytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS);
  if (!memory) return fail(link, offer.transfer, memory.error());
  Transfer& t = transfers_[key];
  t.serial = ++last_serial_;
  t.window_count = windows;
  t.windows = std::make_shared<os::Mapping>(std::move(*memory));
  t.part = {session_id_of(offer.session_id), offer.holder};
  lent_ += t.windows->size();
  auto begun = std::make_shared<std::shared_ptr<PartReceiver>>();
  run(
      key, t,
      [store = &store_, offer, begun](PartReceiver*) {
        auto receiver = PartReceiver::begin(*store, offer);
        if (!receiver) return receiver.error();
        *begun = std::move(*receiver);
        return Error{};
      },
      [this, key, begun](Transfer& now) {
        now.receiver = std::move(*begun);
        accept(key, now);
      });
}

void Holder::accept(const Key& key, Transfer& t) {
  auto region = hub_.register_region(t.windows->data(), t.windows->size(), t.windows);
  if (!region) return fail(key.first, key.second, region.error());
  t.region = region->id;
  PartAccept a{};
  a.transfer = key.second;
  a.windows = t.window_count;
  a.has_base = t.receiver->has_base() ? 1 : 0;
  a.region = region->wire;
  if (!send_struct(hub_, key.first, kPartAccept, a)) end(key);
}

void Holder::on_chunk(LinkId link, const PartChunk& c) {
  const Key key{link, c.transfer};
  const auto at = transfers_.find(key);
  if (at == transfers_.end()) return;  // it has failed, and the source was told
  Transfer& t = at->second;
  if (!t.receiver || c.window >= t.window_count) {
    return fail(link, c.transfer, {Errc::kDamaged, 0, "a chunk breaks the rules"});
  }
  uint8_t* data = t.windows->data() + c.window * kChunkBytes;
  const std::span<const uint8_t> bytes{data, c.seal.bytes};
  const uint64_t digest = hub_.has_tags(link) ? 0 : chunk_digest(c, bytes);
  if (auto done = hub_.open_block(link, c.seal, data, c.seal.bytes, &digest); !done) {
    log_("a chunk could not be taken in: " + std::string(done.error().what));
    return fail(link, c.transfer, done.error());
  }
  run(
      key, t, [bytes, c](PartReceiver* receiver) { return receiver->take_in(c, bytes).error(); },
      [this, key, window = c.window](Transfer&) {
        PartChunkDone d{};
        d.transfer = key.second;
        d.window = window;
        (void)send_struct(hub_, key.first, kPartChunkDone, d);
      });
}

void Holder::on_commit(LinkId link, const PartCommit& c) {
  const Key key{link, c.transfer};
  const auto at = transfers_.find(key);
  if (at == transfers_.end()) return;
  if (!at->second.receiver) {
    return fail(link, c.transfer, {Errc::kDamaged, 0, "a commit breaks the rules"});
  }
  run(
      key, at->second, [c](PartReceiver* receiver) { return receiver->commit(c).error(); },
      [this, key = Key(key), triple = c.triple](Transfer& now) {
        PartCommitted d{};
        d.transfer = key.second;
        d.triple = triple;
        d.bytes_written = now.receiver->bytes_written();
        const StoreThreads::Key part = now.part;
        end(key);
        (void)send_struct(hub_, key.first, kPartCommitted, d);
        os::fault_point(os::FaultPoint::kPartAnswered);
        prepare(part);
      });
}

// What cannot be prepared is done, or told, when the next checkpoint comes.
void Holder::prepare(const StoreThreads::Key& part) {
  threads_.run(
      part, [store = &store_, part] { (void)store->prepare_other(part.first, part.second); },
      [] {});
}

// A slow disk is no reason for the source to give up.
uint64_t Holder::tick(uint64_t now_ns) {
  cache_.forget_before(now_ns - std::min(now_ns, kStillNs));
  for (const auto& fetch : std::exchange(waiting_, {})) answer(fetch);
  uint64_t next = ~uint64_t{0};
  for (auto& [key, t] : transfers_) {
    if (t.jobs == 0) continue;
    if (now_ns >= t.told_ns + kStillNs) {
      t.told_ns = now_ns;
      PartChunkDone d{};
      d.transfer = key.second;
      d.window = kNoWindow;
      (void)send_struct(hub_, key.first, kPartChunkDone, d);
    }
    next = std::min(next, t.told_ns + kStillNs);
  }
  return next;
}

// One after the other, so that a store that does not answer holds one thread.
void Holder::on_list(LinkId link, const ListParts& l) {
  if (listings_ >= kMostListings) return;  // whoever asks gives up as well
  listings_++;
  auto all = std::make_shared<std::vector<PartEntry>>();
  threads_.run(
      {SessionId{}, StoreThreads::kListings},
      [store = &store_, l, all] {
        const SessionId from = session_id_of(l.session_id);
        *all = store->list(l.one_session != 0 ? &from : nullptr);
        if (l.one_session != 0) return;
        std::erase_if(*all, [&](const PartEntry& e) { return session_id_of(e.session_id) < from; });
      },
      [this, link, l, all] {
        listings_--;
        send_list<PartList>(hub_, link, kPartList, l.request, *all, l.skip, kMostEntries);
      });
}

// In a thread of the store.
Result<void> Holder::fill_block(const FetchRows& f, std::vector<uint8_t>* ret,
                                uint64_t* ret_damaged_row) {
  auto part = cache_.load(store_, session_id_of(f.session_id), f.holder, f.triple, f.layout);
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
  return read_current_rows(**part, f.off, f.count, ret->data(), ret_damaged_row);
}

void Holder::on_fetch(LinkId link, const FetchRows& f) {
  auto work = std::make_shared<Fetch>();
  work->link = link;
  work->asked = f;
  work->answer.request = f.request;
  threads_.run(
      {session_id_of(f.session_id), f.holder},
      [this, work] {
        work->error = fill_block(work->asked, &work->block, &work->answer.damaged_row).error();
      },
      [this, work] { answer(work); });
}

void Holder::answer(const std::shared_ptr<Fetch>& fetch) {
  const auto refuse = [&](const Error& e) {
    fetch->answer.code = static_cast<uint32_t>(e.code);
    fetch->answer.sys_errno = e.sys_errno;
    (void)send_struct(hub_, fetch->link, kFetched, fetch->answer);
  };
  if (fetch->error.code != Errc::kOk) return refuse(fetch->error);
  auto region = hub_.import_region(fetch->link, fetch->asked.region);
  if (!region) return refuse(region.error());
  const RemoteRegionId remote = *region;
  auto seal = hub_.put_block(fetch->link, fetch->block, remote, fetch->asked.window_off,
                             [this, remote, fetch](const Result<void>& done) {
                               hub_.drop_region(remote);
                               if (!done) return;
                               (void)send_struct(hub_, fetch->link, kFetched, fetch->answer);
                             });
  if (seal) {
    fetch->answer.seal = *seal;
    return;
  }
  hub_.drop_region(remote);
  if (seal.error().code != Errc::kBusy) return refuse(seal.error());
  waiting_.push_back(fetch);  // until other blocks are through
}

void Holder::on_remove(LinkId link, const RemoveSession& r) {
  auto answer = std::make_shared<Removed>();
  answer->request = r.request;
  threads_.run(
      {session_id_of(r.session_id), StoreThreads::kWhole},
      [store = &store_, r, answer] {
        const auto done = store->remove(session_id_of(r.session_id), r.uid);
        if (done) {
          answer->files = *done;
        } else {
          answer->code = static_cast<uint32_t>(done.error().code);
        }
      },
      [this, link, answer] { (void)send_struct(hub_, link, kRemoved, *answer); });
}

}  // namespace cr::node
