/* SPDX-License-Identifier: MIT */
/*
 * lib_quick.c - checkpoints that a program with one thread captures itself (the quick path).
 *
 * crtest: mode=rollback,rollback-alone users=root,nobody timeout=240
 *
 * Each kind of change is made by a raw system call or a store, a checkpoint is taken, the change is
 * taken back, and restore() must bring it again: a quick checkpoint that had not seen the change
 * would bring back what was before. Changes that a quick checkpoint cannot have make it an ordinary
 * one. Between them quick ones must really have been taken, or this tests nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "rollback.h"

enum { kPage = 4096, kPages = 64, kWarm = 4, kRapid = 20 };

static unsigned char *area, *elsewhere;
static unsigned char *of_file;   /* private mapping of a file */
static unsigned char *file_part; /* one page of that file, or of another */
static int log_fd, other_fd, file_fd;
static char here[4096];
static volatile uint64_t counter;
static char alt_stack[32768];

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void handler(int signal) { (void)signal; }
static void other_handler(int signal) { (void)signal; }

/* What can be seen of the state; two looks differ where something has changed. */
struct look {
  uint64_t memory, place, file_page, handlers[3], mask, umask, limit, alt, nice, slack, death;
  uint64_t position, other_flags, other_cloexec, same_description, log_bytes, timer_s, rounding;
  uint64_t subreaper, affinity, protection, locked, named;
  char name[16], cwd[256];
};

static uint64_t sum(const unsigned char *p, size_t bytes) {
  uint64_t x = 1469598103934665603u;
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t w;
    memcpy(&w, p + i, 8);
    x = (x ^ w) * 1099511628211u;
  }
  return x;
}

/* The kernel stores a byte there. A pipe would not do: one inside the program makes every
 * checkpoint an ordinary one. */
static int kernel_stores(void *at, char byte) {
  char path[4200];
  snprintf(path, sizeof path, "%s/byte", here);
  const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(fd >= 0 && pwrite(fd, &byte, 1, 0) == 1);
  const ssize_t n = pread(fd, at, 1, 0);
  close(fd);
  return n == 1;
}

static void look(struct look *l) {
  struct kernel_action {
    uint64_t handler, flags, restorer, mask;
  } action;
  static const int kSignals[3] = {SIGUSR1, SIGUSR2, 50};
  struct rlimit limit;
  struct stat st;
  stack_t alt;
  struct itimerval timer;
  cpu_set_t cpus;
  memset(l, 0, sizeof *l);
  l->memory = sum(area, kPages * kPage) ^ counter;
  l->place = elsewhere != NULL ? sum(elsewhere, kPage) : 0;
  l->file_page = sum(of_file, kPage) ^ sum(file_part, kPage);
  for (int i = 0; i < 3; i++) {
    syscall(SYS_rt_sigaction, kSignals[i], NULL, &action, 8);
    l->handlers[i] = action.handler ^ action.flags ^ action.mask;
  }
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &l->mask, 8);
  l->umask = umask(0);
  umask((mode_t)l->umask);
  getrlimit(RLIMIT_CORE, &limit);
  l->limit = limit.rlim_cur;
  sigaltstack(NULL, &alt);
  l->alt = (uint64_t)alt.ss_sp ^ (uint64_t)alt.ss_flags;
  l->nice = (uint64_t)syscall(SYS_getpriority, PRIO_PROCESS, 0);
  l->slack = (uint64_t)prctl(PR_GET_TIMERSLACK);
  int death = 0, reaper = 0;
  prctl(PR_GET_PDEATHSIG, &death);
  prctl(PR_GET_CHILD_SUBREAPER, &reaper);
  l->death = (uint64_t)death;
  l->subreaper = (uint64_t)reaper;
  prctl(PR_GET_NAME, l->name);
  l->position = (uint64_t)lseek(other_fd, 0, SEEK_CUR);
  l->other_flags = (uint64_t)fcntl(other_fd, F_GETFL);
  l->other_cloexec = (uint64_t)fcntl(other_fd, F_GETFD);
  l->same_description = (uint64_t)syscall(SYS_kcmp, getpid(), getpid(), 0, other_fd, 40) == 0;
  fstat(log_fd, &st);
  l->log_bytes = (uint64_t)st.st_size;
  getitimer(ITIMER_VIRTUAL, &timer);
  l->timer_s = timer.it_interval.tv_sec != 0;
  volatile double third = 1;
  third /= 3; /* by SSE; fegetround() asks the x87 */
  memcpy(&l->rounding, (const void *)&third, 8);
  l->rounding ^= (uint64_t)fegetround();
  REQUIRE(getcwd(l->cwd, sizeof l->cwd) != NULL);
  CPU_ZERO(&cpus);
  sched_getaffinity(0, sizeof cpus, &cpus);
  l->affinity = (uint64_t)CPU_COUNT(&cpus);
  const int again = open("/proc/self/cwd/other", O_RDWR | O_CLOEXEC);
  const int moved = open("/proc/self/cwd/moved", O_RDWR | O_CLOEXEC);
  l->named = (uint64_t)(again >= 0 ? 1 : 0) | (uint64_t)(moved >= 0 ? 2 : 0);
  l->locked = again >= 0 && flock(again, LOCK_EX | LOCK_NB) != 0;
  if (again >= 0) close(again);
  if (moved >= 0) close(moved);
  l->protection = (uint64_t)kernel_stores(area + 50 * kPage + 200, 0x22);
}

static void raw_action(int signal, uint64_t to) {
  struct {
    uint64_t handler, flags, restorer, mask;
  } action = {to, 0x04000000, (uint64_t)&handler, 0};
  REQUIRE(syscall(SYS_rt_sigaction, signal, &action, NULL, 8) == 0);
}

/* Each makes a change (1) or takes it back (0). */
static void store(int on) { memset(area + 7 * kPage, on ? 0x5a : 0x11, 3 * kPage); }
static void kernel_store(int on) { REQUIRE(kernel_stores(area + 20 * kPage, on ? 'k' : 'n')); }
static void drop(int on) {
  if (on) {
    REQUIRE(madvise(area + 9 * kPage, 2 * kPage, MADV_DONTNEED) == 0);
  } else {
    memset(area + 9 * kPage, 0x77, 2 * kPage);
  }
}
static void zeros(int on) { memset(area + 30 * kPage, on ? 0 : 0x33, kPage); }
static void map_over(int on) {
  REQUIRE(mmap(area + 40 * kPage, kPage, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
  if (on) area[40 * kPage + 5] = 9;
}
static void new_mapping(int on) {
  if (on) {
    elsewhere = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(elsewhere != MAP_FAILED);
    elsewhere[100] = 42;
  } else {
    REQUIRE(munmap(elsewhere, kPage) == 0);
    elsewhere = NULL;
  }
}
static void protect(int on) {
  REQUIRE(syscall(SYS_mprotect, area + 50 * kPage, kPage,
                  on ? PROT_READ : PROT_READ | PROT_WRITE) == 0);
}
static void file_page(int on) {
  if (on) {
    of_file[10] = 'x';
  } else {
    REQUIRE(madvise(of_file, kPage, MADV_DONTNEED) == 0);
  }
}
static void file_page_dropped(int on) {
  if (on) {
    REQUIRE(madvise(of_file, kPage, MADV_DONTNEED) == 0);
  } else {
    of_file[10] = 'y';
  }
}
/* Of two files whose pages are all different. */
static void map_part(const char *name, off_t offset) {
  const int fd = open(name, O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  REQUIRE(mmap(file_part, kPage, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, offset) == file_part);
  close(fd);
}
static void other_part(int on) { map_part("mapped", on ? kPage : 0); }
static void other_file(int on) { map_part(on ? "mapped2" : "mapped", 0); }
static void action(int on) { raw_action(SIGUSR1, (uint64_t)(on ? &other_handler : &handler)); }
static void realtime_action(int on) { raw_action(50, on ? (uint64_t)&other_handler : 0); }
static void mask(int on) {
  uint64_t set = on ? 1u << (SIGUSR2 - 1) : 0;
  REQUIRE(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &set, NULL, 8) == 0);
}
static void mode_mask(int on) { umask(on ? 027 : 022); }
static void limit(int on) {
  struct rlimit l;
  getrlimit(RLIMIT_CORE, &l);
  l.rlim_cur = on ? 0 : l.rlim_max < 4096 ? l.rlim_max : 4096;
  REQUIRE(setrlimit(RLIMIT_CORE, &l) == 0);
}
static void alternate(int on) {
  stack_t s = {.ss_sp = alt_stack, .ss_size = sizeof alt_stack, .ss_flags = on ? 0 : SS_DISABLE};
  REQUIRE(sigaltstack(&s, NULL) == 0);
}
static void slack(int on) { REQUIRE(prctl(PR_SET_TIMERSLACK, on ? 70000 : 50000) == 0); }
static void death(int on) { REQUIRE(prctl(PR_SET_PDEATHSIG, on ? SIGUSR2 : 0) == 0); }
static void reaper(int on) { REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, on) == 0); }
static void name(int on) { REQUIRE(prctl(PR_SET_NAME, on ? "other" : "lib_quick") == 0); }
static void seek(int on) { REQUIRE(lseek(other_fd, on ? 77 : 3, SEEK_SET) >= 0); }
static void flags(int on) { REQUIRE(fcntl(other_fd, F_SETFL, on ? O_APPEND : 0) == 0); }
static void cloexec(int on) { REQUIRE(fcntl(other_fd, F_SETFD, on ? FD_CLOEXEC : 0) == 0); }
static void duplicate(int on) {
  if (on) {
    REQUIRE(dup2(other_fd, 40) == 40);
  } else {
    close(40);
  }
}
/* The same file, at the same place, but not the same description. */
static void separate(int on) {
  if (on) {
    const int fd = open("other", O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0 && lseek(fd, lseek(other_fd, 0, SEEK_CUR), SEEK_SET) >= 0);
    REQUIRE(dup2(fd, 40) == 40);
    close(fd);
  } else {
    REQUIRE(dup2(other_fd, 40) == 40);
  }
}
static void append(int on) {
  if (on) {
    REQUIRE(write(log_fd, "a line\n", 7) == 7);
  } else {
    REQUIRE(write(log_fd, "more, which is cut off\n", 23) == 23);
  }
}
static void lock(int on) { REQUIRE(flock(other_fd, on ? LOCK_EX : LOCK_UN) == 0); }
static void move(int on) {
  REQUIRE((on ? rename("other", "moved") : rename("moved", "other")) == 0 || errno == ENOENT);
}
static void directory(int on) { REQUIRE(chdir(on ? "/" : here) == 0); }
static void timer(int on) {
  const struct itimerval t = {{on ? 1000 : 0, 0}, {on ? 1000 : 0, 0}};
  REQUIRE(setitimer(ITIMER_VIRTUAL, &t, NULL) == 0);
}
static void rounding(int on) { fesetround(on ? FE_UPWARD : FE_TONEAREST); }
static void nothing(int on) { counter += (uint64_t)on; }

static const struct {
  const char *what;
  void (*change)(int on);
  int ordinary; /* at least in this kernel a quick checkpoint cannot have it */
} kChanges[] = {
    {"nothing", nothing, 0},
    {"a store", store, 0},
    {"a store by the kernel", kernel_store, 0},
    {"MADV_DONTNEED", drop, 0},
    {"a page of zeros", zeros, 0},
    {"a mapping over the old one", map_over, 1},
    {"a new mapping", new_mapping, 1},
    {"mprotect", protect, 1},
    {"a file's page made the program's own", file_page, 1},
    {"... and dropped", file_page_dropped, 1},
    {"another part of the file mapped", other_part, 1},
    {"another file mapped", other_file, 1},
    {"a signal's action", action, 1},
    {"a realtime signal's action", realtime_action, 1},
    {"the signal mask", mask, 1},
    {"umask", mode_mask, 1},
    {"a resource limit", limit, 1},
    {"an alternate stack", alternate, 1},
    {"the timer slack", slack, 1},
    {"the parent-death signal", death, 1},
    {"a child subreaper", reaper, 1},
    {"the name", name, 1},
    {"a file's offset", seek, 0},
    {"a file's flags", flags, 1},
    {"close-on-exec", cloexec, 1},
    {"a duplicate", duplicate, 1},
    {"a duplicate made independent", separate, 1},
    {"a longer file", append, 0},
    {"a lock", lock, 1},
    {"the working directory", directory, 1},
    {"a timer", timer, 1},
    {"the rounding mode", rounding, 0},
    {"a file's name", move, 1}, /* last: afterwards the file has a new time */
};
enum { kChangesCount = sizeof kChanges / sizeof kChanges[0] };

static uint64_t quick_ones(void) {
  struct crstatus st = {.size = sizeof st};
  REQUIRE(checkpoint_wait(CR_LEVEL_MEMORY) == 0 && crstatus(&st) == 0);
  return st.quick;
}

/* Quick checkpoints are being taken when this returns. */
static void warm_up(const char *what) {
  /* The next one is ordinary, and for a second from then on none needs to be. */
  REQUIRE(crexclude(area, kPage) == 0 && crexclude(area, 0) == 0);
  for (int i = 0; i < 200; i++) {
    const uint64_t before = quick_ones();
    for (int k = 0; k < kWarm; k++) {
      counter++;
      area[(counter % kPages) * kPage + 9]++;
      CHECK("checkpoint", checkpoint() == 0);
    }
    if (quick_ones() >= before + kWarm) return;
  }
  TEST_FAIL("%s: quick checkpoints were taken, expected yes, got no", what);
}

static void try_change(int i) {
  static char file[4200], seen[4200];
  static struct look then, now;
  snprintf(file, sizeof file, "%s/change.%d", here, i);
  snprintf(seen, sizeof seen, "%s/look", here);
  kChanges[i].change(0);
  if (kChanges[i].change == separate || kChanges[i].change == file_page_dropped) warm_up("before");
  warm_up(kChanges[i].what);
  const uint64_t begin = now_ns();
  const uint64_t quick = quick_ones();
  /* One right after the other: the agent is awake, and looks at the map for the program. */
  for (int k = 0; k < kRapid; k++) CHECK_EQ("a rapid checkpoint", 0, checkpoint());
  kChanges[i].change(1);
  const int r = checkpoint();
  look(&now);
  if (rollback_count(file) == 1) {
    CHECK_EQ(kChanges[i].what, 0, r);
    const uint64_t more = quick_ones() - quick;
    if (more > kRapid + 1) TEST_FAIL("%s: too many were quick", kChanges[i].what);
    const int in_time = now_ns() - begin < 500000000u;
    if (!kChanges[i].ordinary && in_time) CHECK_EQ(kChanges[i].what, kRapid + 1, more);
    if (kChanges[i].ordinary && more > kRapid) TEST_FAIL("%s: not seen", kChanges[i].what);
    /* Not in memory that comes back. */
    const int fd = rollback_open(seen, O_RDWR | O_CREAT | O_TRUNC);
    REQUIRE(fd >= 0 && write(fd, &now, sizeof now) == sizeof now);
    close(fd);
    kChanges[i].change(0);
    memset(area, 0xee, 2 * kPage);
    rollback_now();
  }
  CHECK_EQ("restored", CR_RESTORED, r);
  const int fd = open(seen, O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0 && read(fd, &then, sizeof then) == sizeof then);
  close(fd);
  const uint64_t *a = (const uint64_t *)&then, *b = (const uint64_t *)&now;
  for (size_t k = 0; k < sizeof then / 8; k++) {
    if (a[k] != b[k])
      TEST_FAIL("%s: word %zu, expected %#llx, got %#llx", kChanges[i].what, k,
                (unsigned long long)a[k], (unsigned long long)b[k]);
  }
  kChanges[i].change(0);
}

int main(void) {
  REQUIRE(getcwd(here, sizeof here) != NULL);
  rollback_begin();
  area = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(area != MAP_FAILED);
  memset(area, 0x22, kPages * kPage);
  log_fd = open("log", O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  other_fd = open("other", O_RDWR | O_CREAT | O_TRUNC, 0600);
  file_fd = open("mapped", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(log_fd >= 0 && other_fd >= 0 && file_fd >= 0);
  REQUIRE(ftruncate(other_fd, 100) == 0 && ftruncate(file_fd, 2 * kPage) == 0);
  const int second_fd = open("mapped2", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(second_fd >= 0 && ftruncate(second_fd, kPage) == 0 && pwrite(second_fd, "c", 1, 0) == 1);
  REQUIRE(pwrite(file_fd, "a", 1, 0) == 1 && pwrite(file_fd, "b", 1, kPage) == 1);
  close(second_fd);
  file_part = mmap(NULL, kPage, PROT_READ, MAP_PRIVATE, file_fd, 0);
  REQUIRE(file_part != MAP_FAILED);
  of_file = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_fd, 0);
  REQUIRE(of_file != MAP_FAILED);
  usleep(2100000); /* a file that was written a moment ago may change without a new time stamp */
  REQUIRE(checkpoint() == 0);
  for (int i = 0; i < kChangesCount; i++) try_change(i);
  test_finish();
}
