// SPDX-License-Identifier: MIT
// threads_api.cc - CR-threads and sync objects as the C API shows them.
// Invariant: the opaque storage of each type holds one object of src/crthreads, whose initial state
// is all zero; crsem_* report by -1 and errno, the others by an error number.
// Context: N; crsem_post also in signal handlers. Doc: include/checkpoint_restore.h.
#include <errno.h>
#include <pthread.h>

#include "checkpoint_restore.h"
#include "crthreads/crthreads.h"

namespace {

namespace threads = cr::crthreads;

template <typename Object, typename Opaque>
Object& object_in(Opaque* storage) {
  static_assert(sizeof(Object) <= sizeof(Opaque) && alignof(Object) <= alignof(Opaque));
  return *reinterpret_cast<Object*>(storage);
}
threads::Mutex& mutex_in(crmutex_t* m) { return object_in<threads::Mutex>(m); }
threads::Cond& cond_in(crcond_t* c) { return object_in<threads::Cond>(c); }
threads::Sem& sem_in(crsem_t* s) { return object_in<threads::Sem>(s); }
threads::Barrier& barrier_in(crbarrier_t* b) { return object_in<threads::Barrier>(b); }

int minus_one_if(int error) {
  if (error == 0) return 0;
  errno = error;
  return -1;
}

}  // namespace

extern "C" {

int crthread_create(crthread_t* ret_thread, const crthread_attr_t* attr, void* (*start)(void*),
                    void* arg) {
  return threads::create(ret_thread, attr, start, arg);
}
int crthread_join(crthread_t thread, void** ret_value) { return threads::join(thread, ret_value); }
int crthread_detach(crthread_t thread) { return threads::detach(thread); }
void crthread_exit(void* value) { threads::exit_thread(value); }
crthread_t crthread_self(void) {
  crthread_t thread = threads::self();
  if (thread == nullptr) errno = ENOMEM;
  return thread;
}
int crthread_equal(crthread_t a, crthread_t b) { return a == b; }
int crthread_cancel(crthread_t thread) { return threads::cancel(thread); }
void crthread_testcancel(void) { pthread_testcancel(); }

int crmutex_init(crmutex_t* m, enum crmutex_type type) {
  return threads::mutex_init(mutex_in(m), static_cast<uint32_t>(type));
}
int crmutex_lock(crmutex_t* m) { return threads::mutex_lock(mutex_in(m), nullptr); }
int crmutex_trylock(crmutex_t* m) { return threads::mutex_trylock(mutex_in(m)); }
int crmutex_timedlock(crmutex_t* m, const struct timespec* abs_realtime) {
  if (abs_realtime == nullptr) return EINVAL;
  return threads::mutex_lock(mutex_in(m), abs_realtime);
}
int crmutex_unlock(crmutex_t* m) { return threads::mutex_unlock(mutex_in(m)); }
int crmutex_destroy(crmutex_t* m) { return threads::mutex_destroy(mutex_in(m)); }

int crcond_init(crcond_t* c) {
  cond_in(c).waiters.store(0, std::memory_order_relaxed);
  return 0;
}
int crcond_wait(crcond_t* c, crmutex_t* m) {
  return threads::cond_wait(cond_in(c), mutex_in(m), nullptr);
}
int crcond_timedwait(crcond_t* c, crmutex_t* m, const struct timespec* abs_realtime) {
  if (abs_realtime == nullptr) return EINVAL;
  return threads::cond_wait(cond_in(c), mutex_in(m), abs_realtime);
}
int crcond_signal(crcond_t* c) {
  threads::cond_signal(cond_in(c));
  return 0;
}
int crcond_broadcast(crcond_t* c) {
  threads::cond_broadcast(cond_in(c));
  return 0;
}
int crcond_destroy(crcond_t* c) { return threads::cond_destroy(cond_in(c)); }

int crsem_init(crsem_t* s, unsigned value) {
  return minus_one_if(threads::sem_init(sem_in(s), value));
}
int crsem_wait(crsem_t* s) { return minus_one_if(threads::sem_wait(sem_in(s), nullptr)); }
int crsem_trywait(crsem_t* s) { return minus_one_if(threads::sem_trywait(sem_in(s))); }
int crsem_timedwait(crsem_t* s, const struct timespec* abs_realtime) {
  if (abs_realtime == nullptr) return minus_one_if(EINVAL);
  return minus_one_if(threads::sem_wait(sem_in(s), abs_realtime));
}
int crsem_post(crsem_t* s) { return minus_one_if(threads::sem_post(sem_in(s))); }
int crsem_getvalue(crsem_t* s, int* ret_value) {
  *ret_value = threads::sem_value(sem_in(s));
  return 0;
}
int crsem_destroy(crsem_t*) { return 0; }

int crbarrier_init(crbarrier_t* b, unsigned count) {
  return threads::barrier_init(barrier_in(b), count);
}
int crbarrier_wait(crbarrier_t* b) { return threads::barrier_wait(barrier_in(b)); }
int crbarrier_destroy(crbarrier_t* b) { return threads::barrier_destroy(barrier_in(b)); }

}  // extern "C"
