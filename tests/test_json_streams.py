"""JSON read in passes, and lists on disk: held to the whole file read at once, and to plain dictionaries."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli.catalog.shelf import Shelf
from care_cli.errors import CareError
from care_cli.exchange import json_streams
from care_cli.exchange.json_streams import JsonFile

TEXTS = st.text(alphabet='aN"\\Infity -é{[,', max_size=12) | st.sampled_from(["NaN", "-Infinity", '"NaN\\', "\\"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def without_nan(value):
    """The value with null in place of what JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return {key: without_nan(one) for key, one in value.items()} if isinstance(value, dict) else value


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.booleans())
def test_items_are_those_of_the_file_read_at_once(tmp_path_factory, values, chunk, bom):
    path = tmp_path_factory.mktemp("json") / "file.json"
    data = (b"\xef\xbb\xbf" if bom else b"") + json.dumps({"a": 1, "list": values}, ensure_ascii=False).encode()
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_streams, "CHUNK", chunk)
        file = JsonFile(path)
        file.check()
        assert list(file.items("list.item")) == without_nan(values)
        assert file.first("a") == 1 and file.first("b") is None and file.has("list") and not file.has("b")
    assert file.digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "data",
    [b"", b'{"images": [{"id": 1}', b'{"images": [1]} x', b'{"a": "\xff"}', b"not JSON", b"\xff\xfe{\x00}\x00",
     b'{"a": 123456789012345678901234567890}', b'{"a": [NaN, 1', b"\x00" * 50],
)  # fmt: skip
def test_a_file_that_is_no_whole_json_is_refused_in_words(tmp_path, data):
    (tmp_path / "file.json").write_bytes(data)
    with pytest.raises(CareError, match="should be JSON"):
        JsonFile(tmp_path / "file.json").check()
    with pytest.raises(CareError, match="cannot be read"):
        JsonFile(tmp_path / "none.json")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), VALUES.map(without_nan))), st.lists(st.sampled_from("abcdefgh")))
def test_a_shelf_gives_what_a_dictionary_of_lists_would(pairs, asked):
    lists: dict[str, list] = {}
    for key, value in pairs:
        lists.setdefault(key, []).append(value)
    with Shelf() as shelf:
        shelf.put(pairs[:2])
        shelf.put(pairs[2:])
        assert shelf.put_count == len(pairs)
        asked = list(dict.fromkeys(asked))
        assert shelf.take(asked) == {key: lists[key] for key in asked if key in lists}
        assert shelf.taken_count == sum(len(lists.get(key, [])) for key in asked)
        first = [asked.index(key) == place for place, key in enumerate([*asked, *asked])]
        assert shelf.meet([*asked, *asked]) == first
        assert set(shelf.never_met(9)) == set(lists) - set(asked)
