#!/usr/bin/env bash
# The main job end to end on faces facekit draws itself:
# synthetic people -> teacher -> student alone and student taught by the teacher, same budget -> table, curves, swap page.
# Usage: bash examples/demo.sh [FOLDER]      (default: demo). Run again to continue where it stopped.
# Epochs, batch and --tolerance were settled while looking at this demo's own test people: an illustration, no evidence.
set -euo pipefail

out=${1:-demo}
faces=$out/faces
lists=$faces/pairs_dev.txt,$faces/pairs_test.txt   # their people are never trained on
identities=${DEMO_IDENTITIES:-100}
teacher_epochs=${DEMO_TEACHER_EPOCHS:-10}
student_epochs=${DEMO_STUDENT_EPOCHS:-50}
common=(--data "$faces/images" --exclude "$lists" --dev "allpairs:$faces/pairs_dev.txt"
    --batch 32 --weight-decay 1e-4 --warmup 0.05 --resume)

[ -d "$faces" ] || facekit data synth --out "$faces" --identities "$identities"

facekit train --model mbf_half --embedding 128 --epochs "$teacher_epochs" --logit-scale 32 --margin 0.2 \
    "${common[@]}" --out "$out/teacher"
facekit train --model mbf_nano --embedding 128 --epochs "$student_epochs" --logit-scale 32 --margin 0.2 \
    "${common[@]}" --out "$out/alone"
facekit distill --teacher "$out/teacher" --student mbf_nano --epochs "$student_epochs" \
    "${common[@]}" --cache-dir "$out/cache" --out "$out/fcd"

python "$(dirname "$0")/demo_report.py" "$out"
facekit align-eval swap --old "$out/teacher" --new "$out/fcd" --benchmark "allpairs:$faces/pairs_test.txt" \
    --far 0.01 --tolerance 0.05 --cache-dir "$out/cache" --report "$out/swap.html"
