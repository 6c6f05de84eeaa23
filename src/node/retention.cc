// SPDX-License-Identifier: MIT
// retention.cc - see retention.h. Invariant: as there. Context: N.
#include "node/retention.h"

#include <charconv>

namespace cr::node {
namespace {

constexpr uint64_t kHour = 3600ull * 1'000'000'000, kDay = 24 * kHour;
// 1970 began on a Thursday.
constexpr uint64_t kWeek = 7 * kDay, kBeforeMonday = 3 * kDay;

struct Rule {
  const char* name;
  unsigned Retention::*count;
};
constexpr Rule kRules[] = {{"last", &Retention::last},
                           {"hourly", &Retention::hourly},
                           {"daily", &Retention::daily},
                           {"weekly", &Retention::weekly}};
constexpr char kForm[] = "; write for example last:3,hourly:24,daily:7";

Error bad(std::string* ret_text, const std::string& why) {
  *ret_text = why + kForm;
  return {Errc::kInvalid, 0, "what is to be kept cannot be read"};
}

Result<void> parse_rule(std::string_view item, Retention* r, std::string* ret_text) {
  if (item.empty()) return bad(ret_text, "a rule is missing before or after a comma");
  const std::string quoted = "'" + std::string(item) + "'";
  const size_t colon = item.find(':');
  if (colon == item.npos) return bad(ret_text, quoted + " has no colon and number");
  const std::string_view name = item.substr(0, colon), number = item.substr(colon + 1);
  for (const Rule& rule : kRules) {
    if (name != rule.name) continue;
    if (r->*rule.count != 0) return bad(ret_text, quoted + ": '" + rule.name + "' is given twice");
    unsigned n = 0;
    const char* const end = number.data() + number.size();
    const auto [at, error] = std::from_chars(number.data(), end, n);
    if (number.empty() || at != end || error == std::errc::invalid_argument) {
      return bad(ret_text, quoted + ": '" + std::string(number) + "' is not a number");
    }
    if (error != std::errc() || n == 0 || n > kMostKept) {
      return bad(ret_text, quoted + ": the number must be from 1 to " + std::to_string(kMostKept));
    }
    r->*rule.count = n;
    return {};
  }
  return bad(ret_text, quoted + ": there is no rule '" + std::string(name) +
                           "', only last, hourly, daily and weekly");
}

// Keeps the first of each period, `most` at most.
void keep_first(const std::vector<uint64_t>& times, uint64_t period, uint64_t shift, unsigned most,
                std::vector<bool>* ret) {
  uint64_t last = ~uint64_t{0};
  for (size_t i = 0; i < times.size() && most > 0; i++) {
    const uint64_t now = times[i] / period + (times[i] % period + shift) / period;
    if (now == last) continue;
    last = now;
    (*ret)[i] = true;
    most--;
  }
}

}  // namespace

Result<Retention> parse_retention(std::string_view text, std::string* ret_text) {
  Retention r;
  if (text.empty()) return r;
  for (;;) {
    const size_t comma = text.find(',');
    CR_TRYV(parse_rule(text.substr(0, comma), &r, ret_text));
    if (comma == text.npos) return r;
    text.remove_prefix(comma + 1);
  }
}

std::string to_string(const Retention& r) {
  std::string text;
  for (const Rule& rule : kRules) {
    if (r.*rule.count == 0) continue;
    text +=
        (text.empty() ? "" : ",") + std::string(rule.name) + ":" + std::to_string(r.*rule.count);
  }
  return text;
}

std::vector<bool> kept(const Retention& r, const std::vector<uint64_t>& realtime_ns) {
  std::vector<bool> keep(realtime_ns.size(), r.keeps_all());
  for (size_t i = 0; i < keep.size() && i < r.last; i++) keep[i] = true;
  keep_first(realtime_ns, kHour, 0, r.hourly, &keep);
  keep_first(realtime_ns, kDay, 0, r.daily, &keep);
  keep_first(realtime_ns, kWeek, kBeforeMonday, r.weekly, &keep);
  if (!keep.empty()) keep[0] = true;
  return keep;
}

}  // namespace cr::node
