"""Catalog to file and back, one module a format."""

# name -> `write(catalog, path, ...)`, found when it is used
FORMATS = {
    "csv": "care_cli.exchange.csv_tables:write",
    "megadetector": "care_cli.exchange.megadetector:write",
}
