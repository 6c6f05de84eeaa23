// SPDX-License-Identifier: MIT
// file_journal_reader.cc - see file_journal_reader.h. Invariant: as there. Context: N, H, S, R.
#include "format/file_journal_reader.h"

#include "format/checksum.h"
#include "rawsys/rawsys.h"

namespace cr::format {
namespace {

uint64_t checksum_of(FileChange change, const uint8_t* strings) {
  change.checksum = 0;
  const uint64_t head = checksum(&change, sizeof(change));
  return head ^ checksum(strings, change.bytes - sizeof(change));
}

bool fits(const FileChange& c, uint64_t left) {
  if (c.magic != kChangeMagic || c.bytes < sizeof(c) || c.bytes > left || c.bytes % 8 != 0 ||
      c.bytes > kMostChangeBytes + 8) {
    return false;
  }
  const uint64_t room = c.bytes - sizeof(c);
  return c.path_bytes >= 2 && c.path_bytes <= kJournalPathBytes &&
         c.target_bytes <= kJournalPathBytes && uint64_t{c.path_bytes} + c.target_bytes <= room &&
         room - c.path_bytes - c.target_bytes < 8;
}

bool ends(const char* s, uint32_t bytes) {
  return bytes == 0 || (s[bytes - 1] == 0 && rawsys::str_len(s) + 1 == bytes);
}

bool read_at(const uint8_t* at, uint64_t left, ChangeView* ret) {
  FileChange c;
  if (left < sizeof(c)) return false;
  __builtin_memcpy(&c, at, sizeof(c));
  if (!fits(c, left)) return false;
  const char* path = reinterpret_cast<const char*>(at) + sizeof(c);
  const char* target = path + c.path_bytes;
  if (c.checksum != checksum_of(c, at + sizeof(c)) || path[0] != '/' || !ends(path, c.path_bytes) ||
      !ends(target, c.target_bytes) || c.was < kWasAbsent || c.was > kWasOther ||
      c.copy_kind > kCopyFailed) {
    return false;
  }
  *ret = {c, path, c.target_bytes == 0 ? "" : target};
  return true;
}

}  // namespace

bool next_change(const uint8_t* log, uint64_t bytes, uint64_t* at, ChangeView* ret) {
  for (; *at < bytes; ++*at) {
    if (!read_at(log + *at, bytes - *at, ret)) continue;
    *at += ret->change.bytes;
    return true;
  }
  return false;
}

uint64_t build_change(FileChange change, const char* path, const char* target, uint8_t* out) {
  const uint64_t path_bytes = rawsys::str_len(path) + 1;
  const uint64_t target_bytes = target[0] == 0 ? 0 : rawsys::str_len(target) + 1;
  if (path_bytes > kJournalPathBytes || target_bytes > kJournalPathBytes) return 0;
  const uint64_t strings = (path_bytes + target_bytes + 7) & ~7ull;
  change.magic = kChangeMagic;
  change.bytes = static_cast<uint32_t>(sizeof(change) + strings);
  change.path_bytes = static_cast<uint32_t>(path_bytes);
  change.target_bytes = static_cast<uint32_t>(target_bytes);
  uint8_t* at = out + sizeof(change);
  __builtin_memset(at, 0, strings);
  __builtin_memcpy(at, path, path_bytes);
  __builtin_memcpy(at + path_bytes, target, target_bytes);
  change.checksum = checksum_of(change, at);
  __builtin_memcpy(out, &change, sizeof(change));
  return change.bytes;
}

}  // namespace cr::format
