// SPDX-License-Identifier: MIT
// transport.cc - see transport.h. Invariant: as there. Context: N; one thread.
//
// What UCX tells by its callbacks is only noted down, in events_; dispatch() acts on it when UCX is
// not on the stack, because most of UCX must not be called from its own callbacks.
#include "node/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <ucp/api/ucp.h>
#include <ucs/debug/log_def.h>

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "format/wire_reader.h"
#include "node/address.h"
#include "node/gate.h"
#include "os/fd.h"

namespace cr::node {
namespace {

// While the transport is destroyed: how often UCX may have nothing to do before it is given up.
constexpr unsigned kMostIdleRounds = 100000;
constexpr unsigned kGateEvery = 64;

Error error_of(ucs_status_t status) {
  switch (status) {
    case UCS_OK:
      return {};
    case UCS_ERR_NO_MEMORY:
      return {Errc::kNoMemory, 0, ucs_status_string(status)};
    case UCS_ERR_BUSY:
      return {Errc::kBusy, 0, ucs_status_string(status)};
    case UCS_ERR_INVALID_PARAM:
      return {Errc::kInvalid, 0, ucs_status_string(status)};
    default:
      return {Errc::kSystem, 0, ucs_status_string(status)};
  }
}

// Of a connection that has ended.
Error gone(ucs_status_t status) { return {Errc::kAgentGone, 0, ucs_status_string(status)}; }

// UCX prints about each peer that is gone, which on_down tells anyway. UCX_LOG_LEVEL brings that
// back; what is fatal is always printed.
ucs_log_func_rc_t quiet_log(const char*, unsigned, const char*, ucs_log_level_t level,
                            const ucs_log_component_config_t*, const char*, va_list) {
  return level <= UCS_LOG_LEVEL_FATAL ? UCS_LOG_FUNC_RC_CONTINUE : UCS_LOG_FUNC_RC_STOP;
}

void quieten_ucx() {
  static bool done = false;
  if (done || getenv("UCX_LOG_LEVEL") != nullptr) return;
  done = true;
  ucs_log_push_handler(quiet_log);
}

class UcxTransport final : public Transport, private GateHandler {
 public:
  UcxTransport(const TransportOptions& options, TransportHandler* handler)
      : options_(options), handler_(handler) {}
  ~UcxTransport() override;
  Result<void> start();

  Result<uint16_t> listen(const Address& address) override;
  Result<ConnectionId> connect(const Address& peer) override;
  void close(ConnectionId id) override;
  Result<void> send(ConnectionId id, std::vector<uint8_t> bytes, Done on_done) override;
  uint64_t queued_bytes(ConnectionId id) const override;
  Result<MemoryHandle> register_memory(void* data, uint64_t bytes,
                                       std::shared_ptr<const void> owner) override;
  void unregister_memory(MemoryId id) override;
  void allow_puts(ConnectionId id) override;
  Result<RemoteKeyId> import_key(ConnectionId id, const MemoryKey& key) override;
  void drop_key(RemoteKeyId key) override { keys_.erase(static_cast<uint64_t>(key)); }
  Result<void> put(ConnectionId id, std::span<const uint8_t> data, RemoteKeyId key, uint64_t offset,
                   Done on_done) override;
  int event_fd() const override { return wait_.get(); }
  Result<bool> arm() override;
  unsigned progress() override;

 private:
  struct Operation;
  struct Connection {
    UcxTransport* transport;
    ConnectionId id;
    ucp_ep_h ep = nullptr;          // not before it is known where the peer's UCX is
    Address peer{};                 // of one that this node makes
    std::vector<Operation*> early;  // that wait until there is an ep
    uint64_t queued_bytes = 0;
    uint64_t operations = 0;  // that have not ended, incoming puts too
    bool may_put = false;
    bool ending = false;  // ep is being closed, or is closed; nothing new is accepted
    bool closed = false;  // UCX is done with ep
    Error error;          // for on_down
  };
  // A message, a put, or (incoming) a block that UCX is writing to our memory. UCX has a pointer to
  // it until it has called back.
  struct Operation {
    UcxTransport* transport;
    ConnectionId id;
    std::vector<uint8_t> bytes;  // of a message
    Done done;
    bool at_ucx = true;    // UCX uses the memory of the operation
    bool at_peer = false;  // a put that the peer has not answered
    bool incoming = false;
    std::shared_ptr<const void> owner{};  // of the memory that an incoming put is written to
    format::WirePut put{};
    std::span<const uint8_t> block{};  // of a put
    ucs_status_t status = UCS_OK;      // the first failure
  };
  enum class What { kAsked, kMessage, kPutAsked, kPutDone, kBroken, kFailed, kClosed, kEnded };
  struct Event {
    What what;
    ConnectionId id = ConnectionId::kNone;
    ucp_conn_request_h request = nullptr;  // kAsked
    std::vector<uint8_t> bytes{};          // kMessage
    ucs_status_t status = UCS_OK;          // kFailed
    Operation* operation = nullptr;        // kEnded
    void* block = nullptr;                 // kPutAsked: UCX's description of it
    format::WirePut put{};                 // kPutAsked
    format::WirePutDone put_done{};        // kPutDone
  };
  struct Memory {
    uint8_t* data;
    uint64_t bytes, cookie;
    std::shared_ptr<const void> owner;
  };
  struct RemoteKey {
    ConnectionId connection;
    MemoryKey memory;
  };

  static void on_request(ucp_conn_request_h request, void* self);
  static ucs_status_t on_message_am(void* self, const void*, size_t, void* data, size_t bytes,
                                    const ucp_am_recv_param_t* param);
  static ucs_status_t on_put_am(void* self, const void* header, size_t header_bytes, void* data,
                                size_t bytes, const ucp_am_recv_param_t* param);
  static ucs_status_t on_put_done_am(void* self, const void*, size_t, void* data, size_t bytes,
                                     const ucp_am_recv_param_t* param);
  static void on_error(void* connection, ucp_ep_h ep, ucs_status_t status);
  static void on_sent(void* request, ucs_status_t status, void* operation);
  static void on_written(void* request, ucs_status_t status, size_t, void* operation);
  static void on_closed(void* request, ucs_status_t status, void* connection);

  void on_door(uint64_t asked, uint16_t port) override;
  void on_no_door(uint64_t asked, const Error& error) override;
  void on_stranger(format::WireReason reason, const std::string& address) override;

  Result<void> start_worker(ucp_config_t* config);
  Result<void> start_gate();
  Connection* add_connection();
  Result<void> make_endpoint(Connection* c, ucp_ep_params_t* params);
  Connection* open_connection(ConnectionId id);
  Result<void> set_am_handler(unsigned id, ucp_am_recv_callback_t callback);
  Event* note(const ucp_am_recv_param_t* param, What what);
  Operation* begin_operation(Connection* c);
  void take_status(Operation* operation, ucs_status_ptr_t status);
  void ucx_done(Operation* operation, ucs_status_t status);
  void peer_done(Operation* operation, ucs_status_t status);
  void end_if_done(Operation* operation);
  void give_to_ucx(Connection* c, Operation* operation);
  void begin_incoming(const Event& event);
  void answer_put(ConnectionId id, uint64_t put, bool failed);
  void finish_put(const Event& event);
  void give_up_puts(ConnectionId id);
  void begin_end(Connection* c, const Error& error);
  void finish_if_ended(ConnectionId id);
  void accept(ucp_conn_request_h request);
  void end_operation(Operation* operation);
  void dispatch(Event* event);

  TransportOptions options_;
  TransportHandler* handler_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_listener_h listener_ = nullptr;
  std::unique_ptr<Gate> gate_;
  os::Fd wait_;              // readable when UCX or the gate has something
  unsigned since_gate_ = 0;  // calls of progress()
  uint64_t last_id_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::unordered_map<ucp_ep_h, ConnectionId> by_endpoint_;  // those that are not ending
  std::unordered_map<uint64_t, Memory> memory_;
  std::unordered_map<uint64_t, RemoteKey> keys_;
  std::unordered_set<Operation*> operations_;
  std::unordered_map<uint64_t, Operation*> puts_;  // those that the peer has not answered
  std::deque<Event> events_;
};

// ---- beginning and end -------------------------------------------------------------------------
Result<void> UcxTransport::start() {
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status == UCS_OK && !options_.tls.empty()) {
    status = ucp_config_modify(config, "TLS", options_.tls.c_str());
  }
  if (status != UCS_OK) {
    if (config != nullptr) ucp_config_release(config);
    return error_of(status);
  }
  Result<void> done = start_worker(config);
  ucp_config_release(config);
  if (done) done = start_gate();
  return done;
}

Result<void> UcxTransport::start_gate() {
  CR_TRY(gate_, Gate::create(this));
  wait_ = os::Fd(epoll_create1(EPOLL_CLOEXEC));
  int ucx_fd = -1;
  const ucs_status_t status = ucp_worker_get_efd(worker_, &ucx_fd);
  if (status != UCS_OK) return error_of(status);
  for (const int fd : {ucx_fd, gate_->event_fd()}) {
    epoll_event e{};
    e.events = EPOLLIN;
    if (!wait_ || epoll_ctl(wait_.get(), EPOLL_CTL_ADD, fd, &e) != 0) {
      return Error{Errc::kSystem, errno, "epoll"};
    }
  }
  return {};
}

Result<void> UcxTransport::start_worker(ucp_config_t* config) {
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  ucs_status_t status = ucp_init(&params, config, &context_);
  if (status != UCS_OK) return error_of(status);
  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  status = ucp_worker_create(context_, &worker_params, &worker_);
  if (status != UCS_OK) return error_of(status);
  CR_TRYV(set_am_handler(format::kChannelMessage, on_message_am));
  CR_TRYV(set_am_handler(format::kChannelPut, on_put_am));
  return set_am_handler(format::kChannelPutDone, on_put_done_am);
}

Result<void> UcxTransport::set_am_handler(unsigned id, ucp_am_recv_callback_t callback) {
  ucp_am_handler_param_t am{};
  am.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                  UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  am.id = id;
  am.flags = UCP_AM_FLAG_WHOLE_MSG;
  am.cb = callback;
  am.arg = this;
  const ucs_status_t status = ucp_worker_set_am_recv_handler(worker_, &am);
  if (status != UCS_OK) return error_of(status);
  return {};
}

UcxTransport::~UcxTransport() {
  for (auto& [id, c] : connections_) {
    if (!c->ending) begin_end(c.get(), {});
  }
  auto all_closed = [this] {
    return std::none_of(operations_.begin(), operations_.end(),
                        [](const Operation* o) { return o->at_ucx; }) &&
           std::all_of(connections_.begin(), connections_.end(),
                       [](const auto& c) { return c.second->closed; });
  };
  for (unsigned idle = 0; worker_ != nullptr && idle < kMostIdleRounds; idle++) {
    for (const Event& e : events_) {
      if (e.what == What::kAsked) ucp_listener_reject(listener_, e.request);
      if (e.what == What::kPutAsked) ucp_am_data_release(worker_, e.block);
    }
    events_.clear();
    if (all_closed()) break;
    if (ucp_worker_progress(worker_) != 0) idle = 0;
  }
  if (listener_ != nullptr) ucp_listener_destroy(listener_);
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
  for (Operation* o : operations_) delete o;
}

// ---- what UCX tells ----------------------------------------------------------------------------
void UcxTransport::on_request(ucp_conn_request_h request, void* self) {
  Event& e = static_cast<UcxTransport*>(self)->events_.emplace_back(Event{What::kAsked});
  e.request = request;
}

// nullptr: from no connection that is open.
UcxTransport::Event* UcxTransport::note(const ucp_am_recv_param_t* param, What what) {
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return nullptr;
  const auto found = by_endpoint_.find(param->reply_ep);
  if (found == by_endpoint_.end()) return nullptr;
  Event& e = events_.emplace_back(Event{what});
  e.id = found->second;
  return &e;
}

ucs_status_t UcxTransport::on_message_am(void* self, const void*, size_t, void* data, size_t bytes,
                                         const ucp_am_recv_param_t* param) {
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  Event* e = static_cast<UcxTransport*>(self)->note(param, What::kMessage);
  if (e != nullptr && (rendezvous || bytes == 0 || bytes > format::kMostWireBytes)) {
    e->what = What::kBroken;
  } else if (e != nullptr) {
    const auto* from = static_cast<const uint8_t*>(data);
    e->bytes.assign(from, from + bytes);
  }
  return rendezvous ? UCS_ERR_REJECTED : UCS_OK;
}

ucs_status_t UcxTransport::on_put_am(void* self, const void* header, size_t header_bytes,
                                     void* data, size_t bytes, const ucp_am_recv_param_t* param) {
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  Event* e = static_cast<UcxTransport*>(self)->note(param, What::kPutAsked);
  const auto put = format::read_put(static_cast<const uint8_t*>(header), header_bytes, bytes);
  if (e != nullptr && rendezvous && put) {
    e->block = data;
    e->put = *put;
    return UCS_INPROGRESS;  // the block stays at the peer until begin_incoming()
  }
  if (e != nullptr) e->what = What::kBroken;
  return rendezvous ? UCS_ERR_REJECTED : UCS_OK;
}

ucs_status_t UcxTransport::on_put_done_am(void* self, const void*, size_t, void* data, size_t bytes,
                                          const ucp_am_recv_param_t* param) {
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  Event* e = static_cast<UcxTransport*>(self)->note(param, What::kBroken);
  if (e == nullptr || rendezvous) return rendezvous ? UCS_ERR_REJECTED : UCS_OK;
  const auto done = format::read_put_done(static_cast<const uint8_t*>(data), bytes);
  if (done) {
    e->what = What::kPutDone;
    e->put_done = *done;
  }
  return UCS_OK;
}

void UcxTransport::on_error(void* connection, ucp_ep_h, ucs_status_t status) {
  auto* c = static_cast<Connection*>(connection);
  Event e{What::kFailed, c->id};
  e.status = status;
  c->transport->events_.push_back(std::move(e));
}

void UcxTransport::on_sent(void* request, ucs_status_t status, void* operation) {
  auto* o = static_cast<Operation*>(operation);
  ucp_request_free(request);
  o->transport->ucx_done(o, status);
}

void UcxTransport::on_written(void* request, ucs_status_t status, size_t, void* operation) {
  on_sent(request, status, operation);
}

void UcxTransport::on_closed(void* request, ucs_status_t, void* connection) {
  auto* c = static_cast<Connection*>(connection);
  ucp_request_free(request);
  c->closed = true;
  c->transport->events_.push_back({What::kClosed, c->id});
}

// ---- operations --------------------------------------------------------------------------------
UcxTransport::Operation* UcxTransport::begin_operation(Connection* c) {
  auto* o = new Operation{this, c->id, {}, {}};
  operations_.insert(o);
  c->operations++;
  return o;
}

// What a UCX call returned: nullptr (it is done), an error, or a request that calls back.
void UcxTransport::take_status(Operation* operation, ucs_status_ptr_t status) {
  if (status == nullptr) return ucx_done(operation, UCS_OK);
  if (UCS_PTR_IS_ERR(status)) ucx_done(operation, UCS_PTR_STATUS(status));
}

void UcxTransport::ucx_done(Operation* operation, ucs_status_t status) {
  operation->at_ucx = false;
  // What UCX could not send, the peer will not answer.
  if (status != UCS_OK && operation->at_peer) return peer_done(operation, status);
  if (operation->status == UCS_OK) operation->status = status;
  end_if_done(operation);
}

void UcxTransport::peer_done(Operation* operation, ucs_status_t status) {
  operation->at_peer = false;
  puts_.erase(operation->put.put);
  if (operation->status == UCS_OK) operation->status = status;
  end_if_done(operation);
}

void UcxTransport::end_if_done(Operation* operation) {
  if (operation->at_ucx || operation->at_peer) return;
  Event& e = events_.emplace_back(Event{What::kEnded});
  e.id = operation->id;
  e.operation = operation;
}

// ---- connections -------------------------------------------------------------------------------
UcxTransport::Connection* UcxTransport::open_connection(ConnectionId id) {
  const auto found = connections_.find(static_cast<uint64_t>(id));
  return found == connections_.end() || found->second->ending ? nullptr : found->second.get();
}

UcxTransport::Connection* UcxTransport::add_connection() {
  auto c = std::make_unique<Connection>();
  c->transport = this;
  c->id = static_cast<ConnectionId>(++last_id_);
  Connection* made = c.get();
  connections_[static_cast<uint64_t>(c->id)] = std::move(c);
  return made;
}

Result<void> UcxTransport::make_endpoint(Connection* c, ucp_ep_params_t* params) {
  params->field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params->err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params->err_handler.cb = on_error;
  params->err_handler.arg = c;
  const ucs_status_t status = ucp_ep_create(worker_, params, &c->ep);
  if (status != UCS_OK) {
    c->ep = nullptr;
    return error_of(status);
  }
  by_endpoint_[c->ep] = c->id;
  return {};
}

Result<uint16_t> UcxTransport::listen(const Address& address) {
  if (listener_ != nullptr) return Error{Errc::kAlready, 0, "the transport listens already"};
  Address of_ucx = address;
  of_ucx.set_port(0);
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = of_ucx.get();
  params.sockaddr.addrlen = of_ucx.bytes;
  params.conn_handler.cb = on_request;
  params.conn_handler.arg = this;
  ucs_status_t status = ucp_listener_create(worker_, &params, &listener_);
  if (status != UCS_OK) {
    listener_ = nullptr;
    return error_of(status);
  }
  ucp_listener_attr_t attr{};
  attr.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  status = ucp_listener_query(listener_, &attr);
  if (status != UCS_OK) return error_of(status);
  return gate_->listen(address, address_of(attr.sockaddr).port());
}

Result<ConnectionId> UcxTransport::connect(const Address& address) {
  Connection* c = add_connection();
  c->peer = address;
  gate_->ask(static_cast<uint64_t>(c->id), address);
  return c->id;
}

void UcxTransport::on_door(uint64_t asked, uint16_t port) {
  Connection* c = open_connection(static_cast<ConnectionId>(asked));
  if (c == nullptr) return;
  c->peer.set_port(port);
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = c->peer.get();
  params.sockaddr.addrlen = c->peer.bytes;
  if (const auto made = make_endpoint(c, &params); !made) return begin_end(c, made.error());
  for (Operation* o : std::exchange(c->early, {})) give_to_ucx(c, o);
}

void UcxTransport::on_no_door(uint64_t asked, const Error& error) {
  Connection* c = open_connection(static_cast<ConnectionId>(asked));
  if (c != nullptr) begin_end(c, error);
}

void UcxTransport::on_stranger(format::WireReason reason, const std::string& address) {
  handler_->on_stranger(reason, address);
}

void UcxTransport::accept(ucp_conn_request_h request) {
  ucp_conn_request_attr_t attr{};
  attr.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR;
  const bool known = ucp_conn_request_query(request, &attr) == UCS_OK;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  Connection* c = add_connection();
  const ConnectionId id = c->id;
  // A peer that has gone meanwhile was never told to anybody; nothing is to be said.
  if (!make_endpoint(c, &params)) {
    connections_.erase(static_cast<uint64_t>(id));
    return;
  }
  handler_->on_accept(id, known ? address_of(attr.client_address).text() : "an unknown address");
}

void UcxTransport::close(ConnectionId id) {
  if (Connection* c = open_connection(id)) begin_end(c, {});
}

// By force: what is queued is given up, and the peer need not answer.
void UcxTransport::begin_end(Connection* c, const Error& error) {
  c->ending = true;
  c->error = error;
  if (c->ep == nullptr) {
    gate_->forget(static_cast<uint64_t>(c->id));
    for (Operation* o : std::exchange(c->early, {})) ucx_done(o, UCS_ERR_CANCELED);
    c->closed = true;
    events_.push_back({What::kClosed, c->id});
    return;
  }
  by_endpoint_.erase(c->ep);
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.cb.send = on_closed;
  param.user_data = c;
  const ucs_status_ptr_t status = ucp_ep_close_nbx(c->ep, &param);
  if (status != nullptr && !UCS_PTR_IS_ERR(status)) return;
  c->closed = true;
  events_.push_back({What::kClosed, c->id});
}

// UCX has closed the connection, so the peer answers nothing any more.
void UcxTransport::give_up_puts(ConnectionId id) {
  std::vector<Operation*> lost;
  for (const auto& [number, o] : puts_) {
    if (o->id == id) lost.push_back(o);
  }
  for (Operation* o : lost) peer_done(o, UCS_ERR_CONNECTION_RESET);
}

void UcxTransport::finish_if_ended(ConnectionId id) {
  const auto found = connections_.find(static_cast<uint64_t>(id));
  if (found == connections_.end()) return;
  const Connection& c = *found->second;
  if (!c.closed || c.operations > 0) return;
  const Error error = c.error;
  std::erase_if(keys_, [id](const auto& key) { return key.second.connection == id; });
  connections_.erase(found);
  handler_->on_down(id, error);
}

// ---- messages and puts -------------------------------------------------------------------------
Result<void> UcxTransport::send(ConnectionId id, std::vector<uint8_t> bytes, Done on_done) {
  Connection* c = open_connection(id);
  if (c == nullptr) return Error{Errc::kNotFound, 0, "no such connection"};
  if (bytes.empty() || bytes.size() > format::kMostWireBytes) {
    return Error{Errc::kInvalid, 0, "a message must have 1 to 16384 bytes"};
  }
  if (c->queued_bytes + bytes.size() > options_.most_queued_bytes) {
    return Error{Errc::kBusy, 0, "too many messages wait: the peer takes them too slowly"};
  }
  c->queued_bytes += bytes.size();
  Operation* o = begin_operation(c);
  o->bytes = std::move(bytes);
  o->done = std::move(on_done);
  give_to_ucx(c, o);
  return {};
}

// A message or a put, now or when there is somebody to send it to.
void UcxTransport::give_to_ucx(Connection* c, Operation* o) {
  if (c->ep == nullptr) return c->early.push_back(o);
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.cb.send = on_sent;
  param.user_data = o;
  if (o->at_peer) {
    param.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_RNDV;
    take_status(o, ucp_am_send_nbx(c->ep, format::kChannelPut, &o->put, sizeof(o->put),
                                   o->block.data(), o->block.size(), &param));
  } else {
    param.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
    take_status(o, ucp_am_send_nbx(c->ep, format::kChannelMessage, nullptr, 0, o->bytes.data(),
                                   o->bytes.size(), &param));
  }
}

uint64_t UcxTransport::queued_bytes(ConnectionId id) const {
  const auto found = connections_.find(static_cast<uint64_t>(id));
  return found == connections_.end() ? 0 : found->second->queued_bytes;
}

Result<void> UcxTransport::put(ConnectionId id, std::span<const uint8_t> data, RemoteKeyId key,
                               uint64_t offset, Done on_done) {
  Connection* c = open_connection(id);
  const auto found = keys_.find(static_cast<uint64_t>(key));
  if (c == nullptr || found == keys_.end() || found->second.connection != id) {
    return Error{Errc::kNotFound, 0, "no such connection or key"};
  }
  const MemoryKey& to = found->second.memory;
  if (data.empty() || data.size() > format::kMostBlockBytes || offset > to.bytes ||
      data.size() > to.bytes - offset) {
    return Error{Errc::kInvalid, 0, "the block does not fit into the peer's memory"};
  }
  Operation* o = begin_operation(c);
  o->done = std::move(on_done);
  o->at_peer = true;
  o->put = {++last_id_, to.number, to.cookie, to.address + offset, data.size()};
  o->block = data;
  puts_[o->put.put] = o;
  give_to_ucx(c, o);
  return {};
}

// The peer wants to put: only into memory that was offered, and if the connection may.
void UcxTransport::begin_incoming(const Event& event) {
  const format::WirePut& put = event.put;
  Connection* c = open_connection(event.id);
  const auto found = memory_.find(put.number);
  if (c == nullptr || !c->may_put || found == memory_.end() || found->second.cookie != put.cookie) {
    ucp_am_data_release(worker_, event.block);
    return answer_put(event.id, put.put, true);
  }
  const Memory& memory = found->second;
  const uint64_t offset = put.address - reinterpret_cast<uint64_t>(memory.data);
  if (offset > memory.bytes || put.bytes > memory.bytes - offset) {
    ucp_am_data_release(worker_, event.block);
    return answer_put(event.id, put.put, true);
  }
  Operation* o = begin_operation(c);
  o->incoming = true;
  o->owner = memory.owner;
  o->put = put;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.recv_am = on_written;
  param.user_data = o;
  take_status(o,
              ucp_am_recv_data_nbx(worker_, event.block, memory.data + offset, put.bytes, &param));
}

void UcxTransport::answer_put(ConnectionId id, uint64_t put, bool failed) {
  Connection* c = open_connection(id);
  if (c == nullptr) return;
  const format::WirePutDone done{put, failed ? 1u : 0u, 0};
  Operation* o = begin_operation(c);
  o->bytes.resize(sizeof(done));
  memcpy(o->bytes.data(), &done, sizeof(done));
  c->queued_bytes += o->bytes.size();
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
  param.cb.send = on_sent;
  param.user_data = o;
  take_status(o, ucp_am_send_nbx(c->ep, format::kChannelPutDone, nullptr, 0, o->bytes.data(),
                                 o->bytes.size(), &param));
}

void UcxTransport::finish_put(const Event& event) {
  const auto found = puts_.find(event.put_done.put);
  if (found == puts_.end() || found->second->id != event.id) return;
  peer_done(found->second, event.put_done.failed != 0 ? UCS_ERR_REJECTED : UCS_OK);
}

void UcxTransport::end_operation(Operation* operation) {
  const std::unique_ptr<Operation> o(operation);
  operations_.erase(operation);
  const auto found = connections_.find(static_cast<uint64_t>(o->id));
  if (found != connections_.end()) {
    found->second->queued_bytes -= o->bytes.size();
    found->second->operations--;
  }
  if (o->incoming) answer_put(o->id, o->put.put, o->status != UCS_OK);
  if (o->done && o->status == UCS_OK) o->done({});
  if (o->done && o->status != UCS_OK) o->done(gone(o->status));
  finish_if_ended(o->id);
}

// ---- memory ------------------------------------------------------------------------------------
Result<MemoryHandle> UcxTransport::register_memory(void* data, uint64_t bytes,
                                                   std::shared_ptr<const void> owner) {
  if (data == nullptr || bytes == 0) return Error{Errc::kInvalid, 0, "no memory to register"};
  MemoryHandle made;
  made.key.address = reinterpret_cast<uint64_t>(data);
  made.key.bytes = bytes;
  if (getrandom(&made.key.cookie, sizeof(made.key.cookie), 0) != sizeof(made.key.cookie)) {
    return Error{Errc::kSystem, errno, "no random numbers"};
  }
  made.key.number = ++last_id_;
  made.id = static_cast<MemoryId>(made.key.number);
  memory_[made.key.number] = {static_cast<uint8_t*>(data), bytes, made.key.cookie,
                              std::move(owner)};
  return made;
}

void UcxTransport::unregister_memory(MemoryId id) { memory_.erase(static_cast<uint64_t>(id)); }

void UcxTransport::allow_puts(ConnectionId id) {
  if (Connection* c = open_connection(id)) c->may_put = true;
}

Result<RemoteKeyId> UcxTransport::import_key(ConnectionId id, const MemoryKey& key) {
  if (open_connection(id) == nullptr) return Error{Errc::kNotFound, 0, "no such connection"};
  if (key.bytes == 0 || key.address > ~0ull - key.bytes) {
    return Error{Errc::kInvalid, 0, "not a key of memory"};
  }
  keys_[++last_id_] = {id, key};
  return static_cast<RemoteKeyId>(last_id_);
}

// ---- the loop ----------------------------------------------------------------------------------
void UcxTransport::dispatch(Event* event) {
  Connection* c = open_connection(event->id);
  switch (event->what) {
    case What::kAsked:
      return accept(event->request);
    case What::kMessage:
      if (c != nullptr) handler_->on_message(event->id, event->bytes);
      return;
    case What::kPutAsked:
      return begin_incoming(*event);
    case What::kPutDone:
      return finish_put(*event);
    case What::kBroken:
      if (c != nullptr) begin_end(c, {Errc::kDamaged, 0, "the peer breaks the transport's rules"});
      return;
    case What::kFailed:
      if (c != nullptr) begin_end(c, gone(event->status));
      return;
    case What::kClosed:
      give_up_puts(event->id);
      return finish_if_ended(event->id);
    case What::kEnded:
      return end_operation(event->operation);
  }
}

unsigned UcxTransport::progress() {
  unsigned done = ucp_worker_progress(worker_);
  // To ask the gate is a system call: not each time while UCX has much to do.
  if (done == 0 || ++since_gate_ == kGateEvery) {
    done += gate_->progress();
    since_gate_ = 0;
  }
  // Only what is there now: a handler that always sends must not keep us here.
  const auto now = static_cast<unsigned>(events_.size());
  for (unsigned i = 0; i < now; i++) {
    Event e = std::move(events_.front());
    events_.pop_front();
    dispatch(&e);
  }
  return done + now;
}

Result<bool> UcxTransport::arm() {
  if (!events_.empty() || gate_->has_news()) return false;
  const ucs_status_t status = ucp_worker_arm(worker_);
  if (status == UCS_OK) return true;
  if (status == UCS_ERR_BUSY) return false;
  return error_of(status);
}

}  // namespace

namespace {

// Where the environment says nothing else. Before any other thread is there: crstored makes its
// first transport when it starts.
void set_up_ucx() {
  static const bool once = [] {
    // UCX 1.13 ends the process (tcp_ep.c, an assertion about PUT_TX_WAITING_ACK) when a peer dies
    // in the middle of such a put; without them it sends the same bytes as messages.
    setenv("UCX_TCP_PUT_ENABLE", "n", 0);
    // These are cut into pieces of that size; 64 KiB, the default, take 1.4 times as long.
    setenv("UCX_TCP_RX_SEG_SIZE", "512k", 0);
    // Of a process that is killed its files stay in /dev/shm; nodes do not share memory anyway.
    setenv("UCX_TLS", "^posix", 0);
    return true;
  }();
  (void)once;
}

}  // namespace

Result<std::unique_ptr<Transport>> Transport::create(const TransportOptions& options,
                                                     TransportHandler* handler) {
  quieten_ucx();
  set_up_ucx();
  auto made = std::make_unique<UcxTransport>(options, handler);
  CR_TRYV(made->start());
  return std::unique_ptr<Transport>(std::move(made));
}

}  // namespace cr::node
