// SPDX-License-Identifier: MIT
// recipe.cc - see recipe.h. Invariant: as there. Context: N (agent).
#include "agent/recipe.h"

#include "format/make_call.h"

namespace cr::agent {

Arg Recipe::data(const void* bytes, size_t n) {
  bytes_.resize((bytes_.size() + 15) & ~size_t{15}, '\0');
  const uint64_t at = bytes_.size();
  bytes_.append(static_cast<const char*>(bytes), n);
  return {at, format::kArgData};
}

size_t Recipe::call(const std::string& what, uint64_t nr, std::initializer_list<Arg> args,
                    uint32_t flags, int64_t wanted) {
  format::Call c{};
  c.nr = nr;
  c.flags = flags;
  c.result = wanted;
  uint32_t i = 0;
  for (const Arg& a : args) {
    c.args[i] = a.value;
    c.arg_kinds |= static_cast<uint32_t>(a.kind) << (i * format::kArgKindBits);
    i++;
  }
  calls_.push_back(c);
  whats_.push_back(what);
  return calls_.size() - 1;
}

long Recipe::run_here() const {
  std::string bytes = bytes_;
  format::Call c = calls_.front();
  const format::CallSurroundings here{reinterpret_cast<uint64_t>(bytes.data()), nullptr, nullptr};
  (void)format::make_call(&c, c, here);
  return c.result;
}

}  // namespace cr::agent
