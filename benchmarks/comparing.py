"""Two ways to do the same work, measured in turn, and the table that comes out.

Each round does both, one right after the other, and the next round does them in the other order, so that
neither always comes second. A ratio is the median of the rounds' own ratios: what slows the machine down for
a while slows both, and cancels.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

Sample = dict[str, float]  # what one round took, by part, in microseconds


@dataclasses.dataclass(frozen=True)
class Goal:
    """A promise: what is measured of a comparison is no more than a limit."""

    what: str
    limit: float
    unit: str
    measure: Callable[[Comparison], float]

    @property
    def text(self) -> str:
        """The promise in words."""
        return f"{self.what} ≤ {self.limit:g} {self.unit}"

    def is_met(self, comparison: Comparison) -> bool:
        """Whether it is kept."""
        return self.measure(comparison) <= self.limit

    def verdict(self, comparison: Comparison) -> str:
        """The promise, whether it is kept, and what was measured."""
        met = "met" if self.is_met(comparison) else "**missed**"
        return f"{self.text}: {met}, {self.measure(comparison):.3g}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One kind of work, done by us and by a rival in the same rounds. All times in microseconds."""

    work: str
    rival: str
    ours: list[float]
    theirs: list[float]
    goals: tuple[Goal, ...] = ()

    @property
    def median(self) -> float:
        """Our median."""
        return statistics.median(self.ours)

    @property
    def p99(self) -> float:
        """Our 99th percentile; below 100 rounds that is our worst."""
        return percentile_99(self.ours)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, ours over theirs."""
        return statistics.median(our / their for our, their in zip(self.ours, self.theirs, strict=True))

    @property
    def difference(self) -> float:
        """The median of the rounds' differences, ours minus theirs."""
        return statistics.median(our - their for our, their in zip(self.ours, self.theirs, strict=True))


def percentile_99(values: list[float]) -> float:
    """Return the value that 99 % of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def ratio_within(limit: float) -> Goal:
    """Promise to take no more than `limit` times what the rival takes."""
    return Goal("ratio", limit, "x", lambda c: c.ratio)


def median_within(milliseconds: float) -> Goal:
    """Promise a median, whatever the rival takes."""
    return Goal("median", milliseconds, "ms", lambda c: c.median / 1000)


def difference_within(milliseconds: float) -> Goal:
    """Promise to add no more than this to what the rival takes."""
    return Goal("difference", milliseconds, "ms", lambda c: c.difference / 1000)


def p99_within(limit: float) -> Goal:
    """Promise that hardly any round takes more than `limit` times the median."""
    return Goal("p99", limit, "x median", lambda c: c.p99 / c.median)


def in_turn(
    ours: Callable[[], Sample], theirs: Callable[[], Sample], rounds: int, pause: float = 0
) -> tuple[list[Sample], list[Sample]]:
    """Do both in every round, ours first in even ones, theirs first in odd ones, after one that warms up."""
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    sides = (ours, theirs)
    for number in range(rounds + 1):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            time.sleep(pause)
            sample = sides[side]()
            if number > 0:
                samples[side].append(sample)
    return samples


def compare(
    work: str, rival: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int, *goals: Goal
) -> Comparison:
    """Compare two callables by the time that a call takes."""
    our_samples, their_samples = in_turn(timed(ours), timed(theirs), rounds)
    return Comparison(work, rival, part(our_samples, "call"), part(their_samples, "call"), goals)


def timed(function: Callable[[], object]) -> Callable[[], Sample]:
    """Make a side of a comparison out of a callable."""

    def sample() -> Sample:
        start = time.perf_counter()
        function()
        return {"call": (time.perf_counter() - start) * 1e6}

    return sample


def part(samples: list[Sample], name: str) -> list[float]:
    """Pick one part out of every round."""
    return [sample[name] for sample in samples]


def milliseconds(microseconds: float) -> str:
    """Write a time with three digits that mean something."""
    value = microseconds / 1000
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def table(comparisons: list[Comparison]) -> str:
    """Write comparisons as a Markdown table."""
    lines = [
        "| work | ours, ms: median | p99 | rival | its median | its p99 | ratio | goal |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in comparisons:
        goals = "; ".join(goal.verdict(c) for goal in c.goals)
        theirs = f"{milliseconds(statistics.median(c.theirs))} | {milliseconds(percentile_99(c.theirs))}"
        lines.append(
            f"| {c.work} | {milliseconds(c.median)} | {milliseconds(c.p99)} | {c.rival} | {theirs} "
            f"| {c.ratio:.2f} x | {goals or '-'} |"
        )
    return "\n".join(lines)


def as_data(c: Comparison) -> dict[str, object]:
    """Return a comparison as it is written to JSON."""
    return {
        "work": c.work,
        "rival": c.rival,
        "rounds": len(c.ours),
        "ours_us": {"median": c.median, "p99": c.p99},
        "rival_us": {"median": statistics.median(c.theirs), "p99": percentile_99(c.theirs)},
        "ratio": c.ratio,
        "difference_us": c.difference,
        "goals": {goal.text: goal.is_met(c) for goal in c.goals},
    }
