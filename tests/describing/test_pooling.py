import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from landmarks.describing import pooling, trunks
from landmarks.describing.pooling import regions
from landmarks.errors import InputError

MAPS = np.random.default_rng(0).gamma(0.5, 2.0, (2, 6, 5, 9)).astype(np.float32)


def pooled(name, maps=MAPS, gem_p=3.0):
    with torch.no_grad():
        return pooling.pooling(name, gem_p)(torch.from_numpy(maps)).numpy()


def test_avg_and_max_are_the_mean_and_the_maximum_of_each_channel():
    assert_allclose(pooled("avg"), MAPS.reshape(2, 6, 45).mean(2), rtol=1e-6)
    assert_allclose(pooled("max"), MAPS.reshape(2, 6, 45).max(2))


@pytest.mark.parametrize("p", [1.0, 2.5, 3.0])
def test_gem_is_the_mean_of_powers_and_clips_what_is_negative(p):
    maps = MAPS.astype(np.float64)
    expected = (maps**p).mean((2, 3)) ** (1 / p)
    assert_allclose(pooled("gem", gem_p=p), expected, rtol=1e-5)
    below = MAPS.copy()
    below[:, :, 0] = -3
    maps[:, :, 0] = 1e-6
    assert_allclose(pooled("gem", below, p), (maps**p).mean((2, 3)) ** (1 / p), rtol=1e-5)


def test_gem_lies_between_the_mean_and_the_maximum():
    assert_allclose(pooled("gem", gem_p=1.0), pooled("avg"), rtol=1e-5)
    assert_allclose(pooled("gem", MAPS / MAPS.max(), 60.0) * MAPS.max(), pooled("max"), rtol=0.07)


def test_the_regions_of_a_square_map_are_those_of_the_paper():
    assert list(regions(8, 8)) == [
        (0, 0, 8),
        *[(top, left, 5) for top in (0, 3) for left in (0, 3)],
        *[(top, left, 4) for top in (0, 2, 4) for left in (0, 2, 4)],
    ]


def test_the_regions_of_a_long_map_overlap_by_two_fifths():
    # 10 x 22: at l = 1, m = 3 regions 6 apart overlap by 0.4, 2 would by -0.2 and 4 by 0.6.
    found = list(regions(22, 10))
    assert found[:3] == [(0, 0, 10), (6, 0, 10), (12, 0, 10)]
    assert found[3:11] == [(top, left, 6) for top in (0, 5, 10, 16) for left in (0, 4)]
    assert len(found) == 3 + 4 * 2 + 5 * 3
    assert sorted((left, top, side) for top, left, side in found) == sorted(regions(10, 22))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (7, 7), (6, 7), (10, 3), (3, 40)])
def test_regions_lie_within_the_map_and_cover_it_lengthwise(height, width):
    found = list(regions(height, width))
    assert all(0 <= t <= t + s <= height and 0 <= le <= le + s <= width for t, le, s in found)
    covered = {x for top, left, side in found for x in range(left, left + side)}
    assert covered == set(range(width))


def test_rmac_is_the_sum_of_unit_maxima_of_the_regions():
    expected = np.zeros((2, 6))
    for top, left, side in regions(5, 9):
        for photo in range(2):
            maxima = [
                max(MAPS[photo, c, y, x] for y in range(top, top + side) for x in range(left, left + side))
                for c in range(6)
            ]
            expected[photo] += maxima / np.sqrt(np.sum(np.square(maxima)))
    expected /= np.sqrt((expected**2).sum(1, keepdims=True))
    assert_allclose(pooled("rmac"), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def photo(tmp_path_factory, make_photo):
    return make_photo(tmp_path_factory.mktemp("photos") / "photo.jpg", size=(90, 60))


def feature_map(trunk, layer=None):
    net = trunk.net
    found = []
    if layer is None:
        return net.forward_features(torch.ones(1, 3, 64, 64))
    net.get_submodule(layer).register_forward_hook(lambda *args: found.append(args[-1]))
    net(torch.ones(1, 3, 64, 64))
    return found[0]


@pytest.mark.parametrize(
    ("backbone", "layer"), [("resnet18", "layer4"), ("efficientnet_lite0", None), ("resnet18", "layer3.0")]
)
@pytest.mark.parametrize("name", ["max", "gem", "rmac"])
def test_the_last_feature_map_or_that_of_the_layer_is_pooled(backbone, layer, name):
    asked = layer if layer and "." in layer else "avgpool"
    settings = (backbone, "random", 64)
    plain = trunks.pretrained(*settings, "avgpool", 0)
    other = trunks.pretrained(*settings, asked, 0, pooling=name, gem_p=2.0)
    with torch.no_grad():
        expected = pooling.pooling(name, 2.0)(feature_map(plain, layer))
        assert_allclose(other.net(torch.ones(1, 3, 64, 64)), expected, rtol=1e-5)
    assert other.dimensions == expected.shape[1]


@pytest.mark.parametrize("name", ["avg", "max", "gem", "rmac"])
@pytest.mark.parametrize("resize", ["stretch", "keep"])
def test_openvino_pools_like_torch_or_says_that_it_cannot(photo, name, resize):
    trunk = trunks.pretrained("test_resnet", "random", 64, "avgpool", 0, pooling=name, resize=resize)
    [expected] = trunk.describe([photo], 1)
    trunk.execution = trunks.Execution("openvino")
    if (name, resize) == ("rmac", "keep"):
        with pytest.raises(InputError, match=r"extract\.engine: .*resize: keep.*set it to torch"):
            list(trunk.describe([photo], 1))
        return
    [found] = trunk.describe([photo], 1)
    assert_allclose(found, expected, atol=1e-5)


def test_a_network_without_a_feature_map_is_refused_by_name():
    for backbone in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        with pytest.raises(InputError, match=f"pooling: {backbone} has no feature map to pool.*set pooling"):
            trunks.pretrained(backbone, "random", 224, "avgpool", 0, pooling="gem")


def test_a_layer_that_is_not_there_is_refused_with_some_that_are():
    with pytest.raises(InputError, match=r"layer: 'layer5' is no module of resnet18; .* like layer"):
        trunks.pretrained("resnet18", "random", 32, "layer5", 0)
