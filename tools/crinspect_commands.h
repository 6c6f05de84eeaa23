// SPDX-License-Identifier: MIT
// crinspect_commands.h - what each command of crinspect prints.
// Invariant: a command only reads the image and makes text; crinspect.cc prints it, after it has
// made sure that no running session wrote over the buffer meanwhile.
// Context: N. Doc: docs/man/crinspect.1.
#pragma once

#include <stdint.h>

#include <string>

#include "agent/elf_object.h"
#include "agent/image_memory.h"
#include "store/buffer.h"

namespace cr::tools {

inline constexpr int kExitBad = 1;  // damage, or no whole checkpoint

struct Settings {
  std::string dir;
  uint64_t sequence = 0;  // 0: the one crrestore takes
  bool json = false;
  bool all_registers = false;
  std::string out_path;
  uint64_t last = 0;  // attempts of the history, 0: all
};

struct Output {
  int status = 0;
  std::string out, err;  // for standard output and standard error
};

// Of both buffers.
Output print_summary(const Settings& settings);
Output print_verdicts(const Settings& settings);

// Of the history.
Output print_history(const Settings& settings);
Output plot_history(const Settings& settings);

// Of one checkpoint.
struct Checkpoint {
  explicit Checkpoint(const store::LoadedImage& i) : image(i), memory(i.view), objects(memory) {}
  const store::LoadedImage& image;
  agent::ImageMemory memory;
  agent::ObjectTable objects;
};
Output print_process(const Settings& settings, Checkpoint& c);
Output print_threads(const Settings& settings, Checkpoint& c);
Output print_maps(const Settings& settings, Checkpoint& c);
Output print_fds(const Settings& settings, Checkpoint& c);
Output print_files(const Settings& settings, Checkpoint& c);
Output print_signals(const Settings& settings, Checkpoint& c);
Output print_tree(const Settings& settings, Checkpoint& c);
Output write_core_file(const Settings& settings, Checkpoint& c);

}  // namespace cr::tools
