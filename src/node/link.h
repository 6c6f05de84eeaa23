// SPDX-License-Identifier: MIT
// link.h - authenticated connections between the nodes of a cluster: handshake, frames, sealed
// blocks, heartbeats.
// Invariant: on_up and on_message are only called for a peer that has proved that it has the key;
// each of its messages is delivered at most once, in order, and unchanged, or the link goes down;
// a block is only opened if every byte is as it was sealed. For each LinkId that connect() has
// returned or on_up has told, on_down is called exactly once, and it is the last call about it.
// Context: N; one thread at a time. Handler and on_done are called from progress() and tick() only.
// The time is what the caller passes (CLOCK_MONOTONIC in nanoseconds; must never go back).
//
// Two nodes may connect to each other at the same moment, and then have two links. Both work;
// which one to keep is the caller's decision (see outgoing()).
//
// The main loop of a caller:
//   for (;;) {
//     while (hub.progress(now) != 0) {}
//     hub.tick(now);
//     if (something came less than kLookOnNs ago || !*hub.arm()) continue;
//     epoll_wait(... hub.event_fd() ..., until hub.next_tick_ns());
//   }
#pragma once

#include <stdint.h>

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/base.h"
#include "format/wire.h"
#include "node/session_key.h"
#include "node/transport.h"

namespace cr::node {

// For so long after something came, a main loop looks again and again instead of sleeping: between
// the pieces of a block less time passes than a sleeping thread takes to wake up (bulk transfers
// over loopback took 1.3 times as long without it).
inline constexpr uint64_t kLookOnNs = 100'000;

// Never used again for another link.
enum class LinkId : uint64_t { kNone = 0 };
// A peer's memory that this node may put blocks into; of one link, ends with it.
enum class RemoteRegionId : uint64_t { kNone = 0 };
// Memory of this node that peers may put blocks into.
enum class RegionId : uint64_t { kNone = 0 };

class LinkHandler {
 public:
  virtual ~LinkHandler() = default;
  // The link is up: both sides have proved that they have the key. peer: its node name.
  virtual void on_up(LinkId id, const std::string& peer) = 0;
  // type: as sent, >= format::kWireFirstFree. payload: there until the call returns, not aligned.
  virtual void on_message(LinkId id, uint16_t type, std::span<const uint8_t> payload) = 0;
  // The link has ended; of an outgoing link also: it could not be made. kOk: by close().
  // kAgentGone: the peer or the network ended it. kTimeout: the peer is silent. kPermission: the
  // handshake was refused (on_refused was called before). kDamaged: a message was forged, replayed
  // or lost. text: peer, its address, the cause.
  // Every on_done of the link has been called before; the peer can put nothing any more.
  virtual void on_down(LinkId id, const Error& error, const std::string& text) = 0;
  // A connection was refused, by this node or by the peer. text: address, cause, next step; a line
  // for the log. Called at most once for each connection.
  virtual void on_refused(format::WireReason reason, const std::string& address,
                          const std::string& text) = 0;
};

struct LinkOptions {
  std::string cluster;   // both: 1 to 63 of the characters A-Z a-z 0-9 . _ -
  std::string node;      // of this node, unique in the cluster
  uint64_t epoch = 0;    // see set_epoch()
  bool encrypt = false;  // a link is encrypted if one of its two sides wants it
  // Blocks, too, are authenticated if one side wants it or the link is encrypted. Else they are
  // only compared with the XXH3 in their seal, which is authenticated: that finds every accident,
  // but not somebody who can change what others send.
  bool tag_blocks = true;
  uint64_t heartbeat_ns = 1'000'000'000;  // a ping after so long without sending
  uint64_t silence_ns = 5'000'000'000;    // down after so long without receiving
  uint64_t handshake_ns = 5'000'000'000;  // refused if not up after so long
  uint32_t most_unproven = 64;            // incoming connections in their handshake
  uint64_t most_bounce_bytes = 64 << 20;  // copies of blocks in flight, for encryption; all links
  TransportOptions transport;
};

struct LinkStatus {
  std::string peer;     // node name; of an outgoing link the one that was asked for
  std::string address;  // host:port
  bool up = false;
  bool outgoing = false;  // this node called connect()
  bool encrypted = false;
  bool tagged_blocks = false;
  uint64_t peer_epoch = 0;        // the newest that the peer has sent
  uint64_t rtt_ns = 0;            // of the last ping, 0: none yet
  uint64_t last_received_ns = 0;  // of the time that was passed in
  uint64_t sent_messages = 0, received_messages = 0;
  uint64_t put_bytes = 0;     // of blocks that are complete at the peer
  uint64_t queued_bytes = 0;  // of messages that wait
};

// For peers: where they may put blocks.
struct Region {
  RegionId id = RegionId::kNone;
  format::WireRegion wire{};  // to be sent in a message; for the peer's import_region()
};

class LinkHub : private TransportHandler {
 public:
  // key: taken over. handler: must live longer than the hub. now_ns: see above.
  // Errors: kInvalid (a name, or times that do not fit), and those of Transport::create().
  static Result<std::unique_ptr<LinkHub>> create(const LinkOptions& options, SessionKey key,
                                                 LinkHandler* handler, uint64_t now_ns);
  ~LinkHub() override;  // ends all links without any call

  // As Transport::listen().
  Result<uint16_t> listen(const std::string& host, uint16_t port);
  Result<uint16_t> listen(const Address& address);
  // Begins to connect to the node `member`; refused if another node answers. Then on_up, or
  // on_down. Never tries again by itself, nor waits. name: of the address, for people. Errors:
  // kInvalid, kSystem.
  Result<LinkId> connect(const std::string& member, const std::string& name,
                         const Address& address);
  // The same by the host's name, which is looked up first, for as long as that takes.
  Result<LinkId> connect(const std::string& member, const std::string& host, uint16_t port);
  // Ends a link; on_down(kOk) follows. An id that is gone is no error.
  void close(LinkId id);

  // type: >= format::kWireFirstFree. payload: at most format::kMostWirePayload bytes; copied.
  // on_done: the message was taken by the network; not that it has arrived.
  // Errors: kNotFound (no such link), kBusy (not up, or too many messages wait), kInvalid.
  Result<void> send(LinkId id, uint16_t type, std::span<const uint8_t> payload, Done on_done = {});

  // Offers memory to peers. data, owner: as of Transport::register_memory(): without an owner
  // unregister_region() has to wait until every link whose peer got `wire` is down, or the peer has
  // said that it will put no more.
  Result<Region> register_region(void* data, uint64_t bytes,
                                 std::shared_ptr<const void> owner = nullptr);
  void unregister_region(RegionId id);
  // region: as the peer sent it in a message; every field is checked. Errors: kNotFound, kDamaged.
  Result<RemoteRegionId> import_region(LinkId id, const format::WireRegion& region);
  void drop_region(RemoteRegionId id);  // not while a put_block() to it is in flight

  // Puts a block into a region of the peer, sealed. data: not changed by the caller until on_done
  // (with encryption it is copied, and may change at once); 1 byte to 64 MiB. offset: in the
  // region.
  // xxh3: what goes into the seal instead of XXH3-64 of data; nullptr: that is computed. A caller
  // may have it already, or seal less than all, if the peer compares the rest in another way.
  // Returns the seal, to be sent in a message when on_done has told success: then the block is
  // complete in the peer's memory. Several blocks may be in flight; but a message waits until the
  // blocks before it are sent, pings too, so never as many as the network needs silence_ns for.
  // Errors: kNotFound, kBusy (not up; most_bounce_bytes are in flight: wait for an on_done),
  // kInvalid (does not fit into the region), kSystem.
  Result<format::BlockSeal> put_block(LinkId id, std::span<const uint8_t> data,
                                      RemoteRegionId region, uint64_t offset, Done on_done,
                                      const uint64_t* xxh3 = nullptr);
  // Checks, and with encryption decrypts in place, a block that the peer of this link has put.
  // seal: from a message of this link. data: seal.bytes bytes of a registered region. After
  // success nobody but an authenticated peer that misbehaves can have changed it; copy it out or
  // make it known as free to the peer only when it has been used.
  // Errors: kNotFound, kInvalid (bytes is not seal.bytes), kDamaged (not the block that was
  // sealed, or not all of it; with encryption the memory is filled with zeros).
  // xxh3: what the peer must have sealed; nullptr: XXH3-64 of data. With tags they alone count.
  Result<void> open_block(LinkId id, const format::BlockSeal& seal, void* data, uint64_t bytes,
                          const uint64_t* xxh3 = nullptr);

  // The epoch that all frames from now on carry (NodeStates::epoch()). A smaller one than before is
  // passed over.
  void set_epoch(uint64_t epoch);
  Result<LinkStatus> status(LinkId id) const;
  // Both sides see the same: the node that connected is the one for which this is true.
  bool outgoing(LinkId id) const;
  // Blocks of this link have tags (LinkOptions::tag_blocks). false: or there is no such link.
  bool has_tags(LinkId id) const;

  int event_fd() const;
  Result<bool> arm();                  // as Transport::arm()
  unsigned progress(uint64_t now_ns);  // as Transport::progress()
  // Pings, and ends what has been silent or in its handshake for too long. Call it at
  // next_tick_ns() or earlier. If it was called late (the process itself was stopped), that time
  // is not counted as the peers' silence.
  void tick(uint64_t now_ns);
  uint64_t next_tick_ns() const;

 private:
  struct Link;
  struct State;
  explicit LinkHub(std::unique_ptr<State> state);
  void on_accept(ConnectionId id, const std::string& address) override;
  void on_message(ConnectionId id, std::span<const uint8_t> bytes) override;
  void on_down(ConnectionId id, const Error& error) override;
  void on_stranger(format::WireReason reason, const std::string& address) override;

  std::unique_ptr<State> state_;
};

}  // namespace cr::node
