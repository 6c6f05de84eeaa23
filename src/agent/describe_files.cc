// SPDX-License-Identifier: MIT
// describe_files.cc - see describe_files.h. Invariant: as there. Context: N (agent).
#include "agent/describe_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "agent/describe_objects.h"
#include "agent/describe_sockets.h"
#include "agent/file_locks.h"
#include "agent/file_owners.h"
#include "agent/find_path.h"
#include "agent/kind_fifo.h"
#include "agent/kind_pty.h"
#include "agent/kinds.h"
#include "agent/plugins.h"
#include "agent/terminal.h"
#include "os/fd.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

class FileDescriber {
 public:
  FileDescriber(pid_t pid, pid_t tid, int pidfd, const AmongOthers& others, store::Model& model)
      : pid_(pid), tid_(tid), pidfd_(pidfd), others_(others), model_(model) {}
  Trouble run();

 private:
  Trouble look(int fd, Descriptor* ret);
  Trouble describe(const Descriptor& d, format::FileRecord* ret);
  Trouble describe_first(const Descriptor& d, format::FileRecord* ret);
  std::string own_proc_path(const std::string& link) const;
  Trouble describe_proc(const Descriptor& d, format::FileRecord& f, bool* ret_own);
  Trouble describe_regular(const Descriptor& d, format::FileRecord& f);
  Trouble describe_device(const Descriptor& d, format::FileRecord& f);
  Trouble describe_pipe(const Descriptor& d, format::FileRecord& f);
  Trouble read_deleted(const Descriptor& d, format::FileRecord& f);
  std::string other_name(const Descriptor& d) const;
  Trouble read_pipe(const Descriptor& d, format::FileRecord& f);
  int same_as_standard(const Descriptor& d) const;
  bool came_from_outside(const Descriptor& d, int copy) const;
  bool is_shared(const Descriptor& d) const;
  bool same_description(const Descriptor& a, const Descriptor& b) const;
  bool is_inherited_socket(const Descriptor& d) const;
  // A thread of whose descriptor it is, and by which number.
  pid_t holder(const Descriptor& d) const { return d.flies() ? getpid() : tid_; }
  static int number(const Descriptor& d) { return d.flies() ? d.fd - kFlying : d.fd; }
  bool is_described(const Descriptor& d, TreeFiles::Place* ret = nullptr) const;
  Trouble look_at_all();
  void find_owner(size_t i);
  Trouble look_at_socket(const Descriptor& d);
  Trouble describe_all();
  std::string fd_path(int fd) const {
    if (fd >= kFlying) return "/proc/self/fd/" + std::to_string(fd - kFlying);
    return os::task_path(pid_, tid_, "fd/") + std::to_string(fd);
  }
  Program program() const { return {pid_, tid_, pidfd_, model_, all_, others_.files}; }
  os::Fd copy_of(int fd) const { return program().copy_of(fd); }

  pid_t pid_, tid_;
  int pidfd_;
  const AmongOthers& others_;
  store::Model& model_;
  std::vector<Descriptor> all_;
  std::vector<size_t> owner_;     // of all_: index of the description's first descriptor
  std::vector<uint32_t> record_;  // of all_: its file
  std::set<int> inherited_;       // sockets; found out before any is open here as well
  SocketDescriber own_sockets_;
  SocketDescriber& sockets_ = others_.files != nullptr ? others_.files->sockets() : own_sockets_;
  std::shared_ptr<SocketHolder> holder_;
};

Trouble FileDescriber::look(int fd, Descriptor* ret) {
  Descriptor d;
  d.fd = fd;
  auto link = os::read_link(fd_path(fd));
  const bool flies = fd >= kFlying;
  auto info =
      flies ? os::read_fdinfo(getpid(), getpid(), fd - kFlying) : os::read_fdinfo(pid_, tid_, fd);
  if (!link || !info || stat(fd_path(fd).c_str(), &d.st) != 0) {
    return trouble(Errc::kSystem, errno, "fd " + std::to_string(fd) + " could not be looked at");
  }
  d.link = *link;
  d.info = std::move(*info);
  static const std::string kDeleted = " (deleted)";
  if (d.link.ends_with(kDeleted)) {
    d.deleted = true;
    d.link.resize(d.link.size() - kDeleted.size());
  }
  *ret = std::move(d);
  return {};
}

// What fdinfo says of the open file and not of the descriptor.
std::string_view about_file(const Descriptor& d) {
  const size_t at = d.info.extra.find("\nmnt_id:");
  return at == std::string::npos ? "" : std::string_view(d.info.extra).substr(at);
}

bool FileDescriber::same_description(const Descriptor& a, const Descriptor& b) const {
  if (a.st.st_dev != b.st.st_dev || a.st.st_ino != b.st.st_ino) return false;
  // All of these have one inode: most are told apart without the kernel. A timer runs meanwhile.
  const bool anonymous = a.link.starts_with("anon_inode:") && a.link != "anon_inode:[timerfd]";
  if (anonymous && about_file(a) != about_file(b)) return false;
  if ((a.info.flags & ~static_cast<uint64_t>(O_CLOEXEC)) !=
          (b.info.flags & ~static_cast<uint64_t>(O_CLOEXEC)) ||
      a.info.position != b.info.position) {
    return false;
  }
  return syscall(__NR_kcmp, holder(a), holder(b), KCMP_FILE, number(a), number(b)) == 0;
}

// The lowest of 0, 1, 2 that is the same terminal, pipe or socket; -1 if none.
int FileDescriber::same_as_standard(const Descriptor& d) const {
  if (d.fd <= 2) return d.fd;
  for (const Descriptor& s : all_) {
    if (s.fd > 2) break;
    const bool same_object = s.st.st_dev == d.st.st_dev && s.st.st_ino == d.st.st_ino;
    const bool same_mode = (s.info.flags & O_ACCMODE) == (d.info.flags & O_ACCMODE);
    if (same_object && same_mode) return s.fd;
  }
  return -1;
}

// Is this object open in that process, under another number than `except`?
bool holds(pid_t pid, const struct stat& st, int except) {
  auto fds = os::list_fds(pid, pid);
  const std::string dir = os::task_path(pid, pid, "fd/");
  for (const int fd : fds ? *fds : std::vector<int>()) {
    struct stat other;
    if (fd != except && stat((dir + std::to_string(fd)).c_str(), &other) == 0 &&
        other.st_dev == st.st_dev && other.st_ino == st.st_ino) {
      return true;
    }
  }
  return false;
}

// A pipe or socket that the program was started with: its agent or its parent has it too (a shell's
// process substitution, make's job server, a launcher's log pipe). copy: our own descriptor of it.
bool FileDescriber::came_from_outside(const Descriptor& d, int copy) const {
  if (d.flies()) return false;
  if (holds(getpid(), d.st, copy)) return true;
  if (others_.member != 0) return false;  // the parent is one of the session's own
  auto stat = os::read_stat(pid_, tid_);
  // Not ourselves again, without that exception.
  return stat && stat->ppid > 1 && stat->ppid != getpid() && holds(stat->ppid, d.st, -1);
}

// Those that are made anew would not be what the others have.
bool FileDescriber::is_shared(const Descriptor& d) const {
  if (d.flies()) return false;
  const auto has = [&](pid_t pid) {
    return pid > 1 && syscall(__NR_kcmp, pid, tid_, KCMP_FILE, d.fd, d.fd) == 0;
  };
  auto stat = os::read_stat(pid_, tid_);
  // What was taken out of a queue is open here under a number that may be the same.
  const bool taken = std::ranges::count(all_, kFlying + d.fd, &Descriptor::fd) != 0;
  if (others_.files != nullptr) return false;  // it is described once, for all of them
  return (!taken && has(getpid())) || (stat && has(stat->ppid));
}

Trouble FileDescriber::read_deleted(const Descriptor& d, format::FileRecord& f) {
  f.kind = format::kFileDeleted;
  const auto bytes = static_cast<uint64_t>(d.st.st_size);
  if (bytes > kDeletedFileBytes) {
    return refuse(d, "an unnamed file of more than 256 MiB", "give it a name, or close it");
  }
  os::Fd in(open(fd_path(d.fd).c_str(), O_RDONLY | O_CLOEXEC));
  if (!in) in = copy_of(d.fd);
  std::string content(bytes, '\0');
  uint64_t done = 0;
  while (in && done < bytes) {
    const ssize_t r =
        pread(in.get(), content.data() + done, bytes - done, static_cast<off_t>(done));
    if (r < 0 && errno == EINTR) continue;
    if (r <= 0) break;
    done += static_cast<uint64_t>(r);
  }
  if (done != bytes) {
    return trouble(Errc::kUnsupported, errno,
                   name_of(d) + ": the content of the unnamed file cannot be read");
  }
  f.content = model_.add_blob(content.data(), content.size());
  return {};
}

// Of a file that has lost the name by which it was opened, and has another.
std::string FileDescriber::other_name(const Descriptor& d) const {
  if (!d.deleted || d.st.st_nlink == 0) return "";
  return find_path(d.st.st_dev, d.st.st_ino, {}, {d.link.substr(0, d.link.find_last_of('/'))});
}

// A path below /proc of the process itself, by whichever id its own /proc knows it, is /proc/self;
// of its first thread, /proc/self/task/self.
std::string FileDescriber::own_proc_path(const std::string& link) const {
  const std::string status = os::read_or_empty(os::task_path(pid_, tid_, "status"));
  for (const pid_t id : {pid_, os::innermost_id(status, "NStgid")}) {
    const std::string self = "/proc/" + std::to_string(id);
    const std::string task = self + "/task/" + std::to_string(id);
    if (link == self) return std::string(format::kProcSelf) + ".";
    if ((link + "/").starts_with(task + "/")) {
      return std::string(format::kProcSelf) + format::kProcTaskSelf + link.substr(task.size());
    }
    if (link.starts_with(self + "/")) return format::kProcSelf + link.substr(self.size() + 1);
  }
  return link;
}

// What is open of the process's own directory in /proc; *ret_own: it was that.
Trouble FileDescriber::describe_proc(const Descriptor& d, format::FileRecord& f, bool* ret_own) {
  const std::string path = own_proc_path(d.link);
  *ret_own = path.starts_with(format::kProcSelf);
  if (!*ret_own) return {};
  const std::string below = path.substr(strlen(format::kProcSelf));
  if (below.starts_with("task/") && !below.starts_with(format::kProcTaskSelf)) {
    return refuse(d, "what /proc says of one of the threads", "close it");
  }
  f.kind = format::kFileProc;
  f.path = model_.add_string(path);
  return {};
}

Trouble FileDescriber::describe_regular(const Descriptor& d, format::FileRecord& f) {
  int object = kNoObject;
  Trouble bad =
      object_of_descriptor(name_of(d), {false, d.st.st_dev, d.st.st_ino, d.link}, model_, &object);
  if (bad.bad()) return bad;
  if (object != kNoObject && d.deleted) {
    const format::ObjectRecord& o = model_.objects[static_cast<size_t>(object)];
    const bool named = o.kind == format::kObjectNamed;  // it has another name
    f.kind = named ? format::kFileRegular : format::kFileObject;
    if (named) f.path = o.name;
    f.pair = named ? 0 : static_cast<uint32_t>(object);
    return {};
  }
  if (d.link.starts_with("/proc/")) {
    f.kind = format::kFileProc;
    f.path = model_.add_string(d.link);
    return {};
  }
  const std::string name = other_name(d);
  if (!name.empty()) {
    f.path = model_.add_string(name);
    f.open_flags &= ~static_cast<uint32_t>(O_TMPFILE);  // it opens a directory
  }
  if (name.empty() && d.deleted && d.st.st_nlink > 0 && (f.open_flags & O_ACCMODE) != O_RDONLY) {
    return refuse(d, "a file that has lost this name, and has another that cannot be found,",
                  "open it by that name, or close it");
  }
  if (name.empty() && (d.deleted || d.st.st_nlink == 0)) return read_deleted(d, f);
  f.kind = format::kFileRegular;
  return {};
}

Trouble FileDescriber::describe_device(const Descriptor& d, format::FileRecord& f) {
  const unsigned ma = major(d.st.st_rdev), mi = minor(d.st.st_rdev);
  if (ma == 1 && (mi == 3 || mi == 5 || mi == 7 || mi == 8 || mi == 9)) {
    f.kind = format::kFileDevice;  // null zero full random urandom
    return {};
  }
  const bool terminal = (ma >= 136 && ma <= 143) || ma == 4 || (ma == 5 && mi <= 1);
  if (ma == 5 && mi == 2) return describe_pty_master(program(), d, f);
  if (!terminal) return refuse(d, "a character device", "close it before the checkpoint");
  f.kind = format::kFileTerminal;
  f.std_fd = same_as_standard(d);  // -1: /dev/tty
  if (describe_pty_slave(program(), d, f)) return {};
  return describe_terminal(program(), d, f);
}

// tee() leaves the bytes in the pipe.
Trouble FileDescriber::read_pipe(const Descriptor& d, format::FileRecord& f) {
  os::Fd in = copy_of(d.fd);
  int waiting = 0;
  if (!in || ioctl(in.get(), FIONREAD, &waiting) != 0) {
    return trouble(Errc::kUnsupported, errno, name_of(d) + ": the pipe cannot be read");
  }
  f.pipe_bytes = static_cast<uint64_t>(std::max(0, fcntl(in.get(), F_GETPIPE_SZ)));
  if (waiting == 0) return {};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
    return trouble(Errc::kSystem, errno, std::string("making a pipe: ") + strerror(errno));
  os::Fd r(ends[0]), w(ends[1]);
  // As many buffers as the original: partly filled ones must fit too.
  fcntl(w.get(), F_SETPIPE_SZ, static_cast<int>(f.pipe_bytes));
  const ssize_t n = tee(in.get(), w.get(), f.pipe_bytes, SPLICE_F_NONBLOCK);
  std::string content(static_cast<size_t>(waiting), '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t k = read(r.get(), content.data() + done, content.size() - done);
    if (k <= 0) break;
    done += static_cast<size_t>(k);
  }
  if (n < waiting || done != content.size()) {
    return trouble(Errc::kUnsupported, errno, name_of(d) + ": the pipe's content cannot be copied");
  }
  f.content = model_.add_blob(content.data(), content.size());
  return {};
}

Trouble FileDescriber::describe_pipe(const Descriptor& d, format::FileRecord& f) {
  if (!d.link.starts_with("pipe:")) {
    return describe_fifo(program(), d, f);
  }
  const auto accmode = d.info.flags & O_ACCMODE;
  bool other_end = false;
  for (const Descriptor& o : all_) {
    const bool same = o.st.st_ino == d.st.st_ino && o.st.st_dev == d.st.st_dev;
    other_end = other_end || (same && (o.info.flags & O_ACCMODE) != accmode);
  }
  if (others_.files != nullptr && !other_end) {
    other_end = others_.files->has_other_end(d.st.st_dev, d.st.st_ino, accmode);
  }
  // A child's may be a pipe of the session's own, of which the other end is closed.
  const bool session_has_it = others_.member == 0 || holds(getpid(), d.st, -1);
  if (!other_end && same_as_standard(d) >= 0 && session_has_it) {
    f.kind = format::kFileStdPipe;
    f.std_fd = same_as_standard(d);
    return {};
  }
  if (!other_end) {
    // Nobody at the other end: EOF or EPIPE, as it will be in a pipe whose other end is closed.
    os::Fd copy = copy_of(d.fd);
    pollfd p{copy.get(), static_cast<short>(accmode == O_RDONLY ? POLLIN : POLLOUT), 0};
    const bool alone =
        copy && poll(&p, 1, 0) > 0 && (p.revents & (accmode == O_RDONLY ? POLLHUP : POLLERR)) != 0;
    if (!alone && came_from_outside(d, copy.get())) {
      f.kind = format::kFileStdPipe;
      f.std_fd = d.fd;
      return {};
    }
    if (!alone) {
      return refuse(d, "a pipe to another process",
                    "only descriptors that the program was started with may lead outside");
    }
  }
  f.kind = format::kFilePipe;
  f.pair = static_cast<uint32_t>(d.st.st_ino);
  if (accmode == O_RDONLY) return read_pipe(d, f);
  os::Fd copy = copy_of(d.fd);
  f.pipe_bytes = static_cast<uint64_t>(std::max(0, fcntl(copy.get(), F_GETPIPE_SZ)));
  return {};
}

const char* kind_of(const std::string& link) {
  struct Row {
    const char* begin;
    const char* kind;
  };
  static constexpr Row kRows[] = {{"anon_inode:[fanotify]", "a fanotify group"},
                                  {"anon_inode:[io_uring]", "an io_uring"},
                                  {"anon_inode:[userfaultfd]", "a userfaultfd"},
                                  {"anon_inode:[perf_event]", "a perf event"},
                                  {"anon_inode:bpf", "a bpf object"},
                                  {"net:[", "a network namespace"}};
  for (const Row& r : kRows) {
    if (link.starts_with(r.begin)) return r.kind;
  }
  return "a descriptor of an unknown kind";
}

// The process itself makes them, or gives them their state, by their numbers.
bool needs_number(const format::FileRecord& f) {
  const KindOfFile* kind = kind_of_file(f.kind);
  return f.kind == format::kFileProc ||
         (kind != nullptr && (kind->by_process != nullptr || kind->furnish != nullptr));
}

// By another process of the tree.
bool FileDescriber::is_described(const Descriptor& d, TreeFiles::Place* ret) const {
  TreeFiles::Place place{};
  if (ret == nullptr) ret = &place;
  return others_.files != nullptr &&
         others_.files->find(holder(d), number(d), d.st.st_dev, d.st.st_ino, ret);
}

// What another process of the tree has too was described there.
Trouble FileDescriber::describe(const Descriptor& d, format::FileRecord* ret) {
  TreeFiles::Place place{};
  if (others_.files == nullptr) return describe_first(d, ret);
  // A pidfd has no state, and each process makes its own.
  const KindOfFile* kind = kind_of_link(d.link);
  const bool own = kind != nullptr && kind->by_process != nullptr;
  if (!own && is_described(d, &place)) {
    ret->kind = format::kFileShared;
    ret->pair = place.file;
    ret->file_bytes = place.member;
    ret->open_flags = static_cast<uint32_t>(d.info.flags & ~static_cast<uint64_t>(O_CLOEXEC));
    ret->position = d.info.position;
    ret->dev = d.st.st_dev;
    ret->ino = d.st.st_ino;
    ret->mode = d.st.st_mode;
    ret->std_fd = -1;
    ret->path = model_.add_string(d.link);
    return {};
  }
  others_.files->note(others_.member, holder(d), number(d), d.st.st_dev, d.st.st_ino,
                      static_cast<uint32_t>(model_.files.size()));
  return describe_first(d, ret);
}

Trouble FileDescriber::describe_first(const Descriptor& d, format::FileRecord* ret) {
  format::FileRecord& f = *ret;
  f.open_flags = static_cast<uint32_t>(d.info.flags & ~static_cast<uint64_t>(O_CLOEXEC));
  f.position = d.info.position;
  f.dev = d.st.st_dev;
  f.ino = d.st.st_ino;
  f.mode = d.st.st_mode;
  f.std_fd = -1;
  f.file_bytes = static_cast<uint64_t>(d.st.st_size);
  if (d.link.starts_with("/proc/") && !d.deleted) {
    bool own = false;
    Trouble bad = describe_proc(d, f, &own);
    if (own) return bad;
  }
  if ((d.info.flags & O_PATH) != 0) {
    if (d.deleted) return refuse(d, "an O_PATH descriptor of a removed file", "close it");
    f.kind = format::kFileOpath;
    f.path = model_.add_string(d.link);
    return {};
  }
  Trouble bad;
  if (const KindOfFile* kind = kind_of_link(d.link); kind != nullptr) {
    f.kind = kind->kind;
    bad = is_shared(d) ? refuse(d, "an object that another process has open too",
                                "close it before the checkpoint, or do not let the program inherit "
                                "it")
                       : kind->describe(program(), d, f);
  } else if (claims_descriptor(model_, d.link)) {
    f.kind = format::kFilePlugin;
  } else if (S_ISREG(d.st.st_mode)) {
    bad = describe_regular(d, f);
  } else if (S_ISDIR(d.st.st_mode)) {
    if (d.deleted) return refuse(d, "a removed directory", "close it");
    f.kind = format::kFileDirectory;
  } else if (S_ISCHR(d.st.st_mode)) {
    bad = describe_device(d, f);
  } else if (S_ISFIFO(d.st.st_mode)) {
    bad = describe_pipe(d, f);
  } else if (S_ISSOCK(d.st.st_mode) && inherited_.contains(d.fd)) {
    f.kind = format::kFileStdPipe;
    f.std_fd = same_as_standard(d) >= 0 ? same_as_standard(d) : d.fd;
  } else if (S_ISSOCK(d.st.st_mode)) {
    f.kind = format::kFileSocket;
  } else if (S_ISBLK(d.st.st_mode)) {
    return refuse(d, "a block device", "close it before the checkpoint");
  } else {
    return refuse(d, kind_of(d.link),
                  d.link.starts_with("anon_inode:[io_uring]")
                      ? "close it before the checkpoint, or run it with crrun --plugin "
                        "crplugin_io_uring.so"
                      : "close it before the checkpoint");
  }
  if (!bad.bad() && d.flies() && needs_number(f)) {
    return trouble(Errc::kUnsupported, 0,
                   name_of(d) +
                       " and is open nowhere else cannot be saved; checkpoint when the "
                       "program has received it");
  }
  if (!bad.bad() && f.path == 0) f.path = model_.add_string(d.link);
  return bad;
}

// Not the path of one (O_PATH).
bool is_socket(const Descriptor& d) {
  return S_ISSOCK(d.st.st_mode) && (d.info.flags & O_PATH) == 0;
}

bool FileDescriber::is_inherited_socket(const Descriptor& d) const {
  const uint64_t peer = peer_inode(d);
  const bool own = peer != 0 && std::ranges::any_of(all_, [&](const Descriptor& o) {
                     return S_ISSOCK(o.st.st_mode) && o.st.st_ino == peer;
                   });
  if (own || (others_.files != nullptr && peer != 0 && others_.files->has(d.st.st_dev, peer))) {
    return false;
  }
  return same_as_standard(d) >= 0 || came_from_outside(d, -1);
}

// What waits in its queue is described like what the program has open.
Trouble FileDescriber::look_at_socket(const Descriptor& d) {
  std::vector<int> flying;
  Trouble bad = sockets_.look(program(), holder_, d, &flying);
  for (const int fd : flying) {
    Descriptor f;
    if (!bad.bad()) bad = look(kFlying + fd, &f);
    if (!bad.bad()) all_.push_back(std::move(f));
  }
  return bad;
}

void FileDescriber::find_owner(size_t i) {
  owner_.push_back(i);
  for (size_t k = 0; k < i; k++) {
    if (owner_[k] != k || !same_description(all_[k], all_[i])) continue;
    owner_[i] = k;
    if (!all_[i].flies()) all_[k].aliases += " " + std::to_string(all_[i].fd);
    break;
  }
}

Trouble FileDescriber::look_at_all() {
  auto fds = os::list_fds(pid_, tid_);
  if (!fds) return trouble(Errc::kSystem, fds.error().sys_errno, "listing descriptors");
  std::sort(fds->begin(), fds->end());
  for (const int fd : *fds) {
    Descriptor d;
    Trouble bad = look(fd, &d);
    if (bad.bad()) return bad;
    all_.push_back(std::move(d));
  }
  Trouble shared = refuse_shared_ptys(program());
  if (shared.bad()) return shared;
  for (const Descriptor& d : all_) {
    if (is_socket(d) && is_inherited_socket(d)) inherited_.insert(d.fd);
  }
  for (size_t i = 0; i < all_.size(); i++) find_owner(i);
  for (size_t i = 0; i < all_.size(); i++) {  // sockets add to it
    if (i >= owner_.size()) find_owner(i);
    const Descriptor d = all_[i];
    if (owner_[i] != i || !is_socket(d) || inherited_.contains(d.fd) || is_described(d)) continue;
    Trouble bad = look_at_socket(d);
    if (bad.bad()) return bad;
  }
  return {};
}

Trouble FileDescriber::describe_all() {
  record_.resize(all_.size());
  for (size_t i = 0; i < all_.size(); i++) {
    record_[i] = record_[owner_[i]];
    if (owner_[i] == i) {
      format::FileRecord f{};
      Trouble bad = describe(all_[i], &f);
      if (bad.bad()) return bad;
      // Both ends of a pipe see the same bytes; only one read end may carry them.
      for (const format::FileRecord& o : model_.files) {
        if (f.kind == format::kFilePipe && o.kind == format::kFilePipe && o.pair == f.pair &&
            o.content.bytes > 0) {
          f.content = {};
        }
      }
      record_[i] = static_cast<uint32_t>(model_.files.size());
      model_.files.push_back(f);
      const bool shared = f.kind == format::kFileShared;
      bad = describe_locks(all_[i], record_[i], shared, model_);
      if (!bad.bad() && !shared) bad = describe_owner(program(), all_[i], record_[i], f);
      if (bad.bad()) return bad;
    }
    if (all_[i].flies()) continue;
    format::FdRecord r{};
    r.fd = all_[i].fd;
    r.file = record_[i];
    r.cloexec = (all_[i].info.flags & O_CLOEXEC) != 0 ? 1 : 0;
    model_.fds.push_back(r);
  }
  return {};
}

Trouble FileDescriber::run() {
  holder_ = std::make_shared<SocketHolder>(SocketHolder{pid_, tid_, pidfd_, &model_, {}});
  Trouble bad = look_at_all();
  if (!bad.bad()) bad = describe_all();
  if (bad.bad()) return bad;
  for (size_t i = 0; i < all_.size(); i++) {
    if (all_[i].flies()) holder_->files[number(all_[i])] = record_[i];
  }
  // Of several processes when all of them have been looked at.
  return others_.files == nullptr ? sockets_.describe() : Trouble{};
}

}  // namespace

Trouble describe_files(pid_t pid, pid_t tid, int pidfd, const AmongOthers& others,
                       store::Model& model) {
  return FileDescriber(pid, tid, pidfd, others, model).run();
}

}  // namespace cr::agent
