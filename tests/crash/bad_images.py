# SPDX-License-Identifier: MIT
"""bad_images.py - images that are truncated, flipped, foreign, too new or of another machine.

Invariant: crrestore refuses with the right one of the four errors and status 125, starts nothing,
leaves the image files as they were byte for byte, and names the older checkpoint that is whole and
how to have it.
"""

import os
import random
import re

from harness import Failure
from subject import Subject

FOREIGN, DAMAGED = r"foreign: ", r"damaged: "
TOO_NEW, WRONG_MACHINE = r"too new: ", r"wrong machine: "


class BadImages:
    """An image directory with two whole checkpoints; attempts spoil the newer one and put it back."""

    def __init__(self, workspace, environment=None):
        self.subject = Subject(workspace, environment=environment)
        self.subject.start()
        self.subject.progress("progress of all threads under crrun")
        self.subject.checkpoint()
        self.subject.checkpoint()
        self.subject.kill_all()
        self.subject.check_output()
        images = self.subject.images()
        self.newest = self.subject.image / f"image.{images.newest_index()}"
        self.older = self.subject.image / f"image.{1 - images.newest_index()}"
        self.sequence, self.older_sequence = images.whole.sequence, images.whole.sequence - 1
        self.good = self.newest.read_bytes()
        self.mode = self.newest.stat().st_mode & 0o7777
        self.regions = self.read_regions()
        self.tried = 0

    def read_regions(self):
        """name -> (offset, bytes), in the newest buffer."""
        done = self.patch("regions")
        return {name: (int(off), int(size))
                for name, off, size in (line.split() for line in done.stdout.splitlines())}

    def patch(self, *words):
        return self.subject.workspace.run(
            [self.subject.binary("patch_image"), str(self.newest), *words], check=0)

    def put_back(self):
        if self.newest.is_symlink() or self.newest.is_file():
            self.newest.unlink()
        elif self.newest.is_dir():
            self.newest.rmdir()
        self.newest.write_bytes(self.good)
        self.newest.chmod(self.mode)
        self.subject.workspace.user.give(self.newest)

    def spoil(self, data):
        self.newest.write_bytes(data)

    def flip(self, off, bit):
        data = bytearray(self.good)
        data[off] ^= 1 << bit
        self.spoil(data)

    def contents(self):
        """All that must not change."""
        found = {}
        for path in (self.newest, self.older):
            if path.is_symlink():
                found[path] = os.readlink(path)
            elif path.is_file():
                found[path] = (path.read_bytes(), path.stat().st_mode)
        return found

    def crrestore(self, *options):
        return self.subject.workspace.run(
            [self.subject.workspace.tool("crrestore"), "-i", "off", *options,
             str(self.subject.image)], environment=self.subject.environment)

    def expect_refused(self, what, expression, names_older=True):
        """crrestore refuses the directory as it is now; then the newest buffer is put back."""
        self.tried += 1
        before = self.contents()
        self.subject.clear_records()
        done = self.crrestore()
        if done.returncode != 125 or not re.search(expression, done.stderr):
            raise Failure(f"{what}: crrestore should say /{expression}/ with status 125, got "
                          f"{done.returncode}: {done.stdout}{done.stderr}")
        if names_older and f"--sequence {self.older_sequence}" not in done.stderr:
            raise Failure(f"{what}: crrestore should name --sequence {self.older_sequence}, which "
                          f"is whole: {done.stderr}")
        if self.subject.left_over() or self.subject.records():
            raise Failure(f"{what}: something was started: {self.subject.describe()}")
        if self.contents() != before:
            raise Failure(f"{what}: the image files were changed")
        self.put_back()

    def expect_older_works(self):
        """--sequence N-1 brings the older one back, whole."""
        whole = self.subject.images().buffers[int(self.older.name[-1])]
        self.subject.restore(options=("-i", "off", "--sequence", str(self.older_sequence)))
        self.subject.check_restored(whole)
        self.subject.finish()
        self.subject.expect_gone()


def truncated(bad, rng, rounds):
    """At the ends of all structures, around them, and anywhere."""
    end = len(bad.good)
    lengths = {1, 8, 15, 16, 100, 511, 512, 513, 4095, 4096, 4097, end - 1, end // 2}
    for off, size in bad.regions.values():
        lengths |= {off - 1, off, off + 1, off + size - 1, off + size}
    lengths |= {rng.randrange(end) for _ in range(rounds)}
    for length in sorted(length for length in lengths if 0 < length < end):
        bad.spoil(bad.good[:length])
        bad.expect_refused(f"truncated to {length} of {end} bytes",
                           FOREIGN if length < 16 else DAMAGED)
    # A buffer that is empty was never written: then n-1 is the newest.
    bad.spoil(b"")
    bad.subject.restore(options=("-i", "off"))
    bad.subject.check_restored(bad.subject.images().whole)
    bad.subject.kill_all()


def flipped(bad, rng, rounds):
    """Single bits, in each region; the first and last byte of each too."""
    for name, (off, size) in bad.regions.items():
        offs = [off, off + size - 1] + [off + rng.randrange(size) for _ in range(rounds)]
        for at in offs:
            bit = rng.randrange(8)
            bad.flip(at, bit)
            expected = DAMAGED
            if name == "superblock" and at < 8:
                expected = FOREIGN
            elif name == "superblock" and at < 12:
                expected = f"{TOO_NEW}|{DAMAGED}"  # the version is looked at first: it says whose
            bad.expect_refused(f"bit {bit} of byte {at} ({name}) flipped", expected)


def foreign(bad, rng, _rounds):
    """Other files under an image's name."""
    for what, data in (
            ("text", b"This is not an image.\n" * 1000), ("zeros", bytes(len(bad.good))),
            ("random bytes", rng.randbytes(1 << 20)), ("an ELF file", open("/bin/true", "rb").read()),
            ("an image behind one byte", b"\0" + bad.good)):
        bad.spoil(data)
        bad.expect_refused(what, FOREIGN)
    bad.newest.unlink()
    bad.newest.symlink_to(bad.older)
    bad.expect_refused("a symbolic link", r"opening|symbolic link")
    bad.newest.unlink()
    bad.newest.mkdir()
    bad.expect_refused("a directory", r"image\.\d: ")


def too_new(bad, _rng, _rounds):
    """Written by later versions, with right checksums; unknown compatible features are no reason."""
    for words in (["format_version=2"], ["format_version=0xffffffff"], ["feature_incompat=2"],
                  ["feature_incompat=0x8000000000000000"]):
        bad.patch("set", *words)
        bad.expect_refused(" ".join(words), TOO_NEW)
    bad.patch("set", "feature_compat=0x100")
    done = bad.crrestore("--check-only")
    if done.returncode != 0:
        raise Failure(f"an unknown compatible feature should not be refused: {done.stderr}")
    bad.put_back()


def wrong_machine(bad, _rng, _rounds):
    """Another processor, page size, or processor features that this machine lacks."""
    for words in (["machine=183"], ["machine=243"], ["page_bytes=16384"], ["page_bytes=65536"],
                  ["cpu=lacking"], ["cpu.xcr0=0x7fffffff"], ["cpu.xstate_bytes=1048576"]):
        bad.patch("set", *words)
        bad.expect_refused(" ".join(words), WRONG_MACHINE, names_older=False)


def both(bad, rng, _rounds):
    """No buffer is good: no checkpoint is offered."""
    older = bytearray(bad.older.read_bytes())
    older[bad.regions["superblock"][0] + 100] ^= 4
    kept = bad.older.read_bytes()
    bad.older.write_bytes(older)
    bad.flip(bad.regions["metadata"][0] + rng.randrange(bad.regions["metadata"][1]), 3)
    bad.expect_refused("both buffers damaged", DAMAGED, names_older=False)
    bad.older.write_bytes(kept)
    # Damaged in a length that its checksum covers: the file must not be read beyond its end.
    for field in ("payload_slots", "metadata_bytes", "metadata_off", "payload_off"):
        bad.patch("set", f"{field}=0x7ffffffffffff000")
        bad.expect_refused(f"{field} beyond the end of the file", DAMAGED)


def older_whole(bad, rng, _rounds):
    """The newest is damaged, in its metadata or in a page; --sequence N-1 brings the older back."""
    for region in ("superblock", "metadata", "payload"):
        off, size = bad.regions[region]
        at = off + 16 + rng.randrange(size - 16)
        bad.flip(at, 0)
        bad.expect_refused(f"byte {at} ({region}) damaged", DAMAGED)
    bad.flip(bad.regions["payload"][0], 0)
    bad.expect_older_works()


def writable(bad, _rng, _rounds):
    """What others can write cannot be trusted."""
    for mode in (0o620, 0o602, 0o666, 0o777):
        bad.newest.chmod(mode)
        bad.expect_refused(f"mode {mode:o}", r"others may write it.*chmod 600")


ALL = {f.__name__: f for f in (truncated, flipped, foreign, too_new, wrong_machine, both,
                               older_whole, writable)}


def run(workspace, name, seed, rounds, environment=None):
    bad = BadImages(workspace, environment)
    try:
        ALL[name](bad, random.Random(seed), rounds)
    except Failure as failure:
        raise Failure(f"seed {seed}: {failure}") from None
    return bad.tried
