#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py - runs the crash tests: die at each step of writing and of restoring an image.

  python3 tests/crash/run.py                        all of them, about five minutes
  python3 tests/crash/run.py --quick                a small part of each kind
  python3 tests/crash/run.py 'fault/*' --user=nobody
  python3 tests/crash/run.py 'random/*' --kills 20000 --seconds 0

fault/     SIGKILL at each named point of src/os/fault.h            (faults.py)
alone/     only the program or only its agent is killed             (alone.py)
random/    SIGKILL at random instants, restored and killed again    (random_kills.py)
bad/       images that are damaged, foreign, too new, ...           (bad_images.py)
limits/    no room, no permission                                   (limits.py)
quick/     a program that captures itself, hundreds of times a second (quick.py)
tree/      several processes, at each point and at random       (trees.py)
soak/      programs that know nothing of it, a checkpoint every 10 ms (soak.py; longer: make soak)
The same names behind no_pagemap_scan/ and vdso_patch/ take the portable paths of the engine.
"""

import argparse
import os
import pathlib
import random
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import alone  # noqa: E402
import bad_images  # noqa: E402
import faults  # noqa: E402
import harness  # noqa: E402
import limits  # noqa: E402
import quick  # noqa: E402
import random_kills  # noqa: E402
import real_programs  # noqa: E402
import soak  # noqa: E402
import trees  # noqa: E402
from harness import Failure, Test  # noqa: E402
from subject import LARGE, SMALL  # noqa: E402

DEFAULT_KILLS, QUICK_KILLS = 1000, 60
DEFAULT_SECONDS = 300
LEAST_SHARE = 0.3  # of the kills, however long they take
USERS = ("root", "nobody")
# Each chain of random kills and its share of them; two chains run at a time.
CHAINS = (("64KiB", SMALL, 0.6), ("4MiB", LARGE, 0.4))
# Points that are tried with much data as well: those between which the data moves.
LARGE_POINTS = ("captured", "pages_half", "metadata_written", "committed")
PORTABLE = (("no_pagemap_scan", {"CR_NO_PAGEMAP_SCAN": "1"}),
            ("vdso_patch", {"CR_FORCE_VDSO_PATCH": "1"}))


class Plan:
    """All tests of one run."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.quick = arguments.quick
        self.seed = arguments.seed
        self.kills_done = 0
        self.tests = []
        users = list(USERS)
        if arguments.user and arguments.user not in users:
            users.append(arguments.user)
        self.users = [user for user in harness.usable_users(users)
                      if arguments.user in (None, user.name)]

    def add(self, name, user, function, heavy=False, timeout=harness.DEFAULT_TIMEOUT, extra=""):
        self.tests.append(Test(
            name=name, user=user, function=function, heavy=heavy, timeout=timeout,
            repeat=f"python3 tests/crash/run.py {name} --user={user.name} --seed={self.seed}"
                   + (" --quick" if self.quick else "") + extra))

    def add_all(self):
        for user in self.users:
            self.add_random("", user, None, self.arguments.kills / len(self.users))
            self.add_checkpoint_tests("", user, None)
        for number, name in enumerate(soak.QUICK):
            user = self.users[number % len(self.users)]
            test = soak.make_test(name, user, self.seed, "", soak.QUICK_DEATHS)
            self.add(test.name, user, test.function)
        # The portable paths are tried once: the one as root, the other as nobody.
        for number, (label, environment) in enumerate(PORTABLE):
            user = self.users[number % len(self.users)]
            self.add_random(label + "/", user, environment, 10 if self.quick else 50)
            self.add_checkpoint_tests(label + "/", user, environment)

    def add_random(self, label, user, environment, total):
        seconds = self.arguments.seconds * min(2, len(os.sched_getaffinity(0))) / (
            len(CHAINS) * len(self.users))
        for number, (name, size, share) in enumerate(CHAINS):
            kills = max(5, round(total * share))
            least = kills if seconds == 0 else max(5, round(kills * LEAST_SHARE))
            seed = self.seed + number

            def run(workspace, size=size, kills=kills, least=least, seed=seed, name=name):
                harness.require_restore(user)
                done, summary = random_kills.run(workspace, size, seed, kills, seconds, least,
                                                 environment)
                self.kills_done += done
                harness.say(f"      {label}random/{name} [{user.name}] seed {seed}: {summary}")
            self.add(f"{label}random/{name}", user, run, heavy=not label,
                     timeout=120 + 4 * seconds + 4 * kills,
                     extra=f" --kills={self.arguments.kills} --seconds={self.arguments.seconds:g}")

    def add_checkpoint_tests(self, label, user, environment):
        """Faults, lone deaths, bad images and limits."""
        nths = (1,) if self.quick else faults.NTHS if not label else (3,)
        rounds = 2 if self.quick or label else 8

        def fault(workspace, point):
            harness.require_restore(user)
            large = point in LARGE_POINTS and not label and not self.quick
            faults.run_point(workspace, point, (SMALL, LARGE) if large else (SMALL,), nths,
                             environment)

        def bad(workspace, name):
            harness.require_restore(user)
            bad_images.run(workspace, name, self.seed, rounds, environment)

        def limit(workspace, name):
            harness.require_restore(user)
            limits.ALL[name](workspace, environment)
        for point in faults.CHECKPOINT_POINTS + faults.RESTORE_POINTS:
            self.add(f"{label}fault/{point}", user,
                     lambda workspace, point=point: fault(workspace, point))
        for name in (*alone.ALL, *alone.ONCE):
            self.add(f"{label}alone/{name}", user, lambda workspace, name=name: alone.run(
                workspace, name, self.seed, 10 if self.quick or label else 60, environment))
        for name in bad_images.ALL:
            self.add(f"{label}bad/{name}", user, lambda workspace, name=name: bad(workspace, name))
        for name in limits.ALL:
            self.add(f"{label}limits/{name}", user,
                     lambda workspace, name=name: limit(workspace, name))
        if not label:
            self.add_quick(user)
            self.add_trees(user)
        if not label and user == self.users[0]:
            self.add("fault/all_points_are_tried", user, lambda workspace: all_points_are_tried())


    def add_quick(self, user):
        for point in quick.POINTS:
            self.add(f"quick/{point}", user,
                     lambda workspace, point=point: quick.run_point(workspace, point, self.seed))
        for name in quick.ALL:
            self.add(f"quick/{name}", user,
                     lambda workspace, name=name: quick.run(workspace, name, self.seed))


    def add_trees(self, user):
        nths = trees.NTHS if self.arguments.thorough else trees.QUICK_NTHS
        for point in trees.POINTS:
            self.add(f"tree/{point}", user,
                     lambda workspace, point=point: trees.run_point(workspace, point, nths),
                     timeout=120)
        deaths = trees.QUICK_DEATHS if self.quick else trees.RANDOM_DEATHS
        self.add("tree/random", user,
                 lambda workspace: trees.run_random(workspace, self.seed, deaths), timeout=240)


def all_points_are_tried():
    """A point that is new in the source has its place here too."""
    source = faults.points_of_source()
    if source != list(faults.CHECKPOINT_POINTS + faults.RESTORE_POINTS + faults.ROLLBACK_POINTS
                       + faults.STORE_POINTS):
        raise Failure(f"src/os/fault.cc has the points {source}, tests/crash/faults.py has others")


def complete_build_copies(users):
    """A copy of the build for users that cannot reach it lacks the crash programs."""
    for user in users:
        copy = harness.BUILD.for_user(user) / "tests" / "crash"
        source = harness.BUILD.directory / "tests" / "crash"
        if source.is_dir() and not copy.exists():
            shutil.copytree(source, copy)
            subprocess.run(["chmod", "-R", "a+rX", str(copy.parent)], check=True)


def main():
    parser = argparse.ArgumentParser(description="Runs the crash tests.")
    harness.add_common_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="a small part of each kind")
    parser.add_argument("--thorough", action="store_true",
                        help="of trees each point several times")
    parser.add_argument("--seed", type=int, default=None, help="of all random choices")
    parser.add_argument("--kills", type=int, default=None,
                        help=f"random kills in total (default: {DEFAULT_KILLS})")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS,
                        help="for the random kills; at least 30 %% of them are done however long it "
                             "takes; 0: all are done (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1 << 31)
    if arguments.kills is None:
        arguments.kills = QUICK_KILLS if arguments.quick else DEFAULT_KILLS
    plan = Plan(arguments)
    plan.add_all()
    tests = harness.select(plan.tests, arguments.names, arguments.user)
    if arguments.list:
        for test in tests:
            print(f"{test.name} [{test.user.name}]")
        return 0
    print(f"seed {arguments.seed}, {arguments.kills} random kills wanted", flush=True)
    try:
        complete_build_copies(plan.users)
        counts = harness.run_tests(tests, arguments.jobs, arguments.keep)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        real_programs.INPUTS.remove()
        harness.BUILD.remove_copy()
    if plan.kills_done:
        print(f"{plan.kills_done} random kills")
    print(counts.line())
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
