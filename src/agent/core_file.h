// SPDX-License-Identifier: MIT
// core_file.h - an ELF core file of a saved process, for debuggers.
// Invariant: what is written is what a restore would give; a damaged page is an error, never
// written. The file is sparse: pages that read as zeros take no room.
// Context: N (agent). Doc: man 5 core; the notes are the kernel's (fs/binfmt_elf.c).
#pragma once

#include <string>

#include "agent/image_memory.h"
#include "agent/world.h"

namespace cr::agent {

// Writes to `path`, replacing what is there; removes it again on failure.
Trouble write_core(ImageMemory& memory, const std::string& path);

}  // namespace cr::agent
