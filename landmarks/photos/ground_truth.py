"""The ground truth of a dataset: which photos show what a query shows. Its own file, and the published ones.

Oxford5k: Philbin et al., Object retrieval with large vocabularies and fast spatial matching, CVPR 2007.
Paris6k: Philbin et al., Lost in quantization: improving particular object retrieval in large scale image
databases, CVPR 2008. ROxford5k and RParis6k: Radenović et al., Revisiting Oxford and Paris: large-scale image
retrieval benchmarking, CVPR 2018.
"""

import io
import logging
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from landmarks import tables
from landmarks.errors import InputError
from landmarks.photos import fetching, images
from landmarks.photos.catalog import BOX, Photo, box_columns, parse_box
from landmarks.photos.images import Box

HEADER = ("query_path", *BOX, "image_path", "relevance")

GRADES = {"oxford": ("good", "ok", "junk"), "revisited": ("easy", "hard", "junk")}
"""The grades of relevance that each protocol scores by."""

log = logging.getLogger(__name__)


class Query(NamedTuple):
    """What is searched for."""

    image_path: str
    box: Box | None
    """What of the photo, None for all of it."""


GroundTruth = dict[Query, dict[str, str]]
"""For each query the grade of every photo, by its path, that was judged."""


def read(path: Path, *, with_checksum: bool = True) -> GroundTruth:
    """Read `ground_truth.csv`, a row per query and judged photo.

    Raises `InputError` where it is not such a file, a box is none, a grade is none of one protocol's, or a
    photo has two grades.
    """
    truth: GroundTruth = {}
    grades: set[str] = set()
    table = tables.read(
        path, HEADER, wrong="has {count} columns, expected {columns}", with_checksum=with_checksum
    )
    for number, *row in table.itertuples(name=None):
        place = f"{path}, row {number}"
        query_path, *box, image_path, grade = row
        if not query_path or not image_path:
            raise InputError(f"{place}: {row} names no query or no image")
        grades.add(grade)
        if not any(grades <= set(allowed) for allowed in GRADES.values()):
            raise InputError(
                f"{place}: the relevance is {grade!r}; a file has either good, ok, junk or easy, hard, junk"
            )
        judged = truth.setdefault(Query(query_path, parse_box(box, place)), {})
        if judged.setdefault(image_path, grade) != grade:
            raise InputError(f"{place}: {image_path} is {grade} here and {judged[image_path]} above")
    return truth


def write(path: Path, truth: GroundTruth, *, with_checksum: bool = True) -> None:
    """Write `ground_truth.csv`, sorted by query and photo."""
    tables.write(
        path,
        HEADER,
        (
            (query.image_path, *box_columns(query.box), image_path, grade)
            for query in in_order(truth)
            for image_path, grade in sorted(truth[query].items())
        ),
        with_checksum=with_checksum,
    )


def in_order(queries: Iterable[Query]) -> list[Query]:
    """The `queries` by path, those of one photo by box, the whole photo first."""
    return sorted(queries, key=lambda query: (query.image_path, query.box or ()))


def check(truth: GroundTruth, photos: Sequence[Photo], rejected: Iterable[str]) -> None:
    """Hold `truth` against the photos there are; `rejected` are the paths of files that are none.

    A query that is no photo, or whose box has none of it, and a judged photo that there is no file of are
    an `InputError`. A judged photo that is broken is a warning: it stays a positive that is never found.
    """
    paths = {photo.image_path for photo in photos}
    broken = set(rejected) - paths
    judged = {path for grades in truth.values() for path in grades}
    for query in in_order(truth):
        if query.image_path not in paths:
            why = "a rejected file" if query.image_path in broken else "no photo of the dataset"
            raise InputError(f"ground truth: the query {query.image_path} is {why}")
        if query.box:
            images.read(images.Crop(Path(query.image_path), query.box))
    unknown = sorted(judged - paths - broken)
    if unknown:
        raise InputError(
            f"ground truth: {len(unknown)} judged photos are not in the dataset, {unknown[0]} is the first"
        )
    if judged & broken:
        log.warning("%d photos of the ground truth were rejected; none will be found", len(judged & broken))


def located(truth: GroundTruth, folder: Path) -> GroundTruth:
    """`truth` with the paths of the photos below `folder` in place of their names without ending.

    Raises `InputError` where a photo is not there, or two have its name.
    """
    names = {query.image_path for query in truth} | {name for judged in truth.values() for name in judged}
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.stem in names and path.is_file():
            first = files.setdefault(path.stem, path.as_posix())
            if first != path.as_posix():
                raise InputError(
                    f"{path.as_posix()}: has the name of {first}, which the ground truth knows it by"
                )
    missing = sorted(names - files.keys())
    if missing:
        raise InputError(
            f"{folder.as_posix()}: {len(missing)} of the {len(names)} photos of the ground truth are not in "
            f"it, {missing[0]}.jpg is the first; are these the photos that it was made for?"
        )
    return {
        Query(files[query.image_path], query.box): {files[name]: grade for name, grade in judged.items()}
        for query, judged in truth.items()
    }


def read_oxford(source: Path) -> GroundTruth:
    """Read the files of Oxford5k or Paris6k, from their folder or their archive; photos by name.

    `<query>_query.txt` has the name of a photo, in Oxford5k after `oxc1_`, and the corners of the box;
    `<query>_good.txt`, `_ok.txt` and `_junk.txt` a name a line. Raises `InputError` where a file is missing
    or says something else.
    """
    texts = _texts(source)
    names = sorted(name.removesuffix("_query.txt") for name in texts if name.endswith("_query.txt"))
    if not names:
        raise InputError(f"{source}: no files like all_souls_1_query.txt in it")
    truth: GroundTruth = {}
    for name in names:
        words = texts[f"{name}_query.txt"].split()
        if len(words) != 1 + len(BOX):
            raise InputError(f"{source}: {name}_query.txt is not the name of a photo and four corners")
        box = parse_box(words[1:], f"{source}: {name}_query.txt")
        judged: dict[str, str] = {}
        for grade in GRADES["oxford"]:
            try:
                judged |= dict.fromkeys(texts[f"{name}_{grade}.txt"].split(), grade)
            except KeyError:
                raise InputError(f"{source}: there is {name}_query.txt but no {name}_{grade}.txt") from None
        truth[Query(words[0].removeprefix("oxc1_"), box)] = judged
    return truth


_LIST = re.compile(r".+_(query|good|ok|junk)\.txt")


def _texts(source: Path) -> dict[str, str]:
    """The text files of the ground truth by name; an archive is read in memory, nothing is unpacked."""
    if source.is_dir():
        contents = {path.name: path.read_bytes() for path in source.rglob("*") if _LIST.fullmatch(path.name)}
    else:
        with fetching.opened(source, fetching.OF_TEXTS) as members:
            contents = {
                Path(member.name).name: content.read()
                for member, content in members
                if content and _LIST.fullmatch(Path(member.name).name)
            }
    return {name: content.decode("utf-8", "replace") for name, content in contents.items()}


def read_revisited(source: Path) -> GroundTruth:
    """Read a `gnd_*.pkl` of the revisited datasets; photos by name.

    It holds `imlist` and `qimlist`, the names of the index photos and of the queries, and `gnd`, for each
    query `bbx` and, as places in `imlist`, `easy`, `hard` and `junk`. Raises `InputError` where it does not,
    or would build more than containers and arrays.
    """
    content = load_plain(source)
    try:
        names, queries, judgements = content["imlist"], content["qimlist"], content["gnd"]
        truth = {
            Query(str(name), _box(judgement["bbx"], f"{source}: {name}")): {
                _at(names, place): grade for grade in GRADES["revisited"] for place in judgement[grade]
            }
            for name, judgement in zip(queries, judgements, strict=True)
        }
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{source}: not the ground truth of a revisited dataset ({error!r})") from None
    return truth


def _box(corners: Any, place: str) -> Box | None:
    return parse_box([str(float(corner)) for corner in corners], place)


def _at(names: Sequence[str], place: Any) -> str:
    if not 0 <= int(place) < len(names):
        raise ValueError(f"place {place} of {len(names)} photos")
    return str(names[int(place)])


def load_plain(path: Path) -> Any:
    """Load a pickle that builds nothing but plain containers, numbers, text and NumPy arrays.

    Raises `InputError` where it names any other class or function, before that is looked up.
    """
    try:
        return _Plain(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a broken pickle raises whatever its bytes happen to lead to
        raise InputError(f"{path}: not a whole pickle ({type(error).__name__}: {error})") from None


def _latin1(text: str, encoding: str) -> bytes:
    """What protocol 2 pickles bytes with; no other codec, since some decompress."""
    if encoding != "latin1":
        raise InputError(f"it encodes text as {encoding!r}, only latin1 is allowed")
    return text.encode("latin1")


_ARRAY = np.empty(0)
_PLAIN: Mapping[tuple[str, str], Any] = {
    ("_codecs", "encode"): _latin1,
    **{(module, "bytes"): lambda: b"" for module in ("builtins", "__builtin__")},  # protocol 2 for no bytes
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # NumPy 2 has moved what pickles of NumPy 1 call numpy.core.
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _ARRAY.__reduce__()[0]),
            ("multiarray", "scalar", np.float64(0).__reduce__()[0]),
            ("numeric", "_frombuffer", _ARRAY.__reduce_ex__(5)[0]),
        )
    },
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PLAIN[module, name]
        except KeyError:
            raise InputError(
                f"it would run {module}.{name}; only containers, numbers, text and NumPy arrays are allowed"
            ) from None
