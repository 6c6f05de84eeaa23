// SPDX-License-Identifier: MIT
// crrestore.cc - bring a checkpointed program back in the foreground.
// Invariant: an image that is not perfect starts nothing; the exit status is the program's.
// Context: N. Doc: docs/man/crrestore.1.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "node/private_place.h"
#include "tools/cli_common.h"
#include "tools/progress.h"

namespace {

using namespace cr;

constexpr char kTool[] = "crrestore";
constexpr int kExitNoWholeImage = 4;
constexpr char kHelp[] =
    "usage: crrestore [options] IMAGE.dir|NAME\n"
    "Bring back the program whose checkpoints are in IMAGE.dir, or which crstored knows as NAME, "
    "in\n"
    "the foreground.\n"
    "      --sequence N           that checkpoint instead of the newest whole one\n"
    "  -i, --interval SECONDS|auto|off\n"
    "                             seconds between further checkpoints; auto: by what they cost\n"
    "                             (default: as before)\n"
    "      --overhead, --mtbf, --min-interval, --max-interval\n"
    "                             as crrun's, with -i auto\n"
    "      --ids=auto|same|namespace|new\n"
    "                             how to get the process ids back: the same ones (root, or the "
    "file\n"
    "                             capability cap_checkpoint_restore), in a private namespace, or "
    "new\n"
    "                             ones (default auto: same, else namespace)\n"
    "      --clock=auto|continue|host\n"
    "                             its monotonic clock goes on from where it was, in a time\n"
    "                             namespace, or is this machine's (default auto: goes on where "
    "that\n"
    "                             is allowed)\n"
    "      --eager                all memory is there before the program runs (default)\n"
    "      --lazy                 the program runs at once, and large memory comes while it does;\n"
    "                             takes root or CAP_SYS_PTRACE, else --eager and a message\n"
    "      --durable=power|crash  as crrun's (default power)\n"
    "      --staging BYTES[K|M|G], --write-bandwidth BYTES[K|M|G], --queue-depth N, --direct\n"
    "                             as crrun's\n"
    "      --track=auto|uffd|softdirty|hash|all\n"
    "                             as crrun's\n"
    "      --files=restore|keep|refuse\n"
    "                             put files that the program has changed since the checkpoint "
    "back, "
    "leave\n"
    "                             them, or fail if there are any (default: as crrun was told)\n"
    "      --files-limit BYTES[K|M|G]\n"
    "                             as crrun's\n"
    "      --map OLD=NEW          what was below the path OLD is below NEW now: open and mapped "
    "files, "
    "the\n"
    "                             working directory, the program; can be given more than once, "
    "the\n"
    "                             longest OLD counts\n"
    "      --env NAME=VALUE       what crrestore_env(NAME) gives the program, in its hooks say\n"
    "      --dir DIR              of a session's name: where its images are put (default: "
    "./NAME.image)\n"
    "      --protect=none|replica:R|xor:G|rs:K+M\n"
    "                             how crstored keeps its checkpoints from now on (default: as "
    "before,\n"
    "                             where it was restored by its name; else not)\n"
    "      --name NAME            with --protect and an image directory: the session's name "
    "(default:\n"
    "                             the directory's, without .image)\n"
    "      --flush-every N, --flush-interval SECONDS\n"
    "                             as crrun's\n"
    "      --check-only           validate everything, start nothing: 0 it can be restored,\n"
    "                             4 there is no whole checkpoint, 125 it cannot\n"
    "  -v, --verbose              say what is restored, and show how far it is: a bar on a\n"
    "                             terminal, elsewhere a line each second\n"
    "  -h, --help                 this text\n"
    "  -V, --version              the version\n"
    "Exit status: the program's; 128+N if signal N ended it; 125 it could not be restored; 2 "
    "misuse.\n";

struct Options {
  agent::SessionOptions session;
  uint64_t sequence = 0;
  agent::Ids ids = agent::Ids::kAuto;
  agent::Clock clock = agent::Clock::kAuto;
  agent::PathMapper paths;
  agent::ProtectOptions protect;
  store::WriteLimits write;
  std::string name;      // of a protected session, instead of an image directory
  bool brought = false;  // its images come from other nodes
  bool check_only = false, lazy = false, verbose = false;
};

agent::Clock parse_clock(const std::string& word) {
  if (word == "auto") return agent::Clock::kAuto;
  if (word == "continue") return agent::Clock::kContinue;
  if (word == "host") return agent::Clock::kHost;
  tools::misuse(kTool, "--clock=" + word + ": auto, continue or host");
}

void add_path(const std::string& text, agent::PathMapper* paths) {
  const size_t equal = text.find('=');
  if (equal == std::string::npos || text[0] != '/' || text[equal + 1] != '/') {
    tools::misuse(kTool, "--map " + text + ": give two absolute paths, OLD=NEW");
  }
  paths->add(text.substr(0, equal), text.substr(equal + 1));
}

void add_variable(const std::string& text, std::string* all) {
  const size_t equal = text.find('=');
  if (equal == 0 || equal == std::string::npos) {
    tools::misuse(kTool, "--env " + text + ": give NAME=VALUE");
  }
  all->append(text).push_back('\0');
  if (all->size() >= sizeof(format::ChannelHeader::restore_env)) {
    tools::misuse(kTool, "--env: more than 4095 bytes in all");
  }
}

Options parse(int argc, char** argv) {
  enum {
    kSequence = 256,
    kDurable,
    kStaging,
    kTrack,
    kIds,
    kClock,
    kCheck,
    kEager,
    kLazy,
    kFiles,
    kFilesLimit,
    kMap,
    kEnv,
    kProtect,
    kName,
    kDir
  };
  static const option kLong[] = {{"sequence", required_argument, nullptr, kSequence},
                                 {"interval", required_argument, nullptr, 'i'},
                                 CR_INTERVAL_OPTIONS,
                                 CR_WRITE_OPTIONS,
                                 {"ids", required_argument, nullptr, kIds},
                                 {"clock", required_argument, nullptr, kClock},
                                 {"files", required_argument, nullptr, kFiles},
                                 {"files-limit", required_argument, nullptr, kFilesLimit},
                                 {"map", required_argument, nullptr, kMap},
                                 {"env", required_argument, nullptr, kEnv},
                                 {"durable", required_argument, nullptr, kDurable},
                                 {"staging", required_argument, nullptr, kStaging},
                                 {"track", required_argument, nullptr, kTrack},
                                 {"protect", required_argument, nullptr, kProtect},
                                 {"name", required_argument, nullptr, kName},
                                 {"dir", required_argument, nullptr, kDir},
                                 CR_FLUSH_OPTIONS,
                                 {"check-only", no_argument, nullptr, kCheck},
                                 {"eager", no_argument, nullptr, kEager},
                                 {"lazy", no_argument, nullptr, kLazy},
                                 {"verbose", no_argument, nullptr, 'v'},
                                 {"help", no_argument, nullptr, 'h'},
                                 {"version", no_argument, nullptr, 'V'},
                                 {nullptr, 0, nullptr, 0}};
  Options o;
  o.session.interval_of_image = true;
  o.session.files.of_image = o.session.files.limit_of_image = true;
  std::string dir;
  opterr = 0;
  for (int c; (c = getopt_long(argc, argv, ":i:vhV", kLong, nullptr)) != -1;) {
    switch (c) {
      case kSequence:
        o.sequence = tools::parse_number(kTool, "--sequence", optarg);
        if (o.sequence == 0) tools::misuse(kTool, "--sequence 0: sequences begin at 1");
        break;
      case 'i':
        tools::parse_interval(kTool, optarg, &o.session);
        break;
      case kIds:
        o.ids = tools::parse_ids(kTool, optarg);
        break;
      case kClock:
        o.clock = parse_clock(optarg);
        break;
      case kFiles:
        o.session.files.policy = tools::parse_files(kTool, optarg);
        o.session.files.of_image = false;
        break;
      case kFilesLimit:
        o.session.files.limit_bytes = tools::parse_bytes(kTool, optarg);
        o.session.files.limit_of_image = false;
        break;
      case kMap:
        add_path(optarg, &o.paths);
        break;
      case kEnv:
        add_variable(optarg, &o.session.restore_env);
        break;
      case kDurable:
        o.session.durable = tools::parse_durable(kTool, optarg);
        break;
      case kStaging:
        o.session.staging_bytes = tools::parse_bytes(kTool, optarg);
        break;
      case kTrack:
        o.session.tracking = tools::parse_tracking(kTool, optarg);
        break;
      case kProtect:
        tools::parse_protect(kTool, optarg, &o.protect);
        break;
      case kName:
        tools::parse_name(kTool, optarg, &o.protect);
        break;
      case kDir:
        dir = optarg;
        break;
      case kCheck:
        o.check_only = true;
        break;
      case kEager:
      case kLazy:
        o.lazy = c == kLazy;
        break;
      case 'v':
        o.verbose = true;
        break;
      default:
        if (tools::parse_interval_option(kTool, c, optarg, &o.session)) break;
        if (tools::parse_write_option(kTool, c, optarg, &o.write)) break;
        if (tools::parse_flush_option(kTool, c, optarg, &o.protect)) break;
        tools::common_option(kTool, kHelp, c, argv[optind - 1]);
    }
  }
  tools::finish_interval(kTool, &o.session);
  if (optind + 1 != argc) tools::misuse(kTool, "give one image directory, or a session's name");
  const std::string given = argv[optind];
  struct stat st;
  const bool is_dir = stat(given.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
  if (!is_dir && given.find('/') == std::string::npos) {
    o.name = given;
    if (!o.protect.name.empty()) {
      tools::misuse(kTool, "--name goes with an image directory, and " + given + " is a name");
    }
    if (dir.empty()) dir = given + ".image";
  } else if (!dir.empty()) {
    tools::misuse(kTool, "--dir goes with a session's name, and " + given + " is a directory");
  }
  o.session.dir = tools::absolute_path(kTool, o.name.empty() ? given : dir);
  return o;
}

// Has this node's crstored bring the session's newest checkpoint here. o->session.dir is then the
// image directory, and the session is protected as it was.
void fetch_by_name(Options* o) {
  std::string text;
  node::StoreFinder finder(node::socket_of_environment());
  auto client =
      finder.connect_or_start(node::has_private_place() ? tools::find_crstored() : "", &text);
  if (!client) {
    tools::own_failure(kTool,
                       o->name + ": no such image directory; and as a session's name: " + text);
  }
  node::Json request{{"op", "get"}, {"name", o->name}, {"dir", o->session.dir}, {"local", true}};
  if (o->sequence != 0) request["sequence"] = o->sequence;
  (void)client->send(request);
  tools::Progress progress(kTool, stderr);
  constexpr int kSilentMs = 120'000;
  for (;;) {
    const auto j = client->receive(kSilentMs);
    if (!j) tools::own_failure(kTool, finder.socket() + ": crstored went away, or does not answer");
    if (node::text_of(*j, "event") == "progress") {
      if (o->verbose) {
        progress.update("bringing", node::number_of(*j, "done"), node::number_of(*j, "total"));
      }
      continue;
    }
    progress.end();
    if (!node::flag_of(*j, "ok")) tools::own_failure(kTool, node::text_of(*j, "error"));
    o->session.dir = node::text_of(*j, "dir");
    o->protect.name = node::text_of(*j, "name");
    if (o->protect.spec.empty()) o->protect.spec = node::text_of(*j, "protect");
    o->protect.held_by = j->value("held_by", std::vector<std::string>());
    o->session.known_epoch = node::number_of(*j, "known_epoch");
    o->brought = !node::flag_of(*j, "local");
    if (const auto lines = j->find("passed_over"); lines != j->end()) {
      for (const node::Json& line : *lines) {
        fprintf(stderr, "%s: passed over: %s\n", kTool, line.get<std::string>().c_str());
      }
    }
    if (o->verbose) {
      const std::string flushed = node::text_of(*j, "path");
      const std::string brought =
          "brought to " + o->session.dir + (flushed.empty() ? std::string() : " from " + flushed);
      fprintf(
          stderr, "%s: %s\n", kTool,
          o->brought ? brought.c_str() : ("the newest images are here: " + o->session.dir).c_str());
    }
    return;
  }
}

int check_only(const Options& o) {
  agent::ReturningSession session;
  tools::Progress progress(kTool, stderr);
  store::VerifyProgress on_verify;
  if (o.verbose) {
    on_verify = [&](uint64_t done, uint64_t total) {
      progress.update(tools::phase_word(format::kPhaseVerifying), done, total);
    };
  }
  agent::FileKeeper files(o.session.dir, false);
  files.set(o.session.files);
  agent::PathMapper paths = o.paths;
  agent::PlanOptions how;
  how.files.only_look = true;
  how.files.paths = &paths;
  const agent::Trouble bad =
      agent::plan_session(o.session.dir, o.sequence, how, files, &paths, on_verify, &session);
  progress.end();
  if (!bad.bad()) return 0;
  fprintf(stderr, "%s: %s\n", kTool, bad.text.c_str());
  return bad.error.code == Errc::kNotWhole ? kExitNoWholeImage : tools::kExitOwnFailure;
}

}  // namespace

int main(int argc, char** argv) {
  agent::SupervisorOptions s;
  agent::save_signal_state(&s.start.signals);
  Options o = parse(argc, argv);
  if (!o.name.empty()) fetch_by_name(&o);
  struct stat st;
  if (stat(o.session.dir.c_str(), &st) != 0 || !S_ISDIR(st.st_mode)) {
    tools::own_failure(kTool, std::string(argv[argc - 1]) + ": no such image directory");
  }
  if (o.check_only) return check_only(o);
  o.protect.socket = node::socket_of_environment();
  tools::prepare_protection(kTool, &o.protect);
  s.tool = kTool;
  s.ids = o.ids;
  s.lazy = o.lazy;
  s.protect = o.protect;
  tools::set_write_options(kTool, o.write, o.session.dir);
  s.start.clock = o.clock;
  s.paths = o.paths;
  s.start.preload = tools::find_preload(kTool);
  s.start.session_dir = o.session.dir;
  std::string notice;
  auto session = agent::Session::create(o.session, false, &notice);
  if (!session) {
    tools::own_failure(kTool, o.session.dir + ": " + tools::describe(session.error()) +
                                  (notice.empty() ? "" : ": " + notice));
  }
  tools::Progress progress(kTool, stderr);
  if (o.verbose) {
    s.progress = [&](format::ProgressPhase phase, uint64_t done, uint64_t total) {
      progress.update(tools::phase_word(phase), done, total);
    };
    s.progress_ends = [&] { progress.end(); };
  }
  agent::Supervisor supervisor(**session, s);
  agent::Launched launched;
  agent::Trouble bad = supervisor.restore(o.sequence, &launched);
  progress.end();
  if (bad.bad()) {
    fprintf(stderr, "%s: %s\n", kTool, bad.text.c_str());
    session->reset();
    return tools::kExitOwnFailure;
  }
  if (o.brought && (*session)->files().options().policy != format::kFilesKeep) {
    fprintf(
        stderr,
        "%s: files that the program changed after the checkpoint stay as they are now: what they "
        "were is only known on the node where it ran\n",
        kTool);
  }
  if (o.verbose) {
    fprintf(stderr, "%s: restoring checkpoint %llu as process %d\n", kTool,
            static_cast<unsigned long long>((*session)->sequence()),
            static_cast<int>(launched.pid));
    fprintf(stderr, "%s: %llu KiB of memory before it runs, %llu KiB while it does\n", kTool,
            static_cast<unsigned long long>(supervisor.eager_bytes() >> 10),
            static_cast<unsigned long long>(supervisor.lazy_bytes() >> 10));
    const std::string clocks = supervisor.clock_words(launched.pid);
    if (!clocks.empty()) fprintf(stderr, "%s: %s\n", kTool, clocks.c_str());
  }
  return agent::exit_status_of(supervisor.run(std::move(launched)));
}
