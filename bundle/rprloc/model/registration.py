"""The body frame and how a scan gets into it: registration of its grey values to the body atlas.

The atlas is the mean of all training scans in their common body frame (``alignment.py``); no label had part in it. A
scan's map to the frame starts from the pose that the coarse Pnet sees and is improved by gradient descent on the
squared difference of what both look like, first as an affine map, then with a smooth displacement on top. That is done
twice, by grey values and by local contrast, and the mean is taken. Training aligns its scans by grey values alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.descent import Places, improve
from rprloc.model.device import small_steps
from rprloc.model.looks import RegistrationImage, Stage, Stages, grey, local_contrast, smooth_contrast, smooth_grey

_RATES_MM, _LAST_RATES_MM = (1.5, 3.0), (1.0, 1.5)  # the last stage goes slowly, for the sake of steadiness

# Steps, controls, roughness, looks and rates: docs/experiments.md, E5 to E7, E29 and E32.
BY_GREY: Stages = (
    Stage(30, None, grey, rates_mm=_RATES_MM),
    Stage(30, 64.0, grey, 3.5, _RATES_MM),
    Stage(40, 32.0, grey, 3.5, _RATES_MM),
    Stage(60, 20.0, grey, 3.5, _LAST_RATES_MM),
)

BY_CONTRAST: Stages = (
    Stage(30, None, smooth_grey, rates_mm=_RATES_MM),
    Stage(30, 64.0, smooth_contrast, 1.75, _RATES_MM),
    Stage(40, 32.0, local_contrast, 1.75, _RATES_MM),
    Stage(60, 20.0, local_contrast, 1.75, _LAST_RATES_MM),
)

_FURTHER = 1.1
"""A displacement that is to be smooth falls short of the true one: by this it goes further (E7, E32)."""


def register_query(picture: RegistrationImage, atlas: BodyAtlas, pose: BodyMap) -> BodyMap:
    """The map of a query scan to the body frame: the mean of two registrations, whose errors are not the same ones;
    its displacement goes _FURTHER.
    """
    maps = register_side_by_side(picture, atlas, pose, (BY_GREY, BY_CONTRAST))
    return BodyMap(
        np.mean([body_map.body_from_ras for body_map in maps], axis=0),
        np.float32(_FURTHER) * np.mean([body_map.displacement_mm for body_map in maps], axis=0),
        maps[0].control_grid,
    )


def register(picture: RegistrationImage, atlas: BodyAtlas, start: BodyMap, stages: Stages) -> BodyMap:
    """The map of a scan to the body frame, improved from ``start``."""
    return register_side_by_side(picture, atlas, start, (stages,))[0]


@small_steps()
def register_side_by_side(
    picture: RegistrationImage, atlas: BodyAtlas, start: BodyMap, courses: Sequence[Stages]
) -> tuple[BodyMap, ...]:
    """Maps of a scan to the body frame, improved from ``start`` side by side: one for each of the courses, whose stages
    may differ in what they compare and in roughness alone. On the CPU always, and deterministic on one machine.

    Adam on the mean squared difference of looks between voxels near the body and the atlas where it is known, plus the
    displacement's roughness; its steps shrink to nothing over every stage. The gradient is written out: by PyTorch's
    autograd the same steps take six times as long.
    """
    places = Places.of(picture)
    maps = [start] * len(courses)
    for alike in zip(*courses, strict=True):
        ((steps, control_mm, rates_mm),) = {(stage.steps, stage.control_mm, stage.rates_mm) for stage in alike}
        maps = improve(places, picture, atlas, maps, steps, control_mm, rates_mm, alike)
    return tuple(maps)
