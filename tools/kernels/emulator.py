"""QEMU, from the distribution's packages: found, fetched, and told whether hardware can help."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from .archive import Archive, own_codename
from .cache import made
from .packages import unpack
from .problems import CannotRun

__all__ = ["Emulator", "fetch_emulator", "hardware_helps"]

_KVM_CREATE_VM = 0xAE01  # linux/kvm.h


class Emulator(NamedTuple):
    """What boots a kernel.

    Attributes:
        command: QEMU and what it needs to find its own files.
        env: Environment variables for it.
        busybox: A static busybox, for the guest's first steps.
        depmod: The command that indexes kernel modules.
    """

    command: list[str]
    env: dict[str, str]
    busybox: Path
    depmod: list[str]


def fetch_emulator(cache: Path) -> Emulator:
    """Have QEMU, busybox and depmod in the cache.

    Raises:
        CannotRun: They cannot be had here.
    """
    if os.uname().machine != "x86_64":
        raise CannotRun(f"kernels are booted on x86_64 only, and this is {os.uname().machine}")
    own = own_codename()
    # By the release's name: the libraries of one release do not run on another's.
    folder = cache / f"emulator-{own}"
    if not folder.exists():
        archive = Archive(cache / "archives" / own, (own, f"{own}-security"), installed=True)
        archive.update()
        print("=== fetching QEMU, busybox and kmod", flush=True)
        files = archive.fetch(["qemu-system-x86", "busybox-static", "kmod"])
        with made(folder) as unfinished:
            unpack(files, unfinished)
        for path in files:
            path.unlink()
    return _emulator_in(folder)


def _emulator_in(folder: Path) -> Emulator:
    qemu = folder / "usr/bin/qemu-system-x86_64"
    busybox = next((path for path in (folder / "bin/busybox", folder / "usr/bin/busybox") if path.exists()), None)
    kmod = next((path for path in (folder / "bin/kmod", folder / "usr/bin/kmod") if path.exists()), None)
    installed = {name: shutil.which(name, path=f"{os.defpath}:/usr/sbin:/sbin") for name in ("busybox", "depmod")}
    qemu_command = str(qemu) if qemu.exists() else shutil.which("qemu-system-x86_64")
    if qemu_command is None:
        raise CannotRun(f"no QEMU in {folder}, which should have it; remove that folder and try again")
    libraries = [str(path) for path in (folder / "usr/lib/x86_64-linux-gnu", folder / "lib/x86_64-linux-gnu")]
    # Last, so that what this machine has installed of a library comes from where its other users find it.
    env = {"LD_LIBRARY_PATH": ":".join(libraries), "QEMU_MODULE_DIR": f"{libraries[0]}/qemu"}
    command = [qemu_command]
    for data in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"):
        if (folder / data).exists():
            command += ["-L", str(folder / data)]
    depmod = ["env", "-S", "depmod"] if kmod is None else ["busybox", "depmod"]
    if kmod is not None:
        link = folder / "depmod"
        if not link.exists():
            link.symlink_to(kmod)
        depmod = [str(link)]
    elif installed["depmod"]:
        depmod = [installed["depmod"]]
    return Emulator(command, env, busybox or Path(installed["busybox"] or "/bin/busybox"), depmod)


def hardware_helps() -> bool:
    """Whether KVM truly works: that its device opens is not enough.

    Inside some virtual machines it opens, and makes a machine that hangs or dies with an ordinary kernel,
    because the processor's own extensions are not there.
    """
    try:
        flags = re.search(r"(?m)^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"))
        if flags is None or not {"vmx", "svm"} & set(flags.group(1).split()):
            return False
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(device, _KVM_CREATE_VM, 0))
    except OSError:
        return False
    finally:
        os.close(device)
    return True
