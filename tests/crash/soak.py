#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""soak.py - programs that are checkpointed every 10 ms, killed at random moments, restored, killed
again, and whose output must in the end be that of an undisturbed run, byte for byte.

  make soak                                             ten minutes
  SOAK_SECONDS=60 make soak
  python3 tests/crash/soak.py --seconds 600 --seed 7
  python3 tests/crash/soak.py --seed 7 --round 12       one round again, with the same choices

What random_kills.py does with one program that verifies itself, this does with programs that know
nothing of it: real ones (real_programs.py has them too, but kills them only soon after a checkpoint
that was asked for), the demos through both doors, and the three-phase programs of tests/system. In
each round one program lives through 3 to 25 deaths: of itself, of its agent or of both, by SIGKILL,
in the middle of a run, of a checkpoint or of a restore. A failed round keeps its directory and
prints the seed and the command that repeats it; the moments of the kills are then chosen the same,
what the processes had done by then is not.
"""

import argparse
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import harness  # noqa: E402
import real_programs  # noqa: E402
import run as three_phase  # noqa: E402
from harness import Failure, Session, Test  # noqa: E402
from random_kills import HOWS  # noqa: E402
from real_programs import LibrarySession, RealProgram, demo  # noqa: E402
from subject import read_images  # noqa: E402

INTERVAL = "0.01"
LEAST_DEATHS, MOST_DEATHS = 3, 25
RUN_ON_SECONDS = 0.15        # at most, before a death
WAIT_SHARE = 0.7             # of the lives a new checkpoint is waited for, so that there is progress
ORPHAN_SECONDS = 0.1         # a program without its agent is left alone for so long at most
TIMEOUT = 300.0
USERS = ("root", "nobody")
DEFAULT_SECONDS = 600.0

DEMO_INTERVAL = ("--interval", INTERVAL)
PROGRAMS = (  # some seconds of work each
    RealProgram("xz", ("/usr/bin/xz", "-T2", "-3", "--block-size=1MiB", "-c", "input:short.txt")),
    RealProgram("bzip2", ("/usr/bin/bzip2", "-9", "-c", "input:short.txt")),
    RealProgram("python3", ("/usr/bin/python3", "input:python_work.py", "40")),
    RealProgram("perl", ("/usr/bin/perl", "input:perl_work.pl", "input:short.txt", "30")),
    RealProgram("gawk", ("/usr/bin/gawk", "-f", "input:awk_work.awk", "input:short.txt")),
    RealProgram("sqlite3", ("/usr/bin/sqlite3", ":memory:"), stdin="script.sql"),
    RealProgram("cxx_workload", ("program:cxx_workload", "80", "4")),
    RealProgram("log_appender", ("program:log_appender", "app.log", "400"),
                outputs=("out.txt", "app.log"), log="app.log"),
    demo("tsp", 4, "--rounds", "5", library_door=False),
    demo("kmeans", 4, "--points", "65536", "--iterations", "25", library_door=False),
    demo("gradient_descent", 1, "--iterations", "20", library_door=False),
    demo("tsp", 1, "--rounds", "5", *DEMO_INTERVAL),
    demo("kmeans", 4, "--points", "65536", "--iterations", "25", *DEMO_INTERVAL),
    demo("gradient_descent", 4, "--iterations", "20", *DEMO_INTERVAL),
)
# Three-phase programs that go on changing their state while they are waited for.
THREE_PHASE = ("memory_model", "malloc_model", "lib_heap_model", "spinning_threads", "threads",
               "mutex_cond", "big_threads")
# For crash/run.py: a few seconds each.
QUICK_DEATHS = 6
QUICK = ("cxx_workload", "log_appender", "kmeans_4_crrun", "memory_model")


class EndedByItself(Exception):
    """The program came to its end before it was killed."""


class Round:
    """One program from its start to its end. make_session() is called for each new beginning."""

    def __init__(self, workspace, rnd, deaths, make_session):
        self.workspace, self.random, self.deaths = workspace, rnd, deaths
        self.make_session = make_session
        self.session = None
        self.done = []  # what was done, for the report
        self.last_sequence = 0

    def run(self):
        """Returns when the program is left to come to its end."""
        self.begin()
        for _ in range(self.deaths):
            try:
                self.live()
                self.die()
            except EndedByItself:
                return
            self.bring_back()

    def whole(self):
        newest = read_images(self.session.image).whole
        return newest.sequence if newest else 0

    def begin(self):
        self.session = self.make_session()
        self.session.start()
        self.last_sequence = 0
        self.done.append("start")

    def live(self):
        if self.random.random() < WAIT_SHARE:
            first = self.last_sequence
            self.workspace.wait_until(
                lambda: self.session.ended() or self.whole() > first,
                f"a checkpoint after {first}, or the end, of {self.session.name}")
        time.sleep(self.random.uniform(0, RUN_ON_SECONDS))
        if self.session.ended():
            raise EndedByItself

    def agent(self):
        """The pid of the agent: the foreground, or the cragent of a program with its own session."""
        if self.session.name != "the program":
            return self.session.foreground.pid
        cragent = [pid for pid in self.workspace.processes()
                   if harness.read_file(f"/proc/{pid}/comm").strip() == "cragent"]
        return cragent[0] if cragent else 0

    def die(self):
        how = self.random.choice(HOWS)
        pause = self.random.uniform(0, 0.005)
        orphan = self.random.uniform(0, ORPHAN_SECONDS)
        program, agent = self.session.program_pid(), self.agent()
        first, second = (agent, program) if how.startswith("agent") else (program, agent)
        self.kill(first)
        if how not in ("program", "agent"):
            time.sleep(0 if how == "both at once" else pause)
            self.kill(second)
        elif how == "agent":
            time.sleep(orphan)
        elif program:
            # The agent notices, and may commit what it had captured.
            self.workspace.wait_until(self.session.ended, f"the end of {self.session.name}")
        if how != "program" or not program:
            for pid in self.workspace.processes():
                self.kill(pid)
        self.workspace.wait_until(
            lambda: self.session.ended() and (how == "program" or not self.workspace.processes()),
            "the death of all processes")
        self.done.append(how)

    @staticmethod
    def kill(pid):
        if pid:
            harness.signal_pid(pid, 9)

    def bring_back(self):
        whole = self.whole()
        if whole < self.last_sequence:
            raise Failure(f"checkpoint {self.last_sequence} was whole, and only {whole} is now")
        if whole == 0:
            self.workspace.kill_everything()
            self.begin()
            return
        self.last_sequence = whole
        self.session.restore()
        self.done.append(f"restore {whole}")


def crrun_options(rnd):
    options = ["-i", INTERVAL, f"--durable={rnd.choice(('crash', 'power'))}"]
    return options + (["--track=" + rnd.choice(("all", "hash"))] if rnd.random() < 0.3 else [])


def run_real(workspace, program, rnd, deaths):
    """A program whose output is compared."""
    harness.require_restore(workspace.user)
    command = program.resolved(workspace)
    if not os.access(command[0], os.X_OK):
        raise harness.Skip(f"{command[0]} is not there")
    expected = real_programs.reference(program, workspace)
    kind = LibrarySession if program.library_door else Session
    options = crrun_options(rnd)
    count = 0

    def make_session():
        nonlocal count
        count += 1
        for name in program.outputs:
            (workspace.path / name).unlink(missing_ok=True)
        return kind(workspace, command, options, image=f"image-{count}.dir",
                    stdin=program.stdin and real_programs.INPUTS.path(program.stdin))

    life = Round(workspace, rnd, deaths, make_session)
    try:
        life.run()
        life.session.wait_end(expected.status)
        real_programs.compare_outputs(workspace, expected)
    except Failure as failure:
        raise Failure(f"{failure}\nafter: {', '.join(life.done)}; {' '.join(options)}") from None


def run_three_phase(workspace, name, rnd, deaths):
    """A program that verifies itself at the end."""
    harness.require_restore(workspace.user)
    options = crrun_options(rnd)
    count = 0

    def make_session():
        nonlocal count
        count += 1
        for stale in ("ready", "ping", "out.txt"):
            (workspace.path / stale).unlink(missing_ok=True)
        session = Session(workspace, [workspace.program(name)], options,
                          image=f"image-{count}.dir")
        start = session.start

        def start_and_wait():
            start()
            session.wait_ready()
        session.start = start_and_wait
        return session

    life = Round(workspace, rnd, deaths, make_session)
    try:
        life.run()
        life.session.ping()
        life.session.go()
        life.session.expect_pass()
    except Failure as failure:
        raise Failure(f"{failure}\nafter: {', '.join(life.done)}; {' '.join(options)}") from None


def names():
    return [program.name for program in PROGRAMS] + list(THREE_PHASE)


def make_test(name, user, seed, repeat, most_deaths=MOST_DEATHS):
    rnd = random.Random(seed)
    deaths = rnd.randint(LEAST_DEATHS, most_deaths)
    program = next((p for p in PROGRAMS if p.name == name), None)

    def function(workspace):
        if program:
            run_real(workspace, program, rnd, deaths)
        else:
            run_three_phase(workspace, name, rnd, deaths)
    return Test(name=f"soak/{name}", user=user, function=function, timeout=TIMEOUT, repeat=repeat)


def test_of_round(number, seed, users):
    """Which program, which user and which choices: the same for the same seed and number."""
    order = names()
    random.Random(f"{seed} {number // len(order)}").shuffle(order)
    return make_test(order[number % len(order)], users[number % len(users)], f"{seed} {number}",
                     f"python3 tests/crash/soak.py --seed {seed} --round {number}")


def main():
    known = [f.name for f in three_phase.find_programs()]
    assert all(name in known for name in THREE_PHASE)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS,
                        help="no round is begun after so long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of all choices (default: random)")
    parser.add_argument("--round", type=int, default=None, help="only this one")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="rounds at a time (default: 2)")
    parser.add_argument("--keep", action="store_true", help="keep the directories of all rounds")
    arguments = parser.parse_args()
    seed = arguments.seed
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}", flush=True)
    users = harness.usable_users(USERS)
    total = harness.Counts()
    end = time.monotonic() + arguments.seconds
    number = arguments.round or 0
    at_a_time = 1 if arguments.round is not None else 4 * arguments.jobs
    try:
        while True:
            batch = [test_of_round(number + i, seed, users) for i in range(at_a_time)]
            total.add(harness.run_tests(batch, arguments.jobs, arguments.keep))
            number += at_a_time
            if arguments.round is not None or time.monotonic() > end:
                break
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        real_programs.INPUTS.remove()
        harness.BUILD.remove_copy()
    print(total.line())
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
