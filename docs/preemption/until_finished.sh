#!/bin/bash
# Gives a command again until the run is finished; ends with the command's last exit status.
#
#   ./until_finished.sh relume detector train obj.data my-tiny.cfg yolov3-tiny.conv.15
#
# Stop it with Ctrl-C, or by `kill` of this script: the run saves, and nothing starts again.

pause_s=${PAUSE_S:-10}    # before the command is given again, so that nothing spins
most_deaths=5             # in a row, each within ten minutes: then something is broken

stop=
trap 'stop=1; signalled=1; kill -TERM "$run" 2>/dev/null' INT TERM USR1

deaths=0
while true; do
    began=$SECONDS
    "$@" &
    run=$!
    [ -z "$stop" ] || kill -TERM "$run"
    signalled=1
    while [ -n "$signalled" ]; do    # a signal ends `wait`, not the run
        signalled=
        wait "$run"
        status=$?
    done

    case $status in
        0) exit 0 ;;
        1 | 2 | 126 | 127 | 130)     # not finite, a mistake, no such command, a second Ctrl-C
            exit "$status" ;;
        75) deaths=0 ;;
        *)                           # 137: killed, by the system too when memory is short
            [ $((SECONDS - began)) -lt 600 ] || deaths=0
            deaths=$((deaths + 1)) ;;
    esac
    [ -z "$stop" ] || exit "$status"
    if [ "$deaths" -ge "$most_deaths" ]; then
        echo "until_finished: died $deaths times in a row, last with status $status" >&2
        exit "$status"
    fi

    echo "until_finished: status $status, starts again in $pause_s s" >&2
    sleep "$pause_s" &
    run=$!
    wait "$run"
    [ -z "$stop" ] || exit 75
done
