// SPDX-License-Identifier: MIT
// restore_sockets.cc - see restore_sockets.h: the order in which sockets are made.
// Invariant: as there. Context: N (agent).
#include "agent/restore_sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>

#include "agent/frame.h"
#include "agent/socket_diag.h"

namespace cr::agent {

namespace {

std::string bytes_of(const format::ImageView& image, format::BlobRef r) {
  const auto b = image.blob(r);
  return {reinterpret_cast<const char*>(b.data()), b.size()};
}

// The files that a thread is connecting, and will again when it goes on.
std::vector<uint32_t> awaited_files(const format::ImageView& image) {
  std::vector<uint32_t> files;
  for (const format::ThreadRecord& t : image.threads) {
    if (t.syscall_nr != __NR_connect) continue;
    const FrameRegisters r = frame_registers(image.blob(t.frame).data());
    if (r.rax != __NR_connect) continue;  // it has its result
    const auto at =
        std::ranges::find(image.fds, static_cast<int32_t>(r.rdi), &format::FdRecord::fd);
    if (at != image.fds.end()) files.push_back(at->file);
  }
  return files;
}

}  // namespace

bool SavedSocket::is_inet() const { return state.family == AF_INET || state.family == AF_INET6; }
bool SavedSocket::is_tcp() const { return is_inet() && state.type == SOCK_STREAM; }
bool SavedSocket::has_name() const {
  return state.family == AF_UNIX && local.size() > offsetof(sockaddr_un, sun_path);
}
std::string SavedSocket::path() const {
  return has_name() ? local.substr(offsetof(sockaddr_un, sun_path)).c_str() : "";
}

Trouble socket_trouble(const SavedSocket& s, const std::string& what, int error) {
  const std::string why = error == 0 ? "" : std::string(": ") + strerror(error);
  return trouble(Errc::kSystem, error, s.name + ": " + what + why);
}

void SocketMaker::add(const format::ImageView& image) {
  const std::vector<uint32_t> awaited = awaited_files(image);
  for (uint32_t n = 0; n < image.files.size(); n++) {
    const format::FileRecord& f = image.files[n];
    if (f.kind != format::kFileSocket || find(f.ino) != nullptr) continue;
    Item i;
    i.image = &image;
    i.ino = f.ino;
    i.name = saved_file(image, n).name;
    i.state = image.states<format::SocketState>(f.content).front();
    i.is_awaited = std::ranges::count(awaited, n) != 0;
    i.local = bytes_of(image, i.state.local);
    i.remote = bytes_of(image, i.state.remote);
    for (const auto& o : image.states<format::SocketOption>(i.state.options)) {
      i.options.push_back({o.level, o.name, bytes_of(image, o.value)});
    }
    items_.push_back(std::move(i));
  }
}

void SocketMaker::keep(uint64_t ino, os::Fd fd) {
  Item* i = find(ino);
  if (i == nullptr) return;
  i->fd = std::move(fd);
  i->kept = true;
}

SavedSocket* SocketMaker::find(uint64_t ino) {
  const auto at = std::ranges::find(items_, ino, &Item::ino);
  return at == items_.end() ? nullptr : &*at;
}

os::Fd SocketMaker::get(uint64_t ino) const {
  const auto at = std::ranges::find(items_, ino, &Item::ino);
  return os::Fd(at == items_.end() || !at->fd ? -1 : fcntl(at->fd.get(), F_DUPFD_CLOEXEC, 0));
}

// TCP addresses are in use for a while by what the program had there, so they are taken all the
// same; SO_REUSEADDR is put right in the end.
Trouble SocketMaker::create(Item& i, os::Fd* ret) {
  const format::SocketState& s = i.state;
  os::Fd fd(socket(static_cast<int>(s.family),
                   static_cast<int>(s.type) | SOCK_CLOEXEC | SOCK_NONBLOCK,
                   static_cast<int>(s.protocol)));
  if (!fd) return socket_trouble(i, "such a socket cannot be made", errno);
  const std::string failed = set_options(fd.get(), i.options, OptionTime::kFirst);
  if (!failed.empty()) warn(i, "could not be set: " + failed);
  const int on = 1;
  if (i.is_tcp()) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  *ret = std::move(fd);
  return {};
}

Trouble SocketMaker::make_single(Item& i) {
  if (i.fd || i.is(format::kSocketConnected) || i.is(format::kSocketPeerGone) ||
      i.is(format::kSocketReset) || i.is(format::kSocketConnecting)) {
    return {};
  }
  Trouble bad = create(i, &i.fd);
  if (!bad.bad()) bad = bind_one(i);
  return bad;
}

// Connections of TCP are made before anybody listens: nobody else gets into them.
Trouble SocketMaker::make_connected(bool tcp) {
  for (Item& i : items_) {
    if (i.fd || i.is_tcp() != tcp) continue;
    Item* peer = find(i.state.peer_ino);
    Trouble bad;
    if (i.is(format::kSocketConnected) && (peer == nullptr || peer == &i || peer->fd)) {
      bad = socket_trouble(i, "what it was connected to cannot be made again", 0);
    } else if (i.is(format::kSocketConnected)) {
      bad = tcp ? make_tcp_pair(i, *peer) : make_unix_pair(i, peer);
    } else if (i.is(format::kSocketPeerGone)) {
      bad = make_unix_pair(i, nullptr);
    } else if (i.is(format::kSocketReset) || i.is(format::kSocketConnecting)) {
      bad = make_reset(i);
    }
    if (bad.bad()) return bad;
  }
  return {};
}

Trouble SocketMaker::listen_all() {
  for (Item& i : items_) {
    if (i.kept || !i.is(format::kSocketListening)) continue;
    if (listen(i.fd.get(), static_cast<int>(i.state.backlog)) != 0) {
      const bool taken = errno == EADDRINUSE;
      return socket_trouble(
          i,
          "it cannot listen at " + address_words(i.local) +
              (taken ? ", where another program does; end that, then try again" : ""),
          errno);
    }
    listeners_.push_back({i.local, static_cast<int>(i.state.type), i.fd.get(), {}});
  }
  return {};
}

Trouble SocketMaker::make() {
  Trouble bad = make_connected(/*tcp=*/true);
  listeners_.clear();
  for (Item& i : items_) {
    if (!bad.bad()) bad = make_single(i);
  }
  if (!bad.bad()) bad = listen_all();
  if (!bad.bad()) bad = make_connected(/*tcp=*/false);
  return bad;
}

Trouble SocketMaker::finish(const FdOf& fd_of) {
  for (Item& i : items_) {
    if (i.kept) continue;
    if (is_filled_by_process(i)) {
      by_process_.push_back(i.ino);
      continue;
    }
    Trouble bad = send_queue(i, fd_of);
    if (bad.bad()) return bad;
  }
  std::vector<Item*> order;
  for (Item& i : items_) {
    if (!i.kept) order.push_back(&i);
  }
  std::ranges::stable_sort(order, {}, [](const Item* i) { return i->state.order; });
  for (Item* i : order) {
    Trouble bad = connect_rest(*i);
    if (bad.bad()) return bad;
  }
  for (Item* i : order) settle(*i);
  listeners_.clear();
  strangers_.clear();
  for (const auto& [dir, name] : gone_) {
    const os::Fd at(open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    (void)unlinkat(at.get(), name.c_str(), 0);
  }
  return {};
}

// Its end of a connection is shut down when nothing more is to come through it.
void SocketMaker::settle(Item& i) {
  const int fd = i.fd.get(), off = 0;
  const uint32_t shut = i.state.shutdown;
  if (shut != 0 && !i.is(format::kSocketPeerGone) && !(i.is_tcp() && i.is(format::kSocketReset))) {
    (void)shutdown(fd, shut == 3 ? SHUT_RDWR : shut == format::kSocketShutRead ? SHUT_RD : SHUT_WR);
  }
  if (i.other) end_other(i);
  if (i.is_tcp()) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &off, sizeof(off));
  const std::string failed = set_options(fd, i.options, OptionTime::kLast);
  if (!failed.empty()) warn(i, "could not be set: " + failed);
}

// Who connects to it from now on sees this process as the one that listens.
void furnish_sockets(const format::ImageView& image, Recipe& recipe) {
  for (uint32_t n = 0; n < image.files.size(); n++) {
    if (image.files[n].kind != format::kFileSocket) continue;
    const SavedFile f = saved_file(image, n);
    const auto& s = state_of<format::SocketState>(f);
    if (s.family != AF_UNIX || s.phase != format::kSocketListening || f.fd < 0) continue;
    recipe.call(f.name + ": listening", __NR_listen, {f.fd, s.backlog});
  }
}

}  // namespace cr::agent
