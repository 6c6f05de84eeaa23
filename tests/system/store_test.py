#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""store_test.py - checkpoints that survive their node: crstored, crstore, crrun --protect and
crrestore NAME on stand-in nodes (store_cluster.py).

  python3 tests/system/store_test.py 'store/loses_*' --user=root
  python3 tests/system/store_test.py --thorough

The programs that are lost with their node are those of the crash tests, which find out themselves
if what comes back is of two moments.
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "crash"))
import harness  # noqa: E402
import quick  # noqa: E402
import trees  # noqa: E402
from harness import Failure, Session, Skip, Test, User, expect, expect_match  # noqa: E402
from store_cluster import Cluster  # noqa: E402
from subject import LARGE, SMALL, Subject, Super, read_images  # noqa: E402

USERS = ("root", "nobody")
NAME = "job"
MODES = {  # how many parts there are, how many of them may be lost
    "replica:2": (2, 1), "replica:3": (3, 2), "xor:3": (3, 1), "xor:4": (4, 1),
    "rs:2+1": (3, 1), "rs:2+2": (4, 2), "rs:3+2": (5, 2),
    "rs:5+2": (7, 2),
}


# ------------------------------------------------------------------------------------- programs --


class OnNodes:
    """A Subject of the crash tests that runs on one node after the other."""

    job_name = NAME

    def wait(self, predicate, what, seconds=90.0, may_end=False):
        return super().wait(predicate, what, seconds, may_end)

    def options_on(self, protect, options):
        return ["--durable=crash", *options, "--protect", protect, "--name", self.job_name]

    def restore_on(self, node, options=()):
        """crrestore NAME; self.image is then where it puts the images if it has to."""
        self._begin("restore")
        self.image = self.directory / f"image-{self.lives}.dir"
        self.foreground = self.workspace.start(
            [self.workspace.tool("crrestore"), "-v", "--durable=crash", *self.interval, *options,
             "--dir", str(self.image), self.job_name],
            stdout="restore.out", stderr=self.error_file, environment=node.environment())

    def restored(self):
        """(epoch, sequence) of what crrestore says it brings back."""
        found = self.wait(lambda: re.search(r"restoring checkpoint (\d+)", self.errors()),
                          "crrestore's line about its checkpoint")
        return int(found.group(1))


class SingleJob(OnNodes, quick.Single):
    """One thread that takes checkpoints itself, as often as it can."""

    interval = ("-i", "off")

    def __init__(self, workspace, directory=None, name=NAME):
        super().__init__(workspace)
        self.job_name = name
        self.error_name = name  # of the files of crrun's messages
        if directory is not None:
            self.directory = directory
            self.image, self.status = directory / "image.dir", directory / "status"

    def _begin(self, name):
        super()._begin(f"{self.error_name}-{name}")

    def start_on(self, node, protect, options=()):
        self.options = self.options_on(protect, [*self.interval, *options])
        self.start_single(node.environment())
        self.wait(lambda: self.records()[0] > 2, "the first checkpoints")

    def check_restored_from(self, sequence, _epoch):
        self.wait(lambda: self.records()[0] > sequence, "progress after the restore")
        self.check_output()

    def runs_on(self):
        before = self.records()[0]
        self.wait(lambda: self.records()[0] > before + 3, "progress")
        self.check_output()


class InvariantJob(OnNodes, Subject):
    """Four threads that check each other."""

    interval = ("-i", "0.1")

    def start_on(self, node, protect, options=()):
        self.start(node.environment(), self.options_on(protect, [*self.interval, *options]))
        self.progress("progress of all threads under crrun")

    def check_restored_from(self, sequence, epoch):
        self.check_restored(Super(1, epoch, sequence, 0))

    def runs_on(self):
        self.progress()
        self.check_output()

    def end(self):
        self.finish()


class TreeJob(Session):
    """Three processes that pass a token round; the images of two are in members/."""

    interval = ("-i", "0.1")

    def __init__(self, workspace):
        super().__init__(workspace, [workspace.program("tree_steps")])

    def start_on(self, node, protect, options=()):
        self.foreground = self.workspace.start(
            [self.workspace.tool("crrun"), "-d", self.image, "--durable=crash", *self.interval,
             "--protect", protect, "--name", NAME, *options, "--", *self.command],
            environment=node.environment())
        self.name = "crrun"
        self.wait_ready()
        trees.steps_go_on(self.workspace, self)

    def restore_on(self, node, options=()):
        self.restores += 1
        self.image = str(self.workspace.path / f"image-{self.restores}.dir")
        self.foreground = self.workspace.start(
            [self.workspace.tool("crrestore"), "-v", "--durable=crash", *self.interval, *options,
             "--dir", self.image, NAME],
            stdout="restore.out", stderr=f"restore-{self.restores}.err",
            environment=node.environment())
        self.name = f"crrestore (restore {self.restores})"

    def errors(self):
        return harness.read_file(self.workspace.path / f"restore-{self.restores}.err")

    def restored(self):
        return int(self.workspace.wait_until(
            lambda: re.search(r"restoring checkpoint (\d+)", self.errors()) or self._ended_early(),
            "crrestore's line about its checkpoint").group(1))

    def _ended_early(self):
        if self.ended():
            raise Failure(f"{self.name} {self.ending()}")

    def check_restored_from(self, _sequence, _epoch):
        self.runs_on()

    def runs_on(self):
        trees.steps_go_on(self.workspace, self)

    def kill_all(self):
        self.kill()
        trees.kill_rest(self.workspace)

    def describe(self):
        return self.ending() if self.ended() else self.errors()

    def end(self):
        self.go()
        self.expect_pass()
        trees.last_step(self.workspace)


# ---------------------------------------------------------------------------- nodes that are lost


def available(cluster, node):
    """sequence -> what `crstore stat` says of that checkpoint; if it was sent twice, of which it
    found the most parts (they come first)."""
    return {c["sequence"]: c for c in reversed(cluster.ask(node, "stat", NAME)["checkpoints"])}


def expect_not_enough(cluster, node, least, holders, lost):
    """crrestore says which parts it lacks or, where no part is left, which nodes, and starts
    nothing. lost: the parts' numbers."""
    workspace = cluster.workspace
    target = workspace.path / "nothing.dir"
    done = workspace.run([workspace.tool("crrestore"), "--dir", str(target), NAME], check=125,
                         environment=node.environment())
    expect(not target.exists(), f"{target} was made")
    if len(lost) == len(holders):
        for holder in holders:
            expect_match(rf"; {holder.name}: node {holder.name} at .*", done.stderr, "crrestore")
        return
    said = {int(sequence): {int(part) for part in missing.split(",")} for sequence, missing in
            re.findall(r"checkpoint (\d+): [^;]*; missing: part ([\d, ]+)", done.stderr)}
    newer = {sequence: missing for sequence, missing in said.items() if sequence >= least}
    expect(any(missing == lost for missing in newer.values()),
           f"crrestore should say that of a checkpoint >= {least} just the parts {sorted(lost)} are "
           f"missing, got:\n{done.stderr}")


def lose_nodes(cluster, job, home, count, spare):
    """The session's node and others, count in all. Returns what was whole before, and the rest of
    the holders."""
    holders = cluster.holders(home)
    least = cluster.wait_full(home, job=job)
    lost = [home] + [node for node in holders if node not in (home, spare)][:count - 1]
    for node in lost[1:]:
        cluster.lose(node)
    cluster.kill(home)
    job.kill_all()
    cluster.lose(home, job.image)
    return least, lost


def come_back(cluster, job, node, least, epoch=1):
    """crrestore NAME on the node: not older than `least`, and it goes on."""
    job.restore_on(node)
    sequence = job.restored()
    expect(sequence >= least, f"checkpoint {least} was whole, but {sequence} came back\n"
                              f"{cluster.logs()}")
    job.check_restored_from(sequence, epoch)
    return sequence


def lose_home(cluster, job, home, spare, least):
    """The session's node is lost; the program comes back on another one, and goes on to its end."""
    cluster.kill(home)
    job.kill_all()
    cluster.lose(home, job.image)
    come_back(cluster, job, spare, least)
    job.end()


def run_losses(workspace, make_job, mode, rounds):
    """As many nodes as may be lost are lost; with one more there is nothing to be had until that
    one is back."""
    harness.require_restore(workspace.user)
    parts, tolerance = MODES[mode]
    cluster = Cluster(workspace, parts + 1)
    job = make_job(workspace)
    home = cluster["a"]
    job.start_on(home, mode)
    for life in range(rounds):
        cluster.wait_full(home, job=job)
        holders = cluster.holders(home)
        spare = next(node for node in cluster.nodes if node not in holders)
        least, lost = lose_nodes(cluster, job, home, tolerance, spare)
        one_more = next(node for node in holders if node not in lost)
        if life == 0:  # later on there may be parts of a life before
            cluster.kill(one_more)
            expect_not_enough(cluster, spare, least, holders,
                              {number for number, node in enumerate(holders)
                               if node in lost or node is one_more})
            cluster.start(one_more)
        sequence = come_back(cluster, job, spare, least, epoch=life + 1)
        for node in lost:
            cluster.start(node)
        home = spare
        cluster.wait_full(home, sequence + 1, job=job)  # one of this life
        job.runs_on()
    job.end()


# ------------------------------------------------------------------------------- damaged parts --


def started(workspace, count, mode, make_job=SingleJob, options=()):
    """A cluster on whose node a the program runs, and the first checkpoint of which all parts are
    there."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, count, options)
    job = make_job(workspace)
    job.start_on(cluster["a"], mode)
    return cluster, job, cluster.wait_full(cluster["a"], job=job)


class PartFile:
    """A part as it lies in a store (src/format/part.h)."""

    def __init__(self, path):
        self.path = path
        data = path.read_bytes()
        self.whole = struct.unpack_from("<Q", data, 48)[0] == 1
        self.epoch, self.sequence = struct.unpack_from("<2Q", data, 56)
        self.holder = struct.unpack_from("<I", data, 116)[0]
        rows, _, _, _, checks = struct.unpack_from("<5Q", data, 136)
        self.checks = struct.unpack_from(f"<{rows}Q", data, checks) if self.whole else ()

    def row(self, nth):
        """The nth row that is not zeros, from the end if negative."""
        return [row for row, check in enumerate(self.checks) if check != 0][nth]

    def flip(self, row):
        with open(self.path, "r+b") as file:
            file.seek(4096 + 4096 * row + 1234)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 0x10]))


def newest_part(cluster, node):
    parts = [PartFile(path) for path in cluster.part_files(node)]
    return max((part for part in parts if part.whole), key=lambda part: part.sequence)


def settled(workspace, mode):
    """Parts of a session that has ended: cluster, job, sequence, the nodes by the parts' numbers."""
    cluster, job, _ = started(workspace, MODES[mode][0] + 1, mode)
    job.end()
    workspace.wait_until(lambda: cluster.session(cluster["a"]) is None, "the end of the session")

    def all_at_rest():
        newest = max(available(cluster, cluster["a"]).items())[1]
        return newest if all(h["nodes"] for h in newest["holders"]) else None
    newest = workspace.wait_until(all_at_rest, "all parts of the last checkpoint")
    return cluster, job, newest["sequence"], [cluster[h["nodes"][0]] for h in newest["holders"]]


def test_bit_flip(workspace):
    """A row that has changed on the disk is found, and computed from the other parts."""
    cluster, _, sequence, holders = settled(workspace, "rs:2+1")
    asked = cluster["a"]
    expect_match("every row of every part is right", cluster.crstore(asked, "verify", NAME).stdout,
                 "crstore verify")
    bad = next(node for node in holders if node is not asked)
    part = newest_part(cluster, bad)
    expect(part.sequence == sequence and holders[part.holder] is bad, f"part of {part.path}")
    row = part.row(len(part.checks) // 3)
    part.flip(row)
    said = cluster.crstore(asked, "verify", NAME, check=3).stdout
    expect_match(rf"^{bad.name}: part {part.holder} of checkpoint {sequence}: row {row}: ", said,
                 "crstore verify")
    whole = workspace.path / "got.dir"
    cluster.crstore(asked, "get", NAME, whole)
    workspace.run([workspace.tool("crinspect"), "verify", str(whole)], check=0)
    cluster.crstore(asked, "repair", NAME)
    cluster.crstore(asked, "verify", NAME)
    newest_part(cluster, bad).flip(row)
    other = next(node for node in holders if node not in (asked, bad))
    newest_part(cluster, other).flip(row)
    too_much = workspace.path / "too_much.dir"
    done = cluster.crstore(asked, "get", NAME, too_much, check=1)
    expect_match(rf"checkpoint {sequence}: .*row", done.stderr, "crstore get")
    expect(not too_much.exists(), "crstore get left a directory that is not whole")


def test_bit_flip_of_replica(workspace):
    """The same where each part is a copy; crrestore on another node goes on from the good one."""
    cluster, job, sequence, holders = settled(workspace, "replica:2")
    bad = next(node for node in holders if node.name != "a")
    part = newest_part(cluster, bad)
    part.flip(part.row(7))
    expect_match(rf"^{bad.name}: part {part.holder} of checkpoint {sequence}: row {part.row(7)}: ",
                 cluster.crstore(cluster["a"], "verify", NAME, check=3).stdout, "crstore verify")
    spare = next(node for node in cluster.nodes if node not in holders)
    pathlib.Path(f"{job.status}.stop").unlink()
    come_back(cluster, job, spare, sequence)
    job.end()


def test_damaged_header(workspace):
    """A part whose header, description or checksums are damaged does not count."""
    cluster, _, sequence, holders = settled(workspace, "rs:2+1")
    bad = next(node for node in holders if node.name != "a")
    part = newest_part(cluster, bad)
    with open(part.path, "r+b") as file:
        file.seek(100)
        file.write(b"?!")
    newest = available(cluster, cluster["a"])[sequence]
    expect(newest["parts"] == 2 and newest["whole"], f"two of three parts are whole: {newest}")
    cluster.crstore(cluster["a"], "get", NAME, workspace.path / "got.dir")


# --------------------------------------------------------------------- agents that die or hang ---


def expect_whole(cluster, node, least):
    """From what the nodes have, asked at this one, a checkpoint can be made that is not older."""
    target = cluster.workspace.path / "whole.dir"

    def got_it():  # of a session that does nothing but take checkpoints each may be written over
        done = cluster.crstore(node, "--json", "get", NAME, target, check=None)
        if done.returncode == 0:
            return json.loads(done.stdout)
        expect_match("written over it faster than it can be read", done.stderr, "crstore get")
        return None
    got = cluster.workspace.wait_until(got_it, "a checkpoint that can be had")
    expect(got["sequence"] >= least, f"checkpoint {least} was whole, the newest is now "
                                     f"{got['sequence']}\n{cluster.logs()}")
    cluster.workspace.run([cluster.workspace.tool("crinspect"), "verify", str(target)], check=0)
    shutil.rmtree(target)


def die_at(cluster, node, point, nth):
    """Starts crstored anew, to die there."""
    cluster.restart(node, environment={"CR_FAULT": f"{point}:{nth}"})
    cluster.workspace.wait_until(lambda: not node.is_running(), f"death at {point}:{nth}")
    expect(node.popen.returncode == -signal.SIGKILL,
           f"crstored should be killed at {point}:{nth}, it ended with "
           f"{node.popen.returncode}:\n{cluster.logs()}")


def run_fault_point(workspace, who, point, nths, mode="rs:2+1"):
    """crstored dies there, the nth time, of the session's node (source) or of a neighbour (holder):
    its part is the old one or the new one, and so are all of them together. At last the session's
    node is lost."""
    cluster, job, _ = started(workspace, MODES[mode][0] + 1, mode)
    home = cluster["a"]
    holders = cluster.holders(home)
    others = [node for node in holders if node is not home]
    spare = next(node for node in cluster.nodes if node not in holders)
    dies = home if who == "source" else others[0]
    for nth in nths:
        least = cluster.wait_full(home, job=job)
        die_at(cluster, dies, point, nth)
        parts = [part for part in map(PartFile, cluster.part_files(dies)) if part.whole]
        expect(parts and max(part.sequence for part in parts) >= least,
               f"{point}:{nth}: a part of checkpoint {least} at least should be whole")
        expect_whole(cluster, spare, least)
        job.runs_on()
        if nth != nths[-1] or dies is not home:
            cluster.start(dies)
            expect_no_damage(cluster, spare)
    if dies is not home:
        least = cluster.wait_full(home, job=job)
    lose_home(cluster, job, home, spare, least)


def expect_no_damage(cluster, node):
    """crstore verify of a session that runs: parts may be missing, no row may be damaged."""
    done = cluster.crstore(node, "--json", "verify", NAME, check=None)
    expect(done.returncode in (0, 3), f"crstore verify: {done.returncode} {done.stderr}")
    bad = json.loads(done.stdout)["bad"]
    expect(not any("row" in line for line in bad), f"crstore verify: {bad}")


def test_asked_while_it_runs(workspace):
    """Tools that look at a session whose checkpoints are written over while they look find no damage,
    and what they bring is whole. It may be that nothing stays long enough to be brought."""
    cluster, job, least = started(workspace, 3, "rs:2+1")
    target = workspace.path / "got.dir"
    for node in cluster.nodes:
        for _ in range(2):
            cluster.crstore(node, "verify", NAME)
            listed = {s["name"]: s for s in cluster.ask(node, "ls")["sessions"]}
            expect(any(c["whole"] for c in listed[NAME]["checkpoints"]), f"crstore ls: {listed}")
            expect(any(c["whole"] for c in available(cluster, node).values()), "crstore stat")
            done = cluster.crstore(node, "get", NAME, target, check=None)
            if done.returncode != 0:
                expect_match("newer checkpoints are written over it faster than it can be read",
                             done.stderr, "crstore get")
                expect(not target.exists(), "crstore get left something")
                continue
            workspace.run([workspace.tool("crinspect"), "verify", str(target)], check=0)
            shutil.rmtree(target)
    script = harness.REPO / "tools" / "completion" / "checkpoint_restore.bash"
    shutil.copy(script, workspace.path / "completion.bash")
    done = workspace.run(
        ["bash", "-c", f"PATH={workspace.build}/bin:$PATH; . ./completion.bash; COMP_CWORD=2; "
         "COMP_WORDS=(crstore stat ''); _checkpoint_restore crstore '' stat; echo ${COMPREPLY[@]}"],
        environment=cluster["a"].environment(), check=0)
    expect((done.stdout, done.stderr) == (f"{NAME}\n", ""), f"a session is completed: {done}")
    cluster.wait_full(cluster["a"], least + 1, job=job)
    job.end()


def test_repair_while_it_runs(workspace):
    """Rows that do not change stay damaged from checkpoint to checkpoint, until crstore repair."""
    cluster, job, _ = started(workspace, 3, "rs:2+1")
    home = cluster["a"]
    bad = next(node for node in cluster.holders(home) if node is not home)
    harness.signal_pid(bad.popen.pid, signal.SIGSTOP)
    workspace.wait_until(lambda: harness.process_state(bad.popen.pid) == "T", "a stop of crstored")
    part = newest_part(cluster, bad)  # at least one of the two buffers is not being written
    row = part.row(len(part.checks) // 3)
    for path in cluster.part_files(bad):
        part.path = path
        if path.stat().st_size > 4096 * (row + 2):  # else it is being filled anew
            part.flip(row)
    harness.signal_pid(bad.popen.pid, signal.SIGCONT)
    said = cluster.crstore(home, "verify", NAME, check=3).stdout
    expect_match(rf"^{bad.name}: part {part.holder} of checkpoint \d+: row {row}: ", said,
                 "crstore verify")
    job.runs_on()
    cluster.crstore(home, "verify", NAME, check=3)
    cluster.crstore(home, "repair", NAME)
    expect_no_damage(cluster, home)
    cluster.wait_full(home, job.records()[1], job=job)
    job.end()


def test_comes_back_during_a_transfer(workspace):
    """A program dies and comes back on its node while a holder hangs that was offered a part: the
    holder takes the next one, and does not wait for the rest of that."""
    cluster, job, _ = started(workspace, 2, "replica:2", options=("--silence", "60"))
    home, other = cluster["a"], cluster["b"]
    harness.signal_pid(other.popen.pid, signal.SIGSTOP)
    workspace.wait_until(lambda: harness.process_state(other.popen.pid) == "T", "a stop of crstored")
    job.runs_on()
    cluster.wait_session(home, lambda session: session["safe"] is False, "a transfer that hangs",
                         job=job)
    time.sleep(0.3)
    job.kill_all()
    sequence = come_back(cluster, job, home, 1)
    job.runs_on()
    harness.signal_pid(other.popen.pid, signal.SIGCONT)
    cluster.wait_full(home, sequence + 1, job=job)
    job.end()


def test_lost_holder_is_replaced(workspace):
    """Another node gets the part of one that stays away; then one more may be lost."""
    cluster, job, _ = started(workspace, 4, "rs:2+1", options=("--repair-after", "1"))
    home = cluster["a"]
    holders = cluster.holders(home)
    lost = next(node for node in holders if node is not home)
    spare = next(node for node in cluster.nodes if node not in holders)
    cluster.lose(lost)
    cluster.wait_session(home, lambda session: spare.name in {p["node"] for p in session["parts"]},
                         "another holder", job=job)
    least = cluster.wait_full(home, job=job)
    cluster.kill(home)
    job.kill_all()
    cluster.lose(home, job.image)
    come_back(cluster, job, spare, least)
    job.end()


def test_lost_session_is_repaired(workspace):
    """Nobody restores a session whose node is lost: the others see to it that all its parts are there
    again, so one more may be lost."""
    cluster, job, _ = started(workspace, 4, "rs:2+1", options=("--repair-after", "1"))
    home = cluster["a"]
    holders = cluster.holders(home)
    one, _ = (node for node in holders if node is not home)
    spare = next(node for node in cluster.nodes if node not in holders)
    least = cluster.wait_full(home, job=job)
    cluster.kill(home)
    job.kill_all()
    cluster.lose(home, job.image)

    def repaired():
        time.sleep(0.3)
        return any(c["parts"] == c["of"] and c["sequence"] >= least
                   for c in available(cluster, spare).values())
    workspace.wait_until(repaired, f"all parts of a checkpoint >= {least} on the other nodes")
    cluster.lose(one)
    come_back(cluster, job, spare, least)
    job.end()


def test_rebuilt_by_half(workspace):
    """crstored dies while it makes an image: that does not count, and the next one is whole."""
    cluster, _, sequence, _ = settled(workspace, "rs:2+1")
    node, target = cluster["b"], workspace.path / "got.dir"
    cluster.restart(node, environment={"CR_FAULT": "image_made"})
    cluster.crstore(node, "get", NAME, target, check=1)
    workspace.wait_until(lambda: not node.is_running(), "death at image_made")
    done = workspace.run([workspace.tool("crrestore"), str(target)], check=125)
    expect_match("whole", done.stderr, "crrestore")
    cluster.start(node)
    done = cluster.crstore(node, "get", NAME, target, check=1)
    expect_match(rf"{target}: File exists; name another directory", done.stderr, "crstore get")
    shutil.rmtree(target)
    expect_whole(cluster, node, sequence)


def test_restart_keeps_what_is_safe(workspace):
    """A holder was away and has an older checkpoint than the other. A crstored that is started then
    must not have that one written over while the next is on its way."""
    def make_job(workspace):
        job = InvariantJob(workspace)
        job.interval = ("-i", "0.8")
        return job
    cluster, job, _ = started(workspace, 4, "rs:2+1", make_job)
    home = cluster["a"]
    holders = cluster.holders(home)
    away, other = (node for node in holders if node is not home)
    spare = next(node for node in cluster.nodes if node not in holders)
    least = cluster.wait_full(home, job=job)
    harness.signal_pid(away.popen.pid, signal.SIGSTOP)

    def newer_there(session):
        return session["parts"][holders.index(other)]["sequence"] > least + 1
    cluster.wait_session(home, newer_there, "newer parts on the other node", job=job)
    cluster.kill(home)  # most probably between two transfers
    harness.signal_pid(away.popen.pid, signal.SIGCONT)
    die_at(cluster, home, "rows_sent", 1)
    job.kill_all()
    cluster.lose(home, job.image)
    come_back(cluster, job, spare, least)
    job.end()


def test_stopped_agents(workspace):
    """Checkpoints go on while crstored does not, here or on a neighbour."""
    cluster, job, _ = started(workspace, 3, "rs:2+1")
    home = cluster["a"]
    for node in (home, next(n for n in cluster.holders(home) if n is not home)):
        harness.signal_pid(node.popen.pid, signal.SIGSTOP)
        until = time.monotonic() + 3.0  # longer than --silence
        before = job.records()[1]
        job.wait(lambda before=before, until=until:
                 job.records()[1] > before + 10 and time.monotonic() > until,
                 f"checkpoints while {node.name} hangs")
        job.check_output()
        harness.signal_pid(node.popen.pid, signal.SIGCONT)
        cluster.wait_full(home, job.records()[1], job=job)
    job.end()


def test_network_comes_late(workspace):
    """crstored starts before its cable is in, as it may when a machine starts: it says so, and goes on
    when it is."""
    cluster = Cluster(workspace, 2, start=False)
    harness.require_restore(workspace.user)
    home, other = cluster.nodes
    cluster.cut(home)
    cluster.wait_no_carrier(home)
    for node in (home, other):
        cluster.start(node)
    job = SingleJob(workspace)
    job.start_on(home, "replica:2")
    workspace.wait_until(lambda: "is not running; check its cable" in job.errors(),
                         "crrun's word about the network")
    expect_match("network interface eth0 of this node .10.0.0.1. is not running", home.said(),
                 "crstored")
    cluster.heal(home)
    cluster.wait_full(home, job=job)
    job.end()


def test_restarted_agents(workspace):
    """crstored ends when it is told to, and after that or a kill nothing is lost that it kept."""
    cluster, _, sequence, holders = settled(workspace, "rs:2+1")
    for node in cluster.nodes:
        harness.signal_pid(node.popen.pid, signal.SIGTERM)
    for node in cluster.nodes:
        expect(node.popen.wait(timeout=20 * harness.SLOWNESS) == 0,
               f"crstored ended with {node.popen.returncode}:\n{cluster.logs()}")
        cluster.start(node)
    for node in cluster.nodes:
        cluster.restart(node)
    newest = available(cluster, holders[1])[sequence]
    expect(newest["parts"] == 3, f"all parts of checkpoint {sequence} should be there: {newest}")
    cluster.crstore(cluster["d"], "verify", NAME)


def run_chaos(workspace, mode, seed, rounds):
    """Agents are killed and cables are pulled at any time: the program does not notice, and what was
    whole stays."""
    choose = random.Random(f"{seed} {mode}")
    cluster, job, least = started(workspace, MODES[mode][0] + 1, mode)
    home = cluster["a"]
    begin_end = {
        "kill": (lambda node, _: cluster.kill(node), lambda node, _: cluster.start(node)),
        "stop": (lambda node, _: harness.signal_pid(node.popen.pid, signal.SIGSTOP),
                 lambda node, _: harness.signal_pid(node.popen.pid, signal.SIGCONT)),
        "cut": (lambda node, _: cluster.cut(node), lambda node, _: cluster.heal(node)),
        "part": (cluster.part, cluster.join),
    }
    actions = ("kill", "kill", "stop", *(("cut", "part") if cluster.in_namespaces else ()))
    try:
        for _ in range(rounds):
            node, other = choose.sample(cluster.nodes, 2)
            begin, end = begin_end[choose.choice(actions)]
            begin(node, other)
            time.sleep(choose.choice((0.02, 0.3, 1.2, 2.5)) * choose.random())
            end(node, other)
            job.runs_on()
            if choose.random() < 0.3:
                least = cluster.wait_full(home, least + 1, job=job)
        least = cluster.wait_full(home, job.records()[1], job=job)
        holders = cluster.holders(home)
        spare = next(node for node in cluster.nodes if node not in holders)
        least, _ = lose_nodes(cluster, job, home, MODES[mode][1], spare)
        come_back(cluster, job, spare, least)
        job.end()
    except Failure as failure:
        raise Failure(f"--seed={seed}\n{failure}\n{cluster.logs()}") from None


# ------------------------------------------------------------------------------- wrong neighbours


def test_wrong_key(workspace):
    """A node with another key, or of another cluster, is refused: said once, and seen in the status;
    with the right one all is well."""
    cluster = Cluster(workspace, 2, start=False)
    other_key = workspace.path / "other.key"
    workspace.run([workspace.tool("crstored"), "--make-key", str(other_key)], check=0)
    harness.require_restore(workspace.user)
    home, other = cluster.nodes
    cluster.start(home)
    cluster.start(other, options=("--key", str(other_key)))
    job = SingleJob(workspace)
    job.start_on(home, "replica:2")
    for said, options in ((r"key", ("--key", str(other_key))), (r"cluster", ("--cluster", "zoo"))):
        cluster.restart(other, options=options)

        def refused(said=said):
            state = next(n["state"] for n in cluster.ask(home, "status")["nodes"]
                         if n["name"] == other.name)
            return re.search(said, state)
        workspace.wait_until(refused, f"a refusal because of the {said} in the status")
        time.sleep(2.5)  # some more attempts
        expect(cluster.session(home)["parts"][0]["sequence"] > 0
               or cluster.session(home)["parts"][1]["sequence"] > 0, "its own part is made")
        lines = [line for line in home.said().splitlines() if re.search(said, line)]
        expect(1 <= len(lines) <= 2, f"one line about the {said}, got:\n" + "\n".join(lines))
        job.runs_on()
    cluster.restart(other)
    cluster.wait_full(home, job.records()[1], job=job)
    job.end()


def test_garbage(workspace):
    """Whatever comes to the port, crstored goes on."""
    cluster, job, _ = started(workspace, 2, "replica:2")
    home, other = cluster.nodes
    choose = random.Random(7)
    script = ("import socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
              "s.settimeout(0.2)\n"
              "try:\n    s.sendall(bytes.fromhex(sys.argv[3]))\n    s.recv(100)\n"
              "except OSError:\n    pass\n")
    for number in range(12):
        if number % 3 == 0:
            data = b"GET / HTTP/1.0\r\n\r\n"
        elif number % 3 == 1:
            data = choose.randbytes(choose.choice((1, 16, 300, 20000)))
        else:
            data = bytes(choose.randrange(1, 400))
        workspace.run([*home.inside, "python3", "-c", script, other.host, str(other.port),
                       data.hex()], check=0)
        expect(other.is_running(), f"crstored died of {data[:40].hex()}:\n{cluster.logs()}")
    cluster.wait_full(home, job.records()[1], job=job)
    job.end()


# ------------------------------------------------------------------------- stores without room ---


def small_store(cluster, node, size):
    """The node's store is a small file system, in a mount namespace of its own. Before its start."""
    holder = cluster.holder("--mount", "--propagation", "private")
    node.store.mkdir()
    node.inside = [*node.inside[:-1], f"--mount=/proc/{holder.pid}/ns/mnt",
                   f"--wdns={cluster.workspace.path}", "--"]
    mounted = cluster.workspace.run([*node.inside, "mount", "-t", "tmpfs", "-o",
                                     f"size={size},mode=700", "none", str(node.store)])
    if mounted.returncode != 0:
        raise Skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")


def is_root(workspace):
    return os.geteuid() == 0 and workspace.user.uid is None


def degrades(cluster, job, expression, spoil, repair):
    """A neighbour's store refuses: that is said once, seen in the status, and the program goes on;
    when the store is good again the parts come by themselves."""
    home = cluster["a"]
    spoil()

    def troubled(session):
        return any(re.search(expression, part["trouble"]) for part in session["parts"])
    cluster.wait_session(home, troubled, f"a trouble /{expression}/", job=job)
    time.sleep(2.0)  # some more attempts
    job.runs_on()
    lines = [line for line in job.errors().splitlines() if re.search(expression, line)]
    expect(len(lines) == 1, f"crrun should say /{expression}/ once, got:\n{job.errors()}")
    repair()
    cluster.wait_full(home, cluster.session(home)["sequence"], job=job)
    cluster.workspace.wait_until(lambda: "has all its parts again" in job.errors(),
                                 "crrun's good news")
    job.end()


def test_full_store(workspace):
    """A disk without room, as a small file system."""
    harness.require_restore(workspace.user)
    if not is_root(workspace):
        raise Skip("mounting a small file system takes root")
    cluster = Cluster(workspace, 2, start=False)
    small_store(cluster, cluster["b"], "3m")
    for node in cluster.nodes:
        cluster.start(node)
    job = InvariantJob(workspace, size=SMALL)
    degrades(cluster, job, "No space left on device",
             lambda: job.start_on(cluster["a"], "replica:2"),
             lambda: workspace.run([*cluster["b"].inside, "mount", "-o", "remount,size=100m",
                                    str(cluster["b"].store)], check=0))


def test_read_only_store(workspace):
    """A store that may not be written to: of root's from the start, of others' from some time on."""
    if is_root(workspace):
        cluster = Cluster(workspace, 2, start=False)
        node = cluster["b"]
        small_store(cluster, node, "100m")
        workspace.run([*node.inside, "mount", "-o", "remount,ro", str(node.store)], check=0)
        done = workspace.run([*node.inside, workspace.tool("crstored"), "--store", str(node.store),
                              "--socket", str(node.socket)], check=1)
        expect_match(rf"^crstored: {node.store}: .*Read-only file system; .*--store", done.stderr,
                     "crstored")
        return
    cluster, job, _ = started(workspace, 2, "replica:2", InvariantJob)
    parts = cluster.part_files(cluster["b"])
    directory = parts[0].parent

    def spoil():
        for path in cluster.part_files(cluster["b"]):
            path.chmod(0o400)
        directory.chmod(0o500)

    def repair():
        directory.chmod(0o700)
        for path in cluster.part_files(cluster["b"]):
            path.chmod(0o600)
    degrades(cluster, job, "Permission denied", spoil, repair)


# ------------------------------------------------------------------------------- many and large --


def test_two_sessions(workspace):
    """On two nodes that keep each other's parts; one is lost, with its node."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 3)
    jobs = []
    for node in cluster.nodes[:2]:
        directory = workspace.path / f"of-{node.name}"
        directory.mkdir()
        workspace.user.give(directory)
        job = SingleJob(workspace, directory=directory, name=f"job-{node.name}")
        job.start_on(node, "rs:2+1")
        jobs.append(job)
    first, second = jobs
    least = [cluster.wait_full(node, name=job.job_name, job=job)
             for node, job in zip(cluster.nodes, jobs)]
    listed = {s["name"] for s in cluster.ask(cluster["c"], "ls")["sessions"]}
    expect(listed == {"job-a", "job-b"}, f"crstore ls: {listed}")
    cluster.kill(cluster["a"])
    first.kill_pids([first.foreground.pid, *first.pids()])
    first.wait(first.ended, "death of the first", may_end=True)
    cluster.lose(cluster["a"], first.image)
    come_back(cluster, first, cluster["c"], least[0])
    second.runs_on()
    first.runs_on()
    for job in jobs:
        job.end()


def test_larger_than_dram(workspace):
    """The memory that crstored lends is less than what comes in."""
    cluster, job, least = started(workspace, 3, "replica:2", options=("--dram", "8M"),
                                  make_job=lambda w: InvariantJob(w, size=LARGE))
    image = sum(path.stat().st_size for path in pathlib.Path(job.image).glob("image.*"))
    expect(image > 16 << 20, f"an image of {image} bytes")
    home = cluster["a"]
    other = next(node for node in cluster.holders(home) if node is not home)
    least = cluster.wait_full(home, least + 1, job=job)
    cluster.kill(home)
    job.kill_all()
    cluster.lose(home, job.image)
    come_back(cluster, job, other, least)
    job.end()


# ----------------------------------------------------------------------------------- who may what


def test_other_users(workspace):
    """root's crstored serves all; each user sees and gets only sessions of its own."""
    if not is_root(workspace):
        raise Skip("needs root, to be several users")
    workspace.path.chmod(0o755)
    cluster = Cluster(workspace, 1, options=("--for-all-users",))
    node = cluster["a"]
    owner, stranger = User("nobody", 65534), User("stranger", 54321)
    harness.require_restore(owner)
    program = [workspace.tool("crrun"), "-d", str(workspace.path / "theirs" / "image.dir"), "-i",
               "0.2", "--protect", "none", "--name", "secret", "--", "/usr/bin/sleep", "600"]
    (workspace.path / "theirs").mkdir()
    owner.give(workspace.path / "theirs")
    workspace.user = owner
    workspace.start(program, environment=node.environment())
    cluster.workspace.wait_until(lambda: "secret" in cluster.crstore(node, "ls").stdout,
                                 "the session in its owner's list")
    target = workspace.path / "theirs" / "got.dir"
    cluster.crstore(node, "get", "secret", target)
    expect(target.stat().st_uid == owner.uid, f"{target} belongs to {target.stat().st_uid}")
    workspace.user = stranger
    for request in (("ls",), ("status",)):
        expect("secret" not in cluster.crstore(node, *request).stdout,
               f"crstore {request[0]} shows another user's session")
        expect("secret" not in json.dumps(cluster.ask(node, *request)),
               f"crstore --json {request[0]} shows another user's session")
    for request in (("stat", "secret"), ("verify", "secret"), ("rm", "secret"), ("place", "secret"),
                    ("get", "secret", "/tmp/nothing")):
        done = cluster.crstore(node, *request, check=1)
        expect_match(r"secret: no node .*keeps|no session secret", done.stderr, f"crstore {request[0]}")
    workspace.user = User("root")
    for request in ("ls", "status"):
        expect("secret" in cluster.crstore(node, request).stdout, f"root's crstore {request}")
    cluster.crstore(node, "rm", "secret")
    for pid in workspace.processes():
        harness.signal_pid(pid, signal.SIGKILL)


def test_no_crstored(workspace):
    """The program runs, there is one message; a crstored that comes later takes the session."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 2, start=False)
    home = cluster["a"]
    job = SingleJob(workspace)
    job.start_on(home, "replica:2")
    time.sleep(2.5)
    job.runs_on()
    said = job.errors().splitlines()
    expect(len(said) == 1, f"crrun should say one thing, got:\n{job.errors()}")
    expect_match(rf"{home.socket}: no crstored answers there .*start one", said[0], "crrun")
    for node in cluster.nodes:
        cluster.start(node)
    cluster.wait_full(home, job=job)
    job.end()


def test_tools(workspace):
    """What crstore and crstored say of a session, and of requests that are wrong."""
    cluster, _, sequence, holders = settled(workspace, "rs:2+1")
    home = cluster["a"]
    expect_match(rf"{NAME} .*rs:2\+1 +{sequence} +3/3", cluster.crstore(home, "ls").stdout, "crstore ls")
    stat = cluster.crstore(home, "stat", NAME).stdout
    for number, node in enumerate(holders):
        expect_match(rf"part +{number} +{node.name} ", stat, "crstore stat")
    for request, expression in ((("stat", "no-such"), "no-such: no node that can be reached"),
                                (("get", NAME, workspace.path), "name another directory"),
                                (("get", NAME, "/proc/x/y"), "/proc/x/y: "),
                                (("--sequence", "999999", "get", NAME, "x"), "999999 cannot be had")):
        expect_match(expression, cluster.crstore(home, *request, check=1).stderr,
                     f"crstore {' '.join(map(str, request))}")
    other = next(node for node in cluster.nodes if node is not home)
    done = workspace.run([workspace.tool("crstored"), "--store", str(home.store), "--socket",
                          str(workspace.path / "other.sock")], check=1)
    expect_match(f"{home.store}: another crstored uses this store", done.stderr, "crstored")
    done = workspace.run([workspace.tool("crstored"), "--store", str(workspace.path / "new"),
                          "--socket", str(home.socket)], check=1)
    expect_match(f"{home.socket}: another crstored listens there", done.stderr, "crstored")
    cluster.crstore(other, "rm", NAME)
    expect(not any(cluster.part_files(node) for node in cluster.nodes), "parts are left after rm")
    expect(cluster.ask(home, "ls")["sessions"] == [], "crstore ls after rm")


class FilledJob:
    """A small program with memory that is no zeros, one of many; it ends at its own go file."""

    def __init__(self, workspace, number, megabytes, protect, interval="2", pages=1):
        self.workspace, self.number, self.megabytes = workspace, number, megabytes
        self.protect, self.interval, self.pages = protect, interval, pages
        self.name, self.lives = f"job-{number}", 1
        self.image = workspace.path / f"{number}.dir"
        self.foreground, self.what, self.errors = None, "crrun", "err"

    def _file(self, kind):
        return self.workspace.path / f"{self.number}.{kind}"

    def _start(self, node, command):
        files = {f"CRTEST_{kind.upper()}": str(self._file(kind)) for kind in ("ready", "ping", "go")}
        self.foreground = self.workspace.start(
            command, stdout=f"{self.number}.{self.what}.out", stderr=f"{self.number}.{self.errors}",
            environment={**node.environment(), **files})

    def start_on(self, node):
        self._start(node, [self.workspace.tool("crrun"), "-d", str(self.image), "-i", self.interval,
                           "--durable=crash", "--protect", self.protect, "--name", self.name, "--",
                           self.workspace.program("filled_memory"), str(self.number + 1),
                           str(self.megabytes), str(self.pages)])

    def checkpoint(self):
        """Returns its sequence when it is committed."""
        self.workspace.run([self.workspace.tool("crckpt"), str(self.image)], check=0)
        return read_images(self.image).whole.sequence

    def restore_on(self, node):
        # Of the program's own files the restore cuts off what they have more by now.
        self.lives += 1
        self.what, self.errors = "crrestore", f"restore-{self.lives}.err"
        self.image = self.workspace.path / f"{self.number}.again-{self.lives}"
        self._start(node, [self.workspace.tool("crrestore"), "-v", "-i", "off", "--durable=crash",
                           "--dir", str(self.image), self.name])

    def is_ready(self):
        self.expect_running()
        return self._file("ready").exists()

    def expect_running(self):
        expect(self.foreground.poll() is None,
               f"{self.name}: {self.what} ended with {self.foreground.returncode}:\n"
               f"{harness.read_file(self._file('crrun.out'))}"
               f"{harness.read_file(self._file(self.errors))}")

    def runs_again(self, least):
        """Returns the sequence that it came back from, least at least."""
        def answers():
            self.expect_running()
            return not self._file("ping").exists()
        self._file("ping").touch()
        self.workspace.wait_until(answers, f"{self.name} after its restore")
        errors = harness.read_file(self._file(self.errors))
        found = re.search(r"restoring checkpoint (\d+)", errors)
        expect(found and int(found.group(1)) >= least,
               f"{self.name}: checkpoint {least} was safe, crrestore said:\n{errors}")
        return int(found.group(1))

    def end(self, least):
        """At its go file it looks at all its memory."""
        self.runs_again(least)
        self._file("go").touch()
        self.workspace.wait_until(lambda: self.foreground.poll() is not None, f"end of {self.name}")
        said, errors = (harness.read_file(self._file(kind)) for kind in ("crrun.out", self.errors))
        expect((self.foreground.returncode, said) == (0, "PASS\n"),
               f"{self.name} ended with {self.foreground.returncode}:\n{said}{errors}")


def run_many_sessions(workspace, count, megabytes, come_back_count, seed):
    """All at once on one node, their parts on its neighbours. The node is lost; all can be had, and
    some, on any other node, come back with all their memory right."""
    harness.require_restore(workspace.user)
    cluster = Cluster(workspace, 4)
    home = cluster["a"]
    jobs = [FilledJob(workspace, number, megabytes, "xor:3" if number % 4 == 3 else "replica:2")
            for number in range(count)]
    for job in jobs:
        job.start_on(home)
    for job in jobs:
        workspace.wait_until(job.is_ready, f"{job.name} in memory")

    def elsewhere():
        """What each session has on other nodes, when that is enough of each."""
        time.sleep(0.5)
        for job in jobs:
            job.expect_running()
        sessions = cluster.ask(home, "status")["sessions"]
        least = {s["name"]: min(part["sequence"] for part in s["parts"] if part["node"] != home.name)
                 for s in sessions}
        return least if len(least) == count and min(least.values()) > 0 else None
    least = workspace.wait_until(elsewhere, f"{count} sessions that are safe on other nodes")
    cluster.kill(home)
    for pid in workspace.processes():
        harness.signal_pid(pid, signal.SIGKILL)
    workspace.wait_until(lambda: not workspace.processes(), "the end of all programs")
    cluster.lose(home, *(job.image for job in jobs))
    bytes_of = {s["name"]: max((c["image_bytes"] for c in s["checkpoints"] if c["whole"]), default=0)
                for s in cluster.ask(cluster["b"], "ls")["sessions"]}
    few = [job.name for job in jobs if bytes_of.get(job.name, 0) < megabytes << 20]
    expect(not few, f"of {few} no checkpoint can be had that has {megabytes} MiB\n{cluster.logs()}")
    choose = random.Random(f"{seed} many")
    for job in choose.sample(jobs, come_back_count):
        job.restore_on(choose.choice(cluster.nodes[1:]))
        try:
            job.end(least[job.name])
        except Failure as failure:
            raise Failure(f"--seed={seed}\n{failure}\n{cluster.logs()}") from None


# Of src/os/fault.h: where each node can die that takes a part in, and where the session's.
HOLDER_POINTS = ("part_locked", "part_received", "part_written", "part_committed", "part_answered")
SOURCE_POINTS = ("offers_sent", "rows_sent", "commit_sent", "own_committed", "transfer_settled")
QUICK_POINTS = {("holder", "part_written"), ("holder", "part_committed"), ("source", "rows_sent"),
                ("source", "commit_sent")}
QUICK_LOSSES = {  # what make check runs: the kinds of program for each mode and user
    ("root", "single"): tuple(MODES), ("root", "invariant"): ("rs:3+2",),
    ("root", "tree"): ("rs:2+1",), ("nobody", "single"): ("replica:2", "rs:2+2"),
    ("self", "single"): tuple(MODES), ("self", "tree"): ("rs:2+1",),
}


def tests(thorough=False, seed=1):
    """All tests, as harness.Test: each function of this file that is named test_*, and what is there
    in several kinds."""
    result = harness.tests_of(globals(), "store", __file__, USERS, timeout=120.0)

    def add(name, function, users=USERS, timeout=120.0):
        for user in harness.usable_users(
                [name for name in users if name != "self" or os.geteuid() != 0]):
            repeat = f"python3 tests/system/store_test.py --thorough {name} --user={user.name}" + \
                     (f" --seed={seed}" if "chaos" in name or "hundred" in name else "")
            result.append(Test(name, user, function, repeat, timeout=timeout))
    jobs = {"single": SingleJob, "invariant": InvariantJob, "tree": TreeJob}
    for mode in MODES:
        plain = re.sub("[:+]", "_", mode)
        for kind, make_job in jobs.items():
            users = [user for user in ("root", "nobody", "self")
                     if thorough or mode in QUICK_LOSSES.get((user, kind), ())]
            add(f"store/loses_{plain}/{kind}",
                lambda workspace, make_job=make_job, mode=mode:
                run_losses(workspace, make_job, mode, 2 if thorough else 1), users)
        if thorough or mode in ("replica:2", "rs:2+1"):
            add(f"store/chaos_{plain}", lambda workspace, mode=mode:
                run_chaos(workspace, mode, seed, 60 if thorough else 8), timeout=300.0)
    points = [("holder", point) for point in HOLDER_POINTS]
    points += [("source", point) for point in (*HOLDER_POINTS[:-1], *SOURCE_POINTS)]
    for who, point in points:
        if thorough or (who, point) in QUICK_POINTS:
            add(f"store/{who}_dies/{point}", lambda workspace, who=who, point=point:
                run_fault_point(workspace, who, point, (1, 2, 3, 5, 8) if thorough else (1, 2)),
                USERS if thorough else ("root", "self"))
    for who, point in (("holder", "part_written"), ("source", "rows_sent")):
        add(f"store/{who}_of_copies_dies/{point}", lambda workspace, who=who, point=point:
            run_fault_point(workspace, who, point, (1, 2), "replica:3"), ("root", "self"))
    if thorough:
        add("store/hundred_sessions",
            lambda workspace: run_many_sessions(workspace, 100, 10, 8, seed), ("root",), 600.0)
    return result


def main():
    parser = argparse.ArgumentParser(description="Tests the node store.")
    harness.add_common_arguments(parser)
    parser.add_argument("--thorough", action="store_true", help="also what make check leaves out")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30),
                        help="of what is chosen at random (default: another one each time)")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    return harness.run_main(tests(arguments.thorough, arguments.seed), arguments)


if __name__ == "__main__":
    sys.exit(main())
