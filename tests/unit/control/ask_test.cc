// SPDX-License-Identifier: MIT
// ask_test.cc - what a program asks its agent, and whose answer is whose. The agent is a thread of
// the test that speaks the same protocol; no checkpoint is taken.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "control/control.h"
#include "format/quick.h"
#include "rawsys/rawsys.h"

namespace {

using namespace cr;
using format::Ask;

// Takes the control thread's connection, then does what the test says.
class Agent {
 public:
  Agent() {
    char name[] = "/tmp/crtest-ask-XXXXXX";
    cr_assert(mkdtemp(name) != nullptr);
    dir_ = name;
    listen_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", name, format::kAgentSocketName);
    cr_assert(bind(listen_, reinterpret_cast<sockaddr*>(&a), sizeof(a)) == 0);
    cr_assert(listen(listen_, 4) == 0);
  }
  ~Agent() {
    if (connection_ >= 0) close(connection_);
    close(listen_);
    std::filesystem::remove_all(dir_);
  }

  void attach() {
    std::thread hello([this] { welcome(); });
    const auto started = control::start(dir_.c_str());
    hello.join();
    cr_assert(started.has_value(), "%s", started.error().what);
  }
  // The next request; kind 0: none comes within that time.
  format::Request next(int milliseconds = 5000) const {
    format::Request q{};
    pollfd p{connection_, POLLIN, 0};
    if (poll(&p, 1, milliseconds) > 0) (void)!recv(connection_, &q, sizeof(q), 0);
    return q;
  }
  void answer(uint64_t id, Ask kind, Errc code, int sys_errno, const char* text) {
    ch_->answered_id = id;
    ch_->answer_kind = static_cast<uint32_t>(kind);
    ch_->answer_code = static_cast<int32_t>(code);
    ch_->answer_errno = sys_errno;
    rawsys::str_copy(ch_->answer_text, text, sizeof(ch_->answer_text));
    command(format::kCommandReply);
  }
  void die() {
    close(connection_);
    connection_ = -1;
  }

 private:
  void welcome() {
    connection_ = accept(listen_, nullptr, nullptr);
    format::Hello hello{};
    if (recv(connection_, &hello, sizeof(hello), 0) != sizeof(hello)) return;
    const int channel = memfd_create("crtest-channel", MFD_CLOEXEC);
    const int staging = memfd_create("crtest-staging", MFD_CLOEXEC);
    if (ftruncate(channel, static_cast<off_t>(format::kSharedBytes)) != 0) return;
    ch_ = static_cast<format::ChannelHeader*>(
        mmap(nullptr, format::kSharedBytes, PROT_READ | PROT_WRITE, MAP_SHARED, channel, 0));
    format::Report r{};
    r.kind = format::kMessageWelcome;
    iovec iov{&r, sizeof(r)};
    alignas(cmsghdr) char buffer[CMSG_SPACE(2 * sizeof(int))] = {};
    msghdr m{};
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    m.msg_control = buffer;
    m.msg_controllen = sizeof(buffer);
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(2 * sizeof(int));
    const int fds[2] = {channel, staging};
    memcpy(CMSG_DATA(c), fds, sizeof(fds));
    (void)!sendmsg(connection_, &m, MSG_NOSIGNAL);
    close(channel);
    close(staging);
  }

  void command(format::CommandKind kind) {
    ch_->command = kind;
    const uint32_t seq = __atomic_add_fetch(&ch_->command_seq, 1, __ATOMIC_ACQ_REL);
    __atomic_add_fetch(&ch_->doorbell, 1, __ATOMIC_ACQ_REL);
    rawsys::sys_futex(&ch_->doorbell, FUTEX_WAKE, 0x7fffffff);
    while (__atomic_load_n(&ch_->done_seq, __ATOMIC_ACQUIRE) != seq) usleep(100);
  }

  std::string dir_;
  int listen_ = -1, connection_ = -1;
  format::ChannelHeader* ch_ = nullptr;
};

// A call of ask() in a thread of its own.
struct Call {
  explicit Call(Ask what)
      : thread([this, what] {
          answer = control::ask(what, text, sizeof(text));
          done = true;
        }) {}
  ~Call() {
    if (thread.joinable()) thread.join();
  }
  void wait() { thread.join(); }

  control::Answer answer{};
  char text[512] = "";
  std::atomic<bool> done = false;
  std::thread thread;
};

}  // namespace

Test(control_ask, each_kind_has_its_message_and_its_answers, .timeout = 30) {
  Agent agent;
  agent.attach();
  static constexpr struct {
    Ask ask;
    format::MessageKind message;
  } kKinds[] = {{Ask::kCheckpoint, format::kMessageCheckpoint},
                {Ask::kRollback, format::kMessageRollback},
                {Ask::kWait, format::kMessageWait},
                {Ask::kWaitSafe, format::kMessageWaitSafe},
                {Ask::kWaitFlushed, format::kMessageWaitFlushed}};
  static_assert(std::size(kKinds) == format::kAskKinds);
  for (const auto& kind : kKinds) {
    Call call(kind.ask);
    const format::Request q = agent.next();
    cr_expect(q.kind == kind.message, "%u", q.kind);
    agent.answer(q.id, kind.ask, Errc::kOk, 0, "");
    call.wait();
    cr_expect(!call.answer.restored && call.answer.code == Errc::kOk);
  }
}

// The one that waits long is not released, and hears nothing of the other's error.
Test(control_ask, an_answer_is_one_to_its_kind_alone, .timeout = 30) {
  Agent agent;
  agent.attach();
  Call safe(Ask::kWaitSafe);
  const format::Request q = agent.next();
  cr_assert(q.kind == format::kMessageWaitSafe);
  Call flushed(Ask::kWaitFlushed);
  const format::Request r = agent.next();
  cr_assert(r.kind == format::kMessageWaitFlushed && r.id > q.id);
  agent.answer(r.id, Ask::kWaitFlushed, Errc::kSystem, EIO, "the server is away");
  flushed.wait();
  cr_expect(flushed.answer.code == Errc::kSystem && flushed.answer.sys_errno == EIO);
  cr_expect(strcmp(flushed.text, "the server is away") == 0, "%s", flushed.text);
  usleep(50000);
  cr_expect(!safe.done, "it was released by another's answer");
  agent.answer(q.id, Ask::kWaitSafe, Errc::kOk, 0, "");
  safe.wait();
  cr_expect(safe.answer.code == Errc::kOk && safe.text[0] == 0, "%s", safe.text);
}

Test(control_ask, an_answer_releases_earlier_ones_of_its_kind, .timeout = 30) {
  Agent agent;
  agent.attach();
  Call first(Ask::kWaitSafe);
  const format::Request q = agent.next();
  Call second(Ask::kWaitSafe);
  const format::Request r = agent.next();
  cr_assert(q.kind == r.kind && r.id > q.id);
  agent.answer(q.id, Ask::kWaitSafe, Errc::kOk, 0, "");
  first.wait();
  usleep(50000);
  cr_expect(!second.done, "a later one is not released by an earlier one's");
  Call third(Ask::kWaitSafe);
  const format::Request s = agent.next();
  agent.answer(s.id, Ask::kWaitSafe, Errc::kSystem, EHOSTUNREACH, "b is away");
  second.wait();
  third.wait();
  cr_expect(second.answer.sys_errno == EHOSTUNREACH && third.answer.sys_errno == EHOSTUNREACH);
}

Test(control_ask, all_kinds_learn_that_the_agent_is_gone, .timeout = 30) {
  Agent agent;
  agent.attach();
  Call safe(Ask::kWaitSafe), flushed(Ask::kWaitFlushed), whole(Ask::kWait);
  for (int i = 0; i < 3; i++) cr_assert(agent.next().kind != 0);
  agent.die();
  for (Call* call : {&safe, &flushed, &whole}) {
    call->wait();
    cr_expect(call->answer.code == Errc::kAgentGone && !call->answer.restored);
    cr_expect(strcmp(call->text, control::gone_text()) == 0, "%s", call->text);
  }
}
