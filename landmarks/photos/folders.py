"""The folders of a dataset: which files below them may be photos, and what is in the way of DVC."""

import errno
import logging
import os
import re
import shlex
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from landmarks.errors import InputError, shown
from landmarks.files import in_copy

log = logging.getLogger(__name__)

# What systems, NAS and programs leave beside photos unhidden, whole photos among it, such as thumbnails. In
# lower case, since most of them tell no capitals.
SYSTEM_FOLDERS = {
    *("@eadir", "eadir_tmp", "#recycle", "#snapshot", "@tmp", "@sharebin", "@sharesnap"),  # Synology
    *("@recycle", "@recently-snapshot", "@transcode", "trashbox", "~snapshot"),  # QNAP, Buffalo, NetApp
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),  # Windows
    *("__macosx", "network trash folder", "temporary items", "ipod photo cache"),  # macOS
    *("lost+found", "lost.dir", "__pycache__"),  # Linux, Android, Python
}
SYSTEM_FILES = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "iconcache.db"),  # Windows
    *("picasa.ini", "zbthumbnail.info", "pspbrwse.jbf", "icon\r"),  # Picasa, Zoner, Paint Shop Pro, macOS
}
SYNOLOGY = ("synophoto_", "synofile_", "synoindex_")  # thumbnails that were copied out of @eaDir
LIGHTROOM = ".lrdata"  # folders of previews

# What DVC does not look at: its own rules, and .dvcignore.
PASSED_OVER = {".git", ".hg", ".dvc", "__pycache__"}
PASSED_OVER_SUFFIXES = (".tmp", ".partial")

NAMED = 20
"""How many obstacles are named."""
FEW = 3
"""How many links out of a dataset are named."""
TOLD = 8
"""How many names of what is left out are told, besides those of whole landmark folders."""
CACHED = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
"""Files in DVC's cache, which may lie anywhere; `cache.type symlink` makes links to them."""
EXPECTED = "expected one folder of photos per landmark, as in {}/<landmark>/photo.jpg"
NOT_ASCII = (
    "a path with other letters than ASCII, below which DVC runs no copies: `dvc exp run --temp` fails and "
    "--run-all waits for ever; move the repository to use them"
)
COMMITTED_ONLY = "; DVC runs this experiment in a copy of what Git and DVC track, so first: {}"
LINKED = "a link to a folder, in which DVC sees no change; move or copy the folder here, or make {} the link"
NESTED = {
    ".dvc": "for DVC its folder is another project, whose photos it does not track; move it away",
    ".dvcignore": "DVC refuses it among data; move it away",
}
SPECIAL = {
    stat.S_IFIFO: "a pipe, at which DVC waits for ever; move it away",
    stat.S_IFSOCK: "a socket, at which DVC stops; move it away",
    stat.S_IFCHR: "a device, which DVC may read for ever; move it away",
    stat.S_IFBLK: "a device, which DVC reads to its end; move it away",
}


@dataclass
class Survey:
    """What lies below the photos' folder of a dataset; paths with `/`."""

    files: list[str] = field(default_factory=list)
    """Those that may be photos, sorted: neither hidden nor made by a system."""
    landmarks: dict[str, int] = field(default_factory=dict)
    """How many of `files` each landmark has."""
    closed: dict[str, str] = field(default_factory=dict)
    """Folders whose photos cannot be had, with the reason and what to do."""
    obstacles: dict[str, str] = field(default_factory=dict)
    """Files at which DVC stops or hangs, with the reason and what to do."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many of each name are hidden or made by a system; folders with a `/` after the name."""
    no_landmarks: set[str] = field(default_factory=set)
    """Those of them that lie where landmarks do."""

    def told(self) -> str:
        """One line on what was left out, or ''."""
        names = sorted(
            self.left_out, key=lambda name: (name not in self.no_landmarks, -self.left_out[name], name)
        )
        first = len(self.no_landmarks) + TOLD
        kinds = [f"{escaped(name)} ({self.left_out[name]})" for name in names[:first]]
        if others := sum(self.left_out[name] for name in names[first:]):
            kinds.append(f"others ({others})")
        return f"left out, as hidden or made by a system: {', '.join(kinds)}" if kinds else ""


@dataclass(frozen=True)
class Checked:
    """What `check` says of a dataset; paths are escaped."""

    images: str
    files: int
    """In landmark folders, but for those left out."""
    landmarks: int
    obstacles: dict[str, str]
    """What stops or hangs DVC or is missed by it: the reason and what to do, by path."""
    warnings: list[str]
    left_out: str
    """A line on it, or ''."""

    def __str__(self) -> str:
        way = f"{_count(len(self.obstacles), 'thing') if self.obstacles else 'nothing'} in the way"
        if not self.landmarks and not self.obstacles:
            return f"{self.images}: not drawn yet, {way}"
        held = f"{_count(self.files, 'file')} in {_count(self.landmarks, 'landmark folder')}"
        return f"{self.images}: {held}, {way}"

    def named(self) -> list[str]:
        """One line for each of the first obstacles, and how many more there are."""
        lines = [f"{path}: {reason}" for path, reason in islice(self.obstacles.items(), NAMED)]
        more = len(self.obstacles) - len(lines)
        return lines + [f"and {more} more"] * bool(more)


def check(dataset: str, drawn: bool = False) -> Checked:
    """Look for what is in the way of DVC below `data/<dataset>`, hidden or not; no file is opened.

    `drawn`: whether photos may be missing, since a stage draws them.
    """
    root = Path("data", dataset)
    images = (root / "images").as_posix()
    found = Survey()
    if root.is_dir():
        found = survey(Path(images), beside=True)
    elif root.is_symlink() and (reason := _beyond(root.as_posix())[1]):
        found.obstacles[root.as_posix()] = reason
    obstacles = found.obstacles | found.closed
    if not (drawn or found.closed or obstacles.keys() & {root.as_posix(), images}):
        missing = _missing(images, found)
        if not missing and not any(found.landmarks.values()):
            missing = f"no file in its landmark folders; {EXPECTED.format(images)}"
        obstacles |= {images: missing} if missing else {}
    warnings = of_root()
    warnings += [
        f"{escaped(images)}: {spelled(group, found.landmarks, 'file')} are alike, but landmarks of their own "
        "unless create_csv.merge_alike is true"
        for group in alike(found.landmarks)
    ]
    empty = sorted(name for name, files in found.landmarks.items() if not files)
    warnings += [f"{escaped(f'{images}/{name}')}: no file in this landmark folder" for name in empty]
    return Checked(
        escaped(images),
        sum(found.landmarks.values()),
        len(found.landmarks),
        {escaped(path): obstacles[path] for path in sorted(obstacles)},
        warnings,
        found.told(),
    )


def of_root() -> list[str]:
    """A warning where the path of this folder, the root of the repository, is in the way of DVC."""
    root = str(Path.cwd())
    return [] if root.isascii() else [f"{escaped(root)}: {NOT_ASCII}"]


def photo_files(images: Path) -> list[Path]:
    """The files below `images` that may be photos, by path; the log says what else was left out.

    Raises `InputError` if `images` is missing or holds no landmark folder, or if a folder in it is a link or
    cannot be read.
    """
    found = survey(images)
    if found.closed and images.is_dir():
        (path, reason), *others = sorted(found.closed.items())
        more = f" (and {len(others)} more: `landmarks check`)" if others else ""
        raise InputError(f"{escaped(path)}: {reason}{more}")
    if reason := _missing(images.as_posix(), found):
        raise InputError(f"{images.as_posix()}: {reason}")
    if told := found.told():
        log.info("%s: %s", images.as_posix(), told)
    return [Path(path) for path in found.files]


def outside(images: Path, photos: Iterable[str]) -> str:
    """One line on those of `photos`, paths below `images`, that lie outside the dataset's folder, or ''.

    Links lead there: the dataset's folder, `images`, or the photo itself. DVC's own, into its cache, do not
    count.
    """
    home = f"{_real(images.parent.parent)}/{images.parent.name}/"
    ways = [path.as_posix() for path in (images, images.parent) if path.is_symlink()]
    around = ways[0] if ways and not f"{_real(images)}/".startswith(home) else ""
    links: dict[str, str] = {}
    count = 0
    for photo in photos:
        link = photo if os.path.islink(photo) else around  # noqa: PTH114, of which there may be a million
        if not link:
            continue
        target = links.get(link) or _real(link)
        if link == around or not (target.startswith(home) or CACHED.search(target)):
            links[link] = target
            count += 1
    if not links:
        return ""
    named = [f"{escaped(link)} -> {escaped(target)}" for link, target in islice(links.items(), FEW)]
    if more := len(links) - len(named):
        named[-1] += f" and {more} more"
    lie = "lies" if count == 1 else "lie"
    return (
        f"{_count(count, 'photo')} {lie} outside {escaped(images.parent.as_posix())}, "
        f"by {_count(len(links), 'link')}: {', '.join(named)}"
    )


def _real(path: Path | str) -> str:
    return os.path.realpath(path).replace(os.sep, "/")


def _missing(images: str, found: Survey) -> str:
    """Why there are no landmarks, or ''."""
    if not os.path.isdir(images):  # noqa: PTH112, which raises where it may not look
        first = COMMITTED_ONLY.format(tracking(images)) if in_copy() else ""
        return f"no such folder; {EXPECTED.format(images)}{first}"
    return "" if found.landmarks else f"no class folder in it; {EXPECTED.format(images)}"


def tracking(path: str) -> str:
    """The command that lets DVC and Git track what is at `path`."""
    tracked = shlex.quote(path)
    return f"dvc add {tracked} && git add {shlex.quote(f'{path}.dvc')} && git commit -m 'Add photos'"


def survey(images: Path, beside: bool = False) -> Survey:
    """Sort what lies below `images`; with `beside`, look for obstacles in the folder around it, too.

    Hidden folders are searched for obstacles, as DVC hashes them. No link to a folder is followed, as DVC
    follows none below the folder that it is told of; `images` is one of these.
    """
    found, top = Survey(), images.as_posix()
    root = images.parent.as_posix() if beside else top
    waiting = [(root, not beside)]
    while waiting:
        folder, shown = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            if shown or folder == root:  # others hold no photos, and DVC passes over them silently
                found.closed[folder] = _unreadable(error)
            continue
        for entry in entries:
            path, name = f"{folder}/{entry.name}", entry.name
            if name in NESTED:
                found.obstacles[path] = NESTED[name]
            is_folder, reason = _looked_at(entry, path)
            if beside and not is_folder and not reason and not os.access(path, os.R_OK):
                reason = "cannot be read (Permission denied)"
            kind = _left_out(name, is_folder)
            if kind and shown:
                found.left_out[kind] += 1
                if is_folder and folder == top:
                    found.no_landmarks.add(kind)
            if name in PASSED_OVER or name.endswith(PASSED_OVER_SUFFIXES):
                continue
            if not _is_utf8(name):
                found.obstacles[path] = "its name is not UTF-8, at which DVC stops; rename it"
            inside = path == top or (shown and not kind)
            if is_folder and (path == top or not reason):
                waiting.append((path, inside))
                if inside and folder == top:
                    found.landmarks[name] = 0
            elif is_folder and inside:
                found.closed[path] = reason.format(top)
            elif reason and not is_folder:
                found.obstacles[path] = reason
            if inside and not is_folder:
                found.files.append(path)
    found.files.sort()
    start = len(top) + 1
    for path in found.files:
        landmark, below, _ = path[start:].partition("/")
        if below:
            found.landmarks[landmark] += 1
    return found


def _looked_at(entry: os.DirEntry[str], path: str) -> tuple[bool, str]:
    """Whether an entry is a folder, or a link to one, and what is in the way."""
    if entry.is_file(follow_symlinks=False):
        return False, ""
    if entry.is_dir(follow_symlinks=False):
        return True, ""
    return _beyond(path)


def _beyond(path: str) -> tuple[bool, str]:
    """As `_looked_at`, of a link and of what is neither a file nor a folder."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False, "a link that leads to itself; delete it"
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            target = escaped(os.readlink(path))  # noqa: PTH115
            return False, f"a link to {target}, which is not there; mend or delete it"
        return False, _unreadable(error)
    if stat.S_ISDIR(mode):
        return True, LINKED
    if stat.S_ISREG(mode):
        return False, ""
    return False, SPECIAL.get(stat.S_IFMT(mode), "neither a file nor a folder; move it away")


def _left_out(name: str, is_folder: bool) -> str:
    """What to call what is hidden or made by a system, or ''."""
    if name.startswith("."):
        kind = "._*" if name.startswith("._") and not is_folder else name
    elif name.endswith(PASSED_OVER_SUFFIXES):
        kind = f"*{os.path.splitext(name)[1]}"  # noqa: PTH122
    elif is_folder:
        lower = name.lower()
        kind = name if lower in SYSTEM_FOLDERS or lower.endswith(LIGHTROOM) else ""
    else:
        lower = name.lower()
        kind = name if lower in SYSTEM_FILES else "SYNO*" if lower.startswith(SYNOLOGY) else ""
    return f"{kind}/" if kind and is_folder else kind


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\udc80" <= char <= "\udcff" for char in name)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def alike(counts: Mapping[str, int]) -> list[list[str]]:
    """Groups of the names in `counts` that are plainly the same; in each group the highest count is first.

    They differ only in capitals, in white space, in invisible characters, or in how Unicode writes the same
    characters (composed or not, full-width or not). Letters, accents, hyphens and underscores tell names
    apart. Among equal counts, the name that is first by code point comes first.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        groups.setdefault(_plain(name), []).append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


def _plain(name: str) -> str:
    """What `alike` compares: NFKC and case folding, as Unicode's NFKC_Casefold, and single spaces."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    seen = (
        char for char in folded if unicodedata.category(char) != "Cf" and not "\ufe00" <= char <= "\ufe0f"
    )
    return " ".join(unicodedata.normalize("NFKC", "".join(seen)).split())


def spelled(names: Sequence[str], counts: Mapping[str, int], thing: str) -> str:
    """`names` with how many of `thing` each has, with escapes that show where they differ."""
    *most, last = (
        f"{name!r}{'' if name.isascii() else f' = {name!a}'} ({_count(counts[name], thing)})"
        for name in names
    )
    return f"{', '.join(most)} and {last}"


def escaped(path: str) -> str:
    """`path` with escapes for what is not UTF-8 in it, and for what cannot be seen."""
    return shown(os.fsencode(path).decode("utf-8", "backslashreplace")).replace("\n", "\\n")


def printable(path: Path) -> str:
    """`path` with `/`, and with escapes for what is not UTF-8 in it."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def visible_files(folder: Path) -> Iterator[Path]:
    """The files in `folder` and in the folders below it, linked ones too; none that datasets leave out."""
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = sorted(
            name for name in folders if not _left_out(name, True) and not _leads_back(Path(parent, name))
        )
        yield from (Path(parent, name) for name in names if not _left_out(name, False))


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: {_unreadable(error)}")


def _leads_back(folder: Path) -> bool:
    """Whether `folder` is a link to a folder above it, which would be walked for ever."""
    return folder.is_symlink() and any(folder.samefile(above) for above in folder.absolute().parents)
