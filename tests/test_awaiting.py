"""Awaitable forms, for asyncio and trio: the loop goes on, cancelling kills, results are those of the plain forms."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from pytest_netns import Host, Pair


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.anyio
async def test_an_awaited_program_is_as_a_plain_one(netns: Host) -> None:
    """Input and output beyond what a pipe holds, as bytes and as text; errors with what had come."""
    upper = [sys.executable, "-c", "import sys; [print(line.upper(), end='') for line in sys.stdin]"]
    lines = "größer\n" * 50_000
    done = await netns.arun(upper, input=lines, capture_output=True, encoding="utf-8", check=True)
    assert (done.stdout, done.stderr, done.returncode) == (lines.upper(), "", 0)
    for words, keywords in (
        (["true"], {}),
        (["sh", "-c", "echo out; echo err >&2; exit 3"], {"capture_output": True}),
        (["sh", "-c", "printf 'a\\r\\nb'; exit 3"], {"stdout": subprocess.PIPE, "text": True}),
        (["sh", "-c", "exit 3"], {"input": b"nobody reads this" * 10_000}),
    ):
        plain, awaited = netns.run(words, **keywords), await netns.arun(words, **keywords)
        assert vars(awaited) == vars(plain)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        await netns.arun(["sh", "-c", "echo out; exit 3"], capture_output=True, check=True)
    assert (failed.value.returncode, failed.value.output) == (3, b"out\n")
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        await netns.arun(["no-such-program"])
    with pytest.raises(ValueError, match="stdin and input"):
        await netns.arun(["cat"], input=b"", stdin=subprocess.DEVNULL)


@pytest.mark.anyio
async def test_two_awaited_programs_run_at_once(netns: Host, tmp_path: Path) -> None:
    """Of two programs that wait for each other, neither keeps the other, or the loop, from going on."""
    os.mkfifo(tmp_path / "fifo")
    heard: list[bytes] = []

    async def listen() -> None:
        done = await netns.arun(["cat", str(tmp_path / "fifo")], stdout=subprocess.PIPE, timeout=60, check=True)
        heard.append(done.stdout)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await anyio.sleep(0)
        await netns.arun(["sh", "-c", f"echo hello > {tmp_path}/fifo"], timeout=60, check=True)
    assert heard == [b"hello\n"]


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["program", "callable"])
async def test_who_is_cancelled_is_killed(netns: Host, way: str) -> None:
    """When the task is cancelled, the program or child is gone: the last writer of a pipe has closed it."""
    end, theirs = os.pipe()
    os.set_blocking(end, False)

    def hang() -> None:
        os.write(theirs, b"r")
        os.read(os.pipe()[0], 1)

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            if way == "program":
                words = ["sh", "-c", f"printf r > /proc/self/fd/{theirs}; exec sleep 1000"]
                tasks.start_soon(lambda: netns.arun(words, pass_fds=[theirs]))
            else:
                tasks.start_soon(netns.acall, hang)
            await anyio.wait_readable(end)
            assert os.read(end, 1) == b"r"
            scope.cancel()
    os.close(theirs)
    assert scope.cancelled_caught
    assert os.read(end, 1) == b""  # it would block if somebody still had the other end
    os.close(end)


@pytest.mark.anyio
async def test_time_runs_out_with_what_had_come(netns: Host) -> None:
    """A time-out kills the program and tells what it had said."""
    with pytest.raises(subprocess.TimeoutExpired) as passed:
        await netns.arun(["sh", "-c", "echo said; exec sleep 1000"], capture_output=True, timeout=1)
    assert (passed.value.timeout, passed.value.output) == (1, b"said\n")
    assert netns.end_processes() == 0


@pytest.mark.anyio
async def test_callables_are_awaited_in_every_loop(netns: Host) -> None:
    """Values and errors come back, and a coroutine function runs in a loop of the same kind in the child."""

    async def kind() -> str:
        await anyio.sleep(0)
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            return type(asyncio.get_running_loop()).__module__.split(".")[0]
        return "trio"

    here = await kind()
    there: Any = netns.acall(kind)  # what the coroutine comes to
    assert await there == here
    assert await netns.acall(len, b"x" * 5) == 5
    with pytest.raises(ZeroDivisionError):
        await netns.acall(lambda: 1 // 0)


@pytest.mark.asyncio
async def test_streams_of_asyncio_between_hosts(netns_pair: Pair) -> None:
    """``start_server`` and ``open_connection`` take sockets of hosts; here with pytest-asyncio's loop."""
    beijing, shanghai = netns_pair
    peers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        writer.write((await reader.readline()).upper())
        writer.close()

    listener = shanghai.socket()
    listener.bind((shanghai.ip, 80))
    async with await asyncio.start_server(answer, sock=listener):
        client = beijing.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (shanghai.ip, 80))
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()
    assert peers == [beijing.ip]
    assert (await beijing.arun(["cat", "/proc/net/route"], capture_output=True, check=True)).stdout.count(b"eth0") == 1


def test_streams_of_trio_between_hosts(netns_pair: Pair) -> None:
    """trio's listeners and streams take sockets of hosts, too."""
    beijing, shanghai = netns_pair

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all((await stream.receive_some()).upper())

    async def talk() -> bytes:
        listener = shanghai.socket()
        listener.bind((shanghai.ip, 80))
        listener.listen()
        client = trio.socket.from_stdlib_socket(beijing.socket())
        async with trio.open_nursery() as nursery:
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
            nursery.start_soon(trio.serve_listeners, answer, listeners)
            await client.connect((shanghai.ip, 80))
            async with trio.SocketStream(client) as stream:
                await stream.send_all(b"hello")
                heard = await stream.receive_some()
            nursery.cancel_scope.cancel()
        return bytes(heard)

    assert trio.run(talk) == b"HELLO"
