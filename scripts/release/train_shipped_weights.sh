#!/usr/bin/env bash
# Train bundle/models/model.pt as it is shipped: scripts/release/train_shipped_weights.sh DATASETS.json RUN_FOLDER
# About 53 minutes on two CPU cores. Interrupted, it goes on where it stopped when it is called again.
set -euo pipefail
if [[ $# -ne 2 ]]; then # --help, too
    sed -n '2,3s/^# //p' "$0"
    [[ ${1-} == --help ]]
    exit
fi
rprloc train --data "$1" --out "$2" --resume
echo "Weights: $2/model.pt"
