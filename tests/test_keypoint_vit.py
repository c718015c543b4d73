"""Networks that are told of points, against the formulas in NumPy: masks, KPE, pooled KPE and CKPE, and checkpoints."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli import checkpoints, embedders, encoders, registry
from care_cli.backbones import STEM_VIT, fold_neck
from care_cli.encoders import build_embedder
from care_cli.errors import CareError
from care_cli.geometry import to_crop
from care_cli.keypoint_vit import token_mask
from care_cli.keypoints.inputs import points_hash, shares
from care_cli.records import CropFrame, Keypoints, KeypointScheme

NAMES = ("left_eye", "right_eye", "nose")
KEYPOINTS = {"names": list(NAMES), "mirrors": {"left_eye": "right_eye", "right_eye": "left_eye"}, "mode": "ckpe"}
SCHEME = KeypointScheme(NAMES, KEYPOINTS["mirrors"])
MODES = ("ckpe", "kpe", "kpe-pooled")
MODELS = {  # name: options, tokens before those of patches, where tokens enter
    "class token": ("test_vit", {"img_size": 64}, 1, "norm_pre"),
    "averaged": ("test_vit2", {"img_size": 64}, 1, "norm_pre"),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 1}, 5, "norm_pre"),
    "small": ("vit_small_patch16_224", {"depth": 1}, 1, "norm_pre"),
    "rotary": ("vit_small_patch16_dinov3", {"img_size": 64, "depth": 1}, 5, "blocks.0"),
    "our own": (STEM_VIT, {"img_size": 64, "widths": (8, 16, 24), "num_heads": 3}, 1, "norm_pre"),
    "windows": ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (1, 1, 1, 1)}, 0, "layers.0"),
}
TINY = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def made(architecture: str, options: dict, **how) -> torch.nn.Module:
    """A network with large keypoint embeddings, always the same."""
    torch.manual_seed(5)
    model = build_embedder(architecture, options, KEYPOINTS | how).eval()
    torch.nn.init.normal_(model.embeddings)
    return model


def side_of(model) -> int:
    return model.vit.patch_embed.img_size[0]


def photos(model, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side_of(model), side_of(model), generator=torch.Generator().manual_seed(1))


def points_of(*photos) -> torch.Tensor:
    return torch.tensor(photos, dtype=torch.float32)


SEEN = ((0.1, 0.3, 1.0), (0.9, 0.6, 0.5), (0.52, 0.55, 0.9))
HIDDEN = ((0.1, 0.3, 0.0), (0.9, 1.2, 1.0), (0.0, 0.0, 0.0))


def entering(model, module: str, images, points) -> np.ndarray:
    """The tokens `(B,T,d)` that a module gets."""
    kept = []
    hook = model.vit.get_submodule(module).register_forward_pre_hook(lambda _, tokens: kept.append(tokens[0]))
    with torch.no_grad():
        model(images, points)
    hook.remove()
    return kept[0].flatten(1, -2).numpy()


# -- masks


def test_a_mask_by_hand():
    """Two rows of three patches; category 1 is given by two columns of points."""
    points = points_of(
        [(0.0, 0.0, 1.0), (0.4, 0.9, 0.25), (0.5, 0.6, 0.5), (0.6, 0.7, 0.25)],  # corner; two of one category together
        [(0.34, 0.2, 0.5), (0.5, 0.1, 1.0), (0.9, 0.9, 0.0), (0.2, 1.01, 1.0)],  # two categories in a patch; unseen
        [(1.0, 1.0, 1.0), (-0.01, 0.5, 1.0), (float("nan"), 0.5, 1.0), (0.5, 0.5, float("nan"))],  # the far corner
    )
    categories = torch.tensor([0, 1, 2, 1])
    expected = np.zeros((3, 6, 3))
    expected[0, 0, 0] = expected[0, 4, 1] = expected[0, 4, 2] = 1
    expected[1, 1, 0] = expected[1, 1, 1] = 1
    expected[2, 5, 0] = 1
    np.testing.assert_array_equal(token_mask(points, categories, 3, (2, 3)).numpy(), expected)
    expected[0, 4, 1], expected[0, 4, 2], expected[1, 1, 0] = 0.25 + 0.25, 0.5, 0.5
    np.testing.assert_array_equal(token_mask(points, categories, 3, (2, 3), soft=True).numpy(), expected)


def test_points_of_a_category_in_one_patch_weigh_one_at_most():
    points = points_of([(0.1, 0.1, 0.8), (0.2, 0.2, 0.7)])
    for soft in (False, True):
        mask = token_mask(points, torch.tensor([0, 0]), 1, (1, 2), soft)
        np.testing.assert_array_equal(mask.numpy(), [[[1], [0]]])


POINT = st.tuples(*[st.floats(-0.5, 1.5, width=32)] * 2, st.sampled_from([0.0, 0.25, 1.0]))


@settings(max_examples=200, deadline=None)
@given(st.lists(POINT, min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_masks_are_what_a_loop_over_points_gives(points, height, width, soft):
    expected = np.zeros((height * width, 3), np.float32)
    for column, (x, y, weight) in enumerate(points):
        if weight > 0 and 0 <= x <= 1 and 0 <= y <= 1:
            u = min(int(np.floor(np.float32(x) * np.float32(width))), width - 1)
            v = min(int(np.floor(np.float32(y) * np.float32(height))), height - 1)
            expected[v * width + u, column % 3] += weight if soft else 1
    mask = token_mask(points_of(points), torch.arange(len(points)) % 3, 3, (height, width), soft)[0]
    np.testing.assert_array_equal(mask.numpy(), np.minimum(expected, 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=3, max_size=3))
def test_a_flipped_photo_has_the_flipped_mask_of_swapped_categories(places):
    """In 64ths of the photo, none of which is an inner edge of a patch when there are 3, but both outer ones are."""
    points = points_of([(u / 64, v / 64, 1.0) for u, v in places])
    flipped = points[:, list(SCHEME.swap)] * torch.tensor([-1.0, 1, 1]) + torch.tensor([1.0, 0, 0])
    before, after = (token_mask(one, torch.arange(3), 3, (3, 3)).view(3, 3, 3) for one in (points, flipped))
    np.testing.assert_array_equal(after.numpy(), before.flip(1)[..., list(SCHEME.swap)].numpy())


# -- tokens


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_tokens_get_what_the_formula_says(name, mode):
    """A photo with three visible points, and one with none that is visible and inside."""
    architecture, options, prefix, module = MODELS[name]
    model = made(architecture, options, mode=mode, scale=0.5)
    images, points = photos(model), points_of(SEEN, HIDDEN)
    height, width = model.vit.patch_embed.grid_size
    plain, marked = (entering(model, module, images, one) for one in (None, points))
    embeddings = model.embeddings.detach().numpy()
    expected = plain.copy()
    patches = [prefix + int(y * height) * width + int(x * width) for x, y, _ in SEEN]
    assert len(set(patches)) == 3 and plain.shape[1] == prefix + height * width
    for category, patch in enumerate(patches):
        if mode == "ckpe":
            expected[0, patch] += 0.5 * embeddings[category]
        elif mode == "kpe":
            expected[0, patch] += 0.5 * embeddings[patch]
        else:
            expected[0, prefix:] += 0.5 * embeddings[patch]
    np.testing.assert_allclose(marked, expected, atol=2e-6)
    assert embeddings.shape == ((3 if mode == "ckpe" else plain.shape[1]), plain.shape[2])


@pytest.mark.parametrize("name", MODELS)
def test_without_points_the_backbone_answers_alone(name):
    architecture, options, *_ = MODELS[name]
    model = made(architecture, options)
    images = photos(model)
    with torch.no_grad():
        alone = model.vit(images)
        assert torch.equal(model(images), alone)
        assert torch.equal(model(images, points_of(HIDDEN, HIDDEN)), alone)
        both = model(images, points_of(SEEN, HIDDEN))
    assert torch.equal(both[1], alone[1]) and (both[0] - alone[0]).abs().max() > 1e-4
    assert both.shape == (2, model.num_features)


@pytest.mark.parametrize("mode", MODES)
def test_soft_masks_weigh_by_confidence(mode):
    model = made("test_vit", {"img_size": 64}, mode=mode, soft=True)
    images, half = photos(model, 1), [(0.3, 0.3, 0.5), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    whole = [(0.3, 0.3, 1.0), *half[1:]]
    plain, weak, strong = (
        entering(model, "norm_pre", images, one) for one in (None, points_of(half), points_of(whole))
    )
    np.testing.assert_allclose(2 * (weak - plain), strong - plain, atol=2e-6)
    assert np.abs(strong - plain).max() > 0.1


def test_several_points_in_a_patch_count_once_for_the_place_and_each_for_its_category():
    together, row = points_of([(0.3, 0.3, 1.0), (0.31, 0.31, 1.0), (0.0, 0.0, 0.0)]), 1 + 3 * 10 + 3
    for mode, rows in (("ckpe", [0, 1]), ("kpe", [row])):
        model = made("test_vit", {"img_size": 160}, mode=mode)  # patches of 16 px
        images = photos(model, 1)
        plain, marked = (entering(model, "norm_pre", images, one) for one in (None, together))
        expected = sum(model.embeddings[one].detach().numpy() for one in rows)
        np.testing.assert_allclose((marked - plain)[0, row], expected, atol=2e-6)


def test_places_are_resampled_for_a_photo_of_another_size_as_positions_are():
    """timm's own resampling of position embeddings, of a network that takes any size."""
    model = made("test_vit", {"img_size": 64, "dynamic_img_size": True}, mode="kpe")
    images = torch.zeros(1, 3, 96, 128)
    plain, marked = (entering(model, "norm_pre", images, one) for one in (None, points_of(SEEN)))
    grid = model.embeddings.detach()[None, 1:]
    resampled = timm.layers.resample_abs_pos_embed(grid, [6, 8], [4, 4], num_prefix_tokens=0)[0].numpy()
    expected = np.zeros_like(plain)
    for x, y, _ in SEEN:
        patch = int(y * 6) * 8 + int(x * 8)
        expected[0, 1 + patch] += resampled[patch]
    np.testing.assert_allclose(marked - plain, expected, atol=2e-6)


@pytest.mark.parametrize("mode", ["ckpe", "kpe"])
def test_weights_of_another_photo_size_are_resampled(mode):
    """As timm resamples the position embeddings of the backbone, from the grid that they were learned on."""
    sizes = ((64, 96), (96, 96))
    small, large = (made("vit_tiny_patch16_224", TINY | {"img_size": size}, mode=mode) for size in sizes)
    torch.nn.init.normal_(small.embeddings)
    weights = encoders.on_grid_of(large, small, small.state_dict())
    encoders.load_weights(large, dict(weights), Path("small"))
    for ours, theirs in ((large.embeddings, small.embeddings), (large.vit.pos_embed[0], small.vit.pos_embed[0])):
        expected = theirs
        if len(theirs) != 3:
            expected = timm.layers.resample_abs_pos_embed(theirs[None], [12, 12], [8, 12], num_prefix_tokens=1)[0]
        torch.testing.assert_close(ours, expected)
    assert len(large.embeddings) == (3 if mode == "ckpe" else 1 + 12 * 12)
    with pytest.raises(CareError, match=r"lack vit\.cls_token"):
        encoders.load_weights(large, {k: v for k, v in weights.items() if k != "vit.cls_token"}, Path("w"))


def test_places_of_a_network_without_positions_are_resampled():
    options = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 1), "window_size": 2}
    small, large = (
        made("swin_tiny_patch4_window7_224", options | {"img_size": size}, mode="kpe") for size in ((16, 64), (32, 32))
    )
    found = encoders.on_grid_of(large, small, small.state_dict())["embeddings"]
    expected = timm.layers.resample_abs_pos_embed(small.embeddings[None], [8, 8], [4, 16], num_prefix_tokens=0)[0]
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, small.embeddings)


def test_positions_in_a_shape_of_their_own_are_left_to_timm():
    small, large = (
        timm.create_model("samvit_base_patch16", img_size=size, embed_dim=12, depth=1, num_heads=1, num_classes=0)
        for size in (64, 96)
    )
    weights = small.state_dict()
    assert weights["pos_embed"].ndim == 4
    assert torch.equal(encoders.on_grid_of(large, small, weights)["pos_embed"], weights["pos_embed"])


def test_what_is_learned_reaches_the_embeddings_that_were_used():
    for mode, used in (("ckpe", [0, 2]), ("kpe", [1 + 1 * 4 + 0, 1 + 2 * 4 + 2])):
        model = made("test_vit", {"img_size": 64}, mode=mode).train()
        points = points_of((SEEN[0], HIDDEN[1], SEEN[2]))
        model(photos(model, 1), points).square().sum().backward()
        rows = model.embeddings.grad.abs().sum(1).nonzero().flatten().tolist()
        assert rows == used
        assert "embeddings" in model.no_weight_decay() and "vit.pos_embed" in model.no_weight_decay()


def test_untrained_embeddings_are_small():
    torch.manual_seed(0)
    model = build_embedder("vit_small_patch16_224", {"depth": 1}, KEYPOINTS | {"mode": "kpe"})
    assert model.embeddings.std().item() == pytest.approx(0.02, rel=0.02) and model.embeddings.abs().max() <= 2


def test_checkpointing_changes_no_gradient():
    model = made("test_vit", {"img_size": 64})
    images, grads = photos(model, 1), []
    for on in (False, True):
        model.train().vit.set_grad_checkpointing(on)
        model.zero_grad()
        model(images, points_of(SEEN)).square().sum().backward()
        grads.append(model.embeddings.grad.clone())
    torch.testing.assert_close(*grads)


def test_a_failed_call_leaves_nothing_behind():
    model = made("test_vit", {"img_size": 64})
    images = photos(model)
    before = model(images)
    with pytest.raises(RuntimeError):
        model(images, torch.zeros(3, 3, 3))  # the points of three photos for two
    assert torch.equal(model(images), before)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images, points_of(SEEN, SEEN)), model(images, points_of(SEEN, SEEN)))


@pytest.mark.parametrize(
    ("architecture", "options", "how", "says"),
    [
        ("test_resnet", {}, {}, "no patch tokens"),
        ("mobilenetv2_100", {}, {}, "no patch tokens"),
        ("test_vit", {}, {"mode": "tokens"}, "ckpe, kpe, kpe-pooled, but got 'tokens'"),
        ("vit_small_patch16_dinov3", {"depth": 1, "patch_drop_rate": 0.1}, {}, "patch_drop_rate"),
    ],
)
def test_what_cannot_take_points_is_refused(architecture, options, how, says):
    with pytest.raises(CareError, match=says):
        build_embedder(architecture, options, KEYPOINTS | how)


# -- the neck


@pytest.mark.parametrize("name", ["class token", "averaged", "rotary", "our own", "windows"])
def test_a_neck_folds_into_whatever_norm_stands_last(name):
    architecture, options, *_ = MODELS[name]
    model = made(architecture, options)
    neck = torch.nn.BatchNorm1d(model.num_features, affine=False).eval()
    neck.running_mean.normal_()
    neck.running_var.uniform_(0.5, 2.0)
    images, points = photos(model), points_of(SEEN, HIDDEN)
    with torch.no_grad():
        behind = neck(model(images, points))
        fold_neck(model, neck)
        torch.testing.assert_close(model(images, points), behind, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit3", "test_vit4"])  # none; attention behind; no bias
def test_a_neck_that_cannot_be_folded_is_refused(architecture):
    with pytest.raises(CareError, match="does not end in a norm"):
        fold_neck(build_embedder(architecture), torch.nn.BatchNorm1d(64, affine=False))


# -- a crop's points


def crop_points(**changed) -> Keypoints:
    values = {
        "names": ("nose", "left_eye", "tail"),
        "kp_image": np.array([(40.0, 30.0), (25.5, 21.25), (60.0, 50.0)]),
        "confidence": np.array([0.75, 0.5, 1.0], np.float32),
        "visible": np.array([True, True, True]),
    }
    return Keypoints(7, **values | changed)


FRAME = CropFrame(7, "animal", "Lynx", (22.0, 21.0, 36.0, 36.0), (20, 20, 40, 80), (33, 70), (320, 240))


def test_shares_of_the_crop_by_category():
    """In the model's order; what it was not taught is left out."""
    expected = [(5.5 / 40, 1.25 / 80, 0.5), (0, 0, 0), (0.5, 0.125, 0.75)]
    found = shares(SCHEME, crop_points(), FRAME)
    np.testing.assert_allclose(found, np.float32(expected), rtol=1e-6)
    assert found.dtype == np.float32
    in_crop = to_crop(crop_points().kp_image, FRAME.rect, FRAME.size) / FRAME.size
    np.testing.assert_allclose(found[[2, 0], :2], in_crop[:2], rtol=1e-6)
    assert not shares(SCHEME, None, FRAME).any()
    hidden = shares(SCHEME, crop_points(visible=np.array([False, True, True])), FRAME)
    assert not hidden[2].any() and hidden[0].any()
    faint = shares(SCHEME, crop_points(confidence=np.array([-0.2, 2.0, 1.0], np.float32)), FRAME)
    assert 0 < faint[2, 2] < 0.01 and faint[0, 2] == 1


def test_the_hash_is_of_what_is_shown_and_nothing_else():
    own = points_hash(SCHEME, crop_points())
    same = crop_points(kp_image=np.array([(40.0, 30.0), (25.5, 21.25), (1.0, 2.0)]))  # a point that is not shown
    order = [1, 0, 2]
    turned = Keypoints(
        7,
        ("left_eye", "nose", "tail"),
        crop_points().kp_image[order],
        crop_points().confidence[order],
        crop_points().visible[order],
    )
    assert points_hash(SCHEME, same) == points_hash(SCHEME, turned) == own
    others = [
        None,
        crop_points(visible=np.array([True, False, True])),
        crop_points(kp_image=np.array([(40.0, 30.5), (25.5, 21.25), (60.0, 50.0)])),
        crop_points(confidence=np.array([0.7, 0.5, 1.0], np.float32)),
    ]
    assert len({own, *(points_hash(SCHEME, one) for one in others)}) == 5
    nothing = crop_points(visible=np.zeros(3, bool))
    assert points_hash(SCHEME, nothing) == points_hash(SCHEME, None)
    assert points_hash(KeypointScheme(("ear",)), crop_points()) == points_hash(KeypointScheme(("ear",)), None)


# -- checkpoints and engines


def saved(path: Path, **how) -> torch.nn.Module:
    """A checkpoint of a small network, and the network with the numbers that half precision keeps."""
    model = made("vit_tiny_patch16_224", TINY, **how)
    header = {
        "method": "ckpe",
        "architecture": "vit_tiny_patch16_224",
        "options": TINY,
        "input_size": 64,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    encoders.save_embedder(model, path, header)
    model.load_state_dict({k: t.half().float() if t.ndim > 1 else t for k, t in model.state_dict().items()})
    return model


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("how", [{"mode": "ckpe"}, {"mode": "kpe", "soft": True}, {"mode": "kpe-pooled", "scale": 0.3}])
def test_a_checkpoint_comes_back_with_its_points(tmp_path, engine, how):
    """Alone and in batches, with points, without, and both in one batch."""
    path = tmp_path / "own.safetensors"
    model = saved(path, **how)
    assert checkpoints.read_header(path)["keypoints"] == {**KEYPOINTS, "soft": False, "scale": 1.0, **how}
    embedder = embedders.load_embedder(registry.find(path), path, engine=engine)
    assert (embedder.engine, embedder.scheme) == (engine, SCHEME)
    json.dumps(embedder.settings)
    squares = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    batch = squares.repeat(8, 1).repeat(8, 2)
    points = np.random.default_rng(1).random((7, 3, 3)).astype(np.float32)
    points[[1, 4]] = 0
    inputs = torch.from_numpy((batch / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        told, alone = (
            torch.nn.functional.normalize(model(inputs, one)).numpy() for one in (torch.from_numpy(points), None)
        )
    np.testing.assert_allclose(embedder.embed(batch, points), told, atol=3e-6)
    np.testing.assert_allclose(embedder.embed(batch), alone, atol=3e-6)
    np.testing.assert_allclose(embedder.embed(batch[2:3], points[2:3]), told[2:3], atol=3e-6)
    np.testing.assert_allclose(told[[1, 4]], alone[[1, 4]], atol=3e-6)
    assert np.abs(told - alone)[[0, 2, 3, 5, 6]].max(1).min() > 1e-3
    assert embedder.embed(batch[:0], points[:0]).shape == (0, 48)


def test_a_model_without_points_has_no_scheme(root):
    spec = registry.find("demo-embedder")
    if checkpoints.read_header(registry.fetch(spec)).get("keypoints"):
        pytest.skip("the demo's embedder sees points")
    assert embedders.load_embedder(spec, registry.fetch(spec), engine="torch").scheme is None


@pytest.mark.parametrize(
    "keypoints",
    [
        [],
        {},
        {"names": ["a"]},
        KEYPOINTS | {"mode": "other"},
        KEYPOINTS | {"mode": ["ckpe"]},
        KEYPOINTS | {"names": []},
        KEYPOINTS | {"names": ["a"] * 2},
        KEYPOINTS | {"names": "abc"},
        KEYPOINTS | {"names": [f"n{i}" for i in range(201)]},
        KEYPOINTS | {"names": ["left\x1b[2J"]},
        KEYPOINTS | {"mirrors": {"left_eye": "right_eye"}},
        KEYPOINTS | {"mirrors": {"left_eye": ["right_eye"]}},
        KEYPOINTS | {"soft": "yes"},
        KEYPOINTS | {"scale": 1e9},
        KEYPOINTS | {"scale": None},
    ],
)
def test_headers_that_no_model_has_are_refused(tmp_path, keypoints):
    path = tmp_path / "hostile.safetensors"
    header = json.dumps({"__metadata__": {"care": json.dumps({"task": "embedder", "keypoints": keypoints})}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CareError, match="keypoints must be a table"):
        checkpoints.read_header(path)


def test_weights_of_another_number_of_points_do_not_fit(tmp_path):
    path, other = tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    model = saved(path)
    header = checkpoints.read_header(path) | {"keypoints": KEYPOINTS | {"names": ["a", "b"], "mirrors": {}}}
    checkpoints.save(other, model.state_dict(), header)
    with pytest.raises(CareError, match="differ in shape in embeddings"):
        embedders.load_embedder(registry.find(other), other)
