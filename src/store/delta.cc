// SPDX-License-Identifier: MIT
// delta.cc - see delta.h. Invariant: as there. Context: N.
#include "store/delta.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "format/checksum.h"
#include "os/fault.h"

namespace cr::store {
namespace {

using format::kSlotZero;
using os::fault_point;
using os::FaultPoint;

constexpr uint64_t kNone = kSlotZero - 1;

// kNone: no extent has the page. kSlotZero: one says that it is zeros.
uint64_t slot_of(const BufferIndex& index, uint64_t addr) {
  const auto after = std::ranges::upper_bound(index.extents, addr, {}, &format::ExtentRecord::addr);
  if (after == index.extents.begin()) return kNone;
  const format::ExtentRecord& e = *(after - 1);
  if (addr - e.addr >= e.pages * kPageSize) return kNone;
  return e.slot == kSlotZero ? kSlotZero : e.slot + (addr - e.addr) / kPageSize;
}

bool is_slot(uint64_t slot) { return slot < kNone; }

// The name still leads to the file.
bool is_named(const std::string& path, uint64_t ino) {
  struct stat st;
  return stat(path.c_str(), &st) == 0 && st.st_ino == ino;
}

}  // namespace

Result<std::unique_ptr<DeltaWriter>> DeltaWriter::open(const std::string& dir, bool durable,
                                                       BufferIndex (&buffers)[2], int newest,
                                                       std::vector<uint64_t> behind,
                                                       DeltaWriter* before) {
  std::unique_ptr<File> files[2];
  os::Mapping maps[2];
  struct stat st[2];
  for (int i = 0; i < 2; i++) {
    if (!buffers[i].known) return Error{Errc::kNotWhole, 0, "a buffer is not known"};
    const std::string path = buffer_path(dir, i);
    CR_TRY(files[i], File::open(path, File::Mode::kExisting));
    os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) return Error{Errc::kSystem, errno, "opening the last checkpoint"};
    const uint64_t bytes = kPageSize + buffers[i].checksums.size() * kPageSize;
    if (fstat(fd.get(), &st[i]) != 0) return Error{Errc::kSystem, errno, "fstat"};
    Side* old = before != nullptr ? &before->sides_[i] : nullptr;
    if (old != nullptr && old->dev == st[i].st_dev && old->ino == st[i].st_ino &&
        old->memory.size() >= bytes) {
      maps[i] = std::move(old->memory);
      continue;
    }
    // Address space for what is likely to be added: a new mapping has to be filled page by page.
    CR_TRY(maps[i], os::Mapping::map(fd.get(), bytes + bytes / 8, PROT_READ, MAP_SHARED));
  }
  return std::unique_ptr<DeltaWriter>(
      new DeltaWriter(Side{BufferFile(std::move(files[0]), durable), buffers[0], std::move(maps[0]),
                           buffer_path(dir, 0), st[0].st_dev, st[0].st_ino},
                      Side{BufferFile(std::move(files[1]), durable), buffers[1], std::move(maps[1]),
                           buffer_path(dir, 1), st[1].st_dev, st[1].st_ino},
                      newest, std::move(behind)));
}

bool DeltaWriter::fits(const std::vector<DeltaPage>& pages) const {
  const BufferIndex &last = sides_[newest_].index, &next = sides_[1 - newest_].index;
  const Side& to_write = sides_[1 - newest_];
  if (!last.known || !next.known || !is_named(to_write.path, to_write.ino)) return false;
  for (const DeltaPage& p : pages) {
    const uint64_t from = slot_of(last, p.addr), to = slot_of(next, p.addr);
    if (is_slot(from) && is_slot(to)) continue;
    const bool reads_as_zero = from == to && (from == kSlotZero || !p.of_file);
    if (!reads_as_zero || !is_zero_page(p.data)) return false;
  }
  return std::ranges::all_of(behind_, [&](uint64_t addr) {
    const uint64_t from = slot_of(last, addr), to = slot_of(next, addr);
    return from == to || (is_slot(from) && is_slot(to));
  });
}

Result<void> DeltaWriter::put(Side& side, uint64_t addr, uint64_t sum, const uint8_t* data) {
  const uint64_t slot = slot_of(side.index, addr);
  if (!is_slot(slot) || side.index.checksums[slot] == sum) return {};
  side.index.checksums[slot] = sum;
  return side.file.write(data, kPageSize, kPageSize + slot * kPageSize);
}

// What the checkpoint before has written to the other buffer, and this one does not write again.
Result<void> DeltaWriter::catch_up(Side& side, const std::vector<DeltaPage>& pages) {
  const Side& last = sides_[newest_];
  size_t at = 0;
  for (const uint64_t addr : behind_) {
    while (at < pages.size() && pages[at].addr < addr) at++;
    if (at < pages.size() && pages[at].addr == addr) continue;
    const uint64_t slot = slot_of(last.index, addr);
    if (!is_slot(slot)) continue;
    CR_TRYV(put(side, addr, last.index.checksums[slot],
                last.memory.data() + kPageSize + slot * kPageSize));
  }
  return {};
}

Result<void> DeltaWriter::commit(Model& model, const std::vector<DeltaPage>& pages,
                                 format::SuperBlock* super) {
  Side& side = sides_[1 - newest_];
  side.index.known = false;
  side.file.begin_count();
  CR_TRYV(side.file.lock(*super));
  CR_TRYV(catch_up(side, pages));
  fault_point(FaultPoint::kPagesHalf);
  std::vector<uint64_t> changed;
  changed.reserve(pages.size());
  const Side& last = sides_[newest_];
  for (const DeltaPage& p : pages) {
    // Many have only been written to, or may have been: comparing takes half as long as hashing.
    const uint64_t slot = slot_of(last.index, p.addr);
    const uint8_t* before =
        is_slot(slot) ? last.memory.data() + kPageSize + slot * kPageSize : nullptr;
    const bool same = before != nullptr && memcmp(before, p.data, kPageSize) == 0;
    const uint64_t sum = same ? last.index.checksums[slot] : format::checksum(p.data, kPageSize);
    if (!same) changed.push_back(p.addr);
    CR_TRYV(put(side, p.addr, sum, p.data));
  }
  CR_TRYV(side.file.drain());
  fault_point(FaultPoint::kPagesWritten);
  std::swap(model.extents, side.index.extents);
  std::swap(model.checksums, side.index.checksums);
  const Result<void> done = side.file.commit(model, side.index.metadata, super);
  std::swap(model.extents, side.index.extents);
  std::swap(model.checksums, side.index.checksums);
  CR_TRYV(done);
  side.index.known = true;
  behind_ = std::move(changed);
  newest_ = 1 - newest_;
  return {};
}

}  // namespace cr::store
