"""The layout's dependency table: who may import whom, and what the command line may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "care_cli"

HEAVY = {"torch", "torchvision", "timm", "ultralytics", "open_clip", "diffusers", "openvino", "matplotlib", "cv2",
         "accelerate", "transformers", "sklearn", "faiss", "numkong"}  # fmt: skip
LEAVES = {"__init__", "records", "headers", "geometry", "images", "errors", "exif", "scan", "volumes", "decisions",
          "outputs", "thresholds", "splits", "words"}  # fmt: skip
FILES = LEAVES | {"checkpoints", "weights"}  # leaves, and what reads weights files

# room: the rooms of care_cli that it may import, heavy packages (inside functions) that it may import
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "__main__": ({"cli"}, set()),
    "cli": (LEAVES | {"cli", "stages", "catalog", "registry", "pages", "exchange", "recipes"}, set()),
    "stages": (
        FILES | {"stages", "exchange", "pages", "catalog", "detectors", "embedders", "encoders", "engines", "registry",
                 "matching", "search", "training", "features", "keypoints", "evaluation", "explain", "yolo",
                 "recipes"},
        {"torch"},
    ),
    "pages": (LEAVES | {"pages", "catalog"}, set()),
    "exchange": (LEAVES | {"exchange", "catalog"}, set()),
    "recipes": (LEAVES | {"recipes"}, set()),
    "catalog": (LEAVES | {"catalog"}, set()),
    "engines": (FILES | {"torch_engine", "openvino_engine"}, {"torch"}),
    "torch_engine": (FILES | {"engines"}, {"torch"}),
    "openvino_engine": (FILES | {"engines", "compiled"}, {"torch", "openvino"}),
    "compiled": (FILES, set()),
    "detectors": (FILES | {"registry", "engines", "yolo"}, {"cv2"}),
    "yolo": (FILES | {"engines"}, {"torch", "ultralytics"}),
    "backbones": (LEAVES, {"torch", "timm"}),
    "keypoint_vit": (LEAVES, {"torch", "timm"}),
    "clip": (LEAVES, {"torch", "open_clip", "timm"}),
    "overlapping_vit": (LEAVES, {"torch", "timm"}),
    "jigsaw_vit": (LEAVES | {"overlapping_vit"}, {"torch", "timm"}),
    "side_information": (LEAVES | {"keypoint_vit"}, {"torch"}),
    "embedders": (FILES | {"engines", "encoders", "preparation"}, set()),
    "encoders": (
        FILES | {"engines", "backbones", "keypoint_vit", "side_information", "clip"},
        {"torch", "timm", "open_clip"},
    ),
    "explain": (FILES | {"encoders", "engines", "keypoint_vit", "preparation"}, {"torch", "timm"}),
    "preparation": (LEAVES, set()),
    "training": (
        FILES | {"training", "backbones", "clip", "keypoint_vit", "overlapping_vit", "jigsaw_vit", "side_information",
                 "embedders", "encoders", "engines", "detectors", "yolo", "registry", "evaluation", "preparation"},
        {"torch", "torchvision", "timm", "ultralytics", "accelerate", "open_clip", "cv2"},
    ),
    "evaluation": (LEAVES | {"evaluation", "yolo"}, {"matplotlib", "sklearn", "ultralytics"}),
    "features": (
        FILES | {"features", "engines", "encoders", "registry"},
        {"torch", "torchvision", "timm", "diffusers", "transformers"},
    ),
    "keypoints": (FILES | {"keypoints", "features", "encoders", "backbones", "registry", "explain"}, {"torch", "timm"}),
    "search": (LEAVES, {"numkong"}),
    "matching": (LEAVES, set()),
    "registry": (FILES | {"pipelines"}, set()),
    "pipelines": (LEAVES, set()),
    "checkpoints": (LEAVES, {"torch", "ultralytics"}),
    "weights": (LEAVES, set()),
    **{leaf: (LEAVES, set()) for leaf in LEAVES},
}  # fmt: skip
SQL_ROOM = "catalog"
# themselves imported inside functions only, by who trains or builds
TORCH_ROOMS = {"training", "keypoint_vit", "clip", "overlapping_vit", "jigsaw_vit", "side_information"}
LONG = {"detect", "identify", "propagate_keypoints", "train"}  # lists of options, and the one loop read top to bottom


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[tuple[str, int]]:
    """Imported module names, with the line; names imported for type checking alone are left out."""
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {(f"{node.module}.{alias.name}", node.lineno) for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_table(path: Path) -> None:
    room = room_of(path)
    assert room in TABLE, f"{room} has no line in the dependency table"
    rooms, heavy = TABLE[room]
    for name, line in imports(ast.parse(path.read_text("utf-8"))):
        top, *rest = name.split(".")
        if top == "care_cli":
            target = (
                rest[0] if rest and (PACKAGE / rest[0]).exists() | (PACKAGE / f"{rest[0]}.py").exists() else "__init__"
            )
            assert target in rooms, f"{path.name}:{line} imports care_cli.{target}, which {room} may not"
        if top in HEAVY:
            assert top in heavy, f"{path.name}:{line} imports {top}, which {room} may not"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_heavy_imports_stay_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    top_level = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.split(".")[0] for name, _ in imports(ast.Module(top_level, []))}
    if room_of(path) not in TORCH_ROOMS:
        assert not names & HEAVY


def test_sql_stays_in_its_room() -> None:
    for path in modules():
        if room_of(path) != SQL_ROOM:
            text = path.read_text("utf-8")
            for word in ("import sqlite3", "sqlite_utils", ".conn.execute", "catalog.rows(", "catalog.value("):
                assert word not in text, f"{path.name} talks to SQLite"


def test_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, care_cli.cli; print(sorted(set(sys.modules) & {HEAVY | {'numpy', 'PIL'}!r}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_no_function_or_module_outgrows_the_reader() -> None:
    for path in modules():
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 400, f"{path.name} has {len(text.splitlines())} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in LONG:
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name} is too long"
