#!/usr/bin/env bash
# Checks replication.pml with spin: the true model holds in each configuration, and each broken rule is noticed. See README.md.
#   check.sh             all cases, as many at once as there are cores
#   check.sh holds -D…   one configuration of the true model
#   check.sh RULE -D…    one broken rule
set -euo pipefail
self=$(cd "$(dirname "$0")" && pwd)/check.sh

one() {
    local want=$1 defines="${*:2}" states
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    cd "$dir"
    [ "$want" = holds ] || defines="-D$want $defines"
    # shellcheck disable=SC2086
    spin $defines -a "${self%check.sh}replication.pml" >spin.out 2>&1 || { echo "FAILED   spin $defines"; cat spin.out; return 1; }
    gcc -O2 -DSAFETY -DNOREDUCE -o pan pan.c >gcc.out 2>&1 || { echo "FAILED   gcc: $defines"; cat gcc.out; return 1; }
    ./pan -m1000 -n -E >out 2>&1 || true
    states=$(awk '/states, stored/ {print $1}' out)
    if [ "$want" != holds ]; then
        grep -q 'assertion violated' out && { echo "noticed  $defines"; return 0; }
        echo "MISSED   $defines"
        return 1
    fi
    # A search that was cut short proves nothing.
    if grep -q 'errors: 0' out && ! grep -qE 'search depth too small|out of memory|Search not completed' out; then
        printf 'holds    %-75s %8s states\n' "$defines" "$states"
        return 0
    fi
    echo "BROKEN   $defines"
    cat out
    return 1
}

if [ $# -gt 0 ]; then
    one "$@"
    exit
fi
for tool in spin gcc; do
    command -v $tool >/dev/null || { echo "$tool is missing; on Debian: apt-get install spin gcc" >&2; exit 1; }
done
began=$SECONDS
two="-DN=2 -DTERMS=2"
xargs -P "$(nproc)" -L 1 "$self" <<CASES || { echo "model: something is wrong, see above" >&2; exit 1; }
holds -DN=3 -DTERMS=3 -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=0
holds -DN=3 -DTERMS=2 -DWRITES=2 -DREADS=0 -DDROPS=1 -DSYNCS=0
holds -DN=2 -DTERMS=3 -DWRITES=2 -DREADS=0 -DDROPS=1 -DSYNCS=0
holds -DN=3 -DTERMS=2 -DWRITES=1 -DREADS=1 -DDROPS=1 -DSYNCS=0
holds $two -DWRITES=2 -DREADS=1 -DDROPS=1 -DSYNCS=0
holds $two -DWRITES=1 -DREADS=2 -DDROPS=1 -DSYNCS=0
holds $two -DWRITES=1 -DREADS=1 -DDROPS=1 -DSYNCS=1
holds $two -DWRITES=2 -DREADS=0 -DDROPS=1 -DSYNCS=1
holds $two -DWRITES=1 -DREADS=0 -DDROPS=2 -DSYNCS=2 -DWIPES=1
holds -DN=2 -DTERMS=3 -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=1
holds -DN=3 -DTERMS=2 -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=1
ACK_BEFORE_DURABLE $two -DWRITES=1 -DREADS=0 -DDROPS=0 -DSYNCS=0
ACK_BY_ONE $two -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=0
DROP_COUNTS_AT_ONCE $two -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=0
REJOIN_WITHOUT_SYNC $two -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=1
JOIN_UNCOUNTED $two -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=1
NO_FENCE $two -DWRITES=2 -DREADS=0 -DDROPS=0 -DSYNCS=0
NO_RECONCILE $two -DWRITES=1 -DREADS=0 -DDROPS=0 -DSYNCS=0
BASE_LEADS $two -DWRITES=2 -DREADS=0 -DDROPS=1 -DSYNCS=0
BASE_UNSERVED $two -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=1
STABLE_LEADS $two -DWRITES=1 -DREADS=0 -DDROPS=1 -DSYNCS=0
SEAL_IGNORES_LEASE $two -DWRITES=1 -DREADS=1 -DDROPS=1 -DSYNCS=0
LEASE_FORGOTTEN $two -DWRITES=1 -DREADS=1 -DDROPS=1 -DSYNCS=0
READ_WITHOUT_LEASE $two -DWRITES=1 -DREADS=1 -DDROPS=1 -DSYNCS=0
REACHED $two -DWRITES=2 -DREADS=0 -DDROPS=1 -DSYNCS=1
CASES
echo "model: it holds, and each broken rule is noticed ($((SECONDS - began)) s)"
