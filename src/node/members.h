// SPDX-License-Identifier: MIT
// members.h - the member list: the nodes that keep each other's checkpoints, and which one we are.
// Invariant: names are unique, and so are addresses; every host and port is well-formed.
// Context: N. Doc: docs/store.md.
//
// A member list is a text of lines
//   NAME HOST[:PORT] [rack=LABEL]      # comment
// NAME and LABEL are letters, digits and . _ -; HOST is a name, an IPv4 address, or an IPv6 address
// in brackets ([fe80::1%eth0] too); PORT is 7117 unless given. Blank lines are nothing.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/base.h"

namespace cr::node {

inline constexpr uint16_t kDefaultPort = 7117;
inline constexpr size_t kMostNodes = 65536;

enum class NodeState : uint8_t {
  kUp,
  kDraining,  // gives its parts away, takes none
  kDown,
};

struct Member {
  std::string name;
  std::string host;  // an IPv6 address without brackets
  uint16_t port = kDefaultPort;
  std::string rack;  // "": no label
  NodeState state = NodeState::kUp;
};

// "host:port", "[address]:port".
std::string address_of(const Member& member);

// On failure *ret_text is the whole message: "FILE:LINE: cause; right form". `source` is the
// file's name. An empty list is an error.
Result<std::vector<Member>> parse_members(std::string_view text, const std::string& source,
                                          std::string* ret_text);
// "a=host:port,b=host" or just "host:port,host2": without NAME= the name is the host. A member may
// have "/rack=LABEL" behind its address.
Result<std::vector<Member>> parse_member_list(std::string_view text, std::string* ret_text);
// The syntax of SLURM_JOB_NODELIST: "n[01-04,7],login,gpu-[1-2]-ib", several brackets in a name,
// numbers as wide as the range's first one, at most 65536 names, in the order they are written.
Result<std::vector<std::string>> expand_slurm_nodelist(std::string_view text,
                                                       std::string* ret_text);

// Where the member list comes from: the first of file, slurm_nodelist and list that is not empty.
struct MemberSource {
  std::string file;
  std::string slurm_nodelist;  // see slurm_nodelist_of_environment()
  std::string list;            // of parse_member_list()
  std::string own_name;        // "": by host name
  std::string hostname;        // "": gethostname(2)'s
};
std::string slurm_nodelist_of_environment();  // SLURM_JOB_NODELIST; "" if there is none

struct Members {
  std::vector<Member> list;
  size_t own = 0;  // index of ourselves

  const Member& self() const { return list[own]; }
};
Result<Members> load_members(const MemberSource& source, std::string* ret_text);

// Index of ourselves: of own_name if that is not "", else of the one member that has our host name:
// first by its name, then by its address, first the full host name, then the short one.
Result<size_t> find_self(const std::vector<Member>& list, const std::string& own_name,
                         const std::string& hostname, std::string* ret_text);
// Index of that name, or list.size().
size_t find_member(const std::vector<Member>& list, std::string_view name);

}  // namespace cr::node
