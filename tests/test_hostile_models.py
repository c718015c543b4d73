"""Hostile weights, headers, manifests and servers, through the commands that would use them: nothing runs, all is
refused in a sentence."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import struct
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import catalogs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import Care, runner

from care_cli import registry
from care_cli.errors import CareError
from care_cli.headers import RULES, check_values


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CARE_MODELS", str(folder))
    return folder


@pytest.fixture
def care(tmp_path: Path, monkeypatch, capfd) -> Care:
    """`care` in this process; a catalog with four crops lies in `crops.db`, none in `care.db`."""
    with catalogs.new(tmp_path / "crops.db") as catalog:
        catalogs.survey(catalog)
    return runner(monkeypatch, capfd, tmp_path / "care.db")


@pytest.fixture
def card(root: Path) -> Path:
    return root / "sample_data" / "queries"


@pytest.fixture
def harm(tmp_path: Path) -> Path:
    return tmp_path / "harm was done"


def refused(done, *, says: str = "") -> None:
    """Exit code 2, one sentence, no traceback."""
    assert (done.code, done.out) == (2, ""), done.err
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and "Traceback" not in done.err, done.err
    assert says.lower() in done.err.lower()


# -- pickles


class Runs:
    """Pickles as a call."""

    def __init__(self, module: str, name: str, *arguments: object):
        self.call = getattr(importlib.import_module(module), name), arguments

    def __reduce__(self):
        return self.call


def calls(harm: Path) -> dict[str, Runs]:
    """Ways in which a pickle would do harm: commands, code as text, imports, doors to other loaders."""
    text = f"open({str(harm)!r}, 'w')"
    return {
        "a command": Runs("os", "system", f"touch '{harm}'"),
        "a process": Runs("subprocess", "Popen", ["touch", str(harm)]),
        "an expression": Runs("builtins", "eval", text),
        "code": Runs("builtins", "exec", text),
        "a file": Runs("builtins", "open", str(harm), "w"),
        "an import": Runs("importlib", "import_module", "antigravity"),
        "a part": Runs("functools", "partial", os.system, f"touch '{harm}'"),
        "a door to torch": Runs("torch", "load", str(harm)),
        "a door to the hub": Runs("torch.hub", "load", "owner/name", "model"),
        "a thread": Runs("threading", "Timer", 0, print),
        "an attribute": Runs("operator", "attrgetter", "system"),
    }


@pytest.mark.parametrize("what", sorted(calls(Path())))
def test_no_pickle_runs_anything(care: Care, card: Path, tmp_path: Path, harm: Path, what: str) -> None:
    import torch

    path = tmp_path / "plausible.pt"
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU())
    layers.args = {"hidden": [calls(harm)[what]]}
    torch.save({"epoch": -1, "ema": None, "model": layers, "train_args": {}}, path)
    refused(care("detect", card, "--model", path), says="refused")
    for option in (("--model", path), ("--model", "timm:test_vit", "--weights", path)):
        refused(care("index", *option, catalog=tmp_path / "crops.db"))
    assert not harm.exists() and not (tmp_path / "care.db").exists()


@pytest.mark.parametrize(
    "line",
    [
        "cposix\nsystem\n(S'touch {harm}'\ntR.",
        "cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'touch {harm}'\ntR.",
        "ctorch.nn.modules.module\ntorch\n.",
        "ctorch.nn.modules.container\nSequential.__init__\n.",
        "cultralytics.nn.tasks\nattempt_load_one_weight\n(S'{harm}'\ntR.",
        "(S'touch {harm}'\niposix\nsystem\n.",
        "cnumpy.core.multiarray\n_reconstruct\n.",
        "ccare_cli.cli\nmain\n)R.",
        "ctorch._utils\n_rebuild_tensor_v2\n(tR.",
        "c\n\n.",
        "P1\n.",
        "\u00e9cos\nsystem\n.",
    ],
)
def test_hand_written_pickles_are_refused(care: Care, card: Path, tmp_path: Path, harm: Path, line: str) -> None:
    path = tmp_path / "hand.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hand/data.pkl", line.format(harm=harm).encode())
        archive.writestr("hand/version", b"3\n")
        archive.writestr("hand/byteorder", b"little")
    refused(care("detect", card, "--model", path))
    (tmp_path / "bare.pt").write_bytes(line.format(harm=harm).encode())
    refused(care("detect", card, "--model", tmp_path / "bare.pt"))
    assert not harm.exists()


def test_a_deep_pickle_is_refused(care: Care, card: Path, tmp_path: Path) -> None:
    deep = b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b"."
    with zipfile.ZipFile(tmp_path / "deep.pt", "w") as archive:
        archive.writestr("deep/data.pkl", deep)
        archive.writestr("deep/version", b"3\n")
    refused(care("detect", card, "--model", tmp_path / "deep.pt"))


@pytest.mark.parametrize(
    "said",
    [
        {"names": {0: "line\nbreak"}}, {"names": {0: 5}}, {"names": "abc"}, {"names": dict.fromkeys(range(20_000), "")},
        {"stride": 10**9}, {"stride": -1}, {"stride": "wide"}, {"_modules": None}, {"_parameters": 5},
        {"task": "detect", "names": {0: "pig"}}, {"task": "detect", "names": {0: "pig"}, "stride": 32},
    ],
    ids=lambda said: str(said)[:30],
)  # fmt: skip
def test_networks_that_are_no_detectors_are_refused(care: Care, card: Path, tmp_path: Path, said: dict) -> None:
    import torch

    from care_cli.yolo import build_graph

    layers = build_graph("yolo11n", ["pig"]) if "task" not in said else torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    stride = said.get("stride")
    vars(layers).update(said | ({"stride": torch.tensor([float(stride)])} if isinstance(stride, int) else {}))
    torch.save({"model": layers}, tmp_path / "odd.pt")
    refused(care("detect", card, "--model", tmp_path / "odd.pt"))
    torch.save({5: torch.zeros(3), "w": torch.zeros(3)}, tmp_path / "odd.pth")
    refused(care("index", "--model", "timm:test_vit", "--weights", tmp_path / "odd.pth", catalog=tmp_path / "crops.db"))


@pytest.mark.parametrize("what", ["a layer that listens to none", "nothing kept", "no head"])
def test_networks_that_do_not_run_are_refused(care: Care, card: Path, tmp_path: Path, what: str) -> None:
    import torch

    from care_cli.yolo import build_graph

    model = build_graph("yolo11n", ["pig"])
    if what == "a layer that listens to none":
        model.model[3].f = 99
    elif what == "nothing kept":
        model.save = []
    else:
        model.model = model.model[:-1]
    torch.save({"model": model}, tmp_path / "odd.pt")
    refused(care("detect", card, "--model", tmp_path / "odd.pt"), says="holds a network")


# -- files that claim more than they hold


def test_a_zip_that_would_unpack_to_much_is_refused(care: Care, card: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"model": torch.nn.Sequential()}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
        bomb.writestr("plain/data/9", bytes(60_000_000), zipfile.ZIP_DEFLATED)
    refused(care("detect", card, "--model", tmp_path / "bomb.pt"), says="unpack to 60,")
    shutil.copy(tmp_path / "bomb.pt", tmp_path / "bomb.pth")
    command = ("index", "--model", "timm:test_vit", "--weights", tmp_path / "bomb.pth")
    refused(care(*command, catalog=tmp_path / "crops.db"), says="unpack to 60,")


def test_a_tensor_of_one_number_that_claims_a_billion_is_refused(care: Care, card: Path, tmp_path: Path) -> None:
    import torch

    wide = torch.zeros(1, dtype=torch.float16).expand(10**12)
    from care_cli.yolo import build_graph

    layers = build_graph("yolo11n", ["pig"])
    layers.register_buffer("wide", wide)
    torch.save({"model": layers}, tmp_path / "wide.pt")
    refused(care("detect", card, "--model", tmp_path / "wide.pt"), says="claim 1,000,00")
    torch.save({"wide": wide}, tmp_path / "wide.pth")
    command = ("index", "--model", "timm:test_vit", "--weights", tmp_path / "wide.pth")
    refused(care(*command, catalog=tmp_path / "crops.db"), says="claim 1,000,000,000,000 numbers")


@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.7, 0.999])
def test_cut_weights_are_refused(care: Care, card: Path, root: Path, tmp_path: Path, share: float) -> None:
    import torch

    torch.save({"model": torch.nn.Sequential(torch.nn.Conv2d(3, 64, 9))}, tmp_path / "whole.pt")
    for whole in (tmp_path / "whole.pt", root / "models" / "weights" / "demo-detector.safetensors"):
        cut = tmp_path / f"cut{whole.suffix}"
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
        refused(care("detect", card, "--model", cut))
    whole = root / "models" / "weights" / "demo-embedder.safetensors"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    refused(care("index", "--model", cut, catalog=tmp_path / "crops.db"))


# -- safetensors headers


def safetensors(header: object, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


SAID = {"__metadata__": {"care": json.dumps({"task": "detector", "architecture": "yolo11n", "names": ["a"]})}}


def tensor(shape: list, start: int = 0, end: int = 16, dtype: str = "F32") -> dict:
    return SAID | {"w": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        safetensors(b"not json"),
        safetensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        safetensors(b'{"__metadata__":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        safetensors({"__metadata__": ["care"]}),
        safetensors({"__metadata__": {"care": "[1]"}}),
        safetensors({"__metadata__": {"care": 5}}),
        safetensors(tensor([10**9], 0, 4 * 10**9)),
        safetensors(tensor([2**60])),
        safetensors(tensor([2**62, 2**62])),
        safetensors(tensor([-4])),
        safetensors(tensor([4], 16, 0)),
        safetensors(tensor([4], 2**63, 2**63 + 16)),
        safetensors(tensor([4]) | {"v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        safetensors(tensor([4], dtype="OBJ")),
        safetensors(tensor([4], dtype="F64")),
        safetensors(tensor(["4"])),
        safetensors(tensor([4])),
    ],
)
def test_absurd_tensors_are_refused(care: Care, card: Path, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "absurd.safetensors"
    path.write_bytes(data)
    started = time.monotonic()
    refused(care("detect", card, "--model", path))
    refused(care("index", "--model", "timm:test_vit", "--weights", path, catalog=tmp_path / "crops.db"))
    assert time.monotonic() - started < 60
    assert not (tmp_path / "care.db").exists()


def retold(path: Path, **said: object) -> bytes:
    """A checkpoint of ours with other words about itself; its tensors fit."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    care = json.loads(header["__metadata__"]["care"]) | said
    header["__metadata__"] = {"care": json.dumps(care)}
    return safetensors(header, data[8 + length :])


EVERYWHERE = {
    "name": [["a"], "../../x", "<b>", "a" * 5000, ""],
    "task": [["detector"], "oracle", 7],
    "architecture": [
        "../../etc/passwd", "hf-hub:owner/name", "hf_hub:owner/name", "local-dir:/etc", "C:\\x", ["yolo11n"], "", 5,
    ],
    "input_size": [10**9, -5, 0, "big", 64.5, True, [64]],
    "shown": ["<b>", 7, -1, float("nan"), float("inf")],
    "licence": [{"a": 1}, "GPL\n[models.evil]"],
    "classes": [[1], {"pig": {"category": "weapon"}}, {"pig": {"category": "animal", "species": ["x"]}},
                {"a\nb": "animal"}, {"x" * 300: "animal"}],
}  # fmt: skip
OF_DETECTORS = {"names": [{"a": 1}, [], ["x"] * 1_000_000, ["line\nbreak"], ["\x1b[31m"], [["a"]], [""], ["a"] * 50]}
OF_EMBEDDERS = {
    "options": [
        {"embed_dim": 10**9}, {"depth": 10**9}, {"depth": 200, "widths": [4096] * 9}, {"widths": [4000] * 4}, [1], "x",
        {"pretrained": True}, {"num_heads": 7}, {"widths": []}, {"img_size": 0}, {"img_size": -64},
        {"pretrained_cfg": {"url": "http://127.0.0.1/x"}},
    ],
    "mean": ["x", [1], [float("nan")] * 3, [[0.5] * 3]],
    "std": [[0, 0, 0], [1] * 50],
    "dim": [0, "x", 10**12, 17],
    "interpolation": ["random", "no filter"],
    "crop_mode": ["spiral"],
    "thresholds": [["x"], {"known": "high", "new": 0}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in (EVERYWHERE | OF_DETECTORS).items() for value in values],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_hostile_words_of_a_detector_are_refused(care: Care, card: Path, root: Path, tmp_path, key, value) -> None:
    path = tmp_path / "retold.safetensors"
    path.write_bytes(retold(root / "models" / "weights" / "demo-detector.safetensors", **{key: value}))
    refused(care("detect", card, "--model", path))
    _added_or_refused(care, path)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in (EVERYWHERE | OF_EMBEDDERS).items() for value in values],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_hostile_words_of_an_embedder_are_refused(care: Care, root: Path, tmp_path: Path, key, value) -> None:
    path = tmp_path / "retold.safetensors"
    path.write_bytes(retold(root / "models" / "weights" / "demo-embedder.safetensors", **{key: value}))
    refused(care("index", "--model", path, catalog=tmp_path / "crops.db"))
    _added_or_refused(care, path)


def _added_or_refused(care: Care, path: Path) -> None:
    """Whatever `care models add` makes of a file, the models stay known."""
    done = care("models", "add", path)
    assert done.code in (0, 2) and "Traceback" not in done.err, done.err
    assert care("--json", "models", "list").code == 0


def test_good_words_are_taken(care: Care, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(retold(root / "models" / "weights" / "demo-detector.safetensors", name="mine", shown=0.5))
    assert care("models", "add", path).code == 0
    assert {row["name"] for row in care("--json", "models", "list").json} >= {"mine"}
    assert care("models", "verify", "mine").code == 0


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([*RULES, "names", "name", "classes"]), ANYTHING))
def test_any_words_pass_or_are_refused(words) -> None:
    try:
        check_values("here", words)
    except CareError as error:
        assert len(str(error)) < 400


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*RULES, "names", "name", "classes"]), ANYTHING))
def test_any_header_is_a_model_that_can_be_written_down_or_refused(tmp_path: Path, words) -> None:
    path = tmp_path / "any.safetensors"
    path.write_bytes(safetensors({"__metadata__": {"care": json.dumps({"task": "detector", "name": "any"} | words)}}))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    try:
        [spec] = registry.add(path)
    except CareError:
        assert not list((tmp_path / "cache").rglob("*.toml"))
    else:
        assert registry.entries()[spec.name] == spec


# -- manifests and the cache


MODEL = '[models.x]\ntask = "detector"\nfamily = "ultralytics"\n'


@pytest.mark.parametrize(
    "text",
    [
        '[models."../x"]\ntask = "detector"\nfamily = "ultralytics"',
        '[models."/etc/x"]\ntask = "detector"\nfamily = "ultralytics"',
        f'[models.{"x" * 5000}]\ntask = "detector"\nfamily = "ultralytics"',
        'models = "x"',
        "[models]\nx = 3",
        'classes = "x"\n' + MODEL,
        MODEL + 'url = "https://example.org/..\\\\..\\\\evil.pt"',
        MODEL + 'url = "https://example.org/.."',
        MODEL + 'url = "https://example.org/"',
        MODEL + 'url = "https://example.org/C:evil.pt"',
        MODEL + 'url = "file://server/share/w.pt"',
        MODEL + 'url = "http://example.org/w.pt"',
        MODEL + 'url = "http://127.0.0.1.example.org/w.pt"',
        MODEL + 'url = "http://localhost@example.org/w.pt"',
        MODEL + 'url = "ftp://example.org/w.pt"',
        MODEL + 'url = "//example.org/w.pt"',
        MODEL + 'url = "https://[::1/w.pt"',
        MODEL + "url = 5",
        MODEL + 'url = "https://example.org/"\nfiles = ["a/../../../x"]',
        MODEL + 'url = "https://example.org/"\nfiles = ["\\\\\\\\server\\\\share"]',
        MODEL + 'url = "https://example.org/"\nfiles = "abc"',
        MODEL + "file = 5",
        MODEL + "files = 5",
        MODEL + 'mean = "abc"',
        MODEL + "mean = [1]",
        MODEL + 'default_for = ["index", "everything"]',
        MODEL + "input_size = 1000000000",
        MODEL + "bytes = -1",
        MODEL + 'classes = {a = {category = "animal", species = "<b>\\n"}}',
        MODEL + 'architecture = "hf-hub:owner/name"',
        MODEL + "sha256 = 5",
        "\x00",
        "[models" * 10_000,
        MODEL + "mean = " + "[" * 5000 + "]" * 5000,
    ],
    ids=range(34),
)
def test_hostile_manifests_are_refused(care: Care, card: Path, tmp_path: Path, cache: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    refused(care("models", "add", path))
    refused(care("detect", card, "--model", path))
    assert not list(cache.rglob("*.toml"))
    assert care("--json", "models", "list").code == 0


@pytest.fixture(scope="module")
def server():
    """Serves 2 MB in every dishonest way, by path; an honest one at /good.pt."""
    payload = bytes(range(256)) * 8192

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            kind = self.path.strip("/")
            if kind == "round":
                self.send_response(302)
                self.send_header("Location", self.path)
                self.end_headers()
                return
            self.send_response(200)
            length = {"long.pt": str(10**15), "odd.pt": "many", "below.pt": "-5"}.get(kind, str(len(payload)))
            if kind == "chunks.pt":
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", length)
            self.end_headers()
            if kind == "chunks.pt":
                self.wfile.write(b"100000\r\n" + payload[:1000])
            elif kind == "empty.pt":
                pass
            else:
                self.wfile.write(payload if kind == "good.pt" else payload[: len(payload) // 2])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.handle_error = lambda *_: None  # whoever hangs up on it is not its concern
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", payload
        running.shutdown()


def describe(care: Care, tmp_path: Path, url: str, more: str = "") -> None:
    path = tmp_path / "ours.toml"
    path.write_text(f'[models.ours]\ntask = "detector"\nfamily = "ultralytics"\nurl = "{url}"\n{more}\n')
    assert care("models", "add", path).code == 0


@pytest.mark.parametrize("kind", ["half.pt", "empty.pt", "long.pt", "chunks.pt", "round"])
def test_a_download_that_fails_keeps_nothing_and_the_same_command_goes_on(
    care: Care, server, tmp_path: Path, cache: Path, kind: str
) -> None:
    url, payload = server
    describe(care, tmp_path, f"{url}/{kind}")
    refused(care("models", "pull", "ours"))
    assert not [path for path in cache.rglob("*") if path.suffix in (".pt", ".part")]
    describe(care, tmp_path, f"{url}/good.pt", f'sha256 = "{hashlib.sha256(payload).hexdigest()}"')
    assert care("models", "pull", "ours").code == 0
    assert care("models", "verify", "ours").code == 0


@pytest.mark.parametrize("kind", ["odd.pt", "below.pt"])
def test_what_a_server_says_of_its_length_is_not_believed(care: Care, server, tmp_path: Path, kind: str) -> None:
    url, payload = server
    describe(care, tmp_path, f"{url}/{kind}", f'sha256 = "{hashlib.sha256(payload).hexdigest()}"')
    refused(care("models", "pull", "ours"))


@pytest.mark.parametrize("published", ["sha256", "md5"])
@pytest.mark.parametrize("content", [b"", b"half of the weights"])
def test_weights_that_were_laid_into_the_cache_are_compared_with_what_was_published(
    care: Care, card: Path, tmp_path: Path, cache: Path, published: str, content: bytes
) -> None:
    digest = hashlib.new(published, b"the weights").hexdigest()
    describe(care, tmp_path, "https://example.org/w.pt", f'{published} = "{digest}"')
    (cache / "ours").mkdir(parents=True)
    (cache / "ours" / "w.pt").write_bytes(content)
    refused(care("detect", card, "--model", "ours"), says=digest)
    assert care("models", "verify", "ours").code == 1
    refused(care("models", "pull", "ours"), says=digest)
    (cache / "ours" / "w.pt").write_bytes(b"the weights")
    assert care("models", "verify", "ours").code == 0


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_links_in_the_cache_lead_nothing_astray(care: Care, server, tmp_path: Path, cache: Path) -> None:
    url, payload = server
    (tmp_path / "elsewhere").mkdir()
    cache.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    describe(care, tmp_path, f"{url}/good.pt")
    (cache / "ours").mkdir()
    (cache / "ours" / "good.pt").symlink_to(tmp_path / "mine.txt")  # dangling: nothing is written through it
    assert care("models", "pull", "ours").code == 0
    assert not (tmp_path / "mine.txt").exists() and (cache / "ours" / "good.pt").read_bytes() == payload
    (tmp_path / "mine.txt").write_text("my notes")
    (cache / "ours" / "good.pt").unlink()
    (cache / "ours" / "good.pt").symlink_to(tmp_path / "mine.txt")
    done = care("models", "verify", "ours")
    assert done.code in (0, 1) and (tmp_path / "mine.txt").read_text() == "my notes"


@pytest.mark.parametrize("place", ["cache", "cache/registry.d", "cache/ours"])
def test_a_file_where_the_cache_should_be_is_told(care: Care, server, tmp_path: Path, place: str) -> None:
    if place == "cache/ours":
        describe(care, tmp_path, f"{server[0]}/good.pt")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("a file")
    if place == "cache/ours":
        refused(care("models", "pull", "ours"))
    else:
        path = tmp_path / "ours.toml"
        path.write_text(MODEL + f'url = "{server[0]}/good.pt"')
        refused(care("models", "add", path))
    assert (tmp_path / place).read_text() == "a file"
