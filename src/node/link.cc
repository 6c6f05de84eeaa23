// SPDX-License-Identifier: MIT
// link.cc - see link.h. Invariant: as there. Context: N; one thread.
//
// A link lives exactly as long as its connection, and has the connection's number: it is made by
// connect() or on_accept() and removed by on_down() of the transport, so that no handler can take
// one away that is in use.
#include "node/link.h"

#include <string.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "format/checksum.h"
#include "format/wire_reader.h"

namespace cr::node {
namespace {

using format::WireReason;

constexpr size_t kRememberedNonces = 4096;
constexpr uint64_t kLingerNs = 1'000'000'000;
constexpr Error kNoLink{Errc::kNotFound, 0, "no such link"};
constexpr Error kNotUp{Errc::kBusy, 0, "the link is not up yet"};

// What the two sides of a refusal are told. Each has what is wrong and what to do.
struct ReasonText {
  WireReason reason;
  const char* cause;
  const char* next;
};
constexpr ReasonText kReasons[] = {
    {format::kReasonNone, "for a reason that this version does not know",
     "look at the log of the other node"},
    {format::kReasonGarbage, "it sent something that is not of this protocol",
     "check that the address and port are those of a crstored"},
    {format::kReasonVersion, "the two speak different versions of the protocol",
     "install the same version on both nodes"},
    {format::kReasonCluster, "the two belong to different clusters",
     "check `cluster` in both configurations, and the address"},
    {format::kReasonName, "another node was expected at this address",
     "check the names and addresses in the member list"},
    {format::kReasonKey, "the two have different keys", "copy the same key file to both nodes"},
    {format::kReasonReplay, "it repeated a handshake that was used before",
     "if nobody tampers with the network, restart the other node"},
    {format::kReasonReflected, "it has this node's own name or sent back its handshake",
     "check that no two members have one name, and that none has this node's address"},
    {format::kReasonFeature, "one wants a feature that the other does not know",
     "install the same version on both nodes"},
    {format::kReasonBusy, "too many connections are being made at once", "try again later"},
    {format::kReasonTimeout, "the handshake took too long",
     "check that the other node runs and the network is not overloaded"},
};
static_assert(sizeof(kReasons) / sizeof(kReasons[0]) == format::kReasonLast + 1);

template <typename T>
ByteSpan bytes_of(const T& value) {
  static_assert(std::has_unique_object_representations_v<T>);
  return {reinterpret_cast<const uint8_t*>(&value), sizeof(value)};
}

std::string name_of_field(const char (&field)[format::kWireNameBytes]) {
  return {field, strnlen(field, sizeof(field))};
}

Tag tag_from(const uint8_t* bytes) {
  Tag tag;
  memcpy(tag.data(), bytes, tag.size());
  return tag;
}

Nonce nonce_of(const format::WireHello& hello) {
  Nonce nonce;
  memcpy(nonce.data(), hello.nonce, nonce.size());
  return nonce;
}

// What of a block's seal the tag is made over, besides the block.
struct SealHead {
  uint64_t counter, bytes, xxh3;
};

WireReason reason_of(const Error& error) {
  switch (error.code) {
    case Errc::kTooNew:
    case Errc::kUnsupported:
      return format::kReasonVersion;
    default:
      return format::kReasonGarbage;
  }
}

// Copies of blocks that are encrypted and in flight. Kept for the next one, because new memory
// costs as much as the encryption.
class BouncePool {
 public:
  explicit BouncePool(uint64_t most_bytes) : most_bytes_(most_bytes) {}
  struct Buffer {
    std::unique_ptr<uint8_t[]> data;
    uint64_t bytes = 0;
  };

  // Without data: too much is in flight. A single block is always given a buffer.
  Buffer take(uint64_t bytes) {
    for (auto it = idle_.begin(); it != idle_.end(); ++it) {
      if (it->bytes < bytes || it->bytes > 2 * bytes) continue;
      Buffer found = std::move(*it);
      idle_.erase(it);
      used_bytes_ += found.bytes;
      return found;
    }
    if (used_bytes_ > 0 && used_bytes_ + bytes > most_bytes_) return {};
    while (!idle_.empty() && used_bytes_ + idle_bytes() + bytes > most_bytes_) idle_.pop_front();
    used_bytes_ += bytes;
    return {std::make_unique_for_overwrite<uint8_t[]>(bytes), bytes};
  }
  void give_back(Buffer buffer) {
    used_bytes_ -= buffer.bytes;
    idle_.push_back(std::move(buffer));
  }

 private:
  uint64_t idle_bytes() const {
    uint64_t sum = 0;
    for (const Buffer& b : idle_) sum += b.bytes;
    return sum;
  }
  uint64_t most_bytes_;
  uint64_t used_bytes_ = 0;
  std::deque<Buffer> idle_;
};

}  // namespace

// Entered in this order; kRefused and kEnding from any other.
enum class Phase {
  kAwaitHello,  // acceptor: connected, knows nothing of the peer
  kAwaitAuth,   // acceptor: has sent WireHelloAck
  kAwaitAck,    // initiator: has sent WireHello
  kAwaitFrame,  // initiator: knows that the peer has the key, has sent WireAuth
  kUp,          // both have the key
  kRefused,     // WireRefuse is sent; the peer is given time to read it and to go
  kEnding,      // the connection is being closed; on_down comes
};

struct LinkHub::Link {
  LinkId id = LinkId::kNone;
  ConnectionId connection = ConnectionId::kNone;
  Phase phase = Phase::kAwaitHello;
  bool outgoing = false;
  bool told = false;  // the caller knows of it, so on_down must be called
  bool refusal_told = false;
  bool encrypted = false;
  bool tagged_blocks = false;
  std::string peer, address;
  format::WireHello hello{};  // of the initiator
  format::WireHelloAck ack{};
  std::optional<LinkCiphers> ciphers;
  uint64_t sent = 0, received = 0;  // counters of frames
  uint64_t sent_blocks = 0;
  uint64_t began_ns = 0;  // of the handshake, or of the phase kRefused
  uint64_t last_sent_ns = 0, last_received_ns = 0;
  uint64_t peer_epoch = 0, rtt_ns = 0, pings = 0, put_bytes = 0;
  Error error{};     // for on_down
  std::string text;  // for on_down
};

struct LinkHub::State {
  State(const LinkOptions& o, SessionKey k, LinkHandler* h, uint64_t now)
      : options(o),
        key(std::move(k)),
        handler(h),
        now_ns(now),
        last_tick_ns(now),
        bounce(o.most_bounce_bytes) {}

  Link* find(LinkId id) {
    const auto found = links.find(static_cast<uint64_t>(id));
    return found == links.end() || found->second->phase == Phase::kEnding ? nullptr
                                                                          : found->second.get();
  }
  Link* find(ConnectionId id) { return find(static_cast<LinkId>(id)); }
  Link* add(ConnectionId connection, bool outgoing, const std::string& address);
  uint32_t unproven() const;
  std::string who(const Link& link) const;

  // Handshake.
  Result<void> fill_hello(format::WireHello* hello, uint16_t type);
  bool is_own_nonce(const Nonce& nonce) const;
  bool remember(const Nonce& nonce);
  bool check_peer(Link* link, const format::WireHello& hello);
  void take_hello(Link* link, ByteSpan bytes);
  void take_ack(Link* link, ByteSpan bytes);
  void take_auth(Link* link, ByteSpan bytes);
  void take_handshake(Link* link, ByteSpan bytes);
  Result<void> agree(Link* link, Role own);
  void refuse(Link* link, WireReason reason);
  void told_refused(Link* link, WireReason reason);
  bool send_raw(Link* link, ByteSpan bytes);
  void go_up(Link* link);

  // Frames.
  Result<void> send_frame(Link* link, uint16_t type, ByteSpan payload, Done on_done);
  void take_frame(Link* link, ByteSpan bytes);
  void take_payload(Link* link, uint16_t type, ByteSpan payload);
  void ping(Link* link);
  void fail(Link* link, const Error& error, const std::string& cause);
  void tick_link(Link* link);
  uint64_t deadline(const Link& link) const;

  struct RemoteRegion {
    LinkId link;
    uint64_t bytes;
    RemoteKeyId key;
  };

  LinkOptions options;
  SessionKey key;
  LinkHandler* handler;
  uint64_t now_ns, last_tick_ns;
  uint64_t last_region = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Link>> links;
  std::unordered_map<uint64_t, RemoteRegion> remote_regions;
  std::set<Nonce> nonces;
  std::deque<Nonce> nonces_in_order;
  std::vector<uint8_t> plain;  // of the frame being read
  BouncePool bounce;
  std::unique_ptr<Transport> transport;  // the last: what it calls back is still there when it goes
};

// ---- links -------------------------------------------------------------------------------------
LinkHub::Link* LinkHub::State::add(ConnectionId connection, bool outgoing,
                                   const std::string& address) {
  auto link = std::make_unique<Link>();
  link->id = static_cast<LinkId>(connection);
  link->connection = connection;
  link->outgoing = link->told = outgoing;
  link->phase = outgoing ? Phase::kAwaitAck : Phase::kAwaitHello;
  link->address = address;
  link->began_ns = link->last_sent_ns = link->last_received_ns = now_ns;
  Link* made = link.get();
  links[static_cast<uint64_t>(connection)] = std::move(link);
  return made;
}

uint32_t LinkHub::State::unproven() const {
  return static_cast<uint32_t>(std::count_if(links.begin(), links.end(), [](const auto& l) {
    return !l.second->outgoing && !l.second->told;
  }));
}

std::string LinkHub::State::who(const Link& link) const {
  return (link.peer.empty() ? "the node" : "node " + link.peer) + " at " + link.address;
}

void LinkHub::State::fail(Link* link, const Error& error, const std::string& cause) {
  link->phase = Phase::kEnding;
  link->error = error;
  link->text = who(*link) + ": " + cause;
  transport->close(link->connection);
}

// ---- handshake ---------------------------------------------------------------------------------
bool LinkHub::State::send_raw(Link* link, ByteSpan bytes) {
  link->last_sent_ns = now_ns;
  const auto done = transport->send(link->connection, {bytes.begin(), bytes.end()}, {});
  if (!done) fail(link, done.error(), done.error().what);
  return done.has_value();
}

void LinkHub::State::refuse(Link* link, WireReason reason) {
  const ReasonText& r = kReasons[reason];
  link->error = {Errc::kPermission, 0, "the handshake was refused"};
  link->text = who(*link) + " was refused: " + r.cause + "; " + r.next;
  link->refusal_told = true;
  const format::WireRefuse refuse{
      format::make_prefix(format::kWireRefuse,
                          sizeof(format::WireRefuse) - sizeof(format::WirePrefix), 0),
      reason, 0};
  const std::string text = link->text;
  if (send_raw(link, bytes_of(refuse))) {
    link->phase = Phase::kRefused;
    link->began_ns = now_ns;
  }
  link->error = {Errc::kPermission, 0, "the handshake was refused"};
  link->text = text;
  handler->on_refused(reason, link->address, text);
}

void LinkHub::State::told_refused(Link* link, WireReason reason) {
  const ReasonText& r = kReasons[reason];
  fail(link, {Errc::kPermission, 0, "the peer refused the handshake"},
       std::string("refused this node: ") + r.cause + "; " + r.next);
  link->refusal_told = true;
  handler->on_refused(reason, link->address, link->text);
}

Result<void> LinkHub::State::fill_hello(format::WireHello* hello, uint16_t type) {
  const uint64_t bytes =
      type == format::kWireHello ? sizeof(format::WireHello) : sizeof(format::WireHelloAck);
  hello->prefix = format::make_prefix(type, bytes - sizeof(format::WirePrefix), 0);
  hello->epoch = options.epoch;
  hello->features = (options.encrypt ? format::kWireEncrypt : 0) |
                    (options.tag_blocks ? format::kWireBlockTags : 0);
  format::set_wire_name(hello->cluster, options.cluster.data(), options.cluster.size());
  format::set_wire_name(hello->node, options.node.data(), options.node.size());
  return fill_random(hello->nonce);
}

// Of a handshake under way: somebody has sent it back to us, perhaps by another connection.
bool LinkHub::State::is_own_nonce(const Nonce& nonce) const {
  return std::any_of(links.begin(), links.end(), [&nonce](const auto& l) {
    const Link& link = *l.second;
    return nonce_of(link.outgoing ? link.hello : link.ack.hello) == nonce;
  });
}

// False: it was used before. A nonce that has been forgotten does no harm, for the peer has to
// answer ours; but only one that is remembered can be named as the reason.
bool LinkHub::State::remember(const Nonce& nonce) {
  if (!nonces.insert(nonce).second) return false;
  nonces_in_order.push_back(nonce);
  if (nonces_in_order.size() > kRememberedNonces) {
    nonces.erase(nonces_in_order.front());
    nonces_in_order.pop_front();
  }
  return true;
}

// What is said in clear; whether it is true, the proof will tell.
bool LinkHub::State::check_peer(Link* link, const format::WireHello& hello) {
  const std::string node = name_of_field(hello.node);
  WireReason reason = format::kReasonNone;
  if (name_of_field(hello.cluster) != options.cluster) {
    reason = format::kReasonCluster;
  } else if (node == options.node || is_own_nonce(nonce_of(hello))) {
    reason = format::kReasonReflected;
  } else if (link->outgoing && node != link->peer) {
    reason = format::kReasonName;
  } else if (!link->outgoing && !remember(nonce_of(hello))) {
    reason = format::kReasonReplay;
  }
  if (!link->outgoing) link->peer = node;
  if (reason == format::kReasonNone) return true;
  refuse(link, reason);
  return false;
}

// Both hellos are known, and the peer's proof is right.
Result<void> LinkHub::State::agree(Link* link, Role own) {
  CR_TRY(link->ciphers, key.derive(own, link->hello, link->ack.hello));
  const uint64_t features = link->hello.features | link->ack.hello.features;
  link->encrypted = (features & format::kWireEncrypt) != 0;
  link->tagged_blocks = link->encrypted || (features & format::kWireBlockTags) != 0;
  link->peer_epoch = own == Role::kInitiator ? link->ack.hello.epoch : link->hello.epoch;
  return {};
}

void LinkHub::State::take_hello(Link* link, ByteSpan bytes) {
  const auto hello = format::read_hello(bytes.data(), bytes.size());
  if (!hello) {
    return refuse(link, hello.error().code == Errc::kUnsupported ? format::kReasonFeature
                                                                 : format::kReasonGarbage);
  }
  if (!check_peer(link, *hello)) return;
  link->hello = *hello;
  Result<void> done = fill_hello(&link->ack.hello, format::kWireHelloAck);
  if (!done) return fail(link, done.error(), done.error().what);
  const auto proof = key.prove(Role::kAcceptor, bytes_of(link->hello), bytes_of(link->ack.hello));
  if (!proof) return fail(link, proof.error(), proof.error().what);
  memcpy(link->ack.proof, proof->data(), proof->size());
  link->phase = Phase::kAwaitAuth;
  send_raw(link, bytes_of(link->ack));
}

void LinkHub::State::take_ack(Link* link, ByteSpan bytes) {
  const auto sent_back = format::read_hello(bytes.data(), bytes.size());
  if (sent_back && nonce_of(*sent_back) == nonce_of(link->hello)) {
    return refuse(link, format::kReasonReflected);
  }
  const auto ack = format::read_hello_ack(bytes.data(), bytes.size());
  if (!ack) {
    return refuse(link, ack.error().code == Errc::kUnsupported ? format::kReasonFeature
                                                               : format::kReasonGarbage);
  }
  if (!check_peer(link, ack->hello)) return;
  auto proof = key.prove(Role::kAcceptor, bytes_of(link->hello), bytes_of(ack->hello));
  if (!proof) return fail(link, proof.error(), proof.error().what);
  if (!equal_secret(*proof, ack->proof)) return refuse(link, format::kReasonKey);
  link->ack = *ack;
  const auto own = key.prove(Role::kInitiator, bytes_of(link->hello), bytes_of(link->ack));
  if (!own) return fail(link, own.error(), own.error().what);
  const auto agreed = agree(link, Role::kInitiator);
  if (!agreed) return fail(link, agreed.error(), agreed.error().what);
  format::WireAuth auth{
      format::make_prefix(format::kWireAuth, sizeof(auth) - sizeof(format::WirePrefix), 0), {}};
  memcpy(auth.proof, own->data(), own->size());
  link->phase = Phase::kAwaitFrame;
  send_raw(link, bytes_of(auth));
}

void LinkHub::State::take_auth(Link* link, ByteSpan bytes) {
  const auto auth = format::read_auth(bytes.data(), bytes.size());
  if (!auth) return refuse(link, format::kReasonGarbage);
  const auto proof = key.prove(Role::kInitiator, bytes_of(link->hello), bytes_of(link->ack));
  if (!proof) return fail(link, proof.error(), proof.error().what);
  if (!equal_secret(*proof, auth->proof)) return refuse(link, format::kReasonKey);
  const auto agreed = agree(link, Role::kAcceptor);
  if (!agreed) return fail(link, agreed.error(), agreed.error().what);
  ping(link);  // the first frame: it tells the initiator that its proof was accepted
  if (link->phase != Phase::kEnding) go_up(link);
}

void LinkHub::State::take_handshake(Link* link, ByteSpan bytes) {
  const auto refusal = format::read_refuse(bytes.data(), bytes.size());
  if (refusal) return told_refused(link, *refusal);
  const auto prefix = format::read_wire_prefix(bytes.data(), bytes.size());
  if (!prefix) return refuse(link, reason_of(prefix.error()));
  switch (link->phase) {
    case Phase::kAwaitHello:
      return take_hello(link, bytes);
    case Phase::kAwaitAck:
      return take_ack(link, bytes);
    default:
      return take_auth(link, bytes);
  }
}

void LinkHub::State::go_up(Link* link) {
  link->phase = Phase::kUp;
  link->told = true;
  transport->allow_puts(link->connection);
  link->last_received_ns = now_ns;
  handler->on_up(link->id, link->peer);
}

// ---- frames ------------------------------------------------------------------------------------
Result<void> LinkHub::State::send_frame(Link* link, uint16_t type, ByteSpan payload, Done on_done) {
  const uint64_t bytes = sizeof(format::WireFrame) + payload.size() + format::kWireTagBytes;
  // Asked before, because a counter must be neither skipped nor used for two frames.
  if (transport->queued_bytes(link->connection) + bytes > options.transport.most_queued_bytes) {
    return Error{Errc::kBusy, 0, "too many messages wait: the peer takes them too slowly"};
  }
  const format::WireFrame frame{
      format::make_prefix(type, payload.size(), link->encrypted ? format::kWireEncrypted : 0),
      options.epoch, ++link->sent};
  std::vector<uint8_t> message(bytes);
  memcpy(message.data(), &frame, sizeof(frame));
  const std::span<uint8_t> body(message.data() + sizeof(frame), payload.size());
  if (!link->encrypted && !payload.empty()) memcpy(body.data(), payload.data(), payload.size());
  Tag tag;
  Result<void> done =
      link->ciphers->send.seal(SealDomain::kFrame, link->sent, bytes_of(frame), payload,
                               link->encrypted ? body : std::span<uint8_t>(), &tag);
  memcpy(message.data() + bytes - tag.size(), tag.data(), tag.size());
  if (done) done = transport->send(link->connection, std::move(message), std::move(on_done));
  if (!done) {
    const Error error = done.error();
    fail(link, error, error.what);
    return error;
  }
  link->last_sent_ns = now_ns;
  return {};
}

void LinkHub::State::take_frame(Link* link, ByteSpan bytes) {
  const auto damaged = [this, link](const char* what) {
    fail(link, {Errc::kDamaged, 0, what},
         std::string(what) + "; the link is given up. If that happens again, check the network");
  };
  const auto view = format::read_frame(bytes.data(), bytes.size());
  if (!view) return damaged(view.error().what);
  const format::WireFrame& frame = view->frame;
  if (((frame.prefix.flags & format::kWireEncrypted) != 0) != link->encrypted) {
    return damaged("a message is not encrypted as was agreed");
  }
  ByteSpan payload(view->payload, frame.prefix.payload_bytes);
  std::span<uint8_t> out;
  if (link->encrypted) {
    plain.resize(format::kMostWireBytes);
    out = std::span<uint8_t>(plain.data(), payload.size());
  }
  const auto opened = link->ciphers->receive.open(
      SealDomain::kFrame, frame.counter, bytes_of(frame), payload, out, tag_from(view->tag));
  if (!opened) return damaged("a message is not authentic");
  if (frame.counter <= link->received) return damaged("a message was repeated");
  if (frame.counter != link->received + 1) return damaged("a message is missing");
  if (frame.epoch < link->peer_epoch) return damaged("the epoch of a message is older than before");
  link->received = frame.counter;
  link->peer_epoch = frame.epoch;
  link->last_received_ns = now_ns;
  if (link->phase == Phase::kAwaitFrame) go_up(link);
  if (link->phase != Phase::kUp) return;  // on_up has closed it
  take_payload(link, frame.prefix.type, link->encrypted ? ByteSpan(out) : payload);
}

void LinkHub::State::take_payload(Link* link, uint16_t type, ByteSpan payload) {
  if (type >= format::kWireFirstFree) return handler->on_message(link->id, type, payload);
  const auto asked = format::read_ping(payload.data(), payload.size());
  if (!asked) return fail(link, asked.error(), asked.error().what);
  if (type == format::kWirePing) {
    // If too much waits, the peer hears of us by that.
    (void)send_frame(link, format::kWirePong, payload, {});
  } else if (asked->number == link->pings && asked->sent_ns <= now_ns) {
    link->rtt_ns = now_ns - asked->sent_ns;
  }
}

void LinkHub::State::ping(Link* link) {
  const format::WirePing ask{now_ns, ++link->pings};
  (void)send_frame(link, format::kWirePing, bytes_of(ask), {});
  link->last_sent_ns = now_ns;  // also if it could not be sent: not at each tick
}

// ---- time --------------------------------------------------------------------------------------
uint64_t LinkHub::State::deadline(const Link& link) const {
  switch (link.phase) {
    case Phase::kUp:
      return std::min(link.last_received_ns + options.silence_ns,
                      link.last_sent_ns + options.heartbeat_ns);
    case Phase::kRefused:
      return link.began_ns + kLingerNs;
    case Phase::kEnding:
      return ~0ull;
    default:
      return link.began_ns + options.handshake_ns;
  }
}

void LinkHub::State::tick_link(Link* link) {
  if (now_ns < deadline(*link)) return;
  switch (link->phase) {
    case Phase::kUp:
      if (now_ns >= link->last_received_ns + options.silence_ns) {
        return fail(link, {Errc::kTimeout, 0, "the peer is silent"},
                    "nothing was heard of it for " +
                        std::to_string((now_ns - link->last_received_ns) / 1'000'000) +
                        " ms; check that it runs and can be reached");
      }
      return ping(link);
    case Phase::kRefused:
      link->phase = Phase::kEnding;
      return transport->close(link->connection);
    default:
      if (link->outgoing) {
        return fail(
            link, {Errc::kTimeout, 0, "the handshake took too long"},
            "it does not answer; check that crstored runs there and its port is not blocked");
      }
      return refuse(link, format::kReasonTimeout);
  }
}

void LinkHub::tick(uint64_t now_ns) {
  State& s = *state_;
  // Long without a tick: this process did not run. What was sent to it meanwhile still waits.
  const uint64_t gap = now_ns > s.last_tick_ns ? now_ns - s.last_tick_ns : 0;
  const uint64_t usual = 2 * s.options.heartbeat_ns;
  for (auto& [id, link] : s.links) {
    if (gap <= usual) break;
    link->last_received_ns = std::min(link->last_received_ns + gap - usual, now_ns);
    link->began_ns = std::min(link->began_ns + gap - usual, now_ns);
  }
  s.last_tick_ns = std::max(now_ns, s.last_tick_ns);
  progress(now_ns);
  std::vector<LinkId> ids;  // a handler may add links
  for (const auto& [id, link] : s.links) ids.push_back(link->id);
  for (const LinkId id : ids) {
    if (Link* link = s.find(id)) s.tick_link(link);
  }
}

uint64_t LinkHub::next_tick_ns() const {
  uint64_t next = ~0ull;
  for (const auto& [id, link] : state_->links) next = std::min(next, state_->deadline(*link));
  return next;
}

// ---- what the transport tells ------------------------------------------------------------------
void LinkHub::on_accept(ConnectionId id, const std::string& address) {
  State& s = *state_;
  const uint32_t unproven = s.unproven();
  Link* link = s.add(id, false, address);
  // Those that are being refused count, too; beyond twice the limit there is not even an answer.
  if (unproven >= 2 * s.options.most_unproven) {
    s.fail(link, {Errc::kBusy, 0, "too many connections"}, "too many connections");
  } else if (unproven >= s.options.most_unproven) {
    s.refuse(link, format::kReasonBusy);
  }
}

void LinkHub::on_message(ConnectionId id, std::span<const uint8_t> bytes) {
  State& s = *state_;
  Link* link = s.find(id);
  if (link == nullptr || link->phase == Phase::kRefused) return;
  if (link->phase == Phase::kUp) return s.take_frame(link, bytes);
  if (link->phase != Phase::kAwaitFrame) return s.take_handshake(link, bytes);
  const auto refusal = format::read_refuse(bytes.data(), bytes.size());
  if (refusal) return s.told_refused(link, *refusal);
  s.take_frame(link, bytes);
}

void LinkHub::on_down(ConnectionId id, const Error& error) {
  State& s = *state_;
  const auto found = s.links.find(static_cast<uint64_t>(id));
  if (found == s.links.end()) return;
  const std::unique_ptr<Link> link = std::move(found->second);
  s.links.erase(found);
  std::erase_if(s.remote_regions,
                [&link](const auto& region) { return region.second.link == link->id; });
  if (!link->told) return;
  // Ended by the peer, not by us: what was refused before is still the reason.
  if (link->phase != Phase::kEnding && link->phase != Phase::kRefused) {
    link->error = error;
    link->text = s.who(*link) + ": " + error.what +
                 (error.sys_errno != 0 ? std::string(": ") + strerror(error.sys_errno) : "") +
                 (link->phase == Phase::kUp ? "; the node or the network has failed"
                                            : "; check that crstored runs there");
  }
  s.handler->on_down(link->id, link->error, link->text);
}

void LinkHub::on_stranger(WireReason reason, const std::string& address) {
  const ReasonText& r = kReasons[reason];
  state_->handler->on_refused(
      reason, address, "the node at " + address + " was refused: " + r.cause + "; " + r.next);
}

// ---- the interface -----------------------------------------------------------------------------
LinkHub::LinkHub(std::unique_ptr<State> state) : state_(std::move(state)) {}
LinkHub::~LinkHub() = default;

Result<std::unique_ptr<LinkHub>> LinkHub::create(const LinkOptions& options, SessionKey key,
                                                 LinkHandler* handler, uint64_t now_ns) {
  if (!format::is_wire_name(options.cluster.data(), options.cluster.size()) ||
      !format::is_wire_name(options.node.data(), options.node.size())) {
    return Error{Errc::kInvalid, 0,
                 "a cluster or node name must be 1 to 63 of the characters A-Z a-z 0-9 . _ -"};
  }
  if (options.heartbeat_ns == 0 || options.silence_ns < 2 * options.heartbeat_ns ||
      options.handshake_ns == 0) {
    return Error{Errc::kInvalid, 0, "the silence must be at least two heartbeats long"};
  }
  std::unique_ptr<LinkHub> hub(
      new LinkHub(std::make_unique<State>(options, std::move(key), handler, now_ns)));
  CR_TRY(hub->state_->transport, Transport::create(options.transport, hub.get()));
  return hub;
}

Result<uint16_t> LinkHub::listen(const std::string& host, uint16_t port) {
  CR_TRY(const Address address, look_up(host, port));
  return state_->transport->listen(address);
}

Result<uint16_t> LinkHub::listen(const Address& address) {
  return state_->transport->listen(address);
}

Result<LinkId> LinkHub::connect(const std::string& member, const std::string& host, uint16_t port) {
  CR_TRY(const Address address, look_up(host, port));
  return connect(member, host + ":" + std::to_string(port), address);
}

Result<LinkId> LinkHub::connect(const std::string& member, const std::string& name,
                                const Address& address) {
  State& s = *state_;
  if (!format::is_wire_name(member.data(), member.size())) {
    return Error{Errc::kInvalid, 0, "not a name of a node"};
  }
  format::WireHello hello{};
  CR_TRYV(s.fill_hello(&hello, format::kWireHello));
  CR_TRY(const ConnectionId connection, s.transport->connect(address));
  Link* link = s.add(connection, true, name);
  link->peer = member;
  link->hello = hello;
  s.send_raw(link, bytes_of(hello));
  return link->id;
}

void LinkHub::close(LinkId id) {
  Link* link = state_->find(id);
  if (link != nullptr) state_->fail(link, {}, "closed by this node");
}

Result<void> LinkHub::send(LinkId id, uint16_t type, std::span<const uint8_t> payload,
                           Done on_done) {
  Link* link = state_->find(id);
  if (link == nullptr) return kNoLink;
  if (link->phase != Phase::kUp) return kNotUp;
  if (type < format::kWireFirstFree || payload.size() > format::kMostWirePayload) {
    return Error{Errc::kInvalid, 0, "a message of a wrong type or too long"};
  }
  return state_->send_frame(link, type, payload, std::move(on_done));
}

// ---- blocks ------------------------------------------------------------------------------------
Result<Region> LinkHub::register_region(void* data, uint64_t bytes,
                                        std::shared_ptr<const void> owner) {
  CR_TRY(const MemoryHandle memory,
         state_->transport->register_memory(data, bytes, std::move(owner)));
  const MemoryKey& key = memory.key;
  return Region{static_cast<RegionId>(memory.id), {key.address, key.bytes, key.number, key.cookie}};
}

void LinkHub::unregister_region(RegionId id) {
  state_->transport->unregister_memory(static_cast<MemoryId>(id));
}

Result<RemoteRegionId> LinkHub::import_region(LinkId id, const format::WireRegion& region) {
  State& s = *state_;
  Link* link = s.find(id);
  if (link == nullptr) return kNoLink;
  CR_TRYV(format::read_region(reinterpret_cast<const uint8_t*>(&region), sizeof(region)));
  CR_TRY(const RemoteKeyId key,
         s.transport->import_key(link->connection,
                                 {region.address, region.bytes, region.number, region.cookie}));
  s.remote_regions[++s.last_region] = {id, region.bytes, key};
  return static_cast<RemoteRegionId>(s.last_region);
}

void LinkHub::drop_region(RemoteRegionId id) {
  const auto found = state_->remote_regions.find(static_cast<uint64_t>(id));
  if (found == state_->remote_regions.end()) return;
  state_->transport->drop_key(found->second.key);
  state_->remote_regions.erase(found);
}

Result<format::BlockSeal> LinkHub::put_block(LinkId id, std::span<const uint8_t> data,
                                             RemoteRegionId region, uint64_t offset, Done on_done,
                                             const uint64_t* xxh3) {
  State& s = *state_;
  Link* link = s.find(id);
  const auto found = s.remote_regions.find(static_cast<uint64_t>(region));
  if (link == nullptr) return kNoLink;
  if (found == s.remote_regions.end() || found->second.link != id) {
    return Error{Errc::kNotFound, 0, "no such region of this link"};
  }
  if (link->phase != Phase::kUp) return kNotUp;
  const State::RemoteRegion to = found->second;
  if (data.empty() || data.size() > format::kMostBlockBytes || offset > to.bytes ||
      data.size() > to.bytes - offset) {
    return Error{Errc::kInvalid, 0, "the block does not fit into the peer's region"};
  }
  BouncePool::Buffer copy;
  if (link->encrypted) {
    copy = s.bounce.take(data.size());
    if (!copy.data) return Error{Errc::kBusy, 0, "too many encrypted blocks are in flight"};
  }
  const std::span<uint8_t> out(copy.data.get(), link->encrypted ? data.size() : 0);
  const SealHead head{++link->sent_blocks, data.size(),
                      xxh3 != nullptr ? *xxh3 : format::checksum(data.data(), data.size())};
  Tag tag{};
  Result<void> done;
  if (link->tagged_blocks) {
    done =
        link->ciphers->send.seal(SealDomain::kBlock, head.counter, bytes_of(head), data, out, &tag);
  }
  if (done) {
    const ByteSpan sent = link->encrypted ? ByteSpan(out) : data;
    // A function must be copyable, and the copy of the block is not.
    auto kept = std::make_shared<BouncePool::Buffer>(std::move(copy));
    done = s.transport->put(
        link->connection, sent, to.key, offset,
        [&s, id, kept, bytes = data.size(), then = std::move(on_done)](const Result<void>& r) {
          if (kept->data) s.bounce.give_back(std::move(*kept));
          Link* still = s.find(id);
          if (r && still != nullptr) still->put_bytes += bytes;
          if (then) then(r);
        });
    if (!done && kept->data) s.bounce.give_back(std::move(*kept));
  } else if (copy.data) {
    s.bounce.give_back(std::move(copy));
  }
  if (!done) return done.error();
  format::BlockSeal seal{head.counter, head.bytes, head.xxh3, {}};
  memcpy(seal.tag, tag.data(), tag.size());
  return seal;
}

Result<void> LinkHub::open_block(LinkId id, const format::BlockSeal& seal, void* data,
                                 uint64_t bytes, const uint64_t* xxh3) {
  Link* link = state_->find(id);
  if (link == nullptr) return kNoLink;
  if (!link->ciphers) return kNotUp;
  CR_TRYV(format::read_block_seal(reinterpret_cast<const uint8_t*>(&seal), sizeof(seal)));
  if (bytes != seal.bytes) return Error{Errc::kInvalid, 0, "not the length of the sealed block"};
  if (!link->tagged_blocks) {
    if ((xxh3 != nullptr ? *xxh3 : format::checksum(data, bytes)) == seal.xxh3) return {};
    return Error{Errc::kDamaged, 0, "the data are not what the peer sealed"};
  }
  const SealHead head{seal.counter, seal.bytes, seal.xxh3};
  const std::span<uint8_t> block(static_cast<uint8_t*>(data), bytes);
  return link->ciphers->receive.open(SealDomain::kBlock, seal.counter, bytes_of(head), block,
                                     link->encrypted ? block : std::span<uint8_t>(),
                                     tag_from(seal.tag));
}

// ---- the rest ----------------------------------------------------------------------------------
void LinkHub::set_epoch(uint64_t epoch) {
  state_->options.epoch = std::max(epoch, state_->options.epoch);
}

Result<LinkStatus> LinkHub::status(LinkId id) const {
  const Link* link = state_->find(id);
  if (link == nullptr) return kNoLink;
  LinkStatus status;
  status.peer = link->peer;
  status.address = link->address;
  status.up = link->phase == Phase::kUp;
  status.outgoing = link->outgoing;
  status.encrypted = link->encrypted;
  status.tagged_blocks = link->tagged_blocks;
  status.peer_epoch = link->peer_epoch;
  status.rtt_ns = link->rtt_ns;
  status.last_received_ns = link->last_received_ns;
  status.sent_messages = link->sent;
  status.received_messages = link->received;
  status.put_bytes = link->put_bytes;
  status.queued_bytes = state_->transport->queued_bytes(link->connection);
  return status;
}

bool LinkHub::outgoing(LinkId id) const {
  const Link* link = state_->find(id);
  return link != nullptr && link->outgoing;
}

bool LinkHub::has_tags(LinkId id) const {
  const Link* link = state_->find(id);
  return link != nullptr && link->tagged_blocks;
}

int LinkHub::event_fd() const { return state_->transport->event_fd(); }
Result<bool> LinkHub::arm() { return state_->transport->arm(); }

unsigned LinkHub::progress(uint64_t now_ns) {
  state_->now_ns = std::max(now_ns, state_->now_ns);
  return state_->transport->progress();
}

}  // namespace cr::node
