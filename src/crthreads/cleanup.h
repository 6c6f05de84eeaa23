// SPDX-License-Identifier: MIT
// cleanup.h - pthread_cleanup_push as this library needs it.
// Invariant: compiled with -fno-exceptions, where the macro is setjmp and two calls into libc; its
// other form, a C++ object, would need libstdc++. What a handler needs lies in an object whose
// address it gets, not in locals, which may be in registers that unwinding clobbers.
// Context: N.
#pragma once

#include <pthread.h>

#if defined(__EXCEPTIONS) && !defined(__clang_analyzer__)
#error "compile with -fno-exceptions"
#endif
