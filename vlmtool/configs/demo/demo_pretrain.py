"""The demo's first stage: the projector alone, on captions and choices. Tiny parts, a minute on two cores."""

from mmengine.config import read_base

with read_base():
    from .._base_.llms.demo_llama import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.vision_encoders.demo_clip import vision_encoder

planned = dict(gpus=0)
llm.update(freeze=True)
vision_encoder.update(freeze=True)
data = dict(
    path="work_dirs/demo/data/pretrain.json",
    image_folder="work_dirs/demo/data/images",
    max_length=256,
    pad_to_square=True,
    num_workers=1,  # two cores: the other one is the model's
)
schedule = dict(lr=8e-3, max_steps=500, batch_size=32, log_every=50)
