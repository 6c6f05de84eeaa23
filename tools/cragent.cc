// SPDX-License-Identifier: MIT
// cragent.cc - the agent of a program that called crinit() by itself; started by the library.
// Invariant: ends when the program does. Not for people: no man page; see docs/ARCHITECTURE.md.
// Context: N.
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "node/client.h"
#include "store/protection.h"
#include "tools/cli_common.h"

namespace {

using namespace cr;

constexpr char kTool[] = "cragent";

// crattr's words about protection, as crrun would take them. "": they are right.
std::string check_protection(const char* every, const char* period, agent::ProtectOptions* p) {
  if (p->spec.empty()) return "";
  std::string why;
  if (!store::parse_protection(p->spec, &why)) return "crattr.protect: " + p->spec + ": " + why;
  if (!p->name.empty() && !tools::is_session_name(p->name)) {
    return "crattr.name: " + p->name + ": " + tools::kSessionNameRule;
  }
  if (p->socket.empty()) p->socket = node::socket_of_environment();
  p->flush_every = tools::parse_number(kTool, "--flush-every", every);
  p->flush_interval_ns = static_cast<uint64_t>(strtod(period, nullptr) * 1e9);
  return "";
}

void tell(int fd, const std::string& text) {
  (void)!write(fd, text.data(), text.size());
  close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  enum {
    kPid = 256,
    kDir,
    kInterval,
    kStaging,
    kDurable,
    kReadyFd,
    kHeap,
    kTrack,
    kProtect,
    kName,
    kFlushEvery,
    kFlushInterval,
    kStoreSocket
  };
  static const option kLong[] = {{"pid", required_argument, nullptr, kPid},
                                 {"dir", required_argument, nullptr, kDir},
                                 {"interval", required_argument, nullptr, kInterval},
                                 {"staging", required_argument, nullptr, kStaging},
                                 {"durable", required_argument, nullptr, kDurable},
                                 {"heap", required_argument, nullptr, kHeap},
                                 {"track", required_argument, nullptr, kTrack},
                                 {"protect", required_argument, nullptr, kProtect},
                                 {"name", required_argument, nullptr, kName},
                                 {"flush-every", required_argument, nullptr, kFlushEvery},
                                 {"flush-interval", required_argument, nullptr, kFlushInterval},
                                 {"store-socket", required_argument, nullptr, kStoreSocket},
                                 {"ready-fd", required_argument, nullptr, kReadyFd},
                                 {nullptr, 0, nullptr, 0}};
  agent::SupervisorOptions s;
  agent::save_signal_state(&s.start.signals);
  sigemptyset(&s.start.signals.mask);
  agent::SessionOptions o;
  agent::Launched program;
  int ready = -1;
  const char *flush_every = "0", *flush_interval = "0";
  for (int c; (c = getopt_long(argc, argv, "", kLong, nullptr)) != -1;) {
    switch (c) {
      case kPid:
        program.pid = static_cast<pid_t>(tools::parse_number(kTool, "--pid", optarg));
        break;
      case kDir:
        o.dir = optarg;
        break;
      case kInterval:
        tools::parse_interval(kTool, optarg, &o);
        break;
      case kStaging:
        o.staging_bytes = tools::parse_number(kTool, "--staging", optarg);
        break;
      case kDurable:
        o.durable = strcmp(optarg, "0") == 0;
        break;
      case kHeap:
        o.heap = strcmp(optarg, "create") == 0 ? agent::HeapMode::kCreate
                 : strcmp(optarg, "read") == 0 ? agent::HeapMode::kRead
                 : strcmp(optarg, "open") == 0 ? agent::HeapMode::kOpen
                                               : agent::HeapMode::kNone;
        break;
      case kTrack:
        o.tracking = static_cast<format::Tracker>(tools::parse_number(kTool, "--track", optarg));
        break;
      case kProtect:
        s.protect.spec = optarg;
        break;
      case kName:
        s.protect.name = optarg;
        break;
      case kFlushEvery:
        flush_every = optarg;
        break;
      case kFlushInterval:
        flush_interval = optarg;
        break;
      case kStoreSocket:
        s.protect.socket = optarg;
        break;
      case kReadyFd:
        ready = static_cast<int>(tools::parse_number(kTool, "--ready-fd", optarg));
        break;
      default:
        tools::misuse(kTool, "this program is started by crinit()");
    }
  }
  if (program.pid == 0 || o.dir.empty() || ready < 0) {
    tools::misuse(kTool, "this program is started by crinit()");
  }
  tools::finish_interval(kTool, &o);
  const std::string why = agent::check_tracking(o.tracking);
  if (!why.empty()) {
    tell(ready, "E" + std::to_string(ENOTSUP) + " crattr.track: " + why);
    return tools::kExitOwnFailure;
  }
  if (const std::string bad = check_protection(flush_every, flush_interval, &s.protect);
      !bad.empty()) {
    tell(ready, "E" + std::to_string(EINVAL) + " " + bad);
    return tools::kExitOwnFailure;
  }
  unsetenv("LD_PRELOAD");
  s.tool = kTool;
  s.own_child = false;
  s.forward_signals = false;
  s.start.session_dir = o.dir;
  s.start.preload = agent::beside_tool("lib/libcrpreload.so");
  std::string notice;
  const bool heap = o.heap != agent::HeapMode::kNone;
  auto session = agent::Session::create(o, !heap, &notice);
  if (!session) {
    tell(ready, "E" + std::to_string(errno_of(session.error())) + " " + o.dir + ": " +
                    tools::describe(session.error()) + (notice.empty() ? "" : ": " + notice));
    return tools::kExitOwnFailure;
  }
  if (heap) {
    const agent::Trouble bad = (*session)->open_heap();
    if (bad.bad()) {
      tell(ready, "E" + std::to_string(errno_of(bad.error)) + " " + bad.text);
      return tools::kExitOwnFailure;
    }
  }
  agent::Supervisor supervisor(**session, s);
  if (!notice.empty()) supervisor.say(notice);
  (*session)->set_program(program.pid);
  tell(ready, "O" + std::to_string(getpid()));
  (void)supervisor.run(std::move(program));
  return 0;
}
