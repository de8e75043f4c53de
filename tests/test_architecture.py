"""The house is built as it is described: modules import upwards only, and each danger has one home."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_netns

PACKAGE = Path(pytest_netns.__file__).parent

#: From the top of the house to the bottom; a module imports from modules above it, and from no other.
FLOORS = (
    "_errors",
    "_kernel",
    "_channel",
    "_exec",
    "_ending",
    "_etc",
    "_outfit",
    "_keeping",
    "_pool",
    "_fresh",
    "_supply",
    "_helper",
    "_boot",
    "_launch",
    "_limits",
    "_probe",
    "_tags",
    "_entry",
    "_farewell",
    "_broker",
    "_requests",
    "_answers",
    "_netlink",
    "_addresses",
    "_port",
    "_checks",
    "_apart",
    "_plan",
    "_routing",
    "_changing",
    "_pair",
    "_reach",
    "_nat",
    "_nat_rules",
    "_names",
    "_change_steps",
    "_steps",
    "_describe",
    "_reading",
    "_pickling",
    "_transfer",
    "_scapy",
    "_coverage",
    "_journal",
    "_child",
    "_fork",
    "_awaiting",
    "_listing",
    "_call",
    "_block",
    "_settings",
    "_releasing",
    "_namespace",
    "_conntrack",
    "_belongings",
    "_turns",
    "_interfaces",
    "_advice",
    "_output",
    "_background",
    "_writing",
    "_program",
    "_process",
    "_run",
    "_nftables",
    "_features",
    "_nat_load",
    "_arun",
    "_started",
    "_listening",
    "_waiting",
    "_inside",
    "_tun",
    "_wireguard",
    "_links",
    "_host",
    "_router",
    "_bridge",
    "_conditions",
    "_drawing",
    "_room",
    "_progress",
    "_alter",
    "_build",
    "_surroundings",
    "_resetting",
    "_life",
    "_lab",
    "_echo",
    "packets",
    "_report",
    "_body_child",
    "_body",
    "_isolate_child",
    "_isolate",
    "_marker",
    "_factories",
    "plugin",
    "__init__",
    "__main__",
)
#: What runs in the helper's process; what it imports is part of the first test's time.
HELPER = {
    "_errors",
    "_kernel",
    "_channel",
    "_exec",
    "_ending",
    "_etc",
    "_outfit",
    "_keeping",
    "_pool",
    "_fresh",
    "_supply",
    "_helper",
    "_boot",
}
CHEAP = {"__future__", "_signal", "_socket", "ctypes", "errno", "marshal", "os", "select", "struct", "sys", "time"}
#: A dangerous word, and the modules that may use it.
HOMES = {
    "fork": {"_fork", "_boot", "_exec"},
    "setns": {"_kernel", "_fork", "_exec", "_outfit", "_pool", "_supply", "_helper"},
    "unshare": {"_kernel", "_boot", "_fresh", "_outfit", "_helper"},
    "mount": {"_kernel", "_etc", "_outfit", "_helper"},
    "prctl": {"_kernel"},
    "_exit": {"_fork", "_child", "_boot", "_exec"},
}
#: Where such a word may be a call of the system; elsewhere it is one of `_kernel`'s functions.
SYSTEM = {"fork": {"os"}, "_exit": {"os", "posix"}}
LIBRARIES = {
    "pyroute2": {"_netlink", "_requests", "_wireguard"},
    "scapy": {"packets"},
    "pytest": {"plugin", "_body", "_body_child", "_isolate", "_isolate_child", "_marker", "_report"},
    "coverage": {"_coverage"},
    "ctypes": {"_kernel"},
}


def _modules() -> list[str]:
    return sorted(path.stem for path in PACKAGE.glob("*.py"))


def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Of each import that runs: how many dots, the module, the name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or "", alias.name) for alias in node.names)
        elif not _is_for_types(node):
            yield from _imports(node)


def _own_imports(module: str) -> set[str]:
    found = set()
    for level, path, name in _imports(_tree(module)):
        if level:
            found.add((path or name).split(".")[0])
        elif path.split(".")[0] == "pytest_netns":
            found.add([*path.split("."), name][1])
    return found


def test_every_module_has_its_place() -> None:
    """The list of floors names every module of the package, each once."""
    assert sorted(FLOORS) == _modules()


def test_the_drawing_of_the_house_is_true() -> None:
    """The documentation names every module, from the top to the bottom."""
    text = (PACKAGE.parent / "docs" / "how-it-works.md").read_text().partition("## The house")[2]
    table = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    names = re.findall(r"`(_*[a-z_0-9]+)`", re.sub(r"\(.*?\)", "", "\n".join(table)))
    assert names == list(FLOORS)


@pytest.mark.parametrize("module", FLOORS)
def test_a_module_imports_only_from_those_above_it(module: str) -> None:
    """There are no circles, and whoever reads a module needs to know those above it only."""
    above = set(FLOORS[: FLOORS.index(module)])
    assert _own_imports(module) <= above


@pytest.mark.parametrize("module", sorted(HELPER))
def test_the_helper_is_small(module: str) -> None:
    """What runs in the helper imports its own kind, and of the standard library what costs nothing."""
    late = (
        {"fcntl", "resource", "signal", "typing"} if module == "_exec" else {"fcntl"} if module == "_kernel" else set()
    )
    others = {path.split(".")[0] for level, path, _ in _imports(_tree(module)) if not level}
    assert others <= CHEAP | late
    assert _own_imports(module) <= HELPER


def test_the_helper_starts_without_what_takes_time() -> None:
    """A helper's interpreter has not imported what would double its start, nor the package's public names."""
    program = (
        "import sys; package = sys.modules['pytest_netns'] = type(sys)('pytest_netns'); "
        f"package.__path__ = [{str(PACKAGE)!r}]; import pytest_netns._boot; print(*sys.modules)"
    )
    words = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"typing", "contextlib", "collections", "socket", "signal", "enum", "re", "subprocess"} & set(words)
    assert not {"pytest_netns._broker", "pytest_netns._exec", "pytest_netns._outfit", "pyroute2"} & set(words)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_has_one_home(library: str) -> None:
    """Whoever replaces a library, or its next version, changes one module."""
    users = {
        module
        for module in _modules()
        for level, path, _ in _imports(_tree(module))
        if not level and path.split(".")[0] == library
    }
    assert users <= LIBRARIES[library]
    assert users or library == "coverage"


@pytest.mark.parametrize("word", HOMES)
def test_a_danger_has_one_home(word: str) -> None:
    """A fork, a change of namespace, a mount and an end without clean-up happen where they are looked for."""
    users = set()
    for module in _modules():
        for node in ast.walk(_tree(module)):
            if isinstance(node, ast.Attribute) and node.attr == word:
                owners = SYSTEM.get(word, {"_kernel", "_libc", "os"})
                if isinstance(node.value, ast.Name) and node.value.id in owners:
                    users.add(module)
            elif isinstance(node, ast.ImportFrom) and any(alias.name == word for alias in node.names):
                users.add(module)
    assert users == HOMES[word]


def test_system_calls_on_namespaces_are_made_in_one_module() -> None:
    """Only `_kernel` speaks to the C library, and nobody uses Python's own `os.unshare` and `os.setns`."""
    for module in _modules():
        text = ast.unparse(_tree(module))
        if module != "_kernel":
            assert "CDLL" not in text
        assert "os.unshare" not in text
        assert "os.setns" not in text
        assert "preexec_fn=" not in text


@pytest.mark.parametrize("name", pytest_netns.__all__)
def test_a_public_name_can_be_had_and_is_documented(name: str) -> None:
    """What `__all__` promises is there, and says what it is in a docstring of its own."""
    value = getattr(pytest_netns, name)
    assert inspect.getdoc(value)
    assert value.__doc__
    assert name in dir(pytest_netns)
    members = vars(value).items() if inspect.isclass(value) else ()
    for member, what in members:
        if not member.startswith("_") and (inspect.isfunction(what) or isinstance(what, (property, classmethod))):
            assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"


def test_all_is_what_is_exported() -> None:
    """`__all__`, what is imported late, and what type checkers see are the same names."""
    late = [name for names in pytest_netns._HOMES.values() for name in names]
    tree = _tree("__init__")
    (block,) = (node for node in tree.body if _is_for_types(node))
    seen = {
        alias.asname or alias.name: (node.module or "")
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(pytest_netns.__all__) == sorted(late)
    assert seen == {name: home for home, names in pytest_netns._HOMES.items() for name in names}


@pytest.mark.parametrize("module", [module for module in FLOORS if not module.startswith("__")])
def test_a_module_says_what_it_is_and_what_it_offers(module: str) -> None:
    """Each module has a docstring, and an `__all__` of names that it has; others use only those."""
    loaded = importlib.import_module(f"pytest_netns.{module}")
    assert loaded.__doc__
    for name in getattr(loaded, "__all__", ()):
        assert hasattr(loaded, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that the package has not is refused as with any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pytest_netns.nothing
