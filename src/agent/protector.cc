// SPDX-License-Identifier: MIT
// protector.cc - see protector.h. Invariant: as there. Context: N (agent).
#include "agent/protector.h"

#include <string.h>

#include <algorithm>

#include "node/part_store.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kRetryNs = 2 * kSecond;
constexpr uint64_t kStartingNs = kSecond / 20;  // while a private one is being started
// So long nothing is heard, then it is asked; so long after that it counts as gone.
constexpr uint64_t kQuietNs = 3 * kSecond, kDeadNs = 5 * kSecond;

std::string sequence_words(const node::Json& event) {
  return "checkpoint " + std::to_string(node::number_of(event, "sequence"));
}

CheckpointId id_of(const node::Json& j) {
  return {node::number_of(j, "epoch"), node::number_of(j, "sequence")};
}

}  // namespace

Protector::Protector(ProtectOptions options, Say say)
    : options_(std::move(options)),
      say_(std::move(say)),
      finder_(options_.socket, options_.starter) {
  std::string text;
  if (auto p = store::parse_protection(options_.spec, &text); wanted() && p) protection_ = *p;
}

void Protector::begin(const std::string& dir, const uint8_t (&session_id)[16]) {
  if (!wanted()) return;
  dir_ = dir;
  session_ = node::to_hex(node::session_id_of(session_id));
  client_.reset();
  asked_ = accepted_ = flush_asked_ = false;
  retry_ns_ = 0;
  away_ns_ = rawsys::now_ns();
  version_++;
  if (options_.name.empty()) {
    options_.name = dir.substr(dir.find_last_of('/') + 1);
    if (options_.name.ends_with(".image")) options_.name.resize(options_.name.size() - 6);
  }
}

void Protector::fail(const std::string& why) {
  client_.reset();
  if (accepted_) away_ns_ = rawsys::now_ns();
  accepted_ = flush_asked_ = false;
  version_++;
  retry_ns_ = rawsys::now_ns() + kRetryNs;
  if (trouble_ == why) return;
  trouble_ = why;
  say_("checkpoints stay on this node: " + why);
}

// Before the first checkpoint a private one is started, so that it is there by then.
void Protector::connect(bool has_checkpoint) {
  std::string text;
  auto client = finder_.connect(&text);
  if (!client && client.error().code == Errc::kBusy) {
    retry_ns_ = rawsys::now_ns() + kStartingNs;
    return;
  }
  if (!client) return fail(text);
  client_ = std::make_unique<node::Client>(std::move(*client));
  heard_ns_ = rawsys::now_ns();
  asked_ns_ = 0;
  if (!ask(has_checkpoint)) fail(finder_.socket() + ": crstored went away");
}

// crstored takes a session that has a checkpoint; before that there is nothing to be kept.
bool Protector::ask(bool has_checkpoint) {
  asked_ = has_checkpoint;
  if (!has_checkpoint) return client_->send({{"op", "can_protect"}, {"protect", options_.spec}});
  node::Json request{{"op", "protect"},
                     {"session", session_},
                     {"dir", dir_},
                     {"name", options_.name},
                     {"protect", options_.spec}};
  if (!options_.held_by.empty()) request["held_by"] = options_.held_by;
  if (options_.has_flush()) {
    request["flush_every"] = options_.flush_every;
    request["flush_interval_ns"] = options_.flush_interval_ns;
  }
  return client_->send(request);
}

void Protector::set_flush_trouble(const std::string& why) {
  if (flush_trouble_ == why) return;
  if (flush_trouble_.empty()) flush_trouble_ns_ = rawsys::now_ns();
  flush_trouble_ = why;
  version_++;
  say_(why.empty() ? "checkpoints are flushed again" : "checkpoints are not flushed: " + why);
}

void Protector::on_flushed(const node::Json& event) {
  if (const CheckpointId id = id_of(event); id != flushed_) {
    flushed_ = id;
    version_++;
  }
  set_flush_trouble(node::text_of(event, "trouble"));
}

void Protector::on_flush_answer(const node::Json& answer) {
  flush_asked_ = false;
  if (node::flag_of(answer, "ok")) {
    flushed_ = std::max(flushed_, id_of(answer));
    version_++;
    return;
  }
  flush_failures_++;
  // The same words come as an event, where crstored goes on trying.
  flush_retry_ns_ = rawsys::now_ns() + kRetryNs;
  if (flush_trouble_.empty()) set_flush_trouble(node::text_of(answer, "error"));
}

void Protector::on_level(const node::Json& event) {
  const CheckpointId id = id_of(event);
  const std::string why = node::text_of(event, "trouble");
  const bool all = node::number_of(event, "parts") == node::number_of(event, "of");
  if (id.sequence == 0) return;  // it is looked at
  version_++;
  std::string holders;
  if (const auto list = event.find("holders"); list != event.end() && list->is_array()) {
    for (const node::Json& one : *list) {
      if (one.is_string()) holders += (holders.empty() ? "" : " ") + one.get<std::string>();
    }
  }
  holders_ = holders;
  const bool sending = node::flag_of(event, "sending");
  if (node::number_of(event, "level") >= 2) {
    if (id >= safe_) window_ns_ = node::number_of(event, "window_ns");
    safe_ = std::max(safe_, id);
    is_lost_ = false;
    unsafe_ns_ = 0;
  } else {
    if (id == safe_) is_lost_ = true;
    if (!why.empty() && !sending) {
      tried_ = std::max(tried_, id);
      if (unsafe_ns_ == 0) unsafe_ns_ = rawsys::now_ns();
    }
  }
  if (!all && !why.empty() && trouble_ != why) {
    say_(sequence_words(event) + " has " + std::to_string(node::number_of(event, "parts")) +
         " of " + std::to_string(node::number_of(event, "of")) + " parts: " + why);
    trouble_ = why;
  } else if (all && !trouble_.empty()) {
    say_(sequence_words(event) + " has all its parts again");
    trouble_.clear();
  }
}

std::string Protector::no_flush_words() const {
  return "the crstored at " + finder_.socket() + " has no directory to flush to; " +
         (finder_.is_private() ? "give it `flush = DIR` in its configuration, see crstored(8)"
                               : "start it with --flush DIR");
}

void Protector::on_answer(const node::Json& answer) {
  accepted_ = true;
  finder_.keep();
  version_++;
  flush_dir_ = node::text_of(answer, "flush");
  if (const std::string notice = node::text_of(answer, "notice"); !notice.empty()) say_(notice);
  if (options_.has_flush() && flush_dir_.empty()) {
    say_("checkpoints are not flushed: " + no_flush_words());
  }
  // What it has told a connection before this one is asked for.
  if (!client_->send({{"op", "level"}})) fail(finder_.socket() + ": crstored does not read");
}

void Protector::serve() {
  while (client_) {
    const auto j = client_->receive(0);
    if (!j) break;
    heard_ns_ = rawsys::now_ns();
    asked_ns_ = 0;
    const std::string event = node::text_of(*j, "event");
    if (event == "level") {
      node::number_of(*j, "level") == 3 ? on_flushed(*j) : on_level(*j);
    } else if (node::text_of(*j, "op") == "flush") {
      on_flush_answer(*j);
    } else if (!event.empty()) {
      // how far a flush is
    } else if (node::flag_of(*j, "ok")) {
      if (!node::flag_of(*j, "can_protect")) on_answer(*j);
    } else {
      return fail(node::text_of(*j, "error"));
    }
  }
  if (client_ && client_->gone())
    fail(finder_.socket() + ": crstored went away; it is tried again");
}

void Protector::look(uint64_t epoch, uint64_t sequence) {
  const bool has_checkpoint = sequence != 0;
  if (!wanted() || (!has_checkpoint && !finder_.may_start())) return;
  if (!client_) {
    if (rawsys::now_ns() < retry_ns_) return;
    told_epoch_ = epoch;
    told_sequence_ = sequence;
    return connect(has_checkpoint);
  }
  if (told_epoch_ == epoch && told_sequence_ == sequence) return;
  told_epoch_ = epoch;
  told_sequence_ = sequence;
  const bool sent =
      asked_ ? client_->send({{"op", "committed"}, {"sequence", sequence}}) : ask(has_checkpoint);
  if (!sent) {
    fail(finder_.socket() + (client_->gone() ? ": crstored went away; it is tried again"
                                             : ": crstored does not read"));
  }
}

uint64_t Protector::next_ns() const {
  return wanted() && !client_ && retry_ns_ != 0 ? retry_ns_ : ~uint64_t{0};
}

Protector::Standing Protector::standing(int level, const CheckpointId& id) const {
  const auto never = [](const std::string& why) { return Standing{false, true, why, 0}; };
  if (!wanted()) {
    return never(
        "this session is not protected: start it with crrun --protect, or set crattr.protect");
  }
  if (level == 2 && protection_.parity == 0) {
    return never("--protect=none keeps nothing on other nodes; replica:2, say, does");
  }
  if (level == 3 && accepted_ && flush_dir_.empty()) {
    return never(no_flush_words());
  }
  const bool is_there = level == 2 ? safe_ >= id && !is_lost_ : flushed_ >= id;
  if (is_there) return {true, false, "", 0};
  if (!accepted_) {
    return {false, false,
            trouble_.empty() ? finder_.socket() + ": crstored does not answer" : trouble_,
            away_ns_};
  }
  if (level == 3 && !flush_trouble_.empty())
    return {false, false, flush_trouble_, flush_trouble_ns_};
  if (level == 2 && unsafe_ns_ != 0 && tried_ >= id) return {false, false, trouble_, unsafe_ns_};
  return {};
}

void Protector::flush(const CheckpointId& id) {
  if (!accepted_ || flush_asked_ || flushed_ >= id || rawsys::now_ns() < flush_retry_ns_) return;
  flush_asked_ = true;
  if (!client_->send({{"op", "flush"}, {"name", session_}})) {
    fail(finder_.socket() + ": crstored does not read");
  }
}

uint64_t Protector::look_for_life() {
  if (!client_ || !asked_) return next_ns();
  const uint64_t now = rawsys::now_ns();
  if (asked_ns_ != 0 && now >= asked_ns_ + kDeadNs) serve();  // we may have been busy ourselves
  if (!client_) return next_ns();
  if (asked_ns_ != 0 && now >= asked_ns_ + kDeadNs) {
    fail(finder_.socket() + ": crstored does not answer; it is tried again");
    return retry_ns_;
  }
  if (asked_ns_ == 0 && now >= heard_ns_ + kQuietNs) {
    asked_ns_ = now;
    // Before it has said yes it still owes that answer.
    if (accepted_ && !client_->send({{"op", "level"}})) {
      fail(finder_.socket() + ": crstored does not read");
      return retry_ns_;
    }
  }
  return asked_ns_ != 0 ? asked_ns_ + kDeadNs : heard_ns_ + kQuietNs;
}

format::Levels Protector::levels() const {
  format::Levels l{};
  if (!wanted()) return l;
  l.safe_epoch = safe_.epoch;
  l.safe_sequence = safe_.sequence;
  l.flushed_epoch = flushed_.epoch;
  l.flushed_sequence = flushed_.sequence;
  l.window_ns = window_ns_;
  l.is_kept = accepted_ ? 1 : 0;
  std::string text = trouble_;
  if (!trouble_.empty()) l.degraded |= 1u << 2;
  if (!flush_trouble_.empty()) {
    l.degraded |= 1u << 3;
    text += (text.empty() ? "" : "; ") + flush_trouble_;
  }
  rawsys::str_copy(l.protect, options_.spec.c_str(), sizeof(l.protect));
  rawsys::str_copy(l.holders, holders_.c_str(), sizeof(l.holders));
  rawsys::str_copy(l.flush_dir, flush_dir_.c_str(), sizeof(l.flush_dir));
  rawsys::str_copy(l.trouble, text.c_str(), sizeof(l.trouble));
  return l;
}

}  // namespace cr::agent
