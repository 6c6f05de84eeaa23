// SPDX-License-Identifier: MIT
// protector_test.cc - what a session's agent makes of what crstored says: which checkpoints are at
// levels 2 and 3, and what keeps others from getting there. The crstored is the test's own.
#include "agent/protector.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

namespace {

using namespace cr::agent;
using cr::node::Json;

class Fixture {
 public:
  explicit Fixture(const std::string& spec) {
    char name[] = "/tmp/crtest-protector-XXXXXX";
    cr_assert(mkdtemp(name) != nullptr);
    dir_ = name;
    ProtectOptions options;
    options.spec = spec;
    options.name = "job";
    options.socket = dir_ + "/sock";
    protector = std::make_unique<Protector>(
        options, [this](const std::string& text) { said.push_back(text); });
    const uint8_t id[16] = {7};
    protector->begin(dir_, id);
  }
  ~Fixture() {
    hang_up();
    if (listen_ >= 0) close(listen_);
    std::filesystem::remove_all(dir_);
  }

  void listen() {
    listen_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    (dir_ + "/sock").copy(a.sun_path, sizeof(a.sun_path) - 1);
    cr_assert(bind(listen_, reinterpret_cast<sockaddr*>(&a), sizeof(a)) == 0);
    cr_assert(::listen(listen_, 4) == 0);
  }
  void hang_up() {
    if (peer_ >= 0) close(peer_);
    peer_ = -1;
  }
  // What crstored is asked next.
  std::string next_op() {
    if (peer_ < 0) peer_ = accept(listen_, nullptr, nullptr);
    size_t line;
    while ((line = in_.find('\n')) == std::string::npos) {
      char buffer[4096];
      const ssize_t n = recv(peer_, buffer, sizeof(buffer), MSG_DONTWAIT);
      if (n <= 0) return "";
      in_.append(buffer, static_cast<size_t>(n));
    }
    const Json j = cr::node::parse_json(in_.substr(0, line));
    in_.erase(0, line + 1);
    return cr::node::text_of(j, "op");
  }
  void tell(const Json& j) {
    const std::string line = cr::node::dump_json(j) + "\n";
    cr_assert(send(peer_, line.data(), line.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(line.size()));
    protector->serve();
  }
  // crstored has taken the session up.
  void accepted(const std::string& flush_dir = "") {
    listen();
    protector->look(1, 1);
    cr_assert(next_op() == "protect");
    tell({{"ok", true}, {"holders", {"a", "b"}}, {"flush", flush_dir}});
    cr_assert(next_op() == "level");
  }
  void level(uint64_t sequence, unsigned level, const std::string& trouble, bool sending = false) {
    tell({{"event", "level"},
          {"epoch", 1},
          {"sequence", sequence},
          {"level", level},
          {"parts", level == 2 && trouble.empty() ? 2 : 1},
          {"of", 2},
          {"holders", {"a", "b"}},
          {"sending", sending},
          {"window_ns", level == 2 ? sequence * 1000 : 0},
          {"trouble", trouble}});
  }

  std::unique_ptr<Protector> protector;
  std::vector<std::string> said;

 private:
  std::string dir_, in_;
  int listen_ = -1, peer_ = -1;
};

bool on_its_way(const Protector::Standing& s) { return !s.reached && !s.never && s.why.empty(); }

}  // namespace

Test(protector, never_where_nobody_keeps_anything) {
  const Fixture off("");
  cr_expect(off.protector->standing(2, {1, 1}).never && off.protector->standing(3, {1, 1}).never);
  cr_expect(off.protector->levels().protect[0] == 0);
  Fixture none("none");
  none.accepted("/shared");
  cr_expect(none.protector->standing(2, {1, 1}).never);
  cr_expect(on_its_way(none.protector->standing(3, {1, 1})));
  Fixture two("replica:2");
  two.accepted();
  cr_expect(on_its_way(two.protector->standing(2, {1, 1})));
  cr_expect(two.protector->standing(3, {1, 1}).never, "there is no directory");
}

Test(protector, a_level_is_reached_in_order) {
  Fixture f("replica:2");
  f.accepted();
  f.level(0, 0, "");  // it is looked at
  cr_expect(on_its_way(f.protector->standing(2, {1, 1})));
  f.level(2, 2, "");
  cr_expect(f.protector->standing(2, {1, 1}).reached && f.protector->standing(2, {1, 2}).reached);
  cr_expect(on_its_way(f.protector->standing(2, {1, 3})));
  cr_expect(on_its_way(f.protector->standing(2, {2, 1})), "of a later life");
  const auto l = f.protector->levels();
  cr_expect(l.safe_sequence == 2 && l.window_ns == 2000 && l.is_kept == 1 && l.degraded == 0);
  cr_expect(std::string(l.holders) == "a b" && std::string(l.protect) == "replica:2");
}

Test(protector, trouble_counts_for_what_was_tried) {
  Fixture f("replica:2");
  f.accepted();
  f.level(1, 2, "");
  f.level(2, 1, "b: gone", /*sending=*/true);
  cr_expect(on_its_way(f.protector->standing(2, {1, 2})), "the others may still get it");
  cr_expect(f.protector->levels().degraded == 4, "but it is shown");
  f.level(2, 1, "b: gone");
  const auto stuck = f.protector->standing(2, {1, 2});
  cr_expect(!stuck.reached && stuck.why == "b: gone" && stuck.since_ns != 0);
  cr_expect(on_its_way(f.protector->standing(2, {1, 3})), "nobody has tried that one");
  f.level(3, 1, "b: gone");
  cr_expect(f.protector->standing(2, {1, 3}).since_ns == stuck.since_ns, "it lasts");
  f.level(3, 2, "");
  cr_expect(f.protector->standing(2, {1, 3}).reached);
  cr_expect(f.protector->levels().degraded == 0 && f.protector->levels().trouble[0] == 0);
  cr_expect(f.said.size() == 2, "said once, and that it is over");
}

// Safe, then not any more, then again: the same checkpoint.
Test(protector, a_level_may_be_lost) {
  Fixture f("replica:2");
  f.accepted();
  f.level(1, 2, "");
  f.level(1, 1, "b: gone");
  const auto lost = f.protector->standing(2, {1, 1});
  cr_expect(!lost.reached && lost.why == "b: gone");
  cr_expect(f.protector->levels().safe_sequence == 1, "which was the newest stays known");
  f.level(1, 2, "");
  cr_expect(f.protector->standing(2, {1, 1}).reached);
}

Test(protector, without_crstored) {
  Fixture f("replica:2");
  f.protector->look(1, 1);
  for (const int level : {2, 3}) {
    const auto s = f.protector->standing(level, {1, 1});
    cr_expect(!s.reached && !s.never && s.why.find("sock") != std::string::npos, "%s",
              s.why.c_str());
  }
  cr_expect(f.protector->levels().degraded == 4 && f.protector->levels().is_kept == 0);
  Fixture g("replica:2");
  g.accepted();
  g.level(1, 2, "");
  g.hang_up();
  g.protector->serve();
  cr_expect(g.protector->levels().is_kept == 0);
  cr_expect(g.protector->standing(2, {1, 1}).reached, "it lies where it lay");
  cr_expect(!g.protector->standing(2, {1, 2}).why.empty());
}

Test(protector, flushes_for_who_waits) {
  Fixture f("none");
  f.accepted("/shared");
  f.protector->flush({1, 1});
  f.protector->flush({1, 1});
  cr_expect(f.next_op() == "flush");
  cr_expect(f.next_op() == "", "asked once");
  f.tell({{"event", "progress"}, {"done", 1}, {"total", 2}});
  cr_expect(on_its_way(f.protector->standing(3, {1, 1})));
  f.tell({{"op", "flush"}, {"ok", false}, {"error", "job: /shared: no room"}});
  cr_expect(f.protector->standing(3, {1, 1}).why == "job: /shared: no room");
  cr_expect(f.protector->levels().degraded == 8);
  cr_expect(f.protector->levels().is_kept == 1, "the session is still kept");
  f.tell({{"event", "level"}, {"level", 3}, {"epoch", 1}, {"sequence", 1}, {"trouble", ""}});
  cr_expect(f.protector->standing(3, {1, 1}).reached);
  cr_expect(f.protector->levels().degraded == 0 && f.protector->levels().flushed_sequence == 1);
}
