"""From a forked process to the program asked for: descriptors, directory, identity, exec; part of the helper.

Follows what ``subprocess`` promises of its keywords. A failure before exec is written to the error pipe as
``stage errno``; the pipe closes by itself when exec succeeds.
"""

from __future__ import annotations

import fcntl
import os
import signal
from typing import Any

__all__ = ["become"]


def become(spec: dict[str, Any], fds: list[int], error_pipe: int) -> None:  # noqa: C901 - steps in a row
    """Turn this process into ``spec['argv']``; never returns. ``fds[i]`` becomes descriptor ``spec['targets'][i]``."""
    stage = "start"
    try:
        error_pipe = _place_descriptors(fds, spec["targets"], error_pipe)
        if spec["restore_signals"]:
            for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, spec["mask"])
        if spec["process_group"] is not None:
            os.setpgid(0, spec["process_group"])
        else:
            # A program signals its own group (kill 0) without hitting its neighbours.
            os.setsid()
        stage = "cwd"
        os.chdir(spec["directory"])
        if spec["cwd"] is not None:
            os.chdir(spec["cwd"])
        stage = "identity"
        os.umask(spec["umask"])
        if spec["groups"] is not None:
            os.setgroups(spec["groups"])
        if spec["gid"] is not None:
            os.setregid(spec["gid"], spec["gid"])
        if spec["uid"] is not None:
            os.setreuid(spec["uid"], spec["uid"])
        stage = "exec"
        _exec_first(spec["paths"], spec["argv"], spec["env"])
    except OSError as error:
        os.write(error_pipe, f"{stage} {error.errno}".encode())
    except BaseException as error:
        os.write(error_pipe, f"{stage} 0 {error!r}"[:500].encode())
    finally:
        os._exit(255)


def _place_descriptors(fds: list[int], targets: list[int], error_pipe: int) -> int:
    # First above every target, so that placing one cannot close another that still waits.
    above = max([*targets, 2]) + 1
    error_pipe = fcntl.fcntl(error_pipe, fcntl.F_DUPFD_CLOEXEC, above)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    for fd in (0, 1, 2):
        if fd not in targets:
            os.close(fd)
    for fd, target in zip(moved, targets, strict=True):
        os.dup2(fd, target, inheritable=True)
    return error_pipe


def _exec_first(paths: list[bytes], argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Try each path as execvpe(3) does: a missing one is passed over, any other error is remembered."""
    failure: OSError | None = None
    for path in paths:
        try:
            os.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            failure = failure or error
        except OSError as error:
            failure = error if failure is None or isinstance(failure, FileNotFoundError) else failure
    raise failure or FileNotFoundError(2, "no path to execute")
