"""One boot of a kernel: a script is run in it, its output streamed, its files and its status brought back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from .emulator import Emulator, hardware_helps
from .kernel import Kernel

__all__ = ["DIED", "TIMED_OUT", "Guest", "boot"]

#: Exit statuses for what is not the script's own doing.
TIMED_OUT, DIED = 124, 98

# PID 1 of the guest: the end of it is the end of the machine, which QEMU is told to exit at.
_START = """\
cd /
/bin/sh /run/lane/script >/run/lane/output 2>&1 </dev/null
echo $? >/run/lane/status
sync
echo b >/proc/sysrq-trigger
while :; do sleep 1; done
"""


class Guest(NamedTuple):
    """What a boot has brought.

    Attributes:
        status: Exit status of the script; ``TIMED_OUT``; or ``DIED``, when the kernel ended before the script.
        seconds: How long it all took.
        log: The last lines of the kernel's log, where it died.
    """

    status: int
    seconds: float
    log: str


@contextlib.contextmanager
def lane_folder() -> Iterator[Path]:
    """A folder to be shared with a guest."""
    with tempfile.TemporaryDirectory(prefix="kernel-lane-") as name:
        yield Path(name)


def boot(
    emulator: Emulator,
    kernel: Kernel,
    script: str,
    folder: Path,
    *,
    root: Path = Path("/"),
    shares: Mapping[Path, str] | None = None,
    cpus: int = 2,
    memory: int = 3072,
    limit: float = 3600,
) -> Guest:
    """Boot, run, and wait for the end.

    Args:
        script: For ``/bin/sh``, as root; it finds ``folder`` at /run/lane and may write there.
        root: The folder that becomes the guest's root.
        shares: Further folders of the machine, and where they are to be seen; read only.
        memory: In MiB.
        limit: Seconds.
    """
    (folder / "start").write_text(_START)
    (folder / "script").write_text(script)
    shares = shares or {}
    (folder / "shares").write_text("".join(f"share{number} {place}\n" for number, place in enumerate(shares.values())))
    output, status, console = (folder / name for name in ("output", "status", "console"))
    output.touch()
    exports = [("lane", folder, False), ("root", root, True), ("modules", kernel.modules, True)]
    exports += [(f"share{number}", path, True) for number, path in enumerate(shares)]
    command = [*emulator.command, *_machine(kernel, cpus, memory), "-serial", f"file:{console}"]
    for tag, path, readonly in exports:
        command += ["-fsdev", _fsdev(tag, path, readonly), "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    begin = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **emulator.env}, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
    )
    try:
        timed_out = not _stream(process, output, begin + limit)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    seconds = time.monotonic() - begin
    if status.exists() and status.read_text().strip():
        return Guest(int(status.read_text()), seconds, "")
    log = console.read_text(errors="replace") if console.exists() else ""
    return Guest(TIMED_OUT if timed_out else DIED, seconds, "\n".join(log.splitlines()[-40:]))


def _machine(kernel: Kernel, cpus: int, memory: int) -> list[str]:
    accelerator = (
        ["-accel", "kvm", "-cpu", "host"] if hardware_helps() else ["-accel", "tcg,thread=multi", "-cpu", "max"]
    )
    # Without mitigations a system call takes a third of the time, emulated.
    parameters = "console=ttyS0 loglevel=5 panic=-1 mitigations=off rdinit=/init"
    return [
        *accelerator,
        *("-machine", "q35", "-smp", str(cpus), "-m", str(memory)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs), "-append", parameters),
        *("-device", "virtio-rng-pci"),
    ]


def _fsdev(tag: str, path: Path, readonly: bool) -> str:
    # One export may span file systems of the machine, whose inode numbers must not be taken for the same file's.
    ending = ",readonly=on" if readonly else ""
    return f"local,id={tag},path={str(path).replace(',', ',,')},security_model=none,multidevs=remap{ending}"


def _stream(process: subprocess.Popen[bytes], output: Path, deadline: float) -> bool:
    """Show what the script writes, as it comes, until the machine has ended; False if that took too long."""
    with open(output, "rb") as file:
        while True:
            ended = process.poll() is not None
            data = file.read()
            if data:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            if ended:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
