"""Template matching on grey values: the window of a scan that is most like a template, by sliding and through FFTs.

Scans and templates are 8-bit integers, so all sums are integers: the FFT in double precision, rounded, gives the very
number that sliding gives, and both forms find the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

SIMILARITIES = ("mse", "cosine", "ncc")

Bytes = NDArray[np.uint8]
Lattice = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sums:
    """What all similarities are made of, for windows (A, B, C) of ``size`` voxels and a template.

    ``cross``: sum of window times template. ``image``, ``image2``: sums of the window and of its square.
    """

    size: int
    cross: Lattice
    image: Lattice
    image2: Lattice
    template: float
    template2: float

    def score(self, similarity: str) -> Lattice:
        """How alike they are (A, B, C), larger for more alike: minus the mean square error, the cosine, or the NCC.

        Cosine and NCC of a window without any contrast are 0.
        """
        if similarity == "mse":
            return -(self.image2 - 2.0 * self.cross + self.template2) / self.size
        if similarity == "cosine":
            return _ratio(self.cross, self.image2 * self.template2)
        if similarity == "ncc":
            # Both factors times the size, so that they stay integers.
            covariance = self.size * self.cross - self.image * self.template
            variances = (self.size * self.image2 - self.image**2) * (self.size * self.template2 - self.template**2)
            return _ratio(covariance, variances)
        raise ValueError(f"similarity must be one of {SIMILARITIES}, got {similarity!r}")


def _ratio(numerator: Lattice, squared: Lattice) -> Lattice:
    return np.divide(numerator, np.sqrt(squared), out=np.zeros_like(numerator), where=squared > 0)


def best_place(score: Lattice) -> NDArray[np.int64]:
    """Index (3,) of the largest score; the first one in array order of several."""
    return np.array(np.unravel_index(int(np.argmax(score)), score.shape))


def windows_shape(shape: Sequence[int], template: Sequence[int], stride: int) -> tuple[int, ...]:
    """How many windows (A, B, C) of a template's shape fit into an image."""
    return tuple((n - t) // stride + 1 for n, t in zip(shape, template, strict=True))


def sums_at(window: Bytes, template: Bytes) -> tuple[int, int, int]:
    """Sum of the products, of the window and of its square: one stop of the sliding window."""
    a, b = window.astype(np.int64), template.astype(np.int64)
    return int((a * b).sum()), int(a.sum()), int((a * a).sum())


def sliding_sums(image: Bytes, template: Bytes, stride: int) -> Sums:
    """The sums of all windows, one after the other, as in the paper."""
    shape = windows_shape(image.shape, template.shape, stride)
    sums = np.zeros((3, *shape))
    for index in np.ndindex(*shape):
        box = tuple(slice(stride * a, stride * a + t) for a, t in zip(index, template.shape, strict=True))
        sums[(slice(None), *index)] = sums_at(image[box], template)
    return _with_template(sums[0], sums[1], sums[2], template)


class FourierMatcher:
    """An image in which many templates of one shape are sought.

    The windows' places are a stride apart, so the correlation splits into stride^3 correlations of every stride-th
    voxel, which are summed up before the one inverse transform.
    """

    def __init__(self, image: Bytes, template_shape: Sequence[int], stride: int) -> None:
        self.stride, self.template_shape = stride, tuple(template_shape)
        self.shape = windows_shape(image.shape, template_shape, stride)
        self._size = tuple(fft.next_fast_len(-(-n // stride), real=True) for n in image.shape)
        self._spectra = [self._spectrum(image[phase]) for phase in self._phases()]
        self._image = self._window_sums(image)
        self._image2 = self._window_sums(image.astype(np.int64) ** 2)

    def sums(self, template: Bytes) -> Sums:
        """The sums of all windows with a template. Raises ValueError for one of another shape."""
        if template.shape != self.template_shape:
            raise ValueError(f"templates of shape {self.template_shape} were announced, got {template.shape}")
        total: NDArray[np.complex128] | None = None
        for phase, spectrum in zip(self._phases(), self._spectra, strict=True):
            product = np.conj(self._spectrum(template[phase]))
            product *= spectrum
            total = product if total is None else np.add(total, product, out=total)
        cross = fft.irfftn(total, self._size, overwrite_x=True)[tuple(slice(n) for n in self.shape)]
        return _with_template(np.rint(cross), self._image, self._image2, template)

    def _phases(self) -> list[tuple[slice, ...]]:
        return [tuple(slice(first, None, self.stride) for first in phase) for phase in np.ndindex(*[self.stride] * 3)]

    def _spectrum(self, values: Bytes) -> NDArray[np.complex128]:
        """The transform of values in zeros; axis by axis, as most lines of a small template are zero."""
        spectrum = fft.rfft(values.astype(np.float64), self._size[2], axis=2)
        spectrum = fft.fft(spectrum, self._size[1], axis=1, overwrite_x=True)
        return fft.fft(spectrum, self._size[0], axis=0, overwrite_x=True)

    def _window_sums(self, values: NDArray[np.integer]) -> Lattice:
        """The sum over every window, by differences of cumulative sums along each axis."""
        sums = values.astype(np.int64)
        for axis, (edge, count) in enumerate(zip(self.template_shape, self.shape, strict=True)):
            zero = np.zeros_like(sums.take([0], axis))
            running = np.concatenate([zero, sums.cumsum(axis)], axis)
            first = np.arange(count) * self.stride
            sums = running.take(first + edge, axis) - running.take(first, axis)
        return sums.astype(np.float64)


def _with_template(cross: Lattice, image: Lattice, image2: Lattice, template: Bytes) -> Sums:
    values = template.astype(np.int64)
    return Sums(template.size, cross, image, image2, float(values.sum()), float((values * values).sum()))
