// SPDX-License-Identifier: MIT
// cli_common.cc - see cli_common.h. Invariant: as there. Context: N.
#include "tools/cli_common.h"

#include <checkpoint_restore.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <iterator>

#include "format/part.h"
#include "store/protection.h"

namespace cr::tools {

void misuse(const char* tool, const std::string& text) {
  fprintf(stderr, "%s: %s\nTry '%s --help'.\n", tool, text.c_str(), tool);
  exit(kExitMisuse);
}

void own_failure(const char* tool, const std::string& text) {
  fprintf(stderr, "%s: %s\n", tool, text.c_str());
  exit(kExitOwnFailure);
}

void common_option(const char* tool, const char* help, int option, const char* word) {
  if (option == 'h') {
    fputs(help, stdout);
  } else if (option == 'V') {
    printf("%s (checkpoint_restore) %d.%d.%d\n", tool, CR_VERSION_MAJOR, CR_VERSION_MINOR,
           CR_VERSION_PATCH);
  } else {
    misuse(tool, std::string(word) + (option == ':' ? ": needs a value" : ": unknown option"));
  }
  exit(0);
}

void parse_interval(const char* tool, const char* text, agent::SessionOptions* ret) {
  ret->interval_of_image = false;
  ret->policy.automatic = strcmp(text, "auto") == 0;
  if (ret->policy.automatic) return;
  ret->interval_seconds = 0;
  if (strcmp(text, "off") == 0) return;
  char* end = nullptr;
  errno = 0;
  const double v = strtod(text, &end);
  const bool number = end != text && *end == 0 && errno == 0 && isfinite(v);
  if (!number || v < 0 || (v > 0 && v < 0.001) || v > 1e9) {
    misuse(tool, std::string("-i ") + text + ": give seconds (0.001 to 1e9), 'auto' or 'off'");
  }
  ret->interval_seconds = v;
}

double parse_duration(const char* tool, const char* what, const char* text) {
  char* end = nullptr;
  errno = 0;
  const double v = strtod(text, &end);
  double unit = 1;
  if (end != text && *end != 0 && end[1] == 0) {
    unit = *end == 's' ? 1 : *end == 'm' ? 60 : *end == 'h' ? 3600 : *end == 'd' ? 86400 : 0;
    end++;
  }
  const double seconds = v * unit;
  if (end == text || *end != 0 || errno != 0 || !(seconds >= 0.001 && seconds <= 1e9)) {
    misuse(tool, std::string(what) + " " + text +
                     ": give a time in seconds, or with one of s, m, h, d (0.001 to 1e9 s)");
  }
  return seconds;
}

bool parse_interval_option(const char* tool, int option, const char* text,
                           agent::SessionOptions* ret) {
  agent::IntervalPolicy& p = ret->policy;
  if (option == kOverhead) {
    std::string number = text;
    if (!number.empty() && number.back() == '%') number.pop_back();
    char* end = nullptr;
    const double v = strtod(number.c_str(), &end);
    if (number.empty() || *end != 0 || !(v >= 0.001 && v <= 100)) {
      misuse(tool, std::string("--overhead ") + text + ": give a percentage, 0.001 to 100");
    }
    p.overhead = v / 100;
  } else if (option == kMtbf) {
    p.mtbf = parse_duration(tool, "--mtbf", text);
  } else if (option == kMinInterval) {
    p.least = parse_duration(tool, "--min-interval", text);
  } else if (option == kMaxInterval) {
    p.most = parse_duration(tool, "--max-interval", text);
  } else {
    return false;
  }
  return true;
}

void finish_interval(const char* tool, agent::SessionOptions* options) {
  const agent::IntervalPolicy& p = options->policy;
  const bool any = p.overhead > 0 || p.mtbf > 0 || p.least > 0 || p.most > 0;
  if (any && !p.automatic) {
    misuse(tool, "--overhead, --mtbf, --min-interval and --max-interval need -i auto");
  }
  const double least = p.least > 0 ? p.least : agent::kLeastInterval;
  const double most = p.most > 0 ? p.most : agent::kMostInterval;
  if (p.automatic && least > most) misuse(tool, "--min-interval is longer than --max-interval");
  if (p.automatic) options->interval_seconds = agent::first_interval(p);
}

uint64_t parse_number(const char* tool, const char* what, const char* text) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long v = strtoull(text, &end, 10);
  if (end == text || *end != 0 || errno != 0 || text[0] == '-') {
    misuse(tool, std::string(what) + " " + text + ": not a number");
  }
  return v;
}

uint64_t parse_bytes(const char* tool, const char* text) {
  std::string digits = text;
  uint64_t unit = 1;
  if (!digits.empty()) {
    const char last = digits.back();
    unit = last == 'K' ? 1ull << 10 : last == 'M' ? 1ull << 20 : last == 'G' ? 1ull << 30 : 1;
    if (unit != 1) digits.pop_back();
  }
  const uint64_t v = parse_number(tool, "size", digits.c_str());
  uint64_t r;
  if (__builtin_mul_overflow(v, unit, &r)) misuse(tool, std::string(text) + ": too large");
  return r;
}

format::Tracker parse_tracking(const char* tool, const char* text) {
  format::Tracker tracker;
  if (!agent::tracking_of_word(text, &tracker)) {
    misuse(tool, "--track=" + std::string(text) + ": one of auto, uffd, softdirty, hash, all");
  }
  const std::string why = agent::check_tracking(tracker);
  if (!why.empty()) own_failure(tool, why);
  return tracker;
}

agent::Ids parse_ids(const char* tool, const char* text) {
  const std::string t = text;
  if (t == "auto") return agent::Ids::kAuto;
  if (t == "same") return agent::Ids::kSame;
  if (t == "namespace") return agent::Ids::kNamespace;
  if (t == "new") return agent::Ids::kNew;
  misuse(tool, "--ids=" + t + ": one of auto, same, namespace, new");
}

bool parse_durable(const char* tool, const char* text) {
  const std::string t = text;
  if (t != "crash" && t != "power") misuse(tool, "--durable=" + t + ": crash or power");
  return t == "power";
}

format::FilesPolicy parse_files(const char* tool, const char* text) {
  const std::string t = text;
  if (t == "restore") return format::kFilesRestore;
  if (t == "keep") return format::kFilesKeep;
  if (t == "refuse") return format::kFilesRefuse;
  misuse(tool, "--files=" + t + ": restore, keep or refuse");
}

void parse_protect(const char* tool, const char* text, agent::ProtectOptions* ret) {
  std::string why;
  if (!store::parse_protection(text, &why))
    misuse(tool, std::string("--protect=") + text + ": " + why);
  ret->spec = text;
  ret->socket = node::socket_of_environment();
}

void parse_name(const char* tool, const char* text, agent::ProtectOptions* ret) {
  const std::string name = text;
  if (!is_session_name(name)) misuse(tool, "--name " + name + ": " + kSessionNameRule);
  ret->name = name;
}

bool is_session_name(const std::string& name) {
  return !name.empty() && name.size() < format::kPartNameBytes && name[0] != '.' &&
         name.find_first_of("/ \t\n") == std::string::npos;
}

bool parse_flush_option(const char* tool, int option, const char* text,
                        agent::ProtectOptions* ret) {
  if (option == kFlushEvery) {
    ret->flush_every = parse_number(tool, "--flush-every", text);
    if (ret->flush_every == 0) misuse(tool, "--flush-every 0: give 1 or more");
  } else if (option == kFlushInterval) {
    ret->flush_interval_ns =
        static_cast<uint64_t>(parse_duration(tool, "--flush-interval", text) * 1e9);
  } else {
    return false;
  }
  return true;
}

bool parse_write_option(const char* tool, int option, const char* text, store::WriteLimits* ret) {
  if (option == kWriteBandwidth) {
    ret->bytes_per_second = parse_bytes(tool, text);
    if (ret->bytes_per_second < (1 << 20)) misuse(tool, "--write-bandwidth: give at least 1M");
  } else if (option == kQueueDepth) {
    const uint64_t depth = parse_number(tool, "--queue-depth", text);
    if (depth < 1 || depth > store::WriteLimits::kMostDepth) {
      misuse(tool, "--queue-depth: give 1 to " + std::to_string(store::WriteLimits::kMostDepth));
    }
    ret->depth = static_cast<unsigned>(depth);
  } else if (option == kDirect) {
    ret->direct = true;
  } else {
    return false;
  }
  return true;
}

void set_write_options(const char* tool, const store::WriteLimits& limits, const std::string& dir) {
  const std::string why = limits.direct ? store::why_not_direct(dir) : "";
  if (!why.empty()) own_failure(tool, "--direct: " + why + "; leave it out");
  store::limit_writes(limits);
}

std::string absolute_path(const char* tool, const std::string& path) {
  if (!path.empty() && path[0] == '/') return path;
  char cwd[PATH_MAX];
  if (getcwd(cwd, sizeof(cwd)) == nullptr)
    own_failure(tool, std::string("getcwd: ") + strerror(errno));
  return std::string(cwd) + "/" + path;
}

std::string find_preload(const char* tool) {
  const char* forced = getenv("CR_PRELOAD");
  const std::string path = forced != nullptr ? forced : agent::beside_tool("lib/libcrpreload.so");
  if (path.empty() || access(path.c_str(), R_OK) != 0) {
    own_failure(tool,
                "libcrpreload.so is missing beside the tool (../lib/libcrpreload.so); set "
                "CR_PRELOAD to its path");
  }
  if (path.find_first_of(" :") != std::string::npos) {
    own_failure(
        tool, path + ": the loader cannot preload a path with spaces or colons; install elsewhere");
  }
  return path;
}

std::string find_crstored() { return agent::beside_tool("bin/crstored"); }

void prepare_protection(const char* tool, agent::ProtectOptions* options) {
  if (options->spec.empty() || options->socket.find('/') != std::string::npos) return;
  auto starter = node::PrivateStarter::make(find_crstored());
  if (!starter) own_failure(tool, "fork: " + describe(starter.error()));
  options->starter = std::move(*starter);
}

std::string human_bytes(uint64_t b) {
  char t[32];
  if (b >= 1ull << 30) {
    snprintf(t, sizeof(t), "%.2f GiB", static_cast<double>(b) / (1ull << 30));
  } else if (b >= 1ull << 20) {
    snprintf(t, sizeof(t), "%.1f MiB", static_cast<double>(b) / (1ull << 20));
  } else {
    snprintf(t, sizeof(t), "%.1f KiB", static_cast<double>(b) / 1024.0);
  }
  return t;
}

std::string describe(const Error& e) {
  std::string s = e.what;
  if (e.sys_errno != 0) s += std::string(": ") + strerror(e.sys_errno);
  return s;
}

std::string tracker_word(uint32_t tracker) {
  static constexpr const char* kWords[] = {"unknown", "everything", "userfaultfd", "soft-dirty",
                                           "hash"};
  return tracker < std::size(kWords) ? kWords[tracker] : std::to_string(tracker);
}

std::string level_word(uint32_t level) {
  static constexpr const char* kWords[] = {"none", "crash", "power"};
  return level < std::size(kWords) ? kWords[level] : std::to_string(level);
}

const char* phase_word(uint32_t phase) {
  static constexpr const char* kWords[] = {
      "working", "copying", "writing", "waiting for the disk", "verifying", "filling"};
  return kWords[phase < std::size(kWords) ? phase : 0];
}

int connect_to_agent(const std::string& dir) {
  const int d = open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (d < 0) return -1;
  const int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s", d, format::kAgentSocketName);
  const bool ok = connect(s, reinterpret_cast<sockaddr*>(&a), sizeof(a)) == 0;
  const int e = errno;
  close(d);
  if (ok) return s;
  close(s);
  errno = e;
  return -1;
}

}  // namespace cr::tools
