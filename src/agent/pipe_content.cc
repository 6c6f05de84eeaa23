// SPDX-License-Identifier: MIT
// pipe_content.cc - see pipe_content.h. Context: N (agent).
#include "agent/pipe_content.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "os/fd.h"

namespace cr::agent {

bool peek_pipe(int read_end, std::string* ret) {
  int waiting = 0;
  if (ioctl(read_end, FIONREAD, &waiting) != 0) return false;
  ret->assign(static_cast<size_t>(waiting), '\0');
  if (waiting == 0) return true;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return false;
  os::Fd r(ends[0]), w(ends[1]);
  const int bytes = fcntl(read_end, F_GETPIPE_SZ);
  fcntl(w.get(), F_SETPIPE_SZ, bytes);
  if (tee(read_end, w.get(), static_cast<size_t>(bytes), SPLICE_F_NONBLOCK) < waiting) return false;
  size_t done = 0;
  while (done < ret->size()) {
    const ssize_t k = read(r.get(), ret->data() + done, ret->size() - done);
    if (k <= 0) return false;
    done += static_cast<size_t>(k);
  }
  return true;
}

}  // namespace cr::agent
