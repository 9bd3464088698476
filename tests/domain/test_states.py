from eatnas_db.domain.states import EDGES, SETTLED, CandidateState, Transition


def test_every_transition_has_its_edge():
    assert set(EDGES) == set(Transition)


def test_every_state_but_the_first_is_reached_from_it():
    reached = {CandidateState.PENDING}
    for _ in CandidateState:
        reached |= {after for before, after in EDGES.values() if before & reached}
    assert reached == set(CandidateState)


def test_only_a_failed_candidate_comes_back_once_it_is_settled():
    leaving = {state for before, _ in EDGES.values() for state in before & SETTLED}
    assert leaving == {CandidateState.FAILED}


def test_a_score_and_a_failure_need_a_lease():
    for transition in (Transition.SCORE, Transition.FAIL, Transition.RELEASE, Transition.RECLAIM):
        assert EDGES[transition][0] == {CandidateState.LEASED}
