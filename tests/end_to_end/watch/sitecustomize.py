"""Loaded by every Python of a test project (it lies on PYTHONPATH): notes each `python -m fewshot <stage>` that starts.

A count of work that does not depend on what either workflow tool says of itself. At its end a process also notes the
devices it was shown and when it ran, in FEWSHOT_DEVICES if that is set.
"""

import atexit
import json
import os
import sys
import time

STAGES = ("prepare", "train", "evaluate", "report")

arguments = sys.orig_argv
if "FEWSHOT_STARTED" in os.environ and "-m" in arguments:
    command = arguments[arguments.index("-m") + 1 :]
    if command[0] == "fewshot" and command[1] in STAGES and "--allow-missing" not in command:
        name = "" if command[1] == "report" else command[2]
        with open(os.environ["FEWSHOT_STARTED"], "a", encoding="utf-8") as file:
            file.write(f"{command[1]} {name}".strip() + "\n")

        def note_devices(began=time.time()):  # noqa: B008 (when the process began)
            line = {"stage": command[1], "devices": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began}
            with open(os.environ["FEWSHOT_DEVICES"], "a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "ended": time.time()}) + "\n")

        if "FEWSHOT_DEVICES" in os.environ:
            atexit.register(note_devices)
