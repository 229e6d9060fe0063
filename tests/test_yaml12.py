import errno
import os
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import ParseError, load_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks import params, yaml12
from landmarks.errors import InputError

COMMITTED = Path(__file__).parents[1] / "params.yaml"


TEXTS = ("dataset", "backbone", "weights", "pretrained.layer")


def texts_set_by_dvc(path, values):
    """Load the committed parameters with `TEXTS` set as by `dvc exp run -S`."""
    path.write_bytes(COMMITTED.read_bytes())
    apply_overrides(path, [f"{name}={value}" for name, value in zip(TEXTS, values, strict=True)])
    loaded = params.load(path)
    return [loaded.dataset, loaded.backbone, loaded.weights, loaded.pretrained.layer]


@pytest.mark.parametrize(
    "values",
    [
        ("2023-05", "007", "2024-05-06", "yes"),
        ("no", "12:30", "0x1F", "my photos"),
        ('"2024"', '"1e3"', '"true"', '"null"'),
        ('"no"', '"12:30:15"', '"1_000"', '".5"'),
        ('"我的 照片"', '"Huế"', '"a,b=c"', '"x # 1"'),
    ],
)
def test_text_that_dvc_sets_is_read_as_it_was_given(tmp_path, values):
    assert texts_set_by_dvc(tmp_path / "params.yaml", values) == [value.strip('"') for value in values]


@pytest.mark.parametrize(
    ("values", "seen", "quoted"),
    [
        (
            ("2024", "1e3", "true", "null"),
            ("2024", "1000.0", "True", "None"),
            ("2024", "1000.0", "true", "null"),
        ),
        (("1_0", "inf", "FALSE", "-7"), ("10", "inf", "False", "-7"), ("10", "inf", "false", "-7")),
    ],
)
def test_text_that_dvc_takes_for_something_else_is_refused_with_how_to_quote_it(
    tmp_path, values, seen, quoted
):
    path = tmp_path / "params.yaml"
    with pytest.raises(InputError) as caught:
        texts_set_by_dvc(path, values)
    assert str(caught.value).splitlines() == [
        f"{path}: {name}: {was} is not allowed: input should be a valid string; quote what is meant, as in "
        f'-S \'{name}="{text}"\', or {name.rpartition(".")[2]}: "{text}" in the file'
        for name, was, text in zip(TEXTS, seen, quoted, strict=True)
    ]
    assert texts_set_by_dvc(path, [f'"{text}"' for text in quoted]) == list(quoted)


SCALARS = (
    *("010", "012", "0o10", "0x1F", "0b11", "1:30", "190:20:30", "1_000", "+5", "-0", "08", "1e3", "1E3"),
    *("1e-05", "1e+05", ".5", "5.", "+.5", "1.", "1.5e3", "1_0.5", "0.1e", ".inf", "-.INF", ".nan", "inf"),
    *("no", "off", "yes", "On", "y", "n", "true", "True", "TRUE", "~", "null", "NULL", "", "None"),
    *("2001-01-01", "2001-12-14t21:59:43.10-05:00", "'010'", '"no"', "!!str 10", "!!int '10'", "!!float 1"),
    *("|\n  L1\n", ">-\n  L1\n", "[010, no]", "{a: 010, b: off}", "a b", "a #b", "a#b", "=", "<<", "0"),
)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789_+-.:eExXobnfyYtTrRuUlLsSaFN~'\"#&*!|>%@ ,[]{}\n", max_size=9))
def test_what_dvc_records_is_what_is_used(tmp_path_factory, scalar):
    check_like_dvc(tmp_path_factory.getbasetemp() / "like_dvc.yaml", f"seed: {scalar}\n")


@pytest.mark.parametrize(
    "text",
    [
        "common: &common {a: 010, b: no}\nsplit:\n  <<: *common\n  b: 1_000\n",
        "a: &x 0o17\nb: *x\n",
        "%YAML 1.1\n---\na: 010\nb: yes\n",
        "%YAML 1.2\n---\na: 010\nb: yes\n",
        "010: a\nno: b\n1.0: c\nnull: d\n",
        "a: !!set {x, y}\n",
        "\ufeffa: 1\n",
        "a: 1\r\nb: off\r\n",
        "a: é\n故宫: 1:30\n",
        COMMITTED.read_text(encoding="utf-8"),
        *(f"seed: {scalar}\n" for scalar in SCALARS),
    ],
)
def test_files_are_read_as_dvc_reads_them(tmp_path, text):
    check_like_dvc(tmp_path / "params.yaml", text)


def check_like_dvc(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    try:
        expected = load_yaml(path)
    except (ParseError, ValueError, AssertionError):
        expected = None
    try:
        found = yaml12.read(path)
    except InputError:
        found = None
    assert repr(found) == repr(expected)  # 1, 1.0 and True are equal


@pytest.mark.parametrize(
    ("text", "value"), [("010", 10), ("0o10", 8), ("+5", 5), ("1_000", 1000), ("0x1F", 31), ("08", 8)]
)
def test_whole_numbers_are_those_of_yaml_1_2(tmp_path, text, value):
    path = tmp_path / "params.yaml"
    path.write_text(COMMITTED.read_text(encoding="utf-8").replace("\nseed: 0", f"\nseed: {text}"))
    assert params.load(path).seed == value


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("seed: 1\na: 2\nseed: 3\n", ["seed is given twice, in lines 1 and 3; delete one"]),
        ("split:\n  test: 1\n  test: 1\n", ["test is given twice, in lines 2 and 3; delete one"]),
        ("{a: 1, a: 2}", ["a is given twice, in lines 1 and 1; delete one"]),
        ("'a': 1\n\n# more\na: 2\n", ["a is given twice, in lines 1 and 4; delete one"]),
        (
            "a: 1\nb: {c: 1,\n c: 1}\na: 1\na: 1\n",
            [
                "c is given twice, in lines 2 and 3; delete one",
                "a is given twice, in lines 1 and 4; delete one",
                "a is given twice, in lines 1 and 5; delete one",
            ],
        ),
        ("a: &x {b: *x, c: 1, c: 2}", ["c is given twice, in lines 1 and 1; delete one"]),
        ("a: [{b: 1, b: 2}]", ['found duplicate key "b" with value "2" (original value: "1"), line 1']),
    ],
)
def test_what_is_given_twice_is_refused_with_both_lines(tmp_path, text, messages):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        params.load(path)
    assert str(caught.value).splitlines() == [f"{path}: {message}" for message in messages]


def test_what_is_merged_may_be_given_again(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n")
    assert yaml12.read(path)["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"split: {train: 0.6", "not YAML"),
        (b"a: b: c", "not YAML"),
        ("dataset: Huế".encode("utf-16"), "not YAML"),
        (b"!!python/object/apply:os.system ['true']", "not YAML"),
        (b"a: !!int x", "not YAML: invalid literal"),
        (b"a: 2001-13-45", "not YAML: month must be in"),
        (b"a: !!omap [b: 1, b: 2]", "not YAML"),
        (b"a: \x01", "not YAML: unacceptable character"),
        (b"\ta: 1", "not YAML: .* line 1$"),
        (b"a:\n  b: *c", "not YAML: found undefined alias 'c', line 2$"),
        (b"a: 1\n---\nb: 2", "not YAML: but found another document, line 2$"),
        (b"[" * 1000, "not YAML: "),
        (b"", "holds no parameters"),
        (b"- distance\n- L1\n", "holds no parameters"),
    ],
)
def test_a_file_that_is_no_mapping_in_yaml_is_refused(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        params.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_run(tmp_path):
    path = tmp_path / "params.yaml"
    with pytest.raises(InputError, match="no such file; run this in the root") as caught:
        params.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_folder_in_its_place_is_told(tmp_path):
    with pytest.raises(InputError, match=r": cannot be read \(Is a directory\)$"):
        params.load(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_that_the_system_does_not_give_is_told(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_text", fail)
    path = tmp_path / "params.yaml"
    with pytest.raises(InputError) as caught:
        params.load(path)
    assert str(caught.value) == f"{path}: cannot be read ({os.strerror(number)})"
