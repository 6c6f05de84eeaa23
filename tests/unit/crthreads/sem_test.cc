// SPDX-License-Identifier: MIT
// sem_test.cc - crsem_*.
// Invariant under test: no value is lost or taken twice, also with timeouts, signals and
// cancellation; the errors of POSIX.
#include <limits.h>
#include <pthread.h>

#include "tests/unit/crthreads/common.h"

using namespace cr_test;

namespace {

crsem_t g_sem;
int g_count;

int value_of(crsem_t* s) {
  int value = -1;
  crsem_getvalue(s, &value);
  return value;
}

// A helper sends signals to the test's thread until `g_enough`, at least 50, and then posts.
std::atomic<pthread_t> g_waiter{};
std::atomic<bool> g_enough{false};
crthread_t start_sending_signals(int flags) {
  set_handler(
      SIGUSR1, [](int) { g_count = g_count + 1; }, flags);
  g_waiter = pthread_self();
  g_enough = false;
  g_count = 0;
  return start([](void*) -> void* {
    for (int i = 0; i < 50 || !g_enough; i++) {
      pthread_kill(g_waiter, SIGUSR1);
      usleep(500);
    }
    crsem_post(&g_sem);
    return nullptr;
  });
}

}  // namespace

Test(sem, errors) {
  crsem_t s;
  errno = 0;
  cr_assert_eq(crsem_init(&s, 0x80000000u), -1);
  cr_assert_eq(errno, EINVAL);
  cr_assert_eq(crsem_init(&s, 1), 0);
  cr_assert_eq(crsem_trywait(&s), 0);
  cr_assert_eq(crsem_trywait(&s), -1);
  cr_assert_eq(errno, EAGAIN);
  const timespec bad{0, -1}, negative{-5, 0};
  cr_assert_eq(crsem_timedwait(&s, &bad), -1);
  cr_assert_eq(errno, EINVAL);
  cr_assert_eq(crsem_timedwait(&s, &negative), -1);
  cr_assert_eq(errno, ETIMEDOUT);
  cr_assert_eq(crsem_post(&s), 0);
  cr_assert_eq(crsem_timedwait(&s, &bad), 0, "a value was there: the time does not matter");
  cr_assert_eq(crsem_init(&s, INT_MAX), 0);
  cr_assert_eq(crsem_post(&s), -1);
  cr_assert_eq(errno, EOVERFLOW);
  cr_assert_eq(value_of(&s), INT_MAX);
  cr_assert_eq(crsem_destroy(&s), 0);
}

Test(sem, zeroed_storage_is_a_semaphore_of_0) {
  static crsem_t s;
  cr_assert_eq(crsem_trywait(&s), -1);
  cr_assert_eq(crsem_post(&s), 0);
  cr_assert_eq(crsem_wait(&s), 0);
}

Test(sem, is_a_mutex_for_four_threads) {
  cr_assert_eq(crsem_init(&g_sem, 1), 0);
  crthread_t t[4];
  for (crthread_t& one : t) {
    one = start([](void*) -> void* {
      for (int i = 0; i < 50000; i++) {
        crsem_wait(&g_sem);
        g_count = g_count + 1;
        crsem_post(&g_sem);
      }
      return nullptr;
    });
  }
  for (crthread_t one : t) join(one);
  cr_assert_eq(g_count, 200000);
  cr_assert_eq(value_of(&g_sem), 1);
}

Test(sem, timedwait_waits_and_gives_up) {
  crsem_t s;
  crsem_init(&s, 0);
  const double begin = now_s();
  const timespec t = from_now_ms(50);
  errno = 0;
  cr_assert_eq(crsem_timedwait(&s, &t), -1);
  cr_assert_eq(errno, ETIMEDOUT);
  cr_assert_geq(now_s() - begin, 0.049);
  cr_assert_eq(value_of(&s), 0);
}

Test(sem, wait_is_interrupted_by_a_handler) {
  crsem_init(&g_sem, 0);
  crthread_t helper = start_sending_signals(0);
  errno = 0;
  cr_assert_eq(crsem_wait(&g_sem), -1);
  cr_assert_eq(errno, EINTR);
  g_enough = true;
  join(helper);
}

Test(sem, wait_goes_on_after_a_handler_with_restart) {
  crsem_init(&g_sem, 0);
  crthread_t helper = start_sending_signals(SA_RESTART);
  g_enough = true;
  cr_assert_eq(crsem_wait(&g_sem), 0);
  cr_assert_gt(g_count, 0);
  join(helper);
}

Test(sem, timedwait_is_always_interrupted) {
  // As sem_timedwait: the kernel does not begin it anew, whatever the flags.
  crsem_init(&g_sem, 0);
  crthread_t helper = start_sending_signals(SA_RESTART);
  const timespec late = from_now_ms(20000);
  errno = 0;
  cr_assert_eq(crsem_timedwait(&g_sem, &late), -1);
  cr_assert_eq(errno, EINTR);
  g_enough = true;
  join(helper);
}

#if !UNDER_TSAN
Test(sem, post_in_a_signal_handler) {
  crsem_init(&g_sem, 0);
  set_handler(
      SIGALRM, [](int) { crsem_post(&g_sem); }, SA_RESTART);
  ualarm(20000, 1000);
  for (int i = 0; i < 200; i++) {
    while (crsem_wait(&g_sem) != 0) cr_assert_eq(errno, EINTR);
  }
  ualarm(0, 0);
}
#endif

Test(sem, nothing_is_lost_with_timeouts_and_signals) {
  // Consumers use all kinds of waits while signals fly; each post must be taken exactly once.
  constexpr int kPosts = 20000;
  static std::atomic<int> taken{0};
  crsem_init(&g_sem, 0);
  set_handler(
      SIGUSR1, [](int) {}, 0);
  crthread_t t[4];
  for (intptr_t i = 0; i < 4; i++) {
    t[i] = start(
        [](void* kind) -> void* {
          while (taken < kPosts) {
            const timespec soon = from_now_ms(reinterpret_cast<intptr_t>(kind));
            if (crsem_timedwait(&g_sem, &soon) == 0) taken++;
          }
          return nullptr;
        },
        reinterpret_cast<void*>(i));
  }
  for (int i = 0; i < kPosts; i++) {
    crsem_post(&g_sem);
    if (i % 16 == 0) kill(getpid(), SIGUSR1);
    if (i % 64 == 0) usleep(20);
  }
  for (crthread_t one : t) join(one);
  cr_assert_eq(taken, kPosts);
  cr_assert_eq(value_of(&g_sem), 0);
}

#if !UNDER_TSAN
Test(sem, cancelled_in_wait) {
  crsem_init(&g_sem, 0);
  crthread_t t = start([](void*) -> void* {
    crsem_wait(&g_sem);
    return nullptr;
  });
  sleep_ms(20);
  cr_assert_eq(crthread_cancel(t), 0);
  cr_assert_eq(join(t), CRTHREAD_CANCELED);
  cr_assert_eq(crsem_post(&g_sem), 0);
  cr_assert_eq(value_of(&g_sem), 1);
  cr_assert_eq(crsem_wait(&g_sem), 0);
}

Test(sem, cancelled_before_wait) {
  // wait is a cancellation point even when it need not wait.
  crsem_init(&g_sem, 1);
  crthread_t t = start([](void*) -> void* {
    crthread_cancel(crthread_self());
    crsem_wait(&g_sem);
    return nullptr;
  });
  cr_assert_eq(join(t), CRTHREAD_CANCELED);
  cr_assert_eq(value_of(&g_sem), 1);
}

Test(sem, a_cancelled_waiter_loses_no_post) {
  // Post and cancel race for one waiter while another waits as well: the other must get the value.
  crsem_init(&g_sem, 0);
  for (int i = 0; i < 1000; i++) {
    crthread_t victim = start([](void*) -> void* {
      crsem_wait(&g_sem);
      return nullptr;
    });
    crthread_t other = start([](void*) -> void* {
      crsem_wait(&g_sem);
      return nullptr;
    });
    if (i % 2 == 0) usleep(100);
    if (i % 3 == 0) {
      crthread_cancel(victim);
      crsem_post(&g_sem);
    } else {
      crsem_post(&g_sem);
      crthread_cancel(victim);
    }
    const bool cancelled = join(victim) == CRTHREAD_CANCELED;
    if (!cancelled) crsem_post(&g_sem);  // it took the value
    join(other);
    cr_assert_eq(value_of(&g_sem), 0);
  }
}
#endif

Test(sem, may_be_destroyed_by_the_thread_let_through) {
  for (int i = 0; i < 500; i++) {
    auto* s = static_cast<crsem_t*>(crcalloc(1, sizeof(crsem_t)));
    crthread_t waiter = start(
        [](void* p) -> void* {
          auto* sem = static_cast<crsem_t*>(p);
          crsem_wait(sem);
          crsem_destroy(sem);
          memset(p, 0xee, sizeof(crsem_t));
          crfree(p);
          return nullptr;
        },
        s);
    if (i % 2 == 0) usleep(50);
    crsem_post(s);
    join(waiter);
  }
}
