#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""levels_test.py - levels 2 and 3 as the program and its tools see them: checkpoint_wait(),
crstatus(), crtop, crinspect, and programs that ask crinit() for protection.

  python3 tests/system/levels_test.py 'levels/wait*' --user=root

Nodes are those of store_cluster.py. The program is lib_levels: it does what it is told by a file.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Failure, Session, expect, expect_match  # noqa: E402
from store_cluster import Cluster  # noqa: E402

USERS = ("root", "nobody")
NAME = "job"
PATIENCE = 10.0  # of a wait, with a reason that lasts; see checkpoint_restore.h


class Job(Session):
    """lib_levels under crrun, or with a session of its own."""

    def __init__(self, workspace, node, options=(), own=None):
        """own: what crinit() is given, [PROTECT, NAME, FLUSH_EVERY]; else options of crrun."""
        program = [workspace.program("lib_levels")]
        # What it is told by files is not to come back with it.
        super().__init__(workspace, program,
                         options=["-i", "off", "--durable=crash", "--files=keep", *options])
        if node is not None:
            workspace.variables.update(node.environment())
        if own is None:
            self.start()
        else:
            self.foreground = workspace.start([*program, self.image, *map(str, own)])
            self.name = "lib_levels"
        self.wait_ready()

    def tell(self, words):
        (self.workspace.path / "do.new").write_text(words + "\n")
        os.rename(self.workspace.path / "do.new", self.workspace.path / "do")

    def take(self, name="done", what="an answer"):
        path = self.workspace.path / name
        self.wait_until(path.exists, what)
        text = path.read_text()
        path.unlink()
        return text

    def do(self, words):
        self.tell(words)
        return self.take(what=words)

    def expect_done(self, words, result="0"):
        text = self.do(words)
        expect(text.split()[0] == result, f"{words}: {text}")

    def expect_error(self, words, error, expression):
        text = self.do(words)
        expect(text.startswith(f"-1 {error} "), f"{words} should fail with {error}: {text}")
        expect_match(expression, text, words)

    def status(self):
        return dict(line.split("=", 1) for line in self.do("status").splitlines())

    def wait_status(self, predicate, what):
        last = {}

        def look():
            nonlocal last
            last = self.status()
            return predicate(last)
        try:
            self.wait_until(look, what)
        except Failure as failure:
            raise Failure(f"{failure}; crstatus() says {last}") from None
        return last

    def top(self):
        return self.workspace.run([self.workspace.tool("crtop"), "--once", self.image],
                                  check=0).stdout

    def attempts(self):
        done = self.workspace.run([self.workspace.tool("crinspect"), "history", "--json",
                                   self.image], check=0)
        return {a["sequence"]: a for a in json.loads(done.stdout)["attempts"]}

    def restore(self, options=(), environment=None):
        super().restore(options, environment)
        self.ping()

    def finish(self):
        self.go()
        self.expect_pass()


def protected(workspace, options=("--protect=replica:2",), cluster_options=()):
    """Two nodes, and the program on the first."""
    cluster = Cluster(workspace, 2, cluster_options)
    return cluster, Job(workspace, cluster["a"], [*options, "--name", NAME])


def signal_node(node, number):
    os.kill(node.popen.pid, number)


# ------------------------------------------------------------------------------------------ tests


def test_waits_for_the_neighbour(workspace):
    """checkpoint_wait(2) returns when the neighbour has its part, and not before."""
    cluster, job = protected(workspace)
    job.expect_done("checkpoint")
    job.expect_done("wait 2")
    parts = [part["sequence"] for part in cluster.session(cluster["a"])["parts"]]
    expect(parts == [1, 1], f"it returned with parts {parts}")
    status = job.status()
    expect(status["safe"] == "1" and status["degraded"] == "0" and status["kept"] == "1" and
           status["protect"] == "replica:2" and int(status["window"]) > 0, f"crstatus: {status}")
    expect_match(r" safe 1 window \d+\.\d{3} ms flushed 0 protect replica:2$", job.top().rstrip(),
                 "crtop")
    signal_node(cluster["b"], signal.SIGSTOP)
    job.expect_done("checkpoint")
    job.expect_done("beside 2")
    time.sleep(1)  # it stands still, and nobody has noticed
    expect(not (workspace.path / "done-beside").exists(), "it did not wait for the neighbour")
    expect(job.status()["safe"] == "1", "what the neighbour does not have is not safe")
    signal_node(cluster["b"], signal.SIGCONT)
    expect(job.take("done-beside").startswith("0 "), "it should return when the neighbour goes on")
    expect(job.status()["safe"] == "2", "and then it is safe")
    job.finish()


def test_neighbour_that_is_gone(workspace):
    """Its loss is seen without a new checkpoint; waits end with the reason; both pass when it is
    back."""
    cluster, job = protected(workspace)
    job.expect_done("checkpoint")
    job.expect_done("wait 2")
    cluster.kill(cluster["b"])
    status = job.wait_status(lambda s: s["degraded"] == "4", "the loss is seen")
    expect_match(r"^b: .*10\.0\.0\.2|^b: .*127\.0\.0\.1", status["text"], "crstatus's words")
    expect_match(r" safe 1 .* degraded: b: ", job.top(), "crtop")
    job.expect_error("wait 2", "EHOSTUNREACH",
                     r"checkpoint 1 is not on enough other nodes: b: ")
    job.expect_done("checkpoint")
    job.expect_error("wait 2", "EHOSTUNREACH",
                     r"checkpoint 2 is not on enough other nodes: b: ")
    job.expect_done("wait 0")
    cluster.start(cluster["b"])
    job.wait_status(lambda s: s["degraded"] == "0" and s["safe"] == "2", "it is back")
    job.expect_done("wait 2")
    expect("degraded" not in job.top(), "crtop should no longer say so")
    expect_match(r"has 1 of 2 parts: b: (.|\n)*all its parts again",
                 harness.read_file(workspace.path / "err.txt"), "crrun")
    job.finish()


def test_flushes_when_asked(workspace):
    """checkpoint_wait(3) has the newest flushed, also one that is not chosen."""
    shared = workspace.path / "shared"
    shared.mkdir()
    workspace.user.give(shared)
    cluster, job = protected(workspace, ("--protect=replica:2", "--flush-every", "100"),
                             ("--flush", str(shared)))
    for sequence in (1, 2):
        job.expect_done("checkpoint")
        expect(not list(shared.glob(f"*/1.{sequence}.flush")), "nobody has asked for it")
        job.expect_done("wait 3")
        expect(list(shared.glob(f"*/1.{sequence}.flush")), "it returned without the file")
        expect(job.status()["flushed"] == str(sequence), "crstatus")
    job.expect_done("wait 2")
    expect_match(r" safe 2 .* flushed 2 protect replica:2$", job.top().rstrip(), "crtop")
    job.expect_done("checkpoint")
    aside = workspace.path / "aside"
    shared.rename(aside)
    job.expect_error("wait 3", "EIO", rf"checkpoint 3 is not flushed: {shared}.*No such file")
    status = job.status()
    expect(status["degraded"] == "8" and str(shared) in status["text"], f"crstatus: {status}")
    expect_match(rf" degraded: {shared}", job.top(), "crtop")
    aside.rename(shared)
    job.expect_done("wait 3")
    job.wait_status(lambda s: s["degraded"] == "0" and s["flushed"] == "3", "it is over")
    attempts = job.attempts()
    expect(all(attempts[n]["flushed_ns"] > 0 for n in (1, 2, 3)), f"the history: {attempts}")
    job.finish()
    expect(cluster["a"].is_running(), "crstored ended")


def test_levels_that_never_come(workspace):
    """Who is not protected, or has nowhere to flush to, is told at once."""
    cluster, job = protected(workspace)
    job.expect_done("checkpoint")
    job.expect_done("wait 2")
    job.expect_error("wait 3", "EOPNOTSUPP", r"has no directory to flush to; start it with --flush")
    job.finish()
    cluster.close()


def test_not_protected(workspace):
    """As above, of sessions without --protect, and with none."""
    job = Job(workspace, None)
    job.expect_done("checkpoint")
    for words in ("wait 2", "wait 3"):
        job.expect_error(words, "EOPNOTSUPP", r"this session is not protected.*crrun --protect")
    status = job.status()
    expect(status["protect"] == "" and status["kept"] == "0" and status["degraded"] == "0",
           f"crstatus: {status}")
    expect("safe" not in job.top(), "crtop should not speak of levels")
    job.finish()


def test_none_is_flushed(workspace):
    """--protect=none never gets to level 2, but to level 3."""
    shared = workspace.path / "shared"
    shared.mkdir()
    workspace.user.give(shared)
    _, job = protected(workspace, ["--protect=none"], ["--flush", str(shared)])
    job.expect_done("checkpoint")
    job.expect_error("wait 2", "EOPNOTSUPP", r"--protect=none keeps nothing on other nodes")
    job.expect_done("wait 3")
    job.finish()


def test_own_crstored_is_away(workspace):
    """Not started yet, or standing still: waits end with that, and go well when it is there."""
    cluster = Cluster(workspace, 2, start=False)
    cluster.start(cluster["b"])
    job = Job(workspace, cluster["a"], ["--protect=replica:2", "--name", NAME])
    job.expect_done("checkpoint")
    begin = time.monotonic()
    job.expect_error("wait 2", "EHOSTUNREACH", r"a\.sock")
    expect(time.monotonic() - begin > PATIENCE / 2, "it should be given time to come")
    job.expect_error("wait 3", "EIO", r"a\.sock")
    expect(job.status()["degraded"] == "4", "crstatus")
    cluster.start(cluster["a"])
    job.wait_status(lambda s: s["degraded"] == "0" and s["safe"] == "1", "it is there")
    job.expect_done("wait 2")
    job.expect_done("checkpoint")
    job.expect_done("wait 2")
    signal_node(cluster["a"], signal.SIGSTOP)
    job.expect_done("checkpoint")
    job.expect_error("wait 2", "EHOSTUNREACH", r"a\.sock: crstored does not answer")
    signal_node(cluster["a"], signal.SIGCONT)
    job.wait_status(lambda s: s["safe"] == "3", "it goes on")
    job.expect_done("wait 2")
    job.finish()


def test_restored_with_waits(workspace):
    """Who waits at a checkpoint goes on waiting in the restored process, in place and anew."""
    harness.require_restore(workspace.user)
    cluster, job = protected(workspace)
    job.expect_done("checkpoint")
    job.expect_done("wait 2")
    cluster.kill(cluster["b"])
    job.wait_status(lambda s: s["degraded"] == "4", "the loss is seen")
    job.expect_done("beside 2")
    time.sleep(0.3)  # it waits
    job.checkpoint()
    job.kill()
    job.restore(["--protect=replica:2", "--name", NAME])
    cluster.start(cluster["b"])
    expect(job.take("done-beside").startswith("0 "), "the wait should go on, and well")
    expect(job.status()["safe"] == "2", "it is safe")
    job.expect_done("checkpoint")
    job.expect_done("wait 2")
    job.tell("restore")  # comes back inside the checkpoint() before
    expect(job.take().startswith("1 "), "restore()")
    job.expect_done("wait 2")
    job.expect_done("checkpoint")
    job.expect_done("wait 2")
    expect(job.status()["safe"] == "4", "after restore()")
    job.finish()


def test_history_and_plot(workspace):
    """Each checkpoint's record says when it got to which level; the rest is as it was."""
    shared = workspace.path / "shared"
    shared.mkdir()
    workspace.user.give(shared)
    _, job = protected(workspace, ["--protect=replica:2", "--flush-every", "2"],
                       ["--flush", str(shared)])
    for _ in range(4):
        job.expect_done("checkpoint")
        job.expect_done("wait 2")
    job.wait_status(lambda s: s["flushed"] == "4", "the last one is flushed")
    attempts = job.attempts()
    expect([attempts[n]["safe_ns"] > 0 for n in (1, 2, 3, 4)] == [True] * 4, f"safe: {attempts}")
    expect(attempts[1]["flushed_ns"] == 0 and attempts[4]["flushed_ns"] > 0, f"{attempts}")
    expect(attempts[4]["safe_ns"] == int(job.status()["window"]), "the window of the last one")
    table = workspace.run([workspace.tool("crinspect"), "history", job.image], check=0).stdout
    expect_match(r"safe ms  flushed s", table, "the title")
    expect_match(r"\n +1 +1 .* \d+\.\d{3} +-  \S+ +crash\n", table, "the line of checkpoint 1")
    svg = workspace.path / "plot.svg"
    workspace.run([workspace.tool("crinspect"), "plot", "--out", str(svg), job.image], check=0)
    picture = svg.read_text()
    expect('<g id="levels">' in picture and "Until safe, flushed" in picture, "the picture")
    expect(picture.count(": safe ") == 4, "a point for each that was safe")
    job.finish()


def test_crinit_protects(workspace):
    """A program that calls crinit() by itself, with the same levels; bad words are its errors."""
    cluster = Cluster(workspace, 2)
    workspace.variables.update(cluster["a"].environment())
    program = workspace.program("lib_levels")
    for words, expression in ((["replica:99", "", "0"], r"EINVAL: .*crattr\.protect: replica:99: "),
                              (["replica:2", "a/b", "0"], r"EINVAL: .*crattr\.name: a/b: "),
                              (["", "x", "0"], r"EINVAL: .*go with crattr\.protect"),
                              (["", "", "5"], r"EINVAL: .*go with crattr\.protect")):
        done = workspace.run([program, str(workspace.path / "bad.image"), *words], check=3)
        expect_match(expression, done.stderr, f"crinit with {words}")
    job = Job(workspace, cluster["a"], own=["replica:2", "mine", 0])
    job.expect_done("checkpoint")
    job.expect_done("wait 2")
    session = cluster.session(cluster["a"], "mine")
    expect(session and session["protect"] == "replica:2", f"crstored knows {session}")
    expect(job.status()["safe"] == "1", "crstatus")
    cluster.kill(cluster["b"])
    job.wait_status(lambda s: s["degraded"] == "4", "the loss is seen")
    expect_match(r" degraded: b: ", job.top(), "crtop")
    job.go()
    workspace.wait_until(job.ended, "the end")


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "levels", __file__, USERS, timeout=150.0)


def main():
    parser = argparse.ArgumentParser(description="Tests levels 2 and 3 as programs see them.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
