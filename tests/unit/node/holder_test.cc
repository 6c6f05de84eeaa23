// SPDX-License-Identifier: MIT
// holder_test.cc - a holder and a source, with a link over 127.0.0.1 between them: parts that are
// taken in, given up in the middle, fetched and removed; and sources that break the rules.
// Invariant under test: a transfer that does not end by PartCommitted leaves no part; what is lent
// never exceeds the bound, and is all given back. Every wait is bounded.
#include "node/holder.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <mutex>
#include <thread>

#include "tests/unit/node/given_parts.h"

namespace {

using namespace cr::node;
using namespace cr::format;
using cr::Errc;
using cr::Error;
using cr::kPageSize;
using cr_test::Chunk;
using cr_test::commit_of;
using cr_test::layout;
using cr_test::offer;
using cr_test::session;
using Bytes = std::vector<uint8_t>;

uint64_t clock_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

struct Peer final : LinkHandler {
  LinkId link = LinkId::kNone;  // the newest
  bool down = false;
  std::deque<std::pair<uint16_t, Bytes>> got;
  std::function<void(LinkId, uint16_t, std::span<const uint8_t>)> when_message;
  std::function<void(LinkId)> when_down;
  std::unique_ptr<LinkHub> hub;

  explicit Peer(const char* node) {
    LinkOptions o;
    o.cluster = "test";
    o.node = node;
    o.transport.tls = "tcp";
    auto key = SessionKey::from_bytes(Bytes(32, 1));
    cr_assert(key.has_value());
    auto made = LinkHub::create(o, std::move(*key), this, clock_ns());
    cr_assert(made.has_value(), "%s", made.error().what);
    hub = std::move(*made);
  }
  void on_up(LinkId id, const std::string&) override { link = id; }
  void on_message(LinkId id, uint16_t type, std::span<const uint8_t> payload) override {
    if (when_message) return when_message(id, type, payload);
    got.emplace_back(type, Bytes(payload.begin(), payload.end()));
  }
  void on_down(LinkId id, const Error&, const std::string&) override {
    down = true;
    if (when_down) when_down(id);
  }
  void on_refused(WireReason, const std::string&, const std::string& text) override {
    cr_assert_fail("%s", text.c_str());
  }
};

// Parts have at least four rows, those of their description.

// A transfer as its source sees it.
struct Sent {
  uint64_t transfer = 0;
  RemoteRegionId region = RemoteRegionId::kNone;
  PartAccept accept{};
};

class Nodes {
 public:
  explicit Nodes(uint64_t most_bytes = 64 << 20) {
    threads_ = std::make_unique<StoreThreads>(2, [this](StoreThreads::Task t) {
      const std::lock_guard held(mutex_);
      tasks_.push_back(std::move(t));
    });
    holder = std::make_unique<Holder>(*target.hub, *store, *threads_, most_bytes,
                                      [this](const std::string& text) { log += text + "\n"; });
    target.when_message = [this](LinkId id, uint16_t type, std::span<const uint8_t> payload) {
      cr_expect(holder->on_message(id, type, payload), "a message of type %u", type);
    };
    target.when_down = [this](LinkId id) { holder->on_down(id); };
    const auto port = target.hub->listen("127.0.0.1", 0);
    cr_assert(port.has_value(), "%s", port.error().what);
    cr_assert(source.hub->connect("b", "127.0.0.1", *port).has_value());
    until([&] { return source.link != LinkId::kNone && target.link != LinkId::kNone; }, "links");
  }
  ~Nodes() { threads_.reset(); }  // its jobs know the others

  void turn() {
    const uint64_t now = clock_ns();
    while (source.hub->progress(now) + target.hub->progress(now) != 0) {
    }
    std::deque<StoreThreads::Task> tasks;
    {
      const std::lock_guard held(mutex_);
      tasks.swap(tasks_);
    }
    for (const auto& t : tasks) t();
    (void)holder->tick(now);
    source.hub->tick(now);
    target.hub->tick(now);
  }
  void until(const std::function<bool()>& true_now, const char* what) {
    const uint64_t begin = clock_ns();
    while (!true_now()) {
      cr_assert_lt(clock_ns() - begin, 60'000'000'000u, "%s: not within 60 s\n%s", what,
                   log.c_str());
      turn();
      usleep(100);
    }
  }
  template <typename T>
  void send(uint16_t type, const T& message) {
    cr_assert(send_struct(*source.hub, source.link, type, message).has_value());
  }
  void send_bytes(uint16_t type, const Bytes& payload) {
    cr_assert(source.hub->send(source.link, type, payload).has_value());
  }
  // The next message, which must be of that type.
  Bytes next(uint16_t type) {
    until([&] { return !source.got.empty(); }, "an answer");
    const auto [is, payload] = source.got.front();
    source.got.pop_front();
    PartFailed f{};
    if (is == kPartFailed && type != kPartFailed && read_struct(payload, &f)) {
      cr_assert_fail("a transfer failed: %s", f.text);
    }
    cr_assert_eq(is, type, "type %u instead of %u", is, type);
    return payload;
  }
  template <typename T>
  T next(uint16_t type) {
    const Bytes payload = next(type);
    T message{};
    cr_assert(read_struct(payload, &message));
    return message;
  }
  Errc failure(uint64_t transfer) {
    const auto f = next<PartFailed>(kPartFailed);
    cr_assert_eq(f.transfer, transfer);
    cr_assert_neq(f.text[0], 0, "no cause is given");
    return static_cast<Errc>(f.code);
  }

  Sent begin(PartOffer o, uint64_t transfer) {
    o.transfer = transfer;
    send(kPartOffer, o);
    Sent s;
    s.transfer = transfer;
    s.accept = next<PartAccept>(kPartAccept);
    cr_assert_eq(s.accept.transfer, transfer);
    auto region = source.hub->import_region(source.link, s.accept.region);
    cr_assert(region.has_value());
    s.region = *region;
    return s;
  }
  // Puts it into the window and tells of it; the answer is not waited for.
  void put(const Sent& s, PartChunk chunk, const Bytes& data) {
    chunk.transfer = s.transfer;
    bool done = false;
    const uint64_t digest = chunk_digest(chunk, data);
    const auto seal = source.hub->put_block(
        source.link, data, s.region, chunk.window * kChunkBytes,
        [&](const cr::Result<void>& r) { done = r.has_value(); }, &digest);
    cr_assert(seal.has_value(), "%s", seal.error().what);
    chunk.seal = *seal;
    until([&] { return done; }, "the block's arrival");
    send(kPartChunk, chunk);
  }
  void put_rows(const Sent& s, const std::vector<uint64_t>& rows, uint32_t window = 0) {
    Chunk c;
    for (size_t i = 0; i < rows.size(); i++) c.add(i, rows[i]);
    PartChunk chunk{};
    chunk.window = window;
    chunk.kind = kChunkOfRows;
    chunk.rows = c.rows;
    put(s, chunk, c.bytes);
  }
  void expect_window(const Sent& s, uint32_t window = 0) {
    const auto done = next<PartChunkDone>(kPartChunkDone);
    cr_assert(done.transfer == s.transfer && done.window == window);
  }
  // Everything but what PartCommit tells.
  PartCommit describe(const Sent& s, uint64_t sequence, uint64_t rows) {
    const Bytes d = cr_test::SyntheticPart().description();
    PartChunk chunk{};
    chunk.kind = kChunkOfDescription;
    put(s, chunk, d);
    expect_window(s);
    PartCommit c = commit_of(sequence, rows, {});
    c.transfer = s.transfer;
    c.description_bytes = d.size();
    c.sent_rows = rows;
    return c;
  }
  // A whole part, of so many rows.
  void give(const PartOffer& o, const std::vector<uint64_t>& rows, uint64_t transfer) {
    const Sent s = begin(o, transfer);
    put_rows(s, rows);
    expect_window(s);
    send(kPartCommit, describe(s, o.triple.sequence, rows.size()));
    const auto done = next<PartCommitted>(kPartCommitted);
    cr_assert(done.transfer == transfer && done.triple == o.triple);
  }
  std::vector<PartEntry> listed() {
    ListParts l{};
    l.request = 5;
    send(kListParts, l);
    const Bytes payload = next(kPartList);
    PartList head{};
    cr_assert_geq(payload.size(), sizeof(head));
    memcpy(&head, payload.data(), sizeof(head));
    cr_assert(head.request == 5 && head.more == 0);
    cr_assert_eq(payload.size(), sizeof(head) + head.entries * sizeof(PartEntry));
    std::vector<PartEntry> all(head.entries);
    if (!all.empty()) memcpy(all.data(), &payload[sizeof(head)], payload.size() - sizeof(head));
    // The other buffer is filled with the same part by and by.
    const auto same = [](const PartEntry& a, const PartEntry& b) {
      return memcmp(a.session_id, b.session_id, sizeof(a.session_id)) == 0 &&
             a.triple == b.triple && a.holder == b.holder;
    };
    all.erase(std::unique(all.begin(), all.end(), same), all.end());
    return all;
  }
  void expect_nothing_lent() {
    until([&] { return holder->transfers() == 0; }, "the end of all transfers");
    cr_assert_eq(holder->lent_bytes(), 0u);
  }

  cr_test::Store store;
  Peer source{"a"}, target{"b"};
  std::unique_ptr<Holder> holder;
  std::string log;

 private:
  std::mutex mutex_;
  std::deque<StoreThreads::Task> tasks_;
  std::unique_ptr<StoreThreads> threads_;
};

FetchRows rows_of(const PartOffer& o, uint64_t first, uint64_t count, const Region& to) {
  FetchRows f{};
  f.request = 77;
  memcpy(f.session_id, o.session_id, sizeof(f.session_id));
  f.triple = o.triple;
  f.holder = o.holder;
  f.kind = kChunkOfRows;
  f.off = first;
  f.count = count;
  f.layout = layout();
  f.region = to.wire;
  return f;
}

}  // namespace

Test(holder, a_part_is_taken_in_and_fetched, .timeout = 120) {
  Nodes n;
  const PartOffer o = offer(1, 4);
  n.give(o, {7, 0, 9, 3}, 31);
  n.expect_nothing_lent();
  const auto listed = n.listed();
  cr_assert_eq(listed.size(), 1u);
  cr_assert(listed[0].triple == o.triple);
  cr_assert_eq(listed[0].rows, 4u);
  Bytes memory(4 * kPageSize, 0xee);
  auto region = n.source.hub->register_region(memory.data(), memory.size());
  cr_assert(region.has_value());
  FetchRows f = rows_of(o, 1, 2, *region);
  f.window_off = kPageSize;
  n.send(kFetchRows, f);
  const auto got = n.next<Fetched>(kFetched);
  cr_assert(got.request == 77 && got.code == 0, "%u", got.code);
  cr_assert_eq(got.seal.bytes, 2 * kPageSize);
  cr_assert(n.source.hub->open_block(n.source.link, got.seal, &memory[kPageSize], 2 * kPageSize)
                .has_value());
  cr_assert(memory[kPageSize - 1] == 0xee && memory[kPageSize] == 0 &&
            memory[2 * kPageSize + 99] == 9 && memory[3 * kPageSize] == 0xee);
  n.send(kFetchRows, rows_of(o, 1, 4, *region));
  cr_assert_eq(n.next<Fetched>(kFetched).code, static_cast<uint32_t>(Errc::kInvalid));
  PartOffer other = o;
  other.triple.sequence++;
  n.send(kFetchRows, rows_of(other, 0, 1, *region));
  cr_assert_neq(n.next<Fetched>(kFetched).code, 0u);
}

Test(holder, a_transfer_without_its_end_leaves_nothing, .timeout = 120) {
  Nodes n;
  const Sent s = n.begin(offer(1, 4), 31);
  cr_assert_eq(s.accept.has_base, 0u);
  n.put_rows(s, {7, 8});
  n.expect_window(s);
  cr_assert_gt(n.holder->lent_bytes(), 0u);
  PartFailed given_up{};
  given_up.transfer = 31;
  given_up.code = static_cast<uint32_t>(Errc::kSystem);
  n.send(kPartFailed, given_up);
  n.expect_nothing_lent();
  cr_assert_eq(n.listed().size(), 0u);
}

Test(holder, a_link_that_ends_leaves_nothing, .timeout = 120) {
  Nodes n;
  const Sent s = n.begin(offer(1, 4), 31);
  n.put_rows(s, {7, 8});
  n.source.hub->close(n.source.link);
  n.until([&] { return n.target.down; }, "the end of the link");
  n.expect_nothing_lent();
  cr_assert_eq(n.store->list(nullptr).size(), 0u);
}

Test(holder, a_part_that_was_there_stays_until_the_new_one_is_whole, .timeout = 120) {
  Nodes n;
  n.give(offer(1, 4), {7, 8, 1, 1}, 31);
  PartOffer newer = offer(1, 5);
  newer.base = offer(1, 4).triple;
  const Sent s = n.begin(newer, 32);
  cr_assert_eq(s.accept.has_base, 1u);
  n.put_rows(s, {9});
  n.expect_window(s);
  PartCommit c = n.describe(s, 5, 4);
  c.sent_rows = 2;  // one was lost
  n.send(kPartCommit, c);
  cr_assert_eq(n.failure(32), Errc::kDamaged);
  n.expect_nothing_lent();
  const auto listed = n.listed();
  cr_assert(listed.size() == 1 && listed[0].triple == offer(1, 4).triple);
}

Test(holder, what_is_lent_has_a_bound, .timeout = 120) {
  Nodes n(2 * kChunkBytes);
  const Sent first = n.begin(offer(1, 4), 31);
  cr_assert_eq(first.accept.windows, 2u);
  cr_assert_eq(n.holder->lent_bytes(), 2 * kChunkBytes);
  PartOffer second = offer(2, 4);
  second.transfer = 32;
  n.send(kPartOffer, second);
  cr_assert_eq(n.failure(32), Errc::kBusy);
  cr_assert_eq(n.holder->lent_bytes(), 2 * kChunkBytes);
  // The same part anew: what was sent of it before is given up, and its memory with it.
  const Sent again = n.begin(offer(1, 5), 33);
  cr_assert_eq(again.accept.windows, 2u);
  cr_assert_eq(n.holder->transfers(), 1u);
  n.put_rows(again, {1, 2, 3, 4}, 1);
  n.expect_window(again, 1);
  n.send(kPartCommit, n.describe(again, 5, 4));
  (void)n.next<PartCommitted>(kPartCommitted);
  n.expect_nothing_lent();
}

Test(holder, who_breaks_the_rules_is_told, .timeout = 120) {
  Nodes n;
  // Before it was accepted; and in a window that there is not.
  PartOffer o = offer(1, 4);
  o.transfer = 31;
  n.send(kPartOffer, o);
  PartCommit early = commit_of(4, 1, {});
  early.transfer = 31;
  n.send(kPartCommit, early);
  n.until([&] { return !n.source.got.empty(); }, "an answer");
  if (n.source.got.front().first == kPartAccept) n.source.got.pop_front();
  cr_assert_eq(n.failure(31), Errc::kDamaged);
  const Sent s = n.begin(offer(2, 4), 32);
  PartChunk chunk{};
  chunk.transfer = s.transfer;
  chunk.kind = kChunkOfRows;
  chunk.window = s.accept.windows;
  chunk.rows = 1;
  chunk.seal.bytes = kChunkPagesOff;
  n.send(kPartChunk, chunk);
  cr_assert_eq(n.failure(32), Errc::kDamaged);
  // Another block than the one that was sealed.
  const Sent t = n.begin(offer(3, 4), 33);
  Chunk c;
  c.add(0, 5);
  chunk.window = 0;
  chunk.transfer = t.transfer;
  chunk.rows = c.rows;
  chunk.seal.bytes = static_cast<uint32_t>(c.bytes.size());
  n.send(kPartChunk, chunk);
  cr_assert_neq(n.failure(33), Errc::kOk);
  // Not a whole message.
  Bytes half(sizeof(PartOffer) / 2, 0);
  const uint64_t number = 34;
  memcpy(half.data(), &number, sizeof(number));
  n.send_bytes(kPartOffer, half);
  cr_assert_neq(n.failure(34), Errc::kOk);
  n.expect_nothing_lent();
  cr_assert_eq(n.listed().size(), 0u);
}

Test(holder, a_damaged_row_is_named, .timeout = 120) {
  Nodes n;
  const PartOffer o = offer(1, 4);
  n.give(o, {7, 8, 9, 3}, 31);
  bool flipped = false;
  for (const auto& e : std::filesystem::recursive_directory_iterator(n.store.dir())) {
    if (!e.is_regular_file()) continue;
    const int fd = open(e.path().c_str(), O_RDWR | O_CLOEXEC);
    cr_assert_geq(fd, 0);
    Bytes all(static_cast<size_t>(e.file_size()));
    cr_assert_eq(pread(fd, all.data(), all.size(), 0), static_cast<ssize_t>(all.size()));
    const Bytes page(kPageSize, 8);
    const auto at = std::search(all.begin(), all.end(), page.begin(), page.end());
    if (at != all.end()) {
      const uint8_t wrong = 1;
      cr_assert_eq(pwrite(fd, &wrong, 1, at - all.begin() + 50), 1);
      flipped = true;
    }
    close(fd);
  }
  cr_assert(flipped);
  Bytes memory(4 * kPageSize);
  auto region = n.source.hub->register_region(memory.data(), memory.size());
  cr_assert(region.has_value());
  n.send(kFetchRows, rows_of(o, 0, 3, *region));
  const auto got = n.next<Fetched>(kFetched);
  cr_assert_eq(got.code, static_cast<uint32_t>(Errc::kDamaged));
  cr_assert_eq(got.damaged_row, 1u);
  n.send(kFetchRows, rows_of(o, 2, 1, *region));
  cr_assert_eq(n.next<Fetched>(kFetched).code, 0u);
}

Test(holder, a_session_is_removed_by_its_owner, .timeout = 120) {
  Nodes n;
  n.give(offer(1, 4), {7, 1, 1, 1}, 31);
  n.give(offer(2, 4), {7, 1, 1, 1}, 32);
  RemoveSession r{};
  r.request = 3;
  memcpy(r.session_id, session(1).data(), sizeof(r.session_id));
  r.uid = 999;
  n.send(kRemoveSession, r);
  auto done = n.next<Removed>(kRemoved);
  cr_assert(done.request == 3 && done.files == 0);
  cr_assert_eq(n.listed().size(), 2u);
  r.uid = 1000;
  n.send(kRemoveSession, r);
  done = n.next<Removed>(kRemoved);
  cr_assert(done.code == 0 && done.files > 0);
  const auto listed = n.listed();
  cr_assert(listed.size() == 1 && listed[0].session_id[0] == 2);
}
