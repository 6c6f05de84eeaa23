#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""cli_test.py - what the command line tools promise to a person at a terminal or a script.

Exit statuses, refusals, messages, job control, supervision. Each test is a function named test_*
that gets a Workspace; its name and docstring say what it checks.

  python3 tests/system/cli_test.py                       all, as root and as nobody
  python3 tests/system/cli_test.py 'cli/ctrl_*' --user=nobody
"""

import argparse
import collections
import ctypes
import errno
import itertools
import fcntl
import json
import mmap
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Failure, Session, expect  # noqa: E402

USERS = ("root", "nobody")
TOOLS = ("crrun", "crckpt", "crrestore", "crinspect", "crtop")
MANY = "100000000"  # more numbers than any test waits for

# ---------------------------------------------------------------------------------- helpers -----


def expect_match(expression, text, what):
    expect(re.search(expression, text, re.IGNORECASE),
           f"{what} should match /{expression}/, but is:\n{text}")


def helper(workspace, *arguments):
    return [workspace.program("cli_helper"), *map(str, arguments)]


def crrun(workspace, *words, **options):
    return workspace.run([workspace.tool("crrun"), *map(str, words)], **options)


def number_in(path):
    """The number that cli_helper count has written; 0 before the first."""
    text = harness.read_file(path).strip()
    return int(text) if text else 0


class Counter(Session):
    """A session of `cli_helper count`, whose progress can be seen in a file."""

    def __init__(self, workspace, last=MANY, **keywords):
        self.file = workspace.path / "count.txt"
        super().__init__(workspace, helper(workspace, "count", self.file, last), **keywords)

    def number(self):
        return number_in(self.file)

    def wait_progress(self):
        """Waits until the program has written another number than there is now. Twice: crrestore
        puts the file back too."""
        for _ in range(2):
            before = self.number()
            self.wait_until(lambda before=before: self.number() != before, "progress of the program")

    def expect_standstill(self, seconds=0.3):
        before = self.number()
        time.sleep(seconds)
        expect(self.number() == before,
               f"the program should stand still, but went from {before} to {self.number()}")

    def kill_program(self):
        """Kills the program alone and waits until it is gone."""
        pid = self.wait_until(self.program_pid, "the program's pid")
        started = start_time(pid)
        harness.signal_pid(pid, signal.SIGKILL)
        # A restarted program has the same pid: only its start tells it from the killed one.
        self.workspace.wait_until(lambda: not harness.is_alive(pid) or start_time(pid) != started,
                                  "death of the program")


def start_time(pid):
    """When the process started, in clock ticks since boot; None if it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rsplit(")", 1)[1].split()[19])


def started_counter(workspace, **keywords):
    session = Counter(workspace, **keywords)
    session.start()
    session.wait_progress()
    return session


def sequence_of(done):
    """The sequence number that crckpt printed."""
    found = re.search(r"sequence\W+(\d+)", done.stdout, re.IGNORECASE)
    if not found:
        raise Failure(f"crckpt should print the sequence, but printed:\n{done.stdout}")
    return int(found.group(1))


class Terminal:
    """A pseudo-terminal with a command as its session leader."""

    def __init__(self, workspace, command):
        self.workspace = workspace
        self.master, slave = os.openpty()
        workspace.user.give(os.ttyname(slave))
        self.popen = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave,
            cwd=workspace.path, env={**workspace.environment(), "TERM": "dumb", "PS1": "$ "},
            **workspace.user.popen_arguments())
        os.close(slave)
        workspace.adopt(self.popen)
        self.output = ""

    def send(self, text):
        os.write(self.master, text.encode())

    def read(self):
        """Takes in what is there."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                return
            if not data:
                return
            self.output += data.decode(errors="replace")

    def wait_for(self, predicate, what):
        def look():
            self.read()
            return predicate()
        try:
            return self.workspace.wait_until(look, what)
        except Failure as failure:
            raise Failure(f"{failure}\nthe terminal shows:\n{self.output[-1500:]}") from None

    def wait_text(self, expression):
        self.wait_for(lambda: re.search(expression, self.output), f"/{expression}/ on the terminal")

    def wait_end(self, status):
        self.wait_for(lambda: self.popen.poll() is not None, "end of the terminal's command")
        expect(self.popen.returncode == status, f"the status should be {status}, but is "
               f"{self.popen.returncode}\nthe terminal shows:\n{self.output[-1500:]}")
        os.close(self.master)


# ------------------------------------------------------------------------- status and streams ---


def test_exit_status(workspace):
    """crrun's exit status is the program's."""
    for status in (0, 1, 3, 77, 255):
        crrun(workspace, "-i", "off", "--", *helper(workspace, "exit", status), check=status)


def test_death_by_signal(workspace):
    """A program killed by signal N gives 128+N."""
    for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL, signal.SIGUSR1):
        crrun(workspace, "-i", "off", "--", *helper(workspace, "die", int(number)),
              check=128 + number)


def test_not_found(workspace):
    """127 and the name, for a program that is not there, by path and by PATH."""
    for name in ("./no-such-program", "no-such-program"):
        done = crrun(workspace, "-i", "off", "--", name, check=127)
        expect_match("no-such-program", done.stderr, "the message")


def test_not_executable(workspace):
    """126 and the name, for a file without execute permission and for a directory."""
    (workspace.path / "plain-file").write_text("text\n")
    (workspace.path / "directory").mkdir()
    for name in ("./plain-file", "./directory"):
        done = crrun(workspace, "-i", "off", "--", name, check=126)
        expect_match(name[2:], done.stderr, "the message")


def test_found_in_path(workspace):
    """A name without a slash is looked up in PATH."""
    crrun(workspace, "-i", "off", "--", "sh", "-c", "exit 9", check=9)


def test_own_failure(workspace):
    """125 if crrun itself fails; the program does not run."""
    marker = workspace.path / "ran"
    done = crrun(workspace, "-d", "/dev/null/image.dir", "--", "touch", marker, check=125)
    expect_match("/dev/null/image.dir", done.stderr, "the message")
    expect(not marker.exists(), "the program ran although there is no image directory")


def test_streams_and_arguments(workspace):
    """Arguments arrive unchanged, stdin and stdout are the program's, crrun prints nothing else."""
    done = workspace.run(
        ["sh", "-c", 'echo from a pipe | "$@" | cat', "sh", workspace.tool("crrun"), "-i", "off",
         "--", *helper(workspace, "args", "one", "two words", "", "--help", "-d", "*")], check=0)
    expect(done.stdout == "one\ntwo words\n\n--help\n-d\n*\nstdin: from a pipe\n",
           f"wrong output: {done.stdout!r}")
    expect(done.stderr == "", f"unexpected messages: {done.stderr}")


def test_options_end_at_program(workspace):
    """Options after the program's name are the program's, with and without --."""
    done = crrun(workspace, "-i", "off", *helper(workspace, "args", "-i", "--", "x"), check=0)
    expect(done.stdout == "-i\n--\nx\n", f"wrong output: {done.stdout!r}")


def test_plugins(workspace):
    """A plug-in that is not there is an error before anything is started; one that is there is
    loaded, by option and by variable, and says nothing in a program that has no rings."""
    plugin = workspace.build / "lib" / "crplugin_io_uring.so"
    missing = str(workspace.path / "missing.so")
    for options, variables in ((("--plugin", missing), {}), ((), {"CR_PLUGINS": missing})):
        done = workspace.run([workspace.tool("crrun"), *options, "true"], environment=variables)
        if done.returncode != 125 or missing not in done.stderr:
            raise Failure(f"{options} {variables}: status {done.returncode}\n{done.stderr}")
    maps = ["grep", "-c", "crplugin_io_uring", "/proc/self/maps"]
    for options, variables in ((("--plugin", str(plugin)), {}), ((), {"CR_PLUGINS": str(plugin)}),
                               ((), {})):
        done = workspace.run([workspace.tool("crrun"), "-i", "off", *options, *maps],
                             environment=variables)
        if (done.stdout.strip() != "0") != bool(options or variables) or done.stderr:
            raise Failure(f"{options} {variables}: {done.stdout}{done.stderr}")


def test_wrong_usage(workspace):
    """Misuse: exit status 2, a message on stderr, nothing on stdout."""
    cases = [
        ("crrun",), ("crrun", "--no-such-option", "true"), ("crrun", "-i", "soon", "true"),
        ("crrun", "-i", "-3", "true"), ("crrun", "--restart=perhaps", "true"), ("crrun", "-d"),
        ("crrun", "--track=some", "true"), ("crrestore", "--track=", "image.dir"),
        ("crckpt",), ("crckpt", "--then=dance", "image.dir"), ("crckpt", "a", "b"),
        ("crrestore",), ("crrestore", "--sequence", "many", "image.dir"), ("crrestore", "a", "b"),
        ("crinspect",), ("crinspect", "--no-such-option"),
        ("crinspect", "no-such-command", "image.dir"),
        ("crtop",), ("crtop", "a", "b"), ("crtop", "-d", "0", "a"), ("crtop", "-d", "x", "a"),
        ("crtop", "-n", "0", "a"), ("crtop", "-n", "many", "a"), ("crtop", "--two", "a"),
    ]
    for tool, *arguments in cases:
        done = workspace.run([workspace.tool(tool), *arguments])
        shown = " ".join([tool, *arguments])
        expect(done.returncode == 2, f"`{shown}` should exit with 2, not {done.returncode}\n"
               f"{done.stdout}{done.stderr}")
        expect(done.stderr.strip() != "", f"`{shown}` should say what is wrong")
        expect(done.stdout == "", f"`{shown}` should print nothing on stdout, got: {done.stdout}")


def test_help(workspace):
    """--help: exit status 0, text on stdout, nothing on stderr; it has the options' defaults."""
    for tool in TOOLS:
        done = workspace.run([workspace.tool(tool), "--help"], check=0)
        expect_match("usage", done.stdout, f"the help of {tool}")
        expect(done.stderr == "", f"{tool} --help should print nothing on stderr: {done.stderr}")
    done = workspace.run([workspace.tool("crrun"), "--help"], check=0)
    for word in ("-i", "-d", "--restart", "default", "125", "126", "127", "auto", "--overhead",
                 "--mtbf", "--min-interval", "--max-interval"):
        expect(word in done.stdout, f"crrun --help should mention {word}")


# --------------------------------------------------------------------------------- refusals -----


def test_static_refused(workspace):
    """A statically linked program is refused by name and reason, and does not run."""
    done = crrun(workspace, "-i", "off", "--", workspace.program("static_program"))
    expect(done.returncode in (125, 126), f"status {done.returncode}")
    expect_match("static", done.stderr, "the message")
    expect(done.stdout == "", f"the program ran: {done.stdout}")


def test_old_kernel_refused(workspace):
    """Linux before 5.13 is named, and nothing is run."""
    done = workspace.run(["setarch", "--uname-2.6", workspace.tool("crrun"), "--",
                          workspace.program("cli_helper"), "args", "it-ran"])
    expect(done.returncode == 125, f"status {done.returncode}\n{done.stderr}")
    expect_match("older than Linux 5.13", done.stderr, "the message")
    expect("it-ran" not in done.stdout, f"the program ran: {done.stdout}")


def test_interval_after_restore(workspace):
    """The restored session checkpoints as often as before, or as crrestore -i says."""
    def sequence_grows(session, seconds=3.0):
        before = newest(session)
        deadline = time.monotonic() + seconds
        while newest(session) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        return newest(session) > before

    def newest(session):
        done = workspace.run([workspace.tool("crinspect"), "--json", session.image])
        found = re.findall(r'"sequence": ?(\d+)', done.stdout)
        return max(map(int, found), default=0)

    session = harness.Session(workspace, [workspace.program("cli_helper"), "count", "count.txt", "60000"],
                              options=("-i", "0.2"))
    harness.require_restore(workspace.user)
    session.start()
    session.wait_until(lambda: newest(session) >= 2, "two checkpoints")
    session.kill()
    session.restore()
    session.wait_until(session.program_pid, "the restored program")
    expect(sequence_grows(session, 20.0), "no further checkpoint after the restore")
    session.kill()
    session.restore(options=("-i", "off"))
    session.wait_until(session.program_pid, "the restored program")
    time.sleep(0.5)
    expect(not sequence_grows(session, 1.0), "a checkpoint was made in spite of -i off")
    session.kill()


def test_free_heap_is_not_saved(workspace):
    """1 GiB of heap that was written and freed: the image takes a few MiB."""
    session = harness.Session(workspace, [workspace.program("lib_heap_holes"), "1024"])
    session.start()
    session.wait_ready()
    done = session.checkpoint()
    stored = sum(file.stat().st_blocks * 512
                 for file in pathlib.Path(session.image).glob("image.*"))
    expect(stored < 16 << 20, f"the image takes {stored >> 20} MiB\n{done.stdout}")
    session.kill()
    harness.require_restore(workspace.user)
    session.restore()
    session.go()
    session.expect_pass()


def word_index(workspace, *arguments):
    return [workspace.build / "demos" / "word_index", "heap.dir", *arguments]


def make_words(path, lines):
    rnd = random.Random(11)
    words = ["".join(rnd.choices("abcdefghij", k=rnd.randint(2, 8))) for _ in range(20000)]
    text = "\n".join(" ".join(rnd.choices(words, k=10)) for _ in range(lines)) + "\n"
    path.write_text(text, encoding="ascii")
    return text


def test_heap_survives_kills(workspace):
    """An index in a persistent heap is killed at random moments, its agent too at times; each time
    it is consistent and not behind an earlier commit, and in the end complete."""
    text = make_words(workspace.path / "words.txt", 40000)
    rnd = random.Random(int(os.environ.get("CR_TEST_SEED", "1")))
    seen = kills = 0
    done = None
    while kills < 40:
        popen = workspace.start(word_index(workspace, "add", "words.txt", "50"))
        time.sleep(rnd.uniform(0.0, 0.12))
        if popen.poll() is not None and popen.returncode == 0:
            break
        agents = [pid for pid in workspace.processes() if pid != popen.pid]
        if rnd.random() < 0.5:
            harness.signal_pid(popen.pid, signal.SIGKILL)
            popen.wait()
        for pid in agents:
            if popen.poll() is None or rnd.random() < 0.5:
                harness.signal_pid(pid, signal.SIGKILL)
        if popen.poll() is None:  # without its agent it ends by itself, with an error
            popen.wait(timeout=60)
            expect(popen.returncode in (0, 1), f"status {popen.returncode} without the agent")
        kills += 1
        done = workspace.run(word_index(workspace, "check"))
        if done.returncode == 1 and "no checkpoint in it is whole" in done.stderr + done.stdout or \
                "there is no image" in done.stderr:
            expect(seen == 0, f"all images are gone: {done.stderr}")
            continue
        expect(done.returncode == 0, f"kill {kills}: {done.stdout}{done.stderr}")
        at = int(done.stdout.split()[5])
        expect(at >= seen, f"kill {kills}: {at} bytes after {seen} were committed")
        seen = at
    expect(kills >= 5, f"only {kills} kills: the file is too short")
    workspace.run(word_index(workspace, "add", "words.txt", "5000"), check=0)
    done = workspace.run(word_index(workspace, "list"), check=0)
    expect(sorted(done.stdout.splitlines()) ==
           sorted(f"{count} {word}" for word, count in
                  collections.Counter(text.split()).items()), "the index is not that of the file")


def test_heap_open_errors(workspace):
    """What crheap_open says of images that it cannot take."""
    make_words(workspace.path / "words.txt", 500)
    done = workspace.run(word_index(workspace, "check"))
    expect(done.returncode == 1, f"status {done.returncode}")
    expect_match("there is no image in this directory", done.stderr, "the message")
    workspace.run(word_index(workspace, "add", "words.txt", "100"), check=0)
    done = workspace.run([workspace.tool("crrestore"), "heap.dir"])
    expect(done.returncode == 125, f"status {done.returncode}")
    expect_match("a heap without a process", done.stderr, "crrestore's message")
    done = workspace.run([workspace.tool("crrun"), "-i", "off", "-d", "other.dir", "--",
                          *word_index(workspace, "check")])
    expect(done.returncode == 1, f"status {done.returncode}")
    expect_match("session or a heap in use already", done.stderr, "the message under crrun")
    images = sorted((workspace.path / "heap.dir").glob("image.*"),
                    key=lambda path: path.stat().st_mtime_ns)
    with open(images[-1], "r+b") as file:
        file.seek(4096 + 10)
        old = file.read(1)
        file.seek(4096 + 10)
        file.write(bytes([old[0] ^ 1]))
    done = workspace.run(word_index(workspace, "check"))
    expect(done.returncode == 1, f"status {done.returncode}")
    expect_match("is damaged.*The other buffer holds sequence", done.stderr, "the message")


def test_heap_of_a_process_image(workspace):
    """The heap of a whole process can be opened for reading, and not otherwise."""
    session = harness.Session(workspace, [workspace.program("lib_heap_holes"), "16"])
    session.start()
    session.wait_ready()
    session.checkpoint(then="kill")
    session.workspace.wait_until(session.ended, "end of crrun")
    program = workspace.program("lib_heap_open")
    done = workspace.run([program, session.image, "write"])
    expect(done.returncode == 1, f"status {done.returncode}: {done.stdout}")
    expect_match("image of a whole process", done.stdout, "the message")
    done = workspace.run([program, session.image, "read"], check=0)
    expect_match(r"root blocks\ncommit: Read-only file system", done.stdout, "the output")


def test_often_with_a_file_open(workspace):
    """A program that calls checkpoint() all the time, with its output in a regular file, captures
    itself: the agent, which helps it to compare, must look at the program's descriptors, and not at
    those of the library's own thread."""
    image = workspace.path / "merge.image"
    script = f"exec '{workspace.build / 'demos' / 'mergesort'}' --image '{image}' > out.txt 2> err.txt"
    workspace.run(["sh", "-c", script], check=0)
    expect_match("8192 integers, checksum [0-9a-f]+, sorted",
                 (workspace.path / "out.txt").read_text(), "the output")
    expect_match("8191 checkpoints", (workspace.path / "err.txt").read_text(), "the report")
    done = workspace.run([workspace.tool("crinspect"), "history", "--json", image], check=0)
    attempts = json.loads(done.stdout)["attempts"]
    quick = sum(a["quick"] for a in attempts)
    # An ordinary one is taken once in a second.
    expect(len(attempts) == 1000 and quick >= 970, f"only {quick} of {len(attempts)} were quick")


def test_setuid_refused(workspace):
    """A setuid program is refused by name and reason, and does not run."""
    copy = workspace.path / "setuid_helper"
    shutil.copy(workspace.program("cli_helper"), copy)
    if os.geteuid() == 0:
        os.chown(copy, 12345, 12345)
    copy.chmod(0o4755)
    done = crrun(workspace, "-i", "off", "--", copy, "args", "it-ran")
    expect(done.returncode in (125, 126), f"status {done.returncode}\n{done.stderr}")
    expect_match("set-?u?id|set-user", done.stderr, "the message")
    expect(done.stdout == "", f"the program ran: {done.stdout}")


def test_directory_in_use(workspace):
    """A second crrun on the directory of a live session: 125, a clear message, no harm done."""
    session = started_counter(workspace)
    done = crrun(workspace, "-d", session.image, "-i", "off", "--", "true", check=125)
    expect_match("in use|busy|already|another|live", done.stderr, "the message")
    session.wait_progress()
    session.checkpoint()


def test_restore_of_running_session(workspace):
    """crrestore of a session that is still running: refused, the session goes on."""
    session = started_counter(workspace)
    session.checkpoint()
    done = workspace.run([workspace.tool("crrestore"), session.image], check=125)
    expect_match("running|in use|busy|live|already", done.stderr, "the message")
    session.wait_progress()


def test_restore_of_nothing(workspace):
    """crrestore of a missing and of an empty directory: clear errors that name it."""
    (workspace.path / "empty.dir").mkdir()
    for name, expression in (("missing.dir", "no such|not found|does not exist|missing"),
                             ("empty.dir", "no (whole )?(checkpoint|image)|empty|holds no")):
        done = workspace.run([workspace.tool("crrestore"), name], check=125)
        expect_match(name, done.stderr, "the message")
        expect_match(expression, done.stderr, "the message")


def test_restore_before_first_checkpoint(workspace):
    """crrestore of a session that died before its first checkpoint: a clear error."""
    session = started_counter(workspace)
    session.kill()
    done = workspace.run([workspace.tool("crrestore"), session.image], check=125)
    expect_match("no (whole )?(checkpoint|image)|holds no", done.stderr, "the message")


def killed_at_checkpoint(workspace, name):
    session = Session(workspace, [workspace.program(name)])
    session.start()
    session.wait_ready()
    session.checkpoint(then="kill")
    session.wait_end(status=137)
    return session


def test_restore_where_a_lock_is_held(workspace):
    """Somebody else holds a lock of the image: an error that names file, lock and process, and no
    file is changed; when it is free again the program comes back."""
    session = killed_at_checkpoint(workspace, "file_locks")
    grown = workspace.path / "records"
    with grown.open("a") as file:
        file.write("since the checkpoint")
    for name, what, take in (
            ("shared", "flock", lambda f: fcntl.flock(f, fcntl.LOCK_EX)),
            ("records", r"record lock on bytes from 10 to 29",
             lambda f: fcntl.lockf(f, fcntl.LOCK_EX, 1, 15)),
            ("records", r"record lock on bytes from 100",
             lambda f: fcntl.lockf(f, fcntl.LOCK_EX, 5, 5000))):
        with (workspace.path / name).open("r+b") as file:
            take(file)
            for option in ([], ["--check-only"]):
                done = workspace.run([workspace.tool("crrestore"), *option, session.image],
                                     check=125)
                expect_match(rf"fd \d+ \(.*/{name}\): its {what} is held by process {os.getpid()} now",
                             done.stderr, "crrestore's message")
        expect("since the checkpoint" in grown.read_text(), "a file was changed")
    session.restore()
    session.go()
    session.expect_pass()
    expect("since the checkpoint" not in grown.read_text(), "the file was not cut back")


def test_restore_without_watched_file(workspace):
    """A file that an inotify instance watches was removed or replaced: an error that names it."""
    session = killed_at_checkpoint(workspace, "fd_inotify")
    watched = workspace.path / "watched" / "file"
    away = workspace.path / "away"
    watched.rename(away)
    for _ in range(2):
        done = workspace.run([workspace.tool("crrestore"), session.image], check=125)
        expect_match(r"inotify\): .*/watched/file, which it watches, was removed or replaced",
                     done.stderr, "crrestore's message")
        watched.write_text("")
    away.rename(watched)
    session.restore()
    session.go()
    session.expect_pass()


def test_fifo_of_a_writer_outside(workspace):
    """A program that reads a FIFO of another process: refused while bytes are unread; afterwards it
    reads on, also where the FIFO was made anew, and sees the end of file."""
    fifo = workspace.path / "in.fifo"
    os.mkfifo(fifo, 0o666)
    os.chmod(fifo, 0o666)
    keep = os.open(fifo, os.O_RDWR)
    session = Session(workspace, [workspace.program("fifo_outside"), "read"], stdout="copy.txt")
    session.start()
    session.wait_ready()
    os.write(keep, b"before ")
    done = session.checkpoint(check=1)
    expect_match(r"in\.fifo\): 7 bytes that another process wrote to the FIFO were not read",
                 done.stderr, "the refusal")
    session.ping()
    (workspace.path / "read").touch()
    session.wait_until(lambda: not (workspace.path / "read").exists(), "the first bytes")
    session.checkpoint(then="kill")
    session.wait_end(status=137)
    os.close(keep)
    fifo.unlink()
    done = workspace.run([workspace.tool("crrestore"), session.image], check=125)
    expect_match(r"in\.fifo\): the FIFO was removed or replaced .*mkfifo", done.stderr, "the error")
    os.mkfifo(fifo, 0o666)
    os.chmod(fifo, 0o666)
    session.restore()
    session.ping()
    with fifo.open("w") as file:
        file.write("and after")
    session.go()
    session.expect_pass()
    expect(harness.read_file(workspace.path / "copy.txt").startswith("before and after"),
           "what was read: " + harness.read_file(workspace.path / "copy.txt"))


def test_fifo_of_a_reader_outside(workspace):
    """A program that writes to a FIFO: it needs its reader again."""
    fifo = workspace.path / "out.fifo"
    os.mkfifo(fifo, 0o666)
    os.chmod(fifo, 0o666)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    session = Session(workspace, [workspace.program("fifo_outside"), "write"])
    session.start()
    session.wait_ready()
    session.checkpoint(then="kill")
    session.wait_end(status=137)
    os.close(reader)
    done = workspace.run([workspace.tool("crrestore"), session.image], check=125)
    expect_match(r"out\.fifo\): the FIFO had a reader at the checkpoint and has none now",
                 done.stderr, "the error")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    session.restore()
    session.go()
    session.expect_pass()
    expect(os.read(reader, 100) == b"written", "what came through")
    os.close(reader)


def test_new_ids_of_objects(workspace):
    """crrestore --ids=new: pidfds, timers and signals of descriptors are of the new process and its
    new threads."""
    for name in ("fd_signalfd", "fd_owner", "posix_timers"):
        session = killed_at_checkpoint(workspace, name)
        session.restore(("--ids=new",))
        session.go()
        session.expect_pass()
        shutil.rmtree(session.image)
        for word in ("ready", "go", "out.txt"):
            (workspace.path / word).unlink()


def test_zombies_keep_no_id(workspace):
    """Children that a killed program had not waited for do not hold their ids: as root
    crrestore --ids=same can have them at once."""
    if workspace.user.uid is not None or os.geteuid() != 0:
        raise harness.Skip("keeping ids takes root")
    session = killed_at_checkpoint(workspace, "tree_zombies")
    session.restore(("--ids=same",))
    session.go()
    session.expect_pass()


def test_checkpoint_without_session(workspace):
    """crckpt of a missing directory, of a dead session and of a stranger's pid: status 1, a
    message."""
    session = started_counter(workspace)
    session.kill()
    sleeper = workspace.start(["sleep", "1000"])
    for target in ("missing.dir", session.image, str(sleeper.pid)):
        done = workspace.run([workspace.tool("crckpt"), target], check=1)
        expect_match(re.escape(os.path.basename(target)), done.stderr, "the message")
    harness.signal_pid(sleeper.pid, signal.SIGKILL)


# ------------------------------------------------------------------------------- checkpoints ----


def test_end_during_checkpoint(workspace):
    """A program that ends or is killed while a checkpoint is being taken: its status comes
    through, and the image stays whole."""
    rnd = random.Random(1)
    for round_number in range(12):
        kind, number, status = (("exit", 9, 9), ("die", int(signal.SIGABRT), 134),
                                ("die", int(signal.SIGKILL), 137))[round_number % 3]
        command = helper(workspace, "late", 60 + rnd.randrange(60), kind, number)
        session = Session(workspace, command)
        session.start()
        taken = 0
        while not session.ended():  # one attempt is under way when the program ends
            taken += session.checkpoint(check=None).returncode == 0
        session.wait_end(status)
        if taken > 0:
            session.verify_image()


def test_default_image_directory(workspace):
    """Without -d the image is in ./<program>.image."""
    session = Counter(workspace, image="cli_helper.image")
    session.foreground = workspace.start(
        [workspace.tool("crrun"), "-i", "off", "--", *session.command])
    session.name = "crrun"
    session.wait_progress()
    session.checkpoint()
    session.verify_image()


def test_checkpoint_prints(workspace):
    """crckpt prints sequence, bytes, pause and time; the sequence rises by one."""
    session = started_counter(workspace)
    first = session.checkpoint()
    for expression in (r"\d.*byte|\d\s*[KMG]i?B", r"pause", r"\d\s*(ms|us|µs|s)\b"):
        expect_match(expression, first.stdout, "crckpt's report")
    second = session.checkpoint()
    expect(sequence_of(second) == sequence_of(first) + 1,
           f"sequence {sequence_of(second)} after {sequence_of(first)}")


def test_checkpoint_progress(workspace):
    """crckpt -v: a bar on a terminal, plain lines elsewhere, and nothing of both without -v."""
    session = started_counter(workspace)
    plain = workspace.run([workspace.tool("crckpt"), "-v", session.image], check=0)
    expect(sequence_of(plain) == 1, f"the usual line should be there: {plain.stdout}")
    lines = plain.stderr.splitlines()
    expect(1 <= len(lines) <= 3 and "\r" not in plain.stderr, f"wrong lines: {plain.stderr!r}")
    expect_match(r"^crckpt: writing: 100 %, [\d.]+ [KMG]iB of [\d.]+ [KMG]iB, .*\d s$", lines[-1],
                 "the last line")
    quiet = workspace.run([workspace.tool("crckpt"), session.image], check=0)
    expect(quiet.stderr == "", f"without -v nothing should be said: {quiet.stderr}")
    terminal = Terminal(workspace, [workspace.tool("crckpt"), "-v", session.image])
    terminal.wait_end(0)
    expect_match(r"\rcrckpt: writing \[#{5,20}\] 100 %, [\d.]+ [KMG]iB of .*\n", terminal.output,
                 "the terminal")
    expect_match(r"sequence 3 whole", terminal.output, "the terminal")
    expect("\x1b" not in terminal.output, "no escape sequences are needed for a bar")
    done = workspace.run(["sh", "-c", '"$@" 2>&-', "sh", workspace.tool("crckpt"), "-v",
                          session.image], check=0)
    expect(sequence_of(done) == 4, "without standard error it should work as well")
    session.kill()
    done = workspace.run([workspace.tool("crckpt"), "-v", session.image], check=1)
    expect_match("no session is running", done.stderr, "the message")


def test_progress_with_an_earlier_agent(workspace):
    """An agent that hangs up on a question it does not know is asked as before."""
    directory = workspace.path / "old.image"
    directory.mkdir()
    workspace.user.give(directory)
    kinds = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / "agent.sock"))
        workspace.user.give(directory / "agent.sock")
        listener.listen(4)
        listener.settimeout(30)

        def serve(answers):
            connection, _ = listener.accept()
            with connection:
                kinds.append(struct.unpack_from("<I", connection.recv(4096))[0])
                if kinds[-1] in answers:
                    connection.send(struct.pack("<IiiI5Q512s", 23, 0, 0, 0, 1, 9, 4096, 5, 6, b""))

        for answers, status in (((7,), 0), ((), 1)):
            kinds.clear()
            command = workspace.start([workspace.tool("crckpt"), "-v", directory], stdout="old.out")
            serve(answers)
            serve(answers)
            workspace.wait_until(lambda: command.poll() is not None, "the end of crckpt")
            expect(command.returncode == status and kinds == [10, 7],
                   f"status {command.returncode} after {kinds}")
    expect("sequence 9 whole" in harness.read_file(workspace.path / "old.out"), "its report")


def test_progress_of_a_large_checkpoint(workspace):
    """While 400 MiB are written the bar moves, and a reader that stands still holds nobody up."""
    session = Session(workspace, ["/usr/bin/python3", "-c", "import os, pathlib, time\n"
                                  "x = os.urandom(400 << 20)\npathlib.Path('ready').touch()\n"
                                  "time.sleep(10000)"])
    session.start()
    session.wait_until((workspace.path / "ready").exists, "400 MiB")
    stuck = workspace.start([workspace.tool("crckpt"), "-v", session.image], stdout="stuck.out")
    os.kill(stuck.pid, signal.SIGSTOP)
    terminal = Terminal(workspace, [workspace.tool("crckpt"), "-v", session.image])
    terminal.wait_end(0)
    parts = [int(n) for n in re.findall(r"\] (\d+) %", terminal.output)]
    expect(parts and parts == sorted(parts) and parts[-1] == 100, f"it should rise: {parts}")
    os.kill(stuck.pid, signal.SIGCONT)
    workspace.wait_until(lambda: stuck.poll() is not None, "the end of the other crckpt")
    expect(stuck.returncode == 0, f"the other crckpt ended with {stuck.returncode}")
    harness.require_restore(workspace.user)
    session.kill()
    session.restore(options=("-v",))
    session.wait_until(session.program_pid, "the restored program")
    errors = workspace.path / "restore-1.err"
    session.wait_until(lambda: "filling: 100 %" in harness.read_file(errors), "the last line")
    said = harness.read_file(errors)
    expect("\r" not in said and len(said.splitlines()) < 100, f"wrong lines: {said!r}")
    # Of the pages, those that are filled in are verified as they are.
    expect_match(r"^crrestore: verifying: 100 %, \d+\.\d MiB of", said, "crrestore -v")
    expect_match(r"filling: 100 %, 4\d\d\.\d MiB of 4", said, "crrestore -v")
    expect_match(r"restoring checkpoint 2 as process", said, "crrestore -v")
    session.kill()
    terminal = Terminal(workspace, [workspace.tool("crrestore"), "-v", session.image])
    terminal.wait_text(r"filling \[#{5,20}\] 100 %, ")
    parts = [int(n) for n in re.findall(r"verifying \[[#-]{5,20}\] +(\d+) %", terminal.output)]
    expect(parts and parts == sorted(parts) and parts[-1] == 100, f"it should rise: {parts}")
    for pid in [terminal.popen.pid, *harness.descendants(terminal.popen.pid)]:
        harness.signal_pid(pid, signal.SIGKILL)
    terminal.wait_end(-signal.SIGKILL)


def top(workspace, image, *words, check=0):
    return workspace.run([workspace.tool("crtop"), *words, str(image)], check=check)


def test_top_lines(workspace):
    """Without a terminal crtop prints a line each time; it knows each state of a session."""
    session = started_counter(workspace, options=("-i", "0.1"))
    session.wait_until(lambda: len(attempts_of(workspace, session.image)) >= 3, "checkpoints")
    lines = top(workspace, session.image, "-n", "3", "-d", "0.3").stdout.splitlines()
    expect(len(lines) == 3, f"three lines, not {lines}")
    sequences = []
    for line in lines:
        expect_match(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (running|checkpointing) program "
                     rf"\S*/cli_helper pid {session.program_pid()} up \d+ s epoch 1 sequence \d+ "
                     r"interval 0\.1 s pause \d+\.\d{3} ms whole \d+\.\d{3} ms changed [\d.]+ \wiB "
                     r"[\d.]+ \wiB/s written [\d.]+ \wiB [\d.]+ \wiB/s overhead \d+\.\d{3} % tracker "
                     r"(everything|userfaultfd|soft-dirty|hash) level power failed 0 of \d+$", line,
                     "a line")
        sequences.append(int(re.search(r"sequence (\d+)", line).group(1)))
    expect(sequences[0] < sequences[2] and sequences == sorted(sequences), f"{sequences}")
    expect(abs(sequences[2] - attempts_of(workspace, session.image)[-1]["sequence"]) < 30, "sequence")
    session.checkpoint(then="stop")
    expect_match(" frozen ", top(workspace, session.image, "--once").stdout, "frozen")
    session.checkpoint()
    program = session.wait_until(session.program_pid, "the program")
    os.kill(session.foreground.pid, signal.SIGKILL)
    workspace.wait_until(session.ended, "the end of crrun")
    line = top(workspace, session.image, "--once").stdout
    expect_match(" running without an agent program .*cli_helper epoch 1 sequence", line, "alone")
    os.kill(program, signal.SIGKILL)
    workspace.wait_until(lambda: not harness.is_alive(program), "the end of the program")
    line = top(workspace, session.image, "--once").stdout
    expect_match(" not running program .*cli_helper epoch 1 sequence .* pause ", line, "not running")
    crrun(workspace, "-d", "short.image", "-i", "0.05", "--", *helper(
        workspace, "count", "short.txt", "500"), check=42)
    expect_match(" ended by itself ", top(workspace, "short.image", "--once").stdout, "ended")


def test_top_refuses(workspace):
    """A directory without a session, or none: status 1 and a message."""
    (workspace.path / "empty.dir").mkdir()
    for path in ("empty.dir", "no-such.dir", "/etc/passwd"):
        done = top(workspace, path, check=1)
        expect_match(rf"crtop: {path}: no session runs there", done.stderr, "the message")
        expect(done.stdout == "", f"nothing should be printed: {done.stdout}")


def top_terminal(workspace, image, *words, term="xterm"):
    return Terminal(workspace, ["env", f"TERM={term}", "LANG=C", workspace.tool("crtop"), *words,
                                str(image)])


ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def test_top_screen(workspace):
    """On a terminal crtop has the screen until q or a signal, and leaves it as it was."""
    session = started_counter(workspace, options=("-i", "0.2"))
    session.wait_until(lambda: len(attempts_of(workspace, session.image)) >= 3, "checkpoints")
    terminal = top_terminal(workspace, session.image, "-d", "0.2")
    terminal.wait_text(r"program +\S*cli_helper count(?s:.*)process +pid \d+, up 0:\d\d:\d\d"
                       r"(?s:.*)state +(running|checkpointing)(?s:.*)checkpoint +epoch 1, sequence \d"
                       r"(?s:.*)interval +0\.2 s(?s:.*)pause +\d+\.\d+ ms last(?s:.*)tracker +\w+"
                       r"(?s:.*)pauses +[_.:=+*#-]{3,}")
    expect(terminal.output.startswith(ENTER), f"it should begin with another screen: "
           f"{terminal.output[:60]!r}")
    terminal.wait_for(lambda: terminal.output.count("\x1b[H") >= 3, "the third screen")
    settings = termios.tcgetattr(terminal.master)
    expect(settings[3] & termios.ECHO == 0, "keys should not be echoed")
    terminal.send("q")
    terminal.wait_for(lambda: terminal.popen.poll() is not None, "the end by q")
    terminal.read()
    expect(terminal.output.endswith(LEAVE), f"it should leave: {terminal.output[-60:]!r}")
    settings = termios.tcgetattr(terminal.master)
    expect(settings[3] & termios.ECHO and settings[3] & termios.ICANON, "the terminal is not as it was")
    terminal.wait_end(0)
    for number in (signal.SIGTERM, signal.SIGINT):
        terminal = top_terminal(workspace, session.image)
        terminal.wait_text("pauses")
        os.kill(terminal.popen.pid, number)
        terminal.wait_for(lambda: LEAVE in terminal.output, "the old screen")
        terminal.wait_end(-number)
    for screen in terminal.output.split("\x1b[H")[1:]:
        for line in screen.split("\r\n"):
            expect(len(re.sub(r"\x1b\[\??\d*[a-zA-Z]", "", line)) <= 80, f"too wide: {line!r}")
    terminal = top_terminal(workspace, session.image, "-n", "2", "-d", "0.1", term="dumb")
    terminal.wait_end(0)
    expect("\x1b" not in terminal.output and len(terminal.output.splitlines()) == 2,
           f"a dumb terminal gets lines: {terminal.output!r}")


def test_top_does_not_disturb(workspace):
    """Sessions go on with a crtop that stands still, and text of a program is shown harmlessly."""
    name = workspace.path / "evil \x1b[31m\u00fc"
    shutil.copy(workspace.program("cli_helper"), name)
    session = Session(workspace, [name, "count", workspace.path / "count.txt", MANY],
                      options=("-i", "0.1"))
    session.start()
    session.wait_until(lambda: len(attempts_of(workspace, session.image)) >= 2, "checkpoints")
    stuck = top_terminal(workspace, session.image, "-d", "0.1")
    stuck.wait_text("pauses")
    os.kill(stuck.popen.pid, signal.SIGSTOP)
    line = top(workspace, session.image, "--once").stdout
    expect("evil" in line and line.isascii() and "\x1b" not in line, f"wrong line: {line!r}")
    before = attempts_of(workspace, session.image)[-1]["number"]
    session.wait_until(lambda: attempts_of(workspace, session.image)[-1]["number"] > before + 5,
                       "checkpoints")
    os.kill(stuck.popen.pid, signal.SIGCONT)
    stuck.send("q")
    stuck.wait_end(0)
    expect("evil ?[31m" in stuck.output, f"the name: {stuck.output[:300]!r}")


def test_completion(workspace):
    """Options, their values, crinspect's commands and directories are completed in bash."""
    script = harness.REPO / "tools" / "completion" / "checkpoint_restore.bash"
    source = workspace.path / "completion.bash"
    shutil.copy(script, source)
    (workspace.path / "job.image").mkdir()

    def complete(tool, *words):
        quoted = " ".join(f"'{word}'" for word in (tool, *words))
        before = words[-2] if len(words) > 1 else tool
        done = workspace.run(
            ["bash", "-c", f"PATH={workspace.build}/bin:$PATH; . {source}; COMP_WORDS=({quoted}); "
             f"COMP_CWORD={len(words)}; _checkpoint_restore {tool} '{words[-1]}' '{before}'; "
             'printf "%s\\n" "${COMPREPLY[@]}"'], check=0)
        expect(done.stderr == "", f"completion should be silent: {done.stderr}")
        return done.stdout.split()

    expect(complete("crrun", "--over") == ["--overhead"], complete("crrun", "--over"))
    expect(complete("crrun", "--dur") == ["--durable="], complete("crrun", "--dur"))
    expect(complete("crrun", "--durable", "=", "p") == ["power"], "a value")
    expect(sorted(complete("crckpt", "--then", "=")) == ["continue", "kill", "stop"], "all values")
    expect(complete("crinspect", "hist") == ["history"], "a command")
    for tool in ("crckpt", "crrestore", "crinspect", "crtop"):
        expect(complete(tool, "job") == ["job.image"], f"a directory for {tool}")
        expect("--help" in complete(tool, "-"), f"options of {tool}")
    expect("true" in complete("crrun", "tru"), "a program")
    expect(complete("crrun", "-d", "job") == ["job.image"], "a directory for crrun")
    commands = complete("crstore", "")
    expect({"ls", "stat", "get", "verify", "repair", "status"} <= set(commands) and
           all(re.fullmatch("[a-z]+", command) for command in commands), f"commands: {commands}")
    expect(complete("crstore", "--socket", "no.sock", "ver") == ["verify"], "a command")
    expect(complete("crstore", "get", "x") == [], "no session, no crstored")
    expect(complete("crstore", "get", "some", "job") == ["job.image"], "a directory to get to")
    expect(complete("crstored", "--mem") == ["--members"], "an option of crstored")
    expect(complete("crstored", "--members", "completion") == ["completion.bash"], "a file")
    expect(complete("crstored", "--durable", "=", "c") == ["crash"], "a value of crstored")


def test_checkpoint_by_pid(workspace):
    """crckpt takes the program's pid instead of the directory."""
    session = started_counter(workspace)
    pid = session.wait_until(session.program_pid, "the program's pid")
    before = sequence_of(session.checkpoint())
    done = workspace.run([workspace.tool("crckpt"), str(pid)], check=0)
    expect(sequence_of(done) == before + 1, f"sequence {sequence_of(done)} after {before}")
    session.wait_progress()


def test_interval(workspace):
    """-i 0.3 takes checkpoints by itself, 0.3 s after the end of the last one."""
    session = started_counter(workspace, options=("-i", "0.3"))
    session.wait_until(lambda: len(attempts_of(workspace, session.image)) >= 5, "5 checkpoints")
    attempts = attempts_of(workspace, session.image)
    for last, this in itertools.pairwise(attempts):
        waited = this["realtime_ns"] - last["realtime_ns"] - last["whole_ns"]
        expect(waited >= 0.29e9, f"one began {waited / 1e9:.3f} s after the last: {attempts}")


def test_checkpoint_while_restoring(workspace):
    """Who asks before all processes are back waits for that."""
    harness.require_restore(workspace.user)
    session = Session(workspace, ["sh", "-c", "for i in 1 2 3 4 5; do sleep 60 & done; wait"])
    session.start()
    session.wait_until(lambda: len(harness.descendants(session.program_pid() or 1 << 30)) >= 5,
                       "the children")
    for number in range(1, 6):
        done = session.checkpoint(then="kill")
        expect(sequence_of(done) == 2 * number - 1, f"wrong sequence: {done.stdout}")
        session.wait_end(status=137)
        session.restore()
        while True:
            done = session.checkpoint(check=None)
            if done.returncode == 0:
                break
            expect_match("no session is running", done.stderr, "the message until crrestore is up")
    session.kill()


def test_other_libraries(workspace):
    """The image is self-contained: the program and its libraries are others when it comes back."""
    harness.require_restore(workspace.user)
    program, libraries = workspace.path / "program", workspace.path / "lib"
    libraries.mkdir()
    shutil.copy(workspace.program("cli_helper"), program)
    copied = []
    for line in subprocess.run(["ldd", program], capture_output=True, text=True,
                               check=True).stdout.splitlines():
        found = re.search(r"=> (/\S+)", line)
        if found:
            copied.append(libraries / pathlib.Path(found[1]).name)
            shutil.copy(found[1], copied[-1])
    expect(copied, "the program has no libraries")
    for path in (program, libraries, *copied):
        workspace.user.give(path)
    workspace.variables["LD_LIBRARY_PATH"] = str(libraries)
    session = Session(workspace, [program, "count", "count.txt", "600"])
    session.start()
    session.wait_until(lambda: number_in(workspace.path / "count.txt") > 20, "progress")
    maps = pathlib.Path(f"/proc/{session.program_pid()}/maps").read_text()
    expect(all(str(path) in maps for path in copied), f"the copies are not in use:\n{maps}")
    session.checkpoint(then="kill")
    session.wait_end(status=137)
    del workspace.variables["LD_LIBRARY_PATH"]
    shutil.copy("/bin/true", program)
    copied[0].unlink()
    for path in copied[1:]:
        path.write_bytes(b"another version")
    session.restore()
    session.wait_end(status=42)
    expect(number_in(workspace.path / "count.txt") == 600, "the program did not come to its end")


def test_others_are_refused(workspace):
    """The socket is its user's alone; whoever gets to it nonetheless is refused by his credentials."""
    if os.geteuid() != 0:
        raise harness.Skip("only root can be several users")
    session = Session(workspace, ["sleep", "60"])
    session.start()
    socket_path = pathlib.Path(session.image) / "agent.sock"
    session.wait_until(socket_path.exists, "the socket")
    expect(socket_path.stat().st_mode & 0o7777 == 0o600, "the socket's mode is not 0600")
    session.wait_until(lambda: session.checkpoint(check=None).returncode == 0, "a checkpoint")
    for path in (workspace.path, pathlib.Path(session.image)):
        path.chmod(0o755)
    socket_path.chmod(0o666)
    other = harness.user_named("65532")
    done = subprocess.run([harness.BUILD.for_user(other) / "bin" / "crckpt", session.image],
                          capture_output=True, text=True, check=False, cwd="/",
                          **other.popen_arguments())
    expect(done.returncode != 0, f"another user has had a checkpoint: {done.stdout}")
    expect_match("only its own user and root may talk to this session", done.stderr, "crckpt's error")
    expect(sequence_of(session.checkpoint()) == 2, "a checkpoint was taken for another user")
    session.kill()


def test_interval_too_short(workspace):
    """Checkpoints that take longer than the interval are delayed, which is said; others are not."""
    for interval, told in (("30", False), ("0.001", True)):  # what is said is appended
        session = started_counter(workspace, options=("-i", interval))
        for _ in range(3):
            session.checkpoint()
        session.kill()
        messages = (workspace.path / "err.txt").read_text()
        expect(("longer than the interval" in messages) == told, f"-i {interval}: {messages}")


def mappings_of_session(pid):
    """Shared mappings of ours in the program: the channel, and what is remembered about pages."""
    return harness.read_file(f"/proc/{pid}/maps").count("/memfd:cr-channel")


def test_track(workspace):
    """--track=hash remembers pages, in memory of its own, before and after a restore; =all none."""
    session = started_counter(workspace, options=("-i", "off", "--track=hash"))
    session.checkpoint()
    session.checkpoint()
    pid = session.wait_until(session.program_pid, "the program's pid")
    expect(mappings_of_session(pid) == 2, f"{mappings_of_session(pid)} mappings with --track=hash")
    session.checkpoint(then="kill")
    session.wait_end(status=137)
    session.restore(("--track=all",))
    session.wait_progress()
    session.checkpoint()
    pid = session.wait_until(session.program_pid, "the program's pid")
    expect(mappings_of_session(pid) == 1, f"{mappings_of_session(pid)} mappings with --track=all")


def reads_of_moves(workspace, mappings, option):
    """How many reads the moves of mremap_reads make under crrun with this option."""
    for name in ("ready", "go", "out.txt"):
        (workspace.path / name).unlink(missing_ok=True)
    session = Session(workspace, [workspace.program("mremap_reads"), str(mappings)], ("-i", "off", option),
                      image=f"image{mappings}{option}")
    session.start()
    session.wait_ready()
    session.checkpoint()
    session.ping()
    if option == "--track=hash":
        # What a program has left for a moment must not be taken behind its back.
        maps = harness.read_file(f"/proc/{session.program_pid()}/maps")
        expect(re.search(r"^1e\w{10}-.*cr-channel", maps, re.M), f"side memory lies at\n{maps}")
    session.go()
    session.expect_pass()
    return int(re.search(r"moves made (\d+) reads", harness.read_file(workspace.path / "out.txt"))[1])


def test_moves_read_no_map(workspace):
    """mremap to a given place reads the memory map only where mappings are tracked, and the kernel
    cannot be asked whether it is one mapping that moves (PROCMAP_QUERY, Linux 6.11)."""
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    expect(reads_of_moves(workspace, 1, "--track=hash") == 0, "one mapping that is not tracked")
    if release >= (6, 17):  # before, the kernel moves no two of them by one call
        expect(reads_of_moves(workspace, 2, "--track=hash") == 0, "two that are not tracked")
    if crrun(workspace, "--track=uffd", "-d", workspace.path / "probe", "true").returncode == 0:
        reads = reads_of_moves(workspace, 1, "--track=uffd")
        expect((reads == 0) == (release >= (6, 11)), f"one that is tracked: {reads} reads")
        reads = reads_of_moves(workspace, 2, "--track=uffd")
        expect(reads >= 50, f"two that are tracked: {reads} reads; what does this test count?")


def test_track_without_memory(workspace):
    """Where there is no room to remember pages (ulimit -v), everything is copied, as long as so."""
    session = started_counter(workspace, options=("-i", "off", "--track=hash"))
    pid = session.wait_until(session.program_pid, "the program's pid")
    for limit, mappings in (("1000000", 1), ("unlimited", 2)):
        workspace.run(["prlimit", "--pid", str(pid), f"--as={limit}:unlimited"], check=0)
        session.checkpoint()
        session.checkpoint()
        expect(mappings_of_session(pid) == mappings,
               f"{mappings_of_session(pid)} mappings with an address space of {limit} bytes")
    session.kill()
    session.restore()
    session.wait_progress()


def test_track_refused(workspace):
    """A way of tracking that this kernel lacks is refused by name, before the program starts."""
    done = crrun(workspace, "--track=uffd", "true", environment={"CR_NO_PAGEMAP_SCAN": "1"})
    expect(done.returncode == 125, f"crrun --track=uffd: status {done.returncode}\n{done.stderr}")
    expect_match(rf"--track=uffd cannot be had on Linux {re.escape(os.uname().release)} .*"
                 r"--track=(auto|hash)", done.stderr, "the message")
    done = crrun(workspace, "--track=softdirty", "-d", workspace.path / "i", "true")
    if done.returncode != 0:
        expect(done.returncode == 125, f"status {done.returncode}\n{done.stderr}")
        expect_match(rf"--track=softdirty cannot be had on Linux {re.escape(os.uname().release)} .*"
                     r"soft-dirty.*--track=hash", done.stderr, "the message")
        done = workspace.run([workspace.tool("crrestore"), "--track=softdirty", "image.dir"])
        expect(done.returncode == 125, f"crrestore: status {done.returncode}\n{done.stderr}")
        expect_match("--track=softdirty cannot be had", done.stderr, "crrestore's message")


def test_interval_off(workspace):
    """-i off takes none by itself."""
    session = started_counter(workspace)
    first = sequence_of(session.checkpoint())
    time.sleep(0.7)
    expect(sequence_of(session.checkpoint()) == first + 1, "a checkpoint was taken by itself")


def attempts_of(workspace, image):
    """The history, as crinspect shows it; empty before the first attempt."""
    done = workspace.run([workspace.tool("crinspect"), "history", "--json", str(image)])
    return json.loads(done.stdout)["attempts"] if done.stdout else []


def summary_of(workspace, image):
    """What the summary says of the checkpoint that crrestore takes."""
    done = workspace.run([workspace.tool("crinspect"), "--json", str(image)], check=0)
    found = json.loads(done.stdout)
    return found["buffers"][found["crrestore_takes"]]


def test_epochs_are_used_once(workspace):
    """Two restores from the same checkpoint do not name theirs alike."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace)
    for _ in range(2):
        session.checkpoint()
    session.kill()
    epochs = []
    for options in ((), ("--sequence", "2"), ("--sequence", "2")):
        session.restore(options=options)
        session.wait_until(lambda: session.checkpoint(check=None).returncode == 0, "a checkpoint")
        session.kill()
        epochs.append(attempts_of(workspace, session.image)[-1]["epoch"])
        expect(attempts_of(workspace, session.image)[-1]["sequence"] == 3, "the next one after 2")
    expect(epochs == [2, 3, 4], f"epochs {epochs}")


def test_interval_auto(workspace):
    """-i auto takes checkpoints by itself, within its bounds, and a restore keeps what was asked."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace, options=(
        "-i", "auto", "--overhead", "30", "--mtbf", "1.5h", "--min-interval", "0.05",
        "--max-interval", "0.2"))
    session.wait_until(lambda: len(attempts_of(workspace, session.image)) >= 5, "5 checkpoints")
    session.kill()
    before = attempts_of(workspace, session.image)
    for a in before:
        expect(a["interval_automatic"] and 0.05e9 <= a["interval_ns"] <= 0.2e9, f"wrong: {a}")
    shown = summary_of(workspace, session.image)
    expect(shown["interval_automatic"] and shown["overhead_budget_ppm"] == 300000 and
           shown["mtbf_seconds"] == 5400 and shown["min_interval_seconds"] == 0.05 and
           shown["max_interval_seconds"] == 0.2, f"wrong: {shown}")
    session.restore()
    session.wait_until(lambda: len(attempts_of(workspace, session.image)) >= len(before) + 3,
                       "checkpoints of the restored session")
    session.kill()
    for a in attempts_of(workspace, session.image)[len(before):]:
        expect(a["epoch"] == 2 and a["interval_automatic"], f"wrong: {a}")
        expect(0.05e9 <= a["interval_ns"] <= 0.2e9, f"wrong: {a}")
    session.restore(options=("-i", "0.1"))
    session.wait_until(lambda: attempts_of(workspace, session.image)[-1]["epoch"] == 3,
                       "a checkpoint of the second restore")
    last = attempts_of(workspace, session.image)[-1]
    expect(not last["interval_automatic"] and last["interval_ns"] == 100000000, f"wrong: {last}")
    session.kill()
    session.restore(options=("-i", "auto", "--max-interval", "0.3"))
    session.wait_until(lambda: attempts_of(workspace, session.image)[-1]["epoch"] == 4,
                       "a checkpoint of the third restore")
    last = attempts_of(workspace, session.image)[-1]
    expect(last["interval_automatic"] and last["interval_ns"] <= 0.3e9, f"wrong: {last}")
    session.kill()


def test_interval_auto_api(workspace):
    """crattr.interval_seconds = CR_INTERVAL_AUTO, and what crstatus() says of it; old structs."""
    program = workspace.program("lib_status")
    done = workspace.run([program, "auto.image"], check=0)
    expect_match(r"^auto 1 tracker [12] ", done.stdout, "the program's output")
    expect(attempts_of(workspace, workspace.path / "auto.image")[-1]["interval_automatic"], "auto")
    done = crrun(workspace, "-d", "run.image", "-i", "off", "--", program, "ignored.image", check=0)
    expect_match(r"^auto 1 tracker [12] ", done.stdout, "the program's output under crrun")


def test_track_api(workspace):
    """crattr.track, as crrun --track; what this machine does not have is an error with the words."""
    program = workspace.program("lib_status")
    for number, word in ((1, "all"), (2, "uffd"), (3, "softdirty"), (4, "hash")):
        known = crrun(workspace, f"--track={word}", "-i", "off", "true")
        done = workspace.run([program, f"{word}.image", str(number)])
        if known.returncode == 0:
            expect_match(rf"^auto 1 tracker {number} ", done.stdout, "the program's output")
        else:
            expect(done.returncode != 0 and f"--track={word} cannot be had" in done.stderr,
                   f"not refused: {done}")


def test_interval_auto_usage(workspace):
    """Options of -i auto without it, and values out of range, are misuse."""
    for words in (["--overhead", "1"], ["-i", "5", "--mtbf", "1h"], ["--min-interval", "1"],
                  ["-i", "auto", "--overhead", "0"], ["-i", "auto", "--overhead", "101"],
                  ["-i", "auto", "--overhead", "1x"], ["-i", "auto", "--mtbf", "-1"],
                  ["-i", "auto", "--mtbf", "1y"], ["-i", "auto", "--mtbf", "h"],
                  ["-i", "auto", "--min-interval", "10", "--max-interval", "5"],
                  ["-i", "auto", "--overhead"], ["-i", "automatic"]):
        for tool, last in (("crrun", "true"), ("crrestore", "image.dir")):
            done = workspace.run([workspace.tool(tool), *words, last], check=2)
            expect(done.stderr != "" and done.stdout == "", f"{tool} {words}: {done}")


def test_write_limits(workspace):
    """A bound of the bandwidth makes a checkpoint last, not the program stop; what cannot be meant is
    misuse."""
    for words, said in ((["--write-bandwidth", "900K"], "at least 1M"), (["--queue-depth", "0"], "1 to"),
                        (["--queue-depth", "1025"], "1 to"), (["--write-bandwidth", "fast"], "fast")):
        for tool, last in (("crrun", "true"), ("crrestore", "image.dir"), ("crstored", "--check-config")):
            done = workspace.run([workspace.tool(tool), *words, last], check=2)
            expect(said in done.stderr and done.stdout == "", f"{tool} {words}: {done}")
    session = started_counter(workspace, options=("-i", "off", "--write-bandwidth", "2M",
                                                  "--queue-depth", "1"))
    begun = time.monotonic()
    session.checkpoint()
    took = time.monotonic() - begun
    image = sum(path.stat().st_blocks * 512 for path in pathlib.Path(session.image).glob("image.*"))
    # A tenth of a second's bytes may be written in advance, and one write.
    expect(took > (image / (2 << 20) - 0.1) / 2, f"{image} bytes took {took:.1f} s")
    session.verify_image()
    session.kill()
    session.restore()
    session.wait_progress()
    session.kill()


def cached_share(path):
    """Of the pages of a file, those that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        where = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        expect(where not in (None, ctypes.c_void_p(-1).value), f"{path} cannot be mapped")
        pages = (size + 4095) // 4096
        found = ctypes.create_string_buffer(pages)
        done = libc.mincore(ctypes.c_void_p(where), ctypes.c_size_t(size), found)
        libc.munmap(ctypes.c_void_p(where), ctypes.c_size_t(size))
        expect(done == 0, "mincore")
    return sum(byte & 1 for byte in found.raw) / pages


def test_direct(workspace):
    """--direct writes past the page cache, to images that come back; where there is no disk it is
    refused before anything is started."""
    memory = pathlib.Path(tempfile.mkdtemp(prefix="crtest-direct-", dir="/dev/shm"))
    try:
        workspace.user.give(memory)
        for tool, words in (("crrun", ["-d", str(memory / "image.dir"), "true"]),
                            ("crstored", ["--store", str(memory / "store"), "--check-config"])):
            done = workspace.run([workspace.tool(tool), "--direct", *words], check=None)
            expect(done.returncode not in (0, 2) and "--direct" in done.stderr and str(memory) in done.stderr
                   and "leave it out" in done.stderr, f"{tool}: {done}")
        expect(list(memory.iterdir()) == [], f"{tool} left {list(memory.iterdir())}")
    finally:
        shutil.rmtree(memory)
    harness.require_restore(workspace.user)
    try:
        os.close(os.open(workspace.path, os.O_TMPFILE | os.O_WRONLY | os.O_DIRECT, 0o600))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise harness.Skip("no O_DIRECT in the temporary directory") from error
    shares = {}
    for option in ([], ["--direct"]):
        session = Counter(workspace, options=("-i", "off", *option), image=f"image{len(option)}.dir")
        session.command = [str(part) for part in helper(workspace, "grow", session.file, MANY, 64)]
        session.start()
        session.wait_progress()
        for _ in range(3):
            session.checkpoint()
        images = pathlib.Path(session.image).glob("image.[01]")
        shares[len(option)] = sorted(cached_share(path) for path in images)
        session.verify_image()
        session.kill()
        session.restore()
        session.wait_progress()
        session.kill()
    expect(max(shares[0]) > 0.9, f"of a buffered image {shares[0]} is in the page cache")
    # The last checkpoint's pages are read where this one takes them over.
    expect(min(shares[1]) < 0.5, f"of a direct image {shares[1]} is in the page cache")


def test_interval_checkpoint_is_restored(workspace):
    """A run that only ever had automatic checkpoints comes back from the newest."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace, options=("-i", "0.2"))

    def taken():
        return len(attempts_of(workspace, session.image))
    session.wait_until(taken, "a checkpoint")
    enough = taken() + 2  # the second from now begins after what follows
    before = session.number()
    session.wait_until(lambda: taken() >= enough, "two more checkpoints")
    session.kill()
    session.restore()
    session.wait_progress()
    expect(session.number() >= before, f"restored at about {session.number()}, although it was at "
           f"{before} before the newest checkpoint")
    session.kill()


def test_run_after_a_finished_one(workspace):
    """A new run in the directory of one that came to its end: its own first checkpoint counts, though
    the old ones had higher sequences. One in the directory of an unfinished run moves that aside."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace, last=400)
    for _ in range(3):
        session.checkpoint()
    session.wait_end(42)
    session = started_counter(workspace, last=3000)
    expect(sequence_of(session.checkpoint()) == 1, "the new run should count from 1")
    session.kill()
    session.restore(("-v",))
    session.wait_progress()
    said = harness.read_file(workspace.path / f"restore-{session.restores}.err")
    expect_match("restoring checkpoint 1", said, "what crrestore -v says")
    session.kill()
    session = started_counter(workspace, last=3000)
    session.kill()
    aside = pathlib.Path(session.image) / "interrupted.1"
    expect((aside / "image.0").exists(), "the images of the unfinished run should be kept")
    workspace.run([workspace.tool("crinspect"), "verify", str(aside)], check=0)


def test_then_kill(workspace):
    """--then=kill ends the program (137) once the checkpoint is whole; it can be restored."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace, last=1500)
    session.checkpoint(then="kill")
    session.wait_end(137)
    session.verify_image()
    session.expect_standstill(0.1)
    session.restore()
    session.wait_end(42)
    expect(session.number() == 1500, f"the last number is {session.number()}")


def test_then_stop_and_sigcont(workspace):
    """--then=stop leaves the program frozen; SIGCONT lets it go on."""
    session = started_counter(workspace, last=2000)
    session.checkpoint(then="stop")
    session.expect_standstill()
    pid = session.program_pid()
    state = harness.process_state(pid)
    expect(state in ("T", "t"), f"the frozen program should be in state T, not {state}")
    harness.signal_pid(pid, signal.SIGCONT)
    session.wait_progress()
    session.checkpoint()
    session.wait_end(42)


def test_woken_one_after_the_other(workspace):
    """SIGCONT reaches crrun a little before it reaches the program: crrun does not stop again."""
    session = started_counter(workspace, last=4000)
    crrun, pid = session.foreground.pid, session.program_pid()
    for _ in range(5):
        for each in (crrun, pid):
            harness.signal_pid(each, signal.SIGSTOP)
        workspace.wait_until(lambda: harness.process_state(crrun) == "T", "a stop of crrun")
        harness.signal_pid(crrun, signal.SIGCONT)
        time.sleep(0.01)
        harness.signal_pid(pid, signal.SIGCONT)
        session.wait_progress()
        session.checkpoint()
    session.wait_end(42)


def test_then_stop_and_continue(workspace):
    """--then=stop leaves the program frozen; the next crckpt --then=continue lets it go on."""
    session = started_counter(workspace, last=2000)
    session.checkpoint(then="stop")
    session.expect_standstill()
    session.checkpoint(then="continue")
    session.wait_progress()
    session.wait_end(42)


def test_then_stop_and_restore(workspace):
    """A session killed while frozen is restored running."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace, last=1500)
    session.checkpoint(then="stop")
    session.expect_standstill(0.1)
    session.kill()
    session.restore()
    session.wait_progress()
    session.wait_end(42)


def test_restore_by_sequence(workspace):
    """crrestore --sequence N takes the older of the two checkpoints; an unknown N is an error."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace)
    older = sequence_of(session.checkpoint())
    then = session.number()
    session.wait_until(lambda: session.number() >= then + 1500, "1500 numbers more")
    newer = sequence_of(session.checkpoint(then="kill"))
    session.wait_end(137)
    killed_at = session.number()
    done = workspace.run([workspace.tool("crrestore"), "--sequence", str(newer + 5), session.image],
                         check=125)
    expect_match(str(newer + 5), done.stderr, "the message")
    session.restore(("--sequence", str(older)))
    session.wait_progress()
    expect(session.number() < killed_at,
           f"restored at about {session.number()}, but checkpoint {older} was long before "
           f"{killed_at}")
    session.kill()


def test_checkpoint_right_after_restore(workspace):
    """A checkpoint that meets threads which have not yet run since the restore."""
    harness.require_restore(workspace.user)
    session = harness.Session(workspace, [workspace.program("spinning_threads")])
    session.start()
    session.wait_ready()
    session.checkpoint(then="kill")
    session.wait_end(137)
    for _ in range(5):
        session.restore()
        session.wait_until(lambda: session.checkpoint(then="kill", check=None).returncode == 0,
                           "a checkpoint")
        session.wait_end(137)
    session.restore()
    session.go()
    session.expect_pass()
    session.verify_image()


def rollback_dies_at(workspace, point, scope):
    """The agent (scope "agent"), or program and agent, are killed in the middle of restore()."""
    for name in ("ready", "go"):
        (workspace.path / name).unlink(missing_ok=True)
    session = harness.Session(workspace, [workspace.program("lib_rollback_again")],
                              image=f"{point}.{scope or 'all'}.image", stdout=f"{point}{scope}.txt")
    environment = {"CR_FAULT": f"{point}:3"}
    if scope:
        environment["CR_FAULT_SCOPE"] = scope
    session.foreground = workspace.start(
        [workspace.tool("crrun"), "-d", session.image, "-i", "off", "--", *session.command],
        stdout=session.stdout, environment=environment)
    session.name = f"crrun, killed at {point}"
    workspace.wait_until(session.ended, f"death at {point}")
    expect(session.foreground.returncode == -9, f"{session.name} {session.ending()}")
    # Until rollback_planned nothing is changed: the program learns that its agent is gone, and may
    # go on. From then on it must not.
    crrestore = [workspace.tool("crrestore"), "--check-only", session.image]
    workspace.wait_until(lambda: workspace.run(crrestore).returncode == 0, "a whole image")
    session.restore()
    session.ping()
    session.go()
    session.expect_pass()
    session.verify_image()


def test_rollback_killed(workspace):
    """Whatever dies at whatever moment of restore() in place: half a process never runs on, and
    crrestore brings the checkpoint back."""
    harness.require_restore(workspace.user)
    for point in ("rollback_planned", "rollback_mapped", "rollback_filled", "rollback_done"):
        for scope in ("", "agent"):
            rollback_dies_at(workspace, point, scope)


def test_image_moved_and_copied(workspace):
    """The image directory is restored wherever it is, also while its old place is in use."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace)
    session.checkpoint(then="kill")
    session.wait_end(137)
    old = session.image
    copy = str(workspace.path / "copy.dir")
    workspace.run(["cp", "-a", old, copy], check=0)
    os.rename(old, old + ".moved")
    session.image = old + ".moved"
    session.restore()  # moved: the old place is gone
    session.wait_progress()
    session.checkpoint(then="kill")
    session.wait_end(137)
    session.image = copy
    os.mkdir(old)  # copied, and something else is in the old place
    for _ in range(2):
        session.restore()
        session.wait_progress()
        session.checkpoint(then="kill")
        session.wait_end(137)
    expect(os.listdir(old) == [], f"{os.listdir(old)} in the old place")
    session.verify_image()


# ------------------------------------------------------------------------------ supervision -----


def test_restart_on_failure(workspace):
    """--restart=on-failure: a killed program comes back under the same crrun, and each newer
    checkpoint allows three more restarts."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace, options=("-i", "off", "--restart=on-failure"), last=5000)
    for kills in (2, 3):
        session.checkpoint()
        for _ in range(kills):
            session.kill_program()
            session.wait_until(session.program_pid, "the program's return")
            session.wait_progress()
    session.wait_end(42)
    expect(session.number() == 5000, f"the last number is {session.number()}")


def test_restart_gives_up(workspace):
    """--restart=on-failure stops after three restarts without a newer checkpoint."""
    harness.require_restore(workspace.user)
    session = started_counter(workspace, options=("-i", "off", "--restart=on-failure"))
    session.checkpoint()
    for _ in range(4):
        session.wait_until(session.program_pid, "the program's return")
        session.wait_progress()
        session.kill_program()
    session.wait_end(137)


def test_restart_without_checkpoint(workspace):
    """--restart=on-failure with nothing to restore: the status of the death, and a message."""
    session = started_counter(workspace, options=("-i", "off", "--restart=on-failure"))
    session.kill_program()
    session.wait_end(137)


def test_restart_not_for_plain_failure(workspace):
    """--restart=on-failure is for deaths by a signal: an exit status is passed on."""
    crrun(workspace, "-i", "off", "--restart=on-failure", "--", *helper(workspace, "exit", 7),
          check=7)


def test_restart_never(workspace):
    """Without --restart a killed program stays dead."""
    session = started_counter(workspace)
    session.checkpoint()
    session.kill_program()
    session.wait_end(137)


# ------------------------------------------------------------------------------ job control -----


def sigint_command(workspace):
    return helper(workspace, "sigint", workspace.path / "sigint.txt")


def wait_sigint_ready(workspace):
    workspace.wait_until(lambda: "ready" in harness.read_file(workspace.path / "sigint.txt"),
                         "the program to be ready for SIGINT")


def test_ctrl_c_handled(workspace):
    """Ctrl-C reaches a program that handles SIGINT; its exit status comes through."""
    terminal = Terminal(workspace, [workspace.tool("crrun"), "-d", "image.dir", "-i", "off", "--",
                                    *sigint_command(workspace)])
    wait_sigint_ready(workspace)
    terminal.send("\x03")
    terminal.wait_end(55)
    expect(harness.read_file(workspace.path / "sigint.txt") == "ready\ninterrupted\n",
           "the handler should run once")


def test_ctrl_c_kills(workspace):
    """Ctrl-C kills a program that does not handle it: 130, or a death of crrun by SIGINT."""
    session = Counter(workspace)
    terminal = Terminal(workspace, [workspace.tool("crrun"), "-d", "image.dir", "-i", "off", "--",
                                    *session.command])
    workspace.wait_until(session.number, "the program's first number")
    terminal.send("\x03")
    terminal.wait_end(130)


def test_ctrl_c_after_restore(workspace):
    """Ctrl-C at the terminal of crrestore reaches the restored program."""
    harness.require_restore(workspace.user)
    session = Session(workspace, sigint_command(workspace))
    session.start()
    wait_sigint_ready(workspace)
    session.checkpoint(then="kill")
    session.wait_end(137)
    terminal = Terminal(workspace, [workspace.tool("crrestore"), "image.dir"])
    session.foreground = terminal.popen
    session.name = "crrestore"
    session.wait_until(session.program_pid, "the restored program")
    # A checkpoint shows that it is running again.
    terminal.wait_for(lambda: session.checkpoint(check=None).returncode == 0,
                      "the restored session")
    terminal.send("\x03")
    terminal.wait_end(55)


def test_ctrl_z_and_fg(workspace):
    """Under a job-control shell Ctrl-Z stops program and crrun together, and fg continues them."""
    session = Counter(workspace, last=3000)
    shell = Terminal(workspace, ["bash", "--norc", "--noprofile", "-i"])
    command = " ".join([workspace.tool("crrun"), "-d", session.image, "-i", "off", "--",
                        *session.command])
    shell.send(f"{command}\n")
    shell.wait_for(session.number, "the program's first number")
    shell.send("\x1a")
    shell.wait_text("Stopped")
    session.expect_standstill()
    shell.send("fg\n")
    before = session.number()
    shell.wait_for(lambda: session.number() != before, "progress after fg")
    done = workspace.run([workspace.tool("crckpt"), session.image], check=0)
    expect(sequence_of(done) >= 1, "no checkpoint after fg")
    shell.send("\x1a")
    shell.wait_text("Stopped(.|\n)*Stopped")
    session.expect_standstill()
    shell.send("bg\n")
    before = session.number()
    shell.wait_for(lambda: session.number() != before, "progress after bg")
    shell.send("wait %1; echo status=$?=\n")
    shell.wait_text("status=42=")
    shell.send("exit\n")
    shell.wait_end(0)


# ---------------------------------------------------------------------------------- inspect -----


def test_inspect(workspace):
    """crinspect shows summary, threads, maps and descriptors of a checkpoint, and verifies it."""
    session = started_counter(workspace)
    session.checkpoint(then="kill")
    session.wait_end(137)
    inspect = workspace.tool("crinspect")
    expect_match("sequence", workspace.run([inspect, session.image], check=0).stdout, "the summary")
    threads = workspace.run([inspect, "threads", session.image], check=0).stdout
    for expression in ("cli_helper", "rip", "rsp", "main|count"):
        expect_match(expression, threads, "the list of threads")
    maps = workspace.run([inspect, "maps", session.image], check=0).stdout
    for expression in (r"cli_helper", r"\[stack\]", r"libc"):
        expect_match(expression, maps, "the list of mappings")
    descriptors = workspace.run([inspect, "fds", session.image], check=0).stdout
    for expression in (r"/dev/null", r"out\.txt", r"count\.txt"):
        expect_match(expression, descriptors, "the list of descriptors")
    workspace.run([inspect, "verify", session.image], check=0)


def damage(image, marker):
    """Changes one byte of each copy of the marker in the image's files; returns how many."""
    changed = 0
    for path in pathlib.Path(image).rglob("*"):
        if not path.is_file():
            continue
        with open(path, "r+b") as file:
            content = file.read()
            at = content.find(marker)
            while at >= 0:
                file.seek(at)
                file.write(bytes([content[at] ^ 1]))
                changed += 1
                at = content.find(marker, at + 1)
    return changed


def test_damage_is_found(workspace):
    """One changed byte in a saved page: verify exits with 1, crrestore starts nothing."""
    harness.require_restore(workspace.user)
    marker = "marker-of-the-damaged-page"
    file = workspace.path / marker
    session = Session(workspace, helper(workspace, "count", file, MANY))
    session.start()
    session.wait_until(lambda: number_in(file), "the first number")
    session.checkpoint(then="kill")
    session.wait_end(137)
    session.verify_image()
    # The name is in the program's arguments, hence in a page of its stack.
    expect(damage(session.image, marker.encode()) > 0, "the marker is not in the image")
    done = workspace.run([workspace.tool("crinspect"), "verify", session.image], check=1)
    expect_match("damage|checksum|corrupt|mismatch", done.stdout + done.stderr, "verify's report")
    killed_at = number_in(file)
    done = workspace.run([workspace.tool("crrestore"), session.image], check=125)
    expect_match("damage|checksum|corrupt|mismatch", done.stderr, "crrestore's message")
    expect(number_in(file) == killed_at, "the damaged image was started")


LARGE_MEMORY = """
import os, time
memory = bytearray(b"Q" * (48 << 20))
log = open("log.txt", "ab", buffering=0)
while not os.path.exists("go"):
    log.write(b"a line\\n")
    time.sleep(0.002)
assert memory == b"Q" * (48 << 20)
"""


def large_memory(workspace):
    """A program with 48 MiB of the letter Q and a growing log; two checkpoints and its death."""
    harness.require_restore(workspace.user)
    session = Session(workspace, ["/usr/bin/python3", "-c", LARGE_MEMORY])
    session.start()
    log = workspace.path / "log.txt"
    session.wait_until(lambda: log.exists() and log.stat().st_size > 100, "lines in the log")
    session.checkpoint()
    session.checkpoint()
    size = log.stat().st_size
    session.wait_until(lambda: log.stat().st_size > size + 100, "more lines in the log")
    session.kill()
    return session, log


def damage_memory(session):
    """One bit of the middle of its large memory, in the newest buffer."""
    sequences = {}
    for number in (0, 1):
        path = pathlib.Path(session.image) / f"image.{number}"
        sequences[int.from_bytes(path.read_bytes()[64:72], "little")] = path
    path = sequences[max(sequences)]
    at = path.read_bytes().index(b"Q" * (1 << 20)) + (20 << 20)
    with open(path, "r+b") as file:
        file.seek(at)
        expect(file.read(1) == b"Q", "the large memory is not in one piece in the image")
        file.seek(at)
        file.write(b"R")
    return path.read_bytes()


DAMAGED_PAGE = r"image\.[01]: damaged: the checksum of the page for address 0x[0-9a-f]+ \(slot \d+\) is wrong"


def test_damage_found_while_filling(workspace):
    """A damaged page is found by whoever fills the memory: nothing runs, no file is cut back, the
    other checkpoint is named and can be had."""
    session, log = large_memory(workspace)
    damage_memory(session)
    before = log.read_bytes()
    done = workspace.run([workspace.tool("crrestore"), "-i", "off", session.image], check=125)
    expect_match(DAMAGED_PAGE + r".*--sequence 1 ", done.stderr, "crrestore's message")
    expect(log.read_bytes() == before, "the log was changed, or the program ran")
    done = workspace.run([workspace.tool("crrestore"), "--check-only", session.image], check=125)
    expect_match(DAMAGED_PAGE, done.stderr, "crrestore --check-only")
    (workspace.path / "go").touch()
    session.restore(("-i", "off", "--sequence", "1"))
    session.wait_end(0)
    expect(len(log.read_bytes()) < len(before), "the log was not cut back")


def test_damage_found_lazily(workspace):
    """--lazy: the program runs until the damaged page would come; then it is ended with the same
    message, and the image can still be looked at."""
    session, _ = large_memory(workspace)
    image = damage_memory(session)
    done = workspace.run([workspace.tool("crrestore"), "-i", "off", "--lazy", session.image],
                         check=125, environment={"CR_LAZY_PAUSE_US": "5000"})
    expect_match(DAMAGED_PAGE + r".*--sequence 1 ", done.stderr, "crrestore's message")
    expect(not (pathlib.Path(session.image) / "finished").exists(), "it counts as finished")
    expect(any(path.read_bytes() == image for path in pathlib.Path(session.image).glob("image.*")),
           "the image was changed")
    (workspace.path / "go").touch()
    session.restore(("-i", "off", "--lazy", "--sequence", "1"))
    session.wait_end(0)


def filler_of(session):
    """The process that brings a lazily restored program's memory; 0 if it is not there (yet)."""
    found = [pid for pid in harness.descendants(session.foreground.pid)
             if harness.read_file(f"/proc/{pid}/comm").strip() == "cr-fill"]
    return found[0] if found else 0


def test_filler_killed(workspace):
    """--lazy: without the process that brings its memory the program does not go on with zeros."""
    if workspace.user.uid is not None or os.geteuid() != 0:
        raise harness.Skip("--lazy takes root")
    session, _ = large_memory(workspace)
    session.restore(("-i", "off", "--lazy"), {"CR_LAZY_PAUSE_US": "100000"})
    filler = session.wait_until(lambda: filler_of(session), "the process cr-fill")
    time.sleep(0.1)
    harness.signal_pid(filler, signal.SIGKILL)
    session.wait_end(125)
    expect_match("cr-fill.*was ended; so is the program",
                 harness.read_file(workspace.path / "restore-1.err"), "crrestore's message")


def test_filler_killed_at_once(workspace):
    """--lazy: the process that would bring the memory is ended before it could do anything: the
    program that waits for its word does not wait for ever. A busy processor makes it begin late."""
    if workspace.user.uid is not None or os.geteuid() != 0:
        raise harness.Skip("--lazy takes root")
    session, _ = large_memory(workspace)
    pinned = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    busy = [workspace.start([*pinned, "sh", "-c", "while :; do :; done"], stdout=f"busy-{n}.out",
                            stderr=f"busy-{n}.err") for n in range(3)]
    early = 0
    for number in range(1, 9):
        agent = session.foreground = workspace.start(
            [*pinned, workspace.tool("crrestore"), "-i", "off", "--lazy", session.image],
            stdout=f"restore-{number}.out", stderr=f"restore-{number}.err",
            environment={"CR_LAZY_PAUSE_US": "100000"})

        def children_of(pid):
            return harness.read_file(f"/proc/{pid}/task/{pid}/children").split()
        parent = session.wait_until(lambda agent=agent: children_of(agent.pid), "a child")[0]
        children = []  # the program, then the filler
        while len(children) < 2 and not session.ended() and workspace.time_left() > 0:
            children = children_of(parent)
        if len(children) >= 2:
            harness.signal_pid(int(children[1]), signal.SIGKILL)
        session.wait_end(125)
        said = harness.read_file(workspace.path / f"restore-{number}.err")
        expect_match("cr-fill.*was ended( before it could begin; run|; so is the program)", said,
                     "crrestore's message")
        early += "before it could begin" in said
    expect(early > 0, "it was never ended early enough to show anything")
    for popen in busy:
        popen.kill()
        popen.wait()


def test_filler_killed_with_its_program(workspace):
    """--lazy: whoever kills both (the kernel, when memory is short) is not told that one was the
    end of the other."""
    if workspace.user.uid is not None or os.geteuid() != 0:
        raise harness.Skip("--lazy takes root")
    session, _ = large_memory(workspace)
    for number in range(1, 6):
        session.restore(("-i", "off", "--lazy"), {"CR_LAZY_PAUSE_US": "100000"})
        filler = session.wait_until(lambda: filler_of(session), "the process cr-fill")
        program = session.wait_until(session.program_pid, "the program's pid")
        harness.signal_pid(program, signal.SIGKILL)
        harness.signal_pid(filler, signal.SIGKILL)
        session.wait_end(137)
        said = harness.read_file(workspace.path / f"restore-{number}.err")
        expect("cr-fill" not in said, f"crrestore said: {said}")


MANY_FORKS = """
import os, time
memory = bytearray(b"Q" * (16 << 20))
open("ready.txt", "w").close()
while not os.path.exists("go"):
    time.sleep(0.002)
children = []
for i in range(150):
    pid = os.fork()
    if pid == 0:
        time.sleep(0.3)
        os._exit(0 if memory.count(b"Q") == 16 << 20 else 1)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
assert memory == b"Q" * (16 << 20)
"""


def test_many_forks_of_a_lazy_restore(workspace):
    """--lazy: more forks at one time than the filler has places for, each with all memory."""
    harness.require_restore(workspace.user)
    session = Session(workspace, ["/usr/bin/python3", "-c", MANY_FORKS])
    session.start()
    session.wait_until((workspace.path / "ready.txt").exists, "the program's start")
    session.checkpoint(then="kill")
    session.wait_end(137)
    (workspace.path / "go").touch()
    session.restore(("-i", "off", "--lazy"), {"CR_LAZY_PAUSE_US": "20000"})
    session.wait_end(0)


def test_checkpoint_of_a_lazy_restore(workspace):
    """A checkpoint that comes while memory is being brought waits for all of it."""
    session, log = large_memory(workspace)
    session.restore(("-i", "off", "--lazy"), {"CR_LAZY_PAUSE_US": "3000"})
    size = log.stat().st_size
    session.wait_until(lambda: log.stat().st_size != size, "progress")
    session.checkpoint(then="kill")
    session.wait_end(137)
    session.verify_image()
    session.restore(("-i", "off", "--lazy"))
    (workspace.path / "go").touch()
    session.wait_end(0)


# ------------------------------------------------------------------------------------ malloc -----


def preload(workspace, mode=""):
    """The environment that gives a program the heap alone (CR_MODE=heap) or another mode."""
    library = workspace.build / "lib" / "libcrpreload.so"
    return {"LD_PRELOAD": str(library), **({"CR_MODE": mode} if mode else {})}


def test_heap_alone(workspace):
    """CR_MODE=heap: real programs give the same output with our malloc as without."""
    for command in (
            ["sh", "-c", "seq 1 60000 | sort -R --random-source=/bin/sh | sort -n | cksum"],
            ["sh", "-c", "seq 1 20000 | tr 0-9 a-j | xz -T2 -c | xz -dc | cksum"],
            ["/usr/bin/python3", "-c", "import json, re, threading, sqlite3\n"
             "t = [threading.Thread(target=lambda: re.findall('a+', 'ab' * 9999)) for _ in '12345']\n"
             "[x.start() for x in t]; [x.join() for x in t]\n"
             "print(len(json.dumps([{str(i): 'x' * i} for i in range(999)])), sqlite3.sqlite_version)"],
            ["perl", "-e", "my %h; $h{$_ % 977} .= $_ for 1..60000; print length join ',', values %h"],
            ["gawk", "BEGIN {for (i = 0; i < 60000; i++) a[i] = i \"\" i; print length(a), a[777]}"],
            ["git", "--version"],
            ["bash", "-c", "ulimit -v 60000; a=$(seq 1 20000); echo ${#a}; ls / | wc -l"],
            ["find", "/usr/include", "-name", "std*.h"]):
        if shutil.which(command[0]) is None:
            continue
        plain = workspace.run(command, check=0)
        ours = workspace.run(command, check=0, environment=preload(workspace, "heap"))
        expect(ours.stdout == plain.stdout, f"{command[0]} printed {ours.stdout[-300:]!r}, without "
               f"CR_MODE=heap {plain.stdout[-300:]!r}")
        expect(ours.stderr == plain.stderr, f"{command[0]} said {ours.stderr[-300:]!r}")


def test_malloc_modes(workspace):
    """CR_MODE: malloc is ours or the C library's, in a session or not, as it says; an unknown value
    is named."""
    (workspace.path / "go").touch()
    for mode in ("", "heap", "engine", "turbo"):
        for program in ("malloc_family", "malloc_cxx", "malloc_dlclose", "malloc_threads"):
            done = workspace.run([workspace.program(program)], check=0,
                                 environment=preload(workspace, mode))
            warned = done.stderr.count("CR_MODE=turbo")
            expect(warned == (1 if mode == "turbo" else 0), f"in mode {mode!r}: {done.stderr}")
            if mode == "turbo":
                expect_match("heap.*engine", done.stderr, "the warning")
            else:
                expect(done.stderr == "", f"{program} in mode {mode!r} said {done.stderr}")


def test_malloc_engine_session(workspace):
    """CR_MODE=engine: a session whose program has the C library's malloc."""
    harness.require_restore(workspace.user)
    session = Session(workspace, [workspace.program("malloc_family")])
    session.foreground = workspace.start(
        [workspace.tool("crrun"), "-d", session.image, "-i", "off", "--", *session.command],
        environment={"CR_MODE": "engine"})
    session.name = "crrun"
    session.wait_ready()
    session.checkpoint(then="kill")
    session.wait_end(137)
    session.restore()
    session.ping()
    session.go()
    session.expect_pass()


def test_program_dies_when_asked(workspace):
    """The program dies while its threads are asked for their state: crrun says so at once. An agent
    that waits for the first thread's answer would give up after 3 s."""
    session = Session(workspace, [workspace.program("lib_plugin_kills")])
    session.start()
    session.wait_ready()
    pid = session.program_pid()
    workspace.start([workspace.tool("crckpt"), session.image], stdout="ckpt.txt", stderr="ckpt.txt")
    workspace.wait_until(lambda: not harness.is_alive(pid), "the program's death")
    begin = time.monotonic()
    session.wait_end(status=137)
    took = time.monotonic() - begin
    expect(took < 2.5 * harness.SLOWNESS, f"crrun ended {took:.1f} s after its program")


def test_malloc_misuse(workspace):
    """Misuse of malloc ends the program with a line that names the call."""
    program = workspace.program("malloc_misuse")
    for what, expression in (
            ("free twice", r"free\(0x3\w+\).*twice"), ("free large twice", r"free\(0x3\w+\)"),
            ("free inside", r"free\(0x3\w+\).*middle"), ("realloc freed", r"realloc\(0x3\w+\)"),
            ("usable freed", r"malloc_usable_size\(0x3\w+\)"),
            ("delete twice", r"operator delete\(0x3\w+\).*twice"),
            ("free stack", r"free\(\): invalid")):
        done = workspace.run([program, what], check=-signal.SIGABRT,
                             environment=preload(workspace, "heap"))
        expect_match(expression, done.stderr, f"the message for `{what}`")
        expect(done.stderr.count("\n") == 1, f"one line for `{what}`: {done.stderr}")
    workspace.run([program, "foreign"], check=0, environment=preload(workspace, "heap"))


# ------------------------------------------------------------------------------------- main -----


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "cli", __file__, USERS, timeout=60.0)


def main():
    parser = argparse.ArgumentParser(description="Tests the command line tools.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
