"""The Inception network of the FID: names and shapes of its weights, its preprocessing, and what is refused."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vaelid.data.store import cache_folder
from vaelid.errors import DataError, MachineError
from vaelid.scoring import fid_weights
from vaelid.scoring.fid_weights import WEIGHTS, Inception, as_bytes, inception
from vaelid.scoring.inception import SIDE, Block, InceptionNet, enlarge

# Published: torch-fidelity's converted file; a few shapes from each kind of block.
SHAPES = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_2b_3x3.bn.running_var": (64,),
    "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
    "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
    "Mixed_5d.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
    "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
    "Mixed_6e.branch7x7_3.conv.weight": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch1x1.conv.weight": (320, 1280, 1, 1),
    "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch3x3_2a.bn.bias": (384,),
    "fc.weight": (1008, 2048),
    "fc.bias": (1008,),
}
#: torchvision publishes 27,161,264 with its auxiliary classifier (3,326,696) and 1000 classes; here there are 1008 and none.
PARAMETERS = 27_161_264 - 3_326_696 + 8 * (2048 + 1)


@pytest.fixture(scope="module")
def net() -> InceptionNet:
    torch.manual_seed(0)
    return InceptionNet().eval()


def test_names_and_shapes_are_those_of_the_published_weights(net: InceptionNet) -> None:
    state = net.state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    units = {name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")}
    assert len(units) == 94
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"{unit}.{part}" for unit in units for part in ("conv.weight", *(f"bn.{name}" for name in norm))}
    assert set(state) == expected | {"fc.weight", "fc.bias"}
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS


def test_the_last_block_has_a_maximum_pool(net: InceptionNet) -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    pooled = {name: block.pool(x)[0, 0, 0, 0].item() for name, block in net.named_children() if isinstance(block, Block)}
    averages = {"Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b"}
    assert {name for name in averages if pooled[name] == (0 + 1 + 3 + 4) / 4} == averages, "the padding does not count"
    assert pooled["Mixed_7c"] == 4
    assert {pooled["Mixed_6a"], pooled["Mixed_7a"]} == {8}


def test_features_and_logits(net: InceptionNet) -> None:
    with torch.no_grad():
        features, logits = net(torch.full((1, 3, 32, 32), 128.0))
    assert (features.shape, logits.shape) == ((1, 2048), (1, 1008))
    assert torch.allclose(logits, features @ net.fc.weight.T), "the bias is left out"


def tensorflow_1(x: Tensor, side: int) -> Tensor:
    """``tf.image.resize_bilinear`` without align_corners or half-pixel centers, pixel by pixel."""
    height, width = x.shape
    out = torch.empty(side, side, dtype=x.dtype)
    for i in range(side):
        for j in range(side):
            r, c = i * height / side, j * width / side
            r0, c0 = int(r), int(c)
            r1, c1 = min(r0 + 1, height - 1), min(c0 + 1, width - 1)
            top = x[r0, c0] + (x[r0, c1] - x[r0, c0]) * (c - c0)
            bottom = x[r1, c0] + (x[r1, c1] - x[r1, c0]) * (c - c0)
            out[i, j] = top + (bottom - top) * (r - r0)
    return out


@pytest.mark.parametrize(("height", "width", "side"), [(4, 6, 13), (28, 28, 30), (16, 9, 7)])
def test_images_are_enlarged_as_tensorflow_1_did(height: int, width: int, side: int) -> None:
    x = torch.rand(height, width, dtype=torch.float64) * 255
    assert torch.allclose(enlarge(x[None, None], side)[0, 0], tensorflow_1(x, side), atol=1e-9)


def test_enlarging_differs_from_what_torch_offers() -> None:
    ramp = torch.tensor([[[[0.0, 100.0]]]])
    assert enlarge(ramp, 4)[0, 0, 0].tolist() == [0, 50, 100, 100]
    assert functional.interpolate(ramp, (4, 4), mode="bilinear")[0, 0, 0].tolist() == [0, 25, 75, 100]
    assert enlarge(torch.zeros(1, 3, 28, 28)).shape == (1, 3, SIDE, SIDE)


def test_pixels_become_bytes() -> None:
    x = torch.tensor([0.0, 1 / 255, 0.5, 1.0]).view(1, 1, 2, 2)
    assert as_bytes(x)[0, 2].flatten().tolist() == [0, 1, 128, 255]
    assert as_bytes(x).shape == (1, 3, 2, 2)
    with pytest.raises(DataError, match=r"gray or RGB pictures; images of shape \(2, 4, 4\) came"):
        as_bytes(torch.zeros(1, 2, 4, 4))
    with pytest.raises(DataError, match=r"pixels in \[0, 1\]; these lie between -1 and 0"):
        as_bytes(torch.tensor([-1.0, 0.0]).view(1, 1, 1, 2))


def test_weights_are_loaded_from_the_published_file_only(
    net: InceptionNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    file = tmp_path / "weights.pth"
    file.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"is not the published .* may not be called FID") as refused:
        inception(file)
    assert "https://github.com/toshas/torch-fidelity" in refused.value.remedy
    with pytest.raises(DataError, match="which is no file"):
        inception(tmp_path / "missing.pth")
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    monkeypatch.setattr(fid_weights, "WEIGHTS", replace(WEIGHTS, checksum=f"sha256:{digest}"))
    found = inception(file)
    assert (found.name, found.digest) == ("inception", digest)
    assert isinstance(found.to(torch.device("cpu")), Inception)
    features = found(torch.rand(2, 1, 8, 8))
    assert features.values.shape == (2, 2048)
    assert features.log_probabilities is not None
    assert features.log_probabilities.exp().sum(1).tolist() == pytest.approx([1, 1], rel=1e-4)


def test_weights_that_cannot_be_had_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAELID_DATA", raising=False)
    monkeypatch.setattr(fid_weights, "WEIGHTS", replace(WEIGHTS, urls=("http://127.0.0.1:9/none",)))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(MachineError) as caught:
        inception(None)
    assert "weights-inception-2015-12-05-6726825d.pth is missing" in caught.value.problem
    for text in ("Fetch http://127.0.0.1:9/none (91 MB) elsewhere, and name it with --weights", "VAELID_DATA"):
        assert text in caught.value.remedy
    assert str(cache_folder()) in caught.value.problem


def test_the_checksum_is_the_one_in_the_name() -> None:
    assert WEIGHTS.checksum.removeprefix("sha256:")[:8] in WEIGHTS.place
