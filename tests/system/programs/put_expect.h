/* SPDX-License-Identifier: MIT */
/* put_expect.h - small files of text, written and compared by path. */
#ifndef TESTS_SYSTEM_PUT_EXPECT_H
#define TESTS_SYSTEM_PUT_EXPECT_H

#include "three_phase.h"

static inline void put(const char *path, const char *text) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  close(fd);
}

static inline void expect(const char *path, const char *text) {
  char now[64] = "";
  test_read_file(path, now, sizeof now);
  CHECK_STR(path, text, now);
}

#endif
