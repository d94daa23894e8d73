#!/usr/bin/env bash
# Rules that weigh samples, LAW among them, on CIFAR-10 with planted wrong labels: the tables of docs/results/autoweight.md.
# Usage: bash examples/cifar_weights.sh DATA [OUT]
#   DATA   holds cifar10/train.tar and cifar10/test.tar (class folders of 32x32 images)
#   OUT    default runs/weights; packed images, plans, a folder of runs and a table for each condition
# A condition takes an hour or so on one CPU core, most of it LAW's search. Run it again: what is done is skipped, what was
# cut goes on.
set -euo pipefail

data=$1
out=${2:-runs/weights}
side=${SIDE:-16}

# 1. 1,000 images of each class to train on, 500 others of which 50 are clean ones to choose by, the test images.
pack() {
    [ -d "$out/$1" ] ||
        facekit data pack --data "$data/cifar10/$2" --kind uint8 --size "$side" --out "$out/$1" "${@:3}"
}
pack train train.tar --take 500:1500
pack dev train.tar --take :500
pack test test.tar

# 2. Wrong labels: a plan for the final trainings, and another one for search and tuning.
plan() {
    for seed in 0 100; do
        [ -f "$out/$1-$seed.npz" ] ||
            facekit data noise --data "$out/train" --seed "$seed" --out "$out/$1-$seed.npz" "${@:2}"
    done
}
plan sym40 --take 0:200 --kind sym --p 0.4
plan sym0 --take 0:200 --kind sym --p 0
plan few-sym30 --take 0:100 --kind sym --p 0.3

# 3. All rules, tuned and trained on three seeds; the test images are looked at when all is done.
settings=(--model conv3 --data "$out/train" --batch 100 --lr 0.1 --schedule step --milestones 0.75,0.875 --clip 0)
clean=(--val "classes:$out/dev" --val-take 0:50)
law=(--stages 8 --warm-up 1 --episodes 40)
facekit autoweight compare "${settings[@]}" "${clean[@]}" "${law[@]}" --take 0:200 --epochs 24 --crop 2 --noise-plan "$out/sym40-0.npz" \
    --search-plan "$out/sym40-100.npz" --clean "$out/dev" --clean-take 0:50 --tune 8 --test "classes:$out/test" --out "$out/sym40" \
    --rows uniform,uniform+clean,clean_only,focal,self_paced,small_loss,coteaching,l2rw,mwnet,fixed,random,law
facekit autoweight compare "${settings[@]}" "${clean[@]}" "${law[@]}" --take 0:100 --epochs 60 --no-flip --noise-plan "$out/few-sym30-0.npz" \
    --search-plan "$out/few-sym30-100.npz" --tune 6 --test "classes:$out/test" --out "$out/few-sym30" \
    --rows uniform,clean_only,focal,self_paced,small_loss,fixed,random,law
facekit autoweight show "$out/few-sym30/search/policy.json"

# 4. The policy of 40 % noise where there is none.
facekit autoweight compare "${settings[@]}" --take 0:200 --epochs 24 --crop 2 --noise-plan "$out/sym0-0.npz" \
    --policy "$out/sym40/search/policy.json" --test "classes:$out/test" --out "$out/sym0" \
    --rows uniform,focal,self_paced,small_loss,fixed,random,law
