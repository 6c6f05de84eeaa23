// SPDX-License-Identifier: MIT
// crinspect.cc - shows and verifies the checkpoints in an image directory.
// Invariant: changes nothing in it. What is printed is of one moment: if a running session wrote
// over a buffer while it was read, it is read again.
// Context: N. Doc: docs/man/crinspect.1.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/cli_common.h"
#include "tools/crinspect_commands.h"

namespace {

using namespace cr;

constexpr char kTool[] = "crinspect";
constexpr char kHelp[] =
    "usage: crinspect [options] [COMMAND] IMAGE.dir\n"
    "Show or verify the checkpoints in an image directory. Nothing in it is changed.\n"
    "Commands:\n"
    "  summary   both buffers, and which one crrestore would take (default)\n"
    "  process   ids, limits, memory layout, processor, environment\n"
    "  threads   each thread's state, registers, signal mask and call chain\n"
    "  maps      the memory map, as /proc/PID/maps, and the pages stored of each mapping\n"
    "  fds       each open descriptor: kind, flags, offset, size, path\n"
    "  files     what files were that the session has changed since: what a restore puts back\n"
    "  signals   dispositions, pending signals, timers\n"
    "  verify    check every checksum of both buffers; one line each\n"
    "  tree      the processes, as a tree: ids, groups, sessions, images, memory\n"
    "  core      write an ELF core file for a debugger (needs --out)\n"
    "  history   the last checkpoints, failed ones too: pause, bytes, cost, errors\n"
    "  plot      the same as a picture in SVG: pause, bytes, overhead, levels (needs --out)\n"
    "Options:\n"
    "      --sequence N       this checkpoint (default: the one crrestore would take)\n"
    "      --out FILE         core, plot: where to write it\n"
    "      --last N           history, plot: only the last N attempts (default: all, at most "
    "1000)\n"
    "  -a, --all-registers    threads: floating-point and vector registers as well\n"
    "      --json             summary, maps, fds, tree, history: as JSON\n"
    "  -h, --help             this text\n"
    "  -V, --version          the version\n"
    "Exit status: 0; 1 verify found damage, or there is no whole checkpoint or no history to "
    "show;\n"
    "2 misuse; "
    "125 crinspect itself failed.\n";

using Command = tools::Output (*)(const tools::Settings&, tools::Checkpoint&);
using BothCommand = tools::Output (*)(const tools::Settings&);

struct Row {
  const char* name;
  BothCommand both;  // or:
  Command one;
  bool has_json = false, has_out = false;
  bool of_history = false;  // not of the buffers
};
constexpr Row kRows[] = {{"summary", tools::print_summary, nullptr, true},
                         {"verify", tools::print_verdicts, nullptr},
                         {"process", nullptr, tools::print_process},
                         {"threads", nullptr, tools::print_threads},
                         {"maps", nullptr, tools::print_maps, true},
                         {"fds", nullptr, tools::print_fds, true},
                         {"files", nullptr, tools::print_files},
                         {"signals", nullptr, tools::print_signals},
                         {"tree", nullptr, tools::print_tree, true},
                         {"core", nullptr, tools::write_core_file, false, true},
                         {"history", tools::print_history, nullptr, true, false, true},
                         {"plot", tools::plot_history, nullptr, false, true, true}};

// What identifies the content of the two buffers: their superblocks.
struct Stamps {
  std::string of[2];
  bool operator==(const Stamps& o) const = default;
};

Stamps read_stamps(const std::string& dir) {
  Stamps s;
  for (int i = 0; i < 2; i++) {
    const os::Fd fd(open(store::buffer_path(dir, i).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    char bytes[sizeof(format::SuperBlock)];
    const ssize_t n = fd ? pread(fd.get(), bytes, sizeof(bytes), 0) : -1;
    if (n > 0) s.of[i].assign(bytes, static_cast<size_t>(n));
  }
  return s;
}

tools::Output run_once(const Row& row, const tools::Settings& settings, int* ret_index) {
  *ret_index = -1;
  if (row.both != nullptr) return row.both(settings);
  std::unique_ptr<store::LoadedImage> image;
  const agent::Trouble bad = agent::choose_image(settings.dir, settings.sequence, &image);
  if (bad.bad()) return {tools::kExitBad, "", bad.text};
  *ret_index = image->index;
  tools::Checkpoint c(*image);
  tools::Output out = row.one(settings, c);
  if (c.memory.damaged_addr() != 0) {
    char text[96];
    snprintf(text, sizeof(text), ": damaged: the page at 0x%lx has a wrong checksum",
             static_cast<unsigned long>(c.memory.damaged_addr()));
    out.err += (out.err.empty() ? "" : "\n") + image->path + text;
    out.status = tools::kExitBad;
  }
  return out;
}

tools::Output run(const Row& row, const tools::Settings& settings) {
  constexpr int kTries = 20;
  if (row.of_history) return row.both(settings);
  for (int i = 0; i < kTries; i++) {
    const Stamps before = read_stamps(settings.dir);
    int index;
    tools::Output out = run_once(row, settings, &index);
    const Stamps after = read_stamps(settings.dir);
    // A command that needs one buffer is not disturbed by writing to the other.
    const bool same = index < 0 ? before == after : before.of[index] == after.of[index];
    if (same) return out;
    const timespec pause{0, 20000000};
    nanosleep(&pause, nullptr);
  }
  tools::own_failure(kTool,
                     settings.dir +
                         ": its session writes checkpoints faster than they can be read here; "
                         "stop it for the time with crckpt --then=stop");
}

// A read error of the disk, or a file cut short while it is read, comes as SIGBUS in a mapping.
void on_bus_error(int) {
  static const char kText[] =
      "crinspect: a file cannot be read (input/output error, or it was cut off)\n";
  _exit(write(2, kText, sizeof(kText) - 1) > 0 ? tools::kExitBad : tools::kExitOwnFailure);
}

const Row* find_row(const char* name) {
  for (const Row& r : kRows) {
    if (strcmp(r.name, name) == 0) return &r;
  }
  return nullptr;
}

const Row& parse(int argc, char** argv, tools::Settings* ret) {
  enum { kSequence = 256, kOut, kJson, kLast };
  static const option kLong[] = {{"sequence", required_argument, nullptr, kSequence},
                                 {"out", required_argument, nullptr, kOut},
                                 {"json", no_argument, nullptr, kJson},
                                 {"last", required_argument, nullptr, kLast},
                                 {"all-registers", no_argument, nullptr, 'a'},
                                 {"help", no_argument, nullptr, 'h'},
                                 {"version", no_argument, nullptr, 'V'},
                                 {nullptr, 0, nullptr, 0}};
  opterr = 0;
  for (int c; (c = getopt_long(argc, argv, ":ahV", kLong, nullptr)) != -1;) {
    switch (c) {
      case kSequence:
        ret->sequence = tools::parse_number(kTool, "--sequence", optarg);
        if (ret->sequence == 0)
          tools::misuse(kTool, "--sequence 0: checkpoints are counted from 1");
        break;
      case kOut:
        ret->out_path = optarg;
        break;
      case kLast:
        ret->last = tools::parse_number(kTool, "--last", optarg);
        if (ret->last == 0) tools::misuse(kTool, "--last 0: give at least 1");
        break;
      case kJson:
        ret->json = true;
        break;
      case 'a':
        ret->all_registers = true;
        break;
      default:
        tools::common_option(kTool, kHelp, c, argv[optind - 1]);
    }
  }
  const int words = argc - optind;
  if (words < 1) tools::misuse(kTool, "give an image directory");
  const char* name = words == 1 ? "summary" : argv[optind];
  const Row* row = find_row(name);
  if (row == nullptr) tools::misuse(kTool, std::string(name) + ": no such command");
  if (words > 2) tools::misuse(kTool, std::string(argv[optind + 2]) + ": one word too many");
  if (words == 1 && find_row(argv[optind]) != nullptr && access(argv[optind], F_OK) != 0) {
    tools::misuse(kTool, std::string(argv[optind]) + ": give an image directory as well");
  }
  ret->dir = argv[argc - 1];
  while (ret->dir.size() > 1 && ret->dir.back() == '/') ret->dir.pop_back();
  if (ret->json && !row->has_json) tools::misuse(kTool, std::string(name) + ": has no --json");
  if (row->has_out && ret->out_path.empty()) {
    tools::misuse(kTool, std::string(name) + ": needs --out FILE");
  }
  if (!row->has_out && !ret->out_path.empty()) {
    tools::misuse(kTool, "--out: only for core and plot");
  }
  if (!row->of_history && ret->last != 0) {
    tools::misuse(kTool, "--last: only for history and plot");
  }
  if (row->both != nullptr && ret->sequence != 0) {
    tools::misuse(kTool, std::string(name) + ": is not of one checkpoint, without --sequence");
  }
  return *row;
}

}  // namespace

int main(int argc, char** argv) {
  tools::Settings settings;
  const Row& row = parse(argc, argv, &settings);
  struct stat st;
  const bool there = stat(settings.dir.c_str(), &st) == 0;
  if (!there || !S_ISDIR(st.st_mode)) {
    const char* why = there ? "not a directory; give the image directory" : strerror(errno);
    fprintf(stderr, "%s: %s: %s\n", kTool, settings.dir.c_str(), why);
    return tools::kExitBad;
  }
  signal(SIGBUS, on_bus_error);
  const tools::Output output = run(row, settings);
  fputs(output.out.c_str(), stdout);
  if (fflush(stdout) != 0) tools::own_failure(kTool, std::string("writing: ") + strerror(errno));
  if (!output.err.empty()) fprintf(stderr, "%s: %s\n", kTool, output.err.c_str());
  return output.status;
}
