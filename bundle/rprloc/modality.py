"""What depends on the modality, CT or MR: voxels as the networks' input, what is plausible, what pictures show.

Weights belong to one modality, or to both, and say so. Beyond the networks' input, in [0, 1], and the atlas that a
scan is registered to, nothing knows it any more: tissue of either takes the range that the windows and thresholds of
``intensity.py`` expect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.intensity import AIR_HU, PICTURE_WINDOW_HU, find_display_window_air, to_network_input

Values = NDArray[np.generic]

_LOOKED_AT = 2e6  # voxels, about
_BELOW_ZERO = -50.0  # no scanner writes MR that is darker
_TISSUE_PERCENTILES = (50.0, 95.0)
_TISSUE_INPUTS = (0.2, 0.5, 0.8)  # of the darkest tissue and of these percentiles; CT's soft tissue takes this range
_FEW_VALUES = 8
_BINS = 1024  # so many that rounding, which may move the threshold by one, does not matter


class Doubt(NamedTuple):
    """A reason to doubt a scan, and whether it can be used nevertheless."""

    text: str
    usable: bool


class Modality(ABC):
    """One kind of scan. ``values`` are a scan's voxels (I, J, K) as they are stored, of any number type."""

    name: str
    """As DICOM calls it."""
    usable_form: str
    """In which form scans can be used."""
    fill: float
    """What :meth:`to_input` takes for places outside of the scan."""

    def takes(self, said: str) -> bool:
        """Whether this modality may be that of a scan that ``said``, as DICOM calls it, what it is; "" says nothing.

        All that compares a scan with weights asks here. Of what is not taken, people are told;
        :meth:`sign_of_another` tells what is refused.

        Examples
        --------
        >>> from rprloc.modality import CT
        >>> CT.takes("CT"), CT.takes(""), CT.takes("MR"), CT.takes("PT")
        (True, True, False, False)
        """
        return said in ("", self.name)

    @abstractmethod
    def to_input(self, resampled: NDArray[np.float32], values: Values) -> NDArray[np.float32]:
        """The networks' input in [0, 1] of a scan at network spacing, 0 for air and outside of the scan."""

    @abstractmethod
    def find_doubt(self, values: Values) -> Doubt | None:
        """The reason to doubt that the values are of this modality; None for ordinary scans."""

    @abstractmethod
    def sign_of_another(self, values: Values, said: str) -> str | None:
        """What tells that the scan surely is of another modality, as words that follow its name; None if it may be of
        this one. ``said`` is what its file says.
        """

    @abstractmethod
    def picture_window(self, values: Values) -> tuple[float, float]:
        """The values that are black and white in pictures."""

    @abstractmethod
    def darkest(self, values: Values) -> float:
        """What stands for places outside of the scan in pictures."""


class _CT(Modality):
    """Hounsfield units."""

    name, fill = "CT", AIR_HU
    usable_form = "CT in Hounsfield units, with its rescale slope and intercept applied"

    def to_input(self, resampled: NDArray[np.float32], values: Values) -> NDArray[np.float32]:
        return to_network_input(resampled, find_display_window_air(values))

    def sign_of_another(self, values: Values, said: str) -> str | None:
        return "says that it is MR" if said == MR.name and not _is_surely_ct(_some(values)) else None

    def find_doubt(self, values: Values) -> Doubt | None:
        hu = _some(values)
        hu = hu[hu >= -1100.0]  # without padding
        if len(hu) == 0:
            return Doubt("No voxel is above -1100 HU, so the image cannot be CT. Use the original CT.", False)
        low, high = float(hu.min()), float(hu.max())
        span = f"values run from {low:g} to {high:g}"
        if low > _BELOW_ZERO:
            dense = hu[hu > 500.0]
            if len(dense) > 0.01 * len(hu) and np.mean((dense > 850.0) & (dense < 1250.0)) > 0.6:
                return Doubt(
                    f"The image looks like CT stored with an offset of about 1000 or 1024 (its {span}, soft tissue "
                    f"near {np.median(dense):.0f}). Apply the rescale intercept to it, which gives Hounsfield units.",
                    False,
                )
            return Doubt(
                f"The image does not look like CT: its {span}, as in MR or an 8-bit picture, with nothing near "
                "air's -1000 HU. Use the original CT, in Hounsfield units; if it is MR, weights for MR, such as ct-mr.",
                False,
            )
        if low > -800.0:
            if np.mean(hu <= low + 2.0) > 0.01:
                return Doubt(
                    f"The image seems to have been saved through a display window (its {span}), which cuts off lung or "
                    "bone. It can be used, but the original Hounsfield units may give better boxes.",
                    True,
                )
            return Doubt(
                f"The image holds no air: its {span}, while CT shows about -1000 HU around the body. "
                "If it is not CT in Hounsfield units, use the original CT.",
                True,
            )
        if np.mean((hu > -200.0) & (hu < 300.0)) < 0.05:
            return Doubt(
                f"Few voxels have values of soft tissue (-200 to 300 HU; the {span}). The image may not be in "
                "Hounsfield units, or its rescale intercept may have been applied twice. Use the original CT.",
                False,
            )
        return None

    def picture_window(self, values: Values) -> tuple[float, float]:
        return PICTURE_WINDOW_HU

    def darkest(self, values: Values) -> float:
        return AIR_HU


class _MR(Modality):
    """Intensities on a scale of each scan's own, air dark: nothing here changes if they are multiplied or shifted."""

    name, fill = "MR", float("nan")
    usable_form = "an MR scan itself, and no map, mask or phase image"

    def to_input(self, resampled: NDArray[np.float32], values: Values) -> NDArray[np.float32]:
        knots, inputs = _tissue_scale(resampled[np.isfinite(resampled)])
        # nan, outside of the scan, goes where air goes
        return np.nan_to_num(np.interp(resampled, knots, inputs), nan=0.0).astype(np.float32)

    def sign_of_another(self, values: Values, said: str) -> str | None:
        if said == CT.name:
            return "says that it is CT"
        return "holds Hounsfield units, as CT does" if _is_surely_ct(_some(values)) else None

    def find_doubt(self, values: Values) -> Doubt | None:
        some = _some(values)
        span = f"values run from {some.min():g} to {some.max():g}"
        if _reaches_below_zero(values):
            return Doubt(
                f"The image may not be MR: its {span}, and MR has nothing far below zero. "
                "If it is CT, use weights for CT.",
                False,
            )
        if _is_surely_ct(some - 1024.0, tissue_share=0.75):  # MR of such a scale had up to 0.64, CT from 0.88
            return Doubt(
                f"The image looks like CT stored with an offset of about 1000 or 1024 (its {span}). Apply the rescale "
                "intercept to it, which gives Hounsfield units, and use weights that are for CT.",
                False,
            )
        count = len(np.unique(some))
        if count <= _FEW_VALUES:
            return Doubt(
                f"The image has no more than {count} different values, as a label map or a mask has. "
                "Use the scan itself.",
                False,
            )
        return None

    def picture_window(self, values: Values) -> tuple[float, float]:
        low, high = np.percentile(_some(values), (1.0, 99.5))
        return float(low), float(max(high, low + 1e-6 * max(1.0, abs(low))))

    def darkest(self, values: Values) -> float:
        return self.picture_window(values)[0]


CT, MR = _CT(), _MR()
MODALITIES: dict[str, Modality] = {modality.name: modality for modality in (CT, MR)}
WEIGHTS_FOR = (*MODALITIES, "CT+MR")
"""What weights may be for. Those for both find in scans of either what was marked in scans of either."""


def modalities_named(name: str) -> tuple[Modality, ...]:
    """The modalities of weights for ``name``, one of WEIGHTS_FOR. Raises InputError for one that is not known."""
    if name not in WEIGHTS_FOR:
        raise InputError(
            f"The modality {name!r} is not known. RPR-Loc knows {', '.join(WEIGHTS_FOR)}; a newer version may know "
            "others."
        )
    return tuple(MODALITIES[one] for one in name.split("+"))


def modality_among(modalities: Sequence[Modality], values: Values, said: str) -> Modality:
    """As what weights for some modalities see a scan: as the only one, or as the one that it seems to be.

    That is not what its file says if the values surely are of the other, as of CT that was computed from MR.
    """
    if len(modalities) == 1:
        return modalities[0]
    seems = guess_modality(values, said)
    return next((one for one in (seems, *modalities) if one.sign_of_another(values, said) is None), seems)


def guess_modality(values: Values, said: str) -> Modality:
    """The modality of a scan where no weights tell it, as for pictures: what its file says, else as its values look."""
    return MODALITIES.get(said) or (CT if _reaches_below_zero(values) else MR)


def _some(values: Values) -> NDArray[np.float32]:
    """About two million voxels at most, evenly spread."""
    step = max(1, int(np.ceil((values.size / _LOOKED_AT) ** (1 / 3))))
    return np.asarray(values[::step, ::step, ::step], np.float32).ravel()


def _reaches_below_zero(values: Values) -> bool:
    """Whether more voxels are far below zero than those to which some program's interpolation has led."""
    return bool(np.mean(_some(values) < _BELOW_ZERO) > 0.01)


def _is_surely_ct(hu: NDArray[np.float32], tissue_share: float = 0.6) -> bool:
    """Whether there are air near -1000 and soft tissue near 0 HU, and little that is darker than fat and no lung."""
    dense, solid = hu[hu > -900.0], hu[hu > -500.0]
    if len(solid) < 0.01 * len(hu) or np.mean(hu < -950.0) < 0.01:
        return False
    tissue, between = (solid > -200.0) & (solid < 300.0), (dense > -700.0) & (dense < -300.0)
    return bool(tissue.mean() > tissue_share and between.mean() < 0.15)


def _tissue_scale(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Values of an MR scan and the inputs for them, between which lines run.

    Air is told from tissue by Otsu's threshold. Of the cube root: the values of tissue have a long bright tail, and
    muscle and suppressed fat would go to the air. Air has noise, so what lies up to halfway between it and the darkest
    tissue is 0, too.
    """
    values = values.astype(np.float64)
    if values.size == 0:
        return np.array([0.0, 1.0]), (0.0, 0.0)
    low, high = np.percentile(values, (0.5, 99.0))
    if high <= low:
        return np.array([0.0, 1.0]), (0.0, 0.0)
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetNumberOfHistogramBins(_BINS)
    otsu.Execute(sitk.GetImageFromArray(np.cbrt(((values - low) / (high - low)).clip(0.0, 1.0))[None]))
    darkest = low + otsu.GetThreshold() ** 3 * (high - low)
    is_tissue = values > darkest
    air = float(np.median(values[~is_tissue])) if not is_tissue.all() else low
    usual, bright = np.percentile(values[is_tissue], _TISSUE_PERCENTILES)
    bright = max(bright, usual + 1e-3 * (usual - air))
    knots = np.array([0.5 * (air + darkest), darkest, usual, bright, 2.0 * bright - usual])
    return knots, (0.0, *_TISSUE_INPUTS, 1.0)
