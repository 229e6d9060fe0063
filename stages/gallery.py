"""Draw contact sheets of some queries, and of those that were answered worst."""

import shutil
from pathlib import Path

import numpy as np

from landmarks import gallery, ground_truth, params, protocols, rankings, scoring
from landmarks.errors import run
from landmarks.files import explained

FOLDER = Path("reports/gallery")


def main() -> None:
    options = params.load()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with explained(FOLDER), rankings.opened(Path("rankings/reranked.h5")) as ranked:
        truth = ground_truth.read(Path("data/ground_truth.csv"))
        protocol, queries_in_index = options.evaluate.protocol, options.evaluate.queries_in_index
        report = protocols.score(ranked, truth, protocol, queries_in_index, options.evaluate.reject_above)
        precision = report.average_precision
        count = min(options.gallery.queries, len(precision))
        sample = np.random.default_rng(options.gallery.seed).choice(len(precision), count, replace=False)
        worst = np.argsort(precision, kind="stable")[:count]
        for kind, queries in (("sample", sorted(sample)), ("worst", worst)):
            for place, query in enumerate(queries, 1):
                sheet = gallery.contact_sheet(tiles(ranked, report, query, options.gallery.results))
                sheet.save(FOLDER / f"{kind}_{place:02}.jpg", quality=85)


def tiles(ranked: rankings.Rankings, report: scoring.Report, query: int, results: int) -> list[gallery.Tile]:
    photo = ranked.queries[query]
    precision, predicted = report.average_precision[query], report.predicted[query]
    lines = [photo.class_image, f"AP {precision:.2f}, taken for {predicted}"]
    row = [gallery.Tile(photo.source, lines, None)]
    for place, distance in zip(ranked.rows[query, :results], ranked.distances[query], strict=False):
        if place != rankings.NO_ROW:
            found = ranked.index[place]
            lines = [found.class_image, f"{distance:.4f}"]
            row.append(gallery.Tile(found.source, lines, report.shows(query, found)))
    return row


if __name__ == "__main__":
    run(main)
