// SPDX-License-Identifier: MIT
// choose_image.cc - which of the two buffers to restore.
// Invariant: a damaged newest buffer is never passed over in silence: losing progress is the user's
// decision (--sequence). A buffer that was being written when everything died is passed over.
// Context: N (agent).
#include "agent/supervisor.h"

#include <string.h>
#include <unistd.h>

namespace cr::agent {

std::string name_other_buffer(const std::string& dir, int index) {
  const store::BufferState other = store::load_buffer(dir, 1 - index);
  if (!other.image) return "";
  const std::string n = std::to_string(other.image->view.super.sequence);
  return ". The other buffer holds sequence " + n + ": crrestore --sequence " + n +
         " brings that one back";
}

std::string member_directory(const std::string& dir, uint32_t member) {
  return dir + "/members/" + std::to_string(member);
}

Trouble check_is_first(const format::ImageView& image, const std::string& dir) {
  if (image.tree.empty() || image.tree[0].member == 0) return {};
  const format::TreeRecord& t = image.tree[0];
  return trouble(Errc::kUnsupported, 0,
                 dir + ": this is process " + std::to_string(t.pid) + " (" + t.name +
                     ") of a tree; restore the whole tree: the image directory above");
}

// The number says which checkpoint is meant, and the session whose: nothing else will do.
Trouble choose_member(const std::string& dir, const format::SuperBlock& first,
                      const format::TreeRecord& record,
                      std::unique_ptr<store::LoadedImage>* ret_image) {
  std::string own = member_directory(dir, record.member);
  // A new run may have been moving everything aside when it was killed.
  for (int n = 1; access(own.c_str(), F_OK) != 0; n++) {
    const std::string aside = dir + "/interrupted." + std::to_string(n);
    if (access(aside.c_str(), F_OK) != 0) break;
    const std::string moved = member_directory(aside, record.member);
    if (access(moved.c_str(), F_OK) == 0) own = moved;
  }
  std::string why = "it is not there";
  for (int i = 0; i < 2; i++) {
    store::BufferState b = store::load_buffer(own, i);
    const bool wanted = b.super.sequence == first.sequence && b.super.epoch == first.epoch &&
                        memcmp(b.super.session_id, first.session_id, 16) == 0;
    if (b.image && wanted && !b.image->view.tree.empty() &&
        b.image->view.tree[0].member == record.member) {
      *ret_image = std::move(b.image);
      return {};
    }
    if (b.exists && wanted && !b.image) {
      why = store::describe_error(store::buffer_path(own, i), b.error);
    }
  }
  return trouble(Errc::kDamaged, 0,
                 own + ": checkpoint " + std::to_string(first.sequence) + " of process " +
                     std::to_string(record.pid) + " (" + record.name +
                     "), which belongs to that of the whole tree, cannot be used: " + why);
}

Trouble choose_image(const std::string& dir, uint64_t sequence,
                     std::unique_ptr<store::LoadedImage>* ret_image) {
  store::BufferState b[2] = {store::load_buffer(dir, 0), store::load_buffer(dir, 1)};
  if (!b[0].exists && !b[1].exists) {
    return trouble(
        Errc::kNotWhole, ENOENT,
        dir + ": there is no image in this directory (image.0, image.1); was a checkpoint taken?");
  }
  auto sequence_of = [&](int i) { return b[i].image ? b[i].image->view.super.sequence : 0; };
  if (sequence != 0) {
    for (int i = 0; i < 2; i++) {
      if (b[i].image && sequence_of(i) == sequence) {
        *ret_image = std::move(b[i].image);
        return {};
      }
    }
    std::string have;
    for (int i = 0; i < 2; i++) {
      if (b[i].image) have += (have.empty() ? "" : " and ") + std::to_string(sequence_of(i));
      if (!b[i].image && b[i].exists && b[i].super.sequence == sequence) {
        return trouble(b[i].error.code, b[i].error.sys_errno,
                       store::describe_error(store::buffer_path(dir, i), b[i].error));
      }
    }
    return trouble(Errc::kNotFound, ENOENT,
                   dir + ": there is no whole checkpoint " + std::to_string(sequence) +
                       (have.empty() ? "" : "; whole is " + have));
  }
  const int best = sequence_of(0) >= sequence_of(1) ? 0 : 1;
  for (int i = 0; i < 2; i++) {
    const Errc e = b[i].error.code;
    if (b[i].image || e == Errc::kNotWhole) continue;
    std::string text = store::describe_error(store::buffer_path(dir, i), b[i].error);
    text += name_other_buffer(dir, i);
    return trouble(e, b[i].error.sys_errno, text);
  }
  if (!b[best].image) {
    return trouble(
        Errc::kNotWhole, ENOENT,
        dir + ": no checkpoint in it is whole; the program died before its first one was");
  }
  *ret_image = std::move(b[best].image);
  return {};
}

}  // namespace cr::agent
