# SPDX-License-Identifier: MIT
"""huge_pages.py - gives a test huge pages on a machine that has none.

Invariant: what was added to the kernel's pool is taken out again when the test has ended, however
it ended. Several tests, also of several runners, may do so at one time: each adds its own.
"""

import contextlib
import fcntl
import os

from harness import Skip

POOL = "/proc/sys/vm/nr_hugepages"


def _change(by):
    """Adds to the pool; returns by how many pages it has really grown."""
    with open(POOL, "r+", encoding="ascii") as pool:
        fcntl.flock(pool, fcntl.LOCK_EX)
        before = int(pool.read())
        pool.seek(0)
        pool.write(str(max(0, before + by)))
        pool.flush()
        pool.seek(0)
        return int(pool.read()) - before


@contextlib.contextmanager
def borrowed(count):
    """So many huge pages more, for root; others use what is there. Skip if there is no room."""
    if count == 0 or os.geteuid() != 0:
        yield
        return
    try:
        added = _change(count)
    except OSError as error:
        raise Skip(f"{POOL} cannot be raised: {error.strerror}") from None
    try:
        if added < count:
            raise Skip(f"{POOL}: the kernel found room for {added} huge pages, not {count}")
        yield
    finally:
        _change(-added)
