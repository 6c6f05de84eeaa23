// SPDX-License-Identifier: MIT
// json.h - the JSON of the control socket, without exceptions (nlohmann-json).
// Invariant: nothing here throws or aborts, whatever the text is.
// Context: N.
#pragma once

#include <stdint.h>

#include <nlohmann/json.hpp>
#include <string>

namespace cr::node {

using Json = nlohmann::ordered_json;

// Not an object: an empty one.
inline Json parse_json(const std::string& text) {
  Json j = Json::parse(text, nullptr, false);
  return j.is_object() ? j : Json::object();
}
inline std::string dump_json(const Json& j) {
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}
// The answer to a request that cannot be done; the text names the object, the cause, the next step.
inline Json failure(const std::string& text) { return {{"ok", false}, {"error", text}}; }
inline std::string text_of(const Json& j, const char* key) {
  const auto at = j.find(key);
  return at != j.end() && at->is_string() ? *at->get_ptr<const std::string*>() : std::string();
}
inline uint64_t number_of(const Json& j, const char* key) {
  const auto at = j.find(key);
  return at != j.end() && at->is_number_unsigned() ? at->get<uint64_t>() : 0;
}
inline bool flag_of(const Json& j, const char* key) {
  const auto at = j.find(key);
  return at != j.end() && at->is_boolean() && at->get<bool>();
}

}  // namespace cr::node
