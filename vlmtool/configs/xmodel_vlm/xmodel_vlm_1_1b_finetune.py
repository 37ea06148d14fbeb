"""Xmodel-VLM 1.1B, finetune: the whole LLM; 665k mixture, where its script names LCS-558K. 4 GPUs, batch 32."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_mix665k import data
    from .._base_.llms.xmodel_lm_1_1b import llm
    from .xmodel_vlm_1_1b_pretrain import planned, projector, runtime, schedule, vision_encoder

init_from = "work_dirs/xmodel_vlm_1_1b_pretrain"  # its last checkpoint
llm.update(freeze=False)
schedule.update(lr=4e-5, batch_size=8)
