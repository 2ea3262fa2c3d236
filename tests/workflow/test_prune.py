"""What `fewshot prune` lists; whole runs are in tests/end_to_end/test_prune.py."""

from pathlib import Path

import pytest

from fewshot import paths
from fewshot.files import write_json
from fewshot.workflow.prune import find_unneeded


def test_figures_that_no_report_shows_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("shown", "unshown"):
        (paths.FIGURES / key).mkdir(parents=True)
        (paths.FIGURES / key / "figure.svg").write_text("<svg/>")
    (paths.RESULTS / "tables" / "suite").mkdir(parents=True)
    write_json(paths.RESULTS / "tables" / "suite" / "manifest.json", {"figures": {"accuracy": "shown"}})
    (found,) = find_unneeded([], set())
    assert (found.kind, found.path, found.size) == ("figure", paths.FIGURES / "unshown", 6)
