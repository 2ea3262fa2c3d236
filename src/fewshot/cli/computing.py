"""The modules that compute, imported only by the subcommands that need them."""

import os
from types import ModuleType

from fewshot.digests import save_digests
from fewshot.errors import ParamsError
from fewshot.training.stop_signals import exit_on_signals

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
warm_threads: int | None = None  # set by the process that jobs are forked from (warm.server): threads per job


def import_jobs(threads: int) -> ModuleType:
    """Import the modules that compute, after setting what libraries read on import, such as the number of threads.

    Raises:
        ParamsError: if this process was forked from one that has imported them for another number.
    """
    if warm_threads not in (None, threads):
        raise ParamsError(
            f"train.threads is {threads}, but the process named by FEWSHOT_WARM computes with {warm_threads}; "
            "unset FEWSHOT_WARM"
        )
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # so that cuBLAS gives the same bits every time
    save_digests()
    with exit_on_signals():
        from fewshot.workflow import jobs

    return jobs
