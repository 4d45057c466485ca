"""The terms and colours of organs."""

from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts

from tests.slicer_module.scenes import NO_SLICER

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer

from SlicerRPRLocLib import terminology


def test_every_code_means_in_dicom_what_it_means_here() -> None:
    """pydicom's dictionary is made from DICOM PS3.16."""
    meanings: dict[str, set[str]] = {}
    for codes in concepts["SCT"].values():
        for code, (meaning, *_) in codes.items():
            meanings.setdefault(code, set()).add(meaning.lower())
    for term in terminology.all_terms():
        assert term.meaning.lower() in meanings[term.code], term
    for code, meaning in (("7771000", "left"), ("24028007", "right")):
        assert meaning in meanings[code]


@pytest.mark.parametrize("name", ["kidney_left", "Left kidney", "Kidney, left", " left-KIDNEY "])
def test_a_side_is_found_however_it_is_written(name: str) -> None:
    entry = slicer.vtkSlicerTerminologyEntry()
    term = terminology.find(name)
    assert term is not None
    assert slicer.vtkSlicerTerminologiesModuleLogic.DeserializeTerminologyEntry(term.entry, entry)
    assert entry.GetTypeObject().GetCodeValue() == "64033007"
    assert entry.GetTypeObject().GetCodeMeaning() == "Kidney"
    assert entry.GetTypeModifierObject().GetCodeMeaning() == "Left"
    assert entry.GetCategoryObject().GetCodeMeaning() == "Anatomical Structure"
    assert slicer.vtkSlicerTerminologiesModuleLogic.SerializeTerminologyEntry(entry) == term.entry


@pytest.mark.parametrize(
    "name", ["", "left", "tumour", "heart left", "left right kidney", "kidney cyst", "portal_and_splenic_vein"]
)
def test_a_name_that_is_not_known_gets_no_term(name: str) -> None:
    assert terminology.find(name) is None
    assert all(0.0 <= part <= 1.0 for part in terminology.colour(name))


def test_colours_are_the_recommended_ones_and_else_depend_on_the_name_alone() -> None:
    assert terminology.colour("liver") == (221 / 255, 130 / 255, 101 / 255)
    assert terminology.colour("tumour") == terminology.colour("Tumour ")
    assert slicer.vtkSlicerTerminologiesModuleLogic.GetTerminologyEntryAttributeName() == terminology.ATTRIBUTE


def test_synonyms_lead_to_known_terms() -> None:
    for synonym in ("oesophagus", "urinary bladder", "parotid_left", "adrenal_gland_right", "small_bowel", "eye left"):
        assert terminology.find(synonym) is not None


def test_a_term_with_a_side_is_taken_from_a_list_that_has_it() -> None:
    """Slicer's General Anatomy list has no left and right of a rib; DICOM's list has."""
    contexts = {name: terminology.find(name) for name in ("rib", "left rib", "left kidney")}
    lists = [term.entry.split("~")[0] for term in contexts.values() if term is not None]
    assert ["General Anatomy" in one for one in lists] == [True, False, True]


def test_every_name_that_is_offered_is_known() -> None:
    assert {"heart", "left kidney", "right rib"} <= set(terminology.names())
    assert all(terminology.find(name) is not None for name in terminology.names())
