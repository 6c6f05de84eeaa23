// SPDX-License-Identifier: MIT
// thread_test.cc - crthread_*.
// Invariant under test: the contract in include/checkpoint_restore.h; stacks go back to the heap.
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "crthreads/crthreads.h"
#include "crthreads/thread_record.h"
#include "nvheap/nvheap.h"
#include "tests/unit/crthreads/common.h"

using namespace cr_test;

namespace {

uint64_t heap_in_use() {
  uint64_t used = 0, reserve = 0;
  cr::nvheap::stats(&used, &reserve);
  return used;
}

// Detached threads end when they like; waits until the heap is as small as it should be.
void expect_heap_at_most(uint64_t bytes) {
  for (int i = 0; i < 5000 && heap_in_use() > bytes; i++) {
    cr::crthreads::reap();
    usleep(1000);
  }
  cr_assert_leq(heap_in_use(), bytes, "stacks were not given back");
}

void* give_back(void* arg) { return arg; }

void await_joining(crthread_t joiner) {
  for (;;) {
    {
      cr::nvheap::LockGuard guard(cr::crthreads::table_lock());
      if (joiner->joining != nullptr) return;
    }
    usleep(100);
  }
}

template <typename Act>
int status_of_child(Act act) {
  const pid_t pid = fork();
  if (pid == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    for (int s : {SIGSEGV, SIGBUS, SIGABRT}) signal(s, SIG_DFL);
    alarm(20);
    _exit(act());
  }
  int status = -1;
  cr_assert_eq(waitpid(pid, &status, 0), pid);
  return status;
}

}  // namespace

// ---- beginning and end -----------------------------------------------------------------------

Test(thread, join_gives_the_value) {
  int x;
  cr_assert_eq(join(start(give_back, &x)), &x);
  cr_assert_eq(join(start([](void* p) -> void* { crthread_exit(p); }, &x)), &x);
  cr_assert_eq(join(start([](void* p) -> void* { pthread_exit(p); }, &x)), &x);
  cr_assert_eq(crthread_join(start(give_back), nullptr), 0);
}

Test(thread, a_thousand_joined) {
  join(start(give_back));
  const uint64_t before = heap_in_use();
  static crthread_t t[50];
  for (int round = 0; round < 20; round++) {
    for (intptr_t i = 0; i < 50; i++) t[i] = start(give_back, reinterpret_cast<void*>(i));
    for (intptr_t i = 0; i < 50; i++) cr_assert_eq(join(t[i]), reinterpret_cast<void*>(i));
  }
  cr_assert_leq(heap_in_use(), before + 64 * 1024);  // records are kept for the next threads
}

Test(thread, a_thousand_at_once) {
  static crthread_t t[1000];
  static crsem_t gate;
  const crthread_attr_t attr = {sizeof(attr), 0, kSmallStackBytes, 0, nullptr};
  for (crthread_t& one : t) {
    cr_assert_eq(crthread_create(
                     &one, &attr,
                     [](void*) -> void* {
                       crsem_wait(&gate);
                       return crthread_self();
                     },
                     nullptr),
                 0);
  }
  for (int i = 0; i < 1000; i++) crsem_post(&gate);
  for (crthread_t one : t) cr_assert_eq(join(one), one);
}

Test(thread, two_thousand_detached) {
  join(start(give_back));
  const uint64_t before = heap_in_use();
  static std::atomic<int> ran{0};
  const crthread_attr_t attr = {sizeof(attr), 1, 0, 0, nullptr};
  for (int i = 0; i < 2000; i++) {
    crthread_t t = nullptr;
    const auto run = [](void*) -> void* {
      ran++;
      return nullptr;
    };
    if (i % 2 == 0) {
      cr_assert_eq(crthread_create(&t, &attr, run, nullptr), 0);
    } else {
      t = start(run);
      cr_assert_eq(crthread_detach(t), 0);
    }
  }
  for (int i = 0; i < 5000 && ran < 2000; i++) usleep(1000);
  cr_assert_eq(ran, 2000);
  // Nearly all were reaped on the way: otherwise 16 GB of stacks would be in use here.
  expect_heap_at_most(before + 256 * 1024);
}

Test(thread, four_threads_make_and_join_threads) {
  crthread_t t[4];
  for (crthread_t& one : t) {
    one = start([](void*) -> void* {
      intptr_t wrong = 0;
      for (intptr_t i = 0; i < 300; i++) {
        crthread_t child = nullptr;
        void* value = nullptr;
        if (crthread_create(&child, nullptr, give_back, &wrong) != 0) wrong++;
        if (i % 3 == 0) {
          if (crthread_detach(child) != 0) wrong++;
        } else if (crthread_join(child, &value) != 0 || value != &wrong) {
          wrong++;
        }
      }
      return reinterpret_cast<void*>(wrong);
    });
  }
  for (crthread_t one : t) cr_assert_null(join(one));
}

// ---- errors ------------------------------------------------------------------------------------

Test(thread, create_refuses_bad_arguments) {
  crthread_t t = nullptr;
  cr_assert_eq(crthread_create(&t, nullptr, nullptr, nullptr), EINVAL);
  cr_assert_eq(crthread_create(nullptr, nullptr, give_back, nullptr), EINVAL);
  crthread_attr_t attr = {0, 0, 0, 0, nullptr};
  cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), EINVAL);
  attr = {sizeof(attr) + 8, 0, 0, 0, nullptr};
  cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), EINVAL);
  attr = {sizeof(attr), 2, 0, 0, nullptr};
  cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), EINVAL);
  attr = {sizeof(attr), 0, UINT64_MAX, 0, nullptr};
  cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), EINVAL);
  attr = {sizeof(attr), 0, UINT64_MAX - 8192, 16384, nullptr};
  cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), ENOMEM);
  attr = {sizeof(attr), 0, uint64_t{1} << 50, 0, nullptr};
  cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), ENOMEM);
  attr = {sizeof(attr), 0, 0, 0, "sixteen letters."};
  cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), EINVAL);
  cr_assert_null(t, "written on failure");
  // A program compiled when the structure was shorter.
  attr = {offsetof(crthread_attr_t, stack_bytes), 0, 1, 1, "not there"};
  cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), 0);
  join(t);
}

Test(thread, join_and_detach_errors) {
  cr_assert_eq(crthread_join(nullptr, nullptr), ESRCH);
  cr_assert_eq(crthread_detach(nullptr), ESRCH);
  cr_assert_eq(crthread_cancel(nullptr), ESRCH);
  cr_assert_eq(crthread_join(crthread_self(), nullptr), EDEADLK);
  cr_assert_eq(crthread_detach(crthread_self()), EINVAL, "main is not ours to join");

  static crsem_t gate;
  crthread_t t = start([](void*) -> void* {
    crsem_wait(&gate);
    return nullptr;
  });
  cr_assert_eq(crthread_detach(t), 0);
  cr_assert_eq(crthread_detach(t), EINVAL);
  cr_assert_eq(crthread_join(t, nullptr), EINVAL);
  crsem_post(&gate);

  t = start(give_back);
  join(t);
  cr_assert_eq(crthread_join(t, nullptr), ESRCH);
  cr_assert_eq(crthread_detach(t), ESRCH);
  cr_assert_eq(crthread_cancel(t), ESRCH);
}

Test(thread, join_oneself) {
  cr_assert_eq(join(start([](void*) -> void* {
                 const intptr_t error = crthread_join(crthread_self(), nullptr);
                 return reinterpret_cast<void*>(error);
               })),
               reinterpret_cast<void*>(intptr_t{EDEADLK}));
}

Test(thread, join_in_a_circle) {
  // a joins b; b joins a, which would be a circle, and gets EDEADLK; so a goes on.
  static crthread_t a, b;
  static std::atomic<bool> ready{false};
  a = start([](void*) -> void* {
    while (!ready) usleep(100);
    void* error_of_b = nullptr;
    return crthread_join(b, &error_of_b) == 0 ? error_of_b : nullptr;
  });
  b = start([](void*) -> void* {
    while (!ready) usleep(100);
    await_joining(a);
    return reinterpret_cast<void*>(static_cast<intptr_t>(crthread_join(a, nullptr)));
  });
  ready = true;
  cr_assert_eq(join(a), reinterpret_cast<void*>(intptr_t{EDEADLK}));
}

Test(thread, two_joiners) {
  static crthread_t target;
  static crsem_t gate;
  target = start([](void*) -> void* {
    crsem_wait(&gate);
    return nullptr;
  });
  crthread_t joiner = start([](void*) -> void* {
    return reinterpret_cast<void*>(static_cast<intptr_t>(crthread_join(target, nullptr)));
  });
  await_joining(joiner);
  cr_assert_eq(crthread_join(target, nullptr), EINVAL);
  cr_assert_eq(crthread_detach(target), EINVAL);
  crsem_post(&gate);
  cr_assert_null(join(joiner));
}

Test(thread, only_one_of_three_joiners_succeeds) {
  static crthread_t target;
  static crbarrier_t barrier;
  static std::atomic<int> joined{0}, wrong{0};
  constexpr int kRounds = 1000;
  crbarrier_init(&barrier, 4);
  crthread_t t[3];
  for (crthread_t& one : t) {
    one = start([](void*) -> void* {
      for (int i = 0; i < kRounds; i++) {
        crbarrier_wait(&barrier);
        const int error = crthread_join(target, nullptr);
        if (error == 0) joined++;
        if (error != 0 && error != EINVAL && error != ESRCH) wrong++;
        crbarrier_wait(&barrier);
      }
      return nullptr;
    });
  }
  for (int i = 0; i < kRounds; i++) {
    target = start(give_back);
    crbarrier_wait(&barrier);
    crbarrier_wait(&barrier);
    cr_assert_eq(joined, i + 1);
    cr_assert_eq(wrong, 0);
  }
  for (crthread_t one : t) join(one);
}

// ---- identity ----------------------------------------------------------------------------------

Test(thread, self_everywhere) {
  crthread_t main_thread = crthread_self();
  cr_assert_not_null(main_thread);
  cr_assert_eq(crthread_self(), main_thread);
  crthread_t t = start([](void*) -> void* { return crthread_self(); });
  cr_assert_eq(join(t), t);
  cr_assert_not(crthread_equal(t, main_thread));
  cr_assert(crthread_equal(main_thread, main_thread));

  // The new thread finds itself in the variable that create() writes.
  static crthread_t variable;
  cr_assert_eq(crthread_create(
                   &variable, nullptr,
                   [](void*) -> void* { return crthread_self() == variable ? nullptr : &variable; },
                   nullptr),
               0);
  cr_assert_null(join(variable));
}

Test(thread, plain_pthreads_are_adopted) {
  join(start(give_back));
  const uint64_t before = heap_in_use();
  for (int i = 0; i < 200; i++) {
    pthread_t plain;
    static crthread_t seen;
    pthread_create(
        &plain, nullptr,
        [](void*) -> void* {
          seen = crthread_self();
          return reinterpret_cast<void*>(
              static_cast<intptr_t>(seen == nullptr || seen != crthread_self()));
        },
        nullptr);
    void* wrong = nullptr;
    pthread_join(plain, &wrong);
    cr_assert_null(wrong);
    cr_assert_eq(crthread_join(seen, nullptr), ESRCH, "it has ended");
  }
  cr_assert_leq(heap_in_use(), before + 16 * 1024, "records of plain threads leak");
}

#if !UNDER_TSAN
Test(thread, adopted_threads_can_be_cancelled_but_not_joined) {
  static std::atomic<crthread_t> seen{nullptr};
  pthread_t plain;
  pthread_create(
      &plain, nullptr,
      [](void*) -> void* {
        seen = crthread_self();
        for (;;) pause();
      },
      nullptr);
  while (seen == nullptr) usleep(100);
  cr_assert_eq(crthread_join(seen, nullptr), EINVAL);
  cr_assert_eq(crthread_cancel(seen), 0);
  void* value = nullptr;
  pthread_join(plain, &value);
  cr_assert_eq(value, PTHREAD_CANCELED);
}
#endif

Test(thread, names) {
  const auto own_name = [](void* wanted) -> void* {
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    return strcmp(name, static_cast<char*>(wanted)) == 0 ? nullptr : wanted;
  };
  char fifteen[] = "fifteen letters", buffer[] = "short";
  crthread_attr_t attr = {sizeof(attr), 0, 0, 0, fifteen};
  crthread_t t = nullptr;
  cr_assert_eq(crthread_create(&t, &attr, own_name, fifteen), 0);
  cr_assert_null(join(t));
  attr.name = buffer;
  char copy[] = "short";
  cr_assert_eq(crthread_create(&t, &attr, own_name, copy), 0);
  buffer[0] = 'X';  // the name was copied
  cr_assert_null(join(t));
  prctl(PR_SET_NAME, "inherited");
  char inherited[] = "inherited";
  cr_assert_null(join(start(own_name, inherited)));
}

// ---- stacks ------------------------------------------------------------------------------------

#if !UNDER_ASAN && !UNDER_TSAN
Test(thread, stacks_lie_in_the_nvheap_and_have_their_size) {
  const auto use_most = [](void* bytes) -> void* {
    int here = 0;
    if (!cr::nvheap::contains(&here)) return bytes;
    pthread_attr_t attr;
    pthread_getattr_np(pthread_self(), &attr);
    void* low = nullptr;
    size_t size = 0;
    pthread_attr_getstack(&attr, &low, &size);
    pthread_attr_destroy(&attr);
    const size_t wanted = *static_cast<size_t*>(bytes);
    if (size < wanted || size > wanted + 4096) return bytes;
    // All of it can be written, except what lies below this frame's caller.
    for (auto* p = reinterpret_cast<volatile char*>(&here) - 2048;
         p > static_cast<char*>(low) + 4096; p -= 4096) {
      *p = 1;
    }
    return nullptr;
  };
  for (size_t bytes : {size_t{1}, size_t{65536}, size_t{100000}, size_t{1} << 20}) {
    size_t expected = bytes < 65536 ? 65536 : (bytes + 4095) / 4096 * 4096;
    const crthread_attr_t attr = {sizeof(attr), 0, bytes, 0, nullptr};
    crthread_t t = nullptr;
    cr_assert_eq(crthread_create(&t, &attr, use_most, &expected), 0);
    cr_assert_null(join(t), "stack of %zu", bytes);
  }
  rlimit limit{};
  getrlimit(RLIMIT_STACK, &limit);
  size_t expected = limit.rlim_cur == RLIM_INFINITY ? 8u << 20 : limit.rlim_cur;
  cr_assert_null(join(start(use_most, &expected)));
  cr::crthreads::set_default_stack_bytes(300000);
  expected = 303104;
  cr_assert_null(join(start(use_most, &expected)));
}

Test(thread, the_guard_stops_an_overrun) {
  for (const uint64_t guard : {0, 65536}) {
    const int status = status_of_child([=] {
      const crthread_attr_t attr = {sizeof(attr), 0, 65536, guard, nullptr};
      crthread_t t = nullptr;
      crthread_create(
          &t, &attr,
          [](void*) -> void* {
            pthread_attr_t a;
            pthread_getattr_np(pthread_self(), &a);
            void* low = nullptr;
            size_t size = 0;
            pthread_attr_getstack(&a, &low, &size);
            auto* p = static_cast<volatile char*>(low);
            *p = 1;     // the last byte of the stack
            p[-1] = 1;  // the guard
            return nullptr;
          },
          nullptr);
      crthread_join(t, nullptr);
      return 0;
    });
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status %#x", status);
  }
}
#endif

Test(thread, guards_do_not_leak_into_the_heap) {
  for (int i = 0; i < 20; i++) {
    const crthread_attr_t attr = {sizeof(attr), 0, kSmallStackBytes, 8192, nullptr};
    crthread_t t = nullptr;
    cr_assert_eq(crthread_create(&t, &attr, give_back, nullptr), 0);
    join(t);
  }
  for (int i = 0; i < 20; i++) {
    void* p = crmalloc(40 * 1024);
    cr_assert_not_null(p);
    memset(p, 1, 40 * 1024);
  }
}

// ---- cancellation, destructors -----------------------------------------------------------------

#if !UNDER_TSAN
Test(thread, cancel_in_sleep_runs_handlers) {
  static std::atomic<int> order{0};
  static int first = -1, second = -1;
  crthread_t t = start([](void*) -> void* {
    pthread_cleanup_push([](void*) { second = order++; }, nullptr);
    pthread_cleanup_push([](void*) { first = order++; }, nullptr);
    for (;;) sleep(100);
    pthread_cleanup_pop(0);
    pthread_cleanup_pop(0);
    return nullptr;
  });
  sleep_ms(20);
  cr_assert_eq(crthread_cancel(t), 0);
  cr_assert_eq(join(t), CRTHREAD_CANCELED);
  cr_assert_eq(first, 0);
  cr_assert_eq(second, 1);
}

Test(thread, cancel_at_testcancel_and_not_while_disabled) {
  static std::atomic<int> step{0};
  crthread_t t = start([](void*) -> void* {
    int old = 0;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
    step = 1;
    while (step != 2) usleep(100);
    crthread_testcancel();
    crsem_t s;
    crsem_init(&s, 0);
    const timespec soon = from_now_ms(5);
    crsem_timedwait(&s, &soon);  // no cancellation point now
    step = 3;
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
    crthread_testcancel();
    step = 4;
    return nullptr;
  });
  while (step != 1) usleep(100);
  cr_assert_eq(crthread_cancel(t), 0);
  step = 2;
  cr_assert_eq(join(t), CRTHREAD_CANCELED);
  cr_assert_eq(step, 3);
}

Test(thread, cancelled_in_join_leaves_the_target_joinable) {
  static crsem_t gate;
  static crthread_t target;
  target = start([](void*) -> void* {
    crsem_wait(&gate);
    return &gate;
  });
  crthread_t joiner = start([](void*) -> void* {
    crthread_join(target, nullptr);
    return nullptr;
  });
  sleep_ms(20);
  cr_assert_eq(crthread_cancel(joiner), 0);
  cr_assert_eq(join(joiner), CRTHREAD_CANCELED);
  crsem_post(&gate);
  cr_assert_eq(join(target), &gate);
}

Test(thread, cancel_races_with_the_end) {
  for (int i = 0; i < 1000; i++) {
    crthread_t t = start(give_back);
    if (i % 2 == 0) usleep(30);
    const int error = crthread_cancel(t);
    cr_assert(error == 0, "%d", error);
    join(t);
  }
}

Test(thread, many_cancel_one_that_is_being_joined) {
  static std::atomic<crthread_t> target{nullptr};
  static std::atomic<bool> stop{false};
  crthread_t t[3];
  for (crthread_t& one : t) {
    one = start([](void*) -> void* {
      while (!stop) {
        if (crthread_t x = target) crthread_cancel(x);
      }
      return nullptr;
    });
  }
  for (int i = 0; i < 500; i++) {
    crthread_t victim = start([](void*) -> void* {
      for (;;) pause();
    });
    target = victim;
    cr_assert_eq(join(victim), CRTHREAD_CANCELED);
    target = nullptr;
    // Its record may serve the next thread at once; the cancellers may still hold the old name.
    stop = i == 499;
  }
  for (crthread_t one : t) join(one);
}
#endif

Test(thread, destructors_run_before_join_returns) {
  static pthread_key_t key;
  static std::atomic<int> ran{0};
  static crthread_t self_in_destructor;
  pthread_key_create(&key, [](void* value) {
    ran++;
    self_in_destructor = crthread_self();
    if (value == &key) pthread_setspecific(key, &ran);  // once more
  });
  crthread_t t = start([](void*) -> void* {
    pthread_setspecific(key, &key);
    return nullptr;
  });
  join(t);
  cr_assert_eq(ran, 2);
  cr_assert_eq(self_in_destructor, t);
}

Test(thread, adopted_threads_know_themselves_in_destructors) {
  static pthread_key_t key;
  static std::atomic<int> same{0};
  pthread_key_create(&key, [](void* value) { same += crthread_self() == value; });
  for (int i = 0; i < 50; i++) {
    pthread_t plain;
    pthread_create(
        &plain, nullptr,
        [](void*) -> void* { return pthread_setspecific(key, crthread_self()), nullptr; }, nullptr);
    pthread_join(plain, nullptr);
  }
  cr_assert_eq(same, 50);
}

// ---- fork --------------------------------------------------------------------------------------

#if !UNDER_ASAN && !UNDER_TSAN
Test(thread, fork_child_is_whole) {
  static std::atomic<bool> stop{false};
  static crmutex_t mutex;
  static crcond_t cond;
  crthread_t busy[3];
  for (crthread_t& one : busy) {
    one = start([](void*) -> void* {
      while (!stop) {
        crthread_t t = nullptr;
        if (crthread_create(&t, nullptr, give_back, nullptr) == 0) crthread_join(t, nullptr);
        crmutex_lock(&mutex);
        const timespec now = from_now_ms(0);
        crcond_timedwait(&cond, &mutex, &now);
        crmutex_unlock(&mutex);
      }
      return nullptr;
    });
  }
  for (int i = 0; i < 50; i++) {
    // Nobody else may hold it when the child is made, as with any mutex.
    crmutex_lock(&mutex);
    const int status = status_of_child([&] {
      crmutex_unlock(&mutex);
      if (crcond_destroy(&cond) != 0) return 2;  // waiters of the parent are not here
      if (crthread_join(busy[0], nullptr) != ESRCH) return 3;
      for (intptr_t n = 0; n < 5; n++) {
        crthread_t t = nullptr;
        void* value = nullptr;
        if (crthread_create(&t, nullptr, give_back, reinterpret_cast<void*>(n)) != 0) return 4;
        if (crthread_join(t, &value) != 0 || value != reinterpret_cast<void*>(n)) return 5;
      }
      return 0;
    });
    crmutex_unlock(&mutex);
    cr_assert_eq(status, 0, "child %d: status %#x", i, status);
  }
  stop = true;
  for (crthread_t one : busy) join(one);
}

Test(thread, fork_in_a_cr_thread) {
  crthread_t t = start([](void*) -> void* {
    crthread_t me = crthread_self();
    const pid_t pid = fork();
    if (pid == 0) {
      crthread_t child = nullptr;
      const bool fine = crthread_self() == me &&
                        crthread_create(&child, nullptr, give_back, nullptr) == 0 &&
                        crthread_join(child, nullptr) == 0;
      _exit(fine ? 0 : 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return reinterpret_cast<void*>(static_cast<intptr_t>(status));
  });
  cr_assert_null(join(t));
}
#endif
