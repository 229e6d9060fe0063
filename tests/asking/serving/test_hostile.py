"""Five hundred uploads that are broken or mean harm, to a server that may not write a file."""

import http.client
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MB = 1 << 20

SERVER = """
import os, sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def tell(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        os.write(2, f"WROTE {arguments[0]}\\n".encode())

sys.addaudithook(tell)
open(os.devnull, "w").close()
from landmarks.asking.cli import main
main()
"""


def photo(format, size=(160, 120), **options):  # noqa: A002
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(noise).save(file, format, **options)
        return file.getvalue()


WHOLE = {kind: photo(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks, bits=8, colour=2):
    """A PNG of zeros, whatever its size, and other chunks before its pixels."""
    bytes_a_row = 1 + (width * bits * {0: 1, 2: 3, 3: 1, 6: 4}[colour] + 7) // 8
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    total = bytes_a_row * height if width * height < 1e8 else 100
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zeros(total)) + chunk(b"IEND", b"")
    )


@cache
def zeros(count):
    packer = zlib.compressobj(9)
    whole, rest = divmod(count, MB)
    return b"".join(
        [packer.compress(bytes(MB)) for _ in range(whole)] + [packer.compress(bytes(rest)), packer.flush()]
    )


def tiff(*tags):
    """A TIFF of the tags (number, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 8)


def bombs():
    """Small files that grow."""
    text = b"Comment\0\0" + zeros(100 * MB)
    yield png(10, 10, chunk(b"zTXt", text))
    yield png(10, 10, chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros(100 * MB)))
    yield png(10, 10, chunk(b"iCCP", b"profile\0\0" + zeros(100 * MB)))
    yield png(10, 10, *[chunk(b"zTXt", b"k%d\0\0" % number + zeros(MB)) for number in range(100)])
    yield png(7000, 7000)  # within the limit: 147 MB of pixels from 143 kB
    yield png(7000, 7000, bits=16, colour=0)
    yield png(3500, 3500, chunk(b"tRNS", bytes(6)))
    yield png(7072, 7072)  # just above it
    for width, height in [(60000, 60000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (0, 0)]:
        yield png(width, height)
    yield png(1, 65535)
    yield png(65535, 1)
    yield png(1, 10**7, colour=0)
    yield png(10**7, 1, colour=0)
    jpeg = WHOLE["JPEG"]
    at = jpeg.index(b"\xff\xc0") + 5
    for height, width in [(65535, 65535), (65500, 700), (0, 0), (0, 100), (1, 65535)]:
        yield jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]
    for side in (2**31 - 1, -(2**31), 100000):
        yield WHOLE["BMP"][:18] + struct.pack("<ii", side, side) + WHOLE["BMP"][26:]
    shape = [(256, 4, 1, 5000), (257, 4, 1, 5000), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    yield tiff(*shape, (259, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, 5000), (279, 4, 1, 2**32 - 1))
    yield tiff(
        *shape, (259, 3, 1, 8), (322, 4, 1, 2**20), (323, 4, 1, 2**14), (324, 4, 1, 8), (325, 4, 1, 90)
    )
    yield tiff(
        *shape, (259, 3, 1, 5), (322, 4, 1, 65536), (323, 4, 1, 32752), (324, 4, 1, 8), (325, 4, 1, 90)
    )
    yield tiff(*shape, (259, 3, 1, 1), (273, 4, 2**31 - 1, 8), (278, 4, 1, 1), (279, 4, 2**31 - 1, 8))
    yield tiff(*shape, (34665, 4, 1, 8), (259, 3, 1, 1))  # an EXIF block that is the whole
    yield tiff((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1))
    frames = [Image.new("L", (500, 500)) for _ in range(20)]
    for kind in ("WEBP", "TIFF", "PNG"):
        with io.BytesIO() as file:
            frames[0].save(file, kind, save_all=True, append_images=frames[1:])
            yield file.getvalue()


def exif():
    """JPEGs whose EXIF block is nonsense."""
    for seed in range(20):
        noise = np.random.default_rng(seed).bytes(200)
        block = b"Exif\0\0" + (b"II*\0\x08\0\0\0" if seed % 2 else b"MM\0*\0\0\0\x08") + noise
        yield WHOLE["JPEG"][:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + WHOLE["JPEG"][2:]


def wrong():
    """What is no photo at all."""
    yield from [
        b"",
        b"\0",
        b"x",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"II*\0",
        b"BM",
    ]
    yield WHOLE["GIF"]
    yield b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    yield b"<!doctype html><script>alert(1)</script>"
    yield b"%PDF-1.7\n" + bytes(1000)
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n"
    yield b"PK\x03\x04" + bytes(1000)
    yield b"#!/bin/sh\ntouch /tmp/owned\n"
    yield b"../../etc/passwd"
    yield b"https://example.org/photo.jpg"
    yield zeros(100 * MB)
    yield bytes(20 * MB)
    yield bytes(20 * MB + 1)
    for seed in range(60):
        yield np.random.default_rng(seed).bytes(1 + seed**2)


def damaged():
    """Photos cut short and with bytes changed."""
    random = np.random.default_rng(1)
    for _ in range(24):
        for content in WHOLE.values():
            yield content[: random.integers(1, len(content))]
    for number in range(33):
        for content in WHOLE.values():
            broken = np.frombuffer(content, np.uint8).copy()
            # Half of them in the header, which is where it hurts.
            places = random.integers(0, 100 if number % 2 else len(broken), 8)
            broken[places] = random.integers(0, 256, 8)
            yield broken.tobytes()


def uploads():
    """All of them: what they are, the headers, and the content."""
    for kind in (bombs, exif, wrong, damaged):
        for number, content in enumerate(kind()):
            yield f"{kind.__name__} {number}", {}, content
    for name in (
        "../../owned.png",
        "/tmp/owned.png",
        "..\\owned",
        "C:\\owned.png",
        "a\\u0000.png",
        "%2e%2e%2fowned",
    ):
        for content in (b"no photo", WHOLE["PNG"][:-20]):
            yield f"named {name}", {"Content-Disposition": f'attachment; filename="{name}"'}, content
        form = f'--x\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
        yield (
            f"form {name}",
            {"Content-Type": "multipart/form-data; boundary=x"},
            form + bytes(2 * MB) + b"\r\n--x--\r\n",
        )
    for kind in ("text/html", "application/json", "image/svg+xml", "multipart/form-data", "x" * 5000, ";;;"):
        yield f"typed {kind[:20]}", {"Content-Type": kind}, b"[1]"
    yield "compressed", {"Content-Encoding": "gzip"}, zlib.compress(WHOLE["PNG"])
    for length in ("-1", "x", "9" * 30, str(25 * MB)):
        yield f"length {length}", {"Content-Length": length}, b"x"


def send(port, headers, content):
    """The status and the answer; None where the server ended the connection instead."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest("POST", "/api/answer")
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
            connection.send(content)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionResetError, http.client.RemoteDisconnected):
        return None, b""
    finally:
        connection.close()


def resident(process):
    """The memory of a process in MB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024


def files(*folders):
    return sorted((path, path.stat().st_mtime_ns) for folder in folders for path in folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_five_hundred_hostile_uploads_do_no_harm(built, tmp_path, tmp_path_factory):
    compiled = tmp_path_factory.mktemp("numba")  # which alone may be written to
    environment = {
        "NUMBA_CACHE_DIR": str(compiled),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-c", SERVER, "serve", "--port", "0", "--json"]
    before = files(built, tmp_path)
    with subprocess.Popen(
        command, cwd=built, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            port = int(json.loads(server.stdout.readline())["url"].rstrip("/").rpartition(":")[2])
            assert [send(port, {}, content)[0] for content in WHOLE.values()] == [200] * 5 + [422]
            at_first = resident(server)
            sent = 0
            for what, headers, content in uploads():
                status, answer = send(port, headers, content)
                assert status in (None, 200) or 400 <= status < 500, (what, status, answer)
                if answer.startswith(b"{") and status != 200:
                    assert json.loads(answer)["detail"].endswith("."), what
                assert resident(server) < at_first + 500, what
                sent += 1
            assert sent >= 500
            assert send(port, {}, WHOLE["JPEG"])[0] == 200
            assert resident(server) < at_first + 50
        finally:
            server.terminate()
            _, errors = server.communicate(timeout=20)
    wrote = {path for path in re.findall("WROTE (.*)", errors) if not Path(path).is_relative_to(compiled)}
    assert wrote == {os.devnull}  # which it was told to
    assert "Traceback" not in errors
    assert files(built, tmp_path) == before
