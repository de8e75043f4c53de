"""WireGuard interfaces: their keys and peers, over generic netlink; pyroute2 encodes the messages."""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ._errors import KernelError, PlanError, hide_own_frames
from ._interfaces import Interface

if TYPE_CHECKING:
    from ._namespace import Namespace

__all__ = ["WireGuard", "check_key", "check_port"]

__tracebackhide__ = hide_own_frames

# linux/netlink.h, linux/genetlink.h, linux/wireguard.h
_NETLINK_GENERIC, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 16, 3, 1, 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_GET_DEVICE, _SET_DEVICE = 0, 1
_REPLACE_ALLOWED_IPS = 2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LIMIT = 60.0


class WireGuard(Interface):
    """A WireGuard interface: a tunnel to the peers it knows by their public keys.

    Source: wg(8), linux/wireguard.h.
    """

    @property
    def public_key(self) -> str:
        """The public key, which the other side has to know, in base64; the kernel works it out of the private one."""
        return str(self._device().get_attr("WGDEVICE_A_PUBLIC_KEY").decode())

    @property
    def listen_port(self) -> int:
        """The UDP port on which it listens, on all addresses of the host."""
        return int(self._device().get_attr("WGDEVICE_A_LISTEN_PORT"))

    def add_peer(
        self,
        public_key: str,
        allowed_ips: Sequence[str],
        *,
        endpoint: tuple[str | None, int] | None = None,
        preshared_key: str | None = None,
        keepalive: int | None = None,
    ) -> None:
        """Make it know a peer; of one that it knows, change what is given.

        Args:
            public_key: The peer's, in base64: its interface's :attr:`public_key`.
            allowed_ips: Networks that the peer may send from, and that packets for it are picked by. They are no
                routes: those the host has by its addresses, or by ``ip route add``.
            endpoint: Address and UDP port where it is; None: where its first packet will come from.
            preshared_key: One more key that both sides have, in base64.
            keepalive: Seconds after which a packet is sent if there was none; 0 for never.

        Raises:
            PlanError: Names what is wrong with it.
        """
        check_key("public_key", public_key)
        attributes: list[tuple[str, Any]] = [
            ("WGPEER_A_PUBLIC_KEY", public_key),
            ("WGPEER_A_FLAGS", _REPLACE_ALLOWED_IPS),
            ("WGPEER_A_ALLOWEDIPS", [_allowed(network) for network in allowed_ips]),
        ]
        if endpoint is not None:
            attributes.append(("WGPEER_A_ENDPOINT", _endpoint(endpoint)))
        if preshared_key is not None:
            attributes.append(("WGPEER_A_PRESHARED_KEY", check_key("preshared_key", preshared_key)))
        if keepalive is not None:
            if not isinstance(keepalive, int) or not 0 <= keepalive <= 65535:
                raise PlanError(f"keepalive {keepalive!r}: expected whole seconds, 0 to 65535")
            attributes.append(("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", keepalive))
        self._tell(("WGDEVICE_A_PEERS", [{"attrs": attributes}]))

    def _configure(self, private_key: str | None, listen_port: int) -> None:
        key = base64.b64encode(os.urandom(32)).decode() if private_key is None else private_key
        self._tell(("WGDEVICE_A_PRIVATE_KEY", key), ("WGDEVICE_A_LISTEN_PORT", listen_port))

    def _tell(self, *attributes: tuple[str, Any]) -> None:
        self._ask(_SET_DEVICE, _ACK, *attributes)

    def _device(self) -> Any:
        from pyroute2.netlink.generic.wireguard import wgmsg

        message = wgmsg(self._ask(_GET_DEVICE, _DUMP)[0])
        message.decode()
        return message

    def _ask(self, command: int, flags: int, *attributes: tuple[str, Any]) -> list[bytes]:
        from pyroute2.netlink.generic.wireguard import wgmsg

        message = wgmsg()
        message["cmd"], message["version"] = command, 1
        message["attrs"] = [("WGDEVICE_A_IFINDEX", self.index), *attributes]
        with _open(self._namespace) as asking:
            message["header"] = {"type": _family(asking), "flags": _REQUEST | flags, "sequence_number": 2, "pid": 0}
            message.encode()
            return _exchange(asking, bytes(message.data), f"configure {self.name}")

    def __repr__(self) -> str:
        return f"<WireGuard {self.name} index {self.index}>"


def _open(namespace: Namespace) -> socket.socket:
    _, (fd,) = namespace.broker.request(
        "socket", int(socket.AF_NETLINK), int(socket.SOCK_RAW), _NETLINK_GENERIC, fds=[namespace.fileno()]
    )
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC, fileno=fd)
    made.settimeout(_LIMIT)
    return made


def _family(asking: socket.socket) -> int:
    """The number by which this kernel knows WireGuard's messages."""
    name = b"wireguard\0"
    body = struct.pack("=BBxx", _CTRL_CMD_GETFAMILY, 1) + struct.pack("=HH", 4 + len(name), _FAMILY_NAME) + name
    body += bytes(-len(body) % 4)
    request = _HEADER.pack(_HEADER.size + len(body), _GENL_ID_CTRL, _REQUEST | _ACK, 1, 0) + body
    (answer,) = _exchange(asking, request, "look for WireGuard")
    position = _HEADER.size + 4
    while position + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, position)
        if kind == _FAMILY_ID:
            return int(struct.unpack_from("=H", answer, position + 4)[0])
        position += max(4, (length + 3) & ~3)
    raise AssertionError("a family of messages has a number")


def _exchange(asking: socket.socket, request: bytes, what: str) -> list[bytes]:
    """Send a request; return what came before the kernel said that this was all."""
    asking.send(request)
    answers: list[bytes] = []
    while True:
        for message in _cut(asking.recv(65536)):
            kind = _HEADER.unpack_from(message)[1]
            if kind in (_ERROR, _DONE):
                code = -struct.unpack_from("=i", message, _HEADER.size)[0]
                if code:
                    raise KernelError(code, f"{what}: {os.strerror(code)}")
                return answers
            answers.append(message)


def _cut(data: bytes) -> Iterator[bytes]:
    while len(data) >= _HEADER.size:
        length = _HEADER.unpack_from(data)[0]
        yield data[:length]
        data = data[(length + 3) & ~3 :]


# Checks


def check_key(word: str, value: object) -> str:
    """Read a key as ``wg genkey`` writes it.

    Raises:
        PlanError: It is not 32 bytes in base64.
    """
    try:
        if isinstance(value, str) and len(base64.b64decode(value, validate=True)) == 32:
            return value
    except ValueError:  # binascii.Error is one; so is what comes of letters that are not ASCII
        pass
    raise PlanError(f"{word} {value!r}: expected 32 bytes in base64, as wg genkey and WireGuard.public_key give them")


def check_port(word: str, value: object) -> int:
    """Read the number of a UDP port.

    Raises:
        PlanError: It is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise PlanError(f"{word} {value!r}: expected a port, 1 to 65535")
    return value


def _endpoint(value: tuple[str | None, int]) -> dict[str, Any]:
    try:
        address, port = value
        return {"addr": str(ipaddress.ip_address(str(address))), "port": check_port("port", port)}
    except (TypeError, ValueError) as error:
        raise PlanError(f"endpoint {value!r}: expected an address and a port, such as ('10.0.0.2', 51820)") from error


def _allowed(value: str) -> dict[str, Any]:
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        raise PlanError(f"allowed_ips {value!r}: {error}; expected networks such as '10.9.0.2/32'") from None
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    attributes = [
        ("WGALLOWEDIP_A_FAMILY", int(family)),
        ("WGALLOWEDIP_A_IPADDR", network.network_address.packed),
        ("WGALLOWEDIP_A_CIDR_MASK", network.prefixlen),
    ]
    return {"attrs": attributes}
