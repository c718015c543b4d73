"""The demo's promise on animals and places that nothing was trained, tuned or shown with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
def test_three_hundred_queries(tmp_path: Path) -> None:
    from demo.examine import examine

    figures = examine(tmp_path)
    assert sum(of for text, (_, of, _) in figures.items() if text.startswith(("known animals with", "unseen"))) == 300
    for text, (hits, of, target) in figures.items():
        assert hits / of >= target, f"{text}: {hits} of {of}"
