// SPDX-License-Identifier: MIT
// daemon.cc - see daemon.h. Invariant: as there. Context: N.
#include "node/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>

#include "node/address.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using rawsys::now_ns;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kEndNs = 5 * kSecond;
constexpr uint64_t kLockWaitNs = 10 * kSecond;
constexpr unsigned kLockPauseUs = 5000;
constexpr char kAskAgain[] = "ask for it again when crstored runs again";
constexpr uint64_t kNamesNs = 2 * kSecond;  // until a name service that says nothing is trouble
constexpr unsigned kStoreThreads = 4;
constexpr RequestThreads::Bounds kOwnThreads{4, 4, 64, 64};
constexpr uint64_t kSayAgainNs = 3600 * kSecond;  // of a refusal that does not end
constexpr size_t kMostRefusals = 1024;            // that are remembered

// UCX knows only interfaces that are running when it is set up.
std::string network_trouble(const std::string& own_host, const Address& address) {
  const std::string down = interface_that_is_down(address);
  if (down.empty()) return "";
  return "the network interface " + down + " of this node (" + own_host +
         ") is not running; check its cable";
}

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::create(NodeConfig config,
                                               std::function<void(const std::string&)> log,
                                               std::string* ret_text) {
  auto d = std::unique_ptr<Daemon>(new Daemon(std::move(config)));
  d->log_ = std::move(log);
  CR_TRY(d->store_, PartStore::open(d->config_.store_dir, d->config_.durable, ret_text));
  if (!d->store_->trouble().empty()) d->log_(d->store_->trouble());
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
  d->remove_old_repairs();
  d->states_ = std::make_unique<NodeStates>(d->config_.store_dir, d->config_.durable, d->log_);
  d->posted_ = os::Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!d->posted_) return Error{Errc::kSystem, errno, "eventfd"};
  d->threads_ = std::make_unique<StoreThreads>(
      kStoreThreads, [d = d.get()](StoreThreads::Task task) { d->later(std::move(task)); });
  const auto poke = [d = d.get()] { d->later([] {}); };
  d->requests_ = std::make_unique<RequestThreads>(RequestThreads::Bounds{}, poke);
  d->own_threads_ = std::make_unique<RequestThreads>(kOwnThreads, poke);
  if (d->threads_->size() == 0) {
    *ret_text = std::string("no thread can be made: ") + strerror(EAGAIN) +
                "; raise the limit of crstored's processes (ulimit -u, TasksMax)";
    return Error{Errc::kSystem, EAGAIN, "no thread can be made"};
  }
  d->resolver_ = std::make_shared<Resolver>([d = d.get()] { d->later([d] { d->links_ns_ = 0; }); });
  CR_TRYV(d->start_links(ret_text));
  CR_TRYV(d->listen(ret_text));
  d->start_flush();
  return d;
}

Daemon::~Daemon() {
  begin_end();
  flush_.reset();
  resolver_.reset();
  requests_.reset();
  own_threads_.reset();
  threads_.reset();  // while what its jobs use is there: sessions' parts, Holder::cache_
  sessions_.clear();
  holder_.reset();
  remove_socket();
}

// Whoever waits for an answer is told that there will be none.
void Daemon::begin_end() {
  end_ns_ = std::min(end_ns_, now_ns() + kEndNs);
  if (store_) store_->leave();
  if (flush_) flush_->leave();
  const std::lock_guard held(mutex_);
  ending_ = true;
}

bool Daemon::end() {
  begin_end();
  const auto left = [this] {
    const uint64_t now = now_ns();
    return now < end_ns_ ? end_ns_ - now : 0;
  };
  const bool ended = requests_->wait(left()) && own_threads_->wait(left()) && threads_->end(left());
  if (ended) return true;
  log_("a disk or a file system does not answer; what was being done there is left as it is");
  remove_socket();
  return false;
}

void Daemon::remove_socket() {
  if (listen_ && is_socket_ours()) unlink(config_.socket_path.c_str());
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
  o.resolver = resolver_;
  return o;
}

Result<void> Daemon::start_links(std::string* ret_text) {
  if (config_.key_file.empty()) return {};
  const Member& self = config_.members.self();
  const std::string host = config_.listen_host.empty() ? self.host : config_.listen_host;
  if (own_address_.bytes == 0) {  // when it starts, and never again
    std::string why;
    auto found = look_up(host, self.port, &why);
    if (!found) {
      *ret_text = host + ": this node's own name cannot be resolved (" + why +
                  "); see /etc/hosts and the name service, or name an address with --listen";
      return found.error();
    }
    own_address_ = *found;
  }
  const std::string down = network_trouble(host, own_address_);
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
  auto port = hub_->listen(own_address_);
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
  look_at_holders_ = true;
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
  look_at_holders_ = true;
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
    look_at_holders_ = true;
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

// Can another node have to take a part, or a link be needed, since that was seen to last?
bool Daemon::is_time_for_holders(uint64_t now) {
  const uint64_t states = states_->version();
  if (!look_at_holders_ && states == states_seen_ && now < replace_ns_) return false;
  look_at_holders_ = false;
  states_seen_ = states;
  replace_ns_ = ~uint64_t{0};
  for (const auto& [name, peer] : peers_) {
    if (peer.gone_ns == 0 || config_.repair_after_ns == 0) continue;
    const uint64_t due = peer.gone_ns + config_.repair_after_ns;
    if (due > now) replace_ns_ = std::min(replace_ns_, due);
  }
  links_ns_ = 0;
  return true;
}

// Links are made to the nodes that sessions of this node need.
uint64_t Daemon::keep_links(uint64_t now) {
  if (now < links_ns_) return links_ns_;
  links_ns_ = make_links(now);
  return links_ns_;
}

uint64_t Daemon::make_links(uint64_t now) {
  uint64_t next = ~uint64_t{0};
  for (auto& [name, peer] : peers_) {
    if (peer.link != LinkId::kNone) continue;
    const bool needed =
        drops_.contains(name) || std::ranges::any_of(sessions_, [&, &wanted = name](const auto& s) {
          return s.second->needs(wanted);
        });
    if (!needed) continue;
    if (now < peer.retry_ns) {
      next = std::min(next, peer.retry_ns);
      continue;
    }
    next = std::min(next, connect_to(name, peer, now));
  }
  return next;
}

// Returns when to try again.
uint64_t Daemon::connect_to(const std::string& name, Peer& peer, uint64_t now) {
  const Member& m = config_.members.list[find_member(config_.members.list, name)];
  const Resolver::Answer found = resolver_->find(m.host, m.port);
  std::string trouble = found.trouble;
  if (found.address) {
    auto link = hub_->connect(m.name, address_of(m), *found.address);
    if (link) {
      peer.link = *link;
      return ~uint64_t{0};
    }
    trouble = address_of(m) + ": " + link.error().what;
  } else if (found.looking_ns != 0) {
    if (now - found.looking_ns < kNamesNs) return found.looking_ns + kNamesNs;
    if (trouble.empty()) {
      trouble = m.host +
                ": this node's name service does not answer; see it and /etc/hosts, or "
                "give the address in digits in the member list";
    }
  }
  if (peer.gone_ns == 0) peer.gone_ns = now;
  peer.retry_ns = now + 5 * kSecond;
  look_at_holders_ = true;
  if (peer.trouble == trouble) return peer.retry_ns;
  log_("node " + name + ": " + trouble);
  peer.trouble = trouble;
  tell_link(name);
  return peer.retry_ns;
}

// What a session's replicator has of this node.
Replicator::Node Daemon::node_for(std::function<void(const Replicator&)> tell) {
  return {hub_.get(),
          store_.get(),
          threads_.get(),
          config_.members.self().name,
          [this](const std::string& n) { return link_to(n); },
          [this](const std::string& n) { return may_come(n); },
          log_,
          std::move(tell),
          now_ns};
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
  context.cluster.wanted = context.wanted;
  context.sessions = [this, client](const std::string& about) {
    return ask_own_thread(client, about);
  };
  context.look_soon = [this] { later([this] { look_ns_ = std::min(look_ns_, now_ns()); }); };
  context.repair_dir = repair_dir();
  context.repair = [this, client](ProtectedSession s, std::vector<std::string> old,
                                  std::vector<Member> members) {
    later([this, s, old, members, client] { begin_repair(s, old, members, client); });
  };
  return context;
}

bool Daemon::start_thread(std::function<void()> work) {
  std::string text;
  const auto taken = own_threads_->run(0, std::move(work), &text);
  if (!taken) log_(text);
  return taken.has_value();
}

void Daemon::begin_work(uint64_t client, uint32_t uid, uint32_t gid, const Json& request) {
  RequestContext context = context_of(client, uid, gid);
  // What is not wanted any more is given up half done: that is no answer.
  auto given_up = std::make_shared<std::atomic<bool>>(false);
  context.wanted = [this, client, given_up] {
    if (!is_wanted(client)) *given_up = true;
    return !*given_up;
  };
  context.cluster.wanted = context.wanted;
  std::string text;
  const auto work = [this, context = std::move(context), given_up, request, client] {
    Json result;
    if (context.wanted()) result = do_request(context, request);
    if (*given_up) {
      const std::string name = text_of(request, "name");
      result = failure((name.empty() ? "" : name + ": ") +
                       "crstored was told to end, so this was given up; " + kAskAgain);
    }
    if (!result.is_null()) post(client, result);  // else it comes later
  };
  if (!requests_->run(uid, work, &text)) answer(client, failure(text));
}

// Does what threads have asked for.
void Daemon::end_work() {
  uint64_t count = 0;
  (void)!read(posted_.get(), &count, sizeof(count));
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard held(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
}

// Nothing is under way any more that is worth waiting for.
bool Daemon::has_ended(bool idle) {
  if (now_ns() < end_ns_) {
    if (!idle || !requests_->is_idle()) return false;
    const std::lock_guard held(mutex_);
    if (!tasks_.empty()) return false;
    if (std::ranges::any_of(clients_, [](const Client& c) { return !c.out.empty(); })) return false;
  }
  const Json told = failure(std::string("crstored was told to end; ") + kAskAgain);
  for (const auto& [id, repair] : repairs_) answer(repair.client, told);
  for (const FlushWaiter& w : flush_waiters_) {
    Json j = told;
    j["op"] = "flush";
    answer(w.client, j);
  }
  for (Client& c : clients_) (void)flush_client(c);
  return true;
}

void Daemon::run(int stop_fd) {
  uint64_t came_ns = 0;
  std::vector<pollfd> fds;
  for (;;) {
    const uint64_t now = now_ns();
    const uint64_t look_ns = start_links_late(now);
    bool more = false;
    if (hub_) {
      for (int i = 0; i < 64 && hub_->progress(now_ns()) != 0; i++) came_ns = now_ns();
      more = now_ns() - came_ns < kLookOnNs;
      hub_->tick(now_ns());
    }
    if (is_time_for_holders(now)) replace_holders();
    uint64_t next = hub_ ? std::min(keep_links(now), hub_->next_tick_ns()) : look_ns;
    if (holder_) next = std::min(next, holder_->tick(now));
    if (hub_) share_changes();
    look_around(now);
    drop_stale();
    next = std::min({next, now + kSecond, watch_flush(now), tell_repairs(now)});
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
    for (size_t i = 0; i < clients_.size();) {
      if (flush_client(clients_[i])) {
        i++;
        continue;
      }
      client_gone(clients_[i]);
      clients_.erase(clients_.begin() + static_cast<ptrdiff_t>(i));
    }
    const bool ends = end_ns_ != ~uint64_t{0};
    if (ends ? has_ended(idle) : leave_if_idle(now, &next)) return;
    if (!ends && has_lost_socket(now)) begin_end();
    if (hub_ && !more) {
      const auto armed = hub_->arm();
      more = !armed || !*armed;
    }
    fds.clear();
    fds.push_back({ends ? -1 : stop_fd, POLLIN, 0});
    fds.push_back({now >= accept_ns_ ? listen_.get() : -1, POLLIN, 0});
    if (now < accept_ns_) next = std::min(next, accept_ns_);
    fds.push_back({posted_.get(), POLLIN, 0});
    fds.push_back({hub_ ? hub_->event_fd() : -1, POLLIN, 0});
    for (const Client& c : clients_) {
      fds.push_back({c.fd.get(), static_cast<short>(POLLIN | (c.out.empty() ? 0 : POLLOUT)), 0});
    }
    const uint64_t later = std::min({next, end_ns_, now + 60 * kSecond});
    const uint64_t wait_ms = more || later <= now ? 0 : (later - now) / 1'000'000 + 1;
    if (poll(fds.data(), fds.size(), static_cast<int>(wait_ms)) <= 0) continue;
    if (fds[0].revents != 0) begin_end();
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
