"""The product: the shipped weights and the library, with one example and with all of the region."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import rprloc
from registry import Example, Method, Row, Setting, register
from rprloc.geometry import Points
from rprloc.localization.localizer import Engine
from rprloc.localization.locate import locate
from rprloc.localization.support import Support, SupportSet
from rprloc.volume import Volume


@register
class Product(Method):
    name = "rprloc"
    rows = (
        Row("rprloc", 3, remark="the shipped product, six points on one example"),
        Row("rprloc few-shot", 3, shots="all", remark="all examples of the region together"),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.engine = Engine.load(device="cpu")
        # Weights and code change what the product finds; its predictions are then made again.
        digest = hashlib.sha256(self.engine.model.identity().encode())
        for path in sorted(Path(rprloc.__file__).parent.rglob("*.py")):
            digest.update(path.read_bytes())
        self._version = digest.hexdigest()[:16]

    def version(self, region: str) -> str:
        return self._version

    def budget(self, region: str) -> str:
        return f"shipped weights {self.engine.model.identity()}, see scripts/train_shipped_weights.sh"

    def prepare(self, example: Example, organs: Sequence[str]) -> Support:
        points_ras = {organ: example.points_ras[organ] for organ in organs}
        return self.engine.support_set(
            example.volume, points_ras, scan=example.name, source="extreme points"
        ).supports[0]  # fmt: skip

    def find(self, prepared: Sequence[Support], query: Volume, organs: Sequence[str]) -> dict[str, Points]:
        examples = SupportSet(self.engine.model.identity(), tuple(prepared))
        # The place of every organ, as other methods give it; whether one is absent is measured by calibrate_trust.py.
        found = locate(examples, self.engine.position_field(query), organs)
        return {one.organ: one.points_ras for one in found}
