import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from landmarks import params
from landmarks.chain import METHODS, parse
from landmarks.errors import InputError
from landmarks.photos.catalog import Photo
from landmarks.photos.images import Crop
from landmarks.reranking import geometric
from landmarks.reranking._descriptors import norm_of
from landmarks.reranking.reranker import Index, Queries, Reranker
from landmarks.searching import rankings
from landmarks.searching.features import Store
from landmarks.searching.rankings import Block

OPTIONS = params.load(Path(__file__).parents[2] / "params.yaml").rerank_options
ANYWHERE = [Path("elsewhere.jpg")]


def store(vectors, classes=None, kind="timm", prefix="index"):
    classes = classes or ["a"] * len(vectors)
    photos = [Photo(f"{prefix}{row}", name) for row, name in enumerate(classes)]
    return Store(np.array(vectors, np.float32), photos, {"model_sha256": "12ab", "kind": kind})


def options(**changes):
    """The committed options with some changed, as in `aqe={"neighbours": 2}`."""
    values = OPTIONS.model_dump()
    for name, value in changes.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    return params.RerankOptions.model_validate(values)


def reranked(chain, queries, index, distance="L2", depth=None, chosen=OPTIONS):
    """The rankings as retrieved and as re-ranked, and the classes voted."""
    block = next(iter(rankings.retrieve(queries, index, distance, depth, 1 << 26)))
    photos = [Path(photo.image_path) for photo in queries.photos]
    reranker = Reranker(chain, index, distance, chosen)
    final, votes = reranker.rerank(photos, queries.features, block)
    return block, final, reranker.voted(votes)


def chains():
    """All that may be joined without photos, up to three methods."""
    names = [name for name in METHODS if name != "geometric"]
    for length in (1, 2, 3):
        for some in permutations(names, length):
            try:
                yield "+".join(parse("+".join(some)))
            except ValueError:
                continue


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(list(chains())),
    st.sampled_from(["L1", "L2", "L3"]),
    st.sampled_from(["timm", "vlad"]),
    st.integers(1, 12),
    st.none() | st.integers(1, 14),
    st.integers(1, 14),
    st.integers(0, 2**16),
)
def test_any_chain_ranks_each_photo_once_and_the_querys_own_never(
    chain, distance, kind, size, depth, shortlist, seed
):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 3, (size, 3)).astype(np.float32)  # with copies and zeros among them
    index = store(vectors, [*rng.choice(["a", "b"], size)], kind)
    queries = store(rng.integers(0, 3, (3, 3)), kind=kind, prefix="query")
    queries.photos[0] = index.photos[0]
    chosen = options(shortlist=shortlist, dba={"neighbours": 2}, alpha_qe={"neighbours": 2})
    before, after, voted = reranked(chain, queries, index, distance, depth, chosen)

    assert (after.rows.dtype, after.distances.dtype) == (np.int32, np.float32)
    assert after.rows.shape == before.rows.shape
    for query, (rows, distances) in enumerate(zip(*after, strict=True)):
        there = rows >= 0
        assert len({*rows[there]}) == there.sum() == (before.rows[query] >= 0).sum()
        assert (there == (np.arange(len(rows)) < there.sum())).all()
        assert np.isinf(distances[~there]).all()
        assert query or 0 not in rows
    assert all(name in ("a", "b", "") for name in voted)


@pytest.mark.parametrize("chain", ["aqe", "alpha_qe", "dba"])
@pytest.mark.parametrize("source", [Path, lambda path: Crop(Path(path), (0, 0, 9, 9))], ids=["photo", "crop"])
def test_a_querys_own_photo_may_be_kept(chain, source):
    index = store([[1, 0], [0.9, 0.1], [0, 1]])
    [block] = rankings.retrieve(index, index, "L2", None, 1 << 26, keep_own=True)
    sources = [source(photo.image_path) for photo in index.photos]
    for keep_own in (True, False):
        reranker = Reranker(chain, index, "L2", OPTIONS, keep_own=keep_own)
        after, _ = reranker.rerank(sources, index.features, block)
        found = [row in rows for row, rows in enumerate(after.rows)]
        assert found == [keep_own] * 3


def test_one_leaves_the_rankings_as_they_are_and_votes_on_them():
    index = store([[0], [1], [2], [3]], ["b", "a", "a", "b"])
    before, after, voted = reranked("one", store([[0.1]], prefix="q"), index)
    assert after is before
    assert voted == ["a"]


def test_nothing_to_vote_on_is_no_class():
    index = store([[1.0]])
    _, after, voted = reranked("two", store([[1.0]]), index)
    assert (after.rows.tolist(), voted) == ([[-1]], [""])


def test_expansion_reaches_a_far_positive_over_a_bridge():
    # On a circle: the query, photos of its landmark ever farther on, and another landmark on the other side.
    degrees = [15, 25, 40, -30, -35]
    index = store([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], [*"aaabb"])
    query = store([[1, 0]], prefix="q")
    chosen = options(aqe={"neighbours": 2}, alpha_qe={"neighbours": 2})
    for distance in ("L1", "L2", "L3"):
        for chain in ("aqe", "alpha_qe"):
            before, after, _ = reranked(chain, query, index, distance, chosen=chosen)
            assert before.rows.tolist() == [[0, 1, 3, 4, 2]]
            assert after.rows[0, :3].tolist() == [0, 1, 2]
            assert (np.diff(after.distances) >= 0).all()


def test_database_augmentation_averages_the_noise_of_descriptors_away():
    rng = np.random.default_rng(0)
    landmark = np.repeat(np.arange(4), 15)
    index = store(np.eye(30)[landmark] + rng.normal(0, 0.25, (60, 30)))
    queries = store(np.eye(30)[:4] + rng.normal(0, 0.25, (4, 30)), prefix="q")
    before, after, _ = reranked("dba", queries, index, chosen=options(dba={"neighbours": 5}))

    def precision(block):
        same = landmark[block.rows] == np.arange(4)[:, None]
        return np.mean([average_precision_score(row, -np.arange(60)) for row in same])

    assert precision(before) < 0.9
    assert precision(after) > 0.95


@pytest.mark.parametrize("distance", ["L1", "L2", "L3"])
def test_expansion_after_augmentation_is_what_scikit_learn_finds(distance):
    rng = np.random.default_rng(0)
    x, q = (rng.random((n, 6)).astype(np.float32) + 0.01 for n in (25, 4))
    order = 1 if distance == "L1" else 2
    x, q = (part / np.linalg.norm(part, order, axis=1, keepdims=True) for part in (x, q))
    metric = {"L1": "manhattan", "L2": "euclidean", "L3": "cosine"}[distance]

    def near(points, of=None):
        return NearestNeighbors(n_neighbors=3, metric=metric).fit(points).kneighbors(of)[1]

    def unit(points):
        return points / np.linalg.norm(points, order, axis=1, keepdims=True)

    augmented = unit(x + x[near(x)].sum(axis=1))
    asked = unit(q + augmented[near(augmented, q)].sum(axis=1))
    expected = cdist(asked, augmented, {"manhattan": "cityblock"}.get(metric, metric))
    chosen = options(dba={"neighbours": 3, "alpha": 0.0}, aqe={"neighbours": 3})
    _, after, _ = reranked("dba+aqe", store(q, prefix="q"), store(x), distance, chosen=chosen)
    np.testing.assert_allclose(after.distances, np.sort(expected), atol=1e-6)
    # Photos that have each other for neighbours become one and the same, so rows are told by their distance.
    np.testing.assert_allclose(after.distances, np.take_along_axis(expected, after.rows, 1), atol=1e-6)


def test_by_cosine_the_length_of_a_descriptor_does_not_weigh_in_the_average():
    vectors = np.random.default_rng(0).random((8, 3)).astype(np.float32)
    lengths = np.random.default_rng(1).uniform(0.1, 9, (8, 1)).astype(np.float32)
    query = store([[1, 1, 0]], prefix="q")
    for chain in ("aqe", "dba+alpha_qe"):
        _, plain, _ = reranked(chain, query, store(vectors), "L3")
        _, scaled, _ = reranked(chain, query, store(vectors * lengths), "L3")
        assert scaled.rows.tolist() == plain.rows.tolist()


@pytest.mark.parametrize("chain", ["k_reciprocal", "diffusion"])
@pytest.mark.parametrize("distance", ["L1", "L2", "L3"])
def test_only_the_shortlist_is_sorted_anew_and_distances_stay_beside_their_photos(chain, distance):
    rng = np.random.default_rng(0)
    index, queries = store(rng.random((30, 4))), store(rng.random((5, 4)), prefix="q")
    chosen = options(shortlist=20, diffusion={"neighbours": 4, "query_neighbours": 3})
    before, after, _ = reranked(chain, queries, index, distance, chosen=chosen)
    assert (after.rows != before.rows).any()
    np.testing.assert_array_equal(after.rows[:, 20:], before.rows[:, 20:])
    for query in range(5):
        found_at = dict(zip(before.rows[query].tolist(), before.distances[query].tolist(), strict=True))
        assert [found_at[row] for row in after.rows[query].tolist()] == after.distances[query].tolist()
        assert {*after.rows[query, :20]} == {*before.rows[query, :20]}


def test_diffusion_follows_a_chain_of_neighbours_past_what_is_nearer_to_the_query():
    # A chain of one landmark along a circle, and a crowd of another beside it.
    degrees = np.r_[np.arange(4, 64, 4), np.linspace(-24, -22, 10)]
    index = store(np.c_[np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], [*"a" * 15, *"b" * 10])
    chosen = options(diffusion={"neighbours": 3, "query_neighbours": 2})
    before, after, _ = reranked("diffusion", store([[1, 0]], prefix="q"), index, chosen=chosen)
    assert (before.rows[0, :15] >= 15).any()
    assert {*after.rows[0, :15].tolist()} == set(range(15))


def test_the_vote_is_on_what_all_methods_but_two_leave():
    degrees = [15, -16, 25, -17, 40]
    index = store([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], [*"abaca"])
    query = store([[1, 0]], prefix="q")
    chosen = options(aqe={"neighbours": 3}, vote_depth=2)
    assert reranked("one", query, index, chosen=options(vote_depth=4))[2] == ["a"]
    _, expanded, by_expansion = reranked("aqe", query, index, chosen=chosen)
    _, voted_first, voted = reranked("aqe+two", query, index, chosen=chosen)
    names = [index.photos[row].class_image for row in expanded.rows[0]]
    assert by_expansion == voted == [min(names[:2])] != [names[-1]]
    of_voted = [row for row in expanded.rows[0] if index.photos[row].class_image == voted[0]]
    assert voted_first.rows[0, : len(of_voted)].tolist() == of_voted


@pytest.mark.parametrize("chain", ["dba", "diffusion", "dba+aqe"])
def test_what_is_quadratic_in_the_index_is_refused_above_the_limit_with_what_is_not(chain):
    index = store(np.eye(4))
    Reranker(chain, index, "L1", options(max_quadratic=4))
    with pytest.raises(InputError, match=r"all 4 photos .* rerank_options\.max_quadratic is 3.* take aqe"):
        Reranker(chain, index, "L1", options(max_quadratic=3))
    Reranker("aqe+k_reciprocal+two", index, "L1", options(max_quadratic=3))


@pytest.mark.parametrize(
    ("chain", "changes", "told"),
    [
        (
            "k_reciprocal",
            {"shortlist": 200},
            "k_reciprocal, which compares the first 200 results .* set it to 7,",
        ),
        ("k_reciprocal", {"shortlist": 5000}, "the first 300 results .* lower rerank_options.shortlist"),
        ("aqe+k_reciprocal+two", {"shortlist": 100}, "the first 100 results .* set it to 2,"),
        ("k_reciprocal", {"shortlist": 50}, None),
        ("diffusion", {}, None),
        (
            "diffusion",
            {"diffusion": {"neighbours": 40}},
            "the graph of diffusion, of 300 photos, .* set it to 3,",
        ),
        ("dba+diffusion", {"diffusion": {"neighbours": 60}}, "lower rerank_options.diffusion.neighbours"),
        ("aqe+two", {}, None),
    ],
)
def test_what_does_not_keep_to_the_memory_says_so_before_it_starts(caplog, chain, changes, told):
    index = store(np.random.default_rng(0).random((300, 4)))
    Reranker(chain, index, "L1", options(**changes), memory=1 << 20)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (told is not None)
    if told:
        assert re.search(f"^retrieve.memory: 1 MB are not kept to, since .*{told}", messages[0])
        caplog.clear()
        enough = int(re.search(r"set it to (\d+),", messages[0])[1])
        Reranker(chain, index, "L1", options(**changes), memory=enough << 20)
        assert not caplog.records


@pytest.mark.parametrize("norm", [1, 2, None])
@pytest.mark.parametrize("size", [3, 256, 700])
def test_the_norm_is_that_of_all_rows_but_zeros_and_of_the_first_alone(norm, size):
    rows = np.random.default_rng(size).random((size, 5)).astype(np.float32)
    if norm:
        rows /= np.linalg.norm(rows, norm, axis=1, keepdims=True)
    rows[: size // 2] = 0
    assert norm_of(rows, size) == norm
    assert norm_of(rows[::-1], size) == norm
    assert norm_of(rows, size // 2) is None
    rows[-1] *= 2
    assert norm_of(rows, size) is None
    assert norm_of(rows, size - 1) == (norm if size - 1 > size // 2 else None)


def test_a_chain_that_makes_no_sense_is_an_input_error():
    with pytest.raises(InputError, match=r"rerank: 'two\+dba' is not allowed: two votes"):
        Reranker("two+dba", store([[1]]), "L1", OPTIONS)


def test_geometric_puts_the_verified_first_and_only_they_expand_the_query(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("query", "index0", "index1", "index2"):
        Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).resize((240, 240)).save(
            tmp_path / f"{name}.png"
        )
    Image.open(tmp_path / "query.png").rotate(8).save(tmp_path / "index2.png")
    photos = [Photo((tmp_path / f"index{row}.png").as_posix(), "a") for row in range(3)]
    index = store([[1], [2], [6]])._replace(photos=photos)
    block = Block(np.array([[0, 1, 2]], np.int32), np.array([[1, 2, 6]], np.float32))
    descriptors = np.zeros((1, 1), np.float32)
    for query in (tmp_path / "query.png", (tmp_path / "query.png").read_bytes()):
        after, _ = Reranker("geometric", index, "L1", OPTIONS).rerank([query], descriptors, block)
        assert (after.rows.tolist(), after.distances.tolist()) == ([[2, 0, 1]], [[6, 1, 2]])
    after, _ = Reranker("geometric", index, "L1", options(shortlist=2)).rerank([query], descriptors, block)
    assert after.rows.tolist() == [[0, 1, 2]]

    # Only what was verified is averaged with the query: (0 + 6) / 2.
    after, _ = Reranker("geometric+aqe", index, "L1", OPTIONS).rerank([query], descriptors, block)
    assert (after.rows.tolist(), after.distances.tolist()) == ([[1, 0, 2]], [[1, 2, 3]])


def test_of_a_query_that_is_part_of_a_photo_that_part_is_matched(tmp_path):
    """The left half shows what one photo of the index shows, the right half what the other one does."""
    rng = np.random.default_rng(0)
    halves = [
        Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).resize((240, 240)) for _ in range(2)
    ]
    both = Image.new("L", (480, 240))
    for row, half in enumerate(halves):
        half.rotate(8).save(tmp_path / f"{row}.png")
        both.paste(half, (240 * row, 0))
    both.save(tmp_path / "query.png")
    index = store([[1], [2]])._replace(photos=[Photo(f"{row}.png", "a") for row in range(2)])
    block = Block(np.array([[0, 1]], np.int32), np.array([[1, 2]], np.float32))
    reranker = Reranker("geometric", index, "L1", OPTIONS, root=tmp_path)
    for row in range(2):
        query = Crop(Path("query.png"), (240.0 * row, 0.0, 240.0 * (row + 1), 240.0))
        after, _ = reranker.rerank([query], np.zeros((1, 1), np.float32), block)
        assert after.rows.tolist() == [[row, 1 - row]]


def test_what_was_verified_is_forgotten_where_the_index_is_searched_anew():
    """By place: after a search, other photos stand there."""
    index = Index(store([[1], [2], [6]]), "L1", Path(), keep_own=False, memory=1 << 20)
    block = Block(np.array([[2, 0, 1]], np.int32), np.array([[1, 2, 6]], np.float32))
    queries = Queries(ANYWHERE, np.array([[5]], np.float32), block, np.array([[True, False, False]]))
    found = index.search(queries)
    assert found.ranking.rows.tolist() == [[2, 1, 0]]
    assert found.verified is None


@pytest.mark.parametrize(("memory", "kept"), [(1, False), (1 << 20, False), (8 << 20, True)])
def test_geometric_keeps_the_features_of_as_many_photos_as_the_memory_has_room_for(
    tmp_path, monkeypatch, make_photo, memory, kept
):
    paths = [make_photo(tmp_path / f"{seed}.jpg", seed) for seed in range(6)]
    index = store([[1]] * 5)._replace(photos=[Photo(path.as_posix(), "a") for path in paths[:5]])
    described, features = [], geometric.local_features
    monkeypatch.setattr(
        geometric, "local_features", lambda *photo: described.append(photo) or features(*photo)
    )
    geometric.forget()
    block = Block(np.array([[0, 1, 2, 3, 4]] * 3, np.int32), np.ones((3, 5), np.float32))
    reranker = Reranker("geometric", index, "L1", OPTIONS, memory=memory)
    reranker.rerank([paths[5]] * 3, np.ones((3, 1), np.float32), block)
    geometric.forget()
    assert (len(described) == 3 + 5) == kept
