"""Score the rankings: the metrics, the plots behind them, and the first results for people to read."""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from landmarks import files, params, tables
from landmarks.errors import run
from landmarks.photos import catalog, ground_truth
from landmarks.scoring import measures, protocols, reports
from landmarks.searching import rankings

REPORTS = Path("reports")
SHOWN = 10


def main() -> None:
    files.sweep()
    options = params.load()
    memory = options.retrieve.memory << 20
    with rankings.opened(Path("rankings/reranked.h5")) as ranked:
        truth = ground_truth.read(Path("data/ground_truth.csv"))
        report = protocols.score(
            ranked,
            truth,
            options.evaluate.protocol,
            options.evaluate.queries_in_index,
            options.evaluate.reject_above,
            memory,
        )
        write(reports.RESULTS, results(ranked, report, memory))
    write_plots(report)
    warn_of_ties(report)
    metrics = report.metrics(options.evaluate.bootstrap)
    with files.replacing(REPORTS / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    logging.info(json.dumps(metrics))


def warn_of_ties(report: measures.Report) -> None:
    ties = np.count_nonzero(report.tied)
    if ties > len(report.tied) / 2:
        logging.warning(
            "%d of %d queries are equally far from all of their nearest results, whose order is then that of "
            "their paths: photos are described alike, and the figures mean nothing",
            *(ties, len(report.tied)),
        )


def write(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    tables.write(REPORTS / path, reports.HEADERS[path], rows)


def results(ranked: rankings.Rankings, report: measures.Report, memory: int) -> Iterator[tuple[object, ...]]:
    for part, block in ranked.blocks(memory, measures.BYTES_A_RESULT):
        queries = zip(ranked.queries[part], report.predicted[part], *block, strict=True)
        for query, predicted, rows, distances in queries:
            for rank, (row, distance) in enumerate(zip(rows[:SHOWN], distances, strict=False), 1):
                if row != rankings.NO_ROW:
                    yield *query[:2], predicted, rank, f"{distance:.6g}", *ranked.index[row][:2]


def write_plots(report: measures.Report) -> None:
    names, numbers = catalog.numbered(report.classes)
    accuracy = measures.mean_by_class(report.right, numbers)
    precision = measures.mean_by_class(report.average_precision, numbers)
    counts = np.bincount(numbers)
    by_class = (
        (name, counts[number], f"{accuracy[number]:.6f}", f"{precision.get(number, np.nan):.6f}")
        for number, name in enumerate(names)
    )
    write(reports.CLASSES, by_class)
    write(reports.CONFUSION, zip(report.classes, report.predicted, strict=True))
    curve = ((f"{r:.2f}", f"{p:.6f}") for r, p in zip(measures.RECALLS, report.curve, strict=True))
    write(reports.CURVE, curve)


if __name__ == "__main__":
    run(main)
