/* SPDX-License-Identifier: MIT */
/*
 * checkpoint_restore.h - the public C API of libcheckpoint_restore.
 *
 * A program that links the library (or is started by crrun, which preloads it) can have its whole
 * process saved to an image directory and brought back after a crash. This is the only header that
 * is installed. Everything here is plain C and usable from C89 with C99 integer types, and C++.
 *
 * Conventions: int functions return 0 or -1 with errno, pointer functions NULL with errno, except
 * the crmutex/crcond/crsem/crbarrier/crthread families, which return 0 or an error number as their
 * POSIX counterparts do (crsem_* use -1/errno, as sem_* do). crerror() gives the text of the last
 * failure of the calling thread. The "Context" line of each comment says thread-safe,
 * async-signal-safe, may block, callable from a hook.
 */
#ifndef CHECKPOINT_RESTORE_H
#define CHECKPOINT_RESTORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CR_VERSION_MAJOR 0
#define CR_VERSION_MINOR 1
#define CR_VERSION_PATCH 0

#if defined(__GNUC__)
#define CR_API __attribute__((visibility("default")))
#define CR_WARN_UNUSED __attribute__((warn_unused_result))
#define CR_RETURNS_TWICE __attribute__((returns_twice))
#else
#define CR_API
#define CR_WARN_UNUSED
#define CR_RETURNS_TWICE
#endif

/* ------------------------------------------------------------------------- session ---------- */

/* crattr.flags */
/* if the image directory holds a whole image, become the restored process */
#define CR_RESUME 0x1u
/* with CR_RESUME: an unusable image is reported, and a fresh start is made */
#define CR_RESUME_LENIENT 0x2u

/* crattr.durable and crrun --durable: what a committed checkpoint survives. */
#define CR_DURABLE_POWER 0u /* barriers are fdatasync: survives power loss (default) */
/* no fdatasync: survives the death of any program, not of the machine */
#define CR_DURABLE_CRASH 1u

/* crattr.interval_seconds: the interval is chosen, and follows, by what checkpoints cost the
 * program: at most 1 % of its time (crrun -i auto has more to choose) */
#define CR_INTERVAL_AUTO (-1.0)

/* Set size to sizeof(struct crattr) and the rest to zero (CRATTR_INIT does); zero means default.
 * Later versions append fields; a smaller size from an older program is accepted. */
struct crattr {
  uint32_t size;             /* sizeof(struct crattr) as the caller was compiled */
  uint32_t flags;            /* CR_RESUME ... */
  const char *image_dir;     /* default: $CR_IMAGE_DIR, else "./<program>.image"; copied */
  /* seconds between automatic checkpoints, at least 0.001; 0: none (default); CR_INTERVAL_AUTO */
  double interval_seconds;
  /* address space reserved for the nvheap; default 1 TiB, halved until it fits */
  uint64_t heap_reserve_bytes;
  /* default stack of a CR-thread; default: RLIMIT_STACK soft limit or 8 MiB */
  uint64_t stack_bytes;
  /* bound of the staging memory; default 0: as much as a checkpoint needs */
  uint64_t staging_bytes;
  uint32_t durable;          /* CR_DURABLE_POWER or CR_DURABLE_CRASH */
  /* enum crtracker: how the pages are found that have changed, as crrun --track; default 0: the
   * best that this machine has. What it does not have is an error (ENOTSUP). */
  uint32_t track;
  /* Keeping checkpoints beyond this machine, by the node's crstored, as the options of crrun of the
   * same names say. All are copied. */
  const char *protect;       /* "none", "replica:R", "xor:G", "rs:K+M"; NULL: not protected */
  const char *name;          /* of the session; default: that of image_dir without ".image" */
  uint64_t flush_every;      /* every k-th checkpoint is flushed; 0: what crstored was told */
  double flush_interval_seconds; /* ... so often; 0: likewise. One of the two only with protect */
  const char *store_socket;  /* crstored's; default: $CR_STORE_SOCKET, see docs/store.md */
};
#define CRATTR_INIT {sizeof(struct crattr), 0, NULL, 0.0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0.0, NULL}

/* Start the session: make the control thread and the agent process, reserve the nvheap.
 * attr: NULL for defaults; not kept. Under crrun the session exists already: crinit() then only
 *   applies interval_seconds if it is not 0; image_dir, protect and what goes with it are ignored.
 * Returns 0; -1 on failure. Calling it again is an error (EALREADY) that changes nothing.
 * With CR_RESUME and a whole image the call does not return: the calling process is replaced by
 *   the restored program, which continues where its checkpoint was taken.
 * Errors: EINVAL attr is malformed; EALREADY; EACCES/ENOTDIR/ENOSPC the image directory cannot be
 *   made or written; EBUSY another live session uses the directory; ENOENT the agent program is not
 *   found (set CR_AGENT); ENOTSUP crattr.track is a way that this machine does not have; ENOMEM;
 *   EBADMSG with CR_RESUME: the image is damaged. On failure no
 *   session exists and nothing was written to an existing image. That crstored is not there is no
 *   failure: checkpoints stay on this node, crstatus() says so, and it is tried again.
 * Durability: none. Context: thread-safe: yes; async-signal-safe: no; may block: yes; hook: no. */
CR_API int crinit(struct crattr *attr);

#define CR_RESTORED 1

/* Take a checkpoint of the whole process. RETURNS TWICE, as fork(2) does:
 *   0 in the running process once the checkpoint is captured: its pages and everything else of it
 *     are with the agent, which writes it while the program goes on, also if the program dies;
 *     checkpoint_wait() tells whether it became whole,
 *   CR_RESTORED (1) in the process brought back from it (crrestore, restore(), CR_RESUME),
 *   -1 with errno if it could not be taken; the program and older checkpoints are untouched.
 * A checkpoint that is asked for while the last one is being written begins when that is whole.
 * Errors: EPERM not initialised or stopping threads is not allowed; ENOTSUP something that cannot
 *   be saved is open (crerror() names it); ENOSPC/EFBIG/EIO writing failed, if it had to be written
 *   before the program could go on; ETIMEDOUT a thread could not be stopped; EPIPE the agent is
 *   gone; ENOMEM staging memory.
 * Durability: none yet, see checkpoint_wait(). Context: thread-safe: yes (concurrent calls share
 * one checkpoint); async-signal-safe: no; may block: yes; hook: no (EDEADLK). */
CR_API int checkpoint(void) __asm__("crcheckpoint") CR_RETURNS_TWICE;

#define CR_LEVEL_MEMORY 0 /* written and committed: survives the death of program and agent */
#define CR_LEVEL_DISK 1   /* on stable storage: survives the machine's (CR_DURABLE_POWER) */
#define CR_LEVEL_NODES 2  /* on other nodes too: survives the loss of this one (crrun --protect) */
#define CR_LEVEL_SHARED 3 /* on a shared file system: survives that of all (crstored --flush) */

/* Wait until the newest checkpoint that was captured, by whomever it was asked for, has got to a
 * level; a newer one that gets there first is as good.
 * level: CR_LEVEL_MEMORY: it is whole in the image directory.
 *   CR_LEVEL_DISK, which needs CR_DURABLE_POWER (default) and means what the file system of the
 *   image directory makes of fdatasync: on tmpfs nothing.
 *   CR_LEVEL_NODES: so many parts of it lie on other nodes, in their stores, that it could be
 *   brought back without this node. Nodes that cannot be reached now do not count, parts or not.
 *   CR_LEVEL_SHARED: it is whole in the directory of crstored --flush. It is flushed for this call,
 *   whether it is a chosen one (flush_every) or not.
 * For the last two, a checkpoint that is on its way is waited for however long that takes. If
 * something keeps it from getting there, that may pass; with trouble for 10 seconds without a break
 * (which were over already, perhaps, when the call came) it is an error. crstored goes on trying
 * all the same; call again to wait on. Who is restored in this call goes on waiting, for the
 * checkpoint that has come back.
 * Returns 0; -1 with errno: for the first two levels the newest whole checkpoint is then an older
 *   one; for the others see crstatus().
 * Errors: what writing it failed with (ENOSPC, EFBIG, EIO ...; crerror() has the words); ENOENT no
 *   checkpoint was captured in this process; EINVAL; ENOTSUP this session's checkpoints never get
 *   to that level: it is not protected, or by "none" (CR_LEVEL_NODES), or crstored has no directory
 *   to flush to; EHOSTUNREACH CR_LEVEL_NODES: crstored or too many other nodes cannot be reached,
 *   or fail; EIO CR_LEVEL_SHARED: crstored cannot be reached, or flushing fails; EPERM not
 *   initialised; EPIPE the agent is gone. crerror() names the object, the cause and the next step.
 * Durability: as `level` says. Context: thread-safe: yes; async-signal-safe: no; may block: yes;
 * hook: no (EDEADLK). */
CR_API int checkpoint_wait(int level) __asm__("crcheckpoint_wait");

/* Roll the running process back to its newest whole checkpoint. On success it does not return
 * here: the thread that called checkpoint() sees CR_RESTORED; all other threads are where they
 * were. Threads made since are gone, ended ones are back. Only what has changed is put back; where
 * that is not possible (crstatus() says why) the process begins anew from the image. If it fails
 * half-way, or its agent is killed just then, the program is killed and the image is as it was.
 * Returns -1 on failure, and CR_RESTORED if the newest checkpoint was taken while this call was
 * under way (then this thread comes back inside it). Errors: EPERM not initialised; ENOENT no
 *   whole checkpoint yet; EBADMSG it is damaged; others as for checkpoint(). The process then runs
 *   on unchanged.
 * Context: thread-safe: yes; async-signal-safe: no; may block: yes; hook: no. */
CR_API int restore(void) __asm__("crrestore_self");

/* A program that cannot use the short names may use these. */
CR_API int crcheckpoint(void) CR_RETURNS_TWICE;
CR_API int crcheckpoint_wait(int level);
CR_API int crrestore_self(void);

enum crhook_when {
  CR_HOOK_BEFORE_CHECKPOINT = 0, /* before the program is stopped */
  CR_HOOK_AFTER_CHECKPOINT = 1,  /* when the checkpoint is whole or has failed; checkpoint() waits
                                  * for that if there is such a hook */
  CR_HOOK_AFTER_RESTORE = 2      /* in the restored process */
};
typedef void (*crhook_fn)(void *arg);
/* Register fn(arg). At most 64. Before-hooks run in reverse order of registration, after-hooks in
 * order. For checkpoint() they run in the calling thread (after a restore: before it returns
 * CR_RESTORED there); for all other checkpoints (interval, crckpt) on a thread of the library's,
 * made by the first crhook(), beside the running threads of the program; hooks that take longer
 * than 30 s are no longer waited for. Hooks must not call checkpoint(), restore() or crinit().
 * Returns 0, or -1: EINVAL, ENOSPC, EAGAIN (no thread).
 * Context: thread-safe: yes; async-signal-safe: no; may block: yes; from a hook: no. */
CR_API int crhook(enum crhook_when when, crhook_fn fn, void *arg);

/* In a restored process, the value that crrestore --env NAME=VALUE gave, for hooks to look at
 * (CR_HOOK_AFTER_RESTORE) and whoever else; NULL: none was given, or this process was not restored.
 * getenv() gives what it gave at the checkpoint. Valid until the next restore.
 * Context: thread-safe: yes; async-signal-safe: yes; may block: no; from a hook: yes. */
CR_API const char *crrestore_env(const char *name);

/* Leave [ptr, ptr+len) out of checkpoints; after a restore it reads as zeros. Only the whole pages
 * inside the range are left out. len 0 removes an earlier exclusion that begins at ptr. At most
 * 256 ranges.
 * Returns 0 or -1: EINVAL, ENOSPC, ENOENT (nothing to remove).
 * Context: thread-safe: yes; signal-safe: no; blocks: no; hook: yes. */
CR_API int crexclude(void *ptr, size_t len);

/* crstatus.tracker: how a session knows which pages a checkpoint must copy */
enum crtracker {
  CR_TRACKER_UNKNOWN = 0,     /* there was no checkpoint yet */
  CR_TRACKER_EVERYTHING = 1,  /* it does not know: all pages are copied */
  CR_TRACKER_USERFAULTFD = 2, /* the kernel marks pages that are written (Linux 6.7) */
  CR_TRACKER_SOFT_DIRTY = 3,  /* the soft-dirty bits of the page tables */
  CR_TRACKER_HASH = 4         /* checksums of all pages are compared */
};

struct crstatus {
  uint32_t size;            /* in: sizeof(struct crstatus) */
  uint32_t attached;        /* 1: the agent is there and checkpoints can be taken */
  uint64_t epoch;           /* rises at every restore */
  uint64_t sequence;        /* newest whole checkpoint; 0: none */
  uint64_t attempts;        /* checkpoints tried in this epoch */
  uint64_t failures;        /* of these, failed */
  uint64_t image_bytes;     /* bytes written for the newest */
  uint64_t pause_ns;        /* how long the program stood still for it */
  uint64_t commit_ns;       /* from its trigger until it was whole */
  uint64_t realtime_ns;     /* CLOCK_REALTIME of its commit */
  double interval_seconds;  /* 0: no automatic checkpoints */
  uint64_t heap_bytes_in_use;
  uint64_t heap_reserve_bytes;
  char image_dir[4096];
  char last_error[512];     /* why the newest attempt failed; "" if it did not */
  uint32_t interval_auto;   /* 1: interval_seconds is chosen by what checkpoints cost */
  uint32_t tracker;         /* enum crtracker, of the newest attempt */
  double overhead_percent;  /* of its time, that the program lost to its last checkpoints */
  uint64_t changed_bytes;   /* copied for the newest attempt */
  uint64_t rollbacks;       /* restore() calls of this session that succeeded */
  uint64_t rollbacks_in_place; /* of these, by putting back only what had changed */
  uint64_t rollback_ns;     /* how long the newest of those took */
  char rollback_reason[256]; /* why the newest one began the program anew; "" if it did not */
  uint64_t quick;           /* whole checkpoints that the program captured itself, unstopped */
  uint64_t safe_sequence;   /* newest checkpoint that got to CR_LEVEL_NODES; 0: none */
  uint64_t flushed_sequence; /* newest one that got to CR_LEVEL_SHARED; 0: none */
  uint64_t window_ns;       /* of safe_sequence: from its commit until it got there */
  uint32_t is_kept;         /* 1: crstored has taken this session up */
  /* Bits, 1u << level: something is wrong with CR_LEVEL_NODES or CR_LEVEL_SHARED, and checkpoints
   * survive less than they should; it is tried again. */
  uint32_t degraded;
  char protect[32];         /* "replica:2"; "" this session is not protected */
  char degraded_text[512];  /* what is wrong: object, cause, next step; "" if nothing is */
};
/* Fill *st (st->size set by the caller). Returns 0, or -1: EINVAL, EPERM (no session).
 * Context: thread-safe: yes; async-signal-safe: yes; blocks: no; hook: yes. */
CR_API int crstatus(struct crstatus *st);

/* Text of the calling thread's last failed cr* call; "" if none. Owned by the thread, valid until
 * its next cr* call. Context: thread-safe: yes; signal-safe: no; blocks: no; hook: yes. */
CR_API const char *crerror(void);

/* ------------------------------------------------------------------------- nvheap ----------- */

/* As malloc/calloc/realloc/free, from the nvheap: memory aligned to 16 bytes at an address that is
 * the same in every restored process. Usable before crinit() (the reserve is then the default).
 * Errors: ENOMEM (also for a size that overflows or exceeds the reserve). crfree(NULL) does
 * nothing; crfree of anything that crmalloc did not return, or twice, ends the program with a line
 * that names the address. errno is kept by crfree.
 * Context: thread-safe: yes; async-signal-safe: no; may block: yes (briefly); hook: yes. */
CR_API void *crmalloc(size_t size) CR_WARN_UNUSED;
CR_API void *crcalloc(size_t count, size_t size) CR_WARN_UNUSED;
CR_API void *crrealloc(void *ptr, size_t size) CR_WARN_UNUSED;
CR_API void crfree(void *ptr);
/* Bytes usable at ptr (>= the size asked for); 0 for NULL. Context: as crmalloc. */
CR_API size_t crmalloc_usable_size(void *ptr);
/* A block whose address is a multiple of alignment, a power of two; size need not be one of it.
 * Free it with crfree. craligned_alloc: NULL with EINVAL or ENOMEM; crposix_memalign returns 0,
 * EINVAL (also if alignment is no multiple of sizeof(void *)) or ENOMEM, leaves *ret_block alone on
 * failure and errno always. Context: as crmalloc. */
CR_API void *craligned_alloc(size_t alignment, size_t size) CR_WARN_UNUSED;
CR_API int crposix_memalign(void **ret_block, size_t alignment, size_t size);
/* Give memory that holds no block back to the system, all but keep_bytes of it. By itself the heap
 * keeps some 4 MiB and an eighth of what is in use, more for a second. Slabs of other running
 * threads are left alone.
 * Returns the bytes given back. Context: as crmalloc. */
CR_API size_t crmalloc_trim(size_t keep_bytes);

struct crheap_stats {
  uint32_t size;             /* in: sizeof(struct crheap_stats) */
  uint32_t reserved;
  uint64_t reserve_bytes;    /* address space set aside */
  uint64_t grown_bytes;      /* of it, used so far: what lies above was never touched */
  uint64_t small_bytes;      /* live blocks up to 16 KiB, each rounded up to its size class */
  uint64_t slab_bytes;       /* the 64 KiB slabs that they lie in */
  uint64_t large_bytes;      /* live larger blocks and stacks of CR-threads, in whole pages */
  uint64_t free_bytes;       /* pages without any block */
  uint64_t free_kept_bytes;  /* of these, kept for the next blocks, not given back to the system */
};
/* Fill *st (st->size set by the caller). Momentary values; all 0 before the first allocation.
 * Returns 0, or -1: EINVAL. Context: thread-safe: yes; async-signal-safe: no; may block: yes
 * (briefly); hook: yes. */
CR_API int crheap_stats(struct crheap_stats *st);
/* The same as one JSON object, in the way of snprintf: at most size bytes with the closing 0 are
 * written, and the length it has (without that 0) is returned. Context: as crheap_stats. */
CR_API int crheap_stats_json(char *buffer, size_t size);
/* Call each(block, usable bytes, arg) for every live block, lowest address first, until it returns
 * other than 0; that value, else 0, is returned. Only while no other thread allocates or frees;
 * `each` must not either. Context: thread-safe: no; async-signal-safe: no; hook: yes. */
CR_API int crheap_walk(int (*each)(void *block, size_t bytes, void *arg), void *arg);
/* Look through all records of the heap. NULL if they agree with each other; else one sentence (not
 * to be freed) about the first that does not: the program has written where it should not, or the
 * library is at fault. Takes time by the size of the heap. Context: as crheap_walk. */
CR_API const char *crheap_check(void);

/* Named roots: by these names a restored or later program finds its data in the heap. A name has 1
 * to 55 bytes and is copied. A NULL block removes the name. At most 256 names.
 * crroot_set returns 0, or -1: EINVAL (the name, or block is no address in the heap), ENOENT
 * (nothing to remove), ENOSPC (256 names), ENOMEM. crroot_get returns NULL if there is none (errno
 * is kept). crroot_list fills in at most `most` names (owned by the heap, valid until removed) and
 * blocks, and returns how many there are. Durability: as the heap's data, at the next checkpoint.
 * Context: thread-safe: yes; async-signal-safe: no; may block: yes (briefly); hook: yes. */
CR_API int crroot_set(const char *name, void *block);
CR_API void *crroot_get(const char *name);
CR_API size_t crroot_list(const char **ret_names, void **ret_blocks, size_t most);

/* A heap that outlives its program, without a process image. crheap_open maps the heap of the
 * newest whole image in image_dir (NULL: as crattr.image_dir) at its old address into this program,
 * which may be another one, or another build of the same; the named roots lead to the data.
 * Pointers in the heap to functions, or to anything outside it, mean nothing in another program. It
 * must come before the first crmalloc; a process can open one heap, once, and has no other session.
 *   CR_HEAP_CREATE        an empty heap if there is no whole image yet
 *   CR_HEAP_READ_ONLY     crheap_commit fails with EROFS; the only way to open the image of a whole
 *                         process. The memory itself is writable, for this process alone.
 *   CR_HEAP_DURABLE_CRASH commits survive a crash of the program, not of the machine
 * Every page of the image is verified first. Returns 0, or -1 with nothing changed: EINVAL flags;
 *   EBUSY a heap or session is in use here, or another process has the directory open; ENOENT no
 *   whole image, or no heap in it; EBADMSG the image is damaged; EEXIST the image of a whole
 *   process; ENOTSUP a heap of another version of this library; ENOMEM; as crinit() about the
 *   directory.
 * Context: thread-safe: yes; async-signal-safe: no; may block: yes; hook: no. */
#define CR_HEAP_CREATE 1u
#define CR_HEAP_READ_ONLY 2u
#define CR_HEAP_DURABLE_CRASH 4u
CR_API int crheap_open(const char *image_dir, unsigned flags);
/* Make the heap as it is now the newest whole image: failure-atomic, whatever dies meanwhile, a
 * later crheap_open finds this state or the one of the commit before. The caller sees to it that
 * the data is consistent; other threads stand still while it is copied. Returns 0, or -1 and the
 * images are as they were: EPERM no heap is open; EROFS; ENOSPC/EFBIG/EIO writing failed; EPIPE the
 * agent is gone; ETIMEDOUT a thread could not be stopped. Durability: when it returns 0, against a
 * crash of the machine (fdatasync), with CR_HEAP_DURABLE_CRASH against that of the program.
 * Context: thread-safe: yes; async-signal-safe: no; may block: yes; hook: no. */
CR_API int crheap_commit(void);
/* End the session; what was not committed will not be found again. The memory stays mapped until
 * the process ends. Returns 0, or -1: EPERM. Context: as crheap_commit. */
CR_API int crheap_close(void);

/* ------------------------------------------------------------------------- CR-threads -------- */

/* Threads that behave as POSIX threads do, on stacks from the nvheap. Types are opaque; objects of
 * the sync types must not be copied. All are saved and restored with the process. */
typedef struct crthread *crthread_t;

typedef struct crthread_attr {
  uint32_t size;        /* sizeof(crthread_attr_t) */
  uint32_t detached;    /* 1: made detached */
  uint64_t stack_bytes; /* 0: default; rounded up to pages, at least 64 KiB */
  uint64_t guard_bytes; /* 0: one page; rounded up */
  const char *name;     /* up to 15 characters; NULL: inherited; copied */
} crthread_attr_t;

/* Returns 0 or EAGAIN (resources), EINVAL, ENOMEM. Context: thread-safe: yes; signal-safe: no. */
CR_API int crthread_create(crthread_t *ret_thread, const crthread_attr_t *attr,
                           void *(*start)(void *), void *arg);
/* Wait for the end of a joinable thread; *ret_value (if not NULL) gets its result or
 * CRTHREAD_CANCELED. Returns 0 or ESRCH, EINVAL (detached or already being joined), EDEADLK. */
CR_API int crthread_join(crthread_t thread, void **ret_value);
CR_API int crthread_detach(crthread_t thread);
CR_API void crthread_exit(void *value) __attribute__((noreturn));
/* The calling thread; works in any thread, also main and plain pthreads (NULL: ENOMEM). */
CR_API crthread_t crthread_self(void);
CR_API int crthread_equal(crthread_t a, crthread_t b);
/* Deferred cancellation at POSIX cancellation points and crthread_testcancel(). */
CR_API int crthread_cancel(crthread_t thread);
CR_API void crthread_testcancel(void);
#define CRTHREAD_CANCELED ((void *)-1)

/* Sync objects: zero-initialised storage plus *_init, or the static initialisers. */
typedef struct crmutex { uint64_t opaque_[8]; } crmutex_t;
typedef struct crcond { uint64_t opaque_[8]; } crcond_t;
typedef struct crsem { uint64_t opaque_[6]; } crsem_t;
typedef struct crbarrier { uint64_t opaque_[6]; } crbarrier_t;
#define CRMUTEX_INITIALIZER {{0}}
#define CRCOND_INITIALIZER {{0}}

enum crmutex_type { CRMUTEX_NORMAL = 0, CRMUTEX_RECURSIVE = 1, CRMUTEX_ERRORCHECK = 2 };
CR_API int crmutex_init(crmutex_t *m, enum crmutex_type type); /* 0, EINVAL */
/* 0, EDEADLK (errorcheck), EAGAIN (recursion depth) */
CR_API int crmutex_lock(crmutex_t *m);
CR_API int crmutex_trylock(crmutex_t *m);                      /* 0, EBUSY, EAGAIN */
/* + ETIMEDOUT, EINVAL */
CR_API int crmutex_timedlock(crmutex_t *m, const struct timespec *abs_realtime);
/* 0, EPERM (errorcheck, recursive) */
CR_API int crmutex_unlock(crmutex_t *m);
CR_API int crmutex_destroy(crmutex_t *m);                      /* 0, EBUSY */

CR_API int crcond_init(crcond_t *c);
/* Wait/timedwait are cancellation points; the mutex is held again when they return or unwind. */
CR_API int crcond_wait(crcond_t *c, crmutex_t *m);             /* 0, EPERM */
/* + ETIMEDOUT, EINVAL */
CR_API int crcond_timedwait(crcond_t *c, crmutex_t *m, const struct timespec *abs_realtime);
CR_API int crcond_signal(crcond_t *c);
CR_API int crcond_broadcast(crcond_t *c);
CR_API int crcond_destroy(crcond_t *c);

CR_API int crsem_init(crsem_t *s, unsigned value);             /* -1: EINVAL */
CR_API int crsem_wait(crsem_t *s);                             /* -1: EINTR */
CR_API int crsem_trywait(crsem_t *s);                          /* -1: EAGAIN */
/* -1: ETIMEDOUT, EINTR, EINVAL */
CR_API int crsem_timedwait(crsem_t *s, const struct timespec *abs_realtime);
/* -1: EOVERFLOW; async-signal-safe */
CR_API int crsem_post(crsem_t *s);
CR_API int crsem_getvalue(crsem_t *s, int *ret_value);
CR_API int crsem_destroy(crsem_t *s);

#define CRBARRIER_SERIAL_THREAD (-1)
CR_API int crbarrier_init(crbarrier_t *b, unsigned count);     /* 0, EINVAL (count 0) */
/* 0, or CRBARRIER_SERIAL_THREAD in one thread */
CR_API int crbarrier_wait(crbarrier_t *b);
CR_API int crbarrier_destroy(crbarrier_t *b);                  /* 0, EBUSY */

#ifdef __cplusplus
}
#endif
#endif /* CHECKPOINT_RESTORE_H */
