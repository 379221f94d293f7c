#!/usr/bin/env bash
# One model of Table 1, stage by stage: train to the end of a stage, evaluate the weights as they are then, go on.
# Resumable: run it again after an interruption, or with more stages. A stage whose result exists is not done again.
#
#   studies/iwae_table1/run.sh vae-k1 8        # all 3,280 passes; 5 stages are 121, 4 are 40, 3 are 13
#   IMAGES=1000 studies/iwae_table1/run.sh iwae-k50 3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
vaelid=${VAELID:-.venv/bin/vaelid}
model=${1:?vae-k1 or iwae-k50}
stages=${2:-8}
images=${IMAGES:-10000}
study=studies/iwae_table1
results=${RESULTS:-$study/results}
run=${RUNS:-runs}/iwae-table1-$model
mkdir -p "$results"

passes=0
for ((stage = 0; stage < stages; stage++)); do
  passes=$((passes + 3 ** stage))
  result=$results/$model-stage$stage-first$images.json
  if [[ -s $result ]]; then continue; fi
  # Never back: vaelid refuses fewer epochs than are done, so no later stage's weights can be taken for this one's.
  $vaelid train --recipe "$study/$model.toml" --epochs "$passes" --device cpu --out "$run"
  $vaelid evaluate "$run" --samples 5000 --limit "$images" --device cpu --json >"$result.part"
  mv "$result.part" "$result"
  cp "$run/metrics.jsonl" "$results/$model-metrics.jsonl"
  cp "$run/environment.json" "$results/$model-environment.json"
done
