"""SmolLM2-135M with SigLIP at 224, pretrain: the projector alone, 1,000 steps of LCS-558K. No GPU, batch 32."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_lcs_558k import data
    from .._base_.llms.smollm2_135m_instruct import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.vision_encoders.siglip_base_p16_224 import vision_encoder

planned = dict(gpus=0)
data.update(max_length=1024)
llm.update(freeze=True)
schedule = dict(lr=1e-3, max_steps=1000, batch_size=8, accumulation=4, save_every=100)
vision_encoder.update(freeze=True)
