// SPDX-License-Identifier: MIT
// cluster.cc - see cluster.h. Invariant: as there. Context: N.
#include "node/cluster.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>

#include "node/holder.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint64_t kAskNs = 200'000'000;  // whether somebody still waits
constexpr uint64_t kWindowBytes = Cluster::kMostRows * kPageSize;

ListParts list_request(const SessionId* only) {
  ListParts l{};
  if (only == nullptr) return l;
  l.one_session = 1;
  memcpy(l.session_id, only->data(), only->size());
  return l;
}

}  // namespace

Cluster::~Cluster() {
  for (auto& [_, peer] : peers_) {
    if (peer.region) hub_->unregister_region(peer.region->id);
  }
  hub_.reset();  // before the windows, which peers may be writing to
}

Result<std::unique_ptr<Cluster>> Cluster::open(Options options, std::string* ret_text) {
  auto c = std::unique_ptr<Cluster>(new Cluster(std::move(options)));
  const Members& members = c->options_.members;
  if (members.list.size() < 2 || c->options_.key_file.empty()) return c;
  auto key = SessionKey::load(c->options_.key_file, ret_text);
  if (!key) return key.error();
  auto hub = LinkHub::create(c->options_.link, std::move(*key), c.get(), rawsys::now_ns());
  if (!hub) {
    *ret_text = hub.error().what;
    return hub.error();
  }
  c->hub_ = std::move(*hub);
  c->connect_to_all();
  c->wait(c->options_.connect_ns, [&] {
    return std::ranges::all_of(c->peers_,
                               [](const auto& p) { return p.second.up || p.second.down; });
  });
  for (auto& [name, peer] : c->peers_) {
    if (!peer.up && !c->unreachable_.contains(name)) {
      c->unreachable_[name] = "no answer in time";
    }
  }
  return c;
}

// All names are looked up at once; one that takes too long costs the others nothing but that time.
void Cluster::connect_to_all() {
  const Members& members = options_.members;
  if (!options_.resolver) options_.resolver = std::make_shared<Resolver>();
  for (const Member& m : members.list) {
    if (m.name != members.self().name) (void)options_.resolver->find(m.host, m.port);
  }
  const uint64_t until_ns = rawsys::now_ns() + options_.connect_ns;
  for (const Member& m : members.list) {
    if (m.name == members.self().name) continue;
    const Resolver::Answer found = options_.resolver->wait(m.host, m.port, until_ns);
    if (!found.address) {
      unreachable_[m.name] = found.trouble.empty()
                                 ? m.host + ": this node's name service has not answered in time"
                                 : found.trouble;
      continue;
    }
    auto link = hub_->connect(m.name, address_of(m), *found.address);
    if (link) {
      peers_[m.name].link = *link;
    } else {
      unreachable_[m.name] = address_of(m) + ": " + link.error().what;
    }
  }
}

Result<void> Cluster::Peer::may_ask() const {
  if (!up) return Error{Errc::kAgentGone, 0, "the node cannot be reached"};
  if (silent) return Error{Errc::kTimeout, ETIMEDOUT, "the node does not answer"};
  return {};
}

Result<void> Cluster::make_window(Peer& peer) {
  CR_TRYV(peer.may_ask());
  if (peer.region) return {};
  CR_TRY(peer.window,
         os::Mapping::map(-1, kWindowBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  CR_TRY(peer.region, hub_->register_region(peer.window.data(), peer.window.size()));
  return {};
}

template <typename Condition>
bool Cluster::wait(uint64_t ns, const Condition& condition) {
  uint64_t came = 0, asked = 0;
  for (const uint64_t end = rawsys::now_ns() + ns;;) {
    const uint64_t now = rawsys::now_ns();
    while (hub_->progress(now) != 0) came = rawsys::now_ns();
    hub_->tick(now);
    if (condition()) return true;
    if (now >= end || (now - asked >= kAskNs && !is_wanted())) return false;
    if (now - asked >= kAskNs) asked = now;
    if (rawsys::now_ns() - came < kLookOnNs) continue;
    const auto armed = hub_->arm();
    if (!armed || !*armed) continue;
    const uint64_t until = std::min(end, hub_->next_tick_ns());
    pollfd p{hub_->event_fd(), POLLIN, 0};
    const uint64_t left = until > now ? (until - now) / 1'000'000 + 1 : 1;
    poll(&p, 1, static_cast<int>(std::min<uint64_t>(left, kAskNs / 1'000'000)));
  }
}

void Cluster::on_up(LinkId id, const std::string& peer) {
  if (peers_[peer].link == id) peers_[peer].up = true;
}

void Cluster::on_message(LinkId, uint16_t, std::span<const uint8_t> payload) {
  uint64_t number = 0;  // every answer begins with it
  if (payload.size() < sizeof(number)) return;
  memcpy(&number, payload.data(), sizeof(number));
  const auto at = questions_.find(number);
  if (at != questions_.end()) at->second.answer.emplace(payload.begin(), payload.end());
}

void Cluster::on_down(LinkId id, const Error&, const std::string& text) {
  for (auto& [name, peer] : peers_) {
    if (peer.link != id) continue;
    peer.up = false;
    peer.down = true;
    unreachable_.emplace(name, text);
  }
}

void Cluster::on_refused(WireReason, const std::string&, const std::string&) {}

Result<uint64_t> Cluster::send_bytes(const std::string& node, uint16_t type,
                                     std::span<uint8_t> message) {
  const Peer& peer = peers_[node];
  CR_TRYV(peer.may_ask());
  ++request_;
  memcpy(message.data(), &request_, sizeof(request_));
  CR_TRYV(hub_->send(peer.link, type, message));
  questions_[request_] = {node, rawsys::now_ns() + options_.answer_ns, std::nullopt};
  return request_;
}

Result<std::vector<uint8_t>> Cluster::answer_to(uint64_t request) {
  const auto at = questions_.find(request);
  Peer& peer = peers_[at->second.node];
  const uint64_t now = rawsys::now_ns(), until = std::max(now, at->second.until_ns);
  const bool ended = wait(until - now, [&] { return at->second.answer || !peer.up; });
  const Question q = std::move(at->second);
  questions_.erase(at);
  if (!ended) {
    peer.silent = true;
    unreachable_.emplace(q.node, "it does not answer");
    return Error{Errc::kTimeout, ETIMEDOUT, "the node does not answer"};
  }
  if (!q.answer) return Error{Errc::kAgentGone, 0, "the node went away"};
  return *q.answer;
}

// Returns the request's number, or 0: the node cannot be reached.
uint64_t Cluster::ask_for_list(const std::string& node, ListParts l) {
  const auto sent = send(node, kListParts, l);
  if (sent) return *sent;
  unreachable_.emplace(node, sent.error().what);
  return 0;
}

// Behind ask_for_list(). ret: of this node alone.
void Cluster::list_of(const std::string& node, ListParts l, uint64_t request,
                      std::vector<FoundPart>* ret) {
  for (;;) {
    auto answer = answer_to(request);
    if (!answer) {
      unreachable_.emplace(node, answer.error().what);
      return;
    }
    const auto list = read_part_list(answer->data(), answer->size());
    if (!list) {
      unreachable_.emplace(node, "its answer breaks the rules");
      return;
    }
    const uint32_t count = list->head.entries;
    for (uint32_t i = 0; i < count; i++) ret->push_back({node, list->entry(i)});
    if (list->head.more == 0 || count == 0) return;
    // Parts come and go between two answers, so it goes on from the last session's beginning. Only
    // of a session that fills an answer alone the entries are counted.
    SessionId last = session_id_of(ret->back().entry.session_id);
    const bool alone = session_id_of(list->entry(0).session_id) == last;
    if (alone) {
      l.skip += count;
    } else {
      while (session_id_of(ret->back().entry.session_id) == last) ret->pop_back();
      memcpy(l.session_id, last.data(), last.size());
      l.skip = 0;
    }
    request = ask_for_list(node, l);
    if (request == 0) return;
  }
}

std::vector<FoundPart> Cluster::list_on(const std::string& node, const SessionId* only) {
  std::vector<FoundPart> all;
  if (node != options_.members.self().name) {
    const ListParts l = list_request(only);
    const uint64_t request = peers_[node].may_ask() ? ask_for_list(node, l) : 0;
    if (request != 0) list_of(node, l, request, &all);
    return all;
  }
  for (const PartEntry& e : options_.store->list(only, nullptr, options_.wanted))
    all.push_back({node, e});
  return all;
}

std::vector<FoundPart> Cluster::list(const SessionId* only) {
  const ListParts l = list_request(only);
  std::map<std::string, uint64_t> asked;
  for (const auto& [name, peer] : peers_) {
    if (const uint64_t request = peer.may_ask() ? ask_for_list(name, l) : 0; request != 0) {
      asked[name] = request;
    }
  }
  std::vector<FoundPart> all = list_on(options_.members.self().name, only);
  for (const auto& [name, request] : asked) {
    std::vector<FoundPart> more;
    list_of(name, l, request, &more);
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

Result<void> Cluster::fetch(const FoundPart& part, uint32_t kind, uint64_t off, uint64_t count,
                            uint8_t* ret, uint64_t bytes, uint64_t* ret_row) {
  Peer& peer = peers_[part.node];
  CR_TRYV(make_window(peer));
  FetchRows f{};
  memcpy(f.session_id, part.entry.session_id, sizeof(f.session_id));
  f.triple = part.entry.triple;
  f.layout = part.entry.layout;
  f.holder = part.entry.holder;
  f.kind = kind;
  f.off = off;
  f.count = count;
  f.region = peer.region->wire;
  CR_TRY(const std::vector<uint8_t> answer, ask(part.node, kFetchRows, f));
  Fetched fetched;
  if (!read_struct(answer, &fetched))
    return Error{Errc::kDamaged, 0, "its answer breaks the rules"};
  if (fetched.code != 0) {
    *ret_row = fetched.damaged_row;
    const auto code = fetched.code <= static_cast<uint32_t>(Errc::kLast)
                          ? static_cast<Errc>(fetched.code)
                          : Errc::kDamaged;
    return Error{code, fetched.sys_errno,
                 code == Errc::kNotFound  ? "the part is not there any more"
                 : code == Errc::kDamaged ? "a row is not what its checksum says"
                                          : "the node could not give its part"};
  }
  if (fetched.seal.bytes != bytes) return Error{Errc::kDamaged, 0, "its answer is too short"};
  CR_TRYV(hub_->open_block(peer.link, fetched.seal, peer.window.data(), bytes));
  memcpy(ret, peer.window.data(), bytes);
  return {};
}

Result<PartCache::Part> Cluster::own_part(const FoundPart& part) {
  return cache_.load(*options_.store, session_id_of(part.entry.session_id), part.entry.holder,
                     part.entry.triple, part.entry.layout);
}

Result<void> Cluster::fetch_rows(const FoundPart& part, uint64_t first, uint64_t count,
                                 uint8_t* ret, uint64_t* ret_row) {
  *ret_row = first;
  if (!is_wanted()) return Error{Errc::kTimeout, 0, "nobody waits for it any more"};
  if (count > kMostRows) return Error{Errc::kInvalid, 0, "too many rows at a time"};
  if (part.node != options_.members.self().name) {
    return fetch(part, kChunkOfRows, first, count, ret, count * kPageSize, ret_row);
  }
  CR_TRY(const auto own, own_part(part));
  return read_current_rows(*own, first, count, ret, ret_row);
}

Result<std::vector<uint8_t>> Cluster::fetch_description(const FoundPart& part) {
  std::vector<uint8_t> all(part.entry.description_bytes);
  if (part.node == options_.members.self().name) {
    CR_TRY(const auto own, own_part(part));
    return std::vector<uint8_t>(own->view.description_bytes.begin(),
                                own->view.description_bytes.end());
  }
  if (all.size() > kMostDescriptionBytes) return Error{Errc::kDamaged, 0, "it is too long"};
  uint64_t row = 0;
  for (uint64_t at = 0; at < all.size(); at += kWindowBytes) {
    const uint64_t bytes = std::min<uint64_t>(kWindowBytes, all.size() - at);
    CR_TRYV(fetch(part, kChunkOfDescription, at, bytes, all.data() + at, bytes, &row));
  }
  return all;
}

Result<unsigned> Cluster::remove(const SessionId& id, uint32_t uid, std::string* ret_text) {
  auto own = options_.store->remove(id, uid);
  if (!own) {
    *ret_text = options_.members.self().name + ": " + own.error().what;
    return own.error();
  }
  unsigned files = *own;
  for (auto& [name, peer] : peers_) {
    if (!peer.up) continue;
    RemoveSession r{};
    memcpy(r.session_id, id.data(), id.size());
    r.uid = uid;
    auto answer = ask(name, kRemoveSession, r);
    Removed removed{};
    if (!answer || !read_struct(*answer, &removed) || removed.code != 0) {
      *ret_text = name + ": the session's parts could not be removed there";
      return answer ? Error{Errc::kPermission, 0, "removing parts"} : answer.error();
    }
    files += removed.files;
  }
  return files;
}

}  // namespace cr::node
