// SPDX-License-Identifier: MIT
// wire_reader.h - the reader of what node daemons send each other; distrusts every byte.
// Invariant: what is given out has its magic, version, type and exact length, its names end and are
// of the permitted characters, and no bit is set that this version does not know. Whether it is
// authentic is another question (node/link.h).
// Context: N, H, S, R. Fuzzed by tests/fuzz/wire_fuzz.cc.
#pragma once

#include "base/base.h"
#include "format/wire.h"

namespace cr::format {

// The part that never changes. Errors: kDamaged (too short), kForeign (no message of ours),
// kTooNew, kUnsupported (older than any version). Flags are not checked.
Result<WirePrefix> read_wire_prefix(const uint8_t* bytes, uint64_t size);

// One whole message each. Errors: as above, and kDamaged. Of read_hello and read_hello_ack also
// kUnsupported: a feature that is not known.
Result<WireHello> read_hello(const uint8_t* bytes, uint64_t size);
Result<WireHelloAck> read_hello_ack(const uint8_t* bytes, uint64_t size);
Result<WireAuth> read_auth(const uint8_t* bytes, uint64_t size);
// Of any version. A reason that is not known is given out as kReasonNone.
Result<WireReason> read_refuse(const uint8_t* bytes, uint64_t size);

Result<WireKnock> read_knock(const uint8_t* bytes, uint64_t size);
Result<WireDoor> read_door(const uint8_t* bytes, uint64_t size);

struct WireFrameView {
  WireFrame frame;
  const uint8_t* header;   // the bytes of `frame`
  const uint8_t* payload;  // frame.prefix.payload_bytes
  const uint8_t* tag;      // kWireTagBytes
};
Result<WireFrameView> read_frame(const uint8_t* bytes, uint64_t size);

// Parts of payloads; size must be exact.
Result<WirePing> read_ping(const uint8_t* bytes, uint64_t size);
Result<BlockSeal> read_block_seal(const uint8_t* bytes, uint64_t size);
// Also checks that the region does not wrap around.
Result<WireRegion> read_region(const uint8_t* bytes, uint64_t size);

// Of the transport. data_bytes: what UCX says of the block's length; must be what the header says.
Result<WirePut> read_put(const uint8_t* header, uint64_t size, uint64_t data_bytes);
Result<WirePutDone> read_put_done(const uint8_t* bytes, uint64_t size);

// 1 to 63 of A-Z a-z 0-9 . _ -
bool is_wire_name(const char* name, uint64_t length);
// Puts a name, that must be one, into a field with zeros behind it.
void set_wire_name(char (&field)[kWireNameBytes], const char* name, uint64_t length);
WirePrefix make_prefix(uint16_t type, uint64_t payload_bytes, uint32_t flags);

}  // namespace cr::format
