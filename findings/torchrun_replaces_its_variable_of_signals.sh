#!/usr/bin/env bash
# torchrun of torch 2.14.1: the environment variable TORCHELASTIC_SIGNALS_TO_HANDLE, which the agent reads to know the signals
# that it passes on, does nothing when set: torchrun overwrites it with the default of its own option --signals-to-handle. The
# variable that works is PET_SIGNALS_TO_HANDLE. (A signal that is not among them ends the agent and leaves its processes.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy
cd "$folder"
cat > told.py <<'PYTHON'
import os

print(os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"])
PYTHON
run() { env "$1=SIGTERM,SIGUSR1" "$folder/env/bin/torchrun" --nproc-per-node 1 told.py 2>"$folder/errors" | tail -n 1; }
one=$(run TORCHELASTIC_SIGNALS_TO_HANDLE)
other=$(run PET_SIGNALS_TO_HANDLE)
echo "TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGUSR1: the agent handles $one"
echo "PET_SIGNALS_TO_HANDLE=SIGTERM,SIGUSR1: the agent handles $other"
[ "$one" = SIGTERM,SIGINT,SIGHUP,SIGQUIT ] && [ "$other" = SIGTERM,SIGUSR1 ]
