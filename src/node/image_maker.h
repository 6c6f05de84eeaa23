// SPDX-License-Identifier: MIT
// image_maker.h - makes an image directory of a session's slots, wherever these come from.
// Invariant: an image gets WRITE_LOCK = 1 only when every page of it has the checksum that METADATA
// says. What has not is asked for in every other way that the source knows before that is an error.
// Context: N. Doc: docs/store.md.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/base.h"
#include "format/part_reader.h"

namespace cr::node {

// Pages of slots that follow each other, also in memory.
struct SlotPages {
  uint64_t slot, pages;
  const uint8_t* data;
};

// Where the pages of one checkpoint come from. After an error the text, if there is one, names the
// object.
class SlotSource {
 public:
  virtual ~SlotSource() = default;
  virtual uint64_t slots() const = 0;
  // No two extents share a slot.
  virtual const format::DescriptionView& description() const = 0;
  // Any page; a free slot is zeros. Not while next() is called.
  virtual Result<void> read(uint64_t slot, uint8_t* page, std::string* ret_text) = 0;
  // The next pages, whose memory stays until the next call; empty: that was all. Over all calls
  // every slot comes at most once, and those that do not come are zeros. Called in a thread of its
  // own, while nothing else is asked of the source.
  virtual Result<std::vector<SlotPages>> next(std::string* ret_text) = 0;
  // Pages come from other copies from now on, or are computed, as far as that is possible: way 0 is
  // that of the beginning. false: there is no such way. Not while next() is called.
  virtual bool take_way(unsigned way) { return way == 0; }
};

// The same as long as somebody waits for it.
class WantedSource : public SlotSource {
 public:
  // wanted: may be empty.
  WantedSource(SlotSource& from, const std::function<bool()>& wanted)
      : from_(from), wanted_(wanted) {}
  uint64_t slots() const override { return from_.slots(); }
  const format::DescriptionView& description() const override { return from_.description(); }
  Result<void> read(uint64_t slot, uint8_t* page, std::string* ret_text) override {
    return from_.read(slot, page, ret_text);
  }
  Result<std::vector<SlotPages>> next(std::string* ret_text) override {
    if (wanted_ && !wanted_()) return Error{Errc::kTimeout, 0, "nobody waits for it any more"};
    return from_.next(ret_text);
  }

 private:
  SlotSource& from_;
  const std::function<bool()>& wanted_;
};

struct MakeProgress {
  uint64_t done_bytes = 0, total_bytes = 0;
};
using OnMakeProgress = std::function<void(const MakeProgress&)>;

// Makes `dir`, which must not be there yet, an image directory with the checkpoint in image.0; how
// many bytes were written. On failure the text says why, and what was made is removed.
Result<uint64_t> make_image_of(SlotSource& from, const std::string& dir, bool durable,
                               const OnMakeProgress& progress, std::string* ret_text);
// Removes what make_image_of() has made; nothing else of the directory.
void remove_image(const std::string& dir);
// Does all that but writing.
Result<void> check_image_of(SlotSource& from, const OnMakeProgress& progress,
                            std::string* ret_text);

}  // namespace cr::node
