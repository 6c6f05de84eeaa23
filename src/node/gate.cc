// SPDX-License-Identifier: MIT
// gate.cc - see gate.h. Invariant: as there. Context: N; one thread.
#include "node/gate.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "format/wire_reader.h"

namespace cr::node {
namespace {

using format::WireDoor;
using format::WireKnock;
using format::WirePrefix;
using format::WireRefuse;

constexpr size_t kMostIncoming = 64;
constexpr int kBacklog = 128;
constexpr uint64_t kListener = 0;  // its number for epoll

Error gone(int e, const char* what) { return {Errc::kAgentGone, e, what}; }

template <typename T>
Result<void> send_whole(int fd, const T& message) {
  const ssize_t n = send(fd, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n == static_cast<ssize_t>(sizeof(message))) return {};
  return gone(n < 0 ? errno : 0, "the connection was ended");
}

}  // namespace

Result<std::unique_ptr<Gate>> Gate::create(GateHandler* handler) {
  std::unique_ptr<Gate> gate(new Gate(handler));
  gate->epoll_ = os::Fd(epoll_create1(EPOLL_CLOEXEC));
  if (!gate->epoll_) return Error{Errc::kSystem, errno, "epoll_create1"};
  return gate;
}

Result<void> Gate::watch(int fd, uint64_t number, uint32_t events, int how) {
  epoll_event e{};
  e.events = events;
  e.data.u64 = number;
  if (epoll_ctl(epoll_.get(), how, fd, &e) != 0) return Error{Errc::kSystem, errno, "epoll_ctl"};
  return {};
}

Result<uint16_t> Gate::listen(const Address& address, uint16_t ucx_port) {
  listen_ =
      os::Fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int one = 1;
  // Who takes the place of another need not wait until the kernel forgets its port.
  if (!listen_ || setsockopt(listen_.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
      bind(listen_.get(), address.get(), address.bytes) != 0 ||
      ::listen(listen_.get(), kBacklog) != 0) {
    const int e = errno;
    listen_.reset();
    return Error{e == EADDRINUSE ? Errc::kBusy : Errc::kSystem, e, "listening"};
  }
  ucx_port_ = ucx_port;
  CR_TRYV(watch(listen_.get(), kListener, EPOLLIN | EPOLLET, EPOLL_CTL_ADD));
  CR_TRY(const Address bound, address_of_socket(listen_.get()));
  return bound.port();
}

// ---- asking ------------------------------------------------------------------------------------
void Gate::ask(uint64_t asked, const Address& peer) {
  const uint64_t number = ++last_number_;
  Visitor& v = visitors_[number];
  v.asked = asked;
  v.address = peer.text();
  if (const auto begun = begin(number, &v, peer); !begun) {
    v.error = begun.error();
    news_ = true;
  }
}

Result<void> Gate::begin(uint64_t number, Visitor* v, const Address& peer) {
  v->fd = os::Fd(socket(peer.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!v->fd) return Error{Errc::kSystem, errno, "no socket"};
  if (connect(v->fd.get(), peer.get(), peer.bytes) != 0 && errno != EINPROGRESS) {
    return gone(errno, "it cannot be connected to");
  }
  return watch(v->fd.get(), number, EPOLLOUT, EPOLL_CTL_ADD);
}

void Gate::forget(uint64_t asked) {
  std::erase_if(visitors_, [asked](const auto& v) { return v.second.asked == asked; });
}

void Gate::fail(uint64_t number, const Error& error) {
  const uint64_t asked = visitors_[number].asked;
  visitors_.erase(number);
  handler_->on_no_door(asked, error);
}

void Gate::tell_failures() {
  news_ = false;
  std::vector<uint64_t> failed;
  for (const auto& [number, v] : visitors_) {
    if (v.error.code != Errc::kOk) failed.push_back(number);
  }
  for (const uint64_t number : failed) {
    // What is told of one may be the end of another.
    const auto v = visitors_.find(number);
    if (v != visitors_.end()) fail(number, v->second.error);
  }
}

// Connected, or not: says what we are.
Result<void> Gate::speak(uint64_t number, Visitor* v) {
  int e = 0;
  socklen_t bytes = sizeof(e);
  if (getsockopt(v->fd.get(), SOL_SOCKET, SO_ERROR, &e, &bytes) != 0) e = errno;
  if (e != 0) return gone(e, "it cannot be connected to");
  const WireKnock knock{format::make_prefix(format::kWireKnock, 0, 0)};
  CR_TRYV(send_whole(v->fd.get(), knock));
  v->spoken = true;
  return watch(v->fd.get(), number, EPOLLIN, EPOLL_CTL_MOD);
}

void Gate::take_answer(uint64_t number, const Visitor& v) {
  const auto door = format::read_door(v.bytes, sizeof(v.bytes));
  const auto refusal = format::read_refuse(v.bytes, sizeof(v.bytes));
  if (refusal && *refusal == format::kReasonVersion) {
    return fail(number, {Errc::kUnsupported, 0,
                         "it speaks another version of the protocol; install the same on both"});
  }
  if (!door) return fail(number, gone(0, "what answers there is no crstored"));
  const uint64_t asked = v.asked;
  visitors_.erase(number);
  handler_->on_door(asked, static_cast<uint16_t>(door->port));
}

// ---- answering ---------------------------------------------------------------------------------
// Somebody who connects and says nothing has no more right to a place than who comes after.
void Gate::make_room() {
  const auto incoming = [](const auto& v) { return v.second.asked == 0; };
  if (std::ranges::count_if(visitors_, incoming) < static_cast<ptrdiff_t>(kMostIncoming)) return;
  visitors_.erase(std::ranges::find_if(visitors_, incoming));
}

void Gate::accept_all() {
  some_wait_ = false;
  for (size_t i = 0;; i++) {
    some_wait_ = i == kMostIncoming;
    if (some_wait_) return;
    Address peer;
    peer.bytes = sizeof(peer.storage);
    os::Fd fd(accept4(listen_.get(), reinterpret_cast<sockaddr*>(&peer.storage), &peer.bytes,
                      SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      some_wait_ = errno != EAGAIN;
      return;
    }
    make_room();
    const uint64_t number = ++last_number_;
    Visitor& v = visitors_[number];
    v.fd = std::move(fd);
    v.address = peer.text();
    if (!watch(v.fd.get(), number, EPOLLIN, EPOLL_CTL_ADD)) visitors_.erase(number);
  }
}

void Gate::take_knock(uint64_t number, Visitor* v) {
  const auto prefix = format::read_wire_prefix(v->bytes, sizeof(WireKnock));
  const auto knock = format::read_knock(v->bytes, sizeof(WireKnock));
  const bool other_version = !prefix && prefix.error().code != Errc::kForeign;
  v->spoken = true;
  if (knock) {
    const WireDoor door{
        format::make_prefix(format::kWireDoor, sizeof(door) - sizeof(WirePrefix), 0), ucx_port_, 0};
    if (!send_whole(v->fd.get(), door)) visitors_.erase(number);
    return;
  }
  const format::WireReason reason = other_version ? format::kReasonVersion : format::kReasonGarbage;
  const std::string address = v->address;
  const WireRefuse refuse{
      format::make_prefix(format::kWireRefuse, sizeof(refuse) - sizeof(WirePrefix), 0), reason, 0};
  if (!other_version || !send_whole(v->fd.get(), refuse)) visitors_.erase(number);
  handler_->on_stranger(reason, address);
}

// ---- the loop ----------------------------------------------------------------------------------
void Gate::serve(uint64_t number, Visitor* v) {
  const bool incoming = v->asked == 0;
  if (!incoming && !v->spoken) {
    if (const auto spoken = speak(number, v); !spoken) fail(number, spoken.error());
    return;
  }
  const uint32_t want = incoming ? sizeof(WireKnock) : sizeof(WireDoor);
  if (v->have < want) {
    const ssize_t n = recv(v->fd.get(), v->bytes + v->have, want - v->have, MSG_DONTWAIT);
    const int e = errno;
    if (n < 0 && (e == EAGAIN || e == EINTR)) return;
    if (n > 0) v->have += static_cast<uint32_t>(n);
    if (v->have == want) return incoming ? take_knock(number, v) : take_answer(number, *v);
    if (n > 0) return;
    if (!incoming) return fail(number, gone(n < 0 ? e : 0, "it ended the connection"));
  }
  // It was answered and goes; or it went before it had said all.
  const bool silent = v->spoken || v->have == 0;
  const std::string address = v->address;
  visitors_.erase(number);
  if (!silent) handler_->on_stranger(format::kReasonGarbage, address);
}

unsigned Gate::progress() {
  unsigned done = news_ ? 1 : 0;
  if (news_) tell_failures();
  if (some_wait_) accept_all();
  epoll_event events[32];
  const int n = epoll_wait(epoll_.get(), events, std::size(events), 0);
  for (int i = 0; i < n; i++, done++) {
    const uint64_t number = events[i].data.u64;
    if (number == kListener) {
      accept_all();
      continue;
    }
    const auto v = visitors_.find(number);
    if (v != visitors_.end()) serve(number, &v->second);
  }
  return done;
}

}  // namespace cr::node
