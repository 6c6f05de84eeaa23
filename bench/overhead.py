#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""overhead.py - what being under crrun costs between checkpoints.

Small operations of a single-threaded program (overhead.cc) and the start of `true`, without and with
crrun, one run after the other so that the machine's moods hit both.

  python3 bench/overhead.py [--runs N] [--starts N]
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile
import time

import common


def operations(command):
    """name -> nanoseconds, of one run."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in done.stdout.splitlines())}


def start_seconds(command):
    begin = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - begin


def measure(runs, starts):
    """{what: [without...]}, {what: [with...]}"""
    without, with_crrun = {}, {}
    directory = pathlib.Path(tempfile.mkdtemp(prefix="crbench-"))
    crrun = [common.tool("crrun"), "-d", str(directory / "image"), "-i", "off", "--"]
    plain = [common.program("overhead")]
    try:
        for number in range(runs + 1):
            for command, result in ((plain, without), (crrun + plain, with_crrun)):
                for name, value in operations(command).items():
                    if number > 0:  # the first one warms up
                        result.setdefault(name, []).append(value)
        for number in range(starts + 2):
            for command, result in ((["true"], without), (crrun + ["true"], with_crrun)):
                seconds = start_seconds(command)
                if number > 1:
                    result.setdefault("start of true", []).append(seconds * 1e9)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return without, with_crrun


def show(values):
    unit, scale = ("ms", 1e6) if common.median(values) > 1e5 else ("ns", 1)
    digits = 1 if scale == 1 and common.median(values) >= 100 else 2
    return (f"{common.median(values) / scale:.{digits}f} {unit} "
            f"({min(values) / scale:.{digits}f}-{max(values) / scale:.{digits}f})")


def main():
    parser = argparse.ArgumentParser(description="Cost of being under crrun between checkpoints.")
    parser.add_argument("--runs", type=int, default=9, help="of the operations (default: 9)")
    parser.add_argument("--starts", type=int, default=31, help="of true (default: 31)")
    arguments = parser.parse_args()
    common.be_first()
    where = common.machine()
    without, with_crrun = measure(arguments.runs, arguments.starts)
    rows = [(name, show(without[name]), show(with_crrun[name]),
             common.ratio(with_crrun[name], without[name])) for name in without]
    text = (f"## Overhead between checkpoints\n\n{where}. Medians (lowest-highest) of "
            f"{arguments.runs} runs, of the start {arguments.starts}; `crrun -i off`; runs with and "
            "without crrun alternate.\n\n"
            + common.table(("one operation, single-threaded", "without", "under crrun", "ratio"),
                           rows))
    print(text)
    common.write_section("overhead", text)


if __name__ == "__main__":
    main()
