// SPDX-License-Identifier: MIT
// rollback_files.cc - see rollback_files.h. Invariant: as there. Context: N (agent).
#include "agent/rollback_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "agent/file_locks.h"
#include "agent/file_owners.h"
#include "agent/kind_fifo.h"
#include "agent/kinds.h"
#include "agent/pipe_content.h"
#include "agent/rollback_sockets.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

using format::FileRecord;

constexpr uint32_t kSettable = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME;

struct Now {  // a descriptor as it is
  struct stat st {};
  os::FdInfo info;
};

class FileDiff {
 public:
  FileDiff(const format::ImageView& image, pid_t pid, pid_t tid, int pidfd, FileChange& out)
      : image_(image), pid_(pid), tid_(tid), pidfd_(pidfd), out_(out) {}
  std::string run();

 private:
  void look_at_all();
  void check_locks();
  void look_at_new(int fd);
  void put_back(uint32_t file);
  void put_back_live(const FileRecord& f, int fd);
  void reopen(uint32_t file);
  void make_anew(const KindOfFile& kind, uint32_t file);
  int place_all(uint32_t file, size_t reopen);
  void pipe_content(const FileRecord& f, int fd);
  void pty_state(uint32_t file, int fd);
  void deleted_content(const FileRecord& f, int fd);
  bool matches(int fd, const FileRecord& f) const;
  bool same_description(int a, int b);
  bool taken(int fd);
  std::string fd_path(int fd) const {
    return os::task_path(pid_, tid_, "fd/") + std::to_string(fd);
  }
  std::string name(const FileRecord& f) const { return image_.string(f.path); }
  void refuse(const std::string& why) {
    if (why_.empty()) why_ = why;
  }

  const format::ImageView& image_;
  pid_t pid_, tid_;
  int pidfd_;
  FileChange& out_;
  std::map<int, Now> now_;
  std::vector<int> live_;  // descriptors that are what they were, one of each open file
  struct Pipe {
    int read_fd = -1;
    format::BlobRef content{};
  };
  std::map<std::pair<uint32_t, uint64_t>, Pipe> pipes_;  // by kind and number
  std::string why_;
};

void FileDiff::look_at_all() {
  auto fds = os::list_fds(pid_, tid_);
  if (!fds) return refuse("the descriptors cannot be listed");
  for (const int fd : *fds) {
    Now n;
    auto info = os::read_fdinfo(pid_, tid_, fd);
    if (!info || stat(fd_path(fd).c_str(), &n.st) != 0) {
      return refuse("fd " + std::to_string(fd) + " cannot be looked at");
    }
    n.info = std::move(*info);
    out_.free_number = std::max(out_.free_number, fd + 1);
    now_.emplace(fd, std::move(n));
  }
  for (const format::FdRecord& r : image_.fds) {
    out_.free_number = std::max(out_.free_number, r.fd + 1);
  }
}

// Opened since: it is closed. The kernel may go on writing to memory for these two.
void FileDiff::look_at_new(int fd) {
  auto link = os::read_link(fd_path(fd));
  if (!link || link->starts_with("anon_inode:[io_uring]") ||
      link->starts_with("anon_inode:[userfaultfd]")) {
    return refuse("fd " + std::to_string(fd) + " (" + (link ? *link : "?") + ") was opened since");
  }
  out_.close.push_back(fd);
}

bool FileDiff::same_description(int a, int b) {
  if (a == b) return true;
  const Now &x = now_[a], &y = now_[b];
  if (x.st.st_dev != y.st.st_dev || x.st.st_ino != y.st.st_ino) return false;
  const long r = syscall(__NR_kcmp, pid_, pid_, KCMP_FILE, a, b);
  if (r < 0) refuse(std::string("kcmp: ") + strerror(errno));
  return r == 0;
}

// Another open file of the image has this descriptor's already.
bool FileDiff::taken(int fd) {
  return std::ranges::any_of(live_, [&](int other) { return same_description(fd, other); });
}

bool FileDiff::matches(int fd, const FileRecord& f) const {
  const auto it = now_.find(fd);
  if (it == now_.end()) return false;
  const Now& n = it->second;
  if (n.st.st_dev != f.dev || n.st.st_ino != f.ino) return false;
  const bool outside = f.kind == format::kFileTerminal || f.kind == format::kFileStdPipe;
  const auto differ = static_cast<uint32_t>(n.info.flags) ^ f.open_flags;
  return (differ & (outside ? O_ACCMODE : ~(kSettable | O_CLOEXEC))) == 0;
}

void FileDiff::deleted_content(const FileRecord& f, int fd) {
  const auto want = image_.blob(f.content);
  const Now& n = now_[fd];
  os::Fd in(open(fd_path(fd).c_str(), O_RDONLY | O_CLOEXEC));
  if (!in) return refuse("the unnamed file " + name(f) + " cannot be read");
  bool same = static_cast<uint64_t>(n.st.st_size) == want.size();
  std::string buffer(1 << 20, '\0');
  for (size_t at = 0; same && at < want.size();) {
    const ssize_t r = pread(in.get(), buffer.data(), std::min(buffer.size(), want.size() - at),
                            static_cast<off_t>(at));
    same = r > 0 && memcmp(buffer.data(), want.data() + at, static_cast<size_t>(r)) == 0;
    if (same) at += static_cast<size_t>(r);
  }
  if (same) return;
  FileChange::Content c;
  c.file = os::Fd(open(fd_path(fd).c_str(), O_RDWR | O_CLOEXEC));
  if (!c.file) return refuse("the unnamed file " + name(f) + " cannot be written");
  c.bytes.assign(reinterpret_cast<const char*>(want.data()), want.size());
  out_.contents.push_back(std::move(c));
}

void FileDiff::pipe_content(const FileRecord& f, int fd) {
  Pipe& p = pipes_[{f.kind, f.kind == format::kFileFifo ? f.ino ^ f.dev << 32 : f.pair}];
  if ((f.open_flags & O_ACCMODE) != O_WRONLY) p.read_fd = fd;
  if (f.content.bytes != 0) p.content = f.content;
}

void FileDiff::pty_state(uint32_t file, int fd) {
  const auto copy = [&](int number) {
    return os::Fd(static_cast<int>(syscall(__NR_pidfd_getfd, pidfd_, number, 0)));
  };
  os::Fd slave;
  for (const format::FdRecord& r : image_.fds) {
    const FileRecord& o = image_.files[r.file];
    const bool other_end = o.kind == format::kFilePtySlave && o.file_bytes == 0 &&
                           o.pair == image_.files[file].pair && matches(r.fd, o);
    if (other_end && (o.open_flags & O_ACCMODE) == O_RDWR) slave = copy(r.fd);
  }
  PtyChange change;
  const std::string why =
      plan_pty_change(saved_file(image_, file), copy(fd), std::move(slave), &change);
  if (!why.empty()) return refuse(why);
  out_.ptys.push_back(std::move(change));
}

// What hangs on the open file and not on its number.
void FileDiff::put_back_live(const FileRecord& f, int fd) {
  using What = FileChange::What;
  const Now& n = now_[fd];
  const auto set = [&](What what, uint64_t value) { out_.set.push_back({fd, what, value}); };
  if (image_.locks.empty() && n.info.extra.find("\nlock:") != std::string::npos) {
    out_.unlock.push_back(fd);
  }
  const auto flags = static_cast<uint32_t>(n.info.flags);
  if (f.kind == format::kFileTerminal || f.kind == format::kFileStdPipe) return;
  const os::Fd copy(static_cast<int>(syscall(__NR_pidfd_getfd, pidfd_, fd, 0)));
  const auto file = static_cast<uint32_t>(&f - &image_.files[0]);
  const OwnerChange owner =
      copy ? compare_owner(image_, file, pid_, copy.get()) : OwnerChange::kNone;
  if (owner == OwnerChange::kTakeAway) set(What::kNoOwner, 0);
  if (owner == OwnerChange::kImpossible) return refuse("whom a descriptor signals has changed");
  if (((flags ^ f.open_flags) & kSettable) != 0) set(What::kFlags, f.open_flags & kSettable);
  switch (f.kind) {
    case format::kFileRegular: {
      struct stat st;
      if (lstat(name(f).c_str(), &st) != 0 || st.st_ino != f.ino || st.st_dev != f.dev) {
        return refuse(name(f) + " was removed or renamed");
      }
      const auto bytes = static_cast<uint64_t>(n.st.st_size);
      if (bytes < f.file_bytes) return refuse(name(f) + " is shorter than it was");
      const bool writable = (f.open_flags & O_ACCMODE) != O_RDONLY;
      if (writable && bytes > f.file_bytes) set(What::kSize, f.file_bytes);
      break;
    }
    case format::kFileDeleted:
      deleted_content(f, fd);
      break;
    case format::kFilePipe:
      return pipe_content(f, fd);
    case format::kFileFifo:
      return owns_content(f) ? pipe_content(f, fd) : void();
    case format::kFilePtyMaster:
      return pty_state(file, fd);
    case format::kFileDirectory:
    case format::kFileProc:
    case format::kFileObject:  // its content is the object's
      break;
    default:
      return;
  }
  if (n.info.position != f.position) set(What::kPosition, f.position);
}

// The number of a descriptor of the file, which all of them are to be.
int FileDiff::place_all(uint32_t file, size_t reopen) {
  int first = -1;
  for (const format::FdRecord& r : image_.fds) {
    if (r.file != file) continue;
    out_.place.push_back({r.fd, -1, reopen, r.cloexec != 0});
    if (first < 0) first = r.fd;
  }
  return first;
}

// It has no state that could be compared and set as a whole: there will be a new one.
void FileDiff::make_anew(const KindOfFile& kind, uint32_t file) {
  const SavedFile f = saved_file(image_, file);
  const std::string why = kind.why_not != nullptr ? kind.why_not(f) : "";
  if (!why.empty()) return refuse(why);
  if (kind.by_agent != nullptr && kind.by_agent(f)) {
    if (!matches(f.fd, f.file)) return refuse(f.name + " was closed");
    return;
  }
  FileChange::Reopen anew;
  kind.make(f, anew.recipe);
  const size_t index = out_.reopen.size();
  out_.reopen.push_back(std::move(anew));
  const int first = place_all(file, index);
  const uint32_t flags = f.file.open_flags & kSettable;
  if (flags != 0) out_.set.push_back({first, FileChange::What::kFlags, flags});
}

// Closed since: opened again, by path.
void FileDiff::reopen(uint32_t file) {
  const FileRecord& f = image_.files[file];
  const std::string path = name(f);
  const bool by_path = f.kind == format::kFileRegular || f.kind == format::kFileDirectory ||
                       f.kind == format::kFileDevice || f.kind == format::kFileOpath;
  struct stat st;
  if (!by_path || stat(path.c_str(), &st) != 0 || st.st_ino != f.ino || st.st_dev != f.dev) {
    return refuse(path + " was closed or replaced");
  }
  if (f.kind == format::kFileRegular && static_cast<uint64_t>(st.st_size) < f.file_bytes) {
    return refuse(path + " is shorter than it was");
  }
  const uint32_t flags = f.open_flags & ~static_cast<uint32_t>(O_CREAT | O_EXCL | O_TRUNC |
                                                               O_NOCTTY | O_CLOEXEC | O_ASYNC);
  const size_t index = out_.reopen.size();
  FileChange::Reopen open_again;
  open_again.recipe.call(path, __NR_openat,
                         {AT_FDCWD, open_again.recipe.data(path.c_str(), path.size() + 1),
                          flags | O_CLOEXEC | O_NOCTTY});
  out_.reopen.push_back(std::move(open_again));
  const int first = place_all(file, index);
  if (f.kind != format::kFileRegular && f.kind != format::kFileDirectory) return;
  const bool writable = (f.open_flags & O_ACCMODE) != O_RDONLY;
  if (f.kind == format::kFileRegular && writable &&
      static_cast<uint64_t>(st.st_size) > f.file_bytes) {
    out_.set.push_back({first, FileChange::What::kSize, f.file_bytes});
  }
  if (f.position != 0) {
    out_.set.push_back({first, FileChange::What::kPosition, f.position});
  }
}

void FileDiff::put_back(uint32_t file) {
  const FileRecord& f = image_.files[file];
  if (const KindOfFile* kind = kind_of_file(f.kind); kind != nullptr) return make_anew(*kind, file);
  int live = -1;
  for (const format::FdRecord& r : image_.fds) {
    if (r.file == file && live < 0 && matches(r.fd, f) && !taken(r.fd)) live = r.fd;
  }
  if (live < 0) return reopen(file);
  live_.push_back(live);
  put_back_live(f, live);
  for (const format::FdRecord& r : image_.fds) {
    if (r.file != file) continue;
    const auto it = now_.find(r.fd);
    if (it == now_.end() || !same_description(live, r.fd)) {
      out_.place.push_back({r.fd, live, 0, r.cloexec != 0});
    } else if (((it->second.info.flags & O_CLOEXEC) != 0) != (r.cloexec != 0)) {
      out_.set.push_back({r.fd, FileChange::What::kCloseOnExec, r.cloexec});
    }
  }
}

// Locks that are to be held are not let go for a moment: somebody else would get them. So they must
// be as they were, and no descriptor of a file with a record lock may be closed, which drops it.
void FileDiff::check_locks() {
  for (const format::LockRecord& l : image_.locks) {
    const FileRecord& f = image_.files[l.file];
    for (const auto& [fd, n] : now_) {
      if (n.st.st_dev != f.dev || n.st.st_ino != f.ino) continue;
      const bool closed = std::ranges::count(out_.close, fd) != 0 ||
                          std::ranges::any_of(out_.place, [fd = fd](const FileChange::Place& p) {
                            return p.fd == fd;
                          });
      if (closed) return refuse("a locked file was opened again since: " + name(f));
    }
  }
  for (const format::FdRecord& r : image_.fds) {
    const auto it = now_.find(r.fd);
    const bool same = it == now_.end() ? !any_lock(image_, r.file)
                                       : has_locks(it->second.info.extra, image_, r.file);
    if (!image_.locks.empty() && !same) {
      return refuse("file locks have changed: " + name(image_.files[r.file]));
    }
  }
}

std::string FileDiff::run() {
  look_at_all();
  if (!why_.empty()) return why_;
  out_.sockets = std::make_shared<SocketRefill>();
  refuse(out_.sockets->find(image_, pidfd_, tid_));
  for (uint32_t i = 0; i < image_.files.size(); i++) put_back(i);
  for (const auto& [fd, n] : now_) {
    const bool then = std::ranges::any_of(
        image_.fds, [fd = fd](const format::FdRecord& r) { return r.fd == fd; });
    if (!then) look_at_new(fd);
  }
  check_locks();
  for (auto& [number, p] : pipes_) {
    auto copy = [&](int fd) {
      return os::Fd(static_cast<int>(fd < 0 ? -1 : syscall(__NR_pidfd_getfd, pidfd_, fd, 0)));
    };
    FileChange::Content c;
    c.read_end = copy(p.read_fd);
    if (!c.read_end) continue;  // nobody can read what is in it
    const auto want = image_.blob(p.content);
    std::string here;
    if (!peek_pipe(c.read_end.get(), &here)) return "a pipe's content cannot be read";
    c.bytes.assign(reinterpret_cast<const char*>(want.data()), want.size());
    if (c.bytes == here) continue;
    c.write_end = os::Fd(open(("/proc/self/fd/" + std::to_string(c.read_end.get())).c_str(),
                              O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    if (!c.write_end) return "a pipe cannot be written";
    out_.contents.push_back(std::move(c));
  }
  return why_;
}

bool write_all(int fd, const std::string& bytes, bool at_offset) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        at_offset ? pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done))
                  : write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

std::string find_file_change(const format::ImageView& image, pid_t pid, pid_t tid, int pidfd,
                             FileChange* ret) {
  return FileDiff(image, pid, tid, pidfd, *ret).run();
}

std::string put_contents_back(FileChange& change) {
  for (FileChange::Content& c : change.contents) {
    if (c.file) {
      if (ftruncate(c.file.get(), static_cast<off_t>(c.bytes.size())) != 0 ||
          !write_all(c.file.get(), c.bytes, true)) {
        return std::string("writing a file without a name: ") + strerror(errno);
      }
      continue;
    }
    os::Fd nowhere(open("/dev/null", O_WRONLY | O_CLOEXEC));
    while (splice(c.read_end.get(), nullptr, nowhere.get(), nullptr, 1 << 20, SPLICE_F_NONBLOCK) >
           0) {
    }
    if (!write_all(c.write_end.get(), c.bytes, false)) {
      return std::string("filling a pipe: ") + strerror(errno);
    }
  }
  for (PtyChange& p : change.ptys) {
    if (!put_pty_back(p)) return std::string("a pseudoterminal: ") + strerror(errno);
  }
  change.contents.clear();  // the program's pipes must not be held open here
  change.ptys.clear();
  const std::string why = change.sockets ? change.sockets->put_back() : "";
  change.sockets.reset();
  return why;
}

}  // namespace cr::agent
