"""The views for the user's SQL queries. Their names and columns stay the same when the tables change."""

from __future__ import annotations

from typing import Final

VIEWS: Final[dict[str, str]] = {
    "searches": """
        SELECT s.id, s.name, s.kind, o.name AS source, s.seed, s.population, s.lag, s.born, s.settled, s.scored,
               s.device_seconds, s.budget_candidates, s.budget_device_seconds, s.wish, s.created_at, s.finished_at,
               s.spec
        FROM eatnas_search AS s LEFT JOIN eatnas_search AS o ON o.id = s.source_id""",
    "candidates": """
        SELECT c.id, s.name AS search, c.birth, c.origin, c.parent_id, c.state, c.fitness, c.accuracy, c.params,
               c.mult_adds, c.joined, c."left", c.share_inherited, c.logit_distance, c.lineage_epochs, c.code, a.digest,
               c.created_at, c.ended_at, c.objectives
        FROM eatnas_candidate AS c
        JOIN eatnas_search AS s ON s.id = c.search_id JOIN eatnas_architecture AS a ON a.id = c.architecture_id""",
    "blocks": """
        SELECT c.id AS candidate_id, s.name AS search, t.position, t.op, t.kernel, t.skip, t.depth, t.width
        FROM eatnas_candidate AS c
        JOIN eatnas_search AS s ON s.id = c.search_id
        JOIN eatnas_block AS t ON t.architecture_id = c.architecture_id""",
    "changes": """
        SELECT t.candidate_id, s.name AS search, t.ordinal, t.block, t.primitive, t.before, t.after
        FROM eatnas_mutation AS t
        JOIN eatnas_candidate AS c ON c.id = t.candidate_id JOIN eatnas_search AS s ON s.id = c.search_id""",
    "attempts": """
        SELECT t.candidate_id, s.name AS search, t.number, h.name AS host, w.slot, d.name AS device, t.started_at,
               t.ended_at, t.outcome, t.failure, t.message, t.device_seconds
        FROM eatnas_attempt AS t
        JOIN eatnas_candidate AS c ON c.id = t.candidate_id JOIN eatnas_search AS s ON s.id = c.search_id
        JOIN eatnas_worker AS w ON w.id = t.worker_id
        JOIN eatnas_device AS d ON d.id = w.device_id JOIN eatnas_host AS h ON h.id = d.host_id""",
    "epochs": """
        SELECT t.candidate_id, s.name AS search, t.number, t.attempt, t.train_loss, t.train_accuracy, t.val_loss,
               t.val_accuracy, t.learning_rate, t.seconds, t.ended_at, t.memory_bytes, t.load, t.metrics
        FROM eatnas_epoch AS t
        JOIN eatnas_candidate AS c ON c.id = t.candidate_id JOIN eatnas_search AS s ON s.id = c.search_id""",
    "scores": """
        SELECT t.candidate_id, s.name AS search, t.metric, t.seed, t.value, t.attempt, p.device, p.cpu_capability,
               p.settings
        FROM eatnas_score AS t
        JOIN eatnas_candidate AS c ON c.id = t.candidate_id JOIN eatnas_search AS s ON s.id = c.search_id
        JOIN eatnas_provenance AS p ON p.id = t.provenance_id""",
    "measurements": """
        SELECT t.candidate_id, s.name AS search, t.metric, t.median, t.low, t.high, t.device, t.device_name, t.batch,
               t.threads, t.runs, t.quiet, t.attempt
        FROM eatnas_measurement AS t
        JOIN eatnas_candidate AS c ON c.id = t.candidate_id JOIN eatnas_search AS s ON s.id = c.search_id""",
    "steps": """
        SELECT s.name AS search, t.number, t.size, t.mean, t.spread, t.best, t.quality, t.device_seconds, t.at,
               t.hypervolume
        FROM eatnas_step AS t JOIN eatnas_search AS s ON s.id = t.search_id""",
    "events": """
        SELECT t.id, t.at, s.name AS search, t.candidate_id, t.attempt, t.kind, t.detail
        FROM eatnas_event AS t LEFT JOIN eatnas_search AS s ON s.id = t.search_id""",
}
