// SPDX-License-Identifier: MIT
// verify.h - checks every byte of a buffer that has a checksum or must be zero.
// Invariant: says right only if each of them was looked at. Context: N (agent).
#pragma once

#include <string>

#include "store/buffer.h"

namespace cr::agent {

enum class Verdict {
  kRight,     // whole, and every checksum is right
  kNotWhole,  // being written, empty or missing: no damage
  kDamaged,   // damaged, foreign, too new, of another machine, or unreadable
};

// ret_text: one line for people that begins with the buffer's path.
Verdict verify_buffer(const std::string& dir, int index, const store::BufferState& buffer,
                      std::string* ret_text);

// Where a page belongs: a file's path, "[heap]", "[stack]", "[vdso]" or "anonymous memory".
std::string name_of_segment(const format::ImageView& image, const format::SegmentRecord& s);

}  // namespace cr::agent
