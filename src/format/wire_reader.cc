// SPDX-License-Identifier: MIT
// wire_reader.cc - see wire_reader.h. Invariant: as there. Context: N, H, S, R.
#include "format/wire_reader.h"

namespace cr::format {
namespace {

constexpr Error kTooShort{Errc::kDamaged, 0, "a message of a node is too short"};
constexpr Error kWrongLength{Errc::kDamaged, 0, "a message of a node has a wrong length"};
constexpr Error kWrongType{Errc::kDamaged, 0, "a message of a node has an unexpected type"};
constexpr Error kWrongField{Errc::kDamaged, 0, "a field of a node's message has a wrong value"};

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

// One name, and then zeros to the end.
bool is_name_field(const char (&field)[kWireNameBytes]) {
  uint64_t length = 0;
  while (length < kWireNameBytes && field[length] != 0) length++;
  if (!is_wire_name(field, length)) return false;
  for (uint64_t i = length; i < kWireNameBytes; i++) {
    if (field[i] != 0) return false;
  }
  return true;
}

Result<void> check_hello(const WireHello& h) {
  if (!is_name_field(h.cluster) || !is_name_field(h.node)) return kWrongField;
  if ((h.features & ~kWireKnownFeatures) != 0) {
    return Error{Errc::kUnsupported, 0, "a node wants a feature that this version does not know"};
  }
  return {};
}

// A message of the handshake: exactly one T.
template <typename T>
Result<T> read_whole(const uint8_t* bytes, uint64_t size, uint16_t type) {
  CR_TRY(const WirePrefix prefix, read_wire_prefix(bytes, size));
  if (prefix.type != type) return kWrongType;
  if (size != sizeof(T) || prefix.payload_bytes != sizeof(T) - sizeof(WirePrefix)) {
    return kWrongLength;
  }
  if (prefix.flags != 0) return kWrongField;
  T whole;
  __builtin_memcpy(&whole, bytes, sizeof(whole));
  return whole;
}

template <typename T>
Result<T> read_part(const uint8_t* bytes, uint64_t size) {
  if (size != sizeof(T)) return kWrongLength;
  T part;
  __builtin_memcpy(&part, bytes, sizeof(part));
  return part;
}

}  // namespace

Result<WirePrefix> read_wire_prefix(const uint8_t* bytes, uint64_t size) {
  WirePrefix p;
  if (size < sizeof(p)) return kTooShort;
  __builtin_memcpy(&p, bytes, sizeof(p));
  if (p.magic != kWireMagic) return Error{Errc::kForeign, 0, "not a message of a node"};
  if (p.version > kWireVersion) {
    return Error{Errc::kTooNew, 0, "a node speaks a newer version of the protocol"};
  }
  if (p.version < kWireVersion) {
    return Error{Errc::kUnsupported, 0, "a node speaks an older version of the protocol"};
  }
  return p;
}

Result<WireHello> read_hello(const uint8_t* bytes, uint64_t size) {
  CR_TRY(const WireHello hello, read_whole<WireHello>(bytes, size, kWireHello));
  CR_TRYV(check_hello(hello));
  return hello;
}

Result<WireHelloAck> read_hello_ack(const uint8_t* bytes, uint64_t size) {
  CR_TRY(const WireHelloAck ack, read_whole<WireHelloAck>(bytes, size, kWireHelloAck));
  CR_TRYV(check_hello(ack.hello));
  return ack;
}

Result<WireAuth> read_auth(const uint8_t* bytes, uint64_t size) {
  return read_whole<WireAuth>(bytes, size, kWireAuth);
}

Result<WireKnock> read_knock(const uint8_t* bytes, uint64_t size) {
  return read_whole<WireKnock>(bytes, size, kWireKnock);
}

Result<WireDoor> read_door(const uint8_t* bytes, uint64_t size) {
  CR_TRY(const WireDoor door, read_whole<WireDoor>(bytes, size, kWireDoor));
  if (door.port == 0 || door.port > 65535 || door.reserved != 0) return kWrongField;
  return door;
}

Result<WireReason> read_refuse(const uint8_t* bytes, uint64_t size) {
  WireRefuse r;
  if (size != sizeof(r)) return kWrongLength;
  __builtin_memcpy(&r, bytes, sizeof(r));
  if (r.prefix.magic != kWireMagic) return Error{Errc::kForeign, 0, "not a message of a node"};
  if (r.prefix.type != kWireRefuse) return kWrongType;
  if (r.prefix.payload_bytes != sizeof(r) - sizeof(WirePrefix)) return kWrongLength;
  return r.reason <= kReasonLast ? static_cast<WireReason>(r.reason) : kReasonNone;
}

Result<WireFrameView> read_frame(const uint8_t* bytes, uint64_t size) {
  CR_TRY(const WirePrefix prefix, read_wire_prefix(bytes, size));
  if (size < sizeof(WireFrame) + kWireTagBytes) return kTooShort;
  if (size > kMostWireBytes) return kWrongLength;
  if (prefix.payload_bytes != size - sizeof(WireFrame) - kWireTagBytes) return kWrongLength;
  if (prefix.type < kWirePing || (prefix.type > kWirePong && prefix.type < kWireFirstFree)) {
    return kWrongType;
  }
  if ((prefix.flags & ~kWireKnownFlags) != 0) return kWrongField;
  WireFrameView v;
  __builtin_memcpy(&v.frame, bytes, sizeof(v.frame));
  if (v.frame.counter == 0) return kWrongField;
  v.header = bytes;
  v.payload = bytes + sizeof(WireFrame);
  v.tag = v.payload + prefix.payload_bytes;
  return v;
}

Result<WirePing> read_ping(const uint8_t* bytes, uint64_t size) {
  return read_part<WirePing>(bytes, size);
}

Result<BlockSeal> read_block_seal(const uint8_t* bytes, uint64_t size) {
  CR_TRY(const BlockSeal seal, read_part<BlockSeal>(bytes, size));
  if (seal.counter == 0 || seal.bytes == 0 || seal.bytes > kMostBlockBytes) return kWrongField;
  return seal;
}

Result<WireRegion> read_region(const uint8_t* bytes, uint64_t size) {
  CR_TRY(const WireRegion region, read_part<WireRegion>(bytes, size));
  if (region.bytes == 0 || region.address > ~0ull - region.bytes) return kWrongField;
  return region;
}

Result<WirePut> read_put(const uint8_t* header, uint64_t size, uint64_t data_bytes) {
  CR_TRY(const WirePut put, read_part<WirePut>(header, size));
  if (put.bytes == 0 || put.bytes > kMostBlockBytes || put.bytes != data_bytes ||
      put.address > ~0ull - put.bytes) {
    return kWrongField;
  }
  return put;
}

Result<WirePutDone> read_put_done(const uint8_t* bytes, uint64_t size) {
  CR_TRY(const WirePutDone done, read_part<WirePutDone>(bytes, size));
  if (done.failed > 1 || done.reserved != 0) return kWrongField;
  return done;
}

bool is_wire_name(const char* name, uint64_t length) {
  if (length == 0 || length >= kWireNameBytes) return false;
  for (uint64_t i = 0; i < length; i++) {
    if (!is_name_char(name[i])) return false;
  }
  return true;
}

void set_wire_name(char (&field)[kWireNameBytes], const char* name, uint64_t length) {
  const uint64_t n = length < kWireNameBytes ? length : kWireNameBytes - 1;
  __builtin_memset(field, 0, sizeof(field));
  __builtin_memcpy(field, name, n);
}

WirePrefix make_prefix(uint16_t type, uint64_t payload_bytes, uint32_t flags) {
  return {kWireMagic, kWireVersion, type, static_cast<uint32_t>(payload_bytes), flags};
}

}  // namespace cr::format
