// SPDX-License-Identifier: MIT
// file_test.cc - writes through store::File: bounded in rate and number, and what fails.
// Invariant under test: an error is told by drain(), which has waited for all writes; and once.
#include "store/file.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "os/fd.h"

namespace {

using cr::store::File;

constexpr uint64_t kMiB = 1 << 20;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/cr-file-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file() const { return path_ + "/file"; }
  std::unique_ptr<File> open() const {
    auto file_or = File::open(file(), File::Mode::kEmpty);
    cr_assert(file_or.has_value());
    return std::move(*file_or);
  }

 private:
  std::string path_;
};

std::vector<uint8_t> noise(uint64_t bytes) {
  std::vector<uint8_t> all(bytes);
  for (uint64_t i = 0; i < bytes; i++) all[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  return all;
}

double now_s() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

void write_blocks(File& file, const std::vector<uint8_t>& data, uint64_t block) {
  for (uint64_t at = 0; at < data.size(); at += block) {
    cr_assert(file.write(&data[at], std::min(block, data.size() - at), at).has_value());
  }
}

}  // namespace

Test(file, any_queue_depth_writes_the_same) {
  const auto data = noise(9 * kMiB + 12345);
  for (const unsigned depth : {1u, 2u, 16u, cr::store::WriteLimits::kMostDepth}) {
    const Folder folder;
    cr::store::limit_writes({.depth = depth});
    const auto file = folder.open();
    write_blocks(*file, data, kMiB / 2);
    cr_assert(file->drain().has_value());
    const auto read = cr::os::read_file(folder.file());
    cr_assert(read.has_value() && read->size() == data.size(), "depth %u", depth);
    cr_assert(std::equal(data.begin(), data.end(), reinterpret_cast<const uint8_t*>(read->data())),
              "depth %u", depth);
  }
}

// Whole pages go past the page cache where there is one to go past, the rest through it; what is in
// the file is the same.
Test(file, past_the_page_cache_the_same_is_written) {
  const uint64_t bytes = 8 * kMiB + 1234;
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  cr_assert(pages != MAP_FAILED);
  const auto data = noise(bytes);
  memcpy(pages, data.data(), bytes);
  const auto* from = static_cast<const uint8_t*>(pages);
  const Folder folder;
  cr::store::limit_writes({.direct = true});
  {
    const auto file = folder.open();
    cr_assert(file->write(from, 4 * kMiB, 0).has_value());
    cr_assert(file->write(from + 4 * kMiB, 4 * kMiB + 1234, 4 * kMiB).has_value());
    cr_assert(file->drain().has_value());
    cr_assert(file->write(from + 100, 200, 100).has_value());  // what is there
    cr_assert(file->write(from + kMiB, kMiB, kMiB).has_value());
    cr_assert(file->barrier(true).has_value());
  }
  cr::store::limit_writes({});
  const auto read = cr::os::read_file(folder.file());
  cr_assert(read.has_value() && read->size() == bytes);
  cr_assert(memcmp(read->data(), from, bytes) == 0);
  munmap(pages, bytes);
}

// It may take longer, but never less.
Test(file, all_files_together_keep_to_the_bound) {
  const Folder one, two;
  const auto data = noise(2 * kMiB);
  cr::store::limit_writes({.bytes_per_second = 8 * kMiB});
  const double begin = now_s();
  const auto a = one.open(), b = two.open();
  write_blocks(*a, data, 256 * 1024);
  write_blocks(*b, data, 64 * 1024);
  cr_assert(a->drain().has_value() && b->drain().has_value());
  // 4 MiB are half a second's; a tenth of one may be spent in advance, and one write.
  cr_assert_geq(now_s() - begin, 0.35);
  cr::store::limit_writes({});
}

Test(file, a_failed_write_is_told_once_all_have_ended) {
  const Folder folder;
  const auto data = noise(4 * kMiB);
  const auto file = folder.open();
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{2 * kMiB, before.rlim_max};
  cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
  bool refused = false;
  for (uint64_t at = 0; at < data.size(); at += kMiB / 4) {
    refused |= !file->write(&data[at], kMiB / 4, at);
  }
  const auto drained = file->drain();
  setrlimit(RLIMIT_FSIZE, &before);
  cr_assert(refused || !drained, "writes beyond the limit succeeded");
  if (!drained) cr_assert_eq(drained.error().sys_errno, EFBIG);
  // What came before is there, and the file can be written again.
  cr_assert(file->drain().has_value());
  cr_assert(file->write(&data[2 * kMiB], 2 * kMiB, 2 * kMiB).has_value());
  cr_assert(file->drain().has_value());
  const auto read = cr::os::read_file(folder.file());
  cr_assert(read.has_value() && read->size() == data.size());
  cr_assert(std::equal(data.begin(), data.begin() + kMiB,
                       reinterpret_cast<const uint8_t*>(read->data())));
}
