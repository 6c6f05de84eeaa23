// SPDX-License-Identifier: MIT
// restore_files.cc - see restore_files.h. Invariant: as there. Context: N (agent).
#include "agent/restore_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "agent/compare_sockets.h"
#include "agent/file_owners.h"
#include "agent/kind_fifo.h"
#include "agent/kind_pty.h"
#include "agent/kinds.h"
#include "agent/restore_sockets.h"
#include "agent/terminal.h"

namespace cr::agent {
namespace {

std::string errno_text() { return strerror(errno); }

class FileOpener {
 public:
  FileOpener(const format::ImageView& image, const std::string& image_dir,
             const PlanOptions& options, ObjectMaker& objects, RestorePlan& plan)
      : image_(image),
        image_dir_(image_dir),
        live_pidfd_(options.live_pidfd),
        shared_(options.shared),
        member_(options.member),
        objects_(objects),
        plan_(plan) {}
  Trouble run(std::vector<format::PlanFd>* ret_fds);

 private:
  Trouble open_one(const format::FileRecord& f, os::Fd* ret, PendingFile* pending);
  Trouble make_anew(const KindOfFile& kind, const SavedFile& f, os::Fd* ret);
  Trouble open_regular(const format::FileRecord& f, os::Fd* ret, PendingFile* pending);
  Trouble open_deleted(const format::FileRecord& f, os::Fd* ret);
  Trouble open_pipe(const format::FileRecord& f, os::Fd* ret);
  Trouble look_at_terminal(const format::FileRecord& f);
  Trouble open_own_terminal(const format::FileRecord& f, os::Fd* ret);
  Trouble broken_pipe(const format::FileRecord& f, os::Fd* ret);
  Trouble make_sockets();
  void place_flying(const format::FileRecord& f, const PendingFile& pending, int fd);
  Trouble open_path(const format::FileRecord& f, uint32_t extra, os::Fd* ret);
  bool take_live(const format::FileRecord& f, os::Fd* ret) const;
  Trouble take_shared(const format::FileRecord& f, os::Fd* ret) const;
  std::string describe(const format::FileRecord& f) const;

  using Pipe = SharedMakings::Pipe;
  const format::ImageView& image_;
  const std::string& image_dir_;
  int live_pidfd_;
  SharedMakings* const shared_;
  const uint32_t member_;
  ObjectMaker& objects_;
  RestorePlan& plan_;
  std::map<uint32_t, Pipe> own_pipes_;
  std::map<uint32_t, Pipe>& pipes_ = shared_ != nullptr ? shared_->pipes : own_pipes_;
  FifoOpener fifos_{live_pidfd_ >= 0};
  SharedMakings::Unnamed own_unnamed_;
  SharedMakings::Unnamed& unnamed_ = shared_ != nullptr ? shared_->unnamed : own_unnamed_;
  SocketMaker own_sockets_{plan_.warnings, plan_.undo};
  SocketMaker& sockets_ = shared_ != nullptr ? *shared_->sockets : own_sockets_;
  PtyMaker own_ptys_{live_pidfd_};
  PtyMaker& ptys_ = shared_ != nullptr ? *shared_->ptys : own_ptys_;
};

std::string FileOpener::describe(const format::FileRecord& f) const {
  for (const format::FdRecord& r : image_.fds) {
    if (&image_.files[r.file] == &f) {
      return "fd " + std::to_string(r.fd) + " (" + image_.string(f.path) + ")";
    }
  }
  return image_.string(f.path);
}

// O_ASYNC would be shown and do nothing: it is set by file_owners.cc.
uint32_t reopen_flags(const format::FileRecord& f) {
  return f.open_flags &
         ~static_cast<uint32_t>(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_CLOEXEC | O_ASYNC);
}

Trouble FileOpener::open_path(const format::FileRecord& f, uint32_t extra, os::Fd* ret) {
  const int fd =
      open(image_.string(f.path), static_cast<int>(reopen_flags(f) | extra) | O_CLOEXEC | O_NOCTTY);
  if (fd < 0)
    return trouble(Errc::kSystem, errno, describe(f) + " cannot be opened: " + errno_text());
  *ret = os::Fd(fd);
  return {};
}

// restore() in place: the description that the process still has for this file.
bool FileOpener::take_live(const format::FileRecord& f, os::Fd* ret) const {
  if (live_pidfd_ < 0) return false;
  for (const format::FdRecord& r : image_.fds) {
    if (&image_.files[r.file] != &f) continue;
    os::Fd fd(static_cast<int>(syscall(__NR_pidfd_getfd, live_pidfd_, r.fd, 0)));
    struct stat st;
    if (!fd || fstat(fd.get(), &st) != 0 || st.st_dev != f.dev || st.st_ino != f.ino) continue;
    const auto flags = static_cast<uint32_t>(fcntl(fd.get(), F_GETFL));
    if ((flags & O_ACCMODE) != (f.open_flags & O_ACCMODE)) continue;
    *ret = std::move(fd);
    return true;
  }
  return false;
}

// The open file that another process of the tree has.
Trouble FileOpener::take_shared(const format::FileRecord& f, os::Fd* ret) const {
  if (shared_ != nullptr) {
    auto it = shared_->files.find({static_cast<uint32_t>(f.file_bytes), f.pair});
    if (it != shared_->files.end()) *ret = os::Fd(fcntl(it->second.get(), F_DUPFD_CLOEXEC, 0));
  }
  if (*ret) return {};
  return trouble(Errc::kUnsupported, 0,
                 describe(f) +
                     " is shared with another process of its tree, which does not have "
                     "it; restore the whole tree");
}

Trouble FileOpener::open_regular(const format::FileRecord& f, os::Fd* ret, PendingFile* pending) {
  const std::string path = image_.string(f.path);
  if (plan_.put_back_later.contains(path)) {  // nothing is started
    *ret = os::Fd(open("/dev/null", O_RDWR | O_CLOEXEC));
    return {};
  }
  struct stat st;
  if (lstat(path.c_str(), &st) != 0 && errno == ENOENT &&
      !rename_back(f.ino, image_.super.realtime_ns, path, plan_.warnings)) {
    return trouble(Errc::kNotFound, ENOENT,
                   describe(f) + " was removed since the checkpoint; put it back, then try again");
  }
  if (!take_live(f, ret)) {
    Trouble bad = open_path(f, 0, ret);
    if (bad.bad()) return bad;
  }
  if (fstat(ret->get(), &st) != 0 || !S_ISREG(st.st_mode)) {
    return trouble(Errc::kUnsupported, 0, describe(f) + " is no regular file any more");
  }
  const auto bytes = static_cast<uint64_t>(st.st_size);
  const bool writable = (f.open_flags & O_ACCMODE) != O_RDONLY;
  if (bytes < f.file_bytes) {
    return trouble(Errc::kUnsupported, 0,
                   describe(f) + " is shorter (" + std::to_string(bytes) +
                       " bytes) than at the checkpoint (" + std::to_string(f.file_bytes) +
                       "); its content cannot be put back");
  }
  if (writable && bytes > f.file_bytes) {
    pending->truncate = true;
    pending->bytes = f.file_bytes;
  }
  pending->path = path;
  pending->seek = true;  // later: a live description may still be in use
  pending->position = f.position;
  return {};
}

Trouble FileOpener::open_deleted(const format::FileRecord& f, os::Fd* ret) {
  constexpr uint32_t kTmpfile = O_TMPFILE & ~O_DIRECTORY;
  const bool made_unnamed = (f.open_flags & kTmpfile) != 0;
  auto it = unnamed_.find({f.dev, f.ino});
  if (it == unnamed_.end()) {
    const std::string path = image_.string(f.path);
    const std::string dir = path.substr(0, path.find_last_of('/'));
    // A file that was made by O_TMPFILE shows that in its flags.
    const auto flags = made_unnamed ? static_cast<int>(reopen_flags(f)) : O_TMPFILE | O_RDWR;
    os::Fd fresh(open(dir.c_str(), flags | O_CLOEXEC, f.mode & 07777));
    const bool keeps_flags = made_unnamed && fresh;
    if (!fresh) fresh = os::Fd(open(image_dir_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!fresh) fresh = os::Fd(memfd_create("cr-unnamed", MFD_CLOEXEC));
    const auto content = image_.blob(f.content);
    size_t done = 0;
    while (fresh && done < content.size()) {
      const ssize_t n = pwrite(fresh.get(), content.data() + done, content.size() - done,
                               static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
    if (!fresh || done != content.size()) {
      return trouble(Errc::kSystem, errno,
                     describe(f) + ": the unnamed file cannot be made: " + errno_text());
    }
    it = unnamed_.emplace(std::pair(f.dev, f.ino), std::move(fresh)).first;
    if (keeps_flags) {
      *ret = os::Fd(fcntl(it->second.get(), F_DUPFD_CLOEXEC, 0));
      if (lseek(ret->get(), static_cast<off_t>(f.position), SEEK_SET) < 0) {
        return trouble(Errc::kSystem, errno, describe(f) + ": " + errno_text());
      }
      return {};
    }
  }
  const std::string again = "/proc/self/fd/" + std::to_string(it->second.get());
  const uint32_t flags =
      reopen_flags(f) & ~kTmpfile & ~static_cast<uint32_t>(O_DIRECTORY | O_NOFOLLOW);
  os::Fd fd(open(again.c_str(), static_cast<int>(flags) | O_CLOEXEC));
  if (!fd || lseek(fd.get(), static_cast<off_t>(f.position), SEEK_SET) < 0) {
    return trouble(Errc::kSystem, errno, describe(f) + ": " + errno_text());
  }
  *ret = std::move(fd);
  return {};
}

Trouble FileOpener::open_pipe(const format::FileRecord& f, os::Fd* ret) {
  const bool reading = (f.open_flags & O_ACCMODE) == O_RDONLY;
  auto it = pipes_.find(f.pair);
  if (it == pipes_.end()) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | static_cast<int>(f.open_flags & O_DIRECT)) != 0) {
      return trouble(Errc::kSystem, errno, "making a pipe: " + errno_text());
    }
    Pipe p;
    p.read_end = os::Fd(ends[0]);
    p.write_end = os::Fd(ends[1]);
    if (f.pipe_bytes > 0 && fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(f.pipe_bytes)) < 0) {
      plan_.warnings.push_back(describe(f) + ": the pipe's size could not be set: " + errno_text());
    }
    it = pipes_.emplace(f.pair, std::move(p)).first;
  }
  Pipe& p = it->second;
  const auto content = image_.blob(f.content);
  if (!content.empty() && !p.filled) {
    p.filled = true;
    const int old = fcntl(p.write_end.get(), F_GETFL);
    fcntl(p.write_end.get(), F_SETFL, old | O_NONBLOCK);
    const ssize_t n = write(p.write_end.get(), content.data(), content.size());
    fcntl(p.write_end.get(), F_SETFL, old);
    if (n != static_cast<ssize_t>(content.size())) {
      return trouble(Errc::kSystem, errno, describe(f) + ": the pipe's content does not fit");
    }
  }
  // A description of its own for each, as it was.
  const int end = reading ? p.read_end.get() : p.write_end.get();
  const std::string again = "/proc/self/fd/" + std::to_string(end);
  os::Fd fd(open(again.c_str(), static_cast<int>(reopen_flags(f)) | O_CLOEXEC));
  if (!fd) return trouble(Errc::kSystem, errno, describe(f) + ": " + errno_text());
  *ret = std::move(fd);
  return {};
}

// What led outside and has no counterpart here: end of file for a reader, EPIPE for a writer.
Trouble FileOpener::broken_pipe(const format::FileRecord& f, os::Fd* ret) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return trouble(Errc::kSystem, errno, "making a pipe: " + errno_text());
  os::Fd reading(ends[0]), writing(ends[1]);
  const bool reader = (f.open_flags & O_ACCMODE) == O_RDONLY;
  *ret = reader ? std::move(reading) : std::move(writing);
  plan_.warnings.push_back(describe(f) + " led outside; its other end is closed now");
  return {};
}

// Of a terminal the place may be taken by something else, if the program can do with it.
Trouble FileOpener::look_at_terminal(const format::FileRecord& f) {
  const SavedFile saved = saved_file(image_, static_cast<uint32_t>(&f - &image_.files[0]));
  const os::Fd own(f.std_fd < 0 ? open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC)
                                : fcntl(f.std_fd, F_DUPFD_CLOEXEC, 3));
  const std::string why = needs_terminal(saved, own.get());
  if (!why.empty()) return trouble(Errc::kUnsupported, ENOTTY, why);
  if (f.std_fd >= 0 && own && isatty(own.get()) == 0) {
    plan_.warnings.push_back(saved.name + " was a terminal; descriptor " +
                             std::to_string(f.std_fd) +
                             " of crrestore, which is none, takes its place");
  }
  return {};
}

Trouble FileOpener::open_own_terminal(const format::FileRecord& f, os::Fd* ret) {
  *ret = os::Fd(open("/dev/tty", static_cast<int>(reopen_flags(f)) | O_CLOEXEC | O_NOCTTY));
  if (*ret) return {};
  return trouble(Errc::kSystem, errno,
                 describe(f) +
                     ": the program has its controlling terminal open, and there is none "
                     "here; run crrestore in a terminal (script -qc 'crrestore "
                     "IMAGE.dir' /dev/null makes one)");
}

// What only the process itself can make is made by the plan's calls, in this one's place.
Trouble FileOpener::make_anew(const KindOfFile& kind, const SavedFile& f, os::Fd* ret) {
  const std::string why = kind.why_not != nullptr ? kind.why_not(f) : "";
  if (!why.empty()) return trouble(Errc::kNotFound, ENOENT, why);
  Recipe recipe;
  kind.make(f, recipe);
  const bool by_process = kind.by_process != nullptr && kind.by_process(f);
  if (by_process) {
    *ret = os::Fd(open("/dev/null", O_RDWR | O_CLOEXEC));
  } else if (kind.by_agent != nullptr && kind.by_agent(f)) {
    *ret = kind.make_here(f);
  } else {
    const long r = recipe.run_here();
    *ret = os::Fd(static_cast<int>(std::max(r, -1L)));
    errno = static_cast<int>(-r);
  }
  if (!*ret) {
    return trouble(Errc::kSystem, errno, f.name + " cannot be made again: " + strerror(errno));
  }
  const uint32_t flags = f.file.open_flags & (O_APPEND | O_NONBLOCK);
  if (!by_process && flags != 0) fcntl(ret->get(), F_SETFL, flags);
  return {};
}

Trouble FileOpener::open_one(const format::FileRecord& f, os::Fd* ret, PendingFile* pending) {
  if (const KindOfFile* kind = kind_of_file(f.kind); kind != nullptr) {
    return make_anew(*kind, saved_file(image_, static_cast<uint32_t>(&f - &image_.files[0])), ret);
  }
  switch (f.kind) {
    case format::kFileRegular:
      return open_regular(f, ret, pending);
    case format::kFileDeleted:
      return open_deleted(f, ret);
    case format::kFilePipe:
      return open_pipe(f, ret);
    case format::kFileShared:
      return take_shared(f, ret);
    case format::kFileObject:
      return objects_.open_descriptor(f, ret);
    case format::kFileFifo:
      return fifos_.open(saved_file(image_, static_cast<uint32_t>(&f - &image_.files[0])), ret);
    case format::kFileSocket: {
      *ret = sockets_.get(f.ino);
      if (*ret) return {};
      return trouble(Errc::kSystem, errno, describe(f) + ": " + errno_text());
    }
    case format::kFilePtyMaster:
      return ptys_.open_master(saved_file(image_, static_cast<uint32_t>(&f - &image_.files[0])),
                               ret);
    case format::kFilePtySlave:
      return ptys_.open_slave(saved_file(image_, static_cast<uint32_t>(&f - &image_.files[0])),
                              ret);
    case format::kFileDirectory: {
      Trouble bad = open_path(f, O_DIRECTORY, ret);
      if (!bad.bad()) lseek(ret->get(), static_cast<off_t>(f.position), SEEK_SET);
      return bad;
    }
    case format::kFilePlugin:  // keeps the number until the plug-in has made it
      *ret = os::Fd(open("/dev/null", O_RDWR | O_CLOEXEC));
      return *ret ? Trouble{} : trouble(Errc::kSystem, errno, "/dev/null: " + errno_text());
    case format::kFileDevice:
    case format::kFileOpath:
      return open_path(f, 0, ret);
    case format::kFileProc: {
      const std::string path = image_.string(f.path);
      if (!path.starts_with(format::kProcSelf)) return open_path(f, 0, ret);
      pending->proc_path = path.substr(strlen(format::kProcSelf));
      pending->proc_flags = reopen_flags(f);
      pending->position = f.position;
      return {};
    }
    case format::kFileTerminal: {
      if (take_live(f, ret)) return {};
      Trouble bad = look_at_terminal(f);
      if (bad.bad() || f.std_fd < 0) return bad.bad() ? bad : open_own_terminal(f, ret);
    }
      [[fallthrough]];
    case format::kFileStdPipe: {
      if (take_live(f, ret)) return {};
      int own = -1;
      struct stat st;
      if (f.std_fd <= 2 ||
          (fstat(f.std_fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)))) {
        own = fcntl(f.std_fd, F_DUPFD_CLOEXEC, 0);
      }
      if (own < 0 && f.std_fd > 2) return broken_pipe(f, ret);
      if (own < 0) {
        return trouble(Errc::kSystem, errno,
                       describe(f) + " led outside; descriptor " + std::to_string(f.std_fd) +
                           " of crrestore, which takes its place, is closed");
      }
      *ret = os::Fd(own);
      return {};
    }
    default:
      return trouble(Errc::kUnsupported, 0, describe(f) + ": unknown kind of file");
  }
}

// Those that the process that is rolled back has as they were it keeps.
Trouble FileOpener::make_sockets() {
  if (shared_ != nullptr) return {};  // with those of all processes
  sockets_.add(image_);
  if (live_pidfd_ >= 0) {
    for (const auto& [ino, change] : compare_sockets(image_, live_pidfd_, 0)) {
      os::Fd live = live_socket(image_, ino, live_pidfd_);
      if (change == SocketChange::kNone && live) sockets_.keep(ino, std::move(live));
    }
  }
  return sockets_.make();
}

// One that waits in a socket (SCM_RIGHTS) has no number in the program, which sets the offsets of
// those that have one.
void FileOpener::place_flying(const format::FileRecord& f, const PendingFile& pending, int fd) {
  const auto is_of_file = [&](const format::FdRecord& r) { return &image_.files[r.file] == &f; };
  if (!pending.seek || std::ranges::any_of(image_.fds, is_of_file)) return;
  lseek(fd, static_cast<off_t>(pending.position), SEEK_SET);
  if (pending.truncate) {
    plan_.warnings.push_back(pending.path +
                             " is longer than at the checkpoint; its descriptor waits in a socket, "
                             "so it was not cut back");
  }
}

Trouble FileOpener::run(std::vector<format::PlanFd>* ret_fds) {
  std::vector<uint32_t> index(image_.files.size());
  Trouble bad = make_sockets();
  if (bad.bad()) return bad;
  for (size_t i = 0; i < image_.files.size(); i++) {
    os::Fd fd;
    PendingFile pending;
    bad = open_one(image_.files[i], &fd, &pending);
    if (bad.bad()) return bad;
    signal_own_group(image_, static_cast<uint32_t>(i), fd.get());
    if (shared_ != nullptr && fd) {
      os::Fd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
      shared_->files[{member_, static_cast<uint32_t>(i)}] = std::move(copy);
    }
    place_flying(image_.files[i], pending, fd.get());
    index[i] = static_cast<uint32_t>(plan_.fds.size());
    if (pending.truncate || pending.seek || !pending.proc_path.empty()) {
      pending.fd = static_cast<int>(plan_.fds.size());
      plan_.pending.push_back(pending);
    }
    plan_.fds.push_back(std::move(fd));
  }
  for (const format::FdRecord& r : image_.fds) {
    ret_fds->push_back({r.fd, index[r.file], r.cloexec, 0});
  }
  if (shared_ != nullptr) return {};
  bad = sockets_.finish(
      [&](const format::ImageView&, uint32_t file) { return plan_.fds[index[file]].get(); });
  if (bad.bad()) return bad;
  plan_.sockets_to_fill = sockets_.filled_by_process();
  for (uint32_t i = 0; i < image_.files.size(); i++) {
    const format::FileRecord& f = image_.files[i];
    const auto flags = static_cast<int>(f.open_flags & (O_APPEND | O_NONBLOCK));
    if (f.kind == format::kFileSocket) fcntl(plan_.fds[index[i]].get(), F_SETFL, flags);
  }
  return ptys_.finish(plan_.warnings);
}

}  // namespace

namespace {

bool was_made_since(const std::string& path, uint64_t checkpoint_ns) {
  struct statx s {};
  if (statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BTIME, &s) != 0) return false;
  const uint64_t made_ns =
      static_cast<uint64_t>(s.stx_btime.tv_sec) * 1000000000 + s.stx_btime.tv_nsec;
  return (s.stx_mask & STATX_BTIME) != 0 && made_ns > checkpoint_ns;
}

// The process's directory in the /proc that itself sees, which is another one if it is in a pid
// namespace of its own. *ret_id: its id there.
std::string own_proc(pid_t pid, pid_t* ret_id) {
  const std::string outer = "/proc/" + std::to_string(pid);
  const std::string inner = outer + "/root/proc";
  struct stat ours, theirs;
  *ret_id = pid;
  if (stat("/proc", &ours) != 0 || stat(inner.c_str(), &theirs) != 0) return outer;
  if (ours.st_dev == theirs.st_dev) return outer;
  *ret_id = os::innermost_id(os::read_or_empty(os::task_path(pid, pid, "status")), "NStgid");
  return inner + "/" + std::to_string(*ret_id);
}

}  // namespace

bool rename_back(uint64_t ino, uint64_t checkpoint_ns, const std::string& path,
                 std::vector<std::string>& warnings) {
  const size_t slash = path.find_last_of('/');
  const std::string dir = slash == 0 ? "/" : path.substr(0, slash);
  DIR* d = opendir(dir.c_str());
  if (d == nullptr) return false;
  std::string found;
  while (const dirent* e = readdir(d)) {
    if (e->d_ino == ino) found = dir + "/" + e->d_name;
  }
  closedir(d);
  struct stat st;
  if (found.empty() || lstat(found.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  if (was_made_since(found, checkpoint_ns)) return false;
  if (link(found.c_str(), path.c_str()) != 0) return false;  // never over an existing file
  unlink(found.c_str());
  warnings.push_back("renamed " + found + " back to " + path);
  return true;
}

Trouble open_files(const format::ImageView& image, const std::string& image_dir,
                   const PlanOptions& options, ObjectMaker& objects, RestorePlan& plan,
                   std::vector<format::PlanFd>* ret_fds) {
  return FileOpener(image, image_dir, options, objects, plan).run(ret_fds);
}

Trouble open_proc_files(RestorePlan& plan, pid_t pid) {
  for (const PendingFile& p : plan.pending) {
    if (p.proc_path.empty()) continue;
    os::Fd& fd = plan.fds[static_cast<size_t>(p.fd)];
    pid_t id = 0;
    std::string path = own_proc(pid, &id) + "/";
    if (p.proc_path.starts_with(format::kProcTaskSelf)) {
      path += "task/" + std::to_string(id) + p.proc_path.substr(strlen(format::kProcTaskSelf));
    } else {
      path += p.proc_path;
    }
    fd = os::Fd(open(path.c_str(), static_cast<int>(p.proc_flags) | O_CLOEXEC));
    if (!fd) return trouble(Errc::kSystem, errno, path + " cannot be opened: " + errno_text());
    lseek(fd.get(), static_cast<off_t>(p.position), SEEK_SET);
  }
  return {};
}

}  // namespace cr::agent
