// SPDX-License-Identifier: MIT
// checkpoint.cc - one checkpoint from trigger to commit.
// Invariant: whatever fails, the program runs on unchanged and the older whole buffer is untouched.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One checkpoint".
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "agent/captured_memory.h"
#include "agent/process_tree.h"
#include "agent/rollback_memory.h"
#include "agent/session.h"
#include "agent/traits.h"
#include "os/fault.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using os::fault_point;
using os::FaultPoint;

}  // namespace

Trouble Session::open_writer(const format::SuperBlock& super) {
  if (writer_ != nullptr) return {};
  const int index = newest_ == 0 ? 1 : 0;
  auto w = store::BufferWriter::open(options_.dir, index, options_.durable, buffers_[index]);
  if (!w) {
    return trouble(w.error().code, w.error().sys_errno,
                   store::describe_error(store::buffer_path(options_.dir, index), w.error()));
  }
  writer_ = std::move(*w);
  auto r = writer_->begin(super);
  if (r && pages_.has_basis()) r = writer_->set_last(options_.dir, newest_, buffers_[newest_]);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(store::buffer_path(options_.dir, index), r.error()));
  }
  return {};
}

Trouble Session::append(Attempt& a) {
  auto keep_zero = [](void* context, uint64_t addr) {
    return store::is_of_file(*static_cast<const store::Model*>(context), addr);
  };
  if (progress_) {
    writer_->set_progress([this](uint64_t done, uint64_t total) {
      tell_progress(format::kPhaseWriting, done, total);
    });
  }
  auto r = writer_->append(a.model, staging_map_.data(), a.runs, keep_zero, &a.model);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(options_.dir, r.error()));
  }
  return {};
}

void Session::prepare(World& world) const {
  world.set_nested(nested_);
  world.set_last_resume(last_resume_ns_);
  world.set_vdso(vdso_start_, vdso_end_);
  world.set_restorer(leftover_.start, leftover_.start + leftover_.bytes);
}

// The program runs again.
Trouble Session::write_image(Attempt& a) {
  add_vm_flags(smaps_, a.model);
  Trouble bad = open_writer(a.super);
  if (bad.bad()) return bad;
  a.runs = pages_.resolve(a.runs);
  if (!a.free_known) {
    const CapturedMemory memory(a.runs, staging_map_.data(), *writer_);
    find_free_ranges([&](uint64_t at, void* to, size_t n) { return memory.read(at, to, n); }, a);
  }
  a.runs = without(a.runs, a.free_ranges);
  bad = append(a);
  if (bad.bad()) return bad;
  for (const format::SegmentRecord& s : a.model.segments) {
    if (s.prot != 0) a.super.memory_bytes += s.end - s.start;
  }
  describe_interval(&a.super);
  tell_progress(format::kPhaseSyncing, 0, 0);
  bad = keeper().write();
  if (bad.bad()) return bad;
  auto r = writer_->commit(a.model, &a.super);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(options_.dir, r.error()));
  }
  a.without.add(a.free_ranges);
  pages_.commit(std::move(a.without), static_cast<int64_t>(a.super.realtime_ns));
  return {};
}

// All that can be done while the program runs.
Trouble Session::before_stop(Attempt& a, bool stands_still) {
  if (!attached()) {
    return trouble(
        Errc::kNotInitialised, 0,
        "the program has not attached: it did not load libcrpreload.so (yet), or it has ended");
  }
  if (!entered_.empty()) {
    return trouble(Errc::kUnsupported, 0,
                   name_of_process(pid_) + " has entered another namespace (" + entered_ +
                       "): a restore would not bring it back there; start crrun inside of it, or "
                       "checkpoint when it has ended");
  }
  Trouble bad = prepare_staging();
  if (bad.bad()) return bad;
  finish_stop();
  bad = check_control_filters(pid_, control_tid_);
  if (bad.bad()) return bad;
  a.begin_ns = rawsys::now_ns();
  read_lasting();
  bad = choose_back_end();
  if (bad.bad()) return bad;
  // Too early is right, too late is not: what moves the count meanwhile only makes a rollback look
  // where it need not. Reading it between the last early pass and the stop would give the program
  // time to write.
  a.lazy_free = lazy_free_count();
  quick_.make_room();
  pages_.begin(tracks());
  keeper().begin(pid_, control_tid_, begins_later_);
  const bool early = !stands_still && tracks() && options_.heap == HeapMode::kNone;
  if (early && !few_are_expected()) bad = copy_early(a);
  fault_point(FaultPoint::kCopiedEarly);
  if (!bad.bad()) bad = reserve_staging(stands_still);
  if (bad.bad()) return bad;
  fault_point(FaultPoint::kBeforeStop);
  return {};
}

Trouble Session::stop(Attempt& a, std::unique_ptr<World> stopped) {
  a.super.epoch = epoch_;
  a.super.sequence = sequence_ + 1;
  a.super.attempt = attempt_number();
  memcpy(a.super.session_id, session_id_, sizeof(session_id_));
  const bool stands_still = stopped != nullptr;
  if (stands_still) {
    a.world = std::move(stopped);
    a.world->bind(control_tid_, hello_, pidfd_.get(), mem_.get(), channel());
  } else {
    a.world = std::make_unique<World>(pid_, control_tid_, hello_, pidfd_.get(), mem_.get(),
                                      channel(), unfinished_);
  }
  prepare(*a.world);
  keep_apart();  // for capture(): not in the stop, if that can be avoided
  a.stop_begin_ns = rawsys::now_ns();
  a.cpu_at_stop_ns = agent_cpu_ns();
  a.super.monotonic_ns = a.stop_begin_ns;
  a.super.realtime_ns = rawsys::clock_ns(CLOCK_REALTIME);
  Trouble bad = stands_still ? Trouble{} : a.world->stop();
  // All threads are looked at before the first is told to stop.
  if (a.world->stopping_since_ns() > a.stop_begin_ns)
    a.stop_begin_ns = a.world->stopping_since_ns();
  if (bad.bad()) let_together();
  if (!bad.bad()) fault_point(FaultPoint::kStopped);
  return bad;
}

// `stop`: the stop signal is pending when the threads are let go. `kill`: nothing runs on before
// the image is whole.
void Session::let_go(Attempt& a, bool failed) {
  if (a.world == nullptr) return;
  died_ = died_ || a.world->died(&died_status_);
  if (failed && a.files_before) keeper().not_captured(mem_.get(), hello_.state, *a.files_before);
  if (!failed && a.then == 1) kill(pid_, SIGSTOP);
  if (failed || a.then != 2) {
    a.world->resume();
    last_resume_ns_ = rawsys::now_ns();
    died_ = died_ || a.world->died(&died_status_);
  }
  attempt_.pause_ns += rawsys::now_ns() - a.stop_begin_ns;
  if (control_cpus_) let_together();
  a.super.pause_ns = attempt_.pause_ns;
  cpu_in_stop_ns_ = agent_cpu_ns() - a.cpu_at_stop_ns;
}

void Session::after_stop(const Attempt& a) {
  if (leftover_.bytes == 0 || a.then == 2) return;
  channel()->arg0 = leftover_.start;  // every thread was met outside of it
  channel()->arg1 = leftover_.bytes;
  if (!command(format::kCommandUnmap, 1000000000, nullptr).bad()) leftover_ = {};
}

// Said again only when it has become twice as bad.
void Session::tell_full_staging(const Attempt& a) {
  if (a.then != 0 || a.portions_pages == 0 || !notice_.empty()) return;
  if (a.super.pause_ns <= 2 * told_full_ns_) return;
  told_full_ns_ = a.super.pause_ns;
  char text[300];
  snprintf(text, sizeof(text),
           "the staging memory (%" PRIu64 " MiB) was full, so %" PRIu64
           " MiB were written while the program stood still, for %.3g s; allow more of it "
           "(--staging), or take checkpoints more often",
           staging_pages_ * kPageSize >> 20, a.portions_pages * kPageSize >> 20,
           static_cast<double>(a.super.pause_ns) / 1e9);
  notice_ = text;
}

// The image is whole.
void Session::accept(Attempt& a) {
  tell_full_staging(a);
  if (!is_member_) files_.committed();
  last_copied_pages_ = early_pages_ + a.copied_pages;
  if (early_pages_ > 0) last_late_pages_ = last_copied_pages_ - first_found_pages_;
  newest_ = newest_ == 0 ? 1 : 0;
  sequence_++;
  newest_epoch_ = epoch_;
  last_lazy_free_ = a.lazy_free;
  image_bytes_ = attempt_.written_bytes = writer_->bytes_written();
  attempt_.memory_bytes = memory_bytes_ = a.super.memory_bytes;
  pause_ns_ = a.super.pause_ns;
  commit_ns_ = rawsys::now_ns() - a.begin_ns;
  realtime_ns_ = a.super.realtime_ns;
  if (a.then == 1) frozen_ = true;
  if (a.then != 2 || a.world == nullptr) return;
  kill(pid_, SIGKILL);
  a.world->resume();
  died_ = died_ || a.world->died(&died_status_);
}

void Session::revoke(const Attempt& a) {
  const int index = newest_ == 0 ? 1 : 0;  // it was not accepted yet
  writer_.reset();
  auto w = store::BufferWriter::open(options_.dir, index, options_.durable, buffers_[index]);
  if (w) (void)(*w)->begin(a.super);
  pages_.forget();
}

Trouble Session::write_ended(Attempt& a, int status) {
  a.begin_ns = a.stop_begin_ns = rawsys::now_ns();
  a.super.epoch = epoch_;
  a.super.sequence = sequence_ + 1;
  a.super.attempt = attempt_number();
  memcpy(a.super.session_id, session_id_, sizeof(session_id_));
  a.super.monotonic_ns = a.begin_ns;
  a.super.realtime_ns = rawsys::clock_ns(CLOCK_REALTIME);
  describe_interval(&a.super);
  a.model.process = {};
  a.model.process.flags = format::kProcessEnded;
  a.model.process.pid = a.model.tree[0].pid;
  a.model.sigactions.resize(64);
  a.model.tree[0].status = status;
  a.model.process.interval_ms =
      static_cast<uint32_t>(std::min(4e9, options_.interval_seconds * 1000 + 0.5));
  pages_.forget();
  Trouble bad = open_writer(a.super);
  if (bad.bad()) return bad;
  auto r = writer_->commit(a.model, &a.super);
  if (r) return {};
  return trouble(r.error().code, r.error().sys_errno,
                 store::describe_error(options_.dir, r.error()));
}

Trouble Session::take(uint32_t then, const std::function<void()>& captured) {
  Attempt a;
  a.then = then;
  Trouble bad = before_stop(a, /*stands_still=*/false);
  if (bad.bad()) return bad;
  bad = stop(a, nullptr);
  if (!bad.bad()) bad = capture(*a.world, a);
  let_go(a, bad.bad());
  if (bad.bad()) return bad;
  fault_point(FaultPoint::kResumed);
  read_vm_flags(a.map.text);  // whoever asked for the checkpoint has not seen an answer yet
  if (captured) captured();
  after_stop(a);
  bad = write_image(a);
  last_captured_ = bad;
  if (bad.bad()) return bad;
  accept(a);
  if (then == 0) quick_.offer(a.model, a.map.text, a.status);
  return {};
}

void Session::begin_checkpoint() {
  quick_.withdraw();
  begin_attempt();
}

// Whatever became of it.
void Session::end_checkpoint(const Trouble& result) {
  writer_.reset();
  quick_.clean_up();
  trim_staging(/*failed=*/result.bad());
  failed_before_ = result.bad();
  if (result.bad()) failures_++;
  end_attempt(result);
  publish(result.text);
}

format::Report Session::report_of(const Trouble& result) const {
  format::Report r{};
  r.kind = format::kMessageReport;
  r.code = static_cast<int32_t>(result.error.code);
  r.sys_errno = result.error.sys_errno;
  r.epoch = epoch_;
  r.sequence = sequence_;
  r.image_bytes = image_bytes_;
  r.pause_ns = pause_ns_;
  r.commit_ns = commit_ns_;
  rawsys::str_copy(r.text, result.text.c_str(), sizeof(r.text));
  return r;
}

Trouble Session::checkpoint(uint32_t then, const std::function<void()>& captured,
                            format::Report* ret_report) {
  begin_checkpoint();
  Trouble bad = take(then, captured);
  end_checkpoint(bad);
  *ret_report = report_of(bad);
  return bad;
}

}  // namespace cr::agent
