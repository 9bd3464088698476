from eatnas_db.domain.states import ALLOWED_TRANSITIONS, SETTLED, CandidateState, Transition


def test_every_transition_has_an_edge():
    assert set(ALLOWED_TRANSITIONS) == set(Transition)


def test_every_state_is_reachable_from_pending():
    reached = {CandidateState.PENDING}
    for _ in CandidateState:
        reached |= {after for before, after in ALLOWED_TRANSITIONS.values() if before & reached}
    assert reached == set(CandidateState)


def test_no_transition_leaves_a_settled_state():
    assert not any(before & SETTLED for before, _ in ALLOWED_TRANSITIONS.values())


def test_scores_and_failures_need_a_lease():
    for transition in (Transition.SCORE, Transition.FAIL, Transition.RELEASE, Transition.RECLAIM):
        assert ALLOWED_TRANSITIONS[transition][0] == {CandidateState.LEASED}
