// SPDX-License-Identifier: MIT
// early_files_test.cc - what was copied of a mapped file, compared with the file.
// Invariant under test: only a copy that has each page of the file, in its place, is relied on.
#include "agent/early_files.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "base/base.h"

namespace {

using cr::kPageSize;
using cr::agent::is_as_in_file;
using cr::format::Run;

constexpr uint64_t kAt = 0x7f0000000000, kFirst = 3;  // kFirst: page of staging

// Five pages of a file of three and a half are mapped from the second one on.
struct Copied {
  std::string path, staging;
  cr::format::SegmentRecord mapping{};
  std::vector<Run> runs = {{kAt - 8 * kPageSize, 1, 0}, {kAt, 1, kFirst}, {kAt + kPageSize, 2, 7}};

  Copied() {
    char name[] = "/tmp/cr-early-test-XXXXXX";
    const int fd = mkstemp(name);
    cr_assert_geq(fd, 0);
    path = name;
    std::string file;
    for (int p = 0; p < 4; p++) file.append(kPageSize, static_cast<char>('a' + p));
    file.resize(3 * kPageSize + kPageSize / 2);
    cr_assert_eq(write(fd, file.data(), file.size()), static_cast<ssize_t>(file.size()));
    struct stat st;
    cr_assert_eq(fstat(fd, &st), 0);
    close(fd);
    mapping.start = kAt;
    mapping.end = kAt + 5 * kPageSize;
    mapping.file_off = kPageSize;
    mapping.file_bytes = file.size();
    mapping.ino = st.st_ino;
    staging.assign(10 * kPageSize, '?');
    file.resize(4 * kPageSize, '\0');
    staging.replace(kFirst * kPageSize, kPageSize, file, kPageSize, kPageSize);
    staging.replace(7 * kPageSize, 2 * kPageSize, file, 2 * kPageSize, 2 * kPageSize);
  }
  ~Copied() { unlink(path.c_str()); }
  bool is_right() const {
    return is_as_in_file(mapping, path.c_str(), runs,
                         reinterpret_cast<const uint8_t*>(staging.data()));
  }
};

}  // namespace

Test(early_files, what_the_file_has_is_right) {
  const Copied c;
  cr_assert(c.is_right());
}

Test(early_files, any_other_byte_is_wrong) {
  Copied c;
  for (const uint64_t at : {kFirst * kPageSize, 8 * kPageSize - 1, 9 * kPageSize - 1}) {
    const char was = c.staging[at];
    c.staging[at] = 'x';
    cr_assert_not(c.is_right(), "byte %lu", at);
    c.staging[at] = was;
  }
  cr_assert(c.is_right());
}

Test(early_files, a_page_that_was_not_copied_is_not_there) {
  Copied c;
  c.runs[2].pages = 1;
  cr_assert_not(c.is_right());
  c.runs[2] = {kAt + kPageSize, 2, cr::format::kPagesSame};
  cr_assert_not(c.is_right());
  c.runs.clear();
  cr_assert_not(c.is_right());
  c.mapping.file_off = 4 * kPageSize;  // all behind its end: there is nothing to be copied
  cr_assert(c.is_right());
}

Test(early_files, another_file_or_none_is_no_proof) {
  Copied c;
  c.mapping.ino++;
  cr_assert_not(c.is_right());
  c.mapping.ino--;
  unlink(c.path.c_str());
  cr_assert_not(c.is_right());
}
