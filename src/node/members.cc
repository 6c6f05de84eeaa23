// SPDX-License-Identifier: MIT
// members.cc - reading the member list. Invariant: as members.h; what is not understood is refused,
// never skipped. Context: N. Doc: docs/store.md.
#include "node/members.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>

namespace cr::node {
namespace {

constexpr size_t kMostNameBytes = 253, kMostFileBytes = 16 << 20;
constexpr char kLineForm[] = "a line is NAME HOST[:PORT] [rack=LABEL]";
constexpr char kListForm[] = "the list is NAME=HOST[:PORT][/rack=LABEL],...";
constexpr char kNodelistForm[] = "names are as n[01-04,7],login";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '.' || c == '_' ||
         c == '-';
}
bool is_name(std::string_view s) {
  return !s.empty() && s.size() <= kMostNameBytes && s[0] != '-' && s[0] != '.' &&
         std::ranges::all_of(s, is_name_char);
}

// For messages: what came from outside may be anything.
std::string quoted(std::string_view s) {
  std::string q = "\"";
  for (const char c : s.substr(0, 100)) q += c >= ' ' && c <= '~' ? c : '?';
  return q + (s.size() > 100 ? "...\"" : "\"");
}

std::string lower(std::string s) {
  for (char& c : s) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return s;
}

std::string short_name(const std::string& name) { return name.substr(0, name.find('.')); }

bool is_ipv4(const std::string& host) {
  in_addr a;
  return inet_pton(AF_INET, host.c_str(), &a) == 1;
}

bool is_ipv6(const std::string& host) { return host.find(':') != std::string::npos; }

// Equal for two spellings of one address.
std::string canonical_address(const Member& m) {
  std::string host = lower(m.host);
  in6_addr a;
  const std::string plain = host.substr(0, host.find('%'));
  if (inet_pton(AF_INET6, plain.c_str(), &a) == 1) {
    char text[INET6_ADDRSTRLEN];
    host = inet_ntop(AF_INET6, &a, text, sizeof(text)) + host.substr(plain.size());
  }
  return host + "|" + std::to_string(m.port);
}

// What is wrong with it; "" is nothing.
std::string parse_port(std::string_view text, uint16_t* ret) {
  unsigned value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value == 0 || value > 65535) {
    return "port " + quoted(text) + " is not a number from 1 to 65535";
  }
  *ret = static_cast<uint16_t>(value);
  return "";
}

std::string parse_bracketed(std::string_view text, Member* ret) {
  const size_t close = text.find(']');
  if (close == std::string_view::npos) return "address " + quoted(text) + " has no \"]\"";
  const std::string host(text.substr(1, close - 1));
  const size_t scope = host.find('%');
  in6_addr a;
  if (inet_pton(AF_INET6, host.substr(0, scope).c_str(), &a) != 1 ||
      (scope != std::string::npos && !is_name(std::string_view(host).substr(scope + 1)))) {
    return quoted(host) + " is not an IPv6 address";
  }
  ret->host = host;
  const std::string_view rest = text.substr(close + 1);
  if (rest.empty()) return "";
  if (rest[0] != ':') return quoted(rest) + " after \"]\" is not :PORT";
  return parse_port(rest.substr(1), &ret->port);
}

std::string parse_address(std::string_view text, Member* ret) {
  if (text.starts_with('[')) return parse_bracketed(text, ret);
  const size_t colon = text.find(':');
  if (colon != std::string_view::npos && text.find(':', colon + 1) != std::string_view::npos) {
    return "an IPv6 address needs brackets, as [" + std::string(text.substr(0, 60)) + "]";
  }
  const std::string host(text.substr(0, colon));
  const bool numbers =
      std::ranges::all_of(host, [](char c) { return is_digit(c) || c == '.'; }) && !host.empty();
  if (!is_name(host) || (numbers && !is_ipv4(host))) {
    return "host " + quoted(host) + " is not a host name or address";
  }
  ret->host = host;
  return colon == std::string_view::npos ? "" : parse_port(text.substr(colon + 1), &ret->port);
}

std::string parse_rack(std::string_view text, Member* ret) {
  constexpr std::string_view kKey = "rack=";
  if (!text.starts_with(kKey)) return quoted(text) + " is not rack=LABEL";
  if (!ret->rack.empty()) return "there are two racks";
  if (!is_name(text.substr(kKey.size()))) {
    return "rack " + quoted(text.substr(kKey.size())) + " is not letters, digits and . _ -";
  }
  ret->rack = text.substr(kKey.size());
  return "";
}

std::string check_name(std::string_view name) {
  if (is_name(name)) return "";
  return "name " + quoted(name) + " is not 1 to 253 letters, digits and . _ - (not first)";
}

// The list as it grows, with what is in it already.
class Collector {
 public:
  // where: of this member, as "line 3". "" or what is wrong.
  std::string add(Member member, const std::string& where) {
    if (list_.size() == kMostNodes) {
      return "there are more than " + std::to_string(kMostNodes) + " nodes";
    }
    const auto [name, new_name] = names_.try_emplace(member.name, where);
    if (!new_name) return "name " + quoted(member.name) + " is that of " + name->second + " too";
    const auto [address, new_address] = addresses_.try_emplace(canonical_address(member), where);
    if (!new_address) {
      return "address " + address_of(member) + " is that of " + address->second + " too";
    }
    list_.push_back(std::move(member));
    return "";
  }
  std::vector<Member> take() { return std::move(list_); }
  bool empty() const { return list_.empty(); }

 private:
  std::vector<Member> list_;
  std::map<std::string, std::string> names_, addresses_;
};

std::vector<std::string_view> words_of(std::string_view line) {
  constexpr std::string_view kBlank = " \t\r";
  std::vector<std::string_view> words;
  for (size_t at = 0; (at = line.find_first_not_of(kBlank, at)) != std::string_view::npos;) {
    const size_t end = std::min(line.find_first_of(kBlank, at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end;
  }
  return words;
}

std::string parse_line(const std::vector<std::string_view>& words, Member* ret) {
  ret->name = words[0];
  std::string wrong = check_name(words[0]);
  if (!wrong.empty()) return wrong;
  if (words.size() < 2) return "node " + quoted(words[0]) + " has no host";
  wrong = parse_address(words[1], ret);
  for (size_t i = 2; i < words.size() && wrong.empty(); i++) wrong = parse_rack(words[i], ret);
  return wrong;
}

// The parts of a node list between commas outside brackets.
Result<std::vector<std::string_view>> split_nodelist(std::string_view text, std::string* ret_why) {
  std::vector<std::string_view> items;
  bool inside = false;
  size_t start = 0;
  for (size_t i = 0; i <= text.size(); i++) {
    if (i == text.size() || (text[i] == ',' && !inside)) {
      items.push_back(text.substr(start, i - start));
      start = i + 1;
    } else if (text[i] == '[' || text[i] == ']') {
      if (inside == (text[i] == '[')) {
        *ret_why = std::string("a \"") + text[i] + "\" too many in " + quoted(text.substr(start));
        return Error{Errc::kInvalid, 0, "brackets of a node list"};
      }
      inside = !inside;
    }
  }
  if (!inside) return items;
  *ret_why = "no \"]\" in " + quoted(items.back());
  return Error{Errc::kInvalid, 0, "brackets of a node list"};
}

// "01-04,7" -> 01 02 03 04 7, at most kMostNodes; "" or what is wrong.
std::string expand_numbers(std::string_view text, std::vector<std::string>* ret) {
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(',', start), text.size());
    const std::string_view range = text.substr(start, end - start);
    start = end + 1;
    const size_t dash = std::min(range.find('-'), range.size());
    const std::string_view low = range.substr(0, dash);
    const std::string_view high = dash < range.size() ? range.substr(dash + 1) : low;
    const auto is_number = [](std::string_view s) {
      return !s.empty() && s.size() <= 18 && std::ranges::all_of(s, is_digit);
    };
    if (!is_number(low) || !is_number(high)) return quoted(range) + " is not a number or a range";
    uint64_t first = 0, last = 0;
    std::from_chars(low.data(), low.data() + low.size(), first);
    std::from_chars(high.data(), high.data() + high.size(), last);
    if (first > last) return "the range " + quoted(range) + " runs backwards";
    if (last - first >= kMostNodes - ret->size()) {
      return "more than " + std::to_string(kMostNodes) + " names in " + quoted(range);
    }
    for (uint64_t n = first; n <= last; n++) {
      std::string digits = std::to_string(n);
      if (digits.size() < low.size()) digits.insert(0, low.size() - digits.size(), '0');
      ret->push_back(std::move(digits));
    }
  }
  return "";
}

// One item with all its brackets; "" or what is wrong.
std::string expand_item(std::string_view item, size_t room, std::vector<std::string>* ret) {
  std::vector<std::string> names{""};
  for (size_t at = 0; at < item.size();) {
    std::vector<std::string> pieces;
    size_t end = 0;
    if (item[at] == '[') {
      end = item.find(']', at) + 1;  // split_nodelist() saw it
      std::string wrong = expand_numbers(item.substr(at + 1, end - at - 2), &pieces);
      if (!wrong.empty()) return wrong;
    } else {
      end = std::min(item.find('[', at), item.size());
      pieces.emplace_back(item.substr(at, end - at));
    }
    if (names.size() * pieces.size() > room) {
      return "more than " + std::to_string(kMostNodes) + " names in " + quoted(item);
    }
    if (names.back().size() + pieces.back().size() > kMostNameBytes) {
      return "a name of more than " + std::to_string(kMostNameBytes) + " bytes in " + quoted(item);
    }
    std::vector<std::string> longer;
    longer.reserve(names.size() * pieces.size());
    for (const std::string& name : names) {
      for (const std::string& piece : pieces) longer.push_back(name + piece);
    }
    names = std::move(longer);
    at = end;
  }
  for (std::string& name : names) {
    std::string wrong = check_name(name);
    if (!wrong.empty()) return wrong;
    ret->push_back(std::move(name));
  }
  return "";
}

Result<std::string> read_file(const std::string& path, std::string* ret_text) {
  const auto failed = [&](int error, const char* why) {
    *ret_text = path + ": cannot be read: " + why + "; it must be a file in which " + kLineForm;
    return Error{Errc::kSystem, error, "reading the member list"};
  };
  const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen(path.c_str(), "re"), fclose);
  if (file == nullptr) return failed(errno, strerror(errno));
  std::string text;
  char part[4096];
  while (text.size() <= kMostFileBytes) {
    const size_t n = fread(part, 1, sizeof(part), file.get());
    text.append(part, n);
    if (n == 0) break;
  }
  if (ferror(file.get()) != 0) return failed(errno, strerror(errno));
  if (text.size() > kMostFileBytes) return failed(EFBIG, "it is larger than 16 MiB");
  return text;
}

Result<std::vector<Member>> members_of_nodelist(const std::string& text, std::string* ret_text) {
  CR_TRY(const std::vector<std::string> names, expand_slurm_nodelist(text, ret_text));
  Collector list;
  for (const std::string& name : names) {
    Member m;
    m.name = m.host = name;
    const std::string wrong = list.add(std::move(m), "another node of it");
    if (!wrong.empty()) {
      *ret_text = "SLURM_JOB_NODELIST: " + wrong + "; " + kNodelistForm;
      return Error{Errc::kInvalid, 0, "the node list"};
    }
  }
  return list.take();
}

// The members for which `test` holds.
template <typename Test>
std::vector<size_t> matches(const std::vector<Member>& list, Test test) {
  std::vector<size_t> found;
  for (size_t i = 0; i < list.size(); i++) {
    if (test(list[i])) found.push_back(i);
  }
  return found;
}

std::string names_of(const std::vector<Member>& list) {
  constexpr size_t kMost = 8;
  std::string text;
  for (size_t i = 0; i < std::min(list.size(), kMost); i++) {
    text += (i == 0 ? "" : ", ") + list[i].name;
  }
  if (list.size() > kMost) text += ", and " + std::to_string(list.size() - kMost) + " more";
  return text;
}

}  // namespace

std::string address_of(const Member& m) {
  return (is_ipv6(m.host) ? "[" + m.host + "]" : m.host) + ":" + std::to_string(m.port);
}

Result<std::vector<Member>> parse_members(std::string_view text, const std::string& source,
                                          std::string* ret_text) {
  Collector list;
  const auto failed = [&](const std::string& at, const std::string& why) {
    *ret_text = source + at + ": " + why + "; " + kLineForm;
    return Error{Errc::kInvalid, 0, "the member list"};
  };
  size_t number = 0;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    std::string_view line = text.substr(start, end - start);
    start = end + 1;
    number++;
    line = line.substr(0, line.find('#'));
    const std::vector<std::string_view> words = words_of(line);
    if (words.empty()) continue;
    Member m;
    std::string wrong = parse_line(words, &m);
    if (wrong.empty()) wrong = list.add(std::move(m), "line " + std::to_string(number));
    if (!wrong.empty()) return failed(":" + std::to_string(number), wrong);
  }
  if (list.empty()) return failed("", "no node is in it");
  return list.take();
}

Result<std::vector<Member>> parse_member_list(std::string_view text, std::string* ret_text) {
  Collector list;
  for (size_t start = 0, number = 1; start <= text.size(); number++) {
    const size_t end = std::min(text.find(',', start), text.size());
    std::string_view entry = text.substr(start, end - start);
    start = end + 1;
    Member m;
    std::string wrong;
    const size_t slash = std::min(entry.find('/'), entry.size());
    if (slash < entry.size()) wrong = parse_rack(entry.substr(slash + 1), &m);
    entry = entry.substr(0, slash);
    const size_t equals = entry.find('=');
    if (wrong.empty()) {
      wrong = parse_address(equals == entry.npos ? entry : entry.substr(equals + 1), &m);
    }
    m.name = equals == entry.npos ? m.host : std::string(entry.substr(0, equals));
    if (wrong.empty()) wrong = check_name(m.name);
    if (wrong.empty()) wrong = list.add(std::move(m), "node " + std::to_string(number));
    if (!wrong.empty()) {
      *ret_text =
          "node " + std::to_string(number) + " of the member list: " + wrong + "; " + kListForm;
      return Error{Errc::kInvalid, 0, "the member list"};
    }
  }
  return list.take();
}

Result<std::vector<std::string>> expand_slurm_nodelist(std::string_view text,
                                                       std::string* ret_text) {
  std::string wrong;
  std::vector<std::string> names;
  auto items = split_nodelist(text, &wrong);
  for (size_t i = 0; wrong.empty() && i < items->size(); i++) {
    wrong = expand_item((*items)[i], kMostNodes - names.size(), &names);
  }
  if (wrong.empty()) return names;
  *ret_text = "SLURM_JOB_NODELIST: " + wrong + "; " + kNodelistForm;
  return Error{Errc::kInvalid, 0, "the node list"};
}

std::string slurm_nodelist_of_environment() {
  const char* value = getenv("SLURM_JOB_NODELIST");
  return value != nullptr ? value : "";
}

size_t find_member(const std::vector<Member>& list, std::string_view name) {
  return static_cast<size_t>(std::ranges::find(list, name, &Member::name) - list.begin());
}

Result<size_t> find_self(const std::vector<Member>& list, const std::string& own_name,
                         const std::string& hostname, std::string* ret_text) {
  if (!own_name.empty()) {
    const size_t found = find_member(list, own_name);
    if (found < list.size()) return found;
    *ret_text = "node " + quoted(own_name) + " is not in the member list (" + names_of(list) +
                "); add it there, or give one of these as our name";
    return Error{Errc::kNotFound, 0, "our name is not in the member list"};
  }
  const std::string full = lower(hostname), brief = short_name(full);
  const auto host_of = [](const Member& m) {  // of numbers nothing is cut off
    return is_ipv4(m.host) || is_ipv6(m.host) ? m.host : short_name(lower(m.host));
  };
  std::vector<size_t> found = matches(list, [&](auto& m) { return lower(m.name) == full; });
  if (found.empty()) {
    found = matches(list, [&](auto& m) { return short_name(lower(m.name)) == brief; });
  }
  if (found.empty()) found = matches(list, [&](auto& m) { return lower(m.host) == full; });
  if (found.empty()) found = matches(list, [&](auto& m) { return host_of(m) == brief; });
  if (found.size() == 1) return found[0];
  if (found.empty()) {
    *ret_text = "no node of the member list (" + names_of(list) + ") is this host, " +
                quoted(hostname) + "; add it there, or say which of them it is";
    return Error{Errc::kNotFound, 0, "this host is not in the member list"};
  }
  *ret_text = "nodes " + list[found[0]].name + " and " + list[found[1]].name +
              " of the member list are both this host, " + quoted(hostname) +
              "; say which of them it is";
  return Error{Errc::kInvalid, 0, "this host is several members"};
}

Result<Members> load_members(const MemberSource& source, std::string* ret_text) {
  Members members;
  if (!source.file.empty()) {
    CR_TRY(const std::string text, read_file(source.file, ret_text));
    CR_TRY(members.list, parse_members(text, source.file, ret_text));
  } else if (!source.slurm_nodelist.empty()) {
    CR_TRY(members.list, members_of_nodelist(source.slurm_nodelist, ret_text));
  } else if (!source.list.empty()) {
    CR_TRY(members.list, parse_member_list(source.list, ret_text));
  } else {
    *ret_text = "there is no member list; give a file, run under Slurm, or give a list: ";
    *ret_text += kListForm;
    return Error{Errc::kNotFound, 0, "no member list"};
  }
  char hostname[256] = "";
  if (source.hostname.empty()) (void)gethostname(hostname, sizeof(hostname) - 1);
  const std::string& given = source.hostname;
  CR_TRY(members.own, find_self(members.list, source.own_name,
                                given.empty() ? std::string(hostname) : given, ret_text));
  return members;
}

}  // namespace cr::node
