// SPDX-License-Identifier: MIT
// sockets_test.cc - sockets of several images are one set; what waits in a socket is looked at and
// stays there.
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "agent/restore_sockets.h"
#include "agent/socket_diag.h"
#include "agent/socket_options.h"
#include "agent/socket_queue.h"
#include "tests/unit/format/synthetic_image.h"

namespace {

using namespace cr;
using namespace cr::agent;
using cr_test::SyntheticImage;

constexpr uint64_t kFirst = 1001, kSecond = 1002;

// An image whose only file is one end of a pair of stream sockets, with bytes to be read.
std::vector<uint8_t> image_of_end(uint64_t ino, uint64_t peer, const std::string& unread) {
  SyntheticImage made;
  store::Model& m = made.model;
  format::SocketMessage message{};
  message.bytes = m.add_blob(unread.data(), unread.size());
  format::SocketState s{};
  s.family = AF_UNIX;
  s.type = SOCK_STREAM;
  s.phase = format::kSocketConnected;
  s.peer_ino = peer;
  s.queue = m.add_blob(&message, sizeof(message));
  format::FileRecord f{};
  f.kind = format::kFileSocket;
  f.ino = ino;
  f.content = m.add_blob(&s, sizeof(s));
  m.files.assign(1, f);
  m.fds.assign(1, {3, 0, 0, 0});
  made.super.feature_incompat = m.incompat_features();
  return made.bytes();
}

std::string read_now(int fd) {
  char text[64] = "";
  const ssize_t n = recv(fd, text, sizeof(text), MSG_DONTWAIT);
  return n < 0 ? "nothing" : std::string(text, static_cast<size_t>(n));
}

struct Pair {
  explicit Pair(int type) { cr_assert(socketpair(AF_UNIX, type, 0, ends) == 0); }
  ~Pair() {
    close(ends[0]);
    close(ends[1]);
  }
  void put(const std::string& text) const {
    cr_assert(send(ends[0], text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  }
  int ends[2];
};

std::vector<std::string> texts(const std::vector<QueuedMessage>& queue) {
  std::vector<std::string> all;
  for (const QueuedMessage& m : queue) all.push_back(m.bytes);
  return all;
}

}  // namespace

Test(sockets, ends_in_two_images_are_one_connection) {
  const auto first = image_of_end(kFirst, kSecond, "to the first");
  const auto second = image_of_end(kSecond, kFirst, "to the second");
  const auto a = format::read_image(first.data(), first.size());
  const auto b = format::read_image(second.data(), second.size());
  cr_assert(a.has_value() && b.has_value());
  std::vector<std::string> warnings;
  Undo undo;
  SocketMaker maker(warnings, undo);
  maker.add(*a);
  maker.add(*b);
  maker.add(*b);  // a socket that both have is one
  cr_assert(!maker.make().bad());
  const os::Fd one = maker.get(kFirst), other = maker.get(kSecond);
  cr_assert(!maker.finish([](const format::ImageView&, uint32_t) { return -1; }).bad());
  cr_expect(read_now(one.get()) == "to the first");
  cr_expect(read_now(other.get()) == "to the second");
  cr_assert(send(one.get(), "new", 3, 0) == 3);
  cr_expect(read_now(other.get()) == "new");
  cr_expect(warnings.empty() && !maker.get(4711));
}

Test(sockets, an_end_without_the_other_is_refused) {
  const auto only = image_of_end(kFirst, kSecond, "");
  const auto a = format::read_image(only.data(), only.size());
  cr_assert(a.has_value());
  std::vector<std::string> warnings;
  Undo undo;
  SocketMaker maker(warnings, undo);
  maker.add(*a);
  cr_expect(maker.make().bad());
}

Test(sockets, a_queue_is_looked_at_and_stays) {
  const Pair p(SOCK_SEQPACKET);
  for (const char* text : {"one", "two", "three"}) p.put(text);
  for (int round = 0; round < 3; round++) {
    std::vector<QueuedMessage> queue;
    cr_expect(peek_queue(p.ends[1], SOCK_SEQPACKET, kFirst, &queue).empty());
    cr_expect(texts(queue) == std::vector<std::string>({"one", "two", "three"}));
    cr_expect(int_option(p.ends[1], SOL_SOCKET, SO_PEEK_OFF) == -1);
  }
  for (const char* text : {"one", "two", "three", "nothing"}) {
    cr_expect(read_now(p.ends[1]) == text);
  }
}

Test(sockets, an_empty_datagram_is_seen_once_and_never_lost_in_silence) {
  const Pair p(SOCK_DGRAM);
  for (const char* text : {"a", "", "b"}) p.put(text);
  std::vector<QueuedMessage> queue;
  cr_expect(peek_queue(p.ends[1], SOCK_DGRAM, kSecond, &queue).empty());
  cr_expect(texts(queue) == std::vector<std::string>({"a", "", "b"}));
  queue.clear();
  cr_expect(!peek_queue(p.ends[1], SOCK_DGRAM, kSecond, &queue).empty(), "it was passed over");
  for (const char* text : {"a", "", "b", "nothing"}) cr_expect(read_now(p.ends[1]) == text);
  queue.clear();
  cr_expect(peek_queue(p.ends[1], SOCK_DGRAM, kSecond, &queue).empty() && queue.empty());
  p.put("c");
  cr_expect(peek_queue(p.ends[1], SOCK_DGRAM, kSecond, &queue).empty());
  cr_expect(texts(queue) == std::vector<std::string>({"c"}));
}

Test(sockets, an_error_to_be_reported_stays) {
  Pair p(SOCK_STREAM);
  cr_assert(send(p.ends[1], "x", 1, 0) == 1);
  p.put("unread");
  close(p.ends[0]);
  std::vector<QueuedMessage> queue;
  cr_expect(peek_queue(p.ends[1], SOCK_STREAM, kFirst, &queue).empty());
  cr_expect(texts(queue) == std::vector<std::string>({"unread"}));
  pollfd before{p.ends[1], 0, 0};
  cr_expect(poll(&before, 1, 0) == 1 && (before.revents & POLLERR) != 0, "the error was taken");
  cr_expect(read_now(p.ends[1]) == "unread");
  cr_expect(read_now(p.ends[1]) == "nothing" && errno == ECONNRESET);
  p.ends[0] = -1;
}

Test(sockets, only_options_that_were_set_are_kept) {
  const os::Fd fd(socket(AF_INET, SOCK_STREAM, 0)), other(socket(AF_INET, SOCK_STREAM, 0));
  const SocketKey key{AF_INET, SOCK_STREAM, 6};
  std::vector<OptionValue> options;
  cr_expect(read_options(fd.get(), key, getpid(), &options).empty() && options.empty());
  const int on = 1, bytes = 20000;
  const linger wait{1, 7};
  setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &wait, sizeof(wait));
  cr_expect(read_options(fd.get(), key, getpid(), &options).empty());
  cr_expect(options.size() == 3, "%zu options", options.size());
  cr_expect(set_options(other.get(), options, OptionTime::kFirst).empty());
  cr_expect(int_option(other.get(), SOL_SOCKET, SO_RCVBUF) !=
            int_option(fd.get(), SOL_SOCKET, SO_RCVBUF));
  cr_expect(set_options(other.get(), options, OptionTime::kLast).empty());
  for (const int name : {SO_KEEPALIVE, SO_RCVBUF, SO_LINGER}) {
    cr_expect(int_option(other.get(), SOL_SOCKET, name) == int_option(fd.get(), SOL_SOCKET, name));
  }
}

Test(sockets, addresses_of_both_families_compare) {
  const os::Fd four(socket(AF_INET, SOCK_DGRAM, 0));
  const std::string any = local_address(four.get());
  const std::string mapped = make_address(AF_INET6, any, 80);
  cr_expect(port_of(mapped) == 80 && is_any_address(any) && is_any_address(mapped));
  cr_expect(plain_address(make_address(AF_INET, mapped, 80)) == plain_address(mapped));
  cr_expect(address_words(mapped) == "0.0.0.0:80", "%s", address_words(mapped).c_str());
  cr_expect(plain_address("").empty() && address_words("") == "without a name");
}
