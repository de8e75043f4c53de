"""Run the tests on other kernels, in virtual machines made from the distribution's packages.

    tools/lane.py run [--kernel K]... [--python P]... [--user U]... [-- PYTEST ARGUMENTS]
    tools/lane.py lacking [--kernel K]
    tools/lane.py skipped [FOLDER]...
    tools/lane.py table
    tools/lane.py proof [--kernel K]

K is ``oldest``, ``stable``, ``newest``, a series such as ``6.12``, or ``here``, this machine's own; P is ``default``,
``all`` (of this machine), ``newest`` (the distribution's, in a root folder of its own) or an X.Y; U is ``root`` or
``ordinary``. ``lacking`` runs what this machine's kernel cannot: the tests that require features which it lacks, and
those of older kernels. ``skipped`` fails if a test was skipped in every run, ``table`` writes docs/kernels.md, and
``proof`` fails if the tests do not tell a build that does not wait until its networks are ready.

Fetched packages are kept in $KERNELS_CACHE (default: ~/.cache/pytest-netns-kernels); reports go to .kernels.

Exit status: 0, all passed; 1, some failed; 77, no kernel can be booted on this machine. With --required or
KERNELS_REQUIRED=1, and where CI is set unless KERNELS_REQUIRED=0, that is a failure too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import venvs
from kernels.cache import cache_folder, locked
from kernels.emulator import fetch_emulator, hardware_helps
from kernels.kernel import AGES, fetch_kernel
from kernels.problems import CANNOT_RUN, CannotRun
from kernels.root import fetch_python
from kernels.skipped import skipped_everywhere
from kernels.suite import RESULTS, USERS, Interpreter, Result, read_results, run_suite
from kernels.table import write_page

#: The tests whose outcome the kernel decides; the others would only take their time at an emulated processor.
CORE = ["-m", "kernel", "-n", "2", "--dist", "worksteal"]
#: What an older kernel does otherwise, whatever features this machine's has.
OLDER = ["tests/test_first_packet.py"]
#: What asks for a feature in the middle of a test, by Lab.require; their markers do not tell.
ASKING = ["examples/test_guide.py::test_some_of_it_needs_more"]


def choose_pythons(wanted: list[str], cache: Path) -> Iterator[Interpreter]:
    """The Pythons asked for, each with what the tests need."""
    default, inside = venvs.default_venv()
    for name in wanted:
        found = False
        if name in ("default", "all", default.minor):
            found = True
            yield Interpreter(default.full, inside)
        if name not in ("default", "newest"):
            for python in venvs.find_pythons():
                if python.minor != default.minor and name in ("all", python.minor):
                    found = True
                    command = venvs.ensure_venv(python, venvs.CHECKOUT / ".venvs" / python.minor, ["test"])
                    yield Interpreter(python.full, command)
        if not found:
            fetched = fetch_python(name, cache, inside)
            if fetched is None:
                raise SystemExit(f"--python {name}: neither this machine nor the development suite has it")
            yield fetched


def run(options: argparse.Namespace) -> int:
    """Run the tests; say what became of them."""
    return int(not all(result.ok for result in run_everywhere(options)))


def run_everywhere(options: argparse.Namespace) -> list[Result]:
    """Run the tests on each kernel, with each Python, as each user."""
    cache = cache_folder()
    with locked(cache):
        # First, since that is what may not be possible here.
        emulator = fetch_emulator(cache) if options.kernel != ["here"] else None
        kernels = [
            fetch_kernel(name, cache, emulator) if emulator is not None and name != "here" else None
            for name in options.kernel
        ]
        pythons = list(choose_pythons(options.python, cache))
    if emulator is not None:
        print(f"=== the processor is {'virtual, by KVM' if hardware_helps() else 'emulated'}", flush=True)
    results = []
    for kernel in kernels:
        for python in pythons:
            results += run_suite(
                emulator,
                kernel,
                python,
                options.user,
                options.arguments or CORE,
                results=options.results,
                limit=options.limit,
                cpus=options.cpus,
            )
    print("\n=== Summary")
    for result in results:
        print(result)
    return results


def run_lacking(options: argparse.Namespace) -> int:
    """Run what this machine's kernel cannot."""
    _, inside = venvs.default_venv()
    asked = subprocess.run(
        [str(inside), "-m", "pytest", "-q", "--collect-only", "--only-lacking"],
        cwd=venvs.CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    tests = [line for line in asked.stdout.splitlines() if "::" in line]
    if not tests and asked.returncode != 5:  # pytest's status for no tests
        print(asked.stdout + asked.stderr)
        return 1
    options.arguments = [*OLDER, *ASKING, *tests]
    return run(options)


def prove(options: argparse.Namespace) -> int:
    """Run the tests of the first packet on a build that does not wait for it; they must fail."""
    options.arguments = ["-p", "unready", "-q", "--tb=no", *OLDER]
    options.results = options.results / "unready"
    missed = [result for result in run_everywhere(options) if not result.failed]
    for result in missed:
        print(f"NOT CAUGHT on {result.kernel} as {result.user}")
    if not missed:
        print("The lane has caught it.")
    return int(bool(missed))


def check_skipped(options: argparse.Namespace) -> int:
    """Fail if a test was skipped in every run that left a report."""
    reports = [path for folder in options.folders or [RESULTS] for path in sorted(folder.glob("*.xml"))]
    if not reports:
        print("no reports: run the tests first")
        return 1
    skipped = skipped_everywhere(reports)
    for name, reasons in sorted(skipped.items()):
        print(f"SKIPPED EVERYWHERE {name}: {'; '.join(sorted(reasons))}")
    print(f"{len(skipped)} tests were skipped in every one of {len(reports)} runs")
    return int(bool(skipped))


def make_table(options: argparse.Namespace) -> int:
    """Write the results into the documentation."""
    write_page(venvs.CHECKOUT / "docs/kernels.md", read_results(options.results), options.results)
    return 0


def add_running(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    running = commands.add_parser("run", help="run tests on kernels")
    running.add_argument("--kernel", action="append", help="(default: oldest, stable and newest)")
    running.add_argument("--python", action="append", help="(default: default)")
    running.add_argument("arguments", nargs="*", help="tests and other arguments for pytest")
    running.set_defaults(command=run)
    lacking = commands.add_parser("lacking", help="run what this machine's kernel cannot")
    lacking.add_argument("--kernel", action="append", help="(default: stable)")
    lacking.set_defaults(command=run_lacking, python=["default"])
    proof = commands.add_parser("proof", help="see that a build that does not wait until it is ready is caught")
    proof.add_argument("--kernel", action="append", help="(default: oldest, stable and newest)")
    proof.set_defaults(command=prove, python=["default"])
    for parser in (running, lacking, proof):
        parser.add_argument("--user", action="append", choices=USERS, help="(default: both)")
        parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the reports")
        # One for what every change waits for: with two, emulated in a thread each, a kernel that changes its own code
        # (jump labels) panicked now and then. It takes no longer.
        cpus = 1 if parser is lacking else 2
        parser.add_argument("--cpus", type=int, default=cpus, help=f"processors of the guest (default: {cpus})")
        parser.add_argument("--limit", type=float, default=3 * 3600, help="seconds for one boot")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lane.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--required", action="store_true", help="fail where no kernel can be booted")
    commands = parser.add_subparsers(required=True)
    add_running(commands)
    skipped = commands.add_parser("skipped", help="fail if a test was skipped in every run")
    skipped.add_argument("folders", nargs="*", type=Path)
    skipped.set_defaults(command=check_skipped)
    table = commands.add_parser("table", help="write the results into the documentation")
    table.add_argument("--results", type=Path, default=RESULTS)
    table.set_defaults(command=make_table)
    options = parser.parse_args(argv)
    kernels = ["stable"] if options.command is run_lacking else list(AGES)
    for name, default in (("kernel", kernels), ("python", ["default"]), ("user", list(USERS))):
        if getattr(options, name, default) is None:
            setattr(options, name, default)
    return options


def main(argv: list[str]) -> int:
    os.umask(0o022)  # the ordinary user reads what is fetched
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    options = parse(argv)
    try:
        status: int = options.command(options)
    except CannotRun as error:
        asked = os.environ.get("KERNELS_REQUIRED") or ("1" if os.environ.get("CI") else "0")
        required = options.required or asked != "0"
        print(f"\nThe tests were NOT run on other kernels: {error}", flush=True)
        if required:
            print("That is a failure here: it is required (--required, KERNELS_REQUIRED or CI).")
        return 1 if required else CANNOT_RUN
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
