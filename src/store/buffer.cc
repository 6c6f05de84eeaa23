// SPDX-License-Identifier: MIT
// buffer.cc - see buffer.h. Invariant: as there. Context: N.
#include "store/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "format/checksum.h"
#include "os/fault.h"
#include "os/thread.h"

namespace cr::store {
namespace {

using os::fault_point;
using os::FaultPoint;

constexpr uint64_t kWriteBytes = 1 << 20;
constexpr uint64_t kNoSlot = ~1ull;
constexpr uint64_t kLeastHoleSlots = 16;  // shorter ones are not worth the call
// A file is written anew when a quarter of its slots, and at least so many, are free.
constexpr uint64_t kToleratedFreeSlots = 4096;

// Of a buffer that is not whole.
format::SuperBlock blank_super() {
  format::SuperBlock super{};
  memcpy(super.magic, format::kImageMagic, sizeof(super.magic));
  super.format_version = format::kImageVersion;
  super.header_bytes = sizeof(super);
  super.machine = format::kMachineX86_64;
  super.page_bytes = kPageSize;
  super.checksum = format::superblock_checksum(super);
  return super;
}

}  // namespace

bool is_zero_page(const uint8_t* p) {
  const auto* w = reinterpret_cast<const uint64_t*>(p);
  uint64_t any = 0;
  for (size_t i = 0; i < kPageSize / 8; i += 8) {
    any = w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7];
    if (any != 0) return false;
  }
  return true;
}

std::string buffer_path(const std::string& dir, int index) {
  return dir + "/image." + std::to_string(index);
}

// A new buffer gets its name when its superblock is durable: under the name, a power failure never
// leaves a file whose size is there and whose first sector is not.
static Result<void> make_buffer(const std::string& path, bool durable) {
  const std::string unnamed = path + ".new";
  CR_TRY(const std::unique_ptr<File> file, File::open(unnamed, File::Mode::kEmpty));
  alignas(4096) static uint8_t page[kPageSize];
  const format::SuperBlock super = blank_super();
  memcpy(page, &super, sizeof(super));
  CR_TRYV(file->write(page, sizeof(page), 0));
  CR_TRYV(file->barrier(durable));
  return rename_file(unnamed, path);
}

Result<std::unique_ptr<BufferWriter>> BufferWriter::open(const std::string& dir,
                                                         int index_of_buffer, bool durable,
                                                         BufferIndex& index) {
  const std::string path = buffer_path(dir, index_of_buffer);
  if (access(path.c_str(), F_OK) != 0) {
    index = {};
    auto made = make_buffer(path, durable);
    if (!made) {
      (void)remove_file(path + ".new");
      return made.error();
    }
  }
  if (durable && !index.known) {
    CR_TRYV(sync_file(buffer_path(dir, 1 - index_of_buffer)));
    CR_TRYV(sync_directory(dir));
    CR_TRYV(sync_parent(dir));
  }
  CR_TRY(std::unique_ptr<File> file, File::open(path, File::Mode::kExisting));
  return std::unique_ptr<BufferWriter>(new BufferWriter(std::move(file), durable, index));
}

Result<void> BufferWriter::begin(const format::SuperBlock& previous) {
  if (index_.known && !index_.wasteful) old_ = std::move(index_);
  index_ = {};
  checksums_ = old_.checksums;
  return file_.lock(previous);
}

Result<void> BufferWriter::set_last(const std::string& dir, int index_of_buffer,
                                    const BufferIndex& last) {
  os::Fd fd(::open(buffer_path(dir, index_of_buffer).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return Error{Errc::kSystem, errno, "opening the last checkpoint"};
  const uint64_t bytes = kPageSize + last.checksums.size() * kPageSize;
  CR_TRY(last_file_, os::Mapping::map(fd.get(), bytes, PROT_READ, MAP_SHARED));
  last_ = &last;
  return {};
}

// Never across segments: the reader wants each extent inside one. Addresses rise from call to call.
void BufferWriter::extend(Model& model, uint64_t addr, uint64_t slot, uint64_t pages) {
  const std::vector<format::SegmentRecord>& all = model.segments;
  const bool has_slots = slot != format::kSlotZero;
  while (pages > 0) {
    while (segment_ + 1 < all.size() && all[segment_ + 1].start <= addr) segment_++;
    uint64_t count = pages;
    if (segment_ + 1 < all.size()) {
      count = std::min(count, (all[segment_ + 1].start - addr) / kPageSize);
    }
    format::ExtentRecord* e = model.extents.empty() ? nullptr : &model.extents.back();
    const bool follows = e != nullptr && e->addr + e->pages * kPageSize == addr &&
                         (has_slots ? e->slot != format::kSlotZero && e->slot + e->pages == slot
                                    : e->slot == slot) &&
                         (all.empty() || all[segment_].start != addr);
    if (follows) {
      e->pages += count;
    } else {
      model.extents.push_back({addr, count, slot});
    }
    addr += count * kPageSize;
    if (has_slots) slot += count;
    pages -= count;
  }
}

Result<void> BufferWriter::flush() {
  if (pending_bytes_ == 0) return {};
  auto r = file_.write(pending_, pending_bytes_, pending_off_);
  pending_bytes_ = 0;
  if (!r) return r.error();
  return {};
}

// `data` stays until the end of append().
Result<void> BufferWriter::write_page(uint64_t slot, uint64_t sum, const uint8_t* data) {
  checksums_[slot] = sum;
  const uint64_t off = kPageSize + slot * kPageSize;
  if (pending_bytes_ > 0 && (pending_ + pending_bytes_ != data || pending_bytes_ == kWriteBytes ||
                             pending_off_ + pending_bytes_ != off)) {
    CR_TRYV(flush());
  }
  if (pending_bytes_ == 0) {
    pending_ = data;
    pending_off_ = off;
  }
  pending_bytes_ += kPageSize;
  return {};
}

// Gives the page its slot, and writes it unless the file has it there.
Result<void> BufferWriter::place(Model& model, uint64_t addr, uint64_t sum, const uint8_t* data) {
  uint64_t slot = old_slot(addr);
  const bool same = slot != kNoSlot && checksums_[slot] == sum;
  if (slot == kNoSlot) slot = new_slot();
  extend(model, addr, slot, 1);
  if (same) return {};
  return write_page(slot, sum, data);
}

// As place(), of pages that the last checkpoint has in consecutive slots. Most are there already:
// what an unchanged page costs is a look at two checksums.
Result<void> BufferWriter::place_slots(Model& model, uint64_t addr, uint64_t last_slot,
                                       uint64_t pages) {
  const uint64_t* sums = last_->checksums.data() + last_slot;
  const uint8_t* data = last_file_.data() + kPageSize + last_slot * kPageSize;
  for (uint64_t at = 0; at < pages;) {
    uint64_t count = 0;
    uint64_t slot = old_slots(addr + at * kPageSize, pages - at, &count);
    const bool has_slot = slot != kNoSlot;
    if (has_slot) extend(model, addr + at * kPageSize, slot, count);
    for (const uint64_t end = at + count; at < end; at++, slot++) {
      if (has_slot) {
        const auto [other, mine] = std::mismatch(sums + at, sums + end, checksums_.data() + slot);
        slot += static_cast<uint64_t>(other - (sums + at));
        at = static_cast<uint64_t>(other - sums);
        if (at == end) break;
      } else {
        slot = new_slot();
        extend(model, addr + at * kPageSize, slot, 1);
      }
      CR_TRYV(write_page(slot, sums[at], data + at * kPageSize));
    }
  }
  return {};
}

// Pages of which the last checkpoint has no slot are zeros.
Result<void> BufferWriter::place_same(Model& model, uint64_t addr, uint64_t pages) {
  if (last_ == nullptr)
    return Error{Errc::kDamaged, 0, "there is no checkpoint to take pages from"};
  const std::vector<format::ExtentRecord>& all = last_->extents;
  const uint64_t end = addr + pages * kPageSize;
  while (addr < end) {
    while (last_extent_ < all.size() &&
           all[last_extent_].addr + all[last_extent_].pages * kPageSize <= addr) {
      last_extent_++;
    }
    if (last_extent_ == all.size() || all[last_extent_].addr >= end) break;
    const format::ExtentRecord& e = all[last_extent_];
    addr = std::max(addr, e.addr);
    const uint64_t skipped = (addr - e.addr) / kPageSize;
    const uint64_t count = std::min(e.pages - skipped, (end - addr) / kPageSize);
    if (e.slot == format::kSlotZero) {
      extend(model, addr, format::kSlotZero, count);
    } else {
      CR_TRYV(place_slots(model, addr, e.slot + skipped, count));
    }
    addr += count * kPageSize;
  }
  return {};
}

const uint8_t* BufferWriter::last_page(uint64_t addr) const {
  if (last_ == nullptr) return nullptr;
  const auto after =
      std::ranges::upper_bound(last_->extents, addr, {}, &format::ExtentRecord::addr);
  if (after == last_->extents.begin()) return nullptr;
  const format::ExtentRecord& e = *(after - 1);
  if (addr - e.addr >= e.pages * kPageSize || e.slot == format::kSlotZero) return nullptr;
  return last_file_.data() + kPageSize + e.slot * kPageSize + (addr - e.addr);
}

Result<void> BufferWriter::append(Model& model, const uint8_t* staging,
                                  const std::vector<format::Run>& runs, KeepZero keep_zero,
                                  void* context) {
  constexpr uint64_t kTellPages = 256;
  uint64_t done = 0, total = 0;
  for (const format::Run& r : runs) total += r.pages;
  for (size_t i = 0; i < runs.size(); i++) {
    if (i == runs.size() / 2) fault_point(FaultPoint::kPagesHalf);
    const format::Run& r = runs[i];
    if (r.staging_page == format::kPagesSame) {
      CR_TRYV(place_same(model, r.addr, r.pages));
      done += r.pages;
      continue;
    }
    for (uint64_t p = 0; p < r.pages; p++) {
      if (++done % kTellPages == 0 && progress_) progress_(done * kPageSize, total * kPageSize);
      const uint64_t addr = r.addr + p * kPageSize;
      const uint8_t* data = staging + (r.staging_page + p) * kPageSize;
      if (!is_zero_page(data)) {
        CR_TRYV(place(model, addr, format::checksum(data, kPageSize), data));
        continue;
      }
      const uint64_t slot = old_slot(addr);
      if (slot != kNoSlot) free_slot(slot);
      if (keep_zero(context, addr)) extend(model, addr, format::kSlotZero, 1);
    }
  }
  CR_TRYV(flush());
  CR_TRYV(file_.drain());
  if (progress_) progress_(total * kPageSize, total * kPageSize);
  return {};
}

// The slot that the file has for that page; kNoSlot: none. Addresses must rise from call to call:
// pages that are passed over are no more, and their slots are free.
uint64_t BufferWriter::old_slot(uint64_t addr) {
  for (; old_extent_ < old_.extents.size(); old_extent_++, old_page_ = 0) {
    const format::ExtentRecord& e = old_.extents[old_extent_];
    const bool has_slots = e.slot != format::kSlotZero;
    if (addr < e.addr + old_page_ * kPageSize) return kNoSlot;
    const uint64_t wanted = (addr - e.addr) / kPageSize;
    for (; old_page_ < std::min(wanted, e.pages); old_page_++) {
      if (has_slots) free_slot(e.slot + old_page_);
    }
    if (wanted < e.pages) {
      old_page_ = wanted + 1;
      return has_slots ? e.slot + wanted : kNoSlot;
    }
  }
  return kNoSlot;
}

// As old_slot(), and how many of the pages from there, `most` of them or less, it is the same for:
// they have the slots that follow, or none.
uint64_t BufferWriter::old_slots(uint64_t addr, uint64_t most, uint64_t* ret_pages) {
  const uint64_t slot = old_slot(addr);
  if (old_extent_ == old_.extents.size()) {
    *ret_pages = most;
    return slot;
  }
  const format::ExtentRecord& e = old_.extents[old_extent_];
  if (slot == kNoSlot) {
    *ret_pages = std::min(most, (e.addr + old_page_ * kPageSize - addr) / kPageSize);
  } else {
    *ret_pages = std::min(most, 1 + e.pages - old_page_);
    old_page_ += *ret_pages - 1;
  }
  return slot;
}

uint64_t BufferWriter::new_slot() {
  while (next_free_ < old_.free_slots.size()) {
    SlotRun& r = old_.free_slots[next_free_];
    if (r.count > 0) {
      r.count--;
      return r.first++;
    }
    next_free_++;
  }
  checksums_.push_back(0);
  return checksums_.size() - 1;
}

void BufferWriter::free_slot(uint64_t slot) {
  if (!freed_.empty() && freed_.back().first + freed_.back().count == slot) {
    freed_.back().count++;
  } else {
    freed_.push_back({slot, 1});
  }
}

// Free slots hold zeros, or, where the file system does not punch holes, what they held: their
// checksums are right in either case.
void BufferWriter::punch_free_slots() {
  static constexpr uint8_t kZeros[kPageSize] = {};
  for (const SlotRun& r : freed_) {
    if (r.count < kLeastHoleSlots ||
        !file_.punch(kPageSize + r.first * kPageSize, r.count * kPageSize)) {
      continue;
    }
    const uint64_t sum = format::checksum(kZeros, kPageSize);
    std::fill_n(checksums_.begin() + static_cast<ptrdiff_t>(r.first), r.count, sum);
  }
}

Result<void> BufferWriter::commit(Model& model, format::SuperBlock* super) {
  (void)old_slot(~0ull);  // whatever is left of the old pages is no more
  fault_point(FaultPoint::kPagesWritten);
  punch_free_slots();
  const uint64_t slots = checksums_.size();
  model.checksums = std::move(checksums_);
  CR_TRYV(file_.commit(model, old_.metadata, super));

  index_.metadata = std::move(old_.metadata);
  index_.extents = model.extents;
  index_.checksums = model.checksums;
  index_.free_slots = std::move(freed_);
  for (; next_free_ < old_.free_slots.size(); next_free_++) {
    if (old_.free_slots[next_free_].count > 0) {
      index_.free_slots.push_back(old_.free_slots[next_free_]);
    }
  }
  std::ranges::sort(index_.free_slots, {}, &SlotRun::first);
  uint64_t free = 0;
  for (const SlotRun& r : index_.free_slots) free += r.count;
  index_.wasteful = free >= kToleratedFreeSlots && free > slots / 4;
  index_.known = true;
  return {};
}

BufferState load_buffer(const std::string& dir, int index) {
  BufferState s;
  const std::string path = buffer_path(dir, index);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) {
    s.exists = errno != ENOENT;
    s.error = errno == ENOENT ? Error{Errc::kNotWhole, ENOENT, "there is no such buffer yet"}
                              : Error{Errc::kSystem, errno, "opening"};
    return s;
  }
  s.exists = true;
  auto image = std::make_unique<LoadedImage>();
  image->fd = os::Fd(fd);
  image->index = index;
  image->path = path;
  struct stat st;
  if (fstat(fd, &st) != 0) {
    s.error = {Errc::kSystem, errno, "fstat"};
    return s;
  }
  if ((st.st_mode & 022) != 0) {
    s.error = {Errc::kPermission, 0, "others may write it, so it cannot be trusted (chmod 600)"};
    return s;
  }
  if (st.st_uid != geteuid() && st.st_uid != 0 && geteuid() != 0) {
    s.error = {Errc::kPermission, 0, "it belongs to another user"};
    return s;
  }
  const auto bytes = static_cast<uint64_t>(st.st_size);
  if (bytes > 0) {
    auto m = os::Mapping::map(fd, bytes, PROT_READ, MAP_PRIVATE);
    if (!m) {
      s.error = m.error();
      return s;
    }
    image->mapping = std::move(*m);
  }
  if (bytes >= sizeof(format::SuperBlock)) {
    memcpy(&s.super, image->mapping.data(), sizeof(s.super));
  }
  auto view = format::read_image(image->mapping.data(), bytes);
  if (!view) {
    s.error = view.error();
    return s;
  }
  image->view = *view;
  s.image = std::move(image);
  return s;
}

std::string describe_error(const std::string& path, const Error& e) {
  std::string kind;
  switch (e.code) {
    case Errc::kForeign:
      kind = "foreign: ";
      break;
    case Errc::kDamaged:
      kind = "damaged: ";
      break;
    case Errc::kTooNew:
      kind = "too new: ";
      break;
    case Errc::kWrongMachine:
      kind = "wrong machine: ";
      break;
    case Errc::kNotWhole:
      kind = "not whole: ";
      break;
    default:
      break;
  }
  std::string text = path + ": " + kind + e.what;
  if (e.code == Errc::kSystem) text += std::string(": ") + strerror(e.sys_errno);
  return text;
}

uint64_t verify_pages(const format::ImageView& view, uint64_t* ret_slot,
                      const VerifyProgress& progress) {
  return verify_pages(view, {{0, view.super.payload_slots}}, ret_slot, progress);
}

uint64_t verify_pages(const format::ImageView& view, const std::vector<SlotRun>& runs,
                      uint64_t* ret_slot, const VerifyProgress& progress) {
  constexpr uint64_t kPortion = 1024, kNone = ~uint64_t{0};  // slots
  std::vector<SlotRun> portions;
  uint64_t slots = 0;
  for (const SlotRun& r : runs) {
    slots += r.count;
    for (uint64_t at = 0; at < r.count; at += kPortion) {
      portions.push_back({r.first + at, std::min(kPortion, r.count - at)});
    }
  }
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  std::atomic<uint64_t> next{0}, done{0}, bad{kNone};
  auto work = [&](bool tell) {
    for (uint64_t i; (i = next.fetch_add(1)) < portions.size();) {
      const uint64_t first = portions[i].first, last = first + portions[i].count;
      const uint64_t wrong = format::verify_slots(view, first, last);
      uint64_t lowest = bad.load();
      while (wrong != last && wrong < lowest && !bad.compare_exchange_weak(lowest, wrong)) {
      }
      const uint64_t now = done.fetch_add(last - first) + last - first;
      if (tell && progress) progress(now * kPageSize, slots * kPageSize);
    }
  };
  std::vector<os::Thread> threads;  // with fewer, or none, it takes longer
  if (portions.size() >= 4) {
    for (unsigned i = 1; i < cores; i++) {
      auto thread = os::Thread::start([&work] { work(false); });
      if (!thread) break;
      threads.push_back(std::move(*thread));
    }
  }
  work(true);
  threads.clear();
  if (progress) progress(slots * kPageSize, slots * kPageSize);
  if (bad == kNone) return 0;
  *ret_slot = bad;
  const uint64_t addr = format::slot_address(view, bad);
  return addr != 0 ? addr : 1;
}

}  // namespace cr::store
