// SPDX-License-Identifier: MIT
// base.h - Result, Error, unit types and checks: the vocabulary of every layer.
// Invariant: nothing here allocates, throws, or calls libc; usable in all contexts.
// Context: N, H, S, R (docs/contexts.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>

namespace cr {

inline constexpr uint64_t kPageSize = 4096;
constexpr uint64_t page_floor(uint64_t v) { return v & ~(kPageSize - 1); }
constexpr uint64_t page_ceil(uint64_t v) { return (v + kPageSize - 1) & ~(kPageSize - 1); }

// An address in the saved process; never dereferenced as such.
enum class ImageAddr : uint64_t {};
constexpr uint64_t to_u64(ImageAddr a) { return static_cast<uint64_t>(a); }
// A byte offset in a file.
enum class FileOff : uint64_t {};
constexpr uint64_t to_u64(FileOff o) { return static_cast<uint64_t>(o); }

// Every kind of failure the library distinguishes. errno_of() maps each to the errno of the C API.
enum class Errc : uint16_t {
  kOk = 0,
  kInvalid,         // bad argument
  kSystem,          // a system call failed; sys_errno says how
  kNoMemory,        // memory or address space
  kNotInitialised,  // no session
  kAlready,         // session exists already
  kBusy,            // another session uses it
  kNotFound,        // no such object
  kUnsupported,     // a state that cannot be saved or restored
  kCannotStop,      // a thread could not be stopped
  kAgentGone,       // the agent process is not there
  kForeign,         // not an image of ours
  kDamaged,         // checksum or structure wrong
  kTooNew,          // format newer than this program
  kWrongMachine,    // architecture, page size, CPU features
  kNotWhole,        // no whole checkpoint
  kDeadlock,        // called from a hook
  kPermission,      // not allowed
  kTimeout,
  kAgentStart,  // the agent said why it could not start; its words hold the errno's
  kLast = kAgentStart,
};

struct Error {
  Errc code = Errc::kOk;
  int sys_errno = 0;
  const char* what = "";  // a literal
};
static_assert(std::is_trivially_copyable_v<Error>);

// Value or Error. Member names follow std::expected so that it can be swapped in later.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : ok_(true) { new (&storage_) T(std::move(value)); }  // NOLINT implicit by design
  Result(Error e) : ok_(false), error_(e) {}                            // NOLINT implicit by design
  Result(Result&& o) noexcept : ok_(o.ok_), error_(o.error_) {
    if (ok_) new (&storage_) T(std::move(*o));
  }
  Result(const Result&) = delete;
  Result& operator=(const Result&) = delete;
  Result& operator=(Result&&) = delete;
  ~Result() {
    if (ok_) (**this).~T();
  }
  bool has_value() const { return ok_; }
  explicit operator bool() const { return ok_; }
  T& operator*() { return *reinterpret_cast<T*>(&storage_); }
  const T& operator*() const { return *reinterpret_cast<const T*>(&storage_); }
  T* operator->() { return &**this; }
  const T* operator->() const { return &**this; }
  const Error& error() const { return error_; }

 private:
  bool ok_;
  Error error_{};
  alignas(T) unsigned char storage_[sizeof(T)];
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error e) : error_(e) {}  // NOLINT implicit by design
  bool has_value() const { return error_.code == Errc::kOk; }
  explicit operator bool() const { return has_value(); }
  const Error& error() const { return error_; }

 private:
  Error error_{};
};

#define CRB_JOIN_(a, b) a##b
#define CRB_JOIN(a, b) CRB_JOIN_(a, b)
// CR_TRY(auto x, f()): x = value, or return the Error. CR_TRYV(f()): the same for Result<void>.
#define CR_TRY(decl, expr)                                                      \
  auto CRB_JOIN(cr_try_, __LINE__) = (expr);                                    \
  if (!CRB_JOIN(cr_try_, __LINE__)) return CRB_JOIN(cr_try_, __LINE__).error(); \
  decl = std::move(*CRB_JOIN(cr_try_, __LINE__))
#define CR_TRYV(expr)                       \
  do {                                      \
    auto cr_tryv_ = (expr);                 \
    if (!cr_tryv_) return cr_tryv_.error(); \
  } while (0)

// errno for the C API.
int errno_of(const Error& e);
// Short name of the code, for messages ("damaged", "too new", ...).
const char* name_of(Errc code);

}  // namespace cr
