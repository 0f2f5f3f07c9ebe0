#!/bin/bash
# Gives a torchrun command again until the run in a backup folder is finished. On each machine of a
# closed network (docs/distributed.md: whoever reaches torchrun's ports runs code as you):
#
#   ./torchrun_until_finished.sh backup torchrun --nnodes=1:3 ... -m relume detector train ...
#
# Stop it with Ctrl-C, or by `kill` of this script: the run saves, and nothing starts again.
# Status: 0 finished, 75 stopped, else that of torchrun.

pause_s=${PAUSE_S:-10}    # before the command is given again, so that nothing spins
quick_s=${QUICK_S:-60}    # a start that fails within that time without a new save has a mistake in it
most_mistakes=5           # in a row

# Else PyTorch 2.13 goes on asking for the place where all meet at a machine that has been lost.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# Else a module in the current folder is imported in place of Python's own.
export PYTHONSAFEPATH=1

backup=$1
shift

stop=
run=
trap 'stop=1; signalled=1; [ -z "$run" ] || kill -TERM "$run" 2>/dev/null' INT TERM USR1

saved() {
    ls -l --time-style=full-iso "$backup"/*_last.weights 2>/dev/null
}

wait_for_it() {
    signalled=1
    while [ -n "$signalled" ]; do    # a signal ends `wait`, not the run
        signalled=
        wait "$run"
        status=$?
    done
}

mistakes=0
until relume inspect -finished "$backup"; do
    [ -z "$stop" ] || exit 75
    before=$(saved)
    began=$SECONDS
    "$@" &
    run=$!
    [ -z "$stop" ] || kill -TERM "$run"
    wait_for_it
    [ -z "$stop" ] || continue

    if [ "$status" -ne 0 ] && [ $((SECONDS - began)) -lt "$quick_s" ] && [ "$(saved)" = "$before" ]; then
        mistakes=$((mistakes + 1))
    else
        mistakes=0
    fi
    if [ "$mistakes" -ge "$most_mistakes" ]; then
        echo "torchrun_until_finished: failed $mistakes times in a row, last with status $status" >&2
        exit "$status"
    fi
    echo "torchrun_until_finished: status $status, looks in $pause_s s whether to start again" >&2
    sleep "$pause_s" &
    run=$!
    wait "$run"
done
