// SPDX-License-Identifier: MIT
// private_place_test.cc - where a private crstored is, and the directories that it refuses.
#include "node/private_place.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "node/client.h"
#include "node/private_start.h"
#include "node/unix_address.h"

namespace {

using namespace cr::node;

// A directory of its own for each test, in which everything is.
struct Directory {
  std::string path = "/tmp/crtest-private-XXXXXX";
  Directory() {
    cr_assert(mkdtemp(path.data()) != nullptr);
    setenv("XDG_STATE_HOME", (path + "/state").c_str(), 1);
    setenv("XDG_CONFIG_HOME", (path + "/config").c_str(), 1);
    setenv("XDG_RUNTIME_DIR", path.c_str(), 1);
    unsetenv("CR_STORE_SOCKET");
  }
  ~Directory() { std::filesystem::remove_all(path); }
};

PrivatePlace place_of_environment() {
  std::string text;
  auto place = private_place(&text);
  cr_assert(place.has_value(), "%s", text.c_str());
  return *place;
}

std::string refusal(PrivatePlace place) {
  std::string text;
  return make_private_place(&place, &text) ? "" : text;
}

}  // namespace

Test(private_place, is_in_the_state_and_runtime_directories) {
  const Directory d;
  PrivatePlace p = place_of_environment();
  cr_expect(p.dir.starts_with(d.path + "/state/checkpoint_restore/"));
  cr_expect(p.store == p.dir + "/store");
  cr_expect(!has_private_place());
  std::string text;
  cr_assert(make_private_place(&p, &text).has_value(), "%s", text.c_str());
  cr_expect(p.socket.starts_with(d.path + "/crstored/"));
  struct stat st;
  cr_assert(stat(p.dir.c_str(), &st) == 0);
  cr_expect((st.st_mode & 07777) == 0700);
  cr_expect(!has_private_place(), "a directory is no store");
  cr_assert(mkdir(p.store.c_str(), 0700) == 0);
  cr_expect(has_private_place());

  // Another state directory has another socket in the same runtime directory.
  setenv("XDG_STATE_HOME", (d.path + "/other").c_str(), 1);
  PrivatePlace other = place_of_environment();
  cr_assert(make_private_place(&other, &text).has_value(), "%s", text.c_str());
  cr_expect(other.socket != p.socket);
}

Test(private_place, is_beside_the_store_without_a_runtime_directory) {
  const Directory d;
  for (const char* runtime : {"", "not/absolute", "/nothing/is/there"}) {
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    PrivatePlace p = place_of_environment();
    cr_expect(refusal(p).empty(), "%s", runtime);
    std::string text;
    cr_assert(make_private_place(&p, &text).has_value());
    cr_expect(p.socket == p.dir + "/socket");
  }
}

Test(private_place, refuses_directories_that_others_may_change) {
  const Directory d;
  cr_assert(chmod(d.path.c_str(), 0722) == 0);
  cr_expect(refusal(place_of_environment()).find("others than its owner") != std::string::npos);
  cr_assert(chmod(d.path.c_str(), 0755) == 0);
  cr_expect(refusal(place_of_environment()).empty());
  if (geteuid() == 0) {
    cr_assert(chown(d.path.c_str(), 65534, 65534) == 0);
    cr_expect(refusal(place_of_environment()).find("belongs to user id 65534") !=
              std::string::npos);
    cr_assert(chown(d.path.c_str(), 0, 0) == 0);
  }
  const std::string above = d.path + "/state/checkpoint_restore";
  cr_assert(chmod(above.c_str(), 0720) == 0);
  cr_expect(refusal(place_of_environment()).starts_with(above + ": others than its owner"));
  cr_assert(chmod(above.c_str(), 0700) == 0);
  const std::string file = d.path + "/file";
  close(open(file.c_str(), O_CREAT | O_WRONLY, 0600));
  setenv("XDG_RUNTIME_DIR", file.c_str(), 1);
  cr_expect(refusal(place_of_environment()).find("is no directory") != std::string::npos);
}

Test(private_place, configuration_is_the_users_own) {
  const Directory d;
  std::string text;
  cr_expect(*private_configuration(&text) == "");
  const std::string path = d.path + "/config/checkpoint_restore/crstored.conf";
  std::filesystem::create_directories(d.path + "/config/checkpoint_restore");
  close(open(path.c_str(), O_CREAT | O_WRONLY, 0600));
  cr_expect(*private_configuration(&text) == path);
  cr_expect(has_private_place());
  cr_assert(chmod(path.c_str(), 0606) == 0);
  cr_expect(!private_configuration(&text).has_value());
}

Test(unix_address, leads_to_sockets_with_long_paths) {
  const Directory d;
  std::string dir = d.path;
  for (int i = 0; i < 4; i++) {
    dir += "/" + std::string(50, 'd');
    cr_assert(mkdir(dir.c_str(), 0700) == 0);
  }
  const std::string path = dir + "/socket";
  std::string text;
  const cr::os::Fd listen(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  {
    const auto address = unix_address(path, &text);
    cr_assert(address.has_value(), "%s", text.c_str());
    cr_assert(bind(listen.get(), address->get(), sizeof(address->address)) == 0);
  }
  cr_assert(access(path.c_str(), F_OK) == 0);
  cr_assert(::listen(listen.get(), 1) == 0);
  cr_expect(Client::connect(path, &text).has_value(), "%s", text.c_str());
  cr_expect(!unix_address(dir + "/" + std::string(120, 's'), &text).has_value());
  cr_expect(!unix_address(dir + "x/socket", &text).has_value());
}

Test(store_finder, goes_by_name_then_node_then_private) {
  const Directory d;
  std::string text;
  StoreFinder named(d.path + "/named");
  cr_expect(!named.connect(&text).has_value());
  cr_expect(named.socket() == d.path + "/named");
  StoreFinder private_one(kPrivateSocket);
  cr_expect(!private_one.connect(&text).has_value());
  cr_expect(private_one.socket() == place_of_environment().link);
  cr_expect(!private_one.may_start());

  const std::string path = d.path + "/crstored.sock";
  const cr::os::Fd listen(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = unix_address(path, &text);
  cr_assert(address.has_value());
  cr_assert(bind(listen.get(), address->get(), sizeof(address->address)) == 0);
  cr_assert(::listen(listen.get(), 8) == 0);
  StoreFinder any("");
  cr_expect(any.connect(&text).has_value());
  cr_expect(any.socket() == path);
  any.keep();  // from now on that one, though another may answer
  unlink(path.c_str());
  cr_expect(!any.connect(&text).has_value());
  cr_expect(any.socket() == path);
}

Test(store_finder, says_why_none_can_be_started) {
  const Directory d;
  std::string text;
  auto starter = PrivateStarter::make(d.path + "/no-crstored");
  cr_assert(starter.has_value());
  StoreFinder finder(kPrivateSocket, *starter);
  cr_expect(finder.may_start());
  cr::Errc code = cr::Errc::kBusy;
  for (int i = 0; i < 3000 && code == cr::Errc::kBusy; i++) {
    const auto client = finder.connect(&text);
    code = client.error().code;
    usleep(1000);
  }
  cr_expect(code == cr::Errc::kSystem);
  cr_expect(text.find("/no-crstored: No such file or directory") != std::string::npos, "%s",
            text.c_str());
  cr_expect(!start_private("", &text).has_value());
  cr_expect(text.find("crstored is missing") != std::string::npos);
}
