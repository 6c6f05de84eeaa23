// SPDX-License-Identifier: MIT
// fault.h - the named points of the protocol at which tests end everything, or have something fail.
// Invariant: without CR_FAULT in the environment a point costs one load.
// Context: N. CR_FAULT=name[:nth] ends the agent and the program it serves by SIGKILL when the
// point is reached for the nth time (default first); CR_FAULT_SCOPE=agent or =program only one of
// them.
// CR_FAULT=name:nth=ERROR has what is done there fail that once, where fault_error() is asked:
// with EIO, ENOSPC or EROFS; with `hang` the thread stands still there for ever, with `halt` the
// whole process until it gets a SIGCONT.
#pragma once

#include <sys/types.h>

namespace cr::os {

enum class FaultPoint {
  kCopiedEarly,        // trigger seen; pages were copied while the program runs
  kBeforeStop,         // staging for the stop is set aside
  kStopped,            // all threads are stopped
  kThreadsAsked,       // the first of them runs our code, to report
  kThreadsDescribed,   // registers are with the agent
  kHelping,            // the agent copies some of many pages
  kCaptured,           // pages are in staging, still stopped
  kResumed,            // the program runs again, nothing written
  kAnswered,           // a call of checkpoint(), if that is what it was, has been answered
  kLockCleared,        // WRITE_LOCK=0 issued, no barrier yet
  kLockClearedSynced,  // ... and durable
  kPagesHalf,          // half of the pages issued
  kPagesWritten,       // all pages issued
  kMetadataWritten,    // METADATA issued
  kPayloadSynced,      // pages and METADATA durable
  kCommitted,          // WRITE_LOCK=1 issued, no barrier yet
  kCommittedSynced,    // ... and durable
  kRestorePlanned,     // crrestore: plan made, nothing started
  kRestoreExec,        // crrestore: process made
  kRestoreTaken,       // crrestore: plan and descriptors handed over
  kRestoreAttached,    // crrestore: control thread is there
  kRollbackPlanned,    // restore() in place: all is known, nothing changed
  kRollbackMapped,     // ... mappings are as they were, pages are not
  kRollbackFilled,     // ... pages are
  kRollbackDone,       // ... everything is; the program is still held
  kPartLocked,         // crstored: a part's WRITE_LOCK=0, nothing else written
  kPartReceived,       // ... a chunk of it is in the file
  kPartWritten,        // ... all of it issued
  kPartCommitted,      // ... WRITE_LOCK=1 issued, no barrier yet
  kPartAnswered,       // ... durable, and its source was told
  kOffersSent,         // crstored of a session's node: the holders were asked to take parts in
  kRowsSent,           // ... all rows are handed over, the description is not
  kCommitSent,         // ... the others were told to commit, this node's own part is not committed
  kOwnCommitted,       // ... it is
  kTransferSettled,    // ... each holder has committed or failed
  kImageMade,          // crstored: an image made of parts, WRITE_LOCK=0
  kCount,
};

const char* name_of(FaultPoint p);
void fault_point(FaultPoint p);
// The same, and the errno that what is done there is to fail with; 0: it goes on.
int fault_error(FaultPoint p);
// Whom to end besides ourselves; 0 nobody.
void set_fault_victim(pid_t pid);

}  // namespace cr::os
