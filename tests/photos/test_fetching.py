"""Fetching from a server of this machine that breaks off, lies, or has hostile archives."""

import errno
import gzip
import io
import json
import random
import re
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from landmarks.asking.cli import app
from landmarks.errors import InputError
from landmarks.photos import fetching

PHOTOS = {
    "all_souls_000013.jpg": b"one",
    "all_souls_000026.jpg": b"two" * 1000,
    "christ_church_000179.jpg": b"",
    "oxford_002904.jpg": b"four",
}


def tgz(*members, cut=0):
    """An archive of (name, content) files and of ready `TarInfo`s, its last `cut` bytes left off."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member in members:
            info, content = (member, b"") if isinstance(member, tarfile.TarInfo) else (None, member[1])
            info = info or tarfile.TarInfo(member[0])
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()[: len(packed.getvalue()) - cut]


ARCHIVE = tgz(*PHOTOS.items())


class Server(ThreadingHTTPServer):
    """Serves `content` at every path, in the way that the attributes say."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = ARCHIVE
        self.break_after = lambda: 1 << 60
        """How many bytes of the body come before the connection is closed."""
        self.place = lambda start: start
        """From where a part comes, of which another start was asked for."""
        self.ranges, self.tag, self.status, self.length = True, '"v1"', 200, None
        self.asked, self.sent = [], 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/some/photos.tgz"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.asked.append(asked)
        body, status = server.content, server.status
        if status == 200 and asked and server.ranges and self.headers["If-Range"] in (None, server.tag):
            start = server.place(int(re.fullmatch(r"bytes=(\d+)-", asked)[1]))
            body, status = body[start:], 206 if start < len(body) else 416
        self.send_response(status)
        if status == 206:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        elif status == 416:
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(server.length or len(body)))
        self.end_headers()
        part = body[: server.break_after()] if status in (200, 206) else b""
        server.sent += len(part)
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetching.time, "sleep", lambda _: None)


IMAGES, DOWNLOADS = Path("data/oxford/images"), Path("downloads")


FEW = fetching.Bounds(files=20, size=500_000, each=200_000)


def fetch(*sources, most=FEW):
    return fetching.fetch(list(sources), IMAGES, DOWNLOADS, most)


def written():
    """All files but those of a download that may go on, and what they hold."""
    files = [path for path in Path().rglob("*") if path.is_file() and path.suffix not in (".part", ".tag")]
    return {path.as_posix(): path.read_bytes() for path in files}


def photos_below(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def refused(*sources, **bounds):
    """The error of fetching `sources`, which leaves no photo, not even half of one."""
    before = written()
    with pytest.raises(InputError) as caught:
        fetch(*sources, **bounds)
    assert written() == before
    assert not IMAGES.exists()
    return str(caught.value)


def test_photos_are_sorted_by_the_landmark_in_their_names(server):
    assert sorted(fetch(server.url)) == sorted(PHOTOS)
    assert photos_below(IMAGES) == PHOTOS
    assert sorted(path.as_posix() for path in IMAGES.glob("*/*.jpg")) == [
        "data/oxford/images/all_souls/all_souls_000013.jpg",
        "data/oxford/images/all_souls/all_souls_000026.jpg",
        "data/oxford/images/christ_church/christ_church_000179.jpg",
        "data/oxford/images/oxford/oxford_002904.jpg",
    ]


def test_folders_of_an_archive_and_what_is_no_photo_are_left_out(caplog):
    files = [("paris/louvre/paris_louvre_000001.jpg", b"1"), ("paris/._paris_louvre_000001.jpg", b"x")]
    Path("paris_1-v1.tgz").write_bytes(tgz(*files, ("paris/README", b"x")))
    Path("second.tgz").write_bytes(tgz(("paris/eiffel/paris_eiffel_000002.JPG", b"2")))
    fetch("paris_1-v1.tgz", "second.tgz")
    assert sorted(path.as_posix() for path in IMAGES.rglob("*.[jJ]*")) == [
        "data/oxford/images/eiffel/paris_eiffel_000002.JPG",
        "data/oxford/images/louvre/paris_louvre_000001.jpg",
    ]
    assert "README" in caplog.text


@pytest.mark.parametrize("seed", range(10))
def test_a_download_that_breaks_off_anywhere_goes_on_where_it_stopped(server, seed):
    random.seed(seed)
    server.content = tgz(*PHOTOS.items(), ("oxford_000001.jpg", random.randbytes(100_000)))
    server.break_after = lambda: random.randrange(1, 40_000)
    fetch(server.url)
    assert photos_below(IMAGES).items() > PHOTOS.items()
    assert server.sent == len(server.content), "no byte came twice"
    assert len(server.asked) > 2
    assert [path.name for path in DOWNLOADS.iterdir()] == ["photos.tgz"]


def test_another_run_goes_on_with_a_download_that_was_given_up(server):
    sizes = iter([100, *[0] * fetching.TRIES])
    server.break_after = lambda: next(sizes)
    assert "broke off after 100 bytes" in refused(server.url)
    server.break_after = lambda: 1 << 60
    fetch(server.url)
    assert server.asked[-1] == "bytes=100-"
    assert photos_below(IMAGES) == PHOTOS


def test_a_whole_download_is_not_downloaded_again(server):
    fetch(server.url)
    fetching.shutil.rmtree(IMAGES)
    fetch(server.url)
    assert len(server.asked) == 1


def test_a_server_without_ranges_sends_all_of_it_again(server):
    server.ranges = False
    sizes = iter([100, 70, 1 << 60])
    server.break_after = lambda: next(sizes)
    fetch(server.url)
    assert server.asked == [None, "bytes=100-", "bytes=70-"]
    assert photos_below(IMAGES) == PHOTOS


@pytest.mark.parametrize("size", [50, 5000])
def test_a_file_that_was_replaced_meanwhile_is_not_glued_to_what_came_before(server, size):
    sizes = iter([100, 1 << 60])

    def replace_then_break():
        server.content, server.tag = tgz(("oxford_000001.jpg", random.randbytes(size))), '"v2"'
        return next(sizes)

    server.break_after = replace_then_break
    fetch(server.url)
    assert list(photos_below(IMAGES)) == ["oxford_000001.jpg"]


@pytest.mark.parametrize("place", [107, 93, 0])
def test_a_part_of_another_place_than_was_asked_for_is_not_glued_to_what_came_before(server, place):
    sizes = iter([100, 1 << 60, 1 << 60])
    server.break_after = lambda: next(sizes)
    server.place = lambda start: place
    fetch(server.url)
    assert photos_below(IMAGES) == PHOTOS
    assert server.asked == [None, "bytes=100-", None]


@pytest.mark.parametrize("photo", ["own.jpg", "castle/a.jpg", "all_souls/all_souls_000013.jpg"])
def test_photos_that_came_while_it_was_unpacked_are_not_replaced(monkeypatch, photo):
    unpack = fetching._unpack

    def late(*arguments):
        unpack(*arguments)
        (IMAGES / photo).parent.mkdir(parents=True)
        (IMAGES / photo).write_bytes(b"own")

    monkeypatch.setattr(fetching, "_unpack", late)
    Path("photos.tgz").write_bytes(ARCHIVE)
    with pytest.raises(InputError, match=r"^data/oxford/images: is there already; delete it to fetch"):
        fetch("photos.tgz")
    assert photos_below(IMAGES.parent) == {Path(photo).name: b"own"}


def test_a_download_that_was_whole_but_not_yet_renamed_does_not_come_again(server):
    DOWNLOADS.mkdir()
    Path("downloads/photos.tgz.part").write_bytes(ARCHIVE)
    fetch(server.url)
    assert photos_below(IMAGES) == PHOTOS
    assert server.sent == 0


def test_what_is_left_of_a_longer_file_does_not_stay(server):
    server.tag = None
    DOWNLOADS.mkdir()
    Path("downloads/photos.tgz.part").write_bytes(bytes(len(ARCHIVE) + 1))
    fetch(server.url)
    assert photos_below(IMAGES) == PHOTOS


def test_a_file_shorter_than_its_announced_length_is_an_error(server):
    server.length = len(ARCHIVE) + 10
    server.ranges = False
    message = refused(server.url)
    assert f"{len(ARCHIVE)} of {len(ARCHIVE) + 10} bytes came" in message
    assert "run again to go on" in message


def test_a_file_longer_than_its_announced_length_is_an_error_and_comes_anew(server):
    server.length = len(ARCHIVE) - 10
    message = refused(server.url)
    assert "not a whole .tgz archive" in message
    assert "is deleted" in message
    server.length = None
    fetch(server.url)
    assert photos_below(IMAGES) == PHOTOS


@pytest.mark.parametrize("place", [5, 15, len(ARCHIVE) // 2, len(ARCHIVE) - 6, len(ARCHIVE) - 2])
def test_an_archive_with_a_wrong_bit_is_refused_before_anything_is_unpacked(server, place):
    server.content = bytearray(ARCHIVE)
    server.content[place] ^= 4
    if place == 5:  # the time in gzip's header, which no checksum covers
        fetch(server.url)
        assert photos_below(IMAGES) == PHOTOS
    else:
        assert "not a whole .tgz archive" in refused(server.url)


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", tgz(*PHOTOS.items(), cut=4), gzip.compress(b"x")]
)
def test_a_file_that_is_no_whole_archive_is_refused(content):
    Path("photos.tgz").write_bytes(content)
    assert "photos.tgz: not a whole .tgz archive" in refused("photos.tgz")
    assert Path("photos.tgz").exists(), "a file of the user's own is never deleted"


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../oxford_000001.jpg", b"x"), "leads out of the folder"),
        (("a/../../oxford_000001.jpg", b"x"), "leads out of the folder"),
        (("/tmp/oxford_000001.jpg", b"x"), "leads out of the folder"),
        (("..\\oxford_000001.jpg", b"x"), "leads out of the folder"),
        (special("oxford_000001.jpg", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a device"),
        (special("oxford_000001.jpg", tarfile.LNKTYPE, "all_souls_000013.jpg"), "is a link or a device"),
        (special("oxford_000001.jpg", tarfile.FIFOTYPE), "is a link or a device"),
        (special("oxford_000001.jpg", tarfile.CHRTYPE), "is a link or a device"),
    ],
)
def test_an_archive_that_would_reach_out_of_its_folder_is_refused(member, message):
    Path("photos.tgz").write_bytes(tgz(*PHOTOS.items(), member))
    assert message in refused("photos.tgz")


def holes(size):
    """A photo of GNU tar that is `size` bytes of holes, of which nothing is packed."""
    info = tarfile.TarInfo("oxford_000001.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:398], header[398:410] = b"%011o " % size, b"%011o " % 0  # one piece, empty, at the end
    header[483:495] = b"%011o " % size
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    return bytes(header)


def long_header(size):
    """A header of pax of `size` bytes, which is read before there is a member."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(size)


ALL = (
    "; at most 20 files and folders, 0.2 MB each and 0.0005 GB in all, are allowed, and nothing was unpacked"
)
ENDLESS = "has bytes without end that belong to no file"
SMALL = {
    "zeros as a photo": (
        tgz(("oxford_000001.jpg", bytes(200_001))),
        "'oxford_000001.jpg' in it has 200001 bytes",
    ),
    "zeros as no photo": (tgz(("README", bytes(1 << 24))), "'README' in it has 16777216 bytes"),
    "many empty files": (
        tgz(*((f"a_{number}.jpg", b"") for number in range(21))),
        "has more than 20 files and",
    ),
    "many folders": (
        tgz(*(special(f"{number}/", tarfile.DIRTYPE) for number in range(1000))),
        "has more than 20 files and folders",
    ),
    "many large files": (
        tgz(*((f"a_{number}.jpg", bytes(150_000)) for number in range(4))),
        "unpacks to more than 0.0005 GB",
    ),
    "holes": (gzip.compress(holes(1 << 32) + bytes(1024)), "'oxford_000001.jpg' in it has 4294967296 bytes"),
    "many holes": (gzip.compress(holes(190_000) * 3 + bytes(1024)), "unpacks to more than 0.0005 GB"),
    "zeros after the end": (gzip.compress(gzip.decompress(ARCHIVE) + bytes(1 << 18)), ENDLESS),
    "zeros of a second gzip": (ARCHIVE + gzip.compress(bytes(1 << 18)), ENDLESS),
    "a long header": (gzip.compress(long_header(1 << 18)), ENDLESS),
    "many long headers": (
        gzip.compress((long_header(150_016) + tarfile.TarInfo("y").tobuf()) * 4),
        "unpacks to more than 0.0005 GB",
    ),
}


@pytest.mark.parametrize("bomb", SMALL)
def test_an_archive_of_more_than_is_published_is_refused_before_anything_is_unpacked(server, bomb):
    content, seen = SMALL[bomb]
    server.content = content
    for source in (server.url, "photos.tgz"):
        Path("photos.tgz").write_bytes(content)
        message = refused(source)
        assert message.startswith(f"{'downloads/' * (source != 'photos.tgz')}photos.tgz: {seen}")
        assert ALL in message
    assert not Path("downloads/photos.tgz").exists()  # so that another run downloads it anew


def test_what_is_within_the_bounds_is_unpacked():
    files = {f"a_{number}.jpg": bytes([number]) * 150_000 for number in range(3)}
    folders = [special(f"{number}/", tarfile.DIRTYPE) for number in range(17)]
    Path("photos.tgz").write_bytes(tgz(*folders, *files.items()))
    fetch("photos.tgz")
    assert photos_below(IMAGES) == files


def test_an_archive_that_is_another_one_when_it_is_unpacked_leaves_nothing(monkeypatch):
    """As one that is still being written."""
    proved = fetching.proved

    def then_replaced(path, most):
        archive = proved(path, most)
        path.write_bytes(SMALL["many large files"][0])
        return archive

    Path("photos.tgz").write_bytes(ARCHIVE)
    monkeypatch.setattr(fetching, "proved", then_replaced)
    with pytest.raises(InputError, match=r"^photos\.tgz: unpacks to more than 0\.0005 GB; at most 20 files"):
        fetch("photos.tgz")
    assert list(IMAGES.parent.iterdir()) == []


@pytest.mark.parametrize(("dataset", "bounds"), [("oxford", (7594, 2.85e9)), ("paris", (9618, 3.75e9))])
def test_the_bounds_are_half_as_much_again_as_is_published_and_keep_out_what_one_file_has(dataset, bounds):
    most = fetching.Bounds.of(dataset)
    assert (most.files, most.size) == bounds
    assert 3 * 1024 * 768 < most.each < 2**31  # an uncompressed photo, and 2 GiB of zeros


def test_of_two_archives_the_first_is_not_unpacked_where_the_second_is_broken():
    Path("1.tgz").write_bytes(ARCHIVE)
    Path("2.tgz").write_bytes(tgz(("oxford_000001.jpg", b"x"), cut=3))
    assert "2.tgz: not a whole" in refused("1.tgz", "2.tgz")


def test_a_photo_that_is_there_twice_is_refused():
    Path("1.tgz").write_bytes(ARCHIVE)
    Path("2.tgz").write_bytes(tgz(("sub/oxford_002904.jpg", b"other")))
    assert "oxford_002904.jpg is there twice" in refused("1.tgz", "2.tgz")


def test_an_archive_without_photos_is_refused():
    Path("1.tgz").write_bytes(tgz(("README", b"x")))
    assert "no photo named like all_souls_000013.jpg" in refused("1.tgz")


@pytest.mark.parametrize(
    ("status", "tries"), [(404, 1), (403, 1), (500, fetching.TRIES), (503, fetching.TRIES)]
)
def test_an_error_of_the_server_names_the_url_and_the_ways_out(server, status, tries):
    server.status = status
    message = refused(server.url)
    assert server.url in message
    assert str(status) in message
    assert "another source with --url or a local file" in message
    assert len(server.asked) == tries


def test_a_server_that_is_not_there_is_an_error(server):
    url = server.url
    server.server_close()
    assert f"{url}: broke off after 0 bytes (" in refused(url)


def test_a_source_that_is_no_file_is_an_error():
    assert refused("nothing.tgz") == "nothing.tgz: no such file"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device of Linux")
def test_a_disk_that_is_full_while_downloading_is_an_error(server):
    DOWNLOADS.mkdir()
    Path("downloads/photos.tgz.part").symlink_to("/dev/full")
    assert "downloads/photos.tgz: the disk is full" in refused(server.url)


def test_a_disk_that_is_full_while_unpacking_is_an_error_and_leaves_nothing(server, monkeypatch):
    copy = fetching.shutil.copyfileobj
    done = []

    def full(source, target):
        copy(source, target)
        done.append(target)
        if len(done) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching.shutil, "copyfileobj", full)
    Path("photos.tgz").write_bytes(ARCHIVE)
    assert "data/oxford/images: the disk is full" in refused("photos.tgz")
    assert list(IMAGES.parent.iterdir()) == []
    monkeypatch.setattr(fetching.shutil, "copyfileobj", copy)
    fetch("photos.tgz")
    assert photos_below(IMAGES) == PHOTOS


def test_a_disk_that_would_become_full_is_told_before_anything_is_unpacked(monkeypatch):
    usage = {IMAGES.parent: SimpleNamespace(free=3000)}
    monkeypatch.setattr(fetching.shutil, "disk_usage", usage.__getitem__)
    Path("photos.tgz").write_bytes(ARCHIVE)
    assert "the photos take 3.01e-06 GB, 3e-06 GB of the disk are free" in refused("photos.tgz")
    for number, size in enumerate((1000, 2000, 1)):
        Path(f"{number}.tgz").write_bytes(tgz((f"oxford_{number}.jpg", bytes(size))))
    assert "the photos take 3e-06 GB, 3e-06 GB of the disk are free" in refused("0.tgz", "1.tgz", "2.tgz")
    fetch("0.tgz", "1.tgz")


PUBLISHED = ("https://example.org/paris_1-v1.tgz", "https://example.org/paris_2-v1.tgz")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], PUBLISHED),
        (["~/x/paris_1-v1.tgz"], ["~/x/paris_1-v1.tgz", PUBLISHED[1]]),
        (["http://mirror/paris_2-v1.tgz"], [PUBLISHED[0], "http://mirror/paris_2-v1.tgz"]),
        (["all.tgz"], ["all.tgz"]),
        (["paris_1-v1.tgz", "rest.tgz"], ["paris_1-v1.tgz", "rest.tgz"]),
    ],
)
def test_a_given_source_takes_the_place_of_the_published_one_of_its_name_or_of_all(given, expected):
    assert fetching.chosen(PUBLISHED, given) == list(expected)


def test_the_published_sets_are_those_of_their_authors():
    assert len(fetching.BROKEN) == 20
    assert all(fetching._PHOTO.fullmatch(name) for name in fetching.BROKEN)
    assert [len(urls) for urls in fetching.ARCHIVES.values()] == [1, 2]


def landmarks(*arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.exception
    return done.stdout


@pytest.mark.parametrize(
    ("dataset", "broken", "published"),
    [("oxford", [], 5063), ("paris", ["paris_louvre_000136.jpg", "paris_triomphe_000867.jpg"], 6412)],
)
@pytest.mark.parametrize("folder", [".", "notes/of mine"])
def test_the_command_tells_what_it_fetched_and_how_to_track_it(
    monkeypatch, dataset, broken, published, folder
):
    for name in ("params.yaml", "dvc.yaml"):
        Path(name).touch()
    root = Path.cwd()
    Path(folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    Path("all.tgz").write_bytes(tgz(*PHOTOS.items(), *((name, b"half") for name in broken)))
    here = Path.cwd()
    told = json.loads(landmarks("fetch", dataset, "all.tgz", "--json"))
    images = f"data/{dataset}/images"
    assert told == {
        "images": images,
        "photos": len(PHOTOS) + len(broken),
        "published": published,
        "broken": len(broken),
    }
    assert photos_below(root / images).keys() == {*PHOTOS, *broken}
    shutil.rmtree(root / images)
    monkeypatch.chdir(here)
    assert landmarks("fetch", dataset, "all.tgz").splitlines()[-1] == (
        f"To let DVC keep the photos: dvc add {images} && git add {images}.dvc && git commit -m 'Add photos'"
    )
