# SPDX-License-Identifier: MIT
"""faults.py - SIGKILL at each named point of the protocol (src/os/fault.h).

Everything dies there (scope all), or only the agent (scope agent). Invariants: what comes back is
checkpoint n or n-1, whole, with all threads - and which of the two is known for each point; the
program outlives its agent undisturbed; before the first whole checkpoint crrestore says that there
is none.
"""

import re
import signal

import harness
from harness import Failure
from subject import LARGE, SMALL, Subject, read_images

# In the order in which a checkpoint reaches them. From "lock_cleared" on the buffer says that
# another checkpoint was begun, from "committed" on it is whole.
CHECKPOINT_POINTS = (
    "copied_early", "before_stop", "stopped", "threads_asked", "threads_described", "helping",
    "captured", "resumed", "answered", "lock_cleared", "lock_cleared_synced", "pages_half",
    "pages_written", "metadata_written", "payload_synced", "committed", "committed_synced")
RESTORE_POINTS = ("restore_planned", "restore_exec", "restore_taken", "restore_attached")
# Of restore() in place; tried by tests/system/cli_test.py, rollback_killed.
ROLLBACK_POINTS = ("rollback_planned", "rollback_mapped", "rollback_filled", "rollback_done")
# Of crstored; tried by tests/system/store_test.py.
STORE_POINTS = (
    "part_locked", "part_received", "part_written", "part_committed", "part_answered",
    "offers_sent", "rows_sent", "commit_sent", "own_committed", "transfer_settled", "image_made")
# As often as the agent takes a share of the pages, not once in a checkpoint.
COUNTED_BY_SHARES = "helping"
SCOPES = ("all", "agent")
NTHS = (1, 3)


def points_of_source():
    """The names in src/os/fault.cc, so that no point is forgotten here."""
    text = (harness.REPO / "src/os/fault.cc").read_text()
    table = re.search(r"kNames\[\]\s*=\s*\{(.*?)\}", text, re.DOTALL).group(1)
    return re.findall(r'"(\w+)"', table)


def fault(point, scope, nth):
    return {"CR_FAULT": f"{point}:{nth}", "CR_FAULT_SCOPE": scope}


def expect_killed(subject, what):
    """The foreground ends by the SIGKILL of the fault point."""
    subject.wait(subject.ended, f"death of {what} at its fault point", may_end=True)
    if subject.foreground.returncode != -signal.SIGKILL:
        raise Failure(f"{what} should be killed at its fault point: {subject.describe()}")


def take(subject, sequence, or_later=False):
    """crckpt makes that checkpoint (or, if the program makes its own as well, a later one)."""
    done = subject.checkpoint()
    found = re.search(r"\b(\d+) whole", done.stdout)
    got = int(found.group(1)) if found else 0
    if got < sequence or (got > sequence and not or_later):
        raise Failure(f"checkpoint {sequence} should be whole, not: {done.stdout}")


def go_on_from(subject, sequence, or_later=False):
    """crrestore brings exactly that checkpoint back; it can be checkpointed again and ends well."""
    whole = subject.images().whole
    if whole is None or whole.sequence != sequence:
        raise Failure(f"checkpoint {sequence} should be whole: {subject.describe()}")
    subject.check_output()
    subject.restore(options=("-i", "off"))
    subject.check_restored(whole)
    take(subject, sequence + 1, or_later)
    subject.finish()
    subject.expect_gone()


def at_checkpoint_point(workspace, point, scope, nth, size=SMALL, environment=None):
    """The nth checkpoint dies at the point."""
    subject = Subject(workspace, size, environment=environment)
    arguments = ("--checkpoint-every=50",) if point == "answered" else ()
    subject.start(environment=fault(point, scope, nth), arguments=arguments)
    if point != "answered":
        subject.progress("progress of all threads under crrun")
        for number in range(1, nth):
            take(subject, number)
        done = subject.checkpoint(check=None)
        if done.returncode != 1 or "the session ended before" not in done.stderr:
            raise Failure(f"crckpt should say that the session ended, with status 1; got "
                          f"{done.returncode}: {done.stdout}{done.stderr}")
    expect_killed(subject, "crrun")
    pid = subject.settle_orphan()
    if scope == "agent" and pid == 0:
        raise Failure(f"the program should run on without its agent: {subject.describe()}")
    if scope == "all" and pid != 0:
        raise Failure(f"the program should be killed with its agent: {subject.describe()}")
    subject.kill_all()
    order = CHECKPOINT_POINTS.index(point)
    whole = nth if order >= CHECKPOINT_POINTS.index("committed") else nth - 1
    begun = nth if order >= CHECKPOINT_POINTS.index("lock_cleared") else nth - 1
    images = subject.images()
    if (images.whole.sequence if images.whole else 0) != whole or images.attempted != begun:
        raise Failure(f"{whole} should be whole and {begun} begun, but: {images}")
    if whole == 0:
        subject.check_output()
        subject.expect_none_whole()
    else:
        go_on_from(subject, whole, or_later=point == "answered")


def while_helping(workspace, scope, nth, environment=None):
    """So much is copied in the stop that the agent takes a share; it dies at the nth one."""
    most = 100  # checkpoints until then
    subject = Subject(workspace, LARGE, options=("-i", "off", "--track=all"),
                      environment=environment)
    subject.start(environment=fault(COUNTED_BY_SHARES, scope, nth))
    subject.progress("progress of all threads under crrun")
    whole = 0
    while subject.checkpoint(check=None).returncode == 0:
        whole += 1
        if whole == most:
            raise Failure(f"the agent took no {nth} shares in {most} checkpoints")
    expect_killed(subject, "crrun")
    pid = subject.settle_orphan()
    if (pid != 0) != (scope == "agent"):
        raise Failure(f"process {pid} after the death of {scope}: {subject.describe()}")
    subject.kill_all()
    images = subject.images()
    if (images.whole.sequence if images.whole else 0) != whole:
        raise Failure(f"{whole} should be whole, but: {images}")
    if whole == 0:
        subject.check_output()
        subject.expect_none_whole()
    else:
        go_on_from(subject, whole)


def at_restore_point(workspace, point, scope, environment=None):
    """crrestore dies at the point; another one brings the program back."""
    subject = Subject(workspace, environment=environment)
    subject.start()
    subject.progress("progress of all threads under crrun")
    take(subject, 1)
    take(subject, 2)
    subject.kill_all()
    before = read_images(subject.image)
    subject.restore(environment=fault(point, scope, 1), options=("-i", "off"))
    expect_killed(subject, "crrestore")
    pid = subject.settle_orphan()
    if scope == "all" and pid != 0:
        raise Failure(f"the program should be killed with crrestore: {subject.describe()}")
    if scope == "agent" and point == "restore_attached" and pid == 0:
        raise Failure(f"the restored program should run on: {subject.describe()}")
    subject.kill_all()
    if read_images(subject.image) != before:
        raise Failure(f"a restore that died changed the images: {before} {subject.images()}")
    go_on_from(subject, 2)


def at_third_restart(workspace, point, scope, environment=None):
    """crrun --restart=on-failure brings the program back twice; at the third time it dies."""
    subject = Subject(workspace, environment=environment)
    subject.start(environment=fault(point, scope, 3), options=("--restart=on-failure",))
    subject.progress("progress of all threads under crrun")
    for restart in range(1, 4):
        take(subject, restart)
        epoch = subject.images().whole.epoch
        subject.kill_pids([subject.program_pid()])
        if restart < 3:
            subject.wait(lambda before=epoch: any(
                record.epoch > before for record in subject.records().values()),
                         f"restart {restart}")
            subject.progress(f"progress of all threads after restart {restart}")
    expect_killed(subject, "crrun")
    pid = subject.settle_orphan()
    if scope == "all" and pid != 0:
        raise Failure(f"the program should be killed with crrun: {subject.describe()}")
    subject.kill_all()
    go_on_from(subject, 3)


def trials(point, nths):
    """(scope, nth) of all that is to be tried at one point."""
    return [(scope, nth) for scope in SCOPES for nth in nths]


def run_point(workspace, point, sizes=(SMALL,), nths=NTHS, environment=None):
    """Each trial has a directory of its own: what one left must not help the next."""
    root = workspace.path
    for number, (scope, nth) in enumerate(trials(point, nths)):
        for size in sizes:
            workspace.path = root / f"trial-{number}-{size >> 10}k"
            workspace.path.mkdir()
            workspace.user.give(workspace.path)
            try:
                if point == COUNTED_BY_SHARES:
                    while_helping(workspace, scope, 1 if nth == 1 else 5, environment)
                elif point in CHECKPOINT_POINTS:
                    at_checkpoint_point(workspace, point, scope, nth, size, environment)
                elif nth == 1:
                    at_restore_point(workspace, point, scope, environment)
                else:
                    at_third_restart(workspace, point, scope, environment)
            except Failure as failure:
                raise Failure(f"CR_FAULT={point}:{nth} CR_FAULT_SCOPE={scope}, {size >> 10} KiB\n"
                              f"{failure}") from None
    workspace.path = root
