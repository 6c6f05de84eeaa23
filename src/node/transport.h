// SPDX-License-Identifier: MIT
// transport.h - connections between node daemons by UCX: small messages in order, and blocks that
// are put into the memory of the peer.
// Invariant: the handler and the on_done functions are only called from progress(), and never from
// inside UCX; each on_done is called exactly once, and only when UCX no longer reads the memory of
// its operation; on_down is the last call about a connection, exactly one for each, and from then
// on that peer's puts change nothing here.
// Context: N; one thread at a time, beside which UCX runs one of its own: who forks has to exec.
// May allocate; never blocks. Reads no clock: a peer that falls silent is the business of link.h.
//
// A put is a rendezvous: the peer's transport is asked, checks that the block lies in memory which
// it has offered, and lets UCX write it there, with one copy less than a message and by the device
// where there is RDMA. (UCX's own put has no such check, and over tcp it is cut into pieces of
// 8 KiB that are answered one by one.)
//
// UCX listens at a port that the kernel chooses; who connects is told of it at the one that is
// given (gate.h), if it speaks our protocol.
//
// Nothing here is authenticated. Besides, some of UCX's transports write to whatever address their
// peer names, and they listen on ports of their own: whoever reaches those and speaks UCX's inner
// protocol can harm this process. The network has to be one that only the nodes reach;
// UCX_NET_DEVICES chooses it. UCX_TLS and the other settings of UCX come from the environment.
#pragma once

#include <stdint.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/base.h"
#include "format/wire.h"
#include "node/address.h"

namespace cr::node {

// Never used again for another connection.
enum class ConnectionId : uint64_t { kNone = 0 };
// Memory of ours that peers may put into.
enum class MemoryId : uint64_t { kNone = 0 };
// A peer's memory, as seen from one connection; ends with it.
enum class RemoteKeyId : uint64_t { kNone = 0 };

// How an operation ended. An empty function is not called.
using Done = std::function<void(const Result<void>&)>;

class TransportHandler {
 public:
  virtual ~TransportHandler() = default;
  // Somebody connected to us. address: "host:port" of the peer, in digits.
  virtual void on_accept(ConnectionId id, const std::string& address) = 0;
  // The bytes are there until the call returns. Not aligned.
  virtual void on_message(ConnectionId id, std::span<const uint8_t> bytes) = 0;
  // The connection has ended, or could not be made. kOk: by close(). kAgentGone: by the peer or the
  // network; `what` says how. Every on_done of the connection has been called before.
  virtual void on_down(ConnectionId id, const Error& error) = 0;
  // Who connected to us was sent away before it was a connection.
  virtual void on_stranger(format::WireReason reason, const std::string& address) = 0;
};

struct TransportOptions {
  std::string tls;  // "": as UCX_TLS in the environment says; else instead of it ("tcp")
  // Of messages that wait to be sent on one connection; send() refuses more.
  uint64_t most_queued_bytes = 16 << 20;
};

// What a peer must know of memory that it may put into.
struct MemoryKey {
  uint64_t address = 0, bytes = 0;
  uint64_t number = 0, cookie = 0;
};

struct MemoryHandle {
  MemoryId id = MemoryId::kNone;
  MemoryKey key;  // for the peer's import_key()
};

class Transport {
 public:
  // handler: must live longer than the transport.
  // Errors: kSystem (UCX has no transport that works; UCX_TLS may be wrong), kNoMemory.
  static Result<std::unique_ptr<Transport>> create(const TransportOptions& options,
                                                   TransportHandler* handler);
  virtual ~Transport() = default;  // ends all connections without any call

  // Accepts connections at an address of ours. port 0: a free one. Returns the port. Once only.
  // Errors: kBusy (the port is in use), kAlready, kSystem.
  virtual Result<uint16_t> listen(const Address& address) = 0;
  // Begins to connect. What is sent meanwhile waits; failure is told by on_down.
  // Errors: kSystem.
  virtual Result<ConnectionId> connect(const Address& peer) = 0;
  // Ends a connection: operations that have not ended fail with kAgentGone, then on_down(kOk).
  // Messages may be lost that the peer has not received yet. An id that is gone is no error.
  virtual void close(ConnectionId id) = 0;

  // Sends at most 16 KiB; messages of a connection arrive in order, and whole. on_done: UCX has
  // taken the bytes; it does not mean that they have arrived.
  // Errors: kNotFound (no such connection), kInvalid (too long or empty), kBusy (too many wait:
  // the peer is slow).
  virtual Result<void> send(ConnectionId id, std::vector<uint8_t> bytes, Done on_done) = 0;
  virtual uint64_t queued_bytes(ConnectionId id) const = 0;

  // data: stays until unregister_memory() and, as a put that has begun is not stopped by that, for
  // as long as `owner` is kept here. Without an owner unregister_memory() may be called only when
  // all connections that got the key are down, or their peers have said that they will put no more.
  // Errors: kInvalid, kSystem.
  virtual Result<MemoryHandle> register_memory(void* data, uint64_t bytes,
                                               std::shared_ptr<const void> owner = nullptr) = 0;
  virtual void unregister_memory(MemoryId id) = 0;
  // From now on the peer of this connection may put; before, its puts are refused.
  virtual void allow_puts(ConnectionId id) = 0;

  // key: as MemoryHandle has it, from the peer of this connection. Ends with the connection or by
  // drop_key(). Errors: kNotFound, kInvalid.
  virtual Result<RemoteKeyId> import_key(ConnectionId id, const MemoryKey& key) = 0;
  virtual void drop_key(RemoteKeyId key) = 0;

  // Writes `data`, at most format::kMostBlockBytes, to the peer's memory. data: unchanged by the
  // caller until on_done. offset: in the memory of the key. on_done: success means that all bytes
  // are in the peer's memory: the peer has said so. Any number may be in flight; they may overtake
  // each other, and messages.
  // Errors: kNotFound, kInvalid (empty, too long, or not in the memory of the key).
  virtual Result<void> put(ConnectionId id, std::span<const uint8_t> data, RemoteKeyId key,
                           uint64_t offset, Done on_done) = 0;

  // For epoll, level-triggered, valid after arm() has returned true. Owned by the transport.
  virtual int event_fd() const = 0;
  // True: nothing is to be done until event_fd() is readable. False: call progress() again first.
  virtual Result<bool> arm() = 0;
  // Does what can be done without waiting; returns how much was done, 0: nothing (only arm() tells
  // whether it will stay so). Not to be called
  // from a handler or an on_done.
  virtual unsigned progress() = 0;
};

}  // namespace cr::node
