// SPDX-License-Identifier: MIT
// replace_file.h - a small file that is replaced as a whole.
// Invariant: whenever the process or the machine ends, PATH has all of the old bytes or all of the
// new ones; what is left of an attempt is PATH.new, which the next one replaces.
// Context: N.
#pragma once

#include <stdint.h>

#include <span>
#include <string>

#include "base/base.h"

namespace cr::store {

// The file has `head` and then `body`. durable: it is so after a power failure, too, once this has
// returned. One caller at a time for each path.
Result<void> replace_file(const std::string& path, std::span<const uint8_t> head,
                          std::span<const uint8_t> body, bool durable);

// The same of a header and the records that follow it.
template <typename Header, typename Records>
Result<void> replace_file_of(const std::string& path, const Header& header, const Records& records,
                             bool durable) {
  return replace_file(
      path, {reinterpret_cast<const uint8_t*>(&header), sizeof(header)},
      {reinterpret_cast<const uint8_t*>(records.data()), records.size() * sizeof(records[0])},
      durable);
}

}  // namespace cr::store
