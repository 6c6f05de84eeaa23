/* SPDX-License-Identifier: MIT */
/* crtest: matrix_skips=once,incremental,lazy mode=cycles
 *
 * A plug-in that is a part of the program: it saves a userfaultfd by its number. What registration
 * refuses; neither callback disturbs errno or the vector registers of the thread that it ran in.
 * It counts its restores: three.
 */
#define _GNU_SOURCE
#include <checkpoint_restore.h>
#include <checkpoint_restore_plugin.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "three_phase.h"

static int fd = -1, saves, restores;

static int make_one(void) {
  struct uffdio_api api = {.api = UFFD_API};
  const int made = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
  return made >= 0 && ioctl(made, UFFDIO_API, &api) == 0 ? made : -1;
}

static void disturb(void) {
  errno = ENOTTY;
  __asm__ volatile("pxor %%xmm0, %%xmm0\n\tpxor %%xmm7, %%xmm7" ::: "xmm0", "xmm7");
}
static int save_one(void *context, char *why, size_t size) {
  CHECK_EQ("context", 0x1234, (intptr_t)context);
  CHECK_EQ("room for words", 256, size);
  (void)why;
  saves++;
  disturb();
  return 0;
}
static int restore_one(void *context) {
  CHECK_EQ("context", 0x1234, (intptr_t)context);
  const int made = make_one();
  if (made < 0) return errno;
  restores++;
  if (dup3(made, fd, O_CLOEXEC) < 0) return errno;
  close(made);
  disturb();
  return 0;
}
static int no_probe(void *context) {
  (void)context;
  return EXDEV;
}

static void expect_refused(struct crplugin p, const char *what, int error) {
  errno = 0;
  CHECK_EQ(what, -1, crplugin_register(&p));
  CHECK_EQ(what, error, errno);
}

static void register_one(void) {
  struct crplugin p = {.version = CRPLUGIN_VERSION,
                       .size = sizeof p,
                       .name = "userfault",
                       .descriptors = "anon_inode:[userfaultfd]",
                       .save = save_one,
                       .restore = restore_one,
                       .context = (void *)0x1234};
  struct crplugin bad = p;
  bad.version = 2;
  expect_refused(bad, "another version", EINVAL);
  bad = p, bad.size--;
  expect_refused(bad, "another size", EINVAL);
  bad = p, bad.save = NULL;
  expect_refused(bad, "no save()", EINVAL);
  bad = p, bad.name[0] = '\0';
  expect_refused(bad, "no name", EINVAL);
  bad = p, memset(bad.mappings, 'a', sizeof bad.mappings);
  expect_refused(bad, "a name without an end", EINVAL);
  bad = p, strcpy(bad.descriptors, "socket:");
  expect_refused(bad, "sockets", EINVAL);
  bad = p, bad.probe = no_probe;
  expect_refused(bad, "a probe that fails", EXDEV);
  CHECK_EQ("crplugin_register", 0, crplugin_register(&p));
  expect_refused(p, "the same once more", EEXIST);
}

int main(void) {
  double spins = 0;
  if ((fd = make_one()) < 0) test_skip("userfaultfd is not allowed here");
  register_one();
  const double half = 0.5;
  errno = EXFULL;
  test_ready();
  while (!test_poll()) {
    const int before = errno = EXFULL; /* no call but test_poll's changes it */
    for (int i = 0; i < 200000; i++) { /* values that live in vector registers */
      spins += half;
      __asm__ volatile("" : "+x"(spins));
    }
    CHECK_EQ("errno", before, errno);
    CHECK("whole number of halves", spins * 2 == (double)(long long)(spins * 2));
  }
  CHECK_EQ("restores", 3, restores);
  CHECK("saves", saves >= 3);
  struct uffdio_range none = {0};
  CHECK("the descriptor is a userfaultfd that knows no ranges",
        ioctl(fd, UFFDIO_UNREGISTER, &none) == -1 && errno == EINVAL);
  CHECK_EQ("close on exec", FD_CLOEXEC, fcntl(fd, F_GETFD));
  test_finish();
}
