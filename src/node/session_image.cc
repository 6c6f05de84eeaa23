// SPDX-License-Identifier: MIT
// session_image.cc - see session_image.h. Invariant: as there. Context: N.
#include "node/session_image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "format/checksum.h"
#include "format/part_reader.h"
#include "store/buffer.h"

namespace cr::node {
namespace {

using format::SuperBlock;
using format::VolumeRecord;
using store::PageRun;

// Of an image: its pages, METADATA of buffer 0, of buffer 1.
constexpr size_t kVolumesOfMember = 3;
constexpr uint64_t kNowhere = ~uint64_t{0};
// SlotContent::where: the image; whether it is METADATA, and of which buffer; the page's number.
constexpr int kMemberShift = 44, kSourceShift = 40;
constexpr uint64_t kPageMask = (uint64_t{1} << kSourceShift) - 1;

Result<void> read_all(int fd, void* to, uint64_t bytes, uint64_t off) {
  auto* at = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    const ssize_t n = pread(fd, at, bytes, static_cast<off_t>(off));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{Errc::kSystem, errno, "reading the image"};
    if (n == 0) return Error{Errc::kBusy, 0, "the image became shorter"};
    at += n;
    bytes -= static_cast<uint64_t>(n);
    off += static_cast<uint64_t>(n);
  }
  return {};
}

bool is_newer(const SuperBlock& a, const SuperBlock& b) {
  return a.epoch != b.epoch ? a.epoch > b.epoch : a.sequence > b.sequence;
}

std::vector<uint8_t> metadata_pages(const SuperBlock& super, const uint8_t* metadata) {
  std::vector<uint8_t> all(kPageSize + page_ceil(super.metadata_bytes));
  memcpy(all.data(), &super, sizeof(super));
  memcpy(all.data() + kPageSize, metadata, super.metadata_bytes);
  return all;
}

}  // namespace

// METADATA is copied before it is looked at, as the session may write to it at any time.
Result<std::unique_ptr<SessionImage::Member>> SessionImage::open_buffer(const std::string& path) {
  auto m = std::make_unique<Member>();
  // The directory is a user's: what looks like an image may be a pipe, which is not waited for.
  CR_TRY(m->fd, os::open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  struct stat st;
  if (fstat(m->fd.get(), &st) != 0) return Error{Errc::kSystem, errno, "fstat"};
  if (!S_ISREG(st.st_mode)) return Error{Errc::kForeign, 0, "it is not a regular file"};
  if ((st.st_mode & 022) != 0) {
    return Error{Errc::kPermission, 0, "others may write it, so it cannot be trusted (chmod 600)"};
  }
  m->uid = st.st_uid;
  auto loaded = load(*m, static_cast<uint64_t>(st.st_size));
  if (loaded) return m;
  // Bytes that were being overwritten may say anything.
  SuperBlock now;
  struct stat after;
  const bool same = m->shadow && read_all(m->fd.get(), &now, sizeof(now), 0).has_value() &&
                    memcmp(&now, m->shadow.data(), sizeof(now)) == 0 &&
                    fstat(m->fd.get(), &after) == 0 && after.st_size == st.st_size;
  const bool torn = loaded.error().code == Errc::kDamaged && !same;
  return torn ? Error{Errc::kBusy, 0, "the image was overwritten meanwhile"} : loaded.error();
}

Result<void> SessionImage::load(Member& m, uint64_t bytes) {
  if (bytes < sizeof(SuperBlock)) return Error{Errc::kNotWhole, 0, "the buffer is empty"};
  auto shadow = os::Mapping::map(-1, bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  if (!shadow) return shadow.error();
  m.shadow = std::move(*shadow);
  CR_TRYV(read_all(m.fd.get(), m.shadow.data(), sizeof(SuperBlock), 0));
  auto super = format::read_superblock(m.shadow.data(), bytes);
  if (!super) return super.error();
  m.super = *super;
  if (m.super.metadata_off > bytes || m.super.metadata_bytes > bytes - m.super.metadata_off) {
    return Error{Errc::kDamaged, 0, "its metadata lies outside of the file"};
  }
  CR_TRYV(read_all(m.fd.get(), m.shadow.data() + m.super.metadata_off, m.super.metadata_bytes,
                   m.super.metadata_off));
  auto view = format::read_image(m.shadow.data(), bytes);
  if (!view) return view.error();
  m.view = *view;
  m.super = m.view.super;
  return {};
}

// Of the two buffers the one that says it is newer, without believing it.
int SessionImage::newer_buffer(const std::string& dir) {
  SuperBlock s[2] = {};
  for (int i = 0; i < 2; i++) {
    auto fd = os::open_file(store::buffer_path(dir, i), O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (!fd || !read_all(fd->get(), &s[i], sizeof(s[i]), 0) || s[i].write_lock != 1) s[i] = {};
  }
  return is_newer(s[1], s[0]) ? 1 : 0;
}

Result<std::unique_ptr<SessionImage::Member>> SessionImage::open_member(const std::string& dir,
                                                                        const std::string& name,
                                                                        const SuperBlock* like) {
  const std::string own = name.empty() ? dir : dir + "/" + name;
  Error why{Errc::kNotWhole, ENOENT, "there is no whole checkpoint yet"};
  // The newer one, then the other; and again, as checkpoints go on meanwhile.
  int first = 0;
  for (int look = 0; look < 4; look++) {
    if (look % 2 == 0) first = newer_buffer(own);
    const int i = look % 2 == 0 ? first : 1 - first;
    auto m = open_buffer(store::buffer_path(own, i));
    if (!m) {
      if (m.error().code != Errc::kSystem || m.error().sys_errno != ENOENT) why = m.error();
      continue;
    }
    const SuperBlock& s = (*m)->super;
    if (like != nullptr && (s.sequence != like->sequence || s.epoch != like->epoch ||
                            memcmp(s.session_id, like->session_id, sizeof(s.session_id)) != 0)) {
      why = {Errc::kBusy, 0, "the processes' images are of different checkpoints"};
      continue;
    }
    (*m)->name = name;
    (*m)->buffer = i;
    return m;
  }
  return why;
}

Result<std::unique_ptr<SessionImage>> SessionImage::open(const std::string& dir) {
  auto image = std::make_unique<SessionImage>();
  auto first = open_member(dir, "", nullptr);
  if (!first) return first.error();
  image->uid_ = (*first)->uid;
  image->members_.push_back(std::move(*first));
  for (const format::TreeRecord& t : image->members_[0]->view.tree) {
    if (t.member == 0 || t.member == format::kTreeNoImage) continue;
    auto m = open_member(dir, "members/" + std::to_string(t.member), &image->super());
    if (!m) return m.error();
    if ((*m)->uid != image->uid_) {
      return Error{Errc::kPermission, 0, "its processes' images belong to several users"};
    }
    image->members_.push_back(std::move(*m));
  }
  return image;
}

format::Triple SessionImage::triple() const {
  return {super().epoch, super().sequence, super().attempt};
}

uint64_t SessionImage::image_bytes() const {
  uint64_t sum = 0;
  for (const auto& m : members_) {
    sum += m->super.payload_slots * kPageSize + m->super.metadata_bytes;
  }
  return sum;
}

void SessionImage::place(std::vector<SeenMetadata>& seen, store::SlotMap& map, SlotContent* ret) {
  for (const auto& m : members_) {
    auto known = std::ranges::find(seen, m->name, &SeenMetadata::member);
    if (known == seen.end()) known = seen.insert(known, SeenMetadata{m->name, {}});
    known->bytes[m->buffer] = metadata_pages(m->super, m->view.file + m->super.metadata_off);
  }
  seen_ = &seen;
  sources_.assign(seen.size(), nullptr);
  volumes_.assign(seen.size() * kVolumesOfMember, VolumeRecord{});
  for (const auto& m : members_) {
    sources_[static_cast<size_t>(std::ranges::find(seen, m->name, &SeenMetadata::member) -
                                 seen.begin())] = m.get();
  }
  for (size_t i = 0; i < seen.size(); i++) {
    const Member* m = sources_[i];  // nullptr: a process that is gone
    if (m == nullptr) seen[i].bytes[0] = seen[i].bytes[1] = {};
    const auto first = static_cast<uint32_t>(i * kVolumesOfMember);
    VolumeRecord* v = &volumes_[first];
    for (size_t k = 0; k < kVolumesOfMember; k++) {
      memcpy(v[k].member, seen[i].member.c_str(), seen[i].member.size());
      v[k].kind = k == 0 ? format::kVolumePages : format::kVolumeOther;
      if (k > 0) v[k].buffer = static_cast<uint32_t>(k - 1);
    }
    std::vector<PageRun> runs;
    if (m != nullptr) {
      v[1 + m->buffer].kind = format::kVolumeMetadata;
      for (const format::ExtentRecord& e : m->view.extents) {
        if (e.slot == format::kSlotZero) continue;
        if (!runs.empty() && runs.back().page + runs.back().pages == e.addr / kPageSize) {
          runs.back().pages += e.pages;
        } else {
          runs.push_back({e.addr / kPageSize, e.pages});
        }
      }
    }
    map.set(first, runs);
    for (uint32_t b = 0; b < 2; b++) {
      v[1 + b].bytes = seen[i].bytes[b].size();
      const uint64_t pages = seen[i].bytes[b].size() / kPageSize;
      map.set(first + 1 + b, pages == 0 ? std::vector<PageRun>() : std::vector{PageRun{0, pages}});
    }
  }
  ret->checks.assign(map.slots(), 0);
  ret->where.assign(map.slots(), kNowhere);
  size_t extent = 0;  // of the image of the volume
  for (const format::VolumeExtent& e : map.extents()) {
    const size_t index = e.volume / kVolumesOfMember, part = e.volume % kVolumesOfMember;
    const uint64_t base = uint64_t{index} << kMemberShift | uint64_t{part} << kSourceShift;
    if (part == 0) {
      const Member& m = *sources_[index];
      const auto& extents = m.view.extents;
      if (extent >= extents.size() || extents[extent].addr / kPageSize > e.page) extent = 0;
      for (uint64_t page = e.page; page < e.page + e.pages;) {
        const format::ExtentRecord* x = &extents[extent];
        while (x->addr / kPageSize + x->pages <= page || x->slot == format::kSlotZero) {
          x = &extents[++extent];
        }
        const uint64_t skip = page - x->addr / kPageSize;
        const uint64_t count = std::min(x->pages - skip, e.page + e.pages - page);
        for (uint64_t k = 0; k < count; k++) {
          const uint64_t slot = e.slot + (page - e.page) + k, from = x->slot + skip + k;
          ret->checks[slot] = format::row_check_of(m.view.checksums[from]);
          ret->where[slot] = base | from;
        }
        page += count;
      }
      continue;
    }
    const std::vector<uint8_t>& bytes = seen[index].bytes[part - 1];
    for (uint64_t k = 0; k < e.pages; k++) {
      ret->checks[e.slot + k] = format::row_check(bytes.data() + (e.page + k) * kPageSize);
      ret->where[e.slot + k] = base | (e.page + k);
    }
  }
}

Result<bool> SessionImage::read_pages(uint64_t where, uint64_t count, uint8_t* pages) const {
  const uint64_t index = where >> kMemberShift, part = where >> kSourceShift & 0xf;
  const uint64_t number = where & kPageMask;
  if (part > 0) {
    const uint8_t* bytes = (*seen_)[index].bytes[part - 1].data();
    memcpy(pages, bytes + number * kPageSize, count * kPageSize);
    return true;
  }
  const Member& m = *sources_[index];
  const uint64_t off = m.super.payload_off + number * kPageSize;
  auto done = read_all(m.fd.get(), pages, count * kPageSize, off);
  if (!done && done.error().code == Errc::kBusy) return false;
  if (!done) return done.error();
  return true;
}

Result<bool> SessionImage::read(uint64_t where, uint64_t check, uint8_t* page) const {
  CR_TRY(const bool there, read_pages(where, 1, page));
  return there && format::row_check(page) == check;
}

bool SessionImage::is_current() const {
  return std::ranges::all_of(members_, [](const auto& m) {
    SuperBlock now{};
    return read_all(m->fd.get(), &now, sizeof(now), 0).has_value() &&
           memcmp(&now, &m->super, sizeof(now)) == 0;
  });
}

std::vector<uint8_t> description_of(const std::vector<format::VolumeRecord>& volumes,
                                    const std::vector<format::VolumeExtent>& extents,
                                    const std::vector<std::string>& holders) {
  format::DescriptionHeader h{};
  h.volumes = static_cast<uint32_t>(volumes.size());
  h.holders = static_cast<uint32_t>(holders.size());
  h.extents = extents.size();
  std::vector<uint8_t> description;
  const auto add = [&description](const void* data, size_t bytes) {
    const auto* at = static_cast<const uint8_t*>(data);
    description.insert(description.end(), at, at + bytes);
  };
  add(&h, sizeof(h));
  add(volumes.data(), volumes.size() * sizeof(volumes[0]));
  add(extents.data(), extents.size() * sizeof(extents[0]));
  for (const std::string& name : holders) {
    format::HolderRecord r{};
    memcpy(r.node, name.data(), std::min(name.size(), sizeof(r.node) - 1));
    add(&r, sizeof(r));
  }
  return description;
}

}  // namespace cr::node
