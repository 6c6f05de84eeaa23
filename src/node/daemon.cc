// SPDX-License-Identifier: MIT
// daemon.cc - see daemon.h. Invariant: as there. Context: N.
#include "node/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "node/address.h"
#include "node/image_maker.h"
#include "node/unix_address.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using rawsys::now_ns;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kEndNs = 5 * kSecond;
constexpr uint64_t kLockWaitNs = 10 * kSecond;
constexpr unsigned kLockPauseUs = 5000;
constexpr unsigned kStoreThreads = 4;
constexpr uint64_t kSayAgainNs = 3600 * kSecond;  // of a refusal that does not end
constexpr size_t kMostRefusals = 1024;            // that are remembered
constexpr size_t kMostRequestBytes = 1 << 20, kMostClients = 1024;

Json failure(const std::string& text) { return {{"ok", false}, {"error", text}}; }

// UCX knows only interfaces that are running when it is set up.
std::string network_trouble(const std::string& own_host) {
  const auto address = look_up(own_host, 0);
  const std::string down = address ? interface_that_is_down(*address) : "";
  if (down.empty()) return "";
  return "the network interface " + down + " of this node (" + own_host +
         ") is not running; check its cable";
}

bool may_see(uint32_t uid, const Replicator& r) { return uid == 0 || uid == r.session().uid; }

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::create(NodeConfig config,
                                               std::function<void(const std::string&)> log,
                                               std::string* ret_text) {
  auto d = std::unique_ptr<Daemon>(new Daemon(std::move(config)));
  d->log_ = std::move(log);
  CR_TRY(d->store_, PartStore::open(d->config_.store_dir, d->config_.durable, ret_text));
  d->lock_ = os::Fd(open((d->config_.store_dir + "/lock").c_str(),
                         O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  // A private one may still be on its way out.
  const uint64_t end_ns = now_ns() + (d->config_.start_lock.empty() ? 0 : kLockWaitNs);
  while (d->lock_ && flock(d->lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    const int e = errno;
    if (e == EWOULDBLOCK && now_ns() < end_ns) {
      usleep(kLockPauseUs);
      continue;
    }
    d->lock_.reset();
    errno = e;
  }
  if (!d->lock_) {
    const int e = errno;
    *ret_text =
        d->config_.store_dir + ": " +
        (e == EWOULDBLOCK ? "another crstored uses this store; stop it, or name another one "
                            "with --store"
                          : strerror(e));
    return Error{Errc::kBusy, e, "locking the store"};
  }
  d->states_ = std::make_unique<NodeStates>(d->config_.store_dir, d->config_.durable, d->log_);
  d->posted_ = os::Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!d->posted_) return Error{Errc::kSystem, errno, "eventfd"};
  d->threads_ = std::make_unique<StoreThreads>(
      kStoreThreads, [d = d.get()](StoreThreads::Task task) { d->later(std::move(task)); });
  CR_TRYV(d->start_links(ret_text));
  CR_TRYV(d->listen(ret_text));
  d->start_flush();
  return d;
}

Daemon::~Daemon() {
  flush_.reset();
  for (;;) {
    std::unique_lock held(mutex_);
    ending_ = true;
    const auto one = works_.begin();
    if (one == works_.end()) break;
    std::thread thread = std::move(one->second.thread);
    works_.erase(one);
    held.unlock();
    thread.join();
  }
  sessions_.clear();
  holder_.reset();
  threads_.reset();
  if (listen_ && is_socket_ours()) unlink(config_.socket_path.c_str());
}

Result<void> Daemon::listen(std::string* ret_text) {
  const std::string& path = config_.socket_path;
  CR_TRY(const UnixAddress address, unix_address(path, ret_text));
  os::Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(probe.get(), address.get(), sizeof(address.address)) == 0) {
    *ret_text = path + ": another crstored listens there; stop it, or name another with --socket";
    return Error{Errc::kBusy, EADDRINUSE, "the socket is in use"};
  }
  unlink(path.c_str());  // of one that was killed
  listen_ = os::Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const mode_t mask = umask(config_.for_all_users ? 0111 : 0177);
  const int bound = bind(listen_.get(), address.get(), sizeof(address.address));
  const int e = errno;
  umask(mask);
  if (bound != 0 || ::listen(listen_.get(), 64) != 0) {
    *ret_text = path + ": cannot listen there: " + strerror(bound != 0 ? e : errno) +
                "; name another socket with --socket";
    listen_.reset();
    return Error{Errc::kSystem, e, "listening"};
  }
  struct stat st {};
  if (stat(path.c_str(), &st) == 0) {
    socket_device_ = st.st_dev;
    socket_inode_ = st.st_ino;
  }
  if (config_.socket_link.empty() || config_.socket_link == path) return {};
  const std::string fresh = config_.socket_link + ".new";
  unlink(fresh.c_str());
  if (symlink(path.c_str(), fresh.c_str()) != 0 ||
      rename(fresh.c_str(), config_.socket_link.c_str()) != 0) {
    *ret_text = config_.socket_link + ": cannot be made: " + strerror(errno);
    return Error{Errc::kSystem, errno, "making the link to the socket"};
  }
  return {};
}

Cluster::Options Daemon::cluster_options() const {
  Cluster::Options o;
  o.link.cluster = config_.cluster;
  o.link.node = config_.members.self().name;
  o.link.encrypt = config_.encrypt;
  o.link.tag_blocks = config_.tag_blocks;
  o.link.heartbeat_ns = config_.heartbeat_ns;
  o.link.silence_ns = config_.silence_ns;
  o.key_file = config_.key_file;
  o.members = config_.members;
  states_->apply(&o.members.list);
  o.store = store_.get();
  return o;
}

Result<void> Daemon::start_links(std::string* ret_text) {
  if (config_.key_file.empty()) return {};
  const Member& self = config_.members.self();
  const std::string host = config_.listen_host.empty() ? self.host : config_.listen_host;
  const std::string down = network_trouble(host);
  if (!down.empty() && no_network_.empty()) log_(down + ", other nodes are not reached before");
  no_network_ = down;
  if (!down.empty()) return {};
  auto key = SessionKey::load(config_.key_file, ret_text);
  if (!key) return key.error();
  auto hub = LinkHub::create(cluster_options().link, std::move(*key), this, now_ns());
  if (!hub) {
    *ret_text = std::string("the network cannot be used: ") + hub.error().what;
    return hub.error();
  }
  hub_ = std::move(*hub);
  auto port = hub_->listen(host, self.port);
  if (!port) {
    *ret_text =
        host + ":" + std::to_string(self.port) + ": cannot listen there: " + port.error().what +
        (port.error().sys_errno != 0 ? std::string(": ") + strerror(port.error().sys_errno) : "") +
        "; see the member list, or name an address with --listen";
    return port.error();
  }
  holder_ = std::make_unique<Holder>(*hub_, *store_, *threads_, config_.dram_bytes, log_);
  for (const Member& m : config_.members.list) {
    if (m.name != self.name) peers_[m.name];
  }
  return {};
}

// The interface was not running when this process started. Returns when to call it again.
uint64_t Daemon::start_links_late(uint64_t now) {
  if (no_network_.empty()) return ~uint64_t{0};
  if (now < look_network_ns_) return look_network_ns_;
  look_network_ns_ = now + kSecond / 4;
  std::string text;
  const auto started = start_links(&text);
  if (!started && text != no_network_) log_(text);
  if (!started) {
    holder_.reset();
    hub_.reset();
    no_network_ = text;
  } else if (no_network_.empty()) {
    log_("the network interface is running now");
  }
  return look_network_ns_;
}

void Daemon::on_up(LinkId id, const std::string& peer) {
  const auto p = peers_.find(peer);
  if (p == peers_.end() || p->second.link != id) return;  // it has connected to us
  log_("connected to " + peer);
  p->second.up = true;
  p->second.failures = 0;
  p->second.gone_ns = 0;
  p->second.trouble.clear();
  std::erase_if(refusals_,
                [&](const auto& r) { return r.first.starts_with("node " + peer + " "); });
  share_states(id);
  for (auto& [name, session] : sessions_) session->on_up(peer);
  tell_link(peer);
}

void Daemon::on_message(LinkId id, uint16_t type, std::span<const uint8_t> payload) {
  for (auto& [name, session] : sessions_) {
    if (session->on_message(id, type, payload)) return;
  }
  if (on_state_message(id, type, payload)) return;
  (void)holder_->on_message(id, type, payload);
}

void Daemon::on_down(LinkId id, const Error&, const std::string& text) {
  holder_->on_down(id);
  for (auto& [name, session] : sessions_) session->on_down(id, text);
  for (auto& [name, peer] : peers_) {
    if (peer.link != id) continue;
    if (peer.up || (peer.trouble.empty() && !refusals_.contains(text))) log_(text);
    peer.link = LinkId::kNone;
    peer.up = false;
    if (peer.gone_ns == 0) peer.gone_ns = now_ns();
    const bool is_news = peer.trouble != text;
    peer.trouble = text;
    peer.retry_ns = now_ns() + std::min(10 * kSecond, kSecond / 4 << std::min(peer.failures, 6u));
    peer.failures++;
    if (is_news) tell_link(name);
  }
}

// Who is refused tries again and again, each time from another port.
void Daemon::on_refused(format::WireReason, const std::string& address, const std::string& text) {
  const auto& members = config_.members.list;
  const bool incoming =
      std::ranges::none_of(members, [&](const Member& m) { return address_of(m) == address; });
  std::string what = text;
  if (const size_t at = what.find(address); incoming && at != std::string::npos) {
    what.erase(at + address.rfind(':'), address.size() - address.rfind(':'));
  }
  if (refusals_.size() >= kMostRefusals) refusals_.clear();
  const auto [said, fresh] = refusals_.try_emplace(what, now_ns());
  if (!fresh && now_ns() - said->second < kSayAgainNs) return;
  said->second = now_ns();
  log_(text);
}

LinkId Daemon::link_to(const std::string& node) {
  const auto p = peers_.find(node);
  return p != peers_.end() && p->second.up ? p->second.link : LinkId::kNone;
}

// A first attempt to connect is under way, or about to be made.
bool Daemon::may_come(const std::string& node) const {
  const auto p = peers_.find(node);
  return hub_ && p != peers_.end() && !p->second.up && p->second.trouble.empty();
}

// Links are made to the nodes that sessions of this node need.
uint64_t Daemon::keep_links(uint64_t now) {
  uint64_t next = ~uint64_t{0};
  for (auto& [name, peer] : peers_) {
    if (peer.link != LinkId::kNone) continue;
    const bool needed =
        drops_.contains(name) || std::ranges::any_of(sessions_, [&, &wanted = name](const auto& s) {
          return std::ranges::count(s.second->holders(), wanted) != 0;
        });
    if (!needed) continue;
    if (now < peer.retry_ns) {
      next = std::min(next, peer.retry_ns);
      continue;
    }
    const Member& m = config_.members.list[find_member(config_.members.list, name)];
    auto link = hub_->connect(m.name, m.host, m.port);
    if (link) {
      peer.link = *link;
    } else {
      peer.trouble = address_of(m) + ": " + link.error().what;
      if (peer.gone_ns == 0) peer.gone_ns = now;
      peer.retry_ns = now + 5 * kSecond;
      next = std::min(next, peer.retry_ns);
    }
  }
  return next;
}

// As placement is to see them.
std::vector<Member> Daemon::members_now() const {
  std::vector<Member> members = config_.members.list;
  states_->apply(&members);
  const uint64_t now = now_ns();
  for (Member& m : members) {
    const auto p = peers_.find(m.name);
    if (p == peers_.end() || config_.repair_after_ns == 0 || p->second.gone_ns == 0) continue;
    if (now - p->second.gone_ns >= config_.repair_after_ns) m.state = NodeState::kDown;
  }
  return members;
}

void Daemon::begin_repair(ProtectedSession s, const std::vector<std::string>& old,
                          const std::vector<Member>& members, uint64_t client) {
  const std::string id = to_hex(s.id);
  std::string text;
  const auto refuse = [&](const std::string& why) {
    log_("session " + s.name + " cannot be repaired: " + why);
    answer(client, failure(s.name + ": " + why));
    remove_image(s.dir);
    mending_.erase(s.id);
  };
  if (sessions_.contains(id)) return refuse("it is being kept by this node already");
  const PlacementRequest place{members, s.id, config_.members.self().name, s.protection.parts(),
                               config_.strict_racks};
  auto placed = replace(place, old, &text);
  if (!placed) return refuse(text);
  Replicator::Node node{hub_.get(),
                        store_.get(),
                        threads_.get(),
                        config_.members.self().name,
                        [this](const std::string& n) { return link_to(n); },
                        [this](const std::string& n) { return may_come(n); },
                        log_,
                        [](const Replicator&) {},
                        now_ns};
  auto r = Replicator::make(std::move(node), s, placed->holders);
  if (!r) return refuse(r.error().what);
  log_("session " + s.name + " (" + id.substr(0, 8) + ") is repaired");
  repairs_[id] = {s.dir, client};
  sessions_[id] = std::move(*r);
  if (client != 0) {
    sessions_[id]->rewrite(now_ns());  // what was damaged, too, is put in order
  } else {
    sessions_[id]->wake(now_ns());
  }
  sessions_[id]->end();
}

void Daemon::end_repair(const Replicator& r) {
  const auto at = repairs_.find(to_hex(r.session().id));
  if (at == repairs_.end()) return;
  if (!at->second.dir.empty()) remove_image(at->second.dir);
  const Safety& s = r.safety();
  const bool whole = s.parts == r.holders().size();
  const std::string text = std::to_string(s.parts) + " of " + std::to_string(r.holders().size()) +
                           " parts of checkpoint " + std::to_string(s.triple.sequence) +
                           " are in place";
  log_("session " + r.session().name + ": " + text);
  Json j = whole ? Json{{"ok", true}} : failure(r.session().name + ": " + text + "; try again");
  j["holders"] = r.holders();
  j["sequence"] = s.triple.sequence;
  answer(at->second.client, j);
  repairs_.erase(at);
  mending_.erase(r.session().id);
  look_ns_ = std::min(look_ns_, now_ns() + kSecond);  // what was elsewhere may go now
}

// The parts of a session that runs here are written anew from its own images. false: it does not.
bool Daemon::rewrite(const Client& c, const std::string& name) {
  for (auto& [id, r] : sessions_) {
    const bool meant = r->session().name == name || (name.size() >= 4 && id.starts_with(name));
    if (!meant || !may_see(c.uid, *r) || r->has_ended()) continue;
    if (repairs_.contains(id)) {
      answer(c.number, failure(name + ": it is being repaired already; wait for the end of that"));
      return true;
    }
    repairs_[id] = {"", c.number};
    r->rewrite(now_ns());
    return true;
  }
  return false;
}

void Daemon::accept_client() {
  os::Fd fd(accept4(listen_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  ucred peer{};
  socklen_t bytes = sizeof(peer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return;
  const bool mine = config_.for_all_users || peer.uid == geteuid() || peer.uid == 0;
  if (!mine || clients_.size() >= kMostClients) return;
  Client c;
  c.fd = std::move(fd);
  c.number = next_client_++;
  c.uid = peer.uid;
  c.gid = peer.gid;
  {
    const std::lock_guard held(mutex_);
    present_.insert(c.number);
  }
  clients_.push_back(std::move(c));
}

bool Daemon::flush_client(Client& c) {
  while (!c.out.empty()) {
    const ssize_t n = send(c.fd.get(), c.out.data(), c.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return c.out.size() < 16 * kMostRequestBytes;
    if (n < 0) return false;
    c.out.erase(0, static_cast<size_t>(n));
  }
  return true;
}

bool Daemon::read_client(Client& c) {
  char buffer[65536];
  const ssize_t n = recv(c.fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
  if (n < 0) return true;
  c.in.append(buffer, static_cast<size_t>(n));
  for (size_t line; (line = c.in.find('\n')) != std::string::npos;) {
    const Json request = parse_json(c.in.substr(0, line));
    c.in.erase(0, line + 1);
    on_request(c, request);
  }
  return c.in.size() < kMostRequestBytes;
}

void Daemon::answer(uint64_t client, const Json& message) {
  for (Client& c : clients_) {
    if (c.number == client) c.out += dump_json(message) + "\n";
  }
}

void Daemon::on_request(Client& c, const Json& request) {
  const std::string op = text_of(request, "op");
  if (op == "protect") return on_protect(c, request);
  if (op == "committed") return on_committed(c);
  if (op == "level") return on_level(c);
  if (op == "flush") return on_flush(c, request);
  if (op == "can_protect") return on_can_protect(c, request);
  if (op == "status") return answer(c.number, status_json(c.uid));
  if (op == "place") return answer(c.number, place_json(text_of(request, "name"), c.uid));
  if (op == "repair" && rewrite(c, text_of(request, "name"))) return;
  if (op == "drain" && c.uid != 0 && c.uid != geteuid()) {
    return answer(c.number, failure("taking a node out of service is for root and the user of "
                                    "crstored (uid " +
                                    std::to_string(geteuid()) + ") alone"));
  }
  if (is_cluster_request(op)) return begin_work(c.number, c.uid, c.gid, request);
  answer(c.number, failure("crstored does not know the request \"" + op +
                           "\"; is it of another version than this program?"));
}

// Why sessions cannot be protected so here; "": they can.
std::string Daemon::cannot_protect(const store::Protection& protection) const {
  const size_t count = protection.parts(), nodes = config_.members.list.size();
  if (count == 1) return "";
  if (!config_.start_lock.empty() && config_.key_file.empty()) {
    return "--protect=" + store::to_string(protection) + " takes " + std::to_string(count) +
           " nodes, and the private crstored of this user knows none but this one: give it "
           "`members = FILE` and `key = FILE` in " +
           (config_.config_file.empty() ? std::string("its configuration") : config_.config_file) +
           ", or start a crstored for all sessions of each node; see crstored(8)";
  }
  if (count <= nodes && !no_network_.empty()) return no_network_;
  if (count <= nodes && !hub_) {
    return "this crstored has no key file, so it cannot reach other nodes; start it with --key";
  }
  return "";
}

void Daemon::on_can_protect(Client& c, const Json& request) {
  std::string text;
  const auto protection = store::parse_protection(text_of(request, "protect"), &text);
  if (protection) text = cannot_protect(*protection);
  answer(c.number, text.empty() ? Json{{"ok", true}, {"can_protect", true}} : failure(text));
}

// A session says where its images are, and how it wants to be protected.
void Daemon::on_protect(Client& c, const Json& request) {
  ProtectedSession s;
  std::string text;
  if (!from_hex(text_of(request, "session"), &s.id)) {
    return answer(c.number, failure("the session's number is none"));
  }
  s.dir = text_of(request, "dir");
  s.name = text_of(request, "name");
  auto protection = store::parse_protection(text_of(request, "protect"), &text);
  if (!protection) return answer(c.number, failure(text));
  s.protection = *protection;
  struct stat st;
  if (stat(s.dir.c_str(), &st) != 0 || (c.uid != 0 && st.st_uid != c.uid)) {
    return answer(c.number, failure(s.dir + ": crstored may not read this image directory; it must "
                                            "belong to the session's user"));
  }
  s.uid = st.st_uid;
  const unsigned count = s.protection.parts();
  const std::vector<Member> members = members_now();
  const PlacementRequest place{members, s.id, config_.members.self().name, count,
                               config_.strict_racks};
  if (const std::string why = cannot_protect(s.protection); !why.empty()) {
    return answer(c.number, failure(why));
  }
  auto placed = holders(place, &text);
  if (!placed) return answer(c.number, failure(text));
  const std::string id = to_hex(s.id);
  Replicator::Node node{hub_.get(),
                        store_.get(),
                        threads_.get(),
                        config_.members.self().name,
                        [this](const std::string& n) { return link_to(n); },
                        [this](const std::string& n) { return may_come(n); },
                        log_,
                        [this](const Replicator& r) { tell_safety(r); },
                        now_ns};
  auto r = Replicator::make(std::move(node), s, placed->holders);
  if (!r) return answer(c.number, failure(r.error().what));
  if (const auto old = sessions_.find(id); old != sessions_.end()) end_repair(*old->second);
  (void)store_->note_source(s.id, s.dir);  // crrestore finds it by name only then
  sessions_[id] = std::move(*r);
  beside_.erase(id);
  c.session = id;
  log_("session " + s.name + " (" + id.substr(0, 8) + ") is protected by " +
       store::to_string(s.protection));
  Json j{{"ok", true},
         {"holders", placed->holders},
         {"racks_shared", placed->racks_shared},
         {"flush", config_.flush.dir}};
  if (const std::string own = config_.members.self().name; states_->is_draining(own)) {
    j["notice"] = "node " + own +
                  " is being drained: checkpoints are kept on the others as before, "
                  "but the program is to leave; end it with `crckpt --then=kill`, and "
                  "`crrestore " +
                  s.name + "` on another node goes on";
  }
  answer(c.number, j);
  sessions_[id]->wake(now_ns());
  std::optional<FlushChoice> own;
  if (request.contains("flush_every") || request.contains("flush_interval_ns")) {
    own = {number_of(request, "flush_every"), number_of(request, "flush_interval_ns")};
  }
  wake_flush(id, own);
}

void Daemon::on_committed(Client& c) {
  const auto s = sessions_.find(c.session);
  if (s == sessions_.end()) return;
  s->second->wake(now_ns());
  wake_flush(c.session);
}

// A session that wants to know where it is: also a sign of life.
void Daemon::on_level(Client& c) {
  const auto s = sessions_.find(c.session);
  if (s == sessions_.end()) return answer(c.number, failure("no session is protected here"));
  tell_level(*s->second);
  if (!flush_) return;
  for (const auto& [session, status] : flush_->all()) {
    if (to_hex(session.id) == c.session) tell_flushed(c.session, status);
  }
}

void Daemon::tell_safety(const Replicator& r) {
  note_full(r);
  tell_level(r);
  if (!r.is_rewriting() && !r.has_ended()) end_repair(r);
}

void Daemon::tell_link(const std::string& node) {
  for (const auto& [id, session] : sessions_) {
    if (std::ranges::count(session->holders(), node) != 0) tell_level(*session);
  }
}

// "": it can be reached, or nobody has tried yet.
std::string Daemon::link_trouble(const std::string& node) const {
  const auto p = peers_.find(node);
  return p == peers_.end() || p->second.up ? "" : p->second.trouble;
}

// A part counts here as long as its holder can be reached: what lies on a node that is gone does
// not survive the loss of this one.
void Daemon::tell_level(const Replicator& r) {
  const Safety& s = r.safety();
  const std::string& own = config_.members.self().name;
  std::string trouble = r.trouble();
  unsigned parts = 0, elsewhere = 0;
  for (unsigned h = 0; h < r.holders().size(); h++) {
    const std::string& node = r.holders()[h];
    const std::string away = link_trouble(node);
    const std::string& why = r.trouble(h).empty() ? away : r.trouble(h);
    if (!why.empty()) trouble = node + ": " + why;
    if (is_none(s.triple) || !away.empty() || !(r.whole(h) == s.triple)) continue;
    parts++;
    if (node != own) elsewhere++;
  }
  const bool safe = s.safe_ns != 0 && elsewhere >= r.session().protection.data;
  const Json j{{"event", "level"},
               {"epoch", s.triple.epoch},
               {"sequence", s.triple.sequence},
               {"attempt", s.triple.attempt},
               {"level", safe        ? 2
                         : parts > 0 ? 1
                                     : 0},
               {"parts", parts},
               {"of", r.holders().size()},
               {"holders", r.holders()},
               {"sending", r.is_sending()},
               {"window_ns", safe ? s.safe_ns - s.committed_ns : 0},
               {"trouble", trouble}};
  const std::string id = to_hex(r.session().id);
  for (Client& c : clients_) {
    if (c.session == id) c.out += dump_json(j) + "\n";
  }
}

// The agent is gone, and with it the program perhaps: what it committed last is taken on all the
// same.
void Daemon::client_gone(Client& c) {
  {
    const std::lock_guard held(mutex_);
    present_.erase(c.number);
  }
  const auto s = sessions_.find(c.session);
  if (s == sessions_.end()) return;
  s->second->wake(now_ns());
  s->second->end();
  wake_flush(c.session);
  if (flush_) flush_->end(s->second->session().id);
}

Json Daemon::status_json(uint32_t uid) {
  Json j{{"ok", true},
         {"node", config_.members.self().name},
         {"cluster", config_.cluster},
         {"store", config_.store_dir},
         {"durable", config_.durable ? "power" : "crash"},
         {"dram_bytes", config_.dram_bytes},
         {"lent_bytes", holder_ ? holder_->lent_bytes() : 0},
         {"transfers", holder_ ? holder_->transfers() : 0},
         {"private", !config_.start_lock.empty()},
         {"pid", getpid()}};
  Json nodes = Json::array();
  for (const Member& m : config_.members.list) {
    Json n{{"name", m.name}, {"address", address_of(m)}, {"rack", m.rack}};
    n["draining"] = states_->is_draining(m.name);
    const auto p = peers_.find(m.name);
    if (m.name == config_.members.self().name) {
      n["state"] = "this node";
    } else if (p == peers_.end()) {
      n["state"] = no_network_.empty() ? "this node has no key" : no_network_;
    } else if (p->second.up) {
      const auto status = hub_->status(p->second.link);
      n["state"] = "connected";
      if (status) n["rtt_ns"] = status->rtt_ns;
    } else {
      n["state"] = p->second.trouble.empty() ? "not needed yet" : p->second.trouble;
    }
    nodes.push_back(n);
  }
  j["nodes"] = nodes;
  Json sessions = Json::array();
  for (const auto& [id, r] : sessions_) {
    if (!may_see(uid, *r)) continue;
    const Safety& s = r->safety();
    Json parts = Json::array();
    for (unsigned h = 0; h < r->holders().size(); h++) {
      parts.push_back({{"node", r->holders()[h]},
                       {"sequence", r->whole(h).sequence},
                       {"trouble", r->trouble(h)}});
    }
    sessions.push_back({{"name", r->session().name},
                        {"session", id},
                        {"dir", r->session().dir},
                        {"protect", store::to_string(r->session().protection)},
                        {"epoch", s.triple.epoch},
                        {"sequence", s.triple.sequence},
                        {"safe", s.safe_ns != 0},
                        {"window_ns", s.safe_ns != 0 ? s.safe_ns - s.committed_ns : 0},
                        {"sent_bytes", r->sent_bytes()},
                        {"parts", parts}});
  }
  j["sessions"] = sessions;
  if (flush_) j["flush"] = flush_json(uid);
  return j;
}

Json Daemon::place_json(const std::string& name, uint32_t uid) {
  for (const auto& [id, r] : sessions_) {
    if (!may_see(uid, *r)) continue;
    if (id != name && r->session().name != name && !id.starts_with(name)) continue;
    const std::vector<Member> members = members_now();
    const PlacementRequest place{members, r->session().id, config_.members.self().name,
                                 r->session().protection.parts(), config_.strict_racks};
    std::string why;
    const auto chosen = node::holders(place, &why);
    return {{"ok", true},
            {"holders", r->holders()},
            {"index", index_node(members, r->session().id)},
            {"text",
             explain(place, chosen && chosen->holders == r->holders() ? std::vector<std::string>()
                                                                      : r->holders())}};
  }
  return failure("no session " + name + " is protected on this node; `crstore ls` lists all");
}

// To be called from any thread.
void Daemon::later(std::function<void()> task) {
  const std::lock_guard held(mutex_);
  tasks_.push_back(std::move(task));
  const uint64_t one = 1;
  (void)!write(posted_.get(), &one, sizeof(one));
}

void Daemon::post(uint64_t client, const Json& message) {
  later([this, client, message] { answer(client, message); });
}

RequestContext Daemon::context_of(uint64_t client, uint32_t uid, uint32_t gid) {
  RequestContext context;
  context.cluster = cluster_options();
  context.states = states_.get();
  context.uid = uid;
  context.gid = gid;
  context.durable = config_.durable;
  context.flush = flush_look_;
  context.tell = [this, client](const Json& j) { post(client, j); };
  context.wanted = [this, client] { return is_wanted(client); };
  context.sessions = [this, client](const std::string& about) {
    return ask_own_thread(client, about);
  };
  context.look_soon = [this] { later([this] { look_ns_ = std::min(look_ns_, now_ns()); }); };
  context.repair_dir = config_.store_dir + "/repair";
  context.repair = [this, client](ProtectedSession s, std::vector<std::string> old,
                                  std::vector<Member> members) {
    later([this, s, old, members, client] { begin_repair(s, old, members, client); });
  };
  return context;
}

void Daemon::start_thread(std::function<void()> work) {
  static uint64_t next = 1;
  const std::lock_guard held(mutex_);
  const uint64_t number = next++;
  works_[number].thread = std::thread([this, work = std::move(work), number] {
    work();
    {
      const std::lock_guard again(mutex_);
      if (const auto w = works_.find(number); w != works_.end()) w->second.done = true;
    }
    later([] {});
  });
}

void Daemon::begin_work(uint64_t client, uint32_t uid, uint32_t gid, const Json& request) {
  start_thread([this, context = context_of(client, uid, gid), request, client] {
    const Json result = do_request(context, request);
    if (!result.is_null()) post(client, result);  // else it comes later
  });
}

// Does what threads have asked for, and joins those that have ended.
void Daemon::end_work() {
  uint64_t count = 0;
  (void)!read(posted_.get(), &count, sizeof(count));
  std::vector<std::function<void()>> tasks;
  std::vector<std::thread> ended;
  {
    const std::lock_guard held(mutex_);
    tasks.swap(tasks_);
    for (auto w = works_.begin(); w != works_.end();) {
      if (w->second.done) {
        ended.push_back(std::move(w->second.thread));
        w = works_.erase(w);
      } else {
        ++w;
      }
    }
  }
  for (const auto& task : tasks) task();
  for (std::thread& t : ended) t.join();
}

void Daemon::run(int stop_fd) {
  uint64_t end_ns = ~uint64_t{0};
  std::vector<pollfd> fds;
  for (;;) {
    const uint64_t now = now_ns();
    const uint64_t look_ns = start_links_late(now);
    bool more = false;
    if (hub_) {
      for (int i = 0; i < 64 && hub_->progress(now_ns()) != 0; i++) more = i == 63;
      hub_->tick(now_ns());
    }
    uint64_t next = hub_ ? std::min(keep_links(now), hub_->next_tick_ns()) : look_ns;
    if (holder_) next = std::min(next, holder_->tick(now));
    replace_holders();
    look_around(now);
    drop_stale();
    next = std::min({next, now + kSecond, watch_flush(now)});
    bool idle = true;
    for (auto s = sessions_.begin(); s != sessions_.end();) {
      more |= s->second->step(now_ns());
      next = std::min(next, s->second->next_ns());
      if (s->second->has_ended() && s->second->is_idle()) {
        end_repair(*s->second);
        beside_.erase(s->first);
        s = sessions_.erase(s);
        continue;
      }
      idle &= s->second->is_idle();
      ++s;
    }
    if (end_ns != ~uint64_t{0} && (idle || now >= end_ns)) return;
    for (size_t i = 0; i < clients_.size();) {
      if (flush_client(clients_[i])) {
        i++;
        continue;
      }
      client_gone(clients_[i]);
      clients_.erase(clients_.begin() + static_cast<ptrdiff_t>(i));
    }
    if (end_ns == ~uint64_t{0} && leave_if_idle(now, &next)) return;
    if (end_ns == ~uint64_t{0} && has_lost_socket(now)) end_ns = now + kEndNs;
    if (hub_ && !more) {
      const auto armed = hub_->arm();
      more = !armed || !*armed;
    }
    fds.clear();
    fds.push_back({end_ns == ~uint64_t{0} ? stop_fd : -1, POLLIN, 0});
    fds.push_back({listen_.get(), POLLIN, 0});
    fds.push_back({posted_.get(), POLLIN, 0});
    fds.push_back({hub_ ? hub_->event_fd() : -1, POLLIN, 0});
    for (const Client& c : clients_) {
      fds.push_back({c.fd.get(), static_cast<short>(POLLIN | (c.out.empty() ? 0 : POLLOUT)), 0});
    }
    const uint64_t later = std::min({next, end_ns, now + 60 * kSecond});
    const uint64_t wait_ms = more || later <= now ? 0 : (later - now) / 1'000'000 + 1;
    if (poll(fds.data(), fds.size(), static_cast<int>(wait_ms)) <= 0) continue;
    if (fds[0].revents != 0) end_ns = now_ns() + kEndNs;
    if (fds[2].revents != 0) end_work();
    for (size_t i = clients_.size(); i-- > 0;) {
      if (fds[4 + i].revents == 0) continue;
      if ((fds[4 + i].revents & (POLLIN | POLLHUP | POLLERR)) == 0 || read_client(clients_[i])) {
        continue;
      }
      client_gone(clients_[i]);
      clients_.erase(clients_.begin() + static_cast<ptrdiff_t>(i));
    }
    if (fds[1].revents != 0) accept_client();
  }
}

}  // namespace cr::node
