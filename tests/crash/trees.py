# SPDX-License-Identifier: MIT
"""trees.py - SIGKILL at each named point (src/os/fault.h) of the checkpoint and of the restore of
several processes, and at random instants.

The processes of tests/system/programs/tree_steps.c find out by themselves if one of them is of
another checkpoint than the others. Invariants: what comes back is one checkpoint of all, n or n-1;
nothing comes back by half; a restore that died is followed by one that succeeds.
"""

import random
import re
import signal
import time

import faults
import harness
from harness import Failure, Session, signal_pid

# Each is passed once for each of the processes; the first process is written last.
NTHS = (1, 2, 3, 4, 6)
QUICK_NTHS = (3, 5)
RANDOM_DEATHS, QUICK_DEATHS = 40, 6


def last_step(workspace):
    text = harness.read_file(workspace.path / "steps.log")
    lines = text.splitlines()
    if lines != [str(number + 1) for number in range(len(lines))]:
        raise Failure(f"steps.log does not count from 1 to {len(lines)}")
    return len(lines)


def begin(workspace, environment=None):
    harness.require_restore(workspace.user)
    session = Session(workspace, [workspace.program("tree_steps")], ("-i", "off"))
    session.foreground = workspace.start(
        [workspace.tool("crrun"), "-d", session.image, "-i", "off", "--", *session.command],
        environment=environment)
    session.name = "crrun"
    session.wait_ready()
    return session


def kill_rest(workspace):
    """What the fault point has left of the processes."""
    for _ in range(200):
        left = [pid for pid in workspace.processes()]
        if not left:
            return
        for pid in left:
            signal_pid(pid, signal.SIGKILL)
        time.sleep(0.01)
    raise Failure(f"processes {left} do not end")


def steps_go_on(workspace, session):
    before = len(harness.read_file(workspace.path / "steps.log"))
    session.wait_until(
        lambda: len(harness.read_file(workspace.path / "steps.log")) > before + 20, "more steps")


def finish(workspace, session):
    """The processes go on, can be checkpointed, and end well."""
    steps_go_on(workspace, session)
    session.checkpoint()
    steps_go_on(workspace, session)
    session.kill()
    kill_rest(workspace)
    session.restore(("-i", "off"))
    steps_go_on(workspace, session)
    session.go()
    session.expect_pass()
    last_step(workspace)


def whole_sequence(workspace, session):
    done = workspace.run([workspace.tool("crrestore"), "--check-only", session.image])
    if done.returncode == 4:
        return 0
    if done.returncode != 0:
        raise Failure(f"crrestore --check-only: {done.returncode} {done.stderr}")
    shown = workspace.run([workspace.tool("crinspect"), "tree", session.image], check=0)
    if len(re.findall(r"members/\d+", shown.stdout)) < 2:
        raise Failure(f"crinspect tree should show three processes:\n{shown.stdout}")
    summary = workspace.run([workspace.tool("crinspect"), session.image], check=0)
    return max(int(number) for number in re.findall(r"sequence\s+(\d+)", summary.stdout))


def at_checkpoint_point(workspace, point, nth):
    """The second checkpoint dies there for the nth time; the first is whole."""
    session = begin(workspace, {"CR_FAULT": f"{point}:{nth}"})
    killed = False
    for _ in range(8):
        done = session.checkpoint(check=None)
        if done.returncode != 0:
            killed = True
            break
        time.sleep(0.02)
    session.workspace.wait_until(session.ended, "death at the fault point")
    if not killed:
        raise Failure("eight checkpoints passed the fault point")
    kill_rest(workspace)
    sequence = whole_sequence(workspace, session)
    if sequence == 0:
        return
    session.restore(("-i", "off"))
    finish(workspace, session)


def at_restore_point(workspace, point, nth):
    session = begin(workspace)
    steps_go_on(workspace, session)
    session.checkpoint()
    steps_go_on(workspace, session)
    session.kill()
    kill_rest(workspace)
    session.restore(("-i", "off"), {"CR_FAULT": f"{point}:{nth}"})
    if nth == 1 or point == "restore_taken" and nth <= 3:
        session.workspace.wait_until(session.ended, "death at the fault point")
    else:
        time.sleep(0.3)
        if not session.ended():
            session.kill()
    kill_rest(workspace)
    session.restore(("-i", "off"))
    finish(workspace, session)


def run_point(workspace, point, nths):
    root = workspace.path
    for nth in nths:
        workspace.path = root / f"nth-{nth}"
        workspace.path.mkdir()
        workspace.user.give(workspace.path)
        try:
            if point in faults.CHECKPOINT_POINTS:
                at_checkpoint_point(workspace, point, nth)
            else:
                at_restore_point(workspace, point, nth)
        except Failure as failure:
            raise Failure(f"CR_FAULT={point}:{nth}\n{failure}") from None
    workspace.path = root


def run_random(workspace, seed, deaths):
    """A checkpoint every 30 ms, death after a random time, again and again."""
    harness.require_restore(workspace.user)
    rnd = random.Random(seed)
    session = Session(workspace, [workspace.program("tree_steps")], ("-i", "0.03"))
    session.start()
    session.wait_ready()
    session.checkpoint()
    for number in range(deaths):
        time.sleep(rnd.uniform(0.0, 0.4))
        session.kill()
        kill_rest(workspace)
        try:
            session.restore(("-i", "0.03"))
            if rnd.random() < 0.7:
                steps_go_on(workspace, session)
        except Failure as failure:
            raise Failure(f"seed {seed}, death {number + 1}\n{failure}") from None
    steps_go_on(workspace, session)
    session.kill()
    kill_rest(workspace)
    session.restore(("-i", "off"))
    finish(workspace, session)


POINTS = [point for point in faults.CHECKPOINT_POINTS
          if point not in ("answered", faults.COUNTED_BY_SHARES)]
POINTS += faults.RESTORE_POINTS
