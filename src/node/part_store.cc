// SPDX-License-Identifier: MIT
// part_store.cc - see part_store.h. Invariant: as there. Context: N.
#include "node/part_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "format/checksum.h"
#include "os/fault.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using format::PartEntry;
using format::PartHeader;
using format::Triple;

constexpr unsigned kMostLooks = 8;
// A transfer that was given up lets go of its part when all that its last job has left is gone.
constexpr uint64_t kHandOverNs = 500'000'000;
constexpr uint64_t kSpareRows = 65536;  // by which a session may grow while it is sent

// It was brought back elsewhere while its node could not be reached, and both runs go on.
constexpr Error kOvertaken{
    Errc::kAlready, 0,
    "a later run of this session has checkpoints here, which are not written over; end one of the "
    "two programs"};

// A thread that makes files for a user has that user's rights (requests.cc); the store is read with
// those of this process all the same.
class OwnRights {
 public:
  OwnRights() : before_(setfsuid(geteuid())) {}
  ~OwnRights() { setfsuid(static_cast<uid_t>(before_)); }
  OwnRights(const OwnRights&) = delete;
  OwnRights& operator=(const OwnRights&) = delete;

 private:
  const int before_;
};

struct CloseDir {
  void operator()(DIR* d) const { closedir(d); }
};

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, CloseDir> d(opendir(dir.c_str()));
  if (!d) return names;
  while (const dirent* e = readdir(d.get())) {
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) names.emplace_back(e->d_name);
  }
  std::ranges::sort(names);
  return names;
}

bool is_part_name(const std::string& name, unsigned* ret_holder) {
  unsigned buffer = 0;
  return sscanf(name.c_str(), "part.%2u.%1u", ret_holder, &buffer) == 2 && buffer <= 1 &&
         *ret_holder < format::kMostPartHolders &&
         name == store::part_path("", *ret_holder, static_cast<int>(buffer)).substr(1);
}

bool is_of(const store::LoadedPart& part, const SessionId& id, unsigned holder) {
  return part.view.header.holder == holder && session_id_of(part.view.header.session_id) == id;
}

// Each row takes some bytes of memory while its part is written, also one of zeros: a part may have
// so many that these take no more than an eighth of this machine's.
uint64_t most_rows_of_memory() {
  constexpr uint64_t kBytesOfRow = 32, kShare = 8;
  const long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || bytes <= 0) return uint64_t{1} << 24;
  return std::min(format::kMostPartRows, static_cast<uint64_t>(pages) *
                                             static_cast<uint64_t>(bytes) / kBytesOfRow / kShare);
}

bool has_layout(const store::LoadedPart& part, uint64_t layout) {
  const format::PartView& v = part.view;
  return layout_of(v.description_bytes, v.description.holders.size()) == layout;
}

PartEntry entry_of(const store::LoadedPart& part) {
  const PartHeader& h = part.view.header;
  PartEntry e{};
  memcpy(e.session_id, h.session_id, sizeof(e.session_id));
  e.triple = h.triple;
  e.realtime_ns = h.realtime_ns;
  e.kind = h.kind;
  e.data_parts = h.data_parts;
  e.parity_parts = h.parity_parts;
  e.holder = h.holder;
  e.slots = h.slots;
  e.rows = h.rows;
  e.description_bytes = h.description_bytes;
  e.image_bytes = h.image_bytes;
  struct stat st;
  if (fstat(part.fd.get(), &st) == 0) e.stored_bytes = static_cast<uint64_t>(st.st_blocks) * 512;
  e.uid = h.uid;
  memcpy(e.name, h.name, sizeof(e.name));
  memcpy(e.origin, h.origin, sizeof(e.origin));
  e.layout = layout_of(part.view.description_bytes, part.view.description.holders.size());
  return e;
}

Result<void> make_private_directory(const std::string& path) {
  auto made = store::make_directory(path);
  if (!made && made.error().sys_errno == EEXIST) return {};
  return made;
}

}  // namespace

uint64_t layout_of(std::span<const uint8_t> description, size_t holders) {
  return format::checksum(description.data(),
                          description.size() - holders * sizeof(format::HolderRecord));
}

SessionId session_id_of(const uint8_t (&bytes)[16]) {
  SessionId id;
  memcpy(id.data(), bytes, sizeof(bytes));
  return id;
}

std::string to_hex(const SessionId& id) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t b : id) {
    text += kDigits[b >> 4];
    text += kDigits[b & 15];
  }
  return text;
}

bool from_hex(const std::string& text, SessionId* ret) {
  if (text.size() != 2 * ret->size()) return false;
  SessionId id{};
  for (size_t i = 0; i < text.size(); i++) {
    const char c = text[i];
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
    id[i / 2] = static_cast<uint8_t>(id[i / 2] << 4 | (c <= '9' ? c - '0' : c - 'a' + 10));
  }
  *ret = id;
  return true;
}

bool operator==(const Triple& a, const Triple& b) {
  return a.epoch == b.epoch && a.sequence == b.sequence && a.attempt == b.attempt;
}

bool is_newer(const Triple& a, const Triple& b) {
  if (a.epoch != b.epoch) return a.epoch > b.epoch;
  return a.sequence != b.sequence ? a.sequence > b.sequence : a.attempt > b.attempt;
}

Result<std::unique_ptr<PartStore>> PartStore::open(const std::string& dir, bool durable,
                                                   std::string* ret_text) {
  const std::string sessions = dir + "/sessions";
  auto made = make_private_directory(dir);
  if (made) made = make_private_directory(sessions);
  if (!made) {
    const int e = made.error().sys_errno;
    *ret_text = dir + ": the store cannot be made: " + strerror(e) +
                "; make the directory above it, or name another with --store";
    return Error{Errc::kSystem, e, "making the store"};
  }
  if (durable) {
    auto synced = store::sync_parent(dir);
    if (synced) synced = store::sync_directory(dir);
    if (!synced) {
      *ret_text = dir + ": " + synced.error().what + ": " + strerror(synced.error().sys_errno) +
                  "; name another store with --store";
      return synced.error();
    }
  }
  struct stat st;
  if (stat(sessions.c_str(), &st) != 0 || st.st_uid != geteuid() || (st.st_mode & 022) != 0) {
    *ret_text = sessions +
                ": others may write there, or it belongs to another user; chmod 700, or " +
                "name another store with --store";
    return Error{Errc::kPermission, 0, "the store is not ours alone"};
  }
  return std::unique_ptr<PartStore>(new PartStore(dir, durable));
}

std::string PartStore::session_dir(const SessionId& id) const {
  return dir_ + "/sessions/" + to_hex(id);
}

std::vector<PartEntry> PartStore::list(const SessionId* only, std::vector<std::string>* ret_bad,
                                       const std::function<bool()>& wanted) const {
  const OwnRights rights;
  std::vector<std::string> sessions;
  if (only != nullptr) {
    sessions.push_back(to_hex(*only));
  } else {
    sessions = names_in(dir_ + "/sessions");
  }
  std::vector<PartEntry> all;
  std::set<std::string> seen;
  for (const std::string& session : sessions) {
    if (wanted && !wanted()) return all;
    const std::string dir = dir_ + "/sessions/" + session;
    std::vector<PartEntry> of_session;
    for (const std::string& name : names_in(dir)) {
      unsigned holder = 0;
      if (!is_part_name(name, &holder)) continue;
      const std::string path = dir + "/" + name;
      seen.insert(path);
      PartStamp stamp;
      if (const auto known = listing_.find(path, &stamp)) {
        of_session.push_back(*known);
        continue;
      }
      const store::PartState s = store::load_part(path);
      SessionId id;
      if (s.part && from_hex(session, &id) && is_of(*s.part, id, holder)) {
        of_session.push_back(entry_of(*s.part));
        if (memcmp(stamp.header.data(), &s.part->view.header, stamp.header.size()) == 0) {
          listing_.note(path, stamp, of_session.back());
        }
      } else if (ret_bad != nullptr && s.error.code != Errc::kNotWhole) {
        ret_bad->push_back(path + ": " + (s.part ? "it is another session's part" : s.error.what));
      }
    }
    std::ranges::sort(of_session, [](const PartEntry& a, const PartEntry& b) {
      return a.holder != b.holder ? a.holder < b.holder : is_newer(b.triple, a.triple);
    });
    all.insert(all.end(), of_session.begin(), of_session.end());
  }
  if (only == nullptr) listing_.keep_only(seen);
  return all;
}

Result<std::unique_ptr<store::LoadedPart>> PartStore::load(const SessionId& id, unsigned holder,
                                                           const Triple& triple,
                                                           uint64_t layout) const {
  const OwnRights rights;
  for (int buffer = 0; buffer < 2; buffer++) {
    store::PartState s = store::load_part(store::part_path(session_dir(id), holder, buffer));
    if (s.part && is_of(*s.part, id, holder) && s.part->view.header.triple == triple &&
        has_layout(*s.part, layout)) {
      return std::move(s.part);
    }
  }
  return Error{Errc::kNotFound, 0, "there is no such part here any more"};
}

std::vector<std::string> PartStore::holders_of(const SessionId& id) const {
  const OwnRights rights;
  const std::string dir = session_dir(id);
  std::vector<std::string> holders;
  Triple newest{};
  for (const std::string& name : names_in(dir)) {
    unsigned holder = 0;
    if (!is_part_name(name, &holder)) continue;
    const store::PartState s = store::load_part(dir + "/" + name);
    if (!s.part || !is_of(*s.part, id, holder)) continue;
    const Triple& triple = s.part->view.header.triple;
    if (!holders.empty() && !is_newer(triple, newest)) continue;
    newest = triple;
    holders.clear();
    for (const format::HolderRecord& r : s.part->view.description.holders) {
      holders.emplace_back(r.node, strnlen(r.node, sizeof(r.node)));
    }
  }
  return holders;
}

Result<void> PartStore::note_source(const SessionId& id, const std::string& dir) {
  const std::string own = session_dir(id), path = own + "/source", fresh = path + ".new";
  if (!make_private_directory(own)) {
    return Error{Errc::kSystem, errno, "making a session's directory in the store"};
  }
  const os::Fd fd(
      ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd || write(fd.get(), dir.data(), dir.size()) != static_cast<ssize_t>(dir.size()) ||
      rename(fresh.c_str(), path.c_str()) != 0) {
    return Error{Errc::kSystem, errno, "noting where a session is"};
  }
  return {};
}

std::string PartStore::source_of(const SessionId& id) const {
  auto text = os::read_file(session_dir(id) + "/source");
  return text ? *text : "";
}

Result<unsigned> PartStore::remove(const SessionId& id, uint32_t uid) {
  Triple newest{};
  for (const PartEntry& e : list(&id)) {
    if (uid != 0 && e.uid != uid) {
      return Error{Errc::kPermission, EPERM, "the session is another user's"};
    }
    if (is_newer(e.triple, newest)) newest = e.triple;
  }
  CR_TRYV(removed_.note(id, newest));
  const std::string dir = session_dir(id);
  {
    const std::lock_guard held(mutex_);
    synced_.erase(id);
    std::erase_if(newest_buffers_, [&](const auto& b) { return b.first.first == id; });
    std::erase_if(bad_buffers_, [&](const auto& b) { return b.first.first == id; });
  }
  unsigned files = 0;
  for (unsigned look = 1;; look++) {
    for (const std::string& name : names_in(dir)) {
      if (unlink((dir + "/" + name).c_str()) == 0) files++;
    }
    if (rmdir(dir.c_str()) == 0 || errno == ENOENT) break;
    // Another thread may have begun a part meanwhile.
    if (errno != ENOTEMPTY || look == kMostLooks) {
      return Error{Errc::kSystem, errno, "removing a session"};
    }
  }
  if (durable_ && files > 0) CR_TRYV(store::sync_directory(dir_ + "/sessions"));
  return files;
}

// What an earlier process left in the session's directory may not be on the disk yet, names least
// of all.
Result<void> PartStore::make_session(const SessionId& id) {
  const std::string dir = session_dir(id);
  if (auto made = make_private_directory(dir); !made) {
    return Error{Errc::kSystem, made.error().sys_errno,
                 "making a session's directory in the store"};
  }
  {
    const std::lock_guard held(mutex_);
    if (!durable_ || synced_.contains(id)) return {};
  }
  for (const std::string& name : names_in(dir)) CR_TRYV(store::sync_file(dir + "/" + name));
  CR_TRYV(store::sync_directory(dir));
  CR_TRYV(store::sync_directory(dir_ + "/sessions"));
  const std::lock_guard held(mutex_);
  synced_.insert(id);
  return {};
}

bool PartStore::begin_part(const SessionId& id, unsigned holder) {
  const std::lock_guard held(mutex_);
  return busy_.insert({id, holder}).second;
}

void PartStore::end_part(const SessionId& id, unsigned holder) {
  const std::lock_guard held(mutex_);
  busy_.erase({id, holder});
}

int PartStore::newest_buffer(const SessionId& id, unsigned holder) const {
  const std::lock_guard held(mutex_);
  const auto at = newest_buffers_.find({id, holder});
  return at != newest_buffers_.end() ? at->second : 0;
}

void PartStore::note_buffer(const SessionId& id, unsigned holder, int buffer) {
  const std::lock_guard held(mutex_);
  newest_buffers_[{id, holder}] = buffer;
  bad_buffers_.erase({{id, holder}, buffer});
}

void PartStore::note_bad_buffer(const SessionId& id, unsigned holder, int buffer) {
  const std::lock_guard held(mutex_);
  bad_buffers_.insert({{id, holder}, buffer});
}

bool PartStore::is_bad_buffer(const SessionId& id, unsigned holder, int buffer) const {
  const std::lock_guard held(mutex_);
  return bad_buffers_.contains({{id, holder}, buffer});
}

uint64_t chunk_digest(const format::PartChunk& chunk, std::span<const uint8_t> data) {
  const uint64_t rows = chunk.kind == format::kChunkOfRows ? chunk.rows : 0;
  const uint64_t bytes = rows * sizeof(format::RowRecord);
  return format::checksum(data.data(), rows > 0 && bytes <= data.size() ? bytes : data.size());
}

Result<void> verify_rows(std::span<const uint8_t> chunk, uint32_t rows) {
  const Error bad{Errc::kDamaged, 0, "a chunk of rows is not what was sent"};
  if (rows > format::kChunkRows || chunk.size() < format::kChunkPagesOff) return bad;
  uint64_t at = format::kChunkPagesOff;
  for (uint32_t i = 0; i < rows; i++) {
    format::RowRecord r;
    memcpy(&r, chunk.data() + i * sizeof(r), sizeof(r));
    if (r.check == 0) continue;
    if (chunk.size() - at < kPageSize || format::row_check(chunk.data() + at) != r.check)
      return bad;
    at += kPageSize;
  }
  return {};
}

PartReceiver::PartReceiver(PartStore& store, const format::PartOffer& offer)
    : store_(store), offer_(offer) {}

PartReceiver::~PartReceiver() { release(); }

void PartReceiver::release() {
  if (!released_) store_.end_part(id(), offer_.holder);
  released_ = true;
}

// What the offer says of the part's header.
PartHeader PartReceiver::header() const {
  PartHeader h{};
  memcpy(h.session_id, offer_.session_id, sizeof(h.session_id));
  h.kind = offer_.kind;
  h.data_parts = offer_.data_parts;
  h.parity_parts = offer_.parity_parts;
  h.holder = offer_.holder;
  h.uid = offer_.uid;
  memcpy(h.name, offer_.name, sizeof(h.name));
  memcpy(h.origin, offer_.origin, sizeof(h.origin));
  return h;
}

Result<PartCache::Part> PartCache::load(const PartStore& store, const SessionId& id,
                                        unsigned holder, const Triple& triple, uint64_t layout) {
  const std::pair key{id, holder};
  {
    const std::lock_guard held(mutex_);
    const auto at = std::ranges::find_if(entries_, [&](const Entry& e) {
      return e.key == key && e.layout == layout && e.part->view.header.triple == triple;
    });
    if (at != entries_.end()) {
      Entry found = std::move(*at);
      entries_.erase(at);
      const auto same = store::is_unchanged(*found.part);
      if (same && *same) {
        found.used_ns = rawsys::now_ns();
        entries_.push_back(found);
        return found.part;
      }
    }
  }
  auto loaded = store.load(id, holder, triple, layout);
  if (!loaded) return loaded.error();
  Part part = std::move(*loaded);
  const std::lock_guard held(mutex_);
  if (entries_.size() == kMost) entries_.erase(entries_.begin());
  entries_.push_back({key, layout, rawsys::now_ns(), part});
  return part;
}

void PartCache::forget_before(uint64_t ns) {
  const std::lock_guard held(mutex_);
  std::erase_if(entries_, [ns](const Entry& e) { return e.used_ns < ns; });
}

Result<void> read_current_rows(const store::LoadedPart& part, uint64_t first, uint64_t count,
                               uint8_t* ret, uint64_t* ret_row) {
  const auto all_good = store::read_rows(part, first, count, ret, ret_row);
  // Another thread may have begun to write the next checkpoint's rows there.
  CR_TRY(const bool unchanged, store::is_unchanged(part));
  if (!unchanged) return Error{Errc::kNotFound, 0, "a newer checkpoint was written over it"};
  if (!all_good) return all_good.error();
  return {};
}

// The new part goes where neither its base lies nor what is to be kept; if these are two, it has no
// base. If both buffers hold that checkpoint the one that was written last stays: so two transfers
// without a base renew both (Replicator::rewrite()).
Result<int> PartReceiver::choose_buffer(store::PartState (&old)[2]) {
  const auto holds = [&](int b, const Triple& t, uint64_t layout) {
    return old[b].part && !is_none(t) && old[b].part->view.header.triple == t &&
           has_layout(*old[b].part, layout);
  };
  const auto fits = [&](int b) {
    const PartHeader& h = old[b].part->view.header;
    return h.kind == offer_.kind && h.data_parts == offer_.data_parts &&
           h.parity_parts == offer_.parity_parts && is_of(*old[b].part, id(), offer_.holder);
  };
  const int first = store_.newest_buffer(id(), offer_.holder);
  const uint64_t known = std::max(offer_.triple.epoch, offer_.newest.epoch);
  int kept = -1, based = -1;
  for (const int b : {first, 1 - first}) {
    // It may be what is to be kept, and cannot be read only now.
    if (old[b].exists && old[b].error.code == Errc::kSystem) return old[b].error;
    if (old[b].part && offer_.uid != 0 && old[b].part->view.header.uid != offer_.uid) {
      return Error{Errc::kPermission, EPERM, "the session is another user's"};
    }
    if (old[b].part && old[b].part->view.header.triple.epoch > known) return kOvertaken;
    if (kept < 0 && holds(b, offer_.keep, offer_.keep_layout)) kept = b;
  }
  for (const int b : {first, 1 - first}) {
    if (based < 0 && holds(b, offer_.base, offer_.base_layout) && fits(b) &&
        (kept < 0 || holds(b, offer_.keep, offer_.keep_layout)))
      based = b;
  }
  if (based >= 0) {
    base_ = std::move(old[based].part);
    return 1 - based;
  }
  if (kept >= 0) return 1 - kept;
  if (!old[0].part || !old[1].part) return old[0].part ? 1 : 0;
  return is_newer(old[0].part->view.header.triple, old[1].part->view.header.triple) ? 1 : 0;
}

Result<std::unique_ptr<PartReceiver>> PartReceiver::begin(PartStore& store,
                                                          const format::PartOffer& offer) {
  const uint64_t begin_ns = rawsys::now_ns();
  while (!store.begin_part(session_id_of(offer.session_id), offer.holder)) {
    if (rawsys::now_ns() - begin_ns > kHandOverNs) {
      return Error{Errc::kBusy, EBUSY, "the part is being taken in already"};
    }
    poll(nullptr, 0, 1);
  }
  std::unique_ptr<PartReceiver> r(new PartReceiver(store, offer));
  CR_TRYV(format::check_part_numbers(r->header()));
  const uint64_t possible = most_rows_of_memory();
  if (offer.rows > possible) {
    return Error{Errc::kNoMemory, ENOMEM, "the part has too many rows for this node's memory"};
  }
  CR_TRYV(store.removed_.forget(r->id()));
  CR_TRYV(store.make_session(r->id()));
  const std::string dir = store.session_dir(r->id());
  store::PartState old[2];
  for (int b = 0; b < 2; b++) old[b] = store::load_part(store::part_path(dir, offer.holder, b));
  CR_TRY(r->buffer_, r->choose_buffer(old));
  if (store.is_bad_buffer(r->id(), offer.holder, 1 - r->buffer_)) r->base_.reset();
  const uint64_t base_rows = r->base_ ? r->base_->view.header.rows : 0;
  r->most_rows_ = std::min(possible, 2 * std::max(offer.rows, base_rows) + kSpareRows);
  CR_TRY(r->writer_, store::PartWriter::open(store::part_path(dir, offer.holder, r->buffer_),
                                             store.durable(), r->base_.get(), &old[r->buffer_]));
  return r;
}

Result<void> PartReceiver::add_rows(std::span<const uint8_t> chunk, uint32_t rows) {
  writing_ = true;
  const Error bad{Errc::kDamaged, 0, "a chunk of rows breaks the rules"};
  if (rows > format::kChunkRows || chunk.size() < format::kChunkPagesOff) return bad;
  uint64_t at = format::kChunkPagesOff, least = 0;
  for (uint32_t i = 0; i < rows; i++) {
    format::RowRecord r;
    memcpy(&r, chunk.data() + i * sizeof(r), sizeof(r));
    if (r.row < least || r.row >= most_rows_) return bad;
    least = r.row + 1;
    rows_taken_++;
    if (r.check == 0) {
      CR_TRYV(writer_->put(r.row, 0, nullptr));
      continue;
    }
    if (chunk.size() - at < kPageSize) return bad;
    CR_TRYV(writer_->put(r.row, r.check, chunk.data() + at));
    at += kPageSize;
  }
  return writer_->flush();
}

Result<void> PartReceiver::finish_rows() {
  if (!writing_) return {};
  CR_TRYV(writer_->drain());
  writing_ = false;
  if (const int e = os::fault_error(os::FaultPoint::kPartReceived)) {
    return Error{Errc::kSystem, e, "writing a part"};
  }
  return {};
}

Result<void> PartReceiver::take_in(const format::PartChunk& chunk, std::span<const uint8_t> bytes) {
  if (chunk.kind != format::kChunkOfRows) return add_description(chunk.off, bytes);
  CR_TRYV(verify_rows(bytes, chunk.rows));
  CR_TRYV(add_rows(bytes, chunk.rows));
  return finish_rows();
}

Result<void> PartReceiver::add_description(uint64_t off, std::span<const uint8_t> bytes) {
  if (off > description_.size() || off + bytes.size() > format::kMostDescriptionBytes) {
    return Error{Errc::kDamaged, 0, "a chunk of the description breaks the rules"};
  }
  description_.resize(off);
  description_.insert(description_.end(), bytes.begin(), bytes.end());
  return {};
}

Result<void> PartReceiver::commit(const format::PartCommit& c) {
  CR_TRYV(finish_rows());
  const Error bad{Errc::kDamaged, 0, "a commit breaks the rules"};
  if (c.rows > most_rows_ || description_.size() != c.description_bytes || description_.empty() ||
      is_none(c.triple)) {
    return bad;
  }
  if (c.sent_rows != rows_taken_) {
    return Error{Errc::kDamaged, 0, "rows of the part were sent that have not come"};
  }
  PartHeader h = header();
  h.triple = c.triple;
  h.realtime_ns = c.realtime_ns;
  h.slots = c.slots;
  h.rows = c.rows;
  h.description_bytes = c.description_bytes;
  h.image_bytes = c.image_bytes;
  CR_TRYV(format::check_part_numbers(h));
  std::vector<uint64_t> aligned((description_.size() + 7) / 8);
  memcpy(aligned.data(), description_.data(), description_.size());
  const std::span<const uint8_t> bytes{reinterpret_cast<const uint8_t*>(aligned.data()),
                                       description_.size()};
  auto d = format::read_description(bytes, c.slots);
  if (!d) return d.error();
  if (d->holders.size() != h.data_parts + h.parity_parts) return bad;
  if (auto done = writer_->commit(h, bytes); !done) {
    if (writer_->has_bad_base()) store_.note_bad_buffer(id(), offer_.holder, 1 - buffer_);
    return done;
  }
  store_.note_buffer(id(), offer_.holder, buffer_);
  release();
  return {};
}

}  // namespace cr::node
