"""Exceptions and values of any class to bytes and back; for a child that was forked from who unpacks them.

That helps with what pickle alone cannot carry. A class that has no importable name (made in a function, or pytest's
``Skipped``) was there before the fork, so it travels as its place in memory, and the parent looks for it among the
classes it has. Exceptions travel by what their built-in base keeps of them, never through an ``__init__`` of their own,
which may want other arguments. Of what they hold, a part that cannot be pickled is left behind as text. What is left
then comes back as a :class:`RemoteError`. Each exception carries the child's traceback as the last of its causes, the
way ``concurrent.futures`` does it.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import Any

from ._errors import RemoteError

__all__ = ["Traceback", "dumps", "pack_exception", "unpack_exception"]

#: Py_TPFLAGS_HEAPTYPE of cpython's Include/object.h: set for classes that a ``class`` statement made.
_HEAP_TYPE = 1 << 9


class Traceback(Exception):
    """Shown as the cause of an exception from a child: the traceback as it stood there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


class _Pieces(list[Any]):
    """A file for the pickler that keeps what it is given, uncopied: of a large value there is one copy less."""

    write = list.append


class _Pickler(pickle.Pickler):
    """Carries classes without an importable name, and exceptions whatever they are made of.

    Args:
        careful: Look at each part of an exception, and leave behind what cannot travel. Looking is itself
            pickling, which is then not careful, or the work would double with every exception in another.
    """

    def __init__(self, file: Any, *, careful: bool) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._careful = careful

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            return NotImplemented if _is_importable(obj) else (_find_class, (id(obj), _name_of(obj)))
        if isinstance(obj, BaseException):
            return _reduce_exception(obj, _portable if self._careful else _as_it_is)
        return NotImplemented


def dumps(value: Any, *, careful: bool = True) -> list[Any]:
    """Pickle anything that can be; ``pickle.loads`` takes the joined pieces."""
    pieces = _Pieces()
    _Pickler(pieces, careful=careful).dump(value)
    return pieces


def _is_importable(kind: type) -> bool:
    found: Any = sys.modules.get(kind.__module__)
    for word in kind.__qualname__.split("."):
        found = getattr(found, word, None)
    return found is kind or kind is type(None)


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _find_class(place: int, name: str) -> type:
    """The class that was at this place in memory when the child was forked, if it still is."""
    seen: set[int] = set()
    waiting: list[type] = [object]
    while waiting:
        kind = waiting.pop()
        if id(kind) == place and _name_of(kind) == name:
            return kind
        derived: type
        for derived in type.__subclasses__(kind):
            if id(derived) not in seen:
                seen.add(id(derived))
                waiting.append(derived)
    raise pickle.UnpicklingError(f"{name} was made inside and is not known outside")


def pack_exception(error: BaseException) -> bytes:
    """Pickle an exception together with its traceback's text."""
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
    except Exception as failure:  # its __str__ raises, say
        frames = "".join(traceback.format_tb(error.__traceback__))
        text = f"{frames}{_name_of(type(error))} (and showing it failed: {failure!r})"
    try:
        whole: bytes | None = b"".join(dumps(error))
    except Exception:
        whole = None
    return pickle.dumps((text, _summary(error), whole))


def _summary(error: BaseException) -> str:
    try:
        return f"{_name_of(type(error))}: {error}"
    except Exception:
        return _name_of(type(error))


def unpack_exception(body: Any) -> BaseException:
    """The exception as itself, caused by the child's traceback."""
    text, summary, whole = pickle.loads(body)
    try:
        error = pickle.loads(whole) if whole is not None else _remote_error(summary)
    except Exception:
        error = _remote_error(summary)
    _last_cause(error).__cause__ = Traceback(text)
    return error


def _last_cause(error: BaseException) -> BaseException:
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def _reduce_exception(error: BaseException, portable: Callable[[Any], Any]) -> tuple[Any, ...]:
    """By what the built-in base keeps: arguments and attributes, then what the exception is linked to."""
    kind = type(error)
    base = _built_in_base(kind)
    made = base.__reduce__(error)
    arguments = made[1] if isinstance(made, tuple) and len(made) > 1 else error.args
    attributes = dict(made[2]) if isinstance(made, tuple) and len(made) > 2 and made[2] else {}
    attributes.update(_slots_of(error))
    attributes = {name: portable(value) for name, value in attributes.items()}
    state = (attributes, error.__cause__, error.__context__, error.__suppress_context__)
    place = None if _is_importable(kind) else id(kind)
    name = (kind.__module__, kind.__qualname__)
    whole = (place, name, base, tuple(map(portable, arguments)), _summary(error))
    return _rebuild_exception, whole, state, None, None, _link


def _built_in_base(kind: type[BaseException]) -> type[BaseException]:
    """The nearest base that is written in C: it knows how to make such an exception from its arguments."""
    for base in kind.__mro__:
        if issubclass(base, BaseException) and not base.__flags__ & _HEAP_TYPE:
            return base
    return BaseException


def _slots_of(error: BaseException) -> dict[str, Any]:
    found = {}
    for owner in type(error).__mro__:
        slots = owner.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{owner.__name__.lstrip('_')}{slot}" if private else slot
            if name not in ("__dict__", "__weakref__") and hasattr(error, name):
                found[name] = getattr(error, name)
    return found


def _as_it_is(value: Any) -> Any:
    return value


def _portable(value: Any) -> Any:
    """The value itself, or if it cannot travel, a text in its place."""
    if isinstance(value, (str, bytes, int, float, BaseException, type(None))):
        return value
    if type(value) in (tuple, list):
        return type(value)(map(_portable, value))
    try:
        pickle.loads(b"".join(dumps(value, careful=False)))
    except Exception:
        return _stand_in(value)
    return value


def _stand_in(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {_name_of(type(value))}"
    return f"{text} (left in the host: it cannot be pickled)"


def _rebuild_exception(
    place: int | None, name: tuple[str, str], base: type[BaseException], arguments: tuple[Any, ...], summary: str
) -> BaseException:
    try:
        kind = _import_class(*name) if place is None else _find_class(place, ".".join(name))
        made: BaseException = base.__new__(kind, *arguments)
        base.__init__(made, *arguments)
    except Exception:  # its class was made inside, or cannot be imported here
        return _remote_error(summary)
    return made


def _remote_error(summary: str) -> RemoteError:
    return RemoteError(f"{summary} (it could not be carried across as itself)")


def _import_class(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for word in name.split("."):
        found = getattr(found, word)
    return found


def _link(error: BaseException, state: Any) -> None:
    attributes, cause, context, suppress = state
    if not isinstance(error, RemoteError):
        for name, value in attributes.items():
            BaseException.__setattr__(error, name, value)
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = suppress
