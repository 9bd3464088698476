"""The model's proposals, and the births that the model leaves to evolution."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from eatnas_db.domain.rng import KeyedRng
from eatnas_db.guidance.encoding import Encoding
from eatnas_db.guidance.predicted_seconds import predict_seconds
from eatnas_db.guidance.proposals import ScoredCode, count_fitted_births, fit_model, propose

LEVELS = 4
POSITIONS = 5


class Cube:
    """The space of all codes with five positions of four values each."""

    encoding = Encoding((LEVELS,) * POSITIONS, (False,) * POSITIONS, (0,) * POSITIONS)

    def sample(self, rng):
        return tuple(rng.randbelow(LEVELS) for _ in range(POSITIONS))

    def neighbours(self, code):
        return [
            (*code[:position], value, *code[position + 1 :])
            for position, value in product(range(POSITIONS), range(LEVELS))
            if value != code[position]
        ]

    def mutate(self, code, count, rng):
        mutant = list(code)
        for position in rng.sample(POSITIONS, count):
            mutant[position] = rng.choice([value for value in range(LEVELS) if value != code[position]])
        return tuple(mutant)


def score(code):
    return sum((position + 1) * (value == position % LEVELS) for position, value in enumerate(code))


def make_rows(count, scorer=score):
    codes = [Cube().sample(KeyedRng(1, "row", number)) for number in range(count)]
    return [ScoredCode(number, code, float(scorer(code))) for number, code in enumerate(dict.fromkeys(codes))]


def propose_next(rows, pending=(), accepts=lambda code: True, seed=3, seconds=None):
    size = count_fitted_births(len(rows))
    model = fit_model(Cube.encoding, rows[:size], size)
    rng = KeyedRng(seed, "proposal", len(rows))
    return propose(Cube(), model, rows, pending, rng, accepts, seconds=seconds)


def test_search_by_proposals_finds_the_best_code():
    rows = make_rows(8)
    best = tuple(position % LEVELS for position in range(POSITIONS))
    while best not in (codes := [row.code for row in rows]):
        proposal = propose_next(rows, accepts=lambda code, codes=codes: code not in codes)
        code = proposal.code if proposal else Cube().sample(KeyedRng(1, "sample", len(rows)))
        rows.append(ScoredCode(len(rows), code, float(score(code))))
    # Random search would need 512 proposals on average, because there are 1,024 codes.
    assert len(rows) < 40


def test_proposal_is_a_function_of_its_arguments():
    rows = make_rows(20)
    assert propose_next(rows, [(0, 0, 0, 0, 0)]) == propose_next(rows, [(0, 0, 0, 0, 0)])


def test_prediction_is_given_as_normal_scores_and_as_fitness():
    rows = make_rows(30)
    proposal = propose_next(rows)
    prediction = proposal.prediction
    assert prediction.low <= prediction.middle <= prediction.high <= max(row.score for row in rows)
    assert prediction.deviation > 0
    assert (prediction.scores, prediction.model_births) == (len(rows), count_fitted_births(len(rows)))
    assert proposal.parent_birth is None or proposal.parent_birth < len(rows)


def test_too_few_scores_leave_the_birth_to_evolution():
    assert propose_next(make_rows(3)) is None


def test_unpredictable_scores_leave_the_birth_to_evolution():
    rows = make_rows(40, scorer=lambda code: KeyedRng(5, "noise", *code).bits())
    assert propose_next(rows) is None


def test_equal_scores_leave_the_birth_to_evolution():
    assert propose_next(make_rows(20, scorer=lambda code: 0.5)) is None


def test_rejected_codes_are_not_proposed():
    rows = make_rows(20)
    first = propose_next(rows)
    second = propose_next(rows, accepts=lambda code: code != first.code)
    assert second.code != first.code
    assert propose_next(rows, accepts=lambda code: False) is None


def test_model_changes_when_rows_grow_by_a_third():
    sizes = [count_fitted_births(visible) for visible in range(4, 300)]
    assert sizes == sorted(sizes)
    assert all(size <= visible for visible, size in enumerate(sizes, 4))
    assert len(set(sizes)) == 17


SEARCH = """
import sys
sys.path[:0] = sys.argv[1:]
from test_proposals import make_rows, propose_next
for count in range(10, 60, 3):
    print(propose_next(make_rows(count)).code)
"""


@pytest.mark.slow
def test_proposals_do_not_depend_on_threads_or_kernels_of_blas():
    settings = [{"OPENBLAS_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "2"}]
    settings += [{"OPENBLAS_CORETYPE": name} for name in ("Haswell", "Sandybridge", "Nehalem")]
    command = [sys.executable, "-c", SEARCH, str(Path(__file__).parent)]
    outputs = {
        subprocess.run(command, env={**os.environ, **setting}, capture_output=True, text=True, check=True).stdout
        for setting in settings
    }
    assert len(outputs) == 1


def test_cheaper_of_two_equal_networks_is_proposed_per_second():
    # Position 0 has no effect on the scores. It alone decides the cost.
    rows = make_rows(24, lambda code: score((0, *code[1:])))
    costs = [[4, 3, 2, 1], [1, 2, 3, 4]]
    plain, *cheap = (
        propose_next(rows, seconds=seconds)
        for seconds in (
            None,
            *(lambda codes, cost=cost: predict_seconds([cost[code[0]] for code in codes], [2]) for cost in costs),
        )
    )
    assert [proposal.code[0] for proposal in cheap] == [3, 0]
    assert all(proposal.prediction.improvement <= plain.prediction.improvement for proposal in cheap)


def test_one_third_of_the_predicted_seconds_is_fixed():
    assert predict_seconds([0, 5, 20], [1, 10, 100]) == pytest.approx([1 / 3, 2 / 3, 5 / 3])
