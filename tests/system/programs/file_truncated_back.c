/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles kill=later users=root,nobody,54321
 *
 * The program writes on after each checkpoint until it is killed: restore must cut its files back
 * to where the checkpoint was. One file is written at its offset, one with O_APPEND, one through
 * stdio, and one is overwritten in place. At each step the files must be
 * exactly what this process remembers having written.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "three_phase.h"

enum { kLine = 32, kPlaceBytes = 4096 };

static int offset_fd, append_fd, place_fd;
static FILE *stream;
static long step_number;

static void line_text(char text[kLine + 1], long number) {
  snprintf(text, kLine + 1, "line %26ld\n", number); /* 32 bytes */
}

static void check_size(const char *what, int fd, long expected) {
  struct stat st;
  CHECK_EQ("fstat", 0, fstat(fd, &st));
  CHECK_EQ(what, expected, st.st_size);
}

static void step(void) {
  char text[kLine + 1];
  if (test_failures != 0) test_finish(); /* one report, not one per step */
  check_size("size of the file written at its offset", offset_fd, step_number * kLine);
  check_size("size of the file written with O_APPEND", append_fd, step_number * kLine);
  check_size("size of the file written through stdio", fileno(stream), step_number * kLine);
  CHECK_EQ("offset", step_number * kLine, lseek(offset_fd, 0, SEEK_CUR));
  if (step_number > 0) {
    long in_place = 0;
    off_t slot = (off_t)((step_number - 1) * 8 % kPlaceBytes);
    CHECK_EQ("pread", 8, pread(place_fd, &in_place, 8, slot));
    CHECK_EQ("number written in place", step_number - 1, in_place);
  }
  line_text(text, step_number);
  CHECK_EQ("write", kLine, write(offset_fd, text, kLine));
  CHECK_EQ("append", kLine, write(append_fd, text, kLine));
  fputs(text, stream);
  fflush(stream);
  off_t slot = (off_t)(step_number * 8 % kPlaceBytes);
  CHECK_EQ("pwrite", 8, pwrite(place_fd, &step_number, 8, slot));
  step_number++;
}

static void check_lines(const char *path) {
  FILE *file = fopen(path, "r");
  REQUIRE(file != NULL);
  char text[kLine + 1], got[100];
  for (long number = 0; number < step_number; number++) {
    line_text(text, number);
    if (fgets(got, sizeof got, file) == NULL) strcpy(got, "(end of file)");
    CHECK_STR(path, text, got);
  }
  CHECK("nothing behind the last line", fgets(got, sizeof got, file) == NULL);
  fclose(file);
}

int main(void) {
  offset_fd = open("offset.log", O_RDWR | O_CREAT | O_TRUNC, 0644);
  append_fd = open("append.log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
  place_fd = open("place.bin", O_RDWR | O_CREAT | O_TRUNC, 0644);
  stream = fopen("stream.log", "w");
  REQUIRE(offset_fd >= 0 && append_fd >= 0 && place_fd >= 0 && stream != NULL);
  static char zeros[kPlaceBytes];
  REQUIRE(write(place_fd, zeros, sizeof zeros) == (ssize_t)sizeof zeros);
  for (int i = 0; i < 10; i++) step();
  test_ready();
  test_wait_doing(step);
  check_lines("offset.log");
  check_lines("append.log");
  check_lines("stream.log");
  test_finish();
}
