"""The experiments of `dvc exp run` in one table: mean and spread over the seeds of the split.

dvc exp show --json | python benchmarks/compare.py --against rerank=one --seconds seconds.csv --csv table.csv

Experiments that differ in `seed` alone are one row, which names the parameters in which rows differ.
Spread is the standard deviation over the seeds. The gain is the mean difference of map to the row that
is the same but for each `--against`, seed by seed, so that what a split does to both is not taken for noise.
Seconds are those of re-ranking, as benchmarks/rerank.py wrote them; experiments themselves hold none, for
results that change with the machine could not be reproduced.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from landmarks import tables
from landmarks.errors import run

COLUMNS = ("method", "map", "map_spread", "accuracy", "accuracy_spread", "seeds", "seconds")
SECONDS = ("rerank", "seconds")

Settings = tuple[tuple[str, str], ...]
Runs = dict[Settings, dict[int, dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--against",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="each row is compared with the one that is the same but for these",
    )
    parser.add_argument("--where", metavar="NAME=VALUE", action="append", default=[], help="only these")
    parser.add_argument("--seconds", type=Path, help="the file that benchmarks/rerank.py --csv wrote")
    parser.add_argument("--csv", type=Path, help="also write the table there, for `dvc plots`")
    options = parser.parse_args()
    runs = where(by_settings(json.load(sys.stdin)), options.where)
    if not runs:
        sys.exit("error: no finished experiments; dvc exp run --queue and --run-all make them")
    seconds: dict[str, str] = {}
    if options.seconds:
        timed = tables.read(options.seconds, SECONDS, made_by="benchmarks/rerank.py --csv")
        seconds = dict(zip(timed["rerank"], timed["seconds"], strict=True))
    header, rows = table(runs, options.against, seconds)
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    if options.csv:
        tables.write(options.csv, COLUMNS, csv_rows(header, rows))


def by_settings(shown: Sequence[Mapping[str, Any]]) -> Runs:
    """The metrics of each finished experiment by its parameters but `seed`, then by seed."""
    runs: Runs = {}
    unfinished = 0
    for commit in shown:
        for experiment in commit["experiments"] or []:
            # One that runs or has failed shows the metrics of the commit that it started from.
            if (experiment["executor"] or {}).get("state", "success") != "success":
                unfinished += 1
                continue
            data = experiment["revs"][0]["data"]
            metrics = data["metrics"]["reports/metrics.json"]["data"]
            params = dict(flattened(data["params"]["params.yaml"]["data"]))
            seed = int(params.pop("seed"))
            runs.setdefault(tuple(sorted(params.items())), {})[seed] = metrics
    if unfinished:
        print(f"{unfinished} experiments that wait, run or failed are left out", file=sys.stderr)
    return runs


def where(runs: Runs, conditions: Sequence[str]) -> Runs:
    """Those that meet all `conditions`, as in `split.test=0.34`."""
    wanted = {tuple(condition.split("=", 1)) for condition in conditions}
    return {some: runs[some] for some in runs if wanted <= set(some)}


def flattened(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`("split.test", "0.2")` and so on."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value)


def table(
    runs: Runs, against: Sequence[str] = (), seconds: Mapping[str, str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and rows, sorted by the parameters that differ and, within the last of them, by map.

    `seconds`: of each way to re-rank.
    """
    settings = [dict(some) for some in runs]
    differing = [name for name in settings[0] if len({some.get(name) for some in settings}) > 1]
    header = [*differing, "seeds", "map", *(["gain"] if against else []), "accuracy"]
    header += ["seconds"] if seconds else []

    def order(some: Settings) -> tuple[list[str], float]:
        return [dict(some)[name] for name in differing[:-1]], spread(runs[some], "map")[0]

    rows = []
    for some in sorted(runs, key=order):
        row = [dict(some)[name] for name in differing]
        row += [str(len(runs[some])), shown(*spread(runs[some], "map"))]
        if against:
            twin = dict(some) | dict(setting.split("=", 1) for setting in against)
            other = tuple(sorted(twin.items()))
            row.append("" if other == some else gain(runs[some], runs.get(other, {})))
        row.append(shown(*spread(runs[some], "accuracy")))
        rows.append([*row, seconds.get(dict(some)["rerank"], "")] if seconds else row)
    return header, rows


def spread(by_seed: Mapping[int, Mapping[str, float]], metric: str) -> tuple[float, float]:
    """Mean and standard deviation, which is NaN of one seed."""
    values = [metrics[metric] for metrics in by_seed.values()]
    return fmean(values), stdev(values) if len(values) > 1 else float("nan")


def gain(ours: Mapping[int, Mapping[str, float]], others: Mapping[int, Mapping[str, float]]) -> str:
    """The difference of map on the seeds that both have."""
    both = {seed: {"map": ours[seed]["map"] - others[seed]["map"]} for seed in ours.keys() & others.keys()}
    return shown(*spread(both, "map"), sign="+") if both else ""


def shown(mean: float, deviation: float, sign: str = "") -> str:
    """`0.783 ± 0.005`."""
    return f"{mean:{sign}.3f} ± {deviation:.3f}"


def csv_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The table with means and spreads apart, and one name a row."""
    for row in rows:
        of = dict(zip(header, row, strict=True))
        name = " ".join(row[: header.index("seeds")])
        means = [*of["map"].split(" ± "), *of["accuracy"].split(" ± ")]
        yield [name, *means, of["seeds"], of.get("seconds", "")]


if __name__ == "__main__":
    run(main)
