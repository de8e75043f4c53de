"""Whatever ends pytest, at a random moment, leaves no process, namespace, interface, mount or file behind.

A few ends by default; ``NETNS_KILLS=50 pytest tests/test_nothing_left.py`` for a campaign. The moments are
random, and chosen by ``NETNS_SEED``; a failing test prints its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fresh import OF_DRIVERS
from pace import PACE, seconds

pytestmark = pytest.mark.kernel

SEED = int(os.environ.get("NETNS_SEED", "1"))
#: Who is ended, and by which signals. xdist replaces a worker that dies; so after a worker the controller is killed,
#: a bit later.
ENDS = (
    ("pytest", (signal.SIGKILL,)),
    ("its process group", (signal.SIGKILL,)),
    ("controller", (signal.SIGKILL,)),
    ("worker", (signal.SIGKILL,)),
    ("all of xdist's group", (signal.SIGKILL,)),
    # Ctrl-C in a terminal, and again while pytest tears down what it has set up; and once more.
    ("its process group", (signal.SIGINT,) * 3),
    ("all of xdist's group", (signal.SIGINT,) * 2),
    ("pytest", (signal.SIGTERM,)),
    ("its process group", (signal.SIGHUP,)),
)
#: Where all takes its time, only those that pytest itself does not hear of.
KILLS = int(os.environ.get("NETNS_KILLS", len(ENDS) if PACE == 1 else 5))
#: The end takes milliseconds; a machine that is busy, or cleans up thousands of namespaces, may take longer.
LIMIT = seconds(60)

SESSION = '''
import os
import signal
import time

import pytest
from pytest_netns import Lab, Namespace, ping

TAG = os.environ["NETNS_KILL_TAG"]


def start_daemon():
    """Detach by every means: another parent, session and group, deaf to every signal that can be refused."""
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        while True:
            time.sleep(1000)


@pytest.mark.parametrize("number", range(300))
def test_much(netns_pair, netns, number):
    if number == 1:  # by another helper, and never closed
        host = Lab(user="root").host()
        host.popen(["sleep", "1000"])
        host.call(start_daemon)
    beijing, shanghai = netns_pair
    named = Namespace(name=f"{TAG}-{os.getpid()}") if os.environ["NETNS_KILL_NAMED"] else None
    program = beijing.popen(["sleep", "1000"])
    started = shanghai.start(time.sleep, 1000)
    with shanghai.enter() as run:
        run(start_daemon)
        assert ping(beijing, shanghai)
        assert run(os.getpid)
        beijing.run(["true"], check=True)
        run(time.sleep, 0.02)
    netns.call(start_daemon)
    if named is not None:
        named.close()


@pytest.mark.netns
@pytest.mark.parametrize("number", range(100))
def test_body(number):
    start_daemon()


@pytest.mark.netns(isolate=True)
@pytest.mark.parametrize("number", range(100))
def test_isolated(netns_pair, number):
    netns_pair["beijing"].popen(["sleep", "1000"])
    start_daemon()


@pytest.mark.skipif("NETNS_KILL_CRASH" not in os.environ, reason="only where a worker is to crash")
def test_crash(netns_pair):
    for host in netns_pair:
        host.popen(["sleep", "1000"])
        host.call(start_daemon)
    os.kill(os.getpid(), signal.SIGKILL)
'''


#: Tests of every kind take turns, so that an end meets each of them.
TURNS = """
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.callspec.params["number"] if hasattr(item, "callspec") else 1000)
"""


def test_the_end_leaves_nothing(session: Session) -> None:
    """A session that comes to its own end leaves nothing either, and does what the killed ones are to do."""
    result = session.run("-k", "0-0 or test_much[0] or test_much[1] or test_body[0] or test_isolated[0]")
    assert "4 passed" in result, result
    session.assert_nothing_left()


def test_a_worker_that_dies_leaves_nothing(session: Session) -> None:
    """When an xdist worker is killed in a test, xdist goes on to the end of the session, and all is gone."""
    pytest.importorskip("xdist")
    session.environment["NETNS_KILL_CRASH"] = "yes"
    result = session.run("-n", "2", "-k", "test_crash or test_body[0] or test_body[1]")
    assert "1 failed, 2 passed" in result, result
    session.assert_nothing_left()


@pytest.mark.parametrize("number", range(KILLS))
def test_an_end_at_a_random_moment_leaves_nothing(session: Session, number: int) -> None:
    """Whoever gets the signal, and whenever, everything that the session has made goes with it, and nothing else."""
    victim, signals = ENDS[number % len(ENDS)]
    chance = random.Random(f"{SEED} {number}")
    session.start(workers=2 if victim in ("controller", "worker", "all of xdist's group") else 0)
    # Some are to hit imports and the helper's start, most of them networks.
    if number % 4 != 1:
        session.wait_for_networks()
    moment = session.live_for(chance.uniform(0, 1.5))
    print(f"{victim}: {', '.join(map(str, signals))} after {moment:.3f} s (seed {SEED})")
    session.end(victim, signals[0])
    for another in signals[1:]:
        print(f"again after {session.live_for(chance.uniform(0, 0.1)):.3f} s")
        session.end(victim, another)
    print(f"by then {len(session.namespaces)} namespaces seen")
    session.assert_nothing_left()


@pytest.mark.once
def test_the_controllers_end_is_an_end_for_a_worker_that_cannot_move(session: Session) -> None:
    """When xdist's controller is killed, what runs in hosts of its workers ends though the workers live on."""
    session.start(workers=2)
    session.wait_for_networks()
    assert session.process is not None
    workers = _children(session.process.pid)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    helpers = [os.pidfd_open(helper) for pid in workers for helper in _children(pid)]
    assert helpers
    session.process.kill()
    try:
        for helper in helpers:
            assert _ends_within(helper, LIMIT)
            os.close(helper)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)  # it was there
    session.process.wait(LIMIT)
    session.assert_nothing_left()


@pytest.mark.parametrize("identity", ["root", "own"])
def test_the_kernel_counts_no_namespace_after_a_kill_9(session: Session, identity: str, tmp_path: Path) -> None:
    """The kernel's own count of network namespaces goes back to none.

    The session runs in a user namespace that allows a number of them. When it has been killed, one is
    allowed; the kernel grants it only when it counts no other (ENOSPC until then).
    """
    uid = os.geteuid()
    counted = subprocess.run(
        [sys.executable, "-c", COUNTED, "0" if identity == "root" else str(uid), str(LIMIT), *session.command()],
        cwd=tmp_path,
        env={**session.environment, "NETNS_KILL_NAMED": ""},  # root of a user namespace may not mount
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
        check=False,
    )
    if counted.returncode == 77:
        pytest.skip(f"no user namespace with a limit of its own: {counted.stdout}")
    assert counted.returncode == 0, counted.stdout + counted.stderr
    assert counted.stdout.splitlines()[-1] == "granted", counted.stdout + counted.stderr


COUNTED = """
import os, signal, subprocess, sys, time
from pytest_netns import _kernel

inner_uid, patience, *command = sys.argv[1:]
uid, gid = os.geteuid(), os.getegid()

def limit(number):
    with open("/proc/sys/user/max_net_namespaces", "w") as file:
        file.write(str(number))

try:
    _kernel.unshare(_kernel.CLONE_NEWUSER, "CLONE_NEWUSER")
    _kernel.map_identity(uid, gid, as_root=int(inner_uid) != uid)
    limit(1000)
except OSError as error:
    print(error)
    sys.exit(77)

def granted():
    pid = os.fork()
    if pid == 0:
        try:
            _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
            code = 0
        except OSError as error:
            code = error.errno
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

output = open("session.txt", "w+")
session = subprocess.Popen(command, stdout=output, stderr=output)
deadline = time.monotonic() + float(patience)
while os.pread(output.fileno(), 1 << 20, 0).count(b" PASSED") < 3:
    if session.poll() is not None or time.monotonic() > deadline:
        sys.exit("the session did not run: " + os.pread(output.fileno(), 1 << 20, 0).decode())
    time.sleep(0.01)
limit(1)
if granted():
    sys.exit("the count means nothing: a namespace was granted while the session had its own")
session.kill()
session.wait()
while not granted():
    if time.monotonic() > deadline:
        sys.exit("the kernel still counts a namespace")
    time.sleep(0.01)
print("granted")
"""


class Session:
    """A pytest session in a process of its own; all its descendants carry a mark in their environment."""

    def __init__(self, directory: Path) -> None:
        self.tag = f"kill-{os.getpid()}-{random.SystemRandom().randrange(10**9)}"
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        (directory / "test_session.py").write_text(SESSION)
        (directory / "conftest.py").write_text(TURNS)
        self.environment = {
            **os.environ,
            "NETNS_KILL_TAG": self.tag,
            "NETNS_KILL_NAMED": "yes" if _may_name() else "",
            "TMPDIR": str(self.temporary),
            "PYTHONUNBUFFERED": "1",
        }
        for name in [name for name in self.environment if name.startswith("PYTEST_")]:
            del self.environment[name]
        self.before = _machine()
        self.namespaces: set[str] = set()
        self.process: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> list[str]:
        options = ["-p", "no:cacheprovider", "-v", "-W", "ignore", "--netns-missing=fail"]
        options += ["--basetemp", str(self.directory / "base"), "--rootdir", str(self.directory)]
        test = str(self.directory / "test_session.py")
        return [sys.executable, "-m", "pytest", *options, *arguments, test]

    def run(self, *arguments: str) -> str:
        result = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return result.stdout + result.stderr

    def start(self, workers: int) -> None:
        if workers and importlib.util.find_spec("xdist") is None:
            pytest.skip("xdist is not installed")
        arguments = ["-n", str(workers)] if workers else []
        with (self.directory / "output.txt").open("w") as output:
            self.process = subprocess.Popen(
                # It is ignored in a job that a shell runs in the background.
                ["env", "--default-signal=INT", *self.command(*arguments)],
                cwd=self.directory,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    def live_for(self, seconds: float) -> float:
        """Until the random moment; meanwhile note which namespaces the session makes."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and self.process.poll() is None:
            self._note_namespaces()
            time.sleep(min(left, 0.1))
        return seconds

    def wait_for_networks(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + LIMIT
        while not self.namespaces and self.process.poll() is None:
            assert time.monotonic() < deadline, (self.directory / "output.txt").read_text()
            self._note_namespaces()
            time.sleep(0.01)

    def end(self, victim: str, number: signal.Signals) -> None:
        assert self.process is not None
        self._note_namespaces()
        if victim == "worker":
            workers = _children(self.process.pid)
            if workers:
                os.kill(random.Random(self.tag).choice(workers), number)
            self.live_for(0.5)
            self.process.send_signal(number)
        elif "group" in victim and self.process.poll() is None:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def assert_nothing_left(self) -> None:
        if self.process is not None:
            self.process.wait(LIMIT)
        watched = {}
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):  # gone since that look
                watched[pid] = os.pidfd_open(pid)
        deadline = time.monotonic() + LIMIT
        try:
            for pid, watch in watched.items():
                assert _ends_within(watch, max(0.0, deadline - time.monotonic())), f"still there: {_describe(pid)}"
        finally:
            for watch in watched.values():
                os.close(watch)
        # The kernel gives a number away again, to a namespace of whoever begins after this.
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        # One may have been born between the look and the kill.
        _until(lambda: [_describe(pid) for pid in self._processes()], [], deadline, "processes")
        _until(lambda: sorted(self.namespaces & set(_namespaces(now).values())), [], deadline, "namespaces")
        _until(lambda: [name for name in _names() if self.tag in name], [], deadline, "names in /run/netns")
        _until(_machine, self.before, deadline, "interfaces, mounts and files of the machine")
        assert list(self.temporary.iterdir()) == []

    def _processes(self) -> list[int]:
        """All that carry the mark, wherever they have gone."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and int(entry) != os.getpid():
                try:
                    environment = Path(f"/proc/{entry}/environ").read_bytes()
                except OSError:
                    continue
                if f"NETNS_KILL_TAG={self.tag}".encode() in environment.split(b"\0"):
                    found.append(int(entry))
        return found

    def _note_namespaces(self) -> None:
        known = _namespaces()
        own = os.readlink("/proc/self/ns/net")
        self.namespaces |= {known[pid] for pid in self._processes() if pid in known} - {own}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    # Of the same user, in the machine's network, and nobody's business.
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        yield Session(tmp_path)
        assert bystander.poll() is None
        bystander.kill()


def _may_name() -> bool:
    return os.geteuid() == 0


def _ends_within(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        command = "gone"
    return f"{pid} {command}"


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _namespaces(born_until: float = math.inf) -> dict[int, str]:
    """Of the processes that there are, or were at that time (CLOCK_BOOTTIME), by number."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                # The 22nd word (proc_pid_stat(5)); the second may have any character in it.
                born = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[19])
                if born / os.sysconf("SC_CLK_TCK") <= born_until:
                    found[int(entry)] = os.readlink(f"/proc/{entry}/ns/net")
            except OSError:
                continue
    return found


def _names() -> list[str]:
    listed = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [*listed, *(path for path in mounted if path.startswith("/run/netns/"))]


def _machine() -> dict[str, list[str]]:
    """What the machine itself shows; but names in /run/netns, which others may come and go meanwhile."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    interfaces = {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    return {
        "interfaces": sorted(interfaces - OF_DRIVERS),
        "mounts": sorted(path for path in mounted if not path.startswith("/run/netns/")),
        "files": sorted(os.listdir("/dev/shm")),
    }


def _until(look: Callable[[], object], wanted: object, deadline: float, what: str) -> None:
    while (seen := look()) != wanted:
        assert time.monotonic() < deadline, f"{what}: {seen!r}, expected {wanted!r}"
        time.sleep(0.01)
