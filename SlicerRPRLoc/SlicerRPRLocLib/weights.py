"""The weights that the child works with: what they are for, and which scans of the scene that is.

Weights are the name of a shipped model, or the path of a file of one's own. Nothing here needs PyTorch, which is
installed after the panel was opened.
"""

from __future__ import annotations

import stat
from functools import lru_cache
from pathlib import Path

import slicer

from rprloc import InputError
from rprloc.files import status_of
from rprloc.modality import WEIGHTS_FOR, modalities_named
from rprloc.model.shipped import CALIBRATION_FILE, find_weights, read_licence, read_modality, shipped_models
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.nodes import Node, Scene

_MODALITY = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()


def require_weights(weights: str) -> None:
    """Raise InputError if the file of weights is not there."""
    if _state(weights) is None:
        raise InputError(
            f"The weights {weights} are not on this computer. Choose others in Weights, or bring the file back."
        )


def state_of_weights(weights: str) -> object:
    """What changes when the file of weights, or their calibration, is written anew: then a child has the old ones."""
    state = _state(weights)
    calibration = None if state is None else status_of(state[0].with_name(CALIBRATION_FILE))
    return state, calibration and (calibration.st_mtime_ns, calibration.st_size)


def modality_of_weights(weights: str) -> str:
    """Such as "CT"; "" if their file does not tell."""
    state = _state(weights)
    return "" if state is None else _modality(*state)


def describe_weights(weights: str) -> tuple[str, str]:
    """What a list says of weights, and its tip: the licence of shipped ones, the place of others."""
    path, modality = find_weights(weights), modality_of_weights(weights)
    shipped = weights in shipped_models()
    name = weights if shipped else "/".join(path.parts[-2:])
    about = modality or ("no weights of RPR-Loc" if _state(weights) else "not on this computer")
    return f"{name} ({about})", read_licence(path) if shipped else str(path)


def modality_of_scan(volume: Node) -> str:
    """What the DICOM series of a volume is, as DICOM calls it; "" if Slicer does not know, as of other files."""
    hierarchy, item = _place(volume)
    return str(hierarchy.GetItemAttribute(item, _MODALITY)) if item else ""


def note_modality(volume: Node, modality: str) -> None:
    """Note what a volume of a DICOM series is, as Slicer's module DICOM does."""
    hierarchy, item = _place(volume)
    hierarchy.SetItemAttribute(item or hierarchy.CreateItem(hierarchy.GetSceneItemID(), volume), _MODALITY, modality)


def fits(volume: Node, weights: str) -> bool:
    """Whether the weights may take a volume: False only if it surely is of another modality.

    Of weights that this version does not know nothing is said here; the child refuses them.
    """
    return _takes(modality_of_weights(weights), modality_of_scan(volume))


def describe_scans(scene: Scene, weights: str) -> dict[str, str]:
    """By their ids, what a list says of the scans of a scene."""
    wanted = modality_of_weights(weights)

    def describe(volume: Node) -> str:
        name, said = str(volume.GetName()), modality_of_scan(volume)
        return name if _takes(wanted, said) else f"{name} ({said}; the weights are for {wanted})"

    return {volume.GetID(): describe(volume) for volume in nodes.scans(scene)}


def _takes(wanted: str, said: str) -> bool:
    """Whether weights that are for ``wanted`` may take a scan of which Slicer has said what it is."""
    return wanted not in WEIGHTS_FOR or any(modality.takes(said) for modality in modalities_named(wanted))


def _place(volume: Node) -> tuple[Node, int]:
    """Subject hierarchy, and a volume's item in it, 0 if it has none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
    return hierarchy, hierarchy.GetItemByDataNode(volume)


def _state(weights: str) -> tuple[Path, int, int] | None:
    """The file of weights and what changes when it is written anew; None if it is not there."""
    path = find_weights(weights)
    status = status_of(path) if path.is_absolute() else None
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return path, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=16)
def _modality(path: Path, mtime_ns: int, size: int) -> str:
    """What a file says, read once as long as it is not written anew."""
    return read_modality(path)
