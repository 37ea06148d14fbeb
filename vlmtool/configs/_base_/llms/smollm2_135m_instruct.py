# ChatML, as Qwen's.
llm = dict(path="HuggingFaceTB/SmolLM2-135M-Instruct", template="qwen_chat")
