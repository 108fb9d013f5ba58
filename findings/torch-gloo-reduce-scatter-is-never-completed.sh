#!/usr/bin/env bash
# torch 2.13.0, process groups of gloo: an asynchronous reduce_scatter never says that it is done.
#
# Work.is_completed() of an asynchronous collective says whether it is done. One would poll it, to
# do something else meanwhile, or to notice a rank that is missing before the timeout.
#
# What happens: that of all_reduce becomes True, and the tensor holds the sum. That of
# reduce_scatter_tensor stays False for ever, after wait() too, and the output is not written before
# wait(): whoever polls waits for ever for what wait() has at once.
#
# Seen:
#   all_reduce: completed True, before wait() 2.0, after it 2.0, then completed True
#   reduce_scatter_tensor: completed False, before wait() 7.0, after it 2.0, then completed False
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0

cat > "$folder/ranks.py" <<'PY'
import os
import time
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

warnings.simplefilter("ignore")  # torch 2.13 has another name for reduce_scatter_tensor
NAMES = ("all_reduce", "reduce_scatter_tensor")
EXPECTED = [
    "all_reduce: completed True, before wait() 2.0, after it 2.0, then completed True",
    "reduce_scatter_tensor: completed False, before wait() 7.0, after it 2.0, then completed False",
]


def polled(name):
    summand, output = torch.ones(2), torch.full((1,), 7.0)
    if name == "all_reduce":
        output = summand
        work = dist.all_reduce(summand, async_op=True)
    else:
        work = dist.reduce_scatter_tensor(output, summand, async_op=True)
    end = time.monotonic() + 5
    while not work.is_completed() and time.monotonic() < end:
        time.sleep(0.01)
    before = work.is_completed(), output[0].item()
    work.wait()
    return (
        f"{name}: completed {before[0]}, before wait() {before[1]}, after it {output[0].item()}, "
        f"then completed {work.is_completed()}"
    )


def rank(number, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    seen = [polled(name) for name in NAMES]
    if number == 0:
        print(*seen, sep="\n")
        assert seen == EXPECTED
    dist.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(rank, (os.path.dirname(os.path.abspath(__file__)),), nprocs=2)
PY
"$folder/venv/bin/python" "$folder/ranks.py"
