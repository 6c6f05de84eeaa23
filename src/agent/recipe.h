// SPDX-License-Identifier: MIT
// recipe.h - system calls that the restored process, or a program that is rolled back in place,
// makes to bring an object of its kernel state back.
// Invariant: refers to nothing but its own data and results, and to ids as they were at the
// checkpoint; so the same recipe serves both ways.
// Context: N (agent).
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "format/calls.h"

namespace cr::agent {

struct Arg {
  uint64_t value;
  format::ArgKind kind = format::kArgPlain;
  // Numbers of all kinds are the usual arguments.
  template <typename T>
  Arg(T v) : value(static_cast<uint64_t>(v)) {}  // NOLINT(google-explicit-constructor)
  Arg(uint64_t v, format::ArgKind k) : value(v), kind(k) {}
};

class Recipe {
 public:
  // What a call points to.
  Arg data(const void* bytes, size_t n);
  static Arg result(size_t call) { return {call, format::kArgResult}; }
  static Arg id(pid_t at_checkpoint) {
    return {static_cast<uint64_t>(at_checkpoint), format::kArgId};
  }
  // what: for the message should it fail, "fd 3 (...): its lock". Returns the call's number.
  size_t call(const std::string& what, uint64_t nr, std::initializer_list<Arg> args,
              uint32_t flags = 0, int64_t wanted = 0);
  // Makes its only call here; the result, or -errno.
  long run_here() const;

  const std::vector<format::Call>& calls() const { return calls_; }
  const std::vector<std::string>& whats() const { return whats_; }
  const std::string& bytes() const { return bytes_; }
  bool empty() const { return calls_.empty(); }

 private:
  std::vector<format::Call> calls_;
  std::vector<std::string> whats_;
  std::string bytes_;
};

// What brings a process's objects back when its descriptors are in their places.
struct Recipes {
  Recipe early;  // may fail because of others; before any file is changed
  Recipe late;   // what would notice the rest of the restore, or what time counts for
};

}  // namespace cr::agent
