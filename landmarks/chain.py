"""Which re-ranking methods there are, and which of them may follow each other."""

from itertools import pairwise
from typing import NamedTuple


class Method(NamedTuple):
    """How a method stands to the order of the results."""

    reorders: bool
    """It gives the first results another order, which a new search would not find."""
    uses_order: bool
    """What it makes depends on the order that the methods before it left."""


METHODS = {
    "one": Method(reorders=False, uses_order=True),
    "dba": Method(reorders=False, uses_order=False),
    "aqe": Method(reorders=False, uses_order=True),
    "alpha_qe": Method(reorders=False, uses_order=True),
    "k_reciprocal": Method(reorders=True, uses_order=False),
    "diffusion": Method(reorders=True, uses_order=False),
    "geometric": Method(reorders=True, uses_order=True),
    "two": Method(reorders=True, uses_order=True),
}


def parse(text: str) -> tuple[str, ...]:
    """The methods that `text` joins by `+`, in the order in which they are applied.

    Raises `ValueError` with the reason if one is unknown or the combination makes no sense.
    """
    names = tuple(text.split("+"))
    reason = _unknown(names) or _senseless(names)
    if reason:
        raise ValueError(f"{text!r} is not allowed: {reason}")
    return names


def _unknown(names: tuple[str, ...]) -> str:
    allowed = ", ".join(METHODS)
    return next((f"there is no {name!r}; allowed are {allowed}" for name in names if name not in METHODS), "")


def _senseless(names: tuple[str, ...]) -> str:
    if len(names) > 1 and "one" in names:
        return "one leaves the ranking as retrieved, and stands alone"
    for before, name in pairwise(names):
        if before == "two":
            return f"two votes on the final ranking, and {name} after it would undo its order; put two last"
        if name == "dba":
            return f"dba replaces the index that {before} has searched; put dba first"
        if METHODS[before].reorders and not METHODS[name].uses_order:
            return f"{name} orders by the descriptors alone, and would undo what {before} did"
    repeated = next((name for name in names if names.count(name) > 1), "")
    return f"{repeated} stands there twice" if repeated else ""
