// SPDX-License-Identifier: MIT
// crtop.cc - shows a session as it goes: a full screen on a terminal, a line a second elsewhere.
// Invariant: changes nothing, and never makes the session's agent wait. The terminal is left as it
// was, however this ends.
// Context: N. Doc: docs/man/crtop.1.
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli_common.h"
#include "tools/crtop_screen.h"
#include "tools/crtop_session.h"

namespace {

using namespace cr;

constexpr char kTool[] = "crtop";
constexpr char kHelp[] =
    "usage: crtop [options] IMAGE.dir\n"
    "Show a session as it goes: its program, checkpoints, pauses and what they cost. q ends it.\n"
    "Without a terminal, or on one that is dumb, one line is printed each time.\n"
    "  -d, --delay SECONDS  time between two looks, 0.1 to 3600 (default 1)\n"
    "  -n, --count COUNT    end after so many (default: none)\n"
    "      --once           one line, then end\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "Exit status: 0; 1 there is no session in that directory, and never was; 2 misuse.\n";
constexpr int kExitNoSession = 1;

struct Options {
  std::string dir;
  double delay = 1;
  uint64_t count = 0;  // 0: no end
  bool once = false;
};

volatile sig_atomic_t g_end, g_suspend;

void on_signal(int number) {
  if (number == SIGTSTP) g_suspend = 1;
  if (number != SIGTSTP && number != SIGWINCH) g_end = number;
}

Options parse(int argc, char** argv) {
  enum { kOnce = 256 };
  static const option kLong[] = {
      {"delay", required_argument, nullptr, 'd'}, {"count", required_argument, nullptr, 'n'},
      {"once", no_argument, nullptr, kOnce},      {"help", no_argument, nullptr, 'h'},
      {"version", no_argument, nullptr, 'V'},     {nullptr, 0, nullptr, 0}};
  Options o;
  opterr = 0;
  for (int c; (c = getopt_long(argc, argv, ":d:n:hV", kLong, nullptr)) != -1;) {
    switch (c) {
      case 'd': {
        char* end = nullptr;
        o.delay = strtod(optarg, &end);
        if (end == optarg || *end != 0 || !(o.delay >= 0.1 && o.delay <= 3600)) {
          tools::misuse(kTool, std::string("-d ") + optarg + ": give seconds, 0.1 to 3600");
        }
        break;
      }
      case 'n':
        o.count = tools::parse_number(kTool, "-n", optarg);
        if (o.count == 0) tools::misuse(kTool, "-n 0: give at least 1");
        break;
      case kOnce:
        o.once = true;
        o.count = 1;
        break;
      default:
        tools::common_option(kTool, kHelp, c, argv[optind - 1]);
    }
  }
  if (optind + 1 != argc) tools::misuse(kTool, "give one image directory");
  o.dir = tools::absolute_path(kTool, argv[optind]);
  while (o.dir.size() > 1 && o.dir.back() == '/') o.dir.pop_back();
  return o;
}

// Until the time is over, a key or a signal comes. true: to be ended by `q`.
bool wait_for_key(double seconds, bool keys) {
  pollfd p{0, POLLIN, 0};
  const int n = poll(&p, keys ? 1 : 0, static_cast<int>(seconds * 1000));
  if (n <= 0) return false;
  char key = 0;
  const ssize_t r = read(0, &key, 1);
  return r == 0 || (r < 0 && errno != EINTR) || key == 'q' || key == 'Q';
}

void suspend(tools::Screen& screen) {
  screen.leave();
  g_suspend = 0;
  raise(SIGSTOP);
  screen.enter();
}

int watch(const Options& o) {
  tools::SessionWatch session(o.dir);
  const bool full = !o.once && tools::Screen::usable();
  tools::Screen screen;
  if (full) screen.enter();
  for (uint64_t shown = 0; g_end == 0;) {
    const tools::View view = session.look();
    if (full) {
      screen.draw(view);
    } else {
      printf("%s\n", tools::line_of(view).c_str());
      if (fflush(stdout) != 0) return 0;  // nobody reads any more
    }
    if (++shown == o.count) break;
    if (wait_for_key(o.delay, full && isatty(0) == 1)) break;
    if (g_suspend != 0) suspend(screen);
  }
  if (full) screen.leave();
  if (g_end != 0 && g_end != SIGPIPE) {  // so that a script sees what happened
    signal(g_end, SIG_DFL);
    raise(g_end);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv);
  struct stat st;
  if (stat(o.dir.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || !tools::was_session(o.dir)) {
    fprintf(stderr, "%s: %s: no session runs there, and there are no checkpoints\n", kTool,
            argv[argc - 1]);
    return kExitNoSession;
  }
  struct sigaction action {};
  action.sa_handler = on_signal;
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP, SIGWINCH}) {
    sigaction(number, &action, nullptr);
  }
  return watch(o);
}
