#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""store_daemon_test.py - one crstored and those who want something of it: clients that are slow,
greedy or gone, its own start and end (store_cluster.py has the nodes).

  python3 tests/system/store_daemon_test.py 'store_daemon/socket*' --user=root
"""

import argparse
import json
import os
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import expect, expect_match  # noqa: E402
from store_cluster import Cluster  # noqa: E402

USERS = ("root", "nobody")
SESSION = "0123456789abcdef0123456789abcdef"


class Connection:
    """A client of a node's control socket, by hand."""

    def __init__(self, node):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(node.socket))
        self.lines = self.socket.makefile("r", encoding="utf-8")

    def send(self, **request):
        self.socket.sendall((json.dumps(request) + "\n").encode())

    def answer(self):
        """The next line that is no event; None if the other end is gone."""
        while line := self.lines.readline():
            message = json.loads(line)
            if "event" not in message:
                return message
        return None

    def ask(self, **request):
        self.send(**request)
        return self.answer()

    def close(self):
        self.lines.close()
        self.socket.close()


def refused_start(workspace, cluster, node):
    """Starts the node's crstored, which must fail; what it said."""
    cluster.start(node, wait=False)
    workspace.wait_until(lambda: not node.is_running(), "the end of a crstored that cannot start")
    expect(node.popen.returncode == 1, f"it ended with {node.popen.returncode}")
    return node.said()


# ------------------------------------------------------------------------------ the control socket ---


def test_socket_is_a_file(workspace):
    """Where something else than a socket is, nothing is removed; a link that leads nowhere, or to a
    socket to which nobody listens, is in nobody's way."""
    cluster = Cluster(workspace, 1, start=False)
    node = cluster["a"]
    other = workspace.path / "of-somebody"
    other.write_text("precious")
    node.socket.write_text("precious")
    expect_match("something else than a socket; remove it if nobody needs it, or name another",
                 refused_start(workspace, cluster, node), "crstored")
    expect(node.socket.read_text() == "precious", "the file is gone")
    node.socket.unlink()
    node.socket.symlink_to(other)
    expect_match("something else than a socket", refused_start(workspace, cluster, node), "crstored")
    expect(node.socket.is_symlink() and other.read_text() == "precious", "the link is gone")
    other.unlink()
    cluster.start(node)
    cluster.kill(node)
    cluster.start(node)
    cluster.crstore(node, "status")


def test_socket_of_a_busy_one(workspace):
    """Where somebody listens who lets nobody in just now, crstored says so, and does not wait."""
    cluster = Cluster(workspace, 1, start=False)
    node = cluster["a"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(node.socket))
        if workspace.user.uid is not None:
            os.chown(node.socket, workspace.user.uid, -1)
        listener.listen(0)
        full = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            full.append(client)
            try:
                client.connect(str(node.socket))
            except BlockingIOError:
                break
        expect_match("another crstored listens there", refused_start(workspace, cluster, node),
                     "crstored")
        for client in full:
            client.close()


# -------------------------------------------------------------------------------------- sessions ---


def protect(connection, directory):
    done = connection.ask(op="protect", session=SESSION, dir=str(directory), name="job",
                          protect="none")
    expect(done["ok"], f"protect: {done}")


def test_session_moves_to_another_connection(workspace):
    """The end of a connection that another one has followed ends no session; that of the last one
    does."""
    cluster = Cluster(workspace, 1)
    node = cluster["a"]
    directory = workspace.path / "image.dir"
    directory.mkdir()
    workspace.user.give(directory)
    first, second = Connection(node), Connection(node)
    protect(first, directory)
    protect(second, directory)
    first.close()
    for _ in range(10):
        expect(cluster.session(node), "the session has ended with its old connection")
        time.sleep(0.02)
    expect(second.ask(op="status")["sessions"][0]["session"] == SESSION, "another session")
    second.close()
    workspace.wait_until(lambda: cluster.session(node) is None, "the end of the session")


# --------------------------------------------------------------------------------- start and end ---


def test_old_repairs_are_removed(workspace):
    """What a repair has left that was interrupted is removed at the start, and nothing else."""
    cluster = Cluster(workspace, 1)
    node = cluster["a"]
    cluster.kill(node)
    repairs = node.store / "repair"
    left, link, other = repairs / SESSION, repairs / ("f" * 32), repairs / "notes"
    elsewhere = workspace.path / "elsewhere"
    for directory in (left / "members" / "1", other, elsewhere):
        directory.mkdir(parents=True)
    for file in (left / "image.0", left / "members" / "1" / "image.0", elsewhere / "image.0",
                 other / "image.0"):
        file.write_text("x")
    link.symlink_to(elsewhere)
    for path in (repairs, *repairs.rglob("*"), elsewhere, elsewhere / "image.0"):
        if not path.is_symlink():
            workspace.user.give(path)
    cluster.start(node)
    expect(not left.exists(), f"{left} is still there")
    expect((elsewhere / "image.0").exists(), "a symbolic link was followed")
    expect((other / "image.0").exists(), "something that is no repair was removed")
    expect_match(f"{SESSION}: an image that an interrupted repair had left was removed",
                 node.said(), "crstored")


# ----------------------------------------------------------------------------------------- list ---


def tests():
    """All tests, as harness.Test."""
    return harness.tests_of(globals(), "store_daemon", __file__, USERS, timeout=120.0)


def main():
    parser = argparse.ArgumentParser(description="Tests of one crstored and its clients.")
    harness.add_common_arguments(parser)
    arguments = parser.parse_args()
    return harness.run_main(tests(), arguments)


if __name__ == "__main__":
    sys.exit(main())
