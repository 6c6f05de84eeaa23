// SPDX-License-Identifier: MIT
// session_key.h - the secret that the nodes of a cluster share, and what is made of it: proofs for
// the handshake, and the ciphers of a connection (OpenSSL libcrypto: HMAC-SHA256, HKDF-SHA256;
// AES-256-GCM where a link is encrypted, else the authenticator of ChaCha20-Poly1305).
// Invariant: the key is only taken from a file that nobody else could read or write; a key of a
// connection is used in one direction only, and no nonce twice with it; secrets are wiped.
// Context: N. Not thread-safe.
#pragma once

#include <stdint.h>

#include <array>
#include <memory>
#include <span>
#include <string>

#include "base/base.h"
#include "format/wire.h"

namespace cr::node {

using ByteSpan = std::span<const uint8_t>;
using Nonce = std::array<uint8_t, format::kWireNonceBytes>;
using Proof = std::array<uint8_t, format::kWireProofBytes>;
using Tag = std::array<uint8_t, format::kWireTagBytes>;

// Random bytes for keys and nonces. Errors: kSystem.
Result<void> fill_random(std::span<uint8_t> ret);
// Takes the same time wherever they differ.
bool equal_secret(ByteSpan a, ByteSpan b);

// What a nonce counts. The numbers of both kinds are counted apart.
enum class SealDomain : uint32_t { kFrame = 0, kBlock = 1 };

// An AEAD with a key of one direction of one connection: seals or opens, not both.
class LinkCipher {
 public:
  enum class Use { kSeal, kOpen };
  // kEncrypt: AES-256-GCM. kAuthenticate: ChaCha20-Poly1305 (RFC 8439) with everything as
  // additional data, so that only Poly1305 runs over it: twice as fast as the same with AES-GCM.
  enum class Kind { kAuthenticate, kEncrypt };
  LinkCipher();
  LinkCipher(LinkCipher&&) noexcept;
  LinkCipher& operator=(LinkCipher&&) noexcept;
  ~LinkCipher();
  static Result<LinkCipher> make(std::span<const uint8_t, 32> key, Kind kind, Use use);

  // Makes the tag over `head` and `in`. kEncrypt: also encrypts `in` to `out`, of the same length;
  // may be the same memory. kAuthenticate: `out` is not used.
  // counter: never used before in this domain. Errors: kSystem.
  Result<void> seal(SealDomain domain, uint64_t counter, ByteSpan head, ByteSpan in,
                    std::span<uint8_t> out, Tag* ret);
  // The reverse. Errors: kDamaged (something differs; kEncrypt: `out` is filled with zeros).
  Result<void> open(SealDomain domain, uint64_t counter, ByteSpan head, ByteSpan in,
                    std::span<uint8_t> out, const Tag& tag);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Both ends of a connection derive the same two ciphers, with the uses exchanged.
struct LinkCiphers {
  LinkCipher send, receive;
};

enum class Role : uint8_t { kInitiator = 1, kAcceptor = 2 };

class SessionKey {
 public:
  SessionKey(SessionKey&&) noexcept;
  SessionKey(const SessionKey&) = delete;
  SessionKey& operator=(SessionKey&&) noexcept;
  ~SessionKey();

  // Reads a key file: a regular file (no link), owned by us or root, mode 0600 or less, with at
  // least 32 bytes of key, or at least 64 hexadecimal digits; a newline at the end is no part.
  // ret_text: on failure the file, the cause and the next step.
  // Errors: kSystem, kNotFound, kPermission (owner or mode), kInvalid (no regular file, too short
  // or too long).
  static Result<SessionKey> load(const std::string& path, std::string* ret_text);
  // Makes a new file of 64 random hexadecimal digits, 0600, on stable storage at return.
  // Errors: kAlready (there is a file of this name; it is left as it is), kSystem.
  static Result<void> generate(const std::string& path, std::string* ret_text);
  // For tests. Errors: kInvalid (fewer than 32 bytes), kSystem.
  static Result<SessionKey> from_bytes(ByteSpan key);

  // HMAC over the handshake so far, by the side `role`. Errors: kSystem.
  Result<Proof> prove(Role role, ByteSpan first, ByteSpan second) const;
  // The ciphers of a connection, for the side `own`; encrypting if either hello asks for it.
  // Errors: kSystem.
  Result<LinkCiphers> derive(Role own, const format::WireHello& initiator,
                             const format::WireHello& acceptor) const;

 private:
  SessionKey() = default;
  std::array<uint8_t, 32> master_{};  // HKDF-Extract of the file's key
};

}  // namespace cr::node
