// SPDX-License-Identifier: MIT
// base_test.cc - Result, and the table from Errc to errno.
#include "base/base.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include <string>

Test(base, every_error_code_has_an_errno_and_a_name) {
  for (int i = 1; i <= static_cast<int>(cr::Errc::kLast); i++) {
    const cr::Error e{static_cast<cr::Errc>(i), 0, ""};
    cr_assert_gt(cr::errno_of(e), 0, "code %d", i);
    cr_assert(strcmp(cr::name_of(e.code), "unknown") != 0, "code %d", i);
  }
}

Test(base, an_errno_of_the_system_wins) {
  const cr::Error e{cr::Errc::kSystem, ENOSPC, "writing"};
  cr_assert_eq(cr::errno_of(e), ENOSPC);
}

namespace {
cr::Result<std::string> text(bool good) {
  if (!good) return cr::Error{cr::Errc::kNotFound, 0, "text"};
  return std::string("a string that is too long for the small-string buffer");
}
cr::Result<size_t> length(bool good) {
  CR_TRY(const std::string t, text(good));
  return t.size();
}
}  // namespace

Test(base, try_passes_values_and_errors_on) {
  cr_assert(length(true).has_value());
  cr_assert_eq(*length(true), 53u);
  cr_assert_not(length(false).has_value());
  cr_assert(length(false).error().code == cr::Errc::kNotFound);
}
