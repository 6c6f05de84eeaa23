// SPDX-License-Identifier: MIT
// error.cc - see error.h. Invariant: as there. Context: N.
#include "api/error.h"

#include <checkpoint_restore.h>
#include <errno.h>
#include <string.h>

#include "rawsys/rawsys.h"

namespace cr::api {
namespace {
__thread char t_error[768];
}

void set_error(const char* text) { rawsys::str_copy(t_error, text, sizeof(t_error)); }

int fail(const Error& e, const char* detail) {
  const int number = errno_of(e);
  rawsys::LineBuffer<sizeof(t_error)> line;
  line.text(e.what);
  if (detail != nullptr && detail[0] != 0) line.text(": ").text(detail);
  if (e.sys_errno != 0 && e.code != Errc::kAgentStart) {
    line.text(": ").text(strerrordesc_np(e.sys_errno) != nullptr ? strerrordesc_np(e.sys_errno)
                                                                 : "unknown error");
  }
  set_error(line.c_str());
  errno = number;
  return -1;
}

}  // namespace cr::api

const char* crerror(void) { return cr::api::t_error; }
