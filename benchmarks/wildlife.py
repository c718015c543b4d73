"""The peer of `care index`: wildlife-tools' DeepFeatures over its WildlifeDataset, in a process of its own."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks.backbones import loaded


def main() -> None:
    """Embed the listed files; print the seconds of the extraction alone and write the vectors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("architecture")
    parser.add_argument("weights", type=Path)
    parser.add_argument("files", type=Path, help="JSON list")
    parser.add_argument("out", type=Path, help="vectors, .npy")
    parser.add_argument("--batch", type=int, help="default: DeepFeatures' own")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    import numpy as np
    import pandas as pd
    from wildlife_tools.data import WildlifeDataset
    from wildlife_tools.features import DeepFeatures

    model, transform = loaded(given.architecture, given.weights)
    files = json.loads(given.files.read_text("utf-8"))
    dataset = WildlifeDataset(pd.DataFrame({"path": files, "identity": "unknown"}), transform=transform)
    options = {"batch_size": given.batch} if given.batch else {}
    extract = DeepFeatures(model, device=given.device, **options)
    started = time.perf_counter()
    vectors = extract(dataset)
    print(json.dumps({"seconds": time.perf_counter() - started}))
    np.save(given.out, vectors)


if __name__ == "__main__":
    main()
