// SPDX-License-Identifier: MIT
// describe_objects.h - the memory and files that mappings and descriptors of the stopped program
// share: memfds, System V and POSIX shared memory, files that are mapped shared and writable.
// Invariant: one object, one record, however many mappings and descriptors there are; what cannot
// be brought back is refused with its name.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Shared memory".
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "agent/world.h"
#include "os/proc.h"
#include "store/model.h"

namespace cr::agent {

// "mapping START-END of NAME", for messages.
std::string name_of_mapping(const os::MapEntry& m);

inline constexpr int kNoObject = -1;

// How what is mapped or open is known again.
struct ObjectKey {
  bool sysv = false;  // its number is no inode number
  uint64_t dev = 0, ino = 0;
  std::string name;
};
ObjectKey key_of(const os::MapEntry& m);

// Number of the object in the model, or kNoObject.
int find_object(const store::Model& model, const ObjectKey& key);

// Which bytes of it the image has: all, or those that are mapped; rising, in whole pages but for
// the end of the object.
struct ObjectPart {
  uint64_t from, to;
};
std::vector<ObjectPart> stored_parts(const format::ObjectRecord& object,
                                     std::span<const format::SegmentRecord> segments,
                                     uint32_t number);

// Has the program a shared mapping of it that it may write to? What it could only read is not its
// to put back.
bool may_write(std::span<const format::SegmentRecord> segments, uint32_t number);

// MAP_SHARED | MAP_ANONYMOUS, or shared mapping of /dev/zero.
bool is_shared_anonymous(const os::MapEntry& m);

// A mapping of something with an inode number that can be known again by it.
bool may_be_object(const os::MapEntry& m);

// What is outside of the map. The program's descriptors are only looked at if it is asked.
class OpenFiles {
 public:
  // among_processes: inodes of shared anonymous memory that several processes map.
  OpenFiles(pid_t pid, pid_t control_tid, const std::vector<uint64_t>& among_processes)
      : pid_(pid), control_tid_(control_tid), among_processes_(among_processes) {}
  bool is_among_processes(uint64_t ino) const {
    return std::ranges::count(among_processes_, ino) != 0;
  }
  bool has(const ObjectKey& key);
  bool was_asked() const { return asked_; }

 private:
  pid_t pid_, control_tid_;  // the control thread has descriptors of its own
  bool asked_ = false;
  std::vector<ObjectKey> all_;
  const std::vector<uint64_t>& among_processes_;
};

// Adds to the model the objects that these mappings share. ret_objects: for each mapping the number
// of its object, or kNoObject.
Trouble describe_objects(const std::vector<os::MapEntry>& maps, OpenFiles& open,
                         store::Model& model, std::vector<int>* ret_objects);

// Of a descriptor of a regular file: a memfd, or a file without a name that is mapped, is an
// object. name: for messages. ret_object: kNoObject if it is none.
Trouble object_of_descriptor(const std::string& name, const ObjectKey& key, store::Model& model,
                             int* ret_object);

}  // namespace cr::agent
