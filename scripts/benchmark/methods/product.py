"""The product: the shipped weights and the library, with one example and with all of the region."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import rprloc
from rprloc.annotation import Annotation
from rprloc.geometry import Points
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import locate
from rprloc.localization.support import Support, SupportSet
from rprloc.volume import Volume
from scripts.benchmark.registry import Example, Method, Row, Setting, register


@register
class Product(Method):
    name = "rprloc"
    rows = (
        Row("rprloc", 3, remark="the shipped product, six points on one example"),
        Row("rprloc few-shot", 3, shots="all", remark="all examples of the region together"),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.localizer = Localizer.load(setting.model, "cpu")
        # Weights and code change what the product finds; its predictions are then made again.
        digest = hashlib.sha256(self.localizer.model_id.encode())
        for path in sorted(Path(rprloc.__file__).parent.rglob("*.py")):
            digest.update(path.read_bytes())
        self._version = digest.hexdigest()[:16]

    def version(self, region: str) -> str:
        return self._version

    def budget(self, region: str) -> str:
        return (
            f"weights {self.localizer.model_id}; docs/training.md tells on what, and how long, the shipped ones learned"
        )

    def prepare(self, example: Example, organs: Sequence[str]) -> Support:
        points_ras = {organ: example.points_ras[organ] for organ in organs}
        marks = rprloc.Example(example.volume, Annotation(points_ras), example.name)
        (support,) = self.localizer.learn(marks).supports
        return support

    def find(self, prepared: Sequence[Support], query: Volume, organs: Sequence[str]) -> dict[str, Points]:
        examples = SupportSet(self.localizer.model_id, tuple(prepared))
        # The place of every organ, as other methods give it; how well it tells which are absent is measured elsewhere.
        evidence = FieldEvidence.of(self.localizer.compute_position_field(query))
        detections = locate(examples, evidence, organs)
        return {detection.organ: detection.points_ras for detection in detections}
