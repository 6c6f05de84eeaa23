// SPDX-License-Identifier: MIT
// rollback.cc - see rollback.h; the order of things, memory and descriptors. Threads and signals
// are in rollback_threads.cc.
// Invariant: as there. Context: N (agent).
#include "agent/rollback.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "agent/furnish.h"
#include "agent/outer_terminal.h"
#include "agent/semaphores.h"
#include "agent/traits.h"
#include "format/mm_map.h"
#include "os/fault.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr uint64_t kTimeoutNs = 60ull * 1000000000;

std::string errno_text(long error) { return strerror(static_cast<int>(-error)); }

}  // namespace

// ---- scratch memory in the channel ------------------------------------------------------------

uint64_t Rollback::put(const void* data, uint64_t bytes) {
  const uint64_t at = s_.runs_off_ + used_;
  const uint64_t room = (bytes + 15) & ~15ull;
  if (room > s_.channel_map_.size() - at) {
    full_ = true;
    return s_.runs_off_;
  }
  memcpy(s_.channel_map_.data() + at, data, bytes);
  used_ += room;
  return at;
}

uint64_t Rollback::put_calls(const Calls& calls) {
  std::vector<uint8_t> bytes(sizeof(format::CallList) + calls.size() * sizeof(format::Call));
  const format::CallList head{0, 0, calls.size()};
  memcpy(bytes.data(), &head, sizeof(head));
  if (!calls.empty()) {
    memcpy(bytes.data() + sizeof(head), calls.data(), calls.size() * sizeof(format::Call));
  }
  return put(bytes.data(), bytes.size());
}

format::CallList* Rollback::list_at(uint64_t offset) const {
  return reinterpret_cast<format::CallList*>(s_.channel_map_.data() + offset);
}

format::Call* Rollback::calls_at(uint64_t offset) const {
  return reinterpret_cast<format::Call*>(list_at(offset) + 1);
}

std::string Rollback::control_calls(uint64_t list) {
  if (list_at(list)->count == 0) return "";
  s_.channel()->arg0 = list;
  const Trouble bad = s_.command(format::kCommandCalls, kTimeoutNs, world_.get());
  if (!bad.bad()) return "";
  const uint32_t failed = list_at(list)->failed;
  if (failed == 0) return bad.text;
  const format::Call& c = calls_at(list)[failed - 1];
  char at[80];
  snprintf(at, sizeof(at), "system call %lu at 0x%lx: ", static_cast<unsigned long>(c.nr),
           static_cast<unsigned long>(c.args[0]));
  return at + errno_text(c.result);
}

// ---- finding out ------------------------------------------------------------------------------

// Only the buffer that this session wrote or restored last can be the newest.
std::string Rollback::load() {
  if (s_.newest_ < 0) return "no checkpoint has been taken yet";
  store::BufferState b = store::load_buffer(s_.options_.dir, s_.newest_);
  if (b.image == nullptr || b.image->view.super.sequence != s_.sequence_ ||
      (b.image->view.process->flags & format::kProcessHeapOnly) != 0) {
    return "the newest checkpoint is not whole";
  }
  image_ = std::move(b.image);
  epoch_ = std::max(s_.epoch_, image_->view.super.epoch) + 1;
  pagemap_ = os::Fd(
      open(os::task_path(s_.pid_, s_.control_tid_, "pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap_) return std::string("pagemap: ") + strerror(errno);
  return "";
}

// State of the process that is not put back here.
std::string Rollback::check_process_state() {
  std::string status;
  Trouble bad = s_.check_process(/*childless=*/false, &status);
  if (bad.bad()) return bad.text;
  const format::ImageView& v = image_->view;
  const std::string task = os::task_path(s_.pid_, s_.control_tid_, "");
  auto cwd = os::read_link(task + "cwd");
  if (!cwd || *cwd != v.string(v.process->cwd)) return "the working directory was changed";
  auto exe = os::read_link(task + "exe");
  if (!exe || *exe != v.string(v.process->program)) return "another program runs";
  return "";
}

std::string Rollback::plan_mm() {
  const format::MmRecord& mm = image_->view.process->mm;
  Calls open;
  for (const MemoryChange::MappedFile& f : memory_.files) {
    const uint64_t path = put(f.path.c_str(), f.path.size() + 1);
    open.push_back({__NR_openat,
                    {static_cast<uint64_t>(AT_FDCWD), address(path), O_RDONLY | O_CLOEXEC},
                    -1,
                    0,
                    0});
  }
  if (s_.channel()->process.brk != mm.brk) {
    const format::MmMap map = format::mm_map(mm, 0, 0);
    const uint64_t at = put(&map, sizeof(map));
    open.push_back({__NR_prctl, {PR_SET_MM, PR_SET_MM_MAP, address(at), sizeof(map), 0}, 0, 0, 0});
  }
  list_open_ = put_calls(open);
  return "";
}

std::string Rollback::find_out() {
  std::string why = check_process_state();
  if (!why.empty()) return why;
  const pid_t tid = world_->threads()[0].tid;
  auto maps = os::parse_maps(os::read_or_empty(os::task_path(s_.pid_, tid, "maps")));
  if (!maps) return "the memory map cannot be read";
  maps_ = std::move(*maps);
  const Trouble bad = s_.command(format::kCommandDescribe, kTimeoutNs, world_.get());
  if (bad.bad()) return bad.text;
  channel_address_ = s_.channel()->reports_addr - offsetof(format::ChannelHeader, reports);

  const format::Hello& h = s_.hello_;
  without_ = s_.pages_.last_without().ranges();
  settle_lazy_free();
  const uint64_t lazy = lazy_free_count();
  memory_now_.reset(
      new MemoryNow{maps_,
                    image_->view,
                    s_.pid_,
                    tid,
                    s_.mem_.get(),
                    pagemap_.get(),
                    image_->fd.get(),
                    s_.leftover_,
                    s_.pages_.is_whole() && s_.back_end() == format::kTrackerUserfaultfd,
                    without_,
                    s_.pages_.last_file_parts(),
                    lazy == ~0ull || lazy != s_.last_lazy_free_,
                    h.control_stack_top - format::kControlStackBytes,
                    h.control_stack_top,
                    {h.library_start, h.library_end}});
  if (!image_->view.plugins.empty()) return "a plug-in is registered";
  why = match_threads();
  if (why.empty()) {
    why = traits_changed(*world_, s_.pid_, s_.control_tid_, s_.channel()->process, image_->view);
  }
  if (why.empty()) why = find_memory_change(*memory_now_, &memory_);
  if (why.empty()) {
    why = find_file_change(image_->view, s_.pid_, tid, s_.pidfd_.get(), &files_);
  }
  if (why.empty()) why = find_changed_files(image_->view, s_.options_.dir, s_.files_, &journal_);
  if (why.empty()) {
    why = find_object_change({maps_, image_->view, s_.pid_, tid, s_.pidfd_.get()}, &objects_);
  }
  if (why.empty()) why = missing_semaphores(image_->view);
  if (why.empty()) why = plan_posix_timers();
  if (why.empty()) why = plan_signals();
  if (why.empty()) why = verify_change(*memory_now_, memory_);
  if (why.empty()) why = try_forced_write(*memory_now_, memory_);
  if (why.empty()) why = plan_mm();
  if (why.empty()) plan_process();
  if (why.empty() && full_) why = "too much has changed for the shared tables";
  return why;
}

// ---- preparing --------------------------------------------------------------------------------

// Files that were closed since get high numbers; they are put into their places later.
std::string Rollback::reopen_files() {
  for (FileChange::Reopen& r : files_.reopen) {
    uint64_t list = put_recipe(r.recipe);
    if (full_) return "too much has changed for the shared tables";
    fill_in_ids(list);
    carrier_used_ = true;
    std::string why = thread_calls(*thread(carrier_), list);
    if (!why.empty()) return why;
    const auto low = static_cast<uint64_t>(calls_at(list)->result);
    const auto from = static_cast<uint64_t>(files_.free_number);
    list = put_calls({{__NR_fcntl, {low, F_DUPFD_CLOEXEC, from}, -1, format::kCallMayFail, 0},
                      {__NR_close, {low}, 0, format::kCallMayFail, 0}});
    if (full_) return "too much has changed for the shared tables";
    why = thread_calls(*thread(carrier_), list);
    if (!why.empty()) return why;
    r.number = static_cast<int>(calls_at(list)->result);
    if (r.number < 0) return "no descriptor is free";
  }
  return "";
}

std::string Rollback::prepare() {
  std::string why = reopen_files();
  if (!why.empty()) return why;
  why = control_calls(list_open_);
  if (!why.empty()) return why;
  format::Call* memory = calls_at(list_first_) + (first_.size() - memory_.calls.size());
  for (size_t i = 0; i < memory_.files.size(); i++) {
    const auto fd = static_cast<uint64_t>(calls_at(list_open_)[i].result);
    for (const size_t call : memory_.files[i].calls) memory[call].args[4] = fd;
  }
  Calls carrier, end = memory_.after;
  end.insert(end.end(), last_.begin(), last_.end());
  for (size_t i = 0; i < memory_.files.size(); i++) {
    end.push_back({__NR_close, {static_cast<uint64_t>(calls_at(list_open_)[i].result)}, 0, 1, 0});
  }
  list_end_ = put_calls(end);
  using What = FileChange::What;
  const auto number = [](int fd) { return static_cast<uint64_t>(fd); };
  struct flock none {};
  none.l_type = F_UNLCK;
  const uint64_t unlock = address(put(&none, sizeof(none)));
  constexpr uint32_t kMay = format::kCallMayFail;
  for (const int fd : files_.unlock) {
    constexpr uint64_t kLockUn = 8, kOfdSetlk = 37;
    carrier.push_back({__NR_flock, {number(fd), kLockUn}, 0, kMay, 0});
    carrier.push_back({__NR_fcntl, {number(fd), F_SETLK, unlock}, 0, kMay, 0});
    carrier.push_back({__NR_fcntl, {number(fd), kOfdSetlk, unlock}, 0, kMay, 0});
    carrier.push_back({__NR_fcntl, {number(fd), F_SETLEASE, F_UNLCK}, 0, kMay, 0});
  }
  for (const FileChange::Place& p : files_.place) {
    const int source = p.source >= 0 ? p.source : files_.reopen[p.reopen].number;
    carrier.push_back(
        {__NR_dup3, {number(source), number(p.fd), p.cloexec ? O_CLOEXEC : 0ull}, 0, 0, 0});
  }
  for (const FileChange::Reopen& r : files_.reopen) {
    carrier.push_back({__NR_close, {number(r.number)}, 0, kMay, 0});
  }
  for (const int fd : files_.close) carrier.push_back({__NR_close, {number(fd)}, 0, kMay, 0});
  for (const FileChange::Set& f : files_.set) {
    const uint64_t fd = number(f.fd);
    switch (f.what) {
      case What::kSize:
        carrier.push_back({__NR_ftruncate, {fd, f.value}, 0, 0, 0});
        break;
      case What::kPosition:
        carrier.push_back({__NR_lseek, {fd, f.value, SEEK_SET}, 0, 0, 0});
        break;
      case What::kFlags:
        carrier.push_back({__NR_fcntl, {fd, F_SETFL, f.value}, 0, 0, 0});
        break;
      case What::kCloseOnExec:
        carrier.push_back({__NR_fcntl, {fd, F_SETFD, f.value != 0 ? 1ull : 0ull}, 0, 0, 0});
        break;
      case What::kNoOwner:
        carrier.push_back({__NR_fcntl, {fd, F_SETOWN, 0}, 0, 0, 0});
        carrier.push_back({__NR_fcntl, {fd, F_SETSIG, 0}, 0, 0, 0});
        break;
    }
  }
  list_carrier_ = put_calls(carrier);
  furnish_process(image_->view, /*make=*/false, recipes_);
  list_early_ = put_recipe(recipes_.early);
  list_late_ = put_recipe(recipes_.late);
  return full_ ? "too much has changed for the shared tables" : "";
}

// The program shall not notice that anything was prepared.
void Rollback::take_back() {
  Calls close;
  for (size_t i = 0; list_open_ != 0 && i < memory_.files.size(); i++) {
    const format::Call& c = calls_at(list_open_)[i];
    if (c.result >= 0) close.push_back({__NR_close, {static_cast<uint64_t>(c.result)}, 0, 1, 0});
  }
  used_ = 0;
  full_ = false;
  if (!close.empty()) (void)control_calls(put_calls(close));
  Thread* t = carrier_ != 0 ? thread(carrier_) : nullptr;
  if (!carrier_used_ || t == nullptr) return;
  Calls theirs;
  for (const FileChange::Reopen& r : files_.reopen) {
    if (r.number >= 0) {
      theirs.push_back({__NR_close, {static_cast<uint64_t>(r.number)}, 0, 1, 0});
    }
  }
  used_ = 0;
  if (!theirs.empty()) (void)thread_calls(*t, put_calls(theirs));
  (void)set_thread(*t, t->regs, t->sigmask);
}

// ---- carrying out -----------------------------------------------------------------------------

// Where the program had one mapping it shall have one again.
std::string Rollback::join_pieces() {
  if (memory_.pieces.empty()) return "";
  auto maps = os::parse_maps(os::read_or_empty(os::task_path(s_.pid_, s_.control_tid_, "maps")));
  if (!maps) return "the memory map cannot be read";
  maps_ = std::move(*maps);
  MemoryChange whole;
  find_pieces(*memory_now_, memory_, &whole);
  resolve_tracking(whole);
  for (const MemoryChange::MappedFile& f : whole.files) {
    const auto opened = std::ranges::find(memory_.files, f.path, &MemoryChange::MappedFile::path);
    const auto i = static_cast<size_t>(opened - memory_.files.begin());
    for (const size_t call : f.calls) {
      whole.calls[call].args[4] = static_cast<uint64_t>(calls_at(list_open_)[i].result);
    }
  }
  const uint64_t list = put_calls(whole.calls);
  list_after_ = put_calls(whole.after);
  if (full_) {  // it stays in pieces
    full_ = false;
    list_after_ = 0;
    return "";
  }
  memory_.fills.insert(memory_.fills.end(), whole.fills.begin(), whole.fills.end());
  memory_.compare.insert(memory_.compare.end(), whole.compare.begin(), whole.compare.end());
  return control_calls(list);
}

// While the control thread stands still on its stack, everything else of memory is written.
std::string Rollback::put_memory_back() {
  std::string why = control_calls(list_first_);
  if (why.empty()) why = join_pieces();
  if (!why.empty()) return why;
  os::fault_point(os::FaultPoint::kRollbackMapped);
  format::ChannelHeader* c = s_.channel();
  c->rollback = format::kRollbackNone;
  c->arg0 = epoch_;
  c->command = format::kCommandRollback;
  const uint32_t seq = __atomic_add_fetch(&c->command_seq, 1, __ATOMIC_ACQ_REL);
  __atomic_add_fetch(&c->doorbell, 1, __ATOMIC_ACQ_REL);
  rawsys::sys_futex(&c->doorbell, FUTEX_WAKE, 0x7fffffff);
  const uint64_t deadline = rawsys::now_ns() + kTimeoutNs;
  auto wait = [&](const uint32_t* word, uint32_t wanted) {
    for (;;) {
      const uint32_t now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
      if (now == wanted) return true;
      if (rawsys::now_ns() > deadline || s_.control_is_gone()) return false;
      timespec slice{0, 20000000};
      const long r = rawsys::sys_futex(word, FUTEX_WAIT, now, &slice);
      if (r == -ETIMEDOUT) world_->keep_control_running();
    }
  };
  if (!wait(&c->rollback, format::kRollbackHeld)) return "the control thread does not answer";
  why = fill_memory(*memory_now_, memory_);
  if (why.empty()) why = put_objects_back(objects_);
  if (!why.empty()) return why;
  for (const format::OverlayRecord& o : image_->view.overlays) {
    const auto b = image_->view.blob(o.bytes);
    if (!world_->write_memory(o.addr, b.data(), b.size())) return "writing memory";
  }
  for (const Pair& p : threads_) {
    const format::ThreadRecord& r = *p.record;
    constexpr uint64_t kCsOff = 8, kBehindCs = 16;
    if (p.rseq.size() > kBehindCs &&
        (!world_->write_memory(r.rseq_addr, p.rseq.data(), kCsOff) ||
         !world_->write_memory(r.rseq_addr + kBehindCs, p.rseq.data() + kBehindCs,
                               p.rseq.size() - kBehindCs))) {
      return "writing memory";
    }
  }
  __atomic_store_n(&c->rollback, uint32_t{format::kRollbackFilled}, __ATOMIC_RELEASE);
  rawsys::sys_futex(&c->rollback, FUTEX_WAKE, 0x7fffffff);
  return wait(&c->done_seq, seq) ? "" : "the control thread does not answer";
}

std::string Rollback::put_files_back() {
  PutBack done;
  const Trouble bad = agent::put_files_back(s_.options_.dir, journal_, /*only_look=*/false, &done);
  if (bad.bad()) return bad.text;
  if (list_at(list_carrier_)->count != 0) {
    std::string why = thread_calls(*thread(carrier_), list_carrier_);
    if (!why.empty()) return why;
  }
  std::string why = put_contents_back(files_);
  return why.empty() ? put_modes_back(image_->view, s_.pidfd_.get()) : why;
}

// As the restorer: lowering always works; a hard limit that is lower here than it was stays so.
void Rollback::put_limits_back() {
  for (int i = 0; i < 16; i++) {
    const format::RlimitRecord& want = image_->view.process->rlimits[i];
    const auto which = static_cast<__rlimit_resource>(i);
    rlimit now{};
    if (prlimit(s_.pid_, which, nullptr, &now) != 0 ||
        (now.rlim_cur == want.soft && now.rlim_max == want.hard)) {
      continue;
    }
    rlimit set{want.soft, want.hard};
    if (prlimit(s_.pid_, which, &set, nullptr) == 0) continue;
    set.rlim_max = std::min<rlim_t>(want.hard, now.rlim_max);
    set.rlim_cur = std::min<rlim_t>(want.soft, set.rlim_max);
    prlimit(s_.pid_, which, &set, nullptr);
  }
}

std::string Rollback::carry_out() {
  std::string why = end_threads();
  if (why.empty()) why = put_memory_back();
  os::fault_point(os::FaultPoint::kRollbackFilled);
  if (why.empty()) why = put_files_back();
  for (size_t i = 0; why.empty() && i < threads_.size(); i++) {
    if (threads_[i].tid == 0) why = make_thread(threads_[i]);
  }
  if (why.empty()) {
    why = set_semaphores(image_->view, nullptr, [](const std::function<void()>&) {}).text;
  }
  if (why.empty()) why = furnish();
  for (size_t i = 0; why.empty() && i < threads_.size(); i++) why = settle_thread(threads_[i]);
  if (!why.empty()) return why;
  put_limits_back();
  // What was asked for since has not been asked for.
  char message[4096];
  while (recv(s_.control_.get(), message, sizeof(message), MSG_DONTWAIT) > 0) {
  }
  if (list_after_ != 0) why = control_calls(list_after_);
  return why.empty() ? control_calls(list_end_) : why;
}

Rollback::Outcome Rollback::run(std::string* ret_text) {
  const uint64_t begin = rawsys::now_ns();
  *ret_text = load();
  if (!ret_text->empty()) return Outcome::kRefused;
  s_.finish_stop();
  world_ = std::make_unique<World>(s_.pid_, s_.control_tid_, s_.hello_, s_.pidfd_.get(),
                                   s_.mem_.get(), s_.channel(), s_.unfinished_);
  s_.prepare(*world_);
  const Trouble bad = world_->stop();
  *ret_text = bad.bad() ? bad.text : find_out();
  if (ret_text->empty()) {
    *ret_text = prepare();
    if (!ret_text->empty()) take_back();
  }
  if (!ret_text->empty()) {
    world_->resume();
    s_.last_resume_ns_ = rawsys::now_ns();
    s_.died_ = s_.died_ || world_->died(&s_.died_status_);
    return Outcome::kRefused;
  }
  os::fault_point(os::FaultPoint::kRollbackPlanned);
  for (const Thread& t : world_->threads()) {
    rawsys::sys(__NR_ptrace, PTRACE_SETOPTIONS, t.tid, 0, PTRACE_O_EXITKILL);
  }
  *ret_text = carry_out();
  // Their calls are those of the checkpoint now.
  for (Thread& t : world_->threads()) t.settled = true;
  const bool done = ret_text->empty();
  os::fault_point(os::FaultPoint::kRollbackDone);
  if (done) {  // the program may look as soon as it runs
    s_.files_.rolled_back(image_->view.super);
    s_.epoch_ = epoch_;
    s_.rollbacks_++;
    s_.rollbacks_in_place_++;
    s_.rollback_ns_ = rawsys::now_ns() - begin;
    s_.publish("");
  } else {
    kill(s_.pid_, SIGKILL);
  }
  world_->resume();
  s_.last_resume_ns_ = rawsys::now_ns();
  s_.died_ = s_.died_ || world_->died(&s_.died_status_);
  return done ? Outcome::kDone : Outcome::kHalf;
}

// CR_ROLLBACK=exec: for comparison, and where this should be at fault.
Trouble Session::roll_back(bool* ret_in_place) {
  *ret_in_place = false;
  const char* how = getenv("CR_ROLLBACK");
  if ((how != nullptr && strcmp(how, "exec") == 0) || getenv("CR_NO_PAGEMAP_SCAN") != nullptr) {
    rollback_reason_ = "the environment of the agent forbids it (CR_ROLLBACK, CR_NO_PAGEMAP_SCAN)";
    return {};
  }
  rollback_reason_.clear();
  switch (Rollback(*this).run(&rollback_reason_)) {
    case Rollback::Outcome::kRefused:
      return {};
    case Rollback::Outcome::kHalf:
      return trouble(Errc::kSystem, EIO,
                     "restore() failed half-way and the program had to be killed: " +
                         rollback_reason_ + "; its checkpoint " + std::to_string(sequence_) +
                         " is whole: crrestore " + options_.dir);
    case Rollback::Outcome::kDone:
      break;
  }
  if (back_end() != format::kTrackerUserfaultfd) pages_.forget();
  *ret_in_place = true;
  return {};
}

}  // namespace cr::agent
