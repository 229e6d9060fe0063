"""List the photos of the dataset, and the files that are not photos."""

import logging
from collections import Counter
from pathlib import Path

from landmarks import params, tables
from landmarks.errors import InputError, run
from landmarks.files import in_copy
from landmarks.photos import catalog, fetching, folders, ground_truth, near_copies, scanning


def main() -> None:
    options = params.load()
    images = Path("data", options.dataset, "images")
    judged = options.split.method == "ground_truth"
    # The ground truth says of copies, too, what they are.
    scan = scanning.scan(images, options.create_csv.max_pixels, keep_copies=judged)
    rejected = scan.rejected
    photos = named(scan.photos, options.create_csv.merge_alike)
    truth = read_truth(images.parent / "ground_truth.csv") if judged else {}
    ground_truth.check(truth, photos, [file.path for file in rejected])
    near = near_copies.find(photos, scan.hashes, scan.labels)
    ground_truth.write(Path("data/ground_truth.csv"), truth)
    catalog.write_catalog(Path("data/catalog.csv"), photos, scan.contents)
    tables.write(Path("data/near_copies.csv"), catalog.Near._fields, near)
    tables.write(Path("data/rejected.csv"), catalog.Rejected._fields, rejected)
    classes = {photo.class_image for photo in photos}
    logging.info("%d photos of %d landmarks", len(photos), len(classes))
    if told := folders.outside(images, (photo.image_path for photo in photos)):
        logging.info(told)
    if rejected:
        known = sum(Path(file.path).name in fetching.BROKEN for file in rejected)
        published = f" ({known} were published broken)" if known else ""
        logging.warning("%d files rejected%s, see data/rejected.csv", len(rejected), published)
    tell_near_copies(near)


def tell_near_copies(near: list[catalog.Near]) -> None:
    grouped = [photo.group for photo in near if photo.group]
    if grouped:
        logging.info(
            "%d photos are near-copies, in %d groups, see data/near_copies.csv",
            len(grouped),
            len(set(grouped)),
        )
    across = [photo for photo in near if photo.elsewhere]
    if across:
        logging.warning(
            "%d photos are near-copies of photos of other landmarks, as %s is of %s; are they in the right "
            "folders? See data/near_copies.csv",
            *(len(across), across[0].image_path, across[0].elsewhere),
        )


def named(photos: list[catalog.Photo], merge: bool) -> list[catalog.Photo]:
    """`photos`, those of landmarks whose names are alike with the name that most of them have if `merge`."""
    counts = Counter(photo.class_image for photo in photos)
    names: dict[str, str] = {}
    for group in folders.alike(counts):
        spelled = folders.spelled(group, counts, "photo")
        if merge:
            logging.info("one landmark, named %a: %s", group[0], spelled)
            names |= dict.fromkeys(group, group[0])
        else:
            logging.warning("alike: %s; create_csv.merge_alike: true makes them one landmark", spelled)
    return [photo._replace(class_image=names.get(photo.class_image, photo.class_image)) for photo in photos]


def read_truth(path: Path) -> ground_truth.GroundTruth:
    if not path.exists():
        first = f"; DVC runs this in a copy of what Git tracks, so first: git add {path} && git commit"
        raise InputError(
            f"{path}: no such file, but split.method is ground_truth; `landmarks ground-truth` makes it from "
            f"published files, docs/ground-truth.md says how to write one{first * in_copy()}"
        )
    return ground_truth.read(path, with_checksum=False)


if __name__ == "__main__":
    run(main)
