"""SmolLM2-135M with SigLIP at 224, finetune: the whole LLM, 2,000 steps of the 665k mixture. No GPU, batch 32."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.smollm2_135m_instruct import llm
    from .laptop_smollm2_135m_pretrain import planned, projector, schedule, vision_encoder

init_from = "work_dirs/laptop_smollm2_135m_pretrain"  # its last checkpoint
data.update(max_length=1024)
llm.update(freeze=False)
schedule.update(lr=1e-4, max_steps=2000)
