"""Engines: what is converted answers as torch does, is kept whole, and needs neither torch nor a network."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from care_cli import compiled, engines
from care_cli.errors import CareError
from care_cli.weights import file_sha256

ROOT = Path(__file__).resolve().parent.parent
IDENTITY = {"task": "test"}


class Filters(torch.nn.Module):
    """Two layers of fixed filters over photos of any size, then their averages: `(B, 8)`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(11)
        self.first, self.second = torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 8, 3)

    def forward(self, pixels):
        x = pixels.permute(0, 3, 1, 2).float() / 255
        return self.second(self.first(x).relu()).mean((2, 3))


class Brightness(Filters):
    """Decides by the photo in Python, which a trace can't follow."""

    def forward(self, pixels):
        answer = super().forward(pixels)
        return answer + 100 if len(pixels) == 1 else answer


class Alone(Filters):
    """Has a batch of one written into its trace."""

    def forward(self, pixels):
        answer = super().forward(pixels)
        return answer.view(len(pixels), 2, 4).flip(1).reshape(len(pixels), 8)


class Complex(Filters):
    """Asks for what no converter knows."""

    def forward(self, pixels):
        return torch.linalg.eigvals(super().forward(pixels).reshape(-1, 4, 2) @ torch.ones(2, 4)).real.flatten(1)


def close(expected: np.ndarray, answer: np.ndarray) -> bool:
    return bool(np.abs(expected - answer).max() < 1e-3)


class Builder:
    """Builds a network and counts how often it was asked to."""

    def __init__(self, module=Filters):
        self.module, self.calls = module, 0

    def __call__(self) -> engines.Network:
        self.calls += 1
        return engines.Network(self.module().eval(), {"kind": self.module.__name__}, ((64, 48), (48, 80)), close)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models" / "compiled"


def photos(count: int, height: int = 64, width: int = 48) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


@functools.cache
def in_float64() -> Filters:
    return Filters().double()


def exactly(batch: np.ndarray) -> np.ndarray:
    """What `Filters` answers in float64."""
    module = in_float64()
    with torch.no_grad():
        x = torch.from_numpy(batch).permute(0, 3, 1, 2).double() / 255
        return module.second(module.first(x).relu()).mean((2, 3)).numpy()


# What goes together


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (("auto", "auto", "cpu"), ("openvino", "float32")),
        (("torch", "auto", "cpu"), ("torch", "float32")),
        (("auto", "bfloat16", "cpu"), ("openvino", "bfloat16")),
        (("auto", "auto", "cuda"), ("torch", "float16")),
        (("torch", "float32", "cuda:1"), ("torch", "float32")),
    ],
)
def test_what_goes_together_is_chosen(asked, given):
    assert engines.choose(*asked) == given


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("onnx", "auto", "cpu"), "--engine is one of auto, torch, openvino, but got 'onnx'"),
        (("auto", "int8", "cpu"), "--precision is one of"),
        (("openvino", "auto", "cuda:0"), "runs on the CPU, but the device is cuda:0"),
        (("torch", "float16", "cpu"), "float16 is for CUDA"),
    ],
)
def test_what_does_not_is_refused(asked, reason):
    with pytest.raises(CareError, match=reason):
        engines.choose(*asked)


def test_without_openvino_the_cpu_computes_in_torch(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert engines.choose("auto", "auto", "cpu") == ("torch", "float32")
    with pytest.raises(CareError, match="not installed"):
        engines.choose("openvino", "auto", "cpu")


# Answers


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_answers_at_any_batch_and_size(name):
    engine, about = engines.load(IDENTITY, Builder(), engine=name)
    assert (engine.name, engine.precision, engine.device, about) == (name, "float32", "cpu", {"kind": "Filters"})
    for count, height, width in ((1, 64, 48), (3, 48, 64), (9, 33, 57), (2, 5, 5)):
        batch = photos(count, height, width)
        answer = engine(batch)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, exactly(batch), atol=2e-6)


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_threads_get_their_own_answers(name):
    engine, _ = engines.load(IDENTITY, Builder(), engine=name)
    wrong = []
    in_float64()

    def ask(seed: int) -> None:
        for round_ in range(12):
            batch = photos(1 + (seed + round_) % 7, 40 + 8 * (seed % 3), 48)
            if np.abs(engine(batch) - exactly(batch)).max() > 1e-5:
                wrong.append((seed, round_))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bfloat16_is_coarse_and_float32_is_not(name):
    try:
        engine, _ = engines.load(IDENTITY, Builder(), engine=name, precision="bfloat16")
    except CareError as error:
        assert "processor does not compute in it" in str(error)
        pytest.skip("this processor has no bfloat16")
    batch = photos(4)
    error = np.abs(engine(batch) - exactly(batch)).max()
    assert 1e-5 < error < 2e-2 and engine.precision == "bfloat16"


def test_a_call_that_fails_leaves_the_engine_usable():
    engine, _ = engines.load(IDENTITY, Builder(), engine="openvino")
    for _ in range(2 * engine.workers):
        with pytest.raises(RuntimeError):
            engine(np.zeros((3, 64, 48, 5), np.uint8))
    np.testing.assert_allclose(engine(photos(3)), exactly(photos(3)), atol=2e-6)


# What is kept


def test_what_was_converted_is_kept(cache):
    build, said = Builder(), []
    first, _ = engines.load(IDENTITY, build, name="toy", notice=said.append)
    second, about = engines.load(IDENTITY, build, name="toy", notice=said.append)
    assert build.calls == 1 and about == {"kind": "Filters"}
    assert said == ["Preparing toy for this processor, once."]
    np.testing.assert_array_equal(first(photos(3)), second(photos(3)))
    [folder] = cache.iterdir()
    stored = {path.name for path in folder.iterdir()}
    assert stored == {"model.xml", "model.bin", "about.json", "blobs"}
    weights = sum(p.numel() for p in Filters().parameters())
    assert (folder / "model.bin").stat().st_size >= 4 * weights  # float32, not compressed to half


def test_another_network_or_precision_is_another_entry(cache):
    build = Builder()
    engines.load(IDENTITY, build)
    engines.load(IDENTITY | {"weights": "0" * 64}, build)
    assert build.calls == 2 and len(list(cache.iterdir())) == 2
    names = {compiled.key(IDENTITY, precision=p, processor="x") for p in engines.PRECISIONS}
    assert len(names | {compiled.key(IDENTITY, precision="float32", processor="y")}) == 5


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.xml", "model.bin", "about.json"])
@pytest.mark.parametrize("harm", [cut, scramble, Path.unlink, lambda path: path.write_bytes(b"{}")])
def test_what_is_damaged_is_made_again(cache, file, harm):
    build = Builder()
    engines.load(IDENTITY, build)
    [folder] = cache.iterdir()
    if file == "about.json" and harm is scramble:
        harm = cut  # a letter of the description may change and be a description still
    harm(folder / file)
    engine, about = engines.load(IDENTITY, build)
    np.testing.assert_allclose(engine(photos(3)), exactly(photos(3)), atol=2e-6)
    assert build.calls == 2 and about == {"kind": "Filters"}
    engines.load(IDENTITY, build)
    assert build.calls == 2


def test_a_whole_file_that_is_no_model_is_made_again(cache):
    build = Builder()
    engines.load(IDENTITY, build)
    [folder] = cache.iterdir()
    (folder / "model.xml").write_text("<net/>")
    note = json.loads((folder / "about.json").read_text())
    note["sha256"]["model.xml"] = file_sha256(folder / "model.xml")
    (folder / "about.json").write_text(json.dumps(note))
    engine, _ = engines.load(IDENTITY, build)
    np.testing.assert_allclose(engine(photos(2)), exactly(photos(2)), atol=2e-6)
    assert build.calls == 2


@pytest.mark.parametrize("harm", [cut, scramble, lambda path: path.write_bytes(b"")])
def test_damaged_blobs_do_no_harm(cache, harm):
    """OpenVINO's own files, in a process of their own: a crash there would be one here."""
    build = Builder()
    engines.load(IDENTITY, build)
    [blob] = cache.glob("*/blobs/*")
    blob.chmod(0o644)
    harm(blob)
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_engines import *; build = Builder(); "
        "engine, _ = engines.load(IDENTITY, build); "
        "print(build.calls, np.abs(engine(photos(3)) - exactly(photos(3))).max() < 1e-5)"
    )
    done = run_python(code)
    assert done.stdout.split() == ["0", "True"], done.stderr[-2000:]


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "file" / "models"))
    build = Builder()
    for calls in (1, 2):
        engine, _ = engines.load(IDENTITY, build)
        np.testing.assert_allclose(engine(photos(3)), exactly(photos(3)), atol=2e-6)
        assert build.calls == calls and engine.name == "openvino"


def test_two_processes_at_once_keep_one(cache):
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_engines import *; "
        "engine, _ = engines.load(IDENTITY, Builder()); "
        "print(np.abs(engine(photos(3)) - exactly(photos(3))).max() < 1e-5)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    assert [one.communicate(timeout=240)[0].split()[-1] for one in both] == ["True", "True"]
    [folder] = cache.iterdir()
    assert compiled.read(folder.name)


def test_long_unused_entries_go(cache):
    engines.load(IDENTITY, Builder())
    old, half = cache / ("0" * 40), cache / f"{'1' * 40}.abc.part"
    for folder in (old, half):
        folder.mkdir()
    (old / "about.json").write_text("{}")
    for path in (old / "about.json", half):
        os.utime(path, (0, 0))
    engines.load(IDENTITY | {"weights": "1"}, Builder())
    assert not old.exists() and not half.exists() and len(list(cache.iterdir())) == 2


# Where OpenVINO does not serve


@pytest.mark.parametrize(("module", "reason"), [(Brightness, "differ from torch's"), (Alone, ""), (Complex, "")])
def test_what_does_not_convert_runs_in_torch(module, reason):
    build, said = Builder(module), []
    for _ in range(2):
        engine, about = engines.load(IDENTITY, build, name="toy", notice=said.append)
        with torch.no_grad():
            expected = module()(torch.from_numpy(photos(1))).numpy()
        np.testing.assert_allclose(engine(photos(1)), expected, atol=1e-5)
        assert engine.name == "torch" and about == {"kind": module.__name__}
    assert [line.startswith("Preparing") for line in said] == [True, False, False]  # tried once, told each time
    assert all("torch does" in line and reason in line for line in said[1:])


# Memory that does not hold a batch


class Narrow(Filters):
    """Holds so many items at most."""

    most, sizes = 3, None

    def forward(self, pixels):
        self.sizes = [*(self.sizes or []), len(pixels)]
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(pixels)


def test_batches_are_halved_until_they_fit():
    from care_cli.torch_engine import TorchEngine

    module = Narrow()
    engine = TorchEngine(module, "cpu", "float32")
    np.testing.assert_allclose(engine(photos(10)), exactly(photos(10)), atol=2e-6)
    assert module.sizes == [10, 5, 2, 2, 2, 2, 2] and engine.batch == 2
    module.sizes = None
    np.testing.assert_allclose(engine(photos(3)), exactly(photos(3)), atol=2e-6)
    assert module.sizes == [2, 1]


def test_a_photo_that_does_not_fit_is_refused():
    from care_cli.torch_engine import TorchEngine

    module = Narrow()
    module.most = 0
    with pytest.raises(CareError, match="--device cpu"):
        TorchEngine(module, "cpu", "float32")(photos(5))


# What is not imported, and whom nobody calls

OFFLINE = """
import socket
asked = []
def refuse(*arguments, **_):
    asked.append(arguments)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    variables = os.environ | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=variables)


def test_converting_touches_no_network_and_no_home(tmp_path):
    """OpenVINO would report each import to its maker."""
    home = tmp_path / "home"
    home.mkdir()
    code = (
        OFFLINE + "import sys; sys.path.insert(0, 'tests'); from test_engines import *; import time\n"
        "engine, _ = engines.load(IDENTITY, Builder()); engine(photos(2)); time.sleep(1)\n"
        "print(engine.name, asked, [n for n in sys.modules if n.startswith('openvino_telemetry.')])"
    )
    variables = dict.fromkeys(("CI", "TF_BUILD", "JENKINS_URL"), "")
    done = run_python(code, HOME=str(home), USERPROFILE=str(home), **variables)
    assert done.stdout.split() == ["openvino", "[]", "[]"], done.stderr[-2000:]
    assert list(home.rglob("*")) == []


def test_converted_models_run_without_torch():
    code = OFFLINE + (
        "import sys, time; started = time.perf_counter()\n"
        "import numpy as np; from PIL import Image; from care_cli import registry\n"
        "from care_cli.detectors import load_detector; from care_cli.embedders import load_embedder\n"
        "from care_cli.stages.devices import choose; choose('auto')\n"
        "spec = registry.find('demo-detector'); detector = load_detector(spec, registry.fetch(spec))\n"
        "spec = registry.find('demo-embedder'); embedder = load_embedder(spec, registry.fetch(spec))\n"
        "detector.detect([np.full((90, 120, 3), 99, np.uint8)])\n"
        "vectors = embedder.embed(embedder.transform(Image.new('RGB', (70, 50), 'red'))[None])\n"
        "heavy = {'torch', 'torchvision', 'timm', 'ultralytics', 'open_clip'} & set(sys.modules)\n"
        "print(vectors.shape[1], asked, len(heavy), round(time.perf_counter() - started, 2))"
    )
    first = run_python(code)
    assert first.stdout.split()[:2] == ["160", "[]"], first.stderr[-2000:]
    second = run_python(code)
    assert second.stdout.split()[:3] == ["160", "[]", "0"], second.stderr[-2000:]
    print(f"first load {first.stdout.split()[3]} s, with what was kept {second.stdout.split()[3]} s")


def test_a_run_made_in_a_precision_that_is_not_here_is_asked_in_float32(monkeypatch) -> None:
    import care_cli.openvino_engine
    from care_cli.stages.devices import precision_like

    monkeypatch.setattr(care_cli.openvino_engine, "abilities", lambda: ["FP32"])
    assert precision_like({"precision": "bfloat16"}, "auto", "cpu") == "float32"
    assert precision_like({"precision": "float16"}, "auto", "cpu") == "float32"
    assert precision_like({"precision": "bfloat16"}, "bfloat16", "cpu") == "bfloat16"  # refused where it is loaded
    monkeypatch.setattr(care_cli.openvino_engine, "abilities", lambda: ["FP32", "BF16"])
    assert precision_like({"precision": "bfloat16"}, "auto", "cpu") == "bfloat16"
    assert precision_like({}, "auto", "cpu") == "float32"


FIRST_CALLS = """
import sys, threading
sys.setswitchinterval(1e-6)
import numpy as np
from care_cli import openvino_engine
from pathlib import Path
engine = openvino_engine.OpenVINOEngine(Path(sys.argv[1]), "float32")
together, photo = threading.Barrier(8), np.zeros((1, 64, 64, 3), np.uint8)

def call():
    together.wait()
    engine(photo)

threads = [threading.Thread(target=call) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("all answered")
"""


def test_first_calls_from_many_threads_do_not_wait_for_each_other_for_ever(tmp_path) -> None:
    """OpenVINO's binding deadlocks when its first two calls come at once; without the lock this hangs."""
    from care_cli import openvino_engine

    network = engines.Network(Filters(), {}, ((64, 64), (48, 80)), lambda a, b: np.allclose(a, b, atol=1e-4))
    openvino_engine._save(openvino_engine.convert(network), tmp_path / "model.xml")
    for _ in range(6):
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CALLS, str(tmp_path / "model.xml")],
            capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.stdout.strip() == "all answered", done.stderr
