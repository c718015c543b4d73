"""How older catalogs become today's: one named function a step, oldest first.

Format 1 is the first `schema.sql`; `MIGRATIONS[0]` takes format 1 to 2, and so on. Each runs in a
transaction of its own after a backup, and `schema.sql` always shows the result of all of them. Beware:
`executescript` commits, and a trailing `--` comment breaks ADD COLUMN (use /* */).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from sqlite_utils import Database


def statements(script: str) -> Iterator[str]:
    """The statements of an SQL script, one by one (executescript would commit and defeat roll-back)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending.strip()
            pending = ""


BLOCKS = """
CREATE TABLE this_catalog (         -- one row: the number that tells this catalog from all others; copies keep it
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  number  INTEGER NOT NULL
) STRICT;

CREATE TABLE embedding_blocks (     -- 8192 crops in a row (crop_id / 8192) and their embeddings of one run
  run_id     INTEGER NOT NULL REFERENCES runs(id),
  block      INTEGER NOT NULL,
  generation INTEGER NOT NULL,      -- another random number after every change, so that a cache knows it is stale
  PRIMARY KEY (run_id, block)
) STRICT, WITHOUT ROWID;

CREATE TABLE identity_blocks (      -- 8192 crops in a row (crop_id / 8192) and who they are
  block      INTEGER PRIMARY KEY,
  generation INTEGER NOT NULL       -- another random number after every change
) STRICT;
INSERT INTO this_catalog VALUES (1, random());
INSERT INTO embedding_blocks SELECT run_id, crop_id / 8192, random() FROM embeddings GROUP BY 1, 2;
INSERT INTO identity_blocks SELECT crop_id / 8192, random() FROM crop_identity GROUP BY 1;
CREATE TRIGGER embeddings_added AFTER INSERT ON embeddings
BEGIN
  DELETE FROM embedding_blocks WHERE run_id = NEW.run_id AND block = NEW.crop_id / 8192;
  INSERT INTO embedding_blocks VALUES (NEW.run_id, NEW.crop_id / 8192, random());
END;
CREATE TRIGGER embeddings_changed AFTER UPDATE ON embeddings
BEGIN
  DELETE FROM embedding_blocks WHERE run_id = OLD.run_id AND block = OLD.crop_id / 8192;
  INSERT INTO embedding_blocks VALUES (OLD.run_id, OLD.crop_id / 8192, random());
END;
CREATE TRIGGER embeddings_stay_with_their_run BEFORE UPDATE OF run_id ON embeddings
BEGIN SELECT RAISE(ABORT, 'embeddings stay with their run'); END;
CREATE TRIGGER embeddings_deleted AFTER DELETE ON embeddings
BEGIN
  DELETE FROM embedding_blocks WHERE run_id = OLD.run_id AND block = OLD.crop_id / 8192;
  INSERT INTO embedding_blocks VALUES (OLD.run_id, OLD.crop_id / 8192, random());
END;
CREATE TRIGGER identities_added AFTER INSERT ON crop_identity
BEGIN
  DELETE FROM identity_blocks WHERE block = NEW.crop_id / 8192;
  INSERT INTO identity_blocks VALUES (NEW.crop_id / 8192, random());
END;
CREATE TRIGGER identities_changed AFTER UPDATE ON crop_identity
BEGIN
  DELETE FROM identity_blocks WHERE block = OLD.crop_id / 8192;
  INSERT INTO identity_blocks VALUES (OLD.crop_id / 8192, random());
END;
CREATE TRIGGER identities_deleted AFTER DELETE ON crop_identity
BEGIN
  DELETE FROM identity_blocks WHERE block = OLD.crop_id / 8192;
  INSERT INTO identity_blocks VALUES (OLD.crop_id / 8192, random());
END;
"""


def number_blocks(db: Database) -> None:
    """Format 2: a catalog has a number, and blocks of embeddings and names have generations that caches go by."""
    for statement in statements(BLOCKS):
        db.conn.execute(statement)


ABOUT = """\
ALTER TABLE templates ADD COLUMN about      TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(about)) \
/* how it came about: file, model, replies, ... */"""


def tell_of_templates(db: Database) -> None:
    """Format 3: a template says how it came about."""
    db.conn.execute(ABOUT)


TRAINING = """
CREATE TABLE splits (               -- a division of named crops into training, validation and test, by name
  id         INTEGER PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  settings   TEXT NOT NULL CHECK (json_valid(settings)),  -- rule, shares, seed
  sha256     TEXT NOT NULL CHECK (length(sha256) = 64),   -- of all digests of pixels with their parts
  created_at TEXT NOT NULL          -- UTC
) STRICT;

CREATE TABLE split_crops (          -- which part of a split a crop is in; kept when the catalog grows
  split_id INTEGER NOT NULL REFERENCES splits(id),
  crop_id  INTEGER NOT NULL REFERENCES crops(id),
  part     TEXT NOT NULL CHECK (part IN ('train', 'val', 'test')),
  PRIMARY KEY (split_id, crop_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX split_crops_by_crop ON split_crops(crop_id);

CREATE TABLE calibrations (         -- what a model's similarities mean, learned on pairs of known animals
  id          INTEGER PRIMARY KEY,
  model_id    INTEGER NOT NULL REFERENCES models(id),
  species     TEXT,                 -- null: of all species together
  settings    TEXT NOT NULL CHECK (json_valid(settings)),  -- all that changes the curve: precision, score, ...
  curve       TEXT NOT NULL CHECK (json_valid(curve)),     -- from similarity to probability, and how reliable
  known       REAL NOT NULL,        -- similarity from which the first candidate is the animal
  new         REAL NOT NULL,        -- similarity below which it is none of them
  pairs       INTEGER NOT NULL,     -- that it rests on
  individuals INTEGER NOT NULL,     -- that the pairs are of
  ece         REAL NOT NULL,        -- expected calibration error, on pairs it was not fitted to
  made_at     TEXT NOT NULL         -- UTC
) STRICT;
CREATE UNIQUE INDEX calibrations_by_model ON calibrations(model_id, coalesce(species, ''), settings);
"""


def divide_for_training(db: Database) -> None:
    """Format 4: splits say which crops a model may learn from, calibrations what its similarities mean."""
    for statement in statements(TRAINING):
        db.conn.execute(statement)


LABELS = """
CREATE TABLE image_labels (         -- what an imported file says of a photo as a whole, in its own words
  run_id      INTEGER NOT NULL REFERENCES runs(id),
  image_id    INTEGER NOT NULL REFERENCES images(id),
  label       TEXT NOT NULL,        -- a species, 'empty', ...
  of_sequence INTEGER NOT NULL CHECK (of_sequence IN (0, 1)),  -- 1: said of its sequence, not of this very photo
  PRIMARY KEY (run_id, image_id, label)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_labels_by_image ON image_labels(image_id);
"""


def label_images(db: Database) -> None:
    """Format 5: imported files say what photos show as a whole."""
    for statement in statements(LABELS):
        db.conn.execute(statement)


MIGRATIONS: list[Callable[[Database], None]] = [number_blocks, tell_of_templates, divide_for_training, label_images]
