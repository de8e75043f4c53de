"""Output of programs in the background that is long, or comes in awkward pieces: read from the file that keeps it."""

from __future__ import annotations

import bisect
import gc
import os
import random
import re
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from pytest_netns import Host, Lab, WaitTimeout
from pytest_netns._broker import broker
from pytest_netns._keeping import FRAME
from pytest_netns._output import _SHORT, Output


@pytest.fixture
def output() -> Iterator[Output]:
    """One into whose file the test writes as the helper would."""
    made = Output(broker())
    yield made
    made.close()


def write(output: Output, *pieces: bytes, when: float = 0.0) -> None:
    os.writev(output._file, [part for each in pieces for part in (FRAME.pack(when, len(each)), each)])
    os.eventfd_write(output.bell, 1)


def stamped(pieces: list[bytes]) -> bytes:
    """Of pieces that came one second after the other: each line, after the time of its first byte."""
    starts = [sum(map(len, pieces[:number])) for number in range(len(pieces))]
    place, lines = 0, []
    for line in b"".join(pieces).splitlines(keepends=True):
        when = time.localtime(bisect.bisect_right(starts, place) - 1)
        lines.append(time.strftime("%H:%M:%S.000 ", when).encode() + line)
        place += len(line)
    return b"".join(lines)


@pytest.mark.parametrize("length", [_SHORT // 2, _SHORT * 2])
def test_every_line_has_the_time_of_its_first_byte(output: Output, length: int) -> None:
    """However it is cut into pieces, short or long; also from the middle on."""
    draw = random.Random(length)
    pieces = [b"x" * length + b"\n"] + [bytes(draw.choices(b"a\r\n", k=draw.randint(1, 4))) for _ in range(2000)]
    for number, piece in enumerate(pieces):
        write(output, piece, when=number)
        if not number % 7:
            output.look()
    output.look()
    assert output.data() == b"".join(pieces)
    whole = stamped(pieces)
    assert b"".join(output.stamped()) == whole
    assert b"".join(output.stamped(length + 1)) == whole[length + 14 :]
    write(output, b"")
    output.look()
    assert output.over
    assert b"".join(output.stamped()) == whole  # the file may be gone


def test_what_is_being_written_is_left_for_the_next_look(output: Output) -> None:
    """A piece of which only the head, or some of it, is there."""
    for part in (FRAME.pack(0, 3)[:5], FRAME.pack(0, 3)[5:], b"ab"):
        os.write(output._file, part)
        output.look()
        assert output.size == 0
    os.write(output._file, b"c")
    output.look()
    assert output.data() == b"abc"


def test_the_end_of_a_long_one_is_shown(output: Output) -> None:
    """With how many lines there were before, counted no more than once."""
    for number in range(0, 300_000, 1000):
        write(output, b"".join(b"%d\n" % each for each in range(number, number + 1000)))
    shown = output.tail()
    before, first = re.findall(r"\((\d+) lines before\)\n[\d:.]+ (\d+)\n", shown)[0]
    assert before == first
    assert shown.endswith(" 299999")
    assert len(shown) < 40_000
    write(output, b"300000\n")
    assert output.tail().endswith(" 299999\n" + shown.splitlines()[-1].split()[0] + " 300000")


def test_a_long_output_is_in_memory_once(netns: Host) -> None:
    """In the file that the helper writes, and not in this process, where showing the end of it takes little, too."""
    megabytes = 30
    netns.run(["true"])
    tracemalloc.start()
    try:
        program = netns.popen(f"yes some-words | head -c {megabytes}M; echo; echo over", shell=True)
        program.wait(60)
        assert program.kept is not None
        shown = program.kept.tail()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert shown.endswith(" over")
    assert program.kept.size == megabytes * 2**20 + 6
    assert peak < 8 * 2**20


def test_a_long_output_stays_as_long_as_its_program_is_known() -> None:
    """Its host may be gone; when the program is forgotten, so is the descriptor."""
    gc.collect()  # of earlier tests
    before = held()
    with Lab() as lab:
        program = lab.host().popen(["sh", "-c", f"head -c {2 * _SHORT} /dev/zero; echo over"])
        program.wait(60)
    assert program.output == 2 * _SHORT * "\0" + "over\n"
    assert held() == before + 1
    del program
    assert held() == before


def held() -> int:
    """How many files of outputs this process has open."""
    files = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum("netns-output" in os.readlink(file) for file in files if os.path.lexists(file))


def test_looks_that_take_long_are_rare(netns: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a wait for one that writes without end, so that others have the processor, too."""
    program = netns.popen("while :; do echo; done", shell=True)
    looks = []

    def data(output: Output) -> bytearray:
        began = time.monotonic()
        while time.monotonic() < began + 0.02:
            pass
        looks.append(began)
        return output._read(0, output.size)

    monkeypatch.setattr(Output, "data", data)
    with pytest.raises(WaitTimeout):
        program.wait_output("never", timeout=0.5)
    # Each is followed by twice its time, but the last two.
    assert len(looks) <= 0.5 / 0.06 + 2
