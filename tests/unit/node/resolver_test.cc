// SPDX-License-Identifier: MIT
// resolver_test.cc - looking up hosts' names while the name service is slow or gone.
// Invariant under test: find() never waits for it; an address that was good stays; what cannot be
// resolved is told in words, and is found when it can be.
#include "node/resolver.h"

#include <criterion/criterion.h>

#include <atomic>
#include <future>
#include <memory>
#include <mutex>

#include "rawsys/rawsys.h"

namespace {

using cr::Errc;
using cr::Error;
using cr::Result;
using cr::node::Address;
using cr::node::Resolver;
using cr::rawsys::now_ns;

constexpr uint64_t kLongNs = 60'000'000'000;

// A name service whose answers are chosen here.
struct Names {
  std::mutex mutex;  // held: it does not answer
  std::string digits = "10.1.2.3";
  std::atomic<int> asked = 0, told = 0;

  Resolver::LookUp look_up() {
    return [this](const std::string&, std::string* ret_why) -> Result<Address> {
      ++asked;
      const std::lock_guard held(mutex);
      if (!digits.empty()) return *cr::node::address_of_digits(digits, 0);
      *ret_why = "it says no";
      return Error{Errc::kInvalid, 0, "no such host"};
    };
  }
};

Test(resolver, nobody_waits_for_a_service_that_does_not_answer) {
  Names names;
  Resolver resolver([&] { ++names.told; }, names.look_up());
  names.mutex.lock();
  for (int i = 0; i < 3; i++) {
    const auto a = resolver.find("db", 7);
    cr_assert(!a.address && a.trouble.empty() && a.looking_ns != 0);
  }
  cr_assert_not(resolver.wait("db", 7, now_ns() + 1'000'000).address.has_value());
  // Digits need no service.
  const auto digits = resolver.find("127.0.0.1", 9);
  cr_assert(digits.address && digits.address->text() == "127.0.0.1:9");
  names.mutex.unlock();
  const auto a = resolver.wait("db", 7, now_ns() + kLongNs);
  cr_assert(a.address && a.address->text() == "10.1.2.3:7");
  cr_assert_eq(names.asked.load(), 1);
  while (names.told != 1) {
  }
}

Test(resolver, the_last_good_address_stays) {
  Names names;
  Resolver resolver({}, names.look_up());
  cr_assert(resolver.wait("db", 7, now_ns() + kLongNs).address.has_value());
  names.mutex.lock();
  names.digits.clear();
  names.mutex.unlock();
  Resolver::Answer a;
  do a = resolver.find("db", 8);
  while (a.trouble.empty());
  cr_assert(a.address && a.address->text() == "10.1.2.3:8");
  cr_assert(a.trouble.starts_with("db: the host's name cannot be resolved (it says no); see "));
  names.mutex.lock();
  names.digits = "10.1.2.4";
  names.mutex.unlock();
  do a = resolver.find("db", 8);
  while (a.address->text() != "10.1.2.4:8");
  cr_assert(a.trouble.empty());
}

Test(resolver, may_end_while_the_service_does_not_answer) {
  auto names = std::make_shared<Names>();
  names->mutex.lock();
  {
    Resolver resolver(
        [&] { cr_assert_fail("nobody is to be told"); },
        [names](const std::string& host, std::string* why) { return names->look_up()(host, why); });
    (void)resolver.find("db", 7);
    while (names->asked == 0) {
    }
  }
  names->mutex.unlock();
}

}  // namespace
