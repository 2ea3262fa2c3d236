"""Shell completion: what a key press offers in a real bash, and the names of a parameter file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.cli import main

ROOT = Path(__file__).parents[2]

# Completes a command line as a key press at its end does, and prints what is offered.
PRESS = """
eval "$(fewshot completion bash)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_fewshot fewshot "${{COMP_WORDS[COMP_CWORD]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    """Return a function that returns what bash offers for a command line in the project."""
    program = tmp_path_factory.mktemp("bin") / "fewshot"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fewshot "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src")}

    def press(words: str) -> list[str]:
        script = PRESS.format(words=words)
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return press


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("fewshot sho", {"show"}),
        ("fewshot show glyphs-conv4-svm", {"glyphs-conv4-svm-quick_svm-s0", "glyphs-conv4-svm-quick_svm-s8"}),
        ("fewshot show cpu_evi", {"cpu_evidence", "cpu_evidence_resnet12"}),
        ("fewshot compare glyphs-pixels-prototype-untrained-s0 glyphs-conv4-r2d2", {"glyphs-conv4-r2d2-quick-s0"}),
        ("fewshot list --suite quick", {"quickstart", "quickstart_seeds"}),
        ("fewshot prepare mini", {"mini_imagenet"}),
        ("fewshot list --js", {"--json"}),
    ],
)
def test_key_press_completes_commands_options_and_names(offered, words, names):
    found = offered(words)
    assert names <= set(found)
    assert all(name.startswith(words.split()[-1]) for name in found)


def test_script_for_zsh_completes_names_with_the_same_command(capsys):
    main(["completion", "zsh"])
    script = capsys.readouterr().out
    assert script.startswith("#compdef fewshot")
    assert "_fewshot_experiments() { compadd -- $(fewshot completion experiments 2> /dev/null); }" in script
    assert ":_fewshot_suites_experiments" in script


def test_names_are_those_of_all_suites(project, tiny_params, capsys):
    values = tiny_params("ridge")
    values["suites"]["other"] = [{"dataset": "glyphs", "learner": ["ridge", "svm"], "recipe": "quick"}]
    (project / "params.yaml").write_text(str(values).replace("'", '"'), encoding="utf-8")

    main(["completion", "experiments"])
    assert capsys.readouterr().out.split() == ["glyphs-conv4-ridge-quick-s0", "glyphs-conv4-svm-quick-s0"]
    main(["completion", "suites"])
    assert capsys.readouterr().out.split() == ["tiny", "other"]
