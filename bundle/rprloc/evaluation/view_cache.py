"""Views kept on disk: constants are tuned on the same position fields again and again, and these take most time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rprloc.evaluation.views import CaseViews, Kind, View, make_views
from rprloc.files import atomic_path
from rprloc.geometry import Box, Grid
from rprloc.io.dataset import Case
from rprloc.localization.localizer import Localizer
from rprloc.modality import MODALITIES
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.dense import LatentMap
from rprloc.model.field import PositionField
from rprloc.model.network import RPRNet

_VERSION = 4  # of the files; raise it when what lies in them or the way to a position field changes

_Arrays = dict[str, NDArray[Any]]


def keep_views(localizer: Localizer, case: Case, cuts: int, *, with_changes: bool, folder: Path | None) -> CaseViews:
    """:func:`make_views`, from ``folder`` if they lie there, and otherwise put there; without a folder just made."""
    if folder is None:
        return make_views(localizer, case, cuts, with_changes=with_changes)
    paths = [file for path in (case.image_path, case.labels_path) for file in (path, *sorted(path.rglob("*")))]
    files = [path.stat() for path in paths if path.is_file()]
    states = [(file.st_size, file.st_mtime_ns) for file in files]
    made_of = (_VERSION, localizer.model_id, case.targets, case.names, states, cuts, with_changes)
    digest = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    path = folder / f"{case.region}-{case.name.replace('/', '+')}-{digest}.npz"
    if path.is_file():
        return _load(path, case, localizer.model)
    looked_at = make_views(localizer, case, cuts, with_changes=with_changes)
    folder.mkdir(parents=True, exist_ok=True)
    _save(path, looked_at, localizer.model)
    return looked_at


def _save(path: Path, looked_at: CaseViews, model: RPRNet) -> None:
    about = {
        "truth": {organ: [*box.min_ras, *box.max_ras] for organ, box in looked_at.truth.items()},
        "views": [
            {
                "kind": view.kind.value,
                "warnings": view.warnings,
                "shares": view.shares,
                "modality": _modality_of(view.field, model),
            }
            for view in looked_at.views
        ],
    }
    arrays: _Arrays = {"about": np.array(json.dumps(about))}
    for number, view in enumerate(looked_at.views):
        arrays |= {f"{number}/{name}": array for name, array in _arrays_of(view.field).items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _modality_of(field: PositionField, model: RPRNet) -> str:
    """As which modality a scan was seen: by the values of its atlas, because the weights may have moved since, when a
    GPU's memory did not suffice.
    """
    values = field.atlas.values.cpu()
    return next(one.name for one in model.modalities if torch.equal(model.atlas_of(one).values.cpu(), values))


def _load(path: Path, case: Case, model: RPRNet) -> CaseViews:
    with np.load(path, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        views = []
        for number, view in enumerate(about["views"]):
            names = [name for name in arrays.files if name.startswith(f"{number}/")]
            atlas = model.atlas_of(MODALITIES[view["modality"]])
            field = _field_of({name.partition("/")[2]: arrays[name] for name in names}, atlas)
            views.append(View(Kind(view["kind"]), field, tuple(view["warnings"]), view["shares"]))
    truth = {organ: Box(walls[:3], walls[3:]) for organ, walls in about["truth"].items()}
    return CaseViews(case, truth, tuple(views))


def _arrays_of(field: PositionField) -> _Arrays:
    """Everything of a field but the atlas, which the weights have."""
    return {
        "body_from_ras": field.body.body_from_ras,
        "displacement": field.body.displacement_mm,
        "controls": field.body.control_grid.ras_from_ijk,
        "latents": field.fine.latents.movedim(0, -1).cpu().numpy(),  # (I, J, K, C), as they lie in memory
        "inside": field.fine.inside.cpu().numpy(),
        "lattice": field.fine.grid.ras_from_ijk,
        "image": field.image.cpu().numpy(),
        "voxels": field.grid.ras_from_ijk,
        "bounds": np.stack([field.bounds.min_ras, field.bounds.max_ras]),
    }


def _field_of(arrays: _Arrays, atlas: BodyAtlas) -> PositionField:
    def grid(name: str, shape: tuple[int, ...]) -> Grid:
        i, j, k = shape
        return Grid((i, j, k), arrays[name])

    latents, displacement_mm = torch.from_numpy(arrays["latents"]), arrays["displacement"]
    return PositionField(
        body=BodyMap(arrays["body_from_ras"], displacement_mm, grid("controls", displacement_mm.shape[1:])),
        fine=LatentMap(latents.movedim(-1, 0), grid("lattice", latents.shape[:3]), torch.from_numpy(arrays["inside"])),
        image=torch.from_numpy(arrays["image"]),
        grid=grid("voxels", arrays["image"].shape),
        atlas=atlas,
        bounds=Box(*arrays["bounds"]),
    )
