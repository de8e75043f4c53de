"""The doctor: ``python -m pytest_netns`` says whether networks can be made here, and what to type if not."""

from __future__ import annotations

import platform
import sys

from ._broker import broker, shut_down
from ._errors import NamespacesUnavailable


def main() -> int:
    """Print what trying has shown; return 0 if networks can be made here."""
    print(f"Python {platform.python_version()}, Linux {platform.release()}")
    try:
        held = broker()
    except NamespacesUnavailable as error:
        print(f"no: {error}")
        return 1
    how = "inside a user namespace of our own" if held.rootless else "directly, with the privileges of this process"
    print(f"yes: network namespaces, {how}")
    print(f"{'yes' if held.ipv6 else 'no'}: IPv6")
    print(f"{'yes' if held.own_proc else 'no'}: /proc and /sys of their own for hosts")
    if held.has_tags:
        print("yes: what calls leave running ends with their block")
    else:
        print("no: what calls leave running ends with its host, not with their block (no time namespaces: Linux 5.6)")
    shut_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
