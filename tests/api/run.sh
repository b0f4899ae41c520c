#!/usr/bin/env bash
# Outside tools against a cluster of three nodes that runs: run.sh fuzz|session DIRECTORY ADDRESS [SECONDS]
# The directory is the caller's; everything is written there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
what=$1 dir=$2 address=$3
tools=${HOLDFAST_API_TOOLS:-$HOME/.cache/holdfast/tools/api}/bin
[ -x "$tools/schemathesis" ] || { echo "no $tools/schemathesis: run deploy/setup.sh test" >&2; exit 1; }
cd "$dir"
case $what in
    fuzz)
        PYTHONPATH=$here SCHEMATHESIS_HOOKS=hooks exec "$tools/schemathesis" --config-file "$here/schemathesis.toml" run \
            --url "$address" --checks all --phases coverage,fuzzing,stateful --max-time "$4" \
            ${HOLDFAST_API_SEED:+--seed "$HOLDFAST_API_SEED"} --generation-database none --warnings off \
            "$address/openapi.json"
        ;;
    session)
        PATH=$tools:$PATH "$tools/openapi-python-client" generate --url "$address/openapi.json" --meta none \
            --output-path "$dir/holdfast_client" --overwrite >generate.log 2>&1 || { cat generate.log >&2; exit 1; }
        "$tools/python" "$here/session.py" "$dir" "$address"
        ;;
    *) echo "usage: run.sh fuzz|session DIRECTORY ADDRESS [SECONDS]" >&2; exit 2 ;;
esac
