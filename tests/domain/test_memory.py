from eatnas_db.domain.memory_estimate import (
    CONTEXT_BYTES,
    LEAST_SHARE,
    MARGIN,
    WORKSPACES_BYTES,
    expected_bytes,
    largest_that_fits,
    share_of_foretold,
    variable_bytes,
)

GIB = 1 << 30


def test_memory_is_foretold_from_parameters_mult_adds_and_batch():
    assert variable_bytes(1_000_000, 10_000_000, 64) == 16_000_000 + 640_000_000
    assert expected_bytes(1_000_000, 10_000_000, 64, None) == 656_000_000


def test_what_was_measured_corrects_it_with_a_margin():
    share = share_of_foretold(GIB + WORKSPACES_BYTES, 0, 0, GIB, 4)
    assert share == 0.25
    assert expected_bytes(0, GIB, 4, share) == int(GIB * MARGIN)


def test_images_and_workspaces_are_not_taken_for_a_small_networks_doing():
    peak = 300 << 20
    assert share_of_foretold(peak, 100 << 20, 0, 72 << 20, 1) == 1.0
    assert share_of_foretold(peak, 250 << 20, 0, 72 << 20, 1) == LEAST_SHARE


def test_what_fits_is_what_is_expected_to_and_nothing_fits_beside_no_context():
    for share in (None, 0.1, 2.0):
        fits = largest_that_fits(8 * GIB, share)
        assert abs(expected_bytes(0, fits, 1, share) - (8 * GIB - CONTEXT_BYTES)) <= 2
        assert largest_that_fits(CONTEXT_BYTES, share) == 0
