// SPDX-License-Identifier: MIT
// choose_image.cc - which of the two buffers to restore.
// Invariant: a damaged newest buffer is never passed over in silence: losing progress is the user's
// decision (--sequence). A buffer that was being written when everything died is passed over.
// Context: N (agent).
#include "agent/supervisor.h"

namespace cr::agent {

std::string name_other_buffer(const std::string& dir, int index) {
  const store::BufferState other = store::load_buffer(dir, 1 - index);
  if (!other.image) return "";
  const std::string n = std::to_string(other.image->view.super.sequence);
  return ". The other buffer holds sequence " + n + ": crrestore --sequence " + n +
         " brings that one back";
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
