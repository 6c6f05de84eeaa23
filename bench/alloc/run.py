#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py - compares allocators that can be preloaded: CPU seconds, peak memory, pages dirtied.

Each benchmark runs under each allocator in turn, N times, one process at a time. CPU is user and
system time of the process with all its threads, memory its highest resident set. A run that fails
is shown with how it ended, and then the benchmark has no figures for that allocator. A run
whose output differs from the first one's has failed too. Exit status: 0; 1 something failed.

  python3 bench/alloc/run.py                               all; `make bench-alloc` adds --dirty
  python3 bench/alloc/run.py --only larson redis --runs 3  names may be beginnings of names
  python3 bench/alloc/run.py --only --dirty                pages dirtied, nothing else
"""

import argparse
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import common  # noqa: E402
import programs  # noqa: E402

BASE = "jemalloc"
DIRTY_RUNS = 3


# ---------------------------------------------------------------------------------- allocators ----


class Allocator:
    """name; the library that malloc then comes from; the environment that brings it."""

    def __init__(self, name, library, environment):
        self.name, self.library, self.environment = name, library, environment
        self.real_name = name

    def check(self):
        """None, or why it cannot be measured. An LD_PRELOAD that does not work is only a message
        of the dynamic linker, and then the figures would be another allocator's."""
        done = subprocess.run([common.program("alloc_bench"), "whose"], env=self.environment,
                              capture_output=True, text=True, check=False)
        found = pathlib.Path(done.stdout.strip() or "-")
        if done.returncode != 0:
            status = programs.how_it_ended(done.returncode)
            return f"FAIL {status}, `alloc_bench whose` {done.stderr.strip()[-200:]}".rstrip()
        if not found.name.startswith(self.library):
            return f"{self.library} is not there or not used: malloc comes from {found}"
        self.real_name = found.resolve().name
        return None


def bare_environment():
    """Without what steers allocators, and nothing that depends on who runs us."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**keep, "LC_ALL": "C", "PYTHONHASHSEED": "0"}


def allocators(names, library):
    """[Allocator]. glibc is preloaded too: a program that is linked with another allocator, as
    redis-server often is, would not use it otherwise."""
    base = bare_environment()
    known = {
        "glibc": Allocator("glibc", "libc.so", {**base, "LD_PRELOAD": "libc.so.6"}),
        "jemalloc": Allocator("jemalloc", "libjemalloc.so",
                              {**base, "LD_PRELOAD": "libjemalloc.so.2"}),
        "mimalloc": Allocator("mimalloc", "libmimalloc.so",
                              {**base, "LD_PRELOAD": "libmimalloc.so.2"}),
        "nvheap": Allocator("nvheap", pathlib.Path(library).name,
                            {**base, "LD_PRELOAD": str(library), "CR_MODE": "heap"}),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"run.py: no such allocator: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names]


# ----------------------------------------------------------------------------------- measuring ----


class Result:
    """Of one benchmark with one allocator."""

    def __init__(self):
        self.figures, self.failures = [], []

    def failure(self):
        runs = len(self.figures) + len(self.failures)
        many = f", {len(self.failures)} of {runs} runs" if runs > 1 else ""
        return f"FAIL {self.failures[0]}{many}"

    def of(self, what):
        return [] if self.failures else [getattr(one, what) for one in self.figures]


def measure(job, chosen, runs, folder):
    """{allocator name: Result}; the allocators take turns."""
    results = {allocator.name: Result() for allocator in chosen}
    digest = None
    for _ in range(runs):
        for allocator in chosen:
            result = results[allocator.name]
            try:
                figures = job.run(folder, allocator.environment)
                digest = digest or figures.digest
                if figures.digest != digest:
                    raise programs.Failed("output differs from the first run's")
                result.figures.append(figures)
            except programs.Failed as failure:
                result.failures.append(str(failure))
    return results


def cell(results, name, what, scale, digits):
    """Median and, but for the base, its ratio to the base's."""
    result = results[name]
    if result.failures:
        return f"FAIL {result.failures[0].partition(':')[0]}"
    text = f"{common.median(result.of(what)) * scale:.{digits}f}"
    if name != BASE and BASE in results and results[BASE].of(what):
        text += f" ({common.ratio(result.of(what), results[BASE].of(what))})"
    return text


def geometric_mean(all_results, name, what):
    """Of the medians over the base's, of the benchmarks that both ran; and their number."""
    logs = []
    for results in all_results.values():
        if BASE not in results or name not in results:
            continue
        ours, base = results[name].of(what), results[BASE].of(what)
        if ours and base and common.median(ours) > 0:
            logs.append(math.log(common.median(ours) / common.median(base)))
    return (math.exp(sum(logs) / len(logs)) if logs else None), len(logs)


def time_tables(all_results, missing, chosen):
    """The CPU table, the memory table, the means, the failures."""
    parts = []
    for title, what, scale, digits in (("CPU seconds, user and system", "cpu", 1, 2),
                                       ("Peak resident memory, MiB", "peak_kib", 1 / 1024, 1)):
        header = ["benchmark"] + [f"{allocator.name}" for allocator in chosen]
        rows = [[name] + [cell(results, a.name, what, scale, digits) for a in chosen]
                for name, results in all_results.items()]
        rows += [[name, reason] + [""] * (len(chosen) - 1) for name, reason in missing.items()]
        mean_row = ["**geometric mean of the ratios**"]
        for allocator in chosen:
            mean, count = geometric_mean(all_results, allocator.name, what)
            few = f", of the {count} with figures" if count != len(all_results) else ""
            mean_row.append("-" if mean is None else f"**{mean:.3f}**{few}")
        parts.append(f"### {title}\n\n" + common.table(header, rows + [mean_row]))
    failures = [f"- {name}, {allocator}: {result.failure()}"
                for name, results in all_results.items()
                for allocator, result in results.items() if result.failures]
    if failures:
        parts.append("Failed:\n\n" + "\n".join(failures))
    return "\n\n".join(parts)


def measure_all(jobs, chosen, runs):
    """The results by benchmark, and why others could not run."""
    all_results, missing = {}, {}
    for number, job in enumerate(jobs, 1):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="crbench-"))
        try:
            job.prepare(folder)
            results = measure(job, chosen, runs, folder)
        except programs.NotInstalled as reason:
            missing[job.name] = "not installed"
            print(f"{job.name}: {reason}", flush=True)
            continue
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        all_results[job.name] = results
        print(f"[{number}/{len(jobs)}] {job.name}: " + "; ".join(
            f"{name} {result.failure()}" if result.failures else
            f"{name} {cell(results, name, 'cpu', 1, 2)} s, "
            f"{cell(results, name, 'peak_kib', 1 / 1024, 1)} MiB"
            for name, result in results.items()), flush=True)
    return all_results, missing


# ----------------------------------------------------------------------------- pages dirtied ----


def dirty_pages(allocator):
    """{variant: (pages written, pages there)} of one run of bench/dirty_pages.cc per variant."""
    program = common.program("dirty_pages")
    names = subprocess.run([program, "list"], check=True, capture_output=True,
                           text=True).stdout.split()
    counts = {}
    for name in names:
        done = subprocess.run([program, name], env=allocator.environment, capture_output=True,
                              text=True, check=False)
        found = re.fullmatch(r"\S+ (\d+) of (\d+)", done.stdout.strip())
        if done.returncode == 77:
            sys.exit(done.stderr.strip())
        if done.returncode != 0 or not found:
            message = done.stderr.strip().splitlines()
            counts[name] = (f"FAIL {programs.how_it_ended(done.returncode)}"
                            + (f": {message[-1]}" if message else ""))
        else:
            counts[name] = (int(found.group(1)), int(found.group(2)))
    return counts


def dirty_table(chosen):
    counts = {}  # variant -> allocator -> [count or failure]
    for _ in range(DIRTY_RUNS):
        for allocator in chosen:
            for variant, count in dirty_pages(allocator).items():
                counts.setdefault(variant, {}).setdefault(allocator.name, []).append(count)
    rows, resident = [], {}
    for variant, by_allocator in counts.items():
        row = [variant]
        for allocator in chosen:
            values = by_allocator[allocator.name]
            failed = [value for value in values if isinstance(value, str)]
            if failed:
                row.append(failed[0])
                continue
            row.append(f"{common.median([written for written, _ in values]):.0f}")
            resident[allocator.name] = common.median([there for _, there in values])
        rows.append(row)
    rows.append(["pages there at the reset"]
                + [f"{resident[a.name]:.0f}" if a.name in resident else "-" for a in chosen])
    return ("### Pages dirtied\n\nWritten by 10,000 operations on 200,000 live objects of 16 to "
            "1024 bytes, 4 KiB pages of private anonymous memory; `bench/dirty_pages.cc` says what "
            f"each line does. Medians of {DIRTY_RUNS}.\n\n"
            + common.table(["workload"] + [a.name for a in chosen], rows))


# ---------------------------------------------------------------------------------------- main ----


def arguments_of():
    parser = argparse.ArgumentParser(description="Compares allocators that can be preloaded.")
    parser.add_argument("--runs", type=int, default=5, help="of each benchmark (default: 5)")
    parser.add_argument("--only", nargs="*", metavar="NAME",
                        help="benchmarks, or beginnings of their names; none: no benchmark")
    parser.add_argument("--allocators", default="glibc,jemalloc,mimalloc,nvheap",
                        help="separated by commas (default: %(default)s)")
    parser.add_argument("--library", default=str(common.BUILD / "lib" / "libcrpreload.so"),
                        help="the libcrpreload.so of nvheap (default: the build's)")
    parser.add_argument("--dirty", action="store_true", help="also count the pages dirtied")
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md")
    parser.add_argument("--json", metavar="FILE", help="write every run's figures")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    return arguments


def main():
    arguments = arguments_of()
    jobs = programs.all_jobs()
    if arguments.only is not None:
        wrong = [w for w in arguments.only if not any(j.name.startswith(w) for j in jobs)]
        if wrong:
            sys.exit(f"run.py: no such benchmark: {' '.join(wrong)}; there are "
                     + " ".join(job.name for job in jobs))
        jobs = [job for job in jobs if any(job.name.startswith(w) for w in arguments.only)]
    common.be_first()
    text = f"## Allocators\n\n{common.machine()}. "
    chosen, notes = [], []
    for allocator in allocators(arguments.allocators.split(","),
                                pathlib.Path(arguments.library).resolve()):
        reason = allocator.check()
        if reason is None:
            chosen.append(allocator)
        else:
            notes.append(f"No figures of {allocator.name}: {reason}.")
    text += ", ".join(f"{a.name}: {a.real_name}" for a in chosen) + ".\n"
    text += "".join(f"{note}\n" for note in notes)
    print(text, flush=True)
    all_results = {}
    if jobs:
        all_results, missing = measure_all(jobs, chosen, arguments.runs)
        part = (f"\nMedians of {arguments.runs} runs, the allocators taking turns; in brackets the "
                f"ratio to {BASE}'s, below 1 is better.\n\n"
                + time_tables(all_results, missing, chosen) + "\n")
        print(part, flush=True)
        text += part
    if arguments.dirty:
        part = "\n" + dirty_table(chosen) + "\n"
        print(part, flush=True)
        text += part
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(
            {name: {who: {"failures": result.failures, "runs": [vars(f) for f in result.figures]}
                    for who, result in results.items()}
             for name, results in all_results.items()}, indent=1))
    if arguments.write:
        common.write_section("alloc", text)
    sys.exit(1 if "FAIL" in text else 0)


if __name__ == "__main__":
    main()
