# SPDX-License-Identifier: MIT
"""alone.py - the program dies and its agent lives, or the other way round, in the middle of a stop.

Checkpoints follow one another so closely that the death falls into every step of one.
Invariants: a program whose agent is killed runs on with all threads; a crrun whose program is killed
ends soon, with 128 + SIGKILL.
"""

import random
import time

from harness import Failure
from subject import Subject

INTERVAL = "0.001"
SOON_SECONDS = 5.0  # of a loaded machine; without the death it would be milliseconds


def begin(workspace, rng, environment):
    subject = Subject(workspace, options=("-i", INTERVAL, "--durable=crash"),
                      environment=environment)
    subject.start()
    subject.progress("progress of all threads under crrun")
    time.sleep(rng.uniform(0, 0.05))
    return subject


def agent(workspace, rng, environment=None):
    """Only the agent is killed."""
    subject = begin(workspace, rng, environment)
    subject.kill_pids([subject.foreground.pid])
    subject.wait(subject.ended, "end of the agent", may_end=True)
    if subject.settle_orphan() == 0:
        raise Failure(f"the program ended with its agent: {subject.describe()}")
    subject.kill_all()
    subject.check_output()


def program(workspace, rng, environment=None):
    """Only the program is killed."""
    subject = begin(workspace, rng, environment)
    subject.kill_pids([subject.program_pid()])
    subject.wait(subject.ended, "end of crrun after its program was killed", SOON_SECONDS,
                 may_end=True)
    if subject.foreground.returncode != 137:
        raise Failure(f"crrun should say 137, as the program was killed: {subject.describe()}")
    subject.kill_all()


ALL = {f.__name__: f for f in (agent, program)}


def run(workspace, name, seed, rounds, environment=None):
    rng = random.Random(seed)
    for number in range(rounds):
        try:
            ALL[name](workspace, rng, environment)
        except Failure as failure:
            raise Failure(f"seed {seed}, death {number + 1} of {rounds}: {failure}") from None
