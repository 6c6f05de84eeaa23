// SPDX-License-Identifier: MIT
// crckpt.cc - ask a session for a checkpoint and wait until it is whole.
// Invariant: exit status 0 means that the checkpoint is whole.
// Context: N. Doc: docs/man/crckpt.1.
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/proc.h"
#include "tools/cli_common.h"
#include "tools/progress.h"

namespace {

using namespace cr;

constexpr char kTool[] = "crckpt";
constexpr char kHelp[] =
    "usage: crckpt [options] IMAGE.dir|PID\n"
    "Take a checkpoint of a running session and wait until it is whole.\n"
    "PID: of the program, or of its crrun, crrestore or cragent.\n"
    "      --then=continue|stop|kill\n"
    "                     what the program does next: go on (also after an earlier stop), stay\n"
    "                     frozen (SIGCONT or --then=continue lets it go on), or be ended without\n"
    "                     running on (default continue)\n"
    "  -q, --quiet        print nothing on success\n"
    "  -v, --verbose      show how far it is, on standard error: a bar on a terminal, elsewhere a\n"
    "                     line each second and one at the end\n"
    "  -h, --help         this text\n"
    "  -V, --version      the version\n"
    "Prints the checkpoint's sequence, the bytes written, how long the program stood still, and "
    "the\n"
    "time until it was whole. Exit status: 0 whole; 1 it could not be taken (a program that runs\n"
    "runs on) or there is no such session; 2 misuse.\n";
constexpr int kExitNoCheckpoint = 1;

[[noreturn]] void no_session(const std::string& text) {
  fprintf(stderr, "%s: %s\n", kTool, text.c_str());
  exit(kExitNoCheckpoint);
}

// The image directory of a process: its session's environment or its open lock file.
std::string directory_of(const char* pid) {
  auto env = os::read_file(std::string("/proc/") + pid + "/environ");
  auto fds = os::list_fds(atoi(pid), atoi(pid));
  if (fds) {
    for (const int fd : *fds) {
      auto link = os::read_link(std::string("/proc/") + pid + "/fd/" + std::to_string(fd));
      if (!link || !link->ends_with("/lock")) continue;
      std::string dir = link->substr(0, link->size() - 5);
      const int s = tools::connect_to_agent(dir);
      if (s < 0) continue;
      close(s);
      return dir;
    }
  }
  // The program itself: its control thread, with a descriptor table of its own, holds the lock.
  auto tasks = os::list_tasks(atoi(pid));
  for (const pid_t tid : tasks ? *tasks : std::vector<pid_t>()) {
    auto held = os::list_fds(atoi(pid), tid);
    for (const int fd : held ? *held : std::vector<int>()) {
      auto link = os::read_link(std::string("/proc/") + pid + "/task/" + std::to_string(tid) +
                                "/fd/" + std::to_string(fd));
      const std::string name = std::string("/") + format::kProgramLockName;
      if (link && link->ends_with(name)) return link->substr(0, link->size() - name.size());
    }
  }
  if (!env) return "";
  size_t at = 0;
  while (at < env->size()) {
    const std::string v = env->c_str() + at;
    if (v.starts_with("CR_SESSION=")) return v.substr(11);
    at += v.size() + 1;
  }
  return "";
}

// Asks the agent and waits for its report. false: it went away.
bool ask(const char* what, const std::string& dir, const format::Request& q, bool again,
         format::Report* ret) {
  const int s = tools::connect_to_agent(dir);
  if (s < 0 && again) return false;
  if (s < 0) {
    no_session(
        std::string(what) + ": no session is running there" +
        (errno == ECONNREFUSED || errno == ENOENT ? "" : std::string(": ") + strerror(errno)));
  }
  tools::Progress progress(kTool, stderr);
  bool answered = false;
  if (send(s, &q, sizeof(q), MSG_NOSIGNAL) == sizeof(q)) {
    for (;;) {
      const ssize_t n = recv(s, ret, sizeof(*ret), 0);
      format::Progress p;
      answered = n == sizeof(*ret);
      if (n != sizeof(p)) break;
      memcpy(&p, ret, sizeof(p));
      if (p.kind == format::kMessageProgress) {
        progress.update(tools::phase_word(p.phase), p.done, p.total);
      }
    }
  }
  progress.end();
  close(s);
  return answered;
}

bool all_digits(const char* s) { return *s != 0 && s[strspn(s, "0123456789")] == 0; }

}  // namespace

int main(int argc, char** argv) {
  enum { kThen = 256 };
  static const option kLong[] = {
      {"then", required_argument, nullptr, kThen}, {"quiet", no_argument, nullptr, 'q'},
      {"verbose", no_argument, nullptr, 'v'},      {"help", no_argument, nullptr, 'h'},
      {"version", no_argument, nullptr, 'V'},      {nullptr, 0, nullptr, 0}};
  format::Request q{};
  q.kind = format::kMessageAskCheckpoint;
  bool quiet = false, verbose = false;
  opterr = 0;
  for (int c; (c = getopt_long(argc, argv, ":qvhV", kLong, nullptr)) != -1;) {
    switch (c) {
      case kThen:
        q.then = strcmp(optarg, "continue") == 0 ? 0
                 : strcmp(optarg, "stop") == 0   ? 1
                 : strcmp(optarg, "kill") == 0   ? 2
                                                 : 3;
        if (q.then == 3) {
          tools::misuse(kTool, std::string("--then=") + optarg + ": continue, stop or kill");
        }
        break;
      case 'q':
        quiet = true;
        break;
      case 'v':
        verbose = true;
        break;
      default:
        tools::common_option(kTool, kHelp, c, argv[optind - 1]);
    }
  }
  if (optind + 1 != argc) tools::misuse(kTool, "give an image directory or a process id");
  const char* what = argv[optind];
  struct stat st;
  std::string dir;
  if (stat(what, &st) != 0 && all_digits(what)) {
    dir = directory_of(what);
    if (dir.empty()) no_session(std::string("process ") + what + " is in no session");
  } else {
    dir = tools::absolute_path(kTool, what);
  }
  if (verbose) q.kind = format::kMessageAskWithProgress;
  format::Report r{};
  bool answered = ask(what, dir, q, false, &r);
  if (!answered && verbose) {  // an agent of an earlier version hangs up on what it does not know
    q.kind = format::kMessageAskCheckpoint;
    answered = ask(what, dir, q, true, &r);
  }
  if (!answered) {
    fprintf(stderr, "%s: %s: the session ended before the checkpoint was whole\n", kTool, what);
    return kExitNoCheckpoint;
  }
  if (r.code != 0) {
    fprintf(stderr, "%s: no checkpoint: %s\n", kTool, r.text);
    return kExitNoCheckpoint;
  }
  if (!quiet) {
    printf("sequence %llu whole: %s, pause %.3f ms, time %.3f ms\n",
           static_cast<unsigned long long>(r.sequence), tools::human_bytes(r.image_bytes).c_str(),
           static_cast<double>(r.pause_ns) / 1e6, static_cast<double>(r.commit_ns) / 1e6);
  }
  return 0;
}
