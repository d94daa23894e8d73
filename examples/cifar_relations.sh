#!/usr/bin/env bash
# Relations and routes on a closed set: KD, hint, SP, RKD, every CC, batches of classes, RCO with its control.
# Usage: bash examples/cifar_relations.sh DATA [OUT]
#   DATA   holds cifar10/train.tar and cifar10/test.tar (class folders of 32x32 images)
#   OUT    default runs/cifar; packed images, one run for each arm and seed, comparisons
#   SEEDS="0 1 2"  SIDE=16  TEACHER=resnet14  STUDENT=resnet8  EPOCHS=20
#   On a GPU: SIDE=32 TEACHER=resnet56 STUDENT=resnet20 EPOCHS=200
# The defaults take hours on two CPU cores, some two minutes for a run. Run it again: what is done is skipped, what was cut
# goes on.
set -euo pipefail

data=$1
out=${2:-runs/cifar}
seeds=${SEEDS:-0 1 2}
side=${SIDE:-16}
network=${TEACHER:-resnet14}
student=${STUDENT:-resnet8}
epochs=${EPOCHS:-20}

# 1. 1,000 images of each class to train on, 500 others to choose by, the test images.
pack() {
    [ -d "$out/$1" ] ||
        facekit data pack --data "$data/cifar10/$2" --kind uint8 --size "$side" --out "$out/$1" "${@:3}"
}
pack train train.tar --take 500:1500
pack dev train.tar --take :500
pack test test.tar

# 2. The teacher, every state of its way kept.
settings=(--data "$out/train" --batch 128 --lr 0.1 --clip 0 --resume)
facekit route-train record --model "$network" "${settings[@]}" --epochs "$epochs" --save-route 1 \
    --dev "classes:$out/dev" --out "$out/teacher"

# 3. The arms: name, then the options in which they differ.
distill() {
    for seed in $seeds; do
        facekit distill --teacher "$out/teacher" --student "$student" "${settings[@]}" --epochs "$epochs" \
            --seed "$seed" --out "$out/$1-s$seed" "${@:2}"
    done
}
route() {
    for seed in $seeds; do
        facekit route-train run --route "$out/teacher" --student "$student" "${settings[@]}" --method cls+kd \
            --val "$out/dev" --seed "$seed" --out "$out/$1-s$seed" "${@:2}"
    done
}
for seed in $seeds; do
    facekit train --model "$student" "${settings[@]}" --epochs "$epochs" --seed "$seed" --out "$out/ce-s$seed"
done
distill kd --method cls+kd
distill cckd --method cckd
distill hint --method cls+hint --weights cls=1,hint=1
distill sp --method cls+sp --weights cls=1
distill rkd --method cls+rkd --weights cls=1
distill cc.aberhu --method cls+cc.aberhu --weights cls=1
distill cc.tface --method cls+cc.tface --weights cls=1,cc.tface=100
distill cc.torchdistill --method kd+cc.torchdistill --weights kd=1 --tau 1
distill cc.repdistiller --method cls+cc.repdistiller --weights cls=1
distill hint+cc --method cls+hint+cc --weights cls=1,hint=1
distill kd-cur --method cls+kd --sampler cur --per-class 32
distill cckd-cur --method cckd --sampler cur --per-class 32
distill kd-sur --method cls+kd --sampler sur --per-class 4 --superclasses 64
distill cckd-sur --method cckd --sampler sur --per-class 4 --superclasses 64
route rco-eei --epochs $((epochs / 4)) --interval $((epochs / 4))
route rco-restart --epochs $((epochs / 4)) --interval $((epochs / 4)) --control restart
route rco-onestage --epochs "$epochs" --interval $((epochs / 4)) --strategy one-stage
route rco-reversed --epochs $((epochs / 4)) --interval $((epochs / 4)) --control reversed
for control in none restart; do
    route "rco-hint-$control" --epochs $((epochs / 4)) --interval $((epochs / 4)) --method cls+hint --weights cls=1,hint=1 --control "$control"
    route "rco-fcd-$control" --epochs $((epochs / 4)) --interval $((epochs / 4)) --method cls+fcd --weights cls=1,fcd=32 --control "$control"
done
route rco-gs --epochs $((epochs / 4)) --strategy gs --delta 1.5 --max-anchors 4

# 4. One look at the test images: the teacher, then each arm beside its control.
facekit align-eval --model "$out/teacher" --benchmark "classes:$out/test" --out "$out/compare/teacher"
compare() {
    local runs=()
    for arm in "${@:2}"; do
        for seed in $seeds; do runs+=("$out/$arm-s$seed"); done
    done
    facekit runs compare "${runs[@]}" --benchmark "classes:$out/test" --out "$out/compare/$1"
}
compare alone ce kd hint sp rkd cc.aberhu cc.tface cc.repdistiller
compare kd kd cckd kd-cur kd-sur rco-onestage cc.torchdistill
compare cur kd-cur cckd-cur
compare sur kd-sur cckd-sur
compare hint hint hint+cc
compare rco rco-restart rco-eei rco-gs rco-reversed
compare rco-hint rco-hint-restart rco-hint-none
compare rco-fcd rco-fcd-restart rco-fcd-none
