#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""servers_test.py - servers of several processes, talked to from outside, over three crashes each:
redis with a client that connects again, nginx with its workers, tmux with a running editor.

  python3 tests/system/servers_test.py servers/nginx --user=nobody

make check-system installs them; where one is missing its test is skipped.
"""

import argparse
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Failure, Session, Skip  # noqa: E402

USERS = ("root", "nobody")
CYCLES = 3
PATIENCE = 20.0


def program(name):
    path = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin")
    if path is None:
        raise Skip(f"{name} is not there (make check-system installs it)")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(session, what, function):
    """Until it does not raise OSError, and its value is true."""
    deadline = time.monotonic() + PATIENCE * harness.SLOWNESS
    while True:
        try:
            value = function()
            if value:
                return value
        except OSError as error:
            value = error
        if session.ended():
            raise Failure(f"{what}: {session.name} {session.ending()}")
        if time.monotonic() > deadline:
            raise Failure(f"{what}: {value}")
        time.sleep(0.02)


def expect_equal(what, expected, got):
    if expected != got:
        raise Failure(f"{what}: expected {expected!r}, got {got!r}")


def crash_and_restore(session):
    """It runs on after the checkpoint; what it does then is undone."""
    session.checkpoint()
    time.sleep(0.05)
    session.kill()
    session.restore(("-i", "off"))


class Redis:
    """One command per connection, so that each cycle connects anew."""

    def __init__(self, port):
        self.port = port

    def __call__(self, *words):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            request = f"*{len(words)}\r\n" + "".join(f"${len(w)}\r\n{w}\r\n" for w in words)
            connection.sendall(request.encode())
            return connection.makefile("r", newline="\r\n").readline().strip()


def test_redis(workspace):
    harness.require_restore(workspace.user)
    port = free_port()
    session = Session(workspace, [program("redis-server"), "--port", port, "--bind", "127.0.0.1",
                                  "--dir", workspace.path, "--save", "", "--appendonly", "yes"])
    session.start()
    redis = Redis(port)
    eventually(session, "redis answers", lambda: redis("PING") == "+PONG")
    for number in range(50):
        redis("SET", f"key{number}", f"value{number}")
    for cycle in range(1, CYCLES + 1):
        expect_equal("INCR", f":{cycle}", redis("INCR", "count"))
        session.checkpoint()
        redis("SET", "key7", "of a time that did not happen")
        session.kill()
        session.restore(("-i", "off"))
        eventually(session, "redis answers again", lambda: redis("PING") == "+PONG")
        expect_equal("length of a value", ":6", redis("STRLEN", "key7"))
    expect_equal("INCR at last", f":{CYCLES + 1}", redis("INCR", "count"))
    kept = sorted((workspace.path / "appendonlydir").glob("*.incr.aof"))
    expect_equal("SETs that were undone in the log", 0,
                 kept[-1].read_bytes().count(b"did not happen"))
    try:
        redis("SHUTDOWN", "NOSAVE")
    except OSError:
        pass
    session.wait_end(0)


NGINX = """
{user}worker_processes 2; daemon off; pid {path}/nginx.pid; error_log {path}/error.log;
events {{ worker_connections 64; }}
http {{ access_log {path}/access.log; client_body_temp_path {path}/t1; proxy_temp_path {path}/t2;
fastcgi_temp_path {path}/t3; uwsgi_temp_path {path}/t4; scgi_temp_path {path}/t5;
server {{ listen 127.0.0.1:{port}; root {path}/html; }} }}
"""


def test_nginx(workspace):
    harness.require_restore(workspace.user)
    path, port = workspace.path, free_port()
    nginx = program("nginx")
    (path / "html").mkdir()
    content = "static " * 5000
    (path / "html" / "file.txt").write_text(content)
    (path / "nginx.conf").write_text(NGINX.format(
        path=path, port=port, user="user root;\n" if workspace.user.name == "root" else ""))
    workspace.user.give(path / "html")
    session = Session(workspace, [nginx, "-p", path, "-c", path / "nginx.conf"])
    session.start()

    def get():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/file.txt", timeout=5) as answer:
            return answer.read().decode()
    expect_equal("the file", content, eventually(session, "nginx answers", get))
    for _ in range(CYCLES):
        crash_and_restore(session)
        for _ in range(4):
            expect_equal("the file", content, eventually(session, "nginx answers again", get))
        shown = workspace.run([workspace.tool("crinspect"), "tree", session.image], check=0).stdout
        expect_equal("workers in the tree", 2, shown.count("worker process"))
    session.kill()


def test_tmux_and_editor(workspace):
    harness.require_restore(workspace.user)
    path = workspace.path
    tmux, vim = program("tmux"), program("vim")
    sock, text = path / "sock", path / "text.txt"
    workspace.variables["TERM"] = "xterm"
    session = Session(workspace, [tmux, "-S", sock, "-f", "/dev/null", "new-session", "-d", "-x",
                                  "80", "-y", "24", vim, "-u", "NONE", "-i", "NONE", text])
    session.start()

    def command(*words):
        done = subprocess.run([tmux, "-S", str(sock), *words], cwd=path, text=True,
                              capture_output=True, check=False, env=workspace.environment(),
                              **workspace.user.popen_arguments())
        if done.returncode != 0:
            raise OSError(f"tmux {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def screen_has(line):
        return eventually(session, f"the line {line!r} on the screen",
                          lambda: line in command("capture-pane", "-p").splitlines())
    eventually(session, "tmux answers", lambda: "~" in command("capture-pane", "-p"))
    command("send-keys", "ibegin", "Enter")
    screen_has("begin")
    for cycle in range(1, CYCLES + 1):
        session.checkpoint()
        command("send-keys", "of a time that did not happen", "Enter")
        session.kill()
        session.restore(("-i", "off"))
        eventually(session, "tmux answers again", lambda: command("list-panes"))
        command("send-keys", f"line {cycle}", "Enter")
        screen_has(f"line {cycle}")
    command("send-keys", "Escape", ":wq", "Enter")
    session.wait_end(0)
    expect_equal("the text", "begin\n" + "".join(f"line {n + 1}\n" for n in range(CYCLES)) + "\n",
                 text.read_text())


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "servers", __file__, USERS, timeout=120.0)


def main():
    parser = argparse.ArgumentParser(description="Tests servers of several processes.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
