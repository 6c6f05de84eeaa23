# SPDX-License-Identifier: MIT
"""harness.py - what the runners of tests/system share.

It knows where the build is, as which users tests run, how a session is started, checkpointed,
killed and restored, and how a list of tests is run in parallel and reported.

Invariants: a test leaves nothing behind (each process that it started, directly or not, is found
again and killed by its pid), every wait has a deadline, and a failed test keeps its directory and
prints the command that repeats it. Nothing is retried to hide a flake.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

REPO = pathlib.Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.01
SKIP_STATUS = 77
# Deadlines are generous because test machines are shared; this makes them more so.
SLOWNESS = float(os.environ.get("CR_TEST_SLOWNESS", "1"))
DEFAULT_TIMEOUT = 120.0


_stopping = threading.Event()  # the run was interrupted: whatever waits gives up


class Failure(Exception):
    """The program or the engine did something wrong."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


def expect_match(expression, text, what):
    expect(re.search(expression, text), f"{what} should match /{expression}/, got:\n{text}")


class Skip(Exception):
    """This machine or user cannot run the test; the message says why."""


# ------------------------------------------------------------------------------------ users -----


@dataclasses.dataclass(frozen=True)
class User:
    """As whom a test runs. uid None: as whoever runs the tests."""

    name: str
    uid: int | None = None

    def popen_arguments(self):
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.uid, "extra_groups": []}

    def give(self, path):
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)


def user_named(name):
    """root and self mean the caller; nobody is 65534; a number is a uid that need not exist."""
    if name in ("root", "self"):
        return User(name)
    if os.geteuid() != 0:
        raise SystemExit(f"only root can run tests as {name}")
    return User(name, 65534 if name == "nobody" else int(name))


def usable_users(names):
    """Those of the named users that tests can run as: all for root, else only oneself (which
    stands for every unprivileged one)."""
    if os.geteuid() == 0:
        return [user_named(name) for name in names]
    return [User("self")] if any(name != "root" for name in names) else []


_restore_reasons = {}
_restore_lock = threading.Lock()


def require_restore(user):
    """Skips unless the user may restore: without privileges that takes a user namespace."""
    if os.geteuid() == 0 and user.uid is None:
        return
    with _restore_lock:
        if user.uid not in _restore_reasons:
            done = subprocess.run(["unshare", "-Ur", "true"], capture_output=True, text=True,
                                  cwd="/", check=False, **user.popen_arguments())
            _restore_reasons[user.uid] = "" if done.returncode == 0 else done.stderr.strip()
    if _restore_reasons[user.uid]:
        raise Skip(f"no user namespaces for {user.name}: {_restore_reasons[user.uid]}")


# ------------------------------------------------------------------------------------ build -----


class Build:
    """The tools and test programs. A user that cannot reach the checkout (it may be in a private
    home directory) gets a copy in a temporary directory."""

    def __init__(self):
        self.directory = pathlib.Path(os.environ.get("CR_BUILD_DIR", REPO / "build")).resolve()
        self._copy = None
        self._reach = {}
        self._lock = threading.Lock()

    def for_user(self, user):
        with self._lock:
            if user.uid not in self._reach:
                self._reach[user.uid] = self._reachable(user)
            if self._reach[user.uid]:
                return self.directory
            if self._copy is None:
                self._copy = self._make_copy()
            return self._copy

    def _reachable(self, user):
        probe = self.directory / "bin" / "crrun"
        return user.uid is None or not probe.exists() or subprocess.run(
            ["test", "-x", str(probe)], cwd="/", check=False,
            **user.popen_arguments()).returncode == 0

    def _make_copy(self):
        copy = pathlib.Path(tempfile.mkdtemp(prefix="crtest-build-"))
        for part in ("bin", "lib", "libexec", "demos", "tests/programs", "tests/crash"):
            if (self.directory / part).is_dir():
                shutil.copytree(self.directory / part, copy / part, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)
        return copy

    def remove_copy(self):
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy = None


BUILD = Build()

# -------------------------------------------------------------------------------- processes -----


def read_file(path, mode="r"):
    """The content of a (proc) file, empty when it is gone."""
    try:
        with open(path, mode, **({} if "b" in mode else {"errors": "replace"})) as file:
            return file.read()
    except OSError:
        return b"" if "b" in mode else ""


def stat_fields(pid):
    """The fields of /proc/PID/stat from the state on, or [] when the process is gone."""
    return read_file(f"/proc/{pid}/stat").rpartition(")")[2].split()


def living_thread(pid):
    """The id of a thread of the process that lives; 0 if there is none. It need not be the leader:
    after main's pthread_exit that is a zombie, and /proc/PID/environ is empty."""
    try:
        tids = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    for tid in tids:
        fields = stat_fields(f"{pid}/task/{tid}")
        if fields and fields[0] not in "ZX":
            return int(tid)
    return 0


def process_state(pid):
    """The state letter of a living thread, "" if there is none."""
    fields = stat_fields(f"{pid}/task/{living_thread(pid)}")
    return fields[0] if fields else ""


def is_alive(pid):
    return living_thread(pid) != 0


def cpu_seconds(pid):
    fields = stat_fields(pid)
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks if fields else 0.0


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(root):
    """Pids of all living descendants, parents before their children."""
    children = {}
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    found, queue = [], [root]
    while queue:
        for child in children.get(queue.pop(0), []):
            found.append(child)
            queue.append(child)
    return [pid for pid in found if is_alive(pid)]


def signal_pid(pid, number):
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def describe_process(pid):
    comm = read_file(f"/proc/{pid}/comm").strip()
    command = read_file(f"/proc/{pid}/cmdline", "rb").replace(b"\0", b" ").decode(errors="replace")
    return f"{pid} ({comm}, state {process_state(pid)}): {command[:120]}"


# -------------------------------------------------------------------------------- workspace -----


class Workspace:
    """The temporary directory of one test, its deadline, and everything it started."""

    _counter = 0
    _counter_lock = threading.Lock()

    def __init__(self, label, user, timeout):
        with Workspace._counter_lock:
            Workspace._counter += 1
            self.mark = f"CRTEST_ID={os.getpid()}.{Workspace._counter}"
        self.user = user
        self.deadline = time.monotonic() + timeout * SLOWNESS
        self.timeout = timeout * SLOWNESS
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=f"crtest-{label}-{user.name}-"))
        self.path.chmod(0o755)
        user.give(self.path)
        self.build = BUILD.for_user(user)
        self.variables = {}  # more of the environment of everything that is started
        self.until_end = contextlib.ExitStack()  # left when everything has been killed
        self.sessions = []
        self._popens = []
        self._lock = threading.Lock()

    def tool(self, name):
        path = self.build / "bin" / name
        if not path.exists():
            raise Failure(f"{path} has not been built")
        return str(path)

    def program(self, name):
        path = self.build / "tests" / "programs" / name
        if not path.exists():
            raise Failure(f"{path} has not been built")
        return str(path)

    def environment(self):
        """A small one that is the same everywhere; CR_* go through, for debugging."""
        kept = {k: v for k, v in os.environ.items() if k.startswith("CR_")}
        key, value = self.mark.split("=")
        return {**kept, **self.variables, "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C",
                "HOME": str(self.path), "TMPDIR": str(self.path), key: value,
                "CRTEST_READY": str(self.path / "ready"), "CRTEST_PING": str(self.path / "ping"),
                "CRTEST_GO": str(self.path / "go"), "CRTEST_STOPS": str(self.path / "stops")}

    def make_file(self, name):
        """An empty file that belongs to the test's user, open for writing."""
        path = self.path / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.user.give(path)
        os.close(descriptor)
        return open(path, "r+b", buffering=0)

    def start(self, command, stdin=None, stdout="out.txt", stderr="err.txt", environment=None):
        """Starts a command in its own session, streams to files in the workspace."""
        with open(stdin or os.devnull, "rb") as input_file, self.make_file(stdout) as output_file, \
                self.make_file(stderr) as error_file:
            output_file.seek(0, os.SEEK_END)
            error_file.seek(0, os.SEEK_END)
            popen = subprocess.Popen(
                command, stdin=input_file, stdout=output_file, stderr=error_file, cwd=self.path,
                env={**self.environment(), **(environment or {})}, start_new_session=True,
                **self.user.popen_arguments())
        return self.adopt(popen)

    def adopt(self, popen):
        """Remembers a process that leads its own session, to find what it leaves behind."""
        with self._lock:
            self._popens.append(popen)
        if _stopping.is_set():
            raise Failure("interrupted")
        return popen

    def run(self, command, check=None, stdin=None, environment=None):
        """Runs a command to its end. check: the exit status it must have."""
        popen = subprocess.Popen(
            command, stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace", cwd=self.path,
            env={**self.environment(), **(environment or {})}, start_new_session=True,
            **self.user.popen_arguments())
        self.adopt(popen)
        try:
            stdout, stderr = popen.communicate(timeout=max(1.0, self.time_left()))
        except subprocess.TimeoutExpired:
            raise Failure(f"`{' '.join(map(str, command))}` did not end in time") from None
        done = subprocess.CompletedProcess(command, popen.returncode, stdout, stderr)
        if check is not None and done.returncode != check:
            raise Failure(f"`{' '.join(map(str, command))}` exited with {done.returncode}, not "
                          f"{check}\n{stdout}{stderr}".rstrip())
        return done

    def time_left(self):
        return self.deadline - time.monotonic()

    def wait_until(self, predicate, what):
        """Polls until predicate() is true; returns its value."""
        while True:
            value = predicate()
            if value:
                return value
            if _stopping.is_set():
                raise Failure("interrupted")
            if self.time_left() < 0:
                raise Failure(f"{what}: not within the {self.timeout:g} s of this test")
            time.sleep(POLL_SECONDS)

    def processes(self):
        """Every living process of this test, however it detached itself."""
        with self._lock:
            sessions = {popen.pid for popen in self._popens}
        mark = self.mark.encode()
        found = []
        for pid in all_pids():
            fields = stat_fields(pid)
            thread = living_thread(pid) if fields and pid != os.getpid() else 0
            if thread == 0:
                continue
            environment = read_file(f"/proc/{pid}/task/{thread}/environ", "rb")
            if int(fields[3]) in sessions or mark in environment.split(b"\0"):
                found.append(pid)
        return found

    def expect_no_processes(self):
        """Kills the sessions that the test left running; fails if a moment later anything is left
        that belongs to none of them."""
        for session in self.sessions:
            if session.foreground is not None and not session.ended():
                session.kill()
        patience = time.monotonic() + 3 * SLOWNESS
        while left := self.processes():
            if time.monotonic() > patience:
                listing = "\n".join(describe_process(pid) for pid in left)
                raise Failure(f"processes were left behind:\n{listing}")
            time.sleep(POLL_SECONDS)

    def kill_everything(self):
        for _ in range(200):
            left = self.processes()
            for pid in left:
                signal_pid(pid, signal.SIGKILL)
            with self._lock:
                running = [popen for popen in self._popens if popen.poll() is None]
            for popen in running:
                signal_pid(popen.pid, signal.SIGKILL)
            if not left and not running:
                return
            time.sleep(POLL_SECONDS)

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)


# ---------------------------------------------------------------------------------- session -----


class Session:
    """A program under crrun, from its first start to its end over any number of restores."""

    def __init__(self, workspace, command, options=("-i", "off"), stdin=None, image="image.dir",
                 stdout="out.txt"):
        self.workspace = workspace
        self.command = [str(part) for part in command]
        self.options = list(options)
        self.stdin = stdin
        self.stdout = stdout
        self.image = str(workspace.path / image)
        self.foreground = None  # the crrun or crrestore that is running now
        self.name = ""
        self.restores = 0
        # By time.time_ns(), until the program has answered: before and after its last checkpoint,
        # and when crrestore was started.
        self.captured = (0, 0)
        self.restored_ns = 0
        self.was_stopped = False
        workspace.sessions.append(self)

    def start(self):
        command = [self.workspace.tool("crrun"), "-d", self.image, *self.options, "--",
                   *self.command]
        self.foreground = self.workspace.start(command, stdin=self.stdin, stdout=self.stdout)
        self.name = "crrun"

    def restore(self, options=(), environment=None):
        """Starts crrestore. Its own streams go elsewhere: the program's come back as they were."""
        self.restores += 1
        self.restored_ns = time.time_ns()
        self.was_stopped = True
        command = [self.workspace.tool("crrestore"), *options, self.image]
        self.foreground = self.workspace.start(
            command, stdout=f"restore-{self.restores}.out", stderr=f"restore-{self.restores}.err",
            environment=environment)
        self.name = f"crrestore (restore {self.restores})"

    def checkpoint(self, then="continue", check=0):
        before = time.time_ns()
        done = self.workspace.run(
            [self.workspace.tool("crckpt"), f"--then={then}", self.image], check=check)
        if done.returncode == 0:
            self.captured = (before, time.time_ns())
            self.was_stopped = True
        return done

    def verify_image(self):
        self.workspace.run([self.workspace.tool("crinspect"), "verify", self.image], check=0)

    def ended(self):
        return self.foreground.poll() is not None

    def wait_until(self, predicate, what):
        """As Workspace.wait_until, but fails at once if the program ends before."""
        def look():
            value = predicate()
            if not value and self.ended() and not predicate():
                self.skip_if_it_says_so()
                raise Failure(f"{what}: {self.name} ended before, {self.ending()}")
            return value
        return self.workspace.wait_until(look, what)

    def wait_end(self, status):
        self.workspace.wait_until(self.ended, f"end of {self.name}")
        if self.foreground.returncode != status:
            raise Failure(f"{self.name} should end with status {status}, but {self.ending()}")

    def ending(self):
        status = self.foreground.returncode
        text = f"exited with {status}" if status >= 0 else \
            f"was itself killed by signal {-status}"
        stderr = "err.txt" if self.restores == 0 else f"restore-{self.restores}.err"
        tail = read_file(self.workspace.path / stderr)[-1500:].rstrip()
        return text + (f"; {stderr} ends with:\n{tail}" if tail else "")

    def program_pid(self):
        """The program's pid as seen from outside, 0 if it is not there (yet)."""
        tools = (self.workspace.build / "bin", self.workspace.build / "libexec")
        for pid in descendants(self.foreground.pid):
            try:
                executable = pathlib.Path(os.readlink(f"/proc/{pid}/exe"))
            except OSError:
                continue
            if not any(tool in executable.parents for tool in tools):
                return pid
        return 0

    def kill(self):
        """Kills the program and the crrun or crrestore over it, as a crash of the machine would."""
        pids = [self.foreground.pid, *descendants(self.foreground.pid)]
        for pid in pids:
            signal_pid(pid, signal.SIGKILL)
        self.workspace.wait_until(
            lambda: self.ended() and not any(is_alive(pid) for pid in pids), "death of the session")

    # For programs that include three_phase.h.

    def wait_ready(self):
        self.wait_until((self.workspace.path / "ready").exists, "the program's ready file")

    def ping(self):
        """Waits for a sign that the program is running (again); writes down from when on it was
        not: asked for a checkpoint, had it, began a restore (0: it was not dead), and now."""
        ping = self.workspace.path / "ping"
        ping.touch()
        self.wait_until(lambda: not ping.exists(), "the program's answer to a ping")
        if self.was_stopped:
            with open(self.workspace.path / "stops", "a", encoding="ascii") as file:
                print(*self.captured, self.restored_ns, time.time_ns(), file=file)
        self.restored_ns = 0
        self.was_stopped = False

    def go(self):
        (self.workspace.path / "go").touch()

    def skip_if_it_says_so(self):
        """Of a program that has ended."""
        output = read_file(self.workspace.path / self.stdout)
        if self.foreground.returncode == SKIP_STATUS and "SKIP: " in output:
            raise Skip(output.partition("SKIP: ")[2].strip())

    def expect_pass(self):
        """The end of a three-phase program."""
        self.workspace.wait_until(self.ended, f"end of {self.name}")
        self.skip_if_it_says_so()
        output = read_file(self.workspace.path / self.stdout)
        status = self.foreground.returncode
        if status != 0 or not output.endswith("PASS\n"):
            raise Failure(f"{self.name} {self.ending()}\nthe program printed:\n{output[-1500:]}")


# ------------------------------------------------------------------------------ running tests ---


@dataclasses.dataclass
class Test:
    """One line of the report. function(workspace) raises Failure or Skip, or returns."""

    name: str
    user: User
    function: object
    repeat: str  # command that repeats it
    timeout: float = DEFAULT_TIMEOUT
    heavy: bool = False  # uses every core itself: these are started first


def tests_of(functions, group, script, users, timeout):
    """One Test for each function that is named test_* and each usable user. functions: the script's
    globals()."""
    result = []
    where = pathlib.Path(script).resolve().relative_to(REPO)
    for key, function in sorted(functions.items()):
        if not key.startswith("test_"):
            continue
        name = f"{group}/{key.removeprefix('test_')}"
        for user in usable_users(users):
            repeat = f"python3 {where} {name} --user={user.name}"
            result.append(Test(name, user, function, repeat, timeout=timeout))
    return result


@dataclasses.dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reports: list = dataclasses.field(default_factory=list)  # what was said of each failure

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.reports += other.reports

    def line(self):
        text = f"{self.passed} passed, {self.failed} failed"
        return text + (f", {self.skipped} skipped" if self.skipped else "")


_print_lock = threading.Lock()
_active = set()


def say(text):
    with _print_lock:
        print(text, flush=True)


def _indented(text):
    return "\n".join("      " + line for line in str(text).splitlines())


def run_test(test, keep=False):
    """Runs one test and prints its line."""
    if _stopping.is_set():
        return Counts()
    begin = time.monotonic()
    workspace = Workspace(test.name.replace("/", "-"), test.user, test.timeout)
    _active.add(workspace)
    failed = False
    try:
        test.function(workspace)
        workspace.expect_no_processes()
        verdict, counts, details = "ok  ", Counts(passed=1), ""
    except Skip as reason:
        verdict, counts, details = "skip", Counts(skipped=1), f"      {reason}\n"
    except Exception as error:  # pylint: disable=broad-except
        failed = True
        text = str(error) if isinstance(error, Failure) else traceback.format_exc()
        verdict, counts = "FAIL", Counts(failed=1)
        details = (_indented(text) + f"\n      kept: {workspace.path}\n"
                   f"      repeat: {test.repeat}\n")
    finally:
        workspace.kill_everything()
        workspace.until_end.close()
        _active.discard(workspace)
        if (not failed or _stopping.is_set()) and not keep:
            workspace.remove()
    if _stopping.is_set():
        return Counts()
    report = (f"{verdict}  {test.name} [{test.user.name}]  {time.monotonic() - begin:.1f} s\n"
              f"{details}").rstrip("\n")
    say(report)
    if failed:
        counts.reports.append(report)
    return counts


def _interrupt(_number, _frame):
    raise KeyboardInterrupt


def run_tests(tests, jobs=2, keep=False):
    """Runs the tests, some at a time, and returns the Counts. SIGTERM ends it as SIGINT does:
    after everything that was started has been killed."""
    total = Counts()
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell starts its background jobs with SIGINT ignored, and programs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tests = sorted(tests, key=lambda test: not test.heavy)
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures = [pool.submit(run_test, test, keep) for test in tests]
        try:
            for future in concurrent.futures.as_completed(futures):
                total.add(future.result())
        except BaseException:
            _stopping.set()
            for future in futures:
                future.cancel()
            for workspace in list(_active):
                workspace.kill_everything()
            raise
    return total


def add_common_arguments(parser):
    parser.add_argument("names", nargs="*", help="tests to run (default: all); * is a wildcard")
    parser.add_argument("--user", help="root, nobody, self or a uid (default: all of the test's)")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="tests at a time (default: 2)")
    parser.add_argument("--keep", action="store_true", help="keep the directories of all tests")
    parser.add_argument("--list", action="store_true", help="print the names of the tests and exit")


def select(tests, names, user):
    """The tests that the command line asks for; an unknown name is an error."""
    import fnmatch
    for name in names:
        if not any(fnmatch.fnmatch(test.name, name) for test in tests):
            raise SystemExit(f"no test is named {name}")
    return [test for test in tests
            if (not names or any(fnmatch.fnmatch(test.name, name) for name in names))
            and (user is None or test.user.name == user)]


def run_main(tests, arguments):
    """The end of each runner's main(): runs what was asked for, returns the exit status."""
    tests = select(tests, arguments.names, arguments.user)
    if arguments.list:
        for test in tests:
            print(f"{test.name} [{test.user.name}]")
        return 0
    try:
        counts = run_tests(tests, arguments.jobs, arguments.keep)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        BUILD.remove_copy()
    print(counts.line())
    return 1 if counts.failed else 0
