# SPDX-License-Identifier: MIT
"""What the checks under tools/dev share: where the repository is, its files, and how a finding looks.

A check is a program without arguments (or few) that prints one line `file:line: rule: message` per
finding and exits 1 if there was any. tools/dev/lint runs them all.
"""
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED_FOLDERS = {'.git', 'build', '.cache', '__pycache__'}


class Findings:
    def __init__(self):
        self.count = 0

    def add(self, path, line, rule, message):
        self.count += 1
        print(f'{path}:{line}: {rule}: {message}', flush=True)

    def exit(self):
        sys.exit(1 if self.count else 0)


def files(*folders):
    """All files below the folders, as paths relative to the repository, sorted."""
    found = []
    for folder in folders:
        for where, below, names in os.walk(os.path.join(ROOT, folder)):
            below[:] = [b for b in below if b not in SKIPPED_FOLDERS and not b.endswith('.image')]
            found += [os.path.relpath(os.path.join(where, n), ROOT) for n in names]
    return sorted(found)


def lines(path):
    """(number, text) of each line of a file of the repository."""
    with open(os.path.join(ROOT, path), encoding='utf-8', errors='replace') as f:
        return list(enumerate(f.read().splitlines(), 1))


def freestanding_layers():
    """The layers whose module.mk says that they are freestanding."""
    found = set()
    for path in glob.glob(os.path.join(ROOT, 'src/*/module.mk')):
        with open(path, encoding='utf-8') as f:
            found.update(re.findall(r'^(\w+)_KIND := freestanding$', f.read(), re.M))
    return found


def is_freestanding(path):
    """May this source run while other threads are stopped? By its layer, or by its name."""
    parts = path.split(os.sep)
    return path.endswith('_stopped.cc') or (
        parts[0] == 'src' and path.endswith(('.cc', '.S')) and parts[1] in freestanding_layers())
