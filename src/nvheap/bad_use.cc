// SPDX-License-Identifier: MIT
// bad_use.cc - see bad_use.h.
// Invariant: the line comes first, by one raw write; what may fail comes after.
// Context: N.
#include "nvheap/bad_use.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

#include "rawsys/rawsys.h"

namespace cr::nvheap {
namespace {

void print_calls() {
  static bool printing = false;
  if (printing) return;  // the loading of libunwind came to grief in the heap
  printing = true;
  void* library = dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL);
  auto* backtrace = library == nullptr
                        ? nullptr
                        : reinterpret_cast<int (*)(void**, int)>(dlsym(library, "unw_backtrace"));
  if (backtrace == nullptr) {
    static constexpr char kMissing[] = "  (no backtrace: libunwind.so.8 is not installed)\n";
    rawsys::sys_write(2, kMissing, sizeof(kMissing) - 1);
    return;
  }
  void* calls[64];
  const int n = backtrace(calls, 64);
  for (int i = 0; i < n; i++) {
    Dl_info info{};
    const int known = dladdr(calls[i], &info);
    rawsys::LineBuffer<400> line;
    line.text("  #").dec(static_cast<uint64_t>(i)).text(" ");
    line.hex(reinterpret_cast<uint64_t>(calls[i]));
    if (known != 0 && info.dli_sname != nullptr) {
      line.text(" ").text(info.dli_sname).text("+");
      line.hex(reinterpret_cast<uint64_t>(calls[i]) - reinterpret_cast<uint64_t>(info.dli_saddr));
    }
    if (known != 0 && info.dli_fname != nullptr) line.text(" in ").text(info.dli_fname);
    line.text("\n");
    rawsys::sys_write(2, line.c_str(), line.size());
  }
}

}  // namespace

void die(const char* call, const void* block, const char* why) {
  rawsys::LineBuffer<200> line;
  line.text("checkpoint_restore: ").text(call).text("(").hex(reinterpret_cast<uint64_t>(block));
  line.text("): ").text(why).text("\n");
  rawsys::sys_write(2, line.c_str(), line.size());
  const char* debug = getenv("CR_HEAP_DEBUG");
  if (debug != nullptr && debug[0] == '1' && debug[1] == 0) print_calls();
  abort();
}

}  // namespace cr::nvheap
