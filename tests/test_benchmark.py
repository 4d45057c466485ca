"""The benchmark: what it scores, what it does again, and that a method is one small file.

Over 400 lines, because every test works on the same toy data and methods, which stand here once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from rprloc.io.dataset import read_dataset
from rprloc.training.optimizer import MuonWithAdamW
from rprloc.volume import Volume, to_sitk
from scripts.benchmark.fitting import describe_effort, describe_training, fit, read_checks, version_of
from scripts.benchmark.matching import SIMILARITIES, FourierMatcher, best_place, sliding_sums
from scripts.benchmark.predictions import Pair, Prediction, choose_other_pairs, choose_pairs, path_of, predict
from scripts.benchmark.registry import METHODS, Example, Setting, load_methods
from scripts.benchmark.run import TARGETS, run
from scripts.benchmark.scans import Scan, cut_patches
from scripts.benchmark.scoring import interval_over_queries, score_rows

SHIFT_MM = np.array([8.0, 0.0, -6.0])
"""By how much the toy region's second patient lies beside the first."""

NEW_METHOD = '''
"""Says that organs lie where they lie in the example."""
from pathlib import Path
from scripts.benchmark.registry import Method, Row, register


@register
class SamePlace(Method):
    name = "same-place"
    rows = (Row("same-place", 3), Row("same-place few-shot", 3, shots="all"))

    def prepare(self, example, organs):
        return {organ: example.points_ras[organ] for organ in organs}

    def find(self, prepared, query, organs):
        with (self.setting.folder / "asked").open("a") as stream:
            stream.write(query.name + "\\n")
        return prepared[0]
'''


@pytest.fixture
def toy(tmp_path: Path, phantom: Volume) -> Setting:
    """Two patients with bone and lung, the second one moved by SHIFT_MM: an example and a query."""
    hu = phantom.hu
    cases = {}
    for name, split, shift_mm in (("anna", "support", 0.0), ("bert", "test", SHIFT_MM)):
        moved = phantom.grid.ras_from_ijk.copy()
        moved[:3, 3] += shift_mm
        grid = Grid(phantom.grid.shape, moved)
        labels = np.where(hu == 700, 1, np.where(hu == -850, 2, 0)).astype(np.uint8)
        for kind, values in (("images", hu), ("labels", labels)):
            folder = tmp_path / "toy" / kind
            folder.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(to_sitk(values, grid), folder / f"{name}.nii.gz")
        cases[name] = {"split": split, "targets": ["bone", "lung"]}
    content = {"toy": {"labels": {"1": "bone", "2": "lung"}, "cases": cases}}
    (tmp_path / "datasets.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "same_place.py").write_text(NEW_METHOD, encoding="utf-8")
    return Setting(
        tuple(read_dataset(tmp_path / "datasets.json")), tmp_path / "run", {"toy": ("bone", "lung")}
    )  # fmt: skip


def run_toy(toy: Setting, tmp_path: Path) -> list[dict[str, object]]:
    run(toy, {"toy": 5}, tmp_path / "docs", folders=[tmp_path / "methods"])
    return json.loads((tmp_path / "docs" / "results.json").read_text(encoding="utf-8"))


def asked(toy: Setting) -> int:
    return len((toy.folder / "asked").read_text().splitlines())


def test_a_new_method_is_one_small_file_and_gets_its_scores(toy: Setting, tmp_path: Path) -> None:
    records = {(one["row"], one["target"]): one for one in run_toy(toy, tmp_path)}

    assert len(NEW_METHOD.splitlines()) < 120
    assert set(records) == {
        (row, target) for row in ("same-place", "same-place few-shot") for target in ("bone", "lung", "mean")
    }
    for row, target in records:
        record = records[row, target]
        assert set(record) == {
            "table", "row", "region", "target", "iou", "iou_interval", "awd_mm", "awd_interval_mm", "seconds_per_query",
            "seconds_per_organ", "n",
        }  # fmt: skip
        # Both walls of an axis are off by what the patient was moved along it.
        assert record["awd_mm"] == pytest.approx(np.abs(SHIFT_MM).mean(), abs=1e-3)
        assert (record["table"], record["region"], record["n"]) == (3, "toy", 1)
        assert record["seconds_per_query"] == pytest.approx(2 * record["seconds_per_organ"], abs=2e-3)
    ious = [records["same-place", target]["iou"] for target in ("bone", "lung")]
    assert 0.0 < min(ious) < 1.0
    assert records["same-place", "mean"]["iou"] == pytest.approx(np.mean(ious), abs=1e-4)


def test_the_scores_are_those_of_the_boxes(toy: Setting, tmp_path: Path) -> None:
    run_toy(toy, tmp_path)
    rows = [row for make in load_methods(tmp_path / "methods").values() for row in make(toy).rows]
    pairs = choose_pairs(toy, "toy", 5)

    result = score_rows(toy, rows, "toy", pairs, toy.folder)[0]

    found = Prediction.read(path_of(toy.folder, "same-place", pairs[0])).points_ras
    for one in result.scores:
        box = Box.from_extreme_points(found[one.target])
        moved = Box(box.min_ras + SHIFT_MM, box.max_ras + SHIFT_MM)
        assert one.iou == pytest.approx(box.iou(moved))
        np.testing.assert_allclose(one.wall_errors_mm, -np.repeat(SHIFT_MM, 2), atol=1e-3)


def test_the_report_shows_the_results(toy: Setting, tmp_path: Path) -> None:
    records = run_toy(toy, tmp_path)

    report = (tmp_path / "docs" / "report.md").read_text(encoding="utf-8")
    assert "## Table 3" in report
    for record in records:
        assert f"`{record['row']}`" in report
        assert f"{100 * record['iou']:.1f}, {record['awd_mm']:.2f}" in report
    assert "methods_toy.png" in report
    assert (tmp_path / "docs" / "methods_toy.png").stat().st_size > 1000
    assert not list(tmp_path.glob("docs/.*"))


def test_all_organs_of_a_query_are_timed_beside_the_targets(toy: Setting, tmp_path: Path) -> None:
    bone = replace(toy, targets={"toy": ("bone",)})

    run(bone, {"toy": 5}, tmp_path / "docs", all_organs="toy", folders=[tmp_path / "methods"])

    records = json.loads((tmp_path / "docs" / "results.json").read_text(encoding="utf-8"))
    found = {(one["region"], one["target"]) for one in records if one["row"] == "same-place"}
    assert found == {("toy", "bone"), *(("all-organs", target) for target in ("bone", "lung", "mean"))}
    assert "## Time: all organs of one query, 2 organs" in (tmp_path / "docs" / "report.md").read_text(encoding="utf-8")


def test_all_organs_of_a_region_without_pairs_are_refused(toy: Setting, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"thorax.*toy"):
        run(toy, {"toy": 5}, tmp_path / "docs", all_organs="thorax", folders=[tmp_path / "methods"])


def test_what_was_predicted_is_not_predicted_again(toy: Setting, tmp_path: Path) -> None:
    run_toy(toy, tmp_path)
    first = asked(toy)

    run_toy(toy, tmp_path)
    assert asked(toy) == first

    path_of(toy.folder, "same-place", Pair("toy", "anna", "bert")).unlink()
    method = load_methods(tmp_path / "methods")["same-place"](toy)
    pairs = choose_pairs(toy, "toy", 5)
    assert predict(method, "toy", pairs, toy.folder) == 1
    assert predict(method, "toy", pairs, toy.folder) == 0

    method.version = lambda region: "2"
    assert predict(method, "toy", pairs, toy.folder) == 2


def test_a_method_can_be_asked_again_and_a_row_without_predictions_is_left_out(toy: Setting, tmp_path: Path) -> None:
    run_toy(toy, tmp_path)
    first = asked(toy)
    run(toy, {"toy": 5}, tmp_path / "docs", again=["same-place"], folders=[tmp_path / "methods"])
    assert asked(toy) > first

    for path in (toy.folder / "predictions" / "toy" / "same-place_few-shot").iterdir():
        path.unlink()
    run(toy, {"toy": 5}, tmp_path / "docs", folders=[tmp_path / "methods"], stages=["report"])
    records = json.loads((tmp_path / "docs" / "results.json").read_text(encoding="utf-8"))
    assert {one["row"] for one in records} == {"same-place"}


def test_predictions_of_other_weights_are_not_reported(toy: Setting, tmp_path: Path) -> None:
    run_toy(toy, tmp_path)
    path = path_of(toy.folder, "same-place", choose_pairs(toy, "toy", 5)[0])
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"version": "0"}), encoding="utf-8")
    with pytest.raises(InputError, match=r"same-place.*Run the stage predict"):
        run(toy, {"toy": 5}, tmp_path / "docs", stages=["report"], folders=[tmp_path / "methods"])


def test_points_that_are_not_six_are_refused(toy: Setting, tmp_path: Path) -> None:
    bad = NEW_METHOD.replace("return prepared[0]", "return {organ: prepared[0][organ][:5] for organ in organs}")
    (tmp_path / "methods" / "same_place.py").write_text(bad, encoding="utf-8")
    with pytest.raises(ValueError, match="same-place must give six finite points for bone of bert"):
        run_toy(toy, tmp_path)
    assert not list(toy.folder.rglob("*.json"))


@pytest.mark.parametrize("only", [{"only": ["nobody"]}, {"again": ["nobody"]}])
def test_a_method_that_is_not_there_is_named(toy: Setting, tmp_path: Path, only: dict[str, list[str]]) -> None:
    with pytest.raises(InputError, match=r"no method nobody\. Name one of same-place\."):
        run(toy, {"toy": 5}, tmp_path / "docs", folders=[tmp_path / "methods"], **only)


def test_a_damaged_prediction_is_named(toy: Setting, tmp_path: Path) -> None:
    run_toy(toy, tmp_path)
    path = path_of(toy.folder, "same-place", Pair("toy", "anna", "bert"))
    path.write_text(path.read_text()[:40])
    with pytest.raises(InputError, match="is not a prediction of the benchmark"):
        run_toy(toy, tmp_path)


def test_few_pairs_are_the_first_of_many_and_no_pair_comes_twice(toy: Setting) -> None:
    anna, bert = toy.cases
    cases = [replace(anna, name=f"s{n}") for n in range(3)] + [replace(bert, name=f"q{n}") for n in range(7)]
    cases.append(replace(bert, name="cut", targets=("bone",)))
    setting = replace(toy, cases=tuple(cases))

    every = choose_pairs(setting, "toy", 1000)

    assert len(every) == len(set(every)) == 21
    assert "cut" not in {pair.query for pair in every}
    assert len({pair.query for pair in every[:7]}) == 7
    assert {pair.support for pair in every[:7]} == {"s0", "s1", "s2"}
    assert choose_pairs(setting, "toy", 5) == every[:5]
    assert choose_pairs(replace(setting, seed=1), "toy", 1000) != every


def test_every_row_of_the_paper_is_there_once(toy: Setting) -> None:
    rows = [row for method in load_methods().values() for row in method.rows]
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    assert [row.name for row in rows if row.table == 1] == [
        "diagonal K=1",
        *(f"extreme K={k}" for k in (1, 5, 10, 15, 20)),
    ]
    assert [row.name for row in rows if row.table == 2] == [
        "M_c one step", "M_c two steps", "M_c three steps", "M_c + M_f",
    ]  # fmt: skip
    assert {row.name for row in rows if row.table == 3} >= {
        "rprloc", "rprloc few-shot", "rpr-paper", "gs-mse", "gs-cosine", "gs-ncc", "fm-mse", "fm-cosine", "retina-unet",
        "affine", "bspline", "mean-box", "dense-descriptor",
    }  # fmt: skip


images = arrays.arrays(np.uint8, st.tuples(*[st.integers(6, 11)] * 3), elements=st.sampled_from([0, 1, 7, 200, 255]))


@given(image=images, corner=st.tuples(*[st.floats(0, 1)] * 3), edges=st.tuples(*[st.integers(1, 6)] * 3),
       stride=st.integers(1, 3), noise=st.integers(0, 3))  # fmt: skip
def test_sliding_and_fourier_give_the_same_numbers_and_place(
    image: np.ndarray, corner: tuple[float, ...], edges: tuple[int, ...], stride: int, noise: int
) -> None:
    first = [int(share * (n - edge)) for share, n, edge in zip(corner, image.shape, edges, strict=True)]
    template = image[tuple(slice(a, a + edge) for a, edge in zip(first, edges, strict=True))] ^ np.uint8(noise)

    assert_same_sums(image, template, stride)


@pytest.mark.slow
def test_sliding_and_fourier_find_the_same_place_in_a_real_scan(shared_data: Path) -> None:
    case = next(case for case in read_dataset(shared_data / "datasets.json") if case.split == "support")
    scan = Scan.of(read_volume_of(case.image_path))
    middle = np.array(scan.image.shape) // 2
    crop = scan.image[tuple(slice(m - 20, m + 20) for m in middle)]
    places = assert_same_sums(crop, crop[5:21, 9:33, 13:37].copy(), stride=2)
    # Windows lie at even places, the template at odd ones: the nearest window is one voxel off along each axis.
    assert np.abs(2 * places["ncc"] - [5, 9, 13]).max() == 1


def read_volume_of(path: Path) -> Volume:
    from rprloc.io.reading import read_volume

    return read_volume(path)


def assert_same_sums(image: np.ndarray, template: np.ndarray, stride: int) -> dict[str, np.ndarray]:
    slid = sliding_sums(image, template, stride)
    fast = FourierMatcher(image, template.shape, stride).sums(template)
    np.testing.assert_array_equal(fast.cross, slid.cross)
    np.testing.assert_array_equal(fast.image, slid.image)
    np.testing.assert_array_equal(fast.image2, slid.image2)
    places = {}
    for similarity in SIMILARITIES:
        np.testing.assert_array_equal(fast.score(similarity), slid.score(similarity))
        places[similarity] = best_place(fast.score(similarity))
        np.testing.assert_array_equal(places[similarity], best_place(slid.score(similarity)))
    return places


@given(image=images)
def test_similarities_are_best_where_the_template_was_cut(image: np.ndarray) -> None:
    template = image[2:5, 1:4, 2:6]
    sums = FourierMatcher(image, template.shape, 1).sums(template)
    assert sums.score("mse")[2, 1, 2] == 0.0 == sums.score("mse").max()
    for similarity in ("cosine", "ncc"):
        assert sums.score(similarity).max() <= 1.0 + 1e-9
    if template.any():
        assert sums.score("cosine")[2, 1, 2] == pytest.approx(1.0)
    if template.std() > 0:
        assert sums.score("ncc")[2, 1, 2] == pytest.approx(1.0)


def test_patches_are_the_scan_at_their_place_and_air_outside() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (12, 14, 16)).astype(np.uint8)
    grid = Grid.isotropic(image.shape, 3.0, [-10.0, 4.0, 50.0])
    scan = Scan("", image, grid)
    centres = grid.ras([[5.5, 6.5, 7.0], [1.5, 6.5, 7.0], [-40.0, 0.0, 0.0]])

    inside, cut, outside = cut_patches(scan, centres, (4, 6, 3), (3.0, 3.0, 3.0))[:, 0].numpy()

    np.testing.assert_allclose(inside, image[4:8, 4:10, 6:9] / 255.0, atol=1e-6)
    np.testing.assert_allclose(cut, image[0:4, 4:10, 6:9] / 255.0, atol=1e-6)
    assert not outside.any()
    half = cut_patches(scan, grid.ras([[5.0, 6.0, 7.5]]), (2, 1, 1), (1.5, 1.0, 1.0))[0, 0, :, 0, 0].numpy()
    mean = image[:, 6, 7:9].mean(axis=1) / 255.0
    np.testing.assert_allclose(half, [0.75 * mean[5] + 0.25 * mean[4], 0.75 * mean[5] + 0.25 * mean[6]], atol=1e-6)


def test_a_scan_at_3_mm_does_not_depend_on_how_it_is_stored(phantom: Volume, store_otherwise) -> None:
    plain = Scan.of(phantom)
    stored = Scan.of(Volume(*store_otherwise(phantom.hu, phantom.grid)))
    assert stored.grid.same_as(plain.grid, 1e-6)
    assert np.abs(stored.image.astype(int) - plain.image).max() <= 1


def test_training_that_was_interrupted_ends_where_it_would_have(tmp_path: Path) -> None:
    def trained(path: Path, *steps: int) -> torch.Tensor:
        for until in steps:
            torch.manual_seed(0)
            net = torch.nn.Linear(3, 1)

            def loss_of(generator: np.random.Generator, net: torch.nn.Linear = net) -> torch.Tensor:
                values = torch.from_numpy(generator.normal(size=(4, 3))).float()
                return (net(values)[:, 0] - values.sum(1)).square().mean()

            optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
            state = fit(
                net, loss_of, optimizer, path, 1.0, seed=0, rate_at=lambda share: 1.0, scans=1, max_steps=until
            )  # fmt: skip
            assert state["steps"] == until
        return net.weight.detach()

    torch.testing.assert_close(trained(tmp_path / "a.pt", 4, 4, 9), trained(tmp_path / "b.pt", 9))
    assert version_of(tmp_path / "a.pt").startswith("9 steps")
    assert version_of(tmp_path / "missing.pt") == "not trained"


def test_training_is_followed_on_other_scans_and_what_was_seen_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, modes = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)), []

    def check() -> float:
        modes.append((net.training, torch.is_grad_enabled()))
        return float(len(modes))

    optimizer = MuonWithAdamW(net, [net[0]], 1e-2, 0.0)
    for until in (3, 5):
        fit(
            net, lambda generator: net(torch.ones(1, 3)).square().mean(), optimizer, tmp_path / "a.pt", 1.0, seed=0,
            rate_at=lambda share: 1.0, scans=1, max_steps=until, check=check,
        )  # fmt: skip

    assert modes == [(False, False)] * 2
    assert [[(step, error) for step, _, error in part] for part in read_checks(tmp_path / "a.pt")] == [
        [(3, 1.0), (5, 2.0)]
    ]


def test_a_training_that_goes_on_otherwise_says_from_which_step(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    net = torch.nn.Linear(3, 1)
    for until, scans, settings in ((3, 4, ""), (3, 9, "blurred"), (5, 8, ""), (7, 8, "rate 0.1"), (9, 8, "rate 0.1")):
        fit(
            net, lambda generator: net(torch.ones(1, 3)).square().mean(), torch.optim.Adam(net.parameters()), path, 1.0,
            seed=0, rate_at=lambda share: 1.0, scans=scans, max_steps=until, check=lambda: 2.0, settings=settings,
        )  # fmt: skip

    # What a complete training was given besides taught it nothing.
    assert "9 steps (to step 3: 4 scans; to step 5: 8 scans; then: 8 scans, rate 0.1)" in describe_training(path, "net")
    assert describe_effort(path).endswith("from 4, then 8 scans")
    assert [[step for step, _, _ in part] for part in read_checks(path)] == [[3], [3, 5], [5, 7, 9]]


def test_a_loss_that_is_no_number_ends_the_training_with_a_sentence(tmp_path: Path) -> None:
    net = torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"loss of a is nan at step 0"):
        fit(
            net, lambda generator: net(torch.full((1, 1), float("nan"))).mean(), torch.optim.Adam(net.parameters()),
            tmp_path / "a.pt", 1.0, seed=0, rate_at=lambda share: 1.0, scans=1,
        )  # fmt: skip


def test_muon_and_adamw_go_on_where_they_were(tmp_path: Path) -> None:
    def trained(*steps: int) -> torch.Tensor:
        for until in steps:
            torch.manual_seed(0)
            net = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3, 4))
            fit(
                net, lambda generator, net=net: (net(torch.ones(1, 2, 3, 3, 3)) - 1.0).square().mean(),
                MuonWithAdamW(net, [net[0], net[2]], 1e-2, 0.0), tmp_path / f"{len(steps)}.pt", 1.0, seed=0,
                rate_at=lambda share: 1.0, scans=1, max_steps=until,
            )  # fmt: skip
        return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])

    torch.manual_seed(0)
    first = torch.nn.Conv3d(2, 3, 3).weight.detach().flatten()
    assert (trained(9)[: len(first)] - first).abs().min() > 0.0  # the views of the weights are the weights
    torch.testing.assert_close(trained(4, 9), trained(9))


def test_other_pairs_have_training_cases_as_queries_and_leave_the_supervised_out(toy: Setting, tmp_path: Path) -> None:
    anna, bert = toy.cases
    setting = replace(toy, cases=(anna, bert, replace(bert, name="carl", split="train")))
    supervised = NEW_METHOD.replace("SamePlace", "Taught").replace("same-place", "taught")
    supervised = supervised.replace('Row("taught", 3)', 'Row("taught", 3, given="supervised")')
    (tmp_path / "methods" / "taught.py").write_text(supervised, encoding="utf-8")

    run(setting, {"toy": 5}, tmp_path / "docs", other_pairs={"toy": 5}, folders=[tmp_path / "methods"])

    assert choose_other_pairs(setting, "toy", 5) == [Pair("toy", "anna", "carl")]
    records = json.loads((tmp_path / "docs" / "results.json").read_text(encoding="utf-8"))
    rows = {region: {one["row"] for one in records if one["region"] == region} for region in ("toy", "toy-other")}
    assert rows["toy"] > rows["toy-other"] == {"same-place", "same-place few-shot"}


def test_pairs_are_timed_with_more_threads_and_the_number_of_threads_stays(toy: Setting, tmp_path: Path) -> None:
    asking = NEW_METHOD.replace("stream.write(query.name", "import torch; stream.write(str(torch.get_num_threads())")
    (tmp_path / "methods" / "same_place.py").write_text(asking, encoding="utf-8")
    before = torch.get_num_threads()

    run(toy, {"toy": 5}, tmp_path / "docs", threads=[before, before + 1], folders=[tmp_path / "methods"])

    assert set((toy.folder / "asked").read_text().split()) == {str(before), str(before + 1)}
    assert torch.get_num_threads() == before
    report = (tmp_path / "docs" / "report.md").read_text(encoding="utf-8")
    assert f"s a query, {before + 1} threads" in report and f"s a query, {before} threads" not in report


def test_times_of_pairs_that_were_located_again_stand_for_the_first_ones(toy: Setting, tmp_path: Path) -> None:
    folders, docs = [tmp_path / "methods"], tmp_path / "docs"
    run(toy, {"toy": 5}, docs, folders=folders)
    for path in toy.folder.rglob("predictions/**/*.json"):  # as if other work had slowed them
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 999.0}))

    run(toy, {"toy": 5}, docs, folders=folders, threads=[torch.get_num_threads()])

    records = json.loads((docs / "results.json").read_text())
    assert max(one["seconds_per_query"] for one in records) < 900


def test_two_cases_of_one_name_are_refused(toy: Setting) -> None:
    with pytest.raises(InputError, match=f"called {toy.cases[0].name}. Give each"):
        replace(toy, cases=(*toy.cases, toy.cases[0]))


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_an_interval_holds_the_mean_and_lies_within_the_values(values: list[float]) -> None:
    low, high = interval_over_queries({str(number): value for number, value in enumerate(values)})
    assert min(values) - 1e-9 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= max(values) + 1e-9


def test_patches_of_a_step_make_all_pairs_and_their_errors_fall(method_module, toy: Setting, phantom: Volume) -> None:
    module = method_module("rpr_paper")
    module.PATCH["toy"] = (32, 32, 32), (4.0, 4.0, 4.0)
    module.RECIPES["toy"] = module.Recipe(
        width=2,
        reach_mm=(300.0, 60.0),
        learning_rate=(2e-3, 2e-3),
        cool_down=0.4,
        zoom=0.1,
        batch=((1, 6), (1, 2)),  # two fine patches are often out of reach of each other, and then others are taken
        minutes=(0.1, 0.02),
        step_runs=2,
    )
    case = replace(toy.cases[0], split="train")
    method = module.RprPaper(replace(toy, cases=(*toy.cases, replace(case, name="carl"))))

    method.train("toy")

    coarse, fine = method.weights("toy").values()
    losses = torch.load(coarse, weights_only=True)["losses"]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert [len(part) for part in read_checks(coarse)] == [len(part) for part in read_checks(fine)] == [1]
    assert "scans, rate 0.002, zoom 10%)" in method.budget("toy")
    steps = torch.load(fine, weights_only=True)["steps"]
    assert f"and {steps:,} pairs" in method.caution("toy")  # a pair counts once

    sought = []
    latents_of = method._latents
    method._latents = lambda region, stage, scan, places: (
        sought.append(places) or latents_of(region, stage, scan, places)
    )
    example = Example(toy.cases[0])
    prepared = method.prepare(example, ("bone", "lung"))
    sought.clear()
    found = method.locate([prepared], example.volume, ("bone", "lung"))
    assert set(found) == {row.name for row in method.rows}
    # Two corners and each of twenty runs start at one place; from there on every point has an agent of its own.
    assert [len(places) for places in sought] == [1] * 21 + [12] * 4 + [12]
    assert np.array_equal(sought[0], sought[1])  # the diagonal differs from the first run in nothing else
    assert len(np.unique(np.concatenate(sought[1:21]), axis=0)) == 20


@pytest.mark.parametrize("zoom", [0.85, 1.2])
def test_a_zoomed_scan_teaches_what_a_scaled_patient_would(method_module, phantom: Volume, zoom: float) -> None:
    module = method_module("rpr_paper")
    module.PATCH["toy"] = (32, 32, 32), (4.0, 4.0, 4.0)
    module.RECIPES["toy"] = replace(module.RECIPES["han"], reach_mm=(300.0, 60.0))
    torch.manual_seed(0)
    net = module.PatchPnet(2, (32, 32, 32)).eval()
    scan = Scan.of(phantom)
    small = replace(scan, grid=Grid(scan.grid.shape, np.diag([*[1.0 / zoom] * 3, 1.0]) @ scan.grid.ras_from_ijk))
    body = np.argwhere(scan.body())
    for stage in (0, 1):
        zoomed, scaled = (
            module.offset_errors_mm(net, "toy", stage, seen, body, 5, np.random.default_rng(7), factor)
            for seen, factor in ((scan, zoom), (small, 1.0))
        )
        torch.testing.assert_close(zoomed, scaled, atol=1e-2, rtol=1e-3)


def test_dense_latents_of_the_autoencoder_are_those_of_its_patches(method_module) -> None:
    module = method_module("autoencoder")
    torch.manual_seed(0)
    net = module.Autoencoder().eval()
    image = torch.rand(27, 30, 26)
    dense = module.dense_latents(net, image)
    assert dense.shape == (64, 3, 5, 3)
    for window in ((0, 0, 0), (1, 2, 0), (2, 4, 2)):
        a, b, c = (2 * n for n in window)
        with torch.inference_mode():
            patch = net.encoder(image[a : a + 22, b : b + 22, c : c + 22][None, None])[0, :, 0, 0, 0]
        found = dense[(slice(None), *window)]
        assert (found - patch).norm() < 0.05 * patch.norm()  # of mixed precision


@pytest.fixture
def method_module():
    import sys

    load_methods(METHODS)
    return lambda stem: sys.modules[f"benchmark_method_{stem}"]


def test_the_latent_difference_moves_from_the_query_to_the_support(method_module) -> None:
    offset_mm = method_module("rpr_paper").offset_mm
    found = offset_mm(torch.tensor([[0.0, 0.1, 9.0]]), torch.tensor([[0.2, 0.1, -9.0]]), 300.0)
    torch.testing.assert_close(found, torch.tensor([[300.0 * np.tanh(0.2), 0.0, -300.0]], dtype=torch.float32))


def test_the_detector_reads_its_maps_as_monai_does(method_module) -> None:
    pytest.importorskip("monai")
    module = method_module("retina_unet")
    net = module.network_of(2)
    detector = module.detector_of(net, np.array([[6.0, 6.0, 9.0], [10.0, 9.0, 8.0]])).eval()
    with torch.inference_mode():
        maps = detector.network(torch.rand(1, 1, 16, 24, 16))
        for values in maps.values():
            ours = torch.cat([module._by_anchor(one, 2) for one in values])
            torch.testing.assert_close(ours, detector._reshape_maps(values)[0])


def test_an_augmented_box_holds_the_augmented_label(method_module) -> None:
    augment = method_module("retina_unet").augment
    labels = np.zeros((40, 36, 32), np.uint8)
    labels[10:22, 12:20, 9:25] = 1
    boxes = np.array([[10.0, 12.0, 9.0, 22.0, 20.0, 25.0]])
    for seed in range(5):
        image, moved, box = augment(
            torch.from_numpy(labels)[None].float(), labels, boxes, np.random.default_rng(seed)
        )  # fmt: skip
        voxels = (moved[0] == 1).nonzero().numpy()
        np.testing.assert_allclose(np.concatenate([voxels.min(0), voxels.max(0) + 1]), box[0].numpy(), atol=0.75)
        assert image.shape == (1, 40, 36, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "row", "limit_mm"),
    [("gs", "gs-ncc", 4.0), ("rprloc", "rprloc", 3.0), ("mean-box", "mean-box", 1e-6)],
)
def test_a_method_finds_the_organs_of_the_example_in_itself(
    shared_data: Path, tmp_path: Path, name: str, row: str, limit_mm: float
) -> None:
    cases = read_dataset(shared_data / "datasets.json")
    setting = Setting(tuple(cases), tmp_path, TARGETS)
    example = Example(next(case for case in cases if case.region == "abdomen" and case.split == "support"))
    method = load_methods()[name](setting)
    organs = TARGETS["abdomen"]

    found = method.locate([method.prepare(example, organs)], example.volume, organs)[row]

    box = Box.from_extreme_points(found.points_ras["pancreas"])
    truth = Box.from_extreme_points(example.points_ras["pancreas"])
    assert box.wall_distances_mm(truth).max() <= limit_mm
    assert found.seconds > 0
