// SPDX-License-Identifier: MIT
// cond_test.cc - crcond_*.
// Invariant under test: no wake-up is lost, stolen or invented; the mutex is held whenever a wait
// ends, however it ends.
#include <pthread.h>

#include "tests/unit/crthreads/common.h"

using namespace cr_test;

namespace {

crmutex_t g_mutex = CRMUTEX_INITIALIZER;
crcond_t g_cond = CRCOND_INITIALIZER;
int g_waiting, g_woken;

void* wait_once(void*) {
  crmutex_lock(&g_mutex);
  g_waiting++;
  crcond_wait(&g_cond, &g_mutex);
  g_woken++;
  crmutex_unlock(&g_mutex);
  return nullptr;
}

// Waits until n threads are inside crcond_wait: they counted themselves with the mutex held.
void await_waiting(int n) {
  for (;;) {
    crmutex_lock(&g_mutex);
    const int now = g_waiting;
    crmutex_unlock(&g_mutex);
    if (now == n) return;
    usleep(200);
  }
}
int woken() {
  crmutex_lock(&g_mutex);
  const int n = g_woken;
  crmutex_unlock(&g_mutex);
  return n;
}

// ---- a bounded queue ---------------------------------------------------------------------------

constexpr int kItems = 40000;
struct BoundedQueue {
  crmutex_t mutex;
  crcond_t not_empty, not_full;
  int items[8], first, count;

  void put(int item) {
    crmutex_lock(&mutex);
    while (count == 8) crcond_wait(&not_full, &mutex);
    items[(first + count++) % 8] = item;
    crcond_signal(&not_empty);
    crmutex_unlock(&mutex);
  }
  int get() {
    crmutex_lock(&mutex);
    while (count == 0) crcond_wait(&not_empty, &mutex);
    const int item = items[first];
    first = (first + 1) % 8;
    count--;
    crcond_signal(&not_full);
    crmutex_unlock(&mutex);
    return item;
  }
} g_queue;

void move_all_items() {
  static std::atomic<long> sum{0};
  crthread_t t[4];
  for (intptr_t i = 0; i < 2; i++) {
    t[i] = start(
        [](void* from) -> void* {
          for (intptr_t n = reinterpret_cast<intptr_t>(from); n < kItems; n += 2) {
            g_queue.put(static_cast<int>(n));
          }
          return nullptr;
        },
        reinterpret_cast<void*>(i));
    t[2 + i] = start([](void*) -> void* {
      for (int n = 0; n < kItems / 2; n++) sum += g_queue.get();
      return nullptr;
    });
  }
  for (crthread_t one : t) join(one);
  cr_assert_eq(sum, long{kItems} * (kItems - 1) / 2);
  cr_assert_eq(g_queue.count, 0);
}

}  // namespace

Test(cond, producers_and_consumers) { move_all_items(); }

Test(cond, producers_and_consumers_under_signals) {
  set_handler(
      SIGALRM, [](int) {}, 0);
  ualarm(300, 300);
  move_all_items();
  ualarm(0, 0);
}

Test(cond, signal_wakes_exactly_one) {
  crthread_t t[10];
  for (crthread_t& one : t) one = start(wait_once);
  await_waiting(10);
  for (int i = 1; i <= 10; i++) {
    cr_assert_eq(crcond_signal(&g_cond), 0);
    while (woken() < i) usleep(100);
    usleep(2000);
    cr_assert_eq(woken(), i);
  }
  for (crthread_t one : t) join(one);
}

Test(cond, signals_wake_in_order_of_arrival) {
  static std::atomic<int> order{0};
  static int place[6];
  crthread_t t[6];
  for (int i = 0; i < 6; i++) {
    t[i] = start(
        [](void* p) -> void* {
          wait_once(nullptr);
          *static_cast<int*>(p) = order++;
          return nullptr;
        },
        &place[i]);
    await_waiting(i + 1);
  }
  for (int i = 0; i < 6; i++) {
    crcond_signal(&g_cond);
    while (order <= i) usleep(100);
  }
  for (crthread_t one : t) join(one);
  for (int i = 0; i < 6; i++) cr_assert_eq(place[i], i);
}

Test(cond, broadcast_wakes_all_and_a_signal_before_a_wait_is_not_kept) {
  crcond_signal(&g_cond);
  crcond_broadcast(&g_cond);
  constexpr int kThreads = 100;  // more than one batch
  static crthread_t t[kThreads];
  for (crthread_t& one : t) one = start(wait_once);
  await_waiting(kThreads);
  cr_assert_eq(woken(), 0);
  cr_assert_eq(crcond_destroy(&g_cond), EBUSY);
  crcond_broadcast(&g_cond);
  cr_assert_eq(crcond_destroy(&g_cond), 0);
  for (crthread_t one : t) join(one);
  cr_assert_eq(g_woken, kThreads);
}

Test(cond, many_condition_variables_share_the_table) {
  constexpr int kConds = 600;  // more than there are queues
  static crcond_t conds[kConds];
  static crmutex_t mutex;
  static int turn;
  static constexpr int kThreads = 4;
  crthread_t t[kThreads];
  for (intptr_t i = 0; i < kThreads; i++) {
    t[i] = start(
        [](void* me) -> void* {
          crmutex_lock(&mutex);
          for (int n = static_cast<int>(reinterpret_cast<intptr_t>(me)); n < kConds;
               n += kThreads) {
            while (turn != n) crcond_wait(&conds[n], &mutex);
            turn++;
            crcond_signal(&conds[turn % kConds]);
          }
          crmutex_unlock(&mutex);
          return nullptr;
        },
        reinterpret_cast<void*>(i));
  }
  for (crthread_t one : t) join(one);
  cr_assert_eq(turn, kConds);
}

Test(cond, timedwait) {
  crmutex_lock(&g_mutex);
  const double begin = now_s();
  timespec t = from_now_ms(50);
  cr_assert_eq(crcond_timedwait(&g_cond, &g_mutex, &t), ETIMEDOUT);
  cr_assert_geq(now_s() - begin, 0.049);
  cr_assert_eq(crmutex_trylock(&g_mutex), EBUSY, "the mutex must be held again");
  t = {0, 1000000000};
  cr_assert_eq(crcond_timedwait(&g_cond, &g_mutex, &t), EINVAL);
  t = {-1, 5};
  cr_assert_eq(crcond_timedwait(&g_cond, &g_mutex, &t), ETIMEDOUT);
  crmutex_unlock(&g_mutex);
  cr_assert_eq(crcond_destroy(&g_cond), 0);
}

Test(cond, the_mutex_must_be_the_callers) {
  for (crmutex_type type : {CRMUTEX_ERRORCHECK, CRMUTEX_RECURSIVE}) {
    crmutex_t m;
    crmutex_init(&m, type);
    cr_assert_eq(crcond_wait(&g_cond, &m), EPERM);
    crmutex_lock(&m);
    const timespec t = from_now_ms(1);
    cr_assert_eq(crcond_timedwait(&g_cond, &m, &t), ETIMEDOUT);
    cr_assert_eq(crmutex_unlock(&m), 0);
  }
}

Test(cond, a_timed_waiter_loses_no_signal) {
  // One signal near the deadline of the first waiter, with a second one behind it: if the first
  // says ETIMEDOUT, the signal must have reached the second.
  static timespec deadline;
  constexpr int kRounds = 600;
  for (int i = 0; i < kRounds; i++) {
    g_waiting = 0;
    crmutex_lock(&g_mutex);  // so that the deadline is still ahead when the first begins to wait
    crthread_t first = start([](void*) -> void* {
      crmutex_lock(&g_mutex);
      g_waiting++;
      const intptr_t result = crcond_timedwait(&g_cond, &g_mutex, &deadline);
      crmutex_unlock(&g_mutex);
      return reinterpret_cast<void*>(result);
    });
    deadline = from_now_ms(1);
    crmutex_unlock(&g_mutex);
    await_waiting(1);
    crthread_t second = start(wait_once);
    await_waiting(2);
    timespec now{};
    const long early_ns = i % 100 * 1000 - 80000;  // from 80 us after to 20 us before
    do {
      clock_gettime(CLOCK_REALTIME, &now);
    } while ((now.tv_sec - deadline.tv_sec) * 1000000000 + now.tv_nsec - deadline.tv_nsec <
             -early_ns);
    crcond_signal(&g_cond);
    if (join(first) == nullptr) crcond_signal(&g_cond);
    cr_assert_null(join(second));
  }
}

#if !UNDER_TSAN
Test(cond, cancelled_in_wait_holds_the_mutex_in_its_handlers) {
  for (crmutex_type type : {CRMUTEX_NORMAL, CRMUTEX_ERRORCHECK, CRMUTEX_RECURSIVE}) {
    cr_assert_eq(crmutex_init(&g_mutex, type), 0);
    static int unlocked;
    unlocked = -1;
    g_waiting = 0;
    crthread_t t = start([](void*) -> void* {
      pthread_cleanup_push([](void*) { unlocked = crmutex_unlock(&g_mutex); }, nullptr);
      crmutex_lock(&g_mutex);
      g_waiting++;
      for (;;) crcond_wait(&g_cond, &g_mutex);
      pthread_cleanup_pop(0);
      return nullptr;
    });
    await_waiting(1);
    cr_assert_eq(crthread_cancel(t), 0);
    cr_assert_eq(join(t), CRTHREAD_CANCELED);
    cr_assert_eq(unlocked, 0, "type %d: the handler did not hold the mutex", type);
    cr_assert_eq(crmutex_trylock(&g_mutex), 0);
    cr_assert_eq(crmutex_unlock(&g_mutex), 0);
    cr_assert_eq(crcond_destroy(&g_cond), 0, "the waiter is still counted");
  }
}

Test(cond, a_cancelled_waiter_loses_no_signal) {
  // Signal and cancel race for the first waiter; the second must then be woken.
  static bool done;
  for (int i = 0; i < 1000; i++) {
    g_waiting = 0;
    done = false;
    const auto wait = [](void*) -> void* {
      pthread_cleanup_push([](void*) { crmutex_unlock(&g_mutex); }, nullptr);
      crmutex_lock(&g_mutex);
      g_waiting++;
      crcond_wait(&g_cond, &g_mutex);
      done = true;
      pthread_cleanup_pop(1);
      return nullptr;
    };
    crthread_t first = start(wait);
    await_waiting(1);
    crthread_t second = start(wait);
    await_waiting(2);
    if (i % 2 == 0) {
      crcond_signal(&g_cond);
      crthread_cancel(first);
    } else {
      crthread_cancel(first);
      crcond_signal(&g_cond);
    }
    if (join(first) != CRTHREAD_CANCELED) crcond_signal(&g_cond);
    cr_assert_null(join(second));
    cr_assert(done);
  }
}
#endif

Test(cond, may_be_destroyed_right_after_broadcast) {
  struct Shared {
    crmutex_t mutex;
    crcond_t cond;
    bool gone;
    std::atomic<int> waiting;
  };
  for (int i = 0; i < 300; i++) {
    static Shared* s;
    s = new (crcalloc(1, sizeof(Shared))) Shared{};
    static std::atomic<crcond_t*> cond;
    cond = static_cast<crcond_t*>(crcalloc(1, sizeof(crcond_t)));
    const auto wait = [](void* timed) -> void* {
      crmutex_lock(&s->mutex);
      s->waiting++;
      crcond_t* c = cond;
      while (!s->gone) {
        const timespec t = from_now_ms(timed == nullptr ? 10000 : 0);
        crcond_timedwait(c, &s->mutex, &t);
      }
      crmutex_unlock(&s->mutex);
      return nullptr;
    };
    int flag;
    crthread_t t[3] = {start(wait), start(wait), start(wait, &flag)};
    while (s->waiting < 3) usleep(50);
    crmutex_lock(&s->mutex);
    s->gone = true;
    crcond_broadcast(cond);
    cr_assert_eq(crcond_destroy(cond), 0);
    memset(static_cast<void*>(cond.load()), 0xee, sizeof(crcond_t));
    crmutex_unlock(&s->mutex);
    for (crthread_t one : t) join(one);
    for (const uint64_t word : cond.load()->opaque_) cr_assert_eq(word, 0xeeeeeeeeeeeeeeeeu);
    crfree(cond);
    crfree(s);
  }
}
