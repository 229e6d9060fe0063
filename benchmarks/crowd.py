"""What honest clients of `landmarks serve` wait for beside sockets that hold its connections.

python benchmarks/crowd.py [--clients 8 32] [--idle 500] [--slow 200] [--files 256] [--seconds 20]
"""

import argparse
import http.client
import json
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from common import report
from serve import draw, write_index

PATIENCE = 10
"""Seconds after which an honest client gives up, which is an error."""
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
BODY = b"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32], help="that upload photos")
    parser.add_argument(
        "--idle", type=int, default=0, help="sockets that say nothing, opened anew when ended"
    )
    parser.add_argument("--slow", type=int, default=0, help="likewise: a byte a second, half of heads")
    parser.add_argument("--files", type=int, help="that the server may have open, instead of as many as here")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rows", type=int, default=10_000, help="of the index, of 1280 numbers")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), options.rows)
        for clients in options.clients:
            rows.append(measure(Path(folder), clients, options))
    report(
        f"{options.seconds:g} s beside {options.idle} idle and {options.slow} slow sockets, "
        f"{options.files or 'default'} files: milliseconds; MB before, and the most",
        ("clients", "answers", "p50", "p99", "errors", "/healthz p99", "failed", "memory", "stderr, bytes"),
        rows,
        ["uvicorn", "h11", "fastapi"],
    )


def measure(root: Path, clients: int, options: argparse.Namespace) -> tuple[object, ...]:
    """A row of the table."""
    with served(root, options.files) as (process, port):
        for _ in range(3):
            asking(port)()
        before = memory(process, "VmRSS")
        over = threading.Event()
        crowd = threading.Thread(target=crowded, args=[port, options.idle, options.slow, over])
        crowd.start()
        time.sleep(3)
        end = time.monotonic() + options.seconds
        asked: list[float] = []
        looked: list[float] = []
        threads = [
            threading.Thread(target=repeat, args=[asking(port), end, asked, 0.0]) for _ in range(clients)
        ]
        threads.append(threading.Thread(target=repeat, args=[lambda: look(port), end, looked, 0.1]))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        crowd.join()
        most = memory(process, "VmHWM")
    answered, seen = (np.array([one for one in times if one > 0]) for times in (asked, looked))
    return (
        clients,
        len(answered),
        percentile(answered, 50),
        percentile(answered, 99),
        len(asked) - len(answered),
        percentile(seen, 99),
        f"{len(looked) - len(seen)} of {len(looked)}",
        f"{before:.0f}, {most:.0f}",
        f"{(root / 'stderr').stat().st_size:,}",
    )


@contextmanager
def served(root: Path, files: int | None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server of the index at `root`, with so many files at most, and its port."""
    command = [sys.executable, "-m", "landmarks", "serve", "--port", "0", "--json"]
    limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
    with (
        (root / "stderr").open("w") as errors,
        subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=limit
        ) as server,
    ):
        assert server.stdout
        yield server, int(json.loads(server.stdout.readline())["url"].rstrip("/").rpartition(":")[2])
        server.terminate()


def repeat(what: Callable[[], None], end: float, taken: list[float], pause: float) -> None:
    """Do `what` until `end`: the milliseconds of each time, -1 where it failed."""
    while time.monotonic() < end:
        start = time.perf_counter()
        try:
            what()
            taken.append(1000 * (time.perf_counter() - start))
        except (OSError, http.client.HTTPException, AssertionError):
            taken.append(-1)
            time.sleep(0.1)
        time.sleep(pause)


def asking(port: int) -> Callable[[], None]:
    """Uploads a photo, no two the same, by one connection as long as it lasts."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask() -> None:
        try:
            connection.request("POST", "/api/answer", draw())
            with connection.getresponse() as response:
                assert response.status == 200
                response.read()
        except BaseException:
            connection.close()
            raise

    return ask


def look(port: int) -> None:
    """As a supervisor does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def crowded(port: int, idle: int, slow: int, over: threading.Event) -> None:
    """Hold so many sockets until it is over."""
    kinds = [b""] * idle + [HEAD, BODY] * (slow // 2)
    held: list[socket.socket | None] = [None] * len(kinds)
    while not over.is_set():
        for place, kind in enumerate(kinds):
            one = held[place]
            try:
                if one is None:
                    one = held[place] = socket.create_connection(("127.0.0.1", port), timeout=1)
                    one.sendall(kind)
                    one.setblocking(False)
                elif kind:
                    one.send(b"a")
                with suppress(BlockingIOError):
                    if one.recv(1 << 16) == b"":
                        raise ConnectionResetError
            except OSError:
                if one:
                    one.close()
                held[place] = None
        over.wait(1)
    for one in filter(None, held):
        one.close()


def memory(process: subprocess.Popen[str], name: str) -> float:
    """MB of `process`, by a line of /proc."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+)", status)
    assert found
    return int(found[1]) / 1024


def percentile(times: np.ndarray, share: int) -> str:
    return f"{np.percentile(times, share):.0f}" if len(times) else "-"


if __name__ == "__main__":
    main()
