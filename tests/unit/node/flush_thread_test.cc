// SPDX-License-Identifier: MIT
// flush_thread_test.cc - several sessions that are flushed by one thread, and what it tells.
// Invariant under test: what is owed is flushed also if the session ends, or a new thread has to go
// on; nobody waits for the thread.
// Context: N.
#include "node/flush_thread.h"

#include <criterion/criterion.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <mutex>

#include "node/flush_look.h"
#include "rawsys/rawsys.h"
#include "store/file.h"
#include "tests/unit/node/written_session.h"

namespace {

using cr::node::FlushChoice;
using cr::node::FlushedSession;
using cr::node::FlushLook;
using cr::node::FlushOptions;
using cr::node::FlushStatus;
using cr::node::FlushThread;
using cr::node::SessionId;
using cr::node::SessionImage;
using cr_test::full;
using cr_test::Pages;
using cr_test::WrittenSession;

constexpr uint64_t kSecond = 1'000'000'000;

struct Node {
  Node() {
    char name[] = "/tmp/cr-flush-thread-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    dir = name;
    options.dir = dir;
    options.node = "here";
    options.durable = false;
  }
  ~Node() {
    thread.reset();
    std::filesystem::remove_all(dir);
  }
  void start(uint64_t bytes_per_second = 0) {
    FlushThread::Events events;
    events.log = [this](const std::string& line) {
      const std::lock_guard held(mutex);
      log.push_back(line);
    };
    events.changed = [this](const SessionId& id, const FlushStatus& status) {
      const std::lock_guard held(mutex);
      told[id] = status;
      changed.notify_all();
    };
    thread = std::make_unique<FlushThread>(options, bytes_per_second, std::move(events));
  }
  // What was told of the session last, once that is so.
  template <typename Condition>
  FlushStatus wait(const SessionId& id, const Condition& condition) {
    std::unique_lock held(mutex);
    const bool so = changed.wait_for(held, std::chrono::seconds(30),
                                     [&] { return told.contains(id) && condition(told[id]); });
    cr_assert(so, "%s", log.empty() ? "nothing was logged" : log.back().c_str());
    return told[id];
  }
  void wait_idle() {
    for (int i = 0; i < 3000 && !thread->all().empty(); i++) usleep(10000);
    cr_assert(thread->all().empty());
  }
  std::vector<uint64_t> sequences() const {
    std::vector<uint64_t> all;
    for (const auto& f : cr::node::list_flushed(dir)) all.push_back(f.triple.sequence);
    return all;
  }

  std::string dir;
  FlushOptions options;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> log;
  std::map<SessionId, FlushStatus> told;
  std::unique_ptr<FlushThread> thread;
};

struct Job {
  explicit Job(uint8_t number) {
    session.number = number;
    write(1);
    auto image = SessionImage::open(session.dir());
    cr_assert(image.has_value());
    identity = {cr::node::session_id_of((*image)->super().session_id),
                "job" + std::to_string(number),
                session.dir(),
                {},
                getuid()};
  }
  void write(uint64_t sequence) {
    session.write({full(sequence * 10000), full(sequence * 20000), full(sequence)}, sequence);
  }
  WrittenSession session;
  FlushedSession identity;
};

}  // namespace

Test(flush_thread, flushes_and_tells) {
  Node node;
  node.options.every = 2;
  node.start();
  Job job(1);
  node.thread->wake(job.identity);
  job.write(2);
  node.thread->wake(job.identity);
  const auto status =
      node.wait(job.identity.id, [](const FlushStatus& s) { return s.newest.sequence == 2; });
  const auto listed = cr::node::list_flushed(node.dir);
  cr_assert_eq(listed.size(), 1u);
  cr_expect(status.path == listed[0].path);
  cr_assert_eq(node.thread->all().size(), 1u, "the session goes on");
  node.thread->end(job.identity.id);
  node.wait_idle();
  cr_expect(node.log.empty());
  // It comes back.
  job.session.epoch = 2;
  job.write(3);
  node.thread->wake(job.identity);
  job.write(4);
  node.thread->wake(job.identity);
  node.wait(job.identity.id, [](const FlushStatus& s) { return s.newest.sequence == 4; });
}

Test(flush_thread, a_session_can_choose_for_itself) {
  Node node;
  node.start();
  Job job(1), other(2);
  job.write(2);
  node.thread->wake(other.identity);
  node.thread->wake(job.identity, FlushChoice{1, 0});
  node.wait(job.identity.id, [](const FlushStatus& s) { return s.newest.sequence == 2; });
  node.thread->wake(job.identity);
  job.write(3);
  node.thread->wake(job.identity);
  node.wait(job.identity.id, [](const FlushStatus& s) { return s.newest.sequence == 3; });
  cr_expect((node.sequences() == std::vector<uint64_t>{3, 2}), "nothing of the other");
}

Test(flush_thread, requests_are_answered) {
  Node node;
  node.start();
  Job job(1), gone(2);
  const uint64_t first = node.thread->request(job.identity);
  auto status =
      node.wait(job.identity.id, [&](const FlushStatus& s) { return s.answered >= first; });
  cr_expect(status.answer.empty() && status.newest.sequence == 1);
  node.wait_idle();
  // Numbers go on although the session was forgotten.
  const uint64_t second = node.thread->request(job.identity);
  cr_expect_gt(second, first);
  node.wait(job.identity.id, [&](const FlushStatus& s) { return s.answered >= second; });
  std::filesystem::remove_all(gone.session.dir());
  const uint64_t third = node.thread->request(gone.identity);
  status = node.wait(gone.identity.id, [&](const FlushStatus& s) { return s.answered >= third; });
  cr_expect(status.answer.find("image is gone") != std::string::npos);
  node.wait_idle();
}

// The session ends while its checkpoint is on its way, then crstored, and the next one finishes it.
Test(flush_thread, what_was_begun_is_finished) {
  Node node;
  Job job(1);
  node.options.every = 1;
  node.start(1 << 20);  // some seconds for it
  node.thread->wake(job.identity);
  node.thread->end(job.identity.id);
  const std::string temporary =
      cr::node::flush_directory(node.dir, "job1", job.identity.id) + "/here.new";
  for (int i = 0; i < 3000 && access(temporary.c_str(), F_OK) != 0; i++) usleep(10000);
  const uint64_t begin = cr::rawsys::now_ns();
  node.thread.reset();
  cr_expect_lt(cr::rawsys::now_ns() - begin, 3 * kSecond, "it does not wait for the rate");
  cr_expect(node.sequences().empty());
  cr_assert_eq(access(temporary.c_str(), F_OK), 0);
  node.options.every = 0;
  node.start();
  for (int i = 0; i < 3000 && node.sequences().empty(); i++) usleep(10000);
  cr_expect((node.sequences() == std::vector<uint64_t>{1}));
  node.wait_idle();
  std::string text;
  cr_expect(cr::node::verify_flush(cr::node::list_flushed(node.dir).at(0).path, &text).has_value(),
            "%s", text.c_str());
}

// All of them share the rate, and none has to wait for another to end.
Test(flush_thread, sessions_take_turns) {
  Node node;
  node.options.every = 1;
  Job a(1), b(2), c(3);
  const uint64_t begin = cr::rawsys::now_ns();
  node.start(16 << 20);
  for (Job* job : {&a, &b, &c}) node.thread->wake(job->identity);
  uint64_t most = 0, least = ~uint64_t{0};
  std::map<SessionId, uint64_t> last;
  uint64_t first_end = 0;
  for (int i = 0; i < 3000 && last.size() < 3; i++) {
    usleep(2000);
    for (const auto& [s, status] : node.thread->all()) {
      if (status.flushes > 0 && !last.contains(s.id)) last[s.id] = cr::rawsys::now_ns();
      if (status.flushes > 0 && first_end == 0) {
        first_end = last[s.id];
        for (const auto& [other, now] : node.thread->all()) {
          least = std::min(least, now.traffic_bytes);
          most = std::max(most, now.traffic_bytes);
        }
      }
    }
  }
  cr_assert_eq(last.size(), 3u);
  cr_expect_gt(2 * least, most / 2, "when the first was done the others had %lu of %lu", least,
               most);
  uint64_t traffic = 0;
  for (const auto& [s, status] : node.thread->all()) traffic += status.traffic_bytes;
  const uint64_t took_ms = (cr::rawsys::now_ns() - begin) / 1'000'000;
  cr_expect_geq(took_ms, (traffic - (6 << 20)) * 1000 / (16 << 20), "%lu bytes in %lu ms", traffic,
                took_ms);
}

namespace {

// Stands for a file system that does not answer: the first step that changes it takes until open().
class Gate : public cr::store::StorageObserver {
 public:
  void step(const cr::store::StorageStep&) override {
    std::unique_lock held(mutex_);
    if (is_open_) return;
    reached_ = true;
    changed_.notify_all();
    changed_.wait(held, [&] { return is_open_; });
    passed_ = true;
    changed_.notify_all();
  }
  void wait_reached() {
    std::unique_lock held(mutex_);
    changed_.wait(held, [&] { return reached_; });
  }
  void open() {
    std::unique_lock held(mutex_);
    is_open_ = true;
    changed_.notify_all();
    changed_.wait(held, [&] { return passed_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = false, reached_ = false, passed_ = false;
};

}  // namespace

Test(flush_thread, one_that_stands_still_is_left_behind) {
  static Gate gate;
  Node node;
  node.options.every = 1;
  Job job(1);
  FlushThread::Events events;
  static std::atomic<int> told{0};
  events.changed = [](const SessionId&, const FlushStatus&) { told++; };
  events.log = [](const std::string&) { told++; };
  cr::store::observe_storage(&gate);
  auto thread = std::make_unique<FlushThread>(node.options, 0, std::move(events), kSecond / 5);
  thread->wake(job.identity);
  gate.wait_reached();
  const uint64_t begin = cr::rawsys::now_ns();
  cr_expect(thread->busy_since_ns() != 0 && thread->busy_since_ns() <= begin);
  thread->wake(job.identity);
  (void)thread->request(job.identity);
  thread->end(job.identity.id);
  cr_expect_eq(thread->all().size(), 1u);
  cr_expect_lt(cr::rawsys::now_ns() - begin, kSecond / 10, "no call waits");
  thread.reset();
  const uint64_t took = cr::rawsys::now_ns() - begin;
  cr_expect(took >= kSecond / 5 && took < 2 * kSecond, "%lu", took);
  const int before = told;
  gate.open();
  usleep(100000);
  cr_expect_eq(told, before, "it tells nobody anything any more");
  cr::store::observe_storage(nullptr);
}

Test(flush_thread, looking_is_not_waited_for) {
  Node node;
  Job job(1);
  node.options.every = 1;
  node.start();
  node.thread->wake(job.identity);
  node.wait(job.identity.id, [](const FlushStatus& s) { return s.newest.sequence == 1; });
  const FlushLook look(node.dir);
  const auto listing = look.list(10 * kSecond);
  cr_assert(listing.has_value());
  cr_expect(listing->files.size() == 1 && listing->bad.empty());
  const FlushLook nothing(node.dir + "/nothing");
  const auto none = nothing.list(10 * kSecond);
  cr_assert(none.has_value());
  cr_expect(none->files.empty() && none->bad.size() == 1);
}
