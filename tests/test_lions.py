"""Real lions through the catalog: the figures equal those computed outside CARE from the same pixels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.evaluation.metrics import leave_one_out
from care_cli.exchange.dataset_table import Dataset
from care_cli.stages import evaluate_reid, import_dataset, index


def outside_care(folder: Path, weights: Path) -> tuple[list[str], np.ndarray]:
    """Names and unit vectors of the validation lions by timm's own transform and model alone."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    model = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=0).eval()
    state = {name: value.float() for name, value in load_file(weights).items() if not name.startswith("classifier")}
    model.load_state_dict(state)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    names, vectors = [], []
    with (folder / "metadata.csv").open() as table, torch.inference_mode():
        for row in csv.DictReader(table):
            if row["original_split"] == "val":
                image = Image.open(folder / row["path"]).convert("RGB")
                names.append(row["identity"])
                vectors.append(model(transform(image)[None])[0].numpy())
    stacked = np.stack(vectors)
    return names, stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def plain_leave_one_out(names: list[str], vectors: np.ndarray) -> tuple[float, float]:
    """Top-1 and mAP as their definitions read, one query at a time."""
    first, precisions = [], []
    for query, name in enumerate(names):
        scores = [(float(vectors[query] @ vectors[i]), names[i]) for i in range(len(names)) if i != query]
        ranked = [other == name for _, other in sorted(scores, key=lambda pair: -pair[0])]
        if any(ranked):
            first.append(ranked[0])
            hits = [rank for rank, hit in enumerate(ranked, 1) if hit]
            precisions.append(sum(found / rank for found, rank in enumerate(hits, 1)) / len(hits))
    return sum(first) / len(first), sum(precisions) / len(precisions)


def test_lions_through_the_catalog_equal_plain_timm(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "reid" / "lion_data"
    weights = shared / "weights" / "timm_mobilenetv2_100_fp16.safetensors"
    dataset = Dataset(folder, csv=folder / "metadata.csv", split_column="original_split", split="val", species="Lion")
    spec = registry.find("timm:mobilenetv2_100", weights=weights)
    with Catalog(tmp_path / "care.db", create=True) as catalog:
        imported = import_dataset.run(catalog, dataset)
        indexed = index.run(catalog, index.IndexConfig(spec))
        stored = catalog.embeddings(indexed["run"])
        individuals = catalog.names_of_crops()
        order = np.argsort(stored.ids)
        ours = leave_one_out(stored.vectors[order], [individuals[int(i)] for i in stored.ids[order]])
        examined = evaluate_reid.run(catalog, evaluate_reid.EvaluateConfig(models=(spec,)))
    names, vectors = outside_care(folder, weights)
    assert imported["images"] == len(names) == indexed["new"] == ours["queries"]
    assert (ours["top1"], ours["mAP"]) == pytest.approx(plain_leave_one_out(names, vectors), abs=1e-6)
    figures = examined["rows"][0]["metrics"]
    assert (figures["top1"]["mean"], figures["mAP"]["mean"]) == pytest.approx(
        plain_leave_one_out(names, vectors), abs=1e-6
    )
    assert examined["data"]["individuals"] == len(set(names))
    print(f"lions: top-1 {ours['top1']:.4f}, mAP {ours['mAP']:.4f}, {ours['queries']} queries")
