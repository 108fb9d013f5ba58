#!/usr/bin/env bash
# transformers 5.24.0: a whole number in config.json, for a field that is a float.
#
# JSON has one kind of number, and programs that change a config.json may write 7.0 as 7 (JavaScript
# and Go do). One would expect the model that has it to load as before, as an int is taken for a
# float in Python (and by its type checkers), and was by transformers 4.57.
#
# What happens: configuration classes check types strictly, and whether a field takes an int depends
# on how its class declares it, which differs between classes for the same field: attention_dropout
# may be 0 in a DeepSeek-V3, not in a DeepSeek-V2. Of the classes with experts more than half refuse
# what they saved themselves, once whole numbers have no point.
#
# Seen:
#   4.57.6: of 30 classes with experts, 0 refuse what they saved, without points
#   5.24.0: of 79 classes with experts, 42 refuse what they saved, without points
#     mixtral: Field 'router_jitter_noise' expected float, got int (value: 0)
#     gpt_oss: Field 'swiglu_limit' expected float, got int (value: 7)
#     glm4_moe: Field 'routed_scaling_factor' expected float, got int (value: 1)
#     deepseek_v3: {'attention_dropout': 0} is taken
#     deepseek_v2: Field 'attention_dropout' expected float, got int (value: 0)
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/reload.py" <<'PY'
import json
import re
import tempfile
from pathlib import Path

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

EXPERTS = {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}
DROPOUT = {"attention_dropout": 0}


def without_point(number):
    return int(float(number)) if float(number).is_integer() else float(number)


def reload(kind, values):
    """Why the class refuses the values as JSON: None if it takes them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(values))
        try:
            kind.from_pretrained(folder)
        except Exception as error:
            return str(error)


def reason(why):
    return re.search(r"Field '\w+' expected float, got int \(value: \d+\)", why).group()


count, refused = 0, {}
for name in CONFIG_MAPPING:
    kind = CONFIG_MAPPING[name]
    try:
        config = kind()
    except Exception:  # there is none by default
        continue
    text = config.to_json_string(use_diff=False)
    if EXPERTS & json.loads(text).keys():
        count += 1
        assert reload(kind, json.loads(text)) is None, name
        why = reload(kind, json.loads(text, parse_float=without_point))
        if why is not None:
            refused[name] = why
print(
    f"{transformers.__version__}: of {count} classes with experts, {len(refused)} refuse what they "
    "saved, without points"
)
if refused:
    for name in ("mixtral", "gpt_oss", "glm4_moe"):
        print(f"  {name}: {reason(refused[name])}")
    for name in ("deepseek_v3", "deepseek_v2"):
        why = reload(CONFIG_MAPPING[name], DROPOUT)
        print(f"  {name}: {f'{DROPOUT} is taken' if why is None else reason(why)}")
PY
for versions in "4.57.6 0.36.2" "5.24.0 2.4.0"; do
  read -r version hub <<< "$versions"
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
    "transformers==$version" "huggingface-hub==$hub"
  "$folder/$version/bin/python" "$folder/reload.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
4.57.6: of 30 classes with experts, 0 refuse what they saved, without points
5.24.0: of 79 classes with experts, 42 refuse what they saved, without points
  mixtral: Field 'router_jitter_noise' expected float, got int (value: 0)
  gpt_oss: Field 'swiglu_limit' expected float, got int (value: 7)
  glm4_moe: Field 'routed_scaling_factor' expected float, got int (value: 1)
  deepseek_v3: {'attention_dropout': 0} is taken
  deepseek_v2: Field 'attention_dropout' expected float, got int (value: 0)
SEEN
