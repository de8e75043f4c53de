"""What a child sends back — value, exception, log record, warning, output — to bytes and back; no I/O.

A frame is one byte of kind, eight of length, and the body, pickled. Exceptions that pickle cannot carry come back by
their parts, or as a :class:`RemoteError` that holds their text; each carries the child's traceback as its cause, the
way ``concurrent.futures`` does it.
"""

from __future__ import annotations

import logging
import pickle
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from ._errors import RemoteError

__all__ = [
    "Frame",
    "Traceback",
    "cut_frames",
    "frame",
    "pack_exception",
    "pack_record",
    "pack_value",
    "pack_warning",
    "unpack",
    "unpack_exception",
    "unpack_record",
]

_HEADER = struct.Struct("=cQ")

VALUE, EXCEPTION, RECORD, WARNING, OUTPUT = b"v", b"e", b"l", b"w", b"o"


class Frame(NamedTuple):
    """One message of a child."""

    kind: bytes
    body: bytes


class Traceback(Exception):
    """Shown as the cause of an exception from a child: the traceback as it stood there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def frame(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Header and body, apart, so that a body of hundreds of megabytes is not copied."""
    return _HEADER.pack(kind, len(body)), body


def cut_frames(data: bytearray) -> list[Frame]:
    """Take every whole frame off the front of ``data``."""
    frames = []
    while len(data) >= _HEADER.size:
        kind, size = _HEADER.unpack_from(data)
        end = _HEADER.size + size
        if len(data) < end:
            break
        frames.append(Frame(kind, bytes(memoryview(data)[_HEADER.size : end])))
        del data[:end]
    return frames


def pack_value(value: Any, function: Callable[..., Any]) -> bytes:
    """Pickle a result.

    Raises:
        TypeError: It cannot be pickled; names the function.
    """
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(
            f"{name}() returned a {type(value).__name__}, which cannot be carried out of the host "
            f"(pickle: {error}); return plain data"
        ) from None


def pack_exception(error: BaseException) -> bytes:
    """Pickle an exception together with its traceback's text."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
    return pickle.dumps((text, *_portable(error)))


def _portable(error: BaseException) -> tuple[str, Any]:
    """How the exception travels: whole, by its parts, or as words."""
    kind = type(error)
    ways: tuple[tuple[str, Any], ...] = (("whole", error), ("parts", (kind, error.args, error.__dict__)))
    if getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is not kind:
        # Such as pytest's Skipped: its class has no importable name, but the parent has it, too.
        ways = (("named", ((kind.__module__, kind.__qualname__), error.args, error.__dict__)),)
    for way, value in ways:
        try:
            data = pickle.dumps(value)
            _rebuild(way, pickle.loads(data))
        except Exception:
            continue
        return way, data
    return "words", f"{type(error).__module__}.{type(error).__qualname__}: {error}"


def _rebuild(way: str, value: Any) -> BaseException:
    if way in ("parts", "named"):
        kind, args, attributes = value
        if way == "named":
            kind = _find_class(BaseException, kind)
        made: BaseException = kind.__new__(kind, *args)
        made.args = args
        made.__dict__.update(attributes)
        return made
    if not isinstance(value, BaseException):
        raise TypeError("not an exception any more")
    return value


def _find_class(base: type[BaseException], name: tuple[str, str]) -> type[BaseException]:
    found = [kind for kind in _derived(base) if (kind.__module__, kind.__qualname__) == name]
    if len(found) != 1:
        raise TypeError("no such class here, or several of that name")
    return found[0]


def _derived(base: type[BaseException]) -> set[type[BaseException]]:
    return {base}.union(*(_derived(kind) for kind in base.__subclasses__()))


def unpack_exception(body: bytes) -> BaseException:
    """The exception as itself, caused by the child's traceback."""
    text, way, value = pickle.loads(body)
    if way == "words":
        error: BaseException = RemoteError(f"{value} (it could not be carried across as itself)")
    else:
        error = _rebuild(way, pickle.loads(value))
    error.__cause__ = Traceback(text)
    return error


def pack_record(record: logging.LogRecord) -> bytes:
    """A log record, its message formatted: arguments may be anything."""
    attributes = dict(record.__dict__)
    attributes["msg"], attributes["args"] = record.getMessage(), None
    if record.exc_info:
        attributes["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
        attributes["exc_info"] = None
    try:
        return pickle.dumps(attributes)
    except Exception:  # an ``extra`` that cannot travel
        plain = {name: value for name, value in attributes.items() if isinstance(value, (str, int, float, type(None)))}
        return pickle.dumps(plain)


def unpack_record(body: bytes) -> logging.LogRecord:
    """The log record again."""
    return logging.makeLogRecord(pickle.loads(body))


def pack_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int) -> bytes:
    """A warning and where it was raised."""
    try:
        body = pickle.dumps((message, category, filename, lineno))
        pickle.loads(body)
    except Exception:
        return pickle.dumps((str(message), UserWarning, filename, lineno))
    return body


def unpack(body: bytes) -> Any:
    """A pickled body."""
    return pickle.loads(body)
