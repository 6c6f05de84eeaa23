// SPDX-License-Identifier: MIT
// proc_test.cc - parsing of /proc texts.
#include "os/proc.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

Test(proc, parses_map_lines) {
  auto maps = cr::os::parse_maps(
      "00400000-00401000 r-xp 00002000 08:01 1234 /usr/bin/a name (deleted)\n"
      "7f0000000000-7f0000002000 rw-s 00000000 00:01 77 /dev/zero (deleted)\n"
      "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n"
      "7ffc00100000-7ffc00101000 ---p 00000000 00:00 0\n");
  cr_assert(maps.has_value());
  cr_assert_eq(maps->size(), 4u);
  const cr::os::MapEntry& a = (*maps)[0];
  cr_assert_eq(a.start, 0x400000u);
  cr_assert_eq(a.end, 0x401000u);
  cr_assert_eq(a.prot, PROT_READ | PROT_EXEC);
  cr_assert_eq(a.offset, 0x2000u);
  cr_assert_eq(a.dev, makedev(8, 1));
  cr_assert_eq(a.ino, 1234u);
  cr_assert(a.deleted && a.name == "/usr/bin/a name" && !a.shared);
  cr_assert((*maps)[1].shared);
  cr_assert((*maps)[2].name == "[stack]");
  cr_assert((*maps)[3].name.empty() && (*maps)[3].prot == 0);
}

Test(proc, parses_smaps_fields) {
  auto maps = cr::os::parse_maps(
      "00400000-00500000 rw-p 00000000 00:00 0 \n"
      "Rss:                 12 kB\n"
      "Swap:                 4 kB\n"
      "VmFlags: rd wr mr mw me ac dc wf \n");
  cr_assert(maps.has_value());
  cr_assert_eq((*maps)[0].rss_bytes, 12u << 10);
  cr_assert_eq((*maps)[0].swap_bytes, 4u << 10);
  cr_assert((*maps)[0].vm_flags.find(" wf ") != std::string::npos);
}

Test(proc, refuses_a_map_line_that_it_cannot_parse) {
  cr_assert_not(cr::os::parse_maps("00400000-00500000 nonsense\n").has_value());
}

Test(proc, finds_status_fields) {
  const std::string status = "Name:\tx\nNSpid:\t100\t7\nUmask:\t0022\n";
  cr_assert(cr::os::status_field(status, "NSpid") == "100\t7");
  cr_assert(cr::os::status_field(status, "Name") == "x");
  cr_assert(cr::os::status_field(status, "pid").empty());
}

Test(proc, finds_the_id_that_a_process_sees_itself) {
  const std::string nested = "NStgid:\t100\t9\t7\nNSpid:\t101\t10\t8\n";
  const std::string plain = "NStgid:\t100\nNSpid:\t101\n";
  cr_assert_eq(cr::os::innermost_id(nested, "NStgid"), 7);
  cr_assert_eq(cr::os::innermost_id(nested, "NSpid"), 8);
  cr_assert_eq(cr::os::innermost_id(plain, "NSpid"), 101);
  cr_assert_eq(cr::os::innermost_id(plain, "NSsid"), 0);
  cr_assert(cr::os::in_pid_namespace(nested));
  cr_assert_not(cr::os::in_pid_namespace(plain));
  cr_assert_eq(cr::os::inner_tid(getpid(), getpid()), getpid());
  cr_assert_eq(cr::os::inner_tid(getpid(), -5), -5, "no such thread: the id that was given");
}

Test(proc, knows_a_killed_process) {
  cr_assert_not(cr::os::is_killed("SigPnd:\t0000000000000100\nShdPnd:\t0000000000000200\n"));
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  const std::string path = cr::os::task_path(child, child, "status");
  cr_assert_not(cr::os::is_killed(cr::os::read_or_empty(path)));
  kill(child, SIGKILL);
  cr_assert(cr::os::is_killed(cr::os::read_or_empty(path)));
  waitpid(child, nullptr, 0);
}

Test(proc, reads_the_stat_of_this_process) {
  auto stat = cr::os::read_stat(getpid(), getpid());
  cr_assert(stat.has_value());
  cr_assert_eq(stat->ppid, getppid());
  cr_assert_eq(stat->pgid, getpgrp());
  cr_assert(stat->start_stack != 0 && stat->env_end >= stat->env_start);
}

Test(proc, finds_the_least_memory_limit) {
  char name[] = "/tmp/crtest-cgroup-XXXXXX";
  const std::string root = mkdtemp(name);
  auto put = [&](const std::string& path, const char* text) {
    std::filesystem::create_directories(root + path);
    return std::ofstream(root + path +
                         (path.starts_with("/memory") ? "/memory.limit_in_bytes" : "/memory.max"))
           << text;
  };
  put("/a", "3000\n");
  put("/a/b", "max\n");
  put("/memory/job", "9223372036854771712\n");
  put("/memory/job/step", "2000\n");
  std::string group = "?";
  cr_expect_eq(cr::os::memory_limit("0::/a/b\n", root, &group), 3000u);
  cr_expect_eq(group, "/a");
  cr_expect_eq(cr::os::memory_limit("5:cpu,memory:/job/step\n0::/a/b\n", root, &group), 2000u);
  cr_expect_eq(group, "/job/step");
  group = "?";
  cr_expect_eq(cr::os::memory_limit("5:memoryless:/job/step\n0::/none\n", root, &group), ~0ull);
  cr_expect_eq(cr::os::memory_limit("nonsense", root, &group), ~0ull);
  cr_expect_eq(group, "?");
  std::filesystem::remove_all(root);
}
