from eatnas_db.domain.memory_estimate import (
    CONTEXT_BYTES,
    MEASURED_SHARE_MARGIN,
    MIN_MEASURED_SHARE,
    WORKSPACES_BYTES,
    expected_bytes,
    max_variable_bytes,
    measured_share_of_estimate,
    variable_bytes,
)

GIB = 1 << 30


def test_estimate_uses_parameters_mult_adds_and_batch_size():
    assert variable_bytes(1_000_000, 10_000_000, 64) == 16_000_000 + 640_000_000
    assert expected_bytes(1_000_000, 10_000_000, 64, None) == 656_000_000


def test_measured_share_corrects_the_estimate_with_a_margin():
    sizes = {"images_bytes": 0, "params": 0, "mult_adds": GIB, "batch_size": 4}
    share = measured_share_of_estimate(peak_bytes=GIB + WORKSPACES_BYTES, **sizes)
    assert share == 0.25
    assert expected_bytes(0, GIB, 4, share) == int(GIB * MEASURED_SHARE_MARGIN)


def test_images_and_workspaces_do_not_count_as_the_network():
    sizes = {"peak_bytes": 300 << 20, "params": 0, "mult_adds": 72 << 20, "batch_size": 1}
    assert measured_share_of_estimate(images_bytes=100 << 20, **sizes) == 1.0
    assert measured_share_of_estimate(images_bytes=250 << 20, **sizes) == MIN_MEASURED_SHARE


def test_largest_training_fits_and_none_fits_without_a_context():
    for share in (None, 0.1, 2.0):
        fits = max_variable_bytes(8 * GIB, share)
        assert abs(expected_bytes(0, fits, 1, share) - (8 * GIB - CONTEXT_BYTES)) <= 2
        assert max_variable_bytes(CONTEXT_BYTES, share) == 0
