# SPDX-License-Identifier: MIT
"""alone.py - the program dies and its agent lives, or the other way round, in the middle of a stop.

Checkpoints follow one another so closely that the death falls into every step of one; besides, the
program dies at each named point, and while the agent has more to read from it than one request.
Invariants: a program whose agent is killed runs on with all threads; a crrun whose program is killed
ends soon, with 128 + SIGKILL; an agent that was halted meanwhile begins the checkpoint anew.
"""

import random
import signal
import time

import faults
import harness
from harness import Failure
from subject import LARGE, SMALL, Subject

INTERVAL = "0.001"
SOON_SECONDS = 15.0  # of a loaded machine; without the death it would be milliseconds
PATIENCE_SECONDS = 1.0  # kReportPatienceSeconds
MOST_CHECKPOINTS = 100  # until there was so much to copy that the agent helped


def begin(workspace, rng, environment):
    subject = Subject(workspace, options=("-i", INTERVAL, "--durable=crash"),
                      environment=environment)
    subject.start()
    subject.progress("progress of all threads under crrun")
    time.sleep(rng.uniform(0, 0.05))
    return subject


def expect_end(subject, what):
    subject.wait(subject.ended, f"end of crrun after its program was killed {what}", SOON_SECONDS,
                 may_end=True)
    if subject.foreground.returncode != 137:
        raise Failure(f"crrun should say 137, as the program was killed {what}: "
                      f"{subject.describe()}")
    subject.kill_all()


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
    expect_end(subject, "at a random moment")


def die_at(workspace, point, environment):
    large = point == faults.COUNTED_BY_SHARES
    options = ("-i", "off", "--durable=crash") + (("--track=all",) if large else ())
    subject = Subject(workspace, LARGE if large else SMALL, options, environment)
    arguments = ("--checkpoint-every=50",) if point == "answered" else ()
    subject.start(environment=faults.fault(point, "program", 1), arguments=arguments)
    pid = subject.wait(subject.program_pid, "the program")
    if point != "answered":
        subject.progress("progress of all threads under crrun")
    if large:
        for _ in range(MOST_CHECKPOINTS):
            if not subject.ended():
                subject.checkpoint(check=None)
    elif point != "answered":
        workspace.start([workspace.tool("crckpt"), str(subject.image)], stdout="ckpt.txt",
                        stderr="ckpt.txt")
    subject.wait(lambda: not harness.is_alive(pid), f"the program's death at the point {point}",
                 may_end=True)
    expect_end(subject, f"at the point {point}")


def program_at_points(workspace, _rng, environment=None):
    """Only the program is killed, at each point of a checkpoint."""
    for point in faults.CHECKPOINT_POINTS:
        die_at(workspace, point, environment)


def program_that_asks(workspace, _rng, environment=None):
    """Requests of the program that nobody has read yet do not hide from its agent that it is dead."""
    subject = Subject(workspace, options=("-i", "off", "--durable=crash"), environment=environment)
    subject.start(arguments=("--checkpoint-every=20", "--askers=2"))
    subject.progress("progress of all threads under crrun")
    subject.foreground.send_signal(signal.SIGSTOP)
    seen = {}

    def both_wait():
        nonlocal seen
        before, seen = seen, {t: r.step for t, r in subject.records().items() if t < 2}
        time.sleep(0.1)
        return before == seen
    subject.wait(both_wait, "both threads that ask for a checkpoint wait for it")
    subject.kill_pids([subject.program_pid()])
    subject.foreground.send_signal(signal.SIGCONT)
    expect_end(subject, "while its requests were waiting")


def agent_that_is_halted(workspace, _rng, environment=None):
    """A thread that told about itself goes on after a while if its agent does not come back. It has
    gone on from where it was stopped, so that attempt is none; the agent makes another."""
    subject = Subject(workspace, options=("-i", "off", "--durable=crash"), environment=environment)
    subject.start(environment={"CR_FAULT": "threads_asked:1=halt"})
    subject.progress("progress of all threads under crrun")
    asked = workspace.start([workspace.tool("crckpt"), str(subject.image)], stdout="ckpt.txt",
                            stderr="ckpt.txt")
    subject.wait(lambda: harness.process_state(subject.foreground.pid) == "T", "the halt of the agent")
    time.sleep(2 * PATIENCE_SECONDS)  # it may soon wait for one that is still stopped
    subject.foreground.send_signal(signal.SIGCONT)
    subject.wait(lambda: asked.poll() is not None, "the end of crckpt")
    whole = subject.images().whole
    if asked.returncode != 0 or whole is None or whole.attempt != 2:
        raise Failure(f"the second attempt should be the checkpoint: {subject.describe()}; crckpt: "
                      f"{asked.returncode}, {harness.read_file(workspace.path / 'ckpt.txt')}")
    subject.progress("progress of all threads after the checkpoint")
    subject.kill_all()
    subject.restore()
    subject.check_restored(whole)
    subject.finish()
    subject.check_output()


ALL = {f.__name__: f for f in (agent, program)}
ONCE = {f.__name__: f for f in (program_at_points, program_that_asks, agent_that_is_halted)}
DEATHS_OF_ASKERS = 3


def run(workspace, name, seed, rounds, environment=None):
    rng = random.Random(seed)
    function = ALL.get(name) or ONCE[name]
    if function in ONCE.values():
        rounds = DEATHS_OF_ASKERS if function is program_that_asks else 1
    for number in range(rounds):
        try:
            function(workspace, rng, environment)
        except Failure as failure:
            raise Failure(f"seed {seed}, death {number + 1} of {rounds}: {failure}") from None
