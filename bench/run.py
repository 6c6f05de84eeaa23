#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py - the benchmarks of `make bench`: a memory hog is checkpointed and restored.

Measured is what the program sees: the longest gap between two of its stamps (one per millisecond)
around a checkpoint is the pause, the first stamp after a restore is progress. Beside it CRIU (as
root, where it works) and DMTCP (where dmtcp_launch is on PATH), on the same program in the same run.

  python3 bench/run.py                                   everything, then bench/overhead.py
  python3 bench/run.py --mib 256 --threads 1 8 --runs 5
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import common

BLOCK = 1 << 18
HEAD = struct.Struct("<4Q")
GAP = struct.Struct("<2Q")
GAPS = BLOCK // 16 - 2


class Unusable(Exception):
    """A peer that is installed but does not work here; the message says why."""


# --------------------------------------------------------------------------------- the program ----


class Status:
    """The hog's status file."""

    def __init__(self, path, threads):
        self.path, self.threads = path, threads

    def _block(self, data, thread):
        block = data[thread * BLOCK:(thread + 1) * BLOCK]
        stamps, last_ns, gaps, _ = HEAD.unpack_from(block)
        list_of_gaps = [GAP.unpack_from(block, HEAD.size + i * GAP.size)
                        for i in range(min(gaps, GAPS))]
        return stamps, last_ns, list_of_gaps

    def read(self):
        """[(stamps, last_ns, [(end_ns, length_ns)])] per thread."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return []
        if len(data) < self.threads * BLOCK:
            return []
        return [self._block(data, thread) for thread in range(self.threads)]

    def all_stamped_after(self, when_ns):
        """Asked often: reads the heads alone."""
        try:
            with open(self.path, "rb") as file:
                for thread in range(self.threads):
                    file.seek(thread * BLOCK)
                    head = file.read(HEAD.size)
                    if len(head) < HEAD.size or HEAD.unpack(head)[1] <= when_ns:
                        return False
        except OSError:
            return False
        return True

    def longest_gap(self, begin_ns, end_ns):
        """Seconds that the longest gap of any thread that overlaps the time span is longer than the
        tick of 1 ms; recorded from 0.1 ms on."""
        longest = 1.1e-3
        for _, _, gaps in self.read():
            for gap_end, length in gaps:
                if gap_end >= begin_ns and gap_end - length <= end_ns:
                    longest = max(longest, length * 1e-9)
        return longest - 1e-3

    def first_progress(self, begin_ns):
        """Seconds from then to the first stamp of all threads that had stood still since before."""
        firsts = []
        for _, last, gaps in self.read():
            ends = [end for end, length in gaps if end > begin_ns >= end - length]
            firsts.append(min(ends) if ends else last)
        return (min(firsts) - begin_ns) * 1e-9


def wait_for(predicate, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.001)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def disk_bytes(path):
    """What the files below take on disk."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


# ------------------------------------------------------------------------------- checkpointers ----


class Ours:
    """crrun, crckpt, crrestore. durable: as crrun's option."""

    def __init__(self, directory, durable):
        self.directory = pathlib.Path(directory)
        self.durable = [f"--durable={durable}"]
        self.image = self.directory / "image"
        self.log = open(self.directory / "log", "ab")
        self.foreground = None

    def start(self, command):
        self.foreground = subprocess.Popen(
            [common.tool("crrun"), "-d", str(self.image), "-i", "off", *self.durable, "--",
             *command], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def checkpoint(self):
        """Seconds that the program was stopped, as the session says."""
        done = subprocess.run([common.tool("crckpt"), str(self.image)], check=True,
                              capture_output=True, text=True)
        return float(re.search(r"pause ([0-9.]+) ms", done.stdout).group(1)) / 1e3

    def image_bytes(self):
        """Of one checkpoint: the directory holds two."""
        return max(disk_bytes(self.image / f"image.{i}") for i in (0, 1)
                   if (self.image / f"image.{i}").exists())

    def stop(self):
        pids = [int(p) for p in pathlib.Path(
            f"/proc/{self.foreground.pid}/task/{self.foreground.pid}/children").read_text().split()]
        for pid in (*pids, self.foreground.pid):
            kill(pid)
        self.foreground.wait()
        wait_for(lambda: not any(map(alive, pids)), "death of the program")

    def restore(self, *options):
        self.foreground = subprocess.Popen(
            [common.tool("crrestore"), "-i", "off", "--clock=host",  # which the stamps are of
             *self.durable, *options, str(self.image)],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def restore_lazily(self):
        self.restore("--lazy")


class Criu:
    """criu dump --leave-running and criu restore, as root. It makes nothing durable."""

    def __init__(self, directory, _durable):
        self.directory = pathlib.Path(directory)
        self.number = 0
        self.pid = 0
        self.child = None
        self.log = open(self.directory / "log", "ab")

    @staticmethod
    def usable():
        if shutil.which("criu") is None:
            raise Unusable("criu is not installed")
        if os.geteuid() != 0:
            raise Unusable("criu takes root")
        done = subprocess.run(["criu", "--version"], capture_output=True, text=True, check=False)
        version = "CRIU " + done.stdout.split()[1]
        done = subprocess.run(["criu", "check"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            errors = re.findall(r"Error \(\S+\): (.*)", done.stderr) or [done.stderr.strip()]
            raise Unusable(f"{version} does not work on this kernel: {'; '.join(errors)}")
        return version

    def start(self, command):
        self.child = subprocess.Popen(command, stdout=self.log, stderr=self.log,
                                      stdin=subprocess.DEVNULL, start_new_session=True)
        self.pid = self.child.pid

    def images(self):
        return self.directory / f"images-{self.number}"

    def checkpoint(self):
        shutil.rmtree(self.images(), ignore_errors=True)
        self.number += 1
        self.images().mkdir()
        done = subprocess.run(["criu", "dump", "-t", str(self.pid), "-D", str(self.images()),
                               "--leave-running", "-o", "dump.log"], capture_output=True,
                              text=True, check=False)
        if done.returncode != 0:
            raise Unusable("criu dump failed: " + self._last_error("dump.log"))

    def _last_error(self, name):
        try:
            text = (self.images() / name).read_text(errors="replace")
        except OSError:
            return "no log"
        errors = [line for line in text.splitlines() if "Error" in line]
        return errors[-1] if errors else text[-200:]

    def image_bytes(self):
        return disk_bytes(self.images())

    def stop(self):
        kill(self.pid)
        if self.child is not None:
            self.child.wait()
            self.child = None
        wait_for(lambda: not alive(self.pid), "death of the program")

    def restore(self):
        done = subprocess.run(["criu", "restore", "-D", str(self.images()), "-d", "-o",
                               "restore.log"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unusable("criu restore failed: " + self._last_error("restore.log"))


class Dmtcp:
    """dmtcp_launch with a coordinator of its own, without gzip as a fast disk wants it."""

    def __init__(self, directory, _durable):
        self.directory = pathlib.Path(directory)
        self.log = open(self.directory / "log", "ab")
        self.port = 17000 + os.getpid() % 10000
        self.environment = {**os.environ, "DMTCP_COORD_PORT": str(self.port),
                            "DMTCP_CHECKPOINT_DIR": str(self.directory), "DMTCP_GZIP": "0"}
        self.child = None

    @staticmethod
    def usable():
        if shutil.which("dmtcp_launch") is None:
            raise Unusable("dmtcp_launch is not on PATH")
        done = subprocess.run(["dmtcp_launch", "--version"], capture_output=True, text=True,
                              check=False)
        found = re.search(r"\d+\.\d+\S*", done.stdout)
        return "DMTCP" + (" " + found.group(0) if found else "")

    def _popen(self, command):
        return subprocess.Popen(command, stdout=self.log, stderr=self.log, env=self.environment,
                                stdin=subprocess.DEVNULL)

    def start(self, command):
        self.child = self._popen(["dmtcp_launch", "--new-coordinator", "--ckptdir",
                                  str(self.directory), *command])

    def checkpoint(self):
        for old in self.images():
            old.unlink()
        done = subprocess.run(["dmtcp_command", "--bcheckpoint"], env=self.environment,
                              capture_output=True, check=False)
        if done.returncode != 0 or not self.images():
            raise Unusable("dmtcp_command --bcheckpoint failed")

    def images(self):
        return list(self.directory.glob("ckpt_*.dmtcp"))

    def image_bytes(self):
        return sum(disk_bytes(path) for path in self.images())

    def stop(self):
        subprocess.run(["dmtcp_command", "--kill"], env=self.environment, capture_output=True,
                       check=False)
        subprocess.run(["dmtcp_command", "--quit"], env=self.environment, capture_output=True,
                       check=False)
        self.child.wait()

    def restore(self):
        self.child = self._popen(["dmtcp_restart", "--new-coordinator", "--ckptdir",
                                  str(self.directory), *map(str, self.images())])


# ----------------------------------------------------------------------------------- measuring ----


class Figures:
    """Of one checkpointer with one size and number of threads; lists of seconds."""

    def __init__(self):
        self.pause, self.whole, self.restore, self.lazy, self.quiet = [], [], [], [], []
        self.stopped = []  # as the checkpointer says, where it does
        self.first, self.first_whole = [], []
        self.image = 0


def now_ns():
    return time.monotonic_ns()


def measure(checkpointer, directory, mib, threads, dirty, runs):
    figures = Figures()
    # In memory: its writes must not wait for the disk that takes the image.
    status = Status(pathlib.Path(directory["shm"]) / "status", threads)
    command = [common.program("hog"), str(status.path), str(mib), str(threads), str(dirty)]
    checkpointer.start(command)
    try:
        begin = now_ns()
        wait_for(lambda: status.all_stamped_after(begin), "start of the hog")
        time.sleep(0.3)
        for number in range(2):  # the first two make the files
            begin = now_ns()
            checkpointer.checkpoint()
            end = now_ns()
            wait_for(lambda after=end: status.all_stamped_after(after), "progress")
            if number == 0:
                figures.first.append(status.longest_gap(begin, end))
                figures.first_whole.append((end - begin) * 1e-9)
        for _ in range(runs):
            time.sleep(0.3)
            begin = now_ns()
            time.sleep(0.3)
            figures.quiet.append(status.longest_gap(begin, now_ns()))
            begin = now_ns()
            stopped = checkpointer.checkpoint()
            end = now_ns()
            if stopped is not None:
                figures.stopped.append(stopped)
            figures.whole.append((end - begin) * 1e-9)
            wait_for(lambda after=now_ns(): status.all_stamped_after(after), "progress")
            figures.pause.append(status.longest_gap(begin, end))
        figures.image = checkpointer.image_bytes()
        ways = [(checkpointer.restore, figures.restore)]
        if os.geteuid() == 0 and hasattr(checkpointer, "restore_lazily"):
            ways.append((checkpointer.restore_lazily, figures.lazy))
        for restore, seconds in ways * runs:
            checkpointer.stop()
            time.sleep(0.2)
            begin = now_ns()
            restore()
            wait_for(lambda after=begin: status.all_stamped_after(after),
                     "progress after the restore")
            seconds.append(status.first_progress(begin))
            time.sleep(0.1)
    finally:
        checkpointer.stop()
    return figures


def bare_scan(mib, percent, runs):
    """Seconds that the kernel takes to find the dirty pages of so much memory, a list."""
    done = subprocess.run([common.program("scan"), str(mib), str(percent), str(runs)],
                          capture_output=True, text=True, check=False)
    return [int(line) * 1e-9 for line in done.stdout.split()]


def rows_of(results, scan):
    """Table rows; behind ours the ratios to a bare scan, and to the first peer whose images are in
    the same place."""
    rows = []
    for name, figures in results.items():
        row = [name, common.milliseconds(figures.pause),
               common.milliseconds(figures.stopped) if figures.stopped else "",
               common.milliseconds(figures.whole), common.milliseconds(figures.first),
               f"{figures.image / (1 << 20):.0f}", common.milliseconds(figures.restore),
               common.milliseconds(figures.lazy) if figures.lazy else "",
               common.milliseconds(figures.quiet)]
        place = name.rsplit(", ", 1)[1]
        base = next((peer for peer in results
                     if not peer.startswith("crrun") and peer.endswith(", " + place)), None)
        if scan and figures.stopped:
            row[2] += f", {common.ratio(figures.stopped, scan)} of a bare scan"
        if base and name.startswith("crrun"):
            b = results[base]
            row[1] += f", {common.ratio(figures.pause, b.pause)} of {base.split(',')[0]}'s"
            row[3] += f", {common.ratio(figures.whole, b.whole)}"
            row[6] += f", {common.ratio(figures.restore, b.restore)}"
            if figures.lazy:
                row[7] += f", {common.ratio(figures.lazy, b.restore)}"
        rows.append(row)
    return rows


def places(arguments):
    """name -> folder for images. Memory shows the engine, the disk what users have."""
    found = {}
    if "shm" in arguments.where and os.access("/dev/shm", os.W_OK):
        found["shm"] = "/dev/shm"
    if "disk" in arguments.where:
        found["disk"] = arguments.disk
    return found


def bench_one(arguments, peers, mib, threads, percent):
    """{row name: Figures} for one size, number of threads and percentage."""
    results = {}
    for place, folder in places(arguments).items():
        if place == "disk" and (mib > 1024 or percent != arguments.dirty[0]):
            continue
        jobs = [(f"crrun, {place}", Ours, "power")]
        if place == "disk":
            jobs.append((f"crrun --durable=crash, {place}", Ours, "crash"))
        jobs += [(f"{name}, {place}", peer, "") for name, peer in peers.items()]
        for name, kind, durable in jobs:
            directory = {"shm": tempfile.mkdtemp(prefix="crbench-", dir="/dev/shm"),
                         "images": tempfile.mkdtemp(prefix="crbench-", dir=folder)}
            try:
                os.sync()
                results[name] = measure(kind(directory["images"], durable), directory, mib,
                                        threads, mib * percent / 100, arguments.runs)
            except Unusable as reason:
                print(f"{name}: {reason}", flush=True)
            finally:
                for path in directory.values():
                    shutil.rmtree(path, ignore_errors=True)
    return results


def usable_peers(names):
    """name -> class of those that are there and work, and the reasons why others do not."""
    peers, reasons = {}, []
    for kind in (Criu, Dmtcp):
        if kind.__name__.lower() not in names:
            continue
        try:
            peers[kind.usable()] = kind
        except Unusable as reason:
            reasons.append(str(reason))
    return peers, reasons


HEADER = ("checkpointer, images on", "pause seen by the program", "stopped, as crckpt says",
          "until the image is whole", "pause of the first checkpoint", "image, MiB",
          "restore to first progress", "--lazy", "longest gap without a checkpoint")


def main():
    parser = argparse.ArgumentParser(description="Checkpoints and restores a memory hog.")
    parser.add_argument("--mib", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dirty", type=float, nargs="+", default=[1, 10],
                        help="percent of its memory that the hog dirties in a second")
    parser.add_argument("--runs", type=int, default=5, help="of each figure (default: 5)")
    parser.add_argument("--where", nargs="+", default=["shm", "disk"], choices=["shm", "disk"])
    parser.add_argument("--disk", default=tempfile.gettempdir(), help="folder for images on disk")
    parser.add_argument("--peers", nargs="*", default=["criu", "dmtcp"])
    parser.add_argument("--no-overhead", action="store_true",
                        help="leave out often.py, first.py, rollback.py and overhead.py")
    arguments = parser.parse_args()
    common.be_first()
    where = common.machine()
    peers, reasons = usable_peers(arguments.peers)
    for reason in reasons:
        print(reason, flush=True)
    text = (f"## Memory hog\n\n{where}. Images on shm: /dev/shm; disk: {disk_kind(arguments.disk)}. "
            "Milliseconds, medians (lowest-highest) of "
            f"{arguments.runs}. The hog looks at the clock every millisecond: its pauses are what a "
            "gap between two looks is longer.\n")
    for reason in reasons:
        text += f"No figures beside it: {reason}.\n"
    for mib in arguments.mib:
        if common.available_bytes() < 4.5 * (mib << 20):
            line = f"\n{mib} MiB: left out, only {common.available_bytes() >> 20} MiB are available\n"
            print(line, flush=True)
            text += line
            continue
        for threads in arguments.threads:
            for percent in arguments.dirty:
                scan = bare_scan(mib, percent, 2 * arguments.runs + 1)
                results = bench_one(arguments, peers, mib, threads, percent)
                part = (f"\n### {mib} MiB, {threads} thread{'s' if threads > 1 else ''}, "
                        f"{percent:g} % dirtied per second\n\n"
                        f"One bare PAGEMAP_SCAN: {common.milliseconds(scan)} ms.\n\n"
                        + common.table(HEADER, rows_of(results, scan)) + "\n")
                print(part, flush=True)
                text += part
    common.write_section("hog", text)
    if not arguments.no_overhead:
        statuses = [subprocess.run([sys.executable, str(common.REPO / "bench" / script)],
                                   check=False).returncode
                    for script in ("often.py", "first.py", "rollback.py", "overhead.py")]
        sys.exit(max(statuses))


def disk_kind(folder):
    done = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", folder], capture_output=True,
                          text=True, check=False)
    return done.stdout.strip() or "?"


if __name__ == "__main__":
    main()
