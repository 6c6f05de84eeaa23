// SPDX-License-Identifier: MIT
// path_map.cc - see path_map.h. Invariant: as there. Context: N (agent).
#include "agent/path_map.h"

namespace cr::agent {

void PathMapper::add(std::string from, std::string to) {
  for (std::string* s : {&from, &to}) {
    while (!s->empty() && s->back() == '/') s->pop_back();
  }
  pairs_.emplace_back(std::move(from), std::move(to));
}

// What only looks like a path: names of memory.
static bool is_no_path(const std::string& text) {
  return !text.starts_with("/") || text.starts_with("/memfd:") || text.starts_with("/SYSV");
}

std::string PathMapper::map(const std::string& path) const {
  if (is_no_path(path)) return path;
  const std::pair<std::string, std::string>* best = nullptr;
  for (const auto& p : pairs_) {
    const std::string& from = p.first;
    const bool at_end = path.size() == from.size() || path[from.size()] == '/';
    const bool fits = path.starts_with(from) && at_end;
    if (fits && (best == nullptr || from.size() >= best->first.size())) best = &p;
  }
  if (best == nullptr) return path;
  const std::string mapped = best->second + path.substr(best->first.size());
  return mapped.empty() ? "/" : mapped;
}

const char* PathMapper::renamed(void* self, const char* text) {
  auto* mapper = static_cast<PathMapper*>(self);
  auto it = mapper->known_.find(text);
  if (it == mapper->known_.end()) it = mapper->known_.emplace(text, mapper->map(text)).first;
  return it->second.c_str();
}

void PathMapper::apply_to(format::ImageView& image) {
  if (empty()) return;
  image.rename = renamed;
  image.rename_context = this;
}

}  // namespace cr::agent
