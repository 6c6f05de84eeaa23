// SPDX-License-Identifier: MIT
// spec_document.h - reads a docs/format/*.md: its structs with all fields, constants, an example.
// Invariant: says the same of a table as a person who reads it.
// Context: N.
#pragma once

#include <criterion/criterion.h>
#include <limits.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <regex>
#include <string>
#include <vector>

namespace cr_test {

struct Field {
  std::string name;
  uint64_t off, bytes;
};
struct Struct {
  uint64_t bytes = 0;
  std::vector<Field> fields;
};
using Structs = std::map<std::string, Struct>;

#define CR_SPEC_FIELD(type, field) \
  { #field, offsetof(type, field), sizeof(type::field) }

// The document lies above the working directory or above this program.
inline std::vector<std::string> read_document(const char* name) {
  char exe[PATH_MAX] = "", cwd[PATH_MAX] = "";
  if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0 || getcwd(cwd, sizeof(cwd)) == nullptr) {
    return {};
  }
  for (std::string at : {std::string(cwd), std::string(exe)}) {
    for (;; at.resize(at.find_last_of('/'))) {
      std::ifstream in(at + "/" + name);
      std::vector<std::string> lines;
      for (std::string line; std::getline(in, line);) lines.push_back(line);
      if (!lines.empty()) return lines;
      if (at.find('/') == std::string::npos) break;
    }
  }
  return {};
}

struct Document {
  Structs structs;
  std::map<std::string, uint64_t> constants;
  std::vector<std::pair<uint64_t, std::string>> dump;  // offset, bytes in hexadecimal

  explicit Document(const char* name) {
    static const std::regex kTitle(R"(#+ (\w+) \((\d+) bytes\))");
    static const std::regex kField(R"(\| (\d+) \| (\d+) \| `(\w+)` \|.*)");
    static const std::regex kConstant(R"(\| (0x[0-9a-f]+|\d+) \| `(k\w+)` \|.*)");
    static const std::regex kDump(R"(([0-9a-f]{8})  ([0-9a-f ]{48})  \|.*\|)");
    const std::vector<std::string> lines = read_document(name);
    cr_assert(!lines.empty(), "%s was not found", name);
    std::string title;
    for (const std::string& line : lines) {
      std::smatch m;
      if (line.starts_with('#')) title.clear();
      if (std::regex_match(line, m, kTitle)) {
        title = m[1];
        structs[title].bytes = std::stoull(m[2]);
      } else if (!title.empty() && std::regex_match(line, m, kField)) {
        structs[title].fields.push_back({m[3], std::stoull(m[1]), std::stoull(m[2])});
      } else if (std::regex_match(line, m, kConstant)) {
        constants[m[2]] = std::stoull(m[1], nullptr, 0);
      } else if (std::regex_match(line, m, kDump)) {
        dump.emplace_back(std::stoull(m[1], nullptr, 16), m[2]);
      }
    }
  }
};

inline void check_struct(const std::string& name, const Struct& code, const Struct& doc) {
  const char* n = name.c_str();
  cr_expect(doc.bytes == code.bytes, "%s has %lu bytes", n, code.bytes);
  cr_expect(doc.fields.size() == code.fields.size(), "%s has %zu fields", n, code.fields.size());
  uint64_t end = 0;
  for (size_t i = 0; i < std::min(doc.fields.size(), code.fields.size()); i++) {
    const Field &d = doc.fields[i], &c = code.fields[i];
    cr_expect(d.name == c.name && d.off == c.off && d.bytes == c.bytes,
              "%s.%s: offset %lu, %lu bytes; the document says %s: offset %lu, %lu bytes", n,
              c.name.c_str(), c.off, c.bytes, d.name.c_str(), d.off, d.bytes);
    cr_expect(c.off == end, "%s.%s: a field before it is in neither list", n, c.name.c_str());
    end = c.off + c.bytes;
  }
  cr_expect(end == code.bytes, "%s: its last field is in neither list", n);
}

// Every struct of the code is in the document, and the other way round.
inline void check_structs(const Structs& code, const Structs& doc) {
  for (const auto& [name, s] : code) {
    const auto it = doc.find(name);
    cr_expect(it != doc.end(), "%s is not documented", name.c_str());
    if (it != doc.end()) check_struct(name, s, it->second);
  }
  for (const auto& [name, s] : doc) {
    cr_expect(code.contains(name), "%s is documented, but this test does not know it",
              name.c_str());
  }
}

inline void check_constants(const std::map<std::string, uint64_t>& code,
                            const std::map<std::string, uint64_t>& doc) {
  for (const auto& [name, value] : code) {
    const auto it = doc.find(name);
    cr_expect(it != doc.end(), "%s is not documented", name.c_str());
    if (it != doc.end()) cr_expect(it->second == value, "%s is %lu", name.c_str(), value);
  }
  cr_expect(doc.size() == code.size(), "one is only documented");
}

// The bytes that the document shows are those of the file.
inline void check_example(const Document& doc, const std::vector<uint8_t>& file) {
  for (const auto& [off, text] : doc.dump) {
    std::string real;
    for (size_t i = 0; i < 16; i++) {
      char byte[8];
      snprintf(byte, sizeof(byte), "%02x%s", off + i < file.size() ? file[off + i] : 0,
               i == 7 ? "  " : " ");
      real += byte;
    }
    real.resize(48, ' ');
    cr_expect(text == real, "at %lx is\n%s\nbut the document says\n%s", off, real.c_str(),
              text.c_str());
  }
}

}  // namespace cr_test
