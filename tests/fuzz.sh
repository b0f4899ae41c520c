#!/usr/bin/env bash
# Coverage-guided fuzzing of every parser, SECONDS_EACH (default 600) each; new inputs go to the
# corpus's working copy, crashes stop it.
set -euo pipefail
cd "$(dirname "$0")/fuzz"
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/holdfast/target}/fuzz
# Without sanitizers a stable compiler will do; the parsers have no unsafe code for them to look at.
cargo fuzz build --fuzz-dir . -s none
host=$(rustc -vV | sed -n 's/^host: //p')
work=${FUZZ_DIR:-$CARGO_TARGET_DIR/corpus}
total=0 bad=0
for target in fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    [ -n "${ONLY:-}" ] && [ "$ONLY" != "$name" ] && continue
    mkdir -p "$work/$name" "$work/crashes/$name"
    log=$work/$name.log
    if "$CARGO_TARGET_DIR/$host/release/$name" "$work/$name" "corpus/$name" -max_len=8192 \
        -max_total_time="${SECONDS_EACH:-600}" -artifact_prefix="$work/crashes/$name/" -print_final_stats=1 >"$log" 2>&1; then
        verdict=held
    else
        verdict="CRASHED, input in $work/crashes/$name" bad=$((bad + 1))
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    total=$((total + ${runs:-0}))
    printf '%-16s %12s executions, %s\n' "$name" "${runs:-?}" "$verdict"
done
echo "$total executions, $bad targets crashed; corpora in $work (what reaches new places goes to tests/fuzz/found, which make test replays)"
[ "$bad" -eq 0 ]
