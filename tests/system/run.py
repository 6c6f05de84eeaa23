#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py - runs the three-phase programs of tests/system/programs.

Each runs once per user of its "crtest:" line: under crrun, through checkpoints, kills and restores
as its mode says, to its verdict. See README.md beside this file for the words of that line.

  python3 tests/system/run.py                      all programs, all their users
  python3 tests/system/run.py 'fds_*' --user=nobody
  python3 tests/system/run.py --plain regs         without checkpointing: is the program right?
"""

import argparse
import dataclasses
import os
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
import huge_pages  # noqa: E402
from harness import Failure, Session, Skip, Test  # noqa: E402

PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
CYCLES = 3
LIVE_CHECKPOINTS = 5
REFUSED_ATTEMPTS = 3
MOST_REFUSALS = 20
DEFAULT_USERS = "root,nobody"


@dataclasses.dataclass
class Program:
    """A test program and what its "crtest:" line says."""

    name: str
    mode: str = "cycles"
    kill: str = "at-checkpoint"
    pause: float = 0
    users: str = DEFAULT_USERS
    timeout: float = harness.DEFAULT_TIMEOUT
    skip_unprivileged: str = ""
    track: str = "auto"
    children: str = "no"
    peer: str = "no"
    hugepages: int = 0
    plugin: str = ""
    variable: str = ""
    matrix_skips: str = ""  # ways of matrix.py that it is not made for


def parse_directive(name, text):
    """"mode=cycles kill=later users=root,nobody timeout=60 skip_unprivileged=why_not". The mode
    refuse:REGEX takes the rest of the line."""
    program = Program(name)
    known = {field.name for field in dataclasses.fields(Program)} - {"name"}
    while text:
        key, _, rest = text.partition("=")
        if key not in known:
            raise SystemExit(f"{name}: unknown word {key} in its crtest line")
        if rest.startswith("refuse:"):
            value, text = rest, ""
        else:
            value, _, text = rest.partition(" ")
        if key in ("timeout", "pause"):
            value = float(value)
        elif key == "hugepages":
            value = int(value)
        elif key == "skip_unprivileged":
            value = value.replace("_", " ")
        setattr(program, key, value)
        text = text.strip()
    return program


def find_programs():
    """All programs with a "crtest:" line in their first ten lines."""
    programs = []
    for path in sorted(PROGRAMS.glob("*.c*")):
        head = path.read_text().splitlines()[:10]
        for line in head:
            found = re.search(r"crtest:\s*(.*?)\s*(?:\*/)?$", line)
            if found:
                programs.append(parse_directive(path.stem, found.group(1)))
                break
    return programs


# -------------------------------------------------------------------------------- back ends -----


def track_options(workspace, back_end):
    """The options of crrun and crrestore that force this back end; Skip where it is refused."""
    if back_end == "auto":
        return ()
    option = f"--track={back_end.removesuffix('-entries')}"
    done = workspace.run([workspace.tool("crrun"), option, "-d", str(workspace.path / "probe"), "-i",
                          "off", "--", "true"])
    if done.returncode == 125 and "cannot be had on Linux" in done.stderr:
        raise Skip(done.stderr.strip())
    if done.returncode != 0:
        raise Failure(f"crrun {option} true: status {done.returncode}\n{done.stderr}")
    return (option,)


def checkpoint(session, program):
    """One that must succeed; of a program that forks now and then as soon as it has no child."""
    if program.children == "no":
        session.checkpoint()
        return
    for _ in range(MOST_REFUSALS):
        done = session.checkpoint(check=None)
        if done.returncode == 0:
            return
        if "child" not in done.stderr:
            raise Failure(f"crckpt: status {done.returncode}\n{done.stderr}")
    raise Failure(f"{MOST_REFUSALS} checkpoints in a row met a child")


# ------------------------------------------------------------------------------------ modes -----


def run_cycles(workspace, program, track):
    """Checkpoint, kill, restore, three times; then the program verifies its state."""
    harness.require_restore(workspace.user)
    session = Session(workspace, [workspace.program(program.name)], ("-i", "off", *track))
    session.start()
    session.wait_ready()
    for _ in range(CYCLES):
        time.sleep(program.pause)
        if program.kill == "later":
            checkpoint(session, program)
            session.ping()  # it has run on since the checkpoint
            time.sleep(0.02)
            session.kill()
        else:
            session.checkpoint(then="kill")
            session.wait_end(status=137)
        time.sleep(program.pause)
        session.restore(track)
        session.ping()
    session.go()
    session.expect_pass()
    session.verify_image()


def run_live(workspace, program, must_succeed):
    """Checkpoints are taken (or refused) while the program runs on."""
    session = Session(workspace, [workspace.program(program.name)])
    session.start()
    session.wait_ready()
    for number in range(LIVE_CHECKPOINTS):
        time.sleep(0.05 + 0.07 * number)  # into different parts of the timed calls
        session.checkpoint(check=0 if must_succeed else None)
        session.ping()
    time.sleep(0.1)
    session.go()
    session.expect_pass()


def run_often(workspace, program, track):
    """Checkpoints all the time, so that each builds on the one before; kills at any moment."""
    harness.require_restore(workspace.user)
    options = ("-i", "0.02", *track)
    session = Session(workspace, [workspace.program(program.name)], options)
    session.start()
    session.wait_ready()
    for number in range(CYCLES):
        time.sleep(0.7 + 0.13 * number)
        session.ping()
        checkpoint(session, program)
        session.kill()
        session.restore(options)
        session.ping()
    time.sleep(0.7)
    session.go()
    session.expect_pass()
    session.verify_image()


LAZY_ENVIRONMENT = {"CR_LAZY_PAUSE_US": "2000"}  # time for much to happen before all is there
LAZILY = r"crrestore: \d+ KiB of memory before it runs, [1-9]\d* KiB while it does"
NOT_LAZILY = r"crrestore: --lazy is not possible here: userfaultfd: .*CAP_SYS_PTRACE"


def checkpoint_between_forks(session):
    """A program that has a child just now, or a pipe to an orphan of it, is refused."""
    deadline = time.monotonic() + 40 * harness.SLOWNESS
    while time.monotonic() < deadline:
        done = session.checkpoint(check=None)
        if done.returncode == 0:
            return
        if "child" not in done.stderr and "a pipe to another process" not in done.stderr:
            break
    raise Failure(f"crckpt: {done.stderr}")


def run_lazy(workspace, program):
    """Restores during which the program runs already; kills and checkpoints come while it is not
    complete, too. Who may not have that is told, and restored eagerly."""
    harness.require_restore(workspace.user)
    session = Session(workspace, [workspace.program(program.name)])
    session.start()
    session.wait_ready()
    for number in range(CYCLES):
        checkpoint_between_forks(session)
        session.ping()
        session.kill()
        for _ in range(number):  # killed again while pages are coming
            session.restore(("-i", "off", "--lazy"), LAZY_ENVIRONMENT)
            session.ping()
            session.kill()
        session.restore(("-i", "off", "--lazy", "-v"), LAZY_ENVIRONMENT)
        session.ping()
        privileged = workspace.user.uid is None and os.geteuid() == 0
        expected = LAZILY if privileged else NOT_LAZILY
        said = harness.read_file(workspace.path / f"restore-{session.restores}.err")
        if not re.search(expected, said):
            raise Failure(f"crrestore --lazy should say /{expected}/, got:\n{said}")
    checkpoint_between_forks(session)
    session.go()
    session.expect_pass()
    session.verify_image()
def run_rollback(workspace, program, alone):
    """The program takes its checkpoints and calls restore() itself; alone: by crinit() only."""
    session = Session(workspace, [workspace.program(program.name)])
    if alone:
        session.foreground = workspace.start(session.command)
        session.name = program.name
    else:
        session.start()
    session.expect_pass()


def run_refuse(workspace, program, expression):
    """Each checkpoint is refused with a message that names the cause, and the program lives."""
    session = Session(workspace, [workspace.program(program.name)])
    session.start()
    session.wait_ready()
    for _ in range(REFUSED_ATTEMPTS):
        done = session.checkpoint(check=None)
        if done.returncode != 1:
            raise Failure(f"crckpt should refuse with status 1, got {done.returncode}\n"
                          f"{done.stdout}{done.stderr}")
        if not re.search(expression, done.stderr, re.IGNORECASE):
            raise Failure(f"crckpt's message should match /{expression}/, got:\n{done.stderr}")
        session.ping()
    session.go()
    session.expect_pass()


def run_plain(workspace, program):
    """Without any checkpointing: proves the program itself."""
    session = Session(workspace, [workspace.program(program.name)])
    session.foreground = workspace.start(session.command)
    session.name = program.name
    session.wait_ready()
    session.ping()
    session.go()
    session.expect_pass()


def start_peer(workspace, program):
    """The program as a process outside of the session, to talk to."""
    workspace.start([workspace.program(program.name), "peer"], stdout="peer.out")
    workspace.wait_until((workspace.path / "peer").exists, "the peer's file")


def provide(workspace, program):
    """What the program needs beside it; Skip where that cannot be had."""
    if program.skip_unprivileged and (workspace.user.uid is not None or os.geteuid() != 0):
        raise Skip(program.skip_unprivileged)
    workspace.until_end.enter_context(huge_pages.borrowed(program.hugepages))
    if program.plugin:
        workspace.variables["CR_PLUGINS"] = str(workspace.build / "lib" / f"{program.plugin}.so")
    if program.variable:
        workspace.variables[program.variable] = "1"
    if program.peer != "no":
        start_peer(workspace, program)


def run_program(workspace, program, mode, back_end, plain):
    if plain:
        workspace.until_end.enter_context(huge_pages.borrowed(program.hugepages))
        run_plain(workspace, program)
        return
    provide(workspace, program)
    if back_end.endswith("-entries"):
        workspace.variables["CR_NO_PAGEMAP_SCAN"] = "1"
    if mode == "cycles":
        run_cycles(workspace, program, track_options(workspace, back_end))
    elif mode == "often":
        run_often(workspace, program, track_options(workspace, back_end))
    elif mode == "lazy":
        run_lazy(workspace, program)
    elif mode in ("rollback", "rollback-alone"):
        run_rollback(workspace, program, alone=mode == "rollback-alone")
    elif mode in ("live", "live-any"):
        run_live(workspace, program, must_succeed=mode == "live")
    else:
        run_refuse(workspace, program, mode.removeprefix("refuse:"))


def variants_of(program):
    """The names of a program's tests, with mode and back end: NAME, NAME/MODE for all modes but the
    first, NAME/BACK-END and so on for all back ends but the first."""
    if program.mode.startswith("refuse:"):
        return {program.name: (program.mode, "auto")}
    modes, back_ends = program.mode.split(","), program.track.split(",")
    variants = {}
    for mode in modes:
        if mode not in ("cycles", "often", "lazy", "live", "live-any", "rollback",
                        "rollback-alone"):
            raise SystemExit(f"{program.name}: unknown mode {mode}")
        for back_end in back_ends:
            name = program.name + (f"/{mode}" if mode != modes[0] else "")
            name += f"/{back_end}" if back_end != back_ends[0] else ""
            variants[name] = (mode, back_end)
    return variants


def tests(plain=False, extra_user=None):
    """All tests, as harness.Test."""
    result = []
    for program in find_programs():
        names = program.users.split(",")
        if extra_user and extra_user not in names:
            names.append(extra_user)
        for name, (mode, back_end) in variants_of(program).items():
            for user in harness.usable_users(names):
                result.append(Test(
                    name=name, user=user, timeout=program.timeout,
                    function=lambda workspace, program=program, mode=mode, back_end=back_end:
                    run_program(workspace, program, mode, back_end, plain),
                    repeat=f"python3 tests/system/run.py {name} --user={user.name}"
                           + (" --plain" if plain else "")))
    return result


def main():
    parser = argparse.ArgumentParser(description="Runs the three-phase programs.")
    harness.add_common_arguments(parser)
    parser.add_argument("--plain", action="store_true", help="run the programs by themselves")
    arguments = parser.parse_args()
    return harness.run_main(tests(arguments.plain, arguments.user), arguments)


if __name__ == "__main__":
    sys.exit(main())
