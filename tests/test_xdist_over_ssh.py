"""How users outgrow one machine: pytest-xdist over ssh; the two machines are hosts of a lab, each with its sshd."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from programs import program

from pytest_netns import Host, Lab

pytestmark = pytest.mark.once

SUITE = """
import os, socket
import pytest

@pytest.mark.parametrize("number", range(8))
def test_has_a_pair(netns_pair, number, worker_id):
    beijing, shanghai = netns_pair
    with beijing.socket() as listener, shanghai.socket() as client:
        listener.bind(("10.0.0.1", 80))
        listener.listen()
        client.connect(("10.0.0.1", 80))
    own = socket.gethostbyname(socket.gethostname())
    print("ran on", own, "by", worker_id)

@pytest.mark.netns
@pytest.mark.parametrize("number", range(4))
def test_body_inside(number, worker_id):
    socket.create_server(("127.0.0.1", 80)).close()
"""


def _start_sshd(host: Host, folder: Path) -> None:
    key, allowed = folder / f"{host.name}-key", folder / "login.pub"
    host.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=20)
    settings = ("PidFile=none", "UsePAM=no", "StrictModes=no", "PermitRootLogin=yes", f"AuthorizedKeysFile={allowed}")
    options = [word for setting in settings for word in ("-o", setting)]
    host.popen([program("sshd"), "-D", "-e", "-f", "/dev/null", "-h", key, *options], check=False)
    host.wait_listening(22)


def test_tests_are_shared_out_to_two_hosts_of_a_lab(netns_lab: Lab, tmp_path: Path) -> None:
    """A controller in one host has its workers in two others, and these make networks of their own there."""
    if os.getuid() != 0:
        pytest.skip("an sshd that is not root's lets in only a user with a name and a shell")
    Path("/run/sshd").mkdir(exist_ok=True)
    lan = netns_lab.bridge("lan", "192.168.9.0/24")
    desk, *servers = (netns_lab.host(name, lan) for name in ("desk", "east", "west"))
    desk.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "login"], check=True, timeout=20)
    (tmp_path / "ssh_config").write_text(
        f"StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nIdentityFile {tmp_path}/login\nBatchMode yes\n"
    )
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "test_far.py").write_text(SUITE)
    (suite / "pytest.ini").write_text("[pytest]\n")
    workers = []
    for server in servers:
        _start_sshd(server, tmp_path)
        spec = f"ssh=root@{server.ip}//ssh_config={tmp_path}/ssh_config//python={sys.executable}"
        folder = tmp_path / f"at-{server.name}"
        folder.mkdir()
        workers += ["--tx", f"{spec}//chdir={folder}//env:PYTHONPATH={os.environ.get('PYTHONPATH', '')}"]
    without = [word for name in ("cacheprovider", "rerunfailures", "randomly", "html") for word in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", "-rA", *without, "--dist=load", *workers]
    done = desk.run(
        [*command, f"--rsyncdir={suite}", str(suite)], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 passed" in done.stdout
    for server in servers:
        assert f"ran on {server.ip}" in done.stdout
