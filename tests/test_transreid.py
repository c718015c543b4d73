"""TransReID: overlapping patches, the jigsaw against lists worked by hand, its losses, and the finished model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from care_cli import embedders, encoders, explain, registry
from care_cli.errors import CareError
from care_cli.geometry import sides
from care_cli.jigsaw_vit import JigsawViT, runs
from care_cli.overlapping_vit import overlapping_vit
from care_cli.stages import train_settings
from care_cli.stages.train_settings import TrainRequest
from care_cli.training import methods
from care_cli.training.config import TrainConfig
from tests.gradients import moved

BY_HAND = {  # patches: rotated by four, both halves interleaved, cut into four
    8: [[4, 0], [5, 1], [6, 2], [7, 3]],
    9: [[4, 0], [5, 1], [6, 2], [7, 3]],  # 4 5 6 7 8 | 0 1 2 3 and 2 again; 8 and the repeated 2 are left over
    10: [[4, 9], [5, 0], [6, 1], [7, 2]],  # 8 and 3 are left over
    13: [[4, 11, 5], [12, 6, 0], [7, 1, 8], [2, 9, 3]],  # 10 and the repeated 2 are left over
    16: [[4, 12, 5, 13], [6, 14, 7, 15], [8, 0, 9, 1], [10, 2, 11, 3]],
}


def jigsaw(size, stride: int = 12, **options) -> JigsawViT:
    torch.manual_seed(5)
    return JigsawViT(backbone="test_vit", img_size=size, stride=stride, **options).eval()


def tiny(method: str = "transreid", **given) -> TrainConfig:
    small = {"backbone": "test_vit", "input_size": 40, "individuals": 2, "photos": 2, "accumulate": 1, "epochs": 4}
    return methods.configure(method, **{**small, **given})


# -- overlapping patches


@pytest.mark.parametrize(("size", "rows", "columns"), [((256, 128), 21, 10), (224, 18, 18), (256, 21, 21)])
def test_patches_are_as_many_as_the_formula_says(size, rows, columns) -> None:
    """N = (floor((H - 16) / 12) + 1) (floor((W - 16) / 12) + 1); each is a window of the photo under the kernel."""
    vit = overlapping_vit("test_vit", size, 12, depth=1).eval()
    assert vit.patch_embed.grid_size == (rows, columns)
    assert vit.pos_embed.shape[1] == 1 + rows * columns
    photo = torch.randn(1, 3, *sides(size))
    windows = F.unfold(photo, 16, stride=12)[0].T  # (N, 3 * 16 * 16), rows of the grid in turn
    kernel = vit.patch_embed.proj
    with torch.no_grad():
        expected = windows @ kernel.weight.flatten(1).T + kernel.bias
        torch.testing.assert_close(vit.patch_embed(photo)[0], expected, rtol=1e-4, atol=1e-4)


def test_without_a_stride_it_is_the_plain_transformer() -> None:
    plain = encoders.build_backbone("test_vit", img_size=48).eval()
    vit = overlapping_vit("test_vit", 48).eval()
    encoders.load_weights(vit, plain.state_dict(), Path("plain"))
    photos = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(vit(photos), plain(photos), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "grid"), [((88, 52), (7, 4)), (112, (9, 9)), ((64, 40), (5, 3))])
def test_learned_positions_are_resampled_to_the_new_grid(size, grid) -> None:
    """From the 10 x 10 of photos of 160 px, bicubically, the class token's left alone."""
    plain = encoders.build_backbone("test_vit")
    learned = plain.pos_embed.detach()
    for model in (overlapping_vit("test_vit", size, 12), jigsaw(size)):
        encoders.load_weights(model, plain.state_dict(), Path("plain"))
        found = getattr(model, "trunk", model).pos_embed.detach()
        places = learned[:, 1:].reshape(1, 10, 10, -1).permute(0, 3, 1, 2)
        expected = F.interpolate(places, size=grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
        assert torch.equal(found[:, :1], learned[:, :1])
        torch.testing.assert_close(found[:, 1:], expected)


@pytest.mark.parametrize(
    "backbone", ["resnet18", "test_efficientnet", "swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3",
                 "vit_base_patch16_siglip_224", "ViT-B-16-quickgelu", "care_stem_vit", "hf-hub:owner/name", "vitt"]
)  # fmt: skip
@pytest.mark.parametrize("method", ["transreid", "adafreq"])
def test_other_backbones_are_refused(method: str, backbone: str) -> None:
    with torch.device("meta"), pytest.raises(CareError, match=r"plain vision transformers, such as vit_base_patch16"):
        methods.build(tiny(method, backbone=backbone, input_size=224), 4, None)


def test_photos_without_room_for_the_jigsaw_are_refused() -> None:
    with pytest.raises(CareError, match="holds no patch of 16 px"):
        overlapping_vit("test_vit", (64, 12), 12)
    with pytest.raises(CareError, match="4 runs, but the photo 3 patches"):
        jigsaw((40, 16))


def test_points_want_patches_that_do_not_overlap() -> None:
    from care_cli.records import KeypointScheme

    with pytest.raises(CareError, match="stride=0"):
        methods.build(tiny("ckpe", stride=8), 4, KeypointScheme(("nose",)))


# -- the jigsaw


@pytest.mark.parametrize("patches", BY_HAND)
def test_runs_are_those_worked_by_hand(patches: int) -> None:
    assert runs(patches).tolist() == BY_HAND[patches]


@pytest.mark.parametrize(("size", "patches"), [(40, 9), (52, 16)])
def test_the_embedding_is_built_from_the_lists(size: int, patches: int) -> None:
    """Global: last block and norm over all tokens. Runs: the shared copies over the class token and the run's."""
    model = jigsaw(size)
    for parameter in model.local.parameters():  # no longer those of the global branch
        parameter.data += 0.1 * torch.randn_like(parameter)
    photos, trunk = torch.randn(2, 3, size, size), model.trunk
    with torch.no_grad():
        tokens = trunk.blocks[:-1](trunk._pos_embed(trunk.patch_embed(photos)))
        parts = [trunk.norm(trunk.blocks[-1](tokens))[:, 0]]
        for run in BY_HAND[patches]:
            some = torch.stack([tokens[:, 0], *(tokens[:, 1 + patch] for patch in run)], 1)
            parts.append(model.local[1](model.local[0](some))[:, 0])
        features, embedding = model.features(photos), model(photos)
    torch.testing.assert_close(features, torch.stack(parts, 1), rtol=1e-4, atol=1e-5)
    expected = torch.cat([parts[0], *(part / 4 for part in parts[1:])], 1)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)
    assert model.num_features == embedding.shape[1] == 5 * 64


def test_runs_begin_from_the_last_block_and_go_their_own_way() -> None:
    plain = encoders.build_backbone("test_vit")
    state = plain.state_dict() | {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    model = jigsaw(40)
    methods.load(model, state, Path("pretrained"))
    own = model.state_dict()
    blocks = {name: f"local.0.{name.removeprefix('blocks.5.')}" for name in state if name.startswith("blocks.5.")}
    for name, of_runs in (blocks | {"norm.weight": "local.1.weight", "norm.bias": "local.1.bias"}).items():
        assert torch.equal(own[f"trunk.{name}"], state[name]) and torch.equal(own[of_runs], state[name])
    assert model.local[0].attn.qkv.weight is not model.trunk.blocks[-1].attn.qkv.weight

    again = jigsaw((64, 40))  # a trained jigsaw is begun from as it is, on another grid
    with torch.no_grad():
        model.local[0].attn.qkv.weight.add_(1)
    methods.load(again, model.state_dict(), Path("own"))
    assert torch.equal(again.local[0].attn.qkv.weight, model.local[0].attn.qkv.weight)


# -- what is learned


def test_the_losses_are_those_worked_in_numpy() -> None:
    cfg = tiny(class_weight=0.7, triplet_weight=0.4)
    torch.manual_seed(1)
    learner = methods.build(cfg, 3, None).train()
    with torch.no_grad():
        for layer, norm in zip(learner.heads.classifiers, learner.heads.necks, strict=True):
            layer.weight.normal_()
            norm.weight.uniform_(0.5, 2)
    labels, features = np.array([0, 0, 1, 1, 2]), torch.randn(5, 5, 64)  # five features of five photos
    with torch.no_grad():
        terms = learner.terms(list(features), torch.from_numpy(labels))
    entropies, triplets = [], []
    for x, layer, norm in zip(features.double().numpy(), learner.heads.classifiers, learner.heads.necks, strict=True):
        unit = (x - x.mean(0)) / np.sqrt(x.var(0) + norm.eps) * norm.weight.detach().numpy()
        logits = unit @ layer.weight.detach().numpy().T
        entropies.append(np.mean([np.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, labels, strict=True)]))
        gaps = []
        for a in range(4):  # the fifth photo has no partner
            far = np.linalg.norm(x - x[a], axis=1)
            own = [far[p] for p in range(5) if p != a and labels[p] == labels[a]]
            gaps.append(np.log1p(np.exp(max(own) - min(far[n] for n in range(5) if labels[n] != labels[a]))))
        triplets.append(np.mean(gaps))
    halves = [0.5 * values[0] + 0.5 * np.mean(values[1:]) for values in (entropies, triplets)]
    expected = {"class": 0.7 * halves[0], "triplet": 0.4 * halves[1]}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_everything_but_the_necks_biases() -> None:
    learner = methods.build(tiny(drop_path=0.0), 2, None).train()
    found = moved(learner, torch.randn(4, 3, 40, 40), None, torch.tensor([0, 0, 1, 1]))
    without = {name for name, _ in learner.named_parameters()} - found
    assert without == {f"heads.necks.{number}.bias" for number in range(5)}


def test_a_setting_of_the_recipe_is_the_papers() -> None:
    cfg = methods.configure("transreid")
    assert (cfg.backbone, cfg.stride, cfg.drop_path) == ("vit_small_patch16_224", 12, 0.1)  # the stage names ViT-B/16
    assert methods.usual("transreid") == ("vit_base_patch16_224", "vit-base")
    assert (cfg.optimizer, cfg.learning_rate, cfg.epochs, cfg.warmup, cfg.milestones) == ("sgd", 0.008, 120, 5, ())
    assert (cfg.side_weight, cfg.bias_rate, cfg.weight_decay) == (3, 2, 1e-4)
    assert cfg.individuals * cfg.photos * cfg.accumulate == 64 and cfg.triplet_margin is None and cfg.smoothing == 0
    assert methods.configure("transreid", presets=["portrait"]).input_size == (256, 128)


def test_settings_are_said_on_the_command_line() -> None:
    said = ["triplet_margin=null", "stride=8", "frequency.tokens=100", "frequency.cutoff=35"]
    found = {"triplet_margin": None, "stride": 8, "frequency.tokens": 100, "frequency.cutoff": 35.0}
    assert train_settings.overrides(said) == found
    with pytest.raises(CareError, match="stride is a whole number"):
        train_settings.overrides(["stride=null"])


def test_a_model_that_is_gone_on_from_keeps_its_stride_unless_another_is_said(tmp_path: Path) -> None:
    cfg = tiny(input_size=(64, 40), stride=8)
    saved(methods.build(cfg, 4, None).finished(), cfg, tmp_path / "own.safetensors")
    spec = registry.find(tmp_path / "own.safetensors", task="embedder")

    def options(method: str = "transreid", **settings) -> dict:
        return methods.architecture(train_settings.settings_of(TrainRequest(method, settings=settings), spec))[1]

    assert (options()["stride"], options()["drop_path_rate"], options()["img_size"]) == (8, 0.1, (64, 40))
    assert "stride" not in options(stride=0) and "drop_path_rate" not in options(drop_path=0.0)
    assert options("vit")["stride"] == 8 and "stride" not in options("vit", stride=0)


# -- the finished model


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("size", [(64, 40)])
def test_a_finished_model_comes_back_as_it_was(tmp_path: Path, engine: str, size) -> None:
    cfg = tiny(input_size=size, options={"depth": 2})
    model, path = methods.build(cfg, 4, None).finished(), tmp_path / "own.safetensors"
    saved(model, cfg, path)
    crops = np.random.default_rng(2).integers(0, 256, (5, *sides(size), 3), np.uint8)
    embedder = embedders.load_embedder(registry.find(path, task="embedder"), path, engine=engine)
    expected = as_stored(model, cfg, crops)
    assert embedder.engine == engine and embedder.dim == 320
    np.testing.assert_allclose(embedder.embed(crops), expected, atol=2e-5)


def test_a_grid_of_as_many_places_as_the_pretrained_one_stays_what_it_is(tmp_path: Path) -> None:
    """7 x 28 places are 196, as many as the 14 x 14 that timm's weights of this name have."""
    options = {"embed_dim": 24, "depth": 1, "num_heads": 3}
    cfg = tiny("vit", backbone="vit_tiny_patch16_224", input_size=(88, 340), stride=12, options=options)
    model = methods.plain(cfg).eval()
    assert model.patch_embed.grid_size == (7, 28)
    saved(model, cfg, tmp_path / "own.safetensors")
    spec = registry.find(tmp_path / "own.safetensors", task="embedder")
    crops = np.random.default_rng(2).integers(0, 256, (2, 88, 340, 3), np.uint8)
    found = embedders.load_embedder(spec, tmp_path / "own.safetensors", engine="torch").embed(crops)
    np.testing.assert_allclose(found, as_stored(model, cfg, crops), atol=2e-5)


def test_grad_cam_looks_through_the_global_branch(tmp_path: Path) -> None:
    cfg = tiny(input_size=(64, 40))
    saved(methods.build(cfg, 4, None).finished(), cfg, tmp_path / "own.safetensors")
    network = explain.load(registry.find(tmp_path / "own.safetensors", task="embedder"), tmp_path / "own.safetensors")
    noise = np.random.default_rng(1).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    one, other = (Image.fromarray(picture) for picture in noise)
    heat = network.heat(one, explain.cosine_to(network.features([other])[0]))
    assert network.is_vit and heat.shape == (5, 3) and heat.max() > 0


def saved(model: torch.nn.Module, cfg: TrainConfig, path: Path) -> None:
    """As `care train` writes it."""
    architecture, options = methods.architecture(cfg)
    header = {"method": cfg.method, "architecture": architecture, "options": options, "input_size": cfg.input_size,
              "mean": cfg.mean, "std": cfg.std, "interpolation": "bicubic", "crop_pct": 1.0,
              "crop_mode": "squash"}  # fmt: skip
    encoders.save_embedder(model, path, header)


def as_stored(model: torch.nn.Module, cfg: TrainConfig, crops: np.ndarray) -> np.ndarray:
    """Unit vectors of crops `(B, H, W, 3) uint8`, by the definition, with matrices in the half precision of a file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float() if parameter.ndim > 1 else parameter.data
    pixels = (crops.astype(np.float32) / 255 - np.float32(cfg.mean)) / np.float32(cfg.std)
    with torch.no_grad():
        return F.normalize(model(torch.from_numpy(pixels.transpose(0, 3, 1, 2)))).numpy()
