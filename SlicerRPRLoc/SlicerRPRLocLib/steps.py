"""What the child is asked: to build a support set of the examples in the scene, and to locate in a volume of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rprloc import Grid, InputError
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.examples import Examples
from SlicerRPRLocLib.handover import Handover
from SlicerRPRLocLib.nodes import Node, Scene
from SlicerRPRLocLib.runs import Answer, Preparation, Run, Step, at_once
from SlicerRPRLocLib.sets import Sets
from SlicerRPRLocLib.weights import modality_of_scan


class Steps:
    """Makes the steps of runs on one scene."""

    def __init__(self, scene: Scene, examples: Examples, sets: Sets, handover: Handover) -> None:
        self._scene, self._examples, self._sets, self._handover = scene, examples, sets, handover

    def add_set(self, run: Run, organs: Sequence[str]) -> Path:
        """Add the steps to one support set of all examples of these organs and landmarks, and of the sets with any of
        them; its file.

        Examples that are not chosen are left out, so that one which is half done is in nobody's way. Raises InputError
        for a ready-made set that is not installed.
        """
        marked: dict[str, tuple[Node, dict[str, Node]]] = {}
        for example in self._examples.all():
            organ, volume = nodes.organ_of(example), nodes.volume_of(example)
            if organ in organs and self._examples.guidance(example).complete:
                marked.setdefault(volume.GetID(), (volume, {}))[1][organ] = example
        parts: list[Path] = []
        for volume, examples in marked.values():
            parts.append(self._handover.new_file("set"))
            run.add([self._build(run, volume, examples, parts[-1])])
        for node in self._sets.with_any(organs):
            parts.append(self._sets.hand_over(node, lambda: self._handover.new_file("set")))
            run.remarks += filter(None, [self._sets.doubt(node)])
        if len(parts) == 1:
            return parts[0]
        merged = self._handover.new_file("set")
        merge = at_once("merge", sets=[str(part) for part in parts], out=str(merged))
        run.add([Step("Support sets", merge, nothing, vital=True)])
        return merged

    def locate(
        self,
        volume: Node,
        support_set: Path,
        organs: Sequence[str],
        take: Callable[[Answer], None],
        *,
        vital: bool,
    ) -> Step:
        """The step that locates in one volume. ``take`` gets the answer if the volume is still where it was."""
        grids: list[Grid] = []

        def request(path: Path) -> Preparation:
            yield from ()
            grids[:] = [nodes.grid_of(volume)]
            return "locate", {"set": str(support_set), "image": str(path), "organs": list(organs)}

        def take_checked(answer: Answer) -> None:
            self._require_there(volume)
            if not nodes.grid_of(volume).same_as(grids[0], tolerance_mm=0.0):
                raise InputError("it was moved while it was searched. Press Locate again.")
            take(answer)

        return self._on_volume(volume, request, take_checked, vital=vital)

    def _build(self, run: Run, volume: Node, examples: Mapping[str, Node], out: Path) -> Step:
        """The step that makes the support set of the examples on one volume, by their names; with masks of segments.

        The points are those of this moment; the child looks whether a segment still has them.
        """
        points = {name: self._examples.points(example).tolist() for name, example in examples.items()}
        marked = {
            "landmarks_ras_mm": {name: points.pop(name)[0] for name in examples if nodes.is_landmark(examples[name])},
            "points_ras_mm": points,
        }
        segments = {organ: found for organ, node in examples.items() if (found := self._examples.segment_of(node))}
        masks: dict[str, str] = {}

        def request(path: Path) -> Preparation:
            for organ, (segmentation, segment_id) in segments.items():
                yield
                try:
                    if segmentation is None:
                        raise InputError("its segmentation is gone.")
                    mask, grid = nodes.mask_of_segment(segmentation, segment_id)
                except InputError as error:
                    run.remarks.append(f"The points alone count for {organ}: {error}")
                else:
                    masks[organ] = str((yield from self._handover.write_mask(mask, grid)))
            more = {"masks": dict(masks)} if masks else {}
            return "build", {"image": str(path), **marked, "out": str(out), **more}

        def tell(answer: Answer) -> None:
            for mask in masks.values():
                Path(mask).unlink(missing_ok=True)
            run.remarks += [f"{volume.GetName()}: {warning}" for warning in answer["warnings"]]

        return self._on_volume(volume, request, tell, vital=True)

    def _on_volume(
        self,
        volume: Node,
        request: Callable[[Path], Preparation],
        take: Callable[[Answer], None],
        *,
        vital: bool,
        copy: bool = False,
    ) -> Step:
        """A step that hands a volume over. A file that the child cannot read, though Slicer could, is copied then."""
        handed: list[Path] = []

        def prepare() -> Preparation:
            self._require_there(volume)
            path = yield from self._handover.write(volume, copy=copy)
            handed[:] = [path]
            command, options = yield from request(path)
            return command, {**options, "modality": modality_of_scan(volume)}  # a copy of its voxels does not tell

        def other_way() -> Step | None:
            if copy or not handed or self._handover.is_copy(handed[0]):
                return None
            return self._on_volume(volume, request, take, vital=vital, copy=True)

        return Step(volume.GetName(), prepare, take, vital, other_way)

    def _require_there(self, volume: Node) -> None:
        if self._scene.GetNodeByID(volume.GetID() or "") is not volume:
            raise InputError("it was removed from the scene before it was searched.")


def nothing(answer: Answer) -> None:
    """Takes an answer that is of no interest."""
