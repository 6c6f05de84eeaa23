#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""store_trouble_test.py - a node store among nodes that hang, disks that fail, clocks that differ and
parts that are wrong (store_cluster.py has the nodes).

  python3 tests/system/store_trouble_test.py 'store_trouble/hung*' --user=root
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import expect, expect_match  # noqa: E402
from store_cluster import Cluster  # noqa: E402
from store_test import FilledJob  # noqa: E402

USERS = ("root", "nobody")


# -------------------------------------------------------------------------------------- helpers --


def kill_programs(workspace):
    """All but the nodes."""
    for pid in workspace.processes():
        harness.signal_pid(pid, signal.SIGKILL)
    workspace.wait_until(lambda: not workspace.processes(), "the end of all programs")


def at_rest(workspace, count, megabytes, protect, options=()):
    """A session whose program was killed when all parts of a checkpoint were there: cluster, job,
    sequence, the nodes by the parts' numbers."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, count, options)
    home = cluster["a"]
    job = FilledJob(workspace, 0, megabytes, protect)
    job.start_on(home)
    workspace.wait_until(job.is_ready, f"{job.name} in memory")
    cluster.wait_full(home, name=job.name)
    holders = cluster.holders(home, job.name)
    kill_programs(workspace)

    def settled():
        time.sleep(0.3)
        newest = cluster.ask(home, "stat", job.name)["checkpoints"][0]
        done = newest["parts"] == newest["of"] and cluster.session(home, job.name) is None
        return newest["sequence"] if done else None
    return cluster, job, workspace.wait_until(settled, "all parts of the last checkpoint"), holders


# ------------------------------------------------------------------------------ nodes that hang --


def test_hung_holder_is_passed_over(workspace):
    """A holder that stops to answer while an image is made of its parts costs one wait, whatever the
    size; the others take its place, and that is said once."""
    cluster, job, sequence, holders = at_rest(workspace, 4, 64, "rs:2+1", ("--silence", "60"))
    asked = next(node for node in cluster.nodes if node not in holders)
    hung = holders[1]
    target = workspace.path / "got.dir"
    for _ in range(5):  # it may be through before the stop
        got = workspace.start([workspace.tool("crstore"), "--json", "--socket", str(asked.socket),
                               "get", job.name, str(target)], stdout="got.out", stderr="got.err")
        while not target.exists() and got.poll() is None:
            pass
        harness.signal_pid(hung.popen.pid, signal.SIGSTOP)
        begin = time.monotonic()
        workspace.wait_until(lambda got=got: got.poll() is not None, "the end of crstore get")
        took = time.monotonic() - begin
        harness.signal_pid(hung.popen.pid, signal.SIGCONT)
        said = harness.read_file(workspace.path / "got.out")
        expect(got.returncode == 0, f"crstore get: {harness.read_file(workspace.path / 'got.err')}")
        answer = json.loads(said)
        (workspace.path / "got.out").unlink()
        if answer["damaged"]:
            break
        shutil.rmtree(target)
    damaged = answer["damaged"]
    expect(len(damaged) == 1, f"one line about {hung.name}, got {damaged}")
    expect_match(rf"^{hung.name}: the node does not answer: .*; passed over from row \d+ on$",
                 damaged[0], "crstore get")
    expect(answer["sequence"] == sequence, f"checkpoint {sequence}, got {answer['sequence']}")
    expect(15 < took < 40 * harness.SLOWNESS, f"crstore get went on for {took:.1f} s")
    workspace.run([workspace.tool("crinspect"), "verify", str(target)], check=0)


# ----------------------------------------------------------------------------------------- list ---


def tests():
    """All tests, as harness.Test."""
    return harness.tests_of(globals(), "store_trouble", __file__, USERS, timeout=180.0)


def main():
    parser = argparse.ArgumentParser(description="Tests a node store among troubles.")
    harness.add_common_arguments(parser)
    arguments = parser.parse_args()
    return harness.run_main(tests(), arguments)


if __name__ == "__main__":
    sys.exit(main())
