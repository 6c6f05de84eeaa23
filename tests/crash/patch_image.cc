// SPDX-License-Identifier: MIT
// patch_image.cc - makes an image file wrong in one chosen way, with its checksums right again, so
// that a test reaches the check behind the checksum.
// Invariant: without a FIELD nothing is changed; only what is named is changed.
// Context: N, a test helper.
//
//   patch_image FILE regions            lines "NAME OFFSET BYTES" of everything in the file
//   patch_image FILE get FIELD          its value
//   patch_image FILE set FIELD=VALUE... and both checksums are computed anew
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "agent/frame.h"
#include "format/checksum.h"
#include "format/image.h"
#include "format/image_reader.h"

namespace {

using cr::format::CpuRecord;
using cr::format::ImageView;
using cr::format::ProcessRecord;
using cr::format::SuperBlock;

[[noreturn]] void die(const std::string& text) {
  fprintf(stderr, "patch_image: %s\n", text.c_str());
  exit(2);
}

struct Field {
  const char* name;
  bool in_process;  // else in the superblock
  size_t off, bytes;
};
#define SUPER(f) \
  { #f, false, offsetof(SuperBlock, f), sizeof(SuperBlock::f) }
#define CPU(f) \
  { "cpu." #f, true, offsetof(ProcessRecord, cpu) + offsetof(CpuRecord, f), sizeof(CpuRecord::f) }
constexpr Field kFields[] = {SUPER(format_version),
                             SUPER(header_bytes),
                             SUPER(machine),
                             SUPER(page_bytes),
                             SUPER(feature_compat),
                             SUPER(feature_ro_compat),
                             SUPER(feature_incompat),
                             SUPER(write_lock),
                             SUPER(epoch),
                             SUPER(sequence),
                             SUPER(attempt),
                             SUPER(payload_off),
                             SUPER(payload_slots),
                             SUPER(metadata_off),
                             SUPER(metadata_bytes),
                             CPU(leaf1_ecx),
                             CPU(leaf7_ebx),
                             CPU(leaf7_ecx),
                             CPU(leaf7_edx),
                             CPU(leaf7_1_eax),
                             CPU(ext1_ecx),
                             CPU(xcr0),
                             CPU(xstate_bytes)};

class Image {
 public:
  explicit Image(const char* path) : path_(path) {
    FILE* f = fopen(path, "rb");
    if (f == nullptr) die(std::string(path) + ": " + strerror(errno));
    uint8_t buffer[65536];
    size_t n;
    while ((n = fread(buffer, 1, sizeof(buffer), f)) > 0) {
      bytes_.insert(bytes_.end(), buffer, buffer + n);
    }
    fclose(f);
    auto view = cr::format::read_image(bytes_.data(), bytes_.size());
    if (!view) die(std::string(path) + ": not whole to begin with: " + view.error().what);
    view_ = *view;
    process_off_ =
        static_cast<size_t>(reinterpret_cast<const uint8_t*>(view_.process) - bytes_.data());
  }

  uint8_t* at(const Field& f) { return bytes_.data() + (f.in_process ? process_off_ : 0) + f.off; }

  void set(const std::string& assignment) {
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos) die(assignment + ": not FIELD=VALUE");
    const std::string name = assignment.substr(0, equals), value = assignment.substr(equals + 1);
    if (name == "cpu" && value == "lacking") {
      set_lacking_cpu_feature();
      return;
    }
    const uint64_t v = strtoull(value.c_str(), nullptr, 0);
    memcpy(at(find(name)), &v, find(name).bytes);
  }

  uint64_t get(const std::string& name) {
    uint64_t v = 0;
    memcpy(&v, at(find(name)), find(name).bytes);
    return v;
  }

  void write_back() {
    auto* super = reinterpret_cast<SuperBlock*>(bytes_.data());
    if (super->metadata_off == view_.super.metadata_off &&
        super->metadata_bytes == view_.super.metadata_bytes) {
      super->metadata_xxh3 =
          cr::format::checksum(bytes_.data() + super->metadata_off, super->metadata_bytes);
    }
    super->checksum = cr::format::superblock_checksum(*super);
    FILE* f = fopen(path_, "r+b");
    if (f == nullptr || fwrite(bytes_.data(), 1, bytes_.size(), f) != bytes_.size() ||
        fclose(f) != 0) {
      die(std::string(path_) + ": " + strerror(errno));
    }
  }

  void print_regions() {
    const SuperBlock& s = view_.super;
    auto off = [&](const void* p) {
      return static_cast<uint64_t>(static_cast<const uint8_t*>(p) - bytes_.data());
    };
    auto line = [](const char* name, uint64_t at, uint64_t bytes) {
      if (bytes > 0) {
        printf("%s %llu %llu\n", name, static_cast<unsigned long long>(at),
               static_cast<unsigned long long>(bytes));
      }
    };
    line("superblock", 0, sizeof(SuperBlock));
    line("payload", s.payload_off, s.payload_slots * s.page_bytes);
    line("metadata", s.metadata_off, s.metadata_bytes);
    line("process", off(view_.process), sizeof(ProcessRecord));
    auto section = [&](const char* name, const auto& span) {
      line(name, off(span.data()), span.size_bytes());
    };
    section("strings", view_.strings);
    section("segments", view_.segments);
    section("extents", view_.extents);
    section("checksums", view_.checksums);
    section("threads", view_.threads);
    section("blobs", view_.blobs);
    section("fds", view_.fds);
    section("files", view_.files);
    section("sigactions", view_.sigactions);
  }

 private:
  static const Field& find(const std::string& name) {
    for (const Field& f : kFields) {
      if (name == f.name) return f;
    }
    die(name + ": no such field");
  }

  // Sets a bit that this processor does not have and that the engine looks at.
  void set_lacking_cpu_feature() {
    const CpuRecord here = cr::agent::this_cpu();
    for (const Field& f : kFields) {
      if (!f.in_process || f.bytes != 4) continue;
      for (unsigned bit = 0; bit < 32; bit++) {
        uint32_t word;
        memcpy(&word, at(f), sizeof(word));
        const uint32_t with = word | 1u << bit;
        memcpy(at(f), &with, sizeof(with));
        if (!cr::agent::missing_cpu_features(view_.process->cpu, here).empty()) return;
        memcpy(at(f), &word, sizeof(word));
      }
    }
    die("this processor has every feature there is");
  }

  const char* path_;
  std::vector<uint8_t> bytes_;
  ImageView view_;
  size_t process_off_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) die("usage: patch_image FILE regions | get FIELD | set FIELD=VALUE...");
  Image image(argv[1]);
  const std::string what = argv[2];
  if (what == "regions") {
    image.print_regions();
  } else if (what == "get" && argc == 4) {
    printf("%llu\n", static_cast<unsigned long long>(image.get(argv[3])));
  } else if (what == "set") {
    for (int i = 3; i < argc; i++) image.set(argv[i]);
    image.write_back();
  } else {
    die(what + ": regions, get FIELD or set FIELD=VALUE...");
  }
  return 0;
}
