// SPDX-License-Identifier: MIT
// wire_test.cc - the reader of what node daemons send each other.
// Invariant under test: what was made by the rules is read as it was; anything shorter, longer, of
// another version, or with a bit set that means nothing is refused, each for its own reason.
#include <criterion/criterion.h>
#include <string.h>

#include <functional>
#include <string>
#include <vector>

#include "format/wire_reader.h"

namespace {

using namespace cr::format;
using cr::Errc;
using Bytes = std::vector<uint8_t>;

template <typename T>
Bytes bytes_of(const T& value) {
  Bytes b(sizeof(T));
  memcpy(b.data(), &value, sizeof(T));
  return b;
}

WireHello hello() {
  WireHello h{};
  h.prefix = make_prefix(kWireHello, sizeof(WireHello) - sizeof(WirePrefix), 0);
  h.epoch = 9;
  h.features = kWireEncrypt;
  memset(h.nonce, 3, sizeof(h.nonce));
  set_wire_name(h.cluster, "cluster", 7);
  set_wire_name(h.node, "node-1.rack_2", 13);
  return h;
}

Bytes frame(const Bytes& payload, uint16_t type = kWireFirstFree, uint64_t counter = 1) {
  const WireFrame f{make_prefix(type, payload.size(), 0), 4, counter};
  Bytes b = bytes_of(f);
  b.resize(sizeof(f) + payload.size() + kWireTagBytes, 0xAA);
  if (!payload.empty()) memcpy(&b[sizeof(f)], payload.data(), payload.size());
  return b;
}

// The same message with every length but its own.
template <typename Read>
void expect_exact_length(const Bytes& good, Read read) {
  Bytes longer(good);
  longer.push_back(0);
  for (size_t n = 0; n < good.size(); n++) {
    const Bytes cut(good.begin(), good.begin() + static_cast<long>(n));
    cr_assert(!read(cut.data(), cut.size()).has_value(), "%zu", n);
  }
  cr_assert(!read(longer.data(), longer.size()).has_value());
  cr_assert(read(good.data(), good.size()).has_value());
}

Errc hello_error(const std::function<void(WireHello*)>& change) {
  WireHello h = hello();
  change(&h);
  const Bytes b = bytes_of(h);
  return read_hello(b.data(), b.size()).error().code;
}

Errc frame_error(const std::function<void(WireFrame*)>& change) {
  Bytes b = frame(Bytes(10, 1));
  WireFrame f;
  memcpy(&f, b.data(), sizeof(f));
  change(&f);
  memcpy(b.data(), &f, sizeof(f));
  return read_frame(b.data(), b.size()).error().code;
}

}  // namespace

Test(wire, a_hello_is_read_as_it_was_made) {
  const Bytes b = bytes_of(hello());
  const auto h = read_hello(b.data(), b.size());
  cr_assert(h.has_value());
  cr_assert_str_eq(h->cluster, "cluster");
  cr_assert_str_eq(h->node, "node-1.rack_2");
  cr_assert_eq(h->epoch, 9u);
  cr_assert_eq(h->features, kWireEncrypt);
  expect_exact_length(b, read_hello);
}

Test(wire, each_fault_of_a_hello_has_its_own_error) {
  cr_assert(hello_error([](WireHello* h) { h->prefix.magic++; }) == Errc::kForeign);
  cr_assert(hello_error([](WireHello* h) { h->prefix.version++; }) == Errc::kTooNew);
  cr_assert(hello_error([](WireHello* h) { h->prefix.version = 0; }) == Errc::kUnsupported);
  cr_assert(hello_error([](WireHello* h) { h->prefix.type = kWireHelloAck; }) == Errc::kDamaged);
  cr_assert(hello_error([](WireHello* h) { h->prefix.payload_bytes++; }) == Errc::kDamaged);
  cr_assert(hello_error([](WireHello* h) { h->prefix.flags = 1; }) == Errc::kDamaged);
  cr_assert(hello_error([](WireHello* h) { h->features = 4; }) == Errc::kUnsupported);
  cr_assert(hello_error([](WireHello* h) { h->node[0] = 0; }) == Errc::kDamaged);
  cr_assert(hello_error([](WireHello* h) { h->node[1] = '/'; }) == Errc::kDamaged);
  cr_assert(hello_error([](WireHello* h) { h->cluster[63] = 'x'; }) == Errc::kDamaged);
  cr_assert(hello_error([](WireHello* h) { memset(h->cluster, 'x', 64); }) == Errc::kDamaged);
  cr_assert(hello_error([](WireHello*) {}) == Errc::kOk);
}

Test(wire, the_rest_of_the_handshake) {
  WireHelloAck ack{hello(), {}};
  ack.hello.prefix = make_prefix(kWireHelloAck, sizeof(WireHelloAck) - sizeof(WirePrefix), 0);
  memset(ack.proof, 7, sizeof(ack.proof));
  expect_exact_length(bytes_of(ack), read_hello_ack);
  ack.hello.node[0] = ' ';
  cr_assert(!read_hello_ack(bytes_of(ack).data(), sizeof(ack)).has_value());
  const WireAuth auth{make_prefix(kWireAuth, kWireProofBytes, 0), {}};
  expect_exact_length(bytes_of(auth), read_auth);
}

Test(wire, a_refusal_of_any_version_is_understood) {
  WireRefuse r{make_prefix(kWireRefuse, 8, 0), kReasonKey, 0};
  expect_exact_length(bytes_of(r), read_refuse);
  r.prefix.version = 77;
  cr_assert_eq(*read_refuse(bytes_of(r).data(), sizeof(r)), kReasonKey);
  r.reason = kReasonLast + 1;
  cr_assert_eq(*read_refuse(bytes_of(r).data(), sizeof(r)), kReasonNone);
  r.prefix.magic++;
  cr_assert(read_refuse(bytes_of(r).data(), sizeof(r)).error().code == Errc::kForeign);
}

Test(wire, the_gate) {
  const WireKnock knock{make_prefix(kWireKnock, 0, 0)};
  expect_exact_length(bytes_of(knock), read_knock);
  WireDoor door{make_prefix(kWireDoor, 8, 0), 65535, 0};
  expect_exact_length(bytes_of(door), read_door);
  cr_assert_eq(read_door(bytes_of(door).data(), sizeof(door))->port, 65535u);
  for (const WireDoor& bad :
       {WireDoor{door.prefix, 65536, 0}, WireDoor{door.prefix, 0, 0}, WireDoor{door.prefix, 7, 1},
        WireDoor{make_prefix(kWireRefuse, 8, 0), 7, 0}}) {
    cr_assert(!read_door(bytes_of(bad).data(), sizeof(bad)).has_value());
  }
  cr_assert(!read_refuse(bytes_of(door).data(), sizeof(door)).has_value());
}

Test(wire, a_frame_is_read_as_it_was_made) {
  for (const size_t n : {size_t{0}, size_t{1}, size_t{100}, size_t{kMostWirePayload}}) {
    const Bytes payload(n, 5);
    const Bytes b = frame(payload);
    const auto v = read_frame(b.data(), b.size());
    cr_assert(v.has_value());
    cr_assert_eq(v->frame.prefix.payload_bytes, n);
    cr_assert_eq(v->payload, b.data() + sizeof(WireFrame));
    cr_assert_eq(v->tag, b.data() + b.size() - kWireTagBytes);
    if (n < 1000) expect_exact_length(b, read_frame);
  }
  const Bytes too_long = frame(Bytes(kMostWirePayload + 1));
  cr_assert(!read_frame(too_long.data(), too_long.size()).has_value());
}

Test(wire, each_fault_of_a_frame_is_seen) {
  cr_assert(frame_error([](WireFrame*) {}) == Errc::kOk);
  cr_assert(frame_error([](WireFrame* f) { f->prefix.magic = 0; }) == Errc::kForeign);
  cr_assert(frame_error([](WireFrame* f) { f->prefix.version = 2; }) == Errc::kTooNew);
  cr_assert(frame_error([](WireFrame* f) { f->prefix.payload_bytes = 9; }) == Errc::kDamaged);
  cr_assert(frame_error([](WireFrame* f) { f->prefix.payload_bytes = ~0u; }) == Errc::kDamaged);
  cr_assert(frame_error([](WireFrame* f) { f->prefix.flags = 2; }) == Errc::kDamaged);
  cr_assert(frame_error([](WireFrame* f) { f->counter = 0; }) == Errc::kDamaged);
  for (const uint16_t type : {0, 1, 2, 3, 4, 7, 15}) {
    cr_assert(frame_error([type](WireFrame* f) { f->prefix.type = type; }) == Errc::kDamaged);
  }
  for (const uint16_t type : {5, 6, 16, 65535}) {
    cr_assert(frame_error([type](WireFrame* f) { f->prefix.type = type; }) == Errc::kOk);
  }
}

Test(wire, parts_of_payloads) {
  const WirePing ping{1, 2};
  expect_exact_length(bytes_of(ping), read_ping);
  BlockSeal seal{1, kMostBlockBytes, 5, {}};
  expect_exact_length(bytes_of(seal), read_block_seal);
  seal.bytes++;
  cr_assert(!read_block_seal(bytes_of(seal).data(), sizeof(seal)).has_value());
  seal = {0, 1, 5, {}};
  cr_assert(!read_block_seal(bytes_of(seal).data(), sizeof(seal)).has_value());
  WireRegion region{4096, 100, 1, 2};
  expect_exact_length(bytes_of(region), read_region);
  region.address = ~0ull - 99;
  cr_assert(!read_region(bytes_of(region).data(), sizeof(region)).has_value());
  region = {4096, 0, 1, 2};
  cr_assert(!read_region(bytes_of(region).data(), sizeof(region)).has_value());
}

Test(wire, puts_say_how_long_they_are) {
  WirePut put{1, 2, 3, 4096, 100};
  const auto read = [&](uint64_t data_bytes) {
    return read_put(bytes_of(put).data(), sizeof(put), data_bytes).has_value();
  };
  cr_assert(read(100) && !read(99) && !read(101));
  cr_assert(!read_put(bytes_of(put).data(), sizeof(put) - 1, 100).has_value());
  put.bytes = kMostBlockBytes + 1;
  cr_assert(!read(kMostBlockBytes + 1));
  put = {1, 2, 3, ~0ull, 100};
  cr_assert(!read(100));
  put = {1, 2, 3, 4096, 0};
  cr_assert(!read(0));
  WirePutDone done{1, 1, 0};
  expect_exact_length(bytes_of(done), read_put_done);
  done.failed = 2;
  cr_assert(!read_put_done(bytes_of(done).data(), sizeof(done)).has_value());
  done = {1, 0, 1};
  cr_assert(!read_put_done(bytes_of(done).data(), sizeof(done)).has_value());
}

Test(wire, names_have_few_characters) {
  for (const char* good : {"a", "node-1", "A.b_c-9"}) cr_assert(is_wire_name(good, strlen(good)));
  for (const char* bad : {"", " ", "a b", "a/b", "\xc3\xa4", "a\n"}) {
    cr_assert(!is_wire_name(bad, strlen(bad)));
  }
  cr_assert(is_wire_name(std::string(63, 'x').c_str(), 63));
  cr_assert(!is_wire_name(std::string(64, 'x').c_str(), 64));
}
