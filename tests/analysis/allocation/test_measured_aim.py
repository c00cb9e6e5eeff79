from compresskit.analysis.allocation.measured_aim import best_share, next_aim


def test_the_next_aim_lies_between_what_was_too_slow_and_too_fast():
    assert next_aim([(0.8, 0.5)], 0.5) < 0.5  # too slow: aim lower
    assert next_aim([(0.99, 0.5)], 0.5) >= 0.25  # but at most half
    assert 0.3 < next_aim([(0.8, 0.5), (0.4, 0.3)], 0.5) < 0.5
    assert 0.5 < next_aim([(0.3, 0.5)], 0.5) < 1  # too fast: towards the whole model
    assert next_aim([(1.03, 0.5)], 0.9) == 0.25  # slower than the whole model: well below what was predicted
    assert next_aim([(1.03, 0.5), (1.05, 0.25)], 0.9) == 0.125


def test_the_slowest_cut_that_meets_the_target_is_taken_else_the_fastest():
    tried = [(0.6, 0.5, "a"), (0.45, 0.4, "b"), (0.3, 0.2, "c")]
    assert best_share(tried, 0.5)[2] == "b"
    assert best_share(tried[:1], 0.5)[2] == "a"
