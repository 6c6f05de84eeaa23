// SPDX-License-Identifier: MIT
// crrestore.cc - bring a checkpointed program back in the foreground.
// Invariant: an image that is not perfect starts nothing; the exit status is the program's.
// Context: N. Doc: docs/man/crrestore.1.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/cli_common.h"
#include "tools/progress.h"

namespace {

using namespace cr;

constexpr char kTool[] = "crrestore";
constexpr int kExitNoWholeImage = 4;
constexpr char kHelp[] =
    "usage: crrestore [options] IMAGE.dir\n"
    "Bring back the program whose checkpoints are in IMAGE.dir, in the foreground.\n"
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
    "      --eager                all memory is there before the program runs (default)\n"
    "      --lazy                 the program runs at once, and large memory comes while it does;\n"
    "                             takes root or CAP_SYS_PTRACE, else --eager and a message\n"
    "      --durable=power|crash  as crrun's (default power)\n"
    "      --staging BYTES[K|M|G] as crrun's\n"
    "      --track=auto|uffd|softdirty|hash|all\n"
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
  bool check_only = false, lazy = false, verbose = false;
};

Options parse(int argc, char** argv) {
  enum { kSequence = 256, kDurable, kStaging, kTrack, kIds, kCheck, kEager, kLazy };
  static const option kLong[] = {{"sequence", required_argument, nullptr, kSequence},
                                 {"interval", required_argument, nullptr, 'i'},
                                 CR_INTERVAL_OPTIONS,
                                 {"ids", required_argument, nullptr, kIds},
                                 {"durable", required_argument, nullptr, kDurable},
                                 {"staging", required_argument, nullptr, kStaging},
                                 {"track", required_argument, nullptr, kTrack},
                                 {"check-only", no_argument, nullptr, kCheck},
                                 {"eager", no_argument, nullptr, kEager},
                                 {"lazy", no_argument, nullptr, kLazy},
                                 {"verbose", no_argument, nullptr, 'v'},
                                 {"help", no_argument, nullptr, 'h'},
                                 {"version", no_argument, nullptr, 'V'},
                                 {nullptr, 0, nullptr, 0}};
  Options o;
  o.session.interval_of_image = true;
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
      case kDurable:
        o.session.durable = tools::parse_durable(kTool, optarg);
        break;
      case kStaging:
        o.session.staging_bytes = tools::parse_bytes(kTool, optarg);
        break;
      case kTrack:
        o.session.tracking = tools::parse_tracking(kTool, optarg);
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
        tools::common_option(kTool, kHelp, c, argv[optind - 1]);
    }
  }
  tools::finish_interval(kTool, &o.session);
  if (optind + 1 != argc) tools::misuse(kTool, "give one image directory");
  o.session.dir = tools::absolute_path(kTool, argv[optind]);
  return o;
}

int check_only(const Options& o) {
  std::unique_ptr<store::LoadedImage> image;
  agent::RestorePlan plan;
  tools::Progress progress(kTool, stderr);
  if (o.verbose) {
    plan.on_verify = [&](uint64_t done, uint64_t total) {
      progress.update(tools::phase_word(format::kPhaseVerifying), done, total);
    };
  }
  agent::Trouble bad = agent::choose_image(o.session.dir, o.sequence, &image);
  if (!bad.bad()) bad = agent::make_restore_plan(*image, o.session.dir, {}, &plan);
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
  struct stat st;
  if (stat(o.session.dir.c_str(), &st) != 0 || !S_ISDIR(st.st_mode)) {
    tools::own_failure(kTool, std::string(argv[argc - 1]) + ": no such image directory");
  }
  if (o.check_only) return check_only(o);
  s.tool = kTool;
  s.ids = o.ids;
  s.lazy = o.lazy;
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
  if (o.verbose) {
    fprintf(stderr, "%s: restoring checkpoint %llu as process %d\n", kTool,
            static_cast<unsigned long long>((*session)->sequence()),
            static_cast<int>(launched.pid));
    fprintf(stderr, "%s: %llu KiB of memory before it runs, %llu KiB while it does\n", kTool,
            static_cast<unsigned long long>(supervisor.plan()->eager_bytes >> 10),
            static_cast<unsigned long long>(supervisor.plan()->lazy_bytes >> 10));
  }
  return agent::exit_status_of(supervisor.run(std::move(launched)));
}
