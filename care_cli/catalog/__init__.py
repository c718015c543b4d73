"""The catalog: the one SQLite file of a survey, and the only room with SQL in it."""

from care_cli.catalog.calibrations import CalibrationsTable
from care_cli.catalog.crops import CropsTable
from care_cli.catalog.embeddings import EmbeddingsTable
from care_cli.catalog.exchange import ExchangeQueries
from care_cli.catalog.health import Health
from care_cli.catalog.identity import IdentityLog
from care_cli.catalog.keypoints import KeypointsTable
from care_cli.catalog.labels import LabelsTable
from care_cli.catalog.photos import PhotosTable
from care_cli.catalog.runs import RunsTable
from care_cli.catalog.splits import SplitsTable
from care_cli.catalog.store import Store
from care_cli.catalog.templates import TemplatesTable

__all__ = ["Catalog"]


class Catalog(
    PhotosTable,
    RunsTable,
    CropsTable,
    TemplatesTable,
    KeypointsTable,
    EmbeddingsTable,
    CalibrationsTable,
    SplitsTable,
    LabelsTable,
    IdentityLog,
    Health,
    ExchangeQueries,
    Store,
):
    """An open catalog. One file per group of tables beside this one; `Store` opens, commits and closes."""
