#!/usr/bin/env bash
# Longer runs of what `make test` runs short, unattended, with a verdict at the end: MINUTES=20 is
# about twenty minutes on two cores. (The claim column of the design's table of measures asks for
# far more: MINUTES=3000 comes near for the simulator and the store's crash states; parsers have
# `make fuzz`.) Every number below is printed by the test that made it.
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
# t PACKAGE BINARY MODULE: all tests of a module, one after the other, so that none slows another one's measures.
t() { cargo test --locked -q -p "$1" --test "$2" "$3" -- --nocapture --test-threads=1; }

# claim STAGE PATTERN LIMIT: every "p99 N ms" (or "longest N ms") in the stage's lines that match is
# below the limit. A stage that printed no such line breaks its claim.
claim() {
    local name=$1 pattern=$2 limit=$3 worst
    worst=$(grep -hE "$pattern" "$logs/$name" 2>/dev/null | sed -nE 's/.*(p99|longest|worst) ([0-9]+) ms.*/\2/p' | sort -n | tail -1)
    if [ -n "$worst" ] && [ "$worst" -lt "$limit" ]; then
        printf '   claim held: %s: %s ms < %s ms\n' "$pattern" "$worst" "$limit"
    else
        printf '   CLAIM BROKEN: %s: %s ms, claimed < %s ms\n' "$pattern" "${worst:-nothing measured}" "$limit"
        broken+=("$pattern")
    fi
}
# ratio STAGE PATTERN LIMIT: every line that matches ends with a number, and none is above the limit.
ratio() {
    local name=$1 pattern=$2 limit=$3 worst
    worst=$(grep -hE "$pattern" "$logs/$name" 2>/dev/null | sed -nE 's/.* ([0-9]+\.[0-9]+)$/\1/p' | sort -n | tail -1)
    if [ -n "$worst" ] && awk -v w="$worst" -v l="$limit" 'BEGIN { exit !(w <= l) }'; then
        printf '   claim held: %s: %s <= %s\n' "$pattern" "$worst" "$limit"
    else
        printf '   CLAIM BROKEN: %s: %s, claimed <= %s\n' "$pattern" "${worst:-nothing measured}" "$limit"
        broken+=("$pattern")
    fi
}
broken=()

# with NAME=VALUE… t …: the function with these in its environment.
with() {
    while [[ $1 == HOLDFAST_*=* ]]; do local -x "$1"; shift; done
    "$@"
}

stage simulator 'seeds 0' with HOLDFAST_SIM_SEEDS="$(scale 30000)" HOLDFAST_REAL_SEEDS="$(scale 2500)" HOLDFAST_GROUP_SEEDS="$(scale 8000)" t hf-tests pure sim::
stage real-raft 'real raft' with HOLDFAST_RAFT_SEEDS="$(scale 3000)" t hf-meta all raft_sim::
stage mutants 'mutants:' cargo test --locked -q -p hf-tests --features mutants --test pure mutants:: -- --nocapture
stage store-crash-states 'crash states' with HOLDFAST_CRASH_SEEDS="$(scale 700)" t hf-store all crash::every
stage store-exhaustive 'workloads' t hf-store all exhaustive::
stage store-corruptions 'injected|detected' t hf-store all corruptions::
stage kill-9 'kill -9|longest|in use' with HOLDFAST_KILL_CYCLES="$(scale 50)" t hf-tests real kill::
# (Limits are those of the claim column of the table of measures, not the wider ones that a run of CI has to keep.)
claim kill-9 "a replica's node killed" 250
claim kill-9 "the metadata leader's node killed" 250
claim kill-9 'in use elsewhere on request' 3000
claim kill-9 'in use elsewhere without force' 8000
stage power-loss 'power loss|a disk that' with HOLDFAST_POWER_CYCLES="$(scale 40)" t hf-tests real power::
stage partitions 'partitioned|longest' with HOLDFAST_PARTITION_SEED="$(date +%Y%m%d)" HOLDFAST_PARTITIONS="$(scale 315)" t hf-tests real partitions::
claim partitions 'cut off from its coordinator' 2000
stage frozen-nodes 'longest|take-over' t hf-tests real freeze::
claim frozen-nodes 'while a replica was frozen|only read' 2000
claim frozen-nodes 'take-over on request' 3000
stage never-ok 'false ok' with HOLDFAST_FALSE_OK_SECONDS="$(scale 60)" HOLDFAST_FALSE_OK_SEED="$(date +%Y%m%d)" t hf-tests real false_ok::
stage api 'schemathesis' with HOLDFAST_API_SECONDS="$(scale 1200)" HOLDFAST_API_SEED="$(date +%Y%m%d)" t hf-tests real api::
stage corruption 'rotted' t hf-tests real corruption::
stage bad-sectors 'sectors' t hf-tests real bad_sectors::
stage resync 'copied|missed|resync of' t hf-tests real resync::
ratio resync "resync of" 1.05
stage put-back 'test result' t hf-tests real put_back::
stage full-disks 'test result' t hf-tests real full::
stage operations 'beside it|moved from' t hf-tests real operations::
stage repair 'test result' t hf-tests real repair::
stage jobs 'test result' t hf-tests real jobs::
stage rescue 'test result' t hf-tests real rescue::
stage inspectors 'test result' t hf-tests real inspect::

printf '\n%s stages held, %s failed, %s minutes, commit %s, %s, %s\n' "$held" "${#failed[@]}" $(((SECONDS - began) / 60)) \
    "$(git rev-parse --short HEAD 2>/dev/null || echo '?')" "$(date +%F)" "$(uname -mr), $(nproc) cores"
if [ ${#failed[@]} -gt 0 ]; then
    echo "VERDICT: FAILED: ${failed[*]}"
    exit 1
fi
rm -rf "$logs"
if [ ${#broken[@]} -gt 0 ]; then
    printf 'VERDICT: nothing was lost, nothing was stale, nothing got stuck; too slow on this machine: %s\n' "${broken[*]}"
    exit 2
fi
echo "VERDICT: nothing was lost, nothing was stale, nothing got stuck, and every claim about time held"
