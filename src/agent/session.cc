// SPDX-License-Identifier: MIT
// session.cc - making and ending a session: directory, lock, socket, shared memory, attaching.
// Invariant: see session.h. Context: N (agent). Taking a checkpoint is in checkpoint.cc.
#include "agent/session.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "agent/help_copy.h"
#include "agent/history.h"
#include "agent/traits.h"
#include "os/fault.h"
#include "os/proc.h"
#include "os/slice.h"
#include "rawsys/rawsys.h"
#include "store/superblock.h"

namespace cr::agent {
namespace {

Result<void> prepare_directory(const std::string& dir) {
  auto made = store::make_directory(dir);
  if (!made && made.error().sys_errno != EEXIST) return made;
  struct stat st;
  if (stat(dir.c_str(), &st) != 0) return Error{Errc::kSystem, errno, "the image directory"};
  if (!S_ISDIR(st.st_mode)) return Error{Errc::kSystem, ENOTDIR, "the image directory"};
  if (st.st_uid != geteuid() && geteuid() != 0) {
    return Error{Errc::kPermission, EPERM, "the image directory belongs to another user"};
  }
  if (access(dir.c_str(), W_OK | X_OK) != 0) {
    return Error{Errc::kSystem, errno, "writing to the image directory"};
  }
  return {};
}

// The path of a socket is short; a directory's may not be.
void socket_address(int dir_fd, sockaddr_un* ret) {
  *ret = {};
  ret->sun_family = AF_UNIX;
  snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%s", dir_fd,
           format::kAgentSocketName);
}

// Of all that this image directory knows of: a later run may have left no checkpoint that is whole.
uint64_t highest_epoch(const std::string& dir) {
  uint64_t highest = 0;
  for (int i = 0; i < 2; i++) {
    const auto super = store::read_super(dir, i);
    if (super) highest = std::max(highest, super->epoch);
  }
  const auto history = load_history(dir);
  for (const auto& r : history ? *history : std::vector<format::HistoryRecord>()) {
    highest = std::max(highest, r.epoch);
  }
  return highest;
}

}  // namespace

// Below, system calls that everything here rests on are missing.
static Result<void> check_kernel() {
  constexpr int kMajor = 5, kMinor = 13;
  utsname u{};
  uname(&u);
  int major = 0, minor = 0;
  if (sscanf(u.release, "%d.%d", &major, &minor) == 2 &&
      (major > kMajor || (major == kMajor && minor >= kMinor))) {
    return {};
  }
  return Error{Errc::kUnsupported, 0, "a kernel older than Linux 5.13"};
}

Result<std::unique_ptr<Session>> Session::create(const SessionOptions& options, bool fresh,
                                                 std::string* ret_text) {
  CR_TRYV(check_kernel());
  CR_TRYV(prepare_directory(options.dir));
  std::unique_ptr<Session> s(new Session(options));
  CR_TRYV(s->lock_and_listen(ret_text));
  if (fresh) CR_TRYV(s->move_aside(ret_text));
  CR_TRYV(s->make_channel());
  if (getrandom(s->session_id_, sizeof(s->session_id_), 0) < 0) memset(s->session_id_, 1, 16);
  s->publish("");
  return s;
}

Result<std::unique_ptr<Session>> Session::create_member(Session& first, const std::string& dir) {
  SessionOptions options = first.options_;
  options.dir = dir;
  CR_TRYV(prepare_directory(dir));
  std::unique_ptr<Session> s(new Session(options));
  s->in_tree_ = s->is_member_ = true;
  s->keeper_ = &first.files_;
  CR_TRYV(s->make_channel());
  memcpy(s->session_id_, first.session_id_, sizeof(s->session_id_));
  s->follow(first);
  return s;
}

// One number for all.
void Session::follow(const Session& first) {
  epoch_ = first.epoch_;
  sequence_ = first.sequence_;
  attempts_ = first.attempts_;
  first_attempt_ = first.first_attempt_;
  options_.interval_seconds = first.options_.interval_seconds;
  options_.policy = first.options_.policy;
  home_ = first.home_;
  publish("");
}

Session::~Session() {
  if (lock_) unlink((options_.dir + "/" + format::kAgentSocketName).c_str());
}

// The agent of a program that was just killed may still be writing its last checkpoint: it will not
// answer, and end soon. One whose program lives answers.
bool Session::lock_directory() {
  constexpr int kPatienceMs = 30000;
  const uint64_t deadline = rawsys::now_ns() + kPatienceMs * 1000000ull;
  while (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (rawsys::now_ns() > deadline) return false;
    os::Fd dir(open(options_.dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    os::Fd s(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un a;
    socket_address(dir.get(), &a);
    format::Request q{};
    q.kind = format::kMessageAskStatus;
    format::Report r{};
    const bool asked = connect(s.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)) == 0 &&
                       send(s.get(), &q, sizeof(q), MSG_NOSIGNAL) == sizeof(q);
    pollfd p{s.get(), POLLIN, 0};
    if (asked && poll(&p, 1, kPatienceMs) > 0 && recv(s.get(), &r, sizeof(r), 0) == sizeof(r)) {
      return false;
    }
    timespec pause{0, 10000000};
    nanosleep(&pause, nullptr);
  }
  return true;
}

// A program whose agent was killed goes on by itself; a second copy would write to the same files.
bool Session::program_is_alive() {
  os::Fd lock(open((options_.dir + "/" + format::kProgramLockName).c_str(), O_RDWR | O_CLOEXEC));
  constexpr uint64_t kDyingNs = 3000000000ull;  // a large process needs a while to be gone
  const uint64_t deadline = rawsys::now_ns() + kDyingNs;
  while (lock && flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (rawsys::now_ns() > deadline) return true;
    timespec pause{0, 10000000};
    nanosleep(&pause, nullptr);
  }
  return false;
}

Result<void> Session::lock_and_listen(std::string* ret_text) {
  const std::string path = options_.dir + "/lock";
  CR_TRY(lock_, os::open_file(path, O_RDWR | O_CREAT, 0600));
  if (!lock_directory()) {
    lock_.reset();
    *ret_text = "another session is running in this image directory; end it or choose another -d";
    return Error{Errc::kBusy, EBUSY, "the image directory is in use"};
  }
  if (program_is_alive()) {
    lock_.reset();
    *ret_text = "its program still runs, without an agent; end it first (fuser " + options_.dir +
                "/" + format::kProgramLockName + " finds it)";
    return Error{Errc::kBusy, EBUSY, "the image directory is in use"};
  }
  const std::string sock = options_.dir + "/" + format::kAgentSocketName;
  unlink(sock.c_str());
  listen_ = os::Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  CR_TRY(os::Fd dir, os::open_file(options_.dir, O_PATH | O_DIRECTORY));
  sockaddr_un a;
  socket_address(dir.get(), &a);
  const mode_t old = umask(0177);  // 0600
  const bool bound =
      listen_ && bind(listen_.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)) == 0;
  const int e = errno;
  umask(old);
  if (!bound || listen(listen_.get(), 64) != 0) {
    return Error{Errc::kSystem, bound ? errno : e, "making the session's socket"};
  }
  return {};
}

// The images of processes besides the first.
static Result<void> remove_members(const std::string& dir) {
  const std::string members = dir + "/members";
  DIR* d = opendir(members.c_str());
  if (d == nullptr) return {};
  std::vector<std::string> all;
  while (const dirent* e = readdir(d)) {
    if (e->d_name[0] != '.') all.push_back(members + "/" + e->d_name);
  }
  closedir(d);
  for (const std::string& member : all) {
    for (int i = 0; i < 2; i++) {
      CR_TRYV(store::remove_file(store::buffer_path(member, i)));
      CR_TRYV(store::remove_file(store::buffer_path(member, i) + ".new"));
    }
    rmdir(member.c_str());
  }
  rmdir(members.c_str());
  return {};
}

// A new program begins here, but the directory holds the state of one that did not come to its end:
// nothing that was saved is ever lost. Of one that did, nothing stays: its sequence, being higher,
// would win over the new program's.
Result<void> Session::move_aside(std::string* ret_text) {
  const std::string& dir = options_.dir;
  const bool finished = access((dir + "/finished").c_str(), F_OK) == 0;
  bool any_whole = false;
  uint64_t sequence[2] = {};
  for (int i = 0; i < 2; i++) {
    store::BufferState b = store::load_buffer(dir, i);
    any_whole = any_whole || (b.exists && b.error.code != Errc::kNotWhole);
    if (b.image) sequence[i] = b.image->view.super.sequence;
  }
  const std::string history = dir + "/" + format::kHistoryFileName;
  if (finished || !any_whole) CR_TRYV(remove_members(dir));
  if (finished) {
    for (int i = 0; i < 2; i++) CR_TRYV(store::remove_file(store::buffer_path(dir, i)));
    CR_TRYV(store::remove_file(history));
    remove_journal(dir);
    return store::remove_file(dir + "/finished");
  }
  if (!any_whole) {
    remove_journal(dir);
    return store::remove_file(history);
  }
  const auto exists = [](const std::string& path) { return access(path.c_str(), F_OK) == 0; };
  std::string aside;
  for (int n = 1; n < 10000; n++) {
    aside = dir + "/interrupted." + std::to_string(n);
    // A move that was interrupted after its first step.
    if (exists(aside + "/members") && !exists(store::buffer_path(aside, 0)) &&
        !exists(store::buffer_path(aside, 1))) {
      break;
    }
    auto made = store::make_directory(aside);
    if (made) break;
    if (made.error().sys_errno != EEXIST) {
      return Error{Errc::kSystem, made.error().sys_errno, "keeping the earlier images"};
    }
  }
  // Members go first: they are found in either place. The newest image goes last: until then this
  // directory's answer to crrestore is the right one.
  if (exists(dir + "/members")) {
    CR_TRYV(store::rename_file(dir + "/members", aside + "/members"));
  }
  move_journal(dir, aside);
  const int newest = sequence[1] > sequence[0] ? 1 : 0;
  for (const int i : {1 - newest, newest}) {
    if (options_.durable) CR_TRYV(store::sync_directory(dir));
    auto moved = store::rename_file(store::buffer_path(dir, i), store::buffer_path(aside, i));
    if (!moved && moved.error().sys_errno != ENOENT) {
      return Error{Errc::kSystem, moved.error().sys_errno, "keeping the earlier images"};
    }
  }
  (void)store::rename_file(history, aside + "/" + format::kHistoryFileName);
  if (options_.durable) CR_TRYV(store::sync_directory(dir));
  *ret_text = "kept the images of an earlier run that did not finish: crrestore " + aside;
  return {};
}

Result<void> Session::make_channel() {
  CR_TRY(channel_fd_, os::make_memfd(kChannelMemfdName));
  CR_TRY(staging_fd_, os::make_memfd("cr-staging"));
  // Under a file size limit (ulimit -f, which holds for memory files too) the tables are smaller:
  // more rounds of copying, and fewer mappings.
  uint64_t bytes = format::kSharedBytes;
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
    bytes = limit.rlim_cur & ~(kPageSize - 1);
    if (bytes < format::kChannelLeastBytes) {
      return Error{Errc::kSystem, EFBIG, "shared memory (file size limit, ulimit -f)"};
    }
  }
  if (ftruncate(channel_fd_.get(), static_cast<off_t>(bytes)) != 0) {
    return Error{Errc::kSystem, errno, "making shared memory"};
  }
  CR_TRY(channel_map_,
         os::Mapping::map(channel_fd_.get(), bytes, PROT_READ | PROT_WRITE, MAP_SHARED));
  const uint64_t tables = std::min(bytes, format::kChannelBytes) - format::kChannelRangesOff;
  runs_off_ = format::kChannelRangesOff + (tables / format::kChannelRangesShare & ~(kPageSize - 1));
  channel()->version = format::kChannelVersion;
  channel()->durable = options_.durable ? 1 : 0;
  memcpy(channel()->restore_env, options_.restore_env.data(), options_.restore_env.size());
  channel()->bytes = bytes;
  channel()->ranges_off = format::kChannelRangesOff;
  channel()->runs_off = runs_off_;
  uint64_t runs_end = std::min(bytes, format::kChannelBytes);
  if (runs_end == format::kChannelBytes) {
    runs_end -= format::kScanHelpBytes;
    scan_off_ = runs_end;
  }
  channel()->runs_cap = (runs_end - runs_off_) / sizeof(format::Run);
  return {};
}

void Session::set_interval(double seconds) {
  const bool automatic = seconds == format::kIntervalAuto;
  if (!automatic && !(seconds >= 0.001 && seconds < 1e9)) return;
  if (automatic && options_.policy.automatic) return;
  options_.policy.automatic = automatic;
  options_.interval_seconds = automatic ? first_interval(options_.policy) : seconds;
  publish("");
}

void Session::set_program(pid_t pid) {
  pid_ = pid;
  pidfd_ = os::Fd(static_cast<int>(syscall(__NR_pidfd_open, pid, 0)));
  died_ = false;
  unfinished_.clear();
  if (!is_member_) os::set_fault_victim(pid);
}

void Session::program_ended() {
  detach();
  pidfd_.reset();
  pid_ = 0;
  if (!is_member_) os::set_fault_victim(0);
}

bool Session::has_ended() const {
  pollfd p{pidfd_.get(), POLLIN, 0};
  return !pidfd_ || poll(&p, 1, 0) != 0;
}

// A look at the next message would not tell: what was sent before the end may lie there unread.
bool Session::control_is_gone() const {
  pollfd p{control_.get(), 0, 0};
  return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

bool Session::still_attached() {
  if (attached() && control_is_gone()) detach();
  return attached();
}

void Session::detach() {
  quick_.withdraw();
  quick_.clean_up();
  control_.reset();
  mem_.reset();
  pagemap_.reset();
  control_tid_ = 0;
}

void Session::leave_if_last() {
  if (!attached()) return;
  const auto first = os::read_stat(pid_, pid_);
  if (!first || first->state != 'Z') return;
  const auto tasks = os::list_tasks(pid_);
  const bool last = tasks && std::ranges::all_of(*tasks, [this](pid_t tid) {
                      return tid == pid_ || tid == control_tid_;
                    });
  if (!last) return;
  // The process's status is that of its last thread.
  channel()->arg0 = static_cast<uint64_t>(first->exit_code >> 8);
  begin_command(format::kCommandExit);
}

bool Session::attach(os::Fd connection, const format::Hello& hello, std::string* ret_text) {
  pages_.forget();
  quick_.reset();
  lasting_known_ = false;
  untrackable_bytes_ = 0;
  if (hello.version != format::kChannelVersion) {
    *ret_text = "the program's library is of another version than the agent";
    return false;
  }
  // The control thread's id as we see it: namespaces may differ.
  auto tasks = os::list_tasks(pid_);
  if (!tasks) {
    *ret_text = "the program has ended";
    return false;
  }
  control_tid_ = 0;
  for (const pid_t tid : *tasks) {
    const std::string status = os::read_or_empty(os::task_path(pid_, tid, "status"));
    if (status.empty()) continue;
    const pid_t inner = os::innermost_id(status, "NSpid");
    if ((inner != 0 ? inner : tid) != hello.tid) continue;
    control_tid_ = tid;
    nested_ = os::in_pid_namespace(status);
  }
  if (control_tid_ == 0) {
    *ret_text = "no such thread in the program";
    return false;
  }
  os::set_slice(control_tid_, os::Slice::kLong);
  auto opened = os::open_file(os::task_path(pid_, control_tid_, "mem"), O_RDWR);
  if (!opened) {
    *ret_text = "the program's memory may not be opened: " +
                std::string(strerror(opened.error().sys_errno)) +
                " (see /proc/sys/kernel/yama/ptrace_scope, or the program is not dumpable)";
    return false;
  }
  mem_ = std::move(*opened);
  // Without it the control thread looks at all pages alone.
  pagemap_ =
      os::Fd(open(os::task_path(pid_, control_tid_, "pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  hello_ = hello;
  entered_ = home_ != 0 ? entered_namespace(pid_, control_tid_, home_) : "";
  auto maps = os::parse_maps(os::read_or_empty(os::task_path(pid_, control_tid_, "maps")));
  for (const os::MapEntry& m : maps ? *maps : std::vector<os::MapEntry>()) {
    if (m.name != "[vdso]") continue;
    vdso_start_ = m.start;
    vdso_end_ = m.end;
  }
  // Before anything is tracked the program knows that it will be.
  channel()->tracking = choose_tracking(options_.tracking, possible_tracking());
  // Commands count on from where they are, so that a new control thread does not see an old one.
  channel()->done_seq = channel()->command_seq;
  format::Report welcome{};
  welcome.kind = format::kMessageWelcome;
  welcome.epoch = epoch_;
  iovec iov{&welcome, sizeof(welcome)};
  alignas(cmsghdr) char buf[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = buf;
  m.msg_controllen = sizeof(buf);
  cmsghdr* c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(2 * sizeof(int));
  const int fds[2] = {channel_fd_.get(), staging_fd_.get()};
  memcpy(CMSG_DATA(c), fds, sizeof(fds));
  if (sendmsg(connection.get(), &m, MSG_NOSIGNAL) < 0) {
    *ret_text = "the control thread went away";
    mem_.reset();
    pagemap_.reset();
    return false;
  }
  control_ = std::move(connection);
  attachments_++;
  begin_measuring();
  return true;
}

void Session::adopt(const store::LoadedImage& image) {
  const format::SuperBlock& super = image.view.super;
  if (options_.interval_of_image) adopt_interval(image.view);
  epoch_ = std::max({epoch_, super.epoch, options_.known_epoch, highest_epoch(options_.dir)}) + 1;
  uint32_t random = 0;
  if (getrandom(&random, sizeof(random), 0) == sizeof(random)) first_attempt_ = random;
  sequence_ = super.sequence;
  newest_epoch_ = super.epoch;
  if (!is_member_) files_.adopt(super);
  newest_ = image.index;
  memcpy(session_id_, super.session_id, sizeof(session_id_));
  realtime_ns_ = super.realtime_ns;
  pause_ns_ = super.pause_ns;
  last_captured_ = {};
  publish("");
}

// What crstatus() reads, under a sequence lock.
void Session::publish(const std::string& error) {
  format::ChannelHeader* c = channel();
  __atomic_add_fetch(&c->status_lock, 1, __ATOMIC_ACQ_REL);
  c->epoch = epoch_;
  c->sequence = sequence_;
  c->attempts = attempts_;
  c->failures = failures_;
  c->image_bytes = image_bytes_;
  c->pause_ns = pause_ns_;
  c->commit_ns = commit_ns_;
  c->realtime_ns = realtime_ns_;
  c->interval_seconds = options_.interval_seconds;
  c->interval_automatic = options_.policy.automatic ? 1 : 0;
  c->tracker = tracker_;
  c->overhead_percent = meter_.share() * 100;
  c->staged_bytes = attempt_.staged_bytes;
  c->rollbacks = rollbacks_;
  c->rollbacks_in_place = rollbacks_in_place_;
  c->rollback_ns = rollback_ns_;
  c->quick = quick_.whole();
  rawsys::str_copy(c->rollback_reason, rollback_reason_.c_str(), sizeof(c->rollback_reason));
  rawsys::str_copy(c->image_dir, options_.dir.c_str(), sizeof(c->image_dir));
  rawsys::str_copy(c->last_error, error.c_str(), sizeof(c->last_error));
  __atomic_add_fetch(&c->status_lock, 1, __ATOMIC_ACQ_REL);
}

void Session::show_levels(const format::Levels& levels, uint64_t version) {
  if (levels_version_ == version) return;
  levels_version_ = version;
  format::ChannelHeader* c = channel();
  __atomic_add_fetch(&c->status_lock, 1, __ATOMIC_ACQ_REL);
  c->levels = levels;
  __atomic_add_fetch(&c->status_lock, 1, __ATOMIC_ACQ_REL);
}

bool Session::takes_answers() const {
  const format::ChannelHeader* c = channel();
  return attached() && !frozen_ &&
         __atomic_load_n(&c->done_seq, __ATOMIC_ACQUIRE) == c->command_seq;
}

void Session::begin_command(format::CommandKind kind) {
  format::ChannelHeader* c = channel();
  c->command = kind;
  __atomic_add_fetch(&c->command_seq, 1, __ATOMIC_ACQ_REL);
  __atomic_add_fetch(&c->doorbell, 1, __ATOMIC_ACQ_REL);
  rawsys::sys_futex(&c->doorbell, FUTEX_WAKE, 0x7fffffff);
}

// Waits until the command is done, or, of a capture, until the process is described.
Trouble Session::await_command(bool described_is_enough, uint64_t timeout_ns, World* world) {
  format::ChannelHeader* c = channel();
  // A process is described within that time, as a rule, if the control thread has a processor. Who
  // sleeps is woken on its processor, and then waits for it.
  const uint64_t spin_ns = described_is_enough && control_cpus_ ? 500000 : 100000;
  const uint64_t begin = rawsys::now_ns();
  for (;;) {
    const uint32_t done = __atomic_load_n(&c->done_seq, __ATOMIC_ACQUIRE);
    if (done == c->command_seq) return {};
    if (described_is_enough && __atomic_load_n(&c->described, __ATOMIC_ACQUIRE) != 0) return {};
    if (!described_is_enough && c->scan_off != 0) {
      scan_helper_.help(pagemap_.get(), *scan_help());
    }
    if (!described_is_enough && may_help_ &&
        __atomic_load_n(&c->copy_count, __ATOMIC_ACQUIRE) != 0) {
      auto* runs = reinterpret_cast<format::Run*>(channel_map_.data() + runs_off_);
      may_help_ = help_copy(control_tid_, *c, runs, staging_map_.data(), staging_pages_);
    }
    const uint64_t waited = rawsys::now_ns() - begin;
    if (waited < spin_ns) continue;
    if (waited > timeout_ns) {
      return trouble(Errc::kTimeout, ETIMEDOUT, "the control thread does not answer");
    }
    if (control_is_gone()) return trouble(Errc::kAgentGone, EPIPE, "the program ended");
    if (described_is_enough) share_processors();  // it may have ours while we sleep
    const timespec slice{0, 20000000};
    const long r = described_is_enough ? rawsys::sys_futex(&c->described, FUTEX_WAIT, 0, &slice)
                                       : rawsys::sys_futex(&c->done_seq, FUTEX_WAIT, done, &slice);
    if (r == -ETIMEDOUT && world != nullptr) world->keep_control_running();
    tell_copied();
  }
}

Trouble Session::end_command(uint64_t timeout_ns, World* world) {
  Trouble bad = await_command(/*described_is_enough=*/false, timeout_ns, world);
  if (bad.bad()) return bad;
  const int error = channel()->result_errno;
  if (error == 0) return {};
  return trouble(Errc::kSystem, error, std::string("the control thread: ") + strerror(error));
}

void Session::run_hooks(uint32_t when) {
  constexpr uint64_t kHookTimeoutNs = 31000000000ull;
  if (!attached() || frozen_) return;
  channel()->arg0 = when;
  (void)command(format::kCommandHooks, kHookTimeoutNs, nullptr);
}

void Session::answer(uint64_t id, Answer kind, const Trouble& result) {
  if (!attached()) return;
  format::ChannelHeader* c = channel();
  c->answered_id = id;
  c->answer_kind = static_cast<uint32_t>(kind);
  c->answer_code = static_cast<int32_t>(result.error.code);
  c->answer_errno = result.error.sys_errno;
  rawsys::str_copy(c->answer_text, result.text.c_str(), sizeof(c->answer_text));
  (void)command(format::kCommandReply, 1000000000, nullptr);
  os::fault_point(os::FaultPoint::kAnswered);
}

void Session::close_heap() {
  if (!attached()) return;
  channel()->arg0 = 0;
  (void)command(format::kCommandExit, 1000000000, nullptr);
  detach();
}

bool Session::offer_exec(const std::string& path, const std::string& argv, const std::string& env) {
  format::ChannelHeader* c = channel();
  c->exec_strings_off = runs_off_;  // no capture is going on
  if (argv.size() + env.size() >
      std::min<size_t>(channel_map_.size(), format::kChannelBytes) - runs_off_) {
    return false;
  }
  rawsys::str_copy(c->exec_path, path.c_str(), sizeof(c->exec_path));
  c->exec_argv_bytes = static_cast<uint32_t>(argv.size());
  c->exec_env_bytes = static_cast<uint32_t>(env.size());
  memcpy(channel_map_.data() + c->exec_strings_off, argv.data(), argv.size());
  memcpy(channel_map_.data() + c->exec_strings_off + argv.size(), env.data(), env.size());
  return true;
}

}  // namespace cr::agent
