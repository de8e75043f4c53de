"""Many programs at a low limit of open files: it is raised, for the helper too, and programs do not notice."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAD = """
import fcntl, os, resource, sys
from pytest_netns import KernelError, Lab

def limits_of_programs(host):
    show = ["sh", "-c", "ulimit -Sn; ulimit -Hn"]
    for more in ({}, {"group": os.getgid()}):  # by spawn and by fork
        yield host.run(show, capture_output=True, check=True, **more).stdout.split()
"""


def _run(soft: int, hard: int, body: str) -> str:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual[1] != resource.RLIM_INFINITY and usual[1] < hard:
        pytest.skip(f"this process may have {usual[1]} open files at most")
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
    command = [sys.executable, "-c", HEAD + limit + body]
    return subprocess.run(command, check=True, stdout=-1, text=True, timeout=100).stdout


def test_many_programs_at_a_low_limit() -> None:
    """They all run, and have the limit that the test process had; one given a descriptor beyond that has another."""
    said = _run(
        128,
        2000,
        """
with Lab() as lab:
    host = lab.host()
    programs = [host.popen(["sh", "-c", "ulimit -n; read line"], stdin=-1) for _ in range(60)]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 240
    started = host.start(print, "in the background")
    assert all(program.wait_output("\\n").string == "128\\n" for program in programs)
    assert started.wait() is None
    assert list(limits_of_programs(host)) == [[b"128", b"2000"]] * 2
    high = fcntl.fcntl(1, fcntl.F_DUPFD, 128)
    host.run(f"echo high >&{high}", shell=True, executable="/bin/bash", pass_fds=[high], check=True)
    assert int(host.run(["sh", "-c", "ulimit -n"], pass_fds=[high], capture_output=True).stdout) > high
""",
    )
    assert said.endswith("high\n")


def test_a_large_lab_leaves_programs_their_limit() -> None:
    """Where it has raised that of the test process, before the first program or after it."""
    _run(
        130,
        2000,
        """
for first in (False, True):
    with Lab() as lab:
        lan = lab.bridge("lan")
        hosts = [lab.host(f"h{number}", lan) for number in range(80)]
        if first:
            resource.setrlimit(resource.RLIMIT_NOFILE, (130, 2000))
            with Lab() as other:
                assert list(limits_of_programs(other.host())) == [[b"130", b"2000"]] * 2
        lab.build()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 130
        assert list(limits_of_programs(hosts[0])) == [[b"130", b"2000"]] * 2
""",
    )


def test_more_programs_than_the_hard_limit_allows() -> None:
    """The error says what is lacking; those that were started go on, and all is released."""
    _run(
        200,
        300,
        """
with Lab() as lab:
    lab.host().run(["true"], check=True)
before = len(os.listdir("/proc/self/fd"))
for kept in range(6):  # bridges, of which the helper has one more each time: at what it meets the limit is chance
    with Lab() as lab:
        for number in range(kept):
            lab.pair(hosts=(f"a{number}", f"b{number}"), bridge=f"br{number}")
        lab.build()
    with Lab() as lab:
        host = lab.host()
        try:
            for number in range(200):
                host.popen(["sleep", "1000"])
        except KernelError as error:
            assert error.errno == 24, error
            assert "300 files open" in str(error) and "ulimit -n" in str(error), error
            assert number > 50
            assert all(work.running() for work in host.background.all)
        else:
            sys.exit("200 programs fit into 300 descriptors")
    assert len(os.listdir("/proc/self/fd")) == before
""",
    )
