#!/usr/bin/env bash
# Image codecs for faces: how few bytes keep a face recognisable? The tables of docs/results/compress.md.
# Usage: bash examples/face_codec.sh DATA [OUT]
#   DATA     holds lfw112/ (images/, pairsDev.txt, pairsDevTest.txt) and teacher/mobilefacenet_y1.onnx
#   OUT      default runs/codec
#   STUDENT  a face model that gives gradients, for the codec that knows faces; default the run of examples/lfw_distill.sh
# Two hours on one CPU core. Run it again: what is done is skipped, what was cut goes on.
set -euo pipefail

data=$1
out=${2:-runs/codec}
student=${STUDENT:-runs/lfw/fcd-mbf_half-15}
lfw=$data/lfw112
# Codecs learn from people that are in neither list: nobody who is measured was seen.
faces=(--faces "$lfw/images" --exclude "$lfw/pairsDev.txt,$lfw/pairsDevTest.txt" --batch 8 --crop 112)
mkdir -p "$out"

train() { # NAME FROM ARGUMENTS: begun where it is new (FROM - is from nothing), else gone on with
    if [ -e "$out/$1" ]; then
        facekit compress train "${faces[@]}" "${@:3}" --resume --out "$out/$1"
    elif [ "$2" = - ]; then
        facekit compress train "${faces[@]}" "${@:3}" --out "$out/$1"
    else
        facekit compress train "${faces[@]}" "${@:3}" --init "$2" --out "$out/$1"
    fi
}

# 1. One codec from nothing in two legs, then a ladder of rates from it, one of them with somebody who looks at the faces.
train leg1 - --n 64 --m 96 --lambda 2048 --lr 1.5e-3 --epochs 6 --epoch-steps 500
train plain2048 "$out/leg1" --n 64 --m 96 --lambda 2048 --lr 1e-3 --epochs 5 --epoch-steps 500
rungs=(--n 64 --m 96 --lr 3e-4 --epochs 2 --epoch-steps 200)
for lambda in 4096 1024 512; do
    train "plain$lambda" "$out/plain2048" "${rungs[@]}" --lambda "$lambda"
done
for lambda in ${AWARE:-1024}; do
    train "aware$lambda" "$out/plain2048" "${rungs[@]}" --lambda "$lambda" --recogniser "$student" --fcd-weight 32
done

# 2. Bytes a face against recognition, by a model that neither codec nor student is: chosen on the dev people, then once
#    on the test people.
for people in pairsDev pairsDevTest; do
    [ -d "$out/$people" ] ||
        facekit compress bench "$out"/plain* "$out"/aware* --faces "allpairs:$lfw/$people.txt" --flip none \
            --recogniser "$data/teacher/mobilefacenet_y1.onnx" --sides both --codecs jpeg420,webp,avif420 \
            --qualities 20,30,40,55,70,85 --out "$out/$people"
done
