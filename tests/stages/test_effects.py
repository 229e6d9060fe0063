"""Each parameter that a stage declares changes what the stage makes, or there is a reason why it must not."""

import json

import h5py
import pytest
import torch
from PIL import Image

from .inprocess import SMALL, contents, draw_photos, judge, leaves_of, put, run, stages, updated, write_params

NOTHING = {}
TINY = {"backbone": "test_efficientnet", "weights": "random", "extract": {"whitening": "none"}}
IMAGENET = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
PRETRAINED = TINY | {"model": "pretrained"}
GEM = PRETRAINED | {"pretrained": {"pooling": "gem"}}
WHITENED = {"extract": {"whitening": "pca", "power": 1.0}}
VLAD = TINY | {"model": "vlad"}
BY_CLASS = PRETRAINED | {"split": {"method": "ground_truth", "train": 0.6, "val": 0.4, "test": 0, "index": 0}}
OXFORD = BY_CLASS | {"evaluate": {"protocol": "oxford"}}
WITH_QUERIES = BY_CLASS | {"evaluate": {"protocol": "oxford", "queries_in_index": True}}


def trained(**values):
    given = {"epochs": 2, "batch_size": 8, "frozen": 3, "keep": "last", **values}
    return TINY | {"model": "finetuned", "finetuned": given}


def reranked(method, base=PRETRAINED):
    return base | {"rerank": method}


MATCHED = reranked("geometric") | {"gallery": {"queries": 5, "results": 5}}
GEM_TRAINED = trained(pooling="gem", train_size=64)
ARCFACE = trained(loss="arcface")
PAIRS = {"per_class": 2, "batch_size": 4}
TRIPLET = trained(loss="triplet", **PAIRS)

# The stage and the parameter; its other value; what else is set, before and after.
EFFECTS = [
    ("check", "dataset", "absent", NOTHING),
    ("demo", "demo.classes", 2, NOTHING),
    ("demo", "demo.photos", 2, NOTHING),
    ("demo", "demo.seed", 1, NOTHING),
    ("create_csv", "dataset", "other", NOTHING),
    ("create_csv", "create_csv.max_pixels", 96 * 72, NOTHING),
    ("create_csv", "create_csv.merge_alike", True, NOTHING),
    ("create_csv", "split.method", "ground_truth", NOTHING),
    ("split", "seed", 1, NOTHING),
    ("split", "split.method", "ground_truth", NOTHING),
    ("split", "split.train", {"train": 0.4, "val": 0.3}, NOTHING),
    ("split", "split.val", {"val": 0.3, "test": 0.1}, NOTHING),
    ("split", "split.test", {"test": 0.4, "train": 0.4}, NOTHING),
    ("split", "split.index", {"index": 0.3, "train": 0.4}, NOTHING),
    ("split", "split.near_copies", "ignore", NOTHING),
    ("split", "evaluate.queries_in_index", True, OXFORD),
    ("pretrained", "seed", 1, PRETRAINED),
    ("pretrained", "backbone", "test_resnet", PRETRAINED),
    ("pretrained", "weights", "random", PRETRAINED | IMAGENET),
    ("pretrained", "pretrained.image_size", 48, PRETRAINED),
    ("pretrained", "pretrained.resize", "crop", PRETRAINED),
    ("pretrained", "pretrained.resize", "pad", PRETRAINED),
    ("pretrained", "pretrained.resize", "keep", PRETRAINED),
    ("pretrained", "pretrained.layer", "blocks.1", PRETRAINED),
    ("pretrained", "pretrained.pooling", "max", PRETRAINED),
    ("pretrained", "pretrained.pooling", "gem", PRETRAINED),
    ("pretrained", "pretrained.pooling", "rmac", PRETRAINED),
    ("pretrained", "pretrained.gem_p", 2.0, GEM),
    ("pretrained", "pretrained.scales", [1.0, 2.0], PRETRAINED),
    ("pretrained", "pretrained.scales", [2.0], PRETRAINED),
    ("pretrained", "pretrained.flip", True, PRETRAINED),
    ("pretrained", "pretrained.normalization", "l2", PRETRAINED),
    ("pretrained", "pretrained.normalization", "sqrt", PRETRAINED),
    ("pretrained", "pretrained.normalization", "none", PRETRAINED),
    ("pretrained", "extract.whitening", "none", PRETRAINED | WHITENED),
    ("pretrained", "extract.whitening", "learned", PRETRAINED | WHITENED),
    ("pretrained", "extract.dimensions", 3, PRETRAINED | WHITENED),
    ("pretrained", "extract.power", 0.5, PRETRAINED | WHITENED),
    ("finetuned", "seed", 1, trained()),
    ("finetuned", "backbone", "test_resnet", trained()),
    ("finetuned", "weights", "random", trained(epochs=1) | IMAGENET),
    ("finetuned", "finetuned.loss", "arcface", trained()),
    ("finetuned", "finetuned.loss", "cosface", ARCFACE),
    ("finetuned", "finetuned.loss", "proxy_anchor", ARCFACE),
    ("finetuned", "finetuned.loss", "contrastive", TRIPLET),
    ("finetuned", "finetuned.loss", "multi_similarity", TRIPLET),
    ("finetuned", "finetuned.margin", 0.1, ARCFACE),
    ("finetuned", "finetuned.margin", 1.5, TRIPLET),
    ("finetuned", "finetuned.scale", 5.0, ARCFACE),
    ("finetuned", "finetuned.miner", "batch_hard", TRIPLET),
    ("finetuned", "finetuned.miner", "distance_weighted", TRIPLET),
    (
        "finetuned",
        "finetuned.miner",
        "multi_similarity",
        trained(loss="contrastive", **PAIRS),
    ),
    ("finetuned", "finetuned.miner", "triplet_margin", TRIPLET),
    ("finetuned", "finetuned.per_class", 2, trained()),
    ("finetuned", "finetuned.sampling", "class_balanced", trained()),
    ("finetuned", "finetuned.sampling", "square_root", trained()),
    ("finetuned", "finetuned.epochs", 3, trained()),
    ("finetuned", "finetuned.batch_size", 6, trained()),
    ("finetuned", "finetuned.optimizer", "adamw", trained()),
    ("finetuned", "finetuned.lr", 0.02, trained()),
    ("finetuned", "finetuned.momentum", 0.5, trained()),
    ("finetuned", "finetuned.weight_decay", 0.01, trained()),
    ("finetuned", "finetuned.schedule", "constant", trained(epochs=3)),
    ("finetuned", "finetuned.schedule", "step", trained(step_epochs=1)),
    (
        "finetuned",
        "finetuned.step_epochs",
        1,
        trained(schedule="step", step_epochs=2),
    ),
    ("finetuned", "finetuned.warmup_epochs", 0, trained(warmup_epochs=1)),
    ("finetuned", "finetuned.frozen", 0, trained()),
    ("finetuned", "finetuned.batch_norm", "trained", trained()),
    ("finetuned", "finetuned.image_size", 48, trained()),
    ("finetuned", "finetuned.resize", "crop", trained()),
    ("finetuned", "finetuned.pooling", "max", trained()),
    ("finetuned", "finetuned.gem_p", 2.0, GEM_TRAINED),
    ("finetuned", "finetuned.scales", [1.0, 2.0], trained()),
    ("finetuned", "finetuned.flip", True, trained()),
    ("finetuned", "finetuned.normalization", "l2", trained()),
    ("finetuned", "finetuned.learn_gem_p", True, GEM_TRAINED),
    ("finetuned", "finetuned.train_size", 48, trained()),
    ("finetuned", "finetuned.augment.scale", [0.9, 1.0], trained()),
    ("finetuned", "finetuned.augment.flip", False, trained()),
    ("finetuned", "finetuned.augment.colour", 0.0, trained()),
    ("finetuned", "finetuned.label_smoothing", 0.5, trained()),
    ("finetuned", "finetuned.precision", "bfloat16", trained(epochs=1)),
    ("finetuned", "finetuned.keep", "last", trained(keep="best", lr=0.3)),
    ("finetuned", "extract.whitening", "learned", trained() | WHITENED),
    ("finetuned", "extract.dimensions", 3, trained() | WHITENED),
    ("finetuned", "extract.power", 0.5, trained() | WHITENED),
    ("vlad", "vlad.words", 3, VLAD),
    ("vlad", "vlad.keypoints", 5, VLAD),
    ("vlad", "vlad.max_side", 48, VLAD),
    ("vlad", "vlad.root_sift", False, VLAD),
    ("vlad", "vlad.normalization", "intra", VLAD),
    ("vlad", "vlad.normalization", "none", VLAD),
    ("vlad", "vlad.pca_dimensions", 2, VLAD),
    ("vlad", "vlad.training_descriptors", 100, VLAD),
    ("vlad", "vlad.kmeans_iterations", 1, VLAD),
    ("vlad", "vlad.seed", 1, VLAD),
    ("vlad", "extract.whitening", "learned", VLAD | WHITENED),
    ("vlad", "extract.dimensions", 3, VLAD | WHITENED),
    ("vlad", "extract.power", 0.5, VLAD | WHITENED),
    *[
        (f"extract@{part}", name, value, PRETRAINED)
        for part in ("index", "test")
        for name, value in {
            "extract.engine": "openvino",
            "extract.precision": "bfloat16",
            "extract.device": "cuda",
        }.items()
    ],
    ("retrieve", "distance", "L2", PRETRAINED),
    ("retrieve", "distance", "L3", PRETRAINED),
    ("retrieve", "retrieve.depth", 2, PRETRAINED),
    ("retrieve", "evaluate.queries_in_index", False, WITH_QUERIES),
    ("rerank", "evaluate.queries_in_index", False, reranked("aqe", WITH_QUERIES)),
    *[
        ("rerank", "rerank", method, PRETRAINED)
        for method in ("two", "dba", "aqe", "alpha_qe", "k_reciprocal", "diffusion", "geometric", "aqe+two")
    ],
    ("rerank", "rerank_options.vote_depth", 1, PRETRAINED),
    *[
        ("rerank", "rerank_options.shortlist", 2, reranked(method))
        for method in ("k_reciprocal", "diffusion", "geometric")
    ],
    *[("rerank", "rerank_options.max_quadratic", 2, reranked(method)) for method in ("dba", "diffusion")],
    ("rerank", "rerank_options.dba.neighbours", 2, reranked("dba")),
    ("rerank", "rerank_options.dba.alpha", 0.0, reranked("dba")),
    ("rerank", "rerank_options.aqe.neighbours", 2, reranked("aqe")),
    ("rerank", "rerank_options.alpha_qe.neighbours", 2, reranked("alpha_qe")),
    ("rerank", "rerank_options.alpha_qe.alpha", 0.0, reranked("alpha_qe")),
    ("rerank", "rerank_options.k_reciprocal.k1", 3, reranked("k_reciprocal")),
    ("rerank", "rerank_options.k_reciprocal.k2", 1, reranked("k_reciprocal")),
    ("rerank", "rerank_options.k_reciprocal.weight", 0.9, reranked("k_reciprocal")),
    ("rerank", "rerank_options.diffusion.neighbours", 2, reranked("diffusion")),
    ("rerank", "rerank_options.diffusion.query_neighbours", 1, reranked("diffusion")),
    ("rerank", "rerank_options.diffusion.gamma", 50.0, reranked("diffusion")),
    ("rerank", "rerank_options.diffusion.alpha", 0.1, reranked("diffusion")),
    *[
        (stage, f"rerank_options.geometric.{name}", value, MATCHED)
        for stage in ("rerank", "gallery")
        for name, value in {
            "features": "orb",
            "keypoints": 5,
            "max_side": 48,
            "ratio": 0.3,
            "model": "affinity",
            "threshold": 0.2,
            "min_inliers": 80,
        }.items()
    ],
    ("evaluate", "evaluate.protocol", "revisited", BY_CLASS),
    ("evaluate", "evaluate.queries_in_index", True, OXFORD),
    ("evaluate", "evaluate.reject_above", 0.0, PRETRAINED),
    ("evaluate", "evaluate.bootstrap", 3, PRETRAINED),
    ("gallery", "dataset", "other", PRETRAINED),
    ("gallery", "gallery.queries", 2, PRETRAINED),
    ("gallery", "gallery.results", 1, PRETRAINED),
    ("gallery", "gallery.matches", False, PRETRAINED),
    ("gallery", "gallery.seed", 1, PRETRAINED),
    ("gallery", "evaluate.protocol", "revisited", BY_CLASS),
    ("gallery", "evaluate.queries_in_index", True, OXFORD),
    ("gallery", "evaluate.reject_above", 0.0, PRETRAINED),
]
NO_EFFECT = {
    ("check", "model"): "it names the script of the stage `model`",
    ("model", "model"): "it names the script",
    ("vlad", "seed"): "it has a seed of its own",
    ("vlad", "backbone"): "of networks",
    ("vlad", "weights"): "of networks",
    ("finetuned", "finetuned.checkpoint_every"): "the model is the same however often it is saved",
    ("finetuned", "finetuned.print_freq"): "what is shown",
    ("finetuned", "finetuned.workers"): "the model is the same whoever decodes",
    **{
        (name, "retrieve.memory"): "the results are the same however many are held at once"
        for name in ("retrieve", "rerank", "evaluate", "gallery")
    },
    **{
        (f"extract@{part}", f"extract.{name}"): "of the model" if name != "batch_size" else "how fast it is"
        for part in ("index", "test")
        for name in ("batch_size", "whitening", "dimensions", "power")
    },
}
MODELS = ("pretrained", "finetuned", "vlad")


def draw(folder, protocol):
    draw_photos(folder / "data/mine/images")
    draw_photos(folder / "data/other/images", each=4)
    images = folder / "data/mine/images"
    # One that is larger, some that are nearly copies, and a landmark that is written in two ways.
    with Image.open(images / "landmark 2/0.jpg") as photo:
        photo.resize((192, 144)).save(images / "landmark 2/large.jpg")
    for number in range(4):
        with Image.open(images / f"landmark 1/{number}.jpg") as photo:
            photo.save(images / f"landmark 1/{number} again.jpg", quality=50)
    (images / "Landmark 0").mkdir()
    (images / "landmark 0/7.jpg").rename(images / "Landmark 0/7.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for dataset in ("mine", "other"):
            judge(dataset, protocol)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which the stages have run up to one of them, with some values of the parameters."""
    folders = {}

    def folder_of(values, last):
        key = json.dumps(values, sort_keys=True)
        protocol = values.get("evaluate", {}).get("protocol", "revisited")
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("ran"), set()
            draw(folders[key][0], protocol)
        folder, done = folders[key]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            write_params(**updated(SMALL, values))
            for stage in stages(values.get("model", "pretrained"), "mine"):
                if stage.name not in done and (stage.name != "demo" or last == "demo"):
                    assert run(stage) is None
                    done.add(stage.name)
                if stage.name == last:
                    return folder
        raise LookupError(last)

    return folder_of


def substance(path):
    """What a file says, without the parameters that are noted in it."""
    if path.suffix != ".h5":
        return path.read_bytes()
    with h5py.File(path) as file:
        names = {"features", "rows", "distances", "predicted"} & set(file)
        return [(name, file[name][:].tobytes()) for name in sorted(names)]


@pytest.mark.parametrize(
    ("name", "parameter", "value", "values"),
    EFFECTS,
    ids=[f"{name}-{parameter}-{json.dumps(value)}" for name, parameter, value, _ in EFFECTS],
)
def test_the_parameter_has_an_effect(ran, tmp_path, monkeypatch, name, parameter, value, values):
    if value == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    *sections, key = parameter.split(".")
    changed = value if isinstance(value, dict) else {key: value}
    for section in reversed(sections):
        changed = {section: changed}
    # A model notes all parameters, so what it describes is compared.
    names = ("model", "extract@index") if name in MODELS else (name,)
    chain = [stage for stage in stages(values.get("model", "pretrained"), "mine") if stage.name in names]
    folder = ran(values, names[-1])
    for stage in chain:
        put([*stage.deps, *["data/mine", "data/other"] * (name in ("check", "create_csv"))], folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    write_params(**updated(SMALL, updated(values, changed)))
    told = next(filter(None, map(run, chain)), None)
    made = {path: substance(path) for path in contents(chain[-1].outs)}
    monkeypatch.chdir(folder)
    assert told or made != {path: substance(path) for path in contents(chain[-1].outs)}


def test_each_parameter_of_each_stage_is_here():
    known = {(name, parameter) for name, parameter, *_ in EFFECTS} | set(NO_EFFECT)
    for model in MODELS:
        for stage in stages(model, "mine"):
            for parameter in leaves_of(stage):
                assert {(stage.name, parameter), (model, parameter)} & known, (model, stage.name, parameter)
