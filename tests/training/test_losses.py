"""Each loss against its formula, written out in NumPy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from landmarks import params
from landmarks.training import losses

RECIPE = params.load(Path(__file__).parents[2] / "params.yaml").finetuned
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 3])


def metric_loss(**changes: object) -> losses.MetricLoss:
    torch.manual_seed(0)
    return losses.MetricLoss(RECIPE.model_copy(update=changes), dimensions=5, classes=5)


def embeddings() -> np.ndarray:
    """Not of unit length, and near enough for every margin to matter."""
    return np.random.default_rng(1).normal(0.7, 1.0, (8, 5)).astype(np.float32)


def value(loss: losses.MetricLoss, x: np.ndarray) -> float:
    return loss(torch.from_numpy(x), torch.from_numpy(LABELS)).item()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))


def softmax_loss(logits: np.ndarray) -> float:
    return float(
        np.mean([-np.log(np.exp(row)[y] / np.exp(row).sum()) for row, y in zip(logits, LABELS, strict=True)])
    )


def triplets() -> list[tuple[int, int, int]]:
    every = range(len(LABELS))
    return [
        (a, p, n)
        for a in every
        for p in every
        for n in every
        if a != p and LABELS[a] == LABELS[p] != LABELS[n]
    ]


def distances() -> np.ndarray:
    x = unit(embeddings())
    return np.sqrt(((x[:, None] - x) ** 2).sum(axis=2))


def cosines() -> np.ndarray:
    return unit(embeddings()) @ unit(embeddings()).T


@pytest.mark.parametrize(("margin", "scale"), [(None, None), (0.3, 10.0), (1.9, 4.0)])
def test_arcface_adds_the_margin_to_the_angle_of_the_landmark(margin: float | None, scale: float | None):
    loss, x = metric_loss(loss="arcface", margin=margin, scale=scale), embeddings()
    m, s = margin or 0.5, scale or 64
    logits = unit(x) @ unit(loss.loss.W.detach().numpy().T).T
    for i, y in enumerate(LABELS):
        angle = np.arccos(logits[i, y])
        logits[i, y] = np.cos(angle + m) if angle + m <= np.pi else logits[i, y] - m * np.sin(m)
    assert value(loss, x) == pytest.approx(softmax_loss(s * logits), rel=1e-4)


@pytest.mark.parametrize(("margin", "scale"), [(None, None), (0.0, 10.0)])
def test_cosface_takes_the_margin_from_the_cosine_of_the_landmark(margin: float | None, scale: float | None):
    loss, x = metric_loss(loss="cosface", margin=margin, scale=scale), embeddings()
    m, s = (0.35, 64) if margin is None else (margin, scale)
    logits = unit(x) @ unit(loss.loss.W.detach().numpy().T).T
    logits[np.arange(8), LABELS] -= m
    assert value(loss, x) == pytest.approx(softmax_loss(s * logits), rel=1e-4)


def test_proxy_anchor_pulls_by_proxies_with_photos_and_pushes_by_all():
    loss, x = metric_loss(loss="proxy_anchor"), embeddings()
    s = unit(x) @ unit(loss.loss.proxies.detach().numpy()).T
    pull = [np.log(1 + np.exp(-32 * (s[p == LABELS, p] - 0.1)).sum()) for p in range(4)]
    push = [np.log(1 + np.exp(32 * (s[p != LABELS, p] + 0.1)).sum()) for p in range(5)]
    assert value(loss, x) == pytest.approx(np.mean(pull) + np.mean(push), rel=1e-5)


@pytest.mark.parametrize("margin", [None, 0.6])
def test_the_triplet_loss_compares_squared_distances(margin: float | None):
    d = distances()
    found = [d[a, p] ** 2 - d[a, n] ** 2 + (margin or 0.2) for a, p, n in triplets()]
    above = [one for one in found if one > 0]
    assert 0 < len(above) < len(found)
    loss = metric_loss(loss="triplet", margin=margin)
    assert value(loss, embeddings()) == pytest.approx(np.mean(above), rel=1e-5)


@pytest.mark.parametrize("margin", [None, 0.6])
def test_the_contrastive_loss_is_of_half_squares(margin: float | None):
    d, same = distances(), LABELS[:, None] == LABELS
    near = d[same & ~np.eye(8, dtype=bool)]
    far = (margin or 1.0) - d[~same]
    assert 0 < (far > 0).sum() < far.size
    expected = (near**2 / 2).mean() + (far[far > 0] ** 2 / 2).mean()
    loss = metric_loss(loss="contrastive", margin=margin)
    assert value(loss, embeddings()) == pytest.approx(expected, rel=1e-5)


def test_the_multi_similarity_loss_weighs_pairs_by_exponentials():
    s, terms = cosines(), []
    for i in range(8):
        own = [s[i, k] for k in range(8) if k != i and LABELS[k] == LABELS[i]]
        others = [s[i, k] for k in range(8) if LABELS[k] != LABELS[i]]
        terms.append(np.log(1 + sum(np.exp(-2 * (c - 0.5)) for c in own)) / 2)
        terms[-1] += np.log(1 + sum(np.exp(50 * (c - 0.5)) for c in others)) / 50
    assert value(metric_loss(loss="multi_similarity"), embeddings()) == pytest.approx(
        np.mean(terms), rel=1e-5
    )


def mined(**changes: object) -> tuple[np.ndarray, ...]:
    chosen = metric_loss(**changes).miner(torch.from_numpy(embeddings()), torch.from_numpy(LABELS))
    return tuple(part.numpy() for part in chosen)


def test_batch_hard_takes_the_farthest_of_its_own_and_the_nearest_other():
    d, expected = distances(), set()
    for a in range(7):  # the landmark of photo 7 has no other
        own = [k for k in range(8) if k != a and LABELS[k] == LABELS[a]]
        others = [k for k in range(8) if LABELS[k] != LABELS[a]]
        expected.add((a, max(own, key=lambda k: d[a, k]), min(others, key=lambda k: d[a, k])))
    assert set(zip(*mined(loss="triplet", miner="batch_hard"), strict=True)) == expected


def test_triplet_margin_takes_the_semi_hard_triplets_of_the_margin_of_the_loss():
    d = distances() ** 2
    for margin in (0.2, 0.8):
        expected = {(a, p, n) for a, p, n in triplets() if d[a, p] < d[a, n] < d[a, p] + margin}
        assert expected
        found = mined(loss="triplet", miner="triplet_margin", margin=margin)
        assert set(zip(*found, strict=True)) == expected


def test_multi_similarity_mines_what_is_worse_than_the_worst_of_the_other_kind():
    s, own, others = cosines(), set(), set()
    for i in range(7):
        same = [k for k in range(8) if k != i and LABELS[k] == LABELS[i]]
        different = [k for k in range(8) if LABELS[k] != LABELS[i]]
        own |= {(i, k) for k in same if s[i, k] < max(s[i, different]) + 0.1}
        others |= {(i, k) for k in different if s[i, k] > min(s[i, same]) - 0.1}
    a, p, b, n = mined(loss="multi_similarity", miner="multi_similarity")
    assert set(zip(a, p, strict=True)) == own
    assert set(zip(b, n, strict=True)) == others


def test_distance_weighted_draws_triplets_by_the_inverse_density_of_distances():
    torch.manual_seed(0)
    drawn: dict[int, int] = {}
    for _ in range(400):
        for a, _p, n in zip(*mined_once(), strict=True):
            if a == 0:
                drawn[int(n)] = drawn.get(int(n), 0) + 1
    d = np.maximum(distances()[0], 0.5)
    weight = np.where((LABELS != 0) & (d < 1.4), 1 / (d**3 * (1 - d**2 / 4)), 0.0)
    shares = np.array([drawn.get(n, 0) for n in range(8)]) / sum(drawn.values())
    np.testing.assert_allclose(shares, weight / weight.sum(), atol=0.05)


def mined_once() -> tuple[np.ndarray, ...]:
    miner = losses.MINERS["distance_weighted"](RECIPE)
    chosen = miner(torch.from_numpy(embeddings()), torch.from_numpy(LABELS))
    return tuple(part.numpy() for part in chosen)


def test_nothing_is_mined_for_validation_losses():
    loss = metric_loss(loss="triplet", miner="batch_hard")
    plain = value(metric_loss(loss="triplet"), embeddings())
    assert value(loss, embeddings()) != plain
    assert value(loss.eval(), embeddings()) == plain


def test_the_library_is_imported_only_for_its_losses():
    code = "import sys, landmarks.training.losses; print('pytorch_metric_learning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
