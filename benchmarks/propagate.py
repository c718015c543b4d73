"""`care propagate-keypoints` beside a plain version of DIFT's reference procedure, with the same weights.

Time and memory are those of random weights at the size of Stable Diffusion 2.1, in processes of their own, loading
left out of the time and not of the memory. What an ensemble of fewer draws costs in accuracy is asked of the demo
diffusion model, on rendered animals that it did not learn from; the target holds for what keeps PCK@0.1 within a point.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import crops
from benchmarks.bench import Bench
from benchmarks.dift import ENSEMBLE, PlainDift, describe, find
from benchmarks.machine import cuda
from benchmarks.processes import Done, LeftOut
from benchmarks.report import Row

PEER = "plain DIFT, ensemble of 8, float32"
TARGET = 3
DRAWS = (8, 4, 2, 1)
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16")}
PHOTOS = {"cpu": 2, "cuda": 16}
ANIMALS = 24  # individuals of the accuracy, two pictures each
PAIRS = 400
POINT = 0.01  # of PCK, by which fewer draws may be worse
DEMO = "demo-diffusion"


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family: accuracy first, then each device."""
    enough: dict[int, bool] = {}
    yield partial(accuracy, bench, enough)
    for device in ("cpu", "cuda") if cuda() else ("cpu",):
        yield partial(cost, bench, device, enough)


def cost(bench: Bench, device: str, enough: dict[int, bool]) -> Iterator[Row]:
    """Seconds a photo and peak memory of every precision and ensemble on a device."""
    folder, files = random_pipeline(bench), photos(bench, PHOTOS[device])
    plain, theirs = worker(bench, "plain", folder, files, device)
    for precision in PRECISIONS[device]:
        for draws in DRAWS:
            what = f"`propagate-keypoints`, SD 2.1's size, {device}, {bench.size} px, ensemble of {draws}"
            try:
                done, ours = worker(bench, "care", folder, files, device, "--precision", precision, "--ensemble", draws)
            except LeftOut as reason:
                yield Row(what, precision=precision, note=str(reason))
                continue
            holds = enough.get(draws)
            known = {True: "PCK holds", False: "PCK falls by more than a point", None: "PCK not measured"}[holds]
            yield Row(
                what, ours["seconds"], "s a photo", peer=PEER, peers=theirs["seconds"], precision=precision,
                target=TARGET if holds else None, note=f"random weights, {PHOTOS[device]} photos; {known}",
            )  # fmt: skip
            yield Row(
                f"{what}: peak memory", memory(done, ours), "MiB", peer=PEER, peers=memory(plain, theirs),
                precision=precision, note="of the card" if device != "cpu" else "of the process",
            )  # fmt: skip


def worker(bench: Bench, way: str, folder: Path, files: Path, device: str, *options: object) -> tuple[Done, dict]:
    """One way of carrying points in a process of its own, and what it measured."""
    done = bench.module("carried", way, folder, files, "--size", bench.size, "--device", device, *options)
    return done, json.loads(done.out.splitlines()[-1])


def memory(done: Done, told: dict) -> float | None:
    """Peak MiB: of the card where one is used, else of the process."""
    return told["card_mb"] or done.peak_mb


def random_pipeline(bench: Bench) -> Path:
    """The folder of a Stable Diffusion of 2.1's size with random weights."""
    folder = bench.work / "sd21"
    if not folder.exists():
        bench.module("sd21", folder)
    return folder


def photos(bench: Bench, count: int) -> Path:
    """A list of a reference and `count` crops of the sample survey, as they are stored."""
    files = crops.export(bench.survey, bench.folder("carried"))
    wanted = [files[number % len(files)] for number in range(count + 1)]
    return crops.write_list(wanted, bench.work / f"carried-{count}.json")


def accuracy(bench: Bench, enough: dict[int, bool]) -> Iterator[Row]:
    """PCK@0.1 of the demo model by ensembles, beside the plain procedure's of 8; notes which are `enough`."""
    from care_cli import registry
    from care_cli.catalog import Catalog
    from care_cli.evaluation.pck import HEADLINE
    from care_cli.stages.evaluate_keypoints import EvaluateConfig, run

    if DEMO not in registry.entries() or not registry.is_here(registry.entries()[DEMO]):
        raise LeftOut(f"the {DEMO} model is not here; `make demo-models` trains it")
    spec = registry.find_extractor(f"sd:{DEMO}")
    catalog = bench.work / "animals.db"
    animals(catalog)
    with Catalog(catalog) as opened:
        found = run(opened, EvaluateConfig(spec, sweep={"ensemble": DRAWS}, pairs=PAIRS))
        settings = found["settings"][0]["networks"]["trained"]["extractor"]
        theirs = plain_pck(opened, registry.fetch(spec), settings)
    for row in found["settings"]:
        measured = row["networks"]["trained"]["parts"]["all"]["all"]
        pck = measured["pck"][str(HEADLINE)]["per_point"]
        draws = row["setting"]["ensemble"]
        enough[draws] = pck["value"] >= theirs - POINT
        yield Row(
            f"PCK@{HEADLINE} of the demo diffusion model, ensemble of {draws}",
            pck["value"],
            "of points",
            peer=PEER,
            peers=theirs,
            more=True,
            precision="float32",
            note=f"95 % interval {pck['low']:.3f} to {pck['high']:.3f}; {measured['points']} points in "
            f"{measured['pairs']} pairs of rendered animals",
        )


def plain_pck(catalog, folder: Path, settings: dict) -> float:
    """PCK@0.1 per point of the plain procedure over the pairs that an evaluation draws."""
    import torch

    from care_cli.evaluation import pairs
    from care_cli.evaluation.pck import HEADLINE
    from care_cli.geometry import crop_to_input, input_to_crop, to_crop, to_image
    from care_cli.images import decode_jpeg
    from care_cli.stages.carrying import truth

    torch.manual_seed(0)
    size = settings["size"]
    dift = PlainDift(
        folder, size, "a photo of an animal", block=settings["block"], timestep=settings["timestep"], ensemble=ENSEMBLE
    )
    known = {one.crop: one for one in truth(catalog).crops}
    features = {}
    for crop, jpeg in catalog.pixels(known).items():
        dift.prompt = f"a photo of a {known[crop].species}"
        features[crop] = dift.features(decode_jpeg(jpeg))
    errors = []
    for one in pairs.transfers(list(known.values()), list(known.values()), count=PAIRS):
        source, target = known[one.references[0]], known[one.target]
        kp_crop = to_crop(np.array([source.points[name] for name in one.names]), source.rect, source.size)
        wanted = describe(features[source.crop], crop_to_input(kp_crop, source.size, size), size)
        there = input_to_crop(find(wanted, features[target.crop], size), target.size, size)
        off = to_image(there, target.rect, target.size) - [target.points[name] for name in one.names]
        errors += (np.linalg.norm(off, axis=1) / max(target.box[2:])).tolist()
    return float(np.mean(np.array(errors) <= HEADLINE))


def animals(path: Path) -> None:
    """A catalog of rendered animals that no model learned from: two pictures of each, with their points and names."""
    import hashlib

    from care_cli.catalog import Catalog
    from care_cli.decisions import Decision
    from care_cli.images import CROP_QUALITY
    from care_cli.records import Crop, Detection, Keypoints, Photo
    from scenes.coats import SPECIES, make_individual
    from scenes.photos import render_chip
    from scenes.seeds import TEST

    rng = np.random.default_rng(0)
    with Catalog(path, create=True) as catalog, catalog.transaction():
        cut, said = catalog.begin_run("import", {}), catalog.begin_run("import-keypoints", {})
        for number in range(ANIMALS):
            individual = make_individual(list(SPECIES)[number % len(SPECIES)], TEST[number])
            for _ in range(2):
                chip = render_chip(individual, rng)
                stream = io.BytesIO()
                chip.image.save(stream, "JPEG", quality=CROP_QUALITY)
                width, height = chip.image.size
                photo = Photo(hashlib.sha256(stream.getvalue()).hexdigest(), width=width, height=height)
                found = Detection(chip.box, 1.0, chip.species, "animal", chip.species)
                crop = Crop(found, (0, 0, width, height), stream.getvalue(), (width, height))
                [crop_id] = catalog.add_crops(cut, catalog.add_image(photo, None), [crop])
                seen = {name: (x, y) for name, (x, y, visible) in chip.keypoints.items() if visible}
                ones = np.ones(len(seen))
                points = Keypoints(crop_id, tuple(seen), np.array(list(seen.values())), ones, ones > 0, source="import")
                catalog.add_keypoints(said, [points])
                name = f"{chip.species} {TEST[number]}"
                known = catalog.active(name)
                catalog.decide(
                    Decision("create", crop_id=crop_id, value=name)
                    if known is None
                    else Decision("name", crop_id=crop_id, individual_id=known)
                )
        for one in (cut, said):
            catalog.finish_run(one)
