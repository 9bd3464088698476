from eatnas_db.domain.activations import count_activations
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro, Task
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


def test_estimate_uses_parameters_activations_and_batch_size():
    assert variable_bytes(1_000_000, 10_000, 64) == 16_000_000 + 4 * 640_000
    assert variable_bytes(1_000_000, 10_000, 64, "bfloat16") == 16_000_000 + 2 * 640_000
    assert expected_bytes(1_000_000, 10_000, 64, None) == variable_bytes(1_000_000, 10_000, 64)


def test_measured_share_corrects_the_estimate_with_a_margin():
    estimated = variable_bytes(0, GIB, 1)
    share = measured_share_of_estimate(peak_bytes=GIB + WORKSPACES_BYTES, images_bytes=0, estimated_bytes=estimated)
    assert share == 0.25
    assert expected_bytes(0, GIB, 1, share) == int(GIB * MEASURED_SHARE_MARGIN)


def test_images_and_workspaces_do_not_count_as_the_network():
    sizes = {"peak_bytes": 300 << 20, "estimated_bytes": 72 << 20}
    assert measured_share_of_estimate(images_bytes=100 << 20, **sizes) == 1.0
    assert measured_share_of_estimate(images_bytes=250 << 20, **sizes) == MIN_MEASURED_SHARE


def test_activations_of_a_small_network_are_counted():
    macro = Macro("one", stem_channels=4, stem_stride=1, strides=(2,), base=(6,), head_channels=8)
    task = Task(8, 1, 10)
    kept = 64 + 2 * 4 * 64 + 2 * (12 * 64 + 12 * 16 + 6 * 16) + 6 * 16 + 2 * 8 * 16
    counted = count_activations(Architecture.parse("mb3_k3_d1_w1.0_skip"), macro, task)
    validation = 4 * (4 * 64 + 2 * 12 * 64)
    assert counted == max(kept + 6 * 16 + 8 * 16, validation)
    small, large = (count_activations(Architecture.parse("sep_k3_d1_w1.0"), macro, Task(s, 1, 10)) for s in (8, 16))
    assert large == 4 * small


def test_largest_training_fits_and_none_fits_without_a_context():
    for share in (None, 0.1, 2.0):
        fits = max_variable_bytes(8 * GIB, share)
        assert abs(expected_bytes(0, fits // 4, 1, share) - (8 * GIB - CONTEXT_BYTES)) <= 8
        assert max_variable_bytes(CONTEXT_BYTES, share) == 0
