// SPDX-License-Identifier: MIT
// private_start.cc - see private_start.h. Invariant: as there. Context: N.
#include "node/private_start.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "node/private_place.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using rawsys::now_ns;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kStartNs = 30 * kSecond;      // until it serves
constexpr uint64_t kMostPauseNs = 60 * kSecond;  // between two starts
constexpr unsigned kMostTries = 20;              // of a tool, against one that ends just now
constexpr size_t kMostTextBytes = 4000;

// Also those that the C library keeps for itself, which signal() refuses: they may be ignored, too.
void reset_signals() {
  const struct {
    uint64_t handler, flags, restorer, mask;
  } by_default{};  // the kernel's struct sigaction
  for (int s = 1; s < NSIG; s++) syscall(SYS_rt_sigaction, s, &by_default, nullptr, 8);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// All descriptors but that one, which becomes `as`, are closed; 0 to 2 lead nowhere.
void keep_only(int fd, int as) {
  const int high = fcntl(fd, F_DUPFD, 10);
  const int null = open("/dev/null", O_RDWR);
  for (int i = 0; i < 3; i++) dup2(null, i);
  dup2(high, as);
  close_range(as < 3 ? 3 : static_cast<unsigned>(as) + 1, ~0u, 0);
}

// In a child: becomes `program --private`, whose words for people go to fd.
[[noreturn]] void become_crstored(const std::string& program, int fd) {
  reset_signals();
  keep_only(fd, 2);
  std::vector<char*> variables;
  for (char** v = environ; *v != nullptr; v++) {
    if (strncmp(*v, "LD_", 3) != 0 && strncmp(*v, "CR_", 3) != 0) variables.push_back(*v);
  }
  variables.push_back(nullptr);
  std::string name = "crstored", option = "--private";
  char* const argv[] = {name.data(), option.data(), nullptr};
  execve(program.c_str(), argv, variables.data());
  dprintf(2, "%s: %s\n", program.c_str(), strerror(errno));
  _exit(127);
}

// Until the other end is closed. false: that takes too long.
bool read_all(int fd, uint64_t end_ns, std::string* ret_text) {
  for (;;) {
    const uint64_t now = now_ns();
    if (now >= end_ns) return false;
    pollfd p{fd, POLLIN, 0};
    if (poll(&p, 1, static_cast<int>((end_ns - now) / 1'000'000 + 1)) <= 0) continue;
    char buffer[1024];
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    if (ret_text->size() < kMostTextBytes) ret_text->append(buffer, static_cast<size_t>(n));
  }
}

// "crstored: a: b\n" is part of our own sentence.
std::string without_frame(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  constexpr char kName[] = "crstored: ";
  if (text.starts_with(kName)) text.erase(0, strlen(kName));
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

// Asked to start one; asked to keep it below it as well.
constexpr char kStart = 's', kStartBelow = 'b';

void note_signal(int) {}

// What PrivateStarter's process does.
[[noreturn]] void serve_starts(const std::string& program, int fd) {
  constexpr int kEnd = 3;
  reset_signals();
  keep_only(fd, kEnd);
  (void)!chdir("/");
  prctl(PR_SET_NAME, "cr-start");
  struct sigaction interrupt {};
  interrupt.sa_handler = note_signal;  // recv() shall return
  sigaction(SIGCHLD, &interrupt, nullptr);
  const pid_t own = getpid();
  (void)send(kEnd, &own, sizeof(own), MSG_NOSIGNAL);
  for (char byte;;) {
    const ssize_t n = recv(kEnd, &byte, 1, 0);
    const bool interrupted = n < 0 && errno == EINTR;
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (interrupted) continue;
    if (n != 1) break;
    if (byte == kStartBelow) prctl(PR_SET_CHILD_SUBREAPER, 1);
    std::string text;
    if (const auto started = start_private(program, &text); !started && text.empty()) {
      text = started.error().what;
    }
    text.resize(std::min(text.size(), kMostTextBytes));
    text.insert(text.begin(), byte);  // a message of no bytes would be an end
    (void)send(kEnd, text.data(), text.size(), MSG_NOSIGNAL);
  }
  _exit(0);
}

std::vector<std::string> sockets_of_node() {
  std::vector<std::string> all;
  if (const char* run = getenv("XDG_RUNTIME_DIR"); run != nullptr && *run == '/') {
    all.push_back(std::string(run) + "/crstored.sock");
  }
  all.emplace_back("/run/crstored.sock");
  return all;
}

}  // namespace

Result<void> start_private(const std::string& program, std::string* ret_text) {
  if (program.empty()) {
    *ret_text =
        "crstored is missing beside this program; install it, or name the socket of one "
        "that runs in CR_STORE_SOCKET";
    return Error{Errc::kNotFound, ENOENT, "crstored is missing"};
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Error{Errc::kSystem, errno, "pipe"};
  os::Fd from(ends[0]), to(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return Error{Errc::kSystem, errno, "fork"};
  if (pid == 0) become_crstored(program, to.get());
  to.reset();
  std::string said;
  if (!read_all(from.get(), now_ns() + kStartNs, &said)) {
    kill(pid, SIGKILL);
    said = "it is not ready after 30 s";
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (said.empty() && status == 0) return {};
  *ret_text = "no private crstored can be started: " +
              (said.empty() ? program + " ended with status " + std::to_string(status)
                            : without_frame(said));
  return Error{Errc::kSystem, 0, "no private crstored can be started"};
}

Result<std::shared_ptr<PrivateStarter>> PrivateStarter::make(const std::string& program) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return Error{Errc::kSystem, errno, "socketpair"};
  }
  os::Fd ours(ends[0]), theirs(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return Error{Errc::kSystem, errno, "fork"};
  if (pid == 0) {
    setsid();
    const pid_t second = fork();
    if (second == 0) serve_starts(program, theirs.get());
    _exit(second < 0 ? 1 : 0);
  }
  theirs.reset();
  // When this returns the other one has init, or whoever reaps here, as its parent.
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_t second = 0;
  ssize_t n;
  do n = recv(ours.get(), &second, sizeof(second), 0);
  while (n < 0 && errno == EINTR);
  if (n != sizeof(second)) return Error{Errc::kSystem, ECHILD, "making a process"};
  const auto stat = os::read_stat(second, second);
  const bool is_ours = stat && stat->ppid == getpid();
  return std::shared_ptr<PrivateStarter>(new PrivateStarter(std::move(ours), is_ours ? second : 0));
}

void PrivateStarter::start() {
  const char byte = child_ != 0 ? kStartBelow : kStart;
  if (!starting_) starting_ = send(fd_.get(), &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

std::optional<std::string> PrivateStarter::outcome() {
  if (!starting_) return std::nullopt;
  char text[kMostTextBytes + 1];
  const ssize_t n = recv(fd_.get(), text, sizeof(text), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  starting_ = false;
  if (n <= 0) return "no private crstored can be started: the process that would do it is gone";
  return std::string(text + 1, static_cast<size_t>(n) - 1);
}

std::string socket_of_environment() {
  const char* set = getenv("CR_STORE_SOCKET");
  return set != nullptr ? set : "";
}

Result<Client> StoreFinder::try_all(std::string* ret_text) {
  is_private_ = false;
  if (!given_.empty() && given_ != kPrivateSocket) {
    socket_ = given_;
    return Client::connect(socket_, ret_text);
  }
  std::string text;
  for (const std::string& path : sockets_of_node()) {
    if (given_ == kPrivateSocket) break;
    socket_ = path;
    if (auto client = Client::connect(path, &text)) return client;
  }
  const auto place = private_place(ret_text);
  if (!place) return place.error();
  is_private_ = true;
  socket_ = place->link;
  return Client::connect(socket_, ret_text);
}

void StoreFinder::keep() { given_ = is_private_ ? kPrivateSocket : socket_; }

Result<Client> StoreFinder::connect(std::string* ret_text) {
  if (auto client = try_all(ret_text); client || !is_private_ || !starter_) return client;
  const Error busy{Errc::kBusy, EAGAIN, "a private crstored is being started"};
  const auto outcome = starter_->outcome();
  if (starter_->is_starting()) return busy;
  if (outcome) start_failure_ = *outcome;
  const uint64_t now = now_ns();
  if (!start_failure_.empty() && (outcome || now < next_start_ns_)) {
    *ret_text = start_failure_;
    return Error{Errc::kSystem, 0, "no private crstored can be started"};
  }
  if (now < next_start_ns_) return busy;
  // One that always ends at once is not started all the time.
  const bool often = started_ns_ != 0 && now - started_ns_ < kMostPauseNs;
  pause_ns_ = often ? std::min(2 * pause_ns_, kMostPauseNs) : kSecond;
  started_ns_ = now;
  next_start_ns_ = now + pause_ns_;
  starter_->start();
  return busy;
}

Result<Client> StoreFinder::connect_or_start(const std::string& program, std::string* ret_text) {
  for (unsigned i = 0;; i++) {
    auto client = try_all(ret_text);
    if (client || !is_private_ || program.empty() || i == kMostTries) return client;
    CR_TRYV(start_private(program, ret_text));
  }
}

}  // namespace cr::node
