#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""files_test.py - files that a session has changed since its checkpoint: put back, left, refused;
limits, restores that fail or die midway, the older checkpoint, files that are mapped elsewhere.

  python3 tests/system/files_test.py files/'*older*' --user=nobody
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Session, expect, expect_match  # noqa: E402

USERS = ("root", "nobody")


class Helper(Session):
    """A session of files_helper. files: name -> content before it starts."""

    def __init__(self, workspace, files, opened=(), options=(), directory=None):
        harness.require_restore(workspace.user)
        self.directory = directory or workspace.path
        super().__init__(workspace, [workspace.program("files_helper"), *opened],
                         ("-i", "off", *options))
        for name, content in files.items():
            self.put(name, content)
        (workspace.path / "ready").unlink(missing_ok=True)
        self.start()
        self.wait_ready()

    def put(self, name, content):
        path = self.directory / name
        path.write_text(content)
        self.workspace.user.give(path)

    def tell(self, *lines, to="commands"):
        path = self.directory / "commands.new"
        path.write_text("".join(line + "\n" for line in lines))
        self.workspace.user.give(path)
        path.rename(self.directory / to)
        self.wait_until(lambda: not (self.directory / to).exists(), "the commands are done")

    def checkpoint_in_two(self, meanwhile):
        """... of which the agent was told by CR_FAULT to halt on its way."""
        asked = self.workspace.start([self.workspace.tool("crckpt"), self.image], stdout="ckpt.txt",
                                     stderr="ckpt.txt")
        agent = self.foreground
        self.workspace.wait_until(lambda: harness.process_state(agent.pid) == "T", "the agent halts")
        meanwhile()
        agent.send_signal(signal.SIGCONT)
        self.workspace.wait_until(lambda: asked.poll() is not None, "the end of crckpt")
        expect(asked.returncode == 0, harness.read_file(self.workspace.path / "ckpt.txt"))

    def begin_restore(self, options=()):
        super().restore(options)

    def restore(self, options=()):  # pylint: disable=arguments-differ
        """... until the program runs."""
        self.begin_restore(options)
        self.tell("nothing")

    def state(self):
        """name -> content of all files but ours."""
        ours = re.compile(r"(image\.dir|ready|ping|go|(child\.)?commands.*|(ckpt|out|err|restore-).*)$")
        return {path.name: path.read_text() if path.is_file() else None
                for path in sorted(self.directory.iterdir()) if not ours.match(path.name)}

    def expect_state(self, expected, what):
        now = self.state()
        expect(now == expected, f"{what}: files should be {expected}, are {now}")

    def said(self):
        return harness.read_file(self.workspace.path / f"restore-{self.restores}.err")

    def end(self):
        path = self.directory / "commands"
        path.write_text("exit\n")
        self.workspace.user.give(path)
        self.wait_end(0)

    def restore_fails(self, expression, *words, status=125):
        done = self.workspace.run([self.workspace.tool("crrestore"), *words, self.image],
                                  check=status)
        expect_match(expression, done.stderr, "the message")


CHANGES = ("write a A2", "write new n", "remove b", "rename c d", "overwrite e 12345", "append f +++")
FILES = {"a": "A1", "b": "B1", "c": "C1", "e": "0000000", "f": "f"}
OPENED = ("r+:e", "a:f")


def changed(workspace, options=()):
    """A session that has changed files since its checkpoint, and is dead; what they were then."""
    session = Helper(workspace, FILES, OPENED, options)
    session.checkpoint()
    session.tell(*CHANGES)
    session.kill()
    return session


def test_put_back(workspace):
    """All of it, and again after more changes; crinspect lists what is kept."""
    session = changed(workspace)
    done = workspace.run([workspace.tool("crinspect"), "files", session.image], check=0)
    for line in (r"open +\S*/e: file, 7 bytes, mode \d+; content in copy", r"changed +\S*/new: made",
                 r"changed +\S*/a: file, 2 bytes, mode \d+; content in copy", r"/b: file.*content"):
        expect_match(line, done.stdout, "crinspect files")
    for _ in range(3):
        session.restore()
        session.expect_state(FILES, "after the restore")
        session.tell(*CHANGES, "write a third", "write d other")
        session.kill()
    session.restore()
    session.expect_state(FILES, "after the last restore")
    session.tell(*CHANGES)
    session.end()


def test_keep(workspace):
    """--files=keep leaves them, at crrestore and, for the session, at crrun."""
    session = changed(workspace)
    now = {**session.state(), "f": "f"}
    session.put("c", "C1")  # crrestore knows only of what is open
    session.restore(("--files=keep",))
    session.expect_state({**now, "c": "C1"}, "after the restore")
    session.end()


def test_keep_of_the_session(workspace):
    """Nothing is kept, and nothing written beside the images."""
    session = changed(workspace, ("--files=keep",))
    expect(not (pathlib.Path(session.image) / "files").exists(), "there is a journal")
    before = session.state()
    session.restore()
    session.expect_state({**before, "f": "f"}, "after the restore")
    session.end()


def test_refuse(workspace):
    """It names what has changed, and changes nothing; without changes it restores."""
    session = changed(workspace, ("--files=refuse",))
    before = session.state()
    for name, how in (("a", "was written to"), ("new", "is new"), ("b", "was removed"),
                      ("c", "was removed or renamed"), ("e", "was written to"),
                      ("f", "has another size")):
        session.restore_fails(rf"/{name} {how}")
    session.expect_state(before, "after the refusals")
    session.restore(("--files=restore",))
    session.expect_state(FILES, "after the restore")
    session.checkpoint(then="kill")
    session.wait_end(137)
    session.restore(("--files=refuse",))
    session.end()


def test_check_only(workspace):
    """It says that it can be restored, and puts nothing back."""
    session = changed(workspace)
    before = session.state()
    workspace.run([workspace.tool("crrestore"), "--check-only", session.image], check=0)
    session.expect_state(before, "after --check-only")
    session.restore()
    session.end()


def test_older_checkpoint(workspace):
    """--sequence brings back the files of the older one; those of the newer are then gone, which
    is said; the older one can be had again."""
    session = Helper(workspace, FILES, OPENED)
    session.checkpoint()
    session.tell("write a A2", "overwrite e 1111", "remove b")
    session.checkpoint()
    session.tell("write a A3", "overwrite e 2222", "write b B3", "rename c d")
    session.kill()
    session.restore()
    session.expect_state({"a": "A2", "c": "C1", "e": "1111000", "f": "f"}, "of the newer one")
    session.tell("write a A4")
    session.kill()
    session.restore(("--sequence", "1"))
    session.expect_state(FILES, "of the older one")
    session.tell("write a A5")
    session.kill()
    session.restore_fails("the files of this checkpoint cannot be put back", "--sequence", "2")
    session.restore(("--sequence", "1"))
    session.expect_state(FILES, "of the older one again")
    session.checkpoint()
    session.tell(*CHANGES)
    session.kill()
    session.restore()
    session.expect_state(FILES, "of the next one")
    session.end()


def test_older_checkpoint_without_changes(workspace):
    """Its program writes when it runs again: the newer one's files are gone all the same."""
    session = Helper(workspace, {"a": "A1"})
    session.checkpoint()
    session.checkpoint()
    session.kill()
    session.restore(("--sequence", "1"))
    session.tell("write a A2")
    session.kill()
    session.restore_fails("the files of this checkpoint cannot be put back", "--sequence", "2")
    session.restore(("--sequence", "1"))
    session.expect_state({"a": "A1"}, "of the older one")
    session.tell("write a A3")
    session.checkpoint()
    session.tell("write a A4")
    session.kill()
    session.restore()
    session.expect_state({"a": "A3"}, "of the next one")
    session.end()


def test_dies_midway(workspace):
    """A crrestore that dies when files have been put back, or while they are, is repeated."""
    session = changed(workspace)
    for point in ("restore_planned", "restore_exec", "restore_taken"):
        workspace.variables["CR_FAULT"] = point
        session.begin_restore()
        workspace.wait_until(session.ended, "the death of crrestore")
        del workspace.variables["CR_FAULT"]
        session.kill()
    for number in range(20):
        session.begin_restore()
        time.sleep(0.002 * number)
        session.kill()
    session.restore()
    session.expect_state(FILES, "in the end")
    session.tell(*CHANGES)
    session.end()


def test_failed_checkpoint(workspace):
    """Changes go on counting from the last whole checkpoint when later ones fail."""
    session = Helper(workspace, FILES, OPENED)
    session.checkpoint()
    session.tell("write a A2")
    image = pathlib.Path(session.image)
    (image / "image.1").unlink(missing_ok=True)
    (image / "image.1").mkdir()  # the next one cannot be written
    session.checkpoint(check=None)
    session.tell("write a A3", "write b B3", "overwrite e 9999")
    (image / "image.1").rmdir()
    session.kill()
    session.restore()
    session.expect_state(FILES, "after the restore")
    session.end()


def test_failed_checkpoint_of_several(workspace):
    """... of which one could be captured and another could not: they stay in one generation."""
    session = Helper(workspace, {"a": "A1"}, ("fork",))
    (session.directory / "d").mkdir()
    workspace.user.give(session.directory / "d")
    session.checkpoint()
    session.tell("hold d", "rmdir d")  # cannot be saved
    session.checkpoint(check=None)
    session.tell("write a parent")
    session.tell("write a child", to="child.commands")
    session.kill()
    session.restore()
    expect(session.state()["a"] == "A1", f"a should be A1, is {session.state()['a']}")
    session.kill()


def test_written_before_the_stop(workspace):
    """A file that is written between its early copy and the stop: the copy that two checkpoints
    had in common stays what it was."""
    workspace.variables["CR_FAULT"] = "before_stop:2=halt"
    session = Helper(workspace, {"a": "00000"}, ("r+:a",))
    session.tell("overwrite a first")
    time.sleep(0.1)
    session.checkpoint()
    session.checkpoint_in_two(lambda: session.tell("overwrite a other"))
    del workspace.variables["CR_FAULT"]
    session.tell("overwrite a third")
    session.kill()
    session.restore()
    session.expect_state({"a": "other"}, "after the restore of the second")
    session.kill()
    session.restore(("--sequence", "1"))
    session.expect_state({"a": "first"}, "after the restore of the first")
    session.end()


def test_numbers_that_change_hands(workspace):
    """An early copy is of the file that had the descriptor's number when it was looked at."""
    session = Session(workspace, [workspace.program("files_numbers")], ("-i", "off"))
    session.start()
    session.wait_ready()
    for number in range(30):
        session.checkpoint()
        done = workspace.run([workspace.tool("crinspect"), "files", session.image], check=0)
        for name, copy in re.findall(r"open +\S*/([ab]): .*content in (copy\.\S+)", done.stdout):
            content = (pathlib.Path(session.image) / "files" / copy).read_text()
            expect(content == name * 3000,
                   f"checkpoint {number + 1}: the copy of {name} begins with {content[:3]}")
    session.kill()


def test_cut_while_appending(workspace):
    """What is open for appending only grows, but by ftruncate it does not."""
    session = Helper(workspace, {"log": "0123456789"}, ("a:log",))
    session.checkpoint()
    session.tell("cut log 2", "append log ++++++++++++")
    session.kill()
    session.restore()
    session.expect_state({"log": "0123456789"}, "after the restore")
    session.tell("append log end", "cut log 12")
    session.expect_state({"log": "0123456789en"}, "after more")
    session.end()


def test_mapped_meanwhile(workspace):
    """A store to a mapping moves no time of the file where another went before; the mapping is gone
    at the checkpoint."""
    session = Helper(workspace, {"m": "0000"}, ("r+:m",))
    session.tell("map m", "poke one")
    time.sleep(0.1)
    session.checkpoint()
    session.tell("poke two", "unmap")
    time.sleep(0.1)
    session.checkpoint()
    session.tell("overwrite m end")
    session.kill()
    session.restore()
    session.expect_state({"m": "two0"}, "after the restore")
    session.end()


def test_unnamed_files_of_one_number(workspace):
    """Two files without a name on two file systems, both with the same inode number, are two."""
    if workspace.user.uid is not None:
        raise harness.Skip("only root mounts file systems")
    places = [workspace.path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
        if workspace.run(["mount", "-t", "tmpfs", "none", place]).returncode != 0:
            raise harness.Skip("mounting is not allowed here")
        workspace.until_end.callback(subprocess.run, ["umount", "-l", place], check=False)
    session = Helper(workspace, {})
    session.tell(*(f"unnamed {place}/x {place.name}" for place in places))
    session.checkpoint()
    session.kill()
    session.restore()
    session.tell(*(f"verify {place}/x {place.name}" for place in places))
    session.end()


def test_no_descriptor_left(workspace):
    """What needs none is put back."""
    session = Helper(workspace, {"a": "A1", "b": "B1"})
    session.checkpoint()
    session.tell("fill", "remove a", "rename b c", "mkdir d", "drain")
    session.expect_state({"c": "B1", "d": None}, "after the changes")
    session.kill()
    session.restore()
    session.expect_state({"a": "A1", "b": "B1"}, "after the restore")
    session.end()


def test_no_descriptor_to_be_had(workspace):
    """... or it is said that it cannot be."""
    if workspace.user.uid is None:
        raise harness.Skip("root may raise its limit")
    session = Helper(workspace, {"a": "A1", "b": "B1"})
    session.checkpoint()
    session.tell("fill tightly", "remove a", "rename b c", "drain")
    session.checkpoint()
    expect_match("were changed without being kept.*Too many open files",
                 harness.read_file(workspace.path / "err.txt"), "crrun")
    session.kill()


def test_limit(workspace):
    """What is larger is not kept: told at the checkpoint and at the restore."""
    session = Helper(workspace, {"big": "x" * 100000, "small": "s", "open": "o" * 100000},
                     ("r+:open",), ("--files-limit", "20K"))
    session.checkpoint()
    session.tell("write big B", "write small S", "overwrite open OOO")
    session.checkpoint()
    said = harness.read_file(workspace.path / "err.txt")
    expect_match(r"/open is open for writing and could not be copied", said, "crrun")
    expect_match(r"1 file was changed without being kept", said, "crrun")
    session.kill()
    session.restore(("--sequence", "1"))
    now = session.state()
    expect(now["small"] == "s", f"small should be put back, is {now['small']}")
    expect(now["big"] == "B", "big cannot be put back")
    expect_match(r"/big: bytes that were overwritten .* larger than --files-limit", session.said(),
                 "crrestore")
    expect_match(r"/open: bytes that were overwritten .* larger than --files-limit", session.said(),
                 "crrestore")
    session.end()


def test_unreadable(workspace):
    """A file that may be written and not read cannot be copied: told."""
    if workspace.user.uid is None:
        raise harness.Skip("root may read everything")
    session = Helper(workspace, {"secret": "1"})
    os.chmod(session.directory / "secret", 0o200)
    session.checkpoint()
    session.tell("write secret 2")
    session.checkpoint()
    expect_match("changed without being kept.*Permission denied",
                 harness.read_file(workspace.path / "err.txt"), "crrun")
    session.kill()


def test_other_file_system(workspace):
    """Files elsewhere than the images: no second names, copies only."""
    shm = pathlib.Path(f"/dev/shm/crtest-files-{os.getpid()}-{workspace.user.name}")
    shm.mkdir()
    workspace.until_end.callback(shutil.rmtree, shm, ignore_errors=True)
    workspace.user.give(shm)
    for path in (shm / "x",):
        path.write_text("1")
        workspace.user.give(path)
    session = Helper(workspace, {"y": "1" * 2000000})
    session.checkpoint()
    session.tell("remove y", f"write {shm}/x 2")
    session.kill()
    session.restore()
    expect(session.state()["y"] == "1" * 2000000, "y should be back")
    expect((shm / "x").read_text() == "2", "what is in /dev is not kept, and documented so")
    session.end()


def test_child_writes(workspace):
    """What a fork child changes belongs to the session."""
    session = Helper(workspace, {"a": "1"})
    session.checkpoint()
    session.tell("child a 2", "child b 3")
    session.kill()
    session.restore()
    session.expect_state({"a": "1"}, "after the restore")
    session.end()


def test_executed_program_writes(workspace):
    """So does what a program changes that the session's program executes; after a restore too, also
    of the older checkpoint."""
    session = Helper(workspace, {"a": "1", "b": "2"})
    session.checkpoint()
    for _ in range(2):
        session.tell("copy b a", "copy b c")
        session.expect_state({"a": "2", "b": "2", "c": "2"}, "after cp")
        session.kill()
        session.restore()
        session.expect_state({"a": "1", "b": "2"}, "after the restore")
    session.checkpoint()
    session.tell("copy a b")
    session.kill()
    session.restore(("--sequence", "1"))
    session.expect_state({"a": "1", "b": "2"}, "of the older checkpoint")
    session.tell("copy b a")
    session.kill()
    session.restore(("--sequence", "1"))
    session.expect_state({"a": "1", "b": "2"}, "of the older checkpoint again")
    session.end()


def test_directory_behind_a_link(workspace):
    """The image directory's own files are known by their real names."""
    real = workspace.path / "image.real"
    real.mkdir()
    workspace.user.give(real)
    (workspace.path / "image.dir").symlink_to(real)
    session = Session(workspace, [workspace.program("files_threads")], ("-i", "0.02"))
    harness.require_restore(workspace.user)
    session.start()
    session.wait_ready()
    for _ in range(3):
        time.sleep(0.5)
        session.kill()
        session.restore(("-i", "0.02"))
        session.ping()
    session.go()
    session.expect_pass()


def test_raw_call_of_an_open_file(workspace):
    """Raw system calls are not seen, but what was open at the checkpoint is put back."""
    session = Helper(workspace, {"a": "1234", "b": "1"}, ("r+:a",))
    session.checkpoint()
    session.tell("raw a 99", "raw b 99")
    session.kill()
    session.restore()
    session.expect_state({"a": "1234", "b": "99"}, "after the restore")
    session.end()


def test_new_run_begins_without(workspace):
    """The journal goes with the images of an interrupted run, and is removed with those of one
    that came to its end."""
    session = changed(workspace)
    image = pathlib.Path(session.image)
    other = Helper(workspace, {})
    expect((image / "interrupted.1" / "files").is_dir(), "the journal should be kept with the images")
    other.checkpoint()
    other.end()
    expect((image / "files").is_dir(), "the journal of the new run")
    third = Helper(workspace, {})
    expect(not (image / "files").exists(), "the journal of a finished run should be removed")
    third.end()


def test_map_and_env(workspace):
    """Everything of the program lies elsewhere, the program itself and what is put back included;
    and it is told something. Without --map the restore fails and names what is missing."""
    harness.require_restore(workspace.user)
    old, new = workspace.path / "old", workspace.path / "new"
    for path in (old, old / "place"):
        path.mkdir()
        workspace.user.give(path)
    shutil.copy(workspace.program("map_helper"), old / "program")
    session = Session(workspace, [str(old / "program"), str(old / "place")], ("-i", "off"))
    session.start()
    session.wait_ready()
    session.checkpoint()
    session.ping()
    session.kill()
    shutil.copytree(old, new, copy_function=shutil.copy2)
    for path in (new, *new.rglob("*")):
        workspace.user.give(path)
    shutil.rmtree(old)
    crrestore = workspace.tool("crrestore")
    done = workspace.run([crrestore, session.image], check=125)
    expect_match(r"/old/place", done.stderr, "the message without --map")
    for words in (("--map", "old=new"), ("--map", str(old)), ("--env", "WHERE"), ("--env", "=x")):
        workspace.run([crrestore, *words, session.image], check=2)
    # The longest prefix counts, and only whole parts of a path.
    session.restore(("--map", f"{old}/place={new}/place/", "--map", f"{old}=/nowhere",
                     "--map", f"{old}/program={new}/program", "--map", f"{old}/place/ope=/nowhere",
                     "--env", "WHERE=there=yes", "--env", "OTHER="))
    session.go()
    session.expect_pass()


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "files", __file__, USERS, timeout=60.0)


def main():
    parser = argparse.ArgumentParser(description="Tests files that a session has changed.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
