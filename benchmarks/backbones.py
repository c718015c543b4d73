"""Backbones with seeded random weights: speed does not depend on what a network has learnt."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench import Bench

VIT = "vit_base_patch16_224"
MOBILENET = "mobilenetv2_100"


def backbone(bench: Bench, architecture: str) -> Path:
    """A file of weights for a timm model that ends in its features."""
    path = bench.work / f"{architecture}.safetensors"
    if not path.exists():
        import timm
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        model = timm.create_model(architecture, pretrained=False, num_classes=0)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def loaded(architecture: str, weights: Path):
    """The timm model with these weights, and timm's own evaluation transform for it."""
    import timm
    from safetensors.torch import load_file
    from timm.data import create_transform, resolve_data_config

    model = timm.create_model(architecture, pretrained=False, num_classes=0)
    model.load_state_dict(load_file(weights))
    return model.eval(), create_transform(**resolve_data_config({}, model=model), is_training=False)
