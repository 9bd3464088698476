"""Make the JSON schemas of the queries' answers from the row types that the queries return."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter

from eatnas_daemon.mlflow.problems import MlflowProblem
from eatnas_db.queries.calibration import PredictedBirth
from eatnas_db.queries.candidates import CandidateDetails
from eatnas_db.queries.compute_curves import LevelReached
from eatnas_db.queries.events import RecordedEvent
from eatnas_db.queries.failures import FailedAttempt
from eatnas_db.queries.fingerprint import Fingerprint
from eatnas_db.queries.holds import RecordedHold
from eatnas_db.queries.hosts import RecordedDevice, RecordedHost
from eatnas_db.queries.lineage import LineageEntry
from eatnas_db.queries.mutations import MutationStatistics
from eatnas_db.queries.pareto import Tradeoff
from eatnas_db.queries.population import PopulationMember
from eatnas_db.queries.primitives import PrimitiveShare
from eatnas_db.queries.progress import SearchCounters
from eatnas_db.queries.quality import PopulationStep
from eatnas_db.queries.ranking import RankedCandidate
from eatnas_db.queries.rungs import RungCount
from eatnas_db.queries.searches import SearchSummary
from eatnas_db.queries.training_activity import BlockedSearch, TrainingActivity
from eatnas_db.queries.utilisation import Utilisation

REFERENCE: Final = "#/components/schemas/"
JsonSchema = dict[str, Any]
TEXT: Final[JsonSchema] = {"type": "string"}
TEXT_OR_NULL: Final[JsonSchema] = {"type": ["string", "null"]}
NUMBER_OR_NULL: Final[JsonSchema] = {"type": ["number", "null"]}
INTEGER: Final[JsonSchema] = {"type": "integer"}


@dataclass(frozen=True, slots=True)
class AnswerFields:
    """The fields of an object in an answer: the fields of the row type `row`, and the fields `more`.

    `optional` names fields that an object may lack. `others` is the schema of fields whose names depend on the search.
    """

    row: type | None
    more: Mapping[str, JsonSchema | type | list[type]] | None = None
    optional: Sequence[str] = ()
    others: JsonSchema | None = None


METRICS: Final[JsonSchema] = {**NUMBER_OR_NULL, "description": "The value of a metric of the search."}
ANSWERS: Final[Mapping[str, AnswerFields]] = {
    "query_best": AnswerFields(RankedCandidate, others=METRICS),
    "query_lineage": AnswerFields(LineageEntry),
    "query_descendants": AnswerFields(LineageEntry),
    "query_population": AnswerFields(PopulationMember),
    "query_quality": AnswerFields(PopulationStep),
    "query_compare": AnswerFields(LevelReached),
    "query_primitives": AnswerFields(PrimitiveShare),
    "query_mutations": AnswerFields(MutationStatistics),
    "query_pareto": AnswerFields(
        Tradeoff,
        more={"values": {"type": "array", "items": {"type": "number"}, "description": "The values of the objectives."}},
        optional=("accuracy", "values"),
        others=METRICS,
    ),
    "query_calibration": AnswerFields(PredictedBirth),
    "query_utilisation": AnswerFields(Utilisation),
    "query_sql": AnswerFields(None, others={"description": "A column of the query."}),
    "query_events": AnswerFields(RecordedEvent),
    "query_failures": AnswerFields(FailedAttempt),
    "query_fingerprint": AnswerFields(Fingerprint),
    "search_list": AnswerFields(SearchSummary),
    "search_show": AnswerFields(
        SearchCounters,
        more={
            "name": TEXT,
            "status": TEXT,
            "ended": {**TEXT_OR_NULL, "description": "Why the search ended; null before its end."},
            "problem": {**TEXT, "description": "Why this machine cannot run the training program."},
            "machine_dependent": {**TEXT, "description": "Why the births depend on the machine."},
            "objectives": {**TEXT, "description": "The objectives, if there are several."},
            "test_looks": {**INTEGER, "description": "The number of evaluations on the test set."},
            "lag": INTEGER,
            "data_digest": TEXT,
            "spec": {
                "type": "object",
                "description": "The spec; the page `The search spec` of the documentation lists its fields.",
            },
            "rungs": [RungCount],
            "holds": [RecordedHold],
        },
        optional=("problem", "machine_dependent", "objectives", "rungs"),
    ),
    "candidate_show": AnswerFields(CandidateDetails, optional=("rungs", "weights_from")),
    "daemon_status": AnswerFields(
        None,
        more={
            "running": {"type": "boolean"},
            "pid": {"type": ["integer", "null"]},
            "since_at": {**NUMBER_OR_NULL, "description": "The Unix time of the start of the daemon."},
            "suspended": {"type": "boolean"},
            "hosts": [RecordedHost],
            "devices": [RecordedDevice],
            "work": [TrainingActivity],
            "held_up": [BlockedSearch],
            "holds": [RecordedHold],
            "searches": [SearchSummary],
            "mlflow_problem": MlflowProblem,
        },
        optional=("hosts",),
    ),
    "space_show": AnswerFields(None, others={"description": "A property of a space, or of one of its blocks."}),
}
"""The fields of each tool's answer, by the name of the tool."""


def describe_answer(tool: str) -> JsonSchema:
    """Return the schema of an object in the answer of a tool. The schema refers to the schemas of `describe_rows`."""
    fields = ANSWERS[tool]
    own = {name: _describe_field(value) for name, value in (fields.more or {}).items()}
    if fields.row is None:
        required = [name for name in own if name not in fields.optional]
        return {
            "type": "object",
            "properties": own,
            "required": required,
            "additionalProperties": fields.others or False,
        }
    schema = describe_rows()[fields.row.__name__]
    properties = {**schema["properties"], **own}
    return {
        **schema,
        "properties": properties,
        "required": [name for name in properties if name not in fields.optional],
        "additionalProperties": fields.others or False,
    }


@cache
def describe_rows() -> dict[str, JsonSchema]:
    """Return the schemas of all row types, and of the row types nested in them, by name."""
    types = {kind for fields in ANSWERS.values() for kind in _row_types(fields)}
    adapters: list[Any] = [
        (kind.__name__, "serialization", TypeAdapter(kind)) for kind in sorted(types, key=lambda kind: kind.__name__)
    ]
    _, schemas = TypeAdapter.json_schemas(adapters, ref_template=f"{REFERENCE}{{model}}")
    documented = {kind.__name__: inspect.getdoc(kind) or "" for kind in types}
    rows: dict[str, JsonSchema] = schemas["$defs"]
    return {name: _whole_row(row, documented.get(name) or row.get("description", "")) for name, row in rows.items()}


def _row_types(fields: AnswerFields) -> list[type]:
    values = (fields.more or {}).values()
    lists = [value[0] for value in values if isinstance(value, list)]
    return [kind for kind in (fields.row, *lists, *values) if isinstance(kind, type)]


def _describe_field(value: JsonSchema | type | list[type]) -> JsonSchema:
    if isinstance(value, list):
        return {"type": "array", "items": {"$ref": REFERENCE + value[0].__name__}}
    if isinstance(value, type):
        return {"anyOf": [{"$ref": REFERENCE + value.__name__}, {"type": "null"}]}
    return value


def _whole_row(row: JsonSchema, text: str) -> JsonSchema:
    """Return the schema of a row that always contains all fields, even fields at their defaults."""
    properties = {
        name: {key: value for key, value in field.items() if key not in ("title", "default")}
        for name, field in row["properties"].items()
    }
    return {
        "type": "object",
        "description": " ".join(text.split()),
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
