// SPDX-License-Identifier: MIT
// prepare_part.cc - the second buffer of a part gets what the first has, before the next checkpoint
// comes; see part_store.h.
// Invariant: the buffer that has the part is only read; the other counts when it is whole.
// Context: N; a thread of the store.
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>

#include "node/part_store.h"

namespace cr::node {
namespace {

constexpr uint64_t kRowsAtOnce = 256;

// false: this process is to end, and not all rows were copied.
Result<bool> copy_rows(const store::LoadedPart& from, store::PartWriter* to,
                       const std::atomic<bool>& leaving) {
  std::vector<uint8_t> pages(kRowsAtOnce * kPageSize);
  const uint64_t rows = from.view.header.rows;
  for (uint64_t row = 0; row < rows; row += kRowsAtOnce) {
    if (leaving) return false;
    const uint64_t count = std::min(kRowsAtOnce, rows - row);
    uint64_t bad = 0;
    CR_TRYV(store::read_rows(from, row, count, pages.data(), &bad));
    for (uint64_t i = 0; i < count; i++) {
      CR_TRYV(to->put(row + i, from.view.checks[row + i], pages.data() + i * kPageSize));
    }
    CR_TRYV(to->drain());
  }
  return true;
}

// Room for it and something more: it must not be what fills the disk.
bool has_room(const std::string& dir, const store::LoadedPart& part) {
  struct stat st;
  struct statvfs fs;
  if (fstat(part.fd.get(), &st) != 0 || statvfs(dir.c_str(), &fs) != 0) return false;
  const uint64_t bytes = static_cast<uint64_t>(st.st_blocks) * 512;
  return uint64_t{fs.f_bavail} * fs.f_frsize >= bytes + bytes / 4;
}

}  // namespace

Result<void> PartStore::prepare_other(const SessionId& id, unsigned holder) {
  if (leaving_ || !begin_part(id, holder)) return {};
  auto done = copy_to_other(id, holder);
  end_part(id, holder);
  return done;
}

Result<void> PartStore::copy_to_other(const SessionId& id, unsigned holder) {
  const std::string dir = session_dir(id);
  store::PartState states[2];
  for (int b = 0; b < 2; b++) states[b] = store::load_part(store::part_path(dir, holder, b));
  const int from = states[0].part ? 0 : 1;
  const store::PartState& other = states[1 - from];
  if (!states[from].part || other.exists || other.error.code != Errc::kNotWhole) return {};
  const store::LoadedPart& part = *states[from].part;
  if (!has_room(dir, part)) return {};
  const std::string path = store::part_path(dir, holder, 1 - from);
  const auto copy = [&]() -> Result<bool> {
    CR_TRY(const auto writer, store::PartWriter::open(path, durable_, nullptr, &other));
    CR_TRY(const bool all, copy_rows(part, writer.get(), leaving_));
    if (!all) return false;
    CR_TRYV(writer->commit(part.view.header, part.view.description_bytes));
    return true;
  };
  const auto copied = copy();
  // What is not whole would only take room.
  if (!copied || !*copied) (void)store::remove_file(path);
  if (!copied) return copied.error();
  return {};
}

}  // namespace cr::node
