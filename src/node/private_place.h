// SPDX-License-Identifier: MIT
// private_place.h - where the private crstored of this user on this host has its store, its socket,
// its log and its configuration.
// Invariant: it is found by the user and the host alone, not by who started it; no directory is
// used that belongs to somebody else or that others may write.
// Context: N. Doc: docs/store.md, "A private crstored".
#pragma once

#include <string>

#include "base/base.h"

namespace cr::node {

struct PrivatePlace {
  std::string dir;     // $XDG_STATE_HOME/checkpoint_restore/HOST; all but the socket is in it
  std::string store;   // of parts
  std::string log;     // what it says
  std::string lock;    // held while one starts or ends
  std::string link;    // where programs look for the socket: that, or a symbolic link to it
  std::string socket;  // set by make_private_place()
};

// Names only, nothing is looked at. The text names what is missing and how to give it.
Result<PrivatePlace> private_place(std::string* ret_text);
// Makes the directories as far as they are not there, and chooses where the socket is.
Result<void> make_private_place(PrivatePlace* place, std::string* ret_text);
// There has been a private crstored here, or there is a configuration for one.
bool has_private_place();
// $XDG_CONFIG_HOME/checkpoint_restore/crstored.conf, there or not; "" without a home directory.
std::string private_configuration_path();
// The same; "" if it is not there. A file that somebody else could have written is an error.
Result<std::string> private_configuration(std::string* ret_text);

}  // namespace cr::node
