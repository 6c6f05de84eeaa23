// SPDX-License-Identifier: MIT
// replicator_streams.cc - how a Replicator's rows get to its holders: collected to chunks, each of
// which has a window there until it is taken in.
// Invariant: as replicator.h says. Context: N.
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "node/disk_words.h"
#include "node/holder.h"
#include "node/replicator.h"

namespace cr::node {

using namespace format;

namespace {
constexpr uint64_t kUnitsOfStep = 512, kMostBytesOfStep = 2 * kChunkBytes;
static_assert(store::kUnitPages <= kChunkRows);  // a unit fills one window of a stream at most
}  // namespace

bool Replicator::has_room(const Target& t) const {
  return !t.takes_part || (!t.waiting && std::ranges::count(t.window_busy, false) != 0);
}

bool Replicator::all_have_room() const {
  return std::ranges::all_of(targets_, [this](const Target& t) { return has_room(t); });
}

// Copies are the same for all that have the same base.
void Replicator::make_streams() {
  streams_.clear();
  const bool copies = source_.stripe().data == 1;
  for (size_t i = 0; i < targets_.size(); i++) {
    if (!targets_[i].takes_part) continue;
    const auto same = std::ranges::find_if(streams_, [&](const Stream& s) {
      return copies && targets_[s.targets[0]].full == targets_[i].full;
    });
    if (same == streams_.end()) {
      streams_.push_back({.targets = {i}, .filling = nullptr, .full = targets_[i].full});
    } else {
      same->targets.push_back(i);
    }
  }
}

// One that nobody uses. There are never many more than there are windows.
Result<Replicator::Buffer> Replicator::take_buffer() {
  const auto free =
      std::ranges::find_if(buffers_, [](const Buffer& b) { return b.use_count() == 1; });
  if (free != buffers_.end()) return *free;
  auto memory =
      os::Mapping::map(-1, kChunkBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  if (!memory) return memory.error();
  buffers_.push_back(std::make_shared<os::Mapping>(std::move(*memory)));
  return buffers_.back();
}

void Replicator::put_row(Stream& s, uint64_t row, const RowSource::Row& content) {
  if (!s.filling) {
    auto buffer = take_buffer();
    if (!buffer) {
      for (const size_t i : s.targets) drop(targets_[i], words_of(buffer.error()));
      return;
    }
    s.filling = *buffer;
  }
  uint8_t* memory = s.filling->data();
  const RowRecord r{row, content.check};
  memcpy(memory + s.rows * sizeof(r), &r, sizeof(r));
  s.rows++;
  if (content.check != 0) {
    memcpy(memory + kChunkPagesOff + s.pages * kPageSize, content.page, kPageSize);
    s.pages++;
  }
  if (s.rows == kChunkRows) flush(s);
}

void Replicator::flush(Stream& s) {
  if (s.rows > 0) {
    PartChunk chunk{};
    chunk.kind = kChunkOfRows;
    chunk.rows = s.rows;
    for (const size_t i : s.targets) {
      hand_over(targets_[i], s.filling, chunk, kChunkPagesOff + s.pages * kPageSize);
    }
  }
  s.filling.reset();
  s.rows = s.pages = 0;
}

void Replicator::hand_over(Target& t, const Buffer& buffer, const PartChunk& like, uint64_t bytes) {
  if (!t.takes_part) return;
  handed_bytes_ += bytes;
  const auto window =
      static_cast<uint32_t>(std::ranges::find(t.window_busy, false) - t.window_busy.begin());
  const std::span<const uint8_t> data{buffer->data(), bytes};
  if (std::ranges::count(t.window_busy, true) == 0) t.told_ns = t.moved_ns = node_.now_ns();
  t.window_busy[window] = true;
  t.handed_rows += like.rows;
  if (t.own) {
    return run_own(
        t,
        [buffer, data, like](PartReceiver* receiver) {
          if (like.kind == kChunkOfDescription) {
            return receiver->add_description(like.off, data).error();
          }
          if (auto added = receiver->add_rows(data, like.rows); !added) return added.error();
          return receiver->finish_rows().error();
        },
        [window](Target& now) { now.window_busy[window] = false; });
  }
  sent_bytes_ += bytes;
  auto message = std::make_shared<PartChunk>(like);
  message->transfer = t.transfer;
  message->window = window;
  t.waiting = {buffer, std::move(message), bytes};
  put_waiting(t);
}

void Replicator::put_waiting(Target& t) {
  const Waiting w = *t.waiting;
  const std::span<const uint8_t> data{w.buffer->data(), w.bytes};
  const uint64_t digest = chunk_digest(*w.message, data);
  auto seal = node_.hub->put_block(
      t.link, data, t.region, w.message->window * kChunkBytes,
      [hub = node_.hub, link = t.link, w, puts = t.puts](const Result<void>& done) {
        --*puts;
        if (done) (void)send_struct(*hub, link, kPartChunk, *w.message);
      },
      &digest);
  if (!seal && seal.error().code == Errc::kBusy) return;  // until others' blocks are through
  t.waiting.reset();
  if (!seal) return drop(t, words_of(seal.error()));
  ++*t.puts;
  w.message->seal = *seal;
}

// The target by which a stream's rows are chosen: all of them need the same, but each can fail. -1:
// none takes part any more.
int Replicator::taker_of(const Stream& s) const {
  const auto at =
      std::ranges::find_if(s.targets, [this](size_t i) { return targets_[i].takes_part; });
  return at == s.targets.end() ? -1 : static_cast<int>(*at);
}

void Replicator::put_unit(const RowSource::Unit& unit) {
  for (Stream& s : streams_) {
    for (uint64_t left = unit.wanted & ~unit.bad; left != 0; left &= left - 1) {
      const int taker = taker_of(s);
      if (taker < 0) break;
      const auto r = static_cast<uint64_t>(std::countr_zero(left));
      const auto row = source_.row(unit, r, targets_[static_cast<size_t>(taker)].holder, s.full);
      if (row) put_row(s, unit.first + r, *row);
    }
  }
}

// Sends what is wanted of the next unit. false: it has to wait for a window.
bool Replicator::send_unit() {
  const bool full =
      std::ranges::any_of(streams_, [this](const Stream& s) { return s.full && taker_of(s) >= 0; });
  RowSource::Unit unit = source_.look_at(row_, full);
  if (unit.wanted != 0) {
    if (!all_have_room()) return false;
    source_.read(unit, full);
    put_unit(unit);
    source_.mark_sent(unit);
  }
  row_ += unit.count;
  return true;
}

bool Replicator::send_rows() {
  const uint64_t begun = handed_bytes_;
  for (uint64_t i = 0; i < kUnitsOfStep && handed_bytes_ - begun < kMostBytesOfStep; i++) {
    if (row_ >= source_.rows()) {
      if (!all_have_room() || node_.now_ns() < look_again_ns_) return false;
      end_pass();
      return true;
    }
    if (!send_unit()) return false;
  }
  return true;
}

void Replicator::send_description() {
  for (Target& t : targets_) {
    while (t.takes_part && t.described < description_.size() && has_room(t)) {
      const auto buffer = take_buffer();
      if (!buffer) {
        drop(t, words_of(buffer.error()));
        break;
      }
      const uint64_t bytes = std::min<uint64_t>(kChunkBytes, description_.size() - t.described);
      memcpy((*buffer)->data(), description_.data() + t.described, bytes);
      PartChunk chunk{};
      chunk.kind = kChunkOfDescription;
      chunk.off = t.described;
      t.described += bytes;
      hand_over(t, *buffer, chunk, bytes);
    }
  }
}

}  // namespace cr::node
