"""What the module does, without Qt: examples and support sets in, runs in a child process, results beside the scans.

Scans go to the child one at a time, and what is found in each reaches the scene as soon as it is answered. A run is one
step to undo.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from rprloc import Detections, InputError, write_rois
from rprloc.apps.batch import name_queries
from rprloc.files import require_folder, require_writable
from rprloc.io.results import TABLE, ResultFiles
from rprloc.io.table import result_rows, save_table
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.examples import Examples
from SlicerRPRLocLib.handover import Handover
from SlicerRPRLocLib.history import History
from SlicerRPRLocLib.nodes import Node, Scene
from SlicerRPRLocLib.onward import Onward
from SlicerRPRLocLib.reopen import FolderResults
from SlicerRPRLocLib.results import Results
from SlicerRPRLocLib.runs import Answer, Event, Run, Step, Update, at_once
from SlicerRPRLocLib.sets import Sets
from SlicerRPRLocLib.steps import Steps, nothing
from SlicerRPRLocLib.teaching import Again, put_unless_checked
from SlicerRPRLocLib.wording import counted

_HANDOVER_S = 0.05  # of each poll
_WAIT_S = 0.05


class Child(Protocol):
    """What is used of :class:`SlicerRPRLocLib.runner.Runner`."""

    @property
    def about(self) -> str: ...
    def start(self) -> None: ...
    def submit(self, command: str, **options: object) -> int: ...
    def poll(self) -> list[Event]: ...
    def cancel(self) -> None: ...


class RPRLocLogic:
    """Everything the module can do, on one scene, by one child process."""

    def __init__(self, scene: Scene, child: Child, temporary: Path | None = None) -> None:
        """``temporary``: the folder for files that go to the child; by default the system's."""
        self.scene = scene
        self.examples = Examples(scene)
        self.results = Results(scene)
        self.onward = Onward(self.results)
        self.sets = Sets(scene)
        self.history = History(self.examples, self.results, self.sets)
        self._child = child
        self._run: Run | None = None
        self._handover = Handover(temporary)
        self._steps = Steps(scene, self.examples, self.sets, self._handover)

    @property
    def about_child(self) -> str:
        """Which library the child runs and on what; "" while there is none."""
        return self._child.about

    def use(self, child: Child) -> None:
        """Take another child, for example on another device; the old one is ended. Not during a run."""
        self._require_idle()
        self._child.cancel()
        self._child = child

    def rest(self) -> None:
        """End the child if it has nothing to do, so that other programs get its memory; the next run starts another."""
        if self._run is None:
            self._child.cancel()

    def close(self) -> None:
        """End the child and remove the files that were handed to it."""
        self.cancel()
        self._child.cancel()
        self._handover.clear()

    def forget_scene(self) -> None:
        """Another scene: keep nothing of the one before."""
        self.cancel()
        self._handover.clear()
        self.examples.forget()
        self.history.clear()

    def tidy(self) -> None:
        """Remove what belongs to nodes that are gone: previews, results, files."""
        self.examples.remove_orphans()
        self.results.remove_orphans()
        self.onward.remove_orphans()
        if self._run is None:
            self._handover.forget_gone(self.scene)

    # Examples

    def targets(self) -> dict[str, int]:
        """The organs and landmarks that can be located, and how many examples each has."""
        examples = filter(self._is_complete, self.examples.all())
        counts = Counter(nodes.organ_of(example) for example in examples)
        for node in self.sets.all():
            counts.update(self.sets.organs(node))
            counts.update(self.sets.landmarks(node))
        return dict(counts)

    def describe_targets(self) -> dict[str, str]:
        """What a list says of each organ and landmark that can be located."""
        marked = filter(nodes.is_landmark, self.examples.all())
        landmarks = {nodes.organ_of(example) for example in marked if self._is_complete(example)}
        landmarks.update(*(self.sets.landmarks(node) for node in self.sets.all()))
        told = {}
        for name, count in self.targets().items():
            more = ["landmark"] * (name in landmarks) + [str(count)] * (count > 1)
            told[name] = f"{name} ({', '.join(more)})" if more else name
        return told

    def describe_examples(self) -> dict[str, str]:
        """By their nodes' ids, what is to be said of each example and each support set."""
        told = {}
        for example in self.examples.all():
            kind = " (landmark)" if nodes.is_landmark(example) else ""
            state = "" if self._is_complete(example) else " (not complete)"
            told[example.GetID()] = f"{nodes.organ_of(example)}{kind} on {nodes.volume_of(example).GetName()}{state}"
        return told | {node.GetID(): self.sets.describe(node) for node in self.sets.all()}

    def _is_complete(self, example: Node) -> bool:
        return self.examples.guidance(example).complete

    # Runs

    @property
    def busy(self) -> bool:
        return self._run is not None

    def locate(self, queries: Sequence[Node], organs: Sequence[str] | None = None) -> None:
        """Start to locate organs and landmarks (by default all that have an example) in volumes of the scene.

        Results come into the scene scan by scan while :meth:`poll` is called. Boxes and points that a person has
        corrected or ticked are left alone. A scan that cannot be used is told, and the others are done. Raises
        InputError, and starts nothing, if an example, the choice or the only volume cannot be used.
        """
        self._require_idle()
        if not queries:
            raise InputError("No query volume is chosen. Tick one or more scans.")
        wanted = self._wanted(organs)
        if len(queries) == 1:
            nodes.volume_from_node(queries[0])
        self._search([(scan, wanted) for scan in queries], wanted, partial(put_unless_checked, self.results))

    def locate_again(self) -> None:
        """Start to bring all findings up to date with the examples that there are now, in all scans with results.

        What a person corrects or ticks is left alone, and so are examples. Results come as by :meth:`locate`, and the
        end tells what has changed. Raises InputError, and starts nothing, if nothing is open.
        """
        self._require_idle()
        again = Again(self.results, self.examples, self._wanted(None))
        queries = [(self.scene.GetNodeByID(volume_id), organs) for volume_id, organs in again.by_scan.items()]
        organs = dict.fromkeys(organ for _, names in queries for organ in names)
        self._search(queries, list(organs), again.put, lambda: again.told)

    def _search(
        self,
        queries: Sequence[tuple[Node, list[str]]],
        organs: Sequence[str],
        put: Callable[[Node, Detections], list[str]],
        told: Callable[[], str] = lambda: "",
    ) -> None:
        """Begin to locate in volumes, in each its organs, by all examples of ``organs``.

        ``put`` brings an answer into the scene and gives remarks; ``told`` says more in the end.
        """
        self.history.record()
        answers: list[tuple[Node, Detections]] = []

        def so_far() -> str:
            so_many = f"{_found(found for _, found in answers)} in {len(answers)} of {len(queries)} scans."
            return f"{so_many} {told()}".strip()

        def finish() -> str:
            run.remarks += dict.fromkeys(f"{v.GetName()}: {w}" for v, found in answers for w in found.warnings)
            if answers and (others := self.results.of_other_weights(answers[-1][1].model_id)):
                run.remarks.append(f"Still of other weights: {', '.join(others)}. Locate or delete these, too.")
            return so_far()

        run = Run(finish, lambda: so_far() if answers else "")
        support_set = self._steps.add_set(run, organs)
        for volume, names in queries:

            def keep(answer: Answer, volume: Node = volume) -> None:
                found = _detections(answer)
                run.remarks += self._or_as_before(lambda: put(volume, found))
                self.history.record(owner=run)
                answers.append((volume, found))

            run.add([self._steps.locate(volume, support_set, names, keep, vital=len(queries) == 1)])
        self._begin(run)

    def locate_and_wait(
        self,
        queries: Sequence[Node],
        organs: Sequence[str] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> str:
        """:meth:`locate` for scripts: returns when all is done, what there is to tell. Raises InputError if it fails.

        ``meanwhile`` is called again and again, for example ``slicer.app.processEvents``.

        Examples
        --------
        >>> logic = slicer.util.getModuleLogic("SlicerRPRLoc")  # doctest: +SKIP
        >>> logic.examples.set_points(logic.examples.add(anna, "heart"), six_points_ras)  # doctest: +SKIP
        >>> logic.locate_and_wait([bert])  # doctest: +SKIP
        '1 organ in 1 of 1 scans.'
        """
        self.locate(queries, organs)
        while self.busy:
            update = self.poll()
            if update is not None and update.summary is not None:
                if update.failed:
                    raise InputError(update.summary)
                return update.summary
            meanwhile()
            time.sleep(_WAIT_S)
        raise InputError("The run was cancelled.")

    def locate_in_folder(self, folder: Path, out: Path, organs: Sequence[str] | None = None) -> None:
        """Start to locate organs in all scans below a folder; the results of each are written to the folder ``out``."""
        self._require_idle()
        if not folder.is_absolute():
            raise InputError("No folder with scans is chosen. Choose one.")
        if not out.is_absolute():
            raise InputError("No folder for the results is chosen. Choose one.")
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}. Choose one with scans.")
        require_folder(out)
        wanted = self._wanted(organs)
        answers: list[Detections] = []

        def finish() -> str:
            if answers:
                save_table(out / TABLE, [row for found in answers for row in result_rows(found)])
            return f"{_found(answers)} in {counted(len(answers), 'scan')} are written to {out}."

        run = Run(finish, lambda: finish() if answers else "")
        support_set = self._steps.add_set(run, wanted)

        def search(answer: Answer) -> None:
            paths = [Path(path) for path in answer["images"]]
            for query in name_queries(paths):
                files = ResultFiles(out, query.name)

                def take(answer: Answer, files: ResultFiles = files) -> None:
                    found = _detections(answer)
                    out.mkdir(parents=True, exist_ok=True)
                    if found.located or found.located_landmarks:
                        write_rois(files.rois, found)
                    found.save(files.detections)
                    answers.append(found)

                request = at_once("locate", set=str(support_set), image=str(query.path), organs=wanted)
                run.add([Step(query.name, request, take, vital=len(paths) == 1)])

        run.add([Step(folder.name, at_once("find", folder=str(folder)), search, vital=True)])
        self._begin(run)

    def open_result(self, folder: FolderResults, name: str) -> str:
        """Open the result of one scan, out of those in a folder; returns what there is to tell. One step to undo.

        Raises InputError, and changes nothing, if the scan is gone or is not the one that was searched.
        """
        self.history.record()
        volume, told = folder.open(name, self.results)
        self.history.record()
        return " ".join([f"{volume.GetName()} is open.", *told])

    def save_support_set(self, path: Path, organs: Sequence[str] | None = None) -> None:
        """Start to write all examples and support sets of the scene into one file."""
        self._require_idle()
        path = path.absolute()  # the child works in another folder
        require_writable(path)
        wanted = self._wanted(organs)
        run = Run(lambda: f"The support set is written to {path}.")
        built = self._steps.add_set(run, wanted)
        run.add([Step(path.name, at_once("merge", sets=[str(built)], out=str(path)), nothing, vital=True)])
        self._begin(run)

    def poll(self) -> Update | None:
        """Take what the child has sent, and hand it what is next; None if there is no run. Call it often.

        Scene and files change only in here.
        """
        events = self._child.poll()
        run = self._run
        if run is None:
            return None
        log: list[str] = []
        try:
            for event in events:
                log += run.take(event)
            log += run.advance(self._child.submit, _HANDOVER_S)
            if not run.is_done:
                return run.under_way(log)
            summary = run.finish()
        except (InputError, OSError) as error:
            return self._failed(run, str(error), log)
        self._run = None
        self._handover.forget_gone(self.scene)
        return run.done(summary, log)

    def cancel(self) -> str:
        """End a run and its process at once; what was found before stays. Returns what that is, "" if nothing."""
        run, self._run = self._run, None
        if run is None:
            return ""
        self._child.cancel()
        run.close()
        return run.so_far()

    def _failed(self, run: Run, message: str, log: Sequence[str]) -> Update:
        self._run = None
        run.close()
        self._handover.forget_gone(self.scene)
        return run.failed(message, log)

    def _require_idle(self) -> None:
        if self._run is not None:
            raise InputError("A run is under way. Wait for its end or cancel it.")
        self._child.poll()  # what an earlier run has left

    def _begin(self, run: Run) -> None:
        self._child.start()  # it gets ready while the first scan is handed over
        self._run = run

    def _wanted(self, organs: Sequence[str] | None) -> list[str]:
        known = self.targets()
        if not known:
            for example in self.examples.all():
                self.examples.points(example)  # says what is missing
            raise InputError(
                "There is no example yet. Mark an organ by six points or a landmark by one, take a segment, or add a "
                "set."
            )
        wanted = list(known) if organs is None else list(organs)
        missing = [organ for organ in wanted if organ not in known]
        if not wanted or missing:
            raise InputError(
                f"There is no complete example of {', '.join(missing) or 'an organ that is chosen'}. Mark it, or "
                f"choose one of these: {', '.join(known)}."
            )
        self._require_one_meaning(wanted)
        return wanted

    def _require_one_meaning(self, wanted: Sequence[str]) -> None:
        """Raise InputError for a name that stands for an organ in one example and for a landmark in another."""
        places: dict[bool, dict[str, str]] = {False: {}, True: {}}
        for example in filter(self._is_complete, self.examples.all()):
            if nodes.organ_of(example) in wanted:
                on = f"on {nodes.volume_of(example).GetName()}"
                places[nodes.is_landmark(example)].setdefault(nodes.organ_of(example), on)
        for node in self.sets.with_any(wanted):
            for landmark, names in ((False, self.sets.organs(node)), (True, self.sets.landmarks(node))):
                for name in names:
                    places[landmark].setdefault(name, f"in {node.GetName()}")
        both = [name for name in places[True] if name in places[False]]
        if both:
            name = both[0]
            raise InputError(
                f"{name} is a landmark {places[True][name]} and an organ {places[False][name]}. Remove one of these "
                "examples, or rename it in the module Data."
            )

    def _or_as_before(self, change: Callable[[], list[str]]) -> list[str]:
        """Make a change to the scene, which is taken back if it fails."""
        try:
            return change()
        except Exception:
            self.history.restore()
            raise


def _detections(answer: Answer) -> Detections:
    return Detections.from_json(json.dumps(answer), "The answer")


def _found(answers: Iterable[Detections]) -> str:
    """How many organs and landmarks were found."""
    answers = list(answers)
    organs, landmarks = sum(len(a.located) for a in answers), sum(len(a.located_landmarks) for a in answers)
    told = [counted(organs, "organ")] * bool(organs or not landmarks)
    return " and ".join([*told, *[counted(landmarks, "landmark")] * bool(landmarks)])
