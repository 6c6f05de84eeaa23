#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""flush_test.py - level 3: checkpoints that crstored --flush copies to a directory which all nodes
share, and programs that come back from there when their node and its store are gone.

  python3 tests/system/flush_test.py 'flush/resumes*' --user=root

Nodes are those of store_cluster.py. Checkpoints are taken by crckpt alone, so that it is known which
there are.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Failure, Session, Skip, User, expect, expect_match  # noqa: E402
from store_cluster import LOOK_SECONDS, Cluster  # noqa: E402

USERS = ("root", "nobody")
NAME = "job"

# A program that knows nothing of all this: it holds some MiB, and finds out whether these came back.
PROGRAM = """
import hashlib, os, random, sys, time
mib, kind = int(sys.argv[1]), sys.argv[2]
source = random.Random(7)
data = [source.randbytes(1 << 20) if kind == "noise" else bytes([k % 251]) * 1000 * 1000
        for k in range(mib)]
digest = lambda: hashlib.sha256(b"".join(data)).hexdigest()
before, steps = digest(), 0
open(os.environ["CRTEST_READY"], "w").close()
while not os.path.exists(os.environ["CRTEST_GO"]):
    steps += 1
    if os.path.exists(os.environ["CRTEST_PING"]):
        os.remove(os.environ["CRTEST_PING"])
    time.sleep(0.01)
print("PASS" if digest() == before and steps > 0 else "FAIL", flush=True)
"""


class Job(Session):
    """The program on one node after the other."""

    def __init__(self, workspace, node, mib=2, kind="noise", protect="none", options=()):
        harness.require_restore(workspace.user)
        script = workspace.path / "program.py"
        script.write_text(PROGRAM)
        super().__init__(workspace, ["/usr/bin/python3", script, mib, kind],
                         options=["-i", "off", "--durable=crash", "--protect", protect, "--name",
                                  NAME, *options])
        workspace.variables.update(node.environment())
        self.node = node
        self.start()
        self.wait_ready()

    def restore_on(self, node, options=(), is_here=False):
        """is_here: its images are on that node, and are used."""
        self.restores += 1
        self.node = node
        if not is_here:
            self.image = str(self.workspace.path / f"image-{self.restores}.dir")
        self.foreground = self.workspace.start(
            [self.workspace.tool("crrestore"), "-v", *options, "--dir", self.image, NAME],
            stdout=f"restore-{self.restores}.out", stderr=f"restore-{self.restores}.err",
            environment=node.environment())
        self.name = f"crrestore (restore {self.restores})"
        self.ping()

    def checkpoint(self, *arguments):
        """Until crstored knows of it, too; it learns of the session by the first one."""
        super().checkpoint(*arguments)
        self.node.cluster.wait_session(self.node, lambda session: True, "crstored to know it")

    def said(self):
        error = "err.txt" if self.restores == 0 else f"restore-{self.restores}.err"
        return harness.read_file(self.workspace.path / error)

    def finish(self):
        self.go()
        self.expect_pass()


class Shared:
    """The directory that is flushed to, and nodes that were given it."""

    def __init__(self, workspace, nodes=1, options=(), first=()):
        """first: more options of node a."""
        self.workspace = workspace
        self.path = workspace.path / "shared"
        self.path.mkdir()
        workspace.user.give(self.path)
        self.cluster = Cluster(workspace, nodes, ["--flush", str(self.path), *options],
                               start=False)
        for number, node in enumerate(self.cluster.nodes):
            self.cluster.start(node, options=first if number == 0 else (), wait=False)
        for node in self.cluster.nodes:
            self.cluster.wait_ready(node)

    def files(self, pattern="*.flush"):
        return sorted(self.path.glob(f"*/{pattern}"))

    def sequences(self):
        return sorted(int(path.name.split(".")[1]) for path in self.files())

    def state(self, node):
        """What the node's status says of flushing the session; {} if it does not flush it now."""
        sessions = self.cluster.ask(node, "status")["flush"]["sessions"]
        return next((s for s in sessions if s["name"] == NAME), {})

    def wait(self, predicate, what):
        def look():
            value = predicate()
            if not value:
                time.sleep(LOOK_SECONDS)
            return value
        try:
            return self.workspace.wait_until(look, what)
        except Failure as failure:
            raise Failure(f"{failure}\n{self.cluster.logs()}") from None

    def wait_flushed(self, node, sequence):
        self.wait(lambda: self.state(node).get("sequence", 0) >= sequence,
                  f"checkpoint {sequence} is flushed")


# ------------------------------------------------------------------------------------------ tests


def test_comes_back_on_another_node(workspace):
    """The node is lost with its store and its images; the flushed file is enough. The session is
    protected and flushed again where it goes on."""
    shared = Shared(workspace, 2)
    cluster = shared.cluster
    home, other = cluster["a"], cluster["b"]
    job = Job(workspace, home)
    job.checkpoint()
    done = cluster.crstore(home, "flush", NAME)
    [path] = shared.files()
    expect_match(rf"checkpoint 1 of job is in {re.escape(str(path))}$", done.stdout.rstrip(), "flush")
    expect(path.stat().st_mode & 0o777 == 0o600, f"{path} has mode {path.stat().st_mode:o}")
    job.kill()
    cluster.lose(home, job.image)
    listed = cluster.ask(other, "ls")["sessions"]
    expect(len(listed) == 1 and listed[0]["checkpoints"] == [] and
           [f["sequence"] for f in listed[0]["flushed"]] == [1], f"ls says {listed}")
    expect_match(rf"{NAME} +\w{{8}} +none +1 +- +1 ", cluster.crstore(other, "ls").stdout, "ls")
    job.restore_on(other)
    expect_match(rf"from {re.escape(str(path))}", job.said(), "crrestore -v")
    job.checkpoint()
    cluster.crstore(other, "flush", NAME)
    expect(shared.sequences() == [1, 2], f"flushed are {shared.sequences()}")
    cluster.crstore(other, "verify", NAME)
    job.finish()


def test_resumes_after_a_crash(workspace):
    """crstored is killed while it flushes, and the program too: the next one finishes the file, and
    does not begin it anew."""
    shared = Shared(workspace, 2, first=("--flush-every", "1", "--flush-bandwidth", "8M"))
    cluster = shared.cluster
    home = cluster["a"]
    job = Job(workspace, home, mib=24)
    job.checkpoint()

    def begun():
        files = shared.files("*.new")
        return files and files[0].stat().st_size > (6 << 20) and files[0]
    path = shared.wait(begun, "some of the file")
    state = shared.state(home)
    expect(state["flushing"] == 1 and 0 < state["done"] < state["total"], f"status says {state}")
    before = path.stat()
    cluster.kill(home)
    job.kill()
    expect(shared.files() == [], "it was not whole")
    listed = cluster.ask(cluster["b"], "ls")["sessions"]
    expect(all(s["flushed"] == [] for s in listed), f"ls says {listed}")
    cluster.start(home)
    shared.wait(lambda: shared.sequences() == [1], "the whole file")
    after = shared.files()[0].stat()
    expect(after.st_ino == before.st_ino, "the file was begun anew")
    expect(after.st_size < state["total"] * 1.05, f"it has {after.st_size} bytes: {state}")
    expect(shared.files("*.new") == [], "something is left")
    cluster.crstore(home, "verify", NAME)
    cluster.lose(home, job.image)
    job.restore_on(cluster["b"])
    job.finish()


def test_every_second_and_keep(workspace):
    shared = Shared(workspace, options=("--flush-every", "2", "--keep", "last:2"))
    cluster, node = shared.cluster, shared.cluster["a"]
    job = Job(workspace, node)
    for sequence in range(1, 9):
        job.checkpoint()
        if sequence % 2 == 0:
            shared.wait_flushed(node, sequence)
            expected = [n for n in (sequence - 2, sequence) if n > 0]
            shared.wait(lambda: shared.sequences() == expected, f"{expected} alone are kept")
    found = cluster.ask(node, "stat", NAME)
    expect([f["sequence"] for f in found["flushed"]] == [8, 6], f"stat says {found['flushed']}")
    expect(all(f["node"] == "a" and not f["zstd"] for f in found["flushed"]), f"{found['flushed']}")
    expect_match(r"checkpoint 6 .* flushed by a, .*1\.6\.flush", cluster.crstore(node, "stat", NAME)
                 .stdout, "stat")
    expect_match(rf"flushes to {re.escape(str(shared.path))}, keeps last:2\n  job .*checkpoint 8 is "
                 r"there", cluster.crstore(node, "status").stdout, "status")
    # An older one is had by its number.
    cluster.crstore(node, "get", "--sequence", "6", NAME, workspace.path / "six.dir")
    job.finish()
    cluster.crstore(node, "rm", NAME)
    expect(list(shared.path.iterdir()) == [], f"rm leaves {list(shared.path.iterdir())}")
    expect(cluster.ask(node, "ls")["sessions"] == [], "ls still shows it")


def test_zstd(workspace):
    shared = Shared(workspace, 2, options=("--flush-zstd",))
    cluster = shared.cluster
    job = Job(workspace, cluster["a"], mib=8, kind="even")
    job.checkpoint()
    cluster.crstore(cluster["a"], "flush", NAME)
    [flushed] = cluster.ask(cluster["b"], "stat", NAME)["flushed"]
    expect(flushed["zstd"] and flushed["file_bytes"] < flushed["image_bytes"] // 2, f"{flushed}")
    cluster.crstore(cluster["b"], "verify", NAME)
    job.kill()
    cluster.lose(cluster["a"], job.image)
    job.restore_on(cluster["b"])
    job.finish()


def test_a_session_chooses_for_itself(workspace):
    shared = Shared(workspace)
    node = shared.cluster["a"]
    job = Job(workspace, node, options=("--flush-every", "3"))
    for sequence in range(1, 4):
        job.checkpoint()
    shared.wait_flushed(node, 3)
    expect(shared.sequences() == [3], f"flushed are {shared.sequences()}")
    job.kill()
    shared.cluster.crstore(node, "flush", NAME)  # it is there already
    job.restore_on(node, options=("--flush-interval", "1h"), is_here=True)
    job.checkpoint()
    shared.wait_flushed(node, 4)
    job.finish()


def test_nowhere_to_flush_to(workspace):
    """A crstored without --flush says so, to crrun and to crstore."""
    cluster = Cluster(workspace, 1)
    node = cluster["a"]
    job = Job(workspace, node, options=("--flush-every", "1"))
    job.checkpoint()
    job.wait_until(lambda: re.search(r"not flushed: the crstored at .* --flush DIR", job.said()),
                   "crrun's message")
    done = cluster.crstore(node, "flush", NAME, check=1)
    expect_match(r"start it with --flush DIR", done.stderr, "crstore flush")
    job.finish()


def test_full_file_system(workspace):
    """It is said once, nothing is left there, and the program runs on; when there is room again it
    is flushed."""
    if os.geteuid() != 0 or workspace.user.uid is not None:
        raise Skip("needs root, to mount a small file system")
    path = workspace.path / "shared"
    path.mkdir()
    cluster = Cluster(workspace, 1, ["--flush", str(path), "--flush-zstd", "--flush-every", "1"],
                      start=False)
    node = cluster["a"]
    node.inside = [*node.inside, "unshare", "--mount", "--", "/bin/sh", "-c",
                   f"mount -t tmpfs -o size=12M none {path} && dd if=/dev/zero of={path}/filler "
                   'bs=1M count=9 2>/dev/null && exec "$@"', "sh"]
    cluster.start(node)
    seen = pathlib.Path(f"/proc/{node.popen.pid}/root{path}")
    job = Job(workspace, node, mib=4)
    job.checkpoint()
    job.wait_until(lambda: "not flushed" in job.said(), "crrun's message")
    expect_match(r"checkpoints are not flushed: .*No space left on device; make room there.*it is "
                 r"tried again", job.said(), "crrun")
    left = [p.name for p in seen.rglob("*") if p.is_file()]
    expect(left == ["filler"], f"{left} are there")
    done = cluster.crstore(node, "flush", NAME, check=1)
    expect_match(r"job: .*make room there", done.stderr, "crstore flush")
    trouble = cluster.ask(node, "status")["flush"]["sessions"][0]["trouble"]
    expect_match("No space left", trouble, "status")
    job.ping()
    expect(cluster.count_in_log(node, "No space left") == 1, "it is said once in the log")
    (seen / "filler").unlink()
    job.wait_until(lambda: "flushed again" in job.said(), "crrun's message that all is well")
    expect(len(list(seen.glob("*/1.1.flush"))) == 1, "it is flushed")
    job.finish()


def test_damaged_parts(workspace):
    """Of the same checkpoint the flushed file is taken if the parts are damaged, and that is said;
    an older one is only named."""
    shared = Shared(workspace)
    cluster, node = shared.cluster, shared.cluster["a"]
    job = Job(workspace, node)
    job.checkpoint()
    cluster.crstore(node, "flush", NAME)
    cluster.wait_full(node, 1)
    job.kill()
    shared.wait(lambda: cluster.session(node) is None, "the end of the session")
    for part in cluster.part_files(node):
        with open(part, "r+b") as file:
            file.seek(4096 + 100)
            byte = file.read(1)
            file.seek(4096 + 100)
            file.write(bytes([byte[0] ^ 1]))
    done = cluster.crstore(node, "verify", NAME, check=3)
    expect_match(r"a: part 0 .*row 0", done.stdout, "verify")
    done = cluster.crstore(node, "get", NAME, workspace.path / "got.dir")
    expect_match(r"passed over: checkpoint 1: ", done.stderr, "get")
    expect_match(r"from .*1\.1\.flush", done.stdout, "get")
    [path] = shared.files()
    with open(path, "r+b") as file:
        file.seek(9000)
        byte = file.read(1)
        file.seek(9000)
        file.write(bytes([byte[0] ^ 1]))
    done = cluster.crstore(node, "verify", NAME, check=3)
    expect_match(rf"{re.escape(str(path))}: .*; use another checkpoint", done.stdout, "verify")
    done = cluster.crstore(node, "get", NAME, workspace.path / "other.dir", check=1)
    expect_match(rf"{re.escape(str(path))}: .*checksum", done.stderr, "get")
    expect(not (workspace.path / "other.dir").exists(), "nothing is left")


def test_other_users(workspace):
    """root's crstored flushes for all; each user gets only its own."""
    if os.geteuid() != 0 or workspace.user.uid is not None:
        raise Skip("needs root, to be several users")
    owner, stranger = User("nobody", 65534), User("stranger", 54321)
    harness.require_restore(owner)
    shared = Shared(workspace, options=("--for-all-users", "--flush-every", "1"))
    cluster, node = shared.cluster, shared.cluster["a"]
    theirs = workspace.path / "theirs"
    theirs.mkdir()
    owner.give(theirs)
    workspace.user = owner
    workspace.start([workspace.tool("crrun"), "-d", str(theirs / "image.dir"), "-i", "0.2",
                     "--protect", "none", "--name", NAME, "--", "/usr/bin/sleep", "600"],
                    environment=node.environment())
    shared.wait(lambda: shared.files(), "a flushed file")
    expect(all(p.stat().st_uid == 0 for p in shared.files()), "they belong to crstored's user")
    for pid in workspace.processes():
        harness.signal_pid(pid, signal.SIGKILL)
    shared.wait(lambda: cluster.session(node, NAME) is None, "the end of the session")
    for part in cluster.part_files(node):
        part.unlink()
    cluster.crstore(node, "get", NAME, theirs / "got.dir")
    expect((theirs / "got.dir" / "image.0").stat().st_uid == owner.uid, "the image is the user's")
    workspace.user = stranger
    for request in ("ls", "status"):
        expect(NAME not in json.dumps(cluster.ask(node, request)), f"crstore {request} shows it")
    for request in (("stat", NAME), ("rm", NAME), ("flush", NAME), ("get", NAME, "/tmp/nothing")):
        done = cluster.crstore(node, *request, check=1)
        expect_match(rf"{NAME}: no (node|such session)", done.stderr, f"crstore {request[0]}")
    workspace.user = owner
    cluster.crstore(node, "rm", NAME)
    expect(shared.files() == [], "its owner may remove it")
    workspace.user = User("root")


def test_options(workspace):
    """--check-config looks at them; what cannot be meant is named."""
    daemon = workspace.tool("crstored")
    base = [daemon, "--name", "a", "--store", str(workspace.path / "s")]
    good = workspace.run([*base, "--check-config", "--flush", "/scratch/x", "--flush-every", "10",
                          "--flush-interval", "30m", "--keep", "hourly:24,last:3"], check=0)
    expect_match(r"; flushes to /scratch/x, each 10th checkpoint, every 1800 s, keeps "
                 r"last:3,hourly:24$", good.stdout.rstrip(), "--check-config")
    for options, message in [
            (("--keep", "last:3"), "--keep goes with --flush DIR"),
            (("--flush-every", "3"), "--flush-every goes with --flush DIR"),
            (("--flush", ""), "--flush: give a directory"),
            (("--flush", "x", "--flush-every", "0"), "--flush-every: give 1 or more"),
            (("--flush", "x", "--flush-every", "-1"), "--flush-every"),
            (("--flush", "x", "--flush-interval", "soon"), "--flush-interval soon: give a time"),
            (("--flush", "x", "--flush-bandwidth", "1"), "--flush-bandwidth: give at least 4K"),
            (("--flush", "x", "--keep", "last:x"), "--keep: 'last:x': 'x' is not a number"),
            (("--flush", "x", "--keep", "yearly:1"), "there is no rule 'yearly'")]:
        done = workspace.run([*base, "--check-config", *options], check=2)
        expect(message in done.stderr, f"{options}: {done.stderr}")
    config = workspace.path / "conf"
    config.write_text("flush = /scratch/x\nflush-zstd\nkeep = weekly:2 # and no more\n")
    good = workspace.run([*base, "-c", str(config), "--check-config"], check=0)
    expect_match(r"flushes to /scratch/x what it is asked to, keeps weekly:2", good.stdout, "-c")
    done = workspace.run([workspace.tool("crrun"), "--flush-every", "2", "/bin/true"], check=2)
    expect_match("go with --protect", done.stderr, "crrun --flush-every without --protect")


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "flush", __file__, USERS, timeout=120.0)


def main():
    parser = argparse.ArgumentParser(description="Tests level 3 of the node store.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
