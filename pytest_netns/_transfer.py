"""What a child sends back — value, exception, log record, warning, output — to bytes and back; no I/O.

A frame is one byte of kind, eight of length, and the body, pickled; exceptions are packed by :mod:`._pickling`.
"""

from __future__ import annotations

import logging
import pickle
import struct
from typing import Any, NamedTuple

from . import _pickling

__all__ = [
    "Frame",
    "cut_frames",
    "frame",
    "header",
    "pack_record",
    "pack_value",
    "pack_warning",
    "unpack",
    "unpack_record",
    "unpack_warning",
]

_HEADER = struct.Struct("=cQ")
#: Kinds of frames. ``ALONE``: the child has started no other process. ``COVERAGE``: which lines it ran.
#: ``DEBUGGED``: it has entered a debugger.
VALUE, EXCEPTION, RECORD, WARNING, OUTPUT, ALONE, COVERAGE, DEBUGGED = b"v", b"e", b"l", b"w", b"o", b"a", b"c", b"d"

_PICKLED_NONE = pickle.dumps(None)


class Frame(NamedTuple):
    """One message of a child."""

    kind: bytes
    body: bytes


def header(kind: bytes, size: int) -> bytes:
    """What goes before a body of that size."""
    return _HEADER.pack(kind, size)


def frame(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Header and body, apart, so that a large body is not copied."""
    return header(kind, len(body)), body


def cut_frames(data: bytearray) -> list[Frame]:
    """Take every whole frame off the front of ``data``."""
    frames = []
    start = 0
    while len(data) - start >= _HEADER.size:
        kind, size = _HEADER.unpack_from(data, start)
        end = start + _HEADER.size + size
        if len(data) < end:
            break
        frames.append(Frame(kind, bytes(memoryview(data)[start + _HEADER.size : end])))
        start = end
    del data[:start]
    return frames


def pack_value(value: Any, name: str) -> list[Any]:
    """Pickle a result; the pieces make up the body.

    Raises:
        TypeError: It cannot be pickled; names the function.
    """
    if value is None:
        return [_PICKLED_NONE]
    try:
        pieces = _pickling.dumps(value)
    except Exception as error:
        raise TypeError(
            f"{name}() returned a {type(value).__name__}, which cannot be carried out of the host "
            f"(pickle: {error}); return plain data"
        ) from None
    return pieces


def unpack(body: Any) -> Any:
    """A pickled body; any bytes-like object."""
    return pickle.loads(body)


def pack_record(record: logging.LogRecord) -> bytes:
    """A log record, its message formatted: arguments may be anything."""
    attributes = dict(record.__dict__)
    attributes["msg"], attributes["args"] = record.getMessage(), None
    if record.exc_info:
        attributes["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
        attributes["exc_info"] = None
    plain = {
        name: value for name, value in attributes.items() if value is None or type(value) in (str, int, float, bool)
    }
    try:
        extra: bytes | None = pickle.dumps({n: v for n, v in attributes.items() if n not in plain})
    except Exception:  # an ``extra`` that cannot travel
        extra = None
    return pickle.dumps((plain, extra))


def unpack_record(body: bytes) -> logging.LogRecord:
    """The log record again."""
    attributes, extra = pickle.loads(body)
    if extra is not None:
        try:
            attributes.update(pickle.loads(extra))
        except Exception:  # of a class that is known inside only
            extra = None
    return logging.makeLogRecord(attributes)


def pack_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int) -> bytes:
    """A warning and where it was raised."""
    try:
        whole: bytes | None = b"".join(_pickling.dumps((message, category)))
    except Exception:
        whole = None
    return pickle.dumps((whole, f"{category.__name__}: {message}", filename, lineno))


def unpack_warning(body: bytes) -> tuple[Warning | str, type[Warning], str, int]:
    """The warning again, as ``warnings.showwarning`` takes it."""
    whole, text, filename, lineno = pickle.loads(body)
    if whole is not None:
        try:
            message, category = pickle.loads(whole)
            return message, category, filename, lineno
        except Exception:  # of a class that is known inside only
            whole = None
    return text, UserWarning, filename, lineno
