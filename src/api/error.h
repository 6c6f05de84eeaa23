// SPDX-License-Identifier: MIT
// error.h - the calling thread's error text behind crerror().
// Invariant: a fixed buffer per thread; never allocates. Context: N.
#pragma once

#include "base/base.h"

namespace cr::api {

// Sets the text of crerror() for this thread.
void set_error(const char* text);
// Sets errno and the text "<what>: <detail>: <errno name>", and returns -1.
int fail(const Error& e, const char* detail = nullptr);

}  // namespace cr::api
