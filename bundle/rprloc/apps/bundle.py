"""What the bundle's configs name as dataset, inferer, evaluator and trainer: the library as MONAI calls it.

Nothing is read before it is needed, so that a workflow can be made and looked at without scans, support set or GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from monai.inferers import Inferer
from torch.utils.data import Dataset
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from rprloc import Detections, InputError, Localizer, Scan, SupportSet, read_scan, write_results
from rprloc.apps.batch import name_queries
from rprloc.apps.console import FAILURES, describe_failure, make_output_lossless
from rprloc.evaluation.evaluate import evaluate
from rprloc.evaluation.scores import save_evaluation
from rprloc.io.dataset import read_dataset, read_regions, training_files
from rprloc.io.formats import IMAGE_EXTENSIONS
from rprloc.io.results import ResultFiles
from rprloc.modality import modalities_named
from rprloc.model.network import RPRNet
from rprloc.training.config import TrainingConfig
from rprloc.training.packing import pack
from rprloc.training.processes import one_process_first
from rprloc.training.sampling import TrainingScan
from rprloc.training.training import train

logger = logging.getLogger(__name__)


class QueryDataset(Dataset[Scan]):
    """Query scans, each read when it is asked for.

    ``data`` is a path or several. A folder stands for the image files in it; without any, for its subfolders, each a
    DICOM series; without these, for the DICOM series that it is itself.
    """

    def __init__(self, data: str | Sequence[str]) -> None:
        self.data = [data] if isinstance(data, str) else list(data)

    @cached_property
    def paths(self) -> list[Path]:
        return [path for given in self.data for path in _scans_at(Path(given))]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Scan:
        """The scan; InputError if it cannot be used."""
        return read_scan(self.paths[index])


def _scans_at(path: Path) -> list[Path]:
    try:
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError:  # no folder, or one that cannot be read, which the scan at this path will tell
        inside = []
    files = [entry for entry in inside if entry.name.lower().endswith(IMAGE_EXTENSIONS)]
    return files or [entry for entry in inside if entry.is_dir()] or [path]


class OneShotInferer(Inferer):
    """Locates the organs of a support set file, all or some, in a scan.

    ``weights``: the file of the network's weights, beside which its calibration lies; without it boxes come without
    expected errors.
    """

    def __init__(self, support_set: str, organs: str | Sequence[str] | None = None, weights: str | None = None) -> None:
        super().__init__()
        self.path = Path(support_set)
        self.weights = None if weights is None else Path(weights)
        self._localizer: Localizer | None = None
        self.organs = [organs] if isinstance(organs, str) else list(dict.fromkeys(organs or ())) or None

    @cached_property
    def support_set(self) -> SupportSet:
        return SupportSet.load(self.path)

    def localizer(self, network: RPRNet) -> Localizer:
        """What locates with a network; made once for each."""
        if self._localizer is None or self._localizer.model is not network:
            self._localizer = Localizer.of(network, self.weights)
        return self._localizer

    def __call__(self, inputs: Scan, network: RPRNet) -> Detections:  # type: ignore[override]
        return self.localizer(network).locate(inputs, self.support_set, self.organs)


class LocalizationEvaluator:
    """Locates organs in all scans of a dataset; writes ``<name>.detections.json`` and ``<name>.mrk.json`` for each."""

    def __init__(self, network: RPRNet, dataset: QueryDataset, inferer: OneShotInferer, output_dir: str) -> None:
        self.network = network
        self.dataset = dataset
        self.inferer = inferer
        self.output_dir = Path(output_dir)

    def run(self) -> None:
        """Write the results. A scan that cannot be used is reported and the others are done; then InputError is raised.

        Raises InputError at once, and writes nothing, if the support set cannot be used or two scans have one name.
        """
        paths, failed = self.dataset.paths, 0
        names = [query.name for query in name_queries(paths)]
        self.inferer.localizer(self.network).check(self.inferer.support_set, self.inferer.organs)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with logging_redirect_tqdm():
            for index, name in enumerate(tqdm(names, desc="locating", unit="scan")):
                try:
                    ResultFiles(self.output_dir, name).require_possible(paths[index])
                    scan = self.dataset[index]
                    detections = self.inferer(scan, self.network)
                    write_results(self.output_dir, scan, detections, name=name)
                except FAILURES as error:
                    failed += 1
                    logger.error("%s", describe_failure(error, paths[index]))
                    logger.info("%s failed here:", paths[index], exc_info=True)
        if failed:
            raise InputError(f"{failed} of {len(paths)} scans could not be used. The log above gives the reasons.")


class AccuracyEvaluator:
    """Measures one region and split of the ``datasets.json`` in folder ``data``, as
    :func:`rprloc.evaluation.evaluate.evaluate`.

    Writes ``<region>-<split>-<shots>.json``, and ``.csv`` with every pair of a support and a query.
    """

    def __init__(
        self,
        network: RPRNet,
        data: str,
        region: str,
        split: str,
        shots: str,
        output_dir: str,
        weights: str | None = None,
    ) -> None:
        self.network = network
        self.data = Path(data)
        self.region = region
        self.split = split
        self.shots = shots
        self.output_dir = Path(output_dir)
        self.weights = None if weights is None else Path(weights)

    def run(self) -> None:
        """Evaluate, write the results and print their table. Raises InputError if the data cannot be used."""
        path = self.data / "datasets.json"
        cases, about = read_dataset(path), read_regions(path).get(self.region)
        localizer = Localizer.of(self.network, self.weights)
        evaluation = evaluate(localizer, cases, self.region, self.split, self.shots, about)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        save_evaluation(evaluation, self.output_dir)
        make_output_lossless()
        print(evaluation.to_table())


class TrainingData(Dataset[TrainingScan]):
    """The cases of a split of the ``datasets.json`` in folder ``data``; packed copies are kept in ``cache_dir``.

    ``modality``: that of the training's configuration.
    """

    def __init__(self, data: str, cache_dir: str, split: str = "train", modality: str = "CT") -> None:
        self.modalities = modalities_named(modality)
        self.data = Path(data)
        self.cache_dir = Path(cache_dir)
        self.split = split

    @cached_property
    def scans(self) -> list[TrainingScan]:
        with one_process_first():
            return pack(
                training_files(self.data / "datasets.json", self.split), self.cache_dir, modalities=self.modalities
            )

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> TrainingScan:
        return self.scans[index]


class Trainer:
    """Trains both Pnets; ``max_epochs`` is how many times the steps of ``config`` are taken, in one longer schedule."""

    def __init__(
        self,
        dataset: TrainingData,
        validation: TrainingData,
        config: TrainingConfig,
        output_dir: str,
        device: torch.device | str,
        max_epochs: int = 1,
        resume: bool = False,
    ) -> None:
        self.dataset = dataset
        self.validation = validation
        self.config = config
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.max_epochs = max_epochs
        self.resume = resume

    def run(self) -> None:
        """Train and write ``model.pt``, the checkpoints and the logs to ``output_dir``."""
        longer = replace(
            self.config,
            coarse_steps=self.config.coarse_steps * self.max_epochs,
            fine_steps=self.config.fine_steps * self.max_epochs,
        )
        train(
            self.dataset.scans,
            self.output_dir,
            longer,
            device=self.device,
            validation=self.validation.scans,
            resume=self.resume,
        )
