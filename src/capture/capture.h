// SPDX-License-Identifier: MIT
// capture.h - copy the pages of the stopped process to staging, and ask what only the process
// itself can ask.
// Invariant: nothing of the program is modified; a page that cannot be read is an error, never
// left out in silence.
// Context: S. Doc: docs/ARCHITECTURE.md, "One checkpoint".
#pragma once

#include "base/base.h"
#include "capture/page_hashes.h"
#include "capture/soft_dirty.h"
#include "format/channel.h"

namespace cr::capture {

// Proof that every other thread of the process is stopped; only the control loop makes one, when
// the agent says so.
class Stopped {
 public:
  Stopped(const Stopped&) = delete;
  Stopped& operator=(const Stopped&) = delete;

 private:
  friend class StoppedScope;
  Stopped() = default;
};

class StoppedScope {
 public:
  StoppedScope() = default;
  const Stopped& proof() const { return stopped_; }

 private:
  Stopped stopped_;
};

struct Files {
  int staging = -1;  // where pages go
  int pagemap = -1;
  int mem = -1;         // reads what the program may not
  int tracker = -1;     // userfaultfd; -1: writes cannot be tracked
  int clear_refs = -1;  // -1: there are no soft-dirty marks
};

// What is known of the pages from one command to the next.
struct Memory {
  PageHashes hashes;
  SoftDirty soft_dirty;
  bool marked = false;  // pages of this process have been marked as not written (userfaultfd)
};

// Works through the range table of `channel` from its cursor until the end or until staging or the
// run table is full (channel.more). Fills run_count and the runs. Returns 0 or -errno.
long copy_pages(const Stopped& stopped, format::ChannelHeader& channel, const Files& files,
                Memory& memory);

// To be called once in the stop, before the first copy_pages() and before anybody makes a thread of
// the program do or has written to its memory: what is written from here on counts for the next
// checkpoint. 0 or -errno.
long begin_capture(const Stopped& stopped, format::ChannelHeader& channel, const Files& files,
                   Memory& memory);

// Makes writes to the private mappings of the table of ranges count from now on, for those that are
// not tracked yet (userfaultfd), or for all (soft-dirty marks: what has been written before is
// remembered for copy_early). A mapping that cannot be tracked is no error
// (channel.untrackable_bytes). 0 or -errno.
long track_ranges(const Stopped& stopped, format::ChannelHeader& channel, const Files& files,
                  Memory& memory);

// Makes room to remember about that many pages, by channel.tracking; without it everything is
// copied. 0 or -errno. Context: N, control thread.
long reserve(uint64_t pages, const format::ChannelHeader& channel, Memory& memory);

// As copy_pages, while the program runs: copies what was written since the last capture, or early
// copy, in mappings that are tracked; a page may be torn, but then it counts as written again, or
// will differ from its hash. What
// could not be copied, because the mappings change meanwhile, is spoiled. Returns 0 or -errno.
// Context: N, control thread.
long copy_early(format::ChannelHeader& channel, const Files& files, Memory& memory);

// Fills channel.process. Returns 0 or -errno.
long describe_process(const Stopped& stopped, format::ChannelHeader& channel);

}  // namespace cr::capture
