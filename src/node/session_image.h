// SPDX-License-Identifier: MIT
// session_image.h - one checkpoint of a session, as it lies in its image directory, read while the
// session goes on and may overwrite it.
// Invariant: nothing that was read counts unless it has the checksum that METADATA says, or the
// superblock says afterwards that the buffer is still this checkpoint's.
// Context: N. Doc: docs/store.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "format/image_reader.h"
#include "format/part.h"
#include "os/fd.h"
#include "store/slot_map.h"

namespace cr::node {

// What a page of the session is in the slots of its parts, and where it is read.
struct SlotContent {
  std::vector<uint64_t> checks;  // by slot: format::row_check(), 0: zeros or free
  std::vector<uint64_t> where;   // for SessionImage::read()
};

// METADATA of both buffers of each image, as they were last seen: the next one is much like the one
// before the last.
struct SeenMetadata {
  std::string member;
  std::vector<uint8_t> bytes[2];  // superblock in a page of its own, METADATA, zeros up to a page
};

class SessionImage {
 public:
  // The newest whole checkpoint of the image directory, with all its processes. kNotWhole: none is;
  // kBusy: it was overwritten meanwhile, or its processes' images are of different checkpoints.
  static Result<std::unique_ptr<SessionImage>> open(const std::string& dir);

  const format::SuperBlock& super() const { return members_[0]->super; }
  format::Triple triple() const;
  uint64_t image_bytes() const;
  uint32_t uid() const { return uid_; }

  // Gives every page a slot. seen: of this session; gets this checkpoint's METADATA. Then read()
  // may be called, until `seen` changes.
  void place(std::vector<SeenMetadata>& seen, store::SlotMap& map, SlotContent* ret);
  // The volumes, in the order that place() has numbered them.
  const std::vector<format::VolumeRecord>& volumes() const { return volumes_; }

  // Reads a page that is not zeros. false: it is not what it was.
  Result<bool> read(uint64_t where, uint64_t check, uint8_t* page) const;
  // Reads pages at `where`, `where` + 1 ..., and compares nothing. false: they are not there.
  Result<bool> read_pages(uint64_t where, uint64_t count, uint8_t* pages) const;
  // Nothing of it was overwritten so far.
  bool is_current() const;

 private:
  struct Member {
    std::string name;
    os::Fd fd;
    uint32_t uid = 0;  // of the file's owner
    int buffer = 0;
    format::SuperBlock super{};
    os::Mapping shadow;  // superblock and METADATA where they are in the file, zeros elsewhere
    format::ImageView view;
  };
  static Result<std::unique_ptr<Member>> open_member(const std::string& dir,
                                                     const std::string& name,
                                                     const format::SuperBlock* like);
  static Result<std::unique_ptr<Member>> open_buffer(const std::string& path);
  static int newer_buffer(const std::string& dir);
  static Result<void> load(Member& member, uint64_t bytes);

  std::vector<std::unique_ptr<Member>> members_;
  std::vector<format::VolumeRecord> volumes_;
  const std::vector<SeenMetadata>* seen_ = nullptr;
  std::vector<const Member*> sources_;  // in the order of *seen_; nullptr: has no image any more
  uint32_t uid_ = 0;
};

// Volumes, extents and names of holders, as a part or a flushed file keeps them (format/part.h).
std::vector<uint8_t> description_of(const std::vector<format::VolumeRecord>& volumes,
                                    const std::vector<format::VolumeExtent>& extents,
                                    const std::vector<std::string>& holders);

}  // namespace cr::node
