"""Draw contact sheets of some queries, and of those that were answered worst, and a page of both."""

from pathlib import Path

import numpy as np

from landmarks import params
from landmarks.errors import run
from landmarks.files import filling
from landmarks.photos import ground_truth
from landmarks.scoring import gallery, measures, protocols
from landmarks.searching import rankings

FOLDER = Path("reports/gallery")


def main() -> None:
    options = params.load()
    with rankings.opened(Path("rankings/reranked.h5")) as ranked, filling(FOLDER) as folder:
        truth = ground_truth.read(Path("data/ground_truth.csv"))
        report = protocols.score(
            ranked,
            truth,
            options.evaluate.protocol,
            options.evaluate.queries_in_index,
            options.evaluate.reject_above,
            options.retrieve.memory << 20,
        )
        precision = report.average_precision
        count = min(options.gallery.queries, len(precision))
        drawn = np.random.default_rng(options.gallery.seed).choice(len(precision), count, replace=False)
        worst = np.argsort(precision, kind="stable")[:count]
        sections = {
            name: [tiles(ranked, report, query, options.gallery.results) for query in queries]
            for name, queries in (("sample", sorted(drawn)), ("worst", worst))
        }
        for name, rows in sections.items():
            (folder / name).mkdir()
            for place, row in enumerate(rows, 1):
                gallery.contact_sheet(row).save(folder / name / f"{place:02}.jpg", quality=85)
                if options.gallery.matches:
                    asked, *found = (tile.photo for tile in row)
                    sheet = gallery.match_sheet(asked, found, options.rerank_options.geometric)
                    sheet.save(folder / name / f"{place:02}_matches.jpg", quality=85)
        metrics = {
            name: f"{value:.3f}" if isinstance(value, float) else value
            for name, value in report.metrics(0).items()
        }
        made_by = {"model": ranked.attributes.get("backbone", "vlad")}
        made_by |= {name: ranked.attributes[name] for name in ("distance", "rerank")}
        page = gallery.page(
            f"Landmark retrieval: {options.dataset}",
            metrics | made_by,
            {"Queries drawn at random": sections["sample"], "Queries answered worst": sections["worst"]},
        )
        (folder / "index.html").write_text(page, encoding="utf-8")


def tiles(ranked: rankings.Rankings, report: measures.Report, query: int, results: int) -> list[gallery.Tile]:
    photo = ranked.queries[query]
    precision, predicted = report.average_precision[query], report.predicted[query]
    lines = [photo.class_image, f"AP {precision:.2f}, taken for {predicted}"]
    row = [gallery.Tile(photo.source, lines, None)]
    [rows], [distances] = ranked.block(slice(query, query + 1))
    for place, distance in zip(rows[:results], distances, strict=False):
        if place != rankings.NO_ROW:
            found = ranked.index[place]
            lines = [found.class_image, f"{distance:.4f}"]
            row.append(gallery.Tile(found.source, lines, report.shows(query, found)))
    return row


if __name__ == "__main__":
    run(main)
