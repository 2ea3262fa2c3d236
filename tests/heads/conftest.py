import os
from pathlib import Path

import numpy as np
import pytest
import torch

DEFAULT_ORACLE = Path(__file__).parents[1] / "references"
CASES = sorted(Path(os.environ.get("FEWSHOT_ORACLE", DEFAULT_ORACLE)).glob("metaoptnet/heads_*.npz"))


@pytest.fixture(params=CASES, ids=lambda path: path.stem)
def oracle(request):
    """One file of reference numbers: arrays by name."""
    with np.load(request.param, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def oracle_episodes(oracle):
    """Inputs of the file: support, labels, query, weights of the loss; float32."""
    return tuple(torch.from_numpy(oracle[name]) for name in ("support", "support_labels", "query", "weights"))
