"""What a network looked at: with points as without, where it lies in the crop, and how it is drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from care_cli import encoders, explain, registry
from care_cli.errors import CareError
from care_cli.pages.cells import CELL
from care_cli.pages.heat_sheet import RAMP, Column, Looked, heat_sheet, overlay
from care_cli.preparation import Preparation
from care_cli.records import KeypointScheme

TINY = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3}
EYES = KeypointScheme(("left_eye", "right_eye"), {"left_eye": "right_eye", "right_eye": "left_eye"})
HEADER = {"method": "ckpe", "architecture": "vit_tiny_patch16_224", "options": TINY, "input_size": 64,
          "mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bicubic", "crop_pct": 1.0,
          "crop_mode": "squash"}  # fmt: skip


def keypoint_vit(mode: str):
    import torch

    torch.manual_seed(0)
    options = {"names": list(EYES.names), "mirrors": EYES.mirrors, "mode": mode}
    model = encoders.build_embedder("vit_tiny_patch16_224", TINY, options)
    with torch.no_grad():
        model.embeddings.mul_(50)  # as if much had been learned of points
    return model


def by_differences(norm, ask) -> np.ndarray:
    """The map `(N,)` of patches by the definition: tokens behind `norm`, weighted by finite differences of y, which
    `ask` asks for, in each channel."""
    import torch

    step, held = 1e-5, []

    def raised(channel: int, by: float) -> float:
        def hook(module, given, answer):
            held.append(answer[0, 1:].numpy())
            answer = answer.clone()
            answer[:, 1:, channel] += by
            return answer

        handle = norm.register_forward_hook(hook)
        with torch.no_grad():
            y = float(ask())
        handle.remove()
        return y

    slopes = [(raised(c, step) - raised(c, -step)) / (2 * step) for c in range(norm.normalized_shape[0])]
    tokens = held[0]  # (N, channels)
    return (tokens @ np.array(slopes) / len(tokens)).clip(0)


@pytest.mark.parametrize("mode", ["ckpe", "kpe"])
def test_a_network_with_points_is_explained_with_them(mode):
    """Weights of channels are finite differences of y, asked with the points, at the inner network's tokens."""
    import torch

    model = keypoint_vit(mode).double().eval()
    pixels, prototype = torch.randn((1, 3, 64, 64)).double(), torch.randn(24).double()
    points = torch.tensor([[[0.1, 0.1, 1.0], [0.9, 0.6, 1.0]]]).double()
    score = explain.cosine_to(prototype)
    expected = by_differences(model.vit.blocks[-1].norm1, lambda: score(model(pixels, points))).reshape(4, 4)
    heat = explain.gradcam_vit(model, pixels, score, lambda pixels: model(pixels, points))
    assert expected.max() > 0
    np.testing.assert_allclose(heat, expected, rtol=1e-4, atol=1e-6 * expected.max())
    assert np.abs(explain.gradcam_vit(model, pixels, score) - expected).max() > 0.05 * expected.max()


def test_a_checkpoint_with_points_is_loaded_and_asked(tmp_path):
    encoders.save_embedder(keypoint_vit("ckpe"), tmp_path / "own.safetensors", HEADER)
    spec = registry.find(tmp_path / "own.safetensors", task="embedder")
    network = explain.load(spec, tmp_path / "own.safetensors")
    assert network.scheme == EYES and network.is_vit
    noise = np.random.default_rng(1).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    images = [Image.fromarray(one) for one in noise]
    points = np.array([[[0.3, 0.3, 1], [0, 0, 0]], [[0.7, 0.2, 1], [0.1, 0.9, 1]]], np.float32)
    plain, told = network.features(images), network.features(images, points)
    assert not np.allclose(plain, told)
    np.testing.assert_allclose(network.features(images, np.zeros_like(points)), plain, rtol=1e-5, atol=1e-6)
    score = explain.cosine_to(told[1])
    heat = network.heat(images[0], score, points[0])
    assert heat.shape == (4, 4) and heat.min() >= 0
    assert not np.allclose(heat, network.heat(images[0], score))
    assert network.covered((120, 90)) == (0, 0, 120, 90)


def test_networks_of_others_are_refused(tmp_path):
    with pytest.raises(CareError, match="Grad-CAM takes a network of timm's or a CLIP"):
        explain.load(registry.find("stable-diffusion-2-1"), tmp_path / "none")


sides = st.integers(30, 400)


@settings(max_examples=60, deadline=None)
@given(
    width=sides, height=sides, mode=st.sampled_from(["center", "border", "squash"]), pct=st.sampled_from([0.875, 1.0])
)
def test_what_the_input_covers(width, height, mode, pct):
    """A picture whose red is x and green is y tells where each pixel of the input was taken from."""
    y, x = np.mgrid[:height, :width] + 0.5
    picture = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 255)], 2).round().astype(np.uint8)
    preparation = Preparation(96, mode, "bilinear", pct)
    seen = preparation(Image.fromarray(picture)).astype(float)
    left, top, w, h = preparation.covered((width, height))
    row, column = np.mgrid[:96, :96] + 0.5
    expected = np.stack([(left + column * w / 96) / width, (top + row * h / 96) / height], 2)
    inside = (seen[..., 2] > 250) & (expected > 0.03).all(2) & (expected < 0.97).all(2)  # the rest is filled or an edge
    assert inside.any()
    assert np.abs(seen[..., :2] / 255 - expected)[inside].max() < 0.02 + 1.5 / min(width, height)


def test_an_overlay_worked_by_hand():
    """Half of a grey crop is hot, half cold, its left fifth was not seen; one point is shown, one is not."""
    crop = Image.new("RGB", (CELL, CELL), (100, 100, 100))
    heat = np.zeros((2, 2), np.float32)
    heat[:, 1] = 5
    points = np.array([[0.5, 0.25, 1], [0.5, 0.75, 0]], np.float32)
    drawn = np.asarray(overlay(crop, Looked(heat, (40.0, 0.0, CELL - 40.0, CELL), points))).astype(float)
    np.testing.assert_allclose(drawn[5, 5], 0.4 * 100 + 0.6 * 255, atol=1)  # pale
    np.testing.assert_allclose(drawn[-5, -5], (100 + RAMP[-1]) / 2, atol=1)
    np.testing.assert_allclose(drawn[-5, 45], (100 + RAMP[0]) / 2, atol=1)
    ring = drawn[CELL // 4 - 8 : CELL // 4 + 8, CELL // 2 - 8 : CELL // 2 + 8]
    assert (ring == 255).all(2).any() and (ring == 0).all(2).any()
    assert not (drawn[CELL // 2 :] == 255).all(2).any()


def test_an_input_beyond_the_crop_and_a_map_of_nothing():
    crop = Image.new("RGB", (100, 50), (90, 90, 90))
    drawn = np.asarray(overlay(crop, Looked(np.zeros((3, 3), np.float32), (0.0, -25.0, 100.0, 100.0))))
    assert drawn.shape == (CELL // 2, CELL, 3)
    np.testing.assert_allclose(drawn.astype(float), np.broadcast_to((90 + RAMP[0]) / 2, drawn.shape), atol=1)


def test_a_sheet_of_maps_has_a_row_for_each_model():
    stream = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(stream, "JPEG")
    jpeg = stream.getvalue()
    looked, sizes = Looked(np.ones((2, 2), np.float32), (0.0, 0.0, 60.0, 40.0)), []
    for models in (["vit"], ["vit", "ckpe " * 30]):
        columns = [Column(jpeg, "<b>Moss</b>", [looked, None][: len(models)], None, "")] * 2
        sizes.append(Image.open(io.BytesIO(heat_sheet(models, columns, "t", "s"))).size)
    assert sizes[1][1] - sizes[0][1] >= CELL and sizes[0][0] == sizes[1][0]


@pytest.mark.parametrize("whole", [False, True])
def test_a_clip_tower_is_explained_by_the_tokens_before_its_last_block(whole):
    """A portrait's grid; weights of channels are finite differences of y, as for timm's."""
    import torch

    from care_cli import clip
    from tests.miniatures import SMALL_CLIP, small_clip

    model = small_clip() if whole else clip.ImageTower(**clip.image_options(SMALL_CLIP))
    model = model.double().eval()
    pixels = torch.randn((1, 3, 64, 32)).double()
    score = explain.cosine_to(torch.randn(model(pixels).shape[1]).double())
    expected = by_differences(model.visual.transformer.resblocks[-1].ln_1, lambda: score(model(pixels))).reshape(4, 2)
    assert explain.is_vit(model)
    assert explain.gradcam_vit(model, pixels, score) == pytest.approx(expected, abs=1e-6)
