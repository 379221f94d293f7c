#!/usr/bin/env bash
# The assignment's learning-rate study from fresh weights, three seeds each. Resumable over several sittings, also on a new machine:
# what results/ holds is put back first, only the missing members are trained, and what has ended is put aside when the script ends,
# however it ends (Ctrl-C and SIGTERM included).
#
#   studies/learning_rates/run.sh
#   JOBS=2 HEAVY=/a/place/that/lasts studies/learning_rates/run.sh    # weights and unfinished members, too: they then go on elsewhere
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
vaelid=${VAELID:-.venv/bin/vaelid}
python=${PYTHON:-.venv/bin/python}
here=studies/learning_rates
out=${RUNS:-runs}/learning-rates
archive=${ARCHIVE:-$here/results}
heavy=(${HEAVY:+--heavy "$HEAVY"})
study=(study "${DATA:-mnist}" --recipe "${RECIPE:-assignment}" --seeds "${SEEDS:-3}" --jobs "${JOBS:-2}" --device cpu)
study+=(--engine "${ENGINE:-compile}" --out "$out")  # without a C++ compiler eager takes its place, a third slower

save() { [[ ! -f $out/study.json ]] || "$python" $here/archive.py save "$out" --archive "$archive" "${heavy[@]}"; }
trap save EXIT
if [[ -f $archive/study.json ]]; then
  "$python" $here/archive.py restore "$out" --archive "$archive" "${heavy[@]}"
fi

# Until the patience of the recipe runs out (20 epochs), or it diverges; lr = 1e-3, the assignment's own, is the reference.
"$vaelid" "${study[@]}" --grid lr=1e-3,1e-2 --no-evaluate ${EPOCHS:+--epochs "$EPOCHS"}
# So slow that its patience does not run out: 200 epochs. Then the choice, by validation, and one look at the test split.
"$vaelid" "${study[@]}" --grid lr=1e-5 --epochs "${SLOW_EPOCHS:-200}" --samples "${SAMPLES:-5000}"
