// SPDX-License-Identifier: MIT
// erasure.cc - the coding by ISA-L. Invariant: as erasure.h; no length and no alignment is given to
// ISA-L that it does not take. Context: N. Doc: docs/store.md.
#include "store/erasure.h"

#include <isa-l.h>
#include <string.h>

#include <algorithm>
#include <bit>

namespace cr::store {
namespace {

constexpr size_t kTableBytes = 32;          // of ISA-L, for each coefficient
constexpr size_t kMostCallBytes = 1 << 30;  // its lengths are of type int
constexpr size_t kCacheBytes = 1 << 15;     // what is read and written again stays in the cache
constexpr size_t kXorAlign = 32;            // xor_gen(3)'s
constexpr size_t kMostPlans = 256;          // patterns of loss; then the cache starts anew

std::vector<unsigned> members_of(PartSet set) {
  std::vector<unsigned> v;
  for (; set != 0; set &= set - 1) v.push_back(static_cast<unsigned>(std::countr_zero(set)));
  return v;
}

PartSet first_parts(unsigned count) {
  return count == 64 ? ~PartSet{0} : (PartSet{1} << count) - 1;
}

// The lowest `count` parts of the set, which has as many.
PartSet lowest(PartSet set, unsigned count) {
  PartSet rest = set;
  for (unsigned i = 0; i < count; i++) rest &= rest - 1;
  return set & ~rest;
}

// ISA-L's pointers are not const, but what it reads it does not write.
uint8_t* readable(const uint8_t* p) { return const_cast<uint8_t*>(p); }

// into ^= from.
void add_to(uint8_t* into, const uint8_t* from, size_t bytes) {
  size_t i = 0;
  for (; i + 32 <= bytes; i += 32) {  // words through locals, so that the compiler takes vectors
    uint64_t x[4], y[4];
    memcpy(x, into + i, sizeof(x));
    memcpy(y, from + i, sizeof(y));
    for (int w = 0; w < 4; w++) x[w] ^= y[w];
    memcpy(into + i, x, sizeof(x));
  }
  for (; i < bytes; i++) into[i] ^= from[i];
}

// ret = sum of the inputs.
void xor_all(const uint8_t* const* in, unsigned inputs, uint8_t* ret, size_t bytes) {
  auto address = reinterpret_cast<uintptr_t>(ret);
  void* array[kMostParts + 1];
  for (unsigned i = 0; i < inputs; i++) {
    address |= reinterpret_cast<uintptr_t>(in[i]);
    array[i] = readable(in[i]);
  }
  array[inputs] = ret;
  // Of fewer than two inputs xor_gen makes nothing.
  if (inputs >= 2 && address % kXorAlign == 0 && bytes > 0 && bytes <= kMostCallBytes &&
      xor_gen(static_cast<int>(inputs) + 1, static_cast<int>(bytes), array) == 0) {
    return;
  }
  for (size_t done = 0; done < bytes; done += kCacheBytes) {
    const size_t n = std::min(kCacheBytes, bytes - done);
    memmove(ret + done, in[0] + done, n);
    for (unsigned i = 1; i < inputs; i++) add_to(ret + done, in[i] + done, n);
  }
}

}  // namespace

Result<std::unique_ptr<Erasure>> Erasure::make(const Protection& protection) {
  if (protection.data < 1 || protection.data > kMostParts || protection.parity >= kMostParts ||
      protection.parts() > kMostParts) {
    return Error{Errc::kInvalid, 0, "a protection of no data parts or of more than 64 parts"};
  }
  return std::unique_ptr<Erasure>(new Erasure(protection));
}

Erasure::Erasure(const Protection& protection)
    : protection_(protection), data_(protection.data), parity_(protection.parity) {
  if (data_ == 1 || parity_ == 1) {
    matrix_.assign(data_ * parity_, 1);
  } else {
    std::vector<uint8_t> whole(protection.parts() * data_);  // identity above
    gf_gen_cauchy1_matrix(whole.data(), static_cast<int>(protection.parts()),
                          static_cast<int>(data_));
    matrix_.assign(whole.begin() + static_cast<ptrdiff_t>(data_) * data_, whole.end());
  }
  const PartSet data_parts = first_parts(data_);
  encode_ = make_plan(data_parts, first_parts(protection.parts()) & ~data_parts);
}

// What each part is of the data columns: a unit vector, or a row of the matrix.
std::vector<uint8_t> Erasure::rows_of(const std::vector<unsigned>& parts) const {
  std::vector<uint8_t> rows(parts.size() * data_);
  for (size_t i = 0; i < parts.size(); i++) {
    uint8_t* row = &rows[i * data_];
    if (parts[i] < data_) {
      row[parts[i]] = 1;
    } else {
      memcpy(row, &matrix_[(parts[i] - data_) * data_], data_);
    }
  }
  return rows;
}

Erasure::Plan Erasure::make_plan(PartSet inputs, PartSet outputs) const {
  Plan plan;
  plan.inputs = members_of(inputs);
  plan.outputs = members_of(outputs);
  plan.ones = data_ == 1 || parity_ <= 1;
  if (plan.ones) return plan;
  // outputs = G_out * data and inputs = G_in * data, so outputs = G_out * G_in^-1 * inputs.
  std::vector<uint8_t> g_in = rows_of(plan.inputs), inverse(data_ * data_);
  const std::vector<uint8_t> g_out = rows_of(plan.outputs);
  (void)gf_invert_matrix(g_in.data(), inverse.data(), static_cast<int>(data_));  // never singular
  std::vector<uint8_t> product(g_out.size());
  for (size_t o = 0; o < plan.outputs.size(); o++) {
    for (unsigned c = 0; c < data_; c++) {
      const uint8_t factor = g_out[o * data_ + c];
      if (factor == 0) continue;
      for (unsigned i = 0; i < data_; i++) {
        product[o * data_ + i] ^= gf_mul(factor, inverse[c * data_ + i]);
      }
    }
  }
  plan.tables.resize(product.size() * kTableBytes);
  ec_init_tables(static_cast<int>(data_), static_cast<int>(plan.outputs.size()), product.data(),
                 plan.tables.data());
  return plan;
}

std::shared_ptr<const Erasure::Plan> Erasure::plan(PartSet inputs, PartSet outputs) const {
  const std::scoped_lock lock(mutex_);
  auto& known = plans_[{inputs, outputs}];
  if (known != nullptr) return known;
  auto made = std::make_shared<const Plan>(make_plan(inputs, outputs));
  if (plans_.size() > kMostPlans) {
    plans_.clear();
    plans_[{inputs, outputs}] = made;
  } else {
    known = made;
  }
  return made;
}

// in: of each of plan.inputs; ret: of each of plan.outputs.
void Erasure::run(const Plan& plan, const uint8_t* const* in, uint8_t* const* ret, size_t bytes) {
  const size_t inputs = plan.inputs.size(), outputs = plan.outputs.size();
  if (plan.ones) {
    for (size_t o = 0; o < outputs; o++) {
      xor_all(in, static_cast<unsigned>(inputs), ret[o], bytes);
    }
    return;
  }
  uint8_t* from[kMostParts];
  uint8_t* to[kMostParts];
  // ISA-L makes up to four or six outputs in one pass; for the next ones it reads the data again.
  const size_t most = outputs > 4 ? kCacheBytes : kMostCallBytes;
  for (size_t done = 0; done < bytes; done += most) {
    for (size_t i = 0; i < inputs; i++) from[i] = readable(in[i]) + done;
    for (size_t o = 0; o < outputs; o++) to[o] = ret[o] + done;
    ec_encode_data(static_cast<int>(std::min(most, bytes - done)), static_cast<int>(inputs),
                   static_cast<int>(outputs), const_cast<uint8_t*>(plan.tables.data()), from, to);
  }
}

void Erasure::encode(const uint8_t* const* data, uint8_t* const* ret_parity, size_t bytes) const {
  run(encode_, data, ret_parity, bytes);
}

Result<void> Erasure::decode(PartSet have, const uint8_t* const* parts, PartSet want,
                             uint8_t* const* ret_parts, size_t bytes, std::string* ret_text) const {
  const PartSet all = first_parts(stripe().parts());
  have &= all;
  want &= all;
  if (static_cast<unsigned>(std::popcount(have)) < data_) {
    *ret_text = missing_text(have);
    return Error{Errc::kNotWhole, 0, "too few parts are there"};
  }
  for (const unsigned p : members_of(want & have)) memmove(ret_parts[p], parts[p], bytes);
  want &= ~have;
  if (want == 0) return {};
  const auto how = plan(lowest(have, data_), want);
  const uint8_t* in[kMostParts];
  uint8_t* out[kMostParts];
  for (size_t i = 0; i < how->inputs.size(); i++) in[i] = parts[how->inputs[i]];
  for (size_t o = 0; o < how->outputs.size(); o++) out[o] = ret_parts[how->outputs[o]];
  run(*how, in, out, bytes);
  return {};
}

std::string Erasure::missing_text(PartSet have) const {
  const PartSet all = first_parts(stripe().parts());
  std::string names;
  for (const unsigned p : members_of(all & ~have)) {
    names += names.empty() ? "" : ", ";
    if (data_ == 1) {
      names += "copy " + std::to_string(p);
    } else {
      names += p < data_ ? "data " + std::to_string(p) : "parity " + std::to_string(p - data_);
    }
  }
  const int there = std::popcount(have & all);
  return to_string(protection_) + " needs " + std::to_string(data_) + " of its " +
         std::to_string(stripe().parts()) + " parts, " +
         (there == 0   ? "but none is"
          : there == 1 ? "but only 1 is"
                       : "but only " + std::to_string(there) + " are") +
         " there; missing: " + names;
}

}  // namespace cr::store
