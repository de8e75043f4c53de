"""Real daemons, started as their users start them, ready without a pause, used, and ended with their hosts."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
from programs import program

from pytest_netns import ChildDied, Pair

pytestmark = pytest.mark.once

NGINX = """
daemon {daemon};
error_log stderr;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log /dev/stdout;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 80; location / {{ return 200 hello; }} }}
}}
{user}
"""


def nginx(folder: Path, daemon: str) -> list[str]:
    """The command that starts it."""
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, daemon=daemon, user=user))
    return [program("nginx"), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def test_nginx(netns_pair: Pair, tmp_path: Path) -> None:
    """It serves when it listens; what it logs to /dev/stdout is kept; it reloads, and ends when asked."""
    beijing, shanghai = netns_pair
    server = shanghai.popen(nginx(tmp_path, "off"))
    shanghai.wait_listening(80)
    url = f"http://{shanghai.ip}/"
    answer = beijing.run([program("curl"), "-fsS", url], check=True, timeout=20, capture_output=True)
    assert answer.stdout == b"hello"
    server.wait_output(rf'{re.escape(str(beijing.ip))} .*"GET / HTTP/1.1" 200')
    server.send_signal(signal.SIGQUIT)
    assert server.wait(20) == 0


def test_nginx_as_a_daemon(netns_pair: Pair, tmp_path: Path) -> None:
    """The program that was started ends; the daemon that it leaves serves, and ends with the host."""
    beijing, shanghai = netns_pair
    assert shanghai.popen(nginx(tmp_path, "on")).wait(20) == 0
    shanghai.wait_listening(80)
    shanghai.wait_path(tmp_path / "nginx.pid")
    beijing.run([program("curl"), "-fsS", f"http://{shanghai.ip}/"], check=True, timeout=20, capture_output=True)
    assert shanghai.end_processes() >= 1


def test_nginx_with_a_mistake(netns_pair: Pair, tmp_path: Path) -> None:
    """Who waits for it is told what it said, at once."""
    _, shanghai = netns_pair
    command = nginx(tmp_path, "off")
    (tmp_path / "nginx.conf").write_text("nonsense on;")
    shanghai.popen(command)
    with pytest.raises(ChildDied, match=r"(?s)ended with exit status 1; .*unknown directive \"nonsense\""):
        shanghai.wait_listening(80)


def test_iperf3(netns_pair: Pair) -> None:
    """A server for one client; the client runs in the foreground."""
    beijing, shanghai = netns_pair
    server = shanghai.popen([program("iperf3"), "--server", "--one-off", "--forceflush"])
    shanghai.wait_listening(5201)
    client = [program("iperf3"), "--client", str(shanghai.ip), "--bytes", "1M"]
    beijing.run(client, check=True, timeout=60, capture_output=True)
    assert server.wait(20) == 0
    assert str(beijing.ip) in server.output


def test_dnsmasq(netns_pair: Pair) -> None:
    """It answers as soon as its UDP socket is bound."""
    beijing, shanghai = netns_pair
    options = ["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=", "--group="]
    server = shanghai.popen([program("dnsmasq"), *options, "--log-queries", "--address=/example.test/192.0.2.7"])
    shanghai.wait_listening(53, proto="udp", family=socket.AF_INET)
    question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x04test\x00\x00\x01\x00\x01"
    with beijing.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.sendto(question, (str(shanghai.ip), 53))
        assert client.recv(512).endswith(socket.inet_aton("192.0.2.7"))
    server.wait_output("config example.test is 192.0.2.7")


def test_sshd(netns_pair: Pair, tmp_path: Path) -> None:
    """It greets. (As an ordinary user it can let in only that user; whoever logs in is another test's business.)"""
    beijing, shanghai = netns_pair
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        pytest.skip("ssh-keygen wants its user to have a name")
    key = tmp_path / "key"
    shanghai.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=20)
    options = ["-D", "-e", "-f", "/dev/null", "-h", str(key), "-o", "PidFile=none", "-o", "UsePAM=no"]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # Debian's service makes it, where there are services
    server = shanghai.popen([program("sshd"), *options])
    shanghai.wait_listening(22)
    server.wait_output(r"Server listening on 0\.0\.0\.0 port 22\.")
    with beijing.socket() as client:
        client.settimeout(20)
        client.connect((shanghai.ip, 22))
        assert client.recv(100).startswith(b"SSH-2.0-OpenSSH")
    server.terminate()
    assert server.wait(20) in (0, 255, -signal.SIGTERM)


DAEMON = """
import os, socket, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
server = socket.create_server(("", 7))
print("serving", flush=True)
connection, _ = server.accept()
connection.sendall(connection.recv(100).upper())
print("served", flush=True)
os.abort()
"""


def test_a_double_forking_daemon(netns_pair: Pair) -> None:
    """It is nobody's child any more; it is waited for, read and ended all the same."""
    beijing, shanghai = netns_pair
    start = shanghai.popen([sys.executable, "-c", DAEMON])
    assert start.wait(20) == 0
    shanghai.wait_listening(7)
    start.wait_output("serving")
    with beijing.socket() as client:
        client.settimeout(20)
        client.connect((shanghai.ip, 7))
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
    start.wait_output("served")
    with pytest.raises(ChildDied, match="was to write 'never': it ended with exit status 0"):
        start.wait_output("never")  # told by the end of its output
