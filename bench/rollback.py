#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""rollback.py - how long restore() takes: in place, and by beginning the program anew.

The same program (rollback.c) with the same pages dirtied; the two ways take turns, images in
/dev/shm. A run in which restore() was not done in the way it should be is an error.

  python3 bench/rollback.py [--mib N ...] [--percent P ...] [--runs N]
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import common

PAGES_PER_MIB = 256


def run(mib, dirty_pages, runs, in_place):
    """Seconds of each rollback."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="crbench-", dir="/dev/shm"))
    times = directory / "times"
    environment = {**os.environ}
    if not in_place:
        environment["CR_ROLLBACK"] = "exec"
    try:
        subprocess.run([common.tool("crrun"), "-d", str(directory / "image"), "-i", "off", "--",
                        common.program("rollback"), str(times), str(mib), str(dirty_pages),
                        str(runs)], check=True, env=environment)
        seconds = []
        for line in times.read_text().splitlines():
            nanoseconds, was_in_place = line.split()
            if was_in_place != ("1" if in_place else "0"):
                sys.exit("restore() was done in another way than it should be")
            seconds.append(int(nanoseconds) * 1e-9)
        if len(seconds) != runs:
            sys.exit(f"{len(seconds)} rollbacks instead of {runs}")
        return seconds
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def show(values):
    return (f"{common.median(values) * 1e3:.2f} "
            f"({min(values) * 1e3:.2f}-{max(values) * 1e3:.2f})")


def main():
    parser = argparse.ArgumentParser(description="restore() in place and by exec.")
    parser.add_argument("--mib", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--percent", type=float, nargs="+", default=[0, 1, 10])
    parser.add_argument("--runs", type=int, default=9, help="of each figure (default: 9)")
    arguments = parser.parse_args()
    common.be_first()
    where = common.machine()
    rows = []
    for mib in arguments.mib:
        for percent in arguments.percent:
            pages = int(mib * PAGES_PER_MIB * percent / 100)
            here, anew = [], []
            for _ in range(3):  # they take turns
                share = max(1, arguments.runs // 3)
                here += run(mib, pages, share, True)
                anew += run(mib, pages, share, False)
            rows.append((f"{mib} MiB, {percent:g} % dirty", show(here), show(anew),
                         common.ratio(here, anew)))
            print(rows[-1], flush=True)
    text = (f"## restore()\n\n{where}. Milliseconds from the call of restore() to the return of "
            f"checkpoint(), medians (lowest-highest) of {3 * max(1, arguments.runs // 3)}; the two "
            "ways take turns; images on /dev/shm.\n\n"
            + common.table(("memory", "in place", "beginning anew (exec)", "ratio"), rows))
    print(text)
    common.write_section("rollback", text)


if __name__ == "__main__":
    main()
