/* SPDX-License-Identifier: MIT */
/*
 * files_helper.c - a program that changes files as it is told, for tests/system/files_test.py.
 *
 * It keeps a number of files open (its arguments: "r+:path", "a:path"), says that it is ready, and
 * then carries out the lines of a file "commands" each time it is there, and removes it by a raw
 * call: "write PATH TEXT", "overwrite PATH TEXT", "append PATH TEXT" and "cut PATH BYTES" (through
 * the descriptor that is open), "remove PATH", "rename A B", "mkdir PATH", "rmdir PATH", "raw PATH
 * TEXT" (opened by a raw call), "child PATH TEXT" (written by a fork child), "copy A B" (by cp),
 * "map PATH" (that is open), "poke TEXT" (into it), "unmap", "hold PATH" (opens it, for reading),
 * "unnamed PATH TEXT" (made, kept open, removed), "verify PATH TEXT" (what is in it), "fill" (no
 * descriptor is left; "fill tightly": nor can the limit be raised), "drain" (takes those back),
 * "nothing", "exit". With "fork" as its first argument it has a child that obeys a file
 * "child.commands".
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "three_phase.h"

static struct {
  const char *path;
  int fd;
} opened[16];
static int opened_count;
static char *mapped;
enum { kMapped = 4096, kMostFds = 64 };

static void put(int fd, const char *text, off_t at) {
  REQUIRE(fd >= 0);
  REQUIRE(pwrite(fd, text, strlen(text), at) == (ssize_t)strlen(text));
}

static int open_fd(const char *path) {
  for (int i = 0; i < opened_count; i++) {
    if (strcmp(opened[i].path, path) == 0) return opened[i].fd;
  }
  return -1;
}

static void obey(char *line) {
  char *word[4] = {"", "", "", ""};
  int n = 0;
  for (char *w = strtok(line, " \n"); w != NULL && n < 4; w = strtok(NULL, " \n")) word[n++] = w;
  if (strcmp(word[0], "write") == 0) {
    int fd = open(word[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    put(fd, word[2], 0);
    close(fd);
  } else if (strcmp(word[0], "overwrite") == 0) {
    put(open_fd(word[1]), word[2], 0);
  } else if (strcmp(word[0], "append") == 0) {
    REQUIRE(write(open_fd(word[1]), word[2], strlen(word[2])) > 0);
  } else if (strcmp(word[0], "cut") == 0) {
    REQUIRE(ftruncate(open_fd(word[1]), atoi(word[2])) == 0);
  } else if (strcmp(word[0], "map") == 0) {
    mapped = mmap(NULL, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, open_fd(word[1]), 0);
    REQUIRE(mapped != MAP_FAILED);
  } else if (strcmp(word[0], "poke") == 0) {
    memcpy(mapped, word[1], strlen(word[1]));
  } else if (strcmp(word[0], "unmap") == 0) {
    REQUIRE(munmap(mapped, kMapped) == 0);
  } else if (strcmp(word[0], "hold") == 0) {
    REQUIRE(open(word[1], O_RDONLY) >= 0);
  } else if (strcmp(word[0], "unnamed") == 0) {
    opened[opened_count].path = strdup(word[1]);
    opened[opened_count].fd = open(word[1], O_RDWR | O_CREAT | O_EXCL, 0600);
    put(opened[opened_count++].fd, word[2], 0);
    REQUIRE(unlink(word[1]) == 0);
  } else if (strcmp(word[0], "verify") == 0) {
    char now[64] = "";
    REQUIRE(pread(open_fd(word[1]), now, sizeof now - 1, 0) >= 0 && strcmp(now, word[2]) == 0);
  } else if (strcmp(word[0], "rmdir") == 0) {
    REQUIRE(rmdir(word[1]) == 0);
  } else if (strcmp(word[0], "fill") == 0) {
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max > kMostFds);
    limit.rlim_cur = kMostFds;
    if (strcmp(word[1], "tightly") == 0) limit.rlim_max = kMostFds;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    while (dup(STDOUT_FILENO) >= 0) continue;
  } else if (strcmp(word[0], "drain") == 0) {
    for (int fd = kMostFds / 2; fd < kMostFds; fd++) close(fd);
  } else if (strcmp(word[0], "remove") == 0) {
    REQUIRE(remove(word[1]) == 0);
  } else if (strcmp(word[0], "rename") == 0) {
    REQUIRE(rename(word[1], word[2]) == 0);
  } else if (strcmp(word[0], "mkdir") == 0) {
    REQUIRE(mkdir(word[1], 0755) == 0);
  } else if (strcmp(word[0], "raw") == 0) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, word[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    put(fd, word[2], 0);
    close(fd);
  } else if (strcmp(word[0], "child") == 0) {
    const pid_t pid = fork();
    if (pid == 0) {
      int fd = open(word[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
      put(fd, word[2], 0);
      _exit(0);
    }
    REQUIRE(waitpid(pid, NULL, 0) == pid);
  } else if (strcmp(word[0], "copy") == 0) {
    char command[256];
    snprintf(command, sizeof command, "cp %s %s", word[1], word[2]);
    REQUIRE(system(command) == 0);
  } else if (strcmp(word[0], "nothing") != 0) {
    REQUIRE(strcmp(word[0], "exit") == 0);
    exit(0);
  }
}

int main(int argc, char **argv) {
  const int two = argc > 1 && strcmp(argv[1], "fork") == 0;
  const char *commands = two && fork() == 0 ? "child.commands" : "commands";
  for (int i = 1 + two; i < argc; i++) {
    char *colon = strchr(argv[i], ':');
    const int append = argv[i][0] == 'a';
    opened[opened_count].path = colon + 1;
    opened[opened_count].fd = open(colon + 1, append ? O_WRONLY | O_APPEND : O_RDWR);
    REQUIRE(opened[opened_count++].fd >= 0);
  }
  if (!two || commands[1] == 'h') test_ready();
  for (;;) {
    static char text[4096];
    if (test_read_file(commands, text, sizeof text) > 0) {
      char *rest = text;
      for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        if (line[0] != 0) obey(line);
      }
      syscall(SYS_unlinkat, AT_FDCWD, commands, 0);
    }
    usleep(1000);
  }
}
