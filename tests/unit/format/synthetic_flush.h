// SPDX-License-Identifier: MIT
// synthetic_flush.h - a small flushed file: the right one, to be broken by tests.
// Invariant: the same bytes every time (docs/format/flush.md shows them); not written by the code
// under test.
// Context: N.
#pragma once

#include <string.h>

#include <string>
#include <vector>

#include "format/checksum.h"
#include "format/flush_reader.h"

namespace cr_test {

// The checkpoint of synthetic_part.h: a page of memory in slot 0, the superblock's page and two of
// METADATA, the second of zeros, in slots 1 to 3. Slot 0 was overwritten while it was copied, so it
// is in both frames, and counts in the second.
struct SyntheticFlush {
  struct Frame {
    std::vector<cr::format::FlushRun> runs;
    std::string pages;
    uint32_t encoding = cr::format::kFlushRaw;
    std::string stored;  // if it is encoded
  };
  cr::format::FlushHeader header{};
  std::string source = "/home/u/prog.image";
  std::vector<cr::format::VolumeRecord> volumes;
  std::vector<cr::format::VolumeExtent> extents;
  std::vector<Frame> frames;
  std::vector<uint64_t> checks;
  std::vector<uint32_t> places;

  static std::string page(const char* text) {
    std::string page(cr::kPageSize, '\0');
    memcpy(page.data(), text, strlen(text));
    return page;
  }
  static uint64_t check(const std::string& page) {
    return cr::format::checksum(page.data(), page.size());
  }

  SyntheticFlush() {
    using namespace cr::format;
    memcpy(header.magic, kFlushMagic, sizeof(header.magic));
    header.format_version = kFlushVersion;
    header.header_bytes = sizeof(header);
    header.machine = kMachineX86_64;
    header.page_bytes = cr::kPageSize;
    header.write_lock = 1;
    header.triple = {1, 7, 9};
    header.realtime_ns = 1735689600000000000;
    for (uint8_t i = 0; i < 16; i++) header.session_id[i] = i;
    header.uid = 1000;
    header.kind = kProtectXor;
    header.data_parts = 2;
    header.parity_parts = 1;
    header.image_bytes = 8800;
    memcpy(header.name, "prog", 4);
    memcpy(header.node, "node1", 5);
    for (const uint32_t kind : {kVolumePages, kVolumeMetadata, kVolumeOther}) {
      VolumeRecord v{};
      v.kind = kind;
      v.buffer = kind == kVolumeOther ? 1 : 0;
      v.bytes = kind == kVolumeMetadata ? 3 * cr::kPageSize : 0;
      volumes.push_back(v);
    }
    extents.push_back({0, 0, 0x10, 1, 0});
    extents.push_back({1, 0, 0, 3, 1});
    const std::string memory = page("a page of anonymous memory"), super = page("the superblock"),
                      metadata = page("METADATA");
    frames.push_back(
        {{{0, 1, 0}, {1, 2, 0}}, page("what it was before") + super + metadata, kFlushRaw, ""});
    frames.push_back({{{0, 1, 0}}, memory, kFlushRaw, ""});
    checks = {check(memory), check(super), check(metadata), 0};
    places = {1, 0, 0, kFlushNoFrame};
  }

  std::vector<uint8_t> description() const {
    cr::format::DescriptionHeader d{};
    d.volumes = static_cast<uint32_t>(volumes.size());
    d.extents = extents.size();
    std::vector<uint8_t> out;
    append(out, &d, sizeof(d));
    append(out, volumes.data(), volumes.size() * sizeof(volumes[0]));
    append(out, extents.data(), extents.size() * sizeof(extents[0]));
    return out;
  }

  static std::vector<uint8_t> frame_bytes(const Frame& f, uint32_t number) {
    using namespace cr::format;
    const std::string& stored = f.encoding == kFlushRaw ? f.pages : f.stored;
    std::vector<uint8_t> out(sizeof(FlushFrame) + cr::page_ceil(stored.size()));
    memcpy(out.data() + sizeof(FlushFrame), stored.data(), stored.size());
    FlushFrame head{};
    memcpy(head.magic, kFlushFrameMagic, sizeof(head.magic));
    head.number = number;
    head.pages = static_cast<uint32_t>(f.pages.size() / cr::kPageSize);
    head.run_count = static_cast<uint32_t>(f.runs.size());
    head.encoding = f.encoding;
    head.stored_bytes = stored.size();
    head.stored_xxh3 = checksum(out.data() + sizeof(FlushFrame), out.size() - sizeof(FlushFrame));
    memcpy(head.runs, f.runs.data(), f.runs.size() * sizeof(FlushRun));
    head.checksum = checksum(&head, offsetof(FlushFrame, checksum));
    memcpy(out.data(), &head, sizeof(head));
    return out;
  }

  // The file's content, with all offsets and checksums filled in.
  std::vector<uint8_t> bytes() {
    using namespace cr::format;
    std::vector<uint8_t> out(kFlushFramesOff);
    memcpy(&out[sizeof(header)], source.data(), source.size());
    std::vector<FlushFrameRecord> index;
    for (const Frame& f : frames) {
      const auto frame = frame_bytes(f, static_cast<uint32_t>(index.size()));
      index.push_back({out.size(), frame.size()});
      append(out, frame.data(), frame.size());
    }
    const auto d = description();
    header.slots = checks.size();
    header.frames = index.size();
    header.frames_end = out.size();
    header.description_bytes = d.size();
    append(out, d.data(), d.size());
    append(out, index.data(), index.size() * sizeof(index[0]));
    append(out, checks.data(), checks.size() * sizeof(checks[0]));
    append(out, places.data(), places.size() * sizeof(places[0]));
    seal(out, &header);
    return out;
  }

  // Puts the header into the file with the right checksums, as far as they can be made.
  static void seal(std::vector<uint8_t>& file, cr::format::FlushHeader* h) {
    using namespace cr::format;
    uint64_t at = h->frames_end;
    const auto sum = [&](uint64_t bytes, uint64_t* ret) {
      if (at > file.size() || bytes > file.size() - at) return;
      *ret = checksum(file.data() + at, bytes);
      at += bytes;
    };
    if (h->slots < file.size() && h->frames < file.size()) {
      sum(h->description_bytes, &h->description_xxh3);
      sum(h->frames * sizeof(FlushFrameRecord), &h->index_xxh3);
      sum(h->slots * 8, &h->checks_xxh3);
      sum(h->slots * 4, &h->places_xxh3);
    }
    if (file.size() >= kFlushFramesOff) {
      h->source_xxh3 = checksum(file.data() + sizeof(*h), kFlushSourceBytes);
    }
    h->checksum = checksum(h, offsetof(FlushHeader, checksum));
    if (file.size() >= sizeof(*h)) memcpy(file.data(), h, sizeof(*h));
  }

 private:
  static void append(std::vector<uint8_t>& to, const void* data, size_t bytes) {
    const auto* at = static_cast<const uint8_t*>(data);
    to.insert(to.end(), at, at + bytes);
  }
};

}  // namespace cr_test
