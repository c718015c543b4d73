"""Grad-CAM against a toy worked by hand, finite differences and brute force."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from care_cli import explain, registry
from care_cli.errors import CareError
from care_cli.keypoints import gradcam


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Smooth colour fields, wider than high."""
    small = np.random.default_rng(3).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((300, 120), Image.Resampling.BICUBIC) for one in small]


def saved(name: str, folder: Path) -> Path:
    """Weights of a timm model drawn at random, classifier included."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(timm.create_model(name, pretrained=False).state_dict(), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def toy():
    """A 1x1 convolution to two channels, then 3 times the mean of the first less twice that of the second."""
    import torch

    class Toy(torch.nn.Module):
        feature_info = ({"module": "stage"},)

        def __init__(self) -> None:
            super().__init__()
            self.stage = torch.nn.Conv2d(3, 2, 1, bias=False)
            self.stage.weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, :, None, None]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.stage(x).relu_().mean((2, 3))[0]
            return (3 * first - 2 * second)[None, None]

    return Toy()


def test_a_map_worked_by_hand():
    """dy/dA = (3, -2) / 4 in each of four cells, so M = ReLU(3 A_1 - 2 A_2) / 4."""
    import torch

    red, green = [[4.0, 1.0], [0.0, 2.0]], [[1.0, 2.0], [3.0, 2.0]]
    pixels = torch.tensor([red, green, [[9.0, 9.0], [9.0, 9.0]]])[None]
    # the ReLU is shut where A_1 is 0: there its gradient is 0 and the first weight is 3 * 3/4 / 4
    expected = np.maximum(3 * 0.75 * np.array(red) - 2 * np.array(green), 0) / 4
    heat = explain.gradcam_cnn(toy(), pixels, lambda y: y[0, 0])
    np.testing.assert_allclose(heat, expected, rtol=1e-6)
    assert toy().stage.weight.grad is None


TINY = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3}


@pytest.mark.parametrize(
    ("name", "options", "stage"),
    [("vit_tiny_patch16_224", TINY, "blocks.1.norm1"), ("test_resnet", {}, "layer4")],
)
def test_weights_of_channels_are_finite_differences(name, options, stage):
    """The sum over cells of dy/dA_c is how y answers to a little more of channel c everywhere."""
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0, **options).double().eval()
    pixels = torch.randn((1, 3, 64, 64), dtype=torch.float64)
    prototype = torch.randn(model.num_features, dtype=torch.float64)
    score = explain.cosine_to(prototype)
    tokens = stage.endswith("norm1")
    prefix = model.num_prefix_tokens if tokens else 0
    held = {}

    def raised(channel: int, by: float) -> float:
        def hook(module, given, answer):
            held["maps"] = answer
            answer = answer.clone()
            (answer[:, prefix:, channel] if tokens else answer[:, channel]).add_(by)
            return answer

        handle = model.get_submodule(stage).register_forward_hook(hook)
        with torch.no_grad():
            y = float(score(model(pixels)))
        handle.remove()
        return y

    step = 1e-5
    channels = model.num_features
    slopes = np.array([(raised(c, step) - raised(c, -step)) / (2 * step) for c in range(channels)])
    maps = held["maps"][0].numpy()
    maps = maps[prefix:].T.reshape(channels, 4, 4) if tokens else maps
    cells = maps.shape[1] * maps.shape[2]
    expected = ((slopes / cells)[:, None, None] * maps).sum(0).clip(0)
    assert explain.is_vit(model) == tokens
    heat = (explain.gradcam_vit if tokens else explain.gradcam_cnn)(model, pixels, score)
    assert expected.max() > 0
    np.testing.assert_allclose(heat, expected, rtol=1e-4, atol=1e-6 * expected.max())


heats = st.integers(0, 2**32 - 1).map(
    lambda seed: (lambda r: r.integers(-3, 9, r.integers(1, 12, 2)).astype(np.float32))(np.random.default_rng(seed))
)


@settings(max_examples=60, deadline=None)
@given(heat=heats, k=st.integers(1, 8), radius=st.floats(0, 0.6))
def test_peaks_are_those_of_brute_force(heat, k, radius):
    height, width = heat.shape
    order = sorted((-value, i) for i, value in enumerate(heat.ravel().tolist()) if value > 0)
    kept: list[tuple[int, int]] = []
    for _, i in order:
        row, column = divmod(i, width)
        if all(((row - r) / height) ** 2 + ((column - c) / width) ** 2 > radius**2 for r, c in kept):
            kept.append((row, column))
    assert [tuple(cell) for cell in gradcam.strongest(heat, k, radius).tolist()] == kept[:k]


@pytest.mark.parametrize(("name", "source"), [("test_vit", "gradcam-vit"), ("test_resnet", "gradcam-resnet")])
def test_peaks_lie_in_the_crop_at_its_own_scale(tmp_path, pictures, name, source):
    """On a crop, and on the same one at twice the size: the same places, in px of each."""
    spec = registry.find(f"timm:{name}", weights=saved(name, tmp_path))
    file = Path(spec.file)
    points, said = gradcam.peaks(spec, file, pictures[0], 3, pictures[1:])
    assert said == source
    assert [one.name for one in points] == ["peak_1", "peak_2", "peak_3"]
    assert all(0 < one.x < 300 and 0 < one.y < 120 and one.mirror is None for one in points)
    assert (points, said) == gradcam.peaks(spec, file, pictures[0], 3, pictures[1:])
    grid = 10 if name == "test_vit" else 5
    cells = np.array([[one.x * grid / 300, one.y * grid / 120] for one in points])
    np.testing.assert_allclose(cells % 1, 0.5, atol=1e-6)


def test_the_class_of_a_logit_is_looked_at(shared):
    """Where ImageNet's MobileNetV2 sees its own best class lies in the animal's box far more often than by chance."""
    import timm
    import torch
    from safetensors.torch import load_file

    folder = shared / "data" / "keypoints" / "animal_pose_cat_dog"
    weights = shared / "weights" / "timm_mobilenetv2_100_fp16.safetensors"
    spec = registry.find("timm:mobilenetv2_100", weights=weights)
    model = timm.create_model("mobilenetv2_100", pretrained=False).eval()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    said = json.loads((folder / "annotations.coco.json").read_text())
    boxes: dict[int, list] = {}
    for one in said["annotations"]:
        boxes.setdefault(one["image_id"], []).append(one["bbox"])
    inside, share = [], []
    for entry in [one for one in said["images"] if len(boxes.get(one["id"], ())) == 1][:14]:
        x, y, w, h = boxes[entry["id"]][0]
        image = Image.open(folder / "images" / Path(entry["file_name"]).name).convert("RGB")
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
        mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        with torch.no_grad():
            best = int(model(torch.tensor((pixels - mean) / std).float()[None]).argmax())
        (point,), _ = gradcam.peaks(spec, weights, image, 1, logit=best)
        inside.append(x <= point.x <= x + w and y <= point.y <= y + h)
        share.append(w * h / (image.width * image.height))
    print(f"in the box: {np.mean(inside):.2f}, by chance {np.mean(share):.2f}")
    assert np.mean(inside) > np.mean(share) + 0.2


def test_what_can_not_be_answered_is_refused(tmp_path, pictures):
    spec = registry.find("timm:test_resnet", weights=saved("test_resnet", tmp_path))
    file = Path(spec.file)
    with pytest.raises(CareError, match="name some crops first"):
        gradcam.peaks(spec, file, pictures[0], 3)
    with pytest.raises(CareError, match="at least 1"):
        gradcam.peaks(spec, file, pictures[0], 0, pictures[1:])
    with pytest.raises(CareError, match="ask for fewer"):
        gradcam.peaks(spec, file, pictures[0], 26, pictures[1:])
    with pytest.raises(CareError, match="knows classes 0 to 999, but got 1000"):
        gradcam.peaks(spec, file, pictures[0], 1, logit=1000)
    with pytest.raises(CareError, match="timm's or a CLIP"):
        gradcam.peaks(registry.find("stable-diffusion-2-1"), file, pictures[0], 1, pictures[1:])
    with pytest.raises(CareError, match="do not fit"):
        gradcam.peaks(registry.find("timm:test_vit", weights=file), file, pictures[0], 1, pictures[1:])
