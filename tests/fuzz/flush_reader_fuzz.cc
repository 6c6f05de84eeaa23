// SPDX-License-Identifier: MIT
// flush_reader_fuzz.cc - the reader of flushed files, with hostile bytes.
// Invariant under test: nothing outside the bytes is read, and what is given out keeps the rules
// that others rely on: frames side by side within the file, every slot in a frame that there is or
// in none, runs in order and in range, as many pages as a frame says; texts end.
//
// Input: the file. It is read as it is, and again with the checksums made right; and its beginning
// as one frame.
#include <string.h>

#include <cstdlib>
#include <vector>

#include "format/checksum.h"
#include "format/flush_reader.h"
#include "store/slot_map.h"

namespace {

using namespace cr::format;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

void expect(bool right) {
  if (!right) abort();
}

void check_frame(const uint8_t* at, uint64_t left, uint64_t number) {
  auto f = read_flush_frame(at, left, number);
  if (!f) return;
  expect(f->pages > 0 && f->pages <= kMostFramePages && f->run_count <= kMostFrameRuns);
  expect(flush_frame_bytes(*f) <= left);
  expect(f->stored_bytes <= f->pages * cr::kPageSize);
  uint64_t pages = 0, end = 0;
  for (uint32_t i = 0; i < f->run_count; i++) {
    expect(f->runs[i].slot >= end && f->runs[i].pages > 0);
    end = f->runs[i].slot + f->runs[i].pages;
    pages += f->runs[i].pages;
  }
  expect(pages == f->pages && end <= kMostPartRows);
  g_sum += is_frame_good(*f, at) ? 1 : 0;
}

void read(const std::vector<uint8_t>& file) {
  auto begin = read_flush_begin(file.data(), file.size());
  if (begin) g_sum += strlen(begin->name) + strlen(begin->node) + strlen(flush_source(file.data()));
  auto h = read_flush_header(file.data(), file.size());
  expect(!h || begin);
  if (!h) return;
  const uint64_t bytes = flush_tail_bytes(*h);
  expect(h->frames_end + bytes == file.size());
  std::vector<uint64_t> aligned((bytes + 7) / 8);
  memcpy(aligned.data(), file.data() + h->frames_end, bytes);
  auto tail = read_flush_tail(*h, {reinterpret_cast<const uint8_t*>(aligned.data()), bytes});
  if (!tail) return;
  expect(tail->frames.size() == h->frames && tail->places.size() == h->slots);
  uint64_t end = kFlushFramesOff;
  for (uint64_t i = 0; i < tail->frames.size(); i++) {
    const FlushFrameRecord& f = tail->frames[i];
    expect(f.off == end && f.bytes > sizeof(FlushFrame) && f.bytes <= h->frames_end - end);
    check_frame(file.data() + f.off, f.bytes, i);
    end += f.bytes;
  }
  expect(end == h->frames_end);
  for (uint64_t i = 0; i < h->slots; i++) {
    const bool none = tail->places[i] == kFlushNoFrame;
    expect(none == (tail->checks[i] == 0) && (none || tail->places[i] < h->frames));
  }
  cr::store::SlotMap map;
  if (map.adopt(tail->description.extents, h->slots)) expect(map.slots() <= h->slots);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> file(data, data + size);
  file.shrink_to_fit();
  read(file);
  check_frame(file.data(), file.size(), 0);
  FlushFrame f;
  if (file.size() >= sizeof(f)) {
    memcpy(&f, file.data(), sizeof(f));
    std::vector<uint8_t> frame = file;
    f.checksum = flush_frame_checksum(f);
    memcpy(frame.data(), &f, sizeof(f));
    check_frame(frame.data(), frame.size(), f.number);
  }
  FlushHeader h;
  if (file.size() < kFlushFramesOff) return 0;
  memcpy(&h, file.data(), sizeof(h));
  uint64_t at = h.frames_end;
  const auto sum = [&](uint64_t bytes, uint64_t* ret) {
    if (at > file.size() || bytes > file.size() - at) return;
    *ret = checksum(file.data() + at, bytes);
    at += bytes;
  };
  if (h.slots < file.size() && h.frames < file.size()) {
    sum(h.description_bytes, &h.description_xxh3);
    sum(h.frames * sizeof(FlushFrameRecord), &h.index_xxh3);
    sum(h.slots * sizeof(uint64_t), &h.checks_xxh3);
    sum(h.slots * sizeof(uint32_t), &h.places_xxh3);
  }
  h.source_xxh3 = checksum(file.data() + sizeof(h), kFlushSourceBytes);
  h.checksum = flush_header_checksum(h);
  memcpy(file.data(), &h, sizeof(h));
  read(file);
  return 0;
}
