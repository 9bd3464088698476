"""The metadata of the whole schema. Import the metadata from this module, so that no table is missing."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

# Importing each of these modules adds its tables to the metadata.
from eatnas_db.schema import candidates, events, holds, hosts, searches, trainings  # noqa: F401
from eatnas_db.schema.record import record

metadata: Final[MetaData] = record.metadata
