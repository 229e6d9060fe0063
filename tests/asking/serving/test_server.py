import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from landmarks.asking.serving import server
from landmarks.errors import InputError

from .conftest import client_of, open_index


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:8000", 200), ("[::1]", 200),
     ("evil.example", 421), ("evil.example:8000", 421), ("127.0.0.1.evil.example", 421), ("", 421)],
)  # fmt: skip
def test_on_loopback_only_this_machine_can_be_addressed(client, host, status):
    assert client.get("/healthz", headers={"Host": host}).status_code == status


def test_other_hosts_can_be_allowed(plain_root):
    index = open_index(plain_root)
    for hosts, name, status in (
        (None, "any.example", 200),
        (frozenset({"a.example"}), "a.example:80", 200),
        (frozenset({"a.example"}), "localhost", 421),
    ):
        answer = client_of(index, hosts=hosts).get("/healthz", headers={"Host": name})
        assert answer.status_code == status


def test_a_socket_on_loopback_knows_its_names():
    for host, local in (("127.0.0.1", True), ("localhost", True), ("127.0.0.2", True), ("0.0.0.0", False)):
        with server.listen(host, 0) as listening:
            hosts = server.hosts_of(listening, host)
            assert hosts == (server.LOOPBACK | {host} if local else None)


def serve(root, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", "from landmarks.asking.cli import main; main()", "serve", *arguments],
        cwd=root,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_serves_until_it_is_interrupted(built):
    with serve(built, "--port", "0", "--json") as server:
        url = json.loads(server.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}healthz", timeout=20) as answer:
            assert json.load(answer) == {"status": "ok"}
        photo = (built / "queries/0.png").read_bytes()
        with urllib.request.urlopen(f"{url}api/answer", photo, timeout=20) as answer:
            assert json.load(answer)["landmark"] == "castle"
        with serve(built, "--port", url.rstrip("/").rpartition(":")[2]) as second:
            _, errors = second.communicate(timeout=20)
            assert second.returncode == 1
            assert re.fullmatch(
                r"error: 127.0.0.1:\d+: cannot listen there \(.*\); try another --port\n", errors
            )
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=20)
        assert (server.returncode, errors) == (0, "")


@pytest.mark.parametrize("host", ["", " ", "\t\n"])
def test_an_empty_host_is_not_all_hosts(host):
    with pytest.raises(InputError, match=r"^--host: .* is no address"):
        server.listen(host, 0)


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", False), ("0.0.0.0", False), ("::1", False), ("::", True), ("0::0", True)],
)
def test_a_socket_knows_whom_it_leaves_out(host, alone):
    try:
        listening = server.listen(host, 0)
    except InputError:
        pytest.skip("no IPv6 here")
    with listening:
        assert server.ipv6_alone(listening) == alone


def test_a_notebook_whose_loop_runs_serves_until_it_is_interrupted(plain_root):
    listening = server.listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/healthz"
    answers = []

    def use():
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                answers.append(json.load(answer))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    async def cell():
        threading.Thread(target=use).start()
        server.serve(open_index(plain_root), listening, server.LOOPBACK)

    loop = asyncio.new_event_loop()  # not asyncio.run, which takes the signal for itself
    loop.run_until_complete(cell())
    loop.close()
    assert answers == [{"status": "ok"}]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=20)
