"""What a port of a bridge may be told: VLANs and isolation, as users write them, checked; no I/O."""

from __future__ import annotations

from typing import NamedTuple

from ._errors import PlanError, hide_own_frames

__all__ = ["PLAIN", "Port"]

__tracebackhide__ = hide_own_frames


class Port(NamedTuple):
    """How the bridge treats what comes and goes at one port.

    Attributes:
        isolated: Whether other isolated ports are kept from it (bridge(8)).
        vlan: Number of the VLAN that frames without a tag belong to, in and out; None: 1, where nothing is said at all.
        tagged: Numbers of VLANs whose frames carry a tag (IEEE 802.1Q).
    """

    isolated: bool = False
    vlan: int | None = None
    tagged: tuple[int, ...] = ()

    @classmethod
    def from_words(cls, isolated: object = False, vlan: object = None, tagged: object = ()) -> Port:
        """Check what a user wrote.

        Raises:
            PlanError: Names the word, the value and what was expected.
        """
        if not isinstance(isolated, bool):
            raise PlanError(f"isolated {isolated!r}: expected True or False")
        if not isinstance(tagged, (list, tuple)):
            raise PlanError(f"tagged {tagged!r}: expected a list of VLAN numbers, such as [20, 30]")
        numbers = tuple(_number("tagged", number) for number in tagged)
        own = None if vlan is None else _number("vlan", vlan)
        if own in numbers:
            raise PlanError(f"vlan {vlan!r} is among tagged {list(numbers)!r}: its frames have a tag or have none")
        return cls(isolated, own, numbers) if isolated or own or numbers else PLAIN

    @property
    def in_vlans(self) -> bool:
        """Whether it says anything of VLANs."""
        return self.vlan is not None or bool(self.tagged)

    def __str__(self) -> str:
        words = ["isolated"] * self.isolated
        words += [] if self.vlan is None else [f"vlan {self.vlan}"]
        words += [f"tagged {','.join(map(str, self.tagged))}"] if self.tagged else []
        return " ".join(words)


#: A port that is told nothing.
PLAIN = Port()


def _number(word: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4094:
        raise PlanError(f"{word} {value!r}: expected VLAN numbers from 1 to 4094")
    return value
