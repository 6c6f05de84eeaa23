#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""open_files.py - what opening a file costs under crrun, which keeps what files were.

One file is opened and closed (open_files.c) without crrun, under it before the first checkpoint, and
after one: then its content is copied at the first opening to write, and each later one is looked at.
The ways take turns, so that the machine's moods hit all.

  python3 bench/open_files.py [--runs N]
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile
import time

import common

WAYS = ("without", "under crrun", "after a checkpoint", "... --durable=crash")


def measure(directory, what, way):
    """Nanoseconds of one run."""
    image = directory / "image"
    shutil.rmtree(image, ignore_errors=True)
    checkpoint = WAYS.index(way) >= 2
    command = [common.program("open_files"), what, "700" if checkpoint else "0"]
    if way != "without":
        durable = ["--durable=crash"] if way == WAYS[3] else []
        command = [common.tool("crrun"), "-d", str(image), "-i", "off", *durable, "--", *command]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=directory)
    if checkpoint:
        time.sleep(0.3)
        subprocess.run([common.tool("crckpt"), str(image)], check=True, capture_output=True)
    out, _ = program.communicate()
    if program.returncode != 0:
        raise SystemExit(f"{command}: status {program.returncode}")
    return float(out)


def main():
    parser = argparse.ArgumentParser(description="Cost of opening files under crrun.")
    parser.add_argument("--runs", type=int, default=15, help="of each way (default: 15)")
    arguments = parser.parse_args()
    common.be_first()
    where = common.machine()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="crbench-"))
    rows = []
    try:
        for what in ("read", "write"):
            values = {way: [] for way in WAYS}
            for number in range(arguments.runs):
                for way in (WAYS if number % 2 else reversed(WAYS)):
                    values[way].append(measure(directory, what, way))
            least = {way: min(v) for way, v in values.items()}
            rows.append((f"to {what}", *(f"{least[way]:.0f} ns" + (
                "" if way == "without" else f", {least[way] / least['without']:.3f}")
                for way in WAYS)))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = (f"## Opening files\n\n{where}. One open and close; the least of {arguments.runs} runs, "
            "each the best of 15 rounds of 10,000, and the ratio to without; the ways take turns."
            "\n\n" + common.table(("opened", *WAYS), rows))
    print(text)
    common.write_section("open_files", text)


if __name__ == "__main__":
    main()
