// SPDX-License-Identifier: MIT
// transport_test.cc - connections by UCX over 127.0.0.1, in one process and between two.
// Invariant under test: messages arrive whole and in order, a put is complete when it is told, each
// on_done and on_down comes exactly once, and nothing that a peer or a stranger does to the
// connection does harm. Every wait is bounded.
#include "node/transport.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include "format/wire_reader.h"
#include "tests/unit/nvheap/random.h"

namespace {

using namespace cr::node;
using cr::Errc;
using cr::Error;
using cr::Result;
using cr::format::WireReason;
using cr_test::Random;
using Bytes = std::vector<uint8_t>;

constexpr uint64_t kSecond = 1'000'000'000;

uint64_t now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * kSecond + static_cast<uint64_t>(t.tv_nsec);
}

struct End final : TransportHandler {
  std::unique_ptr<Transport> transport;
  std::vector<ConnectionId> accepted;
  std::map<ConnectionId, std::vector<Bytes>> messages;
  std::vector<WireReason> strangers;
  std::map<ConnectionId, std::vector<Errc>> downs;
  std::function<void(ConnectionId)> when_accepted;
  std::function<void(ConnectionId, const Bytes&)> when_message;

  End() {
    TransportOptions options;
    options.tls = "tcp";
    auto made = Transport::create(options, this);
    cr_assert(made.has_value(), "%s", made.error().what);
    transport = std::move(*made);
  }
  ~End() override = default;
  void on_accept(ConnectionId id, const std::string& address) override {
    cr_expect(address.starts_with("127.0.0.1:"), "%s", address.c_str());
    accepted.push_back(id);
    if (when_accepted) when_accepted(id);
  }
  void on_message(ConnectionId id, std::span<const uint8_t> bytes) override {
    cr_expect(downs[id].empty(), "a message behind on_down");
    messages[id].emplace_back(bytes.begin(), bytes.end());
    if (when_message) when_message(id, messages[id].back());
  }
  void on_down(ConnectionId id, const Error& error) override {
    downs[id].push_back(error.code);
    cr_expect_eq(downs[id].size(), 1u, "on_down more than once");
  }
  void on_stranger(WireReason reason, const std::string& address) override {
    cr_expect(address.starts_with("127.0.0.1:"), "%s", address.c_str());
    strangers.push_back(reason);
  }
};

using Ends = std::vector<End*>;

bool wait_for(const Ends& ends, const std::function<bool()>& what, uint64_t seconds = 20) {
  const uint64_t until = now() + seconds * kSecond;
  while (!what()) {
    unsigned done = 0;
    for (End* e : ends) done += e->transport->progress();
    if (done == 0) usleep(50);
    if (now() > until) return false;
  }
  return true;
}

cr::node::Address own(uint16_t port) { return *cr::node::address_of_digits("127.0.0.1", port); }

uint16_t listen(End& e) {
  const auto port = e.transport->listen(own(0));
  cr_assert(port.has_value(), "%s", port.error().what);
  cr_assert_neq(*port, 0);
  return *port;
}

ConnectionId connect(End& e, uint16_t port) {
  const auto id = e.transport->connect(own(port));
  cr_assert(id.has_value(), "%s", id.error().what);
  return *id;
}

Bytes message(size_t bytes, uint8_t seed) {
  Bytes m(bytes);
  for (size_t i = 0; i < bytes; i++) m[i] = static_cast<uint8_t>(seed + i * 7);
  return m;
}

// A server and a client in this process.
struct Pair {
  End server, client;
  uint16_t port;
  ConnectionId id, at_server;
  Ends both{&server, &client};
  Pair() : port(listen(server)), id(connect(client, port)) {
    cr_assert(wait_for(both, [&] { return !server.accepted.empty(); }), "not accepted");
    at_server = server.accepted[0];
  }
};

// What a child has to tell; in memory that both processes see.
struct Told {
  uint16_t port;
  bool stop;
};

Told* shared_told() {
  void* p = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  cr_assert_neq(p, MAP_FAILED);
  return static_cast<Told*>(p);
}

constexpr uint64_t kChildBytes = 64 << 20;

// A process that listens, and sends everybody the key and address of its memory.
[[noreturn]] void serve_memory(volatile Told* told) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  End end;
  Bytes memory(kChildBytes);
  auto handle = end.transport->register_memory(memory.data(), memory.size());
  if (!handle) _exit(1);
  end.when_accepted = [&](ConnectionId id) {
    Bytes m(sizeof(MemoryKey));
    memcpy(m.data(), &handle->key, m.size());
    end.transport->allow_puts(id);
    (void)end.transport->send(id, m, {});
  };
  told->port = listen(end);
  wait_for(
      {&end}, [&] { return told->stop; }, 60);
  _exit(0);
}

pid_t start_child(volatile Told* told) {
  const pid_t child = fork();
  if (child == 0) serve_memory(told);
  for (int i = 0; i < 20000 && told->port == 0; i++) usleep(1000);
  cr_assert_neq(told->port, 0, "the child did not start");
  return child;
}

RemoteKeyId get_memory(End& e, ConnectionId id) {
  cr_assert(wait_for({&e}, [&] { return !e.messages[id].empty(); }), "no key came");
  MemoryKey key;
  memcpy(&key, e.messages[id][0].data(), sizeof(key));
  const auto imported = e.transport->import_key(id, key);
  cr_assert(imported.has_value(), "%s", imported.error().what);
  return *imported;
}

// Where a process listens.
struct Listening {
  uint32_t address;  // both in network order
  uint16_t port, used;
};

// Where this process listens: the listener, and what UCX opens itself for each network device.
std::vector<Listening> listening_sockets() {
  std::set<std::string> inodes;
  DIR* d = opendir("/proc/self/fd");
  while (const dirent* e = readdir(d)) {
    char to[64] = "";
    if (readlinkat(dirfd(d), e->d_name, to, sizeof(to) - 1) > 8 &&
        strncmp(to, "socket:[", 8) == 0) {
      inodes.insert(std::string(to + 8, strlen(to) - 9));
    }
  }
  closedir(d);
  std::vector<Listening> found;
  std::ifstream in("/proc/self/net/tcp");
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    std::string no, local, remote, state, skip, inode;
    fields >> no >> local >> remote >> state >> skip >> skip >> skip >> skip >> skip >> inode;
    if (state != "0A" || inodes.count(inode) == 0) continue;
    const auto port = strtoul(local.substr(local.find(':') + 1).c_str(), nullptr, 16);
    found.push_back({static_cast<uint32_t>(strtoul(local.c_str(), nullptr, 16)),
                     htons(static_cast<uint16_t>(port)), 1});
  }
  return found;
}

int dial(const Listening& where) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = where.port;
  to.sin_addr.s_addr = where.address;
  cr_assert_eq(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  return fd;
}

}  // namespace

Test(transport, messages_arrive_whole_and_in_order) {
  Pair p;
  constexpr int kMany = 500;
  Random random(cr_test::test_seed());
  std::vector<Bytes> sent;
  int done = 0;
  for (int i = 0; i < kMany; i++) {
    const size_t bytes = i % 50 == 0 ? 16384 : 1 + random.below(16384);
    sent.push_back(message(bytes, static_cast<uint8_t>(i)));
    auto on_done = [&done](const Result<void>& r) { done += r ? 1 : 1000000; };
    cr_assert(p.client.transport->send(p.id, sent.back(), on_done).has_value());
    cr_assert(p.server.transport->send(p.at_server, sent.back(), on_done).has_value());
  }
  cr_assert(wait_for(p.both, [&] {
    return p.client.messages[p.id].size() == kMany &&
           p.server.messages[p.at_server].size() == kMany && done == 2 * kMany;
  }));
  cr_assert(p.server.messages[p.at_server] == sent);
  cr_assert(p.client.messages[p.id] == sent);
  cr_assert_eq(p.client.transport->queued_bytes(p.id), 0u);
}

Test(transport, refuses_messages_of_a_wrong_length_and_too_many) {
  Pair p;
  cr_assert(p.client.transport->send(p.id, {}, {}).error().code == Errc::kInvalid);
  cr_assert(p.client.transport->send(p.id, Bytes(16385), {}).error().code == Errc::kInvalid);
  cr_assert(p.client.transport->send(ConnectionId{12345}, Bytes(1), {}).error().code ==
            Errc::kNotFound);
  Errc code = Errc::kOk;
  for (int i = 0; i < 2000 && code == Errc::kOk; i++) {
    code = p.client.transport->send(p.id, Bytes(16384), {}).error().code;
  }
  cr_assert(code == Errc::kBusy);
}

Test(transport, a_put_is_complete_when_it_is_told) {
  Pair p;
  constexpr uint64_t kBlock = 4 << 20, kBlocks = 25;
  Bytes target(kBlock * kBlocks), source(kBlock * kBlocks);
  Random random(cr_test::test_seed());
  for (size_t i = 0; i < source.size(); i += 64)
    source[i] = static_cast<uint8_t>(random.below(256));
  auto memory = p.server.transport->register_memory(target.data(), target.size());
  cr_assert(memory.has_value());
  const auto key = p.client.transport->import_key(p.id, memory->key);
  cr_assert(key.has_value(), "%s", key.error().what);
  p.server.transport->allow_puts(p.at_server);
  uint64_t begun = 0, done = 0;
  while (done < kBlocks) {
    while (begun < kBlocks && begun - done < 4) {
      const uint64_t off = kBlock * begun++;
      const auto put = p.client.transport->put(
          p.id, std::span(source).subspan(off, kBlock), *key, off, [&, off](const Result<void>& r) {
            cr_assert(r.has_value(), "%s", r.error().what);
            cr_assert_eq(memcmp(target.data() + off, source.data() + off, kBlock), 0);
            done++;
          });
      cr_assert(put.has_value());
    }
    const uint64_t before = done;
    cr_assert(wait_for(p.both, [&] { return done != before; }));
  }
  p.client.transport->drop_key(*key);
  p.server.transport->unregister_memory(memory->id);
}

Test(transport, calls_from_handlers_do_no_harm) {
  Pair p;
  // The server answers from inside its handler, and at the third message closes.
  p.server.when_message = [&](ConnectionId id, const Bytes& m) {
    (void)p.server.transport->send(id, m, [&, id](const Result<void>&) {
      (void)p.server.transport->send(id, message(3, 3), {});
    });
    if (p.server.messages[id].size() == 3) {
      p.server.transport->close(id);
      p.server.transport->close(id);
      cr_assert(p.server.transport->send(id, message(1, 1), {}).error().code == Errc::kNotFound);
    }
  };
  for (uint8_t i = 0; i < 5; i++) (void)p.client.transport->send(p.id, message(100, i), {});
  cr_assert(wait_for(p.both, [&] {
    return !p.server.downs[p.at_server].empty() && !p.client.downs[p.id].empty();
  }));
  cr_assert(p.server.downs[p.at_server][0] == Errc::kOk);
  cr_assert(p.client.downs[p.id][0] == Errc::kAgentGone);
  cr_assert_eq(p.server.messages[p.at_server].size(), 3u);
  // And connecting again works.
  const ConnectionId again = connect(p.client, p.port);
  (void)p.client.transport->send(again, message(10, 1), {});
  cr_assert(wait_for(p.both, [&] {
    return p.server.accepted.size() == 2 && !p.server.messages[p.server.accepted[1]].empty();
  }));
}

Test(transport, nobody_there_is_told) {
  End listening, client;
  const uint16_t port = listen(listening);
  listening.transport.reset();
  const ConnectionId id = connect(client, port);
  int failed = 0;
  const auto sent = client.transport->send(id, message(10, 1),
                                           [&](const Result<void>& r) { failed += r ? 100 : 1; });
  cr_assert(wait_for({&client}, [&] { return !client.downs[id].empty(); }));
  cr_assert(client.downs[id][0] == Errc::kAgentGone);
  cr_assert_eq(failed, sent ? 1 : 0);
}

Test(transport, a_port_in_use_is_told) {
  End first, second;
  const uint16_t port = listen(first);
  cr_assert(first.transport->listen(own(0)).error().code == Errc::kAlready);
  const auto again = second.transport->listen(own(port));
  cr_assert(again.error().code == Errc::kBusy, "%s", again.error().what);
}

Test(transport, the_event_descriptor_tells_of_a_message) {
  Pair p;
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  for (const End* end : p.both) {
    epoll_event e{};
    e.events = EPOLLIN;
    cr_assert_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, end->transport->event_fd(), &e), 0);
  }
  int slept_in_vain = 0;
  for (uint8_t round = 1; round <= 20; round++) {
    (void)p.client.transport->send(p.id, message(100, round), {});
    const uint64_t until = now() + 20 * kSecond;
    while (p.server.messages[p.at_server].size() < round && now() < until) {
      bool armed = true;
      for (End* end : p.both) {
        while (end->transport->progress() != 0) {
        }
        const auto r = end->transport->arm();
        cr_assert(r.has_value());
        armed = armed && *r;
      }
      epoll_event e{};
      // Whatever is still to come must wake us.
      const bool there = p.server.messages[p.at_server].size() == round;
      if (armed && !there && epoll_wait(epoll, &e, 1, 100) == 0) slept_in_vain++;
    }
    cr_assert_eq(p.server.messages[p.at_server].size(), round);
  }
  cr_assert_eq(slept_in_vain, 0);
  close(epoll);
}

Test(transport, a_peer_killed_in_the_middle_of_puts) {
  Told* told = shared_told();
  const pid_t child = start_child(told);
  End client;
  const ConnectionId id = connect(client, told->port);
  const RemoteKeyId memory = get_memory(client, id);
  const Bytes source(kChildBytes, 7);
  uint64_t begun = 0, done = 0, failed = 0, killed_at = 0;
  const uint64_t until = now() + 30 * kSecond;
  while (client.downs[id].empty() && now() < until) {
    while (begun - done - failed < 4 && client.downs[id].empty()) {
      const auto put = client.transport->put(id, std::span(source).subspan(0, 16 << 20), memory, 0,
                                             [&](const Result<void>& r) { (r ? done : failed)++; });
      if (!put) break;
      begun++;
    }
    if (killed_at == 0 && done >= 3) {
      kill(child, SIGKILL);
      killed_at = now();
    }
    client.transport->progress();
  }
  cr_assert_gt(killed_at, 0u);
  cr_assert(client.downs[id] == std::vector<Errc>{Errc::kAgentGone});
  cr_assert_eq(begun, done + failed, "an on_done is missing");
  cr_assert_gt(failed, 0u);
  cr_assert_lt(now() - killed_at, 5 * kSecond);
  waitpid(child, nullptr, 0);
}

Test(transport, closing_beside_a_stopped_peer_ends_all) {
  Told* told = shared_told();
  const pid_t child = start_child(told);
  uint64_t ended = 0, begun = 0;
  const Bytes source(kChildBytes, 7);
  {
    End client;
    const ConnectionId id = connect(client, told->port);
    const RemoteKeyId memory = get_memory(client, id);
    kill(child, SIGSTOP);
    for (; begun < 4; begun++) {
      cr_assert(client.transport
                    ->put(id, std::span(source).subspan(0, 16 << 20), memory, 0,
                          [&](const Result<void>& r) { ended += r ? 1000 : 1; })
                    .has_value());
      cr_assert(client.transport->send(id, message(16384, 1), {}).has_value());
    }
    wait_for(
        {&client}, [] { return false; }, 1);
    client.transport->close(id);
    cr_assert(wait_for(
        {&client}, [&] { return !client.downs[id].empty(); }, 5));
    cr_assert_eq(ended, 4u);
    // A second one, and the transport goes with everything in flight.
    const ConnectionId other = connect(client, told->port);
    (void)client.transport->send(other, message(16384, 1), {});
    wait_for(
        {&client}, [] { return false; }, 0);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

Test(transport, strangers_are_sent_away_and_told_of) {
  End server, client;
  const uint16_t port = listen(server);
  const Listening at{htonl(INADDR_LOOPBACK), htons(port), 1};
  const auto visit = [&](const Bytes& bytes) {
    const int fd = dial(at);
    send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    return fd;
  };
  // What the peer answers until it ends the connection.
  const auto answer = [&](int fd) {
    Bytes got(100);
    ssize_t n = -1;
    cr_assert(wait_for({&server}, [&] {
      n = recv(fd, got.data(), got.size(), MSG_DONTWAIT);
      return n >= 0 || errno != EAGAIN;
    }));
    close(fd);
    got.resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
    return got;
  };
  const auto bytes_of = [](const auto& message) {
    const auto* p = reinterpret_cast<const uint8_t*>(&message);
    return Bytes(p, p + sizeof(message));
  };
  const std::string http = "GET / HTTP/1.0\r\n\r\n";
  auto knock = cr::format::make_prefix(cr::format::kWireKnock, 0, 0);
  for (const Bytes& garbage : {Bytes(161), Bytes(16, 0xff), Bytes(http.begin(), http.end())}) {
    cr_assert(answer(visit(garbage)).empty());
  }
  cr_assert(server.strangers == std::vector<WireReason>(3, cr::format::kReasonGarbage));
  knock.version++;
  const Bytes refusal = answer(visit(bytes_of(knock)));
  cr_assert(cr::format::read_refuse(refusal.data(), refusal.size()) &&
            *cr::format::read_refuse(refusal.data(), refusal.size()) == cr::format::kReasonVersion);
  cr_assert(server.strangers.back() == cr::format::kReasonVersion);
  knock.version--;
  knock.payload_bytes = 1;
  cr_assert(answer(visit(bytes_of(knock))).empty());
  close(visit(Bytes(5, 'x')));
  cr_assert(wait_for({&server}, [&] { return server.strangers.size() == 6; }));
  close(visit({}));  // as somebody does who looks if the port is open: nothing to be told
  std::vector<int> silent;
  for (int i = 0; i < 200; i++) {
    silent.push_back(visit({}));
    server.transport->progress();
  }
  const ConnectionId id = connect(client, port);
  (void)client.transport->send(id, message(100, 9), {});
  cr_assert(wait_for({&server, &client}, [&] { return !server.messages.empty(); }));
  for (const int fd : silent) close(fd);
  wait_for(
      {&server}, [] { return false; }, 0);
  cr_assert_eq(server.strangers.size(), 6u);
}

Test(transport, another_service_at_the_address_is_told) {
  End client;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(to);
  cr_assert_eq(bind(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  cr_assert_eq(::listen(fd, 5), 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&to), &bytes);
  for (const bool speaks : {true, false}) {
    const ConnectionId id = connect(client, ntohs(to.sin_port));
    const int peer = accept(fd, nullptr, nullptr);
    const Bytes words(speaks ? 50 : 3, 'w');
    send(peer, words.data(), words.size(), MSG_NOSIGNAL);
    if (!speaks) close(peer);
    cr_assert(wait_for({&client}, [&] { return !client.downs[id].empty(); }));
    cr_assert(client.downs[id][0] == Errc::kAgentGone);
    if (speaks) close(peer);
  }
  // One that is closed while it asks.
  const ConnectionId id = connect(client, ntohs(to.sin_port));
  int failed = 0;
  cr_assert(client.transport
                ->send(id, message(10, 1), [&](const Result<void>& r) { failed += r ? 100 : 1; })
                .has_value());
  wait_for(
      {&client}, [] { return false; }, 0);
  client.transport->close(id);
  cr_assert(wait_for({&client}, [&] { return !client.downs[id].empty(); }));
  cr_assert(client.downs[id][0] == Errc::kOk && failed == 1);
  close(fd);
}

Test(transport, garbage_on_its_sockets_does_no_harm) {
  Told* told = shared_told();
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    End end;
    end.when_message = [&](ConnectionId id, const Bytes& m) {
      (void)end.transport->send(id, m, {});
    };
    const uint16_t port = listen(end);
    auto* sockets = reinterpret_cast<Listening*>(told + 1);
    for (const Listening& other : listening_sockets()) *sockets++ = other;
    *static_cast<volatile uint16_t*>(&told->port) = port;
    wait_for(
        {&end}, [&] { return *static_cast<volatile bool*>(&told->stop); }, 60);
    _exit(0);
  }
  for (int i = 0; i < 20000 && *static_cast<volatile uint16_t*>(&told->port) == 0; i++)
    usleep(1000);
  Random random(cr_test::test_seed());
  std::vector<int> open;
  for (const auto* at = reinterpret_cast<const Listening*>(told + 1); at->used != 0; at++) {
    for (int i = 0; i < 20; i++) {
      Bytes garbage(1 + random.below(5000));
      for (uint8_t& b : garbage) b = static_cast<uint8_t>(random.below(256));
      const int fd = dial(*at);
      send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL);
      if (i % 2 == 0) {
        close(fd);
      } else {
        open.push_back(fd);
      }
    }
  }
  usleep(300000);
  int status = 0;
  cr_assert_eq(waitpid(child, &status, WNOHANG), 0, "the listener ended: %d", status);
  End client;
  const ConnectionId id = connect(client, told->port);
  (void)client.transport->send(id, message(100, 9), {});
  cr_expect(wait_for({&client}, [&] { return !client.messages[id].empty(); }), "it hangs");
  for (const int fd : open) close(fd);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}
