#!/usr/bin/env bash
# logged.sh <file> <command>: writes all output to the file, and a note if the command was killed.
log=$1
shift
"$@" > "$log" 2>&1
status=$?
if [ $status -eq 137 ]; then
    echo "killed by signal 9: by a user, or by the system because it ran out of memory. In that case lower" \
        "episodes_per_backward of the recipe, or run fewer jobs at once (--cores). The next run resumes from the last" \
        "checkpoint." >> "$log"
fi
exit $status
