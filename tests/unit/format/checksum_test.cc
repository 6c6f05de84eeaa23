// SPDX-License-Identifier: MIT
// checksum_test.cc - the checksum of every durable byte.
// Invariant under test: it is XXH3-64 as libxxhash has it, with every kind of vectors that this
// processor has, for every length and alignment.
#include "format/checksum.h"

#include <criterion/criterion.h>
#include <xxhash.h>

#include <vector>

#include "format/wide_checksum.h"

namespace {

void compare(uint64_t (*ours)(const void*, size_t)) {
  std::vector<uint8_t> bytes(80'000);
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  for (size_t n = 0; n < 4200; n++) {
    const uint8_t* at = bytes.data() + n % 67;
    cr_assert_eq(ours(at, n), XXH3_64bits(at, n), "%zu bytes", n);
  }
  for (const size_t n : {8192u, 65535u, 65536u, 79'900u}) {
    cr_assert_eq(ours(bytes.data() + 3, n), XXH3_64bits(bytes.data() + 3, n), "%zu bytes", n);
  }
}

Test(checksum, is_xxh3) { compare(cr::format::checksum); }

Test(checksum, is_the_same_with_wide_vectors) {
  if (cr::format::has_wide_checksum()) compare(cr::format::wide_checksum);
}

// Image files say so for ever.
Test(checksum, does_not_change) {
  cr_expect_eq(cr::format::checksum("", 0), 0x2d06800538d394c2u);
  const std::vector<uint8_t> page(4096, 0);
  cr_expect_eq(cr::format::checksum(page.data(), page.size()), XXH3_64bits(page.data(), 4096));
}

}  // namespace
