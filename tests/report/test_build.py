"""A complete report from synthetic evaluations: files, numbers, reproducibility, missing and damaged results."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fewshot.errors import DataError, ResourceError
from fewshot.files import read_csv
from fewshot.report import write_report
from fewshot.report.build import UNTRACKED
from fewshot.report.contents import read_contents
from fewshot.training.history import gradient_norm_columns

DOCUMENTED_COLUMNS = [
    "experiment", "train_dataset", "target", "backbone", "learner", "recipe", "variant", "train_shot", "way", "shot",
    "image_size", "selection", "batch_norm", "solver", "precision", "seeds", "episodes", "accuracy_pct", "ci95_pct",
    "published_pct", "published_ci95_pct", "published_source", "verdict", "protocol", "data_hash",
]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_results_csv_has_the_documented_columns_and_correct_numbers(maker: Any, tmp_path: Path) -> None:
    entry = maker.add("ridge", 0.6)
    write_report(maker.suite(), tmp_path / "out")
    first, second = read_csv(tmp_path / "out" / "results.csv")
    assert set(DOCUMENTED_COLUMNS) <= set(first)
    with np.load(entry.arrays) as arrays:
        values = arrays["accuracy/single/5shot"]
    low, high = scipy_stats.t.interval(0.95, len(values) - 1, values.mean(), scipy_stats.sem(values))
    assert float(second["accuracy_pct"]) == pytest.approx(100 * values.mean(), abs=1e-4)
    assert float(second["ci95_pct"]) == pytest.approx(50 * (high - low), abs=1e-4)
    assert (first["shot"], second["shot"], second["seeds"], second["interval"]) == ("1", "5", "1", "episodes")


def test_each_reason_is_listed_once_below_the_tables(maker: Any, tmp_path: Path) -> None:
    """Numbers with a reason in common share its note; differences are ours - published."""
    maker.add("prototype", 0.5, dataset="cifar_fs", learner_settings={"divide_by_dimension": False})
    divided = {"divide_by_dimension": True}
    maker.add("prototype", 0.4, dataset="cifar_fs", learner_settings=divided, recipe_name="divided")
    maker.add("prototype", 0.4, dataset="fc100", learner_settings={"divide_by_dimension": False})
    write_report(maker.suite(), tmp_path / "out")
    text = (tmp_path / "out" / "results.md").read_text()
    first, *_ = read_csv(tmp_path / "out" / "results.csv")
    assert text.count("| not comparable (1, 2) |") == 2
    assert text.count("| not comparable (1, 2, 3) |") == 2
    assert text.count("| not comparable (1, 4) |") == 2
    assert text.split("\n\n")[-6:] == [
        "<details>\n<summary>Notes (1) to (4)</summary>",
        "(1) the source's training settings are not known.",
        "(2) quoted by MetaOptNet, from R2D2's paper.",
        "(3) other learner: divide_by_dimension True, published False.",
        "(4) quoted by MetaOptNet, from TADAM's paper.",
        "</details>\n",
    ]
    assert f"| {float(first['difference_pct']):+.2f} ± {float(first['difference_ci95_pct']):.2f} |" in text


def test_test_classes_that_were_trained_on_are_counted_in_the_title(maker: Any, tmp_path: Path) -> None:
    text = "13 of the 160 tested classes are training classes"
    entries = [
        replace(maker.add(learner, 0.6, dataset="mini_imagenet", target="tiered_imagenet"), seen=text)
        for learner in ("ridge", "svm")
    ]
    write_report(replace(maker.suite(), entries=tuple(entries)), tmp_path / "out")
    assert f"### mini_imagenet -> tiered_imagenet ({text}), 5-way" in (tmp_path / "out" / "results.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count(f"tiered_imagenet ({text}), ") >= 3


def test_metrics_are_nested_by_group_and_shot(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge", 0.6)
    maker.add("ridge", 0.6, target="cub")
    write_report(maker.suite(), tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics) == {"glyphs-conv4-ridge-quick", "glyphs-conv4-ridge-quick@cub"}
    assert set(metrics["glyphs-conv4-ridge-quick"]["1shot"]) == {"accuracy", "ci95"}
    assert 0 < metrics["glyphs-conv4-ridge-quick"]["5shot"]["accuracy"] < 1


def test_seeds_share_one_row_and_have_one_run_each(maker: Any, tmp_path: Path) -> None:
    for seed in range(3):
        maker.add("ridge", 0.6 + 0.01 * seed, seed=seed)
    write_report(maker.suite(), tmp_path / "out")
    rows, runs = read_csv(tmp_path / "out" / "results.csv"), read_csv(tmp_path / "out" / "runs.csv")
    assert [(row["shot"], row["seeds"], row["interval"]) for row in rows] == [
        ("1", "3", "episodes and seeds"),
        ("5", "3", "episodes and seeds"),
    ]
    assert [run["seed"] for run in runs] == ["0", "0", "1", "1", "2", "2"]
    mean = np.mean([float(run["accuracy_pct"]) for run in runs if run["shot"] == "1"])
    assert float(rows[0]["accuracy_pct"]) == pytest.approx(mean, abs=1e-3)


def test_the_same_evaluations_give_a_byte_identical_report(maker: Any, tmp_path: Path) -> None:
    for learner, accuracy in (("prototype", 0.6), ("ridge", 0.65)):
        maker.add(learner, accuracy, shots=(1, 5, 20))
    write_report(maker.suite(), tmp_path / "out")
    first = contents(tmp_path / "out")
    write_report(maker.suite(), tmp_path / "out")
    assert contents(tmp_path / "out") == first


def test_the_manifest_lists_the_key_and_the_hash_of_every_file(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge")
    write_report(maker.suite(), tmp_path / "out")
    files = contents(tmp_path / "out")
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["key"] == "f" * 64
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name not in UNTRACKED}
    assert manifest["files"] == expected


def test_every_drawing_is_saved_as_svg_and_png(maker: Any, tmp_path: Path) -> None:
    for learner in ("prototype", "ridge"):
        maker.add(learner, shots=(1, 5, 20))
        maker.add(learner, 0.5, target="cub", shots=(1, 5, 20))
    write_report(maker.suite(), tmp_path / "out")
    names = {path.stem for path in (tmp_path / "out" / "figures").glob("*.svg")}
    sheets = {name for name in names if name.startswith("episode-")}
    assert names - sheets == {path.stem for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert {"accuracy", "learning_curves", "shots", "cross_domain-1shot"} <= names
    assert {
        "confusion-glyphs-conv4-ridge-quick-glyphs-20shot",
        "episode-glyphs-conv4-ridge-quick-glyphs-5shot",
    } <= names


def test_sheets_can_be_turned_off(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge")
    write_report(maker.suite(sheets=False), tmp_path / "out")
    assert not list((tmp_path / "out" / "figures").glob("episode-*"))


def test_missing_images_only_omit_the_sheet(maker: Any, tmp_path: Path) -> None:
    maker.store = tmp_path / "nowhere"
    maker.add("ridge")
    write_report(maker.suite(), tmp_path / "out")
    assert (tmp_path / "out" / "figures" / "accuracy.svg").exists()


def test_curves_are_the_training_histories(maker: Any, tmp_path: Path) -> None:
    entry = maker.add("ridge")
    maker.add("prototype", history=False)
    write_report(maker.suite(), tmp_path / "out")
    (curve,) = (tmp_path / "out" / "curves").iterdir()
    assert curve.name == "glyphs-conv4-ridge-quick-s0.csv"
    assert curve.read_bytes() == (entry.train_dir / "history.csv").read_bytes()


@pytest.mark.parametrize(("trained", "state"), [(False, "not started"), (True, "trained, not evaluated")])
def test_a_missing_result_is_an_error_that_names_the_command(
    trained: bool, state: str, maker: Any, tmp_path: Path
) -> None:
    maker.add("ridge")
    entry = maker.add("prototype")
    entry.evaluation.unlink()
    if trained:
        (entry.train_dir / "weights.safetensors").touch()
    with pytest.raises(DataError, match=f"glyphs-conv4-prototype-quick-s0 on glyphs: {state}; run: snakemake"):
        write_report(maker.suite(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_partial_report_lists_what_is_missing(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge")
    entry = maker.add("prototype")
    entry.evaluation.unlink()
    entry.log.parent.mkdir()
    entry.log.write_text("stopped")
    summary = write_report(maker.suite(), tmp_path / "out", allow_missing=True)
    assert summary.partial
    assert f"log {entry.log}" in summary.text
    assert entry.command in (tmp_path / "out" / "results.md").read_text()
    assert len(read_csv(tmp_path / "out" / "results.csv")) == 2


def test_a_report_without_any_result_is_written(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge").evaluation.unlink()
    summary = write_report(maker.suite(), tmp_path / "out", allow_missing=True)
    assert "snakemake glyphs-conv4-ridge-quick-s0" in summary.text
    assert (tmp_path / "out" / "results.csv").read_text().startswith("experiment")


def test_a_damaged_evaluation_names_the_file_and_keeps_the_old_report(maker: Any, tmp_path: Path) -> None:
    entry = maker.add("ridge")
    write_report(maker.suite(), tmp_path / "out")
    before = contents(tmp_path / "out")
    entry.evaluation.write_text(entry.evaluation.read_text()[:100])
    with pytest.raises(DataError, match=r"glyphs\.json: not readable .* delete .* and run: snakemake"):
        write_report(maker.suite(), tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_arrays_of_another_evaluation_are_refused(maker: Any, tmp_path: Path) -> None:
    ours, other = maker.add("ridge", 0.5), maker.add("prototype", 0.8)
    ours.arrays.write_bytes(other.arrays.read_bytes())
    with pytest.raises(DataError, match="do not match"):
        write_report(maker.suite(), tmp_path / "out")


def test_seeds_on_different_episodes_are_refused(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge")
    entry = maker.add("ridge", seed=1)
    changed = {**json.loads(entry.evaluation.read_text()), "episodes_hash": "other"}
    entry.evaluation.write_text(json.dumps(changed))
    with pytest.raises(DataError, match="different episodes"):
        write_report(maker.suite(), tmp_path / "out")


def test_the_terminal_prints_the_table(maker: Any, tmp_path: Path) -> None:
    maker.add("prototype", 0.5)
    maker.add("ridge", 0.8)
    text = write_report(maker.suite(), tmp_path / "out").text
    assert "glyphs, 5-way" in text
    assert text == (tmp_path / "out" / "results.txt").read_text()
    assert next(line for line in text.splitlines() if "ridge" in line).count("*") == 2


def test_rows_with_fewer_episodes_have_a_table_of_their_own_that_says_so(maker: Any, tmp_path: Path) -> None:
    maker.add("prototype", 0.5)
    maker.add("ridge", 0.8)
    maker.add("maml", 0.2, recipe={"epochs": 0}, recipe_name="untrained", history=False, episodes=20)
    built = write_report(maker.suite(), tmp_path / "out")
    titles = [line for line in built.text.splitlines() if line.startswith("glyphs, 5-way")]
    assert titles == ["glyphs, 5-way, 60 episodes", "glyphs, 5-way, 20 episodes"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "glyphs, 5-shot, 60 episodes: ridge" in page
    assert "glyphs, 5-shot, 20 episodes: maml (untrained) has" in page


def test_a_folder_that_cannot_be_written_is_named(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge")
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ResourceError, match=r"cannot write .*file/out"):
        write_report(maker.suite(), tmp_path / "file" / "out")


def test_layers_that_are_not_adapted_have_no_line(maker: Any, tmp_path: Path) -> None:
    norms = np.random.default_rng(0).lognormal(size=(20, 5, 5))
    norms[:, :, :4] = np.nan
    similarity = np.full((20, 4), np.nan)
    arrays = {"diagnostics/gradient_norm": norms, "diagnostics/feature_similarity": similarity}
    maker.add("anil", arrays=arrays)
    write_report(maker.suite(), tmp_path / "out")
    figures = {path.stem for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert "gradient_norm-glyphs" in figures
    assert "feature_similarity-glyphs" not in figures


def test_recorded_gradient_norms_are_drawn_over_the_epochs(maker: Any, tmp_path: Path) -> None:
    for learner, last in (("maml", "0.5"), ("anil", "")):
        file = maker.add(learner).train_dir / "history.csv"
        head, *rows = file.read_text().splitlines()
        columns = ",".join(gradient_norm_columns(3))
        file.write_text("\n".join([f"{head},{columns}", *(f"{row},{last},{last},2" for row in rows)]))
    maker.add("ridge")
    write_report(maker.suite(), tmp_path / "out")
    drawn = (tmp_path / "out" / "figures" / "training_gradient_norm-glyphs.svg").read_text()
    assert drawn.count(">epoch<") == 2
    assert "ridge" not in drawn


def test_single_model_and_ensemble_are_different_rows(maker: Any, tmp_path: Path) -> None:
    entry = maker.add("maml", shots=(5,))
    evaluation = json.loads(entry.evaluation.read_text())
    evaluation["results"].append({**evaluation["results"][0], "selection": "ensemble"})
    entry.evaluation.write_text(json.dumps(evaluation))
    with np.load(entry.arrays) as stored:
        arrays = dict(stored)
    np.savez(entry.arrays, **arrays, **{"accuracy/ensemble/5shot": arrays["accuracy/single/5shot"]})
    write_report(maker.suite(), tmp_path / "out")
    assert [row["selection"] for row in read_csv(tmp_path / "out" / "results.csv")] == ["single", "ensemble"]
    assert "maml, ensemble" in (tmp_path / "out" / "results.md").read_text()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics["glyphs-conv4-maml-quick"]) == {"5shot", "5shot_ensemble"}


def test_a_single_recipe_is_not_repeated_in_every_label(maker: Any) -> None:
    maker.add("svm", 0.7)
    maker.add("ridge", 0.7)
    assert set(read_contents(maker.suite()).labels.values()) == {"svm", "ridge"}


def test_a_label_says_what_was_changed(maker: Any) -> None:
    maker.add("svm", 0.7)
    maker.add("ridge", 0.7)
    maker.add("ridge", 0.6, recipe_name="longer")
    maker.add("r2d2", 0.3, recipe_name="untrained", recipe={"epochs": 0}, history=False)
    names = set(read_contents(maker.suite()).labels.values())
    assert names == {"svm (quick)", "ridge (quick)", "ridge (longer)", "r2d2 (untrained)"}


def test_every_pair_of_rows_is_compared_in_differences_csv(maker: Any, tmp_path: Path) -> None:
    for learner, accuracy in (("prototype", 0.5), ("ridge", 0.7), ("svm", 0.7)):
        maker.add(learner, accuracy, shots=(5,))
    write_report(maker.suite(), tmp_path / "out")
    pairs = {(pair["a"], pair["b"]): pair for pair in read_csv(tmp_path / "out" / "differences.csv")}
    assert set(pairs) == {
        ("prototype, conv4", "ridge, conv4"), ("prototype, conv4", "svm, conv4"), ("ridge, conv4", "svm, conv4")
    }  # fmt: skip
    results = {row["learner"]: float(row["accuracy_pct"]) for row in read_csv(tmp_path / "out" / "results.csv")}
    first, last = pairs["prototype, conv4", "ridge, conv4"], pairs["ridge, conv4", "svm, conv4"]
    assert float(first["difference_pct"]) == pytest.approx(results["prototype"] - results["ridge"], abs=1e-3)
    assert (first["a_is"], last["a_is"]) == ("worse", "not different")
    assert float(last["p_holm"]) >= 0.05


@pytest.mark.parametrize(("name", "p_value"), [("results.md", "p < 0.001"), ("results.tex", r"p \textless{} 0.001")])
def test_the_column_versus_best_is_a_setting(maker: Any, tmp_path: Path, name: str, p_value: str) -> None:
    for learner, accuracy in (("prototype", 0.5), ("ridge", 0.7)):
        maker.add(learner, accuracy, shots=(5,))
    write_report(maker.suite(), tmp_path / "out")
    assert p_value not in (tmp_path / "out" / name).read_text()
    write_report(maker.suite(versus_best=True), tmp_path / "out")
    lines = (tmp_path / "out" / name).read_text().splitlines()
    (with_difference,) = (line for line in lines if p_value in line)
    assert "prototype" in with_difference
