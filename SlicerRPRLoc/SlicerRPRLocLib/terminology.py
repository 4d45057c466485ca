"""SNOMED CT terms and colours of organs and landmarks, where a name is known.

Codes and meanings are those of DICOM PS3.16 (the tests compare them with pydicom's copy of it). Colours are the ones
that Slicer's General Anatomy list recommends for the same codes; terms without one are in its DICOM master list only.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from rprloc.io.colours import organ_colour

ATTRIBUTE = "Terminologies.TerminologyEntry"
"""The attribute of a node in which Slicer keeps its term (vtkSlicerTerminologiesModuleLogic)."""

_CATEGORY = "SCT^123037004^Anatomical Structure"
_COLOURED_LIST = "Segmentation category and type - 3D Slicer General Anatomy list"
_DICOM_LIST = "Segmentation category and type - DICOM master list"
_WITHOUT_SIDES_IN_COLOURED_LIST = ("113197003",)  # the rib
_SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Term:
    """A SNOMED CT concept, on one side of the body or on both or none; ``rgb`` 0 to 255 if one is recommended."""

    code: str
    meaning: str
    rgb: tuple[int, int, int] | None = None
    paired: bool = False
    side: str | None = None

    @property
    def entry(self) -> str:
        """The term as Slicer writes it: context, category, type, its modifier, then region and its modifier."""
        modifier = "SCT^{}^{}".format(*_SIDES[self.side]) if self.side else "^^"
        coloured = self.rgb and not (self.side and self.code in _WITHOUT_SIDES_IN_COLOURED_LIST)
        context = _COLOURED_LIST if coloured else _DICOM_LIST
        return f"{context}~{_CATEGORY}~SCT^{self.code}^{self.meaning}~{modifier}~~^^~^^"


_TERMS = {
    "adrenal gland": Term("23451007", "Adrenal gland", (249, 186, 150), paired=True),
    "aorta": Term("15825003", "Aorta", (224, 97, 76)),
    "aortic bifurcation": Term("73166001", "Aortic Bifurcation"),
    "bladder": Term("89837001", "Bladder", (222, 154, 132)),
    "brain": Term("12738006", "Brain", (250, 250, 225)),
    "brainstem": Term("119238007", "Brain stem"),
    "carina": Term("28700002", "Carina"),
    "carotid bifurcation": Term("80272002", "Carotid Bifurcation", paired=True),
    "cerebellum": Term("113305005", "Cerebellum"),
    "cervical spine": Term("122494005", "Cervical spine", (255, 255, 207)),
    "clavicle": Term("51299004", "Clavicle", (205, 179, 108), paired=True),
    "coccyx": Term("64688005", "Coccyx"),
    "colon": Term("71854001", "Colon", (204, 168, 143)),
    "duodenum": Term("38848004", "Duodenum", (255, 253, 229)),
    "esophagus": Term("32849002", "Esophagus", (211, 171, 143)),
    "eyeball": Term("79652003", "Eyeball", (194, 142, 0), paired=True),
    "femur": Term("71341001", "Femur", paired=True),
    "gallbladder": Term("28231008", "Gallbladder", (139, 150, 98)),
    "heart": Term("80891009", "Heart", (206, 110, 84)),
    "humerus": Term("85050009", "Humerus", paired=True),
    "hyoid bone": Term("21387005", "Hyoid bone", (250, 210, 139)),
    "inferior vena cava": Term("64131007", "Inferior vena cava"),
    "kidney": Term("64033007", "Kidney", (185, 102, 83), paired=True),
    "larynx": Term("4596009", "Larynx", (150, 208, 243)),
    "lesser trochanter": Term("55499008", "Lesser trochanter", paired=True),
    "liver": Term("10200004", "Liver", (221, 130, 101)),
    "lower lobe of lung": Term("90572001", "Lower lobe of lung", (224, 186, 162), paired=True),
    "lumbar spine": Term("122496007", "Lumbar spine", (212, 188, 102)),
    "lung": Term("39607008", "Lung", (197, 165, 145), paired=True),
    "mandible": Term("91609006", "Mandible", (222, 198, 101)),
    "maxilla": Term("70925003", "Maxilla", (196, 172, 68)),
    "mediastinum": Term("72410000", "Mediastinum", (255, 244, 209)),
    "optic chiasm": Term("244453006", "Optic chiasm", (99, 106, 24)),
    "ovary": Term("15497006", "Ovary", (213, 141, 113), paired=True),
    "pancreas": Term("15776009", "Pancreas", (249, 180, 111)),
    "parotid gland": Term("45289007", "Parotid gland", paired=True),
    "pericardium": Term("76848001", "Pericardium", (255, 244, 209)),
    "pharynx": Term("54066008", "Pharynx", (184, 105, 108)),
    "pituitary": Term("56329008", "Pituitary", (57, 157, 110)),
    "portal vein": Term("32764006", "Portal vein"),
    "prostate": Term("41216001", "Prostate", (230, 158, 140)),
    "pulmonary artery": Term("81040000", "Pulmonary artery"),
    "rectum": Term("34402009", "Rectum"),
    "rib": Term("113197003", "Rib", (253, 232, 158), paired=True),
    "sacrum": Term("54735007", "Sacrum"),
    "scapula": Term("79601000", "Scapula", paired=True),
    "sella turcica": Term("42575006", "Sella turcica"),
    "seminal vesicle": Term("64739004", "Seminal Vesicle", (245, 172, 147), paired=True),
    "skull": Term("89546000", "Skull", (241, 213, 144)),
    "small intestine": Term("30315005", "Small Intestine", (205, 167, 142)),
    "spinal cord": Term("2748008", "Spinal cord", (244, 214, 49)),
    "spleen": Term("78961009", "Spleen", (157, 108, 162)),
    "splenic vein": Term("35819009", "Splenic vein"),
    "sternum": Term("56873002", "Sternum", (244, 217, 154)),
    "stomach": Term("69695003", "Stomach", (216, 132, 105)),
    "submandibular gland": Term("54019009", "Submandibular gland", paired=True),
    "superior vena cava": Term("48345005", "Superior vena cava"),
    "symphysis pubis": Term("82561000", "Symphysis pubis"),
    "testis": Term("40689003", "Testis", paired=True),
    "thoracic spine": Term("122495006", "Thoracic spine", (226, 202, 134)),
    "thymus": Term("9875009", "Thymus", (47, 150, 103)),
    "thyroid": Term("69748006", "Thyroid", (62, 162, 114)),
    "tongue": Term("21974007", "Tongue", (166, 84, 94)),
    "trachea": Term("44567001", "Trachea", (182, 228, 255)),
    "upper lobe of lung": Term("45653009", "Upper lobe of lung", (172, 138, 115), paired=True),
    "uterus": Term("35039007", "Uterus", (255, 181, 158)),
    "xiphoid process": Term("20298003", "Xiphoid Process"),
}
_SYNONYMS = {
    "adrenal": "adrenal gland",
    "brain stem": "brainstem",
    "clavicula": "clavicle",
    "eye": "eyeball",
    "gall bladder": "gallbladder",
    "ivc": "inferior vena cava",
    "lung lower lobe": "lower lobe of lung",
    "lung upper lobe": "upper lobe of lung",
    "oesophagus": "esophagus",
    "parotid": "parotid gland",
    "small bowel": "small intestine",
    "submandibular": "submandibular gland",
    "svc": "superior vena cava",
    "thyroid gland": "thyroid",
    "urinary bladder": "bladder",
}


def find(organ: str) -> Term | None:
    """The term of an organ's name, such as "Kidney, left", "kidney_left" or "left kidney"; None if it is not known.

    A side is part of the term for paired organs; any other word that is not part of a known name makes it unknown.
    """
    words = [word for word in organ.lower().replace("_", " ").replace(",", " ").replace("-", " ").split() if word]
    sides = [word for word in words if word in _SIDES]
    name = " ".join(word for word in words if word not in _SIDES)
    term = _TERMS.get(_SYNONYMS.get(name, name))
    if term is None or len(sides) > 1 or (sides and not term.paired):
        return None
    return Term(term.code, term.meaning, term.rgb, term.paired, sides[0]) if sides else term


def colour(organ: str) -> Colour:
    """The colour 0 to 1 of an organ: the recommended one, else one that the name alone decides."""
    term = find(organ)
    if term is not None and term.rgb is not None:
        red, green, blue = term.rgb
        return red / 255, green / 255, blue / 255
    return organ_colour(zlib.crc32(organ.strip().lower().encode()) % 12)


def names() -> tuple[str, ...]:
    """The names under which organs are known, with their sides, as one may write them."""
    sided = [f"{side} {name}" for name, term in _TERMS.items() if term.paired for side in _SIDES]
    return tuple(sorted([*(name for name, term in _TERMS.items() if not term.paired), *sided]))


def all_terms() -> tuple[Term, ...]:
    """Every term that :func:`find` can give, without sides."""
    return tuple(_TERMS.values())
