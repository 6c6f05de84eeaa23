// SPDX-License-Identifier: MIT
// kind_fifo.cc - see kind_fifo.h. Invariant: as there. Context: N (agent).
#include "agent/kind_fifo.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/pipe_content.h"

namespace cr::agent {
namespace {

uint64_t access_of(uint64_t flags) { return flags & O_ACCMODE; }

// The program has both ends.
bool is_inside(const Program& program, const Descriptor& d) {
  if (access_of(d.info.flags) == O_RDWR) return true;
  for (const Descriptor& o : program.all) {
    const bool same = o.st.st_ino == d.st.st_ino && o.st.st_dev == d.st.st_dev;
    const bool usable = (o.info.flags & O_PATH) == 0;
    if (same && usable && access_of(o.info.flags) != access_of(d.info.flags)) return true;
  }
  return false;
}

// The kernel shows nobody at the other end: all writers have gone, or all readers.
bool is_alone(int fd, bool reads) {
  pollfd p{fd, static_cast<short>(reads ? POLLIN : POLLOUT), 0};
  return poll(&p, 1, 0) > 0 && (p.revents & (reads ? POLLHUP : POLLERR)) != 0;
}

Trouble cannot(const SavedFile& f, const std::string& why) {
  return trouble(Errc::kUnsupported, errno, f.name + ": the FIFO " + why);
}

}  // namespace

Trouble describe_fifo(const Program& program, const Descriptor& d, format::FileRecord& f) {
  if (d.deleted) return refuse(d, "a removed FIFO", "close it before the checkpoint");
  const os::Fd copy = program.copy_of(d.fd);
  const bool reads = access_of(d.info.flags) != O_WRONLY;
  std::string content;
  const int size = copy ? fcntl(copy.get(), F_GETPIPE_SZ) : -1;
  if (size < 0 || (reads && !peek_pipe(copy.get(), &content))) {
    return trouble(Errc::kUnsupported, errno, name_of(d) + ": the FIFO's content cannot be read");
  }
  f.kind = format::kFileFifo;
  f.pipe_bytes = static_cast<uint64_t>(size);
  if (is_inside(program, d)) {
    f.file_bytes = format::kFifoInside;
  } else if (is_alone(copy.get(), reads)) {
    f.file_bytes = format::kFifoAlone;
  } else if (!reads) {
    f.file_bytes = format::kFifoReaderOutside;
  } else if (content.empty()) {
    f.file_bytes = format::kFifoWriterOutside;
  } else {
    return trouble(Errc::kUnsupported, 0,
                   name_of(d) + ": " + std::to_string(content.size()) +
                       " bytes that another process wrote to the FIFO were not read yet, and "
                       "cannot be saved; checkpoint when the program has read them");
  }
  // Several descriptors see the same bytes; the first one carries them.
  for (const format::FileRecord& o : program.model.files) {
    if (o.kind == format::kFileFifo && o.ino == f.ino && o.dev == f.dev && o.content.bytes > 0) {
      content.clear();
    }
  }
  if (!content.empty()) f.content = program.model.add_blob(content.data(), content.size());
  return {};
}

bool owns_content(const format::FileRecord& f) {
  return f.file_bytes == format::kFifoInside || f.file_bytes == format::kFifoAlone;
}

Trouble FifoOpener::fill(const SavedFile& f) {
  os::Fd& fifo = both_ways_[{f.file.dev, f.file.ino}];
  if (!fifo) {
    fifo = os::Fd(::open(f.image.string(f.file.path), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!fifo) return cannot(f, std::string("cannot be opened: ") + strerror(errno));
    int waiting = 0;
    if (ioctl(fifo.get(), FIONREAD, &waiting) != 0) return cannot(f, "cannot be looked at");
    if (waiting > 0 && !live_) {
      return cannot(f, "holds " + std::to_string(waiting) +
                           " bytes of another process; end what uses it, then try again");
    }
    std::string drop(static_cast<size_t>(waiting), '\0');
    (void)!read(fifo.get(), drop.data(), drop.size());
    if (f.file.pipe_bytes > 0) (void)fcntl(fifo.get(), F_SETPIPE_SZ, f.file.pipe_bytes);
  }
  const auto content = f.image.blob(f.file.content);
  if (content.empty()) return {};
  if (write(fifo.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) {
    return cannot(f, "does not hold what it held");
  }
  return {};
}

Trouble FifoOpener::open(const SavedFile& f, os::Fd* ret) {
  const std::string path = f.image.string(f.file.path);
  struct stat st {};
  if (stat(path.c_str(), &st) != 0 || !S_ISFIFO(st.st_mode)) {
    return cannot(f,
                  "was removed or replaced since the checkpoint; make it again (mkfifo), then "
                  "try again");
  }
  if (owns_content(f.file)) {
    Trouble bad = fill(f);
    if (bad.bad()) return bad;
  }
  const auto dropped = static_cast<uint32_t>(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_ASYNC);
  const auto flags = static_cast<int>(f.file.open_flags & ~dropped);
  os::Fd fd(::open(path.c_str(), flags | O_NONBLOCK | O_CLOEXEC));
  if (!fd && errno == ENXIO) {
    return cannot(f, "had a reader at the checkpoint and has none now; start it, then try again");
  }
  if (!fd || ((flags & O_NONBLOCK) == 0 && fcntl(fd.get(), F_SETFL, flags) != 0)) {
    return cannot(f, std::string("cannot be opened: ") + strerror(errno));
  }
  *ret = std::move(fd);
  return {};
}

}  // namespace cr::agent
