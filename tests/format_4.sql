/* CARE's catalog: one SQLite file from the SD card to the named animal.
   An image is its bytes, a crop is one animal in one image, a name hangs on the crop.
   Frames: upright image, x right, y down, pixel 0 spans 0..1. Times of photos are the camera's own wall
   clock without a zone; times of our own work end in Z (UTC). */

CREATE TABLE sources (              -- a folder that was scanned: a volume and a root on it
  id          INTEGER PRIMARY KEY,
  volume      TEXT NOT NULL,        -- identifier of the file system, the same wherever it is mounted
  root_bytes  BLOB NOT NULL,        -- the scanned folder, relative to where the volume is mounted
  root        TEXT NOT NULL,        -- root_bytes in readable form
  location    TEXT NOT NULL,        -- where the folder was when last scanned, absolute, readable form
  scanned_at  TEXT,                 -- when a scan of the whole root last ended, UTC
  UNIQUE (volume, root_bytes)
) STRICT;

CREATE TABLE deployments (          -- a camera's stay at a site
  id            INTEGER PRIMARY KEY,
  name          TEXT NOT NULL UNIQUE,
  site          TEXT,
  latitude      REAL CHECK (latitude BETWEEN -90 AND 90),      -- degrees, WGS 84
  longitude     REAL CHECK (longitude BETWEEN -180 AND 180),   -- degrees, WGS 84
  clock_shift_s INTEGER NOT NULL DEFAULT 0,  -- added to the camera's clock on reading, seconds
  burst_gap_s   INTEGER NOT NULL DEFAULT 60,    -- a longer pause begins a new burst, seconds
  event_gap_s   INTEGER NOT NULL DEFAULT 1800,  -- a longer pause begins a new event, seconds
  volume        TEXT,               -- file system on which its folder was first seen
  folder_bytes  BLOB,               -- that folder, relative to where the volume is mounted (DCIM belongs to its parent)
  UNIQUE (volume, folder_bytes)
) STRICT;

CREATE TABLE images (               -- a photo: its bytes, whatever they are called
  id            INTEGER PRIMARY KEY,
  sha256        TEXT UNIQUE CHECK (length(sha256) = 64),  -- null only when known solely from imported results
  bytes         INTEGER,
  state         TEXT NOT NULL CHECK (state IN ('ok', 'partial', 'unreadable', 'unseen')),
  failure       TEXT,               -- why it is partial or unreadable
  width         INTEGER,            -- px, upright
  height        INTEGER,            -- px, upright
  orientation   INTEGER NOT NULL DEFAULT 1,  -- EXIF 1..8, already applied to width and height
  captured_at   TEXT,               -- EXIF DateTimeOriginal, 'YYYY-MM-DD HH:MM:SS[.fff]'; null: undated
  make          TEXT,
  model         TEXT,
  serial        TEXT,               -- the camera's serial number
  latitude      REAL,               -- degrees, from EXIF
  longitude     REAL,               -- degrees, from EXIF
  temperature_c REAL,               -- degrees Celsius, where the maker writes it
  lighting      TEXT CHECK (lighting IN ('day', 'infrared')),
  deployment_id INTEGER REFERENCES deployments(id),
  burst_id      INTEGER,            -- id of the burst's first image; derived from times, null when undated
  event_id      INTEGER             -- id of the event's first image; derived from times, null when undated
) STRICT;
CREATE INDEX images_by_deployment ON images(deployment_id, captured_at);
CREATE INDEX images_by_event ON images(event_id);
CREATE INDEX images_by_serial ON images(serial, captured_at);

CREATE TABLE image_files (          -- a place where an image's bytes were seen
  id          INTEGER PRIMARY KEY,
  source_id   INTEGER NOT NULL REFERENCES sources(id),
  path_bytes  BLOB NOT NULL,        -- below the source's root, forward slashes; the key
  path        TEXT NOT NULL,        -- path_bytes with what cannot be printed backslash-escaped
  image_id    INTEGER REFERENCES images(id),  -- null: the bytes could not be read
  bytes       INTEGER,
  mtime_ns    INTEGER,
  failure     TEXT,                 -- why the bytes could not be read
  gone_at     TEXT,                 -- when a scan of its source no longer met it, UTC
  UNIQUE (source_id, path_bytes),
  CHECK (image_id IS NOT NULL OR failure IS NOT NULL)
) STRICT;
CREATE INDEX image_files_by_image ON image_files(image_id);

CREATE TABLE models (               -- weights that made results here
  id           INTEGER PRIMARY KEY,
  sha256       TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64),
  name         TEXT NOT NULL,
  task         TEXT NOT NULL,
  licence      TEXT NOT NULL,
  spec         TEXT NOT NULL CHECK (json_valid(spec)),  -- its registry entry when it was used
  file         TEXT                 -- where a user's own weights lay
) STRICT;

CREATE TABLE runs (                 -- one command with one model and one set of settings
  id           INTEGER PRIMARY KEY,
  command      TEXT NOT NULL,       -- detect, index, import, propagate-keypoints, train, ...
  model_id     INTEGER REFERENCES models(id),
  settings     TEXT NOT NULL CHECK (json_valid(settings)),  -- all that changes results
  identity     TEXT NOT NULL UNIQUE,  -- SHA-256 of command, model digest and settings
  started_at   TEXT NOT NULL,       -- UTC
  finished_at  TEXT,                -- UTC, of the latest execution that reached its end
  executions   TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(executions))  -- paths, device, batch, version; one each
) STRICT;
CREATE INDEX runs_by_command ON runs(command, finished_at);
CREATE INDEX runs_by_model ON runs(model_id);

CREATE TABLE run_images (           -- an image that a detect or import run has dealt with, animals or none
  run_id   INTEGER NOT NULL REFERENCES runs(id),
  image_id INTEGER NOT NULL REFERENCES images(id),
  PRIMARY KEY (run_id, image_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_images_by_image ON run_images(image_id);

CREATE TABLE crops (                -- one box in one image: an animal, a person or a vehicle
  id            INTEGER PRIMARY KEY,
  run_id        INTEGER NOT NULL REFERENCES runs(id),
  image_id      INTEGER NOT NULL REFERENCES images(id),
  confidence    REAL NOT NULL CHECK (confidence BETWEEN 0 AND 1),
  x             REAL NOT NULL,      -- box, px of the upright image
  y             REAL NOT NULL,
  w             REAL NOT NULL CHECK (w > 0),
  h             REAL NOT NULL CHECK (h > 0),
  label         TEXT,               -- the model's own class name
  model_category TEXT NOT NULL CHECK (model_category IN ('animal', 'person', 'vehicle')),
  model_species TEXT,               -- species as the model or --species said it
  model_flank   TEXT,               -- flank as an imported table said it
  category      TEXT NOT NULL CHECK (category IN ('animal', 'person', 'vehicle')),  -- after decisions
  species       TEXT,               -- after decisions
  flank         TEXT CHECK (flank IN ('left', 'right', 'front', 'back', 'unknown')),  -- after decisions
  rect_x        INTEGER NOT NULL,   -- the rectangle that was cut, whole px of the upright image
  rect_y        INTEGER NOT NULL,
  rect_w        INTEGER NOT NULL,
  rect_h        INTEGER NOT NULL,
  crop_width    INTEGER,            -- px, as stored in crop_pixels
  crop_height   INTEGER
) STRICT;
CREATE INDEX crops_by_run ON crops(run_id, category, confidence);
CREATE INDEX crops_by_image ON crops(image_id, run_id);

CREATE TABLE crop_pixels (          -- an animal's pixels; every later stage sees these, card or no card
  crop_id INTEGER PRIMARY KEY REFERENCES crops(id),
  jpeg    BLOB NOT NULL             -- an imported photo may have kept its own bytes, JPEG or PNG
) STRICT;

CREATE TABLE leftovers (            -- at most one row: pixels were deleted since the file was last written anew
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  at      TEXT NOT NULL             -- when last, UTC
) STRICT;

CREATE TABLE templates (            -- an annotated reference crop and its named points
  id         INTEGER PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  crop_id    INTEGER NOT NULL REFERENCES crops(id),
  species    TEXT,
  points     TEXT NOT NULL CHECK (json_valid(points)),  -- [{name, x, y, mirror}], px of the upright image
  source     TEXT NOT NULL,         -- expert, vlm, gradcam-resnet, gradcam-vit, random
  created_at TEXT NOT NULL          -- UTC
, about      TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(about)) /* how it came about: file, model, replies, ... */) STRICT;
CREATE INDEX templates_by_crop ON templates(crop_id);

/* Of several runs' points of a crop, the newest finished propagation's count; those said by hand ('human', in the
   one run "annotate") or imported ('import', in a run "import-keypoints" of each file) win over them, name by name. */
CREATE TABLE keypoints (            -- a named point on an animal
  id         INTEGER PRIMARY KEY,
  run_id     INTEGER NOT NULL REFERENCES runs(id),
  crop_id    INTEGER NOT NULL REFERENCES crops(id),
  template_id INTEGER REFERENCES templates(id),
  name       TEXT NOT NULL,
  x          REAL NOT NULL,         -- px of the upright image
  y          REAL NOT NULL,
  confidence REAL NOT NULL,         -- peak cosine, or 1 when set by hand
  margin     REAL,                  -- to the best peak elsewhere
  cycle      REAL,                  -- there and back, as a share of the longer box side
  visible    INTEGER NOT NULL CHECK (visible IN (0, 1)),
  source     TEXT NOT NULL,
  UNIQUE (run_id, crop_id, name)
) STRICT;
CREATE INDEX keypoints_by_crop ON keypoints(crop_id);
CREATE INDEX keypoints_by_template ON keypoints(template_id);

CREATE TABLE embeddings (           -- one model's vector for one crop, appended run by run
  id             INTEGER PRIMARY KEY,
  run_id         INTEGER NOT NULL REFERENCES runs(id),
  crop_id        INTEGER NOT NULL REFERENCES crops(id),
  dim            INTEGER NOT NULL CHECK (dim > 0),
  vector         BLOB NOT NULL CHECK (length(vector) = 4 * dim),  -- float32 little-endian, L2 norm 1
  keypoints_hash TEXT,              -- of the points it was made with; stale when they differ
  UNIQUE (run_id, crop_id)
) STRICT;
CREATE INDEX embeddings_by_crop ON embeddings(crop_id);

CREATE TABLE individuals (          -- an animal that was given a name; derived from decisions
  id          INTEGER PRIMARY KEY,
  name        TEXT NOT NULL,
  status      TEXT NOT NULL CHECK (status IN ('active', 'merged', 'void')),
  merged_into INTEGER REFERENCES individuals(id),
  CHECK ((status = 'merged') = (merged_into IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX individuals_by_name ON individuals(name) WHERE status = 'active';
CREATE INDEX individuals_by_survivor ON individuals(merged_into);

CREATE TABLE decisions (            -- the log that everything said by hand or by a model hangs on; append-only
  id            INTEGER PRIMARY KEY,
  at            TEXT NOT NULL,      -- UTC
  who           TEXT NOT NULL,      -- a person's login, or a model's name
  source        TEXT NOT NULL CHECK (source IN ('human', 'model', 'import')),
  action        TEXT NOT NULL CHECK (action IN ('create', 'name', 'unname', 'rename', 'merge', 'split',
                                                'different', 'category', 'species', 'flank', 'undo')),
  crop_id       INTEGER REFERENCES crops(id),
  individual_id INTEGER REFERENCES individuals(id),  -- whom it is about
  other_id      INTEGER REFERENCES individuals(id),  -- merge: survivor; split: the new one; different: the other
  value         TEXT,               -- a name, category, species or flank
  crops         TEXT CHECK (crops IS NULL OR json_valid(crops)),      -- split: the crop ids that leave
  undoes        INTEGER REFERENCES decisions(id),
  score         REAL,               -- similarity that the decision rested on
  probability   REAL,               -- calibrated, where there is one
  evidence      TEXT CHECK (evidence IS NULL OR json_valid(evidence)),   -- run, best gallery crop, row of an imported table, ...
  CHECK ((action = 'undo') = (undoes IS NOT NULL))
) STRICT;
CREATE INDEX decisions_by_crop ON decisions(crop_id);
CREATE INDEX decisions_by_individual ON decisions(individual_id);
CREATE INDEX decisions_by_other ON decisions(other_id);
CREATE INDEX decisions_by_undone ON decisions(undoes);

CREATE TABLE crop_identity (        -- who each crop is now; derived from decisions, checked by doctor
  crop_id       INTEGER PRIMARY KEY REFERENCES crops(id),
  individual_id INTEGER NOT NULL REFERENCES individuals(id),
  decision_id   INTEGER NOT NULL REFERENCES decisions(id)
) STRICT;
CREATE INDEX crop_identity_by_individual ON crop_identity(individual_id);
CREATE INDEX crop_identity_by_decision ON crop_identity(decision_id);

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

CREATE VIEW timed_images AS         /* images with the deployment's clock shift applied */
SELECT images.*, deployments.name AS deployment, deployments.site AS site,
       CASE WHEN clock_shift_s THEN
         CASE WHEN instr(captured_at, '.') THEN strftime('%Y-%m-%d %H:%M:%f', captured_at, clock_shift_s || ' seconds')
              ELSE strftime('%Y-%m-%d %H:%M:%S', captured_at, clock_shift_s || ' seconds') END
       ELSE captured_at END AS taken_at
FROM images LEFT JOIN deployments ON deployments.id = images.deployment_id;

CREATE VIEW named_crops AS          /* who was seen, where and when */
SELECT crop_identity.crop_id, individuals.name AS individual, crops.species, crops.flank,
       timed_images.taken_at, timed_images.deployment, timed_images.site, crops.image_id
FROM crop_identity JOIN individuals ON individuals.id = crop_identity.individual_id
JOIN crops ON crops.id = crop_identity.crop_id JOIN timed_images ON timed_images.id = crops.image_id;

/* People are safe by constraint: of anything but an animal only the box is kept. */
CREATE TRIGGER pixels_of_animals_only BEFORE INSERT ON crop_pixels
WHEN (SELECT category FROM crops WHERE id = NEW.crop_id) IS NOT 'animal'
BEGIN SELECT RAISE(ABORT, 'pixels are kept of animals only'); END;
CREATE TRIGGER templates_of_animals_only BEFORE INSERT ON templates
WHEN (SELECT category FROM crops WHERE id = NEW.crop_id) IS NOT 'animal'
BEGIN SELECT RAISE(ABORT, 'templates are of animals only'); END;
CREATE TRIGGER keypoints_of_animals_only BEFORE INSERT ON keypoints
WHEN (SELECT category FROM crops WHERE id = NEW.crop_id) IS NOT 'animal'
BEGIN SELECT RAISE(ABORT, 'keypoints are kept of animals only'); END;
CREATE TRIGGER embeddings_of_animals_only BEFORE INSERT ON embeddings
WHEN (SELECT category FROM crops WHERE id = NEW.crop_id) IS NOT 'animal'
BEGIN SELECT RAISE(ABORT, 'embeddings are made of animals only'); END;
CREATE TRIGGER identities_of_animals_only BEFORE INSERT ON crop_identity
WHEN (SELECT category FROM crops WHERE id = NEW.crop_id) IS NOT 'animal'
BEGIN SELECT RAISE(ABORT, 'names are given to animals only'); END;
CREATE TRIGGER names_of_animals_only BEFORE INSERT ON decisions
WHEN NEW.action IN ('create', 'name') AND (SELECT category FROM crops WHERE id = NEW.crop_id) IS NOT 'animal'
BEGIN SELECT RAISE(ABORT, 'names are given to animals only'); END;
CREATE TRIGGER pixels_stay_with_animals BEFORE UPDATE OF crop_id ON crop_pixels
BEGIN SELECT RAISE(ABORT, 'pixels stay with their crop'); END;
CREATE TRIGGER templates_stay_with_animals BEFORE UPDATE OF crop_id ON templates
BEGIN SELECT RAISE(ABORT, 'templates stay with their crop'); END;
CREATE TRIGGER keypoints_stay_with_animals BEFORE UPDATE OF crop_id ON keypoints
BEGIN SELECT RAISE(ABORT, 'keypoints stay with their crop'); END;
CREATE TRIGGER embeddings_stay_with_animals BEFORE UPDATE OF crop_id ON embeddings
BEGIN SELECT RAISE(ABORT, 'embeddings stay with their crop'); END;
CREATE TRIGGER identities_stay_with_animals BEFORE UPDATE OF crop_id ON crop_identity
BEGIN SELECT RAISE(ABORT, 'names stay with their crop'); END;
CREATE TRIGGER no_longer_an_animal AFTER UPDATE OF category ON crops WHEN NEW.category <> 'animal'
BEGIN
  DELETE FROM crop_pixels WHERE crop_id = NEW.id;
  DELETE FROM embeddings WHERE crop_id = NEW.id;
  DELETE FROM keypoints WHERE crop_id = NEW.id
                           OR template_id IN (SELECT id FROM templates WHERE crop_id = NEW.id);
  DELETE FROM templates WHERE crop_id = NEW.id;
  DELETE FROM crop_identity WHERE crop_id = NEW.id;
END;

/* SQLite leaves copies of rows that it moved in the unused parts of pages, so that deleted pixels are gone only
   when the file is written anew. These rows say that this is still to be done, whatever happens meanwhile. */
CREATE TRIGGER deleted_pixels_leave_copies AFTER DELETE ON crop_pixels
BEGIN INSERT OR REPLACE INTO leftovers VALUES (1, strftime('%Y-%m-%dT%H:%M:%fZ')); END;
CREATE TRIGGER replaced_pixels_leave_copies AFTER UPDATE OF jpeg ON crop_pixels
BEGIN INSERT OR REPLACE INTO leftovers VALUES (1, strftime('%Y-%m-%dT%H:%M:%fZ')); END;

/* The log is append-only: an error is undone by a new entry, never by changing an old one. */
CREATE TRIGGER decisions_are_not_changed BEFORE UPDATE ON decisions
BEGIN SELECT RAISE(ABORT, 'the decision log is append-only'); END;
CREATE TRIGGER decisions_are_not_deleted BEFORE DELETE ON decisions
BEGIN SELECT RAISE(ABORT, 'the decision log is append-only'); END;

/* Caches are derived from blocks of rows and named by their generation. (No INSERT OR REPLACE here: the conflict
   clause of the statement that fires a trigger would take its place.) */
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
