"""Programs that do a round of work whenever they are sent a line, and answer with a line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from comparing import RoundFailed, Sample

HERE = Path(__file__).resolve().parent
#: Seconds for one round.
PATIENCE = 60


class Served:
    """Such a program, running."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def round(self) -> Sample:
        """Have a round done; by a new process, after one that loads what it needs and does not count.

        Raises:
            RoundFailed: It says that it could not, has died or takes too long. The next round is a new process's.
        """
        first = self._process is None
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=self._environment,
            )  # fmt: skip
        answer = self._ask(self._process)
        if first and "error" not in answer:
            answer = self._ask(self._process)
        if "error" in answer:
            self.close()
            raise RoundFailed(answer["error"])
        return {name.removesuffix("_us"): value for name, value in answer.items()}

    def _ask(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"\n")
        in_time = select.select([process.stdout], [], [], PATIENCE)[0]
        line = process.stdout.readline() if in_time else b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        return {"error": "it has died" if in_time else f"no answer within {PATIENCE} s"}

    def close(self) -> None:
        """End the program."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def compiled(name: str) -> Iterator[Path]:
    """One of the C programs next to this file."""
    with TemporaryDirectory(prefix="netns-floor-") as directory:
        program = Path(directory, name)
        subprocess.run(["cc", "-O2", "-o", program, HERE / f"{name}.c"], check=True)
        yield program


def privilege() -> list[str]:
    """The option that the C programs need, if they are not run by root."""
    return [] if os.geteuid() == 0 else ["--userns"]
