#!/usr/bin/env bash
# A sweep: every arm of the table below with every seed, each measured once, then listed and compared with the first arm.
# Usage: bash examples/sweep.sh TEACHER FACES LIST [OUT]
#   TEACHER  run folder, .pt, .safetensors or .onnx
#   FACES    images to learn from; the people of LIST are left out
#   LIST     pairs of people to measure on, with images/ beside it: dev people while you choose among arms;
#            take the test people once, for the arms you have settled on
#   OUT      default runs/sweep; a run is OUT/<arm>-<seed>
# Run it again to continue: what is done is skipped, what was cut goes on where it stopped, what failed is tried again.
#   SEEDS="0 1 2" EPOCHS=20 STUDENT=mbf_half   what is trained
#   OPTIONS="--batch 32 --clip 0"              further options of facekit distill, for all arms
#   BUDGET_S=3600                              stop after so many seconds
#   ARMS="$(cat arms.txt)"                     another table
# Exit codes: 0 all done, 1 something failed (the rest went on), 3 time is up, 130/143 stopped.
set -o pipefail

teacher=${1:?usage: bash examples/sweep.sh TEACHER FACES LIST [OUT]}
faces=${2:?the folder of faces to learn from is missing}
list=${3:?the pair list to measure on is missing}
out=${4:-runs/sweep}
student=${STUDENT:-mbf_half}
epochs=${EPOCHS:-20}
benchmark=allpairs:$list

# One arm a line, "name: options of facekit distill"; the first is the control.
arms=${ARMS:-$(cat <<'TABLE'
fcd:       --method fcd
couple:    --method coupleface
couple300: --method coupleface --weights rad=300
random:    --method coupleface --mining random
TABLE
)}

common=()
options=()
budget=()
finished=()
unfinished=()
failed=()
stop=0
trap 'stop=130' INT     # facekit gets the signal too, saves and leaves; the script waits for it
trap 'stop=143' TERM

train() {  # FOLDER SEED: at once done if it was
    facekit distill --teacher "$teacher" --student "$student" --epochs "$epochs" --seed "$2" --data "$faces" \
        --exclude "$list" --out "$1" --resume "${budget[@]}" "${common[@]}" "${options[@]}"
}

measure() {  # FOLDER: once
    [ -e "$1/results/results.json" ] ||
    facekit align-eval --model "$1" --benchmark "$benchmark" --out "$1/results" > "$1/results.txt"
}

read -ra common <<<"$OPTIONS"
while IFS=: read -r arm words <&3; do
    [ -n "$arm" ] || continue
    control=${control:-$arm}
    read -ra options <<<"$words"
    for seed in ${SEEDS:-0 1 2}; do
        run=$out/$arm-$seed
        if [ -n "$BUDGET_S" ]; then
            budget=(--budget-s $((BUDGET_S - SECONDS)))
            [ "$SECONDS" -lt "$BUDGET_S" ] || stop=3
        fi
        if [ "$stop" -ne 0 ]; then
            unfinished+=("$run")
            continue
        fi
        echo "== $run" >&2
        train "$run" "$seed" && measure "$run"
        code=$?
        case $code in
            0) finished+=("$run") ;;
            3 | 130 | 143) unfinished+=("$run"); stop=$code ;;
            *) failed+=("$run (exit code $code)") ;;
        esac
    done
done 3<<<"$arms"

[ ! -d "$out" ] || facekit runs list "$out"
if [ "$stop" -lt 128 ] && [ "${#finished[@]}" -gt 1 ] && [[ ${finished[0]} == "$out/$control-"* ]]; then
    facekit runs compare "${finished[0]}" "${finished[@]:1}" --benchmark "$benchmark" --gallery "$teacher" \
        --out "$out/compare" || failed+=("the comparison (exit code $?)")
fi
for run in "${unfinished[@]}"; do echo "unfinished: $run" >&2; done
for run in "${failed[@]}"; do echo "failed: $run" >&2; done
if [ "$stop" -lt 128 ] && [ "${#failed[@]}" -gt 0 ]; then exit 1; fi
exit "$stop"
