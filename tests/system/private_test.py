#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""private_test.py - the private crstored, which crrun, crrestore and crstore start by themselves
where no crstored serves the node.

  python3 tests/system/private_test.py 'private/killed*' --user=root

Each test has a state, a runtime and a configuration directory of its own, so nothing of this machine
is touched, and says that the private one is meant, in case a crstored serves the machine. The private
crstored has the mark of its test in its environment, so it is gone with the test; where it ends by
itself (`exit-when-idle`), that it does is part of each test.
"""

import argparse
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Failure, Session, User, expect, expect_match  # noqa: E402

USERS = ("root", "nobody")
IDLE_SECONDS = 0.5

# It finds out whether its memory came back, and whether it ever had a child.
PROGRAM = """
import os, random, time
data = random.Random(7).randbytes(1 << 20)
steps, strangers = 0, []
open(os.environ["CRTEST_READY"], "w").close()
while not os.path.exists(os.environ["CRTEST_GO"]):
    steps += 1
    try:
        strangers.append(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        pass
    if os.path.exists(os.environ["CRTEST_PING"]):
        os.remove(os.environ["CRTEST_PING"])
    time.sleep(0.01)
good = data == random.Random(7).randbytes(1 << 20) and steps > 0 and not strangers
print("PASS" if good else f"FAIL {strangers}", flush=True)
"""


class Place:
    """Where the private crstored of one test is."""

    def __init__(self, workspace, configuration=f"exit-when-idle = {IDLE_SECONDS}\n",
                 socket="private"):
        self.workspace = workspace
        self.state, self.runtime, self.settings = (
            self.directory(name) for name in ("state", "runtime", "settings"))
        workspace.variables.update({"XDG_STATE_HOME": str(self.state), "CR_STORE_SOCKET": socket,
                                    "XDG_RUNTIME_DIR": str(self.runtime),
                                    "XDG_CONFIG_HOME": str(self.settings)})
        self.configure(configuration)

    def directory(self, name):
        path = self.workspace.path / name
        path.mkdir()
        path.chmod(0o700)
        self.workspace.user.give(path)
        return path

    def configure(self, text):
        path = self.settings / "checkpoint_restore" / "crstored.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        for made in (path.parent, path):
            self.workspace.user.give(made)

    @property
    def path(self):
        return self.state / "checkpoint_restore" / os.uname().nodename

    def said(self):
        return harness.read_file(self.path / "log")

    def starts(self):
        return len(re.findall(r"crstored: ready, as process", self.said()))

    def daemons(self):
        """Pids of those that run: the processes of this test that were called so."""
        return [pid for pid in self.workspace.processes()
                if re.match(rb"(.*/)?crstored\0--private\0", harness.read_file(f"/proc/{pid}/cmdline",
                                                                        "rb"))]

    def wait_one(self, besides=0):
        """The pid of the one that serves."""
        def look():
            done = self.crstore("--json", "status", check=None)
            pid = json.loads(done.stdout)["pid"] if done.returncode == 0 else 0
            return pid if pid != besides else 0
        return self.workspace.wait_until(look, "a private crstored")

    def wait_none(self):
        self.workspace.wait_until(lambda: not self.daemons(), "the end of the private crstored")

    def crstore(self, *arguments, check=0):
        return self.workspace.run([self.workspace.tool("crstore"), *map(str, arguments)],
                                  check=check)

    def session(self, name="job"):
        """What its status says of that session, {} if there is none."""
        done = self.crstore("--json", "status", check=None)
        sessions = json.loads(done.stdout)["sessions"] if done.returncode == 0 else []
        return next((s for s in sessions if s["name"] == name), {})

    def wait_kept(self, sequence, name="job"):
        """Until that checkpoint is in the store."""
        def kept():
            parts = self.session(name).get("parts", [])
            return parts and parts[0]["sequence"] >= sequence
        try:
            self.workspace.wait_until(kept, f"checkpoint {sequence} of {name} in the store")
        except Failure as failure:
            raise Failure(f"{failure}\n{self.said()}") from None


class Job(Session):
    def __init__(self, workspace, name="job", protect="none", options=(), image="image.dir"):
        harness.require_restore(workspace.user)
        script = workspace.path / "program.py"
        script.write_text(PROGRAM)
        super().__init__(workspace, ["/usr/bin/python3", script], image=image,
                         options=["-i", "off", "--durable=crash", f"--protect={protect}", "--name",
                                  name, *options])

    def begin(self):
        self.start()
        self.wait_ready()
        return self

    def restore_by_name(self, options=(), name="job"):
        self.restores += 1
        self.image = str(self.workspace.path / f"image-{self.restores}.dir")
        self.foreground = self.workspace.start(
            [self.workspace.tool("crrestore"), "-v", *options, "--dir", self.image, name],
            stdout=f"restore-{self.restores}.out", stderr=f"restore-{self.restores}.err")
        self.name = f"crrestore (restore {self.restores})"
        self.ping()

    def said(self):
        error = "err.txt" if self.restores == 0 else f"restore-{self.restores}.err"
        return harness.read_file(self.workspace.path / error)

    def wait_said(self, expression):
        self.wait_until(lambda: re.search(expression, self.said()), f"/{expression}/ is said")

    def finish(self):
        self.go()
        self.expect_pass()


# ------------------------------------------------------------------------------------------ tests


def test_starts_and_brings_back(workspace):
    """The image in memory is lost, as in a reboot; the store has the checkpoint."""
    place = Place(workspace)
    memory = pathlib.Path(tempfile.mkdtemp(prefix="crtest-private-", dir="/dev/shm"))
    workspace.until_end.callback(shutil.rmtree, memory, ignore_errors=True)
    workspace.user.give(memory)
    job = Job(workspace, image=str(memory / "image.dir")).begin()
    job.checkpoint()
    place.wait_kept(1)
    expect_match(r", private$", place.crstore("status").stdout.splitlines()[0], "status")
    job.kill()
    shutil.rmtree(job.image)
    place.wait_none()
    expect_match(r"job +\w{8} +none +1 +1/1 ", place.crstore("ls").stdout, "ls")
    place.crstore("stat", "job")
    place.crstore("verify", "job")
    job.restore_by_name()
    expect_match("brought to ", job.said(), "crrestore -v")
    job.checkpoint()
    place.wait_kept(2)  # protected as before
    job.finish()
    place.crstore("get", "job", workspace.path / "got.dir")
    place.crstore("rm", "job")
    expect("job" not in place.crstore("ls").stdout, "rm leaves it")
    place.wait_none()
    for path in (place.path, place.runtime / "crstored"):
        expect(path.stat().st_mode & 0o777 == 0o700, f"{path} has mode {path.stat().st_mode:o}")


def test_restore_of_a_directory(workspace):
    """The image is there; it is protected again because that is asked for."""
    place = Place(workspace)
    job = Job(workspace).begin()
    job.checkpoint()
    place.wait_kept(1)
    job.kill()
    place.wait_none()
    job.restore(options=("--protect=none",))
    job.ping()
    job.checkpoint()
    place.wait_kept(2, name="image.dir")
    job.finish()


def test_is_found_without_a_socket(workspace):
    """CR_STORE_SOCKET is not set, as it will be."""
    if pathlib.Path("/run/crstored.sock").exists():
        raise harness.Skip("a crstored serves this machine")
    place = Place(workspace, socket="")
    job = Job(workspace).begin()
    job.checkpoint()
    place.wait_kept(1)
    expect(len(place.daemons()) == 1, "it is private")
    # From here on a crstored listens where one for all sessions would; who has begun stays.
    own = workspace.start([workspace.tool("crstored"), "--store", str(workspace.path / "own"),
                           "--socket", str(place.runtime / "crstored.sock")], stderr="own.err")
    workspace.wait_until(lambda: "ready" in harness.read_file(workspace.path / "own.err"),
                         "another crstored")
    expect(not json.loads(place.crstore("--json", "status").stdout)["private"], "that is first")
    job.checkpoint()
    kept = lambda: json.loads(place.crstore("--json", "--socket", "private", "stat", "job")
                              .stdout)["checkpoints"][0]["sequence"]
    workspace.wait_until(lambda: kept() == 2, "checkpoint 2 in the private store")
    expect(place.session() == {}, "the session has changed its crstored")
    own.terminate()
    own.wait()
    job.finish()


def test_status_starts_none(workspace):
    place = Place(workspace)
    place.configure("")
    (place.settings / "checkpoint_restore" / "crstored.conf").unlink()
    for request in (("status",), ("ls",), ("stat", "job")):
        done = place.crstore(*request, check=1)
        expect_match(r"there is no private one in /.*crrun --protect=none", done.stderr, request[0])
    done = workspace.run([workspace.tool("crrestore"), "job"], check=125)
    expect_match(r"job: no such image directory; and as a session's name: ", done.stderr, "crrestore")
    expect(place.starts() == 0 and not place.path.exists(), "something was started")
    place.configure(f"exit-when-idle = {IDLE_SECONDS}\n")
    place.crstore("ls")
    expect(place.starts() == 1, "ls did not start it")
    place.wait_none()
    done = place.crstore("status", check=1)
    expect_match(r"does not run now; `crstore ls` starts it", done.stderr, "status")


def test_two_at_once_start_one(workspace):
    place = Place(workspace, "")
    jobs = [Job(workspace, name=f"job{n}", image=f"image{n}.dir") for n in range(4)]
    for job in jobs:
        job.start()
    for n, job in enumerate(jobs):
        job.wait_until(lambda: job.checkpoint(check=None).returncode == 0, "a checkpoint")
        place.wait_kept(1, f"job{n}")
    expect(place.starts() == 1 and len(place.daemons()) == 1, place.said())
    for job in jobs:
        job.kill()
    os.kill(place.daemons()[0], signal.SIGTERM)
    place.wait_none()
    expect_match(r"crstored: ends\n$", place.said(), "the log")
    expect(list((place.runtime / "crstored").iterdir()) == [], "a socket is left")


def test_is_clean(workspace):
    """Nothing of crrun's is left to it, and it is nobody's child here."""
    place = Place(workspace)
    job = Job(workspace)
    workspace.variables.update({"LD_BIND_NOW": "1", "CR_LOG": "agent:error"})
    job.foreground = workspace.start(
        ["sh", "-c", 'exec 7</dev/full && exec "$@"', "sh", workspace.tool("crrun"), "-d",
         job.image, *job.options, "--", *job.command])
    job.name = "crrun"
    job.wait_ready()
    job.checkpoint()
    place.wait_kept(1)
    [pid] = place.daemons()
    environment = harness.read_file(f"/proc/{pid}/environ", "rb").split(b"\0")
    bad = [v for v in environment if v.startswith((b"LD_", b"CR_"))]
    expect(bad == [], f"its environment has {bad}")
    targets = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        targets[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    expect(targets[0] == "/dev/null" and targets[1] == targets[2] == str(place.path / "log"),
           f"{targets}")
    allowed = re.compile(r"socket:|anon_inode:|/dev/null$|/dev/urandom$|/sys/|" + str(place.path))
    strange = [t for t in targets.values() if not allowed.match(t)]
    expect(strange == [], f"it has {strange}")
    expect(os.readlink(f"/proc/{pid}/cwd") == "/", "its working directory is not /")
    state, parent, group, session, terminal = harness.stat_fields(pid)[:5]
    expect(pid not in (int(group), int(session)) and terminal == "0", "it leads a session")
    expect(pid not in harness.descendants(job.foreground.pid), "it is a descendant of crrun")
    seen = harness.descendants(job.foreground.pid)
    expect(seen == [job.program_pid()], f"crrun has the children {seen}")
    listed = workspace.run([workspace.tool("crinspect"), "summary", job.image], check=0).stdout
    expect("crstored" not in listed, listed)
    status = harness.read_file(f"/proc/{pid}/status")
    expect_match(r"SigIgn:\s*0000000001001000", status, "ignored signals: SIGPIPE and SIGXFSZ")
    tree = workspace.run([workspace.tool("crinspect"), "tree", job.image], check=0).stdout
    expect(len(tree.splitlines()) == 1, f"crinspect tree shows\n{tree}")
    job.finish()


def test_in_a_container(workspace):
    """crrun is the first process of a pid namespace, to which orphans come."""
    place = Place(workspace)
    job = Job(workspace)
    harness.require_restore(workspace.user)
    as_user = ["-Ur"] if workspace.user.uid is not None or os.geteuid() != 0 else []
    job.foreground = workspace.start(
        ["unshare", *as_user, "-pf", "--kill-child", "--mount-proc", workspace.tool("crrun"), "-d",
         job.image, *job.options, "--", *job.command])
    job.name = "crrun"
    job.wait_ready()
    for sequence in (1, 2):
        job.checkpoint()
        place.wait_kept(sequence)
    tree = workspace.run([workspace.tool("crinspect"), "tree", job.image], check=0).stdout
    expect(len(tree.splitlines()) == 1, f"crinspect tree shows\n{tree}")
    [first] = place.daemons()
    os.kill(first, signal.SIGKILL)
    job.checkpoint()
    place.wait_kept(3)
    expect(place.starts() >= 2, place.said())
    below = {str(pid) for pid in harness.descendants(job.foreground.pid)}
    workspace.wait_until(
        lambda: not [fields for fields in map(harness.stat_fields, harness.all_pids())
                     if fields and fields[0] == "Z" and fields[1] in below],
        "no zombies")
    job.finish()


def test_survives_the_terminal(workspace):
    """SIGINT to the foreground group, then the terminal goes away."""
    place = Place(workspace, "")
    job = Job(workspace)
    (workspace.path / "program.py").write_text(PROGRAM)
    leader, follower = pty.openpty()
    os.chmod(os.ttyname(follower), 0o666)
    command = [workspace.tool("crrun"), "-d", job.image, *job.options, "--",
               *job.command]
    job.foreground = workspace.adopt(subprocess.Popen(
        ["setsid", "-c", "-w", *command], stdin=follower, stdout=follower, stderr=follower,
        cwd=workspace.path, env=workspace.environment(), start_new_session=True,
        **workspace.user.popen_arguments()))
    os.close(follower)
    job.wait_ready()
    job.checkpoint()
    place.wait_kept(1)
    [pid] = place.daemons()
    os.write(leader, b"\x03")
    workspace.wait_until(job.ended, "the end by Ctrl-C")
    os.close(leader)
    time.sleep(0.2)
    expect(harness.is_alive(pid), "it ended with the terminal")
    expect_match(r"job ", place.crstore("ls").stdout, "ls")
    os.kill(pid, signal.SIGTERM)
    place.wait_none()


def test_killed_and_started_again(workspace):
    place = Place(workspace)
    job = Job(workspace).begin()
    before = 0
    for sequence in range(1, 4):
        job.checkpoint()
        place.wait_kept(sequence)
        pid = place.wait_one(besides=before)
        os.kill(pid, signal.SIGKILL)
        before = pid
    place.wait_kept(3)
    expect(place.starts() >= 4, f"{place.starts()} starts:\n{place.said()}")
    expect_match(r"checkpoints stay on this node: .*crstored went away; it is tried again",
                 job.said(), "crrun")
    job.finish()


def test_start_that_fails_is_not_repeated_for_ever(workspace):
    place = Place(workspace, "dram = 1K\n")
    job = Job(workspace).begin()
    job.checkpoint()
    job.wait_said(r"checkpoints stay on this node: no private crstored can be started: --dram: give "
                  r"at least 8M")
    expect(job.said().count("--dram") == 1, f"it is said again and again:\n{job.said()}")
    place.configure(f"exit-when-idle = {IDLE_SECONDS}\n")
    place.wait_kept(1)
    job.finish()


def test_ends_when_idle(workspace):
    """Clients come at the instant at which it ends: each gets an answer."""
    place = Place(workspace, "exit-when-idle = 0.02\n")
    place.crstore("ls")
    for step in range(60):
        place.crstore("ls")
        time.sleep(0.002 * (step % 20))
    place.wait_none()
    expect(place.starts() > 3, f"it hardly ever ended:\n{place.said()}")
    expect(list((place.runtime / "crstored").iterdir()) == [], "a socket is left")
    expect(place.said().count("crstored: ends") == place.starts(), place.said())


def test_stays_for_a_session(workspace):
    """Idle time begins when the session has gone."""
    place = Place(workspace, "exit-when-idle = 0.05\n")
    job = Job(workspace).begin()
    job.checkpoint()
    place.wait_kept(1)
    starts = place.starts()
    time.sleep(1)
    job.checkpoint()
    place.wait_kept(2)
    expect(place.starts() == starts, place.said())
    job.finish()
    place.wait_none()


def test_neighbours_need_a_configuration(workspace):
    place = Place(workspace)
    job = Job(workspace, protect="replica:2").begin()
    # Before the first checkpoint.
    job.wait_said(r"checkpoints stay on this node: --protect=replica:2 takes 2 nodes, .*`members = "
                  r"FILE` and `key = FILE` in /.*/checkpoint_restore/crstored\.conf")
    job.checkpoint()
    expect(job.said().count("takes 2 nodes") == 1, job.said())
    job.finish()
    # With one that names them it is a node like others; the neighbour is not there yet.
    key, members = workspace.path / "key", workspace.path / "members"
    workspace.run([workspace.tool("crstored"), "--make-key", str(key)], check=0)
    with open(members, "w", encoding="ascii") as file:
        file.write("a 127.0.0.1:7491\nb 127.0.0.1:7492\n")
    place.wait_none()
    place.configure(f"members = {members}\nkey = {key}\nname = a\n")
    done = workspace.run([workspace.tool("crstored"), "--private", "--check-config"], check=0)
    expect_match(r"good: node a, one of 2", done.stdout, "--check-config")


def test_flushes_as_configured(workspace):
    place = Place(workspace)
    shared = place.directory("shared")
    place.configure(f"exit-when-idle = {IDLE_SECONDS}\nflush = {shared}\nflush-every = 2\n")
    job = Job(workspace).begin()
    job.checkpoint()
    job.checkpoint()
    workspace.wait_until(lambda: list(shared.glob("*/*.flush")), "a flushed file")
    [path] = shared.glob("*/*.flush")
    expect(path.name == "1.2.flush", f"{path}")
    job.kill()
    place.wait_none()
    shutil.rmtree(job.image)
    shutil.rmtree(place.path)  # the machine was lost
    job.restore_by_name()
    expect_match(rf"from {re.escape(str(path))}", job.said(), "crrestore -v")
    job.finish()


def test_runtime_directory_that_goes(workspace):
    """As at the user's last logout: a new one listens beside the store."""
    place = Place(workspace)
    job = Job(workspace).begin()
    job.checkpoint()
    place.wait_kept(1)
    first = place.wait_one()
    shutil.rmtree(place.runtime)
    place.wait_one(besides=first)
    job.checkpoint()
    place.wait_kept(2)
    expect(not (place.path / "socket").is_symlink(), "the socket is beside the store")
    job.finish()


def test_bad_directories_are_refused(workspace):
    place = Place(workspace)
    place.runtime.chmod(0o777)
    done = place.crstore("ls", check=1)
    expect_match(r"runtime: others than its owner may write there; `chmod go-w` it, or set "
                 r"XDG_RUNTIME_DIR", done.stderr, "ls")
    place.runtime.chmod(0o700)
    place.crstore("ls")
    place.wait_none()
    place.path.chmod(0o770)
    done = place.crstore("ls", check=1)
    expect_match(r"others than its owner may write there; .*XDG_STATE_HOME", done.stderr, "ls")
    place.path.chmod(0o700)
    job = Job(workspace)
    if workspace.user.uid is None and os.geteuid() == 0:
        os.chown(place.runtime, 65534, 65534)
        done = place.crstore("ls", check=1)
        expect_match(r"runtime: belongs to user id 65534, and a private crstored of user id 0 takes a "
                     r"directory of its own user only; set XDG_RUNTIME_DIR", done.stderr, "ls")
        job.begin()  # which goes on without
        job.checkpoint()
        job.wait_said(r"checkpoints stay on this node: .*belongs to user id 65534")
        job.finish()
        os.chown(place.runtime, 0, 0)
    file = place.settings / "checkpoint_restore" / "crstored.conf"
    file.chmod(0o666)
    done = place.crstore("ls", check=1)
    expect_match(r"crstored\.conf: a configuration must belong to", done.stderr, "ls")


def test_no_home(workspace):
    """Where nothing says where the store may be, the user is told what to set."""
    Place(workspace)
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        workspace.variables[name] = ""
    if os.geteuid() != 0:
        raise harness.Skip("takes a user id that has no entry in the password file")
    workspace.user = User("12345", 12345)
    workspace.build = harness.BUILD.for_user(workspace.user)
    bare = {"HOME": ""}
    done = workspace.run([workspace.tool("crstore"), "status"], check=1, environment=bare)
    expect_match(r"neither XDG_STATE_HOME nor HOME is an absolute path, and user id 12345 has no home "
                 r"directory; set XDG_STATE_HOME", done.stderr, "crstore")
    done = workspace.run([workspace.tool("crstored"), "--private"], check=125, environment=bare)
    expect_match(r"set XDG_STATE_HOME", done.stderr, "crstored --private")
    done = workspace.run([workspace.tool("crstored"), "--private"], check=125,
                         environment={"HOME": "/proc/nothing"})
    expect_match(r"/proc/nothing: the directory cannot be made: .*; set XDG_STATE_HOME", done.stderr,
                 "crstored --private")


def test_options(workspace):
    place = Place(workspace)
    for text, message in [("socket = /x\n", "crstored.conf: socket: is not for a private crstored"),
                          ("for-all-users\n", "for-all-users: is not for a private crstored"),
                          ("private\n", "crstored.conf:1: private: give `option = value`"),
                          ("exit-when-idle = soon\n", "--exit-when-idle soon: give a time")]:
        place.configure(text)
        done = workspace.run([workspace.tool("crstored"), "--private"], check=2)
        expect(message in done.stderr, f"{text}: {done.stderr}")
    place.configure("exit-when-idle = off\nstore = " + str(workspace.path / "elsewhere") + "\n")
    done = workspace.run([workspace.tool("crstored"), "--private", "--check-config"], check=0)
    expect_match(r"store /.*/elsewhere; socket /.*/runtime/crstored/\w{16}\.sock", done.stdout,
                 "--check-config")
    workspace.run([workspace.tool("crstored"), "--private"], check=0)
    [pid] = place.daemons()
    workspace.run([workspace.tool("crstored"), "--private"], check=0)  # there is one
    expect(place.daemons() == [pid], "a second one was started")
    os.kill(pid, signal.SIGTERM)
    place.wait_none()


def tests():
    """All tests, as harness.Test: each function of this file that is named test_*."""
    return harness.tests_of(globals(), "private", __file__, USERS, timeout=90.0)


def main():
    parser = argparse.ArgumentParser(description="Tests the private crstored.")
    harness.add_common_arguments(parser)
    return harness.run_main(tests(), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
