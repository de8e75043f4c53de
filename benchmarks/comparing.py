"""Several ways to do the same work, measured in turn.

Each round does all of them, one right after the other, and each round begins with the next one, so that none always
comes after the same. A ratio is the median of the rounds' own ratios: what slows the machine down for a while slows
all, and cancels.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Mapping

Sample = dict[str, float]  # what one round took, by part, in microseconds
Side = Callable[[], Sample]
OURS = "ours"


class RoundFailed(Exception):
    """One side could not do its work this time, as the last line of what it said tells."""

    def __init__(self, said: str) -> None:
        super().__init__((said.strip().splitlines() or ["it said nothing"])[-1].strip())


@dataclasses.dataclass(frozen=True)
class Scope:
    """How much is measured."""

    rounds: int
    sizes: tuple[int, ...] = (10, 100, 1000)

    def at_most(self, rounds: int) -> int:
        """Fewer rounds, of what takes long."""
        return min(self.rounds, rounds)


@dataclasses.dataclass(frozen=True)
class Goal:
    """A promise: what is measured of a comparison is no more than a limit."""

    what: str
    limit: float
    unit: str
    measure: Callable[[Comparison], float]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One kind of work, done by us and by a rival in the same rounds. All times in microseconds."""

    work: str
    rival: str
    ours: list[float]
    theirs: list[float]
    goals: tuple[Goal, ...] = ()
    note: str = ""

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, ours over theirs."""
        return statistics.median(our / their for our, their in zip(self.ours, self.theirs, strict=True))

    @property
    def difference(self) -> float:
        """The median of the rounds' differences, ours minus theirs."""
        return statistics.median(our - their for our, their in zip(self.ours, self.theirs, strict=True))

    def as_data(self) -> dict[str, object]:
        """Return it as it is written to JSON."""
        return {
            "work": self.work,
            "rival": self.rival,
            "rounds": len(self.ours),
            "ours_us": summary(self.ours),
            "rival_us": summary(self.theirs),
            "ratio": self.ratio,
            "difference_us": self.difference,
            "goals": [
                {"what": goal.what, "limit": goal.limit, "unit": goal.unit, "measured": goal.measure(self)}
                for goal in self.goals
            ],
            "note": self.note,
        }


@dataclasses.dataclass(frozen=True)
class Missing:
    """A comparison that could not be made here."""

    work: str
    rival: str
    why: str

    def as_data(self) -> dict[str, object]:
        """Return it as it is written to JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What has been measured of ourselves alone, by name; the name says the unit."""

    work: str
    figures: dict[str, float]

    def as_data(self) -> dict[str, object]:
        """Return it as it is written to JSON."""
        return dataclasses.asdict(self)


Finding = Comparison | Missing | Figures


def summary(values: list[float]) -> dict[str, float]:
    """Tell the median and the 99th percentile: what 99 % of all do not exceed; below 100 rounds that is the worst."""
    return {
        "median": statistics.median(values),
        "p99": sorted(values)[min(len(values) - 1, int(len(values) * 0.99))],
    }


def ratio_within(limit: float) -> Goal:
    """Promise to take no more than `limit` times what the rival takes."""
    return Goal("ratio", limit, "x", lambda c: c.ratio)


def median_within(milliseconds: float) -> Goal:
    """Promise a median, whatever the rival takes."""
    return Goal("median", milliseconds, "ms", lambda c: statistics.median(c.ours) / 1000)


def difference_within(milliseconds: float) -> Goal:
    """Promise to add no more than this to what the rival takes."""
    return Goal("difference", milliseconds, "ms", lambda c: c.difference / 1000)


def p99_within(limit: float) -> Goal:
    """Promise that hardly any round takes more than `limit` times the median."""
    return Goal("p99", limit, "x median", lambda c: summary(c.ours)["p99"] / statistics.median(c.ours))


@dataclasses.dataclass
class Turns:
    """What the rounds took, by side; nothing where a side failed."""

    samples: dict[str, list[Sample | None]]
    reasons: dict[str, str]

    def compared(self, work: str, rival: str, part: str, *goals: Goal) -> Comparison | Missing:
        """Compare us with one of the others, by a part of the rounds in which neither failed."""
        pairs = [
            (our[part], their[part])
            for our, their in zip(self.samples[OURS], self.samples[rival], strict=True)
            if our is not None and their is not None
        ]
        failed = len(self.samples[rival]) - len(pairs)
        if not pairs:
            return Missing(work, rival, self.reasons[rival])
        note = f"{failed} of {failed + len(pairs)} rounds failed: {self.reasons[rival]}" if failed else ""
        return Comparison(work, rival, [our for our, _ in pairs], [their for _, their in pairs], goals, note)


def in_turn(sides: Mapping[str, Side], rounds: int, pause: float = 0, warm_up: bool = True) -> Turns:
    """Do all sides in every round, beginning with another in each, after one round that does not count."""
    turns = Turns({name: [] for name in sides}, {})
    names = list(sides)
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(pause)
            sample: Sample | None = None
            try:
                sample = sides[name]()
            except RoundFailed as error:
                if name == OURS:
                    raise
                turns.reasons[name] = str(error)
            if number >= 0:
                turns.samples[name].append(sample)
    return turns


def compare(
    work: str, rival: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int, *goals: Goal
) -> Comparison | Missing:
    """Compare two callables by the time that a call takes."""
    return in_turn({OURS: timed(ours), rival: timed(theirs)}, rounds).compared(work, rival, "call", *goals)


def timed(function: Callable[[], object]) -> Side:
    """Make a side of a comparison out of a callable."""

    def sample() -> Sample:
        start = time.perf_counter()
        function()
        return {"call": (time.perf_counter() - start) * 1e6}

    return sample


def parts(names: tuple[str, ...], times: list[float]) -> Sample:
    """Name the stretches between points of time, in seconds."""
    took = [(after - before) * 1e6 for before, after in itertools.pairwise(times)]
    return dict(zip(names, took, strict=True))
