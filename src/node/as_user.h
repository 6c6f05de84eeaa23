// SPDX-License-Identifier: MIT
// as_user.h - files of one thread with the rights of another user, and in between with our own.
// Invariant: at the end of a scope the thread has the rights that it had at its beginning, but for
// supplementary groups, which are gone.
// Context: N; concerns the calling thread alone. Takes root; others change nothing.
#pragma once

#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

namespace cr::node {

class FileUser {
 public:
  FileUser(uid_t uid, gid_t gid) {
    if (geteuid() != 0) return;
    const auto none = static_cast<uid_t>(-1);  // changes nothing, and says what is
    uid_ = static_cast<uid_t>(setfsuid(none));
    gid_ = static_cast<gid_t>(setfsgid(none));
    changed_ = uid_ != uid || gid_ != gid;
    if (changed_) become(uid, gid);
  }
  ~FileUser() {
    if (changed_) become(uid_, gid_);
  }
  FileUser(const FileUser&) = delete;
  FileUser& operator=(const FileUser&) = delete;

 private:
  static void become(uid_t uid, gid_t gid) {
    syscall(SYS_setgroups, 0, nullptr);
    setfsuid(0);  // who is somebody else may not change the group
    setfsgid(gid);
    setfsuid(uid);
  }
  uid_t uid_ = 0;
  gid_t gid_ = 0;
  bool changed_ = false;
};

}  // namespace cr::node
