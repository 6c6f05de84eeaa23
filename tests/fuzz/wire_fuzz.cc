// SPDX-License-Identifier: MIT
// wire_fuzz.cc - the reader of what node daemons send each other, with hostile bytes.
// Invariant under test: nothing outside the message is read, and what is given out keeps what
// wire_reader.h promises: names end, lengths add up, nothing wraps around.
//
// Input: one message. Each reader gets it, as it is and with its prefix made right.
#include <string.h>

#include <cstdlib>
#include <vector>

#include "format/wire_reader.h"

namespace {

using namespace cr::format;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

void check(bool holds) {
  if (!holds) abort();
}

void check_hello(const WireHello& h) {
  check(is_wire_name(h.cluster, strnlen(h.cluster, sizeof(h.cluster))));
  check(is_wire_name(h.node, strnlen(h.node, sizeof(h.node))));
  check((h.features & ~kWireKnownFeatures) == 0);
}

void read_frames(const uint8_t* data, uint64_t size) {
  const auto v = read_frame(data, size);
  if (!v) return;
  check(size <= kMostWireBytes && v->frame.counter != 0);
  check(v->payload + v->frame.prefix.payload_bytes == v->tag);
  check(v->tag + kWireTagBytes == data + size);
  for (const uint8_t* p = v->payload; p != v->tag + kWireTagBytes; p++) g_sum += *p;
}

void read_parts(const uint8_t* data, uint64_t size) {
  if (const auto ping = read_ping(data, size)) g_sum += ping->number;
  if (const auto seal = read_block_seal(data, size)) {
    check(seal->bytes > 0 && seal->bytes <= kMostBlockBytes && seal->counter > 0);
  }
  if (const auto region = read_region(data, size)) {
    check(region->bytes > 0 && region->address + region->bytes > region->address);
  }
  // The header claims a length; let it agree with the data's sometimes.
  uint64_t claimed = 0;
  if (size >= sizeof(WirePut)) memcpy(&claimed, data + offsetof(WirePut, bytes), sizeof(claimed));
  for (const uint64_t bytes : {claimed, size}) {
    const auto put = read_put(data, size, bytes);
    if (!put) continue;
    check(put->bytes == bytes && bytes > 0 && bytes <= kMostBlockBytes);
    check(put->address + put->bytes > put->address);
  }
  if (const auto done = read_put_done(data, size)) check(done->failed <= 1);
}

void read_all(const std::vector<uint8_t>& message) {
  const uint8_t* data = message.data();
  const uint64_t size = message.size();
  if (const auto hello = read_hello(data, size)) check_hello(*hello);
  if (const auto ack = read_hello_ack(data, size)) check_hello(ack->hello);
  if (const auto auth = read_auth(data, size)) g_sum += auth->proof[0];
  if (const auto reason = read_refuse(data, size)) check(*reason <= kReasonLast);
  if (read_knock(data, size)) check(size == sizeof(WireKnock));
  if (const auto door = read_door(data, size)) check(door->port > 0 && door->port <= 65535);
  read_frames(data, size);
  read_parts(data, size);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> message(data, data + size);
  message.shrink_to_fit();
  read_all(message);
  if (size < sizeof(WirePrefix)) return 0;
  // With a right prefix of the handshake, and with that of a frame.
  for (const bool frame : {false, true}) {
    const uint64_t head = frame ? sizeof(WireFrame) + kWireTagBytes : sizeof(WirePrefix);
    if (size < head) continue;
    WirePrefix prefix;
    memcpy(&prefix, message.data(), sizeof(prefix));
    prefix = make_prefix(prefix.type, size - head, frame ? prefix.flags & kWireKnownFlags : 0);
    memcpy(message.data(), &prefix, sizeof(prefix));
    read_all(message);
  }
  return 0;
}
