// SPDX-License-Identifier: MIT
// session_files.cc - see session_files.h. Invariant: as there. Context: N (agent).
#include "agent/session_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "store/superblock.h"

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

// Threads of a process that begins anew may write until it does. What cannot be put back was said.
Trouble put_back_again(const std::string& dir, uint64_t generation) {
  JournalState state;
  const auto as_it_is = [](const std::string& path) { return path; };
  Trouble bad = read_journal(dir, generation, as_it_is, &state);
  PutBack done;
  return bad.bad() ? bad : put_files_back(dir, state, /*only_look=*/false, &done);
}

// Of both buffers: if nothing has changed since the newer one's, no log says that there is one.
uint64_t newest_of_images(const std::string& dir) {
  uint64_t newest = 0;
  for (const int i : {0, 1}) {
    const auto super = store::read_super(dir, i);
    if (super) newest = std::max(newest, super->files_generation);
  }
  return newest;
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
  const bool refuse = files.policy == format::kFilesRefuse;
  if (refuse) add_grown(image.view, &look.changed);
  if (refuse && !look.changed.empty()) {
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
  if (options.live_pidfd >= 0 && !refuse) {
    plan.at_take = [image_dir, generation = super.files_generation] {
      return put_back_again(image_dir, generation);
    };
  }
  const uint64_t newest = newest_of_images(image_dir);
  // The program will write, though nothing has changed yet.
  if (look.changed.empty() && (refuse || look.warnings.empty())) {
    bad = note_going_back(image_dir, super.files_generation, newest);
    return bad.bad() ? bad : note_moved_back(image_dir, state);
  }
  bad = verify_all(image, plan);
  if (!bad.bad() && files.verify_others) bad = files.verify_others();
  if (!bad.bad()) bad = note_going_back(image_dir, super.files_generation, newest);
  if (!bad.bad()) bad = put_back(image_dir, state, plan);
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
