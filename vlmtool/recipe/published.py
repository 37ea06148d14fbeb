"""Shapes of the checkpoints that the shipped recipes name, as their own config files publish them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LLMShape:
    """A decoder of gated feed-forward layers, with queries as wide as its hidden states."""

    hidden: int
    layers: int
    intermediate: int
    key_width: int
    """Key heads times the width of a head; values have the same."""
    vocabulary: int
    tied: bool = False
    """The output head is the table of embeddings."""

    @property
    def layer(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a block."""
        narrow, wide = (self.hidden, self.key_width), (self.hidden, self.intermediate)
        square = (self.hidden, self.hidden)
        return {
            "q_proj": square, "k_proj": narrow, "v_proj": narrow, "o_proj": square,
            "gate_proj": wide, "up_proj": wide, "down_proj": wide[::-1],
        }  # fmt: skip

    @property
    def other_weights(self) -> int:
        """Embeddings and head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True)
class EncoderShape:
    """A vision transformer."""

    hidden: int
    layers: int
    intermediate: int
    other_weights: int
    """All but the linear layers of the blocks: patches, positions, a pooling head."""

    @property
    def layer(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a block."""
        wide = (self.hidden, self.intermediate)
        attention = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), (self.hidden, self.hidden))
        return {**attention, "fc1": wide, "fc2": wide[::-1]}


LLMS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": LLMShape(576, 30, 1536, 192, 49152, tied=True),
    "Qwen/Qwen-7B-Chat": LLMShape(4096, 32, 11008, 4096, 151936),
    "Qwen/Qwen2.5-0.5B-Instruct": LLMShape(896, 24, 4864, 128, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": LLMShape(1536, 28, 8960, 256, 151936, tied=True),
    "Qwen/Qwen2.5-7B-Instruct": LLMShape(3584, 28, 18944, 512, 152064),
    "XiaoduoAILab/Xmodel_LM": LLMShape(2048, 24, 5632, 256, 32000),
    "internlm/internlm-chat-7b": LLMShape(4096, 32, 11008, 4096, 103168),
    "internlm/internlm2-chat-1_8b": LLMShape(2048, 24, 8192, 1024, 92544),
    "internlm/internlm2-chat-20b": LLMShape(6144, 48, 16384, 1024, 92544),
    "internlm/internlm2-chat-7b": LLMShape(4096, 32, 14336, 1024, 92544),
    "lmsys/vicuna-13b-v1.5": LLMShape(5120, 40, 13824, 5120, 32000),
    "lmsys/vicuna-7b-v1.5": LLMShape(4096, 32, 11008, 4096, 32000),
    "meta-llama/Meta-Llama-3-70B-Instruct": LLMShape(8192, 80, 28672, 1024, 128256),
    "meta-llama/Meta-Llama-3-8B-Instruct": LLMShape(4096, 32, 14336, 1024, 128256),
    "microsoft/Phi-3-mini-4k-instruct": LLMShape(3072, 32, 8192, 3072, 32064),
    "vlmtool://demo/assets/llm": LLMShape(128, 4, 256, 128, 518, tied=True),
}
ENCODERS = {
    "facebook/dinov2-large": EncoderShape(1024, 24, 4096, 2_400_000),
    "google/siglip-base-patch16-224": EncoderShape(768, 12, 3072, 7_900_000),
    "google/siglip-so400m-patch14-384": EncoderShape(1152, 27, 4304, 17_200_000),
    "google/siglip2-so400m-patch14-384": EncoderShape(1152, 27, 4304, 17_200_000),
    "google/siglip2-so400m-patch16-naflex": EncoderShape(1152, 27, 4304, 16_800_000),
    "openai/clip-vit-large-patch14": EncoderShape(1024, 24, 4096, 1_200_000),
    "openai/clip-vit-large-patch14-336": EncoderShape(1024, 24, 4096, 1_500_000),
    "vlmtool://demo/assets/vision_encoder": EncoderShape(192, 4, 512, 160_000),
}
