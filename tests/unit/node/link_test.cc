// SPDX-License-Identifier: MIT
// link_test.cc - authenticated links over 127.0.0.1: between two hubs, with a peer that breaks the
// rules, and with processes that are killed or stopped.
// Invariant under test: only who has the key gets a link; what arrives is what was sent, once and
// in order; a block that is not whole is never opened; and each link that ends is told once, with
// its reason. Every wait is bounded.
#include "node/link.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <map>

#include "format/checksum.h"
#include "format/wire_reader.h"
#include "tests/unit/nvheap/random.h"

namespace {

using namespace cr::node;
using namespace cr::format;
using cr::Errc;
using cr::Error;
using cr::Result;
using cr_test::Random;
using Bytes = std::vector<uint8_t>;
using Frames = std::vector<Bytes>;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMs = 1'000'000;
constexpr uint16_t kType = 40;

uint64_t clock_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * kSecond + static_cast<uint64_t>(t.tv_nsec);
}

SessionKey key(uint8_t seed = 1) {
  const Bytes bytes(32, seed);
  auto made = SessionKey::from_bytes(bytes);
  cr_assert(made.has_value());
  return std::move(*made);
}

LinkOptions options(const std::string& node) {
  LinkOptions o;
  o.cluster = "test";
  o.node = node;
  o.transport.tls = "tcp";
  return o;
}

struct Down {
  Errc code;
  std::string text;
};
struct Refusal {
  WireReason reason;
  std::string address, text;
};

// A hub and what it has told.
struct Node final : LinkHandler {
  uint64_t skipped_ns = 0;  // added to the clock
  std::map<LinkId, std::string> up;
  std::map<LinkId, std::vector<Bytes>> messages;
  std::map<LinkId, std::vector<Down>> downs;
  std::vector<Refusal> refusals;
  std::function<void(LinkId)> when_up;
  std::function<void(LinkId, uint16_t, std::span<const uint8_t>)> when_message;
  std::unique_ptr<LinkHub> hub;

  explicit Node(const LinkOptions& o, SessionKey k = key()) {
    auto made = LinkHub::create(o, std::move(k), this, clock());
    cr_assert(made.has_value(), "%s", made.error().what);
    hub = std::move(*made);
  }
  uint64_t clock() const { return clock_ns() + skipped_ns; }
  void on_up(LinkId id, const std::string& peer) override {
    cr_expect_eq(up.count(id), 0u);
    up[id] = peer;
    if (when_up) when_up(id);
  }
  void on_message(LinkId id, uint16_t type, std::span<const uint8_t> payload) override {
    cr_expect(up.count(id) == 1 && downs[id].empty());
    messages[id].emplace_back(payload.begin(), payload.end());
    if (when_message) when_message(id, type, payload);
  }
  void on_down(LinkId id, const Error& error, const std::string& text) override {
    downs[id].push_back({error.code, text});
    cr_expect_eq(downs[id].size(), 1u, "on_down more than once");
  }
  void on_refused(WireReason reason, const std::string& address, const std::string& text) override {
    refusals.push_back({reason, address, text});
    cr_expect(text.find(address) != std::string::npos, "%s", text.c_str());
    cr_expect(text.find(';') != std::string::npos, "no next step: %s", text.c_str());
  }
  uint16_t listen() {
    const auto port = hub->listen("127.0.0.1", 0);
    cr_assert(port.has_value(), "%s", port.error().what);
    return *port;
  }
  LinkId connect(const std::string& member, uint16_t port) {
    const auto id = hub->connect(member, "127.0.0.1", port);
    cr_assert(id.has_value(), "%s", id.error().what);
    return *id;
  }
  bool is_down(LinkId id) { return !downs[id].empty(); }
};

// A peer of hubs that does what a test wants: it has only a transport.
struct Raw final : TransportHandler {
  std::unique_ptr<Transport> transport;
  ConnectionId id = ConnectionId::kNone;  // the newest
  std::vector<Bytes> got;
  bool down = false;
  int downs = 0;
  WireHello hello{};
  WireHelloAck ack{};
  LinkCiphers ciphers;
  uint64_t sent = 0;

  Raw() {
    TransportOptions o;
    o.tls = "tcp";
    auto made = Transport::create(o, this);
    cr_assert(made.has_value(), "%s", made.error().what);
    transport = std::move(*made);
  }
  void on_accept(ConnectionId c, const std::string&) override { id = c; }
  void on_message(ConnectionId, std::span<const uint8_t> bytes) override {
    got.emplace_back(bytes.begin(), bytes.end());
  }
  void on_down(ConnectionId, const Error&) override {
    down = true;
    downs++;
  }
  void on_stranger(cr::format::WireReason, const std::string&) override {}

  void dial(uint16_t port) {
    const auto made = transport->connect(*cr::node::address_of_digits("127.0.0.1", port));
    cr_assert(made.has_value());
    id = *made;
    got.clear();
    down = false;
  }
  template <typename T>
  void send(const T& value) {
    const auto* p = reinterpret_cast<const uint8_t*>(&value);
    send_bytes({p, p + sizeof(T)});
  }
  void send_bytes(const Bytes& bytes) { cr_assert(transport->send(id, bytes, {}).has_value()); }

  void make_hello(const char* node, uint64_t features = 0) {
    hello = {};
    hello.prefix = make_prefix(kWireHello, sizeof(WireHello) - sizeof(WirePrefix), 0);
    hello.features = features;
    set_wire_name(hello.cluster, "test", 4);
    set_wire_name(hello.node, node, strlen(node));
    cr_assert(fill_random(hello.nonce).has_value());
  }
  WireAuth make_auth() {
    const auto proof = key().prove(Role::kInitiator, span(hello), span(ack));
    WireAuth auth{make_prefix(kWireAuth, sizeof(WireAuth) - sizeof(WirePrefix), 0), {}};
    memcpy(auth.proof, proof->data(), proof->size());
    return auth;
  }
  Bytes frame(uint16_t type, const Bytes& payload, uint64_t counter) {
    const WireFrame head{make_prefix(type, payload.size(), 0), 0, counter};
    Tag tag;
    cr_assert(
        ciphers.send.seal(SealDomain::kFrame, counter, span(head), payload, {}, &tag).has_value());
    Bytes all(sizeof(head) + payload.size() + tag.size());
    memcpy(all.data(), &head, sizeof(head));
    if (!payload.empty()) memcpy(all.data() + sizeof(head), payload.data(), payload.size());
    memcpy(all.data() + sizeof(head) + payload.size(), tag.data(), tag.size());
    return all;
  }
  template <typename T>
  static ByteSpan span(const T& value) {
    return {reinterpret_cast<const uint8_t*>(&value), sizeof(value)};
  }
};

bool wait_for(const std::vector<Node*>& nodes, Raw* raw, const std::function<bool()>& what,
              uint64_t seconds = 20) {
  const uint64_t until = clock_ns() + seconds * kSecond;
  while (!what()) {
    unsigned done = raw != nullptr ? raw->transport->progress() : 0;
    for (Node* n : nodes) {
      done += n->hub->progress(n->clock());
      n->hub->tick(n->clock());
    }
    if (done == 0) usleep(50);
    if (clock_ns() > until) return false;
  }
  return true;
}

bool wait_for(const std::vector<Node*>& nodes, const std::function<bool()>& what,
              uint64_t seconds = 20) {
  return wait_for(nodes, nullptr, what, seconds);
}

// Two nodes and a link between them that is up.
struct Pair {
  Node a, b;
  std::vector<Node*> both{&a, &b};
  uint16_t port;
  LinkId at_a, at_b = LinkId::kNone;
  explicit Pair(bool encrypt = false, bool tag_blocks = true)
      : a([&] {
          LinkOptions o = options("a");
          o.encrypt = encrypt;
          o.tag_blocks = false;
          return o;
        }()),
        b([&] {
          LinkOptions o = options("b");
          o.tag_blocks = tag_blocks;
          return o;
        }()) {
    port = b.listen();
    at_a = a.connect("b", port);
    cr_assert(wait_for(both, [&] { return a.up.count(at_a) == 1 && b.up.size() == 1; }),
              "the link does not come up");
    at_b = b.up.begin()->first;
  }
};

// A hand-made initiator with a link to `node` that is up.
void link_up(Raw* raw, Node* node, uint16_t port) {
  raw->dial(port);
  raw->make_hello("raw");
  raw->send(raw->hello);
  cr_assert(wait_for({node}, raw, [&] { return raw->got.size() == 1; }));
  const auto ack = read_hello_ack(raw->got[0].data(), raw->got[0].size());
  cr_assert(ack.has_value(), "%s", ack.error().what);
  raw->ack = *ack;
  raw->send(raw->make_auth());
  auto ciphers = key().derive(Role::kInitiator, raw->hello, ack->hello);
  cr_assert(ciphers.has_value());
  raw->ciphers = std::move(*ciphers);
  cr_assert(wait_for({node}, raw, [&] { return node->up.size() == 1 && raw->got.size() == 2; }));
}

Bytes text(const char* s) { return {s, s + strlen(s)}; }

Bytes random_bytes(Random& random, size_t bytes) {
  Bytes b(bytes);
  for (size_t i = 0; i < bytes; i++) b[i] = static_cast<uint8_t>(random.below(256));
  return b;
}

// The refusal of a hand-made first message.
WireReason refused_for(const std::function<void(Raw*)>& first) {
  Node node(options("b"));
  const uint16_t port = node.listen();
  Raw raw;
  raw.dial(port);
  first(&raw);
  cr_assert(wait_for({&node}, &raw, [&] { return node.refusals.size() == 1 && !raw.got.empty(); }));
  cr_expect(node.up.empty());
  const auto told = read_refuse(raw.got.back().data(), raw.got.back().size());
  cr_assert(told.has_value(), "the peer is not told");
  cr_expect_eq(*told, node.refusals[0].reason);
  return node.refusals[0].reason;
}

// Two nodes that do not fit; both must say why, and no link comes up.
void expect_refused(Node* a, Node* b, const std::string& member, WireReason reason) {
  const LinkId id = a->connect(member, b->listen());
  cr_assert(wait_for({a, b}, [&] { return a->is_down(id) && !b->refusals.empty(); }));
  cr_assert_eq(a->refusals.size(), 1u);
  cr_expect_eq(a->refusals[0].reason, reason, "%s", a->refusals[0].text.c_str());
  cr_assert_eq(b->refusals.size(), 1u);
  cr_expect_eq(b->refusals[0].reason, reason, "%s", b->refusals[0].text.c_str());
  cr_expect(a->downs[id][0].code == Errc::kPermission, "%s", a->downs[id][0].text.c_str());
  cr_expect(a->up.empty() && b->up.empty());
}

struct BlockMessage {
  BlockSeal seal;
  uint64_t offset;
};

// Puts `source` into a region of b in blocks of `block`, 4 in flight, and has b open each.
void transfer(Pair* p, const Bytes& source, Bytes* target, uint64_t block) {
  auto region = p->b.hub->register_region(target->data(), target->size());
  cr_assert(region.has_value());
  const auto remote = p->a.hub->import_region(p->at_a, region->wire);
  cr_assert(remote.has_value(), "%s", remote.error().what);
  uint64_t begun = 0, ended = 0, opened = 0;
  const uint64_t blocks = source.size() / block;
  p->b.when_message = [&](LinkId id, uint16_t, std::span<const uint8_t> payload) {
    BlockMessage m{};
    cr_assert_eq(payload.size(), sizeof(m));
    memcpy(&m, payload.data(), sizeof(m));
    const auto r = p->b.hub->open_block(id, m.seal, target->data() + m.offset, m.seal.bytes);
    cr_assert(r.has_value(), "%s", r.error().what);
    cr_assert_eq(m.seal.xxh3, checksum(source.data() + m.offset, block));
    opened++;
  };
  const uint64_t until = clock_ns() + 60 * kSecond;
  while (opened < blocks && clock_ns() < until) {
    while (begun < blocks && begun - ended < 4) {
      auto m = std::make_shared<BlockMessage>();
      m->offset = block * begun++;
      const auto seal = p->a.hub->put_block(
          p->at_a, std::span(source).subspan(m->offset, block), *remote, m->offset,
          [&, m](const Result<void>& r) {
            cr_assert(r.has_value(), "%s", r.error().what);
            ended++;
            cr_assert(p->a.hub->send(p->at_a, kType, Raw::span(*m)).has_value());
          });
      cr_assert(seal.has_value(), "%s", seal.error().what);
      m->seal = *seal;
    }
    wait_for(
        p->both, [] { return false; }, 0);
  }
  cr_assert_eq(opened, blocks);
  cr_assert(*target == source);
  cr_assert_eq(p->a.hub->status(p->at_a)->put_bytes, source.size());
}

void transfer_100_mib(bool encrypt, bool tag_blocks = true) {
  Pair p(encrypt, tag_blocks);
  cr_assert_eq(p.a.hub->status(p.at_a)->tagged_blocks, encrypt || tag_blocks);
  cr_assert_eq(p.b.hub->status(p.at_b)->encrypted, encrypt);
  Random random(cr_test::test_seed());
  Bytes source(100 << 20), target(source.size());
  for (size_t i = 0; i < source.size(); i += 8) {
    const uint64_t word = i * 0x9E3779B97F4A7C15ull + random.below(8);
    memcpy(&source[i], &word, 8);
  }
  transfer(&p, source, &target, 4 << 20);
}

// ---- a node in a process of its own ------------------------------------------------------------
struct Told {
  uint16_t port;
};
constexpr uint64_t kChildBytes = 32 << 20;

[[noreturn]] void serve_regions(volatile Told* told) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Node node(options("child"));
  Bytes memory(kChildBytes);
  auto region = node.hub->register_region(memory.data(), memory.size());
  if (!region) _exit(1);
  node.when_up = [&](LinkId id) { (void)node.hub->send(id, kType, Raw::span(region->wire)); };
  told->port = node.listen();
  wait_for(
      {&node}, [] { return false; }, 60);
  _exit(0);
}

pid_t start_child(volatile Told** ret_told) {
  void* p = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  cr_assert_neq(p, MAP_FAILED);
  auto* told = static_cast<volatile Told*>(p);
  const pid_t child = fork();
  if (child == 0) serve_regions(told);
  for (int i = 0; i < 20000 && told->port == 0; i++) usleep(1000);
  cr_assert_neq(told->port, 0, "the child did not start");
  *ret_told = told;
  return child;
}

void end_child(pid_t child) {
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

RemoteRegionId wait_for_region(Node* node, LinkId id) {
  cr_assert(wait_for({node}, [&] { return !node->messages[id].empty(); }));
  const Bytes& m = node->messages[id][0];
  const auto wire = read_region(m.data(), m.size());
  cr_assert(wire.has_value());
  const auto region = node->hub->import_region(id, *wire);
  cr_assert(region.has_value());
  return *region;
}

}  // namespace

// ---- what works --------------------------------------------------------------------------------
Test(link, messages_arrive_both_ways_in_order) {
  for (const bool encrypt : {false, true}) {
    Pair p(encrypt);
    cr_assert_str_eq(p.a.up[p.at_a].c_str(), "b");
    cr_assert_str_eq(p.b.up[p.at_b].c_str(), "a");
    cr_assert(p.a.hub->outgoing(p.at_a) && !p.b.hub->outgoing(p.at_b));
    cr_assert_eq(p.a.hub->status(p.at_a)->encrypted, encrypt);
    cr_assert_eq(p.b.hub->status(p.at_b)->encrypted, encrypt);
    Random random(cr_test::test_seed());
    std::vector<Bytes> sent;
    for (int i = 0; i < 300; i++) {
      sent.push_back(random_bytes(random, i % 30 == 0 ? kMostWirePayload : random.below(2000)));
      cr_assert(p.a.hub->send(p.at_a, kType, sent.back()).has_value());
      cr_assert(p.b.hub->send(p.at_b, kType, sent.back()).has_value());
    }
    cr_assert(wait_for(p.both, [&] {
      return p.a.messages[p.at_a].size() == 300 && p.b.messages[p.at_b].size() == 300;
    }));
    cr_assert(p.a.messages[p.at_a] == sent && p.b.messages[p.at_b] == sent);
    cr_assert(p.a.hub->send(p.at_a, kType, Bytes(kMostWirePayload + 1)).error().code ==
              Errc::kInvalid);
    cr_assert(p.a.hub->send(p.at_a, kWirePing, {}).error().code == Errc::kInvalid);
  }
}

Test(link, puts_100_mib_authenticated) { transfer_100_mib(false); }
Test(link, puts_100_mib_encrypted) { transfer_100_mib(true); }
Test(link, puts_100_mib_with_checksums) { transfer_100_mib(false, false); }

Test(link, a_block_that_is_not_whole_is_not_opened) {
  for (const int how : {0, 1, 2}) {
    const bool tagged = how != 0, encrypt = how == 2;
    Pair p(encrypt, tagged);
    Random random(cr_test::test_seed());
    const Bytes source = random_bytes(random, 100000);
    Bytes target(source.size());
    auto region = p.b.hub->register_region(target.data(), target.size());
    const auto remote = p.a.hub->import_region(p.at_a, region->wire);
    bool there = false;
    const auto seal = p.a.hub->put_block(p.at_a, source, *remote, 0,
                                         [&](const Result<void>& r) { there = r.has_value(); });
    cr_assert(seal.has_value());
    Bytes copy(target);  // nothing has arrived
    cr_assert(p.b.hub->open_block(p.at_b, *seal, copy.data(), copy.size()).error().code ==
              Errc::kDamaged);
    cr_assert(wait_for(p.both, [&] { return there; }));
    const auto refuse = [&](Bytes data, const BlockSeal& s) {
      cr_assert(!p.b.hub->open_block(p.at_b, s, data.data(), data.size()).has_value());
      if (encrypt && data.size() == s.bytes && s.counter != 0) {
        cr_assert(data == Bytes(data.size()), "what is not authentic was left there");
      }
    };
    for (int i = 0; i < 50; i++) {
      Bytes half(target);
      const size_t cut = random.below(half.size());
      half[cut] ^= static_cast<uint8_t>(1 + random.below(255));
      refuse(half, *seal);
      Bytes front(target);  // as if the rest had not arrived
      if (std::fill(front.begin() + static_cast<long>(cut), front.end(), 0); front != target) {
        refuse(front, *seal);
      }
    }
    BlockSeal other = *seal;
    other.counter++;
    if (tagged) refuse(target, other);
    other = *seal;
    other.xxh3++;
    refuse(target, other);
    other = *seal;
    other.tag[15] ^= 1;
    if (tagged) refuse(target, other);
    other = *seal;
    other.bytes--;
    refuse(target, other);
    refuse(Bytes(target.begin(), target.end() - 1), other);
    cr_assert(p.b.hub->open_block(p.at_b, *seal, target.data(), target.size()).has_value());
    cr_assert(target == source);
  }
}

Test(link, a_block_must_lie_in_the_region) {
  Pair p;
  Bytes target(1000, 7), source(1000, 1);
  auto region = p.b.hub->register_region(target.data(), 500);
  const auto remote = p.a.hub->import_region(p.at_a, region->wire);
  const auto put = [&](RemoteRegionId r, uint64_t bytes, uint64_t offset) {
    return p.a.hub->put_block(p.at_a, std::span(source).subspan(0, bytes), r, offset, {})
        .error()
        .code;
  };
  cr_assert(put(*remote, 501, 0) == Errc::kInvalid);
  cr_assert(put(*remote, 500, 1) == Errc::kInvalid);
  cr_assert(put(*remote, 1, ~0ull) == Errc::kInvalid);
  cr_assert(put(*remote, 0, 0) == Errc::kInvalid);
  cr_assert(put(RemoteRegionId{999}, 1, 0) == Errc::kNotFound);
  // And the owner of the memory does not rely on the sender for that.
  std::vector<WireRegion> forged(3, region->wire);
  forged[0].bytes = 1000;
  forged[1].address += 400;
  forged[2].cookie++;
  int refused = 0;
  for (const WireRegion& wire : forged) {
    const auto r = p.a.hub->import_region(p.at_a, wire);
    cr_assert(r.has_value());
    cr_assert(p.a.hub
                  ->put_block(p.at_a, std::span(source).subspan(0, 200), *r,
                              wire.bytes == 1000 ? 400 : 0,
                              [&](const Result<void>& done) { refused += done ? 100 : 1; })
                  .has_value());
  }
  cr_assert(wait_for(p.both, [&] { return refused >= 3; }));
  cr_assert_eq(refused, 3);
  cr_assert(target == Bytes(1000, 7));
  p.b.hub->unregister_region(region->id);
}

Test(link, two_nodes_may_connect_to_each_other_at_once) {
  Node a(options("a")), b(options("b"));
  const uint16_t port_a = a.listen(), port_b = b.listen();
  const LinkId out_a = a.connect("b", port_b), out_b = b.connect("a", port_a);
  cr_assert(wait_for({&a, &b}, [&] { return a.up.size() == 2 && b.up.size() == 2; }));
  for (const auto& [id, peer] : a.up) cr_assert_eq(a.hub->outgoing(id), id == out_a);
  for (const auto& [id, peer] : b.up) cr_assert_eq(b.hub->outgoing(id), id == out_b);
}

Test(link, the_epoch_is_told_and_never_falls) {
  Pair p;
  p.a.hub->set_epoch(7);
  p.a.hub->set_epoch(3);
  cr_assert(p.a.hub->send(p.at_a, kType, text("x")).has_value());
  cr_assert(wait_for(p.both, [&] { return p.b.messages[p.at_b].size() == 1; }));
  cr_assert_eq(p.b.hub->status(p.at_b)->peer_epoch, 7u);
}

Test(link, handlers_may_send_close_and_connect) {
  Pair p;
  LinkId again = LinkId::kNone;
  p.b.when_message = [&](LinkId id, uint16_t type, std::span<const uint8_t> payload) {
    cr_assert(p.b.hub->send(id, type, payload).has_value());
    p.b.hub->close(id);
    cr_assert(p.b.hub->send(id, type, payload).error().code == Errc::kNotFound);
  };
  cr_assert(p.a.hub->send(p.at_a, kType, text("x")).has_value());
  cr_assert(p.a.hub->send(p.at_a, kType, text("y")).has_value());
  cr_assert(wait_for(p.both, [&] { return p.a.is_down(p.at_a) && p.b.is_down(p.at_b); }));
  cr_assert(p.b.downs[p.at_b][0].code == Errc::kOk);
  cr_assert(p.a.downs[p.at_a][0].code == Errc::kAgentGone, "%s", p.a.downs[p.at_a][0].text.c_str());
  cr_assert_eq(p.b.messages[p.at_b].size(), 1u);
  p.b.when_message = {};
  again = p.a.connect("b", p.port);
  cr_assert(wait_for(p.both, [&] { return p.a.up.count(again) == 1; }));
}

// ---- what is refused ---------------------------------------------------------------------------
Test(link, refuses_another_key) {
  Node a(options("a"), key(1)), b(options("b"), key(2));
  expect_refused(&a, &b, "b", kReasonKey);
}

Test(link, refuses_another_cluster) {
  LinkOptions other = options("b");
  other.cluster = "other";
  Node a(options("a")), b(other);
  expect_refused(&a, &b, "b", kReasonCluster);
}

Test(link, refuses_another_node_than_the_one_meant) {
  Node a(options("a")), b(options("b"));
  expect_refused(&a, &b, "c", kReasonName);
}

Test(link, refuses_itself) {
  Node a(options("a"));
  const LinkId id = a.connect("b", a.listen());
  cr_assert(wait_for({&a}, [&] { return a.is_down(id) && a.refusals.size() == 2; }));
  for (const Refusal& r : a.refusals)
    cr_assert_eq(r.reason, kReasonReflected, "%s", r.text.c_str());
}

Test(link, refuses_another_version_feature_and_garbage) {
  cr_assert_eq(refused_for([](Raw* raw) {
                 raw->make_hello("raw");
                 raw->hello.prefix.version = kWireVersion + 1;
                 raw->send(raw->hello);
               }),
               kReasonVersion);
  cr_assert_eq(refused_for([](Raw* raw) {
                 raw->make_hello("raw", 1ull << 40);
                 raw->send(raw->hello);
               }),
               kReasonFeature);
  Random random(cr_test::test_seed());
  for (int i = 0; i < 5; i++) {
    const Bytes garbage = random_bytes(random, 1 + random.below(kMostWireBytes));
    cr_assert_eq(refused_for([&](Raw* raw) { raw->send_bytes(garbage); }), kReasonGarbage);
  }
  // An AUTH or a frame without a handshake before it.
  cr_assert_eq(refused_for([](Raw* raw) {
                 raw->make_hello("raw");
                 raw->send(raw->make_auth());
               }),
               kReasonGarbage);
}

Test(link, refuses_a_server_of_another_version) {
  Raw raw;
  const auto port = raw.transport->listen(*cr::node::address_of_digits("127.0.0.1", 0));
  cr_assert(port.has_value());
  Node a(options("a"));
  const LinkId id = a.connect("raw", *port);
  cr_assert(wait_for({&a}, &raw, [&] { return raw.got.size() == 1; }));
  raw.make_hello("raw");
  raw.hello.prefix.version = kWireVersion + 1;
  raw.send(raw.hello);
  cr_assert(wait_for({&a}, &raw, [&] { return a.is_down(id); }));
  cr_assert_eq(a.refusals[0].reason, kReasonVersion);
}

Test(link, refuses_its_own_handshake_sent_back) {
  Raw raw;
  const auto port = raw.transport->listen(*cr::node::address_of_digits("127.0.0.1", 0));
  cr_assert(port.has_value());
  Node a(options("a"));
  const uint16_t port_a = a.listen();
  const LinkId id = a.connect("raw", *port);
  cr_assert(wait_for({&a}, &raw, [&] { return raw.got.size() == 1; }));
  const Bytes hello = raw.got[0];
  const ConnectionId accepted = raw.id;
  // By another connection, with another name: the nonce gives it away.
  Bytes renamed = hello;
  const WireHello* none = nullptr;
  const auto at = reinterpret_cast<size_t>(&none->node);
  renamed[at] = 'z';
  raw.dial(port_a);
  raw.send_bytes(renamed);
  cr_assert(wait_for({&a}, &raw, [&] { return a.refusals.size() == 1; }));
  cr_assert_eq(a.refusals[0].reason, kReasonReflected);
  // By the same connection.
  raw.id = accepted;
  raw.send_bytes(hello);
  cr_assert(wait_for({&a}, &raw, [&] { return a.is_down(id); }));
  cr_assert_eq(a.refusals.size(), 2u);
  cr_assert_eq(a.refusals[1].reason, kReasonReflected);
}

Test(link, refuses_a_proof_sent_back) {
  Node b(options("b"));
  Raw raw;
  raw.dial(b.listen());
  raw.make_hello("raw");
  raw.send(raw.hello);
  cr_assert(wait_for({&b}, &raw, [&] { return raw.got.size() == 1; }));
  const auto ack = read_hello_ack(raw.got[0].data(), raw.got[0].size());
  cr_assert(ack.has_value());
  WireAuth auth{make_prefix(kWireAuth, sizeof(WireAuth) - sizeof(WirePrefix), 0), {}};
  memcpy(auth.proof, ack->proof, sizeof(auth.proof));
  raw.send(auth);
  cr_assert(wait_for({&b}, &raw, [&] { return b.refusals.size() == 1; }));
  cr_assert_eq(b.refusals[0].reason, kReasonKey);
  cr_assert(b.up.empty());
}

Test(link, refuses_a_handshake_that_was_recorded) {
  Node b(options("b"));
  const uint16_t port = b.listen();
  Raw raw;
  link_up(&raw, &b, port);
  const WireHello hello = raw.hello;
  const WireAuth auth = raw.make_auth();
  raw.dial(port);
  raw.send(hello);
  raw.send(auth);
  cr_assert(wait_for({&b}, &raw, [&] { return b.refusals.size() == 1; }));
  cr_assert_eq(b.refusals[0].reason, kReasonReplay);
  cr_assert_eq(b.up.size(), 1u);
}

Test(link, refuses_too_many_at_once_and_who_never_answers) {
  LinkOptions o = options("b");
  o.most_unproven = 2;
  Node b(o);
  const uint16_t port = b.listen();
  Raw raw;
  for (int i = 0; i < 8; i++) raw.dial(port);
  // Two wait, two are told, and four only see the end.
  cr_assert(wait_for({&b}, &raw, [&] { return b.refusals.size() == 2 && raw.downs == 4; }));
  for (const Refusal& r : b.refusals) cr_assert_eq(r.reason, kReasonBusy);
  // Time passes in steps, as it does for a loop that runs.
  for (int i = 0; i < 12; i++) {
    b.skipped_ns += 500 * kMs;
    wait_for(
        {&b}, &raw, [] { return false; }, 0);
  }
  cr_assert(wait_for({&b}, &raw, [&] { return b.refusals.size() == 4; }));
  cr_assert_eq(b.refusals[2].reason, kReasonTimeout);
  cr_assert_eq(b.refusals[3].reason, kReasonTimeout);
  for (int i = 0; i < 12; i++) {
    b.skipped_ns += 500 * kMs;
    wait_for(
        {&b}, &raw, [] { return false; }, 0);
  }
  // There is room again.
  Node a(options("a"));
  const LinkId id = a.connect("b", port);
  cr_assert(wait_for({&a, &b}, &raw, [&] { return a.up.count(id) == 1; }));
}

// ---- frames that are not as they were sent -----------------------------------------------------
// What the hub says of a link whose peer sends `frames` behind a good one.
Down after_frames(const std::function<std::vector<Bytes>(Raw*)>& frames) {
  Node b(options("b"));
  Raw raw;
  link_up(&raw, &b, b.listen());
  const LinkId id = b.up.begin()->first;
  raw.send_bytes(raw.frame(kType, text("good"), 1));
  for (const Bytes& f : frames(&raw)) raw.send_bytes(f);
  cr_assert(wait_for({&b}, &raw, [&] { return b.is_down(id); }));
  cr_assert_eq(b.messages[id].size(), 1u);
  cr_assert(b.messages[id][0] == text("good"));
  return b.downs[id][0];
}

Test(link, a_frame_that_is_repeated_lost_or_changed_ends_the_link) {
  const auto expect = [](const Down& down, const char* words) {
    cr_expect(down.code == Errc::kDamaged);
    cr_expect(down.text.find(words) != std::string::npos, "%s", down.text.c_str());
  };
  expect(after_frames([](Raw* raw) { return Frames{raw->frame(kType, text("good"), 1)}; }),
         "repeated");
  expect(after_frames([](Raw* raw) { return Frames{raw->frame(kType, text("late"), 3)}; }),
         "missing");
  for (const size_t at :
       {6u, 8u, 16u, 24u, 33u, 40u}) {  // type, length, epoch, counter, payload, tag
    expect(after_frames([&](Raw* raw) {
             Bytes f = raw->frame(kType, text("abcd"), 2);
             f[at] ^= 1;
             return Frames{f};
           }),
           at == 8 ? "length" : "authentic");
  }
  expect(after_frames([](Raw* raw) {
           Bytes f = raw->frame(kType, text("abcd"), 2);
           f[12] ^= 1;  // says that it is encrypted
           return Frames{f};
         }),
         "encrypted");
  Random random(cr_test::test_seed());
  expect(after_frames([&](Raw*) { return Frames{random_bytes(random, 500)}; }), "");
}

Test(link, a_frame_sent_back_ends_the_link) {
  Node b(options("b"));
  Raw raw;
  link_up(&raw, &b, b.listen());
  const LinkId id = b.up.begin()->first;
  raw.send_bytes(raw.got[1]);  // the hub's own first frame
  cr_assert(wait_for({&b}, &raw, [&] { return b.is_down(id); }));
  cr_assert(b.downs[id][0].code == Errc::kDamaged);
  cr_assert(b.messages[id].empty());
}

Test(link, no_put_before_the_proof) {
  Node b(options("b"));
  Bytes memory(1000, 7), source(1000, 1);
  auto region = b.hub->register_region(memory.data(), memory.size());
  const WireRegion& w = region->wire;
  Raw raw;
  raw.dial(b.listen());
  const auto k = raw.transport->import_key(raw.id, {w.address, w.bytes, w.number, w.cookie});
  int failed = 0;
  cr_assert(raw.transport
                ->put(raw.id, source, *k, 0, [&](const Result<void>& r) { failed += r ? 100 : 1; })
                .has_value());
  cr_assert(wait_for({&b}, &raw, [&] { return failed != 0; }));
  cr_assert_eq(failed, 1);
  cr_assert(memory == Bytes(1000, 7));
}

// ---- heartbeats --------------------------------------------------------------------------------
Test(link, an_idle_link_stays_up_and_knows_its_round_trip) {
  Pair p;
  for (int i = 0; i < 60; i++) {  // half a minute, of the time that is passed in
    p.a.skipped_ns += 500 * kMs;
    p.b.skipped_ns += 500 * kMs;
    const uint64_t until = clock_ns() + 3 * kMs;
    wait_for(p.both, [&] { return clock_ns() > until; });
  }
  cr_assert(!p.a.is_down(p.at_a) && !p.b.is_down(p.at_b));
  cr_assert_gt(p.a.hub->status(p.at_a)->rtt_ns, 0u);
  cr_assert_gt(p.b.hub->status(p.at_b)->rtt_ns, 0u);
  cr_assert_lt(p.b.hub->status(p.at_b)->sent_messages, 150u);
}

Test(link, our_own_absence_is_not_the_peers_silence) {
  Pair p;
  p.a.skipped_ns += 100 * kSecond;  // at once, as after SIGCONT
  const uint64_t until = clock_ns() + 500 * kMs;
  cr_assert(wait_for(p.both, [&] { return clock_ns() > until; }));
  cr_assert(!p.a.is_down(p.at_a));
  cr_assert_leq(p.a.hub->next_tick_ns(), p.a.clock() + kSecond);
}

Test(link, a_peer_that_does_not_answer_is_told) {
  Raw raw;
  const auto port = raw.transport->listen(*cr::node::address_of_digits("127.0.0.1", 0));
  Node a(options("a"));
  const LinkId id = a.connect("raw", *port);
  for (int i = 0; i < 20 && !a.is_down(id); i++) {
    a.skipped_ns += 500 * kMs;
    wait_for(
        {&a}, &raw, [] { return false; }, 0);
  }
  cr_assert(wait_for({&a}, &raw, [&] { return a.is_down(id); }));
  cr_assert(a.downs[id][0].code == Errc::kTimeout, "%s", a.downs[id][0].text.c_str());
  // Nobody at all.
  raw.transport.reset();
  Raw other;
  const LinkId nobody = a.connect("raw", *port);
  cr_assert(wait_for({&a}, &other, [&] { return a.is_down(nobody); }));
  cr_assert(a.downs[nobody][0].code == Errc::kAgentGone, "%s", a.downs[nobody][0].text.c_str());
}

// ---- other processes ---------------------------------------------------------------------------
// The successor is started before this process uses UCX, whose state a fork does not survive.
void kill_in_the_middle_of_puts(bool encrypt) {
  volatile Told *told = nullptr, *told_next = nullptr;
  const pid_t child = start_child(&told), next = start_child(&told_next);
  LinkOptions o = options("a");
  o.encrypt = encrypt;
  Node a(o);
  const LinkId id = a.connect("child", told->port);
  const RemoteRegionId region = wait_for_region(&a, id);
  const Bytes source(8 << 20, 9);
  uint64_t begun = 0, done = 0, failed = 0, killed_at = 0;
  const auto count = [&](const Result<void>& r) { (r ? done : failed)++; };
  cr_assert(wait_for({&a}, [&] {
    while (!a.is_down(id) && begun - done - failed < 4) {
      if (!a.hub->put_block(id, source, region, (begun % 4) << 23, count)) break;
      begun++;
    }
    if (killed_at == 0 && done >= 3) {
      kill(child, SIGKILL);
      killed_at = clock_ns();
    }
    return a.is_down(id);
  }));
  cr_assert_gt(killed_at, 0u);
  cr_assert_lt(clock_ns() - killed_at, 3 * kSecond);
  cr_assert(a.downs[id][0].code == Errc::kAgentGone, "%s", a.downs[id][0].text.c_str());
  cr_assert_eq(begun, done + failed, "an on_done is missing");
  waitpid(child, nullptr, 0);
  const LinkId again = a.connect("child", told_next->port);
  wait_for_region(&a, again);
  end_child(next);
}

Test(link, a_killed_process_is_told_and_its_successor_is_reached) {
  kill_in_the_middle_of_puts(false);
}
Test(link, a_killed_process_is_told_when_blocks_are_encrypted) { kill_in_the_middle_of_puts(true); }

// The other end: this node receives when the process that puts is killed.
Test(link, a_killed_sender_leaves_no_block_that_can_be_opened) {
  int ports[2];
  cr_assert_eq(pipe(ports), 0);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    uint16_t port = 0;
    if (read(ports[0], &port, sizeof(port)) != sizeof(port)) _exit(1);
    Node node(options("child"));
    const LinkId id = node.connect("a", port);
    const RemoteRegionId region = wait_for_region(&node, id);
    const Bytes source(8 << 20, 9);
    uint64_t flying = 0;
    wait_for({&node}, [&] {
      while (flying < 4) {
        flying++;
        // The seals are told at once, as a sender must not: so that some come before their block.
        const auto seal =
            node.hub->put_block(id, source, region, 0, [&](const Result<void>&) { flying--; });
        if (seal) (void)node.hub->send(id, kType, Raw::span(*seal));
      }
      return false;
    });
    _exit(0);
  }
  Node a(options("a"));
  Bytes memory(8 << 20);
  auto region = a.hub->register_region(memory.data(), memory.size());
  a.when_up = [&](LinkId id) { (void)a.hub->send(id, kType, Raw::span(region->wire)); };
  uint64_t opened = 0, seals = 0;
  a.when_message = [&](LinkId id, uint16_t, std::span<const uint8_t> payload) {
    const auto seal = read_block_seal(payload.data(), payload.size());
    cr_assert(seal.has_value());
    seals++;
    if (!a.hub->open_block(id, *seal, memory.data(), memory.size())) return;
    opened++;
    cr_assert(memory == Bytes(8 << 20, 9));
  };
  const uint16_t port = a.listen();
  cr_assert_eq(write(ports[1], &port, sizeof(port)), sizeof(port));
  cr_assert(wait_for({&a}, [&] { return seals >= 6; }));
  kill(child, SIGKILL);
  const LinkId id = a.up.begin()->first;
  cr_assert(wait_for(
      {&a}, [&] { return a.is_down(id); }, 5));
  // The peer is gone, and nobody writes to the memory any more.
  memory.assign(memory.size(), 3);
  wait_for(
      {&a}, [] { return false; }, 1);
  cr_assert(memory == Bytes(8 << 20, 3));
  waitpid(child, nullptr, 0);
}

Test(link, a_stopped_process_is_told_by_its_silence) {
  volatile Told* told = nullptr;
  const pid_t child = start_child(&told);
  LinkOptions o = options("a");
  o.heartbeat_ns = 100 * kMs;
  o.silence_ns = 600 * kMs;
  Node a(o);
  const LinkId id = a.connect("child", told->port);
  const RemoteRegionId region = wait_for_region(&a, id);
  const Bytes source(8 << 20, 9);
  uint64_t failed = 0;
  kill(child, SIGSTOP);
  const uint64_t stopped_at = clock_ns();
  for (int i = 0; i < 4; i++) {
    cr_assert(a.hub
                  ->put_block(id, source, region, 0,
                              [&](const Result<void>& r) { failed += r ? 100 : 1; })
                  .has_value());
  }
  cr_assert(wait_for({&a}, [&] { return a.is_down(id); }));
  cr_assert(a.downs[id][0].code == Errc::kTimeout, "%s", a.downs[id][0].text.c_str());
  cr_assert_lt(clock_ns() - stopped_at, 3 * kSecond);
  cr_assert_eq(failed, 4u);
  kill(child, SIGCONT);
  const LinkId again = a.connect("child", told->port);
  wait_for_region(&a, again);
  end_child(child);
}
