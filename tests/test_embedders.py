"""Embedders against plain timm, open_clip and NumPy on the same pixels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from care_cli import checkpoints, embedders, encoders, registry
from care_cli.errors import CareError
from care_cli.evaluation.metrics import leave_one_out
from care_cli.preparation import Preparation
from care_cli.records import ModelSpec

TINY = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
HEADER = {
    "method": "vit",
    "architecture": "vit_tiny_patch16_224",
    "options": TINY,
    "input_size": 64,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "crop_mode": "squash",
}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Smooth colour fields of several shapes, and one in grey."""
    random = np.random.default_rng(5)
    small = [random.integers(0, 256, (7, 9, 3), dtype=np.uint8) for _ in range(3)]
    sizes = [(320, 200), (150, 260), (64, 64)]
    colour = [Image.fromarray(p).resize(s, Image.BICUBIC) for p, s in zip(small, sizes, strict=True)]
    return [*colour, colour[0].convert("L")]


@pytest.fixture(params=["torch", "openvino"])
def engine(request) -> str:
    """What is held to plain torch, timm and open_clip must hold in either engine."""
    return request.param


def noise(count: int, size: int, seed: int = 1) -> np.ndarray:
    """Crops `(count, size, size, 3) uint8` of coloured squares."""
    squares = np.random.default_rng(seed).integers(0, 256, (count, size // 8, size // 8, 3), np.uint8)
    return squares.repeat(8, 1).repeat(8, 2)


def normalised(batch: np.ndarray, mean, std) -> np.ndarray:
    """`(B,3,S,S) float32` of crops `(B,S,S,3) uint8`, by the definition."""
    return ((batch.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)).transpose(0, 3, 1, 2)


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def described(family: str, architecture: str, file: Path, **more) -> ModelSpec:
    return ModelSpec(name="m", task="embedder", family=family, architecture=architecture, file=str(file), **more)


@pytest.mark.parametrize(
    ("name", "file", "dim"),
    [
        ("mobilenetv2_100", "timm_mobilenetv2_100_fp16.safetensors", 1280),
        ("tiny_vit_5m_224", "timm_tiny_vit_5m_224_fp16.safetensors", 320),
    ],
)
def test_real_weights_give_what_plain_timm_gives(shared, name, file, dim, engine):
    import timm
    import torch
    from safetensors.torch import load_file

    weights = shared / "weights" / file
    photos = sorted((shared / "data/camera_trap/speciesnet_edge_cases").glob("*.jpg"))[:3]
    images = [Image.open(path).convert("RGB").resize((640, 420)) for path in photos]
    spec = registry.find(f"timm:{name}", weights=weights)
    embedder = embedders.load_embedder(spec, registry.fetch(spec), engine=engine)

    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    batch = torch.stack([transform(image) for image in images])
    with torch.no_grad():
        expected = unit(model(batch).numpy())

    ours = np.stack([embedder.transform(image) for image in images])
    config = timm.data.resolve_model_data_config(model)
    np.testing.assert_allclose(normalised(ours, config["mean"], config["std"]), batch.numpy(), atol=1e-6)
    vectors = embedder.embed(ours)
    assert vectors.dtype == np.float32 and vectors.shape == (len(images), dim) and embedder.dim == dim
    np.testing.assert_allclose(vectors, expected, atol=1e-5 if engine == "torch" else 1e-4)
    assert (vectors * expected).sum(1).min() >= 0.9999 and embedder.engine == engine


def test_own_checkpoint_comes_back_as_it_was(tmp_path, engine):
    import torch

    torch.manual_seed(3)
    model = encoders.build_backbone("vit_tiny_patch16_224", **TINY).eval()
    path = tmp_path / "own.safetensors"
    encoders.save_embedder(model, path, HEADER | {"metrics": {"top1": 0.5}})
    assert checkpoints.read_header(path)["metrics"] == {"top1": 0.5}
    spec = registry.find(path, task="embedder")
    embedder = embedders.load_embedder(spec, path, engine=engine)
    batch = noise(5, 64)
    for name, tensor in model.state_dict().items():  # what half precision keeps of each matrix
        model.state_dict()[name].copy_(tensor.half() if tensor.ndim > 1 else tensor)
    with torch.no_grad():
        expected = unit(model(torch.from_numpy(normalised(batch, HEADER["mean"], HEADER["std"]))).numpy())
    np.testing.assert_allclose(embedder.embed(batch), expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(embedder.embed(batch), axis=1), 1, atol=1e-6)
    assert embedder.settings["method"] == "vit" and json.dumps(embedder.settings)


def test_own_preprocessing_is_what_the_header_says(tmp_path, pictures):
    model = encoders.build_backbone("vit_tiny_patch16_224", **TINY)
    path = tmp_path / "own.safetensors"
    encoders.save_embedder(model, path, HEADER)
    embedder = embedders.load_embedder(registry.find(path), path)
    for picture in pictures:
        expected = np.asarray(picture.convert("RGB").resize((64, 64), Image.BILINEAR))
        np.testing.assert_array_equal(embedder.transform(picture), expected)


def test_classifier_is_dropped_and_nothing_else(tmp_path):
    import timm
    from safetensors.torch import save_file

    state = timm.create_model("test_vit", pretrained=False, num_classes=7).state_dict()
    path = tmp_path / "w.safetensors"
    spec = described("timm", "test_vit", path)
    save_file(state, path)
    assert embedders.load_embedder(spec, path).dim == 64

    save_file({**state, "neck.weight": state["norm.weight"].clone()}, path)
    with pytest.raises(CareError, match=r"have beside it neck\.weight"):
        embedders.load_embedder(spec, path)

    save_file({k: v for k, v in state.items() if k != "cls_token"}, path)
    with pytest.raises(CareError, match="lack cls_token"):
        embedders.load_embedder(spec, path)

    save_file({**state, "norm.weight": state["norm.weight"][:5].clone()}, path)
    with pytest.raises(CareError, match=r"differ in shape in norm\.weight"):
        embedders.load_embedder(spec, path)


def test_torch_state_dicts_load_and_pickles_do_not(tmp_path, pictures):
    import timm
    import torch

    model = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    path = tmp_path / "w.pth"
    spec = described("timm", "test_vit", path)
    torch.save({"state_dict": {f"module.{k}": v.half() for k, v in model.state_dict().items()}}, path)
    embedder = embedders.load_embedder(spec, path)
    batch = np.stack([embedder.transform(picture) for picture in pictures])
    with torch.no_grad():
        expected = unit(model(torch.from_numpy(normalised(batch, *[[0.5] * 3] * 2))).numpy())
    np.testing.assert_allclose(embedder.embed(batch), expected, atol=5e-3)

    torch.save(model, path)
    with pytest.raises(CareError, match="more than weights"):
        embedders.load_embedder(spec, path)


def test_open_clip_gives_what_open_clip_gives(tmp_path, pictures, engine):
    import open_clip
    import torch
    from open_clip.transform import image_transform
    from safetensors.torch import save_file

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 12},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "care-tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model = open_clip.create_model("care-tiny-clip").eval()
    path = tmp_path / "clip.safetensors"
    save_file(model.state_dict(), path)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    spec = described("open_clip", "care-tiny-clip", path, mean=mean, std=std)
    embedder = embedders.load_embedder(spec, path, engine=engine)
    transform = image_transform(48, is_train=False, mean=mean, std=std)
    batch = torch.stack([transform(picture.convert("RGB")) for picture in pictures])
    ours = np.stack([embedder.transform(picture) for picture in pictures])
    np.testing.assert_allclose(normalised(ours, mean, std), batch.numpy(), atol=1e-6)
    with torch.no_grad():
        expected = model.encode_image(batch, normalize=True).numpy()
    np.testing.assert_allclose(embedder.embed(ours), expected, atol=2e-6)
    assert (embedder.dim, embedder.settings["input_size"]) == (24, 48)


def test_miewid_pools_by_generalised_mean_and_batch_norm(tmp_path, engine):
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    backbone = timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()
    width = backbone.num_features
    random = np.random.default_rng(2)
    norm = {
        "bn.weight": random.uniform(0.5, 2, width),
        "bn.bias": random.normal(size=width),
        "bn.running_mean": random.normal(size=width),
        "bn.running_var": random.uniform(0.5, 2, width),
    }
    state = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    state |= {name: torch.from_numpy(value).float() for name, value in norm.items()}
    state |= {"pooling.p": torch.tensor([2.5]), "final.weight": torch.zeros(3, width)}
    path = tmp_path / "miewid.safetensors"
    save_file(state, path)
    spec = described("miewid", "test_efficientnet", path, input_size=96)
    embedder = embedders.load_embedder(spec, path, engine=engine)

    batch = noise(3, 96)
    inputs = normalised(batch, embedder.settings["mean"], embedder.settings["std"])
    with torch.no_grad():
        maps = backbone.forward_features(torch.from_numpy(inputs)).numpy().astype(float)
    pooled = (np.maximum(maps, 1e-6) ** 2.5).mean((2, 3)) ** (1 / 2.5)
    scaled = (pooled - norm["bn.running_mean"]) / np.sqrt(norm["bn.running_var"] + 1e-5)
    np.testing.assert_allclose(embedder.embed(batch), unit(scaled * norm["bn.weight"] + norm["bn.bias"]), atol=1e-5)
    assert (embedder.settings["input_size"], embedder.settings["crop_mode"]) == (96, "squash")


# Preparation, against timm's and open_clip's own transforms

ODD = [(1, 1), (7, 300), (301, 5), (64, 64), (65, 63), (223, 225), (640, 427), (97, 96), (40, 41)]


def odd_pictures() -> list[Image.Image]:
    random = np.random.default_rng(8)
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), np.uint8)) for w, h in ODD]


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.95, 0.9])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preparation_equals_timm(mode, crop_pct, interpolation):
    from timm.data import create_transform

    mean = (0.485, 0.456, 0.406)
    ours = Preparation(96, mode, interpolation, crop_pct, fill=tuple(round(255 * value) for value in mean))
    theirs = create_transform(
        (3, 96, 96), interpolation=interpolation, crop_pct=crop_pct, crop_mode=mode, mean=mean, normalize=False
    )
    for picture in odd_pictures():
        if mode == "border" and min(picture.size) * 96 / max(picture.size) < 2:
            continue  # timm asks Pillow for a side of nothing
        expected = np.asarray(theirs(picture)).transpose(1, 2, 0)
        np.testing.assert_array_equal(ours(picture), expected)


@pytest.mark.parametrize(("resize", "mode"), [("shortest", "center"), ("longest", "border"), ("squash", "squash")])
@pytest.mark.parametrize("size", [48, 97])
def test_preparation_equals_open_clip(resize, mode, size):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=size, resize_mode=resize, mean=(0, 0, 0), std=(1, 1, 1), fill_color=9)
    theirs = image_transform_v2(config, is_train=False)
    ours = Preparation(size, mode, "bicubic", 1.0, fill=(9, 9, 9))
    for picture in odd_pictures():
        if resize == "longest" and min(picture.size) * size / max(picture.size) < 2:
            continue  # a side of nothing
        expected = np.rint(theirs(picture).numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
        np.testing.assert_array_equal(ours(picture), expected)


# Precision


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("family", ["demo", "mobilenetv2_100", "tiny_vit_5m_224"])
def test_engines_and_precisions_agree(request, family, engine):
    if family == "demo":
        spec = registry.find("demo-embedder")
    else:
        weights = request.getfixturevalue("shared") / "weights" / f"timm_{family}_fp16.safetensors"
        spec = registry.find(f"timm:{family}", weights=weights)
    exact = embedders.load_embedder(spec, registry.fetch(spec), engine="torch")
    random = np.random.default_rng(3)
    pictures = [Image.fromarray(random.integers(0, 256, (9, 7, 3), np.uint8)).resize((300, 200)) for _ in range(6)]
    batch = np.stack([exact.transform(picture) for picture in pictures])
    expected = exact.embed(batch)
    for precision, least in (("float32", 0.99999), ("bfloat16", 0.97)):
        try:
            embedder = embedders.load_embedder(spec, registry.fetch(spec), engine=engine, precision=precision)
        except CareError as error:
            pytest.skip(str(error))
        cosines = (embedder.embed(batch) * expected).sum(1)
        assert cosines.min() >= least and (embedder.engine, embedder.precision) == (engine, precision)
        np.testing.assert_allclose(np.linalg.norm(embedder.embed(batch), axis=1), 1, atol=1e-6)
        again = embedders.load_embedder(spec, registry.fetch(spec), engine=engine, precision=precision)
        assert again.settings == embedder.settings == exact.settings and again.dim == exact.dim
        assert again.embed(batch[:0]).shape == (0, exact.dim)
        print(f"{family}, {engine}, {precision}: cosine {cosines.min():.6f} at least")


@pytest.mark.slow
def test_what_bfloat16_costs_on_lions(shared):
    """The animals' nearest neighbours, with the engines and precisions of the CPU."""
    folder = shared / "data/reid/lion_data"
    with (folder / "metadata.csv").open(encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["original_split"] == "val"]
    names = [row["identity"] for row in rows]
    spec = registry.find("timm:mobilenetv2_100", weights=shared / "weights/timm_mobilenetv2_100_fp16.safetensors")
    first, batch, found = None, None, {}
    for engine, precision in (("torch", "float32"), ("openvino", "float32"), ("openvino", "bfloat16")):
        try:
            embedder = embedders.load_embedder(spec, registry.fetch(spec), engine=engine, precision=precision)
        except CareError:
            continue  # this processor has no bfloat16
        if batch is None:
            batch = np.stack([embedder.transform(Image.open(folder / row["path"])) for row in rows])
        vectors = np.concatenate([embedder.embed(batch[i : i + 16]) for i in range(0, len(batch), 16)])
        first = vectors if first is None else first
        top1 = leave_one_out(vectors, names)["top1"]
        found[engine, precision] = top1
        print(f"lions, {engine} {precision}: top-1 {top1:.4f}, cosine {(vectors * first).sum(1).min():.5f} at least")
    assert abs(found["openvino", "float32"] - found["torch", "float32"]) <= 1.5 / len(names)
    assert found.get(("openvino", "bfloat16"), 1) >= found["torch", "float32"] - 0.05


@pytest.mark.parametrize("name", [n for n, s in registry.shipped().items() if s.family == "timm"])
def test_registry_states_what_timm_knows(name):
    """Sizes and normalisation of the entries are those of timm's own configuration of the weights."""
    import timm

    spec = registry.shipped()[name]
    config = timm.models.get_pretrained_cfg(spec.architecture)
    assert timm.is_model(spec.architecture.split(".")[0])
    assert config.input_size == (3, spec.input_size, spec.input_size)
    if name != "megadescriptor-l-384":  # trained by others on timm's architecture; its card says 0.5
        assert (config.mean, config.std) == (spec.mean, spec.std)
        assert spec.url.startswith(f"https://huggingface.co/{config.hf_hub_id}/")


def test_unknown_architectures_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(CareError, match=r"close are .*mobilenetv2_100"):
        embedders.load_embedder(described("timm", "mobilenetv2_10", path), path)
    with pytest.raises(CareError, match="open_clip has no model"):
        embedders.load_embedder(described("open_clip", "ViT-X", path), path)
    with pytest.raises(CareError, match="not an embedder"):
        embedders.load_embedder(registry.find("yolo11n"), path)
    with pytest.raises(CareError, match="no weights file"):
        embedders.load_embedder(described("timm", "test_vit", path), tmp_path / "absent")


def test_vectors_of_another_length_than_described_are_refused(tmp_path):
    import timm
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False, num_classes=0).state_dict(), path)
    with pytest.raises(CareError, match="vectors of 99 numbers, got 64"):
        embedders.load_embedder(described("timm", "test_vit", path, dim=99), path)


@pytest.mark.parametrize("mode", ["center", "border", "squash"])
@pytest.mark.parametrize("size", [(800, 1), (1, 800)])
def test_a_crop_of_one_pixel_s_height_or_width_is_prepared_too(mode, size):
    picture = Image.new("RGB", size, (10, 200, 30))
    prepared = Preparation(32, mode)(picture)
    assert prepared.shape == (32, 32, 3)
    assert (prepared == (10, 200, 30)).all(2).any() and prepared.max() <= 200
