"""Loaded by every Python of a test project (via PYTHONPATH): records each `python -m fewshot <stage>` that starts.

This counts work independently of what the workflow tools report. If FEWSHOT_DEVICES is set, a process also records
there, when it ends, the devices visible to it and when it ran.
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

        def record_devices(began=time.time()):  # noqa: B008 (when the process began)
            line = {"stage": command[1], "devices": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began}
            with open(os.environ["FEWSHOT_DEVICES"], "a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "ended": time.time()}) + "\n")

        if "FEWSHOT_DEVICES" in os.environ:
            atexit.register(record_devices)
