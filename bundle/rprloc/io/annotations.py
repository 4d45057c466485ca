"""Annotated examples from files: a scan and what is marked on it, in whatever form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from numpy.typing import ArrayLike

from rprloc.annotation import (
    Annotation,
    Example,
    Marking,
    Mask,
    describe_missing,
    lie_inside,
    scan_pseudonym,
)
from rprloc.errors import InputError
from rprloc.files import readable
from rprloc.geometry import Grid, Points, extreme_points_of_mask
from rprloc.io.annotation_forms import open_annotation
from rprloc.io.formats import scan_name
from rprloc.io.label_names import read_names
from rprloc.io.landmarks import read_landmarks_with_notes
from rprloc.io.markups import read_extreme_points
from rprloc.io.reading import Scan, read_scan
from rprloc.io.standard_names import names_alike, standard_name
from rprloc.io.structures import Marked, Structure, listed

Paths = str | Path | Sequence[str | Path]
Names = Mapping[int, str] | Mapping[str, str] | Mapping[int | str, str]


def read_example(
    image: str | Path,
    *,
    labels: Paths | None = None,
    names: Names | str | Path | None = None,
    organs: Sequence[str] | None = None,
    standard_names: bool = False,
    markups: Mapping[str, str | Path] | None = None,
    points: Mapping[str, ArrayLike] | None = None,
    landmarks: Mapping[str, ArrayLike] | str | Path | None = None,
    name: str | None = None,
    series_uid: str | None = None,
) -> Example:  # long for its description alone
    """A scan and what is marked on it, to learn from.

    The organs come from files of any form, or from one Markups file for each, or as points.

    Parameters
    ----------
    image : path
        The scan, as for :func:`read_scan`.
    labels : path or sequence of paths, optional
        What marks the organs, in any form that :func:`read_annotation` knows, such as a label map or a DICOM RT
        structure set.
    names : mapping or path, optional
        The organ of each label, such as ``{1: "spleen"}``, new names of structures, or a JSON file with them; as for
        :func:`read_annotation`.
    organs : sequence of str, optional
        Only these organs of the labels.
    standard_names : bool
        Whether organs of the labels get their standard names.
    markups : mapping of str to path, optional
        For each organ a Markups file of 3D Slicer with its six extreme points, or with an ROI around it.
    points : mapping of str to (6, 3) array, optional
        For each organ its six extreme points in RAS mm, in any order.
    landmarks : mapping of str to (3,) array, or path, optional
        For each landmark its point in RAS mm, or a file with them, as for :func:`read_landmarks`; alone or beside
        organs.
    name : str, optional
        What the scan is called in support sets; by default a pseudonym made from its voxels.
    series_uid : str, optional
        Which of several DICOM series is meant.

    Returns
    -------
    Example
        The scan, its organs with six extreme points (6, 3) each in RAS mm, and their masks, where these are known.
        ``example.annotation.notes`` tells what was read from each file and what was left out.

    Raises
    ------
    InputError
        If a file cannot be used, belongs to another scan or lacks a named organ, or if nothing is marked, or organs
        are marked in several ways at once.

    Examples
    --------
    >>> example = rprloc.read_example(support_image, labels=support_labels, names={51: "heart"})
    >>> list(example.annotation.points_ras)
    ['heart']
    """
    ways = [labels is not None, markups is not None, points is not None]
    of_labels = names is not None or organs is not None or standard_names
    if sum(ways) > 1 or not (any(ways) or landmarks is not None) or (labels is None and of_labels):
        raise InputError(
            "The organs of an example are marked in one way: by labels (whose organs may be named and chosen), by "
            "Markups files, or by points. Give one of these, or landmarks, or both."
        )
    scan = read_scan(image, series_uid=series_uid)
    if labels is not None:
        annotation = read_annotation(labels, scan, names=names, organs=organs, standard_names=standard_names)
    elif markups is not None:
        annotation = Annotation.from_points({organ: read_extreme_points(path) for organ, path in markups.items()})
    else:
        annotation = Annotation.from_points(points or {})
    if landmarks is not None:
        marked, notes = (
            read_landmarks_with_notes(landmarks, scan) if isinstance(landmarks, (str, Path)) else (landmarks, ())
        )
        marked_ras = Annotation.from_landmarks(marked).landmarks_ras
        annotation = replace(annotation, landmarks_ras=marked_ras, notes=(*annotation.notes, *notes))
    return Example(scan.volume, annotation, scan_pseudonym(scan.volume) if name is None else name, scan.notes)


def read_annotation(
    labels: Paths,
    scan: Scan,
    *,
    names: Names | str | Path | None = None,
    organs: Sequence[str] | None = None,
    standard_names: bool = False,
) -> Annotation:  # long for its description alone
    """The organs that files of any form mark on a scan.

    The form is found out from what a file holds:

    - a label map on the scan's grid (NIfTI, NRRD, MetaImage), with names or with ``NAME.json`` beside ``NAME.nii.gz``
    - a folder of such files with one organ each, which are called like the organs
    - a segmentation of 3D Slicer (``.seg.nrrd``)
    - a DICOM RT structure set or a DICOM segmentation: a file, or a folder or zip file that holds it
    - a Markups file of 3D Slicer, with six points or an ROI for each organ

    Parameters
    ----------
    labels : path or sequence of paths
        The files or folders. An organ may be in one of them only.
    scan : Scan
        The scan that they belong to.
    names : mapping or path, optional
        What structures are called from now on: by the number of a label, ``{1: "spleen"}``, or by the name in the file,
        ``{"Lt Kidney": "kidney_left"}``. Or a JSON file with these. Labels of a label map without a name are left out,
        other structures keep theirs. Each name must be of something that is there, unless ``organs`` chooses.
    organs : sequence of str, optional
        Only these organs, by their names or by names that mean the same: "kidney_left" finds "Kidney_L", too, and it is
        called as it is here.
    standard_names : bool
        Whether organs get standard names, so that "Parotid_L" and "Left parotid gland" both are "parotid_left".
        Others keep theirs.

    Returns
    -------
    Annotation
        Six extreme points (6, 3) of each organ in RAS mm, in the order of :data:`rprloc.WALLS`, and their masks, each
        on a grid of its own. Its notes tell what was read from each file and what was left out.

    Raises
    ------
    InputError
        If a file cannot be used or belongs to another scan, if an organ or a name is not there or there twice, or if no
        organ is left.

    Examples
    --------
    >>> scan = rprloc.read_scan(support_image)
    >>> annotation = rprloc.read_annotation(support_labels, scan, names={51: "heart", 1: "Spleen"}, organs=["spleen"])
    >>> list(annotation.points_ras), annotation.masks["spleen"].voxels.dtype
    (['spleen'], dtype('bool'))
    """
    paths = [Path(labels)] if isinstance(labels, (str, Path)) else [Path(path) for path in labels]
    given = read_names(names) if isinstance(names, (str, Path)) else names
    if not paths or (given is not None and not given) or (organs is not None and not organs):
        raise InputError("No organ was named. Name at least one file, and one label or organ of it.")
    marked = [open_annotation(path, scan) for path in paths]
    called = [_Called.of(one, given, standard_names) for one in marked]
    if organs is None:
        _refuse_unused(given, called)
    chosen = _choose(called, organs)
    points_ras: dict[str, Points] = {}
    masks: dict[str, Mask] = {}
    empty: list[_Named] = []
    for organ, named in chosen.items():
        found = named.structure.read()
        if found is None and organs is not None:
            raise named.marked.fault(f"{named.structure.name} has no voxel or no volume. Name another organ.")
        if found is None:
            empty.append(named)
            continue
        if isinstance(found, Mask):
            masks[organ] = found
        points_ras[organ] = extreme_points_of_mask(found.voxels, found.grid) if isinstance(found, Mask) else found
        _require_inside(named, points_ras[organ], masks.get(organ), scan.volume.grid)
    notes = tuple(_describe(one, chosen, empty) for one in called)
    if not points_ras:
        raise InputError(f"{notes[0]} So there is no organ to take. Give other labels, or name an organ that is there.")
    kinds = {organ in masks for organ in points_ras}
    marking = Marking.MIXED if len(kinds) > 1 else Marking.LABEL_MAP if masks else Marking.EXTREME_POINTS
    return Annotation(points_ras, masks, marking, notes)


@dataclass(frozen=True, eq=False)
class _Named:
    """A structure, the file in which it is, and what it is called from now on."""

    marked: Marked
    structure: Structure
    name: str


@dataclass(frozen=True, eq=False)
class _Called:
    """What a file marks, with the names that count; what of it has none; and which of the given names are used."""

    marked: Marked
    named: Sequence[_Named]
    left_out: Sequence[tuple[str, str]]
    used: frozenset[str]

    @classmethod
    def of(cls, marked: Marked, given: Names | None, standard_names: bool) -> _Called:
        beside = _names_beside(marked) if given is None and marked.are_numbers else None
        names = {str(key): name for key, name in (beside or given or {}).items()}
        named, left_out = [], list(marked.left_out)
        for structure in marked.structures:
            name = names.get(structure.name, None if marked.are_numbers else structure.name)
            if name is None:
                left_out.append((f"label {structure.name}", "it has no name"))
                continue
            name = (standard_name(name) if standard_names else None) or name
            named.append(_Named(marked, structure, readable(name)))
        used = names.keys() & {structure.name for structure in marked.structures}
        if marked.are_numbers:
            left_out += [(name, f"label {key} has no voxel") for key, name in names.items() if key not in used]
        return cls(marked, named, left_out, frozenset(used))


def _names_beside(marked: Marked) -> Names:
    """The names of a label map's labels, from the JSON file beside it."""
    beside = marked.path.with_name(f"{scan_name(marked.path)}.json")
    if not beside.is_file():
        numbers = listed([structure.name for structure in marked.structures]) or "none"
        raise InputError(
            f"{marked.path} is a label map that does not say which organ a label is (its labels: {numbers}). Name them "
            f'with --names, or in a file {beside.name} beside it, such as {{"1": "liver"}}.'
        )
    return read_names(beside)


def _refuse_unused(given: Names | None, called: Sequence[_Called]) -> None:
    """Raise InputError for names of labels or structures that are not there."""
    unused = {key: name for key, name in (given or {}).items() if not any(str(key) in one.used for one in called)}
    if not unused:
        return
    numbers = {key: name for key, name in unused.items() if isinstance(key, int)}
    if len(numbers) == len(unused) and all(one.marked.are_numbers for one in called):
        raise InputError(describe_missing(numbers))
    there = [named.structure.name for one in called for named in one.named]
    raise InputError(
        f"{called[0].marked.path} has no structure {listed([str(key) for key in unused])}, to which a name was given. "
        f"It has {listed(there) or 'none'}. Correct the names."
    )


def _choose(called: Sequence[_Called], organs: Sequence[str] | None) -> dict[str, _Named]:
    """The structures to take, by the names of organs. Raises InputError for names that are not there or there twice."""
    every = [named for one in called for named in one.named]
    if organs is None:
        taken = [named for named in every if not named.structure.no_organ]
        for named in taken:
            others = [other for other in taken if other.name == named.name]
            if len(others) > 1:
                places = ", ".join(dict.fromkeys(f"{one.structure.name} in {one.marked.path.name}" for one in others))
                raise InputError(
                    f"There are {len(others)} structures with the name {named.name} ({places}). Give each a name of "
                    "its own, or name the organs to take (--organ)."
                )
        return {named.name: named for named in taken}
    return {organ: _only_one(organ, every, called) for organ in dict.fromkeys(organs)}


def _only_one(organ: str, every: Sequence[_Named], called: Sequence[_Called]) -> _Named:
    found = [named for named in every if organ in (named.name, named.structure.name)]
    found = found or [named for named in every if names_alike(named.name) == names_alike(organ)]
    if len(found) == 1:
        return found[0]
    where = ", ".join(str(one.marked.path) for one in called)
    if found:
        which = ", ".join(f"{named.structure.name} in {named.marked.path.name}" for named in found)
        raise InputError(f"{organ} may be any of {which}. Give each a name of its own, or give one of the files.")
    why = next((why for one in called for name, why in one.left_out if name == organ), None)
    if why is not None:
        raise InputError(f"{organ} in {where} cannot be taken: {why}. Name another organ.")
    there = listed([named.name for named in every]) or "none"
    raise InputError(f"There is no {organ} in {where}. It has {there}. Name one of these.")


def _require_inside(named: _Named, points_ras: Points, mask: Mask | None, grid: Grid) -> None:
    """Raise InputError for an organ that reaches out of its scan, to a millimetre and half a voxel of its mask."""
    if not lie_inside(points_ras, grid, mask).all():
        raise named.marked.fault(
            f"{named.structure.name} lies outside of the scan, wholly or in part. Give the labels of this scan."
        )


def _describe(one: _Called, chosen: Mapping[str, _Named], empty: Iterable[_Named]) -> str:
    """What a file is, and what was taken of it and left out."""
    without = {id(named) for named in empty}
    mine = {organ: named for organ, named in chosen.items() if named.marked is one.marked}
    taken = [
        organ if organ == named.structure.name or one.marked.are_numbers else f"{organ} ({named.structure.name})"
        for organ, named in mine.items()
        if id(named) not in without
    ]
    parts = [(organ, named.structure.left_out) for organ, named in mine.items() if named.structure.left_out]
    asked_for = {id(named) for named in mine.values()}
    left_out = [*one.left_out, *((named.name, "empty") for named in mine.values() if id(named) in without)]
    rest = [named for named in one.named if id(named) not in asked_for]
    left_out += [(named.name, named.structure.no_organ) for named in rest if named.structure.no_organ]
    others = sum(not named.structure.no_organ for named in rest)
    sentences = [f"{one.marked.path.name} is {one.marked.form}.", f"Taken: {listed(taken) or 'nothing'}."]
    if left_out:
        sentences.append(f"Left out: {listed([f'{name} ({why})' for name, why in left_out])}.")
    if others:
        sentences.append(f"Not asked for: {others} more.")
    sentences += [f"Left out of {organ}: {what}." for organ, what in parts]
    return readable(" ".join([*sentences, *one.marked.remarks]))
