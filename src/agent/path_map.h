// SPDX-License-Identifier: MIT
// path_map.h - where files lie now that lay elsewhere at the checkpoint (crrestore --map).
// Invariant: of all prefixes that end at the path's end or before a slash the longest counts.
// Context: N (agent).
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "format/image_reader.h"

namespace cr::agent {

class PathMapper {
 public:
  // Both absolute. A slash at the end means nothing.
  void add(std::string from, std::string to);
  bool empty() const { return pairs_.empty(); }
  std::string map(const std::string& path) const;
  // From now on the image's strings are those of now. This must live as long as the image is used.
  void apply_to(format::ImageView& image);

 private:
  static const char* renamed(void* self, const char* text);
  std::vector<std::pair<std::string, std::string>> pairs_;
  std::map<std::string, std::string> known_;  // what has been given out
};

}  // namespace cr::agent
