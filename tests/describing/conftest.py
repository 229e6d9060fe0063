import pytest
import torch
import torchvision
from safetensors.torch import save_file

from landmarks.describing import trunks

SIZE = 32


def pretrained(backbone="resnet18", weights="random", size=SIZE, seed=0, **settings):
    return trunks.pretrained(backbone, str(weights), size, "avgpool", seed, **settings)


@pytest.fixture(scope="module")
def network():
    """A whole torchvision network, with statistics in its BatchNorms as after training."""
    torch.manual_seed(7)
    network = torchvision.models.resnet18().train()
    with torch.no_grad():
        network(torch.rand(4, 3, SIZE, SIZE))
    return network.eval()


@pytest.fixture(scope="module")
def trunk(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "network.pth"
    torch.save(network.state_dict(), path)
    return pretrained(weights=path)


def save(path, state):
    """`state` in the form that the name of the file promises."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def load_tiny(path):
    return {
        name: torch.from_numpy(tensor) for name, tensor in pretrained("test_resnet", path).tensors().items()
    }
