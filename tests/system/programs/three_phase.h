/* SPDX-License-Identifier: MIT */
/*
 * three_phase.h - what every program of tests/system shares.
 *
 * Such a program has three phases: it builds one kind of state and calls test_ready(); it waits in
 * test_wait() while the runner takes checkpoints, kills it and brings it back; it verifies the
 * state and calls test_finish(), which prints PASS and exits with 0, or exits with 1 after the
 * "FAIL: what, expected X, got Y" lines of the checks that did not hold.
 *
 * The invariant: waiting is neutral. It holds no descriptor, sends no signal, allocates nothing,
 * and looks only at three files named by the environment, so that the state under test stays as
 * phase 1 left it:
 *   CRTEST_READY  made by the program when its state is built
 *   CRTEST_PING   made by the runner, removed by the program: a sign that it is running (again)
 *   CRTEST_GO     made by the runner after the last restore: go on to phase 3
 * By hand: start the program, wait for ./ready, do what you like to it, then `touch go`.
 *
 * The line "crtest:" in a program's first comment tells the runner (tests/system/run.py) what to do
 * with it; tests/system/README.md lists the words.
 */
#ifndef TESTS_SYSTEM_THREE_PHASE_H
#define TESTS_SYSTEM_THREE_PHASE_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before the first #include"
#endif

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- waiting ------------------------------------------------------------------------------- */

static inline const char *test_file(const char *variable, const char *fallback) {
  const char *path = getenv(variable);
  return path != NULL ? path : fallback;
}

/* Ends phase 1: the runner may begin. */
static inline void test_ready(void) {
  int fd = open(test_file("CRTEST_READY", "ready"), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) {
    dprintf(STDOUT_FILENO, "FAIL: cannot make the ready file: %s\n", strerror(errno));
    _exit(1);
  }
  close(fd);
}

/* One step of waiting: answers a ping; true once phase 3 may begin. Any thread may call it. */
static inline int test_poll(void) {
  unlink(test_file("CRTEST_PING", "ping"));
  return access(test_file("CRTEST_GO", "go"), F_OK) == 0;
}

static inline void test_wait(void) {
  while (!test_poll()) usleep(2000);
}

/* Waits as test_wait() does, and calls step() before each look. */
static inline void test_wait_doing(void (*step)(void)) {
  do {
    step();
    usleep(2000);
  } while (!test_poll());
}

/* A pending signal, which must be blocked; -1: there is none of that number. */
static inline int test_take_signal(int number, siginfo_t *info) {
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  const struct timespec now = {0, 0};
  return sigtimedwait(&one, info, &now);
}

/* ---- checking ------------------------------------------------------------------------------ */

/* Failed checks so far. Any thread may fail, so it is only touched atomically. */
static int test_failures;

#define TEST_FAIL(format, ...)                                   \
  do {                                                           \
    __atomic_add_fetch(&test_failures, 1, __ATOMIC_SEQ_CST);     \
    dprintf(STDOUT_FILENO, "FAIL: " format "\n", ##__VA_ARGS__); \
  } while (0)

/* CHECK* record a failure and go on, so that one run shows everything that is wrong. */
#define CHECK(what, condition)                                                        \
  do {                                                                                \
    if (!(condition))                                                                 \
      TEST_FAIL("%s, expected %s, got false (errno %d, %s)", what, #condition, errno, \
                strerror(errno));                                                     \
  } while (0)

#define CHECK_EQ(what, expected, got)                                                          \
  do {                                                                                         \
    long long check_expected = (long long)(expected), check_got = (long long)(got);            \
    if (check_expected != check_got)                                                           \
      TEST_FAIL("%s, expected %lld (%#llx), got %lld (%#llx)", what, check_expected,           \
                (unsigned long long)check_expected, check_got, (unsigned long long)check_got); \
  } while (0)

#define CHECK_BETWEEN(what, low, high, got)                                                   \
  do {                                                                                        \
    long long check_low = (long long)(low), check_high = (long long)(high);                   \
    long long check_got = (long long)(got);                                                   \
    if (check_got < check_low || check_got > check_high)                                      \
      TEST_FAIL("%s, expected %lld..%lld, got %lld", what, check_low, check_high, check_got); \
  } while (0)

#define CHECK_STR(what, expected, got)                                               \
  do {                                                                               \
    const char *check_expected = (expected), *check_got = (got);                     \
    if (strcmp(check_expected, check_got) != 0)                                      \
      TEST_FAIL("%s, expected \"%s\", got \"%s\"", what, check_expected, check_got); \
  } while (0)

static inline void test_check_bytes(const char *what, const void *expected, const void *got,
                                    size_t size) {
  const unsigned char *e = (const unsigned char *)expected, *g = (const unsigned char *)got;
  for (size_t i = 0; i < size; i++) {
    if (e[i] != g[i]) {
      TEST_FAIL("%s, byte %zu of %zu, expected %#x, got %#x", what, i, size, e[i], g[i]);
      return;
    }
  }
}
#define CHECK_BYTES(what, expected, got, size) test_check_bytes(what, expected, got, size)

/* REQUIRE ends the program at once: phase 1 could not build the state, so nothing can be said. */
#define REQUIRE(condition)                                                                        \
  do {                                                                                            \
    if (!(condition)) {                                                                           \
      dprintf(STDOUT_FILENO, "FAIL: %s:%d, expected %s, got errno %d (%s)\n", __FILE__, __LINE__, \
              #condition, errno, strerror(errno));                                                \
      _exit(1);                                                                                   \
    }                                                                                             \
  } while (0)

/* Phase 3 is over. */
__attribute__((noreturn)) static inline void test_finish(void) {
  if (__atomic_load_n(&test_failures, __ATOMIC_SEQ_CST) != 0) exit(1);
  (void)!write(STDOUT_FILENO, "PASS\n", 5);
  exit(0);
}

/* This machine cannot show the state at all. */
__attribute__((noreturn)) static inline void test_skip(const char *reason) {
  dprintf(STDOUT_FILENO, "SKIP: %s\n", reason);
  _exit(77);
}

/* ---- patterns ------------------------------------------------------------------------------ */

static inline uint64_t test_pattern(uint64_t seed, uint64_t index) { /* splitmix64 */
  uint64_t z = (seed * 0x9e3779b97f4a7c15ull) + (index + 1) * 0xd1b54a32d192ed03ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static inline void test_fill(void *where, size_t size, uint64_t seed) {
  unsigned char *bytes = (unsigned char *)where;
  for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)test_pattern(seed, i);
}

static inline void test_check_fill(const char *what, const void *where, size_t size,
                                   uint64_t seed) {
  const unsigned char *bytes = (const unsigned char *)where;
  for (size_t i = 0; i < size; i++) {
    unsigned char expected = (unsigned char)test_pattern(seed, i);
    if (bytes[i] != expected) {
      TEST_FAIL("%s, byte %zu of %zu, expected %#x, got %#x", what, i, size, expected, bytes[i]);
      return;
    }
  }
}

/* ---- small helpers --------------------------------------------------------------------------- */

static inline double test_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Reads a whole (proc) file; the text ends with a zero byte. Returns its length, or -1. */
static inline ssize_t test_read_file(const char *path, char *text, size_t capacity) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  size_t length = 0;
  ssize_t n;
  while (length + 1 < capacity && (n = read(fd, text + length, capacity - 1 - length)) > 0)
    length += (size_t)n;
  close(fd);
  text[length] = '\0';
  return (ssize_t)length;
}

#endif /* TESTS_SYSTEM_THREE_PHASE_H */
