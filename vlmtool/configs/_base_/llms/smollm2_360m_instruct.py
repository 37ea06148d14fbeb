# ChatML, as Qwen's.
llm = dict(path="HuggingFaceTB/SmolLM2-360M-Instruct", template="qwen_chat")
