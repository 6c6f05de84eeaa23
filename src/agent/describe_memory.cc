// SPDX-License-Identifier: MIT
// describe_memory.cc - see describe_memory.h. Invariant: as there. Context: N (agent).
#include "agent/describe_memory.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "agent/plugins.h"

namespace cr::agent {
namespace {

Trouble refuse(const os::MapEntry& m, const char* why) {
  return trouble(Errc::kUnsupported, 0, name_of_mapping(m) + ": " + why);
}

// Which pages of shared memory are in swap the kernel does not tell.
bool may_be_swapped() {
  const std::string info = os::read_or_empty("/proc/meminfo");
  return os::status_field(info, "SwapTotal") != os::status_field(info, "SwapFree");
}

int64_t mtime_ns(const struct stat& st) {
  return st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

struct FileFacts {
  bool same = false;  // the name still leads to the mapped file
  bool device = false;
  uint64_t bytes = 0;
  int64_t mtime_ns = 0;
  bool executable = false;  // some mapping of it is
};

class Describer {
 public:
  Describer(const MemoryReader& read, const std::vector<os::MapEntry>& maps, store::Model& model,
            MemoryPlan& plan)
      : read_(read), maps_(maps), model_(model), plan_(plan) {}

  Trouble run(const AddressSet& without, const Leftover& leftover, OpenFiles& open);

 private:
  Trouble add(const os::MapEntry& m, int object);
  Trouble add_shared(const os::MapEntry& m, format::SegmentRecord s);
  Trouble add_file(const os::MapEntry& m, format::SegmentRecord s);
  void push(format::SegmentRecord s, uint32_t mode, uint64_t limit);
  void add_object(bool shared, int object, format::SegmentRecord s);
  FileFacts facts(const os::MapEntry& m);
  uint64_t end_of_readable(const os::MapEntry& m) const;
  void cut(const std::vector<AddressRange>& without);

  const MemoryReader& read_;
  const std::vector<os::MapEntry>& maps_;
  store::Model& model_;
  MemoryPlan& plan_;
  std::map<std::string, FileFacts> known_;
  std::map<std::string, format::StringRef> names_;
};

FileFacts Describer::facts(const os::MapEntry& m) {
  const std::string key = m.name + (m.deleted ? "\001" : "") + std::to_string(m.ino);
  auto it = known_.find(key);
  if (it != known_.end()) return it->second;
  FileFacts f;
  struct stat st;
  // Overlay file systems show another device in maps than in stat; the inode number decides.
  if (!m.deleted && stat(m.name.c_str(), &st) == 0 && st.st_ino == m.ino) {
    f.same = S_ISREG(st.st_mode);
    f.device = S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode);
    f.bytes = static_cast<uint64_t>(st.st_size);
    f.mtime_ns = mtime_ns(st);
  }
  for (const os::MapEntry& o : maps_) {
    f.executable =
        f.executable || (o.name == m.name && o.ino == m.ino && (o.prot & PROT_EXEC) != 0);
  }
  known_[key] = f;
  return f;
}

// First address behind the mapped file's last page, found by trying: the file has no name to ask.
uint64_t Describer::end_of_readable(const os::MapEntry& m) const {
  uint64_t low = m.start, high = m.end;  // low: readable up to here
  char c;
  while (low < high) {
    const uint64_t mid = low + (high - low) / kPageSize / 2 * kPageSize;
    if (read_(mid, &c, 1)) {
      low = mid + kPageSize;
    } else {
      high = mid;
    }
  }
  return low;
}

void Describer::push(format::SegmentRecord s, uint32_t mode, uint64_t limit) {
  if (s.kind != format::kSegmentVvar && s.kind != format::kSegmentFileShared &&
      s.kind != format::kSegmentObject) {
    const uint32_t readable = (s.prot & PROT_READ) != 0 ? 1 : 0;
    plan_.ranges.push_back({s.start, s.end, mode, readable, limit, s.start, s.end, 0, 0});
  }
  model_.segments.push_back(s);
}

// What it shares is described with the object; what a private mapping does not share is in ranges.
void Describer::add_object(bool shared, int object, format::SegmentRecord s) {
  s.kind = shared ? format::kSegmentObject : format::kSegmentFile;
  // add_vm_flags() knows better.
  s.flags |= shared ? format::kSegmentMayWrite : format::kSegmentOfObject;
  s.file_bytes = static_cast<uint64_t>(object);
  push(s, format::kRangeFile, 0);
}

Trouble Describer::add_shared(const os::MapEntry& m, format::SegmentRecord s) {
  if (is_shared_anonymous(m)) {
    s.kind = format::kSegmentAnonShared;
    s.file = 0;
    s.file_off = 0;
    push(s, format::kRangeAll, may_be_swapped() ? 1 : 0);
    return {};
  }
  const FileFacts f = facts(m);
  if (!f.same) return refuse(m, "this kind of shared memory cannot be saved; unmap it");
  s.kind = format::kSegmentFileShared;
  s.file_bytes = f.bytes;
  s.file_mtime_ns = f.mtime_ns;
  push(s, 0, 0);
  return {};
}

Trouble Describer::add_file(const os::MapEntry& m, format::SegmentRecord s) {
  const FileFacts f = facts(m);
  if (f.device) {
    if (m.name == "/dev/zero") {
      s.kind = format::kSegmentAnon;
      s.file = 0;
      push(s, format::kRangeAnon, 0);
      return {};
    }
    if (m.name.starts_with("anon_inode:[io_uring]")) {
      return refuse(
          m,
          "the memory of an io_uring cannot be saved; run the program with crrun --plugin "
          "crplugin_io_uring.so");
    }
    return refuse(m, "device memory cannot be saved; unmap it before the checkpoint");
  }
  s.kind = format::kSegmentFile;
  s.file_bytes = f.bytes;
  s.file_mtime_ns = f.mtime_ns;
  if (!f.same) s.flags |= format::kSegmentDeleted;
  const bool embed = !f.same || f.executable || f.bytes <= kEmbedFileBytes;
  if (!embed) {
    push(s, format::kRangeFile, 0);
    return {};
  }
  s.flags |= format::kSegmentEmbedded;
  uint64_t limit = m.start;
  if (!f.same) {
    limit = end_of_readable(m);
  } else if (f.bytes > m.offset) {
    limit = std::min(m.end, m.start + page_ceil(f.bytes - m.offset));
  }
  push(s, format::kRangeEmbed, limit);
  return {};
}

Trouble Describer::add(const os::MapEntry& m, int object) {
  format::SegmentRecord s{};
  s.start = m.start;
  s.end = m.end;
  s.prot = static_cast<uint32_t>(m.prot);
  if (m.name == "[vsyscall]") return {};
  if (m.name == "[vdso]") {
    plan_.vdso_start = m.start;
    plan_.vdso_bytes = m.end - m.start;
    s.kind = format::kSegmentVdso;
    push(s, format::kRangeEmbed, m.end);
    return {};
  }
  if (m.name.starts_with("[vvar")) {
    if (plan_.vvar_bytes == 0) plan_.vvar_start = m.start;
    plan_.vvar_bytes = m.end - plan_.vvar_start;
    s.kind = format::kSegmentVvar;
    push(s, 0, 0);
    return {};
  }
  if (claims_mapping(model_, m.name)) {  // its place, and nothing in it
    s.kind = format::kSegmentAnon;
    model_.segments.push_back(s);
    return {};
  }
  if (m.ino != 0 || m.name.starts_with("/") || m.name.starts_with("anon_inode:")) {
    auto it = names_.find(m.name);
    if (it == names_.end()) it = names_.emplace(m.name, model_.add_string(m.name)).first;
    s.file = it->second;
    s.file_off = m.offset;
    s.dev = m.dev;
    s.ino = m.ino;
    if (object != kNoObject) {
      add_object(m.shared, object, s);
      return {};
    }
    return m.shared ? add_shared(m, s) : add_file(m, s);
  }
  if (m.shared) return refuse(m, "this kind of shared memory cannot be saved");
  s.kind = m.name == "[stack]" ? format::kSegmentStack : format::kSegmentAnon;
  push(s, format::kRangeAnon, 0);
  return {};
}

// Takes the excluded ranges out of the work; the segments stay, and read as zeros there.
// The mappings lie in the order of their addresses.
void Describer::cut(const std::vector<AddressRange>& without) {
  std::vector<format::Range> out;
  size_t hint = 0;
  for (const format::Range& r : plan_.ranges) {
    if (r.mode == format::kRangeEmbed) {
      out.push_back(r);
      continue;
    }
    split(
        without, r.start, r.end, &hint, [](uint64_t, uint64_t) {},
        [&](uint64_t start, uint64_t end) {
          out.push_back(r);
          out.back().start = start;
          out.back().end = end;
        });
  }
  plan_.ranges = std::move(out);
}

Trouble Describer::run(const AddressSet& without, const Leftover& leftover, OpenFiles& open) {
  std::vector<int> objects;
  Trouble bad = describe_objects(maps_, open, model_, &objects);
  if (bad.bad()) return bad;
  plan_.by_descriptors = open.was_asked();
  for (size_t i = 0; i < maps_.size(); i++) {
    const os::MapEntry& m = maps_[i];
    if (m.shared && m.name == std::string("/memfd:") + kChannelMemfdName) continue;
    if (m.start >= leftover.start && m.end <= leftover.start + leftover.bytes) continue;
    bad = add(m, objects[i]);
    if (bad.bad()) return bad;
  }
  cut(without.ranges());
  plan_.without = without;
  return {};
}

}  // namespace

Trouble describe_memory(const MemoryReader& read, const std::vector<os::MapEntry>& maps,
                        const AddressSet& without, const Leftover& leftover, OpenFiles open,
                        store::Model& model, MemoryPlan* ret_plan) {
  return Describer(read, maps, model, *ret_plan).run(without, leftover, open);
}

bool files_are_as_described(const store::Model& model) {
  uint64_t last_ino = 0, last_dev = 0;
  for (const format::SegmentRecord& s : model.segments) {
    const bool file = s.kind == format::kSegmentFile || s.kind == format::kSegmentFileShared;
    if (!file || (s.flags & (format::kSegmentDeleted | format::kSegmentOfObject)) != 0) continue;
    if (s.ino == last_ino && s.dev == last_dev) continue;  // its mappings lie side by side
    last_ino = s.ino;
    last_dev = s.dev;
    struct stat st;
    if (stat(model.strings.c_str() + s.file, &st) != 0 || st.st_ino != s.ino ||
        static_cast<uint64_t>(st.st_size) != s.file_bytes || mtime_ns(st) != s.file_mtime_ns) {
      return false;
    }
  }
  return true;
}

void add_vm_flags(const std::vector<os::MapEntry>& smaps, store::Model& model) {
  struct Row {
    const char* name;
    uint32_t flag;
  };
  static constexpr Row kRows[] = {
      {" dc ", format::kSegmentDontFork},  {" wf ", format::kSegmentWipeOnFork},
      {" dd ", format::kSegmentDontDump},  {" hg ", format::kSegmentHuge},
      {" nh ", format::kSegmentNoHuge},    {" lo ", format::kSegmentLocked},
      {" nr ", format::kSegmentNoReserve}, {" sr ", format::kSegmentSequential},
      {" rr ", format::kSegmentRandom},    {" mg ", format::kSegmentMergeable}};
  size_t i = 0;
  for (format::SegmentRecord& s : model.segments) {
    while (i < smaps.size() && smaps[i].start < s.start) i++;
    if (i == smaps.size()) return;
    // The program runs again: only what is still the same mapping counts.
    if (smaps[i].start != s.start || smaps[i].end != s.end) continue;
    for (const Row& r : kRows) {
      if (smaps[i].vm_flags.find(r.name) != std::string::npos) s.flags |= r.flag;
    }
    const bool shared = s.kind == format::kSegmentObject || s.kind == format::kSegmentFileShared;
    if (shared) {
      s.flags &= ~format::kSegmentMayWrite;
      if (smaps[i].vm_flags.find(" mw ") != std::string::npos) s.flags |= format::kSegmentMayWrite;
    }
    if (smaps[i].vm_flags.find(" gd ") != std::string::npos && s.kind == format::kSegmentAnon) {
      s.kind = format::kSegmentStack;
    }
  }
}

}  // namespace cr::agent
