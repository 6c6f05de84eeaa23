#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""store.py - the benchmarks of `make bench-store`: how long a checkpoint is on one node alone, how
fast parts travel, and how long a neighbour takes to bring a program back.

Nodes are crstored processes on 127.0.0.1 with stores in /dev/shm and --durable=crash; the program is
a hog of one thread with 1 % of its pages dirtied in a second. Window: from the moment when crstored
is told of a checkpoint until it survives the loss of the node, as `crstore status` says.

  python3 bench/store.py --mib 1024 --runs 5
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

import common
import often
import run

PORT = 7461
WAIT_S = 120


class Nodes:
    """crstored processes n0, n1, ... of one machine."""

    def __init__(self, directory, count):
        self.directory = pathlib.Path(directory)
        self.names = [f"n{i}" for i in range(count)]
        key = self.directory / "key"
        subprocess.run([common.tool("crstored"), "--make-key", str(key)], check=True,
                       stdout=subprocess.DEVNULL)
        members = ",".join(f"{name}=127.0.0.1:{PORT + i}" for i, name in enumerate(self.names))
        self.processes = {}
        for name in self.names:
            log = open(self.directory / f"{name}.log", "wb")
            self.processes[name] = subprocess.Popen(
                [common.tool("crstored"), "--store", str(self.directory / f"store-{name}"),
                 "--socket", self.socket(name), "--members", members, "--name", name,
                 "--key", str(key), "--durable=crash", "--repair-after", "off"], stderr=log)
        for name in self.names:
            run.wait_for(lambda name=name: pathlib.Path(self.socket(name)).exists(), "crstored", 10)

    def socket(self, name):
        return str(self.directory / f"{name}.sock")

    def status(self, name="n0"):
        done = subprocess.run([common.tool("crstore"), "--socket", self.socket(name), "--json",
                               "status"], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)["sessions"]

    def kill(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


class Hog:
    """The hog under crrun, on node n0."""

    def __init__(self, directory, nodes, mib, protect):
        self.directory = pathlib.Path(directory)
        self.status = run.Status(self.directory / "status", 1)
        self.image = self.directory / "image"
        self.nodes = nodes
        options = [] if protect is None else [f"--protect={protect}", "--name", "hog"]
        self.crrun = subprocess.Popen(
            [common.tool("crrun"), "-d", str(self.image), "-i", "off", "--durable=crash", *options,
             "--", common.program("hog"), str(self.status.path), str(mib), "1", str(mib * 0.01)],
            env={**os.environ, "CR_STORE_SOCKET": nodes.socket("n0")},
            stderr=open(self.directory / "crrun.log", "wb"))
        begin = run.now_ns()
        run.wait_for(lambda: self.status.all_stamped_after(begin), "start of the hog")

    def checkpoint(self):
        """Takes one and waits until it is safe: (bytes sent, window in seconds)."""
        before = sum(s["sent_bytes"] for s in self.nodes.status())
        done = subprocess.run([common.tool("crckpt"), str(self.image)], check=True,
                              capture_output=True, text=True)
        sequence = int(re.search(r"\b(\d+) whole", done.stdout).group(1))
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            sessions = self.nodes.status()
            if sessions and sessions[0]["sequence"] >= sequence and sessions[0]["safe"]:
                return sessions[0]["sent_bytes"] - before, sessions[0]["window_ns"] * 1e-9
            time.sleep(0.02)
        raise SystemExit(f"checkpoint {sequence} was not safe within {WAIT_S} s: {sessions}")

    def kill(self):
        for pid in [self.crrun.pid, *children(self.crrun.pid)]:
            run.kill(pid)
        self.crrun.wait()


def children(pid):
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(p) for p in text.read_text().split()] if text.exists() else []


def ucx_bandwidth(*options, mib=1024):
    """Bytes per second of ucx_perftest between two processes by tcp; None: it is not installed."""
    if shutil.which("ucx_perftest") is None:
        return None
    environment = {**os.environ, "UCX_TLS": "tcp"}
    port = str(PORT + 99)
    server = subprocess.Popen(["ucx_perftest", "-p", port], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        done = subprocess.run(["ucx_perftest", "127.0.0.1", "-p", port, "-t", "tag_bw", "-s",
                               str(1 << 20), "-n", str(mib), "-w", "20", *options],
                              env=environment, check=False, capture_output=True, text=True, timeout=120)
    finally:
        server.kill()
        server.wait()
    final = re.search(r"^Final:\s+(.*)$", done.stdout, re.MULTILINE)
    if final is None:
        return None
    return float(final.group(1).split()[4]) * 2**20  # the overall bandwidth in MB/s


def link_bandwidth(mode, mib=1024):
    """Bytes per second of chunks from one process's memory into another's (bench/link.cc)."""
    done = subprocess.run([common.program("link"), str(mib), mode], check=True, capture_output=True,
                          text=True)
    return float(done.stdout)


def level_1(directory, runs):
    """A sentence on bench/writer.cc."""
    with tempfile.TemporaryDirectory(prefix="crbench-", dir=directory) as where:
        done = subprocess.run([common.program("writer"), where, "512", str(runs)], check=True,
                              capture_output=True, text=True)
    bare, file, part = (float(n) for n in re.findall(r"\d+", done.stdout))
    print(done.stdout, end="", flush=True)
    return (f"512 MiB from memory durably to a file of a local disk: a bare io_uring writer (1 MiB, "
            f"16 in flight, fdatasync) {bare / 1e3:.2f} GB/s, images' and parts' writer "
            f"{file / bare * 100:.0f} % of that, a whole part with its two commit barriers and "
            f"checksums {part / bare * 100:.0f} %.")


def links(runs):
    """The table of links against ucx_perftest, in turns."""
    rates = {"plain": [], "peer": [], "pages": [], "tags": [], "encrypt": []}
    for _ in range(runs):
        rates["plain"].append(ucx_bandwidth() or float("nan"))
        rates["peer"].append(ucx_bandwidth("-e") or float("nan"))
        for mode in ("pages", "tags", "encrypt"):
            rates[mode].append(link_bandwidth(mode))
    rows = []
    for mode, what in (("pages", "default: a checksum of each page"), ("tags", "--tag-blocks"),
                       ("encrypt", "--encrypt")):
        row = [what, f"{common.median(rates[mode]) / 2**30:.2f}"]
        for other in ("peer", "plain"):
            row.append(f"{common.median(rates[other]) / 2**30:.2f}")
            row.append(f"{common.median([a / b for a, b in zip(rates[mode], rates[other])]):.2f}")
        rows.append(row)
        print(*row, sep=" | ", flush=True)
    return common.table(["chunks from memory to memory", "GiB/s",
                         "ucx_perftest -t tag_bw -e, GiB/s", "ratio",
                         "without -e, GiB/s", "ratio"], rows)


def coding(runs):
    """The table of parity against bare calls of ISA-L."""
    done = subprocess.run([common.program("erasure"), str(max(5, runs))], check=True,
                          capture_output=True, text=True)
    line = (r"(\S+)\s+units\s+(\S+)\s+at once\s+(\S+)\s+bare\s+(\S+)\s+1 MiB\s+(\S+) GB/s"
            r"\s+(\d+) %")
    print(done.stdout, end="", flush=True)
    return common.table(["parity", "by units of 64 KiB, GB/s", "at once, GB/s", "ISA-L at once, GB/s",
                         "ISA-L by MiB, GB/s", "slower of ours / faster of ISA-L, %"],
                        re.findall(line, done.stdout))


def slowdown(mib, protect, runs, span=8.0):
    """The table of how much slower a program of one thread is that takes a checkpoint each second,
    1 % of its pages dirtied meanwhile, if these go to another node, than if they do not."""
    slow, slow_in_all, reached = [], [], []
    pages = mib * 256 // 100
    for _ in range(runs):
        without, _ = often.often(None, "moving", 1, mib, pages, span)
        alone, _ = often.in_memory(lambda d: often.often(d, "moving", 1, mib, pages, span))
        directory = tempfile.mkdtemp(prefix="crbench-", dir="/dev/shm")
        nodes = Nodes(directory, 2)
        try:
            protected, whole = often.often(
                directory + "/image", "moving", 1, mib, pages, span, protect,
                {**os.environ, "CR_STORE_SOCKET": nodes.socket("n0")})
        finally:
            nodes.stop()
            shutil.rmtree(directory, ignore_errors=True)
        slow.append(100 * (1 - protected / alone))
        slow_in_all.append(100 * (1 - protected / without))
        reached.append(whole)
    def shown(values):
        return f"{common.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"
    return common.table(
        ["protection", "MiB", "safe checkpoints per second",
         "slowdown against checkpoints that stay on the node, %", "against no checkpoints, %"],
        [[protect, mib, f"{common.median(reached):.2f}", shown(slow), shown(slow_in_all)]])


def measure(mib, protect, nodes_count, runs):
    """(first checkpoint: bytes, window), the second one's window, [(bytes, window) of later ones],
    seconds to come back on another node."""
    directory = tempfile.mkdtemp(prefix="crbench-", dir="/dev/shm")
    nodes = hog = restored = None
    try:
        nodes = Nodes(directory, nodes_count)
        hog = Hog(directory, nodes, mib, protect)
        first = hog.checkpoint()
        time.sleep(1)
        _, second = hog.checkpoint()
        others = []
        hog.checkpoint()  # of all that was dirtied meanwhile
        for _ in range(runs):
            time.sleep(1)
            others.append(hog.checkpoint())
        hog.kill()
        nodes.kill("n0")
        shutil.rmtree(hog.image)
        begin = run.now_ns()
        restored = subprocess.Popen(
            [common.tool("crrestore"), "--clock=host", "--durable=crash", "-i", "off", "hog"],
            cwd=directory, env={**os.environ, "CR_STORE_SOCKET": nodes.socket("n1")},
            stderr=open(pathlib.Path(directory) / "restore.log", "wb"))
        run.wait_for(lambda: hog.status.all_stamped_after(begin), "progress after the restore")
        back = hog.status.first_progress(begin)
        return first, second, others, back
    finally:
        if restored is not None:
            for pid in [restored.pid, *children(restored.pid)]:
                run.kill(pid)
            restored.wait()
        if hog is not None and hog.crrun.poll() is None:
            hog.kill()
        if nodes is not None:
            nodes.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description="The node store.")
    parser.add_argument("--runs", type=int, default=5, help="checkpoints of each (default: 5)")
    parser.add_argument("--mib", type=int, default=1024, help="the program's memory")
    parser.add_argument("--disk", default=tempfile.gettempdir(),
                        help="a directory of a local disk, for level 1")
    parser.add_argument("--protect", nargs="+",
                        default=["replica:2", "xor:3", "rs:2+1", "xor:9", "rs:8+2"])
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    common.be_first()
    where = common.machine()
    rows = []
    disk = level_1(arguments.disk, arguments.runs)
    table_of_links = links(2 * arguments.runs - 1)  # they vary most
    table_of_coding = coding(arguments.runs)
    table_of_slowdown = slowdown(arguments.mib, "replica:2", arguments.runs)
    print(table_of_slowdown, flush=True)
    for protect in arguments.protect:
        numbers = list(map(int, re.findall(r"\d+", protect)))
        count = max(2, sum(numbers)) + 1
        mib = arguments.mib if count <= 4 else arguments.mib // 4
        if common.available_bytes() < 9 * mib * 2**20:
            print(f"{protect}: not enough memory here")
            continue
        bandwidth = ucx_bandwidth()
        first, second, others, back = measure(mib, protect, count, arguments.runs)
        rate = first[0] / first[1]
        windows = [w for _, w in others]
        rows.append([protect, mib, f"{first[1] * 1e3:.0f}", f"{rate / 2**30:.2f}",
                     f"{bandwidth / 2**30:.2f}" if bandwidth else "-",
                     f"{rate / bandwidth:.2f}" if bandwidth else "-", f"{second * 1e3:.0f}",
                     common.milliseconds(windows),
                     f"{common.median([b for b, _ in others]) / 2**20:.1f}",
                     f"{first[1] / common.median(windows):.0f}", f"{back * 1e3:.0f}"])
        print(*rows[-1], sep=" | ", flush=True)
    text = (f"## The node store\n\n{where}. All nodes are processes of this machine, over tcp "
            "loopback, stores in /dev/shm, --durable=crash, links authenticated; one thread, 1 % of "
            f"the pages dirtied in a second; medians (lowest-highest) of {arguments.runs} "
            "checkpoints. Bytes sent are those to other nodes; the node's own part is written besides. The "
            "second checkpoint of a session and one more are not "
            "among the later ones.\n\n"
            + common.table(
                ["protection", "MiB", "first checkpoint: window, ms", "sent, GiB/s",
                 "ucx_perftest tag_bw, GiB/s", "ratio", "second one: window, ms",
                 "window of later ones, ms", "sent, MiB",
                 "full / delta", "back on another node, ms"], rows)
            + "\n\nThe links alone, medians of " + str(2 * arguments.runs - 1) + " in turns: one chunk of 1 MiB after the other, each page compared by the "
            "receiver. ucx_perftest sends one buffer of 1 MiB again and again and looks at nothing. With "
            "-e its endpoints survive the death of their peer, as crstored's do; UCX takes such bytes in "
            "messages then. Without, it uses puts, in which UCX 1.13 ends the process if the peer dies.\n\n"
            + table_of_links + "\n\nWhat a program of one thread computes while a checkpoint goes to "
            "another node each second, runs of 8 s in turns:\n\n" + table_of_slowdown + "\n\nComputing parity of 64 MiB, in GB/s of data in processor time:\n\n"
            + table_of_coding + "\n\n" + disk)
    common.write_section("store", text)


if __name__ == "__main__":
    main()
