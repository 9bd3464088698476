"""Describe events in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import NotFoundError

_MESSAGES: Final = {
    "leased": "attempt {attempt} started",
    "scored": "attempt {attempt} finished with fitness {fitness}",
    "tested": "attempt {attempt} was evaluated once on the test part: accuracy {fitness}",
    "failed": "the candidate failed in attempt {attempt}: {failure}",
    "taken_back": "attempt {attempt} ended without a score: {failure}; the candidate waits for another attempt",
    "to_be_alone": "a lack of memory or another training on the device may have caused the failure; the next attempt "
    "will have its device to itself",
    "to_be_halved": "the training ran out of memory again; the next attempt will train each batch in two halves, "
    "which is recorded as a deviation",
    "released": "attempt {attempt} was stopped on request; the training will continue from its checkpoint",
    "rung_reached": "attempt {attempt} reached rung {rung} after {epochs} with score {score:.4f}",
    "promoted": "the candidate continues to rung {rung} ({epochs}) from {start}",
    "imported": "the score was imported; the fitness is {fitness}",
    "stopped": "the candidate stops at rung {rung} after {epochs} with fitness {fitness}",
    "started_afresh": "attempt {attempt} started from scratch because no undamaged checkpoint was left",
    "checkpoint_damaged": "the checkpoint {path} is damaged and was set aside",
    "checkpoint_adopted": "the training continues from the checkpoint {path}, which was written but not recorded "
    "before its worker or the daemon was killed",
    "ancestor_restored": "the weights of candidate {ancestor} were missing or damaged, so candidate {ancestor} was "
    "trained again",
    "room_made": "the daemon deleted {files} ({bytes} bytes) to free disk space",
    "restored": "the record was restored from a backup",
    "transferred": "the search was transferred from candidate {candidate} of {source}, {chosen}",
    "survivors_taken": "the search starts with {taken} of the members of {source}, unchanged; members over the limits "
    "({over_limits}) and members with the network of another member ({same_network}) are left out; perturbations of "
    "the best member fill the population",
    "sources_modelled": "the model uses {scores} scores of {sources}; the search starts with {taken} of their best "
    "candidates",
    "retried": "the failed candidate will be trained again as candidate {retry}, outside the population",
    "replay_differs": "attempt {attempt}: epoch {epoch} had different results when it was repeated",
    "extended": "the budget was extended to {candidates}",
    "finished": "the search finished: {why}",
    "quality_flat": "the quality has not improved by more than {by} since step {since}; the search ends after {births} "
    "births",
    "space_exhausted": "the search space is exhausted: {message}",
    "created": "the search was created",
    "deleted": "the search {search} was deleted, with {candidates}",
    "paused": "the search was paused",
    "held": "host {host} has set the search aside and tries again by itself: {reason}",
    "hold_lifted": "host {host} works on the search again",
}
_CANDIDATE_MESSAGES: Final = {
    "cancelled": "the candidate was cancelled",
    "resumed": "attempt {attempt} continues from epoch {epoch}, batch {batch}",
}
_SEARCH_MESSAGES: Final = {"cancelled": "the search was cancelled", "resumed": "the search was resumed"}
_REASON_MESSAGES: Final = {"paused": "the search was paused: {reason}"}
"""The messages of events that have a reason only if a daemon, and not a user, has caused them."""
_BIRTH_MESSAGES: Final = {
    "random": "born as a random sample",
    "mutation": "born as a mutation of candidate {parent_id}",
    "imported": "given by the user, not decided by the search",
    "basic": "born as the basic architecture, which comes from candidate {parent_id}",
    "survivor": "born as an unchanged copy of candidate {parent_id}",
    "perturbation": "born as a perturbation of candidate {parent_id}",
    "reevaluation": "candidate {parent_id} will be trained from scratch to re-evaluate it",
    "retry": "failed candidate {parent_id} will be trained again from scratch",
    "final": "candidate {parent_id} will be trained on training and validation images, then tested",
}

_COUNTED: Final = {"epochs": "epoch", "files": "checkpoint", "candidates": "candidate"}
"""The noun for each count in the details of events."""

EVENT_KINDS: Final = tuple(sorted({"born", *_MESSAGES, *_CANDIDATE_MESSAGES, *_SEARCH_MESSAGES}))


def require_event_kind(kind: str) -> None:
    """Raise `NotFoundError`, which lists all kinds of events, if there is no such kind."""
    if kind not in EVENT_KINDS:
        raise NotFoundError(
            f"no event kind {kind!r}{did_you_mean(kind, EVENT_KINDS)}; the kinds are: {', '.join(EVENT_KINDS)}"
        )


def describe_event(
    kind: str,
    *,
    attempt: int | None,
    origin: str | None,
    parent_id: int | None,
    fitness: float | None,
    detail: Mapping[str, Any],
) -> str:
    """Describe an event in a sentence; `origin`, `parent_id` and `fitness` belong to the event's candidate, if there is
    one.

    Kinds and details that a later version has written are shown unchanged.
    """
    facts = {"attempt": attempt, "parent_id": parent_id, **detail}
    for name in _COUNTED.keys() & detail.keys():
        facts[name] = f"{detail[name]} {_COUNTED[name]}{'' if detail[name] == 1 else 's'}"
    if fitness is not None:
        facts["fitness"] = f"{fitness:.4f}"
    if "failure" in detail:
        facts["failure"] = ", ".join(filter(None, (detail["failure"].replace("_", " "), detail.get("message"))))
    if "weights" in detail:
        facts["weights"] = ", ".join(detail["weights"])
    try:
        template = _REASON_MESSAGES.get(kind, "") if "reason" in detail else ""
        if kind == "created" and "weights" in detail:
            template = "the search was created; its final models start from the weights of {weights}"
        message = (template or _template(kind, origin)).format_map(facts) or _list_detail(kind, detail)
    except KeyError:
        message = _list_detail(kind, detail)
    return " ".join(message.split())


def _template(kind: str, origin: str | None) -> str:
    if kind == "born":
        return _BIRTH_MESSAGES.get(origin or "", f"born as {origin}")
    specific = _SEARCH_MESSAGES if origin is None else _CANDIDATE_MESSAGES
    return specific.get(kind) or _MESSAGES.get(kind, "")


def _list_detail(kind: str, detail: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} {value}" for name, value in detail.items())
    return f"{kind.replace('_', ' ')}: {values}".removesuffix(": ")
