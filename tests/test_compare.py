"""The table over experiments, from what `dvc exp show --json` prints."""

import io
import json
from pathlib import Path
from statistics import stdev

import pytest

from benchmarks import compare
from benchmarks.compare import by_settings, csv_rows, table, where
from landmarks.errors import InputError


def experiment(seed, score, **changed):
    params = {"distance": "L1", "rerank": "one", "seed": seed, "split": {"test": 0.34}} | changed
    metrics = {"map": score, "accuracy": score / 2}
    data = {
        "params": {"params.yaml": {"data": params}},
        "metrics": {"reports/metrics.json": {"data": metrics}},
    }
    return {"revs": [{"data": data}], "executor": None}


def shown(*experiments):
    """The workspace, which is left out, and the experiments of two commits."""
    return [
        {"rev": "workspace", "experiments": None},
        {"rev": "4340ad4", "experiments": [*experiments[:1]]},
        {"rev": "1a5792a", "experiments": [*experiments[1:]]},
    ]


ONE = [experiment(seed, score) for seed, score in enumerate([0.75, 0.80, 0.79])]
AQE = [experiment(seed, score, rerank="aqe") for seed, score in enumerate([0.78, 0.84, 0.82])]


def test_experiments_that_differ_in_the_seed_alone_are_one_row_with_mean_and_spread():
    header, rows = table(by_settings(shown(*AQE, *ONE)))
    assert header == ["rerank", "seeds", "map", "accuracy"]
    deviations = stdev([0.75, 0.80, 0.79]), stdev([0.78, 0.84, 0.82])
    assert rows == [
        ["one", "3", f"0.780 ± {deviations[0]:.3f}", f"0.390 ± {deviations[0] / 2:.3f}"],
        ["aqe", "3", f"0.813 ± {deviations[1]:.3f}", f"0.407 ± {deviations[1] / 2:.3f}"],
    ]
    assert next(csv_rows(header, rows)) == ["one", "0.780", "0.026", "0.390", "0.013", "3", ""]


def test_seconds_of_re_ranking_stand_beside_the_method_that_took_them():
    header, rows = table(by_settings(shown(*AQE, *ONE)), seconds={"rerank": "seconds", "aqe": "0.120"})
    assert [dict(zip(header, row, strict=True))["seconds"] for row in rows] == ["", "0.120"]
    assert [row[-1] for row in csv_rows(header, rows)] == ["", "0.120"]


def test_tables_are_read_and_written_as_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare.py", "--seconds", "~seconds.csv", "--csv", "new/table.csv"])
    for content in ('rerank,seconds\naqe,0.120\n"one",3\n', "rerank,seconds\r\none,3\r\naqe,0.120"):
        Path("~seconds.csv").write_text(content)
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(shown(*AQE, *ONE))))
        compare.main()
        assert Path("new/table.csv").read_bytes() == (
            b"method,map,map_spread,accuracy,accuracy_spread,seeds,seconds\n"
            b"one,0.780,0.026,0.390,0.013,3,3\naqe,0.813,0.031,0.407,0.015,3,0.120\n"
        )
    Path("~seconds.csv").write_text("rerank,seconds\none\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(shown(*AQE, *ONE))))
    with pytest.raises(InputError, match=r"^~seconds\.csv, row 2: \['one'\] is not rerank, seconds$"):
        compare.main()


def test_the_gain_is_taken_seed_by_seed_over_the_seeds_that_both_have():
    header, rows = table(by_settings(shown(*ONE, *AQE[:2])), ["rerank=one"])
    gains = {row[0]: row[header.index("gain")] for row in rows}
    assert gains == {"one": "", "aqe": f"+0.035 ± {stdev([0.03, 0.04]):.3f}"}


def test_each_row_is_compared_with_the_one_that_differs_in_that_parameter_alone():
    others = [experiment(0, 0.5, distance="L2"), experiment(0, 0.6, distance="L2", rerank="aqe")]
    header, rows = table(by_settings(shown(*ONE, *AQE, *others)), ["rerank=one"])
    assert header[:2] == ["distance", "rerank"]
    assert [row[:2] for row in rows] == [["L1", "one"], ["L1", "aqe"], ["L2", "one"], ["L2", "aqe"]]
    assert rows[3][4] == "+0.100 ± nan"


def test_all_rows_can_be_compared_with_a_single_one():
    others = [experiment(0, 0.85, distance="L2", rerank="aqe"), experiment(0, 0.5, distance="L2")]
    header, rows = table(by_settings(shown(*ONE, *others)), ["rerank=one", "distance=L1"])
    gains = {tuple(row[:2]): row[header.index("gain")] for row in rows}
    assert gains == {("L1", "one"): "", ("L2", "one"): "-0.250 ± nan", ("L2", "aqe"): "+0.100 ± nan"}


def test_sections_are_told_apart_by_their_parameters():
    runs = by_settings(shown(*ONE, experiment(0, 0.9, split={"test": 0.2})))
    assert table(runs)[0][0] == "split.test"


def test_experiments_that_wait_run_or_failed_are_left_out_though_they_show_metrics_of_their_parent(capsys):
    # As dvc does; only those of the queue have an executor.
    others = [
        experiment(seed, 0.9) | {"executor": {"state": state}}
        for seed, state in enumerate(["queued", "running", "failed", "success"], 3)
    ]
    runs = by_settings(shown(*ONE, *others))
    assert [sorted(seeds) for seeds in runs.values()] == [[0, 1, 2, 6]]
    assert capsys.readouterr().err == "3 experiments that wait, run or failed are left out\n"


def test_conditions_choose_among_the_experiments():
    other = experiment(0, 0.9, split={"test": 0.2})
    runs = by_settings(shown(*ONE, *AQE, other))
    assert [len(where(runs, some)) for some in ([], ["split.test=0.34"], ["split.test=0.2"])] == [3, 2, 1]
    assert not where(runs, ["split.test=0.2", "rerank=aqe"])
