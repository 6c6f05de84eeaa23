#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""sockets_test.py - sockets at a restore where not everything is as it was: ports and names that are
taken, clients of the outside.

  python3 tests/system/sockets_test.py sockets/'*port*' --user=nobody
"""

import argparse
import pathlib
import re
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Failure, Session, expect  # noqa: E402

USERS = ("root", "nobody")

SERVER = """
import os, pathlib, socket, sys, time
kind, name = sys.argv[1:]
if kind == "tcp":
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    pathlib.Path("port").write_text(str(listener.getsockname()[1]))
elif kind == "udp":
    listener = socket.socket(type=socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    pathlib.Path("port").write_text(str(listener.getsockname()[1]))
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
if kind != "udp":
    listener.listen(5)
pathlib.Path("ready").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)
if kind != "udp":
    connection, _ = listener.accept()
    connection.sendall(connection.recv(100))
print("PASS")
"""


def server(workspace, kind, name="", then="kill"):
    """A session of the server that was checkpointed, and is dead unless then=continue."""
    harness.require_restore(workspace.user)
    session = Session(workspace, ["/usr/bin/python3", "-c", SERVER, kind, str(name)],
                      ("-i", "off"))
    session.start()
    session.wait_ready()
    session.checkpoint(then=then)
    if then == "kill":
        session.wait_end(137)
    return session


def port_of(workspace):
    return int((workspace.path / "port").read_text())


def refused(workspace, session, expression):
    done = workspace.run([workspace.tool("crrestore"), "-i", "off", session.image], check=125)
    expect(re.search(expression, done.stderr), f"crrestore should say /{expression}/, got:\n{done.stderr}")


def talk(workspace, family, address):
    """To the restored server, as soon as it is there."""
    deadline = time.monotonic() + 20
    while True:
        with socket.socket(family) as client:
            try:
                client.connect(address)
                client.sendall(b"hello")
                expect(client.recv(100) == b"hello", "the server's answer")
                return
            except (ConnectionRefusedError, FileNotFoundError):
                if time.monotonic() > deadline:
                    raise Failure(f"nobody listens at {address}") from None
        time.sleep(0.02)


def go_on(workspace, session, family, address):
    session.restore()
    session.go()
    talk(workspace, family, address)
    session.expect_pass()
    session.verify_image()


def test_port_in_use(workspace):
    """Somebody else listens at the port: an error that says so; afterwards it is restored."""
    session = server(workspace, "tcp")
    address = ("127.0.0.1", port_of(workspace))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(address)
        other.listen(1)
        refused(workspace, session, rf"fd \d+ .*127\.0\.0\.1:{address[1]}.* another program.*again")
    go_on(workspace, session, socket.AF_INET, address)


def test_udp_port_in_use(workspace):
    """The same of UDP."""
    session = server(workspace, "udp")
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port_of(workspace)))
        refused(workspace, session, rf"fd \d+ .*127\.0\.0\.1:{port_of(workspace)} is in use")
    session.restore()
    session.go()
    session.expect_pass()


def test_path_in_use(workspace):
    """Somebody else listens at the path, which is not taken away from him."""
    path = workspace.path / "listens"
    session = server(workspace, "unix", path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        path.chmod(0o777)
        other.listen(1)
        inode = path.stat().st_ino
        refused(workspace, session, rf"fd \d+ .*its name {path} is in use")
        expect(path.stat().st_ino == inode, "the other's file was replaced")
    go_on(workspace, session, socket.AF_UNIX, str(path))


def test_path_is_a_file(workspace):
    """A file that is no socket is never removed."""
    path = workspace.path / "listens"
    session = server(workspace, "unix", path)
    path.unlink()
    path.write_text("precious")
    refused(workspace, session, rf"fd \d+ .*its name {path} is in use")
    expect(path.read_text() == "precious", "the file is gone")
    path.unlink()
    go_on(workspace, session, socket.AF_UNIX, str(path))


def test_check_only(workspace):
    """crrestore --check-only leaves nothing behind that would be in the way."""
    path = workspace.path / "listens"
    session = server(workspace, "unix", path)
    for _ in range(2):
        workspace.run([workspace.tool("crrestore"), "--check-only", session.image], check=0)
    go_on(workspace, session, socket.AF_UNIX, str(path))


def test_client_outside(workspace):
    """A client outside that was not accepted yet is reset, and does not disturb the server."""
    session = server(workspace, "tcp", then="continue")
    address = ("127.0.0.1", port_of(workspace))
    with socket.create_connection(address) as client:
        client.settimeout(20)
        session.checkpoint(then="kill")
        session.wait_end(137)
        try:
            expect(client.recv(1) == b"", "the client should be told of the end")
        except ConnectionResetError:
            pass
    go_on(workspace, session, socket.AF_INET, address)


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "sockets", __file__, USERS, timeout=120.0)


def main():
    parser = argparse.ArgumentParser(description="Tests restores of sockets.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
