// SPDX-License-Identifier: MIT
// compare_sockets.cc - see compare_sockets.h. Invariant: as there. Context: N (agent).
#include "agent/compare_sockets.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <set>

#include "agent/describe_sockets.h"

namespace cr::agent {
namespace {

template <typename T>
void append(const T& value, std::string& out) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void append_blob(std::string_view bytes, std::string& out) {
  append(bytes.size(), out);
  out += bytes;
}

// All that is said of the socket in two pieces, wherever its parts lie.
struct Pieces {
  std::string socket, queue;
  bool comparable = true;  // no descriptors wait in it
};

Pieces pieces_of(std::string_view blobs, format::BlobRef content) {
  Pieces p;
  const auto part = [&](format::BlobRef r) { return blobs.substr(r.off, r.bytes); };
  format::SocketState s;
  memcpy(&s, part(content).data(), sizeof(s));
  std::string& out = p.socket;
  for (const format::BlobRef r : {s.local, s.remote}) append_blob(part(r), out);
  for (size_t at = 0; at < s.options.bytes; at += sizeof(format::SocketOption)) {
    format::SocketOption o;
    memcpy(&o, part(s.options).data() + at, sizeof(o));
    append(o.level, out);
    append(o.name, out);
    append_blob(part(o.value), out);
  }
  for (size_t at = 0; at < s.queue.bytes; at += sizeof(format::SocketMessage)) {
    format::SocketMessage m;
    memcpy(&m, part(s.queue).data() + at, sizeof(m));
    p.comparable = p.comparable && m.files.bytes == 0;
    append_blob(part(m.bytes), p.queue);
    append_blob(part(m.from), p.queue);
    m.bytes = m.from = m.files = {};
    append(m, p.queue);
  }
  s.local = s.remote = s.options = s.queue = {};
  append(s, out);
  return p;
}

pid_t pid_of(int pidfd) {
  const std::string info = os::read_or_empty("/proc/self/fdinfo/" + std::to_string(pidfd));
  return static_cast<pid_t>(strtol(os::status_field(info, "Pid").c_str(), nullptr, 10));
}

// The program's descriptors of the image's sockets, one of each.
std::vector<Descriptor> sockets_of(const format::ImageView& image, pid_t pid, pid_t tid) {
  std::vector<Descriptor> all;
  std::set<uint64_t> wanted;
  for (const format::FileRecord& f : image.files) {
    if (f.kind == format::kFileSocket) wanted.insert(f.ino);
  }
  auto fds = wanted.empty() ? Result<std::vector<int>>(std::vector<int>()) : os::list_fds(pid, tid);
  for (const int fd : fds ? *fds : std::vector<int>()) {
    Descriptor d;
    d.fd = fd;
    const std::string path = os::task_path(pid, tid, "fd/") + std::to_string(fd);
    auto info = os::read_fdinfo(pid, tid, fd);
    if (!info || stat(path.c_str(), &d.st) != 0 || !S_ISSOCK(d.st.st_mode)) continue;
    d.info = std::move(*info);
    if (wanted.erase(d.st.st_ino) != 0) all.push_back(std::move(d));
  }
  return all;
}

}  // namespace

std::map<uint64_t, SocketChange> compare_sockets(const format::ImageView& image, int pidfd,
                                                 pid_t tid) {
  const pid_t pid = pid_of(pidfd);
  if (tid == 0) tid = pid;
  store::Model now;
  const std::vector<Descriptor> all = sockets_of(image, pid, tid);
  const Program program{pid, tid, pidfd, now, all};
  SocketDescriber describer;
  const auto holder = std::make_shared<SocketHolder>(SocketHolder{pid, tid, pidfd, &now, {}});
  std::map<uint64_t, SocketChange> found;
  std::vector<int> flying;
  for (const Descriptor& d : all) {
    format::FileRecord f{};
    f.kind = format::kFileSocket;
    f.ino = d.st.st_ino;
    now.files.push_back(f);
    if (describer.look(program, holder, d, &flying).bad()) return found;
  }
  for (const int fd : flying) holder->files[fd] = 0;
  if (describer.describe().bad()) return found;
  const std::string_view then_blobs(reinterpret_cast<const char*>(image.blobs.data()),
                                    image.blobs.size());
  for (const format::FileRecord& f : image.files) {
    if (f.kind != format::kFileSocket) continue;
    for (const format::FileRecord& n : now.files) {
      if (n.ino != f.ino) continue;
      const Pieces then = pieces_of(then_blobs, f.content), here = pieces_of(now.blobs, n.content);
      if (!then.comparable || then.socket != here.socket) continue;
      const bool same = here.comparable && then.queue == here.queue;
      found[f.ino] = same ? SocketChange::kNone : SocketChange::kQueue;
    }
  }
  return found;
}

os::Fd live_socket(const format::ImageView& image, uint64_t ino, int pidfd) {
  for (const format::FdRecord& r : image.fds) {
    const format::FileRecord& f = image.files[r.file];
    if (f.kind != format::kFileSocket || f.ino != ino) continue;
    os::Fd fd(static_cast<int>(syscall(__NR_pidfd_getfd, pidfd, r.fd, 0)));
    struct stat st;
    if (fd && fstat(fd.get(), &st) == 0 && S_ISSOCK(st.st_mode) && st.st_ino == ino) return fd;
  }
  return {};
}

}  // namespace cr::agent
