/* SPDX-License-Identifier: MIT */
/* crtest: mode=lazy timeout=240
 *
 * 192 MiB in blocks of known content, and at every moment one of the things for which memory that
 * is still to come (crrestore --lazy) differs from memory that is there: MADV_DONTNEED and
 * MADV_FREE, a fork's view, mremap and growth, munmap and a new mapping, protection, system calls
 * that read and write it. Each step leaves all blocks with their content.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kPage = 4096, kBlockBytes = 1 << 20, kBlocks = 192, kActionsInStep = 8 };

static char *g_base, *g_elsewhere;
static int g_pipe[2];
static uint64_t g_count;

static char *block(uint64_t i) { return g_base + i % kBlocks * kBlockBytes; }
static uint64_t seed_of(const char *b) { return (uint64_t)(b - g_base) / kBlockBytes + 1; }
static uint64_t choose(void) { return test_pattern(77, g_count++); }

static void check_all_of(const char *what, char *b) {
  test_check_fill(what, b, kBlockBytes, seed_of(b));
}
static void fill(char *b) { test_fill(b, kBlockBytes, seed_of(b)); }

static void check_zero(const char *what, const char *from, size_t bytes) {
  static const char zeros[kBlockBytes];
  if (memcmp(from, zeros, bytes) != 0) TEST_FAIL("%s: not zeros", what);
}

static void give_up_a_part(char *b, int advice) {
  char *part = b + choose() % 100 * kPage;
  size_t bytes = (1 + choose() % 100) * kPage;
  static char before[kBlockBytes];
  if (advice == MADV_FREE) memcpy(before, b, kBlockBytes);
  REQUIRE(madvise(part, bytes, advice) == 0);
  if (advice == MADV_DONTNEED) {
    check_zero("after MADV_DONTNEED", part, bytes);
  } else {
    for (char *p = part; p < part + bytes; p += kPage) {
      if (memcmp(p, before + (p - b), kPage) != 0) check_zero("after MADV_FREE", p, kPage);
    }
  }
  memset(part, 1, bytes);
  if (memcmp(part, part + 1, bytes - 1) != 0) TEST_FAIL("stores after madvise are lost");
  fill(b);
}

/* The child's memory is as it was at the fork, whatever the parent does, and is its own. */
static void fork_and_look(char *b, int raw) {
  char *other = block(choose());
  pid_t child = raw ? (pid_t)syscall(SYS_fork) : fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    usleep((unsigned)(choose() % 3000));
    check_all_of("the child's block", b);
    if (madvise(b, kBlockBytes / 2, MADV_DONTNEED) != 0) TEST_FAIL("MADV_DONTNEED in the child");
    check_zero("discarded by the child", b, kBlockBytes / 2);
    check_all_of("the child's other block", other == b ? block(seed_of(b)) : other);
    _exit(test_failures != 0);
  }
  memset(b, 9, kBlockBytes);
  if (other != b) REQUIRE(madvise(other, kBlockBytes, MADV_DONTNEED) == 0);
  int status = -1;
  CHECK_EQ("waitpid", child, waitpid(child, &status, 0));
  CHECK_EQ("status of the child", 0, status);
  fill(b);
  fill(other);
}

/* A fork whose parent is gone at once keeps what it has not seen yet. */
static void leave_an_orphan(char *b) {
  int result[2];
  REQUIRE(pipe(result) == 0);
  pid_t middle = fork();
  REQUIRE(middle >= 0);
  if (middle == 0) {
    const pid_t orphan = fork();
    if (orphan != 0) _exit(orphan < 0 ? errno : 0);
    usleep(1000);
    check_all_of("the orphan's block", b);
    char ok = test_failures == 0;
    _exit(write(result[1], &ok, 1) != 1);
  }
  close(result[1]);
  memset(b, 3, kBlockBytes);
  int status = -1;
  CHECK_EQ("waitpid", middle, waitpid(middle, &status, 0));
  CHECK_EQ("status of the orphan's parent", 0, status);
  char ok = 0;
  CHECK_EQ("the orphan's word", 1, (int)read(result[0], &ok, 1));
  CHECK_EQ("the orphan's block", 1, ok);
  close(result[0]);
  fill(b);
}

static void move_and_grow(char *b) {
  char *away = mremap(b, kBlockBytes, 2 * kBlockBytes, MREMAP_MAYMOVE | MREMAP_FIXED, g_elsewhere);
  REQUIRE(away == g_elsewhere);
  test_check_fill("a moved block", away, kBlockBytes, seed_of(b));
  check_zero("what it grew by", away + kBlockBytes, kBlockBytes);
  memset(away + kBlockBytes, 5, kBlockBytes);
  REQUIRE(mremap(away, 2 * kBlockBytes, kBlockBytes, 0) == away);
  REQUIRE(mremap(away, kBlockBytes, kBlockBytes, MREMAP_MAYMOVE | MREMAP_FIXED, b) == b);
  check_all_of("a block that was moved back", b);
  REQUIRE(mmap(g_elsewhere, 2 * kBlockBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
               0) == g_elsewhere);
}

/* Moved before any of it was touched, and looked at only then. */
static void move_a_part(char *b) {
  size_t off = choose() % 100 * kPage, bytes = (1 + choose() % 100) * kPage;
  REQUIRE(mremap(b + off, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, g_elsewhere) == g_elsewhere);
  REQUIRE(mremap(g_elsewhere, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, b + off) == b + off);
  check_all_of("a block of which a part was moved", b);
  REQUIRE(mmap(g_elsewhere, 2 * kBlockBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
               0) == g_elsewhere);
}

static void map_anew(char *b) {
  REQUIRE(munmap(b, kBlockBytes) == 0);
  REQUIRE(mmap(b, kBlockBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
               0) == b);
  check_zero("a new mapping", b, kBlockBytes);
  fill(b);
}

static void protect(char *b) {
  REQUIRE(mprotect(b, kBlockBytes, PROT_NONE) == 0);
  usleep(500);
  REQUIRE(mprotect(b, kBlockBytes, PROT_READ) == 0);
  check_all_of("a protected block", b);
  REQUIRE(mprotect(b, kBlockBytes, PROT_READ | PROT_WRITE) == 0);
}

static void ask_the_kernel(char *b) {
  static char copy[kPage];
  char *page = b + choose() % 256 * kPage;
  CHECK_EQ("write(2) from it", kPage, (int)write(g_pipe[1], page, kPage));
  CHECK_EQ("read(2)", kPage, (int)read(g_pipe[0], copy, kPage));
  char *to = b + choose() % 256 * kPage;
  struct timespec *t = (struct timespec *)to;
  CHECK_EQ("clock_gettime into it", 0, (int)syscall(SYS_clock_gettime, CLOCK_MONOTONIC, t));
  fill(b);
  CHECK_BYTES("what the kernel read", page, copy, kPage);
}

static void act(void) {
  char *b = block(choose());
  switch (choose() % 10) {
    case 0:
      give_up_a_part(b, MADV_DONTNEED);
      break;
    case 1:
      give_up_a_part(b, MADV_FREE);
      break;
    case 2:
      fork_and_look(b, 0);
      break;
    case 3:
      fork_and_look(b, 1);
      break;
    case 4:
      move_and_grow(b);
      break;
    case 5:
      move_a_part(b);
      break;
    case 6:
      map_anew(b);
      break;
    case 7:
      protect(b);
      break;
    case 8:
      ask_the_kernel(b);
      break;
    default:
      leave_an_orphan(b);
      break;
  }
}

static void step(void) {
  for (int i = 0; i < kActionsInStep; i++) act();
  check_all_of("a block", block(choose()));
}

int main(void) {
  g_elsewhere = mmap(NULL, 2 * kBlockBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  g_base = mmap(NULL, (size_t)kBlocks * kBlockBytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(g_elsewhere != MAP_FAILED && g_base != MAP_FAILED && pipe(g_pipe) == 0);
  for (uint64_t i = 0; i < kBlocks; i++) fill(block(i));
  test_ready();
  test_wait_doing(step);
  for (uint64_t i = 0; i < kBlocks; i++) check_all_of("a block at the end", block(i));
  test_finish();
}
