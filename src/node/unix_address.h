// SPDX-License-Identifier: MIT
// unix_address.h - the address of a UNIX socket, however long its directory's path is.
// Invariant: what it gives is the socket of that path, also if that has more than 107 bytes.
// Context: N.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/un.h>

#include <string>

#include "os/fd.h"

namespace cr::node {

// To be kept until bind(2) or connect(2) has returned.
struct UnixAddress {
  sockaddr_un address{};
  os::Fd dir;  // of a long path: by which the address leads there

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

inline Result<UnixAddress> unix_address(const std::string& path, std::string* ret_text) {
  UnixAddress a;
  a.address.sun_family = AF_UNIX;
  std::string name = path;
  if (name.size() >= sizeof(a.address.sun_path)) {
    const size_t slash = path.find_last_of('/');
    if (slash != std::string::npos) {
      a.dir = os::Fd(open(path.substr(0, slash + 1).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    }
    if (!a.dir) {
      *ret_text = path + ": " + strerror(slash != std::string::npos ? errno : ENAMETOOLONG);
      return Error{Errc::kSystem, errno, "opening the socket's directory"};
    }
    name = "/proc/self/fd/" + std::to_string(a.dir.get()) + path.substr(slash);
  }
  if (name.size() >= sizeof(a.address.sun_path)) {
    *ret_text = path + ": the name of a socket has at most 90 bytes; give a shorter one";
    return Error{Errc::kInvalid, ENAMETOOLONG, "the socket's name is too long"};
  }
  memcpy(a.address.sun_path, name.data(), name.size());
  return a;
}

}  // namespace cr::node
