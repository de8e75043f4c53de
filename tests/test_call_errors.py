"""How exceptions come back from a host: as themselves, or as near to it as can be."""

from __future__ import annotations

import asyncio
import builtins
import subprocess
import sys
import threading
import traceback
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_netns import Host, NetnsError, RemoteError


class OddInit(Exception):
    """Cannot be made from its own ``args``."""

    lock: Any
    fine: Any

    def __init__(self, name: str, *, number: int) -> None:
        super().__init__(f"{name} is {number}")
        self.name = name
        self.number = number


class Doubling(Exception):
    """Can be made from its own ``args``, and is another then."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class OddNew(OSError):
    def __new__(cls, path: Path) -> OddNew:
        return super().__new__(cls, 2, "gone", str(path))

    def __init__(self, path: Path) -> None:
        super().__init__(2, "gone", str(path))


class Slotted(Exception):
    __slots__ = ("__private", "code")

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code
        self.__private = -code

    @property
    def private(self) -> int:
        return self.__private


class Unloadable(Exception):
    """Refuses to be made by anything but its constructor."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def raise_it(error: BaseException) -> None:
    raise error


def raised_by(host: Host, function: Callable[..., object], *args: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which it is, is what tests look at
        host.call(function, *args)
    return caught.value


def remote_traceback(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


class TestExceptions:
    def test_an_exception_comes_back_as_itself(self, netns: Host) -> None:
        """Of its own type, with its arguments; the source line of the child is shown as its cause."""

        def fail() -> None:
            int("seven")  # this very line

        error = raised_by(netns, fail)
        assert type(error) is ValueError
        assert "seven" in str(error)
        shown = "".join(traceback.format_exception(error))
        assert 'int("seven")  # this very line' in shown
        assert "in fail" in shown
        assert "_child.py" not in remote_traceback(error)

    def test_classes_of_all_kinds_keep_what_they_hold(self, netns: Host) -> None:
        """Odd constructors are not called a second time; slots, notes and built-in fields survive."""
        errors: list[Any] = [
            raised_by(netns, raise_it, error)
            for error in (
                OddInit("it", number=3),
                Doubling("x"),
                OddNew(Path("/a")),
                Slotted(5),
                UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
                PermissionError(13, "denied", "/file"),
                ImportError("no", name="n", path="p"),
                subprocess.TimeoutExpired(["a"], 3, output=b"so far"),
            )
        ]
        odd, doubling, new, slotted, decode, permission, missing, expired = errors
        assert type(odd) is OddInit
        assert (str(odd), odd.name, odd.number) == ("it is 3", "it", 3)
        assert type(doubling) is Doubling
        assert str(doubling) == "no x"
        assert (type(new), new.errno, new.filename) == (OddNew, 2, "/a")
        assert (type(slotted), slotted.code, slotted.private) == (Slotted, 5, -5)
        assert (decode.object, decode.reason) == (b"\xff", "bad")
        assert (permission.errno, permission.strerror, permission.filename) == (13, "denied", "/file")
        assert (missing.msg, missing.name, missing.path) == ("no", "n", "p")
        assert (expired.cmd, expired.timeout, expired.output) == (["a"], 3, b"so far")

    def test_a_class_made_in_the_test_is_caught_by_itself(self, netns: Host) -> None:
        """No importable name is needed: the class has been there before the fork."""

        class LocalError(LookupError):
            pass

        with pytest.raises(LocalError, match="here"):
            netns.call(raise_it, LocalError("here"))

    def test_what_cannot_be_carried_is_left_behind_as_text(self, netns: Host) -> None:
        """An attribute or argument that cannot be pickled becomes its text; the rest is as it was."""

        def fail() -> None:
            error = OddInit("lock", number=1)
            error.lock, error.fine = threading.Lock(), [1]
            error.args = ("words", threading.Lock())
            raise error

        error: Any = raised_by(netns, fail)
        assert type(error) is OddInit
        assert error.fine == [1]
        assert "_thread.lock" in error.lock
        assert error.args[0] == "words"
        assert "left in the host" in error.args[1]

    def test_a_class_made_inside_becomes_a_remote_error(self, netns: Host) -> None:
        """What cannot come back at all comes as text, with the child's traceback."""

        def fail() -> None:
            raise type("MadeInsideError", (Exception,), {})("its words")

        error = raised_by(netns, fail)
        assert type(error) is RemoteError
        assert isinstance(error, NetnsError)
        assert "MadeInsideError: its words" in str(error)
        assert "in fail" in remote_traceback(error)

    def test_own_ways_of_pickling_are_not_in_the_way(self, netns: Host) -> None:
        """Neither a ``__reduce__`` that raises nor a ``__str__`` that raises keeps an exception in."""

        class Unspeakable(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no words")

        assert type(raised_by(netns, raise_it, Unloadable("x"))) is Unloadable
        assert type(raised_by(netns, raise_it, Unspeakable())) is Unspeakable

    def test_causes_contexts_and_notes_come_along(self, netns: Host) -> None:
        """The chain is as it was; the remote traceback is the last cause."""

        def fail() -> None:
            try:
                try:
                    raise KeyError("first")
                except KeyError:
                    raise OddInit("second", number=2)  # noqa: B904
            except OddInit as error:
                third = ValueError("third")
                third.__notes__ = ["a note"]  # type: ignore[attr-defined]
                raise third from error

        error = raised_by(netns, fail)
        assert error.__notes__ == ["a note"]  # type: ignore[attr-defined]
        assert type(error.__cause__) is OddInit
        assert type(error.__cause__.__context__) is KeyError
        assert 'raise KeyError("first")' in remote_traceback(error)

    def test_a_long_chain_takes_no_long_time(self, netns: Host) -> None:
        """Work grows with the chain, not with its power."""

        def fail() -> None:
            error: Exception = OddInit("end", number=0)
            for number in range(40):
                outer = OddInit("link", number=number)
                outer.__cause__, outer.inner = error, [error]  # type: ignore[attr-defined]
                error = outer
            raise error

        assert type(raised_by(netns, fail)) is OddInit

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in Python 3.11")
    def test_groups_come_back_as_groups(self, netns: Host) -> None:
        """With all members, each as itself, nested ones too."""
        kind = vars(builtins)["ExceptionGroup"]  # for type checkers that check for Python 3.10
        group = kind("two", [OddInit("a", number=1), kind("inner", [Slotted(2)])])
        error: Any = raised_by(netns, raise_it, group)
        assert type(error) is kind
        assert error.message == "two"
        assert type(error.exceptions[0]) is OddInit
        assert error.exceptions[1].exceptions[0].code == 2

    @pytest.mark.parametrize(
        ("error", "same"),
        [
            (SystemExit(3), lambda e: e.code == 3),
            (KeyboardInterrupt("k"), lambda e: e.args == ("k",)),
            (StopIteration(4), lambda e: e.value == 4),
            (asyncio.CancelledError(), lambda _: True),
            (unittest.SkipTest("s"), lambda e: str(e) == "s"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_is_not_an_error_comes_back_too(
        self, netns: Host, error: BaseException, same: Callable[[Any], bool]
    ) -> None:
        """An exit, an interrupt, the end of an iteration: as itself."""
        got = raised_by(netns, raise_it, error)
        assert type(got) is type(error)
        assert same(got)

    def test_pytests_outcomes_are_those_of_the_test(self, pytester: pytest.Pytester) -> None:
        """skip, fail, xfail, importorskip inside a callable do to the test what they do outside; exit ends it all."""
        pytester.makepyfile(
            """
            import pytest

            def test_skip(netns):
                netns.call(pytest.skip, "said inside")

            def test_importorskip(netns):
                netns.call(pytest.importorskip, "no_such_module")

            def test_xfail(netns):
                netns.call(pytest.xfail, "known")

            def test_fail(netns):
                netns.call(pytest.fail, "words of failure")

            def test_raises(netns):
                def body():
                    with pytest.raises(ValueError):
                        pass
                netns.call(body)

            def test_exit(netns):
                netns.call(pytest.exit, "enough")

            def test_never():
                pass
            """
        )
        result = pytester.runpytest_subprocess("-rsxf", "-p", "no:cacheprovider")
        result.assert_outcomes(skipped=2, xfailed=1, failed=2)
        result.stdout.fnmatch_lines(["*words of failure*", "*DID NOT RAISE*", "SKIPPED*.py:4: said inside", "*enough*"])
