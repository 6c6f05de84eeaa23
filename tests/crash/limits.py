# SPDX-License-Identifier: MIT
"""limits.py - no room, no permission: a full disk, RLIMIT_FSIZE, a directory that became read-only.

Invariant: it hurts the checkpoint, with a message that names the cause, and nothing else: the
program runs on, the older image stays whole, and when there is room again the next checkpoint is
made.
"""

import os
import re
import resource

import harness
from harness import Failure, Skip
from faults import take
from subject import Subject, read_images


def expect_failed(subject, expression):
    """crckpt fails with that reason; the program goes on and its older image is as it was."""
    before = subject.images().whole
    done = subject.checkpoint(check=None)
    if done.returncode != 1 or not re.search(expression, done.stderr):
        raise Failure(f"crckpt should fail with /{expression}/ and status 1, got {done.returncode}: "
                      f"{done.stdout}{done.stderr}")
    subject.progress("progress after the failed checkpoint")
    if subject.images().whole != before:
        raise Failure(f"{before} was whole before the failed checkpoint: {subject.images()}")


def come_back(subject):
    """The program dies; its newest whole checkpoint comes back."""
    whole = subject.images().whole
    subject.kill_all()
    subject.check_output()
    subject.restore(options=("-i", "off"))
    subject.check_restored(whole)


def start(subject):
    subject.start()
    subject.progress("progress of all threads under crrun")


def disk_full(workspace, environment=None):
    """The image directory is a small file system, private to the test's processes."""
    if os.geteuid() != 0 or workspace.user.uid is not None:
        raise Skip("mounting a small file system takes root")
    image = workspace.path / "image.dir"
    image.mkdir(mode=0o700)
    holder = workspace.start(["unshare", "-m", "--propagation", "private", "sleep", "600"])
    own = os.readlink("/proc/self/ns/mnt")

    def entered():
        try:
            return os.readlink(f"/proc/{holder.pid}/ns/mnt") != own and \
                "sleep" in harness.read_file(f"/proc/{holder.pid}/cmdline")
        except OSError:
            return False
    workspace.wait_until(entered, "a mount namespace")
    inside = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", f"--wdns={workspace.path}"]
    mounted = workspace.run([*inside, "mount", "-t", "tmpfs", "-o", "size=10m,mode=700", "none",
                             str(image)])
    if mounted.returncode != 0:
        raise Skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    subject = Subject(workspace, environment=environment, prefix=inside)
    # The buffers are seen through the namespace.
    seen = f"/proc/{holder.pid}/root{image}"
    subject.images = lambda: read_images(seen)
    start(subject)
    take(subject, 1)
    for _ in range(3):
        expect_failed(subject, r"No space left on device")
    subject.kill_pids([subject.foreground.pid, *subject.pids()])
    subject.wait(subject.ended, "death of the session", may_end=True)
    subject.check_output()
    whole = subject.images().whole
    subject.restore(options=("-i", "off"))
    subject.check_restored(whole)
    expect_failed(subject, r"No space left on device")
    workspace.run([*inside, "mount", "-o", "remount,size=64m", str(image)], check=0)
    take(subject, 2)
    take(subject, 3)
    subject.finish()
    holder.kill()
    holder.wait()
    subject.expect_gone()


def set_limit(subject, name, value):
    """The soft limit of the agent. By prlimit(1), as the agent's user: root may lack the right."""
    value = "unlimited" if value == resource.RLIM_INFINITY else value
    subject.workspace.run(["prlimit", f"--pid={subject.foreground.pid}", f"--{name}={value}:"],
                          check=0)


def file_size(workspace, environment=None):
    """RLIMIT_FSIZE of the agent: neither it nor the program may die of SIGXFSZ."""
    subject = Subject(workspace, environment=environment)
    start(subject)
    take(subject, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    for limit in (1 << 20, 4096, 512, 0):
        set_limit(subject, "fsize", limit)
        expect_failed(subject, r"File too large")
    set_limit(subject, "fsize", before)
    take(subject, 2)
    set_limit(subject, "fsize", 65536)
    expect_failed(subject, r"File too large")
    come_back(subject)
    take(subject, 3)
    subject.finish()
    subject.expect_gone()


def file_size_from_the_start(workspace, environment=None):
    """The same, inherited by the program too, whose own file is small enough."""
    subject = Subject(workspace, environment=environment,
                      prefix=("prlimit", "--fsize=1048576:1048576"))
    start(subject)
    for _ in range(2):
        expect_failed(subject, r"File too large")
    subject.kill_all()
    subject.prefix = []
    subject.expect_none_whole()


def read_only(workspace, environment=None):
    """The second buffer cannot be made."""
    if workspace.user.uid is None and os.geteuid() == 0:
        raise Skip("root may write everywhere")
    subject = Subject(workspace, environment=environment)
    start(subject)
    take(subject, 1)
    subject.image.chmod(0o500)
    expect_failed(subject, r"Permission denied")
    subject.image.chmod(0o700)
    take(subject, 2)
    subject.image.chmod(0o500)
    take(subject, 3)  # both buffers exist now
    subject.image.chmod(0o700)
    come_back(subject)
    take(subject, 4)
    subject.finish()
    subject.expect_gone()


def out_of_descriptors(workspace, environment=None):
    """The agent has room for crckpt's connection, and no more."""
    subject = Subject(workspace, environment=environment)
    start(subject)
    take(subject, 1)
    highest = max(int(name) for name in os.listdir(f"/proc/{subject.foreground.pid}/fd"))
    set_limit(subject, "nofile", highest + 2)
    expect_failed(subject, r"Too many open files")
    set_limit(subject, "nofile", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    take(subject, 2)
    come_back(subject)
    subject.finish()
    subject.expect_gone()


ALL = {f.__name__: f for f in (disk_full, file_size, file_size_from_the_start, read_only,
                               out_of_descriptors)}
