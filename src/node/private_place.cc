// SPDX-License-Identifier: MIT
// private_place.cc - see private_place.h. Invariant: as there. Context: N.
#include "node/private_place.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/checksum.h"
#include "os/fd.h"

namespace cr::node {
namespace {

// The value of the variable if that is an absolute path; others are to be ignored.
std::string path_of_environment(const char* variable) {
  const char* value = getenv(variable);
  return value != nullptr && *value == '/' ? value : "";
}

std::string home_directory() {
  if (std::string home = path_of_environment("HOME"); !home.empty()) return home;
  const passwd* user = getpwuid(geteuid());
  return user != nullptr && user->pw_dir != nullptr && *user->pw_dir == '/' ? user->pw_dir : "";
}

// As a name of a directory: hosts share home directories.
std::string host_name() {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0 || *host == '\0') return "localhost";
  std::string name = host;
  for (char& c : name) {
    if (strchr("/ \t\n", c) != nullptr) c = '_';
  }
  return name[0] == '.' ? "_" + name : name;
}

Error no_permission(const char* what) { return {Errc::kPermission, EPERM, what}; }

// next: what to do about it.
Result<void> check_own_directory(const std::string& path, const std::string& next,
                                 std::string* ret_text) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) {
    const int e = errno;
    *ret_text = path + ": " + strerror(e) + "; " + next;
    return Error{Errc::kSystem, e, "looking at a directory"};
  }
  if (!S_ISDIR(st.st_mode)) {
    *ret_text = path + ": is no directory; " + next;
    return Error{Errc::kInvalid, ENOTDIR, "not a directory"};
  }
  if (st.st_uid != geteuid()) {
    *ret_text = path + ": belongs to user id " + std::to_string(st.st_uid) +
                ", and a private crstored of user id " + std::to_string(geteuid()) +
                " takes a directory of its own user only; " + next;
    return no_permission("the directory is another user's");
  }
  if ((st.st_mode & 022) != 0) {
    *ret_text = path + ": others than its owner may write there; `chmod go-w` it, or " + next;
    return no_permission("the directory may be written by others");
  }
  return {};
}

// All that is missing of the path, for the user alone.
Result<void> make_directories(const std::string& path, const std::string& next,
                              std::string* ret_text) {
  for (size_t at = 0; at != std::string::npos;) {
    at = path.find('/', at + 1);
    const std::string part = path.substr(0, at);
    struct stat st;
    if (stat(part.c_str(), &st) == 0 || mkdir(part.c_str(), 0700) == 0 || errno == EEXIST) continue;
    const int e = errno;
    *ret_text = part + ": the directory cannot be made: " + strerror(e) + "; " + next;
    return Error{Errc::kSystem, e, "making a directory"};
  }
  return check_own_directory(path, next, ret_text);
}

constexpr char kOtherState[] =
    "set XDG_STATE_HOME to a directory of yours, or name a crstored's socket in CR_STORE_SOCKET";
constexpr char kOtherRuntime[] = "set XDG_RUNTIME_DIR to a directory of yours, or unset it";

}  // namespace

Result<PrivatePlace> private_place(std::string* ret_text) {
  std::string state = path_of_environment("XDG_STATE_HOME");
  if (state.empty() && geteuid() == 0) state = "/var/lib";
  if (state.empty()) {
    const std::string home = home_directory();
    if (home.empty()) {
      *ret_text =
          "there is no place for a private crstored: neither XDG_STATE_HOME nor HOME is an "
          "absolute path, and user id " +
          std::to_string(geteuid()) + " has no home directory; " + kOtherState;
      return Error{Errc::kNotFound, 0, "no home directory"};
    }
    state = home + "/.local/state";
  }
  PrivatePlace p;
  p.dir = state + "/checkpoint_restore/" + host_name();
  p.store = p.dir + "/store";
  p.log = p.dir + "/log";
  p.lock = p.dir + "/lock";
  p.link = p.dir + "/socket";
  return p;
}

Result<void> make_private_place(PrivatePlace* place, std::string* ret_text) {
  // Who owns the one above could put another in its place.
  const std::string above = place->dir.substr(0, place->dir.find_last_of('/'));
  CR_TRYV(make_directories(above, kOtherState, ret_text));
  CR_TRYV(make_directories(place->dir, kOtherState, ret_text));
  const std::string runtime = path_of_environment("XDG_RUNTIME_DIR");
  if (runtime.empty() || (access(runtime.c_str(), F_OK) != 0 && errno == ENOENT)) {
    place->socket = place->link;
    return {};
  }
  CR_TRYV(check_own_directory(runtime, kOtherRuntime, ret_text));
  const std::string dir = runtime + "/crstored";
  CR_TRYV(make_directories(dir, kOtherRuntime, ret_text));
  char name[32];  // hosts may share that directory, too, and users have several state directories
  snprintf(name, sizeof(name), "%016lx.sock",
           format::checksum(place->dir.data(), place->dir.size()));
  place->socket = dir + "/" + name;
  return {};
}

bool has_private_place() {
  std::string text;
  const auto place = private_place(&text);
  if (place && access(place->store.c_str(), F_OK) == 0) return true;
  const auto configuration = private_configuration(&text);
  return !configuration || !configuration->empty();
}

std::string private_configuration_path() {
  std::string dir = path_of_environment("XDG_CONFIG_HOME");
  if (dir.empty()) {
    const std::string home = home_directory();
    if (home.empty()) return "";
    dir = home + "/.config";
  }
  return dir + "/checkpoint_restore/crstored.conf";
}

Result<std::string> private_configuration(std::string* ret_text) {
  const std::string path = private_configuration_path();
  if (path.empty()) return std::string();
  const auto file = os::open_file(path, O_RDONLY);
  const int e = file ? 0 : file.error().sys_errno;
  if (e == ENOENT || e == ENOTDIR) return std::string();
  struct stat st;
  if (!file || fstat(file->get(), &st) != 0) {
    *ret_text = path + ": " + strerror(e) + "; make it readable, or remove it";
    return Error{Errc::kSystem, e, "opening the configuration"};
  }
  if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & S_IWOTH) != 0) {
    *ret_text = path +
                ": a configuration must belong to its user or to root, and nobody else may "
                "write it; see `ls -l`";
    return no_permission("the configuration may be written by others");
  }
  return path;
}

}  // namespace cr::node
