// SPDX-License-Identifier: MIT
// vdso.h - comparing the image's vDSO with this kernel's.
// Invariant: never reads outside the given bytes. Context: N (agent).
#pragma once

#include <stdint.h>

#include <span>
#include <vector>

#include "format/plan.h"

namespace cr::agent {

struct OwnVdso {
  std::span<const uint8_t> text;  // empty: there is none
  uint64_t distance = 0;          // from the first [vvar*] mapping to [vdso]
  uint64_t bytes = 0;             // of all of them
};
OwnVdso own_vdso();

// Entry points of the old vDSO and where the new one has the same function. false: some function
// that libc may call has no counterpart.
bool match_vdso(std::span<const uint8_t> old_text, std::span<const uint8_t> new_text,
                std::vector<format::PlanVdsoPatch>* ret_patches);

}  // namespace cr::agent
