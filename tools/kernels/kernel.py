"""The distribution's kernels: which there are, fetched, and made ready to boot."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from .archive import Archive
from .cache import made
from .cpio import write_archive
from .emulator import Emulator
from .packages import unpack_some
from .problems import CannotRun

__all__ = ["AGES", "Kernel", "fetch_kernel"]

#: The archive's suites that hold the kernels, by what they are called here.
AGES = {
    "oldest": ("oldstable", "oldstable-security"),
    "stable": ("stable", "stable-security"),
    "newest": ("unstable", "stable-backports"),
}
_META_PACKAGE = "linux-image-amd64"

#: What the guest needs before it sees any file of its root.
_FIRST_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")

#: Of the thousands of modules, those that a network of tests and the guest itself may want.
_MODULES = re.compile(
    r"kernel/(net|lib|crypto|arch/x86/crypto|fs/(9p|overlayfs|netfs|fscache|fuse|nls)|drivers/virtio|drivers/ptp|"
    r"drivers/net/[^/]+$|drivers/net/(bonding|team|wireguard|vxlan|ipvlan|macsec|netdevsim|can|ppp|mdio|phy|netkit|ovpn)|"
    r"drivers/char/hw_random|drivers/block/loop)(/|\.ko|$)"
)


class Kernel(NamedTuple):
    """A kernel ready to boot.

    Attributes:
        release: As ``uname -r`` has it.
        image: The kernel.
        modules: Folder of its modules.
        initramfs: Its first file system.
    """

    release: str
    image: Path
    modules: Path
    initramfs: Path

    @property
    def series(self) -> str:
        """``6.12`` of ``6.12.117+deb13-amd64``."""
        return ".".join(self.release.split(".")[:2])


def fetch_kernel(wanted: str, cache: Path, emulator: Emulator) -> Kernel:
    """Have a kernel in the cache.

    Args:
        wanted: ``oldest``, ``stable``, ``newest``, or a series such as ``6.12``.

    Raises:
        CannotRun: There is none, or the archive cannot be reached.
    """
    archive, record = _choose(wanted, cache)
    packages = _parts_of(archive, record)
    release = next(name[len("linux-image-") :] for name in packages if re.match(r"linux-image-\d", name))
    version = packages[f"linux-image-{release}"].replace("~", "_")
    folder = cache / f"kernel-{release}-{version}"
    if not folder.exists():
        print(f"=== fetching Linux {release}", flush=True)
        with made(folder) as unfinished:
            # One at a time: each is some 100 MB, and only a fifth of it is kept.
            for name, number in packages.items():
                for path in archive.download([f"{name}={number}"]):
                    unpack_some(path, unfinished, _is_wanted)
                    path.unlink()
            _index_modules(unfinished, release, emulator)
    image = next(iter(folder.glob("boot/vmlinuz-*")), None) or next(folder.glob("usr/lib/modules/*/vmlinuz"))
    modules = _modules_folder(folder, release)
    initramfs = folder / "initramfs"
    init = Path(__file__).with_name("init.sh")
    if not initramfs.exists() or initramfs.stat().st_mtime < init.stat().st_mtime:
        _write_initramfs(initramfs, modules, emulator.busybox, init)
    return Kernel(release, image, modules, initramfs)


def _choose(wanted: str, cache: Path) -> tuple[Archive, dict[str, str]]:
    seen = []
    for age, suites in AGES.items():
        if wanted in AGES and wanted != age:
            continue
        archive = Archive(cache / "archives" / age, suites)
        archive.update()
        for record in archive.records(_META_PACKAGE):
            series = ".".join(re.split(r"[.~+-]", record["Version"])[:2])
            if wanted in (age, series):
                return archive, record
            seen.append(series)
    raise CannotRun(f"no kernel {wanted!r} in the archive; there are {', '.join(dict.fromkeys(seen))}")


def _parts_of(archive: Archive, record: dict[str, str]) -> dict[str, str]:
    """The packages with the kernel and its modules, and their versions: one of old, several since 7.0."""
    found: dict[str, str] = {}
    waiting = [record]
    while waiting:
        fields = waiting.pop()
        for name, version in re.findall(r"(linux-[^\s,]+) \(= ([^)]+)\)", fields.get("Depends", "")):
            if name in found or not re.match(r"linux-(image|modules|binary|base)-", name):
                continue
            for other in archive.records(name):
                if other["Version"] == version:
                    waiting.append(other)
                    if re.match(r"linux-\w+-\d", name):
                        found[name] = version
                    break
    return found


def _is_wanted(path: str) -> bool:
    if path.startswith("boot/vmlinuz") or path.endswith("/vmlinuz"):
        return True
    below = re.match(r"(?:usr/)?lib/modules/[^/]+/(.*)", path)
    if below is None:
        return False
    return below.group(1).startswith("modules.") or _MODULES.match(below.group(1)) is not None


def _modules_folder(folder: Path, release: str) -> Path:
    return next(
        path for path in (folder / "lib/modules" / release, folder / "usr/lib/modules" / release) if path.exists()
    )


def _index_modules(folder: Path, release: str, emulator: Emulator) -> None:
    modules = _modules_folder(folder, release)
    command = [*emulator.depmod, "-b", str(modules.parent.parent.parent), release]
    subprocess.run(command, env={**os.environ, **emulator.env}, check=True)


def _write_initramfs(path: Path, modules: Path, busybox: Path, init: Path) -> None:
    depends: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        name, _, others = line.partition(":")
        depends[name] = others.split()
    files: dict[str, bytes | Path] = {"init": init, "bin/busybox": busybox}
    order: list[str] = []
    for wanted in _FIRST_MODULES:
        for name, needed in depends.items():
            if Path(name).name.replace("-", "_") == f"{wanted}.ko":
                # modules.dep lists what a module needs in the order in which to take it away.
                order += [module for module in [*reversed(needed), name] if module not in order]
    for name in order:
        files[f"modules/{Path(name).name}"] = modules / name
    files["modules/order"] = "".join(f"{Path(name).name}\n" for name in order).encode()
    write_archive(path, files, {"init", "bin/busybox"})
