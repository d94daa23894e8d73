#!/usr/bin/env bash
# The codec's whole path on faces facekit draws itself: a tiny codec -> files -> pictures, and an archive of faces.
# Usage: bash examples/demo_compress.sh [FOLDER]      (default: demo_compress). Run again to continue where it stopped.
# Seconds of training: it shows that the path works, its pictures are no evidence for the method.
set -euo pipefail

out=${1:-demo_compress}
faces=$out/faces
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

[ -d "$faces" ] || facekit data synth --out "$faces" --identities 8 --per-identity 6
[ -d "$out/val" ] || facekit data synth --out "$out/val" --identities 2 --per-identity 4 --seed 1

facekit compress train --data "$faces/images" --val "$out/val/images" --n 16 --m 24 --lambda 512 --crop 64 --batch 8 \
    --lr 2e-3 --epochs 3 --epoch-steps 60 --resume --out "$out/codec"
facekit compress encode "$out/val/images" --model "$out/codec" --out "$out/edic" --overwrite
facekit compress decode "$out/edic" --model "$out/codec" --out "$out/png" --overwrite
facekit compress encode "$out/val/images" --model "$out/codec" --archive --out "$out/faces.edica" --overwrite
facekit compress info "$out/faces.edica" --model "$out/codec" --size 112x112 --repeats 3

count=$(find "$out/edic" -name '*.edic' | wc -l)
files=$(find "$out/edic" -name '*.edic' -printf '%s\n' | awk '{ total += $1 } END { print total }')
echo "$count faces of 112x112: $((count * 112 * 112 * 3)) bytes of pixels, $files in single files," \
    "$(wc -c < "$out/faces.edica") in one archive with their names"
