"""What the user of a plan should know, although nothing is wrong: settings without effect, classes seen before."""

from fewshot.experiments.reader import ParamsFiles
from fewshot.workflow.plan import Plan
from fewshot.workflow.unused import unmeasured_gradients, unreached_epochs, unused_changes


def suite_notes(plan: Plan, files: ParamsFiles) -> list[str]:
    """Return a sentence per note on the suite of a plan and the parameter files it was made from."""
    return [*unused_changes(plan, files), *plan_notes(plan)]


def plan_notes(plan: Plan) -> list[str]:
    """Return a sentence per note on a plan alone."""
    return [*unreached_epochs(plan), *unmeasured_gradients(plan), *seen_classes_tested(plan)]


def seen_classes_tested(plan: Plan) -> list[str]:
    """Return a sentence per pair of data sets where tested classes are training classes."""
    found = {
        (experiment.dataset.label, target.label, seen): None
        for experiment in plan.experiments
        for target in experiment.targets
        if (seen := experiment.seen_classes(target)).names
    }
    return [
        f"{trained} -> {tested}: {seen.text} ({', '.join(seen.names)}); the tables say so, because such a number is "
        "not one of new classes alone"
        for trained, tested, seen in found
    ]
