// SPDX-License-Identifier: MIT
// core_notes.h - the notes of an ELF core file: process, threads, registers, mapped files.
// Invariant: laid out as the kernel's. Context: N (agent).
#pragma once

#include <string>

#include "format/image_reader.h"

namespace cr::agent {

// The content of PT_NOTE.
std::string make_core_notes(const format::ImageView& image);

}  // namespace cr::agent
