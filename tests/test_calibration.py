"""From similarity to probability: curves against known truths, ECE and thresholds by hand, and identify's use."""

from __future__ import annotations

import json
import math

import catalogs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli import cli, encoders, registry
from care_cli.errors import CareError
from care_cli.evaluation import calibration
from care_cli.evaluation.calibration import METHODS, Pairs
from care_cli.matching import Calibration, Candidate, Thresholds, with_probabilities
from care_cli.stages import calibrate, identify, index, individuals
from care_cli.stages.calibrate import CalibrateConfig
from care_cli.stages.identify import IdentifyConfig


def pairs(similarity, same, known=None, individual=None, candidate=None) -> Pairs:
    count = len(similarity)
    known = np.ones(count, bool) if known is None else np.array(known)
    individual = np.arange(count) if individual is None else np.array(individual)
    candidate = np.where(same, individual, individual + 1) if candidate is None else np.array(candidate)
    return Pairs(np.array(similarity, float), np.array(same, bool), known, individual, candidate)


TINY = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
HEADER = {"method": "vit", "architecture": "vit_tiny_patch16_224", "options": TINY, "input_size": 64,
          "mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bilinear", "crop_pct": 1.0,
          "crop_mode": "squash"}  # fmt: skip

# -- curves


@pytest.mark.parametrize("method", METHODS)
def test_a_known_probability_is_recovered(method):
    chance = np.random.default_rng(7)
    similarity = chance.uniform(0, 1, 20_000)
    truth = 1 / (1 + np.exp(-(14 * similarity - 8)))
    curve = calibration.fit(pairs(similarity, chance.random(20_000) < truth), method)
    grid = np.linspace(0.02, 0.98, 200)
    error = np.abs(curve(grid) - 1 / (1 + np.exp(-(14 * grid - 8))))
    assert error.max() < (0.06 if method == "isotonic" else 0.02)
    assert error.mean() < 0.015


def test_isotonic_recovers_what_no_logistic_can():
    chance = np.random.default_rng(7)
    similarity = chance.uniform(0, 1, 20_000)
    truth = np.where(similarity < 0.5, 0.1, 0.6)  # never sure, however similar
    found = pairs(similarity, chance.random(20_000) < truth)
    assert calibration.fit(found)(np.array([0.25, 0.75])) == pytest.approx([0.1, 0.6], abs=0.03)
    assert abs(calibration.fit(found, "logistic")(0.98) - 0.6) > 0.1


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.sampled_from(METHODS),
)
def test_a_curve_never_falls_and_is_never_certain(rows, method):
    similarity, same, known = map(list, zip(*rows, strict=True))
    curve = calibration.fit(pairs(similarity, np.array(same) & known, known), method)
    probability = curve(np.linspace(-1, 1, 401))
    assert np.all(np.diff(probability) >= 0)
    assert probability.min() > 0 and probability.max() < 1


def test_the_steps_are_those_worked_by_hand_and_straight_between():
    # pairs .1 no, .2 no, .6 yes, .8 yes; imagined: .1 yes, .8 no. Pooled: .1 and .2 hold 1 of 3, .6 and .8 2 of 3
    curve = calibration.fit(pairs([0.1, 0.2, 0.6, 0.8], [False, False, True, True]))
    assert curve.probability == pytest.approx([1 / 3, 2 / 3])
    assert curve.similarity == pytest.approx([0.4 / 3, 2.2 / 3])
    assert curve(np.array([-1.0, 1.3 / 3, 1.0])) == pytest.approx([1 / 3, 0.5, 2 / 3])


def test_known_and_new_animals_weigh_the_same():
    # at one similarity 30 known ones, 24 of them right, and 10 new ones: 0.5 * 24/30 of what is asked is right
    same, known = [True] * 24 + [False] * 16, [True] * 30 + [False] * 10
    found = pairs([0.5] * 40, same, known)
    assert np.unique(np.round(found.weights, 9)).tolist() == [round(40 / 2 / 30, 9), 2.0]
    # 40 pairs of mean weight 1, and the two imagined ones
    assert calibration.fit(found)(0.5) == pytest.approx((0.4 * 40 + 1) / 42)


def test_ece_is_that_of_a_binning_by_hand():
    said = np.array([0.05, 0.15, 0.12, 0.95, 1.0, np.nan])
    same = np.array([False, True, False, True, False, True])
    spans = calibration.reliability(said, same, np.ones(6))
    assert [(round(span["low"], 1), span["pairs"]) for span in spans] == [(0.0, 1), (0.1, 2), (0.9, 2)]
    # 1/5 |0 - .05| + 2/5 |.5 - .135| + 2/5 |.5 - .975|
    assert calibration.expected_calibration_error(spans) == pytest.approx(0.2 * 0.05 + 0.4 * 0.365 + 0.4 * 0.475)
    heavy = calibration.reliability(said, same, np.array([1.0, 3, 1, 1, 1, 9]))  # 7 in all; NaN does not count
    assert heavy[1]["same"] == pytest.approx(0.75) and heavy[1]["weight"] == pytest.approx(4 / 7)


def test_cross_validation_asks_curves_that_know_neither_animal():
    # animal 0 alone is right however dissimilar it is: only curves that were fitted to it could know
    chance = np.random.default_rng(0)
    who = np.repeat(np.arange(20), 10)
    same = who == 0
    similarity = np.where(same, 0.9, chance.uniform(0, 1, 200))
    probability = calibration.cross_validated(pairs(similarity, same, individual=who, candidate=(who + 1) % 20))
    assert calibration.fit(pairs(similarity, same))(0.9) > 0.2
    assert probability[same].max() < 0.1
    # nor the candidate: whoever is taken for animal 0 is, against all rule, as similar as can be and another one
    who, other = np.repeat(np.arange(20), 20), np.tile(np.arange(20), 20)
    taken = (other == 0) & (who != 0)
    same = (chance.random(400) < 0.1) & ~taken
    candidate = np.where(same, who, np.where(taken, 0, (who + 7) % 19 + 1))
    similarity = np.where(taken, 0.9, np.where(same, 0.85, 0.2))
    probability = calibration.cross_validated(pairs(similarity, same, individual=who, candidate=candidate))
    assert calibration.fit(pairs(similarity, same))(0.9) < 0.7
    assert np.nanmin(probability[taken]) > 0.8


def test_cross_validation_keeps_the_base_rate() -> None:
    # half of the answers are right, whatever the similarity: curves that lost more wrong pairs than right ones say more
    chance = np.random.default_rng(4)
    who, same = np.repeat(np.arange(50), 40), chance.random(2000) < 0.5
    candidate = np.where(same, who, (who + chance.integers(1, 50, 2000)) % 50)
    flat = pairs(np.full(2000, 0.5), same, individual=who, candidate=candidate)
    assert calibration.cross_validated(flat).mean() == pytest.approx(same.mean(), abs=0.02)


def test_ece_of_unseen_pairs_is_small_where_the_model_holds_and_large_where_it_does_not():
    chance = np.random.default_rng(3)
    who = np.repeat(np.arange(100), 20)
    similarity = chance.uniform(0, 1, 2000)
    even = pairs(similarity, chance.random(2000) < similarity, individual=who)
    told = calibration.reliability(calibration.cross_validated(even), even.same, even.weights)
    assert calibration.expected_calibration_error(told) < 0.05
    always_sure = calibration.reliability(np.full(2000, 0.99), even.same, even.weights)
    assert calibration.expected_calibration_error(always_sure) == pytest.approx(0.49, abs=0.03)


# -- thresholds


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(-8, 8), st.booleans(), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30
    ).filter(lambda rows: 0 < sum(row[2] for row in rows) < len(rows)),
    st.floats(0.01, 0.99),
)
def test_a_false_positive_rate_holds_and_no_lower_threshold_keeps_it(rows, rate):
    similarity, same, known, who = (np.array(column) for column in zip(*rows, strict=True))
    found = pairs(similarity / 8, same & known, known, who).faced

    def taken(cut: float) -> float:
        shares = [np.mean(found.score[~known & (who == one)] >= cut) for one in set(who[~known].tolist())]
        return float(np.mean(shares))

    threshold = calibration.false_positive_threshold(found, rate)
    assert taken(threshold) <= rate + 1e-9
    assert all(taken(cut) > rate for cut in np.unique(found.score) if cut < threshold - 1 / 8)
    assert not np.isin(threshold, np.unique(found.score)[1:])  # never on a score, where it would hang on rounding


def test_with_an_fpr_there_is_room_for_doubt_and_without_none():
    # known ones at .4 to .9, and one more at .9; new ones at .1 to .6, and one at .8
    known = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9] * 4 + [0.9]
    new = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] * 4 + [0.8]
    there = [True] * 25 + [False] * 25
    found = pairs(known + new, there, there, np.arange(50))
    balanced = calibrate.fitted(found, CalibrateConfig())
    root = {
        cut: math.sqrt(np.mean([value >= cut for value in known]) * np.mean([value < cut for value in new]))
        for cut in np.arange(0.05, 1, 0.1)
    }
    assert balanced["new"] == pytest.approx(max(root, key=root.get))
    assert balanced["known"] == balanced["new"] and balanced["probability_at"] >= 0.5
    strict = calibrate.fitted(found, CalibrateConfig(fpr=0.01))
    assert (strict["known"], strict["new"]) == (pytest.approx(0.85), balanced["new"])
    assert strict["share"]["BAKS"] == pytest.approx(5 / 25)
    for rate in (0.0, 1.0, -3.0):
        with pytest.raises(CareError, match="between 0 and 1"):
            calibrate.fitted(found, CalibrateConfig(fpr=rate))


def test_nobody_is_called_known_who_is_more_likely_another():
    # of the first candidates of known animals every fifth is right, however similar
    chance = np.random.default_rng(1)
    similarity, known = chance.uniform(0, 1, 400), np.arange(400) < 200
    poor = pairs(similarity, known & (np.arange(400) % 5 == 0), known)
    found = calibrate.fitted(poor, CalibrateConfig())
    assert found["known"] == 1.0 and found["new"] < 1.0
    # right from 0.7 upward, but a balanced threshold that counts the animals evenly lies far below
    rare = pairs(np.linspace(0, 1, 101), np.linspace(0, 1, 101) >= 0.7)
    curve = calibration.fit(rare)
    at = calibration.likely_from(curve)
    assert curve(at) == pytest.approx(0.5) and curve(at - 0.01) < 0.5 and 0.3 < at < 0.9
    assert calibration.likely_from(calibration.Curve(np.array([0.5]), np.array([0.9]))) == -1.0


# -- candidates


def test_probabilities_of_candidates_leave_room_for_nobody():
    scale = Calibration((0.0, 1.0), (0.1, 0.9), Thresholds(0.5, 0.5))
    asked = [Candidate("Kea", 0.75, 0), Candidate("Moss", 0.5, 1), Candidate("Fern", -1.0, 2)]
    # f = .7, .5, .1: .7, then .3 * .5, then .3 * .5 * .1; nobody: .3 * .5 * .9
    found = with_probabilities(asked, scale)
    assert [one.probability for one in found] == pytest.approx([0.7, 0.15, 0.015])
    assert 1 - sum(one.probability for one in found) == pytest.approx(0.135)
    assert [one.individual for one in found] == ["Kea", "Moss", "Fern"]


# -- on a catalog


def coat(seed: int, copy: int) -> np.ndarray:
    """A photo's pixels: a pattern of large patches that is the animal's own, and noise that is the photo's."""
    patches = np.random.default_rng(seed).integers(60, 200, (6, 8, 3))
    pixels = np.kron(patches, np.ones((40, 40, 1)))
    noise = np.random.default_rng([seed, copy]).normal(0, 30, pixels.shape)
    return np.clip(pixels + noise, 60, 255).astype(np.uint8)


ANIMALS, EVENTS = 12, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a card, an embedder and a catalog: twelve named animals at three events each, of which the first
    is a burst of two, and one photo of an animal without a name."""
    folder = tmp_path_factory.mktemp("calibration")
    header = HEADER | {"thresholds": {"known": 0.8, "new": 0.4}}
    encoders.save_embedder(encoders.build_backbone("vit_tiny_patch16_224", **TINY), folder / "own.safetensors", header)
    with catalogs.new(folder / "care.db") as opened:
        run = catalogs.detect_run(opened)
        for animal in range(ANIMALS + 1):
            for photo in range(EVENTS + 1 if animal < ANIMALS else 1):
                name, at = (
                    f"IMG_{animal:02}_{photo}.PNG",
                    f"2024-05-{1 + animal:02} {max(photo - 1, 0):02}:00:{photo:02}",
                )
                image = catalogs.add_photo(opened, name, at, folder=folder / "card")
                found = catalogs.found((20.0, 20.0, 280.0, 200.0), species="Kiwi" if animal % 2 else "Stoat")
                [crop] = opened.add_crops(run, image, [catalogs.crop_of(coat(animal, photo), found)])
                if animal < ANIMALS:
                    individuals.name(opened, [crop], f"Animal {animal:02}")
        opened.regroup(1)
        index.run(opened, index.IndexConfig(registry.find(folder / "own.safetensors", task="embedder")))
    return folder


@pytest.fixture
def catalog(made, tmp_path):
    with catalogs.new(made / "care.db") as opened:
        opened.backup(tmp_path / "care.db")
    with catalogs.new(tmp_path / "care.db") as opened:
        yield opened


def by_hand(catalog) -> list[tuple[float, bool, bool]]:
    """(similarity, same, known) of every query's first candidate, with its own animal among the others and without."""
    rows = catalog.rows(
        "SELECT crop_id, individual_id, event_id FROM crop_identity JOIN crops ON crops.id = crop_id "
        "JOIN images ON images.id = image_id"
    )
    stored = catalog.embeddings(2)
    vectors = dict(zip(stored.ids.tolist(), stored.vectors, strict=True))
    found = []
    for query in rows:
        others = [row for row in rows if row["event_id"] != query["event_id"]]
        for known in (True, False):
            left = [row for row in others if known or row["individual_id"] != query["individual_id"]]
            best = max(left, key=lambda row: float(vectors[row["crop_id"]] @ vectors[query["crop_id"]]))
            value = float(vectors[best["crop_id"]] @ vectors[query["crop_id"]])
            found.append((value, best["individual_id"] == query["individual_id"], known))
    return found


def test_pairs_are_those_of_identify_and_none_of_one_event(catalog):
    done = calibrate.run(catalog, CalibrateConfig())
    assert (done["crops"], done["known_queries"], done["individuals"]) == (48, 48, 12)
    assert done["pairs"] == 96 and done["left_out"]["unnamed"] == 1
    crops, _ = calibrate.eligible(
        catalog, registry.recall(json.loads(catalog.index_runs()[0]["spec"])), 2, CalibrateConfig()
    )
    asked = calibrate.asked(catalog, 2, crops, CalibrateConfig())
    expected = by_hand(catalog)
    assert np.stack([asked.same, asked.known], 1).tolist() == [[same, known] for _, same, known in expected]
    assert asked.similarity == pytest.approx([value for value, _, _ in expected], abs=1e-6)


def test_identify_gives_probabilities_and_says_what_they_rest_on(catalog, made, capsys, monkeypatch):
    photo = made / "card/IMG_03_1.PNG"
    before, [asked] = identify.run(catalog, IdentifyConfig((photo,)))
    assert before.verdicts.thresholds() == Thresholds(0.8, 0.4)  # the model's own
    assert asked.queries[0].calibration is None and asked.queries[0].candidates[0].probability is None
    done = calibrate.run(catalog, CalibrateConfig())
    identifier, [asked] = identify.run(catalog, IdentifyConfig((photo,)))
    [query] = asked.queries
    curve = np.interp([one.similarity for one in query.candidates], done["similarity"], done["probability"])
    left = np.cumprod(np.concatenate([[1.0], 1 - curve[:-1]]))
    assert [one.probability for one in query.candidates] == pytest.approx((curve * left).tolist())
    assert identifier.verdicts.thresholds() == Thresholds(done["known"], done["new"])
    first = query.candidates[0].similarity
    assert query.verdict == ("known" if first >= done["known"] else "new" if first < done["new"] else "unsure")
    asked_for = identify.run(catalog, IdentifyConfig((photo,), known=0.999, new_below=-0.5))[0]
    assert asked_for.verdicts.thresholds() == Thresholds(0.999, -0.5)
    catalog.checkpoint()

    monkeypatch.setattr("sys.argv", ["care", "--catalog", str(catalog.path), "identify", str(photo)])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    told = capsys.readouterr()
    assert "probability" in told.out and "rest on 96 pairs of 12 animals" in told.err
    monkeypatch.setattr("sys.argv", ["care", "--json", "--catalog", str(catalog.path), "identify", str(photo)])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    [crop] = json.loads(capsys.readouterr().out)["photos"][0]["crops"]
    assert crop["candidates"][0]["probability"] == round(query.candidates[0].probability, 4)
    assert crop["calibration"] == {"species": None, "pairs": 96, "individuals": 12, "ece": round(done["ece"], 4)}


def test_without_a_calibration_it_is_said_once(catalog, made, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["care", "--catalog", str(catalog.path), "identify", str(made / "card")])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    told = capsys.readouterr()
    assert told.err.count("not calibrated") == 1 and "probability" not in told.out


def test_a_confirmed_name_keeps_its_probability(catalog, made):
    calibrate.run(catalog, CalibrateConfig())
    photo = made / f"card/IMG_{ANIMALS:02}_0.PNG"
    identifier, photos = identify.run(catalog, IdentifyConfig((photo,)))
    best = photos[0].queries[0].candidates[0]
    identifier, photos = identify.run(catalog, IdentifyConfig((photo,), name=best.individual))
    identify.confirm(identifier, photos, None)
    assert catalog.log()[-1].probability == pytest.approx(best.probability)
    assert catalog.log()[-1].score == pytest.approx(best.similarity)


def test_a_calibration_is_for_its_species_its_score_and_its_vectors(catalog, made, monkeypatch):
    monkeypatch.setattr(calibration, "LEAST_INDIVIDUALS", 6)
    kiwis = calibrate.run(catalog, CalibrateConfig(species="Kiwi"))
    assert (kiwis["crops"], kiwis["individuals"]) == (24, 6)
    photos = made / "card/IMG_03_1.PNG", made / "card/IMG_04_1.PNG"  # a kiwi and a stoat
    identifier, asked = identify.run(catalog, IdentifyConfig(photos))
    assert [photo.queries[0].calibration is not None for photo in asked] == [True, False]
    assert identifier.verdicts.thresholds("Kiwi") == Thresholds(kiwis["known"], kiwis["new"])
    assert identifier.verdicts.thresholds("Stoat") == Thresholds(0.8, 0.4)
    assert identify.run(catalog, IdentifyConfig(photos, score="mean"))[1][0].queries[0].calibration is None
    everybody = calibrate.run(catalog, CalibrateConfig(method="logistic"))
    identifier, asked = identify.run(catalog, IdentifyConfig(photos))
    assert [photo.queries[0].calibration.species for photo in asked] == ["Kiwi", None]
    assert identifier.verdicts.thresholds("Stoat") == Thresholds(everybody["known"], everybody["new"])
    again = calibrate.run(catalog, CalibrateConfig(fpr=0.2))  # takes the place of the one before
    rows = calibrate.listing(catalog)
    assert [(row["species"], row["method"]) for row in rows] == [(None, "isotonic"), ("Kiwi", "isotonic")]
    assert again["new"] <= again["known"]
    changed = "UPDATE calibrations SET settings = json_set(settings, '$.precision', 'float16')"
    catalog.db.conn.execute(changed)  # of other vectors
    assert identify.run(catalog, IdentifyConfig(photos))[1][0].queries[0].calibration is None


def test_too_few_animals_are_refused_with_the_numbers(catalog):
    with pytest.raises(CareError, match=r"at least 20 crops .* at least 10 animals, but there are 24 such crops of 6"):
        calibrate.run(catalog, CalibrateConfig(species="Kiwi"))
    assert catalog.calibrations() == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"score": "worst"}, "--score is one of"),
        ({"method": "spline"}, "--method is one of"),
        ({"part": "test"}, "--part is one of"),
        ({"split": "mine"}, "no split 'mine'"),
    ],
)
def test_wrong_settings_are_refused(catalog, wrong, says):
    with pytest.raises(CareError, match=says):
        calibrate.run(catalog, CalibrateConfig(**wrong))


def crops_of(catalog, animals) -> list[int]:
    return [crop for crop, name in catalog.names_of_crops().items() if int(name[-2:]) in animals]


def test_test_animals_and_those_trained_on_are_left_out(catalog, made, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "LEAST_INDIVIDUALS", 3)
    parts = dict.fromkeys(crops_of(catalog, {0})[:1], "test")  # one crop, and all of the animal is
    parts |= dict.fromkeys(crops_of(catalog, {1, 2}), "train") | dict.fromkeys(
        crops_of(catalog, {3, 4, 5, 6, 7}), "val"
    )
    catalog.put_split("mine", {"by": "individual"}, parts)
    free = calibrate.run(catalog, CalibrateConfig())
    assert (free["crops"], free["left_out"]["test"]) == (44, 4)
    val = calibrate.run(catalog, CalibrateConfig(split="mine"))
    assert (val["crops"], val["individuals"]) == (20, 5)
    assert {reason: val["left_out"][reason] for reason in ("test", "other_part", "no_part")} == {
        "test": 4, "other_part": 8, "no_part": 16}  # fmt: skip

    digests = catalog.pixel_digests(crops_of(catalog, {8, 9, 10})[::4])  # a crop of each
    model = encoders.build_backbone("vit_tiny_patch16_224", **TINY)
    training = {"crops": sorted(digests.values()), "split": {"name": "mine", "sha256": catalog.split("mine")["sha256"]}}
    encoders.save_embedder(model, tmp_path / "taught.safetensors", HEADER | {"training": training})
    taught = registry.find(tmp_path / "taught.safetensors", task="embedder")
    index.run(catalog, index.IndexConfig(taught))
    done = calibrate.run(catalog, CalibrateConfig(model=taught))
    assert done["left_out"]["trained"] == 12 + 8 and done["left_out"]["test"] == 4
    assert (done["crops"], done["individuals"]) == (24, 6)


def test_the_command_prints_its_reliability_and_the_list(catalog, capsys, monkeypatch):
    def care(*words: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["care", "--catalog", str(catalog.path), *words])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        return capsys.readouterr()

    catalog.checkpoint()
    told = care("evaluate", "calibrate", "--fpr", "0.05")
    assert "96 pairs of 12 animals" in told.err and "same animal" in told.out
    [row] = json.loads(care("evaluate", "calibrate", "--list", "--json").out)
    assert (row["pairs"], row["individuals"], row["species"]) == (96, 12, None)
    assert care("evaluate", "calibrate", "--list", "--csv").out.startswith("model,species,precision,score")
