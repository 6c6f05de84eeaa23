// SPDX-License-Identifier: MIT
// cli_common.h - what the command-line tools share: help, usage errors, numbers, paths.
// Invariant: help goes to standard output with status 0, misuse to standard error with status 2.
// Context: N.
#pragma once

#include <stdint.h>

#include <string>

#include "agent/supervisor.h"
#include "store/file.h"

namespace cr::tools {

inline constexpr int kExitMisuse = 2;
inline constexpr int kExitOwnFailure = 125;

[[noreturn]] void misuse(const char* tool, const std::string& text);
[[noreturn]] void own_failure(const char* tool, const std::string& text);
// What getopt_long gave and the tool itself does not know: -h, -V, ':' (no value), '?' (unknown).
// word: the argument it stands in.
[[noreturn]] void common_option(const char* tool, const char* help, int option, const char* word);

// -i: "10", "0.5", "off" or "0" (no automatic checkpoints), "auto". Misuse otherwise.
void parse_interval(const char* tool, const char* text, agent::SessionOptions* ret);
// The options that say how "auto" chooses. Long options have these numbers.
enum IntervalOption { kOverhead = 1000, kMtbf, kMinInterval, kMaxInterval };
#define CR_INTERVAL_OPTIONS                                                \
  {"overhead", required_argument, nullptr, tools::kOverhead},              \
      {"mtbf", required_argument, nullptr, tools::kMtbf},                  \
      {"min-interval", required_argument, nullptr, tools::kMinInterval}, { \
    "max-interval", required_argument, nullptr, tools::kMaxInterval        \
  }
// false: `option` is none of them.
bool parse_interval_option(const char* tool, int option, const char* text,
                           agent::SessionOptions* ret);
// To be called behind the last option. Misuse if they do not go together.
void finish_interval(const char* tool, agent::SessionOptions* options);
// "90", "1.5h": seconds, or with s, m, h, d.
double parse_duration(const char* tool, const char* what, const char* text);
// One of auto, uffd, softdirty, hash, all. Misuse otherwise; own failure if this kernel lacks it.
format::Tracker parse_tracking(const char* tool, const char* text);
// Bytes with an optional K, M, G (powers of 1024).
uint64_t parse_bytes(const char* tool, const char* text);
uint64_t parse_number(const char* tool, const char* what, const char* text);
agent::Ids parse_ids(const char* tool, const char* text);
bool parse_durable(const char* tool, const char* text);

// --files: restore, keep or refuse.
format::FilesPolicy parse_files(const char* tool, const char* text);

// --protect and --name. Misuse if they cannot be meant.
void parse_protect(const char* tool, const char* text, agent::ProtectOptions* ret);
void parse_name(const char* tool, const char* text, agent::ProtectOptions* ret);
bool is_session_name(const std::string& name);
inline constexpr char kSessionNameRule[] = "1 to 63 characters, no slash, no space";
// Which checkpoints are flushed. Long options have these numbers.
enum FlushOption { kFlushEvery = 1010, kFlushInterval };
#define CR_FLUSH_OPTIONS                                                \
  {"flush-every", required_argument, nullptr, tools::kFlushEvery}, {    \
    "flush-interval", required_argument, nullptr, tools::kFlushInterval \
  }
// false: `option` is none of them.
bool parse_flush_option(const char* tool, int option, const char* text, agent::ProtectOptions* ret);

// How images and parts are written: "write-bandwidth", "queue-depth" and "direct". Long options
// have these numbers.
enum WriteOption { kWriteBandwidth = 1020, kQueueDepth, kDirect };
#define CR_WRITE_OPTIONS                                                   \
  {"write-bandwidth", required_argument, nullptr, tools::kWriteBandwidth}, \
      {"queue-depth", required_argument, nullptr, tools::kQueueDepth}, {   \
    "direct", no_argument, nullptr, tools::kDirect                         \
  }
// false: `option` is none of them.
bool parse_write_option(const char* tool, int option, const char* text, store::WriteLimits* ret);
// For files below dir from here on; fails if they cannot be written as wanted.
void set_write_options(const char* tool, const store::WriteLimits& limits, const std::string& dir);

std::string absolute_path(const char* tool, const std::string& path);
// libcrpreload.so beside the tool, or $CR_PRELOAD; own failure if missing.
std::string find_preload(const char* tool);
// The program that is beside the tool, "" if it is not.
std::string find_crstored();
// If --protect is given and no socket: a private crstored can be started from now on. To be called
// before there is a Supervisor.
void prepare_protection(const char* tool, agent::ProtectOptions* options);
// "12.3 MiB"
std::string human_bytes(uint64_t bytes);
std::string describe(const Error& e);
// enum Tracker and enum HistoryLevel as words.
std::string tracker_word(uint32_t tracker);
std::string level_word(uint32_t level);
// enum ProgressPhase
const char* phase_word(uint32_t phase);

// Connects to the agent of the session in dir, "" and -1 if nobody listens.
int connect_to_agent(const std::string& dir);

}  // namespace cr::tools
