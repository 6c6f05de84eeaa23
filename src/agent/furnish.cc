// SPDX-License-Identifier: MIT
// furnish.cc - see furnish.h. Invariant: as there. Context: N (agent).
#include "agent/furnish.h"

#include "agent/file_locks.h"
#include "agent/file_owners.h"
#include "agent/kind_pty.h"
#include "agent/kinds.h"
#include "agent/plugins.h"
#include "agent/posix_timers.h"
#include "agent/restore_sockets.h"
#include "agent/semaphores.h"
#include "agent/traits.h"

namespace cr::agent {

void furnish_process(const format::ImageView& image, bool make, Recipes& recipes) {
  restore_by_plugins(image, recipes.early);
  furnish_files(image, make, recipes);
  furnish_sockets(image, recipes.early);
  take_controlling_terminal(image, recipes.early);
  take_locks(image, recipes.early);
  set_owners(image, recipes.early);
  adopt_semaphores(image, recipes.early);
  make_posix_timers(image, recipes.late);
  adopt_process_traits(image, recipes);
}

}  // namespace cr::agent
