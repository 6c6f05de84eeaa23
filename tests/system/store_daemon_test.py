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
import re
import shutil
import signal
import socket
import subprocess
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


# ------------------------------------------------------------------------------- many who want it ---


def test_many_requests(workspace):
    """So many are at work and so many wait; the others are told at once that it is too much, and
    what needs no other node is answered meanwhile."""
    cluster = Cluster(workspace, 2)
    asked, silent = cluster.nodes
    harness.signal_pid(silent.popen.pid, signal.SIGSTOP)  # each request waits for it
    client = Connection(asked)
    for _ in range(40):
        client.send(op="ls")
    answers = [client.answer() for _ in range(19)]
    for answer in answers:
        expect(not answer["ok"], f"it should be refused: {answer}")
        expect_match(r"\d+ requests of yours are waiting for crstored already; let some",
                     answer["error"], "crstored")
    expect(Connection(asked).ask(op="status")["ok"], "crstored should answer at once")
    harness.signal_pid(silent.popen.pid, signal.SIGCONT)
    for _ in range(40 - len(answers)):
        answers.append(client.answer())
    done = [answer for answer in answers if answer["ok"]]
    expect(16 <= len(done) <= 21, f"{len(done)} were done")
    expect(client.ask(op="ls")["ok"], "the next request")


def descriptors(pid):
    return max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def limit_descriptors(workspace, node, limits):
    workspace.run(["prlimit", f"--pid={node.popen.pid}", f"--nofile={limits}"], check=0)


def cpu_seconds(pid):
    fields = harness.stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_no_descriptors(workspace):
    """While no descriptor is free, who connects waits, crstored says so once and stands still; then
    it goes on."""
    cluster = Cluster(workspace, 2)
    node = cluster["a"]
    first = Connection(node)
    expect(first.ask(op="status")["ok"], "status")
    limits = harness.read_file(f"/proc/{node.popen.pid}/limits")
    soft, hard = re.search(r"Max open files +(\S+) +(\S+)", limits).groups()
    expect(soft == hard, f"it could have {hard} descriptors, and takes {soft}")
    limit_descriptors(workspace, node, f"{descriptors(node.popen.pid) + 1}:{hard}")
    later = [Connection(node) for _ in range(3)]
    outside = socket.socket()
    outside.setblocking(False)
    if not cluster.in_namespaces:
        outside.connect_ex((node.host, node.port))
    workspace.wait_until(lambda: "nobody can be let in: Too many open files" in node.said(),
                         "crstored's word about its descriptors")
    before = cpu_seconds(node.popen.pid)
    time.sleep(2)
    used = cpu_seconds(node.popen.pid) - before
    expect(first.ask(op="status")["ok"], "status")
    expect(used < 0.2, f"it has used {used} s of the processor while nothing could be done")
    limit_descriptors(workspace, node, f"{hard}:{hard}")
    for client in later:
        expect(client.ask(op="status")["ok"], "status")
    expect(cluster.count_in_log(node, "nobody can be let in") == 1, "it is said once")
    outside.close()


MANY_CLIENTS = """
import socket, sys
many = []
for _ in range(129):
    many.append(socket.socket(socket.AF_UNIX))
    many[-1].connect(sys.argv[1])
lines = many[-1].makefile()
print(lines.readline(), end="")
print("ended" if lines.readline() == "" else "not ended", flush=True)
sys.stdin.read()
"""


def test_many_clients_of_one_user(workspace):
    """One user's connections keep nobody else out, least of all root."""
    if workspace.user.uid is not None or os.geteuid() != 0:
        raise harness.Skip("needs root, to be several users")
    cluster = Cluster(workspace, 1, options=("--for-all-users",))
    node = cluster["a"]
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        raise harness.Skip("needs a python3 that nobody may run")
    many = subprocess.Popen([python, "-c", MANY_CLIENTS, str(node.socket)], user=65534,
                            group=65534, extra_groups=[], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, cwd="/")
    workspace.adopt(many)
    refused = json.loads(many.stdout.readline())
    expect_match("128 clients of yours are connected to crstored already; end some",
                 refused["error"], "crstored")
    expect(many.stdout.readline() == "ended\n", "its connection should be ended")
    expect(Connection(node).ask(op="status")["ok"], "status")
    many.communicate()


# ---------------------------------------------------------------------- a disk, a service is silent ---


def silent_part(workspace, node):
    """A part that cannot be opened: whoever tries stands still, as on a disk that is gone."""
    part = node.store / "sessions" / SESSION / "part.0.0"
    part.parent.mkdir()
    os.mkfifo(part, 0o600)
    for path in (part.parent, part):
        workspace.user.give(path)


def test_store_that_does_not_answer(workspace):
    """Who lists, or protects a session, waits for the disk of the store; nobody else does, and
    crstored ends all the same when it is told to."""
    cluster = Cluster(workspace, 2)
    silent, asked = cluster.nodes
    silent_part(workspace, silent)
    waits = Connection(asked)
    waits.send(op="ls")
    for _ in range(20):
        expect(Connection(silent).ask(op="status")["ok"], "status")
        time.sleep(0.05)
    mine = Connection(silent)
    mine.send(op="ls")
    time.sleep(0.3)  # it is at it now
    begin = time.monotonic()
    silent.popen.terminate()
    expect(silent.popen.wait(timeout=30) == 0, "it should end with 0")
    took = time.monotonic() - begin
    expect(took < 8 * harness.SLOWNESS, f"it has taken {took:.1f} s to end")
    expect_match("does not answer; what was being done there is left", silent.said(), "crstored")
    expect(not silent.socket.exists(), "its socket is still there")


def test_name_service_that_does_not_answer(workspace):
    """While no name can be resolved links and clients go on; it is said once, with what to do."""
    cluster = Cluster(workspace, 2, start=False)
    node = cluster["a"]
    if cluster.in_namespaces:  # else the service says no at once
        conf = workspace.path / "resolv.conf"
        conf.write_text("nameserver 10.0.0.77\noptions timeout:5 attempts:2\n")
        node.inside += ["unshare", "-m", "sh", "-c",
                        f'mount --bind {conf} /etc/resolv.conf && exec "$@"', "sh"]
    cluster.members.write_text(f"a {node.host}:{node.port}\nb no-such-host.invalid:7117\n")
    cluster.start(node)
    directory = workspace.path / "image.dir"
    directory.mkdir()
    workspace.user.give(directory)
    client = Connection(node)
    expect(client.ask(op="protect", session=SESSION, dir=str(directory), name="job",
                      protect="replica:2")["ok"], "protect")
    longest, end = 0, time.monotonic() + 12
    while time.monotonic() < end:
        begin = time.monotonic()
        other = Connection(node)
        nodes = other.ask(op="status")["nodes"]
        other.close()
        longest = max(longest, time.monotonic() - begin)
        time.sleep(0.05)
    expect(longest < 4, f"a client has waited {longest:.1f} s")
    expect_match("no-such-host.invalid: .*(name cannot be resolved|does not answer).*in digits",
                 nodes[1]["state"], "status")
    expect(cluster.count_in_log(node, "name cannot be resolved") == 1, f"said once:\n{node.said()}")


# --------------------------------------------------------------------------------- start and end ---


def test_end_while_requests_run(workspace):
    """Who waits for an answer when crstored is told to end hears that, and it ends at once."""
    cluster = Cluster(workspace, 2)
    node = cluster["a"]
    harness.signal_pid(cluster["b"].popen.pid, signal.SIGSTOP)
    clients = [Connection(node) for _ in range(3)]
    for client, request in zip(clients, ({"op": "drain", "name": "b"}, {"op": "ls"},
                                         {"op": "verify", "name": "job"})):
        client.send(**request)
    time.sleep(0.5)
    begin = time.monotonic()
    node.popen.terminate()
    for client in clients:
        answer = client.answer()
        expect(answer is not None and not answer["ok"], f"an answer: {answer}")
        expect_match("crstored was told to end, so this was given up; ask for it again",
                     answer["error"], "crstored")
    expect(node.popen.wait(timeout=30) == 0, "it should end with 0")
    took = time.monotonic() - begin
    expect(took < 4 * harness.SLOWNESS, f"it has taken {took:.1f} s to end")


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
