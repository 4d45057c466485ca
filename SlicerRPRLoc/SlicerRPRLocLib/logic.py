"""What the module does, without Qt: examples and support sets in, runs in a child process, results beside the scans.

Nothing of a run reaches the scene before all of it has been answered; then it does so in one step.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import slicer

from rprloc.apps.batch import named_queries
from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.files import require_folder, require_writable
from rprloc.io.markups import write_rois
from rprloc.io.results import save_detections
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.examples import Examples
from SlicerRPRLocLib.history import History
from SlicerRPRLocLib.nodes import Node
from SlicerRPRLocLib.results import Results, csv_row, write_csv
from SlicerRPRLocLib.runs import Run, Step, Update


class Child(Protocol):
    """What is used of :class:`SlicerRPRLocLib.runner.Runner`."""

    def start(self) -> None: ...
    def submit(self, command: str, **options: object) -> int: ...
    def poll(self) -> list[dict[str, Any]]: ...
    def cancel(self) -> None: ...


class RPRLocLogic:
    """Everything the module can do, on one scene, by one child process."""

    def __init__(self, scene: Any, child: Child) -> None:
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
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read ({error}); a support set was expected; check the file.") from error
        _organs_of_set(text, str(path))
        node = self.scene.AddNewNodeByClass("vtkMRMLTextNode", path.name.removesuffix(".json"))
        node.SetAttribute(nodes.ROLE, "support set")
        node.SetText(text)
        return node

    def organs(self) -> dict[str, int]:
        """The organs that can be located, and how many examples each has."""
        counts: dict[str, int] = {}
        for example in self.examples.all():
            if self.examples.guidance(example).complete:
                counts[nodes.organ_of(example)] = counts.get(nodes.organ_of(example), 0) + 1
        for node in self.support_sets():
            for organ, number in _organs_of_set(node.GetText(), node.GetName()).items():
                counts[organ] = counts.get(organ, 0) + number
        return counts

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
            raise InputError("No query volume is chosen; one or more CT scans were expected; tick them.")
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

            def take(answer: dict[str, Any], volume: Node = volume, grid: nodes.Grid = grid) -> None:
                if self.scene.GetNodeByID(volume.GetID() or "") is not volume:
                    raise InputError("it was removed from the scene while it was searched.")
                if not nodes.grid_of(volume).same_as(grid, tolerance_mm=0.0):
                    raise InputError("it was moved while it was searched; press Locate again.")
                answers.append((volume, _detections(answer)))

            step = Step(volume.GetName(), take, vital=len(queries) == 1)
            self._request(run, step, "locate", set=str(support_set), image=str(path), organs=wanted)
        self._begin(run)

    def locate_in_folder(self, folder: Path, out: Path, organs: Sequence[str] | None = None) -> None:
        """Start to locate organs in all scans below a folder; the results of each are written to the folder ``out``."""
        self._require_idle()
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}; one with CT scans was expected; choose another.")
        require_folder(out)
        wanted = self._wanted(organs)
        rows: list[dict[str, object]] = []
        count = 0

        def finish() -> str:
            if rows:
                write_csv(out / "organs.csv", rows)
            organs_found = sum(bool(row["size R mm"]) for row in rows)
            return f"{organs_found} organ{_s(organs_found)} in {count} scan{_s(count)} are written to {out}."

        run = Run(finish)
        support_set = self._request_set(run, wanted)

        def search(answer: dict[str, Any]) -> None:
            paths = [Path(path) for path in answer["images"]]
            for query in named_queries(paths):

                def take(answer: dict[str, Any], name: str = query.name) -> None:
                    nonlocal count
                    found = _detections(answer)
                    out.mkdir(parents=True, exist_ok=True)
                    if found.located:
                        write_rois(out / f"{name}.mrk.json", found)
                    save_detections(out / f"{name}.detections.json", found)
                    rows.extend(csv_row(found, organ) for organ in found.organs)
                    count += 1

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
            raise InputError("A run is under way; one at a time was expected; wait for its end or cancel it.")
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
            raise InputError("There is no example yet; mark an organ by six points, take a segment, or load a set.")
        wanted = list(known) if organs is None else list(organs)
        missing = [organ for organ in wanted if organ not in known]
        if not wanted or missing:
            raise InputError(
                f"There is no complete example of {', '.join(missing) or 'an organ that is chosen'}; there are "
                f"{', '.join(known)}; choose among these, or mark it."
            )
        return wanted

    def _request_set(self, run: Run, organs: Sequence[str]) -> Path:
        """Request one support set of all examples of these organs and all sets in the scene; returns where it will be.

        Examples that are not chosen are left out, so that one which is half done is in nobody's way.
        """
        marked: dict[str, tuple[Node, dict[str, Any]]] = {}
        for example in self.examples.all():
            organ, volume = nodes.organ_of(example), nodes.volume_of(example)
            if organ in organs and self.examples.guidance(example).complete:
                points = marked.setdefault(volume.GetID(), (volume, {}))[1]
                points[organ] = self.examples.points(example).tolist()
        parts = []
        for volume, points in marked.values():
            parts.append(self._new_file("set"))
            step = Step(volume.GetName(), lambda answer: None, vital=True)
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
                f"The volume {volume.GetName()} cannot be handed over ({str(error).splitlines()[-1]}); free space in "
                f"{path.parent} and a scan of numbers were expected; check both."
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


def _detections(answer: Mapping[str, Any]) -> Detections:
    return Detections.from_json(json.dumps(answer), "The answer")


def _organs_of_set(text: str, source: str) -> dict[str, int]:
    """The organs of a support set's text and how many supports have each. The child checks the rest when it is used."""
    try:
        content = json.loads(text)
        if content["format"] != "rprloc-support":
            raise KeyError("format")
        counts: dict[str, int] = {}
        for support in content["supports"]:
            for organ in support["organs"]:
                counts[organ] = counts.get(organ, 0) + 1
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{source} is not a support set; a file that RPR-Loc saved was expected; choose another file."
        ) from error
    return counts


def _s(count: int) -> str:
    return "" if count == 1 else "s"
