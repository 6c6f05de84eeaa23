// SPDX-License-Identifier: MIT
// bad_use.h - the end of a program that misuses the heap.
// Context: N, with no lock of the heap held.
#pragma once

namespace cr::nvheap {

// Prints one line with the call, the address and the reason, with CR_HEAP_DEBUG=1 also the calls
// that led here (through libunwind, if that can be loaded), and aborts.
[[noreturn]] void die(const char* call, const void* block, const char* why);

}  // namespace cr::nvheap
