"""The helper process: how it starts, what it hands out, and what is said when something goes wrong."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from pace import PACE, seconds

from pytest_netns import (
    Host,
    KernelError,
    Lab,
    NetnsError,
    Pair,
    _broker,
    _channel,
    _ending,
    _exec,
    _fresh,
    _kernel,
    ping,
)

pytestmark = pytest.mark.kernel

PRELUDE = """
import os, signal, sys
import pytest_netns
from pytest_netns import Host, KernelError, Lab, Namespace, NetnsError, ping
from pytest_netns import _broker

def descriptors():
    return sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in os.listdir("/proc/self/fd") if
                  os.path.lexists(f"/proc/self/fd/{fd}"))

def halves():
    outer = _broker.broker()._process.pid
    with open(f"/proc/{outer}/task/{outer}/children") as file:
        return {"outer": outer, "inner": int(file.read())}

def refusing(boot, step, number, words):
    #What starts a helper to which a step is refused.
    fail = f"lambda *_: (_ for _ in ()).throw(KernelError({number}, '{words}: injected'))"
    start = "from pytest_netns._boot import main"
    errors = "from pytest_netns._errors import KernelError"
    return boot.replace(start, f"{errors}; {start}; sys.modules['pytest_netns._boot'].{step} = {fail}")
"""


def _run(script: str, **keywords: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which may do to its helper what this one must not do to ours."""
    program = PRELUDE + f"PATIENT = {seconds(60)}\n" + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        **keywords,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done  # type: ignore[no-any-return]


@pytest.mark.parametrize("half", ["outer", "inner"])
def test_a_killed_helper_ends_its_networks_and_says_so(half: str) -> None:
    """Hosts of a helper that was killed say so, programs in them are gone, and the next lab works."""
    _run(f"""
        lab = Lab()
        beijing, shanghai = lab.pair()
        program = beijing.popen(["sleep", "1000"])
        with beijing.enter() as run:
            killed = halves()
            os.kill(killed[{half!r}], signal.SIGKILL)
            assert program.wait(60) == -signal.SIGKILL
            for use in (
                lambda: beijing.socket(),
                lambda: beijing.sysctl("ipv4.ip_forward"),
                lambda: beijing.run(["true"]),
                lambda: beijing.call(os.getpid),
                lambda: run(os.getpid),
            ):
                try:
                    use()
                except NetnsError as error:
                    assert "helper process has ended" in str(error), error
                else:
                    sys.exit("it worked")
        with Lab() as another:
            first, second = another.pair()
            assert ping(first, second)
            try:  # still
                beijing.socket()
            except NetnsError as error:
                assert "helper process has ended" in str(error), error
            else:
                sys.exit("a host of the dead helper came to life")
            lab.close()
            assert ping(second, first)
            assert first.run(["true"]).returncode == 0
    """)


@pytest.mark.parametrize("half", ["outer", "inner"])
def test_a_call_that_ends_with_the_helper_says_so(half: str) -> None:
    """It was killed, but not for anything that it did."""
    _run(f"""
        import threading
        with Lab() as lab:
            host = lab.host()
            reading, writing = os.pipe()

            def run():
                os.write(writing, b"!")
                signal.pause()

            def end():
                os.read(reading, 1)
                os.kill(halves()[{half!r}], signal.SIGKILL)

            threading.Thread(target=end).start()
            try:
                host.call(run)
            except NetnsError as error:
                assert "helper process has ended" in str(error), error
    """)


def test_a_helper_that_dies_between_tests_is_replaced(pytester: pytest.Pytester) -> None:
    """A test that ends the helper does not fail those after it."""
    pytester.makepyfile("""
        import os, signal
        from pytest_netns import _broker, ping

        def test_kills(netns_pair):
            helper = _broker.broker()
            os.kill(helper._process.pid, signal.SIGKILL)
            assert helper._ends_within(60)

        def test_after(netns_pair):
            beijing, shanghai = netns_pair
            assert ping(beijing, shanghai)
    """)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_signals_meant_for_the_session_do_not_end_the_helper() -> None:
    """Whoever signals every process of a session reaches the helper, too, which waits for pytest's end."""
    _run("""
        with Lab() as lab:
            beijing, shanghai = lab.pair()
            for pid in halves().values():
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                    os.kill(pid, number)
            assert ping(beijing, shanghai)
            beijing.run(["sh", "-c", "kill -INT 1; kill -TERM 1"])
            assert beijing.run(["true"]).returncode == 0
            with beijing.popen(["sleep", "1000"]) as program:
                program.send_signal(signal.SIGINT)  # a program dies of it as ever
                assert program.wait(60) == -signal.SIGINT
    """)


def test_an_interrupted_request_spoils_nothing() -> None:
    """Ctrl-C in the middle of a request ends that request; the next ones get their own answers."""
    _run("""
        class Interrupt(Exception):
            pass

        def interrupt(*_):
            raise Interrupt

        with Lab() as lab:
            beijing, shanghai = lab.pair()
            signal.signal(signal.SIGALRM, interrupt)
            for number in range(1, 300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, number * 1e-6)
                    while True:
                        beijing.socket().close()
                except Interrupt:
                    pass
                name = ("ipv4.ip_forward", "ipv4.ip_default_ttl")[number % 2]
                assert beijing.sysctl(name) == ("0", "64")[number % 2]
            assert ping(beijing, shanghai)
    """)


def test_threads_may_ask_at_the_same_time(netns_pair: Pair) -> None:
    """Each of several threads gets the answers to its own requests."""
    beijing, shanghai = netns_pair
    failures: list[object] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                with Lab() as lab:
                    host = lab.host(f"host{number}")
                    host.sysctl("ipv4.ip_default_ttl", 10 + number)
                    assert host.sysctl("ipv4.ip_default_ttl") == str(10 + number)
                    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
                        assert inside.family == socket.AF_INET
                assert ping(beijing, shanghai)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # xdist has a thread
def test_a_fork_may_use_the_hosts_and_leaves_them_to_its_parent(netns_pair: Pair) -> None:
    """A fork of the test process asks over a channel of its own, at the same time as its parent."""
    beijing, shanghai = netns_pair
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for _ in range(5):
                    assert ping(beijing, shanghai)
                    assert beijing.call(lambda: 42) == 42
                    assert shanghai.run(["true"]).returncode == 0
                    with Lab() as lab:
                        assert ping(*lab.pair())
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    for _ in range(20):
        assert ping(beijing, shanghai)
        beijing.socket().close()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert ping(beijing, shanghai)


def test_the_end_of_a_fork_is_not_the_end_of_the_helper() -> None:
    """A fork that exits as Python does leaves the helper to its parent; one that stays holds nothing up."""
    _run("""
        with Lab() as lab:
            beijing, shanghai = lab.pair()
            pid = os.fork()
            if pid == 0:
                assert beijing.call(os.getppid) == 0
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert ping(beijing, shanghai)
            program = beijing.popen(["sleep", "1000"])
            read, write = os.pipe()
            stays = os.fork()
            if stays == 0:
                os.close(write)
                os.read(read, 1)  # until the parent says that all is over
                os._exit(0)
        helper = halves()["outer"]
        _broker.shut_down()
        assert not os.path.exists(f"/proc/{helper}")
        assert program.wait(60) == -signal.SIGTERM
        os.write(write, b"x")
        os.waitpid(stays, 0)
    """)


def test_a_passing_lack_of_resources_is_no_refusal() -> None:
    """A helper that cannot start for want of descriptors or processes is an error, not a reason to skip the rest."""
    _run("""
        import resource
        from pytest_netns import _launch
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))
        whole = _launch._BOOT
        for short_of, number in (("descriptors", 24), ("processes", 11), ("nothing", 0)):
            try:
                with Lab() as lab:
                    lab.pair()
            except KernelError as error:
                assert error.errno == number, error
                assert "start the helper process" in str(error), error
            else:
                assert short_of == "nothing"
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            _launch._BOOT = whole if short_of != "descriptors" else refusing(whole, "_fork", 11, "fork")
    """)


def test_a_refusal_after_success_is_an_error() -> None:
    """Where networks could be made before, a helper that is refused later fails its test; others are still tried."""
    _run("""
        from pytest_netns import _launch
        from pytest_netns._broker import broker, shut_down
        with Lab() as lab:
            lab.pair()
        shut_down()
        whole = _launch._BOOT
        _launch._BOOT = refusing(whole, "_leave_the_machine", 28, "unshare(CLONE_NEWNET)")
        try:
            Lab().pair()
        except KernelError as error:
            assert error.errno == 28 and "unshare(CLONE_NEWNET)" in str(error), error
        else:
            sys.exit("not refused")
        _launch._BOOT = whole
        with Lab() as lab:
            lab.pair()
    """)


def test_one_that_hops_from_process_to_process_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that finds nobody counts only if no process was born meanwhile: it may have had another number by then."""
    program = subprocess.Popen(["sleep", "1000"])
    looks = iter(
        [
            ({}, set()),  # new numbers meanwhile
            ({}, {"7"}),  # one was gone
            ({}, {"7", "8"}),  # another was gone
            ({"1": os.pidfd_open(program.pid)}, {"7", "8"}),
            ({}, {"7", "8"}),  # the same as before, and no new numbers
        ]
    )
    numbers = iter([b"1", b"2", b"2", b"2", b"2", b"2", b"2", b"3", b"3"])
    monkeypatch.setattr(_ending, "_processes_in", lambda *_: next(looks))
    monkeypatch.setattr(_ending, "_newest", lambda: next(numbers))
    assert _ending.end_processes("net", [1], None) == (1, [])
    assert program.wait() == -9
    assert (next(looks, None), next(numbers, None)) == (None, None)


def test_who_is_faster_than_the_looks_is_made_to_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """When looking does not come to an end, all stand still until those who are meant are ended, and then go on."""
    program = subprocess.Popen(["sleep", "1000"])
    numbers = itertools.count()
    signals: list[int] = []
    looks = iter([{"1": os.pidfd_open(program.pid)}, {}])

    def look(*_: object) -> tuple[dict[str, int], set[str]]:
        assert next(numbers) < 1000
        return (next(looks), set()) if signals else ({}, {str(next(numbers))})

    monkeypatch.setattr(_ending, "_processes_in", look)
    monkeypatch.setattr(_ending, "_newest", lambda: b"%d" % next(numbers))
    monkeypatch.setattr(_ending, "_signal_all", signals.append)
    assert _ending.end_processes("net", [1], None) == (1, [])
    assert program.wait() == -9
    assert signals == [signal.SIGSTOP, signal.SIGCONT]


#: Keeps thirty processes, each of which forks and ends, again and again; on a slow processor fewer, or nobody else
#: would ever have a turn.
BOMB_FEW = f"""
import os
for _ in range({int(30 / PACE) + 1}):
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
"""


def test_programs_of_other_hosts_go_on(netns_pair: Pair) -> None:
    """Ending a bomb in one host leaves a program in another as it was."""
    beijing, shanghai = netns_pair
    echo = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"
    with shanghai.popen(
        [sys.executable, "-I", "-S", "-c", echo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for _ in range(3):
            beijing.popen([sys.executable, "-I", "-S", "-c", BOMB_FEW]).wait()
            program.stdin.write("hello\n")
            program.stdin.flush()
            assert program.stdout.readline() == "HELLO\n"
            beijing.end_processes()
            program.stdin.write("again\n")
            program.stdin.flush()
            assert program.stdout.readline() == "AGAIN\n"
        program.stdin.close()
        assert beijing.end_processes() == 0


def test_settings_that_differ_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test relies on is written where the machine's value is another, and only there."""
    machine = dict.fromkeys(_fresh.SETTINGS, b"0\n") | {"ipv4/conf/all/rp_filter": b"2\n"}
    monkeypatch.setattr(_fresh, "read", lambda path: machine[path.removeprefix("/proc/sys/net/")])
    written = dict(_fresh.to_write(_fresh.SETTINGS))
    assert written.pop("/proc/sys/net/ipv4/conf/all/rp_filter") == b"0"
    assert written == {"/proc/sys/net/ipv6/conf/all/keep_addr_on_down": b"1"}


def test_a_host_has_the_settings(netns: Host) -> None:
    """In a host they are as documented, whatever the machine's are."""
    for name, value in _fresh.SETTINGS.items():
        assert netns.sysctl(name) == value


def test_too_many_open_files_are_an_error_and_nothing_half_made() -> None:
    """Where the limit of open files is reached, the error names it; what was under way is undone."""
    _run("""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with Lab() as first:
            assert ping(*first.pair())
            before = descriptors()
            with Lab() as lab:
                for number in range(200):
                    held = descriptors()
                    spare = os.dup(0)  # to look with
                    try:
                        lab.pair(hosts=(f"a{number}", f"b{number}"), bridge=f"br{number}", subnet="10.0.0.0/24")
                    except KernelError as error:
                        assert error.errno == 24 and "256 files" in str(error), error
                        assert "ulimit -n" in str(error), error
                        os.close(spare)
                        assert descriptors() == held
                        break
                    os.close(spare)
                else:
                    sys.exit("200 pairs fit into 256 descriptors")
                assert number > 30
            assert descriptors() == before
        with Lab() as another:
            assert ping(*another.pair())
    """)


def test_descriptors_that_do_not_fit_are_noticed() -> None:
    """With few descriptors left, a request gets all that it needs, or an error; and none is lost."""
    _run("""
        import resource
        with Lab() as lab:
            host = lab.host()
            host.call(os.getpid)
            before = descriptors()
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            refused = set()
            for left in range(8):
                fillers = []
                try:
                    while True:
                        fillers.append(os.dup(0))
                except OSError:
                    pass
                for fd in fillers[:left]:
                    os.close(fd)
                del fillers[:left]
                for use in (
                    lambda: host.socket().close(),
                    lambda: Namespace().close(),
                    lambda: Lab().host().close(),
                    lambda: host.run(["true"]),
                    lambda: host.call(os.getpid),
                    lambda: host.sysctl("ipv4.ip_forward"),
                ):
                    try:
                        use()
                    except OSError as error:
                        assert error.errno == 24, error
                        refused.add(left)
                for fd in fillers:
                    os.close(fd)
                assert descriptors() == before, (left, descriptors(), before)
                assert host.run(["true"]).returncode == 0
                assert host.call(os.getppid) == 0
            assert refused >= {0, 1, 2, 3}, refused
    """)


def test_many_networks_at_once() -> None:
    """More descriptors than select(2) knows are no obstacle."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip(f"at most {hard} open files are allowed here")
    _run("""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
        fillers = [os.dup(0) for _ in range(1100)]
        with Lab() as lab:
            beijing, shanghai = lab.pair()
            assert ping(beijing, shanghai)
            assert beijing.call(lambda: 42) == 42
            assert beijing.run(["echo", "x"], capture_output=True).stdout
            assert beijing.interfaces
    """)


def test_nobody_waits_for_a_helper_that_is_to_keep_bridges() -> None:
    """Where it does not come to it, they are not kept; and later requests are answered."""
    held = _broker.Broker()
    held.greet()
    outer = held._process.pid
    inner = int(Path(f"/proc/{outer}/task/{outer}/children").read_text())
    (net,) = held.request("namespaces", 0, 1, [b"bridge"])[1][1:]
    os.kill(inner, signal.SIGSTOP)
    try:
        for _ in range(1000):  # more than a socket's queue takes
            assert held.end_processes("net", [], [(b"bridge", net)]) == 0
    finally:
        os.kill(inner, signal.SIGCONT)
        os.close(net)
    assert held.request("drain") == (None, [])
    held.close()


@pytest.mark.parametrize("how", ["popen", "call"])
def test_what_a_fork_has_started_ends_with_the_lab_of_its_parent(how: str) -> None:
    """The parent has started nothing in the lab, and does not know of it."""
    _run(f"""
        import subprocess
        read, write = os.pipe()
        lab = Lab()
        beijing, _ = lab.pair()
        if os.fork() == 0:
            with beijing.enter() as run:
                if {how!r} == "popen":
                    number = beijing.popen(["sleep", "1000"]).pid
                else:
                    number = run(lambda: subprocess.Popen(["sleep", "1000"]).pid)
                os.write(write, str(number).encode())
                os._exit(0)
        os.close(write)
        os.wait()
        number = int(os.read(read, 100))
        lab.close()
        if {how!r} == "popen":  # else it is the number inside
            try:
                os.kill(number, 0)
                sys.exit("it goes on")
            except ProcessLookupError:
                pass
        else:
            with Lab() as other:
                assert number not in other.host().call(lambda: [int(p) for p in os.listdir("/proc") if p.isdigit()])
    """)


def test_the_kernels_limit_of_namespaces_is_an_error_and_nothing_half_made() -> None:
    """Where user.max_net_namespaces ends a set-up half-way, the error says so, and what was made goes."""
    done = _run("""
        from pytest_netns import _kernel
        ids = os.geteuid(), os.getegid()
        try:
            _kernel.unshare(_kernel.CLONE_NEWUSER, "CLONE_NEWUSER")
            _kernel.map_identity(*ids, as_root=True)
            with open("/proc/sys/user/max_net_namespaces", "w") as file:
                file.write("6")
        except OSError as error:
            print("skip", error)
            sys.exit(0)
        import time
        with Lab() as lab:  # the helper has one, a pair three
            assert ping(*lab.pair())
            before = descriptors()
            try:
                lab.pair(hosts=("paris", "tokyo"), bridge="br1")
            except KernelError as error:
                assert error.errno == 28, error
                assert "max_net_namespaces" in str(error), error
            else:
                sys.exit("six were allowed, and seven made")
            assert descriptors() == before
            deadline = time.monotonic() + PATIENT
            while True:  # the kernel counts one until it is cleaned up
                try:
                    with Lab() as small:  # what it got before it was refused does not count against it
                        small.host(), small.host("other")
                    break
                except KernelError:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
    """)
    if done.stdout.startswith("skip"):
        pytest.skip(done.stdout)


def test_the_helper_answers_nonsense_with_an_error(netns: Host) -> None:
    """A request that no system call takes is refused by name, and the helper goes on."""
    held = _broker.broker()
    fd = netns.namespace.fileno()
    for error, verb, arguments in (
        (OverflowError, "socket", (2**70, 1, 0)),
        (TypeError, "socket", ("x", 1, 0)),
        (ValueError, "sysctl", ("ipv4\0", None)),
        (TypeError, "sysctl", (None, None)),
        (TypeError, "socket", (object(), 1, 0)),
        (NetnsError, "no such verb", ()),
    ):
        with pytest.raises(error):
            held.request(verb, *arguments, fds=[fd])
    with pytest.raises(ValueError, match="254 descriptors"):
        held.request("hello", fds=[fd] * 254)
    assert held.request("sysctl", "ipv4/ip_forward", None, fds=[fd])[0]
    assert held.alive()


def test_a_large_request_and_a_large_answer_arrive_whole(netns: Host) -> None:
    """Frames larger than a read, and than the buffer of a socket, are put together again."""
    words = [f"{number:09}" * 100 for number in range(1000)]
    result = netns.run(["sh", "-c", 'printf %s "$@" | wc -c', "sh", *words], capture_output=True, check=True)
    assert int(result.stdout) == 900_000


def test_a_default_time_out_of_sockets_does_not_reach_the_helper() -> None:
    """`socket.setdefaulttimeout`, as some suites set it, changes nothing between us and the helper."""
    _run("""
        import socket
        socket.setdefaulttimeout(0.001)
        with Lab() as lab:
            host = lab.host()
            assert host.run(["sleep", "0.1"]).returncode == 0
            host.popen(["sleep", "1000"])
            assert os.fork() or os._exit(0 if host.sysctl("ipv4.ip_forward") == "0" else 1) is None
            assert os.wait()[1] == 0
    """)


def test_a_program_inherits_nothing_of_the_helpers(netns: Host) -> None:
    """Of open files a program has the three standard ones, and no way to speak to the helper."""
    result = netns.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True)
    names = [line.split()[-3] for line in result.stdout.splitlines()[1:]]
    assert set(names) <= {"0", "1", "2", "3"}, result.stdout  # the fourth is the directory that ls reads
    assert "socket:" not in result.stdout


def test_frames_carry_values_and_descriptors() -> None:
    """A value arrives as it was, descriptors as duplicates; the end of the other side is an EOFError."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        read, write = os.pipe()
        _channel.send(mine, ("verb", 1, b"x", None, {"a": [1.5, True]}), [read, write])
        value, fds = _channel.receive(theirs)
        assert value == ("verb", 1, b"x", None, {"a": [1.5, True]})
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in (read, write)]
        assert not any(map(os.get_inheritable, fds))
        mine.send(b"\x20")  # a frame that breaks off
        mine.close()
        with pytest.raises(EOFError):
            _channel.receive(theirs)
        for fd in (read, write, *fds):
            os.close(fd)


def test_what_cannot_be_sent_is_refused_before_it_is_sent() -> None:
    """Other than plain values are a TypeError that shows them, and leave the channel as it was."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        with pytest.raises(TypeError, match="object at"):
            _channel.send(mine, object())
        _channel.send(mine, "next")
        assert _channel.receive(theirs) == ("next", [])


def test_what_is_handed_over_is_theirs_alone() -> None:
    """Whoever has the whole frame has the last descriptor, so that closing it ends what it is of."""
    mine, theirs = socket.socketpair()
    read, write = os.pipe2(os.O_NONBLOCK)
    before_the_end = _Watched(mine, write)
    with mine, theirs, os.fdopen(read, "rb") as pipe:
        _channel.hand_over(before_the_end, ("ok", 7), [write])  # type: ignore[arg-type]
        assert before_the_end.rest_sent_when_closed
        value, (fd,) = _channel.receive(theirs)
        os.write(fd, b"end")
        os.close(fd)
        assert (value, pipe.read()) == (("ok", 7), b"end")


def test_what_cannot_be_handed_over_is_closed() -> None:
    """Nobody is there to take it, or it is no plain value."""
    mine, theirs = socket.socketpair()
    theirs.close()
    with mine:
        for value, error in ((1, BrokenPipeError), (object(), TypeError)):
            read, write = os.pipe()
            with os.fdopen(read, "rb") as pipe:
                with pytest.raises(error):
                    _channel.hand_over(mine, value, [write])
                assert pipe.read() == b""


class _Watched:
    """A socket, and whether a descriptor is still open when the end of a frame is sent."""

    def __init__(self, mine: socket.socket, fd: int) -> None:
        self.sendmsg = mine.sendmsg
        self.rest_sent_when_closed = False
        self._mine, self._fd = mine, fd

    def sendall(self, data: bytes) -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(self._fd)
        self.rest_sent_when_closed = True
        self._mine.sendall(data)


def test_a_helper_that_cannot_start_is_explained(tmp_path: Path) -> None:
    """An interpreter that fails says so in the error, and all that was opened for it is closed."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'no interpreter today' >&2\nexit 3\n")
    fake.chmod(0o755)
    _run(f"""
        before = descriptors()
        sys.executable, real = {str(fake)!r}, sys.executable
        for _ in range(3):
            try:
                Lab().pair()
            except NetnsError as error:
                assert "no interpreter today" in str(error), error
            else:
                sys.exit("it worked")
        sys.executable = "/nonexistent"
        try:
            Lab().pair()
        except OSError as error:
            assert error.errno == 2
        sys.executable = real
        with Lab() as lab:
            assert ping(*lab.pair())
        _broker.shut_down()
        assert descriptors() == before, (descriptors(), before)
    """)


def enter_amid_threads() -> str:
    """A time namespace is refused as long as there is a second thread; this one ends when it has been."""
    refused = threading.Event()
    second = threading.Thread(target=refused.wait)
    second.start()  # before: older kernels start none for who is in another time namespace than its children
    _kernel.unshare(_kernel.CLONE_NEWTIME, "CLONE_NEWTIME")
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    asked = []

    def let_it_end() -> None:
        asked.append(refused.is_set())
        refused.set()
        second.join()

    os.sched_yield = let_it_end
    _kernel.setns(fd, _kernel.CLONE_NEWTIME, "time namespace")
    # Before Python 3.13 join() is done a moment before the kernel is with the thread.
    return f"{asked[:1]} {os.fstat(fd).st_ino == os.stat('/proc/self/ns/time').st_ino}"


def test_who_is_not_alone_for_a_moment_enters_a_time_namespace(netns: Host) -> None:
    if not _broker.broker().has_tags:
        pytest.skip("this kernel has no time namespaces")
    assert netns.call(enter_amid_threads) == "[False] True"


def test_who_cannot_go_back_to_one_namespace_goes_back_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper would stay in a host otherwise, and do there what it is asked for next."""
    went: list[int] = []

    def setns(fd: int, _flags: int, what: str) -> None:
        went.append(fd)
        if fd == 14:
            raise KernelError(errno.EUSERS, what)

    monkeypatch.setattr(_kernel, "setns", setns)
    with (
        pytest.raises(KernelError, match="time namespace"),
        _exec.Place([1, 2, 3, 4], [11, 12, 13, 14], confined=False),
    ):
        pass
    assert went == [1, 2, 3, 4, 14, 13, 12, 11]
