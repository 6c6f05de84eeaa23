// SPDX-License-Identifier: MIT
// flusher.cc - see flusher.h. Invariant: as there. Context: N.
#include "node/flusher.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "format/part_reader.h"
#include "node/disk_words.h"
#include "store/superblock.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint64_t kPagesOfStep = 512;
constexpr uint64_t kSlotsOfStep = uint64_t{1} << 20;
constexpr unsigned kFramesOfStep = 2;
constexpr uint64_t kSecond = 1'000'000'000, kLeastRetryNs = kSecond / 4,
                   kMostRetryNs = 60 * kSecond;
constexpr uint64_t kBusyRetryNs = kSecond / 20;
constexpr unsigned kMostPasses = 1000, kMostBusy = 100;
// Pages that were overwritten stay in the file as waste, which must not become more than that.
constexpr uint64_t kMostWasteTimes = 3, kMostWasteBytes = uint64_t{256} << 20;

Triple triple_of(const SuperBlock& s) { return {s.epoch, s.sequence, s.attempt}; }

// The newest checkpoint as the superblocks say; kNotWhole: none. Cheaper than SessionImage::open().
Result<SuperBlock> newest_of(const std::string& dir) {
  SuperBlock best{};
  Error why{Errc::kNotWhole, 0, "there is no whole checkpoint yet"};
  for (int i = 0; i < 2; i++) {
    const auto super = store::read_super(dir, i);
    if (!super) {
      const Error& e = super.error();
      // That the other buffer is not there yet is no trouble.
      const bool missing = e.sys_errno == ENOENT && access(dir.c_str(), F_OK) == 0;
      if (e.code == Errc::kSystem && !missing) why = e;
      continue;
    }
    if (is_newer(triple_of(*super), triple_of(best))) best = *super;
  }
  if (is_none(triple_of(best))) return why;
  return best;
}

bool is_gone(const Error& e) {
  return e.code == Errc::kNotFound ||
         (e.code == Errc::kSystem && (e.sys_errno == ENOENT || e.sys_errno == ENOTDIR));
}

// That is so until the session writes another image.
bool is_unreadable(const Error& e) {
  return is_gone(e) || e.code == Errc::kDamaged || e.code == Errc::kForeign ||
         e.code == Errc::kTooNew || e.code == Errc::kWrongMachine || e.code == Errc::kPermission;
}

}  // namespace

Result<std::unique_ptr<Flusher>> Flusher::make(FlushedSession session, FlushOptions options,
                                               std::shared_ptr<store::RateLimit> rate,
                                               std::function<void(const std::string&)> log,
                                               std::string* ret_text) {
  for (const std::string* dir : {&options.dir, &session.dir}) {
    if (dir->starts_with('/')) continue;
    *ret_text = "'" + *dir + "' is no absolute path; give the directory from / on";
    return Error{Errc::kInvalid, 0, "a directory is not given by an absolute path"};
  }
  // As they are in the file's header: what goes on with it later finds the same folder.
  session.name.resize(std::min(session.name.size(), kPartNameBytes - 1));
  options.node.resize(std::min(options.node.size(), kPartNameBytes - 1));
  return std::unique_ptr<Flusher>(
      new Flusher(std::move(session), std::move(options), std::move(rate), std::move(log)));
}

Flusher::Flusher(FlushedSession session, FlushOptions options,
                 std::shared_ptr<store::RateLimit> rate,
                 std::function<void(const std::string&)> log)
    : session_(std::move(session)),
      options_(std::move(options)),
      log_(std::move(log)),
      folder_(flush_directory(options_.dir, session_.name, session_.id)),
      temporary_(folder_ + "/" + flush_temporary(options_.node)),
      rate_(rate ? std::move(rate) : std::make_shared<store::RateLimit>(0)) {}

void Flusher::wake() {
  wanted_ = true;
  poll_ns_ = 0;
}

void Flusher::request(uint64_t number) {
  wanted_ = requested_ = true;
  learned_ = false;  // somebody may have removed it
  poll_ns_ = 0;
  if (phase_ == Phase::kIdle) retry_ns_ = 0;
  requests_ = number;
}

void Flusher::choose_by(uint64_t every, uint64_t period_ns) {
  options_.every = every;
  options_.period_ns = period_ns;
}

void Flusher::move_to(FlushedSession session) {
  session_.dir = std::move(session.dir);
  session_.protection = session.protection;
  session_.uid = session.uid;
}

void Flusher::tell(const std::string& trouble) {
  if (trouble != status_.trouble && !trouble.empty()) {
    log_("session " + session_.name + ": flush: " + trouble);
  }
  status_.trouble = trouble;
}

void Flusher::answer(uint64_t requests, const std::string& text) {
  if (requests == status_.answered) return;
  status_.answered = requests;
  status_.answer = text;
}

void Flusher::account(uint64_t now_ns) {
  if (!writer_) return;
  const uint64_t bytes = writer_->take_traffic();
  status_.traffic_bytes += bytes;
  rate_->spend(now_ns, bytes);
}

void Flusher::end_work() {
  writer_.reset();
  image_.reset();
  content_ = SlotContent();
  seen_.clear();
  map_ = store::SlotMap();
  phase_ = Phase::kIdle;
  status_.current = Triple{};
}

// What was written stays, and the next try goes on with it; but not where room is short, which
// others need as well.
void Flusher::give_up(uint64_t now_ns, const std::string& why) {
  account(now_ns);
  end_work();
  owed_ = true;
  learned_ = is_folder_durable_ = requested_ = false;
  retry_ns_ = now_ns + std::min(kMostRetryNs, kLeastRetryNs << std::min(failures_, 8u));
  failures_++;
  tell(why + "; it is tried again");
  answer(requests_, status_.trouble);
}

void Flusher::fail(uint64_t now_ns, const std::string& path, const Error& e) {
  const bool is_full = e.code == Errc::kSystem && (e.sys_errno == ENOSPC || e.sys_errno == EDQUOT);
  if (is_full && writer_) writer_->discard();
  const std::string next =
      e.code == Errc::kSystem ? std::string("; ") + next_step(e.sys_errno) : std::string();
  give_up(now_ns, path + ": " + words_of(e) + next);
}

// There is nothing that it could be finished with.
void Flusher::abandon(const std::string& why) {
  const bool was_owed = owed_ || requested_;
  if (writer_) {
    writer_->discard();
  } else if (was_owed) {
    (void)store::remove_file(temporary_);
  }
  end_work();
  wanted_ = owed_ = requested_ = false;
  busy_ = 0;
  if (was_owed) tell(why);
  answer(requests_, why);
}

bool Flusher::is_due(const Triple& now, uint64_t now_ns) {
  if (now.epoch != first_.epoch) first_ = now;
  if (!is_newer(now, status_.newest)) return false;
  if (requested_) return true;
  if (options_.every > 0) {
    // An image that was restored may be older than what was flushed last.
    const uint64_t before =
        status_.newest.sequence <= now.sequence ? status_.newest.sequence : first_.sequence - 1;
    if (now.sequence / options_.every > before / options_.every) return true;
  }
  if (options_.period_ns == 0) return false;
  if (!has_begun_ || now_ns - begun_ns_ >= options_.period_ns) return true;
  poll_ns_ = begun_ns_ + options_.period_ns;
  return false;
}

// Is there something to be flushed?
void Flusher::choose(uint64_t now_ns) {
  const auto super = newest_of(session_.dir);
  if (!super) {
    const std::string text = session_.dir + ": " + words_of(super.error());
    if (is_gone(super.error())) {
      return abandon(text + "; the session's image is gone, and nothing more of it is flushed");
    }
    if (owed_) return fail(now_ns, session_.dir, super.error());
    // The first one is being written; it wakes.
    wanted_ = requested_ = false;
    return answer(requests_, text);
  }
  const Triple now = triple_of(*super);
  if (auto done = learn(); !done) {
    const bool no_dir = done.error().sys_errno == ENOENT;
    const std::string& at = no_dir ? options_.dir : folder_;
    if (owed_ || is_due(now, now_ns)) return fail(now_ns, at, done.error());
    wanted_ = poll_ns_ > now_ns;
    return;
  }
  if (is_due(now, now_ns) || (owed_ && is_newer(now, status_.newest))) {
    status_.current = now;
    return begin(now_ns);
  }
  if (owed_ || requested_) {  // it is there already
    (void)store::remove_file(temporary_);
    failures_ = 0;
    tell("");
  }
  owed_ = requested_ = false;
  wanted_ = poll_ns_ > now_ns;
  answer(requests_, "");
}

// What is there from earlier runs. Before anything is told of it it is made durable, as they may
// not have cared.
Result<void> Flusher::learn() {
  if (learned_) return {};
  struct stat st;
  if (stat(options_.dir.c_str(), &st) != 0) return Error{Errc::kSystem, errno, "looking into it"};
  std::vector<FlushedFile> all = list_folder(folder_, nullptr);
  std::erase_if(all, [&](const FlushedFile& f) { return f.id != session_.id; });
  const FlushedFile newest = all.empty() ? FlushedFile() : all[0];
  // Who knows its number may not put something else in its place.
  if (!all.empty() && newest.uid != session_.uid) {
    return Error{Errc::kPermission, 0, "another user's session of that number is there"};
  }
  if (options_.durable && !all.empty()) {
    CR_TRYV(store::sync_file(newest.path));
    CR_TRYV(store::sync_directory(folder_));
    CR_TRYV(sync_folder_name());
  }
  if (!(status_.newest == newest.triple)) status_.flushed_ns = 0;
  status_.newest = newest.triple;
  status_.path = newest.path;
  learned_ = true;
  return {};
}

Result<void> Flusher::sync_folder_name() {
  if (!options_.durable || is_folder_durable_) return {};
  CR_TRYV(store::sync_directory(options_.dir));
  is_folder_durable_ = true;
  return {};
}

Result<void> Flusher::make_folder() {
  auto made = store::make_directory(folder_);
  if (!made && made.error().sys_errno != EEXIST) return made;
  if (made) is_folder_durable_ = false;
  const os::Fd fd(open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat st;
  if (!fd || fstat(fd.get(), &st) != 0) return Error{Errc::kSystem, errno, "opening it"};
  if (!is_trusted_owner(options_.dir, st.st_uid) || (st.st_mode & 022) != 0) {
    return Error{Errc::kPermission, 0,
                 "others may write there; move it away, or make it this user's own (chmod 700)"};
  }
  return sync_folder_name();
}

// Is there room for the whole file? So that not hours are spent before that is noticed, and nobody
// else runs out of room meanwhile. What is compressed may need less.
bool Flusher::has_room(uint64_t now_ns) {
  struct statvfs fs;
  struct stat st;
  if (options_.compress || statvfs(options_.dir.c_str(), &fs) != 0 || fs.f_blocks == 0) return true;
  const uint64_t free = uint64_t{fs.f_bavail} * fs.f_frsize;
  const uint64_t there =
      stat(temporary_.c_str(), &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
  if (there + free >= status_.total_bytes) return true;
  give_up(now_ns, options_.dir + ": " + std::to_string(status_.total_bytes >> 20) +
                      " MiB are needed and " + std::to_string(free >> 20) + " MiB are free; " +
                      next_step(ENOSPC));
  return false;
}

// The checkpoint that is now the newest. METADATA of the other buffer is not needed.
Result<void> Flusher::look() {
  CR_TRY(image_, SessionImage::open(session_.dir));
  if (session_id_of(image_->super().session_id) != session_.id) {
    return Error{Errc::kNotFound, 0, "the image directory is another session's now"};
  }
  if (image_->uid() != session_.uid) {
    return Error{Errc::kPermission, 0, "the images belong to another user than the session"};
  }
  image_->place(seen_, map_, &content_);
  for (const VolumeExtent& e : map_.extents()) {
    if (image_->volumes()[e.volume].kind != kVolumeOther) continue;
    std::fill_n(content_.checks.begin() + static_cast<ptrdiff_t>(e.slot), e.pages, 0);
  }
  status_.current = image_->triple();
  status_.total_bytes = 0;
  for (const uint64_t check : content_.checks) status_.total_bytes += check != 0 ? kPageSize : 0;
  slot_ = 0;
  overtaken_ = false;
  return {};
}

// false: nothing was begun.
bool Flusher::begin_look(uint64_t now_ns) {
  seen_.clear();
  map_ = store::SlotMap();
  passes_ = 0;
  const auto seen = look();
  owed_ = true;
  if (seen) {
    busy_ = 0;
    return true;
  }
  if (is_unreadable(seen.error())) {
    abandon(session_.dir + ": " + words_of(seen.error()) + "; nothing of it is flushed");
  } else if (seen.error().code == Errc::kBusy && ++busy_ < kMostBusy) {
    end_work();
    retry_ns_ = now_ns + kBusyRetryNs;
  } else {
    fail(now_ns, session_.dir, seen.error());
  }
  return false;
}

void Flusher::begin(uint64_t now_ns) {
  if (!begin_look(now_ns) || !has_room(now_ns)) return;
  if (auto made = make_folder(); !made) {
    const bool no_dir = made.error().sys_errno == ENOENT;
    return fail(now_ns, no_dir ? options_.dir : folder_, made.error());
  }
  FlushWriter::Start start;
  start.session = session_;
  start.node = options_.node;
  start.triple = image_->triple();
  start.durable = options_.durable;
  start.compress = options_.compress;
  auto writer = FlushWriter::open(temporary_, start);
  if (!writer) return fail(now_ns, temporary_, writer.error());
  writer_ = std::move(*writer);
  wanted_ = requested_ = false;
  begun_requests_ = requests_;
  has_begun_ = true;
  begun_ns_ = now_ns;
  phase_ = Phase::kRecall;
}

void Flusher::recall(uint64_t now_ns) {
  for (unsigned i = 0; i < kFramesOfStep; i++) {
    const auto more = writer_->recall(map_.slots());
    if (!more) return fail(now_ns, temporary_, more.error());
    if (*more) continue;
    phase_ = Phase::kCopy;
    if (!image_->is_current()) look_again(now_ns);
    return;
  }
}

// After an error that says no more than that it was looked at the wrong moment, soon again.
void Flusher::look_again(uint64_t now_ns) {
  const auto seen = look();
  if (seen) return;
  if (is_unreadable(seen.error())) {
    return abandon(session_.dir + ": " + words_of(seen.error()) +
                   "; it could not be flushed to the end");
  }
  if (seen.error().code != Errc::kBusy) return fail(now_ns, session_.dir, seen.error());
  overtaken_ = true;
  slot_ = content_.checks.size();
  retry_ns_ = now_ns + kBusyRetryNs;
}

void Flusher::copy(uint64_t now_ns) {
  uint64_t pages = 0;
  const uint64_t slots = content_.checks.size();
  const uint64_t stop = slots - slot_ < kSlotsOfStep ? slots : slot_ + kSlotsOfStep;
  for (; slot_ < stop && pages < kPagesOfStep; slot_++) {
    const uint64_t check = content_.checks[slot_];
    if (check == 0 || writer_->has(slot_, check)) continue;
    const auto room = writer_->room(slot_);
    if (!room) return fail(now_ns, temporary_, room.error());
    const auto same = image_->read(content_.where[slot_], check, *room);
    if (!same) return fail(now_ns, session_.dir, same.error());
    pages++;
    if (!*same) {
      overtaken_ = true;
      continue;
    }
    if (auto added = writer_->add(slot_, check); !added) {
      return fail(now_ns, temporary_, added.error());
    }
  }
  status_.done_bytes = std::min(status_.total_bytes, slot_ * kPageSize);
  if (slot_ == slots) end_pass(now_ns);
}

// What was overwritten before it was read is read again, from the checkpoint that did it.
void Flusher::end_pass(uint64_t now_ns) {
  if (!overtaken_) return begin_tail(now_ns);
  const uint64_t most = kMostWasteTimes * status_.total_bytes + kMostWasteBytes;
  if (++passes_ >= kMostPasses || writer_->file_bytes() > most) {
    writer_->discard();
    return give_up(now_ns, session_.dir +
                               ": its checkpoints follow each other faster than they "
                               "can be copied; take fewer, or raise the bandwidth");
  }
  look_again(now_ns);
}

std::vector<uint8_t> Flusher::describe() const {
  std::vector<VolumeExtent> extents;
  for (const VolumeExtent& e : map_.extents()) {
    if (image_->volumes()[e.volume].kind != kVolumeOther) extents.push_back(e);
  }
  return description_of(image_->volumes(), extents, {});
}

void Flusher::begin_tail(uint64_t now_ns) {
  FlushWriter::Whole whole;
  whole.triple = image_->triple();
  whole.realtime_ns = image_->super().realtime_ns;
  whole.image_bytes = image_->image_bytes();
  auto begun = writer_->begin_tail(whole, describe(), content_.checks);
  if (!begun) return fail(now_ns, temporary_, begun.error());
  phase_ = Phase::kTail;
}

void Flusher::commit(uint64_t now_ns) {
  const Triple now = image_->triple();
  const std::string path = folder_ + "/" + flush_name(now);
  if (const auto old = read_flushed(path); old && old->id != session_.id) {
    return give_up(now_ns, path + ": a checkpoint of another session is there; move it away");
  }
  if (auto done = writer_->commit(path); !done) return fail(now_ns, path, done.error());
  account(now_ns);
  end_work();
  status_.newest = now;
  status_.path = path;
  status_.flushed_ns = now_ns;
  status_.flushes++;
  owed_ = false;
  failures_ = 0;
  retry_ns_ = 0;
  tell("");
  answer(begun_requests_, "");
  remove_old();
}

// Also what other nodes, where the session was earlier, will not finish. Files that are not whole
// are left alone: whoever looks at them may want to know.
void Flusher::remove_old() {
  remove_stale(folder_, session_.id, status_.newest.epoch);
  if (options_.keep.keeps_all()) return;
  std::vector<FlushedFile> own = list_folder(folder_, nullptr);
  std::erase_if(own, [&](const FlushedFile& f) { return f.id != session_.id; });
  std::vector<uint64_t> times;
  for (const FlushedFile& f : own) times.push_back(f.realtime_ns);
  const std::vector<bool> keep = kept(options_.keep, times);
  for (size_t i = 0; i < own.size(); i++) {
    if (keep[i] || own[i].path == status_.path) continue;
    if (auto done = store::remove_file(own[i].path); !done) {
      return tell(own[i].path + ": " + words_of(done.error()) + "; remove it by hand");
    }
  }
}

void Flusher::write_tail(uint64_t now_ns) {
  const auto more = writer_->write_tail();
  if (!more) return fail(now_ns, temporary_, more.error());
  if (!*more) phase_ = Phase::kCommit;
}

void Flusher::work(uint64_t now_ns) {
  switch (phase_) {
    case Phase::kIdle:
      return choose(now_ns);
    case Phase::kRecall:
      return recall(now_ns);
    case Phase::kCopy:
      return copy(now_ns);
    case Phase::kTail:
      return write_tail(now_ns);
    case Phase::kCommit:
      return commit(now_ns);
  }
}

bool Flusher::step(uint64_t now_ns) {
  if (now_ns < next_ns()) return false;
  work(now_ns);
  account(now_ns);
  return now_ns >= next_ns();
}

uint64_t Flusher::next_ns() const {
  if (phase_ != Phase::kIdle) return std::max(rate_->free_ns(), retry_ns_);
  if (owed_) return retry_ns_;
  if (wanted_) return poll_ns_;
  return ~uint64_t{0};
}

bool was_overtaken(const FlushedSession& session, const FlushOptions& options) {
  const auto own = newest_of(session.dir);
  if (!own) return false;
  return std::ranges::any_of(
      list_folder(flush_directory(options.dir, session.name, session.id), nullptr),
      [&](const FlushedFile& f) {
        return f.id == session.id && f.node != options.node && f.triple.epoch >= own->epoch &&
               f.realtime_ns > own->realtime_ns;
      });
}

}  // namespace cr::node
