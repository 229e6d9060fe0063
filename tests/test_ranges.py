"""What each parameter may be: the values just inside of its range are allowed, those just outside are not."""

import copy
import operator
import re
from functools import reduce
from pathlib import Path

import pytest
import yaml

from landmarks import params, yaml12
from landmarks.errors import InputError

ROOT = Path(__file__).parents[1]
TINY = 1e-9
BELOW_1 = 1 - 1e-9
ABOVE_1 = 1 + 1e-9

COUNT = ([1, 10**6], [0, -1, 1.5, "1", True, None])
FROM_0 = ([0, 10**6], [-1, 0.5, "0", None])
SEED = ([0, 2**32 - 1], [-1, 2**32, 0.5, "0", None])
SIDE = ([32, 4096], [31, 4097, 64.5, "64", None])
SHARE = ([0, 0.5, 1], [-TINY, ABOVE_1, "0.5", None, float("nan")])
POSITIVE = ([TINY, 1, 1e6], [0, -1, "1", None, float("nan")])
WEIGHT = ([0, TINY, 1e6], [-TINY, "1", None, float("nan")])
SWITCH = ([True, False], [0, 1, "true", None])
TEXT = (["a"], ["", 1, None])


def one_of(*names):
    return list(names), ["", names[0].upper() + "x", 1, True, None]


RANGES = {
    "dataset": (["mine", "我的 照片", "a.b"], ["", ".", "..", "a/b", "a\\b", ".hidden", 1, None]),
    "model": one_of("pretrained", "finetuned", "vlad"),
    "backbone": TEXT,
    "weights": TEXT,
    "distance": (["L1", "L2", "L3"], ["l1", "L0", "L4", "", 1, None]),
    "rerank": (["one", "two", "dba+aqe+two"], ["three", "", "two+dba", "one+two", 1, None]),
    "seed": SEED,
    "demo.classes": ([1, 10], [0, 11, "1", 1.5, None]),
    "demo.photos": COUNT,
    "demo.seed": SEED,
    "create_csv.max_pixels": COUNT,
    "create_csv.merge_alike": SWITCH,
    "split.method": one_of("classes", "ground_truth"),
    "split.train": ([0.6], [-TINY, ABOVE_1, "0.6", None]),
    "split.val": ([0.1], [-TINY, ABOVE_1, "0.1", None]),
    "split.test": ([0.2], [-TINY, ABOVE_1, "0.2", None]),
    "split.index": ([0.1], [-TINY, ABOVE_1, "0.1", None]),
    "split.near_copies": one_of("together", "ignore"),
    "pretrained.layer": TEXT,
    **{
        f"{section}.{name}": values
        for section in ("pretrained", "finetuned")
        for name, values in {
            "image_size": SIDE,
            "resize": one_of("stretch", "crop", "pad", "keep"),
            "pooling": one_of("avg", "max", "gem", "rmac"),
            "gem_p": POSITIVE,
            "scales": ([[1.0], [4, TINY]], [[], [0], [1, 4.001], [-1], ["1"], 1.0, None]),
            "flip": SWITCH,
            "normalization": one_of("l1", "l2", "sqrt", "none"),
        }.items()
    },
    "finetuned.loss": one_of("cross_entropy", "arcface", "triplet"),
    "finetuned.margin": ([None, 0, 2], [-TINY, 2.001, "1"]),
    "finetuned.scale": ([None, TINY, 1e6], [0, -1, "1"]),
    "finetuned.miner": (["none"], ["all", "", 1, None]),
    "finetuned.per_class": ([None, 2, 8], [1, 0, -2, 2.5, "2"]),
    "finetuned.sampling": one_of("instance_balanced", "class_balanced", "square_root"),
    "finetuned.epochs": COUNT,
    "finetuned.batch_size": ([2, 512], [1, 0, "2", 2.5, None]),
    "finetuned.optimizer": one_of("sgd", "adamw"),
    "finetuned.lr": POSITIVE,
    "finetuned.momentum": ([0, BELOW_1], [-TINY, 1, "0.9", None]),
    "finetuned.weight_decay": WEIGHT,
    "finetuned.schedule": one_of("step", "cosine", "constant"),
    "finetuned.step_epochs": COUNT,
    "finetuned.warmup_epochs": FROM_0,
    "finetuned.frozen": FROM_0,
    "finetuned.batch_norm": one_of("frozen", "trained"),
    "finetuned.learn_gem_p": ([False], [0, 1, "true", None]),
    "finetuned.train_size": SIDE,
    "finetuned.augment.scale": (
        [[TINY, 1], [1, 1]],
        [[0, 1], [0.6, 0.5], [0.5, ABOVE_1], [0.5], [0.1, 0.5, 1], None],
    ),
    "finetuned.augment.flip": SWITCH,
    "finetuned.augment.colour": SHARE,
    "finetuned.label_smoothing": ([0, BELOW_1], [-TINY, 1, "0", None]),
    "finetuned.precision": one_of("float32", "bfloat16"),
    "finetuned.keep": one_of("best", "last"),
    "finetuned.checkpoint_every": COUNT,
    "finetuned.print_freq": COUNT,
    "finetuned.workers": FROM_0,
    "vlad.words": ([1, 65536], [0, 65537, 1.5, "1", None]),
    "vlad.keypoints": COUNT,
    "vlad.max_side": SIDE,
    "vlad.root_sift": SWITCH,
    "vlad.normalization": one_of("signed_sqrt", "intra", "none"),
    "vlad.pca_dimensions": FROM_0,
    "vlad.training_descriptors": COUNT,
    "vlad.kmeans_iterations": COUNT,
    "vlad.seed": SEED,
    "extract.batch_size": COUNT,
    "extract.engine": one_of("openvino", "torch"),
    "extract.precision": one_of("float32", "bfloat16"),
    "extract.device": (["auto", "cpu"], ["gpu", "", 0, None]),
    "extract.whitening": one_of("none", "pca", "learned"),
    "extract.dimensions": COUNT,
    "extract.power": SHARE,
    "retrieve.depth": ([None, 1, 10**6], [0, -1, 1.5, "1", True]),
    "retrieve.memory": COUNT,
    "rerank_options.vote_depth": COUNT,
    "rerank_options.shortlist": ([1, 5000], [0, 5001, 1.5, "1", None]),
    "rerank_options.max_quadratic": COUNT,
    "rerank_options.dba.neighbours": COUNT,
    "rerank_options.dba.alpha": WEIGHT,
    "rerank_options.aqe.neighbours": COUNT,
    "rerank_options.alpha_qe.neighbours": COUNT,
    "rerank_options.alpha_qe.alpha": WEIGHT,
    "rerank_options.k_reciprocal.k1": ([2, 1000], [1, 0, 2.5, "2", None]),
    "rerank_options.k_reciprocal.k2": COUNT,
    "rerank_options.k_reciprocal.weight": SHARE,
    "rerank_options.diffusion.neighbours": COUNT,
    "rerank_options.diffusion.query_neighbours": COUNT,
    "rerank_options.diffusion.gamma": WEIGHT,
    "rerank_options.diffusion.alpha": ([0, BELOW_1], [-TINY, 1, "0", None]),
    "rerank_options.geometric.features": one_of("sift", "orb"),
    "rerank_options.geometric.keypoints": COUNT,
    "rerank_options.geometric.max_side": SIDE,
    "rerank_options.geometric.ratio": ([TINY, 1], [0, ABOVE_1, "1", None]),
    "rerank_options.geometric.model": one_of("homography", "affinity"),
    "rerank_options.geometric.threshold": POSITIVE,
    "rerank_options.geometric.min_inliers": FROM_0,
    "evaluate.protocol": one_of("classes", "oxford", "revisited"),
    "evaluate.queries_in_index": ([False], [0, "false", None]),
    "evaluate.reject_above": ([None, 0, 1e9], [-TINY, "1", float("nan")]),
    "evaluate.bootstrap": FROM_0,
    "gallery.queries": COUNT,
    "gallery.results": COUNT,
    "gallery.matches": SWITCH,
    "gallery.seed": SEED,
}
WITH = {
    "finetuned.margin": {"finetuned.loss": "arcface"},
    "finetuned.scale": {"finetuned.loss": "arcface"},
    "evaluate.protocol": {"split.method": "ground_truth"},
}
"""What must be set for it."""
COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def load(monkeypatch):
    """Load the committed parameters with some changed, without writing and reading YAML each time."""

    def load_with(changes):
        values = copy.deepcopy(COMMITTED)
        for name, value in changes.items():
            *sections, key = name.split(".")
            reduce(operator.getitem, sections, values)[key] = value
        monkeypatch.setattr(yaml12, "read", lambda path: values)
        return params.load()

    return load_with


@pytest.mark.parametrize("name", RANGES)
def test_what_is_just_inside_is_allowed_and_what_is_just_outside_is_not(load, name):
    inside, outside = RANGES[name]
    section, _, key = name.rpartition(".")
    for value in inside:
        loaded = load(WITH.get(name, {}) | {name: value})
        loaded = reduce(getattr, name.split("."), loaded)
        assert (list(loaded) if isinstance(loaded, tuple) else loaded) == value
    for value in outside:
        with pytest.raises(InputError, match=rf"params\.yaml: ({re.escape(name)}|{section}: {key} is)\b"):
            load(WITH.get(name, {}) | {name: value})


def test_each_parameter_is_here():
    def leaves(values, prefix=""):
        for name, value in values.items():
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    assert set(leaves(COMMITTED)) == set(RANGES)
