/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles kill=later
 *
 * Half-full stdio buffers: text printed to stdout (a file, hence fully buffered) but not flushed,
 * a stream that is half read with a character pushed back, and a stream that is half written.
 * Nothing may be lost or come twice.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "three_phase.h"

static const char kGreeting[] = "printed before the wait; ";

int main(void) {
  struct stat st;
  REQUIRE(fstat(STDOUT_FILENO, &st) == 0);
  if (!S_ISREG(st.st_mode)) test_skip("stdout is not a file");
  off_t begin = lseek(STDOUT_FILENO, 0, SEEK_CUR);
  char out_path[4096];
  ssize_t length = readlink("/proc/self/fd/1", out_path, sizeof out_path - 1);
  REQUIRE(length > 0);
  out_path[length] = '\0';

  FILE *made = fopen("input.txt", "w");
  for (int i = 0; i < 3000; i++) fprintf(made, "input line %d\n", i);
  fclose(made);
  FILE *input = fopen("input.txt", "r"), *output = fopen("output.txt", "w");
  char line[100], expected[100];
  for (int i = 0; i < 700; i++) REQUIRE(fgets(line, sizeof line, input) != NULL);
  REQUIRE(ungetc('#', input) == '#');
  fprintf(output, "first half");
  printf("%s", kGreeting);

  test_ready();
  test_wait();

  CHECK_EQ("character pushed back", '#', getc(input));
  for (int i = 700; i < 3000; i++) {
    snprintf(expected, sizeof expected, "input line %d\n", i);
    if (fgets(line, sizeof line, input) == NULL) strcpy(line, "(end of file)");
    CHECK_STR("line read", expected, line);
  }
  CHECK_EQ("end of the input", EOF, getc(input));
  fprintf(output, ", second half");
  CHECK_EQ("fclose", 0, fclose(output));
  test_read_file("output.txt", line, sizeof line);
  CHECK_STR("stream half written", "first half, second half", line);

  printf("and after it\n");
  fflush(stdout);
  static char out[1 << 16];
  REQUIRE(test_read_file(out_path, out, sizeof out) >= (ssize_t)begin);
  snprintf(expected, sizeof expected, "%sand after it\n", kGreeting);
  CHECK_STR("what stdout's file holds", expected, out + begin);
  test_finish();
}
