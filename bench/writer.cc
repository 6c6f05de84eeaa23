// SPDX-License-Identifier: MIT
// writer.cc - level 1: how fast pages in memory get durably into a file, against a bare io_uring
// writer of the same block size on the same disk.
// Invariant: all ways write the same bytes to a file that is there already, in turns, each with its
// barrier at the end; their medians are compared.
// Context: an ordinary program, linked with the layer that it measures.
//
//   writer DIR [MIB] [RUNS]    512 MiB and 7 runs unless given. Prints, in MB/s (10^6 bytes):
//     bare     writes of 1 MiB, 16 in flight, fdatasync
//     file     store::File, which images and parts are written through, and its barrier
//     part     a whole part of 4 KiB rows: lock, rows, checksums, barrier, WRITE_LOCK, barrier
// Exit status: 0; 1 it failed; 2 misuse.
// CR_BUILD: -Isrc
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "format/part_reader.h"
#include "store/file.h"
#include "store/part_file.h"

namespace {

constexpr uint64_t kBlock = 1 << 20;
constexpr unsigned kDepth = 16;

double now_s() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

[[noreturn]] void fail(const char* what) {
  perror(what);
  exit(1);
}

uint8_t* memory(uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) fail("writer: mmap");
  auto* p = static_cast<uint8_t*>(at);
  for (uint64_t i = 0; i < bytes; i += 8) {
    const uint64_t word = (i + 1) * 0x9e3779b97f4a7c15;
    memcpy(p + i, &word, sizeof(word));
  }
  return p;
}

void write_bare(const std::string& path, const uint8_t* data, uint64_t bytes) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  io_uring ring;
  if (fd < 0 || io_uring_queue_init(kDepth, &ring, 0) != 0) fail(path.c_str());
  uint64_t off = 0;
  for (unsigned flying = 0; off < bytes || flying > 0; flying--) {
    for (; off < bytes && flying < kDepth; off += kBlock, flying++) {
      io_uring_sqe* s = io_uring_get_sqe(&ring);
      io_uring_prep_write(s, fd, data + off, kBlock, off);
    }
    io_uring_submit(&ring);
    io_uring_cqe* c = nullptr;
    if (io_uring_wait_cqe(&ring, &c) != 0 || c->res != static_cast<int>(kBlock)) {
      fail("writer: a bare write");
    }
    io_uring_cqe_seen(&ring, c);
  }
  if (fdatasync(fd) != 0) fail("writer: fdatasync");
  io_uring_queue_exit(&ring);
  close(fd);
}

void write_file(const std::string& path, const uint8_t* data, uint64_t bytes) {
  using cr::store::File;
  const bool is_there = access(path.c_str(), F_OK) == 0;
  auto file = File::open(path, is_there ? File::Mode::kExisting : File::Mode::kEmpty);
  if (!file) fail(path.c_str());
  for (uint64_t off = 0; off < bytes; off += kBlock) {
    if (!(*file)->write(data + off, kBlock, off)) fail("writer: store::File::write");
  }
  if (!(*file)->barrier(true)) fail("writer: store::File::barrier");
}

void write_part(const std::string& path, const uint8_t* data, const std::vector<uint64_t>& checks) {
  using cr::store::PartWriter;
  auto writer = PartWriter::open(path, true, nullptr);
  if (!writer) fail(path.c_str());
  for (uint64_t row = 0; row < checks.size(); row++) {
    if (!(*writer)->put(row, checks[row], data + row * cr::kPageSize)) fail("writer: a row");
  }
  cr::format::PartHeader h{};
  h.triple = {1, 1, 1};
  h.kind = cr::format::kProtectNone;
  h.data_parts = 1;
  h.slots = h.rows = checks.size();
  h.session_id[0] = 1;
  cr::format::DescriptionHeader d{};
  d.holders = 1;
  std::vector<uint8_t> description(sizeof(d) + sizeof(cr::format::HolderRecord));
  memcpy(description.data(), &d, sizeof(d));
  if (!(*writer)->commit(h, description)) fail("writer: the part's commit");
}

double median(std::vector<double> v) {
  std::ranges::sort(v);
  return v[v.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t mib = argc > 2 ? strtoull(argv[2], nullptr, 10) : 512;
  const int runs = argc > 3 ? atoi(argv[3]) : 7;
  if (argc < 2 || argc > 4 || mib == 0 || runs < 1) {
    fprintf(stderr, "usage: writer DIR [MIB] [RUNS]\n");
    return 2;
  }
  const std::string dir = argv[1];
  const uint64_t bytes = mib << 20;
  const uint8_t* data = memory(bytes);
  std::vector<uint64_t> checks(bytes / cr::kPageSize);
  for (size_t i = 0; i < checks.size(); i++) {
    checks[i] = cr::format::row_check(data + i * cr::kPageSize);
  }
  const std::string paths[] = {dir + "/bare", dir + "/file", dir + "/part.0.0"};
  const std::function<void()> ways[] = {[&] { write_bare(paths[0], data, bytes); },
                                        [&] { write_file(paths[1], data, bytes); },
                                        [&] { write_part(paths[2], data, checks); }};
  std::vector<double> seconds[3];
  for (int run = -1; run < runs; run++) {  // the first one makes the files
    for (int k = 0; k < 3; k++) {
      const int i = (run + 1 + k) % 3;
      const double begin = now_s();
      ways[i]();
      if (run >= 0) seconds[i].push_back(now_s() - begin);
    }
  }
  const auto rate = [&](int i) { return static_cast<double>(bytes) / median(seconds[i]) * 1e-6; };
  printf("bare %.0f file %.0f part %.0f\n", rate(0), rate(1), rate(2));
  for (const std::string& path : paths) unlink(path.c_str());
  return 0;
}
