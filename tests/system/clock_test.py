#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""clock_test.py - the monotonic clock of a restored program: it goes on from where it was, in a time
namespace, or has jumped, and that is said; after a reboot too, for which another time namespace with
other clocks stands in.

  python3 tests/system/clock_test.py clock/'*host*' --user=nobody
"""

import argparse
import os
import pathlib
import re
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Failure, Session, Skip  # noqa: E402

USERS = ("root", "nobody")
DEAD_S = 2.5
GOES_ON = r"crrestore: its monotonic clock goes on from where it was"
JUMPED = r"crrestore: its monotonic clock has jumped by (-?\d+\.\d+) s"


def said(session):
    return harness.read_file(session.workspace.path / f"restore-{session.restores}.err")


def expect_said(session, expression):
    found = re.search(expression, said(session))
    if not found:
        raise Failure(f"crrestore should say /{expression}/, got:\n{said(session)}")
    return found


def started(workspace, prefix=(), **environment):
    """The program under crrun, ready; what it has to find is in its environment."""
    harness.require_restore(workspace.user)
    workspace.variables.update({name: str(value) for name, value in environment.items()})
    session = Session(workspace, [workspace.program("clock_continues")], ("-i", "off"))
    command = [*prefix, workspace.tool("crrun"), "-d", session.image, "-i", "off", "--",
               *session.command]
    session.foreground = workspace.start(command)
    session.name = "crrun"
    session.wait_ready()
    session.ping()
    return session


def dead_for_a_while(session):
    session.checkpoint(then="kill")
    session.wait_end(status=137)
    time.sleep(DEAD_S)


def finish(session):
    session.ping()
    session.go()
    session.expect_pass()
    session.verify_image()


def test_goes_on(workspace):
    """Twice dead for longer than any step of its clocks may be, and the deadline in between."""
    session = started(workspace, CLOCK_MOST_GAP_MS=int(DEAD_S * 600), CLOCK_DEADLINE_S=2)
    for _ in range(2):
        dead_for_a_while(session)
        session.restore(("-i", "off", "-v", "--clock=continue"))
        session.ping()
        expect_said(session, GOES_ON)
    finish(session)


def test_goes_on_by_itself(workspace):
    session = started(workspace, CLOCK_MOST_GAP_MS=int(DEAD_S * 600))
    dead_for_a_while(session)
    session.restore(("-i", "off", "-v"))
    session.ping()
    expect_said(session, GOES_ON)
    finish(session)


def test_host(workspace):
    """As asked for, the machine's clock; who asks is told by how much it has jumped."""
    session = started(workspace, CLOCK_LEAST_GAP_MS=int(DEAD_S * 1000))
    dead_for_a_while(session)
    session.restore(("-i", "off", "-v", "--clock=host"))
    session.ping()
    jump = float(expect_said(session, JUMPED).group(1))
    if not DEAD_S <= jump <= DEAD_S + 10:
        raise Failure(f"a jump of {jump} s, dead for {DEAD_S} s")
    finish(session)


def test_reboot(workspace):
    """Checkpointed where the machine has run for days, restored where it has not; and once more."""
    if workspace.user.uid is not None or os.geteuid() != 0 or not shutil.which("unshare"):
        raise Skip("takes root and unshare(1)")
    session = started(workspace, ("unshare", "--time", "--fork", "--kill-child", "--monotonic",
                                  "500000", "--boottime", "700000"),
                      CLOCK_LEAST_S=500000, CLOCK_MOST_GAP_MS=int(DEAD_S * 600))
    for _ in range(2):
        dead_for_a_while(session)
        session.restore(("-i", "off", "-v"))
        session.ping()
        expect_said(session, GOES_ON)
    finish(session)


def test_quick(workspace):
    """Killed between two of very many checkpoints: the clock is never earlier than at the newest."""
    harness.require_restore(workspace.user)
    session = Session(workspace, [workspace.program("lib_clock_quick")], ("-i", "off"))
    session.start()
    session.wait_ready()
    for number in range(3):
        time.sleep(1.45 + 0.2 * number)  # far from the last ordinary one
        session.kill()
        time.sleep(DEAD_S)
        session.restore(("-i", "off", "-v"))
        session.ping()
        expect_said(session, GOES_ON)
    time.sleep(0.5)
    finish(session)


def test_unknown_word(workspace):
    done = workspace.run([workspace.tool("crrestore"), "--clock=tomorrow", "x"], check=2)
    if "--clock=tomorrow" not in done.stderr:
        raise Failure(done.stderr)


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "clock", __file__, USERS, timeout=60.0)


def main():
    parser = argparse.ArgumentParser(description="Tests the clocks of restored programs.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
