"""Joint values by name and within their ranges."""

import numpy as np
import pytest

from pi05_progress.robots.joints import MessageError, clipped, ordered

NAMES = [f"l_joint{i}" for i in range(1, 8)]


def test_names_may_come_in_any_order_or_not_at_all():
    values = [1.0, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(ordered(NAMES[::-1], values[::-1], NAMES, "cmd"), values)
    np.testing.assert_array_equal(ordered([], values, NAMES, "cmd"), values)


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        ([], [0.0] * 6, "needs 7 values, got 6"),
        ([], [0.0] * 6 + [float("nan")], "not finite"),
        ([*NAMES[:6], "elbow"], [0.0] * 7, "joints l_joint7 are missing; it names .*elbow"),
        ([*NAMES[:6], "l_joint1"], [0.0] * 7, "l_joint1 named more than once"),
    ],
)
def test_bad_commands_say_what_is_wrong(names, values, message):
    with pytest.raises(MessageError, match=message):
        ordered(names, values, NAMES, "cmd")


def test_out_of_range_is_clipped_and_named():
    inside, notes = clipped(np.array([0.0, 3.0]), np.array([[-1, 1], [-1, 2]]), ["a", "b"])
    np.testing.assert_array_equal(inside, [0, 2])
    assert notes == ["b 3.000 -> 2.000"]
