# ChatML, as Qwen's.
llm = dict(path="HuggingFaceTB/SmolLM2-1.7B-Instruct", template="qwen_chat")
