"""The settings of a run, written when it starts, so that an edit while it runs concerns only the next one."""

import json
from pathlib import Path

from fewshot.digests import digest
from fewshot.experiments.reader import ParamsFiles
from fewshot.files import cannot_write, write_atomic
from fewshot.workflow.running import SNAKEMAKE_DIR


def freeze_params(files: ParamsFiles, folder: Path = SNAKEMAKE_DIR / "params") -> Path:
    """Write the settings of a parameter file, with those it includes and `--config` replaces, as one parameter file.

    Args:
        files: what was read.
        folder: where to write; the name of the file depends only on its content.

    Returns:
        The file.

    Raises:
        ResourceError: if it cannot be written.
    """
    values = {name: value for name, value in files.values.items() if name != "include"}
    text = json.dumps(values, ensure_ascii=False, indent=1)  # in order; JSON is YAML
    file = folder / f"{digest(text)}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, f"{text}\n".encode())
    except OSError as error:
        raise cannot_write(file, error) from None
    return file
