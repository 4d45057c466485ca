"""What the module does, without Qt: examples and support sets in, runs in a child process, results beside the scans.

Nothing of a run reaches the scene before all of it has been answered; then it does so in one step.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import slicer

from rprloc import Detections, Grid, InputError, SupportSet, write_rois
from rprloc.apps.batch import name_queries
from rprloc.files import require_folder, require_writable
from rprloc.io.results import TABLE, ResultFiles
from rprloc.io.table import result_rows, save_table
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.examples import Examples
from SlicerRPRLocLib.history import History
from SlicerRPRLocLib.nodes import Node, Scene
from SlicerRPRLocLib.results import Results
from SlicerRPRLocLib.runs import Answer, Event, Run, Step, Update

_ORGANS = "RPRLoc.Organs"
"""The attribute in which a support set's node keeps its organs and how many examples each has, as JSON."""


class Child(Protocol):
    """What is used of :class:`SlicerRPRLocLib.runner.Runner`."""

    def start(self) -> None: ...
    def submit(self, command: str, **options: object) -> int: ...
    def poll(self) -> list[Event]: ...
    def cancel(self) -> None: ...


class RPRLocLogic:
    """Everything the module can do, on one scene, by one child process."""

    def __init__(self, scene: Scene, child: Child) -> None:
        self.scene = scene
        self.examples = Examples(scene)
        self.results = Results(scene)
        self.history = History(self.examples, self.results)
        self._child = child
        self._run: Run | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count(1)
        self._images: dict[str, tuple[tuple[object, ...], Path]] = {}

    def use(self, child: Child) -> None:
        """Take another child, for example on another device; the old one is ended. Not during a run."""
        self._require_idle()
        self._child.cancel()
        self._child = child

    def close(self) -> None:
        """End the child and remove the files that were handed to it."""
        self.cancel()
        self._child.cancel()
        self._images.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # Support sets

    def support_sets(self) -> list[Node]:
        """The support sets that lie in the scene, as text nodes."""
        texts = nodes.of_class(self.scene, "vtkMRMLTextNode")
        return [node for node in texts if node.GetAttribute(nodes.ROLE) == "support set"]

    def load_support_set(self, path: Path) -> Node:
        """Put the support set of a file into the scene. Raises InputError if it is none."""
        support_set = SupportSet.load(path)
        node = self.scene.AddNewNodeByClass("vtkMRMLTextNode", path.name.removesuffix(".json"))
        node.SetAttribute(nodes.ROLE, "support set")
        node.SetAttribute(_ORGANS, json.dumps(_count_organs(support_set)))
        node.SetText(support_set.to_json())
        return node

    def organs(self) -> dict[str, int]:
        """The organs that can be located, and how many examples each has."""
        counts = Counter(
            nodes.organ_of(example) for example in self.examples.all() if self.examples.guidance(example).complete
        )
        for node in self.support_sets():
            noted = node.GetAttribute(_ORGANS)
            if noted is None:  # a scene of version 0.1
                counts += _count_organs(SupportSet.from_json(node.GetText(), node.GetName()))
            else:
                counts.update(json.loads(noted))
        return dict(counts)

    # Runs

    @property
    def busy(self) -> bool:
        return self._run is not None

    def locate(self, queries: Sequence[Node], organs: Sequence[str] | None = None) -> None:
        """Start to locate organs (by default all that have an example) in volumes of the scene.

        Raises InputError, and starts nothing, if an example, a volume or the choice cannot be used.
        """
        self._require_idle()
        if not queries:
            raise InputError("No query volume is chosen. Tick one or more CT scans.")
        wanted = self._wanted(organs)
        grids = [nodes.grid_of(volume) for volume in queries]
        self._child.start()  # it gets ready while the scans are written
        paths = [self._image_of(volume) for volume in queries]
        answers: list[tuple[Node, Detections]] = []

        def finish() -> str:
            self.history.record()
            told = self._in_one_step(lambda: self.results.apply(answers))
            self.history.record()
            run.remarks += [
                *told,
                *dict.fromkeys(f"{v.GetName()}: {w}" for v, found in answers for w in found.warnings),
            ]
            organs_found = sum(len(found.located) for _, found in answers)
            return f"{organs_found} organ{_s(organs_found)} in {len(answers)} of {len(queries)} scans."

        run = Run(finish)
        support_set = self._request_set(run, wanted)
        for volume, path, grid in zip(queries, paths, grids, strict=True):

            def take(answer: Answer, volume: Node = volume, grid: Grid = grid) -> None:
                if self.scene.GetNodeByID(volume.GetID() or "") is not volume:
                    raise InputError("it was removed from the scene while it was searched.")
                if not nodes.grid_of(volume).same_as(grid, tolerance_mm=0.0):
                    raise InputError("it was moved while it was searched. Press Locate again.")
                answers.append((volume, _detections(answer)))

            step = Step(volume.GetName(), take, vital=len(queries) == 1)
            self._request(run, step, "locate", set=str(support_set), image=str(path), organs=wanted)
        self._begin(run)

    def locate_in_folder(self, folder: Path, out: Path, organs: Sequence[str] | None = None) -> None:
        """Start to locate organs in all scans below a folder; the results of each are written to the folder ``out``."""
        self._require_idle()
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}. Choose one with CT scans.")
        require_folder(out)
        wanted = self._wanted(organs)
        answers: list[Detections] = []

        def finish() -> str:
            if answers:
                save_table(out / TABLE, [row for found in answers for row in result_rows(found)])
            organs_found, scans = sum(len(found.located) for found in answers), len(answers)
            return f"{organs_found} organ{_s(organs_found)} in {scans} scan{_s(scans)} are written to {out}."

        run = Run(finish)
        support_set = self._request_set(run, wanted)

        def search(answer: Answer) -> None:
            paths = [Path(path) for path in answer["images"]]
            for query in name_queries(paths):
                files = ResultFiles(out, query.name)

                def take(answer: Answer, files: ResultFiles = files) -> None:
                    found = _detections(answer)
                    out.mkdir(parents=True, exist_ok=True)
                    if found.located:
                        write_rois(files.rois, found)
                    found.save(files.detections)
                    answers.append(found)

                step = Step(query.name, take, vital=len(paths) == 1)
                self._request(run, step, "locate", set=str(support_set), image=str(query.path), organs=wanted)

        self._request(run, Step(folder.name, search, vital=True), "find", folder=str(folder))
        self._begin(run)

    def save_support_set(self, path: Path, organs: Sequence[str] | None = None) -> None:
        """Start to write all examples and support sets of the scene into one file."""
        self._require_idle()
        require_writable(path)
        wanted = self._wanted(organs)
        run = Run(lambda: f"The support set is written to {path}.")
        built = self._request_set(run, wanted)
        step = Step(path.name, lambda answer: None, vital=True)
        self._request(run, step, "merge", sets=[str(built)], out=str(path))
        self._begin(run)

    def poll(self) -> Update | None:
        """Take what the child has sent; None if there is no run. Call it a few times a second.

        Scene and files change only in here, and with an Update whose ``summary`` says what was done.
        """
        events = self._child.poll()
        run = self._run
        if run is None:
            return None
        log: list[str] = []
        for event in events:
            try:
                log += run.take(event)
            except InputError as error:
                return self._failed(run, str(error), log)
        if run.pending:
            return run.under_way(log)
        self._run = None
        try:
            summary = run.finish()
        except (InputError, OSError) as error:
            return self._failed(run, str(error), log)
        return run.done(summary, log)

    def cancel(self) -> None:
        """End a run and its process at once; the scene stays as it is."""
        if self._run is not None:
            self._run = None
            self._child.cancel()

    def _failed(self, run: Run, message: str, log: Sequence[str]) -> Update:
        self._run = None
        return run.failed(message, log)

    def _require_idle(self) -> None:
        if self._run is not None:
            raise InputError("A run is under way. Wait for its end or cancel it.")
        self._child.poll()  # what an earlier run has left

    def _begin(self, run: Run) -> None:
        self._run = run

    def _request(self, run: Run, step: Step, command: str, **options: object) -> None:
        run.expect(self._child.submit(command, **options), step)

    def _wanted(self, organs: Sequence[str] | None) -> list[str]:
        known = self.organs()
        if not known:
            for example in self.examples.all():
                self.examples.points(example)  # says what is missing
            raise InputError("There is no example yet. Mark an organ by six points, take a segment, or load a set.")
        wanted = list(known) if organs is None else list(organs)
        missing = [organ for organ in wanted if organ not in known]
        if not wanted or missing:
            raise InputError(
                f"There is no complete example of {', '.join(missing) or 'an organ that is chosen'}. Mark it, or "
                f"choose one of these: {', '.join(known)}."
            )
        return wanted

    def _request_set(self, run: Run, organs: Sequence[str]) -> Path:
        """Request one support set of all examples of these organs and all sets in the scene; returns where it will be.

        Examples that are not chosen are left out, so that one which is half done is in nobody's way.
        """
        marked: dict[str, tuple[Node, dict[str, list[list[float]]]]] = {}
        for example in self.examples.all():
            organ, volume = nodes.organ_of(example), nodes.volume_of(example)
            if organ in organs and self.examples.guidance(example).complete:
                points = marked.setdefault(volume.GetID(), (volume, {}))[1]
                points[organ] = self.examples.points(example).tolist()
        parts = []
        for volume, points in marked.values():

            def tell(answer: Answer, scan: str = volume.GetName()) -> None:
                run.remarks += [f"{scan}: {warning}" for warning in answer["warnings"]]

            parts.append(self._new_file("set"))
            step = Step(volume.GetName(), tell, vital=True)
            image = str(self._image_of(volume))
            self._request(run, step, "build", image=image, points_ras_mm=points, out=str(parts[-1]))
        for node in self.support_sets():
            parts.append(self._new_file("set"))
            parts[-1].write_text(node.GetText(), encoding="utf-8")
        if len(parts) == 1:
            return parts[0]
        merged = self._new_file("set")
        step = Step("Support sets", lambda answer: None, vital=True)
        self._request(run, step, "merge", sets=[str(part) for part in parts], out=str(merged))
        return merged

    def _new_file(self, kind: str) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="rprloc-")
        return Path(self._folder.name) / f"{kind}{next(self._numbers)}.json"

    def _image_of(self, volume: Node) -> Path:
        """A file with the volume as it lies in the world, written again only if the volume has changed."""
        import SimpleITK as sitk

        from rprloc.volume import to_sitk

        scan = nodes.volume_from_node(volume)
        state = (volume.GetImageData().GetMTime(), scan.grid.shape, scan.grid.ras_from_ijk.tobytes())
        known = self._images.get(volume.GetID())
        if known is not None and known[0] == state:
            return known[1]
        path = self._new_file("scan").with_suffix(".nrrd")
        try:
            sitk.WriteImage(to_sitk(scan.hu, scan.grid), str(path))
        except RuntimeError as error:
            raise InputError(
                f"The volume {volume.GetName()} cannot be written for RPR-Loc's process "
                f"({str(error).splitlines()[-1]}). Check that it is a CT scan, and that {path.parent} has space left."
            ) from error
        if known is not None:
            known[1].unlink(missing_ok=True)
        self._images[volume.GetID()] = (state, path)
        return path

    def _in_one_step(self, change: Callable[[], list[str]]) -> list[str]:
        """Make a change to the scene of which nobody sees a part, and which is taken back if it fails."""
        self.scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
        try:
            return change()
        except Exception:
            self.history.restore()
            raise
        finally:
            self.scene.EndState(slicer.vtkMRMLScene.BatchProcessState)


def _detections(answer: Answer) -> Detections:
    return Detections.from_json(json.dumps(answer), "The answer")


def _count_organs(support_set: SupportSet) -> Counter[str]:
    """The organs of a support set, and how many examples each has."""
    return Counter(organ for support in support_set.supports for organ in support.organs)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
