"""The one typed view of `params.yaml`: unknown keys and values that are not allowed are refused."""

import difflib
import json
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from landmarks import chain, yaml12
from landmarks.errors import InputError, when_done

PATH = Path("params.yaml")

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ImageSize = Annotated[int, Field(ge=32, le=4096)]
Distance = Literal["L1", "L2", "L3"]
Sampling = Literal["instance_balanced", "square_root", "class_balanced"]
Weight = Annotated[float, Field(ge=0)]


def _chain(text: str) -> str:
    chain.parse(text)
    return text


Rerank = Annotated[str, AfterValidator(_chain)]


class Section(BaseModel):
    """A group of parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Demo(Section):
    """The drawn photos."""

    classes: Annotated[int, Field(ge=1, le=10)]
    photos: Count
    seed: Seed


class CreateCsv(Section):
    """What is accepted as a photo."""

    max_pixels: Count
    merge_alike: bool


class Split(Section):
    """Which photos are queries, and the share of each class that a part gets."""

    method: Literal["classes", "ground_truth"]
    train: Fraction
    val: Fraction
    test: Fraction
    index: Fraction
    near_copies: Literal["together", "ignore"]

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.val + self.test + self.index
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, val, test and index sum to {total:g}, they must sum to 1")
        return self

    @model_validator(mode="after")
    def _something_to_search(self) -> Self:
        if self.method == "classes" and self.test and not self.index:
            raise ValueError(f"index is 0, but test is {self.test:g}: queries need something to search")
        return self


class Described(Section):
    """How a network describes a photo."""

    image_size: ImageSize
    resize: Literal["stretch", "crop", "pad", "keep"]
    pooling: Literal["avg", "max", "gem", "rmac"]
    gem_p: Annotated[float, Field(gt=0)]
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=4)], ...], Field(strict=False, min_length=1)]
    flip: bool
    normalization: Literal["l1", "l2", "sqrt", "none"]

    def describing(self) -> dict[str, Any]:
        """The parameters as `trunks.pretrained` takes them."""
        return self.model_dump(include=set(Described.model_fields))


class Pretrained(Described):
    """The trunk as it comes."""

    layer: Annotated[str, Field(min_length=1)]


class Augment(Section):
    """How training photos are varied."""

    scale: Annotated[tuple[Fraction, Fraction], Field(strict=False)]
    flip: bool
    colour: Fraction

    @model_validator(mode="after")
    def _some_of_the_photo(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}, it must be two shares above 0, the smaller first")
        return self


# What the losses beside cross_entropy take.
OF_PAIRS = ("triplet", "contrastive", "multi_similarity")
WITH_SCALE = ("arcface", "cosface", "proxy_anchor")


class Finetuned(Described):
    """The trunk trained on the landmarks."""

    loss: Literal[
        "cross_entropy", "arcface", "cosface", "proxy_anchor", "triplet", "contrastive", "multi_similarity"
    ]
    margin: Annotated[float, Field(ge=0, le=2)] | None
    scale: Annotated[float, Field(gt=0)] | None
    miner: Literal["none", "batch_hard", "distance_weighted", "multi_similarity", "triplet_margin"]
    per_class: Annotated[int, Field(ge=2)] | None
    sampling: Sampling
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["step", "cosine", "constant"]
    step_epochs: Count
    warmup_epochs: Annotated[int, Field(ge=0)]
    frozen: Annotated[int, Field(ge=0)]
    batch_norm: Literal["frozen", "trained"]
    learn_gem_p: bool
    train_size: ImageSize
    augment: Augment
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["float32", "bfloat16"]
    keep: Literal["best", "last"]
    checkpoint_every: Count
    print_freq: Count
    workers: Annotated[int, Field(ge=0)]

    def shaping(self) -> dict[str, Any]:
        """The parameters that change the trained weights."""
        only_describing = {"scales", "flip", "normalization"}
        shaping = self.model_dump(exclude={"checkpoint_every", "print_freq", "workers"} | only_describing)
        return shaping | {"per_class": self.together}

    @model_validator(mode="after")
    def _a_p_to_learn(self) -> Self:
        if self.learn_gem_p and self.pooling != "gem":
            raise ValueError(f"learn_gem_p is true, but pooling is {self.pooling}; set it to gem")
        return self

    @property
    def together(self) -> int | None:
        """How many photos per landmark a batch holds, `None` if the photos come in any order."""
        return self.per_class or (4 if self.loss in OF_PAIRS else None)

    @model_validator(mode="after")
    def _what_the_loss_takes(self) -> Self:
        options: list[tuple[str, object, tuple[str, ...]]] = [
            ("margin", None, (*WITH_SCALE, *OF_PAIRS)),
            ("scale", None, WITH_SCALE),
            ("miner", "none", ("triplet",) if self.miner == "triplet_margin" else OF_PAIRS),
            ("label_smoothing", 0.0, ("cross_entropy",)),
        ]
        for name, unset, losses in options:
            value = getattr(self, name)
            if value != unset and self.loss not in losses:
                raise ValueError(f"{name} is {value}, but loss is {self.loss}; it is for {', '.join(losses)}")
        return self

    @model_validator(mode="after")
    def _landmarks_in_a_batch(self) -> Self:
        together = self.together
        if together and (self.batch_size % together or self.batch_size == together):
            raise ValueError(
                f"batch_size is {self.batch_size}, but per_class says {together} photos of a landmark; make "
                f"it {2 * together}, {3 * together} or another multiple"
            )
        return self


class Vlad(Section):
    """SIFT and VLAD."""

    words: Annotated[int, Field(ge=1, le=65536)]
    keypoints: Count
    max_side: ImageSize
    root_sift: bool
    normalization: Literal["signed_sqrt", "intra", "none"]
    pca_dimensions: Annotated[int, Field(ge=0)]
    training_descriptors: Count
    kmeans_iterations: Count
    seed: Seed


class Extract(Section):
    """Describing the photos."""

    batch_size: Count
    engine: Literal["torch", "openvino"]
    precision: Literal["float32", "bfloat16"]
    device: Literal["auto", "cpu", "cuda"]
    whitening: Literal["none", "pca", "learned"]
    dimensions: Count
    power: Fraction

    def whitened(self) -> dict[str, Any]:
        """How descriptors are whitened, as `describers.whitened` takes it."""
        return self.model_dump(include={"whitening", "dimensions", "power"})

    def execution(self) -> dict[str, str]:
        """How a network is run, as `engines.Execution` takes it."""
        return self.model_dump(include={"engine", "precision", "device"})

    @model_validator(mode="after")
    def _openvino_on_the_cpu(self) -> Self:
        if self.engine == "openvino" and self.device == "cuda":
            raise ValueError("engine openvino runs on the CPU only; for device cuda set engine to torch")
        return self


class Retrieve(Section):
    """Searching the index."""

    depth: Count | None
    memory: Count


class Expansion(Section):
    """Averaging a descriptor with those of its neighbours."""

    neighbours: Count


class WeightedExpansion(Expansion):
    """Averaging in which each neighbour is weighted by its cosine to the power alpha."""

    alpha: Weight


class KReciprocal(Section):
    """k-reciprocal encoding."""

    k1: Annotated[int, Field(ge=2)]
    k2: Count
    weight: Fraction


class Diffusion(Section):
    """Diffusion on the graph of neighbours."""

    neighbours: Count
    query_neighbours: Count
    gamma: Weight
    alpha: Annotated[float, Field(ge=0, lt=1)]


class Geometric(Section):
    """Matching local features."""

    features: Literal["sift", "orb"]
    keypoints: Count
    max_side: ImageSize
    ratio: Annotated[float, Field(gt=0, le=1)]
    model: Literal["homography", "affinity"]
    threshold: Annotated[float, Field(gt=0)]
    min_inliers: Annotated[int, Field(ge=0)]


class RerankOptions(Section):
    """Options of the re-ranking methods."""

    vote_depth: Count
    shortlist: Annotated[int, Field(ge=1, le=5000)]
    max_quadratic: Count
    dba: WeightedExpansion
    aqe: Expansion
    alpha_qe: WeightedExpansion
    k_reciprocal: KReciprocal
    diffusion: Diffusion
    geometric: Geometric


class Evaluate(Section):
    """Scoring."""

    protocol: Literal["classes", "oxford", "revisited"]
    queries_in_index: bool
    reject_above: Annotated[float, Field(ge=0)] | None
    bootstrap: Annotated[int, Field(ge=0)]


class Gallery(Section):
    """The contact sheets."""

    queries: Count
    results: Count
    matches: bool
    seed: Seed


GONE = {"split.allow_unmatched": "is gone: what has queries now has index photos too; delete the line"}


class Params(Section):
    """All of `params.yaml`."""

    dataset: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")]
    model: Literal["pretrained", "finetuned", "vlad"]
    backbone: Annotated[str, Field(min_length=1)]
    weights: Annotated[str, Field(min_length=1)]
    distance: Distance
    rerank: Rerank
    seed: Seed
    demo: Demo
    create_csv: CreateCsv
    split: Split
    pretrained: Pretrained
    finetuned: Finetuned
    vlad: Vlad
    extract: Extract
    retrieve: Retrieve
    rerank_options: RerankOptions
    evaluate: Evaluate
    gallery: Gallery
    _asked: set[str] = PrivateAttr(default_factory=set)
    """The names of those above that were asked for."""

    if not TYPE_CHECKING:  # to which an attribute that there is not would be one

        def __getattribute__(self, name: str) -> object:
            if name in Params.model_fields:
                self._asked.add(name)
            return super().__getattribute__(name)

    @model_validator(mode="after")
    def _ground_truth_where_it_is_scored(self) -> Self:
        protocol = self.evaluate.protocol
        if protocol != "classes" and self.split.method != "ground_truth":
            raise ValueError(
                f"evaluate.protocol: {protocol} scores the queries of a ground truth; set split.method to "
                "ground_truth"
            )
        if self.evaluate.queries_in_index and protocol != "oxford":
            raise ValueError(
                "evaluate.queries_in_index: true is how evaluate.protocol: oxford was published, with "
                f"{protocol} it must be false"
            )
        return self


def root() -> Path:
    """The root of the repository as a path from here: the nearest folder with the files of the pipeline.

    This folder if there is none, or if this folder has parameters of its own.
    """
    if PATH.exists():
        return Path()
    for up, folder in enumerate(Path.cwd().parents, 1):
        if all(os.path.isfile(folder / name) for name in (PATH, "dvc.yaml")):  # noqa: PTH113, which may raise
            return Path(*[".."] * up)
    return Path()


def load(path: Path = PATH) -> Params:
    """Read and check all of `params.yaml`, whichever part of it the caller needs.

    So a mistyped name or value is refused by the first stage that runs, not by the last. Raises
    `InputError` naming each parameter, the value seen and what is allowed.
    """
    values = yaml12.read(path)
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise yaml12.refused(path, map(_explain, error.errors())) from None
    params._asked.clear()  # of what the validators have asked for
    when_done.append(partial(_check_same, path, values, params._asked))
    return params


def _check_same(path: Path, before: Mapping[str, Any], asked: Collection[str]) -> None:
    """Refuse the results of a stage if parameters that it has `asked` for have other values by now.

    DVC reads these parameters again after the stage, and would record the results under values that did not
    make them. It does not record other parameters for the stage, so they may be edited meanwhile.
    """
    both = before, yaml12.read(path)
    was, now = (dict(yaml12.leaves({name: values.get(name) for name in asked})) for values in both)
    changed = [name for name in was | now if was.get(name) != now.get(name)]
    if changed:
        what = ", ".join(f"{name} was {was.get(name)!r} and is {now.get(name)!r}" for name in sorted(changed))
        raise InputError(
            f"{path}: changed while this ran: {what}; run again. Another `dvc exp run` changes it, too: "
            "add --temp or --queue for experiments side by side"
        )


def _explain(detail: Any) -> str:
    *parents, key = detail["loc"] or ("",)
    name = ".".join(str(part) for part in detail["loc"])
    if name in GONE:
        return f"{name}: {GONE[name]}"
    if detail["type"] == "extra_forbidden":
        allowed = _keys(parents)
        close = difflib.get_close_matches(str(key), allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{name}: no such parameter; {hint}allowed here: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"{name}: missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{name}: {message}" if name else message
    value, hint = detail["input"], ""
    if detail["type"] == "string_type" and isinstance(value, int | float | None):
        quoted = f'"{value if isinstance(value, float) else json.dumps(value)}"'
        hint = f"; quote what is meant, as in -S '{name}={quoted}', or {key}: {quoted} in the file"
    return f"{name}: {value!r} is not allowed: {message[:1].lower()}{message[1:]}{hint}"


def _keys(parents: list[str]) -> list[str]:
    model: Any = Params
    for parent in parents:
        model = model.model_fields[parent].annotation
    return list(model.model_fields)
