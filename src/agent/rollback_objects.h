// SPDX-License-Identifier: MIT
// rollback_objects.h - restore() in place: what must be done to memory and files that the program
// shares so that they are again as the newest image has them.
// Invariant: finding out changes nothing; an object that is not the one of the image, or cannot be
// written for sure, is a reason not to do it in place.
// Context: N (agent), while the program is stopped. Doc: docs/ARCHITECTURE.md, "restore() in
// place".
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "agent/sysv_segment.h"
#include "os/fd.h"
#include "os/proc.h"
#include "store/buffer.h"

namespace cr::agent {

struct ObjectsNow {
  const std::vector<os::MapEntry>& maps;
  const format::ImageView& image;
  pid_t pid, tid;
  int pidfd;
};

struct ObjectChange {
  struct Pages {
    uint64_t off, bytes;
    const uint8_t* from;  // in the image; nullptr: zeros
  };
  struct One {
    std::string name;
    os::Fd fd;
    SysvAttachment segment;
    uint64_t bytes = 0, bytes_now = 0;
    std::vector<Pages> pages;  // that differ
  };
  std::vector<One> all;
};

// Fills *ret. Returns why this cannot be done in place; "" if it can.
std::string find_object_change(const ObjectsNow& now, ObjectChange* ret);

// "" or what went wrong.
std::string put_objects_back(ObjectChange& change);

}  // namespace cr::agent
