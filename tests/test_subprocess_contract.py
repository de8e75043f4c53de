"""``host.run`` and ``host.popen`` against ``subprocess`` itself: the same call ends in the same way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_netns import Host, NetnsError, Pair

PYTHON = sys.executable
SHOW = "import sys; d = sys.stdin.read(); sys.stdout.write(d.upper()); sys.stderr.write('err'); sys.exit(3)"

Keywords = dict[str, Any]

CALLS: dict[str, tuple[Any, Keywords]] = {
    "exit code": (["sh", "-c", "exit 7"], {}),
    "a signal's death": (["sh", "-c", "kill -9 $$"], {}),
    "text": (
        ["sh", "-c", "printf 'h\\303\\251llo'"],
        {"capture_output": True, "text": True, "encoding": "utf-8"},
    ),
    "errors": (["sh", "-c", "printf '\\377'"], {"stdout": -1, "encoding": "utf-8", "errors": "replace"}),
    "universal newlines": (["printf", "a\\r\\nb"], {"stdout": -1, "universal_newlines": True}),
    "input": ([PYTHON, "-c", SHOW], {"input": b"hello", "capture_output": True}),
    "text input": ([PYTHON, "-c", SHOW], {"input": "hello", "capture_output": True, "text": True}),
    "stderr into stdout": (["sh", "-c", "echo a; echo b >&2"], {"stdout": -1, "stderr": subprocess.STDOUT}),
    "stdout to devnull": (["echo", "a"], {"stdout": subprocess.DEVNULL}),
    "stdin from devnull": (["cat"], {"stdin": subprocess.DEVNULL, "stdout": -1}),
    "check": (["sh", "-c", "echo out; exit 2"], {"check": True, "capture_output": True}),
    "timeout": (["sh", "-c", "echo partial; exec sleep 30"], {"timeout": 0.5, "capture_output": True}),
    "shell": ("echo $((1 + 1)) | tr 2 3", {"shell": True, "stdout": -1}),
    "shell with arguments": (["echo $0", "zero"], {"shell": True, "stdout": -1}),
    "env": (["sh", "-c", "echo $A"], {"env": {"A": "b", "PATH": os.environ["PATH"]}, "stdout": -1}),
    "env without PATH": (["sh", "-c", "echo $A"], {"env": {"A": "b"}, "stdout": -1}),
    "env bytes": ([b"sh", b"-c", b"echo $A"], {"env": {b"A": b"b"}, "stdout": -1}),
    "cwd": (["pwd"], {"cwd": "/usr", "stdout": -1}),
    "cwd as a path": (["pwd"], {"cwd": Path("/usr"), "stdout": -1}),
    "own cwd": (["pwd"], {"stdout": -1}),
    "missing cwd": (["pwd"], {"cwd": "/nonexistent"}),
    "executable": (["zero", "-c", "echo $0"], {"executable": "/bin/sh", "stdout": -1}),
    "missing program": (["no-such-program"], {}),
    "missing path": (["/no/such/program"], {}),
    "not executable": (["/etc/passwd"], {}),
    "a directory": (["/etc"], {}),
    "path-like": ([Path("/bin/echo"), "a"], {"stdout": -1}),
    "a lone path": (Path("/bin/true"), {}),
    "a lone string": ("true", {}),
    "bytes": ([b"echo", b"a\xff"], {"stdout": -1}),
    "no arguments": ([], {}),
    "NUL in an argument": (["echo", "a\0b"], {}),
    "equals sign in a key": (["true"], {"env": {"a=b": "c"}}),
    "umask": (["sh", "-c", "umask"], {"umask": 0o27, "stdout": -1}),
    "own umask": (["sh", "-c", "umask"], {"stdout": -1}),
    "stdin and input": (["cat"], {"stdin": -1, "input": b""}),
    "capture and stdout": (["true"], {"capture_output": True, "stdout": -1}),
    # Signals 1 to 28: 32 and 33 are the C library's own, and not for programs to set (nptl(7)).
    "signals restored": (["sh", "-c", "grep SigIgn /proc/$$/status | tail -c 8"], {"stdout": -1}),
    "signals not restored": (
        ["sh", "-c", "grep SigIgn /proc/$$/status | tail -c 8"],
        {"stdout": -1, "restore_signals": False},
    ),
    "new session": (["sh", "-c", "test $$ = $(cut -d' ' -f6 /proc/$$/stat)"], {"start_new_session": True}),
    "large": (["cat"], {"input": b"x" * 3_000_000, "stdout": -1}),
    "line buffered": (["echo", "a"], {"bufsize": 1, "text": True, "stdout": -1}),
    "bad bufsize": (["true"], {"bufsize": "many"}),
    "unknown keyword": (["true"], {"no_such_keyword": 1}),
}


def outcome(run: Callable[..., Any], args: Any, keywords: Keywords) -> tuple[Any, ...]:
    """What came of a call, as something to compare."""
    try:
        done = run(args, **keywords)
    except (OSError, ValueError, TypeError, IndexError, subprocess.SubprocessError) as error:
        names = ("args", "errno", "filename", "cmd", "returncode", "output", "stdout", "stderr", "timeout")
        return (type(error), *(getattr(error, name, None) for name in names if name != "args"))
    return (done.args, done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_as_it_does_with_subprocess(netns: Host, name: str) -> None:
    """Result, output or error of ``host.run`` equal those of ``subprocess.run``."""
    args, keywords = CALLS[name]
    assert outcome(netns.run, args, keywords) == outcome(subprocess.run, args, keywords)


def test_descriptors_are_passed(netns: Host) -> None:
    """``pass_fds`` keeps a descriptor under its number; others are closed."""
    read, write = os.pipe()
    try:
        listing = netns.run(["ls", "/proc/self/fd"], pass_fds=[write], stdout=-1, text=True).stdout.split()
        assert str(write) in listing
        assert str(read) not in listing
    finally:
        os.close(read)
        os.close(write)


def test_inheritable_descriptors_are_kept_on_request(netns: Host) -> None:
    """``close_fds=False`` passes what is inheritable, and only that."""
    read, write = os.pipe()
    try:
        os.set_inheritable(write, True)
        shown = netns.run(["ls", "/proc/self/fd"], close_fds=False, stdout=-1, text=True).stdout.split()
        assert str(write) in shown
        assert str(read) not in shown
    finally:
        os.close(read)
        os.close(write)


def test_output_goes_to_a_file(netns: Host, tmp_path: Path) -> None:
    """``stdout`` may be a file."""
    with (tmp_path / "out").open("w") as file:
        netns.run(["echo", "a"], stdout=file, check=True)
    assert (tmp_path / "out").read_text() == "a\n"


def test_identity_can_be_changed_by_root(netns: Host) -> None:
    """``user``, ``group`` and ``extra_groups`` work as root, and are refused alike without."""
    keywords: Keywords = {"user": 12345, "group": 12346, "extra_groups": [12347], "stdout": -1, "cwd": "/"}
    ours, theirs = outcome(netns.run, ["id", "-u"], keywords), outcome(subprocess.run, ["id", "-u"], keywords)
    if os.geteuid() == 0:
        assert ours == theirs
        assert ours[2] == b"12345\n"
    else:
        assert ours[0] is theirs[0] is PermissionError


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD])
@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_ignored_signals_stay_ignored(netns: Host, number: signal.Signals, handler: signal.Handlers) -> None:
    """As nohup(1) wants it, and Python's own only with ``restore_signals=False``; whichever way a program starts."""

    def ignored(run: Callable[..., Any], **keywords: Any) -> int:
        shown = run(["grep", "SigIgn", "/proc/self/status"], stdout=subprocess.PIPE, **keywords).stdout
        return int(shown.split()[1], 16) & ~(3 << 31)  # posix_spawn(3) of glibc ignores two signals of its own

    ways: list[dict[str, Any]] = [{}, {"restore_signals": False}]
    ways += [{**way, "group": os.getgid(), "extra_groups": None} for way in ways]  # this takes a fork
    before = signal.signal(number, handler)
    try:
        expected = [ignored(subprocess.run, **way) for way in ways]
        assert [ignored(netns.run, **way) for way in ways] == expected
    finally:
        signal.signal(number, before)
    assert ignored(netns.run) == ignored(subprocess.run)
    assert (expected[0] >> number - 1 & 1) == (handler == signal.SIG_IGN and number != signal.SIGPIPE)


def test_popen_has_the_methods_of_popen(netns: Host) -> None:
    """``poll``, ``wait`` with a limit, ``terminate``, and a return code that names the signal."""
    with netns.popen(["sleep", "100"]) as program:
        assert program.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(timeout=0.05)
        program.terminate()
        assert program.wait(timeout=10) == -signal.SIGTERM
        assert program.poll() == -signal.SIGTERM
        program.kill()  # of one that has ended: nothing happens
    assert program.args == ["sleep", "100"]


def test_pid_is_the_one_outside(netns: Host) -> None:
    """``pid`` is the number that this process knows the program by."""
    with netns.popen(["cat"], stdin=subprocess.PIPE) as program:
        assert Path(f"/proc/{program.pid}/comm").read_text() == "cat\n"
        assert os.stat(f"/proc/{program.pid}/ns/net").st_ino == netns.namespace.id


def test_a_conversation(netns: Host) -> None:
    """Pipes are talked through line by line."""
    with netns.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for word in ("one\n", "two\n"):
            program.stdin.write(word)
            assert program.stdout.readline() == word


def test_preexec_fn_is_refused_with_a_way_out(netns: Host) -> None:
    """What cannot be kept of the contract is refused by name before anything starts."""
    with pytest.raises(NetnsError, match=r"preexec_fn cannot run in a host.*host\.call"):
        netns.run(["true"], preexec_fn=os.getpid)


def test_programs_keep_the_capabilities_of_a_network(netns_pair: Pair, tmp_path: Path) -> None:
    """Over exec too, a program may configure the host; file permissions stay honest, and so does the uid."""
    beijing, _ = netns_pair
    beijing.run(["ip", "link", "set", "eth0", "mtu", "1300"], check=True)
    assert beijing.interfaces["eth0"].mtu == 1300
    assert beijing.run(["id", "-u"], stdout=-1, text=True).stdout == f"{os.getuid()}\n"
    secret = tmp_path / "secret"
    secret.write_text("")
    secret.chmod(0)
    assert (
        beijing.run(["cat", secret], stderr=-1).returncode
        == subprocess.run(["cat", secret], stderr=-1, check=False).returncode
    )


def test_programs_end_with_the_host(netns_pair: Pair) -> None:
    """Also those that have gone into the background and ignore signals."""
    beijing, _ = netns_pair
    script = "trap '' TERM HUP; (setsid sleep 1000 &) ; echo deaf; exec sleep 1000"
    with beijing.popen(["sh", "-c", script]) as program:
        program.wait_output("deaf")
        netns_pair.close()
        assert program.wait(timeout=10) == -signal.SIGKILL


def test_nothing_grows(netns: Host) -> None:
    """A hundred programs leave no descriptor behind."""
    netns.run(["true"])
    before = os.listdir("/proc/self/fd")
    for _ in range(100):
        netns.run(["true"], capture_output=True, check=True)
        with pytest.raises(FileNotFoundError):
            netns.run(["no-such-program"])
    assert os.listdir("/proc/self/fd") == before


PATCHED = """
import subprocess
from unittest import mock
from pytest_netns import Lab

with Lab() as lab:
    host, _ = lab.pair()
    real = subprocess.Popen
    with mock.patch.object(subprocess, "Popen", {instead}):
        {use}
    assert host.run(["true"]).returncode == 0
"""


@pytest.mark.parametrize(
    ("instead", "use"),
    [
        ("host.popen", 'assert subprocess.Popen(["true"]).wait() == 0'),
        ("lambda *words, **more: real(*words, **more)", 'assert host.run(["true"]).returncode == 0'),
        ("mock.Mock()", "host.popen"),
        ("mock.Mock()", 'assert host.run(["true"]).returncode == 0'),
    ],
)
def test_the_first_program_may_be_started_where_popen_is_patched(instead: str, use: str) -> None:
    """What code under test starts by subprocess is sent into a host that way."""
    source = PATCHED.format(instead=instead, use=use)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
