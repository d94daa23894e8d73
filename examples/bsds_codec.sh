#!/usr/bin/env bash
# Image codecs for scenes and for faces, from BSDS and LFW: the tables of docs/results/compress.md.
# Usage: bash examples/bsds_codec.sh DATA [OUT]
#   DATA   holds bsds/{train,test}/ and kodak/ (photos), lfw112/ (faces and its lists), teacher/mobilefacenet_y1.onnx
#   OUT    default runs/codec
#   STUDENT  a face model that gives gradients (a run of examples/lfw_distill.sh), for the codec that knows faces
# Hours on one CPU core. Run it again: what is done is skipped, what was cut goes on.
set -euo pipefail

data=$1
out=${2:-runs/codec}
student=${STUDENT:-runs/lfw/fcd-mbf_half-15}
lfw=$data/lfw112
shape=(--n "${WIDTH:-64}" --m "${LATENT:-96}" --batch 8)
mkdir -p "$out"

# 1. Every tenth photo of bsds/test is kept to look at; all others are trained on. Kodak is for the end.
find "$data/bsds/train" "$data/bsds/test" -name '*.jpg' -printf '%P\n' -quit > /dev/null
list() { (cd "$data/bsds" && find "$1" -name '*.jpg' | sort); }
list test | awk 'NR % 10 == 0 { print $0, 0 }' > "$out/val.txt"
{ list train; list test | awk 'NR % 10'; } | awk '{ print $0, 0 }' > "$out/train.txt"
rm -rf "$out/val"
mkdir "$out/val"
while read -r photo _; do cp "$data/bsds/$photo" "$out/val/"; done < "$out/val.txt"
scenes=(--data "$out/train.txt" --images "$data/bsds" --val "$out/val" --crop 128)

# 2. The highest rate from nothing, each lower one from the one above.
train() { # NAME ARGUMENTS: begun where it is new, else gone on with
    if [ -e "$out/$1" ]; then facekit compress train "${@:4}" --resume --out "$out/$1"; else
        facekit compress train "${@:2}" --out "$out/$1"
    fi
}
train l2048 --seed 0 "${shape[@]}" "${scenes[@]}" --lambda 2048 --lr 6e-4 --epochs 10
