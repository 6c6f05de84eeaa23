# SPDX-License-Identifier: MIT
"""programs.py - what the allocator benchmark runs: the patterns of alloc_bench and real programs.

A job knows its program, prepares its input in a folder, and runs once under alloc_measure with the
environment that brings the allocator. Invariant: a run gives figures only if its status is 0;
its digest is of everything that it put out.
"""

import hashlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import common
import inputs

TIME_LIMIT_S = 180


class NotInstalled(Exception):
    """The program of a job is not there."""


class Failed(Exception):
    """A run that gives no figures; the message says how it ended."""


class Figures:
    """Of one run: seconds and KiB."""

    def __init__(self, words):
        user, system, wall = map(float, words[1:4])
        self.cpu, self.wall, self.peak_kib = user + system, wall, int(words[4])
        self.faults = int(words[5])
        self.digest = ""


def how_it_ended(status):
    if status >= 0:
        return f"exit {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"


def last_line(path):
    lines = path.read_text(errors="replace").strip().splitlines()
    return f": {lines[-1][:200]}" if lines else ""


class Job:
    """A program that is started, works and ends."""

    def __init__(self, name, program, arguments=(), source=None, stdin=None, output=None,
                 environment=None):
        """program: a path or a name on PATH. source: (file name, function that makes its text).
        stdin, output: file names; output is what the program writes beside its standard output."""
        self.name, self.program, self.arguments = name, program, list(arguments)
        self.source, self.stdin, self.output = source, stdin, output
        self.environment = environment or {}
        self.path = None

    def prepare(self, folder):
        self.path = shutil.which(self.program)
        if self.path is None:
            raise NotInstalled(f"{self.program} is not installed")
        if self.source is not None:
            (folder / self.source[0]).write_text(self.source[1]())

    def command(self, _folder):
        return [self.path, *self.arguments]

    def run(self, folder, environment):
        """Figures, or Failed."""
        process = self._start(folder, environment)
        try:
            process.wait(TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed(f"not at its end after {TIME_LIMIT_S} s") from None
        return self._finish(folder, process)

    def _start(self, folder, environment):
        result = folder / "result"
        result.unlink(missing_ok=True)
        if self.output is not None:
            (folder / self.output).unlink(missing_ok=True)
        with open(folder / self.stdin if self.stdin else os.devnull, "rb") as stdin, \
             open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
            return subprocess.Popen(
                [common.program("alloc_measure"), str(result), *self.command(folder)],
                stdin=stdin, stdout=stdout, stderr=stderr, cwd=folder,
                env={**environment, **self.environment})

    def _finish(self, folder, process):
        if process.returncode != 0:
            raise Failed("alloc_measure: " + how_it_ended(process.returncode))
        words = (folder / "result").read_text().split()
        if int(words[0]) != 0:
            raise Failed(how_it_ended(int(words[0])) + last_line(folder / "stderr"))
        figures = Figures(words)
        digest = hashlib.sha256((folder / "stdout").read_bytes())
        if self.output is not None:
            digest.update((folder / self.output).read_bytes())
        figures.digest = digest.hexdigest()
        return figures


class Compiler(Job):
    """cc1plus alone on a preprocessed file: the g++ that starts it is not measured."""

    def __init__(self):
        super().__init__("cc1plus", "g++", source=("input.cc", inputs.cplusplus),
                         output="output.s")

    def prepare(self, folder):
        super().prepare(folder)
        subprocess.run([self.path, "-std=c++20", "-E", "input.cc", "-o", "input.ii"], cwd=folder,
                       check=True)
        found = subprocess.run([self.path, "-print-prog-name=cc1plus"], check=True,
                               capture_output=True, text=True).stdout.strip()
        self.path = shutil.which(found)
        if self.path is None:
            raise NotInstalled("cc1plus is not installed")

    def command(self, _folder):
        return [self.path, "-quiet", "-std=c++20", "-O2", "input.ii", "-o", self.output]


class Redis(Job):
    """redis-server on a socket in the folder, driven with a fixed number of requests. Only the
    server is measured; the client is this process."""

    PASSES = 6

    def __init__(self):
        super().__init__("redis", "redis-server")
        self.batches = []

    def prepare(self, folder):
        super().prepare(folder)
        self.batches = self.batches or inputs.redis_batches()

    def command(self, _folder):
        return [self.path, "--port", "0", "--unixsocket", "redis.sock", "--save", "",
                "--appendonly", "no", "--daemonize", "no", "--activerehashing", "no"]

    def run(self, folder, environment):
        process = self._start(folder, environment)
        try:
            digest, peak_kib = self._drive(folder, process)
            process.wait(TIME_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            # A server that died says more than the connection that it broke.
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise Failed(f"the server does not answer: {error}") from None
            self._finish(folder, process)
            raise Failed(f"the connection broke: {error}") from None
        figures = self._finish(folder, process)
        figures.digest, figures.peak_kib = digest, peak_kib
        return figures

    def _drive(self, folder, process):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIME_LIMIT_S)
            self._connect(connection, folder / "redis.sock", process)
            digest = hashlib.sha256()
            for _ in range(self.PASSES):
                for number, batch in enumerate(self.batches):
                    digest.update(self._ask(connection, batch, inputs.redis_marker(number)))
            info = self._ask(connection, inputs.redis_command("INFO", "server")
                             + inputs.redis_command("ECHO", "end-of-batch-0"),
                             inputs.redis_marker(0))
            pid = int(re.search(rb"process_id:(\d+)", info).group(1))
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            connection.sendall(inputs.redis_command("SHUTDOWN", "NOSAVE"))
        return digest.hexdigest(), int(re.search(r"VmHWM:\s+(\d+)", status).group(1))

    @staticmethod
    def _connect(connection, path, process):
        deadline = time.monotonic() + 20
        while True:
            try:
                # A path of a socket is at most 107 bytes long.
                connection.connect(os.path.relpath(path))
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @staticmethod
    def _ask(connection, batch, marker):
        """Sends a batch and returns its replies, which end with the marker."""
        connection.sendall(batch)
        replies = bytearray()
        while not replies.endswith(marker):
            more = connection.recv(1 << 20)
            if not more:
                raise ConnectionError("closed by the server")
            replies += more
        return bytes(replies)


def all_jobs():
    alloc_bench = common.program("alloc_bench")
    names = subprocess.run([alloc_bench, "list"], check=True, capture_output=True,
                           text=True).stdout.split()
    jobs = [Job(name, alloc_bench, [name]) for name in names]
    python = {"source": ("input.py", lambda: inputs.PYTHON)}
    return jobs + [
        Job("lua", "lua5.4", ["input.lua"], source=("input.lua", lambda: inputs.LUA)),
        Job("python3", sys.executable, ["-I", "input.py"], **python),
        # Without Python's own allocator of small objects, which -I would switch on again.
        Job("python3_malloc", sys.executable, ["-s", "-S", "input.py"], **python,
            environment={"PYTHONMALLOC": "malloc"}),
        Job("sqlite3", "sqlite3", [":memory:"], source=("input.sql", inputs.sql),
            stdin="input.sql"),
        Job("gs", "gs", ["-q", "-dBATCH", "-dNOPAUSE", "-dSAFER", "-sDEVICE=ppmraw", "-r72",
                         "-sOutputFile=output.ppm", "input.ps"],
            source=("input.ps", inputs.postscript), output="output.ppm"),
        Job("z3", "z3", ["input.smt2"], source=("input.smt2", inputs.smt)),
        Compiler(),
        Redis(),
    ]
