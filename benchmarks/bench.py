"""What pytest-netns costs, beside what the same work costs without it, and by others.

    python benchmarks/bench.py [--rounds N] [--only pair,rivals,...] [--sizes 10,100,1000] [--json FILE] [--publish]
    python benchmarks/bench.py --from FILE --publish

Everything that is compared is measured in turn, in one run. It is no test: no test asserts a time. Runs as root or not;
needs a C compiler. ``--publish`` writes `results.json` and `results.svg`, and fills in the tables of the documents.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The checkout that this file is part of, whatever else is installed; for the processes that are started, too.
sys.path.insert(0, str(HERE.parent))
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

import echoes  # noqa: E402
import labs  # noqa: E402
import pair  # noqa: E402
import places  # noqa: E402
import report  # noqa: E402
import running  # noqa: E402
import sessions  # noqa: E402
import traffic  # noqa: E402
from comparing import Finding, Scope  # noqa: E402

SUBJECTS: dict[str, Callable[[Scope], Iterator[Finding]]] = {
    "pair": pair.compared,
    "rivals": pair.compared_with_rivals,
    "running": running.compared,
    "echoes": echoes.compared,
    "sessions": sessions.compared,
    "traffic": traffic.compared,
    "labs": labs.compared,
}
MOST_ROUNDS = 300
SMALLEST = 10
#: Seconds between two subjects: the kernel still takes the networks of the one before apart.
PAUSE = 3


def measured(scope: Scope, subjects: list[str]) -> report.Results:
    """Measure one subject after the other; print each as soon as it is known."""
    versions, _ = places.prepared()
    began = time.monotonic()
    results: report.Results = {"machine": machine(scope, versions), "load": {}, "findings": {}}
    for name in subjects:
        time.sleep(PAUSE)
        before, start = os.getloadavg()[0], time.monotonic()
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        results["findings"][name] = [finding.as_data() for finding in SUBJECTS[name](scope)]
        results["load"][name] = [before, os.getloadavg()[0]]
        print(f"\n## {name}: {time.monotonic() - start:.0f} s\n\n{report.table(results, name)}", flush=True)
    print(f"\n{report.conditions(results)}; in {(time.monotonic() - began) / 60:.0f} minutes")
    return results


def machine(scope: Scope, rivals: dict[str, str]) -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "date": datetime.date.today().isoformat(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "rounds": scope.rounds,
        "rivals": rivals,
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help=f"at most, 2 to {MOST_ROUNDS}; 100 unless told")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SUBJECTS), help=", ".join(SUBJECTS))
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=(10, 100, 1000))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--publish", action="store_true", help="put them into the documents; all subjects")
    parser.add_argument("--from", type=Path, dest="source", help="measure nothing; take the figures of this file")
    chosen = parser.parse_args()
    if not 2 <= chosen.rounds <= MOST_ROUNDS:
        parser.error(f"--rounds must be between 2 and {MOST_ROUNDS}")
    if min(chosen.sizes) < SMALLEST:
        parser.error(f"--sizes: a chain, a grid and a fat tree need {SMALLEST} hosts")
    if unknown := set(chosen.only) - set(SUBJECTS):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(SUBJECTS)}")
    if chosen.publish and chosen.only != list(SUBJECTS):
        parser.error("--publish needs all subjects, of one run; leave --only away")
    return chosen


def main() -> None:
    """Measure, print, and keep."""
    chosen = arguments()
    if chosen.source:
        results = json.loads(chosen.source.read_text())
    else:
        results = measured(Scope(chosen.rounds, chosen.sizes), chosen.only)
    if chosen.json:
        chosen.json.write_text(as_text(results))
    if chosen.publish:
        report.JSON.write_text(as_text(results))
        report.publish(results)
        print(f"written: {report.JSON}, {report.PICTURE}, {', '.join(map(str, report.DOCUMENTS))}")


def as_text(results: report.Results) -> str:
    """Write as JSON that changes by lines."""
    return json.dumps(results, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
