// SPDX-License-Identifier: MIT
// link.cc - how fast chunks of pages get from one crstored's memory into another's: two processes,
// tcp over 127.0.0.1, the links and chunks of replication without the files.
// Invariant: each page is checked by the receiver before its window is given back, by a thread of
// the store as crstored does it; what is timed ends when the last window was given back.
// Context: an ordinary program, linked with the layers that it measures.
//
//   link [MIB] [pages|tags|encrypt]   1024 and pages unless given: what the receiver goes by: the
//                                     checksums of the pages, tags, AES-256-GCM
// Prints bytes per second. Exit status: 0; 1 it failed; 2 misuse.
// CR_BUILD: -Isrc
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <mutex>
#include <vector>

#include "format/checksum.h"
#include "format/node_messages.h"
#include "node/link.h"
#include "node/store_threads.h"

using namespace cr::node;    // NOLINT: a program of its own
using namespace cr::format;  // NOLINT
using cr::Error;
using cr::kPageSize;
using cr::Result;

namespace {

constexpr unsigned kWindows = 4;  // as Holder has
constexpr uint64_t kMostSeconds = 120;
// A message of each kind.
constexpr uint16_t kRegionType = kWireFirstFree, kChunkType = kRegionType + 1,
                   kDoneType = kRegionType + 2;

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

[[noreturn]] void fail(const char* what) {
  fprintf(stderr, "link: %s\n", what);
  _exit(1);
}

uint8_t* memory(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) fail("there is not enough memory");
  auto* p = static_cast<uint8_t*>(at);
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = i * 0x9e3779b97f4a7c15;
    memcpy(p + i, &word, sizeof(word));
  }
  return p;
}

template <typename T>
std::span<const uint8_t> bytes_of(const T& value) {
  return {reinterpret_cast<const uint8_t*>(&value), sizeof(value)};
}

class Side : public LinkHandler {
 public:
  Side(const char* name, const char* mode) {
    LinkOptions o;
    o.cluster = "bench";
    o.node = name;
    o.encrypt = strcmp(mode, "encrypt") == 0;
    o.tag_blocks = strcmp(mode, "tags") == 0;
    o.transport.tls = "tcp";
    auto key = SessionKey::from_bytes(std::vector<uint8_t>(32, 7));
    auto hub = LinkHub::create(o, std::move(*key), this, now_ns());
    if (!hub) fail(hub.error().what);
    hub_ = std::move(*hub);
  }
  LinkHub& hub() { return *hub_; }
  void on_down(LinkId, const Error&, const std::string&) override { down_ = true; }
  void on_refused(WireReason, const std::string&, const std::string& text) override {
    fail(text.c_str());
  }
  // Until `done` says so, or the link is down.
  void run(const std::function<bool()>& done) {
    const uint64_t end = now_ns() + kMostSeconds * 1'000'000'000;
    uint64_t came_ns = 0;
    while (!done() && !down_) {
      if (now_ns() > end) fail("it takes too long");
      while (hub_->progress(now_ns()) != 0) came_ns = now_ns();
      hub_->tick(now_ns());
      turn();
      if (now_ns() - came_ns < kLookOnNs) continue;
      const auto armed = hub_->arm();
      if (done() || !armed || !*armed) continue;
      pollfd fds[] = {{hub_->event_fd(), POLLIN, 0}, {wake_, POLLIN, 0}};
      (void)poll(fds, 2, 100);
    }
  }

 protected:
  // Has run() call it; any thread.
  void later(std::function<void()> task) {
    const std::lock_guard held(mutex_);
    tasks_.push_back(std::move(task));
    const uint64_t one = 1;
    (void)!write(wake_, &one, sizeof(one));
  }
  void turn() {
    uint64_t count = 0;
    (void)!read(wake_, &count, sizeof(count));
    std::vector<std::function<void()>> tasks;
    {
      const std::lock_guard held(mutex_);
      tasks.swap(tasks_);
    }
    for (const auto& task : tasks) task();
  }
  const int wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::mutex mutex_;  // of what follows
  std::vector<std::function<void()>> tasks_;
  std::unique_ptr<LinkHub> hub_;
  bool down_ = false;
};

class Receiver final : public Side {
 public:
  explicit Receiver(const char* mode)
      : Side("receiver", mode),
        windows_(memory(kWindows * kChunkBytes)),
        threads_(4, [this](StoreThreads::Task task) { later(std::move(task)); }) {}
  void on_up(LinkId id, const std::string&) override {
    auto region = hub_->register_region(windows_, kWindows * kChunkBytes);
    if (!region || !hub_->send(id, kRegionType, bytes_of(region->wire))) fail("no region");
  }
  void on_message(LinkId id, uint16_t, std::span<const uint8_t> payload) override {
    PartChunk c;
    memcpy(&c, payload.data(), sizeof(c));
    uint8_t* data = windows_ + c.window * kChunkBytes;
    const uint64_t digest = checksum(data, c.rows * sizeof(RowRecord));
    if (!hub_->open_block(id, c.seal, data, c.seal.bytes, &digest)) fail("a wrong block");
    threads_.run(
        {},
        [data, c] {
          if (!verify_rows({data, c.seal.bytes}, c.rows)) fail("a wrong page");
        },
        [this, id, window = c.window] {
          if (!hub_->send(id, kDoneType, bytes_of(window))) fail("no answer");
        });
  }
  bool is_down() const { return down_; }

 private:
  uint8_t* windows_;
  StoreThreads threads_;
};

class Sender final : public Side {
 public:
  explicit Sender(const char* mode) : Side("sender", mode), chunks_(memory(kChunks * kChunkBytes)) {
    for (unsigned k = 0; k < kChunks; k++) {
      for (uint64_t i = 0; i < kChunkRows; i++) {
        uint8_t* chunk = chunks_ + k * kChunkBytes;
        const RowRecord r{i, row_check(chunk + kChunkPagesOff + i * kPageSize)};
        memcpy(chunk + i * sizeof(r), &r, sizeof(r));
      }
    }
  }
  void on_up(LinkId id, const std::string&) override { link_ = id; }
  void on_message(LinkId id, uint16_t type, std::span<const uint8_t> payload) override {
    if (type == kRegionType) {
      WireRegion wire;
      memcpy(&wire, payload.data(), sizeof(wire));
      auto region = hub_->import_region(id, wire);
      if (!region) fail("no region");
      region_ = *region;
      return;
    }
    uint32_t window = 0;
    memcpy(&window, payload.data(), sizeof(window));
    free_.push_back(window);
    done_++;
    while (!free_.empty() && begun_ < wanted_) put();
  }
  bool is_ready() const { return region_ != RemoteRegionId::kNone; }
  // Seconds for so many chunks.
  double send(uint64_t chunks) {
    begun_ = done_ = 0;
    wanted_ = chunks;
    const uint64_t begin = now_ns();
    while (!free_.empty() && begun_ < wanted_) put();
    run([this] { return done_ == wanted_; });
    if (done_ != wanted_) fail("the receiver is gone");
    return static_cast<double>(now_ns() - begin) * 1e-9;
  }

 private:
  static constexpr unsigned kChunks = 8;
  void put() {
    auto message = std::make_shared<PartChunk>();
    message->window = free_.back();
    message->rows = kChunkRows;
    free_.pop_back();
    const uint8_t* chunk = chunks_ + begun_++ % kChunks * kChunkBytes;
    const uint64_t digest = checksum(chunk, kChunkRows * sizeof(RowRecord));
    auto seal = hub_->put_block(
        link_, {chunk, kChunkBytes}, region_, message->window * kChunkBytes,
        [this, message](const Result<void>& done) {
          if (!done || !hub_->send(link_, kChunkType, bytes_of(*message))) fail("a put failed");
        },
        &digest);
    if (!seal) fail(seal.error().what);
    message->seal = *seal;
  }

  uint8_t* chunks_;
  LinkId link_ = LinkId::kNone;
  RemoteRegionId region_ = RemoteRegionId::kNone;
  std::vector<uint32_t> free_{0, 1, 2, 3};
  uint64_t begun_ = 0, done_ = 0, wanted_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const uint64_t mib = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1024;
  const char* mode = argc > 2 ? argv[2] : "pages";
  const bool known =
      strcmp(mode, "pages") == 0 || strcmp(mode, "tags") == 0 || strcmp(mode, "encrypt") == 0;
  if (mib == 0 || argc > 3 || !known) {
    fprintf(stderr, "usage: link [MIB] [pages|tags|encrypt]\n");
    return 2;
  }
  int fds[2];
  if (pipe(fds) != 0) fail("pipe");
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Receiver receiver(mode);
    const auto port = receiver.hub().listen("127.0.0.1", 0);
    if (!port || write(fds[1], &*port, sizeof(*port)) != sizeof(*port)) fail("cannot listen");
    receiver.run([] { return false; });
    _exit(0);
  }
  close(fds[1]);
  uint16_t port = 0;
  if (read(fds[0], &port, sizeof(port)) != sizeof(port)) fail("the receiver did not start");
  Sender sender(mode);
  if (!sender.hub().connect("receiver", "127.0.0.1", port)) fail("cannot connect");
  sender.run([&] { return sender.is_ready(); });
  if (!sender.is_ready()) fail("the link did not come up");
  (void)sender.send(20);
  const double seconds = sender.send(mib);
  printf("%.0f\n", static_cast<double>(mib) * kChunkBytes / seconds);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return 0;
}
