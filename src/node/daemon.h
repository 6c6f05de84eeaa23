// SPDX-License-Identifier: MIT
// daemon.h - one node's crstored: its links, the sessions that are protected here, the parts that
// are kept for neighbours, the requests of tools.
// Invariant: one thread does all that touches links of replication, parts that come in, and
// sessions; requests of people that ask other nodes have a thread and links of their own. Nothing
// is kept in memory alone that the parts do not say.
// Context: N. Doc: docs/store.md.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "node/cluster.h"
#include "node/flush_look.h"
#include "node/flush_thread.h"
#include "node/holder.h"
#include "node/json.h"
#include "node/look.h"
#include "node/members.h"
#include "node/node_states.h"
#include "node/placement.h"
#include "node/replicator.h"
#include "node/request_threads.h"

namespace cr::node {

struct RequestContext;

struct NodeConfig {
  std::string store_dir;
  std::string socket_path;
  std::string key_file;  // "": this node is alone
  std::string cluster = "cluster";
  Members members;
  std::string listen_host;  // "": the member's
  uint64_t dram_bytes = uint64_t{256} << 20;
  bool durable = true;
  bool encrypt = false;
  bool tag_blocks = false;  // LinkOptions
  bool strict_racks = false;
  bool for_all_users = false;  // the socket is open to all; each sees only its own sessions
  uint64_t heartbeat_ns = 1'000'000'000, silence_ns = 5'000'000'000;
  // A node that has been gone for so long gets no part back: others take its place. 0: never.
  uint64_t repair_after_ns = 60'000'000'000;
  FlushOptions flush;  // dir "": nothing is flushed; node and durable are this node's
  uint64_t flush_bytes_per_second = 0;
  // Of a private one (private_place.h); start_lock "": it is none.
  std::string start_lock, socket_link;
  std::string config_file;         // for words: where its options are or would be
  uint64_t exit_when_idle_ns = 0;  // it ends when nobody has needed it for so long; 0: it stays
};

// Sessions of others are none of a user's business, except root's.
inline bool may_see(uint32_t uid, uint32_t owner) { return uid == 0 || uid == owner; }

class Daemon : private LinkHandler {
 public:
  // Takes the store's lock, listens. The text names the object, the cause and the next step.
  static Result<std::unique_ptr<Daemon>> create(NodeConfig config,
                                                std::function<void(const std::string&)> log,
                                                std::string* ret_text);
  ~Daemon() override;
  // Until stop_fd is readable; then transfers that are under way are finished, five seconds at
  // most, and requests are given up.
  void run(int stop_fd);
  // After run(). false: a thread is held up by a disk or a file system that does not answer. Then
  // this object is never to be destroyed, the process is to end by _exit(), and all is as after a
  // kill.
  bool end();

 private:
  struct Client {
    os::Fd fd;
    uint64_t number = 0;
    uint32_t uid = 0, gid = 0;
    std::string in, out;
    std::string session;  // hexadecimal id of the one that it protects
    bool closing = false;
  };
  explicit Daemon(NodeConfig config) : config_(std::move(config)) {}
  struct Peer {
    LinkId link = LinkId::kNone;
    bool up = false;
    uint64_t retry_ns = 0;
    unsigned failures = 0;
    uint64_t gone_ns = 0;  // since when it cannot be reached, 0: it can, or nobody has tried
    std::string trouble;
    uint64_t told_epoch = 0;  // NodeStates::epoch() when it was last sent the states
  };
  Result<void> make_way(std::string* ret_text);
  Result<void> listen(std::string* ret_text);
  Result<void> start_links(std::string* ret_text);
  uint64_t start_links_late(uint64_t now);

  void on_up(LinkId id, const std::string& peer) override;
  void on_message(LinkId id, uint16_t type, std::span<const uint8_t> payload) override;
  void on_down(LinkId id, const Error& error, const std::string& text) override;
  void on_refused(format::WireReason reason, const std::string& address,
                  const std::string& text) override;
  LinkId link_to(const std::string& node);
  bool may_come(const std::string& node) const;
  uint64_t keep_links(uint64_t now_ns);  // when again
  uint64_t make_links(uint64_t now_ns);  // likewise
  bool is_time_for_holders(uint64_t now_ns);
  uint64_t connect_to(const std::string& name, Peer& peer, uint64_t now_ns);  // when again

  std::string too_many_clients(uint32_t uid) const;
  void accept_client();
  bool read_client(Client& c);
  bool flush_client(Client& c);
  void answer(uint64_t client, const Json& message);
  void on_request(Client& c, const Json& request);
  void on_protect(Client& c, const Json& request);
  void protect(uint64_t client, uint32_t uid, const ProtectedSession& s,
               const std::vector<std::string>& had, const Json& request);
  void on_can_protect(Client& c, const Json& request);
  std::string cannot_protect(const store::Protection& protection) const;
  void on_committed(Client& c);
  Json status_json(uint32_t uid);  // of the sessions that this user may see
  Json place_json(const std::string& name, uint32_t uid);
  void tell_safety(const Replicator& r);
  // What the sessions whose parts that node keeps have to know of its link.
  void tell_link(const std::string& node);
  void tell_level(const Replicator& r);
  void on_level(Client& c);
  std::string link_trouble(const std::string& node) const;
  void client_gone(Client& c);
  void leave_session(Client& c);
  void take_session(Client& c, const std::string& id);

  // Level 3 (daemon_flush.cc). Of a session that is protected here, by its hexadecimal id.
  void start_flush();
  void wake_flush(const std::string& id, const std::optional<FlushChoice>& own = std::nullopt);
  void on_flush(Client& c, const Json& request);
  void begin_flush(uint64_t client, const FlushedSession& session);
  void flush_changed(const SessionId& id, const FlushStatus& status);
  void tell_flushed(const std::string& id, const FlushStatus& status);
  uint64_t watch_flush(uint64_t now_ns);  // when again
  Json flush_json(uint32_t uid);

  // Other nodes take the places of those that have been gone for long.
  void replace_holders();
  // All parts of a session whose node is gone are written anew, from an image that was made here.
  struct Repair {
    std::string dir;  // of that image
    uint64_t client = 0;
  };
  std::string repair_dir() const { return config_.store_dir + "/repair"; }
  void remove_old_repairs() const;
  void remove_repair(const std::string& dir);
  void begin_repair(ProtectedSession session, const std::vector<std::string>& old,
                    const std::vector<Member>& members, uint64_t client);
  void end_repair(const Replicator& r);
  // How far they are, to those who asked; when it is to be called again.
  uint64_t tell_repairs(uint64_t now);
  bool is_repair(const std::string& id) const;  // of one that does not run
  bool rewrite(const Client& c, const std::string& name);
  Replicator::Node node_for(std::function<void(const Replicator&)> tell);
  std::vector<Member> members_now() const;
  // Looks at all nodes' parts now and then: what is to be mended, moved, removed (daemon_look.cc).
  void look_around(uint64_t now_ns);
  void begin_look();
  void end_look(const LookResult& result);
  void mend(const SessionId& id);
  void find_stale(const LookResult& result);
  void drop_stale();
  bool may_be_dropped(const std::string& node, const format::DropParts& drop);
  void note_full(const Replicator& r);
  void on_drop(const format::DropParts& drop);
  // What nodes tell each other about nodes and sessions. true: the message was of that kind.
  bool on_state_message(LinkId link, uint16_t type, std::span<const uint8_t> payload);
  void on_states(LinkId link, uint16_t type, std::span<const uint8_t> payload);
  void on_ask_sessions(LinkId link, const format::AskSessions& question);
  void share_states(LinkId link);
  void share_changes();
  std::vector<format::SessionEntry> sessions_here(const std::string& about);
  std::vector<format::SessionEntry> ask_own_thread(uint64_t client, const std::string& about);
  bool is_wanted(uint64_t client);

  bool start_thread(std::function<void()> work);  // for this node itself; false: logged why not
  void begin_end();
  bool has_ended(bool idle);
  void remove_socket();
  void later(std::function<void()> task);
  // Does it in a thread; its result, and what it tells on the way, goes to the client.
  void begin_work(uint64_t client, uint32_t uid, uint32_t gid, const Json& request);
  void end_work();
  // It ends by itself (daemon_idle.cc).
  bool is_needed();
  bool leave_if_idle(uint64_t now_ns, uint64_t* next_ns);
  bool is_socket_ours() const;
  bool has_lost_socket(uint64_t now_ns);
  void post(uint64_t client, const Json& message);
  Cluster::Options cluster_options() const;
  RequestContext context_of(uint64_t client, uint32_t uid, uint32_t gid);

  NodeConfig config_;
  std::function<void(const std::string&)> log_;
  std::unique_ptr<PartStore> store_;
  os::Fd lock_, listen_, posted_;
  os::Fd leaving_;  // the start lock, once nobody can reach it any more
  uint64_t socket_device_ = 0, socket_inode_ = 0;
  uint64_t idle_since_ns_ = 0, socket_look_ns_ = 0;
  uint64_t end_ns_ = ~uint64_t{0};  // when it ends; ~0: it does not
  uint64_t accept_ns_ = 0;          // nobody can be let in before
  std::unique_ptr<LinkHub> hub_;
  std::unique_ptr<Holder> holder_;
  std::unique_ptr<StoreThreads> threads_;
  std::map<std::string, Peer> peers_;
  std::shared_ptr<Resolver> resolver_;
  Address own_address_;
  // What a turn of the main loop need not look at: something has changed since; when it may.
  bool look_at_holders_ = true;
  uint64_t states_seen_ = 0, replace_ns_ = 0, links_ns_ = 0;
  std::map<std::string, std::unique_ptr<Replicator>> sessions_;  // by hexadecimal id
  uint64_t told_repairs_ns_ = 0;
  std::map<std::string, Repair> repairs_;  // likewise
  struct Beside {                          // of one in sessions_
    std::string cannot_replace;  // why a holder that is gone or drained stays, said already
    bool moved = false;          // a part has another holder, and not all have their parts yet
    format::Triple full{};       // the newest checkpoint of which all holders had their parts
  };
  std::map<std::string, Beside> beside_;  // likewise
  std::string no_network_;        // why there are no links yet, although there is a key; else ""
  uint64_t look_network_ns_ = 0;  // when it is tried again
  std::map<std::string, uint64_t> refusals_;  // said already, and when
  std::unique_ptr<NodeStates> states_;
  uint64_t look_ns_ = 0;
  bool looking_ = false;
  std::map<SessionId, uint64_t> lacking_;  // sessions that lack parts, and since when
  std::set<SessionId> mending_;            // that are repaired without anybody having asked
  std::map<std::string, std::vector<format::DropParts>> drops_;  // by node
  std::unique_ptr<FlushThread> flush_;
  std::shared_ptr<FlushLook> flush_look_;
  struct FlushWaiter {
    uint64_t client, number;  // of FlushThread::request()
    FlushedSession session;
  };
  std::vector<FlushWaiter> flush_waiters_;
  std::string flush_stuck_;  // the file system does not answer
  std::vector<Client> clients_;
  uint64_t next_client_ = 1;
  std::mutex mutex_;                          // of what follows
  std::vector<std::function<void()>> tasks_;  // for the daemon's own thread
  std::set<uint64_t> present_;                // numbers of clients that are connected
  bool ending_ = false;
  // Of clients, and of this node itself. They end first.
  std::unique_ptr<RequestThreads> requests_, own_threads_;
};

// What a request needs that is done in a thread (requests.cc).
struct RequestContext {
  Cluster::Options cluster;  // the members with their states
  NodeStates* states = nullptr;
  uint32_t uid = 0, gid = 0;  // whose request it is
  bool durable = true;
  std::shared_ptr<FlushLook> flush;       // nullptr: nothing is flushed
  std::function<void(const Json&)> tell;  // progress
  // Does anybody still wait for the answer?
  std::function<bool()> wanted;
  // Those that this node sees to, as Cluster::sessions(). Asks the daemon's own thread.
  std::function<std::vector<format::SessionEntry>(const std::string& about)> sessions;
  std::function<void()> look_soon;
  // Where an image for a repair is put, and who goes on with it.
  std::string repair_dir;
  std::function<void(ProtectedSession, std::vector<std::string> old, std::vector<Member> now)>
      repair;
};
// ls, stat, get, verify, repair, rm. The answer has "ok"; if that is false, "error" is text for
// people.
Json do_request(const RequestContext& context, const Json& request);
// The states of all nodes, shared with those that can be reached, and the sessions that these see
// to.
Surroundings surroundings_of(const RequestContext& context, Cluster& cluster);
bool is_cluster_request(const std::string& op);
// Has a node give its parts away, or take some again; ends when no session needs it, or when
// nothing more can be moved (drain.cc).
Json drain_node(const RequestContext& context, const Json& request);

}  // namespace cr::node
