#!/usr/bin/env bash
# Train bundle/models/model.pt as it is shipped: scripts/train_shipped_weights.sh DATASETS.json RUNS_FOLDER
# The coarse network learns in four cycles: anew, more gently, and twice with all regions alike; the fine one learns in between.
# About 70 minutes on two CPU cores (the sum of the stages' logs, 60, and the alignment). The aligned body frame of the first run serves the others.
set -euo pipefail
data=$1 runs=$2
mkdir -p "$runs"/{1,2,3,4,5}
rprloc train --data "$data" --out "$runs/1" --resume --coarse-steps 800 --fine-steps 0
for run in 2 3 4 5; do
    cp -n "$runs/1/body_frame.npz" "$runs/$run/"
    cp -rn "$runs/1/packed" "$runs/$run/"
done
rprloc train --data "$data" --out "$runs/2" --resume --init "$runs/1/model.pt" \
    --coarse-steps 800 --fine-steps 0 --learning-rate 2e-4 --seed 1
rprloc train --data "$data" --out "$runs/3" --resume --init "$runs/2/model.pt" --coarse-steps 0 --fine-steps 1500
rprloc train --data "$data" --out "$runs/4" --resume --init "$runs/3/model.pt" \
    --coarse-steps 800 --fine-steps 0 --learning-rate 3e-4 --group-power 0 --seed 2
rprloc train --data "$data" --out "$runs/5" --resume --init "$runs/4/model.pt" \
    --coarse-steps 700 --fine-steps 0 --learning-rate 3e-4 --group-power 0 --seed 3
echo "Weights: $runs/5/model.pt"
