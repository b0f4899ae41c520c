#!/usr/bin/env bash
# Longer runs of what `make test` runs short, unattended, with a verdict at the end: MINUTES=20 is about twenty minutes on two
# cores; MINUTES=3000 is about what the claims of docs/hazards.md ask for. Every number below is printed by the test that made it.
set -uo pipefail
minutes=${MINUTES:-20}
scale() { echo $(($1 * minutes / 20 > 0 ? $1 * minutes / 20 : 1)); }
logs=$(mktemp -d)
failed=() held=0 began=$SECONDS
export RUST_BACKTRACE=0

# stage NAME PATTERN COMMAND…: runs it, shows the lines that say what was measured.
stage() {
    local name=$1 pattern=$2 at=$SECONDS
    shift 2
    printf '== %s\n' "$name"
    if "$@" >"$logs/$name" 2>&1; then
        held=$((held + 1))
        grep -hE "$pattern" "$logs/$name" | sed 's/^\.*/   /'
    else
        failed+=("$name")
        grep -hE "$pattern|panicked|replay:" -A3 "$logs/$name" | tail -40 | sed 's/^/   /'
        echo "   FAILED; all of it: $logs/$name"
    fi
    printf '   (%s s)\n' $((SECONDS - at))
}
t() { cargo test --locked -q -p "$1" --test "$2" -- --nocapture; }

stage simulator '^seeds' env HOLDFAST_SIM_SEEDS="$(scale 50000)" cargo test --locked -q -p hf-tests --test sim -- --nocapture
stage mutants '^mutants' cargo test --locked -q -p hf-tests --features mutants --test mutants -- --nocapture
stage store-crash-states 'crash states' env HOLDFAST_CRASH_SEEDS="$(scale 900)" cargo test --locked -q -p hf-store --test crash every -- --nocapture
stage store-exhaustive 'workloads' t hf-store exhaustive
stage kill-9 'kill -9|longest|in use' env HOLDFAST_KILL_CYCLES="$(scale 60)" cargo test --locked -q -p hf-tests --test kill -- --nocapture
stage power-loss 'power loss|a disk that' env HOLDFAST_POWER_CYCLES="$(scale 60)" cargo test --locked -q -p hf-tests --test power -- --nocapture
stage partitions 'partitioned' env HOLDFAST_PARTITION_SEED="$(date +%Y%m%d)" HOLDFAST_PARTITIONS="$(scale 630)" cargo test --locked -q -p hf-tests --test partitions -- --nocapture
stage frozen-nodes 'longest|take-over' t hf-tests freeze
stage corruption 'rotted' t hf-tests corruption
stage resync 'copied|missed' t hf-tests resync

printf '\n%s stages held, %s failed, %s minutes, commit %s, %s, %s\n' "$held" "${#failed[@]}" $(((SECONDS - began) / 60)) \
    "$(git rev-parse --short HEAD 2>/dev/null || echo '?')" "$(date +%F)" "$(uname -mr), $(nproc) cores"
if [ ${#failed[@]} -eq 0 ]; then
    rm -rf "$logs"
    echo "VERDICT: nothing was lost, nothing was stale, nothing got stuck"
else
    echo "VERDICT: FAILED: ${failed[*]}"
    exit 1
fi
