import operator
import re
import shlex
from functools import reduce
from pathlib import Path

import pytest
import yaml
from pydantic import AfterValidator

import stages.split
from landmarks import errors, params, tables
from landmarks.errors import InputError
from landmarks.photos import catalog, splits
from landmarks.photos.catalog import Photo

COMMITTED = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def load_with(tmp_path):
    """Load the committed parameters with some changed and one deleted, named as in `split.test`."""

    def load(changes=None, delete=None):
        values = yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))

        def section(name):
            return reduce(operator.getitem, name.split(".")[:-1], values)

        for name, value in (changes or {}).items():
            section(name)[name.rpartition(".")[2]] = value
        if delete:
            del section(delete)[delete.rpartition(".")[2]]
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return params.load(path)

    return load


def test_the_committed_parameters_load_and_are_what_the_file_says():
    loaded = params.load(COMMITTED)
    assert loaded.model_dump(mode="json") == yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))


def test_the_committed_choices_keep_near_copies_together_and_neither_merge_nor_balance_landmarks():
    loaded = params.load(COMMITTED)
    chosen = loaded.split.near_copies, loaded.create_csv.merge_alike, loaded.finetuned.sampling
    assert chosen == ("together", False, "instance_balanced")


@pytest.mark.parametrize(
    "changes",
    [
        {"split.train": 0, "split.val": 0, "split.test": 0.34, "split.index": 0.66},
        {"split.train": 0, "split.val": 0, "split.test": 0, "split.index": 1},
        {"split.train": 0.1, "split.val": 0.2, "split.test": 0.3, "split.index": 0.4},
        {"retrieve.depth": 5, "evaluate.reject_above": 0.5, "split.near_copies": "ignore"},
        {"split.method": "ground_truth"},
        {"split.method": "ground_truth", "evaluate.protocol": "revisited"},
        {"split.method": "ground_truth", "evaluate.protocol": "oxford", "evaluate.queries_in_index": True},
        {"dataset": "vietnam5", "weights": "models/my resnet.pth.tar", "seed": 2**32 - 1},
    ],
    ids=str,
)
def test_allowed_values_load(load_with, changes):
    loaded = load_with(changes).model_dump()
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        assert (loaded[section] if section else loaded)[key] == value


@pytest.mark.parametrize("document", ["README.md", "docs/benchmarks-oxford-paris.md", "docs/ground-truth.md"])
def test_the_settings_of_documented_experiments_are_allowed(load_with, document):
    text = (COMMITTED.parent / document).read_text(encoding="utf-8")
    lines = [line for line in re.findall(r"^dvc exp run -S .*", text, re.MULTILINE) if "--queue" not in line]
    assert lines
    for line in lines:
        settings = [word.split("=", 1) for word in shlex.split(line) if "=" in word]
        load_with({name: yaml.safe_load(value) for name, value in settings})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluate.protocol": "oxford"},
            "evaluate.protocol: oxford scores the queries of a ground truth; set split",
        ),
        (
            {"evaluate.protocol": "revisited"},
            "evaluate.protocol: revisited scores the queries of a ground truth",
        ),
        (
            {"split.method": "ground_truth", "evaluate.queries_in_index": True},
            "evaluate.queries_in_index: true is how evaluate.protocol: oxford was published, with classes it",
        ),
        (
            {
                "split.method": "ground_truth",
                "evaluate.protocol": "revisited",
                "evaluate.queries_in_index": True,
            },
            "with revisited it must be false",
        ),
    ],
)
def test_values_that_make_no_sense_together_are_refused(load_with, tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        load_with(changes)
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: evaluate.")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("distance", "L4", "'L1', 'L2' or 'L3'"),
        ("distance", "l1", "'L1', 'L2' or 'L3'"),
        ("rerank", "three", "allowed are one, dba, aqe,"),
        ("rerank", "two+dba", "put two last"),
        ("rerank_options.shortlist", 5001, "less than or equal to 5000"),
        ("rerank_options.diffusion.alpha", 1.0, "less than 1"),
        ("rerank_options.geometric.features", "surf", "'sift' or 'orb'"),
        ("model", "resnet", "'pretrained'"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**32, "less than 4294967296"),
        ("seed", 1.5, "integer"),
        ("seed", True, "integer"),
        ("seed", "7", "integer"),
        ("dataset", "../elsewhere", "pattern"),
        ("dataset", ".hidden", "pattern"),
        ("dataset", "", "pattern"),
        ("backbone", "", "at least 1 character"),
        ("backbone", 50, "string"),
        ("weights", None, "string"),
        ("split", 0.5, "dictionary"),
        ("split.train", "0.6", "number"),
        ("split.train", 1.5, "less than or equal to 1"),
        ("split.test", -0.1, "greater than or equal to 0"),
        ("split.index", float("nan"), "less than or equal to 1"),
        ("split.near_copies", "apart", "'together' or 'ignore'"),
        ("demo.classes", 11, "less than or equal to 10"),
        ("demo.photos", 0, "greater than or equal to 1"),
        ("create_csv.max_pixels", 0, "greater than or equal to 1"),
        ("pretrained.image_size", 16, "greater than or equal to 32"),
        ("pretrained.image_size", 10000, "less than or equal to 4096"),
        ("pretrained.layer", "", "at least 1 character"),
        ("pretrained.pooling", "mean", "'avg', 'max', 'gem' or 'rmac'"),
        ("finetuned.loss", "softmax", "'cross_entropy', 'arcface', "),
        ("finetuned.per_class", 1, "greater than or equal to 2"),
        ("finetuned.sampling", "balanced", "'instance_balanced', 'square_root' or 'class_balanced'"),
        ("finetuned.resize", "squash", "'stretch', 'crop', 'pad' or 'keep'"),
        ("pretrained.normalization", "L1", "'l1', 'l2', 'sqrt' or 'none'"),
        ("pretrained.flip", "no", "boolean"),
        ("pretrained.gem_p", 0.0, "greater than 0"),
        ("extract.batch_size", 0, "greater than or equal to 1"),
        ("retrieve.depth", 0, "greater than or equal to 1"),
        ("rerank_options.vote_depth", "all", "integer"),
        ("evaluate.reject_above", -0.5, "greater than or equal to 0"),
        ("evaluate.bootstrap", -1, "greater than or equal to 0"),
        ("gallery.queries", 0, "greater than or equal to 1"),
        ("gallery.results", [1], "integer"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(load_with, tmp_path, name, value, allowed):
    with pytest.raises(InputError) as caught:
        load_with({name: value})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'params.yaml'}: {name}: {value!r} is not allowed: ")
    assert allowed in message


@pytest.mark.parametrize(
    ("name", "suggestion", "others"),
    [
        ("distnace", "distance", "backbone"),
        ("Weights", "weights", "seed"),
        ("split.tset", "test", "near_copies"),
        ("retrieve.depht", "depth", "depth"),
        ("evaluate.rejectabove", "reject_above", "reject_above"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_name_that_was_meant(
    load_with, tmp_path, name, suggestion, others
):
    with pytest.raises(InputError) as caught:
        load_with({name: 1})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'params.yaml'}: {name}: no such parameter; ")
    assert f"did you mean {suggestion}? " in message
    assert others in message.partition("allowed here: ")[2].split(", ")


def test_a_name_like_no_other_is_refused_with_all_that_are_allowed(load_with):
    with pytest.raises(
        InputError, match=r"split\.zzz: no such parameter; allowed here: method, train, val, test, index"
    ):
        load_with({"split.zzz": 1})


@pytest.mark.parametrize("value", [True, False, None])
def test_a_parameter_that_is_gone_says_so(load_with, tmp_path, value):
    with pytest.raises(InputError) as caught:
        load_with({"split.allow_unmatched": value})
    assert str(caught.value) == (
        f"{tmp_path / 'params.yaml'}: split.allow_unmatched: is gone: what has queries now has index photos "
        "too; delete the line"
    )


@pytest.mark.parametrize("name", ["distance", "split", "split.val", "retrieve.depth"])
def test_a_missing_parameter_is_named(load_with, tmp_path, name):
    with pytest.raises(InputError) as caught:
        load_with(delete=name)
    assert str(caught.value) == f"{tmp_path / 'params.yaml'}: {name}: missing"


def test_fractions_that_do_not_sum_to_1_are_refused_with_their_sum(load_with):
    with pytest.raises(
        InputError, match=r"split: train, val, test and index sum to 1\.2, they must sum to 1"
    ):
        load_with({"split.test": 0.4})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 0.2}, "margin is 0.2, but loss is cross_entropy; it is for arcface, cosface, "),
        ({"loss": "triplet", "scale": 9.0}, "scale is 9.0, but loss is triplet; it is for arcface, "),
        ({"loss": "arcface", "miner": "batch_hard"}, "batch_hard, but loss is arcface; it is for triplet, "),
        ({"loss": "contrastive", "miner": "triplet_margin"}, "but loss is contrastive; it is for triplet$"),
        ({"loss": "arcface", "label_smoothing": 0.1}, "label_smoothing is 0.1, .*it is for cross_entropy$"),
        ({"loss": "triplet", "batch_size": 18}, r"batch_size is 18, but per_class says 4 .*make it 8, 12 or"),
        (
            {"per_class": 16},
            "batch_size is 16, but per_class says 16 photos .*make it 32, 48 or",
        ),
    ],
)
def test_an_option_that_the_loss_does_not_take_is_refused(load_with, changes, message):
    with pytest.raises(InputError, match=f"finetuned: .*{message}"):
        load_with({f"finetuned.{name}": value for name, value in changes.items()})


def test_losses_of_pairs_have_four_photos_of_a_landmark_in_a_batch(load_with):
    for loss, per_class, together in [
        ("triplet", None, 4),
        ("triplet", 8, 8),
        ("cross_entropy", None, None),
        ("arcface", None, None),
        ("arcface", 2, 2),
    ]:
        read = load_with({"finetuned.loss": loss, "finetuned.per_class": per_class})
        assert read.finetuned.together == together


def test_all_that_is_wrong_is_said_at_once(load_with):
    with pytest.raises(InputError) as caught:
        load_with({"distance": "L4", "split.test": -1, "color": "red"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for name in ("distance", "split.test", "color"):
        assert any(f"params.yaml: {name}: " in line for line in lines)


@pytest.fixture
def run_and_edit(tmp_path):
    """Run a stage that asks for `distance`, `split` and `retrieve.depth` while its file is edited."""

    def run(*edits):
        path = tmp_path / "params.yaml"
        text = COMMITTED.read_text(encoding="utf-8")
        path.write_text(text, encoding="utf-8")

        def main():
            options = params.load(path)
            assert options.split.test + options.split.index
            assert options.distance
            assert options.retrieve.depth is None
            edited = reduce(lambda text, edit: re.sub(*edit, text, count=1, flags=re.MULTILINE), edits, text)
            assert edited != text
            path.write_text(edited, encoding="utf-8")

        errors.run(main)

    return run


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ((r"^distance: L1", "distance: L3"), "distance was 'L1' and is 'L3'"),
        ((r"^  test: 0.2", "  test: 0.25"), "split.test was 0.2 and is 0.25"),
        ((r"^  depth: null", "  depth: 10"), "retrieve.depth was None and is 10"),
        ((r"^  method: classes .*", ""), "split.method was 'classes' and is None"),
        ((r"^distance: L1", "distance: nonsense"), "distance was 'L1' and is 'nonsense'"),
        ((r"^split:", "split: {}\nspilt:"), "split.index was 0.1 and is None, "),
    ],
)
def test_a_stage_fails_whose_parameters_changed_while_it_ran(run_and_edit, edit, told):
    with pytest.raises(SystemExit) as caught:
        run_and_edit(edit)
    message = str(caught.value.code)
    assert f"params.yaml: changed while this ran: {told}" in message
    assert "; run again. " in message
    assert "\n" not in message
    assert "--temp or --queue" in message


@pytest.mark.parametrize(
    ("edit", "told"),
    [((r"^seed:", "model: vlad\nseed:"), "model is given twice"), ((r"^seed:", "{"), "not YAML")],
)
def test_a_stage_fails_whose_parameters_cannot_be_read_any_more(run_and_edit, edit, told):
    with pytest.raises(SystemExit, match=f"error: .*params.yaml: {told}"):
        run_and_edit(edit)


@pytest.mark.parametrize(
    "edit",
    [
        (r"^seed: 0", "seed: 5"),
        (r"^  epochs: 12", "  epochs: 20"),
        (r"^  memory: 256", "  memory: 0x100"),
        (r"^distance: L1 .*", "distance: 'L1'  # that of the paper"),
        (r"^  test: 0.2", "  test: 2e-1"),
        (r"\A", "# mine\n"),
        (r"^(dataset: .*)\n(model: .*)", r"\2\n\1"),
    ],
)
def test_what_a_stage_did_not_ask_for_and_how_it_is_written_may_change(run_and_edit, edit):
    run_and_edit(edit)


def test_the_stage_split_fails_where_its_seed_changed_but_not_where_the_distance_did(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = [Photo(f"photos/{number}.jpg", "castle") for number in range(10)]
    catalog.write_photos(Path("data/catalog.csv"), photos)
    tables.write(Path("data/near_copies.csv"), catalog.Near._fields, [])
    really_split = splits.split

    def edited(old, new):
        text = COMMITTED.read_text(encoding="utf-8")
        params.PATH.write_text(text, encoding="utf-8")

        def edit_and_split(*arguments):
            params.PATH.write_text(text.replace(old, new), encoding="utf-8")
            return really_split(*arguments)

        monkeypatch.setattr(splits, "split", edit_and_split)
        errors.run(stages.split.main)

    edited("\ndistance: L1", "\ndistance: L2")
    with pytest.raises(SystemExit, match="changed while this ran: seed was 0 and is 1; run again"):
        edited("\nseed: 0", "\nseed: 1")


def test_no_parameter_counts_as_asked_for_because_it_was_checked():
    loaded = params.load(COMMITTED)
    assert not loaded._asked
    assert loaded.evaluate.bootstrap + loaded.seed
    assert loaded._asked == {"evaluate", "seed"}


def test_a_stage_answers_for_its_own_parameters_alone(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(COMMITTED.read_bytes())
    errors.run(lambda: params.load(path).seed)
    path.write_text("gone: 1")
    errors.run(lambda: None)


REFUSED_BY = {
    "_sum_to_one": {"split.test": 0.4},
    "_something_to_search": {"split.index": 0, "split.test": 0.3},
    "_some_of_the_photo": {"finetuned.augment.scale": [1.0, 0.5]},
    "_a_p_to_learn": {"finetuned.learn_gem_p": True},
    "_what_the_loss_takes": {"finetuned.margin": 0.2},
    "_landmarks_in_a_batch": {"finetuned.per_class": 16},
    "_openvino_on_the_cpu": {"extract.device": "cuda"},
    "_ground_truth_where_it_is_scored": {"evaluate.protocol": "oxford"},
    "_chain": {"rerank": "none"},
}


def sections(of):
    """`of`, and all sections below it."""
    for field in of.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, params.Section):
            yield from sections(field.annotation)
    yield of


def validators():
    for section in sections(params.Params):
        yield from section.__pydantic_decorators__.model_validators
        for field in section.model_fields.values():
            yield from (one.func.__name__ for one in field.metadata if isinstance(one, AfterValidator))


def test_each_refusal_is_tried_below():
    assert set(validators()) == REFUSED_BY.keys()


@pytest.mark.parametrize("changes", [*REFUSED_BY.values(), dict.fromkeys(REFUSED_BY["_sum_to_one"], "x")])
def test_no_refusal_speaks_of_errors_of_values(load_with, tmp_path, changes):
    with pytest.raises(InputError) as caught:
        load_with(changes)
    [line] = str(caught.value).splitlines()
    assert re.match(rf"{re.escape(str(tmp_path))}/params\.yaml: [a-z_.]+: ", line)
    assert not re.search("value error|assertion|pydantic", line, re.IGNORECASE)
