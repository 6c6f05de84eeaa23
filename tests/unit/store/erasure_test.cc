// SPDX-License-Identifier: MIT
// erasure_test.cc - the numbering of parts, and that any K of K + M parts give all of them.
// Invariant under test: what erasure.h says is durable: the expected bytes here are computed by
// other means or are constants, so that a build which changed any of it could not pass.
#include "store/erasure.h"

#include <criterion/criterion.h>
#include <string.h>

#include <atomic>
#include <bit>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/nvheap/random.h"

namespace {

using cr::kPageSize;
using cr::store::Erasure;
using cr::store::kRotateRows;
using cr::store::parse_protection;
using cr::store::PartSet;
using cr::store::Protection;
using cr::store::Stripe;
using cr_test::Random;
using Bytes = std::vector<uint8_t>;
using Kind = Protection::Kind;

// The numbering is usable in constants.
static_assert(Stripe(8, 2).place(16 * 8 + 17) == Stripe::Place{17, 1});
static_assert(Stripe(8, 2).part(256, 9) == 0 && Stripe(8, 2).holder(256, 0) == 9);
static_assert(Stripe(4, 2).rows(65) == 17 && Stripe(4, 2).rows(64) == 16);

// The field by its definition, bit by bit.
uint8_t multiply(uint8_t a, uint8_t b) {
  unsigned product = 0;
  for (int bit = 0; bit < 8; bit++) {
    if ((b >> bit & 1) != 0) product ^= static_cast<unsigned>(a) << bit;
  }
  for (int bit = 14; bit >= 8; bit--) {
    if ((product >> bit & 1) != 0) product ^= 0x11du << (bit - 8);
  }
  return static_cast<uint8_t>(product);
}

uint8_t inverse(uint8_t a) {
  static const Bytes table = [] {
    Bytes t(256);
    for (unsigned x = 1; x < 256; x++) {
      for (unsigned y = 1; y < 256; y++) {
        if (multiply(static_cast<uint8_t>(x), static_cast<uint8_t>(y)) == 1) {
          t[x] = static_cast<uint8_t>(y);
        }
      }
    }
    return t;
  }();
  return table[a];
}

uint8_t formula(unsigned k, unsigned parity, unsigned m, unsigned c) {
  return k == 1 || parity == 1 ? 1 : inverse(static_cast<uint8_t>(c ^ (k + m)));
}

std::unique_ptr<Erasure> make(unsigned k, unsigned m) {
  auto made = Erasure::make({Kind::kRs, k, m});
  cr_assert(made.has_value());
  return std::move(*made);
}

Bytes random_bytes(Random& random, size_t n) {
  Bytes b(n);
  for (uint8_t& v : b) v = static_cast<uint8_t>(random.next());
  return b;
}

// K + M parts, the data random and the parity ours, at odd addresses if `shift` is odd.
struct Parts {
  std::vector<Bytes> memory;
  std::vector<uint8_t*> at;
  unsigned k, m;
  size_t bytes;

  Parts(const Erasure& erasure, Random& random, size_t length, size_t shift = 0)
      : k(erasure.stripe().data), m(erasure.stripe().parity), bytes(length) {
    for (unsigned p = 0; p < k + m; p++) memory.push_back(random_bytes(random, length + shift));
    for (Bytes& b : memory) at.push_back(b.data() + shift);
    erasure.encode(at.data(), at.data() + k, bytes);
  }
  bool same(unsigned part, const uint8_t* other) const {
    return memcmp(at[part], other, bytes) == 0;
  }
};

// All parts in `have`, decoded: does every part come out as it was?
bool all_come_back(const Erasure& erasure, const Parts& parts, PartSet have) {
  const unsigned n = parts.k + parts.m;
  std::vector<const uint8_t*> in(n);
  std::vector<Bytes> memory(n, Bytes(parts.bytes));
  std::vector<uint8_t*> out(n);
  PartSet want = 0;
  for (unsigned p = 0; p < n; p++) {
    if ((have >> p & 1) != 0) {
      in[p] = parts.at[p];
    } else {
      want |= PartSet{1} << p;
      out[p] = memory[p].data();
    }
  }
  std::string text;
  if (!erasure.decode(have, in.data(), want, out.data(), parts.bytes, &text)) return false;
  for (unsigned p = 0; p < n; p++) {
    if (out[p] != nullptr && !parts.same(p, out[p])) return false;
  }
  return true;
}

}  // namespace

Test(protection, is_parsed_and_printed) {
  const struct {
    const char* text;
    Protection is;
  } cases[] = {
      {"none", {Kind::kNone, 1, 0}},           {"replica:2", {Kind::kReplica, 1, 1}},
      {"replica:16", {Kind::kReplica, 1, 15}}, {"xor:2", {Kind::kXor, 1, 1}},
      {"xor:4", {Kind::kXor, 3, 1}},           {"xor:64", {Kind::kXor, 63, 1}},
      {"rs:8+2", {Kind::kRs, 8, 2}},           {"rs:1+1", {Kind::kRs, 1, 1}},
      {"rs:63+1", {Kind::kRs, 63, 1}},         {"rs:1+63", {Kind::kRs, 1, 63}},
  };
  for (const auto& c : cases) {
    std::string text;
    auto parsed = parse_protection(c.text, &text);
    cr_assert(parsed.has_value(), "%s: %s", c.text, text.c_str());
    cr_assert(*parsed == c.is, "%s", c.text);
    cr_assert(to_string(*parsed) == c.text, "%s", c.text);
    cr_assert(Erasure::make(*parsed).has_value());
  }
}

Test(protection, a_wrong_one_is_refused_with_the_bad_part_and_the_right_form) {
  const struct {
    const char *text, *names;
  } cases[] = {
      {"", "no such protection as \"\""},
      {"mirror:2", "no such protection as \"mirror\""},
      {"None", "no such protection as \"None\""},
      {"none:2", "\"none\" takes no number"},
      {"xor", "no \":\" and number after \"xor\""},
      {"xor:", "group \"\" is not a number from 2 to 64"},
      {"xor:1", "group \"1\""},
      {"xor:65", "group \"65\""},
      {"xor:4 ", "group \"4 \""},
      {"xor:-4", "group \"-4\""},
      {"xor:+4", "group \"+4\""},
      {"xor:99999999999999999999", "group \"99999999999999999999\""},
      {"replica:1", "copies \"1\" is not a number from 2 to 16"},
      {"replica:17", "copies \"17\""},
      {"rs:8", "no \"+\" in \"8\""},
      {"rs:0+2", "data parts \"0\""},
      {"rs:8+0", "parity parts \"0\""},
      {"rs:8+2+1", "parity parts \"2+1\""},
      {"rs:+2", "data parts \"\""},
      {"rs:8+", "parity parts \"\""},
      {"rs:60+5", "65 parts are more than 64"},
  };
  for (const auto& c : cases) {
    std::string text;
    auto parsed = parse_protection(c.text, &text);
    cr_assert_not(parsed.has_value(), "%s", c.text);
    cr_assert(parsed.error().code == cr::Errc::kInvalid);
    cr_assert(text.find(c.names) != std::string::npos, "%s: %s", c.text, text.c_str());
    cr_assert(text.find("\"" + std::string(c.text) + "\": ") == 0, "%s", text.c_str());
    cr_assert(text.find("; give ") != std::string::npos && text.find("rs:8+2") != std::string::npos,
              "%s", text.c_str());
  }
}

Test(protection, more_parts_than_a_set_holds_are_refused) {
  cr_assert_not(Erasure::make({Kind::kRs, 60, 5}).has_value());
  cr_assert_not(Erasure::make({Kind::kRs, 0, 2}).has_value());
  cr_assert_not(Erasure::make({Kind::kRs, ~0u, 2}).has_value());
  cr_assert_not(Erasure::make({Kind::kRs, 2, ~0u}).has_value());
}

Test(stripe, every_slot_has_one_place_and_every_place_one_slot) {
  for (unsigned k = 1; k <= 10; k++) {
    for (unsigned m = 0; m <= 10; m++) {
      const Stripe s(k, m);
      // Counted as the text of erasure.h says it, unit by unit.
      uint64_t slot = 0;
      for (uint64_t unit_row = 0; unit_row < 20; unit_row++) {
        for (unsigned column = 0; column < k; column++) {
          for (uint64_t page = 0; page < 16; page++, slot++) {
            const uint64_t row = unit_row * 16 + page;
            const Stripe::Place place{row, column};
            cr_assert(s.place(slot) == place, "%u+%u slot %lu", k, m, slot);
            cr_assert_eq(s.slot(row, column), slot);
          }
        }
      }
    }
  }
}

Test(stripe, the_rows_are_those_of_the_slots) {
  for (unsigned k = 1; k <= 10; k++) {
    const Stripe s(k, 2);
    uint64_t rows = 0;
    for (uint64_t slots = 0; slots < 16 * k * 5; slots++) {
      cr_assert_eq(s.rows(slots), rows, "%u data parts, %lu slots", k, slots);
      rows = std::max(rows, s.place(slots).row + 1);
    }
  }
}

Test(stripe, each_row_has_each_part_once_and_parity_goes_round) {
  for (unsigned k = 1; k <= 10; k++) {
    for (unsigned m = 0; m <= 10; m++) {
      const Stripe s(k, m);
      std::vector<uint64_t> parity_rows(k + m);
      for (uint64_t turn = 0; turn < k + m; turn++) {
        for (const uint64_t row : {turn * 256, turn * 256 + 100, turn * 256 + 255}) {
          PartSet seen = 0;
          for (unsigned h = 0; h < k + m; h++) {
            const unsigned p = s.part(row, h);
            cr_assert_eq(p, (h + turn) % (k + m));
            cr_assert_eq(s.holder(row, p), h);
            seen |= PartSet{1} << p;
            if (p >= k) parity_rows[h]++;
          }
          cr_assert_eq(seen, (PartSet{1} << (k + m)) - 1);
        }
      }
      for (const uint64_t rows : parity_rows) cr_assert_eq(rows, 3 * m);
    }
  }
}

Test(erasure, the_matrix_is_the_documented_one) {
  for (unsigned k = 1; k <= 32; k++) {
    for (unsigned m = 1; m <= 32; m++) {
      const auto erasure = make(k, m);
      for (unsigned i = 0; i < m; i++) {
        for (unsigned c = 0; c < k; c++) {
          cr_assert_eq(erasure->coefficient(i, c), formula(k, m, i, c), "%u+%u", k, m);
        }
      }
    }
  }
}

// Were these bytes to change, no older part could be decoded any more.
Test(erasure, fixed_bytes_have_fixed_parity) {
  const auto rs42 = make(4, 2);
  const uint8_t matrix[2][4] = {{0x47, 0xa7, 0x7a, 0xba}, {0xa7, 0x47, 0xba, 0x7a}};
  for (unsigned m = 0; m < 2; m++) {
    for (unsigned c = 0; c < 4; c++) cr_assert_eq(rs42->coefficient(m, c), matrix[m][c]);
  }
  std::vector<Bytes> data(8, Bytes(5));
  const uint8_t* in[8];
  for (unsigned c = 0; c < 8; c++) {
    for (unsigned i = 0; i < 5; i++) data[c][i] = static_cast<uint8_t>(c * 37 + i * 101 + 1);
    in[c] = data[c].data();
  }
  uint8_t p[2][5];
  uint8_t* const out[2] = {p[0], p[1]};
  rs42->encode(in, out, 5);
  const uint8_t parity42[2][5] = {{0x69, 0x71, 0xd6, 0x75, 0x6f}, {0x08, 0x47, 0x5e, 0xdd, 0xa6}};
  cr_assert_eq(memcmp(p, parity42, sizeof(p)), 0);
  make(8, 2)->encode(in, out, 5);
  const uint8_t parity82[2][5] = {{0x21, 0x7b, 0xef, 0x9b, 0xd1}, {0xe0, 0x6f, 0xeb, 0x98, 0xfe}};
  cr_assert_eq(memcmp(p, parity82, sizeof(p)), 0);
  make(8, 1)->encode(in, out, 5);
  const uint8_t parity81[5] = {0xe8, 0x40, 0xa8, 0x90, 0x78};
  cr_assert_eq(memcmp(p[0], parity81, sizeof(parity81)), 0);
}

Test(erasure, every_length_at_every_alignment_is_encoded_by_the_formula) {
  Random random(cr_test::test_seed());
  for (const auto& [k, m] : {std::pair{1u, 2u}, {2u, 1u}, {3u, 1u}, {4u, 2u}, {8u, 2u}, {5u, 7u}}) {
    const auto erasure = make(k, m);
    for (size_t bytes = 0; bytes <= 300; bytes++) {
      const Parts parts(*erasure, random, bytes, bytes % 3 == 0 ? 0 : random.below(64));
      for (unsigned i = 0; i < m; i++) {
        for (size_t b = 0; b < bytes; b++) {
          uint8_t sum = 0;
          for (unsigned c = 0; c < k; c++) sum ^= multiply(formula(k, m, i, c), parts.at[c][b]);
          cr_assert_eq(parts.at[k + i][b], sum, "%u+%u, %zu bytes, byte %zu", k, m, bytes, b);
        }
      }
    }
  }
}

Test(erasure, nothing_is_written_beyond_the_length) {
  Random random(cr_test::test_seed());
  for (const auto& [k, m] : {std::pair{1u, 2u}, {3u, 1u}, {4u, 2u}, {5u, 7u}}) {
    const auto erasure = make(k, m);
    for (size_t bytes = 1; bytes < 200; bytes++) {
      const Parts parts(*erasure, random, bytes);
      std::vector<Bytes> memory(m, Bytes(bytes + 128, 0xa5));
      std::vector<uint8_t*> out;
      for (Bytes& b : memory) out.push_back(b.data() + 64);
      erasure->encode(parts.at.data(), out.data(), bytes);
      for (const Bytes& b : memory) {
        for (size_t i = 0; i < 64; i++) {
          cr_assert(b[i] == 0xa5 && b[64 + bytes + i] == 0xa5, "%u+%u, %zu bytes", k, m, bytes);
        }
      }
    }
  }
}

Test(erasure, no_loss_of_up_to_m_parts_loses_anything) {
  Random random(cr_test::test_seed());
  const std::pair<unsigned, unsigned> shapes[] = {
      {1, 1}, {1, 2}, {1, 5}, {2, 1}, {3, 1}, {7, 1}, {15, 1}, {2, 2}, {3, 2},  {4, 2},
      {8, 2}, {3, 3}, {5, 3}, {8, 3}, {4, 4}, {6, 4}, {10, 4}, {2, 6}, {3, 12}, {4, 10}};
  for (const auto& [k, m] : shapes) {
    const auto erasure = make(k, m);
    const Parts parts(*erasure, random, 67, k % 2);
    const PartSet all = (PartSet{1} << (k + m)) - 1;
    for (PartSet have = 0; have <= all; have++) {
      if (static_cast<unsigned>(std::popcount(have)) < k) continue;
      cr_assert(all_come_back(*erasure, parts, have), "%u+%u, parts %lx", k, m, have);
    }
  }
}

Test(erasure, nor_in_large_groups) {
  Random random(cr_test::test_seed());
  for (const auto& [k, m] :
       {std::pair{60u, 4u}, {32u, 32u}, {63u, 1u}, {1u, 63u}, {50u, 14u}, {2u, 62u}}) {
    const auto erasure = make(k, m);
    const Parts parts(*erasure, random, 4096 + 13);
    for (int round = 0; round < 40; round++) {
      PartSet have = ~PartSet{0};
      for (unsigned lost = 0; lost < m;) {
        const uint64_t p = random.below(64);
        lost += have >> p & 1;
        have &= ~(PartSet{1} << p);
      }
      cr_assert(all_come_back(*erasure, parts, have), "%u+%u, parts %lx", k, m, have);
    }
  }
}

Test(erasure, a_part_that_is_there_can_be_wanted_too) {
  Random random(cr_test::test_seed());
  const auto erasure = make(3, 2);
  const Parts parts(*erasure, random, 100);
  std::vector<Bytes> memory(5, Bytes(100));
  uint8_t* out[5];
  for (int p = 0; p < 5; p++) out[p] = memory[p].data();
  std::string text;
  cr_assert(erasure->decode(0b11101, parts.at.data(), 0b11111, out, 100, &text).has_value());
  for (unsigned p = 0; p < 5; p++) cr_assert(parts.same(p, out[p]), "part %u", p);
}

Test(erasure, fewer_than_k_parts_are_refused_and_the_missing_ones_named) {
  Random random(cr_test::test_seed());
  const auto erasure = make(4, 2);
  Parts parts(*erasure, random, 64);
  Bytes out(64, 7);
  uint8_t* ret[6] = {nullptr, out.data()};
  std::string text;
  auto r = erasure->decode(0b010101, parts.at.data(), 0b10, ret, 64, &text);
  cr_assert(!r.has_value() && r.error().code == cr::Errc::kNotWhole);
  cr_assert_str_eq(text.c_str(),
                   "rs:4+2 needs 4 of its 6 parts, but only 3 are there; missing: data 1, data 3, "
                   "parity 1");
  cr_assert(out == Bytes(64, 7), "nothing is written");
  // Parts that do not exist do not count.
  r = erasure->decode(0b010101 | PartSet{0xff} << 32, parts.at.data(), 0b10, ret, 64, &text);
  cr_assert_not(r.has_value());
  auto copies = Erasure::make({Kind::kReplica, 1, 2});
  text = (*copies)->missing_text(0);
  cr_assert_str_eq(text.c_str(),
                   "replica:3 needs 1 of its 3 parts, but none is there; missing: copy 0, copy 1, "
                   "copy 2");
}

Test(erasure, a_wrong_byte_is_not_masked) {
  Random random(cr_test::test_seed());
  for (const auto& [k, m] : {std::pair{1u, 2u}, {4u, 1u}, {4u, 2u}, {8u, 3u}}) {
    const auto erasure = make(k, m);
    Parts parts(*erasure, random, 200);
    const PartSet have = ((PartSet{1} << k) - 1) << m;  // the last K: all of them are read
    for (unsigned p = m; p < k + m; p++) {
      const size_t byte = random.below(200);
      parts.at[p][byte] ^= static_cast<uint8_t>(1u << random.below(8));
      // Each rebuilt data part follows from all K; in it, just that byte is wrong.
      Bytes memory(200);
      std::vector<uint8_t*> out(k + m, memory.data());
      std::string text;
      cr_assert(erasure->decode(have, parts.at.data(), 1, out.data(), 200, &text).has_value());
      for (size_t b = 0; b < 200; b++) {
        cr_assert_eq(memory[b] != parts.at[0][b], b == byte, "%u+%u, part %u", k, m, p);
      }
      Parts again(*erasure, random, 200);
      parts = std::move(again);
    }
  }
}

Test(erasure, threads_decode_at_the_same_time) {
  Random random(cr_test::test_seed());
  const auto erasure = make(6, 3);
  const Parts parts(*erasure, random, 500);
  std::atomic<int> wrong = 0;
  const auto work = [&](PartSet step) {  // each in another order
    for (PartSet i = 0; i < 512; i++) {
      const PartSet have = i * step % 512;
      if (std::popcount(have) >= 6 && !all_come_back(*erasure, parts, have)) wrong++;
    }
  };
  std::vector<std::thread> threads;
  for (const PartSet step : {1u, 3u, 5u, 511u}) threads.emplace_back(work, step);
  for (std::thread& t : threads) t.join();
  cr_assert_eq(wrong.load(), 0);
}

Test(erasure, without_parity_there_is_nothing_to_compute) {
  auto erasure = Erasure::make(Protection{});
  Bytes data(kPageSize, 3);
  const uint8_t* in[] = {data.data()};
  (*erasure)->encode(in, nullptr, data.size());
  std::string text;
  cr_assert_not((*erasure)->decode(0, in, 1, nullptr, 1, &text).has_value());
  cr_assert_str_eq(text.c_str(), "none needs 1 of its 1 parts, but none is there; missing: copy 0");
}
