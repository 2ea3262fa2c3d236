#!/usr/bin/env bash
# logged.sh <file> <command>: all output goes to the file, also the one end that a process cannot log itself.
log=$1
shift
"$@" > "$log" 2>&1
status=$?
if [ $status -eq 137 ]; then
    echo "killed by signal 9: by hand, or by the system because memory was short. If so, lower the setting" \
        "episodes_per_backward of the recipe, or run fewer jobs at once (--cores). The next call goes on from the last" \
        "checkpoint." >> "$log"
fi
exit $status
