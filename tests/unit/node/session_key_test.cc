// SPDX-License-Identifier: MIT
// session_key_test.cc - key files, proofs, and the ciphers of a connection.
// Invariant under test: a key that others could read is not used; both sides derive the same
// ciphers, and nobody else does; what was changed is not opened.
#include "node/session_key.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "format/wire_reader.h"
#include "tests/unit/nvheap/random.h"

namespace {

using namespace cr::node;
using namespace cr::format;
using cr::Errc;
using cr::Error;
using cr_test::Random;
using Bytes = std::vector<uint8_t>;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/cr-key-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    path_ = name;
  }
  ~Folder() {
    unlink(file("key").c_str());
    unlink(file("link").c_str());
    rmdir(path_.c_str());
  }
  std::string file(const char* name) const { return path_ + "/" + name; }
  std::string write(const std::string& content, mode_t mode = 0600) const {
    const std::string path = file("key");
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
    chmod(path.c_str(), mode);
    return path;
  }

 private:
  std::string path_;
};

template <typename T>
ByteSpan span(const T& value) {
  return {reinterpret_cast<const uint8_t*>(&value), sizeof(value)};
}

Errc load_error(const std::string& path, const char* words) {
  std::string text;
  const auto key = SessionKey::load(path, &text);
  cr_assert(!key.has_value(), "%s", path.c_str());
  cr_expect(text.find(path) != std::string::npos, "%s", text.c_str());
  cr_expect(text.find(words) != std::string::npos, "%s", text.c_str());
  cr_expect(text.find(';') != std::string::npos, "no next step: %s", text.c_str());
  return key.error().code;
}

// What tells keys apart.
Proof proof_of(const SessionKey& key) {
  const uint64_t one = 1, two = 2;
  const auto proof = key.prove(Role::kInitiator, span(one), span(two));
  cr_assert(proof.has_value());
  return *proof;
}

Proof proof_of_file(const std::string& path) {
  std::string text;
  const auto key = SessionKey::load(path, &text);
  cr_assert(key.has_value(), "%s", text.c_str());
  return proof_of(*key);
}

WireHello hello(const char* node, uint8_t nonce, uint64_t features = 0) {
  WireHello h{};
  h.features = features;
  set_wire_name(h.node, node, strlen(node));
  memset(h.nonce, nonce, sizeof(h.nonce));
  return h;
}

// Whether what one seals the other opens. Without encryption the data stay where they are.
bool fit(LinkCiphers* from, LinkCiphers* to, bool encrypted) {
  const Bytes data(100, 5);
  Bytes sealed(100), opened(100);
  Tag tag;
  cr_assert(from->send.seal(SealDomain::kFrame, 1, {}, data, sealed, &tag).has_value());
  if (!encrypted) sealed = opened = data;
  const bool good = to->receive.open(SealDomain::kFrame, 1, {}, sealed, opened, tag).has_value();
  return good && opened == data;
}

SessionKey key_of(uint8_t seed) {
  const Bytes bytes(32, seed);
  auto key = SessionKey::from_bytes(bytes);
  cr_assert(key.has_value());
  return std::move(*key);
}

}  // namespace

Test(session_key, generates_a_file_that_it_loads) {
  const Folder folder;
  const std::string path = folder.file("key");
  std::string text;
  cr_assert(SessionKey::generate(path, &text).has_value(), "%s", text.c_str());
  struct stat st {};
  cr_assert_eq(stat(path.c_str(), &st), 0);
  cr_assert_eq(st.st_mode & 07777, 0600u);
  cr_assert_eq(st.st_size, 65);
  const Proof first = proof_of_file(path);
  const auto again = SessionKey::generate(path, &text);
  cr_assert(again.error().code == Errc::kAlready);
  cr_assert(text.find(path) != std::string::npos);
  cr_assert(proof_of_file(path) == first, "it was overwritten");
  unlink(path.c_str());
  cr_assert(SessionKey::generate(path, &text).has_value());
  cr_assert(proof_of_file(path) != first, "not random");
  cr_assert(SessionKey::generate("/nonexistent/key", &text).error().code == Errc::kSystem);
}

Test(session_key, refuses_a_file_that_others_may_use) {
  const Folder folder;
  for (const mode_t mode : {0640u, 0604u, 0620u, 0601u, 0666u}) {
    const std::string path = folder.write(std::string(64, 'a'), mode);
    const std::string words = "chmod 600 " + path;
    cr_assert(load_error(path, words.c_str()) == Errc::kPermission);
  }
  const std::string path = folder.write(std::string(64, 'a'), 0400);
  proof_of_file(path);
  if (geteuid() == 0) {
    cr_assert_eq(chown(path.c_str(), 12345, 12345), 0);
    cr_assert(load_error(path, "another user") == Errc::kPermission);
  }
}

Test(session_key, refuses_what_is_no_key_file) {
  const Folder folder;
  cr_assert(load_error(folder.file("none"), "does not exist") == Errc::kNotFound);
  cr_assert(load_error("/tmp", "regular") == Errc::kInvalid);
  cr_assert(load_error(folder.write(""), "fewer than 32") == Errc::kInvalid);
  cr_assert(load_error(folder.write(std::string(31, 'x')), "fewer than 32") == Errc::kInvalid);
  cr_assert(load_error(folder.write(std::string(5000, 'x')), "longer") == Errc::kInvalid);
  const std::string path = folder.write(std::string(64, 'a'));
  cr_assert_eq(symlink(path.c_str(), folder.file("link").c_str()), 0);
  cr_assert(load_error(folder.file("link"), "symbolic link") == Errc::kInvalid);
  unlink(folder.file("link").c_str());
  cr_assert_eq(mkfifo(folder.file("link").c_str(), 0600), 0);
  cr_assert(load_error(folder.file("link"), "regular") == Errc::kInvalid);
}

Test(session_key, digits_and_bytes_are_the_same_key) {
  const Folder folder;
  std::string digits;
  Bytes bytes;
  for (int i = 0; i < 32; i++) {
    bytes.push_back(static_cast<uint8_t>(i * 37));
    char two[3];
    snprintf(two, sizeof(two), i % 2 == 0 ? "%02x" : "%02X", bytes.back());
    digits += two;
  }
  const Proof expected = proof_of(*SessionKey::from_bytes(bytes));
  const std::string raw(bytes.begin(), bytes.end());
  for (const std::string& content : {digits, digits + "\n", digits + "\r\n", raw, raw + "\n"}) {
    cr_assert(proof_of_file(folder.write(content)) == expected);
  }
  // 63 digits are bytes, and so is something with a letter that is no digit.
  cr_assert(proof_of_file(folder.write(digits.substr(1))) != expected);
  cr_assert(proof_of_file(folder.write("g" + digits.substr(1))) != expected);
  cr_assert(proof_of(key_of(1)) != proof_of(key_of(2)));
}

Test(session_key, a_proof_is_of_one_side_and_of_all_bytes) {
  const SessionKey key = key_of(1);
  const WireHello a = hello("a", 1), b = hello("b", 2);
  const Proof proof = *key.prove(Role::kInitiator, span(a), span(b));
  cr_assert(*key.prove(Role::kInitiator, span(a), span(b)) == proof);
  cr_assert(*key.prove(Role::kAcceptor, span(a), span(b)) != proof);
  cr_assert(*key.prove(Role::kInitiator, span(b), span(a)) != proof);
  cr_assert(*key_of(2).prove(Role::kInitiator, span(a), span(b)) != proof);
  // Moving the border between the parts is a difference.
  const Bytes all(20, 1);
  cr_assert(*key.prove(Role::kInitiator, ByteSpan(all).first(9), ByteSpan(all).subspan(9)) !=
            *key.prove(Role::kInitiator, ByteSpan(all).first(8), ByteSpan(all).subspan(8)));
  for (size_t i = 0; i < sizeof(a); i += 5) {
    WireHello other = a;
    reinterpret_cast<uint8_t*>(&other)[i] ^= 1;
    cr_assert(*key.prove(Role::kInitiator, span(other), span(b)) != proof);
  }
  Proof near = proof;
  near[31] ^= 1;
  cr_assert(equal_secret(proof, proof) && !equal_secret(proof, near) && !equal_secret(proof, {}));
}

Test(session_key, both_sides_derive_the_same_ciphers_and_nobody_else) {
  for (const uint64_t features : {0ul, kWireEncrypt}) {
    const WireHello a = hello("a", 1, features), b = hello("b", 2);
    auto one = key_of(1).derive(Role::kInitiator, a, b);
    auto two = key_of(1).derive(Role::kAcceptor, a, b);
    cr_assert(one.has_value() && two.has_value());
    cr_assert(fit(&*one, &*two, features != 0) && fit(&*two, &*one, features != 0));
    const auto misfit = [&](const SessionKey& key, Role role, const WireHello& x,
                            const WireHello& y) {
      auto other = key.derive(role, x, y);
      cr_assert(other.has_value());
      const Bytes data(100, 5);
      Bytes sealed(data), out(100);
      Tag tag;
      cr_assert(one->send.seal(SealDomain::kFrame, 9, {}, data, sealed, &tag).has_value());
      cr_assert(!other->receive.open(SealDomain::kFrame, 9, {}, sealed, out, tag).has_value());
    };
    misfit(key_of(2), Role::kAcceptor, a, b);
    misfit(key_of(1), Role::kInitiator, a, b);  // sent back to where it came from
    misfit(key_of(1), Role::kAcceptor, hello("a", 3, features), b);
    misfit(key_of(1), Role::kAcceptor, a, hello("b", 3));
    misfit(key_of(1), Role::kAcceptor, hello("c", 1, features), b);
    misfit(key_of(1), Role::kAcceptor, a, hello("c", 2));
    misfit(key_of(1), Role::kAcceptor, hello("a", 1, features ^ kWireEncrypt), b);
  }
}

Test(session_key, what_was_changed_is_not_opened) {
  Random random(cr_test::test_seed());
  const Bytes key(32, 7);
  for (const auto kind : {LinkCipher::Kind::kAuthenticate, LinkCipher::Kind::kEncrypt}) {
    const bool encrypt = kind == LinkCipher::Kind::kEncrypt;
    const std::span<const uint8_t, 32> fixed(key.data(), 32);
    auto seal = LinkCipher::make(fixed, kind, LinkCipher::Use::kSeal);
    auto open = LinkCipher::make(fixed, kind, LinkCipher::Use::kOpen);
    cr_assert(seal.has_value() && open.has_value());
    for (uint64_t i = 1; i <= 200; i++) {
      Bytes head(random.below(40)), data(random.below(3000));
      for (uint8_t& b : data) b = static_cast<uint8_t>(random.below(256));
      Bytes sealed(data.size()), opened(data.size(), 9);
      Tag tag;
      cr_assert(seal->seal(SealDomain::kBlock, i, head, data, sealed, &tag).has_value());
      if (!encrypt) sealed = data;
      cr_assert(!encrypt || data.size() < 16 || sealed != data, "not encrypted");
      const auto opens = [&](SealDomain d, uint64_t n, const Bytes& h, const Bytes& in, Tag t) {
        opened.assign(in.size(), 9);
        return open->open(d, n, h, in, opened, t).has_value();
      };
      cr_assert(opens(SealDomain::kBlock, i, head, sealed, tag));
      cr_assert(!encrypt || opened == data);
      cr_assert(!opens(SealDomain::kFrame, i, head, sealed, tag));
      cr_assert(!opens(SealDomain::kBlock, i + 1, head, sealed, tag));
      Tag other = tag;
      other[random.below(16)] ^= 1;
      cr_assert(!opens(SealDomain::kBlock, i, head, sealed, other));
      cr_assert(!encrypt || opened == Bytes(data.size()), "not wiped");
      Bytes longer(sealed);
      longer.push_back(0);
      cr_assert(!opens(SealDomain::kBlock, i, head, longer, tag));
      if (!sealed.empty()) {
        Bytes bent(sealed);
        bent[random.below(bent.size())] ^= 4;
        cr_assert(!opens(SealDomain::kBlock, i, head, bent, tag));
      }
    }
  }
}
