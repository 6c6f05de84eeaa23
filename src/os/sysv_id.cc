// SPDX-License-Identifier: MIT
// sysv_id.cc - see sysv_id.h. Invariant: as there. Context: N.
#include "os/sysv_id.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "os/fd.h"

namespace cr::os {

int make_with_id(const SysvKind& kind, int id) {
  constexpr int kTries = 200;  // others that make some get the id, or its place, in between
  const Fd asking(open(kind.asking, O_WRONLY | O_CLOEXEC));
  const std::string wanted = std::to_string(id);
  for (int left = kTries;; left--) {
    const bool asked = asking && pwrite(asking.get(), wanted.data(), wanted.size(), 0) > 0;
    const int made = kind.make();
    if (made < 0 || made == id || !asked || left <= 1) return made;
    kind.remove(made);
  }
}

}  // namespace cr::os
