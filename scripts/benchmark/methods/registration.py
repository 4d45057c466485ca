"""Label transfer by registration: affine, and affine then B-spline, of the example's scan to the query (SimpleITK)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from rprloc.geometry import Box, Points, lps_from_ras, ras_from_lps
from rprloc.volume import Volume, to_sitk
from scripts.benchmark.circumstances import read_clock
from scripts.benchmark.registry import Example, Localization, Method, Row, face_centres, register
from scripts.benchmark.scans import SPACING_MM, Scan

_GRID_MM = 60.0
_SAMPLES = 0.1


@dataclass(frozen=True, eq=False)
class Labelled:
    """An example's image at 3 mm, its body, and of every organ the voxels' places (N, 3) and half extent (3,) in mm."""

    image: sitk.Image
    body: sitk.Image
    organs_ras: dict[str, Points]
    half_voxel_mm: np.ndarray


@register
class Registration(Method):
    name = "registration"
    rows = (
        Row(
            "affine",
            3,
            remark="affine registration by mutual information (SimpleITK), then label transfer",
            strength="Bones and outline fix the pose of the whole scan, and heads differ by little more than that.",
        ),
        Row(
            "bspline",
            3,
            remark=f"the same, then B-splines with a knot every {_GRID_MM:.0f} mm",
            strength="It moves the organ's whole contour, not six points.",
        ),
    )

    def prepare(self, example: Example, organs: Sequence[str]) -> Labelled:
        image = _image(example.volume)
        body = sitk.Cast(sitk.BinaryDilate(image > 0.05, [2, 2, 2]), sitk.sitkUInt8)
        grid = example.volume.grid
        organs_ras = {organ: grid.ras(np.argwhere(example.mask(organ))) for organ in organs}
        return Labelled(image, body, organs_ras, grid.half_voxel_ras_mm)

    def locate(
        self, prepared: Sequence[Labelled], query: Volume, organs: Sequence[str], shots: str = "one"
    ) -> dict[str, Localization]:
        example = prepared[0]
        started = read_clock()
        image = _image(query)
        affine = _register(example, image, _first_guess(example.image, image), shrink=(6, 4, 2), rounds=60)
        results = {"affine": Localization(_transfer(example, affine, organs), read_clock() - started)}
        knots = [max(1, round(n * SPACING_MM / _GRID_MM)) for n in example.image.GetSize()]
        bspline = sitk.BSplineTransformInitializer(example.image, knots, 3)
        bent = _register(example, image, bspline, shrink=(4, 2), rounds=25, before=affine)
        both = sitk.CompositeTransform([affine, bent])  # the last one is applied to points first
        results["bspline"] = Localization(_transfer(example, both, organs), read_clock() - started)
        return results


def _image(volume: Volume) -> sitk.Image:
    scan = Scan.of(volume)
    return to_sitk(scan.image.astype(np.float32) / 255.0, scan.grid)


def _first_guess(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    return sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )


def _register(
    example: Labelled, query: sitk.Image, start: sitk.Transform, *, shrink: tuple[int, ...], rounds: int,
    before: sitk.Transform | None = None,
) -> sitk.Transform:  # fmt: skip
    """The transform from the example's points to the query's, from coarse to fine images."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLES, seed=1)
    method.SetMetricFixedMask(example.body)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([float(factor) for factor in shrink])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    if before is not None:
        method.SetMovingInitialTransform(before)
        method.SetOptimizerAsLBFGSB(numberOfIterations=rounds, maximumNumberOfFunctionEvaluations=2 * rounds)
    else:
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, rounds, relaxationFactor=0.7)
        method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(example.image, query)


def _transfer(example: Labelled, transform: sitk.Transform, organs: Sequence[str]) -> dict[str, Points]:
    """The boxes of the organs' voxels, moved into the query."""
    points_ras = {}
    for organ in organs:
        moved_lps = [transform.TransformPoint(point) for point in lps_from_ras(example.organs_ras[organ]).tolist()]
        moved_ras = ras_from_lps(moved_lps)
        box = Box(moved_ras.min(0) - example.half_voxel_mm, moved_ras.max(0) + example.half_voxel_mm)
        points_ras[organ] = face_centres(box)
    return points_ras
