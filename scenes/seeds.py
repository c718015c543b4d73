"""Which seeds make which animals and places, so that nothing that is tuned or tested was trained on."""

from __future__ import annotations

TRAIN = range(1000, 5000)  # individuals and locations the demo models learn from
TUNE = range(5000, 6000)  # those on which the thresholds of known and new are fixed
SAMPLE = range(6000, 7000)  # those of the committed sample_data
TEST = range(7000, 8000)  # those of the tests and the generated query sets
