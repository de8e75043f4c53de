"""What ``subprocess.run`` does beyond ``Popen``: pipes for input and output, and what comes of it."""

from __future__ import annotations

import subprocess
from typing import Any

from ._errors import hide_own_frames
from ._process import Popen, without_frames_of_subprocess

__all__ = ["communicate", "completed", "with_pipes"]

__tracebackhide__ = hide_own_frames


def with_pipes(keywords: dict[str, Any], data: Any, capture_output: bool) -> dict[str, Any]:
    """The keywords of ``subprocess.run`` as those of ``subprocess.Popen``."""
    keywords = dict(keywords)
    if data is not None:
        if keywords.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        keywords["stdin"] = subprocess.PIPE
    if capture_output:
        if keywords.get("stdout") is not None or keywords.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        keywords["stdout"] = keywords["stderr"] = subprocess.PIPE
    return keywords


def communicate(process: Popen, data: Any, timeout: float | None) -> tuple[Any, Any]:
    """``Popen.communicate``; a program with which that goes wrong is killed."""
    try:
        return process.communicate(data, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        without_frames_of_subprocess(error)
        raise
    except BaseException:
        process.kill()
        raise


def completed(process: Popen, stdout: Any, stderr: Any, check: bool) -> subprocess.CompletedProcess[Any]:
    """What became of a program that has ended.

    Raises:
        subprocess.CalledProcessError: With ``check``, if that was an error.
    """
    code = process.returncode
    if check and code:
        raise subprocess.CalledProcessError(code, process.args, output=stdout, stderr=stderr)
    return subprocess.CompletedProcess(process.args, code, stdout, stderr)
