"""One set of names for organs: those of planning (TG-263), of 3D Slicer and of segmentation programs lead to it."""

from __future__ import annotations

import re
from functools import cache

_SIDES = {**dict.fromkeys(("l", "lt", "left"), "left"), **dict.fromkeys(("r", "rt", "right"), "right")}
_PAIRED = {
    "adrenal_gland": "adrenal gland, adrenal, suprarenal gland, glnd adrenal",
    "arytenoid": "arytenoid, cartlg arytenoid",
    "autochthon": "autochthon, autochthonous back muscle",
    "breast": "breast",
    "clavicula": "clavicula, clavicle, bone clavicle",
    "cochlea": "cochlea, ear internal cochlea",
    "common_carotid_artery": "common carotid artery, carotid common, a carotid common",
    "eye": "eye, eyeball, globe",
    "femur": "femur, bone femur",
    "femoral_head": "femoral head, femur head, head of femur",
    "gluteus_maximus": "gluteus maximus, gluteus maximus muscle, musc gluteus max",
    "gluteus_medius": "gluteus medius, gluteus medius muscle",
    "gluteus_minimus": "gluteus minimus, gluteus minimus muscle",
    "hip": "hip, hip bone, pelvic bone, bone pelvic",
    "humerus": "humerus, bone humerus",
    "iliac_artery": "iliac artery, common iliac artery, a iliac, a iliac cmn",
    "iliac_vena": "iliac vena, iliac vein, common iliac vein, v iliac, v iliac cmn",
    "iliopsoas": "iliopsoas, iliopsoas muscle, musc iliopsoas",
    "kidney": "kidney",
    "lacrimal_gland": "lacrimal gland, lacrimal, glnd lacrimal",
    "lens": "lens, lens of eye",
    "lung": "lung",
    "optic_nerve": "optic nerve, optic nrv, nrv optic",
    "ovary": "ovary",
    "parotid": "parotid, parotid gland, glnd parotid",
    "scapula": "scapula, bone scapula",
    "seminal_vesicle": "seminal vesicle",
    "subclavian_artery": "subclavian artery, a subclavian",
    "submandibular": "submandibular, submandibular gland, glnd submand, submand",
    "temporal_lobe": "temporal lobe, lobe temporal",
    "temporomandibular_joint": "temporomandibular joint, joint tm, tmj",
}
_SINGLE = {
    "anal_canal": "anal canal, canal anal",
    "aorta": "aorta, a aorta",
    "bowel": "bowel, bowel bag, bag bowel, spc bowel",
    "brain": "brain",
    "brainstem": "brainstem, brain stem",
    "cerebellum": "cerebellum",
    "colon": "colon, large bowel, bowel large, large intestine",
    "duodenum": "duodenum",
    "esophagus": "esophagus, oesophagus, esophagus s",
    "gallbladder": "gallbladder, gall bladder",
    "heart": "heart",
    "inferior_vena_cava": "inferior vena cava, v venacava i, v vena cava i, ivc, postcava",
    "larynx": "larynx",
    "lips": "lips",
    "liver": "liver",
    "mandible": "mandible, bone mandible, lower jaw",
    "optic_chiasm": "optic chiasm, chiasm",
    "oral_cavity": "oral cavity, cavity oral",
    "pancreas": "pancreas",
    "pharynx": "pharynx",
    "pituitary": "pituitary, pituitary gland, hypophysis",
    "portal_and_splenic_vein": (
        "portal and splenic vein, portal vein and splenic vein, veins, portal vein and splenic vein structure"
    ),
    "prostate": "prostate, prostate gland",
    "pulmonary_artery": "pulmonary artery, a pulmonary",
    "rectum": "rectum",
    "sacrum": "sacrum, bone sacrum",
    "skull": "skull, bone skull",
    "small_bowel": "small bowel, bowel small, small intestine",
    "spinal_canal": "spinal canal, canal spinal, vertebral canal",
    "spinal_cord": "spinal cord, cord, cord spinal, myelon",
    "spleen": "spleen",
    "sternum": "sternum, bone sternum",
    "stomach": "stomach",
    "superior_vena_cava": "superior vena cava, v venacava s, v vena cava s, svc",
    "thyroid_gland": "thyroid gland, thyroid, glnd thyroid",
    "trachea": "trachea",
    "urinary_bladder": "urinary bladder, bladder",
    "uterus": "uterus",
}
"""The standard names and what else leads to each, in words without capitals."""

_FILLING = ("structure", "of", "entire", "the")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")


def standard_name(name: str) -> str | None:
    """The standard name of an organ, such as ``kidney_left`` for ``Kidney_L`` or ``Left kidney``; None for none known.

    Capitals and separators do not matter. A paired organ needs its side, and no other organ may have one.
    """
    words = _words(name)
    sides = {_SIDES[word] for word in words if word in _SIDES}
    if len(sides) == 1:
        found = _paired().get("".join(word for word in words if word not in _SIDES))
        return f"{found}_{sides.pop()}" if found else _single().get("".join(words))
    return _single().get("".join(words))


def names_alike(name: str) -> str:
    """What is equal for two names of one organ: its standard name, or its letters and digits without capitals."""
    return standard_name(name) or "".join(_words(name)) or name


def _words(name: str) -> list[str]:
    words = [word.lower() for word in _WORD.findall(name)]
    return [word for word in words if word not in _FILLING]


@cache
def _paired() -> dict[str, str]:
    return _by_alias(_PAIRED)


@cache
def _single() -> dict[str, str]:
    return _by_alias(_SINGLE)


def _by_alias(table: dict[str, str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for name, aliases in table.items():
        for alias in (name, *aliases.split(",")):
            known["".join(_words(alias))] = name
    return known
