#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""terminal_test.py - interactive programs, driven through terminals: they are checkpointed, killed
and restored in other terminals (of the same size, of another, in tmux), and one goes on typing.

  python3 tests/system/terminal_test.py terminal/vim --user=nobody
"""

import argparse
import fcntl
import os
import pathlib
import re
import sys
import termios
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Skip, expect  # noqa: E402
from terminals import Screen, TerminalSession, Tmux, settle  # noqa: E402

USERS = ("root", "nobody")
UP = "\x1b[A"
ESCAPE = "\x1b"
LOST = "LOST"


def program(path):
    if not os.access(path, os.X_OK):
        raise Skip(f"{path} is not there (tools/dev/install_deps installs it)")
    return path


def places(workspace):
    """Where the three restores are."""
    yield Screen(workspace)
    yield Screen(workspace, 31, 97)
    yield Tmux(workspace, 20, 70)


def begin(workspace, *command):
    harness.require_restore(workspace.user)
    session = TerminalSession(workspace, [program(command[0]), *command[1:]])
    session.start_in(Screen(workspace))
    return session


def crash(session, lost=LOST):
    """A checkpoint, something that will never have been, and the end."""
    session.checkpoint()
    session.send(lost)
    time.sleep(0.05)
    session.kill()


def text_file(workspace, name, lines):
    path = workspace.path / name
    path.write_text("".join(f"line {n} of the text\n" for n in range(lines)), encoding="ascii")
    workspace.user.give(path)
    return path


def test_vim(workspace):
    """Unsaved text, still in insert mode; the screen is painted anew."""
    session = begin(workspace, "/usr/bin/vim", "-u", "NONE", "-N", "text")
    session.expect(r"\[New")
    session.send("ifirst")
    session.expect("first")
    for number, place in enumerate(places(workspace)):
        crash(session)
        session.restore_in(place)
        session.expect("first")
        session.settle()
        session.send(f" and {number}")
        session.expect(f"and {number}")
    session.send(ESCAPE + ":wq\r")
    session.wait_end(0)
    got = (workspace.path / "text").read_text()
    expect(got == "first and 0 and 1 and 2\n", f"the file has {got!r}")


def test_nano(workspace):
    session = begin(workspace, "/usr/bin/nano", "-I", "text")
    session.expect("GNU nano")
    session.send("first")
    session.expect("first")
    for number, place in enumerate(places(workspace)):
        crash(session)
        session.restore_in(place)
        session.expect("first")
        session.settle()
        session.send(f" and {number}")
        session.expect(f"and {number}")
    session.send("\x13\x18")
    session.wait_end(0)
    got = (workspace.path / "text").read_text()
    expect(got == "first and 0 and 1 and 2\n", f"the file has {got!r}")


def test_less(workspace):
    """Goes on paging at its place."""
    session = begin(workspace, "/usr/bin/less", str(text_file(workspace, "long.txt", 1000)))
    session.expect("line 22 of")
    session.send("100g")
    session.expect("line 121 of")
    top = 99
    for place in places(workspace):
        crash(session, "G")
        session.restore_in(place)
        session.expect(rf"line {top} of")
        session.settle()
        session.send("10j")
        top += 10
        session.expect(rf"line {top + 15} of")
    session.send("q")
    session.wait_end(0)


def test_top(workspace):
    session = begin(workspace, "/usr/bin/top", "-d", "600")
    session.expect(r"load average")
    for place in places(workspace):
        crash(session, "H")
        session.restore_in(place)
        session.expect(r"load average")
        session.expect(r"Tasks:")
        session.settle()
    session.send("q")
    session.wait_end(0)


def test_python(workspace):
    """Variables, the line that is being edited, history."""
    session = begin(workspace, "/usr/bin/python3", "-q")
    session.expect(">>> ")
    session.send("x = [40]\r")
    session.expect(">>> ")
    for number, place in enumerate(places(workspace)):
        session.send(f"print('value', x[-1] + {number}")
        session.expect(rf"\+ {number}")
        crash(session)
        session.restore_in(place)
        session.expect(r">>> print\('value'")
        session.settle()
        session.send(" + 2); x.append(x[-1] + 2)\r")
        session.expect(rf"value {42 + 2 * number + number}\s")
        session.send("'the ' + 'next'\r")
        session.expect("'the next'")
        session.send(UP + UP)
        session.expect(r"x.append\(x\[-1\] \+ 2\)")
        session.send("\x15")
    session.send("'%d of them' % len(x)\r")
    session.expect("4 of them")
    session.send("exit()\r")
    session.wait_end(0)


# ------------------------------------------------------------------- the terminal's own state ----


def keys(workspace, *words):
    """A session of terminal_keys in a terminal whose modes and window are unlike any other's."""
    harness.require_restore(workspace.user)
    session = TerminalSession(workspace, [workspace.program("terminal_keys"), *words])
    session.start_in(odd_screen(workspace, "\x05"))
    session.expect("keys")
    return session


def odd_screen(workspace, interrupt, rows=24, columns=80):
    screen = Screen(workspace, rows, columns)
    modes = screen.modes()
    modes[6][termios.VINTR] = interrupt.encode()
    termios.tcsetattr(screen.slave, termios.TCSANOW, modes)
    screen.found = screen.modes()
    return screen


def ask(session, key, answer):
    session.send(key + " ")
    session.expect(answer)


def ask_all(session, window):
    ask(session, "m", "modes same")
    ask(session, "t", "by name same")
    ask(session, "g", "group in front")
    ask(session, "s", f"window {window}, told of it")


def test_modes(workspace):
    """Every mode as the program had set it, whatever the new terminal's are, which it gets back."""
    session = keys(workspace, "tty")
    screen = session.screen
    ask(session, "m", "modes same")
    for number, size in enumerate(((24, 80), (24, 80), (50, 132))):
        crash(session, "ll")
        screen = odd_screen(workspace, chr(number + 1), *size)
        session.restore_in(screen)
        session.settle()  # it is told of its window a moment after it runs
        ask_all(session, f"{size[0]}x{size[1]}")
        expect(screen.size() == size, f"the window is {screen.size()}, not {size}")
    session.send("xx")
    session.wait_end(0)
    expect(screen.modes() == screen.found, "crrestore does not leave the terminal as it found it")


def program_only(session):
    pid = session.program_pid()
    expect(pid != 0, "there is no program")
    harness.signal_pid(pid, 9)


def test_modes_after_death(workspace):
    """A program that is killed cannot put the modes back; crrun and crrestore do. One that ends by
    itself has left what it wanted."""
    session = keys(workspace)
    screen = session.screen
    expect(screen.modes() != screen.found, "the modes are not set")
    session.checkpoint()
    program_only(session)
    session.wait_end(137)
    expect(screen.modes() == screen.found, "crrun leaves the dead program's modes")
    screen = odd_screen(workspace, "\x02")
    session.restore_in(screen)
    ask(session, "m", "modes same")
    session.checkpoint(then="kill")
    session.wait_end(137)
    expect(screen.modes() == screen.found, "crrestore leaves the dead program's modes")
    left = TerminalSession(workspace, [workspace.program("terminal_keys")])
    left.image = str(workspace.path / "left.dir")
    left.start_in(odd_screen(workspace, "\x03"))
    left.expect("keys")
    left.send("xx")
    left.wait_end(0)
    expect(left.screen.modes() != left.screen.found, "crrun undoes what the program has left")


def test_restart(workspace):
    """crrun itself restores a killed program in the terminal that it had."""
    harness.require_restore(workspace.user)
    session = TerminalSession(workspace, [workspace.program("terminal_keys")],
                              ("-i", "off", "--restart=on-failure"))
    session.start_in(odd_screen(workspace, "\x05"))
    session.expect("keys")
    for _ in range(2):
        session.checkpoint()
        program_only(session)
        session.expect("restoring checkpoint")
        session.settle()
        ask(session, "m", "modes same")
        ask(session, "g", "group in front")
    session.send("qq")
    session.wait_end(0)


def test_no_terminal(workspace):
    """Without a terminal a program that reads keys is not restored, and says what to do; one that
    reads lines gets what is there, with a warning."""
    session = keys(workspace)
    session.checkpoint()
    session.kill()
    done = workspace.run([workspace.tool("crrestore"), session.image], check=125)
    for words in ("fd 0", "reads single keys from its terminal", "script -qc"):
        expect(words in done.stderr, f"crrestore should say '{words}', says:\n{done.stderr}")
    session.restore_in(Screen(workspace))
    ask(session, "m", "modes same")
    ask(session, "l", "set")
    session.checkpoint(then="kill")
    session.wait_end(137)
    session.restore()  # its input is at its end
    time.sleep(0.3)
    expect(not session.ended(), session.ending() if session.ended() else "")
    said = harness.read_file(workspace.path / f"restore-{session.restores}.err")
    expect("was a terminal; descriptor 0 of crrestore, which is none" in said,
           f"there is no warning:\n{said}")


def test_no_terminal_by_name(workspace):
    session = keys(workspace, "tty")
    ask(session, "l", "set")
    session.checkpoint()
    session.kill()
    done = workspace.run([workspace.tool("crrestore"), session.image], check=125)
    for words in ("/dev/tty", "controlling terminal", "script -qc"):
        expect(words in done.stderr, f"crrestore should say '{words}', says:\n{done.stderr}")
    session.restore_in(Screen(workspace))
    ask(session, "r\r", "set")
    ask(session, "t", "by name same")
    session.send("qq")
    session.wait_end(0)


def test_rollback(workspace):
    """restore() puts the modes back, in place and by beginning anew."""
    session = TerminalSession(workspace, [workspace.program("lib_terminal"), "back"])
    session.start_in(Screen(workspace))
    session.expect("PASS")
    session.wait_end(0)


def test_quick(workspace):
    """Modes that were changed between two checkpoints that the program captured itself."""
    harness.require_restore(workspace.user)
    session = TerminalSession(workspace, [workspace.program("lib_terminal"), "quick"])
    session.start_in(Screen(workspace))
    session.expect("quick")
    session.kill()
    session.restore_in(Screen(workspace))
    session.expect("PASS")
    session.wait_end(0)


class NumbersLock:
    """While it is held no restore, and no test of many pseudoterminals, makes any."""

    def __enter__(self):
        self.directory = os.open("/dev/pts", os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self.directory, fcntl.LOCK_EX)

    def __exit__(self, *_):
        os.close(self.directory)


def test_number_taken(workspace):
    """The number of one inside is somebody else's by now: another one, with a warning."""
    harness.require_restore(workspace.user)
    session = harness.Session(workspace, [workspace.program("pty_inside"), "any"])
    session.start()
    session.wait_ready()
    session.checkpoint()
    fds = workspace.run([workspace.tool("crinspect"), "fds", session.image], check=0).stdout
    taken = {int(n) for n in re.findall(r"pseudoterminal (\d+), ", fds)}
    expect(len(taken) >= 9, f"there are no pseudoterminals:\n{fds}")
    held = {}
    with NumbersLock():
        session.kill()
        while not taken & held.keys():
            master, slave = os.openpty()
            workspace.until_end.callback(os.close, master)
            held[int(os.ttyname(slave).rpartition("/")[2])] = master
            os.close(slave)
    session.restore()
    session.go()
    session.expect_pass()
    said = harness.read_file(workspace.path / "restore-1.err")
    number = min(taken & held.keys())
    expect(f"/dev/pts/{number} is in use by others; the program has /dev/pts/" in said,
           f"there is no warning of {number}:\n{said}")
    session.verify_image()


# --------------------------------------------------------------------------------- job control ----


class Shell:
    """An interactive shell with job control, in which the tools are started."""

    def __init__(self, workspace):
        self.workspace = workspace
        self.screen = Screen(workspace)
        self.popen = self.screen.start(
            [program("/bin/bash"), "--norc", "--noprofile", "--noediting", "-i"],
            {"PS1": "sh> ", "HISTFILE": ""})
        self.screen.expect("sh> ")

    def run(self, line):
        self.screen.send(line + "\r")

    def prompt(self):
        self.screen.expect("sh> ")

    def tool(self, name):
        return self.workspace.tool(name)

    def children(self):
        return harness.descendants(self.popen.pid)

    def crash(self, image):
        self.workspace.run([self.tool("crckpt"), image], check=0)
        pids = self.children()
        for pid in pids:
            harness.signal_pid(pid, 9)
        self.workspace.wait_until(lambda: not any(harness.is_alive(pid) for pid in pids), "death")
        self.screen.expect("Killed")
        self.prompt()

    def end(self):
        self.run("exit")
        self.workspace.wait_until(lambda: self.popen.poll() is not None, "end of the shell")


def test_job_control(workspace):
    """Ctrl-Z, fg and bg as ever, before and after a restore; the shell gets its modes back."""
    harness.require_restore(workspace.user)
    image = str(workspace.path / "image.dir")
    shell = Shell(workspace)
    screen = shell.screen
    editor = f"{program('/usr/bin/vim')} -u NONE -N text"
    shell.run(f"{shell.tool('crrun')} -d {image} -i off -- {editor}")
    screen.expect(r"\[New")
    screen.send("ifirst")
    screen.expect("first")
    for number in range(3):
        screen.send(ESCAPE + "\x1a")
        screen.expect("Stopped")
        shell.prompt()
        shell.run("fg")
        screen.expect("first")
        screen.send(f"A and {number}")
        screen.expect(f"and {number}")
        shell.crash(image)
        shell.run(f"{shell.tool('crrestore')} {image}")
        screen.expect(f"and {number}")
        settle(workspace, screen)
    screen.send(ESCAPE + "\x1a")
    screen.expect("Stopped")
    shell.prompt()
    shell.run("fg")
    screen.expect("first")
    screen.send(":wq\r")
    shell.prompt()
    shell.run("echo is $?")
    screen.expect("is 0")
    got = (workspace.path / "text").read_text()
    expect(got == "first and 0 and 1 and 2\n", f"the file has {got!r}")
    shell.end()


def test_background(workspace):
    """Restored in the background it leaves the shell's terminal alone, until it is brought to the
    front."""
    harness.require_restore(workspace.user)
    image = str(workspace.path / "image.dir")
    shell = Shell(workspace)
    screen = shell.screen
    shell.run(f"{shell.tool('crrun')} -d {image} -i off -- {workspace.program('terminal_keys')}")
    screen.expect("\nkeys")
    shell.crash(image)
    shell.run(f"{shell.tool('crrestore')} {image} &")
    shell.prompt()
    shell.workspace.wait_until(lambda: len(shell.children()) >= 2, "the restored program")
    time.sleep(0.5)
    shell.run("echo still $((6 * 7))")  # in modes in which it sees the line, and its end
    screen.expect("still 42")
    shell.run("fg")
    screen.expect("crrestore")
    time.sleep(0.5)
    screen.send("m ")
    screen.expect("modes same")
    screen.send("qq")
    shell.prompt()
    shell.end()


def test_shell(workspace):
    """A shell under crrun has a process group of its own, and the terminal for it."""
    session = begin(workspace, "/bin/bash", "--norc", "--noprofile", "-i")
    session.expect(r"[$#] ")
    session.send("variable=kept; set | wc -l\r")
    session.expect(r"\d\s")
    for place in (Screen(workspace), Screen(workspace, 31, 97), Screen(workspace)):
        session.send("echo edited $var")
        session.expect(r"edited \$var")
        crash(session)
        session.restore_in(place)
        session.expect(r"edited \$var")
        session.settle()
        session.send("iable\r")
        session.expect("edited kept")
        session.send("sleep 1000\r")
        session.expect("sleep 1000")
        time.sleep(0.3)
        session.send("\x1a")
        session.expect("Stopped")
        # bash 5.2 may miss the end of a job that it has just killed until it waits for a command.
        session.send("kill -9 %1; sleep 0.1; wait; echo $((40 + 2))\r")
        session.expect("42")
    session.send("exit 3\r")
    session.wait_end(3)


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "terminal", __file__, USERS, timeout=120.0)


def main():
    parser = argparse.ArgumentParser(description="Tests programs in terminals.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
