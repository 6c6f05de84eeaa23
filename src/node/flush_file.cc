// SPDX-License-Identifier: MIT
// flush_file.cc - see flush_file.h. Invariant: as there. Context: N.
#include "node/flush_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "node/disk_words.h"
#include "store/file.h"
#include "store/slot_map.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint64_t kMostPageBytes = kMostFramePages * kPageSize;
constexpr size_t kMostNameBytes = 100;  // of a session or a node, within a file's name
constexpr size_t kNumberDigits = 8;     // of a session's number, within its folder's name
constexpr char kSuffix[] = ".flush", kTemporary[] = ".new";

std::string safe_name(const std::string& name) {
  std::string safe = name.substr(0, kMostNameBytes);
  for (char& c : safe) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      strchr("._+-", c) != nullptr;
    if (!good || c == '\0') c = '_';
  }
  if (safe.empty() || safe[0] == '.') safe.insert(0, "_");
  return safe;
}

struct CloseDir {
  void operator()(DIR* d) const { closedir(d); }
};

// Is the folder another user's, who flushes to the same directory?
bool is_of_another(const std::string& folder) {
  struct stat st;
  return geteuid() != 0 && stat(folder.c_str(), &st) == 0 && st.st_uid != geteuid();
}

// What is in a session's folder; one that is not there has nothing.
std::vector<std::string> names_in(const std::string& folder, std::vector<std::string>* ret_bad) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, CloseDir> d(opendir(folder.c_str()));
  if (!d && errno != ENOENT && errno != ENOTDIR && ret_bad != nullptr) {
    const int e = errno;
    if (e != EACCES || !is_of_another(folder)) ret_bad->push_back(folder + ": " + strerror(e));
  }
  while (const dirent* e = d ? readdir(d.get()) : nullptr) {
    if (e->d_name[0] != '.') names.emplace_back(e->d_name);
  }
  std::ranges::sort(names);
  return names;
}

// The first bytes of a file and its size.
struct Beginning {
  os::Fd fd;
  uint64_t file_bytes = 0;
  std::vector<uint8_t> bytes;
};
Result<Beginning> read_beginning(const std::string& path) {
  Beginning b;
  struct stat st;
  CR_TRY(b.fd, open_trusted(path, O_RDONLY, &st));
  b.file_bytes = static_cast<uint64_t>(st.st_size);
  b.bytes.resize(kFlushFramesOff);
  CR_TRYV(read_at(b.fd.get(), b.bytes.data(), std::min(kFlushFramesOff, b.file_bytes), 0));
  return b;
}

store::Protection protection_of(const FlushHeader& h) {
  return {static_cast<store::Protection::Kind>(h.kind), h.data_parts, h.parity_parts};
}

FlushedFile describe(const std::string& path, const FlushHeader& h, uint64_t file_bytes) {
  FlushedFile f;
  f.path = path;
  f.name = h.name;
  f.node = h.node;
  f.id = session_id_of(h.session_id);
  f.triple = h.triple;
  f.realtime_ns = h.realtime_ns;
  f.image_bytes = h.image_bytes;
  f.file_bytes = file_bytes;
  f.uid = h.uid;
  f.protection = protection_of(h);
  f.compressed = (h.flags & kFlushHasZstd) != 0;
  return f;
}

const char* next_step(Errc code) {
  switch (code) {
    case Errc::kNotWhole:
      return "; use another checkpoint of the session";
    case Errc::kForeign:
      return "; name a file that ends in .flush";
    case Errc::kTooNew:
      return "; use the version of crstored that wrote it, or a later one";
    case Errc::kWrongMachine:
      return "; use a machine like the one that wrote it";
    case Errc::kPermission:
      return "; make it this user's own (chown, chmod 600) if it can be trusted";
    case Errc::kDamaged:
      return "; use another checkpoint of the session, and check the file system";
    case Errc::kSystem:
      return "; see that it is a file which crstored may read, and that its disk is in order";
    default:
      return "";
  }
}

// The table of slots is kept in memory: it may take an eighth of this machine's.
uint64_t most_tail_bytes() {
  constexpr uint64_t kShare = 8;
  const long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || bytes <= 0) return uint64_t{1} << 30;
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(bytes) / kShare;
}

}  // namespace

std::string folder_of(const std::string& path) { return path.substr(0, path.find_last_of('/')); }

std::string explain_flush(const std::string& path, const Error& e, const std::string& what) {
  const bool missing = e.code == Errc::kSystem && e.sys_errno == ENOENT;
  return path + ": " + (what.empty() ? words_of(e) : what) +
         (missing ? "; list what is there, or mount the file system" : next_step(e.code));
}

std::string flush_directory(const std::string& dir, const std::string& name, const SessionId& id) {
  return dir + "/" + safe_name(name) + "-" + to_hex(id).substr(0, kNumberDigits);
}

std::string flush_name(const Triple& t) {
  return std::to_string(t.epoch) + "." + std::to_string(t.sequence) + kSuffix;
}

std::string flush_temporary(const std::string& node) {
  return (node.empty() ? "flush" : safe_name(node)) + kTemporary;
}

Result<FlushedFile> read_flushed(const std::string& path) {
  CR_TRY(const Beginning b, read_beginning(path));
  CR_TRY(const FlushHeader h, read_flush_header(b.bytes.data(), b.file_bytes));
  return describe(path, h, b.file_bytes);
}

bool is_trusted_owner(const std::string& dir, uid_t owner) {
  const uid_t own = geteuid();
  if (owner == own || owner == 0) return true;
  struct stat st;
  return own == 0 && stat(dir.c_str(), &st) == 0 && st.st_uid == owner;
}

Result<os::Fd> open_trusted(const std::string& path, int flags, struct stat* ret_stat) {
  // What looks like a file may be a pipe, which is not waited for.
  CR_TRY(os::Fd fd, os::open_file(path, flags | O_NOFOLLOW | O_NONBLOCK));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return Error{Errc::kSystem, errno, "fstat"};
  if (!S_ISREG(st.st_mode)) return Error{Errc::kForeign, 0, "it is not a regular file"};
  if (!is_trusted_owner(folder_of(folder_of(path)), st.st_uid)) {
    return Error{Errc::kPermission, 0, "it belongs to another user"};
  }
  if ((st.st_mode & 022) != 0) return Error{Errc::kPermission, 0, "others may write it"};
  *ret_stat = st;
  return fd;
}

Result<void> read_at(int fd, void* to, uint64_t bytes, uint64_t off) {
  auto* at = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    const ssize_t n = pread(fd, at, bytes, static_cast<off_t>(off));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{Errc::kSystem, errno, "reading"};
    if (n == 0) return Error{Errc::kDamaged, 0, "the file ends too early"};
    at += n;
    bytes -= static_cast<uint64_t>(n);
    off += static_cast<uint64_t>(n);
  }
  return {};
}

Result<void> decode_frame(const FlushFrame& f, const uint8_t* stored, uint8_t* pages) {
  const uint64_t bytes = f.pages * kPageSize;
  if (f.encoding == kFlushRaw) {
    memcpy(pages, stored, bytes);
    return {};
  }
  if (ZSTD_decompress(pages, bytes, stored, f.stored_bytes) != bytes) {
    return Error{Errc::kDamaged, 0, "a frame cannot be decompressed"};
  }
  return {};
}

Result<std::unique_ptr<FlushFile>> FlushFile::open(const std::string& path) {
  CR_TRY(Beginning b, read_beginning(path));
  auto file = std::make_unique<FlushFile>();
  CR_TRY(file->header_, read_flush_header(b.bytes.data(), b.file_bytes));
  const FlushHeader& h = file->header_;
  file->fd_ = std::move(b.fd);
  const uint64_t bytes = flush_tail_bytes(h);
  if (bytes > most_tail_bytes()) {
    return Error{Errc::kNoMemory, 0, "this machine has too little memory for its table of slots"};
  }
  file->tail_bytes_.resize((bytes + 7) / 8);
  CR_TRYV(read_at(file->fd_.get(), file->tail_bytes_.data(), bytes, h.frames_end));
  CR_TRY(file->tail_,
         read_flush_tail(h, {reinterpret_cast<const uint8_t*>(file->tail_bytes_.data()), bytes}));
  store::SlotMap map;
  CR_TRYV(map.adopt(file->tail_.description.extents, h.slots));
  file->live_.resize(h.frames);
  for (const uint32_t place : file->tail_.places) {
    if (place == kFlushNoFrame) continue;
    file->live_[place]++;
    file->named_++;
  }
  file->stored_.resize(sizeof(FlushFrame) + kMostPageBytes);
  file->pages_.resize(kMostPageBytes);
  return file;
}

Result<void> FlushFile::load(uint64_t number) {
  if (number == loaded_) return {};
  loaded_ = ~uint64_t{0};
  const FlushFrameRecord& r = tail_.frames[number];
  CR_TRYV(read_at(fd_.get(), stored_.data(), r.bytes, r.off));
  CR_TRY(frame_, read_flush_frame(stored_.data(), r.bytes, number));
  if (flush_frame_bytes(frame_) != r.bytes || !is_frame_good(frame_, stored_.data())) {
    return Error{Errc::kDamaged, 0, "a frame's checksum is wrong"};
  }
  CR_TRYV(decode_frame(frame_, stored_.data() + sizeof(FlushFrame), pages_.data()));
  loaded_ = number;
  return {};
}

Result<void> FlushFile::read(uint64_t slot, uint8_t* page, std::string* ret_text) {
  const uint32_t place = tail_.places[slot];
  if (place == kFlushNoFrame) {
    memset(page, 0, kPageSize);
    return {};
  }
  CR_TRYV(load(place));
  uint64_t before = 0;
  for (uint32_t i = 0; i < frame_.run_count; i++) {
    const FlushRun& r = frame_.runs[i];
    if (slot >= r.slot && slot < r.slot + r.pages) {
      memcpy(page, pages_.data() + (before + slot - r.slot) * kPageSize, kPageSize);
      if (row_check(page) == tail_.checks[slot]) return {};
      *ret_text = "the page of slot " + std::to_string(slot) + " has another checksum";
      return Error{Errc::kDamaged, 0, "a page is not what the table of slots says"};
    }
    before += r.pages;
  }
  return Error{Errc::kDamaged, 0, "a slot is not in its frame"};
}

// Of the frame that is loaded.
Result<void> FlushFile::live_pages(std::vector<SlotPages>* ret, std::string* ret_text) {
  const uint8_t* page = pages_.data();
  for (uint32_t i = 0; i < frame_.run_count; i++) {
    const FlushRun& run = frame_.runs[i];
    SlotPages* last = nullptr;
    for (uint64_t slot = run.slot; slot < run.slot + run.pages; slot++, page += kPageSize) {
      if (slot >= tail_.places.size() || tail_.places[slot] != loaded_) {
        last = nullptr;
        continue;
      }
      if (row_check(page) != tail_.checks[slot]) {
        *ret_text = "the page of slot " + std::to_string(slot) + " has another checksum";
        return Error{Errc::kDamaged, 0, "a page is not what the table of slots says"};
      }
      delivered_++;
      if (last != nullptr) {
        last->pages++;
        continue;
      }
      ret->push_back({slot, 1, page});
      last = &ret->back();
    }
  }
  return {};
}

Result<std::vector<SlotPages>> FlushFile::next(std::string* ret_text) {
  std::vector<SlotPages> batch;
  while (batch.empty() && next_ < header_.frames) {
    if (live_[next_] > 0 || read_all_) {
      CR_TRYV(load(next_));
      CR_TRYV(live_pages(&batch, ret_text));
    }
    next_++;
  }
  if (batch.empty() && delivered_ != named_) {
    return Error{Errc::kDamaged, 0, "a slot is not in its frame"};
  }
  return batch;
}

std::vector<FlushedFile> list_folder(const std::string& folder, std::vector<std::string>* ret_bad) {
  std::vector<FlushedFile> all;
  for (const std::string& name : names_in(folder, ret_bad)) {
    if (!name.ends_with(kSuffix)) continue;
    const std::string path = folder + "/" + name;
    auto f = read_flushed(path);
    if (f) {
      all.push_back(std::move(*f));
    } else if (ret_bad != nullptr) {
      ret_bad->push_back(explain_flush(path, f.error()));
    }
  }
  std::ranges::stable_sort(all, [](const FlushedFile& a, const FlushedFile& b) {
    return std::tie(a.name, a.id) != std::tie(b.name, b.id)
               ? std::tie(a.name, a.id) < std::tie(b.name, b.id)
               : is_newer(a.triple, b.triple);
  });
  return all;
}

std::vector<FlushedFile> list_flushed(const std::string& dir, std::vector<std::string>* ret_bad) {
  std::vector<FlushedFile> all;
  if (access(dir.c_str(), R_OK | X_OK) != 0 && ret_bad != nullptr) {
    ret_bad->push_back(dir + ": " + strerror(errno) + "; mount the file system, or make it");
  }
  for (const std::string& name : names_in(dir, nullptr)) {
    for (FlushedFile& f : list_folder(dir + "/" + name, ret_bad)) all.push_back(std::move(f));
  }
  return all;
}

namespace {

Result<void> remove_one(const std::string& path, unsigned* files, std::string* ret_text) {
  if (auto removed = store::remove_file(path); !removed) {
    *ret_text = path + ": " + words_of(removed.error()) + "; remove it by hand";
    return removed.error();
  }
  ++*files;
  return {};
}

// What a node is writing, or was: the epoch is that of the checkpoint that was begun.
Result<FlushHeader> read_unfinished(const std::string& path) {
  CR_TRY(const Beginning b, read_beginning(path));
  return read_flush_begin(b.bytes.data(), b.file_bytes);
}

}  // namespace

Result<unsigned> remove_flushed(const std::string& folder, const SessionId& id,
                                std::string* ret_text) {
  unsigned files = 0;
  for (const FlushedFile& f : list_folder(folder, nullptr)) {
    if (f.id == id) CR_TRYV(remove_one(f.path, &files, ret_text));
  }
  for (const std::string& n : names_in(folder, nullptr)) {
    if (!n.ends_with(kTemporary)) continue;
    const auto h = read_unfinished(folder + "/" + n);
    if (!h || session_id_of(h->session_id) != id) continue;
    CR_TRYV(remove_one(folder + "/" + n, &files, ret_text));
  }
  (void)rmdir(folder.c_str());
  return files;
}

void remove_stale(const std::string& folder, const SessionId& id, uint64_t epoch) {
  for (const std::string& n : names_in(folder, nullptr)) {
    if (!n.ends_with(kTemporary)) continue;
    const auto h = read_unfinished(folder + "/" + n);
    if (!h || session_id_of(h->session_id) != id || h->triple.epoch >= epoch) continue;
    (void)store::remove_file(folder + "/" + n);
  }
}

Result<FlushedFile> verify_flush(const std::string& path, std::string* ret_text,
                                 const OnMakeProgress& progress,
                                 const std::function<bool()>& wanted) {
  const auto fail = [&](const Error& e, const std::string& what) {
    *ret_text = explain_flush(path, e, what);
    return e;
  };
  auto file = FlushFile::open(path);
  if (!file) return fail(file.error(), "");
  (*file)->read_all();
  std::string what;
  WantedSource source(**file, wanted);
  auto checked = check_image_of(source, progress, &what);
  if (!checked) return fail(checked.error(), what);
  auto flushed = read_flushed(path);
  if (!flushed) return fail(flushed.error(), "");
  return flushed;
}

namespace {

// By a crstored that lives; FlushWriter holds the lock.
bool is_being_written(const std::string& path) {
  struct stat st;
  auto fd = open_trusted(path, O_RDWR, &st);
  return fd && flock(fd->get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

}  // namespace

std::vector<UnfinishedFlush> unfinished_flushes(const std::string& dir, const std::string& node) {
  std::vector<UnfinishedFlush> all;
  for (const std::string& name : names_in(dir, nullptr)) {
    UnfinishedFlush u;
    u.path = dir + "/" + name + "/" + flush_temporary(node);
    const auto b = read_beginning(u.path);
    if (!b) continue;
    const auto h = read_flush_begin(b->bytes.data(), b->file_bytes);
    if (!h || node != h->node || is_being_written(u.path)) continue;
    u.session = {session_id_of(h->session_id), h->name, flush_source(b->bytes.data()),
                 protection_of(*h), h->uid};
    if (u.session.dir.starts_with('/')) all.push_back(std::move(u));
  }
  return all;
}

}  // namespace cr::node
