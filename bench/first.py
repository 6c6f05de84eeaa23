#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""first.py - the first checkpoint of a program, of which nothing is known yet: how long it stands
still, and how fast its memory is copied while it runs, beside memcpy of as much in the same run.

Images are in /dev/shm. 8 threads, 1 % of the pages dirtied in a second.

  python3 bench/first.py --runs 5 --mib 256 1024 4096
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile

import common
import run

THREADS = 8


def one(mib):
    """(pause seen, pause said, bytes copied early per second, time the host took away meanwhile) of
    one first checkpoint."""
    directory = tempfile.mkdtemp(prefix="crbench-", dir="/dev/shm")
    ours = run.Ours(directory, "crash")
    status = run.Status(pathlib.Path(directory) / "status", THREADS)
    try:
        ours.start([common.program("hog"), str(status.path), str(mib), str(THREADS),
                    str(mib * 0.01)])
        try:
            begin = run.now_ns()
            run.wait_for(lambda: status.all_stamped_after(begin), "start of the hog")
            stolen = common.stolen_seconds()
            begin = run.now_ns()
            said = ours.checkpoint()
            end = run.now_ns()
            stolen = common.stolen_seconds() - stolen
            run.wait_for(lambda: status.all_stamped_after(end), "progress")
            seen = status.longest_gap(begin, end)
            text = subprocess.run([common.tool("crinspect"), "history", "--json", str(ours.image)],
                                  check=True, capture_output=True, text=True).stdout
            record = json.loads(text)["attempts"][0]
        finally:
            ours.stop()
        return seen, said, record["staged_bytes"] / (record["precopy_ns"] * 1e-9), stolen
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def memcpy_rates(mib, runs):
    """Bytes per second: to memory that is there, and to new memory."""
    done = subprocess.run([common.program("copy"), str(mib), str(runs)], check=True,
                          capture_output=True, text=True)
    times = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return [[mib * 2**20 / (t[i] * 1e-9) for t in times] for i in (0, 1)]


def main():
    parser = argparse.ArgumentParser(description="The first checkpoint.")
    parser.add_argument("--runs", type=int, default=5, help="of each figure (default: 5)")
    parser.add_argument("--mib", type=int, nargs="+", default=[256, 1024, 4096])
    arguments = parser.parse_args()
    common.be_first()
    where = common.machine()
    rows = []
    for mib in arguments.mib:
        if common.available_bytes() < 4 * mib * 2**20:
            print(f"{mib} MiB: not enough memory here")
            continue
        there, new = memcpy_rates(min(mib, 1024), arguments.runs)
        results = [one(mib) for _ in range(arguments.runs)]
        rate = common.median([r[2] for r in results])
        rows.append([mib, common.milliseconds([r[0] for r in results]),
                     common.milliseconds([r[1] for r in results]),
                     common.milliseconds([r[3] for r in results]), f"{rate / 2**30:.2f}",
                     f"{common.median(there) / 2**30:.2f}", f"{rate / common.median(there):.2f}",
                     f"{common.median(new) / 2**30:.2f}", f"{rate / common.median(new):.2f}"])
        print(*rows[-1], sep=" | ", flush=True)
    text = (f"## The first checkpoint\n\n{where}. Images in /dev/shm, --durable=crash, {THREADS} "
            "threads, 1 % of the pages dirtied in a second; medians (lowest-highest) of "
            f"{arguments.runs} runs.\n\n" + common.table(
                ("MiB", "pause seen, ms", "stopped, ms", "stolen by the host meanwhile, ms",
                 "copied early, GiB/s",
                 "memcpy to memory that is there, GiB/s", "ratio", "memcpy to new memory, GiB/s",
                 "ratio"), rows) + "\n")
    common.write_section("first", text)


if __name__ == "__main__":
    main()
