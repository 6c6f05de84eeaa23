#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""store_admin_test.py - running a node store: nodes that are taken out of service and come back
(store_cluster.py has the nodes).

  python3 tests/system/store_admin_test.py 'store_admin/drain*' --user=root
"""

import argparse
import json
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "crash"))
import harness  # noqa: E402
import quick  # noqa: E402
from harness import expect, expect_match  # noqa: E402
from store_cluster import Cluster  # noqa: E402

USERS = ("root", "nobody")
NAME = "job"
STILL_NEEDED = 3  # exit status of crstore drain


class Job(quick.Single):
    """A program that takes checkpoints itself, and finds out if it comes back wrong."""

    def __init__(self, workspace, name=NAME):
        super().__init__(workspace)
        self.job_name = name
        self.directory = workspace.path / f"of-{name}"
        self.directory.mkdir()
        workspace.user.give(self.directory)
        self.image, self.status = self.directory / "image.dir", self.directory / "status"

    def _begin(self, name):
        super()._begin(f"{self.job_name}-{name}")

    def start_on(self, node, protect, options=()):
        self.options = ["-i", "off", "--durable=crash", "--protect", protect, "--name",
                        self.job_name, *options]
        self.start_single(node.environment())
        self.wait(lambda: self.records()[0] > 2, "the first checkpoints")

    def restore_on(self, node, options=()):
        self._begin("restore")
        self.image = self.directory / f"image-{self.lives}.dir"
        self.foreground = self.workspace.start(
            [self.workspace.tool("crrestore"), "-v", "--durable=crash", "-i", "off", *options,
             "--dir", str(self.image), self.job_name],
            stdout="restore.out", stderr=self.error_file, environment=node.environment())

    def come_back(self, node):
        self.restore_on(node)
        found = self.wait(lambda: re.search(r"restoring checkpoint (\d+)", self.errors()),
                          "crrestore's line about its checkpoint")
        self.wait(lambda: self.records()[0] > int(found.group(1)), "progress after the restore")
        self.check_output()
        return int(found.group(1))

    def runs_on(self):
        before = self.records()[0]
        self.wait(lambda: self.records()[0] > before + 3, "progress")
        self.check_output()


def started(workspace, count, mode, options=(), jobs=(NAME,)):
    """A cluster on whose node a the programs run, with all their parts in place."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, count, options)
    running = []
    for name in jobs:
        job = Job(workspace, name)
        job.start_on(cluster["a"], mode)
        running.append(job)
    for job in running:
        cluster.wait_full(cluster["a"], name=job.job_name, job=job)
    return cluster, running


def parts_on(cluster, node):
    """File names of the parts in a node's store, by session."""
    return [path.name for path in cluster.part_files(node)]


def node_status(cluster, asked, name):
    return next(n for n in cluster.ask(asked, "status")["nodes"] if n["name"] == name)


def wait_known(cluster, name, draining):
    """Until every node that runs knows it."""
    running = [node for node in cluster.nodes if node.is_running()]
    cluster.workspace.wait_until(
        lambda: all(node_status(cluster, node, name)["draining"] == draining for node in running),
        f"all nodes to know that {name} is {'' if draining else 'not '}drained")


def other_holder(cluster, home, name=NAME):
    return next(node for node in cluster.holders(home, name) if node is not home)


# ------------------------------------------------------------------------------- out of service ---


def test_drain(workspace):
    """All parts of a node move to others while the programs run; nothing is left on it, and what
    begins afterwards does not choose it. Undone, it is chosen again."""
    names = [f"job-{n}" for n in range(4)]
    cluster, jobs = started(workspace, 4, "rs:2+1", jobs=names)
    home = cluster["a"]
    victim = max((node for node in cluster.nodes if node is not home),
                 key=lambda node: len(cluster.part_files(node)))
    expect(cluster.part_files(victim), "a node with parts to move")
    done = cluster.crstore(cluster["b"], "drain", victim.name)
    expect_match(rf"^{victim.name}: \d+ sessions need it", done.stdout, "crstore drain")
    expect_match(rf"node {victim.name} is drained: no session needs it", done.stdout, "crstore drain")
    expect(not parts_on(cluster, victim), f"parts are left: {parts_on(cluster, victim)}")
    for job in jobs:
        least = cluster.wait_full(home, name=job.job_name, job=job)
        holders = cluster.holders(home, job.job_name)
        expect(victim not in holders, f"{victim.name} is still a holder of {job.job_name}")
        job.runs_on()
        cluster.wait_full(home, least + 1, name=job.job_name, job=job)
    wait_known(cluster, victim.name, True)
    expect_match(rf"{victim.name} .*draining", cluster.crstore(home, "status").stdout,
                 "crstore status")
    expect_match(rf"{victim.name} .*passed over: draining",
                 cluster.crstore(home, "place", names[0]).stdout, "crstore place")
    later = Job(workspace, "later")
    later.start_on(home, "rs:2+1")
    cluster.wait_full(home, name="later", job=later)
    expect(victim not in cluster.holders(home, "later"), "a new session chose the drained node")
    too_many = Job(workspace, "too-many")
    too_many.start_on(home, "replica:4")
    too_many.wait(lambda: f"{victim.name} is draining" in too_many.errors(), "why it is refused")
    done = cluster.crstore(victim, "undrain", victim.name)
    expect_match("takes parts again", done.stdout, "crstore undrain")
    wait_known(cluster, victim.name, False)
    cluster.wait_full(home, name="too-many", job=too_many)
    for job in (*jobs, later, too_many):
        job.end()


def test_drain_ended_sessions(workspace):
    """Parts of a program that is not there any more move too: from an up node, by the node where it
    ran, from the node where it ran, by another."""
    cluster, (job,) = started(workspace, 4, "rs:2+1")
    home = cluster["a"]
    job.end()
    for victim in (other_holder_at_rest(cluster, home), home):
        asked = next(node for node in cluster.nodes if node is not victim)
        done = cluster.crstore(asked, "drain", victim.name)
        expect_match(rf"node {victim.name} is drained", done.stdout, "crstore drain")
        expect(not parts_on(cluster, victim), f"parts are left: {parts_on(cluster, victim)}")
        newest = cluster.ask(asked, "stat", NAME)["checkpoints"][0]
        keepers = [node for holder in newest["holders"] for node in holder["nodes"]]
        expect(newest["parts"] == 3 and len(set(keepers)) == 3 and victim.name not in keepers,
               f"all parts should be elsewhere: {newest}")
        bad = json.loads(cluster.crstore(asked, "--json", "verify", NAME, check=None).stdout)["bad"]
        expect(not any("row" in line for line in bad), f"parts that have moved are wrong: {bad}")
        cluster.crstore(asked, "undrain", victim.name)
    pathlib.Path(f"{job.status}.stop").unlink()
    cluster.lose(home, job.image)
    spare = cluster["b"]
    job.come_back(spare)
    job.end()


def other_holder_at_rest(cluster, home):
    newest = cluster.ask(home, "stat", NAME)["checkpoints"][0]
    return next(cluster[holder["nodes"][0]] for holder in newest["holders"]
                if holder["nodes"][0] != home.name)


def test_drain_of_its_own_node(workspace):
    """A program that runs on the node goes on, its checkpoints are kept elsewhere as before, and it
    is said that it needs the node."""
    cluster, (job,) = started(workspace, 3, "replica:2")
    home = cluster["a"]
    done = cluster.crstore(cluster["b"], "drain", "a", check=STILL_NEEDED)
    expect_match(rf"{NAME} \(.*\): it runs there", done.stdout, "crstore drain")
    left = json.loads(cluster.crstore(cluster["b"], "--json", "drain", "a",
                                      check=STILL_NEEDED).stdout)
    expect(left["drained"] is False and [n["name"] for n in left["left"]] == [NAME] and
           left["left"][0]["runs"], f"what is left: {left}")
    least = cluster.wait_full(home, job=job)
    job.runs_on()
    cluster.wait_full(home, least + 1, job=job)
    second = Job(workspace, "second")
    second.start_on(home, "replica:2")
    second.wait(lambda: "is being drained" in second.errors(), "crrun's notice")
    cluster.wait_full(home, name="second", job=second)
    for one in (job, second):
        workspace.run([workspace.tool("crckpt"), "--then=kill", str(one.image)], check=0)
        one.wait(one.ended, "the end of the program", may_end=True)
        one.come_back(cluster["b"])
    done = cluster.crstore(cluster["c"], "drain", "a")
    expect(not parts_on(cluster, home), f"parts are left: {parts_on(cluster, home)}")
    for one in (job, second):
        one.end()


def test_drain_with_too_few_nodes(workspace):
    """Where there is no other node the parts stay, and it is said why; a node more, and they go."""
    cluster, (job,) = started(workspace, 3, "rs:2+1")
    home = cluster["a"]
    done = cluster.crstore(home, "drain", "b", check=STILL_NEEDED)
    expect_match(rf"{NAME} \(.*\): 3 nodes are needed.*b is draining", done.stdout, "crstore drain")
    least = cluster.wait_full(home, job=job)
    job.runs_on()
    cluster.wait_full(home, least + 1, job=job)
    expect(cluster["b"] in cluster.holders(home), "b should keep its part")
    job.end()
    done = cluster.crstore(home, "drain", "b", check=STILL_NEEDED)
    expect_match(rf"{NAME} \(.*\): 3 nodes are needed", done.stdout, "crstore drain")
    expect_match("no node of the member list",
                 cluster.crstore(home, "drain", "x", check=1).stderr, "crstore drain")


def test_drain_is_remembered(workspace):
    """By each node's store, when its crstored is restarted; a node that was away learns it from the
    others, and gives its old parts up."""
    cluster, (job,) = started(workspace, 4, "replica:2", options=("--repair-after", "2"))
    home = cluster["a"]
    victim = other_holder(cluster, home)
    asked = next(node for node in cluster.nodes if node not in (home, victim))
    cluster.kill(victim)
    expect(parts_on(cluster, victim), "parts of the node that is away")
    done = cluster.crstore(asked, "drain", victim.name, check=STILL_NEEDED)
    expect_match(f"{victim.name} could not be asked", done.stderr, "crstore drain")
    cluster.wait_session(home, lambda s: victim.name not in [p["node"] for p in s["parts"]],
                         "another holder", job=job)
    cluster.wait_full(home, job=job)
    for node in (home, asked):
        cluster.restart(node)
        expect(node_status(cluster, node, victim.name)["draining"], f"{node.name} has forgotten it")
    cluster.start(victim)
    wait_known(cluster, victim.name, True)
    cluster.wait_full(home, job=job)
    workspace.wait_until(lambda: not parts_on(cluster, victim), "the end of its old parts")
    cluster.crstore(victim, "drain", victim.name)
    job.runs_on()
    job.end()


def test_damaged_states(workspace):
    """A node whose file of nodes' states is damaged says so and asks the others."""
    cluster = Cluster(workspace, 2, options=("--repair-after", "1"))
    cluster.crstore(cluster["a"], "drain", "b")
    wait_known(cluster, "b", True)
    cluster.kill(cluster["b"])
    path = cluster["b"].store / "nodes"
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    cluster.start(cluster["b"])
    expect_match("nodes.damaged", cluster["b"].said(), "crstored")
    wait_known(cluster, "b", True)


def test_replaced_node_comes_back(workspace):
    """A node whose part another has taken over, after --repair-after, gives its old ones up."""
    cluster, (job,) = started(workspace, 4, "rs:2+1", options=("--repair-after", "1"))
    home = cluster["a"]
    victim = other_holder(cluster, home)
    cluster.kill(victim)
    cluster.wait_session(home, lambda s: victim.name not in [p["node"] for p in s["parts"]],
                         "another holder", job=job)
    least = cluster.wait_full(home, job=job)
    job.runs_on()
    expect(parts_on(cluster, victim), "it should have parts")
    cluster.start(victim)
    workspace.wait_until(lambda: not parts_on(cluster, victim), "the end of its old parts")
    cluster.wait_full(home, least + 1, job=job)
    # The newest may just be on its way.
    found = cluster.ask(home, "stat", NAME)["checkpoints"]
    expect(any(c["whole"] and c["sequence"] > least for c in found), f"none is whole: {found}")
    job.end()


def test_drain_needs_rights(workspace):
    """Only root and the user of crstored may take a node out of service."""
    if workspace.user.uid is not None or os.geteuid() != 0:
        raise harness.Skip("needs root, to be several users")
    workspace.path.chmod(0o755)
    cluster = Cluster(workspace, 2, options=("--for-all-users",))
    workspace.user = harness.User("nobody", 65534)
    expect_match("for root and the user of crstored",
                 cluster.crstore(cluster["a"], "drain", "b", check=1).stderr, "crstore drain")
    expect(not node_status(cluster, cluster["a"], "b")["draining"], "it should have been refused")


# ----------------------------------------------------------------------------------------- list ---


def tests():
    """All tests, as harness.Test."""
    return harness.tests_of(globals(), "store_admin", __file__, USERS, timeout=180.0)


def main():
    parser = argparse.ArgumentParser(description="Tests running a node store.")
    harness.add_common_arguments(parser)
    arguments = parser.parse_args()
    return harness.run_main(tests(), arguments)


if __name__ == "__main__":
    sys.exit(main())
