#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""store_trouble_test.py - a node store among nodes that hang, disks that fail, clocks that differ and
parts that are wrong (store_cluster.py has the nodes).

  python3 tests/system/store_trouble_test.py 'store_trouble/hung*' --user=root
"""

import argparse
import json
import pathlib
import re
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "crash"))
import harness  # noqa: E402
from harness import expect, expect_match  # noqa: E402
from subject import read_images  # noqa: E402
from store_cluster import Cluster  # noqa: E402
from store_test import FilledJob, PartFile, is_root, newest_part, small_store  # noqa: E402

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


# ---------------------------------------------------------------------------- parts that are wrong --


def run_other_content(workspace, protect, first, count):
    """Rows of one copy are of other content, and all its checksums say that this is right: METADATA
    tells, and another copy or parity gives what it was."""
    cluster, job, sequence, holders = at_rest(workspace, 4, 4, protect)
    wrong = holders[-1]  # it is asked for rows 256 to 511 in any case
    part = newest_part(cluster, wrong)
    expect(part.sequence == sequence, f"{part.path} is of checkpoint {part.sequence}")
    changed = workspace.run([str(workspace.build / "tests" / "crash" / "patch_part"),
                             str(part.path), str(first), str(count)], check=0).stdout
    expect(int(changed) > 0, f"rows {first} to {first + count} of {part.path} are zeros")
    cluster.crstore(cluster["a"], "verify", job.name)
    said = False
    for node in cluster.nodes:
        target = workspace.path / f"got-{node.name}.dir"
        answer = cluster.ask(node, "get", job.name, target)
        workspace.run([workspace.tool("crinspect"), "verify", str(target)], check=0)
        if answer["damaged"]:
            expect(len(answer["damaged"]) == 1, f"one line, got {answer['damaged']}")
            expect_match(rf"^{wrong.name}: part {len(holders) - 1}: rows that are not of this "
                         "checkpoint, though their checksums fit", answer["damaged"][0],
                         "crstore get")
            said = True
    expect(said, "nobody has found it")
    job.restore_on(cluster["b"])
    job.end(sequence)


def test_a_copy_of_other_content(workspace):
    run_other_content(workspace, "replica:2", 0, 1 << 30)


def test_a_page_of_other_content(workspace):
    run_other_content(workspace, "replica:3", 300, 40)


def test_a_part_of_other_content(workspace):
    run_other_content(workspace, "rs:2+1", 0, 1 << 30)


def test_clocks_do_not_count(workspace):
    """A session's second life is on a node whose clock is hours behind that of its first one: still
    its checkpoints are the newer ones, to tools, to the nodes and at the next restore."""
    cluster, job, sequence, _ = at_rest(workspace, 3, 4, "replica:3")
    other = cluster["b"]
    cluster.lose(cluster["a"], job.image)
    job.restore_on(other)
    job.runs_again(sequence)
    cluster.start(cluster["a"])
    second = job.checkpoint()
    cluster.wait_full(other, second, name=job.name)
    kill_programs(workspace)
    workspace.wait_until(lambda: cluster.session(other, job.name) is None, "the session's end")
    now = time.time()
    for node in cluster.nodes:
        for path in cluster.part_files(node):
            part = PartFile(path)
            if part.whole and part.epoch == 2:
                workspace.run([str(workspace.build / "tests" / "crash" / "patch_part"), str(path),
                               "clock", str(int((now - 7200) * 1e9))], check=0)
    for node in cluster.nodes:
        cluster.restart(node)
        listed = cluster.ask(node, "stat", job.name)["checkpoints"]
        expect((listed[0]["epoch"], listed[0]["sequence"]) == (2, second), f"crstore stat: {listed}")
        expect(listed[0]["realtime_ns"] < (now - 7000) * 1e9, f"its clock: {listed[0]}")
    home = cluster["c"]
    cluster.lose(other, job.image)
    job.restore_on(home)
    expect(job.runs_again(second) == second, "another checkpoint came back")
    cluster.start(other)
    third = job.checkpoint()
    cluster.wait_full(home, third, name=job.name)
    job.end(second)


def test_removed_session_stays_away(workspace):
    """A holder that was away when its session was removed comes back: nothing is rebuilt, its part
    goes. A session of the same program that is protected again stays."""
    cluster, job, sequence, holders = at_rest(workspace, 4, 4, "replica:3",
                                              ("--repair-after", "1"))
    home = cluster["a"]
    away = next(node for node in holders if node is not home)
    cluster.kill(away)
    cluster.crstore(home, "rm", job.name)
    expect(cluster.part_files(away), "the node that was away has its parts")
    cluster.restart(home)
    cluster.start(away)
    workspace.wait_until(lambda: not cluster.part_files(away), f"node {away.name} without parts")
    workspace.wait_until(lambda: cluster.count_in_log(away, r"part \d of session .* was removed"),
                         "its word about them")
    time.sleep(4)
    left = [str(path) for node in cluster.nodes for path in cluster.part_files(node)]
    expect(not left, f"parts came back: {left}\n{cluster.logs()}")
    expect(cluster.ask(home, "ls")["sessions"] == [], "crstore ls after rm")
    again = workspace.run([workspace.tool("crinspect"), "verify", str(job.image)], check=0)
    expect(again.returncode == 0, "the image directory is not crstored's")
    workspace.start([workspace.tool("crrestore"), "-i", "off", "--durable=crash", "--protect",
                     "replica:3", "--name", job.name, str(job.image)], stdout="again.out",
                    stderr="again.err", environment=home.environment())
    workspace.wait_until(lambda: cluster.session(home, job.name) is not None, "the session again")
    workspace.run([workspace.tool("crckpt"), str(job.image)], check=0)
    newest = read_images(job.image).whole.sequence
    expect(newest > sequence, f"checkpoint {newest} after {sequence}")
    cluster.wait_full(home, newest, name=job.name)
    kill_programs(workspace)
    time.sleep(4)
    listed = cluster.ask(cluster["d"], "stat", job.name)["checkpoints"]
    expect(listed[0]["sequence"] == newest and listed[0]["parts"] == 3,
           f"all parts of checkpoint {newest}, got {listed}")


def restore_again(workspace, cluster, job, protect):
    """From the image directory, on the node where the session was; no checkpoint is taken."""
    home = cluster["a"]
    workspace.start([workspace.tool("crrestore"), "-i", "off", "--durable=crash", "--protect",
                     protect, "--name", job.name, str(job.image)], stdout="again.out",
                    stderr="again.err", environment=home.environment())
    workspace.wait_until(lambda: cluster.session(home, job.name) is not None, "the session again")


def test_removed_session_is_kept_again(workspace):
    """A session was removed, and is protected again from its image directory: no node takes the parts
    that were sent then for removed ones, also when the session's node is lost at once."""
    cluster, job, sequence, _ = at_rest(workspace, 4, 4, "replica:3", ("--repair-after", "1"))
    home = cluster["a"]
    cluster.crstore(home, "rm", job.name)
    restore_again(workspace, cluster, job, "replica:3")
    cluster.wait_full(home, sequence, name=job.name)
    others = [node for node in cluster.holders(home, job.name) if node is not home]
    cluster.kill(home)
    kill_programs(workspace)
    time.sleep(4)
    listed = cluster.ask(others[0], "stat", job.name)["checkpoints"]
    expect(listed and listed[0]["sequence"] == sequence and listed[0]["parts"] >= len(others),
           f"parts of checkpoint {sequence}, got {listed}\n{cluster.logs()}")


def test_image_directory_falls_back(workspace):
    """The newest image is no more, and the program comes back from the one before: that does not
    replace the newer checkpoint that the holders have. The next one does."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 3)
    home = cluster["a"]
    job = FilledJob(workspace, 0, 4, "replica:3", interval="off")
    job.start_on(home)
    workspace.wait_until(job.is_ready, f"{job.name} in memory")
    first = job.checkpoint()
    second = job.checkpoint()
    cluster.wait_full(home, second, name=job.name)
    kill_programs(workspace)
    images = read_images(job.image)
    workspace.run([str(workspace.build / "tests" / "crash" / "patch_image"),
                   str(job.image / f"image.{images.newest_index()}"), "set", "write_lock=0"], check=0)
    expect(read_images(job.image).whole.sequence == first, "the image before")
    restore_again(workspace, cluster, job, "replica:3")
    workspace.wait_until(
        lambda: cluster.count_in_log(home, f"its holders have checkpoint {second}, newer"),
        "its word about the newer checkpoint")
    newest = cluster.ask(home, "stat", job.name)["checkpoints"][0]
    expect((newest["epoch"], newest["sequence"], newest["parts"]) == (1, second, 3),
           f"all parts of checkpoint {second}, got {newest}")
    workspace.run([workspace.tool("crckpt"), str(job.image)], check=0)

    def has_come():
        time.sleep(0.1)
        now = cluster.ask(home, "stat", job.name)["checkpoints"][0]
        return now["epoch"] > 1 and now["parts"] == 3
    workspace.wait_until(has_come, "all parts of the next checkpoint")
    kill_programs(workspace)


# ------------------------------------------------------------------------------- disks that fail --


def running(workspace, cluster, megabytes=4, protect="replica:2"):
    """A session on node a, all parts of its first checkpoints in place."""
    harness.require_restore(workspace.user)
    job = FilledJob(workspace, 0, megabytes, protect, interval="0.3")
    job.start_on(cluster["a"])
    workspace.wait_until(job.is_ready, f"{job.name} in memory")
    cluster.wait_full(cluster["a"], name=job.name)
    return job


def expect_said_once(cluster, job, node, expression, spoil, repair):
    """The holder's store fails: crrun says path, cause and next step once, and goes on; when the store
    is good again, all parts come."""
    home = cluster["a"]
    spoil()

    def troubled(session):
        return any(re.search(expression, part["trouble"]) for part in session["parts"])
    cluster.wait_session(home, troubled, f"a trouble /{expression}/", name=job.name)
    time.sleep(1.5)  # some more attempts
    job.expect_running()
    said = harness.read_file(job._file("err"))
    lines = [line for line in said.splitlines() if re.search(expression, line)]
    expect(len(lines) == 1, f"crrun should say /{expression}/ once, got:\n{said}")
    expect(node.is_running(), f"crstored of node {node.name} ended:\n{cluster.logs()}")
    repair()
    cluster.wait_full(home, cluster.session(home, job.name)["sequence"], name=job.name)
    kill_programs(cluster.workspace)


def running_beside_small_store(workspace):
    """Two nodes, the second of which has its store on a small file system of its own, and a program
    on the first."""
    if not is_root(workspace):
        raise harness.Skip("mounting takes root")
    cluster = Cluster(workspace, 2, start=False)
    node = cluster["b"]
    small_store(cluster, node, "100m")
    for each in cluster.nodes:
        cluster.start(each)
    job = running(workspace, cluster)
    return cluster, node, job


def test_store_becomes_read_only(workspace):
    """Of root's: a read-only mount of its own over the sessions; nobody has a file open below."""
    cluster, node, job = running_beside_small_store(workspace)
    place = str(node.store / "sessions")

    def mount(*arguments):
        workspace.run([*node.inside, *arguments], check=0)

    def spoil():
        mount("mount", "--bind", place, place)
        mount("mount", "-o", "remount,bind,ro", place)
    expect_said_once(cluster, job, node,
                     f"{node.store}: .*: Read-only file system; mount the file system for writing",
                     spoil, lambda: mount("umount", "-l", place))


def test_part_cannot_be_read(workspace):
    """A part whose first sector gives EIO, as a file does that stands for a process's first page."""
    cluster, node, job = running_beside_small_store(workspace)
    root = f"/proc/{node.popen.pid}/root"
    parts = [path for path in pathlib.Path(f"{root}{node.store}").glob("sessions/*/part.*.?")]
    expect(len(parts) == 2, f"two buffers, got {parts}")
    places = [str(path)[len(root):] for path in parts]

    def spoil():
        for place in places:
            workspace.run([*node.inside, "mount", "--bind", f"/proc/{node.popen.pid}/mem", place],
                          check=0)

    def repair():
        for place in places:
            workspace.run([*node.inside, "umount", "-l", place], check=0)
    expect_said_once(cluster, job, node, f"{node.store}: .*: Input/output error; see what the file",
                     spoil, repair)


def test_image_directory_without_room(workspace):
    """crstore get and crrestore NAME to a disk that is full, or read-only: path, cause, next step."""
    if not is_root(workspace):
        raise harness.Skip("mounting takes root")
    cluster, job, _, _ = at_rest(workspace, 2, 4, "replica:2")
    node = cluster["b"]
    small = workspace.path / "small"
    small.mkdir()
    cluster.kill(node)
    own = node.store
    node.store = small
    small.rmdir()
    small_store(cluster, node, "1m")
    node.store = own
    cluster.start(node)
    for size, words in (("size=1m", "writing: No space left on device; make room there"),
                        ("remount,ro", "Read-only file system; mount the file system for writing")):
        workspace.run([*node.inside, "mount", "-o", f"remount,{size.split(',')[-1]}", str(small)],
                      check=0)
        target = small / "got.dir"
        for tool in (["crstore", "get", job.name, str(target)],
                     ["crrestore", "--dir", str(target), job.name]):
            done = workspace.run([*node.inside, workspace.tool(tool[0]), *tool[1:]],
                                 environment=node.environment())
            expect(done.returncode in (1, 125), f"{tool[0]} ended with {done.returncode}")
            expect_match(f"{target}: {words}", done.stderr, tool[0])


def test_check_config(workspace):
    """--check-config finds what cannot start, and makes nothing."""
    daemon, store = workspace.tool("crstored"), workspace.path / "s"
    key = workspace.path / "key"
    workspace.run([daemon, "--make-key", str(key)], check=0)
    base = [daemon, "--check-config", "--store", str(store), "--name", "a"]
    members = ["--members", "a=127.0.0.1:7001,b=127.0.0.1:7002", "--key", str(key)]
    workspace.run([*base, *members, "--listen", "127.0.0.1"], check=0)
    long_name = "n" * 64
    (workspace.path / "file").touch()
    workspace.user.give(workspace.path / "file")
    for options, status, words in [
            ([*members, "--cluster", "my cluster"], 2, "--cluster 'my cluster': give 1 to 63"),
            (["--members", f"a=127.0.0.1:7001,{long_name}=127.0.0.1:7002", "--key", str(key)], 2,
             f"'{long_name}': give 1 to 63"),
            ([*members, "--listen", "192.0.2.7"], 125, "--listen 192.0.2.7: .*give an address of"),
            (["--store", str(workspace.path / "no" / "such")], 125, "such: the store cannot be made"),
            (["--store", str(workspace.path / "file")], 125, "file: Not a directory")]:
        done = workspace.run([*base, *options], check=status)
        expect_match(words, done.stderr, f"crstored {options}")
    expect(not store.exists(), "a store was made")


# ------------------------------------------------------------------------------- losses of many --


def test_killed_right_after_level_0(workspace):
    """Program and agent are killed as soon as a checkpoint is committed, with all of it still to be
    sent: it gets to the other nodes, and comes back there when its node is lost as well."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 3, ("--silence", "60"))
    home = cluster["a"]
    job = FilledJob(workspace, 0, 32, "replica:2", interval="off", pages=32 << 8)
    job.start_on(home)
    workspace.wait_until(job.is_ready, f"{job.name} in memory")
    first = job.checkpoint()
    cluster.wait_full(home, first, name=job.name)
    other = next(node for node in cluster.holders(home, job.name) if node is not home)
    harness.signal_pid(other.popen.pid, signal.SIGSTOP)
    second = job.checkpoint()
    kill_programs(workspace)
    session = cluster.session(home, job.name)
    there = next(part["sequence"] for part in session["parts"] if part["node"] == other.name)
    expect(there < second, f"checkpoint {second} is on {other.name} already: {session}")
    harness.signal_pid(other.popen.pid, signal.SIGCONT)

    def arrived():
        time.sleep(0.2)
        return any(c["sequence"] == second and c["parts"] == 2
                   for c in cluster.ask(other, "stat", job.name)["checkpoints"])
    workspace.wait_until(arrived, f"checkpoint {second} on both nodes")
    cluster.kill(home)
    cluster.lose(home, job.image)
    job.restore_on(other)
    expect(job.runs_again(second) == second, "another checkpoint came back")
    job.end(second)


def test_holder_comes_back_emptied(workspace):
    """The store of a holder was lost while the session took no checkpoint: its part is there again as
    soon as its node is, and the session's own node may be lost."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 2)
    home, other = cluster.nodes
    job = FilledJob(workspace, 0, 8, "replica:2", interval="off", pages=8 << 8)
    job.start_on(home)
    workspace.wait_until(job.is_ready, f"{job.name} in memory")
    sequence = job.checkpoint()
    cluster.wait_full(home, sequence, name=job.name)
    cluster.lose(other)
    cluster.start(other)

    def there():
        time.sleep(0.1)
        return any(part.whole and part.sequence == sequence
                   for part in map(PartFile, cluster.part_files(other)))
    workspace.wait_until(there, f"the part of checkpoint {sequence} on {other.name}")
    job.expect_running()
    kill_programs(workspace)
    cluster.kill(home)
    cluster.lose(home, job.image)
    job.restore_on(other)
    expect(job.runs_again(sequence) == sequence, "another checkpoint came back")
    job.end(sequence)


def test_one_node_after_the_other(workspace):
    """The session's node is lost, and later the one on which it came back, which has not kept anything
    of it before. Where not all nodes of a group are there in between, new checkpoints do not take the
    place of the one that is safe."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 4, ("--repair-after", "600"))
    home = cluster["a"]
    job = FilledJob(workspace, 0, 4, "rs:2+1", interval="off")
    job.start_on(home)
    workspace.wait_until(job.is_ready, f"{job.name} in memory")
    first = job.checkpoint()
    cluster.wait_full(home, first, name=job.name)
    holders = cluster.holders(home, job.name)
    spare = next(node for node in cluster.nodes if node not in holders)
    kill_programs(workspace)
    cluster.lose(home, job.image)
    job.restore_on(spare)
    expect(job.runs_again(first) == first, "another checkpoint came back")
    for _ in range(3):
        sequence = job.checkpoint()
        others = [node for node in cluster.holders(spare, job.name) if node is not home]
        cluster.wait_session(
            spare, lambda s, least=sequence: all(part["sequence"] == least for part in s["parts"]
                                                 if cluster[part["node"]] in others),
            f"checkpoint {sequence} on all that are there", name=job.name)
    kill_programs(workspace)
    cluster.lose(spare, job.image)
    last = next(node for node in holders if node is not home)
    job.restore_on(last)
    job.end(first)


def test_racks(workspace):
    """Never two parts in a rack, with --strict-racks: so a whole rack may be lost; and what cannot be
    placed so is not protected."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 4, ("--strict-racks",), racks=("one", "one", "two", "two"))
    home = cluster["a"]
    job = FilledJob(workspace, 0, 4, "replica:2")
    job.start_on(home)
    workspace.wait_until(job.is_ready, f"{job.name} in memory")
    least = cluster.wait_full(home, name=job.name)
    holders = cluster.holders(home, job.name)
    expect(len({node.name in "ab" for node in holders}) == 2,
           f"two parts in one rack: {[node.name for node in holders]}")
    too_many = FilledJob(workspace, 1, 1, "replica:3")
    too_many.start_on(home)
    workspace.wait_until(lambda: "rack" in harness.read_file(too_many._file("err")),
                         "crrun's word about the racks")
    expect(cluster.session(home, too_many.name) is None, "it should not be protected")
    kill_programs(workspace)
    for node in cluster.nodes[:2]:
        cluster.kill(node)
        cluster.lose(node, job.image)
    job.restore_on(next(node for node in cluster.nodes[2:] if node not in holders))
    job.end(least)


def test_eight_nodes(workspace):
    """As many of eight nodes are lost as rs:5+3 stands, the session's own among them."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 8)
    home = cluster["a"]
    job = FilledJob(workspace, 0, 16, "rs:5+3")
    job.start_on(home)
    workspace.wait_until(job.is_ready, f"{job.name} in memory")
    least = cluster.wait_full(home, name=job.name)
    holders = cluster.holders(home, job.name)
    expect({node.name for node in holders} == set("abcdefgh"), "each node has a part")
    kill_programs(workspace)
    for node in (home, cluster["d"], cluster["g"]):
        cluster.kill(node)
        cluster.lose(node, job.image)
    job.restore_on(cluster["h"])
    job.end(least)


def test_demo_removes_its_namespaces(workspace):
    """Also where the second of them could not be connected, and ports are taken instead."""
    if not is_root(workspace):
        raise harness.Skip("network namespaces with names take root")
    fake = workspace.path / "bin"
    fake.mkdir()
    (fake / "ip").write_text('#!/bin/sh\ncase "$*" in *"link add eth0"*to-b*) exit 2 ;; esac\n'
                             f'exec {shutil.which("ip")} "$@"\n')
    (fake / "ip").chmod(0o755)
    variables = {"CR_BUILD_DIR": str(workspace.build),
                 "PATH": f"{fake}:{workspace.environment()['PATH']}"}
    demo = workspace.start(["sh", str(harness.REPO / "demos" / "store.sh")], stdout="demo.out",
                           stderr="demo.err", environment=variables)

    def said():
        expect(demo.poll() is None, f"it ended: {harness.read_file(workspace.path / 'demo.err')}")
        return "three ports of this machine" in harness.read_file(workspace.path / "demo.out")
    workspace.wait_until(said, "the demo on ports")
    left = workspace.run(["ip", "netns", "list"], check=0).stdout
    demo.terminate()
    workspace.wait_until(lambda: demo.poll() is not None, "the demo's end")
    expect(f"crdemo{demo.pid}-" not in left, f"namespaces are left:\n{left}")


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
