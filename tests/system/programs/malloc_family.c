/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * Each function of the malloc family does what the C library's manual says: results, errno, corner
 * cases; blocks made before a checkpoint are whole after it, and can be resized and freed. Under
 * crrun they lie in the heap of checkpoint_restore, and with CR_MODE=engine in the C library's.
 *
 * CR_BUILD: -fno-builtin -Wno-use-after-free
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>

#include "heap_place.h"
#include "three_phase.h"

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#pragma GCC diagnostic ignored "-Walloc-size-larger-than="

enum { kBlocks = 600 };
static volatile size_t huge = (size_t)PTRDIFF_MAX + 1, zero = 0, one = 1;
static unsigned char *blocks[kBlocks];
static size_t sizes[kBlocks];

static size_t size_of(int i) {
  return i % 50 == 0 ? 100000 + 700 * (size_t)i : (size_t)(i * 7 % 5000);
}

static void *make(int i, size_t size) {
  void *p = NULL;
  switch (i % 9) {
    case 0:
      return malloc(size);
    case 1:
      return calloc(size, one);
    case 2:
      return realloc(NULL, size);
    case 3:
      return reallocarray(NULL, one, size);
    case 4:
      return memalign(256, size);
    case 5:
      return aligned_alloc(64, size);
    case 6:
      CHECK_EQ("posix_memalign", 0, posix_memalign(&p, 1024, size));
      return p;
    case 7:
      return valloc(size);
    default:
      return pvalloc(size);
  }
}

static size_t alignment_of(int i) {
  static const size_t kAlignments[] = {16, 16, 16, 16, 256, 64, 1024, 4096, 4096};
  return kAlignments[i % 9];
}

static void make_all(void) {
  for (int i = 0; i < kBlocks; i++) {
    sizes[i] = size_of(i);
    errno = 1234;
    blocks[i] = make(i, sizes[i]);
    CHECK_EQ("errno after success", 1234, errno);
    REQUIRE(blocks[i] != NULL);
    CHECK_EQ("alignment", 0, (uintptr_t)blocks[i] % alignment_of(i));
    CHECK("usable size", malloc_usable_size(blocks[i]) >= sizes[i]);
    check_place("a block", blocks[i]);
    if (i % 9 == 1)
      for (size_t k = 0; k < sizes[i]; k++)
        if (blocks[i][k] != 0) {
          TEST_FAIL("byte %zu from calloc is %d", k, blocks[i][k]);
          break;
        }
    test_fill(blocks[i], sizes[i], (uint64_t)i);
  }
}

static void check_all(void) {
  for (int i = 0; i < kBlocks; i++)
    if (blocks[i] != NULL) test_check_fill("block", blocks[i], sizes[i], (uint64_t)i);
}

/* The call fails with NULL and that errno. */
#define CHECK_FAILS(call, wanted_errno)                     \
  do {                                                      \
    errno = 0;                                              \
    void *check_result = (call);                            \
    int check_errno = errno;                                \
    CHECK_EQ(#call, 0, (intptr_t)check_result);             \
    CHECK_EQ("errno of " #call, wanted_errno, check_errno); \
  } while (0)

static void check_failures(void) {
  void *p = malloc(100), *sink = (void *)1;
  test_fill(p, 100, 1);
  CHECK_FAILS(malloc(huge), ENOMEM);
  CHECK_FAILS(malloc(SIZE_MAX - zero), ENOMEM);
  CHECK_FAILS(calloc(huge, 1), ENOMEM);
  CHECK_FAILS(calloc(huge, 2), ENOMEM);
  CHECK_FAILS(calloc(huge / 8, 64), ENOMEM);
  CHECK_FAILS(realloc(p, huge), ENOMEM);
  CHECK_FAILS(realloc(NULL, huge), ENOMEM);
  CHECK_FAILS(reallocarray(p, huge / 8, 64), ENOMEM);
  CHECK_FAILS(reallocarray(p, huge, 1), ENOMEM);
  CHECK_FAILS(memalign(64, huge), ENOMEM);
  CHECK_FAILS(memalign(huge, 64), ENOMEM);
  CHECK_FAILS(memalign(huge + 1, 64), EINVAL);
  CHECK_FAILS(aligned_alloc(4096, huge), ENOMEM);
  CHECK_FAILS(valloc(huge), ENOMEM);
  CHECK_FAILS(valloc(SIZE_MAX - zero), ENOMEM);
  CHECK_FAILS(pvalloc(huge), ENOMEM);
  CHECK_FAILS(pvalloc(SIZE_MAX - zero), ENOMEM);
  CHECK_EQ("posix_memalign of too much", ENOMEM, posix_memalign(&sink, 64, huge));
  CHECK_EQ("posix_memalign, alignment 0", EINVAL, posix_memalign(&sink, zero, 64));
  CHECK_EQ("posix_memalign, alignment 4", EINVAL, posix_memalign(&sink, 4 * one, 64));
  CHECK_EQ("posix_memalign, alignment 24", EINVAL, posix_memalign(&sink, 24 * one, 64));
  CHECK_EQ("its result after errors", 1, (intptr_t)sink);
  test_check_fill("block after failed calls", p, 100, 1);
  free(p);
}

static void check_corners(void) {
  void *a = malloc(zero), *b = malloc(zero), *c = calloc(zero, 5), *d = realloc(NULL, zero);
  CHECK("malloc(0) gives blocks", a != NULL && b != NULL && c != NULL && d != NULL && a != b);
  errno = 1234;
  free(a), free(b), free(c), free(d), free(NULL);
  void (*old_free)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
  if (old_free != NULL) old_free(malloc(10));
  errno = 1234;
  free(malloc(10));
  CHECK_EQ("errno after free", 1234, errno);
  for (size_t size = 1; size < 3000000; size *= 7) {
    void *p = malloc(size);
    CHECK_EQ("realloc(p, 0)", 0, (intptr_t)realloc(p, zero));
    CHECK_EQ("errno after realloc(p, 0)", 1234, errno);
    errno = 1234;
    free(malloc(size)); /* large ones go back to the system */
    CHECK_EQ("errno after free", 1234, errno);
  }
  CHECK_EQ("malloc_usable_size(NULL)", 0, malloc_usable_size(NULL));
  void *p = memalign(48 * one, 100); /* rounded up to a power of two */
  CHECK_EQ("memalign(48)", 0, (uintptr_t)p % 64);
  free(p);
  p = aligned_alloc(32, 33); /* no multiple */
  CHECK("aligned_alloc(32, 33)", p != NULL && (uintptr_t)p % 32 == 0);
  free(p);
  p = memalign(zero, 10);
  CHECK("memalign(0)", p != NULL);
  free(p);
  p = aligned_alloc((size_t)4 << 20, 100);
  CHECK("aligned to 4 MiB", p != NULL && (uintptr_t)p % ((size_t)4 << 20) == 0);
  free(p);
  p = pvalloc(one);
  CHECK("pvalloc gives whole pages", malloc_usable_size(p) >= 4096);
  free(p);
  p = calloc(10, 100);
  CHECK("calloc", p != NULL);
  free(p);
}

static void check_growth(void) {
  unsigned char *p = NULL;
  size_t old = 0;
  for (size_t size = 1; size < 5000000; size = size * 3 / 2 + 1) {
    p = realloc(p, size);
    REQUIRE(p != NULL);
    test_check_fill("grown block", p, old, 3);
    test_fill(p, size, 3);
    old = size;
  }
  for (size_t size = old; size > 0; size = size * 2 / 3) {
    p = realloc(p, size);
    REQUIRE(p != NULL);
    test_check_fill("shrunk block", p, size, 3);
  }
  free(p);
}

static void check_statistics(void) {
  struct mallinfo2 before = mallinfo2();
  void *p = malloc(10 << 20);
  struct mallinfo2 after = mallinfo2();
  CHECK("10 MiB are in use",
        after.uordblks + after.hblkhd >= before.uordblks + before.hblkhd + (10 << 20));
  struct mallinfo narrow = mallinfo();
  CHECK_EQ("mallinfo", (int)after.uordblks, narrow.uordblks);
  free(p);
  CHECK_EQ("mallopt", 1, mallopt(M_MMAP_THRESHOLD, 1 << 20));
  int trimmed = malloc_trim(0);
  CHECK("malloc_trim", trimmed == 0 || trimmed == 1);
  char *text = NULL;
  size_t length = 0;
  FILE *f = open_memstream(&text, &length);
  CHECK_EQ("malloc_info", 0, malloc_info(0, f));
  CHECK_EQ("malloc_info, options", EINVAL, malloc_info(1, f));
  fclose(f);
  CHECK("malloc_info writes XML", strncmp(text, "<malloc version=", 16) == 0);
  free(text);
}

/* What others allocate for us comes from the same heap. */
static void check_library_blocks(void) {
  char *text = NULL;
  REQUIRE(asprintf(&text, "%0500d", 7) == 500);
  check_place("asprintf", text);
  free(text);
  text = strdup("some text");
  check_place("strdup", text);
  free(text);
}

static void check_everything(void) {
  check_failures();
  check_corners();
  check_growth();
  check_statistics();
  check_library_blocks();
}

int main(void) {
  make_all();
  check_everything();
  test_ready();
  test_wait();
  check_all();
  for (int i = 0; i < kBlocks; i++) {
    if (i % 3 == 0) {
      free(blocks[i]);
      blocks[i] = NULL;
    } else if (i % 3 == 1) {
      size_t size = sizes[i] * 2 + 1;
      blocks[i] = realloc(blocks[i], size);
      REQUIRE(blocks[i] != NULL);
      test_check_fill("after realloc", blocks[i], sizes[i], (uint64_t)i);
      sizes[i] = size;
      test_fill(blocks[i], size, (uint64_t)i);
    }
  }
  check_all();
  check_everything();
  check_all();
  for (int i = 0; i < kBlocks; i++) free(blocks[i]);
  test_finish();
}
