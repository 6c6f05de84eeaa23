// SPDX-License-Identifier: MIT
// history.cc - see history.h. Invariant: as there. Context: N.
#include "agent/history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "format/history_reader.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::HistoryHeader;
using format::HistoryRecord;

constexpr uint64_t kFileBytes =
    sizeof(HistoryHeader) + uint64_t{format::kHistoryCapacity} * sizeof(HistoryRecord);

// A regular file only: a FIFO or device of that name must not make anybody wait.
Result<os::Fd> open_history(const std::string& path, int flags) {
  CR_TRY(os::Fd fd, os::open_file(path, flags | O_NOFOLLOW | O_NONBLOCK, 0600));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return Error{Errc::kSystem, errno, "looking at the history"};
  if (!S_ISREG(st.st_mode)) return Error{Errc::kForeign, 0, "not a regular file"};
  return fd;
}

Result<std::vector<HistoryRecord>> read_records(int fd, uint32_t* ret_version = nullptr) {
  std::vector<uint8_t> bytes(kFileBytes);
  size_t n = 0;
  while (n < bytes.size()) {
    const ssize_t r = pread(fd, bytes.data() + n, bytes.size() - n, static_cast<off_t>(n));
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return Error{Errc::kSystem, errno, "reading the history"};
    if (r == 0) break;
    n += static_cast<size_t>(r);
  }
  auto header = format::read_history_header(bytes.data(), n);
  if (!header) return header.error();
  if (ret_version != nullptr) *ret_version = header->format_version;
  std::vector<HistoryRecord> records;
  HistoryRecord r;
  for (uint32_t slot = 0; slot < format::kHistoryCapacity; slot++) {
    if (format::read_history_record(bytes.data(), n, slot, &r)) records.push_back(r);
  }
  std::ranges::sort(records, {}, &HistoryRecord::number);
  // In the slot of a record that could not be written is still the one of the round before.
  if (!records.empty() && records.back().number >= format::kHistoryCapacity) {
    const uint64_t first = records.back().number - format::kHistoryCapacity + 1;
    std::erase_if(records, [&](const HistoryRecord& x) { return x.number < first; });
  }
  return records;
}

std::string words(const Error& e) {
  return e.sys_errno != 0 ? std::string(e.what) + ": " + strerror(e.sys_errno) : e.what;
}

}  // namespace

History::History(const std::string& dir) : path_(dir + "/" + format::kHistoryFileName) {}

std::string History::failed(const std::string& what) {
  if (failing_) return "";
  failing_ = true;
  return path_ + ": " + what + "; checkpoints go on, but are not recorded in the history";
}

// What was there is kept beside it, for whoever wants to look.
std::string History::begin_anew(const char* why) {
  const std::string aside = path_ + ".damaged";
  if (rename(path_.c_str(), aside.c_str()) != 0) return failed(strerror(errno));
  const std::string text = open();
  return !text.empty() ? text : path_ + ": " + why + "; begun anew, the old one is " + aside;
}

// Leaves fd_ closed on failure.
std::string History::open() {
  auto fd = open_history(path_, O_RDWR | O_CREAT);
  if (!fd && fd.error().code == Errc::kForeign) return begin_anew(fd.error().what);
  if (!fd) return failed(words(fd.error()));
  next_ = 0;
  uint32_t version = 0;
  auto records = read_records(fd->get(), &version);
  if (records) {
    if (!records->empty()) next_ = records->back().number + 1;
    fd_ = std::move(*fd);
    // A file of an earlier version is one of this from now on.
    return version == format::kHistoryVersion ? "" : write_header(fd_.get());
  }
  const Error e = records.error();
  if (e.code == Errc::kDamaged || e.code == Errc::kForeign) return begin_anew(e.what);
  if (e.code != Errc::kNotWhole) return failed(words(e));
  const std::string text = write_header(fd->get());
  if (!text.empty()) {
    (void)!ftruncate(fd->get(), 0);  // half a header would count as damage
    return text;
  }
  fd_ = std::move(*fd);
  return "";
}

std::string History::write_header(int fd) {
  HistoryHeader h{};
  memcpy(h.magic, format::kHistoryMagic, sizeof(h.magic));
  h.format_version = format::kHistoryVersion;
  h.header_bytes = sizeof(h);
  h.record_bytes = sizeof(HistoryRecord);
  h.capacity = format::kHistoryCapacity;
  format::seal(&h);
  const long r = rawsys::write_all_at(fd, &h, sizeof(h), 0);
  return r != 0 ? failed(strerror(static_cast<int>(-r))) : "";
}

// As open(), but makes, moves and says nothing: for whoever only adds to a record that is there.
bool History::reopen() {
  if (fd_) return true;
  auto fd = open_history(path_, O_RDWR);
  if (!fd) return false;
  uint32_t version = 0;
  const auto records = read_records(fd->get(), &version);
  if (!records || records->empty() || version != format::kHistoryVersion) return false;
  next_ = records->back().number + 1;
  fd_ = std::move(*fd);
  return true;
}

std::string History::append(HistoryRecord record) {
  struct stat st;
  if (fd_ && (fstat(fd_.get(), &st) != 0 || st.st_nlink == 0)) fd_.reset();  // it was removed
  std::string text;
  if (!fd_) text = open();
  if (!fd_) return text;
  record.number = next_;
  format::seal(&record);
  const uint64_t off = sizeof(HistoryHeader) + next_ % format::kHistoryCapacity * sizeof(record);
  const ssize_t n = pwrite(fd_.get(), &record, sizeof(record), static_cast<off_t>(off));
  if (n != static_cast<ssize_t>(sizeof(record))) return failed(n < 0 ? strerror(errno) : "no room");
  next_++;
  failing_ = false;
  return text;
}

bool History::read_back(uint64_t number, HistoryRecord* ret) {
  const uint64_t off = sizeof(HistoryHeader) + number % format::kHistoryCapacity * sizeof(*ret);
  if (pread(fd_.get(), ret, sizeof(*ret), static_cast<off_t>(off)) != sizeof(*ret)) return false;
  return ret->number == number && format::is_right(*ret);
}

// The whole record is written anew, by one pwrite as the first time: a reader has the one or the
// other, and what a crash of the machine leaves of it harms no other record.
void History::note_level(int level, uint64_t epoch, uint64_t sequence, uint64_t after_ns) {
  if (!reopen()) return;
  const uint64_t oldest = next_ > format::kHistoryCapacity ? next_ - format::kHistoryCapacity : 0;
  for (uint64_t n = next_; n-- > oldest;) {
    HistoryRecord r;
    if (!read_back(n, &r)) continue;
    if (r.epoch < epoch) return;
    if (r.epoch != epoch || r.sequence != sequence || r.error_code != 0) continue;
    uint64_t& field = level == 2 ? r.safe_ns : r.flushed_ns;
    if (field != 0) return;
    const uint64_t now = rawsys::clock_ns(CLOCK_REALTIME), whole = r.realtime_ns + r.whole_ns;
    field = after_ns != 0 ? after_ns : now > whole ? now - whole : 1;
    format::seal(&r);
    const uint64_t off = sizeof(HistoryHeader) + n % format::kHistoryCapacity * sizeof(r);
    (void)!pwrite(fd_.get(), &r, sizeof(r), static_cast<off_t>(off));
    return;
  }
}

Result<std::vector<HistoryRecord>> load_history(const std::string& dir) {
  auto fd = open_history(dir + "/" + format::kHistoryFileName, O_RDONLY);
  if (!fd && fd.error().sys_errno == ENOENT) return std::vector<HistoryRecord>();
  if (!fd) return fd.error();
  auto records = read_records(fd->get());
  if (!records && records.error().code == Errc::kNotWhole) return std::vector<HistoryRecord>();
  return records;
}

}  // namespace cr::agent
