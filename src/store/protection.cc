// SPDX-License-Identifier: MIT
// protection.cc - see protection.h. Invariant: as there. Context: N.
#include "store/protection.h"

#include <charconv>

namespace cr::store {
namespace {

constexpr char kForms[] =
    "none, replica:R (2 to 16 copies), xor:G (groups of 2 to 64), or rs:K+M "
    "(K data and M parity parts, together at most 64), as rs:8+2";

struct Bounds {
  unsigned least, most;
};

Result<unsigned> parse_count(std::string_view whole, const char* what, std::string_view number,
                             Bounds bounds, std::string* ret_text) {
  unsigned value = 0;
  const char* end = number.data() + number.size();
  const auto [stop, error] = std::from_chars(number.data(), end, value);
  if (error == std::errc() && stop == end && value >= bounds.least && value <= bounds.most) {
    return value;
  }
  *ret_text = "\"" + std::string(whole) + "\": " + what + " \"" + std::string(number) +
              "\" is not a number from " + std::to_string(bounds.least) + " to " +
              std::to_string(bounds.most) + "; give " + kForms;
  return Error{Errc::kInvalid, 0, "a number of --protect"};
}

Result<Protection> parse_rs(std::string_view text, std::string_view value, std::string* ret_text) {
  using enum Protection::Kind;
  const size_t plus = value.find('+');
  if (plus == std::string_view::npos) {
    *ret_text = "\"" + std::string(text) + "\": no \"+\" in \"" + std::string(value) +
                "\"; give rs:K+M, as rs:8+2";
    return Error{Errc::kInvalid, 0, "the form of --protect"};
  }
  const Bounds bounds{1, kMostParts - 1};
  CR_TRY(const unsigned k,
         parse_count(text, "data parts", value.substr(0, plus), bounds, ret_text));
  CR_TRY(const unsigned m,
         parse_count(text, "parity parts", value.substr(plus + 1), bounds, ret_text));
  if (k + m > kMostParts) {
    *ret_text = "\"" + std::string(text) + "\": " + std::to_string(k + m) +
                " parts are more than " + std::to_string(kMostParts) + "; give " + kForms;
    return Error{Errc::kInvalid, 0, "too many parts"};
  }
  return Protection{kRs, k, m};
}

}  // namespace

Result<Protection> parse_protection(std::string_view text, std::string* ret_text) {
  using enum Protection::Kind;
  if (text == "none") return Protection{};
  const size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  const std::string_view value = colon == text.npos ? std::string_view() : text.substr(colon + 1);
  if (colon != text.npos && kind == "replica") {
    CR_TRY(const unsigned copies, parse_count(text, "copies", value, {2, kMostReplicas}, ret_text));
    return Protection{kReplica, 1, copies - 1};
  }
  if (colon != text.npos && kind == "xor") {
    CR_TRY(const unsigned group, parse_count(text, "group", value, {2, kMostParts}, ret_text));
    return Protection{kXor, group - 1, 1};
  }
  if (colon != text.npos && kind == "rs") return parse_rs(text, value, ret_text);
  const bool known = kind == "replica" || kind == "xor" || kind == "rs";
  *ret_text = "\"" + std::string(text) + "\": " +
              (known            ? "no \":\" and number after \"" + std::string(kind) + "\""
               : kind == "none" ? "\"none\" takes no number"
                                : "no such protection as \"" + std::string(kind) + "\"") +
              "; give " + kForms;
  return Error{Errc::kInvalid, 0, "the form of --protect"};
}

std::string to_string(const Protection& p) {
  switch (p.kind) {
    case Protection::Kind::kNone:
      return "none";
    case Protection::Kind::kReplica:
      return "replica:" + std::to_string(p.parts());
    case Protection::Kind::kXor:
      return "xor:" + std::to_string(p.parts());
    case Protection::Kind::kRs:
      break;
  }
  return "rs:" + std::to_string(p.data) + "+" + std::to_string(p.parity);
}

}  // namespace cr::store
