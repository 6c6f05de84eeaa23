// SPDX-License-Identifier: MIT
// single.cc - a program with one thread that calls checkpoint() as often as it can (the quick
// path): what it holds is wrong as soon as an image mixes two moments.
// Invariant: after checkpoint number n, in this process or a restored one, every page of its data,
// its stack array and the registers of the loop say n, and the log has n lines. Whatever does not
// is printed as TORN and ends the program with status 9.
// Context: N, an ordinary program under crrun.
//
//   single STATUS_FILE LOG_FILE
//
// STATUS_FILE gets {n, newest whole sequence, quick ones of them}, LOG_FILE a line for each n. A
// file STATUS_FILE.stop ends the program: it prints "OK", status 0.
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "checkpoint_restore.h"

namespace {

constexpr uint64_t kPageBytes = 4096, kPages = 300, kHotPages = 6, kLineBytes = 9;

struct Status {
  uint64_t number, sequence, quick;
};

uint64_t mixed(uint64_t n, uint64_t place) { return (n * 0x9e3779b97f4a7c15u) ^ place; }

[[noreturn]] void torn(uint64_t n, const char* what, uint64_t place) {
  printf("TORN at %lu: %s %lu\n", static_cast<unsigned long>(n), what,
         static_cast<unsigned long>(place));
  fflush(stdout);
  _exit(9);
}

// The first pages are written for every n, one of the others is.
bool is_written(uint64_t n, uint64_t page) {
  return page < kHotPages || page == kHotPages + n % (kPages - kHotPages);
}

void write_data(uint8_t* data, uint64_t n) {
  for (uint64_t page = 0; page < kPages; page++) {
    if (!is_written(n, page)) continue;
    auto* word = reinterpret_cast<uint64_t*>(data + page * kPageBytes);
    for (uint64_t i = 0; i < kPageBytes / 8; i += 64) word[i] = mixed(n, page);
  }
}

void check_data(const uint8_t* data, uint64_t n) {
  for (uint64_t page = 0; page < kPages; page++) {
    uint64_t last = n;  // when it was written
    while (last > 0 && !is_written(last, page)) last--;
    const auto* word = reinterpret_cast<const uint64_t*>(data + page * kPageBytes);
    for (uint64_t i = 0; i < kPageBytes / 8; i += 64) {
      if (word[i] != (last > 0 ? mixed(last, page) : 0)) torn(n, "page", page);
    }
  }
}

// Memory that is mapped anew now and then, and cannot be written now and then: what takes no
// ordinary checkpoint at such a moment does not have that.
class Changing {
 public:
  void change(uint64_t n) {
    if (n % 64 == 33 || n % 64 == 49) {
      read_only_ = n % 64 == 33;
      if (mprotect(at_, pages_ * kPageBytes, PROT_READ | (read_only_ ? 0 : PROT_WRITE)) != 0) {
        _exit(4);
      }
    }
    if (n % 64 != 1) return;
    if (at_ != nullptr) munmap(at_, pages_ * kPageBytes);
    pages_ = 1 + n / 64 % 3;
    void* at = mmap(nullptr, pages_ * kPageBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) _exit(4);
    at_ = static_cast<uint64_t*>(at);
    for (uint64_t i = 0; i < pages_; i++) at_[i * kPageBytes / 8] = n;
    since_ = n;
  }
  void check(uint64_t n, int file) const {
    const bool refused = pread(file, at_ + 1, 1, 0) != 1;
    if (refused != read_only_) torn(n, "protection of the changing mapping", refused);
    for (uint64_t i = 0; i < pages_; i++) {
      if (at_[i * kPageBytes / 8] != since_) torn(n, "page of the changing mapping", i);
    }
  }

 private:
  uint64_t* at_ = nullptr;
  uint64_t pages_ = 0, since_ = 0;
  bool read_only_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto* crcheckpoint_here = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "crcheckpoint"));
  auto* crstatus_here =
      reinterpret_cast<int (*)(struct crstatus*)>(dlsym(RTLD_DEFAULT, "crstatus"));
  if (crcheckpoint_here == nullptr || crstatus_here == nullptr) return 3;
  const std::string stop = std::string(argv[1]) + ".stop";
  const int log = open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  const int status = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  auto* data = static_cast<uint8_t*>(mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (log < 0 || status < 0 || data == MAP_FAILED) return 4;
  if (ftruncate(status, sizeof(Status)) != 0) return 4;
  volatile uint64_t on_stack[600] = {};
  Changing changing;
  for (uint64_t n = 1; access(stop.c_str(), F_OK) != 0; n++) {
    write_data(data, n);
    changing.change(n);
    for (volatile uint64_t& word : on_stack) word = n;
    char line[16];
    snprintf(line, sizeof(line), "%08lu\n", static_cast<unsigned long>(n));
    if (write(log, line, kLineBytes) != static_cast<ssize_t>(kLineBytes)) return 5;
    const int r = crcheckpoint_here();
    if (r < 0) {
      printf("checkpoint() failed\n");
      return 6;
    }
    check_data(data, n);
    changing.check(n, log);
    for (uint64_t i = 0; i < 600; i++) {
      if (on_stack[i] != n) torn(n, "stack", i);
    }
    struct stat st {};
    if (fstat(log, &st) != 0 || static_cast<uint64_t>(st.st_size) != n * kLineBytes) {
      torn(n, "bytes of the log", static_cast<uint64_t>(st.st_size));
    }
    struct crstatus now {};
    now.size = sizeof(now);
    crstatus_here(&now);
    const Status s{n, now.sequence, now.quick};
    if (pwrite(status, &s, sizeof(s), 0) != sizeof(s)) return 7;
  }
  printf("OK\n");
  return 0;
}
