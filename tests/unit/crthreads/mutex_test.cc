// SPDX-License-Identifier: MIT
// mutex_test.cc - crmutex_*.
// Invariant under test: exclusion, the errors of each type, deadlines.
#include "tests/unit/crthreads/common.h"

using namespace cr_test;

namespace {

crmutex_t g_mutex = CRMUTEX_INITIALIZER;
int g_count;

void* add_100000(void*) {
  for (int i = 0; i < 100000; i++) {
    crmutex_lock(&g_mutex);
    g_count = g_count + 1;
    crmutex_unlock(&g_mutex);
  }
  return nullptr;
}

// Does f in another thread and gives its int result.
template <typename F>
int elsewhere(F f) {
  return static_cast<int>(reinterpret_cast<intptr_t>(join(start(
      [](void* arg) -> void* {
        return reinterpret_cast<void*>(static_cast<intptr_t>((*static_cast<F*>(arg))()));
      },
      &f))));
}

void count_with_four_threads() {
  g_count = 0;
  crthread_t t[4];
  for (crthread_t& one : t) one = start(add_100000);
  for (crthread_t one : t) join(one);
  cr_assert_eq(g_count, 400000);
  cr_assert_eq(crmutex_destroy(&g_mutex), 0);
}

}  // namespace

Test(mutex, excludes_normal) { count_with_four_threads(); }
Test(mutex, excludes_recursive) {
  cr_assert_eq(crmutex_init(&g_mutex, CRMUTEX_RECURSIVE), 0);
  count_with_four_threads();
}
Test(mutex, excludes_errorcheck) {
  cr_assert_eq(crmutex_init(&g_mutex, CRMUTEX_ERRORCHECK), 0);
  count_with_four_threads();
}

Test(mutex, normal_errors) {
  crmutex_t m = CRMUTEX_INITIALIZER;
  cr_assert_eq(crmutex_lock(&m), 0);
  cr_assert_eq(crmutex_trylock(&m), EBUSY);
  cr_assert_eq(crmutex_destroy(&m), EBUSY);
  const timespec t = from_now_ms(20);
  cr_assert_eq(crmutex_timedlock(&m, &t), ETIMEDOUT);  // also for the owner
  cr_assert_eq(crmutex_unlock(&m), 0);
  cr_assert_eq(crmutex_destroy(&m), 0);
  cr_assert_eq(crmutex_init(&m, static_cast<crmutex_type>(3)), EINVAL);
}

Test(mutex, recursive_errors) {
  crmutex_t m;
  cr_assert_eq(crmutex_init(&m, CRMUTEX_RECURSIVE), 0);
  cr_assert_eq(crmutex_unlock(&m), EPERM);
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(crmutex_lock(&m), 0);
    cr_assert_eq(crmutex_trylock(&m), 0);
  }
  for (int i = 0; i < 6; i++) {
    cr_assert_eq(elsewhere([&] { return crmutex_trylock(&m); }), EBUSY);
    cr_assert_eq(elsewhere([&] { return crmutex_unlock(&m); }), EPERM);
    cr_assert_eq(crmutex_unlock(&m), 0);
  }
  cr_assert_eq(crmutex_unlock(&m), EPERM);
  cr_assert_eq(elsewhere([&] { return crmutex_trylock(&m) + crmutex_unlock(&m); }), 0);
}

Test(mutex, errorcheck_errors) {
  crmutex_t m;
  cr_assert_eq(crmutex_init(&m, CRMUTEX_ERRORCHECK), 0);
  cr_assert_eq(crmutex_unlock(&m), EPERM);
  cr_assert_eq(crmutex_lock(&m), 0);
  cr_assert_eq(crmutex_lock(&m), EDEADLK);
  cr_assert_eq(crmutex_trylock(&m), EBUSY);
  const timespec t = from_now_ms(1000);
  cr_assert_eq(crmutex_timedlock(&m, &t), EDEADLK);
  cr_assert_eq(elsewhere([&] { return crmutex_unlock(&m); }), EPERM);
  cr_assert_eq(elsewhere([&] { return crmutex_trylock(&m); }), EBUSY);
  cr_assert_eq(crmutex_unlock(&m), 0);
  cr_assert_eq(crmutex_unlock(&m), EPERM);
}

Test(mutex, a_new_thread_does_not_inherit_ownership) {
  // Same stack, same thread-local storage, perhaps the same kernel id: still another thread.
  crmutex_t m;
  cr_assert_eq(crmutex_init(&m, CRMUTEX_ERRORCHECK), 0);
  cr_assert_eq(elsewhere([&] { return crmutex_lock(&m); }), 0);
  for (int i = 0; i < 100; i++) {
    cr_assert_eq(elsewhere([&] { return crmutex_unlock(&m); }), EPERM);
    cr_assert_eq(elsewhere([&] { return crmutex_trylock(&m); }), EBUSY);
  }
}

Test(mutex, timedlock) {
  crmutex_t m = CRMUTEX_INITIALIZER;
  const timespec bad{0, 1000000000}, negative{-1, 0};
  cr_assert_eq(crmutex_timedlock(&m, &bad), 0, "free: the time does not matter");
  cr_assert_eq(elsewhere([&] { return crmutex_timedlock(&m, &bad); }), EINVAL);
  cr_assert_eq(elsewhere([&] { return crmutex_timedlock(&m, &negative); }), ETIMEDOUT);
  const double begin = now_s();
  cr_assert_eq(elsewhere([&] {
                 const timespec t = from_now_ms(50);
                 return crmutex_timedlock(&m, &t);
               }),
               ETIMEDOUT);
  cr_assert_geq(now_s() - begin, 0.049);
  // Somebody unlocks in time.
  crthread_t unlocker = start(
      [](void* p) -> void* {
        sleep_ms(20);
        crmutex_unlock(static_cast<crmutex_t*>(p));
        return nullptr;
      },
      &m);
  const timespec t = from_now_ms(10000);
  cr_assert_eq(crmutex_timedlock(&m, &t), 0);
  join(unlocker);
  cr_assert_eq(crmutex_unlock(&m), 0);
  cr_assert_eq(crmutex_destroy(&m), 0);
}

Test(mutex, timed_and_untimed_waiters_under_signals) {
  // Each waits in short timed steps or without limit while signals interrupt the waits.
  set_handler(
      SIGUSR1, [](int) {}, 0);
  crthread_t t[4];
  for (int i = 0; i < 4; i++) {
    t[i] = start(i % 2 == 0 ? add_100000 : Start([](void*) -> void* {
      intptr_t timeouts = 0;
      for (int n = 0; n < 20000; n++) {
        timespec limit = from_now_ms(0);
        while (crmutex_timedlock(&g_mutex, &limit) != 0) {
          timeouts++;
          limit = from_now_ms(1);
        }
        g_count = g_count + 1;
        crmutex_unlock(&g_mutex);
      }
      return reinterpret_cast<void*>(timeouts);
    }));
  }
  crthread_t noise = start([](void*) -> void* {
    for (int i = 0; i < 2000; i++) {
      kill(getpid(), SIGUSR1);
      usleep(50);
    }
    return nullptr;
  });
  for (crthread_t one : t) join(one);
  join(noise);
  cr_assert_eq(g_count, 240000);
}

Test(mutex, may_be_destroyed_by_the_next_holder) {
  // The holder frees the mutex as soon as it gets it, while the former holder is still in unlock.
  for (int i = 0; i < 500; i++) {
    auto* m = static_cast<crmutex_t*>(crcalloc(1, sizeof(crmutex_t)));
    crmutex_lock(m);
    crthread_t next = start(
        [](void* p) -> void* {
          auto* mutex = static_cast<crmutex_t*>(p);
          crmutex_lock(mutex);
          crmutex_unlock(mutex);
          const intptr_t error = crmutex_destroy(mutex);
          memset(p, 0xee, sizeof(crmutex_t));
          crfree(p);
          return reinterpret_cast<void*>(error);
        },
        m);
    if (i % 2 == 0) usleep(50);
    crmutex_unlock(m);
    cr_assert_null(join(next));
  }
}
