"""The kernel lane's own parts that need no kernel: what it reads, says and refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kernels import archive
from kernels.kernel import AGES
from kernels.skipped import skipped_everywhere
from kernels.suite import CHECKOUT, Result
from kernels.table import write_page

CASE = "<testcase classname='tests.test_x' name='{}'>{}</testcase>"
SKIPPED = "<skipped type='pytest.skip' message='{}'/>"
XFAILED = "<skipped type='pytest.xfail' message='known'/>"


def report(path: Path, **cases: str) -> Path:
    lines = "".join(CASE.format(name, inside) for name, inside in cases.items())
    path.write_text(f"<testsuites><testsuite>{lines}</testsuite></testsuites>")
    return path


def test_a_test_that_is_skipped_in_every_run_is_told_with_its_reasons(tmp_path: Path) -> None:
    """Not one that ran somewhere, well or not, nor an expected failure; one that only one run has counts, too."""
    no_root, no_vlan = SKIPPED.format("needs root"), SKIPPED.format("no vlan")
    first = report(tmp_path / "1.xml", never=no_root, sometimes=no_vlan, fails=no_root, expected=XFAILED, alone=no_vlan)
    second = report(tmp_path / "2.xml", never=no_vlan, sometimes="", fails="<failure/>", expected=no_root)
    assert skipped_everywhere([first, second]) == {
        "tests.test_x::never": {"needs root", "no vlan"},
        "tests.test_x::alone": {"no vlan"},
    }


@pytest.mark.parametrize("form", ["deb822", "one line"])
def test_the_machines_own_archive_is_asked_for_other_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Address and keyring stay, whichever form they are written in; the security archive is another one."""
    (tmp_path / "sources.list.d").mkdir()
    if form == "deb822":
        (tmp_path / "sources.list.d/debian.sources").write_text(
            "Types: deb deb-src\n# said before\nURIs: file:/main\nSuites: bookworm bookworm-updates\n"
            "Components: main contrib\nSigned-By:\n /key.gpg\n\n"
            "Types: deb\nURIs: file:/security\nSuites: bookworm-security\nComponents: main\n\n"
            "Types: deb\nURIs: file:/off\nSuites: bookworm\nComponents: main\nEnabled: no\n"
        )
    else:
        (tmp_path / "sources.list").write_text(
            "# deb file:/off bookworm main\ndeb-src file:/source bookworm main\n"
            "deb [arch=amd64 signed-by=/key.gpg] file:/main bookworm main contrib # ours\n"
            "deb file:/security bookworm-security main\ndeb file:/tools stable main\n"
        )
    monkeypatch.setattr(archive, "_ETC", tmp_path)
    monkeypatch.setattr(archive, "own_codename", lambda: "bookworm")
    monkeypatch.setattr(archive.Archive, "_architecture", staticmethod(lambda: "amd64"))
    made = archive.Archive(tmp_path / "ours", AGES["oldest"])._sources()
    main, security = made.strip().split("\n\n")
    assert main.splitlines() == [
        "Types: deb",
        "URIs: file:/main",
        "Suites: oldstable",
        "Components: main",
        "Architectures: amd64",
        "Signed-By: /key.gpg",
    ]
    assert security.splitlines()[1:3] == ["URIs: file:/security", "Suites: oldstable-security"]


@pytest.mark.parametrize(
    ("environment", "status"), [({}, 77), ({"KERNELS_REQUIRED": "1"}, 1), ({"CI": "true"}, 1)], ids=str
)
def test_where_no_kernel_can_be_booted_it_says_so(tmp_path: Path, environment: dict[str, str], status: int) -> None:
    """Without the distribution's tools the lane ends with a reason, as skipped or, where it is required, failed."""
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path), "KERNELS_CACHE": str(tmp_path), **environment}
    command = [sys.executable, str(CHECKOUT / "tools/lane.py"), "run"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "were NOT run on other kernels: " in done.stdout
    assert ("failure here" in done.stdout) == (status == 1)


@pytest.mark.parametrize(
    ("status", "passed", "said"), [(0, 7, " ok "), (0, 0, " NONE RAN "), (1, 7, " FAILED "), (124, 0, " TIME OUT ")]
)
def test_where_everything_was_skipped_nothing_is_ok(status: int, passed: int, said: str) -> None:
    """Pytest calls that a success."""
    result = Result("6.1.9", "3.13.0", "root", status, 3.0, passed, 0, 2)
    assert result.ok == (said == " ok ")
    assert said in str(result)


def test_the_page_is_made_of_the_results(tmp_path: Path) -> None:
    """Kernels in the order of their numbers; what stands around the tables stays; a second time changes nothing."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- from here on written by `make kernels-table` -->\nold\n<!-- up to here -->\nafter\n")
    results = [Result("6.12.1", "3.13.0", "root", 1, 2.4, 7, 1, 0), Result("6.1.9", "3.13.0", "root", 0, 3.0, 8)]
    feature = "<properties><property name='feature' value='netem: {}'/></properties>"
    for result, there in zip(results, ("yes", "no"), strict=True):
        report(tmp_path / f"{result.name}.xml", one=feature.format(there))
    write_page(page, results, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old\n" not in text
    assert text.index("| 6.1.9 | 3.13.0 | root | 8 | 0 | 0 | 3 |") < text.index(
        "| 6.12.1 | 3.13.0 | root | 7 | 1 (not ok)"
    )
    assert "| feature | 6.1.9 | 6.12.1 |" in text
    assert "| `netem` | no | yes |" in text
    write_page(page, results, tmp_path)
    assert page.read_text() == text
