import pytest

from landmarks.chain import METHODS, parse
from landmarks.reranking.reranker import STEPS


def test_every_method_is_applied_by_the_reranker():
    assert {*STEPS, "one", "two"} == set(METHODS)


@pytest.mark.parametrize(
    "text",
    [
        *METHODS,
        "dba+aqe+two",
        "dba+alpha_qe+k_reciprocal+two",
        "dba+diffusion",
        "geometric+aqe",  # expansion with verified results, as it was invented
        "k_reciprocal+geometric+two",
        "diffusion+aqe+k_reciprocal",
        "aqe+alpha_qe",
    ],
)
def test_what_makes_sense_is_parsed_in_order(text):
    assert "+".join(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("three", "there is no 'three'; allowed are one, dba, aqe, alpha_qe, k_reciprocal, diffusion, geo"),
        ("aqe+tow", "there is no 'tow'"),
        ("", "there is no ''"),
        ("aqe+", "there is no ''"),
        ("aqe + two", "there is no 'aqe '"),
        ("one+two", "one leaves the ranking as retrieved, and stands alone"),
        ("aqe+one", "stands alone"),
        ("two+dba", "two votes on the final ranking, and dba after it would undo its order; put two last"),
        ("dba+two+aqe", "put two last"),
        ("two+two", "put two last"),
        ("aqe+dba", "dba replaces the index that aqe has searched; put dba first"),
        ("dba+dba", "dba replaces the index that dba has searched"),
        ("geometric+k_reciprocal", "k_reciprocal orders by the descriptors alone, and would undo what geom"),
        ("k_reciprocal+diffusion", "diffusion orders by the descriptors alone, and would undo what k_recip"),
        ("aqe+geometric+aqe", "aqe stands there twice"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match="is not allowed: ") as caught:
        parse(text)
    assert str(caught.value).startswith(f"{text!r} is not allowed: ")
    assert reason in str(caught.value)
