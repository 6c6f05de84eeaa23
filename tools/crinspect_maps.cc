// SPDX-License-Identifier: MIT
// crinspect_maps.cc - the memory map and the open descriptors.
// Invariant: as crinspect_commands.h; the text says nothing that the JSON does not.
// Context: N.
#include <sys/sysmacros.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "agent/verify.h"
#include "tools/cli_common.h"
#include "tools/crinspect_commands.h"
#include "tools/crinspect_words.h"

namespace cr::tools {
namespace {

using Json = nlohmann::ordered_json;

std::string get(const Json& j, const char* key) { return printable(j[key].get<std::string>()); }
uint64_t number(const Json& j, const char* key) { return j[key].get<uint64_t>(); }

std::string dump(const Json& j) {
  return j.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string device(uint64_t dev) { return text_of("%02x:%02x", major(dev), minor(dev)); }

struct Stored {
  uint64_t pages = 0, zero_pages = 0;
};

Stored stored_of(const format::ImageView& v, const format::SegmentRecord& s) {
  Stored n;
  // What is shared is stored with its object.
  const bool shared = s.kind == format::kSegmentObject;
  const uint64_t start = shared ? format::object_address(v, s, s.start) : s.start;
  uint64_t end = start + (s.end - s.start);
  if (shared) {
    const format::ObjectRecord& o = v.objects[s.file_bytes];
    end = std::min(end, o.addr + page_ceil(o.bytes));
  }
  const auto last_byte = [](const format::ExtentRecord& e) {
    return e.addr + e.pages * kPageSize - 1;
  };
  auto e = std::ranges::lower_bound(v.extents, start, {}, last_byte);
  for (; e != v.extents.end() && e->addr < end; ++e) {
    const uint64_t pages =
        (std::min(end, last_byte(*e) + 1) - std::max(start, e->addr)) / kPageSize;
    (e->slot == format::kSlotZero ? n.zero_pages : n.pages) += pages;
  }
  return n;
}

Json segments_of(const format::ImageView& v) {
  Json all = Json::array();
  for (const format::SegmentRecord& s : v.segments) {
    const bool shared = s.kind == format::kSegmentFileShared ||
                        s.kind == format::kSegmentAnonShared || s.kind == format::kSegmentObject;
    const Stored n = stored_of(v, s);
    Json j;
    j["start"] = hex(s.start);
    j["end"] = hex(s.end);
    j["protection"] = protection_words(s.prot, shared);
    j["offset"] = s.file_off;
    j["device"] = device(s.dev);
    j["inode"] = s.ino;
    j["pages"] = (s.end - s.start) / kPageSize;
    j["pages_stored"] = n.pages;
    j["pages_zeroed"] = n.zero_pages;
    j["kind"] = segment_kind_word(s.kind);
    j["flags"] = segment_flag_words(s.flags);
    const bool plain = s.kind == format::kSegmentAnon || s.kind == format::kSegmentAnonShared;
    const std::string name = agent::name_of_segment(v, s);
    j["name"] = plain && name[0] != '[' ? "" : name == "anonymous memory" ? "" : name;
    all.push_back(std::move(j));
  }
  return all;
}

Json descriptors_of(const format::ImageView& v) {
  Json all = Json::array();
  std::vector<int> first(v.files.size(), -1);  // descriptor that has this description already
  for (const format::FdRecord& d : v.fds) {
    const format::FileRecord& f = v.files[d.file];
    Json j;
    j["fd"] = d.fd;
    j["kind"] = file_kind_word(f.kind);
    j["flags"] = open_flag_words(f.open_flags) + (d.cloexec != 0 ? "|O_CLOEXEC" : "");
    j["offset"] = f.position;
    const bool has_size = f.kind < format::kFileFifo && f.kind != format::kFileShared;
    j["size"] = has_size ? f.file_bytes : 0;
    if (f.kind == format::kFileShared) j["member"] = f.file_bytes;
    j["path"] = v.string(f.path);
    j["device"] = device(f.dev);
    j["inode"] = f.ino;
    j["mode"] = text_of("%06o", f.mode);
    j["bytes_stored"] = f.content.bytes;
    if (f.kind == format::kFilePipe) j["pipe"] = f.pair;
    if (f.kind == format::kFilePipe) j["pipe_capacity"] = f.pipe_bytes;
    const std::string state = object_words(v, f);
    if (!state.empty()) j["state"] = state;
    Json locks = Json::array();
    for (const format::LockRecord& l : v.locks) {
      if (l.file == d.file) locks.push_back(lock_words(l));
    }
    if (!locks.empty()) j["locks"] = locks;
    for (const format::OwnerRecord& o : v.owners) {
      if (o.file == d.file && o.owned != 0) j["owner"] = o.id;
    }
    if (f.std_fd >= 0) j["inherits"] = f.std_fd;
    if (first[d.file] >= 0) j["same_as"] = first[d.file];
    if (first[d.file] < 0) first[d.file] = d.fd;
    all.push_back(std::move(j));
  }
  return all;
}

std::string remarks_of(const Json& j) {
  std::string out;
  auto add = [&](const std::string& s) { out += (out.empty() ? "" : ", ") + s; };
  if (j.contains("pipe")) {
    add(text_of("pipe %lu of %lu bytes", number(j, "pipe"), number(j, "pipe_capacity")));
    const bool reads = !get(j, "flags").starts_with("O_WRONLY");
    if (reads) add(text_of("%lu bytes unread", number(j, "bytes_stored")));
  }
  if (get(j, "kind") == "unnamed") add(text_of("%lu bytes stored", number(j, "bytes_stored")));
  if (j.contains("member")) add(text_of("as in member %lu", number(j, "member")));
  if (j.contains("state")) add(get(j, "state"));
  if (j.contains("locks")) {
    for (const Json& l : j["locks"]) add(l.get<std::string>());
  }
  if (j.contains("inherits")) add(text_of("crrestore's own %lu", number(j, "inherits")));
  if (j.contains("owner"))
    add(j["owner"] == 0 ? std::string("signals to its group")
                        : text_of("signals to %d", j["owner"].get<int>()));
  if (j.contains("same_as")) add(text_of("duplicate of %lu", number(j, "same_as")));
  return out.empty() ? "" : " [" + out + "]";
}

}  // namespace

Output print_maps(const Settings& settings, Checkpoint& c) {
  const Json all = segments_of(c.image.view);
  if (settings.json) return {0, dump(all), ""};
  std::string out;
  uint64_t stored = 0, pages = 0;
  for (const Json& j : all) {
    const std::string range = get(j, "start").substr(2) + "-" + get(j, "end").substr(2);
    std::string what = get(j, "name");
    const std::string flags = get(j, "flags");
    if (!flags.empty()) what += (what.empty() ? "(" : " (") + flags + ")";
    out += text_of("%-25s %s %08lx %s %-8lu %lu/%lu pages %s %s", range.c_str(),
                   get(j, "protection").c_str(), number(j, "offset"), get(j, "device").c_str(),
                   number(j, "inode"), number(j, "pages_stored"), number(j, "pages"),
                   get(j, "kind").c_str(), what.c_str());
    while (out.back() == ' ') out.pop_back();
    out += "\n";
    stored += number(j, "pages_stored");
    pages += number(j, "pages");
  }
  out += text_of("%zu mappings, %lu pages, %lu of them stored: ", all.size(), pages, stored) +
         human_bytes(stored * kPageSize) + "\n";
  return {0, out, ""};
}

Output print_fds(const Settings& settings, Checkpoint& c) {
  const Json all = descriptors_of(c.image.view);
  if (settings.json) return {0, dump(all), ""};
  size_t wide = 5;
  for (const Json& j : all) wide = std::max(wide, get(j, "flags").size());
  const int w = static_cast<int>(wide);
  std::string out =
      text_of("%4s %-10s %-*s %12s %12s %s\n", "FD", "KIND", w, "FLAGS", "OFFSET", "SIZE", "PATH");
  for (const Json& j : all) {
    out += text_of("%4d %-10s %-*s %12lu %12lu ", j["fd"].get<int>(), get(j, "kind").c_str(), w,
                   get(j, "flags").c_str(), number(j, "offset"), number(j, "size")) +
           get(j, "path") + remarks_of(j) + "\n";
  }
  return {0, out, ""};
}

}  // namespace cr::tools
