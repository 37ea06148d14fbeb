"""The installed deepspeed runs here: ZeRO-2 takes the steps that plain AdamW takes. In a process of its own."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, torch, deepspeed
deepspeed.init_distributed(dist_backend="gloo")
torch.manual_seed(0)
data = [(torch.randn(8, 64), torch.randn(8, 4)) for _ in range(4)]

def model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))

plain = model()
optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
expected = []
for x, y in data:
    loss = torch.nn.functional.mse_loss(plain(x), y)
    optimizer.zero_grad(); loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0); optimizer.step()
    expected.append(loss.item())

own = model()
config = {"train_batch_size": 8, "zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}
config["zero_allow_untested_optimizer"] = True
engine, *_ = deepspeed.initialize(model=own, optimizer=torch.optim.AdamW(own.parameters(), lr=1e-2), config=config)
found = []
for x, y in data:
    loss = torch.nn.functional.mse_loss(engine(x), y)
    engine.backward(loss); engine.step()
    found.append(loss.item())
print("RESULT", json.dumps([expected, found]))
"""


def test_zero2_on_a_cpu_equals_plain_adamw():
    environment = {
        **os.environ, "DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    expected, found = json.loads(line.removeprefix("RESULT"))
    assert found == pytest.approx(expected, rel=1e-5)
