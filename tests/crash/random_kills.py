# SPDX-License-Identifier: MIT
"""random_kills.py - SIGKILL at random instants of a program that is checkpointed all the time.

A chain: crrun, killed, crrestore from what is there, killed, crrestore again, ... Each death hits
the program, its agent or both, in any order, at any instant of a run or of a restore.
Invariants checked at each link: n or n-1 is whole, where n is the last checkpoint that was begun; a
checkpoint that the program was told of is never lost; the restored program is that checkpoint, whole,
with all threads, and its data was never torn.
"""

import random
import signal
import time

import harness
from harness import Failure
from subject import LARGE, SMALL, THREADS, Subject

INTERVAL = "0.02"
EARLY_SHARE = 0.25       # of the restores are killed before anything is known of them
EARLY_SECONDS = 0.08
LATE_SECONDS = {SMALL: 0.08, LARGE: 0.4}  # the time of a few checkpoints
# Lives in which a checkpoint is waited for, and the random time begins then.
WAIT_SHARE_FRESH, WAIT_SHARE_RESTORED = 0.8, 0.4
HOWS = ("program then agent", "agent then program", "both at once", "program", "agent")


class Chain:
    """kills: how many deaths; until: monotonic time when the chain may end before, but only after
    at_least deaths."""

    def __init__(self, workspace, size, seed, kills, until, at_least, environment=None):
        self.subject = Subject(workspace, size, ("-i", INTERVAL, "--durable=crash"), environment)
        self.random = random.Random(seed)
        self.kills, self.until, self.at_least = kills, until, at_least
        self.done = 0
        self.counts = {how: 0 for how in HOWS}
        self.early = self.none_whole = self.newest = self.previous = 0
        self.last_sequence = 0

    def run(self):
        self.fresh()
        while self.done < self.kills and (self.done < self.at_least or
                                          time.monotonic() < self.until):
            self.death(early=False)
            while True:
                whole = self.choose()
                if whole is None:
                    self.fresh()
                    break
                self.subject.restore()
                if self.random.random() < EARLY_SHARE and self.done < self.kills:
                    self.death(early=True)
                    continue
                self.subject.check_restored(whole)
                self.maybe_wait_beyond(whole.sequence, WAIT_SHARE_RESTORED)
                break
        self.subject.finish()
        self.subject.expect_gone()

    def fresh(self):
        self.subject.start()
        self.subject.progress("progress of all threads under crrun")
        self.maybe_wait_beyond(0, WAIT_SHARE_FRESH)

    def maybe_wait_beyond(self, sequence, share):
        """In some lives: until the program is told of a newer checkpoint."""
        if self.random.random() < share:
            self.subject.wait(lambda: any(record.sequence > sequence
                                          for record in self.subject.records().values()),
                              f"a checkpoint after {sequence}")

    def death(self, early):
        """One kill, and what must be true right after it."""
        subject = self.subject
        time.sleep(self.random.uniform(0, EARLY_SECONDS if early else LATE_SECONDS[subject.size]))
        how = self.random.choice(HOWS)
        pids = subject.pids()
        if early and how == "program" and not pids:
            how = "agent"
        if subject.ended() and not early:
            raise Failure(f"the program ended by itself: {subject.describe()}")
        agent = subject.foreground.pid
        if how == "program then agent":
            subject.kill_pids(pids[::-1])
            time.sleep(self.random.uniform(0, 0.005))
            subject.kill_pids([agent])
        elif how == "agent then program":
            subject.kill_pids([agent])
            time.sleep(self.random.uniform(0, 0.005))
            subject.kill_pids(pids)
        elif how == "both at once":
            subject.kill_pids([agent, *pids])
        elif how == "program":
            subject.kill_pids(pids[-1:])
            subject.wait(subject.ended, "end of the agent after the program's", may_end=True)
        else:
            subject.kill_pids([agent])
            subject.wait(subject.ended, "end of the agent", may_end=True)
            if not subject.settle_orphan() and not early:
                raise Failure(f"the program ended with its agent: {subject.describe()}")
        self.done += 1
        self.counts[how] += 1
        self.early += early
        seen = subject.records()
        subject.kill_all()
        subject.check_output()
        if not early:
            self.check_status()
        subject.remember(seen)
        self.check_images(seen)

    def check_status(self):
        status = self.subject.foreground.returncode
        if status not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise Failure(f"crrun or crrestore should end by SIGKILL or say that the program did, "
                          f"not with status {status}: {self.subject.describe()}")

    def check_images(self, seen):
        images = self.subject.images()
        whole = images.whole.sequence if images.whole else 0
        told = max((record.sequence for record in seen.values()), default=0)
        if whole < told:
            raise Failure(f"checkpoint {told} was whole, and is not any more: {images}")
        if images.attempted > whole + 1:
            raise Failure(f"{images.attempted} was begun, but only {whole} is whole: {images}")
        if whole < self.last_sequence:
            raise Failure(f"checkpoint {self.last_sequence} was restored, {whole} is left: {images}")
        self.newest += whole == images.attempted
        self.previous += whole < images.attempted

    def choose(self):
        """The checkpoint that must come back; None after it was seen that there is none."""
        whole = self.subject.images().whole
        if whole is None:
            self.none_whole += 1
            self.subject.expect_none_whole()
            self.last_sequence = 0
            self.subject.bounds = {thread: [] for thread in range(THREADS)}
            return None
        self.last_sequence = whole.sequence
        self.subject.forget_after(whole.sequence)  # also if the life that begins now is not looked at
        return whole

    def summary(self):
        hows = ", ".join(f"{how} {count}" for how, count in self.counts.items() if count)
        return (f"{self.done} kills: {hows}; {self.early} of them during a restore; afterwards n "
                f"was whole {self.newest} times, n-1 {self.previous} times, none "
                f"{self.none_whole} times; last sequence {self.last_sequence}")


def run(workspace, size, seed, kills, seconds, at_least, environment=None):
    """Returns the number of kills and a summary."""
    until = time.monotonic() + seconds * harness.SLOWNESS
    chain = Chain(workspace, size, seed, kills, until, at_least, environment)
    try:
        chain.run()
    except Failure as failure:
        raise Failure(f"seed {seed}, after {chain.summary()}\n{failure}") from None
    return chain.done, chain.summary()
