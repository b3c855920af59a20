#!/usr/bin/env bash
# PyYAML 6.0.4: with merge keys in a chain (<<: of a mapping that has a merge key itself and overrides an entry) the
# overridden value comes back if the key has one letter, and the overriding one if it has two: {x: 1, y: 2} overridden
# by y: 3 and merged again gives y = 2, with `yy` in place of `y` it gives 3. Nothing is reported. YAML's merge type
# wants 3 both times.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q pyyaml==6.0.4
"$folder/env/bin/python" - <<'PYTHON'
import yaml

text = "first: &first {{x: 1, {key}: 2}}\nsecond: &second {{<<: *first, {key}: 3}}\nthird: {{<<: *second}}\n"
seen = {key: yaml.safe_load(text.format(key=key))["third"][key] for key in ("y", "yy")}
print("PyYAML", yaml.__version__, "value of the key that was overridden by 3:", seen)
assert seen == {"y": 2, "yy": 3}
PYTHON
