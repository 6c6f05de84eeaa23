#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""inspect_test.py - what crinspect shows of a checkpoint, and that it finds every damage.

The program under test, programs/inspect_threads.c, has something of each kind to be seen. Each test
is a function named test_* that gets a Workspace; its name and docstring say what it checks.

  python3 tests/system/inspect_test.py                       all, as root and as nobody
  python3 tests/system/inspect_test.py inspect/core --user=nobody
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import struct
import sys
import xml.etree.ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Session, Skip, expect  # noqa: E402

USERS = ("root", "nobody")
PAGE = 4096
FLIPS = int(os.environ.get("CR_TEST_FLIPS", "40"))  # of each kind

# ---------------------------------------------------------------------------------- helpers -----


def expect_match(expression, text, what):
    found = re.search(expression, text, re.MULTILINE)
    expect(found, f"{what} should match /{expression}/, but is:\n{text}")
    return found


def inspect(workspace, *words, check=0):
    return workspace.run([workspace.tool("crinspect"), *map(str, words)], check=check)


def shown(workspace, *words):
    """The output of a crinspect that must succeed without a complaint."""
    done = inspect(workspace, *words)
    expect(done.stderr == "", f"crinspect {words} should print nothing on stderr: {done.stderr}")
    return done.stdout


def start_program(workspace, program=None, options=("-i", "off")):
    data = workspace.path / "data.txt"
    data.write_text("0123456789")
    workspace.user.give(data)
    session = Session(workspace, [program or workspace.program("inspect_threads"), data],
                      options=options)
    session.start()
    session.wait_until(lambda: "ready" in harness.read_file(workspace.path / "out.txt"),
                       "the program's ready line")
    return session


def made_image(workspace, program=None):
    """The image directory of a program that was killed after its second checkpoint."""
    session = start_program(workspace, program)
    session.checkpoint()
    session.checkpoint(then="kill")
    session.wait_end(137)
    return pathlib.Path(session.image)


def newest(image):
    """The buffer of the newest checkpoint."""
    return max((image / "image.0", image / "image.1"), key=lambda p: Super(p).sequence)


class Super:
    """What a test needs of a superblock (docs/format/image.md)."""

    def __init__(self, path):
        with open(path, "rb") as file:
            block = file.read(512)
        (self.write_lock, _, self.sequence) = struct.unpack_from("<3Q", block, 48)
        (self.payload_off, self.slots, self.metadata_off,
         self.metadata_bytes) = struct.unpack_from("<4Q", block, 96)


def thread_part(text, name):
    """The lines of one thread."""
    return expect_match(rf'^thread \d+ "{name}"(?s:.*?)(?=^thread |\Z)', text,
                        "the list of threads").group()


def chain_of(part):
    """The functions of a call chain, innermost first; "?" for those without a name."""
    lines = re.findall(r"^  #\d+ +0x[0-9a-f]{16} (.*)$", part, re.MULTILINE)
    return [found.group(1) if (found := re.match(r"([\w:]+)\+0x[0-9a-f]+ \(/", line)) else "?"
            for line in lines]


def expect_chain(chain, *functions):
    """The functions occur in this order, one right after the other where they are one word."""
    at = " ".join(chain)
    expect(" ".join(functions) in at, f"the chain should have {functions}, but is {chain}")


# ------------------------------------------------------------------------------------ tests -----


def without_age(text):
    """How long ago a checkpoint was goes on between two looks at it."""
    return re.sub(r"\d+ s ago", "N s ago", text)


def test_summary(workspace):
    """The summary says of both buffers what they are, and which one crrestore takes."""
    image = made_image(workspace)
    text = shown(workspace, image)
    for expression in (r"^image\.0: whole", r"^image\.1: whole", r"sequence 1, epoch 1, attempt 1, "
                       r"WRITE_LOCK 1", "sequence 2, epoch 1, attempt 2", r"\d s ago",
                       r"program .*/inspect_threads$", r"command line .*inspect_threads .*data\.txt",
                       r"pid \d+, user id \d+, group id \d+, 3 threads", r"host .*, Linux \d",
                       r"memory .*MiB described in \d+ segments", r"stored .*\d+ pages",
                       r"file size", r"pause +\d+\.\d+ ms"):
        expect_match(expression, text, "the summary")
    expect(without_age(shown(workspace, "summary", image)) == without_age(text),
           "`summary` should be the default")
    found = json.loads(shown(workspace, "--json", image))
    taken = found["buffers"][found["crrestore_takes"]]
    expect(taken["sequence"] == 2 and taken["state"] == "whole", f"wrong JSON: {found}")
    expect(taken["file"] == str(newest(image)), f"wrong JSON: {found}")
    expect(taken["file_bytes"] == newest(image).stat().st_size, f"wrong JSON: {found}")
    chosen = expect_match(r"^image\.(\d): whole; crrestore takes this one", text, "the summary")
    expect(int(chosen.group(1)) == found["crrestore_takes"], text)


def test_states(workspace):
    """Missing, empty, being written, damaged, foreign, too new, wrong machine: each has its name."""
    image = made_image(workspace)
    older, new = sorted((image / "image.0", image / "image.1"), key=lambda p: Super(p).sequence)
    shutil.copy(older, workspace.path / "kept")

    def expect_state(state, verify, takes):
        found = json.loads(inspect(workspace, "--json", image, check=None).stdout)
        states = {b["file"]: b["state"] for b in found["buffers"]}
        expect(states[str(older)] == state and states[str(new)] == "whole", f"{state}: {found}")
        expect((found["crrestore_takes"] is not None) == takes, f"{state}: {found}")
        inspect(workspace, "verify", image, check=verify)

    def write(offset, content):
        shutil.copyfile(workspace.path / "kept", older)
        with open(older, "r+b") as file:
            file.seek(offset)
            file.write(content)

    write(0, b"X")
    expect_state("foreign", 1, False)
    write(8, struct.pack("<I", 2))
    expect_state("too new", 1, False)
    write(100, b"\x77")
    expect_state("damaged", 1, False)
    older.write_bytes(b"")
    expect_state("empty", 0, True)
    older.unlink()
    expect_state("missing", 0, True)
    new.unlink()
    done = inspect(workspace, "verify", image, check=1)
    expect_match("no whole checkpoint", done.stderr, "verify's message")
    done = inspect(workspace, image, check=1)
    expect_match("no image", done.stderr, "the summary's message")
    done = inspect(workspace, workspace.path / "nothing-here", check=1)
    expect_match("nothing-here: No such file", done.stderr, "the message")


def test_threads(workspace):
    """Each thread has its name, state, registers and call chain with the functions' names."""
    image = made_image(workspace)
    text = shown(workspace, "threads", image)
    expect(len(re.findall(r"^thread ", text, re.MULTILINE)) == 3, f"3 threads should be in\n{text}")
    main = expect_match(r'^thread (\d+) "inspect_threads" \(main\): blocked in system call (\w+)',
                        text, "the main thread")
    expect(main.group(2) == "futex", f"it joins: {main.group()}")
    alpha, beta = thread_part(text, "alpha"), thread_part(text, "beta")
    expect_match(r"blocked in system call read \(0\)", alpha, "alpha")
    expect_match(r"blocked in system call (pause|restart_syscall)", beta, "beta")
    for part in (alpha, beta):
        for register in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10",
                         "r11", "r12", "r13", "r14", "r15", "rip", "fs_base", "gs_base"):
            expect_match(rf"\b{register} +0x[0-9a-f]{{16}}", part, "the registers")
        expect_match(r"eflags 0x[0-9a-f]+ \[.*IF.*\]", part, "the flags")
        expect_match(r"signals blocked: .*SIGWINCH", part, "the signal mask")
        rip = expect_match(r"rip (0x\w{16})", part, "rip").group(1)
        expect_match(rf"#0 +{rip} ", part, "the first frame")
    expect_chain(chain_of(alpha), "deep_three", "deep_two", "deep_one", "start_thread")
    expect(chain_of(alpha)[0] in ("read", "__libc_read"), f"alpha reads: {chain_of(alpha)}")
    expect_match(r"#0.*deep_|libc", alpha, "alpha")
    # Through a signal frame, and through a function without unwind table.
    expect_chain(chain_of(beta), "wait_for_signal", "call_without_table", "deep_three", "deep_two",
                 "deep_one")
    expect("in_handler" in chain_of(beta), f"beta is in a handler: {chain_of(beta)}")
    expect_match(r"signal delivered here", beta, "beta's chain")
    expect_match(r"deep_three.*by frame pointer", beta, "beta's chain")
    expect("by frame pointer" not in alpha, f"alpha's chain has tables:\n{alpha}")
    more = shown(workspace, "threads", "--all-registers", "--sequence", 1, image)
    expect_match(r"[xy]mm15 +0x[0-9a-f]{32}", more, "the vector registers")


def test_program_is_gone(workspace):
    """Call chains need no file on disk: the image has the program as it was."""
    program = workspace.path / "inspect_threads"
    shutil.copy(workspace.program("inspect_threads"), program)
    image = made_image(workspace, program)
    with_file = chain_of(thread_part(shown(workspace, "threads", image), "alpha"))
    expect_chain(with_file, "deep_three", "deep_two", "deep_one")
    program.write_bytes(pathlib.Path("/bin/true").read_bytes())  # another program by this name
    without = chain_of(thread_part(shown(workspace, "threads", image), "alpha"))
    expect(len(without) == len(with_file), f"{with_file} became {without}")
    at = with_file.index("deep_three")
    expect(without[at:at + 3] == ["?", "?", "?"], f"names of the wrong file: {without}")
    expect(without[:at] + without[at + 3:] == with_file[:at] + with_file[at + 3:],
           f"{with_file} became {without}")


def test_maps(workspace):
    """maps has every mapping as /proc/PID/maps would, and how much of it is stored."""
    image = made_image(workspace)
    text = shown(workspace, "maps", image)
    for expression in (r"^[0-9a-f]+-[0-9a-f]+ r-xp [0-9a-f]{8} \w\w:\w\w \d+ .*/inspect_threads",
                       r"rw-p .*\[heap\]", r"rw-p .*\[stack\]", r"r-xp .*libc\.so\.6 \(embedded\)",
                       r"\[vdso\]", r"\[vvar\]"):
        expect_match(expression, text, "the map")
    segments = json.loads(shown(workspace, "maps", "--json", image))
    expect(sum(s["pages_stored"] for s in segments) == Super(newest(image)).slots,
           "the pages of all mappings together should be the slots")
    ends = [0]
    for s in segments:
        expect(ends[-1] <= int(s["start"], 16) < int(s["end"], 16), f"not sorted: {s}")
        expect(0 <= s["pages_stored"] <= s["pages"], f"impossible: {s}")
        ends.append(int(s["end"], 16))
    last = expect_match(r"(\d+) mappings, \d+ pages, (\d+) of them stored", text, "the last line")
    expect(int(last.group(1)) == len(segments), text)


def test_fds(workspace):
    """fds has every descriptor with kind, flags, offset, size and path."""
    image = made_image(workspace)
    text = shown(workspace, "fds", image)
    entries = {d["fd"]: d for d in json.loads(shown(workspace, "fds", "--json", image))}
    expect_match(r"^ +0 device +O_RDONLY.* /dev/null", text, "descriptor 0")
    out = expect_match(r"^ +1 regular +O_RDWR\S* +(\d+) +(\d+) .*/out\.txt", text, "descriptor 1")
    printed = str((workspace.path / "out.txt").stat().st_size)
    expect(out.groups() == (printed, printed), f"{printed} bytes were printed: {out.group()}")
    data = [d for d in entries.values() if d["path"].endswith("data.txt")]
    expect(len(data) == 3 and all(d["size"] == 10 for d in data), f"data.txt: {data}")
    first, copy, other = sorted(data, key=lambda d: d["fd"])
    expect("O_RDWR|O_APPEND" in first["flags"] and "O_CLOEXEC" in first["flags"], f"{first}")
    expect(copy["same_as"] == first["fd"] and "O_CLOEXEC" not in copy["flags"], f"{copy}")
    expect(other["offset"] == 3 and "same_as" not in other, f"{other}")
    expect_match(rf"data\.txt \[duplicate of {first['fd']}\]", text, "the copy")
    pipes = [d for d in entries.values() if d["kind"] == "pipe"]
    expect(len(pipes) == 2 and pipes[0]["pipe"] == pipes[1]["pipe"], f"pipes: {pipes}")
    expect({d["flags"][:8] for d in pipes} == {"O_RDONLY", "O_WRONLY"}, f"pipes: {pipes}")


def test_signals_and_process(workspace):
    """signals has dispositions, pending signals and timers; process has ids, limits, environment."""
    image = made_image(workspace)
    text = shown(workspace, "signals", image)
    for expression in (r"SIGUSR1 +in_handler\+0x0 \(.*/inspect_threads\), .*SA_RESTART",
                       r"SIGUSR2 +ignored", r"SIGWINCH +code -?\d+, for (thread|the process)",
                       r"ITIMER_REAL +49\d\d\.\d+ s left, every 7\.000000 s",
                       r'thread \d+ "alpha": SIGWINCH'):
        expect_match(expression, text, "signals")
    text = shown(workspace, "process", image)
    for expression in (r"^program .*/inspect_threads$", rf"^directory +{workspace.path}$",
                       r"^ids +pid \d+, parent \d+", r"^limit NOFILE +\d+", r"^variable +LANG=C$",
                       r"^processor here +has all features"):
        expect_match(expression, text, "process")


def test_objects(workspace):
    """fds shows what descriptors that are made anew hold, locks, and whom they signal; signals shows
    the timers of timer_create."""
    for name, what, expressions in (
            ("fd_eventfd", "fds", (r"eventfd .* \[count 3, semaphore\]", r"\[count 1099511627776\]")),
            ("fd_timerfd", "fds", (r"\[CLOCK_BOOTTIME, 99\d\.\d+ s left, every 7\.000000 s\]",
                                   r"\[CLOCK_MONOTONIC, not running, 1 expirations unread\]",
                                   r"\[CLOCK_REALTIME, due 20\d\d-")),
            ("fd_signalfd", "fds", (r"signalfd .* \[SIGUSR1\]", r"pidfd .* \[of \d+\]")),
            ("fd_epoll", "fds", (r"epoll .*fd \d+ for 0x80000019 with 0x1111222233334444",
                                 r"epoll .* \[watches nothing\]")),
            ("fd_inotify", "fds", (r"inotify .* \[watches 7: /.*/watched for 0x180, 9: ",)),
            ("fd_fifo", "fds", (r"fifo .*/inside \[the process has both ends, 5000 bytes unread\]",
                                r"/deaf \[nobody at the other end, 0 bytes unread\]")),
            ("file_locks", "fds", (r"/exclusive \[flock to write\]",
                                   r"/records \[record lock to write from 10, 20 bytes, "
                                   r"record lock to read from 100\]",
                                   r"/leased \[lease to read, signals to \d+\]")),
            ("fd_owner", "fds", (r"signals to its group\]", r"signals to \d+\]")),
            ("posix_timers", "signals", (r" 0 \(CLOCK_MONOTONIC, SIGRTMIN\+3\) [67]\d\d\.\d+ s left$",
                                         r" 7 \(CLOCK_BOOTTIME, no signal\) ",
                                         r"SIGRTMIN\+5 to thread \d+\) \d"))):
        session = Session(workspace, [workspace.program(name)], image=name + ".dir")
        session.start()
        session.wait_ready()
        session.checkpoint(then="kill")
        session.wait_end(status=137)
        (workspace.path / "ready").unlink()
        text = shown(workspace, what, session.image)
        for expression in expressions:
            expect_match(expression, text, f"{what} of {name}")
        json.loads(shown(workspace, "fds", "--json", session.image))


def gdb(workspace, program, core, *commands):
    if not shutil.which("gdb"):
        raise Skip("gdb is not installed")
    words = [word for command in commands for word in ("-ex", command)]
    done = workspace.run(["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", *words,
                          program, core], check=0)
    return done.stdout


def test_core(workspace):
    """A debugger takes the core file: all threads, call chains, registers, memory."""
    image = made_image(workspace)
    core = workspace.path / "core.file"
    expect_match("wrote .*core.file", shown(workspace, "core", "--out", core, image), "the message")
    expect(core.stat().st_mode & 0o7777 == 0o600, "the core should be readable by its owner only")
    expect(core.stat().st_blocks * 512 < newest(image).stat().st_size + (1 << 20),
           f"the core should be sparse: {core.stat()}")
    program = workspace.program("inspect_threads")
    text = gdb(workspace, program, core, "thread apply all bt")
    parts = re.split(r"^Thread \d+ ", text, flags=re.MULTILINE)[1:]
    expect(len(parts) == 3, f"gdb should see 3 threads:\n{text}")
    expect_match(r"Core was generated by `.*inspect_threads", text, "gdb's output")
    for name, functions in (
            ("alpha", ("deep_three", "deep_two", "deep_one")),
            ("beta", ("in_handler", "signal handler called", "wait_for_signal"))):
        expect(any(re.search(".*".join(functions), p, re.DOTALL) for p in parts),
               f"gdb should see {functions} in {name}:\n{text}")
    threads = shown(workspace, "threads", image)
    tid, rip, rsp = re.search(r'^thread (\d+) "alpha".*?rsp (0x\w+).*?rip (0x\w+)', threads,
                              re.DOTALL | re.MULTILINE).group(1, 3, 2)
    everywhere = gdb(workspace, program, core, "thread apply all info registers rip rsp fs_base")
    part = next(p for p in re.split(r"^Thread \d+ ", everywhere, flags=re.MULTILINE)
                if f"LWP {tid})" in p)
    for value in (rip, rsp):
        expect_match(rf"\b{int(value, 16):#x}\b", part, "gdb's registers of alpha")
    # The kernel joins mappings that lie side by side: only the address is sure.
    marker = int(harness.read_file(workspace.path / "out.txt").split()[1], 16)
    segment = next(s for s in json.loads(shown(workspace, "maps", "--json", image))
                   if int(s["start"], 16) <= marker < int(s["end"], 16))
    expect(0 < segment["pages_stored"] < segment["pages"], f"a page of 256 was written: {segment}")
    text = gdb(workspace, program, core, f"x/s {marker}", f"x/2xg {marker + 8192}")
    expect_match("marker-in-a-page", text, "memory as gdb sees it")
    expect_match(r"0x0{16}\s+0x0{16}", text, "memory that was never touched")
    for what, status in ((["core", "--out", "/dev/full", image], 125),
                         (["core", "--out", workspace.path / "no/such", image], 125)):
        inspect(workspace, *what, check=status)
    expect(os.path.exists("/dev/full"), "a device was removed")


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << random.randrange(8))]))


def test_verify(workspace):
    """verify finds a flipped bit wherever it is, and names page, address and slot."""
    seed = int(os.environ.get("CR_TEST_SEED", random.randrange(1 << 32)))
    random.seed(seed)
    image = made_image(workspace)
    text = shown(workspace, "verify", image)
    expect(len(text.splitlines()) == 2 and text.count(": whole: sequence") == 2, text)
    target = newest(image)
    sb = Super(target)
    whole = target.read_bytes()
    segments = json.loads(shown(workspace, "maps", "--json", image))

    def check(offset, expression):
        flip(target, offset)
        done = inspect(workspace, "verify", image, check=None)
        what = f"verify (seed {seed}, a bit of byte {offset} flipped)"
        expect(done.returncode == 1, f"{what} exited with {done.returncode}\n{done.stdout}")
        lines = [s for s in done.stdout.splitlines() if s.startswith(f"{target}: ")]
        expect(len(lines) == 1 and len(done.stdout.splitlines()) == 2, f"{what}: {done.stdout}")
        found = expect_match(expression, lines[0], what)
        with open(target, "r+b") as file:
            file.seek(offset)
            file.write(whole[offset:offset + 1])
        return found

    kinds = "damaged|foreign|too new"
    for _ in range(FLIPS):
        check(random.randrange(512), kinds)
        check(random.randrange(512, PAGE), "damaged: .* must be zero")
        check(random.randrange(sb.metadata_off, sb.metadata_off + sb.metadata_bytes),
              "damaged: the metadata's checksum")
        slot = random.randrange(sb.slots)
        found = check(sb.payload_off + slot * PAGE + random.randrange(PAGE),
                      rf"damaged: the checksum of 1 of {sb.slots} pages is wrong; first: address "
                      rf"(0x[0-9a-f]+) of (.*), slot {slot} at offset {sb.payload_off + slot * PAGE}")
        address, name = int(found.group(1), 16), found.group(2)
        segment = next(s for s in segments
                       if int(s["start"], 16) <= address < int(s["end"], 16))
        expect(segment["pages_stored"] > 0 and segment["name"] in (name, ""),
               f"{found.group()} is in {segment}")
    with open(target, "ab") as file:
        file.write(b"\0")
    inspect(workspace, "verify", image, check=1)
    for size in (0, 15, 511, PAGE, sb.metadata_off, len(whole) - 1):
        target.write_bytes(whole[:size])
        inspect(workspace, "verify", image, check=0 if size == 0 else 1)
    target.write_bytes(whole)
    inspect(workspace, "verify", image, check=0)


def test_damaged_page(workspace):
    """What would be shown of a damaged page is refused: core, and call chains through it."""
    image = made_image(workspace)
    target = newest(image)
    content = target.read_bytes()
    at = content.index(b"marker-in-a-page")
    flip(target, at)
    core = workspace.path / "core.file"
    done = inspect(workspace, "core", "--out", core, image, check=1)
    expect_match(r"damaged: the page at 0x[0-9a-f]+ \(slot \d+\)", done.stderr, "the message")
    expect(not core.exists(), "a core file of a damaged image was left behind")
    inspect(workspace, "core", "--out", core, "--sequence", 1, image, check=0)
    inspect(workspace, "maps", image, check=0)
    target.write_bytes(content)
    # alpha's stack
    threads = shown(workspace, "threads", image)
    rsp = int(re.search(r'"alpha".*?rsp (0x\w+)', threads, re.DOTALL).group(1), 16)
    words = content.find(struct.pack("<Q", int(re.search(
        r'"alpha".*?#1 +(0x\w+)', threads, re.DOTALL).group(1), 16)), PAGE)
    expect(words > 0, f"no return address near {rsp:x}")
    flip(target, words + 64)
    done = inspect(workspace, "threads", image, check=1)
    expect_match(r"damaged: the page at 0x[0-9a-f]+ has a wrong checksum", done.stderr, "the message")
    expect_match(r'thread \d+ "beta"', done.stdout, "what can still be shown")


def test_running_session(workspace):
    """While checkpoints are written all the time, verify never takes one of them for damaged."""
    session = start_program(workspace, options=("-i", "0.02"))
    image = pathlib.Path(session.image)
    session.wait_until(lambda: (image / "image.1").exists(), "the second buffer")
    seen = set()
    for _ in range(15):
        done = inspect(workspace, "verify", image, check=None)
        expect(done.returncode in (0, 125), f"status {done.returncode}:\n{done.stdout}{done.stderr}")
        done = inspect(workspace, "threads", image, check=None)
        expect(done.returncode in (0, 125), f"status {done.returncode}:\n{done.stdout}{done.stderr}")
        if done.returncode == 0:
            expect_chain(chain_of(thread_part(done.stdout, "alpha")), "deep_three", "deep_two",
                         "deep_one")
        seen.add(json.loads(inspect(workspace, "--json", image, check=None).stdout or
                            '{"buffers": [{}, {}]}')["buffers"][0].get("sequence"))
    expect(len(seen) > 1, f"the session should have gone on: {seen}")
    session.kill()


SOCKET_HOLDER = """
import pathlib, socket, time
block = bytearray(3 << 20)
held = None
while True:
    for i in range(0, len(block), 4096):
        block[i] = (block[i] + 1) % 256
    if pathlib.Path("refuse").exists() != (held is not None):
        held = None if held else socket.socket(type=socket.SOCK_DGRAM)
        held and held.setsockopt(socket.IPPROTO_UDP, 1, 1)  # UDP_CORK, which is refused
        pathlib.Path("held").touch() if held else pathlib.Path("held").unlink()
    pathlib.Path("turn").touch()
    time.sleep(0.01)
"""


def eventful_session(workspace):
    """Checkpoints 1 and 2, one that is refused, a crash, a restore, 3 after it; ended."""
    harness.require_restore(workspace.user)
    session = Session(workspace, ["/usr/bin/python3", "-c", SOCKET_HOLDER], options=("-i", "off"))
    session.start()
    turn = workspace.path / "turn"

    def wait_turn():
        turn.unlink(missing_ok=True)
        session.wait_until(turn.exists, "a turn of the program")

    wait_turn()
    session.checkpoint()
    wait_turn()
    session.checkpoint()
    (workspace.path / "refuse").touch()
    session.wait_until((workspace.path / "held").exists, "the program's socket")
    session.checkpoint(check=1)
    (workspace.path / "refuse").unlink()
    session.kill()
    (workspace.path / "held").unlink(missing_ok=True)
    session.restore()
    wait_turn()
    session.checkpoint()
    session.kill()
    return pathlib.Path(session.image)


def attempts_of(workspace, image, *words):
    return json.loads(shown(workspace, "history", "--json", *words, image))["attempts"]


def test_history(workspace):
    """The history has every attempt, failed ones too, and goes on after a restore."""
    image = eventful_session(workspace)
    found = attempts_of(workspace, image)
    expect([(a["number"], a["epoch"], a["sequence"], a["attempt"], a["whole"]) for a in found] ==
           [(0, 1, 1, 1, True), (1, 1, 2, 2, True), (2, 1, 3, 3, False), (3, 2, 3, 1, True)],
           f"wrong attempts: {found}")
    for a in found:
        expect(0 < a["pause_ns"] <= a["whole_ns"] < 60e9, f"strange times: {a}")
        expect(a["pause_ns"] <= a["cost_ns"] <= 2 * a["whole_ns"], f"strange cost: {a}")
        expect(a["interval_ns"] == 0 and not a["interval_automatic"], f"wrong interval: {a}")
        expect(abs(a["realtime_ns"] / 1e9 - image.stat().st_mtime) < 300, f"strange time: {a}")
    for a in (found[0], found[1], found[3]):
        expect(3 << 20 <= a["staged_bytes"] <= a["memory_bytes"], f"strange bytes: {a}")
        expect(a["written_bytes"] > 4096 and a["level"] == "power", f"wrong: {a}")
        expect(a["tracker"] in ("everything", "userfaultfd", "soft-dirty", "hash"), f"wrong: {a}")
        expect(a["error"] == "" and a["error_code"] == 0, f"wrong: {a}")
    expect("socket" in found[2]["error"] and found[2]["level"] == "none", f"wrong: {found[2]}")
    text = shown(workspace, "history", image)
    expect_match(r"failed: .*socket.*\n  -- restored --\n", text, "the table")
    expect(len(text.splitlines()) == 1 + 4 + 1 + 1, text)
    expect(attempts_of(workspace, image, "--last", 1) == found[3:], "--last 1 is wrong")
    expect(attempts_of(workspace, image, "--last", 99) == found, "--last 99 is wrong")


def test_history_damaged(workspace):
    """A damaged record is left out, a damaged file begun anew, and checkpoints go on."""
    session = start_program(workspace)
    session.checkpoint()
    session.checkpoint()
    history = pathlib.Path(session.image) / "history"
    with open(history, "r+b") as file:
        file.seek(256 + 40)
        file.write(b"\xff\xff")
    expect([a["number"] for a in attempts_of(workspace, session.image)] == [1], "record 0 is damaged")
    session.checkpoint(then="kill")
    session.wait_end(137)
    with open(history, "r+b") as file:
        file.write(b"rubbish!")
    done = inspect(workspace, "history", session.image, check=1)
    expect_match("not a history", done.stderr, "the message")
    harness.require_restore(workspace.user)
    session.restore()
    session.wait_until(session.program_pid, "the restored program")
    workspace.wait_until(lambda: session.checkpoint(check=None).returncode == 0, "a checkpoint")
    said = harness.read_file(workspace.path / "restore-1.err")
    expect_match("begun anew", said, "crrestore's words")
    expect(len(attempts_of(workspace, session.image)) >= 1, "no new history")
    expect((history.parent / "history.damaged").exists(), "the old one should be kept")
    session.kill()


def test_history_without_room(workspace):
    """A directory in the way of the history: said once, and checkpoints go on."""
    session = start_program(workspace, options=("-i", "0.1"))
    history = pathlib.Path(session.image) / "history"
    session.wait_until(history.exists, "the history")
    session.workspace.run([workspace.tool("crckpt"), "--then=stop", session.image], check=0)
    history.unlink()
    history.mkdir()
    workspace.user.give(history)
    (history / "x").mkdir()
    before = Super(newest(history.parent)).sequence
    session.checkpoint()
    session.wait_until(lambda: Super(newest(history.parent)).sequence > before + 3, "checkpoints")
    said = harness.read_file(workspace.path / "err.txt")
    expect(said.count("not recorded in the history") == 1, f"it should be said once: {said}")
    session.kill()


def test_history_moves_with_the_images(workspace):
    """A new run begins a new history; that of an unfinished one is kept with its images."""
    image = made_image(workspace)
    expect(len(attempts_of(workspace, image)) == 2, "two attempts")
    (workspace.path / "out.txt").unlink()
    session = start_program(workspace)
    session.checkpoint()
    expect(len(attempts_of(workspace, image / "interrupted.1")) == 2, "the old history")
    expect(len(attempts_of(workspace, image)) == 1, "the new history")
    session.kill()


def test_no_history(workspace):
    """Nothing was tried: a message and status 1."""
    session = start_program(workspace)
    for words in (["history"], ["history", "--json"], ["plot", "--out", "x.svg"]):
        done = inspect(workspace, *words, session.image, check=1)
        expect_match("no checkpoint has been tried", done.stderr, "the message")
    expect(not (workspace.path / "x.svg").exists(), "an empty picture was written")
    session.kill()


SVG = "{http://www.w3.org/2000/svg}"


def axis_of(ticks, coordinate):
    """From the labels of an axis: a function from a value to its coordinate."""
    points = sorted((float(t.text), float(t.get(coordinate))) for t in ticks)
    expect(len(points) >= 2, f"an axis needs two labels: {points}")
    (v0, c0), (v1, c1) = points[0], points[-1]
    for value, c in points:
        expect(abs(c0 + (value - v0) * (c1 - c0) / (v1 - v0) - c) < 0.02, f"uneven axis: {points}")
    return lambda value: c0 + (value - v0) * (c1 - c0) / (v1 - v0)


def test_plot(workspace):
    """The picture is XML, and each attempt is where the axes say; failures, restores are marked."""
    image = eventful_session(workspace)
    strange = workspace.path / 'a <b> & "c" \x01 \udcff\u00fc'
    shutil.copytree(image, strange, ignore=shutil.ignore_patterns("agent.sock"))
    workspace.user.give(strange)
    for path in strange.iterdir():
        workspace.user.give(path)
    out = workspace.path / "plot.svg"
    text = shown(workspace, "plot", "--out", out, strange)
    expect_match("^wrote .*plot.svg: 4 attempts$", text, "the output")
    found = attempts_of(workspace, image)
    root = xml.etree.ElementTree.parse(out).getroot()
    expect(root.tag == SVG + "svg", root.tag)
    title = root.find(SVG + "text").text
    expect('a <b> & "c" ? ?\u00fc' in title, f"wrong title: {title!r}")
    groups = {g.get("id"): g for g in root.findall(SVG + "g")}
    expect(set(groups) == {"pause", "bytes", "overhead", "time", "marks"}, f"{set(groups)}")
    time_axis = axis_of(groups["time"].findall(f"{SVG}text[@class='tick']"), "x")
    words = "".join(t.text for t in groups["time"].findall(SVG + "text"))
    second = {"ms": 1e3, "s": 1, "min": 1 / 60}[re.search(r"\((\w+)\)", words).group(1)]
    scales = {"\u00b5s": 1e-3, "ms": 1e-6, "s": 1e-9, "KiB": 2**-10, "MiB": 2**-20, "GiB": 2**-30,
              "%": 1e-4}
    shapes = {"pause": ["pause"], "bytes": ["changed", "written"], "overhead": ["overhead"]}
    fields = {"pause": "pause_ns", "changed": "staged_bytes", "written": "written_bytes",
              "overhead": "overhead_ppm"}
    for panel, names in shapes.items():
        label = groups[panel].find(f"{SVG}text[@transform]").text
        scale = scales[re.search(r"\((.+)\)", label).group(1)]
        axis = axis_of(groups[panel].findall(f"{SVG}text[@class='tick']"), "y")
        legends = [t.text for t in groups[panel].findall(f"{SVG}text[@class='legend']")]
        expect(sorted(legends) == sorted(names), f"wrong legends in {panel}: {legends}")
        for name in names:
            series = groups[panel].find(f"{SVG}g[@data-name='{name}']")
            circles = series.findall(SVG + "circle")
            expect(len(circles) == len(found), f"{len(circles)} points in {name}")
            places = []
            for circle, a in zip(circles, found):
                seconds = (a["realtime_ns"] - found[0]["realtime_ns"]) / 1e9
                place = (time_axis(seconds * second), axis(a[fields[name]] * scale) - 4)
                at = (float(circle.get("cx")), float(circle.get("cy")))
                expect(circle.get("data-number") == str(a["number"]), f"wrong order in {name}")
                expect(abs(at[0] - place[0]) < 0.1 and abs(at[1] - place[1]) < 0.1,
                       f"{name} of {a} is at {at}, not {place}")
                places.append(circle.get("cx") + "," + circle.get("cy"))
            lines = [p.get("points").split() for p in series.findall(SVG + "polyline")]
            expect(lines == [places[:3], places[3:]], f"a line for each epoch: {lines}")
    failed = groups["marks"].findall(f"{SVG}path[@class='failed']")
    expect([p.get("data-number") for p in failed] == ["2"] * 3, "attempt 2 failed, in three panels")
    expect("socket" in failed[0].find(SVG + "title").text, "the reason")
    restores = groups["marks"].findall(f"{SVG}line[@class='restore']")
    expect([r.get("data-epoch") for r in restores] == ["2"], "one restore")
    done = inspect(workspace, "plot", "--out", "/nonexistent/x.svg", image, check=125)
    expect_match("/nonexistent/x.svg: .*No such file", done.stderr, "the message")
    if pathlib.Path("/dev/full").exists():
        done = inspect(workspace, "plot", "--out", "/dev/full", image, check=125)
        expect_match("No space left", done.stderr, "the message")


def test_wrong_usage(workspace):
    """Misuse: exit status 2, a message on stderr, nothing on stdout."""
    for words in (["threads"], ["--json"], ["core", "x"], ["--out", "f", "maps", "x"], ["a", "b", "c"],
                  ["threads", "--json", "x"], ["verify", "--sequence", "3", "x"],
                  ["maps", "--sequence", "0", "x"], ["maps", "--sequence"],
                  ["history", "--last", "0", "x"], ["history", "--last", "few", "x"],
                  ["history", "--sequence", "1", "x"], ["summary", "--last", "1", "x"],
                  ["plot", "x"], ["plot", "--json", "--out", "f", "x"],
                  ["history", "--out", "f", "x"]):
        done = inspect(workspace, *words, check=2)
        expect(done.stderr != "" and done.stdout == "", f"{words}: {done}")


# ------------------------------------------------------------------------------------- main -----


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "inspect", __file__, USERS, timeout=90.0)


def main():
    parser = argparse.ArgumentParser(description="Tests crinspect.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
