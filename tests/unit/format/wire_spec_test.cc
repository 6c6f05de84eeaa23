// SPDX-License-Identifier: MIT
// wire_spec_test.cc - docs/format/wire.md says of what nodes send each other what the code has.
#include <criterion/criterion.h>
#include <string.h>

#include "format/node_messages.h"
#include "format/node_messages_reader.h"
#include "format/wire_reader.h"
#include "tests/unit/format/spec_document.h"

namespace {

using namespace cr::format;
using cr_test::Document;
using cr_test::Structs;
using Bytes = std::vector<uint8_t>;

constexpr char kDocument[] = "docs/format/wire.md";

#define F CR_SPEC_FIELD
void add_links(Structs& s) {
  s["WirePrefix"] = {sizeof(WirePrefix),
                     {F(WirePrefix, magic), F(WirePrefix, version), F(WirePrefix, type),
                      F(WirePrefix, payload_bytes), F(WirePrefix, flags)}};
  s["WireKnock"] = {sizeof(WireKnock), {F(WireKnock, prefix)}};
  s["WireDoor"] = {sizeof(WireDoor),
                   {F(WireDoor, prefix), F(WireDoor, port), F(WireDoor, reserved)}};
  s["WireHello"] = {sizeof(WireHello),
                    {F(WireHello, prefix), F(WireHello, epoch), F(WireHello, features),
                     F(WireHello, nonce), F(WireHello, cluster), F(WireHello, node)}};
  s["WireHelloAck"] = {sizeof(WireHelloAck), {F(WireHelloAck, hello), F(WireHelloAck, proof)}};
  s["WireAuth"] = {sizeof(WireAuth), {F(WireAuth, prefix), F(WireAuth, proof)}};
  s["WireRefuse"] = {sizeof(WireRefuse),
                     {F(WireRefuse, prefix), F(WireRefuse, reason), F(WireRefuse, reserved)}};
  s["WireFrame"] = {sizeof(WireFrame),
                    {F(WireFrame, prefix), F(WireFrame, epoch), F(WireFrame, counter)}};
  s["WirePing"] = {sizeof(WirePing), {F(WirePing, sent_ns), F(WirePing, number)}};
}

void add_blocks(Structs& s) {
  s["WireRegion"] = {
      sizeof(WireRegion),
      {F(WireRegion, address), F(WireRegion, bytes), F(WireRegion, number), F(WireRegion, cookie)}};
  s["WirePut"] = {sizeof(WirePut),
                  {F(WirePut, put), F(WirePut, number), F(WirePut, cookie), F(WirePut, address),
                   F(WirePut, bytes)}};
  s["WirePutDone"] = {sizeof(WirePutDone),
                      {F(WirePutDone, put), F(WirePutDone, failed), F(WirePutDone, reserved)}};
  s["BlockSeal"] = {
      sizeof(BlockSeal),
      {F(BlockSeal, counter), F(BlockSeal, bytes), F(BlockSeal, xxh3), F(BlockSeal, tag)}};
}

void add_transfers(Structs& s) {
  s["RowRecord"] = {sizeof(RowRecord), {F(RowRecord, row), F(RowRecord, check)}};
  s["PartOffer"] = {
      sizeof(PartOffer),
      {F(PartOffer, transfer), F(PartOffer, session_id), F(PartOffer, triple), F(PartOffer, base),
       F(PartOffer, keep), F(PartOffer, base_layout), F(PartOffer, keep_layout),
       F(PartOffer, newest), F(PartOffer, kind), F(PartOffer, data_parts),
       F(PartOffer, parity_parts), F(PartOffer, holder), F(PartOffer, rows), F(PartOffer, uid),
       F(PartOffer, reserved), F(PartOffer, name), F(PartOffer, origin)}};
  s["PartAccept"] = {sizeof(PartAccept),
                     {F(PartAccept, transfer), F(PartAccept, windows), F(PartAccept, has_base),
                      F(PartAccept, region)}};
  s["PartChunk"] = {
      sizeof(PartChunk),
      {F(PartChunk, transfer), F(PartChunk, window), F(PartChunk, kind), F(PartChunk, rows),
       F(PartChunk, reserved), F(PartChunk, off), F(PartChunk, seal)}};
  s["PartChunkDone"] = {
      sizeof(PartChunkDone),
      {F(PartChunkDone, transfer), F(PartChunkDone, window), F(PartChunkDone, reserved)}};
  s["PartCommit"] = {sizeof(PartCommit),
                     {F(PartCommit, transfer), F(PartCommit, triple), F(PartCommit, realtime_ns),
                      F(PartCommit, slots), F(PartCommit, rows), F(PartCommit, description_bytes),
                      F(PartCommit, image_bytes), F(PartCommit, sent_rows)}};
  s["PartCommitted"] = {
      sizeof(PartCommitted),
      {F(PartCommitted, transfer), F(PartCommitted, triple), F(PartCommitted, bytes_written)}};
  s["PartFailed"] = {sizeof(PartFailed),
                     {F(PartFailed, transfer), F(PartFailed, code), F(PartFailed, sys_errno),
                      F(PartFailed, text)}};
}

void add_requests(Structs& s) {
  s["ListParts"] = {sizeof(ListParts),
                    {F(ListParts, request), F(ListParts, one_session), F(ListParts, reserved),
                     F(ListParts, session_id), F(ListParts, skip), F(ListParts, reserved1)}};
  s["PartList"] = {sizeof(PartList),
                   {F(PartList, request), F(PartList, entries), F(PartList, more)}};
  s["PartEntry"] = {sizeof(PartEntry),
                    {F(PartEntry, session_id), F(PartEntry, triple), F(PartEntry, realtime_ns),
                     F(PartEntry, kind), F(PartEntry, data_parts), F(PartEntry, parity_parts),
                     F(PartEntry, holder), F(PartEntry, slots), F(PartEntry, rows),
                     F(PartEntry, description_bytes), F(PartEntry, image_bytes),
                     F(PartEntry, stored_bytes), F(PartEntry, uid), F(PartEntry, reserved),
                     F(PartEntry, name), F(PartEntry, origin), F(PartEntry, layout)}};
  s["FetchRows"] = {
      sizeof(FetchRows),
      {F(FetchRows, request), F(FetchRows, session_id), F(FetchRows, triple), F(FetchRows, holder),
       F(FetchRows, kind), F(FetchRows, off), F(FetchRows, count), F(FetchRows, window_off),
       F(FetchRows, layout), F(FetchRows, region)}};
  s["Fetched"] = {sizeof(Fetched),
                  {F(Fetched, request), F(Fetched, code), F(Fetched, sys_errno),
                   F(Fetched, damaged_row), F(Fetched, seal)}};
  s["RemoveSession"] = {sizeof(RemoveSession),
                        {F(RemoveSession, request), F(RemoveSession, session_id),
                         F(RemoveSession, uid), F(RemoveSession, reserved)}};
  s["Removed"] = {sizeof(Removed), {F(Removed, request), F(Removed, code), F(Removed, files)}};
  s["NodeStatesMessage"] = {
      sizeof(NodeStatesMessage),
      {F(NodeStatesMessage, request), F(NodeStatesMessage, count), F(NodeStatesMessage, skip),
       F(NodeStatesMessage, more), F(NodeStatesMessage, reserved)}};
  s["AskSessions"] = {sizeof(AskSessions),
                      {F(AskSessions, request), F(AskSessions, skip), F(AskSessions, reserved),
                       F(AskSessions, node)}};
  s["SessionList"] = {sizeof(SessionList),
                      {F(SessionList, request), F(SessionList, entries), F(SessionList, more)}};
  s["SessionEntry"] = {
      sizeof(SessionEntry),
      {F(SessionEntry, session_id), F(SessionEntry, triple), F(SessionEntry, sent_bytes),
       F(SessionEntry, flags), F(SessionEntry, parts), F(SessionEntry, of),
       F(SessionEntry, reserved), F(SessionEntry, name), F(SessionEntry, text)}};
  s["DropParts"] = {sizeof(DropParts),
                    {F(DropParts, session_id), F(DropParts, triple), F(DropParts, holder),
                     F(DropParts, reserved)}};
}

#define V(name) \
  { #name, name }
std::map<std::string, uint64_t> constants_of_the_code() {
  return {V(kWireHello),       V(kWireHelloAck),       V(kWireAuth),      V(kWireRefuse),
          V(kWirePing),        V(kWirePong),           V(kWireKnock),     V(kWireDoor),
          V(kReasonNone),      V(kReasonGarbage),      V(kReasonVersion), V(kReasonCluster),
          V(kReasonName),      V(kReasonKey),          V(kReasonReplay),  V(kReasonReflected),
          V(kReasonFeature),   V(kReasonBusy),         V(kReasonTimeout), V(kChannelMessage),
          V(kChannelPut),      V(kChannelPutDone),     V(kPartOffer),     V(kPartAccept),
          V(kPartChunk),       V(kPartChunkDone),      V(kPartCommit),    V(kPartCommitted),
          V(kPartFailed),      V(kListParts),          V(kPartList),      V(kFetchRows),
          V(kFetched),         V(kRemoveSession),      V(kRemoved),       V(kShareStates),
          V(kStates),          V(kAskSessions),        V(kSessions),      V(kDropParts),
          V(kChunkOfRows),     V(kChunkOfDescription), V(kSessionRuns),   V(kSessionMended),
          V(kSessionUsesNode), V(kSessionStays)};
}

template <typename T>
void put(Bytes& bytes, uint64_t off, const T& value) {
  memcpy(&bytes[off], &value, sizeof(value));
}

// What the document shows.
Bytes example() {
  Bytes bytes(0x110);
  put(bytes, 0, WireKnock{make_prefix(kWireKnock, 0, 0)});
  put(bytes, 0x10, WireDoor{make_prefix(kWireDoor, 8, 0), 40000, 0});
  WireHello hello{};
  hello.prefix = make_prefix(kWireHello, sizeof(hello) - sizeof(WirePrefix), 0);
  hello.epoch = 3;
  hello.features = kWireBlockTags;
  for (uint8_t i = 0; i < kWireNonceBytes; i++) hello.nonce[i] = i;
  set_wire_name(hello.cluster, "zoo", 3);
  set_wire_name(hello.node, "a", 1);
  put(bytes, 0x30, hello);
  put(bytes, 0xe0, WireFrame{make_prefix(kPartChunkDone, sizeof(PartChunkDone), 0), 3, 5});
  put(bytes, 0x100, PartChunkDone{9, 2, 0});
  return bytes;
}

size_t structs_in(const char* header) {
  static const std::regex kAssert(R"(CR_ON_DISK\((\w+), .*\);)");
  size_t found = 0;
  for (const std::string& line : cr_test::read_document(header)) {
    if (std::regex_match(line, kAssert)) found++;
  }
  return found;
}

}  // namespace

Test(wire_spec, structs_are_as_documented) {
  Structs structs;
  add_links(structs);
  add_blocks(structs);
  add_transfers(structs);
  add_requests(structs);
  cr_test::check_structs(structs, Document(kDocument).structs);
  cr_expect(
      structs_in("src/format/wire.h") + structs_in("src/format/node_messages.h") == structs.size(),
      "a struct of the headers is forgotten here");
}

Test(wire_spec, constants_are_as_documented) {
  cr_test::check_constants(constants_of_the_code(), Document(kDocument).constants);
  cr_expect(kWireVersion == 1 && kMostWireBytes == 16384 && kWireFirstFree == 16);
  cr_expect(kNodeMessageEnd == kDropParts + 1 && kMostBlockBytes == 1 << 26);
  cr_expect(kChunkRows == 256 && kChunkPagesOff == 4096 && kChunkBytes == 1052672);
  cr_expect(kMostWindows == 16 && kNoWindow == 0xffffffff && kMostEntries == 48);
  cr_expect(kMostStatesAtOnce == 128 && kMostSessionEntries == 48 && kSessionAllFlags == 15);
}

Test(wire_spec, the_example_is_what_it_says) {
  const Document document(kDocument);
  cr_expect(document.dump.size() > 10);
  const Bytes bytes = example();
  cr_test::check_example(document, bytes);
  cr_expect(read_knock(&bytes[0], 16).has_value());
  cr_expect(read_door(&bytes[0x10], sizeof(WireDoor)).has_value());
  cr_expect(read_hello(&bytes[0x30], sizeof(WireHello)).has_value());
  Bytes frame(bytes.begin() + 0xe0, bytes.end());
  frame.resize(frame.size() + kWireTagBytes);
  const auto view = read_frame(frame.data(), frame.size());
  cr_assert(view.has_value());
  const auto done = read_message<PartChunkDone>(view->payload, view->frame.prefix.payload_bytes);
  cr_expect(done.has_value() && done->transfer == 9 && done->window == 2);
}
