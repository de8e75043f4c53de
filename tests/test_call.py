"""What a callable brings back from a host: its value, and what it logs, warns and prints."""

from __future__ import annotations

import collections
import functools
import logging
import os
import pickle
import socket
import sys
import threading
import warnings

import pytest

from pytest_netns import ChildDied, Host, Lab, Pair


class TestValues:
    def test_the_callable_runs_in_the_host(self, netns_pair: Pair) -> None:
        """Another process, in the host's network namespace, started in the directory of the caller."""

        def look() -> tuple[int, str, str]:
            return os.getpid(), os.readlink("/proc/self/ns/net"), os.getcwd()

        for host in netns_pair:
            pid, net, directory = host.call(look)
            assert pid != os.getpid()
            assert net == f"net:[{host.namespace.id}]"
            assert directory == os.getcwd()
        assert os.readlink("/proc/self/ns/net") not in [f"net:[{host.namespace.id}]" for host in netns_pair]

    def test_closures_lambdas_methods_and_partials_work(self, netns: Host) -> None:
        """Whatever can be called can be run; nothing about it is pickled."""
        lock = threading.Lock()
        with netns.enter() as run:
            assert run(lambda: not lock.locked())
            assert run("x".join, ["a", "b"]) == "axb"
            assert run(functools.partial(int, base=2), "101") == 5
            assert run(sorted, [2, 1], reverse=True) == [2, 1]
            assert run(lambda *args, **kwargs: (args, kwargs), 1, a=2) == ((1,), {"a": 2})

    def test_values_of_classes_without_a_name_come_back(self, netns: Host) -> None:
        """A class that exists outside too, if only in this function, is the same class afterwards."""
        Point = collections.namedtuple("Point", "x y")

        class Thing:
            def __init__(self, value: object) -> None:
                self.value = value

        thing = netns.call(lambda: Thing([Point(1, 2), Thing, None]))
        assert isinstance(thing, Thing)
        assert thing.value == [Point(1, 2), Thing, None]

    @pytest.mark.parametrize("value", [None, 0, "", b"x" * 300_000, {"a": [1.5, (2,)]}, bytearray(1 << 20)])
    def test_a_value_comes_back_equal(self, netns: Host, value: object) -> None:
        """Small ones, and such as go another way for their size."""
        assert netns.call(lambda: value) == value

    def test_hundreds_of_megabytes_come_back(self, netns: Host) -> None:
        """300 MB in one value, and as many small ones as make 30 MB."""
        size = 300 << 20
        result = netns.call(lambda: b"ab" * (size // 2))
        assert len(result) == size
        assert result[:2] == result[-2:] == b"ab"
        assert netns.call(lambda: list(range(5_000_000)))[-1] == 4_999_999

    def test_a_value_that_cannot_be_pickled_names_the_function(self, netns: Host) -> None:
        """The error says whose value of what type it was."""

        def make_lock() -> object:
            return [threading.Lock()]

        with pytest.raises(TypeError, match=r"make_lock\(\) returned a list.*cannot pickle '_thread.lock'"):
            netns.call(make_lock)

    def test_a_value_of_a_class_made_inside_is_refused(self, netns: Host) -> None:
        """A class that does not exist outside is an error that says so."""

        def make() -> object:
            return type("Made", (), {})()

        with pytest.raises(pickle.UnpicklingError, match=r"Made was made inside and is not known outside"):
            netns.call(make)

    def test_what_is_no_callable_is_refused(self, netns: Host) -> None:
        """A command given to it is sent where commands go."""
        with pytest.raises(TypeError, match=r"host\.run"):
            netns.call(["true"])  # type: ignore[arg-type]

    def test_calls_nest(self, netns_pair: Pair) -> None:
        """A callable may run one in another host or its own, start a command, open a socket there."""
        beijing, shanghai = netns_pair

        def inner() -> str:
            return os.readlink("/proc/self/ns/net")

        def outer() -> list[object]:
            with shanghai.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((str(shanghai.ip), 9))
            command = beijing.run(["readlink", "/proc/self/ns/net"], capture_output=True, text=True)
            with shanghai.enter() as run:
                return [run(inner), run(lambda: beijing.call(inner)), beijing.call(inner), command.stdout.strip()]

        there, back, here, command = beijing.call(outer)
        assert there == f"net:[{shanghai.namespace.id}]"
        assert back == here == command == f"net:[{beijing.namespace.id}]"


def fail_in_a_thread() -> None:
    def fail() -> None:
        raise ValueError("nobody waits for me")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


class TestWhatItSays:
    def test_log_records_reach_the_test(self, netns: Host, caplog: pytest.LogCaptureFixture) -> None:
        """With level, name, message and exception text, also from loggers that do not propagate; each once."""
        quiet = logging.getLogger("test_call.quiet")
        quiet.propagate = False
        quiet.addHandler(caplog.handler)

        def log() -> None:
            logging.getLogger("test_call.loud").warning("lock %s", threading.Lock(), extra={"lock": threading.Lock()})
            quiet.error("quietly", extra={"number": 7})
            try:
                raise KeyError("logged")
            except KeyError:
                logging.getLogger().exception("with it")

        try:
            netns.call(log)
        finally:
            quiet.removeHandler(caplog.handler)
            quiet.propagate = True
        loud, silent, root = caplog.records
        assert (loud.name, loud.levelname) == ("test_call.loud", "WARNING")
        assert "lock <unlocked" in loud.getMessage()
        assert (silent.getMessage(), silent.number) == ("quietly", 7)  # type: ignore[attr-defined]
        assert "KeyError: 'logged'" in str(root.exc_text)

    def test_warnings_reach_the_test(self, netns: Host) -> None:
        """With their category and place; the filters of the test apply inside."""

        class OwnWarning(UserWarning):
            pass

        def warn() -> None:
            warnings.warn("from inside", OwnWarning, stacklevel=1)

        with pytest.warns(OwnWarning, match="from inside") as caught:
            netns.call(warn)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(OwnWarning):
                netns.call(warn)

    def test_output_is_captured_as_any_other(self, netns: Host, capsys: pytest.CaptureFixture[str]) -> None:
        """print and writes to stderr are the test's own, in their order, and not lost with a child that is killed."""
        print("before")
        netns.call(lambda: print("inside"))
        print("after")

        def die() -> None:
            print("last words", file=sys.stderr)
            os.kill(os.getpid(), 9)

        with pytest.raises(ChildDied):
            netns.call(die)
        out, err = capsys.readouterr()
        assert out == "before\ninside\nafter\n"
        assert err == "last words\n"

    def test_an_exception_of_a_thread_is_written(self, netns: Host, capsys: pytest.CaptureFixture[str]) -> None:
        """As Python does it; what pytest would note of it, nobody would ever read."""
        netns.call(fail_in_a_thread)
        assert capsys.readouterr().err.count("ValueError: nobody waits for me") == 1
        started = netns.start(fail_in_a_thread)
        started.wait()
        assert "ValueError: nobody waits for me" in started.output

    @pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys", "no"])
    def test_output_appears_once_whatever_captures(self, pytester: pytest.Pytester, capture: str) -> None:
        """Under each way of capturing, each line is shown once, that of a killed child too."""
        pytester.makepyfile(
            """
            import os

            def test_output(netns):
                print("one " + "outside")
                netns.call(lambda: print("two " + "inside"))
                def die():
                    print("three " + "words", flush=True)
                    os.kill(os.getpid(), 9)
                netns.call(die)
            """
        )
        result = pytester.runpytest_subprocess(f"--capture={capture}", "--tb=native", "-p", "no:cacheprovider", "-rN")
        result.assert_outcomes(failed=1)
        for text in ("one outside", "two inside", "three words"):
            # tee-sys shows it as it is written, and the report does a second time.
            assert result.stdout.str().count(text) == (2 if capture == "tee-sys" else 1)


def test_the_callers_socket_timeout_does_not_matter() -> None:
    """A default time-out for sockets is not one for calls."""
    socket.setdefaulttimeout(0.01)
    try:
        with Lab() as lab:
            assert lab.host().call(lambda: threading.Event().wait(0.1)) is False
    finally:
        socket.setdefaulttimeout(None)
