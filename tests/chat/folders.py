"""Model folders as vlmtool and XTuner write them, of the tiny parts."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel, LlamaForCausalLM

from vlmtool.models.fingerprint import part_hash
from vlmtool.models.folder import save_projector
from vlmtool.models.manifest import EncoderPart, Manifest, MergedAdapter, Part, PartManifest, Template, write_manifest
from vlmtool.models.projectors.mlp import MLPProjector

MLP = "vlmtool.models.projectors.mlp.MLPProjector"


@dataclass(frozen=True)
class Folders:
    """A vlmtool folder with both adapters, its bases, and the bases with the adapters merged in."""

    llm: Path
    vision: Path
    model: Path
    merged_llm: Path
    merged_vision: Path


def with_lora(part: torch.nn.Module, modules: list[str], layers: list[int] | None = None, **options) -> PeftModel:
    """Adapters whose weights are not zero, so that they change the answers."""
    torch.manual_seed(7)
    config = LoraConfig(r=2, target_modules=modules, layers_to_transform=layers, **options)
    model = get_peft_model(part, config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight.data, std=0.3)
    return model


def write_projector(folder: Path) -> None:
    torch.manual_seed(5)
    config = {"type": MLP, "vision_hidden_size": 64, "llm_hidden_size": 64, "options": {"depth": 2}}
    save_projector(folder, config, MLPProjector(64, 64).state_dict())


def write_folders(root: Path, llm: Path, vision: Path) -> Folders:
    model = root / "model"
    llm_lora = with_lora(LlamaForCausalLM.from_pretrained(llm), ["q_proj", "v_proj"], task_type="CAUSAL_LM")
    llm_lora.save_pretrained(model / "llm_adapter")
    vision_lora = with_lora(CLIPVisionModel.from_pretrained(vision), ["q_proj", "v_proj"], layers=[0, 1])
    vision_lora.save_pretrained(model / "visual_encoder_adapter")
    write_projector(model / "projector")
    for folder in (llm, vision):
        for file in folder.iterdir():
            if file.suffix != ".safetensors" and file.name not in ("config.json", "generation_config.json"):
                shutil.copy(file, model)
    write_manifest(
        model,
        Manifest(
            llm=Part(base=str(llm), sha256=part_hash(llm), adapter="llm_adapter"),
            vision_encoder=EncoderPart(
                base=str(vision), sha256=part_hash(vision), adapter="visual_encoder_adapter", select_layer=-2
            ),
            template=Template(name="tiny", stop_words=("###",)),
            pad_to_square=True,
        ),
    )
    merged_llm = write_merged(root / "merged_llm", "llm", llm_lora, llm, model / "llm_adapter")
    merged_vision = write_merged(
        root / "merged_vision", "vision_encoder", vision_lora, vision, model / "visual_encoder_adapter"
    )
    return Folders(llm, vision, model, merged_llm, merged_vision)


def write_merged(folder: Path, part: str, lora: PeftModel, base: Path, adapter: Path) -> Path:
    """What `convert merge BASE ADAPTER` writes."""
    lora.merge_and_unload().save_pretrained(folder)
    merged = (MergedAdapter(sha256=part_hash(adapter)),)
    write_manifest(folder, PartManifest(part=part, base=str(base), sha256=part_hash(base), merged=merged))
    return folder


def write_xtuner_folder(folder: Path, folders: Folders) -> Path:
    """The same model as XTuner 0.1.23 with transformers 4 writes it: no manifest, CLIP's keys below `vision_model.`."""
    shutil.copytree(folders.model / "llm_adapter", folder / "llm_adapter")
    shutil.copytree(folders.model / "visual_encoder_adapter", folder / "visual_encoder_adapter")
    file = folder / "visual_encoder_adapter" / "adapter_model.safetensors"
    old = {name.replace("model.encoder", "model.vision_model.encoder"): v for name, v in load_file(file).items()}
    save_file(old, file)
    shutil.copytree(folders.model / "projector", folder / "projector")
    config = {
        "_name_or_path": "x", "architectures": ["ProjectorModel"], "auto_map": {"AutoModel": "no_such_code.Projector"},
        "visual_hidden_size": 64, "llm_hidden_size": 64, "depth": 2, "hidden_act": "gelu", "bias": True,
    }  # fmt: skip
    (folder / "projector" / "config.json").write_text(json.dumps(config))
    return folder
