"""The projector in this folder."""

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from .configuration_projector import ProjectorConfig


class ProjectorModel(PreTrainedModel):
    """Linear layers with an activation between them; weights are named `model.0`, `model.2`, … ."""

    config_class = ProjectorConfig
    base_model_prefix = "model"

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = [nn.Linear(config.visual_hidden_size, config.llm_hidden_size, bias=config.bias)]
        for _ in range(config.depth - 1):
            linear = nn.Linear(config.llm_hidden_size, config.llm_hidden_size, bias=config.bias)
            layers += [ACT2FN[config.hidden_act], linear]
        self.model = nn.Sequential(*layers)
        self.post_init()

    def forward(self, patch_features: Tensor) -> Tensor:
        """(I, N, visual_hidden_size) → (I, N, llm_hidden_size)."""
        return self.model(patch_features)
