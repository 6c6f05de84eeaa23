// SPDX-License-Identifier: MIT
// members_test.cc - member lists: files, Slurm's node lists, lists of an option; which one we are.
// Invariant under test: what is right is read exactly, and what is not right is refused with its
// place, its cause and the right form.
#include "node/members.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/unit/nvheap/random.h"

namespace {

using cr::node::expand_slurm_nodelist;
using cr::node::find_self;
using cr::node::load_members;
using cr::node::Member;
using cr::node::MemberSource;
using cr::node::parse_member_list;
using cr::node::parse_members;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::vector<Member> parsed(const std::string& text) {
  std::string why;
  auto list = parse_members(text, "nodes", &why);
  cr_assert(list.has_value(), "%s", why.c_str());
  return std::move(*list);
}

std::string refusal(const std::string& text) {
  std::string why;
  auto list = parse_members(text, "nodes", &why);
  cr_assert_not(list.has_value(), "%s", text.c_str());
  cr_assert(list.error().code == cr::Errc::kInvalid);
  return why;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& n : names) text += (text.empty() ? "" : " ") + n;
  return text;
}

std::string expanded(const std::string& text) {
  std::string why;
  auto names = expand_slurm_nodelist(text, &why);
  return names.has_value() ? joined(*names) : "refused: " + why;
}

Member member(const std::string& name, const std::string& host) {
  Member m;
  m.name = name;
  m.host = host;
  return m;
}

// The name of ourselves, or the message.
std::string self_of(const std::vector<Member>& list, const std::string& own,
                    const std::string& hostname) {
  std::string why;
  auto found = find_self(list, own, hostname, &why);
  return found.has_value() ? list[*found].name : "refused: " + why;
}

class TextFile {
 public:
  explicit TextFile(const std::string& text) {
    char name[] = "/tmp/cr-members-test-XXXXXX";
    const int fd = mkstemp(name);
    cr_assert(fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    close(fd);
    path = name;
  }
  ~TextFile() { unlink(path.c_str()); }
  std::string path;
};

}  // namespace

Test(members, a_file_is_read) {
  const auto list = parsed(
      "# our nodes\n"
      "\n"
      "a 10.0.0.1 rack=left\n"
      "  b\tnode-b.example.org:9000   # the big one\r\n"
      "c [fe80::1%eth0]:80\track=r.2\n"
      "d [2001:db8::7]\n"
      "e_1 e");
  cr_assert_eq(list.size(), 5u);
  const struct {
    const char *name, *host;
    uint16_t port;
    const char *rack, *address;
  } expected[] = {
      {"a", "10.0.0.1", 7117, "left", "10.0.0.1:7117"},
      {"b", "node-b.example.org", 9000, "", "node-b.example.org:9000"},
      {"c", "fe80::1%eth0", 80, "r.2", "[fe80::1%eth0]:80"},
      {"d", "2001:db8::7", 7117, "", "[2001:db8::7]:7117"},
      {"e_1", "e", 7117, "", "e:7117"},
  };
  for (size_t i = 0; i < 5; i++) {
    cr_assert_str_eq(list[i].name.c_str(), expected[i].name);
    cr_assert_str_eq(list[i].host.c_str(), expected[i].host);
    cr_assert_eq(list[i].port, expected[i].port);
    cr_assert_str_eq(list[i].rack.c_str(), expected[i].rack);
    const std::string address = cr::node::address_of(list[i]);
    cr_assert_str_eq(address.c_str(), expected[i].address);
    cr_assert(list[i].state == cr::node::NodeState::kUp);
    cr_assert_eq(cr::node::find_member(list, list[i].name), i);
  }
  cr_assert_eq(cr::node::find_member(list, "x"), 5u);
}

Test(members, a_wrong_line_is_refused_with_its_number_the_cause_and_the_form) {
  const struct {
    const char *line, *cause;
  } cases[] = {
      {"x", "node \"x\" has no host"},
      {"x/y host", "name \"x/y\""},
      {"-x host", "name \"-x\""},
      {"\x01 host", "name \"?\""},
      {"x host:0", "port \"0\" is not a number from 1 to 65535"},
      {"x host:65536", "port \"65536\""},
      {"x host:", "port \"\""},
      {"x host:12a", "port \"12a\""},
      {"x :80", "host \"\""},
      {"x ho$t", "host \"ho$t\""},
      {"x 1.2.3.400", "host \"1.2.3.400\""},
      {"x 1.2.3", "host \"1.2.3\""},
      {"x fe80::1", "an IPv6 address needs brackets, as [fe80::1]"},
      {"x [fe80::1", "has no \"]\""},
      {"x [fe80::zz]", "\"fe80::zz\" is not an IPv6 address"},
      {"x [10.0.0.1]", "\"10.0.0.1\" is not an IPv6 address"},
      {"x [fe80::1%]", "is not an IPv6 address"},
      {"x [fe80::1]80", "\"80\" after \"]\" is not :PORT"},
      {"x [fe80::1]:x", "port \"x\""},
      {"x host rack", "\"rack\" is not rack=LABEL"},
      {"x host rack=", "rack \"\""},
      {"x host rack=a/b", "rack \"a/b\""},
      {"x host row=1", "\"row=1\" is not rack=LABEL"},
      {"x host rack=a rack=b", "there are two racks"},
      {"a host", "name \"a\" is that of line 1 too"},
      {"x A.example", "address A.example:7117 is that of line 1 too"},
      {"x [0:0::1]:5", "address [0:0::1]:5 is that of line 2 too"},
  };
  for (const auto& c : cases) {
    const std::string why = refusal(std::string("a a.example\nb [::1]:5\n") + c.line + "\nz z\n");
    cr_assert(has(why, c.cause), "%s: %s", c.line, why.c_str());
    cr_assert(why.find("nodes:3: ") == 0, "%s", why.c_str());
    cr_assert(has(why, "; a line is NAME HOST[:PORT] [rack=LABEL]"), "%s", why.c_str());
  }
  // One host with two ports is two nodes.
  cr_assert_eq(parsed("a h:1\nb h:2\n").size(), 2u);
}

Test(members, an_empty_list_is_refused) {
  for (const char* text : {"", "\n\n", "# a h\n", "   "}) {
    cr_assert(has(refusal(text), "nodes: no node is in it; "), "%s", text);
  }
}

Test(members, a_list_has_a_bound) {
  std::string text;
  for (size_t i = 0; i < cr::node::kMostNodes; i++) {
    text += "n" + std::to_string(i) + " h" + std::to_string(i) + "\n";
  }
  cr_assert_eq(parsed(text).size(), cr::node::kMostNodes);
  const std::string why = refusal(text + "x x\n");
  cr_assert(has(why, "nodes:65537: there are more than 65536 nodes"), "%s", why.c_str());
}

Test(members, any_bytes_are_read_or_refused) {
  cr_test::Random random(cr_test::test_seed());
  const char alphabet[] = "ab01.:[]%#= \n\t-,/\xff";
  for (int round = 0; round < 20000; round++) {
    std::string text;
    for (uint64_t n = random.below(40); n > 0; n--) {
      text += alphabet[random.below(sizeof(alphabet) - 1)];
    }
    std::string why;
    auto list = parse_members(text, "nodes", &why);
    cr_assert(list.has_value() || !why.empty());
    auto names = expand_slurm_nodelist(text, &why);
    auto other = parse_member_list(text, &why);
    if (list.has_value()) {
      for (const Member& m : *list) cr_assert(!m.name.empty() && !m.host.empty() && m.port != 0);
    }
    cr_assert(!names.has_value() || !names->empty());
    cr_assert(!other.has_value() || !other->empty());
  }
}

Test(slurm, a_node_list_is_expanded) {
  const struct {
    const char *text, *names;
  } cases[] = {
      {"login", "login"},
      {"n1,n2", "n1 n2"},
      {"n[1-3]", "n1 n2 n3"},
      {"n[01-04,7],login,gpu-[1-2]-ib", "n01 n02 n03 n04 n7 login gpu-1-ib gpu-2-ib"},
      {"n[08-11]", "n08 n09 n10 n11"},
      {"n[098-101]", "n098 n099 n100 n101"},
      {"n[8-11]", "n8 n9 n10 n11"},
      {"n[0]", "n0"},
      {"n[000]", "n000"},
      {"r[1-2]n[01-02]", "r1n01 r1n02 r2n01 r2n02"},
      {"r[1-2]c[0-1]s[7,9]x", "r1c0s7x r1c0s9x r1c1s7x r1c1s9x r2c0s7x r2c0s9x r2c1s7x r2c1s9x"},
      {"[1-2]", "1 2"},
      {"[1-2]a", "1a 2a"},
  };
  for (const auto& c : cases) {
    const std::string names = expanded(c.text);
    cr_assert_str_eq(names.c_str(), c.names);
  }
}

Test(slurm, a_wrong_node_list_is_refused) {
  const struct {
    const char *text, *cause;
  } cases[] = {
      {"", "name \"\""},
      {",a", "name \"\""},
      {"a,", "name \"\""},
      {"n[1-2", "no \"]\" in \"n[1-2\""},
      {"a,n1]", "a \"]\" too many in \"n1]\""},
      {"n[1[2]]", "a \"[\" too many in \"n[1[2]]\""},
      {"n[]", "\"\" is not a number or a range"},
      {"n[1,]", "\"\" is not a number or a range"},
      {"n[1-]", "\"1-\" is not a number or a range"},
      {"n[-1]", "\"-1\" is not a number or a range"},
      {"n[1-2-3]", "\"1-2-3\" is not a number or a range"},
      {"n[a-b]", "\"a-b\" is not a number or a range"},
      {"n[3-1]", "the range \"3-1\" runs backwards"},
      {"n[1-99999999999999999999]", "is not a number or a range"},
      {"a b", "name \"a b\""},
      {"n[0-65536]", "more than 65536 names"},
      {"n[0-999999999999999999]", "more than 65536 names"},
      {"n[0-1000]m[0-1000]", "more than 65536 names"},
      {"n[0-65535],m", "more than 65536 names"},
  };
  for (const auto& c : cases) {
    const std::string why = expanded(c.text);
    cr_assert(why.find("refused: SLURM_JOB_NODELIST: ") == 0, "%s: %s", c.text, why.c_str());
    cr_assert(has(why, c.cause), "%s: %s", c.text, why.c_str());
    cr_assert(has(why, "; names are as n[01-04,7],login"), "%s", why.c_str());
  }
  // What grows without bound is seen before it has grown.
  const std::string why_long = expanded("n[0-65535]" + std::string(1 << 20, 'x'));
  cr_assert(has(why_long, "a name of more than 253 bytes"), "%s", why_long.c_str());
  std::string why;
  cr_assert_eq(expand_slurm_nodelist("n[0-65535]", &why)->size(), 65536u);
}

Test(members, a_list_of_an_option_is_read) {
  std::string why;
  auto list = parse_member_list("a=h1:80,b=[::1]:90/rack=r1,h3,c=10.0.0.1/rack=r2", &why);
  cr_assert(list.has_value(), "%s", why.c_str());
  cr_assert_eq(list->size(), 4u);
  const char* names[] = {"a", "b", "h3", "c"};
  const char* addresses[] = {"h1:80", "[::1]:90", "h3:7117", "10.0.0.1:7117"};
  const char* racks[] = {"", "r1", "", "r2"};
  for (size_t i = 0; i < 4; i++) {
    const std::string address = cr::node::address_of((*list)[i]);
    cr_assert_str_eq((*list)[i].name.c_str(), names[i]);
    cr_assert_str_eq(address.c_str(), addresses[i]);
    cr_assert_str_eq((*list)[i].rack.c_str(), racks[i]);
  }
  for (const char* text : {"", "a=", "=h", "a=h,", "a=h,a=i", "a=h,b=h", "a=h,[::1]", "a=h:x",
                           "a=h/shelf=1", "a=h/rack=", "a b=h"}) {
    cr_assert_not(parse_member_list(text, &why).has_value(), "%s", text);
    cr_assert(why.find("node ") == 0 && has(why, "; the list is NAME=HOST"), "%s", why.c_str());
  }
  cr_assert_not(parse_member_list("a=h,b=h", &why).has_value());
  cr_assert(has(why, "node 2 of the member list: address h:7117 is that of node 1 too"), "%s",
            why.c_str());
}

Test(self, is_found_by_name_then_by_host_name) {
  const std::vector<Member> list = {member("n1", "10.0.0.1"), member("n2.cluster", "10.0.0.2"),
                                    member("x", "n3.cluster"), member("y", "n4"),
                                    member("z", "10.0.0.3")};
  const struct {
    const char *own, *hostname, *is;
  } cases[] = {
      {"z", "n1", "z"},  // the name that was given comes first
      {"", "n1", "n1"},
      {"", "N1", "n1"},
      {"", "n1.cluster", "n1"},
      {"", "n2", "n2.cluster"},
      {"", "n2.cluster", "n2.cluster"},
      {"", "n3.cluster", "x"},
      {"", "n3", "x"},
      {"", "n4.cluster", "y"},
  };
  for (const auto& c : cases) {
    const std::string is = self_of(list, c.own, c.hostname);
    cr_assert(is == c.is, "%s %s: %s", c.own, c.hostname, is.c_str());
  }
  for (const char* hostname : {"", "10", "n", "n5", "10.0.0.9"}) {
    const std::string why = self_of(list, "", hostname);
    cr_assert(why.find("refused: no node of the member list (n1, n2.cluster, x, y, z) is this "
                       "host, \"" +
                       std::string(hostname) + "\"; ") == 0,
              "%s", why.c_str());
  }
  const std::string why = self_of(list, "w", "n1");
  cr_assert(has(why, "node \"w\" is not in the member list (n1, n2.cluster, x, y, z); "), "%s",
            why.c_str());
}

Test(self, two_members_on_one_host_must_be_told_apart) {
  const std::vector<Member> list = {member("a", "me"), member("b", "me"), member("me.x", "1.1.1.1"),
                                    member("me.y", "1.1.1.2")};
  std::string why = self_of({list[0], list[1]}, "", "me");
  cr_assert(has(why, "refused: nodes a and b of the member list are both this host"), "%s",
            why.c_str());
  why = self_of(list, "", "me");
  cr_assert(has(why, "nodes me.x and me.y"), "%s", why.c_str());
  why = self_of(list, "", "me.y");  // the full name decides
  cr_assert_str_eq(why.c_str(), "me.y");
  why = self_of(list, "b", "me");
  cr_assert_str_eq(why.c_str(), "b");
}

// The name of ourselves and the number of nodes, or the message.
static std::string loaded(const MemberSource& source) {
  std::string why;
  auto members = load_members(source, &why);
  if (!members) return why;
  return members->self().name + " of " + std::to_string(members->list.size());
}

Test(load, takes_the_file_else_slurm_else_the_list) {
  const TextFile file("a h1\nb h2\n");
  MemberSource source;
  source.file = file.path;
  source.slurm_nodelist = "n[1-3]";
  source.list = "x=h1,y=h2,z=h3,v=h4";
  source.hostname = "h2";
  cr_assert(loaded(source) == "b of 2");
  source.file = "";
  source.hostname = "n3.cluster";
  cr_assert(loaded(source) == "n3 of 3");
  source.slurm_nodelist = "";
  source.own_name = "x";
  cr_assert(loaded(source) == "x of 4");
  source.list = "";
  cr_assert(has(loaded(source), "there is no member list; give a file"));
}

Test(load, says_what_is_wrong) {
  MemberSource source;
  source.own_name = "a";
  source.file = "/nowhere/nodes";
  cr_assert(has(loaded(source), "/nowhere/nodes: cannot be read: No such file or directory; "));
  source.file = "/tmp";
  cr_assert(has(loaded(source), "/tmp: cannot be read: Is a directory; "));
  const TextFile file("a h1\nb\n");
  source.file = file.path;
  cr_assert(has(loaded(source), file.path + ":2: node \"b\" has no host; "));
  source.file = "";
  source.slurm_nodelist = "n[1-2],n1";
  cr_assert(has(loaded(source), "SLURM_JOB_NODELIST: name \"n1\" is that of another node"));
}

Test(load, finds_this_host_by_itself) {
  char hostname[256] = "";
  cr_assert_eq(gethostname(hostname, sizeof(hostname) - 1), 0);
  MemberSource source;
  source.list = std::string("other=10.9.8.7,us=") + hostname;
  cr_assert(loaded(source) == "us of 2", "%s", loaded(source).c_str());
}

Test(load, the_environment_has_slurms_nodes) {
  setenv("SLURM_JOB_NODELIST", "n[1-2]", 1);
  cr_assert(cr::node::slurm_nodelist_of_environment() == "n[1-2]");
  unsetenv("SLURM_JOB_NODELIST");
  cr_assert(cr::node::slurm_nodelist_of_environment().empty());
}
