// SPDX-License-Identifier: MIT
// patch_part.cc - puts other bytes into rows of a part file, with all its checksums right again, so
// that whoever keeps it finds nothing wrong.
// Invariant: the part is whole before and after, and nothing else is changed.
// Context: N, a test helper.
//
//   patch_part FILE FIRST COUNT   rows that are zeros stay so; prints how many were changed
//   patch_part FILE clock NS      the node's clock said that at the checkpoint
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

#include "format/checksum.h"
#include "format/part_reader.h"

namespace {

using cr::kPageSize;
using cr::format::PartHeader;

[[noreturn]] void die(const char* text) {
  fprintf(stderr, "patch_part: %s\n", text);
  exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) die("usage: patch_part FILE FIRST COUNT");
  const int fd = open(argv[1], O_RDWR | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) die("the file cannot be opened");
  const auto bytes = static_cast<uint64_t>(st.st_size);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) die("the file cannot be mapped");
  auto* const file = static_cast<uint8_t*>(at);
  const auto part = cr::format::read_part(file, bytes);
  if (!part) die(part.error().what);
  PartHeader header = part->header;
  if (strcmp(argv[2], "clock") == 0) header.realtime_ns = strtoull(argv[3], nullptr, 10);
  const uint64_t first = strtoull(argv[2], nullptr, 10);
  const uint64_t end =
      strcmp(argv[2], "clock") == 0
          ? 0
          : std::min(header.rows, uint64_t{first + strtoull(argv[3], nullptr, 10)});
  unsigned changed = 0;
  for (uint64_t row = first; row < end; row++) {
    uint8_t* const check = file + header.checks_off + row * sizeof(uint64_t);
    if (part->checks[row] == 0) continue;
    uint8_t* const page = file + cr::format::kPartRowsOff + row * kPageSize;
    for (uint64_t i = 0; i < kPageSize; i++) page[i] ^= 0x5a;
    const uint64_t sum = cr::format::row_check(page);
    memcpy(check, &sum, sizeof(sum));
    changed++;
  }
  header.checks_xxh3 =
      cr::format::checksum(file + header.checks_off, header.rows * sizeof(uint64_t));
  header.checksum = cr::format::part_header_checksum(header);
  memcpy(file, &header, sizeof(header));
  printf("%u\n", changed);
  return 0;
}
