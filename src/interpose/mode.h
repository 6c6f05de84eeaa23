// SPDX-License-Identifier: MIT
// mode.h - what the preload library does in this program: the environment variable CR_MODE.
// Invariant: the answer never changes in a process, nor in what is restored from its image.
// Context: N, also before libc has read the environment; allocates nothing.
// Doc: docs/man/checkpoint_restore.7, ENVIRONMENT.
#pragma once

namespace cr::interpose {

enum class Mode {
  kAll,     // not set: session and malloc
  kHeap,    // "heap": malloc, and no session
  kEngine,  // "engine": session, and the C library's own malloc
};

Mode mode();
// If CR_MODE is none of these, a line on standard error that says so.
void warn_of_unknown_mode();

}  // namespace cr::interpose
