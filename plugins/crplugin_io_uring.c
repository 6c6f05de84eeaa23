/* SPDX-License-Identifier: MIT */
/*
 * crplugin_io_uring.c - a plug-in for checkpoint_restore: io_uring rings.
 *
 * At a checkpoint it waits, up to a second, until no request is under way in any ring, and keeps a
 * copy of each ring's memory. After a restore it makes the rings again, under the same numbers and
 * at the same addresses: completions that were not reaped and submissions that were not made are
 * there. The kernel counts requests from 0 in a new ring, and programs compare its counts with their
 * own; so the new ring makes as many empty requests as the old one had made.
 *
 * Refused, with the reason: requests that do not end (a pending poll or accept), rings of which not
 * each request had one completion (multishot), more than kMostRequests requests, SQPOLL, registered
 * files, entries of 32 bytes, rings whose mappings cannot be told apart (before Linux 5.12). Buffers
 * are registered again; registered eventfds and personalities the kernel does not tell, and they are
 * lost. Setup flags that only save work (COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN) come back unset.
 *
 * Since Linux 6.4 nobody may say where a ring is mapped. There the new ring is made in memory of the
 * process's own, which lies at the old address already (IORING_SETUP_NO_MMAP, from Linux 6.10 on).
 *
 * The invariant: save() leaves every ring as it found it but for completions that arrive meanwhile.
 */
#define _GNU_SOURCE
#include <checkpoint_restore_plugin.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#pragma weak crplugin_register

enum { kRings = 16, kNumbers = 4, kBuffers = 64, kParts = 3, kTextBytes = 1 << 20 };
static const uint32_t kMostRequests = 1u << 26;
static const char kName[] = "anon_inode:[io_uring]";

struct part { /* a mapping of a ring */
  char *at;
  size_t bytes;
  uint64_t offset;
  int prot;
};
struct ring {
  int numbers[kNumbers], close_on_exec[kNumbers], number_count;
  uint64_t inode;
  int plain; /* its memory is the process's own, see make() */
  struct part parts[kParts];
  int part_count;
  uint32_t done; /* requests made, and completions */
  uint32_t sq_entries, cq_entries, flags;
  struct iovec buffers[kBuffers];
  uint32_t buffer_count;
  char *copy; /* of all parts, one behind the other */
  size_t copy_bytes;
};
static struct ring rings[kRings];
static int ring_count;
static struct io_sqring_offsets sq_off; /* of this kernel */
static struct io_cqring_offsets cq_off;
static char text[kTextBytes]; /* of a file of /proc */

static long enter(int fd, unsigned submit, unsigned flags) {
  return syscall(SYS_io_uring_enter, fd, submit, 0, flags, NULL, 0);
}
static uint32_t *word(const struct ring *r, uint32_t offset) {
  return (uint32_t *)(r->parts[0].at + offset);
}
static uint32_t *cq_word(const struct ring *r, uint32_t offset) {
  const int own = r->part_count > 2; /* the completion ring has a mapping of its own */
  return (uint32_t *)(r->parts[own ? 1 : 0].at + offset);
}

/* ---- reading /proc, without the C library's allocator ---------------------------------------- */

static long read_whole(const char *path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  size_t used = 0;
  for (ssize_t n; (n = read(fd, text + used, sizeof text - 1 - used)) > 0;) used += (size_t)n;
  close(fd);
  text[used] = '\0';
  return used + 1 < sizeof text ? (long)used : -1;
}

static uint64_t parse(const char **at, int base) {
  uint64_t value = 0;
  for (;; (*at)++) {
    const char c = **at;
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
    if (digit >= base) return value;
    value = value * (uint64_t)base + (uint64_t)digit;
  }
}

/* The number behind "name:" in text; -1: there is none. */
static long long field(const char *name, int base) {
  const char *at = strstr(text, name);
  if (at == NULL) return -1;
  at += strlen(name);
  while (*at == ':' || *at == '\t' || *at == ' ') at++;
  if (*at == '-') return -1;
  if (base == 16 && at[0] == '0' && at[1] == 'x') at += 2;
  return (long long)parse(&at, base);
}

static char *put(char *to, const char *from) {
  while (*from != '\0') *to++ = *from++;
  *to = '\0';
  return to;
}
static char *put_number(char *to, unsigned n) {
  char digits[12];
  int i = sizeof digits - 1;
  digits[i] = '\0';
  do digits[--i] = (char)('0' + n % 10);
  while ((n /= 10) != 0);
  return put(to, digits + i);
}
static int refuse(char *why, int fd, const char *reason, int error) {
  put(put(put_number(put(why, "the ring of fd "), (unsigned)fd), ": "), reason);
  return error;
}

static int read_fdinfo(int fd) {
  char path[64];
  put_number(put(path, "/proc/thread-self/fdinfo/"), (unsigned)fd);
  return read_whole(path) > 0 ? 0 : -1;
}

/* ---- finding the rings ------------------------------------------------------------------------ */

/* Rings that restore() has made, as they were before the list is made anew. */
static struct ring former[kRings];
static int former_count;
static const struct ring *known_plain(uint64_t inode) {
  for (int i = 0; i < former_count; i++) {
    if (former[i].plain && former[i].inode == inode) return &former[i];
  }
  return NULL;
}

static int add_number(int fd) {
  const pid_t pid = getpid();
  int i = 0;
  while (i < ring_count && syscall(SYS_kcmp, pid, pid, KCMP_FILE, rings[i].numbers[0], fd) != 0)
    i++;
  if (i == kRings || (i < ring_count && rings[i].number_count == kNumbers)) return ENOSPC;
  struct ring *r = &rings[i];
  if (i == ring_count) {
    struct stat st;
    if (fstat(fd, &st) != 0) return errno;
    const struct ring *old = known_plain(st.st_ino);
    r->number_count = r->part_count = r->plain = 0;
    r->inode = st.st_ino;
    if (old != NULL) {
      r->plain = 1;
      r->part_count = old->part_count;
      memcpy(r->parts, old->parts, sizeof r->parts);
    }
    ring_count++;
  }
  r->numbers[r->number_count] = fd;
  r->close_on_exec[r->number_count++] = (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
  return 0;
}

struct entry { /* of getdents64(2) */
  uint64_t inode;
  int64_t next;
  uint16_t bytes;
  uint8_t type;
  char name[];
};

static int find_numbers(void) {
  static char entries[8192] __attribute__((aligned(8)));
  char path[64], link[64];
  const int dir = open("/proc/thread-self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int error = dir < 0 ? errno : 0;
  memcpy(former, rings, sizeof rings);
  former_count = ring_count;
  ring_count = 0;
  for (long n; error == 0 && (n = syscall(SYS_getdents64, dir, entries, sizeof entries)) > 0;) {
    for (long at = 0; error == 0 && at < n;) {
      const struct entry *e = (const struct entry *)(entries + at);
      at += e->bytes;
      if (e->name[0] == '.' || strlen(e->name) > 10) continue;
      put(put(path, "/proc/thread-self/fd/"), e->name);
      const ssize_t length = readlink(path, link, sizeof link - 1);
      if (length != sizeof kName - 1 || memcmp(link, kName, sizeof kName - 1) != 0) continue;
      const char *digits = e->name;
      error = add_number((int)parse(&digits, 10));
    }
  }
  if (dir >= 0) close(dir);
  return error;
}

static void sort_parts(struct ring *r) {
  for (int i = 1; i < r->part_count; i++) {
    for (int k = i; k > 0 && r->parts[k].offset < r->parts[k - 1].offset; k--) {
      const struct part p = r->parts[k];
      r->parts[k] = r->parts[k - 1];
      r->parts[k - 1] = p;
    }
  }
}

/* start-end perms offset device inode name */
static int find_parts(void) {
  if (read_whole("/proc/thread-self/maps") <= 0) return EIO;
  for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
    const char *end = strchr(line, '\n'), *at = line;
    if (end == NULL) return EIO;
    if ((size_t)(end - line) < sizeof kName ||
        memcmp(end - (sizeof kName - 1), kName, sizeof kName - 1) != 0)
      continue;
    struct part p;
    p.at = (char *)parse(&at, 16);
    at++;
    p.bytes = parse(&at, 16) - (uintptr_t)p.at;
    p.prot = (at[1] == 'r' ? PROT_READ : 0) | (at[2] == 'w' ? PROT_WRITE : 0);
    at += 6;
    p.offset = parse(&at, 16);
    at++;
    while (*at != ' ') at++;
    at++;
    const uint64_t inode = parse(&at, 10);
    struct ring *of = NULL;
    for (int i = 0; i < ring_count; i++) {
      if (rings[i].inode != inode) continue;
      if (of != NULL) return EXDEV; /* this kernel gives all of them one inode */
      of = &rings[i];
    }
    if (of == NULL || of->part_count == kParts || p.prot != (PROT_READ | PROT_WRITE)) return EXDEV;
    of->parts[of->part_count++] = p;
  }
  for (int i = 0; i < ring_count; i++) sort_parts(&rings[i]);
  return 0;
}

/* ---- save ------------------------------------------------------------------------------------- */

static size_t round_up(size_t n) { return (n + 4095) & ~(size_t)4095; }

static int read_shape(struct ring *r, char *why) {
  const int fd = r->numbers[0];
  const struct part *last = &r->parts[r->part_count - 1];
  if (r->part_count < 2 || r->parts[0].offset != IORING_OFF_SQ_RING ||
      last->offset != IORING_OFF_SQES)
    return refuse(why, fd, "it is not mapped as usual", EOPNOTSUPP);
  r->sq_entries = *word(r, sq_off.ring_entries);
  r->cq_entries = *cq_word(r, cq_off.ring_entries);
  r->flags = IORING_SETUP_CQSIZE;
  if (last->bytes == round_up(r->sq_entries * 128ul) &&
      last->bytes != round_up(r->sq_entries * 64ul))
    r->flags |= IORING_SETUP_SQE128;
  const size_t ring =
      cq_off.cqes + r->cq_entries * sizeof(struct io_uring_cqe) + r->sq_entries * 4ul;
  if (r->part_count == 2 && r->parts[0].bytes != round_up(ring))
    return refuse(why, fd, "its entries are not of the usual size", EOPNOTSUPP);
  return 0;
}

/* 1: requests are under way. */
static int look_at(struct ring *r, char *why) {
  const int fd = r->numbers[0];
  if (read_fdinfo(fd) != 0) return refuse(why, fd, "/proc does not tell its state", EIO);
  const long long submitted = field("CachedSqHead", 10), completed = field("CachedCqTail", 10);
  if (submitted < 0 || completed < 0)
    return refuse(why, fd, "/proc does not tell its state", EOPNOTSUPP);
  if (field("SqThread", 10) >= 0) return refuse(why, fd, "SQPOLL cannot be saved", EOPNOTSUPP);
  if (field("UserFiles", 10) > 0)
    return refuse(why, fd, "registered files cannot be saved; unregister them", EOPNOTSUPP);
  if (submitted != completed || *word(r, sq_off.head) != (uint32_t)submitted ||
      *cq_word(r, cq_off.tail) != (uint32_t)completed)
    return 1;
  r->done = (uint32_t)submitted;
  if (r->done > kMostRequests)
    return refuse(why, fd, "it has made too many requests; close it and make another", EOPNOTSUPP);
  r->buffer_count = 0;
  const char *at = strstr(text, "UserBufs:");
  const long long count = field("UserBufs", 10);
  if (count > kBuffers) return refuse(why, fd, "it has too many registered buffers", EOPNOTSUPP);
  for (long long i = 0; at != NULL && i < count; i++) {
    at = strstr(at, ": 0x");
    if (at == NULL) return refuse(why, fd, "a registered buffer is missing", EOPNOTSUPP);
    at += 4;
    r->buffers[i].iov_base = (void *)parse(&at, 16);
    at++;
    r->buffers[i].iov_len = parse(&at, 10);
    r->buffer_count++;
  }
  return 0;
}

static int wait_for(struct ring *r, char *why) {
  const struct timespec moment = {0, 2000000};
  for (int tries = 0; tries < 500; tries++) {
    const int e = look_at(r, why);
    if (e != 1) return e;
    enter(r->numbers[0], 0, IORING_ENTER_GETEVENTS); /* completions that wait for this thread */
    syscall(SYS_ppoll, NULL, 0, &(struct timespec){moment.tv_sec, moment.tv_nsec}, NULL, 8);
  }
  return refuse(why, r->numbers[0],
                "requests are under way that do not end, or had more than one completion; try "
                "again when they have",
                EBUSY);
}

static int copy_ring(struct ring *r) {
  size_t bytes = 0;
  for (int i = 0; i < r->part_count; i++) bytes += r->parts[i].bytes;
  if (bytes > r->copy_bytes) {
    if (r->copy != NULL) munmap(r->copy, r->copy_bytes);
    r->copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    r->copy_bytes = r->copy == MAP_FAILED ? 0 : bytes;
    if (r->copy == MAP_FAILED) {
      r->copy = NULL;
      return ENOMEM;
    }
  }
  char *to = r->copy;
  for (int i = 0; i < r->part_count; i++) {
    memcpy(to, r->parts[i].at, r->parts[i].bytes);
    to += r->parts[i].bytes;
  }
  return 0;
}

static int save(void *context, char *why, size_t size) {
  (void)context, (void)size;
  int e = find_numbers();
  if (e != 0) put(why, "the rings cannot be listed, or are more than 16");
  if (e == 0 && ring_count == 0) return 0;
  if (e == 0) e = find_parts();
  if (e == EXDEV) put(why, "a ring's mapping belongs to no descriptor, or cannot be told apart");
  for (int i = 0; e == 0 && i < ring_count; i++) {
    e = read_shape(&rings[i], why);
    if (e == 0) e = wait_for(&rings[i], why);
    if (e == 0) e = copy_ring(&rings[i]);
  }
  return e;
}

/* ---- restore ---------------------------------------------------------------------------------- */

/* As many empty requests as the old ring had made. */
static int count_up(struct ring *r, int fd) {
  uint32_t *head = cq_word(r, cq_off.head), *tail = cq_word(r, cq_off.tail);
  const size_t step = (r->flags & IORING_SETUP_SQE128) != 0 ? 2 : 1;
  struct io_uring_sqe *sqes = (struct io_uring_sqe *)r->parts[r->part_count - 1].at;
  for (uint32_t i = 0; i < r->sq_entries; i++) {
    memset(&sqes[i * step], 0, sizeof sqes[0]);
    sqes[i * step].opcode = IORING_OP_NOP;
    word(r, sq_off.array)[i] = i;
  }
  for (uint32_t left = r->done; left > 0;) {
    const uint32_t batch = left < r->sq_entries ? left : r->sq_entries;
    __atomic_add_fetch(word(r, sq_off.tail), batch, __ATOMIC_RELEASE);
    const long made = enter(fd, batch, IORING_ENTER_GETEVENTS);
    if (made != (long)batch) return made < 0 ? errno : EIO;
    __atomic_store_n(head, __atomic_load_n(tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
    left -= batch;
  }
  return *word(r, sq_off.head) == r->done && *tail == r->done ? 0 : EIO;
}

/* 0, or an errno; EINVAL: rings may not be mapped to a given place (since Linux 6.4). */
static int map_ring(struct ring *r, int fd) {
  for (int i = 0; i < r->part_count; i++) {
    const struct part *part = &r->parts[i];
    if (mmap(part->at, part->bytes, part->prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd,
             (off_t)part->offset) == MAP_FAILED)
      return errno;
  }
  return 0;
}

/* The ring's memory is what the restore has put there, the process's own (Linux 6.10). */
static int set_up_plain(struct ring *r, struct io_uring_params *p) {
  enum { kNoMmap = 1 << 14, kUserAddress = 32 };
  const uint64_t entries = (uintptr_t)r->parts[1].at, ring = (uintptr_t)r->parts[0].at;
  if (r->part_count != 2) {
    errno = EXDEV;
    return -1;
  }
  memset(p, 0, sizeof *p);
  p->flags = r->flags | kNoMmap;
  p->cq_entries = r->cq_entries;
  memcpy((char *)&p->sq_off + kUserAddress, &entries, sizeof entries);
  memcpy((char *)&p->cq_off + kUserAddress, &ring, sizeof ring);
  return (int)syscall(SYS_io_uring_setup, r->sq_entries, p);
}

static int set_up(struct ring *r, struct io_uring_params *p) {
  if (!r->plain) {
    memset(p, 0, sizeof *p);
    p->flags = r->flags;
    p->cq_entries = r->cq_entries;
    const int fd = (int)syscall(SYS_io_uring_setup, r->sq_entries, p);
    if (fd < 0) return fd;
    const int e = map_ring(r, fd);
    if (e == 0) return fd;
    close(fd);
    errno = e;
    if (e != EINVAL) return -1;
    r->plain = 1;
  }
  return set_up_plain(r, p);
}

static int make(struct ring *r) {
  struct io_uring_params p;
  struct stat st;
  const int fd = set_up(r, &p);
  if (fd < 0) return errno;
  int e = memcmp(&p.sq_off, &sq_off, offsetof(struct io_sqring_offsets, array)) == 0 ? 0 : EXDEV;
  sq_off = p.sq_off; /* the array lies behind the completions, whose number differs */
  if (e == 0) e = count_up(r, fd);
  const char *from = r->copy;
  for (int i = 0; e == 0 && i < r->part_count; i++) {
    memcpy(r->parts[i].at, from, r->parts[i].bytes);
    from += r->parts[i].bytes;
  }
  if (e == 0 && r->buffer_count != 0 &&
      syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, r->buffers, r->buffer_count) != 0)
    e = errno;
  for (int i = 0; e == 0 && i < r->number_count; i++) {
    if (dup3(fd, r->numbers[i], r->close_on_exec[i] ? O_CLOEXEC : 0) < 0) e = errno;
  }
  if (e == 0 && fstat(fd, &st) == 0) r->inode = st.st_ino;
  close(fd);
  return e;
}

static int restore(void *context) {
  int e = 0;
  (void)context;
  for (int i = 0; e == 0 && i < ring_count; i++) e = make(&rings[i]);
  return e;
}

/* ---- registration ----------------------------------------------------------------------------- */

static int probe(void *context) {
  struct io_uring_params p;
  (void)context;
  memset(&p, 0, sizeof p);
  const int fd = (int)syscall(SYS_io_uring_setup, 1, &p);
  if (fd < 0) return errno;
  close(fd);
  sq_off = p.sq_off;
  cq_off = p.cq_off;
  return (p.features & IORING_FEAT_SINGLE_MMAP) != 0 ? 0 : ENOSYS;
}

__attribute__((constructor)) static void enter_program(void) {
  struct crplugin p;
  if (crplugin_register == NULL) return; /* the program does not run under crrun */
  memset(&p, 0, sizeof p);
  p.version = CRPLUGIN_VERSION;
  p.size = sizeof p;
  strcpy(p.name, "io_uring");
  strcpy(p.descriptors, kName);
  strcpy(p.mappings, kName);
  p.probe = probe;
  p.save = save;
  p.restore = restore;
  if (crplugin_register(&p) != 0)
    dprintf(STDERR_FILENO, "crplugin_io_uring: not registered: %s\n", strerror(errno));
}
