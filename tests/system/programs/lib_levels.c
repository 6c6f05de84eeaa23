/* SPDX-License-Identifier: MIT */
/*
 * lib_levels.c - does what the file `do` says, one line at a time, and writes what came of it to
 * the file `done`: so that a test can take checkpoints from within, wait for their levels and ask
 * for the status, before and after restores. For levels_test.py.
 *
 * Usage: lib_levels [IMAGE.dir PROTECT NAME FLUSH_EVERY]
 * With arguments it makes its session by itself.
 */
#define _GNU_SOURCE
#include <checkpoint_restore.h>
#include <pthread.h>
#include <stdarg.h>

#include "three_phase.h"

/* Never half: it is given its name when it is written. */
static void say(const char *name, const char *format, ...) {
  char text[8192], new_name[64];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  snprintf(new_name, sizeof new_name, "%s.new", name);
  FILE *file = fopen(new_name, "w");
  if (file == NULL || fputs(text, file) < 0 || fclose(file) != 0 || rename(new_name, name) != 0) {
    perror(name);
    _exit(1);
  }
}

static void tell_result(const char *name, int result) {
  const int error = result < 0 ? errno : 0;
  say(name, "%d %s %s", result, error != 0 ? strerrorname_np(error) : "0",
      error != 0 ? crerror() : "");
}

static void tell_status(void) {
  struct crstatus st = {.size = sizeof st};
  if (crstatus(&st) != 0) return tell_result("done", -1);
  say("done",
      "sequence=%lu\nsafe=%lu\nflushed=%lu\nwindow=%lu\nkept=%u\ndegraded=%u\nprotect=%s\n"
      "text=%s\n",
      st.sequence, st.safe_sequence, st.flushed_sequence, st.window_ns, st.is_kept, st.degraded,
      st.protect, st.degraded_text);
}

/* A second call beside the program's, which says in a file of its own what it came to. */
static void *wait_beside(void *level) {
  tell_result("done-beside", checkpoint_wait((int)(intptr_t)level));
  return NULL;
}

static void obey(const char *words) {
  int level = 0;
  pthread_t thread;
  if (strcmp(words, "checkpoint") == 0) {
    tell_result("done", checkpoint());
  } else if (strcmp(words, "restore") == 0) {
    tell_result("done", restore());
  } else if (strcmp(words, "status") == 0) {
    tell_status();
  } else if (sscanf(words, "wait %d", &level) == 1) {
    tell_result("done", checkpoint_wait(level));
  } else if (sscanf(words, "beside %d", &level) == 1) {
    pthread_create(&thread, NULL, wait_beside, (void *)(intptr_t)level);
    pthread_detach(thread);
    say("done", "0 0");
  } else {
    say("done", "unknown words: %s", words);
  }
}

static void look(void) {
  char words[256] = "";
  FILE *file = fopen("do", "r");
  if (file == NULL) return;
  const int any = fgets(words, sizeof words, file) != NULL;
  fclose(file);
  unlink("do");
  words[strcspn(words, "\n")] = 0;
  if (any) obey(words);
}

int main(int argc, char **argv) {
  if (argc == 5) {
    struct crattr attr = CRATTR_INIT;
    attr.image_dir = argv[1];
    attr.durable = CR_DURABLE_CRASH;
    attr.protect = argv[2][0] != 0 ? argv[2] : NULL;
    attr.name = argv[3][0] != 0 ? argv[3] : NULL;
    attr.flush_every = strtoul(argv[4], NULL, 10);
    if (crinit(&attr) != 0) {
      fprintf(stderr, "%s: %s\n", strerrorname_np(errno), crerror());
      return 3;
    }
  }
  test_ready();
  test_wait_doing(look);
  test_finish();
}
