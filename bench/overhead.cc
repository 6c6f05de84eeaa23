// SPDX-License-Identifier: MIT
// overhead.cc - nanoseconds of small operations in a single-threaded program, whose cost rises when
// something in the process makes libc believe in a second thread or stands between it and libc.
// Invariant: no operation is optimised away; nothing of ours is linked to it.
// Context: an ordinary program. bench/overhead.py runs it with and without crrun.
//
//   overhead [MILLISECONDS_PER_OPERATION]     prints "NAME NANOSECONDS" per line, medians
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace {

constexpr int kBatches = 9;

double now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

template <typename T>
void keep(T& value) {
  __asm__ volatile("" : "+m"(value) : : "memory");
}

// Median over batches of the time of one operation.
template <typename F>
void measure(const char* name, double milliseconds, F&& operation) {
  long count = 16;
  double ns = 0;
  do {  // how many fit into a batch
    count *= 2;
    const double begin = now_ns();
    for (long i = 0; i < count; i++) operation();
    ns = now_ns() - begin;
  } while (ns < milliseconds * 1e6 / kBatches);
  std::vector<double> each;
  for (int b = 0; b < kBatches; b++) {
    const double begin = now_ns();
    for (long i = 0; i < count; i++) operation();
    each.push_back((now_ns() - begin) / static_cast<double>(count));
  }
  std::sort(each.begin(), each.end());
  printf("%s %.3f\n", name, each[kBatches / 2]);
}

}  // namespace

int main(int argc, char** argv) {
  const double ms = argc > 1 ? atof(argv[1]) : 100;
  FILE* null = fopen("/dev/null", "w");
  if (null == nullptr) return 1;
  static char buffer[1 << 16];
  setvbuf(null, buffer, _IOFBF, sizeof(buffer));
  measure("putc", ms, [&] { putc('x', null); });
  auto shared = std::make_shared<int>(1);
  measure("shared_ptr copy", ms, [&] {
    std::shared_ptr<int> copy = shared;
    keep(copy);
  });
  measure("malloc+free", ms, [&] {
    void* p = malloc(64);
    keep(p);
    free(p);
  });
  // Two thousand blocks of 16 to 1039 bytes are alive, one of them is replaced.
  std::vector<void*> alive(2000);
  uint32_t random = 1;
  measure("malloc+free, many sizes", ms, [&] {
    random = random * 1664525 + 1013904223;
    void*& p = alive[(random >> 8) % alive.size()];
    free(p);
    p = malloc(16 + (random >> 20) % 1024);
  });
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  measure("mutex lock+unlock", ms, [&] {
    pthread_mutex_lock(&mutex);
    pthread_mutex_unlock(&mutex);
  });
  measure("open+close", ms, [&] {
    const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) close(fd);
  });
  return 0;
}
