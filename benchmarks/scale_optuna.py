"""The same candidate's bookkeeping by Optuna: NSGA-II on the relational storage, beside ours on the same database.

A history of complete trials is written in bulk into Optuna's own tables, with the generations that its sampler
would have given them; then real trials are asked for, reported and told, taking turns with our candidates.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import insert
from transaction_cost import one_candidate

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.architecture import PRIMITIVES
from eatnas_db.domain.rng import KeyedRng

BLOCKS, EPOCHS, POPULATION = 7, 5, 64
CHOICES = {f"{name}{block}": list(values) for block in range(BLOCKS) for name, values in PRIMITIVES.items()}
HISTORIES = (1_000, 20_000)


def fill(url: str, count: int) -> None:
    """So many complete trials, each with its parameters, reports, value and generation."""
    storage = optuna.storages.RDBStorage(url)
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    distributions = {name: distribution_to_json(CategoricalDistribution(values)) for name, values in CHOICES.items()}
    now = datetime.now()
    with storage.engine.begin() as connection:
        for begin in range(0, count, 1000):
            numbers = range(begin, min(begin + 1000, count))
            rows: dict[Any, list[dict[str, Any]]] = {
                models.TrialModel: [],
                models.TrialParamModel: [],
                models.TrialValueModel: [],
                models.TrialIntermediateValueModel: [],
                models.TrialSystemAttributeModel: [],
            }
            for number in numbers:
                chance, of = KeyedRng(1, "optuna", number), {"trial_id": number + 1}
                fitness = (number * 7919 % 1000) / 1000
                rows[models.TrialModel].append(
                    {
                        **of,
                        "number": number,
                        "study_id": study_id,
                        "state": TrialState.COMPLETE,
                        "datetime_start": now,
                        "datetime_complete": now,
                    }
                )
                for name, values in CHOICES.items():
                    drawn = {"param_name": name, "param_value": float(chance.below(len(values)))}
                    rows[models.TrialParamModel].append({**of, **drawn, "distribution_json": distributions[name]})
                rows[models.TrialValueModel].append(
                    {**of, "objective": 0, "value": fitness, "value_type": models.TrialValueModel.TrialValueType.FINITE}
                )
                for step in range(EPOCHS):
                    kind = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
                    report = {"step": step, "intermediate_value": fitness, "intermediate_value_type": kind}
                    rows[models.TrialIntermediateValueModel].append({**of, **report})
                generation = {"key": "NSGAIISampler:generation", "value_json": json.dumps(number // POPULATION)}
                rows[models.TrialSystemAttributeModel].append({**of, **generation})
            for model, values in rows.items():
                connection.execute(insert(model.__table__), values)
        if storage.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT setval('trials_trial_id_seq', (SELECT max(trial_id) FROM trials))")
    storage.engine.dispose()


def one_trial(study: Any) -> None:
    """Ask, report five epochs, tell."""
    trial = study.ask()
    for name, values in CHOICES.items():
        trial.suggest_categorical(name, values)
    fitness = (trial.number * 7919 % 1000) / 1000
    for step in range(EPOCHS):
        trial.report(fitness, step)
    study.tell(trial, fitness)


def compare(scale: Any) -> None:
    """Append, for each database and history, what a trial takes and what a candidate does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    for kind in scale.kinds:
        for history in HISTORIES:
            url, ours = _prepared(scale, kind, history)
            started = time.perf_counter()
            study = optuna.load_study(
                study_name="s", storage=url, sampler=optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=1)
            )
            one_trial(study)
            first = time.perf_counter() - started
            started = time.perf_counter()
            engine = open_record(ours)
            with transaction(engine) as connection:
                one_candidate(connection)
            own_first = time.perf_counter() - started
            theirs, own = [], []
            for _ in range(max(10, scale.pairs // 5)):
                started = time.perf_counter()
                one_trial(study)
                between = time.perf_counter()
                with transaction(engine) as connection:
                    one_candidate(connection)
                own.append(time.perf_counter() - between)
                theirs.append(between - started)
            scale.tell(
                "optuna",
                database=kind,
                history=history,
                optuna_ms=1000 * statistics.median(theirs),
                own_ms=1000 * statistics.median(own),
                times=statistics.median(a / b for a, b in zip(theirs, own, strict=True)),
                optuna_first_s=first,
                own_first_s=own_first,
                times_with_loading=(first + sum(theirs)) / (own_first + sum(own)),
                pairs=len(own),
            )
            engine.dispose()
            study._storage._backend.engine.dispose()
            scale.histories.drop(kind, history, "real")


def _prepared(scale: Any, kind: str, history: int) -> tuple[str, str]:
    if kind == "sqlite":
        file = scale.histories.folder / f"optuna_{history}.db"
        for old in scale.histories.folder.glob(f"{file.name}*"):
            old.unlink()
        url = f"sqlite:///{file}"
    else:
        url = scale.histories.server.new(f"optuna_{history}")
    fill(url, history)
    return url, scale.histories.copy(kind, history, "real")
