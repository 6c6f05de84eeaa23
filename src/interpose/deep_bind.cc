// SPDX-License-Identifier: MIT
// deep_bind.cc - libraries that are loaded by RTLD_DEEPBIND (PHP's and Apache's extensions) look
// for functions among their own dependencies first: they would find the C library's malloc and free
// where the program has ours, and give one's blocks to the other; and files that they change would
// not be noticed. So they are loaded without that flag.
// Invariant: whose library is loaded, and from where, is as without us.
// Context: N. Doc: docs/ARCHITECTURE.md, "Interposed malloc".
#include <dlfcn.h>

extern "C" {
__attribute__((visibility("hidden"))) void* cr_next_dlopen;
__attribute__((visibility("hidden"))) void* cr_next_dlmopen;
__attribute__((visibility("hidden"))) void* cr_no_dlopen(const void*, const void*, int);
__attribute__((visibility("hidden"))) void cr_find_dlopen();
}

// Who calls a function has it from some library, so this is for completeness.
void* cr_no_dlopen(const void*, const void*, int) { return nullptr; }

// May be called more than once at a time: all find the same.
void cr_find_dlopen() {
  const auto find = [](const char* name) {
    void* at = dlsym(RTLD_NEXT, name);
    return at != nullptr ? at : reinterpret_cast<void*>(&cr_no_dlopen);
  };
  __atomic_store_n(&cr_next_dlmopen, find("dlmopen"), __ATOMIC_RELEASE);
  __atomic_store_n(&cr_next_dlopen, find("dlopen"), __ATOMIC_RELEASE);
}
