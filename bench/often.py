#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""often.py - many checkpoints in a second: the slowdown of a program of 64 MiB that dirties 100 pages
for each, and the merge sort of 8192 integers with one checkpoint for every merge.

Images are in /dev/shm. Runs with and without checkpoints take turns.

  python3 bench/often.py --runs 5
"""

import argparse
import re
import shutil
import subprocess
import tempfile

import common

RATES = (100, 1000)
SECONDS = 1.0
# And once in a second, of a larger program that dirties 1 % of its pages meanwhile.
SLOW_MIB, SLOW_SECONDS = 1024, 6.0


def often(directory, how, rate, mib=64, pages=100, span=SECONDS, protect=None, environment=None):
    """(units per second, checkpoints whole per second) of one run; directory None: without."""
    command = [common.program("often"), directory or "-", str(mib), str(pages), how, str(rate),
               str(span), *([protect] if protect else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    units, _taken, whole, seconds = map(float, done.stdout.split()[:4])
    return units / seconds, whole / seconds


def in_memory(run):
    """run(directory) with an image directory in memory."""
    directory = tempfile.mkdtemp(prefix="crbench-", dir="/dev/shm")
    try:
        return run(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def sort(*options):
    """Seconds that the merge sort says it took."""
    done = subprocess.run([str(common.BUILD / "demos" / "mergesort"), *options],
                          capture_output=True, text=True, check=True)
    return float(re.search(r"mergesort: ([0-9.]+) s", done.stderr).group(1))


def main():
    parser = argparse.ArgumentParser(description="Many checkpoints in a second.")
    parser.add_argument("--runs", type=int, default=5, help="of each figure (default: 5)")
    arguments = parser.parse_args()
    common.be_first()
    where = common.machine()
    rows = []
    for how in ("hot", "moving"):
        for rate in RATES:
            slow, reached = [], []
            for _ in range(arguments.runs):
                without, _ = often(None, how, rate)
                units, whole = in_memory(lambda d, h=how, r=rate: often(d, h, r))
                slow.append(100 * (1 - units / without))
                reached.append(whole)
            pages = "the same ones" if how == "hot" else "others each time"
            rows.append([f"{rate}", pages, f"{common.median(reached):.0f}",
                         f"{common.median(slow):.1f} ({min(slow):.1f}-{max(slow):.1f})"])
            print(*rows[-1], sep=" | ", flush=True)
    slow = []
    pages = SLOW_MIB * 256 // 100
    for _ in range(arguments.runs):
        without, _ = often(None, "moving", 1, SLOW_MIB, pages, SLOW_SECONDS)
        units, _ = in_memory(lambda d: often(d, "moving", 1, SLOW_MIB, pages, SLOW_SECONDS))
        slow.append(100 * (1 - units / without))
    once = f"{common.median(slow):.2f} ({min(slow):.2f}-{max(slow):.2f})"
    print("once in a second", once, sep=" | ", flush=True)
    plain = [sort("--no-checkpoint") for _ in range(arguments.runs)]
    sorts = [in_memory(lambda d: sort("--image", d + "/image")) for _ in range(arguments.runs)]
    text = (f"## Many checkpoints\n\n{where}. Images in /dev/shm. 64 MiB, 100 pages dirtied for each "
            f"checkpoint(); medians (lowest-highest) of {arguments.runs} runs of {SECONDS:g} s, with "
            "and without checkpoints in turns.\n\n"
            + common.table(("wanted per second", "pages", "whole per second", "slowdown, %"), rows)
            + f"\n\nOnce in a second, {SLOW_MIB} MiB, 1 % of the pages dirtied meanwhile, runs of "
            f"{SLOW_SECONDS:g} s: slowdown {once} %.\n\nMerge sort of 8192 integers, 8191 checkpoints, each whole before the next one "
            f"begins: {common.milliseconds(sorts)} ms; without any {common.milliseconds(plain)} ms.\n")
    print(text)
    common.write_section("often", text)


if __name__ == "__main__":
    main()
