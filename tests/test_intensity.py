"""Hounsfield units as the networks see them: windows and thresholds are what their descriptions say."""

from __future__ import annotations

import numpy as np
import pytest

from rprloc import intensity
from rprloc.intensity import input_of_hu, to_network_input


@pytest.mark.parametrize(
    ("hu", "expected"),
    [
        (-1024.0, 0.0),
        (-1000.0, 0.0),
        (-600.0, 0.1),
        (-200.0, 0.2),
        (50.0, 0.5),
        (300.0, 0.8),
        (1500.0, 1.0),
        (3000.0, 1.0),
    ],
)
def test_the_input_of_known_values(hu: float, expected: float) -> None:
    """By hand: a line through (-1000, 0), (-200, 0.2), (300, 0.8) and (1500, 1)."""
    assert input_of_hu(hu) == pytest.approx(expected)
    assert to_network_input(np.array([hu])) == pytest.approx(expected)


def test_windows_and_thresholds_lie_where_their_descriptions_say() -> None:
    low, high = intensity.REGISTRATION_WINDOW
    assert (low, high) == (pytest.approx(0.26), pytest.approx(0.776))
    assert intensity.GREY_VALUE_WINDOW[0] == low and intensity.GREY_VALUE_WINDOW[1] == pytest.approx(
        input_of_hu(283.3), abs=1e-4
    )
    assert (pytest.approx(0.29), high) == intensity.DISPLAY_WINDOW
    assert input_of_hu(-880.0) == pytest.approx(intensity.BODY_INPUT)
    assert input_of_hu(-600.0) == pytest.approx(intensity.DENSE_BODY_INPUT)
    assert low + intensity.SOFT_TISSUE_SHARE * (high - low) == pytest.approx(input_of_hu(-85.5), abs=1e-4)
