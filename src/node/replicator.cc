// SPDX-License-Identifier: MIT
// replicator.cc - see replicator.h. Invariant: as there. Context: N.
#include "node/replicator.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "node/disk_words.h"
#include "node/holder.h"
#include "os/fault.h"

namespace cr::node {
namespace {

using namespace format;

constexpr unsigned kMostPasses = 12;
constexpr uint64_t kSecond = 1'000'000'000, kLeastRetryNs = kSecond / 4,
                   kMostRetryNs = 30 * kSecond;
constexpr uint64_t kSilentNs = 60 * kSecond;   // a holder says nothing, not even that it is at work
constexpr uint64_t kStillNs = 60 * kSecond;    // it is at work on one chunk
constexpr uint64_t kSlowNs = 600 * kSecond;    // ... or makes all of a part durable
constexpr uint64_t kSaySlowNs = 10 * kSecond;  // ... and it can be seen
constexpr char kSlowText[] =
    "its store is slow: what it was asked to write is not written after 10 seconds";
constexpr uint64_t kMostExcusedNs = 960 * kSecond;
constexpr uint64_t kAskNs = 10 * kSecond;
constexpr uint64_t kLookAgainNs = kSecond / 50, kMostBusyNs = 5 * kSecond;
constexpr unsigned kOwnWindows = 4;
constexpr unsigned kRewrites = 2;  // one for each buffer

uint64_t g_transfer = 0;  // numbers are unique in this process

}  // namespace

Replicator::Replicator(Node node, ProtectedSession session, std::unique_ptr<store::Erasure> erasure)
    : node_(std::move(node)),
      session_(std::move(session)),
      keep_(node_.own),
      source_(std::move(erasure)) {}

Result<std::unique_ptr<Replicator>> Replicator::make(Node node, ProtectedSession session,
                                                     std::vector<std::string> holders) {
  auto erasure = store::Erasure::make(session.protection);
  if (!erasure) return erasure.error();
  auto r = std::unique_ptr<Replicator>(
      new Replicator(std::move(node), std::move(session), std::move(*erasure)));
  if (holders.size() != r->source_.stripe().parts()) {
    return Error{Errc::kInvalid, 0, "as many holders are needed as there are parts"};
  }
  r->set_holders(std::move(holders));
  return r;
}

Replicator::~Replicator() {
  *alive_ = false;
  for (Target& t : targets_) cancel(t);
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

void Replicator::rewrite(uint64_t now_ns) {
  rewrites_ = kRewrites;
  retry_ns_ = 0;
  wake(now_ns);
}

void Replicator::on_up(const std::string& node) {
  for (Target& t : targets_) {
    if (t.node != node || t.takes_part) continue;
    t.excused_until_ns = 0;
    keep_.on_up();
    t.whole = {};  // it may have lost its store; if not, it has little to do
    if (is_none(safety_.triple)) continue;
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
  // Else it ends with the link.
  if (t.region != RemoteRegionId::kNone && *t.puts == 0) node_.hub->drop_region(t.region);
  t.region = RemoteRegionId::kNone;
  t.puts.reset();
  t.window_busy.clear();
  t.takes_part = t.accepted = t.committed = t.full = false;
  t.link = LinkId::kNone;
  t.receiver.reset();
  t.jobs = 0;
  t.described = t.handed_rows = 0;
  t.waiting.reset();
}

void Replicator::drop(Target& t, const std::string& why) {
  if (t.trouble != why) {
    node_.log("session " + session_.name + ": part " + std::to_string(t.holder) + " on " + t.node +
              ": " + why + "; it is tried again");
  }
  t.trouble = why;
  cancel(t);
}

// The holder need not wait for the rest.
void Replicator::cancel(Target& t) {
  if (t.takes_part && !t.own && node_.hub != nullptr) {
    PartFailed f{};
    f.transfer = t.transfer;
    f.code = static_cast<uint32_t>(Errc::kAgentGone);
    (void)send_struct(*node_.hub, t.link, kPartFailed, f);
  }
  leave(t);
}

// The checkpoint that is now the newest.
Result<void> Replicator::look() {
  CR_TRYV(source_.open(session_.dir));
  const SessionImage& image = source_.image();
  if (session_id_of(image.super().session_id) != session_.id) {
    return Error{Errc::kNotFound, 0, "the image directory is another session's now"};
  }
  if (session_.uid != 0 && session_.origin.empty() && image.uid() != session_.uid) {
    return Error{Errc::kPermission, EPERM, "the images belong to another user"};
  }
  row_ = 0;
  busy_since_ns_ = look_again_ns_ = 0;
  return {};
}

// The holders, and who else may have parts from before.
std::vector<std::string> Replicator::whom_to_ask() const {
  std::vector<std::string> nodes = holders_;
  for (const std::string& node : session_.held_by) {
    if (std::ranges::count(nodes, node) == 0) nodes.push_back(node);
  }
  return nodes;
}

bool Replicator::needs(const std::string& node) const {
  return std::ranges::count(holders_, node) != 0 ||
         (!keep_.is_found() && std::ranges::count(session_.held_by, node) != 0);
}

// A process that takes up a session does not know what its holders have: perhaps not all of them
// the newest checkpoint, and then the one before must not be overwritten.
void Replicator::ask(uint64_t now_ns) {
  phase_ = Phase::kAsk;
  deadline_ns_ = now_ns + kAskNs;
  keep_.begin(now_ns, ++g_transfer);
  ListParts l{};
  l.request = keep_.request();
  l.one_session = 1;
  memcpy(l.session_id, session_.id.data(), session_.id.size());
  for (const std::string& node : whom_to_ask()) {
    if (node == node_.own) {
      keep_.ask(LinkId::kNone);
      ask_own();
      continue;
    }
    const LinkId link = node_.hub == nullptr ? LinkId::kNone : node_.link_to(node);
    if (link == LinkId::kNone || !send_struct(*node_.hub, link, kListParts, l)) {
      keep_.miss();
      continue;
    }
    keep_.ask(link);
  }
}

void Replicator::ask_own() {
  auto entries = std::make_shared<std::vector<PartEntry>>();
  node_.threads->run(
      {session_.id, StoreThreads::kWhole},
      [store = node_.store, id = session_.id, entries] { *entries = store->list(&id); },
      [this, alive = alive_, request = keep_.request(), entries] {
        if (*alive && keep_.request() == request) {
          keep_.take(LinkId::kNone, node_.own, *entries);
        }
      });
}

void Replicator::take_list(LinkId link, std::span<const uint8_t> payload) {
  const auto list = read_part_list(payload.data(), payload.size());
  std::vector<PartEntry> entries;
  for (uint32_t i = 0; list && i < list->head.entries; i++) entries.push_back(list->entry(i));
  for (const std::string& node : whom_to_ask()) {
    if (node != node_.own && node_.link_to(node) == link) keep_.take(link, node, entries);
  }
}

// The session was writing its images just then: no reason to give up, unless it never ends.
bool Replicator::is_busy(uint64_t now_ns, const Error& error) {
  if (error.code != Errc::kBusy) return false;
  if (busy_since_ns_ == 0) busy_since_ns_ = now_ns;
  return now_ns - busy_since_ns_ < kMostBusyNs;
}

// The image directory may have fallen back behind what its holders keep, by a damaged buffer or a
// power failure: sending that would be the end of what they have.
std::string Replicator::why_not_to_send() const {
  const Triple& kept = keep_.keep().triple;
  const Triple now = source_.image().triple();
  if (!session_.origin.empty() || !keep_.is_safe() || !is_newer(kept, now)) return "";
  return "its holders have checkpoint " + std::to_string(kept.sequence) + ", newer than the " +
         std::to_string(now.sequence) + " here: `crrestore " + session_.name +
         "` brings that one back; the session's next checkpoint is sent";
}

void Replicator::begin(uint64_t now_ns) {
  wanted_ = false;
  begin_woken_ns_ = woken_ns_;
  const Triple before = safety_.triple;
  if (auto seen = look(); !seen) {
    if (!is_busy(now_ns, seen.error())) return give_up(now_ns, words_of(seen.error()));
    wanted_ = true;
    retry_ns_ = now_ns + kLookAgainNs;
    return;
  }
  const Triple now = source_.image().triple();
  if (!(now == before)) {
    safety_ = Safety{};
    safety_.triple = now;
    safety_.committed_ns = begin_woken_ns_;
  }
  if (const std::string why = why_not_to_send(); !why.empty()) return give_up(now_ns, why);
  rewriting_ = rewrites_ > 0;
  if (rewriting_) {
    base_ = {};
    base_checks_.clear();
    for (Target& t : targets_) t.whole = {};
  }
  source_.begin(base_checks_);
  pass_ = 0;
  for (Target& t : targets_) {
    if (t.whole == now || now_ns < t.excused_until_ns) continue;
    t.told_ns = t.moved_ns = now_ns;
    offer(t);
  }
  if (participants() == 0) {
    settle(now_ns);
    return;
  }
  os::fault_point(os::FaultPoint::kOffersSent);
  phase_ = Phase::kOffer;
}

void Replicator::offer(Target& t) {
  PartOffer o{};
  o.transfer = t.transfer = ++g_transfer;
  memcpy(o.session_id, session_.id.data(), session_.id.size());
  o.triple = source_.image().triple();
  o.keep = keep_.keep().triple;
  o.keep_layout = keep_.keep().layout;
  o.base = base_.triple;
  o.base_layout = base_.layout;
  o.newest = is_newer(session_.newest, o.triple) ? session_.newest : o.triple;
  o.kind = static_cast<uint32_t>(session_.protection.kind);
  o.data_parts = session_.protection.data;
  o.parity_parts = session_.protection.parity;
  o.holder = t.holder;
  o.rows = source_.rows();
  o.uid = session_.uid;
  memcpy(o.name, session_.name.data(), std::min(session_.name.size(), sizeof(o.name) - 1));
  const std::string& origin = session_.origin.empty() ? node_.own : session_.origin;
  memcpy(o.origin, origin.data(), std::min(origin.size(), sizeof(o.origin) - 1));
  if (t.own) return offer_own(t, o);
  t.link = node_.hub != nullptr ? node_.link_to(t.node) : LinkId::kNone;
  if (t.link == LinkId::kNone) return;  // why is said of the link, once for all sessions
  if (auto sent = send_struct(*node_.hub, t.link, kPartOffer, o); !sent) {
    return drop(t, words_of(sent.error()));
  }
  t.takes_part = true;
}

void Replicator::offer_own(Target& t, const PartOffer& o) {
  t.takes_part = true;
  t.window_busy.assign(kOwnWindows, false);
  auto begun = std::make_shared<std::shared_ptr<PartReceiver>>();
  run_own(
      t,
      [store = node_.store, o, begun](PartReceiver*) {
        auto receiver = PartReceiver::begin(*store, o);
        if (!receiver) return receiver.error();
        *begun = std::move(*receiver);
        return Error{};
      },
      [begun](Target& now) {
        now.receiver = std::move(*begun);
        now.full = !now.receiver->has_base();
        now.accepted = true;
      });
}

// Does the job in a thread of the store; then, if the transfer still goes on, drops the part or
// does `done`.
void Replicator::run_own(Target& t, std::function<Error(PartReceiver*)> job,
                         std::function<void(Target&)> done) {
  auto error = std::make_shared<Error>();
  if (t.jobs++ == 0) t.moved_ns = node_.now_ns();
  node_.threads->run(
      {session_.id, t.holder},
      [error, job = std::move(job), receiver = t.receiver] { *error = job(receiver.get()); },
      [this, alive = alive_, error, transfer = t.transfer, holder = t.holder,
       done = std::move(done)] {
        if (!*alive || holder >= targets_.size()) return;
        Target& now = targets_[holder];
        if (!now.takes_part || now.transfer != transfer) return;
        now.jobs--;
        now.moved_ns = node_.now_ns();
        if (error->code == Errc::kOk) return done(now);
        drop(now, disk_words(node_.store->dir(), *error));
      });
}

// What was overwritten while it was read is read again, from the checkpoint that did it.
void Replicator::end_pass() {
  for (Stream& s : streams_) flush(s);
  if (!source_.is_overtaken()) {
    source_.mark_all_sent();
    os::fault_point(os::FaultPoint::kRowsSent);
    description_ = source_.describe(holders_);
    layout_ = layout_of(description_, holders_.size());
    phase_ = Phase::kDescribe;
    return;
  }
  const uint64_t now_ns = node_.now_ns();
  for (Stream& s : streams_) s.full = false;
  begin_woken_ns_ = woken_ns_;
  wanted_ = false;
  if (auto seen = look(); !seen) {
    if (!is_busy(now_ns, seen.error())) return give_up(now_ns, words_of(seen.error()));
    look_again_ns_ = now_ns + kLookAgainNs;
    return;
  }
  if (++pass_ >= kMostPasses) {
    return give_up(now_ns, "its checkpoints follow each other faster than they can be copied");
  }
  if (const Triple now = source_.image().triple(); !(now == safety_.triple)) {
    safety_ = Safety{};
    safety_.triple = now;
    safety_.committed_ns = begin_woken_ns_;
  }
}

// The others first: they write while this node does.
void Replicator::commit(uint64_t now_ns) {
  PartCommit c{};
  c.triple = source_.image().triple();
  c.realtime_ns = source_.image().super().realtime_ns;
  c.slots = source_.slots();
  c.rows = source_.rows();
  c.description_bytes = description_.size();
  c.image_bytes = source_.image().image_bytes();
  for (Target& t : targets_) {
    if (!t.takes_part || t.own) continue;
    c.transfer = t.transfer;
    c.sent_rows = t.handed_rows;
    t.told_ns = t.moved_ns = now_ns;
    if (auto sent = send_struct(*node_.hub, t.link, kPartCommit, c); !sent) {
      drop(t, words_of(sent.error()));
    }
  }
  os::fault_point(os::FaultPoint::kCommitSent);
  for (Target& t : targets_) {
    if (!t.takes_part || !t.own) continue;
    c.transfer = t.transfer;
    c.sent_rows = t.handed_rows;
    run_own(
        t, [c](PartReceiver* receiver) { return receiver->commit(c).error(); },
        [](Target& now) {
          now.committed = true;
          os::fault_point(os::FaultPoint::kOwnCommitted);
        });
  }
  phase_ = Phase::kCommit;
}

// Memory that is only needed while a checkpoint is taken to others.
void Replicator::release() {
  source_.close();
  streams_.clear();
  buffers_.clear();
}

// As Holder::prepare().
void Replicator::prepare_own(unsigned holder) {
  node_.threads->run(
      {session_.id, holder},
      [store = node_.store, id = session_.id, holder] { (void)store->prepare_other(id, holder); },
      [] {});
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
      t.stalls = 0;
    }
    if (t.committed && t.own) prepare_own(t.holder);
    leave(t);
  }
  release();
  gave_up_.clear();
  const Safety before = safety_;
  safety_.parts = safety_.elsewhere = 0;
  for (const Target& t : targets_) {
    if (!(t.whole == now)) continue;
    safety_.parts++;
    if (!t.own) safety_.elsewhere++;
  }
  const bool safe = safety_.elsewhere >= source_.stripe().data;
  if (safe && safety_.safe_ns == 0) safety_.safe_ns = now_ns;
  // A base is not written over, so one that is less well kept than what is to be kept is none.
  const bool whole = safety_.parts >= source_.stripe().data;
  const bool as_good = !keep_.is_safe() && (whole || is_none(keep_.keep().triple));
  if (committed && (safe || as_good)) {
    base_ = {now, layout_};
    base_checks_ = source_.sent();
    if (safe || whole) keep_.set(base_, safe);
  }
  if (committed) os::fault_point(os::FaultPoint::kTransferSettled);
  if (safety_.parts < targets_.size()) {
    failures_++;
    wanted_ = true;
    retry_ns_ = now_ns + std::min(kMostRetryNs, kLeastRetryNs << std::min(failures_, 8u));
  } else {
    failures_ = 0;
    retry_ns_ = 0;
  }
  const bool was_rewriting = std::exchange(rewriting_, false);
  if (was_rewriting) {
    rewrites_ = safety_.parts < targets_.size() ? 0 : rewrites_ - 1;
    wanted_ |= rewrites_ > 0;
  }
  const bool changed = safety_.parts != before.parts || safety_.safe_ns != before.safe_ns;
  const bool other_trouble = all_troubles() != told_trouble_;
  if (changed || other_trouble || safe || was_rewriting) {
    told_trouble_ = all_troubles();
    node_.on_safety(*this);
  }
}

void Replicator::rewritten(uint64_t* ret_done, uint64_t* ret_total) const {
  const uint64_t one = source_.rows() * kPageSize;
  const uint64_t before = rewrites_ < kRewrites ? (kRewrites - rewrites_) * one : 0;
  *ret_total = kRewrites * one;
  *ret_done = std::min(before + std::min(row_, source_.rows()) * kPageSize, *ret_total);
}

std::string Replicator::all_troubles() const {
  std::string all = gave_up_;
  for (const Target& t : targets_) all += "\n" + t.trouble;
  return all;
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
  release();
  rewriting_ = false;
  busy_since_ns_ = 0;
  phase_ = Phase::kIdle;
  failures_++;
  wanted_ = !ended_ || failures_ < 3;
  retry_ns_ = now_ns + std::min(kMostRetryNs, kLeastRetryNs << std::min(failures_, 8u));
  if (all_troubles() == told_trouble_) return;
  told_trouble_ = all_troubles();
  node_.on_safety(*this);
}

uint64_t Replicator::next_ns() const {
  if (phase_ == Phase::kAsk) return deadline_ns_;
  if (phase_ != Phase::kIdle) {
    return look_again_ns_ != 0 ? look_again_ns_ : node_.now_ns() + kSecond;
  }
  return wanted_ ? std::max(retry_ns_, keep_.is_found() ? 0 : keep_.again_ns()) : ~uint64_t{0};
}

// For so long one that is at work and finishes nothing is waited for. Nothing is sent before all
// have accepted: one that others wait for, or that stood still before, is to be quick there.
uint64_t Replicator::patience_ns(const Target& t) const {
  if (phase_ == Phase::kSend || phase_ == Phase::kDescribe) return kStillNs;
  if (phase_ == Phase::kCommit) return kSlowNs;
  if (t.stalls > 0) return kSaySlowNs;
  const bool others = std::ranges::any_of(targets_, [](const Target& o) { return o.accepted; });
  return others ? kStillNs : kSlowNs;
}

// Rows go to all holders in step, so one that does not move would hold up the others.
void Replicator::drop_stalled(uint64_t now_ns) {
  bool news = false;
  for (Target& t : targets_) {
    if (!t.takes_part) continue;
    if (t.own && t.jobs > 0) t.told_ns = now_ns;
    const bool is_asked = phase_ == Phase::kOffer    ? !t.accepted
                          : phase_ == Phase::kCommit ? !t.committed
                                                     : std::ranges::count(t.window_busy, true) != 0;
    if (!is_asked) continue;
    const bool silent = now_ns - t.told_ns > kSilentNs;
    if (silent || now_ns - t.moved_ns > patience_ns(t)) {
      const uint64_t pause = std::min(kMostExcusedNs, kStillNs << std::min(t.stalls++, 8u));
      t.excused_until_ns = now_ns + pause;
      drop(t, silent ? "no answer for a minute; look at the crstored there"
                     : "its store has finished no write for minutes; look at the disk and the "
                       "kernel's log there");
      news = true;
    } else if (now_ns - t.moved_ns > kSaySlowNs && t.trouble != kSlowText) {
      t.trouble = kSlowText;  // whatever it had before: it takes part now
      news = true;
    }
  }
  if (!news || all_troubles() == told_trouble_) return;
  told_trouble_ = all_troubles();
  node_.on_safety(*this);
}

bool Replicator::step(uint64_t now_ns) {
  if (phase_ == Phase::kIdle) {
    // A new checkpoint need not wait for the retry of an old one: the others may have it at once.
    const bool fresh = woken_ns_ != begin_woken_ns_;
    if (!wanted_ || (now_ns < retry_ns_ && !fresh)) return false;
    if (!keep_.is_found() && now_ns < keep_.again_ns()) return false;
    const bool wait = std::ranges::any_of(whom_to_ask(), [this](const std::string& node) {
      return needs(node) && node != node_.own && node_.link_to(node) == LinkId::kNone &&
             node_.may_come(node);
    });
    if (wait) {
      retry_ns_ = now_ns + kSecond / 50;
      return false;
    }
    if (keep_.is_found()) {
      begin(now_ns);
    } else {
      ask(now_ns);
    }
    return phase_ != Phase::kIdle;
  }
  if (phase_ == Phase::kAsk) {
    if (keep_.is_waiting() && now_ns < deadline_ns_) return false;
    phase_ = Phase::kIdle;
    keep_.finish(now_ns);
    return keep_.is_found();
  }
  if (participants() == 0) {
    settle(now_ns);
    return wanted_ && now_ns >= retry_ns_;
  }
  drop_stalled(now_ns);
  for (Target& t : targets_) {
    if (t.takes_part && t.waiting) put_waiting(t);
  }
  const auto all = [this](bool Target::*is) {
    return std::ranges::all_of(targets_, [is](const Target& t) { return !t.takes_part || t.*is; });
  };
  switch (phase_) {
    case Phase::kIdle:
    case Phase::kAsk:
      return false;
    case Phase::kOffer:
      if (!all(&Target::accepted)) return false;
      make_streams();
      phase_ = Phase::kSend;
      return true;
    case Phase::kSend:
      return send_rows();
    case Phase::kDescribe: {
      send_description();
      const bool handed = std::ranges::all_of(targets_, [this](const Target& t) {
        return !t.takes_part ||
               (t.described == description_.size() && std::ranges::count(t.window_busy, true) == 0);
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
  if (phase_ == Phase::kAsk && type == kPartList &&
      number_of_message(payload.data(), payload.size()) == keep_.request()) {
    take_list(link, payload);
    return true;
  }
  uint64_t transfer = 0;
  const bool to_source = type == kPartAccept || type == kPartChunkDone || type == kPartCommitted ||
                         type == kPartFailed;
  if (!to_source || payload.size() < sizeof(transfer)) return false;
  memcpy(&transfer, payload.data(), sizeof(transfer));
  const auto at = std::ranges::find_if(targets_, [&](const Target& t) {
    return t.takes_part && t.link == link && t.transfer == transfer;
  });
  if (at == targets_.end()) return false;
  Target& t = *at;
  const uint64_t now = node_.now_ns();
  t.told_ns = now;
  if (PartAccept a; type == kPartAccept && read_struct(payload, &a) && !t.accepted) {
    auto region = node_.hub->import_region(link, a.region);
    if (!region) {
      drop(t, "it offered windows that cannot be used");
      return true;
    }
    t.region = *region;
    t.puts = std::make_shared<unsigned>(0);
    t.window_busy.assign(a.windows, false);
    t.full = a.has_base == 0;
    t.accepted = true;
    t.moved_ns = now;
  } else if (PartChunkDone d; type == kPartChunkDone && read_struct(payload, &d)) {
    if (d.window < t.window_busy.size()) {
      t.window_busy[d.window] = false;
      t.moved_ns = now;
    }
  } else if (PartCommitted c; type == kPartCommitted && read_struct(payload, &c)) {
    t.committed = phase_ == Phase::kCommit;
  } else if (PartFailed f; type == kPartFailed && read_struct(payload, &f)) {
    const std::string text(f.text, strnlen(f.text, sizeof(f.text)));
    leave(t);
    drop(t, text);
  } else {
    drop(t, "it sent a message that breaks the rules");
  }
  return true;
}

void Replicator::on_down(LinkId link, const std::string& why) {
  keep_.forget(link);
  for (Target& t : targets_) {
    if (t.takes_part && t.link == link) drop(t, why);
  }
}

}  // namespace cr::node
