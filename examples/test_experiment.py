"""The experiment: two hosts, beijing and shanghai, joined by a bridge, ping each other."""

from pytest_netns import Pair, ping


def test_hosts_reach_each_other(netns_pair: Pair) -> None:
    beijing, shanghai = netns_pair
    assert ping(beijing, shanghai)
    assert ping(shanghai, beijing)
