# SPDX-License-Identifier: MIT
"""common.py - what the benchmarks share: where the build is, medians, quiet surroundings, the file
of results.

Invariant: every figure that is written was measured in this run; ratios are between figures of one
run on one machine.
"""

import datetime
import os
import pathlib
import platform
import re
import statistics
import sys

REPO = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("CR_BUILD_DIR", REPO / "build")).resolve()
RESULTS = pathlib.Path(os.environ.get("CR_BENCH_RESULTS", REPO / "bench" / "RESULTS.md"))


def tool(name):
    return str(BUILD / "bin" / name)


def program(name):
    path = BUILD / "bench" / name
    if not path.exists():
        sys.exit(f"{path} has not been built; use `make bench`")
    return str(path)


def be_first():
    """Ahead of other sessions on a shared machine. Children must not begin a session of their own."""
    try:
        with open("/proc/self/autogroup", "w") as file:
            file.write("-20\n")
    except OSError:
        pass
    try:
        os.nice(-10)
    except OSError:
        pass


def median(values):
    return statistics.median(values) if values else None


def milliseconds(values):
    """"median (lowest-highest)" of seconds."""
    if not values:
        return "-"
    return f"{median(values) * 1e3:.1f} ({min(values) * 1e3:.1f}-{max(values) * 1e3:.1f})"


def ratio(values, base):
    """Ours over theirs: below 1 is better."""
    return f"{median(values) / median(base):.2f}" if values and base and median(base) else "-"


def available_bytes():
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"MemAvailable:\s+(\d+)", text).group(1)) << 10


def machine():
    cpu = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    load = os.getloadavg()[0]
    return (f"{datetime.date.today().isoformat()}, Linux {platform.release()}, "
            f"{len(os.sched_getaffinity(0))} cores ({cpu.group(1).strip() if cpu else '?'}), "
            f"load {load:.1f} at the start")


def stolen_seconds():
    """Time for which the host has kept this machine's processors from it, all together; of a
    hundredth's resolution."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


def table(header, rows):
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def write_section(name, text):
    """Puts a section into RESULTS.md; the others stay as they are."""
    head = ("# Results of the benchmarks\n\nWritten by `make bench`; every figure was measured in "
            "the run that its section names. Absolute times come from whatever machine that was: "
            "compare within a section.\n")
    old = RESULTS.read_text() if RESULTS.exists() else head
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    section = begin + text.rstrip() + "\n" + end
    at = old.find(begin)
    if at >= 0:
        new = old[:at] + section + old[old.index(end, at) + len(end):]
    else:
        new = old.rstrip() + "\n\n" + section
    RESULTS.write_text(new)
