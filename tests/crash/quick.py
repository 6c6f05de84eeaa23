# SPDX-License-Identifier: MIT
"""quick.py - SIGKILL while a program with one thread captures itself, hundreds of times a second
(single.cc), and its agent commits that: at each step of a commit, and at random instants.

Invariants: what comes back is the newest checkpoint that was committed, and it is whole: the program
checks itself; no checkpoint that it was told of is lost; most checkpoints were really quick ones.
"""

import os
import random
import signal
import struct
import subprocess
import time

import harness
from harness import Failure
from subject import Subject

# Each is reached once by every checkpoint, quick or not.
POINTS = ("lock_cleared", "lock_cleared_synced", "pages_half", "pages_written",
          "metadata_written", "payload_synced", "committed", "committed_synced")
ALL = ("random", "beside_ordinary_ones", "agent_killed")
STATUS = struct.Struct("<QQQ")
RANDOM_DEATHS = 12


class Single(Subject):
    """The program is another one, with another status file."""

    def __init__(self, workspace, options=("-i", "off", "--durable=crash")):
        super().__init__(workspace, options=options)
        self.told = (0, 0, 0)

    def start_single(self, environment=None):
        self._begin("err")
        self.foreground = self.workspace.start(
            [self.workspace.tool("crrun"), "-d", str(self.image), "--files=keep",
             *self.options, "--",
             self.binary("single"), str(self.status), str(self.directory / "log")],
            stderr=self.error_file, environment=environment or {})

    def clear_records(self):
        if self.status.exists():
            with open(self.status, "r+b", buffering=0) as file:
                file.write(bytes(STATUS.size))

    def records(self):
        """(number, sequence, quick) as the program wrote them last."""
        try:
            with open(self.status, "rb", buffering=0) as file:
                return STATUS.unpack(file.read(STATUS.size))
        except (OSError, struct.error):
            return (0, 0, 0)

    def program_pid(self, candidates=None):
        for pid in candidates if candidates is not None else self.pids():
            if harness.read_file(f"/proc/{pid}/comm").strip() == "single":
                return pid
        return 0

    def end(self):
        (self.directory / "status.stop").touch()
        self.wait(self.ended, "end of the program", may_end=True)
        if self.foreground.returncode != 0:
            raise Failure(f"the program should end with 0: {self.describe()}")
        self.check_output()


def come_back(single, least):
    """crrestore; the program must go on from checkpoint `least` at least, and be right."""
    whole = single.images().whole
    if whole is None or whole.sequence < least:
        raise Failure(f"checkpoint {least} should be whole: {single.describe()}")
    single.restore()
    single.wait(lambda: single.records()[0] > whole.sequence, "progress after the restore")
    single.check_output()
    return whole.sequence


def at_point(workspace, point, nth):
    """The nth commit dies at the point, with program and agent."""
    single = Single(workspace)
    single.start_single({"CR_FAULT": f"{point}:{nth}"})
    single.wait(single.ended, "death of crrun at its fault point", seconds=60, may_end=True)
    if single.foreground.returncode != -signal.SIGKILL:
        raise Failure(f"crrun should be killed at its fault point: {single.describe()}")
    told = single.records()
    single.kill_all()
    if told[2] == 0:
        raise Failure(f"no checkpoint was a quick one: {told}")
    whole = nth if POINTS.index(point) >= POINTS.index("committed") else nth - 1
    images = single.images()
    if images.whole is None or images.whole.sequence != whole or images.attempted != nth:
        raise Failure(f"{whole} should be whole and {nth} begun, but: {images}")
    come_back(single, max(whole, told[1]))
    single.end()


def run_point(workspace, point, seed):
    harness.require_restore(workspace.user)
    choose = random.Random(f"{seed} {point}")
    root = workspace.path
    for number, nth in enumerate((choose.randrange(20, 40), choose.randrange(200, 400))):
        workspace.path = root / f"trial-{number}"
        workspace.path.mkdir()
        workspace.user.give(workspace.path)
        try:
            at_point(workspace, point, nth)
        except Failure as failure:
            raise Failure(f"CR_FAULT={point}:{nth}\n{failure}") from None
    workspace.path = root


def run_random(workspace, seed, deaths=RANDOM_DEATHS):
    harness.require_restore(workspace.user)
    choose = random.Random(seed)
    single = Single(workspace)
    single.start_single()
    single.wait(lambda: single.records()[2] > 20, "quick checkpoints")
    least = quick = 0
    for life in range(deaths):
        if life % 4 != 3:  # death among quick checkpoints, however long it takes to come to them
            some = choose.randrange(5, 30)
            single.wait(lambda some=some: single.records()[2] > some, "quick checkpoints")
        time.sleep(choose.uniform(0, 0.4 if life % 4 == 3 else 0.02))
        pids = [single.foreground.pid, *single.pids()]
        choose.shuffle(pids)
        single.kill_pids(pids)
        told = single.records()
        single.kill_all()
        quick += told[2]
        single.check_output()
        least = come_back(single, max(least, told[1]))
    single.end()
    if quick < 5 * deaths:
        raise Failure(f"only {quick} checkpoints were quick ones")


def run_beside_ordinary_ones(workspace, seed):
    """crckpt, and stop signals that halt the program anywhere in an attempt."""
    harness.require_restore(workspace.user)
    choose = random.Random(seed)
    single = Single(workspace)
    single.start_single()
    single.wait(lambda: single.records()[2] > 20, "quick checkpoints")
    for _ in range(40):
        time.sleep(choose.uniform(0, 0.02))
        asked = subprocess.Popen([workspace.tool("crckpt"), str(single.image)],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if choose.random() < 0.6:
            pid = single.program_pid()
            time.sleep(choose.uniform(0, 0.01))
            os.kill(pid, signal.SIGSTOP)
            time.sleep(choose.uniform(0, 0.08))
            os.kill(pid, signal.SIGCONT)
            os.kill(single.foreground.pid, signal.SIGCONT)  # it stops with its program
        if asked.wait(timeout=60) != 0:
            raise Failure(f"crckpt ended with {asked.returncode}: {single.describe()}")
    before = single.records()
    single.wait(lambda: single.records()[2] > before[2], "quick checkpoints again")
    single.kill_pids([single.foreground.pid, *single.pids()])
    told = single.records()
    single.kill_all()
    single.check_output()
    come_back(single, told[1])
    single.end()


def run_agent_killed(workspace, _seed):
    """The program is told within seconds, and what was committed is there."""
    harness.require_restore(workspace.user)
    single = Single(workspace)
    single.start_single()
    single.wait(lambda: single.records()[2] > 20, "quick checkpoints")
    pid = single.program_pid()
    single.kill_pids([single.foreground.pid])
    single.wait(lambda: not harness.is_alive(pid), "the program's error", seconds=8, may_end=True)
    text = harness.read_file(workspace.path / "out.txt")
    if "checkpoint() failed" not in text:
        raise Failure(f"the program should be told: {text} {single.describe()}")
    told = single.records()
    single.kill_all()
    come_back(single, told[1])
    single.end()


def run(workspace, name, seed):
    {"random": run_random, "beside_ordinary_ones": run_beside_ordinary_ones,
     "agent_killed": run_agent_killed}[name](workspace, seed)
