// SPDX-License-Identifier: MIT
// disk_words.cc - see disk_words.h. Invariant: as there. Context: N.
#include "node/disk_words.h"

#include <errno.h>
#include <string.h>

namespace cr::node {

std::string words_of(const Error& e) {
  return std::string(e.what) + (e.sys_errno != 0 ? std::string(": ") + strerror(e.sys_errno) : "");
}

const char* next_step(int sys_errno) {
  switch (sys_errno) {
    case ENOSPC:
    case EDQUOT:
      return "make room there, or let fewer checkpoints be kept";
    case EROFS:
      return "mount the file system for writing, or name another directory";
    case EACCES:
    case EPERM:
      return "let the user that crstored runs as write there, or name another directory";
    case ENOENT:
    case ENOTDIR:
    case ENOTCONN:
    case ESTALE:
      return "mount the file system, or make the directory";
    case EIO:
      return "see what the file system's log says";
    case ELOOP:
      return "name a directory that is no symbolic link";
    default:
      return "see that the directory can be written";
  }
}

std::string disk_words(const std::string& path, const Error& e) {
  std::string text = path + ": " + words_of(e);
  if (e.code == Errc::kSystem) text += std::string("; ") + next_step(e.sys_errno);
  return text;
}

}  // namespace cr::node
