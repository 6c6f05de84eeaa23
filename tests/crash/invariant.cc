// SPDX-License-Identifier: MIT
// invariant.cc - the program that the crash tests kill: four threads whose data is wrong as soon as
// an image mixes two moments.
// Invariant: before each step of a thread all words of its stack array and of its heap array are
// the same function of (thread, step); the ledger that all threads share, the token in each pipe
// and the tokens handed over under a condition variable agree with it. Whatever does not agree is
// printed as TORN and ends the program with status 9.
// Context: N, an ordinary unmodified program; it knows of checkpoints only what crstatus() says, if
// that is there.
//
//   invariant BYTES STATUS_FILE [--checkpoint-every=N [--askers=N]]
//
// BYTES is the data of each thread, half on its stack and half on its heap. Every few milliseconds
// each thread writes one Record to its place in STATUS_FILE (tests/crash/invariant_status.py reads
// them). A file STATUS_FILE.stop ends the program: it prints "OK" and the steps, status 0.
// --checkpoint-every=N: thread 0 calls checkpoint() itself after every N steps; --askers=N: as many
// threads do.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <string>

#include "checkpoint_restore.h"

namespace {

constexpr int kThreads = 4;
constexpr uint64_t kStatusEveryNs = 2000000;
constexpr uint64_t kStepsPerHeapBlock = 64;  // then the heap array moves
constexpr uint64_t kMagic = 0x314e56494352ull;

// One thread's line in the status file; all of it is little endian.
struct Record {
  uint64_t magic;
  uint32_t thread, tid;
  uint64_t step;
  uint64_t sequence, epoch;  // as crstatus() says: newest whole checkpoint, restores so far
  uint64_t checkpoints;      // answers of checkpoint() so far
  uint64_t monotonic_ns;
  uint64_t check;  // exclusive or of the words before
};
static_assert(sizeof(Record) == 64);

struct Ledger {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
  uint64_t steps[kThreads] = {};
  uint64_t total = 0;
  uint64_t handed_over = 0, taken = 0;  // tokens from thread 2 to thread 3
};

Ledger* g_ledger;
int g_pipe[kThreads][2];
int g_status_fd;
uint64_t g_words;  // of each of the two arrays
bool g_stop;
uint64_t g_checkpoint_every;
int g_askers = 1;
uint64_t g_checkpoints;
std::string g_stop_path;
int (*g_crstatus)(struct crstatus*);
int (*g_crcheckpoint)();

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

[[noreturn]] void torn(int thread, uint64_t step, const char* what, uint64_t at, uint64_t expected,
                       uint64_t got) {
  char line[256];
  const int n = snprintf(
      line, sizeof(line), "TORN thread %d step %llu: %s, word %llu: expected %#llx, got %#llx\n",
      thread, static_cast<unsigned long long>(step), what, static_cast<unsigned long long>(at),
      static_cast<unsigned long long>(expected), static_cast<unsigned long long>(got));
  (void)!write(STDOUT_FILENO, line, static_cast<size_t>(n));
  _exit(9);
}

[[noreturn]] void give_up(const char* what) {
  fprintf(stderr, "invariant: %s: %s\n", what, strerror(errno));
  _exit(3);
}

uint64_t seed_of(int thread, uint64_t step, int array) {
  uint64_t z = step * 8 + static_cast<uint64_t>(thread) * 2 + static_cast<uint64_t>(array) + 1;
  z *= 0x9e3779b97f4a7c15ull;
  return z ^ z >> 29;
}
uint64_t word_of(uint64_t seed, uint64_t i) { return seed + i * 0xd1b54a32d192ed03ull; }

[[gnu::noinline]] void fill(uint64_t* words, uint64_t seed) {
  for (uint64_t i = 0; i < g_words; i++) words[i] = word_of(seed, i);
  __asm__ volatile("" ::: "memory");
}

[[gnu::noinline]] void verify(const uint64_t* words, int thread, uint64_t step, int array) {
  const uint64_t seed = seed_of(thread, step, array);
  __asm__ volatile("" ::: "memory");
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < g_words; i++) wrong |= words[i] ^ word_of(seed, i);
  if (wrong == 0) return;
  for (uint64_t i = 0; i < g_words; i++) {
    if (words[i] != word_of(seed, i)) {
      torn(thread, step, array == 0 ? "stack" : "heap", i, word_of(seed, i), words[i]);
    }
  }
  torn(thread, step, "changed while it was verified", 0, 0, wrong);
}

void write_status(int thread, uint64_t step) {
  Record r{};
  r.magic = kMagic;
  r.thread = static_cast<uint32_t>(thread);
  r.tid = static_cast<uint32_t>(syscall(__NR_gettid));
  r.step = step;
  struct crstatus st;
  st.size = offsetof(struct crstatus, attempts);
  if (g_crstatus != nullptr && g_crstatus(&st) == 0) {
    r.sequence = st.sequence;
    r.epoch = st.epoch;
  }
  r.checkpoints = __atomic_load_n(&g_checkpoints, __ATOMIC_RELAXED);
  r.monotonic_ns = now_ns();
  uint64_t w[8];
  memcpy(w, &r, sizeof(w));
  for (int i = 0; i < 7; i++) r.check ^= w[i];
  if (pwrite(g_status_fd, &r, sizeof(r), thread * static_cast<off_t>(sizeof(r))) != sizeof(r)) {
    give_up("writing the status file");
  }
}

// The token of the step before is in the pipe; it makes room for this step's.
void turn_pipe(int thread, uint64_t step) {
  uint64_t token = 0;
  if (read(g_pipe[thread][0], &token, sizeof(token)) != sizeof(token)) give_up("reading a pipe");
  if (token != seed_of(thread, step, 2))
    torn(thread, step, "pipe", 0, seed_of(thread, step, 2), token);
  token = seed_of(thread, step + 1, 2);
  if (write(g_pipe[thread][1], &token, sizeof(token)) != sizeof(token)) give_up("writing a pipe");
}

void turn_ledger(int thread, uint64_t step) {
  Ledger& l = *g_ledger;
  pthread_mutex_lock(&l.lock);
  uint64_t sum = 0;
  for (const uint64_t s : l.steps) sum += s;
  if (sum != l.total) torn(thread, step, "ledger's total", 0, sum, l.total);
  if (l.steps[thread] != step) torn(thread, step, "ledger's step", 0, step, l.steps[thread]);
  l.steps[thread]++;
  l.total++;
  pthread_mutex_unlock(&l.lock);
}

// Thread 2 hands a token to thread 3 and waits until it is taken; thread 3 waits for it.
void hand_over(int thread, uint64_t step) {
  Ledger& l = *g_ledger;
  pthread_mutex_lock(&l.lock);
  if (thread == 2) {
    if (l.handed_over != step) torn(thread, step, "tokens handed over", 0, step, l.handed_over);
    l.handed_over++;
    pthread_cond_broadcast(&l.changed);
    while (l.taken < l.handed_over && !g_stop) pthread_cond_wait(&l.changed, &l.lock);
  } else {
    if (l.taken != step) torn(thread, step, "tokens taken", 0, step, l.taken);
    while (l.handed_over == l.taken && !g_stop) pthread_cond_wait(&l.changed, &l.lock);
    l.taken++;
    pthread_cond_broadcast(&l.changed);
  }
  pthread_mutex_unlock(&l.lock);
}

bool must_stop() { return __atomic_load_n(&g_stop, __ATOMIC_RELAXED); }

// Ends all threads: those that wait for one another are woken.
void look_for_stop() {
  if (access(g_stop_path.c_str(), F_OK) != 0) return;
  pthread_mutex_lock(&g_ledger->lock);
  __atomic_store_n(&g_stop, true, __ATOMIC_RELAXED);
  pthread_cond_broadcast(&g_ledger->changed);
  pthread_mutex_unlock(&g_ledger->lock);
}

// The waits differ, so that a checkpoint finds threads computing, asleep, and waiting for another.
void pause_between_steps(int thread, uint64_t step) {
  if (thread == 0 && step % 16 == 0) usleep(500);
  if (thread == 1) usleep(300);
  if (thread == 2) hand_over(2, step);
  if (thread == 3) hand_over(3, step);
  if (thread == 3 && step % 4 == 0) sched_yield();
}

[[gnu::noinline]] void run(int thread) {
  auto* on_stack = static_cast<uint64_t*>(__builtin_alloca(g_words * 8));
  auto* on_heap = static_cast<uint64_t*>(malloc(g_words * 8));
  if (on_heap == nullptr) give_up("malloc");
  fill(on_stack, seed_of(thread, 0, 0));
  fill(on_heap, seed_of(thread, 0, 1));
  uint64_t step = 0, told_ns = 0;
  while (!must_stop()) {
    verify(on_stack, thread, step, 0);
    verify(on_heap, thread, step, 1);
    turn_pipe(thread, step);
    turn_ledger(thread, step);
    step++;
    fill(on_stack, seed_of(thread, step, 0));
    fill(on_heap, seed_of(thread, step, 1));
    if (step % kStepsPerHeapBlock == 0) {
      auto* moved = static_cast<uint64_t*>(malloc(g_words * 8));
      if (moved == nullptr) give_up("malloc");
      memcpy(moved, on_heap, g_words * 8);
      free(on_heap);
      on_heap = moved;
    }
    pause_between_steps(thread, step - 1);
    if (thread < g_askers && g_checkpoint_every != 0 && step % g_checkpoint_every == 0) {
      (void)g_crcheckpoint();
      __atomic_add_fetch(&g_checkpoints, 1, __ATOMIC_RELAXED);
    }
    const uint64_t now = now_ns();
    if (now - told_ns >= kStatusEveryNs) {
      told_ns = now;
      write_status(thread, step);
      if (thread == 0) look_for_stop();
    }
  }
  verify(on_stack, thread, step, 0);
  verify(on_heap, thread, step, 1);
  free(on_heap);
}

void* thread_main(void* arg) {
  run(static_cast<int>(reinterpret_cast<intptr_t>(arg)));
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: invariant BYTES STATUS_FILE [--checkpoint-every=N]\n");
    return 2;
  }
  g_words = strtoull(argv[1], nullptr, 0) / 16;
  g_stop_path = std::string(argv[2]) + ".stop";
  g_status_fd = open(argv[2], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (g_status_fd < 0) give_up(argv[2]);
  g_crstatus = reinterpret_cast<int (*)(struct crstatus*)>(dlsym(RTLD_DEFAULT, "crstatus"));
  if (argc > 3 && strncmp(argv[3], "--checkpoint-every=", 19) == 0) {
    g_checkpoint_every = strtoull(argv[3] + 19, nullptr, 0);
    g_crcheckpoint = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "crcheckpoint"));
    if (g_crcheckpoint == nullptr) give_up("no checkpoint() here");
    if (argc > 4 && strncmp(argv[4], "--askers=", 9) == 0) g_askers = atoi(argv[4] + 9);
  }
  g_ledger = new Ledger;
  for (int i = 0; i < kThreads; i++) {
    const uint64_t token = seed_of(i, 0, 2);
    if (pipe2(g_pipe[i], O_CLOEXEC) != 0 ||
        write(g_pipe[i][1], &token, sizeof(token)) != sizeof(token)) {
      give_up("making a pipe");
    }
  }
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, g_words * 8 + 256 * 1024);
  pthread_t threads[kThreads];
  for (intptr_t i = 1; i < kThreads; i++) {
    errno = pthread_create(&threads[i], &attr, thread_main, reinterpret_cast<void*>(i));
    if (errno != 0) give_up("making a thread");
    char name[16];
    snprintf(name, sizeof(name), "inv-%d", static_cast<int>(i));
    pthread_setname_np(threads[i], name);
  }
  run(0);
  for (int i = 1; i < kThreads; i++) pthread_join(threads[i], nullptr);
  printf("OK %d threads, steps", kThreads);
  for (const uint64_t s : g_ledger->steps) printf(" %llu", static_cast<unsigned long long>(s));
  printf("\n");
  return 0;
}
