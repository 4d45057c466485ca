"""CT and MR: what networks see of each, what is refused, what weights tell, and training on MR."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import MRImageStorage, generate_uid

from rprloc.apps.bundle import TrainingData
from rprloc.errors import InputError
from rprloc.evaluation.evaluate import read_case
from rprloc.evaluation.views import imitate_mr
from rprloc.geometry import Grid, apply_affine
from rprloc.io.dataset import read_dataset
from rprloc.io.pictures import display_volume
from rprloc.io.plausibility import image_warnings
from rprloc.io.reading import read_scan
from rprloc.localization.confidence import NOT_CALIBRATED
from rprloc.localization.localizer import Localizer
from rprloc.modality import CT, MR, WEIGHTS_FOR, Modality, guess_modality
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.dense import LatentMap
from rprloc.model.input import NetworkInput, image_at_network_spacing, prepare_input
from rprloc.model.network import RPRNet, load_model, save_model
from rprloc.model.shipped import read_modality, shipped_models
from rprloc.training import alignment, body_frame
from rprloc.training.alignment import find_affine, mean_image
from rprloc.training.body_frame import link_to_body_frame
from rprloc.training.config import TrainingConfig
from rprloc.training.sampling import TrainingScan
from rprloc.training.training import require_same_modality
from rprloc.volume import Volume, to_sitk
from scripts.research import measure_mr
from tests.command_line import rprloc
from tests.dicoms import edited, write_series
from tests.example import ExampleFiles
from tests.persons import person
from tests.phantoms import AFFINES, PHANTOM_GRID, STORAGES, phantom_hu, stored_otherwise
from tests.scans import MORE

CPU = torch.device("cpu")


def mr_phantom(grid: Grid = PHANTOM_GRID) -> Volume:
    return Volume(imitate_mr(phantom_hu(grid)), grid, "phantom")


def seen_of(volume: Volume) -> NetworkInput:
    return prepare_input(volume, CPU, MR)


def test_mr_air_is_0_and_tissue_takes_the_range_of_soft_tissue() -> None:
    phantom = mr_phantom()
    image, grid = image_at_network_spacing(phantom, MR)
    nearest = np.rint(phantom.grid.ijk(grid.centres_ras())).astype(int)
    inside = ((nearest >= 0) & (nearest < phantom.grid.shape)).all(-1)
    assert image.dtype == np.float32 and image.min() == 0.0 and image.max() <= 1.0
    assert (image[~phantom.grid.contains(grid.centres_ras())] == 0.0).all()
    stored = phantom_hu(phantom.grid)[tuple(nearest[inside].T)]
    assert np.percentile(image[inside][stored == -1000], 75) == 0.0
    assert ((image[inside][stored == 40] > 0.2) & (image[inside][stored == 40] < 0.85)).mean() > 0.95


@settings(max_examples=15)
@given(
    factor=st.floats(1e-3, 1e3),
    offset=st.floats(-0.05, 5.0),
    storage=st.sampled_from(list(STORAGES)),
    orientation=st.sampled_from(list(AFFINES)),
)
def test_mr_looks_the_same_on_any_scale_and_in_any_order(
    factor: float, offset: float, storage: str, orientation: str
) -> None:
    """``offset`` is in parts of what is brightest."""
    spacing_mm = np.linalg.norm(AFFINES[orientation][:3, :3], axis=0)
    shape = tuple(int(n) for n in np.ceil(110.0 / spacing_mm))
    phantom = mr_phantom(Grid((shape[0], shape[1], shape[2]), AFFINES[orientation]))
    values = (phantom.hu.astype(np.float64) + 900.0 * offset) * factor
    other = Volume(*stored_otherwise(values, phantom.grid, *STORAGES[storage]))
    one, two = seen_of(phantom), seen_of(other)
    assert one.grid.same_as(two.grid, 1e-6)
    np.testing.assert_allclose(one.image, two.image, atol=0.01)
    assert (one.body != two.body).float().mean() < 1e-3


def test_noise_and_hot_voxels_hardly_change_what_is_seen_of_mr() -> None:
    phantom = mr_phantom()
    hot = phantom.hu.copy()
    hot[5, 5, 5], hot[20, 12, 9] = 60000.0, 60000.0
    one, two = (image_at_network_spacing(Volume(hu, phantom.grid), MR)[0] for hu in (phantom.hu, hot))
    assert np.percentile(np.abs(one - two), 99) < 0.02


def test_a_scan_without_air_and_one_without_anything_are_no_error() -> None:
    rng = np.random.default_rng(0)
    image, _ = image_at_network_spacing(Volume(rng.normal(400.0, 60.0, (30, 24, 20)), PHANTOM_GRID), MR)
    assert np.isfinite(image).all() and image.max() <= 1.0
    flat = np.full((30, 24, 20), 7.0)
    flat[3, 3, 3] = 8.0
    with pytest.raises(InputError, match=r"shows no body.*an MR scan itself, and no map, mask or phase image"):
        prepare_input(Volume(flat, PHANTOM_GRID), CPU, MR)


WRONG: dict[str, tuple[Modality, Volume, str]] = {
    "CT by its values, to MR weights": (
        MR,
        Volume(phantom_hu(PHANTOM_GRID), PHANTOM_GRID, "anna"),
        "anna holds Hounsfield units, as CT does, but MR is needed here",
    ),
    "CT by its file, to MR weights": (
        MR,
        Volume(imitate_mr(phantom_hu(PHANTOM_GRID)), PHANTOM_GRID, "anna", "CT"),
        "anna says that it is CT, but MR is needed here",
    ),
    "MR by its file, to CT weights": (
        CT,
        Volume(imitate_mr(phantom_hu(PHANTOM_GRID)), PHANTOM_GRID, "anna", "MR"),
        "anna says that it is MR, but CT is needed here",
    ),
}


@pytest.mark.parametrize(("modality", "volume", "about"), WRONG.values(), ids=WRONG.keys())
def test_what_surely_is_of_the_other_modality_is_refused(modality: Modality, volume: Volume, about: str) -> None:
    with pytest.raises(InputError, match=about):
        prepare_input(volume, CPU, modality)


def test_hounsfield_units_that_are_said_to_be_mr_are_used_with_a_warning() -> None:
    """As CT that was computed from MR."""
    volume = Volume(phantom_hu(PHANTOM_GRID), PHANTOM_GRID, "anna", "MR")
    prepare_input(volume, CPU, CT)
    assert "says that it is MR, not CT" in image_warnings(volume, CT)[0]


def test_weights_for_both_see_hounsfield_units_as_ct_whatever_the_file_says() -> None:
    net = RPRNet()
    net.modality = "CT+MR"
    hu = phantom_hu(PHANTOM_GRID)
    volume = Volume(hu, PHANTOM_GRID, "anna", "MR")
    assert net.modality_of(volume) is CT
    prepare_input(volume, CPU, CT)
    assert net.modality_of(Volume(imitate_mr(hu), PHANTOM_GRID, "anna", "MR")) is MR


@pytest.mark.parametrize("offset", [1000, 1024])
@pytest.mark.parametrize("storage", [np.uint16, np.int16, np.float32])
def test_ct_stored_with_an_offset_is_no_ordinary_mr(offset: int, storage: type) -> None:
    """It reaches nowhere below zero, as MR."""
    noise = np.random.default_rng(0).normal(0.0, 12.0, PHANTOM_GRID.shape)
    stored = np.rint(phantom_hu(PHANTOM_GRID) + noise + offset).clip(0).astype(storage)
    assert guess_modality(stored, "") is MR
    warnings = image_warnings(Volume(stored, PHANTOM_GRID), MR)
    assert len(warnings) == 1 and "looks like CT stored with an offset" in warnings[0]


def test_doubtful_mr_is_named_and_ordinary_mr_is_not() -> None:
    hu = phantom_hu(PHANTOM_GRID)
    mr = imitate_mr(hu)
    normalized = (mr - mr.mean()) / mr.std()
    for values in (mr, mr.astype(np.uint16), normalized, mr / mr.max(), np.where(np.indices(hu.shape)[0] < 3, 0, mr)):
        assert image_warnings(Volume(values, PHANTOM_GRID, modality="MR"), MR) == []
    windowed = image_warnings(Volume(np.clip(hu, -160, 240), PHANTOM_GRID), MR)
    assert len(windowed) == 1 and "If it is CT, use weights for CT" in windowed[0]
    labels = image_warnings(Volume((hu > 0).astype(np.uint8), PHANTOM_GRID), MR)
    assert len(labels) == 1 and "no more than 2 different values" in labels[0]
    said = image_warnings(Volume(mr, PHANTOM_GRID, modality="PT"), MR)
    assert said == ["The series says that it is PT, not MR."]


def test_pictures_of_mr_have_a_window_of_their_own() -> None:
    ct, mr = Volume(phantom_hu(PHANTOM_GRID), PHANTOM_GRID), mr_phantom()
    assert guess_modality(ct.hu, "") is CT and guess_modality(mr.hu, "") is MR
    oblique = Volume(mr.hu, Grid(mr.grid.shape, AFFINES["oblique"]), modality="MR")
    for volume in (mr, Volume(mr.hu * 1e-4, mr.grid), oblique):
        display = display_volume(volume)
        assert display.modality == volume.modality
        low, high = guess_modality(display.hu, display.modality).picture_window(display.hu)
        assert (display.hu >= high).mean() < 0.02 and low < np.median(display.hu[display.hu > low]) < high


def test_weights_tell_their_modality_and_those_for_ct_are_what_they_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = RPRNet()
    identity, names = net.identity(), set(net.state_dict())
    assert net.modality == "CT" and names == {name for name in names if "modality" not in name}
    net.modality = "MR"
    assert net.modality == "MR" and net.modalities == (MR,) and net.identity() != identity
    save_model(net, tmp_path / "mr.pt")
    assert load_model(tmp_path / "mr.pt").modality == "MR"
    assert load_model(tmp_path / "mr.pt").identity() == net.identity()
    assert Localizer.load(tmp_path / "mr.pt", "cpu").modality == "MR"
    other = RPRNet()
    other.load_state_dict(net.state_dict())
    assert other.modality == "MR"
    net.modality = "CT"
    assert net.identity() == identity and set(net.state_dict()) == names
    other.load_state_dict(net.state_dict())
    assert other.modality == "CT" and other.identity() == identity


def test_the_file_of_weights_tells_their_modality_without_pytorch(tmp_path: Path) -> None:
    net = RPRNet()
    for modality in WEIGHTS_FOR:
        net.modality = modality
        save_model(net, tmp_path / "model.pt")
        torch.save(net.state_dict(), tmp_path / "whole.pt")
        told = "from rprloc.model.shipped import *; print(*(read_modality(Path(name)) for name in sys.argv[1:]))"
        code = f"import sys; sys.modules['torch'] = None; from pathlib import Path; {told}"
        names = [tmp_path / "model.pt", tmp_path / "whole.pt", *shipped_models().values()]
        done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [modality] * 2 + ["CT", "CT", "CT+MR"]


def test_of_other_files_no_modality_is_told(tmp_path: Path, example: ExampleFiles) -> None:
    torch.save({"net.weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "half.pt").write_bytes(example.weights.read_bytes()[:5000])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("other.pt", "list.pt", "half.pt", "empty.pt", "missing.pt", "."):
        assert read_modality(tmp_path / name) == ""
    assert read_modality(example.image) == read_modality(example.support_set) == ""


def archive_with(path: Path, pickled: bytes, method: int = ZIP_STORED, **more: bytes) -> Path:
    """A file as PyTorch's, with this outline."""
    with ZipFile(path, "w", method) as archive:
        for name, content in {"data.pkl": pickled, **more}.items():
            archive.writestr(f"model/{name}", content)
    return path


def text_opcode(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode("ascii")


def test_hostile_weights_are_neither_run_nor_built(tmp_path: Path) -> None:
    names = text_opcode("atlas_values") + text_opcode("modality_name") + text_opcode("7")
    made = tmp_path / "made"
    run = b"\x80\x02cos\nmkdir\n" + text_opcode(str(made)) + b"\x85R."
    pickle.loads(run)
    made.rmdir()  # so it would have been
    deep = b"\x80\x02})" + b"\x85" * 900_000 + b"K\x01s."  # the hash of its key overflows the stack
    hostile = {
        "run": archive_with(tmp_path / "run.pt", run),
        "deep": archive_with(tmp_path / "deep.pt", deep),
        "memo": archive_with(tmp_path / "memo.pt", b"\x80\x02}r\xff\xff\xff\x0f."),  # a table of gigabytes
        "long": archive_with(tmp_path / "long.pt", b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"."),
        "bomb": archive_with(tmp_path / "bomb.pt", b"\x80\x02" + bytes(50_000_000), ZIP_DEFLATED),
        "large": archive_with(tmp_path / "large.pt", b"\x80\x02" + names + b"N0" * 600_000 + b"."),
        "name": archive_with(tmp_path / "name.pt", b"\x80\x02" + names + b".", **{"data/7": b"M" * 100_000}),
        "no name": archive_with(tmp_path / "no.pt", b"\x80\x02" + names + b"."),
        "no number": archive_with(tmp_path / "none.pt", b"\x80\x02" + names[:-6] + b"."),
    }
    for name, flag, value in (("encrypted", 6, 1), ("method", 8, 97)):
        raw = bytearray(hostile["memo"].read_bytes())
        entry = raw.index(b"PK\x01\x02")
        raw[flag], raw[entry + flag + 2] = value, value
        hostile[name] = tmp_path / f"{name}.pt"
        hostile[name].write_bytes(raw)
    code = (
        "import resource, sys; from pathlib import Path; from rprloc.model.shipped import read_modality; "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); "
        "print([read_modality(Path(name)) for name in sys.argv[1:]])"
    )
    for name, path in hostile.items():
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "['']"), f"{name}: {done.stderr}"
    assert not made.exists()


def test_damaged_weights_tell_no_other_modality(tmp_path: Path) -> None:
    net = RPRNet()
    net.modality = "MR"
    save_model(net, tmp_path / "model.pt")
    whole, generator = (tmp_path / "model.pt").read_bytes(), np.random.default_rng(0)
    start = whole.index(b"data.pkl")
    spans = (start, start + 6000), (len(whole) - 9000, len(whole))  # the outline; the table of contents
    for place in (place for span in spans for place in generator.integers(*span, 150)):
        damaged = bytearray(whole)
        damaged[place] ^= int(generator.integers(1, 256))
        (tmp_path / "damaged.pt").write_bytes(damaged)
        assert read_modality(tmp_path / "damaged.pt") in ("", "MR"), place


def test_weights_of_an_unknown_modality_are_refused(tmp_path: Path) -> None:
    state = RPRNet().state_dict()
    torch.save({**state, "modality_name": torch.tensor(list(b"PT"), dtype=torch.uint8)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="'PT' is not known"):
        load_model(tmp_path / "model.pt")


def test_weights_for_both_have_an_atlas_of_each_and_see_each_scan_as_what_it_is(tmp_path: Path) -> None:
    net = RPRNet()
    net.modality = "CT+MR"
    atlases = [BodyAtlas.at(torch.rand(2, 5, 4, 6).round(), [-3.0, 2.0, 1.0]) for _ in range(2)]
    net.atlas = atlases[0]
    net.add_second_atlas(atlases[1])
    save_model(net, tmp_path / "both.pt")
    both = load_model(tmp_path / "both.pt")
    assert both.modality == "CT+MR" and both.modalities == (CT, MR) and both.identity() == net.identity()
    for modality, atlas in zip((CT, MR), atlases, strict=True):
        torch.testing.assert_close(both.atlas_of(modality).values, atlas.values)
        assert both.atlas_of(modality).grid == atlas.grid
    hu = phantom_hu(PHANTOM_GRID)
    assert both.modality_of(Volume(hu, PHANTOM_GRID)) is CT and both.modality_of(mr_phantom()) is MR
    assert both.modality_of(Volume(imitate_mr(hu), PHANTOM_GRID, modality="CT")) is CT  # its file knows better
    net.modality = "CT"  # what is loaded into others leaves nothing of this behind
    assert "second_atlas_values" not in net.state_dict()
    del (state := both.state_dict())["second_atlas_values"]
    torch.save(state, tmp_path / "half.pt")
    with pytest.raises(InputError, match="lacks an atlas"):
        load_model(tmp_path / "half.pt")


@pytest.mark.slow
def test_scans_of_a_second_modality_come_to_the_frame_that_the_network_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    shifts = [np.array(v, float) for v in ([0, 0, 0], [50, -30, 700], [-80, 20, -300], [0, 40, 90])]
    scales, ranges = [1.0, 0.94, 1.06, 1.0], [(0, 400), (0, 480), (60, 440), (40, 460)]
    persons = [person(v, s, *r) for v, s, r in zip(shifts, scales, ranges, strict=True)]
    scans = []
    for number, scan in enumerate(persons):  # dark where CT is bright
        image = np.where(scan.image > 20, 255 - scan.image, scan.image).astype(np.uint8)
        scans.append(TrainingScan.from_array(f"drawn{number}", "g", image, scan.grid, MR))
    firsts_mm = [[144.0, 112.0, -first * scale] for (first, _), scale in zip(ranges, scales, strict=True)]

    def of_person(places_ras: np.ndarray, number: int) -> np.ndarray:
        return (places_ras - shifts[number] - firsts_mm[number]) / scales[number]

    def see(net: object, seen: NetworkInput) -> LatentMap:
        """As a network that errs by 25 mm everywhere, by 25 mm more in each scan as a whole, and badly in the last."""
        number = next(n for n, scan in enumerate(scans) if scan.grid == seen.grid)
        places = seen.grid.centres_ras()[::4, ::4, ::4]
        errors_mm = rng.normal(0.0, 25.0, places.shape) + [[25.0] * 3, [-25.0] * 3, [0.0] * 3, [0, 0, 150.0]][number]
        latents = torch.from_numpy(of_person(places, number) + errors_mm).float().permute(3, 0, 1, 2)
        grid = Grid.isotropic(places.shape[:3], 16.0, seen.grid.ras(np.zeros(3)))
        return LatentMap(grid=grid, latents=latents, inside=seen.body[::4, ::4, ::4])

    monkeypatch.setattr(body_frame, "compute_latents", see)
    net = RPRNet()
    truth = [
        BodyMap.affine(np.eye(3) / s, -(v + first) / s) for v, s, first in zip(shifts, scales, firsts_mm, strict=True)
    ]
    empty = BodyAtlas.at(torch.zeros(2, 40, 32, 70), [-160.0, -128.0, -30.0])
    net.atlas = mean_image(persons, truth, empty)
    maps, atlas = link_to_body_frame(scans, [], tmp_path / "frame.npz", net, resume=False)
    landmarks = np.array([[0.0, -25, 200], [45, 0, 110], [-45, 0, 230]])  # spine, organ, lung
    away_mm = np.array(
        [maps[n].body(landmarks * scales[n] + shifts[n] + firsts_mm[n]) - landmarks for n in range(len(scans))]
    )
    # That of which the network sees something else than the others show is left out, and lies where it is seen.
    assert np.abs(away_mm[:3]).max() < 12.0
    assert np.median(away_mm[3, :, 2]) > 100.0
    assert [message.partition(": ")[2][:8] for message in caplog.messages] == ["drawn3. "]
    assert atlas.grid == net.atlas.grid and atlas.values[1].mean() > 0.1
    monkeypatch.undo()
    again, kept = link_to_body_frame(scans, [], tmp_path / "frame.npz", net, resume=True)
    np.testing.assert_array_equal(again[1].displacement_mm, maps[1].displacement_mm)
    assert torch.equal(kept.values, atlas.values)
    with pytest.raises(InputError, match="began with other scans"):  # its networks have learned how these lie
        link_to_body_frame(scans[1:], [], tmp_path / "frame.npz", net, resume=True)


def test_frames_are_linked_by_all_scans_that_agree() -> None:
    rng = np.random.default_rng(1)
    frame = np.diag([1.05, 0.95, 0.9, 1.0])
    frame[:3, 3] = [10.0, -20.0, 300.0]
    places = [rng.uniform(-150.0, 150.0, (400, 3)) for _ in range(7)]
    errors_mm = [rng.uniform(-20.0, 20.0, 3) for _ in places]
    errors_mm[2], errors_mm[5], errors_mm[6] = (
        np.array([0, -40.0, -100]),
        np.array([0, 0, 90.0]),
        np.array([60.0, 0, 0]),
    )
    latents = [
        (apply_affine(frame, p) + e + rng.normal(0.0, 25.0, p.shape)).astype(np.float32)
        for p, e in zip(places, errors_mm, strict=True)
    ]
    link, in_line = body_frame._find_link(places, latents, 6)  # the last one is of validation
    assert in_line == [True, True, False, True, True, False, False]
    corners = np.array([[x, y, z] for x in (-100, 100) for y in (-100, 100) for z in (-100, 100)], float)
    assert np.abs(apply_affine(link, corners) - apply_affine(frame, corners)).max() < 20.0
    scattered = [apply_affine(frame, places[n]) + 120.0 * np.eye(3)[n] for n in range(3)]
    assert body_frame._find_link(places[:3], scattered, 3)[1] == [True] * 3  # nothing says which of them is right


@pytest.mark.parametrize("moved_mm", [(0.0, 0.0, 0.0), (12.0, -8.0, 25.0), (-6.0, 10.0, -20.0)])
def test_atlases_of_two_modalities_come_into_line(moved_mm: tuple[float, float, float]) -> None:
    """Whatever is dark in the one and bright in the other."""
    scan = person(np.zeros(3), 1.0, 0, 400)
    negative = np.where(scan.image > 20, 255 - scan.image, scan.image).astype(np.uint8)
    other = TrainingScan.from_array("mr", "g", negative, scan.grid, MR)
    pose = np.eye(4)
    pose[:3, 3] = [-144.0, -112.0, 0.0]
    moved = np.diag([1.04, 0.97, 0.94, 1.0])
    moved[:3, 3] = moved_mm
    empty = BodyAtlas.at(torch.zeros(2, 44, 36, 64), [-176.0, -144.0, -50.0])
    two = [BodyMap.affine(pose[:3, :3], pose[:3, 3])] * 2  # an atlas knows what several scans show
    three = [body_map.followed_by(moved) for body_map in two]
    found = find_affine(mean_image([other] * 2, three, empty), mean_image([scan] * 2, two, empty))
    corners = np.array([[x, y, z] for x in (-90, 90) for y in (-60, 60) for z in (30, 370)], float)
    assert np.linalg.norm(apply_affine(found @ moved, corners) - corners, axis=1).max() < 8.0


def test_a_map_between_atlases_that_leads_too_far_is_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.nn.functional.interpolate(torch.rand(1, 1, 5, 5, 5, generator=generator), 30, mode="trilinear")[0]
    here, there = (
        BodyAtlas.at(torch.cat([values, torch.ones_like(values)]), [moved_mm] * 3) for moved_mm in (0.0, 16.0)
    )
    assert np.abs(find_affine(here, there)[:3, 3]).max() > 5.0 and not caplog.messages
    monkeypatch.setattr(alignment, "_FARTHEST_MM", 10.0)
    np.testing.assert_array_equal(find_affine(here, there), np.eye(4))
    assert len(caplog.messages) == 1 and "do not come into line" in caplog.messages[0]


def test_atlases_of_different_parts_of_the_body_do_not_come_into_line() -> None:
    here = BodyAtlas.at(torch.ones(2, 12, 12, 12), [0.0, 0.0, 0.0])
    there = BodyAtlas.at(torch.rand(2, 12, 12, 12, generator=torch.Generator().manual_seed(0)), [0.0, 0.0, 900.0])
    with pytest.raises(InputError, match="hardly show the same parts of the body"):
        find_affine(here, there)


def as_mr(hu: np.ndarray, folder: Path, **tags: object) -> None:
    """An MR series of values like MR."""
    mr = np.rint(imitate_mr(hu)).astype(np.int16) - 1024  # what the writer adds
    drop = {name: lambda k, old: None for name in ("RescaleSlope", "RescaleIntercept", "KVP")}
    write_series(folder, mr, edited(Modality=lambda k, old: "MR", **{**drop, **tags}))  # type: ignore[arg-type]


def test_an_mr_series_is_read_as_it_is_stored(tmp_path: Path, hu: np.ndarray) -> None:
    as_mr(hu, tmp_path)
    scan = read_scan(tmp_path)
    assert scan.volume.modality == "MR" and scan.notes == ()
    np.testing.assert_array_equal(scan.volume.hu, np.rint(imitate_mr(hu)).astype(int))
    assert image_warnings(scan.volume, MR) == []
    assert "says that it is MR, not CT" in scan.warnings[0]


def test_mr_slices_that_come_in_two_breaths_are_one_scan(tmp_path: Path, hu: np.ndarray) -> None:
    times = {
        name: lambda k, old: ("101113", "101150")[k % 2] for name in ("AcquisitionTime", "ContentTime")
    }  # fmt: skip
    as_mr(hu, tmp_path / "mr", **times)
    assert read_scan(tmp_path / "mr").notes == ()
    write_series(tmp_path / "ct", hu, edited(**times))
    with pytest.raises(InputError, match="lie in each other"):
        read_scan(tmp_path / "ct")


MIXED = {
    "echo time": {"EchoTime": lambda k, old: (2.3, 4.6)[k % 2]},
    "echo": {"EchoNumbers": lambda k, old: 1 + k % 2},
    "inversion time": {"InversionTime": lambda k, old: (100.0, 2500.0)[k % 2]},
    "diffusion weighting": {"DiffusionBValue": lambda k, old: (0.0, 800.0)[k % 2]},
    "image type": {"ImageType": lambda k, old: ["ORIGINAL", "PRIMARY", "MP"[k % 2]]},
}


@pytest.mark.parametrize(("word", "tags"), MIXED.items(), ids=MIXED.keys())
def test_mr_series_of_several_contrasts_are_refused(tmp_path: Path, hu: np.ndarray, word: str, tags: dict) -> None:
    as_mr(hu, tmp_path, **tags)
    with pytest.raises(InputError, match=f"lie in each other.*differ in {word}"):
        read_scan(tmp_path)


def test_two_echoes_of_each_slice_are_refused_and_passes_end_to_end_are_not(tmp_path: Path, hu: np.ndarray) -> None:
    twice = {"ImagePositionPatient": lambda k, old: [-60, -50, 300 + 6 * (k // 2)]}
    as_mr(hu, tmp_path / "twice", EchoTime=lambda k, old: (2.3, 4.6)[k % 2], **twice)
    with pytest.raises(InputError, match="differ in echo time"):
        read_scan(tmp_path / "twice")
    as_mr(hu, tmp_path / "ends", EchoTime=lambda k, old: 2.3 if k < 10 else 2.4)
    assert read_scan(tmp_path / "ends").volume.hu.shape == hu.shape


def test_an_enhanced_mr_file_is_read_and_two_echoes_in_it_are_refused(tmp_path: Path, hu: np.ndarray) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedMRImage

    mr_storage = {
        "SOPClassUID": lambda k, old: MRImageStorage,
        "ImageType": lambda k, old: ["ORIGINAL", "PRIMARY", "M"],
    }
    for name, tags in {"one": {}, "two": {"EchoTime": lambda k, old: (2.3, 4.6)[k % 2]}}.items():
        as_mr(hu, tmp_path / name, **mr_storage, **tags)
        slices = [pydicom.dcmread(path) for path in sorted((tmp_path / name).iterdir())]
        image = LegacyConvertedEnhancedMRImage(slices, generate_uid(), 5, generate_uid(), 1)
        image.save_as(tmp_path / f"{name}.dcm")
    volume = read_scan(tmp_path / "one.dcm").volume
    assert volume.modality == "MR"
    np.testing.assert_array_equal(volume.hu, np.rint(imitate_mr(hu)).astype(int))
    with pytest.raises(InputError, match="differ in echo time"):
        read_scan(tmp_path / "two.dcm")


def test_without_ct_in_a_folder_its_only_mr_scan_is_meant(tmp_path: Path, hu: np.ndarray) -> None:
    as_mr(hu, tmp_path / "t2")
    as_mr(hu[:, :, :3], tmp_path / "scout")
    assert read_scan(tmp_path).volume.hu.shape == hu.shape
    as_mr(hu, tmp_path / "t1")
    with pytest.raises(InputError, match="Select one with series_uid"):
        read_scan(tmp_path)


@pytest.fixture(scope="module")
def mr_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datasets.json with three MR-like scans of drawn persons, each on a scale of its own."""
    folder = tmp_path_factory.mktemp("mr")
    (folder / "body" / "images").mkdir(parents=True)
    for n, last_mm in enumerate((300, 280, 320)):
        scan = person(np.array([10.0 * n, 0.0, 0.0]), 1.0, 60, last_mm)
        hu = np.interp(scan.image / 255.0, [0.0, 0.2, 0.8, 1.0], [-1000, -200, 300, 1500])
        values = (imitate_mr(hu) * (0.5 + 0.7 * n)).astype(np.int16)
        sitk.WriteImage(to_sitk(values, scan.grid), folder / "body" / "images" / f"scan{n}.nii.gz")
    cases = {f"scan{n}": {"split": "val" if n == 2 else "train", "targets": []} for n in range(3)}
    (folder / "datasets.json").write_text(json.dumps({"body": {"labels": {"1": "lung"}, "cases": cases}}))
    return folder / "datasets.json"


@pytest.fixture(scope="module")
def mr_run(mr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of few steps on MR."""
    out = tmp_path_factory.mktemp("run") / "mr"
    done = rprloc(
        "train", "--images", mr_data.parent / "body" / "images", "--modality", "mr", "--out", out, "--device", "cpu",
        "--coarse-steps", 2, "--fine-steps", 2,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "Training on 3 scans" in done.stdout and "for MR" in done.stdout
    assert (out / "skipped.csv").read_text().splitlines() == ["scan,reason"]
    return out


@pytest.mark.slow
def test_weights_that_were_trained_on_mr_locate_in_mr_and_refuse_ct(
    mr_run: Path, example: ExampleFiles, tmp_path: Path, hu: np.ndarray
) -> None:
    model = mr_run / "model.pt"
    assert load_model(model).modality == "MR"
    assert json.loads((mr_run / "config.json").read_text())["training"]["modality"] == "MR"
    sitk.WriteImage(to_sitk(imitate_mr(phantom_hu(PHANTOM_GRID)), PHANTOM_GRID), tmp_path / "mr.nii.gz")
    of_it = ("--model", model, "--device", "cpu")
    build = ("support", "build", "--labels", example.labels, "--names", example.names, "--out", tmp_path / "set.json")
    done = rprloc(*build, "--image", example.image, *of_it)
    assert done.exit_code == 2 and "as CT does, but MR is needed here" in done.stderr
    assert not (tmp_path / "set.json").exists()
    done = rprloc(*build, "--image", tmp_path / "mr.nii.gz", *of_it)
    assert done.exit_code == 0 and "look like CT" not in done.stderr, done.stderr
    as_mr(hu, tmp_path / "series")
    locate = ("locate", tmp_path / "set.json", "--out", tmp_path / "out", "--picture", *of_it)
    done = rprloc(*locate, tmp_path / "series", "--rtstruct", "--seg", "--sr")
    assert done.exit_code == 0, done.stderr
    assert len(list((tmp_path / "out").glob("series*.dcm"))) == 3
    done = rprloc(*locate, tmp_path / "mr.nii.gz", example.image)
    assert done.exit_code == 1 and "1 of 2 queries failed" in done.stderr and "but MR is needed here" in done.stderr
    for name in ("mr", "series"):
        found = json.loads((tmp_path / "out" / f"{name}.detections.json").read_text())
        assert found["warnings"] == [NOT_CALIBRATED]
        assert (tmp_path / "out" / f"{name}.png").is_file()
    of_ct = ("--out", tmp_path / "ct", "--model", example.weights)
    done = rprloc("locate", example.support_set, tmp_path / "series", *of_ct)
    assert done.exit_code == 2 and "says that it is MR, but CT is needed here" in done.stderr


@pytest.mark.slow
def test_a_training_keeps_its_modality(mr_run: Path, mr_data: Path, example: ExampleFiles, tmp_path: Path) -> None:
    data, few = ("--data", mr_data), ("--device", "cpu", "--coarse-steps", 0, "--fine-steps", 0)
    images = ("--images", mr_data.parent / "body" / "images")
    done = rprloc("train", *data, "--modality", "mr", "--init", example.weights, "--out", tmp_path / "a", *few)
    assert done.exit_code == 2 and "The weights to start from are for CT, and this training is for MR" in done.stderr
    done = rprloc("train", *images, "--resume", "--modality", "ct", "--out", mr_run, *few)
    assert done.exit_code == 2 and "is not for CT" in done.stderr
    done = rprloc("train", *images, "--resume", "--out", mr_run, "--device", "cpu")
    assert done.exit_code == 0 and "for MR" in done.stdout, done.stderr
    # Weights for MR make a training on MR, without a word.
    done = rprloc("train", *data, "--init", mr_run / "model.pt", "--out", tmp_path / "b", *few)
    assert done.exit_code == 0 and "for MR" in done.stdout, done.stderr
    assert load_model(tmp_path / "b" / "model.pt").modality == "MR"


def test_weights_to_start_from_are_for_the_same_modality_or_the_first_of_both() -> None:
    net, both = RPRNet(), TrainingConfig(modality="CT+MR")
    for name in ("CT", "CT+MR"):
        net.modality = name
        require_same_modality(both, net)
    net.modality = "MR"
    with pytest.raises(InputError, match=r"for CT\+MR\. Start from weights for CT or CT\+MR, leave"):
        require_same_modality(both, net)
    with pytest.raises(InputError, match="Start from weights for CT, leave"):
        require_same_modality(TrainingConfig(), net)


@pytest.mark.slow
def test_one_training_makes_weights_for_both(mr_data: Path, example: ExampleFiles, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (mr_data.parent / "body" / "images").iterdir():
        (images / path.name).symlink_to(path)
    few = ("--modality", "ct+mr", "--device", "cpu", "--coarse-steps", 1, "--fine-steps", 1, "--images", images)
    done = rprloc("train", *few, "--out", tmp_path / "mr", "--init", example.weights)
    assert done.exit_code == 2 and "There is no CT scan to train on" in done.stderr, done.stderr
    (images / "ct.nii.gz").symlink_to(example.image)
    (tmp_path / "one").mkdir()
    for name in ("scan0.nii.gz", "ct.nii.gz"):
        (tmp_path / "one" / name).symlink_to(images / name)
    done = rprloc("train", *few[:-1], tmp_path / "one", "--out", tmp_path / "mr", "--init", example.weights)
    assert done.exit_code == 2 and "There is only one MR scan" in done.stderr, done.stderr
    done = rprloc("train", *few, "--out", tmp_path / "both", "--init", "research")  # which has an atlas
    assert done.exit_code == 0 and "for CT+MR" in done.stdout, done.stderr
    for log in ("coarse", "coarse_both", "fine"):
        assert (tmp_path / "both" / f"{log}.csv").read_text().count("\n") == 2  # a step of each
    of_it = ("--model", tmp_path / "both" / "model.pt", "--device", "cpu")
    sitk.WriteImage(to_sitk(imitate_mr(phantom_hu(PHANTOM_GRID)), PHANTOM_GRID), tmp_path / "mr.nii.gz")
    done = rprloc(
        "support", "build", "--labels", example.labels, "--names", example.names, "--out", tmp_path / "set.json",
        "--image", example.image, *of_it,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    done = rprloc(
        "locate", tmp_path / "set.json", tmp_path / "mr.nii.gz", example.image, "--out", tmp_path / "out", *of_it
    )
    assert done.exit_code == 0 and "look like CT" not in done.stderr, done.stderr
    for name in ("mr", example.image.name.removesuffix(".nii.gz")):
        assert (tmp_path / "out" / f"{name}.detections.json").is_file()


def test_mr_without_examples_is_refused_before_it_is_measured(
    mr_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_mr", str(mr_data), "--split", "val", "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="For MR to MR there is no support case or no val case with all of liver"):
        measure_mr.main()
    assert not (tmp_path / "out").exists()


def test_scans_that_are_no_mr_are_left_out_of_training_on_mr(example: ExampleFiles, tmp_path: Path) -> None:
    done = rprloc(
        "train", "--images", example.image.parent, "--modality", "MR", "--out", tmp_path / "run", "--device", "cpu"
    )
    assert done.exit_code == 2 and "Give MR scans" in done.stderr
    reasons = (tmp_path / "run" / "skipped.csv").read_text()
    assert "If it is CT, use weights for CT" in reasons and "different values" in reasons


def test_packed_copies_of_one_modality_are_no_use_to_another(mr_data: Path, tmp_path: Path) -> None:
    as_ct, as_mr, as_both = (
        TrainingData(str(mr_data.parent), str(tmp_path), "val", modality=name).scans[0] for name in WEIGHTS_FOR
    )
    alone = TrainingData(str(mr_data.parent), str(tmp_path / "alone"), "val", modality="MR").scans[0]
    assert (as_ct.image != as_mr.image).mean() > 0.1
    assert as_both.modality is MR
    for scan in (as_mr, as_both):
        np.testing.assert_array_equal(scan.image, alone.image)


@pytest.fixture(scope="module")
def real_mr() -> Path:
    """The datasets.json with annotated MR that may lie beside the checkout; the test is skipped where it does not."""
    if not (MORE / "mr_abdomen").is_dir():
        pytest.skip("the MR scans are not on this machine")
    return MORE / "datasets.json"


def test_real_mr_is_ordinary_and_its_organs_are_tissue(real_mr: Path) -> None:
    cases = [case for case in read_dataset(real_mr) if case.region == "mr_abdomen" and case.split != "test"]
    assert len(cases) > 10
    for case in cases[::2]:
        example = read_case(case)
        assert image_warnings(example.volume, MR) == []
        assert image_warnings(example.volume, CT) != []
        seen = seen_of(example.volume)
        assert 0.3 < float(seen.body.float().mean()) < 0.95
        assert 0.4 < float(seen.image[seen.image > 0.2].median()) < 0.6
        for mask in example.annotation.masks.values():
            places = np.rint(seen.grid.ijk(mask.grid.ras(np.argwhere(mask.voxels)))).astype(int)
            assert seen.body.numpy()[tuple(places.T)].mean() > 0.98
            assert 0.2 < np.median(seen.image.numpy()[tuple(places.T)]) < 0.9


def test_real_ct_is_no_mr(real_mr: Path) -> None:
    cases = [case for case in read_dataset(real_mr) if case.region == "trunk"]
    for case in cases[::5]:
        with pytest.raises(InputError, match="but MR is needed here"):
            seen_of(read_scan(case.image_path).volume)
