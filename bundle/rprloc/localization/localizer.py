"""A model on a device, ready to learn from examples and to locate in other scans: the front door of the library."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from rprloc.annotation import Annotation, Example
from rprloc.detection import Detections
from rprloc.geometry import Grid
from rprloc.io.plausibility import image_warnings
from rprloc.io.reading import Scan
from rprloc.localization.confidence import Calibration, FieldEvidence, load_calibration
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.locate import check_support_set, detect
from rprloc.localization.marking import build_support
from rprloc.localization.matching import SearchField
from rprloc.localization.one_shot import with_self_error
from rprloc.localization.specks import leave_out_specks
from rprloc.localization.support import SupportSet
from rprloc.model.device import choose_device, run_on_device
from rprloc.model.field import PositionField, compute_position_field
from rprloc.model.network import RPRNet, load_model
from rprloc.model.shipped import CALIBRATION_FILE, find_weights
from rprloc.volume import Volume

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Localizer:
    """Learns organs and landmarks from annotated examples, and locates them in other scans.

    Make one with :meth:`load` and keep it: loading takes longer than locating. While it works, it sets the number of
    PyTorch's threads of this process for a moment, so use one Localizer from one thread at a time.

    Parameters
    ----------
    model : RPRNet
        The networks, on the device that does the work. Its weights must not change afterwards.
    calibration : Calibration, optional
        Expected errors and probabilities for these weights. Without one every organ gets a box, and a warning says so.
    config : LocalizationConfig
        How organs are learned and located; the calibration holds for the default.
    fall_back : bool
        Whether to go on with the CPU if the GPU's memory does not suffice.

    Examples
    --------
    >>> localizer = rprloc.Localizer.load(device="cpu")
    >>> example = rprloc.read_example(support_image, labels=support_labels, names={51: "heart"})
    >>> organs = localizer.learn(example)
    >>> found = localizer.locate(rprloc.read_volume(query_image), organs)
    >>> list(found.boxes)
    ['heart']
    """

    model: RPRNet
    calibration: Calibration | None = None
    config: LocalizationConfig = DEFAULT
    fall_back: bool = False

    @classmethod
    def load(cls, model: str | Path | None = None, device: str = "auto") -> Localizer:
        """The weights in a file and the calibration beside them, on a device.

        Parameters
        ----------
        model : str or path, optional
            The weights, ``model.pt`` of a bundle or a training run, or the name of a shipped model: ``research``, which
            is the default, or ``open``. ``rprloc models`` tells what each may be used for.
        device : {"auto", "cpu", "cuda"}
            ``auto`` takes a GPU if there is one that works, and goes on with the CPU if its memory does not suffice.

        Raises
        ------
        InputError
            If there are no such weights, the calibration beside them is damaged, or there is no such device.

        Examples
        --------
        >>> rprloc.Localizer.load(device="cpu").device_name
        'cpu'
        """
        weights = find_weights(model)
        localizer = cls.of(load_model(weights, choose_device(device)), weights, fall_back=device == "auto")
        _log.info("Model %s for %s on %s.", localizer.model_id, localizer.modality, localizer.device_name)
        return localizer

    @classmethod
    def of(cls, model: RPRNet, weights: Path | None = None, *, fall_back: bool = True) -> Localizer:
        """A model that is loaded already, with the calibration that lies beside its file of ``weights``.

        A calibration of other weights is left aside, and a warning is logged. Raises InputError for a damaged one.
        """
        localizer = cls(model, None if weights is None else load_calibration(weights), fall_back=fall_back)
        if localizer.calibration is not None and localizer.calibration.model_id != localizer.model_id:
            _log.warning("%s beside %s belongs to other weights and is not used.", CALIBRATION_FILE, weights)
            return replace(localizer, calibration=None)
        return localizer

    @cached_property
    def model_id(self) -> str:
        """The fingerprint of the weights; support sets carry it."""
        return self.model.identity()

    @property
    def modality(self) -> str:
        """What the weights are for: "CT", "MR" or "CT+MR"."""
        return self.model.modality

    @property
    def device_name(self) -> str:
        """The GPU's name, or cpu."""
        device = next(self.model.parameters()).device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def learn(self, example: Example) -> SupportSet:
        """The support set of one annotated example.

        Parameters
        ----------
        example : Example
            A scan with its annotation, as :func:`rprloc.read_example` reads it.

        Returns
        -------
        SupportSet
            With one support; :meth:`SupportSet.merge` puts several together. Its ``warnings`` doubt the example as
            those of :meth:`locate` doubt a query, and name organs that the scan cuts and specks that were left out.

        Notes
        -----
        Specks of a mask are left out: pieces that reach more than 10 mm beyond the box of the organ's large pieces and
        have less than 1 % of the voxels of the largest one, or fewer than 10 voxels and less than 10 %. Larger pieces
        as far out, of less than 20 %, are kept and told.

        Raises
        ------
        InputError
            If nothing is marked, the scan shows no body or surely is of another modality than the weights, or points
            lie outside of it or span no volume.

        Examples
        --------
        >>> localizer.learn(example).organs
        ['heart']
        """
        field = self.compute_position_field(example.volume)
        # An example that was made by hand, not read, has no warnings of its own.
        warnings = dict.fromkeys((*example.warnings, *self.warnings_of(example.volume)))
        return self.learn_in(field, example.volume.grid, example.annotation, example.name, warnings=tuple(warnings))

    def learn_in(
        self,
        field: PositionField,
        grid: Grid,
        annotation: Annotation,
        name: str,
        *,
        warnings: Sequence[str] = (),
    ) -> SupportSet:
        """:meth:`learn` from a scan on ``grid``, called ``name``, whose position field and ``warnings`` are known."""
        annotation, specks, doubted = leave_out_specks(annotation)
        support = build_support(field, grid, annotation, name, self.config)
        support = with_self_error(support, SearchField.of(field, self.config))
        doubts = () if self.calibration is None else self.calibration.doubts(FieldEvidence.of(field).as_a_whole(), ())
        organs = {name: replace(organ, doubt=doubted.get(name, "")) for name, organ in support.organs.items()}
        notes = (*warnings, *specks)
        return SupportSet(self.model_id, (replace(support, organs=organs, doubts=doubts, notes=notes),))

    def locate(self, scan: Scan | Volume, support_set: SupportSet, organs: Sequence[str] | None = None) -> Detections:
        """Locate organs and landmarks in a scan.

        Parameters
        ----------
        scan : Scan or Volume
            The query, as :func:`rprloc.read_scan` or :func:`rprloc.read_volume` reads it.
        support_set : SupportSet
            What was learned from examples with these weights.
        organs : sequence of str, optional
            The names of the organs and landmarks to locate; by default all of the set.

        Returns
        -------
        Detections
            A box for every organ and a point for every landmark that is likely in the scan, in RAS mm, with its
            expected error, and warnings: reasons to doubt the scan.

        Raises
        ------
        InputError
            If the set belongs to other weights or lacks what is asked for, or if the scan shows no body or surely is of
            another modality than the weights.

        Examples
        --------
        >>> found = localizer.locate(volume, organs)
        >>> found["heart"].box.size_mm.shape
        (3,)
        """
        self.check(support_set, organs)
        volume, warnings = scan.volume if isinstance(scan, Scan) else scan, self.warnings_of(scan)
        started = time.perf_counter()
        detections = run_on_device(
            self.model,
            lambda: self.locate_in(
                compute_position_field(self.model, volume), volume.name, support_set, organs, warnings=warnings
            ),
            fall_back=self.fall_back,
        )
        return replace(detections, seconds=time.perf_counter() - started, grid=volume.grid)

    def locate_in(
        self,
        field: PositionField,
        query: str,
        support_set: SupportSet,
        organs: Sequence[str] | None = None,
        *,
        warnings: Sequence[str] = (),
    ) -> Detections:
        """:meth:`locate` in the scan named ``query`` whose position field and ``warnings`` are known."""
        self.check(support_set, organs)
        detections = detect(field, query, support_set, organs, calibration=self.calibration, config=self.config)
        return replace(detections, warnings=(*warnings, *detections.warnings))

    def check(self, support_set: SupportSet, organs: Sequence[str] | None = None) -> None:
        """Raise InputError if the set belongs to other weights or lacks what is asked for."""
        check_support_set(support_set, self.model_id, organs)

    def warnings_of(self, scan: Scan | Volume) -> tuple[str, ...]:
        """What was done to a scan when it was read, and reasons to doubt that it is an ordinary one for the weights."""
        volume, notes = (scan.volume, scan.notes) if isinstance(scan, Scan) else (scan, ())
        return (*notes, *image_warnings(volume, self.model.modality_of(volume)))

    def compute_position_field(self, volume: Volume) -> PositionField:
        """What localization needs of a scan, computed once.

        Raises InputError if the scan shows no body, or surely is of another modality than the weights.
        """
        return run_on_device(self.model, lambda: compute_position_field(self.model, volume), fall_back=self.fall_back)
