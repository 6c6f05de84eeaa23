// SPDX-License-Identifier: MIT
// namespaces.cc - unshare and setns of the C library. The kernel refuses some of them to a process
// with several threads, of which one may be ours.
// Invariant: to the caller each is the C library's. The thread's going costs no more than what the
// next checkpoint would have known of changes.
// Context: N. Doc: docs/ARCHITECTURE.md, "The control thread".
#include <errno.h>

#include "control/control.h"
#include "rawsys/rawsys.h"

#define CR_EXPORT __attribute__((visibility("default")))

namespace {

using cr::rawsys::is_error;
using cr::rawsys::sys;

// EINVAL: of a user namespace, or a mount namespace while another thread has the same working
// directory; EUSERS: of a time namespace.
long call_alone(long number, long a, long b) {
  long r = sys(number, a, b);
  if ((r == -EINVAL || r == -EUSERS) && cr::control::give_way()) {
    r = sys(number, a, b);
    if (is_error(r)) {
      cr::control::come_back();
    } else {
      cr::control::allow_joining();
    }
  }
  if (!is_error(r)) return r;
  errno = static_cast<int>(-r);
  return -1;
}

}  // namespace

extern "C" {

CR_EXPORT int unshare(int flags) { return static_cast<int>(call_alone(__NR_unshare, flags, 0)); }

CR_EXPORT int setns(int fd, int kind) { return static_cast<int>(call_alone(__NR_setns, fd, kind)); }

}  // extern "C"
