#!/usr/bin/env bash
# How good is a model on your own people? A folder of faces becomes a verification set, and the set a report.
# Usage: bash examples/own_faces.sh MODEL FACES DEV_FACES [OUT]
#   MODEL      run folder, .pt, .safetensors or .onnx
#   FACES      folder per person, aligned crops of one size: what the model is measured on
#   DEV_FACES  the same of other people: thresholds are chosen there, and kept
#   OUT        default own_faces; OUT/test and OUT/dev are made once, the report is OUT/report.html
set -euo pipefail

model=$1
faces=$2
dev_faces=$3
out=${4:-own_faces}

# 1. Balanced pairs in folds that share nobody. People of the dev set are left out of the test set.
[ -d "$out/dev" ] || facekit data pairs --data "$dev_faces" --out "$out/dev"
[ -d "$out/test" ] || facekit data pairs --data "$faces" --exclude "$out/dev/pairs.csv" --out "$out/test"

# 2. The listed pairs for an accuracy like those of published tables, all pairs for low false-accept rates.
facekit align-eval --model "$model" --benchmark "$out/test,allpairs:$out/test" --dev "allpairs:$out/dev" \
    --out "$out" --report "$out/report.html"
