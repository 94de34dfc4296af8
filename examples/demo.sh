#!/usr/bin/env bash
# The operator's session on one machine, from `up` to `down`; everything stays in one folder.
#   examples/demo.sh [FOLDER]       default: demo-output
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
BATCH_IMAGING_FOLDER=$(realpath -m "${1:-demo-output}")
export BATCH_IMAGING_FOLDER
for name in "${!SDP_CONFIG_@}"; do unset "$name"; done # another system's database

pb_id=pb-mvp01-20200523-00001
images=$BATCH_IMAGING_FOLDER/buffers/buff-$pb_id-img

sdp() { "$python" -m batch_imaging "$@"; }
say() { printf '\n== %s\n' "$*"; }

stop() {
    trap '' INT TERM # what is being stopped shall be stopped
    say 'Stop the control system'
    sdp down
}

# Ids of blocks cannot be used twice, so an earlier demo makes room; another system stays as it is.
mark=$BATCH_IMAGING_FOLDER/demo
if [[ -e $mark ]]; then
    sdp down
    rm -r "$BATCH_IMAGING_FOLDER"
elif [[ -e $BATCH_IMAGING_FOLDER/standalone.json ]]; then
    echo "error: $BATCH_IMAGING_FOLDER: is a system but no demo; choose another folder" >&2
    exit 1
fi

say 'Start the control system'
sdp up
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
touch "$mark"
eval "$(sdp status --export)"

say 'Assign resources: the blocks are recorded, the batch block waits'
"$python" "$repository/tango_scripts/assign_resources.py"
sdp get pb

say 'Release resources: the real-time block ends, the batch block begins'
"$python" "$repository/tango_scripts/release_resources.py"

say "Log of $pb_id"
sdp logs "$pb_id" --follow

say 'Outcome'
sdp get pb

say 'Products'
find "$BATCH_IMAGING_FOLDER/buffers" -mindepth 2 -maxdepth 2 | sort
printf '\nReport: %s\n' "$images/report/index.html"

sdp get pb "$pb_id" --json | "$python" -c '
import json, sys
sys.exit(json.load(sys.stdin)[0]["state"]["status"] != "FINISHED")'
