// SPDX-License-Identifier: MIT
// model.h - a checkpoint's METADATA in memory, before it is written.
// Invariant: serialize() gives what format/image_reader.h accepts. Context: N.
#pragma once

#include <stdint.h>

#include <string>
#include <string_view>
#include <vector>

#include "format/image.h"

namespace cr::store {

// What a plug-in of the program has said to be its own. Not in the image.
struct Claim {
  std::string name, descriptors, mappings;
};

struct Model {
  std::vector<Claim> claims;
  format::ProcessRecord process{};
  std::vector<format::SegmentRecord> segments;
  std::vector<format::ExtentRecord> extents;
  std::vector<uint64_t> checksums;
  std::vector<format::ThreadRecord> threads;
  std::vector<format::FdRecord> fds;
  std::vector<format::FileRecord> files;
  std::vector<format::SigactionRecord> sigactions;
  std::vector<format::SiginfoRecord> siginfos;
  std::vector<format::OverlayRecord> overlays;
  std::vector<format::ObjectRecord> objects;
  std::vector<format::PosixTimerRecord> posix_timers;
  std::vector<format::LockRecord> locks;
  std::vector<format::OwnerRecord> owners;
  std::vector<format::TreeRecord> tree;
  std::vector<format::ThreadTraitsRecord> thread_traits;
  std::vector<format::ProcessTraitsRecord> process_traits;
  std::vector<format::PluginRecord> plugins;
  std::vector<format::SemaphoreSetRecord> semaphores;
  std::string strings = std::string(1, '\0');
  std::string blobs;

  format::StringRef add_string(std::string_view s);
  format::BlobRef add_blob(const void* data, size_t bytes);
  uint64_t incompat_features() const;  // that the image needs
  std::vector<uint8_t> serialize() const;
};

// Is that the address of a page of a mapped file?
bool is_of_file(const Model& model, uint64_t addr);

}  // namespace cr::store
