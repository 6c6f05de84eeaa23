// SPDX-License-Identifier: MIT
// flush_thread.cc - see flush_thread.h. Invariant: as there. Context: N.
#include "node/flush_thread.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "node/flush_file.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using rawsys::now_ns;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMostSleepNs = 60 * kSecond, kProgressNs = kSecond / 5;

bool differs(const FlushStatus& a, const FlushStatus& b) {
  return !(a.newest == b.newest) || a.trouble != b.trouble || a.answered != b.answered;
}

}  // namespace

struct FlushThread::Shared {
  struct Entry {
    FlushedSession session;
    std::optional<FlushChoice> own;
    std::unique_ptr<Flusher> flusher;  // the thread's alone; nullptr: not made yet
    bool woken = false, ended = false;
    uint64_t asked = 0, passed_on = 0;  // the last request
    uint64_t told_ns = 0;
    FlushStatus status;

    bool is_new() const { return woken || passed_on < asked; }
  };

  FlushOptions options;
  Events events;
  std::shared_ptr<store::RateLimit> rate;
  mutable std::mutex mutex;  // of what follows
  std::condition_variable changed;
  std::map<SessionId, Entry> entries;
  bool stop = false, has_stopped = false, has_resumed = false;
  uint64_t busy_ns = 0;
  uint64_t requests = 0;

  void run();
  void resume(std::unique_lock<std::mutex>& held);
  bool step(std::unique_lock<std::mutex>& held, const SessionId& id, uint64_t* next);
  void prepare(Entry& e);
  Flusher* flusher_of(Entry& e);
};

FlushThread::FlushThread(FlushOptions options, uint64_t bytes_per_second, Events events,
                         uint64_t end_ns)
    : shared_(std::make_shared<Shared>()), end_ns_(end_ns) {
  shared_->options = std::move(options);
  shared_->events = std::move(events);
  shared_->rate = std::make_shared<store::RateLimit>(bytes_per_second);
  if (auto thread = os::Thread::start([shared = shared_] { shared->run(); })) {
    thread_ = std::move(*thread);
  }
}

void FlushThread::leave() {
  const std::lock_guard held(shared_->mutex);
  if (leave_ns_ == 0) leave_ns_ = now_ns();
  shared_->stop = true;
  shared_->changed.notify_all();
}

FlushThread::~FlushThread() {
  leave();
  std::unique_lock held(shared_->mutex);
  const uint64_t gone = std::min(now_ns() - leave_ns_, end_ns_);
  const bool ended =
      !thread_ || shared_->changed.wait_for(held, std::chrono::nanoseconds(end_ns_ - gone),
                                            [&] { return shared_->has_stopped; });
  held.unlock();
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

void FlushThread::wake(const FlushedSession& session, const std::optional<FlushChoice>& own) {
  const std::lock_guard held(shared_->mutex);
  Shared::Entry& e = shared_->entries[session.id];
  e.session = session;
  if (own) e.own = own;
  e.woken = true;
  e.ended = false;
  shared_->changed.notify_all();
}

void FlushThread::end(const SessionId& id) {
  const std::lock_guard held(shared_->mutex);
  const auto at = shared_->entries.find(id);
  if (at == shared_->entries.end()) return;
  at->second.ended = true;
  shared_->changed.notify_all();
}

uint64_t FlushThread::request(const FlushedSession& session) {
  const std::lock_guard held(shared_->mutex);
  const auto [at, added] = shared_->entries.try_emplace(session.id);
  Shared::Entry& e = at->second;
  if (added) {
    e.session = session;
    e.ended = true;
  }
  shared_->changed.notify_all();
  return e.asked = ++shared_->requests;
}

std::vector<std::pair<FlushedSession, FlushStatus>> FlushThread::all() const {
  const std::lock_guard held(shared_->mutex);
  std::vector<std::pair<FlushedSession, FlushStatus>> all;
  for (const auto& [id, e] : shared_->entries) all.emplace_back(e.session, e.status);
  return all;
}

bool FlushThread::is_idle() const {
  const std::lock_guard held(shared_->mutex);
  return shared_->has_resumed && shared_->entries.empty();
}

uint64_t FlushThread::busy_since_ns() const {
  const std::lock_guard held(shared_->mutex);
  return shared_->busy_ns;
}

// What an earlier crstored has begun is flushed to the end.
void FlushThread::Shared::resume(std::unique_lock<std::mutex>& held) {
  busy_ns = now_ns();
  held.unlock();
  std::vector<UnfinishedFlush> all = unfinished_flushes(options.dir, options.node);
  const auto is_over = [&](const UnfinishedFlush& u) { return was_overtaken(u.session, options); };
  const auto over = std::ranges::stable_partition(all, std::not_fn(is_over));
  for (const UnfinishedFlush& u : over) (void)store::remove_file(u.path);
  held.lock();
  for (const UnfinishedFlush& u : over) {
    events.log("session " + u.session.name + ": what was begun to be flushed is left: " +
               u.session.dir + " is older than what another node has flushed since");
  }
  all.erase(over.begin(), over.end());
  busy_ns = 0;
  for (const UnfinishedFlush& u : all) {
    const auto [at, added] = entries.try_emplace(u.session.id);
    at->second.asked = ++requests;
    if (!added) continue;  // it has come back already
    at->second.session = u.session;
    at->second.ended = true;
  }
  has_resumed = true;
}

Flusher* FlushThread::Shared::flusher_of(Entry& e) {
  if (!e.flusher) {
    const auto log = [this](const std::string& text) {
      const std::lock_guard held(mutex);
      if (!stop) events.log(text);
    };
    std::string text;
    auto flusher = Flusher::make(e.session, options, rate, log, &text);
    if (!flusher) {
      events.log("session " + e.session.name + " is not flushed: " + text);
      return nullptr;
    }
    e.flusher = std::move(*flusher);
  }
  return e.flusher.get();
}

// Passes on what was said to the entry since the step before.
void FlushThread::Shared::prepare(Entry& e) {
  if (!e.is_new()) return;
  e.flusher->move_to(e.session);
  if (e.own) e.flusher->choose_by(e.own->every, e.own->period_ns);
  if (std::exchange(e.woken, false)) e.flusher->wake();
  if (std::exchange(e.passed_on, e.asked) != e.asked) e.flusher->request(e.asked);
}

// One step of one session. true: there is more to be done at once.
bool FlushThread::Shared::step(std::unique_lock<std::mutex>& held, const SessionId& id,
                               uint64_t* next) {
  Entry& e = entries[id];
  Flusher* const f = flusher_of(e);
  if (f == nullptr) {
    entries.erase(id);
    return false;
  }
  prepare(e);
  const uint64_t now = now_ns();
  busy_ns = now;
  held.unlock();  // entries are only removed here
  const bool more = f->step(now);
  held.lock();
  busy_ns = 0;
  const FlushStatus& status = f->status();
  const bool waited_for = e.asked != status.answered && now - e.told_ns >= kProgressNs;
  const bool tell = differs(e.status, status) || waited_for;
  e.status = status;
  if (tell && !stop) {
    e.told_ns = now;
    events.changed(id, status);
  }
  if (f->is_idle() && e.ended && !e.is_new()) {
    entries.erase(id);
    return false;
  }
  *next = std::min(*next, f->next_ns());
  return more || e.is_new();
}

void FlushThread::Shared::run() {
  std::unique_lock held(mutex);
  resume(held);
  SessionId last{};  // so that each has its turn, where the rate allows one step only
  while (!stop) {
    uint64_t next = ~uint64_t{0};
    bool more = false;
    std::vector<SessionId> turn;
    for (const auto& [id, entry] : entries) turn.push_back(id);
    std::ranges::rotate(turn, std::ranges::upper_bound(turn, last));
    for (const SessionId& id : turn) {
      const uint64_t before = rate->free_ns();
      more |= step(held, id, &next);
      if (rate->free_ns() != before) last = id;
      if (stop) break;
    }
    if (more || stop) continue;
    const uint64_t now = now_ns();
    const uint64_t wait = next > now ? std::min(next - now, kMostSleepNs) : 0;
    changed.wait_for(held, std::chrono::nanoseconds(wait), [this] {
      return stop || std::ranges::any_of(entries, [](const auto& e) {
               return e.second.is_new() ||
                      (e.second.ended && (!e.second.flusher || e.second.flusher->is_idle()));
             });
    });
  }
  auto rest = std::move(entries);  // to close files may take as long as to write them
  entries.clear();
  held.unlock();
  rest.clear();
  held.lock();
  has_stopped = true;
  changed.notify_all();
}

}  // namespace cr::node
