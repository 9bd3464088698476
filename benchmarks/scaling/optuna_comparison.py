"""Compare the database work of a candidate and of an Optuna trial, with NSGA-II on the relational storage.

The program writes a history of complete trials in bulk to Optuna's own tables, with the generations that Optuna's
sampler would have assigned. Then trials of Optuna and candidates of eatnas-db alternate on the same kind of database.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import insert

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.architecture import PRIMITIVES
from eatnas_db.domain.rng import KeyedRng
from scaling.candidates import EPOCHS, fitness_of, run_candidate
from scaling.measurements import Scale
from scaling.write_costs import median_ratio

BLOCKS, POPULATION = 7, 64
CHOICES = {f"{name}{block}": list(values) for block in range(BLOCKS) for name, values in PRIMITIVES.items()}
HISTORIES = (1_000, 20_000)
BATCH_TRIALS = 1000


def compare_with_optuna(scale: Scale) -> None:
    """Append the times of trials and candidates to the results, for each database and history."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    for kind in scale.kinds:
        for history in HISTORIES:
            optuna_url, url = _new_databases(scale, kind, history)
            started = time.perf_counter()
            sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=1)
            study = optuna.load_study(study_name="s", storage=optuna_url, sampler=sampler)
            run_trial(study)
            optuna_first = time.perf_counter() - started
            started = time.perf_counter()
            engine = open_record(url)
            with transaction(engine) as connection:
                run_candidate(connection)
            own_first = time.perf_counter() - started
            trials, candidates = [], []
            for _ in range(max(10, scale.pairs // 5)):
                started = time.perf_counter()
                run_trial(study)
                between = time.perf_counter()
                with transaction(engine) as connection:
                    run_candidate(connection)
                candidates.append(time.perf_counter() - between)
                trials.append(between - started)
            scale.append(
                "optuna",
                database=kind,
                history=history,
                optuna_ms=1000 * statistics.median(trials),
                own_ms=1000 * statistics.median(candidates),
                times=median_ratio(trials, candidates),
                optuna_first_s=optuna_first,
                own_first_s=own_first,
                times_with_loading=(optuna_first + sum(trials)) / (own_first + sum(candidates)),
                pairs=len(candidates),
            )
            engine.dispose()
            study._storage._backend.engine.dispose()
            scale.histories.drop(kind, history, "real")


def run_trial(study: Any) -> None:
    """Ask for a trial, report five epochs, and tell its value."""
    trial = study.ask()
    for name, values in CHOICES.items():
        trial.suggest_categorical(name, values)
    fitness = fitness_of(trial.number)
    for step in range(EPOCHS):
        trial.report(fitness, step)
    study.tell(trial, fitness)


def fill_optuna(url: str, count: int) -> None:
    """Write complete trials with their parameters, reports, values and generations."""
    storage = optuna.storages.RDBStorage(url)
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    with storage.engine.begin() as connection:
        for start in range(0, count, BATCH_TRIALS):
            numbers = range(start, min(start + BATCH_TRIALS, count))
            for model, rows in _rows(study_id, numbers).items():
                connection.execute(insert(model.__table__), rows)
        if storage.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT setval('trials_trial_id_seq', (SELECT max(trial_id) FROM trials))")
    storage.engine.dispose()


def _rows(study_id: int, numbers: Sequence[int]) -> dict[Any, list[dict[str, Any]]]:
    distributions = {name: distribution_to_json(CategoricalDistribution(values)) for name, values in CHOICES.items()}
    value_type = models.TrialValueModel.TrialValueType.FINITE
    report_type = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    now = datetime.now()
    rows: dict[Any, list[dict[str, Any]]] = {
        models.TrialModel: [],
        models.TrialParamModel: [],
        models.TrialValueModel: [],
        models.TrialIntermediateValueModel: [],
        models.TrialSystemAttributeModel: [],
    }
    for number in numbers:
        rng, of_trial = KeyedRng(1, "optuna", number), {"trial_id": number + 1}
        fitness = fitness_of(number)
        trial = {"number": number, "study_id": study_id, "state": TrialState.COMPLETE}
        rows[models.TrialModel].append({**of_trial, **trial, "datetime_start": now, "datetime_complete": now})
        for name, values in CHOICES.items():
            param = {"param_name": name, "param_value": float(rng.randbelow(len(values)))}
            rows[models.TrialParamModel].append({**of_trial, **param, "distribution_json": distributions[name]})
        value = {"objective": 0, "value": fitness, "value_type": value_type}
        rows[models.TrialValueModel].append({**of_trial, **value})
        for step in range(EPOCHS):
            report = {"step": step, "intermediate_value": fitness, "intermediate_value_type": report_type}
            rows[models.TrialIntermediateValueModel].append({**of_trial, **report})
        generation = {"key": "NSGAIISampler:generation", "value_json": json.dumps(number // POPULATION)}
        rows[models.TrialSystemAttributeModel].append({**of_trial, **generation})
    return rows


def _new_databases(scale: Scale, kind: str, history: int) -> tuple[str, str]:
    """Return the URLs of the databases of Optuna and of eatnas-db."""
    if kind == "sqlite":
        file = scale.histories.folder / f"optuna_{history}.db"
        for old in scale.histories.folder.glob(f"{file.name}*"):
            old.unlink()
        url = f"sqlite:///{file}"
    else:
        url = scale.histories.server.create(f"optuna_{history}")
    fill_optuna(url, history)
    return url, scale.histories.copy(kind, history, "real")
