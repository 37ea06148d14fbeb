"""Basic-VLM Qwen-7B with SigLIP: LoRA and projector in one stage, AI Challenger's Chinese captions. 1 GPU, batch 4."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.ai_challenger import data
    from .._base_.llms.qwen_7b_chat import llm
    from .._base_.projectors.mlp2x_gelu import projector
    from .._base_.vision_encoders.siglip_so400m_p14_384 import vision_encoder

planned = dict(gpus=1)
# The original's c_attn, w1 and w2.
llm.update(
    lora=dict(r=128, alpha=32, dropout=0.1, target_modules=("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"))
)
projector.update(lr=1e-4)
schedule = dict(lr=3e-5, epochs=2.0, batch_size=4, decay="linear", warmup_ratio=0.0, save_every=1000)
vision_encoder.update(freeze=True, select_layer=-1)  # all 729 patches: the original lost one as if it were CLS
