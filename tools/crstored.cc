// SPDX-License-Identifier: MIT
// crstored.cc - the node's checkpoint store: takes sessions' checkpoints to its own disk and to its
// neighbours', and keeps theirs.
// Invariant: nothing is served before the configuration is known to be good.
// Context: N. Doc: docs/man/crstored.8, docs/store.md.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "format/wire_reader.h"
#include "node/client.h"
#include "node/daemon.h"
#include "node/private_place.h"
#include "tools/cli_common.h"

namespace {

using namespace cr;

constexpr char kTool[] = "crstored";
constexpr char kReady[] = "ready";
constexpr char kHelp[] =
    "usage: crstored [options]\n"
    "Keep checkpoints of this node's sessions on its disk and on its neighbours, and theirs here.\n"
    "  -c, --config FILE    lines of `option = value`, the long options below without --; options\n"
    "                       of the command line come first\n"
    "      --store DIR      where parts are kept (default /var/lib/crstored for root, else\n"
    "                       $XDG_STATE_HOME/crstored or ~/.local/state/crstored)\n"
    "      --socket PATH    where sessions and tools reach it (default $CR_STORE_SOCKET, else\n"
    "                       $XDG_RUNTIME_DIR/crstored.sock or /run/crstored.sock)\n"
    "      --members LIST   the nodes: a file with a line `NAME HOST[:PORT] [rack=LABEL]` for "
    "each,\n"
    "                       or NAME=HOST:PORT,... (default: SLURM_JOB_NODELIST, else this node\n"
    "                       alone)\n"
    "      --name NAME      which of them this node is (default: by its host name)\n"
    "      --key FILE       the secret that all nodes share, 32 bytes or more, mode 0600; made by\n"
    "                       --make-key. Without it this node is alone\n"
    "      --make-key FILE  make such a file, and end\n"
    "      --cluster NAME   nodes of other clusters are refused (default: cluster)\n"
    "      --listen HOST    address to listen at (default: this node's in the list)\n"
    "      --dram BYTES     memory lent to parts on their way in, K, M, G (default 256M)\n"
    "      --write-bandwidth BYTES\n"
    "                       write to disks no faster than so much in a second, K, M, G (default: "
    "no\n"
    "                       bound)\n"
    "      --queue-depth N  of one file, writes in flight by io_uring, 1 to 1024 (default 16)\n"
    "      --direct         write parts past the page cache (O_DIRECT)\n"
    "      --durable=power|crash\n"
    "                       a part counts when it is on stable storage, or when the kernel has it\n"
    "                       (default power)\n"
    "      --encrypt        encrypt and authenticate all that is sent (AES-256-GCM)\n"
    "      --tag-blocks     authenticate pages, too, not only messages and the pages' checksums\n"
    "      --strict-racks   refuse to put two parts of a session on one rack\n"
    "      --silence SECONDS\n"
    "                       a node that says nothing for so long is gone (default 5)\n"
    "      --repair-after SECONDS\n"
    "                       parts of a node that is gone for so long are put on others; off: "
    "never\n"
    "                       (default 60)\n"
    "      --flush DIR      copy chosen checkpoints to DIR, which is on a file system that all "
    "nodes\n"
    "                       share; DIR must be there\n"
    "      --flush-every N  choose each Nth checkpoint: when the number reaches or passes a "
    "multiple\n"
    "      --flush-interval SECONDS\n"
    "                       choose one so long after the last one that was begun, if there is a\n"
    "                       newer one; with s, m, h, d too. Neither: only what `crstore flush` "
    "and\n"
    "                       crrun's options ask for\n"
    "      --flush-bandwidth BYTES\n"
    "                       of all sessions together, in a second, K, M, G (default: no bound)\n"
    "      --flush-zstd     compress what is flushed\n"
    "      --keep RULES     of each session's flushed checkpoints keep these and remove the "
    "others:\n"
    "                       last:N,hourly:N,daily:N,weekly:N or some of that (default: keep all)\n"
    "      --for-all-users  let all users reach the socket; each gets only its own sessions\n"
    "      --exit-when-idle SECONDS|off\n"
    "                       end when nothing has been asked, protected or flushed for so long; "
    "with "
    "s, m,\n"
    "                       h, d too (default off; of a private one without other nodes 60)\n"
    "      --private        be the private one of this user on this host, as crrun, crrestore and\n"
    "                       crstore start it: end if there is one, else go on in the background.\n"
    "                       Options: $XDG_CONFIG_HOME/checkpoint_restore/crstored.conf, default\n"
    "                       ~/.config/checkpoint_restore/crstored.conf, if that is there\n"
    "      --check-config   say whether the configuration is good, and end\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "Exit status: 0 it was told to end; 1 it could not start; 2 misuse; 125 its configuration is\n"
    "wrong.\n";

struct Options {
  std::map<std::string, std::string> set;  // by long name
  bool check = false, is_private = false;
  std::string config;  // the file
};

constexpr const char* kValues[] = {"store",
                                   "socket",
                                   "members",
                                   "name",
                                   "key",
                                   "cluster",
                                   "listen",
                                   "dram",
                                   "durable",
                                   "silence",
                                   "repair-after",
                                   "flush",
                                   "flush-every",
                                   "flush-interval",
                                   "flush-bandwidth",
                                   "keep",
                                   "exit-when-idle",
                                   "make-key",
                                   "write-bandwidth",
                                   "queue-depth"};
constexpr const char* kFlags[] = {"encrypt",       "tag-blocks", "strict-racks",
                                  "for-all-users", "flush-zstd", "direct"};

bool takes_value(const std::string& name) { return std::ranges::count(kValues, name) != 0; }
bool is_flag(const std::string& name) { return std::ranges::count(kFlags, name) != 0; }

void read_config(const char* path, Options* o) {
  std::ifstream file(path);
  if (!file) tools::own_failure(kTool, std::string(path) + ": " + strerror(errno));
  const auto trim = [](std::string s) {
    const size_t from = s.find_first_not_of(" \t\r");
    if (from == std::string::npos) return std::string();
    return s.substr(from, s.find_last_not_of(" \t\r") - from + 1);
  };
  std::string line;
  for (int number = 1; std::getline(file, line); number++) {
    line = trim(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const size_t equals = line.find('=');
    const std::string name = trim(line.substr(0, equals));
    const std::string value = equals == std::string::npos ? "" : trim(line.substr(equals + 1));
    const std::string where = std::string(path) + ":" + std::to_string(number) + ": ";
    const bool good = (takes_value(name) && name != "make-key" && !value.empty()) ||
                      (is_flag(name) && (value.empty() || value == "yes" || value == "no"));
    if (!good) {
      tools::misuse(kTool, where + line + ": give `option = value`; see crstored --help");
    }
    if (is_flag(name) && value == "no") continue;
    o->set.emplace(name, is_flag(name) ? "yes" : value);
  }
}

Options parse(int argc, char** argv) {
  std::vector<option> longs;
  for (const char* v : kValues) longs.push_back({v, required_argument, nullptr, 1000});
  for (const char* f : kFlags) longs.push_back({f, no_argument, nullptr, 1000});
  longs.push_back({"config", required_argument, nullptr, 'c'});
  longs.push_back({"check-config", no_argument, nullptr, 1001});
  longs.push_back({"private", no_argument, nullptr, 1002});
  longs.push_back({"help", no_argument, nullptr, 'h'});
  longs.push_back({"version", no_argument, nullptr, 'V'});
  longs.push_back({nullptr, 0, nullptr, 0});
  Options o;
  opterr = 0;
  for (int c, index = 0; (c = getopt_long(argc, argv, ":c:hV", longs.data(), &index)) != -1;) {
    if (c == 1000) {
      o.set[longs[static_cast<size_t>(index)].name] = optarg != nullptr ? optarg : "yes";
    } else if (c == 1001) {
      o.check = true;
    } else if (c == 1002) {
      o.is_private = true;
    } else if (c == 'c') {
      o.config = optarg;
    } else {
      tools::common_option(kTool, kHelp, c, argv[optind - 1]);
    }
  }
  if (optind != argc) tools::misuse(kTool, std::string(argv[optind]) + ": no such argument");
  return o;
}

std::string default_store() {
  if (geteuid() == 0) return "/var/lib/crstored";
  if (const char* state = getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') {
    return std::string(state) + "/crstored";
  }
  const char* home = getenv("HOME");
  if (home == nullptr) tools::own_failure(kTool, "HOME is not set; name a directory with --store");
  return std::string(home) + "/.local/state/crstored";
}

node::Members read_members(const Options& o, bool has_key) {
  node::MemberSource source;
  const auto given = [&](const char* name) {
    const auto at = o.set.find(name);
    return at == o.set.end() ? std::string() : at->second;
  };
  const std::string list = given("members");
  if (list.find('=') != std::string::npos && access(list.c_str(), F_OK) != 0) {
    source.list = list;
  } else if (!list.empty()) {
    source.file = list;
  } else if (has_key) {
    source.slurm_nodelist = node::slurm_nodelist_of_environment();
  }
  source.own_name = given("name");
  if (source.file.empty() && source.list.empty() && source.slurm_nodelist.empty()) {
    node::Member self;
    char host[256] = "localhost";
    gethostname(host, sizeof(host) - 1);
    self.name = source.own_name.empty() ? host : source.own_name;
    self.host = "127.0.0.1";
    node::Members alone;
    alone.list.push_back(self);
    return alone;
  }
  std::string text;
  auto members = node::load_members(source, &text);
  if (!members) tools::own_failure(kTool, text);
  return std::move(*members);
}

void configure_flush(const Options& o, node::NodeConfig* c) {
  const auto given = [&](const char* name) {
    const auto at = o.set.find(name);
    return at == o.set.end() ? nullptr : at->second.c_str();
  };
  const char* const dir = given("flush");
  for (const char* name :
       {"flush-every", "flush-interval", "flush-bandwidth", "flush-zstd", "keep"}) {
    if (dir == nullptr && given(name) != nullptr) {
      tools::misuse(kTool, std::string("--") + name + " goes with --flush DIR");
    }
  }
  if (dir == nullptr) return;
  if (*dir == '\0') tools::misuse(kTool, "--flush: give a directory");
  c->flush.dir = tools::absolute_path(kTool, dir);
  if (const char* n = given("flush-every"); n != nullptr) {
    c->flush.every = tools::parse_number(kTool, "--flush-every", n);
    if (c->flush.every == 0) tools::misuse(kTool, "--flush-every: give 1 or more");
  }
  if (const char* t = given("flush-interval"); t != nullptr) {
    c->flush.period_ns =
        static_cast<uint64_t>(tools::parse_duration(kTool, "--flush-interval", t) * 1e9);
  }
  if (const char* b = given("flush-bandwidth"); b != nullptr) {
    c->flush_bytes_per_second = tools::parse_bytes(kTool, b);
    if (c->flush_bytes_per_second < 4096) {
      tools::misuse(kTool, "--flush-bandwidth: give at least 4K");
    }
  }
  c->flush.compress = given("flush-zstd") != nullptr;
  if (const char* k = given("keep"); k != nullptr) {
    std::string text;
    auto keep = node::parse_retention(k, &text);
    if (!keep || keep->keeps_all()) {
      tools::misuse(kTool, "--keep: " + (keep ? std::string("give a rule") : text));
    }
    c->flush.keep = *keep;
  }
}

// What --check-config says of it.
std::string flush_words(const node::NodeConfig& c) {
  if (c.flush.dir.empty()) return "";
  std::string text = "; flushes to " + c.flush.dir;
  if (c.flush.every > 0) text += ", each " + std::to_string(c.flush.every) + "th checkpoint";
  if (c.flush.period_ns > 0) {
    text += ", every " + std::to_string(c.flush.period_ns / 1'000'000'000) + " s";
  }
  if (c.flush.every == 0 && c.flush.period_ns == 0) text += " what it is asked to";
  return text + (c.flush.keep.keeps_all() ? ", keeps all" : ", keeps " + to_string(c.flush.keep));
}

// Names go into messages and parts, whose fields have an end.
void check_names(const node::NodeConfig& c) {
  const auto is_good = [](const std::string& name) {
    return format::is_wire_name(name.data(), name.size());
  };
  const std::string rule = ": give 1 to 63 of the characters A-Z a-z 0-9 . _ -";
  if (!is_good(c.cluster)) tools::misuse(kTool, "--cluster '" + c.cluster + "'" + rule);
  for (const node::Member& m : c.members.list) {
    if (!c.key_file.empty() && !is_good(m.name))
      tools::misuse(kTool, "the node name '" + m.name + "'" + rule);
  }
}

node::NodeConfig configure(const Options& o) {
  const auto given = [&](const char* name, const std::string& otherwise) {
    const auto at = o.set.find(name);
    return at == o.set.end() ? otherwise : at->second;
  };
  node::NodeConfig c;
  c.store_dir =
      tools::absolute_path(kTool, o.set.contains("store") ? o.set.at("store") : default_store());
  c.socket_path = given("socket", node::default_socket_path());
  c.key_file = given("key", "");
  c.cluster = given("cluster", "cluster");
  c.members = read_members(o, !c.key_file.empty());
  if (c.members.list.size() > 1 && c.key_file.empty()) {
    tools::misuse(kTool,
                  "several nodes need --key FILE, the same on all; make one with --make-key");
  }
  check_names(c);
  c.listen_host = given("listen", "");
  if (o.set.contains("dram")) c.dram_bytes = tools::parse_bytes(kTool, o.set.at("dram").c_str());
  if (c.dram_bytes < (8 << 20)) tools::misuse(kTool, "--dram: give at least 8M");
  if (o.set.contains("durable")) {
    c.durable = tools::parse_durable(kTool, o.set.at("durable").c_str());
  }
  if (o.set.contains("silence")) {
    const double s = tools::parse_duration(kTool, "--silence", o.set.at("silence").c_str());
    if (s < 0.5 || s > 600) tools::misuse(kTool, "--silence: give 0.5 to 600 seconds");
    c.silence_ns = static_cast<uint64_t>(s * 1e9);
    c.heartbeat_ns = c.silence_ns / 5;
  }
  if (o.set.contains("repair-after")) {
    const std::string& after = o.set.at("repair-after");
    const double s =
        after == "off" ? 0 : tools::parse_duration(kTool, "--repair-after", after.c_str());
    c.repair_after_ns = static_cast<uint64_t>(s * 1e9);
  }
  if (o.set.contains("exit-when-idle") && o.set.at("exit-when-idle") != "off") {
    const double s =
        tools::parse_duration(kTool, "--exit-when-idle", o.set.at("exit-when-idle").c_str());
    c.exit_when_idle_ns = static_cast<uint64_t>(s * 1e9);
  }
  c.encrypt = o.set.contains("encrypt");
  c.tag_blocks = o.set.contains("tag-blocks");
  c.strict_racks = o.set.contains("strict-racks");
  c.for_all_users = o.set.contains("for-all-users");
  configure_flush(o, &c);
  store::WriteLimits limits;
  for (const auto& [name, option] : {std::pair{"write-bandwidth", tools::kWriteBandwidth},
                                     std::pair{"queue-depth", tools::kQueueDepth}}) {
    if (!o.set.contains(name)) continue;
    (void)tools::parse_write_option(kTool, option, o.set.at(name).c_str(), &limits);
  }
  limits.direct = o.set.contains("direct");
  tools::set_write_options(kTool, limits, c.store_dir);
  return c;
}

int make_key(const std::string& path) {
  std::string text;
  if (!node::SessionKey::generate(path, &text)) tools::own_failure(kTool, text);
  printf("%s made; copy it to all nodes, readable by crstored's user alone\n", path.c_str());
  return 0;
}

bool log_with_time = false;  // where nobody else adds it

void log_line(const std::string& text) {
  char when[40] = "";
  const time_t now = time(nullptr);
  tm local{};
  if (log_with_time && localtime_r(&now, &local) != nullptr) {
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S ", &local);
  }
  fprintf(stderr, "%s%s: %s\n", when, kTool, text.c_str());
  fflush(stderr);
}

// "": the store is there or can be made, and can be written. Nothing is made or changed.
std::string store_trouble(const std::string& dir) {
  struct stat st;
  const bool is_there = stat(dir.c_str(), &st) == 0;
  if (!is_there && errno != ENOENT) return dir + ": " + strerror(errno);
  const std::string above = dir.substr(0, std::max<size_t>(dir.find_last_of('/'), 1));
  const std::string& what = is_there ? dir : above;
  if (is_there && !S_ISDIR(st.st_mode)) return dir + ": Not a directory";
  if (is_there && (st.st_uid != geteuid() || (st.st_mode & 022) != 0)) {
    return dir + ": others may write there, or it belongs to another user; chmod 700";
  }
  if (faccessat(AT_FDCWD, what.c_str(), W_OK | X_OK, AT_EACCESS) == 0) return "";
  const char* const why = strerror(errno);
  return dir + ": the store cannot be " + (is_there ? "written: " : "made: ") + why +
         "; make the directory above it";
}

// "": this node has the address. A port of it is taken for a moment, and no other one asked for.
std::string listen_trouble(const std::string& host) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int e = getaddrinfo(host.c_str(), nullptr, &hints, &found); e != 0) {
    return gai_strerror(e);
  }
  std::string why;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    const os::Fd probe(socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol));
    const bool bound = probe && bind(probe.get(), a->ai_addr, a->ai_addrlen) == 0;
    why = bound ? "" : strerror(errno);
    if (bound) break;
  }
  freeaddrinfo(found);
  return why;
}

int check_config(const node::NodeConfig& config) {
  std::string text;
  if (const std::string why = store_trouble(config.store_dir); !why.empty()) {
    tools::own_failure(kTool, why + ", or name another store with --store");
  }
  const std::string& host = config.listen_host;
  if (const std::string why = host.empty() ? "" : listen_trouble(host); !why.empty()) {
    tools::own_failure(kTool, "--listen " + host + ": " + why + "; give an address of this node");
  }
  if (!config.key_file.empty() && !node::SessionKey::load(config.key_file, &text)) {
    tools::own_failure(kTool, text);
  }
  printf("good: node %s, one of %zu; store %s; socket %s%s\n", config.members.self().name.c_str(),
         config.members.list.size(), config.store_dir.c_str(), config.socket_path.c_str(),
         flush_words(config).c_str());
  return 0;
}

// The options of a private one, from its file and its place.
node::NodeConfig configure_private(Options* o, node::PrivatePlace* place) {
  std::string text;
  auto found_place = node::private_place(&text);
  if (!found_place) tools::own_failure(kTool, text);
  *place = *found_place;
  if (!node::make_private_place(place, &text)) tools::own_failure(kTool, text);
  if (o->config.empty()) {
    auto found = node::private_configuration(&text);
    if (!found) tools::own_failure(kTool, text);
    o->config = *found;
  }
  if (!o->config.empty()) read_config(o->config.c_str(), o);
  for (const char* option : {"socket", "for-all-users", "make-key"}) {
    if (!o->set.contains(option)) continue;
    tools::misuse(kTool, (o->config.empty() ? "" : o->config + ": ") + std::string(option) +
                             ": is not for a private crstored, which is one user's and chooses "
                             "its socket itself; remove it");
  }
  o->set.try_emplace("store", place->store);
  o->set["socket"] = place->socket;
  node::NodeConfig c = configure(*o);
  c.start_lock = place->lock;
  c.socket_link = place->link;
  c.config_file = node::private_configuration_path();
  // Neighbours rely on one that keeps their parts.
  constexpr uint64_t kIdleNs = 60'000'000'000;
  if (!o->set.contains("exit-when-idle") && c.key_file.empty()) c.exit_when_idle_ns = kIdleNs;
  return c;
}

// Until no other one is about to start or to end. Then nobody listens, or somebody who stays.
os::Fd take_start_lock(const node::PrivatePlace& place) {
  constexpr int kMostMs = 20'000, kPauseMs = 5;
  os::Fd lock(open(place.lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  for (int waited = 0; lock && flock(lock.get(), LOCK_EX | LOCK_NB) != 0; waited += kPauseMs) {
    const int e = errno;
    if (e != EWOULDBLOCK || waited >= kMostMs) {
      tools::own_failure(kTool, place.lock + ": " +
                                    (e == EWOULDBLOCK ? "another one has been starting or ending "
                                                        "for 20 s; see `ps` and " +
                                                            place.log
                                                      : strerror(e)));
    }
    usleep(kPauseMs * 1000);
  }
  if (!lock) tools::own_failure(kTool, place.lock + ": " + strerror(errno));
  return lock;
}

// Of the first process: waits for what the one in the background says of its start, and ends.
[[noreturn]] void pass_on(int from, pid_t child, const node::PrivatePlace& place) {
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  std::string said;
  char buffer[1024];
  for (ssize_t n; (n = read(from, buffer, sizeof(buffer))) != 0;) {
    if (n > 0) said.append(buffer, static_cast<size_t>(n));
    if (n < 0 && errno != EINTR) break;
  }
  if (said == kReady) exit(0);
  if (said.empty()) said = "it ended while it started; see " + place.log;
  fprintf(stderr, "%s: %s\n", kTool, said.c_str());
  exit(1);
}

// Each link and each client takes some.
void take_descriptors() {
  rlimit r;
  if (getrlimit(RLIMIT_NOFILE, &r) != 0) return;
  r.rlim_cur = r.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &r);
}

// What the one that started us was limited to is not meant for us.
void take_all_there_is() {
  for (const auto what : {RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_AS, RLIMIT_DATA}) {
    rlimit r;
    if (getrlimit(what, &r) != 0) continue;
    r.rlim_cur = r.rlim_max;
    (void)setrlimit(what, &r);
  }
  cpu_set_t all;
  memset(&all, 0xff, sizeof(all));
  (void)sched_setaffinity(0, sizeof(all), &all);
}

// Goes on in a session of its own, as nobody's child, with the log as its output. Returns where the
// first process waits for words: kReady, or why not.
os::Fd go_to_background(const node::PrivatePlace& place) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) tools::own_failure(kTool, strerror(errno));
  os::Fd from(ends[0]), to(ends[1]);
  const pid_t child = fork();
  if (child < 0) tools::own_failure(kTool, std::string("fork: ") + strerror(errno));
  if (child > 0) {
    to.reset();
    pass_on(from.get(), child, place);
  }
  setsid();
  if (fork() != 0) _exit(0);
  from.reset();
  constexpr off_t kMostLogBytes = 1 << 20;
  struct stat st;
  if (stat(place.log.c_str(), &st) == 0 && st.st_size > kMostLogBytes) {
    (void)rename(place.log.c_str(), (place.log + ".old").c_str());
  }
  const os::Fd log(
      open(place.log.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  const os::Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  dup2(null.get(), 0);
  dup2(log ? log.get() : null.get(), 1);
  dup2(log ? log.get() : null.get(), 2);
  umask(077);
  take_all_there_is();
  log_with_time = true;
  return to;
}

// lock: given back when it serves. report: is told then, or why it does not.
int serve(node::NodeConfig config, os::Fd lock, os::Fd report) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int s : {SIGTERM, SIGINT, SIGHUP}) {
    signal(s, SIG_DFL);  // what is ignored would not come
    sigaddset(&signals, s);
  }
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  const os::Fd stop(signalfd(-1, &signals, SFD_CLOEXEC));
  take_descriptors();
  const bool is_private = !config.start_lock.empty();
  std::string text;
  auto daemon = node::Daemon::create(std::move(config), log_line, &text);
  if (!daemon) {
    if (text.empty()) text = daemon.error().what;
    log_line(text);
    if (report) (void)!write(report.get(), text.data(), text.size());
    return 1;
  }
  log_line(is_private ? "ready, as process " + std::to_string(getpid()) : "ready");
  if (report) (void)!write(report.get(), kReady, strlen(kReady));
  report.reset();
  lock.reset();
  (*daemon)->run(stop.get());
  const bool ended = (*daemon)->end();
  log_line("ends");
  if (!ended) _exit(0);
  return 0;
}

int main_private(Options* o) {
  (void)!chdir("/");
  node::PrivatePlace place;
  node::NodeConfig config = configure_private(o, &place);
  if (o->check) return check_config(config);
  os::Fd lock = take_start_lock(place);
  std::string text;
  if (node::Client::connect(place.link, &text)) return 0;  // there is one
  os::Fd report = go_to_background(place);
  return serve(std::move(config), std::move(lock), std::move(report));
}

}  // namespace

int main(int argc, char** argv) {
  Options o = parse(argc, argv);
  if (o.set.contains("make-key")) return make_key(o.set.at("make-key"));
  if (o.is_private) return main_private(&o);
  if (!o.config.empty()) read_config(o.config.c_str(), &o);
  node::NodeConfig config = configure(o);
  if (o.check) return check_config(config);
  return serve(std::move(config), os::Fd(), os::Fd());
}
