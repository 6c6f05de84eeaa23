// SPDX-License-Identifier: MIT
// crrun.cc - run a program under checkpointing and stay as its agent and supervisor.
// Invariant: the exit status is the program's; nothing of ours is visible to it.
// Context: N. Doc: docs/man/crrun.1.
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli_common.h"

namespace {

using namespace cr;

constexpr char kTool[] = "crrun";
constexpr char kHelp[] =
    "usage: crrun [options] [--] PROGRAM [ARGS]\n"
    "Run PROGRAM under checkpointing; crrestore brings it back after a crash.\n"
    "  -d, --dir IMAGE.dir        image directory (default ./<program>.image)\n"
    "  -i, --interval SECONDS|auto|off\n"
    "                             seconds between checkpoints, 0.001 to 1e9 (default 10); auto: "
    "by\n"
    "                             what they cost\n"
    "      --overhead PERCENT     -i auto: share of its time that checkpoints may cost the "
    "program\n"
    "                             (default 1; none if --mtbf is given)\n"
    "      --mtbf TIME            -i auto: mean time between failures, in seconds or with s, m, h, "
    "d:\n"
    "                             the interval by which the run is expected to end soonest "
    "(default:\n"
    "                             not known)\n"
    "      --min-interval TIME    -i auto: the shortest interval (default 0.01 s)\n"
    "      --max-interval TIME    -i auto: the longest interval (default 1h)\n"
    "      --restart=never|on-failure\n"
    "                             on-failure: when a signal kills the program, restore it here "
    "and\n"
    "                             go on; stops after three restarts without a newer checkpoint\n"
    "                             (default never)\n"
    "      --durable=power|crash  power: checkpoints survive a power failure (fdatasync);\n"
    "                             crash: they survive the death of programs only (default power)\n"
    "      --track=auto|uffd|softdirty|hash|all\n"
    "                             how pages that did not change are found: by userfaultfd (Linux "
    "6.7),\n"
    "                             by soft-dirty marks, by comparing hashes, or not at all "
    "(default\n"
    "                             auto: the first of these that can be had, never all)\n"
    "      --staging BYTES[K|M|G] bound of the memory a checkpoint is staged in (default: what it\n"
    "                             needs, at most half of the available memory)\n"
    "      --write-bandwidth BYTES[K|M|G]\n"
    "                             write images no faster than so much in a second (default: no "
    "bound)\n"
    "      --queue-depth N        of one image, writes in flight by io_uring, 1 to 1024 (default "
    "16)\n"
    "      --direct               write images past the page cache (O_DIRECT): leaves that to the\n"
    "                             program, and a restore reads from the disk\n"
    "      --protect=none|replica:R|xor:G|rs:K+M\n"
    "                             this node's crstored keeps the checkpoints as well: on its disk "
    "alone,\n"
    "                             as copies on R nodes, or as parts on G or K+M nodes of which any "
    "G-1\n"
    "                             or K are enough; a private one is started where none serves the "
    "node\n"
    "                             (default: not; see crstored in section 8)\n"
    "      --name NAME            what crstore and crrestore call it there (default: the image "
    "directory's\n"
    "                             name without .image)\n"
    "      --flush-every N        its crstored also copies each Nth checkpoint to the shared file "
    "system\n"
    "                             that it was given, and\n"
    "      --flush-interval SECONDS\n"
    "                             one so long after the last one; with s, m, h, d too (default: "
    "those\n"
    "                             that crstored was told to)\n"
    "      --plugin FILE.so       load that plug-in into the program (see "
    "checkpoint_restore_plugin\n"
    "                             in section 3); may be given again; CR_PLUGINS=FILE.so:FILE.so "
    "too\n"
    "      --files=restore|keep|refuse\n"
    "                             what a restore does with files that PROGRAM has changed since "
    "the\n"
    "                             checkpoint: puts them back, leaves them, or fails (default "
    "restore)\n"
    "      --files-limit BYTES[K|M|G]\n"
    "                             of copies of such files, for each checkpoint (default 64M)\n"
    "      --ids=auto|same|namespace|new\n"
    "                             how a restart gets its process ids back (default auto)\n"
    "  -h, --help                 this text\n"
    "  -V, --version              the version\n"
    "Exit status: PROGRAM's; 128+N if signal N ended it; 125 crrun itself failed; 126 PROGRAM is "
    "not\n"
    "executable; 127 it was not found; 2 misuse.\n";

struct Options {
  agent::SessionOptions session;
  bool restart = false;
  agent::Ids ids = agent::Ids::kAuto;
  agent::ProtectOptions protect;
  store::WriteLimits write;
  std::string plugins;  // each with a colon before it
  std::vector<std::string> argv;
};

// The loader would only warn of one that is not there.
void add_plugin(const std::string& path, std::string* ret_list) {
  const std::string whole = tools::absolute_path(kTool, path);
  if (access(whole.c_str(), R_OK) != 0 || whole.find_first_of(": ") != std::string::npos) {
    tools::own_failure(kTool, "plug-in " + path + ": " +
                                  (errno != 0 ? strerror(errno) : "a colon or space in its path"));
  }
  *ret_list += ":" + whole;
}

void add_plugins_of_environment(std::string* ret_list) {
  const char* all = getenv("CR_PLUGINS");
  for (std::string rest = all != nullptr ? all : ""; !rest.empty();) {
    const size_t colon = rest.find(':');
    if (colon != 0) add_plugin(rest.substr(0, colon), ret_list);
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
  }
}

Options parse(int argc, char** argv) {
  enum {
    kRestart = 256,
    kDurable,
    kStaging,
    kTrack,
    kIds,
    kPlugin,
    kFiles,
    kFilesLimit,
    kProtect,
    kName
  };
  static const option kLong[] = {{"dir", required_argument, nullptr, 'd'},
                                 {"interval", required_argument, nullptr, 'i'},
                                 CR_INTERVAL_OPTIONS,
                                 CR_WRITE_OPTIONS,
                                 {"restart", required_argument, nullptr, kRestart},
                                 {"durable", required_argument, nullptr, kDurable},
                                 {"staging", required_argument, nullptr, kStaging},
                                 {"track", required_argument, nullptr, kTrack},
                                 {"ids", required_argument, nullptr, kIds},
                                 {"plugin", required_argument, nullptr, kPlugin},
                                 {"files", required_argument, nullptr, kFiles},
                                 {"files-limit", required_argument, nullptr, kFilesLimit},
                                 {"protect", required_argument, nullptr, kProtect},
                                 {"name", required_argument, nullptr, kName},
                                 CR_FLUSH_OPTIONS,
                                 {"help", no_argument, nullptr, 'h'},
                                 {"version", no_argument, nullptr, 'V'},
                                 {nullptr, 0, nullptr, 0}};
  Options o;
  o.session.files.policy = format::kFilesRestore;
  opterr = 0;
  for (int c; (c = getopt_long(argc, argv, "+:d:i:hV", kLong, nullptr)) != -1;) {
    switch (c) {
      case 'd':
        o.session.dir = optarg;
        break;
      case 'i':
        tools::parse_interval(kTool, optarg, &o.session);
        break;
      case kRestart:
        if (strcmp(optarg, "never") != 0 && strcmp(optarg, "on-failure") != 0) {
          tools::misuse(kTool, std::string("--restart=") + optarg + ": never or on-failure");
        }
        o.restart = strcmp(optarg, "on-failure") == 0;
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
      case kPlugin:
        errno = 0;
        add_plugin(optarg, &o.plugins);
        break;
      case kIds:
        o.ids = tools::parse_ids(kTool, optarg);
        break;
      case kFiles:
        o.session.files.policy = tools::parse_files(kTool, optarg);
        break;
      case kFilesLimit:
        o.session.files.limit_bytes = tools::parse_bytes(kTool, optarg);
        break;
      case kProtect:
        tools::parse_protect(kTool, optarg, &o.protect);
        break;
      case kName:
        tools::parse_name(kTool, optarg, &o.protect);
        break;
      default:
        if (tools::parse_interval_option(kTool, c, optarg, &o.session)) break;
        if (tools::parse_write_option(kTool, c, optarg, &o.write)) break;
        if (tools::parse_flush_option(kTool, c, optarg, &o.protect)) break;
        tools::common_option(kTool, kHelp, c, argv[optind - 1]);
    }
  }
  tools::finish_interval(kTool, &o.session);
  if (o.protect.has_flush() && o.protect.spec.empty()) {
    tools::misuse(kTool, "--flush-every and --flush-interval go with --protect");
  }
  add_plugins_of_environment(&o.plugins);
  if (optind >= argc) tools::misuse(kTool, "no program given");
  o.argv.assign(argv + optind, argv + argc);
  if (o.session.dir.empty()) {
    const std::string& p = o.argv[0];
    o.session.dir = "./" + p.substr(p.find_last_of('/') + 1) + ".image";
  }
  o.session.dir = tools::absolute_path(kTool, o.session.dir);
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  agent::SupervisorOptions s;
  agent::save_signal_state(&s.start.signals);
  Options o = parse(argc, argv);
  tools::prepare_protection(kTool, &o.protect);
  s.tool = kTool;
  s.ids = o.ids;
  s.restart_on_failure = o.restart;
  s.protect = o.protect;
  tools::set_write_options(kTool, o.write, o.session.dir);
  s.start.preload = tools::find_preload(kTool);
  s.start.plugins = o.plugins;
  s.start.session_dir = o.session.dir;

  std::string path;
  int status = tools::kExitOwnFailure;
  agent::Trouble bad = agent::check_program(o.argv[0], &path, &status);
  if (bad.bad()) {
    fprintf(stderr, "%s: %s\n", kTool, bad.text.c_str());
    return status;
  }
  std::string notice;
  auto session = agent::Session::create(o.session, true, &notice);
  if (!session) {
    tools::own_failure(kTool, o.session.dir + ": " + tools::describe(session.error()) +
                                  (notice.empty() ? "" : ": " + notice));
  }
  agent::Supervisor supervisor(**session, s);
  if (!notice.empty()) supervisor.say(notice);
  agent::Launched launched;
  bad = agent::launch_fresh(s.start, path, o.argv, &launched);
  if (bad.bad()) {
    fprintf(stderr, "%s: %s\n", kTool, bad.text.c_str());
    return bad.error.sys_errno == ENOENT ? 127 : 126;
  }
  int wait_status = supervisor.run(std::move(launched));
  uint64_t last_sequence = (*session)->sequence();
  int restarts = 0;
  while (o.restart && supervisor.wants_restart()) {
    if ((*session)->sequence() > last_sequence) restarts = 0;
    last_sequence = (*session)->sequence();
    if (last_sequence == 0) {
      supervisor.say(
          "the program was killed before its first checkpoint was whole: nothing to restart from");
      break;
    }
    if (++restarts > 3) {
      supervisor.say("giving up: three restarts without a newer checkpoint");
      break;
    }
    fprintf(stderr, "%s: the program was ended by signal %d; restoring checkpoint %llu\n", kTool,
            agent::exit_status_of(wait_status) - 128,
            static_cast<unsigned long long>(last_sequence));
    agent::Launched again;
    bad = supervisor.restore(0, &again);
    if (bad.bad()) {
      supervisor.say("restarting failed: " + bad.text);
      break;
    }
    wait_status = supervisor.run(std::move(again));
  }
  return agent::exit_status_of(wait_status);
}
