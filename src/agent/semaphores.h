// SPDX-License-Identifier: MIT
// semaphores.h - the System V semaphores that a process uses: values, and what its end would undo.
// Invariant: no set of anybody else's is touched. Context: N (agent).
// Doc: docs/ARCHITECTURE.md, "System V semaphores".
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "agent/recipe.h"
#include "agent/world.h"
#include "format/image_reader.h"
#include "store/model.h"

namespace cr::agent {

// Who has used each set of this machine last, remembered as long as the set shows no new use.
class SemaphoreUsers {
 public:
  // Sets of which this process was the last to use a semaphore: also such as it knows by no call of
  // the library's.
  void find(pid_t pid, std::set<int32_t>* ret);

 private:
  struct Set {
    long used_s = 0, changed_s = 0, asked_s = 0;
    std::vector<pid_t> users;
  };
  std::map<int32_t, Set> sets_;
};

// table: address of the program's SemaphoreTable; 0: none. The threads have been described.
Trouble describe_semaphores(World& world, pid_t pid, uint64_t table, SemaphoreUsers& users,
                            store::Model& model);

// Makes the sets that are gone, and gives all of them their values. done: ids that have been dealt
// with, for another process. undo: gets what takes it back.
Trouble set_semaphores(const format::ImageView& image, std::set<int32_t>* done,
                       const std::function<void(std::function<void()>)>& undo);

// Why that cannot be done without making one, "" if it can.
std::string missing_semaphores(const format::ImageView& image);

// What the process does then: it takes its adjustments on itself again.
void adopt_semaphores(const format::ImageView& image, Recipe& recipe);

}  // namespace cr::agent
