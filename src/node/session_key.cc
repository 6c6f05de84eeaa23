// SPDX-License-Identifier: MIT
// session_key.cc - see session_key.h. Invariant: as there. Context: N.
#include "node/session_key.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "os/fd.h"

namespace cr::node {
namespace {

constexpr size_t kKeyBytes = 32;
constexpr size_t kIvBytes = 12;
constexpr size_t kLeastKeyBytes = 32, kMostKeyBytes = 4096;
constexpr Error kCryptoFailed{Errc::kSystem, 0, "libcrypto failed"};

std::string_view text_of(const char (&name)[format::kWireNameBytes]) {
  return {name, strnlen(name, sizeof(name))};
}

ByteSpan bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// HKDF-SHA256 (RFC 5869) to 32 bytes.
Result<void> hkdf(int mode, ByteSpan key, ByteSpan salt, std::string_view info,
                  std::span<uint8_t, kKeyBytes> ret) {
  EVP_KDF* kdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  EVP_KDF_CTX* ctx = kdf == nullptr ? nullptr : EVP_KDF_CTX_new(kdf);
  EVP_KDF_free(kdf);
  if (ctx == nullptr) return kCryptoFailed;
  char digest[] = "SHA256";
  OSSL_PARAM params[6];
  size_t n = 0;
  params[n++] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
  params[n++] = OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode);
  params[n++] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
                                                  const_cast<uint8_t*>(key.data()), key.size());
  if (!salt.empty()) {
    params[n++] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT,
                                                    const_cast<uint8_t*>(salt.data()), salt.size());
  }
  if (!info.empty()) {
    params[n++] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO,
                                                    const_cast<char*>(info.data()), info.size());
  }
  params[n] = OSSL_PARAM_construct_end();
  const int rc = EVP_KDF_derive(ctx, ret.data(), ret.size(), params);
  EVP_KDF_CTX_free(ctx);
  if (rc != 1) return kCryptoFailed;
  return {};
}

// Reads at most kMostKeyBytes; one more tells that the file is longer.
Result<std::vector<uint8_t>> read_key_bytes(int fd) {
  std::vector<uint8_t> bytes(kMostKeyBytes + 1);
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t n = read(fd, bytes.data() + have, bytes.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{Errc::kSystem, errno, "cannot read the key file"};
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  bytes.resize(have);
  return bytes;
}

int hex_value(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  const int low = tolower(c);
  return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

// If these are at least 64 hexadecimal digits and nothing else, the bytes that they stand for.
void decode_hex(std::vector<uint8_t>* bytes) {
  if (bytes->size() < 2 * kLeastKeyBytes || bytes->size() % 2 != 0) return;
  for (const uint8_t c : *bytes) {
    if (hex_value(c) < 0) return;
  }
  const size_t n = bytes->size() / 2;
  for (size_t i = 0; i < n; i++) {
    (*bytes)[i] =
        static_cast<uint8_t>(hex_value((*bytes)[2 * i]) << 4 | hex_value((*bytes)[2 * i + 1]));
  }
  OPENSSL_cleanse(bytes->data() + n, n);
  bytes->resize(n);
}

void strip_newline(std::vector<uint8_t>* bytes) {
  if (!bytes->empty() && bytes->back() == '\n') bytes->pop_back();
  if (!bytes->empty() && bytes->back() == '\r') bytes->pop_back();
}

Error tell(std::string* ret_text, const std::string& path, Error error, const char* next) {
  *ret_text = "key file " + path + ": " + error.what;
  if (error.sys_errno != 0) *ret_text += std::string(" (") + strerror(error.sys_errno) + ")";
  *ret_text += std::string("; ") + next;
  return error;
}

// Looks at the open file, so that it cannot be exchanged in between.
Result<void> check_key_file(int fd, const std::string& path, std::string* ret_text) {
  struct stat st {};
  if (fstat(fd, &st) != 0) {
    return tell(ret_text, path, {Errc::kSystem, errno, "cannot be examined"},
                "check its file system");
  }
  if (!S_ISREG(st.st_mode)) {
    return tell(ret_text, path, {Errc::kInvalid, 0, "is not a regular file"},
                "name a file that holds the key");
  }
  if (st.st_uid != geteuid() && st.st_uid != 0) {
    return tell(ret_text, path, {Errc::kPermission, 0, "belongs to another user"},
                "make it belong to the user of this program, or to root (chown)");
  }
  if ((st.st_mode & 077) != 0) {
    const std::string next = "chmod 600 " + path;
    return tell(ret_text, path, {Errc::kPermission, 0, "others than its owner have access to it"},
                next.c_str());
  }
  return {};
}

}  // namespace

Result<void> fill_random(std::span<uint8_t> ret) {
  if (RAND_bytes(ret.data(), static_cast<int>(ret.size())) != 1) return kCryptoFailed;
  return {};
}

bool equal_secret(ByteSpan a, ByteSpan b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

// ---- the cipher --------------------------------------------------------------------------------
struct LinkCipher::State {
  EVP_CIPHER_CTX* ctx = nullptr;  // wipes the key when it is freed
  Kind kind = Kind::kAuthenticate;
  ~State() { EVP_CIPHER_CTX_free(ctx); }
};

LinkCipher::LinkCipher() = default;
LinkCipher::LinkCipher(LinkCipher&&) noexcept = default;
LinkCipher& LinkCipher::operator=(LinkCipher&&) noexcept = default;
LinkCipher::~LinkCipher() = default;

Result<LinkCipher> LinkCipher::make(std::span<const uint8_t, 32> key, Kind kind, Use use) {
  LinkCipher cipher;
  cipher.state_ = std::make_unique<State>();
  cipher.state_->kind = kind;
  EVP_CIPHER_CTX* ctx = cipher.state_->ctx = EVP_CIPHER_CTX_new();
  const EVP_CIPHER* type = kind == Kind::kEncrypt ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();
  if (ctx == nullptr ||
      EVP_CipherInit_ex(ctx, type, nullptr, key.data(), nullptr, use == Use::kSeal) != 1) {
    return kCryptoFailed;
  }
  return cipher;
}

namespace {

using Iv = std::array<uint8_t, kIvBytes>;

Iv make_iv(SealDomain domain, uint64_t counter) {
  Iv iv;
  memcpy(iv.data(), &domain, sizeof(domain));
  memcpy(iv.data() + sizeof(domain), &counter, sizeof(counter));
  return iv;
}

// One pass over a piece; out nullptr: it is authenticated only. Lengths are below 2 GiB.
bool pass(EVP_CIPHER_CTX* ctx, ByteSpan in, uint8_t* out) {
  int n = 0;
  return in.empty() || EVP_CipherUpdate(ctx, out, &n, in.data(), static_cast<int>(in.size())) == 1;
}

bool run(EVP_CIPHER_CTX* ctx, const Iv& iv, ByteSpan head, ByteSpan in, uint8_t* out) {
  return EVP_CipherInit_ex(ctx, nullptr, nullptr, nullptr, iv.data(), -1) == 1 &&
         pass(ctx, head, nullptr) && pass(ctx, in, out);
}

}  // namespace

Result<void> LinkCipher::seal(SealDomain domain, uint64_t counter, ByteSpan head, ByteSpan in,
                              std::span<uint8_t> out, Tag* ret) {
  const bool encrypt = state_->kind == Kind::kEncrypt;
  if (encrypt && out.size() != in.size()) return Error{Errc::kInvalid, 0, "no room to encrypt to"};
  EVP_CIPHER_CTX* ctx = state_->ctx;
  int n = 0;
  uint8_t rest[16];
  if (!run(ctx, make_iv(domain, counter), head, in, encrypt ? out.data() : nullptr) ||
      EVP_CipherFinal_ex(ctx, rest, &n) != 1 ||
      EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, static_cast<int>(ret->size()), ret->data()) !=
          1) {
    return kCryptoFailed;
  }
  return {};
}

Result<void> LinkCipher::open(SealDomain domain, uint64_t counter, ByteSpan head, ByteSpan in,
                              std::span<uint8_t> out, const Tag& tag) {
  const bool encrypt = state_->kind == Kind::kEncrypt;
  if (encrypt && out.size() != in.size()) return Error{Errc::kInvalid, 0, "no room to decrypt to"};
  EVP_CIPHER_CTX* ctx = state_->ctx;
  int n = 0;
  uint8_t rest[16];
  Tag copy = tag;
  if (!run(ctx, make_iv(domain, counter), head, in, encrypt ? out.data() : nullptr) ||
      EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, static_cast<int>(copy.size()), copy.data()) !=
          1 ||
      EVP_CipherFinal_ex(ctx, rest, &n) != 1) {
    // What was decrypted is not authentic, and must not be taken for data.
    if (encrypt && !out.empty()) memset(out.data(), 0, out.size());
    return Error{Errc::kDamaged, 0, "the data are not what the peer sealed"};
  }
  return {};
}

// ---- the key -----------------------------------------------------------------------------------
SessionKey::SessionKey(SessionKey&& o) noexcept : master_(o.master_) {
  OPENSSL_cleanse(o.master_.data(), o.master_.size());
}
SessionKey& SessionKey::operator=(SessionKey&& o) noexcept {
  if (this != &o) {
    master_ = o.master_;
    OPENSSL_cleanse(o.master_.data(), o.master_.size());
  }
  return *this;
}
SessionKey::~SessionKey() { OPENSSL_cleanse(master_.data(), master_.size()); }

Result<SessionKey> SessionKey::from_bytes(ByteSpan key) {
  if (key.size() < kLeastKeyBytes) {
    return Error{Errc::kInvalid, 0, "holds fewer than 32 bytes of key"};
  }
  SessionKey made;
  constexpr std::string_view kSalt = "checkpoint_restore session key 1";
  CR_TRYV(hkdf(EVP_KDF_HKDF_MODE_EXTRACT_ONLY, key, bytes_of(kSalt), {}, made.master_));
  return made;
}

Result<SessionKey> SessionKey::load(const std::string& path, std::string* ret_text) {
  // O_NONBLOCK: a FIFO must not hold us up.
  const os::Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd && errno == ELOOP) {
    return tell(ret_text, path, {Errc::kInvalid, 0, "is a symbolic link"}, "name the file itself");
  }
  if (!fd && errno == ENOENT) {
    return tell(ret_text, path, {Errc::kNotFound, 0, "does not exist"},
                "make one and copy it to all nodes of the cluster");
  }
  if (!fd) {
    return tell(ret_text, path, {Errc::kSystem, errno, "cannot be opened"},
                "check its path and permissions");
  }
  CR_TRYV(check_key_file(fd.get(), path, ret_text));
  auto bytes = read_key_bytes(fd.get());
  if (!bytes) return tell(ret_text, path, bytes.error(), "check its file system");
  if (bytes->size() > kMostKeyBytes) {
    OPENSSL_cleanse(bytes->data(), bytes->size());
    return tell(ret_text, path, {Errc::kInvalid, 0, "is longer than 4096 bytes"},
                "name a file that holds a key and nothing else");
  }
  // 32 raw bytes may end in a newline by chance: it is only taken off what is longer.
  if (bytes->size() > kLeastKeyBytes) strip_newline(&*bytes);
  decode_hex(&*bytes);
  auto key = from_bytes(*bytes);
  OPENSSL_cleanse(bytes->data(), bytes->size());
  if (!key) {
    return tell(ret_text, path, key.error(),
                "make a new one, of 32 random bytes or 64 hexadecimal digits");
  }
  return std::move(*key);
}

namespace {

Result<void> write_key(int fd) {
  std::array<uint8_t, kKeyBytes> random{};
  CR_TRYV(fill_random(random));
  std::string text;
  text.reserve(2 * kKeyBytes + 1);
  for (const uint8_t b : random) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  text += '\n';
  OPENSSL_cleanse(random.data(), random.size());
  const ssize_t n = write(fd, text.data(), text.size());
  const int error = n < 0 ? errno : ENOSPC;
  const bool whole = n == static_cast<ssize_t>(text.size());
  OPENSSL_cleanse(text.data(), text.size());
  if (!whole) return Error{Errc::kSystem, error, "cannot be written"};
  if (fsync(fd) != 0) return Error{Errc::kSystem, errno, "cannot be written"};
  return {};
}

// The name, too, has to survive a power failure.
Result<void> sync_folder_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const os::Fd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) != 0) return Error{Errc::kSystem, errno, "cannot be written"};
  return {};
}

}  // namespace

Result<void> SessionKey::generate(const std::string& path, std::string* ret_text) {
  os::Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd && errno == EEXIST) {
    return tell(ret_text, path, {Errc::kAlready, 0, "exists already"},
                "use it, or name another one");
  }
  if (!fd) {
    return tell(ret_text, path, {Errc::kSystem, errno, "cannot be made"},
                "check that its folder exists and may be written");
  }
  Result<void> done = write_key(fd.get());
  if (done) done = fd.close();
  if (done) done = sync_folder_of(path);
  if (!done) {
    unlink(path.c_str());  // a key that is not whole must not be used
    return tell(ret_text, path, done.error(), "check the free space of its file system");
  }
  return {};
}

Result<Proof> SessionKey::prove(Role role, ByteSpan first, ByteSpan second) const {
  std::array<uint8_t, kKeyBytes> key{};
  CR_TRYV(hkdf(EVP_KDF_HKDF_MODE_EXPAND_ONLY, master_, {}, "handshake proof", key));
  // The role keeps a proof from being sent back; the length keeps the two parts apart.
  std::vector<uint8_t> text;
  text.push_back(static_cast<uint8_t>(role));
  const uint64_t length = first.size();
  text.insert(text.end(), reinterpret_cast<const uint8_t*>(&length),
              reinterpret_cast<const uint8_t*>(&length) + sizeof(length));
  text.insert(text.end(), first.begin(), first.end());
  text.insert(text.end(), second.begin(), second.end());
  Proof proof{};
  unsigned n = 0;
  const bool made = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), text.data(),
                         text.size(), proof.data(), &n) != nullptr;
  OPENSSL_cleanse(key.data(), key.size());
  if (!made || n != proof.size()) return kCryptoFailed;
  return proof;
}

Result<LinkCiphers> SessionKey::derive(Role own, const format::WireHello& initiator,
                                       const format::WireHello& acceptor) const {
  std::array<uint8_t, 2 * format::kWireNonceBytes> salt{};
  memcpy(salt.data(), initiator.nonce, sizeof(initiator.nonce));
  memcpy(salt.data() + sizeof(initiator.nonce), acceptor.nonce, sizeof(acceptor.nonce));
  // Names cannot hold a blank, so no two pairs of names give the same text.
  const bool encrypt = ((initiator.features | acceptor.features) & format::kWireEncrypt) != 0;
  const std::string names = (encrypt ? " encrypted " : " plain ") +
                            std::string(text_of(initiator.node)) + " " +
                            std::string(text_of(acceptor.node));
  const auto kind = encrypt ? LinkCipher::Kind::kEncrypt : LinkCipher::Kind::kAuthenticate;
  std::array<uint8_t, kKeyBytes> from_initiator{}, from_acceptor{};
  CR_TRYV(hkdf(EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND, master_, salt, "from initiator" + names,
               from_initiator));
  CR_TRYV(hkdf(EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND, master_, salt, "from acceptor" + names,
               from_acceptor));
  const bool first = own == Role::kInitiator;
  auto send =
      LinkCipher::make(first ? from_initiator : from_acceptor, kind, LinkCipher::Use::kSeal);
  auto receive =
      LinkCipher::make(first ? from_acceptor : from_initiator, kind, LinkCipher::Use::kOpen);
  OPENSSL_cleanse(from_initiator.data(), from_initiator.size());
  OPENSSL_cleanse(from_acceptor.data(), from_acceptor.size());
  if (!send) return send.error();
  if (!receive) return receive.error();
  return LinkCiphers{std::move(*send), std::move(*receive)};
}

}  // namespace cr::node
