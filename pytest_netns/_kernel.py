"""The only ``unshare``, ``setns``, ``prctl``, ``mount`` and uid maps; errno becomes an error that says what failed.

Also loaded by the helper, which starts for every session: nothing here but ``os`` and ``ctypes``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time

from ._errors import KernelError

__all__ = [
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWTIME",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "MS_BIND",
    "MS_PRIVATE",
    "MS_REC",
    "MS_SLAVE",
    "OUT_OF",
    "bind_name",
    "die_with_parent",
    "fork_again",
    "keep_network_capabilities",
    "lend_network_capabilities",
    "map_identity",
    "mount",
    "namespace_fd_of_socket",
    "new_proc",
    "open_tun",
    "setns",
    "take_capabilities_back",
    "unbind_name",
    "unmount",
    "unshare",
]

# linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# linux/mount.h
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 0x1000, 0x4000, 1 << 18, 1 << 19
_MNT_DETACH = 2
# asm-generic/unistd.h, linux/mount.h; the same on every machine
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOSE_ON_EXEC, _FSCONFIG_CMD_CREATE = 1, 6
# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 47, 2
# linux/capability.h
_CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_SYS_CHROOT, _CAP_SYS_ADMIN = 10, 12, 13, 18, 21
_CAPABILITY_VERSION_3 = 0x20080522
# CAP_SYS_CHROOT is for entering a mount namespace, which a call inside a call does (setns(2)).
_NETWORK_CAPABILITY_NUMBERS = (
    _CAP_NET_BIND_SERVICE,
    _CAP_NET_ADMIN,
    _CAP_NET_RAW,
    _CAP_SYS_CHROOT,
    _CAP_SYS_ADMIN,
)
_NETWORK_CAPABILITIES = sum(1 << number for number in _NETWORK_CAPABILITY_NUMBERS)

#: What fails now and need not the next time; all else that fails is what the machine lacks or forbids.
OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

#: Seconds until it is no moment any more.
_ALONE_LIMIT = 10.0

_libc = ctypes.CDLL(None, use_errno=True)
# Looked up here, once: in a fork that would be done anew each time, and copy the pages it touches.
_setns = _libc.setns
_setns.argtypes = (ctypes.c_int, ctypes.c_int)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_capset = _libc.capset
_fork = ctypes.PyDLL(None, use_errno=True).fork


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise KernelError(error, f"{what}: {os.strerror(error)}")
    return result


def unshare(flags: int, what: str) -> None:
    """Leave the namespaces named by ``flags`` for new ones; unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({what})")


def setns(fd: int, flags: int, what: str) -> None:
    """Enter the namespace that ``fd`` holds; ``flags`` makes the kernel check its kind; setns(2)."""
    if _setns(fd, flags) < 0:
        if flags == CLONE_NEWTIME and ctypes.get_errno() == errno.EUSERS:
            _enter_when_alone(fd)
        else:
            _check(-1, f"setns({what})")


def _enter_when_alone(fd: int) -> None:
    """Enter a time namespace as soon as nobody has our memory any more.

    A time namespace is refused to who shares memory (timens_install, kernel/time/namespace.c), and so to us for a
    moment around the start of a program, which vfork lets have ours. Seen on Linux 6.1 only. Nothing tells of its end.
    """
    deadline = time.monotonic() + _ALONE_LIMIT
    while _setns(fd, CLONE_NEWTIME) < 0:
        if ctypes.get_errno() != errno.EUSERS or time.monotonic() > deadline:
            _check(-1, "setns(time namespace)")
        os.sched_yield()


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """Mount as mount(2) does."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _check(
        _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]),
        f"mount({kind or 'bind'} on {target})",
    )


def new_proc() -> int:
    """A proc(5) of its own, mounted nowhere; the descriptor of its root. Shares the one there is before Linux 5.8."""
    context = _syscall(_FSOPEN, ctypes.c_char_p(b"proc"), ctypes.c_uint(_CLOSE_ON_EXEC))
    try:
        _syscall(_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, ctypes.c_int(0))
        return _syscall(_FSMOUNT, ctypes.c_int(context), ctypes.c_uint(_CLOSE_ON_EXEC), ctypes.c_uint(0))
    finally:
        os.close(context)


def _syscall(number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), f"system call {number}")


def bind_name(fd: int, path: str) -> None:
    """Give the namespace behind ``fd`` the file name ``path``, which must exist, as ``ip netns add`` does."""
    mount(f"/proc/self/fd/{fd}", path, None, MS_BIND)


def unbind_name(path: str) -> None:
    """Take a name given by :func:`bind_name` away; users of the namespace keep it."""
    unmount(path)


def unmount(path: str) -> None:
    """Take a mount away from its place; who has files of it open keeps them (umount2(2), MNT_DETACH)."""
    _check(_libc.umount2(os.fsencode(path), ctypes.c_int(_MNT_DETACH)), f"umount({path})")


def map_identity(uid: int, gid: int, *, as_root: bool = False) -> None:
    """Map just the own uid and gid into the user namespace just made, as themselves or as 0; user_namespaces(7).

    Files stay the user's own, and as themselves nothing thinks it is root. ``setgroups`` must be denied before the gid
    map.
    """
    inner_uid, inner_gid = (0, 0) if as_root else (uid, gid)
    texts = {"uid_map": f"{inner_uid} {uid} 1", "setgroups": "deny", "gid_map": f"{inner_gid} {gid} 1"}
    for name, text in texts.items():
        try:
            fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            if name == "setgroups" and isinstance(error, FileNotFoundError):
                continue  # before Linux 3.19 there was nothing to deny
            raise KernelError(error.errno, f"write {name}: {os.strerror(error.errno or 0)}") from None


def die_with_parent(signal: int) -> None:
    """Have the kernel send ``signal`` when the parent ends; undone by every change of credentials, so call it last."""
    _check(_prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def fork_again() -> int:
    """fork(2) without Python's share of it, which takes a third as long as the copying; for single-threaded forks.

    What Python does around a fork (PyOS_BeforeFork and PyOS_AfterFork_Child, cpython's Modules/posixmodule.c) is to
    forget the other threads and their locks, and to call what ``os.register_at_fork`` was given. In a process that
    ``os.fork`` has just made all of that has been done, and as long as it has no second thread it stays true. The C
    library's share (its locks, pthread_atfork(3), the thread's number) is done here as ever.
    """
    return _check(_fork(), "fork")


def keep_network_capabilities() -> None:
    """Keep what networks need, over exec too, and nothing that would make file permissions lie; capabilities(7)."""
    _set_capabilities(_NETWORK_CAPABILITIES, _NETWORK_CAPABILITIES)
    _raise_ambient()


def lend_network_capabilities() -> int:
    """Act with these only, and pass them on over exec; return what :func:`take_capabilities_back` takes."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data), "capget")
    low, high = struct.unpack("=4xI8xI4x", data)
    own: int = low | high << 32
    _set_capabilities(_NETWORK_CAPABILITIES, own)
    try:
        _raise_ambient()
    except KernelError:
        take_capabilities_back(own)
        raise
    return own


def take_capabilities_back(own: int) -> None:
    """End of :func:`lend_network_capabilities`."""
    _set_capabilities(own, own)


def _set_capabilities(effective: int, permitted: int) -> None:
    # Two triples of effective, permitted, inheritable: capabilities 0-31 and 32-63.
    triples = [
        value >> shift & 0xFFFFFFFF for shift in (0, 32) for value in (effective, permitted, _NETWORK_CAPABILITIES)
    ]
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_capset(header, struct.pack("=6I", *triples)), "capset")


def _raise_ambient() -> None:
    for capability in _NETWORK_CAPABILITY_NUMBERS:
        _check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0), "prctl(PR_CAP_AMBIENT_RAISE)")


def namespace_fd_of_socket(fd: int) -> int:
    """Return a new descriptor of the network namespace that a socket lives in (SIOCGSKNS, netdevice(7))."""
    import fcntl

    return fcntl.ioctl(fd, 0x894C)


def open_tun(name: str, *, frames: bool) -> int:
    """Make a TUN interface in the caller's namespace, or with ``frames`` a TAP; return the descriptor of its packets.

    Source: Documentation/networking/tuntap.rst. Reads and writes are whole packets, with nothing before them.
    """
    import fcntl

    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # linux/if_tun.h: TUNSETIFF; IFF_TUN or IFF_TAP, IFF_NO_PI, IFF_TUN_EXCL
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), (2 if frames else 1) | 0x1000 | 0x8000))
    except BaseException:
        os.close(fd)
        raise
    return fd
