"""Subcommands that compute: the jobs of the stages, and what is made of a finished training."""

import argparse
import resource
import sys
from pathlib import Path
from types import ModuleType

from fewshot import paths
from fewshot.cli.computing import import_jobs
from fewshot.cli.options import plan_of, show
from fewshot.cli.subcommands import Subcommands, names, numbers
from fewshot.sharing.bundle_script import positive
from fewshot.workflow.plan import Plan
from fewshot.workflow.planned_jobs import Job


def add_to(subcommands: Subcommands) -> None:
    """Add the subcommands of this module."""
    add_job = subcommands.add_job
    add_job("download", _download, "Download the raw files of a data set.", "dataset")
    add_job(
        "prepare", _prepare, "Build the verified store, frozen episodes and contact sheet of a data set.", "dataset"
    )
    add_job("train", _train, "Train one experiment, or resume it from its checkpoint.", "experiment")
    evaluating = add_job("evaluate", _evaluate, "Evaluate a trained experiment at all shots.", "experiment")
    evaluating.add_argument("--target", help="data set to test on (default: all targets of the experiment)")
    evaluating.add_argument(
        "--weights", type=Path, metavar="FILE", help="evaluate this weights file instead and print the result"
    )
    _add_test(subcommands)
    exporting = add_job(
        "export", _export, "Write the weights, settings and model card of a trained experiment.", "experiment"
    )
    exporting.add_argument("--out", type=Path, help="output folder (default: exports/<experiment>)")
    episodes = subcommands.add(
        "episodes", _episodes, "Write the frozen test episodes of a data set as JSON lines, or check a file."
    )
    episodes.add_argument("action", choices=("export", "check"))
    episodes.add_argument("name", metavar="dataset")
    episodes.add_argument("file", type=Path, help="format: docs/export.md")
    _add_bundle(subcommands)
    unbundling = subcommands.add_stage(
        "unbundle", _unbundle, "Take the results of a bundle that another machine computed."
    )
    unbundling.add_argument("folder", type=Path, help="where run.py wrote them")


def _add_test(subcommands: Subcommands) -> None:
    testing = subcommands.add_stage(
        "test",
        _test,
        "Test any finished training with another protocol; nothing is trained.",
        epilog="What is not given stays as in the experiment. Results are kept in results/tests and cache/.",
    )
    testing.add_argument(
        "name",
        metavar="experiment",
        help="name of an experiment or training, or 4 characters or more of a training's key",
    )
    testing.add_argument("--shots", type=numbers, metavar="1,5", help="support images per class")
    testing.add_argument("--ways", type=int, help="classes per episode")
    testing.add_argument("--queries", type=int, help="query images per class")
    testing.add_argument("--episodes", type=int, help="test episodes per number of shots")
    testing.add_argument("--target", type=names, metavar="NAME,...", help="data sets to test on")
    testing.add_argument(
        "--variant", type=names, metavar="NAME,...", help="entries of `variants` in params.yaml, or as_trained"
    )
    testing.add_argument("--split", help="train, validation or test")
    testing.add_argument("--seed", type=int, help="seed of the test episodes")


def _add_bundle(subcommands: Subcommands) -> None:
    bundling = subcommands.add(
        "bundle", _bundle, "Pack experiments of a suite for a machine without network: docs/gpus.md."
    )
    bundling.add_argument("names", nargs="*", metavar="experiment", help="default: all of the suite")
    bundling.add_argument("--out", type=Path, default=Path("bundle"), metavar="DIR", help="default: %(default)s")
    bundling.add_argument("--python-version", default="3.12", help="of the other machine (default: %(default)s)")
    bundling.add_argument("--platform", type=names, metavar="TAG,...", help="of its wheels (default: Linux, x86-64)")
    bundling.add_argument("--wheels", type=names, metavar="NAME,...", help="packages to bring, or none")
    bundling.add_argument(
        "--part-mb", type=positive(float), default=58.0, help="largest part, 10^6 bytes (default: %(default)s)"
    )


def _download(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    _import_jobs(plan).download_job(plan.find("prepare", options.name))


def _prepare(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    job = plan.find("prepare", options.name, options.key)
    _show_made(_import_jobs(plan).prepare_job(job), job)


def _train(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    job = plan.find("train", options.name, options.key)
    _show_made(_import_jobs(plan).train_job(job, plan), job)


def _evaluate(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    first = plan.find("evaluate", options.name, options.key, options.target)
    jobs = _import_jobs(plan)
    used = 0.0
    for job in (first,) if options.key or options.target else plan.of_experiment(options.name):
        if options.weights:
            show(jobs.evaluate_weights(job, plan, options.weights))
        else:
            _show_made(jobs.evaluate_job(job, plan), job, used)
        used = _cpu_seconds()


def _test(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    given = {
        "shots": options.shots,
        "n_way": options.ways,
        "n_query": options.queries,
        "episodes": options.episodes,
        "targets": options.target,
        "variants": options.variant,
        "split": options.split,
        "seed": options.seed,
    }
    _import_jobs(plan)
    from fewshot.workflow.testing import evaluate_training, find_training

    found, name = find_training(plan, options.name)
    for line in evaluate_training(found, name, {key: value for key, value in given.items() if value is not None}):
        print(line)


def _export(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    out = options.out or paths.EXPORTS / options.name
    _import_jobs(plan).export_job(plan.experiment(options.name), plan, out, options.key)
    show(f"wrote {out}")


def _episodes(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    jobs, job = _import_jobs(plan), plan.find("prepare", options.name)
    work = jobs.export_episodes if options.action == "export" else jobs.check_episodes
    show(work(job, options.file))


def _bundle(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    _import_jobs(plan)
    from fewshot.workflow.bundle import PLATFORMS, WHEELS, Target, make_bundle

    wheels = WHEELS if options.wheels is None else tuple(name for name in options.wheels if name != "none")
    target = Target(options.python_version, options.platform or PLATFORMS, wheels, int(1e6 * options.part_mb))
    show(make_bundle(plan, options.names, options.params, options.out, target))


def _unbundle(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    _import_jobs(plan)
    from fewshot.workflow.bundle import take_results

    show(take_results(plan, options.folder))


def _show_made(outcome: str, job: Job, used_before: float = 0.0) -> None:
    """Print where the result of a job is, and what this process and those it started have used.

    Args:
        outcome: what was done.
        job: whose result it is.
        used_before: CPU seconds that this process had used before the job.
    """
    mib = max(usage.ru_maxrss for usage in _usage()) / (2**20 if sys.platform == "darwin" else 2**10)
    seconds = _cpu_seconds() - used_before
    show(f"{outcome}: {job.dir} ({seconds:.1f} s of CPU time, at most {mib:,.0f} MiB of memory)")


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usage())


def _usage() -> list[resource.struct_rusage]:
    return [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _import_jobs(plan: Plan) -> ModuleType:
    return import_jobs(plan.params.train.threads)
