#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""shared_memory_test.py - shared memory at a restore where not everything is as it was: files and
segments that are gone, changed, shorter or taken, images that are damaged, little staging memory.

  python3 tests/system/shared_memory_test.py shared/'*segment*' --user=nobody
"""

import argparse
import contextlib
import ctypes
import functools
import json
import mmap
import os
import pathlib
import re
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Session, expect, expect_match  # noqa: E402

USERS = ("root", "nobody")
MIB = 2
IPC_PRIVATE, IPC_RMID = 0, 0
POSIX = pathlib.Path("/dev/shm")


def holder(workspace, kind, name="shared.bin", mib=MIB, options=(), then="kill"):
    """A session of shared_holder that was checkpointed, and is dead unless then=continue."""
    harness.require_restore(workspace.user)
    command = [workspace.program("shared_holder"), kind, str(name), str(mib)]
    session = Session(workspace, command, ("-i", "off", *options))
    session.start()
    session.wait_ready()
    session.checkpoint(then=then)
    if then == "kill":
        session.wait_end(137)
    return session


def go_on(session):
    """Restores it; its memory must be as it was. Returns what crrestore said."""
    session.restore()
    session.go()
    session.expect_pass()
    session.verify_image()
    return harness.read_file(session.workspace.path / f"restore-{session.restores}.err")


def refused(workspace, session, expression, *words):
    done = workspace.run([workspace.tool("crrestore"), "-i", "off", *words, session.image], check=125)
    expect_match(expression, done.stderr, "crrestore's message")


def is_privileged(workspace):
    return workspace.user.uid is None and os.geteuid() == 0


# ---- files ---------------------------------------------------------------------------------


def test_overwritten_file(workspace):
    """What was mapped is put back in the file, what was not stays as it is."""
    session = holder(workspace, "part")
    path = workspace.path / "shared.bin"
    before = path.read_bytes()
    path.write_bytes(b"x" * (2 * len(before)))
    go_on(session)
    after = path.read_bytes()
    expect(len(after) == len(before), f"the file has {len(after)} bytes, not {len(before)}")
    half = len(before) // 2
    expect(after[:half] == before[:half], "the mapped half is not what it was")
    expect(after[half:] == b"x" * half, "the other half was changed")


def test_removed_file(workspace):
    """A file all of which was mapped is made again, with its mode; of one that was mapped in part the
    rest is lost, and that is said."""
    session = holder(workspace, "whole")
    path = workspace.path / "shared.bin"
    before = path.read_bytes()
    path.unlink()
    done = workspace.run([workspace.tool("crrestore"), "--check-only", session.image], check=0)
    expect(not path.exists(), "--check-only made the file")
    expect_match(r"shared\.bin was gone", go_on(session) + done.stderr, "crrestore's message")
    expect(path.read_bytes() == before, "the file is not what it was")
    expect(path.stat().st_mode & 0o7777 == 0o640, f"its mode is {path.stat().st_mode:o}")


def test_removed_file_mapped_in_part(workspace):
    session = holder(workspace, "part")
    (workspace.path / "shared.bin").unlink()
    refused(workspace, session, r"shared\.bin was removed since the checkpoint.*put it back")
    expect(not (workspace.path / "shared.bin").exists(), "it was made")


def test_shorter_file(workspace):
    session = holder(workspace, "whole")
    path = workspace.path / "shared.bin"
    before = path.read_bytes()
    os.truncate(path, 5000)
    go_on(session)
    expect(path.read_bytes() == before, "the file is not what it was")


def test_shorter_file_mapped_in_part(workspace):
    session = holder(workspace, "part")
    path = workspace.path / "shared.bin"
    os.truncate(path, 5000)
    refused(workspace, session, r"shared\.bin is shorter \(5000 bytes\) than at the checkpoint")
    expect(path.stat().st_size == 5000, "it was changed")


def test_renamed_file(workspace):
    session = holder(workspace, "part")
    path = workspace.path / "shared.bin"
    path.rename(workspace.path / "elsewhere")
    expect_match(r"renamed .*elsewhere back", go_on(session), "crrestore's message")
    expect(path.exists(), "it has not got its name back")


def test_replaced_by_no_file(workspace):
    session = holder(workspace, "whole")
    path = workspace.path / "shared.bin"
    path.unlink()
    os.mkfifo(path)
    refused(workspace, session, r"shared\.bin.*(no regular file|cannot be opened)")


def test_posix_memory_after_a_reboot(workspace):
    """/dev/shm is empty then. A restore that fails leaves nothing behind."""
    path = POSIX / f"crtest-{os.getpid()}-{workspace.user.name}"
    try:
        session = holder(workspace, "open", path)
        before = path.read_bytes()
        other = pathlib.Path(f"{path}.other")
        path.unlink()
        other.unlink()
        refused(workspace, session, r"\.other.*was removed since the checkpoint")
        expect(not path.exists(), "a restore that failed left the memory behind")
        other.touch()
        os.chown(other, workspace.path.stat().st_uid, -1)
        go_on(session)
        expect(path.read_bytes() == before, "the memory is not what it was")
    finally:
        for left in POSIX.glob(f"crtest-{os.getpid()}-{workspace.user.name}*"):
            left.unlink()


def test_damaged_image_changes_nothing(workspace):
    """A page of shared memory that is damaged is found before any file is written."""
    session = holder(workspace, "whole")
    path = workspace.path / "shared.bin"
    image = next(p for p in pathlib.Path(session.image).glob("image.[01]")
                 if b"S" * (256 << 10) in p.read_bytes())
    at = image.read_bytes().index(b"S" * (256 << 10)) + 12345
    with open(image, "r+b") as file:
        file.seek(at)
        file.write(b"T")
    path.write_bytes(b"y" * path.stat().st_size)
    refused(workspace, session, r"damaged: the checksum of the page")
    refused(workspace, session, r"damaged: the checksum of the page", "--check-only")
    done = workspace.run([workspace.tool("crinspect"), "verify", session.image], check=None)
    expect(done.returncode != 0 and "damaged" in done.stdout + done.stderr, "crinspect verify")
    expect(set(path.read_bytes()) == {ord("y")}, "the file was written")


RESTORE_POINTS = ("restore_planned", "restore_exec", "restore_taken", "restore_attached")


def test_killed_while_restoring(workspace):
    """Everything is killed at each point of a restore: until the program has its plan the file is as
    it was; from then on it may have put back some of it; in the end all is there."""
    session = holder(workspace, "whole")
    path = workspace.path / "shared.bin"
    before = path.read_bytes()
    for point in RESTORE_POINTS:
        path.write_bytes(b"z" * len(before))
        done = workspace.run([workspace.tool("crrestore"), "-i", "off", session.image],
                             environment={"CR_FAULT": point})
        expect(done.returncode == -9, f"{point}: crrestore ended with {done.returncode}")
        workspace.run(["sleep", "0.2"])  # the killed program is gone
        now = path.read_bytes()
        if point == "restore_taken":
            expect(len(now) == len(before), f"{point}: the file has {len(now)} bytes")
            for at in range(0, len(now), 4096):
                expect(now[at:at + 4096] in (b"z" * 4096, before[at:at + 4096]),
                       f"{point}: the page at {at} is neither what it was nor what it is to be")
        elif point != "restore_attached":
            expect(set(now) == {ord("z")}, f"{point}: the file was written")
        else:
            expect(now == before, f"{point}: the file is not what it was")
    path.write_bytes(b"z" * len(before))
    go_on(session)
    expect(path.read_bytes() == before, "the file is not what it was")


# ---- memory --------------------------------------------------------------------------------


def test_little_staging(workspace):
    """Shared memory that does not fit into the staging memory is written in portions, and crrun says
    so."""
    session = holder(workspace, "memfd", mib=40, options=("--staging=4M",), then="continue")
    session.checkpoint()
    said = lambda: harness.read_file(workspace.path / "err.txt")
    session.wait_until(lambda: "stood still" in said(), "what crrun says")
    expect_match(r"memory \(4 MiB\) was full, so \d+ MiB .* for [\d.]+ s; .*--staging", said(),
                 "the message")
    session.checkpoint(then="kill")
    session.wait_end(137)
    go_on(session)


def test_inspected(workspace):
    """crinspect shows what is shared; a core file has its content."""
    session = holder(workspace, "memfd")
    done = workspace.run([workspace.tool("crinspect"), "maps", session.image], check=0)
    expect_match(r"rw-s .*/memfd:shared\.bin", done.stdout, "crinspect maps")
    done = workspace.run([workspace.tool("crinspect"), "--json", "maps", session.image], check=0)
    stored = [s["pages_stored"] for s in json.loads(done.stdout) if "memfd" in s["name"]]
    expect(stored == [MIB * 256], f"crinspect maps: {stored} pages are stored")
    done = workspace.run([workspace.tool("crinspect"), "fds", session.image], check=0)
    expect_match(r"shared-object.*/memfd:shared\.bin", done.stdout, "crinspect fds")
    core = workspace.path / "core"
    workspace.run([workspace.tool("crinspect"), "core", session.image, "--out", str(core)], check=0)
    expect(b"S" * (256 << 10) in core.read_bytes(), "the core file lacks the shared memory")


# ---- System V ------------------------------------------------------------------------------


_making = threading.Lock()


def one_at_a_time(test):
    """Whoever makes an object gets the id that another test has asked for (shm_next_id)."""
    @functools.wraps(test)
    def alone(workspace):
        with _making:
            test(workspace)
    return alone


def segments():
    return set(re.findall(r"^\s*-?\d+\s+(\d+)", pathlib.Path("/proc/sysvipc/shm").read_text(), re.M))


def id_of_segment(workspace):
    return (workspace.path / "segment").read_text().strip()


def remove_segment(number):
    subprocess.run(["ipcrm", "-m", number], check=False, capture_output=True)


@one_at_a_time
def test_segment_outlives_its_program(workspace):
    session = holder(workspace, "sysv", workspace.path / "segment")
    expect(id_of_segment(workspace) in segments(), "the segment went with its program")
    go_on(session)
    expect(id_of_segment(workspace) not in segments(), "the segment is still there")


@one_at_a_time
def test_segment_gone(workspace):
    """Made again with its id by root; to others that is not given."""
    session = holder(workspace, "sysv", workspace.path / "segment")
    number = id_of_segment(workspace)
    remove_segment(number)
    if is_privileged(workspace):
        go_on(session)
        return
    refused(workspace, session, rf"id {number}, key 0x4353.*is gone.*as root")


@one_at_a_time
def test_segment_taken(workspace):
    """Another one has its id."""
    session = holder(workspace, "sysv", workspace.path / "segment")
    number = id_of_segment(workspace)
    remove_segment(number)
    if os.geteuid() != 0:
        raise harness.Skip("only root can choose an id")
    pathlib.Path("/proc/sys/kernel/shm_next_id").write_text(number)
    made = subprocess.run(["ipcmk", "-M", "4096"], check=True, capture_output=True, text=True).stdout
    try:
        expect(made.split()[-1] == number, f"the new segment is {made.split()[-1]}, not {number}")
        refused(workspace, session, rf"another segment has that id now.*ipcrm -m {number}")
    finally:
        remove_segment(made.split()[-1])


def remove_sets(numbers):
    for number in numbers:
        subprocess.run(["ipcrm", "-s", number], check=False, capture_output=True)


def killed_with_semaphores(workspace):
    """A session of sem_sysv that was killed at a checkpoint, and the ids of its sets."""
    session = Session(workspace, [workspace.program("sem_sysv")])
    session.start()
    session.wait_ready()
    session.checkpoint(then="kill")
    session.wait_end(status=137)
    mine = (workspace.path / "sets").read_text().split()
    workspace.until_end.callback(remove_sets, mine)
    return session, mine


@contextlib.contextmanager
def others_make_sets():
    """Somebody makes sets and removes them, all the time."""
    libc = ctypes.CDLL(None)
    over = threading.Event()

    def make():
        while not over.is_set():
            libc.semctl(libc.semget(IPC_PRIVATE, 1, 0o600), 0, IPC_RMID)

    maker = threading.Thread(target=make)
    maker.start()
    try:
        yield
    finally:
        over.set()
        maker.join()


@one_at_a_time
def test_semaphores_gone(workspace):
    """Made again with their ids by root, also while others make some; to others those are not given."""
    session, mine = killed_with_semaphores(workspace)
    remove_sets(mine)
    if not is_privileged(workspace):
        refused(workspace, session, rf"semaphore set {mine[0]} .*is gone.*as root")
        return
    with others_make_sets():
        go_on(session)


@one_at_a_time
def test_semaphores_taken(workspace):
    """Another set has that id: nothing is done to it."""
    if os.geteuid() != 0:
        raise harness.Skip("only root can choose an id")
    session, mine = killed_with_semaphores(workspace)
    remove_sets(mine[:1])
    pathlib.Path("/proc/sys/kernel/sem_next_id").write_text(mine[0])
    made = subprocess.run(["ipcmk", "-S", "3"], check=True, capture_output=True,
                          text=True).stdout.split()[-1]
    workspace.until_end.callback(remove_sets, [made])
    expect(made == mine[0], f"the new set is {made}, not {mine[0]}")
    refused(workspace, session, rf"another set has that id now.*ipcrm -s {mine[0]}")


@one_at_a_time
def test_segment_of_others(workspace):
    """A segment that it only reads: what its owner has written since stays."""
    made = workspace.run(["ipcmk", "-M", "65536", "-p", "0644"], check=0).stdout.split()[-1]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    try:
        memory = libc.shmat(int(made), None, 0)
        expect(memory not in (None, 2 ** 64 - 1), "shmat")
        ctypes.memset(memory, ord("a"), 65536)
        session = holder(workspace, "reader", made)
        ctypes.memset(memory, ord("b"), 65536)
        go_on(session)
        expect(ctypes.string_at(memory, 65536) == b"b" * 65536, "the segment was written")
        libc.shmdt(ctypes.c_void_p(memory))
    finally:
        remove_segment(made)


def test_seen_by_others(workspace):
    """Who else has the file mapped sees what is put back."""
    session = holder(workspace, "whole")
    with open(workspace.path / "shared.bin", "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as other:
            before = other[:]
            other[5000:5010] = b"overwrites"
            go_on(session)
            expect(other[:] == before, "the other mapping shows something else")


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "shared", __file__, USERS, timeout=60.0)


def main():
    parser = argparse.ArgumentParser(description="Tests restores of shared memory.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
