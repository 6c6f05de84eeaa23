# SPDX-License-Identifier: MIT
"""store_cluster.py - several crstored on this machine that stand in for nodes.

Root gives each a network namespace of its own, with a cable (veth) to a switch (bridge) in one more
namespace, so that a cable can be pulled. Who may not make namespaces has them on ports of the
loopback.

Invariants: the namespaces have no names and live as long as the processes that hold them, so nothing
is left when these have ended; they end with the test (Workspace.until_end), also when it fails.
Processes here have a mark of their own: what kills all processes of a session spares its nodes.
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import time

import harness
from harness import Failure, Skip

PORT = 7411  # in a namespace of its own
READY = "crstored: ready\n"
LOOK_SECONDS = 0.03  # between two questions to a crstored


def free_port():
    """One of those that the kernel gives to nobody by itself, so that it is free again later."""
    while True:
        with socket.socket() as probe:
            port = random.randrange(15000, 32000)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Node:
    """One crstored, its store, its socket and its network."""

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self.directory = cluster.workspace.path
        self.store = self.directory / f"store-{name}"
        self.socket = self.directory / f"{name}.sock"
        self.log = self.directory / f"{name}.log"
        self.host, self.port = "127.0.0.1", 0
        self.network = None  # the process that holds its network namespace
        self.inside = []  # before a command: runs it in the node's namespaces
        self.popen = None

    def environment(self):
        """Of crrun and crrestore, to be on this node."""
        return {"CR_STORE_SOCKET": str(self.socket)}

    def is_running(self):
        return self.popen is not None and self.popen.poll() is None

    def said(self):
        return harness.read_file(self.log)


class Cluster:
    """Nodes a, b, c ... of one crstored each. options: more of each crstored's options; racks: the
    labels of the first nodes."""

    def __init__(self, workspace, count, options=(), start=True, racks=()):
        self.workspace = workspace
        self.options = list(options)
        self.key = workspace.path / "key"
        self.members = workspace.path / "members"
        self.in_namespaces = os.geteuid() == 0 and workspace.user.uid is None
        self._processes = []
        workspace.until_end.callback(self.close)
        if not self.key.exists():
            workspace.run([workspace.tool("crstored"), "--make-key", str(self.key)], check=0)
        self.nodes = [Node(self, name) for name in "abcdefghijklmnop"[:count]]
        if self.in_namespaces:
            self._make_networks()
        else:
            for node in self.nodes:
                node.port = free_port()
        labels = [f" rack={rack}" for rack in racks] + [""] * (count - len(racks))
        self.members.write_text("".join(f"{node.name} {node.host}:{node.port}{label}\n"
                                        for node, label in zip(self.nodes, labels)))
        if start:
            for node in self.nodes:
                self.start(node, wait=False)
            for node in self.nodes:
                self.wait_ready(node)

    # ---- processes ----

    def _environment(self):
        return {**self.workspace.environment(), "CRTEST_ID": "of-a-cluster"}

    def _popen(self, command, as_root=False, **streams):
        user = {} if as_root else self.workspace.user.popen_arguments()
        popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=self.workspace.path,
                                 start_new_session=True, **user, **streams)
        self._processes.append(popen)
        return popen

    def close(self):
        for popen in self._processes:
            if popen.poll() is None:
                harness.signal_pid(popen.pid, signal.SIGCONT)
                harness.signal_pid(popen.pid, signal.SIGKILL)
        for popen in self._processes:
            popen.wait()

    def holder(self, *flags):
        """A process in namespaces of its own; Skip where that is not allowed."""
        popen = self._popen(["unshare", *flags, "sleep", "3600"], env=self._environment(),
                            stderr=subprocess.PIPE)

        def ready():
            if popen.poll() is not None:
                raise Skip(f"unshare {' '.join(flags)}: {popen.stderr.read().decode().strip()}")
            return b"sleep" in harness.read_file(f"/proc/{popen.pid}/cmdline", "rb")[:6]
        self.workspace.wait_until(ready, "a namespace")
        popen.stderr.close()
        return popen

    # ---- network ----

    def _ip(self, holder, *lines):
        done = subprocess.run(["nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip", "-batch", "-"],
                              input="\n".join(lines) + "\n", capture_output=True, text=True,
                              check=False)
        if done.returncode != 0:
            raise Failure(f"ip {lines}: {done.stderr}")

    def _make_networks(self):
        self.switch = self.holder("--net")
        self._ip(self.switch, "link add sw type bridge", "link set sw up")
        for number, node in enumerate(self.nodes, 1):
            node.network = self.holder("--net")
            node.host, node.port = f"10.0.0.{number}", PORT
            node.inside = ["nsenter", f"--net=/proc/{node.network.pid}/ns/net", "--"]
            self._ip(self.switch,
                     f"link add cable-{node.name} type veth peer name eth0 netns {node.network.pid}",
                     f"link set cable-{node.name} master sw", f"link set cable-{node.name} up")
            self._ip(node.network, "link set lo up", f"addr add {node.host}/24 dev eth0",
                     "link set eth0 up")

    def cut(self, node):
        """Pulls the node's cable."""
        if not self.in_namespaces:
            raise Skip("cutting a link takes root, for namespaces")
        self._ip(self.switch, f"link set cable-{node.name} down")

    def heal(self, node):
        self._ip(self.switch, f"link set cable-{node.name} up")

    def wait_no_carrier(self, node):
        """Until the node's kernel has seen that its cable is pulled, which takes it a moment."""
        def seen():
            done = subprocess.run([*node.inside, "ip", "-j", "link", "show", "eth0"],
                                  capture_output=True, text=True, check=True)
            return json.loads(done.stdout)[0]["operstate"] != "UP"
        self.workspace.wait_until(seen, f"no carrier at node {node.name}")

    def part(self, node, other):
        """What one of the two sends to the other gets lost; each still reaches the rest."""
        if not self.in_namespaces:
            raise Skip("cutting a link takes root, for namespaces")
        for from_, to in ((node, other), (other, node)):
            self._ip(from_.network, f"neigh replace {to.host} lladdr 02:00:00:00:00:99 dev eth0 "
                                    "nud permanent")

    def join(self, node, other):
        """The end of part()."""
        for from_, to in ((node, other), (other, node)):
            self._ip(from_.network, f"neigh del {to.host} dev eth0")

    # ---- nodes ----

    def __getitem__(self, name):
        return next(node for node in self.nodes if node.name == name)

    def start(self, node, environment=None, options=(), wait=True):
        node.log_begin = node.log.stat().st_size if node.log.exists() else 0
        command = [*node.inside, self.workspace.tool("crstored"), "--store", str(node.store),
                   "--socket", str(node.socket), "--members", str(self.members),
                   "--name", node.name, "--key", str(self.key), "--silence", "2",
                   "--durable=crash", *self.options, *options]
        with open(node.log, "ab") as log:
            node.popen = self._popen(command, stdout=log, stderr=log,
                                     env={**self._environment(), **(environment or {})})
        if wait:
            self.wait_ready(node)

    def wait_ready(self, node):
        def ready():
            said = node.said()[node.log_begin:]
            if node.popen.poll() is not None:
                raise Failure(f"crstored of node {node.name} ended with {node.popen.returncode}:\n"
                              f"{said[-800:]}")
            return READY in said
        self.workspace.wait_until(ready, f"crstored of node {node.name}")

    def kill(self, node):
        """As a crash of crstored alone: its store stays."""
        if node.is_running():
            node.popen.kill()
            node.popen.wait()

    def restart(self, node, **arguments):
        self.kill(node)
        self.start(node, **arguments)

    def lose(self, node, *directories):
        """The machine is gone, with all that lay on it."""
        self.kill(node)
        shutil.rmtree(node.store, ignore_errors=True)
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)

    # ---- questions ----

    def crstore(self, node, *arguments, check=0):
        return self.workspace.run([self.workspace.tool("crstore"), "--socket", str(node.socket),
                                   *map(str, arguments)], check=check)

    def ask(self, node, *arguments):
        return json.loads(self.crstore(node, "--json", *arguments).stdout)

    def session(self, node, name="job"):
        """What the node's status says of a session that runs there, None if it does not."""
        sessions = self.ask(node, "status")["sessions"]
        return next((s for s in sessions if s["name"] == name), None)

    def wait_session(self, node, predicate, what, name="job", job=None):
        """Until predicate(session of the status) is true; returns its value."""
        last = None

        def look():
            nonlocal last
            if job is not None and job.ended():
                raise Failure(f"{what}: the program ended; {job.describe()}")
            last = self.session(node, name)
            value = predicate(last) if last else None
            if not value:
                time.sleep(LOOK_SECONDS)
            return value
        try:
            return self.workspace.wait_until(look, what)
        except Failure as failure:
            raise Failure(f"{failure}\nnode {node.name} says {json.dumps(last)}\n"
                          f"{self.logs()}") from None

    def wait_full(self, node, least=1, name="job", job=None):
        """Until every part is of one checkpoint, `least` at least. Returns its sequence."""
        def full(session):
            sequences = {part["sequence"] for part in session["parts"]}
            return len(sequences) == 1 and min(sequences) >= least and min(sequences)
        return self.wait_session(node, full, f"all parts of a checkpoint >= {least}", name, job)

    def holders(self, node, name="job"):
        """The nodes that keep the parts of a session that runs there, by the parts' numbers."""
        return [self[part["node"]] for part in self.session(node, name)["parts"]]

    def logs(self):
        return "\n".join(f"{node.name}: {line}" for node in self.nodes
                         for line in node.said().splitlines()[-6:])

    def part_files(self, node):
        return sorted(pathlib.Path(node.store).glob("sessions/*/part.*"))

    def count_in_log(self, node, expression):
        return len(re.findall(expression, node.said()))
