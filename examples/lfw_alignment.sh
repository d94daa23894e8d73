#!/usr/bin/env bash
# Does alignment help this model on LFW? Every support set side by side, strength and thresholds chosen on dev people.
# Usage: bash examples/lfw_alignment.sh DATA MODEL [OUT]
#   DATA   holds lfw112/ (images/, pairsDev.txt, pairsDevTest.txt)
#   MODEL  run folder, weights file or .onnx
#   OUT    default runs/alignment; banks, estimator, results and the page
#   TRAINED_FROM=4   the model was trained on the people with at least so many images; the cohort has fewer
# Minutes on two CPU cores, for the alignments themselves; embedding the images takes as long as the model needs.
set -euo pipefail

data=$1
model=$2
out=${3:-runs/alignment}
lfw=$data/lfw112
from=${TRAINED_FROM:-4}
mkdir -p "$out"

# 1. Four sets of people that share nobody: test, dev, those the model learned from, and the cohort it never saw.
#    A line of the lists: path,label. The cohort has one image of each person.
awk -F'\t' 'FNR > 1 {print $1; if (NF == 4) print $3}' "$lfw/pairsDev.txt" "$lfw/pairsDevTest.txt" > "$out/held_out.txt"
find "$lfw/images" -name '*.jpg' | sort | awk -F/ -v from="$from" '
    BEGIN {print "path,label"}
    NR == FNR {held_out[$1]; next}
    !($(NF - 1) in held_out) {count[$(NF - 1)]++; if (count[$(NF - 1)] == 1) first[$(NF - 1)] = $NF}
    END {for (who in count) if (count[who] < from) print who "/" first[who] "," who}
' "$out/held_out.txt" - > "$out/cohort.csv"

common=(--model "$model" --flip none)
faces=(--images "$lfw/images")
train=(--data "$lfw/images" --exclude "$lfw/pairsDev.txt,$lfw/pairsDevTest.txt" --min-images "$from")

# 2. The support sets, each a file that all later runs share, and the estimator that needs none.
facekit align-eval bank "${common[@]}" --data "$out/cohort.csv" "${faces[@]}" --kind cohort --out "$out/cohort.npz"
facekit align-eval bank "${common[@]}" "${train[@]}" --kind train --out "$out/train.npz"
facekit align-eval bank "${common[@]}" "${train[@]}" --kind latentmix --out "$out/latentmix.npz"
facekit align-eval fit-estimator "${common[@]}" --data "$lfw/images" \
    --exclude "$lfw/pairsDev.txt,$lfw/pairsDevTest.txt" --out "$out/estimator.safetensors"

# 3. One look at the test people: alignments by every source, then the published kin by the cohort.
test=(--benchmark "allpairs:$lfw/pairsDevTest.txt" --dev "allpairs:$lfw/pairsDev.txt")
facekit align-eval "${common[@]}" "${test[@]}" --scores raw,dao \
    --support "$out/cohort.npz,$out/train.npz,$out/latentmix.npz,learned=$out/estimator.safetensors,gallery,noise" \
    --out "$out/sources" --report "$out/sources/report.html"
facekit align-eval "${common[@]}" "${test[@]}" --scores raw,dao,znorm,tnorm,snorm,asnorm,csls,nicdm,rerank \
    --support "$out/cohort.npz" --alpha 0.5 --out "$out/kin"

# 4. Worse pictures: does the threshold of the dev people hold its promise?
facekit align-eval "${common[@]}" "${test[@]}" --scores raw,dao --support "$out/cohort.npz" \
    --condition mask,lowres,blur,dark,grey,jpeg --out "$out/conditions"
