"""Where namespaces can't be had, tests skip or fail with reason and cure; unused, the plugin is free."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

import pytest
from marking import Inner

from pytest_netns import _probe

#: Becomes what the first argument names, then runs the rest. All of it in a user namespace of its own.
LAUNCHER = '''
import ctypes, os, platform, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNET = 0x10000000, 0x40000000

def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def enter_user_namespace():
    uid, gid = os.getuid(), os.getgid()
    inside = 0 if what == "root" else 1001
    check(libc.unshare(NEWUSER))
    maps = {"uid_map": f"{inside} {uid} 1", "setgroups": "deny", "gid_map": f"{inside} {gid} 1"}
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)

def limit(kind):
    with open(f"/proc/sys/user/max_{kind}_namespaces", "w") as file:
        file.write("0")

def drop_capabilities():
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    check(libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)))

def filter_calls():
    """As Docker's default profile: EPERM for unshare and clone with namespace flags, ENOSYS for clone3."""
    unshare, clone = {"x86_64": (272, 56), "aarch64": (97, 220)}[platform.machine()]
    allow, refuse, absent = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
    program = [
        (0x20, 0, 0, 0),  # the call's number
        (0x15, 6, 0, unshare),
        (0x15, 0, 1, 435),
        (0x06, 0, 0, absent),
        (0x15, 1, 0, clone),
        (0x06, 0, 0, allow),
        (0x20, 0, 0, 16),  # its first argument
        (0x45, 0, 1, 0x7E020000),  # CLONE_NEW*
        (0x06, 0, 0, refuse),
        (0x06, 0, 0, allow),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code)
    check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    check(libc.prctl(22, 2, header, 0, 0))  # PR_SET_SECCOMP

what, _, refused = sys.argv[1].partition(" without ")
enter_user_namespace()
if refused in ("net", "user", "time"):
    limit(refused)
if refused == "unshare":
    filter_calls()
if what == "user" or refused == "capabilities":
    drop_capabilities()
os.execv(sys.argv[2], sys.argv[2:])
'''

TESTS = """
import pytest
from pytest_netns import Lab, ping

@pytest.mark.netns
def test_body():
    pass

@pytest.mark.netns(inside="beijing")
def test_inside(netns_pair):
    pass

def test_host(netns):
    pass

def test_factory(netns_pair_factory):
    netns_pair_factory()

def test_plain_python():
    with Lab() as lab:
        lab.pair()

@pytest.fixture
def own():
    with Lab() as lab:
        yield lab.host()

def test_own_fixture(own):
    pass

def test_none_needed():
    pass
"""

NO_NET = "unshare(CLONE_NEWNET) was refused * (ENOSPC)*sysctl -w user.max_net_namespaces=15000"
NO_UNSHARE = "unshare(CLONE_NEWUSER) * (EPERM)*seccomp=unconfined*--cap-add=SYS_ADMIN*RestrictNamespaces=no"
CURES = {
    "root without net": NO_NET,
    "user without net": NO_NET,
    "user without user": "unshare(CLONE_NEWUSER) * (ENOSPC)*sysctl -w user.max_user_namespaces=15000",
    "root without unshare": NO_UNSHARE,
    "user without unshare": NO_UNSHARE,
    "root without capabilities": "write uid_map * (EPERM)*CAP_SETFCAP*--cap-add=SYS_ADMIN*ordinary user",
}


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


def run_where(inner: Inner, refusal: str, *arguments: str, tests: str = TESTS) -> pytest.RunResult:
    """Run tests where the kernel refuses; long lines are not cut."""
    inner.pytester.makepyfile(launcher=LAUNCHER, test_small=tests)
    command = [sys.executable, "-m", "pytest", *inner.arguments("-rA", *arguments, "test_small.py")]
    return inner.pytester.run(sys.executable, "launcher.py", refusal, *command)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.mark.parametrize("refusal", CURES)
def test_a_refusal_skips_with_reason_and_cure(inner: Inner, refusal: str) -> None:
    """Where the kernel refuses, tests that need a network are skipped with what to type; others run."""
    result = run_where(inner, refusal)
    result.assert_outcomes(skipped=6, passed=1)
    result.stdout.fnmatch_lines([f"SKIPPED*no network namespaces here: {CURES[refusal]}*"])
    result.stdout.fnmatch_lines(["PASSED test_small.py::test_none_needed"])


#: What is told, and to whom, is the same before the first refusal and after it.
IN_ANY_ORDER = """
import sys
import pytest
from pytest_netns import NamespacesUnavailable

started = []
sys.addaudithook(lambda name, _: started.append(name) if name == "subprocess.Popen" else None)

@pytest.mark.parametrize("time", ["first", "second"])
class TestLabs:
    def test_unused(self, netns_lab, time):
        pass

    def test_told_in_the_body(self, netns_lab, time):
        with pytest.raises(NamespacesUnavailable):
            netns_lab.pair()

    def test_a_wrong_plan(self, netns_lab_factory, time):
        with pytest.raises(ValueError, match="user 'nobody'"):
            netns_lab_factory(user="nobody")

def test_asked_once():
    assert started == ["subprocess.Popen"]
"""


@pytest.mark.parametrize("refusal", ["root without net", "user without user"])
def test_a_refusal_is_told_to_who_uses_a_lab(inner: Inner, refusal: str) -> None:
    """The helper that starts while modules are imported is asked by whoever uses a lab, and started once."""
    result = run_where(inner, refusal, "-p", "no:randomly", tests=IN_ANY_ORDER)
    result.assert_outcomes(passed=7)


def test_a_helper_gets_ready_while_modules_are_imported(inner: Inner) -> None:
    inner.pytester.makeconftest(
        """
import sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "pytest_netns._lab":
            print("STARTED", list(sys.modules["pytest_netns._broker"]._current), file=sys.__stdout__)

sys.meta_path.insert(0, Finder)
"""
    )
    result = inner.run("def test_one(netns_pair): pass", "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*STARTED [[]False[]]*"])


def test_a_refusal_is_heard_after_the_helper_has_ended(inner: Inner) -> None:
    """A helper that was refused and is gone before anybody asks it has not taken the reason along."""
    inner.pytester.makepyfile(launcher=LAUNCHER)
    code = (
        "import select; from pytest_netns import _broker\n"
        "started = _broker.start()\n"
        "select.select([started._ended], [], [])\n"
        "try: started.greet()\n"
        "except _broker._RefusedError as error: print(error)\n"
    )
    result = inner.pytester.run(sys.executable, "launcher.py", "root without net", sys.executable, "-c", code)
    result.stdout.fnmatch_lines(["*unshare(CLONE_NEWNET)*"])


LEFT_RUNNING = """
import os, select, time

from pytest_netns import Lab

def leave():
    if os.fork() == 0:
        time.sleep(1000)

with Lab() as lab:
    host = lab.host()
    assert host.call(os.getpid) != os.getpid()
    assert host.run(["true"]).returncode == 0
    host.call(leave)
    print("left", host.end_processes())
"""


@pytest.mark.parametrize("what", ["root", "user"])
def test_without_time_namespaces_what_is_left_ends_with_its_host(inner: Inner, what: str) -> None:
    """All else works, and the doctor says so."""
    if not os.path.exists("/proc/sys/user/max_time_namespaces"):
        pytest.skip("this kernel has none to take away")
    inner.pytester.makepyfile(launcher=LAUNCHER, left=LEFT_RUNNING)
    for refused, words, left in (
        ("time", "no: what calls leave running ends with its host*", 1),
        ("nothing", "yes: what calls leave running ends with their block", 0),
    ):
        launcher = [sys.executable, "launcher.py", f"{what} without {refused}", sys.executable]
        inner.pytester.run(*launcher, "-m", "pytest_netns").stdout.fnmatch_lines([words])
        result = inner.pytester.run(*launcher, "left.py")
        assert result.ret == 0
        result.stdout.fnmatch_lines([f"left {left}"])


@pytest.mark.parametrize("way", ["option", "ini", "CI"])
def test_a_refusal_fails_where_that_is_wanted(inner: Inner, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """By option, by ini and where ``CI`` is set the same tests fail, in one sentence; the header says why."""
    options = []
    if way == "option":
        options = ["--netns-missing=fail"]
    elif way == "ini":
        inner.pytester.makeini("[pytest]\nnetns_missing = fail")
    else:
        monkeypatch.setenv("CI", "true")
    result = run_where(inner, "root without net", *options)
    # What refuses while a body runs is a failure, and before it an error.
    result.assert_outcomes(failed=2, errors=4, passed=1)
    origin = {"option": "--netns-missing", "ini": "netns_missing in the ini file", "CI": "CI is set"}[way]
    result.stdout.fnmatch_lines([f"netns: *tests fail ({origin})"])
    result.stdout.fnmatch_lines([f"no network namespaces here: {NO_NET}*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_the_option_wins_over_ini_and_environment(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Option before ini before ``CI`` before the default; the header says which it was."""
    header = "netns: where namespaces can't be had, tests {}"
    source = "def test_nothing():\n    pass\n"
    inner.run(source).stdout.fnmatch_lines([header.format("skip (default)")])
    monkeypatch.setenv("CI", "true")
    inner.run(source).stdout.fnmatch_lines([header.format("fail (CI is set)")])
    inner.pytester.makeini("[pytest]\nnetns_missing = skip")
    inner.run(source).stdout.fnmatch_lines([header.format("skip (netns_missing in the ini file)")])
    result = inner.run(source, "--netns-missing=fail")
    result.stdout.fnmatch_lines([header.format("fail (--netns-missing)")])


@pytest.mark.parametrize("way", ["--netns-missing=never", "-onetns_missing=never"])
def test_a_wrong_setting_is_a_usage_error(inner: Inner, way: str) -> None:
    """A value that is neither skip nor fail ends the session before any test, and names the legal ones."""
    result = inner.run("def test_nothing():\n    pass\n", way)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *'never' is neither 'skip' nor 'fail'"])


class TestExplanation:
    """Refusals that this kernel cannot be brought to, from the same facts as there."""

    def test_knows_apparmor(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A refused map where AppArmor restricts ordinary users is AppArmor's doing."""
        (tmp_path / "knob").write_text("1\n")
        monkeypatch.setattr(_probe, "_APPARMOR", str(tmp_path / "knob"))
        words = _probe.explain(errno.EPERM, "write uid_map")
        assert "kernel.apparmor_restrict_unprivileged_userns=0" in words

    def test_knows_debians_switch(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Where Debian's switch is off, it is named."""
        (tmp_path / "knob").write_text("0\n")
        monkeypatch.setattr(_probe, "_DEBIAN", str(tmp_path / "knob"))
        words = _probe.explain(errno.EPERM, "unshare(CLONE_NEWUSER)")
        assert "sysctl -w kernel.unprivileged_userns_clone=1" in words

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
    def test_knows_kernels_without_them(self, number: int) -> None:
        """A kernel that does not know the request was built without namespaces."""
        assert "CONFIG_NET_NS" in _probe.explain(number, "unshare(CLONE_NEWNET)")

    def test_names_the_seccomp_filter_in_a_container_on_ubuntu(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Where a filter refuses the first step, AppArmor's switch of the machine is not what to turn."""
        (tmp_path / "knob").write_text("1\n")
        (tmp_path / "status").write_text("Name:\tx\nSeccomp:\t2\n")
        monkeypatch.setattr(_probe, "_APPARMOR", str(tmp_path / "knob"))
        monkeypatch.setattr(_probe, "_STATUS", str(tmp_path / "status"))
        assert "seccomp=unconfined" in _probe.explain(errno.EPERM, "unshare(CLONE_NEWUSER)")
        assert "apparmor" in _probe.explain(errno.EPERM, "write uid_map")

    def test_says_something_of_an_unknown_refusal(self) -> None:
        """With no sign of who refuses, the message says what would help in most cases."""
        assert "Run as root" in _probe.explain(errno.EACCES, "unshare(CLONE_NEWUSER)")


UNUSED = """
import os, sys

def test_plain(tmp_path):
    assert tmp_path.is_dir()

class TestPlain:
    def test_method(self):
        pass
"""

WATCHER = """
import sys

started = []
sys.addaudithook(lambda name, _: started.append(name) if name in {"os.fork", "subprocess.Popen"} else None)

def pytest_unconfigure(config):
    heavy = [name for name in ("pyroute2", "scapy") if name in sys.modules]
    ours = sorted(name for name in sys.modules if name.startswith("pytest_netns"))
    print("LOADED", heavy, ours, started, file=sys.__stdout__)
"""


def test_unused_it_loads_and_starts_nothing(inner: Inner) -> None:
    """Without netns tests a session imports neither pyroute2 nor scapy nor our machinery; nothing starts."""
    inner.pytester.makeconftest(WATCHER)
    result = inner.run(UNUSED, "-p", "no:faulthandler")
    result.assert_outcomes(passed=2)
    line = next(line for line in result.outlines if line.startswith("LOADED"))
    for word in ("pyroute2", "scapy", "os.fork", "Popen"):
        assert word not in line
    light = {
        "pytest_netns",
        *(f"pytest_netns.{name}" for name in ("plugin", "_errors", "_settings")),
    }
    assert set(re.findall(r"pytest_netns[.\w]*", line)) == light


#: Loaded before the plugin: what another system does not have is not there.
# What chooses its parts by the platform is loaded before that changes.
ELSEWHERE = """
import asyncio, ctypes, os, pdb, signal, sys

def refuse(*_):
    raise AssertionError("touched what this system does not have")

sys.modules["fcntl"] = sys.modules["posix"] = sys.modules["pyroute2"] = sys.modules["scapy"] = None
ctypes.CDLL = refuse
for name in ("register_at_fork", "fork", "pidfd_open", "memfd_create", "pipe2", "waitid"):
    delattr(os, name)
del signal.SIGRTMAX
sys.platform = PLATFORM
"""


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_on_other_systems_tests_skip(inner: Inner, platform: str) -> None:
    """On other systems the plugin loads, and tests that use its fixtures or marker skip with a reason."""
    inner.pytester.makepyfile(elsewhere=ELSEWHERE.replace("PLATFORM", repr(platform)))
    source = """
        import pytest
        from pytest_netns import Host, Lab, Namespace, NetnsError, PingResult, ping

        def reach(source: Host | None, target: "Host") -> PingResult:
            return ping(source, target)

        @pytest.mark.netns
        def test_body():
            raise AssertionError("ran outside")

        @pytest.mark.parametrize("use", [Lab, ping, lambda: Namespace.many(2), lambda: Host.attach("x")])
        def test_in_the_body(use):
            assert not isinstance(use, (Host, NetnsError))
            use()

        @pytest.mark.netns(inside="beijing")
        def test_inside(netns_pair):
            raise AssertionError("ran outside")

        def test_host(netns):
            raise AssertionError("has a host")

        def test_factory(netns_pair_factory):
            netns_pair_factory()

        def test_plain():
            pass
    """
    path = inner.pytester.makepyfile(test_small=source)
    options = inner.arguments("-rs", "--capture=sys", str(path))
    code = f"import sys, pytest, elsewhere; sys.exit(pytest.main({options!r}))"
    result = inner.pytester.run(sys.executable, "-c", code)
    result.assert_outcomes(skipped=8, passed=1)
    result.stdout.fnmatch_lines([f"SKIPPED*feature of Linux, and this is {platform}: run * in a Linux VM*"])
