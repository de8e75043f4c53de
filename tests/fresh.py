"""What a namespace holds that nobody has put there.

On some machines that is the loopback interface only. Where a tunnel driver is loaded, it has an interface in every
new namespace: gre0, gretap0, erspan0, sit0, tunl0, ip6tnl0 … (net.core.fb_tunnels_only_for_init_net). They are down
and cannot be removed.
"""

from __future__ import annotations

from pytest_netns import Bridge, Host, Lab

__all__ = ["OF_DRIVERS", "bare_names", "own_interfaces"]

#: What drivers make on the machine when they are loaded, which any test does that is the first to use one.
OF_DRIVERS = {"bond0", "dummy0", "ifb0", "ifb1", "teql0", *(f"{kind}0" for kind in ("erspan", "gre", "gretap", "sit"))}
OF_DRIVERS |= {f"{kind}0" for kind in ("ip6_vti", "ip6gre", "ip6tnl", "ip_vti", "tunl")}


def bare_names() -> list[str]:
    """The interfaces of a new namespace, in the order in which the kernel lists them."""
    with Lab() as lab:
        return list(lab.host("bare").interfaces)


def own_interfaces(host: Host | Bridge) -> set[str]:
    """A host's interfaces without those, but with the loopback interface."""
    return set(host.interfaces) - set(bare_names()) | {"lo"}
