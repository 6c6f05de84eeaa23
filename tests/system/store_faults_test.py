#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""store_faults_test.py - holders of a node store that fail in the middle of a transfer, stand still,
or are asked by two runs of one session (store_cluster.py has the nodes, src/os/fault.h what fails).

  python3 tests/system/store_faults_test.py 'store_faults/copy*' --user=root
"""

import argparse
import pathlib
import re
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "crash"))
import harness  # noqa: E402
import store_cluster  # noqa: E402
from harness import Test, expect  # noqa: E402
from store_test import LARGE, InvariantJob, come_back, lose_home, started  # noqa: E402

USERS = ("root", "nobody")
# It has no files that two of it could share.
COUNTER = """
import time
seen = bytearray(1 << 20)
while True:
    for i in range(len(seen) // 4096):
        seen[4096 * i] = (seen[4096 * i] + 1) % 256
    time.sleep(0.01)
"""


def large(workspace):
    """Of more chunks than there are windows."""
    return InvariantJob(workspace, size=LARGE)


def spare_of(cluster, home):
    holders = cluster.holders(home)
    return next(node for node in cluster.nodes if node not in holders)


def test_copy_fails(workspace):
    """The disk of one of two copies' nodes fails in the middle of a transfer; what the other one has
    of that very checkpoint is whole, and the program comes back from it alone."""
    cluster, job, _ = started(workspace, 3, "replica:2", large)
    home, spare = cluster["a"], spare_of(cluster, cluster["a"])
    bad, good = cluster.holders(home)  # by its number 0 it is who the rows are chosen for
    fault = {"CR_FAULT": "part_received:5=EIO"}
    if bad is not home:
        cluster.restart(bad, environment=fault)
    cluster.restart(home, environment=fault if bad is home else {})  # sends everything then
    workspace.wait_until(lambda: cluster.count_in_log(home, "Input/output error"), "a failure")

    def good_is_newer(session):
        return session["parts"][1]["sequence"] if session["parts"][1]["sequence"] else None
    least = cluster.wait_session(home, good_is_newer, "a checkpoint on the other", job=job)
    cluster.kill(home)
    job.kill_all()
    for node in {home, bad}:
        if node is not good:
            cluster.lose(node)
    shutil.rmtree(job.image)
    if good is home:
        cluster.start(home)
    come_back(cluster, job, spare, least)
    job.end()


def test_holder_fails(workspace):
    """The same with a neighbour, where the rest is kept by parity: the others do without it, and it
    has its part again a little later."""
    cluster, job, _ = started(workspace, 4, "rs:2+1", large)
    home, spare = cluster["a"], spare_of(cluster, cluster["a"])
    bad = next(node for node in cluster.holders(home) if node is not home)
    cluster.restart(bad, environment={"CR_FAULT": "part_received:3=EIO"})
    workspace.wait_until(lambda: cluster.count_in_log(home, "Input/output error"), "a failure")
    least = cluster.wait_full(home, job=job)
    lose_home(cluster, job, home, spare, least)


def run_stalled_holder(workspace, who):
    """A disk that hangs, of a neighbour or of the session's node: that can be seen soon, and after a
    minute the others go on without it."""
    cluster, job, _ = started(workspace, 4, "replica:3", large)
    home = cluster["a"]
    bad = home if who == "own" else next(n for n in cluster.holders(home) if n is not home)

    def part_of(session):
        return next(part for part in session["parts"] if part["node"] == bad.name)
    cluster.kill(bad)
    if bad is not home:  # what is said then is not said for ever
        cluster.wait_session(home, lambda s: part_of(s)["trouble"], "a neighbour that is missed",
                             job=job)
    cluster.start(bad, environment={"CR_FAULT": "part_received:3=hang"})
    cluster.wait_session(home, lambda s: "its store is slow" in part_of(s)["trouble"],
                         "a slow store in the status", job=job)
    cluster.wait_session(home, lambda s: "has finished no write" in part_of(s)["trouble"],
                         "a store that is given up", job=job)

    def others_go_on(session):
        rest = {part["sequence"] for part in session["parts"] if part["node"] != bad.name}
        return len(rest) == 1 and min(rest) > part_of(session)["sequence"] + 1 and session["safe"]
    cluster.wait_session(home, others_go_on, "a newer checkpoint on all others", job=job)
    job.runs_on()
    if bad is not home:  # it is asked again now and then, and hangs again
        begin, seen, changed, longest = time.monotonic(), 0, time.monotonic(), 0
        while time.monotonic() - begin < 100:
            now = cluster.session(home)
            if now and now["safe"] and now["sequence"] != seen:
                longest = max(longest, time.monotonic() - changed)
                seen, changed = now["sequence"], time.monotonic()
            time.sleep(0.2)
        longest = max(longest, time.monotonic() - changed)
        expect(longest < 30 * harness.SLOWNESS,
               f"for {longest:.0f} s there was no checkpoint on the others")
    least = cluster.session(home)["sequence"]
    cluster.restart(bad)
    cluster.wait_full(home, least, job=job)
    job.end()


def test_two_runs(workspace):
    """A node is cut off, its session is brought back on another, and then it is there again, its
    program with it: what the later run has on the nodes stays."""
    harness.require_restore(workspace.user)
    cluster = store_cluster.Cluster(workspace, 3, ("--repair-after", "5"))
    home = cluster["a"]
    common = ["--durable=crash", "-i", "0.2"]
    workspace.start([workspace.tool("crrun"), "-d", str(workspace.path / "first.dir"), *common,
                     "--protect", "replica:2", "--name", "job", "--", "/usr/bin/python3", "-c", COUNTER],
                    stdout="1.out", stderr="1.err", environment=home.environment())
    least = cluster.wait_full(home)
    before, spare = cluster.holders(home), spare_of(cluster, home)
    stopped = [home.popen.pid, *workspace.processes()]
    for pid in stopped:
        harness.signal_pid(pid, signal.SIGSTOP)
    time.sleep(1.5)  # so that it counts as gone

    def bring_back(life, node):
        target = workspace.path / f"life-{life}.dir"
        workspace.start([workspace.tool("crrestore"), "-v", *common, "--dir", str(target), "job"],
                        stdout=f"{life}.out", stderr=f"{life}.err", environment=node.environment())
        found = workspace.wait_until(
            lambda: re.search(r"restoring checkpoint (\d+)",
                              harness.read_file(workspace.path / f"{life}.err")),
            f"crrestore's line about its checkpoint ({life})")
        return int(found.group(1))
    sequence = bring_back(2, spare)
    expect(sequence >= least, f"checkpoint {least} was whole, but {sequence} came back")
    workspace.wait_until(lambda: cluster.session(spare), "the session on another node")
    now = cluster.holders(spare)
    shared = [old for old, new in zip(before, now) if old is new]
    for pid in stopped:
        harness.signal_pid(pid, signal.SIGCONT)
    least = cluster.wait_full(spare, sequence + 2)
    if shared:
        cluster.wait_session(
            home, lambda s: any("a later run of this session" in part["trouble"]
                                for part in s["parts"]), "a refusal")
    least = cluster.wait_full(spare, least + 8)
    for pid in workspace.processes():
        harness.signal_pid(pid, signal.SIGKILL)
    cluster.lose(spare)
    shutil.rmtree(workspace.path / "life-2.dir")
    other = next(node for node in now if node is not spare)
    sequence = bring_back(3, other)
    expect(sequence >= least, f"checkpoint {least} was whole, but {sequence} came back")
    workspace.wait_until(lambda: cluster.session(other), "the session on its third node")
    cluster.wait_full(other, sequence + 1)
    for pid in workspace.processes():
        harness.signal_pid(pid, signal.SIGKILL)


def tests(thorough=False):
    result = harness.tests_of(globals(), "store_faults", __file__, USERS, timeout=180.0)
    if thorough:
        for user in harness.usable_users(USERS):
            for who in ("own", "neighbour"):
                name = f"store_faults/stalled_{who}"
                result.append(Test(
                    name, user, lambda w, who=who: run_stalled_holder(w, who),
                    f"python3 tests/system/store_faults_test.py --thorough {name} "
                    f"--user={user.name}", timeout=300.0))
    return result


def main():
    parser = argparse.ArgumentParser(description="Tests holders that fail.")
    harness.add_common_arguments(parser)
    parser.add_argument("--thorough", action="store_true", help="also what make check leaves out")
    arguments = parser.parse_args()
    return harness.run_main(tests(arguments.thorough), arguments)


if __name__ == "__main__":
    sys.exit(main())
