// SPDX-License-Identifier: MIT
// buffer.cc - see buffer.h. Invariant: as there. Context: N.
#include "store/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "format/checksum.h"
#include "os/fault.h"

namespace cr::store {
namespace {

using os::fault_point;
using os::FaultPoint;

constexpr uint64_t kWriteBytes = 1 << 20;

bool is_zero_page(const uint8_t* p) {
  const auto* w = reinterpret_cast<const uint64_t*>(p);
  uint64_t any = 0;
  for (size_t i = 0; i < kPageSize / 8; i += 8) {
    any = w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7];
    if (any != 0) return false;
  }
  return true;
}

}  // namespace

std::string buffer_path(const std::string& dir, int index) {
  return dir + "/image." + std::to_string(index);
}

Result<std::unique_ptr<BufferWriter>> BufferWriter::open(const std::string& dir, int index,
                                                         bool durable) {
  const std::string path = buffer_path(dir, index);
  const bool fresh = access(path.c_str(), F_OK) != 0;
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return Error{Errc::kSystem, errno, "opening the image file for writing"};
  if (fresh && durable) {
    os::Fd d(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (d) fsync(d.get());
  }
  return std::unique_ptr<BufferWriter>(new BufferWriter(os::Fd(fd), durable));
}

Result<void> BufferWriter::write_super(format::SuperBlock& super) {
  super.checksum = format::superblock_checksum(super);
  memset(super_page_, 0, sizeof(super_page_));
  memcpy(super_page_, &super, sizeof(super));
  return out_.write(super_page_, sizeof(super_page_), 0);
}

Result<void> BufferWriter::begin(const format::SuperBlock& previous) {
  format::SuperBlock super = previous;
  memcpy(super.magic, format::kImageMagic, sizeof(super.magic));
  super.format_version = format::kImageVersion;
  super.header_bytes = sizeof(super);
  super.machine = format::kMachineX86_64;
  super.page_bytes = kPageSize;
  super.write_lock = 0;
  CR_TRYV(write_super(super));
  CR_TRYV(out_.drain());
  fault_point(FaultPoint::kLockCleared);
  CR_TRYV(out_.barrier(durable_));
  fault_point(FaultPoint::kLockClearedSynced);
  return {};
}

Result<void> BufferWriter::append(Model& model, const uint8_t* staging,
                                  const std::vector<format::Run>& runs, KeepZero keep_zero,
                                  void* context) {
  auto extend = [&](uint64_t addr, uint64_t slot) {
    if (!model.extents.empty()) {
      format::ExtentRecord& e = model.extents.back();
      const bool follows = e.addr + e.pages * kPageSize == addr;
      const bool same = slot == format::kSlotZero
                            ? e.slot == slot
                            : e.slot != format::kSlotZero && e.slot + e.pages == slot;
      // Never across segments: the reader wants each extent inside one.
      if (follows && same && !model.segments.empty()) {
        size_t low = 0, high = model.segments.size();
        while (high - low > 1) {
          const size_t mid = (low + high) / 2;
          (model.segments[mid].start <= addr ? low : high) = mid;
        }
        if (model.segments[low].start != addr) {
          e.pages++;
          return;
        }
      }
    }
    model.extents.push_back({addr, 1, slot});
  };
  const uint8_t* pending = nullptr;  // pages not handed to the kernel yet
  uint64_t pending_bytes = 0, pending_off = 0;
  auto flush = [&]() -> Result<void> {
    if (pending_bytes == 0) return {};
    auto r = out_.write(pending, pending_bytes, pending_off);
    bytes_written_ += pending_bytes;
    pending_bytes = 0;
    if (!r) return r.error();
    return {};
  };
  for (size_t i = 0; i < runs.size(); i++) {
    if (i == runs.size() / 2) fault_point(FaultPoint::kPagesHalf);
    for (uint64_t p = 0; p < runs[i].pages; p++) {
      const uint64_t addr = runs[i].addr + p * kPageSize;
      const uint8_t* data = staging + (runs[i].staging_page + p) * kPageSize;
      if (is_zero_page(data)) {
        if (keep_zero(context, addr)) extend(addr, format::kSlotZero);
        CR_TRYV(flush());
        continue;
      }
      const uint64_t slot = slots_++;
      extend(addr, slot);
      model.checksums.push_back(format::checksum(data, kPageSize));
      if (pending_bytes > 0 && (pending + pending_bytes != data || pending_bytes == kWriteBytes)) {
        CR_TRYV(flush());
      }
      if (pending_bytes == 0) {
        pending = data;
        pending_off = kPageSize + slot * kPageSize;
      }
      pending_bytes += kPageSize;
    }
  }
  CR_TRYV(flush());
  return out_.drain();
}

Result<void> BufferWriter::commit(Model& model, format::SuperBlock* super) {
  fault_point(FaultPoint::kPagesWritten);
  const std::vector<uint8_t> metadata = model.serialize();
  memcpy(super->magic, format::kImageMagic, sizeof(super->magic));
  super->format_version = format::kImageVersion;
  super->header_bytes = sizeof(*super);
  super->machine = format::kMachineX86_64;
  super->page_bytes = kPageSize;
  super->payload_off = kPageSize;
  super->payload_slots = slots_;
  super->metadata_off = kPageSize + slots_ * kPageSize;
  super->metadata_bytes = metadata.size();
  super->metadata_xxh3 = format::checksum(metadata.data(), metadata.size());
  const uint64_t end = super->metadata_off + metadata.size();
  if (ftruncate(fd_.get(), static_cast<off_t>(end)) != 0) {
    return Error{Errc::kSystem, errno, "setting the image's size"};
  }
  CR_TRYV(out_.write(metadata.data(), metadata.size(), super->metadata_off));
  CR_TRYV(out_.drain());
  bytes_written_ += metadata.size() + kPageSize;
  fault_point(FaultPoint::kMetadataWritten);
  CR_TRYV(out_.barrier(durable_));
  fault_point(FaultPoint::kPayloadSynced);
  super->write_lock = 1;
  CR_TRYV(write_super(*super));  // COMMIT POINT image_write_lock
  CR_TRYV(out_.drain());
  fault_point(FaultPoint::kCommitted);
  CR_TRYV(out_.barrier(durable_));
  fault_point(FaultPoint::kCommittedSynced);
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

uint64_t verify_pages(const format::ImageView& view, uint64_t* ret_slot) {
  const uint64_t slots = view.super.payload_slots;
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const uint64_t share = (slots + cores - 1) / cores;
  std::vector<uint64_t> bad(cores, slots);
  auto work = [&](unsigned i) {
    const uint64_t first = std::min(slots, i * share), last = std::min(slots, first + share);
    const uint64_t r = format::verify_slots(view, first, last);
    if (r != last) bad[i] = r;
  };
  if (slots < 4096) {
    for (unsigned i = 0; i < cores; i++) work(i);
  } else {
    std::vector<std::thread> threads;
    for (unsigned i = 1; i < cores; i++) threads.emplace_back(work, i);
    work(0);
    for (std::thread& t : threads) t.join();
  }
  for (const uint64_t b : bad) {
    if (b == slots) continue;
    *ret_slot = b;
    const uint64_t addr = format::slot_address(view, b);
    return addr != 0 ? addr : 1;
  }
  return 0;
}

}  // namespace cr::store
