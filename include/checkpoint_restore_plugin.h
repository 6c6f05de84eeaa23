/* SPDX-License-Identifier: MIT */
/*
 * checkpoint_restore_plugin.h - plug-ins: code that saves and makes anew what checkpoint_restore
 * refuses, descriptors and mappings of a kind that only their owner knows how to bring back.
 *
 * A plug-in is a shared object that is loaded into the program (crrun --plugin FILE.so, or
 * CR_PLUGINS) and registers itself in a constructor, or it is a part of the program. It claims
 * kinds of descriptors and mappings by name. Of a claimed descriptor nothing is saved but its
 * number; of a claimed mapping nothing but its place. What is to come back the plug-in keeps in its
 * own memory, which is saved and restored with the program's.
 *
 * Where the callbacks run: docs/ARCHITECTURE.md, "Plug-ins". In short: all threads are stopped, at
 * any instruction, so a lock of the C library may be held; every signal is blocked. A callback may
 * make system calls and touch its own memory, and nothing else: no malloc, stdio or locks; not
 * nanosleep, poll or a futex with a timeout (ppoll is allowed), which would take away what the
 * kernel knows of the call that the thread was in. It has 8 KiB of stack and two seconds. errno is
 * put back afterwards.
 */
#ifndef CHECKPOINT_RESTORE_PLUGIN_H
#define CHECKPOINT_RESTORE_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CRPLUGIN_VERSION 1
#define CRPLUGIN_MOST 8 /* that one program may register */

struct crplugin {
  uint32_t version; /* CRPLUGIN_VERSION */
  uint32_t size;    /* sizeof(struct crplugin) */
  char name[32];    /* for messages */
  /* What /proc/PID/fd/N leads to, and the name of a mapping in /proc/PID/maps, begin with this:
     then they are this plug-in's. "": none are. They begin with "anon_inode:" or "/dev/". */
  char descriptors[64];
  char mappings[64];
  /*
   * Called by crplugin_register(), where everything is allowed: can it do its work here? 0 or an
   * errno, which crplugin_register() then fails with. NULL: always.
   */
  int (*probe)(void *context);
  /*
   * Called at each checkpoint, in the stop, in a thread of the program, before memory is copied. It
   * must leave what it claims so that all of it is in its memory: nothing under way in the kernel.
   * It may map memory of its own. 0, or an errno: then the checkpoint is refused with the text that
   * it has put into why[size], and the program runs on.
   */
  int (*save)(void *context, char *why, size_t size);
  /*
   * Called in a restored process, in its main thread, before any thread of the program runs. Memory
   * is as it was; each claimed descriptor is open as /dev/null under its numbers, and each claimed
   * mapping is memory full of zeros: it puts its objects in their places (dup3, MAP_FIXED). 0, or
   * an errno: then the restore fails, and the process ends.
   */
  int (*restore)(void *context);
  void *context; /* given to each */
};

/*
 * Registers a plug-in. The struct is copied.
 *
 * Parameters: plugin: as above.
 * Returns: 0, or -1 and errno.
 * Errors: EINVAL: another version, or a name or callback is missing, or it claims what cannot be
 * claimed. ENOSPC: CRPLUGIN_MOST are registered. EEXIST: one of this name is. Others: from probe().
 * Durability: none.
 * thread-safe: yes; async-signal-safe: no; may block: as probe(); from a hook: yes.
 */
int crplugin_register(const struct crplugin *plugin);

#ifdef __cplusplus
}
#endif

#endif /* CHECKPOINT_RESTORE_PLUGIN_H */
