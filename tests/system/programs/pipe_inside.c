/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Pipes whose ends are all in this process: with content, an enlarged capacity, several
 * descriptors for one end, O_NONBLOCK on one end only; a full one; one whose writers are closed
 * (data, then end of file); one whose reader is closed; one a thread is blocked on.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include "three_phase.h"

enum { kContent = 3000, kBig = 256 * 1024 };

static int plain[2], big[2], full[2], no_writer[2], no_reader[2], waited[2];
static int read_duplicate, write_duplicate;
static char content[kContent], huge[kBig];

static void *blocked_reader(void *argument) {
  (void)argument;
  char text[8] = "";
  CHECK_EQ("blocked read", 4, read(waited[0], text, sizeof text));
  CHECK_STR("what it read", "wake", text);
  return NULL;
}

static void build(void) {
  REQUIRE(pipe(plain) == 0 && pipe(big) == 0 && pipe(full) == 0 && pipe(waited) == 0);
  REQUIRE(pipe2(no_writer, O_CLOEXEC) == 0 && pipe(no_reader) == 0);
  test_fill(content, sizeof content, 1);
  test_fill(huge, sizeof huge, 2);
  REQUIRE(write(plain[1], content, kContent) == kContent);
  read_duplicate = fcntl(plain[0], F_DUPFD, 200);
  write_duplicate = fcntl(plain[1], F_DUPFD_CLOEXEC, 300);
  REQUIRE(read_duplicate >= 200 && write_duplicate >= 300);
  REQUIRE(fcntl(plain[0], F_SETFL, O_NONBLOCK) == 0);
  REQUIRE(fcntl(big[1], F_SETPIPE_SZ, kBig) == kBig);
  REQUIRE(write(big[1], huge, 200000) == 200000);
  int capacity = fcntl(full[1], F_GETPIPE_SZ);
  REQUIRE(capacity <= kBig && write(full[1], huge, (size_t)capacity) == capacity);
  REQUIRE(write(no_writer[1], "tail", 4) == 4);
  close(no_writer[1]);
  close(no_reader[0]);
}

static void check_plain(void) {
  CHECK_EQ("O_NONBLOCK of the read end", O_NONBLOCK, fcntl(plain[0], F_GETFL) & O_NONBLOCK);
  CHECK_EQ("O_NONBLOCK of its duplicate", O_NONBLOCK, fcntl(read_duplicate, F_GETFL) & O_NONBLOCK);
  CHECK_EQ("O_NONBLOCK of the write end", 0, fcntl(plain[1], F_GETFL) & O_NONBLOCK);
  CHECK_EQ("access mode of the read end", O_RDONLY, fcntl(plain[0], F_GETFL) & O_ACCMODE);
  CHECK_EQ("access mode of the write end", O_WRONLY, fcntl(plain[1], F_GETFL) & O_ACCMODE);
  CHECK_EQ("close-on-exec of a duplicate", FD_CLOEXEC, fcntl(write_duplicate, F_GETFD));
  CHECK_EQ("close-on-exec of the original", 0, fcntl(plain[1], F_GETFD));
  static char got[kContent + 100];
  CHECK_EQ("bytes in the pipe", kContent, read(plain[0], got, sizeof got));
  CHECK_BYTES("content of the pipe", content, got, kContent);
  CHECK_EQ("read of the emptied pipe", -1, read(read_duplicate, got, 1));
  CHECK_EQ("its errno", EAGAIN, errno);
  CHECK_EQ("write to the duplicate", 3, write(write_duplicate, "abc", 3));
  CHECK_EQ("read of the duplicate", 3, read(read_duplicate, got, sizeof got));
  close(plain[1]);
  close(write_duplicate);
  CHECK_EQ("end of file once all writers are closed", 0, read(plain[0], got, sizeof got));
}

static void check_others(void) {
  static char got[kBig + 1];
  CHECK_EQ("capacity of the big pipe", kBig, fcntl(big[0], F_GETPIPE_SZ));
  CHECK_EQ("bytes in the big pipe", 200000, read(big[0], got, sizeof got));
  CHECK_BYTES("content of the big pipe", huge, got, 200000);
  struct pollfd p = {.fd = full[1], .events = POLLOUT};
  CHECK_EQ("the full pipe takes no more", 0, poll(&p, 1, 0));
  int capacity = fcntl(full[1], F_GETPIPE_SZ);
  CHECK_EQ("bytes in the full pipe", capacity, read(full[0], got, sizeof got));
  CHECK_BYTES("content of the full pipe", huge, got, (size_t)capacity);
  CHECK_EQ("bytes in the pipe without a writer", 4, read(no_writer[0], got, sizeof got));
  CHECK_BYTES("content of the pipe without a writer", "tail", got, 4);
  CHECK_EQ("then end of file", 0, read(no_writer[0], got, sizeof got));
  CHECK_EQ("close-on-exec of it", FD_CLOEXEC, fcntl(no_writer[0], F_GETFD));
  CHECK_EQ("write without a reader", -1, write(no_reader[1], "x", 1));
  CHECK_EQ("its errno", EPIPE, errno);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  build();
  pthread_t reader;
  pthread_create(&reader, NULL, blocked_reader, NULL);
  usleep(50000); /* let it block */
  test_ready();
  test_wait();
  check_plain();
  check_others();
  CHECK_EQ("write to the waited pipe", 4, write(waited[1], "wake", 4));
  pthread_join(reader, NULL);
  test_finish();
}
