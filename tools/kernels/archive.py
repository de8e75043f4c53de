"""The distribution's package archive, read with an apt of our own: nothing of the system's is read-locked or changed.

Which archive that is stands in the machine's own apt configuration. Its entries are copied, proxies and
keyrings included, and only the names of the suites are changed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from .problems import CannotRun

__all__ = ["Archive", "own_codename"]

_ETC = Path("/etc/apt")
#: An archive's index is asked for again after this many seconds.
FRESH = 24 * 3600
#: Suites whose names stay while the releases behind them change; any of them marks the distribution's own archive.
_ALIASES = ("oldstable", "stable", "testing", "unstable", "sid")

_CONFIGURATION = """\
Dir::State "{folder}/state";
Dir::State::status "{status}";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources.list.d";
Dir::Etc::preferences "{folder}/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "{folder}/apt.conf.d";
"""

# Read after the machine's own settings, which may clean caches and refresh lists of theirs.
_LAST = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::Contents-deb;
Debug::NoLocking "true";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Keep-Downloaded-Packages "true";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""

# Backports are held back by default, but here the newest version is wanted, wherever it is.
_PREFERENCES = "Package: *\nPin: release *\nPin-Priority: 500\n"


def _os_release() -> dict[str, str]:
    found = {}
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name] = value.strip("\"'")
    return found


def own_codename() -> str:
    """The release that this machine runs, such as ``bookworm``.

    Raises:
        CannotRun: It is no Debian, or has no apt.
    """
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise CannotRun(f"there is no {command} here: kernels and QEMU come from Debian's packages")
    release = _os_release()
    if release.get("ID") != "debian" or "VERSION_CODENAME" not in release:
        raise CannotRun(f"kernels and QEMU come from Debian's packages, and this is {release.get('ID', 'unknown')}")
    return release["VERSION_CODENAME"]


def _configured_stanzas() -> list[dict[str, str]]:
    """The machine's ``deb`` entries as deb822 fields, of whichever of apt's two forms they are written in."""
    stanzas = []
    for path in sorted((_ETC / "sources.list.d").glob("*.sources")):
        text = re.sub(r"(?m)^#.*\n", "", path.read_text(encoding="utf-8") + "\n")
        for paragraph in re.split(r"\n\s*\n", text):
            unfolded = re.sub(r"\n[ \t]+", " ", paragraph)
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", unfolded))
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
                stanzas.append(fields)
    for path in [_ETC / "sources.list", *sorted((_ETC / "sources.list.d").glob("*.list"))]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            match = re.match(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
            if match:
                options, uri, suite, components = match.groups()
                fields = {"URIs": uri, "Suites": suite, "Components": components.split("#")[0]}
                signed = re.search(r"signed-by=(\S+)", options or "")
                if signed:
                    fields["Signed-By"] = signed.group(1)
                stanzas.append(fields)
    return stanzas


def _stanza_with(suites: tuple[str, ...]) -> dict[str, str] | None:
    for fields in _configured_stanzas():
        if "main" in fields.get("Components", "").split() and set(suites) & set(fields.get("Suites", "").split()):
            return fields
    return None


class Archive:
    """Some suites of the distribution's archive.

    Args:
        folder: Where the index and the packages are kept.
        suites: Names of suites; those that end in ``-security`` are looked for in the security archive.
        installed: Leave out of what :meth:`fetch` brings whatever this machine has installed.
    """

    def __init__(self, folder: Path, suites: tuple[str, ...], *, installed: bool = False) -> None:
        self._folder = folder
        self._suites = suites
        self._installed = installed
        self._configuration = folder / "apt.conf"

    def update(self, *, force: bool = False) -> None:
        """Have an index that is not older than a day.

        Raises:
            CannotRun: The archive cannot be reached.
        """
        sources = self._sources()
        stamp = self._folder / "updated"
        known = self._folder / "sources.list.d/lane.sources"
        same = known.exists() and known.read_text(encoding="utf-8") == sources
        if same and not force and stamp.exists() and time.time() - stamp.stat().st_mtime < FRESH:
            return
        self._write_configuration(sources)
        done = self._apt("apt-get", "update", "-q", check=False)
        if done.returncode != 0:
            if same and stamp.exists():
                print(
                    f"!!! {', '.join(self._suites)}: the archive cannot be reached; its old index is used", flush=True
                )
                return
            raise CannotRun(
                f"apt-get update failed for {', '.join(self._suites)}: the archive cannot be reached from here\n"
                + done.stderr.strip()
            )
        stamp.touch()

    def _sources(self) -> str:
        own = own_codename()
        paragraphs = []
        for ending in ("", "-security"):
            fields = _stanza_with(tuple(name + ending for name in (own, *_ALIASES)))
            wanted = [suite for suite in self._suites if suite.endswith("-security") == bool(ending)]
            if not wanted:
                continue
            if fields is None:
                if ending:
                    continue  # a machine without the security archive does with the versions of the main one
                raise CannotRun(f"/etc/apt names no archive with the suite {own}, component main")
            lines = ["Types: deb", f"URIs: {fields['URIs']}", f"Suites: {' '.join(wanted)}", "Components: main"]
            lines.append(f"Architectures: {self._architecture()}")
            lines += [f"{name}: {fields[name]}" for name in ("Signed-By", "Trusted") if name in fields]
            paragraphs.append("\n".join(lines) + "\n")
        return "\n".join(paragraphs)

    @staticmethod
    def _architecture() -> str:
        return subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()

    def _write_configuration(self, sources: str) -> None:
        folder = self._folder
        for name in ("sources.list.d", "apt.conf.d", "state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "sources.list.d/lane.sources").write_text(sources, encoding="utf-8")
        (folder / "preferences").write_text(_PREFERENCES, encoding="utf-8")
        (folder / "no-packages").touch()
        for path in (_ETC / "apt.conf.d").glob("*"):
            if os.access(path, os.R_OK) and path.is_file():
                shutil.copyfile(path, folder / "apt.conf.d" / path.name)
        (folder / "apt.conf.d/zz-lane").write_text(_LAST, encoding="utf-8")
        status = "/var/lib/dpkg/status" if self._installed else folder / "no-packages"
        self._configuration.write_text(_CONFIGURATION.format(folder=folder, status=status), encoding="utf-8")

    def _apt(self, *command: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "APT_CONFIG": str(self._configuration), "LC_ALL": "C"}
        done = subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise CannotRun(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
        return done

    def records(self, package: str) -> list[dict[str, str]]:
        """What the archive knows of a package: one record of its fields for each version, newest first."""
        out = self._apt("apt-cache", "--all-versions", "show", package, check=False).stdout
        found = []
        for paragraph in out.split("\n\n"):
            unfolded = re.sub(r"\n[ \t]+", " ", paragraph)
            fields = dict(re.findall(r"(?m)^([A-Za-z0-9-]+): (.*)$", unfolded))
            if "Version" in fields:
                found.append(fields)
        return found

    def names(self, pattern: str) -> list[str]:
        """Packages whose whole name matches a regular expression."""
        return [name for name in self._apt("apt-cache", "pkgnames").stdout.split() if re.fullmatch(pattern, name)]

    def download(self, packages: list[str]) -> list[Path]:
        """Just these packages, each ``NAME`` or ``NAME=VERSION``; their files."""
        return self._bring("download", *packages)

    def fetch(self, packages: list[str]) -> list[Path]:
        """These packages and all they depend on, downloaded and not installed; their files."""
        return self._bring("install", "--download-only", "-y", *packages)

    def _bring(self, *command: str) -> list[Path]:
        folder = self._folder / "cache/archives"
        plan = self._apt("apt-get", "--print-uris", "-qq", *command, cwd=folder).stdout
        files = [folder / name for name in re.findall(r"(?m)^'[^']*' (\S+\.deb) \d+", plan)]
        if not all(path.exists() for path in files):
            self._apt("apt-get", "-q", *command, cwd=folder)
        return files
