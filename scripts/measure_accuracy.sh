#!/usr/bin/env bash
# Measure the shipped weights on the test cases: scripts/measure_accuracy.sh DATASETS.json RESULTS_FOLDER
# Every support alone ("one") and all supports together ("all"), for each region.
set -euo pipefail
data=$1 results=$2
mkdir -p "$results"
for region in han thorax abdomen; do
    for shots in one all; do
        rprloc evaluate --data "$data" --region "$region" --split test --shots "$shots" \
            --out "$results/$region-$shots.json" --per-case "$results/$region-$shots.csv"
    done
done
