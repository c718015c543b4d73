"""Names, manifests and verified weights: against a server on this machine and files altered by hand."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_cli import checkpoints, registry, weights
from care_cli.errors import CareError
from care_cli.records import CATEGORIES, ModelSpec

COCO_START = ["person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"]
COCO_ANIMALS = ["bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"]
PAYLOAD = bytes(range(256)) * 5000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CARE_MODELS", str(folder))
    return folder


@pytest.fixture(scope="module")
def server():
    """Serves PAYLOAD at /weights.pt, half of it at /short.pt, and redirects elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
            elif self.path == "/absent.pt":
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(PAYLOAD)))
                self.end_headers()
                self.wfile.write(PAYLOAD[: len(PAYLOAD) // 2] if self.path == "/short.pt" else PAYLOAD)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def spec_at(url: str, **values) -> ModelSpec:
    return ModelSpec(name="ours", task="detector", family="ultralytics", url=url, **values)


def manifest(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


# Descriptions


@pytest.mark.parametrize("name", sorted(registry.shipped()))
def test_every_entry_is_complete(name):
    spec = registry.shipped()[name]
    card = registry.models_folder() / "cards" / f"{name}.md"
    text = card.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert "**What for.**" in text and "**Licence.**" in text
    assert spec.licence not in ("", "unknown")
    assert spec.url or spec.file or spec.licence == "not stated"
    if spec.url:
        assert spec.url.startswith("https://")
        assert spec.url.endswith("/") == bool(spec.files)
    if spec.task == "detector":
        assert spec.shown is not None and {m["category"] for m in spec.classes.values()} <= set(CATEGORIES)
    if spec.task == "embedder" and spec.family != "care":
        assert spec.dim and len(spec.mean) == len(spec.std) == 3


def test_every_card_has_an_entry():
    cards = {path.stem for path in (registry.models_folder() / "cards").glob("*.md")}
    assert cards == set(registry.shipped())


def test_bare_commands_have_their_models():
    assert registry.default("detect:cpu").name == "megadetector-v1000-sorrel"
    assert registry.default("detect:cuda").name == "megadetector-v1000-larch"
    assert registry.default("index").task == "embedder"


def test_the_users_own_default_goes_first(tmp_path):
    path = manifest(
        tmp_path,
        '[models.mine]\ntask = "detector"\nfamily = "ultralytics"\nfile = "w.pt"\ndefault_for = ["detect:cpu"]\n',
    )
    registry.add(path)
    assert registry.default("detect:cpu").name == "mine"
    assert registry.default("detect:cuda").name == "megadetector-v1000-larch"


def test_coco_says_animal_but_never_a_species():
    classes = registry.find("yolo11n").classes
    assert [classes[name] for name in COCO_ANIMALS] == [{"category": "animal"}] * 10
    assert classes["person"] == {"category": "person"} and classes["truck"] == {"category": "vehicle"}
    assert not {"airplane", "boat", "stop sign"} & set(classes)


def test_bare_weights_are_understood_by_their_class_names():
    coco = [*COCO_START, *COCO_ANIMALS, *(f"thing {i}" for i in range(80 - 19))]
    assert registry.classes_for(coco) == registry.find("yolo11n").classes
    assert registry.classes_for(["animal", "person", "vehicle"]) == registry.find("megadetector-v1000-larch").classes
    assert registry.classes_for(["jaguar", "Human", "empty", "truck", "animal"]) == {
        "jaguar": {"category": "animal", "species": "jaguar"},
        "Human": {"category": "person"},
        "truck": {"category": "vehicle"},
        "animal": {"category": "animal"},
    }


def test_registry_is_read_without_torch():
    code = "import sys; from care_cli import registry; registry.entries(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "{base}/care/models"),
        ("darwin", "HOME", "{base}/Library/Caches/care/models"),
        ("win32", "LOCALAPPDATA", "{base}/care/models"),
    ],
)
def test_cache_folder_follows_the_platform(monkeypatch, tmp_path, platform, variable, expected):
    monkeypatch.delenv("CARE_MODELS")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert registry.cache_folder().as_posix() == expected.format(base=tmp_path.as_posix())


# Finding


def test_unknown_name_lists_close_ones():
    with pytest.raises(CareError, match="megadetector-v1000-larch"):
        registry.find("megadetector-larch")
    with pytest.raises(CareError, match="care models list"):
        registry.find("%%%")
    with pytest.raises(CareError, match="the registry knows yolo11n"):
        registry.find("elsewhere/yolo11n.pt")


def test_model_of_another_task_is_refused():
    with pytest.raises(CareError, match="needs a model of 'detector'"):
        registry.find("vit-small", task="detector")


def test_timm_names_need_their_weights(tmp_path):
    with pytest.raises(CareError, match="--weights"):
        registry.find("timm:mobilenetv2_100")
    file = tmp_path / "w.safetensors"
    with pytest.raises(CareError, match="no weights file"):
        registry.find("timm:mobilenetv2_100", weights=file)
    file.write_bytes(b"x")
    spec = registry.find("timm:mobilenetv2_100", weights=file)
    assert (spec.family, spec.architecture, spec.file) == ("timm", "mobilenetv2_100", str(file.resolve()))


def test_own_weights_replace_the_published_digest(tmp_path):
    file = tmp_path / "md.pt"
    file.write_bytes(b"fine-tuned")
    spec = registry.find("megadetector-v1000-sorrel", weights=file)
    assert spec.md5 is None and spec.url is None and spec.shown == 0.3
    assert registry.fetch(spec) == file.resolve()


def test_absent_weights_name_the_command_to_run():
    with pytest.raises(CareError, match="care models pull yolo11n"):
        registry.fetch(registry.find("yolo11n"))
    with pytest.raises(CareError, match="not stated"):
        registry.pull(registry.find("miewid-msv3"))


def test_manifest_is_found_beside_its_weights(tmp_path):
    (tmp_path / "jaguars.pt").write_bytes(b"weights")
    path = manifest(
        tmp_path,
        '[models.jaguars]\ntask = "detector"\nfamily = "ultralytics"\nfile = "jaguars.pt"\n'
        '[models.jaguars.classes]\nhombre = "person"\nonca = { category = "animal", species = "jaguar" }\n',
    )
    spec = registry.find(path)
    assert registry.fetch(spec) == (tmp_path / "jaguars.pt").resolve()
    assert spec.classes["onca"] == {"category": "animal", "species": "jaguar"}
    assert spec.classes["hombre"] == {"category": "person"}


def test_manifest_of_several_models_needs_a_name(tmp_path):
    entry = '[models.{}]\ntask = "detector"\nfamily = "ultralytics"\nfile = "w.pt"\n'
    path = manifest(tmp_path, entry.format("a") + entry.format("b"))
    with pytest.raises(CareError, match="describes a, b"):
        registry.find(path)
    registry.add(path)
    assert registry.find("b").file == str((tmp_path / "w.pt").resolve())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "describes no model"),
        ("[models", "is not a model manifest"),
        ('[models."../x"]\ntask = "detector"\nfamily = "timm"', "a name is made of"),
        ('[models.x]\ntask = "oracle"\nfamily = "timm"', "task must be one of"),
        ('[models.x]\ntask = "detector"\nfamily = "timm"\nsha265 = ""', "unknown keys sha265"),
        ('[models.x]\ntask = "detector"\nfamily = "timm"\nsha256 = "12"', "64 lower-case"),
        ('[models.x]\ntask = "detector"\nfamily = "timm"\nurl = "ftp://a/b"', "https only"),
        ('[models.x]\ntask = "detector"\nfamily = "timm"\nurl = "http://a.org/b"', "https only"),
        ('[models.x]\ntask = "detector"\nfamily = "timm"\nclasses = "cocoa"', "no table"),
        ('[models.x]\ntask = "detector"\nfamily = "timm"\nclasses = {a = "plant"}', "must be one of animal"),
        ('[models.x]\ntask = "diffusion"\nfamily = "diffusers"\nfiles = ["../../etc"]', "leads out"),
        ('[models.x]\ntask = "diffusion"\nfamily = "diffusers"\nfiles = ["/etc/passwd"]', "leads out"),
        ('[models.x]\ntask = "diffusion"\nfamily = "diffusers"\nfiles = ["C:\\\\x"]', "leads out"),
    ],
)
def test_bad_manifests_are_refused_with_their_reason(tmp_path, text, reason):
    with pytest.raises(CareError, match=reason):
        registry.read_manifest(manifest(tmp_path, text))


# Arrival


def test_pull_brings_verified_bytes(server, cache):
    calls = []
    expected = hashlib.sha256(PAYLOAD).hexdigest()
    spec = spec_at(f"{server}/weights.pt", md5=hashlib.md5(PAYLOAD).hexdigest())
    path = registry.pull(spec, lambda *call: calls.append(call))
    assert path.read_bytes() == PAYLOAD and path.is_relative_to(cache)
    assert calls[-1] == ("weights.pt", len(PAYLOAD), len(PAYLOAD))
    assert registry.model_sha256(spec) == registry.verify(spec) == expected
    again = []
    assert registry.pull(spec, lambda *call: again.append(call)) == path and not again


def test_pull_from_a_file_url(tmp_path):
    source = tmp_path / "on a stick.pt"
    source.write_bytes(PAYLOAD)
    spec = spec_at(source.as_uri(), sha256=hashlib.sha256(PAYLOAD).hexdigest())
    assert registry.pull(spec).read_bytes() == PAYLOAD


@pytest.mark.parametrize(
    ("path", "digests", "reason"),
    [
        ("/weights.pt", {"sha256": "0" * 64}, "expected SHA-256 0000"),
        ("/weights.pt", {"md5": "0" * 32}, "expected MD5 0000"),
        ("/short.pt", {}, "broke off"),
        ("/absent.pt", {}, "can't be fetched"),
        ("/to/file:///etc/hostname", {}, "not allowed"),
        ("/to/http://example.org/weights.pt", {}, "https only"),
    ],
)
def test_failed_pull_keeps_nothing(server, cache, path, digests, reason):
    with pytest.raises(CareError, match=reason):
        registry.pull(spec_at(server + path, **digests))
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_redirect_within_the_rule_is_followed(server):
    spec = spec_at(f"{server}/to/{server}/weights.pt")
    assert registry.pull(spec).read_bytes() == PAYLOAD


def test_model_of_several_files(server, cache):
    files = ("unet/config.json", "unet/model.safetensors")
    spec = ModelSpec(name="many", task="diffusion", family="diffusers", url=f"{server}/", files=files)
    folder = registry.pull(spec)
    assert folder == cache / "many" and all((folder / file).read_bytes() == PAYLOAD for file in files)
    each = hashlib.sha256(PAYLOAD).hexdigest()
    listing = f"{each}  unet/config.json\n{each}  unet/model.safetensors\n"
    assert registry.model_sha256(spec) == hashlib.sha256(listing.encode()).hexdigest()
    (folder / files[0]).unlink()
    assert not registry.is_here(spec)
    with pytest.raises(CareError, match="care models pull many"):
        registry.fetch(spec)


# Checking


def alter(path: Path, *, keep_time: bool) -> None:
    """Change one byte; the size stays."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    later = before.st_mtime_ns + (0 if keep_time else 10**9)
    os.utime(path, ns=(later, later))


def test_changed_weights_are_noticed(server):
    spec = spec_at(f"{server}/weights.pt")
    alter(registry.pull(spec), keep_time=False)
    for _ in range(2):  # the finding is not forgotten
        with pytest.raises(CareError, match="damaged"):
            registry.fetch(spec)


def test_unchanged_weights_are_read_once_and_verify_reads_again(server):
    spec = spec_at(f"{server}/weights.pt")
    alter(registry.pull(spec), keep_time=True)
    assert registry.fetch(spec)
    with pytest.raises(CareError, match="damaged"):
        registry.verify(spec)


def test_published_digest_holds_for_notes_too(server):
    spec = spec_at(f"{server}/weights.pt")
    registry.pull(spec)
    with pytest.raises(CareError, match="expected SHA-256 1111"):
        registry.fetch(replace(spec, sha256="1" * 64))


def test_the_users_own_file_may_be_trained_again(tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(b"epoch 1")
    first = weights.digest(path)
    path.write_bytes(b"epoch 20")
    assert weights.digest(path) == hashlib.sha256(b"epoch 20").hexdigest() != first


def test_a_runs_model_is_recalled_by_its_bytes(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"weights")
    spec = ModelSpec(name="yolo11n", task="detector", family="ultralytics", file=str(path), mean=(0.5, 0.5, 0.5))
    used = replace(spec, sha256=registry.model_sha256(spec))
    kept = json.loads(json.dumps(asdict(used)))
    assert registry.recall(kept) == used
    path.write_bytes(b"other weights")
    with pytest.raises(CareError, match=r"not on this machine|damaged"):
        registry.recall(kept)


# Adding


def test_added_manifest_is_known_by_name(tmp_path, cache):
    (tmp_path / "w.pt").write_bytes(b"weights")
    path = manifest(
        tmp_path,
        '[models.ocelots]\ntask = "detector"\nfamily = "ultralytics"\nfile = "w.pt"\nshown = 0.4\n'
        'classes = {"ocelot \\"gato\\"" = {category = "animal", species = "Leopardus pardalis"}}\n',
    )
    described = registry.find(path)
    assert [spec.name for spec in registry.add(path)] == ["ocelots"]
    path.unlink()
    assert registry.find("ocelots") == described
    assert registry.fetch(registry.find("ocelots")) == (tmp_path / "w.pt").resolve()


def test_shipped_names_can_not_be_taken(tmp_path):
    path = manifest(tmp_path, '[models.yolo11n]\ntask = "detector"\nfamily = "ultralytics"\nfile = "w.pt"\n')
    with pytest.raises(CareError, match="ships with"):
        registry.add(path)


# Headers of our own checkpoints


def header_bytes(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def test_header_is_read_back(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(header_bytes({"__metadata__": {"care": json.dumps({"task": "detector", "dim": 3})}}))
    assert checkpoints.read_header(path) == {"task": "detector", "dim": 3}
    path.write_bytes(header_bytes({}))
    assert checkpoints.read_header(path) == {}
    with pytest.raises(CareError, match="timm:NAME"):
        registry.find(path)


def test_absurd_header_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CareError, match="4,611,686,018,427,387,904 bytes"):
        checkpoints.read_header(path)


@given(data=st.binary(max_size=64) | st.binary(max_size=64).map(lambda b: struct.pack("<Q", len(b)) + b))
def test_any_bytes_are_a_header_or_a_clear_refusal(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(data)
    try:
        assert isinstance(checkpoints.read_header(path), dict)
    except CareError as error:
        assert "not a safetensors file" in str(error)


def test_a_bare_pull_spares_a_laptop_what_only_a_card_computes(monkeypatch, cache):
    """Stable Diffusion's gigabytes are for machines with a CUDA card; everything else of a survey is for all."""
    from care_cli.stages import models

    asked = []
    monkeypatch.setattr(registry, "pull", lambda spec, progress=None: asked.append(spec.name) or cache)
    monkeypatch.setattr(registry, "model_sha256", lambda spec: "0" * 64)
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(models, "choose", lambda wish, device=device: device)
        models.pull()
    names = {registry.default(role).name for role in models.ROLES}
    assert set(asked[: len(names)]) == names and set(asked[len(names) :]) == names | {"stable-diffusion-2-1"}
