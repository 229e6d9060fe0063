"""Each loss against its formula, written out in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from landmarks import losses, params

RECIPE = params.load(Path(__file__).parents[1] / "params.yaml").finetuned
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


@pytest.mark.parametrize(("margin", "scale"), [(None, None), (0.3, 10.0), (1.9, 4.0)])
def test_arcface_adds_the_margin_to_the_angle_of_the_landmark(margin: float | None, scale: float | None):
    loss, x = metric_loss(loss="arcface", margin=margin, scale=scale), embeddings()
    m, s = margin or 0.5, scale or 64
    logits = unit(x) @ unit(loss.loss.W.detach().numpy().T).T
    for i, y in enumerate(LABELS):
        angle = np.arccos(logits[i, y])
        logits[i, y] = np.cos(angle + m) if angle + m <= np.pi else logits[i, y] - m * np.sin(m)
    assert value(loss, x) == pytest.approx(softmax_loss(s * logits), rel=1e-4)


def test_the_default_triplet_loss_compares_squared_distances():
    x = embeddings()
    found = []
    for a in range(8):
        for p in range(8):
            for n in range(8):
                if a != p and LABELS[a] == LABELS[p] != LABELS[n]:
                    near, far = (((unit(x)[a] - unit(x)[k]) ** 2).sum() for k in (p, n))
                    found.append(max(0.0, near - far + 0.2))
    expected = np.mean([one for one in found if one > 0])
    assert 0 < sum(one > 0 for one in found) < len(found)
    assert value(metric_loss(loss="triplet"), x) == pytest.approx(expected, rel=1e-5)
