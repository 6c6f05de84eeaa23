// SPDX-License-Identifier: MIT
// base.cc - the one table from Errc to errno and to a name.
// Invariant: every Errc has a row. Context: N, H, S, R.
#include "base/base.h"

#include <errno.h>

namespace cr {
namespace {
struct Row {
  Errc code;
  int posix_errno;
  const char* name;
};
constexpr Row kRows[] = {
    {Errc::kOk, 0, "ok"},
    {Errc::kInvalid, EINVAL, "invalid argument"},
    {Errc::kSystem, EIO, "system call failed"},
    {Errc::kNoMemory, ENOMEM, "out of memory"},
    {Errc::kNotInitialised, EPERM, "not initialised"},
    {Errc::kAlready, EALREADY, "already initialised"},
    {Errc::kBusy, EBUSY, "in use"},
    {Errc::kNotFound, ENOENT, "not found"},
    {Errc::kUnsupported, ENOTSUP, "cannot be saved"},
    {Errc::kCannotStop, ETIMEDOUT, "a thread could not be stopped"},
    {Errc::kAgentGone, EPIPE, "the agent is gone"},
    {Errc::kForeign, EBADMSG, "foreign"},
    {Errc::kDamaged, EBADMSG, "damaged"},
    {Errc::kTooNew, EBADMSG, "too new"},
    {Errc::kWrongMachine, ENOEXEC, "wrong machine"},
    {Errc::kNotWhole, ENOENT, "no whole checkpoint"},
    {Errc::kDeadlock, EDEADLK, "would deadlock"},
    {Errc::kPermission, EPERM, "not permitted"},
    {Errc::kTimeout, ETIMEDOUT, "timed out"},
    {Errc::kAgentStart, EIO, "the agent did not start"},
};
static_assert(sizeof(kRows) / sizeof(kRows[0]) == static_cast<size_t>(Errc::kLast) + 1);
}  // namespace

int errno_of(const Error& e) {
  if (e.sys_errno != 0) return e.sys_errno;
  for (const Row& r : kRows) {
    if (r.code == e.code) return r.posix_errno;
  }
  return EIO;
}

const char* name_of(Errc code) {
  for (const Row& r : kRows) {
    if (r.code == code) return r.name;
  }
  return "unknown";
}

}  // namespace cr
