"""What hosts(5) and resolv.conf(5) of a host say: pure functions of the plan of its network."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from ._errors import PlanError
from ._plan import Plan
from ._reach import answering, hidden, shared

__all__ = ["NO_NAMESERVER", "hosts_file", "resolver_file"]

#: What the C library takes from resolv.conf at most (MAXNS, resolv.h).
_NAMESERVERS = 3
#: The C library then asks 127.0.0.1, where a server of the host's own answers, or a refusal comes at once.
NO_NAMESERVER = "# No name server: names of hosts are in /etc/hosts.\n"
_HEAD = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def hosts_file(plan: Plan, place: str, more: Mapping[str, Sequence[str]]) -> str:
    """``/etc/hosts`` of one host: every host of the plan, at each of its addresses.

    Not at one that is another host's for ``place``, as behind another router that translates, nor at one inside of such
    a router where there are others. First come the addresses
    on segments that it shares with ``place``: programs take the first that fits. Who has no address still knows its own
    name, as Debian's installer sees to (127.0.1.1).

    Args:
        more: Addresses of hosts that the plan does not know, without prefix lengths.
    """
    own = {end.segment for end in plan.of_node.get(place, ())}
    several = shared(plan)
    lines = []
    for name, ends in plan.of_node.items():
        near = [text for end in ends if end.segment in own for text in end.addresses]
        far = [text for end in ends if end.segment not in own for text in end.addresses]
        away = hidden(plan, place, name)
        plain = (each for text in (*near, *far) if (each := text.split("/")[0]) not in away)
        if several:  # another host may be met there
            plain = (each for each in plain if each not in several or answering(plan, place, each) == name)
        addresses = dict.fromkeys([*plain, *more.get(name, ())])
        if not addresses and name == place:
            addresses["127.0.1.1"] = None
        lines += [f"{address}\t{name}\n" for address in addresses]
    if place not in plan.of_node:
        lines.append(f"127.0.1.1\t{place}\n")
    return _HEAD + "".join(lines)


def resolver_file(nameservers: Iterable[str], search: Sequence[str]) -> str:
    """``/etc/resolv.conf`` with these name servers and search domains.

    Raises:
        PlanError: One is no address, or there are more than programs read.
    """
    lines = []
    for address in nameservers:
        try:
            plain = ipaddress.ip_address(address.partition("%")[0])
        except (ValueError, AttributeError):
            raise PlanError(f"name server {address!r}: expected an IP address, such as '10.0.0.2', or a host") from None
        if "%" in address and not plain.is_link_local:
            raise PlanError(f"name server {address!r}: only a link-local address has a zone")
        lines.append(f"nameserver {address}\n")
    if len(lines) > _NAMESERVERS:
        raise PlanError(f"{len(lines)} name servers: the C library asks {_NAMESERVERS} at most (resolv.conf(5))")
    for domain in search:
        if not isinstance(domain, str) or not domain or domain.split() != [domain]:
            raise PlanError(f"search {domain!r}: expected a domain, such as 'example.org'")
    if search:
        lines.insert(0, f"search {' '.join(search)}\n")
    return "".join(lines) or NO_NAMESERVER
