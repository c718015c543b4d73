"""CLIP's towers against open_clip's own model, and their positions at other sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from care_cli import clip, encoders, registry
from care_cli.checkpoints import save
from care_cli.embedders import load_embedder
from care_cli.errors import CareError
from care_cli.records import ModelSpec
from tests.miniatures import SMALL_CLIP, small_clip

HEADER = {"method": "care", "input_size": [64, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
          "crop_pct": 1.0, "crop_mode": "squash"}  # fmt: skip


def photos(count: int, height: int = 64, width: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def image_tower(whole: clip.Clip, **options: object) -> clip.ImageTower:
    tower = clip.ImageTower(**{**clip.image_options(SMALL_CLIP), **options}).eval()
    encoders.load_weights(tower, whole.state_dict(), Path("small"))
    return tower


# -- the image tower


def test_the_image_tower_answers_what_open_clip_answers_stage_by_stage() -> None:
    """f is the normalised class token before the projection, f_11 the class token before the last block."""
    whole, seen = small_clip(), photos(3)
    tower = image_tower(whole)
    found = tower.features(seen)
    visual = whole.visual
    tokens = visual._embeds(seen)
    for block in visual.transformer.resblocks[:-1]:
        tokens = block(tokens)
    assert torch.allclose(found.early, tokens[:, 0])
    last = visual.ln_post(visual.transformer.resblocks[-1](tokens))[:, 0]
    assert torch.allclose(found.whole, last, atol=1e-6)
    assert torch.allclose(found.projected, whole.encode_image(seen), atol=1e-6)
    assert torch.equal(tower(seen), torch.cat([found.whole, found.projected], 1))
    assert torch.equal(image_tower(whole, embedding="proj")(seen), found.projected)


def test_a_hook_leaves_nothing_behind() -> None:
    tower = image_tower(small_clip())
    tower.features(photos(1))
    assert not tower.blocks[-1]._forward_pre_hooks


def test_positions_of_another_size_are_resampled_and_the_class_token_keeps_its_own() -> None:
    """A plane of positions that grows evenly downwards does so on any grid, away from the border."""
    whole = small_clip()
    side_4 = clip.Clip(**clip.resized(SMALL_CLIP, 64)).state_dict()  # 4 x 4 patches
    ramp = torch.arange(4.0)[:, None].expand(4, 4).reshape(16, 1).expand(16, 64)
    side_4["visual.positional_embedding"] = torch.cat([torch.full((1, 64), 9.0), ramp])
    for size, rows, columns in (((128, 64), 8, 4), (128, 8, 8), ((64, 32), 4, 2)):
        tower = clip.ImageTower(**clip.image_options(clip.resized(SMALL_CLIP, size)))
        encoders.load_weights(tower, side_4, Path("square"))
        places = tower.visual.positional_embedding.detach()
        assert torch.equal(places[0], torch.full((64,), 9.0))
        grid = places[1:].reshape(rows, columns, 64)
        assert torch.allclose(grid, grid[:, :1].expand_as(grid), atol=1e-5)  # nothing changes sideways
        middle = grid[2:-2, 0, 0]
        expected = (torch.arange(rows) + 0.5) * 4 / rows - 0.5  # centres of the new rows in the old ones' counting
        assert torch.allclose(middle, expected[2:-2], atol=0.06)
    same = clip.ImageTower(**clip.image_options(SMALL_CLIP))
    encoders.load_weights(same, whole.state_dict(), Path("same"))
    assert torch.equal(same.visual.positional_embedding, whole.visual.positional_embedding)


@pytest.mark.parametrize(("size", "grid"), [((256, 128), (16, 8)), (256, (16, 16))])
def test_positions_of_openais_grid_are_resampled_as_open_clip_does(size: object, grid: tuple[int, int]) -> None:
    """14 x 14 patches, as of 224 px."""
    torch.manual_seed(4)
    places = torch.randn(1 + 14 * 14, 64)
    whole = clip.Clip(**clip.resized(SMALL_CLIP, size))
    resampled = {"visual.positional_embedding": places.clone()}
    open_clip.model.resize_pos_embed(resampled, whole)
    found = clip.checkpoint_filter_fn({"visual.positional_embedding": places}, whole)["visual.positional_embedding"]
    assert tuple(whole.visual.grid_size) == grid
    torch.testing.assert_close(found, resampled["visual.positional_embedding"], rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_nothing_but_memory() -> None:
    """Not the class token before the last block either, which a hook takes out of the computation."""
    seen, found = photos(3), []
    for twice in (False, True):
        tower = image_tower(small_clip()).train()
        tower.set_grad_checkpointing(twice)
        features = tower.features(seen)
        loss = sum((one**2).mean() for one in vars(features).values())
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in tower.parameters())])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)


def test_positions_of_a_portrait_are_known_to_be_a_portraits() -> None:
    """4 x 2 patches of a portrait become 2 x 4 of a landscape, though there are as many; and a square's."""
    portrait = clip.ImageTower(**clip.image_options(SMALL_CLIP))
    rows = torch.arange(4.0)[:, None].expand(4, 2).reshape(8, 1).expand(8, 64)
    with torch.no_grad():
        portrait.visual.positional_embedding[1:] = rows
    for size, shape in (((32, 64), (2, 4)), (64, (4, 4))):
        tower = clip.ImageTower(**clip.image_options(clip.resized(SMALL_CLIP, size)))
        encoders.load_weights(tower, portrait.state_dict(), Path("portrait"))
        grid = tower.visual.positional_embedding.detach()[1:].reshape(*shape, 64)
        assert torch.allclose(grid, grid[:, :1].expand_as(grid), atol=1e-5)  # rows stay rows
        assert (grid[1:, 0, 0] > grid[:-1, 0, 0]).all()
        assert tower.grid.tolist() == list(shape)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_portrait_checkpoint_embeds_crops_squashed_to_its_size(tmp_path: Path, engine: str) -> None:
    tower = image_tower(small_clip())
    path = tmp_path / "tower.safetensors"
    options = clip.image_options(SMALL_CLIP) | {"embedding": "both"}
    header = HEADER | {"architecture": "care_clip_image", "options": options}
    encoders.save_embedder(tower, path, header)
    spec = registry.find(path, task="embedder")
    assert list(spec.input_size) == [64, 32]
    embedder = load_embedder(spec, path, engine=engine)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), np.uint8))
    pixels = embedder.transform(picture)
    assert np.array_equal(pixels, np.asarray(picture.resize((32, 64), Image.Resampling.BICUBIC)))
    given = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    expected = torch.nn.functional.normalize(tower(given))[0].detach().numpy()
    assert embedder.embed(pixels[None])[0] @ expected > 0.999  # stored in half precision


def test_a_whole_clip_embeds_zero_shot(tmp_path: Path) -> None:
    whole, path = small_clip(), tmp_path / "clip.safetensors"
    encoders.save_embedder(whole, path, HEADER | {"architecture": "care_clip", "options": SMALL_CLIP})
    embedder = load_embedder(registry.find(path, task="embedder"), path, engine="torch")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 32, 3), np.uint8)
    given = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    expected = torch.nn.functional.normalize(whole.encode_image(given)).detach().numpy()
    assert ((embedder.embed(pixels) * expected).sum(1) > 0.999).all()


# -- the text tower


def test_vectors_of_a_text_give_what_open_clip_gives_for_its_words() -> None:
    """With and without what pads a text to 77 tokens: a token sees only those before it."""
    whole, encode = small_clip(), clip.tokenizer()
    tokens = encode(["A photo of a stoat.", "A photo of a brushtail possum by night, its tail in the air."])
    ends = tokens.argmax(1)
    expected, scale = whole.encode_text(tokens), whole.logit_scale.exp().item()
    text = clip.TextTower(whole)
    for length in (77, int(ends.max()) + 1):
        assert torch.allclose(text(text.vectors(tokens[:, :length]), ends), expected, atol=1e-5)
    assert text.scale == pytest.approx(scale)
    assert not any(parameter.requires_grad for parameter in text.parameters())


# -- what is refused


def test_what_is_no_clip_with_two_towers_is_refused() -> None:
    with pytest.raises(CareError, match=r"no model 'ViT-B-17'; close are ViT-B"):
        clip.options_of("ViT-B-17")
    with pytest.raises(CareError, match="no vision transformer with a class token"):
        clip.options_of("RN50")
    with pytest.raises(CareError, match=r"text tower of .* is not CLIP's own"):
        clip.options_of("ViT-B-16-SigLIP")
    with pytest.raises(CareError, match="is not made with vision_depth"):
        clip.ImageTower(embed_dim=8, vision_depth=2)
    with pytest.raises(CareError, match="both or proj, got 'cls'"):
        clip.ImageTower("cls", **clip.image_options(SMALL_CLIP))


def test_the_presets_graph_is_openais() -> None:
    """ViT-B/16 with QuickGELU: 12 blocks of 768, 512 shared numbers, 16 x 8 patches of a portrait."""
    options = clip.options_of("ViT-B-16-quickgelu", (256, 128))
    with torch.device("meta"):
        tower = clip.ImageTower(**clip.image_options(options))
    assert options["quick_gelu"] and tower.visual.grid_size == (16, 8) and len(tower.blocks) == 12
    assert sum(p.numel() for p in tower.parameters()) == 86_192_640 - (197 - 129) * 768  # OpenAI's, fewer positions


def test_the_presets_towers_activate_as_openais_did() -> None:
    """x sigmoid(1.702 x), QuickGELU, in every block of the image tower, of a whole CLIP's and of the text tower."""
    options, x = clip.options_of("ViT-B-16-quickgelu"), np.linspace(-6, 6, 97, dtype=np.float32)
    with torch.device("meta"):
        tower, whole = clip.ImageTower(**clip.image_options(options)), clip.Clip(**options)
    blocks = [*tower.blocks, *whole.visual.transformer.resblocks, *whole.transformer.resblocks]
    assert len(blocks) == 3 * 12
    for block in blocks:
        assert block.mlp.gelu(torch.from_numpy(x)).numpy() == pytest.approx(x / (1 + np.exp(-1.702 * x)), abs=1e-6)


def test_a_header_that_claims_the_impossible_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    huge = clip.image_options(SMALL_CLIP) | {"vision_width": 4096, "vision_layers": 24}
    save(path, small_clip().state_dict(), HEADER | {"task": "embedder", "architecture": "care_clip_image",
                                                    "options": huge})  # fmt: skip
    with pytest.raises(CareError, match="not what its header says"):
        load_embedder(ModelSpec("large", "embedder", "care"), path)
    for name, value in (("text_hf_model_name", "evil/x"), ("text_no_causal_mask", True),
                        ("vision_timm_model_name", "hf-hub:evil/x")):  # fmt: skip
        options = SMALL_CLIP | {name: value}
        save(path, small_clip().state_dict(), HEADER | {"task": "embedder", "architecture": "care_clip",
                                                        "options": options})  # fmt: skip
        with pytest.raises(CareError, match=f"is not made with {name}"):  # before anything is fetched
            load_embedder(ModelSpec("named", "embedder", "care"), path)
    deep = clip.image_options(SMALL_CLIP) | {"vision_layers": 4000}
    save(path, {}, HEADER | {"task": "embedder", "architecture": "care_clip_image", "options": deep})
    with pytest.raises(CareError, match="options must be"):
        registry.find(path)
