// SPDX-License-Identifier: MIT
// protector.cc - see protector.h. Invariant: as there. Context: N (agent).
#include "agent/protector.h"

#include <string.h>

#include "node/part_store.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr uint64_t kRetryNs = 2'000'000'000;

}  // namespace

void Protector::begin(const std::string& dir, const uint8_t (&session_id)[16]) {
  if (!wanted()) return;
  dir_ = dir;
  session_ = node::to_hex(node::session_id_of(session_id));
  client_.reset();
  retry_ns_ = 0;
  if (options_.name.empty()) {
    options_.name = dir.substr(dir.find_last_of('/') + 1);
    if (options_.name.ends_with(".image")) options_.name.resize(options_.name.size() - 6);
  }
}

void Protector::fail(const std::string& why) {
  client_.reset();
  accepted_ = false;
  retry_ns_ = rawsys::now_ns() + kRetryNs;
  if (trouble_ == why) return;
  trouble_ = why;
  say_("checkpoints stay on this node: " + why);
}

// crstored takes a session that has a checkpoint; before that there is nothing to be kept.
void Protector::connect() {
  std::string text;
  auto client = node::Client::connect(options_.socket, &text);
  if (!client) return fail(text);
  client_ = std::make_unique<node::Client>(std::move(*client));
  node::Json request{{"op", "protect"},
                     {"session", session_},
                     {"dir", dir_},
                     {"name", options_.name},
                     {"protect", options_.spec}};
  if (options_.has_flush()) {
    request["flush_every"] = options_.flush_every;
    request["flush_interval_ns"] = options_.flush_interval_ns;
  }
  if (!client_->send(request)) fail(options_.socket + ": crstored went away");
}

// Level 3.
void Protector::on_flushed(const node::Json& event) {
  flushed_sequence_ = node::number_of(event, "sequence");
  const std::string why = node::text_of(event, "trouble");
  if (flush_trouble_ == why) return;
  flush_trouble_ = why;
  say_(why.empty() ? "checkpoints are flushed again" : "checkpoints are not flushed: " + why);
}

void Protector::serve() {
  while (client_) {
    const auto j = client_->receive(0);
    if (!j) break;
    if (node::number_of(*j, "level") == 3) {
      on_flushed(*j);
    } else if (node::text_of(*j, "event") == "level") {
      if (node::number_of(*j, "level") >= 2) safe_sequence_ = node::number_of(*j, "sequence");
      const std::string why = node::text_of(*j, "trouble");
      const bool all = node::number_of(*j, "parts") == node::number_of(*j, "of");
      if (!all && !why.empty() && trouble_ != why) {
        say_("checkpoint " + std::to_string(node::number_of(*j, "sequence")) + " has " +
             std::to_string(node::number_of(*j, "parts")) + " of " +
             std::to_string(node::number_of(*j, "of")) + " parts: " + why);
        trouble_ = why;
      } else if (all && !trouble_.empty()) {
        say_("checkpoint " + std::to_string(node::number_of(*j, "sequence")) +
             " has all its parts again");
        trouble_.clear();
      }
    } else if (node::flag_of(*j, "ok")) {
      accepted_ = true;
      if (const std::string notice = node::text_of(*j, "notice"); !notice.empty()) say_(notice);
      if (options_.has_flush() && node::text_of(*j, "flush").empty()) {
        say_("checkpoints are not flushed: the crstored at " + options_.socket +
             " has no directory for that; start it with --flush DIR");
      }
    } else {
      return fail(node::text_of(*j, "error"));
    }
  }
  if (client_ && client_->gone()) fail(options_.socket + ": crstored went away; it is tried again");
}

void Protector::look(uint64_t epoch, uint64_t sequence) {
  if (!wanted() || sequence == 0) return;
  if (!client_) {
    if (rawsys::now_ns() < retry_ns_) return;
    told_epoch_ = epoch;
    told_sequence_ = sequence;
    return connect();
  }
  if (told_epoch_ == epoch && told_sequence_ == sequence) return;
  told_epoch_ = epoch;
  told_sequence_ = sequence;
  if (!client_->send({{"op", "committed"}, {"sequence", sequence}})) {
    fail(options_.socket + ": crstored does not read");
  }
}

uint64_t Protector::next_ns() const {
  return wanted() && !client_ && retry_ns_ != 0 ? retry_ns_ : ~uint64_t{0};
}

}  // namespace cr::agent
