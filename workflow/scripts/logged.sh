#!/usr/bin/env bash
# logged.sh <file> <command>: writes all output to the file, and a note if the command was killed. A signal ends the
# command, not this shell, which waits for it; the exit status after SIGHUP, SIGINT and SIGTERM is 130.
trap : HUP INT TERM
log=$1
shift
"$@" > "$log" 2>&1
status=$?
case $status in
129 | 130 | 143)
    [ -s "$log" ] || echo "stopped before it began; rerun the same command to continue" >> "$log"
    exit 130
    ;;
137)
    echo "killed by signal 9: by a user, or by the system because it ran out of memory. In that case lower" \
        "episodes_per_backward of the recipe, or run fewer jobs at once (--cores). The next run resumes from the last" \
        "checkpoint." >> "$log"
    ;;
esac
[ $status -eq 0 ] || [ -s "$log" ] || echo "$log is empty although the job failed: the disk may be full" >&2
exit $status
