"""What TCP between hosts carries, beside a veth pair and a bridge made by hand: iperf3's time for a fixed amount."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import places
from comparing import OURS, Finding, Missing, RoundFailed, Sample, Scope, in_turn, ratio_within

if TYPE_CHECKING:
    from pytest_netns import Host

GIGABYTES = 2
MOST_ROUNDS = 10
SEND = ["iperf3", "--json", "-n", f"{GIGABYTES}G", "-c"]
#: As little as a pair of hosts can be: no more queues, addresses or settings than `ip` gives by itself.
VETH = """
ip netns add h1; ip netns add h2
ip link add eth0 netns h1 type veth peer name eth0 netns h2
"""
BRIDGE = """
ip netns add h1; ip netns add h2
ip link add br0 up type bridge
ip link add veth1 up master br0 type veth peer name eth0 netns h1
ip link add veth2 up master br0 type veth peer name eth0 netns h2
"""
TRANSFER = f"""
for n in 1 2; do ip -n h$n addr add 10.0.0.$n/24 dev eth0; ip -n h$n link set eth0 up; done
ip netns exec h2 iperf3 --server --one-off >/dev/null &
until ip netns exec h2 ss -Htln | grep -q :5201; do :; done
ip netns exec h1 {" ".join(SEND)} 10.0.0.2
"""


def ours(sender: Host, receiver: Host) -> Sample:
    """Between two hosts that stand."""
    server = receiver.popen(["iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL)
    receiver.wait_listening(5201)
    done = sender.run([*SEND, str(receiver.ip)], capture_output=True, check=True)
    server.wait()
    return transfer_time(done.stdout)


def theirs(network: str) -> Sample:
    """Between two namespaces of `ip netns`."""
    command = places.apart(["sh", "-ec", network + TRANSFER])
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RoundFailed(done.stderr)
    return transfer_time(done.stdout)


def transfer_time(report: str | bytes) -> Sample:
    """Microseconds for each gigabyte that arrived."""
    received = json.loads(report)["end"]["sum_received"]
    return {"gigabyte": received["seconds"] * 1e6 / (received["bytes"] / 1e9)}


def compared(scope: Scope) -> Iterator[Finding]:
    """A cable, and a bridge."""
    from pytest_netns import Lab

    lacking = [f"no {program}" for program in ("iperf3", "ip", "ss", "unshare") if not shutil.which(program)]
    for bridge, rival, network in ((False, "bare veth", VETH), (True, "bare bridge", BRIDGE)):
        work = f"1 GB of TCP between two hosts {'on a bridge' if bridge else 'with a cable'}"
        if lacking:
            yield Missing(work, rival, lacking[0])
            continue
        with Lab() as lab:
            sender, receiver = lab.pair(bridge="br0" if bridge else False)
            sides = {OURS: lambda pair=(sender, receiver): ours(*pair), rival: lambda network=network: theirs(network)}
            turns = in_turn(sides, scope.at_most(MOST_ROUNDS))
        yield turns.compared(work, rival, "gigabyte", ratio_within(1.05))
