#!/usr/bin/env bash
# Long campaigns, one after the other, each a make target whose last line is its total; at the end a
# table of all of them.   tests/campaigns.sh NAME...
# Logs in build/campaigns/. Fails if one of them failed.
set -u
cd "$(dirname "$0")/.." || exit 1
DIR=build/campaigns worst=0
mkdir -p $DIR
: >$DIR/table

total() { # log, exit status: what its last line says, or the status
    local last
    last=$(tail -n 1 "$1")
    case "$last" in
    *passed*failed*) echo "$last" ;;
    *) [ "$2" -eq 0 ] && echo "passed" || echo "failed, exit status $2" ;;
    esac
}

for name in "$@"; do
    start=$SECONDS
    echo "# make $name"
    "${MAKE:-make}" --no-print-directory "$name" >"$DIR/$name.log" 2>&1
    status=$?
    [ $status -eq 0 ] || worst=1
    printf '%-14s %5d s   %s\n' "$name" $((SECONDS - start)) \
        "$(total "$DIR/$name.log" $status)" | tee -a $DIR/table
done
printf '\ncampaign        time     total, of %s\n' "$(git describe --always --dirty 2>/dev/null || echo .)"
cat $DIR/table
exit $worst
