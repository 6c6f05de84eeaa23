// SPDX-License-Identifier: MIT
// retention_test.cc - which flushed checkpoints are kept, and how fast they may be written.
#include "node/retention.h"

#include <criterion/criterion.h>

#include "store/rate_limit.h"
#include "tests/unit/nvheap/random.h"

namespace {

using cr::node::kept;
using cr::node::parse_retention;
using cr::node::Retention;
using cr::store::RateLimit;

constexpr uint64_t kSecond = 1'000'000'000, kMinute = 60 * kSecond, kHour = 60 * kMinute,
                   kDay = 24 * kHour;
// Monday, 2025-01-06 00:00:00 UTC.
constexpr uint64_t kMonday = 1736121600 * kSecond;

std::string text_of(const Retention& r, const std::vector<uint64_t>& times) {
  std::string text;
  for (const bool keep : kept(r, times)) text += keep ? 'k' : '-';
  return text;
}

std::string error_of(const char* text) {
  std::string why;
  return parse_retention(text, &why) ? "" : why;
}

}  // namespace

Test(retention, rules_are_read) {
  std::string why;
  const auto all = parse_retention("last:3,hourly:24,daily:7,weekly:4", &why);
  cr_assert(all.has_value(), "%s", why.c_str());
  cr_expect(*all == (Retention{3, 24, 7, 4}));
  cr_expect(*parse_retention("weekly:100000", &why) == (Retention{0, 0, 0, 100000}));
  cr_expect(parse_retention("", &why)->keeps_all());
  for (const Retention& r :
       {Retention{}, Retention{1, 0, 0, 0}, Retention{0, 2, 0, 3}, Retention{9, 8, 7, 6}}) {
    cr_expect(*parse_retention(to_string(r), &why) == r, "%s", to_string(r).c_str());
  }
}

Test(retention, what_is_no_rule_is_named) {
  struct {
    const char *text, *part;
  } const bad[] = {{"last", "'last' has no colon"},
                   {"last:", "'' is not a number"},
                   {"last:x", "'x' is not a number"},
                   {"last:-1", "'-1' is not a number"},
                   {"last:3x", "'3x' is not a number"},
                   {"last: 3", "' 3' is not a number"},
                   {"last:0", "from 1 to 100000"},
                   {"last:100001", "from 1 to 100000"},
                   {"last:99999999999999999999", "from 1 to 100000"},
                   {"first:3", "no rule 'first'"},
                   {"LAST:3", "no rule 'LAST'"},
                   {":3", "no rule ''"},
                   {",", "missing before or after a comma"},
                   {"last:1,", "missing before or after a comma"},
                   {"last:1,,daily:1", "missing before or after a comma"},
                   {"last:1,last:2", "'last' is given twice"}};
  for (const auto& b : bad) {
    const std::string why = error_of(b.text);
    cr_expect(why.find(b.part) != std::string::npos, "%s: %s", b.text, why.c_str());
    cr_expect(why.find("write for example last:3,hourly:24,daily:7") != std::string::npos);
  }
}

Test(retention, each_rule_keeps_its_own) {
  // Newest first: every 20 minutes from Monday 02:10 back to Sunday 23:30.
  std::vector<uint64_t> times;
  for (uint64_t i = 0; i < 9; i++) {
    times.push_back(kMonday + 2 * kHour + 10 * kMinute - i * 20 * kMinute);
  }
  cr_expect_str_eq(text_of({}, times).c_str(), "kkkkkkkkk");
  cr_expect_str_eq(text_of({3, 0, 0, 0}, times).c_str(), "kkk------");
  cr_expect_str_eq(text_of({99, 0, 0, 0}, times).c_str(), "kkkkkkkkk");
  cr_expect_str_eq(text_of({0, 2, 0, 0}, times).c_str(), "kk-------");
  cr_expect_str_eq(text_of({0, 99, 0, 0}, times).c_str(), "kk--k--k-");
  cr_expect_str_eq(text_of({0, 0, 1, 0}, times).c_str(), "k--------");
  cr_expect_str_eq(text_of({0, 0, 2, 0}, times).c_str(), "k------k-");
  cr_expect_str_eq(text_of({0, 0, 0, 2}, times).c_str(), "k------k-");
  cr_expect_str_eq(text_of({2, 3, 1, 0}, times).c_str(), "kk--k----");
}

Test(retention, a_week_begins_on_monday) {
  const std::vector<uint64_t> times = {kMonday, kMonday - kSecond, kMonday - 7 * kDay,
                                       kMonday - 7 * kDay - kSecond};
  cr_expect_str_eq(text_of({0, 0, 0, 99}, times).c_str(), "kk-k");
  cr_expect_str_eq(text_of({0, 0, 0, 2}, times).c_str(), "kk--");
}

// A period in which nothing was taken does not count.
Test(retention, gaps_are_passed_over) {
  const std::vector<uint64_t> times = {kMonday + 40 * kDay, kMonday + 3 * kDay, kMonday + kHour};
  cr_expect_str_eq(text_of({0, 0, 3, 0}, times).c_str(), "kkk");
  cr_expect_str_eq(text_of({0, 2, 0, 0}, times).c_str(), "kk-");
}

Test(retention, the_newest_is_kept_whatever_its_clock_says) {
  cr_expect(kept({1, 0, 0, 0}, {}).empty());
  const std::vector<uint64_t> backwards = {5, kMonday, 0, ~uint64_t{0}};
  for (const Retention& r : {Retention{0, 1, 0, 0}, Retention{0, 0, 1, 0}, Retention{0, 0, 0, 1},
                             Retention{1, 0, 0, 0}}) {
    cr_expect_str_eq(text_of(r, backwards).c_str(), "k---");
  }
  cr_expect_str_eq(text_of({0, 9, 0, 0}, backwards).c_str(), "kkkk");
}

Test(rate_limit, no_more_than_the_rate_and_a_burst) {
  cr_test::Random random(cr_test::test_seed());
  constexpr uint64_t kRate = 10'000'000, kPiece = 2'000'000;
  RateLimit limit(kRate);
  uint64_t now = 5 * kSecond, sent = 0;
  const uint64_t begin = now;
  for (int i = 0; i < 2000; i++) {
    if (now >= limit.free_ns()) {
      const uint64_t bytes = 1 + random.below(kPiece);
      limit.spend(now, bytes);
      sent += bytes;
    }
    const double seconds = static_cast<double>(now - begin) / 1e9;
    const double most = (seconds + 0.1) * kRate + kPiece;
    cr_assert(static_cast<double>(sent) <= most + 1, "%lu bytes in %f s", sent, seconds);
    now = random.one_in(20) ? now + random.below(3 * kSecond) : std::max(now + 1, limit.free_ns());
  }
  // Who always has something to send gets what it may have.
  RateLimit busy(kRate);
  for (now = begin, sent = 0; now < begin + 100 * kSecond;
       now = std::max(now + 1, busy.free_ns())) {
    busy.spend(now, kPiece);
    sent += kPiece;
  }
  cr_expect(sent >= 100 * kRate && sent <= 101 * kRate, "%lu", sent);
}

Test(rate_limit, none_and_extremes) {
  RateLimit none(0);
  none.spend(5, ~uint64_t{0});
  cr_expect_eq(none.free_ns(), 0u);
  RateLimit slow(1);
  slow.spend(5, ~uint64_t{0});
  cr_expect_gt(slow.free_ns(), kDay * 10000);
  slow.spend(5, ~uint64_t{0});
  cr_expect_gt(slow.free_ns(), kDay * 10000, "it does not begin anew");
}
