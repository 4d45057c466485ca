"""Would the MONAI model zoo take this bundle? Its checks, without a network, and that the exports give the same.

    python -m scripts.release.check_bundle [bundle folder or archive] [--work DIR] [--alone DIR]

Checked are: files, sizes, licence, metadata (schema, version, changelog, scores against docs/accuracy), README,
logging, the properties of every workflow, MONAI's verify_metadata and verify_net_in_out, monai.bundle.load, and the
exports to TorchScript and ONNX against the network on inputs of several sizes.

``--alone DIR`` needs a package index: a virtual environment with nothing but the declared packages is made in DIR, the
bundle is copied beside it, and the inference, evaluation and training configs are run there on a phantom.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging.config
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "tests" / "data" / "meta_schema_20240725.json"
ACCURACY = ROOT / "docs" / "accuracy"
MAX_BYTES = 25_000_000
REQUIRED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md")
WORKFLOWS = {"infer": ["inference"], "eval": ["inference", "evaluate"], "train": ["train"]}
SECTIONS = (
    "Model Description",
    "Intended Use",
    "Data",
    "Preprocessing",
    "Commands",
    "Performance",
    "System Configuration",
    "Environmental Cost",
    "Limitations",
    "License",
    "References",
)
TOLERANCE = 1e-4  # of the exports, in the network's unit of 100 mm
SHAPES = ((66, 70, 74), (58, 58, 58), (90, 62, 78))


class ProblemError(Exception):
    """What the zoo would not take."""


def require(fine: bool, problem: str) -> None:
    if not fine:
        raise ProblemError(problem)


def check_files(bundle: Path) -> str:
    for name in REQUIRED:
        require((bundle / name).is_file(), f"{name} is missing")
    sizes = {path.relative_to(bundle).as_posix(): path.stat().st_size for path in bundle.rglob("*") if path.is_file()}
    large = [name for name, size in sizes.items() if size > MAX_BYTES]
    require(not large, f"larger than 25 MB: {', '.join(large)}. List them in large_files.yml.")
    odd = [name for name in sizes if "__pycache__" in name or name.endswith((".pyc", ".ts", ".onnx", ".log"))]
    require(not odd, f"not part of a bundle: {', '.join(odd[:5])}")
    require("Apache License" in (bundle / "LICENSE").read_text(encoding="utf-8"), "LICENSE is not the Apache License")
    require(not (bundle / "scripts").is_dir(), "a package called scripts would be shared by all bundles of a process")
    return f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB"


def check_configs(bundle: Path) -> str:
    for path in sorted((bundle / "configs").glob("*.json")):
        text = path.read_text(encoding="utf-8")
        laid_out = json.dumps(json.loads(text), indent=4, ensure_ascii=False) + "\n"
        require(text == laid_out, f"{path.name} is not indented by four spaces")
        require("lambda" not in text, f"{path.name} holds a lambda")
    settings = (bundle / "configs" / "logging.conf").read_text(encoding="utf-8")
    classes = re.findall(r"^class\s*=\s*(\S+)", settings, re.MULTILINE)
    known = [name for name in classes if hasattr(logging, name) or name.startswith("logging.handlers.")]
    require(known == classes, f"logging.conf names {set(classes) - set(known)}, which is not of logging")
    return "laid out as the zoo's"


def check_metadata(bundle: Path) -> str:
    import jsonschema

    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    jsonschema.Draft201909Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(metadata)
    require(metadata["version"] in metadata["changelog"], "the version is not in the changelog")
    package = (bundle / "rprloc" / "version.py").read_text(encoding="utf-8")
    require(f'"{metadata["version"]}"' in package, "the version is not that of the package")
    require("optional_packages_version" not in metadata, "optional_packages_version is the old name")
    if ACCURACY.is_dir():
        require(
            metadata.get("eval_metrics") == read_scores(),
            "eval_metrics are not those of docs/accuracy. Copy those.",
        )
    return f"version {metadata['version']}"


def read_scores() -> dict[str, float]:
    """The means over the targets of each region, from docs/accuracy."""
    means = {}
    for shots in ("one", "all"):
        for region in ("han", "thorax", "abdomen"):
            mean = json.loads((ACCURACY / f"{region}-test-{shots}.json").read_text(encoding="utf-8"))["mean"]
            means[f"{region}_{shots}_shot_mean_iou"] = mean["iou"]
            means[f"{region}_{shots}_shot_mean_wall_distance_mm"] = mean["awd_mm"]
    return means


def check_readme(bundle: Path) -> str:
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [name for name in SECTIONS if not re.search(rf"^## {name}\s*$", text, re.MULTILINE)]
    require(not missing, f"docs/README.md lacks the sections {', '.join(missing)}")
    for wanted in ("**Authors:**", "**Tags:**", "research", "TorchScript", "TensorRT", "sd over supports"):
        require(wanted.lower() in text.lower(), f"docs/README.md does not speak of {wanted}")
    return f"{len(SECTIONS)} sections"


def check_workflows(bundle: Path) -> str:
    from monai.bundle import create_workflow

    for kind, names in WORKFLOWS.items():
        files = [str(bundle / "configs" / f"{name}.json") for name in names]
        workflow = create_workflow(config_file=files, workflow_type=kind, bundle_root=str(bundle))
        missing = workflow.check_properties()
        workflow.finalize()
        require(not missing, f"the workflow {kind} lacks the properties {missing}")
    return ", ".join(WORKFLOWS)


def check_monai(bundle: Path, work: Path) -> str:
    from monai.bundle import verify_metadata, verify_net_in_out

    metadata, config = bundle / "configs" / "metadata.json", bundle / "configs" / "inference.json"
    schema = shutil.copy(SCHEMA, work)  # where MONAI would download it to
    verify_metadata(meta_file=str(metadata), filepath=schema)
    verify_net_in_out("network_def", meta_file=str(metadata), config_file=str(config), device="cpu", n=2)
    return "metadata, network's input and output"


def check_load(bundle: Path, work: Path) -> str:
    from monai.bundle import load

    from rprloc.model.network import load_model

    for kind in ("inference", "train"):
        loaded: Any = load(bundle.name, bundle_dir=str(bundle.parent), workflow_type=kind, device="cpu")
        require(
            loaded.identity() == load_model(bundle / "models" / "model.pt").identity(),
            f"monai.bundle.load with {kind} does not give the weights of models/model.pt; does network_def of the "
            "config have the atlas_shape of the weights?",
        )
    return "the very weights"


def check_exports(bundle: Path, work: Path) -> str:
    """Export the network and compare on random input; the difference in mm."""
    import onnxruntime
    import torch
    from monai.bundle import ckpt_export, onnx_export

    from rprloc.model.network import MM_PER_UNIT, load_model

    common: dict[str, Any] = {
        "net_id": "network_def",
        "ckpt_file": str(bundle / "models" / "model.pt"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": str(bundle / "configs" / "inference.json"),
        "bundle_root": str(bundle),
        "device": "cpu",
    }
    ckpt_export(filepath=str(work / "model.ts"), **common)
    spatial = dict.fromkeys((2, 3, 4), torch.export.Dim.DYNAMIC)
    onnx_export(
        filepath=str(work / "model.onnx"),
        use_trace=True,
        input_shape=[1, 1, *SHAPES[0]],
        converter_kwargs={"dynamic_shapes": (spatial,)},
        **common,
    )
    network = load_model(bundle / "models" / "model.pt")
    script = torch.jit.load(str(work / "model.ts")).eval()
    session = onnxruntime.InferenceSession(str(work / "model.onnx"), providers=["CPUExecutionProvider"])
    generator, worst = torch.Generator().manual_seed(0), {"TorchScript": 0.0, "ONNX": 0.0}
    for shape in SHAPES:
        image = torch.rand((1, 1, *shape), generator=generator)
        with torch.inference_mode():
            expected = network(image)
            outputs = {"TorchScript": script(image)}
        outputs["ONNX"] = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
        for name, output in outputs.items():
            worst[name] = max(worst[name], float((output - expected).abs().max()))
    said = ", ".join(f"{name} differs by at most {mm:.1e} mm" for name, mm in worst.items())
    require(max(worst.values()) <= TOLERANCE * MM_PER_UNIT, said)
    return said


# Alone, with the declared packages


def check_alone(bundle: Path, folder: Path) -> str:
    """Run the configs in an environment of their own; returns what was run."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    declared = {name: metadata[f"{name}_version"] for name in ("monai", "pytorch", "numpy")}
    declared = {"torch" if name == "pytorch" else name: version for name, version in declared.items()}
    packages = [f"{name}=={version}" for name, version in (declared | metadata["required_packages_version"]).items()]
    if not (folder / "venv").is_dir():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run(install, check=True)
    for left in ("bundle", "data", "inference", "evaluation", "training"):
        shutil.rmtree(folder / left, ignore_errors=True)
    home = folder / "bundle"
    shutil.copytree(bundle, home, ignore=shutil.ignore_patterns("__pycache__"))
    make = [sys.executable, __file__, "--phantom", str(folder / "data"), str(home)]
    subprocess.run(make, check=True, env=os.environ | {"PYTHONPATH": str(home)})
    small = {"coarse_steps": 2, "fine_steps": 2, "coarse_outputs": 2, "fine_outputs": 3, "crops_a_step": 2}
    data = str(folder / "data")
    runs: dict[str, tuple[list[str], dict[str, Any]]] = {
        "inference": (["inference"], {"dataset_dir": f"{data}/scans", "support_set": f"{data}/support.json"}),
        "evaluation": (["inference", "evaluate"], {"dataset_dir": data, "region": "chest"}),
        "training": (["train"], {"dataset_dir": data, **{f"train#config#{name}": n for name, n in small.items()}}),
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for name, (configs, options) in runs.items():
        command = [str(python), "-m", "monai.bundle", "run", "--bundle_root", ".", "--device", "cpu"]
        command += ["--config_file", str([f"configs/{config}.json" for config in configs])]
        command += ["--output_dir", str(folder / name)]
        for option, value in options.items():
            command += [f"--{option}", str(value)]
        process = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
        require(process.returncode == 0, f"{name} failed:\n{process.stdout[-1500:]}\n{process.stderr[-3000:]}")
        require(any((folder / name).iterdir()), f"{name} wrote nothing")
    return f"{', '.join(runs)} with {', '.join(packages)}"


def make_phantom(folder: Path) -> None:
    """A datasets.json of a box in a body, the scans by themselves, and a support set by the bundle's weights."""
    import numpy as np
    import SimpleITK as sitk

    import rprloc
    from rprloc.geometry import Grid
    from rprloc.volume import to_sitk

    grid = Grid((40, 34, 40), np.array([[7.0, 0, 0, -140], [0, 7, 0, -119], [0, 0, 7, -140], [0, 0, 0, 1.0]]))
    u = grid.centres_ras() / [130.0, 105.0, 160.0]
    (folder / "scans").mkdir(parents=True)
    for name in ("images", "labels"):
        (folder / "chest" / name).mkdir(parents=True)
    cases = {}
    for number, split in enumerate(("train", "train", "val", "support", "test")):
        noise = np.random.default_rng(number).normal(0, 10, grid.shape)
        labels = (np.square(u - [0.3, 0.1, 0.02 * number]).sum(-1) < 0.04).astype(np.uint8)
        hu = np.where(np.square(u).sum(-1) < 1, 30 + noise, -1000) + 500.0 * labels
        image = to_sitk(hu.astype(np.int16), grid)
        sitk.WriteImage(image, str(folder / "chest" / "images" / f"case{number}.nii.gz"))
        sitk.WriteImage(to_sitk(labels, grid), str(folder / "chest" / "labels" / f"case{number}.nii.gz"))
        cases[f"case{number}"] = {"split": split, "targets": ["box"]}
        if split == "test":
            sitk.WriteImage(image, str(folder / "scans" / "query.nii.gz"))
        if split == "support":
            image_path, labels_path = (
                folder / "chest" / kind / f"case{number}.nii.gz" for kind in ("images", "labels")
            )
            example = rprloc.read_example(image_path, labels=labels_path, names={1: "box"}, name="phantom")
            rprloc.Localizer.load(device="cpu").learn(example).save(folder / "support.json")
    content = {"chest": {"labels": {"1": "box"}, "cases": cases}}
    (folder / "datasets.json").write_text(json.dumps(content), encoding="utf-8")


def run_checks(bundle: Path, work: Path, alone: Path | None) -> int:
    """Run all checks, print a line for each, and return how many failed."""
    sys.path.insert(0, str(bundle))  # MONAI does so with a bundle that it runs; this copy is what is checked
    importlib.invalidate_caches()
    checks: list[tuple[str, Callable[[], str]]] = [
        ("files", lambda: check_files(bundle)),
        ("configs", lambda: check_configs(bundle)),
        ("metadata", lambda: check_metadata(bundle)),
        ("README", lambda: check_readme(bundle)),
        ("workflows", lambda: check_workflows(bundle)),
        ("MONAI's own", lambda: check_monai(bundle, work)),
        ("load", lambda: check_load(bundle, work)),
        ("exports", lambda: check_exports(bundle, work)),
    ]
    if alone is not None:
        checks.append(("alone", lambda: check_alone(bundle, alone)))
    failed = 0
    for name, check in checks:
        noise = io.StringIO()
        try:
            with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                said = check()
            print(f"ok    {name}: {said}", flush=True)
        except Exception as error:  # noqa: BLE001 (whatever MONAI raises, the other checks go on)
            failed += 1
            detail = (
                "" if isinstance(error, ProblemError) else f"\n{noise.getvalue()[-1000:]}\n{traceback.format_exc()}"
            )
            print(f"WRONG {name}: {error}{detail}", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=ROOT / "bundle", help="a folder or a zip archive")
    parser.add_argument("--work", type=Path, help="where exports are written; a temporary folder by default")
    parser.add_argument(
        "--alone", type=Path, metavar="DIR", help="also run it alone in this folder, with a package index"
    )
    parser.add_argument("--phantom", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phantom is not None:
        make_phantom(given.phantom)
        return
    with tempfile.TemporaryDirectory() as folder:
        # A copy without what running it left in it; its name is that under which MONAI loads it.
        copy = Path(folder) / "bundles" / "rprloc"
        if given.bundle.is_file():
            with zipfile.ZipFile(given.bundle) as archive:
                archive.extractall(Path(folder) / "archive")
            (inside,) = (Path(folder) / "archive").iterdir()
            shutil.copytree(inside, copy)
        else:
            shutil.copytree(given.bundle, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        work = given.work or Path(folder) / "work"
        work.mkdir(parents=True, exist_ok=True)
        failed = run_checks(copy, work, given.alone)
    print("The bundle is as the zoo wants it." if not failed else f"{failed} checks failed.")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
