#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""matrix.py - each kind of state, in each way of coming back; ends with a table.

A kind is a three-phase program of tests/system/programs that goes through "cycles". The ways:
once (one kill and restore), three times, incremental (checkpoints that build on one another, then a
kill that comes later), lazy (crrestore --lazy; root), unprivileged (three times, as nobody).

  python3 tests/system/matrix.py                 all of it, some fifteen minutes
  python3 tests/system/matrix.py 'kind/fd_*'
"""

import argparse
import collections
import os
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
import run  # noqa: E402
from harness import Session, Skip, Test  # noqa: E402

COLUMNS = {"once": "root", "three_times": "root", "incremental": "root", "lazy": "root",
           "unprivileged": "nobody"}
INCREMENTS = 4

_results = {}
_results_lock = threading.Lock()
_alone = collections.defaultdict(threading.Lock)  # a kind may use ports or numbers of terminals


def note(kind, column, what):
    with _results_lock:
        _results.setdefault(kind, {})[column] = what


def kill_at_checkpoint(session, program):
    if program.kill == "later":
        run.checkpoint(session, program)
        session.ping()
        session.kill()
    else:
        session.checkpoint(then="kill")
        session.wait_end(status=137)


def come_back(workspace, program, column):
    harness.require_restore(workspace.user)
    session = Session(workspace, [workspace.program(program.name)])
    session.start()
    session.wait_ready()
    if column == "incremental":
        for _ in range(INCREMENTS):
            run.checkpoint(session, program)
            session.ping()
            time.sleep(0.02)
        session.kill()
        time.sleep(program.pause)
        session.restore()
        session.ping()
    else:
        for _ in range(1 if column in ("once", "lazy") else run.CYCLES):
            time.sleep(program.pause)
            kill_at_checkpoint(session, program)
            time.sleep(program.pause)
            session.restore(("-i", "off", "--lazy") if column == "lazy" else ("-i", "off"))
            session.ping()
    session.go()
    session.expect_pass()


def run_cell(workspace, program, column):
    note(program.name, column, "FAIL")
    try:
        if column == "lazy" and os.geteuid() != 0:
            raise Skip("--lazy takes root")
        if column in program.matrix_skips.split(","):
            raise Skip("not a way for this kind, see its source")
        with _alone[program.name]:
            run.provide(workspace, program)
            come_back(workspace, program, column)
        note(program.name, column, "ok")
    except Skip:
        note(program.name, column, "-")
        raise


def kinds():
    return [program for program in run.find_programs()
            if not program.mode.startswith("refuse:") and "cycles" in program.mode.split(",")]


def tests():
    """All tests, as harness.Test."""
    result = []
    for column, name in COLUMNS.items():
        for program in kinds():
            users = program.users.split(",")
            for user in harness.usable_users([name] if name in users else []):
                result.append(Test(
                    name=f"kind/{program.name}/{column}", user=user, timeout=program.timeout,
                    function=lambda workspace, program=program, column=column:
                    run_cell(workspace, program, column),
                    repeat=f"python3 tests/system/matrix.py kind/{program.name}/{column}"))
    return result


def table():
    width = max((len(kind) for kind in _results), default=4)
    lines = ["", "kind".ljust(width) + "".join(f"  {c.replace('_', ' '):12}" for c in COLUMNS)]
    for kind in sorted(_results):
        cells = (_results[kind].get(column, "-") for column in COLUMNS)
        lines.append(kind.ljust(width) + "".join(f"  {cell:12}" for cell in cells).rstrip())
    return "\n".join(lines) + "\n"


def run_all(jobs=2, keep=False, names=(), user=None):
    counts = harness.run_tests(harness.select(tests(), list(names), user), jobs, keep)
    harness.say(table())
    return counts


def main():
    parser = argparse.ArgumentParser(description="Each kind of state in each way of coming back.")
    harness.add_common_arguments(parser)
    arguments = parser.parse_args()
    if arguments.list:
        return harness.run_main(tests(), arguments)
    try:
        counts = run_all(arguments.jobs, arguments.keep, arguments.names, arguments.user)
    finally:
        harness.BUILD.remove_copy()
    print(counts.line())
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
