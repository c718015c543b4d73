"""Who is learned from and who is examined: shares, what stands, and what is refused."""

from __future__ import annotations

import hashlib

import catalogs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.splits import PARTS, SplitRule, assign, check, counts
from care_cli.stages.splits import ANIMALS, SplitRequest, divide, read_manifest

GROUPS = st.lists(st.integers(0, 30).map(str), min_size=1, max_size=120)
SHARES = st.sampled_from([0.1, 0.2, 0.35])


@settings(max_examples=100, deadline=None)
@given(groups=GROUPS, test=SHARES, val=SHARES, seed=st.integers(0, 99))
def test_parts_hold_whole_groups_in_the_shares_asked_for(groups, test, val, seed) -> None:
    rule = SplitRule(test=test, val=val, seed=seed)
    parts = assign(groups, rule)
    of = dict(zip(groups, parts, strict=True))
    assert [of[group] for group in groups] == parts
    wanted = {part: max(1, round(share * len(of))) for part, share in (("test", test), ("val", val))}
    assert list(of.values()).count("test") == min(len(of), wanted["test"])
    assert list(of.values()).count("val") == min(len(of) - list(of.values()).count("test"), wanted["val"])
    order = list(range(len(groups)))[::-1]  # the order of crops does not matter
    assert assign([groups[i] for i in order], rule) == [parts[i] for i in order]


def test_the_paper_s_shares_are_of_animals_not_of_photos() -> None:
    groups = ["a"] * 500 + [f"animal {i}" for i in range(33)]  # 34 animals, as MacaqueFaces has
    parts = assign(groups, SplitRule(test=0.2, val=0.0))
    assert len({group for group, part in zip(groups, parts, strict=True) if part == "test"}) == 7


@settings(max_examples=100, deadline=None)
@given(before=GROUPS, more=GROUPS, seed=st.integers(0, 99))
def test_what_stands_stays_when_the_catalog_grows(before, more, seed) -> None:
    rule = SplitRule(seed=seed)
    first = assign(before, rule)
    later = assign(before + more, rule, first + [None] * len(more))
    assert later[: len(before)] == first
    assert len(set(zip(before + more, later, strict=True))) == len(set(before + more))


@settings(max_examples=50, deadline=None)
@given(standing=st.lists(st.sampled_from(PARTS), min_size=1, max_size=6))
def test_a_merged_animal_with_any_test_crop_is_all_test(standing) -> None:
    groups = ["merged"] * (len(standing) + 1) + [str(i) for i in range(20)]
    parts = assign(groups, SplitRule(), [*standing, None, *[None] * 20])
    strictest = next(part for part in ("test", "val", "train") if part in standing)
    assert set(parts[: len(standing) + 1]) == {strictest}


def test_splits_that_cannot_be_are_refused() -> None:
    for said in ({"by": "colour"}, {"test": 0.0}, {"test": 0.7, "val": 0.3}, {"val": -0.1}):
        with pytest.raises(CareError):
            SplitRule(**said)
    rule = SplitRule(val=0.0)
    with pytest.raises(CareError, match="'train' empty"):
        check(["test", "test"], ["a", "a"], rule)
    with pytest.raises(CareError, match="no animal has two crops"):
        check(["test", "test", "train"], ["a", "b", "c"], rule)
    check(["test", "test", "train"], ["a", "a", "c"], rule)


def test_counts_say_how_many_animals_are_in_no_other_part() -> None:
    rows = counts(["train", "train", "test", "test"], ["a", "b", "b", "c"])
    assert rows[0] == {"part": "train", "crops": 2, "individuals": 2, "alone": 1}
    assert rows[2] == {"part": "test", "crops": 2, "individuals": 2, "alone": 1}


# -- in a catalog


@pytest.fixture
def catalog(tmp_path):
    """30 crops of ten animals, three of each in a row, one of them called unknown; and one crop without a name."""
    with catalogs.new(tmp_path / "care.db") as catalog:
        ids = catalogs.survey(catalog, 31)
        for place, crop in enumerate(ids[:30]):
            name = "Unknown" if place // 3 == 9 else f"animal {place // 3}"
            if place % 3 == 0:
                catalog.decide(Decision("create", crop_id=crop, value=name))
            else:
                catalog.decide(Decision("name", crop_id=crop, individual_id=catalog.find_individual(name)))
        yield catalog


def test_a_split_is_kept_by_its_name_and_told_by_its_hash(catalog: Catalog) -> None:
    made = divide(catalog, SplitRequest(test=0.3, val=0.2))
    assert made.dropped == {"unknown": 3, "unnamed": 1}
    assert [(row["crops"], row["individuals"], row["alone"]) for row in made.summary()["parts"]] == [
        (12, 4, 4), (6, 2, 2), (9, 3, 3)]  # fmt: skip
    parts = catalog.split_parts("default")
    lines = sorted(
        f"{hashlib.sha256(jpeg).hexdigest()} {parts[crop]}\n" for crop, jpeg in catalog.pixels(parts).items()
    )
    assert made.split["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    again = divide(catalog, SplitRequest())
    assert again.split == made.split and again.rule == made.rule and again.parts == made.parts
    with pytest.raises(CareError, match="--split NAME"):
        divide(catalog, SplitRequest(test=0.2))
    other = divide(catalog, SplitRequest(name="second", test=0.3, val=0.2, seed=1))
    assert other.split["sha256"] != made.split["sha256"] and catalog.split_parts("default") == parts
    with pytest.raises(CareError, match="default, second"):
        catalog.find_split("third")


def test_merging_makes_a_test_animal_of_both(catalog: Catalog) -> None:
    made = divide(catalog, SplitRequest(val=0.2))
    names = {row["crop"]: row["individual"] for row in made.rows}
    one, other = names[made.ids("test")[0]], names[made.ids("train")[0]]
    ids = [catalog.find_individual(name) for name in (other, one)]
    catalog.decide(Decision("merge", individual_id=ids[0], other_id=ids[1]))
    crops = [crop for crop, name in names.items() if name in (one, other)]
    later = divide(catalog, SplitRequest())
    assert set(crops) <= set(later.ids("test"))
    assert {catalog.split_parts("default")[crop] for crop in crops} == {"test"}
    assert later.split["sha256"] != made.split["sha256"]


def test_other_rules_keep_visits_and_sites_together(catalog: Catalog) -> None:
    for deployment in catalog.rows("SELECT id FROM deployments"):
        catalog.regroup(deployment["id"])
    by_event = divide(catalog, SplitRequest(name="visits", by="event"))
    part = dict(zip((row["crop"] for row in by_event.rows), by_event.parts, strict=True))
    for first, second in zip(by_event.rows, by_event.rows[1:], strict=False):
        if first["event"] == second["event"]:
            assert part[first["crop"]] == part[second["crop"]]
    assert len({row["event"] for row in by_event.rows}) > 3
    with pytest.raises(CareError, match="leaves the part 'train' empty"):
        divide(catalog, SplitRequest(name="sites", by="site"))  # there is one site
    assert catalog.split("sites") is None
    assert len(divide(catalog, SplitRequest(name="chance", by="random")).ids("test")) == round(0.2 * 27)


def test_a_published_split_is_taken_from_its_file(tmp_path) -> None:
    file = tmp_path / "parts.csv"
    file.write_text("individual,part\na,train\nb,train\nc,test\n", encoding="utf-8")
    parts, digest = read_manifest(file)
    assert parts == {"a": "train", "b": "train", "c": "test"}
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text("path,individual,part\n1.jpg,a,train\n2.jpg,c,gallery\n3.jpg,c,query\n", encoding="utf-8")
    assert read_manifest(file)[0] == {"a": "train", "c": "test"}  # the two sides of the test part
    file.write_text("individual,part\na,train\na,query\n", encoding="utf-8")
    with pytest.raises(CareError, match="'a' is in train already"):
        read_manifest(file)


def test_animals_that_the_file_does_not_name_are_in_no_part(catalog: Catalog, tmp_path) -> None:
    names = sorted({row["individual"] for row in catalog.crop_rows(ANIMALS)} - {"Unknown", None})
    file = tmp_path / "parts.csv"
    said = {names[0]: "test", names[1]: "train", names[2]: "train"}
    file.write_text("individual,part\n" + "".join(f"{name},{part}\n" for name, part in said.items()), "utf-8")
    made = divide(catalog, SplitRequest(name="published", file=file))
    assert {row["individual"]: part for row, part in zip(made.rows, made.parts, strict=True)} == said
    assert made.dropped["not in the split's file"] == sum(
        row["individual"] in names[3:] for row in catalog.crop_rows(ANIMALS)
    )
    assert divide(catalog, SplitRequest(name="published")).parts == made.parts  # it stands without the file
    with pytest.raises(CareError, match="stands with"):
        divide(catalog, SplitRequest(name="published", by="event"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("individual,part\na,training\n", "'training'"),
        ("individual,part\na,train\na,test\n", "'a' is in train already"),
        ("animal,part\na,train\n", "columns individual and part"),
        ("", "columns individual and part"),
    ],
)
def test_a_file_that_says_no_split_is_refused(tmp_path, text, word) -> None:
    file = tmp_path / "parts.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CareError, match=word):
        read_manifest(file)
