"""Extractors of every family against one contract; against plain timm, and against diffusers' own noise and passes."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from miniatures import UNET, VAE, save_diffusion
from PIL import Image

from care_cli import engines, registry
from care_cli.errors import CareError
from care_cli.features import FeatureConfig, diffusion, load_extractor, prepare, seed_of
from care_cli.records import ModelSpec

FAMILIES = ["vit", "cnn", "hierarchical", "diffusion", "cleandift"]
TIMM = {"vit": "test_vit", "cnn": "test_resnet", "hierarchical": "tiny_vit_5m_224"}
SD21_UNET = {  # as Stable Diffusion 2.1 publishes it
    "sample_size": 96,
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "layers_per_block": 2,
    "use_linear_projection": True,
    "norm_num_groups": 32,
    "down_block_types": UNET["down_block_types"],
    "up_block_types": UNET["up_block_types"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Iterator[Path]:
    """A models folder of this file's own, so that what it adds stays unknown elsewhere."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARE_MODELS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def specs(cache, mini_diffusion, tmp_path_factory) -> dict[str, ModelSpec]:
    """One model of each family, with weights drawn at random."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    found = {"diffusion": registry.find_extractor(f"sd:{mini_diffusion}")}
    for family, name in TIMM.items():
        with torch.random.fork_rng():
            torch.manual_seed(2)
            save_file(timm.create_model(name, pretrained=False).state_dict(), folder / f"{name}.safetensors")
        found[family] = registry.find_extractor(f"timm:{name}", folder / f"{name}.safetensors")
    clean = save_diffusion(folder / "clean", seed=9)
    files = json.dumps(found["diffusion"].files)
    manifest = folder / "mine.toml"
    manifest.write_text(
        f'[models.mini-base]\ntask = "diffusion"\nfamily = "diffusers"\nfile = {json.dumps(str(mini_diffusion))}\n'
        f'files = {files}\n[models.mini-clean]\ntask = "diffusion"\nfamily = "cleandift"\narchitecture = "mini-base"\n'
        f"file = {json.dumps(str(clean / 'unet' / 'diffusion_pytorch_model.safetensors'))}\n"
    )
    registry.add(manifest)
    found["cleandift"] = registry.find_extractor("sd:mini-clean")
    return found


@pytest.fixture(scope="module", params=FAMILIES)
def extractor(request, specs):
    engine = "torch" if request.param == "hierarchical" else "auto"  # whose conversion takes longest
    return load_extractor(specs[request.param], FeatureConfig(size=192), engine=engine)


def noise(count: int, size: int, seed: int = 1) -> np.ndarray:
    """Crops `(count, 3, size, size) uint8` of coloured squares."""
    squares = np.random.default_rng(seed).integers(0, 256, (count, 3, size // 8, size // 8), np.uint8)
    return squares.repeat(8, 2).repeat(8, 3)


def difference(a, b) -> float:
    """The largest difference, as a share of the largest number."""
    return float((a - b).abs().max() / a.abs().max())


def scheduler(folder: Path):
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_pretrained(folder / "scheduler")


def by_hand(folder: Path, pixels: np.ndarray, seed: int, prompt: str, timestep: int, draws: int, unet=None):
    """What each up-block answers in a whole pass of diffusers' U-Net, averaged over draws: a list of `(1,C,h,w)`.

    `draws` 0: the clean latents, once.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    unet = UNet2DConditionModel.from_pretrained(unet or folder / "unet").eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")(prompt, padding="max_length", return_tensors="pt")
    held: list[list] = [[] for _ in unet.up_blocks]
    for block, answers in zip(unet.up_blocks, held, strict=True):
        block.register_forward_hook(lambda module, given, answer, answers=answers: answers.append(answer))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        words = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()(tokens.input_ids).last_hidden_state
        latents = vae.encode(torch.from_numpy(pixels)[None] / 127.5 - 1).latent_dist.mode() * VAE["scaling_factor"]
        for _ in range(max(draws, 1)):
            drawn = torch.randn(latents.shape[1:], generator=generator)[None]
            noisy = scheduler(folder).add_noise(latents, drawn, torch.tensor([timestep])) if draws else latents
            unet(noisy, timestep, words)
    return [torch.stack(answers).mean(0) for answers in held]


# The contract: every family


def test_features_have_the_shape_that_is_said(extractor):
    import torch

    images = noise(3, 192)
    maps = extractor(images, [1, 2, 3], "a photo of a cat")
    side = 192 / extractor.stride
    assert maps.shape == (3, extractor.channels, side, side) and maps.dtype == torch.float32
    assert extractor.size == 192 and extractor.device == "cpu" and extractor.precision == "float32"
    assert extractor.batch >= 1 and extractor.engine in engines.ENGINES
    assert json.loads(json.dumps(extractor.settings)) == extractor.settings
    assert extractor.settings["size"] == 192 and isinstance(extractor.settings["block"], int)
    assert torch.isfinite(maps).all() and maps.std() > 0


def test_the_same_crop_gives_the_same_features_in_any_batch(extractor):
    import torch

    images, seeds = noise(4, 192), [5, 6, 7, 8]
    together = extractor(images, seeds, "a photo of a cat")
    assert torch.equal(extractor(images, seeds, "a photo of a cat"), together)
    for i in range(4):
        alone = extractor(images[i : i + 1], seeds[i : i + 1], "a photo of a cat")[0]
        assert difference(together[i], alone) < 1e-4
    back = extractor(images[::-1], seeds[::-1], "a photo of a cat").flip(0)
    assert difference(together, back) < 1e-4


def test_seed_and_words_matter_where_there_are_any(extractor):
    images = noise(1, 192)
    first = extractor(images, [1], "a photo of a cat")
    other = difference(first, extractor(images, [2], "a photo of a cat"))
    words = difference(first, extractor(images, [1], "a photo of a stoat"))
    kind = extractor.settings["extractor"]
    assert (other > 1e-3) == (kind == "diffusion")
    assert (words > 1e-4) == (kind in ("diffusion", "cleandift"))


def changed(extractor, row: int, column: int) -> np.ndarray:
    """How much features change, `(h,w)`, when one cell of a grey crop turns bright."""
    stride = round(extractor.stride)
    grey = np.full((1, 3, 192, 192), 90, np.uint8)
    spot = grey.copy()
    spot[:, :, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride] = 250
    maps = extractor(np.concatenate([grey, spot]), [3, 3])
    return (maps[1] - maps[0]).norm(dim=0).numpy()


@pytest.mark.parametrize("extractor", ["vit", "cnn"], indirect=True)
def test_a_spot_moves_by_one_cell_for_one_stride(extractor):
    """Features change most in the spot's own cell, whichever row and column it is in."""
    for cell in ((6, 4), (6, 5), (7, 5), (2, 9)):
        heat = changed(extractor, *cell)
        assert divmod(int(heat.argmax()), heat.shape[1]) == cell


@pytest.mark.parametrize("extractor", ["diffusion", "cleandift"], indirect=True)
def test_a_spot_is_answered_where_it_is(extractor):
    """Untrained U-Nets blur; yet a spot low on the left is answered lower and more to the left."""
    rows, columns = np.mgrid[:12, :12]

    def centre(row: int, column: int) -> np.ndarray:
        heat = changed(extractor, row, column) ** 4
        return np.array([(heat * rows).sum(), (heat * columns).sum()]) / heat.sum()

    low_left, high_right = centre(9, 2), centre(2, 9)
    assert low_left[0] > high_right[0] + 0.5 and low_left[1] < high_right[1] - 0.5


def test_a_crop_is_squashed_to_the_input_frame():
    picture = Image.new("RGB", (80, 20), (200, 10, 30))
    picture.paste((10, 220, 60), (40, 0, 80, 20))
    squashed = prepare(picture, 32)
    assert squashed.shape == (3, 32, 32) and squashed.dtype == np.uint8
    assert tuple(squashed[:, 16, 4]) == (200, 10, 30) and tuple(squashed[:, 16, 28]) == (10, 220, 60)
    np.testing.assert_array_equal(prepare(picture.convert("RGBA"), 32), squashed)
    grey = picture.convert("L")
    np.testing.assert_array_equal(prepare(grey, 32)[0], np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC)))


def test_the_seed_is_the_digests_own():
    digest = hashlib.sha256(b"crop")
    assert seed_of(digest.digest()) == seed_of(digest.hexdigest()) == int(digest.hexdigest()[:8], 16)
    assert seed_of(hashlib.sha256(b"another").digest()) != seed_of(digest.digest())


# timm


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_tokens_are_those_of_plain_timm(specs, engine):
    import timm
    import torch
    from safetensors.torch import load_file

    model = timm.create_model("test_vit", pretrained=False, dynamic_img_size=True).eval()
    model.load_state_dict(load_file(specs["vit"].file))
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    for size in (160, 96):  # its own, and one for which position embeddings are resampled
        images = noise(2, size)
        with torch.no_grad():
            tokens = model.forward_features((torch.from_numpy(images) / 255 - mean) / std)[:, model.num_prefix_tokens :]
        expected = tokens.transpose(1, 2).reshape(2, 64, size // 16, size // 16)
        found = load_extractor(specs["vit"], FeatureConfig(size=size), engine=engine)
        assert found.engine == engine and found.stride == 16 and found.settings["block"] == 5
        assert difference(expected, found(images, [0, 0])) < 1e-4
    assert load_extractor(specs["vit"]).size == 160


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_stages_are_those_of_plain_timm(specs, engine):
    import timm
    import torch
    from safetensors.torch import load_file

    images = noise(2, 128)
    for family in ("cnn", "hierarchical") if engine == "torch" else ("cnn",):
        name = TIMM[family]
        model = timm.create_model(name, pretrained=False, features_only=True).eval()
        config = timm.data.resolve_model_data_config(timm.create_model(name, pretrained=False))
        wanted = model.state_dict()
        state = {key.replace("stages.", "stages_", 1): tensor for key, tensor in load_file(specs[family].file).items()}
        assert not set(wanted) - set(state)
        model.load_state_dict({key: tensor for key, tensor in state.items() if key in wanted})
        mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
        with torch.no_grad():
            stages = model((torch.from_numpy(images) / 255 - mean) / std)
        for block in (1, -1, None) if engine == "torch" else (None,):
            found = load_extractor(specs[family], FeatureConfig(size=128, block=block), engine=engine)
            at = [128 / stage.shape[2] for stage in stages].index(16) if block is None else block
            assert difference(stages[at], found(images, [0, 0])) < 1e-4
            assert found.settings["block"] == at % len(stages) and found.stride == 128 / stages[at].shape[2]


def test_real_weights_serve(shared):
    spec = registry.find_extractor("timm:mobilenetv2_100", shared / "weights/timm_mobilenetv2_100_fp16.safetensors")
    found = load_extractor(spec)
    assert (found.size, found.stride, found.channels) == (224, 16, 96)
    photo = Image.open(next((shared / "data/keypoints/animal_pose_cat_dog/images").iterdir()))
    assert found(prepare(photo, 224)[None], [0]).shape == (1, 96, 14, 14)


# Diffusion


@pytest.mark.parametrize("block", range(4))
def test_a_stopped_pass_equals_a_whole_one(specs, mini_diffusion, block):
    pixels = noise(1, 128)
    expected = by_hand(mini_diffusion, pixels[0], seed=11, prompt="a photo of a cat", timestep=200, draws=1)[block]
    cfg = FeatureConfig(block=block, timestep=200, ensemble=1)
    found = load_extractor(specs["diffusion"], cfg)
    assert found.size == 128 and (found.stride, found.channels) == [(32, 48), (16, 48), (8, 32), (8, 16)][block]
    assert difference(expected, found(pixels, [11], "a photo of a cat")) < 1e-4


def test_an_ensemble_is_the_mean_of_its_draws(specs, mini_diffusion):
    pixels = noise(2, 128)
    found = load_extractor(specs["diffusion"], FeatureConfig(ensemble=3))
    assert found.settings == {"extractor": "diffusion", "size": 128, "block": 1, "timestep": 261, "ensemble": 3}
    maps = found(pixels, [11, 12], "")
    for i in range(2):
        expected = by_hand(mini_diffusion, pixels[i], seed=11 + i, prompt="", timestep=261, draws=3)[1]
        assert difference(expected[0], maps[i]) < 1e-4


def test_cleandift_adds_no_noise(specs, mini_diffusion):
    pixels = noise(1, 128)
    unet = Path(specs["cleandift"].file).parent
    expected = by_hand(mini_diffusion, pixels[0], seed=0, prompt="a cat", timestep=261, draws=0, unet=unet)[1]
    found = load_extractor(specs["cleandift"])
    assert difference(expected, found(pixels, [3], "a cat")) < 1e-4
    assert found.settings["ensemble"] == 1
    assert found.settings["base"] == registry.model_sha256(registry.find("mini-base"))


def test_strides_and_channels_of_stable_diffusion_2_1():
    """ALGORITHMS' table, and what a pass of the published configuration answers at 768 px (no memory is taken)."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    answers: list = []
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21_UNET)
        vae = AutoencoderKL(**VAE | {"block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32})
        for block in unet.up_blocks:
            block.register_forward_hook(lambda module, given, answer: answers.append(tuple(answer.shape)))
        unet(torch.zeros((1, 4, 96, 96)), 261, torch.zeros((1, 77, 1024)))
    table = [(32, 1280), (16, 1280), (8, 640), (8, 320)]
    assert [(768 / shape[2], shape[1]) for shape in answers] == table
    assert [diffusion.grid(unet, vae, block) for block in range(4)] == table


def test_other_proportions_are_read_from_the_configuration(tmp_path, cache):
    """Three levels, an autoencoder to a quarter, eight latent channels, a shift: nothing is Stable Diffusion's."""
    unet = UNET | {
        "sample_size": 12,
        "in_channels": 8,
        "out_channels": 8,
        "block_out_channels": (16, 24, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    vae = {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "norm_num_groups": 8,
        "latent_channels": 8,
        "scaling_factor": 0.4,
        "shift_factor": 0.1,
    }
    folder = save_diffusion(tmp_path / "other", unet=unet, vae=vae, variant="fp16")
    (folder / "care.json").write_text('{"block": 2, "timestep": 50, "ensemble": 2}')
    spec = registry.find_extractor(f"sd:{folder}")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in spec.files
    found = load_extractor(spec)
    assert found.settings == {"extractor": "diffusion", "size": 48, "block": 2, "timestep": 50, "ensemble": 2}
    assert found(noise(1, 48), [0]).shape == (1, 16, 12, 12) and found.stride == 4
    assert load_extractor(spec, FeatureConfig(block=1, size=64)).settings["size"] == 64


def test_layers_may_be_named_as_the_published_files_name_them(specs, mini_diffusion, tmp_path):
    """Those of 2022: a prefix in the text encoder, other names in the autoencoder's attention, `!` for padding."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(mini_diffusion, tmp_path / "published")
    text, vae = folder / "text_encoder" / "model.safetensors", folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(text).items()}
    save_file(state | {"text_model.embeddings.position_ids": torch.arange(24)[None]}, text, {"format": "pt"})
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in load_file(vae).items():
        found = [new for new in old if f".attentions.0.{new}." in name]
        state[name.replace(found[0], old[found[0]]) if found else name] = tensor
    assert "encoder.mid_block.attentions.0.query.weight" in state
    save_file(state, vae, {"format": "pt"})
    images = noise(1, 128)
    expected = load_extractor(specs["diffusion"])(images, [1], "a cat")
    spec = registry.find_extractor(f"sd:{folder}")
    assert torch.equal(load_extractor(spec)(images, [1], "a cat"), expected)
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "!"}')
    config = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "<|endoftext|>"}))
    padded = load_extractor(registry.find_extractor(f"sd:{folder}"))
    assert padded._tokenizer("a", padding="max_length", max_length=8).input_ids[-5:] == [0] * 5


def test_a_timestep_beyond_the_schedule_is_clamped_and_said(specs):
    said: list[str] = []
    found = load_extractor(specs["diffusion"], FeatureConfig(timestep=1000), notice=said.append)
    assert found.settings["timestep"] == 999
    assert len(said) == 1 and "999" in said[0]


def test_what_is_not_needed_is_not_kept(specs):
    found = load_extractor(specs["diffusion"], FeatureConfig(block=1))
    whole = sum(t.numel() for t in load_extractor(specs["diffusion"], FeatureConfig(block=3))._unet.parameters())
    kept = sum(t.numel() for t in found._unet.parameters())
    names = {name.split(".")[1] for name, _ in found._unet.named_parameters() if name.startswith("up_blocks")}
    assert names == {"0", "1"} and kept < whole
    assert not [name for name, _ in found._vae.named_parameters() if "decoder" in name or "post_quant" in name]


def test_results_do_not_change_when_memory_is_short(specs):
    """Torch's own allocator refuses: from three passes at a time on, then until attention is sliced."""
    import torch

    said: list[str] = []
    images, seeds = noise(3, 128), [1, 2, 3]
    expected = load_extractor(specs["diffusion"], FeatureConfig(ensemble=4))(images, seeds, "a cat")
    found = load_extractor(specs["diffusion"], FeatureConfig(ensemble=4), notice=said.append)
    sizes: list[int] = []

    def allocate(module, given) -> None:
        sizes.append(len(given[0]))
        if len(given[0]) > 2 or not sliced():
            torch.empty(2**58)

    def sliced() -> bool:
        return any("Sliced" in type(one).__name__ for one in found._unet.attn_processors.values())

    handle = found._unet.register_forward_pre_hook(allocate)
    assert difference(expected, found(images, seeds, "a cat")) < 1e-4
    assert sizes[:5] == [12, 6, 3, 1, 1] and set(sizes[5:]) == {1} and len(sizes) == 16
    assert len(said) == 2 and "fewer passes" in said[0] and "slices" in said[1]
    handle.remove()
    found._unet.register_forward_pre_hook(lambda module, given: torch.empty(2**58))
    with pytest.raises(CareError, match="smaller --size"):
        found(images, seeds, "a cat")


def test_other_failures_are_not_taken_for_short_memory(specs):
    found = load_extractor(specs["diffusion"])
    found._unet.register_forward_pre_hook(lambda module, given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found(noise(1, 128), [0])
    with pytest.raises(ValueError, match="a seed for each"):
        found(noise(2, 128), [0])


def test_bfloat16_says_nearly_the_same(specs):
    if not engines.computes("bfloat16", "cpu"):
        with pytest.raises(CareError, match="bfloat16"):
            load_extractor(specs["diffusion"], precision="bfloat16")
        return
    import torch

    images, seeds = noise(1, 128), [4]
    full = load_extractor(specs["diffusion"])(images, seeds, "a cat")
    found = load_extractor(specs["diffusion"], precision="bfloat16")
    half = found(images, seeds, "a cat")
    assert half.dtype == torch.float32 and found.precision == "bfloat16"
    assert torch.cosine_similarity(full, half, dim=1).min() > 0.99


# Finding and refusing


def test_names_of_extractors(cache, mini_diffusion, monkeypatch):
    assert registry.find_extractor("sd").name == registry.default("propagate:cuda").name == "stable-diffusion-2-1"
    assert registry.find_extractor("sd:stable-diffusion-1-5").input_size == 512
    assert registry.default("propagate:cpu").name == registry.find_extractor("dinov2-base").name
    with pytest.raises(CareError, match="care models pull stable-diffusion-2-1"):
        load_extractor(registry.find_extractor("sd"))
    with pytest.raises(CareError, match="care models list --task diffusion"):
        registry.find_extractor("sd:nowhere")
    with pytest.raises(CareError, match="task 'embedder'"):
        registry.find_extractor("sd:dinov2-base")
    with pytest.raises(CareError, match="--weights is for timm"):
        registry.find_extractor("sd", Path("w.safetensors"))
    with pytest.raises(CareError, match="gives no features"):
        load_extractor(registry.find_extractor("yolo11n"))


def test_a_repository_of_the_local_hub_cache(cache, mini_diffusion, tmp_path, monkeypatch):
    import huggingface_hub.constants

    place = tmp_path / "hub" / "models--someone--mini"
    shutil.copytree(mini_diffusion, place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = registry.find_extractor("sd:someone/mini")
    assert spec.name == "someone/mini"
    assert registry.model_sha256(spec) == registry.model_sha256(registry.find_extractor(f"sd:{mini_diffusion}"))
    with pytest.raises(CareError, match="hf download someone/else"):
        registry.find_extractor("sd:someone/else")


def test_a_run_recalls_a_folder_by_its_bytes(cache, mini_diffusion, tmp_path):
    folder = shutil.copytree(mini_diffusion, tmp_path / "mine")
    spec = registry.find_extractor(f"sd:{folder}")
    used = replace(spec, sha256=registry.model_sha256(spec))
    assert registry.recall(json.loads(json.dumps(asdict(used)))) == used
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(CareError, match="not on this machine"):
        registry.recall(json.loads(json.dumps(asdict(used))))


def test_no_one_is_asked_for_anything(specs, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for family in FAMILIES:
        assert load_extractor(specs[family], FeatureConfig(size=192), engine="torch").channels > 0


@pytest.mark.parametrize(
    ("family", "cfg", "reason"),
    [
        ("vit", FeatureConfig(size=100), "multiple of 16 px .* try 96 or 112"),
        ("cnn", FeatureConfig(size=100), "multiple of 16 px"),
        ("diffusion", FeatureConfig(size=100), "multiple of 64 px .* try 64 or 128"),
        ("diffusion", FeatureConfig(size=0), "--size is at least 1"),
        ("vit", FeatureConfig(block=6), "6 blocks, 0 to 5, but got --block 6"),
        ("cnn", FeatureConfig(block=-6), "5 blocks"),
        ("diffusion", FeatureConfig(block=4), "4 up-blocks, 0 to 3"),
        ("diffusion", FeatureConfig(timestep=-1), "0 .no noise. or more"),
        ("diffusion", FeatureConfig(ensemble=0), "--ensemble is at least 1"),
        ("vit", FeatureConfig(timestep=5), "--timestep is for diffusion"),
        ("cnn", FeatureConfig(ensemble=5), "--ensemble is for diffusion"),
        ("cleandift", FeatureConfig(timestep=5), "adds no noise"),
    ],
)
def test_settings_out_of_range_are_refused(specs, family, cfg, reason):
    with pytest.raises(CareError, match=reason):
        load_extractor(specs[family], cfg)


def test_what_does_not_go_together_is_refused(specs):
    with pytest.raises(CareError, match="runs in torch"):
        load_extractor(specs["diffusion"], engine="openvino")
    with pytest.raises(CareError, match="float16 is for CUDA"):
        load_extractor(specs["diffusion"], precision="float16")
    with pytest.raises(CareError, match="do not fit"):
        load_extractor(replace(specs["vit"], architecture="test_resnet"))


def drop_a_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state.pop("conv_in.bias")
    save_file(state, path)


def widen(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [16, 32, 48, 64]}))


def pickled(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")


def cut(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: shutil.rmtree(folder / "scheduler"), "lacks scheduler/scheduler_config.json"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "can't be loaded"),
        (
            lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_schedule": "x"}'),
            "can't be loaded",
        ),
        (lambda folder: (folder / "tokenizer" / "vocab.json").write_text("no"), "can't be loaded"),
        (lambda folder: (folder / "care.json").write_text("{"), "can't be read as JSON"),
        (lambda folder: (folder / "care.json").write_text('{"blocks": 1}'), "expected an object with some of"),
        (lambda folder: (folder / "care.json").write_text('{"ensemble": 0}'), "ensemble must be a whole number"),
        (lambda folder: (folder / "care.json").write_text('{"block": true}'), "block must be a whole number"),
        (drop_a_layer, "lack conv_in.bias"),
        (widen, "do not fit|can't be loaded"),
        (pickled, "no .safetensors"),
        (cut, "can't be loaded"),
    ],
)
def test_a_damaged_folder_is_refused_in_words(cache, mini_diffusion, tmp_path, damage, reason):
    folder = shutil.copytree(mini_diffusion, tmp_path / "damaged")
    damage(folder)
    with pytest.raises(CareError, match=reason):
        load_extractor(registry.find_extractor(f"sd:{folder}"))


def test_relatives_that_want_more_are_refused(cache, tmp_path):
    folder = save_diffusion(tmp_path / "inpaint", unet=UNET | {"in_channels": 9})
    with pytest.raises(CareError, match="no plain Stable Diffusion"):
        load_extractor(registry.find_extractor(f"sd:{folder}"))
