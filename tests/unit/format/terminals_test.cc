// SPDX-License-Identifier: MIT
// terminals_test.cc - records of terminals in images: what the reader takes and what it refuses.
#include <criterion/criterion.h>

#include <functional>
#include <vector>

#include "format/image_reader.h"
#include "tests/unit/format/synthetic_image.h"

namespace {

using cr::Errc;
using cr::store::Model;
using cr_test::SyntheticImage;
namespace format = cr::format;

// The file of the image is a terminal.
Errc read_with(const std::function<void(Model&)>& change) {
  SyntheticImage made;
  format::TerminalState state{};
  state.rows = 24;
  made.model.files[0].kind = format::kFileTerminal;
  made.model.files[0].content = made.model.add_blob(&state, sizeof(state));
  change(made.model);
  const std::vector<uint8_t> file = made.bytes();
  auto r = format::read_image(file.data(), file.size());
  if (r && !r->files.empty() && r->files[0].content.bytes != 0) {
    cr_expect(r->states<format::TerminalState>(r->files[0].content).front().rows == 24);
  }
  return r ? Errc::kOk : r.error().code;
}

// The file of the image is a pseudoterminal with three lines of 2, 0 and 3 bytes to read.
Errc read_pty_with(const std::function<void(Model&, format::PtyState&, format::PtyLine*)>& change) {
  SyntheticImage made;
  Model& m = made.model;
  format::PtyState state{};
  format::PtyLine lines[] = {
      {2, format::kPtyLineEnded}, {0, format::kPtyLineEof}, {3, format::kPtyLineOpen}};
  state.number = m.files[0].pair = 7;
  state.input = m.add_blob("a\nabc", 5);
  state.lines = m.add_blob(lines, sizeof(lines));
  m.files[0].kind = format::kFilePtyMaster;
  m.files[0].content = m.add_blob(&state, sizeof(state));
  made.super.feature_incompat = format::kIncompatKinds;
  const uint64_t lines_off = state.lines.off, state_off = m.files[0].content.off;
  change(m, state, lines);
  memcpy(m.blobs.data() + state_off, &state, sizeof(state));
  memcpy(m.blobs.data() + lines_off, lines, sizeof(lines));
  const std::vector<uint8_t> file = made.bytes();
  auto r = format::read_image(file.data(), file.size());
  return r ? Errc::kOk : r.error().code;
}

#define PTY_DAMAGED(...)                                                              \
  cr_expect(read_pty_with([](Model& m, format::PtyState& s, format::PtyLine* lines) { \
              (void)m, (void)s, (void)lines;                                          \
              __VA_ARGS__;                                                            \
            }) == Errc::kDamaged,                                                     \
            #__VA_ARGS__)

#define DAMAGED(...) cr_expect(read_with(__VA_ARGS__) == Errc::kDamaged, #__VA_ARGS__)

}  // namespace

Test(terminals, with_and_without_a_state) {
  cr_expect(read_with([](Model&) {}) == Errc::kOk);
  cr_expect(read_with([](Model& m) { m.files[0].content = {}; }) == Errc::kOk, "an old image");
}

Test(terminals, impossible_ones_are_refused) {
  DAMAGED([](Model& m) { m.files[0].content.bytes--; });
  DAMAGED([](Model& m) { m.files[0].content.bytes = 1; });
  DAMAGED([](Model& m) { m.files[0].content.off += 1; });
  DAMAGED([](Model& m) { m.files[0].content.off = ~0ull & ~7ull; });
}

Test(terminals, impossible_pseudoterminals_are_refused) {
  const auto nothing = [](Model&, format::PtyState&, format::PtyLine*) {};
  cr_expect(read_pty_with(nothing) == Errc::kOk);
  PTY_DAMAGED(s.number++);
  PTY_DAMAGED(m.files[0].content.bytes -= 8);
  PTY_DAMAGED(s.input.bytes = 1000000);
  PTY_DAMAGED(s.input.bytes--);
  PTY_DAMAGED(s.output = {~0ull, 1});
  PTY_DAMAGED(s.lines.off++);
  PTY_DAMAGED(s.lines.bytes--);
  PTY_DAMAGED(s.lines.bytes -= sizeof(format::PtyLine));
  PTY_DAMAGED(s.lines.bytes = ~0ull & ~7ull);
  PTY_DAMAGED(lines[0].bytes = ~0u);
  PTY_DAMAGED(lines[2].bytes++);
  PTY_DAMAGED(lines[2].end = 3);
  PTY_DAMAGED(lines[1].end = format::kPtyLineEnded);
  PTY_DAMAGED(m.files[0].kind = 41);
}
