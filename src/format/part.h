// SPDX-License-Identifier: MIT
// part.h - every struct of a part file: what one node keeps of a session that is protected by
// several.
// Invariant: fixed width, little endian, explicit padding; the first 16 bytes never change.
// Context: N, H, S, R. Doc: docs/format/part.md. Reader: part_reader.h.
//
// A part file is: header, rows of 4096 bytes, the description, and a checksum of each row. The
// description says what the session's slots are: it is the same in all parts of a checkpoint.
#pragma once

#include "format/image.h"

namespace cr::format {

inline constexpr char kPartMagic[8] = {'C', 'R', 'P', 'A', 'R', 'T', '\n', '\0'};
inline constexpr uint32_t kPartVersion = 1;
inline constexpr uint64_t kPartRowsOff = 4096;
inline constexpr uint32_t kMostPartHolders = 64;
inline constexpr uint64_t kPartNameBytes = 64;
inline constexpr uint64_t kMostPartRows = uint64_t{1} << 40;
inline constexpr uint64_t kMostDescriptionBytes = uint64_t{1} << 30;

// One checkpoint of one session.
struct Triple {
  uint64_t epoch, sequence, attempt;
};
CR_ON_DISK(Triple, 24);

struct PartHeader {
  char magic[8];
  uint32_t format_version;
  uint32_t header_bytes;  // sizeof(PartHeader)
  uint32_t machine;
  uint32_t page_bytes;
  uint64_t feature_compat;
  uint64_t feature_ro_compat;
  uint64_t feature_incompat;
  uint64_t write_lock;  // WRITE_LOCK: 0 while the file is being written, 1 when it is whole
  Triple triple;
  uint64_t realtime_ns;  // CLOCK_REALTIME of the program's stop
  uint8_t session_id[16];
  uint32_t kind;          // ProtectionKind
  uint32_t data_parts;    // K
  uint32_t parity_parts;  // M
  uint32_t holder;        // which of the K + M this is
  uint32_t unit_pages;    // how slots are dealt out, see docs/store.md; must be 16
  uint32_t rotate_rows;   // must be 256
  uint64_t slots;         // of the session
  uint64_t rows;          // of this file
  uint64_t description_off;
  uint64_t description_bytes;
  uint64_t description_xxh3;
  uint64_t checks_off;  // XXH3-64 of each row, 0: the row is zeros and need not be stored
  uint64_t checks_xxh3;
  uint64_t image_bytes;  // of all images of the session; for people
  uint32_t uid;          // whose session it is
  uint32_t reserved0;
  char name[kPartNameBytes];    // of the session, NUL-terminated
  char origin[kPartNameBytes];  // the node on which the session ran
  uint8_t reserved[176];
  uint64_t checksum;  // XXH3-64 of the bytes before it
};
CR_ON_DISK(PartHeader, 512);
static_assert(offsetof(PartHeader, write_lock) == 48);
static_assert(offsetof(PartHeader, session_id) == 88);
static_assert(offsetof(PartHeader, name) == 200);
static_assert(offsetof(PartHeader, origin) == 264);
static_assert(offsetof(PartHeader, checksum) == 504);

enum ProtectionKind : uint32_t {
  kProtectNone = 0,
  kProtectReplica = 1,
  kProtectXor = 2,
  kProtectRs = 3,
};

// The description: this, then its volumes, extents and holders.
struct DescriptionHeader {
  uint32_t volumes, holders;
  uint64_t extents;
};
CR_ON_DISK(DescriptionHeader, 16);

enum VolumeKind : uint32_t {
  kVolumePages = 1,  // of an image: page p is at address p * 4096
  kVolumeMetadata =
      2,             // of an image: page 0 is its superblock's 512 bytes, METADATA from page 1 on
  kVolumeOther = 3,  // METADATA of the image's other buffer: not needed, kept because the next
                     // one will be like it
};

// Pages that belong together.
struct VolumeRecord {
  uint32_t kind;
  uint32_t buffer;   // of METADATA: which buffer's it was
  uint64_t bytes;    // of METADATA: of the volume, whole pages; how long METADATA is says page 0
  char member[112];  // the image's directory within the image directory: "", "members/2"
};
CR_ON_DISK(VolumeRecord, 128);

// Pages [page, page + pages) of a volume are in the slots from `slot` on. Sorted by volume and
// page; no two share a page or a slot.
struct VolumeExtent {
  uint32_t volume;
  uint32_t reserved;
  uint64_t page, pages, slot;
};
CR_ON_DISK(VolumeExtent, 32);

// The node that keeps a part; the number in the list is the holder's.
struct HolderRecord {
  char node[kPartNameBytes];
};
CR_ON_DISK(HolderRecord, 64);

}  // namespace cr::format
