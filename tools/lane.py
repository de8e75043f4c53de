"""Run the tests on other kernels, in virtual machines made from the distribution's packages.

    tools/lane.py run [--kernel K]... [--python P]... [--user U]... [-- PYTEST ARGUMENTS]

K is ``oldest``, ``stable``, ``newest`` or a series such as ``6.12``; P is ``default``, ``all`` or an X.Y; U is
``root`` or ``ordinary``. All of them without the option. Fetched packages are kept in $KERNELS_CACHE (default:
~/.cache/pytest-netns-kernels); the tests' reports go to .kernels.

Exit status: 0, all passed; 1, some failed; 77, no kernel can be booted on this machine. Where CI is set, or with
--required, that is a failure too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import venvs
from kernels.cache import cache_folder, locked
from kernels.emulator import fetch_emulator, hardware_helps
from kernels.kernel import AGES, fetch_kernel
from kernels.problems import CANNOT_RUN, CannotRun
from kernels.suite import USERS, Interpreter, run_suite


def choose_pythons(wanted: list[str]) -> list[Interpreter]:
    """The Pythons asked for, each in its virtual environment."""
    chosen = []
    default, inside = venvs.default_venv()
    for name in wanted:
        if name in ("default", "all", default.minor):
            chosen.append(Interpreter(default.full, inside))
        for python in venvs.find_pythons():
            if python.minor != default.minor and name in ("all", python.minor):
                command = venvs.ensure_venv(python, venvs.CHECKOUT / ".venvs" / python.minor, ["test"])
                chosen.append(Interpreter(python.full, command))
    return chosen


def run(options: argparse.Namespace) -> int:
    """Run the tests; say what became of them."""
    cache = cache_folder()
    with locked(cache):
        emulator = fetch_emulator(cache)
        kernels = [fetch_kernel(name, cache, emulator) for name in options.kernel]
        pythons = choose_pythons(options.python)
    print(f"=== the processor is {'virtual, by KVM' if hardware_helps() else 'emulated'}", flush=True)
    results = []
    for kernel in kernels:
        for python in pythons:
            results += run_suite(
                emulator, kernel, python, options.user, options.arguments, results=options.results, limit=options.limit
            )
    print("\n=== Summary")
    for result in results:
        print(result)
    return int(any(result.status for result in results))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lane.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--required", action="store_true", help="fail where no kernel can be booted")
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="run tests on kernels")
    running.add_argument("--kernel", action="append", help=f"{', '.join(AGES)} or a series (default: those three)")
    running.add_argument("--python", action="append", help="default, all, or X.Y (default: default)")
    running.add_argument("--user", action="append", choices=USERS, help="(default: both)")
    running.add_argument("--results", type=Path, default=venvs.CHECKOUT / ".kernels", help="folder for the reports")
    running.add_argument("--limit", type=float, default=3600, help="seconds for one boot")
    running.add_argument("arguments", nargs="*", help="tests and other arguments for pytest")
    running.set_defaults(command=run)
    options = parser.parse_args(argv)
    for name, default in (("kernel", list(AGES)), ("python", ["default"]), ("user", list(USERS))):
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
        required = options.required or bool(os.environ.get("CI"))
        print(f"\nThe tests were NOT run on other kernels: {error}", flush=True)
        if required:
            print("That is a failure here: CI is set, or --required was given.")
        return 1 if required else CANNOT_RUN
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
