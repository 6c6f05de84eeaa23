# SPDX-License-Identifier: MIT
"""subject.py - the program of the crash tests (invariant.cc) and what can be seen of it from outside.

A Subject is one run of that program over any number of deaths and restores: the files it writes,
the two buffers of its image directory, the processes that belong to it.

Invariants: nothing here asks the engine whether the engine is right. Which checkpoints are whole is
read from the superblocks, whether all threads are there and make progress from /proc and from the
program's own records, and every process is found again by a mark in its environment.
"""

import dataclasses
import pathlib
import re
import signal
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import harness  # noqa: E402
from harness import Failure  # noqa: E402

THREADS = 4
SMALL, LARGE = 64 << 10, 4 << 20
THREAD_NAMES = ["inv-1", "inv-2", "inv-3", "invariant"]
LOOK_SECONDS = 0.002
NONE_WHOLE = r"whole|no image"

# ------------------------------------------------------------------------------ image files -----


@dataclasses.dataclass(frozen=True)
class Super:
    """What the superblock of a buffer says (docs/format/image.md)."""

    write_lock: int
    epoch: int
    sequence: int
    attempt: int


def read_super(directory, index):
    """None if there is no such buffer or nothing in it yet."""
    head = _head(pathlib.Path(directory) / f"image.{index}")
    if len(head) < 80 or head[:8] != b"CRIMAGE\n":
        return None
    return Super(*struct.unpack_from("<4Q", head, 48))


def _head(path):
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(80)
    except OSError:
        return b""


@dataclasses.dataclass(frozen=True)
class Images:
    """Both buffers of an image directory at one moment."""

    buffers: tuple

    @property
    def whole(self):
        """The newest whole checkpoint, as a Super, or None."""
        return max((b for b in self.buffers if b and b.write_lock == 1),
                   key=lambda b: b.sequence, default=None)

    @property
    def attempted(self):
        """The highest sequence whose writing had begun, 0 for none."""
        return max((b.sequence for b in self.buffers if b), default=0)

    def newest_index(self):
        return self.buffers.index(self.whole)


def read_images(directory):
    return Images((read_super(directory, 0), read_super(directory, 1)))


# ----------------------------------------------------------------------------------- records -----


@dataclasses.dataclass(frozen=True)
class Record:
    """What a thread of the program wrote last (invariant.cc, struct Record)."""

    thread: int
    tid: int
    step: int
    sequence: int
    epoch: int
    checkpoints: int


RECORD = struct.Struct("<QIIQQQQQQ")
RECORD_MAGIC = 0x314e56494352


def parse_records(data):
    """thread -> Record of all that are complete."""
    records = {}
    for at in range(0, len(data) - RECORD.size + 1, RECORD.size):
        words = struct.unpack_from("<8Q", data, at)
        check = 0
        for word in words[:7]:
            check ^= word
        if words[0] != RECORD_MAGIC or check != words[7]:
            continue
        _, thread, tid, step, sequence, epoch, checkpoints, _, _ = RECORD.unpack_from(data, at)
        records[thread] = Record(thread, tid, step, sequence, epoch, checkpoints)
    return records


# ----------------------------------------------------------------------------------- subject -----


def children_of(pid):
    return [int(word) for word in harness.read_file(f"/proc/{pid}/task/{pid}/children").split()]


class Subject:
    """One run of the program. environment: more variables for crrun and crrestore."""

    def __init__(self, workspace, size=SMALL, options=("-i", "off"), environment=None,
                 image="image.dir", directory=None, prefix=()):
        self.workspace = workspace
        self.size = size
        self.options = list(options)
        self.environment = environment or {}
        self.directory = pathlib.Path(directory or workspace.path)
        self.image = self.directory / image
        self.status = self.directory / "status"
        self.prefix = list(prefix)  # of every command, nsenter for example
        self.foreground = None
        self.error_file = "err.txt"
        self.lives = 0
        # Newest record of each thread and sequence, as lower bounds for what comes back.
        self.bounds = {thread: [] for thread in range(THREADS)}

    def binary(self, name):
        path = self.workspace.build / "tests" / "crash" / name
        if not path.exists():
            raise Failure(f"{path} has not been built")
        return str(path)

    # ---- starting ----

    def start(self, environment=None, options=(), arguments=()):
        """Starts the program under crrun."""
        self._begin("err")
        self.foreground = self.workspace.start(
            [*self.prefix, self.workspace.tool("crrun"), "-d", str(self.image), *self.options,
             *options, "--", self.binary("invariant"), str(self.size), str(self.status),
             *arguments],
            stderr=self.error_file, environment={**self.environment, **(environment or {})})

    def restore(self, environment=None, options=()):
        """Starts crrestore. What the program prints goes to out.txt as before."""
        self._begin("restore")
        self.foreground = self.workspace.start(
            [*self.prefix, self.workspace.tool("crrestore"), "-v", *self.options, *options,
             str(self.image)],
            stdout="restore.out", stderr=self.error_file,
            environment={**self.environment, **(environment or {})})

    def _begin(self, name):
        self.lives += 1
        self.clear_records()
        # Of many lives only the last few error files are kept.
        self.error_file = f"{name}-{self.lives % 4}.txt"
        (self.workspace.path / self.error_file).unlink(missing_ok=True)

    def clear_records(self):
        """Old records must not be taken for news. The file keeps its length: crrestore would
        rightly refuse one that became shorter."""
        if self.status.exists():
            with open(self.status, "r+b", buffering=0) as file:
                file.write(bytes(THREADS * RECORD.size))

    def errors(self):
        return harness.read_file(self.workspace.path / self.error_file)

    def checkpoint(self, check=0, then="continue"):
        return self.workspace.run(
            [*self.prefix, self.workspace.tool("crckpt"), f"--then={then}", str(self.image)],
            check=check)

    # ---- looking ----

    def records(self):
        try:
            with open(self.status, "rb", buffering=0) as file:
                return parse_records(file.read(THREADS * RECORD.size))
        except OSError:
            return {}

    def images(self):
        return read_images(self.image)

    def ended(self):
        return self.foreground.poll() is not None

    def pids(self):
        """The processes below the foreground, parents first: in a namespace its init comes first."""
        found, queue = [], [self.foreground.pid]
        while queue:
            for child in children_of(queue.pop(0)):
                found.append(child)
                queue.append(child)
        return found

    def left_over(self):
        """Living processes that carry this test's mark, however they detached themselves."""
        mark = self.workspace.mark.encode()
        found = []
        for pid in harness.all_pids():
            if mark in harness.read_file(f"/proc/{pid}/environ", "rb").split(b"\0") and \
                    harness.is_alive(pid):
                found.append(pid)
        return found

    def program_pid(self, candidates=None):
        """The one with the program's threads, 0 if there is none."""
        for pid in candidates if candidates is not None else self.pids():
            if harness.read_file(f"/proc/{pid}/comm").strip() == "invariant" and \
                    "invariant" in harness.read_file(f"/proc/{pid}/cmdline"):
                return pid
        return 0

    def check_output(self):
        text = harness.read_file(self.workspace.path / "out.txt")
        if "TORN" in text:
            raise Failure(f"the program's data is torn:\n{text[-600:]}")

    def describe(self):
        state = "runs" if not self.ended() else f"ended with {self.foreground.returncode}"
        return (f"the foreground {state}; buffers {self.images().buffers}; "
                f"records {self.records()}; errors: {self.errors()[-800:].strip()}; "
                f"out: {harness.read_file(self.workspace.path / 'out.txt')[-300:].strip()}")

    def wait(self, predicate, what, seconds=20.0, may_end=False):
        """Polls; fails when the foreground ends before (unless it may) or it takes too long."""
        deadline = time.monotonic() + seconds * harness.SLOWNESS
        while True:
            value = predicate()
            if value:
                return value
            if not may_end and self.ended() and not predicate():
                raise Failure(f"{what}: {self.describe()}")
            if time.monotonic() > deadline:
                raise Failure(f"{what}: not within {seconds:g} s; {self.describe()}")
            time.sleep(LOOK_SECONDS)

    def progress(self, what="progress of all threads"):
        """Returns the records of all threads after each has made a step while we looked."""
        first = self.wait(self.look, what)
        again = self.wait(lambda: self.look_beyond(first), what)
        self.check_threads(self.program_pid())
        return again

    def look(self):
        """The records if all threads have written one."""
        records = self.records()
        self.remember(records)
        return records if len(records) == THREADS else None

    def look_beyond(self, first):
        """The records if each thread is further than in `first`."""
        now = self.look()
        return now if now and all(now[t].step > first[t].step for t in first) else None

    def check_threads(self, pid):
        """All threads are there, and none that should not be."""
        names = []
        for comm in pathlib.Path(f"/proc/{pid}/task").glob("*/comm"):
            names.append(harness.read_file(comm).strip())
        rest = sorted(name for name in names if name != "cr-control")
        if rest != THREAD_NAMES:
            raise Failure(f"process {pid} has the threads {sorted(names)}; {self.describe()}")

    # ---- what must be true of a restore ----

    def remember(self, records):
        """A step that was seen while `sequence` was the newest whole checkpoint is in every
        checkpoint from sequence + 2 on: the next one may have been captured already."""
        for thread, record in records.items():
            bounds = self.bounds[thread]
            if bounds and bounds[-1][0] == record.sequence:
                bounds[-1] = (record.sequence, max(bounds[-1][1], record.step))
            elif not bounds or bounds[-1][0] < record.sequence:
                bounds.append((record.sequence, record.step))
                del bounds[:-50]

    def forget_after(self, sequence):
        """To be called when a checkpoint has been chosen: what was seen of steps that it does not
        hold will not come back."""
        for thread, bounds in self.bounds.items():
            self.bounds[thread] = [b for b in bounds if b[0] + 2 <= sequence]

    def check_restored(self, whole):
        """The life that just began is checkpoint `whole`, complete and running."""
        self.forget_after(whole.sequence)
        bounds = {t: max((s for _, s in self.bounds[t]), default=0) for t in range(THREADS)}
        records = self.progress("progress of all threads after the restore")
        text = self.errors()
        found = re.search(r"restoring checkpoint (\d+)", text)
        if not found or int(found.group(1)) != whole.sequence:
            raise Failure(f"checkpoint {whole.sequence} should be restored; {self.describe()}")
        for thread, record in records.items():
            if record.epoch <= whole.epoch:
                raise Failure(f"thread {thread}: epoch {record.epoch} after {whole}")
            if record.sequence < whole.sequence:
                raise Failure(f"thread {thread}: sequence {record.sequence} after {whole}")
            if record.step < bounds[thread]:
                raise Failure(f"thread {thread} is at step {record.step}, checkpoint {whole} was "
                              f"taken after step {bounds[thread]}")
        return records

    def expect_none_whole(self):
        """crrestore says that there is nothing to restore, and starts nothing."""
        done = self.workspace.run([*self.prefix, self.workspace.tool("crrestore"), "-i", "off",
                                   str(self.image)], check=125)
        if not re.search(NONE_WHOLE, done.stderr):
            raise Failure(f"crrestore should say that no checkpoint is whole, not: {done.stderr}")
        self.expect_gone()

    # ---- ending ----

    def expect_gone(self, seconds=5.0):
        deadline = time.monotonic() + seconds * harness.SLOWNESS
        while left := self.left_over():
            if time.monotonic() > deadline:
                raise Failure("left behind: " + "; ".join(map(harness.describe_process, left)))
            time.sleep(LOOK_SECONDS)

    def kill_pids(self, pids):
        for pid in pids:
            harness.signal_pid(pid, signal.SIGKILL)

    def kill_all(self, seconds=20.0):
        """Ends whatever is left, and waits until it is gone."""
        deadline = time.monotonic() + seconds * harness.SLOWNESS
        while True:
            left = self.left_over()
            self.kill_pids(left)
            if not left and self.ended():
                break
            if time.monotonic() > deadline:
                raise Failure("cannot be killed: " + "; ".join(map(harness.describe_process, left)))
            time.sleep(LOOK_SECONDS)
        # Popens of the past would make the workspace take a stranger with the same id for ours.
        with self.workspace._lock:
            self.workspace._popens.clear()

    def settle_orphan(self, seconds=10.0):
        """After the death of a crrun or crrestore alone: the program is either complete and makes
        progress, or it ends by itself. Returns its pid, 0 if it ended."""
        deadline = time.monotonic() + seconds * harness.SLOWNESS
        first = None
        self.clear_records()
        while left := self.left_over():
            first = first or self.look()
            pid = self.program_pid(left)
            if pid and first and self.look_beyond(first) and harness.is_alive(pid):
                self.check_threads(pid)
                return pid
            if time.monotonic() > deadline:
                raise Failure("neither ended nor complete: "
                              + "; ".join(map(harness.describe_process, left))
                              + "; " + self.describe())
            time.sleep(LOOK_SECONDS)
        return 0

    def finish(self):
        """Lets the program come to its end, which verifies everything once more."""
        stop = pathlib.Path(f"{self.status}.stop")
        stop.touch()
        self.wait(self.ended, "end of the program", may_end=True)
        stop.unlink()
        text = harness.read_file(self.workspace.path / "out.txt")
        if self.foreground.returncode != 0 or f"OK {THREADS} threads" not in text:
            raise Failure(f"the program should end well: {self.describe()}")
