"""Keywords of the marker that cannot be: one line that says so, and nothing left behind."""

from __future__ import annotations

import pytest
from marking import Inner


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


WRONG = {
    "@pytest.mark.netns('beijing')": "netns takes keywords only, not 'beijing'",
    "@pytest.mark.netns(insde='beijing')": "unknown keyword 'insde' (did you mean 'inside'?)",
    "@pytest.mark.netns(colour='red')": "unknown keyword 'colour'; *inside, timeout, requires, *user, hosts, *mtu",
    "@pytest.mark.netns(requires=['netm'])": "unknown kernel feature 'netm' (did you mean 'netem'?); there are bond, *",
    "@pytest.mark.netns(requires='netem')": "requires 'netem': expected a list of kernel features",
    "@pytest.mark.netns(inside=5)": "inside 5: expected the name of a host",
    "@pytest.mark.netns(inside='paris')": "inside='paris': the test has no host of this name; "
    "its hosts are beijing, shanghai",
    "@pytest.mark.netns(timeout=0)": "timeout 0: expected seconds above 0",
    "@pytest.mark.netns(timeout='1')": "timeout '1': expected seconds above 0",
    "@pytest.mark.netns(timeout=float('nan'))": "timeout nan: expected seconds above 0",
    "@pytest.mark.netns(subnet='10.0.0.0')": "subnet '10.0.0.0': expected a network with its prefix length",
    "@pytest.mark.netns(subnet='10.0.0.300/24')": "subnet '10.0.0.300/24': *expected a network such as",
    "@pytest.mark.netns(subnet='10.0.0.1/24')": "subnet '10.0.0.1/24' has host bits set; the network is '10.0.0.0/24'",
    "@pytest.mark.netns(subnet='fd00::/64')": "subnet 'fd00::/64' is IPv6; expected IPv4",
    "@pytest.mark.netns(subnet='127.1.0.0/16')": "subnet '127.1.0.0/16' overlaps 127.0.0.0/8",
    "@pytest.mark.netns(subnet='10.0.0.0/32')": "subnet '10.0.0.0/32' has no room for two hosts",
    "@pytest.mark.netns(subnet6='fe80::/64')": "subnet6 'fe80::/64' overlaps fe80::/10",
    "@pytest.mark.netns(interfaces='sixteen-bytes-xy')": "'sixteen-bytes-xy' is 16 bytes long; Linux *15",
    "@pytest.mark.netns(interfaces='été-à-la-mer-é')": "*is 18 bytes long; Linux takes 15",
    "@pytest.mark.netns(bridge='bridge-with-16-b')": "'bridge-with-16-b' is 16 bytes long",
    "@pytest.mark.netns(bridge='beijing')": "bridge 'beijing' has the name of a host",
    "@pytest.mark.netns(hosts=('a', 'a'))": "hosts ('a', 'a'): both have the same name",
    "@pytest.mark.netns(hosts=('a', 'b', 'c'))": "hosts ('a', 'b', 'c'): expected two names",
    "@pytest.mark.netns(hosts=('a', '../b'))": "'../b': expected letters",
    "@pytest.mark.netns(mtu=30)": "mtu 30: expected a whole number of bytes from 68",
    "@pytest.mark.netns(mtu=1000)": "mtu 1000: IPv6 needs 1280",
    "@pytest.mark.parametrize('netns_pair', [{'mtu': 3}], indirect=True)": "mtu 3: expected",
    "@pytest.mark.parametrize('netns_pair', [{'inside': 'a'}], indirect=True)": "unknown keyword 'inside'",
    "@pytest.mark.parametrize('netns_pair', [5], indirect=True)": "takes a dict of keywords * not 5",
}


def test_what_cannot_be_is_an_error_in_one_line(inner: Inner) -> None:
    """A wrong keyword is an error at setup: one line with the test, the value and what was expected."""
    source = "import pytest\n"
    for number, decorator in enumerate(WRONG):
        source += f"{decorator}\ndef test_{number}(netns_pair):\n    pass\n"
    result = inner.run(source)
    result.assert_outcomes(errors=len(WRONG))
    lines = iter(result.outlines)
    for number, words in enumerate(WRONG.values()):
        assert any(f"ERROR at setup of test_{number}" in line for line in lines)
        line = next(lines)
        assert line.startswith(f"test_small.py::test_{number}")
        pytest.LineMatcher([line]).fnmatch_lines([f"*{words.replace('[', '[[]')}*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pytest_netns/*")


def test_keywords_of_a_pair_need_a_pair(inner: Inner) -> None:
    """A test that shapes a pair and asks for none is an error; a class or module may shape those of its tests."""
    source = """
        import pytest

        pytestmark = pytest.mark.netns(subnet6=None)

        @pytest.mark.netns(subnet="192.168.7.0/24", mtu=1400)
        def test_forgotten():
            pass

        @pytest.mark.netns(mtu=1400)
        def test_other_fixture(netns):
            pass

        @pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.netns(mtu=1400)), 2])
        def test_parameters(number):
            pass

        @pytest.mark.netns(mtu=1400)
        def test_asked_for_later(request):
            assert request.getfixturevalue("netns_pair").hosts[0].interfaces["eth0"].mtu == 1400

        @pytest.fixture
        def beijing(netns_pair):
            return netns_pair.hosts[0]

        @pytest.mark.netns(mtu=1400, timeout=99)
        def test_by_way_of_another_fixture(beijing):
            assert beijing.interfaces["eth0"].mtu == 1400

        @pytest.fixture
        def site(request):
            return request.getfixturevalue("netns_pair")

        @pytest.mark.netns(mtu=1400)
        def test_by_way_of_a_fixture_that_asks_later(site):
            assert site.hosts[0].interfaces["eth0"].mtu == 1400

        @pytest.mark.netns(timeout=99)
        def test_of_the_module(tmp_path):
            pass
    """
    result = inner.run(source)
    result.assert_outcomes(errors=3, passed=5)
    words = "shapes netns_pair, which the test does not ask for"
    result.stdout.fnmatch_lines([f"*test_forgotten: @pytest.mark.netns(mtu, subnet=…) {words}"])
    result.stdout.fnmatch_lines([f"*test_parameters[[]1]: *{words}"])


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only"])
def test_a_plan_of_the_setup_can_be_shown(inner: Inner, option: str) -> None:
    """pytest shows the fixtures of a test whose body would run in a host, and runs nothing."""
    source = """
        import pytest

        @pytest.mark.netns(inside="beijing")
        def test_inside(netns_pair):
            raise AssertionError("ran")
    """
    result = inner.run(source, option)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*SETUP*netns_pair*", "*test_inside*", "*TEARDOWN*netns_pair*"])


def test_a_refused_plan_leaves_nothing_behind(inner: Inner) -> None:
    """A keyword that is refused has started no process, and cost no descriptor."""
    source = """
        import os, sys
        import pytest

        before = len(os.listdir("/proc/self/fd"))

        @pytest.mark.parametrize("turn", range(3))
        @pytest.mark.netns(mtu=3)
        def test_refused(netns_pair, turn):
            pass

        def test_nothing_there():
            assert len(os.listdir("/proc/self/fd")) == before
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                assert file.read() == ""
            assert "pyroute2" not in sys.modules
    """
    inner.run(source, "--capture=sys").assert_outcomes(errors=3, passed=1)


def test_two_hosts_of_one_name_are_told_apart(inner: Inner) -> None:
    """``inside`` with a name that two of the test's hosts have is an error that says so."""
    source = """
        import pytest

        @pytest.fixture
        def other(netns_pair_factory):
            with netns_pair_factory() as pair:
                yield pair

        @pytest.mark.netns(inside="beijing")
        def test_ambiguous(netns_pair, other):
            pass

        @pytest.mark.netns(inside="beijing")
        def test_no_fixture():
            pass
    """
    result = inner.run(source)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "test_small.py::test_ambiguous: inside='beijing': *two hosts of this name, one * in 'other'*",
            "test_small.py::test_no_fixture: inside='beijing': *no fixture with hosts; add netns_pair",
        ]
    )
