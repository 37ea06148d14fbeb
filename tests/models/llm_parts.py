"""Tiny language models of transformers' own classes, for what is done to any of them."""

from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM

SIZE = dict(
    vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0, head_dim=16,
)  # fmt: skip
COMMON = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZE)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SIZE)),  # one layer for queries, keys and values
}
