# SPDX-License-Identifier: MIT
"""terminals.py - terminals for tests: one that a test plays itself at the other end, and tmux.

Invariant: what a program has written is never thrown away; a wait looks at all of it, without the
escape sequences, from where the last one that was found ended.
"""

import fcntl
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

import harness
from harness import Failure, Session, Skip

SEQUENCES = re.compile(r"\x1b(\[[0-9;:?<=>!]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()*+][0-9A-Za-z]|"
                       r"[^\[\]()*+])")


class Screen:
    """A pseudoterminal that the test has the other end of."""

    def __init__(self, workspace, rows=24, columns=80):
        self.workspace = workspace
        self.master, self.slave = os.openpty()
        workspace.until_end.callback(self.close)
        if workspace.user.uid is not None:
            os.fchown(self.slave, workspace.user.uid, -1)
        os.set_blocking(self.master, False)
        self.resize(rows, columns)
        self.written = ""
        self.position = 0

    def close(self):
        for name in ("master", "slave"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
            setattr(self, name, -1)

    def resize(self, rows, columns):
        self.given = (rows, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def size(self):
        return struct.unpack("HHHH", fcntl.ioctl(self.slave, termios.TIOCGWINSZ, bytes(8)))[:2]

    def modes(self):
        return termios.tcgetattr(self.slave)

    def start(self, command, environment=None):
        """It leads a session of its own, and this is its controlling terminal."""
        variables = {**self.workspace.environment(), "TERM": "xterm", **(environment or {})}
        popen = subprocess.Popen(["setsid", "-c", *map(str, command)], stdin=self.slave,
                                 stdout=self.slave, stderr=self.slave, cwd=self.workspace.path,
                                 env=variables, **self.workspace.user.popen_arguments())
        return self.workspace.adopt(popen)

    def read(self):
        ready = select.poll()
        ready.register(self.master, select.POLLIN)
        while ready.poll(0):
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            if not data:
                return
            self.written += data.decode(errors="replace")

    def is_whole(self):
        return self.size() == self.given

    def text(self):
        self.read()
        return SEQUENCES.sub("", self.written)

    def send(self, keys):
        os.set_blocking(self.master, True)
        os.write(self.master, keys.encode())
        os.set_blocking(self.master, False)

    def expect(self, expression, what="", patience=30.0):
        """Waits until the program has written something that matches."""
        end = time.monotonic() + patience * harness.SLOWNESS
        while True:
            found = re.compile(expression).search(self.text(), self.position)
            if found:
                self.position = found.end()
                return found
            if time.monotonic() > end:
                raise Failure(f"{what or 'the terminal'} should show /{expression}/, shows after "
                              f"{patience:g} s:\n{self.text()[self.position:][-1500:]!r}")
            time.sleep(harness.POLL_SECONDS)


class Tmux:
    """A window of a tmux server of its own."""

    def __init__(self, workspace, rows=24, columns=80):
        if shutil.which("tmux") is None:
            raise Skip("tmux is not there (tools/dev/install_deps installs it)")
        self.workspace = workspace
        self.rows, self.columns = rows, columns
        self.socket = str(workspace.path / f"tmux-{time.monotonic_ns()}")
        workspace.until_end.callback(self.close)

    def tmux(self, *words):
        return subprocess.run(
            ["tmux", "-S", self.socket, "-f", "/dev/null", *words], capture_output=True, text=True,
            errors="replace", cwd=self.workspace.path, check=False,
            env={**self.workspace.environment(), "TERM": "xterm", "SHELL": "/bin/sh"},
            **self.workspace.user.popen_arguments())

    def close(self):
        self.tmux("kill-server")

    def start(self, command, environment=None):
        """What is returned has the exit status of the command."""
        words = " ".join(f"'{word}'" for word in command)
        variables = " ".join(f"{k}='{v}'" for k, v in (environment or {}).items())
        ended = self.workspace.path / f"ended-{time.monotonic_ns()}"
        done = self.tmux("new-session", "-d", "-x", str(self.columns), "-y", str(self.rows),
                         f"{variables} {words}; echo $? > '{ended}'; sleep 1000")
        if done.returncode != 0:
            raise Failure(f"tmux: {done.stderr}")
        server = int(self.tmux("display-message", "-p", "#{pid}").stdout)
        return InTmux(self, server, ended)

    def send(self, keys):
        self.tmux("send-keys", "-l", keys)

    def is_whole(self):
        name = self.tmux("display-message", "-p", "#{pane_tty}").stdout.strip()
        with open(name, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOCTTY)) as tty:
            size = struct.unpack("HHHH", fcntl.ioctl(tty, termios.TIOCGWINSZ, bytes(8)))[:2]
        return size != (self.rows - 2, self.columns)  # the last line is tmux's own

    def text(self):
        return self.tmux("capture-pane", "-p").stdout

    def expect(self, expression, what="", patience=30.0):
        end = time.monotonic() + patience * harness.SLOWNESS
        while True:
            text = self.text()
            found = re.search(expression, text)
            if found:
                return found
            if time.monotonic() > end:
                raise Failure(f"{what or 'the window'} should show /{expression}/, shows after "
                              f"{patience:g} s:\n{text}")
            time.sleep(0.05)


class InTmux:
    """What is used of a Popen, for a command in a window of tmux."""

    def __init__(self, tmux, server, ended):
        self.tmux, self.pid, self.ended = tmux, server, ended
        self.returncode = None

    def poll(self):
        text = harness.read_file(self.ended).strip()
        if self.returncode is None and text:
            self.returncode = int(text)
            self.tmux.close()
        elif self.returncode is None and not harness.is_alive(self.pid):
            self.returncode = -signal.SIGKILL
        return self.returncode


def settle(workspace, screen):
    """Waits until the program has painted what it wanted: it shows nothing new, and the window has
    the size that the test gave it. A program that is told of a new size may drop a key."""
    shown, since = None, time.monotonic()
    def is_quiet():
        nonlocal shown, since
        now = screen.text()
        if now != shown:
            shown, since = now, time.monotonic()
        return screen.is_whole() and time.monotonic() - since > 0.5 * harness.SLOWNESS
    workspace.wait_until(is_quiet, "a terminal that settles")


class TerminalSession(Session):
    """A session whose crrun and crrestore are started in a terminal each."""

    def __init__(self, workspace, command, options=("-i", "off"), environment=None):
        super().__init__(workspace, command, options)
        self.screen = None
        self.variables = environment or {}

    def start_in(self, screen):
        self.screen = screen
        self.foreground = screen.start([self.workspace.tool("crrun"), "-d", self.image,
                                        *self.options, "--", *self.command], self.variables)
        self.name = "crrun"

    def restore_in(self, screen, options=()):
        self.restores += 1
        self.screen = screen
        self.foreground = screen.start(
            [self.workspace.tool("crrestore"), *options, self.image], self.variables)
        self.name = f"crrestore (restore {self.restores})"

    def expect(self, expression, patience=30.0):
        return self.screen.expect(expression, self.name, patience)

    def settle(self):
        settle(self.workspace, self.screen)

    def send(self, keys):
        self.screen.send(keys)

    def ending(self):
        text = super().ending()
        return f"{text}; its terminal shows:\n{self.screen.text()[-1500:]!r}"
