"""The published photo sets: download them, prove them whole, unpack them, and sort them by landmark."""

import gzip
import http.client
import logging
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Never, Self, TypeVar

from landmarks.errors import InputError
from landmarks.files import explained, filling
from landmarks.progress import tqdm

_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"

ARCHIVES = {
    "oxford": (f"{_VGG}/oxbuildings/oxbuild_images-v1.tgz",),
    "paris": (f"{_VGG}/parisbuildings/paris_1-v1.tgz", f"{_VGG}/parisbuildings/paris_2-v1.tgz"),
}
GROUND_TRUTH = {
    ("oxford", "oxford"): f"{_VGG}/oxbuildings/gt_files_170407.tgz",
    ("oxford", "paris"): f"{_VGG}/parisbuildings/paris_120310.tgz",
    ("revisited", "oxford"): f"{_REVISITED}/roxford5k/gnd_roxford5k.pkl",
    ("revisited", "paris"): f"{_REVISITED}/rparis6k/gnd_rparis6k.pkl",
}
"""By protocol and dataset."""

PHOTOS = {"oxford": 5063, "paris": 6412}
"""How many files the archives have, the broken ones among them."""

BYTES = {"oxford": 1_900_000_000, "paris": 2_500_000_000}
"""About how many bytes they have, packed or not."""

BROKEN = {
    f"paris_{name}.jpg"
    for name in (
        *("louvre_000136", "louvre_000146", "moulinrouge_000422", "museedorsay_001059", "notredame_000188"),
        *("pantheon_000284", "pantheon_000960", "pantheon_000974", "pompidou_000195", "pompidou_000196"),
        *("pompidou_000201", "pompidou_000467", "pompidou_000640", "sacrecoeur_000299", "sacrecoeur_000330"),
        *("sacrecoeur_000353", "triomphe_000662", "triomphe_000833", "triomphe_000863", "triomphe_000867"),
    )
}
"""Files of Paris6k that were published broken."""

# all_souls_000013.jpg is of all_souls, paris_defense_000605.jpg of defense.
_PHOTO = re.compile(r"(?:paris_)?(?P<landmark>[A-Za-z]\w*)_\d+\.jpe?g", re.IGNORECASE | re.ASCII)


class Bounds(NamedTuple):
    """What an archive may hold at most, or nothing of it is unpacked."""

    files: int
    """Files and folders."""
    size: int
    """Bytes of all of them."""
    each: int
    """Bytes of one of them; the largest photos are published at 1024 x 768 pixels."""

    @classmethod
    def of(cls, dataset: str) -> Self:
        """Half as much again as is published, whose photos may be packed anew, in folders of their own."""
        return cls(PHOTOS[dataset] * 3 // 2, BYTES[dataset] * 3 // 2, 10_000_000)

    def refusal(self, path: Path, seen: str) -> InputError:
        """What to tell of the archive at `path`, of which more was `seen`."""
        return InputError(
            f"{path}: {seen}; at most {self.files} files and folders, {self.each / 1e6:g} MB each and "
            f"{self.size / 1e9:.3g} GB in all, are allowed, and nothing was unpacked"
        )


OF_TEXTS = Bounds(20_000, 200_000_000, 10_000_000)
"""What a ground truth may hold; the published ones have 220 files of a few KB."""

CHUNK = 1 << 20
TRIES = 5
"""How often in a row a download may fail without having brought a byte."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class _BrokenError(Exception):
    """The connection ended before the file did, for the reason in the message."""


def is_url(source: str) -> bool:
    """Whether `source` is a URL rather than the path of a file."""
    return source.startswith(("http://", "https://"))


def chosen(published: Sequence[str], given: Sequence[str]) -> list[str]:
    """The sources, URLs or paths, to read: a `given` one takes the place of the `published` one of its name.

    If a given one has none of these names, the given ones take the place of all.
    """
    by_name = {source.rpartition("/")[2]: source for source in published}
    names = {source.rpartition("/")[2]: source for source in given}
    return list((by_name | names).values()) if names.keys() <= by_name.keys() else list(given)


def read_from(source: str, folder: Path, read: Callable[[Path], Result]) -> Result:
    """What `read` makes of the file `source`, a path or a URL, which is downloaded into `folder`.

    A download that is there already is read as it is; one that `read` refuses is deleted, so that another
    run downloads it anew.
    """
    if not is_url(source):
        return read(Path(source))
    path = folder / (source.partition("?")[0].rpartition("/")[2] or "download")
    if not path.exists():
        download(source, path)
    try:
        return read(path)
    except InputError as error:
        path.unlink()
        raise InputError(
            f"{error}; it came from {source} and is deleted, another run downloads it anew"
        ) from None


def download(url: str, path: Path) -> None:
    """Download `url` to `path`, which is whole or absent.

    What has come is kept beside it as `.part`, with `.tag` to recognise the file, and a later call asks only
    for the rest (RFC 9110, section 14). Raises `InputError` if the server has no such file, the connection
    breaks `TRIES` times in a row without a byte, or the disk is full.
    """
    part, tag = (path.with_name(path.name + ending) for ending in (".part", ".tag"))
    failures = 0
    with explained(path), tqdm(desc=path.name, unit="B", unit_scale=True, unit_divisor=1000) as bar:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            size = _size(part)
            try:
                _continue(url, part, tag, bar)
                break
            except _BrokenError as error:
                failures = 0 if _size(part) > size else failures + 1
                if failures == TRIES:
                    raise InputError(
                        f"{url}: broke off after {_size(part)} bytes ({error}); run again to go on, or give "
                        "another source with --url or a local file"
                    ) from None
                time.sleep(min(2**failures, 30) / 2)
        part.replace(path)
        tag.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path, tag: Path, bar: "tqdm[Never]") -> None:
    """Append the rest of `url` to `part`; all of it where the server gives no parts, or has another file."""
    done = _size(part)
    headers = {"User-Agent": "landmarks", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        ) as response:
            place = response.headers["Content-Range"] or ""
            if response.status == 206 and not place.startswith(f"bytes {done}-"):
                part.unlink()
                raise _BrokenError("the server sent another part than was asked for")
            if response.status != 206:
                done = 0
                # An ETag that is weak names no exact bytes.
                known = response.headers["ETag"] or "W/"
                known = response.headers["Last-Modified"] if known.startswith("W/") else known
                tag.unlink(missing_ok=True)
                if known:
                    tag.write_text(known)
            length = response.headers["Content-Length"]
            bar.total, bar.n = (done + int(length) if length else None), done
            with part.open("r+b" if done else "wb") as file:
                file.seek(done)
                while chunk := _read(response):
                    file.write(chunk)
                    bar.update(len(chunk))
            if bar.total is not None and bar.n < bar.total:
                raise _BrokenError(f"{bar.n} of {bar.total} bytes came")
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:
            if error.headers["Content-Range"] == f"bytes */{done}":
                return  # all of it had come
            part.unlink()  # longer than the file, or the file is another one
            raise _BrokenError("the server has no such part") from None
        if error.code in (408, 429) or error.code >= 500:
            raise _BrokenError(f"{error.code} {error.reason}") from None
        raise InputError(
            f"{url}: {error.code} {error.reason}; give another source with --url or a local file"
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _BrokenError(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from None


class Archive(NamedTuple):
    """A .tgz that is whole."""

    path: Path
    photos: list[str]
    """The names of the photos in it, without folders."""
    size: int
    """The bytes of the photos."""


def proved(path: Path, most: Bounds) -> Archive:
    """Read the archive at `path` to its end, where gzip keeps a checksum of all that was packed.

    Raises `InputError` if it is not whole, or holds more than `most`, or something in it is neither a file
    nor a folder, or would lie outside the folder that it is unpacked in.
    """
    photos, size = [], 0
    with opened(path, most) as members:
        for member, _ in tqdm(members, f"checking {path.name}", unit="file"):
            inside = PurePosixPath(member.name)
            if inside.is_absolute() or ".." in inside.parts or "\\" in member.name:
                raise InputError(
                    f"{path}: {member.name!r} in it leads out of the folder; nothing was unpacked"
                )
            if not member.isfile() and not member.isdir():
                raise InputError(f"{path}: {member.name!r} in it is a link or a device; nothing was unpacked")
            if member.isfile() and _PHOTO.fullmatch(inside.name):
                photos.append(inside.name)
                size += member.size
            elif member.isfile():
                log.warning("%s: %s in it is not named like a photo, left out", path, member.name)
    return Archive(path, photos, size)


Member = tuple[tarfile.TarInfo, IO[bytes] | None]
"""Of an archive, with what it holds if it is a file."""


@contextmanager
def opened(path: Path, most: Bounds) -> Iterator[Iterator[Member]]:
    """The .tgz at `path`, to be read once from its beginning to its end, where it has proved to be whole.

    Raises `InputError` if it is not, or as soon as more than `most` is seen of it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with _Bounded(path, most) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                yield _members(tar, stream, path, most)
            while stream.read(CHUNK):
                pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: not a whole .tgz archive ({error})") from None


class _Bounded(gzip.GzipFile):
    """A file of gzip, in which a few bytes may stand for any number of zeros."""

    def __init__(self, path: Path, most: Bounds) -> None:
        super().__init__(path)
        self._path, self._most, self._seen = path, most, 0
        self.left = most.each
        """Bytes that may come before the next member."""

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes. Raises `InputError` where they are too many."""
        content = super().read(size)
        self._seen += len(content)
        self.left -= len(content)
        if self._seen > self._most.size:
            raise self._most.refusal(self._path, f"unpacks to more than {self._most.size / 1e9:.3g} GB")
        if self.left < 0:
            raise self._most.refusal(self._path, "has bytes without end that belong to no file")
        return content


def _members(tar: tarfile.TarFile, stream: _Bounded, path: Path, most: Bounds) -> Iterator[Member]:
    size = 0
    for count, member in enumerate(tar, 1):
        size += member.size  # with holes, of which nothing comes
        if count > most.files:
            raise most.refusal(path, f"has more than {most.files} files and folders")
        if member.size > most.each:
            raise most.refusal(path, f"{member.name!r} in it has {member.size} bytes")
        if size > most.size:
            raise most.refusal(path, f"unpacks to more than {most.size / 1e9:.3g} GB")
        stream.left = member.size + most.each
        yield member, tar.extractfile(member) if member.isfile() else None


def fetch(sources: Sequence[str], images: Path, downloads: Path, most: Bounds) -> list[str]:
    """Unpack the photos of the archives `sources`, URLs or paths, to one folder per landmark below `images`.

    All archives are downloaded into `downloads` and proved whole before anything is unpacked, and `images` is
    whole or absent. Returns the names of the photos. Raises `InputError` as `download` and `proved` do, and
    where there is no photo, two have one name, or the disk has too little space.
    """
    archives = [read_from(source, downloads, lambda path: proved(path, most)) for source in sources]
    names = [name for archive in archives for name in archive.photos]
    if not names:
        raise InputError(f"{sources[0]}: no photo named like all_souls_000013.jpg in it")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{sources[-1]}: the photo {twice} is there twice; nothing was unpacked")
    needed = sum(archive.size for archive in archives)
    images.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(images.parent).free
    if free < needed:
        raise InputError(
            f"{images}: the photos take {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB of the disk are free"
        )
    with filling(images) as folder:
        for archive in archives:
            _unpack(archive, folder, most)
        if images.exists():  # by now
            raise InputError(f"{images}: is there already; delete it to fetch the photos anew")
    return names


def _unpack(archive: Archive, folder: Path, most: Bounds) -> None:
    bar = tqdm(desc=f"unpacking {archive.path.name}", total=len(archive.photos), unit="photo")
    with bar, opened(archive.path, most) as members:
        for member, content in members:
            name = PurePosixPath(member.name).name
            match = _PHOTO.fullmatch(name)
            if match and content:
                path = folder / match["landmark"] / name
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file)
                bar.update()
