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

unsigned change_rows(const cr::format::PartView& part, uint8_t* file, uint64_t first,
                     uint64_t end) {
  unsigned changed = 0;
  for (uint64_t row = first; row < end; row++) {
    if (part.checks[row] == 0) continue;
    uint8_t* const page = file + cr::format::kPartRowsOff + row * kPageSize;
    for (uint64_t i = 0; i < kPageSize; i++) page[i] ^= 0x5a;
    const uint64_t sum = cr::format::row_check(page);
    memcpy(file + part.header.checks_off + row * sizeof(sum), &sum, sizeof(sum));
    changed++;
  }
  return changed;
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
  const uint64_t number = strtoull(argv[3], nullptr, 10);
  if (strcmp(argv[2], "clock") == 0) {
    header.realtime_ns = number;
  } else {
    const uint64_t first = strtoull(argv[2], nullptr, 10);
    printf("%u\n", change_rows(*part, file, first, std::min(header.rows, first + number)));
  }
  header.checks_xxh3 =
      cr::format::checksum(file + header.checks_off, header.rows * sizeof(uint64_t));
  header.checksum = cr::format::part_header_checksum(header);
  memcpy(file, &header, sizeof(header));
  return 0;
}
