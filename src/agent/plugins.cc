// SPDX-License-Identifier: MIT
// plugins.cc - see plugins.h. Invariant: as there. Context: N (agent).
#include "agent/plugins.h"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <memory>

namespace cr::agent {
namespace {

std::string text(const char* bytes, size_t size) { return {bytes, strnlen(bytes, size)}; }

}  // namespace

void read_claims(const MemoryReader& read, uint64_t table, store::Model& model) {
  model.claims.clear();
  const auto t = std::make_unique<format::PluginTable>();
  if (table == 0 || !read(table, t.get(), sizeof(*t))) return;
  for (uint32_t i = 0; i < std::min(t->count, format::kMostPlugins); i++) {
    const format::PluginEntry& e = t->entries[i];
    model.claims.push_back({text(e.name, sizeof(e.name)),
                            text(e.descriptors, sizeof(e.descriptors)),
                            text(e.mappings, sizeof(e.mappings))});
  }
}

bool claims_descriptor(const store::Model& model, const std::string& link) {
  return std::ranges::any_of(model.claims, [&](const store::Claim& c) {
    return !c.descriptors.empty() && link.starts_with(c.descriptors);
  });
}

bool claims_mapping(const store::Model& model, const std::string& name) {
  return std::ranges::any_of(model.claims, [&](const store::Claim& c) {
    return !c.mappings.empty() && name.starts_with(c.mappings);
  });
}

Trouble save_by_plugins(World& world, uint64_t table, store::Model& model) {
  if (world.leader_gone()) {
    return trouble(Errc::kUnsupported, 0,
                   "the main thread has ended, in which plug-ins would be restored");
  }
  Trouble bad = world.call_plugins();
  if (bad.bad()) return bad;
  const auto t = std::make_unique<format::PluginTable>();
  if (!world.read_memory(table, t.get(), sizeof(*t))) {
    return trouble(Errc::kSystem, EFAULT, "the table of plug-ins cannot be read");
  }
  if (t->failed != 0 && t->failed <= model.claims.size()) {
    const std::string why = text(t->why, sizeof(t->why));
    return trouble(Errc::kUnsupported, t->error,
                   "plug-in " + model.claims[t->failed - 1].name + ": " +
                       (why.empty() ? strerror(t->error) : why));
  }
  for (size_t i = 0; i < model.claims.size(); i++) {
    model.plugins.push_back(
        {t->restore_one, static_cast<uint32_t>(i), model.add_string(model.claims[i].name)});
  }
  return {};
}

void restore_by_plugins(const format::ImageView& image, Recipe& recipe) {
  for (const format::PluginRecord& p : image.plugins) {
    recipe.call(std::string("plug-in ") + image.string(p.name), format::kCallFunction,
                {p.restore, p.number});
  }
}

}  // namespace cr::agent
