// SPDX-License-Identifier: MIT
// wire.h - every struct that two node daemons send each other to set up and keep a link: the
// handshake, the header of a frame, the seal of a block, the description of a memory region.
// Invariant: fixed width, little endian, explicit padding; the first 16 bytes of a frame
// (WirePrefix) and all of WireRefuse never change, so that any two versions can tell each other
// that they do not fit.
// Context: N, H, S, R. Reader: wire_reader.h. The spec is docs/format/wire.md.
//
//   initiator                          acceptor
//   WireHello        ------------->
//                    <-------------    WireHelloAck (proof of the acceptor)
//   WireAuth         ------------->    (proof of the initiator)
//                    <-------------    the first WireFrame: the link is up on both sides
// Either side may answer with WireRefuse instead and end the connection.
#pragma once

#include "format/image.h"

namespace cr::format {

inline constexpr uint32_t kWireMagic = 0x574E5243;  // "CRNW"
inline constexpr uint16_t kWireVersion = 1;
inline constexpr uint64_t kMostWireBytes = 16384;  // of a whole message, the tag included
inline constexpr uint64_t kWireNameBytes = 64;     // of a name, its NUL included
inline constexpr uint64_t kWireNonceBytes = 16;
inline constexpr uint64_t kWireProofBytes = 32;  // HMAC-SHA256
inline constexpr uint64_t kWireTagBytes = 16;    // AES-256-GCM, or Poly1305
inline constexpr uint64_t kMostBlockBytes = 64 << 20;

enum WireType : uint16_t {
  kWireHello = 1,
  kWireHelloAck = 2,
  kWireAuth = 3,
  kWireRefuse = 4,
  kWirePing = 5,   // payload: WirePing
  kWirePong = 6,   // payload: the WirePing it answers
  kWireKnock = 7,  // below links, over plain TCP; answered by kWireDoor or kWireRefuse
  kWireDoor = 8,
  kWireFirstFree = 16,  // from here on: the messages of the layers above
};

// What is wanted of the link; a reader that does not know a set bit refuses.
inline constexpr uint64_t kWireEncrypt = 1;  // payloads and blocks are encrypted; one side suffices
inline constexpr uint64_t kWireBlockTags = 2;  // blocks have a tag; one side suffices
inline constexpr uint64_t kWireKnownFeatures = kWireEncrypt | kWireBlockTags;

inline constexpr uint32_t kWireEncrypted = 1;  // WirePrefix::flags: of this frame
inline constexpr uint32_t kWireKnownFlags = kWireEncrypted;

// Why a connection is refused. Sent in WireRefuse, so the numbers stay.
enum WireReason : uint32_t {
  kReasonNone = 0,
  kReasonGarbage = 1,    // not a message of this protocol, or one that breaks its rules
  kReasonVersion = 2,    // another protocol version
  kReasonCluster = 3,    // another cluster's node
  kReasonName = 4,       // another node than the one that was meant
  kReasonKey = 5,        // its key is another one
  kReasonReplay = 6,     // a handshake that was used before
  kReasonReflected = 7,  // our own handshake, sent back
  kReasonFeature = 8,    // it wants a feature that is not known here
  kReasonBusy = 9,       // too many connections are in their handshake
  kReasonTimeout = 10,   // the handshake took too long
  kReasonLast = kReasonTimeout,
};

struct WirePrefix {
  uint32_t magic;
  uint16_t version;
  uint16_t type;           // WireType
  uint32_t payload_bytes;  // what follows the header (handshake: the prefix), without the tag
  uint32_t flags;          // kWireEncrypted; 0 in the handshake
};
CR_ON_DISK(WirePrefix, 16);

struct WireHello {
  WirePrefix prefix;
  uint64_t epoch;     // of the cluster, as the sender knows it
  uint64_t features;  // kWireEncrypt
  uint8_t nonce[kWireNonceBytes];
  char cluster[kWireNameBytes];  // NUL-terminated, zeros behind
  char node[kWireNameBytes];     // of the sender
};
CR_ON_DISK(WireHello, 176);
static_assert(offsetof(WireHello, nonce) == 32 && offsetof(WireHello, node) == 112);

struct WireHelloAck {
  WireHello hello;                 // the acceptor's
  uint8_t proof[kWireProofBytes];  // over WireHello and `hello`
};
CR_ON_DISK(WireHelloAck, 208);

struct WireAuth {
  WirePrefix prefix;
  uint8_t proof[kWireProofBytes];  // over WireHello and WireHelloAck
};
CR_ON_DISK(WireAuth, 48);

struct WireRefuse {
  WirePrefix prefix;
  uint32_t reason;  // WireReason
  uint32_t reserved;
};
CR_ON_DISK(WireRefuse, 24);

// The header of every message of a link that is up. The payload follows, then the tag.
struct WireFrame {
  WirePrefix prefix;
  uint64_t epoch;    // of the cluster, as the sender knows it; never falls
  uint64_t counter;  // 1, 2, 3 ... in each direction
};
CR_ON_DISK(WireFrame, 32);
inline constexpr uint64_t kMostWirePayload = kMostWireBytes - sizeof(WireFrame) - kWireTagBytes;

struct WirePing {
  uint64_t sent_ns;  // by the clock of who asks; the answer has it unchanged
  uint64_t number;
};
CR_ON_DISK(WirePing, 16);

// What the receiver needs to check a block that was put into its memory. Travels inside a message.
struct BlockSeal {
  uint64_t counter;  // of the link's blocks in this direction, from 1
  uint64_t bytes;
  uint64_t xxh3;               // XXH3-64 of the plain block
  uint8_t tag[kWireTagBytes];  // zeros if neither kWireEncrypt nor kWireBlockTags was agreed
};
CR_ON_DISK(BlockSeal, 40);

// Memory that a peer may put blocks into. Travels inside a message.
struct WireRegion {
  uint64_t address;  // of the first byte, in the memory of who offers it
  uint64_t bytes;
  uint64_t number;  // of the region there
  uint64_t cookie;  // random: only who was told can use the region
};
CR_ON_DISK(WireRegion, 32);

// ---- below connections: plain TCP to the port of the member list, to hear where UCX listens -----
struct WireKnock {
  WirePrefix prefix;
};
CR_ON_DISK(WireKnock, 16);

struct WireDoor {
  WirePrefix prefix;
  uint32_t port;  // of the same host
  uint32_t reserved;
};
CR_ON_DISK(WireDoor, 24);
static_assert(sizeof(WireDoor) == sizeof(WireRefuse), "who knocked reads one of them");

// ---- below frames: how a transport moves a block. Headers of UCX active messages ----------------
enum WireChannel : uint32_t {
  kChannelMessage = 0,  // no header; the data are one message of the protocol above
  kChannelPut = 1,      // header WirePut; the data are the block, by rendezvous only
  kChannelPutDone = 2,  // no header; the data are a WirePutDone
};

struct WirePut {
  uint64_t put;     // counts the sender's puts
  uint64_t number;  // of the region, and its cookie
  uint64_t cookie;
  uint64_t address;  // the block's first byte; all of it lies in the region
  uint64_t bytes;
};
CR_ON_DISK(WirePut, 40);

struct WirePutDone {
  uint64_t put;
  uint32_t failed;  // 0: the block is whole in the region; 1: it is not
  uint32_t reserved;
};
CR_ON_DISK(WirePutDone, 16);

}  // namespace cr::format
