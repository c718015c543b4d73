"""Side information: which tokens are told of a camera and a flank, who knows of them, and what bad names do."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import catalogs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_cli import runner
from test_train import herd
from test_transreid import jigsaw, saved, tiny

from care_cli import checkpoints, embedders, encoders, explain, registry
from care_cli.catalog import Catalog
from care_cli.clip import ImageTower
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.headers import scheme_of
from care_cli.records import ViewpointScheme
from care_cli.side_information import SideInformation
from care_cli.stages import answers, doctor, identify, index, individuals, train_settings, training_data, viewpoints
from care_cli.training import methods
from care_cli.training.alignment import Aligned
from care_cli.training.augment import NOTHING
from care_cli.training.batches import prepare
from care_cli.training.data import LabelledCrops
from care_cli.training.loop import train

BOTH = ViewpointScheme(("north", "south"), ("front", "left", "right"))
TOWER = {"embed_dim": 16, "quick_gelu": True, "vision_image_size": 32, "vision_layers": 2, "vision_width": 32,
         "vision_head_width": 16, "vision_patch_size": 16}  # fmt: skip
SIDE = 40  # px


# -- camera and view, in one number


def test_pairs_stand_camera_by_camera() -> None:
    """camera * views + view, as TransReID counts them; one kind alone by its own number."""
    assert BOTH.shape == (6,)
    assert [BOTH.place(*pair) for pair in (("north", "front"), ("north", "right"), ("south", "left"))] == [0, 2, 4]
    for unknown in ((None, "left"), ("north", None), ("east", "left"), ("north", "back"), (None, None)):
        assert BOTH.place(*unknown) is None and not viewpoints.vector(BOTH, unknown).any()
    cameras, views = ViewpointScheme(("a", "b", "c")), ViewpointScheme((), ("left", "right"))
    assert (cameras.shape, cameras.place("c", None), cameras.place("c", "left")) == ((3,), 2, 2)
    assert (views.shape, views.place(None, "right"), views.place("a", "left")) == ((2,), 1, 0)
    assert viewpoints.vector(BOTH, ("south", "left")).tolist() == [0, 0, 0, 0, 1, 0]


def test_in_a_mirrored_photo_a_left_flank_is_a_right_one() -> None:
    assert BOTH.swap.tolist() == [0, 2, 1, 3, 5, 4]
    assert ViewpointScheme(("a", "b")).swap.tolist() == [0, 1]
    assert ViewpointScheme((), ("back", "left")).swap.tolist() == [0, 1]  # no right one was taught
    labels = np.zeros(6, np.int64)
    data = LabelledCrops(np.zeros((6, SIDE, SIDE, 3), np.uint8), labels, np.eye(6, dtype=np.float32), BOTH)
    rows = np.arange(6)
    for flip, expected in ((0.0, [0, 1, 2, 3, 4, 5]), (1.0, [0, 2, 1, 3, 5, 4])):
        how = replace(NOTHING, flip=flip, pad=10, shift=0.5, crop=0.8)  # wherever the picture goes
        batch = prepare(data, tiny(augmentation=how), rows, 3, torch.device("cpu"))
        assert batch.beside.argmax(1).tolist() == expected and batch.beside.sum() == 6
    cfg = tiny(augmentation=NOTHING, side_dropout=1.0, keypoint_dropout=0.0)
    assert not prepare(data, cfg, rows, 3, torch.device("cpu")).beside.any()


# -- what the network is told


def network(kind: str) -> tuple[torch.nn.Module, str, int]:
    """A transformer, the module that its tokens go to once they are told of, and px of its photos."""
    torch.manual_seed(4)
    if kind == "clip":
        return ImageTower(**TOWER).eval(), "visual.ln_pre", 32
    if kind == "jigsaw":
        return jigsaw(SIDE), "trunk.blocks.0", SIDE
    return encoders.build_backbone("test_vit", img_size=48).eval(), "blocks.0", 48


@pytest.mark.parametrize("kind", ["clip", "jigsaw", "vit"])
def test_tokens_get_the_embedding_of_the_viewpoint_and_of_an_unknown_one_none(kind: str) -> None:
    """All of them; of a CLIP's the class token alone."""
    plain, behind, side = network(kind)
    model = SideInformation(plain, BOTH, 3.0).eval()
    torch.nn.init.normal_(model.viewpoints)
    photos, seen = torch.randn(3, 3, side, side), []
    plain.get_submodule(behind).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    told = torch.from_numpy(np.stack([viewpoints.vector(BOTH, one) for one in
                                      (("north", "left"), (None, "left"), ("south", "right"))]))  # fmt: skip
    with torch.no_grad():
        alone, answer = plain(photos), model(photos, told)
        assert torch.equal(model(photos), alone)
    added = seen[1] - seen[0]
    for row, place in ((0, 1), (2, 5)):
        expected = (3.0 * model.viewpoints[place]).repeat(added.shape[1], 1)
        expected[1:] *= kind != "clip"
        torch.testing.assert_close(added[row], expected, rtol=1e-4, atol=1e-4)
    assert not added[1].any()
    torch.testing.assert_close(answer[1], alone[1], rtol=1e-5, atol=1e-5)
    assert (answer[[0, 2]] - alone[[0, 2]]).abs().max() > 1e-2


def test_a_network_without_tokens_is_refused() -> None:
    with pytest.raises(CareError, match="no tokens that a camera could be added to"):
        SideInformation(encoders.build_backbone("test_efficientnet"), BOTH, 1.0)
    for method in ("adafreq", "ckpe", "wildlife"):
        with pytest.raises(CareError, match=f"{method} is told of no cameras: set side_weight=0"):
            methods.told_viewpoints(tiny(method, side_weight=1.0))


# -- what is learned


def told_photos() -> LabelledCrops:
    """Four animals at two cameras, both flanks; the last photo is of an unknown camera."""
    photos = np.random.default_rng(3).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    seen = [(camera, flank) for camera in ("north", "south") for flank in ("left", "left", "right", "right")]
    beside = np.stack([viewpoints.vector(BOTH, one) for one in [*seen[:-1], (None, "right")]])
    return LabelledCrops(photos, np.repeat(np.arange(4), 2), beside, BOTH)


def test_embeddings_of_viewpoints_that_are_there_are_learned(tmp_path: Path) -> None:
    data, said = told_photos(), []
    small = {"epochs": 2, "precision": "float32", "options": {"depth": 2}}
    cfg = tiny(**small, side_weight=3.0, augmentation=NOTHING, weight_decay=0.0)
    trained = train(data, cfg, notice=said.append)
    torch.manual_seed(cfg.seed)
    drawn = methods.build(cfg, 4, BOTH).embedder.viewpoints.detach()
    changed = (trained.model.viewpoints != drawn).any(1).tolist()
    assert changed == [False, True, True, False, True, True]  # no front
    assert any("1 of 8 photos are of no known camera or flank" in line for line in said)

    path = tmp_path / "own.safetensors"
    saved(trained.model, cfg, path)
    header = checkpoints.read_header(path)
    assert header["viewpoints"] == {"cameras": ["north", "south"], "views": ["front", "left", "right"], "weight": 3.0}
    assert header["architecture"] == "care_jigsaw_vit"
    model = trained.model
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float() if parameter.ndim > 1 else parameter.data
    pixels = (data.photos.astype(np.float32) / 255 - np.float32(cfg.mean)) / np.float32(cfg.std)
    photos = torch.from_numpy(pixels.transpose(0, 3, 1, 2))
    with torch.no_grad():
        expected = [F.normalize(model(photos, torch.from_numpy(one))).numpy() for one in (data.beside, 0 * data.beside)]
    spec = registry.find(path, task="embedder")
    for engine in ("torch", "openvino"):
        embedder = embedders.load_embedder(spec, path, engine=engine)
        assert (embedder.engine, embedder.scheme) == (engine, BOTH)
        np.testing.assert_allclose(embedder.embed(data.photos, data.beside), expected[0], atol=2e-5)
        np.testing.assert_allclose(embedder.embed(data.photos), expected[1], atol=2e-5)
    picture = [Image.fromarray(data.photos[0])]
    looked = explain.load(spec, path)
    found = F.normalize(looked.features(picture, data.beside[:1]))
    assert looked.is_vit and np.allclose(found, expected[0][:1], rtol=0, atol=1e-4)

    # cameras of one survey say nothing of another's: a training that begins from this one draws them anew
    other = methods.build(cfg, 4, ViewpointScheme(("a", "b", "c"))).embedder
    fresh = other.viewpoints.detach().clone()
    methods.load(other, checkpoints.load_state(path), path)
    assert torch.equal(other.viewpoints, fresh)
    assert torch.equal(other.vit.local[1].weight, model.vit.local[1].weight)
    unaware = methods.build(replace(cfg, side_weight=0.0), 4, None).embedder
    methods.load(unaware, checkpoints.load_state(path), path)
    assert torch.equal(unaware.local[1].weight, model.vit.local[1].weight)


def test_a_clip_tower_is_told_too() -> None:
    """The CARE paper's data of dogs: cameras, lambda 1."""
    assert methods.configure("care", presets=["dog"]).side_weight == 1 and methods.configure("care").side_weight == 0
    cfg = methods.configure("clip-ft", backbone="care_clip_image", options=TOWER, input_size=32, side_weight=1.0)
    torch.manual_seed(0)
    learner = methods.build(cfg, 2, BOTH).train()
    assert isinstance(learner, Aligned) and isinstance(learner.embedder, SideInformation)
    told = torch.eye(6)[[1, 1, 4, 4]]
    sum(learner(torch.randn(4, 3, 32, 32), told, torch.tensor([0, 0, 1, 1])).values()).backward()
    reached = learner.embedder.viewpoints.grad.abs().sum(1) > 0
    assert reached.tolist() == [False, True, False, False, True, False]
    assert learner.finished().describe() == {"cameras": list(BOTH.cameras), "views": list(BOTH.views), "weight": 1.0}


def test_side_information_rests_where_nothing_is_known_and_says_so() -> None:
    said: list[str] = []
    data = replace(told_photos(), beside=None, scheme=None)
    trained = train(data, tiny(epochs=0.5, precision="float32"), notice=said.append)
    assert any("side information (side_weight) rests" in line for line in said)
    assert not isinstance(trained.model, SideInformation)


# -- the catalog


@pytest.fixture
def catalog(tmp_path: Path):
    """Eight crops, by turns of the cameras 'north' and 'south', two of each animal; the first six show a flank."""
    with catalogs.new(tmp_path / "care.db") as opened:
        run = catalogs.detect_run(opened)
        for number in range(8):
            name, when = f"IMG_{number:04}.PNG", f"2024-05-01 {number:02}:00:00"
            image = catalogs.add_photo(opened, name, when, deployment=("north", "south")[number % 2])
            catalogs.add_crops(opened, run, image, name, [catalogs.found((40.0, 30.0, 80.0, 60.0))])
        for crop in range(1, 7):
            opened.decide(Decision("flank", crop_id=crop, value=("left", "right")[crop % 2]))
        opened.decide(Decision("flank", crop_id=7, value="unknown"))
        yield opened


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory):
    """An untrained jigsaw of two cameras whose embeddings weigh, and its file."""
    model = SideInformation(jigsaw(SIDE), ViewpointScheme(("east", "north")), 1.0).eval()
    torch.nn.init.normal_(model.viewpoints, std=4)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float() if parameter.ndim > 1 else parameter.data
    path = tmp_path_factory.mktemp("model") / "own.safetensors"
    saved(model, tiny(mean=(0.5,) * 3, std=(0.2,) * 3), path)
    return model, registry.find(path, task="embedder")


def by_hand(model, catalog: Catalog, crop_id: int, place: int | None) -> np.ndarray:
    """The vector of a crop's stored pixels and the viewpoint at a place, by the model alone."""
    jpeg = catalog.pixels([crop_id])[crop_id]
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy((np.asarray(picture) / 255 - 0.5) / 0.2).float().permute(2, 0, 1)[None]
    told = torch.zeros(1, 2)
    if place is not None:
        told[0, place] = 1
    with torch.no_grad():
        return F.normalize(model(pixels, told))[0].numpy()


def test_cameras_and_flanks_are_taken_where_they_are_mostly_known(catalog: Catalog) -> None:
    assert catalog.viewpoints([1, 2, 7]) == {1: ("north", "right"), 2: ("south", "left"), 7: ("north", None)}
    assert viewpoints.scheme_of(catalog, range(1, 9)) == ViewpointScheme(("north", "south"), ("left", "right"))
    assert viewpoints.scheme_of(catalog, [1, 3, 5]) is None  # one camera, one flank
    assert viewpoints.scheme_of(catalog, [2, 6, 7, 8]) == ViewpointScheme(("north", "south"))  # one flank
    assert viewpoints.scheme_of(catalog, [1, 2, 7, 8, 7]) == ViewpointScheme(("north", "south"))  # two flanks of five
    assert viewpoints.scheme_of(catalog, []) is None


def test_what_is_learned_from_says_where_it_was_taken(catalog: Catalog) -> None:
    for crop, name in ((1, "A"), (2, "B"), (7, "C")):
        catalog.decide(Decision("create", crop_id=crop, value=name))
    scheme = viewpoints.scheme_of(catalog, range(1, 9))
    found = training_data.gather(catalog, [1, 2, 7], scheme)
    assert found.beside.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]] and found.without_points == []
    renamed = ViewpointScheme(("north", "west"), scheme.views)
    digests = {training_data.gather(catalog, [1, 2, 7], one).digest() for one in (scheme, renamed, None)}
    assert len(digests) == 3
    crops, _ = training_data.labelled(catalog, found, SIDE)
    assert crops.scheme == scheme and crops.beside.tolist() == found.beside.tolist()


def test_an_index_is_told_what_the_model_knows_and_made_anew_when_it_changes(catalog: Catalog, embedder) -> None:
    model, spec = embedder
    done = index.run(catalog, index.IndexConfig(spec, engine="torch"))
    assert done["viewpoints"] == {"cameras": 2, "views": [], "with": 4, "without": 4} and done["points"] is None
    assert "4 of 8 animals are of none that it knows" in viewpoints.in_words(done["viewpoints"])
    for crop, place in ((1, 1), (2, None)):  # 'south' is none of the model's
        vector = catalog.vectors(done["run"], [crop]).vectors[0]
        np.testing.assert_allclose(vector, by_hand(model, catalog, crop, place), atol=2e-5)
    assert index.run(catalog, index.IndexConfig(spec, engine="torch"))["new"] == 0
    catalog.decide(Decision("flank", crop_id=1, value="back"))  # of which the model is not told
    assert index.run(catalog, index.IndexConfig(spec, engine="torch"))["new"] == 0

    [place] = [row["id"] for row in catalog.rows("SELECT id FROM deployments WHERE name = 'south'")]
    catalog.set_deployment(place, name="east")
    assert "4 embeddings were made with older keypoints, camera" in " ".join(doctor.in_words(doctor.examine(catalog)))
    again = index.run(catalog, index.IndexConfig(spec, engine="torch"))
    assert (again["run"], again["new"], again["changed"]) == (done["run"], 4, 4)
    vector = catalog.vectors(done["run"], [2]).vectors[0]
    np.testing.assert_allclose(vector, by_hand(model, catalog, 2, 0), atol=2e-5)


def test_a_stored_photo_is_asked_as_it_was_indexed_and_a_foreign_one_of_no_camera(
    catalog: Catalog, embedder, tmp_path: Path
) -> None:
    model, spec = embedder
    made = index.run(catalog, index.IndexConfig(spec, engine="torch"))["run"]
    individuals.name(catalog, [3], "Asha")
    Image.fromarray(catalogs.noise(99)).save(tmp_path / "query.png")
    cfg = identify.IdentifyConfig(paths=(tmp_path / "query.png",), whole=True, engine="torch", name="Bindi", new=True)
    identifier, photos = identify.run(catalog, cfg)
    told = answers.contract(identifier, photos)
    assert told["viewpoints"] == {"cameras": 2, "views": [], "with": 0, "without": 1} and told["points"] is None
    assert "1 of 1 animals are of none" in answers.remarks(identifier, photos)[0]
    crop = identify.confirm(identifier, photos, None)["crop"]
    stored = catalog.vectors(made, [crop]).vectors[0]
    np.testing.assert_allclose(stored, by_hand(model, catalog, crop, None), atol=2e-5)
    asked = [identify.Query((0, 0, 1, 1), "animal", None, crop_id=one) for one in (3, 4)]
    identifier.tell(asked)
    assert [one.shown.beside.tolist() for one in asked] == [[0, 1], [0, 0]]


def test_the_commands_tell_of_cameras_from_training_to_an_answer(tmp_path: Path, monkeypatch, capfd) -> None:
    """`care train`, `care index`, `care identify`; and what begins from such a model, without cameras."""
    ids = herd(tmp_path / "care.db", animals=8, sightings=2)
    with Catalog(tmp_path / "care.db") as catalog, catalog.transaction():
        south = catalog.add_deployment("south")
        catalog.db.conn.execute("UPDATE images SET deployment_id = ? WHERE id % 2 = 0", (south,))
    care = runner(monkeypatch, capfd, tmp_path / "care.db")
    small = ["--backbone", "test_vit", "--size", "40", "--epochs", "1", "--batch", "2x2", "--val", "0.2"]
    small += ["--set", 'options={"depth": 2}']
    done = care("train", "--method", "transreid", "--name", "told", *small, "--json")
    assert done.code == 0, done.err
    assert done.json["viewpoints"] == {"cameras": ["north", "south"], "views": []} and done.json["points"] == []
    header = checkpoints.read_header(Path(done.json["models"][0]["file"]))
    assert header["viewpoints"] == {"cameras": ["north", "south"], "views": [], "weight": 3.0}
    assert header["options"]["stride"] == 12 and header["training"]["settings"]["triplet_margin"] is None
    card = " ".join(Path(done.json["models"][0]["card"]).read_text("utf-8").split())
    assert "by which of 2 cameras" in card and "places are a secret" in card and "words were learned" not in card
    assert care("train", "--method", "transreid", "--name", "told", *small, "--json").json["models"][0]["new"] is False
    done = care("index", "--model", "told", "--engine", "torch")
    assert done.code == 0 and f"known of all {len(ids)} animals" in done.err, done.err
    Image.fromarray(catalogs.noise(99)).save(tmp_path / "query.png")
    done = care("identify", tmp_path / "query.png", "--whole", "--engine", "torch", "--json")
    assert done.code == 0 and done.json["viewpoints"] == {"cameras": 2, "views": [], "with": 0, "without": 1}, done.err

    done = care("train", "--method", "adafreq", *small, "--set", "frequency.tokens=3", "--json")
    assert done.code == 0, done.err
    header = checkpoints.read_header(Path(done.json["models"][0]["file"]))
    assert (header["architecture"], header["options"]["backbone"]) == ("care_overlapping_vit", "test_vit")
    assert care("index", "--model", done.json["models"][0]["name"], "--engine", "torch").code == 0

    spec = registry.find(tmp_path / "care.models" / "told.safetensors", task="embedder")
    asked = train_settings.TrainRequest(method="transreid", settings={"side_weight": 0.0, "input_size": 52})
    cfg = train_settings.settings_of(asked, spec)
    assert (cfg.backbone, methods.architecture(cfg)[1]["backbone"]) == ("care_jigsaw_vit", "test_vit")
    begun = methods.build(cfg, 4, None).embedder
    methods.load(begun, checkpoints.load_state(Path(spec.file)), Path(spec.file))
    assert begun.trunk.patch_embed.grid_size == (4, 4) and len(begun.trunk.blocks) == 2


# -- names from anywhere


ODD = ["Nord/Süd <b>", "日本 'x'; DROP TABLE", "\\x0a{}", "=1+1", "a" * 1000]


def test_odd_names_of_cameras_survive_the_checkpoint(tmp_path: Path) -> None:
    model = SideInformation(jigsaw(SIDE), ViewpointScheme(tuple(ODD), ("left", "right")), 3.0)
    saved(model, tiny(), tmp_path / "odd.safetensors")
    assert scheme_of(checkpoints.read_header(tmp_path / "odd.safetensors")) == model.scheme
    spec = registry.find(tmp_path / "odd.safetensors", task="embedder")
    found = embedders.load_embedder(spec, tmp_path / "odd.safetensors", engine="torch")
    assert found.scheme == model.scheme and found.embed(np.zeros((1, SIDE, SIDE, 3), np.uint8)).shape == (1, 320)


def test_a_camera_whose_name_no_header_can_hold_is_unknown(tmp_path: Path) -> None:
    with catalogs.new(tmp_path / "care.db") as catalog:
        run = catalogs.detect_run(catalog)
        for number, camera in enumerate(("a\nb", "a", "b", "x" * 3000)):
            image = catalogs.add_photo(catalog, f"{number}.PNG", deployment=camera)
            catalogs.add_crops(catalog, run, image, f"{number}.PNG", [catalogs.found((40.0, 30.0, 80.0, 60.0))])
        assert viewpoints.scheme_of(catalog, [1, 2, 3, 4]) == ViewpointScheme(("a", "b"))


HOSTILE = [
    {"cameras": [], "views": [], "weight": 1.0},
    {"cameras": ["a", "a"], "views": [], "weight": 1.0},
    {"cameras": ["a", 5], "views": [], "weight": 1.0},
    {"cameras": ["a", ["b"]], "views": [], "weight": 1.0},
    {"cameras": ["a", "b\n\x1b[31m"], "views": [], "weight": 1.0},
    {"cameras": ["a", ""], "views": [], "weight": 1.0},
    {"cameras": ["a", "b" * 3000], "views": [], "weight": 1.0},
    {"cameras": [str(i) for i in range(5000)], "views": ["left", "right", "back"], "weight": 1.0},
    {"cameras": ["a", "b"], "views": ["left", "up"], "weight": 1.0},
    {"cameras": ["a", "b"], "views": [["left"]], "weight": 1.0},
    {"cameras": ["a", "b"], "views": "left", "weight": 1.0},
    {"cameras": ["a", "b"], "views": [], "weight": float("nan")},
    {"cameras": ["a", "b"], "views": [], "weight": True},
    {"cameras": ["a", "b"], "views": []},
    {"cameras": {"a": 1}, "views": [], "weight": 1.0},
    ["a", "b"], "north", 7,
]  # fmt: skip


@pytest.mark.parametrize("said", HOSTILE, ids=lambda value: str(value)[:40])
def test_hostile_viewpoints_are_refused(tmp_path: Path, said) -> None:
    path = tmp_path / "hostile.safetensors"
    written(path, viewpoints=said)
    with pytest.raises(CareError, match="viewpoints must be a table: different cameras"):
        checkpoints.read_header(path)
    assert scheme_of({"viewpoints": said}) is None


def test_viewpoints_that_the_weights_do_not_have_are_refused(tmp_path: Path) -> None:
    many = {"cameras": [str(i) for i in range(3)], "views": [], "weight": 1.0}
    both = {"keypoints": {"names": ["nose"], "mirrors": {}, "mode": "ckpe"}, "viewpoints": many}
    huge = {"viewpoints": many | {"cameras": [str(i) for i in range(10_000)]}}
    for more, word in (({"viewpoints": many}, "differ in shape in viewpoints"), (both, "not of both"),
                       (huge, "does not fit into")):  # fmt: skip
        path = tmp_path / "hostile.safetensors"
        written(path, **more)
        with pytest.raises(CareError, match=word):
            embedders.load_embedder(registry.find(path, task="embedder"), path, engine="torch")


def written(path: Path, **said) -> None:
    """A checkpoint of a jigsaw of two cameras whose header says something else."""
    model, cfg = SideInformation(jigsaw(SIDE), ViewpointScheme(("a", "b")), 1.0), tiny()
    architecture, options = methods.architecture(cfg)
    header = {"task": "embedder", "method": "transreid", "architecture": architecture, "options": options,
              "input_size": SIDE, "mean": cfg.mean, "std": cfg.std}  # fmt: skip
    checkpoints.save(path, model.state_dict(), header | said)
