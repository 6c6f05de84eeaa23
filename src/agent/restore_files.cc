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

#include <map>

#include "agent/file_owners.h"
#include "agent/kind_fifo.h"
#include "agent/kinds.h"

namespace cr::agent {
namespace {

std::string errno_text() { return strerror(errno); }

class FileOpener {
 public:
  FileOpener(const format::ImageView& image, const std::string& image_dir, int live_pidfd,
             ObjectMaker& objects, RestorePlan& plan)
      : image_(image),
        image_dir_(image_dir),
        live_pidfd_(live_pidfd),
        objects_(objects),
        plan_(plan) {}
  Trouble run(std::vector<format::PlanFd>* ret_fds);

 private:
  Trouble open_one(const format::FileRecord& f, os::Fd* ret, PendingFile* pending);
  Trouble make_anew(const KindOfFile& kind, const SavedFile& f, os::Fd* ret);
  Trouble open_regular(const format::FileRecord& f, os::Fd* ret, PendingFile* pending);
  Trouble open_deleted(const format::FileRecord& f, os::Fd* ret);
  Trouble open_pipe(const format::FileRecord& f, os::Fd* ret);
  Trouble broken_pipe(const format::FileRecord& f, os::Fd* ret);
  Trouble open_path(const format::FileRecord& f, uint32_t extra, os::Fd* ret);
  bool take_live(const format::FileRecord& f, os::Fd* ret) const;
  std::string describe(const format::FileRecord& f) const;

  struct Pipe {
    os::Fd read_end, write_end;
    bool filled = false;
  };
  const format::ImageView& image_;
  const std::string& image_dir_;
  int live_pidfd_;
  ObjectMaker& objects_;
  RestorePlan& plan_;
  std::map<uint32_t, Pipe> pipes_;
  FifoOpener fifos_{live_pidfd_ >= 0};
  std::map<uint64_t, os::Fd> unnamed_;  // by inode number
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

Trouble FileOpener::open_regular(const format::FileRecord& f, os::Fd* ret, PendingFile* pending) {
  const std::string path = image_.string(f.path);
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
  auto it = unnamed_.find(f.ino);
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
    it = unnamed_.emplace(f.ino, std::move(fresh)).first;
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

// What only the process itself can make is made by the plan's calls, in this one's place.
Trouble FileOpener::make_anew(const KindOfFile& kind, const SavedFile& f, os::Fd* ret) {
  const std::string why = kind.why_not != nullptr ? kind.why_not(f) : "";
  if (!why.empty()) return trouble(Errc::kNotFound, ENOENT, why);
  Recipe recipe;
  kind.make(f, recipe);
  const long r = kind.by_process ? open("/dev/null", O_RDWR | O_CLOEXEC) : recipe.run_here();
  if (r < 0) {
    const int e = kind.by_process ? errno : static_cast<int>(-r);
    return trouble(Errc::kSystem, e, f.name + " cannot be made again: " + strerror(e));
  }
  *ret = os::Fd(static_cast<int>(r));
  const uint32_t flags = f.file.open_flags & (O_APPEND | O_NONBLOCK);
  if (!kind.by_process && flags != 0) fcntl(ret->get(), F_SETFL, flags);
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
    case format::kFileObject:
      return objects_.open_descriptor(f, ret);
    case format::kFileFifo:
      return fifos_.open(saved_file(image_, static_cast<uint32_t>(&f - &image_.files[0])), ret);
    case format::kFileDirectory: {
      Trouble bad = open_path(f, O_DIRECTORY, ret);
      if (!bad.bad()) lseek(ret->get(), static_cast<off_t>(f.position), SEEK_SET);
      return bad;
    }
    case format::kFileDevice:
    case format::kFileOpath:
      return open_path(f, 0, ret);
    case format::kFileProc: {
      const std::string path = image_.string(f.path);
      static const std::string kSelf = "/proc/self/";
      if (!path.starts_with(kSelf)) return open_path(f, 0, ret);
      pending->proc_path = path.substr(kSelf.size());
      pending->proc_flags = reopen_flags(f);
      pending->position = f.position;
      return {};
    }
    case format::kFileTerminal:
      if (take_live(f, ret)) return {};
      if (f.std_fd < 0) {
        *ret = os::Fd(open("/dev/tty", static_cast<int>(reopen_flags(f)) | O_CLOEXEC | O_NOCTTY));
        if (!*ret) {
          return trouble(Errc::kSystem, errno, describe(f) + ": there is no controlling terminal");
        }
        return {};
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

Trouble FileOpener::run(std::vector<format::PlanFd>* ret_fds) {
  std::vector<uint32_t> index(image_.files.size());
  for (size_t i = 0; i < image_.files.size(); i++) {
    os::Fd fd;
    PendingFile pending;
    Trouble bad = open_one(image_.files[i], &fd, &pending);
    if (bad.bad()) return bad;
    signal_own_group(image_, static_cast<uint32_t>(i), fd.get());
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
  return {};
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

Trouble open_files(const format::ImageView& image, const std::string& image_dir, int live_pidfd,
                   ObjectMaker& objects, RestorePlan& plan, std::vector<format::PlanFd>* ret_fds) {
  return FileOpener(image, image_dir, live_pidfd, objects, plan).run(ret_fds);
}

Trouble open_proc_files(RestorePlan& plan, pid_t pid) {
  for (const PendingFile& p : plan.pending) {
    if (p.proc_path.empty()) continue;
    os::Fd& fd = plan.fds[static_cast<size_t>(p.fd)];
    const std::string path = "/proc/" + std::to_string(pid) + "/" + p.proc_path;
    fd = os::Fd(open(path.c_str(), static_cast<int>(p.proc_flags) | O_CLOEXEC));
    if (!fd) return trouble(Errc::kSystem, errno, path + " cannot be opened: " + errno_text());
    lseek(fd.get(), static_cast<off_t>(p.position), SEEK_SET);
  }
  return {};
}

}  // namespace cr::agent
