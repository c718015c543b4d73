"""The peer of `care train`: wildlife-tools' BasicTrainer with its ArcFaceLoss, in a process of its own.

The recipe is that of its notebooks: SGD with momentum 0.9, a cosine down to a thousandth of the rate; photos resized to
a square and cropped at random to 80 to 100 % of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import chain
from pathlib import Path
from types import SimpleNamespace


def main() -> None:
    """Train on the listed files; print the seconds of the training alone, and write the weights where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("architecture")
    parser.add_argument("weights", type=Path)
    parser.add_argument("photos", type=Path, help='JSON: {"files": [...], "identities": [...]}')
    parser.add_argument("--out", type=Path, help="trained weights, .safetensors")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    # the package imports TensorBoard's writer, which training does not use
    sys.modules["torch.utils.tensorboard"] = SimpleNamespace(SummaryWriter=None)
    import pandas as pd
    import timm
    import torch
    import torchvision.transforms as T
    from safetensors.torch import load_file, save_file
    from wildlife_tools.data import WildlifeDataset
    from wildlife_tools.train import ArcFaceLoss, BasicTrainer, set_seed

    photos = json.loads(given.photos.read_text("utf-8"))
    set_seed(given.seed)
    model = timm.create_model(given.architecture, pretrained=False, num_classes=0)
    state = {name: tensor.float() for name, tensor in load_file(given.weights).items()}
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in model.state_dict()})
    transform = T.Compose(
        [
            T.Resize((given.size, given.size)),
            T.RandomResizedCrop(given.size, scale=(0.8, 1.0)),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    table = pd.DataFrame({"path": photos["files"], "identity": photos["identities"]})
    dataset = WildlifeDataset(table, transform=transform)
    objective = ArcFaceLoss(num_classes=dataset.num_classes, embedding_size=model.num_features, margin=0.5, scale=64)
    optimizer = torch.optim.SGD(chain(model.parameters(), objective.parameters()), lr=given.rate, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=given.epochs, eta_min=given.rate * 1e-3)
    trainer = BasicTrainer(
        dataset=dataset,
        model=model,
        objective=objective,
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=given.epochs,
        device=given.device,
        batch_size=given.batch,
        num_workers=0 if given.device == "cpu" else 4,
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    if given.out:
        save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, given.out)
    print(json.dumps({"seconds": seconds, "photos": given.epochs * len(table), "dim": model.num_features}))


if __name__ == "__main__":
    main()
