"""NAT on the real kernel: what each kind shows to probes, forwards, changes, and real programs through it."""

from __future__ import annotations

import pytest
from programs import program

from pytest_netns import Pair, ping
from pytest_netns._conntrack import flush_connections

pytestmark = pytest.mark.kernel

_TRACKING = "table inet tracking { chain seen { type filter hook input priority 0; ct state new accept; }; }"


@pytest.mark.netns(requires=["nft"])
def test_tracked_connections_are_forgotten(netns_pair: Pair) -> None:
    """All of a namespace, at once; those of others are left alone, and where there are none nothing is wrong."""
    beijing, shanghai = netns_pair
    flush_connections(beijing.namespace)
    for host in netns_pair:
        host.run([program("nft"), _TRACKING], check=True)
    assert ping(beijing, shanghai)
    counts = [host.sysctl("netfilter.nf_conntrack_count") for host in netns_pair]
    flush_connections(shanghai.namespace)
    assert counts == ["1", "1"]
    assert [host.sysctl("netfilter.nf_conntrack_count") for host in netns_pair] == ["1", "0"]
