// SPDX-License-Identifier: MIT
// model.cc - see model.h. Invariant: as there. Context: N.
#include "store/model.h"

#include <string.h>

#include <algorithm>

namespace cr::store {
namespace {

class Sections {
 public:
  template <typename T>
  void add(format::SectionKind kind, const T* data, uint64_t count) {
    format::SectionHeader h{};
    h.kind = kind;
    h.element_bytes = sizeof(T);
    h.count = count;
    headers_.push_back(h);
    bodies_.emplace_back(reinterpret_cast<const char*>(data), sizeof(T) * count);
  }

  std::vector<uint8_t> join() {
    format::MetadataHeader head{};
    memcpy(head.magic, format::kMetadataMagic, sizeof(head.magic));
    head.section_count = static_cast<uint32_t>(headers_.size());
    uint64_t at = align(sizeof(head) + headers_.size() * sizeof(headers_[0]));
    for (size_t i = 0; i < headers_.size(); i++) {
      headers_[i].off = at;
      at = align(at + bodies_[i].size());
    }
    std::vector<uint8_t> out(at, 0);
    memcpy(out.data(), &head, sizeof(head));
    memcpy(out.data() + sizeof(head), headers_.data(), headers_.size() * sizeof(headers_[0]));
    for (size_t i = 0; i < headers_.size(); i++) {
      if (!bodies_[i].empty()) {
        memcpy(out.data() + headers_[i].off, bodies_[i].data(), bodies_[i].size());
      }
    }
    return out;
  }

 private:
  static uint64_t align(uint64_t v) { return (v + 15) & ~15ull; }
  std::vector<format::SectionHeader> headers_;
  std::vector<std::string_view> bodies_;
};

}  // namespace

format::StringRef Model::add_string(std::string_view s) {
  if (s.empty()) return 0;
  const auto at = static_cast<format::StringRef>(strings.size());
  strings.append(s);
  strings.push_back('\0');
  return at;
}

format::BlobRef Model::add_blob(const void* data, size_t bytes) {
  blobs.resize((blobs.size() + 15) & ~size_t{15}, '\0');
  const format::BlobRef ref{blobs.size(), bytes};
  blobs.append(static_cast<const char*>(data), bytes);
  return ref;
}

uint64_t Model::incompat_features() const {
  uint64_t bits =
      (objects.empty() ? 0 : format::kIncompatObjects) | (tree.empty() ? 0 : format::kIncompatTree);
  bool kinds = !posix_timers.empty() || !locks.empty() || !owners.empty();
  for (const format::FileRecord& f : files) {
    kinds = kinds || f.kind >= format::kFileEventfd;
    if (f.kind == format::kFileSocket) bits |= format::kIncompatSockets;
  }
  constexpr uint32_t kMustKnow = format::kTraitCredentials | format::kTraitSeccomp |
                                 format::kTraitSeccompStrict | format::kTraitTlsEntries;
  bool traits = false;
  for (const auto& t : thread_traits) traits = traits || (t.what & kMustKnow) != 0;
  for (const auto& p : process_traits) traits = traits || p.descriptor_table.bytes != 0;
  return bits | (kinds ? format::kIncompatKinds : 0) | (traits ? format::kIncompatTraits : 0) |
         (plugins.empty() ? 0 : format::kIncompatPlugins) |
         (semaphores.empty() ? 0 : format::kIncompatSemaphores);
}

std::vector<uint8_t> Model::serialize() const {
  using namespace format;
  Sections s;
  s.add(kSectionProcess, &process, 1);
  s.add(kSectionStrings, strings.data(), strings.size());
  s.add(kSectionSegments, segments.data(), segments.size());
  s.add(kSectionExtents, extents.data(), extents.size());
  s.add(kSectionChecksums, checksums.data(), checksums.size());
  s.add(kSectionThreads, threads.data(), threads.size());
  s.add(kSectionBlobs, blobs.data(), blobs.size());
  s.add(kSectionFds, fds.data(), fds.size());
  s.add(kSectionFiles, files.data(), files.size());
  s.add(kSectionSigactions, sigactions.data(), sigactions.size());
  s.add(kSectionSiginfos, siginfos.data(), siginfos.size());
  s.add(kSectionOverlays, overlays.data(), overlays.size());
  if (!objects.empty()) s.add(kSectionObjects, objects.data(), objects.size());
  if (!posix_timers.empty()) s.add(kSectionPosixTimers, posix_timers.data(), posix_timers.size());
  if (!locks.empty()) s.add(kSectionLocks, locks.data(), locks.size());
  if (!owners.empty()) s.add(kSectionOwners, owners.data(), owners.size());
  if (!tree.empty()) s.add(kSectionTree, tree.data(), tree.size());
  if (!thread_traits.empty()) {
    s.add(kSectionThreadTraits, thread_traits.data(), thread_traits.size());
  }
  if (!process_traits.empty()) {
    s.add(kSectionProcessTraits, process_traits.data(), process_traits.size());
  }
  if (!plugins.empty()) s.add(kSectionPlugins, plugins.data(), plugins.size());
  if (!semaphores.empty()) s.add(kSectionSemaphores, semaphores.data(), semaphores.size());
  return s.join();
}

bool is_of_file(const Model& model, uint64_t addr) {
  const auto& segments = model.segments;
  const auto it = std::ranges::upper_bound(segments, addr, {}, &format::SegmentRecord::end);
  return it != segments.end() && it->kind == format::kSegmentFile;
}

}  // namespace cr::store
