"""Detectors against Ultralytics' own predict, hand-worked merging, and files that mean harm."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from care_cli import checkpoints, detectors, registry, thresholds, yolo
from care_cli.errors import CareError
from care_cli.geometry import iou
from care_cli.images import read_photo
from care_cli.records import Detection, ModelSpec

BARE = ModelSpec(name="bare", task="detector", family="ultralytics")


@pytest.fixture(scope="module")
def photos(shared) -> list[np.ndarray]:
    """Real photos of several shapes: landscape, the same upright, small, and a wide strip."""
    folder = shared / "data/camera_trap"
    elephants = folder / "speciesnet_edge_cases/african_elephants_cmyk.jpg"
    cards = [folder / f"sdcard_sdzg1/DCIM/100EK113/EK0000{number}.JPG" for number in (59, 31)]
    full = [np.asarray(Image.open(path).convert("RGB")) for path in (elephants, *cards)]
    upright = np.ascontiguousarray(np.rot90(full[0]))
    small = np.asarray(Image.fromarray(full[1]).resize((500, 375)))
    return [full[0], upright, small, full[1], full[2], full[0][600:1100]]


def boxes_of(detections: list[Detection]) -> np.ndarray:
    return np.array([d.box for d in detections]).reshape(-1, 4)


# Boxes


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("name", ["yolo11n.pt", "yolo26s.pt", "yolo11n-seg.pt"])
def test_boxes_equal_ultralytics_predict(shared, photos, name, engine):
    weights = shared / "weights" / name
    detector = detectors.load_detector(registry.find(weights), weights, engine=engine)
    assert (detector.engine, detector.precision) == (engine, "float32")
    found = detector.detect(photos)
    from ultralytics import YOLO

    reference = YOLO(weights)
    compared = 0
    for photo, ours in zip(photos, found, strict=True):
        theirs = reference.predict(photo[..., ::-1], imgsz=640, conf=0.25, verbose=False, device="cpu", save=False)[
            0
        ].boxes
        low, high = theirs.xyxy.numpy()[:, :2], theirs.xyxy.numpy()[:, 2:]
        names = [reference.names[int(label)] for label in theirs.cls]
        confident = [d for d in ours if d.confidence > 0.25]
        assert sorted(names) == sorted(d.label for d in confident)
        overlap = iou(np.hstack([low, high - low]), boxes_of(confident))
        for i, (label, score) in enumerate(zip(names, theirs.conf.tolist(), strict=True)):
            same = [
                j
                for j, d in enumerate(confident)
                if d.label == label and overlap[i, j] >= 0.95 and abs(d.confidence - score) < 0.02
            ]
            assert same, f"{name}: {label} {score:.2f} has no counterpart"
            compared += 1
        assert all(d.confidence > thresholds.STORED for d in ours)
    assert compared >= 5


def test_a_photo_gives_the_same_boxes_alone_and_among_others(shared, photos):
    weights = shared / "weights/yolo11n.pt"
    detector = detectors.load_detector(registry.find(weights), weights)
    together = detector.detect(photos)
    for photo, among in zip(photos, together, strict=True):
        alone = detector.detect([photo])[0]
        assert [d.label for d in alone] == [d.label for d in among]
        np.testing.assert_allclose(boxes_of(alone), boxes_of(among), atol=0.05)
        height, width = photo.shape[:2]
        edges = boxes_of(alone)
        assert (edges >= 0).all() and (edges[:, :2] + edges[:, 2:] <= [width + 1e-3, height + 1e-3]).all()


def same_boxes(expected, found, least: float, labels: bool) -> tuple[list[float], list[float]]:
    """IoU and difference of confidence with the best counterpart of each box that is at least so confident."""
    overlaps, differences = [], []
    for one in (d for d in expected if d.confidence >= least):
        same = [d for d in found if d.label == one.label or not labels]
        overlap = iou(boxes_of([one]), boxes_of(same))[0]
        assert len(overlap), f"{one.label} {one.confidence:.2f} was lost"
        overlaps.append(float(overlap.max()))
        differences.append(abs(same[int(overlap.argmax())].confidence - one.confidence))
    return overlaps, differences


def all_the_same(expected, found, least=0.25, labels=True) -> tuple[float, float, int]:
    """Mean IoU, largest difference of confidence, and number of boxes, over several photos."""
    pairs = [same_boxes(one, other, least, labels) for one, other in zip(expected, found, strict=True)]
    overlaps, differences = ([value for pair in pairs for value in pair[i]] for i in (0, 1))
    return float(np.mean(overlaps)), max(differences), len(overlaps)


@pytest.mark.parametrize("name", ["yolo11n.pt", "yolo26s.pt", "yolo11n-seg.pt"])
def test_openvino_finds_what_torch_finds(shared, photos, name):
    weights = shared / "weights" / name
    torch_, openvino = (
        detectors.load_detector(registry.find(weights), weights, engine=engine) for engine in ("torch", "openvino")
    )
    small = [photo[::3, ::3] for photo in photos]  # other shapes
    for batch in (photos, small, photos[3:4]):
        overlap, difference, count = all_the_same(torch_.detect(batch), openvino.detect(batch), thresholds.STORED)
        assert overlap >= 0.999 and difference <= 1e-3 and count
        print(f"{name}: {count} boxes, mean IoU {overlap:.5f}, confidence differs by {difference:.1e} at most")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bfloat16_loses_no_confident_box(shared, photos, engine):
    weights = shared / "weights/yolo11n.pt"
    exact = detectors.load_detector(registry.find(weights), weights, engine="torch").detect(photos)
    try:
        coarse = detectors.load_detector(registry.find(weights), weights, engine=engine, precision="bfloat16")
    except CareError as error:
        pytest.skip(str(error))
    overlap, difference, count = all_the_same(exact, coarse.detect(photos), labels=False)
    assert overlap >= 0.97 and difference < 0.1 and coarse.precision == "bfloat16"
    print(f"yolo11n in bfloat16, {engine}: {count} boxes, IoU {overlap:.4f}, confidence within {difference:.3f}")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_models_without_suppression_equal_predict(shared, photos, tmp_path, engine):
    """An end-to-end graph picks its own boxes, of inputs with fewer than 300 places too."""
    import torch

    yolo.prepare_ultralytics()
    from ultralytics import YOLO

    model = checkpoints.load_ultralytics(shared / "weights/yolo26s.pt")
    model.end2end = True
    path = tmp_path / "own.pt"
    torch.save({"model": model}, path)
    detector = detectors.load_detector(BARE, path, engine=engine, image_size=160)
    assert detector.end2end
    strip = np.ascontiguousarray(photos[0][600:1100])
    photos = [*photos[:3], strip[: strip.shape[1] // 5]]
    reference, compared = YOLO(path), 0
    for photo, ours in zip(photos, detector.detect(photos), strict=True):
        reference.predictor = None
        theirs = reference.predict(
            photo[..., ::-1], imgsz=160, conf=thresholds.STORED, verbose=False, device="cpu", save=False, nms=False
        )[0].boxes
        assert len(theirs) == len(ours)
        corners = np.hstack([boxes_of(ours)[:, :2], boxes_of(ours)[:, :2] + boxes_of(ours)[:, 2:]])
        np.testing.assert_allclose(corners, theirs.xyxy.numpy(), atol=0.5)
        np.testing.assert_allclose([d.confidence for d in ours], theirs.conf.numpy(), atol=1e-3)
        assert [d.label for d in ours] == [reference.names[int(label)] for label in theirs.cls]
        compared += len(ours)
    assert compared >= 3


# The way there and back, against Ultralytics' own functions

SIDES = st.integers(1, 400)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from([64, 96, 320]), st.integers(0, 10_000))
def test_letterbox_and_the_way_back_equal_ultralytics(height, width, size, seed):
    yolo.prepare_ultralytics()
    import torch
    from ultralytics.data.augment import LetterBox
    from ultralytics.utils.ops import scale_boxes

    random = np.random.default_rng(seed)
    photo = random.integers(0, 256, (height, width, 3), np.uint8)
    ours = detectors.letterbox(photo, size, 32)
    np.testing.assert_array_equal(ours, LetterBox((size, size), auto=True, stride=32)(image=photo.copy()))
    rows = random.uniform(-20, size + 20, (7, 6)).astype(np.float32)
    expected = scale_boxes(ours.shape[:2], torch.from_numpy(rows[:, :4].copy()), photo.shape).numpy()
    back = detectors.to_photo(rows, detectors.Prepared(ours, photo.shape[:2]))
    np.testing.assert_array_equal(back[:, :4].astype(np.float32), expected)
    np.testing.assert_array_equal(back[:, 4:].astype(np.float32), rows[:, 4:])
    scaled = detectors.to_photo(rows, detectors.Prepared(ours, photo.shape[:2], scale=4))
    np.testing.assert_array_equal(scaled[:, :4], back[:, :4] * 4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 700).filter(lambda count: count != 6),  # which Ultralytics takes for boxes that are suppressed
    st.integers(1, 4),
    st.integers(0, 10_000),
    st.sampled_from([40, 400]),
)
def test_suppression_equals_ultralytics(count, classes, seed, spread):
    yolo.prepare_ultralytics()
    import torch
    import torchvision  # noqa: F401 - Ultralytics suppresses with it once it is there
    from ultralytics.utils.nms import non_max_suppression

    random = np.random.default_rng(seed)
    centres, sides = random.uniform(0, spread, (count, 2)), random.uniform(0, 90, (count, 2))
    scores = random.uniform(0, 1, (count, classes)).round(2)  # many are equal
    raw = torch.from_numpy(np.hstack([centres, sides, scores]).astype(np.float32)).T[None]
    expected = non_max_suppression(raw, thresholds.STORED, 0.7, max_det=300, nc=classes, max_time_img=1e9)[0].numpy()
    raw = raw[0].T.numpy()
    low = raw[:, :2] - raw[:, 2:4] / 2
    best = raw[:, 4:].argmax(1)[:, None] if count else np.zeros((0, 1))
    rows = np.hstack([low, raw[:, :2] + raw[:, 2:4] / 2, raw[:, 4:].max(1, keepdims=True), best]).astype(np.float32)
    kept = detectors.suppress(rows[rows[:, 4] > np.float32(thresholds.STORED)])
    np.testing.assert_array_equal(kept, expected)


def test_reduced_decoding_finds_what_full_decoding_finds(shared):
    """On a real card of 8 megapixels, and on odd photos: turned, CMYK, grey, cut off."""
    weights = shared / "weights/yolo11n.pt"
    detector = detectors.load_detector(registry.find(weights), weights)
    camera_traps = shared / "data/camera_trap"
    paths = sorted((camera_traps / "sdcard_sdzg1").rglob("*.[jJ][pP][gG]"))[::2]
    paths += sorted((camera_traps / "speciesnet_edge_cases").glob("african_elephants*.jpg"))
    full, reduced, scales = [], [], []
    for path in paths:
        for found, least in ((full, None), (reduced, 2 * detector.image_size)):
            reading = read_photo(path, least)
            found += detector.detect_prepared([detector.prepare(reading.pixels, reading.scale)])
        scales.append(reading.scale)
    assert scales[:30] == [2] * 30
    overlap, difference, count = all_the_same(full, reduced, least=0.4, labels=False)
    assert count >= 10 and overlap >= 0.97 and difference < 0.2


def test_coco_weights_get_categories_but_no_species(shared, photos):
    weights = shared / "weights/yolo11n.pt"
    detector = detectors.load_detector(registry.find(weights), weights)
    assert detector.spec.classes == registry.find("yolo11n").classes and detector.spec.shown == 0.2
    found = [d for photo in detector.detect(photos) for d in photo]
    assert {d.category for d in found if d.label in ("bear", "horse", "elephant", "cat")} == {"animal"}
    assert all(d.species is None for d in found)
    assert {d.category for d in found if d.label in ("frisbee", "bed")} <= {None}


def test_pixels_of_another_form_are_refused(shared):
    weights = shared / "weights/yolo11n.pt"
    detector = detectors.load_detector(registry.find(weights), weights)
    with pytest.raises(CareError, match=r"\(H,W,3\) uint8"):
        detector.detect([np.zeros((20, 20), np.uint8)])


# Our own checkpoints


def test_saved_detector_finds_the_same(shared, photos, tmp_path):
    weights = shared / "weights/yolo11n.pt"
    before = detectors.load_detector(registry.find(weights), weights)
    yolo.prepare_ultralytics()
    model = checkpoints.load_ultralytics(weights)
    path = tmp_path / "own.safetensors"
    header = {"architecture": "yolo11n", "names": list(model.names.values()), "input_size": 640}
    yolo.save_detector(model, path, {**header, "shown": 0.35})
    assert path.stat().st_size < 6_000_000
    after = detectors.load_detector(registry.find(path, task="detector"), path)
    assert (after.spec.shown, after.image_size) == (0.35, 640)
    for old, new in zip(before.detect(photos), after.detect(photos), strict=True):
        for d in (d for d in old if d.confidence > 0.25):
            best = int(np.argmax(iou(boxes_of([d]), boxes_of(new))[0]))
            assert new[best].label == d.label and abs(new[best].confidence - d.confidence) < 0.02
            assert iou(boxes_of([d]), boxes_of(new))[0, best] >= 0.95


def test_species_of_our_own_detector_come_from_its_header(tmp_path):
    model = yolo.build_graph("yolo11n", ["jaguar", "person"])
    path = tmp_path / "own.safetensors"
    classes = {"jaguar": {"category": "animal", "species": "jaguar"}, "person": {"category": "person"}}
    header = {"architecture": "yolo11n", "names": ["jaguar", "person"], "input_size": 320, "classes": classes}
    yolo.save_detector(model, path, header)
    detector = detectors.load_detector(registry.find(path), path)
    assert detector.spec.classes == classes and detector.settings["image_size"] == 320
    described = ModelSpec(name="demo", task="detector", family="care", file=str(path), shown=0.5)
    assert detectors.load_detector(described, path).spec.shown == 0.5
    assert detectors.load_detector(described, path).spec.classes == classes


def test_damaged_own_checkpoint_is_refused(tmp_path):
    model = yolo.build_graph("yolo11n", ["a"])
    state = {name: t for name, t in model.state_dict().items() if name != "model.0.conv.weight"}
    path = tmp_path / "own.safetensors"
    header = {"task": "detector", "architecture": "yolo11n", "names": ["a"], "input_size": 320}
    checkpoints.save(path, state, header)
    with pytest.raises(CareError, match="does not fit"):
        detectors.load_detector(BARE, path)
    checkpoints.save(path, state, {**header, "architecture": "../../yolo11n"})
    with pytest.raises(CareError, match="architecture"):
        detectors.load_detector(BARE, path)


# Files that are no detector, and files that mean harm


def test_pose_weights_are_refused(shared):
    with pytest.raises(CareError, match="'pose'"):
        detectors.load_detector(BARE, shared / "weights/yolo11n-pose.pt")


def test_classification_weights_are_refused(tmp_path):
    import torch

    yolo.prepare_ultralytics()
    from ultralytics.nn.tasks import ClassificationModel

    path = tmp_path / "classifier.pt"
    torch.save({"model": ClassificationModel("yolo11n-cls.yaml", nc=3, verbose=False)}, path)
    with pytest.raises(CareError, match="'classify'"):
        detectors.load_detector(BARE, path)


def test_what_ultralytics_trained_is_read_as_it_was(tmp_path):
    """A checkpoint as the trainer leaves it: averaged weights, loss, paths, numpy numbers, arguments."""
    import torch

    model = yolo.build_graph("yolo11n", ["jaguar", "person"])
    from ultralytics.utils import IterableSimpleNamespace

    model.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5, save_dir=Path("runs"))
    model.criterion = model.init_criterion()
    path = tmp_path / "last.pt"
    extra = {"train_args": {"project": Path("runs")}, "fitness": np.float64(0.5)}
    torch.save({"model": None, "ema": model, **extra}, path)
    read = checkpoints.load_ultralytics(path)
    assert type(read) is type(model) and [type(m) for m in read.modules()] == [type(m) for m in model.modules()]
    assert not hasattr(read, "criterion")
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    detector = detectors.load_detector(BARE, path)
    assert detector.spec.classes["jaguar"] == {"category": "animal", "species": "jaguar"}


def test_no_line_of_care_loads_a_pickle(root):
    """`torch.load` only with weights_only=True; nothing else that unpickles."""
    unsafe = []
    for path in (root / "care_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            safe = any(
                k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True
                for k in node.keywords
            )
            called = ast.unparse(node.func)
            if called in ("pickle.load", "pickle.loads", "joblib.load", "torch.jit.load") or (
                called == "torch.load" and not safe
            ):
                unsafe.append(f"{path.name}:{node.lineno}")
    assert unsafe == []


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def harm(tmp_path) -> Path:
    return tmp_path / "harm was done"


def refused(tmp_path: Path, content: object, reason: str) -> None:
    import torch

    path = tmp_path / "bad.pt"
    torch.save({"model": content}, path)
    with pytest.raises(CareError, match=reason):
        detectors.load_detector(BARE, path)


def test_a_pickle_that_would_run_a_command_is_refused(tmp_path, harm):
    refused(tmp_path, Runs(os.system, f"touch '{harm}'"), r"refused.*system")
    assert not harm.exists()


def test_a_pickle_that_would_evaluate_text_is_refused(tmp_path, harm):
    refused(tmp_path, Runs(eval, f"open({str(harm)!r}, 'w')"), r"refused.*eval")
    assert not harm.exists()


def test_allowed_layers_can_not_be_called(tmp_path, harm):
    """Ultralytics' constructors evaluate the activation that their configuration names."""
    yolo.prepare_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    graph = {"nc": 1, "activation": f"open({str(harm)!r}, 'w')", "backbone": [], "head": []}
    refused(tmp_path, Runs(DetectionModel, graph), "instead of describing one")
    assert not harm.exists()


def test_getattr_reaches_nothing_but_forward(tmp_path):
    import torch

    refused(tmp_path, Runs(getattr, torch.nn.Identity(), "__class__"), "asks for '__class__'")


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 broken zip", b"\x80\x02}q\x00."])
def test_any_other_file_is_refused(tmp_path, content):
    for name in ("x.pt", "x.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CareError):
            detectors.load_detector(BARE, path)


def test_plain_tensors_are_no_detector(tmp_path):
    import torch

    path = tmp_path / "state.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CareError, match="holds no network"):
        detectors.load_detector(BARE, path)


# Merging: box (x, y, w, h); two boxes 100 wide shifted by d overlap at IoU (100-d)/(100+d)


def found(category: str | None, x: float, confidence: float, **more) -> Detection:
    return Detection((x, 0.0, 100.0, 100.0), confidence, more.pop("label", str(category)), category, **more)


def test_the_best_of_overlapping_boxes_of_a_category_stays():
    kept = detectors.settle(
        [
            found("animal", 0, 0.4, label="dog"),
            found("animal", 17, 0.9, label="cat"),  # IoU 83/117 = 0.709 with the first
            found("animal", 36, 0.5, label="bear"),  # IoU 81/119 = 0.681 with the second
            found(None, 36, 0.99, label="frisbee"),
        ]
    )
    assert [(d.label, d.confidence) for d in kept] == [("cat", 0.9), ("bear", 0.5)]


def test_an_animal_and_a_person_on_one_spot_are_one_person():
    kept = detectors.settle(
        [
            found("animal", 0, 0.8),
            found("person", 33, 0.3),  # IoU 67/133 = 0.504 with the animal
            found("animal", 300, 0.6),
            found("person", 334, 0.2),  # IoU 66/134 = 0.493 with the animal
            found("vehicle", 0, 0.7),
        ]
    )
    assert [(d.category, d.confidence, d.box[0]) for d in kept] == [
        ("person", 0.8, 33),
        ("vehicle", 0.7, 0),
        ("animal", 0.6, 300),
        ("person", 0.2, 334),
    ]


def test_nothing_settles_to_nothing():
    assert detectors.settle([]) == []


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            found,
            st.sampled_from(["animal", "person", "vehicle", None]),
            st.integers(0, 300),
            st.floats(0.05, 1.0),
        ),
        max_size=12,
    )
)
def test_no_person_is_left_as_an_animal(detections):
    kept = detectors.settle(detections)
    animals = [d for d in kept if d.category == "animal"]
    people = [d for d in kept if d.category == "person"]
    assert not (iou(boxes_of(animals), boxes_of(people)) >= 0.5).any()
    for category in ("animal", "person", "vehicle"):
        same = boxes_of([d for d in kept if d.category == category])
        assert (iou(same, same) - np.eye(len(same)) <= 0.7 + 1e-9).all()
        if any(d.category == category for d in detections):
            assert any(d.category in (category, "person") for d in kept)
    assert [d.confidence for d in kept] == sorted((d.confidence for d in kept), reverse=True)


def test_ultralytics_does_not_change_how_pillow_opens_photos() -> None:
    """It replaces Pillow's opener by one that looks for a plug-in; ours stays Pillow's."""
    code = (
        "from PIL import Image; from care_cli.yolo import prepare_ultralytics; before = Image.open; "
        "prepare_ultralytics(); from ultralytics import YOLO; print(Image.open is before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "True"


def test_ultralytics_does_not_leave_one_thread_to_whatever_comes_later() -> None:
    """Its import writes OMP_NUM_THREADS=1, which engines and child processes would obey."""
    code = "import os; from care_cli.yolo import prepare_ultralytics, THREADS; prepare_ultralytics(); "
    code += "print([os.environ.get(name) for name in THREADS])"
    for said, left in (({}, "[None, None]"), ({"OMP_NUM_THREADS": "3"}, "['3', None]")):
        clean = {name: value for name, value in os.environ.items() if name not in yolo.THREADS}
        done = subprocess.run([sys.executable, "-c", code], env=clean | said, capture_output=True, text=True)
        assert done.stdout.strip() == left, done.stderr
