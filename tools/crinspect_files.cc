// SPDX-License-Identifier: MIT
// crinspect_files.cc - what the journal of changed files holds of a checkpoint.
// Invariant: as crinspect_commands.h. Context: N.
#include <errno.h>
#include <string.h>

#include "agent/file_journal.h"
#include "tools/cli_common.h"
#include "tools/crinspect_commands.h"
#include "tools/crinspect_words.h"

namespace cr::tools {
namespace {

std::string was_words(const agent::Change& c) {
  const format::FileChange& r = c.record;
  switch (r.was) {
    case format::kWasAbsent:
      return "made since";
    case format::kWasRegular:
      return text_of("file, %lu bytes, mode %04o", r.file_bytes, r.mode & 07777);
    case format::kWasSymlink:
      return "symbolic link to " + printable(c.target);
    case format::kWasDirectory:
      return text_of("directory, mode %04o", r.mode & 07777) +
             (c.target.empty() ? ""
              : (r.flags & format::kChangeMoved) != 0
                  ? ", moved to " + printable(c.target)
                  : ", about to be moved to " + printable(c.target));
    case format::kWasFifo:
      return text_of("FIFO, mode %04o", r.mode & 07777);
    default:
      return "socket or device, not kept";
  }
}

std::string copy_words(const format::FileChange& r) {
  switch (r.copy_kind) {
    case format::kCopyContent:
      return text_of("; content in copy.%lu.%lu", r.generation, r.copy);
    case format::kCopyLink:
      return text_of("; kept as copy.%lu.%lu", r.generation, r.copy);
    case format::kCopyTooLarge:
      return "; content not kept: larger than --files-limit";
    case format::kCopyFailed:
      return std::string("; content not kept: ") + strerror(r.error);
    default:
      return "";
  }
}

const char* policy_word(uint32_t policy) {
  static constexpr const char* kWords[] = {"keep", "restore", "refuse"};
  return kWords[policy < std::size(kWords) ? policy : 0];
}

}  // namespace

Output print_files(const Settings& settings, Checkpoint& c) {
  const format::SuperBlock& super = c.image.view.super;
  if (super.files_generation == 0) return {0, "no file is kept (--files=keep)\n", ""};
  std::vector<agent::Change> changes;
  const agent::Trouble bad = agent::list_journal(settings.dir, super.files_generation, &changes);
  if (bad.bad()) return {kExitBad, "", bad.text};
  std::string out =
      text_of("generation %lu, --files=%s, --files-limit %s\n", super.files_generation,
              policy_word(super.files_policy), human_bytes(super.files_limit_bytes).c_str());
  for (const agent::Change& change : changes) {
    const format::FileChange& r = change.record;
    const bool open = (r.flags & format::kChangeOpen) != 0;
    if ((r.flags & format::kChangeBack) != 0) {
      out += "back     files were put back\n";
      continue;
    }
    if (open && r.generation != super.files_generation) continue;
    out += text_of("%-8s ", open ? "open" : "changed") + printable(change.path) + ": " +
           was_words(change) + copy_words(r) + "\n";
  }
  return {0, out, ""};
}

}  // namespace cr::tools
