// SPDX-License-Identifier: MIT
// crstore.cc - shows and changes what the nodes keep of protected sessions.
// Invariant: asks this node's crstored and nobody else.
// Context: N. Doc: docs/man/crstore.1, docs/store.md.
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "node/client.h"
#include "node/private_place.h"
#include "node/private_start.h"
#include "tools/cli_common.h"
#include "tools/progress.h"

namespace {

using namespace cr;
using node::Json;
using node::number_of;
using node::text_of;

constexpr char kTool[] = "crstore";
constexpr char kHelp[] =
    "usage: crstore [options] COMMAND [ARGUMENTS]\n"
    "Show and change what the nodes keep of protected sessions.\n"
    "  ls                   all sessions, and their newest checkpoint that can be had\n"
    "  stat NAME            one session: each checkpoint, and who keeps which part\n"
    "  get NAME DIR         make DIR an image directory of it, for crrestore\n"
    "  flush NAME           copy its newest checkpoint to the shared file system now, and wait\n"
    "  verify NAME          read every part and every flushed file, and check every page\n"
    "  repair NAME          put missing and damaged parts in place again\n"
    "  place NAME           why its parts are where they are\n"
    "  rm NAME              remove it from all nodes and from the shared file system\n"
    "  drain NODE           take a node out of service: its parts move to others, and it gets no\n"
    "                       new ones; ends when no session needs it, or says which do, and why\n"
    "  undrain NODE         the node takes parts again\n"
    "  status               this node's crstored: nodes, sessions, what is wrong\n"
    "NAME: a session's name, or the beginning of its number (4 digits or more).\n"
    "      --sequence N     get: this checkpoint (default: the newest that is whole)\n"
    "      --json           for programs: what crstored says, a JSON object on a line\n"
    "      --socket PATH    crstored's (default $CR_STORE_SOCKET, else the one that listens at\n"
    "                       $XDG_RUNTIME_DIR/crstored.sock or /run/crstored.sock, else the "
    "private\n"
    "                       one of this user on this host, which is started if need be); private:\n"
    "                       the private one\n"
    "      --timeout SECONDS\n"
    "                       give up after so long without a word (default 120)\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "Exit status: 0; 1 it was refused or failed; 2 misuse; 3 verify: something is damaged; drain:\n"
    "some session still needs the node.\n";
constexpr int kExitDamaged = 3, kExitNeeded = 3;

struct Options {
  std::string socket, command;
  std::vector<std::string> arguments;
  uint64_t sequence = 0;
  bool json = false;
  double timeout = 120;
};

Options parse(int argc, char** argv) {
  enum { kSequence = 256, kJson, kSocket, kTimeout };
  static const option kLong[] = {{"sequence", required_argument, nullptr, kSequence},
                                 {"json", no_argument, nullptr, kJson},
                                 {"socket", required_argument, nullptr, kSocket},
                                 {"timeout", required_argument, nullptr, kTimeout},
                                 {"help", no_argument, nullptr, 'h'},
                                 {"version", no_argument, nullptr, 'V'},
                                 {nullptr, 0, nullptr, 0}};
  Options o;
  o.socket = node::socket_of_environment();
  opterr = 0;
  for (int c; (c = getopt_long(argc, argv, ":hV", kLong, nullptr)) != -1;) {
    switch (c) {
      case kSequence:
        o.sequence = tools::parse_number(kTool, "--sequence", optarg);
        break;
      case kJson:
        o.json = true;
        break;
      case kSocket:
        o.socket = optarg;
        break;
      case kTimeout:
        o.timeout = tools::parse_duration(kTool, "--timeout", optarg);
        break;
      default:
        tools::common_option(kTool, kHelp, c, argv[optind - 1]);
    }
  }
  if (optind == argc)
    tools::misuse(kTool,
                  "no command; give ls, stat, get, flush, verify, repair, place, rm, drain, "
                  "undrain or status");
  o.command = argv[optind++];
  o.arguments.assign(argv + optind, argv + argc);
  const std::string& c = o.command;
  const size_t wanted = c == "ls" || c == "status" ? 0 : c == "get" ? 2 : 1;
  const bool known = c == "ls" || c == "stat" || c == "get" || c == "verify" || c == "place" ||
                     c == "rm" || c == "status" || c == "repair" || c == "flush" || c == "drain" ||
                     c == "undrain";
  if (!known) tools::misuse(kTool, c + ": no such command");
  if (o.arguments.size() != wanted) {
    tools::misuse(kTool, c + " takes " + std::to_string(wanted) + " arguments");
  }
  return o;
}

std::string when(uint64_t realtime_ns) {
  const auto seconds = static_cast<time_t>(realtime_ns / 1'000'000'000);
  tm local{};
  char text[64];
  if (localtime_r(&seconds, &local) == nullptr ||
      strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &local) == 0) {
    return "?";
  }
  return text;
}

void show_unreachable(const Json& j) {
  const auto at = j.find("unreachable");
  if (at == j.end()) return;
  for (const auto& [node, why] : at->items()) {
    fprintf(stderr, "%s: %s could not be asked: %s\n", kTool, node.c_str(),
            why.get<std::string>().c_str());
  }
}

void show_bad_flushed(const Json& j) {
  const auto at = j.find("flush_bad");
  if (at == j.end()) return;
  for (const Json& line : *at) fprintf(stderr, "%s: %s\n", kTool, line.get<std::string>().c_str());
}

// (epoch, sequence, attempt)
bool is_older(const Json& a, const Json& b) {
  for (const char* number : {"epoch", "sequence", "attempt"}) {
    if (number_of(a, number) != number_of(b, number)) {
      return number_of(a, number) < number_of(b, number);
    }
  }
  return false;
}

void show_listed(const Json& s) {
  const Json* parts = nullptr;
  for (const Json& c : s["checkpoints"]) {
    if (parts == nullptr && c["whole"].get<bool>()) parts = &c;
  }
  const Json* flushed = s["flushed"].empty() ? nullptr : &s["flushed"][0];
  const std::string name = text_of(s, "name"), id = text_of(s, "session").substr(0, 8);
  if (parts == nullptr && flushed == nullptr) {
    printf("%-24s  %-8s  no checkpoint is whole; see crstore stat\n", name.c_str(), id.c_str());
    return;
  }
  const Json& best =
      parts == nullptr || (flushed != nullptr && is_older(*parts, *flushed)) ? *flushed : *parts;
  const std::string count = parts == nullptr ? "-"
                                             : std::to_string(number_of(*parts, "parts")) + "/" +
                                                   std::to_string(number_of(*parts, "of"));
  const std::string level3 =
      flushed == nullptr ? "-" : std::to_string(number_of(*flushed, "sequence"));
  printf("%-24s  %-8s  %-10s  %8lu  %-7s  %7s  %10s  %s\n", name.c_str(), id.c_str(),
         text_of(best, "protect").c_str(), number_of(best, "sequence"), count.c_str(),
         level3.c_str(), tools::human_bytes(number_of(best, "image_bytes")).c_str(),
         when(number_of(best, "realtime_ns")).c_str());
}

void show_list(const Json& j) {
  printf("%-24s  %-8s  %-10s  %8s  %-7s  %7s  %10s  %s\n", "NAME", "SESSION", "PROTECT", "SEQUENCE",
         "PARTS", "FLUSHED", "SIZE", "TAKEN");
  for (const Json& s : j["sessions"]) show_listed(s);
}

void show_session(const Json& j) {
  printf("%s  session %s, user id %lu\n", text_of(j, "name").c_str(), text_of(j, "session").c_str(),
         number_of(j, "uid"));
  for (const Json& c : j["checkpoints"]) {
    printf("checkpoint %lu (epoch %lu, attempt %lu), %s, %s, %s: %s\n", number_of(c, "sequence"),
           number_of(c, "epoch"), number_of(c, "attempt"),
           when(number_of(c, "realtime_ns")).c_str(), text_of(c, "protect").c_str(),
           tools::human_bytes(number_of(c, "image_bytes")).c_str(),
           c["whole"].get<bool>() ? "can be had" : "cannot be had");
    for (const Json& h : c["holders"]) {
      std::string nodes;
      for (const Json& n : h["nodes"]) nodes += (nodes.empty() ? "" : ", ") + n.get<std::string>();
      printf("  part %2lu  %-20s  %s\n", number_of(h, "part"),
             nodes.empty() ? "missing" : nodes.c_str(),
             tools::human_bytes(number_of(h, "stored_bytes")).c_str());
    }
  }
  for (const Json& f : j["flushed"]) {
    printf("checkpoint %lu (epoch %lu, attempt %lu), %s, flushed by %s, %s%s: %s\n",
           number_of(f, "sequence"), number_of(f, "epoch"), number_of(f, "attempt"),
           when(number_of(f, "realtime_ns")).c_str(), text_of(f, "node").c_str(),
           tools::human_bytes(number_of(f, "file_bytes")).c_str(),
           node::flag_of(f, "zstd") ? " with zstd" : "", text_of(f, "path").c_str());
  }
}

// What is flushed by this node, and what is wrong with it.
void show_flush_status(const Json& f) {
  const std::string keep = text_of(f, "keep");
  printf("flushes to %s, keeps %s%s%s\n", text_of(f, "dir").c_str(),
         keep.empty() ? "all" : keep.c_str(), text_of(f, "trouble").empty() ? "" : "; ",
         text_of(f, "trouble").c_str());
  for (const Json& s : f["sessions"]) {
    std::string state =
        number_of(s, "sequence") == 0
            ? "no checkpoint is there"
            : "checkpoint " + std::to_string(number_of(s, "sequence")) + " is there";
    if (const uint64_t now = number_of(s, "flushing"); now != 0) {
      state += ", " + std::to_string(now) + " is on its way (" +
               tools::human_bytes(number_of(s, "done")) + " of " +
               tools::human_bytes(number_of(s, "total")) + ")";
    }
    if (const std::string why = text_of(s, "trouble"); !why.empty()) state += ": " + why;
    printf("  %s (%s): %s\n", text_of(s, "name").c_str(),
           text_of(s, "session").substr(0, 8).c_str(), state.c_str());
  }
}

void show_status(const Json& j) {
  printf("node %s of cluster %s, store %s, parts are safe from %s%s\n", text_of(j, "node").c_str(),
         text_of(j, "cluster").c_str(), text_of(j, "store").c_str(), text_of(j, "durable").c_str(),
         node::flag_of(j, "private") ? ", private" : "");
  printf("memory lent %s of %s, %lu transfers come in\n",
         tools::human_bytes(number_of(j, "lent_bytes")).c_str(),
         tools::human_bytes(number_of(j, "dram_bytes")).c_str(), number_of(j, "transfers"));
  for (const Json& n : j["nodes"]) {
    printf("  %-16s %-24s %s%s\n", text_of(n, "name").c_str(), text_of(n, "address").c_str(),
           node::flag_of(n, "draining") ? "draining; " : "", text_of(n, "state").c_str());
  }
  for (const Json& s : j["sessions"]) {
    printf("session %s (%s), %s: checkpoint %lu is %s\n", text_of(s, "name").c_str(),
           text_of(s, "session").substr(0, 8).c_str(), text_of(s, "protect").c_str(),
           number_of(s, "sequence"),
           s["safe"].get<bool>() ? "safe from the loss of this node" : "on this node alone");
    uint64_t part = 0;
    for (const Json& p : s["parts"]) {
      printf("  part %2lu  %-16s  checkpoint %lu%s%s\n", part++, text_of(p, "node").c_str(),
             number_of(p, "sequence"), text_of(p, "trouble").empty() ? "" : ": ",
             text_of(p, "trouble").c_str());
    }
  }
  if (j.contains("flush")) show_flush_status(j["flush"]);
}

int show_verified(const Json& j) {
  for (const Json& line : j["bad"]) printf("%s\n", line.get<std::string>().c_str());
  if (!j["bad"].empty()) return kExitDamaged;
  printf("%s: every row of every part is right, and every flushed file\n",
         text_of(j, "name").c_str());
  return 0;
}

int status_of_drain(const Json& j) { return node::flag_of(j, "drained") ? 0 : kExitNeeded; }

int show_drain(const Json& j) {
  const std::string node = text_of(j, "node");
  if (node::flag_of(j, "drained")) {
    printf("node %s is drained: no session needs it\n", node.c_str());
    return 0;
  }
  printf("node %s gets no new parts%s\n", node.c_str(),
         j["left"].empty() ? "; what it still keeps cannot be seen until it can be reached"
                           : ", and is still needed:");
  for (const Json& n : j["left"]) {
    printf("  %s (%s): %s\n", text_of(n, "name").c_str(),
           text_of(n, "session").substr(0, 8).c_str(), text_of(n, "why").c_str());
  }
  if (const std::string trouble = text_of(j, "trouble"); !trouble.empty()) {
    printf("%s; the nodes go on with it, `crstore drain %s` shows how far they are\n",
           trouble.c_str(), node.c_str());
  }
  return kExitNeeded;
}

// Bytes: a bar on a terminal; of a drain a line each.
void show_progress(const Options& o, const Json& j, tools::Progress* bar) {
  if (o.json || text_of(j, "event") != "progress") return;
  if (o.command != "drain") {
    const char* const word = o.command == "flush"    ? "flushing"
                             : o.command == "verify" ? "verifying"
                             : o.command == "repair" ? "repairing"
                                                     : "bringing";
    if (isatty(2) != 0) bar->update(word, number_of(j, "done"), number_of(j, "total"));
    return;
  }
  printf("%s: %lu sessions need it, %lu of them move; %lu parts are there (%s)\n",
         text_of(j, "node").c_str(), number_of(j, "sessions"), number_of(j, "moving"),
         number_of(j, "parts"), tools::human_bytes(number_of(j, "bytes")).c_str());
  fflush(stdout);
}

void show_got(const Json& j) {
  for (const Json& line : j["passed_over"]) {
    fprintf(stderr, "%s: passed over: %s\n", kTool, line.get<std::string>().c_str());
  }
  const bool computed = number_of(j, "decoded_rows") != 0;
  printf("checkpoint %lu of %s is in %s (%s%s%s%s); crrestore %s\n", number_of(j, "sequence"),
         text_of(j, "name").c_str(), text_of(j, "dir").c_str(),
         tools::human_bytes(number_of(j, "bytes")).c_str(),
         computed ? ", partly computed from other parts" : "",
         text_of(j, "path").empty() ? "" : ", from ", text_of(j, "path").c_str(),
         text_of(j, "dir").c_str());
}

int show(const Options& o, const Json& j) {
  if (o.json) {
    printf("%s\n", node::dump_json(j).c_str());
    if (o.command == "drain") return status_of_drain(j);
    return o.command == "verify" && !j["bad"].empty() ? kExitDamaged : 0;
  }
  show_unreachable(j);
  show_bad_flushed(j);
  if (o.command == "ls") show_list(j);
  if (o.command == "stat") show_session(j);
  if (o.command == "status") show_status(j);
  if (o.command == "place") fputs(text_of(j, "text").c_str(), stdout);
  if (o.command == "rm") printf("%lu files removed\n", number_of(j, "files"));
  if (o.command == "repair") {
    printf("checkpoint %lu of %s has all its parts:", number_of(j, "sequence"),
           o.arguments[0].c_str());
    for (const Json& h : j["holders"]) printf(" %s", h.get<std::string>().c_str());
    printf("\n");
  }
  if (o.command == "flush") {
    printf("checkpoint %lu of %s is in %s\n", number_of(j, "sequence"), text_of(j, "name").c_str(),
           text_of(j, "path").c_str());
  }
  if (o.command == "drain") return show_drain(j);
  if (o.command == "undrain") {
    printf("node %s takes parts again; those that have moved stay where they are\n",
           text_of(j, "node").c_str());
  }
  if (o.command == "get") show_got(j);
  return o.command == "verify" ? show_verified(j) : 0;
}

// A private crstored is started if it has something to show; `status` looks at what runs.
Result<node::Client> reach(const Options& o, node::StoreFinder* finder, std::string* ret_text) {
  const bool named = o.socket.find('/') != std::string::npos;
  const bool start = !named && o.command != "status" && node::has_private_place();
  auto client = finder->connect_or_start(start ? tools::find_crstored() : "", ret_text);
  if (client || named || start) return client;
  std::string why;
  const auto place = node::private_place(&why);
  *ret_text = o.socket == node::kPrivateSocket ? "" : "no crstored serves this node, and ";
  if (!place) {
    *ret_text += why;
  } else if (access(place->store.c_str(), F_OK) == 0) {
    *ret_text += "the private one of " + place->dir +
                 " does not run now; `crstore ls` starts it, and shows what it keeps";
  } else {
    *ret_text += "there is no private one in " + place->dir +
                 "; `crrun --protect=none PROGRAM` makes one, see crstored(8)";
  }
  return client;
}

Json request_of(const Options& o) {
  Json request{{"op", o.command == "undrain" ? "drain" : o.command}};
  if (o.command == "undrain") request["undo"] = true;
  if (!o.arguments.empty()) request["name"] = o.arguments[0];
  if (o.command == "get") request["dir"] = tools::absolute_path(kTool, o.arguments[1]);
  if (o.sequence != 0) request["sequence"] = o.sequence;
  return request;
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv);
  std::string text;
  node::StoreFinder finder(o.socket);
  auto client = reach(o, &finder, &text);
  if (!client) {
    fprintf(stderr, "%s: %s\n", kTool, text.c_str());
    return 1;
  }
  (void)client->send(request_of(o));
  tools::Progress progress(kTool, stderr);
  for (;;) {
    const auto j = client->receive(static_cast<int>(o.timeout * 1000));
    if (!j) {
      fprintf(stderr, "%s: %s: %s\n", kTool, finder.socket().c_str(),
              client->gone() ? "crstored went away; see its log" : "crstored does not answer");
      return 1;
    }
    if (!text_of(*j, "event").empty()) {
      show_progress(o, *j, &progress);
      continue;
    }
    progress.end();
    if (node::flag_of(*j, "ok")) return show(o, *j);
    if (o.json) printf("%s\n", node::dump_json(*j).c_str());
    fprintf(stderr, "%s: %s\n", kTool, text_of(*j, "error").c_str());
    return 1;
  }
}
