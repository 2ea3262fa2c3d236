"""A key changes if and only if the result can: with settings, code by meaning, data; not with layout or order."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot import solvers
from fewshot.digests import digest
from fewshot.errors import DataError, ParamsError
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.workflow import identity
from fewshot.workflow.plan import make_plan

SOURCE = Path(identity.PACKAGE_DIR)
PACKAGE = sorted(SOURCE.rglob("*.py"))
LEARNERS = ["prototype", "ridge", "svm"]


@pytest.fixture
def plan_of(tiny_params):
    """Return a function that plans the tiny suite; arguments as those of `tiny_params`."""

    def planned(learner=LEARNERS, **changes):
        return make_plan(parse_as(Params, tiny_params(learner, **changes), where=""), "tiny")

    return planned


def keys(plan, stage="train"):
    return {job.name: job.key for job in plan.jobs(stage)}


def changed(before, after):
    return sorted(name for name in before if before[name] != after[name])


ADDED = "\nADDED = 1\n"

TEXT_EDITS = {
    "comment": ('"""', '# a comment\n"""'),
    "docstring": ('"""', '"""Other words. '),
    "docstring of a function": ('    """', '    """Other words. '),
    "blank lines": ("\n\n\ndef ", "\n\n\n\n\n\ndef "),
    "layout": (" = ", " =  "),
}


@pytest.mark.parametrize("name", TEXT_EDITS)
def test_comments_docstrings_and_layout_change_no_key(name, edit, plan_of):
    before = [keys(plan_of(), stage) for stage in ("prepare", "train", "evaluate")]

    edit("training/train.py", *TEXT_EDITS[name])

    assert [keys(plan_of(), stage) for stage in ("prepare", "train", "evaluate")] == before


def test_code_of_the_loop_changes_every_training_and_no_data(edit, plan_of):
    before = plan_of()

    edit("training/train.py", ADDED)

    after = plan_of()
    assert len(changed(keys(before), keys(after))) == len(before.train)
    assert len(changed(keys(before, "evaluate"), keys(after, "evaluate"))) == len(before.train)
    assert keys(before, "prepare") == keys(after, "prepare")


def test_one_changed_number_changes_the_key(edit, plan_of):
    before = plan_of()

    edit("evaluation/evaluate.py", "SHEET_EPISODES = 4", "SHEET_EPISODES = 5")

    assert len(changed(keys(before, "evaluate"), keys(plan_of(), "evaluate"))) == len(before.train)


def test_evaluation_code_changes_no_training(edit, plan_of):
    before = plan_of()

    edit("evaluation/evaluate.py", ADDED)

    after = plan_of()
    assert keys(before) == keys(after)
    assert len(changed(keys(before, "evaluate"), keys(after, "evaluate"))) == len(before.train)


@pytest.mark.parametrize("module", ["heads/svm.py", "solvers/multiclass_svm.py"])
def test_a_head_and_what_it_imports_change_only_what_uses_it(module, edit, plan_of):
    before = plan_of()

    edit(module, ADDED)

    after = plan_of()
    assert changed(keys(before), keys(after)) == ["glyphs-conv4-svm-quick-s0"]
    assert changed(keys(before, "evaluate"), keys(after, "evaluate")) == ["glyphs-conv4-svm-quick-s0"]


@pytest.mark.parametrize(
    ("learner", "backbone", "packages", "absent"),
    [
        ("prototype", "conv4", {"heads"}, set()),
        ("ridge", "conv4", {"heads", "solvers"}, {"heads.svm", "solvers.multiclass_svm", "solvers.saddle"}),
        ("svm", "conv4", {"heads", "solvers"}, {"heads.ridge", "heads.svm_ww", "solvers.box"}),
        ("svm_ww", "conv4", {"heads", "solvers"}, {"heads.svm", "solvers.multiclass_svm", "solvers.pivoting_numba"}),
        ("maml", "conv4_maml", set(), {"learners.mamlpp", "learners.episodic", "backbones.conv4"}),
    ],
)
def test_training_depends_on_the_parts_it_uses_and_no_others(learner, backbone, packages, absent, plan_of):
    modules = {
        name.removeprefix("fewshot.") for name in plan_of(learner, backbone=backbone).train[0].identity["modules"]
    }
    tools = {"cli", "workflow", "sharing", "report"}

    assert {name.partition(".")[0] for name in modules} & {"heads", "solvers", *tools} == packages
    assert not modules & absent


@pytest.mark.parametrize("name", solvers.__all__)
def test_a_key_that_names_an_export_of_the_solvers_holds_its_module(name, edit, plan_of):
    edit("heads/prototype.py", f"\nfrom fewshot.solvers import {name}\n")

    defined_in = getattr(solvers, name).__module__
    assert defined_in in plan_of("prototype").train[0].identity["modules"]


IMPORTS = [
    "import fewshot.heads.ridge",
    "from fewshot.heads import ridge",
    "from fewshot.heads.ridge import RidgeHead",
    "from .ridge import RidgeHead",
    "from . import ridge",
    "from ..heads import ridge",
    "from ..heads.ridge import RidgeHead",
    "from fewshot.exporting import LazyName",
    "from ..exporting import LazyName",
    "from fewshot.exporting import function_export",
    "from fewshot.exporting import deeper",
    "def f():\n    from .ridge import RidgeHead",
]
EXPORTING = """
from fewshot.registry import lazy_exports
from .again import deeper

__getattr__ = lazy_exports(__name__, {"LazyName": "fewshot.heads.ridge", "Other": "fewshot.heads.svm_ww"})

def load():
    from ..heads.ridge import RidgeHead as function_export
"""


@pytest.mark.parametrize("statement", IMPORTS)
def test_every_way_to_import_a_module_is_followed(statement, source, edit, plan_of):
    (source / "exporting" / "again").mkdir(parents=True)
    (source / "exporting" / "__init__.py").write_text(EXPORTING)
    (source / "exporting" / "again" / "__init__.py").write_text("from ...heads.ridge import RidgeHead as deeper\n")
    edit("heads/prototype.py", f"\n{statement}\n")
    before = plan_of()

    edit("heads/ridge.py", ADDED)
    edit("heads/svm_ww.py", ADDED)

    assert "glyphs-conv4-prototype-quick-s0" in changed(keys(before), keys(plan_of()))
    assert "fewshot.heads.svm_ww" not in before.train[0].identity["modules"]


@pytest.mark.parametrize(
    "module",
    [
        "cli/results",
        "experiments/matrix",
        "heads/__init__",
        "settings",
        "datasets/disk",
        "training/memory",
        "training/remaining_time",
        "workflow/plan",
        "workflow/listing",
        "workflow/jobs",
        "workflow/results",
        "report/tables",
        "report/figures",
    ],
)
def test_tools_and_tables_change_neither_training_nor_evaluation(module, edit, plan_of):
    before = plan_of()

    edit(f"{module}.py", ADDED)

    after = plan_of()
    assert keys(before) == keys(after)
    assert keys(before, "evaluate") == keys(after, "evaluate")


def test_module_that_is_no_longer_listed_as_neutral_changes_the_keys(edit, plan_of):
    before = plan_of()

    edit("learners/__init__.py", "NEUTRAL = (", "WAS_NEUTRAL = (")

    assert len(changed(keys(before), keys(plan_of()))) == len(before.train)


def test_drawing_code_changes_the_tables(edit, plan_of):
    before = plan_of().report_key

    edit("report/tables.py", '"""', '"""Other words. ')
    assert plan_of().report_key == before
    edit("report/tables.py", ADDED)

    assert plan_of().report_key != before


@pytest.mark.parametrize("change", [{"recipe": {"learning_rate": 0.2}}, {"seed": 1}, {"backbone.filters": 8}])
def test_training_settings_change_training_and_evaluation(change, plan_of):
    before, after = plan_of(), plan_of(**change)

    assert not set(keys(before).values()) & set(keys(after).values())
    assert not set(keys(before, "evaluate").values()) & set(keys(after, "evaluate").values())
    assert keys(before, "prepare") == keys(after, "prepare")


@pytest.mark.parametrize("change", [{"episodes": 10}, {"shots": [1]}, {"seed": 1}, {"n_query": 5}, {"n_way": 4}])
def test_protocol_changes_no_training(change, plan_of):
    before, after = plan_of(), plan_of(evaluate=change)

    assert keys(before) == keys(after)
    assert not set(keys(before, "evaluate").values()) & set(keys(after, "evaluate").values())


def test_explicit_default_changes_nothing(plan_of):
    assert keys(plan_of()) == keys(plan_of(recipe={"label_smoothing": 0.0, "momentum": 0.9}))


@pytest.fixture
def computed_with(tiny_params):
    """Return a function that plans the tiny suite with settings of the section `train`."""

    def planned(**train):
        return make_plan(parse_as(Params, {**tiny_params(), "train": train}, where=""), "tiny")

    return planned


def test_runtime_settings_without_influence_change_nothing(computed_with):
    plain, other = computed_with(), computed_with(checkpoint_seconds=1.0, jobs_per_gpu=3)

    assert keys(plain) == keys(other)
    assert keys(plain, "evaluate") == keys(other, "evaluate")


@pytest.mark.parametrize("train", [{"threads": 4}, {"device": "cpu"}, {"device": "cpu", "threads": 4}])
def test_how_sums_are_computed_changes_training_and_evaluation(train, computed_with):
    before, after = computed_with(), computed_with(**train)

    assert changed(keys(before), keys(after)) == list(keys(before))
    assert changed(keys(before, "evaluate"), keys(after, "evaluate")) == list(keys(before))
    assert keys(before, "prepare") == keys(after, "prepare")
    assert before.train[0].settings == after.train[0].settings


def test_threads_that_only_load_data_change_nothing(computed_with):
    assert keys(computed_with(device="cuda")) == keys(computed_with(device="cuda", threads=4))


def test_order_of_the_suite_changes_no_key(plan_of):
    assert keys(plan_of(LEARNERS)) == keys(plan_of(LEARNERS[::-1]))


def data_key(tiny_params, **settings):
    values = tiny_params(dataset="mine", recipe={"image_size": 32})
    params = parse_as(Params, {**values, "prepare": {"mine": {"base": "cifar_fs", **settings}}}, where="")
    return make_plan(params, "tiny").prepare[0].data_key


def test_mirrors_and_checksums_do_not_change_the_data(tiny_params):
    plain = data_key(tiny_params)

    assert data_key(tiny_params, mirrors=["https://example.org/"]) == plain
    assert data_key(tiny_params, sha256="none") == plain


def test_user_file_counts_by_content_not_by_name_or_time(tiny_params, tmp_path):
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    first.write_bytes(b"pixels")
    second.write_bytes(b"pixels")
    before = data_key(tiny_params, path=str(first))

    os.utime(first, (1, 1))
    assert data_key(tiny_params, path=str(first)) == before
    assert data_key(tiny_params, path=str(second)) == before
    second.write_bytes(b"pixelz")
    assert data_key(tiny_params, path=str(second)) != before


def test_user_folder_counts_by_names_and_contents(tiny_params, tmp_path):
    folder = tmp_path / "images"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"pixels")
    before = data_key(tiny_params, path=str(folder))

    (folder / "cat").rename(folder / "dog")

    assert data_key(tiny_params, path=str(folder)) != before


def test_class_list_is_part_of_the_data_key(source, tiny_params, monkeypatch):
    monkeypatch.setattr("fewshot.workflow.plan.PACKAGE_DIR", source)
    before = data_key(tiny_params)

    path = source / "datasets" / "splits" / "cifar_fs.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")

    assert data_key(tiny_params) != before


@pytest.mark.parametrize("path", ["nowhere.tar", "x" * 300, "a\0b", "nowhere/" * 1000])
def test_unreadable_user_file_is_an_error(path, tiny_params):
    with pytest.raises((DataError, ParamsError)):
        data_key(tiny_params, path=path)


PROGRAM = """
import json, sys
from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.workflow.plan import make_plan
plan = make_plan(parse_as(Params, json.loads(sys.argv[1]), where=""), "tiny")
stages = ("prepare", "train", "evaluate")
print(json.dumps({stage: {job.name: job.key for job in plan.jobs(stage)} for stage in stages}))
heavy = sorted({"torch", "numpy", "pandas", "scipy", "numba", "matplotlib", "snakemake"} & sys.modules.keys())
print(json.dumps(heavy))
"""


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_another_process_gives_the_same_keys_without_heavy_imports(hash_seed, tiny_params, plan_of, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(tiny_params(LEARNERS))],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    found, heavy = map(json.loads, run.stdout.splitlines())
    assert found == {stage: keys(plan_of(), stage) for stage in ("prepare", "train", "evaluate")}
    assert heavy == []
    assert list(tmp_path.iterdir()) == []


JOBS = """
import json, sys
from pathlib import Path
import numpy as np, torch
values_of, store_dir, scratch = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
from fewshot.learners import LEARNERS
names = list(LEARNERS)

def run(name):
    from fewshot.datasets.store import open_store
    from fewshot.episodes.draw import draw_episodes
    from fewshot.episodes.form import EpisodeForm
    from fewshot.evaluation.evaluate import evaluate, load_learners
    from fewshot.experiments.matrix import suite_experiments
    from fewshot.workflow.identity import imported_modules, is_neutral
    from fewshot.learners import ADAPTIVE_LEARNERS, CLASSIFIERS
    from fewshot.experiments.params import Params
    from fewshot.settings import parse_as
    from fewshot.workflow.plan import STAGE_MODULES, part_modules
    from fewshot.training.state import Checkpoints
    from fewshot.training.train import train
    values = values_of["classifier" if name in CLASSIFIERS else "prototype"]
    values["suites"]["tiny"][0].update(learner=name, backbone="conv4_maml" if name in ADAPTIVE_LEARNERS else "conv4")
    experiment = suite_experiments(parse_as(Params, values, where=""), "tiny")[0]
    store, device = open_store(store_dir), torch.device("cpu")
    out, checkpoints = scratch / name / "out", scratch / name / "checkpoints"
    out.mkdir(parents=True), checkpoints.mkdir()
    train(experiment, store, out, Checkpoints(checkpoints, seconds=0))
    split = store.split("test")
    episodes = draw_episodes(0, "test", np.arange(2), EpisodeForm(3, 3, 4), split.class_sizes)
    evaluate(experiment, load_learners(experiment, out, device), split, episodes, device)
    keyed = imported_modules([*STAGE_MODULES["train"], *STAGE_MODULES["evaluate"], *part_modules(experiment)])
    used = {module for module in sys.modules if module.partition(".")[0] == "fewshot"}
    return sorted(module for module in used - set(keyed) if not is_neutral(module)), sorted(set(keyed) - used)

found = {}
for name in names:
    for module in [module for module in sys.modules if module.partition(".")[0] == "fewshot"]:
        del sys.modules[module]
    found[name] = run(name)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_key_holds_every_module_that_a_job_uses(tiny_params, tiny_store, tmp_path):
    recipe = {"epochs": 1, "steps_per_epoch": 1}
    values = {learner: tiny_params(learner, recipe=recipe) for learner in ("classifier", "prototype")}

    run = subprocess.run(
        [sys.executable, "-c", JOBS, json.dumps(values), str(tiny_store.directory), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )

    found = json.loads(run.stdout)
    assert {learner: used for learner, (used, _) in found.items() if used} == {}


def test_only_the_registry_and_the_solvers_import_by_name():
    """Other imports are statements, which are found; what the registry loads is in `Part.target` and `Part.uses`.

    The solvers, which import nothing of the package around them, export lazily on their own. The warm process imports
    what jobs import anyway.
    """
    texts = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE}
    by_name = {
        name for name, text in texts.items() if re.search(r"import_module|__import__", ast.dump(ast.parse(text)))
    }

    assert by_name == {"registry.py", "solvers/__init__.py", "warm/server.py"}


@pytest.mark.parametrize("package", [path.parent for path in PACKAGE if path.name == "__init__.py"])
def test_package_files_compute_nothing(package):
    """Keys leave out `__init__` files, so these must contain nothing that needs an array library."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}

    assert not {name.partition(".")[0] for name in imported} & {"torch", "numpy", "scipy", "numba", "torchvision"}


def test_what_a_learner_fixes_is_recorded(tiny_experiment):
    assert tiny_experiment("fomaml", "conv4_maml").train_settings()["learner"]["second_order"] is False


NEUTRAL = [
    f"{package}.{name}"
    for package in ("fewshot", *(f"fewshot.{path.parent.name}" for path in SOURCE.glob("*/__init__.py")))
    for name in identity.neutral_names(package)
]


@pytest.mark.parametrize("module", NEUTRAL)
def test_neutral_modules_exist(module):
    assert identity._source_file(module).is_file()


def test_experiments_are_planned_in_linear_time(tiny_params, monkeypatch):
    calls = []
    monkeypatch.setattr("fewshot.workflow.plan.digest", lambda value: calls.append(1) or digest(value))
    monkeypatch.setattr("fewshot.workflow.plan.module_digests", lambda modules: calls.append(1) or {})

    def count(seeds):
        calls.clear()
        params = parse_as(Params, tiny_params(LEARNERS, seed=list(range(seeds))), where="")
        assert len({job.key for job in make_plan(params, "tiny").evaluate}) == 3 * seeds
        return len(calls)

    small, large = count(33), count(333)
    assert large < 11 * small


def test_source_is_read_once_for_a_thousand_experiments(tiny_params, forget_source):
    forget_source()
    params = parse_as(Params, tiny_params(LEARNERS, seed=list(range(334))), where="")

    make_plan(params, "tiny")

    assert 0 < identity._source.cache_info().misses < 120


def test_names_are_unique_and_safe(tiny_params):
    params = parse_as(Params, tiny_params(LEARNERS, seed=[0, 1], n_shot=[1, 2], optimizer=["sgd", "adam"]), where="")

    names = [experiment.name for experiment in suite_experiments(params, "tiny")]

    assert len(set(names)) == 24
    assert "glyphs-conv4-ridge-quick-2shot-adam-s1" in names
    assert all(name.replace("-", "").replace("_", "").isalnum() for name in names)


def test_the_head_of_a_classifier_is_part_of_both_keys(plan_of):
    plan = plan_of("classifier", **{"learner.head": "ridge"})
    assert all("fewshot.heads.ridge_fit" in job.identity["modules"] for job in (*plan.train, *plan.evaluate))
