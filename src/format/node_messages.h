// SPDX-License-Identifier: MIT
// node_messages.h - what node daemons say to each other on a link (wire.h): handing a part over,
// listing and fetching parts, removing them.
// Invariant: fixed width, little endian, explicit padding; every message is one struct, of listings
// followed by their entries. Context: N, H, S, R. Reader: node_messages_reader.h. The spec is
// docs/format/wire.md.
//
//   source                              holder
//   PartOffer       --------------->
//                   <---------------    PartAccept (windows of its memory)
//   put into a window, PartChunk ---->
//                   <---------------    PartChunkDone (the window is free again)
//   PartCommit      --------------->
//                   <---------------    PartCommitted
// PartFailed ends a transfer from either side.
#pragma once

#include "format/node_states.h"
#include "format/part.h"
#include "format/wire.h"

namespace cr::format {

enum NodeMessageType : uint16_t {
  kPartOffer = kWireFirstFree,
  kPartAccept,
  kPartChunk,
  kPartChunkDone,
  kPartCommit,
  kPartCommitted,
  kPartFailed,
  kListParts,
  kPartList,
  kFetchRows,
  kFetched,
  kRemoveSession,
  kRemoved,
  kShareStates,
  kStates,
  kAskSessions,
  kSessions,
  kDropParts,
  kNodeMessageEnd,
};

inline constexpr uint64_t kChunkRows = 256;  // most of one chunk
struct RowRecord {
  uint64_t row;
  uint64_t check;  // as in a part file; 0: the row is zeros, and no page follows
};
CR_ON_DISK(RowRecord, 16);
// A chunk of rows is its RowRecords, ascending, at 0, and the pages of those that are not zeros one
// after the other from here on.
inline constexpr uint64_t kChunkPagesOff = kChunkRows * sizeof(RowRecord);
inline constexpr uint64_t kChunkBytes = kChunkPagesOff + kChunkRows * kPageSize;
inline constexpr uint32_t kMostWindows = 16;

struct PartOffer {
  uint64_t transfer;  // number, of the source's choice
  uint8_t session_id[16];
  Triple triple;
  Triple base;  // what the rows that are not sent are like; zeros: zeros
  Triple keep;  // must not be overwritten; zeros: nothing
  // PartEntry::layout of these two. A session that comes back is given slots anew, so there may be
  // two parts of one checkpoint that do not fit together.
  uint64_t base_layout, keep_layout;
  Triple newest;  // of the session, that the source knows of: a part of a later run is not replaced
  uint32_t kind, data_parts, parity_parts, holder;
  uint64_t rows;  // about so many
  uint32_t uid;
  uint32_t reserved;
  char name[kPartNameBytes];
  char origin[kPartNameBytes];
};
CR_ON_DISK(PartOffer, 296);

struct PartAccept {
  uint64_t transfer;
  uint32_t windows;   // each of kChunkBytes, side by side from the region's beginning
  uint32_t has_base;  // 0: it has no such base; everything must be sent
  WireRegion region;
};
CR_ON_DISK(PartAccept, 16 + sizeof(WireRegion));

enum ChunkKind : uint32_t {
  kChunkOfRows = 1,
  kChunkOfDescription = 2,  // bytes of it, from `off` on
};
struct PartChunk {
  uint64_t transfer;
  uint32_t window;
  uint32_t kind;
  uint32_t rows;
  uint32_t reserved;
  uint64_t off;
  BlockSeal seal;
};
CR_ON_DISK(PartChunk, 72);

inline constexpr uint32_t kNoWindow = 0xffffffff;  // PartChunkDone: the holder is still at work
struct PartChunkDone {
  uint64_t transfer;
  uint32_t window;
  uint32_t reserved;
};
CR_ON_DISK(PartChunkDone, 16);

struct PartCommit {
  uint64_t transfer;
  Triple triple;  // not that of the offer if the session was faster
  uint64_t realtime_ns;
  uint64_t slots, rows;
  uint64_t description_bytes;
  uint64_t image_bytes;
  uint64_t sent_rows;  // RowRecords of this transfer: who has got another number lacks something
};
CR_ON_DISK(PartCommit, 80);

struct PartCommitted {
  uint64_t transfer;
  Triple triple;
  uint64_t bytes_written;
};
CR_ON_DISK(PartCommitted, 40);

inline constexpr uint64_t kNodeTextBytes = 200;
struct PartFailed {
  uint64_t transfer;
  uint32_t code;  // Errc
  int32_t sys_errno;
  char text[kNodeTextBytes];  // for people: object and cause
};
CR_ON_DISK(PartFailed, 216);

// Which parts do you have? Entries are in the order of session, holder, triple.
struct ListParts {
  uint64_t request;
  uint32_t one_session;  // 1: of this one only; 0: of all from this one on
  uint32_t reserved;
  uint8_t session_id[16];
  uint32_t skip;  // entries from there on that are known already
  uint32_t reserved1;
};
CR_ON_DISK(ListParts, 40);

struct PartEntry {
  uint8_t session_id[16];
  Triple triple;
  uint64_t realtime_ns;
  uint32_t kind, data_parts, parity_parts, holder;
  uint64_t slots, rows, description_bytes;
  uint64_t image_bytes, stored_bytes;
  uint32_t uid;
  uint32_t reserved;
  char name[kPartNameBytes];
  char origin[kPartNameBytes];
  uint64_t layout;  // checksum of volumes and extents: parts fit together if it is the same
};
CR_ON_DISK(PartEntry, 248);
inline constexpr uint32_t kMostEntries = 48;

struct PartList {  // its entries follow
  uint64_t request;
  uint32_t entries;
  uint32_t more;  // 1: there are others behind them
};
CR_ON_DISK(PartList, 16);

struct FetchRows {
  uint64_t request;
  uint8_t session_id[16];
  Triple triple;
  uint32_t holder;
  uint32_t kind;        // ChunkKind
  uint64_t off;         // first row, or byte of the description
  uint64_t count;       // rows, or bytes
  uint64_t window_off;  // where in the region
  uint64_t layout;      // PartEntry's
  WireRegion region;
};
CR_ON_DISK(FetchRows, 88 + sizeof(WireRegion));

struct Fetched {
  uint64_t request;
  uint32_t code;  // Errc; kOk: the block is there
  int32_t sys_errno;
  uint64_t damaged_row;  // kDamaged
  BlockSeal seal;
};
CR_ON_DISK(Fetched, 64);

struct RemoveSession {
  uint64_t request;
  uint8_t session_id[16];
  uint32_t uid;  // whose wish it is; 0 may all
  uint32_t reserved;
};
CR_ON_DISK(RemoveSession, 32);

struct Removed {
  uint64_t request;
  uint32_t code;  // Errc
  uint32_t files;
};
CR_ON_DISK(Removed, 16);

// What the sender knows of nodes' states, NodeStateRecords that follow; kStates is the answer, with
// those of the other side from `skip` on.
struct NodeStatesMessage {
  uint64_t request;
  uint32_t count;
  uint32_t skip;
  uint32_t more;  // of the answer, 1: there are others behind them
  uint32_t reserved;
};
CR_ON_DISK(NodeStatesMessage, 24);
inline constexpr uint32_t kMostStatesAtOnce = 128;

// Which sessions do you see to? Of those `node` is told about: is it one of their holders?
struct AskSessions {
  uint64_t request;
  uint32_t skip;
  uint32_t reserved;
  char node[kWireNameBytes];
};
CR_ON_DISK(AskSessions, 80);

enum SessionFlags : uint32_t {
  kSessionRuns = 1,      // its program is on the node that answers
  kSessionMended = 2,    // it is not, and its parts are being put in place anew
  kSessionUsesNode = 4,  // the node that was asked about is one of its holders
  kSessionStays = 8,     // ... and no other can take its place: `text` says why
  kSessionAllFlags = 15,
};
struct SessionEntry {
  uint8_t session_id[16];
  Triple triple;        // the newest checkpoint that was sent
  uint64_t sent_bytes;  // to other nodes
  uint32_t flags;       // SessionFlags
  uint32_t parts, of;   // of that checkpoint: in place, wanted
  uint32_t reserved;
  char name[kPartNameBytes];
  char text[kNodeTextBytes];  // what keeps it from having all; "": nothing
};
CR_ON_DISK(SessionEntry, 328);
inline constexpr uint32_t kMostSessionEntries = 48;

struct SessionList {  // its entries follow
  uint64_t request;
  uint32_t entries;
  uint32_t more;  // 1: there are others behind them
};
CR_ON_DISK(SessionList, 16);

// Parts of the session under that number that are not newer may be removed: others have them.
struct DropParts {
  uint8_t session_id[16];
  Triple triple;
  uint32_t holder;
  uint32_t reserved;
};
CR_ON_DISK(DropParts, 48);

}  // namespace cr::format
