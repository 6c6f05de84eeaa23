// SPDX-License-Identifier: MIT
// erasure.cc - how fast the parity of 64 MiB is computed, against ISA-L called by itself: what
// cutting into units costs.
// Invariant: all four ways have as much data and as many parts, run in turns, and their medians are
// compared; before, the parity of both is compared byte by byte.
// Context: an ordinary program; the one source file that it measures is part of it.
//
//   erasure [RUNS]     RUNS is 15 unless given. For each shape, in GB/s of data (10^9 bytes in a
//                      second of CPU time):
//     units     Erasure::encode, sixteen pages of each column at a time, as crstored calls it
//     at once   Erasure::encode, one call for all
//     bare      ISA-L, one call for all; 1 MiB: a call for each MiB of a part
//     %         the slower of ours, of the faster of ISA-L's
//
// Exit status: 0; 1 the parity differs; 2 misuse.
// CR_BUILD: -Isrc -lisal
#include <isa-l.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "../src/store/erasure.cc"
#include "../src/store/protection.cc"

using cr::store::Erasure;
using cr::store::kRotateRows;
using cr::store::parse_protection;
using cr::store::Stripe;

namespace {

constexpr size_t kDataBytes = 64 << 20;

// Of this thread, because other programs' work on the cores is not to be measured.
double cpu_s() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

uint8_t* memory(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) {
    perror("erasure: mmap");
    exit(1);
  }
  auto* p = static_cast<uint8_t*>(at);
  for (size_t i = 0; i < bytes; i++) p[i] = static_cast<uint8_t>(i * 2654435761u >> 11);
  return p;
}

double median(std::vector<double> v) {
  std::ranges::sort(v);
  return v[v.size() / 2];
}

// ISA-L as its own documentation calls it: K sources and M results of one length.
struct Bare {
  unsigned k, m;
  std::vector<uint8_t> tables;

  Bare(unsigned data, unsigned parity) : k(data), m(parity), tables(32 * data * parity) {
    std::vector<uint8_t> matrix((data + parity) * data);
    gf_gen_cauchy1_matrix(matrix.data(), static_cast<int>(data + parity), static_cast<int>(data));
    ec_init_tables(static_cast<int>(k), static_cast<int>(m), &matrix[data * data], tables.data());
  }
  void encode(uint8_t** data, uint8_t** parity, size_t bytes) {
    if (m > 1) {
      ec_encode_data(static_cast<int>(bytes), static_cast<int>(k), static_cast<int>(m),
                     tables.data(), data, parity);
      return;
    }
    void* array[64];
    for (unsigned c = 0; c < k; c++) array[c] = data[c];
    array[k] = parity[0];
    xor_gen(static_cast<int>(k) + 1, static_cast<int>(bytes), array);
  }
};

// The parts of one shape, and what is computed from them.
class Shape {
 public:
  explicit Shape(const char* name)
      : name_(name), erasure_(make(name)), stripe_(erasure_->stripe()) {
    rows_ = kDataBytes / cr::kPageSize / stripe_.data / kRotateRows * kRotateRows;
    bytes_ = rows_ * cr::kPageSize;
    for (unsigned p = 0; p < stripe_.parts(); p++) parts_.push_back(memory(bytes_));
  }
  ~Shape() {
    for (uint8_t* p : parts_) munmap(p, bytes_);
  }
  Shape(const Shape&) = delete;

  bool agrees() {
    Bare bare(stripe_.data, stripe_.parity);
    bare.encode(parts_.data(), parity(), bytes_);
    std::vector<std::vector<uint8_t>> expected;
    for (unsigned m = 0; m < stripe_.parity; m++) {
      expected.emplace_back(parity()[m], parity()[m] + bytes_);
      memset(parity()[m], 0, bytes_);
    }
    in_units();
    bool same = true;
    for (unsigned m = 0; m < stripe_.parity; m++) {
      same = same && memcmp(parity()[m], expected[m].data(), bytes_) == 0;
    }
    return same;
  }

  void measure(int runs) {
    Bare bare(stripe_.data, stripe_.parity);
    const auto in_calls = [&](size_t most) {
      std::vector<uint8_t*> at = parts_;
      for (size_t done = 0; done < bytes_; done += most) {
        bare.encode(at.data(), at.data() + stripe_.data, std::min(most, bytes_ - done));
        for (uint8_t*& p : at) p += most;
      }
    };
    const std::function<void()> all[] = {
        [&] { in_units(); },
        [&] { erasure_->encode(parts_.data(), parity(), bytes_); },
        [&] { in_calls(bytes_); },
        [&] { in_calls(1 << 20); },
    };
    std::vector<double> seconds[4];
    for (int run = 0; run < runs; run++) {
      for (int k = 0; k < 4; k++) {
        const int i = (run + k) % 4;
        const double start = cpu_s();
        all[i]();
        seconds[i].push_back(cpu_s() - start);
      }
    }
    double rate[4];
    for (int i = 0; i < 4; i++) {
      rate[i] = static_cast<double>(bytes_) * stripe_.data / 1e9 / median(seconds[i]);
    }
    printf("%-8s units %6.2f   at once %6.2f   bare %6.2f   1 MiB %6.2f GB/s   %4.0f %%\n", name_,
           rate[0], rate[1], rate[2], rate[3],
           100 * std::min(rate[0], rate[1]) / std::max(rate[2], rate[3]));
  }

 private:
  static std::unique_ptr<Erasure> make(const char* name) {
    std::string text;
    return std::move(*Erasure::make(*parse_protection(name, &text)));
  }
  void in_units() {
    constexpr size_t kUnitBytes = cr::store::kUnitPages * cr::kPageSize;
    std::vector<uint8_t*> at = parts_;
    for (size_t done = 0; done < bytes_; done += kUnitBytes) {
      erasure_->encode(at.data(), at.data() + stripe_.data, kUnitBytes);
      for (uint8_t*& p : at) p += kUnitBytes;
    }
  }
  uint8_t** parity() { return parts_.data() + stripe_.data; }

  const char* name_;
  std::unique_ptr<Erasure> erasure_;
  Stripe stripe_;
  uint64_t rows_;
  size_t bytes_;
  std::vector<uint8_t*> parts_;
};

}  // namespace

int main(int argc, char** argv) {
  const int runs = argc > 1 ? atoi(argv[1]) : 15;
  if (argc > 2 || runs < 5) {
    fprintf(stderr, "usage: erasure [RUNS]     at least 5\n");
    return 2;
  }
  for (const char* name : {"rs:8+2", "rs:4+2", "xor:5", "xor:9"}) {
    Shape shape(name);
    if (!shape.agrees()) {
      fprintf(stderr, "erasure: %s: the parity is not ISA-L's\n", name);
      return 1;
    }
    shape.measure(runs);
  }
  return 0;
}
