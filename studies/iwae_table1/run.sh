#!/usr/bin/env bash
# One model of Table 1, stage by stage: train to the end of a stage, put a copy of the run aside, evaluate the copy, go on.
# Resumable: run it again after an interruption, with more stages, or with more test images; what is there is not done again.
#
#   studies/iwae_table1/run.sh vae-k1 8                     # all 3,280 passes; 3, 4, 5 stages are 13, 40, 121
#   IMAGES=1000 studies/iwae_table1/run.sh iwae-k50 3       # the first 1,000 test images only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
vaelid=${VAELID:-.venv/bin/vaelid}
model=${1:?vae-k1, iwae-k50 or iwae-k50-static}
stages=${2:-8}
images=${IMAGES:-10000}
study=studies/iwae_table1
results=${RESULTS:-$study/results}
run=${RUNS:-runs}/iwae-table1-$model
mkdir -p "$results"

passes=0
for ((stage = 0; stage < stages; stage++)); do
  passes=$((passes + 3 ** stage))
  end=$run-stage$stage
  result=$results/$model-stage$stage-first$images.json
  if [[ ! -d $end ]]; then
    # Never back: vaelid refuses fewer epochs than are done, so no later stage's weights can be taken for this one's.
    $vaelid train --recipe "$study/$model.toml" --epochs "$passes" --device cpu --out "$run"
    rm -rf "$end.part"
    cp -r "$run" "$end.part"
    mv "$end.part" "$end"
    cp "$run/metrics.jsonl" "$results/$model-metrics.jsonl"
    cp "$run/environment.json" "$results/$model-environment.json"
  fi
  if [[ ! -s $result ]]; then
    $vaelid evaluate "$end" --samples 5000 --limit "$images" --device cpu --json >"$result.part"
    mv "$result.part" "$result"
  fi
done
