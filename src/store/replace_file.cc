// SPDX-License-Identifier: MIT
// replace_file.cc - see replace_file.h. Invariant: as there. Context: N.
#include "store/replace_file.h"

#include "store/file.h"

namespace cr::store {

Result<void> replace_file(const std::string& path, std::span<const uint8_t> head,
                          std::span<const uint8_t> body, bool durable) {
  const std::string fresh = path + ".new";
  CR_TRY(auto file, File::open(fresh, File::Mode::kEmpty));
  CR_TRYV(file->write(head.data(), head.size(), 0));
  if (!body.empty()) CR_TRYV(file->write(body.data(), body.size(), head.size()));
  CR_TRYV(file->barrier(durable));
  CR_TRYV(rename_file(fresh, path));  // COMMIT POINT replace_file
  if (durable) CR_TRYV(sync_parent(path));
  return {};
}

}  // namespace cr::store
