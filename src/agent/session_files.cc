// SPDX-License-Identifier: MIT
// session_files.cc - see session_files.h. Invariant: as there. Context: N (agent).
#include "agent/session_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

namespace cr::agent {
namespace {

std::string list_of(const std::vector<std::string>& changed) {
  constexpr size_t kMost = 20;
  std::string text;
  for (size_t i = 0; i < std::min(changed.size(), kMost); i++) text += "\n  " + changed[i];
  if (changed.size() > kMost) text += "\n  and " + std::to_string(changed.size() - kMost) + " more";
  return text;
}

// What was open for appending only has no record: its size says it.
void add_grown(const format::ImageView& image, std::vector<std::string>* changed) {
  for (const format::FileRecord& f : image.files) {
    if (f.kind != format::kFileRegular || (f.open_flags & O_ACCMODE) == O_RDONLY) continue;
    const std::string path = image.string(f.path);
    struct stat st {};
    if (stat(path.c_str(), &st) != 0 || static_cast<uint64_t>(st.st_size) == f.file_bytes) continue;
    const std::string line = path + " has another size";
    if (std::ranges::find(*changed, line) == changed->end()) changed->push_back(line);
  }
}

Trouble verify_all(const store::LoadedImage& image, const RestorePlan& plan) {
  uint64_t slot = 0;
  const uint64_t addr = store::verify_pages(image.view, &slot, plan.on_verify);
  return addr == 0 ? Trouble{} : damaged_page(image, addr, slot);
}

Trouble put_back(const std::string& dir, const JournalState& state, RestorePlan& plan) {
  PutBack done;
  Trouble bad = put_files_back(dir, state, /*only_look=*/false, &done);
  plan.warnings.insert(plan.warnings.end(), done.warnings.begin(), done.warnings.end());
  return bad;
}

}  // namespace

Trouble put_session_files_back(const store::LoadedImage& image, const std::string& image_dir,
                               const PlanOptions& options, RestorePlan& plan) {
  const format::SuperBlock& super = image.view.super;
  const FilesPlan& files = options.files;
  if (files.policy == format::kFilesKeep || super.files_generation == 0) return {};
  const std::string gone = why_gone(image_dir, super.files_generation);
  if (!gone.empty()) {
    return trouble(Errc::kUnsupported, 0,
                   image.path + ": the files of this checkpoint cannot be put back: " + gone);
  }
  JournalState state;
  const auto now = [&](const std::string& path) {
    return files.paths == nullptr ? path : files.paths->map(path);
  };
  Trouble bad = read_journal(image_dir, super.files_generation, now, &state);
  PutBack look;
  if (!bad.bad()) bad = put_files_back(image_dir, state, /*only_look=*/true, &look);
  if (bad.bad()) return bad;
  if (files.policy == format::kFilesRefuse) {
    add_grown(image.view, &look.changed);
    if (look.changed.empty()) return files.only_look ? Trouble{} : note_moved_back(image_dir, state);
    return trouble(Errc::kUnsupported, 0,
                   "files have changed since the checkpoint, and --files=refuse says that this "
                   "matters:" +
                       list_of(look.changed) +
                       "\nuse --files=restore to put them back, or --files=keep to leave them");
  }
  if (files.only_look) {
    for (const auto& [path, c] : state.paths) plan.put_back_later.insert(path);
    return {};
  }
  if (look.changed.empty() && look.warnings.empty()) return note_moved_back(image_dir, state);
  bad = verify_all(image, plan);
  if (!bad.bad() && files.verify_others) bad = files.verify_others();
  if (!bad.bad()) bad = note_going_back(image_dir, super.files_generation);
  if (!bad.bad()) bad = put_back(image_dir, state, plan);
  // Threads of a process that begins anew may write until it does.
  if (!bad.bad() && options.live_pidfd >= 0) {
    plan.at_take = [image_dir, state, &plan] { return put_back(image_dir, state, plan); };
  }
  return bad;
}

std::string find_changed_files(const format::ImageView& image, const std::string& image_dir,
                               const FileKeeper& keeper, JournalState* ret) {
  const format::SuperBlock& super = image.super;
  const format::FilesPolicy policy = keeper.policy_for(super);
  if (policy == format::kFilesKeep || super.files_generation == 0) return "";
  const auto as_it_is = [](const std::string& path) { return path; };
  const Trouble bad = read_journal(image_dir, super.files_generation, as_it_is, ret);
  if (bad.bad()) return bad.text;
  PutBack look;
  const Trouble failed = put_files_back(image_dir, *ret, /*only_look=*/true, &look);
  if (failed.bad()) return failed.text;
  if (policy == format::kFilesRefuse && !look.changed.empty()) return "files have changed";
  return "";
}

}  // namespace cr::agent
