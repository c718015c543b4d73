"""The peer of phase 2: CARE's tower and losses in a plain loop, photos from files through torchvision's transforms."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path


def main() -> None:
    """Train on the listed files; print the photos of a step and its seconds, the median of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("photos", type=Path, help='JSON: {"files": [...], "identities": [...]}')
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", default="8x4", help="individuals and photos of each")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    import torch
    import torchvision.transforms as T
    from PIL import Image

    from care_cli.training import methods
    from care_cli.training.alignment import Aligned, Prototypes
    from care_cli.training.sampling import pk_batches

    photos = json.loads(given.photos.read_text("utf-8"))
    names = sorted(set(photos["identities"]))
    labels = torch.tensor([names.index(name) for name in photos["identities"]])
    individuals, each = map(int, given.batch.split("x"))
    cfg = methods.configure("care", backbone=given.backbone, individuals=individuals, photos=each)
    height, width = cfg.input_size
    transform = T.Compose(
        [
            T.Resize((height, width), interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(0.5),
            T.Pad(10),
            T.RandomCrop((height, width)),
            T.ToTensor(),
            T.Normalize(cfg.mean, cfg.std),
            T.RandomErasing(0.5, value="random"),
        ]
    )
    torch.manual_seed(0)
    prototypes = Prototypes(torch.randn(len(names), 512), 100.0, True)
    learner = Aligned(cfg, len(names), methods.plain(cfg), prototypes).to(given.device).train()
    learned = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
    steps = max(1, round(given.epochs * len(labels) / (individuals * each)))
    batches = pk_batches(labels.numpy(), individuals, each, seed=0)
    seconds = []
    for _, rows in zip(range(steps), batches, strict=False):
        began = time.perf_counter()
        images = torch.stack([transform(Image.open(photos["files"][row]).convert("RGB")) for row in rows])
        terms = learner(images.to(given.device), None, labels[rows].to(given.device))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        float(sum(terms.values()))  # as a loop that prints its loss does
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": statistics.median(seconds), "photos": individuals * each}))


if __name__ == "__main__":
    main()
