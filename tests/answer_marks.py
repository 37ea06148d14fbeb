"""What each shipped template prints between {% generation %} and {% endgeneration %}, around the answer."""

# Learned with the answer: (before, after). "</s>" is the EOS of the tokenizers made here.
AROUND = {
    "baichuan2_chat": ("", "</s>"),
    "baichuan_chat": ("", "</s>"),
    "chatglm2": ("", "</s>"),
    "chatglm3": ("", "</s>"),
    "code_llama_chat": (" ", "</s>"),
    "cohere_chat": ("", "<|END_OF_TURN_TOKEN|>"),
    "deepseek_coder": ("", "</s>"),
    "deepseek_moe": (" ", "</s>"),
    "deepseek_v2": (" ", "<｜end▁of▁sentence｜>"),
    "deepseekcoder": ("", "</s>"),
    "default": ("", "</s>"),
    "gemma": ("", "<end_of_turn>"),
    "glm4_chat": ("", "<|user|>"),
    "internlm2_chat": ("", "<|im_end|>"),
    "internlm_chat": ("", "<eoa>"),
    "llama2_chat": (" ", "</s>"),
    "llama3_chat": ("", "<|eot_id|>"),
    "minicpm": ("", "</s>"),
    "mistral": (" ", "</s>"),
    "mixtral": (" ", "</s>"),
    "moss_sft": ("", "</s>"),
    "phi3_chat": ("", "<|end|>"),
    "plain": ("", "</s>"),
    "qwen_chat": ("", "<|im_end|>"),
    "vicuna": (" ", "</s>"),
    "wizardcoder": ("", "</s>"),
    "wizardlm": (" ", "</s>"),
    "zephyr": ("", "</s>"),
}
# These begin with no BOS token of the tokenizer: ChatML of Qwen has none, GLM's begin is two tokens of its own.
WITHOUT_BOS = {"qwen_chat": "", "chatglm2": "[gMASK]sop", "chatglm3": "[gMASK]sop", "glm4_chat": "[gMASK]<sop>"}
