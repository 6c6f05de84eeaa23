// SPDX-License-Identifier: MIT
// nvheap_test.cc - crmalloc and its family as a program sees them.
// Invariant under test: the contract in include/checkpoint_restore.h, alone, with four threads,
// with forks, when memory runs out, and for wrong pointers.
#include "nvheap/nvheap.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "checkpoint_restore.h"
#include "tests/unit/nvheap/model.h"

namespace {

using cr_test::Random;
constexpr uint64_t kMiB = 1 << 20;

struct Crmalloc {
  static void* allocate(size_t bytes) { return inside(crmalloc(bytes)); }
  static void* allocate_zeroed(size_t count, size_t bytes) { return crcalloc(count, bytes); }
  static void* allocate_aligned(size_t align, size_t bytes) {
    return inside(craligned_alloc(align, (bytes + align - 1) & ~(align - 1)));
  }
  static void* resize(void* block, size_t bytes) { return crrealloc(block, bytes); }
  static void release(void* block) { crfree(block); }
  static size_t usable_bytes(void* block) { return crmalloc_usable_size(block); }
  static void* inside(void* block) { return cr::nvheap::contains(block) ? block : nullptr; }
};
using Player = cr_test::Player<Crmalloc>;

uint64_t in_use() {
  uint64_t used = 0, reserve = 0;
  cr::nvheap::stats(&used, &reserve);
  return used;
}

// ---- children that end badly -----------------------------------------------------------------

struct Death {
  int status;
  char text[8192];
};

template <typename Act>
Death run_in_child(Act act) {
  int fds[2];
  cr_assert_eq(pipe(fds), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGABRT, SIG_DFL);
    dup2(fds[1], 2);
    act();
    _exit(0);
  }
  close(fds[1]);
  Death d{};
  size_t n = 0;
  for (ssize_t r;
       n + 1 < sizeof(d.text) && (r = read(fds[0], d.text + n, sizeof(d.text) - 1 - n)) > 0;) {
    n += static_cast<size_t>(r);
  }
  close(fds[0]);
  cr_assert_eq(waitpid(pid, &d.status, 0), pid);
  return d;
}

template <typename Act>
void expect_abort(const char* call, const void* address, const char* reason, Act act) {
  const Death d = run_in_child(act);
  cr_assert(WIFSIGNALED(d.status) && WTERMSIG(d.status) == SIGABRT, "%s: status %#x, text: %s",
            call, d.status, d.text);
  char wanted[100];
  snprintf(wanted, sizeof(wanted), "%s(%p)", call, address);
  cr_assert_not_null(strstr(d.text, wanted), "no \"%s\" in: %s", wanted, d.text);
  cr_assert_not_null(strstr(d.text, reason), "no \"%s\" in: %s", reason, d.text);
  cr_assert_eq(strchr(d.text, '\n') + 1, d.text + strlen(d.text), "not one line: %s", d.text);
}

}  // namespace

// ---- the tests ---------------------------------------------------------------------------------

Test(nvheap, behaves_as_the_model) {
  static Player player(cr_test::test_seed(), 2000);
  for (int i = 0; i < 10; i++) {
    const char* wrong = player.play(4000);
    cr_assert_null(wrong, "%s", wrong);
    wrong = player.check_all();
    cr_assert_null(wrong, "%s", wrong);
  }
  const char* wrong = player.finish();
  cr_assert_null(wrong, "%s", wrong);
  cr_assert_eq(in_use(), 0u);
  cr_assert_null(cr::nvheap::check(), "%s", cr::nvheap::check());
}

namespace {
void play_with_threads(unsigned count, int steps) {
  static Player* players[16];
  const uint64_t seed = cr_test::test_seed();
  pthread_t threads[16];
  for (unsigned i = 0; i < count; i++) {
    players[i] = new Player(seed + i, 500);
    players[i]->steps = steps;
    pthread_create(
        &threads[i], nullptr,
        [](void* p) -> void* {
          auto* player = static_cast<Player*>(p);
          const char* wrong = player->play(player->steps);
          return const_cast<char*>(wrong != nullptr ? wrong : player->finish());
        },
        players[i]);
  }
  for (unsigned i = 0; i < count; i++) {
    void* wrong = nullptr;
    pthread_join(threads[i], &wrong);
    cr_assert_null(wrong, "%s", static_cast<char*>(wrong));
    delete players[i];
  }
  cr_assert_eq(in_use(), 0u);
  cr_assert_null(cr::nvheap::check(), "%s", cr::nvheap::check());
}
}  // namespace

Test(nvheap, behaves_as_the_model_with_two_threads) { play_with_threads(2, 400000); }
Test(nvheap, behaves_as_the_model_with_sixteen_threads) { play_with_threads(16, 100000); }

Test(nvheap, blocks_freed_by_other_threads) {
  constexpr int kBlocks = 20000;
  static std::atomic<void*> mailbox[64];
  static std::atomic<bool> wrong{false};
  pthread_t consumer;
  pthread_create(
      &consumer, nullptr,
      [](void*) -> void* {
        for (int got = 0; got < kBlocks; got++) {
          void* p = nullptr;
          while ((p = mailbox[got % 64].exchange(nullptr)) == nullptr) sched_yield();
          if (*static_cast<int*>(p) != got) wrong = true;
          crfree(p);
        }
        return nullptr;
      },
      nullptr);
  for (int i = 0; i < kBlocks; i++) {
    auto* p = static_cast<int*>(crmalloc(static_cast<size_t>(4 + i % 3000)));
    *p = i;
    void* empty = nullptr;
    while (!mailbox[i % 64].compare_exchange_weak(empty, p)) {
      empty = nullptr;
      sched_yield();
    }
  }
  pthread_join(consumer, nullptr);
  cr_assert_not(wrong);
  cr_assert_eq(in_use(), 0u);
}

Test(nvheap, small_corners) {
  void* a = crmalloc(0);
  void* b = crmalloc(0);
  cr_assert(a != nullptr && b != nullptr && a != b);
  crfree(a);
  crfree(b);
  crfree(nullptr);
  cr_assert_eq(crmalloc_usable_size(nullptr), 0u);
  void* c = crrealloc(nullptr, 10);
  cr_assert_not_null(c);
  errno = 77;
  cr_assert_null(crrealloc(c, 0));
  cr_assert_eq(errno, 77);
  c = crmalloc(200000);
  crfree(c);
  cr_assert_eq(errno, 77, "crfree changed errno");
  cr_assert_eq(in_use(), 0u);
}

Test(nvheap, sizes_that_cannot_be) {
  void* keep = crmalloc(100);
  const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 4095, SIZE_MAX / 2, size_t{1} << 60,
                          size_t{1} << 44};
  for (size_t size : sizes) {
    errno = 0;
    cr_assert_null(crmalloc(size));
    cr_assert_eq(errno, ENOMEM);
    errno = 0;
    cr_assert_null(crcalloc(1, size));
    cr_assert_eq(errno, ENOMEM);
    errno = 0;
    cr_assert_null(crrealloc(keep, size));
    cr_assert_eq(errno, ENOMEM);
  }
  errno = 0;
  cr_assert_null(crcalloc(size_t{1} << 33, size_t{1} << 33));
  cr_assert_eq(errno, ENOMEM);
  cr_assert_eq(crmalloc_usable_size(keep), 112u);
}

Test(nvheap, aligned_blocks) {
  for (size_t align = 1; align <= 4 * kMiB; align *= 2) {
    for (size_t bytes : {size_t{0}, size_t{1}, size_t{100}, align, align + 1, size_t{50000}}) {
      void* p = cr::nvheap::allocate_aligned(bytes, align);
      cr_assert_not_null(p);
      cr_assert_eq(reinterpret_cast<uintptr_t>(p) % align, 0u);
      cr_assert_eq(reinterpret_cast<uintptr_t>(p) % 16, 0u);
      cr_assert_geq(crmalloc_usable_size(p), bytes);
      memset(p, 1, bytes);
      if (bytes % 2 == 0) crfree(p);
    }
  }
}

Test(nvheap, large_blocks_grow_in_place) {
  auto* p = static_cast<char*>(crmalloc(kMiB));
  memset(p, 7, kMiB);
  auto* q = static_cast<char*>(crrealloc(p, 64 * kMiB));
  cr_assert_eq(p, q);
  for (size_t i = 0; i < kMiB; i++) cr_assert_eq(q[i], 7);
  cr_assert_eq(crrealloc(q, 2 * kMiB), q);
  cr_assert_eq(in_use(), 2 * kMiB);
  q = static_cast<char*>(crrealloc(q, 100));
  for (size_t i = 0; i < 100; i++) cr_assert_eq(q[i], 7);
}

Test(nvheap, init_is_idempotent) {
  cr_assert(cr::nvheap::init(128 * kMiB).has_value());
  uint64_t used = 0, reserve = 0;
  cr::nvheap::stats(&used, &reserve);
  cr_assert_eq(reserve, 128 * kMiB);
  void* p = crmalloc(10);
  cr_assert(cr::nvheap::init(0).has_value());
  cr_assert(cr::nvheap::init(1024 * kMiB).has_value());
  cr::nvheap::stats(&used, &reserve);
  cr_assert_eq(reserve, 128 * kMiB);
  const cr::nvheap::RangeInfo r = cr::nvheap::range_info();
  cr_assert_eq(r.end - r.begin, reserve);
  cr_assert(reinterpret_cast<uint64_t>(p) >= r.data_begin);
  cr_assert(reinterpret_cast<uint64_t>(p) < r.data_end);
  crfree(p);
}

#if !defined(__SANITIZE_THREAD__)
namespace {
// The lowest place without mappings. Before the heap is made: Criterion has memory at random
// addresses, now and then at one of these.
uint64_t first_free_place() {
  constexpr uint64_t kStep = uint64_t{1} << 40;
  for (uint64_t place = 0x200000000000;; place += kStep) {
    FILE* maps = fopen("/proc/self/maps", "r");
    cr_assert_not_null(maps);
    uint64_t start = 0, end = 0;
    bool taken = false;
    while (fscanf(maps, "%lx-%lx%*[^\n]", &start, &end) == 2) {
      taken = taken || (start < place + kStep && end > place);
    }
    fclose(maps);
    if (!taken) return place;
  }
}
}  // namespace

Test(nvheap, lies_at_its_place) {
  const uint64_t expected = first_free_place();
  cr_assert_not_null(crmalloc(10));
  cr_assert_eq(cr::nvheap::range_info().begin, expected);
}

Test(nvheap, takes_the_next_place_if_it_is_taken) {
  const uint64_t first = first_free_place();
  auto* wanted = reinterpret_cast<void*>(first + 0x1000);
  cr_assert_eq(
      mmap(wanted, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
      wanted);
  const uint64_t expected = first_free_place();
  cr_assert_gt(expected, first);
  cr_assert_not_null(crmalloc(10));
  cr_assert_eq(cr::nvheap::range_info().begin, expected);
}
#endif

// Sanitizers need terabytes of address space themselves.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
Test(nvheap, reserve_shrinks_under_ulimit) {
  const rlimit limit{1024 * kMiB, 1024 * kMiB};
  cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
  cr_assert_not_null(crmalloc(10 * kMiB));
  uint64_t used = 0, reserve = 0;
  cr::nvheap::stats(&used, &reserve);
  cr_assert_eq(reserve, 512 * kMiB, "more than half of the limit");
}

Test(nvheap, no_room_at_all) {
  const rlimit limit{48 * kMiB, 48 * kMiB};
  cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
  errno = 0;
  cr_assert_null(crmalloc(10));
  cr_assert_eq(errno, ENOMEM);
  const auto r = cr::nvheap::init(0);
  cr_assert_eq(r.error().code, cr::Errc::kNoMemory);
}
#endif

Test(nvheap, exhaustion_and_recovery) {
  cr_assert(cr::nvheap::init(1).has_value());
  for (size_t size : {size_t{64}, size_t{5000}, size_t{300000}}) {
    void** chain = nullptr;
    uint64_t got = 0;
    for (;;) {
      errno = 0;
      auto** p = static_cast<void**>(crmalloc(size));
      if (p == nullptr) break;
      *p = chain;
      chain = p;
      got += crmalloc_usable_size(p);
    }
    cr_assert_eq(errno, ENOMEM);
    // A slab of 64 KiB has at most 512 blocks, so small ones leave address space unused.
    cr_assert_gt(got, (size == 64 ? 27 : 44) * kMiB, "only %llu MiB of 64 in blocks of %zu",
                 static_cast<unsigned long long>(got / kMiB), size);
    cr_assert_null(crrealloc(chain, 2 * size + 40000));
    while (chain != nullptr) {
      auto** next = static_cast<void**>(*chain);
      crfree(chain);
      chain = next;
    }
    cr_assert_eq(in_use(), 0u);
  }
}

Test(nvheap, freed_memory_goes_back) {
  constexpr size_t kBytes = 64 * kMiB;
  auto* p = static_cast<unsigned char*>(crmalloc(kBytes));
  memset(p, 1, kBytes);
  crfree(p);
  (void)crmalloc_trim(0);
  static unsigned char resident[kBytes / 4096];
  cr_assert_eq(mincore(p, kBytes, resident), 0);
  size_t pages = 0;
  for (unsigned char r : resident) pages += r & 1;
  cr_assert_eq(pages, 0u);
}

Test(nvheap, wrong_pointers_end_the_program) {
  auto* small = static_cast<char*>(crmalloc(100));
  auto* large = static_cast<char*>(crmalloc(100000));
  static char foreign[64];
  expect_abort("crfree", small, "free already", [=] {
    crfree(small);
    crfree(small);
  });
  expect_abort("crfree", small + 16, "middle", [=] { crfree(small + 16); });
  expect_abort("crfree", small + 1, "middle", [=] { crfree(small + 1); });
  expect_abort("crfree", large, "freed twice", [=] {
    crfree(large);
    crfree(large);
  });
  expect_abort("crfree", large + 4096, "middle", [=] { crfree(large + 4096); });
  expect_abort("crfree", large + 8, "middle", [=] { crfree(large + 8); });
  // After a trim its memory is the system's again: what is used then is no block any more.
  expect_abort("crfree", small, "not a live block", [=] {
    crfree(small);
    (void)crmalloc_trim(0);
    crfree(small);
  });
  expect_abort("crrealloc", large, "not a live block", [=] {
    crfree(large);
    (void)crmalloc_trim(0);
    (void)!crrealloc(large, 10);
  });
  expect_abort("crmalloc_usable_size", large, "not a live block", [=] {
    crfree(large);
    (void)crmalloc_trim(0);
    (void)crmalloc_usable_size(large);
  });
  expect_abort("crfree", foreign, "foreign", [] { crfree(foreign); });
  expect_abort("crrealloc", foreign, "foreign", [] { (void)!crrealloc(foreign, 10); });
  expect_abort("crrealloc", small, "free already", [=] {
    crfree(small);
    (void)!crrealloc(small, 1000);
  });
  expect_abort("crmalloc_usable_size", large, "not a live block", [=] {
    crfree(large);
    crmalloc_usable_size(large);
  });
  void* stack = cr::nvheap::alloc_stack(100000);
  expect_abort("crfree", stack, "not a live block", [=] { crfree(stack); });
  auto* beyond = reinterpret_cast<char*>(cr::nvheap::range_info().data_end);
  expect_abort("crfree", beyond, "foreign", [=] { crfree(beyond); });
  crfree(small);
  crfree(large);
}

Test(nvheap, foreign_pointer_before_the_first_allocation) {
  static char foreign[64];
  expect_abort("crfree", foreign, "foreign", [] { crfree(foreign); });
}

Test(nvheap, freed_twice_after_its_slab_was_given_back) {
  static void* blocks[3 * 1024];
  for (void*& b : blocks) b = crmalloc(64);
  void* last = blocks[3 * 1024 - 1];
  for (void* b : blocks) crfree(b);
  expect_abort("crfree", last, "crfree", [=] { crfree(last); });
}

Test(nvheap, stacks) {
  auto* a = static_cast<char*>(cr::nvheap::alloc_stack(1));
  auto* b = static_cast<char*>(cr::nvheap::alloc_stack(100000));
  cr_assert(a != nullptr && b != nullptr);
  cr_assert_eq(reinterpret_cast<uintptr_t>(b) % 4096, 0u);
  memset(b, 1, 100000);
  cr_assert_eq(in_use(), 4096u + 102400u);
  cr::nvheap::free_stack(a);
  cr::nvheap::free_stack(b);
  cr_assert_eq(in_use(), 0u);
  cr_assert_null(cr::nvheap::alloc_stack(SIZE_MAX));
}

Test(nvheap, fork_in_the_middle) {
  // Three threads keep the locks busy while this one forks; each child must find a whole heap.
  static std::atomic<bool> stop{false};
  static const uint64_t seed = cr_test::test_seed();
  pthread_t threads[3];
  static Player* players[3];
  for (unsigned i = 0; i < 3; i++) {
    players[i] = new Player(seed + 1 + i, 200);
    pthread_create(
        &threads[i], nullptr,
        [](void* arg) -> void* {
          auto* player = static_cast<Player*>(arg);
          const char* wrong = nullptr;
          while (!stop && wrong == nullptr) wrong = player->play(100);
          if (wrong == nullptr) wrong = player->finish();
          return const_cast<char*>(wrong);
        },
        players[i]);
  }
  static Player own(seed, 200);
  for (int i = 0; i < 30; i++) {
    const char* wrong = own.play(100);
    cr_assert_null(wrong, "%s", wrong);
    const pid_t pid = fork();
    if (pid == 0) {
      alarm(20);  // a lock that is never free
      _exit(own.play(500) == nullptr && own.finish() == nullptr ? 0 : 1);
    }
    int status = -1;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0, "child %d: status %#x", i, status);
  }
  stop = true;
  for (pthread_t t : threads) {
    void* wrong = nullptr;
    pthread_join(t, &wrong);
    cr_assert_null(wrong, "%s", static_cast<char*>(wrong));
  }
  for (Player* p : players) delete p;
}

Test(nvheap, named_roots) {
  auto* a = static_cast<char*>(crmalloc(100));
  auto* b = static_cast<char*>(crmalloc(100000));
  cr_assert_null(crroot_get("tree"));
  cr_assert_eq(crroot_set("tree", a), 0);
  cr_assert_eq(crroot_set("index", b + 50), 0);
  cr_assert_eq(crroot_get("tree"), a);
  cr_assert_eq(crroot_set("tree", b), 0);
  cr_assert_eq(crroot_get("tree"), b);
  const char* names[4];
  void* blocks[4];
  cr_assert_eq(crroot_list(names, blocks, 1), 2u);
  cr_assert_eq(crroot_list(names, blocks, 4), 2u);
  cr_assert_str_eq(names[0], "tree");
  cr_assert_eq(blocks[1], b + 50);
  cr_assert_eq(crroot_set("tree", nullptr), 0);
  cr_assert_null(crroot_get("tree"));
  const auto expect = [](int wanted, const char* name, void* block) {
    errno = 0;
    cr_assert_eq(crroot_set(name, block), -1);
    cr_assert_eq(errno, wanted, "errno %d: %s", errno, crerror());
  };
  static int outside;
  expect(ENOENT, "tree", nullptr);
  expect(EINVAL, "", a);
  expect(EINVAL, nullptr, a);
  expect(EINVAL, "x", &outside);
  expect(EINVAL, "a name of fifty-six bytes, which is one more than fits in", a);
  char name[16];
  for (int i = 1; i < 256; i++) {
    snprintf(name, sizeof(name), "root %d", i);
    cr_assert_eq(crroot_set(name, a), 0);
  }
  expect(ENOSPC, "one more", a);
}

Test(nvheap, statistics_and_walk) {
  struct crheap_stats s = {};
  s.size = sizeof(s);
  void* small = crmalloc(100);
  void* large = crmalloc(100000);
  void* gone = crmalloc(100);
  crfree(gone);
  cr_assert_eq(crheap_stats(&s), 0);
  cr_assert_eq(s.small_bytes, 112u);
  cr_assert_eq(s.large_bytes, 28 * 4096u);
  cr_assert_eq(s.slab_bytes, 65536u);
  cr_assert_eq(s.grown_bytes, s.slab_bytes + s.large_bytes + s.free_bytes);
  s.size = 3;
  cr_assert_eq(crheap_stats(&s), -1);
  char json[512], wanted[64];
  const int n = crheap_stats_json(json, sizeof(json));
  cr_assert_eq(static_cast<size_t>(n), strlen(json));
  snprintf(wanted, sizeof(wanted), "\"large_bytes\": %u", 28 * 4096);
  cr_assert_not_null(strstr(json, wanted), "%s", json);
  struct Seen {
    void* blocks[4];
    size_t bytes[4];
    int count;
  } seen = {};
  const auto each = [](void* block, size_t bytes, void* arg) {
    auto* v = static_cast<Seen*>(arg);
    v->blocks[v->count & 3] = block;
    v->bytes[v->count++ & 3] = bytes;
    return 0;
  };
  cr_assert_eq(crheap_walk(each, &seen), 0);
  cr_assert_eq(seen.count, 2);
  const int first = small < large ? 0 : 1;
  cr_assert_eq(seen.blocks[first], small);
  cr_assert_eq(seen.blocks[1 - first], large);
  cr_assert_eq(seen.bytes[first], 112u);
  cr_assert_eq(crheap_walk([](void*, size_t, void*) { return 7; }, nullptr), 7);
}

Test(nvheap, aligned_by_the_public_calls) {
  void* p = nullptr;
  cr_assert_eq(crposix_memalign(&p, 4096, 10), 0);
  cr_assert_eq(reinterpret_cast<uintptr_t>(p) % 4096, 0u);
  void* before = p;
  cr_assert_eq(crposix_memalign(&p, 3, 10), EINVAL);
  cr_assert_eq(crposix_memalign(&p, 4, 10), EINVAL);
  cr_assert_eq(crposix_memalign(&p, 64, SIZE_MAX / 2), ENOMEM);
  cr_assert_eq(p, before);
  errno = 0;
  cr_assert_null(craligned_alloc(24, 10));
  cr_assert_eq(errno, EINVAL);
  void* q = craligned_alloc(1 << 20, 100);
  cr_assert_eq(reinterpret_cast<uintptr_t>(q) % (1 << 20), 0u);
  crfree(p);
  crfree(q);
}

namespace {
// In a new program, because the variable is read at the first allocation.
Death run_debug(int what) {
  return run_in_child([=] {
    char number[8];
    snprintf(number, sizeof(number), "%d", what);
    unsetenv("BXFI_MAP");  // by which Criterion would take it for a worker of its own
    setenv("CR_HEAP_DEBUG", "1", 1);
    setenv("CR_TEST_HEAP_DEBUG", number, 1);
    execl("/proc/self/exe", "unit_tests", "--filter", "nvheap/debug_program", "-j1",
          static_cast<char*>(nullptr));
  });
}
}  // namespace

// What runs in that program; on its own it does nothing.
Test(nvheap, debug_program) {
  const char* what = getenv("CR_TEST_HEAP_DEBUG");
  if (what == nullptr) return;
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  auto* p = static_cast<char*>(crmalloc(100));
  cr_assert_eq(crmalloc_usable_size(p), 100u);
  auto* q = static_cast<char*>(crrealloc(crmalloc(10), 5000));
  memset(q, 1, 5000);
  volatile size_t beyond = 100;
  switch (atoi(what)) {
    case 1:
      p[beyond] = 1;
      crfree(p);
      break;
    case 2:
      crfree(p);
      crfree(p);
      break;
    case 3:
      crfree(p);
      p[50] = 1;
      for (int i = 0; i < 2000; i++) crfree(crmalloc(100));
      break;
    default:
      crfree(p);
      for (int i = 0; i < 200000; i++) crfree(crmalloc(static_cast<size_t>(i % 3000)));
  }
  crfree(q);
}

Test(nvheap, debug_mode_finds_overruns_and_late_writes) {
  const char* reasons[] = {"", "behind this block were overwritten", "freed twice",
                           "written to after it was freed"};
  for (int what = 0; what < 4; what++) {
    const Death d = run_debug(what);
    if (what == 0) {
      cr_assert(WIFEXITED(d.status) && WEXITSTATUS(d.status) == 0, "%s", d.text);
      continue;
    }
    cr_assert_not_null(strstr(d.text, reasons[what]), "no \"%s\" in: %s", reasons[what], d.text);
    cr_assert_not_null(strstr(d.text, "crfree(0x"), "%s", d.text);
    cr_assert_not_null(strstr(d.text, "#1"), "no backtrace in: %s", d.text);
  }
}

#if !defined(__SANITIZE_THREAD__)
Test(nvheap, reserves_of_every_size) {
  for (const uint64_t bytes : {uint64_t{1} << 36, uint64_t{1} << 40}) {
    const Death d = run_in_child([=] {
      if (!cr::nvheap::init(bytes).has_value()) _exit(1);
      const cr::nvheap::RangeInfo r = cr::nvheap::range_info();
      if (r.end - r.begin != bytes) _exit(2);
      void* small = crmalloc(100);
      void* large = crmalloc(bytes / 2);  // never touched
      if (small == nullptr || large == nullptr) _exit(3);
      errno = 0;
      if (crmalloc(bytes) != nullptr || errno != ENOMEM) _exit(4);
      static_cast<char*>(large)[bytes / 2 - 1] = 1;
      crfree(large);
      crfree(small);
      if (in_use() != 0 || cr::nvheap::check() != nullptr) _exit(5);
    });
    cr_assert(WIFEXITED(d.status) && WEXITSTATUS(d.status) == 0, "status %#x for %llu GiB",
              d.status, static_cast<unsigned long long>(bytes >> 30));
  }
}
#endif
