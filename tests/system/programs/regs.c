/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live users=root,nobody,54321
 *
 * Every register a thread has: all general-purpose registers, the direction flag, the x87 stack,
 * the mask registers and SSE, AVX or AVX-512 vectors (the widest this CPU has). Two threads hold
 * their own patterns in a spinning loop of pure assembly, a third holds them across one read(2)
 * that stays blocked through all checkpoints, where the system call must also be continued with
 * its arguments unchanged.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>

#include "three_phase.h"

enum { kSse, kAvx, kAvx512 };
enum { kRax, kRbx, kRcx, kRdx, kRsi, kRdi, kRbp, kR8, kR11 = 10, kGpRegisters = 15 };
static const char *const kGpNames[kGpRegisters] = {"rax", "rbx", "rcx", "rdx", "rsi",
                                                   "rdi", "rbp", "r8",  "r9",  "r10",
                                                   "r11", "r12", "r13", "r14", "r15"};

struct register_file { /* the offsets are used by the assembly below */
  uint64_t gp[kGpRegisters];
  uint64_t flags;
  uint64_t mask[8];
  unsigned char x87[8][16]; /* 10 bytes each are used */
  unsigned char vector[32][64];
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct register_file, flags) == 120, "assembly");
_Static_assert(offsetof(struct register_file, mask) == 128, "assembly");
_Static_assert(offsetof(struct register_file, x87) == 192, "assembly");
_Static_assert(offsetof(struct register_file, vector) == 320, "assembly");

__attribute__((visibility("hidden"))) volatile int regs_stop;
__attribute__((visibility("hidden"))) int regs_read_fd;
__attribute__((visibility("hidden"))) char regs_read_byte;

/* Each loads all registers from *in, waits (spinning until regs_stop, or in read(2)), and stores
 * all registers to *out. */
void regs_spin_sse(const struct register_file *in, struct register_file *out);
void regs_spin_avx(const struct register_file *in, struct register_file *out);
void regs_spin_avx512(const struct register_file *in, struct register_file *out);
void regs_read_sse(const struct register_file *in, struct register_file *out);
void regs_read_avx(const struct register_file *in, struct register_file *out);
void regs_read_avx512(const struct register_file *in, struct register_file *out);

/* clang-format off */
__asm__(
  ".macro load_vectors_sse\n"
  " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups 320+64*\\n(%rdi),%xmm\\n\n .endr\n"
  ".endm\n"
  ".macro store_vectors_sse\n"
  " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups %xmm\\n,320+64*\\n(%rdi)\n .endr\n"
  ".endm\n"
  ".macro load_vectors_avx\n"
  " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovups 320+64*\\n(%rdi),%ymm\\n\n .endr\n"
  ".endm\n"
  ".macro store_vectors_avx\n"
  " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovups %ymm\\n,320+64*\\n(%rdi)\n .endr\n"
  " vzeroupper\n"
  ".endm\n"
  ".macro load_vectors_avx512\n"
  " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
  "  vmovdqu64 320+64*\\n(%rdi),%zmm\\n\n .endr\n"
  " .irp n,0,1,2,3,4,5,6,7\n kmovq 128+8*\\n(%rdi),%k\\n\n .endr\n"
  ".endm\n"
  ".macro store_vectors_avx512\n"
  " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
  "  vmovdqu64 %zmm\\n,320+64*\\n(%rdi)\n .endr\n"
  " .irp n,0,1,2,3,4,5,6,7\n kmovq %k\\n,128+8*\\n(%rdi)\n .endr\n"
  " vzeroupper\n"
  ".endm\n"

  /* Spinning leaves every register to the pattern; the direction flag is set as well. */
  ".macro wait_spin\n"
  " std\n"
  "1: pause\n cmpl $0,regs_stop(%rip)\n je 1b\n"
  ".endm\n"
  ".macro wait_read\n"
  " xorl %eax,%eax\n movl regs_read_fd(%rip),%edi\n leaq regs_read_byte(%rip),%rsi\n"
  " movl $1,%edx\n syscall\n"
  ".endm\n"

  ".macro hold_registers how level\n"
  ".type regs_\\how\\()_\\level,@function\n"
  "regs_\\how\\()_\\level:\n"
  " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n push %rsi\n"
  " .irp n,7,6,5,4,3,2,1,0\n fldt 192+16*\\n(%rdi)\n .endr\n"
  " load_vectors_\\level\n"
  " mov 0(%rdi),%rax\n mov 8(%rdi),%rbx\n mov 16(%rdi),%rcx\n mov 24(%rdi),%rdx\n"
  " mov 32(%rdi),%rsi\n mov 48(%rdi),%rbp\n mov 56(%rdi),%r8\n mov 64(%rdi),%r9\n"
  " mov 72(%rdi),%r10\n mov 80(%rdi),%r11\n mov 88(%rdi),%r12\n mov 96(%rdi),%r13\n"
  " mov 104(%rdi),%r14\n mov 112(%rdi),%r15\n mov 40(%rdi),%rdi\n"
  " wait_\\how\n"
  " pushfq\n push %rdi\n mov 16(%rsp),%rdi\n"
  " mov %rax,0(%rdi)\n mov %rbx,8(%rdi)\n mov %rcx,16(%rdi)\n mov %rdx,24(%rdi)\n"
  " mov %rsi,32(%rdi)\n mov %rbp,48(%rdi)\n mov %r8,56(%rdi)\n mov %r9,64(%rdi)\n"
  " mov %r10,72(%rdi)\n mov %r11,80(%rdi)\n mov %r12,88(%rdi)\n mov %r13,96(%rdi)\n"
  " mov %r14,104(%rdi)\n mov %r15,112(%rdi)\n"
  " pop %rax\n mov %rax,40(%rdi)\n pop %rax\n mov %rax,120(%rdi)\n cld\n"
  " .irp n,0,1,2,3,4,5,6,7\n fstpt 192+16*\\n(%rdi)\n .endr\n"
  " store_vectors_\\level\n"
  " add $8,%rsp\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n"
  ".size regs_\\how\\()_\\level,.-regs_\\how\\()_\\level\n"
  ".endm\n"

  ".text\n"
  " hold_registers spin sse\n hold_registers spin avx\n hold_registers spin avx512\n"
  " hold_registers read sse\n hold_registers read avx\n hold_registers read avx512\n");
/* clang-format on */

static int widest_level(void) {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return kAvx512;
  return __builtin_cpu_supports("avx") ? kAvx : kSse;
}

struct holder {
  pthread_t thread;
  const char *name;
  int in_read;
  struct register_file in, out;
};

static void fill_registers(struct register_file *file, uint64_t seed) {
  for (int i = 0; i < kGpRegisters; i++) file->gp[i] = test_pattern(seed, (uint64_t)i);
  for (int i = 0; i < 8; i++) file->mask[i] = test_pattern(seed, 100 + (uint64_t)i);
  for (int i = 0; i < 8; i++) {
    long double value = (long double)test_pattern(seed, 200 + (uint64_t)i) / 3.0L;
    memset(file->x87[i], 0, sizeof file->x87[i]);
    memcpy(file->x87[i], &value, 10);
  }
  test_fill(file->vector, sizeof file->vector, seed + 1000);
}

static void *hold(void *argument) {
  struct holder *h = argument;
  static void (*const kFunctions[2][3])(const struct register_file *, struct register_file *) = {
      {regs_spin_sse, regs_spin_avx, regs_spin_avx512},
      {regs_read_sse, regs_read_avx, regs_read_avx512}};
  kFunctions[h->in_read][widest_level()](&h->in, &h->out);
  return NULL;
}

static void verify(const struct holder *h) {
  struct register_file expected = h->in;
  if (h->in_read) { /* what the system call itself determines */
    expected.gp[kRax] = 1;
    expected.gp[kRdi] = (uint64_t)regs_read_fd;
    expected.gp[kRsi] = (uint64_t)(uintptr_t)&regs_read_byte;
    expected.gp[kRdx] = 1;
    expected.gp[kRcx] = h->out.gp[kRcx];
    expected.gp[kR11] = h->out.gp[kR11];
  } else {
    CHECK_EQ("direction flag", 1, (h->out.flags >> 10) & 1);
  }
  char what[80];
  for (int i = 0; i < kGpRegisters; i++) {
    snprintf(what, sizeof what, "%s, register %s", h->name, kGpNames[i]);
    CHECK_EQ(what, expected.gp[i], h->out.gp[i]);
  }
  for (int i = 0; i < 8; i++) {
    snprintf(what, sizeof what, "%s, x87 register st(%d)", h->name, i);
    CHECK_BYTES(what, expected.x87[i], h->out.x87[i], 10);
  }
  int level = widest_level();
  size_t width = level == kAvx512 ? 64 : level == kAvx ? 32 : 16;
  for (int i = 0; i < (level == kAvx512 ? 32 : 16); i++) {
    snprintf(what, sizeof what, "%s, vector register %d", h->name, i);
    CHECK_BYTES(what, expected.vector[i], h->out.vector[i], width);
  }
  for (int i = 0; level == kAvx512 && i < 8; i++) {
    snprintf(what, sizeof what, "%s, mask register k%d", h->name, i);
    CHECK_EQ(what, expected.mask[i], h->out.mask[i]);
  }
}

int main(void) {
  static struct holder holders[3] = {
      {.name = "spinning thread 1"}, {.name = "spinning thread 2"}, {.name = "thread in read"}};
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  regs_read_fd = ends[0];
  for (int i = 0; i < 3; i++) {
    fill_registers(&holders[i].in, (uint64_t)i + 1);
    holders[i].in_read = i == 2;
    REQUIRE(pthread_create(&holders[i].thread, NULL, hold, &holders[i]) == 0);
  }
  usleep(100000); /* let all three reach their loops */
  test_ready();
  test_wait();
  regs_stop = 1;
  REQUIRE(write(ends[1], "x", 1) == 1);
  for (int i = 0; i < 3; i++) pthread_join(holders[i].thread, NULL);
  CHECK_EQ("byte read", 'x', regs_read_byte);
  for (int i = 0; i < 3; i++) verify(&holders[i]);
  test_finish();
}
