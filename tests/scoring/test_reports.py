import pytest

from landmarks import tables
from landmarks.errors import DamagedError, InputError
from landmarks.photos.catalog import Photo
from landmarks.scoring import reports
from landmarks.scoring.reports import Found, Query
from landmarks.tables import checksum_of


def query(classes, of="A"):
    found = [Found(rank, 0.0, Photo(str(rank), name)) for rank, name in enumerate(classes, 1)]
    return Query(0, Photo("q", of), of, found)


def test_precision_over_the_results_kept_is_as_worked_out_by_hand():
    assert query("ABAB").precision({"A": 2}) == pytest.approx((1 + 2 / 3) / 2)
    assert query("BBBA").precision({"A": 1}) == 1 / 4
    assert query("AB").precision({"A": 9}) == 1 / 2  # two of nine fit, one is there
    assert query("BB").precision({"A": 1}) == 0
    assert query("BB").precision({"B": 1}) is None


def test_landmarks_of_any_name_are_read_as_they_were_written(tmp_path):
    names = ["a,b", 'the "old" one', "001", "NA", "故宫", "two\u2028lines", "new\nline"]
    (tmp_path / "metrics.json").write_text("{}")
    scores = [(name, 1, 0.5, "nan") for name in names]
    tables.write(tmp_path / reports.CLASSES, ("class", "queries", "accuracy", "average_precision"), scores)
    tables.write(tmp_path / reports.CONFUSION, ("actual", "predicted"), [(name, "NA") for name in names * 2])
    tables.write(tmp_path / reports.CURVE, ("recall", "precision"), [(0, 1)])
    header = ("query_path", "query_class", "predicted_class", "rank", "distance", "image_path", "class_image")
    rows = [(name, name, "NA", rank, "inf", "i", name) for name in names for rank in (1, 2)]
    tables.write(tmp_path / reports.RESULTS, header, rows)
    read = reports.read(tmp_path)
    assert [score.landmark for score in read.scores] == names
    assert {pair.actual: pair.queries for pair in read.confusion} == dict.fromkeys(names, 2)
    assert [(one.number, one.photo.class_image, len(one.found)) for one in read.queries] == [
        (number, name, 2) for number, name in enumerate(names)
    ]


def test_a_broken_report_is_named(tmp_path):
    test_landmarks_of_any_name_are_read_as_they_were_written(tmp_path)
    for path in (reports.CLASSES, reports.CONFUSION, reports.CURVE, reports.RESULTS):
        whole = (tmp_path / path).read_bytes()
        (tmp_path / path).write_bytes(whole + b"a,row,more\n")
        checksum = checksum_of(tmp_path / path)
        with pytest.raises(DamagedError, match=f"^{tmp_path / path}: not as {checksum.name} says; "):
            reports.read(tmp_path)
        checksum.unlink()
        for content, reason in (
            (b"class,other\nA,1\n", "not as `evaluate`"),
            (b"\xff", "not as"),
            (b'h\n"', "not as"),
            (whole + b"short\n", r"not as `evaluate` writes it \(row \d+: \['short'\] is not .*\); run"),
            (whole + b"\n", r"\(row \d+: \[\] is not"),
            (whole + b"l,o,n,g,e,r,t,h,a,n\n", r"\(row \d+: \['l', .*\] is not"),
            (
                whole + b"," * whole.split(b"\n")[0].count(b",") + b'"open\n',
                "its quotes do not enclose whole values",
            ),
        ):
            (tmp_path / path).write_bytes(content)
            with pytest.raises(InputError, match=reason) as error:
                reports.read(tmp_path)
            assert str(tmp_path / path) in str(error.value)
        (tmp_path / path).unlink()
        with pytest.raises(InputError, match="no such file"):
            reports.read(tmp_path)
        (tmp_path / path).write_bytes(whole)
